"""Conversations as text, with the byte ranges that training learns from.

A record holds messages in one of four shapes, told by the columns that the entry names:

    messages                    [{"role": …, "content": …}, …], or ShareGPT's [{"from": …, "value": …}, …]
    prompt, completion          two texts, or two lists of messages (TRL's prompt-completion data)
    instruction, input, output  Alpaca's; the input, where there is one, follows the instruction on a line of its own

A list may also lie in its column as JSON text. ``system`` names a column whose text becomes the first message. Content
is a text, or a list of parts of type text. Tool calls and what tools return are written as the template's models know
them; a template in Jinja sees them as they are.

Templates by name (ChatML is Qwen's and many others', without a system prompt of its own):

    chatml   <|im_start|>ROLE\\nCONTENT<|im_end|>\\n for each message
    llama3   <|begin_of_text|>, then <|start_header_id|>ROLE<|end_header_id|>\\n\\nCONTENT<|eot_id|>, content stripped
    plain    the contents with ``separator`` between them

Learned of an assistant's message are its content and, unless ``learn_end`` is off, the marker that ends its turn:
without it a model would not learn to stop. A message with ``weight: 0`` is not learned. Of a template in Jinja, its
generation blocks are. A record of which nothing is learned is dropped.

Text is data: a message that spells one of the template's markers could end its own turn, so its record is dropped
(``spells_marker``). That lets the tokenizer take every marker it finds for the token it stands for.

Reasons of drops: ``no_messages``, ``bad_message``, ``unknown_role``, ``unsupported_content``, ``spells_marker``,
``nothing_to_learn``, ``template_error``, ``invalid_utf8``, ``too_large``.

Price: 5 µs a message, and 120 MB/s of text a core in messages of 1 kB with the parsing of the JSON lines.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError
from penstock.sources import _chat_template as jinja
from penstock.sources._messages import ROLES, Unusable, decoded, listed, message_of, parsed, texts_of, turn
from penstock.sources.base import Origin

if TYPE_CHECKING:
    from penstock.sources._records import Record

MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "plain": (),
}
LEARN = ("assistant", "last_assistant", "all")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# columns of each shape: what has to be there, what may be
SHAPES = {
    "messages": (("messages",), ("system", "tools")),
    "prompt": (("prompt", "completion"), ("system", "tools")),
    "instruction": (("instruction", "output"), ("input", "system")),
}
COLUMNS = ("messages", "prompt", "completion", "instruction", "input", "output", "system", "tools")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """How conversations become text.

    Attributes:
        template: chatml, llama3, plain, or the path or URL of a Jinja chat template (``.jinja``, ``.j2``, ``.txt``).
        learn: what training learns from: every ``assistant`` message, the ``last_assistant`` one, or ``all`` text.
        learn_end: whether the marker that ends a learned turn is learned too; of a Jinja template its blocks say it.
        separator: of ``plain``, the text between two contents. When None, nothing between a prompt and a completion
            that are texts, else an empty line.
        markers: special tokens beside those of the named template, such as all that a Jinja template writes. They
            become tokens of the trained tokenizer, and records that spell one are dropped.
        roles: more names of roles, each with one of system, user, assistant, tool.
        variables: more values for a Jinja template, such as ``bos_token``.
    """

    template: str = "chatml"
    learn: str = "assistant"
    learn_end: bool = True
    separator: str | None = None
    markers: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template not in MARKERS and not self.template.endswith((".jinja", ".j2", ".txt")):
            raise ConfigError(
                f"chat.template: got {self.template!r}, allowed {', '.join(MARKERS)} or the path of a Jinja file "
                "(.jinja, .j2, .txt); choose one"
            )
        if self.learn not in LEARN:
            raise ConfigError(f"chat.learn: got {self.learn!r}, allowed {', '.join(LEARN)}; choose one")
        if self.separator is not None and self.template != "plain":
            raise ConfigError(
                f"chat.separator: got {self.separator!r}, allowed only with template: plain; leave it out"
            )
        if self.variables and not self.is_jinja:
            raise ConfigError(
                f"chat.variables: got {', '.join(self.variables)}, allowed only with a Jinja template; leave them out"
            )
        if "" in self.markers:
            raise ConfigError("chat.markers: got an empty text, allowed texts such as <|im_end|>; take it out")
        if self.is_jinja and not self.learn_end:
            raise ConfigError(
                "chat.learn_end: got false, allowed true with a Jinja template; move the marker out of its "
                "{% generation %} block"
            )
        wrong = [f"{name}: {role}" for name, role in self.roles.items() if role not in ROLES]
        if wrong:
            raise ConfigError(f"chat.roles: got {', '.join(wrong)}, allowed one of {', '.join(ROLES)} for each name")

    @property
    def is_jinja(self) -> bool:
        return self.template not in MARKERS

    @property
    def special(self) -> tuple[str, ...]:
        """Texts that should be tokens of their own."""
        return tuple(dict.fromkeys((*MARKERS.get(self.template, ()), *self.markers)))

    @property
    def guarded(self) -> tuple[str, ...]:
        """What no message may spell: the markers of this template, and those of the named ones.

        Another source of the same corpus may be written with another template, and the tokenizer knows the tokens of
        all.
        """
        return _guarded(self.markers)

    def check(self) -> None:
        """Raise ConfigError or InputError where a Jinja template cannot be used. Reads the file."""
        if self.is_jinja:
            jinja.check(self.template, generation=self.learn != "all")

    def digest(self) -> str | None:
        """Of the template's file, if there is one."""
        return jinja.digest_of(self.template) if self.is_jinja else None


@dataclass(frozen=True)
class Rendering:
    """A chat and the columns of a file that hold its messages: pairs of a name of ``COLUMNS`` and one in the file."""

    chat: Chat
    columns: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, chat: Chat, columns: Mapping[str, str]) -> Rendering:
        """For an entry's ``columns``; without any of a shape, the column ``messages``.

        Raises:
            ConfigError: columns of two shapes, of half a shape, or of none.
        """
        named = {name: column for name, column in columns.items() if name in COLUMNS}
        shapes = [shape for shape, (needed, _) in SHAPES.items() if any(name in named for name in needed)]
        if len(shapes) > 1:
            raise ConfigError(
                f"columns: got {', '.join(named)}, allowed messages alone, prompt and completion, or instruction, "
                "input and output; choose one shape"
            )
        shape = shapes[0] if shapes else "messages"
        needed, others = SHAPES[shape]
        if not shapes:
            named = {"messages": "messages", **named}
        missing = [name for name in needed if name not in named]
        extra = [name for name in named if name not in (*needed, *others)]
        if missing or extra:
            raise ConfigError(
                f"columns: got {', '.join(named)}, allowed {', '.join(needed)} and maybe {', '.join(others)}; "
                "name the columns of one shape"
            )
        if "tools" in named and not chat.is_jinja:
            raise ConfigError(f"columns: got tools, which the template {chat.template} does not write; use a Jinja one")
        return cls(chat, tuple((name, named[name]) for name in (*needed, *others) if name in named))

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns of the file without which there are no messages, the first of them first."""
        optional = {name for _, others in SHAPES.values() for name in others}
        return tuple(column for name, column in self.columns if name not in optional)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns of the file."""
        return tuple(column for _, column in self.columns)

    def found_in(self, names: set[str]) -> Rendering:
        """The same without the columns that are not there."""
        return replace(self, columns=tuple(pair for pair in self.columns if pair[1] in names))

    def record(
        self, row: int, values: Mapping[str, Any], domain: str | None, origin: Origin | None, limit: int | None = None
    ) -> Record:
        """The record of one row.

        Args:
            values: of the file's columns by their names there, of any type; UTF-8 as bytes is decoded.
            limit: bytes of text allowed.
        """
        from penstock.sources._records import Record, too_large

        try:
            text, ranges = self.render({name: values.get(column) for name, column in self.columns})
            data = text.encode()
        except Unusable as error:
            return Record(row, None, domain, error.reason, error.detail, self._raw(values))
        except RecursionError:
            return Record(row, None, domain, "bad_message", "nested too deep")
        except UnicodeEncodeError as error:
            raw = error.object.encode("utf-8", "replace")
            return Record(row, None, domain, "invalid_utf8", f"character {error.start}", raw)
        if limit is not None and len(data) > limit:
            return too_large(row, len(data), limit)._replace(domain=domain)
        return Record(row, data, domain, origin=(origin or Origin())._replace(learn=ranges))

    def _raw(self, values: Mapping[str, Any]) -> bytes:
        shown = {column: values.get(column) for column in self.names}
        return json.dumps(shown, default=_shown, ensure_ascii=False).encode("utf-8", "replace")

    def render(self, values: Mapping[str, Any]) -> tuple[str, list[int]]:
        """Text and learned byte ranges of the values of one row by name of ``COLUMNS``.

        Raises Unusable; UnicodeEncodeError for a lone surrogate.
        """
        chat = self.chat
        raw, joined = self._messages({name: decoded(value) for name, value in values.items()})
        messages = [message_of(message, chat.roles) for message in raw]
        if chat.is_jinja:
            return self._by_template(messages, parsed(values.get("tools")))
        pieces = _pieces(messages, chat, joined)
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        text: list[str] = []
        ranges: list[int] = []
        at = 0
        for i, (message, (before, content, end, after)) in enumerate(zip(messages, pieces, strict=True)):
            _check_markers(content, chat.guarded, f"message {i}")
            sizes = [len(part.encode()) for part in (before, content, end, after)]
            of_interest = message["role"] == "assistant" and (chat.learn == "assistant" or i == last)
            if of_interest and message.get("weight") != 0 and content and not content.isspace():
                start = at + sizes[0]
                ranges += [start, start + sizes[1] + (sizes[2] if chat.learn_end else 0)]
            text += (before, content, end, after)
            at += sum(sizes)
        if chat.template == "plain":
            # two messages may spell a marker together
            _check_markers("".join(text), chat.guarded, "messages together")
        if chat.learn == "all":
            ranges = [0, at] if any(piece[1] and not piece[1].isspace() for piece in pieces) else []
        if not ranges:
            raise Unusable("nothing_to_learn")
        return "".join(text), ranges

    def _messages(self, values: Mapping[str, Any]) -> tuple[list[Any], bool]:
        """The messages of a row as they are, and whether they are a prompt and completion of text."""
        first = self.columns[0][0]
        out: list[Any]
        joined = False
        if first == "messages":
            out = listed(values["messages"])
        elif first == "prompt":
            (prompt, one), (completion, two) = turn(values["prompt"], "user"), turn(values["completion"], "assistant")
            out, joined = prompt + completion, one and two
        else:
            question = [text for text in (values["instruction"], values.get("input")) if text not in (None, "")]
            if not all(isinstance(text, str) for text in question):
                raise Unusable("bad_message", "instruction and input are no text")
            asked, _ = turn("\n".join(question) or None, "user")
            said, _ = turn(values["output"], "assistant")
            out = asked + said
        if not out:
            raise Unusable("no_messages")
        system = values.get("system")
        if system not in (None, ""):
            out = [{"role": "system", "content": system}, *out]
        return out, joined

    def _by_template(self, messages: list[dict[str, Any]], tools: Any) -> tuple[str, list[int]]:
        chat = self.chat
        for i, message in enumerate(messages):
            if message.get("weight") == 0:
                raise Unusable("bad_message", f"message {i}: weight 0 has no meaning for a Jinja template")
            for part in texts_of(message):
                _check_markers(part, chat.guarded, f"message {i}")
        for part in texts_of(tools):
            _check_markers(part, chat.guarded, "tools")
        try:
            text, ranges = jinja.render(chat.template, messages, tools, chat.variables)
        except jinja.TemplateFailed as error:
            raise Unusable("template_error", str(error)) from error
        if chat.learn == "all":
            ranges = [0, len(text.encode())]
        ranges = [edge for pair in zip(ranges[::2], ranges[1::2], strict=True) if pair[0] < pair[1] for edge in pair]
        if not ranges or text.isspace():
            raise Unusable("nothing_to_learn")
        return text, ranges[-2:] if chat.learn == "last_assistant" else ranges


def _pieces(messages: Sequence[dict[str, Any]], chat: Chat, joined: bool) -> list[tuple[str, str, str, str]]:
    """What stands before the content of each message, the content, the marker that ends the turn, and the rest."""
    if chat.template == "chatml":
        start, end = MARKERS["chatml"]
        return [(f"{start}{m['role']}\n", _with_calls(m, "chatml"), end, "\n") for m in messages]
    if chat.template == "llama3":
        begin, open_, close, end = MARKERS["llama3"]
        header = [f"{open_}{'ipython' if m['role'] == 'tool' else m['role']}{close}\n\n" for m in messages]
        return [
            ((begin if i == 0 else "") + header[i], _with_calls(m, "llama3").strip(), end, "")
            for i, m in enumerate(messages)
        ]
    separator = chat.separator if chat.separator is not None else "" if joined else "\n\n"
    return [(separator if i else "", _with_calls(m, "plain"), "", "") for i, m in enumerate(messages)]


def _with_calls(message: Mapping[str, Any], template: str) -> str:
    """The content with the tool calls as the models of the template write them."""
    content: str = message["content"]
    calls = message.get("tool_calls")
    if not calls:
        return content
    if template == "plain":
        raise Unusable(
            "unsupported_content", "plain has no form for tool calls; use chatml, llama3 or a Jinja template"
        )
    if template == "llama3":
        if len(calls) > 1 or content:
            raise Unusable("unsupported_content", "llama3 has one tool call a message and no text beside it")
        function = calls[0]["function"]
        return jinja.to_json({"name": function["name"], "parameters": function["arguments"]})
    # Qwen's and Hermes' form
    written = [
        "<tool_call>\n"
        + jinja.to_json({"name": call["function"]["name"], "arguments": call["function"]["arguments"]})
        + "\n</tool_call>"
        for call in calls
    ]
    return "\n".join([content, *written] if content else written)


@functools.cache
def _guarded(markers: tuple[str, ...]) -> tuple[str, ...]:
    every = [marker for named in MARKERS.values() for marker in named]
    return tuple(dict.fromkeys((*every, *markers, jinja.OPEN, jinja.CLOSE)))


def _check_markers(text: str, markers: tuple[str, ...], where: str) -> None:
    if not any(marker[0] in text for marker in markers):
        return
    # cleaning takes control characters out later, so a marker with one inside is one as well
    bare = _CONTROL.sub("", text)
    if any(marker in text or marker in bare for marker in markers):
        raise Unusable("spells_marker", where)


def _shown(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
