"""How a recipe's mapping is checked before it becomes models: overrides, unknown keys with the nearest name, errors."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pydantic
import yaml
from pydantic import BaseModel

from penstock._yaml import load_yaml
from penstock.errors import ConfigError


def problem(error: Any) -> str:
    path = ".".join(str(p) for p in error["loc"] if not str(p)[:1].isupper() and "[" not in str(p))
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    plain = got is None or isinstance(got, (str, int, float, bool))
    return f"{path or 'recipe'}: {message}" + (f" (got {got!r})" if plain and error["type"] != "value_error" else "")


def override_in(value: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=c`` in place."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: allowed KEY.KEY=VALUE, for example train.steps=200")
    try:
        new = load_yaml(text) if text.strip() else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    for key in keys[:-1]:
        inner = value.get(key)
        if not isinstance(inner, dict):
            inner = value[key] = {}
        value = inner
    value[keys[-1]] = new


def unknown_keys(kind: Any, value: Any, path: str) -> Iterator[str]:
    """Keys of ``value`` that ``kind`` does not have, each with the nearest name it does have."""
    for keys, hint in strange_keys(kind, value):
        yield f"unknown key {'.'.join(map(str, (path, *keys) if path else keys))}; {hint}"


def strange_keys(kind: Any, value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """What ``unknown_keys`` says, in parts: the keys that lead to the unknown one, and what may be meant."""
    if isinstance(value, (list, tuple)):
        inner = [a for a in alternatives(kind) if get_origin(a) in (tuple, list)]
        for option in inner:
            for index, item in enumerate(value):
                yield from strange_keys(get_args(option)[0], item, (*above, index))
        return
    if not isinstance(value, dict):
        return
    for option in alternatives(kind):
        if get_origin(option) in (dict, Mapping):
            for key, item in value.items():
                yield from strange_keys(get_args(option)[1], item, (*above, key))
            return
    for option in alternatives(kind):
        known = fields_of(option)
        if known is None:
            continue
        for key, item in value.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                yield (*above, key), f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
            else:
                yield from strange_keys(known[key], item, (*above, key))
        return


def alternatives(kind: Any) -> list[Any]:
    """The alternatives of a union, with annotations stripped."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [o for a in get_args(kind) for o in alternatives(a)]
    return [kind]


def fields_of(kind: Any) -> dict[str, Any] | None:
    """The fields of a model or a dataclass with their types; None for any other type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {f.name: hints[f.name] for f in fields(kind) if f.init}
    return None


def with_overrides(kind: type[Any], settings: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Any, Any]:
    """Settings of a verb that needs no recipe, and those of its embedder.

    Args:
        kind: the dataclass of the settings.
        settings: of it, nested.
        overrides: ``KEY.KEY=VALUE``, the value as YAML, over them; ``embed.KEY=VALUE`` sets the embedder.

    Returns:
        (a ``kind``, an ``EmbedConfig``)

    Raises:
        ConfigError: an unknown setting, or one that is not allowed.
    """
    from penstock.embedding.config import EmbedConfig

    given: dict[str, Any] = {**settings, "embed": {}}
    for override in overrides:
        override_in(given, override)
    embed = given.pop("embed")
    return _built(kind, given, ""), _built(EmbedConfig, embed, "embed")


def _built(kind: type[Any], settings: Any, name: str) -> Any:
    if unknown := list(unknown_keys(kind, settings, name)):
        raise ConfigError("; ".join(unknown))
    try:
        return pydantic.TypeAdapter(kind).validate_python(settings)
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(problem(e).removeprefix("recipe: ") for e in error.errors())) from error
