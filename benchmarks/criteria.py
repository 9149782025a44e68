"""Criteria that have seen no example of damage: how well they tell clean text from damaged text.

Passages of 1,000 characters from all over the material, every other one a reference that perplexity counts. The others
are scored as they are, and damaged in three ways: words shuffled, 5 % of the characters replaced, boilerplate behind
the first 40 %. Figures are the share of (clean, damaged) pairs that a score ranks rightly by its declared direction
(AUC; 0.5 is chance).

Price: a minute of one core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.embedding import pieces
from penstock.seeding import stream

CHARACTERS, PASSAGES = 1000, 4800
BOILERPLATE = (
    "All rights reserved.", "Click here to subscribe.", "Share this page.", "Terms of use apply.",
    "Home | About | Contact | Login", "Cookies help us deliver our services.",
)  # fmt: skip


def damages(rng: np.random.Generator) -> dict[str, Callable[[str], str]]:
    def shuffled(text: str) -> str:
        words = text.split()
        rng.shuffle(words)
        return " ".join(words)

    def noisy(text: str) -> str:
        letters = list(text)
        for i in np.flatnonzero(rng.random(len(letters)) < 0.05):
            letters[i] = chr(int(rng.integers(33, 127)))
        return "".join(letters)

    def padded(text: str) -> str:
        return text[: CHARACTERS * 2 // 5] + "\n" + "\n".join(rng.choice(BOILERPLATE, 18))

    return {"words shuffled": shuffled, "5 % of characters replaced": noisy, "boilerplate": padded}


def batch(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": texts, "split": ["train"] * len(texts)})


def measure(options: harness.Options) -> harness.Result:
    from sklearn.metrics import roc_auc_score

    from penstock.selectors.scorers.heuristic import HeuristicScore
    from penstock.selectors.scorers.perplexity import PerplexityModel

    texts = pieces(options.data, CHARACTERS, PASSAGES // (10 if options.quick else 1))
    reference, clean = texts[::2], texts[1::2]
    result = harness.Result(versions=harness.versions("numpy", "numba", "scikit-learn"))
    with tempfile.TemporaryDirectory() as folder:
        scorers = {"heuristic": HeuristicScore()}
        for unit in ("byte", "word"):
            model = PerplexityModel(unit=unit)
            scorers[f"perplexity, {unit}s"] = model.fit(model.summarise(batch(reference)), folder)
        for damage, spoil in damages(stream(0, "criteria benchmark")).items():
            damaged = [spoil(text) for text in clean]
            for name, scorer in scorers.items():
                column = scorer.adds[0]
                sign = 1.0 if scorer.directions[column] == "higher" else -1.0
                found = [
                    sign * scorer.annotate(batch(side))[column].to_numpy(zero_copy_only=False)
                    for side in (clean, damaged)
                ]
                label = [1] * len(clean) + [0] * len(damaged)
                value = float(roc_auc_score(label, np.nan_to_num(np.concatenate(found), nan=-1e9)))
                result.rows.append(harness.row(f"{name}: {damage}", [value], "AUC", passages=len(clean)))
                bar = harness.Bar(name=f"AUC of {name}, {damage}", value=value, op=">=", want=0.5)
                result.bars.append(bar)
    return result


if __name__ == "__main__":
    harness.main("criteria", __doc__, measure)
