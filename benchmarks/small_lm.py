"""A small language model trained by a loop of its own on parts of penstock: what mixing and weighting are measured on.

The model has 0.69M parameters with a vocabulary of 2,048: two blocks of width 128, four heads, learned positions, tied
embeddings. Rows are pieces of one document each, so plain causal attention is exact. The loop is what somebody who
brings a loop writes: batches from ``MixtureLoader``, losses by segment, and per step a call of the mixer, or weights
of the rows before the gradient is taken. AdamW, linear warm-up, then a cosine to 0.

Runs are jobs, one (setting, arm, seed) each. A job's result is a JSON file in a folder named by the digest of
everything that decides it, written when the job is done: a benchmark that was killed goes on, and an interrupt (Ctrl-C)
stops it and reports the jobs that are done. Two processes of one thread each run them.

Price: a step of 2,048 tokens takes some 0.1 s of one core that multiplies bfloat16, 0.16 s of one that does not.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks import harness
from benchmarks.corpora import SEED, files_of, texts_of
from penstock.seeding import derive, stream
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.encode import Encode
from penstock.tokenization.packing import pack, to_batch, write_sequences
from penstock.training.losses import chunked_cross_entropy, sums_by_segment

os.environ["TOKENIZERS_PARALLELISM"] = "false"

VOCABULARY = 2048
WIDTH, LAYERS, HEADS = 128, 2, 4
WORKERS = 2  # jobs at a time, one thread each
JOIN = 2000  # characters: shorter texts of a file are joined until they have as many
SAMPLE_MB = 4  # of text, to train the tokenizer on


# --- the model ------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each after a norm and added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_feed = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q, k, v = (
            self.qkv(self.before_attention(x))
            .view(n, length, 3, HEADS, WIDTH // HEADS)
            .permute(2, 0, 3, 1, 4)
            .flatten(1, 2)
        )
        # written out: on short rows two plain products beat the fused kernel of the CPU
        scores = torch.baddbmm(mask.to(q.dtype), q, k.transpose(1, 2), alpha=(WIDTH // HEADS) ** -0.5)
        mixed = torch.bmm(scores.softmax(-1), v).view(n, HEADS, length, -1).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(functional.silu(self.up(self.before_feed(x))))


class SmallLM(nn.Module):
    """Tokens (n, L) in, last hidden states (n, L, d) out; the head is the embedding."""

    mask: torch.Tensor

    def __init__(self, length: int, vocabulary: int = VOCABULARY, spread: float | None = None) -> None:
        """``spread``: standard deviation of the linear layers' first weights; None is one over the root of the inputs.

        At 0.02 the layers pass little on at this width: for 50 to 100 steps the model knows token frequencies only.
        """
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.last = nn.RMSNorm(WIDTH)
        self.register_buffer("mask", torch.full((length, length), -1e9).triu(1), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=spread or module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        x: torch.Tensor = self.tokens(tokens) + self.places.weight[:length]
        for block in self.blocks:
            x = block(x, self.mask[:length, :length])
        out: torch.Tensor = self.last(x)
        return out

    def token_losses(self, tokens: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats of every token but the first of each row, and the row of each: two tensors of shape (n (L - 1),)."""
        ids = torch.from_numpy(tokens.astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bfloat16()):
            hidden = self(ids[:, :-1]).flatten(0, 1)
            losses = chunked_cross_entropy(hidden, self.tokens.weight, ids[:, 1:].flatten(), chunk=256)
        return losses, torch.arange(len(ids)).repeat_interleave(ids.shape[1] - 1)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; without them it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@torch.no_grad()
def evaluate(model: SmallLM, tokens: NDArray[Any], rows: int = 32) -> float:
    """Nats per predicted token of rows (n, L)."""
    sums = [float(model.token_losses(tokens[i : i + rows])[0].double().sum()) for i in range(0, len(tokens), rows)]
    return sum(sums) / (len(tokens) * (tokens.shape[1] - 1))


# (batch, losses of all tokens (P,), row of each (P,), sums and counts of every row (M,), step from 1) -> scalar
Objective = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]

# --- the loop -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How every arm of a benchmark trains."""

    steps: int
    rows: int  # of a batch
    length: int  # tokens of a row
    evaluate_every: int
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """Of update ``step``, counted from 1; 0 after the last."""
        rising = min(1.0, step / self.warmup)
        done = max(0, step - self.warmup) / (self.steps - self.warmup + 1)
        return self.learning_rate * rising * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass
class Trained:
    """What a run left."""

    model: SmallLM
    evaluations: dict[int, float] = field(default_factory=dict)  # nats per token of held-out rows, by step
    seconds: float = 0.0  # processor time of all steps, without evaluations


def new_model(length: int, seed: int, spread: float | None = None) -> SmallLM:
    torch.manual_seed(derive(seed, "initial weights"))
    return SmallLM(length, spread=spread)


def optimizer_of(model: SmallLM, schedule: Schedule) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.95), fused=True)


def train(
    model: SmallLM,
    loader: Any,
    schedule: Schedule,
    held_out: NDArray[Any] | None = None,
    *,
    mixer: Any = None,
    objective_of: Objective | None = None,
) -> Trained:
    """Train ``model`` on the loader's batches.

    Args:
        held_out: rows to evaluate on, (n, L).
        mixer: told of every step's losses; changes the loader's mixture.
        objective_of: what the gradient is taken of; None is the mean over tokens.
    """
    optimizer = optimizer_of(model, schedule)
    out = Trained(model)
    for step in range(1, schedule.steps + 1):
        started = time.process_time()
        batch = loader.batch(step - 1)
        losses, rows = model.token_losses(batch.tokens)
        sums, counts = sums_by_segment(losses, rows, len(batch.tokens))
        objective = losses.mean() if objective_of is None else objective_of(batch, losses, rows, sums, counts, step)
        objective.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if mixer is not None:
            mixer.observe(batch, sums.numpy(), counts.numpy())
            mixer.after_step(step)
        out.seconds += time.process_time() - started
        if held_out is not None and step % schedule.evaluate_every == 0:
            out.evaluations[step] = evaluate(model, held_out)
    return out


def parameters_digest(model: SmallLM) -> str:
    """SHA-256 of all parameters' bytes."""
    found = hashlib.sha256()
    for parameter in model.parameters():
        found.update(parameter.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


# --- the data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one document."""

    name: str  # FILE/DOCUMENT/NUMBER
    document: str
    tokens: NDArray[Any]


def documents_of(path: Path, characters: int) -> list[str]:
    """Texts of a file in a seeded order, short ones joined to ``JOIN`` characters: ``characters`` in all, or fewer."""
    texts = list(texts_of(path))
    out, waiting, size = [], [], 0
    for number in stream(SEED, "documents", path.name).permutation(len(texts)).tolist():
        waiting.append(texts[number])
        if sum(map(len, waiting)) >= JOIN:
            out.append("\n".join(waiting))
            size += len(out[-1])
            waiting = []
        if size >= characters:
            break
    return out


def train_tokenizer(documents: Mapping[str, Sequence[str]], folder: Path) -> Encode:
    """A BPE tokenizer of ``VOCABULARY`` tokens from equal shares of all files, in ``folder``."""
    each = int(SAMPLE_MB * 1e6 / len(documents))
    sample = []
    for texts in documents.values():
        size = 0
        for text in texts:
            if size > each:
                break
            sample.append(text)
            size += len(text)
    made = train_bpe(sample, BPEConfig(vocabulary_size=VOCABULARY))
    (folder / "tokenizer.json").write_bytes(made)
    return Encode(tokenizer_file=str(folder / "tokenizer.json"), sha256=hashlib.sha256(made).hexdigest())


def pieces_of(name: str, documents: Sequence[str], encode: Encode, length: int) -> list[Piece]:
    """Every document cut into pieces of ``length`` tokens; a shorter rest is left out."""
    encode.setup()
    batch = pa.RecordBatch.from_arrays([pa.array(documents, pa.string())], ["text"])
    out = []
    for number, ids in enumerate(encode.annotate(batch)["token_ids"]):
        tokens = ids.values.to_numpy()
        document = f"{name}/{number}"
        for start in range(0, len(tokens) - length + 1, length):
            out.append(Piece(f"{document}/{start}", document, tokens[start : start + length]))
    return out


def write_domain(path: Path, domain: str, pieces: Sequence[Piece], length: int) -> None:
    """Pieces as a file of training sequences, one a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = np.concatenate([piece.tokens for piece in pieces])
    offsets = np.arange(len(pieces) + 1, dtype=np.int64) * length
    packed = pack(pa.array([piece.name for piece in pieces]), tokens, offsets, length=length, pad_id=0, tail="cut")
    write_sequences(path, to_batch(packed, domain))


def files_digest(data: Path) -> list[list[Any]]:
    """Names and sizes of the files that a benchmark reads."""
    return [[path.name, path.stat().st_size] for path in files_of(data)]


# --- jobs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run: an arm of a setting with a seed."""

    setting: str
    arm: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.setting}-{self.arm}-{self.seed}.json".replace(" ", "_")


def scratch_folder(name: str, settings: Any) -> Path:
    """Where the data and the results of a benchmark with these settings are kept; removing it measures anew.

    Versions of torch and numpy, and the type that products are taken in, count as settings.
    """
    made_of = {
        "settings": settings,
        "versions": harness.versions("torch", "numpy"),
        "bfloat16": multiplies_bfloat16(),
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=asdict).encode()).hexdigest()[:16]
    folder = harness.PEERS / "runs" / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(made_of, indent=1, default=asdict))
    return folder


def write_json(path: Path, value: Any) -> None:
    """A JSON file that is whole or not there."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(value, file, allow_nan=False)
    os.replace(file.name, path)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _run(work: Callable[[Path, Job], dict[str, Any]], folder: Path, job: Job) -> None:
    write_json(folder / job.file, work(folder, job))


def run_jobs(
    work: Callable[[Path, Job], dict[str, Any]], folder: Path, jobs: Iterable[Job], *, workers: int = WORKERS
) -> dict[Job, dict[str, Any]]:
    """Results of all jobs in their order; those with a file in ``folder`` are not run again.

    An interrupt ends the running jobs and returns what is done.

    Args:
        work: a function of a module; runs in a process with one thread.

    Raises:
        BenchmarkError: a worker process died.
    """
    jobs = list(jobs)
    missing = [job for job in jobs if not (folder / job.file).exists()]
    # a large arena that is kept: otherwise every step's logits are mapped, zeroed and given back
    before = {name: os.environ.get(name) for name in _ARENA}
    os.environ.update(_ARENA)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread
    )
    try:
        started = time.monotonic()
        running = {pool.submit(_run, work, folder, job): job for job in missing}
        for number, future in enumerate(concurrent.futures.as_completed(running), 1):
            future.result()
            print(
                f"{running[future].file.removesuffix('.json')} done, {number} of {len(missing)}, "
                f"{(time.monotonic() - started) / 60:.1f} min",
                file=sys.stderr,
                flush=True,
            )
    except KeyboardInterrupt:
        print("interrupted; reporting what is done", file=sys.stderr)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise harness.BenchmarkError(f"a run's process died ({error}); run again, it goes on where it was") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return {job: json.loads((folder / job.file).read_text()) for job in jobs if (folder / job.file).exists()}


_ARENA = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


# --- the figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Differences of two arms over the seeds that both have."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float | None:
        """None below two seeds."""
        n = len(self.values)
        return statistics.stdev(self.values) / math.sqrt(n) if n > 1 else None

    @property
    def in_errors(self) -> float | None:
        """The mean in standard errors; None where there is none, or it is 0."""
        error = self.standard_error
        return self.mean / error if error else None


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    """``one`` minus ``other`` by seed."""
    return Paired(tuple(one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())))


def seeds_row(what: str, by_seed: Mapping[int, float | None], unit: str, **more: Any) -> harness.Row:
    """A row with mean, spread (standard deviation), and every seed's value; one that has none does not count."""
    values = [value for value in by_seed.values() if value is not None]
    return {
        "what": what,
        "mean": statistics.fmean(values) if values else None,
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "standard error": None,
        "unit": unit,
        "seeds": len(values),
        "by seed": [
            None if by_seed.get(seed) is None else round(float(by_seed[seed] or 0.0), 5)
            for seed in range(max(by_seed, default=-1) + 1)
        ],
        **more,
    }


def paired_row(what: str, one: Mapping[int, float], other: Mapping[int, float], unit: str) -> harness.Row:
    """A row of the difference of two arms, with its paired standard error."""
    both = sorted(one.keys() & other.keys())
    error = paired(one, other).standard_error if both else None
    return seeds_row(what, {seed: one[seed] - other[seed] for seed in both}, unit, **{"standard error": error})


def surroundings() -> dict[str, str]:
    """How the runs were made, beside the versions."""
    return {
        "threads a run": "1",
        "runs at a time": str(WORKERS),
        "products in": "bfloat16" if multiplies_bfloat16() else "float32",
    }
