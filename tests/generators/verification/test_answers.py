"""Final answers: where they are found, what needs no library, and that both ways of comparing agree."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.generators.verification.answers import clean, equal, final_answer, quick


@pytest.mark.parametrize(
    ("response", "text", "how"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "boxed"),
        (r"\fbox {7} and a brace \} after", "7", "boxed"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "boxed"),
        ("It is 3.\n#### 1,200\n", "1,200", "hashes"),
        ("#### 4\nno, wait\n#### 5", "5", "hashes"),
        ("The answer is 72 apples. I hope it is right.", "72 apples", "phrase"),
        ("Answer: B", "B", "phrase"),
        ("She sells 5.\nA: 18", "18", "phrase"),
        ("A: 18\nFinal answer = 19", "19", "phrase"),
        ("  3/4 ", "3/4", "whole"),
        ("Half of 48 is 24, so in all they have " + "x " * 40 + "48+24=72 clips", "72", "number"),
        ("it grew by 1,234.5% over the years " * 3, "1,234.5%", "number"),
    ],
)
def test_the_final_answer_is_found_where_it_stands(response, text, how):
    assert final_answer(response) == (text, how)


@pytest.mark.parametrize("response", ["", "  \n ", r"so \boxed{12", r"1 = \boxed{}", "####", "no number here\n" * 9])
def test_a_response_without_a_final_answer_gives_none(response):
    assert final_answer(response) is None


@given(st.text(alphabet="ab{}\\ 1", max_size=30))
def test_a_box_holds_exactly_what_stands_between_its_braces(inside):
    response = rf"so \boxed{{{inside}}}"
    depth, closed = 0, None
    for place, letter in enumerate(inside):
        if letter in "{}" and (place == 0 or inside[place - 1] != "\\"):
            depth += 1 if letter == "{" else -1
        if depth < 0:
            closed = place
            break
    wanted = inside if closed is None and depth == 0 and not inside.endswith("\\") else None
    if closed is not None:
        wanted = inside[:closed]
    found = final_answer(response)
    if wanted is not None and wanted.strip():
        assert found == (wanted, "boxed")
    elif closed is None:
        assert found is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$72$", "72"),
        (r"\(\frac{1}{2}\)", r"\frac{1}{2}"),
        ("**42**.", "42"),
        (r"\text{Monday}", "Monday"),
        ("$1,200", "1,200"),
        (r"\$5.00", "5.00"),
        ("-€3", "-3"),
        ("15 $", "15"),
        ("72 apples", "72"),
        ("5 km per hour", "5"),
        ("50 percent", r"50\%"),
        ("3 1/2", r"3\frac{1}{2}"),
        ("\u22125", "-5"),
        # what follows a number is no unit here
        ("5 million", "5 million"),
        ("2 sin x", "2 sin x"),
        ("3 x", "3 x"),
        ("$5$ and $6$", "$5$ and $6$"),
    ],
)
def test_an_answer_loses_what_is_no_part_of_it(text, wanted):
    assert clean(text) == wanted
    assert clean(clean(text)) == wanted


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("Monday", "monday.", True),
        ("listen", "silent", False),
        ("no", "on", False),
        ("yes", r"\text{Yes}", True),
        ("Zoey is a knave, and Riley is a knight.", "Zoey is a knave and Riley is a knight", True),
        ("Zoey is a knave, and Riley is a knight.", "Zoey is a knight, and Riley is a knave.", False),
        ("B", "(B) 42", True),
        ("(B)", "b.", True),
        ("B", "C", False),
        ("B", "42", False),
        ("B", "Both", False),
        ("2022-01-31", "2022-1-31", True),
        ("2022-01-31", "2021-00-31", False),
        ("01:30:00", "1:30:00", True),
        ("01:30:00", "1:31:00", False),
        ("1234", "$1,234.00", True),
        ("1234", "1,235", False),
        ("7", "", False),
        ("", "7", False),
        ("72", "72 apples", True),
        ("0.5", "50%", True),
        ("9", "9%", True),
        ("12.5", "12.5%", False),
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
        ("-3/4", r"-\frac{6}{8}", True),
        ("3.5", "3 1/2", True),
        ("7", "3.14159265358979", False),
    ],
)
def test_words_and_plain_numbers_are_decided_at_once(gold, answer, same):
    assert quick(gold, answer) is same


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x+1", "1+x"),
        ("1/0", "2/0"),
        ("0.1234567891", "0.12345679"),
        ("0", "0.0000001"),
        ("50%", "0.50000001"),
        ("12:30", "2:5"),
        ("(1,2)", "1,2"),
        ("5", "V"),
    ],
)
def test_what_is_no_plain_number_is_left_to_the_library(gold, answer):
    assert quick(gold, answer) is None


def test_the_library_decides_by_gold_first():
    assert equal("x+1", "1+x")
    assert not equal("x+1", "y+1")
    assert equal(r"\frac34", "0.75")
    assert equal("1<x<2", "(1,2)")
    assert not equal("(1,2)", "1<x<2")
    assert equal(r"\{1,2\}", r"\{2, 1\}")
    assert not equal(r"\sqrt{2}", "1.41")


def test_a_gold_answer_that_is_no_expression_is_an_error_and_no_wrong_answer():
    with pytest.raises(ValueError, match="is no expression"):
        equal("???", "5")


def number(rng: random.Random) -> tuple[str, Fraction]:
    """A number in one of the forms that both ways read as they stand, and its worth."""
    n = rng.choice([rng.randint(0, 12), rng.randint(0, 999), rng.randint(1000, 10**6)])
    sign = rng.choice(["", "", "", "-"])
    value = Fraction(-n if sign else n)
    match rng.randrange(7):
        case 0:
            return f"{sign}{n}", value
        case 1:
            return f"{sign}{n:,}", value
        case 2:
            part = rng.choice(["0", "00", "5", "25", "50", "125", "333333", "75"])
            return f"{sign}{n}.{part}", Fraction(f"{sign}{n}.{part}")
        case 3:
            d = rng.randint(1, 12)
            return f"{sign}{n % 30}/{d}", Fraction(-(n % 30) if sign else n % 30, d)
        case 4:
            d = rng.randint(1, 12)
            return rf"{sign}\frac{{{n % 30}}}{{{d}}}", Fraction(-(n % 30) if sign else n % 30, d)
        case 5:
            part = rng.choice(["", ".5", ".25", ".0"])
            return rf"{n % 200}{part}\%", Fraction(f"{n % 200}{part or '.0'}") / 100
        case _:
            part = rng.choice(["", ".00", ".50"])
            return rf"\${n:,}{part}", Fraction(f"{n}{part or '.0'}")


def test_both_ways_of_comparing_agree_on_thousands_of_pairs_of_numbers():
    """Against math-verify called by itself, on forms that it reads without our cleaning."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    rng = random.Random(7)
    numbers = [number(rng) for _ in range(400)]
    parsed = {text: parse(rf"\boxed{{{text}}}", config, parsing_timeout=None) for text, _ in numbers}
    by_value: dict[Fraction, list[str]] = {}
    for text, value in numbers:
        by_value.setdefault(abs(value), []).append(text)
        by_value.setdefault(abs(value) * 100, []).append(text)  # 9 and 9 %
    near = [(a, b) for texts in by_value.values() for a in texts for b in texts]
    pairs = rng.sample(near, min(len(near), 2000)) + [
        (rng.choice(numbers)[0], rng.choice(numbers)[0]) for _ in range(1000)
    ]
    decided = same = 0
    for gold, answer in pairs:
        found = quick(gold, answer)
        if found is not None:
            decided, same = decided + 1, same + found
            assert found == verify(parsed[gold], parsed[answer], timeout_seconds=None), (gold, answer)
    assert decided > 2500
    assert same > 500
    assert decided - same > 500
