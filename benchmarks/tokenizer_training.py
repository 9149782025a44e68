"""Training a BPE tokenizer beside the trainer of ``tokenizers``: merges, time, memory, long pretokens, large counts.

    training    both on the same texts, a process each, counting pretokens included; merges must be equal. Theirs uses
                all cores, ours one
    pretokens   one merge on a single pretoken of random letters, its length doubled; theirs, which is quadratic, only
                up to 320,000 characters in a quick run
    overflow    4,300,000 times ``ab`` * 500: 2,150,000,000 times ``ab``, more than 2**31 - 1, and 2,145,700,000 times
                ``ba``. Theirs reads 4.3 GB of text, ours takes the word and its count. A quick run leaves theirs out

``--data`` is a folder of *.jsonl.gz files; without it the corpus is this Python installation's own text. ``--quick``
takes less of either.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.corpora import from_environment, sample
from benchmarks.harness import Bar, Options, Result
from penstock.tokenization.merges import Pairs

FULL_MB, QUICK_MB = 40, 4
LENGTHS = (160_000, 320_000, 640_000, 1_280_000)  # characters of a pretoken
WORD, TIMES = b"ab" * 500, 4_300_000


def side(name: str, *arguments: str) -> dict[str, Any]:
    return harness.run_json([sys.executable, "-m", "benchmarks.tokenizer_training_sides", name, *arguments])


def training(data: Path, options: Options) -> Result:
    vocabulary, repeats = (8_192, 1) if options.quick else (32_768, 3)
    arguments = ("--data", str(data), "--vocabulary", str(vocabulary))
    runs = harness.alternate({name: partial(side, name, *arguments) for name in ("ours", "library")}, repeats)
    seconds = {name: [run["seconds"] for run in found] for name, found in runs.items()}
    processor = {name: [run["processor_seconds"] for run in found] for name, found in runs.items()}
    memory = {name: [run["added_mb"] for run in found] for name, found in runs.items()}
    ours = runs["ours"][0]
    what = f"{ours['bytes'] / 1e6:.0f} MB, {ours['merges']:,} merges"
    equal = len({run["digest"] for found in runs.values() for run in found}) == 1
    time, peak = (harness.ratio(found["ours"], found["library"]) for found in (seconds, memory))
    rows = []
    for name in runs:
        rows.append(harness.row(f"{what}: {name}", seconds[name], "s"))
        rows.append(harness.row(f"{what}: {name}, all cores together", processor[name], "processor s"))
        rows.append(harness.row(f"{what}: {name}, memory added", memory[name], "MB"))
    rows += [
        harness.ratio_row(f"{what}: time, ours over theirs", time, repeats),
        harness.ratio_row(f"{what}: memory, ours over theirs", peak, repeats),
    ]
    bars = [
        Bar(name="merges equal to theirs", value=float(equal), op=">=", want=1),
        Bar(name="time, ours over theirs", value=time.median, op="<=", want=2),
        Bar(name="memory added, ours over theirs", value=peak.median, op="<=", want=2),
    ]
    return Result(rows=rows, bars=bars)


def pretokens(options: Options) -> Result:
    theirs = LENGTHS[:2] if options.quick else LENGTHS
    rows, growth = [], {}
    for name, lengths in (("ours", LENGTHS), ("library", theirs)):
        repeats = 1 if name == "library" else 3
        seconds = []
        for characters in lengths:
            runs = [side(f"{name}-pretoken", "--characters", str(characters))["seconds"] for _ in range(repeats)]
            rows.append(harness.row(f"one pretoken of {characters:,} characters: {name}", runs, "processor s"))
            seconds.append(min(runs))
        growth[name] = [longer / shorter for shorter, longer in pairwise(seconds)]
        rows.append(harness.row(f"time when a pretoken doubles: {name}", growth[name], "times"))
    bar = Bar(name="time when a pretoken doubles, ours, the most", value=max(growth["ours"]), op="<", want=2.5)
    return Result(rows=rows, bars=[bar])


def overflow(options: Options) -> Result:
    symbols = [WORD.index(byte) for byte in WORD]
    merged = Pairs(symbols, [0, len(WORD)], [b"a", b"b"], weights=[TIMES]).merge(max_merges=1)
    names = "".join("ab"[i] for i in merged.pairs[0])
    theirs = None if options.quick else side("library-overflow", "--repeats", str(TIMES))["merges"]
    rows = [
        {"what": "a pair 2,150,000,000 times: ours learns", "merge": names, "median": float(merged.counts[0])},
        {"what": "a pair 2,150,000,000 times: theirs learns", "merge": "not run" if theirs is None else str(theirs)},
    ]
    return Result(
        rows=rows, bars=[Bar(name="the right merge above 2**31", value=float(names == "ab"), op=">=", want=1)]
    )


def measure(options: Options) -> Result:
    result = Result(versions=harness.versions("tokenizers", "numba", "numpy"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        megabytes = QUICK_MB if options.quick else FULL_MB
        if options.data is None:
            from_environment(Path(folder), megabytes)
        else:
            sample(options.data, Path(folder), megabytes)
        for found in (training(Path(folder), options), pretokens(options), overflow(options)):
            result.rows += found.rows
            result.bars += found.bars
    return result


if __name__ == "__main__":
    harness.main("tokenizer_training", __doc__, measure)
