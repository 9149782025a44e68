"""Arrow IPC files and streams: cut at record batches, checked before they are touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, InputError
from penstock.sources.files import FileEntry, FileSource

ROWS = 500
TEXTS = [f"row {i} é" for i in range(ROWS)]


def write(path: Path, table: pa.Table, *, stream: bool = False, batch: int = 50, **options: Any) -> Path:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table, max_chunksize=batch)
    return path


def source(path: Any, **options: Any) -> FileSource:
    on_bad_file = options.pop("on_bad_file", "fail")
    return FileSource(name="s", entries=(FileEntry(path=str(path), **options),), on_bad_file=on_bad_file)


def read(src: FileSource, target: int = 1 << 40) -> tuple[dict[int, str], list[tuple[int, str]]]:
    documents: dict[int, str] = {}
    drops: list[tuple[int, str]] = []
    for split in src.plan(target):
        for rows in src.read(split, dropped="ids"):
            rows.documents.validate(full=True)
            for doc_id, text in zip(*rows.documents.select(["doc_id", "text"]).to_pydict().values(), strict=True):
                documents[int(doc_id.rpartition("#")[2])] = text
            drops += [(int(r["doc_id"].rpartition("#")[2]), r["reason"]) for r in rows.dropped.to_pylist()]
    return documents, drops


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"compression": "lz4"}])
@pytest.mark.parametrize("target", [1, 700, 3000, 1 << 40])
def test_rows_keep_their_numbers_however_batches_are_cut(tmp_path, stream, options, target):
    path = write(tmp_path / "a.arrow", pa.table({"n": range(ROWS), "text": TEXTS}), stream=stream, **options)
    assert read(source(path), target) == (dict(enumerate(TEXTS)), [])
    splits = source(path).plan(target)
    assert len(splits) == (1 if target > path.stat().st_size else 10 if target == 1 else len(splits))
    if target == 3000:
        assert 2 <= len(splits) <= 9


@pytest.mark.parametrize("stream", [False, True])
def test_text_of_every_physical_kind_is_read(tmp_path, stream):
    for name, kind in {"large": pa.large_string(), "view": pa.string_view(), "binary": pa.binary()}.items():
        path = write(tmp_path / f"{name}.feather", pa.table({"text": pa.array(TEXTS).cast(kind)}), stream=stream)
        assert list(read(source(path))[0].values()) == TEXTS
    path = write(tmp_path / "dict.arrow", pa.table({"text": pa.array(TEXTS * 2).dictionary_encode()}), stream=stream)
    assert list(read(source(path))[0].values()) == TEXTS * 2


def test_rows_with_bad_values_cost_themselves(tmp_path):
    column = pa.array([b"good", b"\xff", None, b" "], pa.binary()).view(pa.string())
    path = write(tmp_path / "a.arrow", pa.table({"text": column}))
    assert read(source(path)) == ({0: "good"}, [(1, "invalid_utf8"), (2, "missing_text"), (3, "empty_text")])


@pytest.mark.parametrize("stream", [False, True])
def test_files_in_a_store_read_as_files_on_disk_do(tmp_path, stream):
    path = write(tmp_path / "a.arrow", pa.table({"text": TEXTS}), stream=stream)
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/penstock-arrow/a.arrow", path.read_bytes())
    try:
        remote = source("memory://penstock-arrow/a.arrow")
        assert read(remote, 700) == read(source(path), 700)
        assert len(remote.plan(700)) == (1 if stream else len(source(path).plan(700)))
    finally:
        fs.rm("/penstock-arrow", recursive=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_without_the_column_names_the_columns_found(tmp_path, stream):
    path = write(tmp_path / "a.arrow", pa.table({"body": TEXTS}), stream=stream)
    with pytest.raises(InputError, match=r"a\.arrow: no column text; found body"):
        source(path).plan(1)
    assert read(source(path, on_bad_file="drop")) == ({}, [(0, "missing_column")])


def bad_offsets(path: Path, row: int) -> None:
    """Point the offset of a text far outside its data."""
    data = bytearray(path.read_bytes())
    offsets = np.cumsum([0, *(len(t.encode()) for t in TEXTS[50:100])]).astype(np.int32).tobytes()
    place = data.index(offsets) + 4 * row
    data[place : place + 4] = np.int32(2**30).tobytes()
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("target", [1, 1 << 40])
def test_a_wrong_offset_costs_its_batch_and_reads_no_foreign_memory(tmp_path, stream, target):
    path = write(tmp_path / "a.arrow", pa.table({"text": TEXTS}), stream=stream)
    bad_offsets(path, 7)
    expected = {i: text for i, text in enumerate(TEXTS) if not 50 <= i < 100}
    assert read(source(path, on_bad_file="drop"), target) == (expected, [(50, "corrupt_file")])
    with pytest.raises(InputError, match=r"a\.arrow: record batch 1: .*on_bad_file: drop"):
        read(source(path), target)


def test_a_stream_cut_short_keeps_the_batches_before(tmp_path):
    path = write(tmp_path / "a.arrow", pa.table({"text": TEXTS}), stream=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for target in (1, 1 << 40):
        documents, drops = read(source(path, on_bad_file="drop"), target)
        kept = len(documents)
        assert kept in (200, 250)
        assert documents == dict(enumerate(TEXTS[:kept]))
        assert drops == [(kept, "corrupt_file")]
    with pytest.raises(InputError, match=r"a\.arrow: .*on_bad_file: drop"):
        read(source(path))


@pytest.mark.parametrize("data", [b"no arrow at all", b"ARROW1\0\0" + b"x" * 50, b"\xff\xff\xff\xff" * 20])
def test_a_file_that_is_no_arrow_is_one_drop_or_an_error(tmp_path, data):
    path = tmp_path / "a.arrow"
    path.write_bytes(data)
    assert read(source(path, on_bad_file="drop")) == ({}, [(0, "corrupt_file")])
    with pytest.raises(InputError, match=r"a\.arrow: .*on_bad_file: drop"):
        read(source(path))


@pytest.mark.parametrize("stream", [False, True])
def test_a_table_of_no_rows_and_an_empty_file_give_nothing(tmp_path, stream):
    write(tmp_path / "a.arrow", pa.table({"text": pa.array([], pa.string())}), stream=stream)
    (tmp_path / "b.arrow").write_bytes(b"")
    assert read(source(tmp_path)) == ({}, [])
    assert read(source(tmp_path), 1) == ({}, [])


def test_arrow_inside_gzip_is_refused(tmp_path):
    (tmp_path / "a.arrow.gz").write_bytes(b"x")
    with pytest.raises(ConfigError, match="arrow inside gzip or zstd cannot be read in parts; decompress it"):
        source(tmp_path / "a.arrow.gz").plan(1)
