"""What the shell completes: recipes, the keys and values of ``--set``, names of methods and runners.

``penstock --install-completion`` sets it up; each function is given the word so far and answers with whole words, some
with what they mean. A shell adds a blank behind a single answer, so a section is answered with what is in it.

Price: up to a second for ``--set``, which loads the recipe's sections; the others only look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

Answer = tuple[str, str]  # a word, and what it means

_ENDINGS = (".yaml", ".yml")
_HELP = 60  # characters; more would be wrapped


def recipes(incomplete: str) -> list[str]:
    """YAML files and folders; a shell looks for other files where there are none."""
    found = list(_recipes_in(incomplete))
    if len(found) == 1 and found[0].endswith("/"):
        return [*found, *_recipes_in(found[0])]
    return found


def _recipes_in(incomplete: str) -> Iterator[str]:
    above, start = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(os.path.expanduser(above) or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
            continue
        path = os.path.join(above, entry.name)
        if entry.is_dir():
            yield f"{path}/"
        elif entry.name.endswith(_ENDINGS):
            yield path


def recipe_settings(incomplete: str) -> list[Answer]:
    """``a.b=value`` of a recipe."""
    from penstock.recipe import Recipe

    return settings_of(Recipe, incomplete)


def generate_settings(incomplete: str) -> list[Answer]:
    """``a.b=value`` of ``penstock generate``."""
    from penstock.embedding.config import EmbedConfig
    from penstock.generators.recipe import GenerateConfig

    return settings_of({"embed": EmbedConfig}, incomplete) + settings_of(GenerateConfig, incomplete)


def transform_settings(incomplete: str) -> list[Answer]:
    """``a.b=value`` of ``penstock transform``."""
    from penstock.embedding.config import EmbedConfig
    from penstock.generators.transforms.config import TransformConfig

    return settings_of({"embed": EmbedConfig}, incomplete) + settings_of(TransformConfig, incomplete)


def selection_methods(incomplete: str) -> list[str]:
    """Methods of ``penstock select --by``."""
    from penstock.selectors.targeted import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def objectives(incomplete: str) -> list[str]:
    """Objectives of ``penstock train --objective``."""
    from penstock.training.group_rl.config import OBJECTIVES

    return [name for name in OBJECTIVES if name.startswith(incomplete)]


def runners(incomplete: str) -> list[str]:
    """Beam runners that ``--runner`` is usually given."""
    known = ("FnApiRunner", "PortableRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")
    return [name for name in known if name.startswith(incomplete)]


def purposes(incomplete: str) -> list[Answer]:
    """Purposes of ``penstock init``."""
    from penstock.init import PURPOSES

    return [(name, text) for name, text in PURPOSES.items() if name.startswith(incomplete)]


def settings_of(kind: Any, incomplete: str) -> list[Answer]:
    """What ``incomplete`` may become as a setting of a model, a dataclass or a mapping of names to such.

    A key without a section behind it ends with ``=``, and again with its default where it has one.
    """
    path, equals, _ = incomplete.partition("=")
    *above, last = path.split(".")
    kinds = [kind]
    for key in above:
        kinds = [inner for one in kinds for inner in _inside(one, key)]
    if equals:
        values = (f"{path}={value}" for one in kinds for inner in _inside(one, last) for value in _values(inner))
        return [(value, "") for value in dict.fromkeys(values) if value.startswith(incomplete)]
    found = {}
    for one in kinds:
        known = {key: inner for key, inner in _fields(one).items() if key.startswith(last)}
        texts = _texts(one) if known else {}
        for key, inner in known.items():
            for answer in _answers(".".join((*above, key)), inner, one, key):
                found[answer] = texts.get(key, "")
    if len(found) == 1:
        (only,) = found
        if only.endswith("."):
            return settings_of(kind, only) or [(only, "")]
    return list(found.items())


def _answers(name: str, inner: Any, owner: Any, key: str) -> Iterator[str]:
    """The words that a key may go on with: what is in it, the values of types that have few, any value."""
    options = _options(inner)
    sections = [option for option in options if _fields(option) or _is_mapping(option)]
    if sections:
        yield f"{name}."
    yield from (f"{name}={value}" for value in _values(inner))
    if any(option not in sections and not _is_few(option) for option in options):
        yield f"{name}="
        default = _default(owner, key)
        if isinstance(default, (int, float)) or (isinstance(default, str) and default.isalnum()):
            yield f"{name}={default}"


def _is_few(option: Any) -> bool:
    return option in (bool, type(None)) or get_origin(option) is Literal


def _values(kind: Any) -> list[str]:
    """The values, as YAML, of those alternatives of a type that have few."""
    found: list[Any] = []
    for option in _options(kind):
        if get_origin(option) is Literal:
            found += get_args(option)
        elif option is bool:
            found += [True, False]
        elif option is type(None):
            found.append(None)
    words = {None: "null", True: "true", False: "false"}
    return [words[value] if value is None or isinstance(value, bool) else str(value) for value in found]


def _options(kind: Any) -> list[Any]:
    from penstock._recipe_reading import alternatives

    return [kind] if isinstance(kind, Mapping) else alternatives(kind)


def _fields(kind: Any) -> Mapping[str, Any]:
    from penstock._recipe_reading import fields_of

    return kind if isinstance(kind, Mapping) else fields_of(kind) or {}


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) in (dict, Mapping)


def _inside(kind: Any, key: str) -> Iterator[Any]:
    """The types that a key of a section leads to; names that a user gives lead to what they name."""
    for option in _options(kind):
        if key in (known := _fields(option)):
            yield from _options(known[key])
        elif _is_mapping(option):
            yield from _options(get_args(option)[1])


def _default(owner: Any, key: str) -> Any:
    """The default of a field; None where it is made anew, or there is none."""
    if hasattr(owner, "model_fields"):
        return owner.model_fields[key].default
    return getattr(owner, key, None)


def _texts(owner: Any) -> dict[str, str]:
    """The first sentence of what the source says below each field."""
    from penstock.recipe_schema import attribute_docstrings
    from penstock.report.text import shorten

    if not isinstance(owner, type):
        return {}
    sentences = {name: " ".join(text.replace("`", "").split()) for name, text in attribute_docstrings(owner).items()}
    return {name: shorten(text.partition(". ")[0], _HELP) for name, text in sentences.items()}
