"""What benchmarks/scaling.py measures, a process of its own each: ``python -m benchmarks.scaling_sides MODE …``.

    build      whole builds of several sizes by one worker, pass by pass: processor seconds, bytes, objects, peak memory
    shuffle    parts of many buckets: what an entry of a table of places costs, and what opening one costs

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.corpora import recombined, sentences
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import PartWriter, Pass, Slices, Split, read_receipts, run_pass, splits_of
from penstock.pipelines.verdicts import rows_by_bucket
from penstock.recipe import Recipe
from penstock.run import run
from penstock.seeding import stream
from penstock.step import Silent, StepResult
from penstock.storage import Folder

FILE_MB = 8  # a corpus is files of so much text
DOMAINS = 4
SPLIT_BYTES = 8 << 20  # less than the default, so that a small corpus has as many splits as a larger one by default
STEPS = ("dataset-1", "sequences-1")

RECIPE = """
name: scaling
seed: 1
source:
  files: [{{path: '{corpus}/*.jsonl', columns: {{domain: domain}}}}]
filters: {{gopher_quality: {{}}, gopher_repetition: {{}}, language: {{languages: [en], min_confidence: 0.2}}}}
deduplicate: {{near: {{}}}}
tokenizer: {{vocabulary_size: 4096, sample_mb: 4}}
quality:
  positive: {{domains: [d0]}}
  negative: {{domains: ['*']}}
  rows_per_side: 500
select: {{omega: 0.7, lam: 10, eps: 0.2}}
sequences: {{length: 1024}}
train: {{steps: 20}}
"""


def corpus(folder: Path, parts: list[bytes], megabytes: float) -> int:
    """Write files of recombined sentences in a few domains; returns the bytes of their texts.

    One document in 50 repeats the one before it, one in 25 is nearly that before it.
    """
    folder.mkdir(parents=True)
    size = 0
    for number in range(max(1, round(megabytes / FILE_MB))):
        made = io.BytesIO()
        recombined(parts, made, int(min(megabytes, FILE_MB) * 1e6), "scaling", number)
        with (folder / f"{number:04d}.jsonl").open("wb", buffering=1 << 20) as out:
            for place, line in enumerate(made.getvalue().splitlines()):
                text = line.removeprefix(b'{"text": "').removesuffix(b'"}')
                for one in (text, text + b" One sentence more.") if place % 25 == 7 else (text,):
                    out.write(b'{"domain": "d%d", "text": "%s"}\n' % (place % DOMAINS, one))
                    size += len(one)
    return size


class Metered:
    """The home engine, and what every pass takes of its workers."""

    def __init__(self) -> None:
        self.home = HomeEngine(1)
        self.passes: list[dict[str, Any]] = []
        self.aside = 0.0  # processor seconds of this process in passes and at measuring

    def map(self, job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> None:
        before, own = self._workers(), time.process_time()
        for process in before:
            forget_peak(process)
        started = time.perf_counter()
        self.home.map(job, splits, done)
        seconds = time.perf_counter() - started
        after = self._workers()
        used = {
            name: sum(of[name] for of in after.values()) - sum(of[name] for of in before.values()) for name in COUNTED
        }
        receipts = read_receipts(job, splits).values()
        tables = [table for receipt in receipts for table in receipt.buckets.values()]
        self.passes.append(
            {
                "step": job.folder.url.rpartition("/")[2],
                "pass": job.prefix.rpartition("/")[2],
                "splits": len(splits),
                "seconds": seconds,
                **used,
                "peak": max(of["peak"] for of in after.values()),
                "objects": sum(1 + len(receipt.parts) for receipt in receipts),
                "kept": sum(part.file.bytes for receipt in receipts for part in receipt.parts.values()),
                "entries": sum(map(len, tables)),
            }
        )
        self.aside += time.process_time() - own

    def _workers(self) -> dict[psutil.Process, dict[str, float]]:
        found = {}
        for process in psutil.Process().children(recursive=True):
            times, moved = process.cpu_times(), process.io_counters()
            found[process] = {
                "core_seconds": times.user + times.system,
                "read": float(moved.read_chars),
                "written": float(moved.write_chars),
                "peak": peak_of(process),
            }
        return found


COUNTED = ("core_seconds", "read", "written")


def forget_peak(process: psutil.Process) -> None:
    """Let the system count a process's peak memory from now on."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak_of(process: psutil.Process) -> float:
    """Peak resident memory of a process in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


class Steps(Silent):
    """Notes processor seconds of the driver by step, those within passes apart."""

    def __init__(self, engine: Metered) -> None:
        self.engine = engine
        self.seconds: dict[str, float] = {}
        self.rows = self.tokens = 0
        self.near: dict[str, Any] = {}
        self._mark = self._now()

    def _now(self) -> float:
        return time.process_time() - self.engine.aside

    def step_started(self, step: Any, why: str) -> None:
        self._mark = self._now()

    def step_finished(self, result: StepResult) -> None:
        self.seconds[result.step.name] = self._now() - self._mark
        if result.step.name == "documents":
            self.rows = result.manifest.counts.rows_in
        if result.step.name == "deduplicated":
            self.near = result.manifest.stats["near"]
        if result.step.name == "selection-1":
            of = result.manifest.stats["domains"]
            self.tokens = sum(one["tokens"] for domains in of.values() for one in domains.values())


def builds(material: Path, sizes: Sequence[float], splits: Sequence[int]) -> list[dict[str, Any]]:
    """A build of each size with its split size, after a small one that loads and compiles."""
    engine, parts = Metered(), sentences(material)
    engine.home.start()
    out = []
    with engine.home, tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        for number, (megabytes, split_bytes) in enumerate(zip((1.0, *sizes), (SPLIT_BYTES, *splits), strict=True)):
            folder = Path(scratch) / str(number)
            size = corpus(folder / "corpus", parts, megabytes)
            engine.passes.clear()
            steps = Steps(engine)
            recipe = Recipe.parse(RECIPE.format(corpus=folder / "corpus"))
            run(
                recipe,
                out=str(folder / "run"),
                engine=engine,
                reporter=steps,
                split_bytes=split_bytes,
                only=STEPS,
                report=False,
            )
            kept = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file())
            out.append(
                {
                    "bytes": size,
                    "split_bytes": split_bytes,
                    "rows": steps.rows,
                    "tokens": steps.tokens,
                    "near": steps.near,
                    "kept": kept,
                    "driver": steps.seconds,
                    "passes": list(engine.passes),
                }
            )
            shutil.rmtree(folder)
    return out[1:]


ROWS_PER_BUCKET = 64
BYTES_OF_A_ROW = 12  # a random key, which nothing makes smaller, and a row number
READ = 32  # buckets that are read of each layout


def shuffles(parts: int, ranges: Sequence[int]) -> list[dict[str, float]]:
    """Parts of so many buckets of a few rows each, as ``bands`` is: what an entry costs on either side."""
    return [shuffle(parts, count) for count in (ranges[0], *ranges)][1:]  # the first time warms up


def shuffle(parts: int, buckets: int) -> dict[str, float]:
    def write(split: Split, out: PartWriter) -> None:
        rng = stream(1, "shuffle", split.index)
        n = buckets * ROWS_PER_BUCKET
        table = pa.table({"key": rng.integers(0, 2**64, n, np.uint64), "row": np.arange(n, dtype=np.int32)})
        rows_by_bucket(out, "bands", np.repeat(np.arange(buckets), ROWS_PER_BUCKET), table, lambda b: f"{b}/{buckets}")

    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        job, splits = Pass(Folder(folder), "0/bands", write), splits_of(range(parts))
        writing = time.process_time()
        run_pass(job, splits, HomeEngine(0))
        writing = time.process_time() - writing
        entries = parts * buckets

        tracemalloc.start()
        found = list(read_receipts(job, splits).values())
        places = Slices.of(job.folder, found, "bands")
        held = tracemalloc.get_traced_memory()[0]
        del found
        of_places = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()

        reading = time.process_time()
        receipts = list(read_receipts(job, splits).values())
        reading = time.process_time() - reading
        gathering = time.process_time()
        layout = Slices.of(job.folder, receipts, "bands").layout
        gathering = time.process_time() - gathering
        assert layout == places.layout

        some = [f"{b}/{buckets}" for b in range(0, buckets, max(1, buckets // READ))]
        opening = time.process_time()
        for bucket in some:
            rows = places.read(bucket, numbered=True)
            assert rows is not None
            assert rows.num_rows == parts * ROWS_PER_BUCKET
        opening = time.process_time() - opening
        at = np.concatenate(list(places.slices.values()))
        return {
            "buckets": buckets,
            "parts": parts,
            "bytes": float((at[:, 2] - at[:, 1]).mean()),
            "of_rows": ROWS_PER_BUCKET * BYTES_OF_A_ROW,
            "read_seconds": opening / (len(some) * parts),
            "write_seconds": writing / entries,
            "receipt_seconds": reading / parts,
            "gather_seconds": gathering / entries,
            "held": held / entries,
            "places": of_places / entries,
            "pickled": len(pickle.dumps(places)) / entries,
        }


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__)
    modes = command.add_subparsers(dest="mode", required=True)
    build = modes.add_parser("build")
    build.add_argument("--material", type=Path, required=True)
    build.add_argument("--mb", type=float, nargs="+", required=True)
    build.add_argument("--split", type=int, nargs="+", required=True, help="bytes of a split, one a size")
    shuffled = modes.add_parser("shuffle")
    shuffled.add_argument("--parts", type=int, required=True)
    shuffled.add_argument("--buckets", type=int, nargs="+", required=True)
    arguments = command.parse_args()
    if arguments.mode == "build":
        print(json.dumps({"builds": builds(arguments.material, arguments.mb, arguments.split)}))
    else:
        print(json.dumps({"shuffles": shuffles(arguments.parts, arguments.buckets)}))


if __name__ == "__main__":
    main()
