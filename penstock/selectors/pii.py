"""Personal data and secrets: found by a scan and checked, then masked or the document dropped.

Kinds are ``email phone ip card iban key ssn``. Each has a policy: ``mask`` puts a placeholder in its place
(``<EMAIL>``), ``drop`` drops the whole document (reason ``pii_email``), ``keep`` does not look for it. What a kind is
and how it is checked stands in ``penstock.selectors.pii_checks``: every check asks for more than a pattern, so little
is masked that is none. Names and postal addresses are not looked for.

``PiiMask`` masks the kinds of both policies and adds the column ``pii``; ``PiiFilter`` drops by that column. What was
found then is in no table that penstock writes, not even in that of dropped rows with their whole text. Masks go through
``penstock.spans``: what training learns from stays true.

Measured on a corpus of planted pieces and look-alikes (``tests/selectors/test_pii.py``): every planted piece of each
kind, no look-alike.

Price on one core: a scan at 200 to 270 MB/s, 1 to 30 µs a place that it names, one copy of the text: 150 to 200 MB/s on
books and reviews, 40 MB/s on mail. phonenumbers adds 20 ms of import and a few MB of numbering plans.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import ConfigError
from penstock.selectors import pii_checks
from penstock.spans import replace_spans

Policy = Literal["mask", "drop", "keep"]
# where two overlap, the first in this order is taken; also the order of reasons
KINDS = ("key", "email", "iban", "card", "ssn", "ip", "phone")
COLUMN = pa.list_(pa.string())
_AROUND = 64  # bytes before and after a place that its check may look at


_REGIONS = ("US", "GB")


def _known_region(code: object) -> bool:
    if code in _REGIONS:
        return True  # the default asks for no import
    import phonenumbers

    return code in phonenumbers.SUPPORTED_REGIONS


@dataclass(frozen=True, kw_only=True)
class PiiRules:
    """The policy of each kind.

    ``consistent`` numbers placeholders by value within a document (``<EMAIL_1>``, ``<EMAIL_2>``, …), so that who speaks
    stays visible. ``private_ips`` looks for addresses that are not public as well. ``phone_regions`` are the ISO 3166
    codes whose national numbers are known; numbers with a country code always are.
    """

    email: Policy = "mask"
    phone: Policy = "mask"
    ip: Policy = "mask"
    card: Policy = "mask"
    iban: Policy = "mask"
    key: Policy = "mask"
    ssn: Policy = "keep"
    consistent: bool = False
    private_ips: bool = False
    phone_regions: tuple[str, ...] = _REGIONS

    def __post_init__(self) -> None:
        for kind in KINDS:
            if getattr(self, kind) not in get_args(Policy):
                raise ConfigError(f"{kind}: got {getattr(self, kind)!r}, allowed mask, drop or keep")
        regions = self.phone_regions
        if isinstance(regions, str) or not all(_known_region(region) for region in regions):
            raise ConfigError(
                f"phone_regions: got {regions!r}, allowed a list of ISO 3166 country codes such as [US, GB]; "
                "[] finds numbers with a country code alone"
            )

    @property
    def wanted(self) -> frozenset[str]:
        """Kinds to look for."""
        return frozenset(kind for kind in KINDS if getattr(self, kind) != "keep")

    def works(self) -> tuple[PiiMask | PiiFilter, ...]:
        """The row work that this asks for, in the order it runs."""
        drops = any(getattr(self, kind) == "drop" for kind in KINDS)
        return (PiiMask(rules=self), PiiFilter(rules=self)) if drops else (PiiMask(rules=self),)


@dataclass(frozen=True, kw_only=True)
class PiiMask:
    """Annotator: the text with placeholders, and ``pii``, the kinds found, one a piece in text order; null for none."""

    name: ClassVar[str] = "pii_mask"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text", "content_hash", "learn", "pii")

    rules: PiiRules = PiiRules()

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self.edit(pa.record_batch({"text": ["a@b.org"]}))

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``text``, ``content_hash``, ``pii`` and, where the batch has it, ``learn``."""
        return self.edit(batch)[0]

    def edit(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """The columns, and the number of pieces of each kind."""
        found = find(batch["text"], self.rules)
        kinds: list[list[str] | None] = [None] * batch.num_rows
        for row, _, _, kind, _ in found:
            kinds[row] = [*(kinds[row] or []), kind]
        rows, starts, stops = (np.array([piece[k] for piece in found], np.int64) for k in range(3))
        masks = pa.array(_placeholders(found, self.rules.consistent), pa.string())
        out = replace_spans(batch, rows, starts, stops, masks) | {"pii": pa.array(kinds, COLUMN)}
        return out, dict(Counter(kind for _, _, _, kind, _ in found))


@dataclass(frozen=True, kw_only=True)
class PiiFilter:
    """Filter: drop documents in which ``PiiMask`` found a kind whose policy is ``drop``."""

    name: ClassVar[str] = "pii"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("pii",)
    adds: ClassVar[tuple[str, ...]] = ()

    rules: PiiRules

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """``pii_<kind>`` or null for each row; of several kinds the first in the order of ``KINDS``. Shape (rows,)."""
        reasons: list[str | None] = [None] * batch.num_rows
        dropped = [kind for kind in KINDS if getattr(self.rules, kind) == "drop"]
        column = batch["pii"]
        for row in np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist():
            held = column[row].as_py()
            reasons[row] = next((f"pii_{kind}" for kind in dropped if kind in held), None)
        return pa.array(reasons, pa.string())


Piece = tuple[int, int, int, str, bytes]  # row, start and stop in its bytes, kind, the bytes


def find(text: pa.Array, rules: PiiRules) -> list[Piece]:
    """Pieces of the kinds that are wanted, by row and start; none overlap."""
    from penstock.selectors import pii_kernels
    from penstock.text import row_views

    places = pii_kernels.places(text)
    if not len(places.rows):
        return []
    offsets, data = row_views(text)
    seen = data.data
    wanted = rules.wanted
    of_row: dict[int, list[tuple[int, int, int, str]]] = {}
    for row, start, stop, place in zip(*(values.tolist() for values in places), strict=True):
        first, last = int(offsets[row]), int(offsets[row + 1])
        here = bytes(
            seen[start : min(start + pii_checks.MOST_BLOCK, last)]
            if place == pii_kernels.KEY_BLOCK
            else seen[start:stop]
        )
        before = bytes(seen[max(first, start - _AROUND) : start])
        after = bytes(seen[stop : min(last, stop + _AROUND)])
        for begin, end, kind in _checked(place, here, before, after, rules):
            if kind in wanted:
                base = start - first
                of_row.setdefault(row, []).append((KINDS.index(kind), base + begin, base + end, kind))
    return [
        (row, start, stop, kind, bytes(seen[int(offsets[row]) + start : int(offsets[row]) + stop]))
        for row, pieces in sorted(of_row.items())
        for start, stop, kind in _apart(pieces)
    ]


def _checked(place: int, data: bytes, before: bytes, after: bytes, rules: PiiRules) -> Iterator[pii_checks.Found]:
    from penstock.selectors import pii_kernels

    if place == pii_kernels.ADDRESS:
        yield from pii_checks.emails(data)
    elif place == pii_kernels.TOKEN:
        yield from pii_checks.keys(data, before, after)
    elif place == pii_kernels.HEXTETS:
        yield from pii_checks.ipv6(data, private=rules.private_ips)
    elif place == pii_kernels.ACCOUNT:
        yield from pii_checks.ibans(data)
    elif place == pii_kernels.KEY_BLOCK:
        yield from pii_checks.key_blocks(data)
    elif not _is_word(after[:1]):
        yield from pii_checks.cards(data)
        if "ssn" in rules.wanted:
            yield from pii_checks.ssns(data)
        yield from pii_checks.ipv4(data, before, after, private=rules.private_ips)
        if "phone" in rules.wanted:
            yield from pii_checks.phones(data, before, rules.phone_regions)


def _is_word(byte: bytes) -> bool:
    return byte.isalnum() or byte == b"_"


def _apart(pieces: list[tuple[int, int, int, str]]) -> list[tuple[int, int, str]]:
    """Pieces that do not overlap, by start: the first kind in order wins, then the earlier and the longer piece."""
    taken: list[tuple[int, int, str]] = []
    for _, start, stop, kind in sorted(pieces, key=lambda piece: (piece[0], piece[1], -piece[2])):
        at = bisect.bisect_left(taken, (start,))
        if (at == 0 or taken[at - 1][1] <= start) and (at == len(taken) or taken[at][0] >= stop):
            taken.insert(at, (start, stop, kind))
    return taken


def _placeholders(pieces: Iterable[Piece], consistent: bool) -> Iterator[str]:
    numbers: dict[tuple[int, str, bytes], int] = {}
    counts: Counter[tuple[int, str]] = Counter()
    for row, _, _, kind, value in pieces:
        if not consistent:
            yield f"<{kind.upper()}>"
            continue
        same = (row, kind, value.lower() if kind == "email" else value)
        if same not in numbers:
            counts[row, kind] += 1
            numbers[same] = counts[row, kind]
        yield f"<{kind.upper()}_{numbers[same]}>"


_ALL = PiiRules(ssn="mask", private_ips=True)
_LONG_NUMBER = r"\+?\d[\d\s().-]{7,}\d"


def masked(text: pa.Array) -> pa.Array:
    """Texts for people to look at: every kind masked, and any long number whatever it is. Null stays null."""
    plain = PiiMask(rules=_ALL).annotate(pa.record_batch({"text": text}))["text"]
    plain = pc.if_else(pc.is_valid(text), plain, pa.scalar(None, plain.type))
    return pc.replace_substring_regex(plain, _LONG_NUMBER, "<NUMBER>")
