"""pytest tests/tokenization/bytelevel/test_vocabulary.py"""

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.tokenization.bytelevel.vocabulary import ROOT, Vocabulary

TOKENS = st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=40)


def node_of(vocabulary, text):
    node = ROOT
    for byte in text:
        node = vocabulary.child(node, byte)
        if node < 0:
            break
    return node


@settings(deadline=None)
@given(TOKENS, st.lists(st.binary(max_size=5)))
def test_a_node_is_the_range_of_the_tokens_that_begin_with_its_path(tokens, others):
    vocabulary = Vocabulary.of(range(len(tokens)), tokens)
    assert sorted(tokens) == list(vocabulary.tokens)
    assert [tokens[number] for number in vocabulary.ids] == list(vocabulary.tokens)
    prefixes = {token[:n] for token in tokens for n in range(len(token) + 1)}
    assert vocabulary.nodes == len(prefixes)
    for text in {*prefixes, *others}:
        node = node_of(vocabulary, text)
        below = [place for place, token in enumerate(vocabulary.tokens) if token.startswith(text)]
        assert (node >= 0) == bool(below)
        if below:
            assert below == list(range(vocabulary.low[node], vocabulary.high[node]))
            assert vocabulary.exact[node] == tokens.count(text)
            assert vocabulary.depths[node] == len(text)
            first, last = vocabulary.children(node)
            labels = sorted({token[len(text)] for token in tokens if token.startswith(text) and token != text})
            assert list(vocabulary.labels[first:last]) == labels
    assert [node_of(vocabulary, token) for token in vocabulary.tokens] == vocabulary.node_of.tolist()


def test_tokens_of_the_same_bytes_have_places_side_by_side_in_order_of_their_ids():
    vocabulary = Vocabulary.of([7, 3, 5], [b"a", b"b", b"a"])
    assert vocabulary.ids.tolist() == [5, 7, 3]
    assert vocabulary.exact[node_of(vocabulary, b"a")] == 2
