"""Trials become results once: whatever the workers, after a kill, and for two points that select the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import run_split
from penstock.selectors.proxies.data import Losses, ProxyData, TokenDocuments
from penstock.selectors.proxies.measure import ProxyMeasure, Selected
from penstock.selectors.proxies.ngram import NgramConfig, NgramProxy
from penstock.selectors.quadmix_theta import Criterion, DomainParameters, QuaDMixParameters
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.space import ThetaSpace
from penstock.selectors.search.trials import Trial
from penstock.storage import Folder

CRITERIA = (Criterion(column="score.q", direction="higher"),)
SPACE = ThetaSpace(criteria=CRITERIA, domains=("a", "b"), omega_max=1.0, eps_max=1.0, domain_multiplier=True)
THETA = DomainParameters(alpha=(1.0,), lam=1.0, omega=0.5, eta=1.0, eps=0.0)


@pytest.fixture
def setting(proxy_data, languages, tmp_path):
    """(data, selected): 30 documents of two domains, the target like domain a."""
    documents = [*languages("good", 15, 1), *languages("other", 15, 1)]
    table = pa.table(
        {
            "domain": ["a"] * 15 + ["b"] * 15,
            "split": ["train"] * 30,
            "tokens": pa.array([len(d) for d in documents], pa.int32()),
            "id_hash": np.arange(30).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
            "score.q": pa.array(np.round(np.random.default_rng(0).random(30), 3).astype(np.float32)),
        }
    )
    pool = Pool.of(table, QuaDMixParameters(criteria=CRITERIA, default=THETA, omega_max=1.0))
    data = proxy_data([documents[i] for i in pool.row], languages("good", 4, 2), 26)
    return data, Selected(SPACE, pool, 400, None)


def trials_of(count, seed=7):
    points = SPACE.draw(count, seed=1, name="test")
    return [
        Trial(number=i, unit=tuple(map(float, p)), seed=seed, purpose="search", label=f"draw {i}")
        for i, p in enumerate(points)
    ]


@dataclasses.dataclass(frozen=True)
class Counting:
    """A proxy whose loss is the share of tokens that are not of domain a; it remembers what it was asked."""

    asked: list[int] = dataclasses.field(default_factory=list)
    version: int = 1

    def identity(self):
        return {"name": "counting", "version": self.version}

    def measure(self, copies, *, seed):
        self.asked.append(seed)
        if copies.max() > 2:
            return Losses(loss=None, losses={}, flag="diverged: for the test")
        return Losses(loss=float(copies[15:].sum() / copies.sum()), losses={"all": 1.0}, passes=2.0)


class Killed(HomeEngine):
    """Stops after some splits, as a kill does."""

    def __init__(self, after):
        super().__init__(0)
        self.after = after

    def map(self, job, splits, done):
        for split in splits[: self.after]:
            run_split(job, split)
        raise KeyboardInterrupt


def measure(proxy, selected, folder, engine=None, **more):
    return ProxyMeasure(proxy, selected, Folder(str(folder)), engine or HomeEngine(0), **more)


def test_a_result_says_what_was_selected_and_how_often_it_was_read(setting, tmp_path):
    _, selected = setting
    (trial,) = trials_of(1)
    (found,) = measure(Counting(), selected, tmp_path)([trial])
    copies = selected.copies(trial.unit, trial.seed)
    tokens = selected.pool.tokens
    assert found.trial == trial
    assert found.loss == pytest.approx(copies[15:].sum() / copies.sum())
    assert (found.tokens, found.unique_tokens) == (copies @ tokens, tokens[copies > 0].sum())
    assert abs(found.tokens - 400) < 200, "the budget holds up to the coins"
    for name, rows in (("a", slice(0, 15)), ("b", slice(15, 30))):
        passes = 2.0 * (copies @ np.where(np.arange(30) // 15 == "ab".index(name), tokens, 0)) / tokens[rows].sum()
        assert found.epochs[name] == pytest.approx(passes, abs=1e-6)


def test_a_killed_search_goes_on_where_it_stopped_and_another_takes_over_its_points(setting, tmp_path):
    _, selected = setting
    proxy, trials = Counting(), trials_of(6)
    with pytest.raises(KeyboardInterrupt):
        list(measure(proxy, selected, tmp_path, Killed(2))(trials[:4]))
    assert len(proxy.asked) == 2
    first = list(measure(proxy, selected, tmp_path)(trials[:4]))
    assert len(proxy.asked) == 4
    more = list(measure(proxy, selected, tmp_path)(trials))
    assert len(proxy.asked) == 6
    assert more[:4] == first, "seconds too: they are those of the run that was paid for"
    assert list(measure(Counting(), selected, tmp_path)(trials)) == more


def test_other_seeds_other_data_and_other_proxies_are_measured_anew(setting, tmp_path):
    _, selected = setting
    proxy, trials = Counting(), trials_of(2)
    list(measure(proxy, selected, tmp_path)(trials))
    list(measure(proxy, selected, tmp_path)([dataclasses.replace(trials[0], seed=8)]))
    assert proxy.asked == [7, 7, 8]
    newer = Counting(version=2)
    list(measure(newer, selected, tmp_path)(trials))
    assert newer.asked == [7, 7]
    list(measure(proxy, dataclasses.replace(selected, target_tokens=200), tmp_path)(trials[:1]))
    assert len(proxy.asked) == 4


def test_points_that_select_the_same_copies_are_measured_once(setting, tmp_path):
    _, selected = setting
    proxy, (trial, _) = Counting(), trials_of(2)
    unit = np.array(trial.unit)
    unit[[1, 7]] = unit[[1, 7]] + 1e-9  # steepness, by less than any coin notices
    near = dataclasses.replace(trial, number=1, unit=tuple(map(float, unit)), label="near")
    one, two = measure(proxy, selected, tmp_path)([trial, near])
    assert len(proxy.asked) == 1
    assert (one.trial, two.trial) == (trial, near)
    assert one.loss == two.loss


def test_a_proxy_that_diverges_and_a_budget_out_of_reach_are_flagged_points(setting, tmp_path):
    _, selected = setting
    found = list(measure(Counting(), selected, tmp_path)(trials_of(40)))
    diverged = [m for m in found if m.flag]
    assert 0 < len(diverged) < 40
    assert all(m.loss is None and m.value is None and m.tokens > 0 for m in diverged)
    capped = dataclasses.replace(selected, target_tokens=2 * int(selected.pool.tokens.sum()), copy_cap=1.0)
    with pytest.raises(ConfigError, match="allowed at most"):
        capped.copies(trials_of(1)[0].unit, 7)
    proxy = Counting()
    (found,) = measure(proxy, capped, tmp_path)(trials_of(1))
    assert (found.loss, proxy.asked) == (None, [])
    assert found.flag.startswith("infeasible: quadmix target_tokens: got ")


def test_two_workers_find_what_this_process_finds(setting, tmp_path):
    data, selected = setting
    trials, found = trials_of(9), []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        proxy = NgramProxy.of(data, NgramConfig(), str(folder))
        with HomeEngine(workers) as engine:
            shown = []
            results = measure(proxy, selected, folder, engine, progress=lambda *seen: shown.append(seen))(trials)  # noqa: B023
            found.append([dataclasses.replace(m, seconds=0.0) for m in results])
        assert shown[0] == ("search", 0, 9)
        assert shown[-1] == ("search", 9, 9)
    assert found[0] == found[1]
    assert len({m.loss for m in found[0]}) > 5


def test_data_come_back_from_their_files_as_they_were(proxy_data, tmp_path):
    data = proxy_data([[2, 1], [3, 3, 1]], [[2, 2, 1]], 5, domains=["x", "y"])
    path, digest = data.save(str(tmp_path))
    read = ProxyData.load(path, digest)
    for name in ("pool", "target"):
        one, two = getattr(data, name), getattr(read, name)
        assert [one.tokens.tolist(), one.offsets.tolist(), one.group.tolist(), one.names] == [
            two.tokens.tolist(), two.offsets.tolist(), two.group.tolist(), two.names,
        ]  # fmt: skip
    assert (read.vocabulary, read.pad_id, read.id_hash.tolist()) == (5, 0, data.id_hash.tolist())
    sliced = pa.array([[9], [2, 1], [3, 3, 1]], pa.list_(pa.uint16())).slice(1)
    assert TokenDocuments.of(sliced, ["x", "y"]).offsets.tolist() == [0, 2, 5]
    assert TokenDocuments.of(sliced, ["x", "y"]).tokens_by_group() == {"x": 2, "y": 3}
