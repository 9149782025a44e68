"""Text without a vocabulary: speed of the byte language model, entropy patches and Equal-Info windows, and their sizes.

A byte model learns from 90 % of the documents and the rest is cut: this Python installation's text, or files of
``--data``. Bytes a token say what the windows save against bytes; a bar holds each way of cutting to giving the text
back. One core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import corpora, harness
from penstock.tokenization.patches.byte_lm import entropies, train_byte_lm
from penstock.tokenization.patches.entropy import PatchRule, segment, threshold_for
from penstock.tokenization.patches.equal_info import decode_windows, encode_windows
from penstock.tokenization.patches.words import word_patches

PATCH_SIZE = 4.5


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """What it returns, and seconds of each run after one that compiles."""
    found = work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return found, seconds


def measure(options: harness.Options) -> harness.Result:
    megabytes, repeats = (2.0, 1) if options.quick else (12.0, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data is None:
            corpora.from_environment(folder, megabytes)
        else:
            corpora.sample(options.data, folder, megabytes)
        texts = [text for path in corpora.files_of(folder) for text in corpora.texts_of(path)]
    order = np.random.default_rng(0).permutation(len(texts))
    held = len(texts) // 10
    learned, cut = [texts[i] for i in order[held:]], pa.array([texts[i] for i in order[:held]])
    ids = [str(i) for i in range(len(cut))]
    raw = [text.encode() for text in cut.to_pylist()]
    size = sum(map(len, raw))
    trained = sum(len(text.encode()) for text in learned)

    rows: list[harness.Row] = []

    def speed(what: str, seconds: list[float], amount: int, **more: float) -> None:
        rows.append(harness.row(what, [amount / 1e6 / one for one in seconds], "MB/s", **more))

    started = time.perf_counter()
    model = train_byte_lm(learned, order=5)
    speed("train, order 5", [time.perf_counter() - started], trained, n_grams=float(len(model.counts)))
    nats, seconds = timed(lambda: entropies(model, cut), repeats)
    speed("entropies", seconds, size, bits_per_byte=float(nats.mean() / np.log(2)))
    tiled = []
    rule = PatchRule(rule="global", threshold=threshold_for("global", nats, PATCH_SIZE))
    for what, work in (
        ("patches by entropy, global", lambda: segment(rule, ids, cut, model)),
        ("patches by space", lambda: segment(PatchRule(rule="space"), ids, cut)),
        ("words", lambda: word_patches(ids, cut)),
    ):
        batch, seconds = timed(work, repeats)
        lengths = batch["patch_lengths"]
        tiled.append([sum(one) for one in lengths.to_pylist()] == list(map(len, raw)))
        speed(what, seconds, size, bytes_per_patch=size / len(lengths.flatten()))
    restored = []
    for bits in (16, 24):
        windows, seconds = timed(lambda bits=bits: encode_windows(model, cut, bits), repeats)
        of_window = size / len(windows.codes)
        tokens = {"bytes_per_token_256": of_window / (bits // 8)} | (
            {"bytes_per_token_64k": of_window} if bits == 16 else {}
        )
        speed(f"Equal-Info windows of {bits} bits", seconds, size, bytes_per_patch=of_window, **tokens)
        back, seconds = timed(lambda bits=bits, windows=windows: decode_windows(model, windows, bits), repeats)
        speed(f"decoded, {bits} bits", seconds, size)
        restored.append(back == raw)
    bars = [
        harness.Bar(
            name="share of the ways to cut whose patches tile every text",
            value=float(np.mean(tiled)),
            op=">=",
            want=1.0,
        ),
        harness.Bar(
            name="share of the codes that decode to the text", value=float(np.mean(restored)), op=">=", want=1.0
        ),
    ]
    return harness.Result(rows=rows, bars=bars, versions=harness.versions("numba", "numpy", "pyarrow"))


if __name__ == "__main__":
    harness.main("patches", __doc__, measure)
