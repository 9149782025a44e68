"""Does Voyager find the diversity that a collapsed proposer hides? Procedural problems, without a language model.

The collapse is fixed before anything else: a proposer draws reasoning-gym families by Zipf's law, s = 2, over an order
that the seed decides, so that three of five problems are of one family. Each of six arms makes 500 rows with each of
five seeds (see voyager_arms.py). Diversity is the Vendi score of the questions under one fixed kernel, the cosine of
all-MiniLM-L6-v2; the runs themselves see the static embedder alone. The share of the gap is

    (voyager - default) / (uniform - default)

Bars: 70 % of the gap, in the mean of the seeds; more Vendi than the threshold alone and than random successors, by more
than two paired standard errors. They are claims that may fail. Every row is a problem whose answer its family's own
scorer accepts, in every arm, so validity is the same.

Beside Vendi: the same under the embedder of the runs; the mean Jaccard distance of the questions' words without stop
words; the mean cosine distance; how many families there are and the share of the largest; what it took: items proposed,
and steps (an explorer proposing or refining once).

Price: some 20 minutes of two cores, nearly all of it all-MiniLM-L6-v2; resumed where it stopped.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.small_lm import Job, paired, paired_row, run_jobs, scratch_folder, seeds_row
from benchmarks.voyager_arms import ARMS, Settings, prepare, work

Done = Mapping[Job, dict[str, Any]]

SHARE = 0.70
ERRORS = 2.0  # paired standard errors
FIGURES = {
    "vendi": "",
    "vendi of the run's embedder": "",
    "lexical": "distance",
    "cosine": "distance",
    "cosine, spread": "distance",
    "families": "families",
    "largest family": "share",
    "proposed": "items",
    "steps": "steps",
    "seconds": "s",
}
QUICK = Settings(count=24, seeds=(0, 1), sample=20)


def measure(options: Options) -> Result:
    settings = QUICK if options.quick else Settings()
    versions = harness.versions("reasoning-gym", "sentence-transformers", "torch", "numpy")
    folder = scratch_folder("voyager", {"runs": settings, "versions": versions, "code": code_digest()})
    prepare(folder)
    done = run_jobs(work, folder, [Job("procedural", arm, seed) for seed in settings.seeds for arm in ARMS])
    return result_of(done, versions, quick=options.quick)


def code_digest() -> str:
    """Of the code that decides what a run finds."""
    generators = harness.ROOT / "penstock" / "generators"
    files = [harness.ROOT / "benchmarks" / "voyager_arms.py", *(generators / "voyager").glob("*.py")]
    files += [
        path for path in (generators / "explorers").iterdir() if "procedural" in path.name or "families" in path.name
    ]
    state = hashlib.sha256()
    for path in sorted(files):
        state.update(path.read_bytes())
    return state.hexdigest()


def by_seed(done: Done, arm: str, figure: str) -> dict[int, float]:
    return {job.seed: found[figure] for job, found in done.items() if job.arm == arm}


def result_of(done: Done, versions: dict[str, str], *, quick: bool) -> Result:
    """Rows and bars of the runs that are done.

    Raises:
        BenchmarkError: a run ended before it had its rows, so arms would not compare.
    """
    sizes = {found["rows"] for found in done.values()}
    if len(sizes) > 1:
        short = [f"{job.arm}, seed {job.seed}: {found['rows']} rows, {found['reason']}" for job, found in done.items()]
        raise BenchmarkError(f"voyages of different sizes do not compare: {'; '.join(short)}")
    rows: list[Row] = [
        seeds_row(f"{arm}: {figure}", by_seed(done, arm, figure), unit)
        for arm in ARMS
        for figure, unit in FIGURES.items()
    ]
    shares = share_of_gap(done)
    scores = {arm: by_seed(done, arm, "vendi") for arm in ARMS}
    rows.append(seeds_row("share of the gap closed", shares, "share"))
    bars = [
        Bar(
            name="share of the Vendi gap from default to uniform that is closed",
            value=None if quick or not shares else statistics.fmean(shares.values()),
            op=">=",
            want=SHARE,
        )
    ]
    for arm in ARMS[:-1]:
        rows.append(paired_row(f"vendi: voyager - {arm}", scores["voyager"], scores[arm], ""))
    for arm in ("gate_only", "random_refinement"):
        errors = paired(scores["voyager"], scores[arm]).in_errors
        bars.append(
            Bar(
                name=f"Vendi above {arm}, in paired standard errors",
                value=None if quick else errors,
                op=">",
                want=ERRORS,
            )
        )
    rows += drop_rows(done)
    return Result(rows=rows, bars=bars, versions=versions)


def share_of_gap(done: Done) -> dict[int, float]:
    """By seed: (voyager - default) / (uniform - default)."""
    scores = {arm: by_seed(done, arm, "vendi") for arm in ("default", "uniform", "voyager")}
    return {
        seed: (scores["voyager"][seed] - low) / (scores["uniform"][seed] - low)
        for seed, low in scores["default"].items()
        if seed in scores["uniform"] and seed in scores["voyager"]
    }


def drop_rows(done: Done) -> list[Row]:
    """Of every arm and reason the mean share of the proposed items."""
    out = []
    for arm in ARMS:
        reasons = sorted({reason for job, found in done.items() if job.arm == arm for reason in found["dropped"]})
        for reason in reasons:
            found = {
                job.seed: found["dropped"].get(reason, 0) / found["proposed"]
                for job, found in done.items()
                if job.arm == arm
            }
            out.append(seeds_row(f"{arm}: dropped, {reason}", found, "of the items proposed"))
    return out


if __name__ == "__main__":
    harness.main("voyager", __doc__, measure)
