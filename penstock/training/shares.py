"""From what a user or a policy asks for to what the mixture log holds: shares of tokens, quotas and caps.

Weights are shares of *tokens*, padding apart. A block counts sequences, so a domain whose sequences hold more padding
gets more of them.

What a mapping may hold: numbers that stand in a ratio, such as {"docs": 3, "code": 1}, or shares that sum to one.
Numbers that are all below 1 and do not sum to 1 look like shares of which one was mistyped or forgotten: they are
refused. A vector comes from a rule, whose output is a distribution: it must sum to 1.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.blocks import quotas
from penstock.training.store import Store

Weights = Mapping[str, float] | Literal["proportional", "uniform"]
Caps = float | Mapping[str, float]

# shares written by a person are rounded, those of a rule are not
_ROUNDED, _EXACT = 0.02, 1e-6


class Held(Protocol):
    """All of a store that shares depend on."""

    @property
    def domains(self) -> tuple[str, ...]: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...


def domain_weights(
    store: Held, weights: Weights, *, temperature: float = 1.0, what: str = "mixture"
) -> tuple[float, ...]:
    """Probabilities of the store's domains, as shares of tokens: shape (K,), sum 1.

    Args:
        weights: a number >= 0 for every domain, in a ratio or as shares; or "proportional",
            tokens ** (1 / temperature); or "uniform", equal shares of all domains that have sequences.
        temperature: above 1 flattens "proportional", below 1 sharpens it; it changes nothing else.
        what: names the setting in errors.

    Raises:
        ConfigError: an unknown or a missing domain, a bad number, shares that do not sum to 1, or weight on an
            empty domain.
    """
    tokens = np.array(store.tokens, dtype=np.float64)
    if isinstance(weights, str):
        if weights not in ("proportional", "uniform"):
            raise ConfigError(f"{what}: got {weights!r}, allowed 'proportional', 'uniform' or a weight per domain")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature: got {temperature}, allowed > 0; 1 is proportional")
        present = tokens > 0
        p = present.astype(np.float64)
        if weights == "proportional":
            # relative to the largest domain, so that a small temperature cannot overflow
            p[present] = (tokens[present] / tokens.max(initial=1.0)) ** (1.0 / temperature)
    else:
        for name in weights:
            if name not in store.domains:
                raise ConfigError(f"{what}: unknown domain {name!r}; {_nearest(name, store.domains)}")
        missing = [name for name in store.domains if name not in weights]
        if missing:
            raise ConfigError(f"{what}: no weight for {', '.join(missing)}; write 0 to leave a domain out")
        p = _numbers([weights[name] for name in store.domains], dict(weights), what)
        if p.size and float(p.max()) < 1 and abs(float(p.sum()) - 1) > _ROUNDED and p.sum() > 0:
            raise ConfigError(
                f"{what}: the weights {dict(weights)} sum to {p.sum():g}, allowed shares that sum to 1; "
                "mend them, or write a ratio with numbers from 1 on"
            )
        empty = [name for name, w, t in zip(store.domains, p, tokens, strict=True) if w > 0 and t == 0]
        if empty:
            raise ConfigError(f"{what}: {', '.join(empty)} has no sequences but a positive weight; write 0")
    if not p.sum() > 0:
        raise ConfigError(f"{what}: no domain has a positive weight; give at least one")
    return tuple(float(x) for x in p / p.sum())


def vector_weights(weights: Any, domains: Sequence[str]) -> dict[str, float]:
    """A rule's weights by name: (K,) finite numbers >= 0 that sum to 1, in the order of ``domains``.

    Raises:
        ConfigError: another shape, a bad number, or another sum.
    """
    p = _numbers(weights, weights)
    if p.shape != (len(domains),):
        raise ConfigError(f"mixture: got weights of shape {p.shape}, allowed one for each of {', '.join(domains)}")
    if abs(float(p.sum()) - 1) > _EXACT:
        raise ConfigError(f"mixture: the weights {p.tolist()} sum to {p.sum():g}, allowed 1; normalise them")
    return dict(zip(domains, p.tolist(), strict=True))


def sequence_quotas(store: Store, weights: Sequence[float], block: int) -> tuple[int, ...]:
    """Sequences per block such that the *tokens*, padding apart, come in the ratio of ``weights`` (K,)."""
    per_sequence = [t / r if r else 1.0 for t, r in zip(store.tokens, store.rows, strict=True)]
    return quotas([w / size if w else 0.0 for w, size in zip(weights, per_sequence, strict=True)], block)


def row_limits(store: Store, max_epochs: Caps | None, on_exhausted: str) -> tuple[int | None, ...]:
    """Sequences that may be read of each domain: shape (K,), None is no limit.

    Args:
        max_epochs: for all domains or for some, the others have none; None is one epoch of each where
            ``on_exhausted`` is not "repeat". A part of an epoch is rounded down to whole sequences.

    Raises:
        ConfigError: a cap that is not above 0 or holds no sequence, an unknown domain, or caps under "repeat".
    """
    if on_exhausted == "repeat":
        if max_epochs is not None:
            raise ConfigError(
                f"max_epochs: got {max_epochs}, allowed none while on_exhausted is repeat; "
                "say what follows when a domain is used up: redistribute or stop"
            )
        return (None,) * len(store.domains)
    if isinstance(max_epochs, Mapping):
        caps = dict(max_epochs)
    else:
        caps = dict.fromkeys(store.domains, 1.0 if max_epochs is None else max_epochs)
    for name, cap in caps.items():
        if name not in store.domains:
            raise ConfigError(f"max_epochs: unknown domain {name!r}; {_nearest(name, store.domains)}")
        if not (math.isfinite(cap) and cap > 0):
            raise ConfigError(f"max_epochs: got {cap} for {name}, allowed a number above 0; write weight 0 instead")
    limits: list[int | None] = []
    for name, rows in zip(store.domains, store.rows, strict=True):
        # 0.29 of 100 rows is 29, though its product is 28.999…
        limit = math.floor(round(caps[name] * rows, 6)) if name in caps else None
        if limit == 0 and rows:
            raise ConfigError(f"max_epochs: {caps[name]} epochs of {name}'s {rows} sequences hold none; raise it")
        limits.append(limit)
    return tuple(limits)


def _numbers(values: Any, shown: Any, what: str = "mixture") -> NDArray[np.float64]:
    try:
        p = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: got {shown}, allowed finite weights >= 0") from error
    if not np.isfinite(p).all() or (p < 0).any():
        raise ConfigError(f"{what}: got {shown}, allowed finite weights >= 0")
    return p


def _nearest(name: str, domains: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, domains, n=3, cutoff=0.5)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"The data has {', '.join(domains)}"
