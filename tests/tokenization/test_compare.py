"""Tokenizers beside each other: figures against plain counting, with their conventions, and what is refused."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from penstock.errors import ConfigError, DatasetError
from penstock.report.tokenizers import page
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.compare import ALL, compare
from penstock.tokenization.measures import Lexicon
from penstock.tokenization.sampling import Texts

ENGLISH = "the gate lets water into the turbine when pressure falls below the line".split()  # noqa: SIM905
CHINESE = "水轮机在压力下降时让水流入闸门河流压力管道模型数据"


def sentences(count=60):
    rng = random.Random(3)
    for _ in range(count):
        english = " ".join(rng.choices(ENGLISH, k=9))
        yield {"en": english, "fr": english.replace("e", "é") + " encore", "zh": "".join(rng.choices(CHINESE, k=12))}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    rows = list(sentences())
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, size in (("small", 270), ("large", 330)):
        (folder / name).mkdir()
        texts = [row["en"] for row in rows]
        (folder / name / "tokenizer.json").write_bytes(train_bpe(texts, BPEConfig(vocabulary_size=size)))
    corpus = Texts(paths=(str(folder / "x.jsonl"),), text_columns=("en", "fr", "zh"))
    return rows, {name: str(folder / name) for name in ("small", "large")}, corpus, folder


@pytest.fixture(scope="module")
def found(world):
    _, tokenizers, corpus, _ = world
    return compare(tokenizers, corpus, parallel="en", reference="small")


def test_every_figure_is_what_counting_by_hand_gives(world, found):
    rows, tokenizers, _, _ = world
    plain = {name: Tokenizer.from_file(f"{path}/tokenizer.json") for name, path in tokenizers.items()}
    for name, one in plain.items():
        per_line = {}
        for language in ("en", "fr", "zh"):
            texts = [row[language] for row in rows]
            ids = [one.encode(text).ids for text in texts]
            tokens, words = sum(map(len, ids)), [word for text in texts for word in text.split()]
            per_line[language] = tokens / len(texts)
            value = lambda figure, language=language, name=name: found.value(name, language, figure)  # noqa: E731
            assert value("tokens") == tokens
            assert value("bytes_per_token") == pytest.approx(sum(len(t.encode()) for t in texts) / tokens)
            assert value("characters_per_token") == pytest.approx(sum(map(len, texts)) / tokens)
            assert value("fertility") == pytest.approx(tokens / len(words))
            single = sum(len(one.encode(" " + word).ids) == 1 for word in words)
            assert value("strr") == pytest.approx(single / len(words))
            assert value("v_observed") == len({i for row in ids for i in row})
            p = np.array(list(Counter(i for row in ids for i in row).values())) / tokens
            entropy = np.log2((p**2.5).sum()) / -1.5
            assert value("renyi_nominal") == pytest.approx(entropy / np.log2(one.get_vocab_size()))
            assert value("renyi_observed") == pytest.approx(entropy / np.log2(len(p)))
            english = sum(len(one.encode(row["en"]).ids) for row in rows)
            assert value("parity") == pytest.approx(tokens / english)
            other = sum(len(plain["small"].encode(text).ids) for text in texts)
            assert value("nsl") == pytest.approx(tokens / other)
        c = list(per_line.values())
        expected = sum(abs(a - b) for a in c for b in c) / (2 * 9 * np.mean(c))
        assert next(t.gini for t in found.tokenizers if t.name == name) == pytest.approx(expected)


def test_the_row_over_all_groups_adds_their_counts(found):
    for figure in ("tokens", "bytes", "words", "documents"):
        parts = [found.value("large", group, figure) for group in ("en", "fr", "zh")]
        assert found.value("large", ALL, figure) == sum(parts)


def test_every_figure_carries_what_it_was_measured_with(found):
    for figure in found.figures:
        told = {key: figure[key] for key in ("v_nominal", "word_definition", "leading_space", "normalisation")}
        assert all(told.values())
        assert len(figure["corpus"]) == 32
        assert figure["tokenizer_sha256"] == next(t.sha256 for t in found.tokenizers if t.name == figure["tokenizer"])
    assert {f["group"]: f["spaced"] for f in found.figures} == {"en": True, "fr": True, "zh": False, ALL: False}
    assert found.value("small", "en", "v_nominal") == 270
    json.dumps(found.to_json(), allow_nan=False)


def test_tokens_are_searched_in_the_lexicon_of_their_group(world, tmp_path):
    rows, tokenizers, corpus, _ = world
    path = tmp_path / "words.txt"
    path.write_text("gate\tgate\nthe\npressure\tpress ure\n", encoding="utf-8")
    lexicon = Lexicon.read(str(path))
    found = compare(tokenizers, corpus, lexicons={"en": lexicon})
    one = Tokenizer.from_file(f"{tokenizers['large']}/tokenizer.json")
    unique = {i for row in rows for i in one.encode(row["en"]).ids}
    words = [one.decode([i]).strip() for i in unique]
    expected = sum(word in ("gate", "the", "pressure") for word in words) / len(words)
    assert found.value("large", "en", "lexicon_share") == pytest.approx(expected)
    assert 0 < found.value("large", "en", "purity") < found.value("large", "en", "lexicon_share")
    assert found.value("large", "fr", "lexicon_share") is None
    assert found.conventions["lexicons"] == {"en": str(path)}
    everywhere = compare(tokenizers, corpus, lexicons={ALL: lexicon})
    assert everywhere.value("large", "fr", "lexicon_share") is not None


def test_a_tokenizer_that_puts_its_own_space_is_not_given_another(world, tmp_path):
    _, tokenizers, corpus, _ = world
    state = json.loads(Path(tokenizers["large"], "tokenizer.json").read_bytes())
    state["normalizer"] = {"type": "Prepend", "prepend": " "}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    found = compare({"own": str(tmp_path), "given": tokenizers["large"]}, corpus)
    assert {t.name: t.leading_space for t in found.tokenizers} == {
        "own": "the tokenizer's own",
        "given": "one space before every word",
    }
    assert found.value("own", "en", "strr") == found.value("given", "en", "strr") > 0
    assert found.value("own", "en", "normalisation") == "Prepend"


def test_text_that_spells_a_special_token_is_text(world, tmp_path):
    _, tokenizers, _, _ = world
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "the <|endoftext|>", "domain": "d"}) + "\n")
    found = compare(tokenizers, Texts(paths=(str(tmp_path / "x.jsonl"),)))
    assert found.value("large", "d", "tokens") > 5
    assert found.groups() == ("d",)  # one group needs no row over all


def test_the_page_has_every_figure_and_nothing_that_runs(found):
    html = page(found)
    assert html.count("<svg") == 5  # bytes, parity, fertility, STRR, Rényi
    assert "<script" not in html
    assert "no white space" not in html.split("<h2>All figures")[0]
    assert "runs of characters that are not white space" in html
    assert f"{found.value('large', 'fr', 'parity'):.3f}" in html


def test_names_on_the_page_are_escaped(world):
    _, tokenizers, corpus, _ = world
    html = page(compare({"<b>x</b>": tokenizers["small"]}, corpus))
    assert "<b>x" not in html
    assert "&lt;b&gt;x" in html


def test_what_is_no_comparison_is_refused(world, tmp_path):
    _, tokenizers, corpus, _ = world
    with pytest.raises(ConfigError, match="no tokenizer"):
        compare({}, corpus)
    with pytest.raises(ConfigError, match="reference: got other, allowed small, large"):
        compare(tokenizers, corpus, reference="other")
    with pytest.raises(ConfigError, match="parallel: got de, allowed a group: en, fr, zh"):
        compare(tokenizers, corpus, parallel="de")
    with pytest.raises(ConfigError, match="must stay whole"):
        compare(tokenizers, corpus, parallel="en", limit=100)
    with pytest.raises(ConfigError, match="lexicon de: no such group"):
        compare(tokenizers, corpus, lexicons={"de": Lexicon("x", frozenset("a"), None)})
    rows = [{"text": "a", "domain": "en"}, {"text": "b", "domain": "de"}, {"text": "c", "domain": "de"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DatasetError, match="de has 2 documents and en 1"):
        compare(tokenizers, Texts(paths=(str(tmp_path / "x.jsonl"),)), parallel="en")
