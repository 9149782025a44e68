"""The whole search with a truth in place of proxies: what it measures, resumes, finds, claims and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, TrainingError
from penstock.seeding import hash_ids, stream
from penstock.selectors.search.driver import Measured, SearchResult, SearchSettings, Trial, search
from penstock.selectors.search.guard import PROPOSED
from penstock.selectors.search.mixture_space import MixtureSpace
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.space import ThetaSpace

Make = Callable[..., Any]
SMALL = {"draws": 2000, "survivors": 64, "generations": 5, "children": 200}


class Truth:
    """Measures a point as loss(point), plus the luck of its seed, plus noise of its own."""

    def __init__(self, loss: Callable[[np.ndarray], float], noise: float = 0.0, luck: float = 0.0) -> None:
        self.loss, self.noise, self.luck = loss, noise, luck
        self.asked: list[Trial] = []

    def __call__(self, trials: Sequence[Trial]) -> Iterator[Measured]:
        for trial in reversed(trials):
            self.asked.append(trial)
            own = stream(trial.seed, json.dumps(trial.unit)).normal()
            loss = self.loss(np.array(trial.unit)) + self.noise * own + self.luck * stream(trial.seed).normal()
            yield Measured(trial=trial, loss=loss, losses={"one": loss, "two": 2 * loss}, tokens=10)


@pytest.fixture
def space(make_space: Make) -> ThetaSpace:
    return make_space(2, criteria=2)


@pytest.fixture
def pool(space: ThetaSpace, make_table: Make) -> Pool:
    return Pool.of(make_table(space, 200), space.parameters(space.draw(1, seed=0, name="x")[0]))


def valley(unit: np.ndarray) -> float:
    """Steep in two coordinates that no single draw is likely to have right at once."""
    return float(3.0 + 4.0 * ((unit[3] - 0.5) ** 2 + (unit[4] - 0.5) ** 2 + (unit[9] - 0.5) ** 2))


def test_it_measures_what_it_says_and_shows_everything(space: ThetaSpace, pool: Pool) -> None:
    truth = Truth(valley, noise=0.01)
    settings = SearchSettings(proxies=40, **SMALL)
    found = search(space, pool, truth, settings, seed=1)
    purposes = [t.purpose for t in sorted(truth.asked, key=lambda t: t.number)]
    # 40 points; natural under 3 seeds and uniform under one; 6 candidates under 2 fresh seeds
    assert purposes == ["search"] * 40 + ["noise"] * 4 + ["re-measure"] * 12
    assert [m.trial.number for m in found.measured] == list(range(56))
    points = found.measured[:40]
    assert len({m.trial.seed for m in points}) == 1
    assert [m.trial.unit for m in points] == [tuple(u) for u in space.draw(40, seed=1, name="points").tolist()]
    again = [m.trial for m in found.measured if m.trial.purpose == "re-measure"]
    seeds = {t.seed for t in again}
    assert len(seeds) == 2
    assert not seeds & {m.trial.seed for m in found.measured if m.trial.purpose != "re-measure"}
    best = sorted(points, key=lambda m: m.loss)[:3]
    assert [c.label for c in found.candidates] == [PROPOSED, *(m.trial.label for m in best), "uniform", "natural"]
    assert list(found.alternatives) == [m.trial.label for m in best]
    assert [c.measured for c in found.candidates[1:4]] == [m.loss for m in best]
    assert found.unit == found.candidates[found.verdict.winner].unit
    assert found.theta == space.describe(np.array(found.unit))
    assert [n for n, _, _ in found.out_of_fold] == list(range(40))
    assert [v for _, v, _ in found.out_of_fold] == [m.loss for m in points]
    assert set(found.targets) == {"one", "two"}
    assert found.targets["one"].r2 > 0
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["verdict"]["claim"] == found.claim
    assert written["measured"][3]["trial"]["label"] == "draw 3"
    assert written["surrogate"]["fit"]["points"] == 40


def test_the_winner_is_the_best_of_the_fresh_measurements(space: ThetaSpace, pool: Pool) -> None:
    truth = Truth(valley, noise=0.3)
    found = search(space, pool, truth, SearchSettings(proxies=40, **SMALL), seed=2)
    means = [c.mean for c in found.candidates]
    assert found.verdict.winner == int(np.argmin(means))
    # the first measurements of the best are optimistic, the fresh ones are not
    first, again = (np.mean([getattr(c, name) for c in found.candidates[1:4]]) for name in ("measured", "mean"))
    assert first < again


@pytest.mark.parametrize(("method", "evidence", "z"), [("evolution", "predicted", 1.0), ("random", "measured", 1.64)])
def test_a_strong_planted_optimum_is_found_and_claimed(
    make_space: Make, make_table: Make, method: Any, evidence: Any, z: float
) -> None:
    space = make_space(2)
    pool = Pool.of(make_table(space, 100), space.parameters(space.draw(1, seed=0, name="x")[0]))
    gains = [space.names.index(f"d0{d}.{name}") for d in range(2) for name in ("lam", "omega", "eta", "eps")]

    def steps(unit: np.ndarray) -> float:
        # a draw has all eight with probability 0.000003: they are found one by one or not at all
        return 5.0 - 0.5 * float((unit[gains] > 0.8).sum())

    settings = SearchSettings(proxies=200, method=method, evidence=evidence, draws=20_000, z=z)
    found = search(space, pool, Truth(steps, noise=0.01), settings, seed=4)
    best = min(m.loss for m in found.measured if m.trial.purpose == "search")
    assert {space.names[i] for i in gains} == set(list(found.importances)[:8])
    assert found.claim, found.why
    assert found.label == PROPOSED
    assert found.candidates[found.verdict.winner].mean < best - 0.4


def test_climb_measures_ever_better_points_and_spends_them_all(space: ThetaSpace, pool: Pool) -> None:
    settings = SearchSettings(proxies=112, method="climb", **(SMALL | {"draws": 5000}))
    found = search(space, pool, Truth(valley, noise=0.01), settings, seed=4)
    assert found.rounds == ("64 random points", "32 points by the surrogate of 64", "16 points by the surrogate of 96")
    means = [np.mean([m.loss for m in found.measured[a:b]]) for a, b in ((0, 64), (64, 96), (96, 112))]
    assert means[0] - 0.2 > means[1] > means[2]
    assert found.fit.points == 112
    noise = search(space, pool, Truth(lambda _: 3.0, noise=1.0), settings, seed=0)
    assert noise.rounds[1].endswith("random points")
    assert sum(m.trial.purpose == "search" for m in noise.measured) == 112


def test_pure_noise_is_not_searched_and_the_best_measured_again_is_returned(space: ThetaSpace, pool: Pool) -> None:
    found = search(space, pool, Truth(lambda _: 3.0, noise=0.1), SearchSettings(proxies=64, **SMALL), seed=0)
    assert found.fit.r2 <= 0
    assert not found.claim
    assert found.why.startswith("no claim: the surrogate explains nothing: out-of-fold R2 -")
    assert PROPOSED not in [c.label for c in found.candidates]
    assert found.averaged == ()
    assert found.label in ("uniform", "natural", *found.alternatives)
    assert all(c.predicted is None for c in found.candidates)


def test_the_noise_of_a_measurement_is_the_deviation_of_one_point_over_seeds(space: ThetaSpace, pool: Pool) -> None:
    settings = SearchSettings(proxies=20, noise_seeds=200, **SMALL)
    found = search(space, pool, Truth(valley, noise=0.03, luck=0.04), settings, seed=3)
    assert found.noise_sd == pytest.approx(0.05, rel=0.15)


def test_luck_of_a_seed_that_all_points_share_neither_makes_nor_hides_a_gain(space: ThetaSpace, pool: Pool) -> None:
    settings = SearchSettings(proxies=40, **SMALL)
    plain, lucky = (search(space, pool, Truth(valley, luck=luck), settings, seed=5) for luck in (0.0, 5.0))
    assert plain.shift == 0.0
    assert abs(lucky.shift) > 1.0
    assert lucky.verdict.gain == pytest.approx(plain.verdict.gain, abs=1e-6)
    assert (lucky.claim, lucky.label) == (plain.claim, plain.label)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("method", "stop"), [("evolution", 17), ("climb", 55)])
def test_an_interrupted_search_measures_the_rest_and_gives_the_same(
    space: ThetaSpace, pool: Pool, method: Any, stop: int
) -> None:
    settings = SearchSettings(proxies=40, method=method, **SMALL)
    whole = search(space, pool, Truth(valley, noise=0.1), settings, seed=6)
    kept: dict[tuple[Any, ...], Measured] = {}
    done: list[int] = []

    def measure(trials: Sequence[Trial]) -> Iterator[Measured]:
        for trial in trials:
            key = (trial.unit, trial.seed)
            if key not in kept:
                if len(kept) == limit:
                    raise Interrupted
                done.append(trial.number)
                kept[key] = next(Truth(valley, noise=0.1)([trial]))
            yield kept[key]

    limit = stop
    with pytest.raises(Interrupted):
        search(space, pool, measure, settings, seed=6)
    limit = 1000
    again = search(space, pool, measure, settings, seed=6)
    assert again.to_json() == whole.to_json()
    assert len(done) == len(set(done)) == 56


def test_proxies_that_diverge_are_kept_as_flagged_points_and_not_fitted(space: ThetaSpace, pool: Pool) -> None:
    truth = Truth(valley, noise=0.01)

    def measure(trials: Sequence[Trial]) -> Iterator[Measured]:
        for m in truth(trials):
            if m.trial.label in ("draw 3", "draw 7"):
                loss, flag = (None, "gradient refused") if m.trial.label == "draw 3" else (float("nan"), None)
                yield Measured(trial=m.trial, loss=loss, flag=flag)
            else:
                yield m

    found = search(space, pool, measure, SearchSettings(proxies=40, **SMALL), seed=1)
    assert found.fit.points == 38
    assert {3, 7}.isdisjoint(n for n, _, _ in found.out_of_fold)
    assert [(m.loss, m.flag) for m in found.measured if m.trial.number in (3, 7)] == [
        (None, "gradient refused"),
        (None, "loss nan"),
    ]
    assert found.warnings == (
        "trial 3 (draw 3) diverged: gradient refused",
        "trial 7 (draw 7) diverged: loss nan",
    )
    json.dumps(found.to_json(), allow_nan=False)


def test_too_few_finite_proxies_stop_the_search_with_their_flags(space: ThetaSpace, pool: Pool) -> None:
    def measure(trials: Sequence[Trial]) -> Iterator[Measured]:
        for trial in trials:
            fine = trial.number < 9
            yield Measured(trial=trial, loss=3.0 if fine else None, flag=None if fine else "loss inf at step 12")

    with pytest.raises(TrainingError, match=r"9 of 20 proxies have a finite loss, needed at least 10 \(loss inf at"):
        search(space, pool, measure, SearchSettings(proxies=20, **SMALL), seed=0)


def test_a_measurement_that_leaves_a_trial_out_is_refused(space: ThetaSpace, pool: Pool) -> None:
    truth = Truth(valley)
    with pytest.raises(ConfigError, match=r"left out trials \[4\]; give one result for every trial"):
        search(
            space,
            pool,
            lambda trials: [m for m in truth(trials) if m.trial.number != 4],
            SearchSettings(proxies=20, **SMALL),
            seed=0,
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "grid"}, "method: got 'grid', allowed random, evolution, climb"),
        ({"average_space": "log"}, "average_space: got 'log'"),
        ({"proxies": 9}, "proxies: got 9, allowed >= 10"),
        ({"noise_seeds": 2}, "noise_seeds: got 2, allowed >= 3"),
        ({"remeasure_seeds": 1}, "remeasure_seeds: got 1, allowed >= 2"),
        ({"draws": 100, "survivors": 128}, "survivors: got 128, allowed at most the 100 draws"),
        ({"mutation": 1.5}, "mutation: got 1.5, allowed 0 to 1"),
        ({"z": float("nan")}, "z: got nan"),
        ({"evidence": "none"}, "evidence: got 'none', allowed predicted, measured"),
        ({"method": "climb", "rounds": (30, 20)}, "rounds: got [30, 20], allowed counts >= 1, the first >= 10, that"),
        ({"method": "climb", "proxies": 12}, "proxies: got 12, allowed >= 16 for climb"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        SearchSettings(**settings)
    assert message in str(error.value)


def test_the_rounds_of_climb_spend_all_proxies() -> None:
    for proxies in (16, 28, 64, 112, 113):
        rounds = SearchSettings(proxies=proxies, method="climb").climb_rounds()
        assert sum(rounds) == proxies
        assert rounds[0] > rounds[1] > rounds[2] >= 1
    assert SearchSettings(proxies=112, method="climb").climb_rounds() == (64, 32, 16)
    assert SearchSettings(proxies=40, method="climb", rounds=(20, 20)).climb_rounds() == (20, 20)


# End to end on planted data: what is measured follows from the copies, as with proxies


DOMAINS = ("web", "books", "spam")


def planted(shuffled: bool, rows: int = 3000) -> tuple[pa.Table, np.ndarray]:
    """(scored documents, worth of each): books are good; ``a`` shows worth in web, ``b`` in books, ``c`` nowhere."""
    rng = stream(11, "planted")
    domain = rng.choice(3, rows, p=(0.5, 0.2, 0.3))
    quality = rng.normal(size=rows)
    worth = np.array([0.0, 1.0, -1.0])[domain] + 0.8 * quality
    good = quality + 0.5 * rng.normal(size=rows)
    noise = rng.normal(size=(2, rows))
    scores = {
        "score.a": np.where(domain == 0, good, noise[0]),
        "score.b": np.where(domain == 1, good, noise[1]),
        "score.c": rng.normal(size=rows),
    }
    ids = [f"x#{i}" for i in range(rows)]
    if shuffled:
        order = stream(12, "shuffled").permutation(rows)
        scores = {name: values[order] for name, values in scores.items()}
    table = pa.table(
        {
            "id_hash": hash_ids(ids),
            "domain": [DOMAINS[d] for d in domain],
            "split": ["train"] * rows,
            "tokens": rng.integers(50, 150, rows),
            **{name: np.round(values, 3).astype(np.float32) for name, values in scores.items()},
        }
    )
    return table, worth


def run_planted(make_space: Make, *, shuffled: bool, kind: str = "theta") -> tuple[SearchResult, float, Pool, Any]:
    """(result, true worth of a token of the winner's selection, pool, space)."""
    table, worth = planted(shuffled)
    theta = make_space(3, domain_multiplier=True, omega_max=0.5)
    theta = ThetaSpace(criteria=theta.criteria, domains=DOMAINS, domain_multiplier=True, omega_max=0.5)
    pool = Pool.of(table, theta.parameters(theta.draw(1, seed=0, name="x")[0]))
    space = theta if kind == "theta" else MixtureSpace.of(pool)
    budget = {"target_tokens": 60_000, "copy_cap": 4.0}

    def token_worth(copies: np.ndarray) -> float:
        weight = copies * pool.tokens
        return float((weight * worth[pool.row]).sum() / weight.sum())

    def measure(trials: Sequence[Trial]) -> Iterator[Measured]:
        for trial in trials:
            value = space.expected(pool, np.array(trial.unit), **budget)
            yield Measured(trial=trial, loss=3.0 - token_worth(pool.copies(value, trial.seed)))

    settings = SearchSettings(proxies=64, method="climb", draws=4000, survivors=64)
    found = search(space, pool, measure, settings, seed=7)
    value = space.expected(pool, np.array(found.unit), **budget)
    return found, token_worth(value), pool, space


def test_a_planted_domain_and_planted_criteria_are_found_and_shuffled_scores_lose(make_space: Make) -> None:
    found, worth, pool, space = run_planted(make_space, shuffled=False)
    assert found.fit.r2 > 0.3
    domains = found.theta["domains"]
    share = pool.domain_tokens(space.expected(pool, np.array(found.unit), target_tokens=60_000, copy_cap=4.0)) / 60_000
    assert share[pool.domains.index("books")] > 0.5 > 0.15 > share[pool.domains.index("spam")]
    assert domains["books"]["multiplier"] > domains["spam"]["multiplier"]
    # what alpha decides is decided where there is much to gain
    assert domains["books"]["alpha"]["b"] == max(domains["books"]["alpha"].values())
    assert any(name.startswith(("books.", "spam.", "web.")) for name in list(found.importances)[:3])
    means = {c.label: c.mean for c in found.candidates}
    assert means[found.label] < means["natural"] - 0.5
    _, shuffled, _, _ = run_planted(make_space, shuffled=True)
    _, mixture, _, _ = run_planted(make_space, shuffled=False, kind="mixture")
    assert worth > mixture + 0.1
    assert worth > shuffled + 0.1
