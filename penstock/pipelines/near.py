"""Near-duplicates over the whole corpus: from band keys to verdicts, without a pair ever being written down.

    bands      part -> band keys of its texts, by hash range; and whose they are      (the one read of text)
    edges      hash range -> documents that share a key, joined in stars, by node
    components edges -> each document's component: at once where they fit, else
      small-N, large-N   node range -> edges, until nothing moves
      labels             node range -> (document, label), by part
    attach     part -> members of components with id and preference, by label
    survive    label range -> verdicts, by part

Price for 1M documents of 14 bands: see docs/deduplication.md. ``bands`` writes 170 bytes a document; what follows
reads 12 bytes a key and holds about 60 for each of a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.dataset import hash_json, read_part
from penstock.pipelines.documents import PartSplit
from penstock.pipelines.history import WHOLE, Index
from penstock.pipelines.passes import PartWriter, Receipt, Slices, Split, add_numbers, splits_of
from penstock.pipelines.verdicts import ranges_for, rows_by_bucket, write_verdicts
from penstock.seeding import mix64
from penstock.selectors.components import Nodes, components, large_star, linked, pack, small_star, unpack
from penstock.selectors.minhash import MinHash
from penstock.selectors.survivor import best_first, preference, score_columns, sizes_of, survivor_of
from penstock.step import Context
from penstock.storage import Folder
from penstock.tokenization.packing import hash_range

STEP = "near_duplicates"
REASON = "near_duplicate"
BANDS_PER_RANGE = 4_000_000  # keys joined together: about 250 MB
EDGES_AT_ONCE = 8_000_000  # up to so many edges one process finds all components: at most 0.8 GB
EDGES_PER_RANGE = 4_000_000
MEMBERS_PER_RANGE = 1_000_000


def node_range(node: Nodes, ranges: int) -> NDArray[np.int64]:
    """Range of each node by a hash: nodes of one part, and hubs, spread over all."""
    return hash_range(mix64(node), ranges)


@dataclass(frozen=True)
class EmitBands:
    """Band keys of the texts of one part that no exact duplicate has dropped, and whose they are."""

    parent: Folder
    minhash: MinHash
    rule: str
    verdicts: Slices
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        exact = self.verdicts.read(str(piece.part))
        gone = np.zeros(0, np.int64) if exact is None else exact.filter(pc.is_valid(exact["reason"]))["row"].to_numpy()
        columns = ("text", "doc_id", "content_hash", *score_columns(self.rule))
        keys, rows, whose, first = [], [], [], 0
        for batch in read_part(self.parent, piece.file, columns):
            keep = np.ones(batch.num_rows, dtype=bool)
            low, high = np.searchsorted(gone, [first, first + batch.num_rows])
            keep[gone[low:high] - first] = False
            if low < high:
                batch = batch.filter(pa.array(keep))
            row = first + np.flatnonzero(keep)
            first += len(keep)
            key, long = self.minhash.keys(batch["text"])
            keys.append(key[long])
            rows.append(row[long].astype(np.int32))
            prefer = preference(self.rule, batch)
            whose.append(
                pa.table({"row": pa.array(row, pa.int32()), **_columns(batch), "prefer": prefer}).filter(pa.array(long))
            )
            out.add_stats({"texts": {"long": int(long.sum()), "short": int((~long).sum())}})
        row = np.repeat(np.concatenate(rows), self.minhash.bands)
        table = pa.table({"key": np.concatenate(keys).reshape(-1), "row": row})
        of_row = hash_range(table["key"].to_numpy(), self.ranges)
        rows_by_bucket(out, "bands", of_row, table, lambda number: f"{number}/{self.ranges}")
        for one in pa.concat_tables(whose).combine_chunks().to_batches():
            out.bucket("rows", WHOLE, one)


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {name: batch[name] for name in ("doc_id", "content_hash")}


@dataclass(frozen=True)
class Link:
    """Stars of the documents that share a key of one range, by the range of their greater node."""

    bands: Index
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        found = self.bands.read(split.payload["range"], self.ranges)
        if found is None:
            return
        node = pack(found["part"].to_numpy(), found["row"].to_numpy())
        member, least = linked(found["key"].to_numpy(), node)
        del node, found
        _write_edges(out, member, least, self.ranges)


def _write_edges(out: PartWriter, node: Nodes, other: Nodes, ranges: int) -> None:
    out.add_stats({"edges": len(node)})
    table = pa.table({"node": node, "other": other})
    rows_by_bucket(out, "edges", node_range(node, ranges), table, str)


def _read_edges(edges: Slices, buckets: Sequence[str]) -> tuple[Nodes, Nodes]:
    tables = [found for bucket in buckets if (found := edges.read(bucket)) is not None]
    empty = np.zeros(0, np.uint64)
    columns = [[table[name].to_numpy() for table in tables] for name in ("node", "other")]
    node, other = (np.concatenate([empty, *column]) for column in columns)
    return node, other


@dataclass(frozen=True)
class Star:
    """One small-star or large-star step over a range of nodes."""

    edges: Slices
    large: bool
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        node, other = _read_edges(self.edges, [str(split.payload["range"])])
        greater, least, moved = (large_star if self.large else small_star)(node, other)
        out.add_stats({"moved": moved})
        if self.large:
            _write_edges(out, greater, least, self.ranges)
        else:  # a large star sees an edge from both of its ends
            _write_edges(out, np.concatenate([greater, least]), np.concatenate([least, greater]), self.ranges)


@dataclass(frozen=True)
class Label:
    """(document, label) by part: of edges that are stars already, or of all edges at once."""

    edges: Slices
    stars: bool

    def __call__(self, split: Split, out: PartWriter) -> None:
        node, other = _read_edges(self.edges, split.payload["buckets"])
        if self.stars:
            # the least node of a component labels itself; every range that meets it says so
            centre = np.sort(other)
            centre = centre[np.diff(centre, prepend=~centre[:1]) != 0]
            node, label = np.concatenate([node, centre]), np.concatenate([other, centre])
        else:
            node, label = components(node, other)
        part, row = unpack(node)
        rows_by_bucket(out, "labels", part, pa.table({"row": row, "label": label}), str)


@dataclass(frozen=True)
class Attach:
    """Members of components in one part, with what decides who stays, by label; their exact copies go with them."""

    labels: Slices
    rows: Index
    copies: Slices
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        part: int = split.payload["part"]
        found, whose = self.labels.read(str(part)), self.rows.of_part(part)
        assert found is not None, "a split is a part that has labels"
        assert whose is not None, "what has a label has keys"
        row, at = _distinct(found["row"].to_numpy())
        label = found["label"].to_numpy()[at]
        place = np.searchsorted(whose["row"].to_numpy(), row)
        copies = self.copies.read(str(part))
        of_row = np.zeros(0, np.int64) if copies is None else copies["of"].to_numpy()
        at = np.minimum(np.searchsorted(row, of_row), len(row) - 1)
        mine = row[at] == of_row
        weight = np.ones(len(row), np.int64)
        np.add.at(weight, at[mine], 1)
        members = pa.table(
            {
                "label": label,
                "part": np.full(len(row), part, np.int32),
                "row": row,
                **{name: whose[name].take(pa.array(place)) for name in ("doc_id", "content_hash", "prefer")},
                "old": np.full(len(row), part >= self.rows.parts),
                "weight": weight,
            }
        )
        if copies is not None:
            other = copies.filter(pa.array(mine)).select(["part", "row"])
            other = other.add_column(0, "label", pa.array(label[at[mine]]))
            members = pa.concat_tables([members, other], promote_options="default")
        of_label = node_range(members["label"].to_numpy(), self.ranges)
        rows_by_bucket(out, "members", of_label, members, str)


def _distinct(row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows, ascending, and where each stands first."""
    order = np.argsort(row, kind="stable")
    at = order[np.diff(row[order], prepend=-1) != 0]
    return row[at], at


@dataclass(frozen=True)
class Survive:
    """One survivor in each component of a range of labels; verdicts by part."""

    members: Slices
    drop: bool

    def __call__(self, split: Split, out: PartWriter) -> None:
        found = self.members.read(str(split.payload["range"]))
        if found is None:
            return
        found = found.combine_chunks()
        rows, first = best_first(found.filter(pc.is_valid(found["doc_id"])), ("label",))
        copies = found.filter(pc.is_null(found["doc_id"]))
        size, stays = sizes_of(first, rows["weight"].to_numpy()), survivor_of(first)
        starts = np.flatnonzero(first)
        of_copy = starts[np.searchsorted(rows["label"].to_numpy()[starts], copies["label"].to_numpy())]
        winner = np.concatenate([stays, of_copy])
        mine = pc.invert(rows["old"])
        lost = pc.and_(pa.array(~first & self.drop), mine.combine_chunks())
        verdicts = pa.table(
            {
                "part": pa.concat_arrays([*rows["part"].chunks, *copies["part"].chunks]),
                "row": pa.concat_arrays([*rows["row"].chunks, *copies["row"].chunks]),
                "lost": pa.concat_arrays([lost, pa.repeat(pa.scalar(False), len(of_copy))]),
                "survivor": rows["doc_id"].take(pa.array(winner)),
                "hash": rows["content_hash"].take(pa.array(winner)),
                "size": size[winner],
            }
        )
        own = pa.concat_arrays([*mine.chunks, pa.repeat(pa.scalar(True), len(of_copy))])
        write_verdicts(out, verdicts.filter(own))
        # clusters of the history alone are none of this build's
        starts = starts[np.maximum.reduceat(np.asarray(mine), starts)] if len(starts) else starts
        bins = np.bincount(np.floor(np.log2(size[starts])).astype(int))
        sizes = {str(power): int(count) for power, count in enumerate(bins) if count}
        out.add_stats({"clusters": len(starts), "sizes": sizes})


def find_labels(context: Context, linked_edges: Sequence[Receipt], ranges: int, stats: dict[str, Any]) -> Slices:
    """(document, label) of every document in a component of two and more, by part."""
    edges = Slices.of(context.folder, linked_edges, "edges")
    total = sum(receipt.stats.get("edges", 0) for receipt in linked_edges)
    stats |= {"edges": total, "rounds": 0}
    if total <= EDGES_AT_ONCE:
        splits = splits_of([{"buckets": sorted(edges.slices), "layout": edges.layout}])
        return Slices.of(context.folder, context.run("components", Label(edges, stars=False), splits), "labels")
    moved = 1
    while moved:
        stats["rounds"] += 1
        moved = 0
        for name in ("small", "large"):
            splits = splits_of({"range": r, "layout": edges.layout} for r in range(ranges))
            receipts = context.run(f"{name}-{stats['rounds']}", Star(edges, name == "large", ranges), splits)
            edges = Slices.of(context.folder, receipts, "edges")
            moved += sum(receipt.stats.get("moved", 0) for receipt in receipts)
    splits = splits_of({"buckets": [str(r)], "layout": edges.layout} for r in range(ranges))
    return Slices.of(context.folder, context.run("labels", Label(edges, stars=True), splits), "labels")


def near_duplicates(
    context: Context, bands: Index, rows: Index, ranges: int, copies: Slices, *, drop: bool
) -> tuple[list[Receipt], dict[str, Any]]:
    """Receipts of the pass that wrote ``verdicts`` on all documents with a near-duplicate, and what was counted.

    Args:
        bands: band keys in ``ranges`` ranges; rows: whose they are.
        copies: exact copies of each row (``of``, ``part``, ``row``) by the part of ``of``.
        drop: whether verdicts drop all but the survivor.
    """
    stats: dict[str, Any] = {}
    splits = splits_of({"range": r, "layout": bands.layout} for r in range(ranges))
    edges = context.run("edges", Link(bands, ranges), splits)
    labels = find_labels(context, edges, ranges, stats)
    layout = hash_json([labels.layout, rows.layout, copies.layout])
    parts = sorted(map(int, labels.slices))
    members = ranges_for(stats["edges"], MEMBERS_PER_RANGE)
    splits = splits_of({"part": part, "layout": layout} for part in parts)
    attached = context.run("attach", Attach(labels, rows, copies, members), splits)
    found = Slices.of(context.folder, attached, "members")
    splits = splits_of({"range": r, "layout": found.layout} for r in range(members))
    survived = context.run("survive", Survive(found, drop), splits)
    for receipt in survived:
        add_numbers(stats, {name: receipt.stats[name] for name in ("clusters", "sizes") if name in receipt.stats})
    return survived, stats
