"""pytest tests/tokenization/test_merges.py"""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.tokenization.merges import Pairs

BYTES = [bytes([i]) for i in range(256)]


def laid_out(units):
    flat = np.array([s for unit in units for s in unit], np.int32)
    return flat, np.cumsum([0, *map(len, units)])


def engine(units, tokens=BYTES, weights=None):
    return Pairs(*laid_out(units), tokens, weights=weights)


def units_of(pairs):
    flat, offsets = pairs.units()
    return [flat[a:b].tolist() for a, b in pairwise(offsets)]


def naive_rewrite(unit, pair, new):
    out, i = [], 0
    while i < len(unit):
        if tuple(unit[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(unit[i])
            i += 1
    return out


def naive_counts(units, weights, overlapping=True):
    counts = Counter()
    for unit, weight in zip(units, weights, strict=True):
        free = {}
        for i, pair in enumerate(pairwise(unit)):
            if not overlapping and pair[0] == pair[1]:
                if i < free.get(pair, 0):
                    continue
                free[pair] = i + 2
            counts[pair] += weight
    return counts


def naive(units, tokens, weights=None, *, max_merges=10**9, minimum=1, tie="ids", overlapping=True, refuse=()):
    """Count everything anew before each merge."""
    units, tokens = [list(u) for u in units], list(tokens)
    weights = weights or [1] * len(units)
    merges = []
    while len(merges) < max_merges:
        counts = naive_counts(units, weights, overlapping)
        allowed = [p for p in counts if counts[p] >= minimum and (tokens[p[0]], tokens[p[1]]) not in refuse]
        if not allowed:
            break
        by_bytes = {p: (tokens[p[0]], tokens[p[1]]) if tie == "bytes" else () for p in allowed}
        best = min(allowed, key=lambda p: (-counts[p], by_bytes[p], p))
        joined = tokens[best[0]] + tokens[best[1]]
        new = tokens.index(joined) if joined in tokens else len(tokens)
        if new == len(tokens):
            tokens.append(joined)
        units = [naive_rewrite(unit, best, new) for unit in units]
        merges.append((best, new, counts[best]))
    return merges, units, tokens


def same(pairs, merged, expected):
    merges, units, tokens = expected
    assert merged.pairs.tolist() == [list(pair) for pair, _, _ in merges]
    assert merged.results.tolist() == [new for _, new, _ in merges]
    assert merged.counts.tolist() == [count for _, _, count in merges]
    assert units_of(pairs) == units
    assert pairs.tokens == tokens


# few letters make runs, ties and periods; `aa`, `ab` and `aba` are tokens from the start, so a merge may meet them
TOKENS = [b"a", b"b", b"c", b"aa", b"aba", b"ab", b"b"]
UNITS = st.lists(st.lists(st.integers(0, len(TOKENS) - 1), max_size=14), min_size=1, max_size=7)
RUNS = st.lists(st.integers(0, 40).map(lambda n: [0] * n), min_size=1, max_size=5)


@settings(max_examples=400, deadline=None)
@given(
    units=st.one_of(UNITS, RUNS),
    tie=st.sampled_from(["ids", "bytes"]),
    overlapping=st.booleans(),
    minimum=st.integers(1, 4),
    most=st.one_of(st.none(), st.integers(0, 6)),
    data=st.data(),
)
def test_merges_and_units_are_those_of_counting_anew_each_time(units, tie, overlapping, minimum, most, data):
    weights = data.draw(st.lists(st.integers(0, 5), min_size=len(units), max_size=len(units)))
    pairs = engine(units, TOKENS, weights)
    merged = pairs.merge(max_merges=most, minimum=minimum, tie=tie, overlapping=overlapping)
    limit = {} if most is None else {"max_merges": most}
    same(pairs, merged, naive(units, TOKENS, weights, minimum=minimum, tie=tie, overlapping=overlapping, **limit))


@settings(max_examples=200, deadline=None)
@given(units=UNITS, order=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), data=st.data())
def test_counts_stay_exact_through_any_merges_in_every_column(units, order, data):
    weights = data.draw(
        st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=len(units), max_size=len(units))
    )
    pairs = engine(units, TOKENS, weights)
    units, tokens = [list(unit) for unit in units], list(TOKENS)
    for left, right in order:
        applied = pairs.apply(left, right)
        if applied:
            joined = tokens[left] + tokens[right]
            new = tokens.index(joined) if joined in tokens else len(tokens)
            if new == len(tokens):
                tokens.append(joined)
            before = sum(map(len, units))
            units = [naive_rewrite(unit, (left, right), new) for unit in units]
            assert before - sum(map(len, units)) == applied
        assert units_of(pairs) == units
        assert pairs.tokens == tokens
        for column in range(3):
            expected = naive_counts(units, [w[column] for w in weights])
            found = dict(zip(map(tuple, pairs.pairs.tolist()), pairs.counts[:, column].tolist(), strict=True))
            assert {p: c for p, c in found.items() if c} == {p: c for p, c in expected.items() if c}
    asked = [(a, b) for a in range(len(tokens)) for b in range(len(tokens))]
    assert pairs.counts_of(asked)[:, 0].tolist() == [
        naive_counts(units, [w[0] for w in weights])[pair] for pair in asked
    ]


def test_left_to_right_in_runs():
    pairs = engine([[97] * 5, [97] * 4])
    merged = pairs.merge(max_merges=2)
    # aaaaa and aaaa hold 4 + 3 overlapping pairs and become aa aa a, aa aa
    assert (merged.pairs.tolist(), merged.counts.tolist(), merged.applied.tolist()) == (
        [[97, 97], [256, 256]],
        [7, 2],
        [4, 2],
    )
    assert units_of(pairs) == [[257, 97], [257]]
    assert engine([[97] * 5, [97] * 4]).merge(max_merges=1, overlapping=False).counts.tolist() == [4]


def test_runs_are_merged_from_the_left_when_a_symbol_was_there_before_its_merge():
    # (aa, b) occurs once from the start and twice more when a a becomes the aa that is there
    pairs = engine([[3, 1, 0, 0, 1, 0, 0, 1]], TOKENS)
    merged = pairs.merge(overlapping=False)
    same(pairs, merged, naive([[3, 1, 0, 0, 1, 0, 0, 1]], TOKENS, overlapping=False))


def test_equal_counts_fall_to_the_lower_ids_or_the_lower_bytes():
    tokens = [b"z", b"y", b"x"]  # ids rise as bytes fall
    assert engine([[0, 1], [1, 2]], tokens).merge(max_merges=1).pairs.tolist() == [[0, 1]]
    assert engine([[0, 1], [1, 2]], tokens).merge(max_merges=1, tie="bytes").pairs.tolist() == [[1, 2]]
    # a token before one that it begins
    longer = [b"ab", b"a", b"c"]
    assert engine([[0, 2], [1, 2]], longer).merge(max_merges=1, tie="bytes").pairs.tolist() == [[1, 2]]


@pytest.mark.parametrize("best", [2**31 - 2, 2**31 - 1, 2**31, 2**32, 2**33, 2**60])
def test_the_right_pair_is_merged_whatever_its_count(best):
    pairs = engine([[97, 98], [99, 100]], weights=[best - 1, best])
    merged = pairs.merge(max_merges=2)
    assert merged.pairs.tolist() == [[99, 100], [97, 98]]
    assert merged.counts.tolist() == [best, best - 1]


def test_the_text_on_which_32_bits_learn_another_merge():
    # "ab" * 500, 4,300,000 times: 2,150,000,000 ab and 2,145,700,000 ba
    merged = engine([[97, 98] * 500], weights=[4_300_000]).merge(max_merges=1)
    assert merged.pairs.tolist() == [[97, 98]]
    assert merged.counts.tolist() == [2_150_000_000]


def test_stopping_and_going_on_is_going_through():
    rng = np.random.default_rng(0)
    units = [rng.integers(97, 101, rng.integers(1, 30)).tolist() for _ in range(60)]
    whole = engine(units)
    expected = whole.merge(max_merges=50)
    parts = engine(units)
    found = [parts.merge(max_merges=n) for n in (7, 0, 20, 23)]
    again = engine(units)
    replayed = again.replay(expected.pairs[:30])
    rest = again.merge(max_merges=20)
    assert np.concatenate([part.pairs for part in found]).tolist() == expected.pairs.tolist()
    assert np.concatenate([replayed.pairs, rest.pairs]).tolist() == expected.pairs.tolist()
    assert np.concatenate([replayed.applied, rest.applied]).tolist() == expected.applied.tolist()
    assert units_of(parts) == units_of(again) == units_of(whole)


def test_a_merge_that_is_given_but_occurs_nowhere_is_passed_over():
    pairs = engine([[97, 98, 97, 98]])
    replayed = pairs.replay([[98, 99], [97, 98], [97, 98]])
    assert replayed.results.tolist() == [-1, 256, -1]
    assert replayed.applied.tolist() == [0, 2, 0]
    assert pairs.apply(250, 251) == 0


@settings(max_examples=100, deadline=None)
@given(units=UNITS, refused=st.sets(st.tuples(st.sampled_from(TOKENS), st.sampled_from(TOKENS)), max_size=12))
def test_refused_pairs_are_not_merged_and_asked_for_once(units, refused):
    asked = []

    def permit(left, right):
        asked.append((left, right))
        return (left, right) not in refused

    pairs = engine(units, TOKENS)
    merged = pairs.merge(tie="bytes", permit=permit)
    expected = naive(units, TOKENS, tie="bytes", refuse=refused)
    assert [pair for pair, _, _ in expected[0]] == [tuple(pair) for pair in merged.pairs.tolist()]
    assert units_of(pairs) == expected[1]


@pytest.mark.parametrize("most", [257, 300, 10_000])
def test_a_vocabulary_is_filled_to_its_size(most):
    rng = np.random.default_rng(1)
    pairs = engine([rng.integers(0, 256, 4000).tolist()])
    merged = pairs.merge(max_tokens=most, minimum=1)
    assert len(pairs.tokens) == min(most, 256 + len(merged))
    assert len(pairs.tokens) == most or units_of(pairs)[0] == [len(pairs.tokens) - 1]


def test_units_without_pairs_and_no_units_at_all():
    for units in ([], [[]], [[97], [], [98]]):
        pairs = engine(units)
        assert len(pairs.merge()) == 0
        assert units_of(pairs) == units
        assert pairs.counts_of([[97, 98]]).tolist() == [[0]]
        assert len(pairs.replay(np.zeros((0, 2)))) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([97, 98], [0, 1], BYTES), "offsets: got .* for 2 symbols, allowed numbers that rise from 0 to that"),
        (([97, 98], [], BYTES), "offsets: got"),
        (([97, 98], [0, 2, 1, 2], BYTES), "offsets: got"),
        (([97, 256], [0, 2], BYTES), "got ids 97 to 256, allowed 0 to 255"),
        (([-1, 97], [0, 2], BYTES), "got ids -1 to 97"),
        (([0, 1], [0, 2], [b"a", None]), "got id 1, a token without bytes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Pairs(*arguments)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "weights: got 2 rows, allowed one for each of the 1 units"),
        ([-1], "weights: got -1, allowed >= 0"),
        ([2**62], "symbols in all, allowed 2\\*\\*63 - 1; scale the weights down"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        engine([[97, 98]], weights=weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_merges": -1}, "max_merges: got -1, allowed >= 0"),
        ({"max_tokens": -1}, "max_tokens: got -1, allowed >= 0"),
        ({"minimum": 0}, "minimum: got 0, allowed >= 1"),
        ({"tie": "first"}, "tie: got 'first', allowed ids, bytes"),
    ],
)
def test_limits_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        engine([[97, 98]]).merge(**options)


def test_merging_takes_one_column():
    with pytest.raises(ConfigError, match="got 2 columns of weights, allowed 1; add the columns up"):
        engine([[97, 98]], weights=[[1, 1]]).merge()
    with pytest.raises(InputError, match="got the id -3"):
        engine([[97, 98]]).apply(-3, 97)
