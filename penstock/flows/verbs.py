"""The verbs that make or send data, as plain functions: what ``penstock VERB`` does, without a terminal.

A deployment runs the same functions in a Prefect flow each (deployed.py). A run that was stopped goes on when its
function is called again with the same arguments.

    from penstock.flows import build, push
    built = build("corpus.yaml", ["select.omega=0.5"], out="runs/corpus")
    push(built.folder, "s3://bucket/corpus")

Price: that of the verb.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError
from penstock.pipelines.engines import beam_engine, split_bytes
from penstock.step import Reporter, Silent, Step, StepResult

if TYPE_CHECKING:
    from penstock.pipelines.beam import BeamEngine
    from penstock.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """What a verb did.

    Attributes:
        folder: path or URL of what was made, or of where it was sent.
        steps: in order; none of a push.
        report: path or URL of ``report.html``, where the verb writes one.
        files: of a push, by what became of them (``send``, ``copy``, ``there``, ``remove``): their number and bytes.
    """

    folder: str
    steps: tuple[StepResult, ...] = ()
    report: str | None = None
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)


# ── of a recipe ──────────────────────────────────────────────────────────────────────────────────


def run(
    recipe: str,
    overrides: Sequence[str] = (),
    out: str | None = None,
    since: str | None = None,
    workers: int | None = None,
    split_mb: float = 32.0,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    shared_disk: bool = False,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Run a recipe to its end: data, tokens, model, rounds, report.

    Args:
        recipe: its file.
        overrides: ``KEY.KEY=VALUE`` each, the value as YAML, over the recipe.
        out: folder or URL of the run; the recipe's by default.
        since: an earlier run: what was fitted there is kept, and what did not change is taken over.
        workers: processes at home; by default one a core.
        split_mb: input megabytes of a split; changes no output.
        runner, runner_options: Beam's, for the passes; without one they run at home.
        shared_disk: workers of the runner have this machine's disks at the same paths.
        reporter: hears what happens.
        flow: make each step a task of Prefect's (extra ``flows``), when there is something to do.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    return _of_recipe(
        _recipe(recipe, overrides),
        None,
        out,
        since,
        workers,
        split_mb,
        beam_engine(runner, runner_options, shared_disk=shared_disk),
        reporter,
        flow,
    )


def build(
    recipe: str,
    overrides: Sequence[str] = (),
    out: str | None = None,
    since: str | None = None,
    workers: int | None = None,
    split_mb: float = 32.0,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    shared_disk: bool = False,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Build the first round's dataset of a recipe; no training. Arguments as of ``run``."""
    loaded, engine = _recipe(recipe, overrides), beam_engine(runner, runner_options, shared_disk=shared_disk)
    return _of_recipe(loaded, datasets_of(loaded), out, since, workers, split_mb, engine, reporter, flow)


def train(
    recipe: str,
    overrides: Sequence[str] = (),
    out: str | None = None,
    workers: int | None = None,
    split_mb: float = 32.0,
    objective: str | None = None,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Build what the first round's model needs and train it, and the models beside it. Arguments as of ``run``.

    Args:
        objective: of ``group_rl`` in place of the recipe's; the model then learns from groups of its own answers, and
            the models beside it are left out.
    """
    loaded = _recipe(recipe, with_objective(overrides, objective))
    return _of_recipe(loaded, models_of(loaded, objective), out, None, workers, split_mb, None, reporter, flow)


def refresh(
    recipe: str,
    overrides: Sequence[str] = (),
    out: str | None = None,
    workers: int | None = None,
    split_mb: float = 32.0,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Make the next round of a recipe, if there is something to make it of. Arguments as of ``run``.

    The data of now, selected by what the accepted model saw; its training goes on; the new model takes its place or
    not. The outcome's folder is that of all rounds; it has no steps where no round was made.
    """
    from penstock.refreshing.loop import refresh as make

    loaded = _recipe(recipe, overrides)
    done = make(loaded, out=out, workers=workers, reporter=reporter, split_bytes=split_bytes(split_mb), flow=flow)
    return Outcome(done.root.url, done.steps, done.report)


def _refresh_steps(
    recipe: str, overrides: Sequence[str] = (), out: str | None = None, split_mb: float = 32.0, **_: Any
) -> list[Step]:
    from penstock.refreshing.plan import round_steps
    from penstock.run import root_of

    split_bytes(split_mb)
    loaded = _recipe(recipe, overrides)
    return round_steps(loaded, 2, root_of(loaded, out) / "round-0001")  # a later round's: the first has fewer


def _recipe(path: str, overrides: Sequence[str]) -> Recipe:
    from penstock.recipe import Recipe

    return Recipe.load(path, overrides)


def datasets_of(recipe: Recipe) -> list[str]:
    """The steps that a build is for."""
    from penstock.pipelines.plan import compared

    return ["dataset-1", *(map(compared, recipe.generate.compare) if recipe.generate is not None else ())]


def models_of(recipe: Recipe, objective: str | None = None) -> list[str]:
    """The steps that a training is for; with an objective of learning from groups, that one's."""
    if objective is not None:
        return [f"policy-{objective}"]
    return ["model-1", *(f"model-1-{name}" for name in recipe.beside)]


def with_objective(overrides: Sequence[str], objective: str | None) -> list[str]:
    """Overrides of a recipe with this objective of learning from groups."""
    return [*overrides, *([] if objective is None else [f"group_rl.objective={objective}"])]


def _of_recipe(
    recipe: Recipe,
    only: list[str] | None,
    out: str | None,
    since: str | None,
    workers: int | None,
    split_mb: float,
    engine: BeamEngine | None,
    reporter: Reporter | None,
    flow: bool,
) -> Outcome:
    from penstock.run import root_of
    from penstock.run import run as run_steps

    if engine is not None:
        engine.check(recipe, root_of(recipe, out))
    done = run_steps(
        recipe,
        out=out,
        workers=workers,
        engine=engine,
        reporter=reporter,
        split_bytes=split_bytes(split_mb),
        only=only,
        since=since,
        flow=flow,
    )
    return Outcome(done.root.url, done.steps, done.report)


def _recipe_steps(
    targets: Callable[[Recipe], list[str]] | None,
    recipe: str,
    overrides: Sequence[str] = (),
    split_mb: float = 32.0,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    shared_disk: bool = False,
    **_: Any,
) -> list[Step]:
    from penstock.pipelines.plan import needed, plan

    split_bytes(split_mb)
    beam_engine(runner, runner_options, shared_disk=shared_disk)
    loaded = _recipe(recipe, overrides)
    steps = plan(loaded)
    return steps if targets is None else needed(steps, targets(loaded))


def _train_steps(recipe: str, overrides: Sequence[str] = (), objective: str | None = None, **given: Any) -> list[Step]:
    return _recipe_steps(
        lambda loaded: models_of(loaded, objective), recipe, with_objective(overrides, objective), **given
    )


# ── without a recipe ─────────────────────────────────────────────────────────────────────────────


def generate(
    out: str,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    store: str | None = None,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Make diverse problems or texts, each gated and traceable.

    Args:
        out: folder or URL for what is made.
        settings: as the section ``generate`` of a recipe has them.
        overrides: ``KEY.KEY=VALUE`` over them; ``embed.KEY=VALUE`` sets the embedder.
        seed: of all draws.
        store: file of kept answers; by default the one in the user's cache.
        reporter: hears what happens.
        flow: as of ``run``.

    Raises:
        PenstockError: fewer items than wanted could be made, or of the kind that says what to mend.
    """
    from penstock.generation import generate as make

    made = make(_generate_steps(settings, overrides, store), out, seed=seed, reporter=reporter, flow=flow)
    if not made.complete:
        raise PenstockError(str(made.facts["detail"]))
    return Outcome(out, made.steps)


def _generate_steps(
    settings: Mapping[str, Any] | None = None, overrides: Sequence[str] = (), store: str | None = None, **_: Any
) -> list[Step]:
    from penstock.generation import plan, steps_of
    from penstock.generators.answers import default_store

    return steps_of(*plan(settings or {}, overrides), store=store or default_store())


def transform(
    given: Sequence[str],
    out: str,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    question: str = "question",
    answer: str = "answer",
    seed: int = 0,
    store: str | None = None,
    workers: int | None = None,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Make groups of a question and its verified variants.

    Args:
        given: files with questions and answers, or the folder of a dataset with problems.
        out: folder or URL for what is made.
        settings: as the section ``transform`` of a recipe has them.
        overrides: ``KEY.KEY=VALUE`` over them; ``embed.KEY=VALUE`` sets the embedder.
        question, answer: columns of the files.
        seed: of all draws.
        store: file of kept answers; by default the one in the user's cache.
        workers: processes for the rules; by default one a core.
        reporter: hears what happens.
        flow: as of ``run``.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    from penstock.transformation import transform as make

    steps = _transform_steps(given, settings, overrides, question, answer, store)
    made = make(steps, out, seed=seed, workers=workers, reporter=reporter, flow=flow)
    return Outcome(out, made.steps)


def _transform_steps(
    given: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    question: str = "question",
    answer: str = "answer",
    store: str | None = None,
    **_: Any,
) -> list[Step]:
    from penstock.generators.answers import default_store
    from penstock.transformation import plan, steps_of

    config, embed = plan(settings or {}, overrides)
    return steps_of(given, config, embed, question=question, answer=answer, store=store or default_store())


def push(
    folder: str,
    dest: str,
    keep: bool = False,
    create: bool = False,
    private: bool = False,
    branch: str | None = None,
    *,
    reporter: Reporter | None = None,
) -> Outcome:
    """Send a published dataset to a store, a folder or the Hub.

    Args:
        folder: a published dataset, or a run: its last one.
        dest: ``hf://datasets/ORG/NAME[@BRANCH]``, ``s3://…``, ``gs://…`` or a folder.
        keep: leave the older version's files (not on the Hub).
        create, private: make the repository or branch on the Hub, the repository as a private one.
        branch: on the Hub; ``main`` by default.
        reporter: hears what was sent.

    Raises:
        PenstockError: of the kind that says what to mend; what was sent is kept.
    """
    from penstock.push import push as send

    sent = send(folder, dest, keep=keep, create=create, private=private, branch=branch)
    number, size = sent.total("send")
    (reporter or Silent()).note(f"sent {number:,} files, {size:,} bytes; {sent.done}")
    return Outcome(sent.dest, files={what: sent.total(what) for what in dict.fromkeys(a.what for a in sent.actions)})


def _push_steps(dest: str, branch: str | None = None, **_: Any) -> list[Step]:
    from penstock.push import HUB
    from penstock.storage import Folder

    if dest.startswith(HUB):
        from penstock.push_hub import Repository

        Repository.of(dest, branch)
    else:
        _ = Folder(dest).fs
    return []


# ── the table ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Verb:
    """A verb that can be deployed.

    Attributes:
        function: does it. What follows ``*`` in its signature is not for a deployment.
        steps: with the same arguments, the steps that it would build, and nothing is read or written but the recipe;
            raises what is wrong with the arguments.
        takes_flow: whether the function makes tasks of its steps itself.
    """

    function: Callable[..., Outcome]
    steps: Callable[..., list[Step]]
    takes_flow: bool = False

    def arguments(self) -> list[inspect.Parameter]:
        """What a deployment may give, with types that are no strings."""
        types = typing.get_type_hints(self.function)
        given = inspect.signature(self.function).parameters.values()
        return [p.replace(annotation=types[p.name]) for p in given if p.kind is not p.KEYWORD_ONLY]


VERBS: Mapping[str, Verb] = {
    "run": Verb(run, lambda **given: _recipe_steps(None, **given), takes_flow=True),
    "build": Verb(build, lambda **given: _recipe_steps(datasets_of, **given), takes_flow=True),
    "train": Verb(train, _train_steps, takes_flow=True),
    "refresh": Verb(refresh, _refresh_steps, takes_flow=True),
    "generate": Verb(generate, _generate_steps, takes_flow=True),
    "transform": Verb(transform, _transform_steps, takes_flow=True),
    "push": Verb(push, _push_steps),
}
