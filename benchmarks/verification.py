"""Verifying answers: workers that can be killed against math-verify called in the process, and against given labels.

    numbers      responses with a number in a box, plain gold answers: what GSM8K's and most of MATH's rows are
    expressions  the same with polynomials, roots, fractions and sets, which the library has to decide
    hostile      100 expressions of which 10 never end (deadline 0.5 s of computing, two workers): what they cost
    labels       with ``--data``: model solutions of GSM8K that their publishers marked right or wrong

The other side is what a reward function does without workers: math-verify's ``parse`` and ``verify`` with their own
time-outs (SIGALRM, main thread), gold first. Both sides are warm, each is a process of its own, in turn.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result

SOLUTIONS = "math/gsm8k/example_model_solutions.jsonl.gz"


def side(mode: str, **values: Any) -> dict[str, Any]:
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return harness.run_json([sys.executable, "-m", "benchmarks.verification_sides", mode, *words])


def speed(found: Result, kind: str, count: int, repeats: int) -> None:
    sides = {"in process": lambda: side("plain", kind=kind, count=count)}
    # plain numbers reach no worker
    for workers in (1,) if kind == "numbers" else (1, 2):
        sides[f"{workers} worker{'s' * (workers > 1)}"] = partial(
            side, "workers", kind=kind, count=count, workers=workers
        )
    runs = harness.alternate(sides, repeats)
    rates = {name: [count / run["seconds"] for run in of] for name, of in runs.items()}
    for name, values in rates.items():
        found.rows.append(harness.row(f"{kind}: {name}", values, "answers/s"))
    for name in list(sides)[1:]:
        times = harness.ratio(rates[name], rates["in process"])
        found.rows.append(harness.ratio_row(f"{kind}: {name} over in process", times, repeats))
        if name == "1 worker":
            want = 10.0 if kind == "numbers" else 0.8
            found.bars.append(
                Bar(name=f"{kind}: 1 worker over in process, times", value=times.median, op=">=", want=want)
            )
    pairs = zip(runs["in process"][0]["correct"], runs["1 worker"][0]["correct"], strict=True)
    same = sum(a == b for a, b in pairs) / count
    found.bars.append(Bar(name=f"{kind}: share decided as math-verify does", value=same, op=">=", want=0.999))


def measure(options: Options) -> Result:
    found = Result(versions=harness.versions("math-verify", "sympy"))
    repeats = 1 if options.quick else 3
    speed(found, "numbers", 1_000 if options.quick else 3_000, repeats)
    speed(found, "expressions", 100 if options.quick else 300, repeats)
    run = side("hostile", items=100, hostile=10, deadline=0.5)
    found.rows.append(
        harness.row("hostile: 100 items, 10 without an end", [run["seconds"]], "s", timeouts=run["timeouts"])
    )
    found.bars.append(Bar(name="hostile: items that it cost", value=run["lost"], op="<=", want=10))
    if options.data is not None:
        path = Path(options.data) / SOLUTIONS
        if not path.exists():
            raise harness.BenchmarkError(f"--data: no {SOLUTIONS} in {options.data}; leave it out to skip the labels")
        run = side("labels", path=path)
        found.rows.append(
            harness.row("labels: GSM8K model solutions", [run["rate"]], "answers/s", solutions=run["solutions"])
        )
        found.bars.append(Bar(name="labels: share decided as marked", value=run["agree"], op=">=", want=0.999))
    return found


if __name__ == "__main__":
    harness.main("verification", __doc__, measure)
