"""pytest tests/benchmarks/test_gradients.py: both sides of benchmarks/gradients.py make the same gradients."""

import pytest
import torch

from benchmarks import gradients_sides

SMALL = {"hidden": 64, "layers": 1, "rank": 2, "length": 8, "examples": 6, "size": 4}


@pytest.fixture(autouse=True)
def _small_vocabulary(monkeypatch):
    monkeypatch.setattr(gradients_sides, "VOCABULARY", 50)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_hooks_and_autograd_give_the_same_lengths_of_gradients():
    hooks, single = (gradients_sides.side(kind, **SMALL) for kind in ("hooks", "single"))
    assert hooks["shown"] == pytest.approx(single["shown"], rel=1e-4)
    assert min(hooks["shown"]) > 0
    assert hooks["parameters"] == single["parameters"] == 2 * (64 + 64) * 2 + 2 * (64 + 32) * 2
    assert hooks["seconds"] > 0


def test_features_have_a_length_and_the_floor_has_losses():
    features, forward = (gradients_sides.side(kind, **SMALL) for kind in ("features", "forward"))
    assert len(features["shown"]) == len(forward["shown"]) == 4
    assert min(features["shown"]) > 0
    assert forward["shown"] == pytest.approx([torch.tensor(50.0).log().item()] * 4, rel=0.2)
