"""The recipe: YAML read into frozen models, with overrides, nearest-name errors and a JSON schema.

Row work that a recipe configures (filters, tokenizer, loop) is its own frozen dataclass; the recipe nests
it, so a parameter is declared, bounded and documented in one place.

    recipe = Recipe.load("recipes/quickstart.yaml", overrides=["train.steps=200"])
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from penstock.errors import ConfigError
from penstock.selectors.gopher import GopherQuality, GopherRepetition
from penstock.selectors.language import LanguageFilter
from penstock.sources.environment import EnvironmentSource
from penstock.sources.files import FileEntry
from penstock.sources.procedural import ProceduralSource
from penstock.training.config import TrainConfig


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def _one_or_many(value: Any) -> Any:
    """`files: a.jsonl`, `files: [a.jsonl, b.txt]` and full entries all mean a list of entries."""
    value = [value] if isinstance(value, (str, dict)) else value
    if isinstance(value, (list, tuple)):
        return [{"path": v} if isinstance(v, str) else v for v in value]
    return value


class Source(_Model):
    """Where documents come from. `environment` stands in only while no `files` are named."""

    files: tuple[FileEntry, ...] = ()
    """Your own files: a path, a list of paths, or entries with options."""
    environment: EnvironmentSource | None = None
    """This Python installation as a corpus; read only while `files` is empty."""
    procedural: ProceduralSource | None = None
    """Problems with verified answers, made on the spot."""
    on_bad_file: Literal["drop", "fail"] = "fail"
    """What a truncated or corrupt file does: count a drop and go on, or stop the run."""
    max_document_mb: Annotated[float, Field(gt=0)] = 64.0
    """Longer documents are dropped with the reason `too_large`."""

    _paths = pydantic.field_validator("files", mode="before")(_one_or_many)

    @pydantic.model_validator(mode="after")
    def _some(self) -> Source:
        if not self.files and self.environment is None and self.procedural is None:
            raise ValueError("got no source, allowed files, environment and procedural; for a start: environment: {}")
        return self


class Filters(_Model):
    """Row filters in the order they run; `null` switches one off."""

    gopher_quality: GopherQuality | None = GopherQuality()
    gopher_repetition: GopherRepetition | None = GopherRepetition()
    language: LanguageFilter | None = None
    exempt: tuple[str, ...] = ()
    """Domains that all filters let pass: code and problems break rules made for prose."""


class Splits(_Model):
    """Shares held out, by hash of the content, before anything is fitted."""

    validation: float = 0.02
    test: float = 0.01


class TokenizerSection(_Model):
    """A byte-level BPE trained on a sample of the train split."""

    vocabulary_size: int = 4096
    min_frequency: int = 2
    sample_mb: Annotated[float, Field(gt=0)] = 8.0
    """UTF-8 megabytes of text sampled for training."""


class QualitySet(_Model):
    """One side of the quality classifier's training set: domains of the corpus, or a source of its own."""

    domains: tuple[str, ...] = ()
    """Domains of the corpus; `*` is all of them."""
    files: tuple[FileEntry, ...] = ()
    environment: EnvironmentSource | None = None

    _paths = pydantic.field_validator("files", mode="before")(_one_or_many)

    @pydantic.model_validator(mode="after")
    def _some(self) -> QualitySet:
        if not self.domains and not self.files and self.environment is None:
            raise ValueError(
                "got an empty set, allowed domains, files or environment; for the whole corpus: domains: ['*']"
            )
        return self


class Quality(_Model):
    """A classifier trained from a positive and a negative set."""

    positive: QualitySet
    negative: QualitySet = QualitySet(domains=("*",))
    rows_per_side: Annotated[int, Field(ge=20)] = 5000
    """Documents sampled per side."""


class Criterion(_Model):
    """One score of the selection and how much it weighs."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    direction: Literal["higher", "lower"] = "higher"
    """Which end of the score is wanted."""


class Theta(_Model):
    """QuaDMix parameters of one domain; what is left out is as in `select`."""

    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Criterion to weight; the criteria not named weigh 0."""
    lam: float | None = None
    omega: float | None = None
    eta: float | None = None
    eps: float | None = None


class Select(_Model):
    """QuaDMix sampling with given parameters (arXiv 2504.16511)."""

    criteria: dict[str, Criterion] = {"quality": Criterion()}
    """Score name (without `score.`) to its weight and direction."""
    lam: float = 20.0
    """Steepness: how sharply copies fall with the rank."""
    omega: float = 0.6
    """Rank (token-weighted share of the domain, best first) up to which documents are taken."""
    eta: float = 1.0
    """Scaling: exponent of the sampling value, or its factor."""
    eps: float = 0.0
    """Expected copies of every document, whatever its rank."""
    eta_mode: Literal["exponent", "product"] = "exponent"
    normalizer_scope: Literal["global", "domain"] = "global"
    rank_at: Literal["inclusive", "midpoint", "exclusive"] = "inclusive"
    lam_max: float = 1000.0
    omega_max: float = 1.0
    """The paper's box ends at 0.1, which suits corpora of hundreds of billions of tokens."""
    eps_max: float = 1.0
    domains: dict[str, Theta] = {}
    """Parameters of single domains."""
    target_tokens: Annotated[int, Field(ge=1)] | None = None
    """Scale the expected copies to this many training tokens."""
    copy_cap: Annotated[float, Field(gt=0)] | None = None
    """Most expected copies of one document."""

    @pydantic.model_validator(mode="after")
    def _named(self) -> Select:
        for domain, theta in self.domains.items():
            unknown = set(theta.weights or ()) - set(self.criteria)
            if unknown:
                raise ValueError(
                    f"domains.{domain}.weights: got {', '.join(sorted(unknown))}, allowed {', '.join(self.criteria)}"
                )
        return self


class Feedback(_Model):
    """From the second round on: what training saw of a document joins the selection as a criterion."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    direction: Literal["higher", "lower"] = "higher"
    """`higher` takes more of what the model has not learned yet (large excess loss), `lower` more of what it has."""


class Sequences(_Model):
    """Packing into training sequences."""

    length: Annotated[int, Field(ge=8, le=1 << 20)] = 256
    tail: Literal["pad", "cut"] = "pad"
    """Last, partial sequence of a domain: padded, or cut and counted."""
    min_segment: Annotated[int, Field(ge=1)] = 1
    """Shorter pieces of a document at a sequence border are cut and counted."""


class Budgets(_Model):
    """Seconds a step may take; shown beside what it took, not enforced."""

    documents: float | None = None
    deduplicated: float | None = None
    tokenizer: float | None = None
    quality: float | None = None
    scored: float | None = None
    selection: float | None = None
    dataset: float | None = None
    sequences: float | None = None
    model: float | None = None


class Recipe(_Model):
    """Everything a run is made from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Names the run; an output folder belongs to one name."""
    seed: Annotated[int, Field(ge=0)] = 0
    output: str | None = None
    """Folder or URL of the run; by default `runs/<name>`."""
    dropped: Literal["ids", "sample", "full"] = "sample"
    """How much text of a dropped row is kept."""
    source: Source
    filters: Filters = Filters()
    splits: Splits = Splits()
    tokenizer: TokenizerSection = TokenizerSection()
    quality: Quality | None = None
    select: Select = Select()
    shard_mb: Annotated[float, Field(gt=0)] = 100.0
    """Megabytes of text in a published shard."""
    sequences: Sequences = Sequences()
    train: TrainConfig | None = None
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Selections made; from the second on, training's signals are a criterion."""
    feedback: Feedback = Feedback()
    budgets: Budgets = Budgets()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rounds > 1 and self.train is None:
            raise ValueError("rounds above 1 read what training saw: add a train section, or set rounds to 1")
        if "quality" in self.select.criteria and self.quality is None:
            raise ValueError("select.criteria names quality: add a quality section, or remove it from the criteria")
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file and apply ``a.b=value`` overrides (values are YAML).

        Raises:
            ConfigError: the file is missing or no YAML mapping, a key is unknown (the nearest known one is
                named), or a value is not allowed.
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
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{where}: not YAML: {error}") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: got {type(value).__name__}, allowed a mapping such as `name: my-corpus`")
        for override in overrides:
            _set(value, override)
        unknown = list(_unknown(cls, value, ""))
        if unknown:
            raise ConfigError(f"{where}: " + "; ".join(unknown))
        try:
            return cls.model_validate(value)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{where}: " + "; ".join(_problem(e) for e in error.errors())) from error
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def to_yaml(self) -> str:
        """The resolved recipe: every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _problem(error: Any) -> str:
    path = ".".join(str(p) for p in error["loc"] if not str(p)[:1].isupper() and "[" not in str(p))
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    plain = got is None or isinstance(got, (str, int, float, bool))
    return f"{path or 'recipe'}: {message}" + (f" (got {got!r})" if plain and error["type"] != "value_error" else "")


def _set(value: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=c`` in place."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: allowed KEY.KEY=VALUE, for example train.steps=200")
    try:
        new = yaml.safe_load(text) if text.strip() else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    for key in keys[:-1]:
        inner = value.get(key)
        if not isinstance(inner, dict):
            inner = value[key] = {}
        value = inner
    value[keys[-1]] = new


def _unknown(kind: Any, value: Any, path: str) -> Iterator[str]:
    """Keys of ``value`` that ``kind`` does not have, each with the nearest name it does have."""
    if isinstance(value, (list, tuple)):
        inner = [a for a in _options(kind) if get_origin(a) in (tuple, list)]
        for option in inner:
            for index, item in enumerate(value):
                yield from _unknown(get_args(option)[0], item, f"{path}.{index}")
        return
    if not isinstance(value, dict):
        return
    for option in _options(kind):
        if get_origin(option) in (dict, Mapping):
            for key, item in value.items():
                yield from _unknown(get_args(option)[1], item, f"{path}.{key}")
            return
    for option in _options(kind):
        known = _fields(option)
        if known is None:
            continue
        for key, item in value.items():
            here = f"{path}.{key}" if path else str(key)
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
                yield f"unknown key {here}; {hint}"
            else:
                yield from _unknown(known[key], item, here)
        return


def _options(kind: Any) -> list[Any]:
    """The alternatives of a union, with annotations stripped."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [o for a in get_args(kind) for o in _options(a)]
    return [kind]


def _fields(kind: Any) -> dict[str, Any] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {f.name: hints[f.name] for f in fields(kind) if f.init}
    return None
