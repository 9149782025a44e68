"""Keep or drop documents by their licence.

The column ``license`` holds an SPDX licence expression (SPDX specification, annex D): an identifier such as
``CC-BY-4.0``, or several with AND, OR and WITH, in any case of letters. One may choose among the sides of OR and must
meet all of AND; an exception (WITH) and a "+" leave an identifier what it is. An identifier is taken if it is not in
``deny`` and ``allow`` is empty or has it.

    license_denied       no choice is without a denied identifier
    license_not_allowed  no choice is of allowed identifiers alone
    license_unknown      there is none, or it is no SPDX expression, and ``unknown`` is ``drop``

Identifiers of ``allow`` and ``deny`` are checked against the list of SPDX that comes with the packaging library.

Price: each different value of a batch is read once, 10 µs; a lookup a row.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import ConfigError

_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9][A-Za-z0-9.:+-]*)")
_MOST = 4096  # characters of an expression
_MOST_NESTED = 64


@dataclass(frozen=True, kw_only=True)
class LicenseFilter:
    """Filter: drop documents whose licence is denied or not allowed."""

    name: ClassVar[str] = "licenses"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("license",)
    adds: ClassVar[tuple[str, ...]] = ()

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    unknown: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        for field in ("allow", "deny"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise ConfigError(f"{field}: got {names!r}, allowed a list of SPDX identifiers; write [{names!r}]")
            for name in names:
                _check_identifier(field, name)
        if self.unknown not in ("keep", "drop"):
            raise ConfigError(f"unknown: got {self.unknown!r}, allowed keep or drop")
        if not self.allow and not self.deny and self.unknown == "keep":
            raise ConfigError(
                "licenses: got neither allow nor deny, allowed one of them at least, or unknown: drop; set licenses to "
                "null to switch the filter off"
            )
        both = {name.lower() for name in self.allow} & {name.lower() for name in self.deny}
        if both:
            raise ConfigError(f"allow, deny: got {', '.join(sorted(both))} in both, allowed each in one; remove it")

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The reason or null for each row. Shape (rows,)."""
        found = pc.dictionary_encode(batch["license"], null_encoding="encode")
        reasons = pa.array([self._reason(value) for value in found.dictionary.to_pylist()], pa.string())
        return reasons.take(found.indices)

    def _reason(self, license: str | None) -> str | None:
        choices = None if license is None else alternatives(license)
        if choices is None:
            return "license_unknown" if self.unknown == "drop" else None
        deny = {name.lower() for name in self.deny}
        allow = {name.lower() for name in self.allow}
        left = [names for names in choices if not names & deny]
        if not left:
            return "license_denied"
        if allow and not any(names <= allow for names in left):
            return "license_not_allowed"
        return None


def alternatives(expression: str) -> list[frozenset[str]] | None:
    """The sets of identifiers, in small letters, any one of which meets an SPDX expression; None if it is none.

    >>> alternatives("MIT AND (Apache-2.0 OR GPL-2.0-only WITH Classpath-exception-2.0)")
    [frozenset({'mit', 'apache-2.0'}), frozenset({'mit', 'gpl-2.0-only'})]
    """
    if len(expression) > _MOST or expression.count("(") > _MOST_NESTED or _TOKEN.sub("", expression).strip():
        return None
    tokens = [token.lower() for token in _TOKEN.findall(expression)]
    found = _either(tokens)
    return None if tokens else found


_OPERATORS = ("and", "or", "with", "(", ")")
_MOST_CHOICES = 256


def _either(tokens: list[str]) -> list[frozenset[str]] | None:
    """One or more sides of OR, taken off the front of ``tokens``."""
    found: list[frozenset[str]] = []
    while True:
        side = _all(tokens)
        if side is None or len(found) + len(side) > _MOST_CHOICES:
            return None
        found += side
        if tokens[:1] != ["or"]:
            return found
        del tokens[0]


def _all(tokens: list[str]) -> list[frozenset[str]] | None:
    found = [frozenset[str]()]
    while True:
        side = _one(tokens)
        if side is None or len(found) * len(side) > _MOST_CHOICES:
            return None
        found = [a | b for a in found for b in side]
        if tokens[:1] != ["and"]:
            return found
        del tokens[0]


def _one(tokens: list[str]) -> list[frozenset[str]] | None:
    if tokens[:1] == ["("]:
        del tokens[0]
        inside = _either(tokens)
        if inside is None or tokens[:1] != [")"]:
            return None
        del tokens[0]
        return inside
    if not tokens or tokens[0] in _OPERATORS:
        return None
    name = tokens.pop(0).removesuffix("+")
    if tokens[:1] == ["with"]:
        if len(tokens) < 2 or tokens[1] in _OPERATORS:
            return None
        del tokens[:2]
    return [frozenset({name})]


def _check_identifier(field: str, name: object) -> None:
    if _is_identifier(name):
        return
    from packaging.licenses._spdx import LICENSES

    names = {key: entry["id"] for key, entry in LICENSES.items()}
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"did you mean {names[near[0]]}?" if near else "see spdx.org/licenses"
    raise ConfigError(f"{field}: got {name!r}, allowed SPDX identifiers such as CC-BY-4.0; {hint}")


def _is_identifier(name: object) -> bool:
    """Whether it is on SPDX's list, or a ``LicenseRef-`` of its own."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9.-]*", name):
        return False
    try:
        canonicalize_license_expression(name)
    except InvalidLicenseExpression:
        return False
    return True
