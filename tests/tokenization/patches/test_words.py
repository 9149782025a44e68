"""Words of bytes: they tile a text, as a regular expression has them, and pooled rows give it back."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.tokenization.patches.words import PAD, pool, word_patches

TEXTS = st.lists(st.text(alphabet="ab é水 \t\n\u00a0", max_size=16), max_size=5)


def cut(texts):
    return word_patches([str(i) for i in range(len(texts))], pa.array(texts, pa.string()))


@settings(deadline=None)
@given(TEXTS)
def test_words_are_white_space_and_the_run_that_follows(texts):
    for text, lengths in zip(texts, cut(texts)["patch_lengths"].to_pylist(), strict=True):
        # leading space is part of the first word, trailing space a word of its own
        expected = re.findall(r"[ \t\n\v\f\r]*[^ \t\n\v\f\r]+|[ \t\n\v\f\r]+$", text)
        assert lengths == [len(word.encode()) for word in expected]


@settings(deadline=None)
@given(TEXTS, st.integers(1, 9))
def test_pooled_rows_give_the_texts_back(texts, width):
    batch = cut(texts)
    pooled = pool(batch, width)
    rebuilt = [b""] * len(texts)
    for row in range(len(pooled.lengths)):
        length = int(pooled.lengths[row])
        assert 1 <= length <= width
        assert (pooled.values[row, length:] == PAD).all()
        assert pooled.offset[row] == len(rebuilt[pooled.text[row]])
        rebuilt[pooled.text[row]] += bytes(pooled.values[row, :length].tolist())
    assert rebuilt == [text.encode() for text in texts]


def test_a_word_longer_than_the_width_takes_rows_of_one_word():
    pooled = pool(cut(["abcdefgh ij", "k"]), 3)
    assert pooled.text.tolist() == [0, 0, 0, 0, 1]
    assert pooled.word.tolist() == [0, 0, 0, 1, 0]
    assert pooled.lengths.tolist() == [3, 3, 2, 3, 1]
    assert pooled.offset.tolist() == [0, 3, 6, 8, 0]
    assert pooled.values.dtype == np.int16
    with pytest.raises(ConfigError, match="width: got 0"):
        pool(cut(["a"]), 0)
