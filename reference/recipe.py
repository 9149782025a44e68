"""The recipe as a page: every key with its type, default and what is allowed, from the schema that checks it.

What a key is for stands in the source in one of three places: below the attribute, in the docstring of its class, or
behind it on its line.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from reference.text import cell, code, escaped, table

_BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "minItems": "items >=",
    "maxItems": "items <=",
    "minLength": "characters >=",
}
_ARGUMENT = re.compile(r"^    ([a-z_][\w, ]*): (.*)$")
_KEY = re.compile(r"^    (\w+): [^#]*#\s*(.*)$")


@cache
def page() -> str:
    """The page as Markdown."""
    from penstock.recipe_schema import recipe_schema

    schema = recipe_schema()
    told = descriptions()
    lines = [
        "# Recipe", "",
        "A recipe is YAML: sections of keys, each with a default but `name` and `source`. A key that is not below is",
        "refused with the nearest known one. `--set a.b=value` sets one from the command line, `penstock recipe show`",
        "writes all defaults out, and `penstock recipe schema` gives an editor what this page is made from. `null`",
        "switches a section off, `{}` takes it with its defaults.",
        "",
        "## The sections {#Recipe}", "",
    ]  # fmt: skip
    lines += _keys(schema, "Recipe", told)
    for name, path in _reached(schema):
        definition = schema["$defs"][name]
        if "properties" not in definition:
            continue
        about = str(definition.get("description", "")).partition("\n\nArgs:")[0].partition("\n\nAttributes:")[0]
        lines += [f"## `{path}` {{#{name}}}", "", escaped(about), ""]
        lines += _keys(definition, name, told)
    return "\n".join(lines)


@cache
def descriptions() -> Mapping[str, Mapping[str, str]]:
    """What the source says of each key, by class."""
    from penstock.recipe import Recipe
    from penstock.recipe_schema import _classes, attribute_docstrings

    found = {}
    for cls in _classes(Recipe, set()):
        told: dict[str, str] = {}
        for one in reversed([base for base in cls.__mro__ if base.__module__.startswith("penstock.")]):
            behind = {m[1]: m[2] for line in inspect.getsource(one).splitlines() if (m := _KEY.match(line))}
            said = behind | _arguments(inspect.cleandoc(one.__doc__ or "")) | attribute_docstrings(one)
            told |= {name: text for name, text in said.items() if not text.startswith("see ``")}
        found[cls.__name__] = told
    return found


def _arguments(text: str) -> dict[str, str]:
    """What the sections Args and Attributes of a docstring say, by name; of several names at once, by each."""
    out: dict[str, str] = {}
    section, names = False, []
    for line in text.splitlines():
        if line in ("Args:", "Attributes:"):
            section, names = True, []
        elif line and not line.startswith(" "):
            section = False
        elif section and (found := _ARGUMENT.match(line)):
            names = [name.strip() for name in found[1].split(",")]
            out |= dict.fromkeys(names, found[2])
        elif section and line.startswith("        "):
            out |= {name: f"{out[name]} {line.strip()}" for name in names}
    return out


def _keys(definition: dict[str, Any], name: str, told: Mapping[str, Mapping[str, str]]) -> list[str]:
    required = definition.get("required", ())
    rows = []
    for key, value in definition["properties"].items():
        shown = code(json.dumps(value["default"], ensure_ascii=False)) if "default" in value else ""
        if isinstance(value.get("default"), dict) and len(shown) > 40:
            shown = "its defaults"
        text = value.get("description") or told.get(name, {}).get(key, "")
        rows.append([code(key), _type(value), "required" if key in required else shown, cell(text)])
    return table(("key", "type", "default", ""), rows)


def _type(value: dict[str, Any]) -> str:
    """A key's type and what bounds it, as a cell; sections are links."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in value:
            return " or ".join(dict.fromkeys(_type(one) for one in value[several]))
    if "enum" in value:
        return ", ".join(code(json.dumps(one)) for one in value["enum"])
    if "const" in value:
        return code(json.dumps(value["const"]))
    kind = str(value.get("type", "any"))
    if kind == "array":
        inside = value.get("items") or {}
        kind = f"list of {_type(inside)}" if inside else "list"
    elif kind == "object":
        inside = value.get("additionalProperties")
        kind = f"mapping to {_type(inside)}" if isinstance(inside, dict) and inside else "mapping"
    bounds = [f"{sign} {value[bound]}" for bound, sign in _BOUNDS.items() if bound in value]
    if "pattern" in value:
        bounds.append(f"matches {code(value['pattern'])}")
    return ", ".join([kind, *bounds])


def _reached(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Sections with the first path that leads to each, in the order of the recipe."""
    out: dict[str, str] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, list):
            for one in value:
                visit(one, path)
        elif isinstance(value, dict):
            if "$ref" in value:
                name = value["$ref"].rpartition("/")[2]
                if name not in out:
                    out[name] = path
                    visit(schema["$defs"][name].get("properties", {}), path)
                return
            for key, one in value.items():
                if key in ("anyOf", "oneOf", "allOf", "items"):
                    visit(one, path)
                elif key == "additionalProperties":
                    visit(one, f"{path}.NAME")
                elif isinstance(one, dict) and key not in ("default",):
                    visit(one, f"{path}.{key}".strip("."))

    visit(schema["properties"], "")
    return list(out.items())
