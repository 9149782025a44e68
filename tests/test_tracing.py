"""What became of a row: every fact of a trace against the tables of a finished run."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter

import pytest
from rich.console import Console

import penstock
from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.tracing import Event, connected, trace
from penstock.tracing_order import Piece
from penstock.tracing_print import facts, print_trace, runs, spans, together, told


@pytest.fixture(scope="module")
def run(finished):
    base, _, _ = finished
    return f"{base}/run"


def rows(run, step, table, *columns):
    return Dataset(f"{run}/{step}").read(table, columns or None).to_pylist()


def whats(found):
    return [(event.step, event.what) for event in found.events]


@pytest.fixture(scope="module")
def selected(run):
    """A row that both rounds publish for training, and that the first packs in two copies or more."""
    both = {r["doc_id"] for r in rows(run, "dataset-2", "train", "doc_id")}
    first = {r["doc_id"]: r["copies"] for r in rows(run, "dataset-1", "train", "doc_id", "copies")}
    seen = {r["doc_id"] for r in rows(run, "model-1", "signals", "doc_id")}
    return next(name for name, copies in first.items() if copies > 1 and name in both & seen)


def test_a_row_that_was_published_is_followed_from_its_file_to_its_training_steps(run, selected):
    found = trace(selected, run)
    assert (found.doc_id, found.run) == (selected, run)
    file, _, row = selected.partition("#")
    assert (found.file, found.row) == (file, int(row))
    assert found.origin == {"source": "files", "domain": file.removesuffix(".jsonl")}
    assert found.split == "train"
    assert whats(found) == [
        ("documents", "kept"),
        ("deduplicated", "kept"),
        ("scored", "kept"),
        ("selection-1", "selected"),
        ("dataset-1", "published"),
        ("selection-2", "selected"),
        ("dataset-2", "published"),
    ]
    (scored,) = (r for r in rows(run, "scored", "documents") if r["doc_id"] == selected)
    assert found.scores == {n.removeprefix("score."): v for n, v in scored.items() if n.startswith("score.")}
    assert found.notes == ()


def test_a_published_row_stands_where_the_trace_says(run, selected):
    found = trace(selected, run)
    assert [place.dataset for place in found.placed] == ["dataset-1", "dataset-2"]
    for place in found.placed:
        (row,) = [r for r in rows(run, place.dataset, place.split) if r["doc_id"] == selected]
        assert row["copies"] == place.copies
        dataset = Dataset(f"{run}/{place.dataset}")
        (file,) = (f for f in dataset.table(place.split).files if f.path == place.file)
        import pyarrow.parquet as pq

        assert pq.read_table(dataset.folder.join(file.path))["doc_id"][place.place].as_py() == selected


def test_the_copies_of_a_row_are_packed_whole_or_cut(run, selected):
    found = trace(selected, run)
    (scored,) = (r for r in rows(run, "scored", "documents", "doc_id", "tokens") if r["doc_id"] == selected)
    for packed, place in zip(found.packed, found.placed, strict=True):
        tokens = sum(piece.tokens for piece in packed.pieces)
        assert 0 < tokens <= place.copies * scored["tokens"]
        assert {(p.split, p.domain) for p in packed.pieces} == {("train", found.origin["domain"])}


def test_the_reads_of_a_row_are_those_that_signals_tell_of(run, selected):
    found = trace(selected, run)
    assert [of.model for of in found.trained] == ["model-1", "model-2"]
    for of in found.trained:
        told_of = [(r["step"], r["sequence"]) for r in rows(run, of.model, "signals") if r["doc_id"] == selected]
        assert sorted({(read.step, read.sequence) for read in of.reads if any(read.losses)}) == sorted(set(told_of))
        assert of.unknown is None
    assert found.trained[0].reads


def test_every_dropped_row_tells_the_step_and_the_reason(run):
    """Of each reason of each step one row; the reasons together are those of the manifests."""
    told_of = set()
    for step in ("documents", "deduplicated", "dataset-1"):
        by_reason = {(r["step"], r["reason"]): r for r in rows(run, step, "dropped")}
        for (by, reason), row in by_reason.items():
            event = next(e for e in trace(row["doc_id"], run).events if e.step == step and e.what == "dropped")
            assert (event.by, event.reason, event.detail) == (by, reason, row["detail"])
            told_of.add((step, by, reason))
    counts = {
        name: Dataset(f"{run}/{name}").manifest.counts.dropped for name in ("documents", "deduplicated", "dataset-1")
    }
    assert {(step, "read" if by.startswith("source.") else by, reason) for step, of in counts.items() for by, reasons in
            of.items() for reason in reasons} == told_of  # fmt: skip


def test_a_duplicate_names_the_row_that_stayed_and_its_whole_cluster(run):
    lost = next(r for r in rows(run, "deduplicated", "dropped") if r["reason"] == "exact_duplicate")
    found = trace(lost["doc_id"], run)
    assert whats(found) == [("documents", "kept"), ("deduplicated", "dropped")]
    of = [r for r in rows(run, "deduplicated", "clusters") if r["cluster"] == lost["detail"]]
    assert found.cluster.survivor == lost["detail"]
    assert found.cluster.size == len(of)
    assert sorted(found.cluster.members) == sorted((r["doc_id"], r["kind"]) for r in of)
    assert trace(lost["detail"], run).cluster == found.cluster
    assert found.packed == found.trained == found.placed == ()


def test_a_row_that_no_round_selects_is_dropped_from_the_dataset_and_packed_nowhere(run):
    copies = {r["doc_id"]: r["copies"] for r in rows(run, "selection-1", "selection", "doc_id", "copies")}
    name = next(doc for doc, n in copies.items() if n == 0)
    found = trace(name, run)
    first = [event for event in found.events if event.step in ("selection-1", "dataset-1")]
    assert [(e.what, e.by, e.reason) for e in first] == [
        ("not selected", None, None),
        ("dropped", "selection", "not_selected"),
    ]
    assert "sequences-1" not in {packed.sequences for packed in found.packed}


def test_a_changed_text_is_told_with_its_size_before_and_after(tmp_path, commit_rows):
    import pyarrow as pa

    def documents(text):
        return [pa.RecordBatch.from_pydict({"doc_id": ["x#0"], "text": [text], "domain": ["d"], "pii": [len(text)]})]

    commit_rows(tmp_path, "documents", {"documents": documents("naïve text")})
    commit_rows(tmp_path, "trimmed", {"documents": documents("naïve")})
    manifest = json.loads((tmp_path / "trimmed" / "manifest.json").read_text())
    manifest["parents"] = {"documents": {"digest": "0" * 32}}
    (tmp_path / "trimmed" / "manifest.json").write_text(json.dumps(manifest))
    found = trace("x", str(tmp_path))
    assert found.events == (
        Event("documents", "kept", facts={"pii": 10}),
        Event("trimmed", "changed", bytes=(11, 6), facts={"pii": 5}),
    )
    assert found.notes == ("trimmed was made from another documents than the one that lies here; run the recipe again",)


def test_of_a_step_all_that_it_is_related_to_is_looked_at(run, selected, tmp_path):
    assert trace(selected, f"{run}/dataset-2").events == trace(selected, run).events
    shutil.copytree(f"{run}/dataset-1", tmp_path / "alone")
    assert whats(trace(selected, str(tmp_path / "alone"))) == [("dataset-1", "published")]
    shutil.copytree(f"{run}/quality", tmp_path / "quality")
    assert [d.manifest.step for d in connected(str(tmp_path / "quality"))] == ["quality"]


def test_what_is_no_run_and_no_id_is_refused(run, tmp_path):
    with pytest.raises(DatasetError, match=r"no manifest\.json here or one level below"):
        trace("x", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"id: got rivers\.jsonl#9999, which no row of these 13 datasets has; near it: riv"
    ):
        trace("rivers.jsonl#9999", run)


def test_the_public_function_is_this_one():
    assert penstock.trace is trace


def test_json_holds_all_of_it(run, selected):
    found = trace(selected, run)
    again = json.loads(json.dumps(found.to_json()))
    assert again["doc_id"] == selected
    assert len(again["events"]) == len(found.events)
    assert [read["step"] for read in again["trained"][0]["reads"]] == [read.step for read in found.trained[0].reads]


def printed(found, width=120):
    console = Console(file=io.StringIO(), width=width)
    print_trace(found, console)
    return console.file.getvalue()


def test_what_is_printed_names_steps_places_and_reads(run, selected):
    found = trace(selected, run)
    text = printed(found)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == [selected]
    for event in found.events:
        assert any(line[:2] == [event.step, event.what.split()[0]] for line in lines)
    for of in found.trained:
        times = Counter(read.step for read in of.reads).total()
        assert f"read {times} times in its 12 steps" in text or times < 2
    assert "Scores" in text
    assert found.placed[0].file in text


def test_nothing_that_is_printed_acts_on_the_terminal(tmp_path, commit_rows):
    import pyarrow as pa

    hostile = "\x1b[31m[red]\u202eevil\n"
    commit_rows(
        tmp_path,
        "documents",
        {
            "documents": [
                pa.RecordBatch.from_pydict({"doc_id": [hostile], "text": ["t"], "domain": [hostile], "note": [hostile]})
            ]
        },
    )
    text = printed(trace(hostile, str(tmp_path)))
    assert text.count("⟨ESC⟩[31m[red]⟨U+202E⟩evil⟨LF⟩") >= 3
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([], ""), ([5], "5"), ([1, 2, 3, 7, 9, 10], "1–3, 7, 9–10"), (list(range(0, 400, 2)), None)],
)
def test_runs_of_numbers_are_drawn_together(numbers, said):
    text = spans(numbers, 40)
    if said is None:
        head, _, left = text.partition(" and ")
        assert left == f"{200 - len(head.split(', '))} more"
        assert len(head) <= 40
    else:
        assert text == said


def test_pieces_that_follow_each_other_are_told_together():
    def piece(row, split="train", domain="d"):
        return Piece(split, domain, row, 0, 0, 16, "file", row)

    pieces = [piece(3), piece(4), piece(5), piece(5), piece(6, "test"), piece(7, "test", "e"), piece(1000)]
    assert [together(run) for run in runs(pieces)] == ["3–5", "5", "6", "7", "1,000"]


def test_facts_are_short_and_told_in_order():
    assert facts({"score": 0.123456, "n": 3, "kinds": {"a": 1}}) == 'score 0.1235, n 3, kinds {"a": 1}'
    event = Event("s", "dropped", by="exact", reason="exact_duplicate", detail="x#1", facts={"n": "y" * 100})
    assert told(event) == f"exact: exact_duplicate; see x#1; n {'y' * 59}…"
