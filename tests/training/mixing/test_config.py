"""pytest tests/training/mixing/test_config.py"""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pydantic
import pytest

from penstock.errors import ConfigError
from penstock.training.mixing.ado import AdaptiveDataOptimization
from penstock.training.mixing.base import Cadence, MixingPolicy
from penstock.training.mixing.config import Name, PolicyConfig, policy_of
from penstock.training.mixing.cooldown import Cooldown
from penstock.training.mixing.dga import DynamicGradientAlignment
from penstock.training.mixing.post import PostStage

# options that a rule cannot do without
NEEDED: dict[str, dict[str, Any]] = {
    "importance": {"options": {"histogram": {"a": 1}}},
    "regmix": {"options": {"runs": "runs.jsonl"}},
    "mixing_laws": {"options": {"runs": "runs.jsonl"}},
    "dga": {"target": ("wiki",)},
}


@pytest.mark.parametrize("name", get_args(Name))
def test_every_name_makes_the_policy_of_that_name(name: Any) -> None:
    policy, post = policy_of(PolicyConfig(name=name, **NEEDED.get(name, {})), steps=100)
    assert isinstance(policy, MixingPolicy)
    assert policy.name == name
    assert post == PostStage()


def test_options_cadence_and_post_stage_arrive() -> None:
    config = PolicyConfig(
        name="dga",
        target=("wiki",),
        options={"eta": 0.5, "ema": 0.1},
        every=20,
        warmup=40,
        smoothing=0.01,
        floor=0.02,
        max_epochs=4,
        on_infeasible="redistribute",
    )
    policy, post = policy_of(config)
    assert isinstance(policy, DynamicGradientAlignment)
    assert (policy.eta, policy.ema, policy.cadence) == (0.5, 0.1, Cadence(every=20, warmup=40))
    assert post == PostStage(smoothing=0.01, floor=0.02, max_epochs=4, on_infeasible="redistribute")
    assert config.needs_probe


def test_what_is_left_out_of_the_cadence_is_the_rules_own() -> None:
    def cadence(**given: Any) -> Cadence:
        return policy_of(PolicyConfig(**given))[0].cadence

    assert cadence(name="dga", target=("wiki",)) == Cadence(every=100)
    assert cadence(name="dga", target=("wiki",), warmup=7) == Cadence(every=100, warmup=7)
    assert cadence(name="odm", every=5) == Cadence(every=5)
    assert cadence(name="doremi") == Cadence(every=1)


def test_a_schedule_follows_the_run_unless_it_is_told_otherwise() -> None:
    def switch(options: dict[str, Any], steps: int | None) -> int:
        policy, _ = policy_of(PolicyConfig(name="cooldown", options=options), steps=steps)
        assert isinstance(policy, Cooldown)
        return policy.cadence.every

    assert switch({}, 600) == 300
    assert switch({"steps": 100}, 600) == 50
    with pytest.raises(ConfigError, match="cooldown needs steps"):
        switch({}, None)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": "dg"}, "policy.name: got 'dg', allowed static, cooldown"),
        ({"name": "dg"}, "did you mean dga?"),
        ({"name": "dga", "target": ("w",), "options": {"etta": 1}}, "dga has no option 'etta'; did you mean eta?"),
        ({"name": "static", "options": {"q": 1}}, "static has no option 'q'; allowed: weights, temperature"),
        ({"name": "dga", "target": ("w",), "options": {"cadence": 1}}, "dga has no option 'cadence'"),
        ({"name": "dga", "target": ("w",), "options": {"eta": "fast"}}, "eta: got 'fast', allowed a finite number > 0"),
        ({"name": "dga"}, "got none for dga, allowed at least one domain with validation"),
        ({"name": "dga", "target": "wiki"}, "got 'wiki', allowed a list of domains: [wiki]"),
        ({"name": "importance"}, "importance needs histogram"),
        ({"name": "regmix"}, "regmix needs runs"),
        ({"name": "static", "every": 5}, "static is not asked at intervals; leave out every and warmup"),
        ({"name": "odm", "every": 0}, "policy.every: got 0"),
        ({"name": "odm", "lag": -1}, "policy.lag: got -1"),
        ({"name": "odm", "lag": 1.5}, "policy.lag: got 1.5, allowed a whole number >= 0"),
        ({"name": "odm", "probe_sequences": 4}, "odm looks at no probe"),
        ({"name": "odm", "clip_norm": None}, "odm looks at no probe"),
        ({"name": "rnb", "clip_norm": 0}, "policy.clip_norm: got 0"),
        ({"name": "rnb", "probe_sequences": 0}, "policy.probe_sequences: got 0"),
        ({"name": "odm", "smoothing": 1}, "smoothing: got 1, allowed 0 <= number < 1"),
        ({"name": "doremi", "smoothing": 0.1}, "doremi smooths inside its own recursion"),
        ({"name": "dga", "target": ("w",), "ema": 0.1, "options": {"ema": 0.1}}, "dga has one of its own"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        PolicyConfig(**given)
    assert text in str(error.value)


class Section(pydantic.BaseModel):
    """As a recipe nests it."""

    policy: PolicyConfig | None = None


def test_a_recipe_nests_it_and_writes_it_out_again() -> None:
    text = {"policy": {"name": "ado", "options": {"prior": {"a": 3, "b": 1}, "refit": 50}, "max_epochs": 3.5}}
    section = Section.model_validate(text)
    assert section.policy is not None
    policy, _ = policy_of(section.policy)
    assert isinstance(policy, AdaptiveDataOptimization)
    assert policy.prior == {"a": 3, "b": 1}
    assert policy.refit == 50
    assert Section.model_validate(section.model_dump(mode="json")) == section


def test_reading_a_recipe_imports_no_scipy_sklearn_or_torch() -> None:
    code = (
        "import sys; from penstock.training.mixing.config import PolicyConfig as P\n"
        "P(name='ado'); P(name='regmix', options={'runs': 'x'}); P(name='mixing_laws', options={'runs': 'x'})\n"
        "P(name='dga', target=('w',))\n"
        "print([m for m in ('scipy', 'sklearn', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"
