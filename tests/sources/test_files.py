"""Rows from files: every bad input costs what it should, and splits change nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import schema, seeding
from penstock.errors import ConfigError, InputError
from penstock.sources.base import InputFile, SourceSplit, fingerprint
from penstock.sources.files import FileEntry, FileSource, _ends_group

HUGE = 1 << 40


def source(path: Any, *, on_bad_file: str = "fail", max_document_bytes: int = 64 << 20, **entry: Any) -> FileSource:
    return FileSource(
        name="s",
        entries=(FileEntry(path=str(path), **entry),),
        on_bad_file=on_bad_file,
        max_document_bytes=max_document_bytes,
    )


def read(
    src: FileSource, target: int = HUGE, dropped: str = "sample"
) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str]]]:
    """{doc_id: (text, domain)} and [(doc_id, reason)] in the order of the splits."""
    documents: dict[str, tuple[str, str]] = {}
    drops: list[tuple[str, str]] = []
    src = ForkingPickler.loads(ForkingPickler.dumps(src))  # as a worker receives it
    for split in src.plan(target):
        sent = SourceSplit.from_json(json.loads(json.dumps(split.to_json())))
        assert sent == split
        for rows in src.read(sent, dropped=dropped):
            assert rows.documents.schema.equals(schema.DOCUMENTS)
            assert rows.dropped.schema.equals(schema.DROPPED)
            rows.documents.validate(full=True)
            rows.dropped.validate(full=True)
            for row in rows.documents.to_pylist():
                assert row["doc_id"] not in documents
                documents[row["doc_id"]] = (row["text"], row["domain"])
            drops += [(row["doc_id"], row["reason"]) for row in rows.dropped.to_pylist()]
    return documents, drops


def texts(src: FileSource, target: int = HUGE) -> dict[str, str]:
    documents, drops = read(src, target)
    assert drops == []
    return {key: text for key, (text, _) in documents.items()}


def jsonl(*values: Any) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- what a row is


def test_a_document_carries_its_id_hashes_source_and_domain(tmp_path):
    path = write(tmp_path / "novels.jsonl", jsonl({"text": "Ärger"}, {"text": "b"}))
    (split,) = source(path).plan(HUGE)
    (rows,) = source(path).read(split, dropped="sample")
    first = rows.documents.to_pylist()[0]
    assert first == {
        "doc_id": "novels.jsonl#0",
        "id_hash": int(seeding.hash_ids(["novels.jsonl#0"])[0]),
        "content_hash": hashlib.blake2b("Ärger".encode(), digest_size=16).digest(),
        "text": "Ärger",
        "source": "s",
        "domain": "novels",
        **dict.fromkeys(schema.ORIGIN),
    }


def test_text_and_domain_columns_are_mapped_and_a_null_domain_falls_back(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        jsonl({"body": "x", "label": "law"}, {"body": "y", "label": None}, {"body": "z", "label": 3}),
    )
    columns = {"text": "body", "domain": "label"}
    assert read(source(path, columns=columns))[0] == {
        "a.jsonl#0": ("x", "law"),
        "a.jsonl#1": ("y", "a"),
        "a.jsonl#2": ("z", "3"),
    }
    assert read(source(path, columns=columns, domain="other"))[0]["a.jsonl#1"] == ("y", "other")


# --- bad records


def test_each_bad_jsonl_record_costs_itself_and_names_its_reason(tmp_path):
    data = b"\n".join(
        [
            b'{"text": "good"}',
            b'{"text": "cut',
            b'{"text": "\xff\xfe"}',
            b'{"text": null}',
            b'{"other": 1}',
            b'{"text": 5}',
            b'{"text": " \\n\\t\xc2\xa0"}',
            b'["text"]',
            b"",
            b"  \r",
            b"[" * 200_000,
            b'{"text": "\\ud800"}',
            b'{"text": "nan", "score": NaN}',
            b'{"text": "' + b"x" * 300_000 + b'"}',
            b'{"text": "last"}',
        ]
    )
    path = write(tmp_path / "a.jsonl", data)
    documents, drops = read(source(path, max_document_bytes=250_000))
    assert documents == {"a.jsonl#0": ("good", "a"), "a.jsonl#12": ("nan", "a"), "a.jsonl#14": ("last", "a")}
    assert drops == [
        ("a.jsonl#1", "invalid_json"),
        ("a.jsonl#2", "invalid_utf8"),
        ("a.jsonl#3", "missing_text"),
        ("a.jsonl#4", "missing_text"),
        ("a.jsonl#5", "not_text"),
        ("a.jsonl#6", "empty_text"),
        ("a.jsonl#7", "invalid_json"),
        ("a.jsonl#10", "invalid_json"),
        ("a.jsonl#11", "invalid_utf8"),
        ("a.jsonl#13", "too_large"),
    ]


@pytest.mark.parametrize(("keep", "length"), [("ids", None), ("sample", 240), ("full", 5002)])
def test_a_dropped_record_keeps_as_much_text_as_asked(tmp_path, keep, length):
    path = write(tmp_path / "a.jsonl", b'{"' + b"x" * 5000 + b"\n")
    (split,) = source(path).plan(HUGE)
    (rows,) = source(path).read(split, dropped=keep)
    (text,) = rows.dropped["text"].to_pylist()
    assert (None if text is None else len(text)) == length
    assert rows.dropped["step"].to_pylist() == ["read"]


def test_an_unknown_dropped_option_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"text": "a"}))
    (split,) = source(path).plan(HUGE)
    with pytest.raises(ConfigError, match="dropped: got 'all', allowed ids, sample, full"):
        list(source(path).read(split, dropped="all"))


def test_a_fifty_megabyte_line_passes_and_is_one_document(tmp_path):
    long = "é" * (25 << 20)
    path = write(tmp_path / "a.jsonl", jsonl({"text": "before"}, {"text": long}, {"text": "after"}))
    documents, drops = read(source(path), target=1 << 20)
    assert list(documents) == ["a.jsonl#0", "a.jsonl#1", "a.jsonl#2"]
    assert drops == []
    assert documents["a.jsonl#1"][0] == long


def test_batches_are_bounded_by_bytes(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl(*({"text": "x" * (1 << 20)} for _ in range(20))))
    (split,) = source(path).plan(HUGE)
    assert [rows.documents.num_rows for rows in source(path).read(split, dropped="ids")] == [8, 8, 4]


@pytest.mark.parametrize("before", [0, 1 << 20])
def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not(tmp_path, before):
    # with ``before`` the line crosses from one block read to the next
    lead = jsonl({"text": "x" * (before - 40)}) if before else b""
    line = jsonl({"text": "y" * 1_100_000})
    path = write(tmp_path / "a.jsonl", lead + line)
    number = 1 if before else 0
    exact = len(line) - 1
    assert f"a.jsonl#{number}" in texts(source(path, max_document_bytes=exact))
    assert read(source(path, max_document_bytes=exact - 1))[1] == [(f"a.jsonl#{number}", "too_large")]
    short = write(tmp_path / "b.jsonl", jsonl({"text": "z" * 100}))
    assert texts(source(short, max_document_bytes=short.stat().st_size - 1)) == {"b.jsonl#0": "z" * 100}
    assert read(source(short, max_document_bytes=short.stat().st_size - 2))[1] == [("b.jsonl#0", "too_large")]


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path):
    bom = b"\xef\xbb\xbf"
    write(tmp_path / "a.jsonl", bom + jsonl({"text": "one"}))
    write(tmp_path / "b.csv", bom + b"text\ntwo\n")
    write(tmp_path / "c.txt", bom + b"three")
    assert texts(source(tmp_path)) == {"a.jsonl#0": "one", "b.csv#0": "two", "c.txt#0": "three"}


# --- missing columns


def test_a_jsonl_file_without_the_column_names_the_keys_found(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"body": "x"}, {"content": "y"}))
    with pytest.raises(
        InputError, match=r"a\.jsonl: no column text; found body, content; name the column with columns"
    ):
        source(path).plan(HUGE)
    documents, drops = read(source(path, on_bad_file="drop"))
    assert documents == {}
    assert drops == [("a.jsonl#0", "missing_text"), ("a.jsonl#1", "missing_text")]


def test_one_record_with_the_column_far_into_the_file_is_enough_at_any_split_size(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl(*({"body": "x"} for _ in range(50)), {"text": "y"}))
    for target in (1, HUGE):
        documents, drops = read(source(path), target)
        assert list(documents) == ["a.jsonl#50"]
        assert len(drops) == 50


def test_parquet_and_csv_without_the_column_name_the_columns_found(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    write(tmp_path / "b.csv", b"title,n\nx,1\n")
    with pytest.raises(InputError, match=r"a\.parquet: no column text; found body, n"):
        source(tmp_path / "a.parquet").plan(HUGE)
    with pytest.raises(InputError, match=r"b\.csv: no column text, label; found title, n"):
        source(tmp_path / "b.csv", columns={"domain": "label"}).plan(HUGE)
    documents, drops = read(source(tmp_path, on_bad_file="drop"))
    assert documents == {}
    assert drops == [("a.parquet#0", "missing_column"), ("b.csv#0", "missing_column")]


# --- damaged files


def many(n: int = 20_000) -> bytes:
    # numbers that do not repeat, so that compression leaves many blocks
    return jsonl(*({"text": hashlib.blake2b(str(i).encode()).hexdigest()} for i in range(n)))


def compress(kind: str, data: bytes) -> bytes:
    return gzip.compress(data, mtime=0) if kind == "gz" else zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_compressed_file_keeps_what_came_before_and_counts_the_rest(tmp_path, kind, damage):
    whole = texts(source(write(tmp_path / "whole.jsonl", many()), name="a"))
    packed = compress(kind, many())
    middle = len(packed) // 2
    bad = packed[:middle] if damage == "truncated" else packed[:middle] + b"\xff" * 5000 + packed[middle + 5000 :]
    path = write(tmp_path / f"a.jsonl.{kind}", bad)
    documents, drops = read(source(path, name="a", on_bad_file="drop"))
    kept = len(documents)
    assert 5_000 < kept < 15_000
    assert {key: text for key, (text, _) in documents.items()} == dict(list(whole.items())[:kept])
    # garbage that the decoder still gave is dropped record by record before the file is
    assert [reason for _, reason in drops].count("corrupt_file") == 1
    assert drops[-1][1] == "corrupt_file"
    if damage == "truncated":
        assert drops == [(f"a#{kept}", "corrupt_file")]
    assert read(source(path, name="a", on_bad_file="drop"), target=1) == (documents, drops)
    with pytest.raises(InputError, match=rf"a\.jsonl\.{kind}: .*on_bad_file: drop"):
        read(source(path))


def test_a_wrong_checksum_is_corrupt_after_all_records(tmp_path):
    packed = bytearray(gzip.compress(jsonl({"text": "a"}, {"text": "b"}), mtime=0))
    packed[-6] ^= 1
    documents, drops = read(source(write(tmp_path / "a.jsonl.gz", bytes(packed)), on_bad_file="drop"))
    assert [text for text, _ in documents.values()] == ["a", "b"]
    assert drops == [("a.jsonl.gz#2", "corrupt_file")]


def test_bytes_that_are_no_gzip_at_all_give_one_drop(tmp_path):
    path = write(tmp_path / "a.txt.gz", b"plain")
    assert read(source(path, on_bad_file="drop")) == ({}, [("a.txt.gz#0", "corrupt_file")])


def test_a_truncated_parquet_is_named_or_counted(tmp_path):
    pq.write_table(pa.table({"text": ["x"] * 1000}), tmp_path / "a.parquet")
    path = write(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: .*Parquet"):
        source(path).plan(HUGE)
    assert read(source(path, on_bad_file="drop")) == ({}, [("a.parquet#0", "corrupt_file")])


def test_a_damaged_row_group_costs_itself_and_not_its_neighbours(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [hashlib.blake2b(str(i).encode()).hexdigest() for i in range(300)]
    pq.write_table(pa.table({"text": rows}), path, row_group_size=100, compression="zstd", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))
    expected = {f"a.parquet#{i}": rows[i] for i in [*range(100), *range(200, 300)]}
    for target in (1, HUGE):
        documents, drops = read(source(path, on_bad_file="drop"), target)
        assert {key: text for key, (text, _) in documents.items()} == expected
        assert drops == [("a.parquet#100", "corrupt_file")]
    with pytest.raises(InputError, match=r"a\.parquet: .*rows of row group 1 lost"):
        read(source(path))


def test_several_gzip_members_with_padding_and_several_zstd_frames_are_one_file(tmp_path):
    one, two = jsonl({"text": "a"}), jsonl({"text": "b"})
    write(tmp_path / "g.jsonl.gz", gzip.compress(one) + gzip.compress(two) + b"\0" * 512)
    frame = zstandard.ZstdCompressor().compress
    write(tmp_path / "z.jsonl.zst", frame(one) + frame(two))
    assert list(texts(source(tmp_path)).values()) == ["a", "b", "a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt", "a.md", "a.parquet", "a.jsonl.gz", "a.txt.zst"])
def test_an_empty_file_gives_nothing_and_no_error(tmp_path, name):
    path = write(tmp_path / name, b"")
    assert read(source(path)) == ({}, [])
    assert [file.size for file in source(path).inputs()] == [0]


def test_compressed_nothing_gives_nothing(tmp_path):
    write(tmp_path / "a.jsonl.gz", gzip.compress(b""))
    write(tmp_path / "b.txt.zst", zstandard.ZstdCompressor().compress(b""))
    write(tmp_path / "c.csv.gz", gzip.compress(b""))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    assert read(source(tmp_path)) == ({}, [])


# --- CSV


def test_csv_takes_quoted_newlines_and_costs_a_record_for_bad_utf8_and_a_wrong_number_of_fields(tmp_path):
    lines = [
        b'id,text,label\r\n1,"two\nlines, ""quoted""",a\r\n',
        b"2,bad \xff byte,a\r\n3,short\r\n4,,a\r\n",
        '5,"unicode é",\r\n'.encode(),
    ]
    data = b"\r\n".join(lines)
    path = write(tmp_path / "a.csv", data)
    documents, drops = read(source(path, columns={"domain": "label"}))
    assert documents == {"a.csv#0": ('two\nlines, "quoted"', "a"), "a.csv#4": ("unicode é", "a")}
    assert drops == [("a.csv#1", "invalid_utf8"), ("a.csv#2", "invalid_csv"), ("a.csv#3", "empty_text")]


def test_csv_domain_of_a_row_is_its_label(tmp_path):
    path = write(tmp_path / "a.csv", b"text,label\nx,law\ny,\n")
    assert read(source(path, columns={"domain": "label"}))[0] == {"a.csv#0": ("x", "law"), "a.csv#1": ("y", "a")}


def test_a_csv_record_above_the_limit_is_dropped_and_reading_goes_on(tmp_path):
    path = write(tmp_path / "a.csv", b"text\nx\n" + b"y" * 200_000 + b"\nz\n")
    documents, drops = read(source(path, max_document_bytes=150_000))
    assert {key: text for key, (text, _) in documents.items()} == {"a.csv#0": "x", "a.csv#2": "z"}
    assert drops == [("a.csv#1", "too_large")]


def test_a_quote_never_closed_costs_at_most_the_limit(tmp_path):
    path = write(tmp_path / "a.csv", b'text\nx\n"open\n' + b"filler\n" * 10 + b"end\n")
    documents, drops = read(source(path, max_document_bytes=20))
    assert drops == [("a.csv#1", "too_large")]
    # 5 + 6 + 6 bytes fit; the line that passes the limit is lost with the record
    assert [text for text, _ in documents.values()] == ["x", *["filler"] * 7, "end"]


def test_tsv_fields_are_parted_by_tabs(tmp_path):
    path = write(tmp_path / "a.tsv.gz", gzip.compress(b"text\tn\na, b\t1\n"))
    assert texts(source(path)) == {"a.tsv.gz#0": "a, b"}


# --- Parquet


def test_parquet_text_of_every_physical_kind_is_read(tmp_path):
    values = ["a", "é", "c"]
    kinds = {
        "string": pa.array(values),
        "large": pa.array(values, pa.large_string()),
        "view": pa.array(values, pa.string_view()),
        "dictionary": pa.array(values).dictionary_encode(),
        "binary": pa.array([v.encode() for v in values]),
    }
    for name, column in kinds.items():
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        assert list(texts(source(tmp_path / f"{name}.parquet")).values()) == values, name


def test_parquet_rows_with_bad_values_cost_themselves(tmp_path):
    column = pa.array([b"good", b"\xff", None, b"  ", b"y" * 100, b"last"], pa.binary())
    pq.write_table(pa.table({"text": column, "label": ["a", "a", "b", None, "a", None]}), tmp_path / "a.parquet")
    documents, drops = read(source(tmp_path / "a.parquet", columns={"domain": "label"}, max_document_bytes=50))
    assert documents == {"a.parquet#0": ("good", "a"), "a.parquet#5": ("last", "a")}
    assert [reason for _, reason in drops] == ["invalid_utf8", "missing_text", "empty_text", "too_large"]


def test_a_parquet_column_of_numbers_is_not_text(tmp_path):
    pq.write_table(pa.table({"text": [1, None]}), tmp_path / "a.parquet")
    assert read(source(tmp_path))[1] == [("a.parquet#0", "not_text"), ("a.parquet#1", "missing_text")]


@pytest.mark.parametrize("target", [1, 100, 1000, HUGE])
def test_parquet_rows_keep_their_numbers_however_row_groups_are_cut(tmp_path, target):
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(1000)]}), tmp_path / "a.parquet", row_group_size=37)
    assert texts(source(tmp_path), target) == {f"a.parquet#{i}": f"row {i}" for i in range(1000)}


# --- plain text


def test_text_is_one_document_a_file_a_paragraph_or_a_line(tmp_path):
    data = b"one\r\ntwo\r\n\r\n \r\nthree\n\nf\xffur\n\nfive"
    path = write(tmp_path / "a.txt", data)
    assert read(source(path))[1] == [("a.txt#0", "invalid_utf8")]
    documents, drops = read(source(path, text_unit="paragraph"))
    assert {k: t for k, (t, _) in documents.items()} == {"a.txt#0": "one\ntwo", "a.txt#1": "three", "a.txt#3": "five"}
    assert drops == [("a.txt#2", "invalid_utf8")]
    documents, drops = read(source(path, text_unit="line"))
    assert {k: t for k, (t, _) in documents.items()} == {
        "a.txt#0": "one",
        "a.txt#1": "two",
        "a.txt#4": "three",
        "a.txt#8": "five",
    }
    assert drops == [("a.txt#6", "invalid_utf8")]


@pytest.mark.parametrize("unit", ["file", "paragraph", "line"])
def test_text_above_the_limit_is_dropped_whatever_the_unit(tmp_path, unit):
    path = write(tmp_path / "a.md", b"x" * (3 << 20))
    assert read(source(path, text_unit=unit, max_document_bytes=1 << 20)) == ({}, [("a.md#0", "too_large")])


def test_a_text_file_at_the_limit_passes_unchanged(tmp_path):
    path = write(tmp_path / "a.txt", b"ab\r\n" * 10)
    assert texts(source(path, max_document_bytes=40)) == {"a.txt#0": "ab\r\n" * 10}


def test_whitespace_alone_is_an_empty_text(tmp_path):
    assert read(source(write(tmp_path / "a.txt", b" \n\xe2\x80\x83\n")))[1] == [("a.txt#0", "empty_text")]


# --- splits of small files


def group_names(plan: list[SourceSplit]) -> list[list[str]]:
    return [[member.name for member in split.files] or [split.name] for split in plan]


def test_small_files_share_splits_in_the_order_of_their_names(tmp_path):
    for i in range(200):
        write(tmp_path / f"{i:03}.txt", b"0123456789")
    plan = source(tmp_path).plan(100)
    groups = group_names(plan)
    assert [name for group in groups for name in group] == [f"{i:03}.txt" for i in range(200)]
    assert max(map(len, groups)) <= 40
    # 20 groups are expected; the borders are coins of the names, the same on every machine
    assert 12 <= len(groups) <= 28
    assert list(read(source(tmp_path), 100)[0]) == [f"{i:03}.txt#0" for i in range(200)]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=6), st.integers(1, 60), min_size=1, max_size=120),
    new=st.text("abcdefgh", min_size=1, max_size=6),
    size=st.integers(1, 500),
)
def test_a_file_that_comes_or_goes_changes_the_splits_beside_it_alone(sizes, new, size):
    def groups(of: dict[str, int]) -> list[tuple[str, ...]]:
        with pytest.MonkeyPatch.context() as patch:
            files = [InputFile(f"/{name}.txt", f"{name}.txt", n, "") for name, n in sorted(of.items())]
            patch.setattr(FileEntry, "locate", lambda self: files)
            plan = source("/").plan(100)
        weights = {f"{name}.txt": n for name, n in of.items()}
        for group in group_names(plan):
            assert len(group) == 1 or sum(weights[name] for name in group) <= 400
        assert [name for group in group_names(plan) for name in group] == [f"{name}.txt" for name in sorted(of)]
        return [tuple(group) for group in group_names(plan)]

    sizes.pop(new, None)
    if not sizes:
        return
    before, after = groups(sizes), groups(sizes | {new: size})
    gone, made = set(before) - set(after), set(after) - set(before)
    # groups change between the borders around the file alone; without the size limit that is its own group
    names = sorted(f"{name}.txt" for name in sizes)
    ends = _ends_group(names, [sizes[name.removesuffix(".txt")] for name in names], 100)
    borders = [name for name, end in zip(names, ends, strict=True) if end]
    low = max((name for name in borders if name < f"{new}.txt"), default="")
    high = min((name for name in borders if name > f"{new}.txt"), default="~")
    for group in gone | made:
        assert low < group[0]
        assert group[-1] <= high


def test_a_file_among_thousands_changes_one_split_or_few(tmp_path, monkeypatch):
    names = [f"{i:05}.txt" for i in range(0, 4000, 2)]
    changed = []

    def groups(of: list[str]) -> set[tuple[str, ...]]:
        files = [InputFile(f"/{name}", name, 10, "") for name in sorted(of)]
        monkeypatch.setattr(FileEntry, "locate", lambda self: files)
        return set(map(tuple, group_names(source("/").plan(500))))

    before = groups(names)
    assert 25 <= len(before) <= 60
    for i in range(1, 4000, 97):
        changed.append(len(before ^ groups([*names, f"{i - i % 2 + 1:05}.txt"])))
    assert max(changed) <= 8
    assert sorted(changed)[len(changed) // 2] == 2


def test_a_file_of_the_size_asked_for_stands_alone(tmp_path):
    for name, size in {"a": 10, "b": 10, "c": 100, "d": 10}.items():
        write(tmp_path / f"{name}.txt", b"x" * size)
    groups = group_names(source(tmp_path).plan(100))
    assert ["c.txt"] in groups


def test_a_compressed_file_counts_for_the_text_expected_in_it(tmp_path):
    for i in range(40):
        write(tmp_path / f"{i:02}.txt.gz", gzip.compress(b"0123456789", mtime=0))
    size = (tmp_path / "00.txt.gz").stat().st_size
    assert len(source(tmp_path).plan(4 * size)) == 40
    few = source(tmp_path).plan(40 * size)
    assert 2 <= len(few) <= 10
    assert max(len(group) for group in group_names(few)) <= 40
    assert list(read(source(tmp_path), 40 * size)[0]) == [f"{i:02}.txt.gz#0" for i in range(40)]


# --- what decides the rows of a split


def identity(src: FileSource, target: int = HUGE) -> list[Any]:
    out = [src.identity(split) for split in src.plan(target)]
    return json.loads(json.dumps(out))


def test_the_identity_of_a_split_knows_what_decides_its_rows_and_not_where_they_lie(tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder / "a.jsonl", jsonl({"text": "x"}))
    known = identity(source(tmp_path / "one"))
    assert identity(source(tmp_path / "two")) == known
    assert str(tmp_path) not in json.dumps(known)
    entries = (FileEntry(path=str(write(tmp_path / "z.csv", b"text\nb\n"))), FileEntry(path=str(tmp_path / "one")))
    assert known[0] in identity(FileSource(name="s", entries=entries))
    assert identity(source(tmp_path / "one", format="jsonl")) == known
    others = [
        identity(source(tmp_path / "one", **change))
        for change in (
            {"name": "n"},
            {"domain": "d"},
            {"license": "MIT"},
            {"columns": {"title": "text"}},
            {"extractor": "trafilatura"},
            {"on_bad_file": "drop"},
            {"max_document_bytes": 5},
        )
    ]
    others.append(identity(FileSource(name="t", entries=source(tmp_path / "one").entries)))
    write(tmp_path / "three" / "b.jsonl", jsonl({"text": "x"}))
    others.append(identity(source(tmp_path / "three")))
    others.append(identity(source(tmp_path / "one" / "a.jsonl", format="text")))
    texts_ = [json.dumps(other) for other in (*others, known)]
    assert len(set(texts_)) == len(texts_)


def test_the_identity_of_a_split_tells_its_range_and_its_files(tmp_path):
    write(tmp_path / "a.jsonl", jsonl(*({"text": str(i)} for i in range(100))))
    several = identity(source(tmp_path), 100)
    assert len(several) > 3
    assert len(set(map(json.dumps, several))) == len(several)
    # what is in a file decides by its compression, which a name of its own does not show
    same = jsonl({"text": "x"})
    plain = identity(source(write(tmp_path / "p" / "a.jsonl", same), name="n"))
    packed = identity(source(write(tmp_path / "p" / "a.jsonl.gz", gzip.compress(same)), name="n"))
    assert plain[0][5] != packed[0][5]


# --- which files


def test_patterns_folders_and_unicode_names(tmp_path):
    for name in ("a.jsonl", "sub/ünï — 文.jsonl", "sub/deep/c.jsonl", "sub/.hidden.jsonl", ".git/d.jsonl", "notes.bin"):
        write(tmp_path / name, jsonl({"text": name}))
    assert list(texts(source(tmp_path))) == ["a.jsonl#0", "sub/deep/c.jsonl#0", "sub/ünï — 文.jsonl#0"]
    assert list(texts(source(f"{tmp_path}/**/*.jsonl"))) == ["a.jsonl#0", "sub/deep/c.jsonl#0", "sub/ünï — 文.jsonl#0"]
    assert list(texts(source(f"{tmp_path}/sub/*.jsonl"))) == ["ünï — 文.jsonl#0"]
    assert list(texts(source(f"{tmp_path}/sub/*.jsonl", name="x"))) == ["x/ünï — 文.jsonl#0"]
    assert list(texts(source(f"{tmp_path}/a.jsonl", name="x"))) == ["x#0"]
    assert list(texts(source(tmp_path / "notes.bin", format="jsonl"))) == ["notes.bin#0"]


def test_a_name_with_wildcard_characters_is_that_file(tmp_path):
    write(tmp_path / "part[1].jsonl", jsonl({"text": "x"}))
    assert list(texts(source(tmp_path / "part[1].jsonl"))) == ["part[1].jsonl#0"]


def test_a_file_name_that_is_not_utf8_becomes_readable(tmp_path):
    try:
        (tmp_path / "b\udcffd.txt").write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert texts(source(tmp_path)) == {"b\\xffd.txt#0": "x"}


def test_ids_do_not_depend_on_the_folder_or_the_order_of_entries(tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder / "a.jsonl", jsonl({"text": "x"}))
        write(tmp_path / folder / "b.txt", b"y")
    first, second = (texts(source(tmp_path / folder)) for folder in ("one", "two"))
    assert first == second
    entries = tuple(FileEntry(path=str(tmp_path / "one" / name)) for name in ("a.jsonl", "b.txt"))
    forth, back = (FileSource(name="s", entries=e).plan(HUGE) for e in (entries, entries[::-1]))
    assert (
        [(s.name, s.kind) for s in forth]
        == [(s.name, s.kind) for s in back]
        == [("a.jsonl", "jsonl"), ("b.txt", "text")]
    )


def test_two_files_of_one_name_are_refused_until_one_entry_has_a_name(tmp_path):
    paths = [write(tmp_path / folder / "a.jsonl", jsonl({"text": folder})) for folder in ("one", "two")]
    with pytest.raises(ConfigError, match=r"both called 'a\.jsonl' in ids; give one of the entries a name"):
        FileSource(name="s", entries=tuple(FileEntry(path=str(p)) for p in paths)).plan(HUGE)
    entries = (FileEntry(path=str(paths[0])), FileEntry(path=str(paths[1]), name="b"))
    assert texts(FileSource(name="s", entries=entries)) == {"a.jsonl#0": "one", "b#0": "two"}


@pytest.mark.parametrize(
    "pattern", ["none.jsonl", "*.jsonl", "none/**/*.csv", "memory://none/*.jsonl", "memory://none.csv"]
)
def test_a_pattern_without_files_is_named(tmp_path, pattern):
    path = pattern if "://" in pattern else f"{tmp_path}/{pattern}"
    with pytest.raises(InputError) as caught:
        source(path).plan(HUGE)
    assert str(caught.value).startswith(f"{path}: matches no file")


def test_an_unknown_extension_asks_for_the_format(tmp_path):
    path = write(tmp_path / "a.bin", b"x")
    with pytest.raises(ConfigError, match=r"a\.bin: extension not known.*set format: to one of jsonl, parquet, csv"):
        source(path).plan(HUGE)


def test_a_file_that_went_away_or_shrank_after_planning_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"text": "a"}, {"text": "b"}))
    (split,) = source(path, on_bad_file="drop").plan(HUGE)
    path.write_bytes(jsonl({"text": "a"}))
    with pytest.raises(InputError, match="the file changed after it was listed"):
        list(source(path, on_bad_file="drop").read(split, dropped="ids"))
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: cannot be read"):
        list(source(path, on_bad_file="drop").read(split, dropped="ids"))


def test_files_in_a_store_read_as_files_on_disk_do(tmp_path):
    fs = fsspec.filesystem("memory")
    pq.write_table(pa.table({"text": ["p", "q"]}), tmp_path / "c.parquet")
    data = {
        "a.jsonl": jsonl(*({"text": f"é{i}"} for i in range(100))),
        "b.csv.gz": gzip.compress(b'text\n"x\ny"\n'),
        "c.parquet": (tmp_path / "c.parquet").read_bytes(),
        "deep/d.txt": b"text",
    }
    for name, content in data.items():
        write(tmp_path / name, content)
        fs.pipe_file(f"/penstock-test/{name}", content)
    try:
        remote = source("memory://penstock-test")
        for target in (1, 150, HUGE):
            assert texts(remote, target) == texts(source(tmp_path), target)
        assert list(texts(source("memory://penstock-test/**/*.txt"))) == ["deep/d.txt#0"]
        assert list(texts(source("memory://penstock-test/a.jsonl")))[:2] == ["a.jsonl#0", "a.jsonl#1"]
        assert [fingerprint(f) for f in remote.inputs()] == [fingerprint(f) for f in source(tmp_path).inputs()]
    finally:
        fs.rm("/penstock-test", recursive=True)


def test_a_fingerprint_follows_the_content_and_not_the_name(tmp_path):
    one, two = write(tmp_path / "a.txt", b"same"), write(tmp_path / "b.txt", b"same")
    first, second = source(tmp_path).inputs()
    assert (first.path, first.name, first.size, first.stamp) == (str(one), "a.txt", 4, str(one.stat().st_mtime_ns))
    assert fingerprint(first) == fingerprint(second)
    two.write_bytes(b"Same")
    assert fingerprint(second) != fingerprint(first)


# --- splits change nothing

RECORDS = st.one_of(
    st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")),
    st.text(max_size=12).map(lambda t: json.dumps({"text": t}).encode()),
    st.text(max_size=12).map(lambda t: json.dumps({"text": t}, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b"\r", b" ", b'{"text": null}', b'{"text": "\xff"}', b'{"t": 1}', b'{"text": 1.5}', b"\xef\xbb\xbf"]
    ),
)


@st.composite
def line_files(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(st.tuples(RECORDS, st.sampled_from([b"\n", b"\r\n"])), max_size=25))
    data = b"".join(record + end for record, end in parts)
    return data.rstrip(b"\r\n") if draw(st.booleans()) else data


def line_oracle(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Ids and texts that a reader of whole files should find, and the ids it should drop."""
    good: dict[str, str] = {}
    bad: list[str] = []
    for number, line in enumerate(data.split(b"\n")):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode())
        except ValueError:
            value = None
        text = value.get("text") if isinstance(value, dict) else None
        if isinstance(text, str) and text.strip() and text.encode("utf-8", "ignore").decode() == text:
            good[f"a#{number}"] = text
        else:
            bad.append(f"a#{number}")
    return good, bad


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=line_files(), target=st.integers(1, 200), compressed=st.booleans())
def test_jsonl_rows_and_drops_do_not_depend_on_the_splits(tmp_path, data, target, compressed):
    path = write(tmp_path / "a.jsonl", data)
    src = source(path, name="a", on_bad_file="drop")
    expected = read(src)
    good, bad = line_oracle(data)
    assert {key: text for key, (text, _) in expected[0].items()} == good
    assert [key for key, _ in expected[1]] == bad
    assert read(src, target) == expected
    assert read(src, 1) == expected
    if compressed:
        packed = write(tmp_path / "a.jsonl.gz", gzip.compress(data))
        assert read(source(packed, name="a", on_bad_file="drop"), target) == expected


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | line_files(), target=st.integers(1, 200))
def test_lines_of_text_do_not_depend_on_the_splits(tmp_path, data, target):
    src = source(write(tmp_path / "a.txt", data), text_unit="line")
    expected = read(src)
    assert read(src, target) == expected
    assert {key: text.encode() for key, (text, _) in expected[0].items()}.items() <= {
        f"a.txt#{i}": (line.removeprefix(b"\xef\xbb\xbf") if i == 0 else line).removesuffix(b"\r")
        for i, line in enumerate(data.split(b"\n"))
    }.items()


def test_splits_cover_the_file_once_and_begin_at_line_starts(tmp_path):
    data = jsonl(*({"text": "x" * (i % 50)} for i in range(500)))
    path = write(tmp_path / "a.jsonl", data)
    plan = source(path).plan(700)
    assert plan[0].start == 0
    assert plan[-1].stop == len(data)
    for left, right in pairwise(plan):
        assert left.stop == right.start
        assert data[right.start - 1 : right.start] == b"\n"
        assert right.first_row == data[: right.start].count(b"\n")
        assert left.stop - left.start >= 700


# --- configuration


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FileEntry(path=""), "path: got an empty text"),
        (
            lambda: FileEntry(path="a", format="xml"),
            "format: got 'xml', allowed jsonl, parquet, csv, tsv, text, markdown, warc, wet, arrow",
        ),
        (lambda: FileEntry(path="a", columns={"body": "b"}), "columns: got body, allowed text, domain"),
        (lambda: FileEntry(path="a", text_unit="word"), "text_unit: got 'word', allowed file, paragraph, line"),
        (lambda: FileEntry(path="a", name="x#y"), "name of a source: got 'x#y'"),
        (lambda: FileEntry(path="a", domain=""), "domain: got an empty text"),
        (lambda: FileSource(name="s", entries=()), "entries of source s: got none"),
        (lambda: FileSource(name="", entries=(FileEntry(path="a"),)), "name of a source: got ''"),
        (lambda: source("a", on_bad_file="skip"), "on_bad_file: got 'skip', allowed fail, drop"),
        (lambda: source("a", max_document_bytes=0), "max_document_bytes: got 0, allowed 1 to"),
        (lambda: source("a").plan(0), "target_bytes: got 0, allowed >= 1"),
    ],
)
def test_a_wrong_configuration_says_what_is_allowed(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_parquet_inside_gzip_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet.gz", b"x")
    with pytest.raises(ConfigError, match="decompress it"):
        source(path).plan(HUGE)


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("train-00003-of-00010.jsonl", {}, ["own", "train"]),
        ("wiki_12.jsonl", {}, ["own", "wiki"]),
        ("2024.jsonl", {}, ["own", "2024"]),
        ("a.jsonl", {"domain": "stated"}, ["stated", "stated"]),
        ("a.jsonl", {"columns": {"domain": "kind"}}, ["k", "a"]),
        ("a.jsonl", {"columns": {"domain": "kind"}, "domain": "stated"}, ["k", "stated"]),
    ],
)
def test_domain_is_the_named_column_then_the_stated_one_then_the_stem_without_its_shard_number(
    tmp_path, name, entry, expected
):
    (tmp_path / name).write_text('{"text": "x", "domain": "own", "kind": "k"}\n{"text": "y"}\n')
    source = FileSource(name="files", entries=(FileEntry(path=str(tmp_path / name), **entry),))
    rows = [r for s in source.plan(1 << 20) for r in source.read(s, dropped="ids")]
    assert [d for r in rows for d in r.documents["domain"].to_pylist()] == expected


def test_files_that_are_one_document_each_take_the_name_of_their_folder(tmp_path):
    (tmp_path / "notes").mkdir()
    for stem in "ab":
        (tmp_path / "notes" / f"{stem}.md").write_text(f"text {stem}")
    source = FileSource(name="files", entries=(FileEntry(path=str(tmp_path / "notes")),))
    rows = [r for s in source.plan(1 << 20) for r in source.read(s, dropped="ids")]
    assert [d for r in rows for d in r.documents["domain"].to_pylist()] == ["notes", "notes"]
