"""What the rules of this package share: the simplex in logarithms, shares from names, checked settings, state as JSON.

A policy of your own needs none of it; ``base.MixingPolicy`` is the whole interface.

Price: a few operations on arrays of shape (K,).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.training.mixing.base import Cadence, Floats
from penstock.training.shares import Weights, domain_weights

Shares: TypeAlias = Weights

# least log-weight that a rule keeps: e**-700 is still a float64, so a domain can come back from anywhere
LOWEST = -700.0
# a log-increment beyond this cannot move a weight further, and differences of two must not overflow
_LARGEST_STEP = 1e300


@dataclass(kw_only=True, eq=False)
class Rule:
    """Base of the policies here. Fields that ``__init__`` takes are settings, those in ``kept`` are state.

    A domain without tokens is no part of the simplex: its weight is 0 whatever is observed.
    """

    kept: ClassVar[tuple[str, ...]] = ()

    name: str = field(default="", init=False)
    cadence: Cadence = field(default_factory=Cadence)
    domains: tuple[str, ...] = field(default=(), init=False, repr=False)
    present: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_), init=False, repr=False)  # (K,)

    def begin(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> None:
        """Take the domains over; ConfigError when none of them holds a token."""
        self.domains = tuple(domains)
        self.present = np.asarray(tokens) > 0
        if not self.present.any():
            raise ConfigError(f"policy {self.name}: no domain holds a token; pack some data first")

    def state_dict(self) -> dict[str, Any]:
        """State and what it is of, as JSON values; a number that is not finite becomes null."""
        state: dict[str, Any] = {"domains": list(self.domains), "present": self.present.tolist()}
        return state | {name: _to_json(getattr(self, name)) for name in self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that ``state_dict`` gave; DatasetError when it is of other domains than ``start`` got."""
        domains = tuple(state["domains"])
        if self.domains and domains != self.domains:
            raise DatasetError(
                f"policy {self.name}: the state is of domains {', '.join(domains)}, here are "
                f"{', '.join(self.domains)}; go on with the same data, or start the policy anew"
            )
        self.domains, self.present = domains, np.array(state["present"], dtype=np.bool_)
        for name in self.kept:
            setattr(self, name, _from_json(state[name]))


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        plain = value.astype(object)
        plain[~np.isfinite(value)] = None
        return plain.tolist()
    return value


def _from_json(value: Any) -> Any:
    """Lists of numbers become float64 arrays, null among them nan."""
    if isinstance(value, list):
        return np.array(value, dtype=np.float64)
    return value


def softmax(logs: Floats, present: NDArray[np.bool_]) -> Floats:
    """Weights of unnormalised log-weights over the domains present, 0 elsewhere: (K,), sum 1."""
    out = np.zeros(len(logs))
    out[present] = np.exp(logs[present] - logs[present].max())
    total: Floats = out / out.sum()
    return total


def log_shares(weights: Floats, present: NDArray[np.bool_]) -> Floats:
    """Logarithms of the weights of the domains present, which are above 0; ``LOWEST`` at least: (K,)."""
    out = np.full(len(weights), LOWEST)
    out[present] = np.maximum(np.log(weights[present]), LOWEST)
    return out


def mirror_step(logs: Floats, increments: Floats, present: NDArray[np.bool_]) -> Floats:
    """``log a_k += increment_k`` and normalise, for the domains that have an increment: (K,).

    A domain whose increment is nan was not seen. It keeps its share, and the others move among themselves: an increment
    of 0 instead would push it down whenever the others' are positive.
    """
    seen = present & ~np.isnan(increments)
    if not seen.any():
        return logs.copy()
    step = np.clip(increments[seen], -_LARGEST_STEP, _LARGEST_STEP)
    held = _log_sum(logs[seen])
    moved = logs[seen] + (step - step.max())
    out = logs.copy()
    out[seen] = moved - _log_sum(moved) + held
    out[present] -= _log_sum(out[present])
    return np.maximum(out, LOWEST)


def _log_sum(logs: Floats) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))


class _Held(NamedTuple):
    domains: tuple[str, ...]
    tokens: tuple[int, ...]


def shares(
    weights: Shares,
    domains: Sequence[str],
    tokens: Sequence[int] | NDArray[np.int64],
    *,
    temperature: float = 1.0,
    what: str = "mixture",
) -> Floats:
    """``domain_weights`` of the loader over domains that hold ``tokens`` (K,), as an array: (K,), sum 1."""
    if not isinstance(weights, (str, Mapping)):
        raise ConfigError(f"{what}: got {weights!r}, allowed 'proportional', 'uniform' or a weight per domain")
    held = _Held(tuple(domains), tuple(int(t) for t in tokens))
    return np.array(domain_weights(held, weights, temperature=temperature, what=what))


def check_names(given: Sequence[str] | Mapping[str, Any], domains: Sequence[str], what: str) -> None:
    """ConfigError for a name that is no domain, with the nearest ones."""
    for name in given:
        if name not in domains:
            near = difflib.get_close_matches(str(name), domains, n=3, cutoff=0.5)
            raise ConfigError(
                f"{what}: unknown domain {name!r}; "
                + (f"did you mean {' or '.join(near)}? " if near else "")
                + f"The data has {', '.join(domains)}"
            )


def numbers(values: Sequence[Any], what: str) -> Floats:
    """Finite numbers >= 0 as float64, or a ConfigError."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ConfigError(f"{what}: got {value!r} among {list(values)}, allowed finite weights >= 0")
    return np.array(values, dtype=np.float64)


def setting(
    owner: Rule, name: str, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    """ConfigError unless a setting of a policy is a finite number within its bounds."""
    value = getattr(owner, name)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < least or value <= above or value > most:
        bounds = [
            f">= {least:g}" if least > -math.inf else "",
            f"> {above:g}" if above > -math.inf else "",
            f"<= {most:g}" if most < math.inf else "",
        ]
        allowed = " and ".join(bound for bound in bounds if bound)
        raise ConfigError(f"policy {owner.name}, {name}: got {value!r}, allowed a finite number {allowed}".rstrip())


def choice(owner: Rule, name: str, allowed: Sequence[Any]) -> None:
    """ConfigError unless a setting of a policy is one of some values."""
    value = getattr(owner, name)
    if value not in allowed:
        raise ConfigError(f"policy {owner.name}, {name}: got {value!r}, allowed {' or '.join(map(repr, allowed))}")
