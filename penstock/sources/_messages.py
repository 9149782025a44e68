"""Messages of a conversation as files hold them, in one form: a known role, content as text, tool calls as values.

Both ``{"role": …, "content": …}`` and ShareGPT's ``{"from": …, "value": …}``; content may be a list of parts of type
text. Null keys go, for Parquet gives every message the keys of all; other keys stay for templates that know them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
_OTHER_NAMES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}


class Unusable(Exception):
    """A record cannot be used: the reason, and a detail."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def message_of(message: Any, roles: Mapping[str, str]) -> dict[str, Any]:
    """One message with a known role and its content as text; its other keys stay, null ones go."""
    if not isinstance(message, Mapping):
        raise Unusable("bad_message", f"got {type(message).__name__}, not an object")
    out = {str(key): value for key, value in message.items() if value is not None}
    role = out.pop("from", None) if "role" not in out else out["role"]
    content = out.pop("value", None) if "content" not in out else out["content"]
    if not isinstance(role, str):
        raise Unusable("bad_message", "no role" if role is None else f"role: got {type(role).__name__}")
    known = roles.get(role) or (role if role in ROLES else _OTHER_NAMES.get(role))
    if known is None:
        raise Unusable("unknown_role", role.encode("utf-8", "replace").decode()[:80])
    weight = out.get("weight", 1)
    if weight not in (0, 1):
        raise Unusable("bad_message", "weight is neither 0 nor 1")
    out |= {"role": known, "content": _content(content, known, bool(out.get("tool_calls")))}
    if "tool_calls" in out:
        out["tool_calls"] = [_call(call) for call in listed(out["tool_calls"])]
        if not out["tool_calls"] or known != "assistant":
            del out["tool_calls"]
    return out


def _content(content: Any, role: str, calls: bool) -> str:
    if content is None and calls and role == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise Unusable("bad_message", "no content" if content is None else f"content: got {type(content).__name__}")
    parts: list[str] = []
    for part in content:
        if isinstance(part, Mapping):
            kind = part.get("type", "text")
            if kind != "text":
                raise Unusable("unsupported_content", f"a part of type {kind}"[:80])
            part = part.get("text")
        if not isinstance(part, str):
            raise Unusable("bad_message", f"a part of the content: got {type(part).__name__}")
        parts.append(part)
    return "".join(parts)


def _call(call: Any) -> dict[str, Any]:
    """A tool call in OpenAI's form, its arguments as values."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unusable("bad_message", "a tool call without a function's name")
    arguments = parsed(function.get("arguments"))
    if isinstance(arguments, Mapping):
        # Parquet fills the keys that only other calls have
        arguments = {key: value for key, value in arguments.items() if value is not None}
    kept = {key: value for key, value in call.items() if value is not None and key not in ("name", "arguments")}
    return {"type": "function", **kept, "function": {"name": function["name"], "arguments": arguments}}


def turn(value: Any, role: str) -> tuple[list[Any], bool]:
    """A text as a message of this role and True; a list of messages, or JSON text of one, as it is and False."""
    value = decoded(value)
    if value is None:
        raise Unusable("no_messages", f"no text of the {role}")
    if not isinstance(value, str):
        return listed(value), False
    if value.lstrip().startswith("["):
        found = parsed(value)
        # a prompt may be JSON that speaks of something else
        if (
            isinstance(found, list)
            and found
            and all(isinstance(m, dict) and m.keys() & {"role", "from"} for m in found)
        ):
            return found, False
    return [{"role": role, "content": value}], True


def listed(value: Any) -> list[Any]:
    """A list, or JSON text of one; nothing for null."""
    value = parsed(value)
    if value is None or value == "":
        return []
    if not isinstance(value, (list, tuple)):
        raise Unusable("bad_message", f"got {type(value).__name__}, not a list")
    return list(value)


def parsed(value: Any) -> Any:
    """A value; JSON text of a list or an object as that."""
    value = decoded(value)
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def decoded(value: Any) -> Any:
    """UTF-8 bytes as text."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Unusable("invalid_utf8", f"byte {error.start}") from error


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a nested value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_of(key)
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)
