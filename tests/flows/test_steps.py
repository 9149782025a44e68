"""The run as a Prefect flow: real servers for what Prefect keeps and shows, plain calls for the rest."""

import importlib.util
import json
import os
import shutil
import signal

import psutil
import pytest

from penstock.errors import MissingExtraError, PenstockError
from penstock.flows.environment import prepare_environment
from penstock.flows.server import Server
from penstock.recipe import Recipe
from penstock.run import run

NOTE = "starting Prefect's server (the first start takes longer; --plain does without)"


@pytest.fixture(scope="module")
def flow(finished, home, tmp_path_factory):
    """(folder, exit code, stdout, stderr) of a run by the command line that builds one step anew in two workers."""
    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("a flow (1)")
    shutil.copytree(base / "run", folder / "run", ignore=shutil.ignore_patterns(".lock", ".holder.json"))
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    shutil.rmtree(folder / "run" / "documents")
    options = ("--out", folder / "run", "--workers", "2", "--split-mb", "0.03")
    return folder, *home.run("run", folder / "recipe.yaml", *options)


READ = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    flows = client.read_flow_runs()
    tasks = client.read_task_runs()
    artifacts = client.read_artifacts()
print("READ" + json.dumps({
    "flows": [[f.name, f.state_name] for f in flows],
    "tasks": [[t.name, t.state_name] for t in tasks],
    "artifacts": {a.key: [a.type, a.data] for a in artifacts},
}))
"""


@pytest.mark.slow
@pytest.mark.server
def test_a_flow_leaves_its_terminal_quiet_and_its_home_alone(flow, home, finished):
    folder, code, out, err = flow
    assert code == 0
    names = [r.step.name for r in finished[2].steps]
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[2:-2]] == [
        [name, "built" if name == "documents" else "skipped"] for name in names
    ]
    assert lines[-1] == f"report: {folder}/run/report.html"
    told = err.splitlines()
    assert told[:2] == [NOTE, "documents  not built yet"]
    assert told[2].split()[2:6] == ["kept", "228,", "dropped", "15"]
    assert told[3:] == [f"{name}  up to date" for name in names[1:]]
    assert (home.prefect / "prefect.db").exists()
    assert not (home.folder / ".prefect").exists()


@pytest.mark.slow
@pytest.mark.server
def test_artifacts_of_a_flow_are_read_back_through_prefect_s_own_client(flow, home, finished):
    folder = flow[0]
    code, out, err = home.run(code=READ, PREFECT_HOME=str(home.prefect), PREFECT_SERVER_ANALYTICS_ENABLED="false")
    assert code == 0, err
    found = json.loads(out.partition("READ")[2])
    assert found["flows"] == [["small", "Completed"]]
    names = [r.step.name for r in finished[2].steps]
    assert sorted(found["tasks"]) == sorted([name, "Completed"] for name in (*names, "report"))
    steps = json.loads(found["artifacts"]["steps"][1])
    assert [row["step"] for row in steps] == names
    assert steps[0] | {"seconds": 0} == {
        "step": "documents",
        "status": "built",
        "in": 243,
        "made": 0,
        "kept": 228,
        "dropped": 15,
        "seconds": 0,
        "digest": finished[2].steps[0].manifest.digest[:8],
    }
    assert {row["status"] for row in steps[1:]} == {"skipped"}
    reasons = json.loads(found["artifacts"]["drop-reasons"][1])
    assert {"step": "documents", "work": "source.files", "reason": "invalid_json", "rows": 3} in reasons
    assert sum(row["rows"] for row in reasons) == sum(row["dropped"] for row in steps)
    assert found["artifacts"]["progress"] == ["progress", 100]
    kind, link = found["artifacts"]["report"]
    assert (kind, link) == ("markdown", f"[report.html]({(folder / 'run' / 'report.html').as_uri()})")
    assert not (home.folder / ".prefect").exists()


@pytest.mark.slow
@pytest.mark.server
def test_a_step_that_fails_is_our_one_line_and_not_prefect_s_traceback(copy, flow, home):
    root, recipe = copy
    code, out, err = home.run(
        "run", recipe, "--out", root, "--workers", "0", "--set", "quality.positive.domains=[nowhere]"
    )
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[-1].startswith("penstock: quality.positive: got 0 training documents")
    assert len([line for line in lines if line.startswith("penstock: ")]) == 1
    assert "Traceback" not in err
    assert "Prefect" not in err.replace(NOTE, "")


@pytest.mark.slow
@pytest.mark.server
def test_ctrl_c_in_a_flow_is_our_one_line_and_stops_the_server(copy, flow, home, command):
    root, recipe = copy
    shutil.rmtree(root / "documents")
    slow = command.replace(
        "from penstock.cli", "import time, penstock.run as r; r.run_step = lambda *a: time.sleep(60); from penstock.cli"
    )
    slow = slow.replace("time.sleep(60)", "(print('in a step', file=sys.stderr, flush=True), time.sleep(60))")
    process = home.start("run", recipe, "--out", root, code=slow)
    head = []
    for line in process.stderr:
        head.append(line.strip())
        if head[-1] == "in a step":
            break
    servers = [p for p in psutil.Process(process.pid).children() if "penstock.flows.server" in " ".join(p.cmdline())]
    assert len(servers) == 1
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert head == [NOTE, "in a step"]
    assert err == "penstock: interrupted; what is done is kept, run the same command again to resume\n"
    assert psutil.wait_procs(servers, timeout=60)[1] == []


@pytest.mark.server
def test_the_user_s_own_api_is_used_and_a_dead_one_is_our_one_line(copy, tmp_path, home_in):
    root, recipe = copy
    os.unlink(root / "selection-2" / "manifest.json")
    home = home_in(tmp_path)
    code, out, err = home.run(
        "run", recipe, "--out", root, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="0"
    )
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("penstock: Prefect failed (")
    assert line.endswith("what is done is kept: run again to resume, with --plain to leave Prefect out")
    assert not (home.prefect / "server.log").exists()
    assert not (home.folder / ".prefect").exists()


@pytest.mark.server
def test_a_server_that_cannot_start_names_its_log_and_the_way_without(tmp_path, monkeypatch):
    for name, value in {"PREFECT_HOME": str(tmp_path), "DO_NOT_TRACK": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "prefect.db").write_text("this is no database " * 100)
    server = Server(tmp_path)
    with pytest.raises(PenstockError, match=rf"exit code 3 .*{tmp_path}/server\.log.*--plain"):
        server.wait()
    assert "file is not a database" in (tmp_path / "server.log").read_text()


@pytest.mark.slow
@pytest.mark.server
def test_a_killed_parent_takes_its_server_along(flow, home):
    code = (
        "import os, sys; from pathlib import Path; from penstock.flows.server import Server\n"
        "server = Server(Path(sys.argv[1])); print(server._process.pid, flush=True)\n"
        "server.wait(); os.kill(os.getpid(), 9)"
    )
    process = home.start(home.prefect, code=code, PREFECT_HOME=str(home.prefect), DO_NOT_TRACK="1")
    server = psutil.Process(int(process.stdout.readline()))
    assert process.wait(180) == -signal.SIGKILL
    assert psutil.wait_procs([server], timeout=60)[1] == []


def test_without_prefect_the_command_and_the_way_without_are_named(copy, monkeypatch):
    root, recipe = copy
    os.unlink(root / "selection-2" / "manifest.json")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "prefect" else real(name, *a))
    with pytest.raises(MissingExtraError, match=r"pip install 'penstock\[flows\]', or leave Prefect out with --plain"):
        run(Recipe.load(recipe), out=str(root), workers=0, flow=True)
    assert all(r.skipped for r in run(Recipe.load(recipe), out=str(root), workers=0).steps if "2" not in r.step.name)


def test_nothing_to_do_needs_no_prefect(copy, monkeypatch):
    root, recipe = copy
    monkeypatch.setattr("penstock.flows.steps.run_as_flow", lambda *_: pytest.fail("a flow was started"))
    assert all(r.skipped for r in run(Recipe.load(recipe), out=str(root), workers=0, flow=True).steps)


NAMES = ("PREFECT_HOME", "PREFECT_RESULTS_LOCAL_STORAGE_PATH", "PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK")


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in (*NAMES, "PREFECT_LOGGING_INTERNAL_LEVEL"):
        monkeypatch.setenv(name, "")  # so that it is restored after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return monkeypatch


def test_prefect_gets_a_home_of_ours_without_analytics(clean, tmp_path):
    home = tmp_path / "penstock" / "prefect"
    assert prepare_environment() == home
    assert home.is_dir()
    assert [os.environ[n] for n in NAMES] == [str(home), str(home / "storage"), "false", "1"]


def test_a_home_that_the_user_named_stays(clean, tmp_path):
    clean.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    clean.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    assert prepare_environment() == tmp_path / "mine"
    assert [os.environ[n] for n in NAMES] == [str(tmp_path / "mine"), str(tmp_path / "mine" / "storage"), "true", "1"]
