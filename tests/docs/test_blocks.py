"""Code blocks of the pages are found, named by their language, and say so where they are not run as they stand."""

import re
from collections import Counter

import pytest

from reference.blocks import LANGUAGES, Block, blocks, blocks_of, pages

NOT_RUN = {
    "docs/bytelevel.md": 1,
    "docs/group_rl.md": 1,
    "docs/loader.md": 1,
    "docs/training.md": 2,
    "docs/verification.md": 1,
}
"""Blocks that are not run, by page: a new one is a decision, not an oversight."""


@pytest.mark.parametrize("page", pages())
def test_every_fence_is_closed_and_names_a_known_language(page):
    from reference.blocks import ROOT

    found = list(blocks_of(page))
    assert {block.language for block in found} <= set(LANGUAGES)
    fences = [line for line in (ROOT / page).read_text().splitlines() if line.lstrip().startswith("```")]
    assert len(fences) == 2 * len(found)


def test_blocks_that_are_not_run_are_these():
    marked = [block for block in blocks(*LANGUAGES) if "not run" in block.marks]
    for block in marked:
        print(f"{block}: not run, {block.marks['not run']}")
    assert dict(Counter(block.page for block in marked)) == NOT_RUN


def test_what_is_no_code_looks_like_none():
    for block in blocks(""):
        lines = block.code.splitlines()
        assert not any(line.startswith(("$ ", "import ", "from ", "pip ")) for line in lines), block


def test_marks_stand_above_a_block_that_they_can_be_about():
    kinds = {"run with": {"python"}, "saved as": {"python"}, "of": {"yaml"}, "not run": {"python", "sh", "bash"}}
    for block in blocks(*LANGUAGES):
        for mark in block.marks:
            assert block.language in kinds[mark], (str(block), mark)


def test_no_mark_is_lost():
    from reference.blocks import ROOT

    for page in pages():
        kept = sum(len(block.marks) for block in blocks_of(page))
        text = (ROOT / page).read_text()
        assert len(re.findall(r"<!-- *(?:not run|run with|saved as|of)\b", text)) == kept, page


def test_a_replacement_that_replaces_nothing_is_told():
    block = Block("p.md", 3, "python", "steps = 100\n", {"run with": "steps = 100 => steps = 1; 7 => 8"})
    with pytest.raises(ValueError, match=r"p\.md:3: `run with: 7 => 8` replaces nothing"):
        _ = block.runnable
    assert Block("p.md", 3, "python", "a = 1\n", {"run with": "a = 1 => a = 2"}).runnable == "a = 2\n"


def test_commands_are_read_as_a_shell_reads_them():
    code = "cd x\npenstock run a#1 \\\n  --set 'k=a #b' # what's\n.venv/bin/penstock bytes m - < a.txt\npenstocks run\n"
    assert Block("p.md", 1, "sh", code).commands == [["run", "a#1", "--set", "k=a #b"], ["bytes", "m", "-"]]
