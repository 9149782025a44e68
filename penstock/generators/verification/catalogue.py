"""The checks that need no model, by name."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.errors import ConfigError
from penstock.generators.verification.base import Check

CHECKS = ("structural", "order", "rename", "alignment")


def checks_of(names: Sequence[str] = CHECKS) -> tuple[Check, ...]:
    """The checks of these names, in the order of ``CHECKS``.

    Raises:
        ConfigError: an unknown name.
    """
    from penstock.generators.verification.alignment import Aligned
    from penstock.generators.verification.order import Ordered
    from penstock.generators.verification.rename import Restored
    from penstock.generators.verification.structural import Structural

    made: tuple[Check, ...] = (Structural(), Ordered(), Restored(), Aligned())
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ConfigError(f"checks: got {unknown[0]!r}, allowed {', '.join(CHECKS)}; correct the name")
    return tuple(check for check in made if check.name in names)
