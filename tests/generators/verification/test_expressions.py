"""Arithmetic in symbols and in words is computed as Python computes it."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.generators.verification.expressions import solution_of, value_of

WORDS = {"+": "the sum of {} and {}", "-": "the difference between {} and {}", "*": "the product of {} and {}"}
TREES = st.recursive(st.integers(0, 99), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=6)


def computed(tree):
    if isinstance(tree, int):
        return Fraction(tree)
    sign, one, other = tree[0], computed(tree[1]), computed(tree[2])
    if one is None or other is None or (sign == "/" and not other):
        return None
    return {"+": one + other, "-": one - other, "*": one * other}[sign] if sign != "/" else one / other


def written(tree):
    return str(tree) if isinstance(tree, int) else f"({written(tree[1])} {tree[0]} {written(tree[2])})"


def said(tree):
    if isinstance(tree, int):
        return str(tree)
    return (WORDS | {"/": "the quotient of {} and {}"})[tree[0]].format(said(tree[1]), said(tree[2]))


@given(TREES)
@settings(deadline=None)
def test_symbols_and_words_of_one_tree_have_its_value(tree):
    assert value_of(f"What is {written(tree)}?") == computed(tree)
    assert value_of(f"Compute {said(tree)}.") == computed(tree)


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 50)), min_size=1, max_size=6), st.integers(0, 50))
@settings(deadline=None)
def test_precedence_is_that_of_arithmetic(rest, first):
    text = str(first) + "".join(f" {sign} {number}" for sign, number in rest)
    assert value_of(text) == eval(text)  # noqa: S307


@given(st.integers(-30, 30), st.integers(1, 30), st.integers(0, 90), st.sampled_from("nxz"))
@settings(deadline=None)
def test_a_linear_equation_gives_its_unknown_in_symbols_and_in_words(x, slope, more, letter):
    right = slope * x + more
    assert solution_of(f"Solve for {letter}: {slope}*{letter} + {more} = {right}") == x
    assert solution_of(f"If {slope}{letter} plus {more} is equal to {right}, what is {letter}?") == x
    assert solution_of(f"{more} more than the product of {slope} and {letter} equals {right}. Find {letter}.") == x


@pytest.mark.parametrize(
    "text", ["5 apples", "1/0", "3x", "x + y = 3", "((((1", "", "What is the sum of 5?", "add 5 to 3", "4 = 4", "- - "]
)
def test_what_is_no_expression_has_no_value(text):
    assert value_of(text) is None
    assert solution_of(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 less than twice 10", 13), ("half of 24", 12), ("the number you get when you subtract 3 from 15", 12),
        ("the result of dividing 12 by 4", 3), ("negative 33 plus five", -28), ("thrice 4", 12), ("3 more than 4", 7),
    ],
)  # fmt: skip
def test_conditions_in_words_are_computed(text, value):
    assert value_of(text) == value


def test_brackets_without_end_are_refused_and_do_not_overflow():
    assert value_of("(" * 5000 + "1") is None
