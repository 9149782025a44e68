"""The ladder: order of checks, who reaches which, and both forms."""

import asyncio
from dataclasses import dataclass, field

import pytest

from penstock.errors import BudgetError, ConfigError
from penstock.generators.items import Verdict
from penstock.generators.transforms.base import Problem, Variant
from penstock.generators.verification.base import ModelCheck, Pair
from penstock.generators.verification.catalogue import checks_of
from penstock.generators.verification.ladder import Ladder


def pairs(*prompts):
    problem = Problem(problem_id="p", prompt="How many?", answer="5")
    return [
        Pair(problem, Variant(prompt=prompt, answer="5", kind="paraphrase", transform="t")) for prompt in prompts
    ]  # fmt: skip


@dataclass
class Without:
    """Fails what holds a letter; remembers what it saw."""

    name: str
    saw: list[str] = field(default_factory=list)

    def check(self, given):
        self.saw += [pair.variant.prompt for pair in given]
        return [Verdict(self.name, self.name not in pair.variant.prompt) for pair in given]


@dataclass
class Asking(Without):
    """The same, awaited."""

    check = None

    async def check_async(self, given):
        await asyncio.sleep(0)
        return Without.check(self, given)


def test_each_check_sees_only_what_those_before_it_passed():
    first, second = Without("a"), Without("b")
    judged = Ladder(checks=(first, second)).verify(pairs("ab", "b", "c", "a"))
    assert first.saw == ["ab", "b", "c", "a"]
    assert second.saw == ["b", "c"]
    assert [one.passed for one in judged] == [False, False, True, False]
    assert [[verdict.check for verdict in one.verdicts] for one in judged] == [["a"], ["a", "b"], ["a", "b"], ["a"]]
    assert [one.failed and one.failed.check for one in judged] == ["a", "b", None, "a"]
    assert [one.pair.variant.prompt for one in judged] == ["ab", "b", "c", "a"]


def test_checks_of_both_forms_run_in_their_order_when_awaited():
    first, second, third = Without("a"), Asking("b"), Without("c")
    assert isinstance(second, ModelCheck)
    assert not isinstance(first, ModelCheck)
    judged = asyncio.run(Ladder(checks=(first, second, third)).verify_async(pairs("c", "b", "x", "a")))
    assert [one.passed for one in judged] == [False, False, True, False]
    assert third.saw == ["c", "x"]


def test_a_check_that_asks_a_model_cannot_be_run_without_awaiting():
    with pytest.raises(ConfigError, match=r"got b, which asks a model; await Ladder\.verify_async"):
        Ladder(checks=(Without("a"), Asking("b"))).verify(pairs("x"))


def test_a_spent_budget_is_the_callers_to_know():
    class Spent(Asking):
        async def check_async(self, given):
            raise BudgetError("max_requests: 0 left")

    with pytest.raises(BudgetError, match="0 left"):
        asyncio.run(Ladder(checks=(Spent("b"),)).verify_async(pairs("x")))


@pytest.mark.parametrize(
    ("checks", "message"),
    [((), "got none, allowed at least one"), ((Without("a"), Without("b"), Without("a")), "got a more than once")],
)
def test_a_ladder_has_checks_of_different_names(checks, message):
    with pytest.raises(ConfigError, match=message):
        Ladder(checks=checks)


def test_a_check_that_loses_a_verdict_is_an_error_and_no_shift():
    class Short(Without):
        def check(self, given):
            return super().check(given)[:-1]

    with pytest.raises(ValueError, match="check a: got 1 verdicts for 2 pairs"):
        Ladder(checks=(Short("a"),)).verify(pairs("x", "y"))


def test_no_pairs_are_judged_as_none():
    assert Ladder(checks=checks_of()).verify([]) == []


def test_the_checks_without_a_model_are_pickled_and_keep_their_order():
    import pickle

    checks = checks_of()
    assert pickle.loads(pickle.dumps(checks)) == checks  # noqa: S301
    assert [check.name for check in checks] == ["structural", "order", "rename", "alignment"]
