"""The tables that cross a border: their types, and the message when a column is missing."""

import pyarrow as pa
import pytest

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.sources.base import documents_batch
from penstock.work import drop_rows

TABLES = {
    "documents": (
        schema.DOCUMENTS,
        [
            "doc_id",
            "id_hash",
            "content_hash",
            "text",
            "source",
            "domain",
            "url",
            "title",
            "date",
            "license",
            "learn",
        ],
    ),
    "problems": (
        schema.PROBLEMS,
        [
            "problem_id",
            "group_id",
            "variant",
            "prompt",
            "original_prompt",
            "answer",
            "verdicts",
            "parents",
            "provenance",
        ],
    ),
    "dropped": (schema.DROPPED, ["doc_id", "step", "reason", "source", "domain", "detail", "text"]),
    "signals": (
        schema.SIGNALS,
        ["doc_id", "domain", "sequence", "segment", "tokens", "loss", "excess_loss", "step", "mixture_version"],
    ),
    "policy_log": (
        schema.POLICY_LOG,
        [
            "step",
            "effective_from_sequence",
            "mixture_version",
            "policy",
            "domains",
            "signals",
            "old_weights",
            "new_weights",
        ],
    ),
}


@pytest.mark.parametrize(("table", "columns"), TABLES.values(), ids=TABLES)
def test_columns_of_a_table_keep_their_names_and_order(table, columns):
    assert table.names == columns


def test_what_must_be_there_may_not_be_null():
    required = {name: [f.name for f in table if not f.nullable] for name, (table, _) in TABLES.items()}
    assert required["documents"] == schema.DOCUMENTS.names[:6]
    assert list(schema.ORIGIN) == schema.DOCUMENTS.names[6:]
    assert required["dropped"] == ["doc_id", "step", "reason"]
    assert required["signals"] == schema.SIGNALS.names
    assert "provenance" not in required["problems"]


def test_types_that_other_programs_rely_on():
    assert schema.DOCUMENTS.field("id_hash").type == pa.uint64()
    assert schema.DOCUMENTS.field("content_hash").type == pa.binary(16)
    assert schema.SIGNALS.field("sequence").type == pa.int64()
    assert schema.SIGNALS.field("excess_loss").type == pa.float32()
    assert schema.PROBLEMS.field("verdicts").type.value_type.names == ["check", "passed", "detail"]


def test_what_makes_a_table_makes_it_with_its_schema():
    made = documents_batch(["f#0"], ["text"], source="files", domains=["web"])
    assert made.schema.equals(schema.DOCUMENTS)
    assert drop_rows(made, pa.array(["why"]), step="s").schema.equals(schema.DROPPED)


@pytest.mark.parametrize(
    ("vocabulary", "kind"),
    [(1, pa.uint16()), (2**16, pa.uint16()), (2**16 + 1, pa.uint32()), (2**32, pa.uint32())],
)
def test_token_ids_take_the_narrowest_type_that_holds_the_largest_of_them(vocabulary, kind):
    assert schema.token_type(vocabulary) == kind
    pa.array([vocabulary - 1], kind)


@pytest.mark.parametrize("vocabulary", [0, -1, 2**32 + 1])
def test_a_vocabulary_that_no_token_type_holds_is_refused(vocabulary):
    with pytest.raises(ConfigError, match=rf"vocabulary size: got {vocabulary}, allowed 1 to 2\*\*32"):
        schema.token_type(vocabulary)


def test_sequences_are_lists_of_one_length_without_nulls():
    table = schema.sequences(4, pa.uint16())
    assert table.field("tokens").type == pa.list_(pa.field("item", pa.uint16(), nullable=False), 4)
    assert table.metadata == {b"sequence_length": b"4"}
    assert [f.name for f in table if f.nullable] == ["loss_mask"]
    assert schema.sequences(8, pa.uint32()).field("tokens").type.list_size == 8


def test_columns_that_are_there_are_enough_in_any_order():
    schema.require(["b", "a", "c"], ["a", "b"], where="here")
    schema.require((name for name in ("a",)), (name for name in ("a",)), where="here")
    schema.require([], [], where="here")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["x", "y"], r"step s: missing column\(s\) a, b; found x, y"),
        (["a"], r"step s: missing column\(s\) b; found a"),
        ([], r"step s: missing column\(s\) a, b; found none"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(found, message):
    with pytest.raises(DatasetError, match=f"^{message}$"):
        schema.require(iter(found), ["a", "b"], where="step s")
