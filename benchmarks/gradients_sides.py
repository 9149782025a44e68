"""The sides of benchmarks/gradients.py, a process of its own each: ``python -m benchmarks.gradients_sides KIND …``.

    hooks      gradients of every example of a batch from one backward pass (selectors/targeted/lora_gradients.py)
    single     autograd with one example at a time, as LESS has it: factors that require a gradient, frozen weights
    features   hooks, then Adam's direction and the count-sketch of every example
    forward    the batch's losses alone, without gradients: a floor

All sides have the same Llama, factors and examples. Seconds are of processor time on one thread. The last line printed
is JSON, with the length of the first examples' gradients (of ``forward``: their losses).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from penstock.scoring.model import TokenBatch
from penstock.selectors.targeted.influence import adam_direction
from penstock.selectors.targeted.lora import LoraConfig, LoraFactors
from penstock.selectors.targeted.lora_gradients import Examples, PerExampleGradients, example_means, token_losses
from penstock.selectors.targeted.projection import Projection
from penstock.training.config import ModelConfig
from penstock.training.model import build_model

VOCABULARY = 8192
SHOWN = 4  # examples whose gradients are compared between the sides


class Work:
    """A model with factors, and examples of one length."""

    def __init__(self, *, hidden: int, layers: int, rank: int, length: int, examples: int) -> None:
        config = ModelConfig(
            hidden_size=hidden, layers=layers, heads=hidden // 32, kv_heads=hidden // 64, ffn_size=3 * hidden
        )
        self.model = build_model(config, vocab_size=VOCABULARY, length=length, seed=0).requires_grad_(False).eval()
        self.factors = LoraFactors.new(self.model, LoraConfig(rank=rank, alpha=4.0 * rank), seed=0)
        draw = torch.Generator().manual_seed(1)
        self.factors.assign(self.factors.vector() + 0.01 * torch.randn(self.factors.size, generator=draw))
        self.tokens = np.random.default_rng(2).integers(0, VOCABULARY, (examples, length))

    def batch(self, begin: int, size: int) -> Examples:
        tokens = self.tokens[begin : begin + size]
        return Examples.from_batch(TokenBatch(np.arange(len(tokens)), tokens, np.full(len(tokens), tokens.shape[1])))


def hooks(work: Work, size: int) -> list[float]:
    """Squared lengths of the first examples' gradients."""
    gradients = PerExampleGradients(work.model, work.factors)
    squares = np.zeros(len(work.tokens))
    for begin in range(0, len(squares), size):
        some = squares[begin : begin + size]

        def receive(block: torch.Tensor, _: int, some: np.ndarray = some) -> None:
            some += block.pow(2).sum(dim=1).numpy()

        gradients.run(work.batch(begin, size), receive)
    return squares[:SHOWN].tolist()


def single(work: Work, size: int) -> list[float]:
    del size
    tensors = [tensor.requires_grad_() for tensor in work.factors.tensors()]
    squares = []
    with work.factors.attached(work.model):
        for row in work.tokens:
            tokens = torch.from_numpy(row)[None]
            work.model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            squares.append(sum(float(tensor.grad.pow(2).sum()) for tensor in tensors))
            for tensor in tensors:
                tensor.grad = None
    return squares[:SHOWN]


def features(work: Work, size: int) -> list[float]:
    gradients, projection = PerExampleGradients(work.model, work.factors), Projection()
    first, second = torch.full((work.factors.size,), 1e-6), torch.full((work.factors.size,), 1e-9)
    shown = []
    for begin in range(0, len(work.tokens), size):
        examples = work.batch(begin, size)
        out = projection.zeros(len(examples.spans))

        def receive(block: torch.Tensor, offset: int, out: torch.Tensor = out) -> None:
            here = slice(offset, offset + block.shape[1])
            projection.add(out, adam_direction(block, first[here], second[here]), offset)

        gradients.run(examples, receive)
        shown += out.norm(dim=1).tolist()
    return shown[:SHOWN]


def forward(work: Work, size: int) -> list[float]:
    shown = []
    with torch.no_grad(), work.factors.attached(work.model):
        for begin in range(0, len(work.tokens), size):
            examples = work.batch(begin, size)
            shown += example_means(token_losses(work.model, examples, plain_head=True), examples).tolist()
    return shown[:SHOWN]


SIDES = {"hooks": hooks, "single": single, "features": features, "forward": forward}


def side(kind: str, *, hidden: int, layers: int, rank: int, length: int, examples: int, size: int) -> dict[str, Any]:
    work = Work(hidden=hidden, layers=layers, rank=rank, length=length, examples=examples)
    tokens, work.tokens = work.tokens, work.tokens[:SHOWN]
    SIDES[kind](work, size)  # libraries set themselves up
    work.tokens = tokens
    started = time.process_time()
    shown = SIDES[kind](work, size)
    seconds = time.process_time() - started
    return {"seconds": seconds, "per_second": examples / seconds, "shown": shown, "parameters": work.factors.size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(SIDES))
    for name, default in (
        ("hidden", 256),
        ("layers", 4),
        ("rank", 16),
        ("length", 128),
        ("examples", 64),
        ("size", 16),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    print(json.dumps(side(given.pop("kind"), **given)))


if __name__ == "__main__":
    main()
