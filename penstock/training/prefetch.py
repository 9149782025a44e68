"""Run an iterator ahead of whoever takes from it, in one thread.

A thread and no process: gathering tokens is copying by compiled code that holds no interpreter lock, and a batch that
crosses a process border is copied once more.

Price: memory of ``depth`` items.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError

_T = TypeVar("_T")


def ahead(items: Iterator[_T], depth: int) -> Iterator[_T]:
    """The same items in the same order; at most ``depth`` are made before they are asked for.

    An error of ``items`` is raised where its item would have come. Closing this iterator ends the thread.
    """
    if depth < 1:
        yield from items
        return
    room = threading.Semaphore(depth)
    made: queue.SimpleQueue[tuple[str, _T | BaseException | None]] = queue.SimpleQueue()
    closed = threading.Event()

    def run() -> None:
        try:
            while True:
                room.acquire()
                if closed.is_set():
                    return
                try:
                    item = next(items)
                except StopIteration:
                    made.put(("end", None))
                    return
                made.put(("item", item))
        except BaseException as error:  # noqa: BLE001 - handed to the taker, who raises it
            made.put(("error", error))

    thread = threading.Thread(target=run, name="penstock-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            room.release()
            yield value  # type: ignore[misc]
    finally:
        closed.set()
        room.release()
        thread.join()


def require_pinning() -> None:
    """Raise ConfigError where memory cannot be page-locked."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("pin: page-locked memory needs CUDA, which is not available here; leave pin off")


def pinned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy in page-locked memory; ``torch.from_numpy`` of it is a pinned tensor."""
    import torch

    memory = torch.empty(values.nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    out: NDArray[Any] = memory.view(values.dtype).reshape(values.shape)
    np.copyto(out, values)
    return out
