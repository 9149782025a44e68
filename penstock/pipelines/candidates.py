"""The pool that a target-driven selection chooses from, as a step of its own.

    target  sources -> documents                                                  (``documents.Documents``)
    pool    a dataset's parts, or sources -> documents less those that the target holds

Price: the pool's text is written once more, so that nothing of it changes while methods read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from penstock import schema
from penstock import work as rowwork
from penstock.dataset import Dataset, read_manifest, read_part
from penstock.errors import ConfigError, DatasetError
from penstock.inspect import datasets_below
from penstock.pipelines.documents import Documents, TextBytes, config_of, domain_stats, part_splits
from penstock.pipelines.passes import PartWriter, Split
from penstock.selectors.targeted.disjoint import REASON, NotInTarget
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

TARGET, POOL = "target", "pool"
_IN_POOL = (*schema.DOCUMENTS.names, "tokens", "bytes")

Overlap = Literal["drop", "refuse"]


@dataclass(frozen=True)
class MakePool:
    """Rows of a split of sources, or of a part of a dataset, that are no rows of the target."""

    sources: tuple[Any, ...]
    folder: Folder | None
    columns: tuple[str, ...]
    works: tuple[Any, ...]
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in self._rows(split, out):
            out.count(rows_in=batch.num_rows)
            result = rowwork.apply(self.works, batch, dropped=self.dropped)
            out.applied(result)
            rows = result.batch
            if "tokens" not in rows.schema.names:
                rows = rows.append_column("tokens", pa.nulls(rows.num_rows, pa.int64()))
            out.count(kept=rows.num_rows)
            out.add_stats({"domains": domain_stats(rows)})
            out.write("documents", rows.select([name for name in _IN_POOL if name in rows.schema.names]))

    def _rows(self, split: Split, out: PartWriter) -> Iterator[pa.RecordBatch]:
        if self.folder is not None:
            yield from read_part(self.folder, split.payload.file, self.columns)
            return
        source = next(s for s in self.sources if s.name == split.payload.source)
        for rows in source.read(split.payload, dropped=self.dropped):
            out.write("dropped", rows.dropped)
            reasons = rowwork.value_counts(rows.dropped["reason"])
            out.count(
                rows_in=rows.dropped.num_rows, dropped={f"source.{split.payload.source}": reasons} if reasons else {}
            )
            yield rows.documents


class Pool(Step):
    """What is chosen from: the documents of a dataset or of sources, less those that the target holds."""

    revision = 1
    libraries = Documents.libraries

    def __init__(
        self,
        *,
        dataset: Dataset | None = None,
        sources: tuple[Any, ...] = (),
        encode: Any = None,
        overlap: Overlap = "drop",
    ) -> None:
        """``encode`` is row work that adds ``tokens``, for a pool without counts.

        Raises:
            ConfigError: neither a dataset nor sources, or both.
        """
        if (dataset is None) == (not sources):
            given = "neither a dataset nor sources" if dataset is None else "a dataset and sources"
            raise ConfigError(f"pool: got {given}, allowed one of them; name what to choose from")
        self.name, self.parents = POOL, (TARGET,)
        self.dataset, self.sources, self.encode, self.overlap = dataset, sources, encode, overlap

    def config(self) -> dict[str, Any]:
        return {
            "sources": [{"name": s.name, "revision": s.revision, "config": config_of(s)} for s in self.sources],
            "encode": None if self.encode is None else {"revision": self.encode.revision, "sha256": self.encode.sha256},
            "overlap": self.overlap,
        }

    def inputs(self, settings: Settings) -> dict[str, str]:
        if self.dataset is not None:
            return {"dataset": self.dataset.digest}
        return {f"{s.name}:{i.name}": settings.fingerprint(i) for s in self.sources for i in s.inputs()}

    def build(self, context: Context) -> Built:
        wanted = context.parents[TARGET]
        if not wanted.manifest.counts.kept:
            lost = wanted.manifest.counts.dropped_total
            raise ConfigError(
                f"target: got no rows ({lost:,} records could not be used), allowed one or more; name files that hold "
                "documents"
            )
        target = wanted.read("documents", ("content_hash",))
        apart = NotInTarget.of(target, context.folder.join(context.prefix))
        works = (apart, TextBytes(), *(() if self.encode is None else (self.encode,)))
        columns: tuple[str, ...] = ()
        if self.dataset is not None:
            table = self.dataset.table("documents")
            columns = tuple(name for name in _IN_POOL if name in table.columns and name != "bytes")
            schema.require(columns, ("doc_id", "id_hash", "content_hash", "text"), where=self.dataset.folder.url)
            splits = part_splits(table, apart.digest)
        else:
            pieces = [piece for source in self.sources for piece in source.plan(context.settings.split_bytes)]
            splits = [Split(i, piece, memo="") for i, piece in enumerate(pieces)]
        folder = None if self.dataset is None else self.dataset.folder
        work = MakePool(self.sources, folder, columns, works, context.settings.dropped)
        built = context.collect(context.run("read", work, splits), "documents", "dropped")
        shared = built.counts.dropped.get(NotInTarget.name, {}).get(REASON, 0)
        if shared and self.overlap == "refuse":
            raise ConfigError(
                f"target: {shared:,} row(s) of the pool are rows of the target, allowed none; take them out of one of "
                "the two, or let them be dropped from the pool with --overlap drop"
            )
        if shared:
            context.reporter.note(f"{self.name}: {shared:,} row(s) that the target holds are not chosen from")
        if not built.counts.kept:
            raise ConfigError(
                f"pool: no row is left to choose from ({shared:,} of {built.counts.rows_in:,} are rows of the target); "
                "name another pool"
            )
        return built


def pool_dataset(url: str) -> Dataset | None:
    """The dataset of documents that a path means: itself, or of a run its scored documents, else its last ones.

    None where there is no manifest there or one level below, so that the path means files.

    Raises:
        DatasetError: there are datasets, and none of them holds documents.
    """
    folder = Folder(url)
    if Path(url).is_file():
        return None
    if read_manifest(folder) is not None:
        found = [Dataset(folder)]
    else:
        found = datasets_below(folder)
    if not found:
        return None
    holding = [d for d in found if "documents" in d.manifest.tables and d.manifest.step != TARGET]
    if not holding:
        names = ", ".join(d.manifest.step for d in found)
        raise DatasetError(f"{url}: no dataset of documents among {names}; give the folder of one, or files")
    scored = [d for d in holding if "tokens" in d.table("documents").columns]
    return (scored or holding)[-1]
