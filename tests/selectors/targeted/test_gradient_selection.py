"""LESS and MONA in a whole selection. Run: pytest tests/selectors/targeted/test_gradient_selection.py"""

import json

import numpy as np
import pytest

from penstock.dataset import Dataset
from penstock.selection import budget_of, plan, select, steps_of
from penstock.storage import Folder


def write(path, kinds, seed):
    draw = np.random.default_rng(seed)
    lines = []
    for low, high in kinds:
        words = " ".join(f"w{word}" for word in draw.integers(low, high, 16))
        lines.append(json.dumps({"text": words, "domain": f"d{low}"}))
    path.write_text("\n".join(lines) + "\n")
    return lines


@pytest.fixture(scope="module")
def made(model_folder, tmp_path_factory):
    """A finished selection, and how to do it again."""
    folder = tmp_path_factory.mktemp("selection")
    wanted = write(folder / "target.jsonl", [(1, 20)] * 6, 0)
    pool = write(folder / "pool.jsonl", [(1, 20)] * 10 + [(20, 60)] * 30, 1)
    (folder / "pool.jsonl").write_text("\n".join([*pool, *wanted[:2]]) + "\n")
    settings = [
        "less.rank=2", "less.alpha=8", "less.dimensions=256", "less.epochs=2", "less.share=0.5", "less.batch_size=8",
        "less.device=cpu", f"less.store={folder / 'store'}", "mona.device=cpu", "mona.k=4", "mona.expansion=2",
        "mona.max_tokens=32", "columns.domain=domain",
    ]  # fmt: skip

    def run():
        chosen = plan(["less", "mona"], settings, model_folder)
        steps = steps_of(str(folder / "pool.jsonl"), [str(folder / "target.jsonl")], chosen, budget_of(count=8))
        return select(steps, str(folder / "out"), workers=0)

    return folder, run(), run


def test_every_row_of_the_pool_has_a_score_and_the_highest_are_chosen(made):
    folder, result, _ = made
    assert result.methods == ("random", "bm25", "less", "mona")
    for method in ("less", "mona"):
        scores = Dataset(Folder(str(folder / "out" / f"scores-{method}"))).read("scores")
        assert scores.num_rows == 40  # two of 42 rows are the target's own
        assert scores["score"].null_count == 0
        assert len(set(scores["score"].to_pylist())) > 20
        manifest = Dataset(Folder(str(folder / "out" / f"scores-{method}"))).manifest
        assert manifest.stats["provenance"]["method"] == method
        assert manifest.stats["fit"]
    assert {"less-epoch-1", "less-epoch-2"} <= {
        name.rpartition("-")[0] for name in Dataset(Folder(str(folder / "out" / "scores-less"))).manifest.artifacts
    }


def test_a_second_run_does_nothing_and_a_store_holds_the_parts(made):
    folder, _, run = made
    assert all(step.skipped for step in run().steps)
    assert len(list((folder / "store").rglob("*.parquet"))) == 2
