"""pytest tests/benchmarks/test_loss.py: both sides of benchmarks/loss.py measure the same work."""

import pytest

from benchmarks import loss_sides


def test_plain_and_chunked_heads_have_one_loss_and_a_time_per_run():
    plain, chunked = (loss_sides.head(kind, 300, 64, 8, 2) for kind in ("plain", "chunked"))
    assert chunked["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert [len(side["seconds"]) for side in (plain, chunked)] == [2, 2]


@pytest.mark.parametrize(("mode", "micro_batches"), [("prepass", 2), ("deferred", 4)])
def test_steps_with_and_without_weights_take_turns(mode, micro_batches, monkeypatch):
    monkeypatch.setattr(loss_sides, "VOCABULARY", 200)
    monkeypatch.setattr(loss_sides, "ROWS", 4)
    found = loss_sides.steps(mode, micro_batches, 2)
    assert [len(found[side]) for side in ("plain", "weighted")] == [2, 2]
    assert min(found["plain"] + found["weighted"]) > 0
