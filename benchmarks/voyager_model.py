"""Voyager with language models: a plain one that follows control prefixes, and any endpoint on the paper's six tasks.

Without ``--url``: a small Llama is trained on ``--data`` (see voyager_lm.py) and four arms write 500 texts each with
each of five seeds, from the same first prefix, ``Text:``, behind the same gates:

    default         what the model writes after that prefix
    gate_only       the same, and the threshold decides
    random_prefix   threshold, and successors drawn by lot from the list of prefixes
    voyager         threshold, and successors away from what the anchors cover

Diversity is the Vendi score under one fixed kernel, the cosine of all-MiniLM-L6-v2; the runs see the static embedder
alone. Validity is the share of proposed texts that have a whole sentence and pass the gates (length, refusals, leaks,
language). Bars: Vendi of Voyager above default by more than two paired standard errors, and a validity that is not
lower by more than two. No ratio is claimed: a model that samples its training text has not collapsed as an instructed
one has.

With ``--url`` and ``--model``: the six tasks of the paper (arXiv 2512.12072, table 1) by Voyager and by each baseline,
500 items each, and the paper's figures beside ours. ``--store`` keeps the answers, so that a stopped run pays nothing
twice. There are no bars: they depend on the model.

Price: some 15 minutes of two cores in all; resumed where it stopped. With an endpoint, some 2,000 calls a task with all
arms.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.dynamic_quality_lm import Training
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.small_lm import Job, files_digest, paired, paired_row, run_jobs, scratch_folder, seeds_row
from benchmarks.voyager_arms import lexical, minilm, off_diagonal, static
from benchmarks.voyager_lm import PLAIN, Corpus, choices_of, model_folder, passages
from penstock.diversity.vendi_score import vendi
from penstock.generators.config import GeneratorConfig
from penstock.generators.explorers.prefix import Choices, Prefix, PrefixExplorer, PrefixSettings
from penstock.generators.explorers.prompt import identify
from penstock.generators.gates.config import GatesConfig
from penstock.generators.items import Explorer, Item
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.records import Voyage
from penstock.generators.voyager.settings import ThresholdSettings, VoyagerSettings
from penstock.seeding import stream

ARMS = ("default", "gate_only", "random_prefix", "voyager")
ERRORS = 2.0  # paired standard errors
ROUNDS, PATIENCE = 10_000, 50  # no arm may end before it has its rows
FIGURES = {
    "vendi": "",
    "vendi of the run's embedder": "",
    "lexical": "distance",
    "cosine": "distance",
    "validity": "share",
    "proposed": "texts",
    "prefixes": "prefixes",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a run; all else of a voyage is as ``VoyagerSettings`` has it."""

    count: int = 500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sample: int = 100
    batch: int = 25
    max_tokens: int = 60
    top_p: float = 0.9
    corpus: Corpus = field(default_factory=Corpus)
    training: Training = field(
        default_factory=lambda: Training(width=128, layers=2, heads=4, length=80, rows=32, passes=2.0, warmup=40)
    )


QUICK = Settings(
    count=10,
    seeds=(0,),
    sample=10,
    batch=10,
    max_tokens=40,
    corpus=Corpus(megabytes=0.2, vocabulary=1024, prefixes=100),
    training=Training(width=64, layers=1, heads=2, length=64, rows=16, passes=2.0, warmup=10),
)


class RandomPrefix(PrefixExplorer):
    """Successors by lot: any other prefix of the list, whatever the anchors cover."""

    async def refine(self, rejected: Sequence[Item], anchors: Sequence[Item], *, round: int) -> list[Explorer]:
        draws = stream(self.seed, self.explorer_id, "by lot", round)
        drawn = draws.choice(len(self.choices.prefixes), self.settings.refinements, replace=False)
        return [
            self.restore(identify(self.explorer_id, round, place), self.explorer_id, prefix.text, "drawn by lot")
            for place, prefix in enumerate(self.choices.prefixes[row] for row in drawn.tolist())
        ]


# --- a plain model ---------------------------------------------------------------------------------------------------


def work(folder: Path, job: Job) -> dict[str, Any]:
    """Run an arm with a seed and measure what it accepted."""
    saved = json.loads((folder / "settings.json").read_text())["settings"]["runs"]
    prefixes = tuple(Prefix(*one) for one in json.loads((folder / "prefixes.json").read_text()))
    settings = replace(
        Settings(),
        **{name: saved[name] for name in ("count", "sample", "batch", "max_tokens", "top_p")},
        seeds=tuple(saved["seeds"]),
    )
    return figures(voyage(job.arm, job.seed, settings, prefixes, str(folder / "model")))


def voyage(arm: str, seed: int, settings: Settings, prefixes: tuple[Prefix, ...], model: str) -> Voyage:
    """A voyage of an arm."""
    full = VoyagerSettings(
        count=settings.count, sample=settings.sample, batch=settings.batch, rounds=ROUNDS, patience=PATIENCE
    )
    none = ThresholdSettings(strategy="none")
    how = {
        "default": replace(full, threshold=none, prune="latest", refine="never"),
        "gate_only": replace(full, refine="never"),
    }.get(arm, full)
    kind = RandomPrefix if arm == "random_prefix" else PrefixExplorer
    completion = PrefixSettings(max_tokens=settings.max_tokens, top_p=settings.top_p, keep=False)
    choices = Choices(prefixes=prefixes, embedder=static())
    root = kind.root(GeneratorConfig(path=model).resolve(), PLAIN, choices, completion, seed=seed)
    gates = GatesConfig(min_characters=40, languages=("en",)).gates(task=PLAIN, embedder=static(), seed=seed)
    return asyncio.run(explore([root], how, embedder=static(), gates=gates, seed=seed))


def figures(done: Voyage) -> dict[str, Any]:
    """The figures of a voyage."""
    texts = [one.item.text for one in done.accepted]
    if len(texts) < 2:
        raise BenchmarkError(f"{len(texts)} texts were accepted: {done.detail}; train longer")
    vectors = minilm().embed(texts).astype("f8")
    dropped = Counter(f"{one.stage}: {one.reason}" for one in done.rejected)
    late = ("duplicate", "surplus", "diversity", "sample", "embedding")
    invalid = sum(one.stage not in late for one in done.rejected)
    return {
        "rows": len(texts),
        "reason": done.reason,
        "vendi": vendi(vectors).value,
        "vendi of the run's embedder": done.rounds[-1].vendi,
        "lexical": lexical(texts),
        "cosine": float((1.0 - off_diagonal(vectors @ vectors.T)).mean()),
        "validity": 1.0 - invalid / len(done.decisions),
        "proposed": len(done.decisions),
        "prefixes": len({done.explorers[one.explorer_id].prompt for one in done.accepted}),
        "dropped": dict(sorted(dropped.items())),
    }


def plain(options: Options) -> Result:
    """The four arms with a model trained on ``--data``."""
    if options.data is None:
        raise BenchmarkError("--data: got none, allowed a folder with *.jsonl.gz files of text; name one, or a --url")
    settings = QUICK if options.quick else Settings()
    versions = harness.versions("sentence-transformers", "torch", "transformers", "numpy")
    decided = {"corpus": settings.corpus, "training": settings.training, "data": files_digest(options.data)}
    folder = scratch_folder("voyager_model", {"runs": settings, "code": code_digest(), **decided})
    texts = passages(options.data, settings.corpus)
    trained = scratch_folder("voyager_lm", decided)
    model = model_folder(texts, settings.corpus, settings.training, trained, 60 * options.more["minutes"])
    if model is None:
        raise BenchmarkError("the model is not trained yet; run again, it goes on where it was")
    if not (folder / "model").exists():
        os.symlink(model, folder / "model")
    chosen = choices_of(texts, settings.corpus.prefixes)
    (folder / "prefixes.json").write_text(json.dumps([[one.text, one.exemplar] for one in chosen]))
    done = run_jobs(work, folder, [Job("plain", arm, seed) for seed in settings.seeds for arm in ARMS])
    return result_of(done, versions, quick=options.quick)


def code_digest() -> str:
    """Of the code that decides what an arm finds."""
    state = hashlib.sha256()
    for path in (Path(__file__), *sorted((harness.ROOT / "penstock" / "generators").rglob("*"))):
        if path.suffix in (".py", ".yaml") and path.parent.name in ("benchmarks", "voyager", "explorers", "gates"):
            state.update(path.read_bytes())
    return state.hexdigest()


def result_of(done: Mapping[Job, dict[str, Any]], versions: dict[str, str], *, quick: bool) -> Result:
    """Rows and bars of the runs that are done.

    Raises:
        BenchmarkError: a run ended before it had its rows, so arms would not compare.
    """
    if len({found["rows"] for found in done.values()}) > 1:
        short = [f"{job.arm}, seed {job.seed}: {found['rows']} rows, {found['reason']}" for job, found in done.items()]
        raise BenchmarkError(f"voyages of different sizes do not compare: {'; '.join(short)}")

    def of(arm: str, figure: str) -> dict[int, float]:
        return {job.seed: found[figure] for job, found in done.items() if job.arm == arm}

    rows: list[Row] = [
        seeds_row(f"{arm}: {figure}", of(arm, figure), unit) for arm in ARMS for figure, unit in FIGURES.items()
    ]
    bars = []
    for arm in ARMS[:-1]:
        for figure in ("vendi", "validity"):
            rows.append(paired_row(f"{figure}: voyager - {arm}", of("voyager", figure), of(arm, figure), ""))
    for name, figure, op, want in (
        ("Vendi above default, in paired standard errors", "vendi", ">", ERRORS),
        ("validity not below default, in paired standard errors", "validity", ">=", -ERRORS),
    ):
        apart = paired(of("voyager", figure), of("default", figure)).in_errors
        bars.append(Bar(name=name, value=None if quick else apart, op=op, want=want))
    for arm in ARMS:
        for reason in sorted({reason for job, found in done.items() if job.arm == arm for reason in found["dropped"]}):
            shares = {
                job.seed: found["dropped"].get(reason, 0) / found["proposed"]
                for job, found in done.items()
                if job.arm == arm
            }
            rows.append(seeds_row(f"{arm}: dropped, {reason}", shares, "of the texts proposed"))
    return Result(rows=rows, bars=bars, versions=versions)


# --- the command -----------------------------------------------------------------------------------------------------


def measure(options: Options) -> Result:
    if options.more["url"] is None:
        return plain(options)
    from benchmarks.voyager_prompted import prompted

    return prompted(options)


def command() -> Any:
    from benchmarks.voyager_prompted import PAPER, PROMPTED

    out = harness.parser(__doc__)
    out.add_argument("--minutes", type=float, default=30.0, help="of training, before it stops to go on another time")
    out.add_argument("--url", help="address of an OpenAI-compatible server, with /v1")
    out.add_argument("--model", help="name of the model on that server")
    out.add_argument("--api-key-env", help="environment variable with the server's key")
    out.add_argument("--judge", help="name of a model on that server that scores the items; default: none does")
    out.add_argument("--tasks", nargs="+", choices=PAPER, default=list(PAPER), help="of the six")
    out.add_argument("--arms", nargs="+", choices=PROMPTED, default=list(PROMPTED), help="baselines, and voyager")
    out.add_argument("--count", type=int, default=500, help="items of each arm")
    out.add_argument("--store", help="SQLite file that keeps answers")
    return out


if __name__ == "__main__":
    harness.main("voyager_model", __doc__, measure, command=command())
