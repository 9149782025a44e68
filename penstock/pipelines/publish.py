"""The published dataset: selected rows in balanced shards that ``datasets.load_dataset`` reads as they lie.

    data/train-00000-of-00003.parquet   zstd, page index, equal row groups, rows in corpus order
    dropped/train-00000-of-00003.parquet  rows the selection left out
    README.md                            the card, made from the manifest
    manifest.json

Shards are cut by counting selected rows over all parts, so their bytes depend on the rows alone, not on
how the build was split. Because the names are fixed, an older manifest in the folder is taken away
before its files are overwritten: at no time does a manifest name bytes that are not its own.

Price: one read of the text; memory is one row group of a part and one of a shard.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from penstock import work as rowwork
from penstock.dataset import MANIFEST, FileEntry, Manifest, read_manifest, read_part
from penstock.errors import DatasetError
from penstock.pipelines.documents import domain_stats, tokens_by_domain
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Split, splits_of
from penstock.pipelines.select import aligned_parts
from penstock.selectors.sample import BottomK, Sampling
from penstock.step import Built, Context, Step
from penstock.storage import Folder

SPLITS = ("train", "validation", "test")
NOT_SELECTED = "not_selected"
GROUP_BYTES = 8 << 20  # text in a row group, before compression
_RECEIPT = re.compile(r"[0-9a-f]{12}/.*\.json$")
_LEFT_OUT = ("id_hash", "content_hash", "token_ids", "split")


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
    """Read the parts that overlap a shard, keep its rows, write it under its final name."""

    documents: Folder
    document_files: tuple[FileEntry, ...]
    selection: Folder
    selection_files: tuple[FileEntry, ...]
    selection_columns: tuple[str, ...]
    dropped: str

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
                inside = mine & (position >= shard.first) & ((position < shard.last) | final)
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
                    rows = rowwork.drop_rows(lost, reasons, step="selection", keep=self.dropped)
                    out.write("dropped", rows, path=f"dropped/{name}", group_rows=65_536)
                    out.count(dropped={"selection": {NOT_SELECTED: lost.num_rows}})
                    out.add_stats(
                        {"scores": {"not_selected": score_histograms(lost)}, "lengths": {"not_selected": lengths(lost)}}
                    )
        if samples is not None:
            write_summary(out, samples)

    def _aligned(self, part: int) -> Iterator[pa.RecordBatch]:
        """Rows of a part with the selection's columns; both tables hold the same rows in the same order."""
        selection = read_part(self.selection, self.selection_files[part], self.selection_columns)
        rest: pa.RecordBatch | None = None
        for batch in read_part(self.documents, self.document_files[part]):
            have: list[pa.RecordBatch] = []
            need = batch.num_rows
            while need:
                if rest is None or rest.num_rows == 0:
                    rest = next(selection)
                take = rest.slice(0, need)
                rest = rest.slice(take.num_rows)
                have.append(take)
                need -= take.num_rows
            columns = pa.Table.from_batches(have).combine_chunks()
            extra = {name: columns[name].chunk(0) for name in self.selection_columns}
            yield rowwork.with_columns(batch, extra)


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

    revision = 1
    modules = ("penstock.dataset.TableWriter",)  # whose bytes are published
    libraries = ("pyarrow",)

    def __init__(
        self, name: str, documents: str, selection: str, title: str, shard_bytes: int, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.title = name, (documents, selection), title
        self.shard_bytes, self.budget = shard_bytes, budget

    def config(self) -> dict[str, Any]:
        return {"title": self.title, "shard_bytes": self.shard_bytes}

    def build(self, context: Context) -> Built:
        documents, selection = (context.parents[name] for name in self.parents)
        if read_manifest(context.folder) is not None:
            context.folder.remove([MANIFEST, "README.md"])
        # shards of every key have the same names: a receipt of another key would vouch for a file overwritten here
        receipts = [name for name in context.folder.files() if _RECEIPT.match(name)]
        context.folder.remove([name for name in receipts if not name.startswith(context.prefix)])
        document_files = documents.table("documents").files
        selection_files = aligned_parts(self.name, documents, selection)
        columns = tuple(
            c for c in selection.table("selection").columns if c not in documents.table("documents").columns
        )
        work = WriteShard(
            documents.folder,
            document_files,
            selection.folder,
            selection_files,
            columns,
            context.settings.dropped,
        )
        shards = plan_shards(selection.manifest.stats["parts"], self.shard_bytes, context.key[:12])
        done = context.run("shards", work, splits_of(shards))
        # a smaller rebuild leaves shards of the older one; `commit` clears what the manifest does not name
        built = context.collect(done, *SPLITS, "dropped")
        if "train" not in built.tables:
            raise DatasetError(
                f"{self.name}: the selection takes none of {built.counts.rows_in:,} documents for training; raise "
                "select.omega or select.eps, or look at the drop reasons of the steps before"
            )
        samples = merge_summaries(context.folder, done, BottomK)
        if samples is not None:
            sink = io.BytesIO()
            pq.write_table(samples.rows, sink, compression="zstd")
            built.artifacts["samples.parquet"] = context.write_artifact(
                "samples.parquet", sink.getvalue(), path="samples.parquet"
            )
        return built

    def finish(self, folder: Folder, manifest: Manifest) -> None:
        folder.write_bytes("README.md", card(self.title, manifest).encode())


def plan_shards(parts: dict[str, dict[str, dict[str, int]]], shard_bytes: int, layout: str) -> list[Shard]:
    """Cut each split into shards of nearly equal row counts.

    Args:
        parts: part -> split -> ``selected``, ``rows`` and ``bytes`` (of text, selected rows only).
    """
    shards = []
    for name in SPLITS:
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


SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))


def card(title: str, manifest: Manifest) -> str:
    """The dataset card: every number in it is read from the manifest."""
    present = [name for name in SPLITS if name in manifest.tables]
    rows = {name: manifest.tables[name].rows for name in present}
    size = next((label for label, bound in SIZES if sum(rows.values()) < bound), "n>10M")
    front = {
        "pretty_name": title,
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["penstock"],
        "configs": [
            {
                "config_name": "default",
                "default": True,
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in present],
            }
        ],
        "dataset_info": {
            "splits": [{"name": n, "num_examples": rows[n], "num_bytes": text_bytes(manifest, n)} for n in present]
        },
    }
    lines = [
        f"# {_plain(title)}",
        "",
        "Built by penstock; `manifest.json` names every file with its sha256.",
        "",
        "| split | rows | files | tokens |",
        "|---|---:|---:|---:|",
    ]
    tokens = manifest.stats.get("tokens", {})
    for name in present:
        count = sum(tokens.get(name, {}).values())
        lines.append(f"| {name} | {rows[name]:,} | {len(manifest.tables[name].files)} | {count:,} |")
    lines += ["", "| domain | rows (train) | tokens (train) |", "|---|---:|---:|"]
    domains = manifest.stats.get("domains", {}).get("train", {})
    for domain in sorted(domains):
        count = tokens.get("train", {}).get(domain, 0)
        lines.append(f"| {_plain(domain)} | {domains[domain]['rows']:,} | {count:,} |")
    lines += [
        "",
        "`copies` says how often the selection takes a row: train on it that often. `score.*` is what it looked at.",
        "",
        f"digest `{manifest.digest}` · key `{manifest.key}`",
        "",
    ]
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n" + "\n".join(lines)


def text_bytes(manifest: Manifest, split: str) -> int:
    """UTF-8 bytes of text in a published split."""
    return sum(domain["bytes"] for domain in manifest.stats["domains"].get(split, {}).values())


def _plain(text: str) -> str:
    """Text that cannot start Markdown or HTML of its own."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return "".join(f"&#{ord(c)};" if c in "\\`*_[]<>|#&!" else c for c in shown)
