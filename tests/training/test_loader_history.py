"""pytest tests/training/test_loader_history.py

Histories of a run: changes of the mixture and of the data, kills, other world sizes and prefetch depths. Whatever
happens, the order is that of a run that was left alone, and every sequence of it is seen once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.training.batch import Batch
from penstock.training.loader import MixtureLoader
from penstock.training.sequences import SequenceStore

Weights = dict[str, float]
SIZE, BLOCK, LAG, STEPS = 12, 20, 8, 40
ROWS = {"one": {"a": 7, "b": 90, "c": 33}, "two": {"d": 60, "b": 11, "a": 40}, "three": {"b": 50}}


@dataclass(frozen=True)
class Leg:
    """Steps until a state is saved, steps after that which a kill makes void, and how the leg was run."""

    steps: int
    lost: int
    world_size: int
    prefetch: int


@dataclass(frozen=True)
class History:
    changes: dict[int, tuple[str | None, Weights]]  # after which step: the data to go on with, None as before; weights
    legs: tuple[Leg, ...]
    options: dict[str, Any]
    seed: int


@st.composite
def histories(draw: st.DrawFn) -> History:
    weight = st.integers(0, 9)

    def weights(names: dict[str, int]) -> Weights:
        found = {name: draw(weight) for name in names}
        return found if any(found.values()) else dict.fromkeys(names, 1)

    changes: dict[int, tuple[str | None, Weights]] = {0: (None, weights(ROWS["one"]))}
    data = "one"
    for step in sorted(draw(st.sets(st.integers(1, STEPS), max_size=6))):
        other = draw(st.sampled_from([None, None, None, *ROWS]))
        data = other or data
        changes[step] = (other, weights(ROWS[data]))
    legs, done = [], 0
    while done < STEPS:
        leg = Leg(
            steps=min(draw(st.integers(1, 12)), STEPS - done),
            lost=draw(st.integers(0, 6)),
            world_size=draw(st.sampled_from([1, 2, 3, 4])),
            prefetch=draw(st.sampled_from([0, 2, 8])),
        )
        legs.append(leg)
        done += leg.steps
    mode = draw(st.sampled_from(["repeat", "redistribute", "stop"]))
    options: dict[str, Any] = {"on_exhausted": mode, "group_rows": draw(st.sampled_from([None, 4]))}
    if mode != "repeat":
        options["max_epochs"] = draw(st.sampled_from([None, 0.5, 2.0]))
    return History(changes, tuple(legs), options, draw(st.integers(0, 3)))


@pytest.fixture
def stores(tmp_path: Path, packed: SimpleNamespace) -> dict[str, SequenceStore]:
    """The tokens of every row say its data, domain and row."""
    out = {}
    for at, (data, names) in enumerate(ROWS.items()):
        files = {}
        for name, count in names.items():
            rows = [[(f"{data}/{name}/{i}", [at + 1, ord(name), i, 0])] for i in range(count)]
            files[name] = [packed.write(tmp_path / f"{data}-{name}.arrow", rows, length=4, domain=name, batch=16)]
        out[data] = SequenceStore.open(files)
    return out


def new(stores: dict[str, SequenceStore], history: History, data: str = "one") -> MixtureLoader:
    weights = history.changes[0][1] if data == "one" else "uniform"
    return MixtureLoader(
        stores[data], weights, seed=history.seed, fingerprint=data, batch_size=SIZE, block=BLOCK, lag=LAG,
        **history.options,
    )  # fmt: skip


def change(loader: MixtureLoader, step: int, history: History, stores: dict[str, SequenceStore]) -> None:
    if step in history.changes:
        data, weights = history.changes[step]
        if data is None:
            loader.update(weights, step=step)
        else:
            loader.replace(stores[data], fingerprint=data, weights=weights, step=step)


def told(batch: Batch, loader: MixtureLoader) -> list[tuple[Any, ...]]:
    """Everything about each sequence; its document must name the domain and the row that the batch names."""
    docs = batch.segment_docs.to_pylist()
    for doc, tokens, k, row in zip(docs, batch.tokens.tolist(), batch.domain, batch.rows, strict=True):
        data, name, i = doc.split("/")
        assert (name, int(i)) == (loader.domains[k], row)
        assert tokens == [list(ROWS).index(data) + 1, ord(name), row, 0]
    return list(zip(batch.numbers.tolist(), docs, batch.mixture_version.tolist(), strict=True))


def left_alone(stores: dict[str, SequenceStore], history: History) -> tuple[list[tuple[Any, ...]], MixtureLoader]:
    """One process, one rank, no prefetch, no stop."""
    loader, seen = new(stores, history), []
    for step in range(1, STEPS + 1):
        if loader.steps_left == 0:
            break
        seen += told(loader.batch(step - 1), loader)
        loader.advance()
        change(loader, step, history, stores)
    return seen, loader


def with_kills(stores: dict[str, SequenceStore], history: History) -> list[tuple[Any, ...]]:
    """Every leg starts from the state of the one before; what ran after that state was lost and runs again."""
    seen: dict[int, tuple[Any, ...]] = {}
    state: str | None = None
    for leg in history.legs:
        ranks = []
        for _ in range(leg.world_size):
            # the data that is read when the state was saved; the others it names are at hand
            saved = None if state is None else json.loads(state)
            loader = new(stores, history, "one" if saved is None else saved["fingerprint"])
            if saved is not None:
                loader.load_state_dict(saved, stores=stores)
            ranks.append(loader)
        streams = [
            loader.stream(None, rank, leg.world_size, prefetch=leg.prefetch) for rank, loader in enumerate(ranks)
        ]
        states = []
        for done in range(leg.steps + leg.lost):
            batches = [next(stream, None) for stream in streams]
            if batches[0] is None:
                assert batches == [None] * leg.world_size
                break
            step = ranks[0].consumed // SIZE
            for loader, batch in zip(ranks, batches, strict=True):
                assert batch is not None
                for one in told(batch, loader):
                    # a step that was lost and ran again shows the same
                    assert seen.setdefault(one[0], one) == one
                change(loader, step, history, stores)
            if done + 1 == leg.steps:
                states = [json.dumps(loader.state_dict()) for loader in ranks]
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        if not states:
            return list(seen.values())
        assert len(set(states)) == 1
        state = states[0]
    return list(seen.values())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_kills_world_sizes_and_prefetch_move_nothing(stores: dict[str, SequenceStore], history: History) -> None:
    wanted, loader = left_alone(stores, history)
    found = sorted(with_kills(stores, history))
    # the last leg may have run past the last step
    assert found[: len(wanted)] == wanted
    assert [n for n, _, _ in found] == list(range(len(found)))
    if loader.log.end is not None:
        assert len(found) <= loader.log.end


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_no_row_is_lost_or_repeated_and_ratios_hold_within_a_block(
    stores: dict[str, SequenceStore], history: History
) -> None:
    seen, loader = left_alone(stores, history)
    reads: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    by_version: dict[int, list[str]] = defaultdict(list)
    for _, doc, version in seen:
        data, name, row = doc.split("/")
        reads[loader.log.entry(version).generation, data, name].append(int(row))
        by_version[version].append(name)
    cap = history.options.get("max_epochs") or 1.0
    for (_, data, name), rows in reads.items():
        size = ROWS[data][name]
        for begin in range(0, len(rows), size):
            epoch = rows[begin : begin + size]
            assert len(set(epoch)) == len(epoch)
        if history.options["on_exhausted"] != "repeat":
            assert len(rows) <= int(cap * size)
    if history.options["on_exhausted"] == "repeat":
        for version, names in by_version.items():
            quotas = loader.log.entry(version).quotas
            for k, q in enumerate(quotas):
                exact = len(names) * q / sum(quotas)
                assert abs(names.count(loader.domains[k]) - exact) <= 0.5 + len(quotas) * q / (2 * sum(quotas)) + 1e-9
    elif loader.steps_left == 0:
        end = loader.log.end
        assert end is not None
        last = loader.log.entry(loader.log.version_at(end))
        spent = [b == limit for b, limit in zip(loader.log.cursors(end), last.limits, strict=True)]
        wanted = [q > 0 for q in last.quotas]
        # the order ends because one of the domains that are wanted, or all of them, stand exactly at their cap
        ends = all if history.options["on_exhausted"] == "redistribute" else any
        assert ends(s for s, w in zip(spent, wanted, strict=True) if w)
