"""The site is built strictly: no broken link, no page left out, nothing that a browser would fetch elsewhere."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from penstock.recipe import Recipe
from reference import api, recipe, verbs
from reference.blocks import ROOT
from reference.hooks import made, relinked, title, written
from reference.nav import LATER, SECTIONS, navigation

pytest.importorskip("material")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio") and attrs.get("src"):
            self.found.append(attrs["src"])
        if tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.found.append(attrs.get("href") or "")


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text())
        assert reader.found, page
        for address in reader.found:
            assert not re.match(r"(https?:)?//", address), (page, address)
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", style.read_text()), style


def test_the_search_finds_commands_keys_and_names(site):
    index = (site / "search" / "search_index.json").read_text()
    for text in ("penstock tokenizer train", "max_dropped", "OnlineDataMixing", "LinUpper"):
        assert text in index, text


def test_every_page_is_in_the_navigation_and_none_was_forgotten():
    titles = {path: name for path, (name, _) in written().items()} | {
        path: title(text) for path, text in made().items()
    }
    nav = navigation(titles)
    assert {LATER} & {key for part in nav for key in part} == set(), "name the page in a section of reference/nav.py"

    def paths(value):
        for one in value if isinstance(value, list) else [value]:
            yield from (p for v in one.values() for p in paths(v)) if isinstance(one, dict) else [one]

    assert sorted(paths(nav)) == sorted(titles)


def test_sections_name_pages_that_there_are():
    known = set(written()) | set(made())
    for entries in SECTIONS.values():
        for entry in entries:
            assert any(path == entry or (entry.endswith("/") and path.startswith(entry)) for path in known), entry


def test_a_new_page_stands_at_the_end():
    assert navigation({"index.md": "Start", "training.md": "Training", "new.md": "New"})[-1] == {
        LATER: [{"New": "new.md"}]
    }


def test_links_out_of_the_folder_of_pages_lead_to_their_copies():
    assert relinked("[a](../README.md#feed-a-loop)", "loader.md") == "[a](project/readme.md#feed-a-loop)"
    assert relinked("[a](docs/loader.md)", "project/readme.md") == "[a](../loader.md)"
    assert relinked("[a](../prefect.yaml) [b](#here)", "operating.md") == "[a](files/prefect.yaml) [b](#here)"
    assert relinked("[a](https://x.org/a.md)", "operating.md") == "[a](https://x.org/a.md)"
    assert relinked("```\n[a](../README.md)\n```\n", "loader.md") == "```\n[a](../README.md)\n```\n"


# ── made pages ───────────────────────────────────────────────────────────────────────────────────


def test_every_option_of_every_command_is_on_its_page():
    pages = made()
    for words, command in verbs.commands().items():
        text = pages[f"verbs/{verbs.path_of(words)}"]
        for one in verbs.parameters(command):
            assert verbs.option(one) in text, (words, one.name)
        assert f"({verbs.path_of(words)})" in pages["verbs/index.md"]
    assert "training.md" not in pages["verbs/tokenizer-train.md"]
    assert "[Tokenizers](../tokenizers.md)" in pages["verbs/tokenizer-train.md"]


def test_every_key_of_a_recipe_is_on_its_page_with_its_default():
    text = recipe.page()
    for name, value in Recipe.model_fields.items():
        assert f"| `{name}` |" in text, name
        assert value is not None
    row = next(line for line in text.splitlines() if line.startswith("| `min_words` |"))
    assert "`50`" in row
    assert '`"exponent"`, `"product"`' in text
    assert "matches `^[a-z]{2,3}$`" in text


def test_keys_are_explained_wherever_the_source_says_what_they_are_for():
    told = recipe.descriptions()
    assert told["Recipe"]["name"].startswith("Names the run")  # below the attribute
    assert told["VoyagerSettings"]["sample"].startswith("items of the first sample")  # in the docstring
    assert told["PolicyConfig"]["lag"].startswith("steps between an update")  # behind it


def test_every_public_name_has_its_page_and_its_place():
    pages = made()
    for package in api.packages():
        file = f"api/{package.name.removeprefix('penstock').strip('.') or 'penstock'}.md"
        for name, module in package.names.items():
            home, node, text = api.find(module, name)
            assert text or isinstance(node, ast.Assign), (module, name)
            assert f"{{#{api.anchor(home, name)}}}" in pages[file], name


def test_signatures_are_shown_as_they_are_called():
    text = made()["api/flows.md"]
    assert "def push(\n    folder: str,\n    dest: str,\n    keep: bool = False,\n" in text
    assert "- `folder`: a published dataset, or a run: its last one." in text
    assert "self" not in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
