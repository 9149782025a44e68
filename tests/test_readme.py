"""The README begins with what one types first, and its links lead somewhere; tests/docs runs its code."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_first():
    assert README.split("```")[1].split()[:3] == ["sh", "make", "demo"]
    assert "make test" in README.split("```")[1]


def test_links_to_files_of_the_project_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target and target != "benchmarks/RESULTS.md":
            assert (ROOT / target).exists(), target
