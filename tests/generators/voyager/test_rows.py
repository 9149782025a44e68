"""A voyage as tables: schemas, lineage, what was dropped and by what."""

import asyncio
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

import penstock
from penstock import schema
from penstock.embedding.base import unit_vectors
from penstock.generators.items import Item, Verdict
from penstock.generators.voyager import Spending, VoyagerSettings, explore, rows

SETTINGS = VoyagerSettings(count=40, sample=30, reuse_sample=False)


def made(explorer, embedder, meter=None):
    return asyncio.run(explore([explorer], SETTINGS, embedder=embedder, seed=7, meter=meter))


@pytest.fixture(scope="module")
def voyage(world, embedder):
    @dataclass(frozen=True)
    class Mixed(world):
        """Every third item is a text without an answer, every seventh is none; problems carry a verdict."""

        async def propose(self, count, *, round):
            found = await super().propose(count, round=round)
            for number, item in enumerate(found):
                if number % 7 == 6:
                    found[number] = replace(item, invalid="cut_json", text=item.text + " \ud800")
                elif number % 3 == 2:
                    found[number] = Item(text=item.text, origin={"model": "m", "seed": 5})
                else:
                    found[number] = replace(item, verdicts=(Verdict("score_answer", True, "1.0"),))
            return found

    spent = [0]

    def meter():
        spent[0] += 4
        return Spending(spent[0], 0.5 * spent[0])

    return made(Mixed(), embedder, meter)


def test_problems_and_texts_come_apart_and_are_all_there(voyage):
    problems, documents = (f(voyage, "made", "quantile") for f in (rows.problems, rows.documents))
    assert problems.schema == schema.PROBLEMS
    assert documents.schema.names == [*schema.DOCUMENTS.names, "provenance"]
    assert problems.num_rows + documents.num_rows == 40
    by_id = {f"made#{one.item_id}": one for one in voyage.accepted}
    for row in problems.to_pylist():
        one = by_id[row["problem_id"]]
        assert (row["prompt"], row["original_prompt"], row["answer"]) == (*[one.item.text] * 2, one.item.answer)
        assert (row["group_id"], row["variant"], row["parents"]) == (row["problem_id"], "original", [])
        assert row["verdicts"] == [{"check": "score_answer", "passed": True, "detail": "1.0"}]
    for row in documents.to_pylist():
        assert row["text"] == by_id[row["doc_id"]].item.text
        assert (row["source"], row["domain"]) == ("made", "made")


def test_provenance_says_how_a_row_came_about(voyage):
    one = next(one for one in voyage.accepted if one.item.answer is None and one.round > 1)
    told = json.loads(rows.provenance(voyage, one, "quantile"))
    explorer = voyage.explorers[one.explorer_id]
    assert told.pop("kernel_fingerprint") == voyage.kernel["fingerprint"]
    assert told == {
        "model": "m",
        "request_seed": 5,
        "explorer_id": one.explorer_id,
        "parent_explorer_id": explorer.parent_id,
        "explorer_prompt": explorer.prompt,
        "gradient_text": explorer.gradient,
        "round": one.round,
        "batch_position": one.position,
        "gain": round(one.gain, 6),
        "threshold": round(one.threshold, 6),
        "threshold_strategy": "quantile",
        "anchor_fingerprint": one.anchors,
        "seed": 7,
        "code_version": penstock.__version__,
    }
    assert explorer.gradient is not None


def test_dropped_rows_say_where_why_and_by_what(voyage):
    found = rows.dropped(voyage, "made", "quantile", "full")
    assert found.schema.names[: len(schema.DROPPED)] == schema.DROPPED.names
    assert found.num_rows == len(voyage.rejected)
    accepted = {f"made#{one.item_id}" for one in voyage.accepted}
    reasons = set()
    for row, one in zip(found.to_pylist(), voyage.rejected, strict=True):
        reasons.add((row["stage"], row["reason"]))
        assert (row["doc_id"], row["step"]) == (f"made#{one.item_id}", "made")
        if row["stage"] == "diversity":
            assert row["gain"] < row["threshold"]
            assert row["nearest"] in accepted
        if row["stage"] == "item":
            assert row["text"] == one.item.text.replace("\ud800", "?")
            assert row["nearest"] is None
    assert {("diversity", "low_gain"), ("sample", "first_sample"), ("item", "cut_json")} <= reasons
    assert rows.dropped(voyage, "made", "quantile", "ids")["text"].null_count == found.num_rows


def test_rounds_are_a_row_each_and_hold_what_they_took_but_not_what_it_cost(voyage):
    table = rows.rounds(voyage)
    assert table["round"].to_pylist() == [record.round for record in voyage.rounds]
    assert table.schema == rows.ROUNDS
    for row, record in zip(table.to_pylist(), voyage.rounds, strict=True):
        assert row["proposed"] == row["accepted"] + row["rejected"]
        assert row["calls"] == 4
        assert row["calls_per_accepted"] == (4 / row["accepted"] if row["accepted"] else None)
        assert json.loads(row["explorers"]) == [list(one) for one in record.explorers]
        assert json.loads(row["dropped"]) == record.dropped
    assert "cost" not in table.column_names


def test_every_item_that_was_embedded_has_a_vector_on_the_map(voyage):
    table = rows.vectors(voyage, "made")
    with_vector = [one for one in voyage.decisions if one.vector is not None]
    assert table["id"].to_pylist() == [f"made#{one.item_id}" for one in with_vector]
    assert table["kind"].to_pylist() == ["accepted" if one.accepted else "rejected" for one in with_vector]
    assert np.abs(unit_vectors(table["embedding"]) - [one.vector for one in with_vector]).max() < 1e-3


def test_the_seed_set_stands_before_the_items_on_the_map(voyage):
    first = next(one.vector for one in voyage.decisions if one.vector is not None)
    table = rows.vectors(voyage, "made", np.array([first, -first]))
    assert table["id"].to_pylist()[:2] == ["made#seed-0", "made#seed-1"]
    assert table["kind"].to_pylist().count("seed") == 2
    assert np.abs(unit_vectors(table["embedding"])[:2] - [first, -first]).max() < 1e-3
    assert table.slice(2).equals(rows.vectors(voyage, "made"))


def test_a_voyage_without_items_has_empty_tables_of_the_same_columns(embedder, voyage):
    class Nothing:
        explorer_id, parent_id, prompt, gradient, identity = "nothing", None, "", None, {}

        async def propose(self, count, *, round):
            return []

    empty = made(Nothing(), embedder)
    assert empty.reason == "no_items"
    for make in (rows.problems, rows.documents):
        assert make(empty, "made", "quantile").schema == make(voyage, "made", "quantile").schema
    assert rows.dropped(empty, "made", "quantile", "sample").num_rows == 0
    assert rows.vectors(empty, "made").num_rows == 0
