"""Files of any bytes in every format: documents, counted drops or a named error; never a crash, in bounded memory."""

import gzip
import io
import json
import subprocess
import sys
import warnings
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.sources.files import FileEntry, FileSource

TEXTS = [f"Document {n} speaks of rivers, gates and turbines." for n in range(30)]


def in_memory(write):
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def arrow(new):
    table = pa.table({"text": TEXTS})

    def write(out):
        with new(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)

    return in_memory(write)


PAGE = b"<html><body><p>" + TEXTS[0].encode() * 20 + b"</p></body></html>"


def warc(page, length=None):
    """A record of a crawl: a response of a server."""
    content = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nContent-Type: application/http\r\n"
    )
    return head + b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (length or len(content), content)


WARC = warc(PAGE)
WET = WARC.replace(b"response", b"conversion").replace(b"application/http", b"text/plain")
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
GOOD = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES, mtime=0),
    "a.jsonl.zst": zstandard.compress(LINES),
    "a.csv": ("text,n\n" + "".join(f'"{text}",1\n' for text in TEXTS)).encode(),
    "a.tsv": ("text\tn\n" + "".join(f"{text}\t1\n" for text in TEXTS)).encode(),
    "a.txt": "\n\n".join(TEXTS).encode(),
    "a.md": "\n\n".join(TEXTS).encode(),
    "a.parquet": in_memory(lambda out: pq.write_table(pa.table({"text": TEXTS}), out, row_group_size=10)),
    "a.arrow": arrow(pa.ipc.new_file),
    "b.arrow": arrow(pa.ipc.new_stream),
    "a.warc": WARC * 3,
    "a.warc.gz": gzip.compress(WARC, mtime=0) * 3,
    "a.wet": WET * 3,
}


def read(path, on_bad_file="drop", limit=1 << 20):
    """Documents and drops by reason; every row that a reader numbers is one of them."""
    source = FileSource(
        name="s", entries=(FileEntry(path=str(path)),), on_bad_file=on_bad_file, max_document_bytes=limit
    )
    texts, reasons = [], []
    for split in source.plan(1 << 20):
        for rows in source.read(split, dropped="sample"):
            rows.documents.validate(full=True)
            rows.dropped.validate(full=True)
            texts += rows.documents["text"].to_pylist()
            reasons += rows.dropped["reason"].to_pylist()
    return texts, reasons


@st.composite
def damaged(draw, data):
    """Bytes with some of them changed, cut out, doubled or put elsewhere."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        size = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["change", "cut", "double", "end", "ones"]))
        if kind == "change":
            out[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del out[at : at + size]
        elif kind == "double":
            out[at:at] = out[at : at + size]
        elif kind == "end":
            del out[at:]
        else:
            out[at : at + min(size, 8)] = b"\xff" * min(size, 8)
    return bytes(out)


@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_is_whole_is_read_and_none_of_it_dropped(name, tmp_path):
    (tmp_path / name).write_bytes(GOOD[name])
    texts, reasons = read(tmp_path / name)
    assert texts
    assert reasons == []


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_costs_rows_or_the_file_and_is_counted(name, data, tmp_path):
    given = data.draw(damaged(GOOD[name]) | st.binary(max_size=200))
    (tmp_path / name).write_bytes(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts, reasons = read(tmp_path / name)
        assert all(isinstance(text, str) and text.strip() for text in texts)
        if name == "a.jsonl":
            lines = [line.removesuffix(b"\r") for line in given.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
            assert len(texts) + len(reasons) == sum(1 for line in lines if line.strip())
        said, strict = str(tmp_path / name), (texts, reasons)
        try:
            strict = read(tmp_path / name, "fail")
        except (InputError, ConfigError) as error:
            said = str(error)
        assert strict == (texts, reasons)
        assert str(tmp_path / name) in said


def bombs(folder):
    """Files that are small, or plain, and made to take time or memory: what is to be dropped of each, by reason."""
    deep = 200_000
    zeros = zlib.compressobj(9, wbits=31)
    bomb = zeros.compress(bytes(64 << 20)) + zeros.flush()
    wide = "text," + ",".join(f"c{n}" for n in range(1_000_000))
    files = {
        "deep.jsonl": (b'{"text": ' + b"[" * deep + b"]" * deep + b"}\n", ["invalid_json"]),
        "deeper.jsonl": (b'{"a":' * deep + b"1" + b"}" * deep + b"\n", ["invalid_json"]),
        "number.jsonl": (b'{"text": 1' + b"0" * 100_000 + b"}\n", ["invalid_json"]),
        "exponent.jsonl": (b'{"text": 1e999999999}\n', ["not_text"]),
        "wide.csv": (f"{wide}\nwater{',' * 1_000_000}\n".encode(), []),
        "quotes.csv": (b"text\n" + b'"' * (17 << 20), ["too_large"]),
        "zeros.jsonl.gz": (gzip.compress(b'{"text": "' + bytes(64 << 20) + b'"}\n', 1), ["too_large"]),
        "twice.jsonl.gz": (gzip.compress(bomb), ["invalid_utf8"]),
        "keys.jsonl": (b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}\n", ["missing_text"]),
        "nested.warc": (warc(b"<div>" * 20_000 + b"x"), ["html_too_deep"]),
        "length.warc": (warc(PAGE, 10**30), ["invalid_warc"]),
        "headers.warc": (b"WARC/1.0\r\n" + b"A: b\r\n" * 100_000, ["corrupt_file"]),
        "schema.parquet": (b"PAR1" + b"\xff" * 100 + (2**31 - 1).to_bytes(4, "little") + b"PAR1", ["corrupt_file"]),
        "length.arrow": (b"ARROW1\0\0" + b"\xff" * 7 + b"\x7f" + b"\0" * 64 + b"ARROW1", ["corrupt_file"]),
    }  # fmt: skip
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name: reasons for name, (_, reasons) in files.items()}


IN_LITTLE_MEMORY = """
import json, resource, sys
from penstock.errors import InputError
from penstock.sources.files import FileEntry, FileSource

resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (90, 90))
told = {}
for path in json.load(sys.stdin):
    entry = FileEntry(path=path)
    source = FileSource(name="s", entries=(entry,), on_bad_file="drop", max_document_bytes=16 << 20)
    rows = [rows for split in source.plan(1 << 20) for rows in source.read(split, dropped="sample")]
    told[path] = [sum((r.dropped["reason"].to_pylist() for r in rows), []), sum(r.documents.num_rows for r in rows)]
json.dump(told, sys.stdout)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def test_files_made_to_hurt_cost_a_row_each_in_bounded_time_and_memory(tmp_path):
    wanted = bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY], input=json.dumps([str(tmp_path / name) for name in wanted]),
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = {path.rsplit("/", 1)[1]: found for path, found in json.loads(done.stdout).items()}
    for name, reasons in wanted.items():
        found, documents = told[name]
        assert set(found) == set(reasons), name
        assert len(found) + documents < 10, name
    assert told["wide.csv"] == [[], 1]
    assert int(done.stderr.split()[-1]) < 1 << 20  # kB of the process at its largest
