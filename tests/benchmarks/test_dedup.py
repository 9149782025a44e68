"""Parts of the deduplication benchmark: pairs of a known similarity, and pairs of families."""

import json

import pyarrow as pa

from benchmarks import dedup, dedup_peers, dedup_sides
from penstock.selectors.minhash_kernels import shingles


def test_planted_pairs_have_the_similarity_that_is_written_beside_them(tmp_path):
    path = tmp_path / "pairs.jsonl"
    dedup.write_pairs(path, 2)
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    assert [p["jaccard"] for p in pairs[::2]] == [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    for pair in pairs:
        rows, hashes = shingles(pa.array([pair["one"], pair["two"]]), 5)
        one, two = set(hashes[: rows[1]].tolist()), set(hashes[rows[1] :].tolist())
        assert len(one & two) / len(one | two) == pair["jaccard"]


def test_recall_counts_hits_by_similarity(tmp_path):
    words = "a b c d e f g h i j"
    path = tmp_path / "pairs.jsonl"
    lines = [{"one": words, "two": words.upper(), "jaccard": 1.0}, {"one": words, "two": "x " * 9, "jaccard": 0.0}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert dedup_sides.recall(path) == {"hits": {"1.0": [1, 1], "0.0": [0, 1]}}


def test_pairs_of_families_are_counted_where_found_and_by_true_similarity():
    one = " ".join("abcdefghij")
    records = [("A", one), ("A", one + " k"), ("B", one), ("A", "q r s t u v w x y z")]
    cluster = {"f#0": "f#0", "f#1": "f#0", "f#2": "f#0", "f#3": "f#3"}
    found = dedup_sides.of_families(cluster, records)
    assert (found["pairs_found"], found["pairs_of_a_family"], found["pairs_found_of_a_family"]) == (3, 3, 1)
    assert (found["pairs_found_above_0.7"], found["pairs_of_a_family_above_0.7"]) == (3, 1)


def test_made_up_documents_pass_every_judge_and_leave_nothing(monkeypatch):
    monkeypatch.setattr(dedup_sides, "PART", 300)
    found = dedup_sides.judge(1500)
    assert found["keys"] == 1500 * 14
    assert found["lost"] > 200
    assert set(found["seconds"]) == {"edges", "components", "attach", "survive"}
    # a member of a cluster is its survivor or lost
    assert found["clusters"] <= found["lost"]


def test_a_text_of_datasketch_s_side_is_its_words_in_lower_case():
    texts = ("One, two; three four FIVE six", "one two three four five six")
    first, second = (dedup_peers.datasketch_values(text).tolist() for text in texts)
    assert first == second
