"""The verification benchmark: its made-up answers are right and wrong as they say."""

import pytest

from benchmarks.verification_sides import expression, number, pairs_of
from penstock.generators.verification.answers import equal, final_answer, quick


@pytest.mark.parametrize(("kind", "made"), [("numbers", number), ("expressions", expression)])
def test_every_other_answer_is_right_and_numbers_need_no_library(kind, made):
    pairs = pairs_of(kind, 24)
    assert pairs == pairs_of(kind, 24) != pairs_of(kind, 24, seed=1)
    for place, (gold, response) in enumerate(pairs):
        found = final_answer(response)
        assert found.how == "boxed"
        at_once = quick(gold, found.text)
        assert (at_once is not None) == (made is number)
        assert (equal(gold, found.text) if at_once is None else at_once) == (place % 2 == 0)
