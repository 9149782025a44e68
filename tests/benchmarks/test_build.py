"""The comparison of decisions, and both sides of the build benchmark on a few documents."""

import gzip
import json

import pytest

from benchmarks import build_sides, corpora
from benchmarks.build import Agreement, agreement
from benchmarks.harness import BenchmarkError

PROSE = (
    "The river that runs to the sea has the power of a thousand mills, and the people who live with it have to "
    "be careful of the floods that come in the spring, when snow of the hills melts into every valley below. "
    "A gate was built at the narrow end of the gorge to hold what the summer would need for fields and towns."
)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("one", "two"):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as out:
            for text in (PROSE, "too short", PROSE.replace("river", f"stream of {name}")):
                out.write(json.dumps({"text": text}) + "\n")
    return folder


def test_agreement_counts_decisions_and_reasons_apart():
    ours = {("f", 0): None, ("f", 1): "short", ("f", 2): "long", ("f", 3): None}
    theirs = {("f", 0): None, ("f", 1): "short", ("f", 2): "other", ("f", 3): "short"}
    assert agreement(ours, theirs) == Agreement(documents=4, decisions=0.75, reasons=0.5)


def test_sides_that_judged_other_documents_cannot_agree():
    with pytest.raises(BenchmarkError, match="1 documents were judged by one side alone, first \\('f', 1\\)"):
        agreement({("f", 0): None}, {("f", 0): None, ("f", 1): None})
    with pytest.raises(BenchmarkError, match="no document"):
        agreement({}, {})


def test_the_pass_and_the_plain_loop_keep_the_same_rows(data, tmp_path, monkeypatch):
    monkeypatch.setattr(build_sides, "CLOCK", 0.0001)
    works = build_sides.works_of("filters")
    made = build_sides.run_the_pass(data, works, 1, tmp_path / "decisions.jsonl")
    plain = build_sides.run_the_loop(data, works)
    for name in ("rows", "kept", "bytes"):
        assert made[name] == plain[name]
    assert (made["rows"], made["kept"]) == (6, 4)
    found = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    reasons = {(one["file"], one["row"]): one["reason"] for one in found}
    assert reasons == {
        (f"{name}.jsonl.gz", row): "gopher_short_doc" if row == 1 else None
        for name in ("one", "two")
        for row in range(3)
    }


def test_a_sample_takes_the_first_documents_of_every_file(data, tmp_path):
    (tmp_path / "sample").mkdir()
    corpora.sample(data, tmp_path / "sample", 1.2 * len(PROSE) * 2 / 1e6)
    taken = {path.name: len(list(corpora.texts_of(path))) for path in corpora.files_of(tmp_path / "sample")}
    assert taken == {"one.jsonl.gz": 2, "two.jsonl.gz": 2}


def test_a_recombined_corpus_repeats_and_has_the_size_asked_for(tmp_path):
    parts = [f"Sentence number {i} has a few words.".encode() for i in range(2000)]
    sizes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sizes.append(corpora.large(tmp_path / name, parts, 400_000))
    assert sizes[0] == sizes[1]
    assert (tmp_path / "a" / "plain.jsonl").read_bytes() == (tmp_path / "b" / "plain.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in (tmp_path / "a" / "plain.jsonl").read_text().splitlines()]
    assert 200_000 <= sum(map(len, texts)) < 250_000
    assert len(set(texts)) == len(texts) - len(texts) // 50
