"""pytest tests/training/mixing/test_mixing_laws.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.training.mixing.mixing_laws import MixingLaw, MixingLaws, best_mixture, fit_mixing_law

T = np.array([-1.5, 0.5, 1.0])


def mixtures(n: int, k: int = 3, seed: int = 0) -> np.ndarray:
    return stream(seed, "mixtures").dirichlet(np.ones(k), size=n)


def losses(r: np.ndarray, c: float = 2.0, k: float = 0.8, t: np.ndarray = T) -> np.ndarray:
    return c + k * np.exp(r @ t)


def test_a_planted_law_is_found() -> None:
    r = mixtures(40)
    law = fit_mixing_law(r, losses(r))
    assert law.c == pytest.approx(2.0, abs=0.02)
    assert law.k == pytest.approx(0.8, abs=0.02)
    assert law.t.tolist() == pytest.approx(T.tolist(), abs=0.05)
    fresh = mixtures(20, seed=1)
    assert law.predict(fresh).tolist() == pytest.approx(losses(fresh).tolist(), abs=1e-3)


def test_a_constant_in_t_is_a_factor_in_k() -> None:
    r = mixtures(40)
    a, b = fit_mixing_law(r, losses(r)), fit_mixing_law(r, losses(r, k=0.8 / np.e, t=T + 1.0))
    assert a.t.tolist() == pytest.approx(b.t.tolist())
    assert a.k == pytest.approx(b.k)
    assert a.t.mean() == pytest.approx(0, abs=1e-12)


def test_outliers_hardly_move_the_law() -> None:
    r = mixtures(60)
    y = losses(r)
    y[::12] += 1.0  # five runs that went wrong: least squares would be off by 0.08 on average
    law = fit_mixing_law(r, y)
    assert law.predict(r).tolist() == pytest.approx(losses(r).tolist(), abs=0.02)


def test_the_best_mixture_equals_a_search_of_a_grid() -> None:
    laws = [MixingLaw(c=1.0, k=0.5, t=np.array([-2.0, 1.0, 1.0]), error=0.0),
            MixingLaw(c=1.0, k=0.7, t=np.array([1.0, -3.0, 2.0]), error=0.0)]  # fmt: skip
    weights = np.array([0.6, 0.4])
    found, value = best_mixture(laws, weights, low=np.zeros(3), high=np.ones(3), start=np.full(3, 1 / 3))
    best, where = np.inf, np.zeros(3)
    for i in range(101):
        for j in range(101 - i):
            r = np.array([i, j, 100 - i - j]) / 100
            loss = sum(w * (law.c + law.k * np.exp(law.t @ r)) for w, law in zip(weights, laws, strict=True))
            if loss < best:
                best, where = loss, r
    assert value <= best + 1e-9
    assert found.tolist() == pytest.approx(where.tolist(), abs=0.011)
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert value == pytest.approx(best, abs=1e-3)


def test_one_law_alone_is_least_where_its_exponent_is() -> None:
    law = MixingLaw(c=1.0, k=0.5, t=T, error=0.0)
    low, high = np.array([0.0, 0.2, 0.1]), np.array([0.6, 0.9, 0.9])
    found, _ = best_mixture([law], np.ones(1), low=low, high=high, start=np.array([0.3, 0.4, 0.3]))
    # as much as allowed of the first, then of the second
    assert found.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=1e-6)


def write(path: Path, r: np.ndarray, columns: dict[str, np.ndarray], names: tuple[str, ...]) -> str:
    with path.open("w") as file:
        for i, row in enumerate(r):
            run: dict[str, Any] = {"mixture": dict(zip(names, row.tolist(), strict=True))}
            run["losses"] = {name: float(values[i]) for name, values in columns.items()}
            file.write(json.dumps(run) + "\n")
    return str(path)


def test_as_a_policy_it_stays_within_what_the_runs_cover(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    r = 0.2 + 0.4 * mixtures(40)  # every share between 0.2 and 0.6
    file = write(tmp_path / "runs.jsonl", r, {"w": losses(r)}, names)
    inside = MixingLaws(runs=file).start(names, np.array([1, 1, 1]))
    assert inside.weights[0] == pytest.approx(r[:, 0].max(), abs=1e-6)
    assert (inside.weights >= r.min(axis=0) - 1e-9).all()
    outside = MixingLaws(runs=file, extrapolate=True).start(names, np.array([1, 1, 1]))
    assert outside.weights.tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert inside.facts["predicted"] == pytest.approx(float(losses(inside.weights)), abs=0.01)
    assert set(inside.facts["laws"]) == {"w"}


def test_the_target_weighs_the_losses(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    r = mixtures(60)
    columns = {"w": losses(r, t=np.array([-2.0, 1, 1])), "v": losses(r, t=np.array([1.0, -2, 1]))}
    file = write(tmp_path / "runs.jsonl", r, columns, names)
    found = {
        target: MixingLaws(runs=file, target={target: 1}).start(names, np.array([1, 1, 1])).weights.argmax()
        for target in ("w", "v")
    }
    assert found == {"w": 0, "v": 1}


def test_domains_without_tokens_are_left_out_and_refused_where_a_run_had_them(tmp_path: Path) -> None:
    r = mixtures(30, k=2)
    file = write(tmp_path / "runs.jsonl", r, {"w": losses(r, t=np.array([-1.0, 1.0]))}, ("a", "b"))
    mixture = MixingLaws(runs=file).start(("a", "b", "empty"), np.array([1, 1, 0]))
    assert mixture.weights[2] == 0
    assert mixture.weights.sum() == pytest.approx(1)
    with pytest.raises(ConfigError, match="a domain that holds no tokens here"):
        MixingLaws(runs=file).start(("a", "b"), np.array([1, 0]))


@pytest.mark.parametrize(
    ("r", "y", "text"),
    [
        (mixtures(3), np.ones(3), "got 3 runs of 3 domains, allowed at least 4"),
        (mixtures(5), np.ones(4), "got mixtures (5, 3) and losses (4,)"),
        (mixtures(5), np.zeros(5), "n numbers > 0"),
        (softmax(np.full((5, 3), np.nan), axis=1), np.ones(5), "allowed (n, K)"),
    ],
)
def test_runs_that_say_too_little_are_refused(r: Any, y: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        fit_mixing_law(r, y)
    assert text in str(error.value)
