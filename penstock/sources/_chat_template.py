"""Chat templates in Jinja, rendered as transformers renders them, with the place of what the assistant says.

A template takes ``messages`` (and ``tools``) and writes one text. Between ``{% generation %}`` and
``{% endgeneration %}`` stands what training learns from; ``apply_chat_template(return_assistant_tokens_mask=True)`` of
transformers reads the same marks. The sandbox, the whitespace rules, ``tojson``, ``raise_exception`` and loop controls
are those of transformers. ``strftime_now`` is not: a text that depends on the clock would be another one in every run,
so a template that asks for it is refused and told to take a date as a variable.

Marked output is bracketed by two noncharacters of Unicode, which no message may hold, and they are taken out again. So
a block is found wherever its output ends up, in a macro or a variable too.

Price: 20 µs a message.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import ConfigError, InputError

OPEN, CLOSE = "\ufdd0", "\ufdd1"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_EDGES = re.compile(f"([{OPEN}{CLOSE}])")
_MAX_BYTES = 1 << 20


class TemplateFailed(Exception):
    """A template could not render these messages; the text says why."""


@functools.cache
def source_of(path: str) -> str:
    """The template's text.

    Raises:
        InputError: it cannot be read, is not UTF-8 or larger than a megabyte.
    """
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            data: bytes = file.read(_MAX_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat template {path}: cannot be read ({error}); give the path of a Jinja file") from error
    if len(data) > _MAX_BYTES:
        raise InputError(f"chat template {path}: got more than {_MAX_BYTES} bytes, allowed fewer; give a Jinja file")
    return text


def digest_of(path: str) -> str:
    """What a row rendered with the template depends on besides its messages."""
    return hashlib.sha256(source_of(path).encode()).hexdigest()


@functools.cache
def compiled(path: str) -> Any:
    """The template, ready to render.

    Raises:
        ConfigError: it is not Jinja.
    """
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}…{% endgeneration %}``: the output between two marks."""

        tags = {"generation"}  # noqa: RUF012 (Jinja reads it from the class)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(_format: str) -> None:
        raise jinja2.TemplateError("it asks for the time; give it a date with chat.variables, or take the call out")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    try:
        return environment.from_string(source_of(path))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"chat template {path}: line {error.lineno}: {error.message}; mend it") from error


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates write it: no HTML escapes, characters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def check(path: str, *, generation: bool) -> None:
    """Raise ConfigError unless the template, read anew, is Jinja and, if asked, marks what is generated."""
    source_of.cache_clear()
    compiled.cache_clear()
    compiled(path)
    if generation and not _GENERATION.search(source_of(path)):
        raise ConfigError(
            f"chat template {path}: got no {{% generation %}} block, allowed one around what the assistant says, its "
            "closing marker included; put it in, or set chat.learn: all"
        )


def render(
    path: str, messages: Sequence[Mapping[str, Any]], tools: Any, variables: Mapping[str, str]
) -> tuple[str, list[int]]:
    """The text of the messages, and the byte ranges of the generation blocks in it: [start, stop, start, stop, …].

    Raises:
        TemplateFailed: the template raised an error.
    """
    import jinja2

    try:
        marked = compiled(path).render(
            {**variables, "messages": messages, "tools": tools, "documents": None, "add_generation_prompt": False}
        )
    except (
        jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise TemplateFailed(f"{type(error).__name__}: {error}"[:200]) from error
    parts = _EDGES.split(marked)
    ranges: list[int] = []
    depth = at = 0
    for part in parts:
        if part == OPEN:
            ranges += [at] if depth == 0 else []
            depth += 1
        elif part == CLOSE:
            depth -= 1
            ranges += [at] if depth == 0 else []
        else:
            at += len(part.encode("utf-8", "surrogatepass"))
    if depth or len(ranges) % 2:
        raise TemplateFailed("it cuts its own generation blocks apart")
    return "".join(parts[::2]), ranges
