"""docs/quadmix.md keeps to the code and to the paper's arithmetic."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from penstock.selectors.quadmix_theta import QuaDMixParameters
from penstock.selectors.search.settings import SearchSettings
from penstock.selectors.search.space import ThetaSpace

DOC = (Path(__file__).parents[3] / "docs" / "quadmix.md").read_text()


def test_the_averages_over_nine_tasks_follow_from_their_groups() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", DOC, re.M)
    assert len(rows) == 5
    for row in rows:
        reading, commonsense, knowledge, math, average = map(float, row)
        assert (3 * reading + 3 * commonsense + math + 2 * knowledge) / 9 == pytest.approx(average, abs=0.051)
    averages = [(3 * float(r[0]) + 3 * float(r[1]) + float(r[3]) + 2 * float(r[2])) / 9 for r in rows]
    assert np.round(averages, 2).tolist()[3:] == [39.03, 39.51]
    assert averages[0] == pytest.approx(32.34, abs=0.005)


@pytest.mark.parametrize(
    ("name", "value"),
    [("top", "10"), ("draws", "100,000"), ("survivors", "128"), ("generations", "30"), ("children", "2,000"),
     ("mutation", "0.02"), ("z", "1.64")],
)  # fmt: skip
def test_defaults_are_what_the_page_says(name: str, value: str) -> None:
    assert f"`{name}` ({value})" in DOC
    assert getattr(SearchSettings(), name) == float(value.replace(",", ""))


def test_every_option_of_the_table_exists() -> None:
    table = DOC[DOC.index("| option |") : DOC.index("Mean fraction of a domain")]
    known = {f.name for kind in (QuaDMixParameters, SearchSettings, ThetaSpace) for f in fields(kind)} | {"multiplier"}
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]+)\|", table, re.M))))
    assert len(named) > 8
    assert named <= known
