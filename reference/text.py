"""What the made pages share: cells of tables, docstrings as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

# "name: text" or "name, other: text", also with stars or in code quotes, as docstrings list arguments
_ENTRY = re.compile(r"^(?P<names>[`*\w][\w`*, .]*?): (?P<text>.*)$")
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):\s*$")


def cell(text: str) -> str:
    """Text as a cell of a table: on one line, nothing in it that ends the cell or begins HTML."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def escaped(text: str) -> str:
    """Markdown in which ``<`` begins no tag; code in back quotes stays as it is."""
    parts = re.split(r"(`+[^`]*`+)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def code(text: str) -> str:
    """Text as code in a cell; a bar would end the cell wherever it stands."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, ready cells given; nothing without rows."""
    if not rows:
        return []
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def docstring(text: str) -> list[str]:
    """A docstring as Markdown lines: its sections become lists under bold titles, indented text stays code."""
    out: list[str] = []
    section = None
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
            out += ["", f"**{section.replace('Args', 'Arguments')}**", ""]
        elif section is None:
            # four spaces or more are code in Markdown too
            out.append(line if line.startswith("    ") else escaped(line))
        elif line and not line.startswith(" "):
            section = None
            out += ["", escaped(line)]
        else:
            out += _entry(section, line)
    return out


def _entry(section: str, line: str) -> list[str]:
    """A line of a section: the first of an entry, or one that goes on."""
    body = line[4:] if line.startswith("    ") else line.strip()
    if not body.strip():
        return [""]
    if body.startswith(" "):
        return ["  " + escaped(body.strip())]
    if section in ("Returns", "Yields"):
        return [escaped(body)]
    if found := _ENTRY.match(body):
        names = ", ".join(f"`{name.strip(' `')}`" for name in found["names"].split(","))
        return [f"- {names}: {escaped(found['text'])}"]
    return [f"- {escaped(body)}"]
