"""The published dataset: selected rows in balanced shards that ``datasets.load_dataset`` reads as they lie.

    data/train-00000-of-00003.parquet   zstd, page index, equal row groups, rows in corpus order
    dropped/train-00000-of-00003.parquet  rows the selection left out
    README.md                            the card, made from the manifest
    croissant.json                       the same for tools that search datasets
    manifest.json

Shards are cut by counting selected rows over all parts, so their bytes depend on the rows alone, not on
how the build was split. Because the names are fixed, an older manifest in the folder is taken away
before its files are overwritten: at no time does a manifest name bytes that are not its own.

    shards  train shard <- the parts it overlaps; rows of the other splits that stand there go to parts of their own
    others  validation or test shard <- those parts

Price: one read and one write of the text of train, two of the others; memory is one row group of a part and one of a
shard of each split.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import work as rowwork
from penstock.card import SPLITS, card, title_of
from penstock.croissant import CROISSANT, croissant, to_json
from penstock.dataset import MANIFEST, FileEntry, Manifest, hash_json, read_manifest, read_part, side_by_side
from penstock.errors import DatasetError
from penstock.lineage import steps_before
from penstock.pipelines.documents import aligned_parts, domain_stats, tokens_by_domain
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Receipt, Split, splits_of
from penstock.selectors.sample import BottomK, Sampling
from penstock.step import Built, Context, Step
from penstock.storage import Folder

NOT_SELECTED = "not_selected"
GROUP_BYTES = 8 << 20  # text in a row group, before compression
_RECEIPT = re.compile(r"[0-9a-f]{12}/.*\.json$")
_LEFT_OUT = ("id_hash", "content_hash", "token_ids", "learn_tokens", "split")
_NOT_READ = ("content_hash", "token_ids", "learn_tokens")  # large or not published


@dataclass(frozen=True)
class Shard:
    """Rows ``first`` to ``last`` of the selected rows of one split; ``parts`` are (part, selected rows before it)."""

    split: str
    index: int
    of: int
    first: int
    last: int
    parts: tuple[tuple[int, int], ...]
    group_rows: int
    layout: str


@dataclass(frozen=True)
class WriteShard:
    """Read the parts that overlap a shard, keep its rows, write it under its final name.

    Rows of the splits ``others`` that stand among the shard's rows are set apart with all their columns.
    """

    documents: Folder
    document_files: tuple[FileEntry, ...]
    columns: tuple[str, ...]
    selection: Folder
    selection_files: tuple[FileEntry, ...]
    selection_columns: tuple[str, ...]
    dropped: str
    others: tuple[str, ...] = ()

    def __call__(self, split: Split, out: PartWriter) -> None:
        shard: Shard = split.payload
        name = f"{shard.split}-{shard.index:05d}-of-{shard.of:05d}.parquet"
        final = shard.index == shard.of - 1
        samples: BottomK | None = None
        for part, before in shard.parts:
            for batch in self._aligned(part):
                mine = np.asarray(pc.equal(batch["split"], shard.split))
                chosen = mine & (np.asarray(batch["copies"]) > 0)
                # a row left out belongs to the shard of the next selected row
                position = before + np.cumsum(chosen) - chosen
                before += int(chosen.sum())
                here = (position >= shard.first) & ((position < shard.last) | final)
                for other in self.others:
                    self._set_apart(batch.filter(pa.array(here & np.asarray(pc.equal(batch["split"], other)))), out)
                inside = mine & here
                keep, lose = inside & chosen, inside & ~chosen
                out.count(rows_in=int(inside.sum()), kept=int(keep.sum()))
                kept = batch.filter(pa.array(keep)).drop_columns([c for c in _LEFT_OUT if c in batch.schema.names])
                out.add_stats(
                    {"domains": {shard.split: domain_stats(kept)}, "tokens": {shard.split: tokens_by_domain(kept)}}
                )
                if shard.split == "train":
                    out.add_stats(
                        {"scores": {"selected": score_histograms(kept)}, "lengths": {"selected": lengths(kept)}}
                    )
                    sample = sampling(kept).of(batch.filter(pa.array(keep)))
                    samples = sample if samples is None else samples.merge(sample)
                out.write(shard.split, kept, path=f"data/{name}", group_rows=shard.group_rows)
                if lose.any():
                    lost = batch.filter(pa.array(lose))
                    reasons = pa.array([NOT_SELECTED] * lost.num_rows, pa.string())
                    path = f"dropped/{name}"
                    out.drop(lost, reasons, step="selection", keep=self.dropped, path=path, group_rows=65_536)
                    out.add_stats(
                        {"scores": {"not_selected": score_histograms(lost)}, "lengths": {"not_selected": lengths(lost)}}
                    )
        if samples is not None:
            write_summary(out, samples)

    def _set_apart(self, rows: pa.RecordBatch, out: PartWriter) -> None:
        if rows.num_rows:
            name = rows["split"][0].as_py()
            chosen = rows.filter(pc.greater(rows["copies"], 0))
            out.write(f"others.{name}", rows)
            size = pc.sum(chosen["bytes"]).as_py() or 0
            out.add_stats({"others": {name: {"selected": chosen.num_rows, "bytes": size}}})

    def _aligned(self, part: int) -> Iterator[pa.RecordBatch]:
        """Rows of a part with the selection's columns; both tables hold the same rows in the same order."""
        if not self.selection_files:
            yield from read_part(self.documents, self.document_files[part], self.columns)
            return
        rows = read_part(self.documents, self.document_files[part], self.columns)
        chosen = read_part(self.selection, self.selection_files[part], self.selection_columns)
        for batch, beside in side_by_side(rows, chosen):
            yield rowwork.with_columns(batch, {name: beside[name] for name in self.selection_columns})


SAMPLES_PER_DOMAIN = 4
SCORE_BINS = 20


def sampling(rows: pa.RecordBatch) -> Sampling:
    """A few selected rows of each domain, by hash of their id, for people to look at."""
    scores = tuple(c for c in rows.schema.names if c.startswith("score."))
    columns = ("domain", "source", "text", "copies", *scores)
    return Sampling(seed=0, purpose="samples", columns=columns, stratum="domain", rows=SAMPLES_PER_DOMAIN)


def score_histograms(rows: pa.RecordBatch) -> dict[str, dict[str, dict[str, int]]]:
    """Counts of each score in [0, 1] in equal bins, by score and domain; other values are not counted."""
    out: dict[str, dict[str, dict[str, int]]] = {}
    for name in rows.schema.names:
        if not name.startswith("score."):
            continue
        scored = rows.filter(pc.is_valid(rows[name]))
        values = scored[name].to_numpy(zero_copy_only=False)
        inside = (values >= 0) & (values <= 1)
        bins = np.minimum((values[inside] * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
        out[name] = _counts(scored["domain"].filter(pa.array(inside)), bins)
    return out


def lengths(rows: pa.RecordBatch) -> dict[str, dict[str, int]]:
    """Counts of text lengths in power-of-two bins of bytes, by domain."""
    size = np.maximum(rows["bytes"].to_numpy(zero_copy_only=False), 1)
    return _counts(rows["domain"], np.floor(np.log2(size)).astype(np.int64))


def _counts(domain: pa.Array, bins: Any) -> dict[str, dict[str, int]]:
    table = pa.table({"domain": domain, "bin": bins})
    out: dict[str, dict[str, int]] = {}
    for row in table.group_by(["domain", "bin"]).aggregate([([], "count_all")]).to_pylist():
        out.setdefault(row["domain"], {})[str(row["bin"])] = row["count_all"]
    return out


class Published(Step):
    """Selected documents as a dataset folder."""

    revision = 2
    modules = ("penstock.dataset.TableWriter",)  # whose bytes are published
    libraries = ("pyarrow",)

    def __init__(
        self,
        name: str,
        documents: str,
        selection: str,
        title: str,
        shard_bytes: int,
        budget: float | None = None,
        said: dict[str, Any] | None = None,
    ) -> None:
        """``said`` is what the recipe's ``card`` section says; the card and croissant.json repeat it."""
        self.name, self.parents, self.title = name, (documents, selection), title
        self.shard_bytes, self.budget, self.said = shard_bytes, budget, said or {}

    def config(self) -> dict[str, Any]:
        # a recipe that says nothing for the card keeps the key it had
        return {"title": self.title, "shard_bytes": self.shard_bytes, **({"card": self.said} if self.said else {})}

    def build(self, context: Context) -> Built:
        documents, selection = (context.parents[name] for name in self.parents)
        if read_manifest(context.folder) is not None:
            context.folder.remove([MANIFEST, "README.md", CROISSANT])
        # shards of every key have the same names: a receipt of another key would vouch for a file overwritten here
        receipts = [name for name in context.folder.files() if _RECEIPT.match(name)]
        context.folder.remove([name for name in receipts if not name.startswith(context.prefix)])
        document_files = documents.table("documents").files
        selection_files = aligned_parts(self.name, documents, selection, "selection")
        columns = tuple(
            c for c in selection.table("selection").columns if c not in documents.table("documents").columns
        )
        wanted = tuple(c for c in documents.table("documents").columns if c not in _NOT_READ)
        work = WriteShard(
            documents.folder,
            document_files,
            wanted,
            selection.folder,
            selection_files,
            columns,
            context.settings.dropped,
            SPLITS[1:],
        )
        # a part without rows for train is read too: the rows of the other splits are in it
        none = {"selected": 0, "bytes": 0}
        counts = {part: {"train": of.get("train", none)} for part, of in selection.manifest.stats["parts"].items()}
        shards = plan_shards(counts, self.shard_bytes, context.key[:12], SPLITS[:1])
        done = context.run("shards", work, splits_of(shards))
        if not any("train" in receipt.parts for receipt in done):
            rows = documents.table("documents").rows
            raise DatasetError(
                f"{self.name}: the selection takes none of {rows:,} documents for training; raise "
                "select.omega or select.eps, or look at the drop reasons of the steps before"
            )
        done += self._others(context, work, done)
        # a smaller rebuild leaves shards of the older one; `commit` clears what the manifest does not name
        built = context.collect(done, *SPLITS, "dropped")
        built.stats.pop("others", None)
        samples = merge_summaries(context.folder, done, BottomK)
        if samples is not None:
            sink = io.BytesIO()
            pq.write_table(samples.rows, sink, compression="zstd")
            built.artifacts["samples.parquet"] = context.write_artifact(
                "samples.parquet", sink.getvalue(), path="samples.parquet"
            )
        built.stats["built_from"] = steps_before([documents, selection])
        return built

    def _others(self, context: Context, work: WriteShard, done: Sequence[Receipt]) -> list[Receipt]:
        """Shards of validation and test, from the parts that the shards of train set apart."""
        out = []
        for name in work.others:
            table = f"others.{name}"
            found = [(r.parts[table], r.stats["others"][name]) for r in done if table in r.parts]
            if found:
                files = tuple(part.file for part, _ in found)
                own = replace(
                    work,
                    documents=context.folder,
                    document_files=files,
                    columns=tuple(found[0][0].columns),
                    selection_files=(),
                    selection_columns=(),
                    others=(),
                )
                counts = {str(number): {name: count} for number, (_, count) in enumerate(found)}
                shards = plan_shards(counts, self.shard_bytes, hash_json([file.path for file in files]), (name,))
                out += context.run(name, own, splits_of(shards))
        return out

    def finish(self, folder: Folder, manifest: Manifest) -> None:
        folder.write_bytes("README.md", card(title_of(manifest), manifest).encode())
        folder.write_bytes(CROISSANT, to_json(croissant(manifest)))


def plan_shards(
    parts: dict[str, dict[str, dict[str, int]]], shard_bytes: int, layout: str, splits: Sequence[str] = SPLITS
) -> list[Shard]:
    """Cut each split into shards of nearly equal row counts.

    Args:
        parts: part -> split -> ``selected`` and ``bytes`` (of text, selected rows only).
    """
    shards = []
    for name in splits:
        order = sorted((int(part), of[name]) for part, of in parts.items() if name in of)
        rows = sum(count["selected"] for _, count in order)
        size = sum(count["bytes"] for _, count in order)
        if not order:
            continue
        of = max(1, math.ceil(size / shard_bytes))
        of = min(of, max(rows, 1))
        group_rows = max(1, min(65_536, round(GROUP_BYTES / max(size / max(rows, 1), 1))))
        for index in range(of):
            first, last = rows * index // of, rows * (index + 1) // of
            overlapping, before = [], 0
            for part, count in order:
                after = before + count["selected"]
                # rows left out stand at the count of selected rows before them, so a part reaches up to `after`
                if after >= first and (before < last or index == of - 1):
                    overlapping.append((part, before))
                before = after
            shards.append(Shard(name, index, of, first, last, tuple(overlapping), group_rows, layout))
    return shards
