"""The sides of benchmarks/loss.py, a process of its own each: ``python -m benchmarks.loss_sides MODE …``.

    head     losses and gradients of a head, plain or in chunks: seconds of each run, peak memory above the inputs
    steps    training steps of a small model without and with sample weights, in turn: seconds of each

Everything runs on one thread and seconds are of processor time. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
import torch

from penstock.training.config import ModelConfig
from penstock.training.losses import chunked_cross_entropy, sums_by_segment
from penstock.training.model import attention_mask, build_model, pack_inputs
from penstock.training.sequences import segment_layout
from penstock.training.weighter import scale_gradients
from penstock.training.weighting import WeightingConfig

ROWS, LENGTH, SEGMENTS = 16, 128, 4
VOCABULARY = 4096


def peak() -> int:
    """Bytes, the most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def head(kind: str, vocabulary: int, tokens: int, width: int, runs: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=draw).requires_grad_()
    weight = torch.empty(vocabulary, width).normal_(std=width**-0.5, generator=draw).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=draw)

    def losses() -> torch.Tensor:
        if kind == "plain":
            return torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
        return chunked_cross_entropy(hidden, weight, targets)

    # libraries set themselves up before the peak is read; on tensors of their own, as a slice's gradient is a whole one
    small = [torch.randn(64, width, requires_grad=True) for _ in range(2)]
    ids = torch.arange(64)
    chunked_cross_entropy(small[0], small[1], ids).mean().backward()
    torch.nn.functional.cross_entropy(small[0] @ small[1].T, ids).backward()
    before, seconds = peak(), []
    for _ in range(runs):
        hidden.grad = weight.grad = None
        started = time.process_time()
        of_run = losses()
        of_run.mean().backward()
        seconds.append(time.process_time() - started)
    return {"seconds": seconds, "peak": peak() - before, "loss": of_run.mean().item()}


def steps(mode: str, micro_batches: int, count: int) -> dict[str, Any]:
    """Steps with and without weights in turn, on the same rows: the model moves by both."""
    config = ModelConfig(hidden_size=128, layers=2, heads=4, kv_heads=2, ffn_size=352)
    model = build_model(config, vocab_size=VOCABULARY, length=LENGTH, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    accumulation: Any = mode
    weighter = WeightingConfig(accumulation=accumulation, warmup_steps=0).build()
    draw = np.random.default_rng(0)

    def batch() -> list[Any]:
        rows = ROWS // micro_batches
        lengths = np.full(rows * SEGMENTS, LENGTH // SEGMENTS, dtype=np.int64)
        ids, positions = segment_layout(np.full(rows, SEGMENTS), lengths, LENGTH)
        # low ids are frequent, so there is something to learn and losses come apart
        tokens = (VOCABULARY * draw.random((micro_batches, rows, LENGTH)) ** 4).astype(np.int64)
        return [pack_inputs(part, ids, positions, device=torch.device("cpu")) for part in tokens]

    def losses(inputs: Any) -> torch.Tensor:
        hidden = model.base_model(
            input_ids=inputs.tokens, position_ids=inputs.positions, attention_mask=attention_mask(inputs.segment_ids)
        ).last_hidden_state
        weight = model.get_output_embeddings().weight
        return chunked_cross_entropy(hidden.flatten(0, 1)[inputs.places], weight, inputs.targets)

    def take(number: int, parts: list[Any], weighted: bool) -> float:
        started = time.process_time()
        total = sum(len(part.targets) for part in parts)
        counts = np.full(ROWS * SEGMENTS, LENGTH // SEGMENTS - 1)
        step = weighter.begin(number, counts, micro_batches=len(parts)) if weighted else None
        if step is not None and step.wants_prepass and len(parts) > 1:
            with torch.no_grad():
                step.prepass(torch.cat([sums_by_segment(losses(p), p.segments, p.segment_count)[0] for p in parts]))
        for part in parts:
            of_part = losses(part)
            # a loop without weights records the losses of segments as well
            sums, _ = sums_by_segment(of_part, part.segments, part.segment_count)
            (of_part.sum() / total if step is None else step.loss(of_part, part.segments, sums)).backward()
        if step is not None:
            scale_gradients(model.parameters(), step.finish())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - started

    found: dict[str, list[float]] = {"plain": [], "weighted": []}
    for number in range(1, count + 4):
        parts = batch()
        # who goes first takes turns too, and the first steps are not counted
        for weighted in (True, False) if number % 2 else (False, True):
            seconds = take(number, parts, weighted)
            if number > 3:
                found["weighted" if weighted else "plain"].append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["head", "steps"])
    parser.add_argument("--kind", choices=["plain", "chunked"], default="plain")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--accumulation", default="prepass")
    parser.add_argument("--micro-batches", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.mode == "head":
        print(json.dumps(head(given.kind, given.vocabulary, given.tokens, given.width, given.runs)))
    else:
        print(json.dumps(steps(given.accumulation, given.micro_batches, given.runs)))


if __name__ == "__main__":
    main()
