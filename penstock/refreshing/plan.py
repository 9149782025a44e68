"""The steps of a round: those of the recipe's run, and what it takes over from the accepted round.

first round      as ``penstock run`` with one round

later ones       before-model, before-sequences                      from the accepted round
  with generate  before-made, coverage ─> generated ─> made-so-far   what was made before, and what the corpus lacks
                 … scored + before-model's signals ─> selection-1 ─> dataset-1, sequences-1
                 sequences-1 + before-model ─> model-1               goes on from its checkpoint
                 comparison                                          of both models
"""

from __future__ import annotations

import copy
from dataclasses import replace

from penstock.dataset import read_manifest
from penstock.embedding.config import EmbedConfig
from penstock.errors import ConfigError
from penstock.pipelines.documents import Documents
from penstock.pipelines.generate import Generated
from penstock.pipelines.plan import compared, plan
from penstock.pipelines.select import Selection, with_feedback
from penstock.recipe import Recipe
from penstock.refreshing.config import Refresh
from penstock.refreshing.coverage import CoverageStep
from penstock.refreshing.steps import Comparison, ContinuedTraining, MadeSoFar
from penstock.refreshing.taken import Taken
from penstock.seeding import derive
from penstock.sources.made import COLUMNS
from penstock.step import Step
from penstock.storage import Folder
from penstock.training.step import TrainStep

MODEL, SEQUENCES, DATASET, SELECTION = "model-1", "sequences-1", "dataset-1", "selection-1"
BEFORE_MODEL, BEFORE_SEQUENCES, BEFORE_MADE = "before-model", "before-sequences", "before-made"
COVERAGE, MADE_SO_FAR, COMPARISON = "coverage", "made-so-far", "comparison"


def settings_of(recipe: Recipe) -> Refresh:
    """The section ``refresh`` of a recipe that rounds can be made of.

    Raises:
        ConfigError: it trains nothing, holds nothing out, or makes rounds or models of its own.
    """
    if recipe.train is None:
        raise ConfigError("refresh: got no train section, and a round trains; add one")
    if not recipe.splits.validation:
        raise ConfigError("refresh: got splits.validation 0, and models are compared on these sequences; raise it")
    for name, given, none in (
        ("rounds", recipe.rounds > 1, "1: each call of refresh is a round"),
        ("beside", bool(recipe.beside), "none: only one model goes on from round to round"),
        ("group_rl", recipe.group_rl is not None, "null: a round trains on sequences alone"),
    ):
        if given:
            raise ConfigError(f"refresh: got {name}, allowed {none}")
    refresh = recipe.refresh or Refresh()
    if refresh.push_to is not None:
        _check_destination(refresh.push_to)
    return refresh


def _check_destination(dest: str) -> None:
    """Refuse what nothing can be sent to, before hours of training."""
    from penstock.push import HUB

    if dest.startswith(HUB):
        from penstock.push_hub import Repository

        Repository.of(dest, None)
    else:
        _ = Folder(dest).fs


def round_steps(recipe: Recipe, number: int, base: Folder | None) -> list[Step]:
    """The steps of a round, parents before children.

    Args:
        number: of the round, from 1.
        base: the folder of the accepted round; None for the first round.

    Raises:
        ConfigError: parts of the recipe do not go together.
    """
    refresh, steps = settings_of(recipe), plan(recipe)
    if base is None:
        return steps
    out: list[Step] = [
        Taken(BEFORE_MODEL, base / MODEL, tables=lambda name: name == "signals", artifacts=("model/", "checkpoints/")),
        Taken(BEFORE_SEQUENCES, base / SEQUENCES, tables=lambda name: name.startswith("validation/")),
    ]
    others = {compared(name) for name in recipe.generate.compare} if recipe.generate is not None else set()
    for step in steps:
        if step.name in others:  # baselines are for the first report
            continue
        if isinstance(step, Generated):
            out += _made(step, recipe, refresh, number, base)
        elif isinstance(step, Documents) and step.made is not None:
            out += _beside_what_was_made(step, base)
        elif isinstance(step, Selection):
            out.append(_by_signals(step, recipe))
        elif isinstance(step, TrainStep):
            out.append(_continued(step, recipe))
        else:
            out.append(step)
    train = next(step.train for step in out if isinstance(step, ContinuedTraining))
    new, old = (SEQUENCES, MODEL), (BEFORE_SEQUENCES, BEFORE_MODEL)
    return [*out, Comparison(COMPARISON, new, old, train, refresh.accept.sequences)]


def _made(step: Generated, recipe: Recipe, refresh: Refresh, number: int, base: Folder) -> list[Step]:
    """What the current corpus covers, and a voyage of the round's own beside it."""
    embedder, embed = step.parents[0], recipe.embed or EmbedConfig()
    seed = derive(recipe.seed, "coverage")
    generate = replace(step.generate, compare=())
    return [
        CoverageStep(COVERAGE, embedder, base / "scored", refresh.coverage, embed, seed),
        Generated(
            step.name, embedder, generate, embed, store=step.store, budget=step.budget, beside=COVERAGE, number=number
        ),
    ]


def _beside_what_was_made(step: Documents, base: Folder) -> list[Step]:
    """The documents with all items of the rounds before, where there are some, beside those of this one."""
    assert step.made is not None
    made, domain = step.made
    before = next((base / name for name in (MADE_SO_FAR, made) if read_manifest(base / name) is not None), None)
    taken = [] if before is None else [Taken(BEFORE_MADE, before, tables=lambda name: name in COLUMNS)]
    documents = copy.copy(step)
    documents.made, documents.parents = (MADE_SO_FAR, domain), (MADE_SO_FAR,)
    return [*taken, MadeSoFar(MADE_SO_FAR, (made, *(one.name for one in taken))), documents]


def _by_signals(step: Selection, recipe: Recipe) -> Step:
    """The selection with what the accepted model saw as one more criterion; all documents once stays that."""
    if step.parameters is None:
        return step
    feedback = (recipe.feedback.weight, recipe.feedback.direction)
    return Selection(
        step.name,
        step.parents[0],
        with_feedback(step.parameters, *feedback),
        step.seed,
        BEFORE_MODEL,
        step.budget,
        search=step.search,
        feedback=feedback if step.search is not None else None,
    )


def _continued(step: TrainStep, recipe: Recipe) -> Step:
    """Training that goes on from the accepted model."""
    sequences, tokenizer = step.parents
    train = replace(recipe.trained_later(), seed=step.train.seed)
    return ContinuedTraining(step.name, sequences, tokenizer, BEFORE_MODEL, train, step.budget)
