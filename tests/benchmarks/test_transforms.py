"""The benchmark of transforms on a few problems of its own making, and what it refuses."""

import gzip
import json

import pytest

from benchmarks.harness import BenchmarkError, Options
from benchmarks.transform_problems import problems, solve
from benchmarks.transforms import gsm8k, measure_set, svamp
from benchmarks.transforms import measure as measure_all


@pytest.fixture
def data(tmp_path):
    for name, rows in (
        ("gsm8k/test", [{"question": "How many?", "answer": "5 + 2 = 7\n#### 7"}]),
        ("svamp/test", [
            {"Body": "If Ann has 2 plums", "Question": "How many plums has Ann?", "Answer": 2.0, "Equation": "2.0"},
            {"Body": "Ann has 2.", "Question": "How many halves?", "Answer": 0.5, "Equation": "( 1.0 / 2.0 )"},
        ]),
    ):  # fmt: skip
        path = tmp_path / "math" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True)
        with gzip.open(path, "wt") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def test_problems_are_read_as_their_sets_write_them(data):
    assert [(p.prompt, p.answer) for p in gsm8k(data, "test")] == [("How many?", "7")]
    found = svamp(data)
    assert [p.prompt for p in found] == ["If Ann has 2 plums, how many plums has Ann?", "Ann has 2. How many halves?"]
    assert [(p.answer, p.provenance["equation"]) for p in found] == [("2", "2.0"), ("0.5", "( 1.0 / 2.0 )")]


def test_a_folder_without_the_sets_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="--data: got none; give a folder"):
        measure_all(Options())
    with pytest.raises(BenchmarkError, match=r"where math/gsm8k/test\.jsonl\.gz is not"):
        measure_all(Options(data=tmp_path))


def test_bars_come_from_what_was_counted():
    result = measure_set("forms", problems(12, seed=5, told=True))
    bars = {bar.name: bar for bar in result.bars}
    assert bars["forms: share of problems with two kinds"].value == 1
    assert bars["forms: share of these caught"].value == 1
    planted = sum(row["items"] for row in result.rows if row["what"].endswith("caught"))
    assert 0 < bars["forms: faults of the five named kinds"].value < planted


def test_the_solver_reads_the_text_it_is_given_and_nothing_else():
    for problem in problems(48, seed=6):
        assert solve(problem.prompt) == problem.answer
    assert solve("Ann has 5 plums. Ida has 3 fewer plums than Ann. How many plums do they have in total?") == "7"
    assert solve("Ann has 5 plums. Ida has 3 more plums than Ann. How many plums do they have in total?") == "13"
    assert solve("Ann has 5 plums. How many plums do they have in total?") is None
    assert solve("What is 2 + 3?\nOptions:\nA) 6\nB) 5") == "B"
    assert solve("What is 2 + 3?\nOptions:\nA) 6\nB) 7") is None
