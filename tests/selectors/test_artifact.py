"""Fitted facts on disk: named by their content, refused when it changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import DatasetError
from penstock.selectors import artifact

ARRAYS = {"codes": np.arange(5, dtype=np.uint32), "sigma": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path, digest = artifact.save(str(tmp_path), "x", ARRAYS, {"tokens": 3, "names": ["a", "é"]})
    found = artifact.load(path, digest)
    assert found.facts == {"tokens": 3, "names": ["a", "é"]}
    assert {k: (v.dtype, v.tolist()) for k, v in found.arrays.items()} == {
        k: (v.dtype, v.tolist()) for k, v in ARRAYS.items()
    }
    assert found is artifact.load(path, digest)
    with pytest.raises(ValueError, match="read-only"):
        found.arrays["codes"][0] = 1


def test_equal_content_has_equal_names_and_digests_in_any_folder(tmp_path: Path) -> None:
    a = artifact.save(str(tmp_path / "a"), "x", ARRAYS, {"n": 1, "m": 2})
    b = artifact.save(str(tmp_path / "b"), "x", dict(reversed(ARRAYS.items())), {"m": 2, "n": 1})
    assert a[1] == b[1]
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == [p.name for p in sorted((tmp_path / "b").iterdir())]


@pytest.mark.parametrize("change", [{"n": 2}, {"n": 1, "m": 0}])
def test_other_facts_have_another_digest(tmp_path: Path, change: dict[str, int]) -> None:
    a = artifact.save(str(tmp_path), "x", ARRAYS, {"n": 1})
    assert artifact.save(str(tmp_path), "x", ARRAYS, change)[1] != a[1]


def test_edited_facts_and_missing_files_are_refused(tmp_path: Path) -> None:
    path, digest = artifact.save(str(tmp_path), "x", ARRAYS, {"n": 1})
    content = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(content | {"facts": {"n": 2}}))
    with pytest.raises(DatasetError, match=r"got sha256 .*, expected"):
        artifact.load(path, digest)
    Path(path).unlink()
    with pytest.raises(DatasetError, match="not found; run the step that makes it again"):
        artifact.load(path, digest)
