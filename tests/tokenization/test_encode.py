"""pytest tests/tokenization/test_encode.py"""

import functools
import hashlib
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from penstock import work
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization import bpe, encode
from penstock.tokenization.encode import Encode

SAMPLE = "the water runs down the penstock and turns the wheel 1234567 times.\n\n  Dann: <|endoftext|> a'll हिन्दी 漢字 "


def save(content, folder=None):
    path = Path(folder or tempfile.mkdtemp()) / "tokenizer.json"
    path.write_bytes(content)
    return Encode(tokenizer_file=str(path), sha256=hashlib.sha256(content).hexdigest())


@functools.cache
def trained():
    return bpe.train_bpe([SAMPLE * 3, SAMPLE[::-1]], bpe.BPEConfig(vocabulary_size=420))


@functools.cache
def encoder():
    return save(trained())


def batch(*texts):
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})


def ids(work_, *texts):
    return work_.annotate(batch(*texts))["token_ids"].to_pylist()


def decode(row):
    return Tokenizer.from_buffer(trained()).decode(row, skip_special_tokens=False)


TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.text("a 1'!\n\té漢<|>endoftxt", max_size=60)


@given(st.lists(TEXT, max_size=5))
@example(["<|endoftext|>", "<|pad|><|endoftext|>x", "", " ", "\x00\x85\u2028\U0001f600"])
@settings(max_examples=150, deadline=None)
def test_ids_decode_to_exactly_the_text(texts):
    out = encoder().annotate(batch(*texts))
    assert [decode(row[:-1]) for row in out["token_ids"].to_pylist()] == texts
    assert all(row[-1] == 0 and 0 not in row[:-1] and 1 not in row for row in out["token_ids"].to_pylist())
    assert out["tokens"].to_pylist() == [len(row) for row in out["token_ids"].to_pylist()]


def test_a_text_that_spells_a_special_token_is_ordinary_text():
    # what tokenizers does when nobody tells it otherwise
    plain = Tokenizer.from_buffer(trained())
    assert plain.encode("a<|endoftext|>b", add_special_tokens=False).ids.count(0) == 1
    row = ids(encoder(), "a<|endoftext|>b<|pad|>")[0]
    assert row.count(0) == 1
    assert row[-1] == 0
    assert row.count(1) == 0
    assert decode(row) == "a<|endoftext|>b<|pad|><|endoftext|>"


def test_an_empty_document_is_one_end_token():
    assert ids(encoder(), "", "") == [[0], [0]]


def test_ids_equal_those_of_the_tokenizer_itself():
    plain = Tokenizer.from_buffer(trained())
    texts = ["the water", "turns 12345", "漢字\n\n x"]
    assert ids(encoder(), *texts) == [[*plain.encode(text).ids, 0] for text in texts]


def test_no_rows_give_typed_empty_columns():
    out = encoder().annotate(batch())
    assert out["token_ids"].type == pa.list_(pa.uint16())
    assert len(out["token_ids"]) == 0
    assert out["tokens"].type == pa.int32()
    assert len(out["tokens"]) == 0


def test_a_slice_is_encoded_like_its_rows():
    texts = ["zero", "one é", "", "three 漢", "four"]
    sliced = batch(*texts).slice(1, 3)
    assert encoder().annotate(sliced)["token_ids"].to_pylist() == ids(encoder(), *texts[1:4])


def test_large_strings_are_accepted():
    rows = pa.RecordBatch.from_pydict({"text": pa.array(["the", "wheel"], pa.large_string())})
    assert encoder().annotate(rows)["token_ids"].to_pylist() == ids(encoder(), "the", "wheel")


@pytest.mark.parametrize("limit", [1, 7, 30, 10_000])
def test_the_size_of_a_call_does_not_change_the_ids(monkeypatch, limit):
    texts = ["", "the", "water runs 漢字", "x" * 20, "", "down", ""]
    expected = ids(encoder(), *texts)
    monkeypatch.setattr(encode, "_BATCH_BYTES", limit)
    assert ids(encoder(), *texts) == expected


# runs longer than a piece, and spaces, quotes and newlines whose piece depends on what follows
HOSTILE = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "1", "!", "'", "'ll", "é", "漢", "\u0301", "\r\n", "\t", "😀", "<|endoftext|>"]
    ).flatmap(lambda unit: st.integers(1, 150).map(lambda n: unit * n)),
    min_size=4,
    max_size=14,
).map("".join)


@given(HOSTILE, st.integers(2 * bpe.LOOK_AHEAD, 3 * bpe.LOOK_AHEAD))
@settings(max_examples=120, deadline=None)
def test_a_long_document_in_windows_has_the_ids_of_the_whole(text, window):
    whole = ids(encoder(), text, "short", text[::-1])
    before = encode._WINDOW
    encode._WINDOW = window
    try:
        assert ids(encoder(), text, "short", text[::-1]) == whole
    finally:
        encode._WINDOW = before


def test_windows_are_used_only_where_the_pieces_are_known(monkeypatch):
    def windowed(state):
        work_ = save(json.dumps(state).encode())
        return encode._load(work_.tokenizer_file, work_.sha256, bpe.END).windowed

    ours = json.loads(trained())
    assert windowed(ours)
    assert not windowed({**ours, "normalizer": {"type": "NFC"}})
    assert not windowed({**ours, "pre_tokenizer": json.loads(pre_tokenizers.ByteLevel().__getstate__())})
    assert not windowed(
        {
            **ours,
            "added_tokens": [
                *ours["added_tokens"],
                {**ours["added_tokens"][0], "id": 5, "content": "the", "special": False},
            ],
        }
    )


def test_a_document_of_another_tokenizer_is_encoded_whole(monkeypatch):
    state = {
        **json.loads(trained()),
        "pre_tokenizer": json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__()),
    }
    gpt2 = save(json.dumps(state).encode())
    text = "the wheel " + "a" * 400
    expected = ids(gpt2, text)
    monkeypatch.setattr(encode, "_WINDOW", 200)
    assert ids(gpt2, text) == expected


def test_truncation_and_padding_of_the_file_are_ignored():
    tokenizer = Tokenizer.from_buffer(trained())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=6, pad_id=1, pad_token="<|pad|>")
    texts = ["a", "the water runs down the penstock and turns"]
    assert ids(save(tokenizer.to_str().encode()), *texts) == ids(encoder(), *texts)


def of_size(n):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {bpe.END: 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}
    vocabulary |= {f"unused {i}": i for i in range(len(vocabulary), n)}
    vocabulary[" a"] = vocabulary.pop(f"unused {n - 1}")
    state = json.loads(Tokenizer(models.BPE(vocabulary, [])).to_str())
    state["pre_tokenizer"] = json.loads(trained())["pre_tokenizer"]
    return save(json.dumps(state).encode())


@pytest.mark.parametrize(("size", "expected"), [(65_536, pa.uint16()), (65_537, pa.uint32())])
def test_ids_are_32_bits_wide_above_65536_tokens(size, expected):
    out = of_size(size).annotate(batch("b"))
    assert out["token_ids"].type == pa.list_(expected)


def test_ids_above_65535_survive():
    state = json.loads(trained())
    state["model"]["vocab"]["Ġzz"] = 70_000
    state["model"]["vocab"]["zz"] = 69_999
    state["model"]["merges"] = [["z", "z"], ["Ġ", "zz"], *state["model"]["merges"]]
    assert ids(save(json.dumps(state).encode()), " zz") == [[70_000, 0]]


def test_it_is_an_annotator_that_adds_what_it_declares():
    done = work.apply([encoder()], batch("the water", ""))
    assert done.batch.schema.names == ["text", *Encode.adds]
    assert done.rows == {"encode": (2, 2)}


def test_it_survives_pickling_and_loads_the_tokenizer_once():
    again = pickle.loads(pickle.dumps(encoder()))  # noqa: S301
    encoder().setup()
    misses = encode._load.cache_info().misses
    assert ids(again, "the wheel") == ids(encoder(), "the wheel")
    assert encode._load.cache_info().misses == misses


def test_another_file_under_the_same_path_is_refused(tmp_path):
    work_ = save(trained(), tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(trained() + b" ")
    with pytest.raises(DatasetError, match="got sha256 [0-9a-f]{64}, expected " + work_.sha256):
        work_.setup()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: cannot be read"):
        Encode(tokenizer_file=str(tmp_path / "nowhere.json"), sha256="0" * 64).setup()


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        save(b'{"a": 1}', tmp_path).setup()


def test_an_unknown_end_token_names_those_there_are():
    work_ = Encode(tokenizer_file=encoder().tokenizer_file, sha256=encoder().sha256, end_token="</s>")
    with pytest.raises(ConfigError, match=r"got '</s>'.*special tokens are <\|endoftext\|>, <\|pad\|>"):
        work_.setup()


def test_another_end_token_closes_documents():
    work_ = Encode(tokenizer_file=encoder().tokenizer_file, sha256=encoder().sha256, end_token="<|pad|>")
    assert ids(work_, "") == [[1]]


def test_null_text_is_refused():
    with pytest.raises(DatasetError, match="got 1 null texts, allowed none"):
        encoder().annotate(batch("a", None))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_file": "", "sha256": "0" * 64}, "tokenizer_file: got nothing"),
        ({"tokenizer_file": "t.json", "sha256": "ABC"}, "sha256: got 'ABC', allowed 64 lower-case hex digits"),
        ({"tokenizer_file": "t.json", "sha256": "0" * 64, "end_token": ""}, "end_token: got nothing"),
    ],
)
def test_a_config_out_of_range_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        Encode(**config)


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 40))
def test_runs_of_rows_cover_the_batch_in_order(sizes, limit):
    before = encode._BATCH_BYTES
    encode._BATCH_BYTES = limit
    try:
        runs = list(encode._runs(np.array(sizes, dtype=np.int64)))
    finally:
        encode._BATCH_BYTES = before
    assert [row for start, stop in runs for row in range(start, stop)] == list(range(len(sizes)))
    # beyond its first row a run never holds more than the limit
    assert all(sum(sizes[start + 1 : stop]) <= limit for start, stop in runs)
