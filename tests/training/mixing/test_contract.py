"""What every policy promises, whatever its rule: pytest tests/training/mixing/test_contract.py"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import DatasetError
from penstock.seeding import stream
from penstock.training.mixing.ado import AdaptiveDataOptimization
from penstock.training.mixing.base import Floats, MixingPolicy, Mixture, Observation, Signal, not_finite
from penstock.training.mixing.cooldown import Cooldown
from penstock.training.mixing.dga import DynamicGradientAlignment
from penstock.training.mixing.doremi import DoReMi
from penstock.training.mixing.importance import ImportanceSampling
from penstock.training.mixing.mixing_laws import MixingLaws
from penstock.training.mixing.odm import OnlineDataMixing
from penstock.training.mixing.regmix import RegMix, candidates
from penstock.training.mixing.rnb import RegroupAndBalance
from penstock.training.mixing.static import Static

DOMAINS = ("web", "code", "books", "wiki")
TOKENS = np.array([4000, 2000, 1000, 500])
Make = Callable[[tuple[str, ...]], MixingPolicy]


def small_ado(**settings: Any) -> AdaptiveDataOptimization:
    return AdaptiveDataOptimization(
        **(
            {"first_fit": 8, "refit": 12, "ignore": 0, "subsample": 1, "window": 5, "tokens_per_unit": 1.0, "polish": 2}
            | settings
        )
    )


def basis_of(names: tuple[str, ...]) -> list[dict[str, float]]:
    """Three distributions over the domains there are, by name."""
    return [{names[0]: 1.0}, dict.fromkeys(names, 1.0), {name: len(name) for name in names}]


UPDATING: dict[str, Make] = {
    "dga": lambda names: DynamicGradientAlignment(),
    "dga, running mean": lambda names: DynamicGradientAlignment(ema=0.1, initial="proportional"),
    "dga, basis": lambda names: DynamicGradientAlignment(basis=basis_of(names)),
    "doremi": lambda names: DoReMi(),
    "doremi, no smoothing": lambda names: DoReMi(smoothing=0.0),
    "rnb": lambda names: RegroupAndBalance(strength=3.0),
    "odm, exp3": lambda names: OnlineDataMixing(),
    "odm, exp3 undivided": lambda names: OnlineDataMixing(importance=False),
    "odm, smoothed mean": lambda names: OnlineDataMixing(form="smoothed_mean"),
    "ado": lambda names: small_ado(),
    "ado, own tokens": lambda names: small_ado(axis="domain"),
}
STAYING: dict[str, Make] = {
    "static": lambda names: Static(temperature=2.0),
    "static, uniform": lambda names: Static(weights="uniform"),
    "static, given": lambda names: Static(weights={name: len(name) for name in names}),
    "cooldown": lambda names: Cooldown(steps=40),
    "importance": lambda names: ImportanceSampling(histogram={name: len(name) for name in names}),
}
FITTED = ("regmix", "mixing laws")
EVERY = [*UPDATING, *STAYING, *FITTED]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, tuple[str, ...]], MixingPolicy]:
    """The policy of that name over these domains."""

    def runs(names: tuple[str, ...]) -> str:
        order = sorted(names)
        file = tmp_path / f"{'-'.join(order)}.jsonl"
        mixtures = candidates(np.ones(len(order)), 60, seed=1)
        lines = []
        for row in mixtures:
            loss = 3.0 + float(np.exp(row @ np.linspace(-1, 1, len(order))))
            lines.append(json.dumps({"mixture": dict(zip(order, row, strict=True)), "losses": {"w": loss}}))
        file.write_text("\n".join(lines))
        return str(file)

    def made(name: str, names: tuple[str, ...] = DOMAINS) -> MixingPolicy:
        if name == "regmix":
            return RegMix(runs=runs(names), simulate=500, top=16)
        if name == "mixing laws":
            return MixingLaws(runs=runs(names))
        return (UPDATING | STAYING)[name](names)

    return made


def signals(policy: MixingPolicy, step: int, k: int, *, absent: bool = True) -> dict[Signal, tuple[Floats, Floats]]:
    """Sums and counts of everything the policy needs, over up to three domains of ``k``; losses fall with steps."""
    rng = stream(7, "signals", step)
    counts = rng.integers(1, 50, size=k).astype(float)
    if absent and k > 1:
        counts[rng.random(k) < 0.3] = 0.0
    out: dict[Signal, tuple[Floats, Floats]] = {}
    for signal in policy.needs:
        if signal == Signal.GRADIENT_GRAM:
            gradients = rng.normal(size=(k, 5))
            both = np.minimum.outer(counts, counts)
            out[signal] = (gradients @ gradients.T * both, both)
            continue
        if signal == Signal.TARGET_DOT:
            size = len(getattr(policy, "basis", None) or counts)
            n = counts if size == k else rng.integers(0, 3, size=size).astype(float)
            out[signal] = (rng.normal(size=size) * n, n)
            continue
        hardness = np.linspace(1.0, 2.0, k)
        out[signal] = ((2.0 + hardness * step**-0.3 + 0.01 * rng.normal(size=k)) * counts, counts)
    return out


def history(policy: MixingPolicy, names: tuple[str, ...], steps: int = 24, *, absent: bool = True) -> list[Observation]:
    k = len(names)
    rng = stream(8, "weights")
    out = []
    for step in range(1, steps + 1):
        given = signals(policy, step, k, absent=absent)
        out.append(
            Observation(
                step=step,
                domains=names,
                weights=rng.dirichlet(np.full(k, 5.0)),
                mixture_version=step,
                tokens=(step * np.linspace(100, 400, k)).astype(np.int64),
                sums={s: v[0] for s, v in given.items()},
                counts={s: v[1] for s, v in given.items()},
            )
        )
    return out


def played(policy: MixingPolicy, seen: list[Observation]) -> list[Mixture | None]:
    return [policy.update(one) for one in seen]


def numbers(mixtures: list[Mixture | None]) -> list[Any]:
    return [
        None if m is None else (m.weights.tolist(), None if m.multipliers is None else m.multipliers.tolist())
        for m in mixtures
    ]


@pytest.mark.parametrize("name", EVERY)
def test_it_fits_the_interface_and_names_itself(make: Any, name: str) -> None:
    policy = make(name)
    assert isinstance(policy, MixingPolicy)
    assert policy.name
    assert policy.name in name.replace(" ", "_")


@pytest.mark.parametrize("name", EVERY)
def test_weights_are_on_the_simplex_and_facts_are_json(make: Any, name: str) -> None:
    policy = make(name)
    found = [policy.start(DOMAINS, TOKENS), *played(policy, history(policy, DOMAINS))]
    assert (name in UPDATING) == (sum(m is not None for m in found) > 2)
    for mixture in found:
        if mixture is not None:
            assert mixture.weights.shape == (4,)
            assert np.isfinite(mixture.weights).all()
            assert (mixture.weights >= 0).all()
            assert mixture.weights.sum() == pytest.approx(1, abs=1e-12)
            json.dumps(mixture.facts, allow_nan=False)
            if mixture.multipliers is not None:
                assert np.isfinite(mixture.multipliers).all()
                assert (mixture.multipliers >= 0).all()


# RegMix draws its candidates by position, so another order of domains is another sample
@pytest.mark.parametrize("name", [n for n in EVERY if n != "regmix"])
def test_the_order_of_domains_does_not_matter(make: Any, name: str) -> None:
    policy = make(name)
    order = np.array([2, 0, 3, 1])
    names = tuple(DOMAINS[i] for i in order)
    other = make(name, names) if name != "dga, basis" else make(name, DOMAINS)
    a, b = policy.start(DOMAINS, TOKENS), other.start(names, TOKENS[order])
    assert a.weights[order].tolist() == pytest.approx(b.weights.tolist(), abs=1e-6 if name == "mixing laws" else 1e-12)
    for seen in history(policy, DOMAINS):
        moved = {s: v for s, v in seen.sums.items()}
        counted = dict(seen.counts)
        for s, v in seen.sums.items():
            if v.shape == (4,):
                moved[s], counted[s] = v[order], seen.counts[s][order]
            elif v.shape == (4, 4):
                moved[s], counted[s] = v[np.ix_(order, order)], seen.counts[s][np.ix_(order, order)]
        there = replace(
            seen, domains=names, weights=seen.weights[order], tokens=seen.tokens[order], sums=moved, counts=counted
        )
        x, y = policy.update(seen), other.update(there)
        assert (x is None) == (y is None)
        if x is not None:
            assert x.weights[order].tolist() == pytest.approx(y.weights.tolist(), abs=1e-9)


@pytest.mark.parametrize("name", UPDATING)
def test_a_replay_from_the_log_gives_the_same_bits(make: Any, name: str, as_json: Callable[[Any], Any]) -> None:
    policy, again = make(name), make(name)
    policy.start(DOMAINS, TOKENS)
    again.start(DOMAINS, TOKENS)
    seen = history(policy, DOMAINS)
    first = played(policy, seen)
    from_log = []
    for one in seen:
        logged = as_json(
            {
                "weights": one.weights.tolist(),
                "tokens": one.tokens.tolist(),
                "signals": {s.value: (v.tolist(), one.counts[s].tolist()) for s, v in one.sums.items()},
            }
        )
        from_log.append(
            replace(
                one,
                weights=np.array(logged["weights"]),
                tokens=np.array(logged["tokens"]),
                sums={Signal(s): np.array(v[0]) for s, v in logged["signals"].items()},
                counts={Signal(s): np.array(v[1]) for s, v in logged["signals"].items()},
            )
        )
    assert numbers(played(again, from_log)) == numbers(first)


@pytest.mark.parametrize(
    ("name", "at"), [(name, at) for name in EVERY for at in ((1,) if name in FITTED else (1, 9, 13))]
)
def test_a_state_taken_between_any_two_updates_goes_on_to_the_same_bits(
    make: Any, name: str, at: int, as_json: Callable[[Any], Any]
) -> None:
    policy, other = make(name), make(name)
    policy.start(DOMAINS, TOKENS)
    seen = history(policy, DOMAINS)
    played(policy, seen[:at])
    state = as_json(policy.state_dict())
    other.start(DOMAINS, TOKENS)
    played(other, seen[15:17])  # a state replaces whatever was there
    other.load_state_dict(state)
    assert as_json(other.state_dict()) == state
    assert numbers(played(other, seen[at:])) == numbers(played(policy, seen[at:]))
    # and taking it changed nothing
    whole = make(name)
    whole.start(DOMAINS, TOKENS)
    other.load_state_dict(state)
    assert numbers(played(whole, seen)[at:]) == numbers(played(other, seen[at:]))


@pytest.mark.parametrize("name", EVERY)
def test_starting_again_forgets_everything(make: Any, name: str) -> None:
    policy = make(name)
    policy.start(DOMAINS, TOKENS)
    seen = history(policy, DOMAINS)
    first = numbers(played(policy, seen))
    policy.start(DOMAINS, TOKENS)
    assert numbers(played(policy, seen)) == first


@pytest.mark.parametrize("name", EVERY)
def test_a_state_of_other_domains_is_refused(make: Any, name: str) -> None:
    policy, other = make(name), make(name, ("a", "b"))
    policy.start(DOMAINS, TOKENS)
    other.start(("a", "b"), np.array([5, 5]))
    with pytest.raises(DatasetError, match="the state is of domains web, code, books, wiki, here are a, b"):
        other.load_state_dict(policy.state_dict())


@pytest.mark.parametrize("name", UPDATING)
def test_two_ranks_are_one(make: Any, name: str) -> None:
    """Sums and counts of two ranks added up; and means decide, so counting everything three times changes nothing."""
    one, two, thrice = make(name), make(name), make(name)
    for policy in (one, two, thrice):
        policy.start(DOMAINS, TOKENS)
    for seen in history(one, DOMAINS):
        # the first rank has a third of the tokens of each domain and quite another share of the loss
        part = {s: 0.8 * v for s, v in seen.sums.items()}, {s: n / 3 for s, n in seen.counts.items()}
        rest = ({s: seen.sums[s] - v for s, v in part[0].items()}, {s: seen.counts[s] - n for s, n in part[1].items()})
        added = replace(
            seen,
            sums={s: part[0][s] + rest[0][s] for s in seen.sums},
            counts={s: part[1][s] + rest[1][s] for s in seen.counts},
        )
        tripled = replace(
            seen, sums={s: 3 * v for s, v in seen.sums.items()}, counts={s: 3 * n for s, n in seen.counts.items()}
        )
        a, b, c = one.update(seen), two.update(added), thrice.update(tripled)
        assert (a is None) == (b is None) == (c is None)
        if a is not None and b is not None and c is not None:
            # a fit of a curve amplifies roundings
            near = 1e-4 if name.startswith("ado") else 1e-9
            assert b.weights.tolist() == pytest.approx(a.weights.tolist(), abs=near)
            assert c.weights.tolist() == pytest.approx(a.weights.tolist(), abs=near)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in FITTED])
def test_a_single_domain_keeps_all_of_it(make: Any, name: str) -> None:
    policy = make(name, ("only",))
    assert policy.start(("only",), np.array([10])).weights.tolist() == [1.0]
    for mixture in played(policy, history(policy, ("only",))):
        assert mixture is None or mixture.weights.tolist() == [1.0]


# weights for a domain without tokens are refused when they are given by name
@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("static, given", "dga, basis", *FITTED)])
def test_a_domain_without_tokens_never_gets_a_share(make: Any, name: str) -> None:
    policy = make(name)
    held = np.array([4000, 2000, 0, 500])
    found = [policy.start(DOMAINS, held)]
    for seen in history(policy, DOMAINS):
        weights = np.where(held > 0, seen.weights, 0.0)
        found.append(policy.update(replace(seen, weights=weights / weights.sum())))
    for mixture in found:
        if mixture is not None:
            assert mixture.weights[2] == 0.0
            assert mixture.weights.sum() == pytest.approx(1)
            assert mixture.multipliers is None or mixture.multipliers[2] == 0.0


@pytest.mark.parametrize("name", UPDATING)
def test_nothing_seen_changes_no_share_by_itself(make: Any, name: str) -> None:
    """All counts 0: either no answer, or for DoReMi, whose last excess goes on, none but that of zeros."""
    policy = make(name)
    start = policy.start(DOMAINS, TOKENS)
    seen = history(policy, DOMAINS, 1)[0]
    nothing = replace(
        seen,
        sums={s: np.zeros_like(v) for s, v in seen.sums.items()},
        counts={s: np.zeros_like(v) for s, v in seen.counts.items()},
    )
    mixture = policy.update(nothing)
    assert mixture is None or mixture.weights.tolist() == pytest.approx(start.weights.tolist())


@pytest.mark.parametrize("name", ["dga", "dga, running mean", "dga, basis", "doremi, no smoothing"])
def test_zeros_are_a_fixed_point_of_cumulative_rules(make: Any, name: str) -> None:
    policy = make(name)
    policy.start(DOMAINS, TOKENS)
    before = [m for m in played(policy, history(policy, DOMAINS)) if m is not None][-1]
    if name == "dga, running mean":  # settle: the running mean still follows the mixture
        for seen in history(policy, DOMAINS, 1) * 400:
            before = policy.update(_all(seen, 0.0)) or before
    for seen in history(policy, DOMAINS, 3):
        after = policy.update(_all(seen, 0.0))
        if name.startswith("doremi"):
            assert after.facts["weights"] == pytest.approx(before.facts["weights"], abs=1e-12)
        else:
            assert after.weights.tolist() == pytest.approx(before.weights.tolist(), abs=1e-12)


def _all(seen: Observation, value: float) -> Observation:
    """The same mean for everyone, and everyone seen."""
    return replace(
        seen,
        sums={s: np.full(v.shape, 5.0 * value) for s, v in seen.sums.items()},
        counts={s: np.full(v.shape, 5.0) for s, v in seen.sums.items()},
    )


@pytest.mark.parametrize("name", ["rnb", "odm, exp3", "odm, smoothed mean"])
def test_equal_signals_give_equal_shares_where_the_rule_is_not_cumulative(make: Any, name: str) -> None:
    policy = make(name)
    policy.start(DOMAINS, TOKENS)
    for seen in history(policy, DOMAINS, 30):
        uniform = replace(_all(seen, 2.0), weights=np.full(4, 0.25), step=seen.step + 1000)
        mixture = policy.update(uniform)
        assert mixture is not None
        assert mixture.weights.tolist() == pytest.approx([0.25] * 4, abs=1e-12)


@pytest.mark.parametrize("name", ["dga", "dga, basis", "doremi", "odm, exp3 undivided", "odm, smoothed mean"])
def test_a_constant_added_to_all_signals_changes_nothing(make: Any, name: str) -> None:
    """Where it is true: products, excess after its clip, undivided rewards; for means of exp(loss) it is a factor."""
    policy, other = make(name), make(name)
    policy.start(DOMAINS, TOKENS)
    other.start(DOMAINS, TOKENS)
    for seen in history(policy, DOMAINS, absent=False):
        far = replace(seen, step=seen.step + 500)
        shifted = replace(far, sums={s: v + 0.7 * far.counts[s] for s, v in far.sums.items()})
        a, b = policy.update(far), other.update(shifted)
        key = (lambda m: m.facts["weights"]) if name == "doremi" else (lambda m: m.weights.tolist())
        assert key(a) == pytest.approx(key(b), abs=1e-9)


@pytest.mark.parametrize("name", UPDATING)
def test_every_signal_that_is_not_finite_is_named_before_the_rule_sees_it(make: Any, name: str) -> None:
    policy = make(name)
    policy.start(DOMAINS, TOKENS)
    seen = _all(history(policy, DOMAINS, 1)[0], 1.0)
    assert not_finite(seen, policy.needs) is None
    for signal in policy.needs:
        for bad in (np.nan, np.inf):
            sums = dict(seen.sums) | {signal: seen.sums[signal].copy()}
            sums[signal].flat[-1] = bad
            found = not_finite(replace(seen, sums=sums), policy.needs)
            assert found is not None
            assert signal.value in found


@pytest.mark.parametrize("name", UPDATING)
def test_what_was_seen_is_not_written_to_and_what_was_given_is_not_kept(make: Any, name: str) -> None:
    policy, other = make(name), make(name)
    start = policy.start(DOMAINS, TOKENS)
    other.start(DOMAINS, TOKENS)
    start.weights[:] = -1
    for seen in history(policy, DOMAINS):
        for arrays in (seen.sums, seen.counts):
            for values in arrays.values():
                values.flags.writeable = False
        seen.weights.flags.writeable = False
        mixture = policy.update(seen)
        if mixture is not None:
            given = mixture.weights.copy()
            mixture.weights[:] = -1  # a caller may do as it likes with its answer
            same = other.update(seen)
            assert same is not None
            assert same.weights.tolist() == given.tolist()
        else:
            assert other.update(seen) is None


EXTREME = [1.7e308, -1.7e308, 1e12, -1e12, 700.0, 0.0, 1e-300]


@pytest.mark.parametrize("name", [n for n in UPDATING if not n.startswith("ado")])
def test_extreme_signals_overflow_nothing_in_many_updates(make: Any, name: str, request: Any) -> None:
    policy = make(name)
    policy.start(DOMAINS, TOKENS)
    rng = stream(9, "extreme")
    base = _all(history(policy, DOMAINS, 1)[0], 1.0)
    (signal,) = policy.needs
    shape = base.sums[signal].shape
    ones = {signal: np.ones(shape)}
    pool = []
    for _ in range(50):
        values = rng.choice(EXTREME, size=shape)
        if len(shape) == 2:
            values = values / 2 + values.T / 2
        pool.append(replace(base, sums={signal: values}, counts=ones))
    # one direction alone is what sums up furthest
    pool.append(replace(base, sums={signal: np.full(shape, 1.7e308)}, counts=ones))
    lopsided = np.zeros(shape)
    lopsided.flat[0] = 1.7e308
    pool.append(replace(base, sums={signal: lopsided}, counts=ones))
    pool += pool[-1:] * 48
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for number in range(5_000):
            mixture = policy.update(replace(pool[number % len(pool)], step=number + 1))
            if mixture is not None and number % 100 == 0:
                assert np.isfinite(mixture.weights).all()
                assert mixture.weights.sum() == pytest.approx(1)
    json.dumps(policy.state_dict(), allow_nan=False)


def test_a_domain_can_come_back_from_the_least_weight() -> None:
    policy = DynamicGradientAlignment(eta=1.0)
    policy.start(("a", "b"), np.array([1, 1]))
    seen = Observation(
        step=1, domains=("a", "b"), weights=np.array([0.5, 0.5]), mixture_version=0, tokens=np.zeros(2, np.int64)
    )
    ones = {Signal.TARGET_DOT: np.ones(2)}
    policy.update(replace(seen, sums={Signal.TARGET_DOT: np.array([1e9, 0.0])}, counts=ones))
    for _ in range(701):
        mixture = policy.update(replace(seen, sums={Signal.TARGET_DOT: np.array([0.0, 1.0])}, counts=ones))
    assert mixture is not None
    assert mixture.weights[1] > 0.5


def test_extreme_losses_leave_ado_on_the_simplex() -> None:
    policy = small_ado()
    policy.start(DOMAINS, TOKENS)
    rng = stream(10, "extreme")
    for step in range(1, 41):
        seen = Observation(
            step=step,
            domains=DOMAINS,
            weights=np.full(4, 0.25),
            mixture_version=0,
            tokens=np.full(4, step * 1000),
            sums={Signal.TRAIN_LOSS: rng.choice([1e300, 1e-300, 5.0, 0.0], size=4)},
            counts={Signal.TRAIN_LOSS: np.ones(4)},
        )
        mixture = policy.update(seen)
        if mixture is not None:
            assert np.isfinite(mixture.weights).all()
            assert mixture.weights.sum() == pytest.approx(1)
