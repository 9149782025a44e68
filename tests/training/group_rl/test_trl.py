"""pytest tests/training/group_rl/test_trl.py: real steps of TRL's GRPOTrainer with a tiny model on CPU."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.training.group_rl.trl import PooledAdvantages, whole_groups

pytest.importorskip("trl")

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer


def rows_of(sizes: dict[str, int], order: list[int] | None = None) -> Dataset:
    """Rows as the export writes them: phrasings of groups, those of a group together unless an order is given."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{name} {place}"}],
            "solution": r"\boxed{7}",
            "ground_truth": "7",
            "group_id": name,
            "sub_index": place,
            "group_size": size,
            "transform": "rename" if place else None,
        }
        for name, size in sizes.items()
        for place in range(size)
    ]
    return Dataset.from_list([rows[n] for n in order or range(len(rows))])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *"abcdefgh", *map(str, range(10))]
    base = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    out = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    out.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return out


def tiny(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Reward:
    """Notes what it was asked; the reward follows from the completion and the group, and some have none."""

    __name__ = "noted"

    def __init__(self, none: Any = lambda value: value % 5 == 0) -> None:
        self.none = none
        self.asked: list[list[tuple[tuple[int, ...], str, float | None]]] = []

    def __call__(self, completion_ids: Any, group_id: Any, **named: Any) -> list[float | None]:
        asked = []
        for ids, group in zip(completion_ids, group_id, strict=True):
            value = sum(ids) + ord(group)
            asked.append((tuple(ids), group, None if self.none(value) else float(value % 3 == 0)))
        self.asked.append(asked)
        return [reward for _, _, reward in asked]


def run(tokenizer: Any, out: Any, rows: Dataset, reward: Any, **options: Any) -> tuple[Any, list[dict[Any, float]]]:
    """Train; the trainer, and the advantages that the loss read by (completion) of each micro-step."""
    read: list[dict[Any, float]] = []

    class Trainer(PooledAdvantages, GRPOTrainer):
        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            ids = [
                tuple(row[mask.bool()].tolist())
                for row, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
            ]
            prompts = [tuple(row.tolist()) for row in inputs["prompt_ids"]]
            read.append(dict(zip(zip(prompts, ids, strict=True), inputs["advantages"].tolist(), strict=True)))
            return super().compute_loss(model, inputs, *arguments, **named)

    given = {
        "num_generations": 4, "max_completion_length": 5, "max_steps": 2, "learning_rate": 0.01, "beta": 0.0,
        "shuffle_dataset": False, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no",
        "logging_steps": 1, "disable_tqdm": True, "gradient_checkpointing": False,
    }  # fmt: skip
    args = GRPOConfig(str(out), **(given | options))
    trainer = Trainer(tiny(tokenizer), reward, args, rows, processing_class=tokenizer)
    trainer.train()
    return trainer, read


def expected(asked: list[tuple[tuple[int, ...], str, float | None]], scale: str = "group") -> dict[Any, float]:
    """The oracle: by group and completion, from the definition."""
    pools = defaultdict(list)
    for _, group, reward in asked:
        if reward is not None:
            pools[group].append(reward)
    out = {}
    for ids, group, reward in asked:
        mean, deviation = np.mean(pools[group]), np.std(pools[group], ddof=1)
        away = 0.0 if reward is None else reward - mean
        out[group, ids] = away / (deviation + 1e-6) if scale == "group" else away
    return out


def by_group(tokenizer: Any, read: list[dict[Any, float]]) -> dict[Any, float]:
    out = {}
    for part in read:
        for (prompt, ids), value in part.items():
            group = tokenizer.decode([token for token in prompt if token != 0]).split()[0]
            out[group, ids] = value
    return out


def test_the_loss_reads_pooled_advantages_and_the_weights_move(tokenizer: Any, tmp_path: Any) -> None:
    """Three phrasings of a and two of b, interleaved: by position, TRL would see five groups of four."""
    rows = rows_of({"a": 3, "b": 2, "c": 2, "d": 3}, order=[0, 3, 1, 4, 2, 5, 7, 8, 6, 9])
    reward = Reward()
    trainer, read = run(tokenizer, tmp_path, rows, reward, per_device_train_batch_size=20)
    assert [len({group for _, group, _ in asked}) for asked in reward.asked] == [2, 2]
    for asked, part in zip(reward.asked, read, strict=True):
        found, wanted = by_group(tokenizer, [part]), expected(asked)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert found[key] == pytest.approx(value, abs=1e-5), key
        # rows without a reward were there, and rows that pull both ways
        assert any(one is None for _, _, one in asked)
        assert min(wanted.values()) < 0 < max(wanted.values())
    before = tiny(tokenizer).state_dict()
    moved = {name: bool((value != before[name]).any()) for name, value in trainer.model.state_dict().items()}
    assert all(moved.values())
    # what TRL logs is of the pools: the table of the last batch
    assert sorted(trainer._logs["advantages"]) == pytest.approx(
        sorted(expected(reward.asked[-1])[group, ids] for ids, group, _ in reward.asked[-1]), abs=1e-9
    )


def test_accumulation_and_reuse_of_completions_keep_the_pools(tokenizer: Any, tmp_path: Any) -> None:
    """A generation batch of 24 is cut into six micro-batches, two an update, and used twice."""
    reward = Reward()
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 6}
    rows = rows_of({"a": 3, "b": 3})
    more = {"num_iterations": 2, "max_steps": 6, "scale_rewards": "none"}
    _, read = run(tokenizer, tmp_path, rows, reward, **options, **more)
    assert len(reward.asked) == 1
    assert len(read) == 12
    wanted = expected(reward.asked[0], scale="none")
    for half in (read[:6], read[6:]):
        assert by_group(tokenizer, half) == pytest.approx(wanted, abs=1e-6)


def test_a_pool_of_equal_rewards_pulls_nowhere_and_is_counted(tokenizer: Any, tmp_path: Any) -> None:
    """a has one reward left, all of b are right, c has none."""

    def reward(group_id: Any, **named: Any) -> list[float | None]:
        seen = [group_id[:n].count(name) for n, name in enumerate(group_id)]
        of = {"a": lambda n: 1.0 if n == 5 else None, "b": lambda n: 1.0, "c": lambda n: None, "d": lambda n: n % 2}
        return [of[name](n) for name, n in zip(group_id, seen, strict=True)]

    rows = rows_of({"a": 2, "b": 2, "c": 2, "d": 2})
    trainer, read = run(tokenizer, tmp_path, rows, reward, per_device_train_batch_size=32, max_steps=1)
    found = by_group(tokenizer, read)
    assert {group for (group, _), value in found.items() if value} == {"d"}
    (logged,) = [one for one in trainer.state.log_history if "pool/alone" in one]
    assert [logged[name] for name in ("pool/alone", "pool/lost", "frac_reward_zero_std")] == [1.0, 1.0, 0.75]


def test_each_process_gets_the_advantages_of_its_own_rows(monkeypatch: Any) -> None:
    """The second of two processes: a's phrasings are here and there. What TRL does around it is played."""
    groups, rewards = [*"aabbabab"], [1.0, 0.0, 0.0, 0.0, 1.0, float("nan"), 1.0, 1.0]
    rows = [{"group_id": group, "group_size": 2} for group in groups]

    class Played:
        model, accelerator = torch.nn.Linear(1, 1), SimpleNamespace(process_index=1)
        scale_rewards, multi_objective_aggregation, num_generations = "group", "sum_then_normalize", 2
        reward_weights = torch.tensor([0.5, 0.5])

        def __init__(self) -> None:
            self._logs = {"advantages": deque([0.0] * 9, maxlen=9)}
            self._metrics = {"train": defaultdict(list, frac_reward_zero_std=[0.0])}

        def _calculate_rewards(self, *_: Any) -> Any:
            return torch.tensor([rewards, rewards]).T

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self._calculate_rewards(inputs)
            return {"advantages": torch.zeros(len(inputs))}

    def gather(own: list[Any]) -> list[Any]:
        return groups if own == groups[4:] else [2] * 8

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    trainer = type("Trainer", (PooledAdvantages, Played), {})()
    found = trainer._generate_and_score_completions(rows[4:])["advantages"]
    a, b = np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1])
    of_a, of_b = ((pool - pool.mean()) / (pool.std(ddof=1) + 1e-6) for pool in (a, b))
    assert found.tolist() == pytest.approx([of_a[2], 0.0, of_a[3], of_b[2]], abs=1e-6)
    shown = [of_a[0], of_a[1], of_b[0], of_b[1], of_a[2], 0.0, of_a[3], of_b[2]]
    assert list(trainer._logs["advantages"]) == pytest.approx([0.0, *shown])


def test_a_group_that_is_cut_is_refused_before_the_first_update(tokenizer: Any, tmp_path: Any) -> None:
    rows = rows_of({"a": 3, "b": 3})
    with pytest.raises(ConfigError, match=r"group b: got 4 completions in a generation batch, allowed its 3 phrasings"):
        run(tokenizer, tmp_path, rows, Reward(), per_device_train_batch_size=16)


def test_rows_without_ids_are_refused(tokenizer: Any, tmp_path: Any) -> None:
    rows = rows_of({"a": 2}).remove_columns(["group_size"])
    with pytest.raises(InputError, match="no column group_size, found prompt, solution"):
        run(tokenizer, tmp_path, rows, Reward(), per_device_train_batch_size=8)


def test_rewards_that_are_normalised_one_by_one_are_refused(tokenizer: Any, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="allowed 'sum_then_normalize'"):
        run(tokenizer, tmp_path, rows_of({"a": 2}), Reward(), multi_objective_aggregation="normalize_then_sum")


def test_a_trainer_without_the_methods_is_refused() -> None:
    class Other:
        def _calculate_rewards(self) -> None: ...

    with pytest.raises(ConfigError, match="no base has _generate_and_score_completions"):
        type("Trainer", (PooledAdvantages, Other), {})
    with pytest.raises(ConfigError, match="no base has _calculate_rewards, _generate_and_score"):
        type("Trainer", (PooledAdvantages,), {})


# the order of rows


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=25), st.integers(1, 9), st.integers(0, 99))
def test_every_stretch_is_whole_groups(sizes: list[int], prompts: int, seed: int) -> None:
    rows = rows_of({f"g{n}": size for n, size in enumerate(sizes)})
    try:
        ordered = whole_groups(rows, prompts=prompts, seed=seed)
    except ConfigError:
        # no groups add up to it at all
        sums = {0}
        for size in sizes:
            sums |= {total + size for total in sums}
        assert prompts not in sums
        return
    ids, places = ordered["group_id"], ordered["sub_index"]
    assert len(ids) % prompts == 0
    assert len({*zip(ids, places, strict=True)}) == len(ids)
    left = list(sizes)
    for start in range(0, len(ids), prompts):
        stretch = list(zip(ids[start : start + prompts], places[start : start + prompts], strict=True))
        names = [name for name, _ in stretch]
        assert sorted(stretch) == sorted((name, n) for name in {*names} for n in range(sizes[int(name[1:])]))
        for name in {*names}:
            left[int(name[1:])] = 0
    # what is left fills no stretch
    sums = {0}
    for size in left:
        sums |= {total + size for total in sums if size}
    assert prompts not in sums


def test_equal_groups_are_all_kept_and_their_order_follows_the_seed() -> None:
    rows = rows_of({name: 2 for name in "abcdefgh"})
    orders = [whole_groups(rows, prompts=4, seed=seed)["group_id"] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(rows["group_id"])
    assert orders[0] != rows["group_id"]


@pytest.mark.parametrize(
    ("rows", "prompts", "error", "message"),
    [
        (rows_of({"a": 2}), 0, ConfigError, "prompts: got 0"),
        (rows_of({"a": 3, "b": 3, "c": 2}), 4, ConfigError, r"no groups add up to \(there are 1 of 2, 2 of 3 rows\)"),
        (rows_of({"a": 3}).select([0, 1]), 2, InputError, "group a: got 2 rows, its group_size is 3"),
        (rows_of({"a": 2}).remove_columns(["group_id"]), 2, InputError, "no column group_id, found prompt"),
    ],
)
def test_rows_that_make_no_stretch_are_refused(rows: Dataset, prompts: int, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        whole_groups(rows, prompts=prompts)
