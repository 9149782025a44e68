"""Mixtures set while a small language model trains: does Dynamic Gradient Alignment help a target, and at what cost?

The text is cut into chunks of 128 tokens. A pool of 6,000 chunks, 150 of them of the target's kind (a sliver), is
grouped into 16 clusters by embedding; clusters are the domains. All arms train the same model from the same weights
for the same tokens, and are measured on held-out documents of the target's kind:

    uniform, proportional        no knowledge of the target
    importance                   the target's histogram over clusters, uncapped
    importance, cap 5            the same with no cluster read more than five times (PostStage)
    dga                          Dynamic Gradient Alignment, eta 1.5, every 20 steps
    dga, cap 5                   the same with no cluster read more than five times
    dga, observing               the probes of dga, nothing acted upon: must end with the parameters of uniform

In setting ``sliver`` the methods know 256 chunks of the target; in setting ``one document`` four chunks of one
document. A seed draws the pool, the clusters, the target's documents, the initial weights and the order anew, and all
arms of it share them. A run's figure is the mean of its last three evaluations.

The bars are on the sliver: DGA below uncapped importance sampling and below uniform by two paired standard errors. They
are claims that may fail. The cost is of processor time, with 8 domains and a probe every 100 steps.

The target is ``wikipedia.jsonl.gz`` of ``--data``; without ``--data`` it is the documentation of this Python
installation. Price: some 80 minutes of one core, half on two; resumed where it stopped.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import harness
from benchmarks.corpora import SEED, files_of, from_environment
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.small_lm import (
    Job,
    Piece,
    Schedule,
    documents_of,
    files_digest,
    new_model,
    paired,
    paired_row,
    parameters_digest,
    pieces_of,
    run_jobs,
    scratch_folder,
    seeds_row,
    surroundings,
    train,
    train_tokenizer,
    write_domain,
    write_json,
)
from penstock.seeding import derive, stream

TARGETS = ("wikipedia", "documentation")  # the first that the data has
SETTINGS = ("sliver", "one document")
ARMS = ("uniform", "proportional", "importance", "importance, cap 5", "dga", "dga, cap 5", "dga, observing")
BLIND = ("uniform", "proportional")  # the target is nothing to them: settings share their runs
LAST = 3  # evaluations that a run's figure is the mean of
CAP = 5.0  # epochs


WHOLE = Schedule(steps=600, rows=16, length=128, evaluate_every=50)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the runs, apart from the files."""

    revision: int = 1  # of what this file and small_lm.py do
    seeds: int = 5
    clusters: int = 16
    pool: int = 6000  # chunks
    sliver: int = 150  # of them, of the target's kind
    target: int = 256  # chunks that the methods know in setting sliver
    one_document: int = 4  # in the other
    held_out: int = 192
    per_file: int = 2000  # chunks of a file that pools are drawn from
    eta: float = 1.5
    every: int = 20
    probe_sequences: int = 8  # of each domain
    target_sequences: int = 32
    lag: int = 1  # steps; nothing is read ahead here
    spread: float | None = 0.02  # of the first weights, see SmallLM
    schedule: Schedule = WHOLE


QUICK = Settings(
    seeds=2,
    clusters=4,
    pool=600,
    sliver=20,
    target=32,
    held_out=32,
    per_file=250,
    schedule=Schedule(steps=40, rows=16, length=128, evaluate_every=10),
)


# --- the data -------------------------------------------------------------------------------------------------------


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    """Write the sequences of every seed below ``folder``; what is there is kept."""
    if all((folder / f"seed-{seed}" / "facts.json").exists() for seed in range(settings.seeds)):
        return
    length = settings.schedule.length
    names = {path.name.removesuffix(".jsonl.gz"): path for path in files_of(data)}
    target = next((name for name in TARGETS if name in names), None)
    if target is None or len(names) < 2:
        raise BenchmarkError(
            f"--data: got {', '.join(names)}; allowed are files of other domains beside {' or '.join(TARGETS)}.jsonl.gz"
        )
    wanted = settings.sliver + settings.target + settings.one_document + settings.held_out
    documents = {
        # a token is three to five characters; of the target more, since whole documents go to one side
        name: documents_of(path, int(5 * length * (4 * wanted if name == target else settings.per_file)))
        for name, path in names.items()
    }
    encode = train_tokenizer(documents, folder)
    pieces = {name: pieces_of(name, texts, encode, length) for name, texts in documents.items()}
    for seed in range(settings.seeds):
        prepare_seed(folder / f"seed-{seed}", pieces, target, settings, seed)


def prepare_seed(folder: Path, pieces: Mapping[str, list[Piece]], target: str, settings: Settings, seed: int) -> None:
    """Draw, group and write one seed's data: ``pool/``, ``known/`` and the facts, which come last."""
    from penstock.selectors.kmeans import nearest, spherical_kmeans
    from penstock.training.mixing.importance import histogram

    sides = iter(by_document(pieces[target], stream(SEED, "target", seed)))
    sliver = take(sides, settings.sliver, target)
    known = take(sides, settings.target, target)
    one = next((side for side in sides if len(side) >= settings.one_document), None)
    if one is None:
        raise BenchmarkError(f"{target}: no document is left with {settings.one_document} chunks; bring more text")
    held_out = take(sides, settings.held_out, target)

    others = [name for name in pieces if name != target]
    pool = list(sliver)
    for number, name in enumerate(others):
        share = (settings.pool - settings.sliver + number) // len(others)
        if len(pieces[name]) < share:
            raise BenchmarkError(f"{name}: got {len(pieces[name])} chunks, allowed {share} and more; bring more text")
        pick = stream(SEED, "pool", seed, name).choice(len(pieces[name]), size=share, replace=False)
        pool += [pieces[name][i] for i in pick.tolist()]

    embed = functools.partial(vectors_of, encode_file=folder.parent / "tokenizer.json")
    vectors = embed(pool)
    centroids = spherical_kmeans(vectors, settings.clusters, seed=derive(SEED, "clusters", seed) % 2**31)
    cluster = nearest(vectors, centroids)[0]
    names = [f"cluster-{k:02}" for k in range(settings.clusters)]
    for k, name in enumerate(names):
        inside = [piece for piece, of in zip(pool, cluster.tolist(), strict=True) if of == k]
        write_domain(folder / "pool" / f"{name}.arrow", name, inside, settings.schedule.length)
    sets = {"sliver": known, "one document": one[: settings.one_document], "held out": held_out}
    for name, chosen in sets.items():
        write_domain(folder / "known" / f"{name}.arrow", name, chosen, settings.schedule.length)
    counts = np.bincount(cluster, minlength=settings.clusters)
    facts = {
        "rows": counts.tolist(),
        "of the sliver": np.bincount(cluster[: len(sliver)], minlength=settings.clusters).tolist(),
        "histogram": {setting: histogram(embed(sets[setting]), centroids, names) for setting in SETTINGS},
    }
    write_json(folder / "facts.json", facts)


def by_document(pieces: list[Piece], rng: np.random.Generator) -> list[list[Piece]]:
    """Pieces by document, in a random order of documents."""
    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.document, []).append(piece)
    groups = list(found.values())
    return [groups[i] for i in rng.permutation(len(groups)).tolist()]


def take(groups: Iterator[list[Piece]], count: int, name: str) -> list[Piece]:
    """The first ``count`` pieces of the next documents; the rest of the last one is left out."""
    out: list[Piece] = []
    while len(out) < count:
        try:
            out += next(groups)
        except StopIteration:
            raise BenchmarkError(
                f"{name}: its documents end at {len(out)} of {count} chunks; bring more text"
            ) from None
    return out[:count]


def vectors_of(pieces: list[Piece], encode_file: Path) -> Any:
    """Unit vectors of the pieces' texts, by the static embedding."""
    from tokenizers import Tokenizer

    from penstock.embedding.base import Embed, unit_vectors

    decode = Tokenizer.from_file(str(encode_file)).decode_batch
    batch = pa.RecordBatch.from_arrays([pa.array(decode([p.tokens.tolist() for p in pieces]), pa.string())], ["text"])
    return unit_vectors(Embed(embedder=embedder()).annotate(batch)["embedding"])


@functools.cache
def embedder() -> Any:
    """The static table, from the cache or distilled first (half a minute)."""
    from penstock.embedding.distil import distilled
    from penstock.embedding.static import StaticVectors, save_static

    with tempfile.TemporaryDirectory() as folder:
        path, digest = save_static(folder, *distilled(print), {})
        out = StaticVectors(path=path, digest=digest, dimensions=256)
        out.setup()  # reads the table, which is cached
    return out


# --- one run --------------------------------------------------------------------------------------------------------


def open_pool(folder: Path) -> Any:
    from penstock.training.sequences import SequenceStore

    return SequenceStore.open({path.stem: [path] for path in sorted((folder / "pool").glob("*.arrow"))})


def open_target(folder: Path, setting: str) -> Any:
    """What the methods know of the target, and what they are measured on."""
    from penstock.training.probes import Target
    from penstock.training.sequences import SequenceStore

    store = SequenceStore.open({name: [folder / "known" / f"{name}.arrow"] for name in (setting, "held out")})
    rows = [np.arange(n, dtype=np.int64) for n in store.rows]
    probe, held_out = ((np.full(len(row), k, dtype=np.int64), row) for k, row in enumerate(rows))
    return Target(store=store, probe=probe, held_out=held_out)


def open_loader(store: Any, weights: Any, settings: Settings, seed: int) -> Any:
    from penstock.training.loader import MixtureLoader

    return MixtureLoader(
        store,
        weights,
        seed=derive(SEED, "order", seed),
        fingerprint=f"seed {seed}",
        batch_size=settings.schedule.rows,
        lag=settings.lag,
    )


def run(folder: Path, job: Job) -> dict[str, Any]:
    """Train one arm and measure it."""
    from penstock.training.mixing.base import Cadence
    from penstock.training.mixing.dga import DynamicGradientAlignment
    from penstock.training.mixing.importance import ImportanceSampling
    from penstock.training.mixing.mixer import Mixer, starting_weights
    from penstock.training.mixing.post import PostStage
    from penstock.training.mixing.static import Static

    settings = settings_in(folder)
    schedule, seed = settings.schedule, job.seed
    here = folder / f"seed-{seed}"
    facts = json.loads((here / "facts.json").read_text())
    store = open_pool(here)
    # arms that know nothing of the target are run once for all settings
    target = open_target(here, SETTINGS[0] if job.setting == "any" else job.setting)
    held_out = target.store.gather("held out", target.held_out[1])
    model = new_model(schedule.length, derive(SEED, "model", seed), settings.spread)

    post, probe = PostStage(), None
    if job.arm in BLIND:
        policy: Any = Static(weights=job.arm)
    elif job.arm.startswith("importance"):
        policy = ImportanceSampling(histogram=facts["histogram"][job.setting])
    else:
        policy = DynamicGradientAlignment(eta=settings.eta, cadence=Cadence(every=settings.every))
        probe = Products(probe_of(model, store, settings, target, seed))
    if job.arm.endswith("cap 5"):
        # where the clusters that the target falls into cannot fill the run, the others do
        post = PostStage(max_epochs=CAP, on_infeasible="redistribute")
    weights = starting_weights(policy, store, post, sequences=schedule.steps * schedule.rows)
    loader = open_loader(store, weights, settings, seed)
    acts = job.arm != "dga, observing"
    mixer = Mixer(policy, loader, post=post, probe=probe, steps=schedule.steps, acts=acts)
    done = train(model, loader, schedule, held_out, mixer=mixer)

    read = np.array(loader.log.cursors(schedule.steps * schedule.rows))
    return {
        "loss": statistics.fmean(list(done.evaluations.values())[-LAST:]),
        "evaluations": {str(step): loss for step, loss in done.evaluations.items()},
        "parameters": parameters_digest(model),
        "seconds": done.seconds,
        "mixtures": [[float(w) for w in loader.weights_of(v)] for v in range(loader.newest_version + 1)],
        "sequences read": read.tolist(),
        "most epochs": float((read / np.array(store.rows)).max()),
        "epochs of the sliver": float((read / np.array(store.rows)) @ np.array(facts["of the sliver"]))
        / settings.sliver,
        "probes": None if probe is None else probe.facts(),
    }


class Products:
    """A probe that keeps what it gave, so that a control can show that its gradients were no zeros."""

    def __init__(self, probe: Any) -> None:
        self.probe, self.gives, self.seen = probe, probe.gives, []

    def measure(self, wanted: Any, number: int) -> Any:
        from penstock.training.mixing.base import Signal

        found = self.probe.measure(wanted, number)
        self.seen.append(found[Signal.TARGET_DOT][0].tolist())
        return found

    def facts(self) -> dict[str, Any]:
        products = np.array(self.seen)
        return {
            "measured": len(products),
            "not zero": int((products != 0).all(axis=1).sum()),
            "spread over domains": float(products.std(axis=1).mean()),
        }


def probe_of(model: Any, store: Any, settings: Settings, target: Any, seed: int) -> Any:
    from penstock.training.probes import GradientProbe

    return GradientProbe(
        model,
        lambda batch: model.token_losses(batch.tokens)[0].mean(),
        store,
        target=target,
        sequences=settings.probe_sequences,
        target_sequences=settings.target_sequences,
        seed=derive(SEED, "probe", seed),
    )


def settings_in(folder: Path) -> Settings:
    """The settings that a scratch folder was made for."""
    saved = json.loads((folder / "settings.json").read_text())["settings"]["runs"]
    return Settings(**saved | {"schedule": Schedule(**saved["schedule"])})


# --- the cost -------------------------------------------------------------------------------------------------------


def overhead(folder: Path, settings: Settings, *, domains: int = 8, every: int = 100, repeats: int = 5) -> list[Row]:
    """Processor time of ``every`` steps and one probe over that of ``every`` steps, both run in turn."""
    from penstock.training.mixing.base import Cadence
    from penstock.training.mixing.dga import DynamicGradientAlignment
    from penstock.training.mixing.mixer import Mixer, starting_weights
    from penstock.training.sequences import SequenceStore

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    here = folder / "seed-0"
    paths = sorted((here / "pool").glob("*.arrow"))
    store = SequenceStore.open(
        {f"part-{k}": [path for i, path in enumerate(paths) if i % domains == k] for k in range(domains)}
    )
    target = open_target(here, SETTINGS[0])
    schedule = replace(settings.schedule, steps=every, warmup=min(settings.schedule.warmup, every // 2))

    def once(kind: str, number: int) -> float:
        model = new_model(schedule.length, derive(SEED, "overhead", number), settings.spread)
        if kind == "plain":
            return train(model, open_loader(store, "uniform", settings, number), schedule).seconds
        policy = DynamicGradientAlignment(cadence=Cadence(every=every))
        loader = open_loader(store, starting_weights(policy, store), settings, number)
        probe = Products(probe_of(model, store, settings, target, number))
        found = train(model, loader, schedule, mixer=Mixer(policy, loader, probe=probe)).seconds
        assert probe.facts()["measured"] == 1, "the probe did not run"
        return found

    once("plain", -1)  # pages and code are there for both
    try:
        numbers = iter(range(2 * repeats))
        found = harness.alternate(
            {kind: lambda kind=kind: once(kind, next(numbers) // 2) for kind in ("plain", "dga")}, repeats
        )
    finally:
        torch.set_num_threads(before)
    plain, probed = ([seconds / every for seconds in found[kind]] for kind in ("plain", "dga"))
    what = f"DGA at {domains} domains, a probe every {every} steps"
    ratios = [one / other for one, other in zip(probed, plain, strict=True)]
    return [
        seeds_row("a step, plain", dict(enumerate(plain)), "core-s"),
        seeds_row(f"a step, {what}", dict(enumerate(probed)), "core-s"),
        seeds_row(f"{what}, over plain", dict(enumerate(ratios)), "times"),
    ]


# --- the whole ------------------------------------------------------------------------------------------------------


def jobs_of(settings: Settings) -> list[Job]:
    """Seed by seed, so that an interrupted benchmark has whole seeds; the setting of the bars first."""
    first = [Job("any" if arm in BLIND else SETTINGS[0], arm, seed) for seed in range(settings.seeds) for arm in ARMS]
    # one seed shows that probes leave training alone, as well as all do
    first = [job for job in first if job.arm != "dga, observing" or job.seed == 0]
    second = [
        Job(SETTINGS[1], arm, seed)
        for seed in range(settings.seeds)
        for arm in ARMS
        if arm not in BLIND and arm != "dga, observing"
    ]
    return first + second


def measure(options: Options) -> Result:
    settings = QUICK if options.quick else Settings()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as made:
        data = options.data
        if data is None:
            data = Path(made)
            from_environment(data, 6 if options.quick else 24)
        folder = scratch_folder("mixing", {"runs": settings, "files": files_digest(data)})
        prepare(data, folder, settings)
    done = run_jobs(run, folder, jobs_of(settings))
    cost = overhead(folder, settings, every=20 if options.quick else 100, repeats=2 if options.quick else 5)
    return result_of(done, cost, quick=options.quick)


def result_of(done: Mapping[Job, dict[str, Any]], cost: list[Row], *, quick: bool) -> Result:
    """Rows and bars of the runs that are done."""
    return Result(
        rows=[*loss_rows(done), *probe_rows(done), *cost],
        bars=bars(done, cost[1]["mean"] / cost[0]["mean"] - 1.0, quick=quick),
        versions=harness.versions("torch", "numpy", "faiss-cpu", "model2vec") | surroundings(),
    )


def by_seed(done: Mapping[Job, dict[str, Any]], setting: str, arm: str, what: str = "loss") -> dict[int, Any]:
    """A figure of every seed that ran."""
    name = "any" if arm in BLIND else setting
    return {job.seed: found[what] for job, found in done.items() if (job.setting, job.arm) == (name, arm)}


def loss_rows(done: Mapping[Job, dict[str, Any]]) -> list[Row]:
    """Losses of all arms, then DGA against each other arm."""
    out = []
    for setting in SETTINGS:
        arms = [arm for arm in ARMS if arm != "dga, observing" and by_seed(done, setting, arm)]
        if not set(arms) - set(BLIND):
            continue  # an interrupted benchmark did not come to this setting
        for arm in arms:
            epochs = {
                what: statistics.fmean(by_seed(done, setting, arm, what).values())
                for what in ("epochs of the sliver", "most epochs")
            }
            out.append(seeds_row(f"{setting}: {arm}", by_seed(done, setting, arm), "nats/token", **epochs))
        ours = by_seed(done, setting, "dga")
        out += [
            paired_row(f"{setting}: {arm} minus dga", by_seed(done, setting, arm), ours, "nats/token")
            for arm in arms
            if arm != "dga" and ours
        ]
    return out


def probe_rows(done: Mapping[Job, dict[str, Any]]) -> list[Row]:
    """How much the products of gradients differ between domains: what DGA goes by."""
    out = []
    for setting in SETTINGS:
        found = by_seed(done, setting, "dga", "probes")
        spread = {seed: probes["spread over domains"] for seed, probes in found.items()}
        if spread:
            out.append(seeds_row(f"{setting}: spread of the products of gradients over domains", spread, ""))
    return out


def bars(done: Mapping[Job, dict[str, Any]], cost: float, *, quick: bool) -> list[Bar]:
    ours = by_seed(done, SETTINGS[0], "dga")
    out = []
    for arm in ("importance", "uniform"):
        found = paired(by_seed(done, SETTINGS[0], arm), ours)
        out.append(
            Bar(
                name=f"sliver: {arm} minus dga, in paired standard errors",
                value=None if quick else found.in_errors,
                op=">",
                want=2.0,
            )
        )
    controls = {seed: None for seed in by_seed(done, SETTINGS[0], "dga, observing", "parameters")}
    wrong = 0
    for seed in controls:
        control = done[Job(SETTINGS[0], "dga, observing", seed)]
        probes = control["probes"]
        same = control["parameters"] == by_seed(done, SETTINGS[0], "uniform", "parameters").get(seed)
        wrong += not (same and probes["measured"] > 0 and probes["not zero"] == probes["measured"])
    out.append(
        Bar(
            name="seeds whose observing control differs from uniform in any bit, or whose probes gave zeros",
            value=wrong if controls else None,
            op="<=",
            want=0,
        )
    )
    out.append(
        Bar(
            name="share of step time for DGA at 8 domains, a probe every 100 steps",
            value=None if quick else cost,
            op="<=",
            want=0.10,
        )
    )
    return out


if __name__ == "__main__":
    harness.main("mixing", __doc__, measure)
