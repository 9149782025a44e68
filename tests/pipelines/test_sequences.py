"""Packing as passes, against a sort of every document copy and one cut through all of them."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import DatasetError
from penstock.pipelines import sequences as module
from penstock.pipelines.select import by_domain
from penstock.pipelines.sequences import PackedSequences, files_by_domain
from penstock.seeding import hash_ids, rehash, stream

SPLITS = ("train", "validation", "test")
PAD = 1


def corpus(count=60, seed=0, domains=("web", "books"), longest=40, most_copies=3, kind="uint16"):
    """(documents, copies): random token ids, a few rows outside train."""
    rng = stream(seed, "packed")
    ids = [f"f#{i}" for i in range(count)]
    lengths = rng.integers(1, longest + 1, count)
    tokens = [rng.integers(2, 60_000, n).astype(kind) for n in lengths]
    splits = [SPLITS[int(k > 6) + int(k > 8)] for k in rng.integers(0, 10, count)]
    batch = pa.RecordBatch.from_pydict(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": [domains[int(k)] for k in rng.integers(0, len(domains), count)],
            "split": splits,
            "tokens": pa.array(lengths.astype(np.int32)),
            "bytes": pa.array(lengths.astype(np.int64)),
            "token_ids": pa.array(tokens, pa.list_(pa.from_numpy_dtype(kind))),
        }
    )
    copies = rng.integers(0, most_copies + 1, count) if most_copies else np.ones(count)
    return batch, pa.array(copies.astype(np.int32))


def prepared(lab, cut, batch, copies, sizes=()):
    """The datasets that packing reads."""
    chosen = batch.select(["doc_id", "domain", "split", "tokens", "bytes"]).append_column("copies", copies)
    lab.given("scored", documents=cut(batch, sizes))
    lab.given("selection", selection=cut(chosen, sizes), stats={"domains": by_domain(chosen)})


def pack(lab, *, length=16, tail="pad", min_segment=1, seed=3):
    step = PackedSequences(
        "sequences", "scored", "selection", length=length, tail=tail, min_segment=min_segment, pad_id=PAD, seed=seed
    )
    return lab.run(step)


def packed_rows(made):
    """split -> domain -> [(tokens, segment lengths, segment documents)] in the order of the files."""
    out = {}
    stats = made.manifest.stats["domains"]
    for split in stats:
        files = files_by_domain(made.manifest.tables, stats, split)
        for domain, paths in files.items():
            rows = out.setdefault(split, {}).setdefault(domain, [])
            for path in paths:
                with pa.memory_map(made.folder.join(path)) as source:
                    for row in pa.ipc.open_file(source).read_all().to_pylist():
                        assert row["domain"] == domain
                        rows.append((row["tokens"], row["segment_lengths"], row["segment_docs"]))
    return out


def directly(batch, copies, *, length, seed, tokens_per_range, tail="pad"):
    """The same by sorting every copy of every document, then cutting each range every ``length`` tokens."""
    out = {}
    groups = {}
    for row, count in zip(batch.to_pylist(), copies.to_pylist(), strict=True):
        for copy in range(count):
            key = int(rehash(np.array([row["id_hash"]], np.uint64), seed, "pack", copy)[0])
            groups.setdefault((row["split"], row["domain"]), []).append((key, row["doc_id"], row["token_ids"]))
    for (split, domain), found in groups.items():
        ranges = max(1, math.ceil(sum(len(ids) for _, _, ids in found) / tokens_per_range))
        rows = []
        for number in range(ranges):
            here = sorted(item for item in found if item[0] * ranges >> 64 == number)
            line = [(token, doc, copy) for copy, (_, doc, ids) in enumerate(here) for token in ids]
            for start in range(0, len(line), length):
                piece = line[start : start + length]
                if len(piece) < length and tail == "cut":
                    break
                segments = {}
                for _, doc, copy in piece:
                    segments[copy, doc] = segments.get((copy, doc), 0) + 1
                tokens = [token for token, _, _ in piece] + [PAD] * (length - len(piece))
                rows.append((tokens, list(segments.values()), [doc for _, doc in segments]))
        if rows:
            out.setdefault(split, {})[domain] = rows
    return out


@pytest.mark.parametrize("sizes", [(), (1, 20, 7)], ids=["one part", "four parts"])
@pytest.mark.parametrize("tokens_per_range", [16_000_000, 200, 23])
@pytest.mark.parametrize("tail", ["pad", "cut"])
def test_sequences_hold_every_copy_in_the_order_of_its_hash(lab, cut, monkeypatch, sizes, tokens_per_range, tail):
    monkeypatch.setattr(module, "TOKENS_PER_RANGE", tokens_per_range)
    batch, copies = corpus()
    prepared(lab, cut, batch, copies, sizes)
    made = pack(lab, tail=tail)
    wanted = directly(batch, copies, length=16, seed=3, tokens_per_range=tokens_per_range, tail=tail)
    assert packed_rows(made) == wanted
    assert set(wanted) == {"train", "validation", "test"} or (tail, tokens_per_range) == ("cut", 23)


def test_documents_follow_each_other_in_one_order_whatever_the_ranges(lab, new_lab, cut, monkeypatch):
    orders = []
    batch, copies = corpus()
    for place, tokens_per_range in ((lab, 16_000_000), (new_lab(), 100)):
        monkeypatch.setattr(module, "TOKENS_PER_RANGE", tokens_per_range)
        prepared(place, cut, batch, copies, (9, 30))
        rows = packed_rows(pack(place))["train"]["web"]
        orders.append(list(dict.fromkeys(doc for _, _, docs in rows for doc in docs)))
    assert len(orders[0]) > 10
    assert orders[0] == orders[1]


def test_the_digest_depends_neither_on_the_parts_nor_on_the_batches(lab, new_lab, cut, monkeypatch, request):
    monkeypatch.setattr(module, "TOKENS_PER_RANGE", 150)
    batch, copies = corpus()
    found = []
    for place, sizes in ((lab, ()), (new_lab(), (1,) * 59), (new_lab(), (30, 5))):
        if found:
            request.getfixturevalue("tiny_batches")
        prepared(place, cut, batch, copies, sizes)
        made = pack(place)
        found.append((made.digest, made.manifest.stats["tokens"], made.manifest.counts))
    assert found[0] == found[1] == found[2]


def test_the_number_of_tokens_of_a_range_is_part_of_the_key(lab, new_lab, cut, monkeypatch):
    batch, copies = corpus()
    keys = []
    for place, tokens_per_range in ((lab, 1000), (new_lab(), 1001)):
        monkeypatch.setattr(module, "TOKENS_PER_RANGE", tokens_per_range)
        prepared(place, cut, batch, copies)
        keys.append(pack(place).manifest.key)
    assert keys[0] != keys[1]


def test_another_seed_is_another_order_of_the_same_tokens(lab, new_lab, cut):
    batch, copies = corpus()
    found = []
    for place, seed in ((lab, 3), (new_lab(), 4)):
        prepared(place, cut, batch, copies)
        found.append(packed_rows(pack(place, seed=seed)))
    one, two = ([t for row, _, _ in rows["train"]["web"] for t in row] for rows in found)
    assert one != two
    assert sorted(one) == sorted(two)


@given(
    st.integers(0, 10**6), st.integers(2, 40), st.sampled_from(["pad", "cut"]), st.integers(1, 8), st.integers(10, 300)
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copies_times_tokens_are_tokens_packed_plus_tokens_cut(
    new_lab, cut, monkeypatch, seed, length, tail, least, per
):
    monkeypatch.setattr(module, "TOKENS_PER_RANGE", per)
    lab, (batch, copies) = new_lab(), corpus(25, seed)
    if not np.asarray(copies).any():
        return
    prepared(lab, cut, batch, copies, (10,))
    made = pack(lab, length=length, tail=tail, min_segment=min(least, length))
    rows = packed_rows(made)
    for split, domains in made.manifest.stats["tokens"].items():
        for domain, told in domains.items():
            here = [
                (n, r["tokens"])
                for n, r in zip(copies.to_pylist(), batch.to_pylist(), strict=True)
                if (r["split"], r["domain"]) == (split, domain)
            ]
            assert told["in"] == sum(n * tokens for n, tokens in here) == told["packed"] + told["cut"]
            made_rows = rows.get(split, {}).get(domain, [])
            assert told["packed"] == sum(sum(lengths) for _, lengths, _ in made_rows)
            assert told["sequences"] == len(made_rows)
            assert told["padding"] == len(made_rows) * length - told["packed"]
    counts = made.manifest.counts
    assert counts.rows_in == int((np.asarray(copies) > 0).sum())
    assert counts.kept == int(np.asarray(copies).sum())


def test_a_document_longer_than_a_range_stays_whole(lab, cut, monkeypatch):
    monkeypatch.setattr(module, "TOKENS_PER_RANGE", 50)
    batch, copies = corpus(6, domains=("web",), longest=9, most_copies=0)
    rows = batch.to_pylist()
    rows[2] |= {"token_ids": list(range(2, 1002)), "tokens": 1000, "split": "train"}
    batch = pa.RecordBatch.from_pylist(rows, batch.schema)
    prepared(lab, cut, batch, copies)
    made = pack(lab)
    wanted = directly(batch, copies, length=16, seed=3, tokens_per_range=50)
    assert packed_rows(made) == wanted
    stream_of = [t for tokens, lengths, docs in wanted["train"]["web"] for t in tokens[: sum(lengths)]]
    start = stream_of.index(2)
    assert stream_of[start : start + 1000] == list(range(2, 1002))


def test_many_copies_of_one_document_are_spread_over_the_domain(lab, cut):
    batch, _ = corpus(40, domains=("web",), longest=8)
    rows = batch.to_pylist()
    for row in rows:
        row["split"] = "train"
    batch = pa.RecordBatch.from_pylist(rows, batch.schema)
    copies = pa.array([30 if i == 0 else 1 for i in range(40)], pa.int32())
    prepared(lab, cut, batch, copies)
    found = packed_rows(pack(lab))
    assert found == directly(batch, copies, length=16, seed=3, tokens_per_range=10**9)
    holding = [i for i, (_, _, docs) in enumerate(found["train"]["web"]) if "f#0" in docs]
    assert len(holding) > 8
    assert holding[0] < len(found["train"]["web"]) / 3 < holding[-1]


def test_wide_vocabularies_are_32_bit(lab, cut):
    batch, copies = corpus(10, kind="uint32")
    prepared(lab, cut, batch, copies)
    made = pack(lab)
    assert next(iter(made.manifest.tables.values())).columns["tokens"] == "fixed_size_list<item: uint32 not null>[16]"
    assert packed_rows(made) == directly(batch, copies, length=16, seed=3, tokens_per_range=10**9)


# ── learned tokens ────────────────────────────────────────────────────────────────────────────────────


def test_learned_runs_become_masks_whatever_the_parts_and_ranges(lab, cut, monkeypatch):
    monkeypatch.setattr(module, "TOKENS_PER_RANGE", 100)
    batch, copies = corpus(60)
    # ids by document and place, so that a packed token says where it comes from
    ids = [[2 + 50 * i + j for j in range(n)] for i, n in enumerate(batch["tokens"].to_pylist())]
    learn = [None if i % 3 == 0 else [n // 3, n // 2, n - 1, n] if n > 2 else [] for i, n in enumerate(map(len, ids))]
    batch = batch.set_column(
        batch.schema.get_field_index("token_ids"), "token_ids", pa.array(ids, pa.list_(pa.uint16()))
    )
    batch = batch.append_column("learn_tokens", pa.array(learn, pa.list_(pa.int32())))
    learned = set()
    for tokens, runs in zip(ids, learn, strict=True):
        kept = [0, len(tokens)] if runs is None else runs
        learned |= {tokens[k] for a, b in zip(kept[::2], kept[1::2], strict=True) for k in range(a, b)}
    prepared(lab, cut, batch, copies, (9, 30))
    made = pack(lab)
    masks, counts = [], {}
    for split, domains in made.manifest.stats["domains"].items():
        for domain, paths in files_by_domain(made.manifest.tables, made.manifest.stats["domains"], split).items():
            for path in paths:
                with pa.memory_map(made.folder.join(path)) as source:
                    for row in pa.ipc.open_file(source).read_all().to_pylist():
                        bits = [int(t in learned) for t in row["tokens"][: sum(row["segment_lengths"])]]
                        edges = np.flatnonzero(np.diff(np.concatenate([[0], bits, [0]]))).tolist()
                        assert row["loss_mask"] == (None if all(bits) else edges)
                        masks.append(row["loss_mask"])
                        counts[split, domain] = counts.get((split, domain), 0) + sum(bits)
        assert {domain for where, domain in counts if where == split} == set(domains)
    assert None in masks
    assert any(masks)
    told = made.manifest.stats["tokens"]
    assert counts == {(split, domain): told[split][domain]["learned"] for split, domain in counts}


def test_documents_that_are_learned_whole_have_no_mask(lab, new_lab, cut):
    batch, copies = corpus(30)
    digests = []
    for place, rows in (
        (lab, batch),
        (new_lab(), batch.append_column("learn_tokens", pa.nulls(30, pa.list_(pa.int32())))),
    ):
        prepared(place, cut, rows, copies)
        made = pack(place)
        digests.append(made.digest)
        for domains in made.manifest.stats["tokens"].values():
            assert all(told["learned"] == told["packed"] for told in domains.values())
    assert digests[0] == digests[1]


# ── odd corpora ──────────────────────────────────────────────────────────────────────────────────


def test_a_domain_without_a_copy_has_no_place(lab, cut):
    batch, copies = corpus(domains=("web", "books", "code"))
    copies = pa.array(
        [0 if d == "books" else c for c, d in zip(copies.to_pylist(), batch["domain"].to_pylist(), strict=True)],
        pa.int32(),
    )
    prepared(lab, cut, batch, copies)
    made = pack(lab)
    assert made.manifest.stats["domains"]["train"] == ["code", "web"]
    assert packed_rows(made) == directly(batch, copies, length=16, seed=3, tokens_per_range=10**9)


def test_a_domain_that_only_occurs_in_validation(lab, cut):
    batch, _ = corpus()
    rows = [row | ({"split": "validation"} if row["domain"] == "web" else {}) for row in batch.to_pylist()]
    batch, copies = pa.RecordBatch.from_pylist(rows, batch.schema), pa.array([1] * 60, pa.int32())
    prepared(lab, cut, batch, copies, (25,))
    made = pack(lab)
    assert made.manifest.stats["domains"]["train"] == ["books"]
    assert "web" in made.manifest.stats["domains"]["validation"]
    assert packed_rows(made) == directly(batch, copies, length=16, seed=3, tokens_per_range=10**9)


def test_a_domain_shorter_than_a_sequence_is_cut_and_counted(lab, cut):
    batch, _ = corpus(3, domains=("web",), longest=3, most_copies=0)
    rows = [row | {"split": "train", "domain": "tiny" if i else "web"} for i, row in enumerate(batch.to_pylist())]
    batch = pa.RecordBatch.from_pylist(rows, batch.schema)
    prepared(lab, cut, batch, pa.array([9, 1, 1], pa.int32()))
    made = pack(lab, length=8, tail="cut")
    told = made.manifest.stats["tokens"]["train"]["tiny"]
    assert told == {
        "in": sum(batch["tokens"].to_pylist()[1:]),
        "packed": 0,
        "cut": told["in"],
        "padding": 0,
        "learned": 0,
        "sequences": 0,
    }
    assert files_by_domain(made.manifest.tables, made.manifest.stats["domains"], "train").keys() <= {"web"}


def test_one_document(lab, cut):
    batch, _ = corpus(1, domains=("web",), most_copies=0)
    prepared(lab, cut, batch, pa.array([1], pa.int32()))
    assert packed_rows(pack(lab)) == directly(batch, pa.array([1]), length=16, seed=3, tokens_per_range=10**9)


def test_a_selection_that_takes_nothing_makes_no_table(lab, cut):
    batch, _ = corpus(5)
    prepared(lab, cut, batch, pa.array([0] * 5, pa.int32()))
    made = pack(lab)
    assert made.manifest.tables == {}
    assert made.manifest.counts.kept == 0


def test_any_domain_passes_and_none_reaches_a_file_name(lab, cut, hostile, monkeypatch):
    monkeypatch.setattr(module, "TOKENS_PER_RANGE", 300)
    names = (*hostile, "")
    batch, copies = corpus(130, domains=names)
    prepared(lab, cut, batch, copies, (40, 40))
    made = pack(lab)
    assert packed_rows(made) == directly(batch, copies, length=16, seed=3, tokens_per_range=300)
    assert set(made.manifest.stats["domains"]["train"]) == set(names)
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789-./")
    assert all(set(name) <= plain for name in lab.names())


def test_parts_that_do_not_match_are_refused_before_anything_is_joined(lab, cut):
    batch, copies = corpus(20)
    prepared(lab, cut, batch, copies, (8,))
    lab.given("scored", documents=cut(batch, (9,)))
    with pytest.raises(
        DatasetError, match=r"sequences: the parts of scored and selection do not hold the same rows; delete"
    ):
        pack(lab)


def test_a_token_that_is_lost_stops_the_step(lab, cut):
    batch, copies = corpus(20)
    prepared(lab, cut, batch, copies)
    stats = by_domain(batch.select(["domain", "split", "tokens", "bytes"]).append_column("copies", copies))
    stats["train"]["web"]["tokens"] += 1
    chosen = batch.select(["doc_id", "domain", "split", "tokens", "bytes"]).append_column("copies", copies)
    lab.given("selection", selection=[chosen], stats={"domains": stats})
    with pytest.raises(
        DatasetError, match=r"sequences: train/web: copies × tokens = \d+, got in \d+.*nothing was published"
    ):
        pack(lab)
    assert not (lab.root / "sequences" / "manifest.json").exists()
