"""Problems that a step made join the documents: as text, in order, counted apart, and taken over when unchanged."""

from __future__ import annotations

import pyarrow as pa

from penstock import schema
from penstock.pipelines.documents import Documents
from penstock.sources.base import documents_batch


def problems(*rows):
    """Batches of schema.PROBLEMS of (id, question, answer)."""
    return pa.RecordBatch.from_pylist(
        [
            {"problem_id": i, "group_id": i, "variant": "original", "prompt": q, "original_prompt": q, "answer": a}
            for i, q, a in rows
        ],
        schema=schema.PROBLEMS,
    )


FIRST = problems(("g#0", "What is 1 + 1?", "2"), ("g#1", "What is 2 + 2?", "4"))
SECOND = problems(("g#2", "Qué es 3 + 3?\nSay.", "6"))


def step(lab):
    source = lab.files(one=[("a text of a file", "web")])
    return Documents("documents", (source,), (), made=("generated", "made"))


def test_problems_stand_after_the_files_with_their_own_ids_and_domain(lab):
    lab.given("generated", problems=[FIRST, SECOND])
    made = lab.run(step(lab))
    assert [(r["doc_id"], r["text"], r["source"], r["domain"]) for r in made.read("documents").to_pylist()] == [
        ("one.jsonl#0", "a text of a file", "files", "web"),
        ("g#0", "Question: What is 1 + 1?\nAnswer: 2", "made", "made"),
        ("g#1", "Question: What is 2 + 2?\nAnswer: 4", "made", "made"),
        ("g#2", "Question: Qué es 3 + 3?\nSay.\nAnswer: 6", "made", "made"),
    ]
    assert made.manifest.stats["sources"]["made"]["rows"] == 3
    assert made.manifest.counts.rows_in == made.manifest.counts.kept == 4


def test_the_documents_are_built_again_when_other_problems_were_made(lab):
    lab.given("generated", problems=[FIRST])
    documents = step(lab)
    before = lab.run(documents).manifest
    assert lab.run(documents).manifest.key == before.key
    lab.given("generated", problems=[FIRST, SECOND])
    after = lab.run(documents).manifest
    assert after.key != before.key
    assert after.counts.kept == 4


def test_parts_of_the_table_that_are_as_they_were_are_taken_over(lab):
    lab.given("generated", problems=[FIRST])
    documents = step(lab)
    lab.run(documents)
    lab.given("generated", problems=[FIRST, SECOND])
    lab.run(documents)
    assert any("read took over 2 of 3 parts" in note for note in lab.notes)  # the file, and the first part


def test_a_question_and_its_variants_lie_in_one_split(lab):
    rows = [
        {"problem_id": f"g#{g}~{v}", "group_id": f"g#{g}", "variant": "x", "answer": "1"}
        | {"prompt": f"Question {g * 10 + v} of its own words {v}?", "original_prompt": ""}
        for g in range(60)
        for v in range(3)
    ]
    lab.given("generated", problems=[pa.RecordBatch.from_pylist(rows, schema=schema.PROBLEMS)])
    lab.run(step(lab))
    documents = lab.deduplicated(validation=0.3, test=0.2).read("documents")
    sides = {}
    for row in documents.to_pylist():
        if row["domain"] == "made":
            sides.setdefault(row["doc_id"].partition("~")[0], set()).add(row["split"])
    assert len(sides) == 60
    assert all(len(found) == 1 for found in sides.values())
    assert {next(iter(found)) for found in sides.values()} == {"train", "validation", "test"}
    assert "split_key" not in documents.column_names


def test_texts_that_were_made_join_as_they_are(lab):
    texts = documents_batch(["g#0", "g#1"], ["one text", "two texts"], source="g", domains=["g", "g"])
    lab.given("generated", documents=[texts])
    found = lab.run(step(lab)).read("documents").to_pylist()
    assert [(r["doc_id"], r["text"], r["domain"]) for r in found[1:]] == [
        ("g#0", "one text", "made"),
        ("g#1", "two texts", "made"),
    ]


def test_a_guard_may_name_the_made_problems_and_steps_without_them_have_no_parent(lab):
    assert "made" in step(lab).guarded()
    plain = Documents("documents", (lab.files(one=[("text", "web")]),), ())
    assert plain.parents == ()
    assert "made" not in plain.config()
