"""All transforms that need no model, by kind."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import ConfigError
from penstock.generators.transforms.background import Background
from penstock.generators.transforms.base import RuleTransform
from penstock.generators.transforms.choices import Choices
from penstock.generators.transforms.order import Order
from penstock.generators.transforms.paraphrase import Paraphrase
from penstock.generators.transforms.presentation import Presentation
from penstock.generators.transforms.prompted import KINDS
from penstock.generators.transforms.rename_names import RenameNames
from penstock.generators.transforms.rename_variables import RenameVariables
from penstock.generators.transforms.subproblem import Subproblem
from penstock.generators.transforms.symbolic import Symbolic
from penstock.generators.transforms.term import Term


def rules_of(kinds: Sequence[str] = KINDS) -> tuple[RuleTransform, ...]:
    """The transforms of these kinds, in the order of the kinds.

    Raises:
        ConfigError: no kind is called so.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"kinds: got {unknown[0]!r}, allowed {', '.join(KINDS)}; correct the name")
    rules: tuple[RuleTransform, ...] = (
        Paraphrase(), RenameNames(), RenameVariables(), Presentation(), Order(), Choices(), Symbolic(), Background(),
        Term(), Subproblem(),
    )  # fmt: skip
    return tuple(rule for kind in kinds for rule in rules if rule.kind == kind)
