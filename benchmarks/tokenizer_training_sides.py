"""One trainer of benchmarks/tokenizer_training.py, in a process of its own.

Run as ``python -m benchmarks.tokenizer_training_sides SIDE``:

    ours, library                train on the texts of --data: seconds, memory that training added, digest of the merges
    ours-pretoken, library-pretoken   one merge on one pretoken of --characters: seconds of the processor
    library-overflow             one merge on --repeats times ``ab`` * 500, which is fed as text: the merge

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import time
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.corpora import files_of, texts_of
from penstock.tokenization.bpe import SPECIAL, BPEConfig, pre_tokenizer, train_bpe
from penstock.tokenization.merges import Pairs

LETTERS = "etaoinshrdlu"
REPEATS = 15  # of our one merge, the fastest of which counts: it takes milliseconds


def by_the_library(texts: Iterable[str], vocabulary: int, *, split: bool, alphabet: bool = True) -> dict[str, Any]:
    """Train with ``tokenizers`` as ``train_bpe`` trains; without ``split`` a text is one pretoken."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if split:
        tokenizer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL) if alphabet else [],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    return state


def training(side: str, data: Path, vocabulary: int) -> dict[str, Any]:
    texts = [text for path in files_of(data) for text in texts_of(path)]
    # what is compiled once a machine is not charged
    train_bpe(["warm up, warm up"], BPEConfig(vocabulary_size=270))
    before = psutil.Process().memory_info().rss
    started, used = time.perf_counter(), time.process_time()
    if side == "ours":
        state = json.loads(train_bpe(texts, BPEConfig(vocabulary_size=vocabulary)))
    else:
        state = by_the_library(texts, vocabulary, split=True)
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    merges = [list(merge) for merge in state["model"]["merges"]]
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "added_mb": (peak - before) / 1e6,
        "bytes": sum(len(text.encode()) for text in texts),
        "merges": len(merges),
        "digest": hashlib.sha256(json.dumps(merges).encode()).hexdigest(),
    }


def pretoken(side: str, characters: int) -> dict[str, Any]:
    text = "".join(random.Random(0).choices(LETTERS, k=characters))
    if side == "library-pretoken":
        started = time.process_time()
        by_the_library([text, text], len(LETTERS) + 1, split=False, alphabet=False)
        return {"seconds": time.process_time() - started}
    symbols = np.frombuffer(text.encode(), np.uint8)
    tokens = [bytes([byte]) for byte in range(256)]
    seconds = []
    for _ in range(1 + REPEATS):
        started = time.process_time()
        Pairs(symbols, [0, len(symbols)], tokens, weights=[2]).merge(max_merges=1)
        seconds.append(time.process_time() - started)
    return {"seconds": min(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "library", "ours-pretoken", "library-pretoken", "library-overflow"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--characters", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=4_300_000)
    arguments = parser.parse_args()
    if arguments.side in ("ours", "library"):
        found = training(arguments.side, arguments.data, arguments.vocabulary)
    elif arguments.side == "library-overflow":
        state = by_the_library(repeat("ab" * 500, arguments.repeats), 3, split=False, alphabet=False)
        found = {"merges": ["".join(merge) for merge in state["model"]["merges"]]}
    else:
        found = pretoken(arguments.side, arguments.characters)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
