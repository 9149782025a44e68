"""pytest tests/tokenization/test_pieces.py"""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from penstock.tokenization import _character_classes as ranges
from penstock.tokenization import bpe, pieces
from penstock.tokenization.pieces import byte_letters, count_pieces, count_pieces_of


def found(counted):
    data = counted.data.tobytes()
    words = [data[a:b] for a, b in pairwise(counted.offsets.tolist())]
    assert len(set(words)) == len(words)
    return dict(zip(words, counted.counts.tolist(), strict=True))


def by_the_library(texts, digits="left_to_right"):
    cutter = bpe.pre_tokenizer(digits)
    out = Counter()
    for text in texts:
        out.update(text[a:b].encode() for _, (a, b) in cutter.pre_tokenize_str(text))
    return dict(out)


# what the branches of the pattern tell apart, in runs around its limits of 3, 8 and 64
RUNS = st.lists(
    st.tuples(
        st.sampled_from(
            [*" \n\r\t'sStTlLeEdDrvm1٣½a!é漢\u0301\u00a0\u2028\u0085\u017f😀\x00\x1c", "'ll", "'VE", "\r\n", "  "]
        ),
        st.sampled_from([1, 1, 1, 2, 3, 4, 7, 8, 9, 63, 64, 65, 66, 130]),
    ).map(lambda run: run[0] * run[1]),
    max_size=12,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(RUNS | st.text(max_size=30), max_size=4), st.sampled_from(["left_to_right", "right_to_left"]))
def test_pieces_are_cut_and_counted_as_the_pattern_says(texts, digits):
    counted = count_pieces(texts, from_right=digits == "right_to_left")
    assert found(counted) == by_the_library(texts, digits)
    assert (counted.texts, counted.size) == (len(texts), sum(len(text.encode()) for text in texts))


def test_the_classes_of_all_characters_are_those_of_the_library():
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    # far planes are uniform but for their edges and a few blocks, so these are thinned out
    text = "".join(map(chr, (c for c in codes if c < 0x33500 or c % 61 == 0 or 0xE0000 <= c < 0xE0200)))
    for pattern, given_ranges in (
        (r"[\p{L}\p{M}]+", ranges.LETTERS),
        (r"\p{N}+", ranges.NUMBERS),
        (r"\s+", ranges.SPACES),
    ):
        cutter = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        expected = "".join(text[a:b] for _, (a, b) in cutter.pre_tokenize_str(text))
        members = set()
        for part in given_ranges.split():
            low, _, high = part.partition("-")
            members.update(range(int(low, 16), int(high or low, 16) + 1))
        assert "".join(c for c in text if ord(c) in members) == expected


def test_only_the_long_s_joins_the_letters_after_an_apostrophe():
    # an expression that ignores case may fold more than the two cases of a letter
    text = "\n".join("'" + chr(code) for code in (*range(0x80, 0xD800), *range(0xE000, 0x33500)))
    cutter = pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"), behavior="removed", invert=True)
    assert [text[a:b] for _, (a, b) in cutter.pre_tokenize_str(text)] == ["'\u017f"]
    assert found(count_pieces(["'\u017fa"])) == {"'\u017f".encode(): 1, b"a": 1}


def test_many_distinct_pieces_outgrow_the_first_table(monkeypatch):
    monkeypatch.setattr(pieces, "_BATCH", 1 << 16)
    texts = [" ".join(f"w{i}x" for i in range(n, n + 5000)) for n in range(0, 100_000, 2500)]
    assert found(count_pieces(texts)) == by_the_library(texts)


def test_another_tokenizer_cuts_by_its_own_rules():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    counted = count_pieces_of(tokenizer, ["The wheel\n turns", "THE é"])
    assert found(counted) == {b"the": 2, b" wheel": 1, b"\n": 1, b" turns": 1, " é".encode(): 1}
    assert (counted.texts, counted.size) == (2, len("The wheel\n turnsTHE é".encode()))


def test_no_text_gives_no_pieces():
    for texts in ([], [""], ["", ""]):
        counted = count_pieces(texts)
        assert (len(counted.counts), counted.data.size, counted.offsets.tolist()) == (0, 0, [0])
        assert (counted.texts, counted.size) == (len(texts), 0)


def test_the_letters_of_bytes_are_those_of_the_library():
    cutter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(0x80))) + "".join(map(chr, range(0x80, 0x800, 7))) + "漢😀"
    letters = byte_letters()
    assert "".join(piece for piece, _ in cutter.pre_tokenize_str(text)) == "".join(letters[b] for b in text.encode())
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())


def test_rows_of_a_slice_are_found_in_its_buffers():
    for kind in (pa.string(), pa.large_string(), pa.binary()):
        data, offsets = pieces.buffers(pa.array(["zero", "é", "", "two"]).cast(kind).slice(1, 3))
        assert data.tobytes() == "étwo".encode()
        assert offsets.tolist() == [0, 2, 2, 5]
    assert pieces.buffers(pa.array([], pa.string()))[1].tolist() == [0]
    assert np.array_equal(pieces.buffers(pa.array(["a", "b"]).slice(2))[1], [0])
