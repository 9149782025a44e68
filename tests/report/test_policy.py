"""What was learned from groups: from the dataset of a step to the record, the charts and the page."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET

import pyarrow as pa
import pytest

from penstock.dataset import Counts
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import splits_of
from penstock.report import charts_policy
from penstock.report.policy import SAMPLES, policy_record
from penstock.report.record import Curve, PassRecord, PolicyRecord, RunRecord
from penstock.report.render import render
from penstock.step import Settings, Silent, Step, run_step
from penstock.storage import Folder
from penstock.training.group_rl.rollouts import ROLLOUTS

STATS = {
    "objective": "nft", "model": "model-1", "parameters": 1000, "device": "cpu", "steps": 20, "skipped_steps": 0,
    "groups": 40, "problems": 120, "held_out": 4, "answers": 640, "tokens": 6400, "zero_gradient": 0.5,
    "reward": {"first": 0.1, "last": 0.6},
    "passes": {
        "variants": {
            "problems": 8, "samples": 4, "ks": [1, 4],
            "before": [0.25, None], "after": [0.5, 0.75], "error": [0.1, None],
        }
    },
}  # fmt: skip


def line(step):
    """Of metrics.jsonl; nothing was known at step 3."""
    if step == 3:
        return {"step": 3, "lr": 1e-3, "answers": 32, "reward": None, "outcomes": {"timeout": 32}}
    shares = {"zero_gradient": 0.5, "all_zero": 0.375, "all_one": 0.125, "mixed": 0.5}
    return {
        "step": step,
        "lr": 1e-3,
        "reward": step / 20,
        "reward_by_transform": {"te\u2028rm": None if step == 1 else 0.25, "original": step / 10},
        "outcomes": {"correct": step, "wrong": 32 - step},
        "groups": {"groups": 8, "of_groups": shares, "of_rollouts": dict.fromkeys(shares, 0.0)},
    }


def answer(number, step, outcome, text):
    reward = {"correct": 1.0, "wrong": 0.0}.get(outcome)
    return {
        "step": step, "problem_id": f"p{number}", "group_id": "g", "transform": "term", "question": "<b>2 + 3?",
        "text": text, "outcome": outcome, "reward": reward, "advantage": 0.0, "ended": True, "version": 1,
        "prompt": [1], "response": [2], "logprobs": [-0.5],
    }  # fmt: skip


class Learned(Step):
    """A step that learned from groups, of given answers."""

    name, revision = "policy-nft", 1

    def __init__(self, answers):
        self.answers = answers

    def config(self):
        return {}

    def build(self, context):
        def write(split, out):
            out.write("rollouts", pa.RecordBatch.from_pylist(self.answers, schema=ROLLOUTS))

        built = context.collect(context.run("write", write, splits_of([0])), "rollouts")
        written = "".join(json.dumps(line(step), ensure_ascii=False) + "\n" for step in range(1, 21)).encode()
        built.artifacts["metrics.jsonl"] = context.write_artifact("metrics.jsonl", written)
        built.counts = Counts(rows_in=124, kept=122, dropped={"policy-nft": {"too_long": 2}})
        built.stats = STATS
        return built


@pytest.fixture
def learned(tmp_path):
    """``learned(answers)``: the record of a step that sampled these."""

    def make(answers):
        root = Folder(str(tmp_path))
        manifest = run_step(Learned(answers), root, HomeEngine(0), Silent(), Settings()).manifest
        root.write_bytes("logs/policy-nft/timings.jsonl", b'{"step": 1, "seconds": 2.5}\n{"step": 2, "seconds": 1.5}\n')
        return policy_record(root, manifest)

    return make


def test_the_dataset_of_a_step_becomes_a_record(learned):
    found = learned([answer(1, 20, "correct", "5")])
    assert (found.objective, found.model, found.groups, found.held_out) == ("nft", "model-1", 40, 4)
    assert found.seconds == 4.0
    assert found.reward.steps == (1, 2, *range(4, 21))  # nothing was known at step 3
    assert found.reward.values[-1] == 1.0
    assert set(found.zero_gradient.values) == {0.5}
    assert (set(found.all_zero.values), set(found.all_one.values)) == ({0.375}, {0.125})
    # two steps are a tenth
    rows = [(row.transform, row.first, row.last) for row in found.transforms]
    assert rows == [("original", pytest.approx(0.15), pytest.approx(1.95)), ("te\u2028rm", 0.25, 0.25)]
    known = [step for step in range(1, 21) if step != 3]
    assert found.outcomes == {"correct": sum(known), "wrong": sum(32 - step for step in known), "timeout": 32}
    assert found.dropped == {"too_long": 2}
    assert found.passes == (
        PassRecord(
            name="variants",
            problems=8,
            samples=4,
            ks=(1, 4),
            before=(0.25, None),
            after=(0.5, 0.75),
            error=(0.1, None),
        ),
    )


def test_samples_are_late_answers_a_few_of_each_outcome(learned):
    early = [answer(i, 5, "wrong", f"early {i}") for i in range(9)]
    late = [answer(i, 19, "wrong", f"late {i}") for i in range(9) for _ in range(2)]  # said twice, shown once
    lost = [answer(9, 20, "timeout", "x" * 5000)]
    found = learned([*early, *late, *lost]).samples
    assert [sample.outcome for sample in found] == ["timeout"] + ["wrong"] * SAMPLES
    assert all(sample.text.startswith("late") for sample in found[1:])
    assert len({sample.text for sample in found}) == 1 + SAMPLES
    assert found[0].reward is None
    assert len(found[0].text) < 1000
    assert found == learned([*lost, *late[::-1], *early]).samples


def test_the_page_shows_the_record_and_lets_no_answer_be_markup(learned, bare):
    record = dataclasses.replace(bare, policy=learned([answer(1, 20, "correct", "<script>1</script>")]))
    assert RunRecord.from_json(record.to_json()) == record
    shown = render(record).split('<section id="learned">')[1].split("</section>")[0]
    assert "&lt;script&gt;1&lt;/script&gt;" in shown
    assert "<script" not in shown
    assert "&lt;b&gt;2 + 3?" in shown
    assert shown.count("<svg") == 3
    assert '<td class="n">–</td><td class="n">75.0 %</td><td class="n">–</td><td class="n">–</td>' in shown


def policy(**parts):
    given = dict.fromkeys(("parameters", "groups", "problems", "held_out", "answers"), 1)
    return PolicyRecord(**given, objective="grpo", model="m", device="cpu", steps=3, seconds=1.0, **parts)


def texts(svg):
    return [e.text or "" for e in ET.fromstring(svg).iter("text")]


def test_pass_at_k_has_a_line_for_each_set_and_its_name_as_text():
    of = {"problems": 1, "samples": 4, "ks": (1, 2, 4), "error": (0.0,) * 3}
    passes = [
        PassRecord(name=name, before=(0.1, 0.2, None), after=(0.2, 0.3, 0.4), **of) for name in ("originals", "<i>x")
    ]
    svg = charts_policy.pass_at_k(policy(passes=tuple(passes)))
    assert {"originals", "<i>x", "before", "after", "1", "2", "4"} <= set(texts(svg))
    lines = [e for e in ET.fromstring(svg).iter("path") if e.get("stroke-dasharray") and e.get("fill") is None]
    assert {e.get("stroke") for e in lines} >= {"var(--series-1)", "var(--series-2)"}


def test_shares_have_three_lines_and_leave_out_what_is_no_number():
    curve = Curve(steps=(1, 2, 3), values=(0.5, float("nan"), 0.25))
    svg = charts_policy.zero_gradient(policy(zero_gradient=curve, all_zero=curve, all_one=curve))
    assert {"all equal", "all 0", "all 1"} <= set(texts(svg))
    assert "NaN" not in svg
    assert "Mean reward over 3 steps" in charts_policy.reward(policy(reward=curve))
