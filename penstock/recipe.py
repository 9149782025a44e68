"""The recipe: YAML read into frozen models, with overrides, nearest-name errors and a JSON schema.

Row work that a recipe configures (filters, tokenizer, loop) is its own frozen dataclass; the recipe nests
it, so a parameter is declared, bounded and documented in one place.

    recipe = Recipe.load("recipes/quickstart.yaml", overrides=["train.steps=200"])
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from penstock._recipe_lines import MOST_TOLD, Reading, not_yaml
from penstock._recipe_reading import override_in, problem, strange_keys, unknown_keys
from penstock._yaml import load_yaml
from penstock.embedding.config import EmbedConfig
from penstock.errors import ConfigError
from penstock.generators.recipe import GenerateConfig
from penstock.generators.transforms.config import TransformConfig
from penstock.recipe_sections import (
    Budgets,
    Card,
    Decontamination,
    Deduplicate,
    Feedback,
    Filters,
    Quality,
    Scores,
    Section,
    Select,
    Sequences,
    Source,
    Splits,
    TokenizerSection,
)
from penstock.refreshing.config import CARRIED, Refresh
from penstock.selectors.guard import DEFAULT as MAX_DROPPED
from penstock.selectors.kmeans import GroupConfig
from penstock.training.config import TrainConfig
from penstock.training.group_rl.recipe import GroupRLRecipe

_TRAIN: pydantic.TypeAdapter[TrainConfig] = pydantic.TypeAdapter(TrainConfig)


class Recipe(Section):
    """Everything a run is made from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Names the run; an output folder belongs to one name."""
    seed: Annotated[int, Field(ge=0)] = 0
    output: str | None = None
    """Folder or URL of the run; by default `runs/<name>`."""
    dropped: Literal["ids", "sample", "full"] = "sample"
    """How much text of a dropped row is kept."""
    source: Source
    generate: GenerateConfig | None = None
    """Problems or texts made for this corpus, as the domain `generated`; `{}` makes procedural problems."""
    transform: TransformConfig | None = None
    """Verified variants of the problems of `generate`; `{}` makes those that need no model."""
    filters: Filters = Filters()
    max_dropped: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default={})
    """Share of its rows that a filter, a source or a step may drop before the run stops, by its name; `default` (0.95)
    for all others. Raising it goes on from the work done."""
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontamination | None = None
    """Benchmarks that must not be in the corpus."""
    splits: Splits = Splits()
    embed: EmbedConfig | None = None
    """Vectors of all documents, for `group`."""
    group: GroupConfig | None = None
    """Groups of documents that speak of the same things, found by k-means over `embed`."""
    tokenizer: TokenizerSection = TokenizerSection()
    quality: Quality | None = None
    scores: Scores = Scores()
    """Scores beside `quality` and `language`, each a criterion for `select`."""
    select: Select | None = Select()
    """`null` takes every document once."""
    shard_mb: Annotated[float, Field(gt=0)] = 100.0
    """Megabytes of text in a published shard."""
    card: Card = Card()
    """Licence, description and citation of what is published."""
    sequences: Sequences = Sequences()
    train: TrainConfig | None = None
    beside: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]{0,31}$")], dict[str, Any]] = Field(default={})
    """Models trained beside that of the first round, on the same sequences: a name, and the keys of `train` that are
    different there (`fixed: {policy: null}`)."""
    group_rl: GroupRLRecipe | None = None
    """Learning from groups of answers to verified problems (GRPO and its kin); `{}` goes on from the model of `train`
    with the problems of `transform`."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Selections made; from the second on, training's signals are a criterion."""
    feedback: Feedback = Feedback()
    refresh: Refresh | None = None
    """Rounds of `penstock refresh`, each going on from the last accepted model with what is new; `{}` for the usual."""
    budgets: Budgets = Budgets()

    @pydantic.field_validator("max_dropped")
    @classmethod
    def _with_default(cls, value: dict[str, float]) -> dict[str, float]:
        return {"default": MAX_DROPPED} | value

    def trained_beside(self) -> dict[str, TrainConfig]:
        """The settings of every model of `beside`, by name: those of `train` with the given keys replaced."""
        return {name: self._trained(changes, f"beside.{name}") for name, changes in self.beside.items()}

    def trained_later(self) -> TrainConfig:
        """The settings of a model that goes on in a later round: those of `train` with the keys of `refresh.train`."""
        changes = {} if self.refresh is None else self.refresh.train
        carried = sorted(set(changes) & set(CARRIED))
        if carried:
            raise ConfigError(
                f"refresh.train.{carried[0]}: got another one for later rounds, allowed in train alone: a model goes "
                "on with the one it began with"
            )
        return self._trained(changes, "refresh.train")

    def _trained(self, changes: dict[str, Any], where: str) -> TrainConfig:
        """The settings of `train` with the given keys replaced."""
        if self.train is None:
            raise ConfigError(f"{where}: there is no train section that it could differ from; add one")
        if unknown := list(unknown_keys(TrainConfig, changes, where)):
            raise ConfigError("; ".join(unknown))
        given = _TRAIN.dump_python(self.train, mode="json") | changes
        try:
            return _TRAIN.validate_python(given)
        except pydantic.ValidationError as error:
            raise ConfigError("; ".join(f"{where}.{problem(e)}" for e in error.errors())) from error
        except ConfigError as error:
            raise ConfigError(f"{where}.{error}") from error

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Recipe:
        self.trained_beside()
        if self.refresh is not None:
            self.trained_later()
        if self.rounds > 1 and self.train is None:
            raise ValueError("rounds above 1 read what training saw: add a train section, or set rounds to 1")
        if self.rounds > 1 and self.select is None:
            raise ValueError("rounds above 1 select by what training saw: add a select section, or set rounds to 1")
        if self.select is not None and "quality" in self.select.criteria and self.quality is None:
            raise ValueError("select.criteria names quality: add a quality section, or remove it from the criteria")
        if self.transform is not None and (self.generate is None or not self.generate.makes_problems):
            raise ValueError(
                "transform changes problems that generate makes: add generate: {}, or for a model's prompt: "
                "{shape: problems}; for problems in files there is penstock transform"
            )
        self._check_group_rl()
        if self.group is not None and self.embed is None:
            raise ValueError("group reads vectors: add embed: {} to make them, or remove group")
        if self.deduplicate.semantic is not None and self.group is None:
            raise ValueError(
                "deduplicate.semantic compares documents of one group: add embed: {} and group: {}, or set it to null"
            )
        return self

    def _check_group_rl(self) -> None:
        config = self.group_rl
        if config is None:
            return
        if config.model is None and self.train is None:
            raise ValueError(
                "group_rl starts from a model: add a train section, or name one by group_rl.model, a folder or a run"
            )
        if config.problems is None and (self.generate is None or not self.generate.makes_problems):
            raise ValueError(
                "group_rl learns from verified problems: add generate: {} and transform: {} to make some, or name them "
                "by group_rl.problems, a folder of penstock transform or a file"
            )
        if config.problems is None and self.transform is None and config.settled("pool") == "group":
            raise ValueError(
                f"group_rl.objective {config.objective} pools a question with its variants: add transform: {{}}, or "
                "take grpo"
            )
        if config.model is None and self.train is not None and self.train.model.path is None:
            context = self.train.model.context_length or self.sequences.length
            if config.max_new_tokens >= context:
                raise ValueError(
                    f"group_rl.max_new_tokens: got {config.max_new_tokens}, allowed below {context}, the context of "
                    "the model of train, which holds the question too; lower it, or raise sequences.length"
                )

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file and apply ``a.b=value`` overrides (values are YAML).

        Raises:
            ConfigError: the file is missing or no YAML mapping, a key is unknown (the nearest known one is
                named), or a value is not allowed. It says where, ``file:line:column`` or ``--set``; its notes
                show the lines.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"recipe {path}: cannot be read ({error}); give the path of a YAML file") from error
        return cls.parse(text, overrides, where=str(path))

    @classmethod
    def parse(cls, text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
        """Like ``load``, from YAML text."""
        try:
            value = load_yaml(text)
        except yaml.YAMLError as error:
            raise not_yaml(error, where, text) from error
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: got {type(value).__name__}, allowed a mapping such as `name: my-corpus`")
        for override in overrides:
            override_in(value, override)
        reading = Reading(where, text, value, overrides)
        if unknown := list(islice(strange_keys(cls, value), MOST_TOLD)):
            raise reading.unknown(unknown)
        try:
            return cls.model_validate(value)
        except pydantic.ValidationError as error:
            raise reading.invalid(error) from error
        except ConfigError as error:
            raise reading.refused(error, cls) from error

    def to_yaml(self) -> str:
        """The resolved recipe: every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
