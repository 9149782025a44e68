"""Embedding, grouping and semantic duplicates on one core: texts and documents a second.

Everything runs on one thread and rates are per second of processor time, so that other work on the machine counts
little.

Short texts are lines of some 46 characters, long ones pages of 1,024. All come from files of JSON lines named by
``--data`` (field ``text``), or from the files of this Python installation. The static table is the real one, from the
cache or distilled first (half a minute, not timed).
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness

os.environ["TOKENIZERS_PARALLELISM"] = "false"
SHORT, PAGE = 46, 1024
RUNS = 3


def measure(options: harness.Options) -> harness.Result:
    from threadpoolctl import threadpool_limits

    from penstock.embedding.base import Embed, unit_vectors
    from penstock.embedding.distil import distilled
    from penstock.embedding.static import StaticVectors, save_static
    from penstock.selectors.kmeans import nearest, spherical_kmeans
    from penstock.selectors.semantic import survivors

    scale = 10 if options.quick else 1
    rows: list[harness.Row] = []
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1):
        path, digest = save_static(folder, *distilled(print), {})
        embedder = StaticVectors(path=path, digest=digest, dimensions=256)
        embedder.setup()
        long = pieces(options.data, PAGE, 10_000 // scale)
        short = [text[start : start + SHORT] for text in long for start in range(0, PAGE - SHORT, SHORT)]
        short = short[: 20_000 // scale]
        found = {}
        for what, texts in (("short texts", short), ("pages", long)):
            batch = pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], ["text"])
            work = Embed(embedder=embedder)
            seconds = timed(lambda work=work, batch=batch: work.annotate(batch))
            found[what] = len(texts) / statistics.median(seconds)
            characters = statistics.mean(map(len, texts))
            rows.append(row(f"static embedding, {what} of {characters:.0f} characters", len(texts), seconds, "texts/s"))
        batch = pa.RecordBatch.from_arrays([pa.array(long, pa.string())], ["text"])
        vectors = unit_vectors(Embed(embedder=embedder).annotate(batch)["embedding"])

    learned = 16_384 // scale
    sample = vectors[np.arange(learned) % len(vectors)]
    seconds = timed(lambda: spherical_kmeans(sample, 64, seed=0), runs=3)
    rows.append(row("k-means, 64 groups, 20 iterations", learned, seconds, "documents/s"))
    for groups in (64, 1024):
        centroids = vectors[:groups]
        seconds = timed(lambda centroids=centroids: nearest(vectors, centroids), runs=3)
        rows.append(row(f"nearest of {groups} groups", len(vectors), seconds, "documents/s"))
    group = vectors[: 10_000 // scale]
    seconds = timed(lambda: survivors(group, 0.97), runs=3)
    rows.append(row("semantic duplicates in one group", len(group), seconds, "documents/s"))
    return harness.Result(
        rows=rows,
        bars=[
            harness.Bar(
                name="short texts embedded a second on one core", value=found["short texts"], op=">=", want=20_000.0
            )
        ],
        versions=harness.versions("tokenizers", "faiss-cpu", "model2vec", "numpy", "numba"),
    )


def row(what: str, count: int, seconds: list[float], unit: str) -> harness.Row:
    rates = sorted(count / s for s in seconds)
    return {
        "what": what,
        "count": count,
        "seconds": statistics.median(seconds),
        "median": statistics.median(rates),
        "min": rates[0],
        "max": rates[-1],
        "unit": unit,
    }


def timed(do: Callable[[], Any], runs: int = RUNS) -> list[float]:
    """Processor seconds of each run, after one that is not counted."""
    do()
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        do()
        seconds.append(time.process_time() - started)
    return seconds


def pieces(data: Path | None, characters: int, count: int) -> list[str]:
    """``count`` pieces of text of this length, from all over the material."""
    out = []
    for text in texts_of(data):
        for start in range(0, len(text) - characters + 1, characters):
            piece = text[start : start + characters]
            if not piece.isspace():
                out.append(piece)
        if len(out) >= 4 * count:
            break
    if not out:
        raise harness.BenchmarkError(f"{data}: no text of {characters} characters; name a folder of JSON lines")
    step = max(1, len(out) // count)
    return out[::step][:count]


def texts_of(data: Path | None) -> Iterator[str]:
    if data is None:
        for file in sorted(Path(os.__file__).parent.rglob("*.py")):
            yield file.read_text(encoding="utf-8", errors="replace")
        return
    for file in sorted(data.rglob("*.jsonl*")):
        with gzip.open(file, "rt") if file.suffix == ".gz" else open(file) as lines:
            for line in lines:
                text = json.loads(line).get("text")
                if isinstance(text, str):
                    yield text


if __name__ == "__main__":
    harness.main("embedding", __doc__, measure)
