"""The guard: claims a strong winner, refuses a weak one, and always decides on fresh measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.errors import TrainingError
from penstock.selectors.search.guard import PROPOSED, Candidate, decide


def candidate(label: str, again: tuple[float, ...], *, predicted: float = 3.0, diverged: int = 0) -> Candidate:
    return Candidate(label=label, unit=(0.5,), predicted=predicted, measured=None, again=again, diverged=diverged)


OTHERS = [candidate("draw 4", (3.00, 3.02)), candidate("draw 9", (3.05, 3.05)), candidate("natural", (3.2, 3.2))]


def test_a_gain_beyond_the_residuals_that_is_measured_too_is_claimed() -> None:
    verdict = decide(
        [candidate(PROPOSED, (2.80, 2.84), predicted=2.81), *OTHERS], residual_sd=0.1, z=1.64, refusal=None
    )
    assert verdict.claim
    assert verdict.winner == 0
    assert verdict.gain == pytest.approx(0.2)
    assert verdict.needed == pytest.approx(0.164)
    assert verdict.measured_gain == pytest.approx(0.19)
    assert verdict.why == (
        "predicted gain 0.2000 over draw 4, more than 0.1640 = z 1.64 x residual deviation 0.1000; measured again "
        "0.1900 better"
    )


def test_a_gain_within_the_residuals_is_no_claim_and_the_best_measured_again_is_returned() -> None:
    verdict = decide(
        [candidate(PROPOSED, (3.02, 3.02), predicted=2.95), *OTHERS], residual_sd=0.1, z=1.64, refusal=None
    )
    assert not verdict.claim
    assert verdict.winner == 1
    assert verdict.why == "no claim: predicted to be 0.0600 better, but measured again draw 4 is 0.0100 better"


def test_the_proposed_point_may_win_without_being_claimed() -> None:
    verdict = decide([candidate(PROPOSED, (2.9, 2.9), predicted=2.95), *OTHERS], residual_sd=0.1, z=1.64, refusal=None)
    assert (verdict.claim, verdict.winner) == (False, 0)
    assert verdict.why == (
        "no claim: predicted gain 0.0600 over draw 4, needed more than 0.1640 = z 1.64 x residual deviation 0.1000"
    )


def test_measured_evidence_needs_a_lead_beyond_its_error_and_no_prediction() -> None:
    # candidates by seeds: the seeds differ by 0.1 for all, and the rows are off by 0.01 at most
    rows = {PROPOSED: (2.90, 3.00), "draw 4": (3.01, 3.11), "draw 9": (3.10, 3.22), "natural": (3.22, 3.30)}
    candidates = [candidate(label, again, predicted=5.0) for label, again in rows.items()]
    table = np.array(list(rows.values()))
    differences = table[:, 1] - table[:, 0]
    # the noise of a difference over two seeds is sqrt(2) that of one measurement
    noise = differences.std(ddof=1) / np.sqrt(2)
    verdict = decide(candidates, residual_sd=0.5, z=1.64, refusal=None, evidence="measured")
    assert verdict.measured_gain_error == pytest.approx(noise)
    assert verdict.measured_gain == pytest.approx(0.11)
    assert verdict.claim
    assert verdict.why.startswith("measured lead 0.1100 over draw 4, more than 0.0189 = z 1.64 x its error 0.0115;")
    assert not decide(candidates, residual_sd=0.5, z=1.64, refusal=None).claim
    assert not decide(candidates, residual_sd=0.5, z=10.0, refusal=None, evidence="measured").claim


def test_a_promise_that_measurements_do_not_keep_is_no_claim() -> None:
    verdict = decide([candidate(PROPOSED, (3.1, 3.0), predicted=2.0), *OTHERS], residual_sd=0.1, z=1.64, refusal=None)
    assert (verdict.claim, verdict.winner) == (False, 1)
    assert verdict.why == "no claim: predicted to be 1.0100 better, but measured again draw 4 is 0.0400 better"


def test_the_threshold_is_the_one_of_z_and_a_gain_equal_to_it_is_none() -> None:
    candidates = [candidate(PROPOSED, (2.5, 2.5), predicted=2.75), candidate("draw 1", (3.0, 3.0))]
    assert not decide(candidates, residual_sd=0.125, z=2.0, refusal=None).claim
    assert decide(candidates, residual_sd=0.125, z=1.99, refusal=None).claim


def test_predictions_are_moved_by_what_fresh_seeds_change_for_everyone() -> None:
    candidates = [candidate(PROPOSED, (2.5, 2.5), predicted=2.75), candidate("draw 1", (3.0, 3.0))]
    verdict = decide(candidates, residual_sd=0.1, z=1.64, refusal=None, shift=0.2)
    assert verdict.gain == pytest.approx(0.05)
    assert not verdict.claim


def test_without_a_proposed_point_the_best_of_the_others_is_returned_with_the_reason() -> None:
    verdict = decide(OTHERS, residual_sd=0.1, z=1.64, refusal="the surrogate explains nothing")
    assert (verdict.claim, verdict.winner) == (False, 0)
    assert verdict.why == "no claim: the surrogate explains nothing"
    assert verdict.gain is None


def test_a_candidate_that_diverged_once_cannot_win() -> None:
    proposed = candidate(PROPOSED, (2.0,), predicted=2.0, diverged=1)
    verdict = decide([proposed, *OTHERS], residual_sd=0.1, z=1.64, refusal=None)
    assert (verdict.claim, verdict.winner) == (False, 1)
    assert verdict.why == "no claim: the predicted best point diverged when measured again"
    assert math.isinf(proposed.mean)
    assert proposed.to_json()["mean"] is None
    good = candidate(PROPOSED, (2.0, 2.0), predicted=2.0)
    lost = [candidate("draw 1", (), diverged=2), candidate("natural", (3.0,), diverged=1)]
    alone = decide([good, *lost], residual_sd=0.1, z=1.64, refusal=None)
    assert (alone.claim, alone.winner) == (False, 0)
    with pytest.raises(TrainingError, match="all 2 candidates diverged"):
        decide(lost, residual_sd=0.1, z=1.64, refusal="nothing")
