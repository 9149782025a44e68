"""N-gram perplexity: proper probabilities, Kneser-Ney by hand, counts that merge in any order."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.scorers import perplexity, perplexity_kernels
from penstock.selectors.scorers.perplexity import BITS, NgramCounts, PerplexityModel, PerplexityScore, kneser_ney

TEXT = "the water of the river turns the wheel of the mill and the miller sings of the water. " * 60


def rows(*texts, split="train"):
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string()), "split": [split] * len(texts)})


def fitted(model, folder, *texts):
    return model.fit(model.summarise(rows(*texts)), str(folder))


def score(work, *texts):
    return work.annotate(rows(*texts))["score.perplexity"].to_pylist()


def table_of(work):
    slots, logp, backoff, facts = perplexity._model(work.path, work.digest)
    return slots, logp, backoff, facts["order"], BITS[facts["unit"]]


def log_probability(work, key):
    slots, logp, backoff, order, bits = table_of(work)
    return perplexity_kernels.log_probability(np.uint64(key), order, bits, slots, logp, backoff)


# ── probabilities ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", [2, 3, 5, 7])
def test_probabilities_of_the_next_byte_sum_to_one_after_any_context(tmp_path, order):
    work = fitted(PerplexityModel(order=order), tmp_path, TEXT, "quite another text")
    for context in (b"the wat", b"zzzzzzz", b"\n\n\n\n\n\n\n", b"he mill", b"\x00\xff\x80abcd", b"xxxxthe"):
        key = int.from_bytes(context[len(context) - order + 1 :], "big") << 8
        total = sum(math.exp(log_probability(work, key | byte)) for byte in range(256))
        assert total == pytest.approx(1.0, abs=1e-6), context


def test_probabilities_of_the_next_word_sum_to_one_after_any_context(tmp_path):
    work = fitted(PerplexityModel(unit="word"), tmp_path, TEXT)
    seen = np.unique(PerplexityModel(unit="word").summarise(rows(TEXT)).keys >> np.uint64(18))[:2].tolist()
    for context in (*seen, 0, 12345):
        total = sum(math.exp(log_probability(work, context << 18 | word)) for word in range(1 << 18))
        assert total == pytest.approx(1.0, abs=1e-5)


def naive(counts, order, vocabulary):
    """Interpolated Kneser-Ney by its formula, over tuples: P(last | before) of an n-gram of ``order`` symbols."""
    levels = {order: counts}
    for length in range(order - 1, 0, -1):
        shorter = defaultdict(set)
        for gram in levels[length + 1]:
            shorter[gram[1:]].add(gram[0])
        levels[length] = {gram: len(before) for gram, before in shorter.items()}
    discounts = {}
    for length, level in levels.items():
        once, twice = (sum(c == n for c in level.values()) for n in (1, 2))
        discounts[length] = min(max(once / (once + 2 * twice), 0.1), 0.95) if once and twice else 0.75

    def p(gram):
        if not gram:
            return 1.0 / vocabulary
        level, below = levels[len(gram)], p(gram[1:])
        after = {g: c for g, c in level.items() if g[:-1] == gram[:-1]}
        if not after:
            return below
        d = discounts[len(gram)]
        return (max(level.get(gram, 0) - d, 0) + d * len(after) * below) / sum(after.values())

    return p


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60), st.integers(0, 63))
def test_the_table_is_kneser_ney_by_its_formula(grams, asked):
    counts = Counter(grams)
    keys = np.array(sorted(a << 4 | b << 2 | c for a, b, c in counts), np.uint64)
    count = np.array([counts[(int(k) >> 4, int(k) >> 2 & 3, int(k) & 3)] for k in keys], np.int64)
    every, logp, backoff, _ = kneser_ney(keys, count, 3, 2)
    slots = perplexity_kernels.table(every, logp, backoff)
    found = perplexity_kernels.log_probability(np.uint64(asked), 3, 2, *slots)
    assert math.exp(found) == pytest.approx(naive(counts, 3, 4)((asked >> 4, asked >> 2 & 3, asked & 3)), rel=1e-5)


def test_perplexity_is_that_of_the_probabilities_of_all_symbols(tmp_path):
    work = fitted(PerplexityModel(order=3), tmp_path, TEXT)
    text = "the will"
    padded = b"\n\n" + text.encode()
    logs = [log_probability(work, int.from_bytes(padded[i : i + 3], "big")) for i in range(len(text))]
    assert score(work, text)[0] == pytest.approx(math.exp(-sum(logs) / len(text)), abs=1e-4)


# ── what it measures ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("unit", ["byte", "word"])
def test_text_like_the_reference_is_less_perplexing_than_shuffled_and_foreign_text(tmp_path, unit):
    words = TEXT.split()
    rng = np.random.default_rng(0)
    work = fitted(PerplexityModel(unit=unit), tmp_path, TEXT)
    like = "the river turns the wheel of the mill and the water of the river sings"
    shuffled = " ".join(rng.permutation(like.split()))
    foreign = "Zyklon qwertz %% 42 xylophon jjj kkk"
    close, mixed, far = score(work, like, shuffled, foreign)
    assert close < mixed < far
    assert close >= 1.0
    assert far <= 2 ** BITS[unit] * 4
    assert len(words) > 100


def test_a_text_without_a_symbol_has_no_score(tmp_path):
    assert score(fitted(PerplexityModel(), tmp_path, TEXT), "", None, "a")[:2] == [None, None]
    assert score(fitted(PerplexityModel(unit="word"), tmp_path, TEXT), "", " \t ", "a")[:2] == [None, None]


def test_only_the_prefix_counts_in_training_and_in_scoring(tmp_path):
    model = PerplexityModel(prefix_bytes=1200)
    assert model.summarise(rows(TEXT[:1200] + "zzz")).to_table().equals(model.summarise(rows(TEXT[:1200])).to_table())
    work = fitted(model, tmp_path, TEXT)
    assert score(work, "water " * 200 + "zzz" * 900) == score(work, "water " * 200)


def test_held_out_rows_are_not_counted():
    model = PerplexityModel()
    assert model.summarise(rows(TEXT, split="validation")).counts.sum() == 0
    mixed = pa.concat_batches([rows(TEXT), rows("secret", split="test")])
    assert model.summarise(mixed).to_table().equals(model.summarise(rows(TEXT)).to_table())


# ── counts ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("unit", ["byte", "word"])
def test_counts_merge_in_any_order_to_equal_bytes_and_the_same_model(tmp_path, unit):
    model = PerplexityModel(unit=unit)
    texts = [TEXT[i * 37 : i * 37 + 400] for i in range(12)]
    whole = model.summarise(rows(*texts))
    parts = [model.summarise(rows(*texts[i : i + 3])) for i in range(0, 12, 3)]
    for order in ((3, 1, 0, 2), (2, 3, 1, 0)):
        merged = NgramCounts.from_table(parts[order[0]].to_table())
        for place in order[1:]:
            merged = merged.merge(parts[place])
        assert merged.to_table().equals(whole.to_table())
        assert model.fit(merged, str(tmp_path / str(order[0]))).digest == model.fit(whole, str(tmp_path / "w")).digest


def test_counts_are_those_of_a_counter():
    found = PerplexityModel(order=2).summarise(rows("abab", "ba"))
    wanted = Counter(a << 8 | b for text in (b"\nabab", b"\nba") for a, b in itertools.pairwise(text))
    assert dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True)) == wanted


def test_large_batches_are_counted_in_blocks(monkeypatch):
    model = PerplexityModel()
    batch = rows(*[TEXT[i : i + 300] for i in range(40)])
    whole = model.summarise(batch).to_table()
    monkeypatch.setattr(perplexity, "_BLOCK", 700)
    assert model.summarise(batch).to_table().equals(whole)


def test_counts_of_other_n_grams_do_not_merge():
    with pytest.raises(DatasetError, match="cannot be added"):
        PerplexityModel(order=3).summarise(rows("a")).merge(PerplexityModel(order=4).summarise(rows("a")))
    with pytest.raises(DatasetError, match="no 'ngrams' metadata"):
        NgramCounts.from_table(pa.table({"key": [1], "count": [1]}))


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


def test_a_reference_without_text_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"perplexity reference: got 5 bytes .*allowed >= 1000; name"):
        fitted(PerplexityModel(), tmp_path, "short")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unit": "token"}, "perplexity unit: got 'token', allowed byte or word"),
        ({"order": 1}, "perplexity order: got 1, allowed 2 to 7 for unit byte"),
        ({"order": 8}, "allowed 2 to 7"),
        ({"unit": "word", "order": 4}, "allowed 2 to 3 for unit word"),
        ({"prefix_bytes": 0}, "perplexity prefix_bytes: got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        PerplexityModel(**given)


def test_the_fit_says_what_it_found_and_a_changed_file_is_refused(tmp_path):
    work = fitted(PerplexityModel(order=3), tmp_path, TEXT)
    facts = work.facts()
    assert facts["symbols"] == len(TEXT)
    assert len(facts["ngrams"]) == len(facts["discounts"]) == 3
    assert all(0.1 <= d <= 0.95 for d in facts["discounts"])
    with pytest.raises(DatasetError, match="expected"):
        PerplexityScore(path=work.path, digest="0" * 64).setup()
