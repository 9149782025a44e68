"""The plan of a run: a recipe's steps in the order they can run.

generated -> transformed -> documents, beside what the sources hold

documents -> deduplicated -> tokenizer ─┐
                          -> quality  ──┴> scored -> selection-1 -> dataset-1
                                                                 -> sequences-1 -> model-1
                                           scored + model-1's signals -> selection-2 -> …

transformed + model-1 -> policy-OBJECTIVE
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock.embedding.config import EmbedConfig
from penstock.errors import ConfigError
from penstock.pipelines.criteria import PerplexityStep, TrainedQuality
from penstock.pipelines.decontaminate import BenchmarkFiles, Benchmarks, Decontaminated
from penstock.pipelines.deduplicate import Deduplicated
from penstock.pipelines.documents import Documents, Scored
from penstock.pipelines.domains import check_targets
from penstock.pipelines.embed import Embedded, EmbedderStep
from penstock.pipelines.fit import ByteTokenizer, QualityStep, Tokenizer
from penstock.pipelines.group import Grouped, Groups
from penstock.pipelines.publish import Published
from penstock.pipelines.search import Search
from penstock.pipelines.select import Selection, with_feedback
from penstock.pipelines.sequences import PackedSequences
from penstock.pipelines.trim import Trimmed
from penstock.recipe import Recipe
from penstock.recipe_sections import QualitySet, Select, Theta
from penstock.seeding import derive
from penstock.selectors.benchmark_index import IndexSettings
from penstock.selectors.decontaminate import Decontaminate
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.kmeans import SIMILARITY
from penstock.selectors.language import LanguageId
from penstock.selectors.normalise import Normalise, NotEmpty
from penstock.selectors.quadmix import Criterion, DomainParameters, QuaDMixParameters
from penstock.selectors.quality import QualityScore
from penstock.selectors.scope import except_domains
from penstock.selectors.scorers.base import PREFIX, Direction, declared
from penstock.selectors.splits import AssignSplit
from penstock.sources.files import FileSource
from penstock.step import Step
from penstock.tokenization.bpe import PAD, SPECIAL, BPEConfig
from penstock.training.group_rl.step import policy_steps
from penstock.training.step import TrainStep

MB = 1_000_000
MADE = "generated"  # source and domain of what the run makes


def sources_of(recipe: Recipe) -> tuple[Any, ...]:
    """The recipe's active sources; the environment stands in only while no files and no data sets are named."""
    source = recipe.source
    out: list[Any] = [
        FileSource(
            name=name,
            entries=entries,
            on_bad_file=source.on_bad_file,
            max_document_bytes=int(source.max_document_mb * MB),
        )
        for name, entries in (("files", source.files), ("hub", source.hub))
        if entries
    ]
    if not out and source.environment is not None:
        out.append(source.environment)
    if source.procedural is not None:
        out.append(source.procedural)
    names = [of.name for of in out]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"source: two are called {name!r}; give one of them another name")
    return tuple(out)


def cleaning(recipe: Recipe) -> tuple[Any, ...]:
    """What makes text clean before anything looks at it."""
    repair = recipe.filters.repair
    return (*((repair,) if repair is not None else ()), Normalise(), NotEmpty())


def row_work(recipe: Recipe) -> tuple[Any, ...]:
    """Cleaning and filters in the order they run."""
    filters = recipe.filters

    def scoped(*works: Any) -> list[Any]:
        return [except_domains(work, filters.exempt) for work in works if work is not None]

    works = [*cleaning(recipe), *(work for work in (filters.urls, filters.licenses) if work is not None)]
    works += scoped(filters.gopher_quality, filters.gopher_repetition)
    works += [LanguageId(), *scoped(filters.language)]
    # what edits lines comes after the rules that judge a page as it is
    for rules in (filters.refinedweb, filters.c4):
        works += [] if rules is None else scoped(*rules.works())
    works += scoped(filters.fineweb, filters.words)
    works += [] if filters.pii is None else filters.pii.works()
    return tuple(works)


def directions_of(recipe: Recipe) -> dict[str, Direction | None]:
    """Every criterion that this recipe makes, and the end of it that is good; None where its scorer names none."""
    known: dict[str, Direction | None] = dict(declared([LanguageId]))
    if recipe.quality is not None:
        known |= declared([QualityScore])
    if recipe.group is not None:
        known[SIMILARITY.removeprefix(PREFIX)] = "higher"
    return known | recipe.scores.directions() | dict.fromkeys(recipe.scores.undirected())


def parameters_of(select: Select, known: Mapping[str, Direction | None]) -> QuaDMixParameters:
    """The recipe's selection as QuaDMix parameters; weights are normalised to sum to one.

    Args:
        known: ``directions_of`` the recipe.

    Raises:
        ConfigError: a criterion that nothing makes, or one without a direction.
    """
    for name, criterion in select.criteria.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"select.criteria: got {name}, allowed {', '.join(sorted(known))}; {hint}add the section of scores "
                "that makes it, or remove it"
            )
        if criterion.direction is None and known[name] is None:
            raise ConfigError(
                f"select.criteria.{name}.direction: got none for a score of which no end is good by itself, allowed "
                "higher or lower; say which you want"
            )

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
        criteria=tuple(
            Criterion(column=PREFIX + name, direction=criterion.direction or known[name] or "higher")
            for name, criterion in select.criteria.items()
        ),
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


def compared(baseline: str) -> str:
    """The step that makes items by a baseline, to compare with."""
    return f"generated-{baseline}"


def making(recipe: Recipe) -> list[Step]:
    """The steps that make problems or texts; the documents read the last one."""
    generate, budgets = recipe.generate, recipe.budgets
    if generate is None:
        return []
    from penstock.generators.answers import default_store
    from penstock.pipelines.generate import GENERATED, Generated

    embed, store = recipe.embed or EmbedConfig(), default_store()
    steps: list[Step] = [EmbedderStep("embedder", embed.model, budgets.embedder)]
    for baseline in (None, *generate.compare):
        name = GENERATED if baseline is None else compared(baseline)
        of = generate if baseline is None else replace(generate, baseline=baseline, compare=())
        steps.append(Generated(name, "embedder", of, embed, store=store, budget=budgets.generated))
    if recipe.transform is not None:
        from penstock.pipelines.transform import TRANSFORMED, Transformed

        embedder = None if recipe.transform.embedding_band is None else "embedder"
        steps.append(
            Transformed(
                TRANSFORMED,
                GENERATED,
                recipe.transform,
                embedder=embedder,
                embed=embed,
                store=store,
                budget=budgets.transformed,
            )
        )
    return steps


def set_sources(name: str, of: QualitySet, recipe: Recipe) -> tuple[Any, ...]:
    """Sources of one side of the quality classifier that are not the corpus itself."""
    out: list[Any] = []
    if of.files:
        out.append(FileSource(name=f"{name}-files", entries=of.files, on_bad_file=recipe.source.on_bad_file))
    if of.environment is not None:
        out.append(of.environment)
    return tuple(out)


def grouping(recipe: Recipe, corpus: str) -> list[Step]:
    """The steps that embed and group the documents of ``corpus``; the last one is the corpus then, if there is one."""
    budgets, steps = recipe.budgets, list[Step]()
    if recipe.embed is not None:
        if recipe.generate is None:  # else it stands before what is generated
            steps.append(EmbedderStep("embedder", recipe.embed.model, budgets.embedder))
        steps.append(Embedded("embedded", corpus, "embedder", recipe.embed, budgets.embedded))
    if recipe.group is not None:
        seed = derive(recipe.seed, "group")
        steps.append(Groups("groups", corpus, "embedded", recipe.group, seed, budgets.groups))
        semantic, as_domain = recipe.deduplicate.semantic, recipe.group.as_domain
        steps.append(
            Grouped(
                "grouped",
                corpus,
                "embedded",
                "groups",
                as_domain=as_domain,
                semantic=semantic,
                budget=budgets.grouped,
            )
        )
    return steps


def decontamination(recipe: Recipe, corpus: str) -> list[Step]:
    """The steps that index the benchmarks and screen the documents of ``corpus``; none without benchmarks."""
    given = recipe.decontaminate
    if given is None:
        return []
    index = IndexSettings(
        **{name: getattr(given, name) for name in ("ngram", "min_words", "common_benchmarks", "max_matches")},
        boilerplate=given.boilerplate,
    )
    options = {name: getattr(given, name) for name in ("policy", "near", "min_coverage", "window", "min_piece")}
    work = Decontaminate(path="", digest="", index=index, max_cuts=given.max_cuts, **options)
    files = tuple(
        BenchmarkFiles(name=b.name, entries=b.files, question=b.question, answer=b.answer) for b in given.benchmarks
    )
    return [
        Benchmarks("benchmarks", files, index, recipe.budgets.benchmarks),
        Decontaminated("decontaminated", corpus, "benchmarks", work, recipe.budgets.decontaminated),
    ]


def searching(recipe: Recipe, box: QuaDMixParameters | None) -> list[Step]:
    """The step that looks for the parameters of the selection, where the recipe has one."""
    search = None if recipe.select is None else recipe.select.search
    if search is None or box is None:
        return []
    source = None
    if search.target.files:
        source = FileSource(name="target", entries=search.target.files, on_bad_file=recipe.source.on_bad_file)
    elif not recipe.splits.validation:
        raise ConfigError(
            "select.search.target.domains: losses are taken on their validation split, which splits.validation 0 "
            "leaves empty; raise it, or give target.files"
        )
    seed, works = derive(recipe.seed, "search"), cleaning(recipe)
    step = Search(
        "search",
        "scored",
        "tokenizer",
        search,
        box,
        source=source,
        works=works,
        seed=seed,
        budget=recipe.budgets.search,
    )
    return [step]


def deduplicated(recipe: Recipe, assign: AssignSplit) -> Step:
    """Exact duplicates, and near ones where the recipe wants them looked for."""
    how = recipe.deduplicate
    return Deduplicated(
        "deduplicated",
        "documents",
        ExactDuplicates(survivor=how.survivor),
        assign,
        recipe.budgets.deduplicated,
        minhash=None if how.near is None else how.near.minhash,
        action="drop" if how.near is None else how.near.action,
        history=how.history,
    )


def special_tokens(recipe: Recipe) -> tuple[str, ...]:
    """Tokens of the recipe, or else the markers of all chat templates of its sources, each once."""
    if recipe.tokenizer.special is not None:
        return recipe.tokenizer.special
    entries = (*recipe.source.files, *recipe.source.hub)
    chats = [entry.rendering.chat for entry in entries if entry.rendering is not None]
    return tuple(dict.fromkeys(marker for chat in chats for marker in chat.special))


def tokenizer_step(recipe: Recipe, corpus: str) -> Step:
    """What makes the tokenizer; ``corpus`` names the step of the documents to learn from."""
    wanted = recipe.tokenizer
    if wanted.kind == "bytes":
        return ByteTokenizer("tokenizer", special_tokens(recipe), recipe.budgets.tokenizer)
    config = BPEConfig(
        vocabulary_size=wanted.vocabulary_size,
        min_frequency=wanted.min_frequency,
        special=special_tokens(recipe),
        digits=wanted.digits,
    )
    sample_bytes, seed = int(wanted.sample_mb * MB), derive(recipe.seed, "tokenizer")
    return Tokenizer("tokenizer", corpus, config, sample_bytes, seed, recipe.budgets.tokenizer)


def check_guarded(steps: Sequence[Step], allowed: Iterable[str]) -> None:
    """Refuse names of ``max_dropped`` that nothing of this plan bears: a misspelt one would guard nothing.

    Raises:
        ConfigError: with the nearest names.
    """
    known = sorted({name for step in steps for name in step.guarded()} | {"default"})
    for name in allowed:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(known)}"
            raise ConfigError(f"max_dropped.{name}: no step, source or filter of this recipe has this name; {hint}")


def plan(recipe: Recipe) -> list[Step]:
    """All steps of the recipe, parents before children.

    Raises:
        ConfigError: parts of the recipe do not go together.
    """
    steps = all_steps(recipe)
    check_guarded(steps, recipe.max_dropped)
    check_targets(recipe, sources_of(recipe), () if recipe.generate is None else (MADE,))
    return steps


def all_steps(recipe: Recipe) -> list[Step]:
    """The steps of ``plan``, before they are checked together."""
    budgets, seed = recipe.budgets, recipe.seed
    assign = AssignSplit(seed=derive(seed, "split"), validation=recipe.splits.validation, test=recipe.splits.test)
    steps = making(recipe)
    made = None if recipe.generate is None else ("generated" if recipe.transform is None else "transformed", MADE)
    steps += [
        Documents("documents", sources_of(recipe), row_work(recipe), budgets.documents, made=made),
        deduplicated(recipe, assign),
    ]
    corpus = "deduplicated"  # the documents so far: what comes next reads the step of this name
    levels = (recipe.deduplicate.lines, recipe.deduplicate.paragraphs, recipe.deduplicate.substrings)
    if wanted_levels := tuple(level for level in levels if level is not None):
        steps.append(
            Trimmed("trimmed", corpus, wanted_levels, recipe.deduplicate.min_characters, recipe.budgets.trimmed)
        )
        corpus = "trimmed"
    steps += decontamination(recipe, corpus)
    corpus = "decontaminated" if recipe.decontaminate is not None else corpus
    steps += grouping(recipe, corpus)
    corpus = steps[-1].name if recipe.group is not None else corpus
    steps.append(tokenizer_step(recipe, corpus))
    if recipe.quality is not None and recipe.quality.model is not None:
        steps.append(TrainedQuality("quality", recipe.quality.model, budgets.quality))
    elif recipe.quality is not None and recipe.quality.positive is not None:
        positive, negative = recipe.quality.positive, recipe.quality.negative
        steps.append(
            QualityStep(
                "quality",
                corpus,
                positive=(positive.domains, set_sources("positive", positive, recipe)),
                negative=(negative.domains, set_sources("negative", negative, recipe)),
                works=cleaning(recipe),
                assign=assign,
                rows_per_side=recipe.quality.rows_per_side,
                seed=derive(seed, "quality"),
                budget=budgets.quality,
            )
        )
    if recipe.scores.perplexity is not None:
        reference = recipe.scores.perplexity.reference
        steps.append(
            PerplexityStep(
                "perplexity",
                corpus,
                reference=(reference.domains, set_sources("reference", reference, recipe)),
                works=cleaning(recipe),
                assign=assign,
                model=recipe.scores.perplexity.model,
                budget=budgets.perplexity,
            )
        )
    steps.append(
        Scored(
            "scored",
            corpus,
            "tokenizer",
            "quality" if recipe.quality is not None else None,
            budgets.scored,
            perplexity="perplexity" if recipe.scores.perplexity is not None else None,
            scorers=recipe.scores.settings(),
        )
    )
    parameters = None if recipe.select is None else parameters_of(recipe.select, directions_of(recipe))
    steps += searching(recipe, parameters)
    search = "search" if steps[-1].name == "search" else None
    for number in range(1, recipe.rounds + 1):
        last = f"model-{number - 1}" if number > 1 else None
        wanted = parameters
        feedback = None if last is None else (recipe.feedback.weight, recipe.feedback.direction)
        if feedback is not None and parameters is not None:
            wanted = with_feedback(parameters, *feedback)
        selection, dataset, sequences = f"selection-{number}", f"dataset-{number}", f"sequences-{number}"
        # one seed for all rounds: a document's coin stays, so what moves is what the scores moved
        steps.append(
            Selection(
                selection,
                "scored",
                wanted,
                derive(seed, "select"),
                last,
                budgets.selection,
                search=search,
                feedback=feedback if search is not None else None,
            )
        )
        title = f"{recipe.name} (round {number})" if recipe.rounds > 1 else recipe.name
        published = (dataset, "scored", selection, title, int(recipe.shard_mb * MB), budgets.dataset)
        steps.append(Published(*published, said=recipe.card.said()))
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
        models = {f"model-{number}": recipe.train}
        if number == 1:
            models |= {f"model-1-{name}": config for name, config in recipe.trained_beside().items()}
        for name, config in models.items():
            train = replace(config, seed=derive(seed, "train", config.seed))
            steps.append(TrainStep(name, sequences, "tokenizer", train, budgets.model))
    return [*steps, *policy_steps(recipe)]


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
