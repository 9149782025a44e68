"""Our side of benchmarks/filters.py, in a process of its own: ``python -m benchmarks.filters_sides NAME --data DIR``.

Texts are read into batches first. The row work goes over them once to warm up (compiled kernels), then on the clock
again and again until at least ``CLOCK`` seconds have passed. The last line printed is JSON: bytes of text and seconds
of processor time, both of once over all texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.corpora import files_of, texts_of
from penstock.selectors.c4 import C4Rules
from penstock.selectors.fineweb import FineWebQuality
from penstock.selectors.normalise import content_hashes
from penstock.work import Filter, with_columns

CLOCK = 1.0
ROWS = 1000  # of a batch
WORKS: dict[str, tuple[Any, ...]] = {
    "c4": C4Rules().works(),
    "c4_any_line": C4Rules(terminal_punctuation=False).works(),
    "fineweb": (FineWebQuality(),),
}


def batches_of(data: Path) -> list[pa.RecordBatch]:
    """All texts of a folder, with the file and row each comes from."""
    out = []
    for path in files_of(data):
        texts = list(texts_of(path))
        for first in range(0, len(texts), ROWS):
            text = pa.array(texts[first : first + ROWS], pa.string())
            columns = {
                "file": pa.array([path.name] * len(text)),
                "row": pa.array(range(first, first + len(text))),
                "text": text,
                "content_hash": content_hashes(text),
            }
            out.append(pa.record_batch(columns))
    return out


def judge(works: Sequence[Any], batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[str | None]]:
    """The batch as the row work leaves it, dropped rows among the others, and the reason of each row, null for kept."""
    reasons: list[str | None] = [None] * batch.num_rows
    for work in works:
        if isinstance(work, Filter):
            # only the last of these filters drops, so none sees a row that is gone
            reasons = work.decide(batch).to_pylist()
        else:
            batch = with_columns(batch, work.annotate(batch))
    return batch, reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(WORKS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--decisions", type=Path, help="write {file, row, reason, text} of every document here")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    works, batches = WORKS[arguments.name], batches_of(arguments.data)
    judged = [judge(works, batch) for batch in batches]
    if arguments.decisions is not None:
        with arguments.decisions.open("w", encoding="utf-8") as out:
            for batch, reasons in judged:
                for row, reason in zip(batch.select(["file", "row", "text"]).to_pylist(), reasons, strict=True):
                    text = hashlib.blake2b(row["text"].encode(), digest_size=8).hexdigest()
                    out.write(json.dumps(row | {"reason": reason, "text": text}) + "\n")
    calls, started, used = 0, time.perf_counter(), time.process_time()
    while not calls or time.perf_counter() - started < CLOCK:
        calls += 1
        for batch in batches:
            judge(works, batch)
    print(
        json.dumps(
            {
                "bytes": sum(batch["text"].get_total_buffer_size() for batch in batches),
                "processor_seconds": (time.process_time() - used) / calls,
                "documents": sum(batch.num_rows for batch in batches),
            }
        )
    )


if __name__ == "__main__":
    main()
