"""Bars, ratios, alternation, peers and the files that benchmarks write."""

import json
import signal
import subprocess
import sys

import pytest

from benchmarks import harness
from benchmarks.harness import Bar, BenchmarkError, Result


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("value", "op", "want", "holds"),
    [
        (10.0, ">=", 10.0, True),
        (9.99, ">=", 10.0, False),
        (10.0, ">", 10.0, False),
        (0.2, "<", 0.2, False),
        (0.2, "<=", 0.2, True),
        (None, "<", 0.2, None),
    ],
)
def test_a_bar_holds_as_its_operator_says_and_one_not_measured_does_neither(value, op, want, holds):
    assert Bar(name="b", value=value, op=op, want=want).holds is holds


def test_a_bar_refuses_an_operator_it_does_not_know():
    with pytest.raises(BenchmarkError, match="got '=>', allowed <, <=, >, >="):
        Bar(name="b", value=1.0, op="=>", want=1.0)


def test_only_measured_bars_that_do_not_hold_fail_a_result():
    bars = [Bar(name=n, value=v, op="<", want=1.0) for n, v in (("low", 0.5), ("none", None), ("high", 2.0))]
    assert [bar.name for bar in Result(bars=bars).failed] == ["high"]
    assert [bar.verdict for bar in bars] == ["holds", "not measured", "FAILS"]


def test_sides_run_in_turn_and_keep_their_own_answers():
    order = []

    def side(name):
        order.append(name)
        return len(order)

    found = harness.alternate({"a": lambda: side("a"), "b": lambda: side("b")}, 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_a_ratio_is_of_medians_and_its_range_is_of_the_pairs():
    # medians 4 and 2; pairs 1/1, 4/2, 90/3
    assert harness.ratio([1.0, 4.0, 90.0], [1.0, 2.0, 3.0]) == harness.Ratio(median=2.0, least=1.0, most=30.0)


def test_a_row_has_the_median_and_the_range():
    assert harness.row("speed", [3.0, 1.0, 2.0, 10.0], "MB/s", side="ours") == {
        "what": "speed",
        "median": 2.5,
        "min": 1.0,
        "max": 10.0,
        "unit": "MB/s",
        "repeats": 4,
        "side": "ours",
    }


def test_the_last_line_a_process_prints_is_its_answer(tmp_path):
    script = tmp_path / "side.py"
    script.write_text("print('warming up'); print('{\"seconds\": 1.5}')")
    assert harness.run_json([sys.executable, script]) == {"seconds": 1.5}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('{}'); sys.exit('no such corpus')", "exit code 1: no such corpus"),
        ("print('done')", "its last line is not JSON"),
        ("pass", "its last line is not JSON"),
        ("print('[1]')", "JSON but no object"),
    ],
)
def test_a_process_that_fails_or_answers_nonsense_is_an_error_of_one_line(code, message):
    with pytest.raises(BenchmarkError, match=message) as caught:
        harness.run_json([sys.executable, "-c", code])
    assert "\n" not in str(caught.value)


def test_a_missing_peer_says_what_to_run_and_a_quick_run_goes_on_without(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PEERS", tmp_path)
    with pytest.raises(BenchmarkError, match="run: make bench"):
        harness.peer("other", quick=False)
    assert harness.peer("other", quick=True) is None
    python = tmp_path / "venv-other" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert harness.peer("other", quick=True) is None, "an installation that did not finish is no peer"
    (tmp_path / "venv-other" / ".installed").touch()
    assert harness.peer("other", quick=False) == python


def test_the_json_has_the_fields_that_readers_rely_on(tmp_path):
    result = Result(
        rows=[harness.row("speed", [2.0], "MB/s")],
        bars=[Bar(name="fast", value=2.0, op=">=", want=1.0), Bar(name="faster", value=None, op=">=", want=3.0)],
        versions={"python": "3.11"},
    )
    path = harness.write("demo", "What it shows.", result, quick=True, folder=tmp_path / "results")
    assert path == tmp_path / "results" / "demo.json"
    found = json.loads(path.read_text())
    assert list(found) == ["name", "about", "quick", "machine", "versions", "rows", "bars"]
    assert found["bars"] == [
        {"name": "fast", "value": 2.0, "want": 1.0, "op": ">=", "holds": True},
        {"name": "faster", "value": None, "want": 3.0, "op": ">=", "holds": None},
    ]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gb"] > 0


def test_the_report_shows_bars_rows_and_what_was_not_measured():
    result = Result(
        rows=[{"what": "a|b", "MB": 1234.5}, {"what": "c", "seconds": 0.25}],
        bars=[Bar(name="fast", value=None, op="<", want=0.5)],
        versions={"python": "3.11"},
    )
    text = harness.markdown([result.to_json("demo", "What it shows.", quick=True)])
    assert "## demo\n\nWhat it shows.\n\nA quick run" in text
    assert "| fast | not measured | < 0.5 | not measured |" in text
    assert "| what | MB | seconds |\n| --- | --- | --- |\n| a\\|b | 1,234 |  |\n| c |  | 0.25 |" in text


def test_the_tables_are_printed(capsys):
    bars = [Bar(name="fast", value=2.0, op=">=", want=1.0)]
    harness.show("demo", Result(rows=[harness.row("speed", [2.0], "MB/s")], bars=bars))
    printed = capsys.readouterr().out
    assert "speed" in printed
    assert "holds" in printed


@pytest.mark.parametrize(
    ("measured", "code"),
    [
        (Result(bars=[Bar(name="b", value=1.0, op=">", want=0.0)]), 0),
        (Result(bars=[Bar(name="b", value=None, op=">", want=0.0)]), 0),
        (Result(bars=[Bar(name="b", value=-1.0, op=">", want=0.0)]), 1),
        (BenchmarkError("run: make bench"), 2),
    ],
)
def test_the_exit_code_says_whether_the_bars_hold(measured, code, tmp_path, monkeypatch, capsys):
    asked = []

    def measure(options):
        asked.append(options)
        if isinstance(measured, BenchmarkError):
            raise measured
        return measured

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--quick", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        harness.main("demo", "About.\n\nMore.", measure)
    assert left.value.code == code
    assert asked == [harness.Options(quick=True, data=tmp_path)]
    assert (tmp_path / "demo.json").exists() == (code != 2)
    if code == 2:
        assert capsys.readouterr().err == "benchmarks.demo: run: make bench\n"


def test_a_data_folder_that_is_none_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--data", str(tmp_path / "absent")])
    with pytest.raises(SystemExit):
        harness.main("demo", "About.", lambda options: Result())
    assert "--data: got" in capsys.readouterr().err


def test_a_terminated_benchmark_removes_its_temporary_folder(tmp_path):
    code = f"""
import sys, tempfile, time
sys.path.insert(0, {str(harness.ROOT)!r})
from benchmarks import harness

def measure(options):
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        print("measuring", flush=True)
        time.sleep(60)

harness.main("demo", "About.", measure)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "measuring\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        assert process.wait(30) == 143
    assert list(tmp_path.iterdir()) == []
