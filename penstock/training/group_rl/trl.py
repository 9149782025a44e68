"""Pooled advantages in TRL's ``GRPOTrainer``: groups by id, where TRL's own are so many rows after one another.

>>> class Trainer(PooledAdvantages, GRPOTrainer): ...
>>> rows = load_dataset("parquet", data_files="groups.parquet", split="train")  # penstock transform --export trl
>>> args = GRPOConfig(out, num_generations=8, generation_batch_size=256, shuffle_dataset=False, …)
>>> Trainer(model, reward, args, whole_groups(rows, prompts=256 // 8)).train()

TRL computes advantages inside one method and lets nothing in between: a reward function sees the rows of its own
process alone, and what it gives back is centred again by position; a callback comes too late; ``rollout_func`` would
have to make all groups equally large. So two methods of the trainer are wrapped: ``_calculate_rewards`` shows the
gathered rewards, ``_generate_and_score_completions`` what goes into the loss. A TRL without them is refused. Loss,
clipping, KL, generation and logging stay TRL's own.

A question's phrasings must be answered in one generation batch. ``whole_groups`` orders the rows so; a group that is
cut is refused. Evaluation keeps TRL's advantages. Written against TRL 1.16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import ConfigError, InputError
from penstock.seeding import stream
from penstock.training.group_rl.advantages import group_advantages

if TYPE_CHECKING:
    from datasets import Dataset

    from penstock.training.group_rl.config import Scale

_COLUMNS = ("group_id", "group_size")
_WRAPPED = ("_calculate_rewards", "_generate_and_score_completions")
_SCALES: dict[str, Scale] = {"group": "std", "batch": "batch", "none": "none"}


class PooledAdvantages:
    """Put before ``GRPOTrainer`` among a class's bases; advantages are then ``group_advantages`` by ``group_id``.

    Rewards are TRL's weighted sum over reward functions. A completion for which all of them returned None is in no
    statistic and has advantage 0. ``scale_rewards`` chooses the scale: "group" (standard deviation), "batch" or "none".
    The metric ``frac_reward_zero_std`` and the table of completions show the pooled advantages; ``pool/alone`` and
    ``pool/lost`` count groups with one reward left, or with none.

    Attributes:
        pool_std: "unbiased" or "population".
        pool_epsilon: added to the standard deviation.

    Raises:
        ConfigError: a base that is no such trainer, several rewards that are normalised one by one, or, in training, a
            group that a generation batch holds in part.
        InputError: rows without ``group_id`` and ``group_size``, or a reward that is infinite.
    """

    pool_std: Literal["unbiased", "population"] = "unbiased"
    pool_epsilon: float = 1e-6

    _by_function: Any = None  # rewards of the completions being scored: (rows of all processes, reward functions)

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        others = [base for base in cls.__mro__[1:] if base is not PooledAdvantages]
        missing = [name for name in _WRAPPED if not any(name in vars(base) for base in others)]
        if missing:
            raise ConfigError(
                f"{cls.__name__}: no base has {', '.join(missing)}, allowed bases: PooledAdvantages, then GRPOTrainer "
                "of a TRL that has these methods; pip install 'trl>=1.16,<2'"
            )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        trainer: Any = self
        if trainer.multi_objective_aggregation != "sum_then_normalize":
            raise ConfigError(
                f"multi_objective_aggregation: got {trainer.multi_objective_aggregation!r}, allowed "
                "'sum_then_normalize': a completion has one reward in its pool"
            )

    def _calculate_rewards(self, *arguments: Any, **named: Any) -> Any:
        """TRL's rewards, NaN where a function gave none."""
        self._by_function = super()._calculate_rewards(*arguments, **named)  # type: ignore[misc]
        return self._by_function

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        """TRL's inputs of the loss, for this process' rows."""
        trainer: Any = self
        training = trainer.model.training
        out = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if not training:
            return out
        import torch
        from accelerate.utils import gather_object

        missing = [name for name in _COLUMNS if name not in inputs[0]]
        if missing:
            raise InputError(
                f"train_dataset: no column {', '.join(missing)}, found {', '.join(inputs[0])}; write it with penstock "
                "transform --export trl FILE, and leave remove_unused_columns off"
            )
        groups = gather_object([str(row["group_id"]) for row in inputs])
        sizes = gather_object([int(row["group_size"]) for row in inputs])
        _check_whole(groups, sizes, trainer.num_generations)
        known = ~torch.isnan(self._by_function).all(dim=1)
        rewards = (self._by_function * trainer.reward_weights.to(self._by_function.device)).nansum(dim=1)
        found = group_advantages(
            rewards.double().cpu().numpy(),
            groups,
            known=known.cpu().numpy(),
            scale=_SCALES[trainer.scale_rewards],
            std=self.pool_std,
            epsilon=self.pool_epsilon,
        )
        first = trainer.accelerator.process_index * len(inputs)
        own = torch.from_numpy(found.values[first : first + len(inputs)])
        out["advantages"] = own.to(device=out["advantages"].device, dtype=out["advantages"].dtype)

        shown, metrics = trainer._logs["advantages"], trainer._metrics["train"]
        for _ in groups:
            shown.pop()
        shown.extend(found.values.tolist())
        metrics["frac_reward_zero_std"][-1] = float(found.flat.mean())
        metrics["pool/alone"].append(float(found.facts.alone))
        metrics["pool/lost"].append(float(found.facts.lost))
        return out


def _check_whole(groups: Sequence[str], sizes: Sequence[int], rollouts: int) -> None:
    """Raise ConfigError for a group of which some phrasings are in another generation batch."""
    counts = Counter(groups)
    for name, size in zip(groups, sizes, strict=True):
        if counts[name] != size * rollouts:
            raise ConfigError(
                f"group {name}: got {counts[name]} completions in a generation batch, allowed its {size} phrasings x "
                f"{rollouts}; give train_dataset in the order of whole_groups(rows, prompts=generation_batch_size // "
                "num_generations), with shuffle_dataset=False"
            )


def whole_groups(dataset: Dataset, *, prompts: int, seed: int = 0) -> Dataset:
    """The rows in an order in which every ``prompts`` of them, from the first on, are whole groups.

    Groups are shuffled; each stretch takes those that come first among those that fill it exactly. What fills no
    stretch is left out, as by a sampler that drops the last batch; with another seed it is something else.

    Args:
        dataset: with columns ``group_id`` and ``group_size``, as ``penstock transform --export trl`` writes it.
        prompts: rows of one generation batch: ``generation_batch_size // num_generations``.

    Raises:
        ConfigError: ``prompts`` below 1, or no groups fill a stretch.
        InputError: a column is missing, or a group has not as many rows as its size says.
    """
    if prompts < 1:
        raise ConfigError(f"prompts: got {prompts}, allowed >= 1; it is generation_batch_size // num_generations")
    missing = [name for name in _COLUMNS if name not in dataset.column_names]
    if missing:
        raise InputError(
            f"dataset: no column {', '.join(missing)}, found {', '.join(dataset.column_names)}; write it with penstock "
            "transform --export trl FILE"
        )
    rows: dict[str, list[int]] = {}
    for number, name in enumerate(dataset["group_id"]):
        rows.setdefault(name, []).append(number)
    for name, size in zip(dataset["group_id"], dataset["group_size"], strict=True):
        if len(rows[name]) != size:
            raise InputError(
                f"group {name}: got {len(rows[name])} rows, its group_size is {size}; keep all rows of a group, or none"
            )
    groups = list(rows.values())
    order = stream(seed, "order of groups").permutation(len(groups)).tolist()
    chosen = [row for group in _stretches(order, [*map(len, groups)], prompts) for row in groups[group]]
    if not chosen:
        sizes = ", ".join(f"{count} of {size}" for size, count in sorted(Counter(map(len, groups)).items()))
        raise ConfigError(
            f"prompts: got {prompts}, which no groups add up to (there are {sizes} rows); choose generation_batch_size "
            "and num_generations so that some do"
        )
    return dataset.select(chosen)


def _stretches(order: Sequence[int], sizes: Sequence[int], room: int) -> Iterator[int]:
    """Groups in an order in which stretches of exactly ``room`` rows follow one another."""
    coming = iter([group for group in order if sizes[group] <= room])
    held: list[int] = []  # looked at and not taken yet
    while True:
        # rows in all -> the group that made that sum possible; groups before it make up the rest
        reached: dict[int, int] = {}
        looked: list[int] = []
        waiting = iter(held)
        while room not in reached:
            group = next(waiting, None)
            group = next(coming, None) if group is None else group
            if group is None:
                return
            looked.append(group)
            for total in (0, *reached):
                if total + sizes[group] <= room:
                    reached.setdefault(total + sizes[group], group)
        taken, total = set(), room
        while total:
            taken.add(reached[total])
            total -= sizes[reached[total]]
        yield from (group for group in looked if group in taken)
        held = [group for group in looked if group not in taken] + list(waiting)
