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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError, PenstockError
from penstock.step import Reporter, Silent, Step, StepResult

if TYPE_CHECKING:
    from penstock.pipelines.passes import Engine
    from penstock.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """What a verb did.

    Attributes:
        folder: path or URL of what was made, or of where it was sent.
        steps: in order; none of a push.
        report: path or URL of ``report.html``, where the verb writes one.
    """

    folder: str
    steps: tuple[StepResult, ...] = ()
    report: str | None = None


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
        reporter: hears what happens.
        flow: make each step a task of Prefect's (extra ``flows``), when there is something to do.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    return _of_recipe(
        _recipe(recipe, overrides), None, out, since, workers, split_mb, _engine(runner, runner_options), reporter, flow
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
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Build the first round's dataset of a recipe; no training. Arguments as of ``run``."""
    loaded, engine = _recipe(recipe, overrides), _engine(runner, runner_options)
    return _of_recipe(loaded, datasets_of(loaded), out, since, workers, split_mb, engine, reporter, flow)


def train(
    recipe: str,
    overrides: Sequence[str] = (),
    out: str | None = None,
    workers: int | None = None,
    split_mb: float = 32.0,
    *,
    reporter: Reporter | None = None,
    flow: bool = False,
) -> Outcome:
    """Build what the first round's model needs and train it, and the models beside it. Arguments as of ``run``."""
    loaded = _recipe(recipe, overrides)
    return _of_recipe(loaded, models_of(loaded), out, None, workers, split_mb, None, reporter, flow)


def _recipe(path: str, overrides: Sequence[str]) -> Recipe:
    from penstock.recipe import Recipe

    return Recipe.load(path, overrides)


def datasets_of(recipe: Recipe) -> list[str]:
    """The steps that a build is for."""
    from penstock.pipelines.plan import compared

    return ["dataset-1", *(map(compared, recipe.generate.compare) if recipe.generate is not None else ())]


def models_of(recipe: Recipe) -> list[str]:
    """The steps that a training is for."""
    return ["model-1", *(f"model-1-{name}" for name in recipe.beside)]


def _engine(runner: str | None, options: Sequence[str]) -> Engine | None:
    if runner is None:
        if options:
            raise ConfigError(f"runner_options: got {options[0]} without a runner; name one, such as PortableRunner")
        return None
    from penstock.pipelines.beam import BeamEngine

    return BeamEngine(runner, tuple(options))


def _of_recipe(
    recipe: Recipe,
    only: list[str] | None,
    out: str | None,
    since: str | None,
    workers: int | None,
    split_mb: float,
    engine: Engine | None,
    reporter: Reporter | None,
    flow: bool,
) -> Outcome:
    from penstock.run import run as run_steps

    done = run_steps(
        recipe,
        out=out,
        workers=workers,
        engine=engine,
        reporter=reporter,
        split_bytes=_bytes(split_mb),
        only=only,
        since=since,
        flow=flow,
    )
    return Outcome(done.root.url, done.steps, done.report)


def _bytes(split_mb: float) -> int:
    if not split_mb > 0:
        raise ConfigError(f"split_mb: got {split_mb}, allowed above 0; 32 is the default")
    return max(int(split_mb * (1 << 20)), 1)


def _recipe_steps(
    targets: Callable[[Recipe], list[str]] | None,
    recipe: str,
    overrides: Sequence[str] = (),
    split_mb: float = 32.0,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    **_: Any,
) -> list[Step]:
    from penstock.pipelines.plan import needed, plan

    _bytes(split_mb)
    _engine(runner, runner_options)
    loaded = _recipe(recipe, overrides)
    steps = plan(loaded)
    return steps if targets is None else needed(steps, targets(loaded))


# ── without a recipe ─────────────────────────────────────────────────────────────────────────────


def generate(
    out: str,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    store: str | None = None,
    *,
    reporter: Reporter | None = None,
) -> Outcome:
    """Make diverse problems or texts, each gated and traceable.

    Args:
        out: folder or URL for what is made.
        settings: as the section ``generate`` of a recipe has them.
        overrides: ``KEY.KEY=VALUE`` over them; ``embed.KEY=VALUE`` sets the embedder.
        seed: of all draws.
        store: file of kept answers; by default the one in the user's cache.
        reporter: hears what happens.

    Raises:
        PenstockError: fewer items than wanted could be made, or of the kind that says what to mend.
    """
    from penstock.generation import generate as make

    made = make(_generate_steps(settings, overrides, store), out, seed=seed, reporter=reporter or Silent())
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

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    from penstock.transformation import transform as make

    steps = _transform_steps(given, settings, overrides, question, answer, store)
    made = make(steps, out, seed=seed, workers=workers, reporter=reporter)
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
    return Outcome(sent.dest)


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
    "train": Verb(train, lambda **given: _recipe_steps(models_of, **given), takes_flow=True),
    "generate": Verb(generate, _generate_steps),
    "transform": Verb(transform, _transform_steps),
    "push": Verb(push, _push_steps),
}
