"""The steps of a round: what each is made from, and which settings decide them."""

from __future__ import annotations

import json

import pytest

from penstock.dataset import hash_json
from penstock.recipe import Recipe
from penstock.refreshing.plan import round_steps, settings_of
from penstock.storage import Folder

TEXT = """
name: small
source: {files: [a.jsonl]}
embed: {}
generate: {voyage: {count: 9}, compare: [default]}
transform: {}
select: {criteria: {language: {}}}
train: {steps: 50, warmup_steps: 5}
refresh: {train: {steps: 20}, push_to: there}
"""


def steps(text=TEXT, number=2, base="gone", overrides=()):
    found = round_steps(Recipe.parse(text, overrides), number, None if base is None else Folder(base))
    return {step.name: step for step in found}


def test_a_later_round_stands_on_the_accepted_one():
    parents = {name: step.parents for name, step in steps().items()}
    assert parents == {
        "before-model": (),
        "before-sequences": (),
        "embedder": (),
        "coverage": ("embedder",),
        "generated": ("embedder", "coverage"),
        "transformed": ("generated",),
        "made-so-far": ("transformed",),
        "documents": ("made-so-far",),
        "deduplicated": ("documents",),
        "embedded": ("deduplicated", "embedder"),
        "tokenizer": ("deduplicated",),
        "scored": ("deduplicated", "tokenizer"),
        "selection-1": ("scored", "before-model"),
        "dataset-1": ("scored", "selection-1"),
        "sequences-1": ("scored", "selection-1"),
        "model-1": ("sequences-1", "tokenizer", "before-model"),
        "comparison": ("sequences-1", "model-1", "before-sequences", "before-model"),
    }
    seen = set()
    for name, of in parents.items():
        assert set(of) <= seen, f"{name} stands before a parent"
        seen.add(name)


def test_the_first_round_has_the_steps_of_a_run_and_compares_with_baselines():
    first = steps(number=1, base=None)
    assert "generated-default" in first
    assert first["selection-1"].parents == ("scored",)
    assert first["model-1"].train.steps == 50


def test_feedback_is_a_criterion_and_without_a_selection_there_is_none():
    parameters = steps()["selection-1"].parameters
    assert [c.column for c in parameters.criteria] == ["score.language", "score.excess_loss"]
    everything = steps(overrides=["select=null"])["selection-1"]
    assert (everything.parents, everything.parameters) == (("scored",), None)


def test_two_rounds_differ_in_their_voyages_alone():
    second, third = steps(number=2), steps(number=3)
    said = {name: (second[name].config(), third[name].config()) for name in second}
    assert {name for name, (a, b) in said.items() if a != b} == {"generated"}
    assert steps()["model-1"].train.seed == steps(number=1, base=None)["model-1"].train.seed


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


OTHER = {"when": "signals", "accept.held_out": "new", "push_to": "elsewhere", "train.steps": 30}
# they decide when there is a round and what becomes of it, and no row
FREE = {"when", "accept.held_out", "accept.tolerance", "accept.errors", "push_to"}
LEAVES = list(leaves(settings_of(Recipe.parse(TEXT)).model_dump(mode="json")))


@pytest.mark.parametrize(("path", "value"), LEAVES, ids=[".".join(path) for path, _ in LEAVES])
def test_every_setting_changes_a_key_or_is_known_to_be_free(path, value):
    name = ".".join(path)
    other = OTHER.get(name, value + 1 if isinstance(value, (int, float)) else None)
    assert other is not None, f"{name} = {value!r}: say in OTHER what it may become"
    text = json.dumps(other)

    def told(overrides):
        return {name: hash_json([s.parents, s.config()]) for name, s in steps(overrides=overrides).items()}

    assert (told([f"refresh.{name}={text}"]) != told([])) == (name not in FREE)
