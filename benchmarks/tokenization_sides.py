"""One side of benchmarks/tokenization.py in a process of its own: ``python -m benchmarks.tokenization_sides SIDE``.

    encode        the row work ``Encode`` in as many processes as there are cores, on Arrow batches
    library       ``encode_batch`` of ``tokenizers`` in one process, with its own threads
    memory        ``Encode`` in one process over --megabytes of text made by recombining sentences of the data

Texts are in memory and everything is warm before the clock starts. The last line printed is JSON; ``digest`` is that
of all ids in the order of the documents, each closed by the end id, and is found after the clock has stopped.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.corpora import files_of, recombined, sentences, texts_of
from penstock.tokenization.encode import Encode

ROWS = 256  # of a batch
WARM = "The quick brown fox jumps over the lazy dog, and then it rests. " * 10
batches: list[pa.RecordBatch] = []  # filled before the workers are forked


def work_of(path: Path) -> Encode:
    return Encode(tokenizer_file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def start(ready: Barrier, path: Path) -> None:
    work_of(path).annotate(pa.record_batch({"text": [WARM]}))
    ready.wait()


def count(work: Encode, number: int) -> int:
    out = work.annotate(batches[number])
    return len(out["token_ids"].values)


def ids_of(work: Encode, number: int) -> bytes:
    return bytes(work.annotate(batches[number])["token_ids"].values.to_numpy().astype("<u4").tobytes())


def encode(path: Path, workers: int) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(workers + 1)
    work = work_of(path)
    with context.Pool(workers, start, (ready, path)) as pool:
        ready.wait()
        started = time.perf_counter()
        tokens = sum(pool.imap_unordered(functools.partial(count, work), range(len(batches))))
        seconds = time.perf_counter() - started
        digest = hashlib.sha256()
        for part in pool.imap(functools.partial(ids_of, work), range(len(batches))):
            digest.update(part)
    return {"seconds": seconds, "tokens": tokens, "digest": digest.hexdigest()}


def library(path: Path) -> dict[str, Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    # as `Encode` does: text that spells a control token is text
    tokenizer.encode_special_tokens = True
    end = tokenizer.token_to_id("<|endoftext|>")
    texts = [batch["text"].to_pylist() for batch in batches]
    tokenizer.encode_batch([WARM] * 64, add_special_tokens=False)
    started = time.perf_counter()
    for some in texts:
        tokenizer.encode_batch(some, add_special_tokens=False)
    seconds = time.perf_counter() - started
    digest, tokens = hashlib.sha256(), 0
    for some in texts:
        for encoding in tokenizer.encode_batch(some, add_special_tokens=False):
            ids = np.array([*encoding.ids, end], "<u4")
            digest.update(ids.tobytes())
            tokens += len(ids)
    return {"seconds": seconds, "tokens": tokens, "digest": digest.hexdigest()}


def memory(path: Path, data: Path, megabytes: int) -> dict[str, Any]:
    """Resident memory while text goes by, by its share that has gone."""
    work, process = work_of(path), psutil.Process()
    parts = sentences(data)
    resident: list[int] = []
    steps = 50
    file = Path(path).with_name("passing.jsonl")
    for number in range(steps):
        with file.open("wb") as out:
            recombined(parts, out, megabytes * 1_000_000 // steps, "memory", number)
        with file.open("rb") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        for first in range(0, len(texts), ROWS):
            work.annotate(pa.record_batch({"text": texts[first : first + ROWS]}))
        del texts
        resident.append(process.memory_info().rss)
    file.unlink()
    return {"early": max(resident[: steps // 10]) / 1e6, "late": max(resident) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["encode", "library", "memory"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.side == "memory":
        found = memory(arguments.tokenizer, arguments.data, arguments.megabytes)
    else:
        texts = [text for path in files_of(arguments.data) for text in texts_of(path)]
        batches[:] = [pa.record_batch({"text": texts[i : i + ROWS]}) for i in range(0, len(texts), ROWS)]
        found = (
            encode(arguments.tokenizer, arguments.workers)
            if arguments.side == "encode"
            else library(arguments.tokenizer)
        )
        found["bytes"] = sum(len(text.encode()) for text in texts)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
