"""The code blocks of the documentation, and what marks above them say about running them.

    <!-- not run: needs a bucket -->                        the block is read and checked, not run
    <!-- run with: steps=1000 => steps=2; 64 => 4 -->       what is run in place of what is printed
    <!-- saved as: my_filters.py -->                        the block is a file that later blocks import
    <!-- of: rubric -->                                     YAML of something else than a recipe

A mark is a comment: readers of the page do not see it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("python", "sh", "bash", "console", "yaml", "json", "ini", "")

_BLOCK = re.compile(
    r"^(?P<marks>(?:<!-- [^\n]* -->\n+)*)(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"<!-- (not run|run with|saved as|of): (.+?) -->")
_PENSTOCK = re.compile(r"^(?:\.venv/bin/)?penstock\s")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path of the page in the project.
        line: where its first line of code stands.
        language: what the fence names; empty for what is no code.
        marks: kind of mark to what it says.
    """

    page: str
    line: int
    language: str
    code: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runnable(self) -> str:
        """The code with the replacements of ``run with``.

        Raises:
            ValueError: one of them replaces nothing.
        """
        code = self.code
        for replacement in filter(None, self.marks.get("run with", "").split("; ")):
            old, arrow, new = replacement.partition(" => ")
            if not arrow or old not in code:
                raise ValueError(f"{self}: `run with: {replacement}` replaces nothing")
            code = code.replace(old, new)
        return code

    @property
    def commands(self) -> list[list[str]]:
        """The penstock commands of a shell block as words, without comments and redirections."""
        found = []
        for line in self.code.replace("\\\n", " ").splitlines():
            if _PENSTOCK.match(line):
                words = shlex.split(_without_comment(line.replace("$'", "'")))[1:]
                end = min((words.index(sign) for sign in ("<", ">", "|", "&&") if sign in words), default=len(words))
                found.append(words[:end])
        return found


def _without_comment(line: str) -> str:
    """A line of shell up to a ``#`` that begins a word; one inside a word or in quotes is none."""
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and line[place - 1 : place] in ("", " "):
            return line[:place]
    return line


def pages() -> list[str]:
    """All pages with code: the README and what lies under docs/."""
    return ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks of a page in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text[: found.start("code")].count("\n") + 1
        yield Block(page, line, found["language"].strip(), found["code"], dict(_MARK.findall(found["marks"])))


def blocks(*languages: str) -> list[Block]:
    """All blocks of these languages, by page."""
    return [block for page in pages() for block in blocks_of(page) if block.language in languages]
