"""Processes beside this one: they start quietly, use one thread each, and end when this one does.

Price: about half a second each to start, most of it loading Arrow.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process, resource_tracker
from typing import Any

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
_OF_WORKERS = dict.fromkeys(_ONE_THREAD, "1") | {
    "TOKENIZERS_PARALLELISM": "false",
    # glibc would raise this to 32 MiB as blocks are freed, keep the batches of all columns on its heap and give little
    # of it back: 500 MB a worker more where rows are published
    "MALLOC_MMAP_THRESHOLD_": str(256 << 10),
}


def _start_worker(parent: int, load: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own (mimalloc) keeps some 90 MB a worker that it has freed
    # a killed driver cannot stop its workers, so they watch for it
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if load is not None:
        load()


def _leave_with(parent: int) -> None:
    driver = parent_process()
    while os.getppid() == parent:
        if driver is None:
            time.sleep(0.5)
        else:
            driver.join(0.5)  # ends at once when the driver does, before another can take the folder's lock
    os._exit(1)


def _defer_interrupt() -> tuple[threading.Event, Any]:
    """Note Ctrl-C instead of raising it; returns the note and the handler to restore (None off the main thread).

    A blocked signal is not enough: a thread of a library may take it, and Python still raises in the main
    thread, where it would cut the start of a worker in half.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        return noted, None  # Python raises only in the main thread, which waits for this one
    return noted, signal.signal(signal.SIGINT, lambda *_: noted.set())


def start(workers: int, *, load: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of processes.

    Args:
        load: what each does before its first task; importable by name. Nobody waits for it, and where it raises the
            pool is broken. Without it, all processes have started when this returns.

    Raises:
        KeyboardInterrupt: Ctrl-C came while they started, which each of them would have answered with a traceback.
    """
    before = {name: os.environ.get(name) for name in _OF_WORKERS}
    os.environ |= _OF_WORKERS
    # inherited too: Ctrl-C while workers start would make each of them print a traceback
    resource_tracker.ensure_running()  # its start, otherwise part of the first worker's, takes the block off
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    interrupted, handler = _defer_interrupt()
    try:
        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(), load)
        )
        # processes inherit the environment when they start, so start them all while it is set
        started = [pool.submit(time.sleep, 0.05) for _ in range(workers)]
        if load is None:
            for future in started:
                future.result()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    if interrupted.is_set():
        end(pool)
        raise KeyboardInterrupt
    return pool


def end(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes, whatever they are at."""
    processes: list[Any] = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    # an interpreter that ends by itself takes half a second to let go of its modules
    for process in processes:
        process.terminate()
