"""Words, sentences and their places in a question.

Every token and sentence knows its span, so that a transform can edit exactly what it means to and a check can say where
it stumbled. Linear in the text: no expression here looks back or ahead over more than a token.
"""

from __future__ import annotations

import bisect
import functools
import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"(?P<n>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<w>[^\W\d_]+(?:['’][^\W\d_]+)*)"
    r"|(?P<s>[^\w\s]|_)"
)
_STOP = re.compile(r"[.?!][.?!\"'”’)\]]*(?=\s|$)|\n")
_AFTER = re.compile(r"\s*")


def word_set(text: str) -> frozenset[str]:
    """The words of a table that is written as text."""
    return frozenset(text.split())


# a full stop after these ends no sentence
_SHORT = word_set("mr mrs ms dr prof st jr sr vs etc eg ie fig eq approx dept lt col gen rev hon messrs mt")

# data that stands in a question, rather than sentences: a listing, code, a drawing
_LISTING = re.compile(
    r"(?:^|\n)[ \t]*(?:\d{1,3}[.):]|[-*•])[ \t]|```|[\u2500-\u259f]|\t|(?:^|\n)[^A-Za-z\n]{6,}(?=\n|$)"
)
# where words, letters or digits are what is asked about, to write one of them another way asks something else
_NOTATION = re.compile(
    r"\b(?:binary|hexadecimal|octal|roman numerals?|base[- ]?\d+|digits?|strings?|substrings?|characters?|alphabet\w*|"
    r"palindrom\w*|anagrams?|spell\w*|cipher\w*|(?:en|de)cod\w*|(?:upper|lower)case|sentence|premises?|conclusion|"
    r"syllogism|statements?|examples?)\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=512)
def not_prose(text: str) -> str | None:
    """Why a rule for questions in prose must leave this one alone; None where it may work on it."""
    if _LISTING.search(text):
        return "it holds a listing, code or a drawing"
    if _NOTATION.search(text):
        return "it asks about words, letters, digits or statements as they are written"
    return None


class Token(NamedTuple):
    """A word, a number or a sign.

    Attributes:
        kind: ``w`` word, ``n`` number in digits, ``s`` any other sign.
        low: the text, its case folded and curly apostrophes made straight.
    """

    text: str
    low: str
    start: int
    stop: int
    kind: str


class Span(NamedTuple):
    """A half-open range of characters."""

    start: int
    stop: int


@functools.lru_cache(maxsize=512)
def tokens(text: str) -> tuple[Token, ...]:
    """All tokens in order; the last texts are remembered, since every transform and check asks for the same ones."""
    found = []
    for hit in _TOKEN.finditer(text):
        word, kind = hit[0], hit.lastgroup or "s"
        low = word.lower().replace("’", "'") if kind == "w" else word
        found.append(Token(word, low, hit.start(), hit.end(), kind))
    return tuple(found)


def tokens_of(text: str, span: Span) -> tuple[Token, ...]:
    """The tokens that begin inside a span of ``text``."""
    found = tokens(text)
    first = bisect.bisect_left(found, span.start, key=_start)
    return found[first : bisect.bisect_left(found, span.stop, first, key=_start)]


def _start(token: Token) -> int:
    return token.start


def sentences(text: str) -> list[Span]:
    """Spans of the sentences, without the white space between them.

    A sentence ends at a line break, or at ``.``, ``?`` or ``!`` (with what closes behind it) before white space, unless
    the full stop belongs to a title, an initial or an abbreviation, or the next letter is small.
    """
    found, begin = [], 0
    for hit in _STOP.finditer(text):
        if hit[0] == "\n":
            found.append(Span(begin, hit.start()))
        elif _ends_here(text, begin, hit.start(), hit.end()):
            found.append(Span(begin, hit.end()))
        else:
            continue
        begin = hit.end()
    found.append(Span(begin, len(text)))
    return [_stripped(text, span) for span in found if text[span.start : span.stop].strip()]


def _ends_here(text: str, begin: int, stop: int, end: int) -> bool:
    """Whether the sign at ``stop``, with what closes it up to ``end``, ends the sentence that starts at ``begin``."""
    gap = _AFTER.match(text, end)
    after = gap.end() if gap else end
    if after < len(text) and text[after].islower():
        return False
    if text[stop] != ".":
        return True
    word_from = stop
    while word_from > begin and text[word_from - 1].isalpha():
        word_from -= 1
    word = text[word_from:stop]
    if word.lower() in _SHORT:
        return False
    # a single capital is an initial where a capital follows; "p.m." may end a sentence
    initial = len(word) == 1 and word.isupper() and word != "I" and after < len(text) and text[after].isupper()
    return not (initial and (word_from == 0 or text[word_from - 1] == " "))


def _stripped(text: str, span: Span) -> Span:
    start, stop = span
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return Span(start, stop)


@functools.lru_cache(maxsize=16384)
def base(low: str) -> str:
    """A folded word without the possessive: ``tom's`` and ``boys'`` give ``tom`` and ``boys``."""
    return low[:-2] if low.endswith("'s") else low


@functools.lru_cache(maxsize=16384)
def lemma(low: str) -> str:
    """A folded noun's singular by rule, with the irregular ones of common use; other words come back as they are."""
    word = base(low)
    if word in _SINGULAR:
        return _SINGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1]


_SINGULAR = {
    "children": "child", "people": "person", "persons": "person", "men": "man", "women": "woman", "feet": "foot",
    "teeth": "tooth", "mice": "mouse", "geese": "goose", "knives": "knife", "wives": "wife", "lives": "life",
    "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "halves": "half", "wolves": "wolf", "calves": "calf",
    "elves": "elf", "dice": "die", "pies": "pie", "ties": "tie", "shoes": "shoe", "cookies": "cookie",
    "movies": "movie", "selfies": "selfie", "brownies": "brownie", "smoothies": "smoothie", "buses": "bus",
    "lenses": "lens", "calories": "calorie", "hoodies": "hoodie", "headaches": "headache", "toes": "toe",
    "canoes": "canoe", "axes": "axe", "caches": "cache", "prizes": "prize", "sizes": "size", "mazes": "maze",
    "gas": "gas", "bus": "bus", "lens": "lens", "series": "series", "species": "species", "always": "always",
}  # fmt: skip


def folded(text: str) -> str:
    """All its words, numbers and signs but stops, commas and quotes, folded and one space apart: equal means a copy."""
    return " ".join(token.low for token in tokens(text) if token.low not in _MUTE)


_MUTE = frozenset(".,;:!?\"'“”‘’`")
