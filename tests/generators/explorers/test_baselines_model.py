"""Baselines with a model: what each asks, counted, in the runner that a voyage runs in."""

import asyncio
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.generators.explorers.baselines_model import BASELINES, HISTORY, baseline, subset
from penstock.generators.explorers.prompt import PromptSettings
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.settings import VoyagerSettings

TASK = PromptSettings(task="Write a line about rivers.")


def rule():
    """A model whose items are all different, and that names topics where it is asked for them."""
    number = iter(range(10**6))

    def answer(request):
        count = int(re.search(r"has (\d+) entries", request.messages[1].content)[1])
        made = [f"line {next(number)} of many others {n}" for n in range(count)]
        if "topics" in request.schema:
            return json.dumps({"topics": [f"topic {text}" for text in made]})
        return json.dumps({"items": made})

    return answer


def voyage(name, queued, words, count=30, model=None):
    model = model or queued(rule=rule())
    root, settings = baseline(name, model, TASK, seed=0, settings=VoyagerSettings(count=count))
    return model, asyncio.run(explore([root], settings, embedder=words, seed=0))


@pytest.mark.parametrize(
    ("name", "calls", "accepted"),
    [
        ("default", 3, 30),
        ("temperature", 3, 30),
        ("diverse", 3, 30),
        ("history", 3, 30),
        ("hierarchical", 33, 30),
        ("subset_select", 30, 300),
    ],
)
def test_a_baseline_makes_as_many_calls_as_the_paper_counts(name, calls, accepted, queued, words):
    model, found = voyage(name, queued, words)
    assert found.reason == "count"
    assert len(found.accepted) == accepted
    assert len(model.asked) == calls


def test_temperature_is_that_of_the_default_but_for_two_degrees(queued, words):
    default, hot = (voyage(name, queued, words)[0].asked for name in ("default", "temperature"))
    assert {request.temperature for request in default} == {1.0}
    assert [replace(request, temperature=1.0) for request in hot] == default
    assert {request.temperature for request in hot} == {2.0}


def test_diverse_asks_for_variety_in_every_call(queued, words):
    default, diverse = (voyage(name, queued, words)[0].asked for name in ("default", "diverse"))
    assert not any("varied" in request.messages[1].content for request in default)
    assert all("as varied as you can" in request.messages[1].content for request in diverse)
    assert all(request.messages[0].content == TASK.task for request in diverse)


def test_history_shows_the_last_items_and_those_alone(queued, words):
    model, found = voyage("history", queued, words, count=80)
    texts = [one.item.text for one in found.accepted]
    assert model.asked[0].messages[1].content.startswith(TASK.task)
    for number, request in enumerate(model.asked):
        shown = re.findall(r'^"(.*)"$', request.messages[1].content, re.MULTILINE)
        assert shown == texts[: 10 * number][-HISTORY:]
    assert len(shown) == HISTORY


def test_hierarchical_writes_one_item_for_each_topic(queued, words):
    model, found = voyage("hierarchical", queued, words, count=10)
    topics, *items = model.asked
    assert "has 10 entries" in topics.messages[1].content
    named = [f"topic line {n} of many others {n}" for n in range(10)]
    for topic, request, one in zip(named, items, found.accepted, strict=True):
        assert f"about this topic: {topic}\n" in request.messages[1].content
        assert "has 1 entries" in request.messages[1].content
        assert one.item.origin["topic"] == topic


def test_topics_that_are_none_make_no_call_and_a_failed_one_is_counted(queued):
    settings = VoyagerSettings(count=10)
    model = queued([json.dumps({"topics": ["lakes", " ", 3]}), json.dumps({"items": ["a lake"]})])
    root, _ = baseline("hierarchical", model, TASK, seed=0, settings=settings)
    assert [item.text for item in asyncio.run(root.propose(3, round=0))] == ["a lake"]
    failing = queued([None])
    root, _ = baseline("hierarchical", failing, TASK, seed=0, settings=settings)
    assert [item.invalid for item in asyncio.run(root.propose(3, round=0))] == ["call_failed"]


def test_no_baseline_has_a_threshold_or_refines_by_what_was_rejected(queued):
    for name in BASELINES:
        _, settings = baseline(name, queued(), TASK, seed=0, settings=VoyagerSettings())
        assert settings.threshold.strategy == "none"
        assert settings.refine == ("always" if name == "history" else "never")


def test_a_subset_takes_one_of_each_cluster_and_keeps_the_order():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 16))
    rows = np.repeat(np.arange(6), 10)
    vectors = centres[rows] + 0.05 * rng.normal(size=(60, 16))
    chosen = subset(vectors, 6)
    assert chosen == sorted(chosen)
    assert sorted(rows[chosen]) == [0, 1, 2, 3, 4, 5]
    assert len(subset(vectors, 40)) == 40  # more than a cosine kernel's rank of 16
    assert subset(vectors[:5], 6) == [0, 1, 2, 3, 4]


def test_an_unknown_baseline_is_refused_with_those_there_are(queued):
    with pytest.raises(ConfigError, match="got 'best', allowed default, temperature, diverse, history"):
        baseline("best", queued(), TASK, seed=0, settings=VoyagerSettings())
