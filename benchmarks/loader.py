"""The mixture loader against bare NumPy, MosaicML Streaming and HF ``interleave_datasets``.

Eight domains of unequal weight, sequences of 2,048 tokens of uint16, batches of 8, one process without workers; all
files are in the page cache.

    speed     tokens a second. Bare NumPy copies the same rows, which it knows beforehand, out of one ``np.memmap`` a
              domain into a new array; plain arrays over the mapped memory, and one fancy index into a single array in
              memory, are beside it as limits that no loader with domains reaches
    resume    from a state at sequence 10 million to the next batch, in a process that has read before. A state of HF's
              has to be reached by reading, so its own is of sequence 40,000
    memory    of a process that has read for some seconds: what belongs to no file, libraries included

``--data`` is not used: the tokens are made up. ``--quick`` takes fewer rows and repeats.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result

FULL_ROWS, QUICK_ROWS = 8000, 500  # of each domain
AT, HF_AT = 10_000_000, 40_000
LIMITS = {"views": "bare arrays over mapped files", "whole": "bare fancy index into one array"}
PEERS = {
    "streaming": "MosaicML Streaming",
    "hf-iterable": "HF interleave_datasets, iterable",
    "hf-map": "HF interleave_datasets, indexed",
}


def side(data: Path, mode: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.loader_sides", mode, "--data", str(data), *options]
    return harness.run_json(command)


def peer(python: Path, data: Path, library: str, mode: str, *options: str) -> dict[str, Any]:
    script = str(harness.ROOT / "benchmarks" / "loader_peers.py")
    return harness.run_json([str(python), script, mode, "--library", library, "--data", str(data), *options])


def per_second(runs: list[dict[str, Any]]) -> list[float]:
    return [run["tokens"] / run["seconds"] for run in runs]


def measure(options: Options) -> Result:
    streaming = harness.peer("streaming", quick=options.quick)
    pythons = {"streaming": streaming, "hf-iterable": Path(sys.executable), "hf-map": Path(sys.executable)}
    repeats = 1 if options.quick else 5
    seconds = "0.5" if options.quick else "2"
    found = Result(versions=harness.versions("pyarrow", "numpy", "numba"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        data = Path(scratch) / "data"
        side(data, "write", "--rows", str(QUICK_ROWS if options.quick else FULL_ROWS))
        folders = {"streaming": data / "streaming", "hf-iterable": data / "hf", "hf-map": data / "hf"}
        written = {"streaming": streaming, "hf-map": Path(sys.executable)}
        for library, python in written.items():
            if python is not None:
                peer(python, data / "bin", library, "write", "--out", str(folders[library]))
        sides = {mode: partial(side, data, mode, "--seconds", seconds) for mode in ("loader", "memmap", *LIMITS)}
        sides["stream"] = partial(side, data, "stream", "--seconds", seconds)
        for library, python in pythons.items():
            if python is not None:
                sides[library] = partial(peer, python, folders[library], library, "speed", "--seconds", seconds)
        # ours stands beside each of the others
        runs = harness.alternate(sides, repeats)
        names = {"loader": "penstock", "stream": "penstock, gathered ahead by a thread", "memmap": "bare memmap"}
        names |= LIMITS | PEERS
        for mode, of_side in runs.items():
            memory = [run["anonymous_mb"] for run in of_side]
            found.rows.append(
                harness.row(f"{names[mode]}: speed", [v / 1e6 for v in per_second(of_side)], "M tokens/s")
            )
            found.rows.append(harness.row(f"{names[mode]}: memory", memory, "MB"))
            for run in of_side:
                found.versions |= run.get("versions", {})
        for mode in runs:
            if mode != "loader":
                ratio = harness.ratio(per_second(runs["loader"]), per_second(runs[mode]))
                found.rows.append(harness.ratio_row(f"penstock over {names[mode]}", ratio, repeats))
        for mode, want in {"memmap": 0.7, "streaming": 10.0, "hf-iterable": 10.0, "hf-map": 10.0}.items():
            ratio = harness.ratio(per_second(runs["loader"]), per_second(runs[mode])) if mode in runs else None
            bar = f"tokens a second over {names[mode]}, times"
            found.bars.append(Bar(name=bar, value=ratio.median if ratio else None, op=">=", want=want))

        resumed = [side(data, "resume", "--at", str(AT))["seconds"] * 1000 for _ in range(repeats)]
        row = harness.row(f"penstock: resume at sequence {AT:,}", resumed, "ms")
        found.rows.append(row)
        found.bars.append(Bar(name=f"resume at sequence {AT:,}, ms", value=row["median"], op="<", want=50.0))
        # a quick run leaves these out: they take minutes
        theirs = [] if options.quick else [("streaming", streaming, AT), ("hf-iterable", Path(sys.executable), HF_AT)]
        for library, python, at in theirs:
            assert python is not None
            run = peer(python, folders[library], library, "resume", "--at", str(at))
            found.rows.append(
                harness.row(f"{PEERS[library]}: resume at sequence {at:,}", [run["seconds"] * 1000], "ms")
            )
    return found


if __name__ == "__main__":
    harness.main("loader", __doc__, measure)
