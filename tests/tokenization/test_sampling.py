"""Samples of a corpus by weights: exact shares, nothing that depends on order, and clear refusals."""

import json
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import rehash
from penstock.tokenization.sampling import ROWS, Texts, grouped, sample


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    rows = [
        {"text": f"text {i} of {domain} " + "é" * (i % 7), "domain": domain} for domain in "abc" for i in range(200)
    ]
    return Texts(paths=(write(tmp_path / "x.jsonl", rows),))


class Fake(Texts):
    """Batches with languages, which files have none of."""

    def batches(self):
        rows = [
            (f"{domain}{language}{i}", i, domain, language, f"{domain} {language} {i:04d}")
            for domain, language in self.paths
            for i in range(100)
        ]
        columns = list(zip(*rows, strict=True))
        arrays = [pa.array(c, field.type) for c, field in zip(columns, ROWS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def test_shares_hold_to_the_byte_and_texts_are_whole_but_the_last(corpus):
    taken = sample(corpus, budget=3001, domains={"a": 3, "b": 1})
    sizes = {cell.name[0]: cell.bytes_taken for cell in taken.cells}
    # two bytes of an é are not parted, so a cell may lack one
    assert sizes["a"] in (2250, 2251)
    assert sizes["b"] in (749, 750)
    assert taken.limited_by is None
    given = {text for batch in corpus.batches() for text in batch["text"].to_pylist()}
    cut = [text for text in taken.texts() if text not in given]
    assert len(cut) <= 2
    assert all(any(whole.startswith(text) for whole in given) for text in cut)


def test_a_sample_does_not_depend_on_files_or_their_order(tmp_path):
    rows = [{"text": f"number {i}", "domain": "ab"[i % 2]} for i in range(300)]
    one = write(tmp_path / "x.jsonl", rows)
    (tmp_path / "parts").mkdir()
    # the same documents under the same ids, read in another order
    other = write(tmp_path / "parts" / "x.jsonl", rows)
    extra = write(tmp_path / "y.jsonl", [{"text": f"more {i}", "domain": "a"} for i in range(50)])
    options = {"budget": 1000, "domains": {"a": 1, "b": 2}, "seed": 5}
    found = [sample(Texts(paths=paths), **options) for paths in ((one, extra), (extra, one), (other, extra))]
    assert found[0].to_json() == found[1].to_json() == found[2].to_json()
    assert list(found[0].texts()) == list(found[1].texts()) == list(found[2].texts())


def test_another_seed_takes_other_texts_and_a_larger_budget_adds_to_them(corpus):
    small, large, other = (
        set(sample(corpus, budget=budget, seed=seed).texts()) for budget, seed in ((2000, 1), (4000, 1), (2000, 2))
    )
    assert len(small - large) <= 1  # the one that was cut
    assert len(small & other) < len(small) // 2


def test_weights_shrink_a_sample_rather_than_bend(corpus):
    sizes = {cell.name[0]: cell.bytes for cell in sample(corpus, domains={"a": 1, "b": 1}).cells}
    taken = sample(corpus, budget=10**9, domains={"a": 0.9, "b": 0.1})
    assert taken.limited_by == ("a",)
    assert taken.bytes == pytest.approx(sizes["a"] / 0.9, rel=1e-3)
    assert {cell.name[0]: cell.bytes_taken for cell in taken.cells}["a"] == sizes["a"]
    assert taken.to_json()["asked_bytes"] == 10**9


class Cut(Texts):
    """Rows of two domains, in batches of as many rows as its paths say, from the back where they begin with a minus."""

    def batches(self):
        rng = random.Random(0)
        rows = [(f"d{i}", rng.getrandbits(64), "ab"[i % 2], None, f"{i} " * rng.randint(1, 30)) for i in range(400)]
        columns = list(zip(*rows, strict=True))
        arrays = [pa.array(c, field.type) for c, field in zip(columns, ROWS, strict=True)]
        whole = pa.RecordBatch.from_arrays(arrays, schema=ROWS)
        size = int(self.paths[0])
        starts = range(0, 400, abs(size))
        for start in starts if size > 0 else reversed(starts):
            yield whole.slice(start, abs(size))


@pytest.mark.parametrize("budget", [100, 900, 4000, None])
def test_a_sample_does_not_depend_on_batches_and_is_the_first_by_hash(budget):
    options = {"budget": budget, "domains": {"a": 2, "b": 1}, "seed": 3}
    whole = sample(Cut(paths=("400",)), **options)
    for size in ("7", "-7", "-31"):
        assert sample(Cut(paths=(size,)), **options).table.equals(whole.table)
    batch = next(Cut(paths=("400",)).batches())
    hashes = rehash(batch["id_hash"].to_numpy(), 3, "tokenizer")
    order = [i for i in hashes.argsort() if batch["domain"][i].as_py() == "a"]
    taken = [row["doc_id"] for row in whole.table.to_pylist() if row["domain"] == "a"]
    assert taken == [batch["doc_id"][i].as_py() for i in order[: len(taken)]]


def test_without_weights_or_budget_everything_is_taken(corpus):
    taken = sample(corpus)
    assert taken.documents == 600
    assert taken.bytes == sum(len(text.encode()) for text in taken.texts())


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.floats(0.05, 10), min_size=1), st.integers(200, 4000))
def test_every_share_is_within_a_character_of_what_was_asked(tmp_path_factory, weights, budget):
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"text": f"{domain}é{i}" * 3, "domain": domain} for domain in "abc" for i in range(400)]
    taken = sample(Texts(paths=(write(folder / "x.jsonl", rows),)), budget=budget, domains=weights)
    total = sum(weights.values())
    for cell in taken.cells:
        assert abs(cell.bytes_taken - taken.bytes * weights[cell.name[0]] / total) <= 3


def test_domain_shares_are_divided_among_the_languages_that_a_domain_has():
    corpus = Fake(paths=(("web", "en"), ("web", "de"), ("book", "en"), ("book", "fr")))
    taken = sample(corpus, budget=600, domains={"web": 2, "book": 1}, languages={"en": 1, "de": 3})
    shares = {cell.name: cell.share for cell in taken.cells}
    # book has no German, so English has all of it; French was not named
    assert shares == {
        ("web", "en"): pytest.approx(2 / 3 / 4),
        ("web", "de"): pytest.approx(2 / 3 * 3 / 4),
        ("book", "en"): pytest.approx(1 / 3),
    }
    assert {cell.name: cell.bytes_taken for cell in taken.cells} == {
        ("web", "en"): 100,
        ("web", "de"): 300,
        ("book", "en"): 200,
    }


def test_languages_alone_leave_domains_as_they_are():
    corpus = Fake(paths=(("web", "en"), ("book", "en"), ("web", "de")))
    taken = sample(corpus, budget=2000, languages={"en": 1})
    assert [cell.name for cell in taken.cells] == [("en",)]
    assert set(taken.table["domain"].to_pylist()) == {"web", "book"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": {"aa": 1.0}}, r"weight aa: the corpus has no such text, allowed a, b, c.*did you mean a\?"),
        ({"domains": {"a": -1.0}}, "allowed a finite number"),
        ({"domains": {"a": float("nan")}}, "allowed a finite number"),
        ({"domains": {"a": 0.0}}, "a weight above 0"),
        ({"budget": 0}, "budget of 0 bytes"),
    ],
)
def test_weights_that_cannot_hold_are_refused(corpus, options, message):
    with pytest.raises(ConfigError, match=message):
        sample(corpus, **options)


def test_languages_asked_of_texts_without_any_are_refused(corpus):
    with pytest.raises(DatasetError, match="no language"):
        sample(corpus, languages={"en": 1.0})
    with pytest.raises(DatasetError, match="no language"):
        grouped(corpus, "language")


def test_a_domain_without_any_named_language_is_refused():
    corpus = Fake(paths=(("web", "en"), ("book", "fr")))
    with pytest.raises(ConfigError, match="weight book: got a domain with none of the languages en"):
        sample(corpus, domains={"web": 1, "book": 1}, languages={"en": 1})


def test_a_corpus_without_text_is_refused_with_what_was_dropped(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": ""}, {"text": None}])
    with pytest.raises(DatasetError, match="2 records that are none"):
        sample(Texts(paths=(path,)))


def test_columns_side_by_side_are_domains_of_their_own(tmp_path):
    rows = [{"en": f"house {i}", "de": f"Haus {i}", "id": i} for i in range(30)]
    corpus = Texts(paths=(write(tmp_path / "x.jsonl", rows),), text_columns=("en", "de"))
    tables, _ = grouped(corpus, "domain")
    assert list(tables) == ["de", "en"]
    pairs = zip(tables["de"]["text"].to_pylist(), tables["en"]["text"].to_pylist(), strict=True)
    assert all(german.split()[1] == english.split()[1] for german, english in pairs)  # rows stay side by side


def test_a_limit_holds_for_every_group(corpus):
    tables, _ = grouped(corpus, "domain", limit=500)
    for table in tables.values():
        assert 498 <= sum(len(text.encode()) for text in table["text"].to_pylist()) <= 500


def test_columns_are_refused_where_they_mean_nothing(tmp_path):
    with pytest.raises(ConfigError, match="each once"):
        Texts(paths=("x",), text_columns=("a", "a"))
    with pytest.raises(ConfigError, match="leave the column of the domain out"):
        Texts(paths=("x",), text_columns=("a", "b"), domain_column="c")
    with pytest.raises(ConfigError, match="no path"):
        Texts(paths=())
    with pytest.raises(ConfigError, match="by: got 'shape'"):
        grouped(Texts(paths=("x",)), "shape")
