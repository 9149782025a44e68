"""Questions, arms and figures of ``benchmarks.ta_grpo``, and one small run of it from end to end."""

import dataclasses
import json
import re
from operator import add, floordiv, mul, sub

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import ta_grpo, ta_grpo_arms, ta_grpo_model
from benchmarks.harness import BenchmarkError
from benchmarks.small_lm import Job
from benchmarks.ta_grpo_problems import FAMILIES, HELD_OUT, TRAINED, apart, made, planted, worked
from benchmarks.transform_problems import solve
from penstock.generators.transforms.base import Problem
from penstock.generators.verification.answers import final_answer
from penstock.training.group_rl.problems import ProblemTable


@pytest.fixture(scope="module")
def groups():
    return made(15, "test", TRAINED)


def test_groups_have_a_phrasing_of_each_kind_and_an_answer_worked_to_the_end(groups):
    assert [sum(group.family == family for group in groups) for family in FAMILIES] == [3] * 5
    assert len({group.problem.prompt for group in groups}) == 15
    for group in groups:
        assert tuple(one.transform for one in group.phrasings) == TRAINED
        assert final_answer(group.problem.solution).text == group.problem.answer
        for line in group.problem.solution.split(". ")[:-1]:
            a, sign, b, right = re.fullmatch(r"(\d+)(\D)(\d+)=(\d+)", line).groups()
            assert {"+": add, "-": sub, "*": mul, "/": floordiv}[sign](int(a), int(b)) == int(right)
        for one in group.phrasings:
            assert one.prompt != group.problem.prompt
            assert solve(one.prompt) == group.problem.answer


def test_a_working_that_does_not_reach_the_answer_is_refused():
    problem = Problem(problem_id="p", prompt="Ann has 5 plums. Ida has 3 fewer plums than Ann.", answer="7")
    assert worked(problem, "comparison") == "5-3=2. 5+2=7. #### 7"
    with pytest.raises(BenchmarkError, match="worked to 5/3, its answer is 7"):
        worked(problem, "sharing")


def test_faults_stand_in_the_share_asked_for_and_change_the_answer_of_the_text_alone(groups):
    spoilt = planted(groups, 0.2, seed=3)
    assert sum(len(group.faulty) for group in spoilt) == round(0.2 * 45)
    for clean, group in zip(groups, spoilt, strict=True):
        assert group.problem == clean.problem
        for place, one in enumerate(group.phrasings):
            assert one.answer == clean.problem.answer
            assert (solve(one.prompt) == clean.problem.answer) == (place not in group.faulty)
    assert planted(groups, 0.2, seed=3) == spoilt
    assert planted(groups, 0.2, seed=4) != spoilt
    assert planted(groups, 0.0, seed=3) == groups


def test_held_out_questions_are_none_that_is_trained_on_and_every_phrasing_is_asked_alone(groups):
    held = made(5, "test, held", (*TRAINED, *HELD_OUT), least=4)
    assert apart([*held, groups[0]], groups) == held
    asked = ta_grpo_arms.sets_of(held)
    assert set(asked) == {"original", *TRAINED, *HELD_OUT}
    for rows in asked.values():
        assert len(ProblemTable.of(rows).groups) == len(rows)
    table = ProblemTable.of(ta_grpo_arms.rows_of(groups))
    assert [len(places) for places in table.groups] == [4] * 15


def test_arms_have_equal_rollouts_and_differ_in_who_is_asked_and_what_shares_a_mean_alone():
    settings = ta_grpo_arms.Settings()
    configs = {arm: settings.config(arm, 0, 1e-4) for arm in ta_grpo_arms.ARMS}
    assert {one.rollouts * (4 if one.phrasings == "all" else 1) for one in configs.values()} == {16}
    assert [arm for arm, one in configs.items() if one.settled("pool") == "group"] == ["pooled"]
    same = {"objective": "grpo", "phrasings": "one", "rollouts": 16, "pool": "problem"}
    assert len({str(dataclasses.replace(one, **same)) for one in configs.values()}) == 1
    assert {(one.settled("scale"), one.settled("clip_high")) for one in configs.values()} == {("std", 0.2)}


def test_only_the_answer_and_its_end_are_learned():
    tokens, learned = ta_grpo_model.batch([([5, 6, 7], [8, 9]), ([5], [8])], 1, 2)
    found = sorted((row.tolist(), keep.tolist()) for row, keep in zip(tokens, learned, strict=True))
    assert found == [
        ([5, 6, 7, 8, 9, 0], [False, False, False, True, True, True]),
        ([5, 8, 0, 1, 1, 1], [False, True, True, False, False, False]),
    ]


def made_up(right):
    """A run's figures; ``right`` of all questions."""
    passed = {
        name: {k: right for k in ("1", "32")} for name in ("original", *TRAINED, *HELD_OUT, ta_grpo_arms.PHRASINGS)
    }
    flat = {"zero_gradient": 1 - right, "all_zero": 0.1, "all_one": 0.1, "mixed": right}
    return {"pass": passed, "of rollouts": flat, "reward": right, "last reward": right, "unknown": 0.0}


def test_bars_say_who_is_above_whom_and_by_how_many_errors(monkeypatch):
    monkeypatch.setattr(ta_grpo, "KS", (1, 32))
    means = {"original": 0.3, "unpooled": 0.4, "pooled": 0.5, "small groups": 0.2}
    done = {
        Job(ta_grpo_arms.CLEAN, arm, seed): made_up(mean + (0.01 if arm == "pooled" else 0.02) * seed)
        for arm, mean in means.items()
        for seed in (0, 1, 2)
    }
    done |= {Job(ta_grpo_arms.POLICY, "none", seed): made_up(0.2) for seed in (0, 1, 2)}
    swept = {
        Job(ta_grpo_arms.SWEEP, rate, 100): made_up(right) for rate, right in (("0.1", 0.2), ("0.2", 0.4), ("0.3", 0.3))
    }
    assert ta_grpo.chosen_rate(swept) == 0.2
    settings = dataclasses.replace(ta_grpo_arms.Settings(), faults=(0,))
    result = ta_grpo.result_of(swept, done, {}, settings, quick=False)
    bars = {bar.name: bar for bar in result.bars}
    # 0.1, 0.09 and 0.08 apart
    assert bars["pass@1 of held-out phrasings, pooled above unpooled"].value == pytest.approx(0.09 / (0.01 / 3**0.5))
    assert bars["pass@32 of held-out phrasings, pooled above original"].holds
    assert bars["fewer rollouts without gradient, pooled than unpooled"].value == pytest.approx(0.09 / (0.01 / 3**0.5))
    rows = {row["what"]: row["mean"] for row in result.rows}
    assert rows["faults 0 %, pooled - original: pass@1 of originals"] == pytest.approx(0.19)
    assert rows["pool without gradient more often than: average phrasing, equal answers"] == 0
    assert 0.1 < rows["pool without gradient more often than: original, equal answers"] < 0.13


def test_the_pull_of_faults_is_their_share_of_the_advantages(tmp_path):
    def rows(fault):
        return [
            {
                "problem_id": f"{group}/{place}",
                "prompt": f"{group} {place}{fault if (group, place) == ('a', 1) else ''}",
            }
            for group in "ab"
            for place in (0, 1)
        ]

    for setting, fault in ((ta_grpo_arms.CLEAN, ""), ("faults 25", "!")):
        (tmp_path / ta_grpo_arms.train_file(setting, 0)).write_text(json.dumps(rows(fault)))
    job = Job("faults 25", "pooled", 0)
    folder = tmp_path / "runs" / "faults_25-pooled-0" / "rollouts"
    folder.mkdir(parents=True)
    told = [
        # step, problem, group, advantage, reward; in the second step the faulty phrasing is not asked
        (1, "a/0", "a", 1.5, 1.0), (1, "a/1", "a", -1.0, 0.0), (1, "a/1", "a", -0.5, 0.0), (1, "b/0", "b", 0.5, 1.0),
        (1, "b/1", "b", -0.5, None), (2, "a/0", "a", 0.9, 1.0), (2, "a/0", "a", -0.1, 0.0), (2, "b/1", "b", 0.0, 1.0),
    ]  # fmt: skip
    names = ("step", "problem_id", "group_id", "advantage", "reward")
    for step in (1, 2):
        some = [dict(zip(names, row, strict=True)) for row in told if row[0] == step]
        pq.write_table(pa.Table.from_pylist(some), folder / f"step-{step:08d}.parquet")
    found = ta_grpo_arms.pull_of_faults(tmp_path, job)
    assert found == {
        "rollouts": pytest.approx(2 / 8),
        "pull": pytest.approx(1.5 / 5.0),
        "right": pytest.approx(1.5),
        "right elsewhere": pytest.approx((0.5 + 0.9 + 0.0) / 3),
    }


def test_a_small_run_learns_and_is_measured(tmp_path):
    settings = dataclasses.replace(ta_grpo_arms.QUICK, faults=(0,))
    ta_grpo_arms.prepare(tmp_path, settings)
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"runs": dataclasses.asdict(settings)}}))
    policy = ta_grpo_model.fit(settings.fit, tmp_path / "policy")
    (tmp_path / "policy.json").write_text(json.dumps(str(policy)))
    (tmp_path / "rate.json").write_text("0.001")
    found = ta_grpo_arms.work(tmp_path, Job(ta_grpo_arms.CLEAN, "pooled", 0))
    assert found["answers"] == 2 * 2 * 4 * 2  # steps, questions, phrasings, answers
    assert set(found["pass"]) == {"original", *HELD_OUT, ta_grpo_arms.PHRASINGS}
    shares = found["of rollouts"]
    assert shares["zero_gradient"] == pytest.approx(shares["all_zero"] + shares["all_one"])
    assert found["rate"] == 0.001
