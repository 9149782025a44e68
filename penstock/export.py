"""Packed sequences of a run as files of other trainers.

Price: one read of the sequences and one write of their tokens.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.dataset import Dataset, read_manifest
from penstock.errors import ConfigError
from penstock.pipelines.sequences import files_by_domain
from penstock.storage import Folder

if TYPE_CHECKING:
    from penstock.training.megatron import MegatronFiles

_TOGETHER = 1024  # rows that are fetched at a time where they lie in a store


def export_sequences(
    source: str, prefix: str | Path, *, split: str = "train", dtype: Any = "auto", drop_loss_mask: bool = False
) -> tuple[MegatronFiles, ...]:
    """Write a split of packed sequences as Megatron-LM's indexed datasets, one a domain; see ``export_megatron``.

    Args:
        source: folder or URL of a step ``sequences-N``, or of a run, of which ``sequences-1`` is taken.

    Raises:
        ConfigError: no packed sequences there, or none of this split.
        DatasetError, StorageError: as ``export_megatron``.
    """
    from penstock.training.megatron import export_megatron
    from penstock.training.sequences import SequenceStore

    folder = Folder(source)
    manifest = read_manifest(folder)
    if manifest is None and read_manifest(folder / "sequences-1") is not None:
        folder = folder / "sequences-1"
        manifest = read_manifest(folder)
    domains = {} if manifest is None else manifest.stats.get("domains", {})
    if manifest is None or not manifest.step.startswith("sequences-"):
        raise ConfigError(
            f"{source}: no packed sequences; give the folder of a step sequences-N, or of a run whose recipe trains"
        )
    dataset = Dataset(folder)
    files = {
        domain: [folder.join(path) for path in paths]
        for domain, paths in files_by_domain(manifest.tables, domains, split).items()
    }
    if not files:
        raise ConfigError(f"split: got {split!r}, allowed {', '.join(sorted(domains))}; {dataset.folder.url} has these")
    with tempfile.TemporaryDirectory(prefix="penstock-export-") as cache:
        store = SequenceStore.open(files, cache=cache, group_rows=_TOGETHER)
        return export_megatron(store, prefix, dtype=dtype, loss_mask="drop" if drop_loss_mask else "refuse")
