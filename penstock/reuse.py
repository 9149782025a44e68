"""What a build may take over from an earlier one: parts whose settings and content are the same.

A pass that declares ``reuse`` (the settings that decide its output) keeps its receipts with the dataset, each
under its split's ``memo`` (the content it read). The next build of the step looks there before it runs a split:
an unchanged file, or an unchanged part of a parent, costs one look-up. What is taken over is what would have
been made, so an incremental build gives the full build's rows by construction; there is no second code path.

The same tables are the persistent index of exact hashes and MinHash bands: key blocks by hash range, versioned by
the settings, the step's revision and the libraries that they were made with.

    manifest.json    passes: {"path": "<key>/passes.json.zst", …}
    passes.json.zst  {"format": 1, "passes": {"keys": {"signature": "…", "receipts": {memo: receipt}}}}

Price: about 1 kB a split to store; taking a part over is a link on one disk, a copy inside one store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import zstandard

from penstock.dataset import Manifest
from penstock.pipelines.passes import Receipt, Split
from penstock.storage import Folder

FORMAT = 1
PASSES = "passes.json.zst"


@dataclass(frozen=True)
class KeptPass:
    """Receipts of one pass by memo, and what they were made with."""

    signature: str
    receipts: Mapping[str, Receipt]


def dump_passes(passes: Mapping[str, KeptPass]) -> bytes:
    """The file that stores kept passes beside a manifest."""
    value = {
        name: {"signature": kept.signature, "receipts": {m: r.to_json() for m, r in kept.receipts.items()}}
        for name, kept in passes.items()
    }
    text = json.dumps({"format": FORMAT, "passes": value}, sort_keys=True)
    return zstandard.compress(text.encode())


def load_passes(data: bytes) -> dict[str, KeptPass]:
    """The kept passes of a file.

    Raises:
        ValueError: it is damaged or of another format.
    """
    try:
        value = json.loads(zstandard.decompress(data))
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']}, this penstock reads {FORMAT}")
        return {
            name: KeptPass(p["signature"], {memo: Receipt.from_json(r) for memo, r in p["receipts"].items()})
            for name, p in value["passes"].items()
        }
    except (zstandard.ZstdError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class Earlier:
    """A committed build of the same step, here or in another run's folder."""

    folder: Folder
    manifest: Manifest
    warn: Callable[[str], None]

    @cached_property
    def passes(self) -> dict[str, KeptPass]:
        """Its kept passes; none where their file is gone or cannot be read, which costs time and nothing else."""
        entry = self.manifest.passes
        if entry is None:
            return {}
        try:
            data = self.folder.read_bytes(entry.path)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise ValueError("damaged (it is not what the manifest names)")
            return load_passes(data)
        except (FileNotFoundError, ValueError) as error:
            self.warn(f"{self.folder.join(entry.path)}: {error}; nothing is taken over from it, all is built again")
            return {}

    @cached_property
    def sizes(self) -> dict[str, int]:
        return self.folder.sizes()

    def take(self, name: str, signature: str, splits: Sequence[Split], into: Folder) -> dict[str, Receipt]:
        """Receipts that hold for these splits, by split id, their parts brought into ``into``."""
        kept = self.passes.get(name)
        if kept is None or kept.signature != signature:
            return {}
        out = {}
        for split in splits:
            receipt = kept.receipts.get(split.memo) if split.memo else None
            if receipt is None or any(self.sizes.get(p.file.path) != p.file.bytes for p in receipt.parts.values()):
                continue
            if into != self.folder:
                for part in receipt.parts.values():
                    into.copy_from(self.folder, part.file.path)
            out[split.id] = receipt
        return out


def own_files(manifest: Manifest) -> set[str]:
    """Files that a manifest names itself: of tables, artifacts and the receipts it keeps."""
    named = {file.path for table in manifest.tables.values() for file in table.files}
    named |= {file.path for file in manifest.artifacts.values()}
    return named if manifest.passes is None else named | {manifest.passes.path}


def kept_files(folder: Folder, manifest: Manifest) -> set[str]:
    """Parts that a dataset keeps for the next build."""
    return parts_of(Earlier(folder, manifest, lambda message: None).passes)


def parts_of(passes: Mapping[str, KeptPass]) -> set[str]:
    """Files of the receipts of passes."""
    return {p.file.path for kept in passes.values() for r in kept.receipts.values() for p in r.parts.values()}


def named_files(folder: Folder, manifest: Manifest) -> set[str]:
    """Every file that a committed dataset holds, but for the manifest itself and what is made from it."""
    return own_files(manifest) | kept_files(folder, manifest)
