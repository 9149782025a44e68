"""The search of selection parameters on a known truth: how good its proposals are, and what its parts cost.

The truth is a function of QuaDMix's theta for 26 domains of unlike sizes, usefulness and criteria (182 coordinates):
mean quality and usefulness of what is sampled, the spread over domains, and how far the size is from 5 % of the
corpus. A search sees 300 draws of Algorithm 1 with noise of 0.15 deviations of the truth over draws, and proposes;
figures are the **true** value of what it proposes, in deviations from the mean draw, lower is better.

The price of ``expected`` is that of one theta over all rows of a pool, in processor time.

Price: some two minutes of one core.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from penstock.seeding import stream
from penstock.selectors.quadmix_theta import Criterion
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.propose import best_mean, evolve
from penstock.selectors.search.settings import SearchSettings
from penstock.selectors.search.space import Floats, ThetaSpace
from penstock.selectors.search.surrogate import fit_surrogate

CRITERIA = ("a", "b", "c")
DOMAINS = 26
POINTS, SEEDS, REFERENCE = 300, 4, 4000
NOISE = 0.15
PART = 500  # points that the truth is computed of at once


def space_of(domains: int) -> ThetaSpace:
    return ThetaSpace(
        criteria=tuple(Criterion(column=f"score.{name}", direction="higher") for name in CRITERIA),
        domains=tuple(f"d{i:02d}" for i in range(domains)),
    )


class Truth:
    """The loss of a theta, in deviations from the mean of Algorithm 1's draws."""

    def __init__(self, space: ThetaSpace, seed: int) -> None:
        rng, domains = stream(seed, "search benchmark", "truth"), len(space.domains)
        self.space = space
        self.size = rng.dirichlet(np.full(domains, 0.7))
        self.useful = rng.normal(0.0, 0.5, domains)
        self.telling = 0.6 * rng.random((domains, len(CRITERIA))) + 0.8 * np.array([0.1, 0.6, 0.8])
        drawn = self._raw(space.draw(REFERENCE, seed=seed, name="reference"))
        self.mean, self.deviation = float(drawn.mean()), float(drawn.std())

    def __call__(self, points: Floats) -> Floats:
        """Of points (n, P): (n,)."""
        return (self._raw(points) - self.mean) / self.deviation

    def _raw(self, points: Floats) -> Floats:
        parts = [self._part(points[i : i + PART]) for i in range(0, len(points), PART)]
        return np.concatenate(parts)

    def _part(self, points: Floats) -> Floats:
        n, space = len(CRITERIA), self.space
        block = points.reshape(len(points), len(space.domains), -1)
        lam, omega = space.lam_max ** block[:, :, n], space.omega_max * block[:, :, n + 1]
        eta, eps = block[:, :, n + 2], space.eps_max * block[:, :, n + 3]
        r = (np.arange(200) + 0.5) / 2000  # middles of 200 steps of [0, 0.1]
        base = 2.0 / (1.0 + np.exp(-np.clip(lam[..., None] * (omega[..., None] - r), -60.0, 60.0)))
        inside = np.where(r <= omega[..., None], base ** eta[..., None], 0.0)
        taken = 0.1 * inside.mean(-1) + eps
        quality = 0.1 * (inside * (1.0 - 10.0 * r)).mean(-1) / taken
        total = (self.size * taken).sum(1)
        share = self.size * taken / total[:, None]
        worth = (share * (self.useful + quality * (block[:, :, :n] * self.telling).sum(-1))).sum(1)
        spread = -(share * np.log(share)).sum(1)
        value: Floats = -(worth + 0.15 * spread - 0.05 * np.log(total / 0.05) ** 2)
        return value


def measure(options: harness.Options) -> harness.Result:
    from threadpoolctl import threadpool_limits

    result = harness.Result(versions=harness.versions("lightgbm", "numpy", "numba"))
    with threadpool_limits(limits=1):
        found = proposals(1 if options.quick else SEEDS, 10_000 if options.quick else 100_000, result)
        prices(result, (100_000,) if options.quick else (100_000, 1_000_000, 10_000_000))
    better = float(np.mean(found["mean of 10"]) - np.mean(found["evolution"]))
    result.bars.append(
        harness.Bar(name="deviations that evolution gains over the mean of 10", value=better, op=">=", want=0.0)
    )
    return result


def proposals(seeds: int, draws: int, result: harness.Result) -> dict[str, list[float]]:
    """The true values of what each way proposes, one a seed."""
    space = space_of(DOMAINS)
    found: defaultdict[str, list[float]] = defaultdict(list)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    settings = SearchSettings(draws=draws)

    def timed(what: str, call: Any) -> Any:
        start = time.process_time()
        out = call()
        seconds[what].append(time.process_time() - start)
        return out

    for seed in range(seeds):
        truth = Truth(space, seed)
        points = space.draw(POINTS, seed=seed, name="points")
        true = truth(points)
        seen = true + NOISE * stream(seed, "search benchmark", "noise").normal(size=POINTS)
        surrogate = timed("fit and judgement", lambda p=points, y=seen, s=seed: fit_surrogate(p, y, seed=s))
        found["best measured"].append(float(true[np.argmin(seen)]))
        for name, top in (("best predicted draw", 1), ("mean of 10", 10), ("mean of 128", 128)):
            own = replace(settings, top=top)
            proposal = timed("random", lambda o=own, m=surrogate, s=seed: best_mean(space, m, o, seed=s))
            found[name].append(float(truth(proposal.unit[None])[0]))
        proposal = timed("evolution", lambda m=surrogate, s=seed: evolve(space, m, settings, seed=s))
        found["evolution"].append(float(truth(proposal.unit[None])[0]))
        found["out-of-fold R2"].append(surrogate.fit.r2)
    for name, values in found.items():
        unit = "" if name == "out-of-fold R2" else "deviations"
        # one figure a seed: its mean says more than its median
        result.rows.append(harness.row(name, values, unit, mean=float(np.mean(values))))
    for name, values in seconds.items():
        result.rows.append(harness.row(f"{name}: processor time", values, "s"))
    return found


def prices(result: harness.Result, sizes: tuple[int, ...]) -> None:
    """Rows a second of one theta over a pool."""
    space = space_of(DOMAINS)
    for size in sizes:
        rng = stream(size, "search benchmark", "rows")
        table = pa.table(
            {
                "domain": pa.array(space.domains).take(pa.array(rng.integers(0, DOMAINS, size))),
                "split": pa.repeat(pa.scalar("train"), size),
                "tokens": rng.integers(1, 200, size),
                "id_hash": rng.integers(0, 2**63, size).astype(np.uint64),
                **{f"score.{name}": rng.random(size).round(4).astype(np.float32) for name in CRITERIA},
            }
        )
        units = space.draw(6, seed=0, name="prices")
        pool = Pool.of(table, space.parameters(units[0]))
        rates = []
        for unit in units:
            start = time.process_time()
            space.expected(pool, unit, target_tokens=5 * size, copy_cap=3.0)
            rates.append(size / (time.process_time() - start))
        # the first call compiles
        result.rows.append(harness.row(f"expected copies, pool of {size:,} rows", rates[1:], "rows/s"))


if __name__ == "__main__":
    harness.main("search", __doc__, measure)
