"""Vectors as a column, and the row work that makes them. Run: pytest tests/embedding/test_base.py"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.embedding.base import Embed, embedding_array, normalised, unit_vectors
from penstock.errors import ConfigError, InputError


@dataclass(frozen=True, kw_only=True)
class Letters:
    """Embedder: how often a text holds a, b and c; keeps what it was asked."""

    dimensions: int = 3
    asked = []

    def setup(self):
        self.asked.append("setup")

    def embed(self, texts):
        self.asked.append(list(texts))
        return normalised(np.array([[text.count(c) for c in "abc"] for text in texts], dtype=float))


def rows(*texts):
    return pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], ["text"])


def test_the_vector_is_that_of_the_beginning_in_characters():
    vectors = unit_vectors(Embed(embedder=Letters(), characters=3).annotate(rows("éaabbb", "aab", "c"))["embedding"])
    assert vectors == pytest.approx(np.array([[1, 0, 0], [0.8944, 0.4472, 0], [0, 0, 1]]), abs=1e-3)


def test_a_text_without_anything_to_embed_is_the_zero_vector_and_reaches_no_embedder():
    Letters.asked.clear()
    out = Embed(embedder=Letters(), characters=4).annotate(rows("", None, " \n\t\u2003", "     abc", "xyz", "b"))
    assert Letters.asked == [["xyz", "b"]]
    assert unit_vectors(out["embedding"]).tolist() == [[0, 0, 0]] * 5 + [[0, 1, 0]]


def test_a_batch_without_a_text_asks_for_nothing():
    Letters.asked.clear()
    out = Embed(embedder=Letters()).annotate(rows("", " "))["embedding"]
    assert (len(out), out.type, Letters.asked) == (2, pa.list_(pa.float16(), 3), [])
    assert Embed(embedder=Letters()).annotate(rows())["embedding"].type == pa.list_(pa.float16(), 3)


def test_setup_loads_the_embedder():
    Letters.asked.clear()
    Embed(embedder=Letters()).setup()
    assert Letters.asked == ["setup"]


def test_fewer_than_one_character_is_refused():
    with pytest.raises(ConfigError, match=r"embed\.characters: got 0, allowed >= 1"):
        Embed(embedder=Letters(), characters=0)


def test_rows_have_length_one_or_zero_whatever_their_scale():
    given = np.array([[3.0, 4.0], [0, 0], [1e-30, 0], [1e200, 1e200], [np.nan, 1], [np.inf, 1], [-2, 0]])
    out = normalised(given)
    assert out.dtype == np.float32
    # the square of 1e200 is beyond float64
    assert out == pytest.approx(np.array([[0.6, 0.8], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [-1, 0]]))


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 40), st.integers(1, 9)), elements=st.floats(-5, 5)))
def test_what_is_stored_reads_back_to_half_precision(raw):
    vectors = normalised(raw)
    again = unit_vectors(embedding_array(vectors))
    assert again.shape == vectors.shape
    assert again == pytest.approx(vectors, abs=1e-3)
    lengths = np.linalg.norm(again, axis=1)
    assert ((lengths == 0) | (abs(lengths - 1) < 1e-6)).all()
    assert ((lengths == 0) == (np.linalg.norm(vectors, axis=1) == 0)).all()


def test_a_slice_is_read_where_it_lies():
    vectors = normalised(np.random.default_rng(0).normal(size=(9, 4)))
    column = embedding_array(vectors)
    assert unit_vectors(column[3:7]) == pytest.approx(vectors[3:7], abs=1e-3)
    assert unit_vectors(pa.chunked_array([column[:2], column[5:]])) == pytest.approx(
        vectors[[0, 1, 5, 6, 7, 8]], abs=1e-3
    )


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1.0], [2.0]]),
        pa.array([[1], [2]], pa.list_(pa.int32(), 1)),
        pa.array([[1.0], None], pa.list_(pa.float32(), 1)),
        pa.array(["a"]),
    ],
    ids=["lists", "integers", "a null", "text"],
)
def test_a_column_that_is_none_of_vectors_is_refused(column):
    with pytest.raises(InputError, match="allowed a fixed-size list of float16, float32 or float64 without nulls"):
        unit_vectors(column)
