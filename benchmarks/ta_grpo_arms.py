"""One run of ``benchmarks.ta_grpo``: its settings, what it is asked, the training, and what is measured of it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.small_lm import Job, write_json
from benchmarks.ta_grpo_model import Fit
from benchmarks.ta_grpo_problems import HELD_OUT, TRAINED, Group, apart, made, planted
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import ProblemTable

ARMS: dict[str, dict[str, Any]] = {
    "original": {"objective": "grpo", "phrasings": "original", "pool": "problem"},
    "unpooled": {"objective": "grpo", "phrasings": "one", "pool": "problem"},
    "pooled": {"objective": "ta-grpo", "phrasings": "all", "pool": "group"},
    "small groups": {"objective": "grpo", "phrasings": "all", "pool": "problem"},
}
CLEAN, SWEEP, POLICY = "faults 0", "sweep", "policy"
SWEEP_SEED = 100
KS = (1, 2, 4, 8, 16, 32)
PHRASINGS = "phrasings"  # all of the held-out kinds together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a run of the benchmark; all else is as ``GroupRLConfig`` has it.

    Args:
        groups, held, swept: questions to train on, to be held out, and for the choice of the learning rate.
        rollouts: answers to each phrasing, of ``pooled``.
        faults: shares of the phrasings, in percent.
    """

    fit: Fit = dataclasses.field(default_factory=Fit)
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4)
    faults: tuple[int, ...] = (0, 5, 20)
    groups: int = 800
    held: int = 60
    swept: int = 60
    steps: int = 90
    warmup: int = 10
    groups_per_step: int = 16
    rollouts: int = 4
    samples: int = 32
    tokens: int = 40

    def config(self, arm: str, seed: int, rate: float) -> GroupRLConfig:
        of = ARMS[arm]
        phrasings = 1 + len(TRAINED)
        return GroupRLConfig(
            **of,
            rollouts=self.rollouts if of["phrasings"] == "all" else self.rollouts * phrasings,
            normalizer="token",
            steps=self.steps,
            seed=seed,
            learning_rate=rate,
            warmup_steps=self.warmup,
            groups_per_step=self.groups_per_step,
            max_new_tokens=self.tokens,
            instruction="",
            reward_workers=1,
            eval_problems=10**6,
            eval_samples=self.samples,
            eval_ks=tuple(k for k in KS if k <= self.samples),
            device="cpu",
            threads=1,
        )


QUICK = Settings(
    fit=Fit(questions=60, phrased=15, vocabulary=300, steps=4, rows=4, width=16, layers=1, heads=2),
    seeds=(0,),
    rates=(1e-3,),
    faults=(0, 20),
    groups=5,
    held=5,
    swept=5,
    steps=2,
    warmup=1,
    groups_per_step=2,
    rollouts=2,
    samples=2,
    tokens=8,
)


# --- what is asked ---------------------------------------------------------------------------------------------------


def rows_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [row for group in groups for row in group.rows()]


def sets_of(groups: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    """Questions of held-out groups by the way they are told; every row is a group of its own."""
    out: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        original = group.rows()[:1]
        for row in (*original, *group.rows(original=False)):
            out.setdefault(row["transform"], []).append(row)
    return out


def prepare(folder: Path, settings: Settings) -> None:
    """The questions of every job, in ``folder``."""
    if (folder / "held out.json").exists():
        return
    groups = made(settings.groups, "trained", TRAINED)
    for share in settings.faults:
        for seed in settings.seeds:
            rows = rows_of(planted(groups, share / 100, seed))
            write_json(folder / train_file(f"faults {share}", seed), rows)
    write_json(folder / train_file(SWEEP, SWEEP_SEED), rows_of(groups))
    swept = apart(made(settings.swept, "sweep", ()), groups)
    write_json(folder / "swept.json", sets_of(swept))
    held = made(settings.held, "held out", (*TRAINED, *HELD_OUT), least=len(TRAINED) + 1)
    write_json(folder / "held out.json", sets_of(apart(held, [*groups, *swept])))  # last: it says that all is there


def train_file(setting: str, seed: int) -> str:
    return f"train {setting} {seed}.json"


# --- one run ---------------------------------------------------------------------------------------------------------


def work(folder: Path, job: Job) -> dict[str, Any]:
    """Train an arm and measure it; ``POLICY`` measures what all begin with."""
    settings = settings_in(folder)
    held = json.loads((folder / ("swept.json" if job.setting == SWEEP else "held out.json")).read_text())
    policy = Path(json.loads((folder / "policy.json").read_text()))
    if job.setting == POLICY:
        config = settings.config("original", job.seed, settings.rates[0])
        return assess(policy, held, config)
    from penstock.training.group_rl.loop import learn

    rate = float(job.arm) if job.setting == SWEEP else json.loads((folder / "rate.json").read_text())
    config = settings.config("original" if job.setting == SWEEP else job.arm, job.seed, rate)
    table = ProblemTable.of(_train_rows(folder, job.setting, job.seed))
    done = learn(config, policy, table, folder / "runs" / Path(job.file).stem, progress=False)
    lines = [json.loads(line) for line in done.metrics.read_text().splitlines()]
    asked = {name: rows for name, rows in held.items() if name not in TRAINED}
    return assess(done.model, asked, config) | trained(lines) | {"rate": rate, "answers": done.answers}


def trained(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the steps of a run: of rollouts' groups, of rewards, and of those of the last quarter."""
    names = ("zero_gradient", "all_zero", "all_one", "mixed")
    rewards = [line["reward"] for line in lines]
    return {
        "of rollouts": {
            name: statistics.fmean(line["groups"]["of_rollouts"][name] for line in lines) for name in names
        },
        "reward": statistics.fmean(rewards),
        "last reward": statistics.fmean(rewards[-max(1, len(rewards) // 4) :]),
        "unknown": statistics.fmean(line["groups"]["unknown"] for line in lines),
    }


def assess(model: Path, asked: Mapping[str, list[dict[str, Any]]], config: GroupRLConfig) -> dict[str, Any]:
    """pass@k by the way questions are told; the kinds that are held out also together."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from penstock.training.group_rl.evaluation import evaluate
    from penstock.training.group_rl.questions import Questions
    from penstock.training.group_rl.rewards import reward_model
    from penstock.training.group_rl.sampling import Sampler, end_tokens
    from penstock.training.model import without_progress_bars

    with without_progress_bars():
        policy, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    sets = {
        name: Questions.of(ProblemTable.of(rows), tokenizer, instruction="", most=None) for name, rows in asked.items()
    }
    with ExitStack() as stack:
        sampler = Sampler(policy, end_tokens(policy, tokenizer))
        found = evaluate(sampler, tokenizer, sets, reward_model(config, stack), config)
    passed = {name: {k: one["mean"] for k, one in of["pass"].items()} for name, of in found.items()}
    kinds = [name for name in HELD_OUT if name in found]
    if kinds:
        weights = [found[name]["problems"] for name in kinds]
        passed[PHRASINGS] = {
            str(k): statistics.fmean([passed[name][str(k)] for name in kinds], weights) for k in config.eval_ks
        }
    return {"pass": passed, "problems": {name: of["problems"] for name, of in found.items()}}


def pull_of_faults(folder: Path, job: Job) -> dict[str, float | None]:
    """What faulty phrasings did to the advantages of a run, out of its stored answers.

    Returns:
        ``rollouts``: share of all answers that were to faulty phrasings; ``pull``: their share of the sum of
        |advantage|, which is their share of the gradient; ``right``: mean advantage of right answers to sound
        phrasings in groups with a fault that was asked; ``right elsewhere``: in other groups. None of nothing.
    """
    import pyarrow.parquet as pq

    sound = {row["problem_id"]: row["prompt"] for row in _train_rows(folder, CLEAN, job.seed)}
    spoilt = _train_rows(folder, job.setting, job.seed)
    faulty = {row["problem_id"] for row in spoilt if row["prompt"] != sound[row["problem_id"]]}
    columns = ["step", "problem_id", "group_id", "advantage", "reward"]
    table = pq.read_table(folder / "runs" / Path(job.file).stem / "rollouts", columns=columns)
    found = {name: table[name].to_numpy() for name in columns}
    hit = np.isin(found["problem_id"], sorted(faulty))
    asked = {(step, group) for step, group in zip(found["step"][hit], found["group_id"][hit], strict=True)}
    beside = np.array([pair in asked for pair in zip(found["step"], found["group_id"], strict=True)], bool)
    size, right = np.abs(found["advantage"]), found["reward"] == 1.0
    return {
        "rollouts": float(hit.mean()),
        "pull": float(size[hit].sum() / size.sum()) if size.sum() else None,
        "right": _mean(found["advantage"][right & beside & ~hit]),
        "right elsewhere": _mean(found["advantage"][right & ~beside]),
    }


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None


def _train_rows(folder: Path, setting: str, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / train_file(setting, seed)).read_text())
    return rows


def settings_in(folder: Path) -> Settings:
    saved = json.loads((folder / "settings.json").read_text())["settings"]["runs"]
    lists = {name: tuple(saved[name]) for name in ("seeds", "rates", "faults")}
    return Settings(**{**saved, **lists, "fit": Fit(**saved["fit"])})
