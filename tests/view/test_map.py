"""The map: which points there are, what they are told, and how they are coloured."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from penstock.embedding.base import unit_vectors
from penstock.selectors.projection import project
from penstock.view.corpus import Corpus
from penstock.view.map import COLOURS, Map
from penstock.view.points import Points, points_of


@pytest.fixture
def drawn(seen, indexed):
    corpus = Corpus(seen.root)
    with indexed(corpus) as (_, index):
        yield points_of(corpus, index)


def test_the_map_of_a_run_is_shown_with_text_and_scores_of_its_rows(drawn, seen):
    assert drawn.of == "groups, map"
    rows = drawn.table.to_pylist()
    assert [row["id"] for row in rows] == [seen.ids[i] for i in seen.kept]
    for row, i in zip(rows, seen.kept, strict=True):
        assert row["text"] == seen.texts[i][:300]
        assert row["domain"] == seen.domains[i]
        expected = seen.quality[i]
        assert row["score.quality"] == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_embeddings_without_a_map_are_projected(tmp_path, commit_rows, indexed):
    rng = np.random.default_rng(0)
    ids = [f"x#{i}" for i in range(20)]
    vectors = rng.normal(size=(20, 5)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 5)
    documents = pa.RecordBatch.from_pydict({"doc_id": ids[:15], "text": ["t"] * 15, "domain": ["d"] * 15})
    commit_rows(tmp_path, "documents", {"documents": [documents]})
    commit_rows(
        tmp_path, "embedded", {"embeddings": [pa.RecordBatch.from_pydict({"doc_id": ids, "embedding": column})]}
    )
    corpus = Corpus(str(tmp_path))
    with indexed(corpus) as (_, index):
        points = points_of(corpus, index)
    assert points.of == "embedded, embeddings"
    assert points.table["id"].to_pylist() == ids
    x, y = project(unit_vectors(column)).T
    assert points.table["x"].to_numpy() == pytest.approx(x)
    assert points.table["y"].to_numpy() == pytest.approx(y)
    assert points.table["domain"].to_pylist() == ["d"] * 15 + [None] * 5


def test_vectors_of_what_was_made_are_told_apart_by_kind(tmp_path, commit_rows, indexed):
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(4, dtype=np.float32).ravel()), 4)
    made = pa.RecordBatch.from_pydict({"doc_id": ["m#0"], "text": ["t"]})
    kinds = ["seed", "accepted", "rejected", "rejected"]
    vectors = pa.RecordBatch.from_pydict({"id": ["s", "m#0", "r", "q"], "kind": kinds, "embedding": column})
    commit_rows(tmp_path, "generated", {"documents": [made], "vectors": [vectors]})
    corpus = Corpus(str(tmp_path))
    with indexed(corpus) as (_, index):
        shown = Map(points_of(corpus, index))
    assert shown.default == "group"
    values = shown.spec(shown.default, None)["data"]["values"]
    assert [value["colour"] for value in values] == kinds


def test_without_embeddings_there_is_no_map(tmp_path, commit_rows, indexed):
    rows = pa.RecordBatch.from_pydict({"doc_id": ["x"], "text": ["t"]})
    commit_rows(tmp_path, "documents", {"documents": [rows]})
    corpus = Corpus(str(tmp_path))
    with indexed(corpus) as (_, index):
        assert points_of(corpus, index) is None


def many(names):
    columns = {"id": [f"x#{n}" for n in range(len(names))], "domain": names, "text": [""] * len(names)}
    axis = pa.array(np.arange(len(names)), pa.float32())
    return Map(Points("s, map", pa.table({**columns, "x": axis, "y": axis})))


def test_the_most_frequent_names_have_a_colour_and_the_others_share_one():
    names = [f"d{n:02}" for n in range(COLOURS + 5) for _ in range(n + 1)] + [None]
    spec = many(names).spec("domain", None)
    domain = spec["encoding"]["color"]["scale"]["domain"]
    assert domain == [f"d{n:02}" for n in range(COLOURS + 4, 4, -1)] + ["(others)", "(none)"]
    shown = [value["colour"] for value in spec["data"]["values"]]
    assert shown == [name if name in domain else "(others)" if name else "(none)" for name in names]


def test_a_domain_alone_is_drawn(drawn, seen):
    shown = Map(drawn)
    values = shown.spec("group", "machines")["data"]["values"]
    assert [value["id"] for value in values] == [seen.ids[i] for i in seen.kept if seen.domains[i] == "machines"]
    assert len(values) == shown.domains["machines"]


def test_a_score_is_a_scale_and_what_is_unknown_is_the_domain(drawn):
    shown = Map(drawn)
    assert list(shown.colours) == ["domain", "group", "quality"]
    spec = shown.spec("quality", None)
    assert spec["encoding"]["color"]["type"] == "quantitative"
    assert [value["colour"] for value in spec["data"]["values"]] == drawn.table["score.quality"].to_pylist()
    assert shown.spec("nothing", None) == shown.spec("domain", None)


def test_names_and_texts_are_values_and_no_part_of_the_drawing(drawn, attack):
    spec = Map(drawn).spec("group", None)
    values = spec["data"].pop("values")
    scale = spec["encoding"]["color"].pop("scale")
    assert "owned" not in json.dumps(spec)
    assert any("<script>" in name for name in scale["domain"])
    assert any("owned" in value["text"] for value in values)
    assert "\x1b" not in json.dumps([{**value, "id": ""} for value in values], ensure_ascii=False)
