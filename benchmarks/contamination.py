"""Benchmark items planted in documents: how many are found, after which changes, and what is found where none is.

Items are the ``question`` fields of the files of ``--data``, pages the ``text`` fields. Without questions, passages of
three sentences of every tenth text are the items, and their texts no pages; other texts may then hold them, so nothing
is claimed of clean pages. Each item stands on a line of its own in the middle of a page, as it is or changed. Level 1
is n-grams, both adds near-duplicates. Times are of this process's cores, with the index and the compiled code there.

Price: one process, about 1 GB; three minutes for 16 MB of pages.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.corpora import SEED, files_of, from_environment
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from penstock.seeding import stream
from penstock.selectors.benchmark_index import IndexSettings, Item, save_index
from penstock.selectors.decontaminate import Decontaminate

PLANTED, QUICK_PLANTED = 300, 60
PAGES_MB, QUICK_MB = 16.0, 3.0
_SENTENCE = re.compile(r"[A-Z][^.!?\n]{40,300}[.!?](?=\s|$)")


def material(data: Path, megabytes: float) -> tuple[list[str], list[str], bool]:
    """Items, pages, and whether the items are no part of the pages' source."""
    questions: list[str] = []
    texts: list[str] = []
    size = 0
    for path in files_of(data):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if "question" in record:
                    questions.append(record["question"])
                elif "text" in record and size < megabytes * 1e6 and len(record["text"]) > 1500:
                    texts.append(record["text"])
                    size += len(record["text"])
    if questions:
        return questions, texts, True
    pages = []
    for number, text in enumerate(texts):
        found = _SENTENCE.findall(text)
        if number % 10 == 0 and len(found) >= 3:
            questions.append(" ".join(found[:3]))
        else:
            pages.append(text)
    return questions, pages, False


def changes(others: list[str]) -> dict[str, Callable[[str, int], str]]:
    """What happens to an item before it is planted, by name."""

    def loud(text: str, number: int) -> str:
        return text.upper().replace(" ", " -- ")

    def one_in(every: int) -> Callable[[str, int], str]:
        def change(text: str, number: int) -> str:
            rng = stream(SEED, "change", number)
            own = others[number % len(others)].split()
            words = text.split()
            for place in range(every // 2, len(words), every):
                words[place] = own[int(rng.integers(len(own)))]
            return " ".join(words)

        return change

    return {
        "verbatim": lambda text, number: text,
        "upper case, dashes between words": loud,
        **{f"one word in {every} replaced": one_in(every) for every in (20, 12, 10, 8)},
    }


def screen(work: Decontaminate, texts: list[str]) -> tuple[list[tuple[int, str]], float]:
    """(document, item) of every find, and MB/s."""
    batch = pa.RecordBatch.from_pydict({"doc_id": [str(i) for i in range(len(texts))], "text": texts})
    started = time.process_time()
    found = work.screen(batch, keep="ids").contamination
    speed = batch["text"].nbytes / 1e6 / (time.process_time() - started)
    return [(int(d), i) for d, i in zip(found["doc_id"].to_pylist(), found["item"].to_pylist(), strict=True)], speed


def measure(options: Options) -> Result:
    result = Result(versions=harness.versions("pyarrow", "numpy", "numba"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        data, size = options.data, QUICK_MB if options.quick else PAGES_MB
        if data is None:
            data = Path(folder) / "texts"
            data.mkdir()
            from_environment(data, 2 * size)
        items, pages, apart = material(data, size)
        count = min(QUICK_PLANTED if options.quick else PLANTED, len(items), len(pages))
        if count < 10:
            raise BenchmarkError(f"--data: got {len(items)} items and {len(pages)} pages, allowed 10 of each and more")
        chosen = stream(SEED, "items").permutation(len(items))[:count].tolist()
        index = save_index(folder, [Item("items", str(i), text) for i, text in enumerate(items)], IndexSettings())
        both = Decontaminate(path=index.path, digest=index.digest, policy="report")
        sides = {"level 1": replace(both, near=None), "both": both}
        others = [text for text in items if text.split()]
        for name, work in sides.items():
            work.setup()
            speeds = []
            for _ in range(1 if options.quick else 3):
                found, speed = screen(work, pages)
                speeds.append(speed)
            clean = len({document for document, _ in found})
            result.rows.append(harness.row(f"{name}: clean pages", speeds, "MB/s a core"))
            result.rows.append(
                {"what": f"{name}: found in {len(pages):,} clean pages", "median": clean, "unit": "pages"}
            )
            if apart:
                result.bars.append(Bar(name=f"{name}: clean pages with a find", value=clean, op="<=", want=0))
        for what, change in changes(others[count:] or others).items():
            texts = []
            for number, item in enumerate(chosen):
                page = pages[number]
                middle = page.index(" ", len(page) // 2) if " " in page[len(page) // 2 :] else len(page)
                texts.append(f"{page[:middle]}\n{change(items[item], number)}\n{page[middle:]}")
            shares: dict[str, float] = {}
            for name, work in sides.items():
                hits = set(screen(work, texts)[0])
                shares[name] = float(np.mean([(n, str(item)) in hits for n, item in enumerate(chosen)]))
            row: Row = {"what": f"planted {count}, {what}", "median": shares["both"], "unit": "found"}
            result.rows.append(row | {"level 1": shares["level 1"]})
            if what in ("verbatim", "upper case, dashes between words"):
                result.bars.append(Bar(name=f"{what}: share found", value=shares["level 1"], op=">=", want=1.0))
    return result


if __name__ == "__main__":
    harness.main("contamination", __doc__, measure)
