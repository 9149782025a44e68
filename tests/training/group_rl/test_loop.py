"""The loop: it learns, what it writes agrees with what it did, and what cannot be learned from changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import ConfigError, DatasetError, TrainingError
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.loop import learn
from penstock.training.group_rl.objective import Objective
from penstock.training.group_rl.problems import ProblemTable

Make = Callable[..., GroupRLConfig]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first | second)


def exact(text: str, problem: Any) -> float:
    """1 for the digit itself: no worker has to start for what a half-trained model says."""
    return float(text == problem.answer)


def test_a_policy_that_is_half_right_learns_to_be_right(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path
) -> None:
    config = settings(
        steps=30, groups_per_step=12, rollouts=6, learning_rate=4e-3, reward=reward(exact), eval_every=100,
        eval_problems=36, eval_samples=8, checkpoint_every=30, objective="ta-grpo",
    )  # fmt: skip
    result = learn(config, half_right, sums, tmp_path / "o", held_out={"sums": sums}, progress=False)
    first, last = np.mean(result.rewards[:3]), np.mean(result.rewards[-3:])  # type: ignore[arg-type]
    assert first < 0.45
    assert last > first + 0.25
    before, after = (line["sets"]["sums"]["pass"]["1"]["mean"] for line in result.evaluations)
    assert after > before + 0.25
    # the folder is what learned, not what it started from
    config = settings(steps=1, reward=config.reward, eval_problems=36, eval_samples=8)
    again = learn(config, result.model, sums, tmp_path / "again", held_out={"sums": sums}, progress=False)
    assert again.evaluations[0]["sets"]["sums"]["pass"]["1"]["mean"] == after


def test_a_reward_that_prefers_a_wrong_answer_teaches_it(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path
) -> None:
    """What the rewards say is followed, whatever the answers of the problems are."""
    config = settings(
        steps=15, groups_per_step=12, rollouts=4, learning_rate=4e-3, objective="dr-grpo", phrasings="original",
        reward=reward(lambda text, problem: float(text == "0")), checkpoint_every=15,
    )  # fmt: skip
    result = learn(config, half_right, sums, tmp_path / "o", progress=False)
    assert np.mean(result.rewards[-2:]) > np.mean(result.rewards[:2]) + 0.3  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(half_right: Path, sums: ProblemTable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose reward cannot say of some answers what they are worth, and its configuration."""

    def given(text: str, problem: Any) -> float | None:
        if text.startswith("4"):
            raise RuntimeError("four")
        return None if text.startswith("5") else exact(text, problem)

    module: Any = ModuleType("module_rewards")
    module.given = given
    sys.modules["module_rewards"] = module
    config = GroupRLConfig(
        objective="ta-grpo", steps=3, groups_per_step=4, rollouts=3, instruction="", max_new_tokens=4, device="cpu",
        threads=1, learning_rate=1e-3, kl_beta=0.05, reward="module_rewards:given", eval_samples=4, eval_ks=(1, 4),
    )  # fmt: skip
    out = tmp_path_factory.mktemp("run")
    return learn(config, half_right, sums, out, progress=False), config


def test_metrics_agree_with_the_rollouts_that_were_written(run: Any, sums: ProblemTable) -> None:
    result, config = run
    for record in lines(result.metrics):
        table = pq.read_table(result.rollouts / f"step-{record['step']:08d}.parquet").to_pylist()
        known = [row for row in table if row["reward"] is not None]
        assert 0 < len(known) < len(table) == record["answers"] == 4 * 3 * 3
        assert record["reward"] == pytest.approx(np.mean([row["reward"] for row in known]))
        for kind, mean in record["reward_by_transform"].items():
            of = [row["reward"] for row in known if row["transform"] == kind]
            assert mean == pytest.approx(np.mean(of))
        outcomes = [row["outcome"] for row in table]
        assert record["outcomes"] == {name: outcomes.count(name) for name in sorted(set(outcomes))}
        assert {"error", "unknown"} <= set(outcomes)
        assert record["tokens"] == sum(len(row["response"]) for row in table)
        assert record["length"] == pytest.approx(record["tokens"] / len(table))
        assert record["cut"] == pytest.approx(np.mean([not row["ended"] for row in table]))
        every = np.concatenate([row["logprobs"] for row in table])
        assert record["logprob"] == pytest.approx(every.mean(), rel=1e-5)
        flat = 0
        for name in {row["group_id"] for row in table}:
            rewards = [row["reward"] for row in known if row["group_id"] == name]
            flat += len(set(rewards)) <= 1
            for row in (row for row in table if row["group_id"] == name):
                sd = np.std(rewards, ddof=1) if len(rewards) > 1 else 0.0
                expected = 0.0
                if row["reward"] is not None and sd:
                    expected = (row["reward"] - np.mean(rewards)) / (sd + config.epsilon)
                assert row["advantage"] == pytest.approx(expected)
        assert record["groups"]["of_groups"]["zero_gradient"] == pytest.approx(flat / 4)
        assert record["groups"]["unknown"] == pytest.approx(1 - len(known) / len(table))
        for row in table:
            problem = next(p for p in sums.problems if p.problem_id == row["problem_id"])
            assert (row["question"], row["group_id"], row["transform"]) == (
                problem.prompt, problem.group_id, problem.transform,
            )  # fmt: skip


def test_a_step_before_any_update_has_ratios_of_one_and_no_divergence(run: Any) -> None:
    first, second, third = lines(run[0].metrics)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["approx_kl"] == pytest.approx(0.0, abs=1e-8)
    assert first["kl"] == pytest.approx(0.0, abs=1e-8)
    assert second["kl"] > 1e-7
    assert third["kl"] > second["kl"] / 10
    assert [record["behind"] for record in (first, second, third)] == [0, 0, 0]
    assert [record["updates"] for record in (first, second, third)] == [1, 1, 1]


def test_the_result_says_what_was_done(run: Any, sums: ProblemTable, half_right: Path) -> None:
    result, _ = run
    assert (result.steps, result.resumed_from, result.groups, result.problems) == (3, 0, 12, 36)
    assert result.answers == 3 * 36
    assert result.rewards == tuple(record["reward"] for record in lines(result.metrics))
    assert result.evaluation is None
    assert not same(result.model, half_right)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(result.model)
    tokenizer: Any = AutoTokenizer.from_pretrained(result.model)
    assert sum(p.numel() for p in model.parameters()) == result.parameters
    assert tokenizer.decode(tokenizer("2+1=")["input_ids"]).replace(" ", "") == "2+1="


def test_a_finished_run_started_again_trains_nothing(
    run: Any, half_right: Path, sums: ProblemTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, config = run
    monkeypatch.setattr(Objective, "backward", lambda *_: pytest.fail("a finished run learned"))
    again = learn(config, half_right, sums, result.metrics.parent, progress=False)
    assert again.resumed_from == again.steps == 3
    assert (again.rewards, again.answers) == (result.rewards, result.answers)


def test_another_runs_folder_is_refused(
    run: Any, half_right: Path, sums: ProblemTable, rows: Callable[..., Any]
) -> None:
    result, config = run
    out = result.metrics.parent
    with pytest.raises(DatasetError, match=r"belongs to another run: rollouts 3 there, 4 now"):
        learn(config_with(config, rollouts=4), half_right, sums, out, progress=False)
    other = [row | ({"prompt": "6+6="} if row["problem_id"] == "2+0" else {}) for row in rows([(2, 0), *PAIRS[1:]])]
    with pytest.raises(DatasetError, match="belongs to another run: problems"):
        learn(config, half_right, ProblemTable.of(other), out, progress=False)
    with pytest.raises(DatasetError, match="belongs to another run: model"):
        learn(config, result.model, sums, out, progress=False)
    # how it runs is no part of what it is
    assert learn(config_with(config, keep_checkpoints=3), half_right, sums, out, progress=False).resumed_from == 3


PAIRS = [(a, b) for a in range(2, 8) for b in range(2)]


def config_with(config: GroupRLConfig, **changes: Any) -> GroupRLConfig:
    import dataclasses

    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("kind", ["unknown", "flat"])
def test_a_step_without_anything_to_learn_from_changes_no_weight(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    """Weight decay and the moments of earlier steps move nothing either."""
    calls: list[int] = []

    def given(text: str, problem: Any) -> float | None:
        calls.append(1)
        last = len(calls) > 2 * 4 * 3 * 2
        return exact(text, problem) if not last else None if kind == "unknown" else 1.0

    config = settings(
        steps=3, rollouts=2, reward=reward(given), checkpoint_every=1, keep_checkpoints=3, weight_decay=0.5
    )
    result = learn(config, half_right, sums, tmp_path / "o", progress=False)
    second, third = (result.checkpoint.parent / f"step-0000000{n}" for n in (2, 3))
    for name in ("model", "training"):
        assert (second / f"{name}.safetensors").read_bytes() == (third / f"{name}.safetensors").read_bytes()
    record = lines(result.metrics)[2]
    why = {"unknown": "no reward is known", "flat": "all rewards of each group are equal"}[kind]
    assert (record["skipped"], result.skipped) == (why, 1)
    assert "loss" not in record
    assert record["reward"] == {"unknown": None, "flat": 1.0}[kind]


def test_rewards_that_are_never_known_end_the_run_with_the_first_cause(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path
) -> None:
    def given(text: str, problem: Any) -> float:
        raise LookupError("the judge is away")

    config = settings(steps=9, checkpoint_every=1, reward=reward(given))
    with pytest.raises(TrainingError) as raised:
        learn(config, half_right, sums, tmp_path / "o", progress=False)
    said = str(raised.value)
    assert said.startswith("step 3: no reward is known (48 error; the first: made_rewards:given raised LookupError")
    assert "the judge is away" in said
    # started again it goes on counting where it stood
    with pytest.raises(TrainingError, match=r"step 3: .* as in 3 steps in a row"):
        learn(config, half_right, sums, tmp_path / "o", progress=False)


def test_one_known_step_among_lost_ones_lets_the_run_go_on(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path
) -> None:
    calls: list[int] = []

    def given(text: str, problem: Any) -> float | None:
        calls.append(1)
        return exact(text, problem) if (len(calls) - 1) // 24 == 2 else None

    config = settings(steps=5, rollouts=2, reward=reward(given), checkpoint_every=5)
    result = learn(config, half_right, sums, tmp_path / "o", progress=False)
    assert [reward is None for reward in result.rewards] == [True, True, False, True, True]


def test_updates_of_a_step_are_on_parts_of_whole_groups(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, seen = Objective.backward, []

    def backward(self: Any, judged: Any, old: Any, rows: Any) -> Any:
        seen.append((judged.rollouts.group[rows].tolist(), judged.rollouts.group.tolist()))
        return real(self, judged, old, rows)

    monkeypatch.setattr(Objective, "backward", backward)
    config = settings(steps=2, updates_per_step=2, reward=reward(exact))
    result = learn(config, half_right, sums, tmp_path / "o", progress=False)
    for (first, asked), (second, _) in zip(seen[::2], seen[1::2], strict=True):
        assert len(first) == len(second) == 2 * 3 * 4
        assert first + second == asked  # in the order in which they were asked
        assert not set(first) & set(second)
    records = lines(result.metrics)
    assert [record["updates"] for record in records] == [2, 2]
    assert records[0]["approx_kl"] > 0  # the second part is learned from after the first moved the policy


def test_gradients_that_are_no_numbers_are_skipped_and_then_end_the_run(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, steps = Objective.backward, []

    def backward(self: Any, *given: Any) -> Any:
        facts = real(self, *given)
        steps.append(1)
        if len(steps) != 2:
            next(self.model.parameters()).grad[0] = torch.nan
        return facts

    monkeypatch.setattr(Objective, "backward", backward)
    config = settings(steps=9, reward=reward(exact), checkpoint_every=1, keep_checkpoints=9)
    for _ in range(2):  # started again it goes on counting where it stood
        with pytest.raises(TrainingError, match=r"step 6: .* gradient norm nan.* the last of 4 steps in a row"):
            learn(config, half_right, sums, tmp_path / "o", progress=False)
    model = [path.read_bytes() for path in sorted((tmp_path / "o").glob("checkpoints/step-*/model.safetensors"))]
    assert [a == b for a, b in pairwise(model)] == [False, True, True, True]
    assert "gradient norm nan" in lines(tmp_path / "o" / "metrics.jsonl")[0]["skipped"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 48}, "max_new_tokens: got 48, allowed below the model's context of 48"),
        ({"max_new_tokens": 46}, "all 36 prompts have more than 2 tokens"),
        ({"groups_per_step": 13}, "groups_per_step: got 13, allowed at most the 12 groups"),
        ({"reward": "math:pi"}, "math has no function 'pi'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    half_right: Path, sums: ProblemTable, settings: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DatasetError), match=message):
        learn(settings(**changes), half_right, sums, tmp_path / "o", progress=False)
    assert not (tmp_path / "o").exists()


def test_the_reference_is_the_start_or_the_folder_that_is_named(
    run: Any, half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path
) -> None:
    config = settings(steps=1, kl_beta=0.1, reward=reward(exact))
    found = [
        lines(learn(config, half_right, sums, tmp_path / name, reference=at, progress=False).metrics)[0]["kl"]
        for name, at in (("start", None), ("same", half_right), ("other", run[0].model))
    ]
    assert found[0] == found[1] == pytest.approx(0.0, abs=1e-8)
    assert found[2] > 1e-6
    with pytest.raises(ConfigError, match=r"reference: got .* with kl_beta 0"):
        learn(settings(), half_right, sums, tmp_path / "none", reference=half_right, progress=False)


def test_the_bar_says_reward_and_groups_without_gradient(
    half_right: Path, sums: ProblemTable, settings: Make, reward: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from penstock.training.group_rl.progress import LearningProgress

    seen: list[Any] = []
    monkeypatch.setattr(LearningProgress, "update", lambda self, *given: seen.append(given))
    result = learn(settings(steps=2, reward=reward(exact)), half_right, sums, tmp_path / "o", progress=False)
    assert seen == [(n + 1, result.rewards[n], result.zero_gradient[n]) for n in range(2)]
