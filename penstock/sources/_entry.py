"""What entries of files and of data sets have in common: how their columns become documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from penstock.errors import ConfigError
from penstock.sources._chat import COLUMNS as CHAT_COLUMNS
from penstock.sources._chat import Chat, Rendering
from penstock.sources._locate import locate
from penstock.sources._origin import NAMES
from penstock.sources._records import Columns
from penstock.sources.base import InputFile

COLUMNS = ("text", "domain", *NAMES)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How rows are read.

    Attributes:
        columns: names in the file of ``text``, ``domain``, ``url``, ``title``, ``date`` and ``license``. Each is by
            default the column of that name; those other than the text need not be there unless they are named.
        domain: for records whose domain column is absent or null.
        license: for records whose license column is absent or null; an SPDX identifier where there is one.
        chat: how conversations become text, for columns of messages (see ``_chat``) in place of the text.
    """

    place: ClassVar[tuple[str, ...]] = ()  # fields that say where rows are and not how they are read

    columns: Mapping[str, str] = field(default_factory=dict)
    domain: str | None = None
    license: str | None = None
    chat: Chat | None = None

    def __post_init__(self) -> None:
        unknown = [key for key in self.columns if key not in (*COLUMNS, *CHAT_COLUMNS)]
        if unknown:
            raise ConfigError(
                f"columns: got {', '.join(unknown)}, allowed {', '.join(COLUMNS)}, and of conversations "
                f"{', '.join(CHAT_COLUMNS)}; map them to names in the file"
            )
        if self.rendering is not None and "text" in self.columns:
            raise ConfigError("columns: got text and a conversation, allowed one of them; leave text out")
        for key, value in (("domain", self.domain), ("license", self.license)):
            if value == "":
                raise ConfigError(f"{key}: got an empty text; leave it out where there is none")

    @property
    def rendering(self) -> Rendering | None:
        """How rows of messages become text; None where the text is a column."""
        if self.chat is None and not any(key in self.columns for key in CHAT_COLUMNS):
            return None
        return Rendering.of(self.chat or Chat(), self.columns)

    def template(self) -> list[InputFile]:
        """The file of a Jinja chat template, checked; empty where there is none.

        Raises ConfigError or InputError where it cannot be used.
        """
        rendering = self.rendering
        if rendering is None or not rendering.chat.is_jinja:
            return []
        rendering.chat.check()
        path = rendering.chat.template
        return locate(path, name=f"chat template {path}", any_format=True)

    @property
    def template_digest(self) -> str | None:
        """Of the content of a Jinja chat template."""
        return None if self.rendering is None else self.rendering.chat.digest()

    @property
    def wanted(self) -> Columns:
        """The columns to read."""
        named = self.columns.get("domain")
        # a domain that the recipe states is not overruled by a column that it does not name
        domain = named or (None if self.domain else "domain")
        origin = tuple((name, self.columns.get(name, name)) for name in NAMES)
        required = tuple(self.columns[key] for key in COLUMNS[1:] if key in self.columns)
        chat = self.rendering
        if chat is not None:
            return Columns(chat.needed[0], domain, origin, (*required, *chat.needed[1:]), chat)
        return Columns(self.columns.get("text", "text"), domain, origin, required)
