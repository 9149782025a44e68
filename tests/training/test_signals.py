"""pytest tests/training/test_signals.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import schema
from penstock.errors import DatasetError
from penstock.training.loader import Batch
from penstock.training.signals import (
    SignalWriter,
    document_scores,
    drop_policy_entries,
    read_signals,
    write_policy_entry,
)


def batch(rows: list[tuple[int, list[tuple[str, int]]]], *, first: int = 0) -> Batch:
    """Rows as (domain, [(document, length)]); token arrays are not what signals read."""
    segments = [segment for _, row in rows for segment in row]
    none = np.zeros((len(rows), 1), np.int64)
    return Batch(
        numbers=first + np.arange(len(rows)),
        domain=np.array([k for k, _ in rows]),
        rows=np.arange(len(rows)),
        mixture_version=np.zeros(len(rows), np.int64),
        tokens=none,
        segment_ids=none,
        positions=none,
        segment_counts=np.array([len(row) for _, row in rows]),
        segment_lengths=np.array([length for _, length in segments]),
        segment_docs=pa.array([name for name, _ in segments]),
    )


def observe(writer: SignalWriter, step: int, rows: list[Any], sums: list[float], tokens: list[int]) -> dict[str, float]:
    return writer.observe(step, batch(rows, first=10 * step), np.array(sums), np.array(tokens, dtype=np.float64))


def test_three_steps_by_hand_with_an_absent_domain(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, ["a", "b"], decay=0.5, every=3)
    # step 1: a has losses 8 over 2 tokens and 2 over 2; b 3 over 1, and a segment that predicts nothing
    one = observe(writer, 1, [(0, [("p", 3), ("q", 3)]), (1, [("r", 2), ("s", 1)])], [8, 2, 3, 0], [2, 2, 1, 0])
    assert one == {"a": 2.5, "b": 3.0}
    # step 2: only a, 2 over 4: mean (0.5 * 10 + 2) / (0.5 * 4 + 4) = 7 / 6
    assert observe(writer, 2, [(0, [("p", 5)])], [2], [4]) == {"a": 0.5}
    # step 3: b, 1 over 1: mean (0.5 * 3 + 1) / (0.5 * 1 + 1) = 5 / 3; the absent step left it alone
    assert observe(writer, 3, [(1, [("r", 2)])], [1], [1]) == {"b": 1.0}
    table = read_signals(tmp_path)
    assert table.schema.equals(schema.SIGNALS)
    assert table["doc_id"].to_pylist() == ["p", "q", "r", "p", "r"]
    assert table["domain"].to_pylist() == ["a", "a", "b", "a", "b"]
    assert table["sequence"].to_pylist() == [10, 10, 11, 20, 30]
    assert table["segment"].to_pylist() == [0, 1, 0, 0, 0]
    assert table["tokens"].to_pylist() == [2, 2, 1, 4, 1]
    assert table["step"].to_pylist() == [1, 1, 1, 2, 3]
    assert table["loss"].to_pylist() == [4.0, 1.0, 3.0, 0.5, 1.0]
    assert table["excess_loss"].to_pylist() == pytest.approx([1.5, -1.5, 0.0, 0.5 - 7 / 6, 1.0 - 5 / 3])


def run(writer: SignalWriter, steps: range) -> None:
    for step in steps:
        observe(writer, step, [(step % 2, [("p", 3), (f"q{step}", 3)])], [step, 2.0], [2, 2])


def test_parts_are_named_by_their_steps_and_a_flush_ends_one(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, ["a", "b"], decay=0.9, every=4)
    run(writer, range(1, 7))
    writer.flush(6)
    writer.flush(6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part-00000001-00000004.parquet",
        "part-00000005-00000006.parquet",
    ]


def test_resume_repeats_no_step_and_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = SignalWriter(tmp_path / "whole", ["a", "b"], decay=0.9, every=4)
    run(whole, range(1, 7))
    whole.flush(6)
    state = json.loads(json.dumps(whole.state_dict()))
    run(whole, range(7, 13))
    whole.flush(12)

    cut = SignalWriter(tmp_path / "cut", ["a", "b"], decay=0.9, every=4)
    run(cut, range(1, 7))
    cut.flush(6)
    run(cut, range(7, 11))  # part 7-8 is written, 9 and 10 are lost in memory
    (tmp_path / "cut" / ".tmp-part-00000009-00000012.parquet").write_bytes(b"half")
    again = SignalWriter(tmp_path / "cut", ["b", "a"][::-1], decay=0.9, every=4)
    again.restore(6, state)
    assert len(list((tmp_path / "cut").iterdir())) == 2
    run(again, range(7, 13))
    again.flush(12)
    found = {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


def test_a_missing_part_before_the_checkpoint_is_refused(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, ["a", "b"], decay=0.9, every=2)
    run(writer, range(1, 7))
    (tmp_path / "part-00000003-00000004.parquet").unlink()
    with pytest.raises(DatasetError, match="reach step 2 without a gap, the checkpoint is at 6"):
        writer.restore(6, writer.state_dict())


def test_restore_to_the_start_forgets_everything(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, ["a", "b"], decay=0.9, every=2)
    run(writer, range(1, 4))
    writer.restore(0, None)
    assert np.isnan(writer.means).all()
    assert list(tmp_path.iterdir()) == []


def signals(rows: list[tuple[str, int, float, float, int]]) -> pa.Table:
    keys = ("doc_id", "tokens", "loss", "excess_loss", "step")
    fixed = {"domain": "a", "sequence": 0, "segment": 0, "mixture_version": 0}
    return pa.Table.from_pylist([fixed | dict(zip(keys, row, strict=True)) for row in rows], schema=schema.SIGNALS)


def test_documents_are_scored_by_their_tokens() -> None:
    table = signals([("q", 1, 2.0, 0.5, 1), ("p", 3, 1.0, -1.0, 1), ("p", 1, 5.0, 3.0, 2)])
    assert document_scores(table).to_pylist() == [
        {"doc_id": "p", "excess_loss": 0.0, "loss": 2.0, "tokens": 4},
        {"doc_id": "q", "excess_loss": 0.5, "loss": 2.0, "tokens": 1},
    ]


def test_the_last_visit_alone_can_be_asked_for() -> None:
    table = signals([("p", 9, 1.0, -1.0, 7), ("p", 1, 4.0, 2.0, 8), ("p", 3, 2.0, 1.0, 8), ("q", 2, 6.0, 0.0, 1)])
    table = pa.concat_tables([table.slice(2), table.slice(0, 2)])  # chunks, and not in step order
    assert document_scores(table, last_visit=True).to_pylist() == [
        {"doc_id": "p", "excess_loss": 1.25, "loss": 2.5, "tokens": 4},
        {"doc_id": "q", "excess_loss": 0.0, "loss": 6.0, "tokens": 2},
    ]


@pytest.mark.parametrize("last_visit", [False, True])
def test_no_signals_give_no_scores(tmp_path: Path, last_visit: bool) -> None:
    found = document_scores(read_signals(tmp_path / "none"), last_visit=last_visit)
    assert (found.num_rows, found.schema.names) == (0, ["doc_id", "excess_loss", "loss", "tokens"])


def test_scores_need_the_columns_of_signals() -> None:
    with pytest.raises(DatasetError, match="signals: missing column"):
        document_scores(pa.table({"doc_id": ["p"]}))


def test_a_policy_entry_is_one_row_of_the_log(tmp_path: Path) -> None:
    path = write_policy_entry(
        tmp_path,
        step=0,
        effective_from=0,
        version=2,
        policy="static",
        domains=["a", "b"],
        old=[0.5, 0.5],
        new=[0.25, 0.75],
    )
    assert pq.read_schema(path).equals(schema.POLICY_LOG)
    assert pq.read_table(path).to_pylist() == [
        {
            "step": 0, "effective_from_sequence": 0, "mixture_version": 2, "policy": "static", "domains": ["a", "b"],
            "signals": None, "old_weights": [0.5, 0.5], "new_weights": [0.25, 0.75],
        }
    ]  # fmt: skip


def test_policy_entries_after_a_step_are_dropped(tmp_path: Path) -> None:
    for step in (0, 20, 40):
        write_policy_entry(
            tmp_path, step=step, effective_from=0, version=0, policy="dga", domains=["a"], old=[1.0], new=[1.0]
        )
    (tmp_path / ".tmp-part-00000060.parquet").write_bytes(b"torn")
    drop_policy_entries(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-00000000.parquet", "part-00000020.parquet"]


def test_a_skipped_step_has_no_rows_and_leaves_no_gap(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, ["a"], decay=0.5, every=2)
    observe(writer, 1, [(0, [("p", 3)])], [4], [2])
    writer.skip(2)
    writer.skip(3)
    writer.skip(4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "part-00000001-00000002.parquet",
        "part-00000003-00000004.parquet",
    ]
    assert read_signals(tmp_path)["step"].to_pylist() == [1]
    writer.restore(4, writer.state_dict())
    assert writer.means.tolist() == [2.0]


def test_ranks_write_parts_of_their_own_against_common_means(tmp_path: Path) -> None:
    """Rank 0 has 8 over 2 tokens, rank 1 has 1 over 1: the mean of both is 3."""
    both = (np.array([9.0]), np.array([3.0]))
    writers = [SignalWriter(tmp_path, ["a"], decay=0.5, every=9, rank=rank, world_size=2) for rank in (0, 1)]
    for writer, (name, loss, count) in zip(writers, (("p", 8.0, 2.0), ("q", 1.0, 1.0)), strict=True):
        rows = [(0, [(name, int(count) + 1)])]
        found = writer.observe(1, batch(rows), np.array([loss]), np.array([count]), over_ranks=both)
        assert found == {"a": 3.0}
        writer.flush(1)
    table = read_signals(tmp_path).sort_by("doc_id")
    assert table["excess_loss"].to_pylist() == [1.0, -2.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "part-00000001-00000001.00001-of-00002.parquet",
        "part-00000001-00000001.00002-of-00002.parquet",
    ]
    # one process goes on from there; with a rank's part gone nothing does
    alone = SignalWriter(tmp_path, ["a"], decay=0.5, every=9)
    alone.restore(1, writers[0].state_dict())
    (tmp_path / "part-00000001-00000001.00002-of-00002.parquet").unlink()
    with pytest.raises(DatasetError, match="reach step 0 without a gap"):
        alone.restore(1, writers[0].state_dict())
