"""Where merging a batch must stop: the text of every row cut into units.

A merge joins tokens of one unit only. The units, by ``Boundary``:

    pretoken     the pieces of the base tokenizer's pre-tokenizer
    word         what stands between white space, with the space before it
    word_hyphen  as ``word``, and letters part from punctuation and symbols, but not from a hyphen
    sentence     the whole row

In all but ``sentence`` no unit has white space after its first character, unless it is white space only; then it has
no two line ends. The last character of a run of white space belongs to the word after it. Special tokens stand alone in
every mode. These are the rules of Feher, Vulić and Minixhofer (2025, arXiv:2411.18553) for a pair of tokens, turned
into rules for places of the text: so what may be merged does not depend on what was merged before, and a pair that
would be fine by itself is not joined over a border of this text. ``valid_pair`` is their form.

``words="unicode"`` cuts words as Annex 29 of Unicode does, with the dictionaries of ICU for Chinese, Japanese, Thai,
Lao, Khmer and Burmese, which have no spaces (package ``icu4py``). Between white space such a text is one unit and
everything in it may be merged.

Price: vectorised over the batch, but for ``pretoken`` (1 µs a piece) and ICU (0.2 µs a character).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, MissingExtraError

Boundary = Literal["pretoken", "word", "word_hyphen", "sentence"]
Words = Literal["whitespace", "unicode"]
BOUNDARIES: tuple[str, ...] = get_args(Boundary)
WORDS: tuple[str, ...] = get_args(Words)
Pieces = Callable[[str], list[tuple[int, int]]]  # ranges of characters that a pre-tokenizer finds

_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)
_LINE_END = 0x0A
_SPACE_LIKE = b" \n\t"
_HYPHEN = ord("-")
_NEUTRAL, _LETTER, _PUNCTUATION = 0, 1, 2


def require_boundary(boundary: str, words: str) -> None:
    """Raise ConfigError when there is no such boundary, or it has no use for ``words``."""
    if boundary not in BOUNDARIES:
        raise ConfigError(f"boundary: got {boundary!r}, allowed {', '.join(BOUNDARIES)}")
    if words not in WORDS:
        raise ConfigError(f"words: got {words!r}, allowed {', '.join(WORDS)}")
    if words == "unicode" and boundary not in ("word", "word_hyphen"):
        raise ConfigError(f"words: got 'unicode' with boundary {boundary!r}, allowed with word and word_hyphen")


def unit_starts(texts: Sequence[bytes], boundary: Boundary, words: Words, pieces: Pieces) -> NDArray[np.bool_]:
    """Which bytes begin a unit: (N + 1,) over all texts, one after another; the last is the end.

    Bytes that are no UTF-8 count as a character each that is neither letter nor space. An empty text has no units.
    """
    codes, sizes, first = _characters(texts)
    cut = np.zeros(len(codes) + 1, np.bool_)
    cut[first[:-1]] = True
    cut[-1] = True
    if boundary != "sentence":
        space = np.isin(codes, _SPACES)
        cut[:-1] |= _white_space(codes, space, cut[1:])
        if boundary == "pretoken":
            for text, start in zip(texts, first[:-1], strict=True):
                spans = pieces(text.decode("utf-8", "replace")) if _is_utf8(text) else ()
                cut[[start + low for low, _ in spans]] = True
        elif words == "unicode":
            glued = np.zeros(len(cut), np.bool_)  # places right after the space that a word keeps
            glued[1:] = space
            breaks = np.zeros(len(cut), np.bool_)
            for text, start in zip(texts, first[:-1], strict=True):
                breaks[[start + place for place in _word_breaks(text)]] = True
            cut |= breaks & ~glued
        if boundary == "word_hyphen":
            cut[:-1] |= _class_changes(codes, cut[:-1])
    places = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    out = np.zeros(int(places[-1]) + 1, np.bool_)
    out[places[cut]] = True
    return out


def valid_pair(joined: bytes, boundary: Boundary, pieces: Pieces) -> bool:
    """Whether a merge to ``joined`` is allowed by the published rules, which see the pair and not its place.

    A space, line end or tab after the first byte forbids it, unless there is nothing else; two line ends are always
    forbidden; bytes that are no UTF-8 are allowed; then the boundary decides. ``sentence`` allows all.
    """
    if boundary == "sentence":
        return True
    if b"\n\n" in joined:
        return False
    if any(byte in _SPACE_LIKE for byte in joined[1:]) and joined.strip(_SPACE_LIKE):
        return False
    try:
        text = joined.decode()
    except UnicodeDecodeError:
        return True
    if boundary == "pretoken":
        return len(pieces(text)) == 1
    if len(text.split()) > 1:
        return False
    if boundary == "word":
        return True
    kinds = {_kind(letter) for letter in text}
    return not (_LETTER in kinds and _PUNCTUATION in kinds)


def _characters(texts: Sequence[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Code points (C,), bytes of each (C,), and where each text begins (n + 1,), for all texts."""
    parts = [text.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass") for text in texts]
    codes = np.frombuffer(b"".join(parts), "<u4")
    sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    # a byte that is no UTF-8 became one of these
    sizes[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
    return (
        codes,
        sizes,
        np.concatenate([np.zeros(1, np.int64), np.cumsum([len(p) // 4 for p in parts], dtype=np.int64)]),
    )


def _white_space(codes: NDArray[np.uint32], space: NDArray[np.bool_], last: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """White space that begins a unit: a run's first character, its last before a word, a line end after another.

    Args:
        codes: (C,) characters of all texts.
        space: (C,) which are white space.
        last: (C,) which end their text.
    """
    before = np.concatenate([np.zeros(1, np.bool_), space[:-1]]) if len(space) else space
    after = (np.concatenate([space[1:], np.ones(1, np.bool_)]) if len(space) else space) | last
    line_end = codes == _LINE_END
    line_before = np.concatenate([np.zeros(1, np.bool_), line_end[:-1]]) if len(space) else space
    out: NDArray[np.bool_] = space & (~before | ~after | (line_before & line_end))
    return out


def _class_changes(codes: NDArray[np.uint32], starts: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Letters after punctuation of the same word, and punctuation after letters; what is neither does not count."""
    distinct, place = np.unique(codes, return_inverse=True)
    kinds = np.array([_kind(chr(code)) for code in distinct.tolist()], np.int64)[place]
    marked = np.flatnonzero(kinds != _NEUTRAL)
    word = np.cumsum(starts)[marked]
    out = np.zeros(len(codes), np.bool_)
    out[marked[1:]] = (kinds[marked[1:]] != kinds[marked[:-1]]) & (word[1:] == word[:-1])
    return out


def _kind(letter: str) -> int:
    major = unicodedata.category(letter)[0]
    if major in "LM":
        return _LETTER
    return _PUNCTUATION if major in "PS" and ord(letter) != _HYPHEN else _NEUTRAL


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _word_breaks(text: bytes) -> Iterator[int]:
    """Characters at which ICU begins a word."""
    try:
        from icu4py.breakers import WordBreaker
    except ImportError as error:
        raise MissingExtraError.of("icu4py", "icu") from error
    decoded = text.decode("utf-8", "surrogateescape")
    codes = np.frombuffer(decoded.encode("utf-32-le", "surrogatepass"), "<u4")
    # a byte that is no UTF-8 is a lone surrogate here, which ICU does not take
    clean = re.sub("[\udc80-\udcff]", "\ufffd", decoded)
    # ICU counts in UTF-16 units
    place_of = np.repeat(np.arange(len(codes)), 1 + (codes > 0xFFFF))
    for start, _ in WordBreaker(clean, "root").segments():
        yield int(place_of[start])
