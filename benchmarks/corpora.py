"""Corpora for benchmarks: real text as ``DOMAIN.jsonl.gz`` files with a ``text`` field, and more by recombination.

Price: reading the environment about 4 MB/s (nearly all of it parsing modules); recombining about 150 MB/s.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from benchmarks.harness import BenchmarkError
from penstock.seeding import stream

SEED = 20_260_101
_SENTENCE = re.compile(r"[A-Z][^.!?\n]{30,300}[.!?](?=\s|$)")


def texts_of(path: Path) -> Iterator[str]:
    """The texts of one .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def files_of(data: Path) -> list[Path]:
    found = sorted(data.glob("*.jsonl.gz"))
    if not found:
        raise BenchmarkError(
            f"--data: got {data} without *.jsonl.gz files; give a folder that has them, or leave it out"
        )
    return found


def from_environment(folder: Path, megabytes: float) -> None:
    """Write this Python installation's text, one file a domain, about ``megabytes`` in all."""
    from penstock.sources.environment import EnvironmentSource

    source = EnvironmentSource(max_megabytes=megabytes)
    sinks: dict[str, IO[bytes]] = {}
    with ExitStack() as stack:
        for split in source.plan(8 << 20):
            for rows in source.read(split, dropped="ids"):
                for one in rows.documents.select(["domain", "text"]).to_pylist():
                    domain = one["domain"]
                    if domain not in sinks:
                        opened = stack.enter_context(gzip.open(folder / f"{domain}.jsonl.gz", "wb", compresslevel=3))
                        sinks[domain] = cast(IO[bytes], opened)
                    sinks[domain].write(json.dumps({"text": one["text"]}, ensure_ascii=False).encode() + b"\n")


def sample(data: Path, folder: Path, megabytes: float) -> None:
    """Write the first documents of every file of ``data``: about ``megabytes`` in all, by the sizes of the files."""
    files = files_of(data)
    whole = sum(path.stat().st_size for path in files)
    for path in files:
        share = megabytes * 1e6 * path.stat().st_size / whole
        size = 0
        with gzip.open(folder / path.name, "wt", encoding="utf-8", compresslevel=3) as out:
            for text in texts_of(path):
                size += len(text.encode())
                if size > share:
                    break
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def sentences(data: Path, most: int = 60_000) -> list[bytes]:
    """Distinct sentences of the texts of ``data``, JSON-escaped without quotes: material for ``recombined``."""
    found: dict[bytes, None] = {}
    for path in files_of(data):
        here = 0
        for text in texts_of(path):
            for sentence in _SENTENCE.findall(text):
                found[json.dumps(" ".join(sentence.split()), ensure_ascii=False)[1:-1].encode()] = None
                here += 1
            if here > most:
                break
    if len(found) < 1000:
        raise BenchmarkError(
            f"{data}: got {len(found)} sentences, allowed 1000 and more; give a folder with more prose"
        )
    return list(found)


def recombined(parts: list[bytes], file: IO[bytes], size: int, *path: int | str) -> int:
    """Write JSON lines until the texts hold ``size`` bytes, and return how many they hold.

    Documents are 8 to 80 sentences drawn by the stream of (SEED, path). One in 50 repeats the one before it, one in
    500 is a hundred times longer.
    """
    rng = stream(SEED, "recombined", *path)
    written = number = 0
    last = b""
    while written < size:
        counts = rng.integers(8, 81, 1000)
        picks = rng.integers(0, len(parts), int(counts.sum()))
        at = 0
        for count in counts.tolist():
            number += 1
            if number % 50 or not last:
                body = b" ".join([parts[i] for i in picks[at : at + count].tolist()])
                if number % 500 == 0:
                    body = b"\\n".join(
                        [b" ".join([parts[i] for i in some]) for some in rng.integers(0, len(parts), (100, count))]
                    )
                last = body
            at += count
            file.write(b'{"text": "' + last + b'"}\n')
            written += len(last)
            if written >= size:
                break
    return written


def large(folder: Path, parts: list[bytes], size: int) -> int:
    """``size`` bytes of text: half in one plain file, the rest in gzip and zstd files of a sixteenth each."""
    import zstandard

    written = 0
    with (folder / "plain.jsonl").open("wb", buffering=1 << 20) as plain:
        written += recombined(parts, plain, size // 2, "plain")
    for number in range(4):
        with gzip.open(folder / f"gzip-{number}.jsonl.gz", "wb", compresslevel=1) as zipped:
            written += recombined(parts, cast(IO[bytes], zipped), size // 16, "gzip", number)
        with zstandard.open(folder / f"zstd-{number}.jsonl.zst", "wb") as squeezed:
            written += recombined(parts, squeezed, size // 16, "zstd", number)
    return written
