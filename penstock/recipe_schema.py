"""The JSON schema of recipes, with what the source says of every key.

Pydantic can read attribute docstrings itself, whenever a model is made: 0.4 s at the start of every command, for texts
that only this one shows.

Price: under a second.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import pydantic

from penstock.recipe import Recipe


def recipe_schema() -> dict[str, Any]:
    """The schema that editors complete and check recipes by."""
    schema = Recipe.model_json_schema()
    described = {"Recipe": schema, **schema.get("$defs", {})}
    for cls in _classes(Recipe, set()):
        properties = described.get(cls.__name__, {}).get("properties", {})
        for name, text in attribute_docstrings(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
    return schema


def attribute_docstrings(cls: type) -> dict[str, str]:
    """The string below each annotated attribute of a class, by the attribute's name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    out = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            out[before.target.id] = inspect.cleandoc(after.value.value)
    return out


def _classes(annotation: Any, seen: set[type]) -> Iterator[type]:
    """The models and dataclasses that a recipe is made of, each once."""
    if isinstance(annotation, type) and annotation not in seen:
        seen.add(annotation)
        if issubclass(annotation, pydantic.BaseModel):
            yield annotation
            inside: list[Any] = [field.annotation for field in annotation.model_fields.values()]
        elif dataclasses.is_dataclass(annotation):
            yield annotation
            inside = list(typing.get_type_hints(annotation).values())
        else:
            inside = []
        for one in inside:
            yield from _classes(one, seen)
    for argument in typing.get_args(annotation):
        yield from _classes(argument, seen)
