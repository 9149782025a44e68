"""pytest tests/training/mixing/test_post.py"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.training.mixing.post import PostStage, lifted, water_fill

HALF = np.array([0.5, 0.5])
UNIFORM = np.full(4, 0.25)


def test_the_defaults_change_nothing() -> None:
    w = np.array([0.7, 0.2, 0.1, 0.0])
    out, _ = PostStage().apply(w, before=UNIFORM)
    assert out.tolist() == pytest.approx(w.tolist(), abs=1e-15)


def test_every_stage_by_hand_in_its_order() -> None:
    post = PostStage(smoothing=0.2, ema=0.5, floor=0.1, max_epochs=2)
    # smoothing: .8 w + .05 = (.85, .05, .05, .05); with before: (.55, .15, .15, .15); floor 0.1 holds already
    # cap of the first .4: the others share .6
    out, facts = post.apply(
        np.array([1.0, 0, 0, 0]),
        before=UNIFORM,
        tokens_left=np.array([40.0, 100, 100, 100]),
        horizon_tokens=100.0,
    )
    assert out.tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert facts["capped"] == [0]
    assert facts["lifted"] == []


def test_three_updates_with_a_running_mean_and_smoothing_by_hand() -> None:
    post = PostStage(smoothing=0.5, ema=0.25)
    now = HALF
    # smoothed: (.75, .25), then (.25, .75), then (.5, .5); a quarter of it and three of what was
    for given_, wanted in [([1, 0], 0.5625), ([0, 1], 0.484375), ([0.5, 0.5], 0.48828125)]:
        now, _ = post.apply(np.array(given_, float), before=now)
        assert now.tolist() == pytest.approx([wanted, 1 - wanted])


def test_a_floor_lifts_small_shares_and_shrinks_the_others_alike() -> None:
    out, facts = PostStage(floor=0.1).apply(np.array([0.6, 0.3, 0.06, 0.04]), before=UNIFORM)
    assert out.tolist() == pytest.approx([0.8 * 2 / 3, 0.8 / 3, 0.1, 0.1])
    assert facts["lifted"] == [2, 3]


def test_lifting_may_push_others_under_the_floor_which_are_lifted_then() -> None:
    # after lifting the last to .2, the second falls from .21 to .168 and is lifted too
    out, _ = PostStage(floor=0.2).apply(np.array([0.79, 0.21, 0.0]), before=np.full(3, 1 / 3))
    assert out.tolist() == pytest.approx([0.6, 0.2, 0.2])


def test_domains_without_tokens_get_nothing_from_smoothing_or_floor() -> None:
    post = PostStage(smoothing=0.5, floor=0.3)
    out, _ = post.apply(np.array([1.0, 0, 0]), before=np.full(3, 1 / 3), held=np.array([10, 10, 0]))
    assert out.tolist() == pytest.approx([0.7, 0.3, 0.0])
    with pytest.raises(ConfigError, match="a domain without tokens has a positive weight"):
        post.apply(np.array([0.5, 0, 0.5]), before=np.full(3, 1 / 3), held=np.array([10, 10, 0]))


def test_the_cap_wins_over_the_floor() -> None:
    post = PostStage(floor=0.25, max_epochs=1)
    out, _ = post.apply(HALF, before=HALF, tokens_left=np.array([5.0, 500.0]), horizon_tokens=100.0)
    assert out.tolist() == pytest.approx([0.05, 0.95])


def test_importance_sampling_of_a_sliver_is_capped_at_its_epochs() -> None:
    # a domain of 1,000 tokens may be read 5 times in 20,000 tokens, whatever the histogram says
    post = PostStage(max_epochs=5)
    out, _ = post.apply(
        np.array([0.9, 0.1, 0.0]),
        before=np.full(3, 1 / 3),
        tokens_left=5 * np.array([1000.0, 10_000, 50_000]),
        horizon_tokens=20_000.0,
    )
    assert out.tolist() == pytest.approx([0.25, 0.75, 0.0])


LEFT = np.array([30.0, 10.0, 40.0])


def test_what_cannot_be_met_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError) as error:
        PostStage(max_epochs=2).apply(
            np.array([0.5, 0.5, 0]), before=np.full(3, 1 / 3), tokens_left=LEFT, horizon_tokens=50.0
        )
    assert "2 epochs leave 40 tokens in the domains of the mixture, 50 are to come; raise max_epochs" in str(
        error.value
    )


def test_or_is_taken_from_the_domains_left_out_by_option() -> None:
    post = PostStage(max_epochs=2, on_infeasible="redistribute")
    w, before = np.array([0.5, 0.5, 0]), np.full(3, 1 / 3)
    out, facts = post.apply(w, before=before, tokens_left=LEFT, horizon_tokens=50.0)
    assert out.tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert facts["capped"] == [0, 1]
    # not enough anywhere: all run out together
    out, facts = post.apply(w, before=before, tokens_left=LEFT, horizon_tokens=160.0)
    assert out.tolist() == pytest.approx([3 / 8, 1 / 8, 4 / 8])
    # nothing left at all: the loader decides
    out, _ = post.apply(w, before=before, tokens_left=np.zeros(3), horizon_tokens=160.0)
    assert out.tolist() == pytest.approx(w.tolist())


def test_a_budget_that_fits_to_the_last_token_is_met_despite_roundings() -> None:
    left = np.array([0.1, 0.2, 0.7]) * 3e9
    out, _ = PostStage(max_epochs=1).apply(
        np.full(3, 1 / 3), before=np.full(3, 1 / 3), tokens_left=left * (1 - 1e-12), horizon_tokens=3e9
    )
    assert out.tolist() == pytest.approx([0.1, 0.2, 0.7])


def test_at_the_end_of_a_run_there_is_nothing_to_cap() -> None:
    out, _ = PostStage(max_epochs=1).apply(HALF, before=HALF, tokens_left=np.zeros(2), horizon_tokens=0.0)
    assert out.tolist() == [0.5, 0.5]


@st.composite
def capped(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    k = draw(st.integers(1, 7))
    share = st.floats(0, 1).map(lambda x: 0.0 if x < 1e-6 else x)
    w = np.array(draw(st.lists(share, min_size=k, max_size=k).filter(lambda x: sum(x) > 1e-3)))
    caps = np.array(draw(st.lists(st.floats(0, 2), min_size=k, max_size=k)))
    w = w / w.sum()
    room = caps[w > 0].sum()
    return w, caps if room >= 1 else caps + (1.0 - room) + 1e-9


@settings(max_examples=300, deadline=None)
@given(capped())
def test_water_filling_equals_a_bisection_for_its_factor(case: tuple[np.ndarray, np.ndarray]) -> None:
    w, caps = case
    out, full = water_fill(w, caps)
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(caps, middle * w).sum() < 1 else (low, middle)
    assert out.tolist() == pytest.approx(np.minimum(caps, high * w).tolist(), abs=1e-6)
    assert out.sum() == pytest.approx(1, abs=1e-9)
    assert (out <= caps + 1e-9).all()
    assert all(out[k] == caps[k] for k in full)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7).filter(lambda x: sum(x) > 1e-3), st.floats(0, 1))
def test_the_floor_equals_a_bisection_for_its_factor(raw: list[float], part: float) -> None:
    w = np.array(raw) / sum(raw)
    floor = part / len(w)
    out, _ = lifted(w, floor, np.ones(len(w), np.bool_))
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(floor, middle * w).sum() < 1 else (low, middle)
    assert out.tolist() == pytest.approx(np.maximum(floor, high * w).tolist(), abs=1e-6)


def test_diagnostics_by_hand() -> None:
    held = np.array([75.0, 25.0])
    _, facts = PostStage().apply(HALF, before=np.array([0.75, 0.25]), held=held, trained=np.array([150.0, 10.0]))
    assert facts["entropy"] == pytest.approx(np.log(2))
    assert facts["kl"] == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(2))
    # .25 / .75 + .25 / .25
    assert facts["log_f"] == pytest.approx(np.log(4 / 3))
    assert facts["epochs"] == [2.0, 0.4]
    # a domain that had nothing before: infinite, and JSON knows no infinity
    assert PostStage().apply(HALF, before=np.array([1.0, 0.0]))[1]["kl"] is None


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"smoothing": 1.0}, "smoothing: got 1.0, allowed 0 <= number < 1"),
        ({"smoothing": "some"}, "smoothing: got 'some'"),
        ({"ema": 0.0}, "ema: got 0.0"),
        ({"floor": -0.1}, "floor: got -0.1"),
        ({"floor": float("nan")}, "floor: got nan"),
        ({"max_epochs": 0}, "max_epochs: got 0"),
        ({"on_infeasible": "stop"}, "on_infeasible: got 'stop'"),
    ],
)
def test_settings_out_of_range_are_refused(given_: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        PostStage(**given_)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("post", "weights", "more", "text"),
    [
        (PostStage(), [0.5, 0.6], {}, "weights: got [0.5, 0.6]"),
        (PostStage(), [1.5, -0.5], {}, "weights: got"),
        (PostStage(), [np.nan, 1.0], {}, "weights: got"),
        (PostStage(), [0.2, 0.3, 0.5], {}, "got 3, the mixture in force has 2"),
        (PostStage(floor=0.6), [0.5, 0.5], {}, "floor: got 0.6, allowed at most 1 / 2 domains"),
        (PostStage(max_epochs=1), [0.5, 0.5], {}, "needs tokens_left and horizon_tokens"),
        (
            PostStage(max_epochs=1),
            [0.5, 0.5],
            {"tokens_left": np.array([-1.0, 9]), "horizon_tokens": 1},
            "tokens_left: got",
        ),
    ],
)
def test_weights_and_budgets_that_make_no_sense_are_refused(
    post: PostStage, weights: list[float], more: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as error:
        post.apply(np.array(weights), before=HALF, **more)
    assert text in str(error.value)
