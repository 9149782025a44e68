"""The middle of a text from what stands before and after it: fill in the middle with the suffix first.

    layout = InfillLayout("<|fim_prefix|><|fim_suffix|>{suffix}<|fim_middle|>{prefix}")
    infill(model, [("def area(rad", "\\n\\nprint(area(2))\\n")], layout, Sampling(max_bytes=80, temperature=0.0))

In the suffix-prefix-middle layout (Bavarian et al. 2022, arXiv 2207.14255) the prefix flows straight into the middle.
Where the cut is inside a token, a model of tokens is asked from a place that it never saw in training; conditioning on
bytes has no such places. A layout that ends with the suffix and a sentinel (prefix-suffix-middle) works as well: there
what the model saw at its cuts in training decides, and the bytes before the sentinel are no longer open.

A layout is a text with ``{prefix}`` and ``{suffix}`` once each; everything else in it is sentinels as they are spelt in
the tokenizer's special or added tokens. Texts that spell a sentinel themselves are refused: they would move the hole. A
prefix may end inside a character.

The middle ends at STOP, which is the model's end token, or as ``Sampling`` says. The ids of the middle as it was drawn
are of no use in the joined text: encode ``Infilled.data`` again.

Price: a prompt of both sides, and ``generate`` from there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel.distributions import STOP, Bytes, ByteSource, bytes_of, read_on
from penstock.tokenization.bytelevel.sampling import Generated, Sampling, generate

_FIELDS = re.compile(r"\{(prefix|suffix)\}")


@dataclass(frozen=True)
class InfillLayout:
    """How a prefix and a suffix become a prompt.

    Args:
        template: text with ``{prefix}`` and ``{suffix}``, once each, and sentinels around them.

    Raises:
        ConfigError: a field is missing or there twice, or no sentinel stands between the two.
    """

    template: str
    _parts: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = tuple(_FIELDS.split(self.template))
        if sorted(parts[1::2]) != ["prefix", "suffix"] or not parts[2]:
            raise ConfigError(
                f"layout: got {self.template!r}, allowed {{prefix}} and {{suffix}} once each with a sentinel between "
                "them, such as '<SUF>{suffix}<PRE>{prefix}'"
            )
        object.__setattr__(self, "_parts", parts)

    @property
    def sentinels(self) -> tuple[bytes, ...]:
        """The texts around the fields."""
        return tuple(part.encode() for part in self._parts[::2] if part)

    @property
    def flows(self) -> bool:
        """Whether the prefix is the end of the prompt, so that the middle continues its last token."""
        return self._parts[3] == "prefix" and not self._parts[4]

    def prompt(self, prefix: Bytes, suffix: Bytes) -> bytes:
        """The prompt after which the middle comes.

        Raises:
            InputError: prefix or suffix holds one of the sentinels.
        """
        sides = {"prefix": bytes_of(prefix), "suffix": bytes_of(suffix)}
        for name, side in sides.items():
            for sentinel in self.sentinels:
                if sentinel in side:
                    raise InputError(
                        f"infill: got a {name} that spells {sentinel.decode('utf-8', 'replace')!r}, allowed any text "
                        "without the layout's sentinels; take it out, or name another layout"
                    )
        return b"".join(sides[part] if i % 2 else part.encode() for i, part in enumerate(self._parts))


class Infilled(NamedTuple):
    """A middle between its two sides.

    Attributes:
        prefix, suffix: as they were given.
        middle: what was generated.
    """

    prefix: bytes
    middle: Generated
    suffix: bytes

    @property
    def data(self) -> bytes:
        """The joined text."""
        return self.prefix + self.middle.data + self.suffix


def infill(
    source: ByteSource[Any],
    holes: Sequence[tuple[Bytes, Bytes]],
    layout: InfillLayout,
    settings: Sampling,
    *,
    samples: int = 1,
) -> list[list[Infilled]]:
    """Middles for each (prefix, suffix): ``samples`` of each.

    Raises:
        InputError: a side spells a sentinel of the layout.
    """
    prompts = [layout.prompt(prefix, suffix) for prefix, suffix in holes]
    found = generate(source, prompts, settings, samples=samples, special=True)
    return [
        [Infilled(bytes_of(prefix), middle, bytes_of(suffix)) for middle in middles]
        for (prefix, suffix), middles in zip(holes, found, strict=True)
    ]


def middle_logprob(
    source: ByteSource[Any], holes: Sequence[tuple[Bytes, Bytes]], middles: Sequence[Bytes], layout: InfillLayout
) -> NDArray[np.float64]:
    """log P(middle and then STOP | prefix, suffix) of one middle for each hole: (n,).

    For a choice among given middles. One step a byte: works for ensembles as well.
    """
    if len(middles) != len(holes):
        raise ConfigError(f"middle_logprob: got {len(middles)} middles for {len(holes)} holes, allowed one each")
    if not holes:
        return np.zeros(0)
    state = source.start([layout.prompt(prefix, suffix) for prefix, suffix in holes], special=True)
    found = read_on(state, [[*bytes_of(middle), STOP] for middle in middles])
    return np.array([values.sum() for values in found])
