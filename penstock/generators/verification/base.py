"""What a check of the verification ladder is: pairs of a problem and its variant in, one verdict each out.

A check is a filter, not a judge of style: it passes a variant only where it can tell that nothing asked or given has
changed. Checks read the two texts; what a transform says of itself (its edits, its mapping) is never proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from penstock.generators.items import Verdict
from penstock.generators.transforms.base import Problem, Variant


class Pair(NamedTuple):
    """A problem and a variant that is said to be the same problem."""

    problem: Problem
    variant: Variant


class Check(Protocol):
    """A step of the ladder that needs no model.

    Attributes:
        name: the check's name in its verdicts and in the counts of drops.
    """

    @property
    def name(self) -> str: ...

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair, in their order; a pair's verdict does not depend on the other pairs."""


@runtime_checkable
class ModelCheck(Protocol):
    """A step of the ladder that asks a model or an embedder: the same, awaited.

    It is told from a ``Check`` by the name of its method, so an object has one of the two.
    """

    @property
    def name(self) -> str: ...

    async def check_async(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair, in their order.

        Raises:
            BudgetError: nothing more may be asked.
        """
