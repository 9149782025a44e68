"""A space, a scored pool, and the objective that stands in for proxies where only the search is tested."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from penstock.seeding import hash_ids, stream
from penstock.selectors.quadmix_theta import Criterion
from penstock.selectors.search.space import Floats, ThetaSpace


def theta_space(domains: int, *, criteria: int = 3, **settings: object) -> ThetaSpace:
    return ThetaSpace(
        criteria=tuple(Criterion(column=f"score.{c}", direction="higher") for c in "abcde"[:criteria]),
        domains=tuple(f"d{i:02d}" for i in range(domains)),
        **settings,  # type: ignore[arg-type]
    )


class Objective:
    """A smooth truth over theta: what is sampled has a mean quality and a domain, and both have a price.

        t_m      share of domain m that is sampled, over r in [0, 0.1] and the floor
        g_m      mean quality of what is sampled
        share_m  p_m t_m / sum p t
        L        -[sum share (u + g sum alpha c) - 0.15 sum share log share - 0.05 log(sum p t / 0.05)^2]

    with planted p (size), u (worth) of domains and c (worth of criteria by domain). As z-scores over random theta.
    """

    def __init__(self, space: ThetaSpace, seed: int) -> None:
        assert not space.domain_multiplier
        self.space = space
        rng = stream(seed, "objective")
        m, n = len(space.domains), len(space.criteria)
        self.p = rng.dirichlet(np.full(m, 0.7))
        self.u = rng.normal(0.0, 0.5, m)
        self.c = 0.6 * rng.random((m, n)) + 0.8 * np.array([0.1, 0.6, 0.8])[:n]
        self.centre, self.scale = 0.0, 1.0
        reference = self(space.draw(3000, seed=seed, name="reference"))
        self.centre, self.scale = float(reference.mean()), float(reference.std())

    def __call__(self, points: Floats) -> Floats:
        return np.concatenate([self._some(part) for part in np.array_split(points, max(1, len(points) // 250))])

    def _some(self, points: Floats) -> Floats:
        n = len(self.space.criteria)
        blocks = points.reshape(len(points), len(self.space.domains), -1)
        lam, omega = 1000.0 ** blocks[:, :, n, None], 0.1 * blocks[:, :, n + 1, None]
        eta, eps = blocks[:, :, n + 2, None], 0.001 * blocks[:, :, n + 3]
        r = (np.arange(100) + 0.5) / 1000
        base = 2.0 / (1.0 + np.exp(-np.clip(lam * (omega - r), -60.0, 60.0)))
        inside = np.where(r <= omega, base**eta, 0.0)
        t = 0.1 * inside.mean(axis=2) + eps
        g = 0.1 * (inside * (1.0 - 10.0 * r)).mean(axis=2) / t
        total = (self.p * t).sum(axis=1, keepdims=True)
        share = self.p * t / total
        worth = self.u + g * (blocks[:, :, :n] * self.c).sum(axis=2)
        gain = (share * worth).sum(axis=1) - 0.15 * (share * np.log(share)).sum(axis=1)
        loss = -(gain - 0.05 * np.log(total[:, 0] / 0.05) ** 2)
        return (loss - self.centre) / self.scale


@pytest.fixture
def make_space() -> Callable[..., ThetaSpace]:
    return theta_space


@pytest.fixture
def objective() -> type[Objective]:
    return Objective


def scored_table(space: ThetaSpace, rows: int, seed: int = 0) -> pa.Table:
    """Random documents of the space's domains, a tenth in validation, a criterion null now and then."""
    rng = stream(seed, "documents")
    ids = [f"f{i % 7}#{i}" for i in range(rows)]
    columns = {
        "doc_id": pa.array(ids),
        "id_hash": hash_ids(ids),
        "domain": pa.array([space.domains[i] for i in rng.integers(0, len(space.domains), rows)]),
        "split": pa.array(np.where(rng.random(rows) < 0.1, "validation", "train").tolist()),
        "tokens": pa.array(rng.integers(1, 200, rows), pa.int32()),
    }
    for n, criterion in enumerate(space.criteria):
        scores = np.round(rng.normal(0.0, 1.0, rows), 1 + n)
        columns[criterion.column] = pa.array(scores, pa.float32(), mask=rng.random(rows) < 0.1 * n)
    return pa.table(columns)


@pytest.fixture
def make_table() -> Callable[..., pa.Table]:
    return scored_table
