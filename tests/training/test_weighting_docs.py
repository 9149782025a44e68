"""pytest tests/training/test_weighting_docs.py: the code of docs/weighting.md runs, and it names every setting."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from penstock import kernels
from penstock.training.weighting import Accumulation, Strategy, WeightingConfig
from penstock.training.weighting_range import RangeKind

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "weighting.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["whole", "micro-batches"])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if (folder := kernels.cache_folder()) is not None:
        env["NUMBA_CACHE_DIR"] = str(Path(folder).parent)  # another home would compile everything again
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_setting_and_every_value_of_it_is_named() -> None:
    named = set(re.findall(r"`(\w+)[`:]", PAGE)) | set(re.findall(r"(\w+):", PAGE))
    settings = {field.name for field in fields(WeightingConfig)}
    for name in (*settings, *get_args(Strategy), *get_args(Accumulation), *get_args(RangeKind)):
        assert name in named, name
