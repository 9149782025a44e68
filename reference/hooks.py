"""What the site has beside ``docs/``: made pages, files of the project's root, the navigation.

MkDocs calls these functions; see ``hooks`` in mkdocs.yml. Nothing that is made is written into ``docs/``, so nothing
there can be out of date.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference import api, recipe, verbs
from reference.nav import navigation
from reference.parity import TWINS

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PROJECT: Mapping[str, str] = {
    "README.md": "project/readme.md",
    "benchmarks/RESULTS.md": "project/benchmarks.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changes.md",
}
"""Files of the project's root that are pages of the site, and where."""

_LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^( *)(```+).*?^ *\2 *$", re.DOTALL | re.MULTILINE)


def title(text: str) -> str:
    """The first heading of a page, without its marks."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return re.sub(r"[`*]|\{#.*?\}", "", found[1]).strip() if found else "penstock"


def written() -> dict[str, tuple[str, str]]:
    """The pages under ``docs/``: path to (title, Markdown)."""
    docs = ROOT / "docs"
    texts = {path.relative_to(docs).as_posix(): path.read_text(encoding="utf-8") for path in docs.rglob("*.md")}
    return {path: (title(text), text) for path, text in sorted(texts.items())}


@cache
def made() -> Mapping[str, str]:
    """The pages that are made: path to Markdown."""
    project = {path: (ROOT / source).read_text(encoding="utf-8") for source, path in PROJECT.items()}
    functions = sorted({name for twin in TWINS.values() for name in twin.functions})
    return project | {"recipe.md": recipe.page()} | verbs.pages(written()) | api.pages(functions)


def relinked(text: str, path: str) -> str:
    """Links of a page to files of the project, as links within the site.

    Args:
        path: of the page in the site. Its links are relative to where its source stands in the project.
    """
    sources = {page: source for source, page in PROJECT.items()}
    folder = posixpath.dirname(sources.get(path, f"docs/{path}"))

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        if target in PROJECT:
            target = PROJECT[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            target = f"files/{target}"
        return found[1] + posixpath.relpath(target, posixpath.dirname(path) or ".") + found[3]

    out, end = [], 0
    for fence in _FENCE.finditer(text):
        out += [_LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*out, _LINK.sub(link, text[end:])])


def linked_files() -> set[str]:
    """Files of the project, other than pages, that pages link to."""
    found = set()
    pages = {f"docs/{path}": text for path, (_, text) in written().items()}
    for source, text in (pages | {source: (ROOT / source).read_text() for source in PROJECT}).items():
        for target in _LINK.findall(_FENCE.sub("", text)):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target[1]))
            if path not in PROJECT and not path.startswith("docs/"):
                found.add(path)
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the site its navigation."""
    titles = {path: name for path, (name, _) in written().items()}
    config.extra["made"] = made()
    titles |= {path: title(text) for path, text in config.extra["made"].items()}
    titles |= {"index.md": "Quick start", "project/readme.md": "README", "recipe.md": "Recipe"}
    config.nav = navigation(titles)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages, and the files that pages link to."""
    from mkdocs.structure.files import File

    for path, text in config.extra.pop("made").items():
        files.append(File.generated(config, path, content=text))
    for path in linked_files():
        files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Mend links that lead out of ``docs/``."""
    path = page.file.src_uri
    if path.startswith(("api/", "verbs/")) or path == "recipe.md":
        return markdown
    return relinked(markdown, path)
