"""Learning from groups of answers: GRPO and its kin on problems with verified variants."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "GroupRLConfig": "penstock.training.group_rl.config",
    },
)
