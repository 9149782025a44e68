"""Reading sources, dropping duplicates and scoring: exact small cases, oracles over dictionaries, and any split."""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import work as rowwork
from penstock.dataset import Dataset
from penstock.errors import DatasetError
from penstock.pipelines.documents import Scored, config_of, domain_stats
from penstock.pipelines.fit import QualityStep, Tokenizer
from penstock.seeding import stream
from penstock.selectors.gopher import GopherQuality
from penstock.selectors.normalise import Normalise, NotEmpty
from penstock.selectors.scope import ExceptDomains
from penstock.selectors.splits import AssignSplit
from penstock.sources.files import FileEntry, FileSource
from penstock.tokenization.bpe import BPEConfig

ALL = 1 << 30  # bytes of a split: everything in one


def pool(count, texts, seed=0):
    """``count`` rows over a pool of ``texts`` different texts in three domains."""
    rng = stream(seed, "pool")
    return [(f"text number {int(rng.integers(0, texts))}", "abc"[int(rng.integers(0, 3))]) for _ in range(count)]


# ── documents ────────────────────────────────────────────────────────────────────────────────────


def test_rows_keep_their_order_and_every_dropped_row_says_why(lab):
    source = lab.files(one=[("cafe\u0301", "web"), "{bad", ("  ", "web"), ("last", "code")], two=[("first", "code")])
    made = lab.documents(source, Normalise(), NotEmpty())
    assert [(r["doc_id"], r["text"], r["source"], r["domain"]) for r in made.read("documents").to_pylist()] == [
        ("one.jsonl#0", "café", "files", "web"),
        ("one.jsonl#3", "last", "files", "code"),
        ("two.jsonl#0", "first", "files", "code"),
    ]
    assert [(r["doc_id"], r["step"], r["reason"], r["domain"]) for r in made.read("dropped").to_pylist()] == [
        ("one.jsonl#1", "read", "invalid_json", "one"),
        ("one.jsonl#2", "read", "empty_text", "web"),
    ]
    counts = made.manifest.counts
    assert (counts.rows_in, counts.made, counts.kept) == (5, 0, 3)
    assert counts.dropped == {"source.files": {"empty_text": 1, "invalid_json": 1}}


def test_statistics_count_documents_before_and_after_the_row_work(lab):
    source = lab.files(one=[("ab", "web"), ("x" * 9, "web"), ("y" * 8, "code")])
    works = (GopherQuality(min_words=1, min_mean_word_length=3.0, min_stop_words=0, max_mean_word_length=99.0),)
    stats = lab.documents(source, *works).manifest.stats
    assert stats["domains_in"] == {
        "web": {"rows": 2, "bytes": 11, "lengths": {"1": 1, "3": 1}},
        "code": {"rows": 1, "bytes": 8, "lengths": {"3": 1}},
    }
    assert stats["domains"] == {
        "web": {"rows": 1, "bytes": 9, "lengths": {"3": 1}},
        "code": {"rows": 1, "bytes": 8, "lengths": {"3": 1}},
    }
    assert stats["sources"] == {"files": {"rows": 3, "bytes": 19}}
    assert stats["row_work"] == {"gopher_quality": [3, 2]}


def test_domain_statistics_bin_lengths_by_powers_of_two():
    batch = pa.RecordBatch.from_pydict(
        {"text": ["", "a", "ab", "abc", "é", "x" * 1023, "x" * 1024], "domain": ["d"] * 7}
    )
    assert domain_stats(batch) == {
        "d": {"rows": 7, "bytes": 2055, "lengths": {"0": 2, "1": 3, "9": 1, "10": 1}},
    }
    assert domain_stats(batch.slice(0, 0)) == {}


def test_the_rows_are_the_same_however_the_input_is_split(lab, new_lab):
    rows = [*pool(60, 40), "{bad"]
    one = lab.documents(lab.files(one=rows, two=rows[:7]), NotEmpty(), split_bytes=ALL)
    other = new_lab()
    many = other.documents(other.files(one=rows, two=rows[:7]), NotEmpty(), split_bytes=50)
    assert len(one.table("documents").files) == 1
    assert len(many.table("documents").files) > 20
    assert many.digest == one.digest
    assert many.read("documents").equals(one.read("documents"))
    assert many.read("dropped").equals(one.read("dropped"))
    assert many.manifest.counts == one.manifest.counts
    assert many.manifest.stats == one.manifest.stats


@pytest.mark.parametrize(("keep", "text"), [("ids", None), ("sample", "mail <EMAIL>"), ("full", "mail a@b.org")])
def test_dropped_rows_hold_as_much_text_as_the_run_allows(lab, keep, text):
    made = lab.documents(
        lab.files(one=[("mail a@b.org", "web"), ("kept " * 60, "web")]), GopherQuality(min_stop_words=0), dropped=keep
    )
    assert made.read("dropped").select(["step", "reason", "text"]).to_pylist() == [
        {"step": "gopher_quality", "reason": "gopher_short_doc", "text": text}
    ]


def test_exempt_domains_pass_the_wrapped_filter_and_the_statistics_keep_its_name(lab):
    work = ExceptDomains(inner=GopherQuality(), domains=("code",))
    made = lab.documents(lab.files(one=[("short", "web"), ("short", "code")]), work)
    assert made.read("documents")["domain"].to_pylist() == ["code"]
    assert made.manifest.counts.dropped == {"gopher_quality": {"gopher_short_doc": 1}}
    assert made.manifest.stats["row_work"] == {"gopher_quality": [2, 1]}


@given(st.lists(st.one_of(st.text(max_size=12), st.none()), max_size=25), st.integers(1, 400))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_in_are_rows_kept_plus_rows_dropped_by_reason(new_lab, texts, split_bytes):
    lab = new_lab()
    made = lab.documents(
        lab.files(one=[(text, "web") for text in texts]), Normalise(), NotEmpty(), split_bytes=split_bytes
    )
    counts, tables = made.manifest.counts, made.manifest.tables
    assert counts.rows_in == len(texts)
    assert counts.kept == (tables["documents"].rows if "documents" in tables else 0)
    assert counts.dropped_total == (tables["dropped"].rows if "dropped" in tables else 0)
    said = Counter(made.read("dropped")["reason"].to_pylist()) if "dropped" in tables else {}
    assert said == sum((Counter(reasons) for reasons in counts.dropped.values()), Counter())


def test_a_corpus_of_which_nothing_is_left_stops_the_next_step_with_the_reasons(lab):
    made = lab.documents(lab.files(one=[("a b c", "web"), (" ", "web"), "{bad"]), GopherQuality())
    assert made.manifest.counts.kept == 0
    with pytest.raises(DatasetError) as error:
        lab.deduplicated()
    message = str(error.value)
    assert message.startswith(f"{lab.root}/documents: no row is left, all 3 were dropped (")
    for reason in ("gopher_quality.gopher_short_doc 1", "source.files.empty_text 1", "source.files.invalid_json 1"):
        assert reason in message
    assert "penstock inspect --sample" in message
    assert not (lab.root / "deduplicated" / "manifest.json").exists()


def test_a_source_without_rows_is_named_as_the_cause(lab):
    lab.documents(lab.files(one=[]))
    with pytest.raises(DatasetError, match=r"documents: its inputs hold no rows; look at the recipe's source"):
        lab.deduplicated()


def test_a_configuration_is_json_of_its_fields():
    entry = FileEntry(path="a.jsonl", columns={"text": "t"})
    assert config_of(FileSource(name="files", entries=(entry,)))["entries"][0]["path"] == "a.jsonl"
    assert config_of({"plain": 1}) == {"plain": 1}


# ── scored ───────────────────────────────────────────────────────────────────────────────────────


SENTENCE = "the water of the river turns the wheel of mill number {} and the {} sings of it"


def prepared(lab, count=90, **settings):
    """Documents of two domains that a classifier can tell apart, deduplicated and split."""
    rows = [(SENTENCE.format(i, "miller" if i % 2 else "10010"), "ab"[i % 2]) for i in range(count)]
    lab.documents(lab.files(one=rows), **settings)
    lab.deduplicated(validation=0.1, **settings)
    return lab.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=300), 10_000, 7), **settings)


def quality(**changes):
    given = {"positive": (("a",), ()), "negative": (("*",), ()), "works": (), "rows_per_side": 40, "seed": 5}
    return QualityStep(
        "quality", "deduplicated", assign=AssignSplit(seed=1, validation=0.1, test=0.0), **given | changes
    )


def test_scored_documents_have_their_tokens_bytes_and_quality(lab):
    from tokenizers import Tokenizer as Reference

    tokenizer = prepared(lab)
    lab.run(quality())
    rows = lab.run(Scored("scored", "deduplicated", "tokenizer", "quality")).read("documents").to_pylist()
    before = Dataset(str(lab.root / "deduplicated")).read("documents")["doc_id"].to_pylist()
    assert [r["doc_id"] for r in rows] == before
    reference = Reference.from_file(tokenizer.artifact("tokenizer.json"))
    for row in rows:
        assert reference.decode(row["token_ids"][:-1]) == row["text"]
        assert row["token_ids"][-1] == tokenizer.manifest.stats["end_id"]
        assert row["tokens"] == len(row["token_ids"])
        assert row["bytes"] == len(row["text"].encode())
    of_side = {side: [r["score.quality"] for r in rows if r["domain"] == side] for side in "ab"}
    assert min(of_side["a"]) > 0.5 > max(of_side["b"])


def test_scores_depend_neither_on_the_splits_nor_on_the_batches(lab, new_lab, request):
    found = []
    for place, split_bytes in ((lab, ALL), (new_lab(), 300)):
        if found:
            request.getfixturevalue("tiny_batches")
        prepared(place, split_bytes=split_bytes)
        place.run(quality(), split_bytes=split_bytes)
        made = place.run(Scored("scored", "deduplicated", "tokenizer", "quality"), split_bytes=split_bytes)
        found.append((made.digest, made.manifest.stats, made.manifest.counts, made.read("documents")))
    assert found[0][:3] == found[1][:3]
    assert found[0][3].equals(found[1][3])


def test_statistics_of_tokens_are_sums_over_the_rows(lab):
    prepared(lab, 12)
    made = lab.run(Scored("scored", "deduplicated", "tokenizer"))
    rows = made.read("documents").to_pylist()
    for domain in "ab":
        mine = [r for r in rows if r["domain"] == domain]
        assert made.manifest.stats["tokens"][domain] == sum(r["tokens"] for r in mine)
        assert made.manifest.stats["figures"][domain] == {
            "documents": len(mine),
            "bytes": sum(len(r["text"].encode()) for r in mine),
            "words": sum(len(r["text"].split()) for r in mine),
            "tokens": sum(r["tokens"] - 1 for r in mine),
        }
    assert "score.quality" not in made.table("documents").columns


def test_a_damaged_tokenizer_is_refused(lab):
    tokenizer = prepared(lab, 12)
    path = tokenizer.artifact("tokenizer.json")
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(data.replace(b'"', b"'", 1))
    with pytest.raises(DatasetError, match="got sha256"):
        lab.run(Scored("scored", "deduplicated", "tokenizer"))


# ── domains that are not names ───────────────────────────────────────────────────────────────────


def test_any_domain_passes_and_none_reaches_a_file_name(lab, hostile):
    rows = [(SENTENCE.format(i, domain[:20]), domain) for i in range(3) for domain in hostile]
    lab.documents(lab.files(one=rows), split_bytes=400)
    lab.deduplicated(validation=0.3, split_bytes=400)
    lab.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=300), 10_000, 7))
    made = lab.run(Scored("scored", "deduplicated", "tokenizer"))
    assert Counter(made.read("documents")["domain"].to_pylist()) == dict.fromkeys(hostile, 3)
    assert set(made.manifest.stats["tokens"]) == set(hostile)
    assert set(made.manifest.stats["domains"]) == set(hostile)
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789-./")
    assert all(set(name) <= plain and len(name) < 120 for name in lab.names())


def test_ids_and_hashes_are_those_of_the_rows(lab):
    rows = [(f"row {i}", "d") for i in range(50)]
    table = lab.documents(lab.files(one=rows), split_bytes=100).read("documents")
    assert table["content_hash"].to_pylist() == [
        hashlib.blake2b(text.encode(), digest_size=16).digest() for text, _ in rows
    ]
    assert table["id_hash"].to_pylist() == [
        int.from_bytes(hashlib.blake2b(f"one.jsonl#{i}".encode(), digest_size=8).digest(), "little") for i in range(50)
    ]


def test_a_pass_makes_the_rows_that_a_notebook_gets(lab):
    source = lab.files(one=pool(40, 40))
    works = (Normalise(), NotEmpty(), GopherQuality(min_words=3, min_stop_words=0, min_words_with_letter=0.5))
    made = lab.documents(source, *works, split_bytes=60).read("documents")
    plain = next(source.read(source.plan(ALL)[0], dropped="sample")).documents
    assert made.num_rows == 40
    assert made.equals(pa.Table.from_batches([rowwork.apply(works, plain).batch]))
