"""A nightly build: 1 % more input since yesterday, against a full build of the same input.

The corpus is 100 files of recombined sentences of real text (``--data``, by default this Python installation) and a
101st that comes in the night; one document in 50 repeats another. Three builds, each the command a user types:

    yesterday   penstock build            100 files, from nothing
    full        penstock build            101 files, from nothing, with yesterday's tokenizer
    nightly     penstock build --since    101 files

The rows of nightly and full must be the same (digest of every step), or the benchmark stops. The bar is on wall time,
start-up included; processor time of all processes stands beside it, which other work on the machine disturbs less.
On the smaller corpus files are removed and changed in the same way.

An installed package is compiled, so the builds may keep what Python compiles.

Price: about 10 bytes of free disk a byte of text; most of the time is the full builds.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness
from benchmarks.corpora import from_environment, recombined, sentences

FILES = 100
# some 4 s of a nightly build are processes that start and load; what they weigh is seen from two sizes
FULL_MB = (600, 5_000)
QUICK_MB = (20,)
MATERIAL_MB = 24
WORKERS = 2
SPLIT_MB = 4  # of 600 MB as 32 MB are of a few gigabytes; so is the size of a shard
STEPS = ("documents", "deduplicated", "scored", "dataset-1")

RECIPE = """
name: nightly
seed: 1
source:
  files: [{{path: '{corpus}/*.jsonl'}}]
filters: {{gopher_quality: {{}}, gopher_repetition: {{}}, language: {{languages: [en], min_confidence: 0.2}}}}
deduplicate: {{near: {{}}}}
tokenizer: {{vocabulary_size: 4096, sample_mb: 8}}
select: null
shard_mb: {shard_mb}
"""


class Seconds(NamedTuple):
    """What a build took: on the clock, and of the processor in all its processes."""

    clock: float
    processor: float


def build(recipe: Path, out: Path, *options: str) -> Seconds:
    """Run a build and give its seconds."""
    command = [sys.executable, "-m", "penstock", "build", str(recipe), "--out", str(out)]
    command += ["--workers", str(WORKERS), "--split-mb", str(SPLIT_MB)]
    started, used = time.perf_counter(), processor_seconds()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [*command, *options], cwd=harness.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise harness.BenchmarkError(f"penstock build: exit code {done.returncode}: {said[-1] if said else ''}")
    return Seconds(time.perf_counter() - started, processor_seconds() - used)


def processor_seconds() -> float:
    """Of all child processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def full_with_tokenizer_of(earlier: Path, recipe: Path, out: Path) -> Seconds:
    """A build of everything that goes on with an earlier run's tokenizer, and no part of it."""
    fitted = out.with_name(out.name + "-fitted")
    fitted.mkdir()
    shutil.copytree(earlier / "tokenizer", fitted / "tokenizer")
    shutil.copy(earlier / "run.json", fitted)
    return build(recipe, out, "--since", str(fitted))


def digests(out: Path) -> dict[str, str]:
    from penstock.dataset import Dataset

    return {step: Dataset(str(out / step)).digest for step in STEPS}


def same_rows(one: Path, two: Path) -> None:
    """Raise BenchmarkError unless both builds made the same rows."""
    a, b = digests(one), digests(two)
    other = [step for step in STEPS if a[step] != b[step]]
    if other:
        raise harness.BenchmarkError(f"{', '.join(other)}: the incremental build's rows are not the full build's")


def measure(options: harness.Options) -> harness.Result:
    rows: list[dict[str, object]] = []
    bars = []
    for megabytes in QUICK_MB if options.quick else FULL_MB:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
            found = nightly(Path(scratch), megabytes, options, only_more=megabytes == FULL_MB[-1])
        rows += found
        bars.append(
            harness.Bar(
                name=f"share of a full build's time, +1 % of {megabytes:,} MB of text",
                value=float(str(found[1]["share"])),
                op="<=",
                want=0.05,
            )
        )
    return harness.Result(rows=rows, bars=bars, versions=harness.versions("pyarrow", "numpy", "tokenizers"))


def nightly(folder: Path, megabytes: int, options: harness.Options, *, only_more: bool) -> list[dict[str, object]]:
    """The rows of one size: the first build, then one for each change of the night."""
    corpus, material = folder / "corpus", options.data
    corpus.mkdir()
    if material is None:
        material = folder / "material"
        material.mkdir()
        from_environment(material, 6 if options.quick else MATERIAL_MB)
    parts = sentences(material)
    for number in range(FILES):
        with (corpus / f"day-{number:03d}.jsonl").open("wb", buffering=1 << 20) as file:
            recombined(parts, file, megabytes * 1_000_000 // FILES, "day", number)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(corpus=corpus, shard_mb=megabytes / 60))

    first = build(recipe, folder / "yesterday")
    size = f"{megabytes:,} MB"
    rows: list[dict[str, object]] = [
        {
            "corpus": size,
            "what": f"{FILES} files from nothing",
            "seconds": first.clock,
            "of processor": first.processor,
        }
    ]
    changes = {
        "one file more": lambda: _add(corpus, parts, megabytes),
        "one file less": lambda: (corpus / "day-040.jsonl").unlink(),
        "one file changed": lambda: _change(corpus / "day-070.jsonl"),
    }
    earlier = folder / "yesterday"
    for what, change in list(changes.items())[: 1 if only_more else None]:
        change()
        name = what.replace(" ", "-")
        increment = build(recipe, folder / name, "--since", str(earlier))
        full = full_with_tokenizer_of(earlier, recipe, folder / f"{name}-full")
        same_rows(folder / name, folder / f"{name}-full")
        rows.append(
            {
                "corpus": size,
                "what": what,
                "seconds": increment.clock,
                "of processor": increment.processor,
                "full build": full.clock,
                "full, of processor": full.processor,
                "share": increment.clock / full.clock,
                "share of processor": increment.processor / full.processor,
            }
        )
        shutil.rmtree(folder / f"{name}-full")
        earlier = folder / name
    return rows


def _add(corpus: Path, parts: list[bytes], megabytes: int) -> None:
    with (corpus / f"day-{FILES:03d}.jsonl").open("wb", buffering=1 << 20) as file:
        recombined(parts, file, megabytes * 1_000_000 // FILES, "day", FILES)


def _change(path: Path) -> None:
    """Take the last quarter of a file's lines away."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) * 3 // 4]))


if __name__ == "__main__":
    harness.main("incremental", __doc__, measure)
