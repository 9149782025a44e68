"""Sequences in a store: the rows and the order of a disk, by byte ranges, through a bounded cache that outlives a kill.

pytest tests/training/test_sequences_s3.py
"""

from __future__ import annotations

import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError, StorageError
from penstock.training import loop, remote
from penstock.training.config import TrainConfig, TrainData
from penstock.training.loader import MixtureLoader
from penstock.training.loop import train
from penstock.training.sequences import SequenceStore

Files = dict[str, list[str]]
LENGTH = 256
ROW = 2 * LENGTH  # bytes


def equal(one: Any, two: Any) -> bool:
    """Whether two readings of rows are the same, masks and types included."""
    arrays = ("tokens", "segment_counts", "segment_lengths", "learned")
    pairs = [(getattr(one, name), getattr(two, name)) for name in arrays]
    return one.segment_docs == two.segment_docs and all(
        (a is None and b is None) or (a is not None and a.dtype == b.dtype and np.array_equal(a, b)) for a, b in pairs
    )


def kept(cache: Path) -> int:
    """Bytes of the blocks in a cache."""
    return sum(path.stat().st_size for path in cache.glob("*/*.block"))


# ── any rows of any files, without a server ──────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[Files, Files]]:
    """Write files of drawn sizes: the same ones on a disk and in a store."""
    folder, made = tmp_path_factory.mktemp("both"), iter(range(1 << 30))
    store = fsspec.filesystem("memory")

    def write(packed: Any, sizes: dict[str, list[tuple[int, int, bool, bool]]]) -> tuple[Files, Files]:
        here: Files = {}
        there: Files = {}
        for domain, files in sizes.items():
            for rows, batch, wide, masked in files:
                number = next(made)
                given = packed.random(domain, rows, length=9, vocabulary=90, seed=number)
                path = packed.write(
                    folder / f"{number}.arrow",
                    given,
                    length=9,
                    kind=pa.uint32() if wide else pa.uint16(),
                    batch=batch,
                    masks=[[i % 4, 5 + i % 3] if i % 2 else None for i in range(rows)] if masked else None,
                )
                store.pipe_file(f"/sequences/{number}.arrow", path.read_bytes())
                here.setdefault(domain, []).append(str(path))
                there.setdefault(domain, []).append(f"memory://sequences/{number}.arrow")
        return here, there

    return write  # type: ignore[return-value]


A_FILE = st.tuples(st.integers(0, 12), st.integers(1, 5), st.booleans(), st.booleans())


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixtures hold nothing of an example
@given(data=st.data())
def test_any_rows_are_those_of_the_disk_and_the_cache_keeps_its_bound(
    both: Any, packed: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sizes = data.draw(
        st.dictionaries(st.sampled_from(["a", "b"]), st.lists(A_FILE, min_size=1, max_size=3), min_size=1)
    )
    here, there = both(packed, sizes)
    if data.draw(st.booleans()):  # some files may lie on the disk
        domain = data.draw(st.sampled_from(sorted(there)))
        there[domain][0] = here[domain][0]
    cache = tmp_path_factory.mktemp("cache")
    limit, group = data.draw(st.sampled_from([0, 700, 1 << 20])), data.draw(st.sampled_from([None, 1, 3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_BLOCK_BYTES", 40)
        patch.setattr(remote, "_GROUP_BYTES", 80)
        patch.setattr(remote, "_IN_FLIGHT", 60)
        patch.setattr(remote, "_READ_AHEAD", 16)
        disk = SequenceStore.open(here)
        try:
            store = SequenceStore.open(there, cache=cache, cache_bytes=limit, group_rows=group)
        except ConfigError as error:
            assert "two groups of each of" in str(error)  # noqa: PT017 - which examples it meets is drawn
            assert group is not None
            assert limit < 2 * len(sizes) * 3 * 36
            return
        assert (store.domains, store.rows, store.tokens) == (disk.domains, disk.rows, disk.tokens)
        addressed = [(k, row) for k, rows in enumerate(disk.rows) for row in range(rows)]
        for _ in range(2 if addressed else 0):
            wanted = data.draw(st.lists(st.sampled_from(addressed), max_size=15))
            domains, rows = (np.array([pair[i] for pair in wanted], dtype=np.int64) for i in (0, 1))
            assert equal(store.read(domains, rows), disk.read(domains, rows))
            assert kept(cache) <= limit


# ── through a server ─────────────────────────────────────────────────────────────────────────────


class Watched:
    """The store's application. ``seen`` holds method, path and range of every request, ``rule(number)`` may refuse."""

    def __init__(self, application: Any) -> None:
        self.application, self.lock = application, threading.Lock()
        self.seen: list[tuple[str, str, str]] = []
        self.rule: Callable[[int], bool] = lambda number: False

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        with self.lock:
            self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
            refused = self.rule(len(self.seen))
        if refused:
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        return self.application(environ, start)

    def spans(self) -> list[tuple[str, int, int]]:
        """Path, first byte and last byte (exclusive) of everything that was read; whole files are refused."""
        out = []
        for method, path, span in self.seen:
            if method == "GET":
                first, _, last = span.removeprefix("bytes=").partition("-")
                out.append((path, int(first), int(last) + 1))
        return out


@pytest.fixture
def watched(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Another server of the same store, which is watched."""
    import s3fs
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    made = Watched(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, made, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3fs.S3FileSystem.clear_instance_cache()
    yield made
    server.shutdown()
    thread.join()


@pytest.fixture
def data(
    s3_bucket: str, watched: Watched, tmp_path: Path, packed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> tuple[Files, Files]:
    """Two domains of rows of half a kilobyte, in three files: on a disk and in the store."""
    monkeypatch.setattr(remote, "_READ_AHEAD", 2048)
    store, here, there = fsspec.filesystem("s3"), Files(), Files()
    for domain, counts in {"code": (150, 90), "web": (210,)}.items():
        for number, count in enumerate(counts):
            rows = packed.random(domain, count, length=LENGTH, vocabulary=500, seed=number)
            path = packed.write(tmp_path / f"{domain}-{number}.arrow", rows, length=LENGTH)
            url = f"{s3_bucket}/{path.name}"
            store.put_file(str(path), url)
            here.setdefault(domain, []).append(str(path))
            there.setdefault(domain, []).append(url)
    watched.seen.clear()
    return here, there


def loader_of(store: SequenceStore, group_rows: int | None) -> MixtureLoader:
    return MixtureLoader(store, "proportional", seed=1, fingerprint="f", batch_size=5, group_rows=group_rows)


def sizes_of(files: Files) -> dict[str, int]:
    return {Path(name).name: Path(name).stat().st_size for paths in files.values() for name in paths}


@pytest.mark.server
def test_a_part_of_the_order_reads_a_part_of_the_files_and_a_second_start_reads_nothing_again(
    data: tuple[Files, Files], watched: Watched, tmp_path: Path
) -> None:
    here, there = data
    cache = tmp_path / "cache"
    store = SequenceStore.open(there, cache=cache, group_rows=8)
    opened = watched.spans()
    # the tokens of no file were read to open it
    assert sum(stop - first for _, first, stop in opened) < 0.2 * sum(sizes_of(here).values())
    ours, theirs = loader_of(store, 8), loader_of(SequenceStore.open(here), 8)
    for one, two in zip(ours.stream(12), theirs.stream(12), strict=True):
        assert equal(one, two)
        assert np.array_equal(one.rows, two.rows)
    read = watched.spans()[len(opened) :]
    # 60 rows and what was read ahead: whole groups of 8 rows, each asked for once, beside a border of files
    assert len(read) == len(set(read))
    assert all(stop - first <= 8 * ROW for _, first, stop in read)
    asked = sum(stop - first for _, first, stop in read)
    assert 60 * ROW <= asked <= (60 + 2 * 5 + 2 * 8) * ROW
    assert asked == kept(cache) - 4 * len(read)

    watched.seen.clear()
    again = loader_of(SequenceStore.open(there, cache=cache, group_rows=8), 8)
    assert [batch.tokens.tolist() for batch in again.stream(12, prefetch=0)] == [
        theirs.batch(step).tokens.tolist() for step in range(12)
    ]
    assert {method for method, _, _ in watched.seen} == {"HEAD"}


@pytest.mark.server
def test_the_example_of_the_docs_reads_a_store(data: tuple[Files, Files], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "loader.md").read_text()
    code = next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "urls" in code)
    names: dict[str, Any] = {"urls": data[1], "folder": tmp_path / "cache", "digest": "f"}
    exec(f"from penstock.training import MixtureLoader, SequenceStore\n{code}", names)  # noqa: S102 - our own page
    assert names["loader"].batch(0).tokens.shape == (32, LENGTH)


@pytest.mark.server
def test_without_groups_all_is_read_once_where_the_cache_holds_it_and_rows_alone_where_not(
    data: tuple[Files, Files], watched: Watched, tmp_path: Path
) -> None:
    here, there = data
    rows = sum(SequenceStore.open(here).rows)
    spans = {}
    for limit in (rows * ROW + 1000, rows * ROW - 1):
        cache = tmp_path / str(limit)
        store = SequenceStore.open(there, cache=cache, cache_bytes=limit)
        watched.seen.clear()
        ours, theirs = loader_of(store, None), loader_of(SequenceStore.open(here), None)
        assert all(equal(ours.batch(step), theirs.batch(step)) for step in range(rows // 5))
        spans[limit] = watched.spans()
        assert kept(cache) <= limit
    fits, does_not = spans.values()
    assert len(fits) == 3  # a file is less than a block of 1 MiB
    assert sum(stop - first for _, first, stop in fits) == rows * ROW
    assert len(does_not) == rows // 5 * 5
    assert {stop - first for _, first, stop in does_not} == {ROW}


@pytest.mark.server
def test_what_follows_is_read_while_a_batch_is_worked_on(
    data: tuple[Files, Files], watched: Watched, tmp_path: Path
) -> None:
    loader = loader_of(SequenceStore.open(data[1], cache=tmp_path / "cache", cache_bytes=1000), None)
    watched.seen.clear()
    stream = loader.stream(6, prefetch=2)
    next(stream)
    end = time.monotonic() + 20
    while len(watched.spans()) < 3 * 5:  # rows of the batch that was taken and of the two after it
        assert time.monotonic() < end
        time.sleep(0.005)
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.server
def test_a_store_that_refuses_now_and_then_changes_nothing_and_one_that_is_away_is_told(
    data: tuple[Files, Files], watched: Watched, tmp_path: Path
) -> None:
    here, there = data
    watched.rule = lambda number: number % 5 == 0
    ours, theirs = (
        loader_of(store, 8)
        for store in (SequenceStore.open(there, cache=tmp_path / "cache", group_rows=8), SequenceStore.open(here))
    )
    assert all(equal(ours.batch(step), theirs.batch(step)) for step in range(4))
    assert len(watched.seen) > 10
    watched.rule = lambda number: True
    with pytest.raises(StorageError, match=r"s3://bucket-\w+/\w+-\d\.arrow: .*run again"):
        [ours.batch(step) for step in range(4, 100)]
    watched.rule = lambda number: False
    assert all(equal(ours.batch(step), theirs.batch(step)) for step in range(4, 20))


@pytest.mark.server
def test_damaged_and_foreign_things_in_cache_and_store_are_noticed(
    data: tuple[Files, Files], watched: Watched, tmp_path: Path
) -> None:
    here, there = data
    cache = tmp_path / "cache"
    every = np.arange(240)

    def read() -> Any:
        return SequenceStore.open(there, cache=cache, group_rows=8).gather("code", every)

    expected = SequenceStore.open(here).gather("code", every)
    assert np.array_equal(read(), expected)
    flipped, cut, *_ = sorted(cache.glob("*code-0*/*.block"))
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    cut.write_bytes(cut.read_bytes()[:-1])
    watched.seen.clear()
    assert np.array_equal(read(), expected)
    assert len(watched.spans()) == 2
    # another process opens the store anew; its tokens are not sent along
    sent = pickle.dumps(SequenceStore.open(there, cache=cache, group_rows=8))
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).gather("code", every), expected)  # noqa: S301 (pickled above)
    # a new version of a file is another one
    fsspec.filesystem("s3").pipe_file(there["code"][0], Path(here["web"][0]).read_bytes())
    replaced = SequenceStore.open(there, cache=cache, group_rows=8)
    assert replaced.rows == (300, 210)
    assert np.array_equal(
        replaced.gather("code", np.arange(210)), SequenceStore.open(here).gather("web", np.arange(210))
    )
    with pytest.raises(ConfigError, match=r"code-0\.arrow: cannot be viewed in place"):
        replaced.views("code")
    with pa.OSFile(str(tmp_path / "z.arrow"), "wb") as sink, pa.memory_map(here["web"][0]) as source:
        table = pa.ipc.open_file(source).read_all()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    fsspec.filesystem("s3").put_file(str(tmp_path / "z.arrow"), there["web"][0])
    with pytest.raises(InputError, match=r"web-0\.arrow: .*(damaged|compressed)"):
        SequenceStore.open(there, cache=cache)
    fsspec.filesystem("s3").pipe_file(there["web"][0], b"no Arrow at all")
    with pytest.raises(InputError, match=r"web-0\.arrow: cannot be read as an Arrow IPC file"):
        SequenceStore.open(there, cache=cache)


@pytest.mark.server
def test_a_run_on_sequences_in_a_store_writes_what_one_on_a_disk_writes_killed_or_not(
    s3_bucket: str,
    watched: Watched,
    tiny_config: Callable[..., TrainConfig],
    tiny_data: TrainData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(remote, "_READ_AHEAD", 256)
    config = tiny_config(group_rows=4)
    expected = train(config, tiny_data, tmp_path / "disk", progress=False)
    store, urls = fsspec.filesystem("s3"), {}
    for split in ("train", "validation"):
        for domain, (path,) in getattr(tiny_data, split).items():
            store.put_file(path, f"{s3_bucket}/{split}/{domain}.arrow")
            urls.setdefault(split, {})[domain] = [f"{s3_bucket}/{split}/{domain}.arrow"]
    there = replace(tiny_data, **urls)
    watched.seen.clear()
    advance = loop._Run.advance

    def killed(run: Any) -> Any:
        if run.step == 5:
            raise KeyboardInterrupt
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, there, tmp_path / "store", progress=False)
    done = train(config, there, tmp_path / "store", progress=False)
    assert done.resumed_from == 3
    assert done.metrics.read_bytes() == expected.metrics.read_bytes()
    spans = watched.spans()
    assert len(spans) == len(set(spans))  # the second start found what the first one had read
