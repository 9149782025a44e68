"""The proxy trained by the project's loop: what it ranks, what it spends, and how it fails."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.selectors.proxies.loop import LoopConfig, LoopProxy
from penstock.training.config import ModelConfig

SMALL = LoopConfig(
    steps=40,
    batch_size=8,
    length=24,
    learning_rate=1e-2,
    warmup_steps=4,
    model=ModelConfig(hidden_size=16, layers=1, heads=1, kv_heads=1, ffn_size=32),
)


@pytest.fixture
def data(proxy_data, languages):
    pool = [*languages("good", 40, 1), *languages("other", 40, 1)]
    target = [*languages("good", 12, 2), *languages("other", 4, 2)]
    return proxy_data(pool, target, 26, domains=["a"] * 40 + ["b"] * 40, parts=["good"] * 12 + ["other"] * 4)


GOOD, OTHER = np.repeat([1, 0], 40).astype(np.int32), np.repeat([0, 1], 40).astype(np.int32)


def test_what_is_like_the_target_has_the_lower_loss_and_a_seed_gives_it_again(data, tmp_path):
    proxy = LoopProxy.of(data, SMALL, str(tmp_path))
    good, other = proxy.measure(GOOD, seed=1), proxy.measure(OTHER, seed=1)
    assert good.losses["good"] < other.losses["good"] - 0.1
    assert other.losses["other"] < good.losses["other"] - 0.1
    assert min(good.losses.values()) < good.loss < max(good.losses.values())
    # three quarters of the target's tokens are good
    assert good.loss < np.mean(list(good.losses.values()))
    assert proxy.measure(GOOD, seed=1) == good
    assert proxy.measure(GOOD, seed=2).loss != good.loss


def test_every_proxy_spends_the_same_tokens_and_says_how_often_it_read_them(data, tmp_path):
    proxy = LoopProxy.of(data, dataclasses.replace(SMALL, steps=5), str(tmp_path))
    few = np.zeros(80, np.int32)
    few[:4] = 1
    twice = proxy.measure(2 * GOOD, seed=1).passes
    assert proxy.measure(GOOD, seed=1).passes == pytest.approx(2 * twice, rel=0.05)
    tokens = int(data.pool.sizes[:4].sum())
    assert proxy.measure(few, seed=1).passes == pytest.approx(5 * 8 * 24 / tokens, rel=0.25)  # the rest is padding


@pytest.mark.filterwarnings("ignore")
def test_a_proxy_that_diverges_is_a_flag_and_no_error(data, tmp_path):
    wild = LoopProxy.of(data, dataclasses.replace(SMALL, learning_rate=1e5), str(tmp_path)).measure(GOOD, seed=1)
    assert (wild.loss, wild.losses) == (None, {})
    assert wild.flag.startswith("diverged: ")


def test_identity_knows_the_data_and_the_settings_but_not_the_device(data, proxy_data, tmp_path):
    identity = LoopProxy.of(data, SMALL, str(tmp_path)).identity()
    same = LoopProxy.of(data, dataclasses.replace(SMALL, device="auto"), str(tmp_path / "b"))
    assert same.identity() == identity
    for config in (dataclasses.replace(SMALL, steps=6), dataclasses.replace(SMALL, model=ModelConfig())):
        assert LoopProxy.of(data, config, str(tmp_path)).identity() != identity
    assert LoopProxy.of(proxy_data([[2, 1]], [[3, 1]], 26), SMALL, str(tmp_path)).identity() != identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 4}, "loop.length: got 4, allowed a whole number >= 8"),
        ({"steps": 0}, "steps: got 0"),
        ({"steps": 3, "warmup_steps": 9}, "warmup_steps: got 9, allowed at most steps = 3"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0"),
        ({"model": ModelConfig(path="there")}, "loop.model.path: got 'there', allowed none"),
    ],
)
def test_settings_that_no_training_takes_are_refused_when_they_are_written_down(changes, message):
    with pytest.raises(ConfigError, match=message):
        LoopConfig(**changes)
