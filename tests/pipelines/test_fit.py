"""Facts learned from the whole corpus: samples against a sort of everything, models against a fit on one batch."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tokenizers import Tokenizer as Reference

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.fit import QualityStep, Tokenizer, _member
from penstock.seeding import hash_ids, rehash, stream
from penstock.selectors.artifact import load
from penstock.selectors.normalise import Normalise
from penstock.selectors.splits import AssignSplit
from penstock.sources.files import FileEntry, FileSource
from penstock.tokenization.bpe import BPEConfig, train_bpe

ALL = 1 << 30
GOOD = "the water of the river turns the wheel of mill number {} and the miller sings of it"
POOR = "buy now cheap deal {} click here free free free order today limited offer {}"


def corpus(count=120, seed=0):
    rng = stream(seed, "corpus")
    rows = []
    for i in range(count):
        template, domain = ((GOOD, "books"), (POOR, "ads"), (POOR, "spam"))[i % 3]
        rows.append((template.format(i, i) * int(rng.integers(1, 4)), domain))
    return rows


def prepared(lab, rows=None, *, validation=0.2, split_bytes=ALL):
    lab.documents(lab.files(one=rows or corpus()), split_bytes=split_bytes)
    return lab.deduplicated(validation=validation, test=0.1, split_bytes=split_bytes)


def smallest(table, seed, purpose, *, rows=None, max_bytes=None):
    """The sample by sorting everything: training rows by (hash, id), up to a number of rows or of bytes."""
    found = [r for r in table.to_pylist() if r["split"] == "train"]
    keys = rehash(hash_ids([r["doc_id"] for r in found]), seed, purpose).tolist()
    out, size = [], 0
    for _, _, row in sorted((key, r["doc_id"], r) for key, r in zip(keys, found, strict=True)):
        if (rows is not None and len(out) == rows) or (max_bytes is not None and size >= max_bytes):
            break
        out.append(row)
        size += len(row["text"].encode())
    return out


# ── tokenizer ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split_bytes", [ALL, 400])
def test_the_tokenizer_learns_from_the_smallest_hashes_of_the_training_rows(lab, tiny_batches, split_bytes):
    table = prepared(lab, split_bytes=split_bytes).read("documents")
    made = lab.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=290), 2500, 11))
    sample = smallest(table, 11, "tokenizer", max_bytes=2500)
    assert 5 < len(sample) < sum(s == "train" for s in table["split"].to_pylist())
    stats = made.manifest.stats
    assert stats["sample_documents"] == len(sample)
    assert stats["sample_bytes"] == sum(len(r["text"]) for r in sample) >= 2500
    data = (lab.root / "tokenizer" / made.manifest.artifacts["tokenizer.json"].path).read_bytes()
    assert data == train_bpe((r["text"] for r in sample), BPEConfig(vocabulary_size=290))
    reference = Reference.from_buffer(data)
    assert stats["vocabulary"] == reference.get_vocab_size() <= 290
    assert reference.id_to_token(stats["end_id"]) == "<|endoftext|>"
    assert reference.decode([stats["pad_id"]], skip_special_tokens=True) == ""


def test_another_seed_samples_other_documents(lab, new_lab):
    digests = set()
    for seed, place in ((1, lab), (2, new_lab())):
        prepared(place)
        digests.add(
            place.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=290), 2500, seed)).digest
        )
    assert len(digests) == 2


def test_held_out_text_never_reaches_the_tokenizer(lab):
    rows = [(f"plain words {i}", "d") for i in range(60)]
    table = prepared(lab, rows, validation=0.4).read("documents")
    held_out = [r for r in table.to_pylist() if r["split"] != "train"]
    assert len(held_out) > 10
    lab.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=290), 10**6, 1))
    made = Dataset(str(lab.root / "tokenizer")).manifest.stats
    assert made["sample_documents"] == len(rows) - len(held_out)
    assert made["sample_bytes"] == sum(len(t) for t, _ in rows) - sum(len(r["text"]) for r in held_out)


def test_a_corpus_of_held_out_documents_alone_says_so(lab):
    lab.given("deduplicated", documents=[split_batch("validation", 3)])
    with pytest.raises(
        DatasetError, match=r"tokenizer: none of the 3 documents is in the train split; lower splits.val"
    ):
        lab.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=290), 10**6, 1))


def split_batch(split, count):
    ids = [f"f#{i}" for i in range(count)]
    columns = {"doc_id": ids, "id_hash": hash_ids(ids), "text": [f"text {i}" for i in range(count)]}
    return pa.RecordBatch.from_pydict(columns | {"domain": ["d"] * count, "split": [split] * count})


# ── quality ──────────────────────────────────────────────────────────────────────────────────────


def quality(positive=(("books",), ()), negative=(("ads", "spam"), ()), rows_per_side=1000, works=(), seed=4):
    assign = AssignSplit(seed=1, validation=0.2, test=0.1)
    return QualityStep(
        "quality", "deduplicated",
        positive=positive, negative=negative, works=works, assign=assign, rows_per_side=rows_per_side, seed=seed,
    )  # fmt: skip


def weights(made):
    """The fitted artifact, whose digest is that of its content."""
    model = made.manifest.stats["model"]
    return load(made.folder.join(model["path"]), model["digest"])


@pytest.mark.parametrize("split_bytes", [ALL, 500])
@pytest.mark.parametrize("rows_per_side", [25, 1000])
def test_the_classifier_is_the_one_fitted_on_the_whole_table(lab, tiny_batches, tmp_path, split_bytes, rows_per_side):
    table = prepared(lab, split_bytes=split_bytes).read("documents")
    step = quality(rows_per_side=rows_per_side)
    made = lab.run(step, split_bytes=split_bytes)
    side = pa.array(["positive" if d == "books" else "negative" for d in table["domain"].to_pylist()])
    rows = table.set_column(table.column_names.index("domain"), "domain", side).combine_chunks().to_batches()[0]
    direct = step.classifier.fit(step.classifier.summarise(rows), str(tmp_path / "direct"))
    assert made.manifest.stats["model"]["digest"] == direct.digest
    assert made.manifest.stats["facts"] == direct.facts()
    train = table.filter(pa.array([s == "train" for s in table["split"].to_pylist()]))
    counted = {
        name: min(rows_per_side, sum((d == "books") == (name == "positive") for d in train["domain"].to_pylist()))
        for name in ("positive", "negative")
    }
    rows_used = made.manifest.stats["facts"]["rows"]
    assert {name: sum(n.values()) for name, n in rows_used.items()} == counted
    assert made.manifest.stats["facts"]["held_out"]["auc"] == 1.0
    assert {name.rpartition(".")[2] for name in made.manifest.artifacts} == {"json", "safetensors"}


def test_the_star_is_every_domain_that_the_other_side_does_not_name(lab, new_lab):
    found = []
    for place, negative in ((lab, ("*",)), (new_lab(), ("ads", "spam"))):
        prepared(place)
        stats = place.run(quality(negative=(negative, ()))).manifest.stats
        found.append((stats["model"]["digest"], stats["facts"]))
    assert found[0] == found[1]


def test_members_of_a_side():
    domain = pa.array(["books", "ads", "spam", ""])
    for own, other, member in (
        (("books",), ("*",), [True, False, False, False]),
        (("*",), ("books",), [False, True, True, True]),
        (("*",), (), [True] * 4),
        (("books", "spam"), ("*",), [True, False, True, False]),
    ):
        assert _member(domain, own, other).to_pylist() == member, (own, other)


def test_a_set_of_its_own_is_cleaned_as_the_corpus_is_and_its_held_out_rows_stay_out(lab, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [GOOD.format(i, i) + (" cafe\u0301" if i % 2 else " café") for i in range(80)]
    (folder / "good.txt").write_text("\n".join(lines) + "\n")
    source = FileSource(name="positive-files", entries=(FileEntry(path=str(folder), text_unit="line", domain="any"),))
    prepared(lab)
    step = quality(positive=((), (source,)), works=(Normalise(),))
    rows = lab.run(step).manifest.stats["facts"]["rows"]["positive"]
    batch = next(source.read(source.plan(ALL)[0], dropped="ids")).documents
    clean = Normalise().annotate(batch)["content_hash"]
    splits = step.works[-1].annotate(pa.record_batch({"content_hash": clean}))["split"].to_pylist()
    assert sum(rows.values()) == splits.count("train")
    assert 0 < splits.count("validation") + splits.count("test") < 80
    # without the cleaning other rows would be held out
    raw = step.works[-1].annotate(pa.record_batch({"content_hash": batch["content_hash"]}))["split"].to_pylist()
    assert raw != splits


def test_the_digest_of_a_set_of_its_own_is_an_input_of_the_step(lab, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "good.txt").write_text("\n".join(GOOD.format(i, i) for i in range(60)))
    source = FileSource(name="positive-files", entries=(FileEntry(path=str(folder), text_unit="line"),))
    prepared(lab)
    step = quality(positive=((), (source,)))
    made = lab.run(step, fingerprint=lambda file: f"size {file.size}")
    assert made.manifest.key_parts["inputs"] == {
        "positive:positive-files:good.txt": f"size {(folder / 'good.txt').stat().st_size}"
    }


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_a_side_with_too_few_documents_is_named_with_what_the_corpus_has(lab, side):
    prepared(lab)
    with pytest.raises(
        ConfigError,
        match=rf"quality.{side}: got 0 training documents, allowed >= 20.*the corpus has 'ads', 'books', 'spam'\)",
    ):
        lab.run(quality(**{side: (("poems",), ())}))


@pytest.mark.parametrize("domains", [("books",), ("*",)])
def test_a_domain_on_both_sides_is_refused(domains):
    with pytest.raises(
        ConfigError, match=r"got (books|\*) in positive.domains and in negative.domains, allowed in one"
    ):
        quality(positive=(domains, ()), negative=((*domains, "ads"), ()))


def test_a_second_run_with_other_documents_on_one_side_gives_another_model(lab):
    prepared(lab)
    first = weights(lab.run(quality()))
    second = weights(lab.run(quality(negative=(("ads",), ()))))
    assert first.facts["rows"] != second.facts["rows"]
