"""Small Llama-like models of code for ``benchmarks.fim``, trained on suffix-prefix-middle rows cut between tokens.

Two models of 1.4M parameters, or 0.8M with the smaller vocabulary: 4 blocks of width 128, rotary positions, tied
embeddings. A row is a window of a file's tokens after the end token, which begins and ends texts. Three in four rows
have a hole: 1 to 24 tokens of the middle, up to 64 tokens of the suffix, moved to the front; both cuts fall between
tokens, as they do where data is cut after it was encoded. So prefix and middle are one run of tokens, and nothing
in training shows a cut inside one.

Training stops when its minutes are over and goes on from a checkpoint (weights, optimiser, step): the batches are
functions of the step, so it does not matter where it stopped. Price: 4,096 tokens a step.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import fim_data
from benchmarks.small_lm import multiplies_bfloat16, write_json
from penstock.seeding import derive, stream
from penstock.tokenization.bpe import END
from penstock.training.losses import chunked_cross_entropy

HOLE = 24  # tokens of a middle at most
HOLED = 0.75  # share of rows


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a model is made."""

    vocabulary: int
    steps: int
    rows: int = 16
    length: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """Of update ``step``, counted from 1: up, level, and down over the last third."""
        rising = min(1.0, step / self.warmup)
        falling = min(1.0, 3.0 * (self.steps - step + 1) / self.steps)
        return self.learning_rate * rising * falling


def new_model(schedule: Schedule, end_id: int) -> Any:
    """The model with its first weights."""
    torch.manual_seed(derive(fim_data.SEED, "weights", schedule.vocabulary))
    config = LlamaConfig(
        vocab_size=schedule.vocabulary,
        hidden_size=schedule.width,
        intermediate_size=schedule.width * 11 // 4,
        num_hidden_layers=schedule.layers,
        num_attention_heads=schedule.heads,
        max_position_embeddings=4 * schedule.length,
        tie_word_embeddings=True,
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=None,
        initializer_range=0.04,
    )
    return LlamaForCausalLM(config)


class Rows:
    """Training rows as a function of the step."""

    def __init__(self, sources: list[fim_data.Source], vocabulary: Path, schedule: Schedule) -> None:
        tokenizer = fim_data.load_vocabulary(vocabulary)
        self._schedule = schedule
        self._end = tokenizer.token_to_id(END)
        self._suffix, self._prefix = (tokenizer.token_to_id(name) for name in (fim_data.SUFFIX, fim_data.PREFIX))
        files = [tokenizer.encode(source.text, add_special_tokens=False).ids for source in sources]
        files = [np.array(ids) for ids in files if len(ids) > schedule.length]
        # windows of all files alike: one that begins so late that it would run out of its file is none
        self._tokens = np.concatenate(files)
        starts = np.cumsum([0, *map(len, files)])[:-1]
        self._places = np.concatenate(
            [start + np.arange(len(ids) - schedule.length) for start, ids in zip(starts, files, strict=True)]
        )

    def batch(self, step: int) -> NDArray[np.int64]:
        """(rows, length) of update ``step``."""
        rng = stream(fim_data.SEED, "rows", step)
        length = self._schedule.length
        out = np.empty((self._schedule.rows, length), np.int64)
        for row, place in enumerate(rng.choice(self._places, self._schedule.rows).tolist()):
            window = self._tokens[place : place + length]
            if rng.random() >= HOLED:
                out[row] = [self._end, *window[: length - 1]]
                continue
            suffix = int(rng.integers(8, fim_data.SUFFIX_TOKENS + 1))
            seen = length - 4 - suffix  # the end token twice and two sentinels
            hole = int(rng.integers(1, HOLE + 1))
            # the hole is anywhere behind a few tokens, so short prefixes are seen too; what is over becomes plain text
            cut = int(rng.integers(8, seen - hole + 1)) if rng.random() < 0.25 else seen - hole
            prefix = window[: cut + hole]
            after = window[cut + hole : cut + hole + suffix]
            made = [self._end, self._suffix, *after, self._prefix, *prefix, self._end]
            rest = length - len(made)
            out[row] = [*made, *window[len(window) - rest :]] if rest else made
        return out


def train(rows: Rows, schedule: Schedule, end_id: int, folder: Path, until: float) -> bool:
    """Train a model into ``folder``; False when the time ``until`` (monotonic) came first and a checkpoint is there."""
    if (folder / "config.json").exists():
        return True
    model = new_model(schedule, end_id)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.95), fused=True)
    checkpoint = folder.with_suffix(".checkpoint")
    step, seconds, losses = 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds, losses = state["step"], state["seconds"], state["losses"]
    while step < schedule.steps and time.monotonic() < until:
        started = time.process_time()
        step += 1
        losses.append(_update(model, optimizer, rows.batch(step), schedule, step))
        seconds += time.process_time() - started
        if step % 100 == 0:
            print(
                f"{folder.name}: step {step} of {schedule.steps}, {np.mean(losses[-100:]):.3f} nats a token, "
                f"{seconds / step:.3f} s a step",
                file=sys.stderr,
                flush=True,
            )
    if step < schedule.steps:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"step": step, "seconds": seconds, "losses": losses}
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
        return False
    part = folder.with_suffix(".part")
    model.save_pretrained(part)
    write_json(
        part / "training.json",
        asdict(schedule) | {"seconds": seconds, "loss": float(np.mean(losses[-100:])), "size": _size(model)},
    )
    os.replace(part, folder)
    checkpoint.unlink(missing_ok=True)
    return True


def _update(model: Any, optimizer: Any, tokens: NDArray[np.int64], schedule: Schedule, step: int) -> float:
    ids = torch.from_numpy(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bfloat16()):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
        losses = chunked_cross_entropy(hidden, model.lm_head.weight, ids[:, 1:].flatten())
    loss = losses.mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate_at(step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())
