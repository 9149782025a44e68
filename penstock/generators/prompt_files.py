"""Prompts as files that users can replace: text with ``{{placeholders}}``, checked when it is read.

A prompt is Markdown or plain text. ``{{name}}`` is where a value goes; each prompt states which it must have and which
it may have, and one with another is refused when it is read, not in the middle of a run. Values are put in once: a
value that spells a placeholder stays as it is, so nothing that a model wrote can reach into the prompt around it.

``digest`` names the wording; it is part of what decides an answer and stands in the origin of every item.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.errors import ConfigError

_PLACEHOLDER = re.compile(r"\{\{\s*([a-z_]+)\s*\}\}")


@dataclass(frozen=True)
class PromptFile:
    """A prompt's wording.

    Attributes:
        name: what it is for.
        text: with its placeholders.

    Raises ConfigError where a placeholder is missing or not known, or the text is blank.
    """

    name: str
    text: str
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError(f"prompt {self.name}: got no text, allowed a prompt; write one or remove the file")
        has = set(_PLACEHOLDER.findall(self.text))
        known = self.required | self.optional
        said = ", ".join(f"{{{{{name}}}}}" for name in sorted(known)) or "none"
        if unknown := sorted(has - known):
            raise ConfigError(f"prompt {self.name}: got {{{{{unknown[0]}}}}}, allowed {said}; correct or remove it")
        if missing := sorted(self.required - has):
            raise ConfigError(f"prompt {self.name}: got no {{{{{missing[0]}}}}}, which it needs; add it")
        object.__setattr__(self, "digest", hashlib.sha256(self.text.encode()).hexdigest()[:16])

    def fill(self, **values: object) -> str:
        """The text with every placeholder replaced; ``values`` may hold more than it has."""
        return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), self.text).strip()


def read_prompts(
    own: Path, known: Mapping[str, tuple[frozenset[str], frozenset[str]]], folder: str | None = None
) -> dict[str, PromptFile]:
    """Prompts by name: ``NAME.md`` of ``folder`` where it has one, else of ``own``.

    Args:
        own: the folder of the package that has all of them.
        known: name to its required and its optional placeholders.
        folder: the user's, with the files that replace ours.

    Raises:
        ConfigError: the folder is none, has a file of another name, or a prompt is not acceptable.
    """
    replaced: dict[str, Path] = {}
    if folder is not None:
        place = Path(folder)
        if not place.is_dir():
            raise ConfigError(f"prompts: got {folder}, which is no folder, allowed a folder of *.md files; make it")
        replaced = {path.stem: path for path in sorted(place.glob("*.md"))}
        for name in replaced:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}.md?" if near else "; rename or remove it"
                raise ConfigError(f"{place / name}.md: got no known prompt, allowed {', '.join(sorted(known))}{hint}")
        if not replaced:
            raise ConfigError(f"prompts: got no *.md file in {folder}, allowed {', '.join(sorted(known))}; add one")
    return {
        name: PromptFile(name, read_text(replaced.get(name, own / f"{name}.md")), *placeholders)
        for name, placeholders in known.items()
    }


def read_text(path: str | Path) -> str:
    """A small UTF-8 file.

    Raises:
        ConfigError: it cannot be read as such.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); allowed a text file in UTF-8") from error
