"""pytest tests/tokenization/bytelevel/test_longest_prefix.py"""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.tokenization.bytelevel.longest_prefix import LongestPrefix
from penstock.tokenization.bytelevel.vocabulary import Vocabulary


def encode(text, first, following):
    out = []
    while text:
        kind = following if out else first
        token = max((t for t in kind if text.startswith(t)), key=len, default=None)
        if token is None:
            return None
        out.append(token)
        text = text[len(token) :]
    return out


def accepted(segmentation, sequence):
    """Whether the segmentation takes the places, by single steps and by the sets of all that may follow."""
    segment = None
    for place in sequence:
        if segment is None:
            if not segmentation.first[place]:
                return False
            segment = segmentation.begin(place)
            continue
        allowed = segmentation.inner(segment)[place]
        segment = segmentation.extend(segment, place)
        assert allowed == (segment >= 0)
        if segment < 0:
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text("abc", min_size=2, max_size=4), max_size=7))
def test_a_sequence_is_accepted_when_it_is_the_greedy_encoding(more):
    tokens = sorted({b"a", b"b", b"c"} | {token.encode() for token in more})
    vocabulary = Vocabulary.of(range(len(tokens)), tokens)
    segmentation = LongestPrefix(vocabulary, None, alone=np.zeros(len(tokens), bool))
    for sequence in itertools.product(range(len(tokens)), repeat=3):
        spelled = [tokens[place] for place in sequence]
        assert accepted(segmentation, sequence) == (encode(b"".join(spelled), tokens, tokens) == spelled)


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.text("ab", min_size=2, max_size=4), max_size=4),
    st.sets(st.text("ab", min_size=2, max_size=4), max_size=4),
)
def test_tokens_that_begin_a_word_and_those_that_go_on_are_told_apart(begin, go_on):
    first = sorted({b"a", b"b"} | {token.encode() for token in begin})
    following = sorted({b"a", b"b"} | {token.encode() for token in go_on})
    kinds = [*((token, False) for token in first), *((token, True) for token in following)]
    vocabulary = Vocabulary.of(range(len(kinds)), [token for token, _ in kinds])
    goes_on = np.array([kinds[number][1] for number in vocabulary.ids])
    segmentation = LongestPrefix(vocabulary, goes_on, alone=np.zeros(len(kinds), bool))
    for sequence in itertools.product(range(len(kinds)), repeat=3):
        spelled = [vocabulary.tokens[place] for place in sequence]
        right = not goes_on[sequence[0]] and all(goes_on[list(sequence[1:])])
        expected = right and encode(b"".join(spelled), first, following) == spelled
        assert accepted(segmentation, sequence) == expected


def test_neighbours_alone_do_not_decide_where_a_prefix_of_a_token_is_none():
    tokens = [b"a", b"abc", b"b", b"c"]
    vocabulary = Vocabulary.of(range(4), tokens)
    segmentation = LongestPrefix(vocabulary, None, alone=np.zeros(4, bool))
    assert accepted(segmentation, [0, 2])
    assert accepted(segmentation, [2, 3])
    assert not accepted(segmentation, [0, 2, 3])
    assert accepted(segmentation, [0, 2, 2])
