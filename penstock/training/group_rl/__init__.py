"""Learning from groups of answers: GRPO and its kin on problems with verified variants."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "GroupRLConfig": "penstock.training.group_rl.config",
        "Advantages": "penstock.training.group_rl.advantages",
        "GroupFacts": "penstock.training.group_rl.advantages",
        "group_advantages": "penstock.training.group_rl.advantages",
        "can_share_prefix": "penstock.training.group_rl.forward",
        "token_logprobs": "penstock.training.group_rl.forward",
        "learn": "penstock.training.group_rl.loop",
        "Problem": "penstock.training.group_rl.problems",
        "ProblemTable": "penstock.training.group_rl.problems",
        "GroupRLResult": "penstock.training.group_rl.result",
        "kl_divergence": "penstock.training.group_rl.losses",
        "policy_loss": "penstock.training.group_rl.losses",
        "nft_loss": "penstock.training.group_rl.nft",
        "pass_at_k": "penstock.training.group_rl.passk",
        "PooledAdvantages": "penstock.training.group_rl.trl",
        "whole_groups": "penstock.training.group_rl.trl",
        "largest_variance": "penstock.training.group_rl.weights",
        "question_weights": "penstock.training.group_rl.weights",
        "z_pool": "penstock.training.group_rl.zero_gradient",
        "z_single": "penstock.training.group_rl.zero_gradient",
    },
)
