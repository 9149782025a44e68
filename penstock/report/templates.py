"""Pages from Jinja templates: what every template of ours is read and printed by."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources.abc import Traversable
from typing import Any

import jinja2


def environment(templates: Traversable, finalise: Callable[[Any], Any]) -> jinja2.Environment:
    """An environment that escapes everything, and lets ``finalise`` see every value before it is printed."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: templates.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        finalize=finalise,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
