"""Keys that nearly all rows share: no split is asked for them all, and the outcome is that of a plain computation.

Work is counted, not timed: the rows that each split reads from shuffled tables and from parts.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.dataset import read_part
from penstock.pipelines import deduplicate, fit, near, publish, select, sequences, trim
from penstock.pipelines.deduplicate import Deduplicated
from penstock.pipelines.passes import Slices, run_split
from penstock.pipelines.publish import Published
from penstock.pipelines.select import Selection
from penstock.pipelines.sequences import PackedSequences
from penstock.pipelines.trim import Trimmed
from penstock.seeding import hash_ids, stream
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.minhash import MinHash
from penstock.selectors.quadmix import Criterion, DomainParameters, QuaDMixParameters
from penstock.selectors.repeated import RepeatedLines
from penstock.selectors.splits import AssignSplit
from penstock.sources.base import documents_batch
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

MINHASH = MinHash()
ALL_MAY_GO = {"max_dropped": {"default": 1.0}}


class Counting:
    """Runs splits in this process and notes what each reads: ``work`` is rows by pass, split by split."""

    def __init__(self, monkeypatch):
        self.work, self.now = {}, 0
        read = Slices.read

        def counted(slices, bucket, **how):
            found = read(slices, bucket, **how)
            self.now += 0 if found is None else found.num_rows
            return found

        def counted_part(*args, **how):
            for batch in read_part(*args, **how):
                self.now += batch.num_rows
                yield batch

        monkeypatch.setattr(Slices, "read", counted)
        for module in (fit, publish, select, sequences):
            monkeypatch.setattr(module, "read_part", counted_part)

    def map(self, job, splits, done):
        for split in splits:
            self.now = 0
            run_split(job, split)
            self.work.setdefault(job.prefix.rpartition("/")[2], []).append(self.now)
            done(1)


@pytest.fixture
def counting(monkeypatch):
    return Counting(monkeypatch)


def build(lab, counting, step, **how):
    run_step(step, Folder(str(lab.root)), counting, Silent(), Settings(**how))
    return lab.run(step, **how)  # up to date: opens it


def prose(rng, words=60):
    return " ".join(f"w{int(i)}" for i in rng.integers(0, 10**6, words))


def parts_of(texts, count, domain="d"):
    """Texts dealt to parts one by one, so that a hot key is in all of them."""
    ids = [f"f#{i:06d}" for i in range(len(texts))]
    return [
        documents_batch(ids[n::count], texts[n::count], source="files", domains=[domain] * len(texts[n::count]))
        for n in range(count)
    ]


def step(action="drop", rule="first", **shares):
    assign = AssignSplit(seed=1, **{"validation": 0.0, "test": 0.0, **shares})
    return Deduplicated(
        "deduplicated", "documents", ExactDuplicates(survivor=rule), assign, minhash=MINHASH, action=action
    )


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────


def clusters(rows):
    """doc_id -> (survivor, rows) of its cluster: equal texts and shared keys, joined one by one."""
    keys, long = MINHASH.keys(pa.array([row["text"] for row in rows]))
    root = list(range(len(rows)))

    def find(i):
        while root[i] != i:
            i = root[i]
        return i

    seen = {}
    for i, row in enumerate(rows):
        for name in [("text", row["text"]), *(("key", int(k)) for k in keys[i] if long[i])]:
            root[find(i)] = find(seen.setdefault(name, i))
    groups = {}
    for i, row in enumerate(rows):
        groups.setdefault(find(i), []).append(row["doc_id"])
    return {name: (min(group), len(group)) for group in groups.values() for name in group}


PROSE = [prose(stream(n, "hot"), 30) for n in range(3)]
# few texts, their near copies, and texts too short for keys: most rows are copies, within parts and across
TEXT = st.sampled_from(
    [*PROSE, *(f"{text} {more}" for text in PROSE for more in ("one", "one two", "x")), "short", "short text"]
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.lists(TEXT, min_size=1, max_size=9), min_size=2, max_size=4),
    order=st.randoms(use_true_random=False),
    at_once=st.booleans(),  # by union-find, or by rounds of stars
)
def test_crowded_clusters_are_those_of_a_plain_union_whatever_the_parts(new_lab, at_once, parts, order):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "EDGES_AT_ONCE", near.EDGES_AT_ONCE if at_once else 0)
        patch.setattr(near, "BANDS_PER_RANGE", 40)
        patch.setattr(near, "MEMBERS_PER_RANGE", 2)
        patch.setattr(deduplicate, "KEYS_PER_RANGE", 4)
        patch.setattr(near, "read_part", lambda *args: read_part(*args, rows=2))
        names = [f"d#{i:02d}" for i in range(sum(map(len, parts)))]
        order.shuffle(names)
        given_names = iter(names)
        batches = [
            documents_batch([next(given_names) for _ in part], part, source="files", domains=["d"] * len(part))
            for part in parts
        ]
        lab = new_lab()
        lab.given("documents", documents=batches)
        made = lab.run(step(), **ALL_MAY_GO)
        rows = [row for batch in batches for row in batch.to_pylist()]
        wanted = clusters(rows)
        kept = made.read("documents").to_pylist()
        assert [(r["doc_id"], r["cluster"], r["cluster_size"]) for r in kept] == [
            (r["doc_id"], *wanted[r["doc_id"]]) for r in rows if wanted[r["doc_id"]][0] == r["doc_id"]
        ]
        members = made.read("clusters").to_pylist() if "clusters" in made.manifest.tables else []
        assert [(r["doc_id"], r["cluster"], r["cluster_size"]) for r in members] == [
            (r["doc_id"], *wanted[r["doc_id"]]) for r in rows if wanted[r["doc_id"]][1] > 1
        ]
        dropped = made.read("dropped").to_pylist() if "dropped" in made.manifest.tables else []
        smallest = {row["text"]: min(r["doc_id"] for r in rows if r["text"] == row["text"]) for row in rows}
        assert {r["doc_id"]: (r["detail"], r["reason"]) for r in dropped} == {
            r["doc_id"]: (
                wanted[r["doc_id"]][0],
                "near_duplicate" if smallest[r["text"]] == r["doc_id"] else "exact_duplicate",
            )
            for r in rows
            if wanted[r["doc_id"]][0] != r["doc_id"]
        }
        tagged = new_lab()
        tagged.given("documents", documents=batches)
        left = tagged.run(step("tag"), **ALL_MAY_GO).read("documents").to_pylist()
        assert [(r["doc_id"], r["cluster"], r["cluster_size"]) for r in left] == [
            (r["doc_id"], *wanted[r["doc_id"]]) for r in rows if smallest[r["text"]] == r["doc_id"]
        ]


def test_one_text_that_most_of_the_corpus_is_costs_the_judge_one_row_a_part(lab, counting, monkeypatch):
    monkeypatch.setattr(deduplicate, "KEYS_PER_RANGE", 500)
    hot, others, parts = 20_000, 1_000, 6
    rng = stream(1, "copies")
    texts = [*(f"text {n}" for n in range(others)), *[prose(rng)] * hot]
    lab.given("documents", documents=parts_of(texts, parts))
    made = build(lab, counting, step(), **ALL_MAY_GO)
    judged = counting.work["judge"]
    assert len(judged) == 64  # as many ranges as the rows want
    assert sum(judged) == others + parts  # one row a part and text, not one a document
    assert max(judged) <= 3 * others / len(judged) + parts + 10
    assert made.manifest.counts.dropped == {"exact_duplicates": {"exact_duplicate": hot - 1}}
    assert made.manifest.stats["near"]["texts"]["long"] == 1
    sizes = made.read("documents", ["cluster_size"])["cluster_size"].to_numpy()
    assert (sizes.max(), len(sizes)) == (hot, others + 1)


def test_a_page_that_comes_thousands_of_times_with_another_date_fills_no_range(lab, counting, monkeypatch):
    """Its keys, the edges of its hub and the members of its cluster: one row a part each, in no proportion to pages."""
    monkeypatch.setattr(near, "EDGES_AT_ONCE", 0)
    monkeypatch.setattr(near, "BANDS_PER_RANGE", 2_000)
    monkeypatch.setattr(near, "MEMBERS_PER_RANGE", 1_000)
    hot, others, parts = 5_000, 300, 6
    rng = stream(2, "pages")
    page = prose(rng)
    texts = [f"{page} day {n}" for n in range(hot)] + [prose(rng) for _ in range(others)]
    texts = [texts[int(i)] for i in rng.permutation(len(texts))]
    lab.given("documents", documents=parts_of(texts, parts))
    made = build(lab, counting, step(), **ALL_MAY_GO)
    keys = counting.work["edges"]
    assert len(keys) == 64
    assert sum(keys) < MINHASH.bands * hot / 4  # of the keys that pages share, one a part is left
    assert max(keys) <= 2 * sum(keys) / len(keys) + parts
    for name, rows in counting.work.items():
        if name.startswith(("small-", "large-")):
            assert max(rows) <= 2 * MINHASH.bands * parts, name
    assert sum(counting.work["survive"]) == parts
    kept = made.read("documents")
    first = min(f"f#{n:06d}" for n, text in enumerate(texts) if text.startswith(page))
    assert sorted(kept["cluster_size"].to_pylist()) == [1] * others + [hot]
    assert first in kept["doc_id"].to_pylist()
    assert set(made.read("dropped")["detail"].to_pylist()) == {first}


def test_a_chain_through_all_parts_is_one_cluster_after_a_logarithm_of_rounds(lab, counting, monkeypatch):
    """Every document is like the next alone: the longest way that a label can go."""
    monkeypatch.setattr(near, "EDGES_AT_ONCE", 0)
    monkeypatch.setattr(near, "BANDS_PER_RANGE", 4_000)
    length, parts = 600, 6
    words = prose(stream(4, "chain"), 5 * length + 120).split()
    texts = [" ".join(words[5 * i : 5 * i + 120]) for i in range(length)]
    texts = [texts[int(i)] for i in stream(5, "chain").permutation(length)]
    lab.given("documents", documents=parts_of(texts, parts))
    made = build(lab, counting, step("tag"))
    wanted = clusters([row for part in parts_of(texts, parts) for row in part.to_pylist()])
    longest = max(size for _, size in wanted.values())
    assert longest > length / 4
    assert {r["doc_id"]: (r["cluster"], r["cluster_size"]) for r in made.read("documents").to_pylist()} == wanted
    stats = made.manifest.stats["near"]
    assert 1 < stats["rounds"] <= math.ceil(math.log2(longest)) + 2
    for name, rows in counting.work.items():
        if name.startswith(("small-", "large-")):
            assert sum(rows) <= 2 * stats["edges"], name  # a round never adds an edge; a large star sees both ends
            assert max(rows) <= 2 * sum(rows) / len(rows), name


def test_verdicts_of_exact_copies_are_found_in_a_part_of_many_batches_and_ranges(lab, monkeypatch):
    """Verdicts come range by range: what is gone must be put in order before batches are matched against it."""
    monkeypatch.setattr(deduplicate, "KEYS_PER_RANGE", 3)
    monkeypatch.setattr(near, "read_part", lambda *args: read_part(*args, rows=3))
    rng = stream(6, "batches")
    texts = [prose(rng) for _ in range(20)]
    first = documents_batch([f"a#{i:02d}" for i in range(20)], texts, source="files", domains=["d"] * 20)
    some = [texts[int(i)] for i in rng.permutation(20)[:12]] + [prose(rng) for _ in range(12)]
    some = [some[int(i)] for i in rng.permutation(24)]
    second = documents_batch([f"b#{i:02d}" for i in range(24)], some, source="files", domains=["d"] * 24)
    lab.given("documents", documents=[first, second])
    made = lab.run(step())
    assert made.manifest.stats["near"]["texts"] == {"long": 32, "short": 0}
    assert made.manifest.counts.dropped == {"exact_duplicates": {"exact_duplicate": 12}}


# ── a line ───────────────────────────────────────────────────────────────────────────────────────


def test_a_line_in_every_document_is_a_row_a_part_for_one_judge(lab, counting, monkeypatch):
    monkeypatch.setattr(trim, "BYTES_PER_RANGE", 2_000)
    documents, parts = 3_000, 6
    line = "Home, news, contact and everything about us"
    texts = [f"{line}\nthe own and only line of number {n} here\n{line}" for n in range(documents)]
    lab.given("documents", documents=parts_of(texts, parts))
    made = build(lab, counting, Trimmed("trimmed", "documents", (RepeatedLines(),), 1))
    judged = counting.work["judge"]
    assert len(judged) >= 16
    assert sum(judged) == documents + parts
    assert max(judged) <= 2 * documents / len(judged) + parts
    assert made.manifest.stats["trimmed"]["repeated_lines"]["cuts"] == 2 * documents - 1
    assert sum(line in text for text in made.read("documents")["text"].to_pylist()) == 1


# ── a domain ─────────────────────────────────────────────────────────────────────────────────────

GIANT, DOMAINS, PARTS = "web", 100, 10


def scored(rows):
    """Rows of which 99 % are of one domain and the rest of 99 others, in random order."""
    rng = stream(7, "giant")
    ids = [f"d#{i:06d}" for i in range(rows)]
    domain = [GIANT if i % 100 else f"site-{i // 100 % (DOMAINS - 1):02d}" for i in rng.permutation(rows).tolist()]
    sizes = rng.integers(5, 40, rows)
    tokens = np.split(rng.integers(2, 60_000, int(sizes.sum())).astype(np.uint16), np.cumsum(sizes)[:-1])
    return pa.record_batch(
        {
            "doc_id": pa.array(ids),
            "id_hash": hash_ids(ids),
            "text": pa.array([f"text {i}" for i in range(rows)]),
            "source": pa.array(["files"] * rows),
            "domain": pa.array(domain),
            "split": pa.array(["validation" if i % 50 == 0 else "train" for i in range(rows)]),
            "tokens": pa.array(sizes.astype(np.int32)),
            "bytes": pa.array(sizes * 100),
            "token_ids": pa.array(tokens, pa.list_(pa.uint16())),
            "score.quality": pa.array(np.round(rng.random(rows), 3).astype(np.float32)),
        }
    )


def test_a_domain_of_99_percent_is_spread_over_splits_by_its_tokens(lab, counting, cut, monkeypatch):
    rows, tokens_per_range, shard_bytes = 12_000, 20_000, 2_000_000
    monkeypatch.setattr(sequences, "TOKENS_PER_RANGE", tokens_per_range)
    batch = scored(rows)
    lab.given("scored", documents=cut(batch, [rows // PARTS] * (PARTS - 1)))
    theta = DomainParameters(alpha=(1.0,), lam=8.0, omega=0.6, eta=1.0, eps=0.3)
    parameters = QuaDMixParameters(
        criteria=(Criterion(column="score.quality", direction="higher"),), default=theta, omega_max=1.0, eps_max=1.0
    )
    chosen = build(lab, counting, Selection("selection", "scored", parameters, 3))
    assert chosen.table("selection").rows == rows
    for name in ("criteria", "ranks", "sample"):
        assert counting.work.pop(name) == [rows // PARTS] * PARTS, name  # every split its own part

    made = build(lab, counting, Published("dataset", "scored", "selection", "title", shard_bytes))
    shards = [file.bytes for file in made.table("train").files]
    reads = counting.work["train"]
    assert len(shards) == len(reads) >= 8
    assert max(reads) <= 4 * 2 * rows / PARTS  # a shard reads the parts of both tables that it overlaps, not all
    assert max(shards) < 2.5 * np.mean(shards)

    step = PackedSequences("sequences", "scored", "selection", length=64, tail="pad", min_segment=1, pad_id=1, seed=3)
    counting.work.clear()
    made = build(lab, counting, step)
    stats = made.manifest.stats
    assert len(stats["domains"]["train"]) > 30
    tokens = stats["tokens"]["train"][GIANT]["in"]
    files = made.table(f"train/{stats['domains']['train'].index(GIANT)}").files
    assert len(files) == math.ceil(tokens / tokens_per_range) >= 5
    assert max(file.rows for file in files) <= 1.2 * tokens_per_range / 64 + 1
    packed = counting.work["pack"]
    assert max(packed) <= 1.3 * stats_rows(chosen) / len(files)
    assert max(counting.work["shuffle"]) <= 2 * rows / PARTS


def stats_rows(chosen):
    """Copies of the giant domain's rows for training."""
    return chosen.manifest.stats["domains"]["train"][GIANT]["copies"]


def test_the_driver_s_summary_of_a_domain_does_not_grow_with_its_rows(lab):
    from penstock.pipelines.fit import merge_all
    from penstock.selectors.quadmix import CriterionHistograms

    theta = DomainParameters(alpha=(1.0,), lam=8.0, omega=0.6, eta=1.0, eps=0.3)
    parameters = QuaDMixParameters(
        criteria=(Criterion(column="score.quality", direction="higher"),), default=theta, omega_max=1.0, eps_max=1.0
    )
    work = CriterionHistograms(parameters=parameters)
    batch = scored(4_000)
    giant = batch.filter(pc.and_(pc.equal(batch["domain"], GIANT), pc.equal(batch["split"], "train")))
    bins = len(giant["score.quality"].unique())
    for count in (1, 4):
        merged = merge_all(itertools.chain.from_iterable([work.summarise(giant)] for _ in range(count)))
        assert len(merged.code) == bins < giant.num_rows / 3
        assert int(merged.documents.sum()) == count * giant.num_rows
