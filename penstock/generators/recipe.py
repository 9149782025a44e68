"""What a recipe or ``penstock generate`` says about making data: ``GenerateConfig``.

    generate: {voyage: {count: 500}}                                              procedural problems, no model
    generate: {prompt: {task: …}, model: {url: …, model: …}}                      a model that follows instructions
    generate: {prefix: {start: …, files: […]}, model: {path: …}}                  a plain language model

One voyage each (``voyager.loop``), or a ``baseline`` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import ConfigError
from penstock.generators.budget import Budget
from penstock.generators.config import GeneratorConfig
from penstock.generators.explorers.prefix import PrefixSettings
from penstock.generators.explorers.prompt import PromptSettings
from penstock.generators.gates.config import GatesConfig
from penstock.generators.voyager.settings import VoyagerSettings

if TYPE_CHECKING:
    from penstock.embedding.base import Embedder
    from penstock.generators.base import LanguageModel
    from penstock.generators.explorers.prefix import Prefix
    from penstock.generators.gates.passing import Examiner
    from penstock.generators.items import Explorer, Gate
    from penstock.sources.base import InputFile
    from penstock.sources.files import FileSource

Kind = Literal["procedural", "prompt", "prefix"]

SUBSET = "subset_select"  # the baseline that chooses afterwards
_SPLIT = 1 << 26
_PACKAGED_RUBRICS = ("creative", "reasoning")


@dataclass(frozen=True, kw_only=True)
class ProceduralConfig:
    """Problems that reasoning-gym makes, with answers that it verifies.

    Args:
        families: that are drawn from; none stands for all usable ones.
        weights: of families, where they are not drawn alike at first.
    """

    families: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strange = sorted(set(self.weights) - set(self.families)) if self.families else []
        if strange:
            raise ConfigError(f"weights: got {', '.join(strange)}, allowed {', '.join(self.families)}; add to families")


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """Texts that a plain language model writes after a prefix.

    Args:
        start: the first prefix, the most general one.
        files: texts whose first words are the prefixes that come after it: paths, folders or patterns.
        column: that has the text.
        words: of a prefix.
        most: texts that are read.
        completion: how texts are drawn.
    """

    start: str
    files: tuple[str, ...]
    column: str = "text"
    words: int = 4
    most: int = 2000
    completion: PrefixSettings = field(default_factory=PrefixSettings)

    def __post_init__(self) -> None:
        if not self.start:
            raise ConfigError("prefix.start: got none, allowed words that a text may begin with; give general ones")
        if not self.files:
            raise ConfigError("prefix.files: got none, allowed one or more; their first words are the other prefixes")
        for name, least in (("words", 1), ("most", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"prefix.{name}: got {getattr(self, name)}, allowed >= {least}; the default is good")

    def source(self) -> FileSource:
        from penstock.sources.files import FileEntry, FileSource

        entries = tuple(FileEntry(path=path, columns={"text": self.column}) for path in self.files)
        return FileSource(name="prefixes", entries=entries)

    def prefixes(self) -> list[Prefix]:
        """The start, and the first words of the texts.

        Raises:
            ConfigError: the files hold no two texts with different first words.
            InputError: a file cannot be read.
        """
        from penstock.generators.explorers.prefix import first_words

        source, texts = self.source(), list[str]()
        for split in source.plan(_SPLIT):
            for rows in source.read(split, dropped="ids"):
                texts += rows.documents["text"].slice(0, self.most - len(texts)).to_pylist()
            if len(texts) >= self.most:
                break
        return first_words(texts, self.words)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What is made, how, and how much may be asked for it.

    One of ``procedural``, ``prompt`` and ``prefix``; none of them is ``procedural: {}``.

    Args:
        procedural: problems without a model.
        prompt: items that ``model`` writes to a task.
        prefix: texts that ``model`` writes after a prefix.
        model: that is asked.
        gates: what items have to pass; by default that of GatesConfig where a model writes, and nothing where not.
        voyage: how many items, and how they are looked for.
        baseline: make them by a baseline in place of Voyager.
        compare: baselines by which as many are made beside, for the report alone; in a recipe.
        budget: of each model that is asked, gates' judges too.
        prices: of the models, for ``budget.max_cost`` and the report.
    """

    procedural: ProceduralConfig | None = None
    prompt: PromptSettings | None = None
    prefix: PrefixConfig | None = None
    model: GeneratorConfig | None = None
    gates: GatesConfig | None = None
    voyage: VoyagerSettings = field(default_factory=VoyagerSettings)
    baseline: str | None = None
    compare: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    prices: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [name for name in ("procedural", "prompt", "prefix") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"generate: got {' and '.join(given)}, allowed one of them; leave the others out")
        if self.kind == "procedural" and self.model is not None:
            raise ConfigError(
                "generate: got a model that nothing asks, allowed with prompt or prefix; say by prompt.task what it "
                "shall write"
            )
        if self.kind != "procedural" and self.model is None:
            raise ConfigError(
                f"generate: got {self.kind} without a model, allowed with one; name it by model.url or model.path, "
                "such as one that `penstock models serve PATH` starts"
            )
        known = self._baselines()
        allowed = ", ".join(known) or "none for prefix"
        if self.baseline is not None and self.baseline not in known:
            raise ConfigError(
                f"generate.baseline: got {self.baseline!r}, allowed {allowed}; choose one or leave it out"
            )
        for name in self.compare:
            if name not in known or self.compare.count(name) > 1:
                raise ConfigError(f"generate.compare: got {name!r}, allowed {allowed}, each once; correct the list")

    @property
    def kind(self) -> Kind:
        if self.prompt is not None:
            return "prompt"
        return "procedural" if self.prefix is None else "prefix"

    @property
    def makes_problems(self) -> bool:
        """Whether items have an answer."""
        return self.kind == "procedural" or (self.prompt is not None and self.prompt.shape == "problems")

    def _baselines(self) -> tuple[str, ...]:
        if self.kind == "procedural":
            from penstock.generators.explorers.baselines_procedural import BASELINES as procedural

            return tuple(procedural)
        from penstock.generators.explorers.baselines_model import BASELINES as prompted

        return tuple(prompted) if self.kind == "prompt" else ()

    @property
    def task(self) -> str:
        """What the items are for, in words."""
        if self.prompt is not None:
            return self.prompt.task
        return self.prefix.start if self.prefix is not None else "problems with a verified answer"

    @property
    def gated(self) -> GatesConfig | None:
        """The gates in force; procedural problems are verified by their makers, so they need none of their own."""
        return GatesConfig() if self.gates is None and self.kind != "procedural" else self.gates

    def explorers(
        self, model: LanguageModel | None, *, seed: int, embedder: Embedder
    ) -> tuple[list[Explorer], VoyagerSettings]:
        """Explorers that a voyage begins with, and its settings, which a baseline changes.

        Args:
            model: that is asked, with its store, meter and budget around it; None for procedural problems.
            embedder: that compares prefixes.

        Raises:
            ConfigError: a family, a prompt file or the prefixes are not acceptable.
        """
        if self.kind == "procedural":
            return self._procedural(seed)
        assert model is not None
        if self.prompt is not None:
            from penstock.generators.explorers.baselines_model import baseline
            from penstock.generators.explorers.prompt import PromptExplorer

            if self.baseline is None:
                return [PromptExplorer.root(model, self.prompt, seed=seed)], self.voyage
            root, settings = baseline(self.baseline, model, self.prompt, seed=seed, settings=self.voyage)
            return [root], settings
        from penstock.generators.explorers.prefix import Choices, PrefixExplorer

        assert self.prefix is not None
        choices = Choices(prefixes=tuple(self.prefix.prefixes()), embedder=embedder)
        start, completion = self.prefix.start, self.prefix.completion
        return [PrefixExplorer.root(model, start, choices, completion, seed=seed)], self.voyage

    def _procedural(self, seed: int) -> tuple[list[Explorer], VoyagerSettings]:
        from penstock.generators.explorers.baselines_procedural import baseline
        from penstock.generators.explorers.families import families
        from penstock.generators.explorers.procedural import Prior, ProceduralExplorer

        config = self.procedural or ProceduralConfig()
        names = config.families or tuple(families())
        prior = Prior.uniform(names)
        if config.weights:
            prior = Prior("given", {name: config.weights.get(name, 1.0) for name in sorted({*names, *config.weights})})
        if self.baseline is None:
            return [ProceduralExplorer.root(prior, seed=seed)], self.voyage
        root, settings = baseline(self.baseline, prior, seed=seed, settings=self.voyage)
        return [root], settings

    def judges(
        self, *, embedder: Embedder, seed: int, folder: str, session: Callable[[LanguageModel], LanguageModel]
    ) -> Sequence[Gate | Examiner]:
        """The gates in force; arguments and errors are those of ``GatesConfig.gates``."""
        if self.gated is None:
            return ()
        told = () if self.prompt is None else self.prompt.told
        return self.gated.gates(task=self.task, embedder=embedder, seed=seed, folder=folder, told=told, session=session)

    def inputs(self) -> list[InputFile]:
        """Files that decide what is made, beside those of models, which their identity names."""
        from penstock.sources.base import InputFile

        found = [] if self.prefix is None else self.prefix.source().inputs()
        if self.gated is None:
            return found
        paths = [one.prompt for one in (self.gated.judge, self.gated.jury) if one is not None]
        paths += [] if self.gated.jury is None else [self.gated.jury.rubric]
        own = [Path(path) for path in paths if path is not None and path not in _PACKAGED_RUBRICS]
        return [*found, *self.gated.inputs(), *map(InputFile.local, own)]

    def said(self, model: LanguageModel | None) -> dict[str, Any]:
        """What decides the items, as JSON values: settings, what the models are and the wording of the prompts."""
        settings = asdict(self)
        for name in ("model", "prices", "gates", "compare"):
            settings.pop(name)  # where models lie and what they cost; what they are follows
        if self.prompt is not None:
            settings["prompt"]["prompts"] = {name: file.digest for name, file in self.prompt.files().items()}
        if self.kind == "procedural":
            from penstock.generators.explorers.families import table_digest

            settings["families"] = table_digest()
        if model is not None:
            settings["model"] = model.identity
        if self.budget.max_cost is not None:
            settings["prices"] = dict(self.prices)  # they decide where the budget ends
        if self.gated is not None:
            gates = asdict(self.gated)
            if self.gated.judge is not None:
                gates["judge"]["model"] = self.gated.judge.model.resolve().identity
            if self.gated.jury is not None:
                gates["jury"]["models"] = [one.resolve().identity for one in self.gated.jury.models]
            settings["gates"] = gates | {"wording": self.gated.wording()}
        return settings
