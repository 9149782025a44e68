"""A page a command, from the command line itself: usage, options with their defaults, and what does it from Python."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from reference import api
from reference.parity import TWINS
from reference.text import cell, code, escaped, table

_KINDS = {str: "text", int: "integer", float: "number", Path: "path"}
HIDDEN = ("--help", "--install-completion", "--show-completion")


@cache
def commands() -> dict[str, Any]:
    """Every command that does something, by the words that call it, in the order of ``penstock --help``."""
    import typer

    from penstock.cli import app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        inside = getattr(command, "commands", None)
        if inside is None:
            yield " ".join(words), command
            return
        for name, one in inside.items():
            yield from below(one, (*words, name))

    return dict(below(typer.main.get_command(app), ()))


def option(parameter: Any) -> str:
    """How a parameter is known: the longest of its flags, or the name of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.name)
    return max(parameter.opts, key=len)


def parameters(command: Any) -> list[Any]:
    """All parameters of a command but those that every command has."""
    return [one for one in command.params if option(one) not in HIDDEN]


def allowed(command: Any, parameter: Any) -> str:
    """What a parameter takes, with its bounds."""
    hint = typing.get_type_hints(command.callback, include_extras=True)[parameter.name]
    kind, info = typing.get_args(hint)[:2]
    kinds = list(_plain(kind))
    if kinds == [bool]:
        return "flag"
    several = ", again for more" if typing.get_origin(kind) is list else ""
    names = " ".join(_KINDS[one] for one in kinds)
    bounds = [f"{sign} {value}" for sign, value in ((">=", info.min), ("<=", info.max)) if value is not None]
    return ", ".join([names, *bounds]) + several


def _plain(kind: Any) -> Iterator[Any]:
    """The types that a hint is made of, without None."""
    inside = typing.get_args(kind)
    for one in inside:
        yield from _plain(one)
    if not inside and kind is not type(None):
        yield kind


def default(parameter: Any) -> str:
    """The default of a parameter, as one would type it."""
    value = parameter.default
    if parameter.required:
        return "required"
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return "" if value is None or value is False or value == "" else code("on" if value is True else str(value))


def usage(words: str, command: Any) -> str:
    """The line that says how a command is called."""
    arguments = [
        name if one.required else f"[{name}]"
        for one in command.params
        if one.param_type_name == "argument"
        for name in [f"{(one.metavar or one.name).upper()}{'...' if one.nargs == -1 else ''}"]
    ]
    return " ".join(["penstock", words, "[OPTIONS]", *arguments])


def page(words: str, command: Any, shown_in: Mapping[str, str]) -> str:
    """The page of a command as Markdown.

    Args:
        shown_in: pages with an example of it, path from the page to title.
    """
    first, _, rest = (command.help or "").partition("\n")
    lines = [
        f"# penstock {words}",
        "",
        escaped(first),
        "",
        escaped(rest.strip()),
        "",
        "```",
        usage(words, command),
        "```",
        "",
    ]
    rows = [
        [code(", ".join(sorted((*one.opts, *one.secondary_opts), key=len))
              if one.param_type_name == "option" else option(one)),
         cell(getattr(one, "help", "") or ""), cell(allowed(command, one)), default(one)]
        for one in parameters(command)
    ]  # fmt: skip
    lines += table(("", "", "takes", "default"), rows)
    lines += _from_python(words)
    if shown_in:
        links = ", ".join(f"[{title}]({path})" for path, title in sorted(shown_in.items()))
        lines += ["## Examples", "", f"On these pages: {links}.", ""]
    return "\n".join(lines)


def _from_python(words: str) -> list[str]:
    twin = TWINS[words]
    names = ", then ".join(f"[`{name}`](../api/{api.place(name)})" for name in twin.functions)
    lines = ["## From Python", "", f"{names}.", ""]
    rows = [
        *([code(given), code(argument)] for given, argument in twin.renamed.items()),
        *(
            [code(given), f"{code(key)} of `{twin.settings_of.rpartition('.')[2]}`"]
            for given, key in twin.settings.items()
        ),
        *([code(given), code(name)] for given, name in twin.other.items()),
        *([code(given), cell(why)] for given, why in twin.terminal.items()),
        *([code(given), f"another default: {cell(why)}"] for given, why in twin.defaults.items()),
    ]
    if not rows:
        return [*lines, "Arguments are called as the options are.", ""]
    return [*lines, "Arguments are called as the options are, but for these:", "", *table(("command", "Python"), rows)]


def path_of(words: str) -> str:
    """Where the page of a command is, below ``verbs/``."""
    return f"{words.replace(' ', '-')}.md"


def used(text: str) -> set[str]:
    """The commands that the shell blocks of a page show."""
    found = set()
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL):
        for words in re.findall(r"(?:^|[\s/(])penstock ([a-z-]+(?: [a-z-]+)?)", block):
            one, _, two = words.partition(" ")
            found |= {name for name in TWINS if name in (one, f"{one} {two}")}
    return found


def pages(docs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Path below the site's root to Markdown: one page a command, and the list of them.

    Args:
        docs: path of each written page to (title, Markdown); examples are looked for in them.
    """
    made = {}
    examples = {path: used(text) for path, (_, text) in docs.items()}
    rows = []
    for words, command in commands().items():
        shown = {f"../{path}": docs[path][0] for path, names in examples.items() if words in names}
        made[f"verbs/{path_of(words)}"] = page(words, command, shown)
        rows.append([f"[`penstock {words}`]({path_of(words)})", cell((command.help or "").partition("\n")[0])])
    index = [
        "# Commands", "",
        "Every command is one function; `--help` says the same as its page. User errors are one line on stderr and",
        "exit code 1, wrong options exit code 2.", "",
        *table(("command", ""), rows),
    ]  # fmt: skip
    return made | {"verbs/index.md": "\n".join(index)}
