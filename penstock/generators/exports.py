"""Groups of a question and its verified variants as rows for trainers of policies: TRL and verl, as Parquet.

    trl    prompt: one user message; solution and ground_truth: the answer in a box, and alone; group_id, sub_index,
           group_size, transform. TRL groups by position, so rows of a group lie together and in order: with
           ``num_generations`` G for each row, group_size x G completions in a row are one pool.
    verl   data_source, prompt, ability, reward_model {style, ground_truth}, extra_info {split, index, sub_index, type,
           group_id}. ``index`` is ``group_index`` of the group, ``sub_index`` is 0 for the original and 1, 2, … for its
           variants; a trainer that pools takes ``index`` as uid. Keep ``data.shuffle=False``, so that a group is not
           cut.

What would spoil a pool is refused: an empty question or answer, and a group of one, whose advantage would be its bare
reward. Rows are written as they are read, so memory is one batch.

Row layout: TA-GRPO's training rows (https://github.com/lhkhiem28/TA-GRPO at 67d09b7), TRL 1.16, verl 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.schema import require
from penstock.seeding import hash_ids
from penstock.storage import Folder

INSTRUCTION = "Solve the problem below. Think step by step, put the final answer into \\boxed{} and stop after the box."
_READS = ("problem_id", "group_id", "variant", "prompt", "answer", "sub_index", "transform")
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCHEMAS = {
    "trl": pa.schema(
        [
            ("prompt", _MESSAGES),
            ("solution", pa.string()),
            ("ground_truth", pa.string()),
            ("group_id", pa.string()),
            ("sub_index", pa.int32()),
            ("group_size", pa.int32()),
            ("transform", pa.string()),
        ]
    ),
    "verl": pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", _MESSAGES),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("split", pa.string()),
                        ("index", pa.int64()),
                        ("sub_index", pa.int64()),
                        ("type", pa.string()),
                        ("group_id", pa.string()),
                    ]
                ),
            ),
        ]
    ),
}
FORMATS = tuple(_SCHEMAS)
_ROWS = 4096  # in one row group, of whole groups

Group = list[dict[str, Any]]


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: str
    rows: int
    groups: int


def export_groups(
    dataset: Dataset,
    format: str,
    path: str,
    *,
    split: str = "train",
    data_source: str = "penstock",
    instruction: str = INSTRUCTION,
) -> Exported:
    """Write the groups of a dataset's ``problems`` for a trainer.

    Args:
        dataset: made by ``penstock transform``.
        format: ``trl`` or ``verl``.
        path: of the Parquet file, or its URL.
        split, data_source: what verl's rows say of themselves.
        instruction: stands before every question; an empty one leaves the question alone.

    Raises:
        ConfigError: another format.
        DatasetError: the dataset has no groups, or one that may not be pooled, or two with one index.
    """
    if format not in _SCHEMAS:
        raise ConfigError(f"format: got {format!r}, allowed {', '.join(FORMATS)}; choose one")

    def asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
        content = f"{instruction}\n{row['prompt']}" if instruction else row["prompt"]
        return [{"role": "user", "content": content}]

    def trl(group: Group) -> Iterator[dict[str, Any]]:
        for row in group:
            yield {
                "prompt": asked(row),
                "solution": f"\\boxed{{{row['answer']}}}",
                "ground_truth": row["answer"],
                "group_id": row["group_id"],
                "sub_index": row["sub_index"],
                "group_size": len(group),
                "transform": row["transform"],
            }

    taken: dict[int, str] = {}

    def verl(group: Group) -> Iterator[dict[str, Any]]:
        name = group[0]["group_id"]
        index = group_index(name)
        if taken.setdefault(index, name) != name:
            raise DatasetError(
                f"groups {taken[index]} and {name} have one index, {index}; export one without the other"
            )
        for row in group:
            yield {
                "data_source": data_source,
                "prompt": asked(row),
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": row["answer"]},
                "extra_info": {
                    "split": split,
                    "index": index,
                    "sub_index": row["sub_index"],
                    "type": row["variant"],
                    "group_id": row["group_id"],
                },
            }

    made: Callable[[Group], Iterator[dict[str, Any]]] = {"trl": trl, "verl": verl}[format]
    folder, _, name = path.rpartition("/")
    rows = groups = 0
    with (
        Folder(folder or ".").open_write(name) as file,
        pq.ParquetWriter(file, _SCHEMAS[format], compression="zstd") as writer,
    ):
        held: list[dict[str, Any]] = []
        for group in groups_of(dataset):
            held += made(group)
            rows, groups = rows + len(group), groups + 1
            if len(held) >= _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(held, schema=_SCHEMAS[format]))
                held = []
        if held:
            writer.write_batch(pa.RecordBatch.from_pylist(held, schema=_SCHEMAS[format]))
    return Exported(path, rows, groups)


def group_index(group_id: str) -> int:
    """A group's number: 53 bits of blake2b of its id, so the same in every export, whatever else is in it.

    53, since a table that passes through float64 or JSON keeps them; of a million groups, two have one number once in
    18,000 datasets, and such an export is refused.
    """
    return int(hash_ids([group_id])[0]) >> 11


def groups_of(dataset: Dataset) -> Iterator[Group]:
    """The groups of a dataset's ``problems``, each with its original first.

    Raises:
        DatasetError: a group of one, in pieces or without its original, or an empty question or answer.
    """
    where = dataset.folder.url
    require(dataset.table("problems").columns, _READS, where=f"{where}: problems")
    seen: set[str] = set()
    group: Group = []
    for batch in dataset.batches("problems", _READS):
        for row in batch.to_pylist():
            if group and row["group_id"] != group[0]["group_id"]:
                yield _checked(group, where, seen)
                group = []
            group.append(row)
    if group:
        yield _checked(group, where, seen)


def _checked(group: Group, where: str, seen: set[str]) -> Group:
    name = group[0]["group_id"]
    wrong = None
    empty = [row["problem_id"] for row in group if not (row["prompt"].strip() and row["answer"].strip())]
    if empty:
        wrong = f"problem {empty[0]} has no question or no answer, which would be a row of rewards that mean nothing"
    elif len(group) == 1:
        wrong = f"group {name} has one row, allowed 2 or more: alone its advantage is its bare reward"
    elif name in seen or [row["sub_index"] for row in group] != list(range(len(group))):
        wrong = f"group {name} is in pieces or not numbered 0, 1, 2, …"
    if wrong:
        raise DatasetError(f"{where}: {wrong}; make the dataset again with: penstock transform")
    seen.add(name)
    return group
