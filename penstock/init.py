"""Recipes to begin with: one for each of five purposes, with comments on every key.

    write("corpus", "recipes/crawl.yaml")

They lie in ``init_recipes/`` and run as they are, on this Python installation as a corpus.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from penstock.errors import ConfigError
from penstock.storage import storage_errors

PURPOSES: Mapping[str, str] = {
    "corpus": "A corpus built again every night: cleaned, deduplicated, published.",
    "problems": "Verified problems, made and transformed into groups for post-training.",
    "mixing": "Pre-training with a mixture that is set while it trains.",
    "tokenizer": "Tokenizer research: variants on one corpus, a small model on each.",
    "selection": "Choosing by quality and diversity what is worth training on.",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def recipe_of(purpose: str, path: str | None = None) -> str:
    """The recipe for a purpose, as text.

    Args:
        path: of the file that it is for: its comments speak of it, and the run has its name.

    Raises:
        ConfigError: there is no such purpose.
    """
    if purpose not in PURPOSES:
        near = difflib.get_close_matches(purpose, PURPOSES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"purpose: got {purpose!r}, allowed {', '.join(PURPOSES)}{hint}")
    text = (files("penstock") / "init_recipes" / f"{purpose}.yaml").read_text(encoding="utf-8")
    stem = purpose if path is None else Path(path).stem
    name = stem if _NAME.fullmatch(stem) else purpose
    text = re.sub(r"^name: .*$", f"name: {name}", text, count=1, flags=re.MULTILINE)
    return text.replace("runs/NAME", f"runs/{name}").replace("RECIPE", shlex.quote(path or f"{purpose}.yaml"))


def write(purpose: str, path: str | None = None) -> str:
    """Write the recipe for a purpose into a new file; its path.

    Args:
        path: of the file, or a folder to put it into; by default it is called as the purpose.

    Raises:
        ConfigError: there is no such purpose, or the file is there already.
        StorageError: it cannot be written.
    """
    name = f"{purpose}.yaml"
    target = Path(path or name)
    if target.is_dir() or (path or "").endswith("/"):
        target /= name
    text = recipe_of(purpose, str(target))
    with storage_errors(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = target.open("x", encoding="utf-8")
        except FileExistsError:
            raise ConfigError(f"{target}: got a file that is there already; name another, or take it away") from None
        with file:
            file.write(text)
    return str(target)
