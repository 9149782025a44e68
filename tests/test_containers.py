"""The container of workers: what it copies is there and nothing else is sent, its versions are those of the project.

No container is built here; that takes Docker and a registry.
"""

import fnmatch
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

from penstock.pipelines.beam_packages import IN_WHEEL

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "containers" / "Dockerfile").read_text()
JOINED = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
STEPS = [tuple(line.split(maxsplit=1)) for line in JOINED.splitlines() if line.strip()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def of(instruction):
    return [rest for name, rest in STEPS if name == instruction]


def copied():
    """Sources of the first stage, which come from the repository; later ones of another stage are left out."""
    return [source for rest in of("COPY") if not rest.startswith("--from=") for source in rest.split()[:-1]]


def test_both_stages_start_from_beams_container_for_the_pinned_beam_and_this_python():
    (pin,) = re.findall(r"^apache-beam==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    image = f"apache/beam_python{sys.version_info[0]}.{sys.version_info[1]}_sdk:{pin}"
    assert [rest.split()[0] for rest in of("FROM")] == [image, image]
    assert pin == importlib.metadata.version("apache-beam")


def test_beams_entrypoint_stays_and_the_user_is_the_last_thing_set():
    assert of("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert of("CMD") == []
    assert [name for name, _ in STEPS][-2:] == ["USER", "ENTRYPOINT"]


def test_what_is_copied_is_all_that_the_package_is_built_from_and_is_sent_to_the_builder():
    assert set(copied()) == {"constraints.txt", "penstock", *IN_WHEEL}
    assert all((ROOT / source).exists() for source in copied())
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert first == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())


@pytest.mark.parametrize("name", [".env", ".git", "runs", ".venv", "dist", "tests", "id_rsa"])
def test_nothing_else_of_the_folder_is_sent(name):
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [rule[1:] for rule in rules if rule.startswith("!") and fnmatch.fnmatch(name, rule[1:])]
    assert kept == []


def test_installs_are_held_by_the_constraints_and_extras_are_the_projects():
    installs = [step for rest in of("RUN") for step in rest.split("&&") if "pip install" in step]
    assert len(installs) == 2
    assert all(re.search(r"-c \S*constraints\.txt", step) for step in installs)
    (default,) = re.findall(r"^EXTRAS=(.+)$", "\n".join(of("ARG")), re.MULTILINE)
    shown = re.findall(r"EXTRAS=(\S+)", TEXT)
    assert default in shown
    assert {extra for value in shown for extra in value.split(",")} <= set(PROJECT["optional-dependencies"])
    assert f"penstock-worker:{PROJECT['version']}" in TEXT
