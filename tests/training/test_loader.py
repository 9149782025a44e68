"""pytest tests/training/test_loader.py"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.training.loader import Batch, MixtureLoader, domain_weights
from penstock.training.sequences import SequenceStore


@pytest.fixture
def store(tmp_path: Path, packed: SimpleNamespace) -> SequenceStore:
    """Full sequences: code has 30, web 50, wiki 20."""
    files = {}
    for at, (domain, count) in enumerate({"code": 30, "web": 50, "wiki": 20}.items()):
        rows = [[(f"{domain}/{i}", [100 * at + i + 1] * 4), (f"{domain}/{i}b", [9] * 4)] for i in range(count)]
        files[domain] = [packed.write(tmp_path / f"{domain}.arrow", rows, length=8, domain=domain)]
    return SequenceStore.open(files)


def make(store: SequenceStore, weights: Any = "proportional", **changes: Any) -> MixtureLoader:
    given: dict[str, Any] = {"seed": 3, "fingerprint": "f00d", "batch_size": 12, "block": 10}
    return MixtureLoader(store, weights, **(given | changes))


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("numbers", "rows", "tokens", "domain"))


def test_mixture_ratios_are_exact_and_each_domain_is_read_in_whole_epochs(store: SequenceStore) -> None:
    loader = make(store, {"code": 0.5, "web": 0.3, "wiki": 0.2})
    batch = loader.__getitems__(np.arange(100))
    assert np.bincount(batch.domain).tolist() == [50, 30, 20]
    # 50 of 30 rows of code: all once, 20 of them twice; wiki exactly once
    assert np.bincount(np.bincount(batch.rows[batch.domain == 0], minlength=30)).tolist() == [0, 10, 20]
    assert sorted(batch.rows[batch.domain == 2].tolist()) == list(range(20))


def test_a_batch_carries_the_rows_its_numbers_say(store: SequenceStore) -> None:
    batch = make(store).batch(2)
    assert batch.numbers.tolist() == list(range(24, 36))
    assert batch.tokens.dtype == np.uint16
    assert batch.tokens.shape == (12, 8)
    assert batch.tokens[:, 0].tolist() == (100 * batch.domain + batch.rows + 1).tolist()
    names = ["code", "web", "wiki"]
    docs = [f"{names[k]}/{row}{end}" for k, row in zip(batch.domain, batch.rows, strict=True) for end in ("", "b")]
    assert batch.segment_docs.to_pylist() == docs
    assert batch.segment_ids.tolist() == [[0] * 4 + [1] * 4] * 12
    assert batch.positions.tolist() == [[0, 1, 2, 3] * 2] * 12
    assert (batch.segment_counts.tolist(), batch.segment_lengths.tolist()) == ([2] * 12, [4] * 24)
    assert batch.mixture_version.tolist() == [0] * 12


def test_a_batch_carries_the_learned_positions_of_its_rows(tmp_path: Path, packed: SimpleNamespace) -> None:
    rows = [[("d", list(range(1, 9)))] for _ in range(4)]
    masks = [[0, 2], [2, 4], None, [6, 8]]
    files = {"d": [packed.write(tmp_path / "d.arrow", rows, length=8, domain="d", masks=masks)]}
    batch = make(SequenceStore.open(files), batch_size=4).batch(0)
    assert batch.learned is not None
    expected = [[1] * 8 if m is None else [int(m[0] <= i < m[1]) for i in range(8)] for m in masks]
    assert batch.learned.astype(int).tolist() == [expected[row] for row in batch.rows]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_together_see_what_one_rank_sees(store: SequenceStore, world_size: int) -> None:
    loader = make(store)
    for step in (0, 7):
        whole = loader.batch(step)
        parts = [loader.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert np.concatenate([part.numbers for part in parts]).tolist() == whole.numbers.tolist()
        assert np.concatenate([part.tokens for part in parts]).tolist() == whole.tokens.tolist()
        assert [doc for part in parts for doc in part.segment_docs.to_pylist()] == whole.segment_docs.to_pylist()


def test_resume_at_another_world_size_continues_the_same_order(store: SequenceStore) -> None:
    loader = make(store, lag=1)
    loader.advance(2)
    assert loader.update({"code": 1, "web": 1, "wiki": 8}, step=2) == 1
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make(store, "uniform", seed=99)  # the state's log and seed win over the constructor's
    resumed.load_state_dict(state)
    assert resumed.consumed == 24
    numbers = [n for rank in range(4) for n in next(iter(resumed.sampler(1, rank=rank, world_size=4)))]
    assert same(resumed.__getitems__(numbers), loader.batch(2))
    assert [resumed.batch(step).mixture_version.tolist() for step in (2, 3)] == [[0] * 12, [1] * 12]
    assert same(resumed.batch(3), loader.batch(3))


def test_the_loader_works_as_a_dataset_of_torch(store: SequenceStore) -> None:
    from torch.utils.data import DataLoader

    loader = make(store)
    loader.advance(1)
    batches = list(DataLoader(loader, batch_sampler=list(loader.sampler(2)), collate_fn=lambda batch: batch))
    assert [same(batch, loader.batch(step)) for batch, step in zip(batches, (1, 2), strict=True)] == [True, True]


def test_a_state_of_other_data_is_refused_with_both_named(store: SequenceStore) -> None:
    with pytest.raises(DatasetError, match=r"data beef, this data is f00d"):
        make(store).load_state_dict(make(store, fingerprint="beef").state_dict())


def test_another_batch_size_must_divide_what_was_consumed(store: SequenceStore) -> None:
    loader = make(store)
    loader.advance(1)
    with pytest.raises(ConfigError, match="divisor of the 12 sequences"):
        make(store, batch_size=8).load_state_dict(loader.state_dict())
    make(store, batch_size=4).load_state_dict(loader.state_dict())


def test_weights_by_size_and_temperature(store: SequenceStore) -> None:
    assert domain_weights(store, "proportional") == pytest.approx((0.3, 0.5, 0.2))
    assert domain_weights(store, "uniform") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    roots = np.sqrt([30, 50, 20])
    assert domain_weights(store, "proportional", temperature=2) == pytest.approx(tuple(roots / roots.sum()))
    assert domain_weights(store, {"code": 3, "web": 1, "wiki": 0}) == (0.75, 0.25, 0.0)


def test_a_domain_of_weight_zero_is_never_read(store: SequenceStore) -> None:
    batch = make(store, {"code": 1, "web": 1, "wiki": 0}).__getitems__(np.arange(200))
    assert np.bincount(batch.domain, minlength=3).tolist() == [100, 100, 0]


def test_weights_are_shares_of_tokens_not_of_sequences(tmp_path: Path, packed: SimpleNamespace) -> None:
    half = packed.write(tmp_path / "h.arrow", [[("h", [1] * 4)]] * 5, length=8)
    full = packed.write(tmp_path / "f.arrow", [[("f", [1] * 8)]] * 5, length=8)
    loader = make(SequenceStore.open({"half": [half], "full": [full]}), "uniform", block=30)
    batch = loader.__getitems__(np.arange(30))
    assert np.bincount(batch.domain).tolist() == [20, 10]
    row_domain = np.repeat(batch.domain, batch.segment_counts)
    assert np.bincount(row_domain, weights=batch.segment_lengths).tolist() == [80, 80]


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"code": 1, "web": 1, "wikki": 1}, "unknown domain 'wikki'; did you mean wiki? The data has code, web, wiki"),
        ({"code": 1, "web": 1}, "no weight for wiki; write 0"),
        ({"code": 0, "web": 0, "wiki": 0}, "no domain has a positive weight"),
        ({"code": -1, "web": 1, "wiki": 0}, "finite weights >= 0"),
        ("sizes", "got 'sizes', allowed 'proportional', 'uniform'"),
    ],
)
def test_bad_weights_are_refused(store: SequenceStore, weights: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(store, weights)
    assert text in str(error.value)


def test_weight_on_a_domain_without_sequences_is_refused(tmp_path: Path, packed: SimpleNamespace) -> None:
    full = packed.write(tmp_path / "f.arrow", [[("f", [1] * 8)]], length=8)
    store = SequenceStore.open({"full": [full], "none": []})
    with pytest.raises(ConfigError, match="none has no sequences but a positive weight"):
        make(store, {"full": 1, "none": 1})
    assert make(store).batch(0).domain.tolist() == [0] * 12


def test_ranks_must_divide_the_batch(store: SequenceStore) -> None:
    with pytest.raises(ConfigError, match="12 sequences do not divide by 5 ranks"):
        make(store).batch(0, rank=0, world_size=5)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        make(store).batch(0, rank=2, world_size=2)


def test_a_change_takes_effect_a_fixed_lag_after_the_step_that_decided_it(store: SequenceStore) -> None:
    loader = make(store, {"code": 1, "web": 0, "wiki": 0}, lag=3)
    before = [loader.batch(step).rows.tolist() for step in range(12)]
    loader.advance(5)
    assert loader.update([0.0, 1.0, 0.0], step=5) == 1
    assert (loader.effective_from(1), loader.newest_version) == (96, 1)
    domains = [loader.batch(step).domain.tolist() for step in range(12)]
    assert domains == [[0] * 12] * 8 + [[1] * 12] * 4
    # what lies before the point is as it was, batches that were read ahead of the change included
    assert [loader.batch(step).rows.tolist() for step in range(8)] == before[:8]
    assert loader.weights == (1.0, 0.0, 0.0)
    assert loader.weights_of(1) == (0.0, 1.0, 0.0)
    loader.advance(3)
    assert loader.weights == (0.0, 1.0, 0.0)
    assert loader.epochs == (96 / 30, 0.0, 0.0)


def test_a_change_made_twice_is_one_and_another_one_for_the_same_step_is_refused(store: SequenceStore) -> None:
    loader = make(store)
    loader.advance(4)
    assert [loader.update("uniform", step=4) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(
        ConfigError, match=r"a change after step 4 \(48 sequences\), but one after 48 sequences was made"
    ):
        loader.update("proportional", step=4)
    with pytest.raises(ConfigError, match="a change after step 3"):
        loader.update("proportional", step=3)
    loader.advance()
    assert loader.update("proportional", step=5) == 2


def test_a_change_that_would_reach_what_was_handed_out_is_refused(store: SequenceStore) -> None:
    loader = make(store, lag=2)
    loader.advance(9)
    with pytest.raises(ConfigError, match="take effect at sequence 96, but 108 are handed out; make it by step 7"):
        loader.update("uniform", step=6)
    # late, but nothing was handed out from there on
    assert loader.update("uniform", step=7) == 1


def test_a_smaller_batch_after_a_restart_puts_changes_behind_those_to_come(store: SequenceStore) -> None:
    saved = make(store, lag=4)
    saved.advance(2)
    saved.update("uniform", step=2)
    assert saved.effective_from(1) == 72
    resumed = make(store, lag=4, batch_size=4)
    resumed.load_state_dict(saved.state_dict())
    resumed.advance()
    # its own point would be sequence 44
    version = resumed.update({"code": 1, "web": 1, "wiki": 1}, step=7)
    assert resumed.effective_from(version) == 76


def test_a_state_holds_what_is_in_force_and_to_come_and_versions_keep_their_numbers(store: SequenceStore) -> None:
    loader = make(store, lag=2)
    sizes = []
    for step in range(1, 40):
        loader.batch(step - 1)
        loader.advance()
        loader.update({"code": 1, "web": step, "wiki": 1}, step=step)
        sizes.append(len(loader.state_dict()["log"]["entries"]))
    assert sizes == [2] + [3] * 38
    resumed = make(store, lag=2)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert resumed.newest_version == 39
    assert resumed.weights_of(38) == loader.weights_of(38)
    for step in range(39, 45):
        assert same(resumed.batch(step), loader.batch(step))
        assert resumed.batch(step).mixture_version.tolist() == loader.batch(step).mixture_version.tolist()
    with pytest.raises(ConfigError, match="mixture version 3: this log holds versions 37 to 39"):
        resumed.weights_of(3)


def test_a_run_of_many_changes_keeps_a_bounded_number_of_them(
    store: SequenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.training.loader._KEPT_VERSIONS", 5)
    loader = make(store, lag=1)
    for step in range(1, 60):
        loader.advance()
        loader.update({"code": 1, "web": step, "wiki": 1}, step=step)
        assert len(loader.log.entries) <= 11
        # the last five past ones are known
        assert len(loader.weights_of(max(0, step - 5))) == 3
    assert loader.newest_version == 59


def test_far_into_a_run_the_loader_holds_what_it_held_at_its_start(store: SequenceStore) -> None:
    near, far = make(store), make(store)
    near.batch(0)
    far.advance(10**12)
    state = far.state_dict()
    far = make(store)
    far.load_state_dict(state)
    batch = far.batch(10**12)
    assert batch.numbers[0] == 12 * 10**12
    assert len(far.log.phases) == len(near.log.phases) == 1
    one, other = (loader._reader._window for loader in (near, far))
    assert one is not None
    assert other is not None
    # as many sequences found at once, near and far
    assert other.stop - other.start == one.stop - one.start


def test_a_cap_is_reached_exactly_and_the_order_says_where_it_ends(store: SequenceStore) -> None:
    loader = make(store, "uniform", on_exhausted="stop", max_epochs={"wiki": 1.5})
    # 30 rows of wiki: nine blocks of ten hold 27 or 30 of them, whichever domain has the odd one
    end = loader.log.end
    assert end is not None
    batch = loader.__getitems__(np.arange(end))
    assert int((batch.domain == 2).sum()) == 30
    assert loader.steps_left == end // 12
    with pytest.raises(DatasetError, match=rf"the order ends at sequence {end}, where wiki \(30 sequences read\)"):
        loader.batch(end // 12)
    assert len(list(loader.stream(None))) == end // 12
    assert loader.steps_left == 0
    with pytest.raises(DatasetError, match="raise max_epochs, set on_exhausted to repeat or redistribute"):
        loader.stream(1)


def test_caps_of_all_domains_leave_every_row_read_as_often(store: SequenceStore) -> None:
    loader = make(store, {"code": 8, "web": 1, "wiki": 1}, on_exhausted="redistribute", max_epochs=2)
    assert loader.log.end == 200
    batch = loader.__getitems__(np.arange(200))
    for k, rows in enumerate((30, 50, 20)):
        assert np.bincount(batch.rows[batch.domain == k]).tolist() == [2] * rows
    # code is used up first, then web and wiki go on one to one until wiki is
    assert set(batch.domain[:70].tolist()) == {0, 1, 2}
    assert set(batch.domain[160:].tolist()) == {1}


def test_fewer_sequences_than_a_block_or_a_batch(tmp_path: Path, packed: SimpleNamespace) -> None:
    path = packed.write(tmp_path / "d.arrow", [[("a", [1] * 8)], [("b", [2] * 8)], [("c", [3] * 8)]], length=8)
    store = SequenceStore.open({"d": [path]})
    batch = make(store, block=1000).batch(0)
    assert np.bincount(batch.rows).tolist() == [4, 4, 4]
    once = make(store, block=1000, on_exhausted="stop")
    assert (once.log.end, once.steps_left) == (3, 0)
    assert list(once.stream(None)) == []
    with pytest.raises(DatasetError, match="the order ends at sequence 3"):
        once.batch(0)
    assert sorted(once.__getitems__([2, 0, 1]).rows.tolist()) == [0, 1, 2]


@pytest.fixture
def other(tmp_path: Path, packed: SimpleNamespace) -> SequenceStore:
    """Another dataset: wiki is larger, code is gone, news is new."""
    files = {}
    for at, (domain, count) in enumerate({"news": 25, "web": 10, "wiki": 60}.items()):
        rows = [[(f"new/{domain}/{i}", [100 * at + i + 501] * 4)] for i in range(count)]
        files[domain] = [packed.write(tmp_path / f"new-{domain}.arrow", rows, length=8, domain=domain)]
    return SequenceStore.open(files)


def test_a_dataset_is_replaced_at_a_point_and_indices_keep_their_meaning(
    store: SequenceStore, other: SequenceStore
) -> None:
    loader = make(store, "uniform", lag=2)
    loader.advance(3)
    loader.replace(other, fingerprint="beef", weights={"news": 1, "web": 1, "wiki": 0}, step=3)
    assert loader.domains == ("code", "web", "wiki", "news")
    assert (loader.fingerprint, loader.store) == ("f00d", store)
    docs = [loader.batch(step).segment_docs.to_pylist() for step in range(7)]
    assert all(not doc.startswith("new/") for step in range(5) for doc in docs[step])
    assert all(doc.startswith(("new/news/", "new/web/")) for step in (5, 6) for doc in docs[step])
    batch = loader.batch(5)
    assert [loader.domains[k] for k in batch.domain] == [doc.split("/")[1] for doc in batch.segment_docs.to_pylist()]
    assert sorted(set(batch.domain.tolist())) == [1, 3]
    # a batch across the border, asked for by number
    mixed = loader.__getitems__([63, 60, 57, 61])
    # old rows have two documents, new ones have one: sequence 57 is the tenth of step 4
    wanted = [docs[5][3], docs[5][0], *docs[4][18:20], docs[5][1]]
    assert mixed.segment_docs.to_pylist() == wanted
    assert mixed.segment_counts.tolist() == [1, 1, 2, 1]
    assert mixed.segment_lengths.tolist() == [4] * 5
    assert mixed.tokens[2].tolist() == loader.batch(4).tokens[9].tolist()
    assert mixed.mixture_version.tolist() == [1, 1, 0, 1]
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make(store)
    with pytest.raises(DatasetError, match="saved for data beef, this data is f00d"):
        resumed.load_state_dict(state)
    resumed.load_state_dict(state, stores={"beef": other})
    assert [same(resumed.batch(step), loader.batch(step)) for step in range(3, 7)] == [True] * 4
    loader.advance(2)
    assert (loader.fingerprint, loader.store, loader.weights) == ("beef", other, (0.0, 0.5, 0.0, 0.5))
    assert loader.update([0.0, 0.25, 0.5, 0.25], step=5) == 2
    with pytest.raises(ConfigError, match="unknown domain 'code'"):
        loader.update([0.25, 0.25, 0.25, 0.25], step=6)
    # now the old data is no longer needed, nor would it do
    after = json.loads(json.dumps(loader.state_dict()))
    fresh = MixtureLoader(other, "uniform", seed=0, fingerprint="beef", batch_size=12)
    fresh.load_state_dict(after)
    assert same(fresh.batch(6), loader.batch(6))
    with pytest.raises(DatasetError, match="saved for data beef, this data is f00d"):
        make(store).load_state_dict(after)


def test_new_data_follows_a_state_of_the_old_one(store: SequenceStore, other: SequenceStore) -> None:
    saved = make(store, lag=2)
    saved.advance(3)
    saved.update("uniform", step=3)  # still to come, so it is dropped
    loader = MixtureLoader(other, {"news": 1, "web": 1, "wiki": 2}, seed=5, fingerprint="beef", batch_size=12, block=8)
    assert loader.follow(json.loads(json.dumps(saved.state_dict()))) == 1
    assert (loader.consumed, loader.domains) == (36, ("code", "web", "wiki", "news"))
    batch = loader.__getitems__(np.arange(36, 36 + 48))
    assert batch.mixture_version.tolist() == [1] * 48
    assert np.bincount(batch.domain).tolist() == [0, 12, 24, 12]
    assert all(doc.startswith("new/") for doc in batch.segment_docs.to_pylist())
    assert loader.log.seed == 3
    again = MixtureLoader(other, "uniform", seed=0, fingerprint="beef", batch_size=12)
    again.load_state_dict(loader.state_dict())
    assert same(again.batch(4), loader.batch(4))


def test_data_of_another_length_or_another_size_is_refused(
    store: SequenceStore, tmp_path: Path, packed: SimpleNamespace
) -> None:
    longer = packed.write(tmp_path / "l.arrow", [[("a", [1] * 9)]], length=9)
    loader = make(store)
    with pytest.raises(ConfigError, match="the new data has sequences of 9 tokens, the old 8"):
        loader.replace(SequenceStore.open({"d": [longer]}), fingerprint="9", weights="uniform", step=1)
    fewer = {name: [tmp_path / f"{name}.arrow"] for name in ("code", "web")}
    with pytest.raises(DatasetError, match=r"'wiki': 20.* the data has"):
        make(SequenceStore.open(fewer)).load_state_dict(loader.state_dict())


def test_grouped_reading_visits_one_group_of_a_domain_at_a_time(store: SequenceStore) -> None:
    loader = make(store, {"code": 1, "web": 1, "wiki": 1}, group_rows=5)
    batch = loader.__getitems__(np.arange(60))
    for k in range(3):
        groups = batch.rows[batch.domain == k] // 5
        changes = int((np.diff(groups) != 0).sum())
        assert changes == -(-len(groups) // 5) - 1
    state = loader.state_dict()
    flat = make(store)
    flat.load_state_dict(state)  # the order is the state's, whatever the loader was made with
    assert same(flat.batch(3), loader.batch(3))


@pytest.mark.parametrize("prefetch", [0, 2, 8])
def test_a_stream_gives_the_order_and_counts_what_was_taken(store: SequenceStore, prefetch: int) -> None:
    wanted, loader = make(store), make(store)
    stream = loader.stream(6, rank=1, world_size=3, prefetch=prefetch)
    for step in range(4):
        batch = next(stream)
        assert same(batch, wanted.batch(step, rank=1, world_size=3))
        assert loader.consumed == 12 * (step + 1)
        wanted.advance()
        assert loader.state_dict() == wanted.state_dict()
    stream.close()  # type: ignore[attr-defined]
    # what was gathered and not taken comes again
    rest = list(loader.stream(2, rank=1, world_size=3, prefetch=prefetch))
    assert [batch.numbers[0] for batch in rest] == [52, 64]


def test_a_stream_ends_its_thread_and_hands_on_errors(store: SequenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    def running() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "penstock-prefetch"]

    loader = make(store)
    stream = loader.stream(100, prefetch=2)
    next(stream)
    assert running() == ["penstock-prefetch"]
    stream.close()  # type: ignore[attr-defined]
    assert running() == []

    real = MixtureLoader.batch

    def fails(self: MixtureLoader, step: int, **options: int) -> Batch:
        if step == 3:
            raise RuntimeError("the disk is gone")
        return real(self, step, **options)

    monkeypatch.setattr(MixtureLoader, "batch", fails)
    stream = loader.stream(None, prefetch=8)
    assert [int(next(stream).numbers[0]) for _ in range(2)] == [12, 24]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(stream)
    assert loader.consumed == 36
    assert running() == []


def test_a_stream_refuses_to_be_moved_from_beside(store: SequenceStore) -> None:
    loader = make(store)
    stream = loader.stream(5)
    next(stream)
    loader.advance()
    with pytest.raises(ConfigError, match="do not call advance or load a state beside it"):
        next(stream)


def test_streams_are_refused_that_would_read_past_a_change_or_cannot_pin(store: SequenceStore) -> None:
    import torch

    with pytest.raises(ConfigError, match="prefetch: got 9, allowed 0 to the loader's lag of 8"):
        make(store).stream(1, prefetch=9)
    with pytest.raises(ConfigError, match="12 sequences do not divide by 5 ranks"):
        make(store).stream(1, 0, 5)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="page-locked memory needs CUDA"):
            make(store).stream(1, pin=True)


def test_rows_of_a_store_make_a_batch_that_stands_in_no_order(store: SequenceStore) -> None:
    domain, rows = np.array([2, 0]), np.array([5, 3])
    batch = Batch.of(store.read(domain, rows), domain=domain, rows=rows)
    assert (batch.numbers.tolist(), batch.mixture_version.tolist()) == ([-1, -1], [-1, -1])
    assert batch.tokens[:, 0].tolist() == [206, 4]
    assert batch.segment_docs.to_pylist() == ["wiki/5", "wiki/5b", "code/3", "code/3b"]


@pytest.mark.gpu
def test_a_pinned_stream_gives_the_same_tokens_in_page_locked_memory(store: SequenceStore) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loader = make(store)
    for step, batch in enumerate(make(store).stream(3, pin=True)):
        assert torch.from_numpy(batch.tokens).is_pinned()
        assert same(batch, loader.batch(step))


def test_a_batch_makes_its_late_parts_once_and_is_its_own(store: SequenceStore) -> None:
    loader = make(store)
    batch = loader.batch(0)
    assert batch.segment_docs is batch.segment_docs
    assert batch.segment_ids is batch.segment_ids
    assert (len(batch), repr(batch)) == (12, "Batch(12 sequences of 8 tokens, 24 segments)")
    for name in ("numbers", "domain", "rows", "mixture_version", "tokens", "segment_counts", "segment_lengths"):
        getattr(batch, name)[:] = 0
    assert loader.batch(0).tokens.min() > 0
    assert same(loader.batch(0), make(store).batch(0))
    assert loader.batch(0).segment_lengths.tolist() == [4] * 24


def test_a_loader_can_be_sent_to_another_process(store: SequenceStore) -> None:
    import pickle

    loader = make(store)
    loader.batch(0)
    sent = pickle.loads(pickle.dumps(loader))  # noqa: S301 - our own bytes
    assert same(sent.batch(1), loader.batch(1))
    assert sent.batch(1).segment_docs.to_pylist() == loader.batch(1).segment_docs.to_pylist()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size: got 0, allowed >= 1"),
        ({"lag": -1}, "lag: got -1, allowed >= 0 steps"),
        ({"group_rows": 0}, "group_rows: got 0, allowed >= 1 sequences"),
        ({"on_exhausted": "never"}, "on_exhausted: got 'never', allowed repeat, redistribute, stop"),
        ({"max_epochs": 2}, "max_epochs: got 2, allowed none while on_exhausted is repeat"),
        ({"max_epochs": 0, "on_exhausted": "stop"}, "max_epochs: got 0 for code, allowed a number above 0"),
        ({"max_epochs": {"cod": 1}, "on_exhausted": "stop"}, "max_epochs: unknown domain 'cod'; did you mean code?"),
        ({"max_epochs": 0.01, "on_exhausted": "stop"}, "0.01 epochs of code's 30 sequences hold none; raise it"),
        ({"block": 2}, "block: got 2, allowed 3 to"),
        ({"temperature": float("nan")}, "temperature: got nan, allowed > 0"),
    ],
)
def test_bad_settings_are_refused(store: SequenceStore, options: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(store, **options)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([0.5, 0.5], "got weights of shape (2,), allowed one for each of code, web, wiki"),
        ([0.5, 0.25, 0.2], "sum to 0.95, allowed 1; normalise them"),
        ([0.5, 0.75, -0.25], "allowed finite weights >= 0"),
        ([float("nan"), 0.5, 0.5], "allowed finite weights >= 0"),
        ([float("inf"), 0.5, 0.5], "allowed finite weights >= 0"),
        ([0.0, 0.0, 0.0], "sum to 0, allowed 1"),
        (
            {"code": 0.5, "web": 0.3, "wiki": 0.1},
            "sum to 0.9, allowed shares that sum to 1; mend them, or write a ratio",
        ),
        ({"code": 1, "web": 1, "news": 1}, "unknown domain 'news'"),
        ({"code": "much", "web": 1, "wiki": 1}, "allowed finite weights >= 0"),
    ],
)
def test_bad_changes_are_refused_and_leave_the_mixture_alone(store: SequenceStore, weights: Any, text: str) -> None:
    loader = make(store)
    before = loader.state_dict()
    with pytest.raises(ConfigError) as error:
        loader.update(weights, step=1)
    assert text in str(error.value)
    assert loader.state_dict() == before


def test_shares_that_were_rounded_by_hand_are_taken(store: SequenceStore) -> None:
    assert make(store, {"code": 0.33, "web": 0.33, "wiki": 0.33}).weights == pytest.approx((1 / 3,) * 3)


@pytest.mark.parametrize("change", [lambda s: s.pop("observed"), lambda s: s["log"].pop("seed")])
def test_a_damaged_state_is_refused(store: SequenceStore, change: Any) -> None:
    state = make(store).state_dict()
    change(state)
    with pytest.raises(DatasetError, match="damaged or saved by another version"):
        make(store).load_state_dict(state)
