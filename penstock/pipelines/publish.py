"""The published dataset: selected rows in shards of a like size that ``datasets.load_dataset`` reads as they lie.

    data/train-00000-of-00003.parquet   zstd, page index, equal row groups, rows in corpus order
    dropped/train-00000-of-00003.parquet  rows the selection left out
    README.md                            the card, made from the manifest
    croissant.json                       the same for tools that search datasets
    manifest.json

The rows themselves say where a shard ends (``shards``), so its bytes depend on its rows alone, not on how the build was
split, and a corpus that grew has most of its shards already: those are taken over from an earlier build.

    places  part -> where shards may end
    shards  train shard <- the parts it overlaps; rows of the other splits that stand there go to parts of their own
    others  validation or test shard <- those parts

Shards are written as parts and get their fixed names at the end, by a link on a disk and a copy in a store (which then
holds them twice: the parts are what the next build takes over). An older manifest in the folder is taken away before
its names are given to other bytes: at no time does a manifest name bytes that are not its own.

Price: one read and one write of the text of train, two of the others; memory is one row group of a part and one of a
shard of each split. Where nothing changed: one look at id, bytes and copies of each row.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock import work as rowwork
from penstock.card import SPLITS, card, title_of
from penstock.croissant import CROISSANT, croissant, to_json
from penstock.dataset import MANIFEST, FileEntry, Manifest, hash_json, read_manifest, read_part, side_by_side
from penstock.errors import DatasetError
from penstock.lineage import steps_before
from penstock.pipelines.documents import aligned_parts, domain_stats, tokens_by_domain
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Receipt, Split, merge_counts
from penstock.pipelines.shards import Places, Shard, plan_shards
from penstock.selectors.sample import BottomK, Sampling
from penstock.step import Built, Context, Step
from penstock.storage import Folder

NOT_SELECTED = "not_selected"
COPIES_AT_ONCE = 16  # of files that get their names; a store copies them itself
_LEFT_OUT = ("id_hash", "content_hash", "token_ids", "learn_tokens", "split")
_NOT_READ = ("content_hash", "token_ids", "learn_tokens")  # large or not published


@dataclass(frozen=True)
class Joined:
    """Parts of documents beside those of their selection, joined by position; without selection, rows that have it."""

    documents: Folder
    document_files: tuple[FileEntry, ...]
    columns: tuple[str, ...]
    selection: Folder
    selection_files: tuple[FileEntry, ...]
    selection_columns: tuple[str, ...]

    def read(self, part: int) -> Iterator[pa.RecordBatch]:
        """Rows of a part with the selection's columns; both tables hold the same rows in the same order."""
        rows = read_part(self.documents, self.document_files[part], self.columns)
        if not self.selection_files:
            yield from rows
            return
        chosen = read_part(self.selection, self.selection_files[part], self.selection_columns)
        for batch, beside in side_by_side(rows, chosen):
            yield rowwork.with_columns(batch, {name: beside[name] for name in self.selection_columns})

    def content(self, part: int) -> list[str]:
        """What is in a part: sha256 of its files."""
        return [files[part].sha256 for files in (self.document_files, self.selection_files) if files]


@dataclass(frozen=True)
class FindPlaces:
    """Count the selected rows of one part that are for training, and note where a shard may end."""

    rows: Joined
    shard_bytes: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        places = Places(self.shard_bytes)
        for batch in self.rows.read(split.payload):
            chosen = batch.filter(pc.and_(pc.equal(batch["split"], SPLITS[0]), pc.greater(batch["copies"], 0)))
            out.add_stats(places.add(chosen["id_hash"], chosen["bytes"]))


@dataclass(frozen=True)
class WriteShard:
    """Read the parts that overlap a shard, keep its rows, write them.

    Rows of the splits ``others`` that stand among the shard's rows are set apart with all their columns.
    """

    rows: Joined
    dropped: str
    shard_bytes: int
    others: tuple[str, ...] = ()

    def __call__(self, split: Split, out: PartWriter) -> None:
        shard: Shard = split.payload
        samples: BottomK | None = None
        places = {name: Places(self.shard_bytes) for name in self.others}
        for batch, mine in self._rows_of(shard):
            for name, found in places.items():
                self._set_apart(batch.filter(pc.equal(batch["split"], name)), found, out)
            chosen = np.asarray(batch["copies"]) > 0
            keep, lose = mine & chosen, mine & ~chosen
            out.count(rows_in=int(mine.sum()), kept=int(keep.sum()))
            kept = batch.filter(pa.array(keep)).drop_columns([c for c in _LEFT_OUT if c in batch.schema.names])
            out.add_stats(
                {"domains": {shard.split: domain_stats(kept)}, "tokens": {shard.split: tokens_by_domain(kept)}}
            )
            if shard.split == "train":
                out.add_stats({"scores": {"selected": score_histograms(kept)}, "lengths": {"selected": lengths(kept)}})
                sample = sampling(kept).of(batch.filter(pa.array(keep)))
                samples = sample if samples is None else samples.merge(sample)
            out.write(shard.split, kept, group_rows=shard.group_rows)
            if lose.any():
                lost = batch.filter(pa.array(lose))
                reasons = pa.array([NOT_SELECTED] * lost.num_rows, pa.string())
                out.drop(lost, reasons, step="selection", keep=self.dropped, group_rows=65_536)
                out.add_stats(
                    {"scores": {"not_selected": score_histograms(lost)}, "lengths": {"not_selected": lengths(lost)}}
                )
        if samples is not None:
            write_summary(out, samples)

    def _rows_of(self, shard: Shard) -> Iterator[tuple[pa.RecordBatch, NDArray[np.bool_]]]:
        """Rows of all splits that stand in the shard, and which of them are its own."""
        for piece in shard.pieces:
            before = 0
            for batch in self.rows.read(piece.part):
                mine = np.asarray(pc.equal(batch["split"], shard.split))
                chosen = mine & (np.asarray(batch["copies"]) > 0)
                # a row left out stands with the next selected row
                position = before + np.cumsum(chosen) - chosen
                before += int(chosen.sum())
                here = position >= piece.first
                if piece.last is not None:
                    here &= position < piece.last
                yield batch.filter(pa.array(here)), mine[here]

    def _set_apart(self, rows: pa.RecordBatch, places: Places, out: PartWriter) -> None:
        if rows.num_rows:
            name = rows["split"][0].as_py()
            chosen = rows.filter(pc.greater(rows["copies"], 0))
            out.write(f"others.{name}", rows)
            out.add_stats({"others": {name: places.add(chosen["id_hash"], chosen["bytes"])}})


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

    revision = 3
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
        table = documents.table("documents")
        columns = tuple(c for c in selection.table("selection").columns if c not in table.columns)
        rows = Joined(
            documents.folder,
            table.files,
            tuple(c for c in table.columns if c not in _NOT_READ),
            selection.folder,
            aligned_parts(self.name, documents, selection, "selection"),
            columns,
        )
        found = self._places(context, rows)
        work = WriteShard(rows, context.settings.dropped, self.shard_bytes, SPLITS[1:])
        done = self._shards(context, work, plan_shards(SPLITS[0], found, self.shard_bytes))
        if not merge_counts(done[SPLITS[0]]).kept:
            raise DatasetError(
                f"{self.name}: the selection takes none of {table.rows:,} documents for training; raise "
                "select.omega or select.eps, or look at the drop reasons of the steps before"
            )
        for name in work.others:
            done |= self._others(context, work, name, done[SPLITS[0]])
        if read_manifest(context.folder) is not None:
            context.folder.remove([MANIFEST, "README.md", CROISSANT])
        receipts = [receipt for name, of in done.items() for receipt in named(context.folder, name, of)]
        # a smaller rebuild leaves shards of the older one; `commit` clears what the manifest does not name
        built = context.collect(receipts, *SPLITS, "dropped")
        built.stats.pop("others", None)
        samples = merge_summaries(context.folder, receipts, BottomK)
        if samples is not None:
            sink = io.BytesIO()
            pq.write_table(samples.rows, sink, compression="zstd")
            built.artifacts["samples.parquet"] = context.write_artifact(
                "samples.parquet", sink.getvalue(), path="samples.parquet"
            )
        built.stats["built_from"] = steps_before([documents, selection])
        return built

    def _places(self, context: Context, rows: Joined) -> list[dict[str, Any]]:
        """Where shards of train may end, by part."""
        few = replace(rows, columns=("id_hash", "split", "bytes"), selection_columns=("copies",))
        splits = [Split(part, part, memo=hash_json(rows.content(part))) for part in range(len(rows.document_files))]
        reuse = {"shard_bytes": self.shard_bytes}
        return [r.stats for r in context.run("places", FindPlaces(few, self.shard_bytes), splits, reuse=reuse)]

    def _shards(self, context: Context, work: WriteShard, shards: Sequence[Shard]) -> dict[str, list[Receipt]]:
        """Receipts of the pass that writes the shards of one split, by the name of the split."""
        name = shards[0].split
        splits = [
            Split(
                number,
                shard,
                memo=hash_json([[*work.rows.content(p.part), p.first, p.last] for p in shard.pieces]),
            )
            for number, shard in enumerate(shards)
        ]
        reuse = {
            "columns": [work.rows.columns, work.rows.selection_columns],
            "others": work.others,
            "shard_bytes": self.shard_bytes,
        }
        return {name: context.run(name, work, splits, reuse=reuse)}

    def _others(
        self, context: Context, work: WriteShard, name: str, done: Sequence[Receipt]
    ) -> dict[str, list[Receipt]]:
        """Shards of validation or test, from the parts that the shards of train set apart."""
        apart = [(r.parts[f"others.{name}"], r.stats["others"][name]) for r in done if f"others.{name}" in r.parts]
        if not apart:
            return {}
        rows = Joined(
            context.folder, tuple(part.file for part, _ in apart), tuple(apart[0][0].columns), context.folder, (), ()
        )
        shards = plan_shards(name, [places for _, places in apart], self.shard_bytes)
        return self._shards(context, replace(work, rows=rows, others=()), shards)

    def finish(self, folder: Folder, manifest: Manifest) -> None:
        folder.write_bytes("README.md", card(title_of(manifest), manifest).encode())
        folder.write_bytes(CROISSANT, to_json(croissant(manifest)))


def named(folder: Folder, split: str, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Give the files of a split's shards their published names; returns the receipts with those."""
    out, links = [], []
    for index, receipt in enumerate(receipts):
        parts = dict(receipt.parts)
        for table, below in ((split, "data"), ("dropped", "dropped")):
            if table in parts:
                path = f"{below}/{split}-{index:05d}-of-{len(receipts):05d}.parquet"
                links.append((parts[table].file.path, path))
                parts[table] = replace(parts[table], file=replace(parts[table].file, path=path))
        out.append(replace(receipt, parts=parts))
    folder.remove([path for _, path in links])  # a link takes no name that is taken
    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        for copied in [pool.submit(folder.copy_from, folder, part, path) for part, path in links]:
            copied.result()
    return out
