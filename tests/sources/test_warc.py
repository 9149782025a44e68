"""WARC and WET: what becomes a document, what a record that cannot costs, and what damage costs."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
import uuid
import zlib
from pathlib import Path
from typing import Any

import brotli
import fsspec
import pytest
import zstandard
from fastwarc.stream_io import GzipWriter
from fastwarc.warc import WarcRecord, WarcRecordType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError, MissingExtraError
from penstock.sources import _html
from penstock.sources.files import FileEntry, FileSource

DATE = "2024-01-02T03:04:05Z"


def record(
    kind: str,
    content: bytes = b"",
    *,
    url: str | None = "http://example.org/",
    media: str | None = None,
    length: object = None,
    end: bytes = b"\r\n",
) -> bytes:
    """One record, built byte by byte so that it can be wrong; ``length`` overrides Content-Length."""
    usual = {"response": "application/http; msgtype=response", "conversion": "text/plain"}
    fields = [
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, repr((kind, url, content[:99])))}>",
        f"WARC-Date: {DATE}",
        *([f"WARC-Target-URI: {url}"] if url is not None else []),
        f"Content-Type: {media or usual.get(kind, 'application/warc-fields')}",
        f"Content-Length: {len(content) if length is None else length}",
    ]
    head = b"WARC/1.0" + end + b"".join(field.encode() + end for field in fields) + end
    return head + content + b"\r\n\r\n"


def http(
    body: bytes,
    *,
    status: str = "200 OK",
    media: str | None = "text/html; charset=utf-8",
    headers: tuple[str, ...] = (),
) -> bytes:
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {media}"] if media else []), *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def words(i: int, count: int = 20) -> str:
    return " ".join(f"Sentence {i} {k} tells of water and of stone." for k in range(count))


def html(i: int = 0, *, head: str = "", text: str | None = None) -> str:
    return (
        f"<!doctype html><html><head><title>Page {i}</title>{head}</head><body>"
        "<nav><a href='/'>Home</a> <a href='/about'>About us</a></nav>"
        f"<main><article><h1>Heading {i}</h1><p>{words(i) if text is None else text}</p></article></main>"
        "<footer>Cookie settings</footer></body></html>"
    )


def page(i: int = 0, **options: Any) -> bytes:
    """A response record with a page."""
    return record("response", http(html(i).encode(), **options), url=f"http://example.org/{i}")


def crawl(count: int) -> list[bytes]:
    """Records as crawlers write them: an info record, then request, response and metadata of each page."""
    out = [record("warcinfo", b"software: by hand\r\n", url=None)]
    for i in range(count):
        url = f"http://example.org/{i}"
        out.append(record("request", b"GET / HTTP/1.1\r\n\r\n", url=url, media="application/http; msgtype=request"))
        out.append(page(i))
        out.append(record("metadata", b"fetchTimeMs: 3\r\n", url=url))
    return out


def members(records: list[bytes]) -> bytes:
    """Each record a gzip member of its own."""
    return b"".join(gzip.compress(r, mtime=0) for r in records)


def source(path: Any, *, on_bad_file: str = "drop", limit: int = 1 << 20, **entry: Any) -> FileSource:
    entries = (FileEntry(path=str(path), **entry),)
    return FileSource(name="s", entries=entries, on_bad_file=on_bad_file, max_document_bytes=limit)


def rows(src: FileSource, target: int = 1 << 40) -> tuple[dict[str, dict[str, Any]], list[tuple[int, str]]]:
    """{record number: document} and [(record number, reason)]; ids are checked."""
    documents: dict[int, dict[str, Any]] = {}
    drops: list[tuple[int, str]] = []
    for split in src.plan(target):
        for part in src.read(split, dropped="sample"):
            part.documents.validate(full=True)
            for row in part.documents.to_pylist():
                documents[int(row["doc_id"].rpartition("#")[2])] = row
            drops += [(int(r["doc_id"].rpartition("#")[2]), r["reason"]) for r in part.dropped.to_pylist()]
    return documents, drops


def read(tmp_path: Path, data: bytes, name: str = "a.warc", **options: Any) -> tuple[Any, Any]:
    (tmp_path / name).write_bytes(data)
    return rows(source(tmp_path / name, **options))


def one(tmp_path: Path, content: bytes, **options: Any) -> dict[str, Any]:
    """The document of the only record."""
    documents, drops = read(tmp_path, record("response", content), **options)
    assert drops == []
    return documents[0]


def reason(tmp_path: Path, content: bytes, **options: Any) -> str:
    documents, drops = read(tmp_path, record("response", content), **options)
    assert documents == {}
    ((number, why),) = drops
    assert number == 0
    return why


# --- rows


@pytest.mark.parametrize("extractor", _html.EXTRACTORS)
@pytest.mark.parametrize("name", ["c.warc", "c.warc.gz", "c.warc.zst"])
def test_pages_become_documents_and_the_records_about_them_no_rows(tmp_path, name, extractor):
    pack = {"warc": b"".join, "gz": members, "zst": lambda r: b"".join(map(zstandard.compress, r))}
    documents, drops = read(tmp_path, pack[name.rpartition(".")[2]](crawl(3)), name, extractor=extractor)
    assert drops == []
    assert list(documents) == [2, 5, 8]
    first = documents[5]
    assert first["doc_id"] == f"{name}#5"
    assert first["domain"] == "web"
    assert (first["url"], first["title"], first["date"], first["license"]) == (
        "http://example.org/1",
        {"resiliparse": "Page 1", "trafilatura": "Heading 1"}[extractor],
        DATE,
        None,
    )
    assert words(1) in first["text"]
    assert "Heading 1" in first["text"]
    assert "Cookie" not in first["text"]
    assert "About us" not in first["text"]


def test_files_of_another_writer_read_the_same(tmp_path):
    buffer = io.BytesIO()
    for i in range(3):
        made = WarcRecord()
        made.init_headers(WarcRecordType.response, record_urn=str(uuid.UUID(int=i)).encode())
        made.headers["WARC-Target-URI"] = f"http://example.org/{i}"
        made.headers["WARC-Date"] = DATE
        made.is_http = True
        made.set_bytes_content(http(html(i).encode()))
        writer = GzipWriter(buffer)
        made.write(writer)
        writer.finish()
    documents, drops = read(tmp_path, buffer.getvalue(), "b.warc.gz")
    assert drops == []
    by_hand, _ = read(tmp_path, b"".join(page(i) for i in range(3)))
    assert {n: (d["text"], d["url"]) for n, d in documents.items()} == {
        n: (d["text"], d["url"]) for n, d in by_hand.items()
    }


def test_texts_of_wet_files_are_taken_as_they_are(tmp_path):
    data = members(
        [
            record("warcinfo", b"x: y\r\n", url=None),
            record("conversion", "Schöne Zeile\nzwei".encode(), url="http://a.de/"),
            record("conversion", b"bad \xff byte"),
            record("conversion", b" \n "),
            record("conversion", b"{}", media="application/json"),
            record("conversion", b"x" * 200),
        ]
    )
    documents, drops = read(tmp_path, data, "CC-MAIN-20240101-00000.warc.wet.gz", limit=150)
    assert list(documents) == [1]
    found = {key: documents[1][key] for key in ("doc_id", "text", "url", "title", "date", "domain")}
    assert found == {
        "doc_id": "CC-MAIN-20240101-00000.warc.wet.gz#1",
        "text": "Schöne Zeile\nzwei",
        "url": "http://a.de/",
        "title": None,
        "date": DATE,
        "domain": "web",
    }
    assert drops == [(2, "invalid_utf8"), (3, "no_text"), (4, "not_html"), (5, "too_large")]


def test_what_is_no_page_is_dropped_with_its_reason(tmp_path):
    gone = http(b"x", status="404 Not Found")
    records = [
        page(0),
        record("response", gone),
        record("response", http(b"%PDF", media="application/pdf")),
        record("response", http(b"binary", media=None)),
        record("response", http(html(4).encode(), media=None)),
        record("response", http(words(5).encode(), media="text/plain")),
        record("response", http(b" \n", media="text/plain")),
        record("response", http(b"<html><body><script>x</script></body></html>")),
        record("response", b"not http at all"),
        record("response", http(html(9).encode(), status="206 Partial")),
        record("response", http(html(10).encode(), media="application/xhtml+xml")),
        record("response", http(html(11).encode(), media="TEXT/HTML;charset=x")),
        # none of these is a page that the crawler got
        record("response", b"20240102\nexample.org. 300 IN A 1.2.3.4\n", media="text/dns", url="dns:example.org"),
        record("revisit", http(b""), media="application/http; msgtype=response"),
        record("resource", html(14).encode(), media="text/html"),
        record("continuation", b"x"),
        record("something", b"x"),
    ]
    documents, drops = read(tmp_path, b"".join(records))
    assert list(documents) == [0, 4, 5, 10, 11]
    assert documents[5]["text"] == words(5)
    assert drops == [
        (1, "http_status"),
        (2, "not_html"),
        (3, "not_html"),
        (6, "no_text"),
        (7, "no_text"),
        (8, "invalid_http"),
        (9, "http_status"),
    ]


def test_header_fields_may_be_folded_doubled_or_in_any_case(tmp_path):
    content = http(html(1).encode(), media=None, headers=("CONTENT-TYPE:", "  text/html;", "\tcharset=utf-8"))
    data = record("response", content).replace(b"WARC-Target-URI: ", b"warc-target-uri:<", 1)
    data = data.replace(b"example.org/\r\n", b"example.org/>\r\nWARC-Target-URI: http://second/\r\n", 1)
    documents, drops = read(tmp_path, data)
    assert drops == []
    assert documents[0]["url"] == "http://example.org/"


def test_records_may_end_their_lines_like_unix_and_end_with_one_line_end(tmp_path):
    unix = [record("response", http(html(i).encode()), end=b"\n") for i in range(3)]
    assert list(read(tmp_path, b"".join(unix))[0]) == [0, 1, 2]
    tight = [page(i)[:-2] for i in range(3)]
    assert list(read(tmp_path, b"".join(tight))[0]) == [0, 1, 2]
    loose = [page(i) + b"\r\n\r\n" for i in range(3)]
    assert list(read(tmp_path, b"\r\n" + b"".join(loose))[0]) == [0, 1, 2]


def test_an_empty_file_gives_nothing(tmp_path):
    for name, data in (("a.warc", b""), ("a.warc.gz", b""), ("b.warc.gz", gzip.compress(b"")), ("c.wet", b"\r\n")):
        assert read(tmp_path, data, name) == ({}, [])


def test_small_files_share_a_split_and_rows_do_not_depend_on_it(tmp_path):
    for i in range(12):
        (tmp_path / f"{i:02}.warc.gz").write_bytes(members(crawl(2)))
    src = source(tmp_path)

    def all_rows(target: int) -> list[str]:
        parts = [part for split in src.plan(target) for part in src.read(split, dropped="ids")]
        return [doc_id for part in parts for doc_id in part.documents["doc_id"].to_pylist()]

    assert len(src.plan(1)) == 12
    assert len(src.plan(1 << 20)) < 12
    assert all_rows(1) == all_rows(1 << 20) == [f"{i:02}.warc.gz#{n}" for i in range(12) for n in (2, 5)]


def test_files_in_a_store_read_as_files_on_disk_do(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/penstock-warc/a.warc.gz", members(crawl(3)))
    try:
        documents, drops = rows(source("memory://penstock-warc/*.warc.gz"))
    finally:
        fs.rm("/penstock-warc", recursive=True)
    assert (list(documents), drops) == ([2, 5, 8], [])


# --- charsets and encodings of bodies


@pytest.mark.parametrize(
    ("charset", "header", "meta"),
    [
        ("utf-8", "utf-8", None),
        ("windows-1251", "windows-1251", "utf-8"),  # the header comes first
        ("koi8-r", None, "koi8-r"),
        ("windows-1251", None, None),  # detected
        ("windows-1251", "no-such-charset", "windows-1251"),
        ("utf-8", "no-such-charset", None),
        ("windows-1251", "utf-8", "windows-1251"),  # the header is wrong: the bytes do not decode
        ("utf-16", "utf-8", None),  # a byte order mark says more than any of them
    ],
)
def test_a_page_decodes_by_header_then_meta_then_its_bytes(tmp_path, charset, header, meta):
    text = "Вода точит камень, и река течёт к морю между холмов. " * 10
    head = f'<meta charset="{meta}">' if meta else ""
    body = html(1, head=head, text=text).encode(charset)
    media = f"text/html; charset={header}" if header else "text/html"
    document = one(tmp_path, http(body, media=media))
    assert text.strip() in document["text"]


def test_one_file_may_mix_charsets_and_bytes_that_are_none_become_replacements(tmp_path):
    texts = {"utf-8": "naïve café über", "shift_jis": "これは水と石の話です。", "windows-1252": "“naïve” café"}
    records = [
        record("response", http(html(text=text * 20).encode(name), media=f"text/html; charset={name}"))
        for name, text in texts.items()
    ]
    records.append(record("response", http(b"a \xff\xfe\x81 b", media="text/plain; charset=utf-8")))
    broken = html(text="Wasser \x00 und Stein. " * 20).encode().replace(b"\x00", b"\xe4\xb8")
    records.append(record("response", http(broken)))
    documents, drops = read(tmp_path, b"".join(records))
    assert drops == []
    for (_, text), number in zip(texts.items(), range(3), strict=True):
        assert text in documents[number]["text"]
    assert documents[3]["text"].startswith("a ")
    assert "Wasser" in documents[4]["text"]


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(f"{len(p):x};note=1\r\n".encode() + p + b"\r\n" for p in parts) + b"0\r\n\r\n"


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


ENCODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "DEFLATE": deflate,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "identity": bytes,
    "gzip, br": lambda body: brotli.compress(gzip.compress(body)),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("size", [None, 7, 1 << 20])
def test_bodies_are_decoded_whatever_wraps_them(tmp_path, name, size):
    text = words(1, 30_000 if size is None else 1000)  # the first is more than is decoded at once
    long = html(1, text=text)
    body = ENCODINGS[name](long.encode())
    headers = [f"Content-Encoding: {name}"]
    if size:
        body = chunked(body, size)
        headers.append("Transfer-Encoding: chunked")
    document = one(tmp_path, http(body, headers=tuple(headers)), limit=8 << 20)
    assert text in document["text"]


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_a_body_stored_decoded_under_its_old_headers_is_taken_as_it_is(tmp_path, name):
    headers = (f"Content-Encoding: {name}", "Transfer-Encoding: chunked")
    assert words(3) in one(tmp_path, http(html(3).encode(), headers=headers))["text"]


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_body_that_breaks_off_gives_what_it_held(tmp_path, name):
    numbers = random.Random(1)
    body = ENCODINGS[name](html(1, text=" ".join(str(numbers.random()) for _ in range(40_000))).encode())
    document = one(tmp_path, http(body[: len(body) // 2], headers=(f"Content-Encoding: {name}",)))
    assert len(document["text"]) > 10_000
    half = chunked(html(2).encode(), 50)[:-300]
    assert "Sentence 2 3" in one(tmp_path, http(half, headers=("Transfer-Encoding: chunked",)))["text"]


def test_an_unknown_encoding_and_one_in_another_in_another_are_named(tmp_path):
    assert reason(tmp_path, http(b"x", headers=("Content-Encoding: compress",))) == "unknown_encoding"
    four = ("Content-Encoding: gzip, gzip, gzip, gzip",)
    assert reason(tmp_path, http(b"x", headers=four)) == "unknown_encoding"


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_bomb_in_a_body_costs_its_page_and_not_the_memory(tmp_path, name):
    bomb = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": lambda body: brotli.compress(body, quality=5),
        "zstd": zstandard.compress,
        "gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
    }[name](b" " * (48 << 20))
    assert len(bomb) < 60_000
    data = record("response", http(bomb, headers=(f"Content-Encoding: {name}",))) + page(1)
    (tmp_path / "a.warc").write_bytes(data)
    tracemalloc.start()
    try:
        documents, drops = rows(source(tmp_path / "a.warc", limit=1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (list(documents), drops) == ([1], [(0, "too_large")])
    assert peak < 24 << 20


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_bomb_in_a_record_is_passed_over_in_little_memory(tmp_path, name):
    bomb = record("response", http(b" " * (48 << 20)))
    data = members([bomb, page(1)]) if name.endswith("gz") else bomb + page(1)
    (tmp_path / name).write_bytes(data)
    del bomb, data
    tracemalloc.start()
    try:
        documents, drops = rows(source(tmp_path / name, limit=1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (list(documents), drops) == ([1], [(0, "too_large")])
    assert peak < 20 << 20


def test_a_text_at_the_limit_passes_and_one_byte_more_does_not(tmp_path):
    text = "wasser und stein " * 50
    body = http(text.encode(), media="text/plain")
    assert one(tmp_path, body, limit=len(text))["text"] == text
    assert reason(tmp_path, body, limit=len(text) - 1) == "too_large"
    # one byte of windows-1251 is two of UTF-8
    body = http(("вода " * 50).encode("windows-1251"), media="text/plain; charset=windows-1251")
    assert reason(tmp_path, body, limit=300) == "too_large"
    assert one(tmp_path, body, limit=450)["text"] == "вода " * 50


# --- damage

SHORT = crawl(3)  # pages at 2, 5 and 8
PAGE = 5


def with_record(bad: bytes) -> list[bytes]:
    return [*SHORT[:PAGE], bad, *SHORT[PAGE + 1 :]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [0, 10, 1500, 99_999, 10**15, "x12", "", "-5", "²"])
def test_a_wrong_length_costs_its_record(tmp_path, packed, length):
    records = with_record(record("response", http(html(1).encode()), length=length))
    data = members(records) if packed else b"".join(records)
    documents, drops = read(tmp_path, data, "a.warc.gz" if packed else "a.warc", limit=1 << 16, on_bad_file="fail")
    assert (list(documents), drops) == ([2, 8], [(PAGE, "invalid_warc")])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bad", [b"garbage\r\n" * 10, b"WARC/x\r\n\r\n", b"\0" * 5000, b"x" * 200_000])
def test_bytes_that_are_no_record_cost_themselves(tmp_path, packed, bad):
    records = with_record(bad + b"\r\n\r\n")
    data = members(records) if packed else b"".join(records)
    documents, drops = read(tmp_path, data, "a.warc.gz" if packed else "a.warc", on_bad_file="fail")
    assert (list(documents), drops) == ([2, 8], [(PAGE, "invalid_warc")])


def member_with(change: Any) -> bytes:
    packed = [gzip.compress(r, mtime=0) for r in SHORT]
    packed[PAGE] = change(bytearray(packed[PAGE]))
    return b"".join(packed)


def overwrite(member: bytearray) -> bytes:
    middle = len(member) // 2
    member[middle : middle + 30] = b"\xff" * 30
    return bytes(member)


def flip_checksum(member: bytearray) -> bytes:
    member[-6] ^= 1
    return bytes(member)


@pytest.mark.parametrize(
    "change",
    [overwrite, flip_checksum, lambda m: b"garbage" * 10, lambda m: bytes(m[: len(m) // 2]), lambda m: b"\x1f\x8b\x08"],
    ids=["overwritten", "checksum", "garbage", "cut", "magic alone"],
)
def test_a_damaged_member_costs_itself_and_not_the_ones_after_it(tmp_path, change):
    documents, drops = read(tmp_path, member_with(change), "a.warc.gz")
    assert (list(documents), drops) == ([2, 8], [(PAGE, "corrupt_file")])
    with pytest.raises(InputError, match=r"a\.warc\.gz: .*gzip.*on_bad_file: drop"):
        rows(source(tmp_path / "a.warc.gz", on_bad_file="fail"))


def test_members_may_be_parted_by_zeros(tmp_path):
    data = b"".join(gzip.compress(r) + b"\0" * 600 for r in SHORT)
    assert list(read(tmp_path, data, "a.warc.gz")[0]) == [2, 5, 8]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "one.warc.gz", "a.warc.zst"])
def test_a_file_cut_anywhere_keeps_the_records_before_and_counts_one(tmp_path, name):
    pack = {
        "a.warc": b"".join,
        "a.warc.gz": members,
        "one.warc.gz": lambda r: gzip.compress(b"".join(r)),
        "a.warc.zst": lambda r: b"".join(map(zstandard.compress, r)),
    }
    whole = pack[name](SHORT)
    ends = []
    for n in range(len(SHORT) + 1):
        ends.append(len(pack[name](SHORT[:n])) if name != "one.warc.gz" else 0)
    for cut in range(1, len(whole) - 4, 211 if name == "a.warc" else 67):
        documents, drops = read(tmp_path, whole[:cut], name)
        assert [why for _, why in drops] in (["corrupt_file"], [])
        if name == "one.warc.gz":
            assert drops[-1][1] == "corrupt_file"
            continue
        complete = sum(end <= cut for end in ends) - 1
        if name == "a.warc.zst":  # of the 4 KiB in which zstd meets the end nothing is kept
            assert set(documents) <= {n for n in (2, 5, 8) if n < complete}
            continue
        assert {number for number in documents if number < complete} == {n for n in (2, 5, 8) if n < complete}
        if cut not in ends and drops:
            assert drops[0][0] in (complete, complete + 1)
        if drops:
            with pytest.raises(InputError, match="on_bad_file: drop"):
                rows(source(tmp_path / name, on_bad_file="fail"))
        else:
            # what misses is the line ends after a record that is there
            assert cut in ends or any(0 < end - cut <= 4 for end in ends)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_a_file_that_is_no_warc_is_corrupt_and_not_many_bad_rows(tmp_path, name):
    data = b"hello world\n" * 5000
    assert read(tmp_path, data, name) == ({}, [(0, "corrupt_file")])
    with pytest.raises(InputError, match=r"a\.warc.*replace the file, or set on_bad_file: drop"):
        read(tmp_path, data, name, on_bad_file="fail")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), packed=st.booleans())
def test_any_damage_is_survived_and_records_far_from_it_are_kept(tmp_path, data, packed):
    raw = bytearray(members(SHORT) if packed else b"".join(SHORT))
    middle = [gzip.compress(r, mtime=0) if packed else r for r in SHORT]
    first = sum(map(len, middle[:PAGE]))
    at = data.draw(st.integers(first, first + len(middle[PAGE]) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=40))
    raw[at : at + min(len(piece), first + len(middle[PAGE]) - at)] = piece
    documents, drops = read(tmp_path, bytes(raw), "a.warc.gz" if packed else "a.warc")
    assert {2, 8} <= {*documents, *(n + 1 for n in documents if n > PAGE), *(n - 1 for n in documents if n > PAGE)}
    assert documents[2]["text"] == read(tmp_path, SHORT[2], "b.warc")[0][0]["text"]
    assert len(drops) <= 2


# --- pages made to hurt


@pytest.mark.parametrize("extractor", _html.EXTRACTORS)
def test_pages_made_to_hurt_cost_themselves(tmp_path, extractor):
    n = 100_000
    deep = "<div>" * n + "x" + "</div>" * n
    # trafilatura takes fewer elements, so that more are too many before they are too deep
    most = n if extractor == "resiliparse" else n // 5
    attributes = " ".join(f"a{i}=1" for i in range(n))
    reopened = "".join(f"<p><b id={i}>x" for i in range(20_000))
    bodies = {
        "html_too_deep": ["<div>" * most + "x" + "</div>" * most, "<div><span>" * most, "<table><tr><td>" * 2000],
        "html_too_complex": [
            f"<p {attributes}>x",
            reopened,
            f"<svg><style><p {attributes}>x",
            "<svg><style></svg>" + reopened,
            reopened.replace("x", "<!--</b>-->"),
            reopened.replace("<b ", "<b t='</b>' "),
            "<p>x</p>" * 600_000,
            *([deep] if most < n else []),
        ],
        "too_large": ["<p>" + "wasser " * 1_600_000],
    }
    records = [(why, record("response", http(b.encode()))) for why, bs in bodies.items() for b in bs]
    documents, drops = read(
        tmp_path, members([r for _, r in records] + [page(1)]), "a.warc.gz", extractor=extractor, limit=64 << 20
    )
    assert drops == [(number, why) for number, (why, _) in enumerate(records)]
    assert list(documents) == [len(records)]


def test_extraction_is_the_same_in_any_order_and_with_other_pages_before(tmp_path):
    pages = [page(i) for i in range(6)] * 2
    for extractor in _html.EXTRACTORS:
        forth, _ = read(tmp_path, b"".join(pages), extractor=extractor)
        back, _ = read(tmp_path, b"".join(reversed(pages)), extractor=extractor)
        assert sorted(d["text"] for d in forth.values()) == sorted(d["text"] for d in back.values())
        assert len(forth) == 12


# --- configuration


def test_an_unknown_extractor_is_refused():
    with pytest.raises(ConfigError, match="extractor: got 'readability', allowed resiliparse, trafilatura"):
        FileEntry(path="a", extractor="readability")


def test_an_extractor_that_is_not_installed_is_named_when_the_run_is_planned(tmp_path, monkeypatch):
    (tmp_path / "a.warc").write_bytes(page(1))
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(MissingExtraError, match=r"trafilatura is not installed; run: pip install 'penstock\[web\]'"):
        source(tmp_path / "a.warc", extractor="trafilatura").plan(1)


def test_a_stated_domain_and_license_hold_for_every_page(tmp_path):
    (tmp_path / "a.warc").write_bytes(page(1))
    documents, _ = rows(source(tmp_path / "a.warc", domain="news", license="CC-BY-4.0"))
    assert (documents[0]["domain"], documents[0]["license"]) == ("news", "CC-BY-4.0")
    assert json.dumps(documents[0]["title"]) == '"Page 1"'
