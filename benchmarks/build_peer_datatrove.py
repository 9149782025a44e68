"""Speed and decisions of datatrove's filters, as a yardstick for penstock's.

Run it with the Python of an environment that holds requirements-datatrove.txt; it imports nothing of penstock:

    python benchmarks/build_peer_datatrove.py --data DIR --workers 2 --words whitespace --decisions decisions.jsonl

Every document goes through the filters that ``--filters`` names: by default GopherQualityFilter and, if kept,
GopherRepetitionFilter. Decisions hold the hash of the text too, since C4's filter edits it. Texts are read and
decompressed before the clock starts, worker processes are forked with the texts already in memory and have tokenized a
sentence, and each calls ``filter`` on its documents directly: neither reading, start-up, statistics nor the transport
of documents between processes is charged, which is datatrove's best case. The last line printed is JSON:
``{"megabytes_per_second": …, "bytes": …, "seconds": …, "processor_seconds": …, "rows": …, "kept": …,
"dropped": {reason: rows}, …}``.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    c4_filters,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

CHUNK = 32  # documents a worker takes at a time: small enough that both finish together

Row = tuple[str, int, str]  # file name, row in it, text
rows: list[Row] = []  # filled before the workers are forked
filters: list[BaseFilter] = []

FILTERS: dict[str, Callable[[], list[BaseFilter]]] = {
    "gopher": lambda: [gopher_quality_filter.GopherQualityFilter(), gopher_repetition_filter.GopherRepetitionFilter()],
    "c4": lambda: [c4_filters.C4QualityFilter()],
    "c4_any_line": lambda: [c4_filters.C4QualityFilter(filter_no_terminal_punct=False)],
    "fineweb": lambda: [fineweb_quality_filter.FineWebQualityFilter()],
}


def read(folder: Path, limit: int | None) -> list[Row]:
    """Texts of all .jsonl.gz files of a folder, in name order, until ``limit`` bytes of text are read."""
    found: list[Row] = []
    size = 0
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                text = json.loads(line)["text"]
                size += len(text.encode())
                if limit is not None and size > limit:
                    return found
                found.append((path.name, number, text))
    return found


def split_at_whitespace(text: str, language: str) -> list[str]:
    """datatrove's signature; whitespace needs no language."""
    del language
    return text.split()


def start(ready: Barrier, words: str, names: str) -> None:
    """Make this worker's filters and load its tokenizer, then wait for the others."""
    if words == "whitespace":
        for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
            module.split_into_words = split_at_whitespace
    filters[:] = FILTERS[names]()
    sentence = "The quick brown fox jumps over the lazy dog, and then it rests. " * 10
    for one in filters:
        one.filter(Document(text=sentence, id="warm-up"))
    ready.wait()


def decide(first: int) -> tuple[list[str | None], list[str], float]:
    """The first reason of each document of a chunk, None for kept, the hash of its text then, and processor seconds."""
    reasons, texts = [], []
    started = time.process_time()
    for name, number, text in rows[first : first + CHUNK]:
        document = Document(text=text, id=f"{name}#{number}")
        reason = None
        for one in filters:
            result = one.filter(document)
            if result is not True:
                reason = result[1]
                break
        reasons.append(reason)
        texts.append(document.text)
    seconds = time.process_time() - started
    return reasons, [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .jsonl.gz files with a text field")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--words", choices=["default", "whitespace"], default="default")
    parser.add_argument("--filters", choices=list(FILTERS), default="gopher")
    parser.add_argument(
        "--decisions", type=Path, help="write {file, row, reason, text} of every document to this JSONL file"
    )
    parser.add_argument("--limit-mb", type=float, help="stop reading after so many million bytes of text")
    arguments = parser.parse_args()

    rows[:] = read(arguments.data, None if arguments.limit_mb is None else int(arguments.limit_mb * 1e6))
    if not rows:
        parser.error(f"--data: got {arguments.data} without texts, allowed a folder with .jsonl.gz files")
    size = sum(len(text.encode()) for _, _, text in rows)

    context = multiprocessing.get_context("fork")
    ready = context.Barrier(arguments.workers + 1)
    with context.Pool(arguments.workers, start, (ready, arguments.words, arguments.filters)) as pool:
        ready.wait()
        started = time.perf_counter()
        chunks = list(pool.imap(decide, range(0, len(rows), CHUNK)))
        seconds = time.perf_counter() - started
    reasons = [reason for chunk, _, _ in chunks for reason in chunk]
    texts = [text for _, chunk, _ in chunks for text in chunk]

    if arguments.decisions:
        with arguments.decisions.open("w", encoding="utf-8") as out:
            for (name, number, _), reason, text in zip(rows, reasons, texts, strict=True):
                out.write(json.dumps({"file": name, "row": number, "reason": reason, "text": text}) + "\n")
    print(
        json.dumps(
            {
                "megabytes_per_second": size / 1e6 / seconds,
                "bytes": size,
                "seconds": seconds,
                "processor_seconds": sum(spent for _, _, spent in chunks),
                "rows": len(rows),
                "kept": reasons.count(None),
                "dropped": dict(Counter(reason for reason in reasons if reason)),
                "workers": arguments.workers,
                "words": arguments.words,
                "versions": {name: importlib.metadata.version(name) for name in ("datatrove", "spacy", "numpy")},
            }
        )
    )


if __name__ == "__main__":
    main()
