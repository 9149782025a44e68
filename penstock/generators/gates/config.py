"""What a recipe says about gates: ``gates: {languages: [en], examples: {files: [seed.jsonl]}, jury: {…}}``.

The order is that of the price: length, refusals, leaks, language, copies, contamination, relevance, judges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError
from penstock.generators.config import GeneratorConfig
from penstock.generators.prompt_files import read_text

if TYPE_CHECKING:
    from penstock.embedding.base import Embedder
    from penstock.generators.base import LanguageModel
    from penstock.generators.gates.contamination import Contamination
    from penstock.generators.gates.passing import Examiner
    from penstock.generators.items import Gate
    from penstock.pipelines.decontaminate import BenchmarkFiles
    from penstock.sources.base import InputFile
    from penstock.sources.files import FileSource

_SPLIT = 1 << 26


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Texts like those wanted, which must not come again: a seed set.

    Args:
        files: paths, folders or patterns, as of any source.
        column: that has the text, or the question.
        copies: drop items that are copies of an example.
        jaccard: similarity of runs of three words from which on an item is a near copy.
    """

    files: tuple[str, ...]
    column: str = "text"
    copies: bool = True
    jaccard: float = 0.7

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("gates.examples.files: got none, allowed one or more; give a path or remove examples")


@dataclass(frozen=True, kw_only=True)
class RelevanceConfig:
    """Items that have nothing to do with the task are dropped.

    Args:
        threshold: least cosine to the task or to an example; None takes it from the examples.
        quantile: of the examples' own similarities, where it is taken from them.
    """

    threshold: float | None = None
    quantile: float = 0.05


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A model says whether an item belongs to the task; ``prompt`` is a file in place of ours."""

    model: GeneratorConfig
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class JuryConfig:
    """Models score items by a rubric; see ``gates.jury.Jury``.

    Args:
        rubric: ``creative``, ``reasoning`` or a YAML file.
    """

    models: tuple[GeneratorConfig, ...]
    rubric: str = "creative"
    samples: int = 1
    temperature: float = 0.0
    threshold: float = 0.5
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """A benchmark that must not be among the items: files whose records have a question, and maybe an answer."""

    name: str
    files: tuple[str, ...]
    question: str = "question"
    answer: str | None = None

    def source(self) -> BenchmarkFiles:
        from penstock.pipelines.decontaminate import BenchmarkFiles
        from penstock.sources.files import FileEntry

        entries = tuple(FileEntry(path=path) for path in self.files)
        return BenchmarkFiles(name=self.name, entries=entries, question=self.question, answer=self.answer)


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """What generated items have to pass.

    Args:
        min_characters, max_characters: of an item's text.
        refusals: drop what begins as a refusal.
        leaks: drop what shows how it was made: chat markers, JSON, blanks, the prompt.
        languages: ISO 639 codes of those allowed; none allows all.
        language_confidence: that the language must be told with.
        examples: a seed set.
        relevance: of items to the task, by embeddings.
        judge: of the same, by a model.
        benchmarks: that must not be among the items.
        jury: scores by a rubric.
    """

    min_characters: int = 20
    max_characters: int = 20_000
    refusals: bool = True
    leaks: bool = True
    languages: tuple[str, ...] = ()
    language_confidence: float = 0.5
    examples: ExamplesConfig | None = None
    relevance: RelevanceConfig | None = None
    judge: JudgeConfig | None = None
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    jury: JuryConfig | None = None

    def __post_init__(self) -> None:
        from penstock.generators.gates.length import Length

        Length(min_characters=self.min_characters, max_characters=self.max_characters)
        if self.relevance is not None and self.relevance.threshold is None and self.examples is None:
            raise ConfigError(
                "gates.relevance: got no threshold and no examples to take it from, allowed one of them; add it"
            )

    def inputs(self) -> list[InputFile]:
        """Files of examples and benchmarks; those of ``wording`` are not among them."""
        found = list(self._examples().inputs()) if self.examples is not None else []
        for benchmark in self.benchmarks:
            found += benchmark.source().source(benchmark.question).inputs()
        return found

    def wording(self) -> dict[str, str]:
        """Hashes of the patterns, prompts and rubrics in force, ours or a user's: they decide what passes.

        Raises:
            ConfigError: a file cannot be read.
        """
        own = Path(__file__).parent
        files: dict[str, Path] = {}
        if self.refusals:
            files["refusals"] = own / "refusals.yaml"
        if self.judge is not None:
            files["judge"] = Path(self.judge.prompt or own / "prompts" / "relevance.md")
        if self.jury is not None:
            from penstock.generators.gates.jury import rubric_file

            files["jury"] = Path(self.jury.prompt or own / "prompts" / "jury.md")
            files["rubric"] = rubric_file(self.jury.rubric)
        return {name: hashlib.sha256(read_text(path).encode()).hexdigest()[:16] for name, path in files.items()}

    def gates(
        self,
        *,
        task: str,
        embedder: Embedder,
        seed: int,
        folder: str | None = None,
        told: Sequence[str] = (),
        session: Callable[[LanguageModel], LanguageModel] = lambda model: model,
    ) -> tuple[Gate | Examiner, ...]:
        """The gates in order.

        Args:
            task: what the items are for.
            embedder: of ``relevance``.
            seed: of judges' requests.
            folder: where the benchmarks' index is written; needed where there are benchmarks.
            told: other prompts that items must not repeat.
            session: puts a store, a meter and a budget around a judge's model.

        Raises:
            ConfigError: a gate's settings are not acceptable, or an example's file has no text.
            InputError: a file cannot be read.
        """
        from penstock.generators.gates.language import Language
        from penstock.generators.gates.leaks import Leaks
        from penstock.generators.gates.length import Length
        from penstock.generators.gates.refusal import Refusal
        from penstock.generators.gates.relevance import RelevanceJudge
        from penstock.generators.gates.seeds import SeedCopies

        out: list[Any] = [Length(min_characters=self.min_characters, max_characters=self.max_characters)]
        out += [Refusal()] * self.refusals
        out += [Leaks(prompts=(task, *told))] * self.leaks
        if self.languages:
            out.append(Language(languages=self.languages, min_confidence=self.language_confidence))
        examples = self.seed_texts()
        if self.examples is not None and self.examples.copies:
            out.append(SeedCopies(seeds=examples, jaccard=self.examples.jaccard))
        if self.benchmarks:
            out.append(self._contamination(folder))
        if self.relevance is not None:
            out.append(self._relevance(task, examples, embedder))
        if self.judge is not None:
            model = session(self.judge.model.resolve())
            out.append(RelevanceJudge(model=model, task=task, prompt=self.judge.prompt, seed=seed))
        if self.jury is not None:
            out.append(self._jury(self.jury, task, seed, session))
        return tuple(out)

    def _examples(self) -> FileSource:
        from penstock.sources.files import FileEntry, FileSource

        assert self.examples is not None
        columns = {"text": self.examples.column}
        entries = tuple(FileEntry(path=path, columns=columns) for path in self.examples.files)
        return FileSource(name="examples", entries=entries)

    def seed_texts(self) -> tuple[str, ...]:
        """The texts of ``examples``; none without."""
        if self.examples is None:
            return ()
        source = self._examples()
        texts = tuple(
            text
            for split in source.plan(_SPLIT)
            for rows in source.read(split, dropped="ids")
            for text in rows.documents["text"].to_pylist()
        )
        if not texts:
            raise ConfigError(
                f"gates.examples: got no text in column {self.examples.column!r}, allowed one or more; name its column"
            )
        return texts

    def _contamination(self, folder: str | None) -> Contamination:
        from penstock.generators.gates.contamination import index_benchmarks

        if folder is None:
            raise ConfigError("gates.benchmarks: got no folder for their index, allowed one; give folder")
        return index_benchmarks(folder, [benchmark.source() for benchmark in self.benchmarks])

    def _relevance(self, task: str, examples: tuple[str, ...], embedder: Embedder) -> Any:
        from penstock.generators.gates.relevance import Relevance, threshold_of

        assert self.relevance is not None
        threshold = self.relevance.threshold
        if threshold is None:
            threshold = threshold_of(embedder, examples, self.relevance.quantile)
        return Relevance(embedder=embedder, references=(task, *examples), threshold=threshold)

    @staticmethod
    def _jury(jury: JuryConfig, task: str, seed: int, session: Callable[[LanguageModel], LanguageModel]) -> Any:
        from penstock.generators.gates.jury import Jury, read_rubric

        return Jury(
            models=tuple(session(model.resolve()) for model in jury.models),
            task=task,
            rubric=read_rubric(jury.rubric),
            samples=jury.samples,
            temperature=jury.temperature,
            threshold=jury.threshold,
            prompt=jury.prompt,
            seed=seed,
        )
