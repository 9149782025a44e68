"""``penstock serve``: deployments of a file, their schedules, and their runs in processes beside this one.

Prefect's own runner asks the API every few seconds what is due. The API is the user's (PREFECT_API_URL), or a whole
server of ours on loopback, with the UI, that lives as long as this process; its history stays in ``PREFECT_HOME``.

However it ends, nothing is left running and nothing done is lost: a run in flight is due again at the next start and
goes on where it was. With a server of ours this holds after a kill too, since no other process may serve from it.

Price: about 400 MB for the server and the runner; 3 s to start the process of a run.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil

from penstock.errors import FolderInUseError, PenstockError
from penstock.flows.deployments import Deployment, Deployments
from penstock.flows.environment import go_round_proxies, prepare_environment, require_prefect
from penstock.flows.server import Server
from penstock.flows.verbs import VERBS
from penstock.storage import storage_errors, without_users

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

_AGAIN = "penstock serve ended while it ran; it goes on from what is done"
_MISSED = "nothing served at that time; the last run that was missed stands for all"


def serve(deployments: Deployments, *, port: int = 4200, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; called on the main thread.

    Args:
        port: of a server of ours; 0 takes a free one.
        say: hears a line when serving begins.

    Raises:
        MissingExtraError: Prefect is not installed.
        ConfigError: the port is taken.
        FolderInUseError: another process serves from the same ``PREFECT_HOME``.
        PenstockError: the API is not reached, or its server ended.
    """
    require_prefect()
    home = prepare_environment()
    with ExitStack() as stack:
        server = stack.enter_context(_api(home, port))
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL

        client = stack.enter_context(get_client(sync_client=True))
        with _prefect_errors():
            for name, places in deployments.limits.items():
                client.upsert_global_concurrency_limit_by_name(name, places)
        worker = stack.enter_context(_Worker(deployments, pause=server is None))
        if server is not None:
            _take_up(client, worker.ids)
        stop = stack.enter_context(_signals())
        worker.start()
        number = len(deployments.deployments)
        shown = f"; UI: {server.url}" if server is not None else ""
        api = without_users(f"{PREFECT_API_URL.value()}")
        say(f"serving {number} deployment{'' if number == 1 else 's'}; API: {api}{shown}")
        while not stop.wait(0.5) and worker.running and (server is None or server.running):
            pass
        asked = datetime.now(UTC)
        if server is not None and not server.running:
            for child in psutil.Process().children():
                child.terminate()  # the runner would wait for them, and asks the server how they are
            raise PenstockError(
                f"Prefect's server ended by itself, see {server.log}; what is done is kept, start again"
            )
        with _prefect_errors():
            going = _runs(client, worker.ids, "RUNNING", "PENDING")
            try:
                worker.stop()
            finally:
                _due_again(client, going + _crashed_since(client, worker.ids, asked))


@contextmanager
def _api(home: Path, port: int) -> Iterator[Server | None]:
    """Prefect's settings with an API that answers; the server, where it is ours."""
    import filelock
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if PREFECT_API_URL.value():
        yield None
        return
    lock = filelock.FileLock(home / "serve.lock", timeout=0)
    with storage_errors(str(home)):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise FolderInUseError(
                f"{home}: another penstock serve runs from here; stop it, put all deployments into one file, or set "
                "PREFECT_HOME to another folder"
            ) from None
    with lock:
        go_round_proxies()
        server = Server(home, port=port, whole=True)
        try:
            server.wait()
            with temporary_settings({PREFECT_API_URL: server.api, PREFECT_CLIENT_MAX_RETRIES: 3}):
                yield server
        finally:
            server.stop()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set where SIGINT or SIGTERM came, which do nothing else then."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _prefect_errors() -> Iterator[None]:
    import httpx
    from prefect.exceptions import PrefectException

    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        from prefect.settings import PREFECT_API_URL

        what = " ".join(f"{type(error).__name__}: {error}".split())
        said = f"Prefect's API at {PREFECT_API_URL.value()} failed ({what})"
        raise PenstockError(
            f"{without_users(said)}; is it there, and of the same version? Mend it and start again"
        ) from error


class _Worker:
    """Prefect's runner on a thread with an event loop of its own, so that signals are the main thread's."""

    def __init__(self, deployments: Deployments, *, pause: bool) -> None:
        self._deployments = deployments
        self._pause = pause  # schedules of an API that lives on, while nobody serves
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="penstock-serve")
        self._loop = asyncio.new_event_loop()
        self._runner: Runner | None = None
        self._done: Future[None] | None = None
        self.ids: list[UUID] = []

    def __enter__(self) -> _Worker:
        made = [of_prefect(one) for one in self._deployments.deployments]
        with _prefect_errors():
            self._run(self._register(made)).result()
        return self

    def _run(self, work: Any) -> Future[Any]:
        # Prefect's settings travel with the context
        return self._pool.submit(contextvars.copy_context().run, self._loop.run_until_complete, work)

    async def _register(self, made: Sequence[RunnerDeployment]) -> None:
        from prefect.runner import Runner

        self._runner = Runner("penstock", limit=self._deployments.at_once, pause_on_shutdown=self._pause)
        self.ids = [await self._runner.aadd_deployment(one) for one in made]

    def start(self) -> None:
        assert self._runner is not None
        from penstock.flows.deployed import SERVED_BY

        os.environ[SERVED_BY] = str(os.getpid())
        logging.getLogger("prefect.runner").setLevel(logging.WARNING)  # at every look it says which runs wait
        self._done = self._run(self._runner.start())

    @property
    def running(self) -> bool:
        return self._done is not None and not self._done.done()

    def stop(self) -> None:
        """End the runs, then the runner.

        Raises:
            PenstockError: the runner had ended by itself, or could not end.
        """
        assert self._runner is not None
        assert self._done is not None
        while self.running and not self._runner.started:
            time.sleep(0.1)
        asked = asyncio.run_coroutine_threadsafe(self._runner.astop(), self._loop)
        try:
            # a runner that ended by itself takes its loop along, which then answers nothing
            for future in wait((asked, self._done), return_when=FIRST_COMPLETED).done:
                future.result()
            self._done.result()
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise PenstockError(f"Prefect's runner failed ({what}); what is done is kept, start again") from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.running:
            with suppress(*(() if kind is None else (PenstockError,))):  # what came first is told
                self.stop()
        self._pool.shutdown()
        self._loop.close()


def of_prefect(deployment: Deployment) -> RunnerDeployment:
    """A deployment as Prefect's own."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    from penstock.flows import deployed

    entry = deployment.entry
    limit = None
    if entry.concurrency is not None:
        strategy = ConcurrencyLimitStrategy(entry.concurrency.collision)
        limit = ConcurrencyLimitConfig(limit=entry.concurrency.limit, collision_strategy=strategy)
    made: RunnerDeployment = getattr(deployed, entry.verb).to_deployment(
        entry.name,
        schedule=None if entry.schedule is None else entry.schedule.prefect(),
        parameters=deployment.parameters(),
        description=entry.description or None,
        tags=list(entry.tags),
        concurrency_limit=limit,
        paused=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return made


# ── what another serve left ──────────────────────────────────────────────────────────────────────


def _take_up(client: SyncPrefectClient, ids: Sequence[UUID]) -> None:
    """Put in order what an earlier ``penstock serve`` left in this server, which nobody else serves from."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.states import Cancelled

    _due_again(client, _runs(client, ids, "RUNNING", "PENDING"))
    for run in _runs(client, ids, "CANCELLING"):
        client.set_flow_run_state(run.id, Cancelled(message="its process is gone"), force=True)
    now = datetime.now(UTC)
    missed: dict[UUID | None, list[FlowRun]] = {}
    for run in _runs(client, ids, "SCHEDULED"):
        due = run.expected_start_time
        if run.auto_scheduled and run.run_count == 0 and due is not None and due < now:
            missed.setdefault(run.deployment_id, []).append(run)
    for runs in missed.values():
        for run in sorted(runs, key=lambda run: run.expected_start_time or now)[:-1]:
            client.set_flow_run_state(run.id, Cancelled(message=_MISSED), force=True)
    ours = FlowFilter(name=FlowFilterName(any_=[f"penstock-{verb}" for verb in VERBS]))
    for found in client.read_deployments(flow_filter=ours):
        if found.id not in ids and found.work_pool_name is None and not found.paused:
            client.pause_deployment(found.id)  # no longer in the file; its runs stay to be looked at


def _runs(client: SyncPrefectClient, ids: Sequence[UUID], *states: str) -> list[FlowRun]:
    """Runs of these deployments in these types of state."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(state) for state in states]))
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(ids))),
        flow_run_filter=FlowRunFilter(state=wanted),
    )


def _crashed_since(client: SyncPrefectClient, ids: Sequence[UUID], asked: datetime) -> list[FlowRun]:
    """Runs that were ended by the signal that ended this process too, as an init system sends it to all."""
    since = asked - timedelta(seconds=2)
    return [run for run in _runs(client, ids, "CRASHED") if run.end_time is not None and run.end_time >= since]


def _due_again(client: SyncPrefectClient, runs: Sequence[FlowRun]) -> None:
    from prefect.states import AwaitingRetry

    for run in runs:
        client.set_flow_run_state(run.id, AwaitingRetry(message=_AGAIN), force=True)
