"""YAML from people and from other machines: plain values, in bounded time, and every mistake a ``yaml.YAMLError``.

PyYAML's safe loader makes no objects, but it lets ValueError, KeyError and others out where a value does not fit its
tag (``2001-99-99``, ``!!bool maybe``, an integer of 5,000 digits), and aliases within aliases (the "billion laughs")
are small in memory and endless for whoever walks through them.

Price: PyYAML's, about 100 kB/s; a walk through the values beside it.
"""

from __future__ import annotations

from typing import Any

import yaml

LARGEST = 1 << 18  # characters of a text; a recipe has a few thousand
_MOST = 200_000  # values, each alias counted as what it stands for
_DEEPEST = 200


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int):
                str(value)  # 0xfff… is read whatever its length, and no message could show it
            return value
        except (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise yaml.constructor.ConstructorError(None, None, f"no {kind} ({error})", node.start_mark) from error


def load_yaml(text: str) -> Any:
    """The value of a text: mappings, lists, texts, numbers, truth values, dates and None.

    Raises:
        yaml.YAMLError: it is no YAML; a value does not fit its tag; the text has more than 262,144 characters; values
            stand more than 200 deep in one another, or within themselves, or are more than 200,000 with aliases
            written out.
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"{len(text):,} characters, allowed {LARGEST:,}")
    try:
        # a subclass of the safe loader: no tag makes an object
        value = yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("lists or mappings are too deep in one another") from error
    except (ValueError, OverflowError) as error:  # of the scanner, for an escape that is no character
        raise yaml.YAMLError(str(error)) from error
    _check_extent(value)
    return value


def _check_extent(value: Any) -> None:
    left, open_ = _MOST, [(value, 0)]
    while open_:
        inner, depth = open_.pop()
        if isinstance(inner, dict):
            parts = [*inner.keys(), *inner.values()]
        elif isinstance(inner, (list, tuple, set)):
            parts = list(inner)
        else:
            continue
        left -= len(parts)
        if depth >= _DEEPEST:
            raise yaml.YAMLError("lists or mappings are too deep in one another, or within themselves")
        if left < 0:
            raise yaml.YAMLError(f"more than {_MOST:,} values, with aliases written out")
        open_ += [(part, depth + 1) for part in parts]
