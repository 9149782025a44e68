"""pytest tests/training/test_guards.py"""

from __future__ import annotations

import json
import math

import pytest

from penstock.errors import TrainingError
from penstock.training.guards import GradientGuard


def test_numbers_that_are_not_finite_are_refused_and_counted() -> None:
    guard = GradientGuard(max_skipped=9)
    verdicts = [guard.judge(*pair) for pair in [(1.0, 2.0), (math.nan, 2.0), (1.0, math.inf), (1.0, 0.0)]]
    assert [v is None for v in verdicts] == [True, False, False, True]
    assert verdicts[1] == "the loss is nan and the gradient norm 2.0, allowed finite numbers"
    assert (guard.skipped, guard.in_a_row) == (2, 0)


def test_a_norm_above_the_bound_is_refused_and_the_bound_itself_is_not() -> None:
    guard = GradientGuard(max_skipped=9, max_norm=4.0)
    assert guard.judge(1.0, 4.0) is None
    assert guard.judge(1.0, 4.001) == "the gradient norm is 4.001, allowed at most max_gradient_norm = 4"


def test_a_spike_is_measured_in_log_norms_once_the_window_is_full() -> None:
    """Norms 1, 4, 1, 4: mean log is log 2, standard deviation log 2; z of 16 is 3, of 8 is 2."""
    norms = [1.0, 4.0, 1.0, 4.0]
    for last, refused in [(15.9, False), (16.1, True), (1e-9, False)]:
        guard = GradientGuard(max_skipped=9, spike_z=3.0, window=4)
        assert [guard.judge(1.0, norm) for norm in norms] == [None] * 4
        assert (guard.judge(1.0, last) is not None) is refused
    early = GradientGuard(max_skipped=9, spike_z=3.0, window=4)
    assert [early.judge(1.0, norm) for norm in [1.0, 1.0, 1.0, 1000.0]] == [None] * 4


def test_refused_norms_do_not_move_the_window_and_old_ones_leave_it() -> None:
    guard = GradientGuard(max_skipped=9, spike_z=3.0, window=2)
    guard.judge(1.0, 1.0), guard.judge(1.0, 1.0)
    # equal norms: the least spread of 0.05 holds, so up to exp(0.15) = 1.16 passes
    assert all(guard.judge(1.0, 50.0) is not None for _ in range(5))
    assert guard.judge(1.0, 1.1) is None
    assert guard.state_dict()["log_norms"] == [0.0, math.log(1.1)]


def test_the_run_ends_when_one_more_than_allowed_is_skipped_in_a_row() -> None:
    guard = GradientGuard(max_skipped=2)
    for _ in range(2):
        reason = guard.judge(math.nan, 1.0)
        assert reason is not None
        guard.raise_if_stuck(7, reason, "do this")
    guard.judge(1.0, 1.0)  # an accepted step begins the count anew
    for _ in range(2):
        guard.raise_if_stuck(9, guard.judge(math.nan, 1.0) or "", "do this")
    reason = guard.judge(math.nan, 1.0)
    with pytest.raises(TrainingError, match=r"step 11: the loss is nan .*the last of 3 steps in a row .*; do this"):
        guard.raise_if_stuck(11, reason or "", "do this")
    strict = GradientGuard(max_skipped=0)
    with pytest.raises(TrainingError, match="allowed finite numbers; do this"):
        strict.raise_if_stuck(1, strict.judge(math.nan, 1.0) or "", "do this")


def test_a_state_through_json_judges_as_the_guard_it_came_from() -> None:
    def make() -> GradientGuard:
        return GradientGuard(max_skipped=9, spike_z=2.0, window=3)

    norms = [1.0, 1.3, 0.9, 1.05, math.inf, 1.2, 9.0, 1.0, 1.7, 1.1]
    whole, cut = make(), make()
    expected = [whole.judge(1.0, norm) for norm in norms]
    assert any(expected)
    first = [cut.judge(1.0, norm) for norm in norms[:5]]
    again = make()
    again.load_state_dict(json.loads(json.dumps(cut.state_dict())))
    assert first + [again.judge(1.0, norm) for norm in norms[5:]] == expected
    assert again.state_dict() == whole.state_dict()
