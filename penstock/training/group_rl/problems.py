"""Questions with all their phrasings, as a policy is asked them: ``ProblemTable``.

    table = ProblemTable.read("out/transformed")        # made by penstock transform
    table = ProblemTable.read("problems.parquet")       # or .jsonl: columns of the ``problems`` table
    table.problems[0], table.groups[0], table.dropped

A row is a *problem*: one phrasing of a question. Rows of one ``group_id`` are a *group*, the question's original first.
Rows need ``problem_id``, ``group_id``, ``prompt`` and ``answer``. ``sub_index`` (0 is the original) and ``transform``
or ``variant`` are used where they are there; else the original is the row whose id is its group's, or the first.

What would poison a pool never gets into the table. A row with an empty question (a pad) or without an answer is dropped
and counted, and so is a group that lost its original. Two answers for one group, an id that is missing or there twice,
and two rows of one ``sub_index`` say that the table was put together wrongly: they are refused by name.

Price: the rows in memory, some 1 kB each.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock import schema
from penstock.dataset import Dataset, read_manifest
from penstock.errors import DatasetError, InputError
from penstock.generators.verification.answers import quick
from penstock.storage import Folder

REQUIRED = ("problem_id", "group_id", "prompt", "answer")
ORIGINAL = "original"
_TABLE = "problems"
_OPTION = re.compile(r"\(?[A-Z]\)?")  # letter of an option of a multiple choice


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One phrasing of a question.

    Attributes:
        problem_id, group_id: of the phrasing, and of its question.
        sub_index: its number in the group; 0 is the original.
        transform: how it was made, ``original`` for the original.
        prompt: the question as a text.
        answer: what is right.
    """

    problem_id: str
    group_id: str
    sub_index: int
    transform: str
    prompt: str
    answer: str


class ProblemTable:
    """Problems, and which of them are one question.

    Attributes:
        problems: all phrasings; those of a group lie together, its original first.
        groups: of each group the places of its phrasings in ``problems``.
        group_ids: of each group its id.
        dropped: rows that are not in the table, by reason: ``pad`` (no question), ``no_answer``, ``no_original`` (the
            group's original was dropped), and whatever ``without`` was told.
    """

    def __init__(self, problems: Iterable[Problem], dropped: Mapping[str, int] | None = None) -> None:
        """``problems`` in their order: rows of a group together, numbered from its original, 0, on."""
        self.problems = tuple(problems)
        self.dropped: Counter[str] = Counter(dropped or {})
        groups: dict[str, list[int]] = {}
        for place, problem in enumerate(self.problems):
            groups.setdefault(problem.group_id, []).append(place)
        self.group_ids = tuple(groups)
        self.groups = tuple(tuple(places) for places in groups.values())

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], *, where: str = _TABLE) -> ProblemTable:
        """The table of rows in any order.

        Args:
            where: how messages name the rows.

        Raises:
            DatasetError: an id is missing or there twice, a group has two answers or two rows of one number, or no row
                is left.
        """
        return _Building(where).table(rows)

    @classmethod
    def read(cls, source: Dataset | str | Path) -> ProblemTable:
        """The table of a dataset with ``problems``, or of one Parquet or JSON Lines file (also gzipped or zstd).

        Raises:
            InputError: the file cannot be read.
            DatasetError: there is no such dataset or a column is missing; else as ``of``.
        """
        if isinstance(source, Dataset):
            return cls.of(_rows_of_dataset(source), where=f"{source.folder.url}: {_TABLE}")
        path = str(source)
        if path.endswith((".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")):
            return cls.of(_rows_of_file(path), where=path)
        folder = Folder(path)
        if read_manifest(folder) is None and read_manifest(folder / "transformed") is not None:
            folder = folder / "transformed"
        return cls.read(Dataset(folder))

    def __len__(self) -> int:
        return len(self.problems)

    def __repr__(self) -> str:
        return f"ProblemTable({len(self.problems)} problems in {len(self.groups)} groups)"

    @cached_property
    def group_of(self) -> NDArray[np.int64]:
        """Which group each problem belongs to: (problems,)."""
        out = np.zeros(len(self.problems), dtype=np.int64)
        for number, places in enumerate(self.groups):
            out[list(places)] = number
        return out

    @cached_property
    def transforms(self) -> tuple[str, ...]:
        """Kinds of phrasings, the original first, the others sorted."""
        kinds = {problem.transform for problem in self.problems}
        return tuple(sorted(kinds, key=lambda kind: (kind != ORIGINAL, kind)))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything a policy is asked, and of its order."""
        state = hashlib.sha256()
        for problem in self.problems:
            values = [getattr(problem, name) for name in Problem.__slots__]
            state.update(json.dumps(values, ensure_ascii=True).encode() + b"\n")
        return state.hexdigest()

    def without(self, drop: Iterable[int], reason: str) -> ProblemTable:
        """The table less the problems at these places, counted as ``reason``; a group that loses its original goes."""
        gone = set(drop)
        kept, dropped = [], Counter({reason: len(gone)}) if gone else Counter[str]()
        for places in self.groups:
            rest = [place for place in places if place not in gone]
            if places[0] in gone and self.problems[places[0]].sub_index == 0:
                dropped["no_original"] += len(rest)
            else:
                kept += rest
        return ProblemTable((self.problems[place] for place in kept), self.dropped + dropped)

    def first_phrasings(self, most: int) -> ProblemTable:
        """The table with at most so many phrasings of each question, its original among them; nothing is counted."""
        kept = sorted(place for places in self.groups for place in places[:most])
        return ProblemTable((self.problems[place] for place in kept), self.dropped)


class _Building:
    """One table in the making."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.dropped: Counter[str] = Counter()
        self.groups: dict[str, list[dict[str, Any]]] = {}
        self.seen: set[str] = set()

    def table(self, rows: Iterable[Mapping[str, Any]]) -> ProblemTable:
        for number, row in enumerate(rows):
            self._take(number, row)
        problems = [problem for group in self.groups.values() for problem in self._numbered(group)]
        if not problems:
            why = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items()) or "there are none"
            raise DatasetError(f"{self.where}: no problem is left ({why}); give rows with a question and an answer")
        return ProblemTable(problems, self.dropped)

    def _take(self, number: int, row: Mapping[str, Any]) -> None:
        for name in ("problem_id", "group_id"):
            if not row.get(name):
                raise DatasetError(
                    f"{self.where}: row {number} has no {name}, allowed a text in every row; groups are known by their "
                    "ids alone"
                )
        name = str(row["problem_id"])
        if name in self.seen:
            raise DatasetError(f"{self.where}: problem {name} is there twice, allowed once; make ids unique")
        self.seen.add(name)
        self.groups.setdefault(str(row["group_id"]), []).append(dict(row))

    def _numbered(self, rows: list[dict[str, Any]]) -> Iterator[Problem]:
        """The problems of a group in order; none where the original is dropped."""
        name = str(rows[0]["group_id"])
        numbers = self._numbers(name, rows)
        kept = [(n, row) for n, row in sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0])]
        kept = [(n, row) for n, row in kept if self._whole(row)]
        if kept and kept[0][0] != 0:
            self.dropped["no_original"] += len(kept)
            return
        self._one_answer(name, [row for _, row in kept])
        for number, row in kept:
            kind = row.get("transform") or row.get("variant") or "variant"
            yield Problem(
                problem_id=str(row["problem_id"]),
                group_id=name,
                sub_index=number,
                transform=ORIGINAL if number == 0 else str(kind),
                prompt=str(row["prompt"]),
                answer=_text(row["answer"]),
            )

    def _numbers(self, name: str, rows: list[dict[str, Any]]) -> list[int]:
        numbers = [row.get("sub_index") for row in rows]
        if all(number is None for number in numbers):
            rows.sort(key=lambda row: not _is_original(row))
            return list(range(len(rows)))
        wrong = [n for n in numbers if not isinstance(n, int) or isinstance(n, bool) or n < 0]
        if wrong or len(set(numbers)) < len(numbers):
            one = wrong[0] if wrong else Counter(numbers).most_common(1)[0][0]
            raise DatasetError(
                f"{self.where}: group {name} has sub_index {one!r}{'' if wrong else ' twice'}, allowed 0 for its "
                "original and another whole number for each variant; number its rows"
            )
        return [int(number) for number in numbers if number is not None]

    def _whole(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has a question and an answer; else it is counted."""
        reason = "pad" if not _text(row.get("prompt")) else "no_answer" if not _text(row.get("answer")) else None
        if reason:
            self.dropped[reason] += 1
        return reason is None

    def _one_answer(self, name: str, rows: list[dict[str, Any]]) -> None:
        for row in rows[1:]:
            first, other = _text(rows[0]["answer"]), _text(row["answer"])
            if bool(_OPTION.fullmatch(first)) != bool(_OPTION.fullmatch(other)):
                continue  # one of them is asked as multiple choice, and its answer is the option's letter
            # what cannot be decided without a library is another answer as well: a pool must not depend on one
            if other != first and quick(first, other) is not True:
                raise DatasetError(
                    f"{self.where}: group {name} has the answers {first!r} and {other!r}, allowed one: its phrasings "
                    "ask one question, and what is right for one must be right for all; verify its variants"
                )


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _is_original(row: Mapping[str, Any]) -> bool:
    return row.get("variant") == ORIGINAL or row["problem_id"] == row["group_id"]


def _rows_of_dataset(dataset: Dataset) -> Iterator[dict[str, Any]]:
    columns = dataset.table(_TABLE).columns
    schema.require(columns, REQUIRED, where=f"{dataset.folder.url}: {_TABLE}")
    wanted = [name for name in (*REQUIRED, "variant", "sub_index", "transform") if name in columns]
    for batch in dataset.batches(_TABLE, wanted):
        yield from batch.to_pylist()


def _rows_of_file(path: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.json as pj
    import pyarrow.parquet as pq

    read: Callable[[Any], pa.Table] = pq.read_table if path.endswith(".parquet") else pj.read_json
    folder, _, name = path.rpartition("/")
    try:
        with Folder(folder or ".").open_read(name) as raw:
            compressed = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2])
            table = read(pa.CompressedInputStream(raw, compressed) if compressed else raw)
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as problems ({reason}); give Parquet or JSON Lines") from error
    schema.require(table.column_names, REQUIRED, where=path)
    yield from table.to_pylist()


def prompt_tokens(tokenizer: Any, question: str, instruction: str) -> NDArray[np.int32]:
    """What a policy reads before it answers: ids of the instruction, a newline and the question.

    A tokenizer with a chat template puts both into one message of the user and opens the assistant's turn. Without one
    a newline ends the question, so that the answer begins a line. An empty instruction adds nothing: the question is
    read as it stands.
    """
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": asked(question, instruction)}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # a template writes its own
    else:
        ids = tokenizer(plain_prompt(question, instruction), verbose=False)["input_ids"]
    return np.array(ids, dtype=np.int32)


def asked(question: str, instruction: str) -> str:
    """The instruction, a newline and the question; the question alone where there is no instruction."""
    return f"{instruction}\n{question}" if instruction else question


def plain_prompt(question: str, instruction: str) -> str:
    """The text that a model without a chat template continues."""
    return f"{asked(question, instruction)}\n" if instruction else question
