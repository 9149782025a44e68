"""Text and numbers as a reader sees them.

``visible`` makes characters that act rather than show (control codes, direction overrides, zero-width marks,
halves of surrogate pairs) readable: a document cannot reorder the words around it or hide some of its own. What
it returns holds only characters that XML allows; the SVG converter stops the whole process on any other.

Price: one regular expression over the text, about 20 MB/s; the report cuts texts before it shows them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

# Everything that Unicode calls control, format, separator of lines or paragraphs, surrogate or noncharacter, and
# letters and marks without a shape. Not in it: tab and line feed, which text needs; U+200C and U+200D, with which
# Persian, Hindi and emoji are written; format characters that do show (Arabic, Syriac and Kaithi number and verse
# signs, joiners of hieroglyphs).
_UNSEEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 17))
    + "]"
)


# the names that people know, in the order of their codes
# fmt: off
_CONTROLS = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "TAB", "LF", "VT", "FF", "CR", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)
# fmt: on


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    name = _CONTROLS[code] if code < len(_CONTROLS) else "DEL" if code == 0x7F else f"U+{code:04X}"
    return f"\u27e8{name}\u27e9"


def visible(text: str) -> str:
    """``text`` with unseen characters shown by name or code: ⟨ESC⟩, ⟨U+202E⟩.

    Tab and line feed stay; CR LF becomes LF, as that is how a line ends in half of all files.
    """
    return _UNSEEN.sub(_shown, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int) -> str:
    """A name, an id or a reason: visible, cut, its tabs and line feeds named too."""
    return shorten(visible(text[: limit + 1]), limit).replace("\n", "⟨LF⟩").replace("\t", "⟨TAB⟩")


def shorten(text: str, limit: int) -> str:
    """The first ``limit`` characters, with an ellipsis where some are left out."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def labels(names: Iterable[str], limit: int = 40) -> dict[str, str]:
    """A one-line, visible, short label for each name; different names keep different labels."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in out:
            continue
        base = shorten(" ".join(visible(name[: limit * 2]).split()) or "(empty)", limit)
        label, n = base, 2
        while label in taken:
            label, n = f"{base} ({n})", n + 1
        taken.add(label)
        out[name] = label
    return out


def count(value: int | None) -> str:
    """1234567 as 1,234,567; a dash where there is none."""
    return "–" if value is None else f"{value:,}"


def number(value: float | None, digits: int = 3) -> str:
    """A float with fixed digits; words for what is not finite."""
    if value is None:
        return "–"
    return (
        f"{value:,.{digits}f}"
        if math.isfinite(value)
        else {"nan": "not a number", "inf": "∞", "-inf": "−∞"}[str(value)]
    )


def signed(value: float | None, digits: int = 3) -> str:
    """A float with its sign, a true minus."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:+,.{digits}f}".replace("-", "−")


def percent(part: float, whole: float) -> str:
    """Share with one digit, a dash of nothing; never 0.0 % or 100.0 % for what is only near."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "< 0.1 %"
    if 99.95 <= share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %"


def size(value: int | None) -> str:
    """Bytes in decimal units with three figures."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value} B"
    scaled = float(value)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        scaled /= 1000
        if scaled < 999.5 or unit == "PB":
            break
    return (
        f"{scaled:.2f} {unit}"
        if scaled < 9.995
        else f"{scaled:.1f} {unit}"
        if scaled < 99.95
        else f"{scaled:,.0f} {unit}"
    )


def amount(value: int) -> str:
    """A count in words for a sentence: 11.2 million."""
    for unit, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if value >= unit:
            return f"{value / unit:.1f} {word}"
    return f"{value:,}"


def duration(seconds: float | None) -> str:
    """0.42 s, 12.3 s, 4 min 05 s, 2 h 07 min."""
    if seconds is None or not math.isfinite(seconds):
        return number(seconds)
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
