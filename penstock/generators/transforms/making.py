"""Groups from problems: transforms are tried until each problem has the variants it should, and the ladder judges all.

A problem tries one transform of every kind before a second of any; which kinds come first is drawn for each problem, so
that a bound on variants does not favour a kind. All problems go on in waves: each tries as many transforms as it still
lacks variants, what they make is verified together, and those that still lack some try the next. A variant that says
what its original or a sibling says is no variant.

What comes out depends on the problem, the seed and the answers of models alone: not on other problems, batches or time.
Where a budget is spent the waves end, and every problem has what was verified before.

Price: that of the transforms and checks; a model is asked for no more variants than are wanted and were refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from penstock.errors import BudgetError
from penstock.generators.transforms.base import ModelTransform, NotApplicable, Problem, RuleTransform, Variant
from penstock.generators.verification.base import Pair
from penstock.generators.verification.ladder import Judged, Ladder
from penstock.seeding import stream

DUPLICATE, BUDGET = "duplicate", "budget"  # why a variant is out besides the names of checks

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Rejected:
    """A variant that joins no group: ``reason`` is the name of the check that failed it, or one of those above."""

    variant: Variant
    reason: str
    detail: str = ""


@dataclass
class Group:
    """A problem, its verified variants in order, and what became of the rest."""

    problem: Problem
    kept: list[Judged] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    not_applicable: list[NotApplicable] = field(default_factory=list)
    _plan: list[int] = field(default_factory=list)  # transforms not tried yet, the next one last
    _said: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What groups are made with.

    Args:
        transforms: of different names.
        ladder: judges what they make.
        per_problem: verified variants of each problem at most.
        seed: of all draws.
    """

    transforms: tuple[RuleTransform | ModelTransform, ...]
    ladder: Ladder
    per_problem: int
    seed: int

    async def make(self, problems: Sequence[Problem]) -> tuple[list[Group], BudgetError | None]:
        """A group for each problem, in their order, and what stopped the making before its end."""
        groups = [self._begin(problem) for problem in problems]
        stopped: BudgetError | None = None
        while stopped is None and (wave := self._wave(groups)):
            stopped = await self._try(wave)
        return groups, stopped

    def _begin(self, problem: Problem) -> Group:
        rng = stream(self.seed, "variants", problem.problem_id)
        by_kind: dict[str, list[int]] = {}
        for place, transform in enumerate(self.transforms):
            by_kind.setdefault(transform.kind, []).append(place)
        shuffled = [rng.permutation(by_kind[kind]).tolist() for kind in sorted(by_kind)]
        order = rng.permutation(len(shuffled)).tolist()
        longest = max(map(len, shuffled), default=0)
        plan = [shuffled[kind][turn] for turn in range(longest) for kind in order if turn < len(shuffled[kind])]
        return Group(problem, _plan=plan[::-1], _said={said(problem.prompt)})

    def _wave(self, groups: Sequence[Group]) -> list[tuple[Group, int]]:
        """(group, transform) that are tried next."""
        return [
            (group, group._plan.pop())
            for group in groups
            for _ in range(min(self.per_problem - len(group.kept), len(group._plan)))
        ]

    async def _try(self, wave: Sequence[tuple[Group, int]]) -> BudgetError | None:
        made, stopped = await self._propose(wave)
        fresh = [(group, pair) for group, one in made if (pair := _fresh(group, one)) is not None]
        try:
            found = await self.ladder.verify_async([pair for _, pair in fresh])
        except BudgetError as error:  # what cannot be judged any more joins nothing
            for group, pair in fresh:
                group.rejected.append(Rejected(pair.variant, BUDGET))
            return stopped or error
        for (group, pair), judged in zip(fresh, found, strict=True):
            if judged.failed is None:
                group.kept.append(judged)
            else:
                group.rejected.append(Rejected(pair.variant, judged.failed.check, judged.failed.detail))
        return stopped

    async def _propose(
        self, wave: Sequence[tuple[Group, int]]
    ) -> tuple[list[tuple[Group, Variant | NotApplicable]], BudgetError | None]:
        """What the transforms make of a wave, in its order, less what a spent budget did not let a model make."""
        found: dict[int, Variant | NotApplicable] = {}
        stopped: BudgetError | None = None
        for place, transform in enumerate(self.transforms):
            rows = [row for row, (_, tried) in enumerate(wave) if tried == place]
            if rows:
                try:
                    found |= zip(
                        rows, await self._apply(transform, [wave[row][0].problem for row in rows]), strict=True
                    )
                except BudgetError as error:
                    stopped = stopped or error
        return [(wave[row][0], found[row]) for row in sorted(found)], stopped

    async def _apply(
        self, transform: RuleTransform | ModelTransform, problems: Sequence[Problem]
    ) -> Sequence[Variant | NotApplicable]:
        if inspect.iscoroutinefunction(transform.apply):
            return await cast(ModelTransform, transform).apply(problems, seed=self.seed)
        rule = cast(RuleTransform, transform)
        return [rule.apply(one, stream(self.seed, "variants", one.problem_id, rule.name)) for one in problems]


def said(text: str) -> str:
    """A text's words alone: two texts of equal words are one."""
    return " ".join(_WORD.findall(text.casefold()))


def _fresh(group: Group, made: Variant | NotApplicable) -> Pair | None:
    """The pair to be judged; None where there is no variant, which the group then notes."""
    if isinstance(made, NotApplicable):
        group.not_applicable.append(made)
        return None
    words = said(made.prompt)
    if words in group._said:
        group.rejected.append(Rejected(made, DUPLICATE))
        return None
    group._said.add(words)
    return Pair(group.problem, made)
