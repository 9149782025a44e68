"""This package's side of benchmarks/dedup.py, a process of its own each: ``python -m benchmarks.dedup_sides MODE …``.

    bands     the pass that makes band keys, alone on one core: Parquet in, Parquet out, again and again
    keys      band keys of texts in memory, alone on one core, again and again
    recall    which of the pairs of a file share a band
    judge     the passes from band keys to verdicts, of documents that were never written: seconds, peak memory
    find      a whole build of one file: exact and near-duplicates, and how well ``family`` labels are met

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.corpora import files_of, texts_of
from penstock.dataset import Dataset
from penstock.pipelines import near
from penstock.pipelines.deduplicate import Deduplicated
from penstock.pipelines.documents import Documents, part_splits
from penstock.pipelines.history import WHOLE, Index
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import PartWriter, Pass, Slices, Split, merge_parts, run_pass, splits_of
from penstock.pipelines.verdicts import ranges_for, rows_by_bucket
from penstock.seeding import stream
from penstock.selectors.components import linked
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.minhash import MinHash
from penstock.selectors.minhash_kernels import shingles
from penstock.selectors.normalise import Normalise, NotEmpty
from penstock.selectors.splits import AssignSplit
from penstock.sources.base import documents_batch
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Context, Settings, Silent, run_step
from penstock.storage import Folder
from penstock.tokenization.packing import hash_range

CLOCK = 2.0  # seconds of repeats
PART = 20_000  # documents of a part that is made up


class Timed(HomeEngine):
    """Passes one after the other in this process, with the seconds of each."""

    def __init__(self) -> None:
        super().__init__(0)
        self.seconds: dict[str, float] = {}

    def map(self, job: Pass, splits: Any, done: Callable[[int], None]) -> None:
        started = time.perf_counter()
        super().map(job, splits, done)
        name = job.prefix.rpartition("/")[2]
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@contextmanager
def scratch() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        yield Folder(folder)


def bands(data: Path) -> dict[str, Any]:
    """Documents, bytes and seconds of the pass over all texts of a folder."""
    texts = [text for path in files_of(data) for text in texts_of(path)]

    def write(split: Split, out: PartWriter) -> None:
        for first in range(0, len(texts), 4096):
            some = texts[first : first + 4096]
            ids = [f"d#{i}" for i in range(first, first + len(some))]
            out.write("documents", documents_batch(ids, some, source="files", domains=["d"] * len(some)))

    with scratch() as folder:
        made = run_pass(Pass(folder, "made/documents", write), splits_of([0]), HomeEngine(0))
        table = merge_parts(made, "documents")
        assert table is not None
        none = Slices(folder, {})
        work = near.EmitBands(folder, MinHash(), "first", none, Index(none, 1), 1)
        runs = 0
        run_pass(Pass(folder, "warm/bands", work), part_splits(table), HomeEngine(0))
        started = time.perf_counter()
        while runs == 0 or time.perf_counter() - started < CLOCK:
            run_pass(Pass(folder, f"{runs}/bands", work), part_splits(table), HomeEngine(0))
            runs += 1
        seconds = (time.perf_counter() - started) / runs
    return {"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts), "seconds": seconds}


def keys(data: Path) -> dict[str, Any]:
    """Documents, bytes and seconds of band keys in memory."""
    texts = pa.array([text for path in files_of(data) for text in texts_of(path)])
    batches = [texts.slice(first, 4096) for first in range(0, len(texts), 4096)]
    work = MinHash()
    work.setup()
    runs, started = 0, time.perf_counter()
    while runs == 0 or time.perf_counter() - started < CLOCK:
        for batch in batches:
            work.keys(batch)
        runs += 1
    seconds = (time.perf_counter() - started) / runs
    return {"documents": len(texts), "bytes": pc.sum(pc.binary_length(texts)).as_py(), "seconds": seconds}


def recall(pairs: Path) -> dict[str, Any]:
    """Hits and pairs by similarity."""
    with pairs.open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    work = MinHash()
    one, two = (work.keys(pa.array([pair[side] for pair in found]))[0] for side in ("one", "two"))
    hits: dict[str, list[int]] = {}
    for pair, hit in zip(found, (one == two).any(axis=1).tolist(), strict=True):
        counts = hits.setdefault(str(pair["jaccard"]), [0, 0])
        counts[0] += hit
        counts[1] += 1
    return {"hits": hits}


def judge(documents: int) -> dict[str, Any]:
    """Band keys of made-up documents, a fifth of them near another, through every pass up to verdicts."""
    count = MinHash().bands
    ranges = ranges_for(documents * count, near.BANDS_PER_RANGE)

    def write(split: Split, out: PartWriter) -> None:
        part = split.index
        keys = stream(1, "keys", part).integers(0, 2**64, (PART, count), np.uint64)
        # of every ten, two share some keys with the same row of the part before, in a chain through up to five parts
        if part % 5:
            rng = stream(1, "shared", part)
            same = (np.arange(PART) % 10 < 2)[:, None] & (rng.random((PART, count)) < 0.4)
            before = stream(1, "keys", part - 1).integers(0, 2**64, (PART, count), np.uint64)
            keys = np.where(same, before, keys)
        row = np.repeat(np.arange(PART, dtype=np.int32), count)
        table = pa.table({"key": keys.reshape(-1), "row": row})
        rows_by_bucket(out, "bands", hash_range(table["key"].to_numpy(), ranges), table, lambda n: f"{n}/{ranges}")
        ids = [f"a-file-of-documents-{part:04d}.jsonl#{i}" for i in range(PART)]
        whose = documents_batch(ids, ["text"] * PART, source="files", domains=["d"] * PART)
        columns = {"row": np.arange(PART, dtype=np.int32), "doc_id": whose["doc_id"]}
        columns |= {"content_hash": whose["content_hash"], "prefer": pa.nulls(PART, pa.float64())}
        for batch in pa.table(columns).to_batches():
            out.piece("rows", WHOLE, batch)

    with scratch() as folder:
        engine = Timed()
        parts = documents // PART
        made = run_pass(Pass(folder, "made/bands", write), splits_of(range(parts)), engine)
        warm = linked(np.zeros(2, np.uint64), np.arange(2, dtype=np.uint64))
        assert len(warm[0]) == 1
        before = peak()
        step = Deduplicated("deduplicated", "documents", ExactDuplicates(), AssignSplit(seed=1))
        context = Context(step, folder, "0" * 32, {}, engine, Silent(), Settings())
        bands = near.Bands(*(Index(Slices.of(folder, made, name), parts) for name in near.Bands._fields))
        none = Slices(folder, {})
        stats: dict[str, Any] = {}
        nodes, copies = ranges_for(documents, near.EDGES_PER_RANGE), near.Copies(none, Index(none, parts))
        judged = near.near_duplicates(context, bands, ranges, nodes, copies, stats, drop=True)
        found = [judged.verdicts.read(str(part)) for part in range(parts)]
        lost = sum(pc.sum(one["lost"]).as_py() for one in found if one is not None)
    seconds = {name: round(spent, 2) for name, spent in engine.seconds.items() if name != "bands"}
    return {
        "keys": parts * PART * count,
        "lost": lost,
        "seconds": seconds,
        "peak_mb": peak(),
        "before_mb": before,
    } | stats


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def find(path: Path, text: str) -> dict[str, Any]:
    """Duplicates of one file, and pairs of equal ``family`` found, where its records have one."""
    with scratch() as folder:
        source = FileSource(name="files", entries=(FileEntry(path=str(path), columns={"text": text}),))
        settings = Settings()
        run_step(
            Documents("documents", (source,), (Normalise(), NotEmpty())), folder, HomeEngine(0), Silent(), settings
        )
        step = Deduplicated(
            "deduplicated", "documents", ExactDuplicates(), AssignSplit(seed=1), minhash=MinHash(), action="tag"
        )
        run_step(step, folder, HomeEngine(0), Silent(), settings)
        made = Dataset(folder / "deduplicated")
        cluster = {r["doc_id"]: r["cluster"] for r in made.read("documents", ["doc_id", "cluster"]).to_pylist()}
        counts, stats = made.manifest.counts, made.manifest.stats["near"]
    near_found = len(cluster) - len(set(cluster.values()))
    out = {"documents": counts.rows_in, "exact": counts.dropped_total, "near": near_found, **stats["texts"]}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    if any("family" in record for record in records):
        out |= of_families(cluster, [(record.get("family"), record[text]) for record in records])
    return out


def of_families(cluster: dict[str, str], records: list[tuple[str | None, str]]) -> dict[str, int]:
    """Pairs of documents in one cluster, in one family, and in both; and those in one cluster by true similarity."""
    rows, hashes = shingles(pa.array([text for _, text in records]), MinHash.ngram)
    sets = [set(hashes[a:b].tolist()) for a, b in itertools.pairwise(rows)]
    pairs: Counter[str] = Counter()
    members = [(name, int(doc_id.rpartition("#")[2])) for doc_id, name in cluster.items()]
    for (one, i), (two, j) in itertools.combinations(members, 2):
        alike, related = one == two, records[i][0] == records[j][0]
        pairs["pairs_found"] += alike
        pairs["pairs_of_a_family"] += related
        pairs["pairs_found_of_a_family"] += alike and related
        if alike or related:
            jaccard = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            for least in (0.5, 0.7):
                pairs[f"pairs_found_above_{least}"] += alike and jaccard >= least
                pairs[f"pairs_of_a_family_above_{least}"] += related and jaccard >= least
                pairs[f"pairs_found_of_a_family_above_{least}"] += alike and related and jaccard >= least
    return dict(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["bands", "keys", "recall", "judge", "find"])
    parser.add_argument("--data", type=Path, help="folder of .jsonl.gz files; for find, one such file")
    parser.add_argument("--text", default="text", help="field of the text")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--documents", type=int, default=1_000_000)
    given = parser.parse_args()
    modes: dict[str, Callable[[], dict[str, Any]]] = {
        "bands": lambda: bands(given.data),
        "keys": lambda: keys(given.data),
        "recall": lambda: recall(given.pairs),
        "judge": lambda: judge(given.documents),
        "find": lambda: find(given.data, given.text),
    }
    print(json.dumps(modes[given.mode]()))


if __name__ == "__main__":
    main()
