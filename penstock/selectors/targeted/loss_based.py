"""Selection by the loss that a causal language model has on each document, with the weights of training.

    l      loss of the document, nats per token                              (``scoring/lm_scores.py``)
    h      l on [-1, 1] by a range of losses, that of the target or of the pool
    score  linupper, quadratic, extremes, linear_half or kl_dro of h         (``training/weighting.py``)
    w      softmax(score / temperature) over the pool

With the target's range and ``quadratic`` the documents in the middle of the losses that the target has are scored
highest, and what is easier or harder than all of it is 0. With the pool's range the target is not looked at: the
weights are those that dynamic reweighting (arXiv 2502.06733) would give in training, made once before it.

``draw: top`` takes the highest scores. ``draw: sample`` draws without replacement with probabilities w: every document
runs a race, log(coin) / w, and the highest win (Efraimidis and Spirakis 2006); the coin is a hash of its id.

Price: one forward pass over the pool and the target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.scoring import model as models
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.seeding import coins
from penstock.selectors.targeted.base import (
    Budget,
    check_target,
    choose,
    in_rank_order,
    prefix_within,
    scores_array,
    with_ranks,
)
from penstock.sources.base import InputFile
from penstock.training.weighting import SCORES, normalise, softmax
from penstock.training.weighting_range import LossRange, loss_range

Strategy = Literal["linupper", "quadratic", "extremes", "linear_half", "kl_dro"]
LOSS = "loss"
_COLUMN = "score.lm_loss"


@dataclass(frozen=True, kw_only=True)
class LossBased:
    """Weights from losses.

    Args:
        model: folder of a causal language model, or a run that trained one.
        strategy: of ``training.weighting``.
        bounds: whose losses the range is that of, the ``target``'s or the ``pool``'s.
        trim: share of these losses left out of the range at each end.
        temperature: of the softmax, for ``draw: sample``.
        draw: ``top`` or ``sample``.
        max_tokens: tokens of a text that are read.
        device: ``auto`` is CUDA where there is one.
        seed: of the coins of ``sample``.
    """

    model: str
    strategy: Strategy = "quadratic"
    bounds: Literal["target", "pool"] = "target"
    trim: float = 0.02
    temperature: float = 0.4
    draw: Literal["top", "sample"] = "top"
    max_tokens: int = 512
    device: str = "auto"
    seed: int = 0

    name: ClassVar[str] = "loss"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.loss"
    reads: ClassVar[tuple[str, ...]] = ("text",)
    paths: ClassVar[tuple[str, ...]] = ("model", "device")
    libraries: ClassVar[tuple[str, ...]] = ("tokenizers", "torch", "transformers")

    def __post_init__(self) -> None:
        for name, kind in (("strategy", Strategy), ("bounds", Literal["target", "pool"])):
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise ConfigError(f"loss.{name}: got {getattr(self, name)!r}, allowed {allowed}; choose one")
        if self.draw not in ("top", "sample"):
            raise ConfigError(f"loss.draw: got {self.draw!r}, allowed top, sample; choose one")
        if not 0 <= self.trim < 0.5:
            raise ConfigError(f"loss.trim: got {self.trim}, allowed 0 to below 0.5; 0.02 is usual")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"loss.temperature: got {self.temperature}, allowed above 0 and finite; 0.4 is usual")

    def files(self) -> tuple[InputFile, ...]:
        """The model's files."""
        return tuple(models.input_files(self.model))

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> LossScore:
        """The range of the target's losses; the pool's is found when all its losses are known (``choose``).

        Raises:
            ConfigError: the target is empty, or no row of it has a loss; the path is no causal language model.
        """
        check_target(target, self.reads, method=self.name)
        reader = LanguageModelScores.of(self.model, max_tokens=self.max_tokens, device=self.device)
        if self.bounds == "pool":
            return LossScore(reader=reader, strategy=self.strategy, low=None, high=None)
        losses = np.concatenate([_losses(reader, batch) for batch in target.select(["text"]).to_batches()])
        losses = losses[np.isfinite(losses)]
        if not len(losses):
            raise ConfigError(
                f"loss target: got {target.num_rows} row(s) too short for a loss, allowed texts of three tokens; look "
                "at its files"
            )
        found = loss_range(losses, "trimmed", trim=self.trim)
        return LossScore(reader=reader, strategy=self.strategy, low=found.low, high=found.high)

    def choose(self, scores: pa.Table, budget: Budget) -> pa.Table:
        """The highest scores, or rows drawn by their weights; ``score`` becomes that of the pool's range if asked."""
        scores = scores.sort_by("doc_id")
        if self.bounds == "pool":
            scores = scores.set_column(scores.column_names.index("score"), "score", self._pool_scores(scores))
        if self.draw == "top":
            return choose(scores, fraction=budget.fraction, count=budget.count, unit=budget.unit)
        values = scores["score"].cast(pa.float64()).to_numpy()
        present = np.isfinite(values)
        key = np.full(len(values), -np.inf)
        if present.any():
            weights = softmax(values[present], self.temperature)
            coin = coins(scores["id_hash"].to_numpy(), self.seed, "targeted", "loss")[present]
            # a coin may be 0, and a weight may underflow: both lose
            with np.errstate(divide="ignore", over="ignore"):
                key[present] = np.log(coin) / weights
        order = np.lexsort((np.arange(len(key)), -key, ~present))
        ordered = in_rank_order(scores, order)
        taken = prefix_within(ordered, budget)
        return with_ranks(ordered, np.arange(ordered.num_rows) < taken)

    def _pool_scores(self, scores: pa.Table) -> pa.Array:
        losses = scores[LOSS].cast(pa.float64()).to_numpy()
        present = np.isfinite(losses)
        out = np.full(len(losses), np.nan)
        if present.any():
            out[present] = score_of(
                losses[present], loss_range(losses[present], "trimmed", trim=self.trim), self.strategy
            )
        return scores_array(out)


@dataclass(frozen=True, kw_only=True)
class LossScore:
    """Annotator: ``score.loss``, and ``loss`` in nats per token; null for a text that is too short for one.

    Without a range the score is the loss itself, until ``LossBased.choose`` knows the pool's.
    """

    reader: LanguageModelScores
    strategy: str
    low: float | None
    high: float | None

    name: ClassVar[str] = "loss"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("score.loss", LOSS)

    def setup(self) -> None:
        self.reader.setup()

    def facts(self) -> dict[str, Any]:
        """Range of the target's losses, if it is that which counts, and facts of the model."""
        return {"low": self.low, "high": self.high} | self.reader.facts()

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        losses = _losses(self.reader, batch)
        values = losses
        if self.low is not None and self.high is not None:
            values = score_of(losses, LossRange(self.low, self.high), self.strategy)
        return {"score.loss": scores_array(values), LOSS: scores_array(losses)}


def score_of(losses: NDArray[np.float64], bounds: LossRange, strategy: str) -> NDArray[np.float64]:
    """The strategy's score of losses in a range: shape (n,); NaN stays NaN."""
    out: NDArray[np.float64] = SCORES[strategy](normalise(losses, bounds))
    return out


def _losses(reader: LanguageModelScores, batch: pa.RecordBatch) -> NDArray[np.float64]:
    """Losses of a batch, NaN where a text has none: shape (n,)."""
    column = reader.annotate(batch)[_COLUMN]
    out: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return out
