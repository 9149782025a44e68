"""Duplicates over the whole corpus: oracles over dictionaries, any split, any number of ranges."""

from __future__ import annotations

import pytest

from penstock.dataset import Dataset
from penstock.pipelines import deduplicate as module
from penstock.seeding import stream

ALL = 1 << 30  # bytes of a split: everything in one


def pool(count, texts, seed=0):
    """``count`` rows over a pool of ``texts`` different texts in three domains."""
    rng = stream(seed, "pool")
    return [(f"text number {int(rng.integers(0, texts))}", "abc"[int(rng.integers(0, 3))]) for _ in range(count)]


def survivors(rows):
    """text -> the smallest id, by the bytes of the id."""
    out = {}
    for row in rows:
        out[row["text"]] = min(out.get(row["text"], row["doc_id"]), row["doc_id"], key=str.encode)
    return out


@pytest.mark.parametrize("keys_per_range", [1, 7, 2_000_000])
@pytest.mark.parametrize("split_bytes", [90, ALL])
def test_of_equal_texts_the_smallest_id_stays_for_any_split_and_any_number_of_ranges(
    lab, monkeypatch, keys_per_range, split_bytes
):
    monkeypatch.setattr(module, "KEYS_PER_RANGE", keys_per_range)
    rows = pool(120, 30)
    before = lab.documents(lab.files(two=rows[:60], ten=rows[60:]), split_bytes=split_bytes)
    made = lab.deduplicated()
    original = before.read("documents").to_pylist()
    wanted = survivors(original)
    assert 20 < len(wanted) < 60
    assert made.read("documents")["doc_id"].to_pylist() == [
        r["doc_id"] for r in original if wanted[r["text"]] == r["doc_id"]
    ]
    assert [(r["doc_id"], r["step"], r["reason"], r["detail"]) for r in made.read("dropped").to_pylist()] == [
        (r["doc_id"], "exact_duplicates", "exact_duplicate", wanted[r["text"]])
        for r in original
        if wanted[r["text"]] != r["doc_id"]
    ]
    counts = made.manifest.counts
    assert (counts.rows_in, counts.kept) == (120, len(wanted))
    assert counts.dropped == {"exact_duplicates": {"exact_duplicate": 120 - len(wanted)}}


def test_of_equal_texts_the_smallest_id_stays_when_a_part_comes_in_many_batches(lab, tiny_batches):
    lab.documents(lab.files(two=pool(90, 25)[:40], ten=pool(90, 25)[40:]))
    before = Dataset(str(lab.root / "documents")).read("documents").to_pylist()
    made, wanted = lab.deduplicated(), survivors(before)
    assert made.read("documents")["doc_id"].to_pylist() == [
        r["doc_id"] for r in before if wanted[r["text"]] == r["doc_id"]
    ]
    assert [(r["doc_id"], r["detail"]) for r in made.read("dropped").to_pylist()] == [
        (r["doc_id"], wanted[r["text"]]) for r in before if wanted[r["text"]] != r["doc_id"]
    ]


def test_the_digest_knows_neither_splits_nor_ranges(new_lab, monkeypatch):
    rows, found = pool(60, 25), set()
    for keys_per_range, split_bytes in ((2_000_000, ALL), (9, ALL), (9, 70), (1, 200)):
        monkeypatch.setattr(module, "KEYS_PER_RANGE", keys_per_range)
        lab = new_lab()
        lab.documents(lab.files(one=rows), split_bytes=split_bytes)
        found.add(lab.deduplicated(validation=0.2, test=0.1).digest)
    assert len(found) == 1


def test_splits_are_those_of_the_content_alone(lab, new_lab):
    rows = pool(80, 80)
    lab.documents(lab.files(one=rows), split_bytes=100)
    made = lab.deduplicated(validation=0.3, test=0.2).read("documents")
    assert set(made["split"].to_pylist()) == {"train", "validation", "test"}
    other = new_lab()
    other.documents(other.files(zzz=[*rows[::-1], ("one more", "a")]))
    again = other.deduplicated(validation=0.3, test=0.2).read("documents")
    of_text = dict(zip(again["text"].to_pylist(), again["split"].to_pylist(), strict=True))
    assert all(of_text[r["text"]] == r["split"] for r in made.select(["text", "split"]).to_pylist())


def test_a_part_that_holds_only_duplicates_leaves_no_part(lab):
    lab.documents(lab.files(a=[("same", "d")], b=[("same", "d")] * 3, c=[("same", "e"), ("other", "e")]), split_bytes=1)
    made = lab.deduplicated()
    assert made.read("documents")["doc_id"].to_pylist() == ["a.jsonl#0", "c.jsonl#1"]
    assert len(made.table("documents").files) == 2
    assert set(made.read("dropped")["detail"].to_pylist()) == {"a.jsonl#0"}


def test_a_corpus_of_one_document_passes(lab):
    lab.documents(lab.files(one=[("alone", "d")]))
    made = lab.deduplicated(validation=0.2)
    assert made.read("documents")["text"].to_pylist() == ["alone"]
    assert "dropped" not in made.manifest.tables


def test_a_changed_input_leaves_no_verdict_of_the_old_one(lab):
    lab.documents(lab.files(one=[("x", "d"), ("y", "d"), ("x", "d")]), split_bytes=10)
    assert lab.deduplicated().read("documents").num_rows == 2
    lab.documents(lab.files(one=[("x", "d"), ("x", "d"), ("y", "d"), ("z", "d")]), split_bytes=10)
    assert lab.deduplicated().read("documents")["doc_id"].to_pylist() == ["one.jsonl#0", "one.jsonl#2", "one.jsonl#3"]
