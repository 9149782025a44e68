"""Where in a recipe a mistake stands: the line of its file, or the ``--set`` that made it.

Only when a recipe is refused is its text read a second time, for the places of its keys.

Price: none for a recipe that is right; one reading more for one that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_origin

import pydantic
import yaml

from penstock._recipe_reading import alternatives, fields_of, problem
from penstock.errors import ConfigError
from penstock.report.text import shorten, visible

Keys = tuple[Any, ...]  # from the top of the recipe down: names of keys, indices of lists

MOST_TOLD = 20  # mistakes of one file; a text that is no recipe at all would be nothing but mistakes
_SHOWN = 3  # of them, whose lines are shown
_WIDTH = 100  # characters of a line that are
_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what YAML counts lines by
_MERGE = "tag:yaml.org,2002:merge"
# a key belongs in no recipe; where one was written all the same, it does not reach a log
_SECRET = re.compile(
    r"((?<![a-z])(?:api[_-]?key|token|secret|passw(?:or)?d|authorization)(?![a-z])[\w-]*['\"]?\s*[:=]\s*)[^\s,}\]]+",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=://)[^/\s@]+@|[^\s/@'\"{}\[\],:]+:[^\s/@'\"{}\[\],]+@")  # user:password@, scheme or none
_WORD = re.compile(r"[^\s,:;()]+")


class _Mistake(NamedTuple):
    places: Sequence[Keys]  # keys that lead to it, then those of the same section that the message speaks of too
    message: str
    unknown: bool = False  # the last key is none that recipes have; what stands behind it is not shown


class _Place(NamedTuple):
    line: int  # from 0
    column: int
    end: int  # column behind the key; -1 shows the whole line


def not_yaml(error: Exception, where: str, text: str) -> ConfigError:
    """The error of a text that is no YAML, with its line.

    Args:
        error: of ``load_yaml``.
        where: the recipe's file.
    """
    place = None
    said = " ".join(str(error).split())
    if isinstance(error, yaml.MarkedYAMLError):
        said = " ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        place = None if mark is None else _Place(mark.line, mark.column, -1)
    elif isinstance(error, yaml.reader.ReaderError):
        before = _BREAKS.split(text[: error.position])
        place = _Place(len(before) - 1, len(before[-1]), -1)
        said = f"{error.reason} (U+{ord(text[error.position]):04X})"
    return _told([(place, "", f"not YAML: {said}")], where, text)


@dataclass(frozen=True)
class Reading:
    """A recipe as it was given, to say where its mistakes are.

    Attributes:
        where: its file.
        text: what stands there.
        value: the mapping with the overrides in it.
        overrides: ``a.b=value``, in order.
    """

    where: str
    text: str
    value: Mapping[Any, Any]
    overrides: Sequence[str]

    def unknown(self, found: Sequence[tuple[Keys, str]]) -> ConfigError:
        """The error of keys that ``_recipe_reading.strange_keys`` found, with its hints."""
        said = [f"unknown key {'.'.join(map(str, keys))}; {hint}" for keys, hint in found]
        return self._told([_Mistake([keys], text, True) for (keys, _), text in zip(found, said, strict=True)])

    def invalid(self, error: pydantic.ValidationError) -> ConfigError:
        """The error of values that pydantic refuses."""
        mistakes = []
        for one in error.errors()[:MOST_TOLD]:
            section, said = self._met(one["loc"]), problem(one).removeprefix("recipe: ")
            # a check of a whole section says in words what it does not like
            own = self._named(section, one["msg"]) if one["type"] == "value_error" else []
            mistakes.append(_Mistake(own or [section], said))
        return self._told(mistakes)

    def refused(self, error: ConfigError, kind: Any) -> ConfigError:
        """The error of a section that checks itself; ``kind`` is the recipe's class.

        Such an error does not say where it was raised, so the sections are made one by one, inner ones first, to find
        the one that raises it.
        """
        said = str(error)
        section = _refusing(kind, self.value, said) or ()
        unknown = said.startswith("unknown key ")
        return self._told([_Mistake(self._named(section, said) or [section], said, unknown)])

    def _met(self, location: Sequence[Any]) -> Keys:
        """Keys of a location of pydantic's, which has names of alternatives between them."""
        keys: Keys = ()
        value: Any = self.value
        for part in location:
            inner = _inside(value, part)
            if inner is not _ABSENT:
                keys, value = (*keys, part), inner
        return keys

    def _named(self, section: Keys, said: str) -> list[Keys]:
        """The keys given in a section that a message speaks of, in its order."""
        found = []
        for word in _WORD.findall(said):
            parts = word.split(".")
            # "policy.lag" of a message may be "lag" of the section train.policy
            longer = [(*section, *parts[start:]) for start in range(len(parts))]
            found += [keys for keys in longer if self._has(keys)][:1]
        return list(dict.fromkeys(found))

    def _has(self, keys: Keys) -> bool:
        value: Any = self.value
        for key in keys:
            value = _inside(value, key)
        return value is not _ABSENT

    def _told(self, mistakes: Sequence[_Mistake]) -> ConfigError:
        root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        found: list[tuple[_Place | None, str, str]] = []
        for (keys, *others), message, unknown in mistakes:
            place, met = _place(root, keys, unknown)
            options = self._options(keys, below=met < len(keys))
            if options:
                found.append((None, ", ".join(options), message))
                continue
            beside = dict.fromkeys(option for other in others for option in self._options(other))
            found.append((place, "", message + (f" (with {', '.join(beside)})" if beside else "")))
        return _told(found, self.where, self.text)

    def _options(self, keys: Keys, below: bool = False) -> list[str]:
        """The override that a place has its value from, as it was given; with ``below`` those of what is in it."""
        names = tuple(map(str, keys))
        own = [(tuple(o.partition("=")[0].strip().split(".")), f"--set {masked(o)}") for o in self.overrides]
        above = [said for at, said in own if at == names[: len(at)]]
        return above[-1:] or [said for at, said in own if below and names == at[: len(names)]]


def masked(text: str) -> str:
    """A line without what looks like a key or a password in it."""
    return _USER.sub("…@", _SECRET.sub(r"\1…", text))


_ABSENT = object()


def _inside(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(key, (str, int, float, bool)):
        return value.get(key, _ABSENT)
    if isinstance(value, (list, tuple)) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    return _ABSENT


def _refusing(kind: Any, value: Any, said: str, keys: Keys = ()) -> Keys | None:
    """Keys of the innermost section that is refused with these words by itself."""
    for option in alternatives(kind):
        known = fields_of(option)
        inner: Iterator[tuple[Any, Any]]
        if known is not None and isinstance(value, Mapping):
            inner = ((key, known[key]) for key in value if key in known)
        elif get_origin(option) in (dict, Mapping) and isinstance(value, Mapping):
            inner = ((key, get_args(option)[1]) for key in value)
        elif get_origin(option) in (tuple, list) and isinstance(value, (list, tuple)):
            inner = ((index, get_args(option)[0]) for index in range(len(value)))
        else:
            continue
        for key, of in inner:
            found = _refusing(of, value[key], said, (*keys, key))
            if found is not None:
                return found
        if known is not None and keys and _refuses(option, value, said):
            return keys
    return None


def _refuses(kind: Any, value: Any, said: str) -> bool:
    try:
        pydantic.TypeAdapter(kind).validate_python(value)
    except ConfigError as error:
        return str(error) == said
    except pydantic.ValidationError:
        return False
    return False


def _place(root: Any, keys: Keys, unknown: bool) -> tuple[_Place | None, int]:
    """Where the last of the keys stands that the file has, its value where that is one word; and how many it has."""
    name, node, met = None, root, 0
    for key in keys:
        pair = _child(node, key)
        if pair is None:
            break
        name, node = pair
        met += 1
    if name is None:
        return None, met
    if unknown and met == len(keys):
        return _Place(name.start_mark.line, name.start_mark.column, name.end_mark.column), met
    mark = (node if isinstance(node, yaml.ScalarNode) else name).start_mark
    return _Place(mark.line, mark.column, -1), met


def _child(node: Any, key: Any) -> tuple[Any, Any] | None:
    """The node that names a key and that of its value; an entry of a list names itself."""
    if isinstance(node, yaml.SequenceNode):
        if isinstance(key, int) and 0 <= key < len(node.value):
            return node.value[key], node.value[key]
        return None
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in reversed(node.value):  # the last of two equal keys holds
        if isinstance(name, yaml.ScalarNode) and name.tag != _MERGE and name.value == str(key):
            return name, value
    for name, value in node.value:
        if name.tag == _MERGE:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                pair = _child(merged, key)
                if pair is not None:
                    return pair
    return None


def _told(found: Sequence[tuple[_Place | None, str, str]], where: str, text: str) -> ConfigError:
    """One error for all that was found: ``file:line:column: message``, and the lines as notes."""
    said = []
    for place, option, message in found:
        at = option or (where if place is None else f"{where}:{place.line + 1}:{place.column + 1}")
        said.append(f"{at}: {message}")
    error = ConfigError("; ".join(said))
    places = dict.fromkeys(place for place, _, _ in found if place is not None)
    for place in list(places)[:_SHOWN]:
        error.add_note(_excerpt(text, place))
    return error


def _excerpt(text: str, place: _Place) -> str:
    """The line, numbered, with its place marked below it."""
    line = [*_BREAKS.split(text), ""][place.line]
    if place.end >= 0:
        line = f"{line[: place.end]}: …"
    skipped = max(0, place.column - _WIDTH // 2)
    before, after = (visible(part).replace("\t", " ") for part in (line[skipped : place.column], line[place.column :]))
    before = "…" * bool(skipped) + before
    shown = masked(before + shorten(after, max(1, _WIDTH - len(before))))
    number = f"{place.line + 1:5} | "
    return f"{number}{shown}\n{' ' * (len(number) + len(before))}^"
