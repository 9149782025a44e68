"""pytest tests/training/mixing/test_mixer.py"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.training.config import TrainData
from penstock.training.loader import MixtureLoader
from penstock.training.mixing.base import Cadence, Mixture, Observation, Signal
from penstock.training.mixing.dga import DynamicGradientAlignment
from penstock.training.mixing.mixer import Mixer, starting_weights
from penstock.training.mixing.post import PostStage
from penstock.training.mixing.static import Static
from penstock.training.sequences import SequenceStore

TRAIN = Signal.TRAIN_LOSS


@dataclass(kw_only=True)
class Towards:
    """Asks for the mixtures it is given, in turn, and keeps what it saw."""

    mixtures: list[list[float]]
    name: str = "towards"
    cadence: Cadence = field(default_factory=lambda: Cadence(every=2))
    needs: frozenset[Signal] = frozenset({TRAIN})
    seen: list[Observation] = field(default_factory=list)
    start_at: tuple[float, ...] = (0.5, 0.5)

    def start(self, domains: tuple[str, ...], tokens: Any) -> Mixture:
        return Mixture(weights=np.array(self.start_at))

    def update(self, seen: Observation) -> Mixture | None:
        self.seen.append(seen)
        weights = self.mixtures[len(self.seen) - 1]
        return None if weights is None else Mixture(weights=np.array(weights), facts={"asked": len(self.seen)})

    def state_dict(self) -> dict[str, Any]:
        return {"asked": len(self.seen)}

    def load_state_dict(self, state: Any) -> None:
        self.seen = [None] * state["asked"]  # type: ignore[list-item]


@pytest.fixture
def store(packed: SimpleNamespace, tmp_path: Path) -> SequenceStore:
    """Two domains of 40 and 20 sequences of two segments, 5 and 3 tokens long."""
    files = {
        name: [
            packed.write(
                tmp_path / f"{name}.arrow",
                [[(f"{name}{i}a", [1] * 5), (f"{name}{i}b", [2] * 3)] for i in range(count)],
                length=8,
            )
        ]
        for name, count in (("a", 40), ("b", 20))
    }
    return SequenceStore.open(files)


def loader_of(store: SequenceStore, weights: Any = "uniform", **options: Any) -> MixtureLoader:
    given: dict[str, Any] = {"seed": 3, "fingerprint": "f", "batch_size": 4, "block": 10, "lag": 2}
    return MixtureLoader(store, weights, **(given | options))


def run(mixer: Mixer, steps: range, *, losses: tuple[float, float] = (2.0, 3.0)) -> list[Any]:
    """Train nothing: every token of domain k has the loss ``losses[k]``, the first token of a segment none."""
    out = []
    for step in steps:
        batch = mixer.loader.batch(step - 1)
        counts = (batch.segment_lengths - 1).astype(np.float64)
        sums = counts * np.array(losses)[np.repeat(batch.domain, batch.segment_counts)]
        mixer.observe(batch, sums, counts)
        mixer.loader.advance()
        out.append(mixer.after_step(step))
    return out


def test_a_policy_is_asked_at_its_cadence_and_what_it_wants_holds_from_the_lag_on(store: SequenceStore) -> None:
    policy = Towards(mixtures=[[0.9, 0.1], [0.2, 0.8]])
    mixer = Mixer(policy, loader_of(store))
    updates = run(mixer, range(1, 5))
    assert [update is None for update in updates] == [True, False, True, False]
    first, second = updates[1], updates[3]
    assert (first.version, first.effective_from) == (1, (2 + 2) * 4)
    assert (second.version, second.effective_from) == (2, (4 + 2) * 4)
    assert first.old.tolist() == [0.5, 0.5]
    assert first.new == pytest.approx([0.9, 0.1])
    assert second.old == pytest.approx([0.9, 0.1])
    numbers = np.arange(60)
    assert mixer.loader.__getitems__(numbers).mixture_version.tolist() == ([0] * 16 + [1] * 8 + [2] * 36)
    # each of b's 2/10 in version 2 counts: 0.8 of 30 sequences
    assert (mixer.loader.__getitems__(np.arange(24, 54)).domain == 1).sum() == 24


def test_sums_counts_and_the_mixture_drawn_under_are_those_of_the_steps_since_the_last_update(
    store: SequenceStore,
) -> None:
    policy = Towards(mixtures=[[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    mixer = Mixer(policy, loader_of(store))
    run(mixer, range(1, 7))
    first, second, third = policy.seen
    # 8 sequences a window, each with 4 + 2 predicted tokens
    for seen in policy.seen:
        domains = mixer.loader.__getitems__(np.arange((seen.step - 2) * 4, seen.step * 4)).domain
        expected = np.bincount(domains, minlength=2) * 6.0
        assert seen.counts[TRAIN].tolist() == expected.tolist()
        assert seen.sums[TRAIN].tolist() == (expected * [2.0, 3.0]).tolist()
    assert first.weights.tolist() == [0.5, 0.5]
    assert second.weights.tolist() == [0.5, 0.5]  # sequences 8 to 15 were dispatched under version 0
    assert third.weights == pytest.approx([0.9, 0.1])
    assert [seen.mixture_version for seen in policy.seen] == [0, 0, 1]
    assert third.tokens.sum() == 6 * 4 * 6


def test_observing_by_micro_batches_is_observing_the_batch(store: SequenceStore) -> None:
    whole, parts = (Mixer(Towards(mixtures=[[0.5, 0.5]]), loader_of(store)) for _ in range(2))
    for mixer, size in ((whole, 4), (parts, 1)):
        for step in (0, 1):
            for begin in range(0, 4, size):
                batch = mixer.loader.__getitems__(np.arange(step * 4 + begin, step * 4 + begin + size))
                counts = (batch.segment_lengths - 1).astype(np.float64)
                mixer.observe(batch, counts * 1.5, counts)
            mixer.loader.advance()
        mixer.after_step(2)
    a, b = whole.policy.seen[0], parts.policy.seen[0]  # type: ignore[attr-defined]
    assert a.sums[TRAIN].tolist() == b.sums[TRAIN].tolist()
    assert a.counts[TRAIN].tolist() == b.counts[TRAIN].tolist()
    assert a.weights.tolist() == b.weights.tolist()


def test_a_signal_that_is_not_finite_is_refused_and_the_mixture_stays(store: SequenceStore) -> None:
    policy = Towards(mixtures=[[0.9, 0.1]])
    mixer = Mixer(policy, loader_of(store))
    *_, refused = run(mixer, range(1, 3), losses=(2.0, float("nan")))
    assert refused.refused == "train_loss of b is nan"
    assert policy.seen == []
    assert refused.version is None
    assert mixer.loader.newest_version == 0
    json.dumps(refused.facts, allow_nan=False)
    *_, update = run(mixer, range(3, 5))
    assert update.version == 1


def test_a_mixer_that_does_not_act_asks_and_changes_nothing(store: SequenceStore) -> None:
    policy = Towards(mixtures=[[0.9, 0.1], [0.2, 0.8]])
    mixer = Mixer(policy, loader_of(store), acts=False)
    updates = run(mixer, range(1, 5))
    assert len(policy.seen) == 2
    assert updates[3].facts["policy"] == {"asked": 2}
    assert mixer.loader.newest_version == 0


def test_no_answer_leaves_the_mixture(store: SequenceStore) -> None:
    mixer = Mixer(Towards(mixtures=[None]), loader_of(store))  # type: ignore[list-item]
    *_, update = run(mixer, range(1, 3))
    assert (update.version, update.refused) == (None, None)
    assert update.new.tolist() == update.old.tolist()


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4, 5])
def test_a_mixer_goes_on_from_its_state_as_if_it_had_not_stopped(store: SequenceStore, killed_after: int) -> None:
    def fresh() -> Mixer:
        rule = DynamicGradientAlignment(cadence=Cadence(every=2))
        return Mixer(rule, loader_of(store), probe=Pointing(), post=PostStage(ema=0.5))

    whole = fresh()
    expected = run(whole, range(1, 8))
    first = fresh()
    run(first, range(1, killed_after + 1))
    saved = json.loads(json.dumps({"loader": first.loader.state_dict(), "mixer": first.state_dict()}))
    again = fresh()
    again.loader.load_state_dict(saved["loader"])
    again.load_state_dict(saved["mixer"])
    found = run(again, range(killed_after + 1, 8))
    for a, b in zip(expected[killed_after:], found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.version, a.effective_from, a.new.tolist(), a.facts) == (
                b.version,
                b.effective_from,
                b.new.tolist(),
                b.facts,
            )
    numbers = np.arange(28, 80)
    assert again.loader.__getitems__(numbers).rows.tolist() == whole.loader.__getitems__(numbers).rows.tolist()


class Pointing:
    """A probe whose products are a function of the measurement's number."""

    gives = frozenset({Signal.TARGET_DOT})

    def measure(self, wanted: frozenset[Signal], number: int) -> Any:
        assert wanted == {Signal.TARGET_DOT}
        return {Signal.TARGET_DOT: (np.array([0.3 + 0.1 * number, -0.2]), np.ones(2))}


def test_dga_through_the_mixer_multiplies_the_weights_by_the_products(store: SequenceStore) -> None:
    mixer = Mixer(DynamicGradientAlignment(eta=2.0, cadence=Cadence(every=2)), loader_of(store), probe=Pointing())
    updates = [update for update in run(mixer, range(1, 5)) if update is not None]
    logs = np.array([2 * 0.3, 2 * -0.2])
    assert updates[0].new == pytest.approx(np.exp(logs) / np.exp(logs).sum())
    logs += [2 * 0.4, 2 * -0.2]
    assert updates[1].new == pytest.approx(np.exp(logs) / np.exp(logs).sum())


def test_a_cap_on_epochs_counts_what_was_read_and_what_is_to_come(store: SequenceStore) -> None:
    # 40 steps of 4: 160 sequences; b holds 20, at most 2 epochs of it are 40
    policy = Towards(mixtures=[[0.1, 0.9]] * 20, start_at=(0.75, 0.25))
    post = PostStage(max_epochs=4.0)
    weights = starting_weights(policy, store, post, sequences=160)
    mixer = Mixer(policy, loader_of(store, weights), post=post, steps=40)
    run(mixer, range(1, 41))
    counted = np.bincount(mixer.loader.__getitems__(np.arange(160)).domain, minlength=2)
    assert counted[1] <= 4 * 20 + 1
    assert counted[1] > 70


def test_the_start_of_a_capped_mixture_is_capped_too(store: SequenceStore) -> None:
    policy = Static(weights={"a": 0.0, "b": 1.0})
    weights = starting_weights(policy, store, PostStage(max_epochs=2.0, on_infeasible="redistribute"), sequences=100)
    assert weights == pytest.approx({"a": 0.6, "b": 0.4})


def test_validation_losses_reach_the_policies_that_need_them(store: SequenceStore) -> None:
    policy = Towards(mixtures=[[0.5, 0.5]], needs=frozenset({Signal.VALIDATION_LOSS}))
    mixer = Mixer(policy, loader_of(store))
    mixer.observe_validation({"a": 9.0, "unknown": 1.0}, {"a": 10, "unknown": 3})
    mixer.observe_validation({"a": 2.5}, {"a": 10})
    run(mixer, range(1, 3))
    seen = policy.seen[0]
    assert seen.sums[Signal.VALIDATION_LOSS].tolist() == [25.0, 0.0]
    assert np.isnan(seen.mean(Signal.VALIDATION_LOSS)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: Mixer(DynamicGradientAlignment(), loader_of(s)), "dga: needs target_dot, which nothing gives here"),
        (lambda s: Mixer(Towards(mixtures=[]), loader_of(s), post=PostStage(max_epochs=1.0)), "pass steps"),
        (lambda s: starting_weights(Towards(mixtures=[]), s, PostStage(max_epochs=1.0)), "pass sequences"),
    ],
)
def test_what_is_missing_is_said_before_the_first_step(store: SequenceStore, make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(store)


def test_a_policy_that_needs_excess_losses_is_not_fed_without_them(store: SequenceStore) -> None:
    policy = Towards(mixtures=[[0.5, 0.5]], needs=frozenset({Signal.EXCESS_LOSS}))
    mixer = Mixer(policy, loader_of(store))
    batch = mixer.loader.batch(0)
    with pytest.raises(ConfigError, match="needs excess_loss; pass excess="):
        mixer.observe(batch, np.ones(8), np.ones(8))


def test_a_state_of_another_policy_is_refused_with_both_named(store: SequenceStore) -> None:
    state = Mixer(Towards(mixtures=[]), loader_of(store)).state_dict()
    other = Mixer(Static(), loader_of(store))
    with pytest.raises(DatasetError, match="of policy towards over a, b; here is policy static over a, b"):
        other.load_state_dict(state)


def test_two_ranks_see_what_one_process_sees(store: SequenceStore, tmp_path: Path, tiny_data: TrainData) -> None:
    """Two gloo processes on loopback, each with half of every batch, against this process with all of it."""
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys
            import numpy as np
            import torch.distributed as dist
            from penstock.training.loader import MixtureLoader
            from penstock.training.mixing.base import Cadence
            from penstock.training.mixing.mixer import Mixer
            from penstock.training.mixing.odm import OnlineDataMixing
            from penstock.training.sequences import SequenceStore

            files, out, rank, world, meet = json.loads(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5]
            if world > 1:
                dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
            loader = MixtureLoader(
                SequenceStore.open(files), "uniform", seed=1, fingerprint="f", batch_size=6, block=12, lag=2
            )
            mixer = Mixer(OnlineDataMixing(cadence=Cadence(every=3)), loader)
            said = []
            for step in range(1, 13):
                batch = loader.batch(step - 1, rank=rank, world_size=world)
                counts = np.maximum(batch.segment_lengths - 1, 0).astype(float)
                losses = 1.0 + np.repeat(batch.domain, batch.segment_counts) + 0.01 * step
                mixer.observe(batch, losses * counts, counts)
                loader.advance()
                update = mixer.after_step(step)
                if update is not None:
                    said.append([update.version, update.effective_from, update.new.tolist()])
                if step == 8:  # in the middle of a window
                    state = json.loads(json.dumps(mixer.state_dict()))
                    mixer.load_state_dict(state)
            open(out, "w").write(json.dumps(said))
            """
        )
    )

    def start(name: str, rank: int, world: int) -> subprocess.Popen[bytes]:
        arguments = [json.dumps(dict(tiny_data.train)), str(tmp_path / name), str(rank), str(world)]
        return subprocess.Popen([sys.executable, str(script), *arguments, str(tmp_path / f"meet-{world}")])

    processes = [start("one", 0, 1), start("two-0", 0, 2), start("two-1", 1, 2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0]
    one, two, other = (json.loads((tmp_path / name).read_text()) for name in ("one", "two-0", "two-1"))
    assert two == other
    assert len(one) == 4
    for a, b in zip(one, two, strict=True):
        assert a[:2] == b[:2]
        assert a[2] == pytest.approx(b[2], rel=1e-12)
