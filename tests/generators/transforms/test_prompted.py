"""Transforms by a model: what is asked, what is taken, and what is refused."""

from __future__ import annotations

import asyncio
import json

import pytest

from penstock.errors import ConfigError
from penstock.generators.base import Completion
from penstock.generators.prompt_files import PromptFile
from penstock.generators.transforms.base import NotApplicable, Problem, Variant
from penstock.generators.transforms.prompted import KINDS, model_transforms
from penstock.generators.verification.base import Pair
from penstock.generators.verification.catalogue import checks_of
from penstock.generators.verification.ladder import Ladder

QUESTION = "Ann has 3 apples and buys 4 more. How many apples does Ann have?"
PROBLEM = Problem(problem_id="p", prompt=QUESTION, answer="7")
MORE = {
    "rename": {"names": [{"old": "Ann", "new": "Mia"}]},
    "term": {"term": "glorp"},
    "subproblem": {"number": "4", "condition": "2 times 2"},
}


def answer(question="Of 3 apples and 4 bought ones, what is the sum?", applies=True, reason="", **more):
    return json.dumps({"applies": applies, "reason": reason, "question": question, **more})


def apply(model, kind, problems=(PROBLEM,), seed=0, **options):
    (transform,) = model_transforms(model, kinds=(kind,), **options)
    return asyncio.run(transform.apply(list(problems), seed=seed))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_asks_its_own_prompt_with_the_question_alone_and_takes_the_answer(kind, scripted):
    model = scripted(lambda request: answer(**MORE.get(kind, {})))
    (variant,) = apply(model, kind)
    assert (variant.kind, variant.transform, variant.answer) == (kind, f"model_{kind}", "7")
    assert variant.prompt == "Of 3 apples and 4 bought ones, what is the sum?"
    assert variant.mapping == ({"Ann": "Mia"} if kind == "rename" else {})
    assert variant.facts["model"] == "scripted"
    assert len(variant.facts["prompt_hash"]) == 16
    wanted = {"term": {"term": "glorp"}, "subproblem": {"number": "4", "condition": "2 times 2"}}.get(kind, {})
    assert {k: v for k, v in variant.facts.items() if k not in ("model", "prompt_hash")} == wanted
    (request,) = model.asked
    (message,) = request.messages
    assert QUESTION in message.content
    assert "{{" not in message.content
    schema = json.loads(request.schema)
    assert set(schema["required"]) == {"applies", "reason", "question", *MORE.get(kind, {})}


def test_prompts_of_different_kinds_differ(scripted):
    hashes = {one.prompt.digest for one in model_transforms(scripted(None))}
    assert len(hashes) == len(KINDS)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (answer(applies=False, reason="no name in it"), "the model says so: no name in it"),
        (answer(applies=False), "the model says so: without a reason"),
        (answer(question="  "), "an empty question"),
        (answer(question=QUESTION), "the input came back"),
        (answer(question=QUESTION.upper().replace(".", " !")), "the input came back"),
        (answer(question=f"Please solve this: {QUESTION}"), "the input came back in a wrapper"),
        (answer(question=f"{QUESTION} Show your steps."), "the input came back in a wrapper"),
        (Completion(error="status 500"), "no usable answer: status 500"),
    ],
)
def test_what_is_no_variant_is_not_applicable_with_its_reason(said, reason, scripted):
    assert apply(scripted(lambda request: said), "paraphrase") == [
        NotApplicable(transform="model_paraphrase", reason=reason)
    ]


def test_a_story_around_the_input_is_a_variant(scripted):
    story = f"The market opens early, and the whole village has come to see it. {QUESTION}"
    (variant,) = apply(scripted(lambda request: answer(question=story)), "background")
    assert variant.prompt == story


def test_an_answer_that_is_no_json_is_corrected_and_then_given_up_for_its_row_alone(scripted):
    other = Problem(problem_id="q", prompt="Bo has 5 pens and loses 2. How many are left?", answer="3")
    turns = []

    def rule(request):
        if "Bo has" in request.messages[0].content:
            return "I would rather not."
        turns.append(len(request.messages))
        return "not yet" if len(request.messages) == 1 else answer()

    first, second = apply(scripted(rule), "paraphrase", (PROBLEM, other), corrections=1)
    assert first.prompt.startswith("Of 3 apples")
    assert turns == [1, 3]
    assert isinstance(second, NotApplicable)
    assert second.reason.startswith("no usable answer: no valid JSON")


def test_requests_depend_on_the_seed_and_the_kind(scripted):
    seeds = {}
    for kind, seed in (("paraphrase", 0), ("paraphrase", 1), ("format", 0)):
        model = scripted(lambda request: answer())
        apply(model, kind, seed=seed)
        seeds[kind, seed] = model.asked[0].seed
    assert len(set(seeds.values())) == 3
    assert all(0 <= seed < 2**31 for seed in seeds.values())


def test_a_prompt_of_ones_own_replaces_ours_and_is_checked(tmp_path, scripted):
    (tmp_path / "paraphrase.md").write_text("Anders gesagt: {{question}}")
    model = scripted(lambda request: answer())
    apply(model, "paraphrase", prompts=str(tmp_path))
    assert model.asked[0].messages[0].content == f"Anders gesagt: {QUESTION}"
    (tmp_path / "paraphrase.md").write_text("Anders gesagt")
    with pytest.raises(ConfigError, match=r"got no \{\{question\}\}"):
        model_transforms(model, prompts=str(tmp_path))


def test_an_unknown_kind_is_refused(scripted):
    with pytest.raises(ConfigError, match="got 'translate', allowed paraphrase, rename"):
        model_transforms(scripted(None), kinds=("translate",))


def test_a_value_cannot_reach_into_the_prompt(scripted):
    model = scripted(lambda request: answer())
    apply(model, "paraphrase", [Problem(problem_id="p", prompt="What is {{question}} plus 1 in total?", answer="1")])
    assert "What is {{question}} plus 1 in total?" in model.asked[0].messages[0].content
    assert isinstance(model_transforms(model, kinds=("term",))[0].prompt, PromptFile)


@pytest.mark.parametrize(
    ("kind", "first", "old", "new"),
    [
        ("term", "A zorp is a marble.", "marble", "zorp"),
        ("subproblem", "Let K be the sum of 5 and 7.", "12", "K"),
        ("subproblem", "Let K be 3 times 4.", "12", "K"),
        ("subproblem", "Let K be the difference of 20 and 8.", "12", "K"),
    ],
)
def test_the_forms_that_prompts_ask_for_are_forms_that_the_checks_read(kind, first, old, new, scripted):
    (transform,) = model_transforms(scripted(None), kinds=(kind,))
    assert f'"{first}"' in " ".join(transform.prompt.text.split())
    question = "Ann has 30 marbles and buys 12 more marbles. How many marbles does Ann have?"
    problem = Problem(problem_id="p", prompt=question, answer="42")
    variant = Variant(prompt=f"{first} {question.replace(old, new)}", answer="42", kind=kind, transform=transform.name)
    (judged,) = Ladder(checks=checks_of()).verify([Pair(problem, variant)])
    assert judged.passed, judged.failed
