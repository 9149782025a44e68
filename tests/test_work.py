"""The loop that applies row work."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import DatasetError
from penstock.work import apply, describe, drop_rows


@dataclass(frozen=True, kw_only=True)
class MinBytes:
    minimum: int = 3
    name: ClassVar[str] = "min_bytes"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    def decide(self, batch):
        return pc.if_else(pc.less(pc.binary_length(batch["text"]), self.minimum), "too_few_bytes", None)


@dataclass(frozen=True, kw_only=True)
class Upper:
    name: ClassVar[str] = "upper"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text", "length")

    def annotate(self, batch):
        return {"text": pc.utf8_upper(batch["text"]), "length": pc.utf8_length(batch["text"])}


def documents(texts):
    return pa.RecordBatch.from_pydict(
        {"doc_id": [f"f#{i}" for i in range(len(texts))], "text": pa.array(texts, pa.string())}
    )


def test_filter_drops_with_its_reason_and_annotator_replaces_and_adds_columns():
    out = apply([MinBytes(minimum=3), Upper()], documents(["ab", "abc", "abcd"]))
    assert out.batch.to_pydict() == {"doc_id": ["f#1", "f#2"], "text": ["ABC", "ABCD"], "length": [3, 4]}
    assert out.reasons == {"min_bytes": {"too_few_bytes": 1}}
    assert out.rows == {"min_bytes": (3, 2), "upper": (2, 2)}
    assert [b.to_pylist() for b in out.dropped] == [
        [
            {
                "doc_id": "f#0",
                "step": "min_bytes",
                "reason": "too_few_bytes",
                "source": None,
                "domain": None,
                "detail": None,
                "text": "ab",
            }
        ]
    ]


@given(st.lists(st.text(max_size=8), max_size=30), st.integers(0, 10))
def test_rows_in_are_rows_kept_plus_rows_dropped(texts, minimum):
    out = apply([MinBytes(minimum=minimum), Upper()], documents(texts))
    lost = sum(b.num_rows for b in out.dropped)
    assert out.batch.num_rows + lost == len(texts)
    assert sum(sum(r.values()) for r in out.reasons.values()) == lost


def test_a_missing_column_names_what_was_found():
    with pytest.raises(DatasetError, match=r"step min_bytes: missing column\(s\) text; found doc_id"):
        apply([MinBytes()], pa.RecordBatch.from_pydict({"doc_id": ["a"]}))


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ("ids", None),
        ("sample", "write to <EMAIL> or <PHONE>"),
        ("full", "write to ann@example.org or +44 20 7946 0000"),
    ],
)
def test_dropped_rows_keep_as_much_text_as_asked_and_samples_are_masked(keep, text):
    rows = documents(["write to ann@example.org or +44 20 7946 0000"])
    assert drop_rows(rows, pa.array(["r"]), step="s", keep=keep)["text"].to_pylist() == [text]


def test_a_mask_is_not_escaped_by_the_cut_of_the_sample():
    rows = documents(["x" * 236 + " a@example.org"])
    assert "a@e" not in drop_rows(rows, pa.array(["r"]), step="s", keep="sample")["text"][0].as_py()


def test_description_holds_name_revision_and_parameters():
    assert describe(MinBytes(minimum=5)) == {"name": "min_bytes", "revision": 1, "config": {"minimum": 5}}


@dataclass(frozen=True, kw_only=True)
class Shout:
    name: ClassVar[str] = "shout"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text",)

    def annotate(self, batch):
        return self.edit(batch)[0]

    def edit(self, batch):
        quiet = pc.sum(pc.not_equal(pc.utf8_upper(batch["text"]), batch["text"])).as_py() or 0
        return {"text": pc.utf8_upper(batch["text"])}, {"words": quiet} if quiet else {}


def test_an_annotator_that_edits_counts_what_it_did():
    out = apply([Shout(), Upper()], documents(["ab", "AB", "c"]))
    assert out.batch["text"].to_pylist() == ["AB", "AB", "C"]
    assert out.edits == {"shout": {"words": 2}}
    assert apply([Shout()], documents(["AB"])).edits == {}
