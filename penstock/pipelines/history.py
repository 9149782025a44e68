"""Key tables of this build and of earlier datasets, read as one.

A deduplicated dataset keeps the tables it was judged from (``reuse``): content hashes (``keys``), MinHash bands
(``bands``), whose they are (``rows``) and which of those rows others stand for (``alike``). A later build of other
inputs names that dataset in ``deduplicate.history`` and reads them beside its own, range by range, so that a document
that was given away once is dropped when it comes again. Its texts are not read, and need not be there any more.

Buckets are called ``i/n``, range i of n equal ranges of the key, so tables of different numbers of ranges fit together.

Price: the tables of an earlier dataset are read once more in every build that names it: 60 bytes a document for exact
duplicates, 230 with MinHash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.dataset import Manifest, hash_json, read_manifest
from penstock.errors import ConfigError
from penstock.pipelines.passes import Slices
from penstock.reuse import Earlier
from penstock.storage import Folder
from penstock.tokenization.packing import hash_range

PASS_OF = {"keys": "keys", "bands": "bands", "rows": "bands", "alike": "bands"}  # which pass writes a table
WHOLE = "0/1"  # the bucket of a table that is not cut into ranges


@dataclass(frozen=True)
class History:
    """A deduplicated dataset of an earlier run."""

    folder: Folder
    manifest: Manifest

    @classmethod
    def open(cls, url: str, step: str) -> History:
        """The dataset at ``url``, or the one that the run at ``url`` holds under the name of its step.

        Raises:
            ConfigError: there is none.
        """
        for folder in (Folder(url) / step, Folder(url)):
            manifest = read_manifest(folder)
            if manifest is not None and manifest.key_parts.get("step") == "Deduplicated":
                return cls(folder, manifest)
        raise ConfigError(
            f"deduplicate.history: got {url}, allowed the folder of an earlier run or of its {step} dataset; there is "
            "no such dataset in it: mend the path, or take it out of the list"
        )

    @property
    def rows(self) -> int:
        """Documents that the dataset was made from."""
        return self.manifest.counts.rows_in

    def require(self, wanted: dict[str, Any]) -> None:
        """Check that the index was made as this build would make it.

        Args:
            wanted: what the keys depend on, by the name of the index.

        Raises:
            ConfigError: naming what differs and what to do.
        """
        found = self.manifest.key_parts["settings"].get("index", {})
        for name, settings in wanted.items():
            if name not in found:
                raise ConfigError(
                    f"deduplicate.history: {self.folder.url} has no {name} index; build it again with the same "
                    "deduplicate section as here, or take it out of the list"
                )
            differs = sorted(k for k in {*settings, *found[name]} if settings.get(k) != found[name].get(k))
            if differs:
                said = ", ".join(f"{k} {found[name].get(k)} there, {settings.get(k)} here" for k in differs)
                raise ConfigError(
                    f"deduplicate.history: the {name} index of {self.folder.url} was made otherwise ({said}); build it "
                    "again with the settings and the version of here, take its settings over, or take it out of the "
                    "list"
                )

    def slices(self, table: str, warn: Callable[[str], None]) -> tuple[Slices, int]:
        """Where the rows of a kept table lie, and the number of its parts.

        Raises:
            ConfigError: its files are gone.
        """
        earlier = Earlier(self.folder, self.manifest, warn)
        kept = earlier.passes.get(PASS_OF[table])
        receipts = [] if kept is None else list(kept.receipts.values())
        files = [part.file for receipt in receipts for part in receipt.parts.values()]
        if kept is None or any(earlier.sizes.get(file.path) != file.bytes for file in files):
            raise ConfigError(
                f"deduplicate.history: the kept {table} of {self.folder.url} are gone or damaged; build it again, or "
                "take it out of the list"
            )
        return Slices.of(self.folder, receipts, table), len(receipts)


@dataclass(frozen=True)
class Index:
    """One key table of this build and of all its history; parts of the history are numbered after its own."""

    mine: Slices
    parts: int  # of this build
    old: tuple[tuple[Slices, int], ...] = ()  # each with its number of parts

    @cached_property
    def layout(self) -> str:
        """Changes when any of the files do; see ``Slices.layout``."""
        return hash_json([slices.layout for slices, _ in (*self.old, (self.mine, self.parts))])

    def read(self, number: int, ranges: int) -> pa.Table | None:
        """All rows of a range of ``key``, with ``part`` (int32) and ``old`` (bool: of the history)."""
        found = self.mine.read(f"{number}/{ranges}", numbered=True)
        tables = [] if found is None else [_marked(found, 0, old=False)]
        for first, slices in self._numbered():
            for bucket in slices.slices:
                its, of = map(int, bucket.split("/"))
                if its * ranges >= (number + 1) * of or number * of >= (its + 1) * ranges:
                    continue
                rows = slices.read(bucket, numbered=True)
                assert rows is not None
                if of < ranges:
                    inside = hash_range(rows["key"].to_numpy(), ranges) == number
                    rows = rows.filter(pa.array(inside))
                tables.append(_marked(rows, first, old=True))
        return pa.concat_tables(tables) if tables else None

    @property
    def parts_with_rows(self) -> set[int]:
        """Numbers of the parts that have rows of a table that is not cut into ranges."""
        return {first + int(part) for first, slices in self._all() for part in _whole(slices)[:, 0]}

    def of_part(self, part: int) -> pa.Table | None:
        """The rows of one part of a table that is not cut into ranges."""
        for first, slices in self._all():
            at = _whole(slices)
            here = at[at[:, 0] + first == part]
            if len(here):
                return replace(slices, slices={WHOLE: here}).read(WHOLE)
        return None

    def _all(self) -> Iterator[tuple[int, Slices]]:
        yield 0, self.mine
        yield from self._numbered()

    def _numbered(self) -> Iterator[tuple[int, Slices]]:
        """Each table of the history with the number of its first part."""
        first = self.parts
        for slices, parts in self.old:
            yield first, slices
            first += parts


def _whole(slices: Slices) -> NDArray[np.int64]:
    """The pieces of a table that is not cut into ranges."""
    return slices.slices.get(WHOLE, np.zeros((0, 3), np.int64))


def _marked(rows: pa.Table, first: int, *, old: bool) -> pa.Table:
    part = pa.array(rows["part"].to_numpy() + np.int32(first))
    rows = rows.set_column(rows.column_names.index("part"), "part", part)
    return rows.append_column("old", pa.repeat(pa.scalar(old), rows.num_rows))
