"""Verbs as functions: each does what its command does, and is a flow and a deployment of the same arguments."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import yaml

import penstock
from penstock import flows
from penstock.cli import app
from penstock.dataset import Dataset
from penstock.errors import ConfigError, FolderInUseError, PenstockError
from penstock.flows.verbs import VERBS
from penstock.lock import FolderLock
from penstock.step import Silent
from penstock.storage import Folder

ROOT = Path(penstock.__file__).parents[1]
FEW = ("voyage.sample=20", "voyage.batch=5", "voyage.patience=3")
EASY = {"procedural": {"families": ["letter_counting", "gcd"]}}


def digests(root):
    return {m.parent.name: json.loads(m.read_text())["digest"] for m in Path(root).glob("*/manifest.json")}


def test_every_verb_is_a_command_and_a_function_of_the_package():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(VERBS) <= commands & set(flows.__all__)
    assert all(getattr(flows, name) is verb.function for name, verb in VERBS.items())


@pytest.mark.parametrize("name", ["build", "train", "run"])
def test_a_recipe_s_verb_makes_the_steps_that_it_is_for(name, copy, finished):
    root, recipe = copy
    before = digests(root)
    shutil.rmtree(root / "dataset-1")
    shutil.rmtree(root / "model-1")
    done = getattr(flows, name)(str(recipe), out=str(root), workers=0)
    made = {"build": {"dataset-1"}, "train": {"model-1"}, "run": {"dataset-1", "model-1"}}[name]
    assert {r.step.name for r in done.steps if not r.skipped} == made
    assert digests(root) == {n: d for n, d in before.items() if n in made or n not in ("dataset-1", "model-1")}
    assert [step.name for step in VERBS[name].steps(recipe=str(recipe))] == [r.step.name for r in done.steps]
    assert (done.folder, done.report) == (str(root), f"{root}/report.html")
    if name == "run":
        assert [r.step.name for r in done.steps] == [r.step.name for r in finished[2].steps]


def test_a_training_with_an_objective_is_for_that_step_alone(recipe_text, tmp_path, monkeypatch):
    recipe, learn = str(tmp_path / "recipe.yaml"), "group_rl={problems: asked.jsonl, max_new_tokens: 8}"
    Path(recipe).write_text(recipe_text)
    names = [step.name for step in VERBS["train"].steps(recipe=recipe, overrides=[learn], objective="nft")]
    assert (names[-1], names[-2]) == ("policy-nft", "model-1")
    given = []

    class Asked(Exception):
        """Instead of a run."""

    def run(recipe, **how):
        given.append((recipe, how))
        raise Asked

    monkeypatch.setattr("penstock.run.run", run)
    for go in (
        lambda: flows.train(recipe, [learn], objective="nft"),
        lambda: app(["train", recipe, "--set", learn, "--objective", "nft"]),
    ):
        with pytest.raises(Asked):
            go()
    (one, how), (other, as_typed) = given
    assert one == other
    assert one.group_rl.objective == "nft"
    assert how["only"] == as_typed["only"] == ["policy-nft"]


def test_an_override_decides_what_is_made_and_a_wrong_one_makes_no_folder(copy, tmp_path):
    _, recipe = copy
    with pytest.raises(ConfigError, match=r"--set trian\.steps=3: unknown key trian"):
        flows.build(str(recipe), ["trian.steps=3"], out=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    names = [step.name for step in VERBS["build"].steps(recipe=str(recipe), overrides=["select=null", "rounds=1"])]
    assert "dataset-1" in names
    assert "selection-1" in names


def test_a_second_run_into_a_folder_is_refused(copy):
    root, recipe = copy
    with FolderLock(Folder(str(root))), pytest.raises(FolderInUseError, match="another penstock run is writing here"):
        flows.build(str(recipe), out=str(root), workers=0)


def test_what_is_generated_is_transformed(static_folder, tmp_path):
    few = [*FEW, f"embed.model={{path: {static_folder}}}"]  # it knows no word of most problems
    with pytest.raises(PenstockError, match="1 of 6 items after 3 rounds"):
        flows.generate(str(tmp_path / "six"), EASY, [*few, "voyage.count=6"], seed=3)
    made = flows.generate(str(tmp_path / "one"), EASY, [*few, "voyage.count=1"], seed=3)
    assert [r.step.name for r in made.steps] == ["embedder", "generated"]
    assert Dataset(f"{made.folder}/generated").manifest.counts.kept == 1
    done = flows.transform([made.folder], str(tmp_path / "variants"), {"per_problem": 1}, workers=0)
    assert [r.step.name for r in done.steps] == ["problems", "transformed"]
    assert Dataset(f"{done.folder}/transformed").manifest.counts.rows_in == 1


def test_what_is_built_is_pushed_and_told(copy, tmp_path):
    class Told(Silent):
        notes = ()

        def note(self, message):
            self.notes += (message,)

    told = Told()
    done = flows.push(str(copy[0]), str(tmp_path / "dest"), reporter=told)
    assert Dataset(done.folder).manifest.digest == Dataset(str(copy[0] / "dataset-2")).manifest.digest
    assert [note.split()[0] for note in told.notes] == ["sent"]
    assert not done.steps


# ── as flows ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The module of the flows, with Prefect's files in a folder of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    patch.setenv("DO_NOT_TRACK", "1")
    pytest.importorskip("prefect")
    from penstock.flows import deployed

    yield deployed
    patch.undo()


@pytest.mark.parametrize("name", VERBS)
def test_a_flow_takes_what_the_function_takes_and_how_it_is_tried_again(deployed, name):
    from prefect.utilities.callables import parameter_schema

    function = [p for p in inspect.signature(VERBS[name].function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    schema = parameter_schema(getattr(deployed, name))
    policy = {"retries", "retry_seconds", "occupies"}
    assert set(schema.properties) == {p.name for p in function} | policy
    assert schema.required == [p.name for p in function if p.default is p.empty]
    assert not {"reporter", "flow"} & set(schema.properties)


def test_prefect_s_own_loader_reads_prefect_yaml(deployed):
    from prefect.cli.deploy._config import _load_deploy_configs_and_actions
    from prefect.flows import load_flow_from_entrypoint
    from rich.console import Console

    console = Console(record=True, quiet=True)
    entries, actions = _load_deploy_configs_and_actions(ROOT / "prefect.yaml", console=console)
    # the loader takes what it cannot read as nothing at all
    assert len(entries) == len(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"])
    assert actions == {"build": [], "push": [], "pull": []}
    found = {}
    for entry in entries:
        flow = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
        assert flow is getattr(deployed, entry["name"])
        flow.validate_parameters(entry["parameters"])
        found[entry["name"]] = entry["work_pool"]["name"]
    assert found == dict.fromkeys(VERBS, "penstock")


@pytest.mark.parametrize(
    ("verb", "given"),
    [("build", {"recipe": 3}), ("build", {}), ("push", {"folder": "a", "dest": "b", "keep": "maybe"})],
)
def test_prefect_refuses_parameters_of_another_type(deployed, verb, given):
    from prefect.exceptions import ParameterTypeError

    with pytest.raises((ParameterTypeError, TypeError)):
        getattr(deployed, verb).validate_parameters(given) if given else getattr(deployed, verb)()


def test_parameters_of_prefect_yaml_are_ones_that_the_verbs_take(monkeypatch):
    monkeypatch.chdir(ROOT)
    for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        VERBS[entry["name"]].steps(**entry["parameters"])
