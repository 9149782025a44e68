"""What a recipe's ``policy`` means in the loop: the rule, its probe and target, and the mixer that runs them.

The policy sets the mixture from the first sequence on. Its target is made of validation sequences, half of which are
only ever evaluated: their loss is recorded as ``target_loss``.

Price: what the rule's probe costs (``probes``); the target's held-out sequences at every validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.errors import ConfigError
from penstock.seeding import derive
from penstock.training.config import ModelConfig, TrainConfig
from penstock.training.evaluation import autocast
from penstock.training.loader import Batch, MixtureLoader
from penstock.training.mixing.base import MixingPolicy, Signal
from penstock.training.mixing.config import policy_of
from penstock.training.mixing.mixer import Mixer, starting_weights
from penstock.training.mixing.post import PostStage
from penstock.training.model import (
    PackedInputs,
    build_model,
    check_isolation,
    logits_function,
    pack_inputs,
    token_losses,
)
from penstock.training.parallel import Spread
from penstock.training.probes import GradientProbe, Target
from penstock.training.store import Store

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Policy:
    """A rule with its post-stage, as the recipe asks for them."""

    rule: MixingPolicy
    post: PostStage

    @classmethod
    def of(cls, config: TrainConfig) -> Policy | None:
        """None without a policy: the mixture of the configuration holds."""
        if config.policy is None:
            return None
        return cls(*policy_of(config.policy, steps=config.steps))

    def starting_weights(self, store: Store, config: TrainConfig) -> dict[str, float]:
        """The mixture of the first sequence."""
        return starting_weights(self.rule, store, self.post, sequences=config.steps * config.batch_size)


def open_reference(
    config: TrainConfig, *, vocab_size: int, length: int, device: torch.device
) -> Callable[[PackedInputs], torch.Tensor] | None:
    """Token losses of the reference model, without gradient and dropout; None where the policy needs none.

    Every rank holds the whole of it, 4 bytes a parameter.
    """
    if config.reference_model is None:
        return None
    model = build_model(
        ModelConfig(path=config.reference_model), vocab_size=vocab_size, length=length, seed=config.seed
    )
    model.to(device).eval().requires_grad_(False)
    logits_of = logits_function(model)
    if not config.cross_document_attention:
        check_isolation(model, logits_of)

    def losses_of(inputs: PackedInputs) -> torch.Tensor:
        return token_losses(logits_of, inputs, cross_document_attention=config.cross_document_attention)

    return losses_of


def open_mixer(
    policy: Policy,
    config: TrainConfig,
    loader: MixtureLoader,
    spread: Spread,
    held_out: Store | None,
    *,
    bfloat16: bool,
) -> tuple[Mixer, Target | None]:
    """The mixer of a run and the target that its rule looks at, if it does.

    Raises:
        ConfigError: a target without validation sequences, or a signal that nothing gives.
    """
    assert config.policy is not None, "there is no policy to run"
    target = None
    if config.policy.target:
        if held_out is None:
            raise ConfigError(
                f"policy.target: got {list(config.policy.target)}, but there are no validation sequences; give some"
            )
        target = Target.split(held_out, domains=config.policy.target, seed=derive(config.seed, "target"))
    ranks = spread.ranks
    probe = None
    if config.policy.needs_probe:
        needed = {Signal.TARGET_DOT, Signal.TARGET_LOSS} & policy.rule.needs
        assert not needed or target is not None, "the configuration asks for a target where a rule needs one"

        def loss(batch: Batch) -> torch.Tensor:
            inputs = pack_inputs(batch.tokens, batch.segment_ids, batch.positions, batch.learned, device=spread.device)
            with autocast(spread.device, bfloat16):
                losses = spread.bare_losses(inputs)
            # the probe averages over ranks; theirs have unequal numbers of tokens
            tokens = float(ranks.sum(np.array([len(losses)], dtype=np.float64))[0])
            return losses.sum() * (ranks.world_size / max(tokens, 1.0))

        basis = getattr(policy.rule, "basis_over", None)
        probe = GradientProbe(
            spread.module,
            loss,
            loader.store,
            target=target,
            sequences=config.policy.probe_sequences,
            seed=derive(config.seed, "probe"),
            clip_norm=config.policy.clip_norm,
            basis=None if basis is None else basis(loader.domains, loader.store.tokens),
            backward="grad" if spread.way == "fsdp" else "autograd",
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
    mixer = Mixer(policy.rule, loader, post=policy.post, probe=probe, steps=config.steps, group=ranks.host_group)
    return mixer, target
