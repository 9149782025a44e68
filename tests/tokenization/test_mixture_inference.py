"""Mixtures from merges: known ones are recovered, lazy constraints end where all of them do, units are kept apart."""

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import linprog

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization import mixture_inference
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.loading import of_bytes
from penstock.tokenization.mixture_inference import categories_of, infer_mixture


def language(first, seed, count=500):
    """Sentences of made-up words over 14 letters from ``first`` on."""
    rng = np.random.default_rng(seed)
    letters = [chr(ord(first) + i) for i in range(14)]
    odds = rng.dirichlet(np.full(14, 0.7))
    words = ["".join(rng.choice(letters, size=rng.integers(2, 8), p=odds)) for _ in range(600)]
    ranks = 1 / np.arange(1, 601)
    return [" ".join(words[i] for i in row) for row in rng.choice(600, size=(count, 12), p=ranks / ranks.sum())]


@pytest.fixture(scope="module")
def texts():
    return {"one": language("a", 0), "two": language("g", 1), "three": language("α", 2)}


def trained(texts, shares, merges=200):
    """A tokenizer of the first halves in shares of bytes, and the second halves."""
    total = min(sum(len(t.encode()) for t in texts[n][:250]) / s for n, s in shares.items() if s)
    corpus = []
    for name, share in shares.items():
        held = 0
        for text in texts[name][:250]:
            if held >= total * share:
                break
            corpus.append(text)
            held += len(text.encode())
    content = train_bpe(corpus, BPEConfig(vocabulary_size=258 + merges))
    return of_bytes(content, "trained"), {name: some[250:] for name, some in texts.items()}


@pytest.mark.parametrize(
    "shares",
    [
        {"one": 0.6, "two": 0.3, "three": 0.1},
        {"one": 0.1, "two": 0.1, "three": 0.8},
        {"one": 1 / 3, "two": 1 / 3, "three": 1 / 3},
    ],
)
def test_a_known_mixture_is_recovered_within_two_points(texts, shares):
    found = infer_mixture(*trained(texts, shares), merges=200)
    errors = [abs(found.in_bytes[name] - share) for name, share in shares.items()]
    assert np.mean(errors) <= 0.02
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.explained == 200


def test_a_category_that_was_not_trained_on_gets_next_to_nothing(texts):
    found = infer_mixture(*trained(texts, {"one": 0.5, "three": 0.5}), merges=150)
    assert found.in_bytes["two"] < 0.02


def test_the_slack_tells_that_a_category_is_missing(texts):
    tokenizer, other = trained(texts, {"one": 0.4, "two": 0.2, "three": 0.4})
    whole = infer_mixture(tokenizer, other, merges=100)
    lacking = infer_mixture(tokenizer, {name: other[name] for name in ("one", "two")}, merges=100)
    assert lacking.unseen > whole.unseen == 0  # merges of letters that are nowhere
    mistaken = infer_mixture(tokenizer, {"two": other["two"], "three": other["three"]}, merges=100)
    assert mistaken.objective_per_merge > 3 * whole.objective_per_merge


def test_lazy_constraints_end_where_all_of_them_do(texts):
    tokenizer, other = trained(texts, {"one": 0.5, "two": 0.3, "three": 0.2}, merges=50)
    small = {name: some[:40] for name, some in other.items()}
    lazy = infer_mixture(tokenizer, small, merges=50)
    shares, objective = by_all_constraints(tokenizer, small, 50)
    assert lazy.objective == pytest.approx(objective, rel=1e-4, abs=1e-9)
    assert list(lazy.shares.values()) == pytest.approx(shares, abs=0.01)  # optima may be more than one


def by_all_constraints(tokenizer, texts, steps):
    """The program over every pair at every step, counted anew each time."""
    words = [{tuple(piece): held for piece, held in pieces(tokenizer, some).items()} for some in texts.values()]
    sizes = np.array([sum(n * (len(word) - 1) for word, n in of.items()) for of in words], float)
    rows, of_step, of_pair, number = [], [], [], {}
    for step, merge in enumerate(tokenizer.merges()[:steps]):
        counts = [pair_counts(of) for of in words]
        mine = np.array([count.get(merge, 0) for count in counts]) / sizes
        for pair in sorted(set().union(*counts) - {merge}):
            rows.append(np.array([count.get(pair, 0) for count in counts]) / sizes - mine)
            of_step.append(step)
            of_pair.append(number.setdefault(pair, len(number)))
        words = [{merged(word, merge): n for word, n in of.items()} for of in words]
    n, less = len(texts), np.array(rows)
    matrix = np.zeros((len(rows), n + steps + len(number)))
    matrix[:, :n] = 1e4 * less
    matrix[np.arange(len(rows)), n + np.array(of_step)] = -1
    matrix[np.arange(len(rows)), n + steps + np.array(of_pair)] = -1
    keep = (less > 0).any(axis=1)  # the others hold whatever the mixture is
    solved = linprog(
        np.r_[np.zeros(n), np.ones(matrix.shape[1] - n)],
        A_ub=matrix[keep],
        b_ub=np.zeros(keep.sum()),
        A_eq=np.r_[np.ones(n), np.zeros(matrix.shape[1] - n)][None],
        b_eq=[1],
    )
    return solved.x[:n], solved.fun / 1e4


def pieces(tokenizer, texts):
    held = {}
    for text in texts:
        for piece, _ in tokenizer.tokenizer.pre_tokenizer.pre_tokenize_str(text):
            held[piece] = held.get(piece, 0) + 1
    return held


def pair_counts(words):
    counts = {}
    for word, n in words.items():
        for pair in pairwise(word):
            counts[pair] = counts.get(pair, 0) + n
    return counts


def merged(word, pair):
    out, at = [], 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            out.append(word[at] + word[at + 1])
            at += 2
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


def test_shares_of_pairs_and_bytes_differ_as_the_categories_do(texts):
    # Greek letters take two bytes and their pairs lie inside letters too, Latin words one byte a symbol
    tokenizer, other = trained(texts, {"one": 0.5, "two": 0.2, "three": 0.3})
    by_pairs = infer_mixture(tokenizer, other, merges=150, unit="pairs")
    by_bytes = infer_mixture(tokenizer, other, merges=150, unit="bytes")
    assert by_pairs.shares == by_pairs.in_pairs
    assert by_bytes.shares == by_bytes.in_bytes
    assert list(by_pairs.in_bytes.values()) == pytest.approx(list(by_bytes.in_bytes.values()), abs=0.01)
    assert by_pairs.in_pairs != pytest.approx(by_pairs.in_bytes, abs=1e-4)


def test_sizes_of_the_samples_do_not_matter(texts):
    tokenizer, other = trained(texts, {"one": 0.6, "two": 0.3, "three": 0.1})
    found = infer_mixture(tokenizer, {**other, "one": other["one"] * 3}, merges=100)
    again = infer_mixture(tokenizer, other, merges=100)
    assert list(found.shares.values()) == pytest.approx(list(again.shares.values()), abs=1e-6)


def converted(merges, letters):
    tokens = ["<unk>", "▁", *letters]
    tokens += [t for t in dict.fromkeys(a + b for a, b in merges) if t not in tokens]
    none = {key: None for key in ("pre_tokenizer", "post_processor", "decoder")}
    state = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        **none,
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }
    return of_bytes(json.dumps(state).encode(), "converted")


def test_merges_over_characters_that_make_a_token_again_are_passed_over():
    # ab first, then abc as a+bc (which has nothing left to merge) and ab+c; "é" has no token, so words end there
    tokenizer = converted([["a", "b"], ["a", "bc"], ["ab", "c"], ["z", "z"], ["▁", "abc"]], ["bc", *"abcz"])
    found = infer_mixture(tokenizer, {"x": ["abc abc abéab"], "y": ["bc bc ab ca"]}, merges=10)
    assert found.unseen == 2  # a + bc before abc was made, and zz
    assert found.redundant == 0
    assert found.explained == 3
    tokenizer = converted([["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"], ["c", "a"]], "abcz")
    found = infer_mixture(tokenizer, {"x": ["abc abc ca"], "y": ["bc bc ca"]}, merges=10)
    assert (found.explained, found.redundant, found.unseen) == (4, 1, 0)


def test_the_rest_of_the_texts_is_a_category_of_its_own():
    texts = {"a": ["1"], "b": ["2"], "c": ["3"], "other": ["4"]}
    assert categories_of(texts, ()) == texts
    assert categories_of(texts, ("b",)) == {"b": ["2"], "other": ["1", "3", "4"]}
    assert categories_of({"a": ["1"], "b": ["2"]}, ("b", "a")) == {"b": ["2"], "a": ["1"]}
    with pytest.raises(ConfigError, match="category d: no such texts"):
        categories_of(texts, ("d",))


def test_what_cannot_be_inferred_is_refused(texts, monkeypatch):
    tokenizer, other = trained(texts, {"one": 1.0}, merges=20)
    with pytest.raises(ConfigError, match="allowed two or more"):
        infer_mixture(tokenizer, {"one": other["one"]})
    with pytest.raises(ConfigError, match="merges: got 0"):
        infer_mixture(tokenizer, other, merges=0)
    with pytest.raises(ConfigError, match="unit: got 'tokens'"):
        infer_mixture(tokenizer, other, unit="tokens")
    for empty in ([], [""]):
        with pytest.raises(DatasetError, match="category two: got no text"):
            infer_mixture(tokenizer, {**other, "two": empty})
    with pytest.raises(DatasetError, match="category two: got no text with two symbols"):
        infer_mixture(tokenizer, {**other, "two": ["a"]})
    with pytest.raises(DatasetError, match="none of the 20 merges"):
        infer_mixture(tokenizer, {"x": ["0123"], "y": ["!?;:"]}, merges=20)
    unigram = {"version": "1.0", "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}
    with pytest.raises(ConfigError, match="infer-mixture: got a Unigram model"):
        infer_mixture(of_bytes(json.dumps(unigram).encode(), "unigram"), other)
    monkeypatch.setattr(mixture_inference, "_MAX_ROUNDS", 1)
    with pytest.raises(DatasetError, match="not closed after 1 rounds"):
        infer_mixture(*trained(texts, {"one": 0.6, "two": 0.4}), merges=100)
