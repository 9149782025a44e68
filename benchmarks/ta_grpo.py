"""Pooled against unpooled groups: TA-GRPO, GRPO with the same phrasings, and GRPO with originals alone.

A small Llama is fitted to worked answers of word problems (``ta_grpo_model``, ``ta_grpo_problems``) until it is right
some of the time, and then learns from its own answers (``penstock.training.group_rl``) in four arms:

    original       the original alone, 16 answers each: GRPO
    unpooled       one of the four phrasings, drawn at each turn, 16 answers: GRPO on the same questions as ``pooled``
    pooled         all four phrasings, 4 answers each, in one pool of 16: TA-GRPO
    small groups   as ``pooled``, but every phrasing is a pool of its own, of 4

All have equal rollouts a question, questions, steps, loss and learning rate, and the first three have equal groups. The
learning rate is that of a list with which ``original`` does best on questions of its own, under a seed that is in no
other figure. What is measured: the share of rollouts without gradient, and pass@k of held-out questions of the same
families, as originals and in phrasings of kinds that no arm learns from.

Then faults are planted into 5 and 20 % of the phrasings, whose text then has another answer than the one stored, and
``pooled`` and ``unpooled`` run again: what a mistransformed variant does to a pool, and to what its siblings are told.

A bar asks for more than two paired standard errors over the seeds. The objectives are right when their theorems hold,
whoever wins here.

Price: 50 minutes of CPU time in all; runs that were stopped go on where they were.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import harness
from benchmarks.corpora import SEED
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.small_lm import Job, paired, paired_row, run_jobs, scratch_folder, seeds_row, surroundings, write_json
from benchmarks.ta_grpo_arms import (
    ARMS,
    CLEAN,
    KS,
    PHRASINGS,
    POLICY,
    QUICK,
    SWEEP,
    SWEEP_SEED,
    Settings,
    prepare,
    pull_of_faults,
    work,
)
from benchmarks.ta_grpo_model import fit
from benchmarks.ta_grpo_problems import FAMILIES, HELD_OUT, TRAINED
from penstock.seeding import stream
from penstock.training.group_rl.zero_gradient import z_pool, z_single

FAULTY = ("unpooled", "pooled")  # arms that faults are planted for
COMPARED = (("pooled", "unpooled"), ("pooled", "original"), ("unpooled", "original"))
ERRORS = 2.0  # paired standard errors
Done = Mapping[Job, dict[str, Any]]


# --- all runs --------------------------------------------------------------------------------------------------------


def jobs_of(settings: Settings) -> list[Job]:
    """All jobs but those of the sweep, seed by seed; without faults first, then the most."""
    jobs = [Job(POLICY, "none", seed) for seed in settings.seeds]
    for share in sorted(settings.faults, key=lambda share: (share > 0, -share)):
        arms = FAULTY if share else tuple(ARMS)
        jobs += [Job(f"faults {share}", arm, seed) for seed in settings.seeds for arm in arms]
    return jobs


def chosen_rate(swept: Done) -> float:
    """The learning rate with the largest pass@1."""
    return float(max(swept, key=lambda job: swept[job]["pass"]["original"]["1"]).arm)


def measure(options: Options) -> Result:
    settings = QUICK if options.quick else Settings()
    asked = [TRAINED, HELD_OUT, FAMILIES]
    policy = fit(settings.fit, scratch_folder("ta_grpo_policy", {"fit": settings.fit, "asked": asked}) / "policy")
    folder = scratch_folder("ta_grpo", {"runs": settings, "asked": asked})
    write_json(folder / "policy.json", str(policy))
    prepare(folder, settings)
    sweep = [Job(SWEEP, f"{rate:g}", SWEEP_SEED) for rate in settings.rates]
    swept = run_jobs(work, folder, sweep)
    if len(swept) < len(sweep):
        raise BenchmarkError("interrupted before the learning rate was chosen; run again, it goes on where it was")
    write_json(folder / "rate.json", chosen_rate(swept))
    done = run_jobs(work, folder, jobs_of(settings))
    pulls = {job: pull_of_faults(folder, job) for job in done if job.setting not in (POLICY, CLEAN)}
    return result_of(swept, done, pulls, settings, quick=options.quick)


# --- what is reported ------------------------------------------------------------------------------------------------


def by_seed(done: Done, setting: str, arm: str, *names: str) -> dict[int, float]:
    """A figure of every seed that ran, by the names on the way to it."""
    out = {}
    for job, found in done.items():
        if (job.setting, job.arm) == (setting, arm):
            value: Any = found
            for name in names:
                value = value[name]
            out[job.seed] = float(value)
    return out


def result_of(swept: Done, done: Done, pulls: Done, settings: Settings, *, quick: bool) -> Result:
    """Rows and bars of the runs that are done."""
    ks = [str(k) for k in KS if k <= settings.samples]
    rows = [
        {
            "what": f"learning rate {job.arm}: pass@1 of originals",
            "mean": found["pass"]["original"]["1"],
            "unit": "share",
        }
        for job, found in swept.items()
    ]
    rows += [*theorem_rows(), *policy_rows(done, ks)]
    for share in settings.faults:
        setting = f"faults {share}"
        arms = [arm for arm in ARMS if by_seed(done, setting, arm, "reward")]
        rows += [*arm_rows(done, setting, arms, ks), *pull_rows(pulls, setting, arms)]
        rows += [
            paired_row(f"{setting} %, {one} - {other}: {name}", *pair, "share")
            for one, other in (*COMPARED, ("pooled", "small groups"))
            if one in arms and other in arms
            for name, pair in pairs(done, setting, one, other, ks[-1]).items()
        ]
    return Result(
        rows=rows,
        bars=bars(done, ks[-1], quick=quick),
        versions=harness.versions("torch", "transformers", "numpy") | surroundings(),
    )


def theorem_rows(draws: int = 20_000) -> list[Row]:
    """Shares of random questions of which a group of all phrasings lacks a gradient more often than another group.

    Every p_m is from Beta(1/2, 1/2); two answers a phrasing, one to seven variants in turn.
    """
    over: dict[str, list[float]] = {}
    for variants in range(1, 8):
        p = stream(SEED, "ta-grpo theorems", variants).beta(0.5, 0.5, (draws, variants + 1))
        pool, budget = z_pool(p, 2), 2 * (variants + 1)
        for name, other in (
            ("original, 2 answers", z_single(p[:, 0], 2)),
            ("average phrasing, equal answers", z_single(p.mean(axis=1), budget)),
            ("each phrasing, equal answers", z_single(p, budget).mean(axis=1)),
            ("original, equal answers", z_single(p[:, 0], budget)),
        ):
            # where all p are nearly one, both sides differ by rounding
            over.setdefault(name, []).append(float((pool > other * (1 + 1e-9)).mean()))
    return [
        {"what": f"pool without gradient more often than: {name}", "mean": statistics.fmean(shares), "unit": "of draws"}
        for name, shares in over.items()
    ]


def passes(asked: str, k: str) -> str:
    """The name of a figure."""
    return f"pass@{k} of {'originals' if asked == 'original' else 'held-out phrasings'}"


def policy_rows(done: Done, ks: Sequence[str]) -> list[Row]:
    """What the policy does before it learns from groups, and how much harder kinds of phrasings are than originals."""

    def of(name: str, k: str) -> dict[int, float]:
        return by_seed(done, POLICY, "none", "pass", name, k)

    rows = [
        seeds_row(f"policy: {passes(name, k)}", of(name, k), "share") for name in ("original", PHRASINGS) for k in ks
    ]
    for name in (*TRAINED, *HELD_OUT):
        rows.append(
            paired_row(f"policy: shift of difficulty, {name} - original", of(name, "1"), of("original", "1"), "p")
        )
    return rows


def arm_rows(done: Done, setting: str, arms: Sequence[str], ks: Sequence[str]) -> list[Row]:
    rows = []
    for arm in arms:
        for name, at in (
            ("rollouts without gradient", ("of rollouts", "zero_gradient")),
            ("rollouts of groups that are all wrong", ("of rollouts", "all_zero")),
            ("rollouts of groups that are all right", ("of rollouts", "all_one")),
            ("reward, mean of all steps", ("reward",)),
            ("reward, mean of the last quarter", ("last reward",)),
            *((passes(asked, k), ("pass", asked, k)) for asked in ("original", PHRASINGS) for k in ks),
        ):
            rows.append(seeds_row(f"{setting} %, {arm}: {name}", by_seed(done, setting, arm, *at), "share"))
    return rows


def pull_rows(pulls: Done, setting: str, arms: Sequence[str]) -> list[Row]:
    """What faulty phrasings did to advantages."""
    return [
        seeds_row(f"{setting} %, {arm}: {what}", found, unit)
        for arm in arms
        for what, name, unit in (
            ("answers to faulty phrasings", "rollouts", "share"),
            ("|advantage| on faulty phrasings", "pull", "share"),
            ("advantage of right answers beside a faulty phrasing", "right", ""),
            ("advantage of right answers in other groups", "right elsewhere", ""),
        )
        if (found := {job.seed: of[name] for job, of in pulls.items() if (job.setting, job.arm) == (setting, arm)})
    ]


def pairs(
    done: Done, setting: str, one: str, other: str, k: str
) -> dict[str, tuple[dict[int, float], dict[int, float]]]:
    """Figures of two arms that are compared."""
    places = {"rollouts without gradient": ("of rollouts", "zero_gradient")} | {
        passes(asked, most): ("pass", asked, most) for asked in ("original", PHRASINGS) for most in ("1", k)
    }
    return {name: (by_seed(done, setting, one, *at), by_seed(done, setting, other, *at)) for name, at in places.items()}


def bars(done: Done, k: str, *, quick: bool) -> list[Bar]:
    """Pooled against unpooled and both against originals, on held-out phrasings, in paired standard errors."""
    out = []
    for one, other in COMPARED:
        found = pairs(done, CLEAN, one, other, k)
        for name in (passes(PHRASINGS, "1"), passes(PHRASINGS, k)):
            apart_by = paired(*found[name]).in_errors
            out.append(Bar(name=f"{name}, {one} above {other}", value=None if quick else apart_by, op=">", want=ERRORS))
    fewer = paired(*reversed(pairs(done, CLEAN, "pooled", "unpooled", k)["rollouts without gradient"])).in_errors
    name = "fewer rollouts without gradient, pooled than unpooled"
    return [*out, Bar(name=name, value=None if quick else fewer, op=">", want=ERRORS)]


if __name__ == "__main__":
    harness.main("ta_grpo", __doc__, measure)
