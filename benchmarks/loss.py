"""Chunked cross-entropy against the plain one, and what sample weights cost on top of it.

The head: 2,048 tokens of width 256 and a vocabulary, losses and all gradients; peak memory is what the process held at
most above its inputs, so that the gradients count. The step: a model of 2 layers and width 128, vocabulary 4,096,
16 rows of 128 tokens in 64 segments; forward pass, chunked loss, backward pass, clipping, AdamW, with LinUpper and
without weights on the same rows in turn. One thread; seconds of processor time, so that other work on the machine
counts little.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks import harness

VOCABULARIES = (4096, 32_768, 131_072)
# accumulation and micro-batches; the last one takes another forward pass and has no bar
WAYS = (("prepass", 1), ("deferred", 4), ("running", 4), ("prepass", 4))


def side(mode: str, **options: Any) -> dict[str, Any]:
    named = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return harness.run_json([sys.executable, "-m", "benchmarks.loss_sides", mode, *named])


def measure(options: harness.Options) -> harness.Result:
    rows: list[harness.Row] = []
    tokens, repeats = (1024, 1) if options.quick else (2048, 2)
    memory: dict[str, float] = {}
    ratios = {}
    for vocabulary in VOCABULARIES[: 2 if options.quick else None]:
        found = harness.alternate(
            {
                kind: lambda kind=kind, size=vocabulary: side("head", kind=kind, vocabulary=size, tokens=tokens, runs=2)
                for kind in ("plain", "chunked")
            },
            repeats,
        )
        if abs(found["plain"][0]["loss"] - found["chunked"][0]["loss"]) > 1e-4:
            raise harness.BenchmarkError("the two sides have different losses; the figures would mean nothing")
        for kind, runs in found.items():
            memory[kind] = statistics.median(run["peak"] for run in runs) / 1e6
            seconds = [min(run["seconds"]) for run in runs]
            rows.append(harness.row(f"{kind} head, vocabulary {vocabulary:,}", seconds, "s", peak_mb=memory[kind]))
        of = [[min(run["seconds"]) for run in found[kind]] for kind in ("chunked", "plain")]
        ratios[vocabulary] = harness.ratio(*of)
        rows.append(harness.ratio_row(f"chunked over plain, vocabulary {vocabulary:,}", ratios[vocabulary], repeats))

    over: dict[tuple[str, int], float] = {}
    for mode, micro_batches in WAYS:
        found_steps = side("steps", accumulation=mode, micro_batches=micro_batches, runs=12 if options.quick else 40)
        plain, weighted = found_steps["plain"], found_steps["weighted"]
        # of pairs that ran side by side on the same rows: single steps vary by more than the weights cost
        pairs = [100 * (a / b - 1) for a, b in zip(weighted, plain, strict=True)]
        over[mode, micro_batches] = statistics.median(pairs)
        what = f"step with {mode}, {micro_batches} micro-batch{'es' * (micro_batches > 1)}"
        rows.append(harness.row(what, weighted, "s"))
        rows.append(harness.row(f"{what}: without weights", plain, "s"))
        rows.append(harness.row(f"{what}: added", pairs, "%"))

    largest = VOCABULARIES[1 if options.quick else -1]
    bars = [
        harness.Bar(
            name=f"peak memory of chunked over plain, vocabulary {largest:,}",
            value=memory["chunked"] / memory["plain"],
            op="<=",
            want=0.25,
        ),
        harness.Bar(
            name=f"time of chunked over plain, vocabulary {largest:,} (a product more: 4 / 3)",
            value=ratios[largest].median,
            op="<=",
            want=1.34,
        ),
    ]
    for mode, micro_batches in WAYS[:3]:
        name = f"percent that weights add to a step, {mode}, micro-batches {micro_batches}"
        bars.append(harness.Bar(name=name, value=over[mode, micro_batches], op="<=", want=3.0))
    return harness.Result(rows=rows, bars=bars, versions=harness.versions("torch", "numpy", "transformers"))


if __name__ == "__main__":
    harness.main("loss", __doc__, measure)
