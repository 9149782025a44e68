"""MinHash of datatrove and of datasketch, as a yardstick for penstock's: 5-grams of words, 14 bands of 8 rows.

Run it with the Python of an environment that holds requirements-dedup.txt; it imports nothing of penstock:

    python benchmarks/dedup_peers.py speed  --library datatrove --words default --data DIR
    python benchmarks/dedup_peers.py recall --library datasketch --pairs pairs.jsonl

Texts are in memory before the clock starts, and one process works on them. datatrove runs its stage 1 with its own
writing and sorting of signatures; ``--words whitespace`` takes its tokenizer away, which is its best case. datasketch
gets words by a regular expression, sets of 5-grams, xxhash and one ``update_batch`` a document. The last line printed
is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BANDS, ROWS, NGRAM = 14, 8, 5
Signature = list[Any]  # one value a band


class Whitespace:
    """datatrove's interface of a tokenizer."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def datatrove_step(folder: str, words: str) -> Any:
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    step = MinhashDedupSignature(folder, MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS))
    if words == "whitespace":
        step.word_tokenizer = Whitespace()
    step.get_shingles("a sentence of seven words or so")  # loads the tokenizer
    return step


def datasketch_values(text: str) -> Any:
    import xxhash
    from datasketch import MinHash

    words = re.findall(r"\w+", text.lower())
    shingles = {" ".join(words[i : i + NGRAM]).encode() for i in range(len(words) - NGRAM + 1)}
    sketch = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=xxhash.xxh32_intdigest)
    sketch.update_batch(list(shingles))
    return sketch.hashvalues


def signer(library: str, words: str) -> Callable[[str], Signature]:
    """A function from a text to the values of its bands."""
    if library == "datatrove":
        step = datatrove_step(tempfile.mkdtemp(), words)
        return lambda text: [tuple(band) for band in step.get_signature(step.get_shingles(text))]

    def sign(text: str) -> Signature:
        values = datasketch_values(text)
        return [tuple(values[i : i + ROWS].tolist()) for i in range(0, BANDS * ROWS, ROWS)]

    return sign


def recall(library: str, words: str, path: Path) -> dict[str, Any]:
    sign = signer(library, words)
    found: dict[str, list[int]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            pair = json.loads(line)
            hit = any(a == b for a, b in zip(sign(pair["one"]), sign(pair["two"]), strict=True))
            counts = found.setdefault(str(pair["jaccard"]), [0, 0])
            counts[0] += hit
            counts[1] += 1
    return {"hits": found}


def speed(library: str, words: str, data: Path) -> dict[str, Any]:
    texts = []
    for path in sorted(data.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    if library == "datatrove":
        from datatrove.data import Document

        with tempfile.TemporaryDirectory() as folder:
            step = datatrove_step(folder, words)
            documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
            started = time.perf_counter()
            step.run(documents, 0, 1)
            seconds = time.perf_counter() - started
    else:
        datasketch_values(texts[0])
        started = time.perf_counter()
        for text in texts:
            datasketch_values(text)
        seconds = time.perf_counter() - started
    size = sum(len(text.encode()) for text in texts)
    return {"documents": len(texts), "bytes": size, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["speed", "recall"])
    parser.add_argument("--library", choices=["datatrove", "datasketch"], required=True)
    parser.add_argument("--words", choices=["default", "whitespace"], default="default")
    parser.add_argument("--data", type=Path, help="folder of .jsonl.gz files with a text field")
    parser.add_argument("--pairs", type=Path, help="JSON lines of one, two and jaccard")
    given = parser.parse_args()
    if (given.data if given.mode == "speed" else given.pairs) is None:
        parser.error(f"{given.mode}: give {'--data' if given.mode == 'speed' else '--pairs'}")
    run = speed if given.mode == "speed" else recall
    found = run(given.library, given.words, given.data if given.mode == "speed" else given.pairs)
    print(json.dumps(found | {"versions": {given.library: importlib.metadata.version(given.library)}}))


if __name__ == "__main__":
    main()
