"""What a training run is told: the model, the schedule and the data, checked when they are written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from penstock.errors import ConfigError
from penstock.training.mixing.base import Signal
from penstock.training.mixing.config import PolicyConfig, policy_of
from penstock.training.mixture_entries import OnExhausted
from penstock.training.weighting import WeightingConfig

# fields of TrainConfig that say how a run is watched, kept and on what it runs: a run goes on when they change
RUNNING = (
    "activation_checkpointing", "async_checkpoints", "cache_gb", "compile", "device", "keep_checkpoints", "loss_chunk",
    "parallel", "peak_tflops", "prefetch", "processes", "rank_timeout", "tensorboard", "threads",
)  # fmt: skip


def _require(holds: bool, name: str, got: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {got!r}, allowed {allowed}; change it")


def _require_count(owner: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(whole and value >= least, name, value, f"a whole number >= {least}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama-style decoder to start from seeded random weights, or a folder to start from.

    With ``path`` set, the folder's own configuration holds and the other fields are not used.
    """

    path: str | None = None  # local Hugging Face folder of a causal language model, safetensors only
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn_size: int = 352
    tie_embeddings: bool = True
    context_length: int | None = None  # tokens; None is the length of the training sequences

    def __post_init__(self) -> None:
        _require_count(self, 1, "hidden_size", "layers", "heads", "kv_heads", "ffn_size")
        if self.context_length is not None:
            _require_count(self, 2, "context_length")
        even = self.hidden_size % (2 * self.heads) == 0
        _require(even, "hidden_size", self.hidden_size, f"a multiple of twice the {self.heads} heads (rotary pairs)")
        _require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of the {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run, apart from the data.

    A step is one optimiser update over ``batch_size`` sequences. The learning rate rises linearly over
    ``warmup_steps`` and falls along a cosine to ``min_learning_rate`` at the last step.
    """

    steps: int
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)

    batch_size: int = 32  # sequences per step
    micro_batch_size: int | None = None  # sequences per forward pass; None is the whole batch
    mixture: Mapping[str, float] | Literal["proportional", "uniform"] = "proportional"  # shares of tokens
    temperature: float = 1.0  # of "proportional"
    mixture_block: int = 1000  # sequences over which the mixture is exact
    max_epochs: float | Mapping[str, float] | None = None  # how often a domain may be read, for all or by name
    on_exhausted: OnExhausted = "repeat"  # what follows then; "repeat" allows no max_epochs
    group_rows: int | None = None  # sequences read from one place in turn, for object stores; None shuffles all rows
    policy: PolicyConfig | None = None  # sets the mixture from the start and while training, in place of ``mixture``
    reference_model: str | None = None  # folder of a model that the policy compares losses with (doremi)
    weighting: WeightingConfig | None = None  # of segments by their losses; None weighs every token alike
    cross_document_attention: bool = False

    learning_rate: float = 3e-3
    min_learning_rate: float = 3e-4
    warmup_steps: int = 20
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1  # on tensors of two or more dimensions
    clip_norm: float = 1.0  # of the whole gradient

    # a step whose loss or gradient is no finite number, or whose gradient is a spike, changes no weight
    max_skipped: int = 3  # such steps in a row; one more ends the run
    max_gradient_norm: float | None = None  # before clipping; above it is a spike. None sets no bound
    spike_z: float | None = None  # standard deviations of the log-norm above its running mean; None looks for none
    spike_window: int = 100  # norms that the mean is of; none is a spike before they are there

    eval_every: int = 100  # steps; validation also runs after the last step
    eval_sequences: int = 64  # per validation domain, from its first row
    checkpoint_every: int = 100  # steps; the last step is always saved
    keep_checkpoints: int = 2
    signals_every: int = 100  # steps per part of the signals table
    loss_mean_decay: float = 0.9  # of the running mean that excess_loss is measured from

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto is bfloat16 on CUDA, float32 on CPU
    threads: int | None = None  # of PyTorch on CPU; None leaves its own choice
    processes: int = 1  # on this machine, each with its share of every batch; torchrun's own number goes before it
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"  # auto is ddp with two processes or more, else none
    rank_timeout: float = 600.0  # seconds that a process waits for the others before it gives up
    compile: bool = False  # the decoder's layers, through torch.compile
    activation_checkpointing: bool = False  # keep each layer's input and compute the rest again for the gradient
    loss_chunk: int | None = None  # predicted tokens whose logits are in memory at a time; None is all of a micro-batch
    prefetch: int = 2  # batches read ahead in a thread; 0 reads each when it is needed
    cache_gb: float = 20.0  # GiB on the local disk for tokens of sequences that lie in a store
    async_checkpoints: bool = False  # write them in a thread while training goes on; holds one copy in memory
    tensorboard: bool = True
    peak_tflops: float | None = None  # of one device in this precision, for the MFU; None knows some GPUs

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "mixture_block", "eval_every", "eval_sequences", "checkpoint_every")
        _require_count(self, 1, *counts, "keep_checkpoints", "signals_every")
        _require_count(self, 1, "processes")
        _require_count(self, 2, "spike_window")
        _require_count(self, 0, "warmup_steps", "seed", "max_skipped", "prefetch")
        for name in ("micro_batch_size", "threads", "loss_chunk", "group_rows"):
            if getattr(self, name) is not None:
                _require_count(self, 1, name)
        for name in ("learning_rate", "epsilon", "clip_norm", "temperature", "rank_timeout", "cache_gb"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, value, "a finite number > 0")
        for name in ("max_gradient_norm", "spike_z", "peak_tflops"):
            value = getattr(self, name)
            holds = value is None or (math.isfinite(value) and value > 0)
            _require(holds, name, value, "a finite number > 0, or none")
        for name in ("min_learning_rate", "weight_decay"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "a finite number >= 0")
        for name in ("beta1", "beta2", "loss_mean_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 <= number < 1")
        at_most = f"at most learning_rate = {self.learning_rate}"
        _require(self.min_learning_rate <= self.learning_rate, "min_learning_rate", self.min_learning_rate, at_most)
        at_most = f"at most steps = {self.steps}"
        _require(self.warmup_steps <= self.steps, "warmup_steps", self.warmup_steps, at_most)
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "'auto', 'cpu' or 'cuda'")
        precisions = ("auto", "float32", "bfloat16")
        _require(self.precision in precisions, "precision", self.precision, "'auto', 'float32' or 'bfloat16'")
        if self.policy is not None:
            plain = self.mixture == "proportional" and self.temperature == 1.0
            _require(plain, "mixture", self.mixture, "no mixture and no temperature beside a policy, which sets it")
            soon = f"at most policy.lag = {self.policy.lag}: batches read ahead are drawn before an update holds"
            _require(self.prefetch <= self.policy.lag, "prefetch", self.prefetch, soon)
        compares = self.policy is not None and Signal.EXCESS_LOSS in policy_of(self.policy, steps=self.steps)[0].needs
        wanted = (
            "the folder of a model for this policy, whose losses it compares with"
            if compares
            else "none: no policy asks for it"
        )
        _require((self.reference_model is not None) == compares, "reference_model", self.reference_model, wanted)
        ends = get_args(OnExhausted)
        _require(self.on_exhausted in ends, "on_exhausted", self.on_exhausted, " or ".join(map(repr, ends)))
        ways = ("auto", "none", "ddp", "fsdp")
        _require(self.parallel in ways, "parallel", self.parallel, "'auto', 'none', 'ddp' or 'fsdp'")
        alone = self.parallel != "none" or self.processes == 1
        _require(alone, "processes", self.processes, "1 with parallel: none; use auto, ddp or fsdp")
        divides = self.batch_size % self.processes == 0
        _require(divides, "processes", self.processes, f"a divisor of batch_size = {self.batch_size}")
        if isinstance(self.mixture, Mapping):  # before the numbers enter a key, where NaN has no place
            finite = all(math.isfinite(weight) and weight >= 0 for weight in self.mixture.values())
            _require(finite, "mixture", dict(self.mixture), "finite weights >= 0")
        named = isinstance(self.mixture, Mapping) or self.mixture in ("proportional", "uniform")
        _require(named, "mixture", self.mixture, "'proportional', 'uniform' or a weight per domain")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of update ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps + 1) / (self.steps - self.warmup_steps)
        span = self.learning_rate - self.min_learning_rate
        return self.min_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """Packed sequences and the tokenizer they were made with."""

    train: Mapping[str, Sequence[str | Path]]  # domain -> sequence files
    validation: Mapping[str, Sequence[str | Path]]  # may be empty
    tokenizer_file: str | Path | None  # tokenizer.json, copied beside the trained model
    fingerprint: str  # digest of the sequences; a checkpoint of other data is refused
    vocab_size: int
    pad_id: int | None = None
    eos_id: int | None = None
    # folder of checkpoints of an earlier run on other data, to go on from the last one: its weights, the optimiser's
    # moments, its steps and its mixture log, in which this data replaces the older
    before: str | Path | None = None

    def __post_init__(self) -> None:
        _require_count(self, 1, "vocab_size")
        _require(bool(self.train), "train", dict(self.train), "at least one domain with files")
        for name in ("pad_id", "eos_id"):
            value = getattr(self, name)
            inside = value is None or 0 <= value < self.vocab_size
            _require(inside, name, value, f"a token id below vocab_size = {self.vocab_size}, or none")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run left behind. All paths lie in the run's folder."""

    model: Path  # folder that transformers loads
    checkpoint: Path  # the last one
    metrics: Path  # JSON lines, one per step
    signals: Path  # folder of Parquet parts
    policy_log: Path  # folder of Parquet parts
    tensorboard: Path | None
    device: str  # torch's name of what it ran on
    steps: int
    resumed_from: int  # the step this call began after; 0 is a fresh run
    parameters: int
    tokens: int  # predicted tokens over all steps
    seconds: float  # wall time of this call
    losses: tuple[float, ...]  # nats per token of every step
    validation: Mapping[str, float]  # nats per token by domain after the last step
    target_loss: float | None = None  # nats per token of the held-out half of a policy's target
    skipped: int = 0  # steps whose gradient was refused
