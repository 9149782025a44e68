"""Every command has a function that does the same, every option an argument, and the other way round."""

import dataclasses
import inspect
import typing
from importlib import import_module

import pydantic
import pytest

from reference.parity import TWINS
from reference.verbs import commands, option, parameters


def resolve(dotted):
    """The object of a dotted name: in a module, or a member of a class there."""
    parts = dotted.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{dotted}: there is no such module")


def arguments(dotted):
    """Names of the arguments of a callable; of a dataclass or model its settings."""
    found = resolve(dotted)
    return [name for name in inspect.signature(found).parameters if name not in ("self", "cls", "_")]


def names(command):
    """What a command takes, as options and names of arguments."""
    return {option(one) for one in parameters(command)}


def plain(name):
    return name.removeprefix("--").replace("-", "_")


def has_key(cls, path):
    """Whether a class of settings has a nested key."""
    first, _, rest = path.partition(".")
    hints = typing.get_type_hints(cls)
    fields = cls.model_fields if issubclass(cls, pydantic.BaseModel) else cls.__dataclass_fields__
    if first not in fields:
        return False
    if not rest:
        return True
    inside = [one for one in (hints[first], *typing.get_args(hints[first])) if isinstance(one, type)]
    return any(
        has_key(one, rest) for one in inside if dataclasses.is_dataclass(one) or issubclass(one, pydantic.BaseModel)
    )


def test_every_command_has_a_twin():
    assert set(commands()) == set(TWINS)


@pytest.mark.parametrize("verb", TWINS)
def test_every_option_reaches_an_argument(verb):
    twin = TWINS[verb]
    reached = {name for function in twin.functions for name in arguments(function)}
    for name in names(commands()[verb]):
        if name in twin.settings:
            cls = resolve(twin.settings_of)
            key = twin.settings[name]
            assert key in arguments(twin.settings_of) or has_key(cls, key), name
        elif name in twin.other:
            assert resolve(twin.other[name]), name
        elif name in twin.terminal:
            assert twin.terminal[name], name
        else:
            assert twin.renamed.get(name, plain(name)) in reached, f"{verb} {name} reaches no argument"


@pytest.mark.parametrize("verb", TWINS)
def test_every_argument_is_reached_by_an_option(verb):
    twin = TWINS[verb]
    given = {twin.renamed.get(name, plain(name)) for name in names(commands()[verb])}
    for function in twin.functions:
        for name in arguments(function):
            assert name in given or name in twin.python, f"{function}({name}) has no option of penstock {verb}"


@pytest.mark.parametrize("verb", TWINS)
def test_the_table_speaks_of_nothing_that_is_not_there(verb):
    twin, shown = TWINS[verb], names(commands()[verb])
    for part in (twin.renamed, twin.settings, twin.other, twin.terminal):
        assert set(part) <= shown, (verb, set(part) - shown)
    reached = {name for function in twin.functions for name in arguments(function)}
    common = {"reporter", "progress"}  # said once for all commands
    assert set(twin.python) - common <= reached, (verb, set(twin.python) - reached)
    for function in twin.functions:
        assert inspect.getdoc(resolve(function)), function


@pytest.mark.parametrize("verb", TWINS)
def test_defaults_are_the_same(verb):
    """An option left out and an argument left out do the same."""
    twin = TWINS[verb]
    known = {}
    for function in twin.functions:
        known |= inspect.signature(resolve(function)).parameters
    for one in parameters(commands()[verb]):
        name = option(one)
        argument = known.get(twin.renamed.get(name, plain(name)))
        if name in {**twin.settings, **twin.other, **twin.terminal} or argument is None or one.required:
            continue
        if argument.default in (inspect.Parameter.empty, None, ()) or name in twin.defaults:
            continue  # None and nothing are what a command has where it was not told
        shown = one.default
        assert (tuple(shown) if isinstance(shown, list) else shown) == argument.default, (verb, name)
