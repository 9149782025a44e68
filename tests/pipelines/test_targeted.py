"""Scores of a pool as a step: what a method sees of the pool, and what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pytest

from penstock.pipelines.targeted import Scores
from penstock.seeding import hash_ids
from penstock.selectors.targeted.base import scores_array, summary_of
from penstock.sources.base import InputFile


@dataclass(frozen=True)
class Longest:
    """Summary: the largest length."""

    value: int

    def merge(self, other):
        return Longest(max(self.value, other.value))

    def to_table(self):
        return pa.table({"value": [self.value]})

    @classmethod
    def from_table(cls, table):
        return cls(table["value"][0].as_py())


def longest(batch):
    return Longest(max((len(text) for text in batch["text"].to_pylist()), default=0))


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Scores texts by their length over the longest of the pool, in reach of the target's."""

    model: str = "somewhere"
    factor: float = 1.0

    name: ClassVar[str] = "lengths"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.lengths"
    reads: ClassVar[tuple[str, ...]] = ("text",)
    paths: ClassVar[tuple[str, ...]] = ("model",)
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def files(self):
        return (InputFile(f"{self.model}/weights", "weights", 3, "stamp"),)

    def fit(self, target, pool, folder):
        merged = summary_of(pool, "longest", longest, Longest)
        # both ways of looking at the pool see the same rows
        assert merged.value == max(len(text) for batch in pool for text in batch["text"].to_pylist())
        assert [batch.schema.names for batch in pool] == [["text"]] * len(list(pool))
        return LengthScore(longest=merged.value, examples=target.num_rows, factor=self.factor)


@dataclass(frozen=True, kw_only=True)
class LengthScore:
    longest: int
    examples: int
    factor: float

    name: ClassVar[str] = "lengths"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("score.lengths", "shout")

    def facts(self):
        return {"longest": self.longest}

    def annotate(self, batch):
        texts = batch["text"].to_pylist()
        values = [self.factor * len(text) / self.longest if text else float("nan") for text in texts]
        return {"score.lengths": scores_array(values), "shout": pa.array([text.upper() for text in texts])}


@pytest.fixture
def rows():
    texts = ["aa", "", "a", "aaaa", "aaa"]
    ids = [f"d{i}" for i in range(5)]
    return pa.RecordBatch.from_pydict(
        {"doc_id": ids, "id_hash": hash_ids(ids), "domain": list("xxyyz"), "tokens": [1] * 5, "text": texts}
    )


def given(lab, rows, cut, sizes):
    lab.given("target", documents=[rows.select(["doc_id", "text", "domain"]).slice(0, 2)])
    lab.given("pool", documents=cut(rows, sizes))


def test_scores_come_in_the_pools_parts_with_what_a_choice_needs(lab, rows, cut):
    given(lab, rows, cut, [2, 1])
    found = lab.run(Scores("lengths", Lengths()), fingerprint=lambda file: file.path)
    table = found.read("scores")
    assert table.column_names == ["doc_id", "id_hash", "domain", "tokens", "score", "shout"]
    assert table["score"].to_pylist() == [0.5, None, 0.25, 1.0, 0.75]
    assert table["shout"].to_pylist() == ["AA", "", "A", "AAAA", "AAA"]
    assert [file.rows for file in found.table("scores").files] == [2, 1, 2]
    stats = found.manifest.stats
    assert stats["without_score"] == 1
    assert stats["fit"] == {"longest": 4}
    assert stats["provenance"]["method"] == "lengths"
    assert any("1 of 5 rows have no score" in note for note in lab.notes)


def test_scores_do_not_depend_on_how_the_pool_is_cut(new_lab, rows, cut):
    digests = set()
    for sizes in ([], [1, 1, 1, 1], [3]):
        lab = new_lab()
        given(lab, rows, cut, sizes)
        digests.add(lab.run(Scores("lengths", Lengths()), fingerprint=lambda file: file.path).digest)
    assert len(digests) == 1


def test_the_key_holds_settings_and_digests_of_files_but_not_where_they_lie(lab, rows, cut):
    given(lab, rows, cut, [2])
    step = Scores("lengths", Lengths(model="here"))
    parts = lab.run(step, fingerprint=lambda file: "digest").manifest.key_parts
    assert parts["settings"] == {"name": "lengths", "revision": 1, "config": {"factor": 1.0}}
    assert parts["inputs"] == {"weights": "digest"}
    assert set(parts["libraries"]) == {"numpy"}
    moved = lab.run(Scores("lengths", Lengths(model="there")), fingerprint=lambda file: "digest")
    assert moved.manifest.key_parts == parts
    changed = lab.run(Scores("lengths", Lengths(factor=0.5)), fingerprint=lambda file: "digest")
    assert changed.manifest.key != moved.manifest.key
    assert changed.read("scores")["score"].to_pylist()[0] == 0.25
