"""What all rule transforms promise: declared edits, another text, equal for an equal stream, an answer that holds."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.transform_problems import problems, solve
from benchmarks.transforms import make
from penstock.errors import ConfigError
from penstock.generators.transforms.base import NotApplicable, Problem, edited
from penstock.generators.transforms.rules import rules_of
from penstock.generators.transforms.text import folded
from penstock.seeding import stream

RULES = rules_of()
PIECES = st.sampled_from(
    [
        "Tom", "tom's", "Mary", "5", "$5", "20%", "1,000", "five", "twenty-one", "apples", "an", "apple", "boxes",
        "How", "many", "what", "is", "the", "If", ",", ".", "?", "!", "x", "+", "=", "(", ")", "$x$", "kg", "he",
        "they", "then", "K", "3.5", "1/2", "-", "/", "A)", "(A)", "(B)", "dollars", "each", "\n", "“", "’", "é",
        "𝒳", "\\frac{1}{2}",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map(" ".join))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(text=TEXTS, answer=st.sampled_from(["5", "1,250", "B", "x", "", "-0.50"]), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_declared_edits_that_change_it_or_a_reason(rule, text, answer, seed):
    problem = Problem(problem_id="p", prompt=text, answer=answer)
    made = rule.apply(problem, stream(seed))
    assert made == rule.apply(problem, stream(seed))
    if isinstance(made, NotApplicable):
        assert made.transform == rule.name
        assert made.reason
        return
    assert edited(text, made.edits) == made.prompt
    assert folded(made.prompt) != folded(text)
    assert (made.kind, made.transform) == (rule.kind, rule.name)


def test_every_verified_variant_of_a_made_problem_solves_to_its_answer_from_its_own_text():
    made = make(problems(160, seed=3))
    solved = [(pair.variant, solve(pair.variant.prompt)) for pairs in made.verified.values() for pair in pairs]
    assert len(solved) > 900
    assert [(variant.prompt, got) for variant, got in solved if got != variant.answer] == []
    assert made.failed == []
    assert {variant.transform for variant, _ in solved} == {rule.name for rule in RULES}


@given(seed=st.integers(0, 500), draw=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_renaming_and_its_inverse_is_the_identity(seed, draw):
    problem = problems(8, seed)[seed % 8]
    for rule in rules_of(["rename"]):
        made = rule.apply(problem, stream(draw))
        if isinstance(made, NotApplicable):
            continue
        back = made.prompt
        for old, new in made.mapping.items():
            back = re.sub(rf"(?<![A-Za-z]){new}(?![A-Za-z])", old, back)
        assert back == problem.prompt
        assert len(set(made.mapping.values())) == len(made.mapping)


def test_streams_lead_to_different_variants():
    problem = problems(1, seed=4)[0]
    for rule in RULES:
        made = [rule.apply(problem, stream(seed)) for seed in range(12)]
        if not isinstance(made[0], NotApplicable) and rule.name not in ("order", "presentation"):
            assert len({one.prompt for one in made}) > 1, rule.name


def test_rules_come_by_kind_and_an_unknown_kind_is_named():
    assert [rule.name for rule in rules_of(["rename", "paraphrase"])] == [
        "rename_names",
        "rename_variables",
        "paraphrase",
    ]
    with pytest.raises(ConfigError, match="kinds: got 'verse', allowed paraphrase, rename"):
        rules_of(["verse"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_long_text_of_one_piece_is_read_to_its_end(rule):
    # what looks back from every place would not come to an end here
    for text in ("a" * 9000, "1," * 4000, "( " * 3000, "if " * 3000, "K is " * 2000, "$" * 9000, "A) " * 3000):
        made = rule.apply(Problem(problem_id="p", prompt=text + "?", answer="5"), stream(0))
        assert isinstance(made, NotApplicable) or edited(text + "?", made.edits) == made.prompt
