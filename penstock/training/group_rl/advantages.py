"""What an answer was worth beside the others of its group: the advantages of GRPO and its kin.

Rows that share an id share a mean. With the ids of problems that is GRPO; with those of groups, which hold a question
in all its phrasings, it is TA-GRPO; nothing else differs. With mu the mean of a group's known rewards r and G their
number, the advantage of a row is

    std     (r - mu) / (sd + eps)              GRPO (arXiv 2402.03300), TA-GRPO (arXiv 2601.22478)
    none    r - mu                             Dr. GRPO (arXiv 2503.20783)
    mad     G (r - mu) / (sum |r - mu| + eps)  DGPO of MathForge (arXiv 2601.20614)
    batch   (r - mu) / (sd of all rows + eps)  arXiv 2508.08221

Groups are known by their ids alone, so rows come in any order and from any rank. Sums add rewards in the order of
their size: moving rows moves their advantages and changes no bit of them.

Price: one sort of N rows. Over several ranks, three gathers of N numbers.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import ConfigError, InputError
from penstock.training.distributed import Ranks
from penstock.training.group_rl.config import Scale
from penstock.training.group_rl.records import Floats, Ints

Std = Literal["unbiased", "population"]

# a larger reward is no reward, and its square may not be finite
_LARGEST = 1e100
_TOLD = 3  # ids that a message names


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Where rewards had something to tell apart, of groups or of rollouts; parts of one.

    Attributes:
        all_zero: all known rewards of the group are 0.
        all_one: they are all 1.
        mixed: they are not all equal.
        zero_gradient: no gradient comes from here: 1 - mixed.
    """

    all_zero: float
    all_one: float
    mixed: float
    zero_gradient: float


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """The groups of a step, over all ranks.

    A rollout is where its group is, but one that is not known is in ``unknown`` and ``zero_gradient`` alone.

    Attributes:
        groups: how many, those without a known reward included.
        rollouts: rows in all.
        unknown: share of the rollouts whose reward is not known.
        alone: groups of which one known reward is left.
        lost: groups of which none is left.
        of_groups, of_rollouts: shares.
    """

    groups: int
    rollouts: int
    unknown: float
    alone: int
    lost: int
    of_groups: Shares
    of_rollouts: Shares

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """One entry for each of this process' N rows; ``facts`` is over all ranks.

    Attributes:
        values: (N,) float64; 0 where the reward is not known or the group is flat.
        flat: (N,) whether the known rewards of the row's group are all equal, or there is at most one.
        size: (N,) known rows of its group.
        accuracy: (N,) mean known reward of its group, the row's own included; NaN where there is none.
        facts: what to log of the step.
    """

    values: Floats
    flat: NDArray[np.bool_]
    size: Ints
    accuracy: Floats
    facts: GroupFacts


def group_advantages(
    rewards: ArrayLike,
    groups: ArrayLike,
    *,
    known: ArrayLike | None = None,
    scale: Scale = "std",
    std: Std = "unbiased",
    epsilon: float = 1e-6,
    ranks: Ranks | None = None,
) -> Advantages:
    """Advantages of N answers within their groups.

    A row that is not known (a time-out, an error, a row that only fills a batch) changes no statistic and has
    advantage 0; its reward may be any number or NaN, its id that of any group. A group left with one known row, or
    with none, has no baseline: it is flat, has advantage 0 and is counted. A group that has one row in all is a
    mistake of whoever asked, known or not, and is refused: its advantage would be the bare reward.

    Args:
        rewards: (N,) finite where known.
        groups: (N,) whole numbers or strings, equal for the rows that share a mean.
        known: (N,) bool; None is all.
        scale: what a difference from the mean is divided by, see above.
        std: the standard deviation divides by n - 1 or by n.
        epsilon: added to what is divided by; 0 makes advantages free of the rewards' unit.
        ranks: other processes that hold rows of the same groups; all of them must call. Each gets its own rows'
            advantages, with the bits that one process would find.

    Raises:
        ConfigError: an unknown scale or std, a negative epsilon.
        InputError: arrays of other lengths, ids of another kind, a known reward that is no finite number (or above
            1e100 in size), a group of one.
    """
    _check(scale, std, epsilon)
    rows = _rows(rewards, groups, known)
    own = slice(0, len(rows.rewards))
    if ranks is not None and not ranks.alone:
        rows, own = _everywhere(rows, ranks)
    names, inverse = np.unique(rows.groups, return_inverse=True)
    _refuse(rows, names, inverse)

    count = len(names)
    order = np.flatnonzero(rows.known)
    order = order[np.lexsort((rows.rewards[order], inverse[order]))]
    index, values = inverse[order], rows.rewards[order]
    size = np.bincount(index, minlength=count)
    mean = np.divide(_sums(values, index, count), size, out=np.full(count, np.nan), where=size > 0)
    least, most = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(least, index, values)
    np.maximum.at(most, index, values)
    flat = least >= most  # also where there are none

    away = values - mean[index]
    out = np.zeros(len(rows.rewards))
    if not flat.all():
        divisor = _divisor(values, away, index, size, scale=scale, std=std, epsilon=epsilon)
        divisor[flat] = 1.0
        out[order] = np.where(flat[index], 0.0, away / divisor[index])
    return Advantages(
        values=out[own],
        flat=flat[inverse][own],
        size=size[inverse][own],
        accuracy=mean[inverse][own],
        facts=_facts(size, np.bincount(inverse, minlength=count), flat, least),
    )


@dataclass(frozen=True)
class _Rows:
    rewards: Floats
    groups: NDArray[Any]  # (N,) int64 or str
    known: NDArray[np.bool_]


def _check(scale: str, std: str, epsilon: float) -> None:
    for name, value, kind in (("scale", scale, Scale), ("std", std, Std)):
        if value not in get_args(kind):
            raise ConfigError(f"{name}: got {value!r}, allowed {', '.join(map(repr, get_args(kind)))}; take one")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ConfigError(f"epsilon: got {epsilon}, allowed a finite number >= 0; 1e-6 is usual")


def _rows(rewards: ArrayLike, groups: ArrayLike, known: ArrayLike | None) -> _Rows:
    values = np.asarray(rewards, dtype=np.float64)
    ids = np.asarray(groups)
    mask = np.ones(values.shape, np.bool_) if known is None else np.asarray(known)
    if values.ndim != 1 or ids.shape != values.shape or mask.shape != values.shape or mask.dtype != np.bool_:
        raise InputError(
            f"advantages: got rewards {values.shape}, groups {ids.shape}, known {mask.shape} of {mask.dtype}; allowed "
            "three of shape (N,), known of bool; give one entry a rollout"
        )
    if not len(ids):
        ids = ids.astype(np.int64)
    elif ids.dtype == object and all(isinstance(name, str) for name in ids):
        ids = ids.astype(str)
    elif ids.dtype.kind in "iu" and np.can_cast(ids.dtype, np.int64):
        ids = ids.astype(np.int64)
    elif ids.dtype.kind != "U":
        raise InputError(
            f"advantages: got group ids of {ids.dtype}, allowed whole numbers (int64) or strings, none missing; give "
            "problem_id or group_id of the problems table, or numbers that stand for them"
        )
    return _Rows(values, ids, mask)


def _everywhere(rows: _Rows, ranks: Ranks) -> tuple[_Rows, slice]:
    """The rows of all ranks in rank order, and where this rank's are among them."""
    rewards = ranks.gather(rows.rewards)
    known = ranks.gather(rows.known.astype(np.float64))
    # as text, since float64 has not all int64
    ids = [json.loads(text) for text in ranks.gather_text(json.dumps(rows.groups.tolist()))]
    kinds = {type(name) for part in ids for name in part}
    if len(kinds) > 1:
        raise InputError(
            "advantages: got group ids that are numbers on one rank and strings on another, allowed one kind; give "
            "every rank the ids of one table"
        )
    together = [name for part in ids for name in part]
    first = sum(len(part) for part in rewards[: ranks.rank])
    joined = _Rows(
        np.concatenate(rewards),
        np.array(together, dtype=str if kinds == {str} else np.int64),
        np.concatenate(known) > 0,
    )
    return joined, slice(first, first + len(rows.rewards))


def _refuse(rows: _Rows, names: NDArray[Any], inverse: Ints) -> None:
    """InputError for a known reward that is no number, and for a group of one row."""
    # NaN fails the comparison too
    bad = np.flatnonzero(rows.known & ~(np.abs(rows.rewards) <= _LARGEST))
    if len(bad):
        row = bad[0]
        raise InputError(
            f"advantages: got reward {rows.rewards[row]} at row {row} (group {rows.groups[row]!s}), {len(bad)} such in "
            f"all; allowed a number of at most {_LARGEST:g} in size; say known = False where there is no reward"
        )
    single = names[np.bincount(inverse, minlength=len(names)) == 1]
    if len(single):
        told = ", ".join(map(str, single[:_TOLD])) + (", …" if len(single) > _TOLD else "")
        raise InputError(
            f"advantages: got {len(single)} groups of one answer ({told}), allowed 2 or more answers to a group, as "
            "one has no baseline; ask for more rollouts, or leave the group out"
        )


def _sums(values: Floats, index: Ints, count: int) -> Floats:
    return np.bincount(index, values, minlength=count).astype(np.float64, copy=False)


def _divisor(
    values: Floats, away: Floats, index: Ints, size: Ints, *, scale: Scale, std: Std, epsilon: float
) -> Floats:
    """What the differences of each group are divided by: (groups,). Some group is not flat."""
    count = len(size)
    if scale == "none":
        return np.ones(count)
    if scale == "mad":
        found: Floats = (_sums(np.abs(away), index, count) + epsilon) / np.maximum(size, 1)
        return found
    if scale == "batch":
        of_all = _deviation(values - values.mean(), np.zeros_like(index), np.array([len(values)]), std)
        return np.full(count, of_all[0] + epsilon)
    return _deviation(away, index, size, std) + epsilon


def _deviation(away: Floats, index: Ints, size: Ints, std: Std) -> Floats:
    """Standard deviation by group, from differences to the mean: (groups,)."""
    largest = np.zeros(len(size))
    np.maximum.at(largest, index, np.abs(away))
    # squares are taken of numbers near 1: those of tiny ones are 0, and epsilon may be
    unit = np.where(largest > 0, largest, 1.0)
    squares = _sums(np.square(away / unit[index]), index, len(size))
    out: Floats = unit * np.sqrt(squares / np.maximum(size - (std == "unbiased"), 1))
    return out


def _facts(size: Ints, rows: Ints, flat: NDArray[np.bool_], least: Floats) -> GroupFacts:
    """From known rows, rows in all, flatness and least known reward of each group."""

    def shares(weight: Ints, whole: int) -> Shares:
        def share(which: NDArray[np.bool_]) -> float:
            return float(weight[which].sum()) / max(whole, 1)

        mixed = share(~flat)
        return Shares(
            all_zero=share(flat & (least == 0.0)),
            all_one=share(flat & (least == 1.0)),
            mixed=mixed,
            zero_gradient=1.0 - mixed,
        )

    rollouts = int(rows.sum())
    return GroupFacts(
        groups=len(size),
        rollouts=rollouts,
        unknown=(rollouts - int(size.sum())) / max(rollouts, 1),
        alone=int((size == 1).sum()),
        lost=int((size == 0).sum()),
        of_groups=shares(np.ones_like(size), len(size)),
        of_rollouts=shares(size, rollouts),
    )
