"""What a recipe names wrongly is told by a dry run, and before the first step of a run is built."""

import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.pipelines.domains import domains_of
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import splits_of
from penstock.pipelines.plan import plan, sources_of
from penstock.recipe import Recipe
from penstock.run import check, run
from penstock.step import Settings, Silent, Step, check_step, check_steps, run_step
from penstock.storage import Folder

DGA = "train.policy={{name: dga, target: [{}], every: 4, lag: 2}}"


class First(Step):
    revision, name = 1, "first"

    def config(self):
        return {}

    def build(self, context):
        raise AssertionError("nothing is built here")


class Later(First):
    name, parents = "later", ("first",)

    def __init__(self, file):
        self.file = file

    def inputs(self, settings):
        if self.file is None:
            raise InputError("later: its file is not there")
        return {"file": settings.fingerprint(self.file)}


def test_inputs_of_a_step_that_waits_are_looked_for_and_not_read(tmp_path):
    def read(file):
        raise AssertionError(f"{file} is read before its time")

    root, settings = Folder(str(tmp_path)), Settings(fingerprint=read)
    assert [c.why for c in check_steps([First(), Later("a.jsonl")], root, settings)] == ["not built yet", "after first"]
    with pytest.raises(InputError, match="later: its file is not there"):
        check_steps([First(), Later(None)], root, settings)


@pytest.mark.parametrize(
    ("changes", "only", "message"),
    [
        (
            ["group_rl={problems: /nowhere, max_new_tokens: 8, objective: grpo}"],
            "policy-grpo",
            "problems: got /nowhere, allowed a folder that penstock",
        ),
        (["train.model.path=/nowhere"], "model-1", r"train\.model\.path: /nowhere holds no config\.json; give a local"),
        (["quality.positive={files: [/nowhere/*.jsonl]}"], "dataset-1", r"/nowhere/\*\.jsonl"),
        (["quality={model: /nowhere}"], "dataset-1", "quality.model: got /nowhere, where no"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_before_anything_is_built(recipe_text, tmp_path, changes, only, message):
    recipe, out = Recipe.parse(recipe_text, ["rounds=1", *changes]), str(tmp_path / "run")
    for go in (check, run):
        with pytest.raises((ConfigError, DatasetError, InputError), match=message):
            go(recipe, out=out, only=[only])
    assert not list((tmp_path / "run").rglob("manifest.json"))


def test_a_target_that_no_document_can_belong_to_is_told_with_the_nearest(recipe_text, corpus):
    fixed = f"source.files=[{{path: '{corpus}/rivers.jsonl', domain: rivers}}]"
    message = r"train\.policy\.target: got river, allowed the domains of the documents: rivers; did you mean rivers\?"
    with pytest.raises(ConfigError, match=message):
        plan(Recipe.parse(recipe_text, [fixed, DGA.format("river")]))
    beside = "beside={steered: {policy: {name: static, target: [sources]}}}"
    environment = ["source={environment: {exclude: [tests, stubs]}}"]
    message = r"beside\.steered\.policy\.target: got sources, .*: api_docstrings, .*; did you mean source\?"
    with pytest.raises(ConfigError, match=message):
        plan(Recipe.parse(recipe_text, [*environment, beside]))
    for good in ([fixed, DGA.format("rivers")], [DGA.format("in_a_column")], [*environment, DGA.format("readmes")]):
        assert plan(Recipe.parse(recipe_text, good))
    with pytest.raises(ConfigError, match=r"train\.policy\.target: its validation sequences .* splits\.validation 0"):
        plan(Recipe.parse(recipe_text, [DGA.format("rivers"), "splits.validation=0"]))


@pytest.mark.parametrize(
    ("source", "domains"),
    [
        ("{files: [{path: a.jsonl, domain: a}, {path: b.csv, domain: b}]}", {"a", "b"}),
        ("{files: [{path: a.jsonl, domain: a, columns: {domain: of}}]}", None),
        ("{files: [{path: a.jsonl, domain: a}, {path: b.jsonl}]}", None),
        ("{procedural: {families: [gcd, lcm], domain: family}}", {"gcd", "lcm"}),
        ("{procedural: {families: [gcd]}}", {"procedural"}),
        ("{environment: {include: [readmes, tests], exclude: [tests]}}", {"readmes"}),
    ],
)
def test_domains_are_known_where_the_recipe_says_them(source, domains):
    (found,) = sources_of(Recipe.parse(f"name: x\nselect: null\nsource: {source}\n"))
    assert domains_of(found) == domains


def test_clusters_and_what_is_made_are_domains_too(recipe_text, corpus):
    fixed = f"source.files=[{{path: '{corpus}/rivers.jsonl', domain: rivers}}]"
    made = [fixed, "generate={}", DGA.format("generated")]
    assert plan(Recipe.parse(recipe_text, made))
    clusters = [fixed, "embed={}", "group={clusters: 3, as_domain: true}", DGA.format("cluster-1")]
    assert plan(Recipe.parse(recipe_text, clusters))
    with pytest.raises(ConfigError, match="got cluster-1, allowed the domains of the documents: generated, rivers"):
        plan(Recipe.parse(recipe_text, [fixed, "generate={}", DGA.format("cluster-1")]))


class Rows(First):
    name = "rows"

    def build(self, context):
        return context.collect(context.run("write", write_rows, splits_of([0])), "rows")


def write_rows(split, out):
    out.write("rows", pa.record_batch({"n": pa.array([1, 2, 3])}))
    out.count(made=3, kept=3)


def test_a_manifest_that_does_not_agree_with_itself_is_built_again(tmp_path):
    root = Folder(str(tmp_path))
    whole = run_step(Rows(), root, HomeEngine(0), Silent(), Settings()).manifest.to_json()
    for change in ({"digest": "0" * 32}, {"counts": whole["counts"] | {"kept": 2}}):
        root.write_json("rows/manifest.json", whole | change)
        found = check_step(Rows(), root, {}, Settings())
        assert (found.skip, found.why) == (False, "its manifest is damaged")
    root.write_json("rows/manifest.json", whole | {"key": "0" * 32})
    assert check_step(Rows(), root, {}, Settings()).why == "changed: key"
    made = run_step(Rows(), root, HomeEngine(0), Silent(), Settings()).manifest
    assert (made.digest, made.key) == (whole["digest"], whole["key"])
