"""Rows of a batch weighted by their losses: where it helps a small language model, where it harms, and who is warned.

    repeats    40 % of the rows are copies of 48 rows; M = 32 rows of 48 tokens a step, 450 steps
    garbage    10 % or 3 % of the rows are random tokens; M = 24, 300 steps
    plain      nothing is wrong with the data: the same as repeats without them

Arms are uniform (the plain mean), LinUpper and Quadratic at r = 0.4 with the trimmed range of 2 %, and on repeats a
control: LinUpper's weights of every batch dealt out to its rows at random. Held-out rows are of other documents,
without repeats or garbage. A seed draws rows, initial weights and order anew, and all arms of it share them. The bar is
on repeats: LinUpper is at or below uniform's last evaluation at an earlier step, in every seed. On garbage the harm is
told as it is, with the garbage's share of the weight and whether the weighter's own warning came.

The linear regression of the paper (arXiv 2502.06733, a figure's caption: r = 1, LinUpper fastest, Quadratic also ahead)
is run at one learning rate for all and with each arm at the best of a grid.

Text is that of ``--data``, equal shares of its files; without, that of this Python installation. Price: some 45 minutes
of one core, half on two; resumed where it stopped.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.corpora import SEED, files_of, from_environment
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.small_lm import (
    VOCABULARY,
    Job,
    Piece,
    Schedule,
    documents_of,
    files_digest,
    new_model,
    paired_row,
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
from penstock.training.losses import weighted_sum

Done = Mapping[Job, dict[str, Any]]

ARMS = ("uniform", "linupper", "quadratic", "linupper, dealt at random")
# share of the rows that are of the other domain, and which
SETTINGS: Mapping[str, tuple[float, str]] = {
    "repeats": (0.4, "repeated"),
    "garbage 10 %": (0.1, "garbage"),
    "garbage 3 %": (0.03, "garbage"),
    "plain": (0.0, "repeated"),
}
REPEATS = Schedule(steps=450, rows=32, length=48, evaluate_every=25)
GARBAGE = Schedule(steps=300, rows=24, length=48, evaluate_every=25)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the runs, apart from the files."""

    revision: int = 2  # of what this file and small_lm.py do
    seeds: int = 5
    repeated: int = 48  # rows
    garbage: int = 1000
    held_out: int = 256
    temperature: float = 0.4
    trim: float = 0.02
    warmup: int = 20  # steps without weights, those of the learning rate's warm-up
    repeats: Schedule = REPEATS
    garbled: Schedule = GARBAGE

    def schedule_of(self, setting: str) -> Schedule:
        return self.garbled if setting.startswith("garbage") else self.repeats

    @property
    def fresh(self) -> int:
        """Rows that no run reads twice."""
        return max(self.schedule_of(s).steps * self.schedule_of(s).rows for s in SETTINGS)


QUICK = Settings(
    seeds=2,
    held_out=64,
    warmup=5,
    repeats=replace(REPEATS, steps=40, evaluate_every=5, warmup=5),
    garbled=replace(GARBAGE, steps=40, evaluate_every=5, warmup=5),
)


# --- the data -------------------------------------------------------------------------------------------------------


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    """Write the rows of every seed below ``folder``; what is there is kept."""
    if all((folder / f"seed-{seed}" / "done.json").exists() for seed in range(settings.seeds)):
        return
    length = settings.repeats.length
    files = files_of(data)
    each = -(-(settings.fresh + settings.repeated) // len(files))
    # three documents for two, so that seeds differ, and a tenth to hold out
    characters = int(1.7 * each * length * 5)
    documents = {path.name.removesuffix(".jsonl.gz"): documents_of(path, characters) for path in files}
    encode = train_tokenizer(documents, folder)
    pieces = {name: pieces_of(name, texts, encode, length) for name, texts in documents.items()}
    for seed in range(settings.seeds):
        prepare_seed(folder / f"seed-{seed}", pieces, settings, seed)


def prepare_seed(folder: Path, pieces: Mapping[str, list[Piece]], settings: Settings, seed: int) -> None:
    """Draw and write one seed's rows, equally many of each file; held-out rows are of documents of their own."""
    length = settings.repeats.length
    held, rows = [], []
    for name, found in pieces.items():
        names = list(dict.fromkeys(piece.document for piece in found))
        rng = stream(SEED, "held out", seed, name)
        apart = set(rng.permutation(names)[: max(1, len(names) // 10)].tolist())
        order = rng.permutation(len(found)).tolist()
        held.append([found[i] for i in order if found[i].document in apart])
        rows.append([found[i] for i in order if found[i].document not in apart])
    need = settings.fresh + settings.repeated
    chosen = {"held out": in_turn(held, settings.held_out), "train": in_turn(rows, need)}
    rng = stream(SEED, "rows", seed)
    train_rows = [chosen["train"][i] for i in rng.permutation(need).tolist()]
    noise = rng.integers(2, VOCABULARY, (settings.garbage, length))  # 0 and 1 are control tokens
    sets = {
        "fresh": train_rows[settings.repeated :],
        "repeated": train_rows[: settings.repeated],
        "garbage": [Piece(f"garbage/{i}", "garbage", row.astype(np.uint16)) for i, row in enumerate(noise)],
        "held out": chosen["held out"],
    }
    for name, of in sets.items():
        write_domain(folder / f"{name}.arrow", name, of, length)
    write_json(folder / "done.json", {name: len(of) for name, of in sets.items()})


def in_turn(groups: list[list[Piece]], count: int) -> list[Piece]:
    """``count`` pieces, one of each group in turn while it has any."""
    out = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)]
    if len(out) < count:
        raise BenchmarkError(f"--data: got {len(out)} rows, allowed {count} and more; bring more text")
    return out[:count]


# --- one run --------------------------------------------------------------------------------------------------------


class Weigh:
    """The objective of an arm, and what there is to say about its weights."""

    def __init__(self, settings: Settings, arm: str, other: int | None, seed: int) -> None:
        """``other``: index of the domain that is repeated or garbage."""
        from penstock.training.weighting import WeightingConfig

        self.arm, self.other, self.seed = arm, other, seed
        self.weighter = WeightingConfig(
            strategy=arm.partition(",")[0],
            temperature=settings.temperature,
            trim=settings.trim,
            warmup_steps=settings.warmup,
        ).build()
        self.warned: int | None = None
        self.shares: list[float] = []  # of the weight, of the other domain, by weighted step
        self.rows: list[float] = []  # of the rows
        self.effective: list[float] = []  # effective size over M
        self.largest: list[float] = []  # M times the largest weight

    def __call__(
        self,
        batch: Any,
        losses: torch.Tensor,
        rows: torch.Tensor,
        sums: torch.Tensor,
        counts: torch.Tensor,
        step: int,
    ) -> torch.Tensor:
        now = self.weighter.begin(step, counts.numpy())
        if now.plain:
            objective = now.loss(losses, rows, sums)
        else:
            factors = now.coefficients(sums)
            if self.arm.endswith("at random"):
                order = stream(SEED, "deal", self.seed, step).permutation(len(factors))
                factors = factors[torch.from_numpy(order)]
            self._note(batch, (factors * counts).numpy())
            objective = weighted_sum(losses, rows, factors)
        assert now.finish() == 1.0, "weights known before the gradient is taken leave it alone afterwards"
        if self.warned is None and self.weighter.warning() is not None:
            self.warned = step
        return objective

    def _note(self, batch: Any, weights: NDArray[Any]) -> None:
        of_other = batch.domain == self.other if self.other is not None else np.zeros(len(weights), np.bool_)
        self.shares.append(float(weights[of_other].sum() / weights.sum()))
        self.rows.append(float(of_other.mean()))
        self.effective.append(float(weights.sum() ** 2 / np.square(weights).sum() / len(weights)))
        self.largest.append(float(len(weights) * weights.max() / weights.sum()))

    def facts(self) -> dict[str, Any]:
        return {name: statistics.fmean(of) for name, of in vars(self).items() if isinstance(of, list) and of}


def run(folder: Path, job: Job) -> dict[str, Any]:
    """Train one arm and measure it."""
    from penstock.training.loader import MixtureLoader
    from penstock.training.sequences import SequenceStore

    settings = settings_in(folder)
    schedule, here = settings.schedule_of(job.setting), folder / f"seed-{job.seed}"
    share, other = SETTINGS[job.setting]
    weights = {"fresh": 1.0 - share} | ({other: share} if share else {})
    loader = MixtureLoader(
        SequenceStore.open({name: [here / f"{name}.arrow"] for name in weights}),
        weights,
        seed=derive(SEED, "order", job.seed),
        fingerprint=f"seed {job.seed}",
        batch_size=schedule.rows,
    )
    held_out = SequenceStore.open({"held out": [here / "held out.arrow"]})
    weigh = Weigh(settings, job.arm, loader.domains.index(other) if share else None, job.seed)
    model = new_model(schedule.length, derive(SEED, "model", job.seed))
    tokens = held_out.gather("held out", np.arange(held_out.rows[0]))
    done = train(model, loader, schedule, tokens, objective_of=weigh)
    return {
        "loss": done.evaluations[schedule.steps],
        "evaluations": {str(step): loss for step, loss in done.evaluations.items()},
        "seconds": done.seconds,
        "warned": weigh.warned,
        "weights": weigh.facts(),
    }


def settings_in(folder: Path) -> Settings:
    """The settings that a scratch folder was made for."""
    saved = json.loads((folder / "settings.json").read_text())["settings"]["runs"]
    return Settings(**saved | {name: Schedule(**saved[name]) for name in ("repeats", "garbled")})


# --- the linear regression ------------------------------------------------------------------------------------------

RATES = (0.01, 0.04, 0.16, 0.32, 0.64, 0.96, 1.28)
SAME_RATE = 0.01


def steps_to_fit(strategy: str, rate: float, seed: int, *, most: int) -> int:
    """Steps of gradient descent on batches of 32 until the distance to the solution is a thousandth; ``most`` if never.

    Eight numbers in, one out, no noise; squared errors are weighted at r = 1.
    """
    from penstock.training.weighting import loss_weights

    rng = stream(SEED, "regression", seed)
    truth = rng.normal(size=8)
    found = np.zeros(8)
    for step in range(1, most + 1):
        x = rng.normal(size=(32, 8))
        error = x @ (found - truth)
        losses = 0.5 * error**2
        if strategy == "uniform":
            weights = np.full(32, 1 / 32)
        else:
            weights = loss_weights(losses, strategy=strategy, temperature=1.0)  # type: ignore[arg-type]
        found = found - rate * (weights * error) @ x
        distance = np.linalg.norm(found - truth) / np.linalg.norm(truth)
        if distance < 1e-3:
            return step
        if not distance < 1e6:
            break
    return most


def regression_rows(seeds: int, most: int = 2000) -> list[Row]:
    """Steps by strategy: at one learning rate, then each at its best."""
    out = []
    for strategy in ("uniform", "linupper", "quadratic"):
        by_rate = {
            rate: {seed: steps_to_fit(strategy, rate, seed, most=most) for seed in range(seeds)} for rate in RATES
        }
        best = min(RATES, key=lambda rate: statistics.fmean(by_rate[rate].values()))
        out.append(seeds_row(f"linear regression: {strategy}, learning rate {SAME_RATE}", by_rate[SAME_RATE], "steps"))
        out.append(seeds_row(f"linear regression: {strategy}, its best rate of {best}", by_rate[best], "steps"))
    return sorted(out, key=lambda row: "best" in row["what"])


# --- the whole ------------------------------------------------------------------------------------------------------


def jobs_of(settings: Settings) -> list[Job]:
    """Setting by setting, the one of the bar first, and in it seed by seed."""
    arms = {
        "repeats": ARMS,
        "garbage 10 %": ARMS[:3],
        "garbage 3 %": ARMS[:3],
        "plain": ARMS[:2],
    }
    return [Job(setting, arm, seed) for setting in SETTINGS for seed in range(settings.seeds) for arm in arms[setting]]


def measure(options: Options) -> Result:
    settings = QUICK if options.quick else Settings()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as made:
        data = options.data
        if data is None:
            data = Path(made)
            from_environment(data, 6 if options.quick else 24)
        folder = scratch_folder("weighting", {"runs": settings, "files": files_digest(data)})
        prepare(data, folder, settings)
    done = run_jobs(run, folder, jobs_of(settings))
    return result_of(done, settings, quick=options.quick)


def result_of(done: Done, settings: Settings, *, quick: bool) -> Result:
    """Rows and bars of the runs that are done."""
    return Result(
        rows=[*loss_rows(done), *weight_rows(done), *regression_rows(3 if quick else 10)],
        bars=bars(done, settings, quick=quick),
        versions=harness.versions("torch", "numpy") | surroundings(),
    )


def by_seed(done: Done, setting: str, arm: str, what: str = "loss") -> dict[int, Any]:
    """A figure of every seed that ran."""
    return {job.seed: found[what] for job, found in done.items() if (job.setting, job.arm) == (setting, arm)}


def reached(done: Done, setting: str, arm: str) -> dict[int, int | None]:
    """First evaluated step of an arm at or below uniform's last loss, by seed; None where it never was."""
    last = by_seed(done, setting, "uniform")
    out: dict[int, int | None] = {}
    for seed, evaluations in by_seed(done, setting, arm, "evaluations").items():
        if seed in last:
            below = [int(step) for step, loss in evaluations.items() if loss <= last[seed]]
            out[seed] = min(below, default=None)
    return out


def loss_rows(done: Done) -> list[Row]:
    """Last losses, each arm against uniform, and the step at which uniform's last loss was reached."""
    out = []
    for setting in SETTINGS:
        arms = [arm for arm in ARMS if by_seed(done, setting, arm)]
        out += [seeds_row(f"{setting}: {arm}", by_seed(done, setting, arm), "nats/token") for arm in arms]
        for arm in arms[1:]:
            ours, plain = by_seed(done, setting, arm), by_seed(done, setting, "uniform")
            out.append(paired_row(f"{setting}: {arm} minus uniform", ours, plain, "nats/token"))
            if not setting.startswith("garbage"):
                first = reached(done, setting, arm)
                out.append(seeds_row(f"{setting}: {arm}, at uniform's last loss after", first, "steps"))
    return out


def weight_rows(done: Done) -> list[Row]:
    """The other domain's share of the weight, how even the weights are, and the warnings."""
    out = []
    for setting, (share, other) in SETTINGS.items():
        for arm in ARMS:
            facts = by_seed(done, setting, arm, "weights")
            if arm == "uniform" or not facts:
                continue

            def of(what: str, facts: Mapping[int, Any] = facts) -> dict[int, float]:
                return {seed: found[what] for seed, found in facts.items()}

            if share:
                name = f"{setting}: {arm}, weight of the {statistics.fmean(of('rows').values()):.1%} {other} rows"
                out.append(seeds_row(name, of("shares"), "of 1"))
            out.append(seeds_row(f"{setting}: {arm}, effective size over M", of("effective"), ""))
            warned = by_seed(done, setting, arm, "warned")
            out.append(seeds_row(f"{setting}: {arm}, warning of the tail after", warned, "steps"))
    return out


def bars(done: Done, settings: Settings, *, quick: bool) -> list[Bar]:
    first = reached(done, "repeats", "linupper")
    earlier = [seed for seed, step in first.items() if step is not None and step < settings.repeats.steps]
    return [
        Bar(
            name="repeats: share of seeds in which linupper is at uniform's last loss in fewer steps",
            value=None if quick or not first else len(earlier) / len(first),
            op=">=",
            want=1.0,
        )
    ]


if __name__ == "__main__":
    harness.main("weighting", __doc__, measure)
