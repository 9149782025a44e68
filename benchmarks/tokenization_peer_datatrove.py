"""Speed of datatrove's tokenizer step, as a yardstick for penstock's.

Run it with the Python of an environment that holds requirements-datatrove.txt; it imports nothing of penstock:

    python benchmarks/tokenization_peer_datatrove.py --data DIR --tokenizer tokenizer.json --workers 2

Every worker is one rank of ``DocumentTokenizer`` without shuffling, on its share of the documents, which are in memory
before the clock starts; it writes token files into a temporary folder, as the step always does. There is one process a
core, so the threads of ``tokenizers`` are off. The last line printed is JSON: seconds, bytes, tokens, and the digest of
all ids in the order of the documents.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"

WARM = "The quick brown fox jumps over the lazy dog, and then it rests. " * 10
documents: list[Document] = []  # filled before the workers are forked
steps: list[DocumentTokenizer] = []


def start(ready: Barrier, tokenizer: str, folder: str) -> None:
    """Make this worker's step and load its tokenizer, then wait for the others."""
    steps[:] = [DocumentTokenizer(folder, tokenizer, eos_token="<|endoftext|>", shuffle_documents=False)]
    steps[0].tokenizer.encode_batch([WARM])
    ready.wait()


def run(share: tuple[int, int, int]) -> None:
    rank, first, stop = share
    steps[0].run(iter(documents[first:stop]), rank)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .jsonl.gz files with a text field")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    texts = []
    for path in sorted(arguments.data.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
    documents[:] = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    sizes = np.cumsum([len(text) for text in texts])
    edges = [0, *np.searchsorted(sizes, sizes[-1] * np.arange(1, arguments.workers) / arguments.workers), len(texts)]
    shares = [(rank, int(edges[rank]), int(edges[rank + 1])) for rank in range(arguments.workers)]

    context = multiprocessing.get_context("fork")
    ready = context.Barrier(arguments.workers + 1)
    with tempfile.TemporaryDirectory() as folder:
        with context.Pool(arguments.workers, start, (ready, arguments.tokenizer, folder)) as pool:
            ready.wait()
            started = time.perf_counter()
            pool.map(run, shares, chunksize=1)
            seconds = time.perf_counter() - started
        digest, tokens = hashlib.sha256(), 0
        width = steps_width(arguments.tokenizer)
        for path in sorted(Path(folder).glob("*.ds")):
            ids = np.fromfile(path, width)
            digest.update(ids.astype("<u4").tobytes())
            tokens += len(ids)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "bytes": sum(len(text.encode()) for text in texts),
                "tokens": tokens,
                "digest": digest.hexdigest(),
                "versions": {name: importlib.metadata.version(name) for name in ("datatrove", "tokenizers")},
            }
        )
    )


def steps_width(tokenizer: str) -> str:
    """Type of the ids in a token file."""
    return "<u4" if len(json.loads(Path(tokenizer).read_text())["model"]["vocab"]) > 1 << 16 else "<u2"


if __name__ == "__main__":
    main()
