"""pytest tests/training/group_rl/test_advantages.py: rewards of groups become advantages, whoever holds the rows."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.training.group_rl.advantages import group_advantages

WORKER = Path(__file__).with_name("advantages_rank.py")
SCALES = ("std", "none", "mad", "batch")


def by_hand(
    rewards: list[float], groups: list[Any], known: list[bool], scale: str, std: str, epsilon: float
) -> list[float]:
    """The formulas, one row at a time."""
    deviation = statistics.stdev if std == "unbiased" else statistics.pstdev
    everything = [r for r, k in zip(rewards, known, strict=True) if k]
    out = []
    for reward, group, here in zip(rewards, groups, known, strict=True):
        others = [r for r, g, k in zip(rewards, groups, known, strict=True) if k and g == group]
        if not here or len(set(others)) < 2:
            out.append(0.0)
            continue
        away = reward - statistics.fmean(others)
        divisor = {
            "none": 1.0,
            "std": deviation(others) + epsilon,
            "batch": deviation(everything) + epsilon,
            "mad": (sum(abs(r - statistics.fmean(others)) for r in others) + epsilon) / len(others),
        }[scale]
        out.append(away / divisor)
    return out


@st.composite
def steps(draw: Any, values: Any = None) -> tuple[list[float], list[Any], list[bool]]:
    """Rewards, ids and what is known of one to five groups of two to six rows, in any order."""
    names = draw(
        st.one_of(st.just(list(range(5))), st.just(["b", "a", "ä/0", "", "a "]), st.just([-7, 0, 2**62, 3, 9]))
    )
    groups = [name for name in names[: draw(st.integers(1, 5))] for _ in range(draw(st.integers(2, 6)))]
    groups = draw(st.permutations(groups))
    values = values or st.one_of(st.sampled_from([0.0, 1.0]), st.integers(-40, 40).map(lambda n: n / 8))
    rewards = draw(st.lists(values, min_size=len(groups), max_size=len(groups)))
    return rewards, groups, draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups)))


@settings(max_examples=150, deadline=None)
@given(steps(), st.sampled_from(SCALES), st.sampled_from(["unbiased", "population"]), st.sampled_from([0.0, 1e-6, 0.5]))
def test_advantages_are_the_formula_in_any_order_of_the_rows(step: Any, scale: Any, std: Any, epsilon: float) -> None:
    rewards, groups, known = step
    found = group_advantages(rewards, groups, known=known, scale=scale, std=std, epsilon=epsilon)
    assert found.values == pytest.approx(by_hand(rewards, groups, known, scale, std, epsilon), rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(steps())
def test_the_facts_of_a_row_are_those_of_the_known_rows_of_its_group(step: Any) -> None:
    rewards, groups, known = step
    found = group_advantages(rewards, groups, known=known)
    for i, group in enumerate(groups):
        others = [r for r, g, k in zip(rewards, groups, known, strict=True) if k and g == group]
        assert found.size[i] == len(others)
        assert found.flat[i] == (len(set(others)) < 2)
        if others:
            assert found.accuracy[i] == pytest.approx(statistics.fmean(others))
        else:
            assert math.isnan(found.accuracy[i])


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from(SCALES), st.randoms(use_true_random=False))
def test_moving_rows_moves_their_advantages_and_changes_no_bit(step: Any, scale: Any, random: Any) -> None:
    rewards, groups, known = step
    order = list(range(len(groups)))
    random.shuffle(order)
    found = group_advantages(rewards, groups, known=known, scale=scale)
    moved = group_advantages(*([part[i] for i in order] for part in (rewards, groups)), known=np.array(known)[order],
                             scale=scale)  # fmt: skip
    assert moved.values.tolist() == found.values[order].tolist()
    assert moved.facts == found.facts


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from(SCALES), st.sampled_from([math.nan, math.inf, -3.0]))
def test_rows_that_are_not_known_change_no_statistic(step: Any, scale: Any, reward: float) -> None:
    rewards, groups, _ = step
    alone = group_advantages(rewards, groups, scale=scale)
    filled = group_advantages(
        [reward, *rewards, reward], [groups[-1], *groups, groups[0]], scale=scale,
        known=[False] + [True] * len(groups) + [False],
    )  # fmt: skip
    assert filled.values.tolist() == [0.0, *alone.values.tolist(), 0.0]
    assert filled.accuracy[1:-1].tolist() == alone.accuracy.tolist()


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from(SCALES))
def test_advantages_of_a_group_sum_to_zero(step: Any, scale: Any) -> None:
    rewards, groups, known = step
    found = group_advantages(rewards, groups, known=known, scale=scale)
    for group in set(groups):
        rows = [i for i, name in enumerate(groups) if name == group]
        assert found.values[rows].sum() == pytest.approx(0.0, abs=1e-9)
        # they are all zero only where there is nothing to tell apart
        assert bool((found.values[rows] == 0.0).all()) == bool(found.flat[rows[0]])


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from(["std", "mad", "batch"]), st.floats(1e-4, 1e4), st.integers(-5, 5))
def test_the_unit_of_rewards_does_not_matter_without_epsilon(step: Any, scale: Any, factor: float, shift: int) -> None:
    rewards, groups, known = step
    plain = group_advantages(rewards, groups, known=known, scale=scale, epsilon=0.0)
    other = group_advantages(factor * (np.array(rewards) + shift), groups, known=known, scale=scale, epsilon=0.0)
    assert other.values == pytest.approx(plain.values, rel=1e-6, abs=1e-9)


def test_the_unit_of_rewards_matters_with_epsilon() -> None:
    rewards = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    small, plain = (group_advantages(a * rewards, [0] * 8).values for a in (1e-4, 1.0))
    assert small / plain == pytest.approx(0.972, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_variance_of_a_pool_is_that_within_phrasings_and_that_of_their_means(
    variants: int, rollouts: int, data: Any
) -> None:
    count = (variants + 1) * (rollouts + 1)
    rewards = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    phrasing = np.arange(count) % (variants + 1)
    pool = group_advantages(rewards, np.zeros(count, np.int64), scale="none")
    within = group_advantages(rewards, phrasing, scale="none")
    parts = np.square(within.values).mean() + np.square(within.accuracy - pool.accuracy).mean()
    assert np.square(pool.values).mean() == pytest.approx(parts, abs=1e-12)


@pytest.mark.parametrize(("right", "n"), [(1, 2), (1, 8), (6, 8), (3, 5), (31, 32)])
def test_right_and_wrong_answers_have_the_closed_form(right: int, n: int) -> None:
    p = right / n
    rewards = [1.0] * right + [0.0] * (n - right)
    population = group_advantages(rewards, [4] * n, std="population", epsilon=0.0).values
    assert population[0] == pytest.approx(math.sqrt((1 - p) / p), rel=1e-12)
    assert population[-1] == pytest.approx(-math.sqrt(p / (1 - p)), rel=1e-12)
    unbiased = group_advantages(rewards, [4] * n, epsilon=0.0).values
    assert unbiased == pytest.approx(population * math.sqrt((n - 1) / n), rel=1e-12)


def test_a_phrasing_that_is_always_wrong_learns_from_a_sibling() -> None:
    rewards = [0.0] * 4 + [0.0, 0.0, 0.0, 1.0]
    problems, groups = [1] * 4 + [2] * 4, ["g"] * 8
    assert (group_advantages(rewards, problems).values[:4] == 0.0).all()
    assert (group_advantages(rewards, groups).values[:4] < 0.0).all()


def test_groups_of_one_phrasing_are_grpo_bit_for_bit() -> None:
    draw = np.random.default_rng(5)
    rewards = draw.integers(2, size=64).astype(float)
    problems = np.repeat(np.arange(8), 8)
    pooled = group_advantages(rewards, [f"question {i}" for i in problems])
    assert pooled.values.tolist() == group_advantages(rewards, problems).values.tolist()
    # the published trainer: one row of rewards a prompt, torch's own standard deviation
    table = torch.from_numpy(rewards).reshape(8, 8)
    grpo = (table - table.mean(dim=1, keepdim=True)) / (table.std(dim=1, keepdim=True) + 1e-6)
    assert pooled.values == pytest.approx(grpo.flatten().numpy(), rel=1e-12, abs=1e-12)


def test_rows_that_fill_a_batch_do_not_fake_mixed_rewards() -> None:
    rewards, groups = [1.0] * 8 + [0.0] * 4, [3] * 12
    assert (group_advantages(rewards, groups, known=[True] * 8 + [False] * 4).values == 0.0).all()
    taken_for_wrong = group_advantages(rewards, groups).values
    assert (round(taken_for_wrong[0], 2), round(taken_for_wrong[-1], 2)) == (0.68, -1.35)


def test_a_variant_with_another_answer_distorts_the_original() -> None:
    original = [1.0] * 6 + [0.0] * 2
    alone = group_advantages(original, [0] * 8).values
    assert (round(alone[0], 2), round(alone[-1], 2)) == (0.54, -1.62)
    pooled = group_advantages(original + [0.0] * 8, [0] * 16).values
    assert (round(pooled[0], 2), round(pooled[7], 2)) == (1.25, -0.75)


def test_tiny_rewards_keep_their_advantages_without_epsilon() -> None:
    for scale in ("std", "batch"):
        found = group_advantages([0.0, 1e-200], [0, 0], scale=scale, epsilon=0.0)  # type: ignore[arg-type]
        assert found.values == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


@pytest.mark.parametrize("scale", SCALES)
def test_equal_rewards_have_advantage_zero_though_their_mean_is_rounded_or_nothing_is_left_to_divide_by(
    scale: Any,
) -> None:
    assert sum([0.1] * 3) / 3 != 0.1
    rewards, groups = [0.1] * 3 + [1.0] * 2 + [0.0, 1.0], [0] * 3 + [1] * 2 + [2] * 2
    with np.errstate(all="raise"):
        found = group_advantages(rewards, groups, scale=scale, epsilon=0.0)
    assert found.values[:5].tolist() == [0.0] * 5
    assert found.flat.tolist() == [True] * 5 + [False] * 2


def test_the_step_is_summed_up_by_groups_and_by_rollouts() -> None:
    step = {
        "zero": ([0, 0, 0, 0], [True, True, True, False]),
        "one": ([1, 1], [True, True]),
        "equal": ([0.5, 0.5], [True, True]),
        "mixed": ([0, 1, 1], [True, True, True]),
        "left with a one": ([0, 1, 0], [False, True, False]),
        "both above zero": ([1, 2], [True, True]),
    }
    rewards, known = ([x for group in step.values() for x in group[i]] for i in (0, 1))
    groups = [name for name, (group, _) in step.items() for _ in group]
    assert group_advantages(rewards, groups, known=known).facts.to_json() == {
        "groups": 6,
        "rollouts": 16,
        "unknown": 3 / 16,
        "alone": 1,
        "lost": 0,
        "of_groups": {"all_zero": 1 / 6, "all_one": 2 / 6, "mixed": 2 / 6, "zero_gradient": 1 - 2 / 6},
        "of_rollouts": {"all_zero": 3 / 16, "all_one": 3 / 16, "mixed": 5 / 16, "zero_gradient": 1 - 5 / 16},
    }


def test_a_group_that_time_outs_left_with_one_answer_or_none_is_flat_and_counted() -> None:
    found = group_advantages([1, 0, 0, 0, 1, 0], [1, 1, 2, 2, 3, 3], known=[True, False, False, False, True, True])
    assert found.values[:4].tolist() == [0.0] * 4
    assert found.flat.tolist() == [True, True, True, True, False, False]
    assert found.size.tolist() == [1, 1, 0, 0, 2, 2]
    assert (found.facts.alone, found.facts.lost) == (1, 1)
    # none is not the same as wrong
    assert found.facts.of_groups.all_zero == 0.0


def test_ids_that_a_float_would_merge_stay_apart() -> None:
    near = [2**62, 2**62 + 1]
    found = group_advantages([0, 1, 1, 1], [near[0], near[0], near[1], near[1]])
    assert found.flat.tolist() == [False, False, True, True]


def test_no_rows_are_no_groups() -> None:
    found = group_advantages([], [])
    assert len(found.values) == 0
    assert found.facts.of_groups.zero_gradient == 1.0


@pytest.mark.parametrize("known", [True, False])
def test_a_group_of_one_answer_is_refused_by_name(known: bool) -> None:
    with pytest.raises(InputError, match=r"1 groups of one answer \(train/7\)"):
        group_advantages([1, 0, 1], ["a", "a", "train/7"], known=[True, True, known])


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 1e101])
def test_a_known_reward_that_is_no_number_is_refused_by_row(reward: float) -> None:
    with pytest.raises(InputError, match=r"at row 2 \(group b\), 1 such in all"):
        group_advantages([0, 1, reward, 1], ["a", "a", "b", "b"])


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"groups": [0, 0, 1]}, InputError, r"groups \(3,\)"),
        ({"rewards": [[0.0, 1.0]] * 2}, InputError, r"rewards \(2, 2\)"),
        ({"rewards": 1.0, "groups": 0}, InputError, r"rewards \(\)"),
        ({"known": [True] * 3}, InputError, r"known \(3,\)"),
        ({"known": [1, 1, 1, 0]}, InputError, "of int64"),
        ({"groups": [0.0, 0.0, 1.0, 1.0]}, InputError, "ids of float64"),
        ({"groups": np.array(["a", "a", None, None], dtype=object)}, InputError, "ids of object"),
        ({"groups": [True, True, False, False]}, InputError, "ids of bool"),
        ({"groups": np.array([1, 1, 2, 2], np.uint64)}, InputError, "ids of uint64"),
        ({"scale": "max"}, ConfigError, "scale: got 'max'"),
        ({"std": "sample"}, ConfigError, "std: got 'sample'"),
        ({"epsilon": -1e-6}, ConfigError, "epsilon: got -1e-06"),
        ({"epsilon": math.nan}, ConfigError, "epsilon: got nan"),
    ],
)
def test_what_is_no_group_of_rewards_is_refused(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    given_: dict[str, Any] = {"rewards": [0.0, 1.0, 0.0, 1.0], "groups": [0, 0, 1, 1]} | changes
    with pytest.raises(error, match=says):
        group_advantages(**given_)


# of two ranks: rewards, ids, known. Groups are spread 3 + 1, 1 + 3 and 0 + 2
CASES: dict[str, Any] = {
    "numbers": [
        ([1.0, 0.0, 1.0, 0.3], [2**62, 2**62, 2**62, 2**62 + 1], [True, True, True, True]),
        ([0.0, 0.1, 0.7, 0.2, 1.0, 0.5], [2**62, 2**62 + 1, 2**62 + 1, 2**62 + 1, 5, 5], [True] * 6),
    ],
    "strings": [
        ([1.0, 0.0, 1.0, 9.0], ["a/ä", "a/ä", "a/ä", "b"], [True, True, True, False]),
        ([0.0, 0.1, 0.7, 0.2], ["a/ä", "b", "b", "b"], [True, True, True, True]),
    ],
    "one rank has none": [([], [], []), ([1.0, 0.0, 1.0], ["a"] * 3, [True] * 3)],
}
REFUSED: dict[str, Any] = {
    "no number": [([1.0, float("nan")], [1, 1], [True, True]), ([1.0, 0.0], [1, 1], [True, True])],
    "of one": [([1.0, 0.0], [1, 1], [True, True]), ([1.0], [2], [True])],
    "two kinds": [([1.0, 0.0], [1, 1], [True, True]), ([1.0, 0.0], ["1", "1"], [True, True])],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo processes found of every case, by scale."""
    meet = tmp_path_factory.mktemp("ranks") / "meet"
    started = []
    for rank in (0, 1):
        cases = {name: parts[rank] for name, parts in (CASES | REFUSED).items()}
        plan = {"rank": rank, "world_size": 2, "meet": str(meet), "cases": cases, "scales": SCALES}
        command = [sys.executable, str(WORKER), json.dumps(plan)]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment))
    out = []
    for process in started:
        printed, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
        out.append(json.loads(printed))
    return out


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_that_hold_parts_of_a_group_find_what_one_process_does(name: str, scale: Any, ran: Any) -> None:
    rewards, groups, known = (first + second for first, second in zip(*CASES[name], strict=True))
    whole = group_advantages(rewards, groups, known=known, scale=scale)
    first, second = (found[name][scale] for found in ran)
    assert first["values"] + second["values"] == whole.values.tolist()
    assert first["size"] + second["size"] == whole.size.tolist()
    assert first["facts"] == second["facts"] == whole.facts.to_json()


@pytest.mark.parametrize(
    ("name", "says"), [("no number", "reward nan"), ("of one", "one answer"), ("two kinds", "kind")]
)
def test_what_one_rank_has_to_refuse_every_rank_refuses(name: str, says: str, ran: Any) -> None:
    told = [found[name]["std"] for found in ran]
    assert told[0] == told[1]
    assert says in told[0]
