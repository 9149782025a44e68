"""Learning from groups as a step: what is held out, what its key knows, what it commits, what a kill costs."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from penstock.cli import main
from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.home import HomeEngine
from penstock.report.policy import policy_record
from penstock.seeding import derive
from penstock.selectors.splits import AssignSplit
from penstock.sources.made import SPLIT_KEY, with_split_key
from penstock.step import Built, Settings, Silent, Step, check_step, run_step
from penstock.storage import Folder
from penstock.training.group_rl import loop
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.recipe import GroupRLRecipe
from penstock.training.group_rl.step import PolicyStep, ends, hold_out, measured, passes_of, without_questions_of

SHORT = {
    "steps": 4, "groups_per_step": 4, "rollouts": 4, "max_new_tokens": 4, "learning_rate": 1e-3, "eval_every": 4,
    "eval_problems": 8, "eval_samples": 4, "eval_ks": (1, 4), "checkpoint_every": 2, "device": "cpu", "threads": 1,
    "reward_workers": 1, "held_out": 0.25, "prompt": "{question}",
}  # fmt: skip


@pytest.fixture
def step_of(half_right, rows, tmp_path):
    """``step_of(**settings)``: a step on the half-right model and 40 sums of a file."""
    path = tmp_path / "groups.parquet"
    pq.write_table(pa.Table.from_pylist(rows([(a, b) for a in range(8) for b in range(5)])), path)

    def make(name="policy-ta-grpo", **changes):
        config = GroupRLRecipe(**({**SHORT, "model": str(half_right), "problems": str(path)} | changes))
        return PolicyStep(name, config, problems=None, model=None, split_seed=5)

    return make


def fingerprint(file):
    return hashlib.sha256(Path(file.path).read_bytes()).hexdigest()


def build(step, root):
    return run_step(step, Folder(str(root)), HomeEngine(0), Silent(), Settings(fingerprint=fingerprint)).manifest


# ── what is held out ─────────────────────────────────────────────────────────────────────────────


def test_a_question_is_held_out_with_all_its_phrasings_and_nothing_is_lost(rows):
    table = ProblemTable.of([*rows([(a, b) for a in range(10) for b in range(10)])])
    learned, held_out = hold_out(table, 0.3, 7)
    assert not set(learned.group_ids) & set(held_out.group_ids)
    both = [p.problem_id for side in (learned, held_out) for p in side.problems]
    assert sorted(both) == sorted(p.problem_id for p in table.problems)
    assert all(len(places) == 3 for side in (learned, held_out) for places in side.groups)
    assert 15 <= len(held_out.groups) <= 45


def test_the_coin_is_that_of_the_corpus_so_its_validation_and_test_questions_are_held_out_first(rows):
    table = ProblemTable.of(rows([(a, b) for a in range(10) for b in range(10)]))
    seed = derive(3, "split")
    batch = with_split_key(pa.RecordBatch.from_pydict({"x": list(table.group_ids)}), table.group_ids)
    splits = AssignSplit(seed=seed, validation=0.15, test=0.1, column=SPLIT_KEY).annotate(batch)["split"].to_pylist()
    apart = {g for g, split in zip(table.group_ids, splits, strict=True) if split != "train"}
    assert set(hold_out(table, 0.25, seed)[1].group_ids) == apart
    assert set(hold_out(table, 0.4, seed)[1].group_ids) > apart


def test_a_share_of_nothing_holds_nothing_out_and_one_of_all_is_refused(rows):
    table = ProblemTable.of(rows([(1, 1)]))
    assert hold_out(table, 0.0, 0)[1] is None
    assert measured(None) == {}
    with pytest.raises(ConfigError, match=r"held_out: got 0.999, which leaves none of 1 questions to learn from"):
        hold_out(table, 0.999, 0)


def test_questions_of_a_held_out_file_are_not_learned_in_any_phrasing(rows):
    table = ProblemTable.of(rows([(1, 2), (3, 4), (5, 6)]))
    (other,) = (row | {"problem_id": "x", "group_id": "x", "sub_index": 0} for row in rows([(3, 4)])[1:2])
    rest = without_questions_of(ProblemTable.of([other]), table)  # one variant, under another id
    assert rest.group_ids == ("1+2", "5+6")
    assert rest.dropped == {"held_out": 3}
    with pytest.raises(DatasetError, match="held_out: all questions of the problems are among them"):
        without_questions_of(table, table)


def test_originals_and_variants_are_measured_apart(rows):
    sets = measured(ProblemTable.of(rows([(1, 2), (3, 4)])))
    assert [p.problem_id for p in sets["originals"].problems] == ["1+2", "3+4"]
    assert [p.transform for p in sets["variants"].problems] == ["order", "words"] * 2
    assert sets["variants"].group_ids == ("1+2", "3+4")  # so the error of their mean knows what belongs together
    alone = ProblemTable.of([row for row in rows([(1, 2)]) if row["sub_index"] == 0])
    assert list(measured(alone)) == ["originals"]


# ── what a key knows ─────────────────────────────────────────────────────────────────────────────


def test_files_are_known_by_what_is_in_them(step_of, rows, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "our_reward.py").write_text("def score(text, problem):\n    return 1.0\n")
    given = {"reward": "our_reward:score"}
    settings = Settings(fingerprint=fingerprint)
    before = step_of(**given).inputs(settings)
    assert {"problems", "reward", "model:config.json", "model:model.safetensors", "model:tokenizer.json"} <= set(before)
    (tmp_path / "our_reward.py").write_text("def score(text, problem):\n    return 0.0\n")
    after = step_of(**given).inputs(settings)
    assert {name for name in before if before[name] != after[name]} == {"reward"}
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows([(1, 1)])))
    found = step_of(held_out=str(other)).inputs(settings)["held_out"]
    assert found == hashlib.sha256(other.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": "/nowhere"}, "problems: got /nowhere, allowed a folder that penstock transform made, or a Parq"),
        ({"held_out": "/nowhere"}, "held_out: got /nowhere, allowed a folder"),
        ({"model": "/nowhere"}, "model: got /nowhere, where no config.json"),
        ({"reward": "no_such_module_:f"}, "reward: got no_such_module_:f, and there is no module no_such_module_"),
    ],
)
def test_what_is_not_there_is_named_before_anything_is_built(step_of, tmp_path, changes, message):
    with pytest.raises((ConfigError, DatasetError)) as error:
        check_step(step_of(**changes), Folder(str(tmp_path)), {}, Settings(fingerprint=fingerprint))
    assert message in str(error.value)


# ── what it commits ──────────────────────────────────────────────────────────────────────────────


def test_the_step_commits_a_model_that_loads_and_what_the_report_reads(step_of, tmp_path, rows):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    step = step_of()
    manifest = build(step, tmp_path / "run")
    assert manifest.counts.rows_in == 120 == manifest.counts.kept
    stats, dataset = manifest.stats, Dataset(str(tmp_path / "run" / step.name))
    assert (stats["groups"] + stats["held_out"], stats["problems"]) == (40, 3 * stats["groups"])
    assert stats["answers"] == 4 * 4 * 3 * 4 == dataset.table("rollouts").rows
    assert set(stats["passes"]) == {"originals", "variants"}
    names = set(manifest.artifacts)
    assert {"metrics.jsonl", "evaluation.jsonl", "model/config.json", "model/model.safetensors"} <= names
    assert not [name for name in names if "checkpoint" in name]
    folder = (tmp_path / "run" / step.name / manifest.artifacts["model/config.json"].path).parent
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
    # no phrasing of a held-out question was ever asked in training
    asked = set(dataset.read("rollouts", ["group_id"])["group_id"].to_pylist())
    _, held_out = hold_out(ProblemTable.of(rows([(a, b) for a in range(8) for b in range(5)])), 0.25, 5)
    assert not asked & set(held_out.group_ids)
    record = policy_record(Folder(str(tmp_path / "run")), manifest)
    assert (record.objective, record.steps, record.answers) == ("ta-grpo", 4, stats["answers"])
    assert len(record.reward.values) == len(record.zero_gradient.values) == 4
    assert {row.transform for row in record.transforms} == {"original", "order", "words"}
    assert record.passes[0].after == tuple(stats["passes"]["originals"]["after"])
    assert record.seconds > 0
    assert check_step(step, Folder(str(tmp_path / "run")), {}, Settings(fingerprint=fingerprint)).skip


def test_a_build_that_was_cut_short_goes_on_and_ends_the_same(step_of, tmp_path, monkeypatch):
    whole = build(step_of(), tmp_path / "whole")
    advance, done = loop._Run.advance, []

    def cut(run, bar):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run.step)
        advance(run, bar)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "advance", cut)
        with pytest.raises(KeyboardInterrupt):
            build(step_of(), tmp_path / "cut")
    found = check_step(step_of(), Folder(str(tmp_path / "cut")), {}, Settings(fingerprint=fingerprint))
    assert (found.skip, found.why) == (False, "resumes an unfinished build")
    steps = []
    monkeypatch.setattr(loop._Run, "advance", lambda run, bar: (steps.append(run.step), advance(run, bar)))
    assert build(step_of(), tmp_path / "cut").digest == whole.digest
    assert steps == [2, 3]  # from the checkpoint on


def test_problems_that_are_left_out_are_counted_on_both_sides(step_of, rows, tmp_path):
    long, other = tmp_path / "long.jsonl", tmp_path / "other.jsonl"
    given, apart = rows([(a, 1) for a in range(8)]), rows([(8, 1), (9, 1)])
    given[2]["prompt"] = "add " * 20
    apart[1]["prompt"] = ""
    for path, of in ((long, given), (other, apart)):
        path.write_text("".join(json.dumps(row) + "\n" for row in of))
    manifest = build(step_of(problems=str(long), held_out=str(other), steps=1), tmp_path / "run")
    assert manifest.counts.dropped == {"policy-ta-grpo": {"pad": 1, "too_long": 1}}
    assert (manifest.counts.rows_in, manifest.counts.kept) == (30, 28)
    assert (manifest.stats["groups"], manifest.stats["held_out"]) == (8, 2)
    assert {name: of["problems"] for name, of in manifest.stats["passes"].items()} == {"originals": 2, "variants": 3}


class Given(Step):
    """The first round's model, as a step that trained it commits it."""

    name, revision = "model-1", 1

    def __init__(self, folder):
        self.model = folder

    def config(self):
        return {}

    def build(self, context):
        built = Built()
        for file in sorted(self.model.iterdir()):
            path = f"{context.prefix}/run/model/{file.name}"
            built.artifacts[f"model/{file.name}"] = context.write_artifact(file.name, file.read_bytes(), path)
        return built


def test_a_run_in_a_store_gives_the_model_and_takes_the_outcome(step_of, half_right, s3_bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = step_of(model=None, steps=2, held_out=0.0).group_rl
    digests = set()
    for root in (f"{s3_bucket}/run", tmp_path / "run"):
        build(Given(half_right), root)
        step = PolicyStep("policy-ta-grpo", config, problems=None, model="model-1", split_seed=5)
        digests.add(build(step, root).digest)
    assert len(digests) == 1
    dataset = Dataset(f"{s3_bucket}/run/policy-ta-grpo")
    assert dataset.missing() == []
    assert dataset.read("rollouts").num_rows == dataset.manifest.stats["answers"]
    assert dataset.manifest.stats["passes"] == {}  # nothing is held out
    assert "evaluation.jsonl" not in dataset.manifest.artifacts
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # nothing is left behind


# ── numbers that are told ────────────────────────────────────────────────────────────────────────


def test_ends_are_means_of_a_tenth_without_what_is_not_known():
    assert ends([None, 1.0, *[9.0] * 16, 0.5, 0.25]) == {"first": 1.0, "last": 0.375}
    assert ends([None]) == {"first": None, "last": None}


def test_passes_are_those_before_the_first_and_after_the_last_step():
    def of(*means):
        found = {k: {"mean": m, "error": 0.1, "problems": 2} for k, m in zip(("1", "16", "2"), means, strict=True)}
        return {"sets": {"variants": {"problems": 2, "samples": 16, "pass": found}}}

    found = passes_of([of(0.1, 0.8, None), of(0.0, 0.0, 0.0), of(0.3, 0.9, 0.4)])
    assert found == {
        "variants": {
            "problems": 2,
            "samples": 16,
            "ks": [1, 2, 16],
            "before": [0.1, None, 0.8],
            "after": [0.3, 0.4, 0.9],
            "error": [0.1] * 3,
        }
    }
    assert passes_of([]) == {}


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def penstock(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_train_takes_the_objective_it_is_given_and_tells_what_was_learned(step_of, penstock, tmp_path):
    config = step_of().group_rl
    names = ("model", "problems", "prompt", "steps", "groups_per_step", "rollouts", "max_new_tokens", "eval_problems")
    section = {name: getattr(config, name) for name in (*names, "eval_samples", "device", "threads", "reward_workers")}
    (tmp_path / "texts.jsonl").write_text('{"text": "None of this is read."}\n')
    given = {"name": "learn", "source": {"files": [str(tmp_path / "texts.jsonl")]}, "select": None}
    given["group_rl"] = section | {"eval_ks": [1, 4], "objective": "ta-grpo"}
    recipe, root = tmp_path / "learn.yaml", tmp_path / "learn"
    recipe.write_text(yaml.safe_dump(given))
    arguments = ("train", recipe, "--out", root, "--objective", "nft")
    code, out, _ = penstock(*arguments, "--dry-run")
    assert code == 0
    assert out.splitlines()[-1].split() == ["policy-nft", "run", "not", "built", "yet"]
    code, out, err = penstock(*arguments, "--workers", "0")
    assert code == 0, err
    told = [line.split() for line in out.splitlines()]
    stats = Dataset(f"{root}/policy-nft").manifest.stats
    assert sorted(path.name for path in root.glob("policy-*")) == ["policy-nft"]
    at = told.index(["Learned", "from", "groups"]) + 2
    ends_ = [f"{stats['reward'][end]:.3f}" for end in ("first", "last")]
    assert told[at][:5] == ["nft", str(stats["groups"]), str(stats["answers"]), *ends_]
    assert [row[0] for row in told[told.index(["pass@k,", "before", "and", "after"]) + 2 :][:4]] == (
        ["originals"] * 2 + ["variants"] * 2
    )
    assert told[-1][0] == "model:"
    assert (Path(told[-1][1]) / "model.safetensors").exists()
    assert "<h2>What was learned from groups</h2>\n<p>Objective <code>nft</code>" in (root / "report.html").read_text()


def test_an_objective_without_problems_or_a_model_names_what_to_add(penstock, tmp_path):
    recipe = tmp_path / "plain.yaml"
    recipe.write_text("name: plain\nsource: {files: [none.jsonl]}\nselect: null\n")
    arguments = ("train", recipe, "--out", tmp_path / "run", "--objective", "grpo")
    code, out, err = penstock(*arguments)
    assert (code, out) == (1, "")
    assert "group_rl starts from a model: add a train section" in err
    code, _, err = penstock(*arguments, "--set", "train={steps: 3, warmup_steps: 1}")
    assert code == 1
    assert "group_rl learns from verified problems: add generate: {} and transform: {}" in err
    code, _, err = penstock(*arguments[:-1], "ppo")
    assert code == 1
    assert "group_rl.objective: Input should be 'grpo', 'dr-grpo', 'dapo', 'nft' or 'ta-grpo'" in err
