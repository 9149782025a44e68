"""Learning from groups as a step: verified problems and a model in; the model that learned from them out.

Questions are held out by group, so no phrasing of one is ever on both sides, and by the coin that splits the corpus:
with ``held_out`` at most ``splits.validation + splits.test``, the run's own model has read none of those that pass@k is
measured on. Two sets are measured: ``originals``, the questions as they were made, and ``variants``, their other
phrasings.

The loop works in a local folder of the step and resumes there after a kill. When it is done the model, the metrics and
the evaluations become artifacts, the sampled answers the table ``rollouts``. A row in is a problem; kept are those that
are asked, in training or for pass@k.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.dataset import Counts, Dataset, read_manifest
from penstock.errors import ConfigError, DatasetError
from penstock.seeding import derive
from penstock.selectors.splits import AssignSplit
from penstock.sources.base import InputFile
from penstock.sources.made import SPLIT_KEY, with_split_key
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder
from penstock.training.group_rl.problems import Problem, ProblemTable
from penstock.training.group_rl.recipe import GroupRLRecipe
from penstock.training.step import keep_logs, local_folder, store, table_of

if TYPE_CHECKING:
    from penstock.recipe import Recipe

POLICY = "policy"  # steps are called policy-OBJECTIVE, so that the objectives of a run stand side by side


def policy_steps(recipe: Recipe) -> list[Step]:
    """The step that learns from groups; none where the recipe has no section for it."""
    config = recipe.group_rl
    if config is None:
        return []
    made = "generated" if recipe.transform is None else "transformed"
    return [
        PolicyStep(
            f"{POLICY}-{config.objective}",
            replace(config, seed=derive(recipe.seed, POLICY, config.seed)),
            problems=made if config.problems is None else None,
            model="model-1" if config.model is None else None,
            split_seed=derive(recipe.seed, "split"),
            budget=recipe.budgets.policy,
        )
    ]


class PolicyStep(Step):
    """A language model that learned from groups of its own answers."""

    revision = 1
    libraries = ("torch", "transformers", "math-verify", "sympy")

    def __init__(
        self,
        name: str,
        config: GroupRLRecipe,
        *,
        problems: str | None,
        model: str | None,
        split_seed: int,
        budget: float | None = None,
    ) -> None:
        """
        Args:
            problems, model: steps that made them; None for those that the configuration names.
            split_seed: of the coin that holds questions out, that of the corpus' splits.
        """
        self.name, self.group_rl, self.split_seed, self.budget = name, config, split_seed, budget
        self._problems, self._model = problems, model
        self.parents = tuple(parent for parent in (problems, model) if parent is not None)

    def config(self) -> dict[str, Any]:
        return self.group_rl.said() | {"split_seed": self.split_seed}

    def inputs(self, settings: Settings) -> dict[str, str]:
        """What is not made by this run: the model, problems of others, the code of a reward function's module."""
        config, found = self.group_rl, dict[str, str]()
        if config.model is not None:
            from penstock.scoring.model import resolve

            folder = resolve(config.model)
            files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
            found |= {f"model:{file.name}": settings.fingerprint(InputFile.local(file)) for file in files}
        for name, path in (("problems", config.problems), ("held_out", config.held_out)):
            if isinstance(path, str):
                given = problems_at(path, name)
                found[name] = (
                    given.digest if isinstance(given, Dataset) else settings.fingerprint(InputFile.local(given))
                )
        if (file := _reward_file(config.reward)) is not None:
            found["reward"] = settings.fingerprint(InputFile.local(file))
        return found

    def build(self, context: Context) -> Built:
        from penstock.training.group_rl.loop import learn

        config = self.group_rl
        local = local_folder(context)
        run = local / "run"
        learned, held_out = self.problems_of(context.parents)
        result = learn(
            config.settings,
            self._model_folder(context, local),
            learned,
            run,
            held_out=measured(held_out),
            progress=os.isatty(2),
        )
        built = Built(
            counts=_counts(self.name, learned, held_out, result.dropped),
            stats={
                "objective": config.objective,
                "model": self._model or str(config.model),
                "parameters": result.parameters,
                "device": result.device,
                "steps": result.steps,
                "skipped_steps": result.skipped,
                "groups": result.groups,
                "problems": result.problems,
                "held_out": 0 if held_out is None else len(held_out.groups),
                "answers": result.answers,
                "tokens": result.tokens,
                "reward": ends(result.rewards),
                "zero_gradient": _mean(result.zero_gradient),
                "passes": passes_of(result.evaluations),
            },
        )
        keep_logs(context, run)
        kept = [result.metrics, *([] if result.evaluation is None else [result.evaluation])]
        for file in sorted([*(f for f in result.model.rglob("*") if f.is_file()), *kept]):
            relative = file.relative_to(run).as_posix()
            built.artifacts[relative] = store(context, file, f"run/{relative}")
        built.tables["rollouts"] = table_of(context, result.rollouts, "run/rollouts")
        if not context.folder.is_local:
            shutil.rmtree(local)
        return built

    def problems_of(self, parents: Mapping[str, Dataset]) -> tuple[ProblemTable, ProblemTable | None]:
        """The problems to learn from, and those that are held out; each asked as the recipe says."""
        config = self.group_rl
        if self._problems is not None:
            table = ProblemTable.read(parents[self._problems])
        else:
            assert config.problems is not None
            table = ProblemTable.read(problems_at(config.problems))
        table = asked_as(config, table)
        if isinstance(config.held_out, str):
            held_out = asked_as(config, ProblemTable.read(problems_at(config.held_out, "held_out")))
            return without_questions_of(held_out, table), held_out
        return hold_out(table, config.held_out, self.split_seed)

    def _model_folder(self, context: Context, local: Path) -> Path:
        """Where the model to start from lies on this machine."""
        if self._model is None:
            from penstock.scoring.model import resolve

            assert self.group_rl.model is not None
            return resolve(self.group_rl.model)
        made = context.parents[self._model]
        files = {n.removeprefix("model/"): f for n, f in made.manifest.artifacts.items() if n.startswith("model/")}
        if made.folder.is_local:
            return Path(made.folder.join(files["config.json"].path)).parent
        target = local / "start"
        target.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            (target / name).write_bytes(made.folder.read_bytes(file.path))
        return target


def problems_at(path: str, name: str = "problems") -> Dataset | Path:
    """The dataset that a path means, of a step or of a run that has ``transformed``; else a file.

    Args:
        name: of the setting, for messages.

    Raises:
        DatasetError: there is neither.
    """
    folder = Folder(path)
    for place in (folder, folder / "transformed"):
        if read_manifest(place) is not None:
            return Dataset(place)
    if not Path(path).is_file():
        raise DatasetError(
            f"{name}: got {path}, allowed a folder that penstock transform made, or a Parquet or JSON Lines file of "
            "such rows; correct the path"
        )
    return Path(path)


def asked_as(config: GroupRLRecipe, table: ProblemTable) -> ProblemTable:
    """The table with every question in the recipe's prompt."""
    return ProblemTable((replace(p, prompt=config.asked(p.prompt)) for p in table.problems), table.dropped)


def hold_out(table: ProblemTable, share: float, seed: int) -> tuple[ProblemTable, ProblemTable | None]:
    """The questions to learn from and those held out; no question is in both, in whatever phrasing.

    Raises:
        ConfigError: no question is left to learn from.
    """
    import pyarrow as pa

    rows = with_split_key(pa.RecordBatch.from_pydict({"group": list(table.group_ids)}), table.group_ids)
    coin = AssignSplit(seed=seed, validation=share, test=0.0, column=SPLIT_KEY)
    train = [split == "train" for split in coin.annotate(rows)["split"].to_pylist()]
    if not any(train):
        raise ConfigError(
            f"held_out: got {share}, which leaves none of {len(train)} questions to learn from; lower it, or make more"
        )

    def of(side: bool) -> Iterator[Problem]:
        for kept, places in zip(train, table.groups, strict=True):
            if kept is side:
                yield from (table.problems[place] for place in places)

    held_out = None if all(train) else ProblemTable(of(False))
    return ProblemTable(of(True), table.dropped), held_out


def without_questions_of(held_out: ProblemTable, table: ProblemTable) -> ProblemTable:
    """The table less every question of which a phrasing is held out, by its words; they are counted as ``held_out``.

    Raises:
        DatasetError: no question is left.
    """
    known = {problem.prompt for problem in held_out.problems}
    same = [places for places in table.groups if any(table.problems[place].prompt in known for place in places)]
    rest = table.without((place for places in same for place in places), "held_out")
    if not len(rest):
        raise DatasetError("held_out: all questions of the problems are among them; hold out others, or a share")
    return rest


def measured(held_out: ProblemTable | None) -> dict[str, ProblemTable]:
    """The held-out sets by name: questions as they were made, and their other phrasings where there are some."""
    if held_out is None:
        return {}
    sets: dict[str, list[Problem]] = {"originals": [], "variants": []}
    for problem in held_out.problems:
        sets["variants" if problem.sub_index else "originals"].append(problem)
    return {name: ProblemTable(of) for name, of in sets.items() if of}


def _counts(name: str, learned: ProblemTable, held_out: ProblemTable | None, dropped: Mapping[str, int]) -> Counts:
    """Rows are problems, those that the tables dropped among them; ``dropped`` are those of ``learned``."""
    tables = [learned] if held_out is None else [learned, held_out]
    gone = Counter(dropped) if held_out is None else Counter(dropped) + held_out.dropped
    rows = sum(len(table) + table.dropped.total() for table in tables)
    return Counts(rows_in=rows, kept=rows - gone.total(), dropped={name: dict(sorted(gone.items()))} if gone else {})


def ends(values: Sequence[float | None]) -> dict[str, float | None]:
    """Means over the first and the last tenth of the steps, at least one each; a single step is noise."""
    tenth = max(1, len(values) // 10)
    return {"first": _mean(values[:tenth]), "last": _mean(values[-tenth:])}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def passes_of(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """pass@k by set, before the first step and after the last, in lists along ``ks``."""
    if not evaluations:
        return {}
    first, last = (evaluations[at]["sets"] for at in (0, -1))
    found = {}
    for name, of in sorted(last.items()):
        ks = sorted(of["pass"], key=int)
        found[name] = {
            "problems": of["problems"],
            "samples": of["samples"],
            "ks": [int(k) for k in ks],
            "before": [first[name]["pass"][k]["mean"] for k in ks],
            "after": [of["pass"][k]["mean"] for k in ks],
            "error": [of["pass"][k]["error"] for k in ks],
        }
    return found


def _reward_file(reward: str) -> Path | None:
    """The module of a reward function; None for answers compared, and for what is no file."""
    module, colon, _ = reward.partition(":")
    if not colon:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"reward: got {reward}, and there is no module {module}; name module:function of one that Python finds"
        ) from error
    if spec is None:
        raise ConfigError(f"reward: got {reward}, and there is no module {module}; name one that Python finds")
    return None if spec.origin is None or not Path(spec.origin).is_file() else Path(spec.origin)
