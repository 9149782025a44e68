"""Data made by a voyage, as a step: tables, keys, what a killed or a bounded build leaves and how it goes on."""

import itertools
import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from penstock.dataset import Dataset
from penstock.embedding.base import normalised
from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.errors import DropGuardError
from penstock.generators.base import Completion, Usage
from penstock.generators.budget import Budget
from penstock.generators.config import GeneratorConfig
from penstock.generators.explorers.prompt import PromptSettings
from penstock.generators.gates.config import GatesConfig
from penstock.generators.recipe import GenerateConfig, PrefixConfig, ProceduralConfig
from penstock.generators.spending import spending
from penstock.generators.voyager import ThresholdSettings, VoyagerSettings
from penstock.pipelines import generate as step
from penstock.pipelines.embed import EmbedderStep
from penstock.pipelines.generate import Generated
from penstock.pipelines.home import HomeEngine
from penstock.step import Settings, Silent, key_parts, run_step
from penstock.storage import Folder

WORDS = (  # noqa: SIM905
    "model data token language learn train select copy merge rank score sample hash split part file table column row "
    "batch seed loss step mountain valley bridge engine wheel copper iron winter summer morning"
).split()
SMALL = VoyagerSettings(count=24, sample=20, batch=5, patience=4)
GATES = GatesConfig(leaks=False)
SERVER = GeneratorConfig(url="http://127.0.0.1:9/v1", model="scripted", api_key_env="SCRIPTED_KEY")
LINES = PromptSettings(task="Write a line about a machine.")
MADE = GenerateConfig(prompt=LINES, model=SERVER, voyage=SMALL, gates=GATES)


@dataclass(frozen=True)
class Scripted:
    """A model that writes lines of random words, the same ones for the same request; every fifth is a refusal."""

    refuses: bool = False
    asked: list = field(default_factory=list, compare=False)
    identity = {"kind": "openai", "model": "scripted", "revision": ""}

    def setup(self):
        pass

    async def complete(self, requests):
        self.asked.extend(requests)
        return [
            Completion(text=self.answer(one), usage=Usage(prompt_tokens=9, completion_tokens=5)) for one in requests
        ]

    def answer(self, request):
        draw = random.Random(f"{request.seed} {request.sample}")
        if request.messages is None:
            return " ".join(draw.choices(WORDS, k=8)) + "."
        wanted = json.loads(request.schema)["properties"]
        if "reasons" in wanted:
            return json.dumps({"reasons": [{"issue": "narrow", "suggestion": draw.choice(WORDS)} for _ in range(3)]})
        if "prompts" in wanted:
            return json.dumps({"prompts": [{"draft": "", "prompt": f"about {draw.choice(WORDS)}"} for _ in range(3)]})
        kind = wanted["items"]["items"]["properties"]
        return json.dumps({"items": [self.item(draw, place, kind) for place in range(5)]})

    def item(self, draw, place, kind):
        line = " ".join(draw.choices(WORDS, k=9)) + "."
        if self.refuses or place == 4:
            line = "I'm sorry, but I can't help with that request. " + line
        return {"text": line} if "text" in kind else {"question": line, "answer": str(draw.randrange(99))}


@pytest.fixture
def model(monkeypatch):
    """The model that every configuration stands for."""
    made = Scripted()
    monkeypatch.setattr(GeneratorConfig, "resolve", lambda self: made)
    return made


@pytest.fixture
def make(static_folder, tmp_path):
    """Build a step with its embedder: (manifest, dataset)."""
    embed = EmbedConfig(model=ModelConfig(path=str(static_folder)))

    def build(config, where="run", seed=3, on_round=None, store=None, reporter=None, **settings):
        root = Folder(str(tmp_path / where))
        store = None if store is None else str(tmp_path / store)
        how = Settings(seed=seed, **settings)
        steps = (
            EmbedderStep("embedder", embed.model),
            Generated("generated", "embedder", config, embed, store=store, on_round=on_round),
        )
        for one in steps:
            run_step(one, root, HomeEngine(0), reporter or Silent(), how)
        return Dataset(root / "generated")

    return build


def reasons(dataset):
    table = dataset.read("dropped")
    return Counter(zip(table["stage"].to_pylist(), table["reason"].to_pylist(), strict=True))


# ── what it makes ────────────────────────────────────────────────────────────────────────────────


def test_texts_of_a_model_are_documents_and_all_else_is_dropped_with_a_reason(make, model):
    dataset = make(MADE)
    counts, facts = dataset.manifest.counts, dataset.manifest.stats["voyage"]
    assert (facts["reason"], facts["accepted"], facts["wanted"], counts.kept) == ("count", 24, 24, 24)
    assert "problems" not in dataset.manifest.tables
    documents = dataset.read("documents").to_pylist()
    assert len({row["text"] for row in documents}) == 24
    assert not any("sorry" in row["text"] for row in documents)
    told = json.loads(documents[-1]["provenance"])
    assert (told["model"], told["usage"]) == ("scripted", {"prompt_tokens": 9, "completion_tokens": 5})
    assert told["request_seed"] != told["seed"] == 3
    dropped = reasons(dataset)
    assert counts.made == 24 + dropped.total()
    chosen = {reason: n for (stage, reason), n in dropped.items() if stage in ("diversity", "duplicate", "surplus")}
    assert counts.dropped["selection"] == chosen
    assert sum(counts.dropped["refusal"].values()) == sum(n for (s, _), n in dropped.items() if s == "refusal") > 4
    assert dataset.read("vectors").num_rows == 24 + sum(
        n for (stage, _), n in dropped.items() if stage not in ("item", "refusal", "length", "embedding")
    )
    rounds = dataset.read("rounds")
    assert sum(rounds["calls"].to_pylist()) == len(model.asked) == facts["calls"]
    (asked,) = spending(Folder(dataset.folder.url.rpartition("/")[0]))[dataset.manifest.step].values()
    assert asked["asked"] == len(model.asked)


def test_questions_with_answers_are_problems(make, model):
    dataset = make(replace(MADE, prompt=replace(LINES, shape="problems")))
    assert "documents" not in dataset.manifest.tables
    rows = dataset.read("problems").to_pylist()
    assert len(rows) == 24
    assert all(row["problem_id"].startswith("generated#") and row["answer"].isdigit() for row in rows)


class Letters:
    """Embedder: how often each letter stands in a text."""

    dimensions = 26

    def setup(self):
        pass

    def embed(self, texts):
        return normalised(np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], float))


def test_problems_without_a_model_are_verified_and_ask_none(make, monkeypatch):
    monkeypatch.setattr(GeneratorConfig, "resolve", lambda self: pytest.fail("nothing is to be asked"))
    monkeypatch.setattr(step, "embedder_of", lambda dataset, model: Letters())
    names = ("spell_backward", "letter_counting", "gcd", "syllogism")
    dataset = make(GenerateConfig(procedural=ProceduralConfig(families=names), voyage=SMALL))
    rows = dataset.read("problems").to_pylist()
    assert len(rows) == 24
    assert all(row["verdicts"] == [{"check": "score_answer", "passed": True, "detail": "1.0"}] for row in rows)
    assert {json.loads(row["provenance"])["family"] for row in rows} <= set(names)
    assert dataset.manifest.stats["voyage"]["calls"] is None
    assert set(dataset.manifest.counts.dropped) <= {"selection", "item"}  # no gate by default


def test_a_plain_model_goes_on_from_first_words_of_texts(make, model, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": f"{a} {b} and what follows"}) for a, b in itertools.pairwise(WORDS)))
    prefix = PrefixConfig(start="the ", files=(str(texts),), words=2)
    dataset = make(GenerateConfig(prefix=prefix, model=SERVER, voyage=SMALL, gates=GATES))
    assert dataset.manifest.stats["voyage"]["reason"] == "count"
    prompts = {request.prompt for request in model.asked}
    assert "the " in prompts
    assert len(prompts) > 1
    assert prompts - {"the "} <= {f"{a} {b}" for a, b in itertools.pairwise(WORDS)}


def test_the_subset_baseline_chooses_among_ten_times_as_many(make, model):
    small = replace(SMALL, count=6)
    dataset = make(replace(MADE, baseline="subset_select", voyage=small))
    assert dataset.manifest.counts.kept == dataset.read("documents").num_rows == 6
    assert reasons(dataset)["subset_select", "not_chosen"] == 54
    assert dataset.manifest.counts.dropped["selection"]["not_chosen"] == 54


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_build_with_the_same_settings_is_skipped_wherever_its_model_stands(make, model):
    first = make(MADE).manifest
    moved = replace(SERVER, url="http://127.0.0.1:10/v1", concurrency=2, timeout=5.0, api_key_env=None)
    asked = len(model.asked)
    assert make(replace(MADE, model=moved), store="answers.sqlite").manifest == first
    assert len(model.asked) == asked


class Parent:
    digest = "0" * 32


def test_the_key_changes_with_what_decides_the_items(model, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "diverse.md").write_text("Be brief.\n\n{{task}}\n")
    priced = {"scripted": {"prompt": 1.0, "completion": 2.0}}
    configs = [
        MADE,
        replace(MADE, prompt=PromptSettings(task="Another task.")),
        replace(MADE, prompt=replace(LINES, prompts=str(prompts))),
        replace(MADE, voyage=replace(SMALL, anchors=9)),
        replace(MADE, gates=None),
        replace(MADE, baseline="default"),
        replace(MADE, budget=Budget(max_requests=5)),
        replace(MADE, budget=Budget(max_cost=1.0), prices=priced),
        GenerateConfig(voyage=SMALL),
        GenerateConfig(voyage=SMALL, procedural=ProceduralConfig(families=("gcd", "lcm"))),
    ]

    def key(config, **embed):
        made = Generated("generated", "embedder", config, EmbedConfig(**embed))
        return json.dumps(key_parts(made, {"embedder": Parent()}, Settings()), sort_keys=True)

    assert len({key(config) for config in configs}) == len(configs)
    assert key(MADE, characters=99) != key(MADE)
    assert key(replace(MADE, prices=priced)) == key(MADE)


def test_no_key_is_in_any_file(make, model, monkeypatch, tmp_path):
    monkeypatch.setenv("SCRIPTED_KEY", "sk-very-secret-4711")
    make(MADE, store="answers.sqlite")
    names = [os.path.join(at, name) for at, _, found in os.walk(tmp_path) for name in found]
    assert any(name.endswith("answers.sqlite") for name in names)
    for name in names:
        with open(name, "rb") as file:
            data = file.read()
        assert b"sk-very-secret" not in data
        assert b"SCRIPTED_KEY" not in data


# ── what was cut short ───────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """As a signal would."""


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_killed_build_goes_on_and_pays_for_nothing_twice(make, model, rounds):
    whole = make(MADE, "whole")
    paid = len(model.asked)
    assert len(whole.read("rounds")) > 3
    model.asked.clear()

    def killed(record, left=[rounds]):  # noqa: B006
        left[0] -= 1
        if not left[0]:
            raise Killed

    with pytest.raises(Killed):
        make(MADE, on_round=killed, store="answers.sqlite")
    again = make(MADE, store="answers.sqlite")
    assert again.digest == whole.digest
    assert len(model.asked) == paid


def test_what_a_budget_cut_short_is_there_with_the_reason_and_a_larger_one_goes_on(make, model):
    whole = make(MADE, "whole")
    paid = len(model.asked)
    model.asked.clear()
    warned = []

    class Heard(Silent):
        def warn(self, message):
            warned.append(message)

    small = make(replace(MADE, budget=Budget(max_requests=9)), store="answers.sqlite", reporter=Heard())
    facts = small.manifest.stats["voyage"]
    assert facts["reason"] == "budget"
    assert 0 < facts["accepted"] < 24
    assert small.read("documents").num_rows == facts["accepted"]
    assert warned == [f"generated: {facts['detail']}"]
    assert "raise max_requests" in facts["detail"]
    larger = make(replace(MADE, budget=Budget(max_requests=500)), store="answers.sqlite")
    assert larger.digest == whole.digest
    assert len(model.asked) == paid


def test_rows_that_a_killed_build_wrote_are_not_taken_for_those_of_a_later_one(make, model, monkeypatch):
    """Killed between writing and commit; meanwhile the store has what the budget had kept it from asking."""
    small = replace(MADE, budget=Budget(max_requests=9))
    with monkeypatch.context() as patched:

        def killed(step, *_):
            if step == "generated":
                raise Killed

        patched.setattr("penstock.step.check_drops", killed)
        with pytest.raises(Killed):
            make(small, "small", store="answers.sqlite")
    whole = make(MADE, "whole", store="answers.sqlite")
    again = make(small, "small", store="answers.sqlite")
    assert again.manifest.stats["voyage"]["reason"] == "count"
    assert again.digest == whole.digest


def test_only_refusals_stop_with_the_evidence(make, monkeypatch):
    monkeypatch.setattr(GeneratorConfig, "resolve", lambda self: Scripted(refuses=True))
    dataset = make(MADE)
    facts = dataset.manifest.stats["voyage"]
    assert (facts["reason"], facts["accepted"]) == ("no_items", 0)
    assert "refusal" in facts["detail"]
    assert dataset.read("dropped").num_rows == 20
    with pytest.raises(DropGuardError, match=r"refusal dropped 100\.0% of 100 rows"):
        make(replace(MADE, voyage=replace(SMALL, sample=100)), "larger")


def test_a_search_that_leaves_out_nearly_all_is_no_reason_for_the_guard(make, model):
    strict = replace(
        SMALL, threshold=ThresholdSettings(strategy="paper", lowest=0.95), count=200, rounds=15, patience=15
    )
    dataset = make(replace(MADE, voyage=strict))
    counts = dataset.manifest.counts
    assert sum(counts.dropped["selection"].values()) > 0.7 * counts.made
    assert counts.kept < 0.05 * counts.made
    assert dataset.manifest.stats["voyage"]["reason"] in ("rounds", "patience")
