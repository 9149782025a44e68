"""The verification ladder: checks in the order of their price, a variant climbs until one of them fails it.

    structural -> order -> rename -> alignment -> (judge -> solve agreement -> embedding band)

Later checks cost more, so each sees only the pairs that every check before it passed. A variant joins the group of its
original only where all checks passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.errors import ConfigError
from penstock.generators.items import Verdict
from penstock.generators.verification.base import Check, ModelCheck, Pair


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the ladder said of one pair.

    Attributes:
        verdicts: one for each check that the pair reached, in the ladder's order; only the last can be a failure.
    """

    pair: Pair
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def failed(self) -> Verdict | None:
        """The verdict of the check that stopped it; None where all passed."""
        return None if self.passed else self.verdicts[-1]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Checks in order.

    Attributes:
        checks: at least one, with different names.
    """

    checks: tuple[Check | ModelCheck, ...]

    def __post_init__(self) -> None:
        names = [check.name for check in self.checks]
        if not names:
            raise ConfigError("checks: got none, allowed at least one; without a check no variant can be trusted")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ConfigError(f"checks: got {', '.join(twice)} more than once, allowed different names")

    def verify(self, pairs: Sequence[Pair]) -> list[Judged]:
        """Judge all pairs with checks that need no model; results are in the order of ``pairs``.

        Raises:
            ConfigError: one of the checks asks a model.
        """
        climb = _Climb(pairs)
        for check in self.checks:
            if isinstance(check, ModelCheck):
                raise ConfigError(f"checks: got {check.name}, which asks a model; await Ladder.verify_async instead")
            climb.add(check.name, check.check(climb.here))
        return climb.judged()

    async def verify_async(self, pairs: Sequence[Pair]) -> list[Judged]:
        """The same for checks of both forms.

        Raises:
            BudgetError: a check that asks a model may ask nothing more.
        """
        climb = _Climb(pairs)
        for check in self.checks:
            if isinstance(check, ModelCheck):
                verdicts = await check.check_async(climb.here)
            else:
                verdicts = check.check(climb.here)
            climb.add(check.name, verdicts)
        return climb.judged()


class _Climb:
    """Pairs on their way: the verdicts of all, the places of those that no check has failed."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = list(pairs)
        self._verdicts: list[list[Verdict]] = [[] for _ in self._pairs]
        self._standing = list(range(len(self._pairs)))

    @property
    def here(self) -> list[Pair]:
        return [self._pairs[place] for place in self._standing]

    def add(self, name: str, verdicts: Sequence[Verdict]) -> None:
        if len(verdicts) != len(self._standing):
            raise ValueError(f"check {name}: got {len(verdicts)} verdicts for {len(self._standing)} pairs")
        for place, verdict in zip(self._standing, verdicts, strict=True):
            self._verdicts[place].append(verdict)
        self._standing = [p for p, verdict in zip(self._standing, verdicts, strict=True) if verdict.passed]

    def judged(self) -> list[Judged]:
        both = zip(self._pairs, self._verdicts, strict=True)
        return [Judged(pair=pair, verdicts=tuple(verdicts)) for pair, verdicts in both]
