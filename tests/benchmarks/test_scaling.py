"""The model behind docs/scaling.md: lines, counts of shuffles, limits; and the page's tables."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from benchmarks import harness, scaling
from benchmarks.scaling_model import (
    GIB,
    PB,
    TB,
    Line,
    Prices,
    Rates,
    Setup,
    Shuffle,
    best_split,
    fit,
    growth,
    hits,
    in_runs,
    project,
    shuffles,
)

RATES = Rates(
    core_seconds=400e-9,
    moved=8.0,
    kept=4.0,
    fixed_seconds=10.0,
    document_bytes=5000.0,
    tokens=0.25,
    alike=0.1,
    part_passes=12,
    part_objects=2.0,
    worker_bytes=4e8,
    worker_bytes_per_split_byte=2.0,
    receipt_seconds=2e-4,
    entry_seconds=5e-6,
    entry_bytes=500.0,
    place_bytes=250.0,
    piece_seconds=3e-4,
    piece_bytes=600.0,
)
MEND = "run: python -m benchmarks.scaling --page"
SETUP = Setup(cores=256, split_bytes=GIB)


def test_a_line_is_found_through_its_points_and_never_falls_below_zero():
    found = fit([1e6, 2e6, 4e6], [5.0, 7.0, 11.0])
    assert (found.fixed, found.slope) == (pytest.approx(3.0), pytest.approx(2e-6))
    assert found.at(8e6) == pytest.approx(19.0)
    assert fit([1.0, 2.0], [1.0, 4.0]) == Line(0.0, 1.5)  # faster than linear: no negative start
    assert fit([1.0, 2.0], [4.0, 2.0]) == Line(3.0, 0.0)
    assert fit([4.0], [8.0]) == Line(0.0, 2.0)


def test_growth_is_what_a_byte_costs_at_the_end_over_the_beginning():
    assert growth([1.0, 2.0, 4.0], [3.0, 6.0, 12.0]) == 1.0
    assert growth([1.0, 4.0], [1.0, 16.0]) == 4.0
    assert growth([1.0, 4.0], [0.0, 16.0]) is None


def test_a_shuffle_has_a_piece_for_every_writer_and_bucket_but_no_more_than_rows():
    assert Shuffle("s", 10, 16, 1e9).pieces == 160
    assert Shuffle("s", 10, 16, 40.0).pieces == 40
    assert Shuffle("s", 10, 16, 0.0).pieces == 1


def test_shuffles_have_the_ranges_that_the_package_takes():
    found = {one.name: one for one in shuffles(TB, RATES, GIB)}
    parts = math.ceil(TB / GIB)
    assert found["keys"].writers == parts
    assert found["keys"].buckets == 128  # 200M documents, 2M a range, a power of two
    assert found["bands"].buckets == 1024  # 2,800M keys, 4M a range
    assert found["sequences"].buckets == 15_625  # 250,000M tokens, 16M a range
    assert (found["labels"].writers, found["labels"].buckets) == (256, parts)  # 20M edges: not at once
    assert sum(one.name == "stars" for one in shuffles(TB, RATES, GIB)) == 2 * 15
    assert not any(one.name == "stars" for one in shuffles(TB / 100, RATES, GIB))


def test_time_is_the_cores_share_and_the_driver_s_own():
    one, many = (project(TB, RATES, replace(SETUP, cores=cores)) for cores in (1, 256))
    assert one.core_hours == many.core_hours
    assert one.driver_hours == many.driver_hours
    for found, cores in ((one, 1), (many, 256)):
        assert found.hours == pytest.approx(found.core_hours / cores + found.driver_hours + found.held_up_hours)
    # a single core asks for less than a store answers; with as many as here it is the store that says how fast
    assert one.held_up_hours == 0 < many.held_up_hours
    assert many.requests_a_second > SETUP.requests_a_second > one.requests_a_second
    assert many.serial_share > one.serial_share
    # what was measured is in it, and all else only adds
    assert one.core_hours * 3600 > TB * RATES.core_seconds
    assert one.moved == pytest.approx(TB * RATES.moved + 2 * one.pieces * RATES.piece_bytes)


def test_pieces_grow_as_the_square_at_a_fixed_split_and_linearly_when_splits_grow_along():
    once, fixed, along = (
        {one.name: one for one in shuffles(size, RATES, split)}
        for size, split in ((TB, GIB), (4 * TB, GIB), (4 * TB, 4 * GIB))
    )
    for name in ("keys", "bands", "sequences"):
        assert fixed[name].pieces == pytest.approx(16 * once[name].pieces, rel=0.01)
        assert along[name].pieces == pytest.approx(4 * once[name].pieces, rel=0.01)


def test_every_dollar_has_a_price():
    found = project(TB, RATES, SETUP)
    double = project(TB, RATES, SETUP, Prices(core_hour=2 * Prices().core_hour, months=2.0))
    assert double.dollars["cores"] == 2 * found.dollars["cores"]
    assert double.dollars["storage"] == 2 * found.dollars["storage"] == pytest.approx(2 * 4000 * 0.023)
    assert double.dollars["reads"] == found.dollars["reads"] == pytest.approx(found.reads * 0.0004 / 1000)
    assert found.dollars_in_all == pytest.approx(sum(found.dollars.values()))


@pytest.mark.parametrize(
    "limit", ["memory of the driver", "memory of a worker", "cores wait for the store half of their time"]
)
def test_a_limit_is_met_from_its_size_on_and_not_before(limit):
    from benchmarks.scaling_model import LIMITS

    size = hits(limit, RATES, SETUP)
    assert size is not None
    assert GIB < size < PB
    assert not LIMITS[limit](project(size / 1.03, RATES, SETUP), SETUP)
    for larger in (1.0, 2.0, 10.0):
        assert LIMITS[limit](project(size * larger, RATES, SETUP), SETUP)


def test_a_limit_that_is_far_off_is_none():
    assert hits("memory of the driver", RATES, replace(SETUP, driver_memory=1e30)) is None


def test_the_best_split_fits_and_no_other_that_fits_is_cheaper():
    best = best_split(TB, RATES, SETUP)
    assert best is not None
    cost = {power: project(TB, RATES, replace(SETUP, split_bytes=float(1 << power))) for power in range(24, 41)}
    fits = {
        power: one.dollars_in_all
        for power, one in cost.items()
        if one.driver_bytes <= SETUP.driver_memory and one.worker_bytes <= SETUP.worker_memory
    }
    assert fits[round(math.log2(best))] == min(fits.values())
    assert best_split(PB, RATES, replace(SETUP, worker_memory=1e8)) is None


@pytest.mark.parametrize(
    ("size", "name"),
    [(PB, "1 PB"), (3.14159e12, "3.1 TB"), (GIB, "1 GiB"), (float(32 << 20), "32 MiB"), (5e11, "500 GB")],
)
def test_sizes_have_names(size, name):
    assert scaling.size_name(size) == name


def test_many_runs_cost_as_many_and_take_the_time_of_those_that_are_not_at_once():
    one = project(TB, RATES, SETUP)
    many = in_runs(one, 1000, 32)
    assert (many.size, many.parts) == (PB, 1000 * one.parts)
    assert many.hours == pytest.approx(one.hours * 1000 / 32)
    assert many.dollars_in_all == pytest.approx(1000 * one.dollars_in_all)
    assert (many.driver_bytes, many.worker_bytes) == (one.driver_bytes, one.worker_bytes)
    assert many.serial_share == pytest.approx(one.serial_share)


def test_the_page_holds_the_tables_of_the_stored_results():
    stored = json.loads((harness.RESULTS / "scaling.json").read_text())
    again = scaling.computed_rows(scaling.rates_in(stored["rows"]))
    assert [row for row in stored["rows"] if row["kind"] == "computed"] == again, MEND
    page = scaling.PAGE.read_text()
    found = scaling.tables(stored)
    assert all(f"<!-- table {name} -->" in page for name in found)
    assert scaling.with_tables(page, found) == page, MEND
    assert scaling.with_tables(page, found | {"limits": "| other |"}) != page
