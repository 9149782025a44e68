"""Data chosen by several scores and the domain: does QuaDMix, with its search over small runs, help a target?

Passages of some domains, 30 % of them spoilt, are scored by three criteria: one good, in each domain to another degree,
one weak, one useless (see quadmix_data.py). The target is clean text of two domains, those with the most spoilt
passages. From a pool of some 60,000 passages every arm takes 4,800, and the same small language model trains on them
for 300 steps (see quadmix_arms.py for the arms). A seed draws held-out documents, pool, spoilt passages, labels,
proxies, first weights and order anew, and all arms of it share them. A figure is the loss on held-out passages of the
target, mean of its two domains, of documents that neither the pool nor any proxy has.

Searches measure 64 proxies each, fit the surrogate, and decide among the proposed point, the best measured and the
baselines on values that are measured anew. What the proxies are is an option: ``ngram`` counts n-grams, ``loop`` trains
a small model by penstock's loop for 150 steps. Both rank 12 random thetas against final models; the default is the one
that ranks better for its price.

The bars: QuaDMix is better than random by more than two paired standard errors; it is worse than RegMix, and than the
best top-k, by no more than one; and the search on shuffled scores does not win. They are claims that may fail.

The target is wikipedia and biomedical of ``--data``; without ``--data`` it is documentation and readmes of this Python
installation. Price: some 35 minutes of one core with ``ngram``, half on two; resumed where it stopped. With ``loop``
some hours more.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.corpora import from_environment
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.quadmix_arms import ARMS, MEAN, PARTS, SEARCHED, SEARCHES, TOP_K, Settings, corpus_job, work
from benchmarks.quadmix_data import SCORES, CorpusSettings, cut
from benchmarks.small_lm import (
    Job,
    Schedule,
    files_digest,
    paired,
    paired_row,
    run_jobs,
    scratch_folder,
    seeds_row,
    surroundings,
)
from penstock.selectors.search.guard import PROPOSED
from penstock.selectors.search.settings import SearchSettings

Done = Mapping[Job, dict[str, Any]]

POOL = 50_000  # passages, at least
OTHERS = tuple(SEARCHES)[1:]
QUICK = Settings(
    seeds=2,
    corpus=CorpusSettings(per_domain=400, held_out=32),
    search=SearchSettings(proxies=16, draws=2000),
    schedule=Schedule(steps=12, rows=16, length=128, evaluate_every=12, warmup=5),
    loop_steps=10,
    compared=4,
)


def jobs_of(settings: Settings) -> tuple[list[Job], ...]:
    """Jobs in stages: a stage reads what those before it wrote."""
    seeds = range(settings.seeds)
    return (
        [corpus_job(seed) for seed in seeds],
        [Job("search", arm, seed) for seed in seeds for arm in SEARCHED],
        [Job("final", arm, seed) for seed in seeds for arm in ARMS],
        [Job("compared", kind, part) for kind in ("ngram", "loop", "final") for part in range(PARTS)],
        # where a proxy costs nothing, the other ways to propose are tried too
        [
            Job(how, arm, seed)
            for seed in seeds
            for arm in SEARCHED[:2]
            for how in OTHERS
            if settings.proxies == "ngram"
        ],
    )


def measure(options: Options) -> Result:
    settings = QUICK if options.quick else Settings(proxies=options.more.get("proxies", "ngram"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as made:
        data = options.data
        if data is None:
            data = Path(made)
            from_environment(data, 6 if options.quick else 40)
        folder = scratch_folder("quadmix", {"runs": settings, "files": files_digest(data)})
        cut(data, folder, settings.corpus)
    done: dict[Job, dict[str, Any]] = {}
    for stage in jobs_of(settings):
        done |= (found := run_jobs(work, folder, stage))
        if len(found) < len(stage):
            break  # interrupted
    if not any(job.setting == "final" for job in done):
        raise BenchmarkError("interrupted before the first final model; run again, it goes on where it was")
    return result_of(done, settings, quick=options.quick)


def result_of(done: Done, settings: Settings, *, quick: bool) -> Result:
    """Rows and bars of the runs that are done."""
    return Result(
        rows=[*loss_rows(done), *search_rows(done), *theta_rows(done), *proxy_rows(done, settings), *corpus_rows(done)],
        bars=bars(done, settings, quick=quick),
        versions=harness.versions("torch", "numpy", "lightgbm", "scikit-learn") | surroundings(),
    )


def by_seed(done: Done, setting: str, arm: str, of: Callable[[dict[str, Any]], Any]) -> dict[int, Any]:
    """A figure of every seed that ran."""
    return {job.seed: of(found) for job, found in done.items() if (job.setting, job.arm) == (setting, arm)}


def losses(done: Done, arm: str) -> dict[int, float]:
    return by_seed(done, "final", arm, lambda found: found["loss"])


# --- rows -----------------------------------------------------------------------------------------------------------


def loss_rows(done: Done) -> list[Row]:
    """Losses of all arms with what they are made of, then every arm against QuaDMix."""
    arms = [arm for arm in ARMS if losses(done, arm)]
    out = []
    for arm in arms:
        made = {
            what: statistics.fmean(
                by_seed(done, "final", arm, lambda found, what=what: found["made of"][what]).values()
            )
            for what in ("of the target", "spoilt", "clean and of the target", "different")
        }
        out.append(seeds_row(arm, losses(done, arm), "nats/token", **made))
    return out + [
        paired_row(f"{arm} minus quadmix", losses(done, arm), losses(done, "quadmix"), "nats/token")
        for arm in arms
        if arm != "quadmix"
    ]


def search_rows(done: Done) -> list[Row]:
    """What the searches say of their surrogates, and predicted against re-measured."""
    out = []
    for arm in SEARCHED:
        found = by_seed(done, "search", arm, dict)
        if not found:
            continue

        def add(what: str, value: Callable[[dict[str, Any]], float | None], unit: str, **more: Any) -> None:
            out.append(seeds_row(f"search of {arm}: {what}", {k: value(v) for k, v in found.items()}, unit, **more))  # noqa: B023

        add("out-of-fold R2", lambda of: of["surrogate"]["fit"]["r2"], "")
        add("out-of-fold Spearman", lambda of: of["surrogate"]["fit"]["spearman"], "")
        add("deviation of predictions", lambda of: of["deviation of predictions"], "nats/token")
        add("noise of a proxy", lambda of: of["noise_sd"], "nats/token")
        labels = "; ".join(f"{seed}: {of['label']}" for seed, of in sorted(found.items()))
        claims = sum(of["verdict"]["claim"] for of in found.values())
        add("winner, re-measured", lambda of: winner(of)["mean"], "nats/token", winners=labels, claims=claims)
        add("proposed point, predicted", lambda of: candidate(of, PROPOSED, "predicted"), "nats/token")
        add("proposed point, re-measured", lambda of: candidate(of, PROPOSED, "mean"), "nats/token")
        add("best of the proxies, measured first", lambda of: min(measured(of, "measured")), "nats/token")
        add("best of the proxies, re-measured", lambda of: min(measured(of, "mean")), "nats/token")
        add("natural proportions, re-measured", lambda of: candidate(of, "natural", "mean"), "nats/token")
    for how in OTHERS:
        for arm in SEARCHED:
            if again := by_seed(done, how, arm, lambda of: winner(of)["mean"]):
                out.append(seeds_row(f"{how} of {arm}: winner, re-measured", again, "nats/token"))
    return out


def winner(found: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate that a search chose, on re-measured values."""
    chosen: dict[str, Any] = found["candidates"][found["verdict"]["winner"]]
    assert chosen["mean"] == min(c["mean"] for c in found["candidates"] if c["mean"] is not None)
    return chosen


def candidate(found: Mapping[str, Any], label: str, what: str) -> float | None:
    return next((c[what] for c in found["candidates"] if c["label"] == label), None)


def measured(found: Mapping[str, Any], what: str) -> list[float]:
    """A figure of the best measured points of a search."""
    return [c[what] for c in found["candidates"] if c["label"].startswith("draw") and c[what] is not None]


def theta_rows(done: Done) -> list[Row]:
    """What the winners say: the multiplier of the target's domains, and the weight of each score by domain."""
    found = by_seed(done, "search", "quadmix", lambda found: found["theta"]["domains"])
    targets = by_seed(done, "corpus", "all", lambda found: found["targets"])
    out = []

    def add(what: str, value: Callable[[Mapping[str, Any]], float], inside: bool) -> None:
        values = {
            seed: statistics.fmean(value(own) for name, own in domains.items() if (name in targets[seed]) == inside)
            for seed, domains in found.items()
        }
        out.append(seeds_row(f"theta, {'target' if inside else 'other'} domains: {what}", values, ""))

    if found:
        for inside in (True, False):
            add("multiplier", lambda own: own["multiplier"], inside)
            add("omega", lambda own: own["omega"], inside)
            for name in SCORES:
                short = name.removeprefix("score.")
                add(f"weight of {short}", lambda own, short=short: own["alpha"][short], inside)
    return out


def proxy_rows(done: Done, settings: Settings) -> list[Row]:
    """How each kind of proxy ranks random thetas, against final models of the same copies, and what it costs."""
    from scipy.stats import spearmanr

    parts = {
        kind: [done[job] for part in range(PARTS) if (job := Job("compared", kind, part)) in done]
        for kind in ("ngram", "loop", "final")
    }
    if any(len(found) < PARTS for found in parts.values()):
        return []
    by_kind = {kind: [loss for part in found for loss in part["losses"]] for kind, found in parts.items()}
    out = []
    for kind, found in parts.items():
        seconds = {i: value for i, value in enumerate(value for part in found for value in part["seconds"])}
        out.append(seeds_row(f"a model of kind {kind}", seconds, "core-s"))
        if kind != "final":
            rank = float(spearmanr(by_kind[kind], by_kind["final"]).statistic)
            out.append(
                seeds_row(f"Spearman of {kind} and final models, {settings.compared} random thetas", {0: rank}, "")
            )
    return out


def corpus_rows(done: Done) -> list[Row]:
    """The pool, and how well each score tells clean from spoilt passages (AUC) by domain."""
    facts = by_seed(done, "corpus", "all", lambda found: found)
    if not facts:
        return []
    out = [seeds_row("passages of the pool", {seed: found["passages"] for seed, found in facts.items()}, "")]
    out.append(seeds_row("spoilt, of the pool", {seed: found["spoilt"] for seed, found in facts.items()}, "of 1"))
    for name in next(iter(facts.values()))["domains"]:
        domains = {seed: found["domains"][name] for seed, found in facts.items()}
        auc = {
            f"AUC of {score.removeprefix('score.')}": statistics.fmean(own["auc"][score] for own in domains.values())
            for score in SCORES
        }
        out.append(seeds_row(f"{name}: spoilt", {seed: own["spoilt"] for seed, own in domains.items()}, "of 1", **auc))
    return out


# --- bars -----------------------------------------------------------------------------------------------------------


def best_top_k(done: Done) -> str:
    """The arm of them with the lowest mean loss of its final models: the choice is in its favour."""
    ran = [arm for arm in (*TOP_K, MEAN) if losses(done, arm)]
    return min(ran, key=lambda arm: statistics.fmean(losses(done, arm).values()))


def bars(done: Done, settings: Settings, *, quick: bool) -> list[Bar]:
    ours = losses(done, "quadmix")

    def ahead(arm: str) -> float | None:
        """By how many paired standard errors QuaDMix is better than the arm."""
        return None if quick or not ours else paired(losses(done, arm), ours).in_errors

    rival = best_top_k(done)
    varied = [found["deviation of predictions"] for job, found in done.items() if job.setting == "search"]
    sizes = [found["passages"] for job, found in done.items() if job.setting == "corpus"]
    return [
        Bar(name="random minus quadmix, in paired standard errors", value=ahead("random"), op=">", want=2.0),
        Bar(name="regmix minus quadmix, in paired standard errors", value=ahead("regmix"), op=">=", want=-1.0),
        Bar(
            name=f"the best top-k ({rival}) minus quadmix, in paired standard errors",
            value=ahead(rival),
            op=">=",
            want=-1.0,
        ),
        Bar(
            name="quadmix on shuffled scores minus quadmix, in paired standard errors",
            value=ahead("quadmix, shuffled scores"),
            op=">",
            want=0.0,
        ),
        Bar(
            name="least deviation of a surrogate's predictions over random points, nats/token",
            value=min(varied, default=None),
            op=">",
            want=0.0,
        ),
        Bar(
            name="different passages of the smallest pool",
            value=None if quick else float(min(sizes)),
            op=">=",
            want=POOL,
        ),
    ]


if __name__ == "__main__":
    command = harness.parser(__doc__)
    command.add_argument(
        "--proxies", choices=("ngram", "loop"), default="ngram", help="what a search measures (default: %(default)s)"
    )
    harness.main("quadmix", __doc__, measure, command=command)
