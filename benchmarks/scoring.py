"""Scores of texts by a causal language model: tokens a second against a plain loop over texts with transformers.

The model has 11 million parameters (4 layers, width 256) and a vocabulary of 32,768, random weights, and a tokenizer
trained on the material. Lines are 1 to 300 characters, pages 2,500, cut at 512 tokens. The loop puts one text at a time
through the model and makes loss, entropy, Min-K and Min-K++ from its whole logits; penstock makes all ten scores. Both
agree before anything is timed. One thread, float32; seconds of processor time, so that other work on the machine counts
little. Peak memory is what a process held at most above the loaded model.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from benchmarks import harness


def side(mode: str, folder: str, *more: str) -> dict[str, Any]:
    return harness.run_json([sys.executable, "-m", "benchmarks.scoring_sides", mode, folder, *more])


def measure(options: harness.Options) -> harness.Result:
    count, repeats = (20, 1) if options.quick else (60, 3)
    rows: list[harness.Row] = []
    ratios: dict[str, harness.Ratio] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = [] if options.data is None else ["--data", str(options.data)]
        side("make", folder, "--count", str(count), *data)
        for kind in ("lines", "pages"):
            found = harness.alternate(
                {
                    name: lambda name=name, kind=kind: side(name, folder, "--texts", kind)
                    for name in ("penstock", "loop")
                },
                repeats,
            )
            tokens = found["loop"][0]["tokens"]
            check_same(found["penstock"][0]["scores"], found["loop"][0]["scores"])
            rates = {name: [tokens / run["seconds"] for run in runs] for name, runs in found.items()}
            ratios[kind] = harness.ratio(rates["penstock"], rates["loop"])
            for name, runs in found.items():
                memory[f"{name}, {kind}"] = max(run["peak"] for run in runs) / 1e6
                more = {"tokens": tokens, "peak_mb": memory[f"{name}, {kind}"]}
                rows.append(harness.row(f"{name}, {kind}", rates[name], "tokens/s", **more))
            rows.append(harness.row(f"{kind}: filled up", [100 * run["filled"] for run in found["penstock"]], "%"))
            rows.append(harness.ratio_row(f"penstock over the loop, {kind}", ratios[kind], repeats))
    bars = [
        harness.Bar(name="tokens/s of penstock over the loop, lines", value=ratios["lines"].median, op=">=", want=1.2),
        harness.Bar(name="tokens/s of penstock over the loop, pages", value=ratios["pages"].median, op=">=", want=1.1),
        harness.Bar(
            name="peak memory of penstock over the loop, pages",
            value=memory["penstock, pages"] / memory["loop, pages"],
            op="<=",
            want=0.5,
        ),
    ]
    return harness.Result(rows=rows, bars=bars, versions=harness.versions("torch", "transformers", "tokenizers"))


def check_same(ours: list[list[float | None]], theirs: list[list[float | None]]) -> None:
    """Raise BenchmarkError unless the sides agree: to 2e-3, as the loop's variance cancels in float32."""
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            if (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > 2e-3):
                raise harness.BenchmarkError(f"the two sides differ ({a}, {b}); the figures would mean nothing")


if __name__ == "__main__":
    harness.main("scoring", __doc__, measure)
