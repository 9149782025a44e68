"""Recipes to begin with: they are right, they run here as written, and their comments speak of keys that exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import penstock
from penstock.cli import app
from penstock.errors import ConfigError, StorageError
from penstock.init import PURPOSES, recipe_of, write
from penstock.recipe import Recipe
from penstock.recipe_schema import recipe_schema
from penstock.run import check
from penstock.sources.environment import EnvironmentSource

OPTION = re.compile(r"#(?:  )*(- |[a-z_]+:)")  # a line that a # switches off
COMMENT = re.compile(r"(?:^|\s)# (.*)$")


def options_of(text):
    """Line numbers of every run of lines that are switched off."""
    found, before = [], -2
    for number, line in enumerate(text.splitlines()):
        if OPTION.match(line):
            if number != before + 1:
                found.append([])
            found[-1].append(number)
            before = number
    return found


def switched_on(text, numbers):
    return "\n".join(line[1:] if n in numbers else line for n, line in enumerate(text.splitlines()))


OPTIONS = [(purpose, numbers) for purpose in PURPOSES for numbers in options_of(recipe_of(purpose))]


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_recipe_is_right(purpose):
    recipe = Recipe.parse(recipe_of(purpose), where=purpose)
    assert recipe.name == purpose
    assert len(options_of(recipe_of(purpose))) >= 3


@pytest.mark.parametrize(("purpose", "numbers"), OPTIONS, ids=lambda v: v if isinstance(v, str) else str(v[0] + 1))
def test_every_choice_that_is_switched_on_makes_a_recipe_that_is_right(purpose, numbers):
    text = recipe_of(purpose)
    chosen = Recipe.parse(switched_on(text, numbers), where=purpose)
    assert chosen != Recipe.parse(text)


def keys_of_the_schema():
    """Every name of a key, at any depth."""
    names = set()

    def look(node):
        if isinstance(node, dict):
            names.update(node.get("properties", {}))
            for inner in node.values():
                look(inner)
        elif isinstance(node, list):
            for inner in node:
                look(inner)

    look(recipe_schema())
    return names


def test_every_key_that_a_comment_names_exists():
    known = keys_of_the_schema()
    assert {"near", "survivor", "policy", "max_phrasings"} <= known
    named = {
        (purpose, name)
        for purpose in PURPOSES
        for line in recipe_of(purpose).splitlines()
        for name in re.findall(r"`([^`]+)`", line)
    }
    assert len(named) >= 15
    assert {(purpose, name) for purpose, name in named if not set(name.split(".")) <= known} == set()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_key_has_a_comment(purpose):
    """Above it, above the lines that it stands among, or above its section; a blank line ends what a comment is of."""
    told, commented = set(), False
    for line in recipe_of(purpose).splitlines():
        if not line.strip():
            commented = False
        elif COMMENT.search(line):
            commented = True
        elif not line.startswith("#"):
            assert commented, line
            told.add(line.split(":")[0].strip())
    assert set(yaml.safe_load(recipe_of(purpose))) <= told


def test_choices_are_spelt_as_the_recipes_say_they_are():
    """A # and a key, or a # and prose behind one blank: nothing in between, which no test would look at."""
    for purpose in PURPOSES:
        for line in recipe_of(purpose).splitlines():
            if line.startswith("#") and not OPTION.match(line):
                assert re.match(r"#( \S|$)", line), line


@pytest.fixture(scope="module")
def scanned():
    """What the environment holds is looked up once for all recipes here, and not once for each."""
    real, seen = EnvironmentSource._scan, {}

    def scan(self, root, name):
        key = (root, name, self.max_file_bytes, self.seed)
        if key not in seen:
            seen[key] = list(real(self, root, name))
        return iter(seen[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnvironmentSource, "_scan", scan)
        yield


@pytest.mark.parametrize("purpose", PURPOSES)
def test_the_dry_run_of_a_written_recipe_passes_as_it_is(scanned, tmp_path, purpose):
    recipe = Recipe.load(write(purpose, str(tmp_path / "made.yaml")))
    checks = check(recipe, out=str(tmp_path / "run"))
    assert {"documents", "dataset-1"} <= {one.step.name for one in checks}
    assert not any(one.skip for one in checks)
    assert not (tmp_path / "run").exists()


def test_the_recipes_are_part_of_the_package():
    root = Path(penstock.__file__).parent
    patterns = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packaged = {path for pattern in patterns["penstock"] for path in root.glob(pattern)}
    assert packaged >= {root / "init_recipes" / f"{purpose}.yaml" for purpose in PURPOSES}
    assert {path.stem for path in (root / "init_recipes").iterdir()} == set(PURPOSES)


def test_a_recipe_speaks_of_its_own_file_and_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write("tokenizer", "my recipes/of words.yaml")
    text = (tmp_path / path).read_text()
    assert "penstock train 'my recipes/of words.yaml'" in text
    assert "RECIPE" not in text
    assert Recipe.load(path).name == "tokenizer"  # the file's name is none that a run may have
    assert Recipe.load(write("tokenizer", "bpe-4k.yaml")).name == "bpe-4k"
    assert "4k=runs/bpe-4k " in (tmp_path / "bpe-4k.yaml").read_text()


def test_a_folder_gets_a_file_called_as_the_purpose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert write("corpus") == "corpus.yaml"
    assert write("corpus", "there") == "there/corpus.yaml"
    assert write("corpus", "new/") == "new/corpus.yaml"
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.yaml")) == [
        "corpus.yaml",
        "new/corpus.yaml",
        "there/corpus.yaml",
    ]


def test_nothing_is_overwritten(tmp_path):
    mine = tmp_path / "corpus.yaml"
    mine.write_text("mine")
    for path in (mine, tmp_path):
        with pytest.raises(ConfigError, match=r"corpus\.yaml: got a file that is there already; name another"):
            write("corpus", str(path))
    assert mine.read_text() == "mine"
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        write("mixing", str(mine / "mixing.yaml"))


def test_an_unknown_purpose_is_told_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"'corpse', allowed corpus, problems, .*; did you mean corpus\?"):
        write("corpse", str(tmp_path / "x.yaml"))
    assert not list(tmp_path.iterdir())


def test_the_verb_lists_purposes_and_says_what_to_do_next(tmp_path):
    listed = CliRunner().invoke(app, ["init"], env={"COLUMNS": "120"})
    assert listed.exit_code == 0
    for name, text in PURPOSES.items():
        assert re.search(rf"^{name} +{re.escape(text)}", listed.stdout, re.MULTILINE)
    path = tmp_path / "a b.yaml"
    made = CliRunner().invoke(app, ["init", "mixing", str(path)])
    assert made.stdout == f"{path}\nnext: penstock run {shlex.quote(str(path))} --dry-run\n"
    assert path.read_text() == recipe_of("mixing", str(path))
    again = CliRunner().invoke(app, ["init", "mixing", str(path)])
    assert isinstance(again.exception, ConfigError)
