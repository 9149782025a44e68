"""One side of benchmarks/build.py, in a process of its own: ``python -m benchmarks.build_sides MODE --data DIR``.

    pass       a pass of this package: read, row work, ids, hashes, digests, parts, receipts
    loop       a plain pyarrow loop: read, the same row work, one zstd Parquet file

Each does its work once to warm up (every worker's modules and compiled kernels, the page cache), then on the clock
again and again until at least ``CLOCK`` seconds have passed. The last line printed is JSON: bytes of text read, seconds
on the clock and of processor time, all per pass, rows, and for a pass the seconds of each piece of row work.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from benchmarks.corpora import files_of
from penstock.dataset import read_part
from penstock.pipelines.documents import ReadSources
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import PartWriter, Pass, Receipt, Split, run_pass, splits_of
from penstock.pipelines.plan import row_work
from penstock.recipe import Recipe
from penstock.selectors.gopher import GopherQuality, GopherRepetition
from penstock.sources.files import FileEntry, FileSource
from penstock.storage import Folder
from penstock.work import Filter, with_columns

Made = TypeVar("Made")

CLOCK = 2.0
SPLIT_BYTES = 32 << 20  # the default of `penstock build`; less where the corpus would not fill the workers


def works_of(name: str) -> tuple[Any, ...]:
    """``filters``: the two Gopher filters. ``documents``: the row work of a whole ``documents`` step, in its order."""
    if name == "filters":
        return (GopherQuality(), GopherRepetition())
    recipe = {
        "name": "benchmark",
        "source": {"files": [{"path": "*.jsonl"}]},
        "filters": {"gopher_quality": {}, "gopher_repetition": {}, "language": {"languages": ["en"]}},
        "select": {"criteria": {"language": {"weight": 1.0}}},
    }
    return row_work(Recipe.parse(json.dumps(recipe)))


@dataclass(frozen=True)
class InEveryWorker:
    """The work on the first split; then a worker waits until ``workers`` of them have done so, and none stays cold."""

    work: Any
    first: Split
    meeting: Path
    workers: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        self.work(self.first, out)
        (self.meeting / str(split.index)).touch()
        deadline = time.monotonic() + 120
        while len(os.listdir(self.meeting)) < self.workers and time.monotonic() < deadline:
            time.sleep(0.01)


def processor_seconds() -> float:
    """User and system time of this process and of its children that live."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def run_the_pass(data: Path, works: Sequence[Any], workers: int, decisions: Path | None) -> dict[str, Any]:
    source = FileSource(name="files", entries=(FileEntry(path=f"{data}/*.jsonl.gz"),))
    work = ReadSources((source,), tuple(works), "sample")
    # 4: what the source takes a gzip file to expand to
    size = 4 * sum(path.stat().st_size for path in files_of(data))
    splits = splits_of(source.plan(min(SPLIT_BYTES, max(1, size // (2 * workers)))))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch, HomeEngine(workers) as engine:
        meeting = Path(scratch) / "meeting"
        meeting.mkdir()
        warm = InEveryWorker(work, splits[0], meeting, workers)
        run_pass(Pass(Folder(scratch), "warm/read", warm), splits_of(range(workers)), engine)

        def once(number: int) -> list[Receipt]:
            return run_pass(Pass(Folder(f"{scratch}/{number}"), "read", work), splits, engine)

        receipts, clock = timed(once)
        if decisions is not None:
            write_decisions(Folder(f"{scratch}/0"), receipts, decisions)
    by_work: dict[str, float] = {}
    for receipt in receipts:
        for name, spent in receipt.seconds.items():
            by_work[name] = by_work.get(name, 0.0) + spent
    sizes = [of["bytes"] for receipt in receipts for of in receipt.stats["sources"].values()]
    return {
        "bytes": sum(sizes),
        "rows": sum(receipt.counts.rows_in for receipt in receipts),
        "kept": sum(receipt.counts.kept for receipt in receipts),
        **clock,
        "by_work": by_work,
        "splits": len(splits),
    }


def timed(once: Callable[[int], Made]) -> tuple[Made, dict[str, float]]:
    """Call ``once`` to warm up, then until ``CLOCK`` seconds have passed: the first result, and seconds a call."""
    made = once(0)
    calls = 0
    started, used = time.perf_counter(), processor_seconds()
    while not calls or time.perf_counter() - started < CLOCK:
        calls += 1
        once(calls)
    seconds, processor = time.perf_counter() - started, processor_seconds() - used
    return made, {"seconds": seconds / calls, "processor_seconds": processor / calls}


def write_decisions(folder: Folder, receipts: Sequence[Receipt], path: Path) -> None:
    """{file, row, reason} of every record of the pass, reason null where it was kept."""
    with path.open("w", encoding="utf-8") as out:
        for receipt in receipts:
            for table, columns in (("documents", ["doc_id"]), ("dropped", ["doc_id", "reason"])):
                if table not in receipt.parts:
                    continue
                for batch in read_part(folder, receipt.parts[table].file, columns):
                    for one in batch.to_pylist():
                        file, _, number = one["doc_id"].rpartition("#")
                        out.write(json.dumps({"file": file, "row": int(number), "reason": one.get("reason")}) + "\n")


def run_the_loop(data: Path, works: Sequence[Any]) -> dict[str, Any]:
    files = files_of(data)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        (size, rows, kept), clock = timed(lambda number: plain_loop(files, works, Path(scratch) / f"{number}.parquet"))
    return {"bytes": size, "rows": rows, "kept": kept, **clock}


def plain_loop(files: Sequence[Path], works: Sequence[Any], out: Path) -> tuple[int, int, int]:
    """What one writes without this package: bytes of text, rows read and rows kept."""
    text_alone = pj.ParseOptions(explicit_schema=pa.schema([("text", pa.string())]), unexpected_field_behavior="ignore")
    blocks = pj.ReadOptions(use_threads=False, block_size=8 << 20)
    size = rows = kept = 0
    writer = None
    for path in files:
        with (
            pa.input_stream(str(path), compression="gzip") as stream,
            pj.open_json(stream, blocks, text_alone) as reader,
        ):
            for batch in reader:
                rows += batch.num_rows
                size += pc.sum(pc.binary_length(batch["text"])).as_py()
                for work in works:
                    if isinstance(work, Filter):
                        batch = batch.filter(pc.is_null(work.decide(batch)))
                    else:
                        batch = with_columns(batch, work.annotate(batch))
                kept += batch.num_rows
                writer = writer or pq.ParquetWriter(out, batch.schema, compression="zstd", compression_level=3)
                writer.write_batch(batch)
    if writer is not None:
        writer.close()
    return size, rows, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["pass", "loop"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--works", choices=["filters", "documents"], default="filters")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--decisions", type=Path, help="write {file, row, reason} of every document to this JSONL file")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)
    works = works_of(arguments.works)
    if arguments.mode == "pass":
        found = run_the_pass(arguments.data, works, arguments.workers, arguments.decisions)
    else:
        found = run_the_loop(arguments.data, works)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
