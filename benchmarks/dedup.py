"""Near-duplicates against datatrove's MinHash and datasketch: speed on one core at equal recall, memory, real data.

    speed     documents a second of the pass from text to band keys, with reading and writing Parquet, against
              datatrove's stage 1 (with its own tokenizer, and with none), which writes but need not read; and of band
              keys in memory against datasketch's signatures; on the same texts, one process each
    recall    of pairs of texts of known similarity, the share that has a band in common: the formula
              1 - (1 - J^8)^14, this package, and both peers
    judge     the passes from band keys to verdicts over documents that are made up: seconds and peak memory
    data      with ``--data``: exact and near-duplicates in every file; where records have a ``family``, pairs of one
              family in one cluster

Without ``--data`` the texts are this Python installation's own. ``--quick`` takes fewer of all.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.corpora import files_of, from_environment, sample
from benchmarks.harness import Bar, Options, Result, Row
from penstock.seeding import stream
from penstock.selectors.minhash import MinHash

FULL_MB, QUICK_MB = 8, 1
FULL_PAIRS, QUICK_PAIRS = 1000, 200
FULL_DOCUMENTS, QUICK_DOCUMENTS = 1_000_000, 100_000
PEAK_MB = 1000
# (runs of five words in common, runs of its own in each): similarity 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9 and 0.95
PLANTED = ((100, 50), (120, 40), (140, 30), (150, 25), (160, 20), (170, 15), (180, 10), (190, 5))
# library, words, and what of ours does the same
PEERS = (("datatrove", "default", "bands"), ("datatrove", "whitespace", "bands"), ("datasketch", "default", "keys"))


def side(mode: str, *options: str) -> dict[str, Any]:
    """One run of this package's side."""
    return harness.run_json([sys.executable, "-m", "benchmarks.dedup_sides", mode, *options])


def peer(python: Path, mode: str, library: str, words: str, *options: str) -> dict[str, Any]:
    script = str(harness.ROOT / "benchmarks" / "dedup_peers.py")
    return harness.run_json([str(python), script, mode, "--library", library, "--words", words, *options])


def name_of(library: str, words: str) -> str:
    return library if words == "default" else f"{library} without its tokenizer"


def per_second(runs: list[dict[str, Any]]) -> list[float]:
    return [run["documents"] / run["seconds"] for run in runs]


def speed(data: Path, python: Path | None, repeats: int) -> Result:
    found = Result()
    for library, words, mode in PEERS:
        name = name_of(library, words)
        bar = f"documents a second over {name}'s, times"
        if python is None:
            found.bars.append(Bar(name=bar, value=None, op=">=", want=10.0))
            continue
        sides = {
            "ours": partial(side, mode, "--data", str(data)),
            "theirs": partial(peer, python, "speed", library, words, "--data", str(data)),
        }
        runs = harness.alternate(sides, repeats)
        ratio = harness.ratio(per_second(runs["ours"]), per_second(runs["theirs"]))
        found.versions |= runs["theirs"][0]["versions"]
        mb = [run["bytes"] / 1e6 / run["seconds"] for run in runs["ours"]]
        found.rows += [
            harness.row(f"ours, {mode} (beside {name})", per_second(runs["ours"]), "documents/s"),
            harness.row(f"ours, {mode} (beside {name})", mb, "MB/s"),
            harness.row(name, per_second(runs["theirs"]), "documents/s"),
            harness.ratio_row(f"ours over {name}", ratio, repeats),
        ]
        found.bars.append(Bar(name=bar, value=ratio.median, op=">=", want=10.0))
    return found


def write_pairs(path: Path, pairs: int) -> None:
    """Pairs of texts whose sets of 5-grams have exactly the similarity that is written beside them."""
    with path.open("w", encoding="utf-8") as out:
        for shared, own in PLANTED:
            rng = stream(1, "pairs", shared)
            for _ in range(pairs):
                # of letters alone: datatrove takes all numbers for one
                letters = rng.integers(97, 123, (shared + 4 + 2 * own, 8), np.uint8)
                words = [word.tobytes().decode() for word in letters]
                one, two = words[: shared + 4 + own], words[: shared + 4] + words[shared + 4 + own :]
                pair = {"one": " ".join(one), "two": " ".join(two), "jaccard": shared / (shared + 2 * own)}
                out.write(json.dumps(pair) + "\n")


def recall(scratch: Path, python: Path | None, pairs: int) -> Result:
    """Hits of every side by similarity; how far the worst of ours is from the formula, in standard deviations."""
    path = scratch / "pairs.jsonl"
    write_pairs(path, pairs)
    hits = {"ours": side("recall", "--pairs", str(path))["hits"]}
    for library in ("datatrove", "datasketch") if python else ():
        assert python is not None
        hits[library] = peer(python, "recall", library, "whitespace", "--pairs", str(path))["hits"]
    found = Result()
    far = []
    less: dict[str, list[float]] = {library: [] for library in ("datatrove", "datasketch")}
    for jaccard in hits["ours"]:
        expected = MinHash().probability(float(jaccard))
        share = {name: counts[jaccard][0] / counts[jaccard][1] for name, counts in hits.items()}
        deviation = max((expected * (1 - expected) / pairs) ** 0.5, 1 / pairs)
        far.append(abs(share["ours"] - expected) / deviation)
        for library in share.keys() & less.keys():
            less[library].append((share[library] - share["ours"]) / (2**0.5 * deviation))
        what = f"recall at J {float(jaccard):.2f}, formula {expected:.4f}"
        found.rows += [
            {"what": f"{what}: {name}", "median": value, "unit": f"of {pairs:,}"} for name, value in share.items()
        ]
    bar = "recall from the formula, standard deviations"
    found.bars = [Bar(name=bar, value=max(far), op="<=", want=3.0)]
    for library, values in less.items():
        bar = f"recall below {library}'s, standard deviations"
        found.bars.append(Bar(name=bar, value=max(values) if values else None, op="<=", want=3.0))
    return found


def judge(documents: int) -> Result:
    run = side("judge", "--documents", str(documents))
    total = sum(run["seconds"].values())
    rows: list[Row] = [
        {"what": f"pass {name}, {run['keys']:,} band keys", "median": spent, "unit": "s"}
        for name, spent in run["seconds"].items()
    ]
    rows.append({"what": f"band keys to verdicts, {documents:,} documents", "median": total, "unit": "s"})
    rows.append({"what": "near-duplicates among them", "median": run["lost"], "unit": "documents"})
    rows.append({"what": "resident before the passes (libraries)", "median": run["before_mb"], "unit": "MB"})
    bars = [
        Bar(name=f"peak resident memory of {documents:,} documents, MB", value=run["peak_mb"], op="<=", want=PEAK_MB)
    ]
    return Result(rows=rows, bars=bars)


def real(data: Path) -> list[Row]:
    """What is found in each file of a folder; fields of a text are ``text`` or ``question``."""
    rows: list[Row] = []
    for path in files_of(data):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            record = json.loads(next(lines))
        text = "text" if "text" in record else "question"
        run = side("find", "--data", str(path), "--text", text)
        name = path.name.partition(".")[0]
        units = {"documents": "documents", "long": "with band keys", "short": "too short for them"}
        rows += [
            {"what": f"{name}: {what.replace('_', ' ')}", "median": value, "unit": units.get(what, "found")}
            for what, value in run.items()
        ]
    return rows


def measure(options: Options) -> Result:
    python = harness.peer("dedup", quick=options.quick)
    result = Result(versions=harness.versions("pyarrow", "numpy", "numba"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        scratch = Path(folder)
        texts = scratch / "texts"
        texts.mkdir()
        size = QUICK_MB if options.quick else FULL_MB
        if options.data is None:
            from_environment(texts, size)
        else:
            sample(options.data, texts, size)
        found = [
            speed(texts, python, 1 if options.quick else 3),
            recall(scratch, python, QUICK_PAIRS if options.quick else FULL_PAIRS),
            judge(QUICK_DOCUMENTS if options.quick else FULL_DOCUMENTS),
        ]
    for one in found:
        result.rows += one.rows
        result.bars += one.bars
        result.versions |= one.versions
    if options.data is not None:
        result.rows += real(options.data)
    return result


if __name__ == "__main__":
    harness.main("dedup", __doc__, measure)
