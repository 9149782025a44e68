"""Every YAML block of the pages is what it says: a recipe, sections of one, or what its mark names."""

import json

import pytest
import yaml

from penstock.flows.deployments import Deployments
from penstock.generators.gates.jury import read_rubric
from penstock.generators.prices import Prices
from penstock.recipe import Recipe
from reference.blocks import blocks


def recipe(text):
    """The recipe that a block is, or is a part of."""
    given = yaml.safe_load(text)
    beside = {"name": "page", "source": {"environment": {}}, "quality": {"positive": {"domains": ["good"]}}}
    if "select" not in given:
        beside["select"] = None
    if "train" in given:
        given["train"] = {"steps": 100} | given["train"]
    return Recipe.parse(yaml.safe_dump(beside | given))


def rubric(text, folder):
    path = folder / "rubric.yaml"
    path.write_text(text)
    assert read_rubric(str(path)).dimensions


def prices(text, folder):
    path = folder / "prices.yaml"
    path.write_text(text)
    assert Prices.of(str(path)).table


KINDS = {
    "rubric": rubric,
    "prices": prices,
    "deployments": lambda text, _: Deployments.parse(text),
    "generate": lambda text, _: recipe(yaml.safe_dump({"generate": yaml.safe_load(text)})),
}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_blocks_are_read_as_what_they_are(block, tmp_path):
    if (kind := block.marks.get("of")) is not None:
        KINDS[kind](block.code, tmp_path)
    else:
        recipe(block.code)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_blocks_are_json(block):
    for line in [block.code] if block.code.lstrip().startswith("[") else block.code.splitlines():
        json.loads(line)
