"""One rank of test_weighter_ranks: ``python weighter_rank.py PLAN`` prints what every case gave as JSON.

PLAN is JSON: rank, world_size, a file that ranks meet at, and cases by name, each with settings of the weighter and,
for each step, this rank's micro-batches, which are lists of documents. The model is a head on fixed vectors in float64.
Nothing is learned, so that steps differ by their rows alone.
"""

import json
import sys

import numpy as np
import torch
import torch.distributed as dist

from penstock.training.losses import chunked_cross_entropy, sums_by_segment
from penstock.training.weighter import scale_gradients
from penstock.training.weighting import WeightingConfig

WORDS = 12


def table() -> torch.nn.Linear:
    out = torch.nn.Linear(5, WORDS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        out.weight.copy_(torch.from_numpy(np.random.default_rng(3).normal(size=(WORDS, 5))))
    return out


class Losses(torch.nn.Module):
    """(P,) token losses of documents, and the segment of each."""

    def __init__(self) -> None:
        super().__init__()
        self.head = table()
        self.register_buffer("seen", torch.from_numpy(np.random.default_rng(4).normal(size=(WORDS, 5))))

    def forward(self, documents: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        before = torch.tensor([word for d in documents for word in d[:-1]], dtype=torch.int64)
        after = torch.tensor([word for d in documents for word in d[1:]], dtype=torch.int64)
        segments = torch.tensor([i for i, d in enumerate(documents) for _ in d[1:]], dtype=torch.int64)
        return chunked_cross_entropy(self.seen[before], self.head.weight, after, chunk=4), segments


def steps_of(case: dict, *, world: int) -> list[dict]:
    weighter = WeightingConfig(**case["config"]).build()
    model = Losses()
    spread = torch.nn.parallel.DistributedDataParallel(model) if world > 1 and case["ddp"] else model
    found = []
    for number, micro_batches in enumerate(case["steps"], start=1):
        counts = [len(d) - 1 for documents in micro_batches for d in documents]
        step = weighter.begin(number, counts, micro_batches=len(micro_batches))
        if step.wants_prepass and len(micro_batches) > 1:
            with torch.no_grad():
                parts = [(*model(documents), len(documents)) for documents in micro_batches]
                step.prepass(torch.cat([sums_by_segment(*part)[0] for part in parts]))
        seen = []
        for documents in micro_batches:
            losses, segments = spread(documents)
            sums, _ = sums_by_segment(losses, segments, len(documents))
            loss = step.loss(losses, segments, sums)
            seen.append(loss.item())
            # DDP averages what is a sum over ranks
            (loss * weighter.world_size if spread is not model else loss).backward()
        scale_gradients(model.parameters(), step.finish())
        gradient = model.head.weight.grad
        if world > 1 and spread is model:
            dist.all_reduce(gradient)
        report = None if step.report is None else step.report.to_json()
        found.append({"gradient": gradient.flatten().tolist(), "losses": seen, "plain": step.plain, "report": report})
        model.zero_grad()
    return [*found, weighter.state_dict()]


def main(plan: dict) -> dict[str, list[dict]]:
    world = plan["world_size"]
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{plan['meet']}", rank=plan["rank"], world_size=world)
    found = {name: steps_of(case, world=world) for name, case in plan["cases"].items()}
    if world > 1:
        dist.destroy_process_group()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(json.loads(sys.argv[1]))))
