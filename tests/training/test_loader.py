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
    assert batch.tokens.dtype == np.int64
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
    loader = make(store)
    loader.log = loader.log.append(30, (1, 1, 8))
    loader.advance(2)
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make(store, "uniform", seed=99)  # the state's log and seed win over the constructor's
    resumed.load_state_dict(state)
    assert resumed.consumed == 24
    numbers = [n for rank in range(4) for n in next(iter(resumed.sampler(1, rank=rank, world_size=4)))]
    assert same(resumed.__getitems__(numbers), loader.batch(2))
    assert resumed.batch(2).mixture_version.tolist() == [0] * 6 + [1] * 6


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
