"""Problems to groups as steps: accounting, splits, resuming, models, budgets, and what each column holds."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.generators.budget import Budget
from penstock.generators.config import GeneratorConfig
from penstock.generators.exports import groups_of
from penstock.generators.spending import spending
from penstock.generators.transforms.config import SolveConfig, TransformConfig
from penstock.generators.verification.agreement import NAME
from penstock.pipelines.problems import gold_answer
from penstock.pipelines.transform import Transformed
from penstock.step import Silent
from penstock.transformation import check, plan, steps_of, transform

NAMES = ("Ann", "Tom", "Mary", "James", "Laura", "Peter")
THINGS = ("apples", "pencils", "marbles", "stickers")


def word_problem(rng):
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    have, more, lost = rng.randint(20, 90), rng.randint(2, 19), rng.randint(2, 19)
    text = (
        f"{name} has {have} {thing}. A friend gives {name} {more} more {thing}. "
        f"Then {name} loses {lost} {thing}. How many {thing} does {name} have now?"
    )
    return {"question": text, "answer": f"{have}+{more}-{lost}={have + more - lost}\n#### {have + more - lost}"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    rng = random.Random(3)
    rows = [word_problem(rng) for _ in range(60)]
    rows[7:7] = [{"question": " ", "answer": "3"}, {"question": "How many?", "answer": ""}, {"question": "How many?"}]
    return write(tmp_path / "problems.jsonl", rows)


def go(given, out, config=None, *, workers=0, seed=0, reporter=None, store=None, split_bytes=32 << 20):
    steps = steps_of([given], config or TransformConfig(), store=store)
    return transform(
        steps, str(out), seed=seed, workers=workers, reporter=reporter or Silent(), split_bytes=split_bytes
    )


def rows_of(made, table="problems"):
    return made.dataset.read(table).to_pylist()


def test_files_become_groups_whose_rows_say_where_they_come_from(files, tmp_path):
    made = go(files, tmp_path / "out")
    problems = Dataset(tmp_path / "out" / "problems")
    assert problems.manifest.counts.dropped == {"problems": {"no_answer": 2}, "source.problems": {"empty_text": 1}}
    assert problems.manifest.counts.kept == 60
    groups = list(groups_of(made.dataset))  # refuses singletons, gaps and empty questions
    assert len(groups) == 60
    rows = {row["problem_id"]: row for row in rows_of(made)}
    assert len(rows) == made.dataset.table("problems").rows
    for group in groups:
        original = rows[group[0]["problem_id"]]
        assert (original["variant"], original["transform"], original["parents"]) == ("original", None, [])
        assert original["answer"].isdigit()
        for row in (rows[one["problem_id"]] for one in group[1:]):
            assert row["parents"] == [row["group_id"]] == [original["problem_id"]]
            assert row["original_prompt"] == original["prompt"] != row["prompt"]
            assert [v["check"] for v in row["verdicts"]] == ["structural", "order", "rename", "alignment"]
            assert all(v["passed"] for v in row["verdicts"])
            assert json.loads(row["provenance"])["transform"] == row["transform"]
        assert len({one["variant"] for one in group}) == len(group) == 4
    stats = made.dataset.manifest.stats
    assert stats["sizes"] == {"4": 60}
    assert sum(stats["kinds"].values()) == 180
    assert stats["kinds"] == dict(Counter(row["variant"] for row in rows.values() if row["variant"] != "original"))


def test_counts_balance_and_what_was_stopped_is_in_dropped_with_its_check(files, tmp_path):
    # a band that no cosine of these lies in: everything is stopped by it
    band = TransformConfig(embedding_band=(-1.0, -0.99), per_problem=1, kinds=("rename", "background"))
    made = go(files, tmp_path / "out", band)
    counts = made.dataset.manifest.counts
    assert counts.balances
    assert counts.rows_in == 60
    assert counts.kept == 0
    dropped = rows_of(made, "dropped")
    assert Counter((row["step"], row["reason"]) for row in dropped) == {
        (step, why): n for step, reasons in counts.dropped.items() for why, n in reasons.items()
    }
    assert counts.dropped["originals"] == {"no_verified_variant": 60}
    stopped = [row for row in dropped if row["reason"] == "embedding_band"]
    assert len(stopped) == counts.made > 60
    assert all("cosine" in json.loads(row["detail"]) for row in stopped)
    assert "problems" not in made.dataset.manifest.tables


def test_problems_without_a_variant_are_kept_apart_where_that_is_wanted(tmp_path):
    rows = [word_problem(random.Random(1)), {"question": "Prove that it is so.", "answer": "yes"}]
    given = write(tmp_path / "p.jsonl", rows)
    config = TransformConfig(kinds=("rename",), alone="keep")
    made = go(given, tmp_path / "out", config)
    (alone,) = rows_of(made, "alone")
    assert alone["prompt"] == "Prove that it is so."
    assert alone["sub_index"] == 0
    assert len(list(groups_of(made.dataset))) == 1
    counts = made.dataset.manifest.counts
    assert counts.balances
    assert counts.kept == 3
    dropped = go(given, tmp_path / "other", TransformConfig(kinds=("rename",)))
    assert dropped.dataset.manifest.counts.dropped == {"originals": {"no_verified_variant": 1}}


def test_splits_workers_and_order_change_nothing(files, tmp_path, monkeypatch):
    whole = go(files, tmp_path / "whole")
    monkeypatch.setattr("penstock.pipelines.transform._RULE_ROWS", 7)
    cut = go(files, tmp_path / "cut", workers=2, split_bytes=2000)
    assert len(cut.dataset.table("problems").files) > 5
    assert cut.dataset.digest == whole.dataset.digest
    assert cut.dataset.manifest.stats == whole.dataset.manifest.stats
    assert go(files, tmp_path / "seed", seed=1).dataset.digest != whole.dataset.digest


def test_a_dataset_of_problems_can_be_transformed_again_and_variants_in_it_are_left_out(files, tmp_path):
    first = go(files, tmp_path / "first")
    again = go(str(tmp_path / "first"), tmp_path / "again")  # a run: its last dataset with problems
    problems = Dataset(tmp_path / "again" / "problems")
    assert problems.manifest.counts.dropped == {"problems": {"not_original": 180}}
    assert [row["prompt"] for row in rows_of(again)] == [row["prompt"] for row in rows_of(first)]
    manifest = json.loads((tmp_path / "first" / "problems" / "manifest.json").read_text())
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "manifest.json").write_text(json.dumps(manifest | {"tables": {}}))
    with pytest.raises(DatasetError, match="no dataset with problems"):
        steps_of([str(tmp_path / "none")], TransformConfig())


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("72", "72"),
        ("145.0", "145"),
        ("-3.00", "-3"),
        ("1.50", "1.50"),
        ("so 4+5=9.\n#### 1,200", "1,200"),
        (r"we get \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("The answer is yes", "The answer is yes"),
        ("  ", ""),
    ],
)
def test_an_answer_column_may_hold_a_solution(said, answer):
    assert gold_answer(said) == answer


# ── with a model ─────────────────────────────────────────────────────────────────────────────────

MODEL = GeneratorConfig(url="http://127.0.0.1:9/v1", model="scripted")


@pytest.fixture
def model(scripted, monkeypatch):
    """A model that changes questions, judges and solves them; one of its variants is another problem."""

    def rule(request):
        text = request.messages[0].content
        if "Solve the problem below" in text:
            numbers = [int(word) for word in text.replace(".", " ").split() if word.isdigit()]
            return rf"\boxed{{{numbers[0] + (-numbers[1] if 'steals' in text else numbers[1]) - numbers[2]}}}"
        if "Here are two problems" in text:
            return json.dumps({"same": True, "difference": ""})
        question = text.partition("<problem>\n")[2].partition("\n</problem>")[0]
        if "Say the problem below in other words" in text:
            wrong = "Ann" in question
            verb = "steals from" if wrong else "hands to"
            made = question.replace("A friend gives", f"A good friend {verb}")
            return json.dumps({"applies": True, "reason": "", "question": made})
        return json.dumps({"applies": False, "reason": "it does not fit", "question": ""} | more_of(request))

    made = scripted(rule)
    monkeypatch.setattr(GeneratorConfig, "resolve", lambda self: made)
    return made


def more_of(request):
    properties = json.loads(request.schema)["properties"]
    return {name: [] if name == "names" else "" for name in properties if name not in ("applies", "reason", "question")}


@pytest.fixture
def some(tmp_path):
    rng = random.Random(5)
    rows = [word_problem(rng) for _ in range(10)]
    return write(tmp_path / "some.jsonl", rows), sum("Ann" in row["question"] for row in rows)


ASKING = TransformConfig(
    rules=False, model=MODEL, checks=(), judge=True, solve=SolveConfig(samples=2), kinds=("paraphrase", "term")
)


def test_a_planted_mistransform_of_a_model_never_joins_a_group(model, some, tmp_path):
    given, wrong = some
    assert 0 < wrong < 10
    made = go(given, tmp_path / "out", ASKING, store=str(tmp_path / "kept.sqlite"))
    counts = made.dataset.manifest.counts
    assert counts.balances
    assert counts.dropped == {"model_paraphrase": {NAME: wrong}, "originals": {"no_verified_variant": wrong}}
    groups = list(groups_of(made.dataset))
    assert len(groups) == 10 - wrong
    assert not any("steals" in row["prompt"] for group in groups for row in group)
    stopped = [row for row in rows_of(made, "dropped") if row["reason"] == NAME]
    assert {json.loads(row["detail"])["accuracy"] for row in stopped} == {0.0}
    variant = next(row for row in rows_of(made) if row["variant"] == "paraphrase")
    assert [v["check"] for v in variant["verdicts"]] == ["judge", NAME]
    stats = made.dataset.manifest.stats
    assert stats["shift"] == {"paraphrase": {"pairs": 10 - wrong, "shift": 0.0}}
    assert stats["transforms"]["model_term"]["not_applicable"] == {"the model says so": 10}
    ((name, took),) = spending(made.root)["transformed"].items()
    assert took["asked"] == len(model.asked)
    assert name == "scripted"


def test_a_build_that_is_done_again_asks_nothing_twice(model, some, tmp_path):
    given, _ = some
    store = str(tmp_path / "kept.sqlite")
    first = go(given, tmp_path / "one", ASKING, store=store)
    asked = len(model.asked)
    second = go(given, tmp_path / "two", ASKING, store=store)
    assert len(model.asked) == asked
    assert second.dataset.digest == first.dataset.digest
    assert go(given, tmp_path / "two", ASKING, store=store).steps[-1].skipped
    assert not check(steps_of([given], ASKING, store=store), str(tmp_path / "three"))[0].skip


def test_a_build_that_was_killed_goes_on_from_where_it_was(model, some, tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.pipelines.transform._MODEL_ROWS", 3)
    given, _ = some
    whole = go(given, tmp_path / "whole", ASKING, store=str(tmp_path / "other.sqlite"))
    wanted, rule = len(model.asked), model.rule
    model.asked.clear()

    def killed(request):
        if len(model.asked) > wanted // 2:
            raise KeyboardInterrupt
        return rule(request)

    model.rule = killed
    store = str(tmp_path / "kept.sqlite")
    with pytest.raises(KeyboardInterrupt):
        go(given, tmp_path / "out", ASKING, store=store)
    model.rule = rule
    before = len(model.asked)
    made = go(given, tmp_path / "out", ASKING, store=store)
    assert made.dataset.digest == whole.dataset.digest
    assert made.dataset.manifest.stats == whole.dataset.manifest.stats
    # only the call that was in flight when it was killed is asked again
    assert 0 <= len(model.asked) - wanted < before


def test_a_spent_budget_commits_what_was_verified_and_a_larger_one_goes_on(model, some, tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.pipelines.transform._MODEL_ROWS", 2)
    given, _ = some
    store = str(tmp_path / "kept.sqlite")
    said = []

    class Listening(Silent):
        def warn(self, message):
            said.append(message)

    config = TransformConfig(
        rules=False, model=MODEL, checks=(), judge=True, kinds=("paraphrase",), budget=Budget(max_requests=12)
    )
    made = go(given, tmp_path / "out", config, store=store, reporter=Listening())
    assert len(model.asked) == 12
    assert len(said) == 1
    assert "what was verified before is kept" in said[0]
    counts = made.dataset.manifest.counts
    assert counts.balances
    # two problems a split ask 2 + 4 requests: two splits are whole
    assert len(list(groups_of(made.dataset))) == 4
    assert counts.dropped["originals"] == {"budget": 6}
    assert list(made.dataset.manifest.stats["stopped"])
    more = TransformConfig(
        rules=False, model=MODEL, checks=(), judge=True, kinds=("paraphrase",), budget=Budget(max_requests=18)
    )
    whole = go(given, tmp_path / "out", more, store=store)
    assert len(model.asked) == 30
    assert len(list(groups_of(whole.dataset))) == 10


def test_rules_and_a_model_make_one_group(model, some, tmp_path):
    given, _ = some
    config = TransformConfig(model=MODEL, kinds=("paraphrase", "rename"), per_problem=4, solve=SolveConfig(samples=1))
    made = go(given, tmp_path / "out", config)
    names = Counter(row["transform"] for row in rows_of(made))
    assert names["rename_names"] > 0
    assert names["model_paraphrase"] + names["paraphrase"] > 0
    assert made.dataset.manifest.counts.balances


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("translate",)}, "kinds: got 'translate'"),
        ({"kinds": ()}, "kinds: got none"),
        ({"kinds": ("rename", "rename")}, "kinds: got one twice"),
        ({"per_problem": 0}, "per_problem: got 0"),
        ({"rules": False}, "rules: got false without a model"),
        ({"judge": True}, "judge: got it without a model to ask"),
        ({"solve": {"samples": 4}}, "solve: got it without a model to ask"),
        ({"solve": {"samples": 0}}, "solve: got samples 0"),
        ({"solve": {"band": [0.9, 0.1]}}, r"solve.band: got 0.9 to 0.1"),
        ({"embedding_band": [0.5, 1.5]}, "embedding_band: got 0.5 to 1.5"),
        ({"checks": ("magic",)}, "checks: got 'magic'"),
        ({"checks": ()}, "checks: got none"),
        ({"alone": "burn"}, "alone"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"colour": 1}, "unknown key colour"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan(settings)


def test_overrides_reach_nested_settings():
    config, embed = plan(
        {"solve": {"samples": 2}, "model": {"path": "m"}}, ("solve.band=[0.2, 0.9]", "embed.characters=99")
    )
    assert config.solve == SolveConfig(samples=2, band=(0.2, 0.9))
    assert embed.characters == 99


def test_an_embedding_band_and_its_embedder_go_together():
    for config, embedder in ((TransformConfig(embedding_band=(0.1, 0.9)), None), (TransformConfig(), "embedder")):
        with pytest.raises(ConfigError, match="allowed both or neither"):
            Transformed("t", "problems", config, embedder=embedder)


def test_input_without_problems_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="got nothing to transform"):
        steps_of([], TransformConfig())
    with pytest.raises(ConfigError, match="got 'q' as column of question and answer"):
        steps_of(["x.jsonl"], TransformConfig(), question="q", answer="q")
    empty = write(tmp_path / "e.jsonl", [{"question": "How many?", "answer": ""}] * 2)
    with pytest.raises(ConfigError, match=r"got no problem with a question and an answer \(no_answer 2\)"):
        go(empty, tmp_path / "out")
