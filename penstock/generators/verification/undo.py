"""What a kind of transform may change is taken back by reading the variant, so that the rest can be compared as it is.

    choices      the options at the end are cut off
    term         "a zorp is a marble" is read, dropped, and every zorp becomes a marble again
    subproblem   "K is the sum of 5 and 7" is read, computed, dropped, and K becomes 12 again

Nothing here looks at what a transform says it did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from penstock.generators.transforms.text import lemma, sentences, tokens
from penstock.generators.verification import options
from penstock.generators.verification.base import Pair
from penstock.generators.verification.expressions import value_of
from penstock.generators.verification.reading import read

_QUOTE = "[\"'“”‘’]?"
_OLD = r"(?P<old>[a-z]+(?: [a-z]+){0,2})"
_TERM = re.compile(
    r"^(?:(?:in|for|throughout) (?:this|the) [a-z ]+?, |here, |below, )?(?:an? |the (?:word|term) |every |each )?"
    rf"{_QUOTE}(?P<new>[a-z]+){_QUOTE} "
    r"(?:is (?:just |simply |only )?(?:(?:another|a made-up|a) (?:word|name|term) for )?|means |stands for |refers to )"
    rf"{_QUOTE}(?:an? |the |one )?{_QUOTE}{_OLD}{_QUOTE}\.?$",
    re.IGNORECASE,
)
_CALL = re.compile(
    r"^(?:in this (?:problem|question), )?(?:let us |let's |we )?call (?:an?|each|every|the) "
    rf"{_OLD} (?:an? )?{_QUOTE}(?P<new>[a-z]+){_QUOTE}\.?$",
    re.IGNORECASE,
)
_HIDDEN = re.compile(
    r"^(?:(?i:let|suppose(?: that)?|here,?|in this (?:problem|question),?|assume(?: that)?)\s+)?(?P<symbol>[A-Z])"
    r"(?:\s+(?:is equal to|is|be|equals|stands for|denotes)|\s*=)\s+(?P<value>.+?)\.?$"
)
_WHERE = re.compile(r",? where (?P<symbol>[A-Z]) (?:is equal to|is|equals|=) (?P<value>[^.?!]+)(?=[.?!])")


@dataclass(frozen=True)
class Undone:
    """Two questions whose wording can be compared.

    Attributes:
        fault: why the licensed change could not be read or is not sound; None where it is.
        spoken: numbers that the text of the sub-problem holds.
    """

    original: str
    variant: str
    fault: str | None = None
    spoken: tuple[Fraction, ...] = ()


def undo(pair: Pair) -> Undone:
    """Take back what the variant's kind may change."""
    problem, variant = pair
    if variant.kind == "term":
        return _term(problem.prompt, variant.prompt)
    if variant.kind == "subproblem":
        return _subproblem(problem.prompt, variant.prompt)
    if variant.kind == "format":
        return _choices(pair)
    return Undone(problem.prompt, variant.prompt)


def _choices(pair: Pair) -> Undone:
    """Options on one side alone: they are cut off, and the two answers must be the same one."""
    problem, variant = pair
    before, after = options.options_of(problem.prompt), options.options_of(variant.prompt)
    if before is not None and after is None:
        fault = _wrong_option(before, problem.answer, variant.answer)
        if fault is None and re.search(r"\b(?:following|options?|choices|these|above|below)\b", before.stem):
            fault = "the question speaks of its options"
        return Undone(before.stem, variant.prompt, fault)
    if after is not None and before is None:
        return Undone(problem.prompt, after.stem, _wrong_option(after, variant.answer, problem.answer))
    return Undone(problem.prompt, variant.prompt)


def _wrong_option(found: options.Options, letter: str, answer: str) -> str | None:
    """Why the letter does not point at the answer, or the options do not tell it from the others."""
    letter = letter.strip()
    texts = list(found.by_letter.values())
    if letter not in found.by_letter:
        return f"the answer {letter!r} is no option"
    if not options.same_answer(found.by_letter[letter], answer):
        return f"option {letter} says {found.by_letter[letter]!r}, the answer is {answer!r}"
    if any(options.same_answer(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :]):
        return "two options say the same"
    return None


def _without(text: str, start: int, stop: int) -> str:
    """``text`` less a sentence and the white space behind it."""
    while stop < len(text) and text[stop].isspace():
        stop += 1
    return text[:start] + text[stop:]


def _term(original: str, variant: str) -> Undone:
    known = {token.low for token in tokens(original)}
    for span in sentences(variant):
        sentence = variant[span.start : span.stop]
        hit = _TERM.match(sentence) or _CALL.match(sentence)
        if hit is None or hit["new"].lower() in known:
            continue
        new, old = hit["new"].lower(), hit["old"].lower()
        rest = _without(variant, span.start, span.stop)
        if not any(lemma(token.low) == new for token in tokens(rest)):
            return Undone(original, variant, f"the term {new!r} is defined and never used")
        if new == lemma(old):
            return Undone(original, variant, f"the term {new!r} stands for itself")
        put_back = re.sub(rf"\b{new}(s?)\b", rf"{old}\1", rest, flags=re.IGNORECASE)
        return Undone(original, put_back)
    return Undone(original, variant, "no sentence says what a new word stands for")


def _subproblem(original: str, variant: str) -> Undone:
    known = {token.text for token in tokens(original)}
    found: tuple[str, str, str] | None = None  # symbol, expression, the rest of the question
    for span in sentences(variant):
        hit = _HIDDEN.match(variant[span.start : span.stop])
        if hit is not None:
            found = hit["symbol"], hit["value"], _without(variant, span.start, span.stop)
            break
    else:
        if (inside := _WHERE.search(variant)) is not None:
            rest = variant[: inside.start()] + variant[inside.end() :]
            found = inside["symbol"], inside["value"], rest
    if found is None:
        return Undone(original, variant, "no sentence says what a symbol stands for")
    symbol, expression, rest = found
    if symbol in known:
        return Undone(original, variant, f"the symbol {symbol} stands in the original too")
    value = value_of(expression)
    if value is None:
        return Undone(original, variant, f"{expression!r} could not be computed")
    put_back, count = re.subn(rf"(?<![^\W\d_]){symbol}(?![^\W_])", f"{value}", rest)
    if count != 1:
        return Undone(original, variant, f"the symbol {symbol} is used {count} times, expected once")
    return Undone(original, put_back, spoken=read(expression).numbers)
