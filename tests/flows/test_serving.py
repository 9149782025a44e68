"""What `penstock serve` asks of Prefect, without a server: deployments as Prefect takes them, and what it takes up."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from penstock.flows.deployments import Deployments


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """The module, with Prefect's files in a folder of their own."""
    pytest.importorskip("prefect")
    patch = pytest.MonkeyPatch()
    patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    patch.setenv("DO_NOT_TRACK", "1")
    from penstock.flows import serving

    yield serving
    patch.undo()


def test_a_deployment_reaches_prefect_as_the_file_has_it(serving):
    read = Deployments.parse(
        "limits: {gpu: 1}\ndeployments:\n"
        "  - {name: weekly, verb: push, folder: a, dest: b, keep: true, retries: 2, occupies: [gpu], tags: [x],\n"
        "     description: sends it, schedule: {cron: 0 3 * * 6, timezone: Europe/Berlin},\n"
        "     concurrency: {limit: 2, collision: CANCEL_NEW}}\n"
        "  - {name: by-hand, verb: push, folder: a, dest: b, concurrency: null}\n"
    )
    weekly, by_hand = map(serving.of_prefect, read.deployments)
    assert (weekly.full_name, weekly.entrypoint) == ("penstock-push/weekly", "penstock.flows.deployed.push")
    assert (weekly.description, weekly.tags, weekly.paused) == ("sends it", ["x"], False)
    assert [(s.schedule.cron, s.schedule.timezone) for s in weekly.schedules] == [("0 3 * * 6", "Europe/Berlin")]
    assert (weekly.concurrency_limit, weekly.concurrency_options.collision_strategy) == (2, "CANCEL_NEW")
    assert weekly.parameters == {
        "folder": "a",
        "dest": "b",
        "keep": True,
        "create": False,
        "private": False,
        "branch": None,
        "retries": 2,
        "retry_seconds": 30.0,
        "occupies": ["gpu"],
    }
    assert (by_hand.schedules, by_hand.concurrency_limit) == ([], None)
    assert by_hand.description.startswith("Send a published dataset to a store, a folder or the Hub.")


class FakeClient:
    """Prefect's client, as far as it is asked for what an earlier serve left."""

    def __init__(self, runs, deployments):
        self.runs, self.deployments = runs, deployments
        self.set, self.paused = {}, []

    def read_flow_runs(self, *, deployment_filter, flow_run_filter):
        wanted = flow_run_filter.state.type.any_
        return [r for r in self.runs if r.state in wanted and r.deployment_id in deployment_filter.id.any_]

    def set_flow_run_state(self, run, state, *, force):
        assert force
        self.set[run] = (state.name, state.message)

    def read_deployments(self, *, flow_filter):
        assert "penstock-build" in flow_filter.name.any_
        return self.deployments

    def pause_deployment(self, deployment):
        self.paused.append(deployment)


def test_runs_in_flight_are_due_again_missed_ones_count_once_and_old_deployments_are_paused(serving):
    now, a, b, other = datetime.now(UTC), uuid4(), uuid4(), uuid4()

    def run(name, state, of, hours=0.0, count=0, auto=True):
        due = now + timedelta(hours=hours)
        return SimpleNamespace(
            id=name,
            state=state,
            deployment_id=of,
            expected_start_time=due,
            run_count=count,
            auto_scheduled=auto,
        )

    def deployment(name, paused=False, pool=None):
        return SimpleNamespace(id=name, paused=paused, work_pool_name=pool)

    client = FakeClient(
        [
            run("running", "RUNNING", a, -1, 1),
            run("pending", "PENDING", b, -1),
            run("cancelling", "CANCELLING", a, -1, 1),
            run("done", "COMPLETED", a, -1, 1),
            run("missed-1", "SCHEDULED", a, -49),
            run("missed-2", "SCHEDULED", a, -25),
            run("missed-3", "SCHEDULED", a, -1),
            run("missed-of-b", "SCHEDULED", b, -30),
            run("by-hand", "SCHEDULED", a, -30, auto=False),
            run("waits-for-its-retry", "SCHEDULED", a, -30, count=1),
            run("planned", "SCHEDULED", a, 23),
            run("of-another", "RUNNING", other, -1, 1),
        ],
        [deployment(a), deployment("gone"), deployment("gone-before", paused=True), deployment("of-a-pool", pool="p")],
    )
    serving._take_up(client, [a, b])
    again = ("AwaitingRetry", serving._AGAIN)
    missed = ("Cancelled", serving._MISSED)
    assert client.set == {
        "running": again,
        "pending": again,
        "cancelling": ("Cancelled", "its process is gone"),
        "missed-1": missed,
        "missed-2": missed,
    }
    assert client.paused == ["gone"]


def test_a_run_that_the_same_signal_ended_is_due_again_and_an_older_crash_is_not(serving):
    asked, a = datetime.now(UTC), uuid4()
    runs = [
        SimpleNamespace(id=name, state=state, deployment_id=a, end_time=end)
        for name, state, end in (
            ("now", "CRASHED", asked + timedelta(seconds=1)),
            ("just before", "CRASHED", asked - timedelta(seconds=1)),
            ("yesterday", "CRASHED", asked - timedelta(days=1)),
            ("without an end", "CRASHED", None),
            ("failed", "FAILED", asked),
        )
    ]
    found = serving._crashed_since(FakeClient(runs, []), [a], asked)
    assert [run.id for run in found] == ["now", "just before"]
