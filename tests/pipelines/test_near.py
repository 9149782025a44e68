"""Near-duplicates as a step: against a graph of shared keys, for any split, range, order, engine and history."""

from __future__ import annotations

import functools
import shutil

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from penstock.dataset import Dataset, read_part
from penstock.errors import ConfigError
from penstock.pipelines import deduplicate, near
from penstock.pipelines.deduplicate import Deduplicated
from penstock.pipelines.home import HomeEngine
from penstock.seeding import stream
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.minhash import MinHash
from penstock.selectors.splits import AssignSplit
from penstock.sources.base import documents_batch
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

ALL = 1 << 30
MINHASH = MinHash()


def prose(rng, words=60):
    return " ".join(f"w{int(i)}" for i in rng.integers(0, 10**6, words))


def corpus(originals=60, seed=0):
    """Texts in random order: a third have a near copy, a third of those an exact copy of it and two nearer ones; of
    the others a few have an exact copy alone."""
    rng = stream(seed, "near")
    texts = []
    for number in range(originals):
        text = prose(rng)
        texts.append(text)
        if number % 3 == 0:
            texts.append(f"{text} and one word more")
        if number % 12 == 4:
            texts.append(text)
        if number % 9 == 0:
            texts += [f"{text} and one word more", f"{text} and two", f"{text} and two words"]
    return [texts[int(i)] for i in rng.permutation(len(texts))]


def batch(texts, ids=None, **columns):
    ids = ids or [f"f#{i:04d}" for i in range(len(texts))]
    out = documents_batch(ids, texts, source="files", domains=["d"] * len(texts))
    for name, column in columns.items():
        out = out.append_column(name.replace("__", "."), pa.array(column))
    return out


def step(rule="first", **how):
    how = {"minhash": MINHASH} | how
    shares = {name: how.pop(name, 0.0) for name in ("validation", "test")}
    assign = AssignSplit(seed=1, **shares)
    return Deduplicated("deduplicated", "documents", ExactDuplicates(survivor=rule), assign, **how)


def deduplicated(lab, parts, **how):
    settings = how.pop("settings", {})
    lab.given("documents", documents=parts)
    return lab.run(step(**how), **settings)


def expected(rows, prefer=lambda row: row["doc_id"].encode()):
    """doc_id -> (survivor of its cluster, rows of the cluster), by equal texts and shared keys."""
    keys, long = MINHASH.keys(pa.array([row["text"] for row in rows]))
    shared = {}
    for i, row in enumerate(rows):
        names = {("text", row["text"])} | ({("key", int(k)) for k in keys[i]} if long[i] else set())
        for name in names:
            shared.setdefault(name, []).append(i)
    edges = [(group[0], other) for group in shared.values() for other in group]
    a, b = np.array(edges).T
    _, of = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(rows), len(rows))))
    out = {}
    for label in range(of.max() + 1):
        members = [rows[i] for i in np.flatnonzero(of == label)]
        best = min(members, key=prefer)
        out |= {row["doc_id"]: (best["doc_id"], len(members)) for row in members}
    return out


def check(made, rows, wanted):
    kept = made.read("documents").to_pylist()
    assert [(r["doc_id"], r["cluster"], r["cluster_size"]) for r in kept] == [
        (r["doc_id"], *wanted[r["doc_id"]]) for r in rows if wanted[r["doc_id"]][0] == r["doc_id"]
    ]
    dropped = made.read("dropped").to_pylist()
    assert {r["doc_id"]: r["detail"] for r in dropped} == {
        name: survivor for name, (survivor, _) in wanted.items() if survivor != name
    }
    members = made.read("clusters").to_pylist()
    assert {r["doc_id"]: (r["cluster"], r["cluster_size"]) for r in members} == {
        name: one for name, one in wanted.items() if one[1] > 1
    }
    texts = {r["doc_id"]: r["text"] for r in rows}
    for row in members:
        assert (row["kind"] == "survivor") == (row["doc_id"] == row["cluster"])
    for row in dropped:
        first = min((name for name, text in texts.items() if text == texts[row["doc_id"]]), key=str.encode)
        exact = row["doc_id"] != first
        assert row["reason"] == ("exact_duplicate" if exact else "near_duplicate")
        assert row["step"] == ("exact_duplicates" if exact else "near_duplicates")


@pytest.mark.parametrize("at_once", [True, False], ids=["union-find", "stars"])
@pytest.mark.parametrize(("rows_per_part", "originals"), [(1, 9), (7, 36), (1000, 60)])
def test_clusters_are_those_of_a_graph_of_shared_keys(lab, monkeypatch, at_once, rows_per_part, originals):
    monkeypatch.setattr(near, "EDGES_AT_ONCE", near.EDGES_AT_ONCE if at_once else 0)
    for name in ("BANDS_PER_RANGE", "EDGES_PER_RANGE", "MEMBERS_PER_RANGE"):
        monkeypatch.setattr(near, name, getattr(near, name) if rows_per_part == 1000 else 60)
    monkeypatch.setattr(deduplicate, "KEYS_PER_RANGE", 1000 if rows_per_part == 1000 else 9)
    rows = batch(corpus(originals))
    made = deduplicated(lab, [rows.slice(i, rows_per_part) for i in range(0, rows.num_rows, rows_per_part)])
    wanted = expected(rows.to_pylist())
    clusters = {survivor: size for survivor, size in wanted.values() if size > 1}
    assert len(clusters) == originals // 3 + len(range(4, originals, 12))
    assert max(n for _, n in wanted.values()) == 5
    check(made, rows.to_pylist(), wanted)
    stats = made.manifest.stats["near"]
    assert stats["clusters"] == originals // 3
    assert stats["sizes"] == {"1": originals // 3 - -(-originals // 9), "2": -(-originals // 9)}  # 2 and 5 rows
    assert (stats["rounds"] > 0) == (not at_once and rows_per_part < 1000)  # what is alike in a part is joined there
    assert stats["texts"] == {"long": len(set(rows["text"].to_pylist())), "short": 0}


def test_a_chain_of_neighbours_is_one_cluster_and_stars_need_more_than_a_round(lab, new_lab, monkeypatch):
    words = prose(stream(4, "chain"), 400).split()
    texts = [" ".join(words[5 * i : 5 * i + 120]) for i in range(50)]  # J of neighbours 0.92, of all others less
    order = stream(5, "chain").permutation(len(texts))
    rows = batch([texts[int(i)] for i in order])
    found = []
    for place, limit in ((lab, near.EDGES_AT_ONCE), (new_lab(), 0)):
        monkeypatch.setattr(near, "EDGES_AT_ONCE", limit)
        monkeypatch.setattr(near, "BANDS_PER_RANGE", 30)
        found.append(deduplicated(place, [rows.slice(i, 10) for i in range(0, len(texts), 10)]))
    assert found[0].digest == found[1].digest
    check(found[1], rows.to_pylist(), expected(rows.to_pylist()))
    assert found[1].read("documents").num_rows <= 5
    assert found[1].manifest.stats["near"]["rounds"] > 1


def test_the_rows_are_the_same_for_any_order_split_batch_and_engine(new_lab, monkeypatch):
    rows = pa.Table.from_batches([batch(corpus())])
    digests, kept = set(), set()
    for number, size in enumerate((5, 23, 1000, 1000)):
        if number == 2:
            for module in (near, deduplicate):
                monkeypatch.setattr(module, "read_part", functools.partial(read_part, rows=4))
        lab = new_lab()
        order = stream(number, "order").permutation(rows.num_rows)
        shuffled = rows.take(pa.array(order)).combine_chunks().to_batches()[0]
        lab.given("documents", documents=[shuffled.slice(i, size) for i in range(0, rows.num_rows, size)])
        engine = HomeEngine(2 if number == 3 else 0)
        run_step(step(validation=0.2), Folder(str(lab.root)), engine, Silent(), Settings())
        made = Dataset(str(lab.root / "deduplicated"))
        digests.add(made.digest)
        kept.add(tuple(sorted(made.read("documents")["doc_id"].to_pylist())))
    assert len(digests) == len(kept) == 1


def test_the_longest_stays_and_the_smallest_id_among_equally_long(lab):
    rows = batch(corpus(seed=2))
    made = deduplicated(lab, [rows.slice(0, 40), rows.slice(40)], rule="longest")
    wanted = expected(rows.to_pylist(), lambda row: (-len(row["text"].encode()), row["doc_id"].encode()))
    kept = made.read("documents")
    assert set(kept["doc_id"].to_pylist()) == {survivor for survivor, _ in wanted.values()}
    assert any(text.endswith("word more") for text in kept["text"].to_pylist())


def test_the_best_score_stays(lab):
    texts = corpus(seed=3)
    scores = [None if i % 7 == 0 else float(i * 37 % 11) for i in range(len(texts))]
    rows = batch(texts, score__fit=scores)
    made = deduplicated(lab, [rows], rule="score.fit")

    def prefer(row):
        score = row["score.fit"]
        return (score is None, -(score or 0.0), row["doc_id"].encode())

    wanted = expected(rows.to_pylist(), prefer)
    assert set(made.read("documents")["doc_id"].to_pylist()) == {survivor for survivor, _ in wanted.values()}


def test_a_score_that_documents_lack_is_named(lab):
    lab.given("documents", documents=[batch(corpus(6))])
    with pytest.raises(Exception, match=r"missing column\(s\) score\.fit"):
        lab.run(step("score.fit"))


def test_tagged_rows_all_stay_and_a_cluster_lies_in_one_split(lab, new_lab):
    rows = batch(corpus(200))
    made = deduplicated(lab, [rows.slice(0, 50), rows.slice(50)], action="tag", validation=0.3, test=0.2)
    wanted, kept = expected(rows.to_pylist()), made.read("documents").to_pylist()
    gone = {r["doc_id"]: r["detail"] for r in made.read("dropped").to_pylist()}
    assert made.manifest.counts.dropped == {"exact_duplicates": {"exact_duplicate": len(gone)}}
    smallest = {}
    for row in rows.to_pylist():
        smallest[row["text"]] = min(smallest.get(row["text"], row["doc_id"]), row["doc_id"])
    # what stays in the place of an exact copy is the equal text, whatever the cluster's survivor is
    assert gone == {r["doc_id"]: smallest[r["text"]] for r in rows.to_pylist() if smallest[r["text"]] != r["doc_id"]}
    assert set(gone.values()) <= {r["doc_id"] for r in kept}
    assert [r["doc_id"] for r in kept] == [r["doc_id"] for r in rows.to_pylist() if r["doc_id"] not in gone]
    assert all((r["cluster"], r["cluster_size"]) == wanted[r["doc_id"]] for r in kept)
    sides = {}
    for row in kept:
        sides.setdefault(row["cluster"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert {"train", "validation", "test"} == set().union(*sides.values())
    assert sum(r["cluster_size"] > 1 for r in kept) > 100

    more = batch(corpus(100, seed=9), [f"g#{i:04d}" for i in range(len(corpus(100, seed=9)))])
    again = deduplicated(new_lab(), [more, rows], action="tag", validation=0.3, test=0.2).read("documents")
    now = dict(zip(again["doc_id"].to_pylist(), again["split"].to_pylist(), strict=True))
    assert all(now[r["doc_id"]] == r["split"] for r in kept)


def test_a_survivor_is_in_the_split_of_its_own_text(lab, new_lab):
    rows = batch(corpus())
    near_too = deduplicated(lab, [rows], validation=0.3, test=0.2).read("documents")
    alone = deduplicated(new_lab(), [rows], minhash=None, validation=0.3, test=0.2).read("documents")
    of = dict(zip(alone["doc_id"].to_pylist(), alone["split"].to_pylist(), strict=True))
    assert all(of[r["doc_id"]] == r["split"] for r in near_too.to_pylist())
    assert near_too.num_rows < alone.num_rows


def test_without_near_duplicates_clusters_are_the_exact_copies(lab):
    made = deduplicated(lab, [batch(["x", "y", "x", "x"])], minhash=None)
    columns = ["doc_id", "cluster", "cluster_size"]
    assert made.read("documents").select(columns).to_pylist() == [
        {"doc_id": "f#0000", "cluster": "f#0000", "cluster_size": 3},
        {"doc_id": "f#0001", "cluster": "f#0001", "cluster_size": 1},
    ]
    assert [(r["doc_id"], r["kind"]) for r in made.read("clusters").to_pylist()] == [
        ("f#0000", "survivor"),
        ("f#0002", "exact"),
        ("f#0003", "exact"),
    ]
    assert "near" not in made.manifest.stats


def test_identical_documents_are_one_cluster_of_one_group_of_keys(lab):
    """However many: one survivor, one edge to nobody, and every copy names it."""
    text, third = prose(stream(8, "copies")), 8_000
    parts = [batch([text] * third, [f"{name}#{i:07d}" for i in range(third)]) for name in "bac"]
    made = deduplicated(lab, parts, settings={"max_dropped": {"default": 1.0}})
    (left,) = made.read("documents").to_pylist()
    assert (left["doc_id"], left["cluster_size"]) == ("a#0000000", 3 * third)
    assert made.manifest.counts.dropped == {"exact_duplicates": {"exact_duplicate": 3 * third - 1}}
    assert made.manifest.stats["near"]["edges"] == 0
    assert set(made.read("dropped", ["detail"])["detail"].unique().to_pylist()) == {"a#0000000"}
    assert made.table("clusters").rows == 3 * third


def test_a_thousand_different_texts_of_three_words_all_survive(lab):
    texts = [f"answer number {i}" for i in range(1000)]
    made = deduplicated(lab, [batch(texts[:600]), batch(texts[600:], [f"g#{i}" for i in range(400)])])
    assert made.read("documents").num_rows == 1000
    assert made.manifest.stats["near"] == {"edges": 0, "rounds": 0, "texts": {"long": 0, "short": 1000}}


def test_a_part_of_near_duplicates_alone_leaves_no_part(lab):
    text = prose(stream(1, "part"))
    parts = [batch([text], ["a#0"]), batch([text + " x", text + " y"], ["b#0", "b#1"]), batch(["other"], ["c#0"])]
    made = deduplicated(lab, parts)
    assert made.read("documents")["doc_id"].to_pylist() == ["a#0", "c#0"]
    assert len(made.table("documents").files) == 2
    assert set(made.read("dropped")["detail"].to_pylist()) == {"a#0"}


def test_a_part_of_exact_copies_alone_has_no_keys_and_its_rows_follow_their_cluster(lab):
    text = prose(stream(1, "part"))
    parts = [batch([text], ["a#0"]), batch([text + " x"], ["b#0"]), batch([text + " x"] * 2, ["c#0", "c#1"])]
    made = deduplicated(lab, parts)
    assert made.read("documents").select(["doc_id", "cluster_size"]).to_pylist() == [
        {"doc_id": "a#0", "cluster_size": 4}
    ]
    assert {(r["doc_id"], r["reason"], r["detail"]) for r in made.read("dropped").to_pylist()} == {
        ("b#0", "near_duplicate", "a#0"),
        ("c#0", "exact_duplicate", "a#0"),
        ("c#1", "exact_duplicate", "a#0"),
    }


# ── building again ───────────────────────────────────────────────────────────────────────────────


class Told(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_build_with_one_part_more_reads_the_text_of_that_part_alone(lab, new_lab):
    rows = batch(corpus())
    parts = [rows.slice(i, 20) for i in range(0, 60, 20)]
    more = batch([prose(stream(8, "more")), rows["text"][3].as_py() + " again"], ["x#0", "x#1"])
    deduplicated(lab, parts)
    lab.given("documents", documents=[*parts, more])
    told = Told()
    run_step(step(), Folder(str(lab.root)), HomeEngine(0), told, Settings())
    # the new near-duplicate changes what becomes of one old part: it is applied again, its bands are not made again
    assert [n.partition(": ")[2] for n in told.notes] == [
        "keys took over 3 of 4 parts",
        "bands took over 3 of 4 parts",
        "apply took over 2 of 4 parts",
    ]
    fresh = deduplicated(new_lab(), [*parts, more])
    assert Dataset(str(lab.root / "deduplicated")).digest == fresh.digest


def test_old_rows_that_a_new_part_makes_copies_lose_their_keys(lab, new_lab):
    rows = batch(corpus())
    before = batch(rows["text"].to_pylist()[:20], [f"a#{i}" for i in range(20)])
    deduplicated(lab, [rows])
    again = deduplicated(lab, [before, rows])
    assert again.digest == deduplicated(new_lab(), [before, rows]).digest
    assert again.manifest.counts.dropped["exact_duplicates"]["exact_duplicate"] >= 20


# ── history ──────────────────────────────────────────────────────────────────────────────────────


def halves():
    """An older and a newer corpus: some new texts are old ones, some are near them, some of those near each other."""
    rng = stream(12, "halves")
    old = [prose(rng) for _ in range(30)]
    old += [old[0] + " old neighbour", old[1]]
    new = [prose(rng) for _ in range(12)]
    new += [old[2], old[3] + " news", old[3] + " news twice", old[0] + " old neighbour too", new[0] + " again", old[2]]
    new += [old[30]]  # dropped back then, as a near-duplicate of old[0]
    return batch(old, [f"z-old#{i:02d}" for i in range(len(old))]), batch(
        new, [f"a-new#{i:02d}" for i in range(len(new))]
    )


@pytest.mark.parametrize(("then", "now"), [(10**6, 10**6), (10**6, 11), (11, 10**6), (50, 11)])
def test_what_an_earlier_dataset_had_is_dropped_though_its_texts_are_gone(lab, new_lab, monkeypatch, then, now):
    def ranges(size):
        monkeypatch.setattr(deduplicate, "KEYS_PER_RANGE", size)
        monkeypatch.setattr(near, "BANDS_PER_RANGE", size)

    older, newer = halves()
    ranges(then)
    deduplicated(lab, [older.slice(0, 10), older.slice(10)])
    shutil.rmtree(lab.root / "documents")
    for path in (lab.root / "deduplicated").rglob("*.documents.parquet"):
        path.unlink()
    ranges(now)
    made = deduplicated(new_lab(), [newer.slice(0, 14), newer.slice(14)], history=(str(lab.root),))
    assert made.read("documents")["doc_id"].to_pylist() == [f"a-new#{i:02d}" for i in range(12)]
    assert {(r["doc_id"], r["reason"], r["detail"]) for r in made.read("dropped").to_pylist()} == {
        ("a-new#12", "exact_duplicate", "z-old#02"),
        ("a-new#17", "exact_duplicate", "z-old#02"),
        ("a-new#13", "near_duplicate", "z-old#03"),
        ("a-new#14", "near_duplicate", "z-old#03"),
        ("a-new#15", "near_duplicate", "z-old#00"),
        ("a-new#16", "near_duplicate", "a-new#00"),
        ("a-new#18", "exact_duplicate", "z-old#30"),
    }
    sizes = {r["doc_id"]: r["cluster_size"] for r in made.read("clusters").to_pylist()}
    assert sizes == {
        "a-new#12": 3,
        "a-new#17": 3,
        "a-new#13": 3,
        "a-new#14": 3,
        "a-new#15": 3,
        "a-new#00": 2,
        "a-new#16": 2,
        "a-new#18": 2,
    }


def test_several_histories_and_rows_of_the_same_ids_are_told_apart(lab, new_lab):
    older, newer = halves()
    deduplicated(lab, [older])
    second = new_lab()
    deduplicated(second, [newer.slice(0, 12)])
    texts = [newer["text"][5].as_py() + " more", older["text"][7].as_py() + " more"]
    texts += [older["text"][8].as_py(), older["text"][30].as_py()]
    fresh = prose(stream(77, "fresh"))
    third = batch([*texts, fresh], ["a-new#05", "a-new#06", "z-old#08", "b#0", "a-new#07"])
    made = deduplicated(new_lab(), [third], history=(str(lab.root / "deduplicated"), str(second.root)))
    assert made.read("documents")["text"].to_pylist() == [fresh]
    assert {r["doc_id"]: r["detail"] for r in made.read("dropped").to_pylist()} == {
        "a-new#05": "a-new#05",
        "a-new#06": "z-old#07",
        "z-old#08": "z-old#08",
        "b#0": "z-old#30",
    }
    kinds = {r["doc_id"]: r["kind"] for r in made.read("clusters").to_pylist()}
    assert kinds == {"a-new#05": "near", "a-new#06": "near", "z-old#08": "exact", "b#0": "exact"}


def test_tagged_near_duplicates_of_an_earlier_dataset_stay_in_the_split_of_its_text(lab, new_lab):
    rng = stream(21, "tagged")
    old = [prose(rng) for _ in range(40)]
    before = deduplicated(lab, [batch(old)], validation=0.3, test=0.2).read("documents")
    new = batch([text + " more" for text in old], [f"n#{i}" for i in range(40)])
    made = deduplicated(new_lab(), [new], action="tag", history=(str(lab.root),), validation=0.3, test=0.2)
    after = made.read("documents")
    assert after["cluster"].to_pylist() == before["doc_id"].to_pylist()
    assert after["split"].to_pylist() == before["split"].to_pylist()


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({"minhash": None}, {}, r"has no MinHash index; build it again with the same deduplicate section"),
        (
            {"minhash": MinHash(seed=2)},
            {},
            r"the MinHash index of .* was made otherwise \(seed 2 there, 1 here\); build",
        ),
        ({}, {"minhash": MinHash(bands=9, rows=13)}, r"bands 14 there, 9 here, rows 8 there, 13 here"),
    ],
)
def test_an_index_made_otherwise_is_refused_with_what_to_do(lab, new_lab, there, here, message):
    older, newer = halves()
    deduplicated(lab, [older], **there)
    with pytest.raises(ConfigError, match=message):
        deduplicated(new_lab(), [newer], history=(str(lab.root),), **here)


def test_an_index_of_another_version_is_refused(lab, new_lab, monkeypatch):
    older, newer = halves()
    deduplicated(lab, [older])
    monkeypatch.setattr(MinHash, "revision", 99)
    with pytest.raises(
        ConfigError, match=r"revision 1 there, 99 here\); build it again with the settings and the version"
    ):
        deduplicated(new_lab(), [newer], history=(str(lab.root),))


def test_a_history_without_near_duplicates_serves_for_exact_ones(lab, new_lab):
    older, newer = halves()
    deduplicated(lab, [older], minhash=None)
    made = deduplicated(new_lab(), [newer], minhash=None, history=(str(lab.root),))
    assert set(made.read("dropped")["doc_id"].to_pylist()) == {"a-new#12", "a-new#17", "a-new#18"}


def test_a_history_that_is_not_there_or_has_lost_its_index_is_named(lab, new_lab):
    older, newer = halves()
    with pytest.raises(ConfigError, match=r"deduplicate\.history: got .*/run, allowed the folder of an earlier run or"):
        deduplicated(new_lab(), [newer], history=(str(lab.root),))
    deduplicated(lab, [older])
    with pytest.raises(ConfigError, match=r"history: got .*/documents, allowed the folder"):
        deduplicated(new_lab(), [newer], history=(str(lab.root / "documents"),))
    for path in (lab.root / "deduplicated").rglob("*.bands.*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"the kept bands of .* are gone or damaged; build it again, or"):
        deduplicated(new_lab(), [newer], history=(str(lab.root),))


def test_a_build_cannot_be_its_own_history(lab):
    older, newer = halves()
    deduplicated(lab, [older])
    with pytest.raises(ConfigError, match="which this build replaces; allowed other runs"):
        deduplicated(lab, [newer], history=(str(lab.root),))


def test_clusters_of_the_history_alone_are_not_counted(lab, new_lab):
    older, newer = halves()
    assert deduplicated(lab, [older]).manifest.stats["near"]["clusters"] == 1
    made = deduplicated(new_lab(), [newer], history=(str(lab.root),))
    # two with old documents (of two and of three rows), one of new ones
    assert made.manifest.stats["near"]["clusters"] == 3
    assert made.manifest.stats["near"]["sizes"] == {"1": 3}


def test_another_build_of_the_history_is_another_key(lab, new_lab):
    older, newer = halves()
    deduplicated(lab, [older.slice(5, 5)])
    place = new_lab()
    assert deduplicated(place, [newer], history=(str(lab.root),)).manifest.counts.kept > 12
    deduplicated(lab, [older])
    assert deduplicated(place, [newer], history=(str(lab.root),)).manifest.counts.kept == 12
