"""What the shell completes, asked as the shell asks."""

import os
import subprocess
import sys

import pytest

from penstock import completion
from penstock.errors import ConfigError
from penstock.recipe import Recipe

COMMAND = "import sys; sys.argv[0] = 'penstock'; from penstock.cli import main; main()"


def ask(shell, line, cwd):
    """The answers to a command line whose last word is being written, and what was said on stderr."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
    }[shell]
    env = os.environ | asked | {"_PENSTOCK_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", COMMAND], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipes" / "old").mkdir(parents=True)
    for name in ("recipes/a.yaml", "recipes/b.yml", "recipes/notes.txt", "recipes/old/c.yaml", ".hidden.yaml"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "line", "answers"),
    [
        ("bash", "penstock run rec", ["recipes/", "recipes/a.yaml", "recipes/b.yml", "recipes/old/"]),
        ("bash", "penstock run r.yaml --set train.policy.na", None),
        ("fish", "penstock train r.yaml --objective ta", ["ta-grpo"]),
        ("fish", "penstock build r.yaml --set train.policy.on_inf", None),
        ("zsh", "penstock init mi", ["""_arguments '*: :(("mixing":"Pre-training with a mixture"""]),
    ],
)
def test_shells_are_answered(shell, line, answers, folder):
    found = ask(shell, line, folder)
    if answers is None:
        key = line.rpartition(" ")[2]
        assert found
        assert all(one.startswith(key) and one.count("=") == 1 for one in found)
    elif shell == "zsh":
        assert found[0].startswith(answers[0])
    else:
        assert found == answers


def test_bash_itself_puts_the_answers_into_the_line(folder):
    """The script that --show-completion prints, in a real bash, with a program of the name on its path."""
    program = folder / "bin" / "penstock"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{COMMAND}" "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "_PENSTOCK_COMPLETE": "source_bash"}
    script = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60).stdout
    assert "complete -o default -F _penstock_completion penstock" in script
    typed = "COMP_WORDS=(penstock select pool --by di); COMP_CWORD=4; _penstock_completion penstock; "
    shown = f'{script}\n{typed}printf "%s\\n" "${{COMPREPLY[@]}}"'
    del environment["_PENSTOCK_COMPLETE"]
    done = subprocess.run(["bash", "--norc", "-c", shown], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("diverse\n", "")


@pytest.mark.parametrize(
    ("incomplete", "found"),
    [
        ("", ["recipes/"]),  # alone, so what is in it is listed as well
        ("recipes/", ["recipes/a.yaml", "recipes/b.yml", "recipes/old/"]),
        ("recipes/o", ["recipes/old/", "recipes/old/c.yaml"]),
        ("recipes/n", []),
        (".h", [".hidden.yaml"]),
        ("none/x", []),
    ],
)
def test_recipes_are_yaml_files_and_folders(folder, monkeypatch, incomplete, found):
    monkeypatch.chdir(folder)
    below = ["recipes/a.yaml", "recipes/b.yml", "recipes/old/"] if not incomplete else []
    assert completion.recipes(incomplete) == found + below


def test_recipes_of_the_home_are_found_as_they_were_typed(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert completion.recipes("~/recipes/a") == ["~/recipes/a.yaml"]


def words(answers):
    return [word for word, _ in answers]


@pytest.mark.parametrize(
    ("incomplete", "found"),
    [
        ("roun", ["rounds=", "rounds=1"]),
        ("drop", ["dropped=ids", "dropped=sample", "dropped=full"]),
        ("dropped=s", ["dropped=sample"]),
        ("train.po", ["train.policy.", "train.policy=null"]),
        ("train.compi", ["train.compile=true", "train.compile=false"]),
        ("train.compile=f", ["train.compile=false"]),
        ("train.steps", ["train.steps="]),
        ("train.warmup_s", ["train.warmup_steps=", "train.warmup_steps=20"]),
        ("select.criteria.mine.wei", ["select.criteria.mine.weight=", "select.criteria.mine.weight=1.0"]),
        ("scores.classifier.edu.pa", ["scores.classifier.edu.path="]),
        # a section alone is answered with what is in it: a shell would put a blank behind it
        ("feedb", ["feedback.weight=", "feedback.weight=1.0", "feedback.direction=higher", "feedback.direction=lower"]),
        ("splits.", ["splits.validation=", "splits.validation=0.02", "splits.test=", "splits.test=0.01"]),
        ("zzz", []),
        ("zzz.y", []),
        ("name.x", []),
        ("seed=1", []),
    ],
)
def test_settings_of_a_recipe(incomplete, found):
    assert words(completion.recipe_settings(incomplete)) == found


def test_every_answer_with_a_value_is_one_that_recipes_take():
    """All words that complete keys of `deduplicate.near`, `splits` and `tokenizer`, as overrides of a recipe."""
    base = "name: a\nsource: {files: x}\nselect: null\n"
    tried = 0
    for section in ("deduplicate.near.", "splits.", "tokenizer.", "sequences."):
        for word in words(completion.recipe_settings(section)):
            if not word.endswith("="):
                Recipe.parse(base, [word])
                tried += 1
    assert tried >= 15
    with pytest.raises(ConfigError):
        Recipe.parse(base, ["tokenizer.kind=zzz"])


def test_keys_come_with_what_the_source_says_of_them():
    assert dict(completion.recipe_settings("dropped"))["dropped=ids"] == "How much text of a dropped row is kept."
    assert all(len(text) <= 60 for _, text in completion.recipe_settings(""))


def test_the_other_verbs_complete_their_own_settings():
    assert "voyage.count=500" in words(completion.generate_settings("voyage.cou"))
    assert words(completion.generate_settings("embed.ch")) == ["embed.characters=", "embed.characters=1024"]
    assert words(completion.transform_settings("jud")) == ["judge=true", "judge=false"]
    assert completion.selection_methods("m") == ["mona"]
    assert completion.runners("Fn") == ["FnApiRunner"]
    assert completion.objectives("d") == ["dr-grpo", "dapo"]
    assert words(completion.purposes("p")) == ["problems"]
