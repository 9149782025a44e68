"""Lists out of what a language model answered: JSON, JSON that was cut off, or marked passages.

    {"items": [a, b, c]}          alone, in a fence, or with talk around it
    [a, b, c]                     the list alone
    {"items": [a, b, {"te         cut off: the entries that are whole, and how many were not
    <item>a</item> <item>b        marked: the entries that are whole, and how many were not

Nothing is repaired: an entry is whole, or it is counted as cut. Text that holds none of these is None. What a model
thought aloud (up to ``</think>``) is no part of its answer.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_LONGEST = 1 << 20  # characters that are looked at: what answers a bounded request is shorter


class Listed(NamedTuple):
    """The entries of an answer in their order, as JSON values or as marked text, and how many were not whole."""

    entries: list[Any]
    cut: int = 0


def read_list(text: str, key: str, tag: str) -> Listed | None:
    """The list under ``key``, or the passages marked by ``tag``; None where there is neither, or nothing in it."""
    text = text.rpartition("</think>")[2][:_LONGEST]
    opened = re.search(rf'"{re.escape(key)}"\s*:\s*\[', text) or re.match(r"\s*(```\w*\s*)?\[", text)
    read = _entries(text, opened.end()) if opened else None
    if read is None or not read.entries:
        read = _marked(text, tag)
    return read if read.entries else None


def _entries(text: str, at: int) -> Listed:
    """JSON values from ``at`` up to the bracket that closes the list, or to the first that is no value."""
    decoder, entries = json.JSONDecoder(), list[Any]()
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at == len(text) or text[at] == "]":
            return Listed(entries)
        try:
            entry, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            return Listed(entries, 1)
        entries.append(entry)


def _marked(text: str, tag: str) -> Listed:
    whole = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return Listed([one.strip() for one in whole], text.count(f"<{tag}>") - len(whole))


def plain(value: Any) -> str:
    """A text without the space around it; nothing where a value is none, or holds half a surrogate pair."""
    if not isinstance(value, str):
        return ""
    try:
        value.encode()
    except UnicodeEncodeError:  # no request could be made of it
        return ""
    return value.strip()


def marked(text: str, tag: str) -> str | None:
    """The first passage marked by ``tag``, without the space around it; None where there is none."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[1].strip() if found else None
