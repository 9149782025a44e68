"""Drop items that hold an item of a benchmark: ``selectors.decontaminate`` on generated rows.

A model has read the benchmarks, so what it writes may be one of them. Question and answer are looked at together, by
runs of words and as near-duplicates; see ``selectors/decontaminate.py`` for what is found and what is not.

Price: that of ``selectors.decontaminate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from penstock.generators.items import Item
from penstock.selectors.benchmark_index import IndexSettings
from penstock.selectors.benchmark_index import Item as BenchmarkItem

if TYPE_CHECKING:
    from penstock.pipelines.decontaminate import BenchmarkFiles
    from penstock.selectors.decontaminate import Decontaminate

_SPLIT = 1 << 26  # bytes of a benchmark's file that are read at a time


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """Gate: ``contaminated:BENCHMARK``.

    Args:
        path, digest, index: the benchmarks' index and its settings; ``index_benchmarks`` makes one.
        near: least Jaccard similarity of a near-duplicate; None looks for none.
        min_coverage: share of an item's runs of words that has to be there.
    """

    path: str
    digest: str
    index: IndexSettings = field(default_factory=IndexSettings)
    near: float | None = 0.8
    min_coverage: float = 0.0

    name: ClassVar[str] = "contamination"

    def __post_init__(self) -> None:
        self._filter()

    def _filter(self) -> Decontaminate:
        from penstock.selectors.decontaminate import Decontaminate

        return Decontaminate(
            path=self.path, digest=self.digest, index=self.index, near=self.near, min_coverage=self.min_coverage
        )

    def setup(self) -> None:
        """Read the index. Raises DatasetError where it is not what was asked for."""
        self._filter().setup()

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        import pyarrow as pa

        texts = [f"{item.text}\n{item.answer}" if item.answer else item.text for item in items]
        batch = pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], ["text"])
        found: list[str | None] = self._filter().decide(batch).to_pylist()
        return found


def index_benchmarks(
    folder: str, benchmarks: Sequence[BenchmarkFiles], settings: IndexSettings | None = None
) -> Contamination:
    """A gate over the files of benchmarks, whose index is written into ``folder``.

    Raises:
        ConfigError: no benchmark has a record.
        InputError: a file cannot be read.
    """
    from penstock.selectors.benchmark_index import save_index

    settings = settings or IndexSettings()
    made = save_index(folder, [item for benchmark in benchmarks for item in _items(benchmark)], settings)
    return Contamination(path=made.path, digest=made.digest, index=settings)


def _items(benchmark: BenchmarkFiles) -> list[BenchmarkItem]:
    """Items by record; one without a text in a column is without that field."""
    questions = _column(benchmark, benchmark.question)
    answers = _column(benchmark, benchmark.answer) if benchmark.answer is not None else {}
    names = dict.fromkeys([*questions, *answers])
    return [BenchmarkItem(benchmark.name, name, questions.get(name), answers.get(name)) for name in names]


def _column(benchmark: BenchmarkFiles, column: str) -> dict[str, str]:
    source = benchmark.source(column)
    out: dict[str, str] = {}
    for split in source.plan(_SPLIT):
        for rows in source.read(split, dropped="ids"):
            out.update(zip(rows.documents["doc_id"].to_pylist(), rows.documents["text"].to_pylist(), strict=True))
    return out
