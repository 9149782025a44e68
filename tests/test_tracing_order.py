"""Which training steps read a document: computed from a run's log, and recorded while a run trains."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import tracing_order
from penstock.dataset import Dataset
from penstock.errors import DatasetError
from penstock.pipelines.fit import Tokenizer
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.select import by_domain
from penstock.pipelines.sequences import PackedSequences
from penstock.seeding import hash_ids, stream
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder
from penstock.tokenization.bpe import BPEConfig
from penstock.tracing_order import order_of, pieces_of, reads, reads_of
from penstock.training import loop
from penstock.training.config import ModelConfig, TrainConfig
from penstock.training.mixing.config import PolicyConfig
from penstock.training.mixture import MixtureLog
from penstock.training.step import TrainStep

DOMAINS = ("web", "code", "<b>\n")
PLACES = {("train", domain) for domain in DOMAINS}


@st.composite
def logs(draw):
    """A log with appended entries, limits, groups, and perhaps another dataset."""
    k = draw(st.integers(1, 3))
    quotas = st.lists(st.integers(0, 6), min_size=k, max_size=k).filter(lambda q: sum(q) > 0)
    rows = st.lists(st.integers(1, 12), min_size=k, max_size=k)
    capped = draw(st.booleans())

    def options():
        sizes = draw(rows)
        limits = [draw(st.integers(1, 3 * n)) for n in sizes] if capped else None
        ends = draw(st.sampled_from(["redistribute", "stop"])) if capped else "repeat"
        group = draw(st.sampled_from([None, 2, 5]))
        return {"rows": sizes, "limits": limits, "on_exhausted": ends, "group_rows": group}

    names = [f"d{i}" for i in range(k)]
    log = MixtureLog.start(names, draw(quotas), seed=draw(st.integers(0, 5)), **options())
    for step in draw(st.lists(st.integers(1, 30), max_size=3)):
        begins = log.entries[-1].effective_from + step
        if draw(st.booleans()):
            log = log.append(begins, draw(quotas))
        else:
            log = log.replace(begins, names, draw(quotas), **options())
    return log


@settings(max_examples=60, deadline=None)
@given(logs(), st.data())
def test_reads_are_those_that_going_through_the_whole_order_finds(log, data):
    stop = data.draw(st.integers(0, 150))
    stop = stop if log.end is None else min(stop, log.end)
    domain, row, _, generation = log.locate(np.arange(stop))
    k = data.draw(st.integers(0, len(log.domains) - 1))
    wanted = np.array(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True)))
    numbers, rows, epochs = reads(log, log.domains[k], wanted, stop)
    there = np.flatnonzero((domain == k) & np.isin(row, wanted))
    assert numbers.tolist() == there.tolist()
    assert rows.tolist() == row[there].tolist()
    # an epoch has every row once, so it counts the reads of the row from the same dataset before
    before = defaultdict(int)
    for n, r, epoch in zip(there.tolist(), rows.tolist(), epochs.tolist(), strict=True):
        assert epoch == before[generation[n], r]
        before[generation[n], r] += 1


def test_reads_of_many_rows_are_found_block_by_block(monkeypatch):
    log = MixtureLog.start(["a", "b"], (3, 1), seed=1, rows=[40, 7], group_rows=8).append(90, (1, 5))
    whole = reads(log, "b", np.arange(7), 400)
    monkeypatch.setattr(tracing_order, "_AT_ONCE", 11)
    for one, two in zip(whole, reads(log, "b", np.arange(7), 400), strict=True):
        assert one.tolist() == two.tolist()


def run(root, step, **options):
    return run_step(step, Folder(str(root)), HomeEngine(0), Silent(), Settings(**options))


@pytest.fixture
def place(tmp_path, commit_rows):
    """A folder with packed sequences of three domains, some documents in several copies, and a tokenizer."""

    def prepare(number=1, count=60):
        root = tmp_path / "run"
        rng = stream(0, "order", number)
        ids = [f"f{number}#{i}" for i in range(count)]
        lengths = rng.integers(1, 40, count)
        batch = pa.RecordBatch.from_pydict(
            {
                "doc_id": ids, "id_hash": hash_ids(ids), "split": ["validation" if i % 9 == 8 else "train" for i in
                range(count)], "domain": [DOMAINS[int(k)] for k in rng.integers(0, len(DOMAINS), count)],
                "tokens": pa.array(lengths.astype(np.int32)), "bytes": pa.array(lengths.astype(np.int64)),
                "text": [f"text {i}" for i in range(count)],
                "token_ids": pa.array([rng.integers(2, 250, n).tolist() for n in lengths], pa.list_(pa.uint16())),
            }
        )  # fmt: skip
        copies = batch.select(["doc_id", "domain", "split", "tokens", "bytes"]).append_column(
            "copies", pa.array(rng.integers(0, 4, count), pa.int32())
        )
        commit_rows(root, f"scored-{number}", {"documents": [batch]})
        commit_rows(root, f"selection-{number}", {"selection": [copies]}, {"domains": by_domain(copies)})
        packing = {"length": 16, "tail": "pad", "min_segment": 1, "pad_id": 1, "seed": 1}
        run(root, PackedSequences(f"sequences-{number}", f"scored-{number}", f"selection-{number}", **packing))
        run(root, Tokenizer("tokenizer", "scored-1", BPEConfig(vocabulary_size=258), 10_000, 1))
        return root, ids

    return prepare


def config(**changes):
    model = ModelConfig(hidden_size=16, layers=1, heads=2, kv_heads=1, ffn_size=32)
    given = {
        "steps": 9, "model": model, "batch_size": 6, "warmup_steps": 2, "eval_every": 5, "eval_sequences": 2,
        "checkpoint_every": 4, "signals_every": 2, "device": "cpu", "threads": 1, "mixture_block": 12,
        "tensorboard": False,
    }  # fmt: skip
    return TrainConfig(**given | changes)


@pytest.fixture
def recorded(monkeypatch):
    """Step, sequence number and documents of every sequence that a run trains on, taken down while it does."""
    seen = []
    note = loop._Run._note

    def taking_down(self, step, batch, outcome):
        ends = np.cumsum(batch.segment_counts)
        docs = batch.segment_docs.to_pylist()
        for number, end, count in zip(
            batch.numbers.tolist(), ends.tolist(), batch.segment_counts.tolist(), strict=True
        ):
            seen.append((step, number, docs[end - count : end]))
        return note(self, step, batch, outcome)

    monkeypatch.setattr(loop._Run, "_note", taking_down)
    return seen


RUNS = {
    "a mixture that stays": {},
    "a policy that changes it": {"policy": PolicyConfig(name="odm", every=2, warmup=1, lag=2)},
    "groups, and domains that are used up": {
        "group_rows": 4, "max_epochs": 1.5, "on_exhausted": "redistribute", "mixture": {d: 1 for d in DOMAINS},
    },
    "steps whose gradient is refused": {"max_gradient_norm": 1e-3, "max_skipped": 99, "steps": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_the_steps_that_saw_a_document_are_those_whose_batch_held_it(place, recorded, name):
    root, ids = place()
    run(root, TrainStep("model", "sequences-1", "tokenizer", config(**RUNS[name])))
    sequences, model = Dataset(f"{root}/sequences-1"), Dataset(f"{root}/model")
    assert recorded
    held = defaultdict(set)
    for step, number, docs in recorded:
        for doc in docs:
            held[doc].add((step, number))
    found = {}
    for doc in ids:
        got = reads_of(model, sequences, doc, pieces_of(sequences, doc, PLACES))
        if got:
            found[doc] = {(read.step, read.sequence) for read in got}
            assert len(got) == len(found[doc])
    assert found == held
    if name == "a policy that changes it":
        assert len(order_of(model, sequences).log.entries) > 2


def test_a_read_has_the_losses_that_the_run_wrote_down(place):
    root, ids = place()
    run(root, TrainStep("model", "sequences-1", "tokenizer", config()))
    sequences, model = Dataset(f"{root}/sequences-1"), Dataset(f"{root}/model")
    said = defaultdict(list)
    for row in model.read("signals").to_pylist():
        said[row["doc_id"]].append((row["step"], row["sequence"], row["loss"], row["mixture_version"]))
    assert said
    for doc in ids:
        got = reads_of(model, sequences, doc, pieces_of(sequences, doc, PLACES))
        told = [(r.step, r.sequence, loss, r.mixture_version) for r in got for loss in r.losses if loss is not None]
        assert sorted(told) == sorted(said.get(doc, []))
        assert all(read.skipped is None for read in got)


def test_a_step_that_learned_nothing_says_so(place):
    root, ids = place()
    run(root, TrainStep("model", "sequences-1", "tokenizer", config(**RUNS["steps whose gradient is refused"])))
    sequences, model = Dataset(f"{root}/sequences-1"), Dataset(f"{root}/model")
    got = [read for doc in ids for read in reads_of(model, sequences, doc, pieces_of(sequences, doc, PLACES))]
    assert {read.step for read in got} == {1, 2, 3, 4}
    assert all(read.skipped and "norm" in read.skipped and not any(read.losses) for read in got)


class Following(TrainStep):
    """Goes on from the checkpoints of another model."""

    def before(self, context, local):
        return next(Path(context.folder.path).parent.glob("model/*/run/checkpoints"))


def test_a_run_that_goes_on_from_another_counts_its_steps_and_sequences_on(place, recorded):
    root, _ = place()
    _, ids = place(2)
    run(root, TrainStep("model", "sequences-1", "tokenizer", config()))
    recorded.clear()
    policy = PolicyConfig(name="odm", every=2, warmup=1, lag=2)
    run(root, Following("later", "sequences-2", "tokenizer", config(policy=policy, steps=6)))
    sequences, model = Dataset(f"{root}/sequences-2"), Dataset(f"{root}/later")
    order = order_of(model, sequences)
    assert (order.begins, order.steps, order.log.entries[0].effective_from) == (9, 6, 54)
    held, found = defaultdict(set), {}
    for step, number, docs in recorded:
        for doc in docs:
            held[doc].add((step, number))
    for doc in ids:
        got = reads_of(model, sequences, doc, pieces_of(sequences, doc, PLACES))
        if got:
            found[doc] = {(read.step, read.sequence) for read in got}
    assert {step for step, _, _ in recorded} == set(range(10, 16))
    assert found == held


def test_pieces_are_where_the_tokens_of_a_document_stand(place):
    root, ids = place()
    sequences, scored = Dataset(f"{root}/sequences-1"), Dataset(f"{root}/scored-1")
    tokens = dict(zip(ids, scored.read("documents", ["token_ids"])["token_ids"].to_pylist(), strict=True))
    rows = {}
    for split, domains in sequences.manifest.stats["domains"].items():
        for index, domain in enumerate(domains):
            for file in sequences.table(f"{split}/{index}").files:
                with pa.ipc.open_file(sequences.folder.join(file.path)) as reader:
                    for row in reader.read_all().to_pylist():
                        rows.setdefault((split, domain), []).append((file.path, row))
    told = 0
    for doc in ids:
        for piece in pieces_of(sequences, doc, rows.keys()):
            path, row = rows[piece.split, piece.domain][piece.row]
            assert (path, row["segment_docs"][piece.segment]) == (piece.file, doc)
            assert row["segment_lengths"][piece.segment] == piece.tokens
            here = row["tokens"][piece.begin : piece.begin + piece.tokens]
            assert any(here == tokens[doc][at : at + piece.tokens] for at in range(len(tokens[doc])))
            told += 1
    assert told == sum(len(row["segment_docs"]) for of in rows.values() for _, row in of)


def test_sequences_are_found_in_a_store_too(place):
    root, ids = place()
    sequences = Dataset(f"{root}/sequences-1")
    remote = Folder("memory://trace-order")
    for name in sequences.folder.files():
        remote.write_bytes(name, sequences.folder.read_bytes(name))
    for doc in ids[:8]:
        assert pieces_of(Dataset(remote), doc, PLACES) == pieces_of(sequences, doc, PLACES)


def test_an_order_that_cannot_be_made_again_is_refused(place):
    root, _ = place()
    run(root, TrainStep("model", "sequences-1", "tokenizer", config(policy=RUNS["a policy that changes it"]["policy"])))
    sequences, model = Dataset(f"{root}/sequences-1"), Dataset(f"{root}/model")
    entries = model.manifest.tables["policy_log"]
    model.manifest.tables["policy_log"] = dataclasses.replace(entries, files=entries.files[:1])
    with pytest.raises(DatasetError, match="its checkpoint holds another mixture than its policy_log tells"):
        order_of(model, sequences)
    model = Dataset(f"{root}/model")
    model.manifest.parents["sequences-1"] = {"digest": "0" * 32}
    with pytest.raises(DatasetError, match="trained on another sequences-1 than the one that lies here"):
        order_of(model, sequences)
