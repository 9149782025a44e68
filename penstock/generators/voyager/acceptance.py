"""Which items of a batch enter, decided in one process and in a fixed order.

    no item, blank, not Unicode      -> item        before anything is asked of it
    a gate has a reason              -> gate name   in the order of the gates, each over what those before let pass
    no embedding                     -> embedding
    a copy of an accepted item       -> duplicate   exact or near, over everything accepted (``near``)
    the set is full                  -> surplus
    gain(w | anchors) < threshold    -> diversity   low_gain
    else it is accepted and an anchor at once

Garbage is far from all else, so it would have the largest gains: that is why the gates come first. Explorers are told
about ``duplicate`` and ``diversity`` alone; the other stages say nothing of what is too much alike.

Gains are float64: det K(A + w) / det K(A) by the Cholesky factor of ``diversity.factor``. A batch of B with k anchors
costs one matrix of (k + B)^2 kernel values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from penstock.diversity.factor import AnchorFactor
from penstock.diversity.greedy import greedy_map
from penstock.diversity.kernels import Gram
from penstock.diversity.sampling import kdpp
from penstock.generators.gates.passing import Examiner, judged
from penstock.generators.items import Gate
from penstock.generators.voyager.kernel import Embeddings, RunKernel, words
from penstock.generators.voyager.near import Print, Seen, prints_of
from penstock.generators.voyager.records import Decision
from penstock.generators.voyager.settings import Prune

# stages, beside the names of gates
ITEM, EMBEDDING, DUPLICATE = "item", "embedding", "duplicate"
SURPLUS, DIVERSITY, SAMPLE = "surplus", "diversity", "sample"
ALIKE = (DUPLICATE, DIVERSITY)  # what explorers are told about


class Candidate(NamedTuple):
    """An item that passed what needs no other item, or the decision that dropped it."""

    decision: Decision
    known: Print | None  # None where it is dropped


async def screened(
    proposed: Sequence[Decision], gates: Sequence[Gate | Examiner], embeddings: Embeddings
) -> list[Candidate]:
    """Items after the stages that look at each alone, in their order; gates and embedder see many at once.

    Raises:
        BudgetError: from a gate that asks a model.
    """
    decided = [_without_item(one) for one in proposed]
    left = [place for place, one in enumerate(decided) if one.accepted]
    for place, found in zip(left, await judged(gates, [decided[place].item for place in left]), strict=True):
        decided[place] = replace(decided[place], item=found.item, stage=found.gate, reason=found.reason)
    left = [place for place in left if decided[place].accepted]
    vectors = embeddings.of([decided[place].item.text for place in left])
    for place, vector in zip(left, vectors, strict=True):
        if vector.any():
            decided[place] = replace(decided[place], vector=vector)
        else:
            decided[place] = replace(decided[place], stage=EMBEDDING, reason="no_embedding")
    left = [place for place in left if decided[place].accepted]
    prints = dict(zip(left, prints_of([decided[place].item for place in left]), strict=True))
    return [Candidate(one, prints.get(place)) for place, one in enumerate(decided)]


def _without_item(one: Decision) -> Decision:
    """A decision whose item is none at all is dropped."""
    if one.item.invalid is not None:
        return replace(one, stage=ITEM, reason=one.item.invalid)
    if not one.item.text.strip():
        return replace(one, stage=ITEM, reason="empty")
    try:
        (one.item.text + (one.item.answer or "")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as broken JSON escapes give
        return replace(one, stage=ITEM, reason="not_unicode")
    return one


@dataclass
class Acceptance:
    """The set so far and its anchors.

    Attributes:
        count: the set is full with so many.
        limit: anchors that pruning leaves.
        anchors: accepted items, in order of acceptance.
        total: items accepted.
        known: what was there before (``known``): anchors as well, which pruning leaves alone.
    """

    seen: Seen
    count: int
    limit: int
    prune: Prune
    anchors: list[Decision]
    total: int = 0
    known: Sequence[Decision] = ()

    @property
    def full(self) -> bool:
        return self.total >= self.count

    def admit(self, batch: Sequence[Candidate], kernel: RunKernel | None, threshold: float | None) -> list[Decision]:
        """Decisions about the items of one batch, in their order; the accepted ones are anchors afterwards.

        Args:
            kernel, threshold: both None where every item passes.
        """
        fresh = [one for one in batch if one.known is not None]
        gains = _Gains(kernel, [*self.known, *self.anchors], fresh) if kernel is not None and fresh else None
        return [self._decided(one, gains, threshold) for one in batch]

    def _decided(self, candidate: Candidate, gains: _Gains | None, threshold: float | None) -> Decision:
        decision, known = candidate
        if known is None:
            return decision
        ids = [one.item_id for one in (*self.known, *self.anchors)]
        decision = replace(decision, threshold=threshold, anchors=fingerprint(ids))
        copy = self.seen.find(known)
        if copy is not None:
            return replace(decision, stage=DUPLICATE, reason=copy.reason, nearest=copy.item_id)
        if self.full:
            return replace(decision, stage=SURPLUS, reason=SURPLUS)
        if gains is not None and threshold is not None:
            gain, nearest = gains.of(decision.item_id)
            decision = replace(decision, gain=gain, nearest=nearest)
            if gain < threshold:
                return replace(decision, stage=DIVERSITY, reason="low_gain")
            gains.append(decision.item_id)
        self.take(decision, known)
        return decision

    def take(self, decision: Decision, known: Print) -> None:
        """Make an accepted item part of the set and an anchor."""
        self.seen.add(decision.item_id, known)
        self.anchors.append(decision)
        self.total += 1

    def pruned(self, kernel: RunKernel | None, stream: np.random.Generator) -> None:
        """Leave ``limit`` anchors."""
        if len(self.anchors) <= self.limit:
            return
        if kernel is None or self.prune == "latest":
            self.anchors = self.anchors[-self.limit :]
            return
        matrix = _matrix(kernel, self.anchors)
        if self.prune == "kdpp":
            kept = kdpp(matrix, self.limit, stream).rows.tolist()
        else:
            kept = sorted(greedy_map(matrix, self.limit).picks.tolist())
        self.anchors = [self.anchors[row] for row in kept]


class _Gains:
    """Gains of a batch's candidates over the anchors, which grow while it is decided."""

    def __init__(self, kernel: RunKernel, anchors: Sequence[Decision], candidates: Sequence[Candidate]) -> None:
        rows = [*anchors, *(one.decision for one in candidates)]
        self._ids = [one.item_id for one in rows]
        self._matrix = _matrix(kernel, rows)
        self._factor = AnchorFactor(self._matrix, range(len(anchors)))

    def of(self, item_id: str) -> tuple[float, str | None]:
        """The gain of a candidate, and the anchor that it resembles most."""
        row, anchors = self._ids.index(item_id), self._factor.anchors
        gain = float(self._factor.gains([row])[0])
        if not anchors:
            return gain, None
        return gain, self._ids[anchors[int(np.argmax(self._matrix.matrix[row, anchors]))]]

    def append(self, item_id: str) -> None:
        self._factor.append(self._ids.index(item_id))


def _matrix(kernel: RunKernel, rows: Sequence[Decision]) -> Gram:
    vectors = [one.vector for one in rows if one.vector is not None]
    return kernel.over(vectors, [words(one.item.text) for one in rows])


def fingerprint(item_ids: Sequence[str]) -> str:
    """16 hex digits of ordered ids of anchors."""
    return hashlib.blake2b("\n".join(item_ids).encode(), digest_size=8).hexdigest()
