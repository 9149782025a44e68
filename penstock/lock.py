"""One writer per run folder.

On a local disk the operating system holds the lock and frees it when the process dies, however it
dies. In an object store a small lease object names its holder and is renewed while the run lives; a
lease that has not been renewed for two minutes is dead and is taken over.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from penstock.errors import FolderInUseError, StorageError
from penstock.storage import Folder, storage_errors

LEASE = ".lease.json"
RENEW_SECONDS = 20.0
DEAD_SECONDS = 120.0


class FolderLock:
    """Context manager that holds a folder for writing.

    Raises:
        FolderInUseError: on entry, when another live process holds the folder; it is named.
    """

    def __init__(self, folder: Folder, *, dead_seconds: float = DEAD_SECONDS) -> None:
        self._folder = folder
        self._dead = dead_seconds
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: object | None = None

    def __enter__(self) -> FolderLock:
        if self._folder.is_local:
            self._enter_local()
        else:
            self._enter_remote()
        return self

    def _enter_local(self) -> None:
        import filelock

        with storage_errors(self._folder.path):
            os.makedirs(self._folder.path, exist_ok=True)
        path = self._folder.join(".lock")
        lock = filelock.FileLock(path, timeout=0)
        with storage_errors(path):
            try:
                lock.acquire()
            except filelock.Timeout:  # an OSError too
                raise FolderInUseError(
                    f"{self._folder.url}: another penstock run is writing here{self._holder()}; "
                    "wait for it, stop it, or choose another --out"
                ) from None
        try:
            for stray in Path(self._folder.path).glob(".tmp-*"):
                stray.unlink()  # a writer was killed before its rename; no other writes here now
            self._folder.write_json(".holder.json", self._owner)
        except BaseException:
            lock.release()
            raise
        self._file = lock

    def _holder(self) -> str:
        try:
            held = self._folder.read_json(".holder.json")
            return f" (process {held['pid']} on {held['host']})"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _enter_remote(self) -> None:
        held = self._lease()
        if held is None:
            self._folder.create_bytes(LEASE, self._content())
        else:
            age = time.time() - held["renewed"]
            if age < -self._dead:
                raise FolderInUseError(
                    f"{self._folder.url}: the lease of process {held['pid']} on {held['host']} is of {-age:.0f} s from "
                    f"now, so a clock was set; set it right, or delete {LEASE} if no run is writing there"
                )
            if age < self._dead:
                raise FolderInUseError(
                    f"{self._folder.url}: process {held['pid']} on {held['host']} is writing here (its lease was "
                    f"renewed {age:.0f} s ago); wait for it, or for {self._dead:.0f} s after it died"
                )
            self._folder.write_bytes(LEASE, self._content())
        # two that found the same dead lease both write; the store keeps the last, and the other sees it here
        time.sleep(0.2)
        if not self._mine():
            raise FolderInUseError(f"{self._folder.url}: another run took the folder at the same moment; start again")
        self._thread = threading.Thread(target=self._keep, name="penstock-lease", daemon=True)
        self._thread.start()

    def _lease(self) -> dict[str, Any] | None:
        try:
            held = self._folder.read_json(LEASE)
            renewed = float(held["renewed"])
            if not math.isfinite(renewed):
                raise ValueError(f"renewed at {renewed}")
            return {"id": held["id"], "pid": held["pid"], "host": held["host"], "renewed": renewed}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise FolderInUseError(
                f"{self._folder.join(LEASE)}: not a lease ({error}); if no run is writing here, delete it"
            ) from error

    def _mine(self) -> bool:
        held = self._lease()
        return held is not None and held["id"] == self._owner["id"]

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewed": time.time()}).encode()

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if not self._mine():
                    return  # this process was away for so long that another took over; parts and manifests stay whole
                self._folder.write_bytes(LEASE, self._content())
            except (StorageError, FolderInUseError):
                continue  # the store is away for now; there is time for more tries before the lease is dead

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            # a store that is away keeps the lease, which is dead in two minutes; what the run has to say is said
            with suppress(StorageError, FolderInUseError):
                if self._mine():
                    self._folder.remove([LEASE])
        if self._file is not None:
            self._file.release()  # type: ignore[attr-defined]
            self._file = None
