"""pytest tests/training/test_loader_docs.py"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from penstock.training.config import TrainData

PAGE = (Path(__file__).parents[2] / "docs" / "loader.md").read_text()


def test_the_example_runs_and_says_what_happens(tiny_data: TrainData) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    names: dict[str, Any] = {"files": tiny_data.train, "digest": "f00d"}
    exec(code, names)  # noqa: S102 - our own page
    loader = names["loader"]
    assert loader.consumed == 800
    assert loader.effective_from(1) == (50 + loader.lag) * 8
    assert (loader.weights_of(0), loader.weights) == ((0.25, 0.75), (0.5, 0.5))


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / target).exists(), target
