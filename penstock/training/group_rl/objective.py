"""One update's gradient: the objective of a part of a step's answers, by micro-batches that add up to it exactly.

Only answers that move a weight are read by the model: those of groups whose rewards differ, and with ``kl_beta`` those
whose divergence from the reference counts. All known answers count in what losses are divided by, so leaving a flat
group out of the pass changes nothing but the time.

The ratio's two log-probabilities are conditioned on what ``ratio_context`` says; so is the divergence, which would
else cost a pass of its own. Old log-probabilities after the own prompt are those recorded when the answer was sampled.
Those after the original's (``original_swap``) are the policy's own at the beginning of the step.

Price: one pass forward and back over the answers that count, and one forward over them with the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.evaluation import autocast
from penstock.training.group_rl.advantages import Advantages, group_advantages
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.forward import can_share_prefix, token_logprobs
from penstock.training.group_rl.losses import RATIO_PROMPTS, average, kl_divergence, policy_loss
from penstock.training.group_rl.nft import nft_loss
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Ints, Rewards, Rollouts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A step's answers with what is needed to learn from them.

    Attributes:
        prompts: N arrays that the ratio's new log-probabilities are conditioned on.
        known, correct: (N,).
    """

    rollouts: Rollouts
    prompts: tuple[NDArray[np.int32], ...]
    advantages: Advantages
    known: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def judge(rollouts: Rollouts, rewards: Rewards, questions: Questions, config: GroupRLConfig) -> Judged:
    """Advantages of a step's answers, and the prompts they are learned after.

    Raises:
        ConfigError: ``nft`` with rewards other than 0 and 1.
    """
    pool = rollouts.group if config.settled("pool") == "group" else rollouts.problem
    advantages = group_advantages(
        rewards.values,
        pool,
        known=rewards.known,
        scale=config.settled("scale"),
        std=config.std,
        epsilon=config.epsilon,
    )
    if config.objective == "nft":
        odd = rewards.values[rewards.known & (rewards.values != 0.0) & (rewards.values != 1.0)]
        if len(odd):
            raise ConfigError(
                f"objective: got nft with a reward of {odd[0]:g}, allowed 0 and 1, which say right or wrong; "
                "change the reward or the objective"
            )
    prompts = rollouts.prompts
    if RATIO_PROMPTS[config.ratio_context][0] == "original":
        of_group = [questions.prompts[places[0]] for places in questions.table.groups]
        prompts = tuple(of_group[group] for group in rollouts.group.tolist())
    return Judged(
        rollouts=rollouts,
        prompts=prompts,
        advantages=advantages,
        known=rewards.known,
        correct=rewards.values == 1.0,
    )


class Objective:
    """Gradients of a configuration's objective in a model's weights."""

    def __init__(self, model: Any, config: GroupRLConfig, *, reference: Any = None, bfloat16: bool = False) -> None:
        """``reference`` is the model that ``kl_beta`` holds the policy to; None without one."""
        self.model, self.config, self.reference, self.bfloat16 = model, config, reference, bfloat16

    def old_logprobs(self, judged: Judged) -> tuple[NDArray[np.float32], ...]:
        """What each row's ratio is to: recorded, or computed now where the ratio's old side has another prompt."""
        import torch

        rollouts = judged.rollouts
        if RATIO_PROMPTS[self.config.ratio_context][1] == "own":
            return rollouts.logprobs
        out = list(rollouts.logprobs)
        with torch.no_grad():
            for rows in self._micro_batches(judged, np.flatnonzero(self._counts(judged))):
                for row, found in zip(rows.tolist(), self._logprobs(self.model, judged, rows), strict=True):
                    out[row] = found.float().cpu().numpy()
        return tuple(out)

    def backward(self, judged: Judged, old: Sequence[NDArray[np.float32]], rows: Ints) -> dict[str, float] | None:
        """Add the gradient of the objective over these rows to that of the weights.

        Args:
            old: of all rows of the step, from ``old_logprobs``.
            rows: of one update; whole groups.

        Returns:
            The loss and its facts (of the divergence alone where no group has rewards that differ); None where no row
            moves a weight.
        """
        import torch

        known = rows[judged.known[rows]]
        read = rows[self._counts(judged)[rows]]
        if not len(read):
            return None
        lengths = np.array([len(response) for response in judged.rollouts.responses])
        tokens = float(lengths[known].sum())
        moving = float(lengths[rows[self._moves(judged)[rows]]].sum())
        total = (float(len(known)), tokens)
        sums: dict[str, torch.Tensor] = {}
        for micro in self._micro_batches(judged, read):
            loss, facts = self._loss(judged, old, micro, total)
            torch.autograd.backward(loss)
            for name, value in {"loss": loss.detach(), **facts}.items():
                sums[name] = sums[name] + value if name in sums else value
        found = {name: float(value) for name, value in sums.items()}
        # facts are sums over the tokens of moving rows, divided by all tokens: those left out have no ratio
        kept = {name: value for name, value in found.items() if name in ("loss", "kl")}
        return found | {n: v * tokens / moving for n, v in found.items() if n not in kept} if moving else kept

    def _moves(self, judged: Judged) -> NDArray[np.bool_]:
        return judged.known & ~judged.advantages.flat

    def _held(self, judged: Judged) -> NDArray[np.bool_]:
        """Rows whose divergence from the reference counts."""
        if self.reference is None:
            return np.zeros_like(judged.known)
        return judged.known if self.config.kl_on_flat else self._moves(judged)

    def _counts(self, judged: Judged) -> NDArray[np.bool_]:
        return self._moves(judged) | self._held(judged)

    def _loss(
        self, judged: Judged, old: Sequence[NDArray[np.float32]], rows: Ints, total: tuple[float, float]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        config, device = self.config, self.model.device
        logprobs = pad_sequence(self._logprobs(self.model, judged, rows), batch_first=True)
        before = [torch.from_numpy(np.asarray(old[row])) for row in rows.tolist()]
        old_here = pad_sequence(before, batch_first=True).to(device, logprobs.dtype)
        lengths = torch.tensor([len(one) for one in before])
        inside = (torch.arange(logprobs.shape[1])[None] < lengths[:, None]).to(device)

        def column(values: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values[rows])).to(device)

        shared: dict[str, Any] = {
            "normalizer": config.settled("normalizer"),
            "max_tokens": config.max_new_tokens,
            "total": total,
        }
        mask = inside & column(self._moves(judged))[:, None]
        if config.objective == "nft":
            loss, facts = nft_loss(
                logprobs,
                old_here,
                column(judged.advantages.accuracy),
                column(judged.correct),
                mask,
                weight=config.nft_weight,
                negative=config.nft_negative,
                **shared,
            )
        else:
            loss, facts = policy_loss(
                logprobs,
                old_here,
                column(judged.advantages.values),
                mask,
                clip_low=config.clip_low,
                clip_high=config.settled("clip_high"),
                **shared,
            )
        if self.reference is not None:
            with torch.no_grad():
                held_to = pad_sequence(self._logprobs(self.reference, judged, rows), batch_first=True)
            divergence = kl_divergence(logprobs, held_to, estimator=config.kl_estimator)
            kl = average(divergence, inside & column(self._held(judged))[:, None], **shared)
            loss = loss + config.kl_beta * kl
            facts = facts | {"kl": kl.detach()}
        return loss, facts

    def _logprobs(self, model: Any, judged: Judged, rows: Ints) -> list[torch.Tensor]:
        places = rows.tolist()
        with autocast(self.model.device, self.bfloat16):
            return token_logprobs(
                model,
                [judged.prompts[row] for row in places],
                [judged.rollouts.responses[row] for row in places],
                temperature=self.config.temperature,
                shared_prefix=self.config.shared_prefix,
            )

    def _micro_batches(self, judged: Judged, rows: Ints) -> Iterator[Ints]:
        """Parts of at most ``micro_batch_tokens``, filling counted, or of one answer: answers to a prompt together."""
        shared = self.config.shared_prefix and can_share_prefix(self.model)
        prompts = [judged.prompts[row] for row in rows.tolist()]
        answer = np.array([len(judged.rollouts.responses[row]) for row in rows.tolist()])
        prompt = np.array([len(one) for one in prompts])
        numbers: dict[int, int] = {}
        owner = np.array([numbers.setdefault(id(one), len(numbers)) for one in prompts])
        # prompts of about one length together, their answers from short to long
        order = np.lexsort((answer, owner, prompt))
        begin, held, widest, longest = 0, set[int](), 0, 0
        for place, at in enumerate(order.tolist()):
            of = held | {int(owner[at])}
            wide, long = max(widest, int(prompt[at])), max(longest, int(answer[at]))
            count = place - begin + 1
            cost = len(of) * wide + count * long if shared else count * (wide + long)
            if count > 1 and cost > self.config.micro_batch_tokens:
                yield rows[order[begin:place]]
                begin, of, wide, long = place, {int(owner[at])}, int(prompt[at]), int(answer[at])
            held, widest, longest = of, wide, long
        yield rows[order[begin:]]
