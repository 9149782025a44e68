"""What a recipe says becomes gates, the cheap ones first."""

import asyncio
import json

import pydantic
import pytest

from penstock.errors import ConfigError
from penstock.generators.config import GeneratorConfig
from penstock.generators.gates.config import (
    BenchmarkConfig,
    ExamplesConfig,
    GatesConfig,
    JudgeConfig,
    JuryConfig,
    RelevanceConfig,
)
from penstock.generators.gates.passing import judged, reasons
from penstock.generators.items import Item

TASK = "Write a question about rivers and what lives in them."
SERVER = GeneratorConfig(url="http://localhost:9/v1", model="judge")


@pytest.fixture
def files(tmp_path):
    seeds = [
        {"question": f"How many fish of kind {n} live in river {n * n}, counting those of last year?"}
        for n in range(25)
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds))
    leaked = {"question": "Which of the three great rivers of the north carries the most water in the month of May?"}
    (tmp_path / "benchmark.jsonl").write_text(json.dumps(leaked) + "\n")
    return tmp_path


def everything(files):
    return GatesConfig(
        languages=("en",),
        examples=ExamplesConfig(files=(str(files / "seeds.jsonl"),), column="question"),
        relevance=RelevanceConfig(quantile=0.0),
        judge=JudgeConfig(model=SERVER),
        benchmarks=(BenchmarkConfig(name="rivers", files=(str(files / "benchmark.jsonl"),)),),
        jury=JuryConfig(models=(SERVER,)),
    )


def test_all_gates_stand_in_the_order_of_their_price(files, words):
    asked = []
    gates = everything(files).gates(
        task=TASK,
        embedder=words,
        seed=0,
        folder=str(files / "index"),
        session=lambda model: asked.append(model) or model,
    )
    assert [gate.name for gate in gates] == [
        "length", "refusal", "leaks", "language", "seeds", "contamination", "relevance", "relevance_judge", "jury",
    ]  # fmt: skip
    assert [model.model for model in asked] == ["judge", "judge"]
    assert [gate.name for gate in GatesConfig().gates(task=TASK, embedder=words, seed=0)] == [
        "length",
        "refusal",
        "leaks",
    ]
    bare = GatesConfig(refusals=False, leaks=False).gates(task=TASK, embedder=words, seed=0)
    assert [gate.name for gate in bare] == ["length"]


def test_items_are_stopped_by_what_the_recipe_says(files, words):
    config = GatesConfig(
        languages=("en",),
        examples=ExamplesConfig(files=(str(files / "seeds.jsonl"),), column="question"),
        relevance=RelevanceConfig(threshold=0.4),
        benchmarks=(BenchmarkConfig(name="rivers", files=(str(files / "benchmark.jsonl"),)),),
    )
    told = ("Answer in JSON and nothing else.",)
    gates = config.gates(task=TASK, embedder=words, seed=0, folder=str(files / "index"), told=told)
    items = [
        Item(text=text)
        for text in (
            "How many fish of kind 70 live in the lake of river 99, counting the young of this year?",
            "How many fish?",
            "I'm sorry, but I can't assist with that.",
            "Answer in JSON and nothing else, please.",
            "Wie viele Fische leben in dem breiten Fluss, der durch die alte Stadt fließt?",
            "How many fish of kind 3 live in river 9, counting those of last year?",
            "Tell me: which of the three great rivers of the north carries the most water in the month of May?",
            "Bake bread with flour, yeast and salt until golden brown and crisp.",
        )
    ]
    found = asyncio.run(judged(gates, items))
    assert [one.reason for one in found] == [
        None,
        "too_short",
        "refusal",
        "leak_prompt",
        "language_not_allowed",
        "copy_of_seed",
        "contaminated:rivers",
        "off_task",
    ]
    assert sum(reasons(found).values()) == 7


def test_files_that_decide_what_passes_are_inputs(files):
    assert [file.name.rpartition("/")[2] for file in everything(files).inputs()] == ["seeds.jsonl", "benchmark.jsonl"]
    assert GatesConfig().inputs() == []


def test_the_wording_in_force_is_part_of_what_decides(files):
    ours = everything(files).wording()
    assert set(ours) == {"refusals", "judge", "jury", "rubric"}
    (files / "mine.yaml").write_text("lowest: 0\nhighest: 1\ndimensions: {good: It is good.}\n")
    mine = GatesConfig(jury=JuryConfig(models=(SERVER,), rubric=str(files / "mine.yaml"))).wording()
    assert {name for name in mine if mine[name] != ours[name]} == {"rubric"}
    (files / "mine.yaml").write_text("lowest: 0\nhighest: 2\ndimensions: {good: It is good.}\n")
    assert GatesConfig(jury=JuryConfig(models=(SERVER,), rubric=str(files / "mine.yaml"))).wording() != mine
    assert GatesConfig(refusals=False).wording() == {}


def test_a_recipe_s_yaml_becomes_a_config():
    said = {
        "languages": ["en"],
        "jury": {"models": [{"url": "http://localhost:9/v1", "model": "m"}], "rubric": "reasoning"},
    }
    config = pydantic.TypeAdapter(GatesConfig).validate_python(said)
    assert config.jury is not None
    assert (config.languages, config.jury.rubric, config.jury.models[0].model) == (("en",), "reasoning", "m")


def test_what_cannot_work_is_refused(files, words):
    with pytest.raises(ConfigError, match="no threshold and no examples"):
        GatesConfig(relevance=RelevanceConfig())
    with pytest.raises(ConfigError, match="length: got 5 to 3"):
        GatesConfig(min_characters=5, max_characters=3)
    with pytest.raises(ConfigError, match=r"examples\.files: got none"):
        ExamplesConfig(files=())
    with pytest.raises(ConfigError, match="no folder for their index"):
        everything(files).gates(task=TASK, embedder=words, seed=0)
    blank = GatesConfig(examples=ExamplesConfig(files=(str(files / "empty.jsonl"),)))
    (files / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no text in column 'text'"):
        blank.gates(task=TASK, embedder=words, seed=0)
