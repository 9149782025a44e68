"""Datasets of the accepted round within a later one: the step ``Taken``, and local copies of its files.

A round is a run of its own, and what it goes on from stands in its folder as the dataset of a step: its digest is part
of later keys, lineage names it, and it stays when the older round's folder is deleted.

Price: on one disk a link a file, no bytes; in a store its own copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.dataset import Dataset, FileEntry, Manifest, TableEntry, hash_json
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder


class Taken(Step):
    """Some tables and artifacts of another run's dataset, as they are."""

    revision = 1

    def __init__(
        self,
        name: str,
        source: Folder,
        *,
        tables: Callable[[str], bool] = lambda name: False,
        artifacts: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            source: of the dataset.
            tables: whether a table of this name is taken.
            artifacts: beginnings of the names of those that are taken.
        """
        self.name, self.source, self.tables, self.artifacts = name, source, tables, artifacts

    def config(self) -> dict[str, Any]:
        return {}

    def inputs(self, settings: Settings) -> dict[str, str]:
        """What is taken, by its digest; DatasetError when the dataset is not there."""
        tables, artifacts = self._taken(Dataset(self.source).manifest)
        return {
            "taken": hash_json([{n: t.digest for n, t in tables.items()}, {n: f.sha256 for n, f in artifacts.items()}])
        }

    def _taken(self, manifest: Manifest) -> tuple[dict[str, TableEntry], dict[str, FileEntry]]:
        tables = {name: table for name, table in manifest.tables.items() if self.tables(name)}
        return tables, {n: f for n, f in manifest.artifacts.items() if n.startswith(self.artifacts)}

    def build(self, context: Context) -> Built:
        manifest = Dataset(self.source).manifest
        tables, artifacts = self._taken(manifest)

        def bring(entry: FileEntry, name: str) -> FileEntry:
            path = f"{context.prefix}/{name}"
            context.folder.copy_from(self.source, entry.path, to=path)
            return replace(entry, path=path)

        built = Built(stats=manifest.stats)
        for name, table in tables.items():
            files = tuple(
                bring(f, f"{name}/{number:05d}.{f.path.rpartition('.')[2]}") for number, f in enumerate(table.files)
            )
            built.tables[name] = replace(table, files=files)
        built.artifacts = {name: bring(file, name) for name, file in artifacts.items()}
        return built


def local_artifacts(dataset: Dataset, below: str, into: Path) -> Path:
    """A local folder with the artifacts whose names begin with ``below/``, under the rest of their names.

    Args:
        into: where they are copied when the dataset is in a store; on a disk nothing is.
    """
    files = {name: file for name, file in dataset.manifest.artifacts.items() if name.startswith(f"{below}/")}
    assert files, f"no artifact below {below} in {dataset.folder.url}"
    if dataset.folder.is_local:
        name, file = next(iter(files.items()))
        return Path(dataset.folder.join(file.path.removesuffix(name.removeprefix(f"{below}/")).rstrip("/")))
    for name, file in files.items():
        target = into / name.removeprefix(f"{below}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".tmp-{target.name}")
        with dataset.folder.open_read(file.path) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        partial.replace(target)
    return into
