"""A whole voyage by prompts: what is asked, what is accepted, and a replay from kept answers."""

import asyncio
import json
import re
from collections import Counter

import numpy as np

from penstock.generators.answers import AnswerStore
from penstock.generators.explorers.prompt import PromptExplorer, PromptSettings
from penstock.generators.gates import GatesConfig
from penstock.generators.session import ModelSession
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.settings import VoyagerSettings

TASK = "Write a line about something that can be seen."
SUBJECTS = ("river", "engine", "sonata", "bakery", "glacier", "market", "planet", "orchard")


def write(request):
    """A model that writes about the subject that its prompt names, else of rivers, refuses now and then, and names
    another subject when it is asked for a prompt."""
    text = request.messages[1].content
    draw = np.random.default_rng(request.seed)
    key = json.loads(request.schema)["required"][0]
    count = int(re.search(r"has (\d+) entries", text)[1])
    if key == "reasons":
        made = [{"issue": "It is all rivers.", "suggestion": f"Look at way {n}."} for n in range(count)]
    elif key == "prompts":
        made = [{"draft": "", "prompt": f"Write about a {SUBJECTS[n]}."} for n in draw.permutation(8)[:count]]
    else:
        subject = next((s for s in SUBJECTS if f"about a {s}" in text), "river")
        made = [
            {"text": f"The {subject} {' '.join(f'{subject}{w}' for w in draw.integers(0, 40, 4))}."}
            for _ in range(count)
        ]
        made[0] = {"text": "I'm sorry, but I can't help with that."}
    return json.dumps({key: made})


def sail(model, words, store):
    session = ModelSession(model, store=store)
    root = PromptExplorer.root(session, PromptSettings(task=TASK), seed=7)
    gates = GatesConfig().gates(task=TASK, embedder=words, seed=7)
    settings = VoyagerSettings(count=40, sample=20, explorers=2)
    voyage = asyncio.run(explore([root], settings, embedder=words, gates=gates, seed=7))
    return voyage, session.meter


def test_a_voyage_by_prompts_leaves_its_first_subject_and_replays_without_a_call(queued, words, tmp_path):
    store = AnswerStore(path=str(tmp_path / "answers.sqlite"))
    model = queued(rule=write)
    voyage, meter = sail(model, words, store)
    assert (voyage.reason, len(voyage.accepted)) == ("count", 40)
    assert meter.asked == meter.requests == len(model.asked)
    assert len({one.item.text.split()[1] for one in voyage.accepted}) >= 4
    stages = Counter(one.stage for one in voyage.decisions)
    assert stages["refusal"] == len({(one.round, one.rank) for one in voyage.decisions})  # one a batch
    proposed = sum(json.loads(request.schema)["required"] == ["items"] for request in model.asked)
    assert len(voyage.decisions) == 10 * proposed
    for one in voyage.accepted:
        made = voyage.explorers[one.explorer_id]
        assert made.parent_id is None or made.gradient.startswith("It is all rivers. Look at way ")
        assert any(made.prompt in request.messages[1].content for request in model.asked)

    silent = queued()
    again, kept = sail(silent, words, store)
    assert again.decisions == voyage.decisions
    assert again.explorers == voyage.explorers
    assert (silent.asked, kept.asked, kept.requests) == ([], 0, meter.requests)
