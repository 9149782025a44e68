"""Is an answer right: the final answer of a response, and whether it equals the gold answer.

    final_answer("so x = 3.\n#### 1,200")  ->  ("1,200", "hashes")
    quick("1200", "1,200.00")              ->  True, without any library
    equal(r"\frac{1}{2}", "0.5")           ->  True, by math-verify (gold first: it is not symmetric)

An answer is looked for in the last ``\\boxed{…}``, else after the last ``####``, else after the last "answer is" or
"answer:", else the text itself where it is one short line, else its last number. Words (and dates and times of day) are
compared as words: math-verify reads "listen" and "silent" as the same product of letters, and a date as a subtraction.
Units and currencies are not compared.

``quick`` decides words and plain numbers (integers, decimals, fractions, percentages, sums of money) and leaves the
rest to ``equal``, which can take seconds or gigabytes for a hostile expression and belongs into a worker
(``workers.AnswerVerifier``). Where both decide about numbers they agree.

Price: ``final_answer`` and ``quick`` some 10 microseconds; ``equal`` 1 to 10 ms, and a second to import math-verify.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any, NamedTuple

PLACES = 6  # decimal places that math-verify compares where one side is a decimal
_SCALE = 1_000_000
_FAR = Fraction(1, 100_000)  # ten times what is compared
_LONGEST = 1000  # characters of a number
_DIGITS = 15  # of a double: longer decimals are left to the library
_SHORT = 80  # characters of a line that may be an answer by itself


class Found(NamedTuple):
    """A final answer, and where it stood: ``boxed``, ``hashes``, ``phrase``, ``whole`` or ``number``."""

    text: str
    how: str


class _Number(NamedTuple):
    """A plain number: of a percentage ``value`` is what stands before the sign; ``long`` is one of too many digits."""

    value: Fraction
    decimal: bool
    percent: bool
    long: bool = False

    @property
    def worth(self) -> Fraction:
        return self.value / 100 if self.percent else self.value


# ── the final answer of a response ───────────────────────────────────────────────────────────────

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PHRASE = re.compile(r"(?i:\banswer(?:\s+is|\s*[:=]))\s*:?\s*|^A:\s*", re.MULTILINE)
_STOP = re.compile(r"\n|\.\s")
_NUMBERS = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?(?:\s?%)?")


def final_answer(response: str) -> Found | None:
    """The final answer that a response gives; None where it gives none (a box that is cut off counts as none)."""
    boxes = list(_BOX.finditer(response))
    if boxes:
        inside = _balanced(response, boxes[-1].end())
        return Found(inside, "boxed") if inside is not None and inside.strip() else None
    _, mark, rest = response.rpartition("####")
    if mark:
        line = rest.strip().partition("\n")[0].strip()
        return Found(line, "hashes") if line else None
    phrases = list(_PHRASE.finditer(response))
    if phrases:
        rest = response[phrases[-1].end() :].strip()
        said = _STOP.split(rest, maxsplit=1)[0].strip()
        if said:
            return Found(said, "phrase")
    whole = response.strip()
    if whole and len(whole) <= _SHORT and "\n" not in whole:
        return Found(whole, "whole")
    numbers = _NUMBERS.findall(response)
    return Found(numbers[-1], "number") if numbers else None


def _balanced(text: str, start: int) -> str | None:
    """What stands from ``start`` up to the brace that closes the one before it."""
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return text[start:place]
    return None


# ── one form for what is written in many ─────────────────────────────────────────────────────────

_SIGNS = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\uff05": "%"})
_WRAPPED = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))
_WORDY = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,!;: ]|~")
_MONEY = re.compile(r"^([+-]?)\s*(?:\\?\$|[€£¥₹])\s*(?=[+-]?[\d.])")
_MONEY_AFTER = re.compile(r"(?<=\d)\s*(?:\\?\$|[€£¥₹])$")
_MIXED = re.compile(r"([+-]?\d+)(?: | and )(\d+)/(\d+)")
_UNIT = re.compile(r"([+-]?[\d.,/]*\d)\s+([A-Za-z]{2}[A-Za-z .'-]*)")
_PERCENT = re.compile(r"(?<=\d)\s+per\s?cent\b.*", re.IGNORECASE)
# words after a number that are no unit: they change it, or are read as mathematics
_NO_UNIT = frozenset(
    (
        "hundred", "thousand", "million", "billion", "trillion", "dozen", "half", "halves", "third", "thirds",
        "quarter", "quarters", "fifth", "fifths", "tenth", "tenths", "or", "and", "to", "sqrt", "sin", "cos",
        "tan", "log", "ln", "exp", "pi", "mod", "choose", "over",
    )
)  # fmt: skip


def clean(text: str) -> str:
    """An answer without what is no part of it: delimiters of mathematics, emphasis, a currency, a unit, a full stop."""
    text = _SPACES.sub(" ", text.translate(_SIGNS)).strip()
    while True:
        before = text
        for opening, closing in _WRAPPED:
            inner = text[len(opening) : len(text) - len(closing)]
            if text.startswith(opening) and text.endswith(closing) and inner.strip() and opening not in inner:
                text = inner.strip()
        whole = _WORDY.fullmatch(text)
        if whole:
            text = whole[1].strip()
        text = text.rstrip(" .,;:")
        if text == before:
            break
    if not text:
        return ""
    if text.count("$") < 2:  # else they are delimiters
        text = _MONEY_AFTER.sub("", _MONEY.sub(r"\1", text))
    text = _PERCENT.sub(r"\\%", text)
    unit = _UNIT.fullmatch(text)
    if unit and not _NO_UNIT & set(re.split(r"[ .'-]+", unit[2].casefold())):
        text = unit[1]
    mixed = _MIXED.fullmatch(text)
    if mixed:
        text = rf"{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}"
    return text


# ── what needs no library ────────────────────────────────────────────────────────────────────────

_PLAIN = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+|(?=\.))(\.\d+)?\s*(\\?%)?")
_FRACTION = re.compile(r"([+-]?)(\d+)\s*/\s*(\d+)|([+-]?)(\d*)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_CHOSEN = re.compile(r"\(?([A-Za-z])(?:\)|[.:](?=\s|$)|$).*", re.DOTALL)
# names of mathematics that letters may spell; anything else of three letters is a word
_MATHEMATICS = frozenset(
    (
        "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "frac", "pi", "inf", "infty",
        "infinity", "alpha", "beta", "gamma", "delta", "theta", "lambda", "phi", "psi", "omega", "mod", "gcd",
        "lcm", "max", "min", "det",
    )
)  # fmt: skip
_LETTERS = re.compile(r"[^\W\d_]+")
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’.,;:!?\"&()-]+(?:[^\W\d_]+|\d+(?=[^\w/]|$)))*[.!?]?")
_LITERAL = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,3}:\d{2}:\d{2}(?:\.\d+)?")
_LEADING_ZEROS = re.compile(r"\b0+(?=\d)")
_PUNCTUATION = re.compile(r"[\s'’.,;:!?\"&()-]+")


def quick(gold: str, answer: str) -> bool | None:
    """Whether an answer equals the gold one, or None where that takes ``equal``."""
    gold, answer = clean(gold), clean(answer)
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    choice = _CHOICE.fullmatch(gold)
    if choice:
        chosen = _CHOSEN.fullmatch(answer)
        return chosen is not None and chosen[1].upper() == choice[1]
    if _is_words(gold):
        return _words(gold) == _words(_WORDY.sub(r"\1", answer))
    if _LITERAL.fullmatch(gold):
        return _LEADING_ZEROS.sub("", gold) == _LEADING_ZEROS.sub("", answer)
    left, right = _number(gold), _number(answer)
    return None if left is None or right is None else _same(left, right)


def _is_words(text: str) -> bool:
    """Whether letters of a text spell words rather than mathematics."""
    if not _WORDS.fullmatch(text):
        return False
    runs = _LETTERS.findall(text.casefold())
    return runs == ["no"] or (any(len(run) >= 3 for run in runs) and not _MATHEMATICS & set(runs))


def _words(text: str) -> list[str]:
    return _PUNCTUATION.sub(" ", text.casefold()).split()


def _number(text: str) -> _Number | None:
    if len(text) > _LONGEST:
        return None
    plain = _PLAIN.fullmatch(text)
    if plain:
        sign, whole, part, percent = plain.groups(default="")
        digits = whole.replace(",", "")
        places = max(len(part) - 1, 0) + (2 if percent else 0)
        long = places > PLACES or len(digits) + places > _DIGITS
        value = Fraction(f"{sign}{digits or '0'}{part}")
        return _Number(value, bool(part), bool(percent), long)
    fraction = _FRACTION.fullmatch(text)
    if fraction is None or max(map(len, filter(None, fraction.groups()))) > _DIGITS:
        return None
    minus, over, under = (fraction[1], fraction[2], fraction[3]) if fraction[2] else fraction.group(4, 6, 7)
    if int(under) == 0:
        return None
    value = int(fraction[5] or 0) + Fraction(int(over), int(under))
    return _Number(-value if minus == "-" else value, False, False)


def _same(gold: _Number, answer: _Number) -> bool | None:
    """As math-verify 0.9 compares: to ``PLACES`` places where one is a decimal, exactly where none is; 9 is 9 %."""
    if gold.long or answer.long:  # only far apart is sure
        return False if abs(gold.worth - answer.worth) > _FAR and not gold.percent and not answer.percent else None
    if gold.decimal or answer.decimal:
        scaled = [number.worth * _SCALE for number in (gold, answer)]
        if any(2 * value % 2 == 1 for value in scaled):
            return None  # half-way between two: which is nearer is a matter of binary digits
        return round(scaled[0]) == round(scaled[1])
    same: bool = gold.worth == answer.worth
    if gold.percent != answer.percent and gold.value.denominator == answer.value.denominator == 1:
        return same or gold.value == answer.value
    return same


# ── what needs the library ───────────────────────────────────────────────────────────────────────


def equal(gold: str, answer: str) -> bool:
    """Whether an answer equals the gold one, by math-verify; nothing bounds its time or memory.

    Raises:
        ValueError: the gold answer cannot be understood.
    """
    from math_verify import verify

    known = _parsed_gold(clean(gold))
    if not any(not isinstance(one, str) for one in known) and clean(gold) != clean(answer):
        raise ValueError(f"the gold answer {gold[:80]!r} is no expression")
    given = _parsed(clean(answer))
    # without its own time-outs: they work in a main thread alone
    return bool(verify(list(known), given, float_rounding=PLACES, timeout_seconds=None, raise_on_error=True))


def setup() -> None:
    """Import and compile what ``equal`` needs, so that the first answer is not charged for it."""
    import logging

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the time-outs that are off
    equal("x+1", r"\frac{1}{2}")


@functools.lru_cache(maxsize=4096)
def _parsed_gold(text: str) -> tuple[Any, ...]:
    """A gold answer is compared with many."""
    return tuple(_parsed(text))


def _parsed(text: str) -> list[Any]:
    """Expressions that math-verify reads in a final answer, and its text."""
    from math_verify import parse

    config = _config()
    boxed: list[Any] = parse(f"\\boxed{{{text}}}", config, parsing_timeout=None)
    if any(not isinstance(one, str) for one in boxed):
        return boxed
    plain: list[Any] = parse(text, config, parsing_timeout=None)
    return [*plain, *boxed]


@functools.cache
def _config() -> list[Any]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    reading = NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    return [LatexExtractionConfig(boxed_match_priority=0, normalization_config=reading), ExprExtractionConfig()]
