"""docs/criteria.md: its recipe is one, and it names every setting of every scorer."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from penstock.generators.config import GeneratorConfig
from penstock.pipelines.plan import directions_of, parameters_of, plan
from penstock.recipe import Recipe
from penstock.recipe_sections import Perplexity, Scores
from penstock.selectors.scorers.config import AskLLMConfig, ClassifierConfig
from penstock.selectors.scorers.heuristic import CURVES, HeuristicScore
from penstock.selectors.scorers.perplexity import PerplexityModel

PAGE = (Path(__file__).parents[3] / "docs" / "criteria.md").read_text()
RECIPE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]


def test_the_recipe_of_the_page_is_one():
    recipe = Recipe.parse("name: page\nsource: {environment: {}}\n" + RECIPE)
    assert [s.name for s in plan(recipe)][3:6] == ["quality", "perplexity", "scored"]
    ends = {c.column: c.direction for c in parameters_of(recipe.select, directions_of(recipe)).criteria}
    assert ends == {
        "score.quality": "higher",
        "score.perplexity": "lower",
        "score.edu": "higher",
        "score.lm_loss": "lower",
    }


@pytest.mark.parametrize(
    "name",
    [
        *(f.name for kind in (HeuristicScore, AskLLMConfig, ClassifierConfig, GeneratorConfig) for f in fields(kind)),
        *Perplexity.model_fields,
        *Scores.model_fields,
    ],
)
def test_every_setting_is_named(name):
    assert re.search(rf"`{name}\b|`[^`]*\b{name}:|^ *{name}:", PAGE, re.MULTILINE), name


def test_what_the_page_says_of_defaults_holds():
    assert "`characters` 2000" in PAGE
    assert AskLLMConfig.characters == 2000
    assert "`prefix_bytes` (65536)" in PAGE
    assert HeuristicScore.prefix_bytes == 65536
    assert "eight statistics" in PAGE
    assert len(CURVES) == 8
    assert PerplexityModel().length == 6
    assert PerplexityModel(unit="word").length == 3
    assert "`alternatives` (20)" in PAGE
    assert AskLLMConfig.alternatives == 20
