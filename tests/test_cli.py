"""The command line: what each verb says, where it says it, and with which exit code it ends."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from penstock import __version__
from penstock.dataset import Dataset
from penstock.recipe import Recipe
from penstock.run import run

VERBS = {
    "run": "Run a recipe to its end",
    "build": "Build the first round's dataset",
    "train": "Build what the first round's model needs",
    "refresh": "Make the next round of a recipe",
    "init": "Write a recipe to begin with",
    "doctor": "Check this machine and say what mends it.",
    "inspect": "Show what a dataset or a run holds",
    "view": "Look at a dataset in the browser",
    "trace": "Show what became of a row",
    "report": "Write report.html of a run again",
    "diff": "Show what changed between two runs",
    "push": "Send a published dataset",
    "export": "Write packed sequences for Megatron-LM",
    "quality": "Train quality classifiers",
    "quality train": "Train a quality classifier on files",
    "generate": "Make diverse problems or texts",
    "transform": "Make groups of a question and its verified variants",
    "select": "Choose documents that are like a target set",
    "score": "Score texts by a causal language model",
    "bytes": "Show the exact next byte",
    "models": "Run language models",
    "models serve": "Serve a model by vLLM until Ctrl-C",
    "cache": "Look after kept answers",
    "cache stats": "Show how many answers of which models",
    "cache prune": "Take kept answers out of the store",
    "serve": "Run verbs by schedule",
    "screen": "Flag scores that stand out",
    "screen calibrate": "Find thresholds at a named false-positive rate",
    "screen apply": "Flag scores beyond their thresholds",
    "tokenizer": "Build and measure tokenizers",
    "tokenizer train": "Train a byte-level BPE tokenizer",
    "tokenizer extend": "Add merges learned from new text",
    "tokenizer hypernet": "Train a network that gives embeddings to new tokens",
    "tokenizer prune": "Take tokens that a sample does not use",
    "tokenizer compare": "Measure tokenizers on the same texts",
    "tokenizer infer-mixture": "Estimate what a BPE tokenizer was trained on",
    "recipe": "Look at recipes",
    "recipe show": "Print a recipe with every default",
    "recipe schema": "Print the JSON schema",
}


@pytest.fixture
def copy(finished, tmp_path):
    """(run folder that a test may change, its recipe's file)."""
    base, recipe, _ = finished
    shutil.copytree(base / "run", tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    return tmp_path / "run", tmp_path / "recipe.yaml"


def python(code, *arguments, **environment):
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=180,
        env=os.environ | environment,
    )


COMMAND = "import sys; sys.argv[0] = 'penstock'; from penstock.cli import main; main()"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(penstock, verb):
    code, out, err = penstock(*verb.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: penstock {verb} ")
    assert VERBS[verb] in out


def test_the_list_of_verbs_is_whole_in_80_columns(penstock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = penstock("--help")
    assert code == 0
    assert all(verb in out for verb in VERBS if " " not in verb)
    assert "..." not in out.partition("Commands:")[2]
    code, nothing, err = penstock()
    assert (code, nothing) == (2, "")
    assert err.rstrip() == out.rstrip()


def test_the_version_is_the_package_s(penstock):
    assert penstock("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--otu", "x"], "No such option: --otu"),
        (["run", "x.yaml", "--workers", "-1"], "Invalid value for '--workers'"),
        (["run", "x.yaml", "--split-mb", "0"], "Invalid value for '--split-mb'"),
        (["inspect", "x", "--sample", "many"], "Invalid value for '--sample'"),
    ],
)
def test_a_wrong_command_line_is_told_on_stderr_and_ends_with_2(penstock, arguments, message):
    code, out, err = penstock(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.step=3"], "unknown key train.step; did you mean steps?"),
        (["rounds"], "--set rounds: allowed KEY.KEY=VALUE, for example train.steps=200"),
        (["rounds=many"], "rounds: Input should be a valid integer"),
        (["rounds=[1"], "--set rounds=[1: the value is not YAML"),
        (["name=\x1b[31mred"], "--set name=⟨ESC⟩[31mred: "),
        ([r'name="\e[31mred"'], "name: String should match pattern"),
    ],
)
def test_a_wrong_override_is_one_line_on_stderr_and_ends_with_1(penstock, copy, overrides, message):
    code, out, err = penstock("run", copy[1], "--workers", 0, *(part for o in overrides for part in ("--set", o)))
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_a_recipe_that_is_not_there_is_named(penstock, tmp_path):
    code, _, err = penstock("run", tmp_path / "nothing.yaml")
    assert code == 1
    assert err.startswith(f"penstock: recipe {tmp_path}/nothing.yaml: cannot be read")
    assert err.count("\n") == 1


def test_an_option_for_a_runner_needs_a_runner(penstock, copy):
    code, _, err = penstock("build", copy[1], "--out", copy[0], "--runner-option", "--streaming")
    assert (code, err) == (
        1,
        "penstock: runner_options: got --streaming without a runner; name one by --runner, such as PortableRunner\n",
    )


def test_overrides_reach_the_recipe_and_the_shown_recipe_reads_back(penstock, copy, tmp_path):
    code, out, _ = penstock("recipe", "show", copy[1], "--set", "train.steps=7", "--set", "select.omega=0.5")
    (tmp_path / "shown.yaml").write_text(out)
    shown = Recipe.load(tmp_path / "shown.yaml")
    assert (code, shown.train.steps, shown.select.omega) == (0, 7, 0.5)
    assert shown == Recipe.load(copy[1], ["train.steps=7", "select.omega=0.5"])


def test_the_schema_of_recipes_is_json(penstock):
    code, out, _ = penstock("recipe", "schema")
    assert code == 0
    assert {"source", "filters", "train", "rounds"} <= json.loads(out)["properties"].keys()


def test_results_go_to_stdout_and_progress_to_stderr(penstock, copy):
    root, recipe = copy
    os.unlink(root / "selection-2" / "manifest.json")
    code, out, err = penstock("run", recipe, "--out", root, "--plain", "--workers", "0")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Steps"
    assert [line.split()[:2] for line in lines[2:15]] == [
        [name, "built" if name == "selection-2" else "skipped"]
        for name in (r.step.name for r in run(Recipe.load(recipe), out=str(root), workers=0).steps)
    ]
    assert lines[-2].endswith(" in all")
    assert lines[-1] == f"report: {root}/report.html"
    told = err.splitlines()
    assert told[0] == "documents  up to date"
    at = next(n for n, line in enumerate(told) if line.startswith("selection-2"))
    assert told[at] == "selection-2  resumes an unfinished build"
    assert "kept 213, dropped 0  digest " in told[at + 1]
    assert len(told) == 14


@pytest.mark.parametrize(("verb", "last", "others"), [("build", "dataset-1", ["model-1"]), ("train", "model-1", [])])
def test_build_and_train_stop_at_their_dataset(penstock, copy, verb, last, others):
    root, recipe = copy
    for name in ("selection-2", "dataset-2", "sequences-2", "model-2", last, *others):
        shutil.rmtree(root / name)
    code, out, _ = penstock(verb, recipe, "--out", root, "--workers", "0")
    assert code == 0
    assert out.splitlines()[-3].split()[:2] == [last, "built"]
    assert out.splitlines()[-1] == f"report: {root}/report.html"
    assert not (root / "selection-2").exists()
    assert all(not (root / name).exists() for name in others)


def test_a_mistake_in_the_data_is_one_line_and_ends_with_1(penstock, copy, finished):
    root, recipe = copy
    code, out, err = penstock(
        "run", recipe, "--out", root, "--plain", "--workers", "0", "--set", "source.files=/no/*.x"
    )
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("penstock: ")
    assert "/no/*.x" in err


def test_inspect_and_verify(penstock, copy):
    root, _ = copy
    code, out, err = penstock("inspect", root / "dataset-2", "--sample", "1", "--verify")
    assert (code, err) == (0, "")
    assert out.startswith(f"dataset-2  {root}/dataset-2\n")
    assert out.endswith("every file has the sha256 its manifest names\n")
    path = root / "dataset-2" / Dataset(f"{root}/dataset-2").table("train").files[0].path
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    code, _, err = penstock("inspect", root, "--verify")
    assert code == 1
    assert err.startswith(f"penstock: {root}/dataset-2: missing or damaged: data/train-")
    assert err.count("\n") == 1


def test_report_writes_the_report_again_and_prints_its_path(penstock, copy):
    root, recipe = copy
    os.unlink(root / "report.html")
    assert penstock("report", recipe, "--out", root) == (0, f"{root}/report.html\n", "")
    assert "<html" in (root / "report.html").read_text()
    code, out, err = penstock("report", recipe, "--out", root.parent / "nothing")
    assert (code, out) == (1, "")
    assert "nothing to report" in err


def files_below(folder):
    """Every file and folder with its size and time of change."""
    return {
        str(path): (path.stat().st_size if path.is_file() else None, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("state", ["new", "finished", "changed"])
def test_a_dry_run_writes_nothing(copy, tmp_path, state):
    """Neither into the run's folder nor into the home: a new process with an empty one."""
    root, recipe = copy
    (tmp_path / "home").mkdir()
    before = files_below(tmp_path)
    out = tmp_path / "new" if state == "new" else root
    changed = ["--set", "seed=4"] if state == "changed" else []
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    done = python(COMMAND, "run", recipe, "--out", out, "--dry-run", *changed, PYTHONDONTWRITEBYTECODE="1", **home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("source files: 3 files, ")
    told = {line.split()[1] for line in done.stdout.splitlines()[-13:]}
    assert told == {"new": {"run"}, "finished": {"skip"}, "changed": {"run", "maybe"}}[state]
    assert files_below(tmp_path) == before


def test_a_run_with_nothing_to_do_loads_nothing_of_prefect_or_the_engines(copy):
    root, recipe = copy
    code = f"{COMMAND.replace('main()', '')}\ntry:\n    main()\nfinally:\n    print(*sys.modules, sep=chr(10))"
    done = python(code, "run", recipe, "--out", root)
    assert done.returncode == 0
    assert f"report: {root}/report.html" in done.stdout
    assert not {"prefect", "torch", "apache_beam"} & set(done.stdout.split())


def test_output_survives_a_closed_pipe_and_a_terminal_that_is_not_utf8(tmp_path, commit_rows):
    rows = pa.RecordBatch.from_pydict({"doc_id": [f"日本#{n}" for n in range(3000)], "text": ["שלום"] * 3000})
    commit_rows(tmp_path, "given", {"documents": [rows]})
    done = python(COMMAND, "inspect", tmp_path / "given", "--sample", "1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  doc_id: \\u65e5\\u672c#0\n" in done.stdout
    words = [sys.executable, "-c", COMMAND, "inspect", f"{tmp_path}/given", "--sample", "3000"]
    command = f"{shlex.join(words)} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"given  {tmp_path}/given\n"
    assert "Traceback" not in done.stderr
