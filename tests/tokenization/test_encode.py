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
from penstock.spans import LEARN
from penstock.tokenization import bpe, encode, piece_encoder
from penstock.tokenization.encode import Encode
from penstock.tokenization.piece_encoder import PieceEncoder

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


def learning(*rows):
    """Rows of (text, learned ranges)."""
    texts, ranges = zip(*rows, strict=True) if rows else ((), ())
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string()), "learn": pa.array(ranges, LEARN)})


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


def library_ids(work_, *texts):
    tokenizer = Tokenizer.from_file(work_.tokenizer_file)
    tokenizer.encode_special_tokens = True
    return [[*row.ids, 0] for row in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


@functools.cache
def grouped_from_the_right():
    return save(bpe.train_bpe([SAMPLE * 3, SAMPLE[::-1]], bpe.BPEConfig(vocabulary_size=420, digits="right_to_left")))


@given(HOSTILE | TEXT)
@settings(max_examples=200, deadline=None)
def test_the_compiled_loops_give_the_ids_of_the_library(text):
    for work_ in (encoder(), grouped_from_the_right()):
        assert ids(work_, text, "short", text[::-1]) == library_ids(work_, text, "short", text[::-1])


@pytest.mark.parametrize("unit", ["a", "1", " ", "漢", "!\n", "the water"])
def test_a_document_of_one_endless_run_has_the_ids_of_the_library(unit):
    text = unit * (200_000 // len(unit))
    for work_ in (encoder(), grouped_from_the_right()):
        assert ids(work_, text) == library_ids(work_, text)


def test_any_character_next_to_any_other_kind_gives_the_ids_of_the_library():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 0x110000, 60_000)
    codes = codes[(codes < 0xD800) | (codes > 0xDFFF)]
    plain = rng.choice([ord(c) for c in " \n\r\t'sSlLvVeEdDmMtT1!aé\u017f\u00a0\u2028"], codes.size)
    text = "".join(map(chr, np.where(rng.random(codes.size) < 0.4, codes, plain)))
    texts = [text[i : i + 500] for i in range(0, len(text), 500)]
    assert ids(encoder(), *texts) == library_ids(encoder(), *texts)


def test_words_met_before_are_forgotten_when_there_is_no_more_room(monkeypatch):
    monkeypatch.setattr(piece_encoder, "_WORDS", 4)
    few = PieceEncoder.of(json.loads(trained()))
    monkeypatch.setattr(piece_encoder, "_WORD_BYTES", 300)
    monkeypatch.setattr(piece_encoder, "_WORDS", 1024)
    short = PieceEncoder.of(json.loads(trained()))
    texts = [" ".join(f"water{i} the {'wheel' * (i % 40)}" for i in range(n, n + 50)) for n in range(4)]
    expected = [row[:-1] for row in library_ids(encoder(), *texts)]
    for limited in (few, short):
        flat, lengths = limited.encode(pa.array(texts), np.dtype(np.uint16))
        assert [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])] == expected


def test_a_text_that_is_not_utf_8_is_refused():
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff"))
    with pytest.raises(InputError, match="got a text that is not UTF-8"):
        encoder().annotate(pa.RecordBatch.from_arrays([broken], ["text"]))


def pieces_are_known(state):
    work_ = save(json.dumps(state).encode())
    return encode._load(work_.tokenizer_file, work_.sha256, bpe.END).pieces is not None


GPT2 = json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__())


def test_the_compiled_loops_run_only_where_pieces_and_merges_decide_alone():
    ours = json.loads(trained())
    assert pieces_are_known(ours)
    assert pieces_are_known(json.loads(Path(grouped_from_the_right().tokenizer_file).read_bytes()))
    assert not pieces_are_known({**ours, "normalizer": {"type": "NFC"}})
    assert not pieces_are_known({**ours, "pre_tokenizer": GPT2})
    for setting in ({"dropout": 0.1}, {"ignore_merges": True}, {"end_of_word_suffix": "</w>"}):
        assert not pieces_are_known({**ours, "model": {**ours["model"], **setting}})
    assert not pieces_are_known(
        {
            **ours,
            "added_tokens": [
                *ours["added_tokens"],
                {**ours["added_tokens"][0], "id": 5, "content": "the", "special": False},
            ],
        }
    )


def test_another_tokenizer_is_run_by_the_library():
    other = save(json.dumps({**json.loads(trained()), "pre_tokenizer": GPT2}).encode())
    text = "the wheel " + "a" * 400
    assert ids(other, text, "") == library_ids(other, text, "")


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
    done = work.apply([encoder()], learning(("the water", None), ("", [])))
    assert done.batch.schema.names == ["text", "learn", *Encode.adds]
    assert done.rows == {"encode": (2, 2)}
    # without ranges there are no runs
    assert work.apply([encoder()], batch("a")).batch.schema.names == ["text", "token_ids", "tokens"]


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


# ── learned ranges ───────────────────────────────────────────────────────────────────────────────

OPEN, CLOSE = "<|im_start|>", "<|im_end|>"


@functools.cache
def rendered_encoder():
    """A tokenizer with the markers of a chat template, ids 2 and 3."""
    return save(bpe.train_bpe([SAMPLE * 3, "hello"], bpe.BPEConfig(vocabulary_size=420, special=(OPEN, CLOSE))))


def token_bytes(tokenizer, number):
    """The bytes of one token, from the byte-level alphabet as GPT-2 made it (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(code): code for code in printable}
    letters |= {chr(256 + i): code for i, code in enumerate(c for c in range(256) if c not in printable)}
    return bytes(letters[letter] for letter in tokenizer.id_to_token(number))


def learned_by_hand(tokenizer, row, ranges, markers=()):
    """Runs of the tokens of which every byte lies in a range, one token and one byte at a time."""
    mask, at = [], 0
    inside = {byte for start, stop in zip(ranges[::2], ranges[1::2], strict=True) for byte in range(start, stop)}
    for number in row[:-1]:
        name = tokenizer.id_to_token(number)
        size = len(name.encode() if name in markers else token_bytes(tokenizer, number))
        mask.append(all(byte in inside for byte in range(at, at + size)))
        at += size
    mask.append(at > 0 and at - 1 in inside)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    return at, edges.tolist()


@st.composite
def rows_with_ranges(draw):
    units = [
        "a",
        "the water",
        " ",
        "\n",
        "é",
        "e\u0301",
        "漢字",
        "😀",
        "👩\u200d💻",
        "12345",
        "|>",
        CLOSE,
        OPEN,
        bpe.END,
    ]
    texts = draw(st.lists(st.lists(st.sampled_from(units), max_size=8).map("".join), min_size=1, max_size=4))
    rows = []
    for text in texts:
        borders = [len(text[:i].encode()) for i in range(len(text) + 1)]
        chosen = sorted(draw(st.lists(st.sampled_from(borders), max_size=6)))
        rows.append((text, draw(st.none() | st.just(chosen[: len(chosen) // 2 * 2]))))
    return rows


@given(rows_with_ranges(), st.sampled_from([1, 40, 1 << 20]))
@settings(max_examples=100, deadline=None)
def test_a_token_is_learned_when_all_its_bytes_are(rows, limit):
    tokenizer = Tokenizer.from_file(rendered_encoder().tokenizer_file)
    before, encode._BATCH_BYTES = encode._BATCH_BYTES, limit
    try:
        out = rendered_encoder().annotate(learning(*rows))
    finally:
        encode._BATCH_BYTES = before
    assert out["tokens"].to_pylist() == [len(row) for row in out["token_ids"].to_pylist()]
    for (text, ranges), row, runs in zip(
        rows, out["token_ids"].to_pylist(), out["learn_tokens"].to_pylist(), strict=True
    ):
        assert tokenizer.decode(row[:-1], skip_special_tokens=False) == text
        if ranges is None:
            assert runs is None
            assert {2, 3}.isdisjoint(row)
        else:
            size, expected = learned_by_hand(tokenizer, row, ranges, (OPEN, CLOSE))
            assert (size, runs) == (len(text.encode()), expected)
            assert (row.count(2), row.count(3)) == (text.count(OPEN), text.count(CLOSE))
            assert row.count(0) == 1
    out["learn_tokens"].validate(full=True)


@given(rows_with_ranges())
@settings(max_examples=60, deadline=None)
def test_another_tokenizer_gives_the_same_runs_through_its_offsets(rows):
    """Equal but for tokens of half a character, which span the whole of it: both ways are right about borders."""
    state = json.loads(Path(rendered_encoder().tokenizer_file).read_bytes())
    # a normaliser that changes nothing here makes it a tokenizer whose pieces are not known
    other = save(
        json.dumps({**state, "normalizer": {"type": "Replace", "pattern": {"String": "\x00"}, "content": ""}}).encode()
    )
    ours, theirs = rendered_encoder().annotate(learning(*rows)), other.annotate(learning(*rows))
    assert not encode._load(other.tokenizer_file, other.sha256, bpe.END).pieces
    assert theirs["token_ids"] == ours["token_ids"]
    assert theirs["learn_tokens"] == ours["learn_tokens"]


def test_borders_inside_tokens_and_the_closing_id():
    text = "the water"
    assert ids(encoder(), text) == [[*Tokenizer.from_buffer(trained()).encode(text).ids, 0]]
    assert Tokenizer.from_buffer(trained()).encode(text).tokens == ["t", "he", "Ġwater"]
    ranges = [[0, 3], [0, 4], [2, 9], [3, 9], [0, 9], [0, 3, 3, 9], [], [9, 9], [4, 8], None]
    out = encoder().annotate(learning(*((text, r) for r in ranges)))["learn_tokens"].to_pylist()
    assert out == [[0, 2], [0, 2], [2, 4], [2, 4], [0, 4], [0, 4], [], [], [], None]


def test_markers_are_tokens_in_rendered_rows_alone():
    text = f"{OPEN}user\nhi{CLOSE}\n{bpe.END}{bpe.PAD}"
    plain, rendered = rendered_encoder().annotate(learning((text, None), (text, [0, 5])))["token_ids"].to_pylist()
    assert {2, 3}.isdisjoint(plain)
    assert [number for number in rendered if number < 4] == [2, 3, 0]
    assert rendered_encoder().annotate(batch(text))["token_ids"].to_pylist() == [plain]


def test_markers_cut_the_text_as_the_library_does_it():
    texts = [f"{OPEN}user\n\nthe{CLOSE}\n", f"{CLOSE}{CLOSE} a{OPEN}", f"<|im_end{CLOSE}|>"]
    library = Tokenizer.from_file(rendered_encoder().tokenizer_file)
    out = rendered_encoder().annotate(learning(*((text, []) for text in texts)))
    assert out["token_ids"].to_pylist() == [[*library.encode(text).ids, 0] for text in texts]


def test_rows_without_ranges_take_the_way_without_offsets(monkeypatch):
    def never(*_):
        raise AssertionError("offsets were looked for")

    monkeypatch.setattr(encode._Loaded, "encode_rendered", never)
    out = encoder().annotate(learning(("the", None), ("water", None)))
    assert out["learn_tokens"].type == LEARN
    assert out["learn_tokens"].null_count == 2
    # a batch with some rows of ranges: only the calls that hold one
    monkeypatch.setattr(encode, "_BATCH_BYTES", 1)
    with pytest.raises(AssertionError, match="offsets were looked for"):
        encoder().annotate(learning(("the", None), ("water", [0, 1])))


def test_no_rows_give_typed_empty_runs():
    out = encoder().annotate(learning())
    assert out["learn_tokens"].type == LEARN
    assert len(out["learn_tokens"]) == 0


def test_ranges_that_are_none_are_refused_by_row():
    with pytest.raises(InputError, match=r"learn of row 1: got \[0, 9\], allowed positions up to the 5 bytes"):
        encoder().annotate(learning(("the", [0, 3]), ("water", [0, 9])))
