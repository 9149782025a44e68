"""Exact next bytes: what streaming asks of the language model, what it costs, and bytes a second against genlm-bytes.

    streaming   a text read byte by byte, the 257 probabilities taken at each: forward passes and token positions a
                byte (without those of the prompt)
    overhead    seconds a byte over those of a bare token step of the same model: keys and values kept, one token, its
                logits; in turn
    batch       the same for 16 rows at once, and what a prompt costs in one pass over its tree
    genlm-bytes the same text through its beam, K = 1 and K = 5, with the defaults of its code (nothing pruned but by K,
                a query waits 20 ms for others to batch with). With its README's threshold of 0.05 and no waiting
                it is several times faster, which has a row and no bar. It sums over all segmentations in the beam,
                another quantity; here only the time is compared

The model is a Llama of 4 layers and width 256 with random weights, as the time does not depend on them; one thread. The
tokenizer is GPT-2's and the text a book's with ``--data``; without it a tokenizer of GPT-2's pattern is trained on the
standard library's code, and the text is code. ``--quick`` reads fewer bytes and leaves genlm-bytes out where it is not
installed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result

ONE_THREAD = ("env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "TOKENIZERS_PARALLELISM=false")
TIMES = 8.0  # bytes a second of ours over genlm-bytes'


def side(mode: str, folder: Path, **values: Any) -> dict[str, Any]:
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return harness.run_json(
        [*ONE_THREAD, sys.executable, "-m", "benchmarks.bytelevel_sides", mode, "--folder", str(folder), *words]
    )


def peer(python: Path, folder: Path, **values: Any) -> dict[str, Any]:
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return harness.run_json(
        [*ONE_THREAD, str(python), "benchmarks/bytelevel_peers.py", "--folder", str(folder), *words]
    )


def measure(options: Options) -> Result:
    repeats, size = (1, 100) if options.quick else (2, 400)
    slow = 30 if options.quick else 60  # bytes that the peer reads
    python = harness.peer("bytelevel", quick=options.quick)
    rows: list[harness.Row] = []
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory(prefix="penstock-bytelevel-") as scratch:
        folder = Path(scratch)
        given = [] if options.data is None else ["--data", str(options.data)]
        made = harness.run_json(
            [*ONE_THREAD, sys.executable, "-m", "benchmarks.bytelevel_sides", "make", "--folder", scratch, *given]
        )
        sides: dict[str, Any] = {
            "ours": lambda: side("stream", folder, bytes=size),
            "bare": lambda: side("bare", folder, bytes=size),
        }
        if python is not None:
            for width in (1, 5):
                sides[f"K = {width}"] = lambda width=width: peer(python, folder, bytes=slow, beam=width)
                sides[f"K = {width}, pruned, not waiting"] = lambda width=width: peer(
                    python, folder, bytes=slow, beam=width, timeout=0, threshold=0.05
                )
        found = harness.alternate(sides, repeats)
        batch = side("batch", folder, bytes=size // 4)

    ours, bare = found["ours"], found["bare"]
    what = f"{made['tokens']:,} tokens"
    rows += [
        harness.row(f"bytes a second, streaming, {what}", [run["speed"] for run in ours], "bytes/s"),
        harness.row("bare token steps a second", [run["speed"] for run in bare], "steps/s"),
        harness.row("forward passes a byte", [run["passes"] for run in ours], "passes"),
        harness.row("token positions a byte", [run["positions"] for run in ours], "positions"),
        harness.row("seconds to prepare the tokenizer", [run["prepare"] for run in ours], "s"),
    ]
    overhead = harness.ratio([run["speed"] for run in bare], [run["speed"] for run in ours])
    rows.append(harness.ratio_row("time a byte over a bare token step", overhead, repeats))
    rows.append(harness.row("bytes a second, 16 rows at once", [batch["speed"]], "bytes/s"))
    rows.append(harness.row("bytes a second of a prompt, read in one pass", [batch["prompt"]], "bytes/s"))
    bars.append(Bar(name="forward passes a byte, streaming", value=ours[0]["passes"], op="<=", want=1.0))
    for width in (1, 5):
        value: float | None = None
        for name in (f"K = {width}", f"K = {width}, pruned, not waiting") if python is not None else ():
            runs = found[name]
            rows.append(harness.row(f"genlm-bytes, {name}", [run["speed"] for run in runs], "bytes/s"))
            against = harness.ratio([run["speed"] for run in ours], [run["speed"] for run in runs])
            rows.append(harness.ratio_row(f"ours over genlm-bytes, {name}", against, repeats))
            value = value or against.median  # the bar is for it as it comes
        bars.append(Bar(name=f"bytes a second over genlm-bytes, K = {width}", value=value, op=">=", want=TIMES))
    versions = harness.versions("torch", "transformers", "tokenizers", "numba")
    if python is not None:
        versions |= {f"peer {name}": version for name, version in found["K = 1"][0]["versions"].items()}
    versions["tokenizer"] = made["name"]
    return Result(rows=rows, bars=bars, versions=versions)


if __name__ == "__main__":
    harness.main("bytelevel", __doc__, measure)
