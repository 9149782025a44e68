"""What settings refuse, and with which words."""

import pytest

from penstock.errors import ConfigError
from penstock.generators.voyager import ThresholdSettings, VoyagerSettings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(({name: 0}, f"{name}: got 0, allowed >= 1") for name in ("count", "explorers", "anchors", "rounds", "batch")),
        ({"patience": 0}, "patience: got 0, allowed >= 1"),
        ({"sample": 1}, "sample: got 1, allowed >= 2"),
        ({"prune": "random"}, "prune: got 'random', allowed kdpp, greedy, latest"),
        ({"refine": "often"}, "refine: got 'often', allowed rejected, always, never"),
        ({"explorer_weight": "luck"}, "explorer_weight: got 'luck', allowed none, acceptance"),
        ({"near": 0.0}, "near: got 0.0, allowed above 0 and up to 1"),
        ({"near": 1.1}, "near: got 1.1"),
        ({"threshold": ThresholdSettings(strategy="none")}, "prune: got kdpp without a threshold, allowed latest"),
    ],
)
def test_a_voyage_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError) as error:
        VoyagerSettings(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "mean"}, "threshold.strategy: got 'mean', allowed quantile, geometric, paper, none"),
        ({"decay": "linear"}, "threshold.decay: got 'linear', allowed none, exp"),
        ({"acceptance": 0.0}, "threshold.acceptance: got 0.0, allowed between 0 and 1"),
        ({"acceptance": 1.0}, "threshold.acceptance: got 1.0"),
        ({"strategy": "paper", "alpha": 0.0}, "threshold.alpha: got 0.0, allowed a number above 0"),
        ({"alpha": 1.0}, "threshold.alpha: got one for quantile, allowed for geometric and paper"),
        ({"lowest": 0.5, "highest": 0.4}, "got lowest 0.5 and highest 0.4"),
        ({"lowest": -0.1}, "got lowest -0.1"),
        ({"horizon": 0.0}, "threshold.horizon: got 0.0, allowed rounds above 0"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError) as error:
        ThresholdSettings(**changes)
    assert words in str(error.value)


def test_defaults_are_the_paper_s_where_it_gives_a_number():
    made = VoyagerSettings()
    assert (made.explorers, made.anchors, made.rounds, made.batch, made.sample) == (3, 10, 200, 10, 100)
    VoyagerSettings(sample=0, threshold=ThresholdSettings(strategy="none"), prune="latest")
