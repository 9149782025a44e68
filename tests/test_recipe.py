"""Recipes: strict keys with the nearest name, overrides, defaults written out."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import ConfigError
from penstock.pipelines.plan import needed, parameters_of, plan, sources_of
from penstock.recipe import Recipe

SMALL = "name: a\nsource: {files: data/*.jsonl}\nselect: {criteria: {length: {}}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsorce: {}\n", "unknown key sorce; did you mean source?"),
        (SMALL + "filters: {gopher_qality: {}}\n", "unknown key filters.gopher_qality; did you mean gopher_quality?"),
        (
            SMALL + "filters: {gopher_quality: {min_word: 3}}\n",
            "unknown key filters.gopher_quality.min_word; did you mean min_words?",
        ),
        (
            "name: a\nsource: {files: [{path: x, domian: y}]}\n",
            "unknown key source.files.0.domian; did you mean domain?",
        ),
        (SMALL + "train: {steps: 1, model: {hiden_size: 2}}\n", "did you mean hidden_size?"),
        (
            SMALL + "select: {criteria: {quality: {wieght: 1}}}\n",
            "unknown key select.criteria.quality.wieght; did you mean weight?",
        ),
        (SMALL + "zzzzzz: 1\n", "unknown key zzzzzz; allowed: name, seed"),
        ("- a\n", "got list, allowed a mapping"),
        ("a: [\n", "not YAML"),
        ("name: a\n", "source: Field required"),
        ("name: a\nsource: {}\n", "source: got no source, allowed files, hub, environment and procedural"),
        ("name: 'a/b'\nsource: {files: x}\n", "name: String should match pattern"),
        (SMALL + "rounds: 2\n", "rounds above 1 read what training saw"),
        ("name: a\nsource: {files: x}\n", "select.criteria names quality: add a quality section"),
        (SMALL + "sequences: {length: many}\n", "sequences.length: Input should be a valid integer"),
        (
            SMALL + "filters: {gopher_quality: {min_words: -1}}\n",
            "recipe:4:39: min_words, max_words: got -1, 100000, allowed 1 <= min_words",
        ),
        (SMALL + "train: {steps: 0}\n", "steps: got 0, allowed a whole number >= 1"),
        (SMALL + "group_rl: {rolouts: 4}\n", "unknown key group_rl.rolouts; did you mean rollouts?"),
        (SMALL + "group_rl: {objective: ppo}\n", "group_rl.objective: Input should be 'grpo', 'dr-grpo', 'dapo'"),
        (SMALL + "group_rl: {held_out: 1.0}\n", "held_out: got 1.0, allowed a share from 0 to below 1, or a path"),
        (SMALL + "group_rl: {problems: ''}\n", "problems: got an empty path, allowed a folder or a file"),
        (SMALL + "group_rl: {prompt: 'Q:'}\n", "prompt: got 'Q:', allowed a text with {question} once"),
        (
            SMALL + "group_rl: {prompt: 'Q: {question}', instruction: Think.}\n",
            "prompt: got it beside an instruction, allowed one of them",
        ),
        (SMALL + "group_rl: {problems: p}\n", "group_rl starts from a model: add a train section, or name one by"),
        (SMALL + "group_rl: {model: m}\n", "group_rl learns from verified problems: add generate: {} and transform"),
        (
            SMALL + "generate: {prompt: {task: Write.}, model: {path: m}}\ngroup_rl: {model: m}\n",
            "group_rl learns from verified problems",
        ),
        (
            SMALL + "generate: {}\ngroup_rl: {model: m}\n",
            "group_rl.objective ta-grpo pools a question with its variants: add transform: {}, or take grpo",
        ),
        (
            SMALL + "train: {steps: 3, warmup_steps: 0}\nsequences: {length: 100}\ngroup_rl: {problems: p}\n",
            "group_rl.max_new_tokens: got 128, allowed below 100, the context of the model of train",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_to_do(text, message):
    with pytest.raises(ConfigError) as error:
        Recipe.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "allowed KEY.KEY=VALUE"),
        ("=3", "allowed KEY.KEY=VALUE"),
        ("seed=[", "the value is not YAML"),
        ("sede=3", "unknown key sede; did you mean seed?"),
    ],
)
def test_a_wrong_override_is_refused(override, message):
    with pytest.raises(ConfigError) as error:
        Recipe.parse(SMALL, [override])
    assert message in str(error.value)


def test_overrides_set_nested_keys_and_make_sections():
    recipe = Recipe.parse(SMALL, ["seed=7", "train.steps=50", "train.model.layers=1", "source.files=[a.csv, b.txt]"])
    assert (recipe.seed, recipe.train.steps, recipe.train.model.layers) == (7, 50, 1)
    assert [f.path for f in recipe.source.files] == ["a.csv", "b.txt"]


def test_files_stand_in_for_the_environment():
    recipe = Recipe.load("recipes/quickstart.yaml")
    assert [s.name for s in sources_of(recipe)] == ["environment"]
    own = Recipe.load("recipes/quickstart.yaml", ["source.files=mine/*.txt"])
    assert [s.name for s in sources_of(own)] == ["files"]


@pytest.mark.parametrize("name", ["quickstart", "problems"])
def test_the_resolved_recipe_reads_back_equal(name):
    recipe = Recipe.load(f"recipes/{name}.yaml", ["seed=4"])
    assert Recipe.parse(recipe.to_yaml()) == recipe


def test_a_recipe_is_frozen():
    recipe = Recipe.parse(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_show_and_schema_are_printed_as_yaml_and_json():
    shown = CliRunner().invoke(app, ["recipe", "show", "recipes/quickstart.yaml", "--set", "seed=99"])
    assert yaml.safe_load(shown.stdout)["seed"] == 99
    schema = json.loads(CliRunner().invoke(app, ["recipe", "schema"]).stdout)
    assert schema["properties"]["rounds"]["minimum"] == 1
    assert schema["additionalProperties"] is False


def test_the_plan_lists_steps_in_an_order_they_can_run():
    steps = plan(Recipe.load("recipes/quickstart.yaml"))
    seen = set()
    for step in steps:
        assert set(step.parents) <= seen
        seen.add(step.name)
    made = ["embedder", "generated", "transformed"]
    assert [s.name for s in needed(steps, ["tokenizer"])] == [*made, "documents", "deduplicated", "tokenizer"]
    with pytest.raises(ConfigError, match="step nothing: this recipe has embedder"):
        needed(steps, ["nothing"])


def test_weights_become_shares_and_domains_inherit_the_rest():
    recipe = Recipe.parse(
        "name: a\nsource: {files: x}\nselect:\n  criteria: {length: {weight: 3}, age: {weight: 1, direction: lower}}\n"
        "  omega: 0.5\n  domains: {news: {omega: 0.2, weights: {age: 2}}}\n"
    )
    known = {"length": "higher", "age": "higher"}
    parameters = parameters_of(recipe.select, known)
    assert [(c.column, c.direction) for c in parameters.criteria] == [
        ("score.length", "higher"),
        ("score.age", "lower"),
    ]
    assert parameters.default.alpha == (0.75, 0.25)
    assert (parameters.of("news").alpha, parameters.of("news").omega, parameters.of("news").lam) == (
        (0.0, 1.0),
        0.2,
        20.0,
    )
    with pytest.raises(ConfigError, match="are all 0"):
        parameters_of(Recipe.parse(SMALL, ["select.criteria.length.weight=0"]).select, known)


@pytest.mark.parametrize("weight", [".nan", ".inf", "-1"])
def test_weights_of_a_mixture_that_are_no_shares_are_refused_before_any_work(recipe_text, weight):
    with pytest.raises(ConfigError, match=r"mixture: got .*'letters': .*, allowed finite weights >= 0"):
        Recipe.parse(recipe_text, [f"train.mixture={{letters: {weight}, machines: 1, rivers: 1}}"])
