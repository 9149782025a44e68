"""Encoding text with a trained tokenizer: ``Encode`` beside ``tokenizers`` itself and datatrove's step; memory.

    speed     the same texts in memory on all cores: ``Encode`` in one process a core, ``encode_batch`` with its
              threads, datatrove's ``DocumentTokenizer`` in one process a core. Ids must be those of ``encode_batch``
    memory    one process of ``Encode`` over 1 GB of text (100 MB in a quick run): the most that is resident in the
              whole over the most in the first tenth

The tokenizer is trained on the corpus first: 32,768 tokens, 8,192 in a quick run. ``--data`` is a folder of *.jsonl.gz
files; without it the corpus is this Python installation's own text. ``--quick`` takes less of either.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.corpora import files_of, from_environment, sample, texts_of
from benchmarks.harness import Bar, Options, Result
from penstock.tokenization.bpe import BPEConfig, train_bpe

FULL_MB, QUICK_MB = 40, 4


def side(name: str, *arguments: str) -> dict[str, Any]:
    return harness.run_json([sys.executable, "-m", "benchmarks.tokenization_sides", name, *arguments])


def speed(arguments: tuple[str, ...], python: Path | None, repeats: int) -> Result:
    workers = ("--workers", str(harness.machine()["cores"]))
    sides = {
        "Encode": partial(side, "encode", *arguments, *workers),
        "encode_batch": partial(side, "library", *arguments),
    }
    if python is not None:
        script = str(harness.ROOT / "benchmarks" / "tokenization_peer_datatrove.py")
        sides["datatrove"] = partial(harness.run_json, [str(python), script, *arguments, *workers])
    runs = harness.alternate(sides, repeats)
    rates = {name: [run["bytes"] / 1e6 / run["seconds"] for run in found] for name, found in runs.items()}
    digests = {name: {run["digest"] for run in found} for name, found in runs.items()}
    rows = [
        harness.row(
            name, rates[name], "MB/s", tokens=runs[name][0]["tokens"], same_ids=digests[name] == digests["Encode"]
        )
        for name in runs
    ]
    bars = [
        Bar(
            name="ids of Encode equal to those of encode_batch",
            value=float(digests["Encode"] == digests["encode_batch"]),
            op=">=",
            want=1,
        )
    ]
    for other, want in (("encode_batch", 0.95), ("datatrove", 2.0)):
        found = harness.ratio(rates["Encode"], rates[other]) if other in rates else None
        bars.append(Bar(name=f"Encode over {other}, times", value=found and found.median, op=">=", want=want))
        rows += [harness.ratio_row(f"Encode over {other}", found, repeats)] if found else []
    versions = {f"datatrove's {n}": v for n, v in runs["datatrove"][0]["versions"].items()} if python else {}
    return Result(rows=rows, bars=bars, versions=versions)


def memory(arguments: tuple[str, ...], megabytes: int) -> Result:
    found = side("memory", *arguments, "--megabytes", str(megabytes))
    growth = found["late"] / found["early"]
    rows = [
        {"what": f"resident over {megabytes:,} MB, most in the first tenth", "median": found["early"], "unit": "MB"},
        {"what": f"resident over {megabytes:,} MB, most", "median": found["late"], "unit": "MB"},
    ]
    return Result(rows=rows, bars=[Bar(name="memory, all over the first tenth", value=growth, op="<=", want=1.1)])


def measure(options: Options) -> Result:
    python = harness.peer("datatrove", quick=options.quick)
    result = Result(versions=harness.versions("tokenizers", "pyarrow", "numba"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        megabytes = QUICK_MB if options.quick else FULL_MB
        if options.data is None:
            from_environment(folder, megabytes)
        else:
            sample(options.data, folder, megabytes)
        tokenizer = folder / "tokenizer.json"
        texts = (text for path in files_of(folder) for text in texts_of(path))
        tokenizer.write_bytes(train_bpe(texts, BPEConfig(vocabulary_size=8_192 if options.quick else 32_768)))
        arguments = ("--data", str(folder), "--tokenizer", str(tokenizer))
        for found in (
            speed(arguments, python, 1 if options.quick else 3),
            memory(arguments, 100 if options.quick else 1000),
        ):
            result.rows += found.rows
            result.bars += found.bars
            result.versions |= found.versions
    return result


if __name__ == "__main__":
    harness.main("tokenization", __doc__, measure)
