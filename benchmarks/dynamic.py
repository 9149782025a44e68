"""Merging a batch: merges a second against counting all pairs anew, and a large output vocabulary's index.

    merges     NTREX sentences (``--data``) in batches of 32, 128 and 512, cut by GPT-2's tokenizer, word boundary,
               lexical ties, at most 140, 1,000 and 4,000 merges. Our side is ``DynamicTokenizer.merge``, everything
               included (boundaries, tables, spans); the other is the published algorithm, a Counter over all pairs
               before every merge, given the units ready-made. Both in one process, in turn; merge lists and tokens
               must be identical
    languages  ours at 512 rows of each language of NTREX
    index      1,000,000 rows of width 256 in half precision (2,000 centres and noise of 1.5 times their spread, of
               different norms): time to build, memory, recall of the best 20 against exact search, milliseconds a
               search of 32 hidden states

One thread. ``--quick`` takes batches of 32 and 128 and 50,000 rows. Without ``--data`` the batches are lines of this
Python installation's library.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result

ONE_THREAD = ("env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "RAYON_NUM_THREADS=1")
BATCHES = ((32, 140), (128, 1000), (512, 4000))


def side(mode: str, **values: Any) -> dict[str, Any]:
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return harness.run_json([*ONE_THREAD, sys.executable, "-m", "benchmarks.dynamic_sides", mode, *words])


def measure(options: Options) -> Result:
    rows: list[harness.Row] = []
    bars: list[Bar] = []
    where = {} if options.data is None else {"data": options.data}
    for size, merges in BATCHES[: 2 if options.quick else None]:
        found = side("merges", rows=size, merges=merges, repeats=2 if size == 512 else 3, **where)
        if not found["identical"]:
            raise harness.BenchmarkError(f"{size} rows: the two sides made different merges; the figures mean nothing")
        made = {name: [found["merges"] / s for s in found[name]] for name in ("ours", "recount")}
        more = {"tokens": found["tokens"], "merges": found["merges"]}
        rows.append(harness.row(f"{size} rows, ours", made["ours"], "merges/s", **more))
        rows.append(harness.row(f"{size} rows, counting anew", made["recount"], "merges/s", **more))
        times = harness.ratio(made["ours"], made["recount"])
        rows.append(harness.ratio_row(f"{size} rows, ours over counting anew", times, len(made["ours"])))
        if size == 512:
            bars.append(Bar(name="merges/s over counting anew, 512 rows", value=times.median, op=">=", want=100.0))
    if options.data is not None and not options.quick:
        for language, one in side("languages", merges=4000, **where)["languages"].items():
            more = {"tokens": one["tokens"], "merges": one["merges"]}
            rows.append(
                harness.row(f"512 rows of {language}, ours", [one["merges"] / one["seconds"]], "merges/s", **more)
            )
    entries = 50_000 if options.quick else 1_000_000
    index = side("index", entries=entries, width=256)
    rows += [
        harness.row(f"index of {entries:,} rows of width 256: building", [index["build"]], "s"),
        harness.row("index: rows, half precision", [index["rows_mb"]], "MB"),
        harness.row("index: beside the rows", [index["index_mb"]], "MB"),
        harness.row("index: peak of the process above its start", [index["peak_mb"]], "MB"),
        harness.row("index: recall of the best 20", [index["recall"]], "share"),
        harness.row("index: a search of 32 states", index["search_ms"], "ms"),
        harness.row("index: exact search of 32 states", index["exact_ms"], "ms"),
    ]
    bars.append(Bar(name="recall of the best 20", value=index["recall"], op=">=", want=0.9))
    return Result(rows=rows, bars=bars, versions=harness.versions("numpy", "numba", "tokenizers", "faiss-cpu"))


if __name__ == "__main__":
    harness.main("dynamic", __doc__, measure)
