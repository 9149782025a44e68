"""The mixing benchmark: a control that must tie ties, and bars say what the runs say."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks import mixing
from benchmarks.harness import BenchmarkError
from benchmarks.small_lm import Job, Piece, Schedule, write_domain

SMALL = replace(
    mixing.Settings(),
    seeds=1,
    sliver=4,
    every=3,
    probe_sequences=2,
    target_sequences=2,
    schedule=Schedule(steps=8, rows=4, length=8, evaluate_every=2, warmup=2),
)


def pieces(name, count, start):
    rows = (np.arange(count * 8).reshape(count, 8) * 7 + start) % 2048
    return [Piece(f"{name}/{i}", name, row.astype(np.uint16)) for i, row in enumerate(rows)]


@pytest.fixture
def folder(tmp_path):
    """Two clusters of made-up rows, and a target like the second."""
    here = tmp_path / "seed-0"
    for k, rows in enumerate((30, 6)):
        write_domain(here / "pool" / f"cluster-0{k}.arrow", "c", pieces(f"c{k}", rows, 1000 * k), 8)
    for name, rows in (("sliver", 6), ("one document", 4), ("held out", 5)):
        write_domain(here / "known" / f"{name}.arrow", name, pieces(name, rows, 1000), 8)
    weights = {"cluster-00": 0.1, "cluster-01": 0.9}
    facts = {"of the sliver": [1, 3], "histogram": {setting: weights for setting in mixing.SETTINGS}}
    (here / "facts.json").write_text(json.dumps(facts))
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"runs": asdict(SMALL)}}))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def test_probes_that_change_nothing_leave_every_bit_of_the_parameters(folder):
    uniform = mixing.run(folder, Job("any", "uniform", 0))
    observing = mixing.run(folder, Job("sliver", "dga, observing", 0))
    acting = mixing.run(folder, Job("sliver", "dga", 0))
    assert observing["parameters"] == uniform["parameters"] != acting["parameters"]
    assert observing["probes"]["measured"] == observing["probes"]["not zero"] == 2
    assert len(uniform["mixtures"]) == len(observing["mixtures"]) == 1
    assert len(acting["mixtures"]) == 3


def test_the_cap_holds_where_importance_alone_reads_a_cluster_without_end(folder, monkeypatch):
    monkeypatch.setattr(mixing, "CAP", 2.0)
    uncapped = mixing.run(folder, Job("sliver", "importance", 0))
    capped = mixing.run(folder, Job("sliver", "importance, cap 5", 0))
    assert uncapped["most epochs"] > 4
    # whole sequences: half a block's rounding at most
    assert capped["most epochs"] <= 2 + 1 / 6
    assert sum(capped["sequences read"]) == sum(uncapped["sequences read"]) == 32


def result(loss, parameters="p", products=3, not_zero=3):
    return {"loss": loss, "parameters": parameters, "probes": {"measured": products, "not zero": not_zero}}


def bars_of(control):
    done = {Job("any", "uniform", seed): result(5.0 + seed) for seed in (0, 1, 2)}
    done |= {Job("sliver", "importance", seed): result(7.0) for seed in (0, 1, 2)}
    done |= {Job("sliver", "dga", seed): result(4.0 + seed + 0.1 * (seed == 1)) for seed in (0, 1, 2)}
    done[Job("sliver", "dga, observing", 0)] = control
    return mixing.bars(done, 0.05, quick=False)


def test_bars_are_differences_in_paired_standard_errors():
    importance, uniform, control, cost = bars_of(result(5.0))
    # 1, 0.9, 1: the mean over the standard deviation by the root of three
    assert uniform.value == pytest.approx((2.9 / 3) / (np.std([1, 0.9, 1], ddof=1) / 3**0.5))
    assert (uniform.holds, control.holds, cost.holds) == (True, True, True)
    assert importance.value == pytest.approx((3 + 1.9 + 1) / 3 / (np.std([3, 1.9, 1], ddof=1) / 3**0.5))


@pytest.mark.parametrize("control", [result(5.0, parameters="q"), result(5.0, not_zero=2), result(5.0, 0, 0, 0)])
def test_a_control_that_differs_or_did_not_look_fails(control):
    assert bars_of(control)[2].holds is False


def test_documents_stay_together_and_too_few_are_refused():
    found = [Piece(f"{d}/{i}", d, np.zeros(1)) for i in range(3) for d in "abcd"]
    groups = mixing.by_document(found, np.random.default_rng(0))
    assert sorted("".join(piece.document for piece in group) for group in groups) == ["aaa", "bbb", "ccc", "ddd"]
    sides = iter(groups)
    first, second = mixing.take(sides, 4, "x"), mixing.take(sides, 5, "x")
    assert (len(first), len(second)) == (4, 5)
    assert not {piece.document for piece in first} & {piece.document for piece in second}
    with pytest.raises(BenchmarkError, match="bring more"):
        mixing.take(sides, 1, "x")
