"""Gopher filters at home against datatrove's, and a pass against a plain pyarrow loop.

    filters     this package's two Gopher filters in a pass with two worker processes, that is with reading, parsing,
                ids, hashes, digests, parts and receipts, against datatrove's two filters alone on texts that already
                lie in the memory of its two processes; datatrove cuts words at whitespace as this package does, and
                by its default tokenizer
    decisions   of both on every document, where words are cut alike: kept or dropped, and the reason
    pass        a pass of one worker against a plain pyarrow loop that reads the same files, applies the same row work
                and writes one zstd Parquet file; per core, that is per second of processor time of either side
    documents   the row work of a whole ``documents`` step: cleaning, filters, language

Without ``--data`` the corpus is this Python installation's own text. ``--quick`` takes a sample of either.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.corpora import from_environment, sample
from benchmarks.harness import Bar, Options, Result, Row

ENVIRONMENT_MB = 24
QUICK_MB = 2
WORKERS = 2

Decisions = dict[tuple[str, int], str | None]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two sides judged the same documents; shares of all documents."""

    documents: int
    decisions: float  # kept by both or dropped by both
    reasons: float  # and for the same reason


def agreement(ours: Decisions, theirs: Decisions) -> Agreement:
    """Compare reason by document, None for kept.

    Raises:
        BenchmarkError: the two sides did not judge the same documents.
    """
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise harness.BenchmarkError(f"{len(odd)} documents were judged by one side alone, first {odd[0]}")
    if not ours:
        raise harness.BenchmarkError("no document was judged; give a folder with texts")
    pairs = [(ours[key], theirs[key]) for key in ours]
    return Agreement(
        documents=len(pairs),
        decisions=sum((a is None) == (b is None) for a, b in pairs) / len(pairs),
        reasons=sum(a == b for a, b in pairs) / len(pairs),
    )


def read_decisions(path: Path) -> Decisions:
    with path.open(encoding="utf-8") as lines:
        return {(one["file"], one["row"]): one["reason"] for one in map(json.loads, lines)}


def side(mode: str, data: Path, *options: str) -> dict[str, Any]:
    """One run of this package's side or of the plain loop."""
    return harness.run_json([sys.executable, "-m", "benchmarks.build_sides", mode, "--data", str(data), *options])


def speeds(runs: list[dict[str, Any]]) -> list[float]:
    """MB of text a second on the clock."""
    return [run["bytes"] / 1e6 / run["seconds"] for run in runs]


def per_core(runs: list[dict[str, Any]]) -> list[float]:
    """MB of text a second of processor time."""
    return [run["bytes"] / 1e6 / run["processor_seconds"] for run in runs]


def against_datatrove(data: Path, scratch: Path, python: Path | None, repeats: int) -> Result:
    """Speed and decisions of the filters, ours and datatrove's; rows are left out where there is no datatrove."""
    found = Result()
    ours, theirs = scratch / "ours.jsonl", scratch / "theirs.jsonl"
    two = ("--workers", str(WORKERS))
    ratios: dict[str, float] = {}
    same: Agreement | None = None
    for words in ("whitespace", "default") if python else ():
        script = str(harness.ROOT / "benchmarks" / "build_peer_datatrove.py")
        command = [str(python), script, "--data", str(data), *two, "--words", words, "--decisions", str(theirs)]
        runs = harness.alternate(
            {
                "ours": partial(side, "pass", data, *two, "--decisions", str(ours)),
                "datatrove": partial(harness.run_json, command),
            },
            repeats,
        )
        found.versions |= runs["datatrove"][0]["versions"]
        ratio = harness.ratio(speeds(runs["ours"]), speeds(runs["datatrove"]))
        ratios[words] = ratio.median
        processor = harness.ratio(per_core(runs["ours"]), per_core(runs["datatrove"]))
        found.rows += [
            harness.row(
                f"our filters in a pass, {WORKERS} workers (beside {words} words)", speeds(runs["ours"]), "MB/s"
            ),
            harness.row(
                f"datatrove's filters alone, {WORKERS} workers, {words} words", speeds(runs["datatrove"]), "MB/s"
            ),
            harness.ratio_row(f"ours over datatrove's, {words} words", ratio, repeats),
            harness.ratio_row(f"ours over datatrove's, {words} words, per processor second", processor, repeats),
        ]
        if words == "whitespace":
            same = agreement(read_decisions(ours), read_decisions(theirs))
            found.rows += [
                {"what": "kept or dropped alike", "median": same.decisions, "unit": f"of {same.documents:,}"},
                {"what": "and for the same reason", "median": same.reasons, "unit": f"of {same.documents:,}"},
            ]
    alike = "where words are cut alike"
    found.bars = [
        Bar(name=f"filters over datatrove's {alike}, times", value=ratios.get("whitespace"), op=">=", want=10.0),
        Bar(name="filters over datatrove's with its own words, times", value=ratios.get("default"), op=">=", want=10.0),
        Bar(name=f"decisions equal {alike}, share", value=same.decisions if same else None, op=">=", want=0.99),
        Bar(name=f"reasons equal {alike}, share", value=same.reasons if same else None, op=">=", want=0.99),
    ]
    return found


def against_a_loop(data: Path, repeats: int) -> Result:
    """A pass of one worker and a plain loop, for the filters alone and for the row work of ``documents``."""
    found = Result()
    for works, name in (("filters", "the two filters"), ("documents", "row work of documents")):
        runs = harness.alternate(
            {mode: partial(side, mode, data, "--works", works) for mode in ("pass", "loop")},
            repeats,
        )
        kept = {mode: {run["kept"] for run in runs[mode]} for mode in runs}
        if kept["pass"] != kept["loop"]:
            raise harness.BenchmarkError(f"{name}: the pass kept {kept['pass']} rows, the loop {kept['loop']}")
        ratio = harness.ratio(per_core(runs["pass"]), per_core(runs["loop"]))
        clock = harness.ratio(speeds(runs["pass"]), speeds(runs["loop"]))
        found.rows += [
            harness.row(f"pass, {name}", per_core(runs["pass"]), "MB/core-s"),
            harness.row(f"plain loop, {name}", per_core(runs["loop"]), "MB/core-s"),
            harness.ratio_row(f"pass over plain loop, {name}, per core", ratio, repeats),
            harness.ratio_row(f"pass over plain loop, {name}, on the clock", clock, repeats),
        ]
        bar = f"pass over plain loop, {name}, per core, times"
        found.bars.append(Bar(name=bar, value=ratio.median, op=">=", want=0.6))
    return found


def documents_step(data: Path, repeats: int) -> list[Row]:
    """Speed of a pass with the row work of ``documents``, and where its time goes."""
    runs = [side("pass", data, "--works", "documents", "--workers", str(WORKERS)) for _ in range(repeats)]
    rows = [harness.row(f"documents, {WORKERS} workers", speeds(runs), "MB/s")]
    for name in runs[0]["by_work"]:
        rows.append(harness.row(f"documents: {name}, both workers", [run["by_work"][name] for run in runs], "s"))
    rows.append(harness.row("documents: all, processor time", [run["processor_seconds"] for run in runs], "s"))
    return rows


def measure(options: Options) -> Result:
    python = harness.peer("datatrove", quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        scratch = Path(folder)
        data = options.data
        if data is None or options.quick:
            made = scratch / "data"
            made.mkdir()
            if data is None:
                from_environment(made, QUICK_MB if options.quick else ENVIRONMENT_MB)
            else:
                sample(data, made, QUICK_MB)
            data = made
        repeats = 1 if options.quick else 3
        result = Result(versions=harness.versions("pyarrow", "numpy", "numba"))
        filters = against_datatrove(data, scratch, python, repeats)
        loop = against_a_loop(data, 1 if options.quick else 5)
        result.rows = filters.rows + loop.rows + documents_step(data, repeats)
        result.bars = filters.bars + loop.bars
        result.versions |= {f"datatrove's {n}" if n != "datatrove" else n: v for n, v in filters.versions.items()}
    return result


if __name__ == "__main__":
    harness.main("build", __doc__, measure)
