"""The step from selected documents to packed training sequences.

    shuffle   part -> token ids of each document copy, bucketed by (split, domain, hash range)
    pack      bucket -> one Arrow IPC file of fixed-length sequences

Documents stand in hash order within their domain and are packed inside it, so a mixture's weights mean
tokens. A domain is cut into hash ranges by its token count, so that a giant one neither stalls nor
swells a worker, and the ranges depend on the selection alone: not on splits or workers.

Documents of which only a part is learned bring it along (``learn_tokens``), and it becomes ``loss_mask``.

Price: token ids are written and read once more; memory is one part's ids, then one range's (32 MB of uint16).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.dataset import FileEntry, TableEntry, read_part
from penstock.digest import TableDigest
from penstock.errors import DatasetError
from penstock.pipelines.documents import aligned_parts, part_splits
from penstock.pipelines.passes import PartWriter, Slices, Split, merge_parts, splits_of
from penstock.step import Built, Context, Step
from penstock.storage import Folder
from penstock.tokenization.packing import hash_range, pack, packing_order, to_batch, write_sequences

TOKENS_PER_RANGE = 16_000_000


@dataclass(frozen=True)
class Shuffle:
    """Emit the token ids of one part's selected documents, one row a copy, by bucket."""

    documents: Folder
    selection: Folder
    selection_files: tuple[FileEntry, ...]
    ranges: dict[str, dict[str, int]]  # split -> domain -> hash ranges
    seed: int
    carried: tuple[str, ...] = ("doc_id", "token_ids")

    def __call__(self, split: Split, out: PartWriter) -> None:
        columns = tuple(dict.fromkeys(("doc_id", "id_hash", "domain", "split", *self.carried)))
        documents = pa.Table.from_batches(read_part(self.documents, split.payload.file, columns)).combine_chunks()
        selected = read_part(self.selection, self.selection_files[split.payload.part], ("copies",))
        copies = pa.Table.from_batches(selected)["copies"].to_numpy()
        number = {name: {d: i for i, d in enumerate(domains)} for name, domains in self.ranges.items()}
        pairs = pa.table({"split": documents["split"], "domain": documents["domain"], "row": np.arange(len(documents))})
        groups = pairs.filter(pa.array(copies > 0)).group_by(["split", "domain"]).aggregate([("row", "list")])
        # in the order of the buckets, so that the file does not depend on which document came first
        for group in groups.sort_by([("split", "ascending"), ("domain", "ascending")]).to_batches():
            for name, domain, rows in zip(group["split"], group["domain"], group["row_list"], strict=True):
                self._emit(out, documents, copies, name.as_py(), domain.as_py(), np.asarray(rows.values), number)

    def _emit(
        self,
        out: PartWriter,
        documents: pa.Table,
        copies: Any,
        name: str,
        domain: str,
        rows: Any,
        number: dict[str, dict[str, int]],
    ) -> None:
        """Write the copies of one split and domain, one bucket a hash range."""
        rows = np.sort(rows)
        here = documents.take(pa.array(rows))
        order, keys = packing_order(here["id_hash"].to_numpy(), copies[rows], self.seed)
        ranges = self.ranges[name][domain]
        of_row = hash_range(keys, ranges)
        out.count(rows_in=len(rows), made=len(order) - len(rows), kept=len(order))
        for bucket in np.unique(of_row).tolist():
            chosen = np.flatnonzero(of_row == bucket)
            table = here.select(list(self.carried)).take(pa.array(order[chosen]))
            table = table.append_column("key", pa.array(keys[chosen])).combine_chunks()
            for batch in table.to_batches():
                out.piece("tokens", f"{name}/{number[name][domain]}/{bucket}", batch)


@dataclass(frozen=True)
class Pack:
    """Pack one bucket into sequences."""

    tokens: Slices
    domains: dict[str, tuple[str, ...]]  # split -> names in the order of the buckets' indices
    length: int
    tail: Literal["pad", "cut"]
    min_segment: int
    pad_id: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        bucket = split.payload["bucket"]
        name, index, _ = bucket.split("/")
        table = self.tokens.read(bucket)
        if table is None:
            return
        # equal keys are equal documents' copies or a 64-bit accident; the id settles both
        table = table.sort_by([("key", "ascending"), ("doc_id", "ascending")]).combine_chunks()
        ids = table["token_ids"].chunk(0)
        packed = pack(
            table["doc_id"].chunk(0),
            np.asarray(ids.flatten()),
            np.asarray(ids.offsets).astype(np.int64) - ids.offsets[0].as_py(),
            length=self.length,
            tail=self.tail,
            min_segment=self.min_segment,
            pad_id=self.pad_id,
            learn=table["learn_tokens"].chunk(0) if "learn_tokens" in table.schema.names else None,
        )
        domain = self.domains[name][int(index)]
        batch = to_batch(packed, domain)
        out.add_stats(
            {
                "tokens": {
                    name: {
                        domain: {
                            "in": packed.tokens_in,
                            "packed": packed.tokens_packed,
                            "cut": packed.tokens_cut,
                            "padding": packed.padding,
                            "learned": packed.tokens_learned,
                            "sequences": batch.num_rows,
                        }
                    }
                }
            }
        )
        if batch.num_rows:

            def write(sink: Any) -> TableDigest:
                write_sequences(sink, batch)
                return TableDigest.of(batch)

            out.file(f"{name}/{index}", write, "arrow", batch.num_rows, batch.schema)


class PackedSequences(Step):
    """Selected documents as fixed-length training sequences, by split and domain."""

    revision = 2

    def __init__(
        self,
        name: str,
        scored: str,
        selection: str,
        *,
        length: int,
        tail: Literal["pad", "cut"],
        min_segment: int,
        pad_id: int,
        seed: int,
        budget: float | None = None,
    ) -> None:
        self.name, self.parents, self.budget = name, (scored, selection), budget
        self.length, self.tail, self.min_segment, self.pad_id, self.seed = length, tail, min_segment, pad_id, seed

    def config(self) -> dict[str, Any]:
        return {
            "length": self.length,
            "tail": self.tail,
            "min_segment": self.min_segment,
            "pad_id": self.pad_id,
            "seed": self.seed,
            "tokens_per_range": TOKENS_PER_RANGE,
        }

    def build(self, context: Context) -> Built:
        scored, selection = (context.parents[name] for name in self.parents)
        chosen = selection.manifest.stats["domains"]
        ranges = {
            name: {
                domain: max(1, math.ceil(chosen[name][domain]["tokens"] / TOKENS_PER_RANGE))
                for domain in sorted(chosen[name])
                if chosen[name][domain]["copies"]
            }
            for name in ("train", "validation", "test")
            if name in chosen
        }
        selection_files = aligned_parts(self.name, scored, selection, "selection")
        carried: tuple[str, ...] = ("doc_id", "token_ids")
        if "learn_tokens" in scored.table("documents").columns:
            carried += ("learn_tokens",)
        work = Shuffle(scored.folder, selection.folder, selection_files, ranges, self.seed, carried)
        shuffled = context.run("shuffle", work, part_splits(scored.table("documents"), selection.digest))
        tokens = Slices.of(context.folder, shuffled, "tokens")
        buckets = [
            f"{name}/{index}/{bucket}"
            for name, domains in ranges.items()
            for index, count in enumerate(domains.values())
            for bucket in range(count)
        ]
        pack_work = Pack(
            tokens,
            {name: tuple(domains) for name, domains in ranges.items()},
            self.length,
            self.tail,
            self.min_segment,
            self.pad_id,
        )
        packed = context.run("pack", pack_work, splits_of({"bucket": b, "layout": tokens.layout} for b in buckets))
        built = context.collect([*shuffled, *packed])
        for name, domains in ranges.items():
            for index in range(len(domains)):
                entry = merge_parts(packed, f"{name}/{index}")
                if entry is not None:
                    built.tables[f"{name}/{index}"] = entry
        built.stats["domains"] = {name: list(domains) for name, domains in ranges.items()}
        self._check_tokens(built, chosen)
        return built

    def _check_tokens(self, built: Built, chosen: dict[str, Any]) -> None:
        """Sum of copies × tokens = tokens packed + tokens cut, per split and domain."""
        found = built.stats.get("tokens", {})
        for name, domains in built.stats["domains"].items():
            for domain in domains:
                expected = chosen[name][domain]["tokens"]
                count = found.get(name, {}).get(domain, {"in": 0, "packed": 0, "cut": 0})
                if count["in"] != expected or count["in"] != count["packed"] + count["cut"]:
                    raise DatasetError(
                        f"{self.name}: {name}/{domain}: copies × tokens = {expected}, got in {count['in']}, packed "
                        f"{count['packed']} + cut {count['cut']}; nothing was published"
                    )


def files_by_domain(tables: dict[str, TableEntry], domains: dict[str, list[str]], split: str) -> dict[str, list[str]]:
    """Paths of a split's sequence files by domain, relative to the dataset's folder."""
    return {
        domain: [f.path for f in tables[f"{split}/{index}"].files]
        for index, domain in enumerate(domains.get(split, []))
        if f"{split}/{index}" in tables
    }
