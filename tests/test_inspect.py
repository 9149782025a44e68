"""What `penstock inspect` shows of every kind of dataset, and what it says of a damaged one."""

import io
import json
import os
import re
import shutil

import pyarrow as pa
import pytest
from rich.console import Console

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.inspect import inspect_folder, tokens_by_domain

KINDS = [
    "documents",
    "deduplicated",
    "tokenizer",
    "quality",
    "scored",
    "selection-2",
    "dataset-2",
    "sequences-2",
    "model-2",
]
HOSTILE = "\x1b[31m[red]\u202eevil\n:x:"
SHOWN = "⟨ESC⟩[31m[red]⟨U+202E⟩evil⟨LF⟩:x:"


def shown(url, width=100, **options):
    console = Console(file=io.StringIO(), width=width)
    inspect_folder(str(url), console=console, **options)
    return console.file.getvalue()


def words(text):
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def copy(finished, tmp_path):
    base, _, _ = finished
    shutil.copytree(base / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", KINDS)
def test_every_number_of_a_dataset_is_its_manifests(finished, name):
    base, _, _ = finished
    manifest = Dataset(f"{base}/run/{name}").manifest
    lines = words(shown(f"{base}/run/{name}", width=60))
    assert lines[0] == [name, f"{base}/run/{name}"]
    assert lines[1:3] == [["digest", manifest.digest], ["key", manifest.key]]
    for table, entry in manifest.tables.items():
        size = sum(f.bytes for f in entry.files)
        assert [table, f"{entry.rows:,}", str(len(entry.files)), f"{size:,}"] in lines
    for artifact, entry in manifest.artifacts.items():
        assert [artifact, f"{entry.bytes:,}"] in lines
    for work, reasons in manifest.counts.dropped.items():
        for reason, rows in reasons.items():
            assert [work, reason, f"{rows:,}"] in lines
    counts = manifest.counts
    balance = [line for line in lines if line[:2] == ["rows", "in"]]
    if counts.rows_in:
        made = ["+", "made", f"{counts.made:,}"] if counts.made else []
        kept = ["=", "kept", f"{counts.kept:,}", "+", "dropped", f"{counts.dropped_total:,}"]
        assert balance == [["rows", "in", f"{counts.rows_in:,}", *made, *kept]]
    else:
        assert balance == []


def test_columns_are_told_once_for_tables_that_share_them(finished):
    base, _, _ = finished
    text = shown(f"{base}/run/sequences-2", width=200)
    assert text.count("tokens: fixed_size_list") == 1
    assert "test/…, train/…, validation/…  tokens: fixed_size_list<item: uint16 not null>[64], " in text
    text = shown(f"{base}/run/dataset-2", width=300)
    assert "test, train, validation  doc_id: string, text: string, " in text


def test_tokens_by_domain_are_those_of_the_rows(finished):
    base, _, _ = finished
    rows = Dataset(f"{base}/run/scored").read("documents", ["domain", "tokens"]).to_pylist()
    expected = {d: sum(r["tokens"] for r in rows if r["domain"] == d) for d in ("letters", "machines", "rivers")}
    assert tokens_by_domain(Dataset(f"{base}/run/scored").manifest) == expected
    lines = words(shown(f"{base}/run/scored"))
    start = lines.index(["Tokens", "by", "domain"]) + 2
    largest_first = sorted(expected.items(), key=lambda item: -item[1])
    assert lines[start : start + 3] == [[d, f"{n:,}"] for d, n in largest_first]
    packed = Dataset(f"{base}/run/sequences-1").manifest
    whole = sum(c["packed"] for domains in packed.stats["tokens"].values() for c in domains.values())
    assert sum(tokens_by_domain(packed).values()) == whole


def test_lineage_reaches_the_inputs_and_tells_each_dataset_once(finished):
    base, _, _ = finished
    text = shown(f"{base}/run/model-2")
    tree = text[text.index("Made from") :]
    for name in ("sequences-2", "selection-2", "model-1", "sequences-1", "scored", "documents"):
        digest = Dataset(f"{base}/run/{name}").digest[:8]
        told = [line for line in tree.splitlines() if re.search(rf"── {name}  {digest}$", line.rstrip())]
        assert len(told) == 1, name
    assert tree.count("3 input files") == 1
    assert tree.count("scored  ") > 1
    assert tree.count("(as above)") > 1


def test_lineage_says_what_was_rebuilt_since_or_is_not_there(copy):
    shutil.rmtree(copy / "tokenizer")
    path = copy / "deduplicated" / "manifest.json"
    value = json.loads(path.read_text())
    value["digest"] = "f" * 32
    path.write_text(json.dumps(value))
    text = shown(copy / "scored")
    assert "since rebuilt as ffffffff" in text
    assert "not beside this dataset" in text


def test_a_run_folder_lists_its_datasets_parents_first(finished):
    base, _, result = finished
    lines = words(shown(f"{base}/run", width=40))
    assert lines[0] == ["Datasets", "of", f"{base}/run"]
    assert lines[1] == ["dataset", "rows", "in", "kept", "dropped", "bytes", "digest"]
    names = [line[0] for line in lines[2:]]
    assert sorted(names) == sorted(r.step.name for r in result.steps)
    assert names.index("deduplicated") < names.index("scored") < names.index("model-1") < names.index("selection-2")
    documents = Dataset(f"{base}/run/documents")
    size = sum(f.bytes for f in documents.entries())
    assert lines[2] == ["documents", "243", "228", "15", f"{size:,}", documents.digest[:8]]
    tokenizer = next(line for line in lines if line[0] == "tokenizer")
    assert len(tokenizer) == 3  # no rows go through it: bytes and digest


def test_a_sample_shows_the_first_rows_of_each_table(finished):
    base, _, _ = finished
    text = shown(f"{base}/run/dataset-2", sample=2, width=40)
    for name in ("dropped", "test", "train", "validation"):
        rows = Dataset(f"{base}/run/dataset-2").read(name).to_pylist()
        first = text.index(f"\n{name}\n")
        ids = re.findall(r"  doc_id: (\S+)", text[first:])[:2]
        assert ids == [r["doc_id"] for r in rows[:2]]
    row = Dataset(f"{base}/run/dataset-2").read("train").to_pylist()[0]
    cut = row["text"].replace("\n", "⟨LF⟩")[:100]
    assert f"  text: {cut}" in text  # one line, whatever the width
    assert f"  score.quality: {row['score.quality']:.6g}\n" in text
    assert text.count("\n  doc_id: ") == 8
    documents = Dataset(f"{base}/run/documents").read("documents").to_pylist()[0]
    assert f"  content_hash: {documents['content_hash'].hex()}\n" in shown(f"{base}/run/documents", sample=1)


def test_a_sample_larger_than_the_table_shows_it_all(finished):
    base, _, _ = finished
    rows = Dataset(f"{base}/run/documents").manifest.counts
    text = shown(f"{base}/run/documents", sample=10_000)
    assert text.count("\n  doc_id: ") == rows.kept + rows.dropped_total


def test_sequences_and_signals_have_samples_too(finished):
    base, _, _ = finished
    text = shown(f"{base}/run/sequences-2", sample=2)
    assert text.count("\n  segment_lengths: [") == 18  # three domains in three splits
    entry = Dataset(f"{base}/run/sequences-2").table("train/0").files[0]
    rows = pa.ipc.open_file(f"{base}/run/sequences-2/{entry.path}").read_all().slice(0, 2).to_pylist()
    below = text[text.index("\ntrain/0\n") :]
    assert re.findall(r"\n  tokens: (.{100})", below)[:2] == [str(r["tokens"])[:100] for r in rows]
    assert re.findall(r"\n  domain: (.*)", below)[:2] == ["letters", "letters"]
    assert shown(f"{base}/run/model-2", sample=1).count("\n  excess_loss: ") == 1


def test_a_sample_of_a_run_folder_is_refused_with_its_datasets(finished):
    base, _, _ = finished
    with pytest.raises(ConfigError, match=r"--sample: got the folder of a run.*documents, deduplicated, .*model-2"):
        inspect_folder(f"{base}/run", sample=1)


def test_verify_passes_on_what_a_run_made(finished):
    base, _, _ = finished
    for url in (f"{base}/run", f"{base}/run/dataset-2"):
        assert shown(url, verify=True).splitlines()[-1] == "every file has the sha256 its manifest names"


@pytest.mark.parametrize("whole", [False, True], ids=["dataset", "run"])
def test_verify_finds_a_flipped_byte_and_names_the_file(copy, whole):
    entry = Dataset(f"{copy}/scored").table("documents").files[0]
    path = copy / "scored" / entry.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    shown(copy if whole else copy / "scored")  # without reading, nothing is wrong
    with pytest.raises(DatasetError, match=f"missing or damaged: {re.escape(entry.path)}"):
        shown(copy if whole else copy / "scored", verify=True)


def test_verify_of_a_run_names_the_damage_of_every_dataset(copy):
    for name in ("scored", "dataset-1"):
        entries = Dataset(f"{copy}/{name}").entries()
        os.unlink(copy / name / entries[0].path)
    with pytest.raises(DatasetError, match=r"scored: missing or damaged.*; .*dataset-1: missing or damaged"):
        shown(copy, verify=True)


def test_a_folder_without_datasets_says_what_to_give(tmp_path):
    for url in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DatasetError, match=r"no manifest\.json here or one level below.*give the folder"):
            inspect_folder(str(url))


def test_manifests_that_name_each_other_in_a_circle_are_refused(copy):
    path = copy / "documents" / "manifest.json"
    value = json.loads(path.read_text())
    value["parents"] = {"deduplicated": {"key": "k", "digest": "d"}}
    path.write_text(json.dumps(value))
    with pytest.raises(DatasetError, match="in a circle"):
        inspect_folder(str(copy))


def test_hostile_names_and_texts_are_shown_and_not_obeyed(tmp_path, commit_rows):
    rows = pa.RecordBatch.from_pydict({"doc_id": [HOSTILE], "text": [f"{HOSTILE} {'x' * 500}"], HOSTILE: [[HOSTILE]]})
    commit_rows(tmp_path, "given", {"documents": [rows]}, {"tokens": {HOSTILE: 7}})
    text = shown(tmp_path / "given", width=200, sample=1)
    assert not set(text) & {"\x1b", "\u202e"}
    assert [SHOWN, "7"] in words(text)
    assert f"  doc_id: {SHOWN}\n" in text
    assert re.search(f"  text: {re.escape(SHOWN)} x+…\n", text)
    assert f"  {SHOWN}: ['\\x1b[31m[red]" in text
    assert f"text: string, {SHOWN}: list<" in text
