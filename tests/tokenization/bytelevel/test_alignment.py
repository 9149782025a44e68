"""Spans of two tokenizations that hold the same bytes."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.bpe import END, BPEConfig, train_bpe
from penstock.tokenization.bytelevel.alignment import SPANS, AlignTokenizers, align
from penstock.tokenization.bytelevel.reading import BYTE_OF


def by_prefixes(first, second):
    """Spans from all common ends of non-empty prefixes, by sets; None where the texts have other lengths."""
    if sum(first) != sum(second):
        return None
    cuts = sorted((set(np.cumsum(first)) & set(np.cumsum(second))) - {0})
    out, last = [], 0
    for cut in cuts:
        row = []
        for lengths in (first, second):
            ends = np.cumsum(lengths)
            row += [
                next(i for i, end in enumerate(ends) if end > last),
                next(i for i, end in enumerate(ends) if end >= cut) + 1,
            ]
        out.append(row)
        last = cut
    return out


LENGTHS = st.lists(st.integers(0, 3), max_size=12)


@settings(deadline=None)  # the first call may compile
@given(st.lists(st.tuples(LENGTHS, LENGTHS), max_size=5))
def test_spans_are_those_between_common_ends_of_tokens(documents):
    first, second = zip(*documents, strict=True) if documents else ((), ())
    found = align(
        np.array([n for one in first for n in one], int),
        np.array([n for one in second for n in one], int),
        np.cumsum([0, *map(len, first)]),
        np.cumsum([0, *map(len, second)]),
    )
    expected = [by_prefixes(a, b) for a, b in documents]
    assert found.equal.tolist() == [one is not None for one in expected]
    assert found.column().to_pylist() == expected


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40), st.data())
def test_spans_rise_cover_all_bytes_and_decode_to_equal_bytes(text, data):
    places = st.sets(st.integers(0, len(text)), max_size=12).map(lambda cuts: sorted({0, len(text)} | cuts))
    first, second = ([text[a:b] for a, b in itertools.pairwise(data.draw(places))] for _ in range(2))
    spans = align([len(t) for t in first], [len(t) for t in second]).spans
    assert spans[0, [0, 2]].tolist() == [0, 0]
    assert spans[-1, [1, 3]].tolist() == [len(first), len(second)]
    assert (spans[1:, [0, 2]] == spans[:-1, [1, 3]]).all()
    for i0, i1, j0, j1 in spans.tolist():
        assert i0 < i1
        assert j0 < j1
        assert b"".join(first[i0:i1]) == b"".join(second[j0:j1])
    assert b"".join(b"".join(first[i0:i1]) for i0, i1, _, _ in spans) == text


def test_a_beginning_of_text_on_one_side_is_in_no_span():
    assert align([0, 3, 2, 0], [1, 2, 2]).spans.tolist() == [[1, 2, 0, 2], [2, 3, 2, 3]]


def test_a_token_without_bytes_inside_a_span_stays_there():
    assert align([2, 0, 2], [4]).spans.tolist() == [[0, 3, 0, 1]]


def test_documents_with_other_bytes_are_null_in_the_column():
    found = align([1, 1, 2], [2, 3], [0, 2, 3], [0, 1, 2])
    assert found.equal.tolist() == [True, False]
    column = found.column()
    assert column.type == SPANS
    assert column.to_pylist() == [[[0, 2, 0, 1]], None]


def test_no_documents_and_empty_documents_have_no_spans():
    assert align([], [], [0], [0]).column().to_pylist() == []
    assert align([], [], [0, 0], [0, 0]).column().to_pylist() == [[]]
    assert align([0], [], [0, 1], [0, 0]).column().to_pylist() == [[]]


def test_the_column_goes_through_a_record_batch():
    batch = pa.RecordBatch.from_arrays([align([1, 1], [2]).column()], ["spans"])
    assert batch.schema.field("spans").type == SPANS
    batch.validate(full=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1, 2], [1]), "first lengths"),
        (([1], [0.5]), "second lengths"),
        (([[1]], [1]), "first lengths"),
        (([1, 1], [2], [0, 1], [0, 1]), "first bounds"),
        (([1, 1], [2], [0, 2, 1, 2], [0, 0, 0, 1]), "first bounds"),
        (([1, 1], [2], [0, 1, 2], [0, 1]), "2 documents in the first"),
    ],
)
def test_what_are_no_lengths_or_bounds_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        align(*arguments)


TEXTS = ["naïve ideas of ideas", "", " b", "ab  日本\U0001f600\n", f"a{END}b", "b" * 50]


def sentencepiece():
    """A BPE of characters with byte fallback and a space in front, as Llama 2 has it."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "i",
        "d",
        "e",
        "s",
        "▁i",
        "de",
    ]
    model = models.BPE(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[("▁", "i"), ("d", "e")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(["<unk>", "</s>"])
    return made.to_str().encode()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A byte-level tokenizer and one with byte fallback: (settings of AlignTokenizers, both tokenizers)."""
    folder = tmp_path_factory.mktemp("tokenizers")
    contents = {
        "first": train_bpe(["naïve ideas of ideas 日本"] * 3, BPEConfig(vocabulary_size=280)),
        "second": sentencepiece(),
    }
    settings = {}
    for name, content in contents.items():
        (folder / f"{name}.json").write_bytes(content)
        settings |= {
            f"{name}_file": str(folder / f"{name}.json"),
            f"{name}_sha256": hashlib.sha256(content).hexdigest(),
        }
    return settings, [Tokenizer.from_buffer(content) for content in contents.values()]


def batch(*texts):
    return pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], ["text"])


def test_spans_of_two_tokenizers_decode_to_equal_text(files):
    settings, tokenizers = files
    made = pa.table(AlignTokenizers(**settings).annotate(batch(*TEXTS))).to_pylist()
    for text, row in zip(TEXTS, made, strict=True):
        assert (row["first_ids"] == []) == (text == "")
        covered = b""
        for i0, i1, j0, j1 in row["byte_spans"]:
            first, second = (
                b"".join(spelt(tokenizer, number) for number in ids)
                for tokenizer, ids in zip(tokenizers, (row["first_ids"][i0:i1], row["second_ids"][j0:j1]), strict=True)
            )
            # the first token of the second side may hold the space in front
            assert second in (first, b" " + first if j0 == 0 else first)
            covered += first
        assert covered == text.encode()


def spelt(tokenizer, number):
    token = tokenizer.id_to_token(number)
    if token.startswith("<0x"):
        return bytes.fromhex(token[3:5])
    if tokenizer.decoder is None:  # of characters
        return token.replace("▁", " ").encode()
    return bytes(BYTE_OF[letter] for letter in token)


def test_spans_are_the_same_whatever_the_batch_is(files):
    settings, _ = files
    work = AlignTokenizers(**settings)
    whole = pa.table(work.annotate(batch(*TEXTS)))
    parts = pa.concat_tables([pa.table(work.annotate(batch(text))) for text in TEXTS])
    assert whole.to_pylist() == parts.to_pylist()
    assert work.annotate(batch())["byte_spans"].type == SPANS


def test_text_that_a_normaliser_changes_has_no_spans(files, tmp_path):
    settings, _ = files
    state = json.loads(Path(settings["first_file"]).read_bytes())
    content = json.dumps(state | {"normalizer": {"type": "NFC"}}).encode()
    (tmp_path / "nfc.json").write_bytes(content)
    changed = settings | {"first_file": str(tmp_path / "nfc.json"), "first_sha256": hashlib.sha256(content).hexdigest()}
    found = AlignTokenizers(**changed).annotate(batch("e\u0301", "\u00e9"))["byte_spans"].to_pylist()
    assert found[0] is None
    assert found[1]


def test_a_file_that_changed_or_cannot_be_read_and_a_null_text_are_refused(files, tmp_path):
    settings, _ = files
    with pytest.raises(DatasetError, match="changed since"):
        AlignTokenizers(**settings | {"first_sha256": "0" * 64}).setup()
    with pytest.raises(InputError, match="cannot be read"):
        AlignTokenizers(**settings | {"second_file": str(tmp_path / "none.json")}).setup()
    with pytest.raises(DatasetError, match="1 null texts"):
        AlignTokenizers(**settings).annotate(batch("a", None))
    content = Tokenizer(models.Unigram([("a", 0.0)], 0, False)).to_str().encode()
    (tmp_path / "unigram.json").write_bytes(content)
    changed = {"second_file": str(tmp_path / "unigram.json"), "second_sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(ConfigError, match="Unigram"):
        AlignTokenizers(**settings | changed).setup()
