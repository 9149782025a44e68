"""A batch in merged tokens: the right merges, the same text, borders kept."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.boundaries import unit_starts, valid_pair
from penstock.tokenization.dynamic.recount import recount_merges
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary
from penstock.tokenization.loading import of_bytes

WORDS = st.sampled_from(
    ["low", "lower", "lowest", "newer", "well-known,", "3.5kg", "aaaa", "aaaaa", "é你", "don't", "\n"]
)
ROWS = st.lists(st.lists(WORDS, max_size=7).map(" ".join), max_size=6)
BOUNDARY = st.sampled_from(["pretoken", "word", "word_hyphen", "sentence"])


def tokens_of(tokenizer, batch):
    return [tokenizer.row_tokens(batch, row) for row in range(len(batch))]


def base_rows(base, batch):
    bounds = batch.base_offsets.tolist()
    return [[base.tokens[i] for i in batch.base_ids[a:b].tolist()] for a, b in itertools.pairwise(bounds)]


def units_of(base, batch, boundary):
    """The units of every row, from the bytes of the row alone; a token over a border stands alone. None is special."""
    out = []
    for row in base_rows(base, batch):
        units, run = [[]], []
        for token in [*row, None]:
            if token is not None:
                run.append(token)
                continue
            data = b"".join(run)
            cuts = set(np.flatnonzero(unit_starts([data], boundary, "whitespace", base.pieces)).tolist())
            at = 0
            for part in run:
                crosses = any(at < cut < at + len(part) for cut in cuts)
                if at in cuts or crosses or not units[-1]:
                    units.append([])
                units[-1].append(part)
                at += len(part)
                if crosses:
                    units.append([])
            units, run = [*units, [None], []], []
        out.append([unit for unit in units[:-2] if unit])
    return out


@settings(deadline=None, max_examples=40)
@given(rows=ROWS, boundary=BOUNDARY, most=st.integers(0, 40) | st.none(), minimum=st.integers(1, 3))
def test_merges_and_rows_are_those_of_counting_anew_before_every_merge(base, rows, boundary, most, minimum):
    tokenizer = DynamicTokenizer(base, boundary=boundary, minimum=minimum)
    batch = tokenizer.encode(rows, most)
    units = units_of(base, batch, boundary)
    expected, merges = recount_merges([unit for row in units for unit in row], most, minimum=minimum)
    assert list(batch.merges) == [one.pair for one in merges]
    assert list(batch.counts) == [one.occurrences for one in merges]
    assert list(batch.applied) == [one.applied for one in merges]
    assert [t for row in tokens_of(tokenizer, batch) for t in row] == [t or b"" for unit in expected for t in unit]


def test_without_a_minimum_every_unit_becomes_one_token(base):
    tokenizer = DynamicTokenizer(base, boundary="word", minimum=1)
    batch = tokenizer.encode(["the lowest bridge", "well-known 3.5kg"], None)
    assert tokens_of(tokenizer, batch) == [[b"the", b" lowest", b" bridge"], [b"well-known", b" 3.5kg"]]
    assert batch.units.tolist() == [3, 2]


@pytest.mark.parametrize("boundary", ["word", "word_hyphen", "sentence"])
def test_the_bytes_of_every_row_stay_as_they_are_for_any_number_of_merges(any_base, boundary):
    rows = ["the low tower and the lower town", "newer newest 3.5kg", "", "low low low"]
    tokenizer = DynamicTokenizer(any_base, boundary=boundary, minimum=1)
    before = None
    for most in range(30):
        batch = tokenizer.encode(rows, most)
        expected = [b"".join(t or b"" for t in row) for row in base_rows(any_base, batch)]
        assert [b"".join(row) for row in tokens_of(tokenizer, batch)] == expected
        assert before is None or (batch.lengths <= before).all()
        before = batch.lengths
    assert before.sum() < batch.base_lengths.sum()


def test_no_merge_is_the_identity(any_base):
    batch = DynamicTokenizer(any_base).encode(["the low tower", "", "low"], 0)
    assert batch.ids.tolist() == batch.base_ids.tolist()
    assert batch.starts.tolist() == list(range(len(batch.ids)))
    assert batch.offsets.tolist() == batch.base_offsets.tolist()
    assert batch.new_tokens == ()


@settings(deadline=None, max_examples=40)
@given(rows=ROWS, boundary=BOUNDARY)
def test_no_new_token_breaks_its_boundary(base, rows, boundary):
    batch = DynamicTokenizer(base, boundary=boundary, minimum=1).encode(rows, None)
    if boundary == "pretoken":  # pieces of a text need not be pieces alone
        assert all(b" " not in token[1:] or not token.strip() for token in batch.new_tokens)
    else:
        assert all(valid_pair(token, boundary, base.pieces) for token in batch.new_tokens)


def test_merging_stops_when_no_valid_pair_is_left(base):
    tokenizer = DynamicTokenizer(base, minimum=1)
    batch = tokenizer.encode(["low low", "lower"], 10_000)
    assert len(batch.merges) < 10
    assert batch.lengths.tolist() == [2, 1]


def test_special_tokens_stand_alone_in_every_mode(pieces_base):
    for boundary in ("word", "word_hyphen", "sentence"):
        tokenizer = DynamicTokenizer(pieces_base, boundary=boundary, minimum=1, markers=True, parse_special=True)
        batch = tokenizer.encode(["low</s>low", "low</s>low"], None)
        row = batch.ids[: batch.offsets[1]].tolist()
        assert row[0] == 1
        assert row.count(2) == 1
        assert all(b"s>" not in token for token in batch.new_tokens)
        # what stands after a special token is a unit of its own
        assert tokens_of(tokenizer, batch)[0] == [b"", b" low", b"", *tokens_of(tokenizer, batch)[0][3:]]


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=2, max_size=6), data=st.data())
def test_the_order_of_rows_does_not_change_how_each_is_cut(base, rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    tokenizer = DynamicTokenizer(base)
    one = tokens_of(tokenizer, tokenizer.encode(rows, 4))
    other = tokens_of(tokenizer, tokenizer.encode([rows[i] for i in order], 4))
    assert other == [one[i] for i in order]


def test_by_the_published_ties_the_order_of_rows_does_change_it(base):
    tokenizer = DynamicTokenizer(base, tie="first_met", minimum=1)
    rows = ["xq xq", "yz yz"]
    forward, backward = tokenizer.encode(rows, 1), tokenizer.encode(rows[::-1], 1)
    assert forward.merges != backward.merges


def test_of_equal_counts_the_lower_byte_strings_go_first(base):
    batch = DynamicTokenizer(base).encode(["yz yz", "xq xq"], 1)
    assert batch.counts == (2,)
    assert batch.merges == ((b"x", b"q"),)


@pytest.mark.parametrize("run", ["aaaa", "aaaaa", "aaaaaaa"])
def test_in_runs_overlapping_pairs_count_and_rows_are_rewritten_from_the_left(base, run):
    tokenizer = DynamicTokenizer(base, minimum=1)
    a = base.ids[b"a"]
    batch = tokenizer.merge([a] * len(run), [0, len(run)], 1)
    assert batch.counts == (len(run) - 1,)
    assert batch.applied == (len(run) // 2,)
    assert tokens_of(tokenizer, batch) == [[b"aa"] * (len(run) // 2) + [b"a"] * (len(run) % 2)]


def test_a_string_built_in_two_ways_is_one_token(base):
    tokenizer = DynamicTokenizer(base, minimum=1)
    short = [token for token in base.ids if len(token) == 2 and token.isalpha()]
    one, other = next((t, u) for t in short for u in short if t[1:] == u[:1] and t + u[1:] not in base.ids)
    ids = [base.ids[token] for token in (one, other[1:], one[:1], other)]
    batch = tokenizer.merge(ids, [0, 2, 4], None)
    assert set(batch.merges) == {(one, other[1:]), (one[:1], other)}
    assert batch.ids.tolist() == [len(base)] * 2
    assert batch.new_tokens == (one + other[1:],)


def test_new_tokens_are_those_that_stand_somewhere(base):
    ids = [base.ids[letter] for letter in (b"X", b"Y", b"Z")] * 2
    made = [DynamicTokenizer(base).merge(ids, [0, 3, 6], m).new_tokens for m in (1, 2)]
    assert made == [(b"XY",), (b"XYZ",)]


def test_bytes_that_the_base_vocabulary_has_get_its_id(base):
    low = next(token for token in base.ids if len(token) == 3 and token.strip().isalpha())
    ids = [base.ids[bytes([byte])] for byte in low]
    batch = DynamicTokenizer(base, minimum=1).merge(ids, [0, 3], None)
    assert batch.ids.tolist() == [base.ids[low]]
    assert batch.new_tokens == ()


def test_a_base_id_keeps_its_number_when_another_has_the_same_bytes(pieces_base):
    letter, byte = pieces_base.loaded.state["model"]["vocab"]["a"], 3 + ord("a")
    assert pieces_base.tokens[letter] == pieces_base.tokens[byte] == b"a"
    batch = DynamicTokenizer(pieces_base).merge([letter, byte, letter], [0, 1, 3], 0)
    assert batch.ids.tolist() == [letter, byte, letter]


def test_bytes_that_are_no_utf8_are_merged_and_kept(base):
    tokenizer = DynamicTokenizer(base, minimum=1)
    ids = [base.ids[bytes([byte])] for byte in b"\xe4\xbd\xff \xe4"]
    batch = tokenizer.merge(ids, [0, 5], None)
    assert tokens_of(tokenizer, batch) == [[b"\xe4\xbd\xff", b" \xe4"]]


def test_two_line_ends_are_not_joined_and_the_last_white_space_goes_with_the_word(base):
    tokenizer = DynamicTokenizer(base, minimum=1)
    ids = [base.ids[bytes([byte])] for byte in b"\n\n  a"]
    assert tokens_of(tokenizer, tokenizer.merge(ids, [0, 5], None)) == [[b"\n", b"\n ", b" a"]]


def test_a_base_token_over_a_border_stands_alone(base):
    state = json.loads(base.loaded.content)
    state["added_tokens"].append({**state["added_tokens"][0], "id": len(base), "content": "x y", "special": False})
    wider = BaseVocabulary(of_bytes(json.dumps(state).encode(), "wider"))
    w, over, z = wider.ids[b"w"], wider.ids[b"x y"], wider.ids[b"z"]
    tokenizer = DynamicTokenizer(wider, minimum=1)
    batch = tokenizer.merge([w, w, over, z, z], [0, 5], None)
    assert tokens_of(tokenizer, batch) == [[b"ww", b"x y", b"zz"]]


def test_rows_of_a_per_sample_batch_are_cut_as_if_alone(base):
    rows = ["low lower lowest", "", "newer newest newest", "low lower lowest"]
    tokenizer = DynamicTokenizer(base, per_sample=True)
    together = tokens_of(tokenizer, tokenizer.encode(rows, 3))
    alone = DynamicTokenizer(base)
    assert together == [tokens_of(alone, alone.encode([row], 3))[0] for row in rows]
    assert tokenizer.encode(rows, 3).starts.tolist() == sorted(tokenizer.encode(rows, 3).starts.tolist())


def test_spans_name_the_base_tokens_that_a_token_covers(base):
    tokenizer = DynamicTokenizer(base, minimum=1)
    batch = tokenizer.encode(["the lowest", "", "lowest bridge"], 5)
    for token, low, high in zip(range(len(batch.ids)), batch.starts, batch.stops, strict=True):
        number = int(batch.ids[token])
        data = batch.new_bytes(number) if number >= batch.vocabulary else base.tokens[number]
        assert base.join(batch.base_ids[low:high]) == data
    assert batch.starts[batch.offsets[:-1]].tolist()[0] == 0
    assert batch.base_lengths[1] == batch.lengths[1] == 0


def test_by_the_published_rules_the_rows_are_those_of_recounting_with_them(base):
    rows = ["low lower lowest well-known,", "lower well-known"]
    tokenizer = DynamicTokenizer(base, tie="first_met", minimum=1, boundary="word_hyphen")
    batch = tokenizer.encode(rows, 6)
    expected, merges = recount_merges(
        base_rows(base, batch), 6, tie="first_met", valid=lambda joined: valid_pair(joined, "word_hyphen", base.pieces)
    )
    assert tokens_of(tokenizer, batch) == expected
    assert list(batch.merges) == [one.pair for one in merges]
    assert batch.merge_hash != tokenizer.encode(rows, 5).merge_hash


def test_an_empty_batch_and_empty_rows_have_no_tokens(base):
    assert len(DynamicTokenizer(base).encode([], None)) == 0
    batch = DynamicTokenizer(base).encode(["", ""], None)
    assert batch.lengths.tolist() == [0, 0]
    assert batch.reduction == 0.0


def test_the_reduction_counts_tokens_and_no_padding(base):
    batch = DynamicTokenizer(base, minimum=1).encode(["lowest " * 4, "a"], None)
    assert batch.reduction == pytest.approx(100 * (1 - batch.lengths.sum() / batch.base_lengths.sum()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"boundary": "line"}, "boundary: got 'line'"),
        ({"tie": "random"}, "tie: got 'random', allowed lexical, first_met"),
        ({"minimum": 0}, "minimum: got 0"),
        ({"tie": "first_met", "words": "unicode"}, "allowed whitespace"),
    ],
)
def test_settings_that_make_no_sense_are_refused(base, wrong, message):
    with pytest.raises(ConfigError, match=message):
        DynamicTokenizer(base, **wrong)


def test_pretokens_are_refused_where_there_is_no_pre_tokenizer(pieces_base):
    with pytest.raises(ConfigError, match="no pre-tokenizer; take 'word'"):
        DynamicTokenizer(pieces_base, boundary="pretoken")


@pytest.mark.parametrize(
    ("ids", "offsets", "merges", "error", "message"),
    [
        ([10**6], [0, 1], 0, InputError, "ids: got 1000000"),
        ([-1], [0, 1], 0, InputError, "ids: got -1"),
        ([5], [0, 2], 0, InputError, "offsets"),
        ([5], [1, 1], 0, InputError, "offsets"),
        ([5], [0, 1], -1, ConfigError, "merges: got -1"),
    ],
)
def test_rows_that_are_none_are_refused(base, ids, offsets, merges, error, message):
    with pytest.raises(error, match=message):
        DynamicTokenizer(base).merge(ids, offsets, merges)


def test_pretokens_of_a_metaspace_tokenizer_are_its_words(unigram_base):
    tokenizer = DynamicTokenizer(unigram_base, boundary="pretoken", minimum=1)
    batch = tokenizer.encode(["the low tower"], None)
    assert tokens_of(tokenizer, batch) == [[b" the", b" low", b" tower"]]
