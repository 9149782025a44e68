"""pytest tests/training/test_sequences.py"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import schema
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.training.sequences import SequenceStore, segment_layout

A = [[("a0", [1, 2, 3]), ("a1", [4])], [("a2", [5, 6, 7, 8, 9])], [("a3", [10, 11])]]
B = [[("b0", [20, 21]), ("b1", [22, 23])], [("b2", [24])]]


@pytest.fixture
def store(tmp_path: Path, packed: SimpleNamespace) -> SequenceStore:
    """Domain a in two files, three record batches; domain b in one."""
    files = {
        "a": [
            packed.write(tmp_path / "a0.arrow", A[:2], length=5, batch=1),
            packed.write(tmp_path / "a1.arrow", A[2:], length=5),
        ],
        "b": [packed.write(tmp_path / "b.arrow", B, length=5)],
    }
    return SequenceStore.open(files)


def test_rows_are_gathered_in_the_order_asked_across_batches_and_files(store: SequenceStore) -> None:
    found = store.gather("a", np.array([2, 0, 2, 1]))
    assert found.tolist() == [[10, 11, 0, 0, 0], [1, 2, 3, 4, 0], [10, 11, 0, 0, 0], [5, 6, 7, 8, 9]]
    assert found.dtype == np.uint16


def test_sizes_leave_padding_out(store: SequenceStore) -> None:
    assert (store.domains, store.length, store.rows, store.tokens) == (("a", "b"), 5, (3, 2), (11, 5))


def test_segments_come_in_row_order(store: SequenceStore) -> None:
    counts, lengths, docs = store.segments("a", np.array([2, 0, 1]))
    assert (counts.tolist(), lengths.tolist(), docs.to_pylist()) == ([1, 2, 1], [2, 3, 1, 5], ["a3", "a0", "a1", "a2"])


def test_rows_of_several_domains_are_read_together(store: SequenceStore) -> None:
    read = store.read(np.array([1, 0, 1, 0]), np.array([1, 0, 0, 2]))
    assert read.tokens.dtype == np.uint16
    assert read.tokens[:, 0].tolist() == [24, 1, 20, 10]
    assert read.segment_counts.tolist() == [1, 2, 2, 1]
    assert read.segment_lengths.tolist() == [1, 3, 1, 2, 2, 2]
    assert read.segment_docs.to_pylist() == ["b2", "a0", "a1", "b0", "b1", "a3"]


def test_nothing_asked_gives_nothing(store: SequenceStore) -> None:
    none = np.zeros(0, np.int64)
    assert store.gather("a", none).shape == (0, 5)
    assert store.segments("a", none)[2].to_pylist() == []
    assert store.read(none, none).tokens.shape == (0, 5)


def test_tokens_are_views_of_the_mapped_file(store: SequenceStore) -> None:
    before = pa.total_allocated_bytes()
    views = store.views("a")
    assert [view.shape for view in views] == [(1, 5), (1, 5), (1, 5)]
    assert not any(view.flags.writeable or view.flags.owndata for view in views)
    assert pa.total_allocated_bytes() == before


def test_a_row_that_is_not_there_is_an_index_error_not_a_wrapped_row(store: SequenceStore) -> None:
    with pytest.raises(IndexError, match="domain b, which has 2"):
        store.gather("b", np.array([-1]))


def test_wide_tokens_are_read_beside_narrow_ones(tmp_path: Path, packed: SimpleNamespace) -> None:
    wide = packed.write(tmp_path / "w.arrow", [[("w", [70_000, 1])]], length=5, kind=pa.uint32())
    narrow = packed.write(tmp_path / "n.arrow", B, length=5)
    store = SequenceStore.open({"d": [narrow, wide]})
    assert store.gather("d", np.array([2, 1])).tolist() == [[70_000, 1, 0, 0, 0], [24, 0, 0, 0, 0]]


def test_an_empty_file_and_a_domain_without_files_have_no_rows(tmp_path: Path, packed: SimpleNamespace) -> None:
    store = SequenceStore.open({"e": [packed.write(tmp_path / "e.arrow", [], length=5)], "none": []})
    assert (store.rows, store.tokens) == ((0, 0), (0, 0))


def test_another_sequence_length_is_refused_with_both_named(tmp_path: Path, packed: SimpleNamespace) -> None:
    files = [packed.write(tmp_path / "5.arrow", B, length=5), packed.write(tmp_path / "6.arrow", B, length=6)]
    with pytest.raises(DatasetError, match=r"6\.arrow: sequences of 6 tokens.*have 5"):
        SequenceStore.open({"d": files})


def sequence_table(tokens: pa.Array, lengths: list[list[int]], docs: list[list[str]]) -> pa.Table:
    return pa.table(
        {
            "tokens": tokens,
            "segment_lengths": pa.array(lengths, pa.list_(pa.int32())),
            "segment_docs": pa.array(docs, pa.list_(pa.string())),
        }
    )


FOUR = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4], pa.uint16()), 4)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (pa.table({"tokens": FOUR}), "missing column(s) segment_lengths, segment_docs"),
        (sequence_table(FOUR.cast(pa.list_(pa.int64(), 4)), [[4]], [["d"]]), "allowed a fixed-size list of uint16"),
        (sequence_table(FOUR, [[5]], [["d"]]), "sum to at most 4"),
        (sequence_table(FOUR, [[2, 0]], [["d", "e"]]), "length >= 1"),
        (sequence_table(FOUR, [[2, 2]], [["d"]]), "one document and one length"),
        (sequence_table(pa.array([None], FOUR.type), [[2]], [["d"]]), "null tokens"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, table: pa.Table, text: str) -> None:
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DatasetError) as error:
        SequenceStore.open({"d": [tmp_path / "x.arrow"]})
    assert text in str(error.value)
    assert "x.arrow" in str(error.value)


def test_compressed_tokens_are_refused_because_they_cannot_be_mapped(tmp_path: Path) -> None:
    table = sequence_table(pa.FixedSizeListArray.from_arrays(pa.array([7] * 4000, pa.uint16()), 4000), [[4]], [["d"]])
    with pa.ipc.new_file(
        str(tmp_path / "z.arrow"), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)
    with pytest.raises(DatasetError, match="compressed"):
        SequenceStore.open({"d": [tmp_path / "z.arrow"]})


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.arrow").write_bytes(b"not arrow at all, but long enough to look at")
    with pytest.raises(InputError, match=r"gone\.arrow: no such file"):
        SequenceStore.open({"d": [tmp_path / "gone.arrow"]})
    with pytest.raises(InputError, match=r"bad\.arrow: cannot be read as an Arrow IPC file"):
        SequenceStore.open({"d": [tmp_path / "bad.arrow"]})
    with pytest.raises(ConfigError, match="no sequence files"):
        SequenceStore.open({"d": []})


def test_a_remote_file_is_copied_into_the_cache_once(tmp_path: Path, packed: SimpleNamespace) -> None:
    import fsspec

    local = packed.write(tmp_path / "b.arrow", B, length=5)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/b.arrow", local.read_bytes())
    for _ in range(2):
        store = SequenceStore.open({"b": ["memory://bucket/b.arrow"]}, cache=tmp_path / "cache")
        assert store.gather("b", np.array([0])).tolist() == [[20, 21, 22, 23, 0]]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(ConfigError, match="cache folder"):
        SequenceStore.open({"b": ["memory://bucket/b.arrow"]})
    with pytest.raises(InputError, match="no such file"):
        SequenceStore.open({"b": ["memory://bucket/gone.arrow"]}, cache=tmp_path / "cache")


def test_the_schema_of_the_package_is_what_is_read(tmp_path: Path) -> None:
    kind = schema.sequences(4, schema.token_type(100))
    row = {"tokens": [1, 2, 3, 4], "segment_lengths": [4], "segment_docs": ["ü#0"], "domain": "d"}
    with pa.ipc.new_file(str(tmp_path / "s.arrow"), kind) as writer:
        writer.write_table(pa.Table.from_pylist([row], schema=kind))
    store = SequenceStore.open({"d": [tmp_path / "s.arrow"]})
    assert store.segments("d", np.array([0]))[2].to_pylist() == ["ü#0"]


def test_learned_positions_are_read_where_a_file_has_them(tmp_path: Path, packed: SimpleNamespace) -> None:
    files = {
        "a": [
            packed.write(tmp_path / "a0.arrow", A[:2], length=5, batch=1, masks=[[1, 2, 3, 4], None]),
            packed.write(tmp_path / "a1.arrow", A[2:], length=5, masks=[[]]),
        ],
        "b": [packed.write(tmp_path / "b.arrow", B, length=5)],
    }
    store = SequenceStore.open(files)
    found = store.learned("a", np.array([2, 1, 0]))
    assert found is not None
    assert found.astype(int).tolist() == [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]]
    assert store.learned("a", np.array([1, 1])) is None
    assert store.learned("b", np.array([0, 1])) is None
    read = store.read(np.array([1, 0, 1, 0]), np.array([1, 0, 0, 2]))
    assert read.learned is not None
    assert read.learned.astype(int).tolist() == [[1] * 5, [0, 1, 0, 1, 0], [1] * 5, [0] * 5]
    assert store.read(np.array([1, 0]), np.array([1, 1])).learned is None


def test_files_without_masks_are_not_looked_at(
    tmp_path: Path, packed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed.write(tmp_path / "b.arrow", B, length=5)
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().drop_columns("loss_mask")
    with pa.ipc.new_file(str(tmp_path / "old.arrow"), table.schema) as writer:
        writer.write_table(table)

    def never(*_: object) -> None:
        raise AssertionError("a mask was read")

    monkeypatch.setattr("penstock.training.gather.run_mask", never)
    monkeypatch.setattr("penstock.training.sequences._check_mask", never)
    store = SequenceStore.open({"null": [path], "absent": [tmp_path / "old.arrow"]})
    assert store.read(np.array([0, 1]), np.array([1, 0])).learned is None


@pytest.mark.parametrize("mask", [[0], [2, 1], [1, 1], [0, 6], [-1, 2], [0, 2, 2, 3], [0, 2, 1, 3]])
def test_a_mask_that_is_none_is_refused(tmp_path: Path, packed: SimpleNamespace, mask: list[int]) -> None:
    path = packed.write(tmp_path / "a.arrow", B, length=5, masks=[[0, 1], mask])
    with pytest.raises(DatasetError, match=r"a\.arrow, record batch 0: loss_mask must hold start and stop of runs"):
        SequenceStore.open({"d": [path]})


def test_a_mask_of_another_type_is_refused(tmp_path: Path) -> None:
    table = sequence_table(FOUR, [[4]], [["d"]]).append_column("loss_mask", pa.array([[0, 1]], pa.list_(pa.int64())))
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DatasetError, match="loss_mask is list<item: int64>, allowed list<int32>"):
        SequenceStore.open({"d": [tmp_path / "x.arrow"]})


def test_layout_of_two_rows_by_hand() -> None:
    ids, positions = segment_layout(np.array([2, 1, 0]), np.array([3, 1, 5]), 5)
    assert ids.tolist() == [[0, 0, 0, 1, -1], [0, 0, 0, 0, 0], [-1] * 5]
    assert positions.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), max_size=4).filter(lambda r: sum(r) <= 12), min_size=1, max_size=5))
def test_layout_equals_the_loop(rows: list[list[int]]) -> None:
    counts, lengths = np.array([len(r) for r in rows]), np.array([x for r in rows for x in r], dtype=np.int64)
    ids, positions = segment_layout(counts, lengths, 12)
    for row, found, at in zip(rows, ids.tolist(), positions.tolist(), strict=True):
        rest = 12 - sum(row)
        assert found == [i for i, size in enumerate(row) for _ in range(size)] + [-1] * rest
        assert at == [p for size in [*row, rest] for p in range(size)]
