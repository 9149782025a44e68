"""The arms of benchmarks/voyager.py: one voyage each, and how different what it accepted is.

    default, uniform, hierarchical      no threshold, never refined
    gate_only, random_refinement        Voyager without refinement, and with successors drawn by lot
    voyager                             the whole loop

All have the same runner, duplicates gate, batch size and number of rows. Each begins from the same prior of the seed,
Zipf with s = 2 over a seeded order of the families, but for ``uniform``, which is the reference.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_lm import Job, write_json
from penstock.diversity.kernels import TokenJaccard
from penstock.diversity.vendi_score import vendi
from penstock.embedding.base import Embedder
from penstock.embedding.distil import DIMENSIONS, distilled, packaged_model
from penstock.embedding.sentences import SentenceFolder, folder_digest
from penstock.embedding.static import StaticVectors, save_static
from penstock.generators.explorers.baselines_procedural import baseline
from penstock.generators.explorers.procedural import Prior, ProceduralExplorer
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.records import Voyage
from penstock.generators.voyager.settings import VoyagerSettings

ARMS = ("default", "uniform", "hierarchical", "gate_only", "random_refinement", "voyager")
MINILM_DIMENSIONS = 384
EMBEDDER = "embedder.json"
ROUNDS = 10_000  # no arm may end before it has its rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a run of the benchmark; all else of a voyage is as ``VoyagerSettings`` has it."""

    count: int = 500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    s: float = 2.0  # of Zipf's law
    batch: int = 10
    sample: int = 100


def settings_in(folder: Path) -> Settings:
    saved = json.loads((folder / "settings.json").read_text())["settings"]["runs"]
    return Settings(**{**saved, "seeds": tuple(saved["seeds"])})


def work(folder: Path, job: Job) -> dict[str, Any]:
    """Run an arm with a seed and measure what it accepted."""
    return measured(*voyage(job.arm, job.seed, settings_in(folder), static(folder)))


def voyage(arm: str, seed: int, settings: Settings, embedder: Embedder) -> tuple[Voyage, float]:
    """A voyage of an arm, and its seconds."""
    prior = Prior.zipf(seed, s=settings.s)
    full = VoyagerSettings(
        count=settings.count, batch=settings.batch, sample=settings.sample, rounds=ROUNDS, patience=ROUNDS
    )
    if arm == "voyager":
        root, how = ProceduralExplorer.root(prior, seed=seed), full
    else:
        root, how = baseline(arm, prior, seed=seed, settings=full)
    started = time.perf_counter()
    done = asyncio.run(explore([root], how, embedder=embedder, seed=seed))
    return done, time.perf_counter() - started


def measured(done: Voyage, seconds: float) -> dict[str, Any]:
    """The figures of a voyage."""
    texts = [one.item.text for one in done.accepted]
    vectors = minilm().embed(texts)
    families = Counter(one.item.origin["family"] for one in done.accepted)
    apart = 1.0 - off_diagonal(vectors.astype(np.float64) @ vectors.T.astype(np.float64))
    dropped: Counter[str] = Counter()
    for record in done.rounds:
        for stage, reasons in record.dropped.items():
            dropped.update({f"{stage}: {reason}": number for reason, number in reasons.items()})
    return {
        "rows": len(texts),
        "reason": done.reason,
        "vendi": vendi(vectors).value,
        "vendi of the run's embedder": done.rounds[-1].vendi,
        "lexical": lexical(texts),
        "cosine": float(apart.mean()),
        "cosine, spread": float(apart.std()),
        "families": len(families),
        "largest family": max(families.values()) / len(texts),
        "proposed": sum(record.proposed for record in done.rounds),
        "steps": sum(record.steps for record in done.rounds),
        "dropped": dict(sorted(dropped.items())),
        "threshold": done.threshold,
        "vendi by rows": [[record.total, record.vendi] for record in done.rounds],
        "seconds": seconds,
    }


def off_diagonal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every pair of different rows, once."""
    return np.asarray(matrix[np.triu_indices(len(matrix), 1)])


def lexical(texts: Sequence[str]) -> float:
    """Mean pairwise Jaccard distance of the sets of words, without English stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    sets = [set(re.findall(r"\w+", text.lower())) - ENGLISH_STOP_WORDS for text in texts]
    return float(1.0 - off_diagonal(TokenJaccard(sets).dense()).mean())


def prepare(folder: Path) -> None:
    """Write the embedder of the runs, once."""
    if not (folder / EMBEDDER).exists():
        table, tokenizer = distilled(lambda note: print(note, file=sys.stderr))
        path, digest = save_static(str(folder), table, tokenizer, {})
        write_json(folder / EMBEDDER, {"path": path, "digest": digest, "dimensions": DIMENSIONS})


def static(folder: Path) -> StaticVectors:
    """The embedder of the runs."""
    return StaticVectors(**json.loads((folder / EMBEDDER).read_text()))


@cache
def minilm() -> SentenceFolder:
    """The embedder of the figures, the same for every arm."""
    path = str(packaged_model())
    return SentenceFolder(path=path, digest=folder_digest(path), dimensions=MINILM_DIMENSIONS)
