"""The byte language model against counting by hand: probabilities, entropies, and nothing that crosses a text."""

import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.patches.byte_lm import ByteLM, bytes_of, entropies, train_byte_lm

TEXTS = ["the gate lets water in\nthe gate lets it out", "water turns the wheel", "Räder drehen sich"]


def counted(texts, order):
    """Followers of every context, counted one after another."""
    found = defaultdict(Counter)
    for text in texts:
        for i, byte in enumerate(text):
            for k in range(min(order, i) + 1):
                found[text[i - k : i]][byte] += 1
    return found


def witten_bell(found, context, byte, order):
    """Exact probability by the recursion itself."""
    context = context[-order:]
    if not context:
        base = found[b""]
        return Fraction(base[byte] + 1, sum(base.values()) + 256)
    shorter = witten_bell(found, context[1:], byte, order)
    followers = found.get(context)
    if not followers:
        return shorter
    kinds, times = len(followers), sum(followers.values())
    return (followers[byte] + kinds * shorter) / (times + kinds)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(max_size=24), min_size=1, max_size=5).filter(any),
    st.integers(1, 7),
    st.binary(max_size=9),
)
def test_probabilities_are_those_of_the_recursion(texts, order, context):
    # contexts of the texts themselves too: a random one is seldom met
    found = counted(texts, order)
    model = train_byte_lm(texts, order)
    for one in (context, texts[0][:5], texts[-1]):
        given_ = model.probabilities(one)
        # a context that never occurred ends the longer ones too: none of them can have
        expected = [float(witten_bell(found, one, byte, order)) for byte in range(256)]
        assert np.abs(given_ - expected).max() < 1e-6
        assert 1 - 1e-6 < given_.sum() <= 1


def test_entropies_are_those_of_the_probabilities_before_each_byte():
    model = train_byte_lm(TEXTS, 3)
    text = "the wheel"
    nats = entropies(model, pa.array(["x", text]))[1:]
    for i, found in enumerate(nats):
        p = model.probabilities(text.encode()[:i])
        assert found == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-4)
    assert nats[0] > nats[3] > 0  # without context anything may come


def test_entropies_of_a_text_do_not_depend_on_its_neighbours_or_on_what_follows():
    model = train_byte_lm(TEXTS, 4)
    alone = entropies(model, pa.array(["water in"]))
    beside = entropies(model, pa.array(["noise", "water in the wheel", "more"]))
    assert np.array_equal(beside[5 : 5 + len(alone)], alone)


def test_a_reset_at_newline_predicts_each_line_from_itself():
    model = train_byte_lm(TEXTS, 4)
    lines = "the gate\nwater turns\n"
    whole = entropies(model, pa.array([lines]), reset_at_newline=True)
    each = entropies(model, pa.array(lines.splitlines(keepends=True)))
    assert np.array_equal(whole, each)
    assert not np.array_equal(whole, entropies(model, pa.array([lines])))


def test_a_model_is_saved_and_loaded_as_it_was(tmp_path):
    model = train_byte_lm(TEXTS, 3)
    path, digest = model.save(str(tmp_path))
    again = ByteLM.load(path, digest)
    assert again.order == 3
    assert np.array_equal(again.probabilities(b"the "), model.probabilities(b"the "))
    assert model.save(str(tmp_path / "again"))[1] == digest
    with pytest.raises(DatasetError):
        ByteLM.load(path, "0" * 64)


def test_training_learns_something():
    model = train_byte_lm(TEXTS * 20, 4)
    assert model.probabilities(b"the ga")[ord("t")] > 0.9
    assert model.trained_bytes == 20 * sum(len(text.encode()) for text in TEXTS)
    assert float(entropies(model, pa.array(["the gate"]))[-1]) < math.log(256) / 4


def test_what_is_no_text_or_no_order_is_refused():
    with pytest.raises(ConfigError, match="order: got 8"):
        train_byte_lm(["a"], 8)
    for nothing in ([], ["", b""]):
        with pytest.raises(DatasetError, match="got 0 bytes"):
            train_byte_lm(nothing)
    with pytest.raises(DatasetError, match="1 null"):
        bytes_of(pa.array(["a", None]))


def test_bytes_of_a_slice_are_its_own():
    data, bounds = bytes_of(pa.array(["aa", "b", "", "cé"]).slice(1))
    assert data.tobytes() == "bcé".encode()
    assert bounds.tolist() == [0, 1, 1, 4]
    data, bounds = bytes_of(pa.array([], pa.string()))
    assert data.size == 0
    assert bounds.tolist() == [0]
