"""Mixtures recovered from the merges of tokenizers that were trained on them: mean absolute error in points of bytes.

Tokenizers are trained by us on mixtures that are known to the byte; shares come from other sentences of the same
languages. Three kinds of mixture and several seeds: drawn evenly from the simplex, one language with 60 %, and equal
shares. Beside each error stands that of guessing equal shares. With ``--data`` the folder holds ntrex_xnli15.jsonl.gz
(one sentence in 15 languages a record); without it languages are made up: a lexicon each, an alphabet for every two,
words drawn by rank.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np

from benchmarks import harness
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.loading import of_bytes
from penstock.tokenization.mixture_inference import infer_mixture

FILE = "ntrex_xnli15.jsonl.gz"
FEW = ("en", "de", "zh", "ru", "hi", "tr")
NOT_TEXT = ("id", "doc")
KINDS = ("drawn", "one large", "equal")


def sentences(folder: Path | None, seed: int) -> dict[str, list[str]]:
    """Sentences by language."""
    if folder is None:
        return made_up(seed)
    path = folder / FILE
    if not path.is_file():
        raise harness.BenchmarkError(f"--data: {folder} has no {FILE}; name the folder that has it, or leave it out")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return {name: [record[name] for record in records] for name in records[0] if name not in NOT_TEXT}


def made_up(seed: int, languages: int = 6, count: int = 2000) -> dict[str, list[str]]:
    """Sentences of languages that there are not."""
    rng = np.random.default_rng(seed)
    out = {}
    for language in range(languages):
        first = ord("a") + 8 * (language // 2)  # two languages share an alphabet
        letters = [chr(first + i) for i in range(16)]
        odds = rng.dirichlet(np.full(len(letters), 0.7))
        words = ["".join(rng.choice(letters, size=rng.integers(2, 9), p=odds)) for _ in range(3000)]
        ranks = 1 / np.arange(1, len(words) + 1)
        drawn = rng.choice(len(words), size=(count, 18), p=ranks / ranks.sum())
        out[f"made-up {language + 1}"] = [" ".join(words[i] for i in row) for row in drawn]
    return out


def shares_of(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "equal":
        return np.full(count, 1 / count)
    if kind == "drawn":
        return rng.dirichlet(np.ones(count))
    shares = np.full(count, 0.4 / (count - 1))
    shares[rng.integers(count)] = 0.6
    return shares


def one(texts: dict[str, list[str]], kind: str, seed: int, merges: int) -> dict[str, float]:
    """Errors in points, and seconds, of one mixture."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    names = tuple(texts)
    wanted = shares_of(kind, len(names), rng)
    train: dict[str, list[str]] = {}
    other: dict[str, list[str]] = {}
    for name in names:
        order = rng.permutation(len(texts[name]))
        half = len(order) // 2
        train[name] = [texts[name][i] for i in order[:half]]
        other[name] = [texts[name][i] for i in order[half:]]
    sizes = np.array([sum(len(text.encode()) for text in train[name]) for name in names])
    total = (sizes / np.maximum(wanted, 1e-9)).min()
    corpus: list[str] = []
    taken = np.zeros(len(names))
    for i, name in enumerate(names):
        for text in train[name]:
            if taken[i] >= total * wanted[i]:
                break
            corpus.append(text)
            taken[i] += len(text.encode())
    truth = taken / taken.sum()
    tokenizer = of_bytes(train_bpe(corpus, BPEConfig(vocabulary_size=258 + merges)), "trained")
    started = time.perf_counter()
    found = infer_mixture(tokenizer, other, merges=merges)
    seconds = time.perf_counter() - started
    guess = np.array([found.in_bytes[name] for name in names])
    return {
        "error": 100 * float(np.abs(guess - truth).mean()),
        "largest": 100 * float(np.abs(guess - truth).max()),
        "equal": 100 * float(np.abs(1 / len(names) - truth).mean()),
        "slack": found.objective_per_merge,
        "seconds": seconds,
        "kilobytes": float(taken.sum()) / 1e3,
    }


def measure(options: harness.Options) -> harness.Result:
    rows: list[harness.Row] = []
    bars: list[harness.Bar] = []
    seeds = range(1 if options.quick else 3)
    merges = 100 if options.quick else 300
    texts = sentences(options.data, 0)
    sets = {f"{len(texts)} languages": texts}
    if options.data is not None:
        few = {name: texts[name] for name in FEW}
        sets = {f"{len(few)} languages": few} if options.quick else {f"{len(few)} languages": few, **sets}
    for what, held in sets.items():
        every: list[float] = []
        for kind in KINDS:
            found = [one(held, kind, seed, merges) for seed in seeds]
            errors = [result["error"] for result in found]
            every += errors
            rows.append(
                harness.row(
                    f"{what}, {kind}: mean absolute error",
                    errors,
                    "points",
                    largest=max(result["largest"] for result in found),
                    equal_shares=float(np.mean([result["equal"] for result in found])),
                    slack_per_merge=float(np.mean([result["slack"] for result in found])),
                    seconds=float(np.mean([result["seconds"] for result in found])),
                    trained_on_kb=float(np.mean([result["kilobytes"] for result in found])),
                )
            )
        of = "made-up " if options.data is None else ""
        name = f"points of mean absolute error, {of}{what}, {merges} merges, worst of {len(every)} tokenizers"
        bars.append(harness.Bar(name=name, value=max(every), op="<=", want=2.0))
    return harness.Result(rows=rows, bars=bars, versions=harness.versions("scipy", "numpy", "tokenizers"))


if __name__ == "__main__":
    harness.main("mixture_inference", __doc__, measure)
