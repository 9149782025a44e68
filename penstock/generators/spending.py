"""What asking models took in each step of a run: ``models.json`` beside the run's timings.

These are facts of one build on one day (what was kept already, how long a server took), so no manifest holds them.

    remember(root / "completed", {"qwen": meter})
    spending(root)    ->  {"completed": {"qwen": {"requests": 1200, "kept": 0, "asked": 1200, …}}}

Price: a small file is read and written a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.checked import sealed, unsealed
from penstock.generators.meter import Meter
from penstock.storage import Folder

FILE = "models.json"


def remember(step: Folder, meters: Mapping[str, Meter]) -> None:
    """Keep what the last build of a step took.

    Args:
        step: its folder, in that of the run.
        meters: by model, as ``base.name_of`` names it; nothing is kept where none was asked.
    """
    root, _, name = step.url.rpartition("/")
    if meters:
        told = {name: {model: meter.to_json() for model, meter in sorted(meters.items())}}
        Folder(root).write_json(FILE, sealed(spending(Folder(root)) | told))


def spending(root: Folder) -> dict[str, dict[str, dict[str, Any]]]:
    """``Meter.to_json`` of the last build of each step that asked, by its name and the model's.

    A damaged file is as good as none.
    """
    try:
        return unsealed(root.read_json(FILE))
    except (FileNotFoundError, ValueError):
        return {}
