"""What asking models took in each step of a run: ``models.json`` beside the run's timings.

These are facts of one build on one day (what was kept already, how long a server took), so no manifest holds them.

    remember(root, "completed", "qwen", meter)
    spending(root)    ->  {"completed": {"model": "qwen", "requests": 1200, "kept": 0, "asked": 1200, …}}

Price: a small file is read and written a step.
"""

from __future__ import annotations

import json
from typing import Any

from penstock.generators.meter import Meter
from penstock.storage import Folder

FILE = "models.json"


def remember(root: Folder, step: str, model: str, meter: Meter) -> None:
    """Keep what the last build of a step took.

    Args:
        model: as ``base.name_of`` names it.
    """
    root.write_json(FILE, spending(root) | {step: {"model": model} | meter.to_json()})


def spending(root: Folder) -> dict[str, Any]:
    """``Meter.to_json`` and the ``model`` of the last build of each step that asked one, by its name."""
    try:
        found: dict[str, Any] = root.read_json(FILE)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found
