"""Gradient features on disk. Run: pytest tests/selectors/targeted/test_less_store.py"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import DatasetError
from penstock.selectors.targeted.less_store import GradientStore, part_of


def features(rows=3, dimensions=5):
    found = np.random.default_rng(0).normal(size=(rows, dimensions)).astype(np.float16)
    found[1] = np.nan
    return found


def test_what_was_written_is_read_with_rows_that_have_none(tmp_path):
    store, made = GradientStore(path=str(tmp_path)), features()
    store.write("k" * 32, 2, "part", pa.array(["a", "b", "c"]), made)
    assert np.array_equal(store.read("k" * 32, 2, "part", rows=3, dimensions=5), made, equal_nan=True)
    table = pq.read_table(tmp_path / "kkkkkkkkkkkkkkkk" / "checkpoint-2" / "part.parquet", partitioning=None)
    assert table["doc_id"].to_pylist() == ["a", "b", "c"]
    assert table["has_gradient"].to_pylist() == [True, False, True]
    for key, checkpoint, part in (("x" * 32, 2, "part"), ("k" * 32, 1, "part"), ("k" * 32, 2, "other")):
        assert store.read(key, checkpoint, part, rows=3, dimensions=5) is None


def test_a_file_that_is_damaged_or_of_another_shape_is_refused(tmp_path):
    store = GradientStore(path=str(tmp_path))
    store.write("k" * 32, 1, "part", pa.array(["a", "b", "c"]), features())
    with pytest.raises(DatasetError, match=r"got 3 rows of fixed_size_list.*expected 3 of 6 float16"):
        store.read("k" * 32, 1, "part", rows=3, dimensions=6)
    path = next(tmp_path.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"cannot be read.*delete it and run again"):
        store.read("k" * 32, 1, "part", rows=3, dimensions=5)


def test_without_a_folder_nothing_is_kept():
    store = GradientStore()
    store.write("k" * 32, 1, "part", pa.array(["a", "b", "c"]), features())
    assert store.read("k" * 32, 1, "part", rows=3, dimensions=5) is None


def test_a_part_is_known_by_its_rows_in_their_order():
    batch = pa.RecordBatch.from_pydict({"doc_id": ["a", "b"], "text": ["x", "y"]})
    longer = pa.RecordBatch.from_pydict({"doc_id": ["0", "a", "b"], "text": ["", "x", "y"]})
    assert part_of(batch) == part_of(longer.slice(1)) != part_of(longer)
    others = [
        {"doc_id": ["b", "a"], "text": ["y", "x"]},
        {"doc_id": ["a", "b"], "text": ["x", "z"]},
        {"doc_id": ["a", "c"], "text": ["x", "y"]},
        {"doc_id": ["a", "b"], "text": ["x", "y"], "learn": [[0, 1], None]},
    ]
    assert len({part_of(batch), *(part_of(pa.RecordBatch.from_pydict(other)) for other in others)}) == 5
