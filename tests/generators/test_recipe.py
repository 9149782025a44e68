"""What a recipe may say about making data, and what becomes of it."""

import json

import pytest

from penstock.errors import ConfigError
from penstock.generators.config import GeneratorConfig
from penstock.generators.explorers.families import families
from penstock.generators.explorers.procedural import ProceduralExplorer
from penstock.generators.explorers.prompt import PromptSettings
from penstock.generators.gates.config import GatesConfig, JudgeConfig, JuryConfig
from penstock.generators.recipe import GenerateConfig, PrefixConfig, ProceduralConfig
from penstock.generators.voyager import VoyagerSettings

SERVER = GeneratorConfig(url="http://127.0.0.1:9/v1", model="m")
TASK = PromptSettings(task="Write a poem.")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"procedural": ProceduralConfig(), "prompt": TASK, "model": SERVER}, "got procedural and prompt, allowed one"),
        ({"model": SERVER}, "got a model that nothing asks"),
        ({"prompt": TASK}, "got prompt without a model, allowed with one; name it by model.url or model.path"),
        ({"baseline": "best"}, "got 'best', allowed default, uniform, hierarchical, gate_only, random_refinement"),
        ({"baseline": "uniform", "prompt": TASK, "model": SERVER}, "got 'uniform', allowed default, temperature"),
        (
            {"baseline": "default", "prefix": PrefixConfig(start="a", files=("x",)), "model": SERVER},
            "got 'default', allowed none for prefix",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        GenerateConfig(**settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start": "", "files": ("a",)}, "prefix.start: got none"),
        ({"start": "a", "files": ()}, "prefix.files: got none"),
        ({"start": "a", "files": ("a",), "words": 0}, "prefix.words: got 0, allowed >= 1"),
        ({"start": "a", "files": ("a",), "most": 1}, "prefix.most: got 1, allowed >= 2"),
    ],
)
def test_prefixes_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        PrefixConfig(**settings)


def test_an_empty_task_is_refused():
    with pytest.raises(ConfigError, match="task: got no text"):
        PromptSettings(task=" \n")


def test_nothing_said_is_procedural_with_all_families_alike_and_no_gate():
    config = GenerateConfig()
    (root,), settings = config.explorers(None, seed=3, embedder=None)
    assert isinstance(root, ProceduralExplorer)
    assert len(set(root.state.prior.weights.values())) == 1
    assert set(root.state.prior.weights) == set(families())
    assert settings == VoyagerSettings()
    assert config.judges(embedder=None, seed=3, folder="", session=lambda model: model) == ()


def test_weights_are_the_prior_and_families_that_have_none_count_one():
    config = GenerateConfig(procedural=ProceduralConfig(families=("gcd", "lcm"), weights={"gcd": 5.0}))
    (root,), _ = config.explorers(None, seed=3, embedder=None)
    assert root.state.prior.weights == {"gcd": 5.0, "lcm": 1.0}
    with pytest.raises(ConfigError, match="weights: got syllogism, allowed gcd"):
        ProceduralConfig(families=("gcd",), weights={"syllogism": 1.0})
    with pytest.raises(ConfigError, match="families: got 'gcf', nearest known"):
        GenerateConfig(procedural=ProceduralConfig(families=("gcf",))).explorers(None, seed=0, embedder=None)


def test_a_baseline_changes_the_settings_and_keeps_the_size():
    _, settings = GenerateConfig(baseline="default", voyage=VoyagerSettings(count=7)).explorers(
        None, seed=0, embedder=None
    )
    assert (settings.count, settings.threshold.strategy, settings.refine) == (7, "none", "never")


def test_what_a_model_writes_is_gated_by_default():
    names = [
        gate.name
        for gate in GenerateConfig(prompt=TASK, model=SERVER).judges(
            embedder=None, seed=0, folder="", session=lambda model: model
        )
    ]
    assert names[:3] == ["length", "refusal", "leaks"]


def test_judges_of_gates_get_a_session_and_are_known_by_what_they_are():
    judge = JudgeConfig(model=SERVER)
    config = GenerateConfig(gates=GatesConfig(judge=judge, jury=JuryConfig(models=(SERVER, SERVER))))
    asked = []
    config.judges(embedder=None, seed=0, folder="", session=lambda model: asked.append(model) or model)
    assert len(asked) == 3
    said = config.said(None)
    identity = {"kind": "openai", "model": "m", "revision": ""}
    assert {name: said["gates"]["judge"]["model"][name] for name in identity} == identity
    assert [one["model"] for one in said["gates"]["jury"]["models"]] == ["m", "m"]
    assert "127.0.0.1" not in json.dumps(said)
    writes = GenerateConfig(prompt=TASK, model=SERVER).said(SERVER.resolve())
    assert {name: writes["model"][name] for name in identity} == identity
    assert set(writes["prompt"]["prompts"]) >= {"generate_texts", "gradient", "apply"}


def test_files_of_prefixes_gates_and_judges_are_inputs(tmp_path):
    for name in ("texts.txt", "seed.txt", "judge.md", "jury.md", "rubric.yaml"):
        (tmp_path / name).write_text("one two three\n")
    paths = {name: str(tmp_path / name) for name in ("texts.txt", "seed.txt", "judge.md", "jury.md", "rubric.yaml")}
    gates = GatesConfig(
        judge=JudgeConfig(model=SERVER, prompt=paths["judge.md"]),
        jury=JuryConfig(models=(SERVER,), prompt=paths["jury.md"], rubric=paths["rubric.yaml"]),
    )
    prefix = PrefixConfig(start="a", files=(paths["texts.txt"],))
    found = {file.path for file in GenerateConfig(prefix=prefix, model=SERVER, gates=gates).inputs()}
    assert found == {paths[name] for name in ("texts.txt", "judge.md", "jury.md", "rubric.yaml")}
    packaged = GatesConfig(jury=JuryConfig(models=(SERVER,), rubric="reasoning"))
    assert GenerateConfig(gates=packaged).inputs() == []


def test_prefixes_are_the_first_words_of_as_many_texts_as_asked(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"body": f"text number {n} begins so"}) for n in range(9)))
    found = PrefixConfig(start="a", files=(str(file),), column="body", words=3, most=4).prefixes()
    assert [prefix.text for prefix in found] == [f"text number {n}" for n in range(4)]
