"""pytest tests/tokenization/bytelevel/test_byte_pairs.py"""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.tokenization.bytelevel.byte_pairs import BytePairs
from penstock.tokenization.bytelevel.vocabulary import Vocabulary


def encode(text, merges):
    """Merge the pair of the lowest rank, the leftmost of equal ones, again and again."""
    rank = {pair: number for number, pair in enumerate(merges)}
    symbols = [bytes([byte]) for byte in text]
    while len(symbols) > 1:
        at = min(range(len(symbols) - 1), key=lambda i: (rank.get((symbols[i], symbols[i + 1]), len(rank)), i))
        if (symbols[at], symbols[at + 1]) not in rank:
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols


def pairs_of(alphabet, merges, **options):
    tokens = list(dict.fromkeys([bytes([byte]) for byte in alphabet] + [a + b for a, b in merges]))
    vocabulary = Vocabulary.of(range(len(tokens)), tokens)
    place = {token: number for number, token in enumerate(vocabulary.tokens)}
    table = np.array([[place[a], place[b], place[a + b]] for a, b in merges], dtype=np.int64).reshape(-1, 3)
    atoms = [[place[bytes([byte])] for byte in token] for token in vocabulary.tokens]
    return BytePairs(vocabulary, atoms, table, **options), vocabulary.tokens


@st.composite
def merge_lists(draw, alphabet=b"ab"):
    """Merges of tokens that are there, some of them to a token that another one makes already."""
    tokens = [bytes([byte]) for byte in alphabet]
    merges = []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if pair not in merges and len(pair[0] + pair[1]) <= 8:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    return merges


def made(alphabet, merges):
    try:
        return pairs_of(alphabet, merges)
    except ConfigError:
        assume(False)


def same_as_encoding(alphabet, merges):
    pairs, tokens = made(alphabet, merges)
    reachable = [encode(token, merges) == [token] for token in tokens]
    assert pairs.reachable.tolist() == reachable
    for left in np.flatnonzero(reachable):
        inner = pairs.inner(int(left))
        for right in range(len(tokens)):
            valid = reachable[right] and encode(tokens[left] + tokens[right], merges) == [tokens[left], tokens[right]]
            assert inner[right] == valid
            assert (pairs.extend(pairs.begin(int(left)), right) >= 0) == valid
            if reachable[right]:
                assert pairs.pair_ok(int(left), right) == valid


@settings(deadline=None, max_examples=60)
@given(merge_lists())
def test_neighbours_are_what_encoding_them_gives(merges):
    same_as_encoding(b"ab", merges)


@settings(deadline=None)
@given(merge_lists(alphabet=b"a"))
def test_of_equal_merges_in_a_run_the_leftmost_comes_first(merges):
    same_as_encoding(b"a", merges)


@settings(max_examples=40, deadline=None)
@given(merge_lists(alphabet=b"abc"))
def test_a_sequence_is_an_encoding_when_all_its_neighbours_are(merges):
    pairs, tokens = made(b"abc", merges)
    for sequence in itertools.islice(itertools.product(range(len(tokens)), repeat=3), 0, None, 3):
        by_pairs = all(pairs.reachable[list(sequence)]) and all(map(pairs.pair_ok, sequence, sequence[1:]))
        spelled = [tokens[place] for place in sequence]
        assert by_pairs == (encode(b"".join(spelled), merges) == spelled)


def test_merges_whose_parts_come_later_are_refused():
    # bc is made by the second merge alone, and the first needs it
    with pytest.raises(ConfigError, match="of a part that a later merge makes"):
        pairs_of(b"abc", [(b"a", b"bc"), (b"b", b"c")])


def test_of_a_pair_that_stands_twice_the_last_counts_as_in_the_tokenizers_library():
    from tokenizers import Tokenizer, models

    merges = [(b"a", b"b"), (b"b", b"c"), (b"a", b"b")]
    pairs, tokens = pairs_of(b"abc", merges)
    library = Tokenizer(
        models.BPE(
            vocab={token.decode(): number for number, token in enumerate(tokens)},
            merges=[(a.decode(), b.decode()) for a, b in merges],
        )
    )
    assert library.encode("abc").tokens == ["a", "bc"]
    assert pairs.pair_ok(tokens.index(b"a"), tokens.index(b"bc"))
    assert not pairs.pair_ok(tokens.index(b"a"), tokens.index(b"b"))


class TestIgnoreMerges:
    """``abc`` is a token that no merge makes; the merges make ``ab`` and ``c`` of it."""

    @pytest.fixture
    def pairs(self):
        tokens = [b"a", b"ab", b"abc", b"b", b"c"]
        vocabulary = Vocabulary.of(range(5), tokens)
        return BytePairs(
            vocabulary,
            [[0], [0, 3], [0, 3, 4], [3], [4]],
            np.array([[0, 3, 1]]),
            ignore_merges=True,
        )

    def test_a_whole_pretoken_is_the_token(self, pairs):
        assert pairs.first[2]
        whole = pairs.begin(2)
        assert pairs.may_end(whole)
        assert not pairs.may_go_on(whole)

    def test_its_merged_form_is_one_only_if_the_pretoken_goes_on(self, pairs):
        spelled = pairs.extend(pairs.begin(1), 4)
        assert not pairs.may_end(spelled)
        assert pairs.may_end(pairs.extend(spelled, 4))
        assert pairs.may_end(pairs.begin(1))
        assert pairs.doubtful.tolist() == [False, True, False, False, True]
