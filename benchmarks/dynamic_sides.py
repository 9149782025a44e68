"""Sides of benchmarks/dynamic.py; each prints one line of JSON.

python -m benchmarks.dynamic_sides merges --rows 512 --merges 4000 --repeats 2 [--data DIR]
python -m benchmarks.dynamic_sides languages --merges 4000 --data DIR
python -m benchmarks.dynamic_sides index --entries 1000000 --width 256
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import SEED
from benchmarks.dynamic_quality_data import LANGUAGES, ntrex
from penstock.seeding import stream
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.recount import recount_merges
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary

VOCABULARY = 8192  # of the base where no tokenizer comes with the data


def material(data: Path | None, language: str = "en") -> tuple[BaseVocabulary, list[str]]:
    """A base tokenizer and sentences."""
    if data is not None:
        path = data / "tokenizers" / "gpt2_tokenizer.json"
        return BaseVocabulary.load(str(path)), [record[language] for record in ntrex(data)]
    from penstock.tokenization.bpe import BPEConfig, train_bpe
    from penstock.tokenization.loading import of_bytes

    folder = Path(json.__file__).parent.parent
    texts = [path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.py"))]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.count(" ") > 12]
    made = train_bpe(texts[:60], BPEConfig(vocabulary_size=VOCABULARY))
    return BaseVocabulary(of_bytes(made, "own")), lines


def merges(arguments: argparse.Namespace) -> dict[str, Any]:
    base, texts = material(arguments.data)
    tokenizer = DynamicTokenizer(base, minimum=1)
    ids, offsets = base.encode(texts[: arguments.rows])
    tokenizer.merge(ids, offsets, 2)  # compiles
    whole = tokenizer.merge(ids, offsets, 0)
    starts = [*np.flatnonzero(tokenizer.unit_starts_of(ids, offsets)).tolist(), len(ids)]
    units = [[base.tokens[i] for i in ids[low:high].tolist()] for low, high in pairwise(starts)]
    ours, theirs, identical = [], [], True
    for _ in range(arguments.repeats):
        began = time.process_time()
        batch = tokenizer.merge(ids, offsets, arguments.merges)
        ours.append(time.process_time() - began)
        began = time.process_time()
        rows, made = recount_merges(units, arguments.merges)
        theirs.append(time.process_time() - began)
        tokens = [token for row in range(len(batch)) for token in tokenizer.row_tokens(batch, row)]
        identical &= list(batch.merges) == [one.pair for one in made] and tokens == [t for unit in rows for t in unit]
    return {
        "tokens": len(whole.ids),
        "merges": len(batch.merges),
        "identical": identical,
        "ours": ours,
        "recount": theirs,
    }


def languages(arguments: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for language in LANGUAGES:
        base, texts = material(arguments.data, language)
        tokenizer = DynamicTokenizer(base, minimum=1)
        ids, offsets = base.encode(texts[:512])
        tokenizer.merge(ids, offsets, 2)
        began = time.process_time()
        batch = tokenizer.merge(ids, offsets, arguments.merges)
        found[language] = {
            "seconds": time.process_time() - began,
            "merges": len(batch.merges),
            "tokens": len(ids),
        }
    return {"languages": found}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # MB


def index(arguments: argparse.Namespace) -> dict[str, Any]:
    import faiss

    from penstock.tokenization.dynamic.output_index import OutputIndex

    faiss.omp_set_num_threads(1)
    rng = stream(SEED, "index")
    n, width, k = arguments.entries, arguments.width, 20
    before = peak()
    centres = rng.standard_normal((2000, width), np.float32)
    rows = np.empty((n, width), np.float16)
    for start in range(0, n, 50_000):
        stop = min(n, start + 50_000)
        some = centres[rng.integers(0, len(centres), stop - start)]
        some += 1.5 * rng.standard_normal((stop - start, width), np.float32)
        # norms differ, as those of output rows do
        some *= rng.uniform(0.7, 1.3, (stop - start, 1)).astype(np.float32)
        rows[start:stop] = some / width**0.5
    began = time.perf_counter()
    made = OutputIndex(rows)
    built = time.perf_counter() - began
    states = rows[rng.integers(0, n, 256)].astype(np.float32)
    states += 0.5 / width**0.5 * rng.standard_normal(states.shape, np.float32)
    searches, exact = [], []
    for number in range(8):
        some = states[32 * number : 32 * (number + 1)]
        began = time.perf_counter()
        made.search(some, k)
        searches.append(1e3 * (time.perf_counter() - began))
    began = time.perf_counter()
    made.exact(states[:32], k)
    exact.append(1e3 * (time.perf_counter() - began))
    above = peak() - before
    return {
        "build": built,
        "rows_mb": rows.nbytes / 1e6,
        "index_mb": made.index_bytes / 1e6,
        "peak_mb": above,
        "recall": made.recall(states, k),
        "search_ms": searches,
        "exact_ms": exact,
    }


def main() -> None:
    command = argparse.ArgumentParser()
    command.add_argument("mode", choices=("merges", "languages", "index"))
    command.add_argument("--data", type=Path)
    for name in ("rows", "merges", "repeats", "entries", "width"):
        command.add_argument(f"--{name}", type=int)
    arguments = command.parse_args()
    work = {"merges": merges, "languages": languages, "index": index}[arguments.mode]
    print(json.dumps(work(arguments)))


if __name__ == "__main__":
    main()
