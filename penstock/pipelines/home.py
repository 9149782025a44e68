"""Passes on this machine: a pool of processes, one split at a time each.

Price: about a second to start the pool, once a run; memory is workers × one split in flight. Every
worker uses one thread of Arrow and of the numeric libraries, since the pool already fills the cores.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any

from penstock import processes
from penstock.errors import ConfigError, PenstockError, WorkerError
from penstock.pipelines.passes import Pass, Split, run_split


@functools.lru_cache(maxsize=1)
def _pass_in(path: str) -> Pass:
    with open(path, "rb") as file:
        # as a pool sends its tasks; the driver wrote it a moment ago, readable by this user alone
        job: Pass = ForkingPickler.loads(file.read())
    return job


def _run(path: str, split: Split) -> None:
    run_split(_pass_in(path), split)


@functools.cache
def _load_pandas() -> None:
    """Half a second that pyarrow takes where it makes its first array, to ask whether it is a pandas one."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pandas")


def _load() -> None:
    """What the work of nearly every build imports."""
    _load_pandas()
    import pyarrow as pa

    from penstock.pipelines import near, publish, select
    from penstock.selectors.pii import masked

    del near, publish, select
    masked(pa.array(["a text"]))  # samples of dropped rows are masked: numba's first kernel takes half a second to load


class HomeEngine:
    """A process pool over splits; ``workers=0`` runs in this process (for notebooks and debuggers)."""

    def __init__(self, workers: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = cores if workers is None else workers
        if self.workers < 0:
            raise ConfigError(f"workers: got {workers}, allowed >= 0 (0 runs in the calling process)")
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> HomeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Let the workers start and load what every build needs, while the caller does something else."""
        if self.workers and self._pool is None:
            self._pool = processes.start(self.workers, load=_load)

    def close(self) -> None:
        """End the workers, whatever they are at: what a pass has returned is on disk, and a split in flight is lost."""
        if self._pool is not None:
            processes.end(self._pool)
            self._pool = None

    def map(self, job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> None:
        try:
            if self.workers:
                self._spread(job, splits, done)
            else:
                for split in splits:
                    run_split(job, split)
                    done(1)
        except BrokenProcessPool as error:
            self._pool = None
            raise WorkerError(
                "a worker process died (killed, or out of memory); what is done is kept: run again to resume, "
                "with fewer --workers or smaller --split-mb if memory was short"
            ) from error
        except PenstockError:
            self.close()
            raise
        except MemoryError as error:
            self.close()
            raise WorkerError(
                f"memory ran out in {job.prefix}; what is done is kept: run again to resume, with fewer --workers or "
                "smaller --split-mb"
            ) from error
        except Exception as error:
            self.close()
            error.add_note(f"while running {job.prefix} in {job.folder.url}; splits already done are kept")
            raise
        except BaseException:
            self.close()
            raise

    def _spread(self, job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> None:
        # a pass may hold the places of all its buckets: each worker reads it once, not once a split
        with tempfile.NamedTemporaryFile(prefix="penstock-pass-") as file:
            file.write(ForkingPickler.dumps(job))
            file.flush()
            self._run_all(file.name, splits, done)

    def _run_all(self, path: str, splits: Sequence[Split], done: Callable[[int], None]) -> None:
        waiting = iter(splits)
        running: set[Future[Any]] = set()
        if self._pool is None:
            self._pool = processes.start(self.workers)
        pool = self._pool
        while True:
            # two a worker, so that none waits for the driver
            for split in islice(waiting, 2 * self.workers - len(running)):
                running.add(pool.submit(_run, path, split))
            if not running:
                return
            _load_pandas()  # while the workers work
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                running.remove(future)
                future.result()
                done(1)
