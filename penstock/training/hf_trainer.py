"""The mixture inside ``transformers.Trainer``: its data, its per-domain losses, its state in every checkpoint.

>>> feed = MixtureCallback(loader, mixer)
>>> args = TrainingArguments(out, max_steps=1000, train_sampling_strategy="sequential", ignore_data_skip=True, …)
>>> Trainer(model, args, **feed.parts(steps=1000)).train()

``parts`` are a dataset that is the training order, a collator, this callback and a loss function. Nothing is
subclassed or patched. What the Trainer would do to the order, and what is done about it:

- It shuffles, unless ``train_sampling_strategy="sequential"``: refused otherwise.
- Accelerate deals micro-batches to the ranks in turn, so a step's ranks and accumulation steps together hold exactly
  the loader's next ``batch_size`` sequences: refused where that is not the Trainer's global batch.
- On resume it reads through what was seen. With ``ignore_data_skip=True`` this callback starts the dataset at the
  sequence that the checkpoint's state says, in O(1); without, the Trainer counts through indices (no data is
  read) to the same place.
- ``Trainer`` saves a state of its own alone: the loader's and the mixer's go into ``trainer_state.json`` beside it.
- Evaluation and prediction use the loss function too; only what happens inside a step is observed.

The loss is the mean over the step's predicted tokens, over all ranks and accumulation steps, as the Trainer's own;
with a policy's multipliers, the mean weighted by them. It checks that the labels are those of the sequences it believes
to see.

Price: the step's sequences are gathered a second time by the loss; logits of a micro-batch in float32 at predicted
positions; one synchronisation with the device a step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.trainer_callback import ExportableState, TrainerCallback

from penstock.errors import ConfigError, DatasetError, MissingExtraError, TrainingError
from penstock.training.batch import Batch
from penstock.training.collate import IGNORED, Attention, CausalCollator, check_attention, packed_losses
from penstock.training.loader import MixtureLoader
from penstock.training.mixing.mixer import Mixer, Update
from penstock.training.model import predicted_tokens
from penstock.training.signals import drop_policy_entries, write_policy_entry

if TYPE_CHECKING:
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments


class MixtureDataset:
    """The training order of a loader as a map-style dataset: index i is sequence ``start + i``."""

    def __init__(self, loader: MixtureLoader, steps: int) -> None:
        if steps < 1:
            raise ConfigError(f"steps: got {steps}, allowed >= 1")
        self.loader, self.steps = loader, steps
        self.random_state: torch.Tensor | None = None
        self.place(first=loader.consumed)

    def place(self, *, first: int, seen: int = 0) -> None:
        """Let the order begin with sequence ``first``, and index 0 be ``seen`` sequences after it."""
        self.start, self._last = first + seen, first + self.steps * self.loader.batch_size - 1
        self.resumed, self.random_state = seen > 0, None

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate just before it opens an iterator, which draws from PyTorch's generator.

        After a resume that draw would not have come here: the state before it is kept for the step that follows.
        """
        if self.resumed:
            import torch

            self.random_state = torch.get_rng_state()

    def __len__(self) -> int:
        return self.steps * self.loader.batch_size

    def __getitem__(self, index: int) -> Batch:
        """One sequence, as a batch of one."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """The sequences at these indices as one batch, in a list: a collator takes lists."""
        # after a resume the Trainer reads ahead beyond the last step: of an order that ends there, nothing comes
        numbers = np.minimum(np.asarray(indices, dtype=np.int64) + self.start, self._last)
        return [self.loader.__getitems__(numbers)]


class MixtureCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Runs a loader, and a mixer where there is one, inside a ``Trainer``; see the head of this file."""

    def __init__(
        self,
        loader: MixtureLoader,
        mixer: Mixer | None = None,
        *,
        attention: Attention = "positions",
        policy_log: str | Path | None = None,
    ) -> None:
        """
        Args:
            loader: its ``batch_size`` must be the Trainer's global batch: per-device batch x accumulation x processes.
            mixer: observes losses and changes the loader's mixture; None leaves the mixture as it is.
            attention: how documents of a row are kept apart (``collate``); tried out on the model when training starts.
            policy_log: folder of the ``policy_log`` table, a row an update; None writes none.
        """
        if mixer is not None and mixer.loader is not loader:
            raise ConfigError("mixer: it belongs to another loader; make it with the one that is given here")
        if mixer is not None and loader.lag < 1:
            raise ConfigError(f"lag: got {loader.lag}, allowed >= 1: the Trainer reads a micro-batch ahead")
        self.loader, self.mixer = loader, mixer
        self.collate = CausalCollator(attention=attention)
        self.policy_log = None if policy_log is None else Path(policy_log)
        self.last_update: Update | None = None
        self._dataset: MixtureDataset | None = None
        self._running = False  # between the beginning and the end of training
        self._start = 0  # sequences consumed before the run's first step
        self._ranks = (0, 1)  # this process and how many there are
        self._step: _Step | None = None  # the step that is under way
        self._mean_over_ranks = True
        self._snapshot: tuple[int, dict[str, Any]] | None = None  # sequences consumed, state there

    def parts(self, steps: int) -> dict[str, Any]:
        """Keyword arguments for ``Trainer``: dataset of ``steps`` steps, collator, this callback, loss function."""
        self._dataset = MixtureDataset(self.loader, steps)
        return {
            "train_dataset": self._dataset,
            "data_collator": self.collate,
            "callbacks": [self],
            "compute_loss_func": self.loss,
        }

    def loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """``compute_loss_func``: mean cross-entropy over the step's predicted tokens; notes what was seen in a step.

        Args:
            outputs: of the model, with ``logits`` (n, L, V).
            labels: (n, L), -100 where nothing is predicted, not shifted.
            num_items_in_batch: predicted tokens of the whole step; None is those of ``labels``.
        """
        import torch
        from torch.nn.functional import cross_entropy

        if self._step is None:
            flat = outputs.logits[:, :-1].flatten(0, 1).float()
            total = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            targets = labels[:, 1:].flatten()
            evaluated: torch.Tensor = cross_entropy(flat, targets, ignore_index=IGNORED, reduction="sum") / total
            return evaluated
        step = self._step
        batch = self.loader.__getitems__(step.numbers(labels.numel() // self.loader.store.length))
        inputs, losses, sums, counts = packed_losses(outputs.logits, batch)
        same = (labels.flatten()[inputs.places + 1] == inputs.targets).all()
        step.take(batch, sums, counts, same & ((labels != IGNORED).sum() == len(inputs.targets)))
        if step.multipliers is None:
            summed, total = losses.sum(), num_items_in_batch
            total = (labels != IGNORED).sum() if total is None else total
        else:
            factors = torch.from_numpy(step.multipliers).to(losses)
            domain = torch.from_numpy(np.repeat(batch.domain, batch.segment_counts)).to(losses.device)
            summed, total = (losses * factors[domain[inputs.segments]]).sum(), step.weight
            # the Trainer multiplies by the number of processes only where it averages tokens over them itself
            summed = summed if self._mean_over_ranks else summed * self._ranks[1]
        mean: torch.Tensor = summed / total
        return mean

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse arguments under which the order would not be the loader's."""
        _check_arguments(args)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check batch and length, take over the state of the checkpoint, place the dataset."""
        _check_arguments(args)
        dataset, loader = self._dataset, self.loader
        if dataset is None or kwargs["train_dataloader"].dataset is not dataset:
            raise ConfigError(
                "train_dataset: the Trainer's is not this callback's; give Trainer(**callback.parts(steps))"
            )
        found = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if found != loader.batch_size:
            raise ConfigError(
                f"batch_size: the loader's is {loader.batch_size}, the Trainer's global batch "
                f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} accumulation steps x "
                f"{args.world_size} processes = {found}; make them equal"
            )
        if state.max_steps > dataset.steps:
            raise ConfigError(
                f"max_steps: got {state.max_steps}, but the dataset has {dataset.steps} steps and the Trainer "
                "would begin it anew; give parts(steps) as many"
            )
        self._ranks = (args.process_index, args.world_size)
        self._mean_over_ranks = bool(args.average_tokens_across_devices) or args.world_size == 1
        self._start = loader.consumed
        if state.global_step:
            self._resume(state)
        elif self.policy_log is not None and state.is_world_process_zero:
            drop_policy_entries(self.policy_log, loader.consumed // loader.batch_size)
        dataset.place(first=self._start, seen=state.global_step * loader.batch_size if args.ignore_data_skip else 0)
        left, wanted = loader.steps_left, state.max_steps - state.global_step
        if left is not None and left < wanted:
            raise DatasetError(
                f"the order of sequences has {left} steps left, the Trainer wants {wanted}; lower max_steps, or raise "
                "max_epochs"
            )
        self._running, self._snapshot = True, None
        check_attention(kwargs["model"], self.collate.attention)

    def _resume(self, state: TrainerState) -> None:
        of_callbacks: Any = state.stateful_callbacks
        exported = of_callbacks.get(type(self).__name__)
        saved = exported.get("attributes", {}).get("mixture") if isinstance(exported, dict) else None
        if saved is None:
            raise DatasetError(
                f"the checkpoint of step {state.global_step} holds no state of the mixture; it was saved without "
                "MixtureCallback. Start anew, or load its model alone"
            )
        if (saved["mixer"] is None) != (self.mixer is None):
            raise DatasetError(
                f"the checkpoint was saved {'without' if saved['mixer'] is None else 'with'} a mixer, this run is "
                f"{'without' if self.mixer is None else 'with'} one; go on with the same"
            )
        self.loader.load_state_dict(saved["loader"])
        if self.mixer is not None:
            self.mixer.load_state_dict(saved["mixer"])
        self._start = int(saved["start"])
        expected = self._start + state.global_step * self.loader.batch_size
        if self.loader.consumed != expected:
            raise DatasetError(
                f"the checkpoint of step {state.global_step} says that {self.loader.consumed} sequences were consumed, "
                f"with batches of {self.loader.batch_size} it would be {expected}; keep the global batch of the run"
            )
        if self.policy_log is not None and state.is_world_process_zero:
            drop_policy_entries(self.policy_log, self.loader.consumed // self.loader.batch_size)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note which sequences come."""
        dataset = self._dataset
        if dataset is not None and dataset.random_state is not None:
            import torch

            torch.set_rng_state(dataset.random_state)
            dataset.random_state, dataset.resumed = None, False
        self._step = _Step(self.loader, self.mixer, self._ranks, args.per_device_train_batch_size)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step, hand over what was seen, let the policy act."""
        step, loader = self._step, self.loader
        assert step is not None, "a step ends that did not begin"
        self._step = None
        parts = step.seen(state.global_step)
        loader.advance()
        if self.mixer is not None:
            if not parts:
                raise ConfigError("compute_loss_func: it was not called; give Trainer(**callback.parts(steps))")
            for batch, sums, counts in parts:
                self.mixer.observe(batch, sums, counts)
            update = self.mixer.after_step(loader.consumed // loader.batch_size)
            if update is not None:
                self.last_update = update
                self._log(update, state)
        if control.should_save or control.should_evaluate:
            self._remember()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A save may follow here too."""
        if control.should_save:
            self._remember()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the next training begin where this one ended."""
        self._running = False

    def _log(self, update: Update, state: TrainerState) -> None:
        """One row of the policy's log; a mixture that stays has equal old and new weights."""
        if self.policy_log is None or not state.is_world_process_zero:
            return
        assert self.mixer is not None
        version = self.loader.newest_version if update.version is None else update.version
        write_policy_entry(
            self.policy_log,
            step=update.step,
            effective_from=self.loader.effective_from(version),
            version=version,
            policy=self.mixer.policy.name,
            domains=self.loader.domains,
            old=update.old.tolist(),
            new=update.new.tolist(),
            signals=json.dumps({"refused": update.refused, **update.facts}, sort_keys=True),
        )

    def _remember(self) -> None:
        """Take the state while all ranks are here: the mixer adds its sums up over them, and only one rank saves."""
        self._snapshot = (
            self.loader.consumed,
            {
                "start": self._start,
                "loader": self.loader.state_dict(),
                "mixer": None if self.mixer is None else self.mixer.state_dict(),
            },
        )

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into ``trainer_state.json``."""
        if not self._running:
            return {"args": {}, "attributes": {}}
        if self._snapshot is None or self._snapshot[0] != self.loader.consumed:
            if self.mixer is not None and self._ranks[1] > 1:
                raise ConfigError(
                    "callbacks: a checkpoint was asked for by a callback that stands behind MixtureCallback; put "
                    "MixtureCallback last"
                )
            self._remember()
        assert self._snapshot is not None
        return {"args": {}, "attributes": {"mixture": self._snapshot[1]}}


class _Step:
    """One optimiser step of this process: which sequences it holds and what was seen of them."""

    def __init__(self, loader: MixtureLoader, mixer: Mixer | None, ranks: tuple[int, int], size: int) -> None:
        self._loader, self._ranks, self._size = loader, ranks, size
        self._parts: list[tuple[Batch, Any, Any, Any]] = []
        self.multipliers = None if mixer is None else mixer.multipliers
        self.weight = 0.0 if self.multipliers is None else self._weight(self.multipliers)
        if self.multipliers is not None and not self.weight > 0:
            raise TrainingError(
                f"sequences from {loader.consumed} on: the policy's multipliers {self.multipliers.tolist()} give no "
                "token of the step any weight; raise the batch size, or the policy's smoothing"
            )

    def _weight(self, multipliers: Any) -> float:
        """Sum of the multipliers of all predicted tokens of the step, over all ranks."""
        batch = self._loader.batch(self._loader.consumed // self._loader.batch_size)
        predicted = predicted_tokens(batch.segment_ids, batch.learned).sum(axis=1)
        return float((multipliers[batch.domain] * predicted).sum())

    def numbers(self, count: int) -> Any:
        """Sequence numbers of the next micro-batch: accelerate deals micro-batches to the ranks in turn."""
        rank, world_size = self._ranks
        if count != self._size:
            raise ConfigError(f"a micro-batch of {count} sequences, expected {self._size}; set drop_last as it was")
        first = self._loader.consumed + (len(self._parts) * world_size + rank) * count
        return np.arange(first, first + count, dtype=np.int64)

    def take(self, batch: Batch, sums: Any, counts: Any, as_expected: Any) -> None:
        """Keep a micro-batch's summed losses and predicted tokens by segment, on the device."""
        self._parts.append((batch, sums, counts, as_expected))

    def seen(self, number: int) -> list[tuple[Batch, Any, Any]]:
        """Batches with sums and counts as float64 arrays (S,)."""
        out = []
        for batch, sums, counts, as_expected in self._parts:
            if not bool(as_expected):
                raise ConfigError(
                    f"step {number}: the labels are not those of the sequences {int(batch.numbers[0])} to "
                    f"{int(batch.numbers[-1])}; leave order and collation to Trainer(**callback.parts(steps))"
                )
            out.append((batch, sums.cpu().numpy(), counts.cpu().numpy()))
        return out


def _check_arguments(args: TrainingArguments) -> None:
    """Raise ConfigError for arguments of the Trainer that would change the order or lose losses."""
    try:
        import accelerate  # noqa: F401 - the Trainer needs it and says so late
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("accelerate", "trainer") from error
    if not hasattr(args, "train_sampling_strategy"):
        raise ConfigError("transformers: before 5.2 the Trainer always shuffles; pip install -U 'penstock[trainer]'")
    wanted = {
        "train_sampling_strategy": ("sequential", "the dataset is the training order already"),
        "dataloader_num_workers": (0, "worker processes would not see a change of the mixture"),
        "auto_find_batch_size": (False, "the global batch is the loader's"),
        "restore_callback_states_from_checkpoint": (False, "MixtureCallback takes its state by itself"),
        "label_smoothing_factor": (0.0, "the loss of MixtureCallback has none"),
    }
    for name, (value, why) in wanted.items():
        got = getattr(args, name, None)
        if got != value:
            raise ConfigError(f"{name}: got {got!r}, allowed {value!r}: {why}")
    if args.n_gpu > 1:
        raise ConfigError(f"{args.n_gpu} GPUs in one process: allowed 1; start one process a GPU with torchrun")
    accelerator = args.accelerator_config
    for name in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, name, None):
            raise ConfigError(f"accelerator_config: {name} is on, allowed off: batches are dealt to the ranks in turn")
