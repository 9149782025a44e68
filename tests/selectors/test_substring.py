"""Repeated passages: the guarantee, against comparing every run of words with every other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors import substring_kernels as kernels
from penstock.selectors.repeated import combine
from penstock.selectors.substring import RepeatedSubstrings


def column_of(documents):
    return pa.array([" ".join(words) for words in documents], pa.string())


def cut_words(documents, level):
    """For each document which of its words are cut; documents stand in the order of their ids, words are one letter."""
    ids = [f"d#{i:03d}" for i in range(len(documents))]
    text = column_of(documents)
    units = level.units(text)
    batch = pa.RecordBatch.from_arrays([pa.array(ids), text], ["doc_id", "text"])
    verdicts = {
        (r["key"], r["key2"]): (r["doc_id"], r["position"]) for r in level.judge(level.keyed(batch)).to_pylist()
    }
    verdict = np.full(len(units.row), -1)
    first = np.zeros(len(units.row), bool)
    for u, key in enumerate(zip(units.key.tolist(), units.key2.tolist(), strict=True)):
        if key in verdicts:
            verdict[u] = 0
            first[u] = verdicts[key] == (ids[units.row[u]], units.position[u])
    gone = [np.zeros(len(words), bool) for words in documents]
    for row, start, stop in zip(*level.cuts(text, verdict, first), strict=True):
        for w in range(len(documents[row])):
            if start <= 2 * w < stop:
                assert stop > 2 * w
                gone[row][w] = True
    return gone, units, verdict, first


def repeats(documents, length):
    """(document, first word) of every run of ``length`` words that stood before: in an earlier document, or earlier."""
    seen, out = {}, []
    for d, words in enumerate(documents):
        for w in range(len(words) - length + 1):
            run = tuple(words[w : w + length])
            if run in seen:
                out.append((d, w))
            else:
                seen[run] = (d, w)
    return out


@st.composite
def corpora(draw):
    """Documents over few letters, with passages copied between and inside them."""
    letters = draw(st.sampled_from(["a", "ab", "abcdefghijklmnopqrstuvwxyz"]))
    documents = draw(st.lists(st.lists(st.sampled_from(letters), max_size=40), min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 3))):
        source, target = (draw(st.integers(0, len(documents) - 1)) for _ in range(2))
        start, length, at = draw(st.integers(0, 30)), draw(st.integers(1, 25)), draw(st.integers(0, 40))
        documents[target][at:at] = documents[source][start : start + length]
    return documents


LEVELS = st.sampled_from([(8, 1), (8, 4), (9, 5), (12, 6), (12, 3)]).map(
    lambda pair: RepeatedSubstrings(min_words=pair[0], window=pair[1])
)


@settings(deadline=None, max_examples=120)
@given(corpora(), LEVELS)
@example([["a"] * 40], RepeatedSubstrings(min_words=8, window=4))
@example([list("abcdefghijkl"), list("xxabcdefghijklyy")], RepeatedSubstrings(min_words=12, window=6))
def test_every_repeat_of_min_words_is_cut_but_for_its_ends_and_for_firsts_of_others(documents, level):
    gone, units, verdict, first = cut_words(documents, level)
    size, window = level.size, level.window
    kept = [np.zeros(len(words), bool) for words in documents]
    for u in np.flatnonzero((verdict >= 0) & first):
        kept[units.row[u]][units.position[u] : units.position[u] + size] = True
    found = set(
        zip(units.row[(verdict >= 0) & ~first].tolist(), units.position[(verdict >= 0) & ~first].tolist(), strict=True)
    )
    for d, w in repeats(documents, level.min_words):
        # a fingerprint inside every repeated passage is a repeat itself
        inside = [(d, w + k) for k in range(level.min_words - size + 1)]
        assert any(place in found or kept[d][place[1] : place[1] + size].all() for place in inside)
    # maximal runs of repeated words: all but window - 1 at each end goes or is a first
    for d, words in enumerate(documents):
        starts = {w for e, w in repeats(documents, level.min_words) if e == d}
        for w in starts:
            if w - 1 in starts:
                continue
            last = w
            while last + 1 in starts:
                last += 1
            stop = last + level.min_words
            inner = range(w + window - 1, min(stop, len(words)) - (window - 1))
            assert all(gone[d][k] or kept[d][k] for k in inner)


@settings(deadline=None, max_examples=120)
@given(corpora(), LEVELS)
def test_every_word_cut_stands_in_a_run_that_stays_where_it_is_first(documents, level):
    gone, units, verdict, first = cut_words(documents, level)
    size = level.size
    runs = {}
    for u in np.flatnonzero((verdict >= 0) & first):
        row, word = int(units.row[u]), int(units.position[u])
        assert not gone[row][word : word + size].any(), "the first occurrence is cut"
        runs[tuple(documents[row][word : word + size])] = (row, word)
    assert len(runs) == int(((verdict >= 0) & first).sum()), "one first for each text"
    for d, words in enumerate(documents):
        for w in np.flatnonzero(gone[d]):
            around = range(max(0, w - size + 1), min(w, len(words) - size) + 1)
            assert any(runs.get(tuple(words[k : k + size]), (d, k)) < (d, k) for k in around)


@settings(deadline=None, max_examples=100)
@given(corpora(), st.integers(2, 9), st.integers(1, 6))
def test_each_window_of_runs_has_a_selected_one_and_the_selected_have_its_least_key(documents, size, window):
    from penstock.selectors.folded import folded_words

    words = folded_words(column_of(documents))
    every = kernels.selected(words.rows, words.hashes, size, 1)
    row, word, keys = kernels.selected(words.rows, words.hashes, size, window)
    key_of = {(r, w): k for r, w, k in zip(every[0].tolist(), every[1].tolist(), every[2][0].tolist(), strict=True)}
    chosen = set(zip(row.tolist(), word.tolist(), strict=True))
    assert len(chosen) == len(row)
    for place, key in zip(sorted(chosen), keys[0].tolist(), strict=True):
        assert key_of[place] == key
    for d, own in enumerate(documents):
        runs = len(own) - size + 1
        assert {w for e, w in key_of if e == d} == set(range(max(0, runs)))
        windows = [range(w, w + window) for w in range(runs - window + 1)] or ([range(runs)] if runs > 0 else [])
        picked = set()
        for span in windows:
            least = min(key_of[d, w] for w in span)
            here = {w for w in span if (d, w) in chosen and key_of[d, w] == least}
            assert here
            picked |= here
        assert picked == {w for e, w in chosen if e == d}


def test_equal_runs_have_equal_keys_and_others_do_not():
    from penstock.selectors.folded import folded_words

    words = folded_words(pa.array(["p A, b c q", "r a b! C s a c b"]))
    _, _, keys = kernels.selected(words.rows, words.hashes, 3, 1)
    pairs = list(zip(*keys.tolist(), strict=True))
    assert pairs[1] == pairs[4]  # a b c
    assert len(set(pairs)) == len(pairs) - 1


def test_copies_of_a_passage_are_cut_with_their_punctuation_and_one_space():
    passage = " ".join(f"p{i}" for i in range(12))
    level = RepeatedSubstrings(min_words=12, window=1)
    text = pa.array([f"one {passage} two", f"three {passage.upper()}! four", f"{passage}", f"x\n({passage}.)\ny"])
    units = level.units(text)
    batch = pa.RecordBatch.from_arrays([pa.array(list("abcd")), text], ["doc_id", "text"])
    (verdict,) = combine(level.judge(level.keyed(batch)).select(level.keyed(batch).column_names)).to_pylist()
    assert (verdict["doc_id"], verdict["count"]) == ("a", 4)
    found = np.where(units.key == verdict["key"], 0, -1)
    spans = list(zip(*level.cuts(text, found, units.row == 0), strict=True))
    left = []
    for row, start, stop in spans:
        whole = text[int(row)].as_py()
        left.append(whole[:start] + whole[stop:])
    assert left == ["three four", "", "x\n(\ny"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_words": 7}, "min_words: got 7, allowed 8 to 10000"),
        ({"window": 0}, "window: got 0, allowed 1 to half of min_words"),
        ({"min_words": 20, "window": 11}, r"window: got 11, allowed 1 to half of min_words \(10\)"),
    ],
)
def test_sizes_that_cannot_be_guaranteed_are_refused_in_words(options, message):
    with pytest.raises(ConfigError, match=message):
        RepeatedSubstrings(**options)
