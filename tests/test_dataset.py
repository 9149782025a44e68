"""Dataset folders: what is written is what `datasets` loads, damage is found, and every row is accounted for."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.dataset import (
    FORMAT,
    Counts,
    Dataset,
    FileEntry,
    Manifest,
    TableEntry,
    TableWriter,
    hash_json,
    read_manifest,
)
from penstock.errors import DatasetError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.publish import Published
from penstock.pipelines.select import Selection
from penstock.pipelines.sequences import PackedSequences
from penstock.recipe import Recipe
from penstock.run import run
from penstock.selectors.quadmix import Criterion, DomainParameters, QuaDMixParameters
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

# ── as the `datasets` library sees it ────────────────────────────────────────────────────────────

LOAD = """
import json, sys
import datasets

folder, harmed = sys.argv[1:]
out = {}
whole = datasets.load_dataset(folder)
out["splits"] = {name: whole[name].num_rows for name in whole}
out["rows"] = {name: whole[name].to_list() for name in whole}
out["features"] = {name: str(feature) for name, feature in whole["train"].features.items()}
streamed = datasets.load_dataset(folder, streaming=True)
out["streamed"] = {name: list(streamed[name]) for name in streamed}
try:
    datasets.load_dataset(harmed)
except Exception as error:
    out["error"] = type(error).__name__
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def loaded(commit_rows, tmp_path_factory):
    """(run folder of a published dataset, what the library loads from it in a process of its own, offline)."""
    root = tmp_path_factory.mktemp("loaded")
    rng = random.Random(0)
    rows = [
        {
            "doc_id": f"a.jsonl#{i}",
            "id_hash": i,
            "source": "files",
            "text": rng.choice(
                ("plain", "Grüße, 世界 \U0001f30a", "line\nline\ttab", '"quoted", {json}', "\u202e\u0000 x")
            )
            * 3,
            "domain": rng.choice(("rivers", "a/b: *c")),
            "split": rng.choices(("train", "validation", "test"), (8, 1, 1))[0],
            "bytes": 30,
            "tokens": i % 50,
            "score.quality": rng.random() if i % 3 else None,
        }
        for i in range(600)
    ]
    documents = pa.RecordBatch.from_pylist(rows)
    documents = documents.set_column(1, "id_hash", documents["id_hash"].cast(pa.uint64()))
    copies = pa.array([rng.randint(0, 2) for _ in rows], pa.int32())
    chosen = documents.select(["doc_id", "split", "bytes", "tokens"]).append_column("copies", copies)
    commit_rows(root, "scored", {"documents": [documents]})
    commit_rows(root, "selection", {"selection": [chosen]})
    step = Published("dataset", "scored", "selection", "Rows of a test", 2_000)
    run_step(step, Folder(str(root)), HomeEngine(0), Silent(), Settings())

    harmed = root / "harmed"
    folder = Folder(str(root / "dataset"))
    for name in folder.files():
        (harmed / name).parent.mkdir(parents=True, exist_ok=True)
        (harmed / name).write_bytes(folder.read_bytes(name))
    card, rows_of = (harmed / "README.md").read_text(), Dataset(folder).table("train").rows
    assert card.count(f"num_examples: {rows_of}\n") == 1
    (harmed / "README.md").write_text(card.replace(f"num_examples: {rows_of}\n", f"num_examples: {rows_of + 1}\n"))

    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", LOAD, folder.path, str(harmed)]
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


def test_the_library_loads_every_split_with_the_rows_that_were_written(loaded):
    root, found = loaded
    dataset = Dataset(f"{root}/dataset")
    assert list(found["rows"]) == ["train", "validation", "test"]
    assert len(dataset.table("train").files) > 3
    for split in found["rows"]:
        written = dataset.read(split).to_pylist()
        assert found["rows"][split] == written
        assert found["streamed"][split] == written
        assert found["splits"][split] == dataset.table(split).rows == len(written)


def test_the_library_sees_the_columns_of_the_manifest(loaded):
    root, found = loaded
    kinds = Dataset(f"{root}/dataset").table("train").columns
    assert found["features"] == {
        name: f"Value('{'float64' if kind == 'double' else kind}')" for name, kind in kinds.items()
    }


def test_a_wrong_count_in_the_card_is_refused_by_the_library(loaded):
    assert loaded[1]["error"] == "NonMatchingSplitsSizesError"


# ── manifests ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small(commit_rows, tmp_path):
    """(folder, manifest) of a dataset of two parts."""
    parts = [pa.record_batch({"z": pa.array([1, 2]), "a": pa.array(["x", "é"])}) for _ in range(2)]
    return tmp_path / "small", commit_rows(tmp_path, "small", {"rows": parts}, {"note": [1, {"b": 2}]})


def test_a_manifest_read_back_is_the_one_written_with_its_columns_in_order(small):
    folder, manifest = small
    assert read_manifest(Folder(str(folder))) == manifest
    assert list(manifest.tables["rows"].columns) == ["z", "a"]
    assert json.loads((folder / "manifest.json").read_text())["format"] == FORMAT


def test_rows_come_back_in_order_by_columns_and_by_batches(small):
    dataset = Dataset(str(small[0]))
    assert dataset.read("rows").to_pydict() == {"z": [1, 2, 1, 2], "a": ["x", "é", "x", "é"]}
    assert dataset.read("rows", ["a"]).column_names == ["a"]
    assert [batch.num_rows for batch in dataset.batches("rows", rows=1)] == [1, 1, 1, 1]


@pytest.mark.parametrize("which", [0, 1])
def test_verify_finds_a_flipped_bit_and_names_the_file(small, which):
    folder, manifest = small
    dataset = Dataset(str(folder))
    dataset.verify()
    path = manifest.tables["rows"].files[which].path
    data = bytearray((folder / path).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / path).write_bytes(data)
    assert dataset.missing() == []
    with pytest.raises(DatasetError, match=f"missing or damaged: {path}; run the build again$"):
        dataset.verify()


def test_a_file_that_is_gone_or_cut_is_missing(small):
    folder, manifest = small
    first, second = (file.path for file in manifest.tables["rows"].files)
    (folder / first).unlink()
    (folder / second).write_bytes(b"PAR1")
    assert Dataset(str(folder)).missing() == [first, second]
    with pytest.raises(DatasetError, match=f"{first}: .*run the build again"):
        Dataset(str(folder)).read("rows")


def test_a_damaged_page_is_named(small):
    folder, manifest = small
    path = manifest.tables["rows"].files[0].path
    data = bytearray((folder / path).read_bytes())
    data[4:60] = bytes(56)
    (folder / path).write_bytes(data)
    with pytest.raises(DatasetError, match=rf"(?s){path}: .*run the build again$"):
        Dataset(str(folder)).read("rows")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda m: m | {"format": 99}, r"manifest format 99, this penstock reads 1; delete its folder .*or install"),
        (lambda m: m | {"counts": {"rows": 1}}, r"not a penstock manifest \(.*\); delete its folder to build it again"),
        (lambda m: {k: v for k, v in m.items() if k != "digest"}, r"not a penstock manifest \('digest'\)"),
        (lambda m: [m], "not a penstock manifest"),
    ],
)
def test_a_manifest_of_another_format_is_refused(small, harm, expected):
    folder, _ = small
    path = folder / "manifest.json"
    path.write_text(json.dumps(harm(json.loads(path.read_text()))))
    with pytest.raises(DatasetError, match=f"manifest.json: {expected}"):
        Dataset(str(folder)).read("rows")


def test_a_manifest_that_is_no_json_is_refused(small):
    (small[0] / "manifest.json").write_bytes(b'{"format": 1')
    with pytest.raises(DatasetError, match=r"manifest.json: not JSON .*; delete it and run again"):
        read_manifest(Folder(str(small[0])))


def test_no_manifest_is_no_dataset(tmp_path):
    assert read_manifest(Folder(str(tmp_path))) is None
    with pytest.raises(DatasetError, match=r"no manifest.json, so no dataset; its build has not finished"):
        Dataset(str(tmp_path)).table("rows")


def test_an_absent_table_or_column_is_named_with_what_is_there(small):
    dataset = Dataset(str(small[0]))
    with pytest.raises(DatasetError, match=r"no table 'rowz'; it has rows"):
        dataset.table("rowz")
    with pytest.raises(DatasetError, match=r"missing column\(s\) b; found z, a"):
        dataset.read("rows", ["b"])
    with pytest.raises(DatasetError, match=r"no artifact 'model'; it has none"):
        dataset.artifact("model")


def empty(counts, tmp_path):
    manifest = Manifest("documents", 1, "k", {}, "d", {}, counts)
    Folder(str(tmp_path)).write_json("manifest.json", manifest.to_json())
    return Dataset(str(tmp_path))


def test_a_dataset_without_rows_says_what_dropped_them(tmp_path):
    reasons = {"gopher": {"short": 7, "symbols": 2}, "source.files": {"invalid_json": 9, "empty_text": 1}}
    dataset = empty(Counts(rows_in=19, dropped=reasons), tmp_path)
    expected = r"all 19 were dropped \(source.files.invalid_json 9, gopher.short 7, gopher.symbols 2\); loosen what"
    with pytest.raises(DatasetError, match=expected):
        dataset.table("documents")


def test_a_dataset_of_empty_inputs_says_so(tmp_path):
    with pytest.raises(DatasetError, match="its inputs hold no rows; look at the recipe's source"):
        empty(Counts(), tmp_path).table("documents")


def test_equal_values_hash_alike_whatever_the_order_of_keys():
    assert hash_json({"a": 1, "b": [1.5, None, "é\ud800"]}) == hash_json({"b": [1.5, None, "é\ud800"], "a": 1})
    assert len({hash_json(value) for value in ({"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": True}, ["a", 1])}) == 5


@given(
    rows_in=st.integers(0, 9),
    made=st.integers(0, 9),
    kept=st.integers(0, 9),
    drops=st.lists(st.integers(0, 5), max_size=3),
)
def test_counts_balance_exactly_when_the_identity_holds(rows_in, made, kept, drops):
    counts = Counts(rows_in, made, kept, {f"work {i}": {"why": n, "also": 1} for i, n in enumerate(drops)})
    assert counts.dropped_total == sum(drops) + len(drops)
    assert counts.balances == (rows_in + made == kept + sum(drops) + len(drops))


def test_a_table_entry_is_the_same_after_json():
    entry = TableEntry((FileEntry("b", 1, "0", 2),), 2, "d", {"z": "string", "a": "list<item: uint16>"})
    again = TableEntry.from_json(json.loads(json.dumps(entry.to_json(), sort_keys=True)))
    assert again == entry
    assert list(again.columns) == ["z", "a"]


# ── the Parquet writer ───────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 9))
def test_groups_of_fixed_rows_give_the_same_bytes_whatever_the_batches(sizes, group_rows):
    total = sum(sizes)
    rows = pa.record_batch({"n": pa.array(range(total), pa.int64()), "t": pa.array([f"é{i}" for i in range(total)])})
    written = []
    for cuts in (sizes, [total]):
        folder = Folder("memory://writer")
        writer = TableWriter(folder.open_write("x"), rows.schema, group_rows=group_rows)
        first = 0
        for size in cuts:
            writer.write(rows.slice(first, size))
            first += size
        writer.close()
        assert writer.entry("x").rows == total
        written.append((folder.read_bytes("x"), writer.digest, writer.entry("x")))
    assert written[0] == written[1]
    metadata = pq.read_metadata(pa.BufferReader(written[0][0]))
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [group_rows] * (total // group_rows) + ([total % group_rows] if total % group_rows else [])
    assert pq.read_table(pa.BufferReader(written[0][0])).to_pylist() == rows.to_pylist()


def test_a_group_closes_when_its_bytes_are_reached():
    folder = Folder("memory://groups")
    batch = pa.record_batch({"t": pa.array(["x" * 1000] * 10)})
    writer = TableWriter(folder.open_write("x"), batch.schema, group_bytes=15_000)
    for _ in range(5):
        writer.write(batch)
    writer.close()
    metadata = pq.read_metadata(pa.BufferReader(folder.read_bytes("x")))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [20, 20, 10]


# ── both accounting identities over random inputs ────────────────────────────────────────────────

TEXTS = st.one_of(
    st.sampled_from(["", " \n", "twice", "twice", "and twice", None, 7, "same\u00a0space", "same space"]),
    st.text(max_size=40),
)
LINES = st.one_of(
    TEXTS.map(lambda text: json.dumps({"text": text}).encode()),
    st.sampled_from(
        [b"{not json", b'{"text": "\xff"}', b"[]", b'{"body": "x"}', b'{"text": "' + b"long " * 60 + b'"}']
    ),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LINES, min_size=1, max_size=30), st.integers(20, 500), st.integers(1, 8))
def test_rows_in_and_made_are_kept_or_dropped_by_reason_at_every_step(tmp_path_factory, lines, split_bytes, min_words):
    root = tmp_path_factory.mktemp("rows")
    (root / "a.jsonl").write_bytes(b"\n".join([*lines, json.dumps({"text": "one that always stays " * 9}).encode()]))
    recipe = Recipe.parse(
        f"{{name: rows, source: {{files: '{root}/a.jsonl', max_document_mb: 0.00025}}, "
        "select: {criteria: {language: {}}}, "
        f"filters: {{gopher_repetition: null, gopher_quality: {{min_words: {min_words}, min_stop_words: 0}}}}}}"
    )
    only = {"only": ["deduplicated"], "workers": 0, "report": False, "split_bytes": split_bytes}
    steps = run(recipe, out=f"{root}/run", **only).steps
    assert steps[0].manifest.counts.rows_in == sum(bool(line.strip()) for line in lines) + 1
    rows = steps[0].manifest.counts.rows_in
    for step in steps:
        counts = step.manifest.counts
        assert counts.rows_in == rows
        assert counts.made == 0
        assert counts.rows_in == counts.kept + counts.dropped_total
        written = {name: step.manifest.tables[name].rows for name in step.manifest.tables}
        assert written.get("documents", 0) == counts.kept
        assert written.get("dropped", 0) == counts.dropped_total
        if counts.dropped_total:
            table = Dataset(f"{root}/run/{step.step.name}").read("dropped").to_pylist()
            by_reason = {}
            for row in table:
                by_reason[row["reason"]] = by_reason.get(row["reason"], 0) + 1
            claimed = {}
            for reasons in counts.dropped.values():
                for reason, n in reasons.items():
                    claimed[reason] = claimed.get(reason, 0) + n
            assert by_reason == claimed
        rows = counts.kept
    texts = Dataset(f"{root}/run/deduplicated").read("documents")["text"].to_pylist()
    assert len(texts) == len(set(texts))


SCORED = st.tuples(
    st.sampled_from(["train", "train", "train", "validation", "test"]),
    st.sampled_from(["rivers", "machines"]),
    st.integers(0, 30),  # tokens
    st.floats(0, 1, width=32),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(SCORED, min_size=2, max_size=25).filter(lambda rows: any(r[0] == "train" and r[2] for r in rows)),
    st.integers(1, 24),
    st.sampled_from([8, 16]),
    st.sampled_from(["pad", "cut"]),
    st.integers(1, 6),
    st.sampled_from([0.5, 3.0]),
)
def test_copies_times_tokens_are_packed_or_cut(commit_rows, tmp_path_factory, rows, cut, length, tail, shortest, eps):
    root = tmp_path_factory.mktemp("packed")
    n = len(rows)
    documents = pa.record_batch(
        {
            "doc_id": pa.array([f"d#{i}" for i in range(n)]),
            "id_hash": pa.array(np.random.default_rng(n).integers(0, 2**63, n), pa.uint64()),
            "domain": pa.array([domain for _, domain, _, _ in rows]),
            "split": pa.array([split for split, _, _, _ in rows]),
            "tokens": pa.array([tokens for _, _, tokens, _ in rows], pa.int32()),
            "bytes": pa.array([4 * tokens for _, _, tokens, _ in rows], pa.int64()),
            "token_ids": pa.array([[i % 99 + 1] * rows[i][2] for i in range(n)], pa.list_(pa.uint16())),
            "score.quality": pa.array([score for _, _, _, score in rows], pa.float32()),
        }
    )
    parts = [part for part in (documents.slice(0, cut), documents.slice(cut)) if part.num_rows]
    commit_rows(root, "scored", {"documents": parts})
    parameters = QuaDMixParameters(
        criteria=(Criterion(column="score.quality", direction="higher"),),
        default=DomainParameters(alpha=(1.0,), lam=10.0, omega=0.5, eta=1.0, eps=eps),
        lam_max=1000.0,
        omega_max=1.0,
        eps_max=3.0,
    )
    steps = (
        Selection("selection", "scored", parameters, 5),
        PackedSequences(
            "sequences", "scored", "selection", length=length, tail=tail, min_segment=shortest, pad_id=0, seed=1
        ),
    )
    made = [run_step(step, Folder(str(root)), HomeEngine(0), Silent(), Settings()).manifest for step in steps]
    assert all(manifest.counts.balances for manifest in made)
    chosen = Dataset(f"{root}/selection").read("selection").to_pylist()
    assert made[1].counts.rows_in == sum(row["copies"] > 0 for row in chosen)
    assert made[1].counts.kept == sum(row["copies"] for row in chosen)
    wanted, held = {}, {}
    for row in chosen:
        key = (row["split"], row["domain"])
        wanted[key] = wanted.get(key, 0) + row["copies"] * row["tokens"]
    stats = made[1].stats.get("tokens", {})
    for name, entry in made[1].tables.items():
        split, index = name.split("/")
        key = (split, made[1].stats["domains"][split][int(index)])
        for file in entry.files:
            table = pa.ipc.open_file(f"{root}/sequences/{file.path}").read_all()
            held[key] = held.get(key, 0) + sum(sum(lengths) for lengths in table["segment_lengths"].to_pylist())
    for (split, domain), tokens in wanted.items():
        count = stats.get(split, {}).get(domain, {"in": 0, "packed": 0, "cut": 0})
        assert count["in"] == tokens == count["packed"] + count["cut"]
        assert count["packed"] == held.get((split, domain), 0)
    assert set(held) <= set(wanted)
