"""Groups in waves: what is tried, what is kept, and that nothing depends on the company a problem is in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BudgetError
from penstock.generators.items import Verdict
from penstock.generators.transforms.base import NotApplicable, Problem, Variant
from penstock.generators.transforms.making import Maker, said
from penstock.generators.verification.ladder import Ladder


@dataclass(frozen=True)
class Suffix:
    """Adds a word of its own and a number of its stream; does not apply where the question holds ``never``."""

    name: str
    kind: str
    never: str = "?!"
    tried: list[str] = field(default_factory=list, compare=False)

    def apply(self, problem, stream):
        self.tried.append(problem.problem_id)
        if self.never in problem.prompt:
            return NotApplicable(transform=self.name, reason=f"it holds {self.never}")
        text = f"{problem.prompt} {self.name} {stream.integers(1000)}"
        return Variant(prompt=text, answer=problem.answer, kind=self.kind, transform=self.name)


@dataclass(frozen=True)
class Asked:
    """The same by a model that may be asked ``most`` times in all."""

    name: str
    kind: str
    most: int = 1_000_000
    calls: list[int] = field(default_factory=list, compare=False)

    async def apply(self, problems, *, seed):
        await asyncio.sleep(0)
        self.calls.append(len(problems))
        if sum(self.calls) > self.most:
            raise BudgetError("no more")
        return [
            Variant(prompt=f"{p.prompt} {self.name} {seed}", answer=p.answer, kind=self.kind, transform=self.name)
            for p in problems
        ]


@dataclass(frozen=True)
class Without:
    """Check: a variant must not hold a word."""

    word: str
    name: str = "without"

    def check(self, pairs):
        return [Verdict(self.name, self.word not in pair.variant.prompt, self.word) for pair in pairs]


@dataclass(frozen=True)
class Spent:
    """ModelCheck that may be asked ``most`` pairs."""

    most: int
    name: str = "spent"
    seen: list[int] = field(default_factory=list, compare=False)

    async def check_async(self, pairs):
        self.seen.append(len(pairs))
        if sum(self.seen) > self.most:
            raise BudgetError("no more pairs")
        return [Verdict(self.name, True) for _ in pairs]


KINDS = ("one", "two", "three")


def rules(each=1):
    return tuple(Suffix(f"{kind}{n}", kind) for kind in KINDS for n in range(each))


def problems(*texts):
    return [Problem(problem_id=f"p{n}", prompt=text, answer="7") for n, text in enumerate(texts)]


def make(given, transforms=None, *, checks=(Without("nothing"),), per_problem=2, seed=0):
    maker = Maker(
        transforms=rules() if transforms is None else transforms,
        ladder=Ladder(checks=tuple(checks)),
        per_problem=per_problem,
        seed=seed,
    )
    return asyncio.run(maker.make(given))


def names(group):
    return [one.pair.variant.transform for one in group.kept]


def test_a_problem_gets_as_many_variants_as_wanted_of_different_kinds_first():
    for per_problem in (1, 2, 3):
        groups, stopped = make(problems(*"abcdefgh"), rules(3), per_problem=per_problem)
        assert stopped is None
        for group in groups:
            assert len({one.pair.variant.kind for one in group.kept}) == len(group.kept) == per_problem
    (group,), _ = make(problems("a"), rules(2), per_problem=5)
    assert [len({name[:-1] for name in names(group)[:3]}), len(names(group))] == [3, 5]


def test_no_kind_is_favoured_by_the_bound():
    groups, _ = make(problems(*(f"q {n}" for n in range(300))), per_problem=1)
    counts = [sum(names(group) == [f"{kind}0"] for group in groups) for kind in KINDS]
    assert sum(counts) == 300
    assert min(counts) > 70


def test_what_does_not_apply_or_is_stopped_is_made_up_for_by_others_and_noted():
    transforms = (Suffix("a", "one", never="x"), Suffix("b", "two"), Suffix("c", "three"))
    (group,), _ = make(problems("q x"), transforms, checks=(Without("b "),), per_problem=3)
    assert names(group) == ["c"]
    assert group.not_applicable == [NotApplicable(transform="a", reason="it holds x")]
    assert [(one.variant.transform, one.reason, one.detail) for one in group.rejected] == [("b", "without", "b ")]
    assert [verdict.check for verdict in group.kept[0].verdicts] == ["without"]


def test_no_transform_is_tried_that_is_not_needed():
    transforms = rules()
    make(problems("a", "b"), transforms, per_problem=1)
    assert sum(len(rule.tried) for rule in transforms) == 2


@dataclass(frozen=True)
class Fixed:
    """Says the same of every question."""

    name: str
    text: str
    kind: str = "one"

    def apply(self, problem, stream):
        return Variant(prompt=self.text, answer=problem.answer, kind=self.kind, transform=self.name)


def test_a_copy_of_the_original_or_of_a_sibling_is_no_variant():
    transforms = (Fixed("a", "THE question!"), Fixed("b", "new text"), Fixed("c", "New, text."))
    (group,), _ = make(problems("The question"), transforms, per_problem=3)
    assert len(group.kept) == 1
    assert {one.reason for one in group.rejected} == {"duplicate"}
    assert len(group.rejected) == 2
    assert said("Añ  b-2!") == "añ b 2"


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 3))
def test_a_group_depends_on_its_problem_and_the_seed_alone(order, seed):
    given_ = problems("a x", "b", "c x", "d", "e", "f x")

    def transforms():
        return (Suffix("a", "one", never="x"), Suffix("b", "two"), Asked("c", "three"))

    whole, _ = make(given_, transforms(), seed=seed)
    shuffled, _ = make([given_[n] for n in order], transforms(), seed=seed)
    for place, n in enumerate(order):
        (alone,), _ = make([given_[n]], transforms(), seed=seed)
        texts = [[one.pair.variant.prompt for one in group.kept] for group in (whole[n], shuffled[place], alone)]
        assert texts[0] == texts[1] == texts[2]


def test_another_seed_is_another_draw():
    texts = {
        tuple(one.pair.variant.prompt for group in make(problems(*"abcdef"), seed=seed)[0] for one in group.kept)
        for seed in range(3)
    }
    assert len(texts) == 3


def test_models_are_asked_together_and_only_for_what_is_lacking():
    asked = Asked("m", "three")
    groups, _ = make(problems(*"abcdefgh"), (*rules()[:2], asked), per_problem=3)
    assert all(len(group.kept) == 3 for group in groups)
    assert asked.calls == [8]


@pytest.mark.parametrize("model_first", [True, False])
def test_a_spent_budget_of_transforms_ends_the_making_with_what_rules_made(model_first):
    model = Asked("m", "one", most=3)
    transforms = (model, *rules()[1:]) if model_first else (*rules()[1:], model)
    groups, stopped = make(problems(*(f"q{n}" for n in range(12))), transforms, per_problem=1)
    assert isinstance(stopped, BudgetError)
    kept = [name for group in groups for name in names(group)]
    assert model.calls == [12 - len(kept)]
    assert set(kept) == {"two0", "three0"}
    assert [one for group in groups for one in group.rejected] == []


def test_a_spent_budget_of_checks_keeps_what_earlier_waves_verified():
    transforms = (Suffix("a", "one", never="x"), Suffix("b", "two"))
    given_ = problems("q", "r", "s x", "t x")
    for seed in range(20):  # a seed whose first wave meets a rule that does not apply
        _, stopped = make(given_, transforms, per_problem=1, seed=seed, checks=(Spent(99),))
        groups, stopped = make(given_, transforms, per_problem=1, seed=seed, checks=(Spent(3),))
        if stopped is not None and any(group.kept for group in groups):
            break
    kept = [group for group in groups if group.kept]
    out = [group for group in groups if not group.kept]
    assert kept
    assert out
    assert all(one.reason == "budget" for group in out for one in group.rejected)
    assert sum(len(group.kept) + len(group.rejected) for group in groups) == 4


def test_no_problems_make_no_groups():
    assert make([]) == ([], None)
