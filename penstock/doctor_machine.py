"""The machine: disks, memory and cores as far as a container may use them, limits, clock, loopback.

Bounds: a warning where a large run would meet the end of something, broken where a small one does.

Price: milliseconds, but for a store, which is written to once.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from penstock.doctor import Finding, broken, ok, warning

GB = 10**9

_DISK = (1 * GB, 10 * GB)  # free bytes below which a disk is broken, and below which it is a warning
_INODES = 10_000
_MEMORY = (GB // 2, 4 * GB)
_SHARED = 256 * 10**6
_DESCRIPTORS = (128, 1024)  # a worker of a pass has some 50 files open, a server one a connection
_RAISED = 4096
_SKEW = 5.0  # seconds between a disk's clock and this machine's
_DAY = 86400.0
_ELSEWHERE = "penstock run RECIPE --out FOLDER"
_GROUPS, _OWN_GROUP = "/sys/fs/cgroup", "/proc/self/cgroup"


def check_out(out: str) -> Finding:
    """Runs can be written where they shall be, and there is room for them."""
    if "://" in out and not out.startswith("file://"):
        return _check_store(out)
    return _check_folder("runs", Path(out.removeprefix("file://")), f"{_ELSEWHERE}  # on another disk")


def check_cache() -> Finding:
    """Compiled loops, kept answers, models and Prefect's database have a place."""
    from penstock.generators.answers import default_store

    folder = Path(default_store()).parent
    return _check_folder("cache", folder, "export XDG_CACHE_HOME=FOLDER  # on another disk")


def _check_folder(check: str, folder: Path, elsewhere: str) -> Finding:
    from penstock.errors import StorageError
    from penstock.report.text import size
    from penstock.storage import storage_errors

    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with storage_errors(str(there)), tempfile.TemporaryFile(dir=there) as file:
            file.write(b"penstock")
            file.flush()
    except StorageError as error:
        return broken(check, str(error), elsewhere)
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    found = f"{folder.absolute()}: {size(free)} free"
    if disk.f_files > 0 and disk.f_favail < _INODES:
        return broken(check, f"{found}, but only {disk.f_favail:,} files may be made", elsewhere)
    largest = f"du -xh --max-depth=2 {shlex.quote(str(there))} | sort -h | tail"
    least, few = _DISK
    if free < least:
        return broken(check, found, largest)
    return warning(check, found, largest) if free < few else ok(check, found)


def _check_store(url: str) -> Finding:
    from penstock.errors import ConfigError, MissingExtraError, StorageError
    from penstock.storage import Folder

    folder, name = Folder(url), f".penstock-doctor-{os.getpid()}"
    try:
        folder.write_bytes(name, b"penstock")
        folder.remove([name])
    except MissingExtraError as error:
        from penstock.doctor_libraries import pip_install, requirements

        return broken("runs", str(error).partition(";")[0], pip_install(requirements("cloud")))
    except ConfigError as error:
        return broken("runs", str(error), f"{_ELSEWHERE}  # or s3://bucket/folder, gs://bucket/folder")
    except StorageError as error:
        return broken("runs", str(error), f"{_ELSEWHERE}  # or have writing and deleting granted there")
    return ok("runs", f"{url}: written to and cleared again")


# ── memory and cores ─────────────────────────────────────────────────────────────────────────────


def control_group(name: str) -> Iterator[str]:
    """What a control file says of this process' group, then of those around it: a container is bound by all of them.

    Args:
        name: such as ``memory.max`` or ``cpu.max``, of version 2 of control groups.
    """
    try:
        lines = Path(_OWN_GROUP).read_text().splitlines()
    except OSError:
        return
    inner = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = Path(_GROUPS + inner)
    for folder in (group, *group.parents):
        if not folder.is_relative_to(_GROUPS):
            return
        with contextlib.suppress(OSError):  # the outermost group has no bounds
            yield (folder / name).read_text().strip()


def memory_limit() -> float:
    """Bytes that this process' control groups allow; infinite where they set no bound."""
    return min((float(text) for text in control_group("memory.max") if text.isdigit()), default=math.inf)


def core_limit() -> float:
    """Cores' worth of time that this process' control groups allow; infinite where they set no bound."""
    limits = []
    for text in control_group("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            limits.append(int(quota) / int(period))
    return min(limits, default=math.inf)


def check_memory() -> Finding:
    """There is memory for a worker a core, within the bounds of a container."""
    import psutil

    from penstock.report.text import size

    machine, limit = psutil.virtual_memory(), memory_limit()
    total = min(float(machine.total), limit)
    within = limit - _used() if math.isfinite(limit) else math.inf
    free = max(0.0, min(float(machine.available), within))
    bound = ", the bound of this container" if limit < machine.total else ""
    found = f"{size(int(free))} free of {size(int(total))}{bound}"
    least, few = _MEMORY
    less = "penstock run RECIPE --workers 1 --split-mb 8"
    if free < least:
        return broken("memory", found, "ps aux --sort=-rss | head  # what holds it")
    return warning("memory", found, less) if free < few else ok("memory", found)


def _used() -> float:
    """Bytes that the innermost control group of this process counts as its own."""
    return next((float(text) for text in control_group("memory.current") if text.isdigit()), 0.0)


def check_cores() -> Finding:
    """As many workers as cores are as many as may run: a container's share of time may be less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = core_limit()
    if limit < cores:
        found = f"{cores}, of which this container may use the time of {limit:g}; {cores} workers would share it"
        return warning("cores", found, f"penstock run RECIPE --workers {max(1, int(limit))}")
    return ok("cores", f"{cores}")


def check_shared_memory(folder: str = "/dev/shm") -> Finding:
    """Processes can make semaphores, and torch's pass tensors to each other; containers often have 64 MB."""
    from penstock.report.text import size

    mend = f"sudo mount -o remount,size=2g,rw {folder}  # a container's: docker run --shm-size=2g …"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"penstock")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return broken("shared memory", f"{folder}: {error.strerror or error}", mend)
    found = f"{folder}: {size(free)} free"
    return warning("shared memory", found, mend) if free < _SHARED else ok("shared memory", found)


def check_descriptors() -> Finding:
    """A process may open as many files as a pass with many inputs and a server with many connections do."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "no bound")
    least, few = _DESCRIPTORS
    found = f"{soft:,} a process"
    may = hard == resource.RLIM_INFINITY or hard >= _RAISED
    raised = f"ulimit -n {_RAISED}" if may else f"sudo prlimit --pid $$ --nofile={_RAISED}"
    if soft < least:
        return broken("open files", found, raised)
    return warning("open files", found, raised) if soft < few else ok("open files", found)


# ── clock and loopback ───────────────────────────────────────────────────────────────────────────


def check_clock(installed: str = __file__) -> Finding:
    """The clock is not behind, which certificates and leases of folders would refuse, nor apart from the disk's.

    Args:
        installed: a file that was written when penstock was installed.
    """
    now = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    mend = "sudo timedatectl set-ntp true"
    behind = os.stat(installed).st_mtime - now
    if behind > _DAY:
        return broken("clock", f"{told}, {behind / _DAY:.0f} days before penstock was installed", mend)
    here = "." if os.access(".", os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=here, prefix=".penstock-doctor-") as file:
        skew = os.stat(file.name).st_mtime - time.time()
    if abs(skew) > _SKEW:
        return warning("clock", f"{told}, but the disk here is {skew:+.0f} s off", mend)
    return ok("clock", told)


def check_loopback() -> Finding:
    """Processes of this machine reach each other by TCP, past any proxy: Prefect's server, vLLM, torchrun."""
    found = "127.0.0.1"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5.0)
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5.0) as client:
                taken, _ = server.accept()
                with taken:
                    client.sendall(b"penstock")
                    answered = taken.recv(8) == b"penstock"
    except OSError as error:
        return broken("loopback", f"{found}: {error.strerror or error}", "sudo ip link set lo up")
    if not answered:
        return broken("loopback", f"{found}: what was sent did not come back", "sudo ip link set lo up")
    if {"http", "all"} & urllib.request.getproxies().keys() and not urllib.request.proxy_bypass("127.0.0.1"):
        went = f"{found} is reached through the proxy of this environment"
        return warning("loopback", went, "export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost")
    return ok("loopback", f"{found}, no proxy before it")
