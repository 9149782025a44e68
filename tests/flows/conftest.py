"""A home directory of their own for commands that start Prefect's server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.kernels import cache_folder

COMMAND = "import sys; sys.argv[0] = 'penstock'; from penstock.cli import main; main()"


class Home:
    """A home directory of its own, in which commands run as a user would run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "XDG_", "DO_NOT_TRACK"))
        }
        # the machine code of the kernels is the machine's; compiling it again would take longer than the tests
        kernels = Path(cache_folder() or folder).parent
        self.environment |= {"HOME": str(folder), "COLUMNS": "100", "NUMBA_CACHE_DIR": str(kernels)}

    @property
    def prefect(self) -> Path:
        return self.folder / ".cache" / "penstock" / "prefect"

    def start(self, *arguments, code=COMMAND, cwd=None, **environment):
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | environment,
            start_new_session=True,
            cwd=cwd,
        )

    def run(self, *arguments, code=COMMAND, **environment):
        process = self.start(*arguments, code=code, **environment)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err


@pytest.fixture(scope="session")
def command():
    """Code that is the ``penstock`` command."""
    return COMMAND


@pytest.fixture(scope="session")
def home_in():
    """``home_in(folder)``: a home there."""
    return Home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def copy(finished, tmp_path):
    """(run folder that a test may change, its recipe's file)."""
    base, recipe, _ = finished
    shutil.copytree(base / "run", tmp_path / "run", ignore=shutil.ignore_patterns(".lock", ".holder.json"))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    return tmp_path / "run", tmp_path / "recipe.yaml"
