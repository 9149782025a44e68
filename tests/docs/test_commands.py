"""Every command that the pages show is one: verbs, arguments and options; what costs little is run."""

import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from penstock.cli import app
from reference.blocks import blocks
from reference.verbs import commands

SHELL = blocks("sh", "bash")
SHOWN = [(str(block), words) for block in SHELL for words in block.commands]
PROGRAMS = ("penstock", ".venv/bin/penstock", "make", "export", "prefect", "torchrun", "mkdir", "cat")
CHEAP = ("inspect", "recipe show", "recipe schema", "diff", "init", "cache stats", "cache prune", "doctor", "bytes",
         "trace")  # fmt: skip
"""Verbs that take a second or less on a small run; others are run where they are shown with --dry-run or --example."""


def leaf(words):
    """(verb, command, what follows the verb) of a command line."""
    for count in (2, 1):
        verb = " ".join(words[:count])
        if verb in commands():
            return verb, commands()[verb], words[count:]
    raise AssertionError(f"penstock {' '.join(words)}: there is no such command")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_are_shell_and_call_known_programs(block):
    if shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    lines = block.code.replace("\\\n", " ").splitlines()
    inside = None  # a here-document
    for line in lines:
        if inside is not None:
            inside = None if line == inside else inside
            continue
        if "<<" in line:
            inside = line.rpartition("<<")[2].strip("'")
        word = line.split(" ")[0]
        assert not word or word.startswith("#") or word in PROGRAMS, (str(block), line)


@pytest.mark.parametrize(("where", "words"), SHOWN, ids=[" ".join(words)[:60] for _, words in SHOWN])
def test_commands_are_parsed_by_the_command_line(where, words):
    if words[0].startswith("--"):
        assert any(words[0] in one.opts for one in typer.main.get_command(app).params), words
        return
    verb, command, rest = leaf(words)
    if verb == "models serve":  # what it does not know goes to vLLM
        return
    try:
        command.make_context(verb, list(rest))
    except Exception as error:  # the parser's own class is not public in every version of typer
        raise AssertionError(f"{where}: penstock {' '.join(words)}: {error}") from error


def cheap(words):
    if words[0].startswith("--") or any("://" in word or word.startswith(("/", "--deep")) for word in words):
        return False
    verb, _, rest = leaf(words)
    return verb in CHEAP or "--dry-run" in rest or "--example" in rest


RUN = [words for _, words in SHOWN if cheap(words)]


def test_enough_of_them_is_run():
    assert len(RUN) >= 12


@pytest.mark.parametrize("words", RUN, ids=[" ".join(words)[:60] for words in RUN])
def test_cheap_commands_run(words, world, models):
    (world / "models" / "mine").symlink_to(models / "small")  # what a page saved before
    if words[0] == "init" and len(words) > 2:
        Path(words[2]).unlink()  # a file that is there is never overwritten
    done = CliRunner().invoke(app, words, input="The river")
    # a diff ends with 1 where there are differences, a doctor where this machine has something broken
    allowed = (0, 1) if words[0] in ("diff", "doctor") else (0,)
    assert done.exit_code in allowed, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
