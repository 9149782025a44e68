"""What a recipe says about scorers that read a model, and how its words become scorers.

Each setting here has ``said()``, what of it decides a score without saying where a file lies, for the key of the step;
``files()``, the model's files, whose bytes are in the key too; and ``scorer()``, the annotator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from penstock.generators.answers import default_store
from penstock.generators.config import GeneratorConfig
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.selectors.scorers.askllm import PROMPT, AskLLM
from penstock.selectors.scorers.base import PREFIX, Direction
from penstock.selectors.scorers.classifier import ClassifierScore
from penstock.work import describe

_MODEL_LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A scorer that needs nothing besides its own parameters."""

    of: Any
    libraries: tuple[str, ...] = ()

    @property
    def directions(self) -> Mapping[str, Direction]:
        directions: Mapping[str, Direction] = self.of.directions
        return directions

    def said(self) -> dict[str, Any]:
        return describe(self.of)

    def files(self) -> list[Path]:
        return []

    def scorer(self) -> Any:
        return self.of


@dataclass(frozen=True, kw_only=True)
class AskLLMConfig:
    """A language model that is asked whether a text is worth learning from.

    Args:
        model: which model: ``path`` of a folder, or ``url`` and ``model`` of a server.
        style: ``prompt`` for a base model, ``chat`` for one that was trained on conversations.
        prompt: the question, with ``{text}``, and ``{mark}`` for a mark that the text cannot hold.
        characters: so many characters of a text's beginning are shown.
        yes: what the first token of the answer may read for yes.
        no: what it may read for no.
        over: P(yes) among the two ``answers``, or of ``all`` tokens as in the paper.
        alternatives: likeliest tokens that are asked for.
        max_failed: share of a batch that may fail before the run stops.
        store: SQLite file of kept answers; None is ``penstock/answers.sqlite`` of ``$XDG_CACHE_HOME``.
    """

    model: GeneratorConfig
    style: Literal["prompt", "chat"] = "prompt"
    prompt: str = PROMPT
    characters: int = 2000
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    over: Literal["answers", "all"] = "answers"
    alternatives: int = 20
    max_failed: float = 0.5
    store: str | None = None

    libraries: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._scorer(None)  # its checks are the same

    def _scorer(self, model: Any) -> AskLLM:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "store")}
        return AskLLM(model=model, store=self.store or default_store(), **own)

    @property
    def directions(self) -> Mapping[str, Direction]:
        return AskLLM.directions

    def said(self) -> dict[str, Any]:
        """The question, and the server's model; a folder's is in the files, and what runs it here."""
        own = asdict(self) | {"revision": AskLLM.revision}
        for name in ("store", "max_failed", "model"):
            own.pop(name)
        server = {"model": self.model.model, "revision": self.model.revision}
        folder = "files" if self.model.engine == "transformers" else {"vllm": dict(self.model.arguments)}
        return own | {"model": server if self.model.url is not None else folder}

    def files(self) -> list[Path]:
        return [] if self.model.path is None else _model_files(self.model.path)

    def scorer(self) -> AskLLM:
        return self._scorer(self.model.resolve())


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A sequence classifier in a local Hugging Face folder.

    Args:
        path: the folder; safetensors only.
        label: name or number of the label whose probability is the score; None for a regression head.
        direction: which end is good.
        max_tokens: of a text.
        batch_tokens: of one forward pass.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
    """

    path: str
    label: str | int | None = None
    direction: Literal["higher", "lower"] = "higher"
    max_tokens: int = 512
    batch_tokens: int = 8192
    device: Literal["cpu", "cuda", "auto"] = "cpu"

    def __post_init__(self) -> None:
        self.named("x", "", self.path)  # its checks are the same

    def named(self, criterion: str, digest: str, path: str) -> ClassifierScore:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "path"}
        return ClassifierScore(criterion=criterion, path=path, digest=digest, **own)


@dataclass(frozen=True, kw_only=True)
class NamedClassifier:
    """A classifier and the criterion that it makes."""

    criterion: str
    of: ClassifierConfig

    libraries: ClassVar[tuple[str, ...]] = _MODEL_LIBRARIES

    @property
    def directions(self) -> Mapping[str, Direction]:
        return self.of.named(self.criterion, "", "").directions

    def said(self) -> dict[str, Any]:
        same = {"label": self.of.label, "max_tokens": self.of.max_tokens}  # the direction moves no score
        return {"criterion": self.criterion, "revision": ClassifierScore.revision, **same}

    def files(self) -> list[Path]:
        return _model_files(self.of.path)

    def scorer(self) -> ClassifierScore:
        from penstock.scoring.model import fingerprint, resolve

        folder = str(resolve(self.of.path))
        return self.of.named(self.criterion, fingerprint(folder), folder)


@dataclass(frozen=True, kw_only=True)
class LmConfig:
    """Scores of one forward pass of a causal language model (``score.lm_*``).

    Args:
        model: its folder, or a run of penstock with a model.
        max_tokens: tokens of a text that are read.
        min_k: share of the lowest tokens of Min-K and Min-K++.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        dtype: of the weights.
        batch_tokens: tokens of one forward pass; None is what suits the device.
    """

    model: str
    max_tokens: int = LanguageModelScores.max_tokens
    min_k: float = LanguageModelScores.min_k
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: int | None = None

    libraries: ClassVar[tuple[str, ...]] = _MODEL_LIBRARIES

    def __post_init__(self) -> None:
        self._scorer("")  # its checks are the same

    def _scorer(self, digest: str) -> LanguageModelScores:
        return LanguageModelScores(digest=digest, **{f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def directions(self) -> Mapping[str, Direction]:
        return {
            column: "lower" if end == "lower" else "higher" for column, end in LanguageModelScores.directions.items()
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """Criteria that it makes."""
        return tuple(c.removeprefix(PREFIX) for c in LanguageModelScores.adds if c.startswith(PREFIX))

    def said(self) -> dict[str, Any]:
        return self._scorer("").decides() | {"revision": LanguageModelScores.revision}

    def files(self) -> list[Path]:
        return _model_files(self.model)

    def scorer(self) -> LanguageModelScores:
        return LanguageModelScores.of(**{f.name: getattr(self, f.name) for f in fields(self)})


def _model_files(path: str) -> list[Path]:
    """Files that decide what a model computes. Raises ConfigError when there are none."""
    from penstock.scoring.model import model_files

    return model_files(path)
