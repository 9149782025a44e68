"""MinHash: which words make a shingle, signatures against two other libraries, and recall against the formula."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors import minhash_kernels as kernels
from penstock.selectors.minhash import MinHash, permutations

UNSPACED = {"漢", "字", "か", "な", "ก", "ข"}


def words_of(text):
    """Words, one character at a time; letters of UNSPACED are one each."""
    out, word = [], ""
    for c in text:
        inside = unicodedata.category(c)[0] in "LNM"
        if word and (not inside or c in UNSPACED):
            out.append(word)
            word = ""
        if inside:
            word += c.lower()[0]
    return [*out, word] if word else out


def hashes_of(texts, ngram):
    rows, hashes = kernels.shingles(pa.array(texts, pa.string()), ngram)
    return [hashes[a:b].tolist() for a, b in itertools.pairwise(rows)]


def band_list(work, texts):
    column = pa.array(texts, pa.string())
    return work.annotate(pa.RecordBatch.from_arrays([column], ["text"]))["bands"].to_pylist()


# ── shingles ─────────────────────────────────────────────────────────────────────────────────────

ALPHABET = "abAB1 .,-_'\n\u00e9\u00c9\u0301\u0130ß漢字かกข٣\u200b🙂"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=30), max_size=6), st.integers(1, 4))
@example(["a b", "a  B!", "ab", "a bc"], 2)
@example(["漢字", "漢 字", "x漢字y"], 2)
def test_two_runs_have_one_hash_exactly_where_their_words_are_the_same(texts, ngram):
    expected = []
    for text in texts:
        words = words_of(text)
        expected.append([tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)])
    found = hashes_of(texts, ngram)
    assert [len(f) for f in found] == [len(e) for e in expected]
    pairs = {(h, run) for f, e in zip(found, expected, strict=True) for h, run in zip(f, e, strict=True)}
    assert len(pairs) == len({h for h, _ in pairs}) == len({run for _, run in pairs})


def test_case_and_punctuation_make_no_difference_and_digits_and_accents_do():
    one, *rest = hashes_of(
        ["It's 12 caf\u00e9s, open!", "it S 12 CAF\u00c9S open", "it s 13 cafés open", "it s 12 cafes open"], 2
    )
    assert rest[0] == one
    assert [a == b for a, b in zip(one, rest[1], strict=True)] == [True, False, False, True]
    assert [a == b for a, b in zip(one, rest[2], strict=True)] == [True, True, False, False]


def test_every_letter_of_a_script_without_spaces_is_a_word_and_its_marks_stay_with_it():
    assert len(hashes_of(["漢字かな交じり文"], 3)[0]) == 6
    assert len(hashes_of(["ที่นี่"], 1)[0]) == 2  # two consonants, each with its vowel and tone marks
    assert len(hashes_of(["한국어 문장"], 1)[0]) == 2  # Hangul is written with spaces


def test_the_order_of_words_counts_and_their_place_does_not():
    first, swapped, later = hashes_of(["a b c", "b a c", "x y a b c"], 3)
    assert first != swapped
    assert later[-1] == first[0]


def test_words_are_not_run_together():
    assert len({h for (h,) in hashes_of(["ab c", "a bc", "abc d", "a b"], 2)}) == 4


def test_a_run_that_leaves_the_window_leaves_the_hash():
    long = " ".join(f"w{i}" for i in range(1000)) + " a b c d e"
    assert hashes_of([long], 5)[0][-1] == hashes_of(["a b c d e"], 5)[0][0]
    assert len(set(hashes_of([long], 5)[0])) == 1001


def test_null_and_empty_rows_and_slices_have_the_shingles_of_their_own_text():
    column = pa.array(["x y z", None, "", "a b c", "q"], pa.string())
    rows, hashes = kernels.shingles(column.slice(1, 4), 2)
    assert rows.tolist() == [0, 0, 0, 2, 2]
    assert hashes.tolist() == hashes_of(["a b c"], 2)[0]
    assert kernels.shingles(pa.array([], pa.string()), 2)[0].tolist() == [0]


# ── signatures ───────────────────────────────────────────────────────────────────────────────────


def of_sets(sets, a, b):
    rows = np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(np.int64)
    return kernels.signatures(rows, np.concatenate(sets).astype(np.uint32), a, b)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 100])
def test_a_signature_is_the_least_value_of_each_permutation(size):
    rng = stream(size, "signature")
    hashes = rng.integers(0, 2**32, size, np.uint32)
    a, b = permutations(21, 3)
    with np.errstate(over="ignore"):
        expected = ((a * hashes[:, None].astype(np.uint64) + b) >> np.uint64(32)).min(axis=0)
    assert of_sets([hashes], a, b).tolist() == [expected.tolist()]


def test_a_row_without_shingles_has_the_greatest_value_everywhere_and_harms_no_neighbour():
    a, b = permutations(5, 1)
    some = np.array([3, 4], np.uint32)
    found = of_sets([some, some[:0], some], a, b)
    assert (found[1] == 2**32 - 1).all()
    assert found[0].tolist() == found[2].tolist() != found[1].tolist()


def planted(pairs, shared, own, rng):
    """Pairs of sets of ``shared`` + ``own`` hashes; J = shared / (shared + 2 own)."""
    out = []
    for _ in range(pairs):
        h = rng.choice(2**32, shared + 2 * own, replace=False).astype(np.uint32)
        out += [h[: shared + own], np.concatenate([h[:shared], h[shared + own :]])]
    return out


def estimates(sets, sketch):
    """Similarity of neighbours by the share of permutations in which ``sketch(sets)`` agrees."""
    found = sketch(sets)
    return (found[::2] == found[1::2]).mean(axis=1)


def by_rensa(sets):
    from rensa import RMinHash

    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(np.uint64)
    hashes = np.concatenate(sets).astype(np.uint64)
    return np.array(RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, 112, 42).to_rows())


def by_datasketch(sets):
    from datasketch import MinHash as Theirs

    sketches = [Theirs(num_perm=112, seed=1, hashfunc=int) for _ in sets]
    for sketch, values in zip(sketches, sets, strict=True):
        sketch.update_batch(values.tolist())
    return np.array([sketch.hashvalues for sketch in sketches])


# rensa 0.5 draws permutations that lean against each other: a smaller spread than independent ones have
@pytest.mark.parametrize(("library", "least"), [(None, 0.88), (by_rensa, 0.75), (by_datasketch, 0.88)])
def test_the_estimate_has_no_bias_and_the_spread_of_independent_permutations_as_two_libraries_have(library, least):
    pairs, exact = 400, 317 / 499
    sets = planted(pairs, 317, 91, stream(1, "bias"))
    found = estimates(sets, library or (lambda some: of_sets(some, *permutations(112, 1))))
    spread = (exact * (1 - exact) / 112) ** 0.5
    assert abs(found.mean() - exact) < 3 * spread / pairs**0.5
    assert least < found.std() / spread < 1.12


# ── bands ────────────────────────────────────────────────────────────────────────────────────────


def test_a_band_s_key_is_that_of_its_rows_and_its_number():
    same = np.array([[1, 2, 1, 2], [1, 2, 9, 9], [2, 1, 1, 2]], np.uint32)
    keys = kernels.band_keys(same, 2)
    assert keys[0, 0] == keys[1, 0]
    assert keys[0, 1] == keys[2, 1]
    assert len({int(k) for k in keys.ravel()}) == 4  # 12 | 12, 99 | 21: the number of the band counts, as does order


def text_pair(shared, own, rng):
    """Two texts of ``shared`` common runs of five words and ``own`` more in each."""
    words = [f"w{int(i)}" for i in rng.integers(0, 10**9, shared + 4 + 2 * own)]
    start = words[: shared + 4]
    return " ".join(start + words[shared + 4 : shared + 4 + own]), " ".join(start + words[shared + 4 + own :])


@pytest.mark.parametrize(
    ("shared", "own"), [(100, 50), (140, 30), (160, 20), (180, 10), (190, 5)], ids=["0.5", "0.7", "0.8", "0.9", "0.95"]
)
def test_texts_of_a_known_similarity_share_a_band_as_often_as_the_formula_says(shared, own):
    work, pairs, rng = MinHash(), 600, stream(shared, "recall")
    texts = [text for _ in range(pairs) for text in text_pair(shared, own, rng)]
    keys, long = work.keys(pa.array(texts))
    assert long.all()
    hits = (keys[::2] == keys[1::2]).any(axis=1).mean()
    expected = work.probability(shared / (shared + 2 * own))
    assert abs(hits - expected) <= 3 * (expected * (1 - expected) / pairs) ** 0.5 + 1 / pairs


def test_the_formula_is_that_of_fourteen_bands_of_eight():
    assert MinHash().probability(0.8) == pytest.approx(0.9236, abs=1e-4)
    assert MinHash(bands=20, rows=5).probability(0.5) == pytest.approx(1 - (1 - 0.5**5) ** 20)


def test_texts_with_too_few_runs_have_no_keys():
    nine, eight = "a b c d e f g h i", "a b c d e f g h"
    found = band_list(MinHash(), [nine, eight, "", None])
    assert [f is not None and len(f) for f in found] == [14, False, False, False]
    assert band_list(MinHash(min_shingles=4), [eight])[0] is not None


def test_a_thousand_different_texts_of_three_words_have_no_key():
    assert band_list(MinHash(), [f"word{i} and more" for i in range(1000)]) == [None] * 1000


def test_keys_of_a_slice_are_those_of_its_rows():
    texts = [" ".join(f"w{i * j}" for j in range(20)) for i in range(1, 9)] + [None]
    batch = pa.RecordBatch.from_arrays([pa.array(texts)], ["text"])
    whole, part = MinHash().annotate(batch)["bands"], MinHash().annotate(batch.slice(3, 4))["bands"]
    assert part.equals(whole.slice(3, 4))
    assert whole.type == pa.list_(pa.uint64())


def test_another_seed_draws_other_permutations_and_all_factors_are_odd():
    text = ["a b c d e f g h i j k"]
    assert band_list(MinHash(seed=1), text) != band_list(MinHash(seed=2), text)
    assert band_list(MinHash(seed=1), text) == band_list(MinHash(seed=1), text)
    a, b = permutations(64, 1)
    assert (a % 2 == 1).all()
    assert len(set(a.tolist()) | set(b.tolist())) == 128


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ngram": 0}, "ngram: got 0, allowed 1 to 64"),
        ({"bands": 257, "rows": 1}, "bands: got 257, allowed 1 to 256"),
        ({"rows": 0}, "rows: got 0, allowed 1 to 128"),
        ({"min_shingles": 0}, "min_shingles: got 0, allowed 1"),
        ({"bands": 103, "rows": 10}, "bands × rows: got 1030 permutations, allowed 1024"),
    ],
)
def test_sizes_that_make_no_signature_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        MinHash(**wrong)
