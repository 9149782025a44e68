"""Train a policy on the rewards of its own answers, in groups; resumable to the last bit.

    result = learn(GroupRLConfig(objective="ta-grpo"), "runs/quickstart/model-1", ProblemTable.read("groups"), "out")

One step: questions are asked and answered (``questions``, ``rollouts``), answers are rewarded (``rewards``) and
compared within their groups (``advantages``), and the policy is moved (``objective``), in ``updates_per_step`` parts.
An answer about which nothing is known is left out of everything. A step where that holds for all changes no weight;
three of them in a row end the run, with the first cause.

A run's folder::

    model/              weights as safetensors, config, tokenizer: transformers loads it
    checkpoints/        the newest ``keep_checkpoints``; a run started again continues from the last
    metrics.jsonl       a line a step: reward, by transform, groups without gradient, lengths, ratios, norm
    timings.jsonl       seconds by part, apart because they never repeat
    evaluation.jsonl    pass@k on held-out problems (``evaluation``)
    rollouts/           Parquet, a file a step: every answer with its tokens, log-probabilities, reward and advantage

Dropout is off throughout: a ratio compares two policies, not two draws of a mask.

Determinism: on CPU with the same number of threads a run that was killed at any point and started again writes the same
metrics, answers and weights, byte for byte, as one left alone, as long as the reward is a function of answer and
problem. What a server answers is not repeatable; its answers are asked for again unless a store keeps them.

Price: weights, gradients and two moments in float32 (16 bytes a parameter), the reference's weights with ``kl_beta``,
and the larger of the cache of ``rollout_batch`` answers and the activations of ``micro_batch_tokens``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ConfigError, TrainingError
from penstock.storage import storage_errors
from penstock.torch_threads import torch_threads
from penstock.training import checkpoint, snapshot
from penstock.training.checkpoint import CheckpointWriter
from penstock.training.distributed import Ranks, device_of
from penstock.training.export import check_identity
from penstock.training.group_rl.config import RUNNING, GroupRLConfig
from penstock.training.group_rl.evaluation import EvaluationLog, evaluate
from penstock.training.group_rl.objective import Judged, Objective, judge
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.progress import LearningProgress
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Ints, Rewards, Rollouts
from penstock.training.group_rl.result import GroupRLResult
from penstock.training.group_rl.rewards import reward_model
from penstock.training.group_rl.rollouts import LivePolicy, RolloutSource, write_rollouts
from penstock.training.group_rl.sampling import Sampler, end_tokens
from penstock.training.group_rl.served import ServedPolicy
from penstock.training.group_rl.stored import StoredRollouts
from penstock.training.guards import GradientGuard
from penstock.training.metrics import JsonLines
from penstock.training.model import without_progress_bars
from penstock.training.update import finite

if TYPE_CHECKING:
    import torch

    from penstock.generators.base import LanguageModel

    RolloutsFrom = LanguageModel | str | Path | Sequence[str | Path] | None

_UNKNOWN = 3  # steps in a row without a known reward that end a run
_REFUSED = 3  # updates in a row with a gradient that is no finite number which are let pass
_ADAM_EPSILON = 1e-8
_ALONE = Ranks()


def learn(
    config: GroupRLConfig,
    model: str | Path,
    problems: ProblemTable,
    out: str | Path,
    *,
    held_out: Mapping[str, ProblemTable] | None = None,
    reference: str | Path | None = None,
    rollouts_from: RolloutsFrom = None,
    progress: bool = True,
) -> GroupRLResult:
    """Train until ``config.steps`` and write the model; continue from ``out``'s last checkpoint if it has one.

    Ctrl-C and kills lose only the steps after the last checkpoint. A finished run started again trains nothing and
    returns the same result.

    Args:
        model: folder of a causal LM with safetensors weights and a tokenizer, or of a run with a model.
        problems: what is asked.
        out: a folder that belongs to this run.
        held_out: sets that pass@k is measured on, by name.
        reference: folder of the model that ``kl_beta`` holds the policy to; None is ``model``.
        rollouts_from: who answers instead of the model that learns: a language model of ``penstock.generators``, as
            ``ChatEndpoint``, whose weights are not updated (``served``), or Parquet files of answers, and folders of
            them (``stored``).
        progress: draw a progress bar on the terminal.

    Raises:
        ConfigError: a setting does not fit the model or the problems.
        InputError: a file of answers cannot be read, or the server is not there or refuses.
        DatasetError: no problem can be asked, ``out`` holds another run's checkpoints, or a file is damaged.
        TrainingError: no reward is known, or no gradient is a finite number, for too many steps in a row.
        StorageError: the disk is full or read-only.
    """
    started = time.perf_counter()
    with ExitStack() as stack:
        run = _Run(config, str(model), problems, Path(out), dict(held_out or {}), reference, rollouts_from, stack)
        resumed_from = run.step
        bar = stack.enter_context(LearningProgress(config.steps, resumed_from, shown=progress))
        run.begin(bar)
        while run.step < config.steps:
            run.advance(bar)
        run.export()
        return run.result(resumed_from, time.perf_counter() - started)


class _Run:
    """The mutable state of one run; ``advance`` is one step."""

    def __init__(
        self,
        config: GroupRLConfig,
        model: str,
        problems: ProblemTable,
        folder: Path,
        held_out: dict[str, ProblemTable],
        reference: str | Path | None,
        rollouts_from: RolloutsFrom,
        stack: ExitStack,
    ) -> None:
        from penstock.scoring.model import context_limit, fingerprint, load_causal_lm

        self.config, self.folder = config, folder
        self.device = device_of(config.device, _ALONE)
        stack.enter_context(torch_threads(config.threads))
        self.model, self.tokenizer = load_causal_lm(model, str(self.device))
        self.model.requires_grad_(True)
        limit = context_limit(self.model)
        most = None if limit is None else limit - config.max_new_tokens
        if most is not None and most < 1:
            raise ConfigError(
                f"max_new_tokens: got {config.max_new_tokens}, allowed below the model's context of {limit} tokens; "
                "lower it or take a model with a longer context"
            )
        asked: Any = {"instruction": config.instruction, "most": most}
        questions = Questions.of(problems, self.tokenizer, **asked)
        self.held_out = {
            name: Questions.of(table, self.tokenizer, what=f"held_out {name}", **asked)
            for name, table in held_out.items()
        }
        bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and self.device.type == "cuda")
        self.sampler: Sampler | None = None
        if rollouts_from is None or self.held_out:
            self.sampler = Sampler(self.model, end_tokens(self.model, self.tokenizer), bfloat16=bfloat16)
        self.source = self._source(rollouts_from, questions)
        self.questions = self.source.questions
        self.reward = reward_model(config, stack)
        held_to = None
        if reference is not None and not config.kl_beta:
            raise ConfigError(
                f"reference: got {reference} with kl_beta 0, allowed none then; set kl_beta or leave it out"
            )
        if config.kl_beta > 0:
            held_to = load_causal_lm(str(reference or model), str(self.device))[0]
        self.objective = Objective(self.model, config, reference=held_to, bfloat16=bfloat16)
        self.optimizer = _adamw(self.model, config)
        self.guard = GradientGuard(max_skipped=_REFUSED)

        self.step, self.version, self.answers, self.tokens = 0, 0, 0, 0
        self.unknown = 0  # steps in a row without a known reward
        self.skipped = 0  # steps that changed no weight
        values = {name: value for name, value in dataclasses.asdict(config).items() if name not in RUNNING}
        values |= {
            "model": fingerprint(model),
            "reference": None if reference is None else fingerprint(reference),
            "problems": _digest(self.questions),
            "held_out": {name: _digest(questions) for name, questions in self.held_out.items()},
            "rollouts_from": self.source.identity,
        }
        self.identity = dict(json.loads(json.dumps(values)))
        self.writer = CheckpointWriter(folder / "checkpoints", keep=config.keep_checkpoints)
        self.metrics, self.timings = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "timings.jsonl")
        due = sorted({0, config.steps, *range(config.eval_every, config.steps, config.eval_every)})
        self.log = EvaluationLog(folder / "evaluation.jsonl", due) if self.held_out else None
        self._resume(stack)

    def _source(self, given: RolloutsFrom, questions: Questions) -> RolloutSource:
        """Who answers."""
        config, tokenizer, ends = self.config, self.tokenizer, end_tokens(self.model, self.tokenizer)
        if given is None:
            assert self.sampler is not None, "a live policy without a sampler"
            return LivePolicy(self.sampler, tokenizer, questions.for_training(config), config)
        if config.ratio_context == "original_swap":
            raise ConfigError(
                "ratio_context: got 'original_swap' with answers of another policy, allowed 'own' or 'original_is': "
                "what that policy makes of them after the original's prompt is not known; change it"
            )
        warnings.warn(
            "the policy learns from answers that another one gave, whose weights are not updated; it is off-policy "
            "from its first update on",
            stacklevel=4,
        )
        if isinstance(given, str | Path):
            given = [given]
        if isinstance(given, Sequence):
            return StoredRollouts(given, questions, tokenizer, config, ends)
        return ServedPolicy(given, questions.for_training(config), tokenizer, config, ends)

    def begin(self, bar: LearningProgress) -> None:
        """Evaluate the model that the run starts from."""
        if self.step == 0:
            self._evaluate(bar)

    def advance(self, bar: LearningProgress) -> None:
        """One step with all its records."""
        clock = [time.perf_counter()]
        config, step = self.config, self.step + 1
        bar.doing("answer")
        rollouts, lost = self.source(self.step, self.questions.at(self.step, config), self.version)
        rollouts, lost = self._with_siblings(rollouts, lost)
        clock.append(time.perf_counter())
        bar.doing("reward")
        rewards = self._rewards(rollouts)
        clock.append(time.perf_counter())
        bar.doing("learn")
        rate = config.learning_rate_at(self.step)
        record: dict[str, Any] = {"step": step, "lr": rate, "behind": self.version - rollouts.version}
        if len(rollouts):
            judged = judge(rollouts, rewards, self.questions, config)
            record |= self._facts(rollouts, rewards, judged)
            self._check_known(step, rewards, lost)
            record |= self._update(step, judged, rate)
            path = self.folder / "rollouts" / f"step-{step:08d}.parquet"
            table = self.questions.table
            write_rollouts(path, step, table, rollouts, rewards, judged.advantages, temperature=config.temperature)
        else:
            self._check_known(step, rewards, lost)
            record |= {"answers": 0, "tokens": 0, "reward": None, "skipped": "no answer to learn from"}
        if lost:
            record["lost"] = lost
        self.skipped += "skipped" in record
        clock.append(time.perf_counter())
        self.step = step
        self.answers += len(rollouts)
        self.tokens += record["tokens"]
        if self.log is not None and step in self.log.due:
            self._evaluate(bar)
        clock.append(time.perf_counter())
        parts = dict(zip(("answer", "reward", "learn", "evaluate"), np.diff(clock).tolist(), strict=True))
        self.metrics.append(record)
        self.timings.append({"step": step, "seconds": clock[-1] - clock[0], **parts})
        if step == config.steps or step % config.checkpoint_every == 0:
            self._save()
        bar.update(step, record["reward"], record.get("groups", {}).get("of_rollouts", {}).get("zero_gradient"))

    def _with_siblings(self, rollouts: Rollouts, lost: dict[str, int]) -> tuple[Rollouts, dict[str, int]]:
        """Without answers that lost all others of their pool: one has no baseline."""
        pool = rollouts.group if self.config.settled("pool") == "group" else rollouts.problem
        _, index, size = np.unique(pool, return_inverse=True, return_counts=True)
        alone = size[index] == 1
        if not alone.any():
            return rollouts, lost
        return rollouts.take(np.flatnonzero(~alone)), lost | {"alone": int(alone.sum())}

    def _rewards(self, rollouts: Rollouts) -> Rewards:
        problems = [self.questions.table.problems[place] for place in rollouts.problem.tolist()]
        return self.reward(rollouts.texts, problems)

    def _check_known(self, step: int, rewards: Rewards, lost: Mapping[str, int]) -> None:
        """Raise TrainingError when nothing was known for too many steps in a row."""
        self.unknown = 0 if rewards.known.any() else self.unknown + 1
        if self.unknown >= _UNKNOWN:
            became = ", ".join(f"{count} {what}" for what, count in (rewards.counts | dict(lost)).items())
            cause = f"; the first: {rewards.cause}" if rewards.cause else ""
            raise TrainingError(
                f"step {step}: no reward is known ({became}{cause}), as in {self.unknown} steps in a row, allowed "
                f"fewer than {_UNKNOWN}; mend what answers or the reward, or raise reward_deadline"
            )

    def _update(self, step: int, judged: Judged, rate: float) -> dict[str, Any]:
        """Move the policy; what the record says of it."""
        import torch

        if not judged.known.any():
            return {"skipped": "no reward is known"}
        old = self.objective.old_logprobs(judged)
        found: list[dict[str, float]] = []
        refused = None
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for rows in self._parts(judged.rollouts):
            facts = self.objective.backward(judged, old, rows)
            if facts is None:
                continue
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))
            refused = self.guard.judge(facts["loss"], norm)
            if refused is None:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self.version += 1
                found.append(facts | {"grad_norm": norm})
            self.optimizer.zero_grad(set_to_none=True)
            if refused is not None:
                self.guard.raise_if_stuck(
                    step, refused, f"lower learning_rate ({rate:g} here) or clip_norm, or raise kl_beta"
                )
        if not found:
            return {"skipped": refused or "all rewards of each group are equal"}
        names = dict.fromkeys(name for facts in found for name in facts)
        told: dict[str, Any] = {
            name: finite(float(np.mean([facts[name] for facts in found if name in facts]))) for name in names
        }
        return told | {"updates": len(found)} | ({} if refused is None else {"refused": refused})

    def _parts(self, rollouts: Rollouts) -> Iterator[Ints]:
        """Rows of each update: equal parts of the step's groups in the order they were asked."""
        size = self.config.groups_per_step // self.config.updates_per_step
        order = {int(group): turn for turn, group in enumerate(dict.fromkeys(rollouts.group.tolist()))}
        turn = np.array([order[group] for group in rollouts.group.tolist()])
        for part in range(self.config.updates_per_step):
            rows = np.flatnonzero(turn // size == part)
            if len(rows):
                yield rows

    def _facts(self, rollouts: Rollouts, rewards: Rewards, judged: Judged) -> dict[str, Any]:
        """What the record says of a step's answers."""
        lengths = np.array([len(response) for response in rollouts.responses])
        known, table = rewards.known, self.questions.table
        kinds = np.array([table.problems[place].transform for place in rollouts.problem.tolist()])
        means = {str(kind): rewards.values[known & (kinds == kind)] for kind in np.unique(kinds)}
        tokens = int(lengths.sum())
        return {
            "answers": len(rollouts),
            "tokens": tokens,
            "reward": float(rewards.values[known].mean()) if known.any() else None,
            "reward_by_transform": {kind: float(of.mean()) if len(of) else None for kind, of in means.items()},
            "outcomes": rewards.counts,
            "groups": judged.advantages.facts.to_json(),
            "length": float(lengths.mean()),
            "cut": float(np.mean(~rollouts.ended)),
            "logprob": float(sum(float(one.astype(np.float64).sum()) for one in rollouts.logprobs) / tokens),
        }

    def _evaluate(self, bar: LearningProgress) -> None:
        if self.log is not None:
            assert self.sampler is not None, "an evaluation without a sampler"
            bar.doing("evaluate")
            self.log.append(self.step, evaluate(self.sampler, self.tokenizer, self.held_out, self.reward, self.config))

    def _save(self) -> None:
        """Commit everything up to this step; lines and files first, the checkpoint that vouches for them last."""
        self.metrics.sync()
        self.timings.sync()
        self.writer.save(
            self.step,
            model=snapshot.owned(snapshot.weights_of(self.model), _ALONE),
            training=snapshot.owned(snapshot.moments_of(self.model, self.optimizer), _ALONE),
            state={
                "identity": self.identity,
                "guard": self.guard.state_dict(),
                "version": self.version,
                "answers": self.answers,
                "tokens": self.tokens,
                "unknown": self.unknown,
                "skipped": self.skipped,
            },
        )

    def _resume(self, stack: ExitStack) -> None:
        """Take over the last checkpoint, if there is one, and remove every record of later steps."""
        checkpoint.clean(self.writer.folder, self.config.keep_checkpoints)
        saved = checkpoint.load_latest(self.writer.folder)
        if saved is not None:
            check_identity(saved.path, saved.state["identity"], self.identity)
            snapshot.load_weights(self.model, saved.model, _ALONE)
            snapshot.load_moments(self.model, self.optimizer, saved.training, _ALONE)
            self.guard.load_state_dict(saved.state["guard"])
            self.step = saved.step
            for name in ("version", "answers", "tokens", "unknown", "skipped"):
                setattr(self, name, int(saved.state[name]))
        with storage_errors(str(self.folder)):
            for path in (self.folder / "rollouts").glob("*step-*.parquet"):
                if path.name.startswith(".") or int(path.stem.removeprefix("step-")) > self.step:
                    path.unlink()
        for lines in (self.metrics, self.timings):
            lines.open(self.step)
            stack.callback(lines.close)
        if self.log is not None:
            self.log.open(self.step)

    def export(self) -> None:
        """Write ``model``, a folder that transformers loads; whole or not there."""
        target, temporary = self.folder / "model", self.folder / ".tmp-model"
        with storage_errors(str(target)):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            with without_progress_bars():
                self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)

    def result(self, resumed_from: int, seconds: float) -> GroupRLResult:
        records = self.metrics.read()
        groups = [record.get("groups") for record in records]
        return GroupRLResult(
            model=self.folder / "model",
            checkpoint=checkpoint.complete(self.writer.folder)[-1],
            metrics=self.metrics.path,
            evaluation=None if self.log is None else self.log.path,
            rollouts=self.folder / "rollouts",
            device=str(self.device),
            steps=self.step,
            resumed_from=resumed_from,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            groups=len(self.questions.table.groups),
            problems=len(self.questions.table),
            dropped=dict(Counter(self.questions.table.dropped)),
            answers=self.answers,
            tokens=self.tokens,
            seconds=seconds,
            rewards=tuple(record["reward"] for record in records),
            zero_gradient=tuple(None if of is None else of["of_rollouts"]["zero_gradient"] for of in groups),
            evaluations=() if self.log is None else tuple(self.log.lines),
            skipped=self.skipped,
        )


def _digest(questions: Questions) -> str:
    """Of everything that is asked, down to its tokens."""
    state = hashlib.sha256(questions.table.fingerprint.encode())
    for prompt in questions.prompts:
        state.update(len(prompt).to_bytes(8, "little") + prompt.tobytes())
    return state.hexdigest()


def _adamw(model: Any, config: GroupRLConfig) -> torch.optim.Optimizer:
    """Fused AdamW with decay on tensors of two or more dimensions."""
    import torch

    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=_ADAM_EPSILON, fused=True
    )
