"""Every Python block of the README runs as it is printed, and every command in it exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock import kernels
from penstock.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].replace(".venv/bin/penstock ", "").strip()
    for block in re.findall(r"```sh\n(.*?)```", README.replace("\\\n", " "), re.DOTALL)
    for line in block.splitlines()
    if line.startswith(".venv/bin/penstock")
]


@pytest.mark.parametrize("code", PYTHON, ids=[c.strip().splitlines()[-1][:40] for c in PYTHON])
def test_python_blocks_run(code, finished, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(finished[0] / "run")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    if (folder := kernels.cache_folder()) is not None:
        env["NUMBA_CACHE_DIR"] = str(Path(folder).parent)  # another home would compile everything again
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_options_they_are_shown_with(command):
    words = shlex.split(command)
    names = [w for w in words[:2] if not w.startswith("-") and "/" not in w and "." not in w]
    shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in shown.output


def test_the_two_commands_stand_first():
    assert README.split("```")[1].split()[:3] == ["sh", "make", "demo"]
    assert "make test" in README.split("```")[1]


def test_links_to_files_of_the_project_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target and target != "benchmarks/RESULTS.md":
            assert (ROOT / target).exists(), target
