"""pytest tests/training/test_weighter_ranks.py: two gloo processes against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKER = Path(__file__).with_name("weighter_rank.py")


def documents(sizes: list[int], seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(12, size=size).tolist() for size in sizes]


# the first rank has three documents and the second one, of other lengths, then six and two; the third step has two
# micro-batches on each rank, and one of them is empty
STEPS = {
    0: [
        [documents([5, 9, 3], 1)],
        [documents([4, 12, 7, 2, 1, 6], 2)],
        [documents([8, 3], 3), documents([5, 5, 11], 4)],
    ],
    1: [[documents([20], 5)], [documents([3, 30], 6)], [documents([17], 7), []]],
}
Steps = list[list[list[list[int]]]]  # of micro-batches of documents of tokens


def together(steps: dict[int, Steps]) -> Steps:
    """The documents of both ranks in rank order, each step in one micro-batch."""
    return [[[d for rank in (0, 1) for micro in steps[rank][s] for d in micro]] for s in range(len(steps[0]))]


SETTINGS: dict[str, dict[str, Any]] = {
    "prepass": {},
    "prepass, token, cap": {"length": "token", "cap": 1.3},
    "deferred": {"accumulation": "deferred"},
    "deferred, token, short": {"accumulation": "deferred", "length": "token", "min_tokens": 3},
    "running": {"accumulation": "running", "range": "minmax"},
    "warm-up, running range": {"warmup_steps": 2, "range": "running"},
}
FULL = {rank: STEPS[rank][:2] for rank in (0, 1)}  # no rank has a micro-batch without documents
LAST = {rank: STEPS[rank][2:] for rank in (0, 1)}
# a softmax per micro-batch sees what both ranks have of it
MICRO = [d for rank in (0, 1) for d in LAST[rank][0][0]], [d for rank in (0, 1) for d in LAST[rank][0][1]]

# name: settings, steps of each rank, steps of one process
CASES: dict[str, tuple[dict[str, Any], dict[int, Steps], Steps]] = {
    name: (config, STEPS, together(STEPS)) for name, config in SETTINGS.items()
} | {
    "ddp": ({}, FULL, together(FULL)),
    "per micro-batch": ({"accumulation": "per_micro"}, LAST, [[MICRO[0], MICRO[1]]]),
    "one by one": ({}, LAST, [[[d] for d in together(LAST)[0][0]]]),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Any]]]:
    """What two ranks and one process alone printed. As on two machines, every rank is number 0 of its machine."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    for rank, world in ((0, 2), (1, 2), (0, 1)):
        cases = {
            name: {
                "config": {"warmup_steps": 0} | config,
                "steps": whole if world == 1 else of_rank[rank],
                "ddp": name == "ddp",
            }
            for name, (config, of_rank, whole) in CASES.items()
        }
        plan = {"rank": rank, "world_size": world, "meet": str(folder / "meet"), "cases": cases}
        command = [sys.executable, str(WORKER), json.dumps(plan)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment))
    out = []
    for process in started:
        printed, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
        out.append(json.loads(printed))
    return out


def same(one: Any, other: Any, rtol: float = 1e-12) -> bool:
    return np.allclose(one["gradient"], other["gradient"], rtol=rtol, atol=1e-15)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_of_unequal_shares_have_the_gradient_of_one_process(name: str, ran: Any) -> None:
    first, second, alone = (found[name] for found in ran)
    for number in range(3):
        one, two, whole = first[number], second[number], alone[number]
        assert one["plain"] == two["plain"] == whole["plain"]
        assert one["report"] == two["report"], "the same bits on every rank"
        assert one["gradient"] == two["gradient"]
        assert same(one, whole)
        assert sum(one["losses"] + two["losses"]) == pytest.approx(sum(whole["losses"]), rel=1e-9)
        if not whole["plain"]:
            assert one["report"]["segments"] == whole["report"]["segments"]
            assert one["report"]["max_weight"] == pytest.approx(whole["report"]["max_weight"], rel=1e-12)
    assert first[3] == second[3]
    assert not alone[2]["plain"]
    assert alone[2]["report"]["effective_share"] < 0.99


def test_ranks_that_average_their_gradients_have_it_too_with_the_factor_of_their_number(ran: Any) -> None:
    first, second, alone = (found["ddp"] for found in ran)
    for number in range(2):
        assert same(first[number], alone[number])
        assert same(second[number], alone[number])


def test_a_softmax_per_micro_batch_runs_over_the_ranks_and_not_over_the_micro_batches(ran: Any) -> None:
    first, _, alone = (found["per micro-batch"] for found in ran)
    assert same(first[0], alone[0])
    assert not same(ran[2]["prepass"][2], alone[0], rtol=1e-2)


def test_a_prepass_of_single_documents_is_the_whole_batch_to_float64(ran: Any) -> None:
    first, _, alone = (found["one by one"] for found in ran)
    assert same(alone[0], ran[2]["prepass"][2], rtol=1e-13)
    assert same(first[0], alone[0])
