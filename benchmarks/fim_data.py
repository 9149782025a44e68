"""Code for ``benchmarks.fim``: the standard library of this interpreter, its vocabularies, and places to cut it.

A module or package of the library is held out as a whole, about every eighth by a hash of its name. Vocabularies and
models see the others only. Tests of the library, its tables of character sets and its older copies of itself are left
out.

A hole runs from a cut inside an identifier to the end of its line. What stands before, up to 160 tokens and from the
beginning of a line, is the prefix; up to 64 tokens of the lines after it are the suffix. What is wanted are the rest of
the identifier and the one byte after it.
"""

from __future__ import annotations

import hashlib
import io
import json
import keyword
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.seeding import coins, hash_ids, stream
from penstock.tokenization.bpe import END, BPEConfig, train_bpe

SEED = 7
SUFFIX, PREFIX = "<|fim_suffix|>", "<|fim_prefix|>"
LAYOUT = f"{SUFFIX}{{suffix}}{PREFIX}{{prefix}}"
HELD_OUT = 0.12  # share of modules
PREFIX_TOKENS, SUFFIX_TOKENS = 160, 64
LEAST = 4  # characters of an identifier that is cut
LONGEST = 40  # bytes that are generated at most

_LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings", "pydoc_data", "__pycache__"}


@dataclass(frozen=True)
class Source:
    """A file of the library."""

    name: str
    text: str


def sources() -> tuple[list[Source], list[Source]]:
    """Files to learn from, and files held out, each in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if not _LEFT_OUT & set(path.relative_to(root).parts)]
    modules = [path.relative_to(root).parts[0] for path in paths]
    held = coins(hash_ids(modules), SEED, "held out") < HELD_OUT
    both: tuple[list[Source], list[Source]] = ([], [])
    for path, out in zip(paths, held.tolist(), strict=True):
        text = path.read_text("utf-8", errors="strict") if _is_utf8(path) else ""
        if text and not any(mark in text for mark in (SUFFIX, PREFIX, END)):
            both[out].append(Source(str(path.relative_to(root)), text))
    return both


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def train_vocabulary(texts: list[str], size: int, path: Path) -> None:
    """A byte-level BPE of ``size`` tokens, the two sentinels among them."""
    made = train_bpe(texts, BPEConfig(vocabulary_size=size, special=(SUFFIX, PREFIX)))
    path.write_bytes(made)


def load_vocabulary(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def widths_of(path: Path) -> NDArray[np.int64]:
    """Bytes of every token of a byte-level vocabulary; 0 for the special ones."""
    state = json.loads(path.read_text())
    out = np.zeros(1 + max(state["model"]["vocab"].values()), np.int64)
    for token, number in state["model"]["vocab"].items():
        out[number] = len(token)
    for token in state["added_tokens"]:
        out[token["id"]] = 0
    return out


@dataclass(frozen=True)
class Cut:
    """A hole in a held-out file.

    Attributes:
        wanted: the rest of the identifier and the byte after it.
        inside: the cut is inside a token of the whole text.
        back: tokens of the prefix, encoded alone, that are none of the whole text; 0 at a boundary of tokens.
    """

    file: str
    prefix: bytes
    suffix: bytes
    wanted: bytes
    inside: bool
    back: int


class CodeText:
    """A file as bytes, as tokens, and the places where it may be cut."""

    def __init__(self, source: Source, tokenizer: Any, widths: NDArray[np.int64]) -> None:
        self._name, self._tokenizer = source.name, tokenizer
        self._data = source.text.encode()
        self._ids = np.array(tokenizer.encode(source.text, add_special_tokens=False).ids, np.int64)
        self._ends = np.cumsum(widths[self._ids])
        whole = len(self._ids) > 0 and self._ends[-1] == len(self._data)
        self.names = list(_identifiers(source.text)) if whole else []
        # a line may begin inside a token of several line ends
        ends = np.flatnonzero(np.frombuffer(self._data, np.uint8) == 10) + 1
        self._lines = np.concatenate([[0], np.intersect1d(ends, self._ends)])

    def inside_names(self, rng: np.random.Generator, most: int) -> list[Cut]:
        """Up to ``most`` cuts at random places strictly inside identifiers."""
        out: list[Cut] = []
        for pick in rng.permutation(len(self.names)).tolist():
            start, stop = self.names[pick]
            cut = self._cut(int(rng.integers(start + 1, stop)), stop)
            out += [] if cut is None else [cut]
            if len(out) == most:
                break
        return out

    def before_names(self, rng: np.random.Generator, most: int) -> list[Cut]:
        """Up to ``most`` cuts before random identifiers that begin with a token."""
        out: list[Cut] = []
        for pick in rng.permutation(len(self.names)).tolist():
            cut = self._cut(*self.names[pick])
            out += [] if cut is None or cut.inside else [cut]
            if len(out) == most:
                break
        return out

    def _cut(self, at: int, stop: int) -> Cut | None:
        """A hole from byte ``at`` to the end of its line, at or in an identifier that ends at ``stop``."""
        ids, ends, lines = self._ids, self._ends, self._lines
        whole = int(np.searchsorted(ends, at, side="right"))  # tokens that end at the cut or before it
        earliest = ends[whole - PREFIX_TOKENS - 1] if whole > PREFIX_TOKENS else 0
        line = int(np.searchsorted(lines, at, side="right"))
        begin = int(lines[np.searchsorted(lines, earliest, side="left")])
        if line >= len(lines) or begin >= at:
            return None
        after = int(lines[line])
        first = int(np.searchsorted(ends, after, side="right"))
        last = int(ends[min(first + SUFFIX_TOKENS, len(ends)) - 1])
        suffix = self._data[after:last] if first < len(ends) else b""
        prefix = self._data[begin:at]
        inside = not (whole and ends[whole - 1] == at)
        alone = self._tokenizer.encode(prefix.decode(), add_special_tokens=False).ids
        kept = ids[int(np.searchsorted(ends, begin, side="right")) : whole].tolist()
        pairs = enumerate(zip(alone, kept, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(alone), len(kept)))
        if not suffix or (not inside and alone != kept):
            return None
        return Cut(self._name, prefix, suffix, self._data[at : stop + 1], inside, len(alone) - same)


def _identifiers(text: str) -> Iterator[tuple[int, int]]:
    """Byte ranges of the names of a program of ``LEAST`` and more ASCII letters, keywords not."""
    starts = np.concatenate([[0], np.cumsum([len(line.encode()) for line in text.splitlines(keepends=True)])])
    if text.count("\n") != len(text.splitlines()) or not text.isascii():
        return  # other line ends, or offsets that are not bytes
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and len(token.string) >= LEAST and not keyword.iskeyword(token.string):
                row = int(starts[token.start[0] - 1])
                yield row + token.start[1], row + token.end[1]
    except (tokenize.TokenError, SyntaxError):
        return


def draw_cuts(
    held: list[Source], vocabulary: Path, *, inside: int, boundary: int, before: int, deep: int
) -> dict[str, list[Cut]]:
    """Cuts by kind.

    ``inside`` a token, at a ``boundary`` of tokens inside an identifier, and ``deep`` ones with two and more tokens to
    back off are drawn from random places inside identifiers; some of the deep ones are among the inside ones. Those
    ``before`` stand at a boundary of tokens where an identifier begins.
    """
    tokenizer, widths = load_vocabulary(vocabulary), widths_of(vocabulary)
    texts = {source.name: CodeText(source, tokenizer, widths) for source in held}
    drawn = _shuffled("order", [text.inside_names(stream(SEED, "cuts", name), 100) for name, text in texts.items()])
    starts = _shuffled("before", [text.before_names(stream(SEED, "before", name), 50) for name, text in texts.items()])
    return {
        "inside": [cut for cut in drawn if cut.inside][:inside],
        "boundary": [cut for cut in drawn if not cut.inside][:boundary],
        "before": starts[:before],
        "deep": [cut for cut in drawn if cut.back >= 2][:deep],
    }


def _shuffled(name: str, parts: list[list[Cut]]) -> list[Cut]:
    pool = [cut for part in parts for cut in part]
    return [pool[i] for i in stream(SEED, name).permutation(len(pool)).tolist()]


def digest(things: Sequence[Any]) -> str:
    """What tells lists of cuts, or of texts, apart."""
    return hashlib.sha256(repr(things).encode()).hexdigest()[:12]
