"""The plan of a run: a recipe's steps in the order they can run.

documents -> deduplicated -> tokenizer ─┐
                          -> quality  ──┴> scored -> selection-1 -> dataset-1
                                                                 -> sequences-1 -> model-1
                                           scored + model-1's signals -> selection-2 -> …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from penstock.errors import ConfigError
from penstock.pipelines.documents import Deduplicated, Documents, Scored
from penstock.pipelines.fit import QualityStep, Tokenizer
from penstock.pipelines.publish import Published
from penstock.pipelines.select import Selection, with_feedback
from penstock.pipelines.sequences import PackedSequences
from penstock.recipe import QualitySet, Recipe, Select, Theta
from penstock.seeding import derive
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.language import LanguageId
from penstock.selectors.normalise import Normalise, NotEmpty
from penstock.selectors.quadmix import Criterion, DomainParameters, QuaDMixParameters
from penstock.selectors.scope import ExceptDomains
from penstock.selectors.splits import AssignSplit
from penstock.sources.files import FileSource
from penstock.step import Step
from penstock.tokenization.bpe import PAD, SPECIAL, BPEConfig
from penstock.training.step import TrainStep

MB = 1_000_000


def sources_of(recipe: Recipe) -> tuple[Any, ...]:
    """The recipe's active sources; the environment stands in only while no files are named."""
    source = recipe.source
    out: list[Any] = []
    if source.files:
        out.append(
            FileSource(
                name="files",
                entries=source.files,
                on_bad_file=source.on_bad_file,
                max_document_bytes=int(source.max_document_mb * MB),
            )
        )
    elif source.environment is not None:
        out.append(source.environment)
    if source.procedural is not None:
        out.append(source.procedural)
    names = [of.name for of in out]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"source: two are called {name!r}; give one of them another name")
    return tuple(out)


def row_work(recipe: Recipe) -> tuple[Any, ...]:
    """Cleaning and filters in the order they run."""
    filters = recipe.filters

    def scoped(work: Any) -> Any:
        return ExceptDomains(inner=work, domains=filters.exempt) if filters.exempt else work

    works: list[Any] = [Normalise(), NotEmpty()]
    works += [scoped(work) for work in (filters.gopher_quality, filters.gopher_repetition) if work is not None]
    works.append(LanguageId())
    if filters.language is not None:
        works.append(scoped(filters.language))
    return tuple(works)


def parameters_of(select: Select) -> QuaDMixParameters:
    """The recipe's selection as QuaDMix parameters; weights are normalised to sum to one."""

    def alpha(weights: dict[str, float]) -> tuple[float, ...]:
        total = sum(weights.get(name, 0.0) for name in select.criteria)
        if total <= 0:
            raise ConfigError(f"select: weights of {', '.join(select.criteria)} are all 0; give one a weight")
        return tuple(weights.get(name, 0.0) / total for name in select.criteria)

    own = {name: criterion.weight for name, criterion in select.criteria.items()}

    def theta(of: Theta) -> DomainParameters:
        given = {name: value for name, value in of.model_dump(exclude={"weights"}).items() if value is not None}
        values = {"lam": select.lam, "omega": select.omega, "eta": select.eta, "eps": select.eps} | given
        return DomainParameters(alpha=alpha(own if of.weights is None else of.weights), **values)

    return QuaDMixParameters(
        criteria=tuple(Criterion(column=f"score.{n}", direction=c.direction) for n, c in select.criteria.items()),
        default=theta(Theta()),
        domains=tuple((name, theta(of)) for name, of in sorted(select.domains.items())),
        eta_mode=select.eta_mode,
        normalizer_scope=select.normalizer_scope,
        rank_at=select.rank_at,
        target_tokens=select.target_tokens,
        copy_cap=select.copy_cap,
        lam_max=select.lam_max,
        omega_max=select.omega_max,
        eps_max=select.eps_max,
    )


def set_sources(name: str, of: QualitySet, recipe: Recipe) -> tuple[Any, ...]:
    """Sources of one side of the quality classifier that are not the corpus itself."""
    out: list[Any] = []
    if of.files:
        out.append(FileSource(name=f"{name}-files", entries=of.files, on_bad_file=recipe.source.on_bad_file))
    if of.environment is not None:
        out.append(of.environment)
    return tuple(out)


def plan(recipe: Recipe) -> list[Step]:
    """All steps of the recipe, parents before children."""
    budgets, seed = recipe.budgets, recipe.seed
    assign = AssignSplit(seed=derive(seed, "split"), validation=recipe.splits.validation, test=recipe.splits.test)
    tokenizer = BPEConfig(
        vocabulary_size=recipe.tokenizer.vocabulary_size, min_frequency=recipe.tokenizer.min_frequency
    )
    steps: list[Step] = [
        Documents("documents", sources_of(recipe), row_work(recipe), budgets.documents),
        Deduplicated("deduplicated", "documents", ExactDuplicates(), assign, budgets.deduplicated),
        Tokenizer(
            "tokenizer",
            "deduplicated",
            tokenizer,
            int(recipe.tokenizer.sample_mb * MB),
            derive(seed, "tokenizer"),
            budgets.tokenizer,
        ),
    ]
    if recipe.quality is not None:
        positive, negative = recipe.quality.positive, recipe.quality.negative
        steps.append(
            QualityStep(
                "quality",
                "deduplicated",
                positive=(positive.domains, set_sources("positive", positive, recipe)),
                negative=(negative.domains, set_sources("negative", negative, recipe)),
                works=row_work(recipe)[:2],
                assign=assign,
                rows_per_side=recipe.quality.rows_per_side,
                seed=derive(seed, "quality"),
                budget=budgets.quality,
            )
        )
    quality = "quality" if recipe.quality is not None else None
    steps.append(Scored("scored", "deduplicated", "tokenizer", quality, budgets.scored))
    parameters = parameters_of(recipe.select)
    for number in range(1, recipe.rounds + 1):
        last = f"model-{number - 1}" if number > 1 else None
        wanted = (
            parameters if last is None else with_feedback(parameters, recipe.feedback.weight, recipe.feedback.direction)
        )
        selection, dataset, sequences = f"selection-{number}", f"dataset-{number}", f"sequences-{number}"
        # one seed for all rounds: a document's coin stays, so what moves is what the scores moved
        steps.append(Selection(selection, "scored", wanted, derive(seed, "select"), last, budgets.selection))
        title = f"{recipe.name} (round {number})" if recipe.rounds > 1 else recipe.name
        steps.append(Published(dataset, "scored", selection, title, int(recipe.shard_mb * MB), budgets.dataset))
        if recipe.train is None:
            continue
        steps.append(
            PackedSequences(
                sequences,
                "scored",
                selection,
                length=recipe.sequences.length,
                tail=recipe.sequences.tail,
                min_segment=recipe.sequences.min_segment,
                pad_id=SPECIAL.index(PAD),
                seed=derive(seed, "pack"),
                budget=budgets.sequences,
            )
        )
        train = replace(recipe.train, seed=derive(seed, "train", recipe.train.seed))
        steps.append(TrainStep(f"model-{number}", sequences, "tokenizer", train, budgets.model))
    return steps


def needed(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """The named steps and all they are made from, in order.

    Raises:
        ConfigError: the recipe has no step of that name.
    """
    known = {step.name: step for step in steps}
    wanted: set[str] = set()

    def add(name: str) -> None:
        if name not in known:
            raise ConfigError(f"step {name}: this recipe has {', '.join(known)}")
        if name not in wanted:
            wanted.add(name)
            for parent in known[name].parents:
                add(parent)

    for name in names:
        add(name)
    return [step for step in steps if step.name in wanted]
