"""What a file says of a text beside it, as text: url, title, date and license of any type.

Numbers become their digits, lists of plain values are joined with ", ", dates and times become ISO 8601, and nested
values, blank text and what has no meaning in the column become null. In the date column a whole number of four digits
is a year, one of eight that is a calendar day is that day, and a larger one is seconds or milliseconds since 1970; text
in RFC 2822's form ("Tue, 02 Jan 2024 03:04:05 GMT") and ISO 8601 with a space become ISO 8601. Other text stays as it
is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from penstock.sources.base import Origin

NAMES = ("url", "title", "date", "license")  # columns of a file that fill an Origin

_ISO = re.compile(r"\d{4}(-\d{2}(-\d{2}(T[\d:.]+(Z|[+-]\d{2}:?\d{2})?)?)?)?")
_MAIL = re.compile(r"([A-Za-z]{3},\s*)?\d{1,2}[ -][A-Za-z]{3}[ -]\d{2,4} \d{1,2}:\d{2}")
# whole numbers of the date column: days as YYYYMMDD lie below the first of these, seconds and milliseconds of the
# years 1973 to 5138 between the others
_SECONDS, _MILLISECONDS, _LARGEST = 10**8, 10**11, 10**14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def origin_of(values: Mapping[str, Any]) -> Origin | None:
    """An Origin of a file's own values by column of ``NAMES``; None where none of them says anything."""
    found = {name: date_text(value) if name == "date" else plain_text(value) for name, value in values.items()}
    if all(value is None for value in found.values()):
        return None
    return Origin(found.get("url"), found.get("title"), found.get("date"), found.get("license"))


def plain_text(value: Any) -> str | None:
    """A value as text; None for null, blank, nested and what is not a number."""
    if isinstance(value, str):
        value = value.strip()
        # an escaped lone surrogate has no UTF-8 form
        return (value if value.isascii() else value.encode("utf-8", "replace").decode()) or None
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, bytes):
        return plain_text(value.decode("utf-8", "replace"))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        parts = [None if isinstance(part, (list, tuple)) else plain_text(part) for part in value]
        return ", ".join(part for part in parts if part is not None) or None
    if isinstance(value, (date, time)):
        return _iso(value)
    if isinstance(value, timedelta) or value != value:  # a duration, or not a number
        return None
    return str(value)


def date_text(value: Any) -> str | None:
    """A value of the date column as ISO 8601 where its form is known."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _number_date(value)
    text = plain_text(value)
    if text is None or _ISO.fullmatch(text):
        return text
    try:
        if _MAIL.match(text):
            return _iso(parsedate_to_datetime(text))
        # only what is ISO 8601 up to the blank between day and time
        return _iso(datetime.fromisoformat(text)) if text[4:5] == "-" else text
    except (ValueError, TypeError):
        return text


def _iso(value: date | time) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _number_date(value: int) -> str | None:
    if 0 <= value < 10_000:
        return f"{value:04d}" if value >= 1000 else str(value)
    digits = str(value)
    if len(digits) == 8:
        try:
            return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).isoformat()
        except ValueError:
            return digits
    if _SECONDS <= value < _LARGEST:
        seconds = timedelta(seconds=value) if value < _MILLISECONDS else timedelta(milliseconds=value)
        try:
            return _iso(_EPOCH + seconds)
        except OverflowError:
            return digits
    return digits
