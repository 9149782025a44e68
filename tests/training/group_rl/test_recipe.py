"""What a recipe says of learning from groups: settings of the loop, how a question is asked, what is in a key."""

from __future__ import annotations

from dataclasses import fields

import pytest

from penstock.errors import ConfigError
from penstock.generators.exports import INSTRUCTION
from penstock.sources.base import problem_text
from penstock.training.group_rl.config import RUNNING, GroupRLConfig
from penstock.training.group_rl.recipe import GroupRLRecipe


def test_the_run_s_own_model_is_asked_in_the_form_of_its_documents():
    config = GroupRLRecipe()
    asked = config.asked("What is 2 + 3?")
    assert problem_text("What is 2 + 3?", "5").decode() == f"{asked} 5"
    assert config.settings.instruction == ""


@pytest.mark.parametrize(
    ("given", "asked", "instruction"),
    [
        ({"model": "m"}, "2 + 3?", INSTRUCTION),
        ({"instruction": "Think."}, "2 + 3?", "Think."),
        ({"model": "m", "prompt": "Q: {question}\nA:"}, "Q: 2 + 3?\nA:", ""),
        ({"prompt": "{question} = "}, "2 + 3? = ", ""),
    ],
)
def test_an_instruction_or_a_prompt_of_the_recipe_goes_before(given, asked, instruction):
    config = GroupRLRecipe(**given)
    assert config.asked("2 + 3?") == asked
    assert config.settings.instruction == instruction


def test_braces_of_a_question_are_left_alone():
    assert GroupRLRecipe().asked("{question} {0} {") == "Question: {question} {0} {\nAnswer:"


def test_the_loop_is_told_every_setting_of_its_own():
    config = GroupRLRecipe(model="m", objective="nft", rollouts=5, max_new_tokens=7, eval_ks=(1, 2), seed=3)
    assert type(config.settings) is GroupRLConfig
    given = {f.name: getattr(config, f.name) for f in fields(GroupRLConfig)}
    assert {f.name: getattr(config.settings, f.name) for f in fields(GroupRLConfig)} == given


def test_places_and_how_a_run_is_watched_decide_nothing():
    here = GroupRLRecipe(model="a", problems="b", held_out="c", device="cpu", checkpoint_every=1)
    there = GroupRLRecipe(model="d", problems="e", held_out="f", device="cuda", checkpoint_every=2)
    assert here.said() == there.said()
    assert not {"model", "problems", "held_out", *RUNNING} & here.said().keys()
    assert GroupRLRecipe(held_out=0.2).said()["held_out"] == 0.2
    # a model of the run's own is asked otherwise
    assert GroupRLRecipe().said() != GroupRLRecipe(model="a").said()


@pytest.mark.parametrize("share", [-0.1, 1.0, True, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match=r"held_out: got .*, allowed a share from 0 to below 1, or a path"):
        GroupRLRecipe(held_out=share)
