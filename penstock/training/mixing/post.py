"""What every policy's mixture goes through before it reaches the loader: smoothing, running mean, floor, cap on epochs.

In this order, all on shares of tokens w over the K domains that may have a share::

    smoothing   w <- (1 - c) w + c / K
    ema         w <- (1 - e) before + e w
    floor       w_k >= floor: small ones are lifted, the others shrunk by one factor
    max_epochs  w_k <= tokens left to k under the cap / tokens to come; the others grown by one factor

The cap is a projection, not a penalty: after it no domain can be read more often than allowed by the end of the run, as
far as whole sequences go. It comes last, so it wins over the floor. Quotas of whole sequences are the loader's.

Where a rule smooths inside its own recursion (DoReMi), leave ``smoothing`` at 0 here: ``policy_of`` refuses both.

Price: a sort of K numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.mixing.base import Floats

_TOLERANCE = 1e-9  # of shares that should sum to 1


@dataclass(frozen=True, kw_only=True)
class PostStage:
    """The common post-stage; the defaults change nothing.

    Args:
        smoothing: c, 0 to below 1.
        ema: share e of the new mixture in the running mean with the one in force, above 0 and at most 1; None is 1.
        floor: least share of every domain that holds tokens, 0 to 1 / K.
        max_epochs: how often a domain may be read in the whole run, > 0; None is no cap.
        on_infeasible: when the domains that the mixture names cannot fill the rest of the run under the cap: ``error``
            stops with a message; ``redistribute`` draws on domains of weight 0 that have tokens left, and, if all
            together do not suffice, on each in proportion to what it has left.
    """

    smoothing: float = 0.0
    ema: float | None = None
    floor: float = 0.0
    max_epochs: float | None = None
    on_infeasible: Literal["error", "redistribute"] = "error"

    def __post_init__(self) -> None:
        _bounded("smoothing", self.smoothing, 0 <= _finite(self.smoothing) < 1, "0 <= number < 1")
        if self.ema is not None:
            _bounded("ema", self.ema, 0 < _finite(self.ema) <= 1, "0 < number <= 1, or null for none")
        _bounded("floor", self.floor, 0 <= _finite(self.floor) <= 1, "0 to 1 / number of domains")
        if self.max_epochs is not None:
            _bounded("max_epochs", self.max_epochs, _finite(self.max_epochs) > 0, "a number > 0, or null for no cap")
        if self.on_infeasible not in ("error", "redistribute"):
            raise ConfigError(f"on_infeasible: got {self.on_infeasible!r}, allowed 'error' or 'redistribute'")

    def apply(
        self,
        weights: Floats,
        *,
        before: Floats,
        tokens_left: Floats | None = None,
        horizon_tokens: float | None = None,
        held: NDArray[Any] | None = None,
        trained: NDArray[Any] | None = None,
    ) -> tuple[Floats, dict[str, Any]]:
        """The mixture to give to the loader, and what there is to say about it.

        Args:
            weights: a policy's mixture: (K,), >= 0, sum 1.
            before: the mixture in force: (K,).
            tokens_left: what each domain may still give under the cap: (K,); needed with ``max_epochs``.
            horizon_tokens: tokens to come until the end of the run; needed with ``max_epochs``.
            held: tokens of each domain: (K,); domains without any get no share, and ``log_f`` can be told.
            trained: tokens of each domain trained on so far: (K,), for ``epochs``.

        Returns:
            Shares (K,) that sum to 1, and facts as JSON values: ``entropy`` in nats, ``kl`` to the mixture in force
            (null if infinite), ``log_f``: log sum w^2 / p with p proportional to tokens, 0 where w is p
            (arXiv 2410.04579), ``epochs`` by domain, ``capped`` and ``lifted``: indices of domains at their bound.

        Raises:
            ConfigError: weights that are no distribution, a floor above 1 / K, or a cap that cannot be met.
        """
        w, old = _distribution(weights, "weights"), _distribution(before, "before")
        if w.shape != old.shape:
            raise ConfigError(f"weights: got {len(w)}, the mixture in force has {len(old)}; give one per domain")
        present = np.ones(len(w), np.bool_) if held is None else np.asarray(held) > 0
        if (w[~present] > 0).any():
            raise ConfigError("weights: a domain without tokens has a positive weight; give it 0")
        facts: dict[str, Any] = {}
        if self.smoothing:
            w = (1.0 - self.smoothing) * w + self.smoothing * present / present.sum()
        if self.ema is not None:
            w = (1.0 - self.ema) * old + self.ema * w
        if self.floor:
            w, facts["lifted"] = lifted(w, self.floor, present)
        if self.max_epochs is not None:
            if tokens_left is None or horizon_tokens is None:
                raise ConfigError("max_epochs: needs tokens_left and horizon_tokens; the Mixer gives them with steps=")
            w, facts["capped"] = self._capped(w, np.asarray(tokens_left, dtype=np.float64), float(horizon_tokens))
        w = w / w.sum()
        return w, facts | _diagnostics(w, old, held, trained)

    def _capped(self, w: Floats, left: Floats, horizon: float) -> tuple[Floats, list[int]]:
        if left.shape != w.shape or not np.isfinite(left).all() or (left < 0).any() or math.isnan(horizon):
            raise ConfigError(
                f"tokens_left: got {left.tolist()} of {horizon} to come, allowed numbers >= 0, one a domain"
            )
        if horizon <= 0:
            return w, []
        caps = left / horizon
        named = w > 0
        room = float(caps[named].sum())
        if room < 1.0 - _TOLERANCE:
            if self.on_infeasible == "error":
                raise ConfigError(
                    f"max_epochs: {self.max_epochs:g} epochs leave {left[named].sum():,.0f} tokens in the domains of "
                    f"the mixture, {horizon:,.0f} are to come; raise max_epochs, shorten the run, spread the mixture "
                    "by smoothing or floor, or set on_infeasible: redistribute"
                )
            return self._beyond(w, caps)
        return water_fill(w, caps)

    def _beyond(self, w: Floats, caps: Floats) -> tuple[Floats, list[int]]:
        total = float(caps.sum())
        if not total > 0:
            # nothing is left anywhere: the loader says what happens when a domain runs out
            return w, list(range(len(w)))
        named = w > 0
        capped = [int(k) for k in np.flatnonzero(named)]
        if total < 1.0:
            return caps / total, list(range(len(w)))
        rest = np.where(named, 0.0, caps)
        filled: Floats = np.where(named, caps, 0.0)
        return filled + rest / rest.sum() * (1.0 - filled.sum()), capped


def water_fill(weights: Floats, caps: Floats) -> tuple[Floats, list[int]]:
    """min(caps, s * weights) with the factor s that makes it sum to 1, and the domains at their cap.

    Args:
        weights: (K,), >= 0, sum 1.
        caps: (K,), >= 0; those of positive weights sum to at least 1.
    """
    named = np.flatnonzero(weights > 0)
    # in the order in which growing s reaches the caps
    order = named[np.argsort(caps[named] / weights[named], kind="stable")]
    w, cap = weights[order], caps[order]
    # the factor when all domains before this one are at their caps
    factor = np.maximum(1.0 - (np.cumsum(cap) - cap), 0.0) / np.cumsum(w[::-1])[::-1]
    fits = factor * w <= cap
    # by a rounding alone the last one may not fit: it takes what is left
    first = int(np.argmax(fits)) if fits.any() else len(order) - 1
    out = np.zeros(len(weights))
    out[order[:first]] = cap[:first]
    out[order[first:]] = factor[first] * w[first:]
    return out, sorted(int(k) for k in order[:first])


def lifted(w: Floats, floor: float, present: NDArray[np.bool_]) -> tuple[Floats, list[int]]:
    """max(floor, s * w) over the domains present, with the factor s that makes it sum to 1."""
    count = int(present.sum())
    if floor * count > 1.0 + _TOLERANCE:
        raise ConfigError(f"floor: got {floor}, allowed at most 1 / {count} domains = {1 / count:.6g}; lower it")
    low = np.zeros(len(w), np.bool_)
    out = w.copy()
    # lifting shrinks the others, which may then be too small themselves; each round lifts one more at least
    while (small := present & ~low & (out < floor)).any():
        low |= small
        rest = present & ~low
        out[low] = floor
        mass = float(w[rest].sum())
        if mass > 0:
            out[rest] = w[rest] / mass * (1.0 - floor * int(low.sum()))
    return out, [int(k) for k in np.flatnonzero(low)]


def _diagnostics(w: Floats, old: Floats, held: NDArray[Any] | None, trained: NDArray[Any] | None) -> dict[str, Any]:
    some = w > 0
    facts: dict[str, Any] = {"entropy": float(-(w[some] * np.log(w[some])).sum())}
    infinite = bool((old[some] <= 0).any())
    facts["kl"] = None if infinite else float((w[some] * np.log(w[some] / old[some])).sum())
    if held is not None:
        size = np.asarray(held, dtype=np.float64)
        facts["log_f"] = float(np.log((w[some] ** 2 / (size[some] / size.sum())).sum()))
        if trained is not None:
            read = np.divide(np.asarray(trained, np.float64), size, out=np.zeros(len(size)), where=size > 0)
            facts["epochs"] = read.tolist()
    return facts


def _distribution(weights: Floats, name: str) -> Floats:
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not len(w) or not np.isfinite(w).all() or (w < 0).any() or abs(w.sum() - 1.0) > 1e-6:
        raise ConfigError(f"{name}: got {w.tolist()}, allowed finite shares >= 0 that sum to 1")
    total: Floats = w / w.sum()
    return total


def _finite(value: Any) -> float:
    """The number, or nan for what is none, so that any comparison with it fails."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else math.nan


def _bounded(name: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {value!r}, allowed {allowed}; change it")
