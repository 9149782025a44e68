"""Compiled kernels: never older than their source, whichever module it is in, and usable without a writable cache."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.kernels import cache_folder, kernel_modules

ROOT = Path(penstock.__file__).parent

INNER = """
from penstock.kernels import inlined, kernel

CONSTANT = 1

@kernel
def called(x):
    return x + CONSTANT

@inlined
def written_in(x):
    return x * 10
"""

OUTER = """
from penstock.inner import called, written_in
from penstock.kernels import kernel

@kernel
def outer(x):
    return written_in(called(x))
"""


@pytest.fixture
def package(tmp_path):
    """A package of this name with two kernel modules, and a function that runs one of them in a new process."""
    folder = tmp_path / "penstock"
    folder.mkdir()
    shutil.copy(ROOT / "kernels.py", folder)
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text(INNER)
    (folder / "outer.py").write_text(OUTER)

    def run(**environment):
        code = (
            "from penstock.outer import outer\n"
            "from penstock.kernels import cache_folder\n"
            "print(outer(4), sum(outer.stats.cache_hits.values()), cache_folder())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        value, hits, where = done.stdout.split()
        return int(value), int(hits), where

    return folder, run


def test_a_changed_kernel_reaches_its_callers_in_other_modules_and_unchanged_code_is_loaded(package):
    folder, run = package
    assert run()[:2] == (50, 0)
    assert run()[:2] == (50, 1)
    (folder / "inner.py").write_text(INNER.replace("CONSTANT = 1", "CONSTANT = 2"))
    assert run()[:2] == (60, 0)
    (folder / "inner.py").write_text(INNER.replace("x * 10", "x * 100"))
    assert run()[0] == 500


def test_without_a_writable_cache_kernels_are_compiled_in_the_process(package):
    _, run = package
    assert run(NUMBA_CACHE_DIR="/dev/null/cache") == (50, 0, "None")


def test_numbas_own_variable_chooses_where_the_code_lies(package, tmp_path):
    _, run = package
    value, _, where = run(NUMBA_CACHE_DIR=str(tmp_path / "chosen"))
    assert value == 50
    assert Path(where).parent == tmp_path / "chosen"
    assert list(Path(where).rglob("*.nbc"))


def test_other_users_of_numba_keep_their_own_cache():
    from numba import config

    import penstock.text  # noqa: F401 (decorates kernels)

    assert os.environ.get("NUMBA_CACHE_DIR", "") == config.CACHE_DIR
    assert cache_folder() != config.CACHE_DIR


def imported(path):
    """(module, name) of what a module takes from penstock where it is loaded."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "penstock":
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.partition(".")[0] == "penstock")


def test_the_digest_covers_all_that_a_kernel_may_hold():
    covered = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in kernel_modules()}
    assert {"penstock.kernels", "penstock.text", "penstock._digest_kernels", "penstock.tokenization.packing"} <= covered
    host = "penstock.tokenization.packing"  # its two kernels take arrays and numbers alone; the rest is Python
    for path in kernel_modules():
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for module, item in imported(path) if name != host else ():
            known = {module, f"{module}.{item}"} & (covered | {"penstock.errors"})
            assert known, f"{name} takes {item} from {module}: move it to a kernel module, or the cache may go stale"


def test_functions_are_compiled_in_one_place():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "numba" and path != ROOT / "kernels.py":
                names = {alias.name for alias in node.names} & {"njit", "jit", "vectorize", "guvectorize", "cfunc"}
                assert not names, f"{path}: use penstock.kernels.kernel"
            if isinstance(node, ast.Import) and path != ROOT / "kernels.py":
                assert "numba" not in {alias.name for alias in node.names}, f"{path}: use penstock.kernels.kernel"
