"""What a run of group-relative learning is told: the objective, the rollouts, the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from penstock.errors import ConfigError
from penstock.generators.exports import INSTRUCTION

Objective = Literal["grpo", "dr-grpo", "dapo", "nft", "ta-grpo"]
Pool = Literal["problem", "group"]
Scale = Literal["std", "none", "mad", "batch"]
Normalizer = Literal["sequence", "token", "dr"]
RatioContext = Literal["own", "original_swap", "original_is"]
Phrasings = Literal["original", "one", "all"]
KLEstimator = Literal["k1", "k2", "k3"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

# what an objective's name stands for, where a field below is None
_OF = {
    "grpo": {"pool": "problem", "scale": "std", "normalizer": "sequence", "clip_high": 0.2},
    "dr-grpo": {"pool": "problem", "scale": "none", "normalizer": "dr", "clip_high": 0.2},
    "dapo": {"pool": "problem", "scale": "std", "normalizer": "token", "clip_high": 0.28},
    "nft": {"pool": "problem", "scale": "std", "normalizer": "token", "clip_high": 0.2},
    "ta-grpo": {"pool": "group", "scale": "std", "normalizer": "token", "clip_high": 0.2},
}
# fields that say how a run is watched and on what it runs: a run goes on when they change
RUNNING = ("checkpoint_every", "device", "keep_checkpoints", "reward_workers", "threads")


def _require(holds: bool, name: str, got: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {got!r}, allowed {allowed}; change it")


@dataclass(frozen=True, kw_only=True)
class GroupRLConfig:
    """Everything that decides a run, apart from the model and the problems.

    A step asks ``groups_per_step`` questions. Each is asked by ``phrasings``: its original alone, one phrasing drawn
    evenly among all of them, or all; and each phrasing asked is answered ``rollouts`` times.
    """

    objective: Objective = "ta-grpo"
    steps: int = 100
    seed: int = 0

    # rollouts
    groups_per_step: int = 16  # questions a step
    rollouts: int = 8  # answers to a phrasing
    phrasings: Phrasings = "all"
    max_phrasings: int | None = None  # of a group, the original first; None takes all
    instruction: str = INSTRUCTION  # a line before the question
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    rollout_batch: int = 256  # answers that are sampled together

    # advantages; None is what the objective's name stands for
    pool: Pool | None = None  # what shares a mean: answers to one phrasing, or to all phrasings of a question
    scale: Scale | None = None  # what a difference from it is divided by
    std: Literal["unbiased", "population"] = "unbiased"
    epsilon: float = 1e-6  # added to what is divided by

    # loss
    normalizer: Normalizer | None = None  # mean per answer, per token of the step, or over answers x max_new_tokens
    clip_low: float = 0.2
    clip_high: float | None = None
    ratio_context: RatioContext = "own"  # which prompt a ratio's two log-probabilities are conditioned on
    kl_beta: float = 0.0  # weight of the KL divergence to the model that the run started from
    kl_estimator: KLEstimator = "k3"
    kl_on_flat: bool = True  # also for groups whose rewards are all equal
    nft_weight: Literal[0, 1, 2] = 2  # of a question: 1, 1 - p, sqrt((1 - p) / p)
    nft_negative: float = 1.0  # weight of wrong answers; 0 is rejection fine-tuning

    # reward
    reward: str = "answer"  # the final answer compared with the problem's, or module:function
    reward_deadline: float = 5.0  # seconds of computing for one answer
    reward_workers: int | None = None  # processes that compare; None is one a core

    # updates
    updates_per_step: int = 1  # passes over a step's rollouts, in so many equal parts of whole groups
    micro_batch_tokens: int = 16_384  # tokens in one forward pass, filling counted; one answer at least
    shared_prefix: bool = True  # read a prompt once for all its answers, where the model allows it
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    # evaluation
    eval_every: int = 50  # steps; the start and the last step are always evaluated when there is something to ask
    eval_problems: int = 128  # phrasings of each set, from its first
    eval_samples: int = 32  # answers to each
    eval_ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    checkpoint_every: int = 20
    keep_checkpoints: int = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto is bfloat16 on CUDA, float32 on CPU
    threads: int | None = None  # of PyTorch on CPU; None leaves its own choice

    def __post_init__(self) -> None:
        for name, of in _CHOICES.items():
            value = getattr(self, name)
            given = value is not None or name not in _OF["grpo"]
            _require(not given or value in get_args(of), name, value, ", ".join(map(repr, get_args(of))))
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            optional = value is None and name in ("max_phrasings", "reward_workers", "threads")
            _require(optional or (whole and value >= least), name, value, f"a whole number >= {least}")
        for name in ("temperature", "learning_rate", "clip_norm", "reward_deadline"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, value, "a finite number > 0")
        for name in ("epsilon", "clip_low", "kl_beta", "nft_negative", "weight_decay"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "a finite number >= 0")
        high = self.clip_high
        _require(
            high is None or (math.isfinite(high) and high >= 0), "clip_high", high, "a finite number >= 0, or none"
        )
        _require(self.clip_low < 1, "clip_low", self.clip_low, "a number below 1")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "0 < number <= 1")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 <= number < 1")
        _require(self.warmup_steps <= self.steps, "warmup_steps", self.warmup_steps, f"at most steps = {self.steps}")
        ks = tuple(self.eval_ks)
        good = bool(ks) and all(isinstance(k, int) and 1 <= k <= self.eval_samples for k in ks)
        _require(good, "eval_ks", ks, f"whole numbers from 1 to eval_samples = {self.eval_samples}")
        named = self.reward == "answer" or self.reward.count(":") == 1
        _require(named, "reward", self.reward, "'answer' or module:function")
        self._check_pools()

    def _check_pools(self) -> None:
        of_one = self.settled("pool") == "problem" or self.phrasings != "all"
        least = 2 if of_one else 1
        _require(
            self.rollouts >= least, "rollouts", self.rollouts, f"at least {least}: an answer alone has no baseline"
        )
        if self.max_phrasings is not None and not of_one:
            answers = self.max_phrasings * self.rollouts
            _require(answers >= 2, "max_phrasings", self.max_phrasings, "2 or more with one rollout each")
        parts = self.groups_per_step % self.updates_per_step == 0
        allowed = f"a divisor of groups_per_step = {self.groups_per_step}"
        _require(parts, "updates_per_step", self.updates_per_step, allowed)
        if self.ratio_context != "own":
            plain = self.settled("pool") == "group"
            _require(plain, "ratio_context", self.ratio_context, "'own' where phrasings are not pooled")

    def settled(self, name: Literal["pool", "scale", "normalizer", "clip_high"]) -> Any:
        """The field, or what the objective's name stands for where it is None."""
        value = getattr(self, name)
        return _OF[self.objective][name] if value is None else value

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the updates of ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        left = 1.0 - (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (left if self.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left)))


_CHOICES = {
    "objective": Objective, "phrasings": Phrasings, "pool": Pool, "scale": Scale, "normalizer": Normalizer,
    "ratio_context": RatioContext, "kl_estimator": KLEstimator, "std": Literal["unbiased", "population"],
    "nft_weight": Literal[0, 1, 2], "schedule": Literal["constant", "linear", "cosine"],
    "device": Literal["auto", "cpu", "cuda"], "precision": Literal["auto", "float32", "bfloat16"],
}  # fmt: skip
_COUNTS = {
    "steps": 1, "seed": 0, "groups_per_step": 1, "rollouts": 1, "max_phrasings": 1, "max_new_tokens": 1,
    "rollout_batch": 1, "reward_workers": 1, "updates_per_step": 1, "micro_batch_tokens": 1, "warmup_steps": 0,
    "eval_every": 1, "eval_problems": 1, "eval_samples": 1, "checkpoint_every": 1, "keep_checkpoints": 1, "threads": 1,
}  # fmt: skip
