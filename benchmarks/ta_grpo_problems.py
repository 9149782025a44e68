"""Word problems in groups for ``benchmarks.ta_grpo``: worked answers, verified phrasings, and faults planted into some.

Problems are those of ``transform_problems`` whose forms are told as stories, in five families; the sixth, percentages,
asks for products that a model of this size does not learn. A phrasing joins a group when the checks that need no model
pass it and a solver that shares nothing with transforms and checks finds the answer in its text alone. Of a group that
is learned from there are three, one of each transform of ``TRAINED``; those of ``HELD_OUT`` are in no such group.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from benchmarks.corpora import SEED
from benchmarks.harness import BenchmarkError
from benchmarks.transform_corruptions import comparative_flipped, number_changed, numbers_swapped, sides_swapped
from benchmarks.transform_problems import problems, solve
from penstock.generators.transforms.base import NotApplicable, Problem, Variant
from penstock.generators.transforms.rules import rules_of
from penstock.generators.verification.base import Pair
from penstock.generators.verification.catalogue import checks_of
from penstock.generators.verification.ladder import Ladder
from penstock.seeding import derive, stream

TRAINED = ("rename_names", "presentation", "background")
HELD_OUT = ("paraphrase", "term")
# what is computed: a number of the question by its place, _ for what came last
FAMILIES = {
    "comparison": (("0", "?", "1"), ("0", "+", "_")),  # ? is + or -, as the question says more or fewer
    "events": (("0", "+", "1"), ("_", "-", "2")),
    "prices": (("0", "*", "3"), ("_", "*", "2")),
    "sharing": (("0", "/", "1"),),
    "ages": (("1", "+", "0"), ("_", "+", "2")),
}
_FORMS = ("comparison", "events", "prices", "percent", "sharing", "ages")  # of ``transform_problems``, in turn
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_FAULTS = (number_changed, numbers_swapped, comparative_flipped, sides_swapped)
_TURNS = 20  # of drawing candidates
_ATTEMPTS = 60  # at a fault that changes the answer to another whole number


@dataclass(frozen=True)
class Group:
    """A question with its worked answer and its phrasings.

    Attributes:
        problem: the original; ``solution`` is the worked answer.
        family: one of ``FAMILIES``.
        phrasings: one of each transform that fits, in the order they were asked for.
        faulty: places of phrasings into which a fault was planted, whose true answer is another.
    """

    problem: Problem
    family: str
    phrasings: tuple[Variant, ...]
    faulty: tuple[int, ...] = ()

    def rows(self, *, original: bool = True) -> list[dict[str, Any]]:
        """Rows of a ``problems`` table; without the original every phrasing is a group of its own."""
        of = self.problem
        told = [(of.prompt, of.answer, "original", "original")] if original else []
        told += [(one.prompt, one.answer, one.kind, one.transform) for one in self.phrasings]
        return [
            {
                "problem_id": of.problem_id if kind == "original" else f"{of.problem_id}/{transform}",
                "group_id": of.problem_id if original else f"{of.problem_id}/{transform}",
                "variant": kind,
                "prompt": prompt,
                "original_prompt": of.prompt,
                "answer": answer,
                "verdicts": [],
                "parents": [],
                "provenance": None,
                "sub_index": place if original else 0,
                "transform": transform,
            }
            for place, (prompt, answer, kind, transform) in enumerate(told)
        ]


def worked(problem: Problem, family: str) -> str:
    """The worked answer: ``20+3=23. 20+23=43. #### 43``.

    Raises:
        BenchmarkError: it does not end with the problem's answer.
    """
    numbers = [Fraction(number) for number in re.findall(r"\d+", problem.prompt)]
    known = {str(place): number for place, number in enumerate(numbers)}
    lines, last = [], Fraction(0)
    for one, sign, other in FAMILIES[family]:
        if sign == "?":
            sign = "-" if "fewer" in problem.prompt else "+"
        a, b = (last if name == "_" else known[name] for name in (one, other))
        last = _OPERATORS[sign](a, b)
        lines.append(f"{a}{sign}{b}={last}.")
    if str(last) != problem.answer:
        raise BenchmarkError(f"{problem.prompt}: worked to {last}, its answer is {problem.answer}; correct FAMILIES")
    return " ".join([*lines, f"#### {last}"])


def made(count: int, part: str, transforms: Sequence[str], *, least: int | None = None) -> list[Group]:
    """``count`` groups of a part, as many of every family.

    Args:
        part: names the draws; another part has other problems.
        least: phrasings of a group, of those asked for; None is all. Problems with fewer are passed over.
    """
    out: list[Group] = []
    each = -(-count // len(FAMILIES))
    of, said = Counter[str](), set[str]()
    for turn in range(_TURNS):
        for group in _candidates(each, part, turn, transforms):
            fits = len(group.phrasings) >= (len(transforms) if least is None else least)
            if fits and group.problem.prompt not in said and of[group.family] < each and len(out) < count:
                said.add(group.problem.prompt)
                of[group.family] += 1
                out.append(group)
        if len(out) == count:
            return out
    raise BenchmarkError(f"{part}: got {len(out)} groups of {count}, {dict(of)}; ask for other transforms")


def _candidates(each: int, part: str, turn: int, transforms: Sequence[str]) -> Iterator[Group]:
    chosen = {rule.name: rule for rule in rules_of() if rule.name in transforms}
    checks = Ladder(checks=checks_of())
    drawn = problems((each + 20) * len(_FORMS), derive(SEED, "ta-grpo", part, turn), told=True)
    families = {problem.problem_id: _FORMS[place % len(_FORMS)] for place, problem in enumerate(drawn)}
    some = [problem for problem in drawn if families[problem.problem_id] in FAMILIES]
    found: dict[str, dict[str, Variant]] = {problem.problem_id: {} for problem in some}
    for name in transforms:
        pairs = []
        for problem in some:
            variant = chosen[name].apply(problem, stream(SEED, name, problem.problem_id))
            if not isinstance(variant, NotApplicable):
                pairs.append(Pair(problem, variant))
        for judged in checks.verify(pairs):
            if judged.passed and solve(judged.pair.variant.prompt) == judged.pair.variant.answer:
                found[judged.pair.problem.problem_id][name] = judged.pair.variant
    for problem in some:
        family = families[problem.problem_id]
        told = replace(problem, solution=worked(problem, family))
        yield Group(told, family, tuple(found[problem.problem_id].values()))


def apart(groups: Sequence[Group], others: Sequence[Group]) -> list[Group]:
    """Groups whose question is none of the others'."""
    said = {other.problem.prompt for other in others}
    return [group for group in groups if group.problem.prompt not in said]


def planted(groups: Sequence[Group], share: float, seed: int) -> list[Group]:
    """The groups with a fault in that share of all their phrasings: the answer of the text is another one.

    The answer that is stored stays. Originals are left alone, as no transform has touched them.
    """
    places = [(row, place) for row, group in enumerate(groups) for place in range(len(group.phrasings))]
    wanted, out = round(share * len(places)), list(groups)
    for pick in stream(seed, "planted", "where").permutation(len(places)).tolist():
        if wanted == 0:
            return out
        row, place = places[pick]
        spoilt = _spoilt(out[row].phrasings[place], seed)
        if spoilt is not None:
            told = list(out[row].phrasings)
            told[place] = spoilt
            out[row] = replace(out[row], phrasings=tuple(told), faulty=(*out[row].faulty, place))
            wanted -= 1
    if wanted:
        raise BenchmarkError(f"planted faults: {wanted} of {round(share * len(places))} found no place; ask for fewer")
    return out


def _spoilt(variant: Variant, seed: int) -> Variant | None:
    for attempt in range(_ATTEMPTS):
        rng = stream(seed, "planted", variant.prompt, attempt)
        prompt = _FAULTS[int(rng.integers(len(_FAULTS)))](variant.prompt, rng)
        if prompt is not None and (_answer(prompt) or variant.answer) != variant.answer:
            return replace(variant, prompt=prompt)
    return None


def _answer(prompt: str) -> str | None:
    """The answer that the text has, where it is a whole number from 0 on."""
    found = solve(prompt)
    return found if found is not None and found.isdigit() else None
