"""Sums over requests: what they count, that they add up, and how near the quantiles are."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.generators.base import Completion, Usage
from penstock.generators.meter import Meter
from penstock.generators.prices import Price
from penstock.generators.spending import remember, spending
from penstock.pipelines.passes import add_numbers
from penstock.storage import Folder

GOOD = Completion(text="a", usage=Usage(prompt_tokens=3, completion_tokens=2))


@settings(deadline=None)
@given(st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_within_six_percent_of_the_exact_one(seconds, share):
    meter = Meter()
    for one in seconds:
        meter.answered(GOOD, one, None)
    exact = np.quantile(seconds, share, method="inverted_cdf")
    assert abs(meter.quantile(share) / exact - 1) < 0.06


def test_meters_of_two_workers_add_up_to_that_of_one():
    whole, parts = Meter(), [Meter(), Meter()]
    for i in range(20):
        answer = GOOD if i % 5 else Completion(error=f"status {400 + i % 2} (x)")
        for meter in (whole, parts[i % 2]):
            meter.requests += 1
            meter.answered(answer, 0.01 * (i + 1), Price(1.0, 2.0))
    sums = {}
    for part in parts:
        add_numbers(sums, part.counts())
    added = Meter.of(json.loads(json.dumps(sums)))
    assert added.cost == pytest.approx(whole.cost)
    added.cost = whole.cost
    assert added == whole
    assert whole.to_json()["failed"] == {"status 400": 2, "status 401": 2}


def test_a_meter_without_a_price_knows_no_cost_and_one_without_requests_no_latency():
    meter = Meter()
    assert meter.to_json()["latency"] == {"p50": None, "p90": None, "p99": None}
    meter.answered(GOOD, 1.0, None)
    assert meter.to_json()["cost"] is None
    assert Meter.of(meter.counts()) == meter


def test_what_each_step_took_is_remembered_by_its_name(tmp_path):
    root = Folder(str(tmp_path))
    assert spending(root) == {}
    meter = Meter(requests=3, kept=3)
    remember(root / "a", {"m": meter, "judge": Meter(requests=9)})
    remember(root / "b", {"n": Meter(requests=1)})
    remember(root / "b", {"n": Meter(requests=2)})
    remember(root / "c", {})
    assert spending(root) == {
        "a": {"judge": Meter(requests=9).to_json(), "m": meter.to_json()},
        "b": {"n": Meter(requests=2).to_json()},
    }
