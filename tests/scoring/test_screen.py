"""Flags as evidence: ``python -m pytest tests/scoring/test_screen.py``."""

import numpy as np
import pyarrow as pa
import pytest

from penstock import apply
from penstock.scoring.calibration import SCREENED, Calibration, CalibrationSettings, calibrate
from penstock.scoring.formulas import column
from penstock.scoring.screen import Screen, excess, flag


def batch(z, *, domain="news", tokens=150, hashes=None):
    n = len(z)
    columns = {
        "content_hash": pa.array(hashes or [bytes([i % 256, i // 256]) * 8 for i in range(n)], pa.binary(16)),
        "domain": [domain] * n,
        "lm_tokens": pa.array([tokens] * n, pa.int32()),
    }
    for score in SCREENED:
        columns[column(score)] = pa.array(z if score == "z" else [None] * n, pa.float32())
    return pa.RecordBatch.from_pydict(columns)


@pytest.fixture
def screen(tmp_path):
    """Of a reference whose z are 1 to 199: at 5 %, more than 190 is flagged."""
    rows = pa.Table.from_batches(
        [batch([float(i) for i in range(1, 200)], hashes=[bytes([i]) * 16 for i in range(1, 200)])]
    )
    path, digest = calibrate(rows, CalibrationSettings(rate=0.05, scores=("z",)), {}, str(tmp_path))
    return Screen(path=path, digest=digest)


def test_rows_beyond_the_threshold_get_a_flag_and_every_row_stays(screen):
    rows = batch([190.0, 190.5, -3.0, 1e6])
    found = apply([screen], rows).batch
    assert found.num_rows == 4
    assert found["flags"].to_pylist() == [[], ["machine:z"], [], ["machine:z"]]
    # (1 + reference values at least as large) / 200
    np.testing.assert_allclose(found["p.lm_z"].to_numpy(), [11 / 200, 10 / 200, 1.0, 1 / 200], rtol=1e-6)
    assert set(found["cell"].to_pylist()) == {"news/100-199"}
    assert set(found["threshold_id"].to_pylist()) == {screen.digest[:12]}
    for name in rows.schema.names:
        assert found[name].equals(rows[name])


@pytest.mark.parametrize(
    "rows",
    [
        batch([500.0], domain="poems"),
        batch([500.0], tokens=50),
        batch([500.0], tokens=250),
        batch([None]),
        batch([500.0], hashes=[bytes([7]) * 16]),
    ],
    ids=["unknown domain", "short", "length without reference", "no score", "a reference text"],
)
def test_a_row_that_cannot_be_tested_has_null_and_not_an_acquittal(screen, rows):
    found = apply([screen], rows).batch
    assert found["flags"].to_pylist() == [None]
    assert found["p.lm_z"].to_pylist() == [None]


def test_flags_name_the_kind_of_suspicion():
    assert {flag(score) for score in SCREENED} >= {"machine:z", "machine:zs_signed", "membership:minkpp"}


def counts(texts, flagged):
    return {"z": {"texts": texts, "flagged": flagged}}


def test_a_domain_is_named_only_when_its_flags_are_more_than_chance(screen):
    calibration = Calibration.load(screen.path, screen.digest)
    cell = "news/100-199"
    (usual,) = excess(calibration, {cell: counts(1000, 55)}, fdr=0.05)
    assert (usual["named"], usual["expected"]) == (False, 50.0)
    (many,) = excess(calibration, {cell: counts(1000, 150)}, fdr=0.05)
    assert many["named"]
    # 5 % of a threshold from 199 texts may well be 7.5 % of the next thousand, though a binomial would cry out
    (between,) = excess(calibration, {cell: counts(1000, 75)}, fdr=0.05)
    assert not between["named"]
    assert excess(calibration, {}, fdr=0.05) == []


def test_p_is_the_share_of_calibrations_with_as_many_flags(screen):
    calibration = Calibration.load(screen.path, screen.digest)
    rng = np.random.default_rng(0)
    reference, fresh = np.sort(rng.random((4000, 199)), axis=1), rng.random((4000, 100))
    flagged = (fresh > reference[:, 189:190]).sum(axis=1)
    for count in (3, 6, 10):
        (found,) = excess(calibration, {"news/100-199": counts(100, count)}, fdr=0.05)
        assert found["p"] == pytest.approx((flagged >= count).mean(), abs=0.03)


def test_many_cells_are_held_to_one_false_discovery_rate(tmp_path):
    tables = []
    for i in range(30):
        z = [float(v) for v in range(199)]
        tables.append(pa.Table.from_batches([batch(z, domain=f"d{i:02}")]))
    path, digest = calibrate(pa.concat_tables(tables), CalibrationSettings(rate=0.05, scores=("z",)), {}, str(tmp_path))
    calibration = Calibration.load(path, digest)
    # alone its p of 0.03 or so would be named; as the best of thirty it is what chance brings
    tested = {f"d{i:02}/100-199": counts(100, 11 if i == 0 else 5) for i in range(30)}
    found = excess(calibration, tested, fdr=0.05)
    assert found[0]["cell"] == "d00/100-199"
    assert found[0]["p"] < 0.05 < found[0]["q"]
    assert not any(entry["named"] for entry in found)
    (alone,) = excess(calibration, {"d00/100-199": counts(100, 11)}, fdr=0.05)
    assert alone["named"]
