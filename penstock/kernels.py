"""Loops compiled with numba, whose machine code is kept on disk and is never older than its source.

numba's own cache compares a function with its own file alone. A kernel that calls a kernel of another module holds a
copy of it, so after a change over there the old code would run on. Here all code is kept below a folder named by a
digest of every kernel module; any change to one of them compiles all of them anew.

The folder lies below ``$NUMBA_CACHE_DIR``, else in ``penstock/numba`` of ``$XDG_CACHE_HOME``, which is ``~/.cache``
where it is not set. Where it cannot be written, every process compiles for itself.

Importing this module imports numba, so row work imports it, and the modules of its kernels, inside its methods. A
kernel module takes nothing from penstock but other kernel modules and errors, so that the digest covers all that is
compiled.

Price: half a second to import numba, 5 ms for the digest; compiling all kernels takes about a minute, once a machine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PACKAGE = Path(__file__).parent
_decorating = threading.Lock()


def kernel(function: _Function) -> _Function:
    """``function`` compiled on first use, to run without the interpreter lock."""
    return _compiled(function)


def inlined(function: _Function) -> _Function:
    """``kernel`` for a small function that is written into each of its callers."""
    return _compiled(function, inline="always")


def summing(function: _Function) -> _Function:
    """``kernel`` whose sums may be taken in any order, several terms at once: their last bits are the processor's."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def _compiled(function: _Function, **options: Any) -> _Function:
    folder = cache_folder()
    settings: Any = numba.config
    with _decorating:
        # numba looks at its setting when a function is decorated; other users of numba keep theirs
        before = settings.CACHE_DIR
        settings.CACHE_DIR = folder or before
        try:
            return cast(_Function, numba.njit(nogil=True, cache=folder is not None, **options)(function))
        finally:
            settings.CACHE_DIR = before


@functools.cache
def cache_folder() -> str | None:
    """Folder of the machine code of the kernels as they are now; None where none can be written."""
    state = hashlib.blake2b(digest_size=8)
    for path in kernel_modules():
        data = path.read_bytes()
        state.update(f"{path.relative_to(_PACKAGE)}:{len(data)}:".encode() + data)
    given = os.environ.get("NUMBA_CACHE_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(given or f"{cache}/penstock/numba", f"penstock-{state.hexdigest()}")
    try:
        if cache.startswith("~") and not given:
            return None  # a user without a home
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    return folder


def kernel_modules() -> list[Path]:
    """Files of this package that compile something, this one included: those that name it."""
    return sorted(path for path in _PACKAGE.rglob("*.py") if b"penstock.kernels" in path.read_bytes())
