"""Per-example gradients of LoRA factors: one backward pass with hooks against autograd an example at a time.

A Llama of 4 layers, width 256 and vocabulary 8,192; factors of rank 16 on q, k, v and o; 8,192 tokens in all of
examples of one length, 2,048 tokens a batch with hooks. Both sides freeze the weights and make the same numbers, which
is checked. What Adam's direction and a count-sketch to 8,192 dimensions add is measured on top of hooks, and the
forward pass alone as a floor. One thread; seconds of processor time, so that other work on the machine counts little.

On a processor both sides do the same products; what a batch saves is calls and reading the weights once, which matters
for short texts. A GPU is not measured here.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import harness

LENGTHS = (32, 128, 512)
BATCH_TOKENS = 2048


def side(kind: str, length: int, tokens: int) -> dict[str, Any]:
    options = {"length": length, "examples": tokens // length, "size": max(1, min(BATCH_TOKENS, tokens) // length)}
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return harness.run_json([sys.executable, "-m", "benchmarks.gradients_sides", kind, *named])


def measure(options: harness.Options) -> harness.Result:
    tokens, repeats = (2048, 1) if options.quick else (8192, 3)
    rows: list[harness.Row] = []
    ratios: dict[int, harness.Ratio] = {}
    added: list[float] = []
    for length in LENGTHS[: 2 if options.quick else None]:
        found = harness.alternate(
            {
                kind: lambda kind=kind, length=length: side(kind, length, tokens)
                for kind in ("hooks", "single", "features", "forward")
            },
            repeats,
        )
        of_hooks, alone = (found[kind][0]["shown"] for kind in ("hooks", "single"))
        if any(abs(a / b - 1) > 1e-4 for a, b in zip(of_hooks, alone, strict=True)):
            raise harness.BenchmarkError(f"the sides differ ({of_hooks}, {alone}); the figures mean nothing")
        speeds = {kind: [run["per_second"] for run in runs] for kind, runs in found.items()}
        names = {
            "hooks": "hooks, one backward pass a batch",
            "single": "autograd, an example at a time",
            "features": "hooks, Adam's direction, count-sketch",
            "forward": "forward pass alone",
        }
        rows += [harness.row(f"{names[kind]}: {length} tokens", speeds[kind], "examples/s") for kind in names]
        ratios[length] = harness.ratio(speeds["hooks"], speeds["single"])
        rows.append(harness.ratio_row(f"hooks over autograd: {length} tokens", ratios[length], repeats))
        over = harness.ratio(speeds["hooks"], speeds["features"])
        added.append(100 * (over.median - 1))
        rows.append(harness.row(f"what directions and the sketch add: {length} tokens", [added[-1]], "%"))
    bars = [
        harness.Bar(name="hooks over autograd, examples of 32 tokens", value=ratios[32].median, op=">=", want=1.3),
        harness.Bar(name="hooks over autograd, examples of 128 tokens", value=ratios[128].median, op=">=", want=1.0),
        harness.Bar(name="percent that directions and the sketch add, 32 tokens", value=added[0], op="<=", want=25.0),
    ]
    return harness.Result(rows=rows, bars=bars, versions=harness.versions("torch", "transformers", "numpy"))


if __name__ == "__main__":
    harness.main("gradients", __doc__, measure)
