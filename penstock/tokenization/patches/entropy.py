"""Patches of bytes by rule: where the next byte is hard to foresee, or after a space (arXiv 2412.09871).

With H_i the entropy in nats of byte i given those before it (``byte_lm``), a patch begins at i when

    global      H_i > threshold
    monotonic   H_i - H_(i-1) > threshold
    combined    H_i > threshold and H_i - H_(i-1) > rise, and none began at i - 1
    budget      i is among the n / patch_size - 2 bytes with the highest H_i, ties to the earlier     (not causal)
    space       byte i - 1 is like a space and byte i - 2 is not

The first two positions of a text always begin one. All rules but ``budget`` look back alone: text that is appended
moves no boundary. Like a space is, as published, every byte that is neither an ASCII letter or digit nor a continuation
byte of UTF-8, so the first byte of a longer character is, too; of a run of such bytes only the first ends a patch.

Price: that of the entropies; the rules themselves run at some 200 MB/s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.tokenization.patches.byte_lm import ByteLM, bytes_of, entropies
from penstock.tokenization.patches.schema import patches_batch

Rule = Literal["global", "monotonic", "combined", "budget", "space"]
RULES = ("global", "monotonic", "combined", "budget", "space")


@dataclass(frozen=True, kw_only=True)
class PatchRule:
    """How bytes are cut.

    Attributes:
        rule: one of ``RULES``.
        threshold: nats, of global, monotonic and combined; there is none that suits every model (``threshold_for``).
        rise: nats, of combined.
        patch_size: mean bytes of a patch that ``budget`` aims at.
        most_bytes: longer patches are cut into pieces of this length; None cuts none.
        reset_at_newline: see ``byte_lm.entropies``.
    """

    rule: Rule
    threshold: float | None = None
    rise: float | None = None
    patch_size: float | None = None
    most_bytes: int | None = None
    reset_at_newline: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rule: got {self.rule!r}, allowed {', '.join(RULES)}")
        wanted = {"global": ("threshold",), "monotonic": ("threshold",), "combined": ("threshold", "rise")}
        needed = wanted.get(self.rule, ("patch_size",) if self.rule == "budget" else ())
        for name in ("threshold", "rise", "patch_size"):
            value = getattr(self, name)
            if (value is not None) != (name in needed) or (value is not None and not math.isfinite(value)):
                allowed = "a finite number" if name in needed else "none"
                raise ConfigError(
                    f"{name}: got {value} for the rule {self.rule}, allowed {allowed}; {self.rule} takes "
                    f"{', '.join(needed) or 'no number'}"
                )
        if self.patch_size is not None and self.patch_size < 1:
            raise ConfigError(f"patch_size: got {self.patch_size}, allowed 1 byte or more; 4.5 is usual")
        if self.most_bytes is not None and self.most_bytes < 1:
            raise ConfigError(f"most_bytes: got {self.most_bytes}, allowed 1 or more, or None")
        if self.rule == "space" and self.reset_at_newline:
            raise ConfigError("reset_at_newline: the rule space reads no entropies; leave it out")

    @property
    def by_entropy(self) -> bool:
        return self.rule != "space"


def patch_starts(
    rule: PatchRule, data: NDArray[np.uint8], bounds: NDArray[np.int64], nats: NDArray[np.float64] | None
) -> NDArray[np.bool_]:
    """Which bytes begin a patch: (bytes,).

    Args:
        data, bounds: bytes of all texts and where each begins (``bytes_of``).
        nats: (bytes,) entropies; None for ``space``.
    """
    from penstock.tokenization.patches import _byte_kernels as kernels

    first = np.zeros(data.size + 2, np.bool_)
    begins = bounds[:-1][np.diff(bounds) > 0]
    first[begins] = True
    second = begins[np.diff(bounds)[np.diff(bounds) > 0] > 1] + 1
    first[second] = True
    starts = first[: data.size].copy()
    if rule.rule == "space":
        ends = _space_like(data)
        run = ends.copy()
        run[1:] &= ~ends[:-1]
        run[begins] = ends[begins]
        starts[1:] |= run[:-1]
        return starts
    assert nats is not None
    threshold = rule.threshold or 0.0
    if rule.rule == "global":
        starts |= nats > threshold
    elif rule.rule == "monotonic":
        starts[1:] |= np.diff(nats) > threshold
    elif rule.rule == "combined":
        kernels.combined(nats, bounds, threshold, rule.rise, starts)
    else:
        assert rule.patch_size is not None
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            count = max(0, int((stop - start) / rule.patch_size) - 2)
            rest = nats[start + 2 : stop]
            starts[start + 2 + np.argsort(-rest, kind="stable")[:count]] = True
    return starts


def _space_like(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Neither ASCII letters and digits nor continuation bytes of UTF-8."""
    lower = data | 0x20
    letter = (lower >= ord("a")) & (lower <= ord("z"))
    digit = (data >= ord("0")) & (data <= ord("9"))
    out: NDArray[np.bool_] = ~(letter | digit | ((data & 0xC0) == 0x80))
    return out


def threshold_for(rule: Literal["global", "monotonic"], nats: NDArray[np.float64], patch_size: float) -> float:
    """The threshold that gives patches of about ``patch_size`` bytes in the mean on entropies (bytes,) of a sample.

    Raises ConfigError for another rule, too small a size, or no entropies.
    """
    if rule not in ("global", "monotonic"):
        raise ConfigError(f"rule: got {rule!r}, allowed global, monotonic")
    values = nats if rule == "global" else np.diff(nats)
    if not values.size or patch_size < 1:
        raise ConfigError(
            f"patch_size: got {patch_size} on {values.size} entropies, allowed 1 byte or more on a sample of text"
        )
    return float(np.quantile(values, 1 - 1 / patch_size))


def segment(
    rule: PatchRule,
    doc_ids: Sequence[str],
    texts: pa.Array,
    model: ByteLM | None = None,
    *,
    model_revision: str | None = None,
) -> pa.RecordBatch:
    """Texts cut by a rule: a batch of ``schema.PATCHES``.

    Args:
        texts: string or binary.
        model: gives the entropies; None for ``space``.
        model_revision: digest of the model, as ``ByteLM.save`` gave it.

    Raises:
        ConfigError: a model that the rule does not read, or none where it needs one.
    """
    from penstock.tokenization.patches import _byte_kernels as kernels

    if (model is not None) != rule.by_entropy:
        raise ConfigError(
            f"model: got {'none' if model is None else 'one'} for the rule {rule.rule}, allowed the other: all rules "
            "but space read entropies"
        )
    data, bounds = bytes_of(texts)
    nats = None if model is None else entropies(model, texts, reset_at_newline=rule.reset_at_newline)
    starts = np.flatnonzero(patch_starts(rule, data, bounds, nats))
    lengths = np.diff(starts, append=data.size).astype(np.int64)
    owner = np.searchsorted(bounds, starts, side="right") - 1
    if rule.most_bytes is not None:
        lengths, pieces = kernels.split_long(lengths, rule.most_bytes)
        owner = np.repeat(owner, pieces)
    counts = np.bincount(owner, minlength=len(texts)).astype(np.int64)
    settings = {name: value for name, value in asdict(rule).items() if name != "rule" and value is not None}
    return patches_batch(
        doc_ids,
        texts,
        lengths,
        counts,
        rule=rule.rule,
        params=settings,
        entropies=nats,
        model_revision=model_revision,
    )
