"""A subset that is near the target and of which no row repeats another: greedy MAP of a DPP (``docs/diversity.md``).

    L_ij = q_i K_ij q_j     K the cosine of embeddings, q = exp(beta (z - largest z)), z the standardised score

The score is that of another selector (``quality``); beta 0 ignores it, a large beta chooses by score alone. The rows of
highest score, ``candidates`` times as many as the budget, are searched; then

    layer     rows by greedy MAP until the budget is spent, or until nothing new is left (numerical rank)
    again     on the rows that are left, with z of their own

The choice's facts hold Vendi scores of order 1 and 2 of the selection and of as many rows chosen by chance, which is
what they may be compared with.

Embeddings of d dimensions have rank d at most, so a larger budget is made of several layers, each as diverse as it can
be; a copy of a chosen row is not chosen before its layer is full. Ties go to the smaller ``doc_id``.

Price: that of ``quality``; choosing n candidates of d dimensions in memory (4 n d bytes), O(n d) a row chosen: 1 s for
800 of 16,000 rows at d = 256. The embeddings are kept with the scores (2 d bytes a row).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.diversity.greedy import greedy_map
from penstock.diversity.vendi_score import vendi
from penstock.embedding.base import unit_vectors
from penstock.errors import ConfigError
from penstock.seeding import coins
from penstock.selectors.targeted import method
from penstock.selectors.targeted.base import (
    Budget,
    check_target,
    in_rank_order,
    prefix_within,
    with_facts,
    with_ranks,
)

_FLOOR = -300.0  # rows of lower exponents wait for the next layer: their squares would underflow


@dataclass(frozen=True, kw_only=True)
class Diverse:
    """Quality by another selector, diversity by embeddings.

    Args:
        quality: name of the selector whose score counts, with its default settings.
        beta: weight of the score against diversity; 0 is diversity alone.
        candidates: rows searched, as a multiple of the budget.
    """

    quality: str = "bm25"
    beta: float = 1.0
    candidates: float = 20.0

    name: ClassVar[str] = "diverse"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.diverse"

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise ConfigError(f"diverse.beta: got {self.beta}, allowed >= 0 and finite; 1 is usual")
        if not (self.candidates >= 1 and math.isfinite(self.candidates)):
            raise ConfigError(f"diverse.candidates: got {self.candidates}, allowed >= 1 and finite; 20 is usual")
        kind = method(self.quality)
        needs = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        if kind is Diverse or needs:
            raise ConfigError(
                f"diverse.quality: got {self.quality!r}, allowed another method that needs no settings, such as bm25 "
                "or importance; choose one"
            )
        self._quality()  # what does not go without settings is refused here

    def _quality(self) -> Any:
        return method(self.quality)()

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._quality().reads, "embedding")))

    @property
    def libraries(self) -> tuple[str, ...]:
        return tuple(getattr(self._quality(), "libraries", ()))

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> DiverseScore:
        """Fit the quality's selector; diversity needs no target.

        Raises:
            ConfigError: as of that selector.
        """
        quality = self._quality()
        check_target(target, self.reads, method=self.name)
        return DiverseScore(scorer=quality.fit(target, pool, folder), column=quality.column)

    def choose(self, scores: pa.Table, budget: Budget) -> pa.Table:
        """Rows in the order of the search, then the others by score; ``selected`` are those of the search.

        A row without a score, or without a vector, is never selected. With no more candidates than the budget takes,
        all of them are selected.
        """
        ordered = in_rank_order(scores)
        vectors = unit_vectors(ordered["embedding"])
        there = vectors.any(axis=1) & ordered["score"].is_valid().to_numpy()
        sizes = budget.sizes(ordered)
        amount = budget.amount(sizes)
        # the highest scores that cost `candidates` times the budget
        before = np.cumsum(np.where(there, sizes, 0)) - sizes
        searched = np.flatnonzero(there & (before < self.candidates * amount))
        # in order of ids, so that a tie of gains goes to the smaller one
        names = ordered["doc_id"].take(pa.array(searched)).to_numpy()
        searched = searched[np.argsort(names, kind="stable")]
        score = ordered["score"].to_numpy()
        picks, layers = self._search(vectors[searched], score[searched].astype(np.float64), sizes[searched], amount)
        picked = searched[picks]
        taken = int(np.searchsorted(np.cumsum(sizes[picked]), amount, side="right"))
        if len(picked) and not taken:
            prefix_within(ordered.take(pa.array(picked)), budget)  # says what is too much
        rest = np.ones(len(there), dtype=bool)
        rest[picked] = False
        rest_there, rest_not = np.flatnonzero(rest & there), np.flatnonzero(rest & ~there)
        order = np.concatenate([picked, rest_there, rest_not])
        # a row without a vector is ranked by nothing: it has no score here
        chosen = ordered.take(pa.array(order))
        place = chosen.column_names.index("score")
        chosen = chosen.set_column(place, "score", pa.array(score[order], mask=~there[order]))
        chosen = with_ranks(chosen, np.arange(len(order)) < taken)
        facts: dict[str, float] = {"candidates": len(searched), "layers": layers, "without_vector": int((~there).sum())}
        if taken:
            coin = coins(ordered["id_hash"].to_numpy()[there], 0, "targeted", "diverse")
            by_chance = np.flatnonzero(there)[np.argsort(coin, kind="stable")[:taken]]
            for name, rows in (("selection", picked[:taken]), ("random", by_chance)):
                for q in (1, 2):
                    facts[f"vendi_{q}_{name}"] = round(vendi(vectors[rows], q=q).value, 3)
        return with_facts(chosen, **facts)

    def _search(
        self, vectors: NDArray[np.float32], score: NDArray[np.float64], sizes: NDArray[np.int64], amount: int
    ) -> tuple[NDArray[np.int64], int]:
        """(rows in the order of choice, layers): as many as the budget takes, and perhaps one layer more."""
        picked: list[NDArray[np.int64]] = []
        left = np.arange(len(score))
        spent, layers = 0, 0
        while len(left) and spent < amount:
            weights = self._exponents(score[left])
            near = np.flatnonzero(weights > _FLOOR)  # the highest score at least
            # no row costs less than the smallest, so no more than these fit
            least = max(1, int(sizes[left[near]].min()))
            most = min(len(near), -(-(amount - spent) // least))
            found = greedy_map(vectors[left[near]], most, quality=np.exp(weights[near]))
            new = near[found.picks]
            picked.append(left[new])
            spent += int(sizes[left[new]].sum())
            left = np.delete(left, new)
            layers += 1
        return np.concatenate([np.zeros(0, np.int64), *picked]), layers

    def _exponents(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """log q of the rows that are left, 0 for the highest score; equal scores are all 0."""
        spread = float(score.std())
        out: NDArray[np.float64] = self.beta * (score - score.max()) / (spread or 1.0)
        return out


@dataclass(frozen=True, kw_only=True)
class DiverseScore:
    """Annotator: ``score.diverse``, the quality's score, and the ``embedding`` that the choice reads."""

    scorer: Any  # a Scorer
    column: str

    name: ClassVar[str] = "diverse"
    revision: ClassVar[int] = 1
    adds: ClassVar[tuple[str, ...]] = ("score.diverse", "embedding")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.scorer.reads, "embedding")))

    def setup(self) -> None:
        if hasattr(self.scorer, "setup"):
            self.scorer.setup()

    def facts(self) -> dict[str, Any]:
        """Those of the quality's scorer."""
        return dict(self.scorer.facts()) if hasattr(self.scorer, "facts") else {}

    def artifacts(self) -> tuple[str, ...]:
        return (self.scorer.path,) if hasattr(self.scorer, "path") else ()

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"score.diverse": self.scorer.annotate(batch)[self.column], "embedding": batch["embedding"]}
