"""Recipes made to hurt, and made at random: a ConfigError of a few lines in bounded time and memory, or a recipe."""

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock._yaml import LARGEST, load_yaml
from penstock.errors import ConfigError
from penstock.recipe import Recipe

START = "name: x\nsource: {files: a.jsonl}\nselect: null\n"


def laughs(indent, levels=10):
    """Lists of nine lists of nine lists …: a few hundred characters that stand for 9 ** levels values."""
    lines = [f"{indent}a0: &a0 [lol]"]
    lines += [f"{indent}a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


NASTY = {
    "billion laughs": START + laughs(""),
    "billion laughs in options": START + "train:\n  policy:\n    name: static\n    options:\n" + laughs("      "),
    "within itself": START + "train: {policy: {name: static, options: &a {weights: *a}}}\n",
    "an object": START + "seed: !!python/object/apply:os.system ['touch escaped']\n",
    "a name": START + "seed: !!python/name:os.system\n",
    "a module": START + "seed: !!python/module:antigravity\n",
    "an integer of 5,000 digits": START + f"seed: {'9' * 5000}\n",
    "an integer of 400 digits": START + f"rounds: {'9' * 400}\n",
    "a date that is none": START + "output: 2001-99-99\n",
    "a truth value that is none": START + "seed: !!bool maybe\n",
    "an empty integer": START + "seed: !!int ''\n",
    "a float that is none": START + "shard_mb: !!float x\n",
    "a time that is none": START + "seed: !!timestamp x\n",
    "an escape that is no character": START + 'output: "\\UFFFFFFFF"\n',
    "brackets": START + "seed: " + "[" * 20_000,
    "a list in a list in a list": START + f"seed: {'[' * 300}{']' * 300}\n",
    "a list as a key": START + "? [a]\n: b\n",
    "keys of other types": START + "1: 2\nnull: 3\n2001-01-01: 4\n.nan: 5\n",
    "a thousand unknown keys": START + "".join(f"gate{i}: 1\n" for i in range(1000)),
    "a thousand wrong values": START + "max_dropped:\n" + "".join(f"  k{i}: x\n" for i in range(1000)),
    "too long": START + f"output: {'x' * LARGEST}\n",
    "a name that leads elsewhere": START.replace("name: x", "name: ../x"),
    "no mapping": "- a\n",
    "two documents": START + "---\nname: y\n",
    "bytes": "\x00\x01\x02",
}

IN_LITTLE_MEMORY = """
import json, resource, sys
from penstock.errors import ConfigError
from penstock.recipe import Recipe

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
told = {}
for name, text in json.load(sys.stdin).items():
    try:
        told[name] = Recipe.parse(text).name
    except ConfigError as error:
        told[name] = [str(error), *getattr(error, "__notes__", ())]
json.dump(told, sys.stdout)
"""


def test_recipes_made_to_hurt_are_refused_in_bounded_time_and_memory(tmp_path):
    """All of them in one process of 4 GB and a minute, most of which is imports."""
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY], input=json.dumps(NASTY), capture_output=True, text=True, timeout=300,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told.keys() == NASTY.keys()
    for name, said in told.items():
        assert isinstance(said, list), name  # refused
        assert len(said[0]) < 8000, name
        assert len(said) <= 4, name
    assert list(tmp_path.iterdir()) == []
    assert "more than 200,000 values" in told["billion laughs"][0]
    assert "recipe:4:7: not YAML: could not determine a constructor for the tag" in told["an object"][0]
    assert "recipe:4:9: not YAML: no timestamp (month must be in 1..12)" in told["a date that is none"][0]
    assert "characters, allowed 262,144" in told["too long"][0]


KEYS = [*Recipe.model_fields, "path", "files", "name", "steps", "model", "options", "zzz", "<<"]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=8)
    | st.sampled_from(["../x", "a.jsonl", "\x1b[31m", "&a", "*a", "!!python/name:os.system", "<script>", "{}"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_mapping_is_a_recipe_or_a_config_error(value):
    text = yaml.safe_dump({"name": "x", "source": {"files": "a.jsonl"}, "select": None} | value)
    try:
        recipe = Recipe.parse(text)
    except ConfigError:
        return
    assert Recipe.parse(recipe.to_yaml()) == recipe


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:[]{}&*!<>|-?\"'\\#%@,=~ \n\t0123456789._é\x00", max_size=60))
@example("a: &x [*x]")
@example("!!int ''")
@example("? !!binary =\n: *a")
@example("=: 1")
def test_any_text_is_yaml_or_a_yaml_error(text):
    try:
        load_yaml(text)
    except yaml.YAMLError:
        pass
    else:
        yaml.safe_load(text)  # what is read is what PyYAML reads


@pytest.mark.parametrize("text", ["0x" + "f" * 5000, "9" * 5000, "2001-02-30", "!!int x", "&a [*a]", "[" * 9999])
def test_an_override_made_to_hurt_is_refused(text):
    with pytest.raises(ConfigError, match=r"--set rounds="):
        Recipe.parse(START, [f"rounds={text}"])
