"""The loop: explorers propose, gates and a determinantal anchor set decide, what is rejected makes new explorers.

    the first sample fits the kernel and the threshold
    round i:  batches  = every explorer proposes                        at the same time
              decide   batch after batch, item after item               in order of rank and position
              prune    the anchors after each batch
              successors = every explorer refines, by what of its batch was too much alike and the anchors at the time
                                                                        at the same time
              explorers  = a k-DPP of the successors' prompts

(Voyager, arXiv 2512.12072.) A batch depends on its explorer and the round alone and a refinement on its batch and a
snapshot of the anchors, so asking at the same time changes nothing: which answer comes first is never looked at. An
explorer that has nothing rejected, or no successor, lives on itself, so there is always one.

A baseline is an explorer with other settings (threshold ``none``, refine ``never``): gates, duplicates and accounting
are the same. It ends

    count      with the item that completes the set
    rounds     after as many as allowed
    patience   after so many rounds in a row that brought nothing
    budget     when nothing more may be asked; the round that could not be finished does not count
    no_items   when no item of the first sample can be used

Every item is accepted or dropped with a stage and a reason, by round and in all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from penstock.diversity.vendi_score import vendi
from penstock.embedding.base import Embedder
from penstock.errors import BudgetError, ConfigError
from penstock.generators.gates.passing import Examiner
from penstock.generators.items import Explorer, Gate, Item
from penstock.generators.voyager import acceptance
from penstock.generators.voyager.acceptance import ALIKE, Acceptance, Candidate, screened
from penstock.generators.voyager.checkpoint import Checkpoint, Saved
from penstock.generators.voyager.kernel import Embeddings, RunKernel, words
from penstock.generators.voyager.known import Known, as_decisions, fingerprint_of, independent
from penstock.generators.voyager.near import Seen, prints_of
from penstock.generators.voyager.records import (
    Decision,
    ExplorerFacts,
    RoundRecord,
    Spending,
    Voyage,
    reasons_of,
)
from penstock.generators.voyager.settings import VoyagerSettings
from penstock.generators.voyager.successors import Living, living_on
from penstock.generators.voyager.threshold import first_threshold, threshold_at
from penstock.seeding import stream
from penstock.storage import Folder

_Result = TypeVar("_Result")
_NAMED = 3  # reasons told in a detail


async def explore(
    roots: Sequence[Explorer],
    settings: VoyagerSettings,
    *,
    embedder: Embedder,
    gates: Sequence[Gate | Examiner] = (),
    seed: int,
    on_round: Callable[[RoundRecord], None] | None = None,
    checkpoint: Folder | None = None,
    meter: Callable[[], Spending] | None = None,
    characters: int = 1024,
    known: Sequence[Known] = (),
) -> Voyage:
    """Search until ``settings.count`` items are accepted, or say why not.

    Args:
        roots: the explorers it begins with; the first sample is drawn from all of them in turn.
        embedder: of the kernel.
        gates: in order; each sees what those before let pass.
        seed: of every draw of the loop.
        on_round: hears of each round when it is done.
        checkpoint: folder of this voyage alone; a killed one goes on from its last whole round.
        meter: tells what was asked of a model so far, for the records.
        characters: so many of a text's beginning are embedded.
        known: texts of a corpus that items have to be new beside.

    Raises:
        ConfigError: no root, two explorers of one id, or characters is below 1.
        DatasetError: the checkpoint is of another voyage, or damaged.
        PenstockError: what explorers, gates and embedder raise, a spent budget apart.
    """
    if not roots:
        raise ConfigError("explorers: got none, allowed one or more; give one that proposes items")
    embeddings = Embeddings(embedder, characters)
    embedder.setup()
    for gate in gates:
        gate.setup()
    loop = _Loop(roots, settings, embeddings, gates, seed, on_round, checkpoint, meter, known)
    return await loop.run()


@dataclass
class _Batch:
    """What an explorer proposed, and what was decided about it."""

    living: Living
    candidates: list[Candidate]
    decisions: list[Decision]
    anchors: list[Item]  # at the time

    @property
    def accepted(self) -> int:
        return sum(one.accepted for one in self.decisions)

    @property
    def alike(self) -> list[Item]:
        return [one.item for one in self.decisions if one.stage in ALIKE]


class _Stop(NamedTuple):
    reason: str
    detail: str


class _Loop:
    def __init__(
        self,
        roots: Sequence[Explorer],
        settings: VoyagerSettings,
        embeddings: Embeddings,
        gates: Sequence[Gate | Examiner],
        seed: int,
        on_round: Callable[[RoundRecord], None] | None,
        checkpoint: Folder | None,
        meter: Callable[[], Spending] | None,
        known: Sequence[Known],
    ) -> None:
        self.roots, self.settings, self.gates, self.seed, self.known = roots, settings, gates, seed, known
        self.on_round, self.meter = on_round, meter
        self.embeddings, self.embedder = embeddings, embeddings.identity
        self.acceptance = Acceptance(
            seen=Seen(settings.near), count=settings.count, limit=settings.anchors, prune=settings.prune, anchors=[]
        )
        beside = as_decisions(known)
        for one, found in zip(beside, prints_of([one.item for one in beside]), strict=True):
            self.acceptance.seen.add(one.item_id, found)
        self.living = [Living(root, place) for place, root in enumerate(roots)]
        self.decisions: list[Decision] = []
        self.records: list[RoundRecord] = []
        self.explorers: dict[str, ExplorerFacts] = {}
        self.kernel: RunKernel | None = None
        self.threshold: float | None = None
        self.steps = self.idle = 0
        self.spent = Spending(0, 0.0)
        self.sampled = settings.threshold.strategy != "none"
        self.checkpoint = None if checkpoint is None else Checkpoint(checkpoint, self._identity())

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "embedder": self.embedder,
            "roots": [asdict(ExplorerFacts.of(root, place)) for place, root in enumerate(self.roots)],
            "explorers": [root.identity for root in self.roots],
            "gates": [gate.name for gate in self.gates],
            "seed": self.seed,
            **({"known": fingerprint_of(self.known)} if self.known else {}),
        }

    async def run(self) -> Voyage:
        if self.checkpoint is not None:
            self._restore(self.checkpoint.load(self.sampled))
        if self.meter is not None:
            self.spent = self.meter()
        stop = self._stop(self._next_round)
        try:
            if self.sampled and not self.records:
                await self._sample()
                stop = self._stop()
            while stop is None:
                stop = await self._round(self._next_round)
        except BudgetError as error:
            stop = _Stop("budget", str(error))
        return Voyage(
            decisions=tuple(self.decisions),
            rounds=tuple(self.records),
            explorers=self.explorers,
            reason=stop.reason,
            detail=stop.detail,
            threshold=self.threshold,
            kernel=None if self.kernel is None else self.kernel.describe() | {"fingerprint": self.kernel.fingerprint},
            seed=self.seed,
        )

    @property
    def _next_round(self) -> int:
        return self.records[-1].round + 1 if self.records else 0

    # ── one round ────────────────────────────────────────────────────────────────────────────────

    async def _sample(self) -> None:
        """The first sample, in batches of negative rounds: it fits kernel and threshold."""
        size = self.settings.batch
        drawn = [
            (
                Living(self.roots[number % len(self.roots)], number % len(self.roots)),
                min(size, self.settings.sample - at),
            )
            for number, at in enumerate(range(0, self.settings.sample, size))
        ]
        batches = await self._propose(drawn, lambda number: -1 - number)
        self._fit([one for batch in batches for one in batch.candidates if one.known is not None])
        for number, batch in enumerate(batches):
            if self.settings.reuse_sample and self.kernel is not None:
                self._decide(batch, -1, number)
            else:
                batch.decisions = [
                    replace(one.decision, stage=acceptance.SAMPLE, reason="first_sample")
                    if one.decision.accepted
                    else one.decision
                    for one in batch.candidates
                ]
        self._record(-1, batches)
        self._save(batches)

    def _fit(self, sample: list[Candidate]) -> None:
        seen, different = Seen(self.settings.near), list[Candidate]()
        for one in sample:
            assert one.known is not None
            if seen.find(one.known) is None:
                seen.add(one.decision.item_id, one.known)
                different.append(one)
        if not different:
            return
        vectors = [one.decision.vector for one in different if one.decision.vector is not None]
        self._measure_by(RunKernel.fitted(vectors, self.embedder, self.seed))
        assert self.kernel is not None
        matrix = self.kernel.over(vectors, [words(one.decision.item.text) for one in different])
        draw = stream(self.seed, "threshold")
        self.threshold = first_threshold(matrix, self.settings.anchors, self.settings.threshold, draw)

    def _measure_by(self, kernel: RunKernel) -> None:
        """Take the kernel of the voyage, and of the known texts as anchors those that are independent by it."""
        self.kernel = kernel
        if self.known:
            self.acceptance.known = independent(kernel, as_decisions(self.known))

    async def _round(self, round: int) -> _Stop | None:
        batches = await self._propose([(one, self.settings.batch) for one in self.living], lambda _: round)
        for rank, batch in enumerate(batches):
            self._decide(batch, round, rank)
        self.idle = 0 if any(batch.accepted for batch in batches) else self.idle + 1
        stop = self._stop(round + 1, batches)
        if stop is None and self.settings.refine != "never":
            try:
                self.living = await self._refined(batches, round)
            except BudgetError as error:
                # what was accepted stands, but the round is not saved: a larger budget does it again, from the answers
                # that are kept, and goes on to the successors
                self._record(round, batches)
                return _Stop("budget", str(error))
        self._record(round, batches)
        self._save(batches)
        return stop

    async def _propose(self, asked: Sequence[tuple[Living, int]], round_of: Callable[[int], int]) -> list[_Batch]:
        """Batches of explorers at the same time, screened in their order."""
        proposals = await _all(
            [one.explorer.propose(count, round=round_of(place)) for place, (one, count) in enumerate(asked)]
        )
        proposed = [
            Decision(
                item_id=_item_id(round_of(place), place, at),
                item=item,
                explorer_id=living.explorer.explorer_id,
                round=round_of(place),
                rank=place,
                position=at,
            )
            for place, ((living, _), items) in enumerate(zip(asked, proposals, strict=True))
            for at, item in enumerate(items)
        ]
        candidates = iter(await screened(proposed, self.gates, self.embeddings))
        for living, _ in asked:
            self._know(living)
        self.steps += len(asked)
        return [
            _Batch(living, [next(candidates) for _ in items], [], [])
            for (living, _), items in zip(asked, proposals, strict=True)
        ]

    def _decide(self, batch: _Batch, round: int, rank: int) -> None:
        threshold = None if self.threshold is None else threshold_at(self.threshold, round, self.settings.threshold)
        batch.decisions = self.acceptance.admit(batch.candidates, self.kernel, threshold)
        self.acceptance.pruned(self.kernel, stream(self.seed, "anchors", round, rank))
        batch.anchors = [one.item for one in self.acceptance.anchors]

    async def _refined(self, batches: Sequence[_Batch], round: int) -> list[Living]:
        asked = [place for place, one in enumerate(batches) if one.alike or self.settings.refine == "always"]
        found = await _all(
            [
                batches[place].living.explorer.refine(batches[place].alike, batches[place].anchors, round=round)
                for place in asked
            ]
        )
        self.steps += len(asked)
        children = dict(zip(asked, found, strict=True))
        successors: list[Living] = []
        for place, batch in enumerate(batches):
            # between 0 and 1 also for a batch of none
            quality = (batch.accepted + 1) / (len(batch.decisions) + 2)
            weight = quality if self.settings.explorer_weight == "acceptance" else 1.0
            made = children.get(place) or [batch.living.explorer]
            successors += [Living(explorer, batch.living.root, weight) for explorer in made]
        draw = stream(self.seed, "explorers", round)
        return living_on(successors, self.settings.explorers, self.embeddings, draw)

    # ── bookkeeping ──────────────────────────────────────────────────────────────────────────────

    def _know(self, living: Living) -> None:
        facts = ExplorerFacts.of(living.explorer, living.root)
        if self.explorers.setdefault(facts.explorer_id, facts) != facts:
            raise ConfigError(
                f"explorer {facts.explorer_id}: got two of this id with other prompts or parents, allowed one; "
                "make the id from the parent's, the round and the place among its successors"
            )

    def _record(self, round: int, batches: Sequence[_Batch]) -> None:
        decisions = [one for batch in batches for one in batch.decisions]
        self.decisions += decisions
        gains = [one.gain for one in decisions if one.gain is not None]
        vectors = [one.vector for one in self.decisions if one.accepted and one.vector is not None]
        before, self.spent = self.spent, self.spent if self.meter is None else self.meter()
        first = self.threshold
        record = RoundRecord(
            round=round,
            threshold=None if first is None else threshold_at(first, round, self.settings.threshold),
            proposed=len(decisions),
            accepted=sum(one.accepted for one in decisions),
            dropped=reasons_of(decisions),
            mean_gain=float(np.mean(gains)) if gains else None,
            vendi=vendi(np.array(vectors)).value if vectors else 0.0,
            total=self.acceptance.total,
            explorers=tuple(
                (one.living.explorer.explorer_id, one.living.explorer.parent_id, len(one.decisions), one.accepted)
                for one in batches
            ),
            steps=self.steps,
            calls=None if self.meter is None else self.spent.calls - before.calls,
            cost=None if self.meter is None else self.spent.cost - before.cost,
        )
        self.steps = 0
        self.records.append(record)
        if self.on_round is not None:
            self.on_round(record)

    def _stop(self, next_round: int = 0, batches: Sequence[_Batch] = ()) -> _Stop | None:
        """Why it ends before ``next_round``, if it does; ``batches`` are those that no record holds yet."""
        have, wanted = self.acceptance.total, self.settings.count
        if self.acceptance.full:
            return _Stop("count", f"{have:,} items accepted, as wanted")
        if self.sampled and self.kernel is None and self.records:
            dropped = self._most_dropped(batches)
            return _Stop("no_items", f"no item of the first sample can be used ({dropped}); look at what is proposed")
        if self.idle >= self.settings.patience:
            return _Stop(
                "patience",
                f"{have:,} of {wanted:,} items after {self.idle} rounds in a row without one "
                f"({self._most_dropped(batches)}); lower the threshold, widen what explorers may try, or ask for fewer",
            )
        if next_round >= self.settings.rounds:
            return _Stop(
                "rounds",
                f"{have:,} of {wanted:,} items after {next_round:,} rounds ({self._most_dropped(batches)}); allow more "
                "rounds or ask for fewer",
            )
        return None

    def _most_dropped(self, batches: Sequence[_Batch]) -> str:
        """Items proposed and the most frequent reasons in words; ``batches`` are those that no record holds yet."""
        decisions = [*self.decisions, *(one for batch in batches for one in batch.decisions)]
        reasons = Counter(f"{one.stage}.{one.reason}" for one in decisions if not one.accepted)
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(_NAMED))
        return f"{len(decisions):,} proposed; dropped: {told or 'none'}"

    # ── on disk ──────────────────────────────────────────────────────────────────────────────────

    def _save(self, batches: Sequence[_Batch]) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.save(
            Saved(
                decisions=[one for batch in batches for one in batch.decisions],
                record=self.records[-1],
                proposers=[self.explorers[batch.living.explorer.explorer_id] for batch in batches],
                anchors=[one.item_id for one in self.acceptance.anchors],
                explorers=[ExplorerFacts.of(one.explorer, one.root) for one in self.living],
                kernel=None if self.kernel is None else {"gamma": self.kernel.gamma, "rows": self.kernel.rows},
                threshold=self.threshold,
            )
        )

    def _restore(self, rounds: Sequence[Saved]) -> None:
        """Take up the state after the last of some rounds."""
        for saved in rounds:
            self.decisions += saved.decisions
            self.records.append(saved.record)
            self.explorers |= {one.explorer_id: one for one in saved.proposers}
            if saved.record.round >= 0:
                self.idle = 0 if saved.record.accepted else self.idle + 1
        if not rounds:
            return
        last = rounds[-1]
        if last.kernel is not None:
            self._measure_by(RunKernel(**last.kernel, embedder=self.embedder))
        self.threshold = last.threshold
        for one in self.decisions:
            if one.vector is not None:
                self.embeddings.learn(one.item.text, one.vector)
        accepted = [one for one in self.decisions if one.accepted]
        for one, known in zip(accepted, prints_of([one.item for one in accepted]), strict=True):
            self.acceptance.take(one, known)
        by_id = {one.item_id: one for one in accepted}
        self.acceptance.anchors = [by_id[item_id] for item_id in last.anchors]
        self.living = [Living(_made_again(self.roots[one.root], one), one.root) for one in last.explorers]


def _made_again(root: Explorer, facts: ExplorerFacts) -> Explorer:
    if facts.explorer_id == root.explorer_id:
        return root
    return root.restore(facts.explorer_id, facts.parent_id, facts.prompt, facts.gradient)


def _item_id(round: int, rank: int, position: int) -> str:
    """``sample-02-07`` or ``0003-1-07``: where an item stands in its voyage."""
    return f"sample-{rank:02d}-{position:02d}" if round < 0 else f"{round:04d}-{rank}-{position:02d}"


async def _all(asked: Sequence[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Results in order. One that fails stops no other: what they are answered is paid for and will be kept."""
    results = await asyncio.gather(*asked, return_exceptions=True)
    failed = [one for one in results if isinstance(one, BaseException)]
    if failed:
        # a spent budget ends a voyage in order, so anything else is told first
        raise next((error for error in failed if not isinstance(error, BudgetError)), failed[0])
    return [one for one in results if not isinstance(one, BaseException)]
