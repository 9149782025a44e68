"""pytest tests/training/mixing/test_mixing_docs.py: the code of docs/mixing.md runs, and it names every option."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml

from penstock.training.mixing.base import Cadence, MixingPolicy, Signal
from penstock.training.mixing.config import _RULES, Name, PolicyConfig, policy_of
from penstock.training.mixing.mixer import Mixer, starting_weights
from penstock.training.sequences import SequenceStore

PAGE = (Path(__file__).parents[3] / "docs" / "mixing.md").read_text()
LOOP, STEP, OWN = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def around(packed: SimpleNamespace, tmp_path: Path) -> dict[str, Any]:
    """What a reader has: a model, data, and a number of steps."""

    def store(split: str, counts: dict[str, int]) -> SequenceStore:
        files = {
            name: [
                packed.write(
                    tmp_path / split / f"{name}.arrow",
                    packed.random(name, count, length=16, vocabulary=32, seed=len(split)),
                    length=16,
                    domain=name,
                )
            ]
            for name, count in counts.items()
        }
        return SequenceStore.open(files)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(32, 8), torch.nn.Linear(8, 32))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.5),
        "store": store("train", {"code": 30, "web": 60}),
        "held_out": store("validation", {"web": 8, "wiki": 12}),
        "digest": "f00d",
        "folder": tmp_path,
        "steps": 8,
        "Cadence": Cadence,
    }


def run(code: str, names: dict[str, Any]) -> None:
    """Run a block of the page with these names, and keep what it defines."""
    file = names["folder"] / "block.py"
    file.write_text(code)
    names.update(runpy.run_path(str(file), init_globals=names))


def test_the_loop_trains_and_moves_the_mixture(around: dict[str, Any]) -> None:
    run(STEP, around)
    before = [p.detach().clone() for p in around["model"].parameters()]
    run(LOOP, around)
    loader, mixer = around["loader"], around["mixer"]
    assert loader.consumed == 8 * 16
    assert mixer.updates == 4
    assert loader.newest_version == 4
    assert loader.weights_of(4) != loader.weights_of(0)
    assert all(not torch.equal(a, b) for a, b in zip(before, around["model"].parameters(), strict=True))


def test_the_policy_of_your_own_runs_in_the_same_loop(around: dict[str, Any]) -> None:
    run(STEP, around)
    run(OWN, around)
    policy = around["HarderFirst"]()
    assert isinstance(policy, MixingPolicy)
    loop = LOOP.replace("DynamicGradientAlignment(cadence=Cadence(every=2))", "HarderFirst()")
    assert loop != LOOP
    run(loop, around)
    mixer: Mixer = around["mixer"]
    assert isinstance(mixer.policy, around["HarderFirst"])
    loss = np.array(mixer.policy.loss)  # type: ignore[attr-defined]
    raw = np.exp(loss)
    newest = around["loader"].weights_of(around["loader"].newest_version)
    assert list(newest) == pytest.approx((raw / raw.sum()).tolist())
    # its state is what it said it was
    other = around["HarderFirst"]()
    starting_weights(other, around["store"])
    other.load_state_dict(mixer.policy.state_dict())
    assert other.loss.tolist() == loss.tolist()


def test_the_recipe_is_one() -> None:
    config = PolicyConfig(**{**(given := yaml.safe_load(RECIPE)["train"]["policy"]), "target": tuple(given["target"])})
    assert config.name == "dga"
    assert config.max_epochs == 5


def test_every_rule_and_every_option_of_it_is_named() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", PAGE, re.MULTILINE))
    sections = {
        name: text
        for names, text in re.findall(r"^(\*\*`.*?`\*\*): (.*?)(?=\n\n)", PAGE, re.DOTALL | re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    for name in get_args(Name):
        assert name in rows, name
        module, kind = _RULES[name]
        options = {f.name for f in fields(getattr(import_module(f"penstock.training.mixing.{module}"), kind)) if f.init}
        for option in options - {"cadence"}:
            assert re.search(rf"`{option}\b", sections[name]), (name, option)
    for field in fields(PolicyConfig):
        assert re.search(rf"`{field.name}\b|\b{field.name}:", PAGE), field.name


def test_the_table_says_what_each_rule_looks_at_and_when() -> None:
    needed = {"dga": {"target": ("w",)}, "importance": {"options": {"histogram": {"a": 1}}}}
    needed |= {name: {"options": {"runs": "x"}} for name in ("regmix", "mixing_laws")}
    for name in get_args(Name):
        policy, _ = policy_of(PolicyConfig(name=name, **needed.get(name, {})), steps=100)
        (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", PAGE, re.MULTILINE)
        looks, asked = re.split(r" (?<!\\)\| ", row)[2:4]
        assert {Signal(s) for s in re.findall(r"`(\w+)`", looks)} == policy.needs, name
        if policy.needs:
            every = policy.cadence.every
            assert asked == ("every step" if every == 1 else f"{every} steps"), name
