"""Static vectors against model2vec itself. Run: pytest tests/embedding/test_static.py"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.embedding import static
from penstock.embedding.distil import read_table
from penstock.embedding.static import StaticVectors, save_static
from penstock.errors import ConfigError, DatasetError, InputError

WORDS = ["gate", "pipe", "model", "data", "Token", "zzz", "[PAD]", "[UNK]", "winter", ",", "é", "\n"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12)


@pytest.fixture(scope="module")
def embedder(static_folder, tmp_path_factory):
    path, digest = save_static(str(tmp_path_factory.mktemp("artifact")), *read_table(static_folder), {})
    return StaticVectors(path=path, digest=digest, dimensions=16)


@pytest.fixture(scope="module")
def by_hand(static_folder):
    """Mean of the known words' vectors, by a dictionary."""
    table, data = read_table(static_folder)
    known = Tokenizer.from_str(data.decode()).get_vocab()
    table = table.astype(np.float16).astype(np.float64)

    def embed(text):
        # "[PAD]" in a text is three unknown tokens: brackets and a word
        found = [table[known[w]] for w in text.lower().split() if w in known and not w.startswith("[")]
        total = np.sum(found, axis=0) if found else np.zeros(16)
        return total / np.linalg.norm(total) if total.any() else total

    return embed


@settings(deadline=None)
@given(texts)
def test_a_vector_is_the_mean_of_its_tokens_at_unit_length(embedder, by_hand, texts):
    assert embedder.embed(texts) == pytest.approx(np.array([by_hand(t) for t in texts]).reshape(-1, 16), abs=1e-5)


@settings(deadline=None)
@given(st.lists(st.sampled_from([w for w in WORDS if not w.startswith("[")]), max_size=30).map(" ".join))
def test_a_vector_is_that_of_model2vec(embedder, static_folder, text):
    from model2vec import StaticModel

    reference = StaticModel.from_pretrained(static_folder, force_download=False)
    assert embedder.embed([text])[0] == pytest.approx(reference.encode([text])[0], abs=1e-3)


@settings(deadline=None)
@given(texts, st.integers(1, 5))
def test_a_row_does_not_depend_on_its_batch(embedder, texts, size):
    whole = embedder.embed(texts)
    alone = [embedder.embed(texts[i : i + size]) for i in range(0, len(texts), size)]
    assert (np.concatenate([*alone, np.zeros((0, 16), np.float32)]) == whole).all()


def test_many_characters_go_in_several_calls(embedder, monkeypatch):
    texts = [f"{word} gate" for word in WORDS[:6]] * 3
    whole = embedder.embed(texts)
    for limit in (1, 7, 40):
        monkeypatch.setattr(static, "_BATCH_CHARACTERS", limit)
        assert (embedder.embed(texts) == whole).all()
    assert embedder.embed([]).shape == (0, 16)


def test_a_text_of_unknown_words_and_special_tokens_has_no_vector(embedder):
    assert not embedder.embed(["zzz", "[PAD]", "[UNK] [UNK]", "???", ""]).any()


def test_vectors_that_cancel_out_give_no_vector(static_folder, tmp_path):
    table, data = read_table(static_folder)
    table = np.zeros_like(table)
    known = Tokenizer.from_str(data.decode()).get_vocab()
    table[known["gate"], 0], table[known["pipe"], 0] = 1.0, -1.0
    path, digest = save_static(str(tmp_path), table, data, {})
    made = StaticVectors(path=path, digest=digest, dimensions=16).embed(["gate pipe", "gate gate pipe"])
    assert made[:, 0].tolist() == [0.0, 1.0]


def test_a_damaged_artifact_is_refused(embedder, tmp_path):
    copy = tmp_path / "x.json"
    copy.write_bytes(Path(embedder.path).read_bytes() + b" ")
    with pytest.raises(DatasetError, match="got sha256"):
        StaticVectors(path=str(copy), digest=embedder.digest, dimensions=16).embed(["a"])


def test_another_width_than_was_said_is_refused(embedder):
    other = StaticVectors(path=embedder.path, digest=embedder.digest, dimensions=15)
    with pytest.raises(DatasetError, match="got vectors of 16 dimensions, expected 15"):
        other.embed(["gate"])
    with pytest.raises(ConfigError, match="dimensions: got 0, allowed >= 1"):
        StaticVectors(path="x", digest="y", dimensions=0)


@pytest.mark.parametrize(
    "spoil",
    [lambda t: t[:-1], lambda t: t[0], lambda t: t[:, :0], lambda t: t * np.nan, lambda t: t * 1e9],
    ids=["a row short", "no matrix", "no columns", "no numbers", "beyond float16"],
)
def test_a_table_that_does_not_fit_its_tokenizer_is_refused(static_folder, tmp_path, spoil):
    table, data = read_table(static_folder)
    with pytest.raises(InputError, match="static model: got a table of shape"):
        save_static(str(tmp_path), spoil(table), data, {})


def test_a_tokenizer_that_is_none_is_refused(static_folder, tmp_path):
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        save_static(str(tmp_path), read_table(static_folder)[0], b"{}", {})


def test_the_artifact_holds_the_tokenizer_and_the_table_and_has_the_same_name_for_the_same_content(
    static_folder, tmp_path
):
    table, data = read_table(static_folder)
    one, two = (save_static(str(tmp_path / name), table, data, {}) for name in "ab")
    assert one[1] == two[1]
    assert one[0].removeprefix(str(tmp_path / "a")) == two[0].removeprefix(str(tmp_path / "b"))


def test_the_unknown_token_of_a_unigram_tokenizer_is_left_out(tmp_path):
    from tokenizers import models

    tokenizer = Tokenizer(models.Unigram([("a", -1.0), ("<unk>", -9.0), ("b", -1.0)], unk_id=1))
    table = np.array([[1.0, 0], [0, 5.0], [0.6, 0.8]])
    path, digest = save_static(str(tmp_path), table, tokenizer.to_str().encode(), {})
    made = StaticVectors(path=path, digest=digest, dimensions=2).embed(["aqa", "q", "b"])
    assert made == pytest.approx(np.array([[1, 0], [0, 0], [0.6, 0.8]]), abs=1e-3)


def bert(words, **options):
    from tokenizers import models, normalizers, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]"])
    return tokenizer


PIECES = ["a", "b", "##a", "##b", ".", "[", "]", "\u4e2d", "e", "##e", "i", "##i", "pad"]
odd = st.text(
    st.sampled_from("aAbB.[]\u4e2d e\u0301E\u0130\t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u200b\x00\ufffd"), max_size=12
)


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    table = np.random.default_rng(1).normal(size=(len(PIECES) + 2, 4))
    path, digest = save_static(str(tmp_path_factory.mktemp("bert")), table, bert(PIECES).to_str().encode(), {})
    return static._load(path, digest)


@settings(deadline=None, max_examples=300)
@given(st.lists(odd | st.just("[PAD] a"), max_size=6))
def test_words_tokenised_once_give_the_vectors_of_whole_texts_to_the_last_bit(wordpiece, texts):
    import dataclasses

    assert wordpiece.by_words
    by_words, whole = np.zeros((2, len(texts), 4), np.float32)
    wordpiece.pool(texts, by_words)
    dataclasses.replace(wordpiece, by_words=False).pool(texts, whole)
    assert (by_words == whole).all()


def test_only_a_tokenizer_that_cuts_at_blanks_goes_word_by_word():
    import json

    from tokenizers import AddedToken, models, normalizers, pre_tokenizers

    def of(tokenizer):
        return static._word_by_word(json.loads(tokenizer.to_str()))

    assert of(bert(PIECES))
    other = bert(PIECES)
    other.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not of(other)
    other = bert(PIECES)
    other.normalizer = normalizers.Sequence([normalizers.Replace(" ", "_")])
    assert not of(other)
    other = bert(PIECES)
    other.add_tokens([AddedToken("a b", special=False)])
    assert not of(other)
    assert not of(Tokenizer(models.Unigram([("a", -1.0)], unk_id=0)))
