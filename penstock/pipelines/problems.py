"""Problems to start from, as a step: those of files with a question and an answer, or the originals of a dataset.

    problems   files or a dataset -> ``problems``, ``dropped``

Answers may stand alone or at the end of a solution. A record without a question or an answer is dropped with its
reason.

Price: one read and one write of the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock import schema
from penstock import work as rowwork
from penstock.dataset import Dataset, read_part
from penstock.errors import ConfigError
from penstock.generators.verification.answers import final_answer
from penstock.pipelines.documents import config_of, part_splits
from penstock.pipelines.passes import PartWriter, Split
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

PROBLEMS = "problems"
_WHOLE = re.compile(r"(-?\d+)\.0+")  # a whole number that was stored as a float


def problem_files(paths: Sequence[str], question: str = "question", answer: str = "answer") -> FileSource:
    """Files whose records have a question and an answer, in columns of these names.

    Raises:
        ConfigError: no files, or one column for both.
    """
    if question == answer:
        raise ConfigError(f"got {question!r} as column of question and answer, allowed two; name both")
    # the answer travels in the one column that may hold any short value beside a text
    columns = {"text": question, "title": answer}
    return FileSource(name=PROBLEMS, entries=tuple(FileEntry(path=path, columns=columns) for path in paths))


def gold_answer(said: str) -> str:
    """The final answer in a column of answers: alone, or at the end of a solution (after ``####``, in a box)."""
    found = final_answer(said) if "####" in said or "\\boxed" in said or "\\fbox" in said else None
    answer = (said if found is None else found.text).strip()
    whole = _WHOLE.fullmatch(answer)
    return whole[1] if whole else answer


@dataclass(frozen=True)
class ReadProblems:
    """Problems of a split of files, or of a part of a dataset."""

    source: FileSource | None
    folder: Folder | None
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in self._read(split, out):
            rows = whole_problems(batch.to_pylist(), out, step=PROBLEMS, keep=self.dropped)
            out.count(kept=len(rows))
            out.write(PROBLEMS, pa.RecordBatch.from_pylist(rows, schema=schema.PROBLEMS))

    def _read(self, split: Split, out: PartWriter) -> Iterator[pa.RecordBatch]:
        if self.source is None:
            assert self.folder is not None
            for batch in read_part(self.folder, split.payload.file, schema.PROBLEMS.names):
                own = pc.equal(batch["variant"], "original")
                others = batch.filter(pc.invert(own)).select(["problem_id", "prompt"]).to_pylist()
                out.count(rows_in=len(others))
                gone = [(row["problem_id"], row["prompt"]) for row in others]
                drop_texts(out, gone, ["not_original"] * len(gone), step=PROBLEMS, keep=self.dropped)
                yield batch.filter(own)
            return
        for rows in self.source.read(split.payload, dropped=self.dropped):
            out.write("dropped", rows.dropped)
            reasons = rowwork.value_counts(rows.dropped["reason"])
            out.count(rows_in=rows.dropped.num_rows, dropped={f"source.{self.source.name}": reasons} if reasons else {})
            out.add_stats({"sources": {self.source.name: {"rows": rows.documents.num_rows + rows.dropped.num_rows}}})
            columns = rows.documents.select(["doc_id", "text", "title"]).to_pydict().values()
            made = [_original(*row) for row in zip(*columns, strict=True)]
            yield pa.RecordBatch.from_pylist(made, schema=schema.PROBLEMS)


def _original(problem_id: str, question: str, answer: str | None) -> dict[str, Any]:
    return {
        "problem_id": problem_id,
        "group_id": problem_id,
        "variant": "original",
        "prompt": question,
        "original_prompt": question,
        "answer": gold_answer(answer or ""),
        "verdicts": [],
        "parents": [],
        "provenance": json.dumps({"record": problem_id}),
    }


class Problems(Step):
    """Problems to be transformed: those of files, or the originals of a dataset's ``problems``."""

    revision = 1

    def __init__(
        self, name: str = PROBLEMS, *, dataset: Dataset | None = None, source: FileSource | None = None
    ) -> None:
        """
        Raises:
            ConfigError: neither a dataset nor files, or both.
        """
        if (dataset is None) == (source is None):
            given = "neither a dataset nor files" if dataset is None else "a dataset and files"
            raise ConfigError(f"problems: got {given}, allowed one of them; name what to transform")
        self.name, self.dataset, self.source = name, dataset, source

    def config(self) -> dict[str, Any]:
        if self.source is None:
            return {"columns": schema.PROBLEMS.names}
        return {"source": config_of(self.source), "source_revision": self.source.revision}

    def guarded(self) -> tuple[str, ...]:
        return (self.name, *(() if self.source is None else (self.source.name,)))

    def inputs(self, settings: Settings) -> dict[str, str]:
        if self.source is None:
            assert self.dataset is not None
            return {"dataset": self.dataset.digest}
        return {file.name: settings.fingerprint(file) for file in self.source.inputs()}

    def build(self, context: Context) -> Built:
        if self.source is None:
            assert self.dataset is not None
            table = self.dataset.table(PROBLEMS)
            schema.require(table.columns, schema.PROBLEMS.names, where=self.dataset.folder.url)
            splits = part_splits(table)
        else:
            splits = [Split(i, piece) for i, piece in enumerate(self.source.plan(context.settings.split_bytes))]
        folder = None if self.dataset is None else self.dataset.folder
        work = ReadProblems(self.source, folder, context.settings.dropped)
        built = context.collect(context.run("read", work, splits), PROBLEMS, "dropped")
        if not built.counts.kept:
            lost = ", ".join(f"{why} {n:,}" for of in built.counts.dropped.values() for why, n in of.items())
            raise ConfigError(
                f"problems: got no problem with a question and an answer ({lost or 'no records'}), allowed one or "
                "more; name files that hold some, and their columns"
            )
        return built


def whole_problems(rows: Sequence[dict[str, Any]], out: PartWriter, *, step: str, keep: str) -> list[dict[str, Any]]:
    """The rows with a question and an answer; all are counted in, the others dropped."""
    reasons = [_blank(row) for row in rows]
    bad = [(row["problem_id"], row["prompt"]) for row, reason in zip(rows, reasons, strict=True) if reason]
    out.count(rows_in=len(rows))
    drop_texts(out, bad, [reason for reason in reasons if reason], step=step, keep=keep)
    return [row for row, reason in zip(rows, reasons, strict=True) if reason is None]


def _blank(row: dict[str, Any]) -> str | None:
    if not row["prompt"].strip():
        return "empty_question"
    return None if row["answer"].strip() else "no_answer"


def drop_texts(
    out: PartWriter,
    rows: Sequence[tuple[str, str]],
    reasons: Sequence[str],
    *,
    step: str,
    keep: str,
    details: Sequence[str] | None = None,
) -> None:
    """Drop (id, text) with reasons."""
    columns = [pa.array(column, pa.string()) for column in (zip(*rows, strict=True) if rows else ((), ()))]
    detail = None if details is None else pa.array(details, pa.string())
    batch = pa.RecordBatch.from_arrays(columns, names=["doc_id", "text"])
    out.drop(batch, pa.array(reasons, pa.string()), step=step, keep=keep, detail=detail)
