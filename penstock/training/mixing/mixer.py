"""Run a mixing policy beside a training loop, this project's or any other.

>>> mixer = Mixer(policy, loader, probe=probe)
>>> for step in range(1, steps + 1):
...     batch = loader.batch(step - 1)
...     sums, counts = train_on(batch)  # summed loss and predicted tokens of every segment
...     mixer.observe(batch, sums, counts)
...     mixer.after_step(step)

The mixer adds up, by domain, what the policy declares that it needs, and nothing else. When the policy is due it
reduces sums and counts over the ranks in one collective, asks the policy, puts its answer through the post-stage and
appends the result to the loader's log, to take effect ``loader.lag`` steps later. Every rank computes the same update
from the same numbers, so no rank has to be told. An observation with a number that is not finite is refused: the
mixture stays and the update says why.

Price: a few additions of (K,) arrays a step; a gradient probe, where the policy needs one, at its cadence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.training.mixing.base import Floats, MixingPolicy, Mixture, Observation, Signal, not_finite
from penstock.training.mixing.post import PostStage

if TYPE_CHECKING:
    from penstock.training.loader import Batch, MixtureLoader
    from penstock.training.store import Store

# signals that a loop hands over step by step; the others come from a probe
OBSERVED = frozenset({Signal.TRAIN_LOSS, Signal.EXCESS_LOSS, Signal.VALIDATION_LOSS})


class Probe(Protocol):
    """Measures signals on batches of its own."""

    gives: frozenset[Signal]

    def measure(self, wanted: frozenset[Signal], number: int) -> Mapping[Signal, tuple[Floats, Floats]]:
        """Sums and counts, already reduced over ranks; ``number`` counts the measurements of the run from 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class Update:
    """What came of asking the policy once."""

    step: int
    version: int | None  # of the new mixture; None when it stays
    effective_from: int | None  # sequence from which it holds
    old: Floats  # (K,) shares of tokens in the newest entry before
    new: Floats  # (K,) after; equal to ``old`` when the mixture stays
    refused: str | None = None  # why the policy was not asked
    facts: Mapping[str, Any] = field(default_factory=dict)  # signals, the policy's and the post-stage's, as JSON values


def starting_weights(
    policy: MixingPolicy, store: Store, post: PostStage | None = None, *, sequences: int | None = None
) -> dict[str, float]:
    """The policy's mixture at step 0, as the weights that a loader is opened with.

    Args:
        sequences: of the whole run, steps times batch size; needed for a cap on epochs.
    """
    mixture = policy.start(store.domains, np.array(store.tokens, dtype=np.int64))
    post = post or PostStage()
    left = horizon = None
    if post.max_epochs is not None:
        if sequences is None:
            raise ConfigError("max_epochs: a cap on epochs needs the length of the run; pass sequences")
        left = post.max_epochs * np.array(store.tokens, dtype=np.float64)
        horizon = sequences * _tokens_per_row(store)
    weights, _ = post.apply(
        mixture.weights,
        before=mixture.weights,
        tokens_left=left,
        horizon_tokens=horizon,
        held=np.array(store.tokens, dtype=np.int64),
    )
    return dict(zip(store.domains, weights.tolist(), strict=True))


class Mixer:
    """Signals in, updates of a loader's mixture out."""

    def __init__(
        self,
        policy: MixingPolicy,
        loader: MixtureLoader,
        *,
        post: PostStage | None = None,
        probe: Probe | None = None,
        steps: int | None = None,
        acts: bool = True,
        group: Any = None,
    ) -> None:
        """
        Args:
            policy: asked after the steps of its cadence.
            loader: opened with ``starting_weights(policy, store, post)``, or at what its state says.
            probe: gives the signals that no step gives.
            steps: of the whole run; needed for a cap on epochs.
            acts: False observes and asks, and changes nothing: a control, and a dry run.
            group: process group to reduce over; None is the default one where there is one.

        Raises:
            ConfigError: the policy needs a signal that nothing gives, or a cap on epochs lacks ``steps``.
        """
        self.policy, self.loader, self.post = policy, loader, post or PostStage()
        self.probe, self.steps, self.acts, self.group = probe, steps, acts, group
        given = OBSERVED | (probe.gives if probe is not None else frozenset())
        if missing := sorted(signal.value for signal in policy.needs - given):
            raise ConfigError(
                f"policy {policy.name}: needs {', '.join(missing)}, which nothing gives here; pass a probe that does "
                "(GradientProbe)"
            )
        if self.post.max_epochs is not None and steps is None:
            raise ConfigError("max_epochs: a cap on epochs needs the number of steps to come; pass steps")
        self.domains = loader.domains
        self.multipliers = policy.start(self.domains, self._held(loader.store.tokens)).multipliers
        self.updates = 0
        self.tokens = np.zeros(len(loader.domains), dtype=np.int64)
        self._seen = _Seen.nothing(len(loader.domains), policy.needs)
        self._validation = np.zeros((2, len(loader.domains)))  # sums and counts, the same on all ranks

    def observe(self, batch: Batch, sums: Floats, counts: Floats, *, excess: Floats | None = None) -> None:
        """Take in one step of this rank.

        Args:
            batch: the sequences trained on, S segments together; may be called once a micro-batch.
            sums: summed token losses of every segment in nats, unweighted: (S,).
            counts: tokens with a loss of every segment: (S,).
            excess: summed max(loss - reference loss, 0) over the tokens of every segment, for policies that need
                ``Signal.EXCESS_LOSS``: (S,).
        """
        k = len(self.loader.domains)
        domain = np.repeat(batch.domain, batch.segment_counts)
        sums, counts = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
        of_domain = np.bincount(domain, weights=counts, minlength=k)
        seen = self._seen
        seen.trained += of_domain
        for signal, values in ((Signal.TRAIN_LOSS, sums), (Signal.EXCESS_LOSS, excess)):
            if signal not in seen.sums:
                continue
            if values is None:
                raise ConfigError(
                    f"policy {self.policy.name}: needs {signal.value}; pass excess=, the summed "
                    "max(loss - reference loss, 0) of every segment"
                )
            seen.sums[signal] += np.bincount(domain, weights=values, minlength=k)
            seen.counts[signal] += of_domain
        for version in np.unique(batch.mixture_version):
            n = int((batch.mixture_version == version).sum())
            seen.drawn += n * np.asarray(self.loader.weights_of(int(version)))
            seen.sequences += n
            seen.version = max(seen.version, int(version))

    def observe_validation(self, losses: Mapping[str, float], tokens: Mapping[str, int] | None = None) -> None:
        """Take in validation losses by domain, in nats per token; the newest of each domain counts.

        Every rank gives the same numbers; ``tokens`` they are means of default to 1.
        """
        if Signal.VALIDATION_LOSS not in self.policy.needs:
            return
        for name, loss in losses.items():
            if name in self.loader.domains:
                k = self.loader.domains.index(name)
                self._validation[:, k] = (loss * tokens[name], tokens[name]) if tokens is not None else (loss, 1.0)

    def after_step(self, step: int) -> Update | None:
        """Ask the policy when it is due after optimiser step ``step`` (counted from 1); None when it is not."""
        if not self.policy.cadence.due(step):
            return None
        if self.loader.domains != self.domains:
            raise ConfigError(
                f"mixer: it began with domains {', '.join(self.domains)}, the loader now has "
                f"{', '.join(self.loader.domains)}; start a policy and a mixer anew where a dataset brings new domains"
            )
        seen = self._observation(step)
        old = np.asarray(self.loader.weights_of(self.loader.newest_version), dtype=np.float64)
        facts: dict[str, Any] = {
            "signals": {
                signal.value: {"sums": _plain(seen.sums[signal]), "counts": _plain(seen.counts[signal])}
                for signal in sorted(self.policy.needs)
            }
        }
        self.updates += 1
        self._seen = _Seen.nothing(len(self.loader.domains), self.policy.needs)
        self._validation = np.zeros_like(self._validation)
        refused = not_finite(seen, self.policy.needs)
        wanted: Mixture | None = None if refused else self.policy.update(seen)
        if wanted is not None:
            self.multipliers = wanted.multipliers
            facts["policy"] = dict(wanted.facts)
        if wanted is None or not self.acts:
            return Update(step=step, version=None, effective_from=None, old=old, new=old, refused=refused, facts=facts)
        left, horizon = self._budget(step)
        weights, facts["post"] = self.post.apply(
            wanted.weights,
            before=old,
            tokens_left=left,
            horizon_tokens=horizon,
            held=self._held(self.loader.store.tokens),
            trained=self.tokens,
        )
        if np.allclose(weights, old, rtol=0.0, atol=1e-12):  # rules that steer by multipliers alone
            return Update(step=step, version=None, effective_from=None, old=old, new=old, facts=facts)
        named = dict(zip(self.loader.domains, weights.tolist(), strict=True))
        version = self.loader.update(named, step=step)
        return Update(
            step=step,
            version=version,
            effective_from=self.loader.effective_from(version),
            old=old,
            new=np.asarray(self.loader.weights_of(version), dtype=np.float64),
            facts=facts,
        )

    def _observation(self, step: int) -> Observation:
        """Everything since the last update, over all ranks."""
        found = self._seen.over_ranks(self.group)
        sums, counts = found.sums, found.counts
        if Signal.VALIDATION_LOSS in self.policy.needs:
            sums[Signal.VALIDATION_LOSS], counts[Signal.VALIDATION_LOSS] = self._validation
        if self.probe is not None and (wanted := self.policy.needs & self.probe.gives):
            for signal, (of_signal, n) in self.probe.measure(wanted, self.updates).items():
                sums[signal], counts[signal] = np.asarray(of_signal), np.asarray(n)
        self.tokens += found.trained.astype(np.int64)
        newest = np.asarray(self.loader.weights_of(self.loader.newest_version))
        return Observation(
            step=step,
            domains=self.loader.domains,
            weights=found.drawn / found.sequences if found.sequences else newest,
            mixture_version=found.version,
            tokens=self.tokens.copy(),
            sums=sums,
            counts=counts,
        )

    def _held(self, values: Sequence[int]) -> NDArray[np.int64]:
        """Numbers of the store in force, in the order of the loader's domains; 0 for one that it does not have."""
        by_name = dict(zip(self.loader.store.domains, values, strict=True))
        return np.array([by_name.get(name, 0) for name in self.loader.domains], dtype=np.int64)

    def _budget(self, step: int) -> tuple[NDArray[np.float64] | None, float | None]:
        """Tokens that every domain may still give under the cap, and tokens to come, from the update's effect on."""
        if self.post.max_epochs is None or self.steps is None:
            return None, None
        effect = (step + self.loader.lag) * self.loader.batch_size
        rows = self._held(self.loader.store.rows).astype(np.float64)
        per_row = self._held(self.loader.store.tokens) / np.maximum(rows, 1)
        read = np.array(self.loader.log.cursors(effect), dtype=np.float64)
        left = np.maximum(self.post.max_epochs * rows - read, 0.0) * per_row
        to_come = max(self.steps * self.loader.batch_size - effect, 0)
        return left, to_come * _tokens_per_row(self.loader.store)

    def state_dict(self) -> dict[str, Any]:
        """All that later updates depend on, as JSON values, between two steps.

        Sums are those of all ranks together, so every rank has to call it, and the number of ranks may change.
        """
        return {
            "policy": self.policy.name,
            "domains": list(self.loader.domains),
            "state": self.policy.state_dict(),
            "updates": self.updates,
            "tokens": self.tokens.tolist(),
            "seen": self._seen.over_ranks(self.group).to_json(),
            "validation": self._validation.tolist(),
            "multipliers": None if self.multipliers is None else self.multipliers.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, on any number of ranks.

        Raises:
            DatasetError: the state is of another policy or of other domains.
        """
        if state["policy"] != self.policy.name or tuple(state["domains"]) != self.loader.domains:
            raise DatasetError(
                f"mixer state: it is of policy {state['policy']} over {', '.join(state['domains'])}; here is policy "
                f"{self.policy.name} over {', '.join(self.loader.domains)}; go on with the same, or start a new run"
            )
        self.policy.load_state_dict(state["state"])
        self.updates, self.tokens = int(state["updates"]), np.array(state["tokens"], dtype=np.int64)
        # the sums are those of all ranks: one of them carries on with them
        if _rank(self.group) == 0:
            self._seen = _Seen.from_json(state["seen"])
        else:
            self._seen = _Seen.nothing(len(self.loader.domains), self.policy.needs)
        self._validation = np.array(state["validation"])
        saved = state["multipliers"]
        self.multipliers = None if saved is None else np.array(saved)


@dataclass
class _Seen:
    """What one rank adds up between two updates."""

    trained: Floats  # (K,) tokens with a loss
    drawn: Floats  # (K,) the mixtures that the sequences were drawn under, summed over sequences
    sequences: float
    version: int  # newest mixture among them, -1 for none
    sums: dict[Signal, Floats]
    counts: dict[Signal, Floats]

    @classmethod
    def nothing(cls, k: int, needs: frozenset[Signal]) -> _Seen:
        summed = sorted(needs & {Signal.TRAIN_LOSS, Signal.EXCESS_LOSS})
        zeros = [{signal: np.zeros(k) for signal in summed} for _ in range(2)]
        return cls(np.zeros(k), np.zeros(k), 0.0, -1, *zeros)

    def over_ranks(self, group: Any) -> _Seen:
        """Sums over all ranks in float64 by one collective, and the newest version any of them saw."""
        distributed = _distributed()
        if distributed is None:
            return _Seen.from_json(self.to_json())
        import torch

        device = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"
        parts = [self.trained, self.drawn, *self.sums.values(), *self.counts.values()]
        flat = torch.tensor(np.concatenate([*parts, [self.sequences]]), dtype=torch.float64, device=device)
        newest = torch.tensor([self.version], dtype=torch.int64, device=device)
        distributed.all_reduce(flat, group=group)
        distributed.all_reduce(newest, op=distributed.ReduceOp.MAX, group=group)
        *rows, sequences = np.split(flat.cpu().numpy(), len(self.trained) * np.arange(1, len(parts) + 1))
        names = list(self.sums)
        return _Seen(
            trained=rows[0],
            drawn=rows[1],
            sequences=float(sequences[0]),
            version=int(newest),
            sums=dict(zip(names, rows[2 : 2 + len(names)], strict=True)),
            counts=dict(zip(names, rows[2 + len(names) :], strict=True)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "trained": self.trained.tolist(),
            "drawn": self.drawn.tolist(),
            "sequences": self.sequences,
            "version": self.version,
            "sums": {name.value: values.tolist() for name, values in self.sums.items()},
            "counts": {name.value: values.tolist() for name, values in self.counts.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> _Seen:
        def arrays(of: Mapping[str, Any]) -> dict[Signal, Floats]:
            return {Signal(name): np.array(values, dtype=np.float64) for name, values in of.items()}

        return cls(
            trained=np.array(value["trained"], dtype=np.float64),
            drawn=np.array(value["drawn"], dtype=np.float64),
            sequences=float(value["sequences"]),
            version=int(value["version"]),
            sums=arrays(value["sums"]),
            counts=arrays(value["counts"]),
        )


def _tokens_per_row(store: Store) -> float:
    """Mean tokens of a sequence, padding apart."""
    return sum(store.tokens) / max(sum(store.rows), 1)


def _plain(values: Floats) -> list[Any]:
    """Nested lists for JSON, which knows no number that is not finite: it becomes null."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [float(value) if np.isfinite(value) else None for value in values]


def _distributed() -> Any:
    """``torch.distributed`` where a process group is up; None otherwise, without importing torch for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed


def _rank(group: Any) -> int:
    distributed = _distributed()
    return 0 if distributed is None else int(distributed.get_rank(group))
