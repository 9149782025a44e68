"""Rows of foreign token streams equal what concatenating and cutting by hand gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.training.loader import MixtureLoader
from penstock.training.store import Store
from penstock.training.streams import StreamStore, TokenStream


def spans(documents, *, kind=np.int32, gaps=None, labels=None):
    """A stream whose documents are lists of spans [(array, tokens), …]; ``gaps`` are tokens put between spans."""
    flat, of_label, array, start, size, first = {}, {}, [], [], [], [0]
    for i, document in enumerate(documents):
        for j, (number, tokens) in enumerate(document):
            into, beside = flat.setdefault(number, []), of_label.setdefault(number, [])
            for _ in range(gaps[(i + j) % len(gaps)] if gaps else 0):
                into.append(-7)
                beside.append(-100)
            array.append(number)
            start.append(len(into))
            size.append(len(tokens))
            into.extend(tokens)
            beside.extend(tokens if labels is None else [t if labels(t) else -100 for t in tokens])
        first.append(len(array))
    numbers = range(max(flat, default=-1) + 1)
    arrays = [np.array(flat.get(n, []), dtype=kind) for n in numbers]
    beside = None if labels is None else [np.array(of_label.get(n, []), dtype=np.int64) for n in numbers]
    given_arrays = [np.array(values, dtype=np.int64) for values in (array, start, size, first)]
    return TokenStream.of_spans(arrays, *given_arrays, lambda d: [f"doc{i}" for i in d], beside)


def by_hand(documents, length):
    """Rows of the concatenated documents: (tokens, padded with 0), [(document, tokens), …]."""
    pairs = [(i, t) for i, document in enumerate(documents) for _, tokens in document for t in tokens]
    rows = []
    for begin in range(0, len(pairs), length):
        row = pairs[begin : begin + length]
        segments = []
        for name, _ in row:
            if segments and segments[-1][0] == f"doc{name}":
                segments[-1][1] += 1
            else:
                segments.append([f"doc{name}", 1])
        rows.append(([t for _, t in row] + [0] * (length - len(row)), [tuple(s) for s in segments]))
    return rows


def read_rows(store, k, rows):
    """The rows as ``by_hand`` gives them."""
    rows = np.array(rows, dtype=np.int64)
    read = store.read(np.full(len(rows), k), rows)
    docs, lengths, at, out = read.segment_docs.to_pylist(), read.segment_lengths.tolist(), 0, []
    for tokens, count in zip(read.tokens.tolist(), read.segment_counts, strict=True):
        out.append((tokens, list(zip(docs[at : at + count], lengths[at : at + count], strict=True))))
        at += count
    assert at == len(docs) == len(lengths)
    return out


tokens = st.lists(st.integers(1, 99), max_size=9)
documents = st.lists(st.lists(st.tuples(st.integers(0, 2), tokens), min_size=1, max_size=3), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(documents, st.integers(1, 11), st.lists(st.integers(0, 2), min_size=1, max_size=3), st.randoms())
def test_rows_and_segments_equal_the_documents_laid_end_to_end_and_cut(documents, length, gaps, random):
    expected = by_hand(documents, length)
    if not expected:
        with pytest.raises(ConfigError, match="no token at all"):
            StreamStore.build({"d": spans(documents)}, length=length)
        return
    store = StreamStore.build({"d": spans(documents, gaps=gaps)}, length=length)
    assert store.rows == (len(expected),)
    assert store.tokens == (sum(len(t) for d in documents for _, t in d),)
    wanted = [random.randrange(len(expected)) for _ in range(2 * len(expected))]
    assert read_rows(store, 0, wanted) == [expected[row] for row in wanted]


def test_documents_behind_each_other_are_one_run_and_a_jump_begins_another():
    adjacent = spans([[(0, [1, 2])], [(0, [3])], [(0, [4, 5])]])
    assert adjacent.array.tolist() == [0]
    assert adjacent.begins.tolist() == [0, 5]
    jumping = spans([[(0, [1, 2])], [(1, [3])], [(0, [4, 5])]])
    assert jumping.begins.tolist() == [0, 2, 3, 5]


def test_rows_of_two_domains_come_in_the_order_asked_for():
    store = StreamStore.build({"a": spans([[(0, [1, 2, 3])]]), "b": spans([[(0, [7])], [(0, [8, 9])]])}, length=2)
    read = store.read(np.array([1, 0, 1]), np.array([1, 0, 0]))
    assert read.tokens.tolist() == [[9, 0], [1, 2], [7, 8]]
    assert read.segment_counts.tolist() == [1, 1, 2]
    assert read.segment_lengths.tolist() == [1, 2, 1, 1]
    assert read.segment_docs.to_pylist() == ["doc1", "doc0", "doc0", "doc1"]
    assert read.tokens.dtype == np.uint32
    assert isinstance(store, Store)


def test_separate_documents_are_padded_to_the_length():
    stream = spans([[(0, [1, 2, 3])], [(0, [])], [(0, [4])]])
    store = StreamStore.build({"d": stream}, length=4, layout="separate")
    assert read_rows(store, 0, [1, 0]) == [([4, 0, 0, 0], [("doc2", 1)]), ([1, 2, 3, 0], [("doc0", 3)])]
    assert (store.rows, store.tokens) == ((2,), (4,))


def test_separate_documents_of_one_length_need_no_length():
    assert StreamStore.build({"d": spans([[(0, [1, 2])], [(0, [3, 4])]])}, length=None, layout="separate").length == 2


def test_tokens_with_label_minus_100_are_not_learned_and_padding_counts_as_learned():
    stream = spans([[(0, [1, 2, 3])], [(1, [4, 5])]], labels=lambda t: t % 2)
    read = StreamStore.build({"d": stream}, length=4).read(np.zeros(2, np.int64), np.array([1, 0]))
    assert read.learned.tolist() == [[True, True, True, True], [True, False, True, False]]


def test_a_domain_without_labels_is_learned_whole_beside_one_with_labels():
    store = StreamStore.build({"a": spans([[(0, [1, 2])]], labels=lambda t: False), "b": spans([[(0, [3])]])}, length=2)
    read = store.read(np.array([0, 1]), np.array([0, 0]))
    assert read.learned.tolist() == [[False, False], [True, True]]
    assert store.read(np.array([1]), np.array([0])).learned is None


@pytest.mark.parametrize(("kind", "vocab_size", "expected"), [
    (np.uint8, None, np.uint16), (np.int16, None, np.uint16), (np.uint16, None, np.uint16),
    (np.int32, None, np.uint32), (np.int64, None, np.uint32), (np.int64, 70000, np.uint32),
    (np.int64, 65536, np.uint16),
])  # fmt: skip
def test_tokens_come_in_the_narrowest_of_two_unsigned_types(kind, vocab_size, expected):
    store = StreamStore.build({"d": spans([[(0, [1, 2])]], kind=kind)}, length=2, vocab_size=vocab_size)
    assert store.read(np.array([0]), np.array([0])).tokens.dtype == expected


@pytest.mark.parametrize(("ids", "vocab_size", "message"), [
    ([5, -1], 10, r"domain d, document doc1, token 1: token id -1, allowed 0 to 9; tokenise again"),
    ([5, 10], 10, r"domain d, document doc1, token 1: token id 10, allowed 0 to 9; give the tokenizer"),
    ([2**32, 1], None, r"document doc1, token 0: token id 4294967296, allowed 0 to 4294967295"),
])  # fmt: skip
def test_ids_out_of_bounds_are_named_by_document_when_they_are_read_and_when_all_are_checked(ids, vocab_size, message):
    stream = spans([[(0, [1, 2, 3])], [(0, ids)]], kind=np.int64)
    store = StreamStore.build({"d": stream}, length=4, vocab_size=vocab_size)
    with pytest.raises(DatasetError, match=message):
        store.read(np.zeros(2, np.int64), np.array([0, 1]))
    with pytest.raises(DatasetError, match=message):
        store.check()


def test_gaps_between_documents_are_not_looked_at():
    StreamStore.build({"d": spans([[(0, [1, 2])], [(0, [3])]], gaps=[1])}, length=2, vocab_size=4).check()


def test_a_label_that_is_another_token_is_refused():
    stream = spans([[(0, [1, 2, 3])]], labels=lambda t: True)
    stream.labels[0][1] = 3
    with pytest.raises(DatasetError, match=r"document doc0, token 1: label 3 of token 2, allowed the token itself"):
        StreamStore.build({"d": stream}, length=4).check()


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"length": None}, ConfigError, "length: concatenated documents are cut to it"),
    ({"length": 0}, ConfigError, "length: got 0, allowed >= 1"),
    ({"length": 4, "layout": "packed"}, ConfigError, "layout: got 'packed', allowed 'concatenated' or 'separate'"),
    ({"length": 2, "layout": "separate"}, DatasetError, "document doc1: 3 tokens do not fit a row of 2"),
    ({"length": None, "layout": "separate"}, DatasetError, "rows of 1 to 3 tokens; give length"),
])  # fmt: skip
def test_bad_layouts_say_what_is_allowed(arguments, error, message):
    with pytest.raises(error, match=message):
        StreamStore.build({"d": spans([[(0, [1])], [(0, [1, 2, 3])]])}, **arguments)


def test_rows_outside_a_domain_are_refused():
    store = StreamStore.build({"d": spans([[(0, [1, 2, 3])]])}, length=2)
    with pytest.raises(IndexError, match="row 2 of domain d, which has 2"):
        store.read(np.zeros(2, np.int64), np.array([0, 2]))


def test_the_fingerprint_tells_tokens_borders_layout_and_length_apart():
    def of(documents, **arguments):
        return StreamStore.build({"d": spans(documents)}, **({"length": 2} | arguments)).fingerprint()

    base = [[(0, [1, 2])], [(0, [3, 4])]]
    assert of(base) == of(base)
    others = [
        of([[(0, [1, 2])], [(0, [3, 5])]]), of([[(0, [1, 2, 3])], [(0, [4])]]), of(base, layout="separate"),
        of(base, length=3),
    ]  # fmt: skip
    assert len({of(base), *others}) == 5


def test_a_loader_reads_every_row_of_an_epoch_once():
    documents = [[(i % 2, list(range(1 + 5 * i, 6 + 5 * i)))] for i in range(8)]
    store = StreamStore.build({"a": spans(documents[:5]), "b": spans(documents[5:])}, length=4)
    loader = MixtureLoader(store, "proportional", seed=3, fingerprint="f", batch_size=1, block=10)
    seen = np.concatenate([loader.batch(i).tokens[0] for i in range(sum(store.rows))])
    # 25 and 15 tokens: rows of the two domains in the ratio 5 to 3 need one epoch of each or a little more
    assert set(range(1, 41)) - set(seen.tolist()) == set()
