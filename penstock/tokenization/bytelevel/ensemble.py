"""One next-byte distribution from several models, whatever their vocabularies are.

    mean      p(s) = Σ_k w_k p_k(s)
    product   p(s) ∝ Π_k p_k(s)^{w_k}
    proxy     p(s) ∝ p_base(s) (p_expert(s) / p_anti(s))^α

s is a byte or STOP, and every p_k is given the same bytes, so models with different tokenizers can be added up symbol
by symbol; their tokens have no symbols in common. Each member maps its own end-of-text tokens to STOP before. The
members are ``ByteSource``s, an ensemble is one too: sampling and infilling take it, and ensembles of ensembles work.

From the formulas: the mean is that of Phan et al. 2024 (arXiv 2410.09303); the product, and proxy tuning (Liu et al.
2024, arXiv 2401.08565) on bytes, are those of Hayase et al. 2025 (arXiv 2506.14123).

A member that gives a symbol no probability, and the row takes it, is left out of that row from then on.

``prefix_logprob`` counts from the prompt on: what an ensemble would give a prompt is known only when it reads it byte
by byte (``read``), and the members read a prompt at once.

Price: that of its members, plus a few operations on (K, B, 257).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel.distributions import STOP, SYMBOLS, ByteDistributions, Bytes, ByteSource, over

_Floats = NDArray[np.float64]


class Combination(Protocol):
    """How distributions become one."""

    def combine(self, log_probs: _Floats) -> _Floats:
        """Of the members (K, B, 257) to that of the ensemble (B, 257), not yet normalised."""


@dataclass(frozen=True)
class _Mean:
    weights: tuple[float, ...]

    def combine(self, log_probs: _Floats) -> _Floats:
        with np.errstate(divide="ignore"):
            added = log_probs + np.log(self.weights)[:, None, None]
        out: _Floats = np.logaddexp.reduce(added, axis=0)
        return out


@dataclass(frozen=True)
class _Product:
    weights: tuple[float, ...]

    def combine(self, log_probs: _Floats) -> _Floats:
        weights = np.array(self.weights)
        kept = weights > 0  # 0 times -inf is no number
        out: _Floats = np.tensordot(weights[kept], log_probs[kept], axes=1)
        return out


@dataclass(frozen=True)
class _Proxy:
    alpha: float
    floor: float

    def combine(self, log_probs: _Floats) -> _Floats:
        base, expert, anti = log_probs
        out: _Floats = base + self.alpha * (np.maximum(expert, self.floor) - np.maximum(anti, self.floor))
        return out


class _Member:
    """A member's state over the rows that it still follows.

    It follows a row until the row takes a symbol that the member gives no probability: a text that it cannot have.
    """

    def __init__(self, state: ByteDistributions, places: NDArray[np.int64]) -> None:
        self._state = state
        self._places = places  # (B,) row of the state for each row of the ensemble; -1 for none

    def log_probs(self) -> _Floats:
        """(B, 257); -inf where it does not follow."""
        out = np.full((len(self._places), SYMBOLS), -np.inf)
        followed = self._places >= 0
        if followed.any():
            out[followed] = self._state.log_probs()[self._places[followed]]
        return out

    def advance(self, symbols: NDArray[np.int64], possible: NDArray[np.bool_]) -> None:
        """``possible``: which rows take a symbol that the member allows; (B,) both."""
        if not possible.all():
            self._take(np.where(possible, self._places, -1))
        if possible.any():
            self._state.advance(symbols[possible].tolist())

    def fork(self, rows: NDArray[np.int64]) -> _Member:
        out = _Member(self._state, self._places)
        out._take(self._places[rows])
        return out

    def _take(self, places: NDArray[np.int64]) -> None:
        followed = places >= 0
        self._state = self._state.fork(places[followed].tolist())
        self._places = np.where(followed, np.cumsum(followed) - 1, -1)


class EnsembleState:
    """ByteDistributions: the members' states side by side; every member takes the same bytes."""

    def __init__(
        self, members: list[_Member], how: Combination, prefix_logprob: _Floats, ended: NDArray[np.bool_]
    ) -> None:
        self._members = members
        self._how = how
        self._prefix = prefix_logprob
        self._ended = ended
        self._found: tuple[_Floats, _Floats] | None = None  # of the members (K, B, 257), and combined

    @property
    def size(self) -> int:
        """Rows, B."""
        return len(self._prefix)

    @property
    def prefix_logprob(self) -> _Floats:
        """log P(the bytes since the prompt) of each row: (B,)."""
        return self._prefix.copy()

    def log_probs(self) -> _Floats:
        """log P(symbol | the bytes so far): (B, 257).

        Raises:
            InputError: no symbol has a probability above 0 in every member of a product.
        """
        return self._all()[1].copy()

    def _all(self) -> tuple[_Floats, _Floats]:
        if self._found is None:
            members = np.stack([member.log_probs() for member in self._members])
            out = self._how.combine(members)
            total = np.logaddexp.reduce(out, axis=1, keepdims=True)
            bad = np.flatnonzero(np.isneginf(total[:, 0]) & ~self._ended)
            if bad.size:
                raise InputError(
                    f"ensemble: the members of row {bad[0]} allow no symbol in common; take the mean of them"
                )
            with np.errstate(invalid="ignore"):
                out -= total
            out[self._ended] = over()
            self._found = members, out
        return self._found

    def advance(self, symbols: Sequence[int]) -> None:
        """Add one symbol to each row, 0 to 256. A member that gives it no probability says no more about the row.

        Raises:
            InputError: there are more or fewer symbols than rows, or one has probability 0.
        """
        given = np.asarray(symbols, dtype=np.int64)
        if given.shape != (self.size,):
            raise InputError(f"symbols: got {len(symbols)}, allowed one for each of {self.size} rows")
        rows = np.arange(self.size)
        members, combined = self._all()
        taken = combined[rows, given]
        if np.isneginf(taken).any():
            row = int(np.flatnonzero(np.isneginf(taken))[0])
            raise InputError(
                f"row {row}: got symbol {given[row]}, which has probability 0 there; allowed are those above -inf in "
                "log_probs()"
            )
        for member, of_member in zip(self._members, members, strict=True):
            member.advance(given, of_member[rows, given] > -np.inf)
        self._prefix = self._prefix + taken
        self._ended = self._ended | (given == STOP)
        self._found = None

    def fork(self, rows: Sequence[int]) -> EnsembleState:
        """A state of these rows, which may repeat; the two go on apart."""
        chosen = np.asarray(rows, dtype=np.int64)
        members = [member.fork(chosen) for member in self._members]
        out = EnsembleState(members, self._how, self._prefix[chosen], self._ended[chosen])
        if self._found is not None:
            out._found = self._found[0][:, chosen], self._found[1][chosen]
        return out


class Ensemble:
    """ByteSource: members under one rule; made by ``mean``, ``product`` and ``proxy``."""

    def __init__(self, members: Sequence[ByteSource[Any]], how: Combination) -> None:
        self.members = tuple(members)
        self._how = how

    @classmethod
    def mean(cls, members: Sequence[ByteSource[Any]], weights: Sequence[float] | None = None) -> Ensemble:
        """The weighted mean of the members' probabilities.

        Args:
            weights: >= 0, scaled to sum to 1; None weighs all alike.
        """
        return cls(members, _Mean(_weights(members, weights)))

    @classmethod
    def product(cls, members: Sequence[ByteSource[Any]], weights: Sequence[float] | None = None) -> Ensemble:
        """The weighted geometric mean of the members' probabilities, normalised."""
        return cls(members, _Product(_weights(members, weights)))

    @classmethod
    def proxy(
        cls,
        base: ByteSource[Any],
        expert: ByteSource[Any],
        anti: ByteSource[Any],
        *,
        alpha: float = 1.0,
        floor: float = -50.0,
    ) -> Ensemble:
        """Proxy tuning: the base moved by what a small tuned model says beyond the same model before tuning.

        Args:
            expert: the small model, tuned.
            anti: the small model, not tuned.
            alpha: how far the base is moved.
            floor: log-probabilities of expert and anti below it count as it: a symbol that both exclude is not moved,
                and one that anti alone excludes stays finite.
        """
        if not (np.isfinite(alpha) and floor < 0 and np.isfinite(floor)):
            raise ConfigError(f"proxy: got alpha {alpha} and floor {floor}, allowed finite numbers, the floor below 0")
        return cls((base, expert, anti), _Proxy(float(alpha), float(floor)))

    def start(self, prompts: Sequence[Bytes], *, special: bool = False) -> EnsembleState:
        """A state of one row for each prompt; ``special`` as the members take it."""
        rows = len(prompts)
        members = [_Member(member.start(prompts, special=special), np.arange(rows)) for member in self.members]
        return EnsembleState(members, self._how, np.zeros(rows), np.zeros(rows, np.bool_))


def _weights(members: Sequence[Any], weights: Sequence[float] | None) -> tuple[float, ...]:
    if not members:
        raise ConfigError("ensemble: got no members, allowed one or more models")
    given = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (len(members),) or not np.isfinite(given).all() or given.min() < 0 or given.sum() <= 0:
        raise ConfigError(
            f"ensemble: got weights {list(weights or ())} for {len(members)} members, allowed one number >= 0 each, "
            "not all 0"
        )
    return tuple((given / given.sum()).tolist())
