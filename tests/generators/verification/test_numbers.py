"""Numbers in digits and in words."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.generators.transforms.text import tokens
from penstock.generators.verification.numbers import number_at

ONES = [
    "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spoken(value, joint):
    """A number from 1 to 999,999 in words, with or without "and" and hyphens."""
    words = []
    if value >= 1000:
        words += [spoken(value // 1000, joint), "thousand"]
        value %= 1000
    if value >= 100:
        words += [ONES[value // 100], "hundred"]
        value %= 100
        words += ["and"] if joint and value else []
    if value >= 20:
        words.append(TENS[value // 10] + (("-" if joint else " ") + ONES[value % 10] if value % 10 else ""))
    elif value:
        words.append(ONES[value])
    return " ".join(words)


def found(text):
    out, at, all_tokens = [], 0, tokens(text)
    while at < len(all_tokens):
        number = number_at(all_tokens, at)
        if number is None:
            at += 1
        else:
            assert number.start == at < number.stop
            out.append(number.value)
            at = number.stop
    return out


@given(st.integers(1, 999_999), st.booleans())
@settings(deadline=None)
def test_every_number_in_words_is_itself(value, joint):
    assert found(f"Tom has {spoken(value, joint)} apples and sees {value:,} pears.") == [value, value]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("half a dozen", [Fraction(1, 2), 12]), ("a third of 3/4", [Fraction(1, 3), Fraction(3, 4)]),
        ("two-thirds and one fourth of it", [Fraction(2, 3), Fraction(1, 4)]), ("the third day", []),
        ("three quarters of it", [Fraction(3, 4)]), ("three quarters and 3 quarters", [3, 3]), ("twice as many", [2]),
        ("2.50 or .5", [Fraction(5, 2), Fraction(1, 2)]), ("4, five and six", [4, 5, 6]), ("an apple", []),
        ("5 million and 2 hundred", [5_000_000, 200]), ("1/0", [1, 0]), ("one of the others", [1]),
        ("2023/4/5", [Fraction(2023, 4), 5]),
    ],
)  # fmt: skip
def test_parts_multiples_and_lists_are_read_as_meant(text, values):
    assert found(text) == values


@given(st.lists(st.sampled_from([*ONES[1:], *TENS[2:], "hundred", "thousand", "and", "a", "half", "thirds", "-", ","])))
@settings(deadline=None)
def test_any_heap_of_number_words_is_read_to_its_end(words):
    assert all(value > 0 for value in found(" ".join(words)))
