"""A folder in which single steps run in this process, on rows that a test writes down."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penstock.dataset import Dataset, read_part
from penstock.digest import TableDigest
from penstock.pipelines import deduplicate, documents, embed, fit, select, sequences
from penstock.pipelines.deduplicate import Deduplicated
from penstock.pipelines.documents import Documents
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import splits_of
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.splits import AssignSplit
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Built, Context, Settings, Silent, Step, run_step
from penstock.storage import Folder

# what someone may write into a domain column
HOSTILE = (
    "../../escape",
    "a/b",
    "/etc/passwd",
    "..",
    "<script>alert(1)</script>",
    "two\nlines\r\n",
    "null\x00byte",
    "x" * 300,
    "{}",
    "train/0/0",
    "'; drop table --",
    "e\u0301\u202e\U0001f600",
)


class Given(Step):
    """Commits tables (lists of batches, a part each), artifacts and statistics as they are."""

    revision = 1

    def __init__(self, name: str, tables: dict[str, list[pa.RecordBatch]], stats: Any, artifacts: dict[str, bytes]):
        self.name, self.tables, self.stats, self.artifacts = name, tables, stats, artifacts

    def config(self) -> dict[str, Any]:
        tables = {name: [asdict(TableDigest.of(part)) for part in parts] for name, parts in self.tables.items()}
        return {"tables": tables, "stats": self.stats, "artifacts": [a.hex() for a in self.artifacts.values()]}

    def build(self, context: Context) -> Built:
        def write(split: Any, out: Any) -> None:
            for name, parts in self.tables.items():
                if split.index < len(parts):
                    out.write(name, parts[split.index])

        parts = max((len(parts) for parts in self.tables.values()), default=0)
        built = context.collect(context.run("given", write, splits_of(range(parts))), *self.tables)
        built.stats = self.stats
        built.artifacts = {name: context.write_artifact(name, data) for name, data in self.artifacts.items()}
        return built


class Lab:
    """Steps in one folder, one process."""

    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "run"
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def run(self, step: Step, **settings: Any) -> Dataset:
        """Build a step whose parents are there and return its dataset."""
        lab = self

        class Reporter(Silent):
            def warn(self, message: str) -> None:
                lab.warnings.append(message)

            def note(self, message: str) -> None:
                lab.notes.append(message)

        folder = Folder(str(self.root))
        result = run_step(step, folder, HomeEngine(0), Reporter(), Settings(**settings))
        assert result.manifest.counts.balances
        return Dataset(folder / step.name)

    def given(
        self, name: str, *, stats: Any = None, artifacts: dict[str, bytes] | None = None, **tables: Any
    ) -> Dataset:
        return self.run(Given(name, tables, stats or {}, artifacts or {}))

    def files(self, **files: Sequence[Any]) -> FileSource:
        """A source of JSONL files of (text, domain) rows; a plain string is a line as it is."""
        folder = self.base / "corpus"
        folder.mkdir(exist_ok=True)
        for name, rows in files.items():
            lines = [row if isinstance(row, str) else json.dumps({"text": row[0], "domain": row[1]}) for row in rows]
            (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
        entry = FileEntry(path=f"{folder}/*.jsonl", columns={"domain": "domain"})
        return FileSource(name="files", entries=(entry,))

    def documents(self, source: Any, *works: Any, **settings: Any) -> Dataset:
        return self.run(Documents("documents", (source,), works), **settings)

    def deduplicated(self, *, validation: float = 0.0, test: float = 0.0, **settings: Any) -> Dataset:
        assign = AssignSplit(seed=1, validation=validation, test=test)
        return self.run(Deduplicated("deduplicated", "documents", ExactDuplicates(), assign), **settings)

    def names(self) -> list[str]:
        """Every file of the run, relative to its folder."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def new_lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``new_lab()`` is one more lab, in a folder of its own."""
    return lambda: Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def hostile() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture
def tiny_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts come in batches of at most 4 rows, as large parts come in batches of thousands."""
    for module in (deduplicate, documents, embed, fit, select, sequences):
        monkeypatch.setattr(module, "read_part", functools.partial(read_part, rows=4))


def parts_of(batch: pa.RecordBatch, sizes: Sequence[int]) -> list[pa.RecordBatch]:
    """A batch cut into consecutive parts of these sizes; the last takes the rest."""
    out, start = [], 0
    for size in sizes:
        out.append(batch.slice(start, size))
        start += size
    return [part for part in [*out, batch.slice(start)] if part.num_rows]


@pytest.fixture
def cut() -> Any:
    return parts_of
