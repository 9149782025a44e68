"""pytest tests/training/mixing/test_regmix.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError, InputError
from penstock.training.mixing.regmix import STRENGTHS, RegMix, candidates, mean_of_best
from penstock.training.mixing.runs import Runs, read_runs

TOKENS = np.array([600.0, 300, 100])


class Planted:
    """A regressor that knows the loss: least where the second share is one half."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.seen = (x.copy(), y.copy())

    def predict(self, x: np.ndarray) -> np.ndarray:
        return (x[:, 1] - 0.5) ** 2


def test_candidates_are_mixtures_within_their_bounds() -> None:
    tokens = np.array([9000.0, 900, 90, 0, 10])
    found = candidates(tokens, 3000, seed=1)
    assert found.shape == (3000, 5)
    assert found.sum(axis=1).tolist() == pytest.approx([1.0] * 3000)
    assert (found[:, 3] == 0).all()
    assert (found <= 15 * tokens / tokens.sum() + 1e-12).all()
    # shares below 2e-4 became 0; renormalising can only raise the others
    assert found[found > 0].min() >= 2e-4
    assert (found == 0).any()


def test_candidates_spread_around_the_flattened_token_shares() -> None:
    # with no bound in reach the mean of Dirichlet draws is the prior: square roots of 16 : 4 : 1
    found = candidates(np.array([16.0, 4, 4]), 20_000, seed=2)
    assert found.mean(axis=0).tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    # and its variance p (1 - p) / (1 + concentration), over the mixed concentrations
    wanted = 0.25 * np.mean(1 / (1 + STRENGTHS))
    assert found[:, 0].var() == pytest.approx(wanted, rel=0.05)


def test_candidates_are_seeded_and_named() -> None:
    a, b, c, d = (candidates(TOKENS, 5, seed=s, name=n) for s, n in [(1, "x"), (1, "x"), (2, "x"), (1, "y")])
    assert a.tolist() == b.tolist()
    assert a.tolist() != c.tolist()
    assert a.tolist() != d.tolist()


def test_too_many_domains_for_their_bound_are_refused_rather_than_drawn_for_ever() -> None:
    # no domain may have more than 15 / 200, but few draws over 200 domains spread as evenly as that
    with pytest.raises(ConfigError, match="keep every domain within 15 times its token share; use fewer domains"):
        candidates(np.ones(200), 1, seed=0)


def test_the_result_is_the_mean_of_the_best_predicted() -> None:
    x = candidates(TOKENS, 32, seed=3)
    y = x[:, 1] * 1.0
    model = Planted()
    weights, predicted = mean_of_best(x, y, TOKENS, seed=3, regressor=model, simulate=5000, top=16)
    assert model.seen[0].tolist() == x.tolist()
    assert model.seen[1].tolist() == y.tolist()
    simulated = candidates(TOKENS, 5000, seed=3, name="simulate")
    best = sorted(range(5000), key=lambda i: abs(simulated[i, 1] - 0.5))[:16]
    assert weights.tolist() == pytest.approx(simulated[best].mean(axis=0).tolist())
    assert predicted.tolist() == sorted(predicted.tolist())
    assert len(predicted) == 16


def test_trees_find_a_planted_optimum_between_the_corners() -> None:
    x = candidates(TOKENS, 300, seed=4)
    best = np.array([0.2, 0.5, 0.3])
    weights, _ = mean_of_best(x, 3 + ((x - best) ** 2).sum(axis=1), TOKENS, seed=4, simulate=20_000)
    assert np.abs(weights - best).max() < 0.1


def test_losses_that_do_not_depend_on_the_mixture_give_no_optimum() -> None:
    x = candidates(TOKENS, 300, seed=4)
    noise = np.random.default_rng(4).normal(3.0, 0.1, 300)
    for losses, why in (
        (noise, r"regmix: the surrogate explains nothing: out-of-fold R2 -?0\.\d+"),
        (np.full(300, 3.0), "regmix: the surrogate predicts the same loss for all 300 points"),
    ):
        with pytest.raises(ConfigError, match=why):
            mean_of_best(x, losses, TOKENS, seed=4, simulate=20_000)


def test_a_single_domain_needs_no_explanation() -> None:
    weights, predicted = mean_of_best(np.ones((12, 1)), np.full(12, 3.0), np.array([5.0]), seed=0, simulate=50, top=4)
    assert weights.tolist() == [1.0]
    assert predicted.tolist() == [3.0] * 4


@pytest.mark.parametrize(
    ("n", "y", "settings", "text"),
    [
        (4, np.ones(4), {}, "got 4 runs, allowed at least 10"),
        (11, np.ones(10), {}, "got mixtures (11, 3) and losses (10,)"),
        (11, np.full(11, np.nan), {}, "allowed finite"),
        (11, np.ones(11), {"top": 200, "simulate": 100}, "top: got 200"),
    ],
)
def test_runs_that_cannot_be_regressed_are_refused(n: int, y: Any, settings: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        mean_of_best(candidates(TOKENS, n, seed=0), y, TOKENS, seed=0, **settings)
    assert text in str(error.value)


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_runs_are_read_from_json_lines(tmp_path: Path) -> None:
    file = write(
        tmp_path / "runs.jsonl",
        [
            {"mixture": {"a": 3, "b": 1}, "losses": {"wiki": 4.0, "code": 2.0}},
            "",
            {"mixture": {"b": 0.5, "c": 0.5}, "losses": {"code": 1.0, "wiki": 3.0}},
        ],
    )
    runs = read_runs(file, ("a", "b", "c"))
    assert runs.mixtures.tolist() == [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]]
    assert runs.names == ("wiki", "code")
    assert runs.losses.tolist() == [[4.0, 2.0], [3.0, 1.0]]
    assert runs.objective(None).tolist() == [3.0, 2.0]
    assert runs.objective({"code": 2}).tolist() == [2.0, 1.0]
    assert runs.objective({"code": 1, "wiki": 3}).tolist() == [3.5, 2.5]


RUN = {"mixture": {"a": 1}, "losses": {"wiki": 4.0}}


@pytest.mark.parametrize(
    ("lines", "kind", "text"),
    [
        ([], InputError, "holds no run"),
        (["{"], InputError, "line 1: no JSON"),
        ([RUN, {"mixture": {"a": 1}}], InputError, "line 2: no losses"),
        ([RUN, {"mixture": {"a": 1}, "losses": {"code": 1}}], InputError, "losses code, the first run has wiki"),
        ([{"mixture": {"a": "x"}, "losses": {"wiki": 1}}], InputError, "mixture of a is 'x'"),
        ([{"mixture": {"a": 1}, "losses": {"wiki": float("nan")}}], InputError, "losses of wiki is nan"),
        ([{"mixture": {"z": 1}, "losses": {"wiki": 1}}], ConfigError, "unknown domain 'z'"),
        ([{"mixture": {"a": -1, "b": 2}, "losses": {"wiki": 1}}], ConfigError, "got -1"),
        ([{"mixture": {"a": 0}, "losses": {"wiki": 1}}], ConfigError, "the mixture is 0 everywhere"),
    ],
)
def test_lines_that_are_no_runs_are_refused_with_their_number(
    tmp_path: Path, lines: list[Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as error:
        read_runs(write(tmp_path / "runs.jsonl", lines), ("a", "b"))
    assert text in str(error.value)


def test_a_missing_file_and_a_target_of_no_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a file of JSON lines"):
        read_runs(tmp_path / "none.jsonl", ("a",))
    runs = read_runs(write(tmp_path / "runs.jsonl", [RUN]), ("a",))
    with pytest.raises(ConfigError, match="unknown domain 'wike'; did you mean wiki"):
        runs.objective({"wike": 1})
    with pytest.raises(ConfigError, match="at least one above 0"):
        runs.objective({"wiki": 0})
    with pytest.raises(ConfigError, match="no distribution"):
        Runs(("a",), ("x",), np.array([[0.5]]), np.array([[1.0]]))


def test_as_a_policy_it_starts_with_the_result_and_stays(tmp_path: Path) -> None:
    x = candidates(TOKENS, 60, seed=5)
    names = ("a", "b", "c")
    lines = [
        {"mixture": dict(zip(names, row.tolist(), strict=True)), "losses": {"w": 3 + (row[2] - 0.4) ** 2, "o": 1.0}}
        for row in x
    ]
    file = write(tmp_path / "runs.jsonl", lines)
    policy = RegMix(runs=str(file), target={"w": 1}, simulate=3000, top=32, seed=5)
    mixture = policy.start(names, TOKENS.astype(np.int64))
    wanted, _ = mean_of_best(x, 3 + (x[:, 2] - 0.4) ** 2, TOKENS, seed=5, simulate=3000, top=32)
    assert mixture.weights.tolist() == pytest.approx(wanted.tolist())
    assert mixture.facts["runs"] == 60
