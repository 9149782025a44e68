"""The benchmark of diversity measures what it says. Run: pytest tests/benchmarks/test_diversity.py"""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import diversity, diversity_sides, harness
from benchmarks.diversity_data import features, likelihood
from penstock.diversity import Cosine, greedy_map


def by_determinants(matrix, count):
    chosen = []
    for _ in range(count):
        found = [
            -np.inf if i in chosen else np.linalg.slogdet(matrix[np.ix_([*chosen, i], [*chosen, i])])[1]
            for i in range(len(matrix))
        ]
        chosen.append(int(np.flatnonzero(np.array(found) >= max(found) - 1e-11)[0]))
    return chosen


@pytest.mark.parametrize("data", ["random", "clustered"])
def test_the_reference_chooses_by_determinants_and_greedy_as_the_reference(data):
    matrix = features(data, 150, 20)
    found = diversity_sides.reference(matrix, 12)
    assert found == by_determinants(np.asarray(Cosine(matrix.astype(np.float64)).dense()), 12)
    assert greedy_map(matrix, 12).picks.tolist() == found


def test_sets_are_the_same_in_every_process_and_unit_vectors():
    code = "from benchmarks.diversity_data import *; print(features('clustered', 40, 6).sum(), likelihood(9).sum())"
    told = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(features("clustered", 40, 6).sum()), str(likelihood(9).sum())]
    assert np.linalg.norm(features("random", 40, 6), axis=1) == pytest.approx(1, abs=1e-6)


def test_a_quick_run_without_the_peer_measures_all_else(monkeypatch):
    told = {
        "greedy": {"read": [1.0, 1, 1], "passes": [3.0, 4, 3], "sweep": [2.0, 2, 2], "lazy": [2.0, 2, 2]}
        | {"torch": [2.0, 2, 2], "equal": 49, "bytes": 10**9},
        "memory": {"peak": {"10": 1e6, "20": 2e6}, "bytes_a_row": 62.0},
        "forms": {"seconds": {"rows, sweeps": 1.0}, "equal": False},
        "rounds": {"losses": {"random, 4 shards": [-4.0, -5.0, -14.0, 0.1]}},
        "overflow": {"log10": 789.5},
    }
    monkeypatch.setattr(harness, "peer", lambda name, quick: None)
    monkeypatch.setattr(diversity, "side", lambda mode, **values: told[mode])
    found = diversity.measure(harness.Options(quick=True))
    values = {bar.name: (bar.value, bar.holds) for bar in found.bars}
    assert values["random, all cores: share of the bound of the bare products"] == (1.5, True)
    assert values["random, all cores: picks equal to float64"] == (49, False)
    assert values["forms that give the same picks"] == (0, False)
    assert values["k-DPP samples after it over DPPy's, times"] == (None, None)
    shares = [row for row in found.rows if row["what"] == "clustered, all cores: share of plain reads"]
    assert [row["median"] for row in shares] == [0.5]
