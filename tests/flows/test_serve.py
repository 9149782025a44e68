"""`penstock serve` with its own server: runs that are triggered, refused, killed and taken up again, as an operator
would see them through Prefect's API."""

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from penstock.flows.serving import _AGAIN
from penstock.lock import FolderLock
from penstock.storage import Folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 240.0

DEPLOYMENTS = """
at_once: 4
limits: {{gpu: 1}}
deployments:
  - name: nightly
    verb: build
    recipe: {base}/recipe.yaml
    out: {base}/run
    workers: 0
    schedule: {{interval: 1d}}
    tags: [corpus]
    occupies: [gpu]
    concurrency: {{limit: 1, collision: CANCEL_NEW}}
  - {{name: anew, verb: build, recipe: {base}/recipe.yaml, out: {base}/anew, workers: 0, concurrency: null}}
  - name: weekly
    verb: train
    recipe: {base}/recipe.yaml
    out: {base}/run
    workers: 0
    retries: 0
    concurrency: null
"""


class Served:
    """A ``penstock serve`` and Prefect's client for it."""

    def __init__(self, home, base):
        self.home, self.base = home, base
        self.process = home.start(
            *("serve", base / "deployments.yaml", "--port", "0"), cwd=base, PREFECT_RUNNER_POLL_FREQUENCY="1"
        )
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line.strip())
            if line.startswith("serving ") or self.process.poll() is not None:
                break
        assert self.lines[-1].startswith("serving "), self.lines
        self.url = self.lines[-1].rpartition(" ")[2]

    def client(self):
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(f"{self.url}/api")

    def trigger(self, name, **parameters):
        with self.client() as client:
            found = client.read_deployment_by_name(name)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def wait(self, run, state):
        """The flow run, when its state has this name."""

        def reached():
            with self.client() as client:
                found = client.read_flow_run(run)
            if found.state_name == state:
                return found
            assert found.state_name not in {"Failed", "Crashed", "Completed", "Cancelled"}, found.state
            return None

        return until(reached)

    def tasks(self, run):
        """(name, state) of the run's tasks, in the order of their start."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        with self.client() as client:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        return [(task.name, task.state_name) for task in sorted(found, key=lambda t: str(t.start_time))]

    def artifacts(self, run):
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        with self.client() as client:
            found = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        return {artifact.key: (artifact.type, artifact.data) for artifact in found}

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)


def until(found):
    """What ``found()`` returns when it is something."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if it := found():
            return it
        time.sleep(0.2)
    raise AssertionError(f"not so after {SECONDS} s")


@pytest.fixture(scope="module")
def base(finished, tmp_path_factory):
    """A folder with a run that lacks its first step, its recipe, and deployments for both."""
    folder = tmp_path_factory.mktemp("serve")
    source, recipe, _ = finished
    shutil.copytree(source / "run", folder / "run", ignore=shutil.ignore_patterns(".lock", ".holder.json"))
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "deployments.yaml").write_text(DEPLOYMENTS.format(base=folder))
    shutil.rmtree(folder / "run" / "documents")
    return folder


def states(home):
    """Name and message of the last state of every flow run, read from the database of a server that is gone."""
    with sqlite3.connect(f"file:{home.prefect}/prefect.db?mode=ro", uri=True) as database:
        query = "select r.id, s.name, s.message from flow_run r join flow_run_state s on s.id = r.state_id"
        return {run.replace("-", ""): (name, message) for run, name, message in database.execute(query)}


def digests(root):
    return {m.parent.name: json.loads(m.read_text())["digest"] for m in Path(root).glob("*/manifest.json")}


@pytest.mark.slow
@pytest.mark.server
def test_runs_of_deployments_are_triggered_refused_killed_and_taken_up_again(home, base, finished, tmp_path):
    served = Served(home, base)
    try:
        refused = one_is_refused_and_one_waits(served, base, finished, tmp_path)
        killed = served.trigger("penstock-build/anew")
        until(lambda: ("documents", "Completed") in served.tasks(killed))
        served.wait(killed, "Running")
        family = served.family()
        assert len(family) == 2  # the server and the run
        for process in [psutil.Process(served.process.pid), *family]:
            process.kill()
        assert psutil.wait_procs(family, timeout=30)[1] == []
    finally:
        served.process.kill()
        served.process.wait()
    left = states(home)
    assert [left[run][0] for run in (*refused, killed.hex)] == ["Failed", "Failed", "Running"]

    whole = (base / "deployments.yaml").read_text()
    less = whole[: whole.index("  - name: weekly")].replace("    schedule: {interval: 1d}\n", "")
    (base / "deployments.yaml").write_text(less)
    served = Served(home, base)
    try:
        with served.client() as client:
            found = {d.name: (len(d.schedules), d.paused) for d in client.read_deployments()}
        assert found == {"nightly": (0, False), "anew": (0, False), "weekly": (0, True)}
        done = served.wait(killed, "Completed")
        assert done.run_count == 2
        tasks = [name for name, _ in served.tasks(killed)]
        assert tasks.count("documents") == 2
        assert tasks.count("dataset-1") == 1
        expected = {r.step.name: r.manifest.digest for r in finished[2].steps}
        made = digests(base / "anew")
        assert made == {name: expected[name] for name in made}
        assert "dataset-1" in made
        shutil.rmtree(base / "anew")
        going = served.trigger("penstock-build/anew")
        served.wait(going, "Running")
        family = served.family()
        served.process.send_signal(signal.SIGTERM)
        _, err = served.process.communicate(timeout=120)
        assert served.process.returncode == 0
        assert err.splitlines()[-1] == "stopped; a run that was going goes on at the next start"
        assert psutil.wait_procs(family, timeout=30)[1] == []
    finally:
        served.process.kill()
        served.process.wait()
    assert states(home)[going.hex] == ("AwaitingRetry", _AGAIN)
    assert not (home.folder / ".prefect").exists()


def one_is_refused_and_one_waits(served, base, finished, folder):
    """Runs that fail, by id, after one that waits for a folder in use has made there what was missing."""
    wrong = served.trigger("penstock-train/weekly", overrides=["trian.steps=3"], out=f"{base}/wrong")
    with FolderLock(Folder(f"{base}/run")):
        nightly = served.trigger("penstock-build/nightly", retries=9, retry_seconds=0.5)
        refused = served.trigger("penstock-train/weekly")
        assert "another penstock run is writing here" in served.wait(refused, "Failed").state.message
        until(lambda: ("build", "AwaitingRetry") in served.tasks(nightly))
        collides = served.trigger("penstock-build/nightly")
        assert served.wait(collides, "Cancelled").state.message == "Deployment concurrency limit reached."
    message = "--set trian.steps=3: unknown key trian; did you mean train?"
    assert served.wait(wrong, "Failed").state.message == message
    assert not (base / "wrong").exists()

    done = served.wait(nightly, "Completed")
    names = [r.step.name for r in finished[2].steps]
    names = names[: names.index("dataset-1") + 1]
    assert served.tasks(nightly) == [(name, "Completed") for name in ("build", *names, "report")]
    found = served.artifacts(nightly)
    assert set(found) == {f"nightly-{name}" for name in ("steps", "drop-reasons", "progress", "report")}
    rows = json.loads(found["nightly-steps"][1])
    assert [(row["step"], row["status"]) for row in rows] == [
        (name, "built" if name == "documents" else "skipped") for name in names
    ]
    reasons = json.loads(found["nightly-drop-reasons"][1])
    assert {"step": "documents", "work": "source.files", "reason": "invalid_json", "rows": 3} in reasons
    assert found["nightly-progress"] == ("progress", 100)
    assert found["nightly-report"][1] == f"[report.html]({(base / 'run' / 'report.html').as_uri()})"

    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

    wanted = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled"])))
    with served.client() as client:
        planned = [run.expected_start_time for run in client.read_flow_runs(flow_run_filter=wanted)]
        logs = [log.message for log in client.read_logs()]
    assert len(planned) >= 3
    assert {(time.hour, time.minute) for time in planned} == {(0, 0)}
    assert any(line.startswith("documents: not built yet") for line in logs)
    if CHROMIUM is not None:
        shown = browse(f"{served.url}/runs/flow-run/{nightly}", folder)
        assert all(word in shown for word in (done.name, "nightly", "Completed", "penstock-build"))
    return wrong.hex, refused.hex


def browse(address, folder):
    """The text of a page after its scripts ran."""
    switches = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --virtual-time-budget=20000 --dump-dom"
    )
    done = subprocess.run(
        [CHROMIUM, *switches.split(), f"--user-data-dir={folder / 'profile'}", address],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.server
def test_a_second_serve_of_one_home_and_a_port_in_use_are_one_line(tmp_path, home_in):
    import socket

    import filelock

    home = home_in(tmp_path)
    file = tmp_path / "d.yaml"
    file.write_text("deployments: [{name: a, verb: push, folder: a, dest: b}]")
    home.prefect.mkdir(parents=True)
    with filelock.FileLock(home.prefect / "serve.lock"):
        code, _, err = home.run("serve", file)
    assert code == 1
    assert err.startswith(f"penstock: {home.prefect}: another penstock serve runs from here; stop it, put all")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = home.run("serve", file, "--port", port)
    assert code == 1
    assert err.startswith(f"penstock: port {port}: got Address already in use, allowed a free one; give another with")
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api" in err


@pytest.mark.server
def test_an_api_that_is_not_there_is_one_line(tmp_path, home_in):
    home = home_in(tmp_path)
    file = tmp_path / "d.yaml"
    file.write_text("deployments: [{name: a, verb: push, folder: a, dest: b}]")
    code, out, err = home.run("serve", file, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="0")
    assert code == 1
    assert out.startswith(f"Deployments of {file}")
    (line,) = err.splitlines()
    assert line.startswith("penstock: Prefect's API at http://127.0.0.1:9/api failed (")
    assert not (home.prefect / "serve.log").exists()
