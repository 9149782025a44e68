"""Prompts are files that can be replaced one by one, and are checked when they are read."""

from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.generators.prompt_files import PromptFile, read_prompts

KNOWN = {
    "generate": (frozenset({"count"}), frozenset({"task"})),
    "apply": (frozenset({"reasons"}), frozenset()),
}


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "generate.md").write_text("{{task}}: write {{ count }} things\n")
    (folder / "apply.md").write_text("{{reasons}}")
    return folder


def test_values_are_put_in_once():
    file = PromptFile("p", "{{a}} and {{b}}, {{a}}", frozenset({"a", "b"}))
    assert file.fill(a="{{b}}", b="x\\1", c="unused") == "{{b}} and x\\1, {{b}}"


def test_a_folder_replaces_single_prompts_and_their_digests(own, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "generate.md").write_text("Give {{count}}.")
    before, after = read_prompts(own, KNOWN), read_prompts(own, KNOWN, str(theirs))
    assert before["generate"].fill(count=3, task="T") == "T: write 3 things"
    assert after["generate"].fill(count=3, task="T") == "Give 3."
    assert after["apply"] == before["apply"]
    assert after["generate"].digest != before["generate"].digest


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("generate.md", "Write {{task}}", r"prompt generate: got no {{count}}, which it needs; add it"),
        ("generate.md", "{{count}} {{tusk}}", r"got {{tusk}}, allowed {{count}}, {{task}}; correct or remove it"),
        ("generate.md", " \n", "got no text, allowed a prompt"),
        ("aply.md", "{{reasons}}", r"aply.md: got no known prompt, allowed apply, generate; did you mean apply.md\?"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused_when_it_is_read(own, tmp_path, name, text, said):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_prompts(own, KNOWN, str(theirs))


def test_a_folder_that_is_none_or_empty_or_not_text_is_refused(own, tmp_path):
    with pytest.raises(ConfigError, match="which is no folder"):
        read_prompts(own, KNOWN, str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"got no \*.md file in"):
        read_prompts(own, KNOWN, str(tmp_path / "empty"))
    Path(tmp_path / "empty" / "apply.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(own, KNOWN, str(tmp_path / "empty"))
