"""``penstock transform``: files in, groups and rows for a trainer out."""

from __future__ import annotations

import json
import re

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.dataset import Dataset
from penstock.errors import ConfigError

ROWS = [
    {"q": f"Tom has {n} pencils and buys {n + 3} more pencils. How many pencils does Tom have?", "a": 2 * n + 3}
    for n in range(20, 26)
]


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def call(*words):
    found = CliRunner().invoke(app, ["transform", *map(str, words)], env={"COLUMNS": "200"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_files_become_groups_and_rows_of_a_trainer(given, tmp_path):
    options = (given, "--question", "q", "--answer", "a", "--out", tmp_path / "out", "--workers", 0)
    planned = call(*options, "--dry-run")
    assert "not built yet" in planned.stdout
    assert not (tmp_path / "out").exists()
    words = (*options, "--kinds", "rename, background", "--per-problem", 2, "--export", "verl", tmp_path / "v.parquet")
    found = call(*words)
    assert found.exit_code == 0
    assert "6 groups of 6 problems, 18 rows" in found.stdout
    assert "18 rows in 6 groups" in found.stdout
    assert Dataset(tmp_path / "out" / "transformed").table("problems").rows == 18
    rows = pq.read_table(tmp_path / "v.parquet").to_pylist()
    indices = [row["extra_info"]["index"] for row in rows]
    assert indices[::3] == indices[1::3] == indices[2::3]
    assert len({*indices}) == 6
    assert {row["reward_model"]["ground_truth"] for row in rows} == {str(row["a"]) for row in ROWS}
    assert "up to date" in call(*words, "--dry-run").stdout


@pytest.mark.server
def test_a_model_behind_a_server_writes_judges_and_solves(given, tmp_path, server, monkeypatch):
    monkeypatch.setenv("PENSTOCK_TEST_KEY", "sk-nobody-may-see-this")

    def rule(body):
        text = body["messages"][-1]["content"]
        if "Solve the problem below" in text:
            have, more = (int(word) for word in re.findall(r"\d+", text)[:2])
            said = rf"\boxed{{{have + more}}}"
        elif "Here are two problems" in text:
            said = json.dumps({"difference": "", "same": True})
        else:
            question = text.partition("<problem>\n")[2].partition("\n</problem>")[0]
            made = question.replace("buys", "then buys") + " Tell me, please, as I would like to know."
            said = json.dumps({"applies": True, "reason": "", "question": made})
        choice = {"message": {"role": "assistant", "content": said}}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}, {}

    server.rule = rule
    model = ("--url", server.url, "--model", "m", "--api-key-env", "PENSTOCK_TEST_KEY", "--store", tmp_path / "kept")
    words = (given, "--question", "q", "--answer", "a", "--out", tmp_path / "out", "--no-rules", *model)
    words = (*words, "--kinds", "paraphrase", "--set", "checks=[]", "--judge", "--solve", 2)
    found = call(*words)
    assert "6 groups of 6 problems, 12 rows" in found.stdout
    assert re.search(r"paraphrase +6 +\+0\.000", found.stdout)
    # of each problem one variant, two orders, and two solutions of it and of its original
    assert len(server.requests) == 6 * (1 + 2 + 2 + 2)
    assert "42 requests asked" in found.stdout
    verdicts = Dataset(tmp_path / "out" / "transformed").read("problems")["verdicts"].to_pylist()[1]
    assert [verdict["check"] for verdict in verdicts] == ["judge", "solve_agreement"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-nobody" not in written
    assert "sk-nobody" not in found.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--export", "csv", "x"), "--export: got 'csv', allowed trl, verl"),
        (("--band", "0.1,1"), "--band: got one without solutions"),
        (("--solve", "4", "--band", "low"), "--band: got 'low', allowed LOW,HIGH"),
        (("--kinds", "translate"), "kinds: got 'translate'"),
        (("--judge",), "judge: got it without a model to ask"),
        (("--url", "http://127.0.0.1:9/v1"), "model.model: got nothing"),
        (("--set", "solve.sample=3"), "unknown key solve.sample; did you mean samples?"),
    ],
)
def test_options_that_make_no_sense_are_refused(words, message, given, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        call(given, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()
