"""Near-duplicates over the whole corpus: from band keys to verdicts, without a pair ever being written down.

    bands      part -> band keys of its texts, by hash range; whose they are, who is joined   (the one read of text)
    edges      hash range -> documents that share a key, joined in stars, by node
    components edges -> each document's component: at once where they fit, else
      small-N, large-N   node range -> edges, until nothing moves
      labels             node range -> (document, label), by part
    attach     part -> the best member of each component with id and preference, by label; whom it stands for, by part
    survive    label range -> verdicts on those, by part

What is alike within a part is joined there, and the least of it stands for the others: a page that comes a million
times with another date costs a range of keys, a hub's range and a range of labels one row a part each, not a million.

Price for 1M documents of 14 bands: see docs/deduplication.md. ``bands`` writes 170 bytes a document; what follows
reads 12 bytes a key and holds about 60 for each of a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.dataset import hash_json, read_part
from penstock.pipelines.documents import PartSplit
from penstock.pipelines.history import WHOLE, Index
from penstock.pipelines.passes import PartWriter, Receipt, Slices, Split, add_numbers, splits_of
from penstock.pipelines.verdicts import digests_of, ranges_for, rows_by_bucket, write_verdicts
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
EDGES_PER_RANGE = 1_000_000  # documents whose edges are joined together: at most 14 edges of 100 bytes each
MEMBERS_PER_RANGE = 1_000_000


def node_range(node: Nodes, ranges: int) -> NDArray[np.int64]:
    """Range of each node by a hash: nodes of one part, and hubs, spread over all."""
    return hash_range(mix64(node), ranges)


class Bands(NamedTuple):
    """What the pass ``bands`` wrote: band keys, whose they are, and documents that another of their part stands for."""

    bands: Index
    rows: Index
    alike: Index


class Copies(NamedTuple):
    """Exact copies of rows that stay: in other parts (``of``: ``part``, ``row``, ``count``) and in the row's own."""

    elsewhere: Slices
    twins: Index


class Judged(NamedTuple):
    """Verdicts on leads by part, the rows of a part that one of its leads stands for, and digests of both by part."""

    verdicts: Slices
    attached: Slices
    digests: tuple[dict[str, list[int]], ...]


@dataclass(frozen=True)
class EmitBands:
    """Band keys of the texts of one part that no exact duplicate has dropped, and whose they are.

    Texts that share a key are joined here, and their keys are those of the least of them, each once.
    """

    parent: Folder
    minhash: MinHash
    rule: str
    verdicts: Slices
    twins: Index
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        gone = self._gone(piece.part)
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
        own: NDArray[np.int32] = np.concatenate(rows)
        key, of_key, lead = joined(np.concatenate(keys), own)
        table = pa.table({"key": key, "row": of_key})
        of_row = hash_range(table["key"].to_numpy(), self.ranges)
        rows_by_bucket(out, "bands", of_row, table, lambda number: f"{number}/{self.ranges}")
        for one in pa.concat_tables(whose).combine_chunks().to_batches():
            out.piece("rows", WHOLE, one)
        led = lead != own
        if led.any():
            out.add_stats({"alike": int(led.sum())})
            out.piece("alike", WHOLE, pa.record_batch({"row": own[led], "lead": lead[led]}))

    def _gone(self, part: int) -> NDArray[np.int64]:
        """Rows that are exact duplicates, ascending: verdicts come range by range."""
        exact, twins = self.verdicts.read(str(part)), self.twins.of_part(part)
        found = [] if exact is None else [exact.filter(pc.is_valid(exact["reason"]))["row"].to_numpy()]
        found += [] if twins is None else [twins["row"].to_numpy()]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))


def joined(
    keys: NDArray[np.uint64], row: NDArray[np.int32]
) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """Join rows of one part that share a key.

    Args:
        keys: (rows, bands); row: (rows,), ascending.

    Returns:
        ``key`` and ``lead`` (pairs,), each pair once, and for each row the least one that it is joined to (rows,).
    """
    of_key = np.repeat(row, keys.shape[1])
    member, least = linked(keys.reshape(-1), of_key.astype(np.uint64))
    lead = row.copy()
    lead[np.searchsorted(row, member.astype(np.int32))] = least.astype(np.int32)
    crowd = np.isin(lead, least.astype(np.int32))  # rows with company, whose keys come more than once
    some, of_some = keys[crowd].reshape(-1), np.repeat(lead[crowd], keys.shape[1])
    order = np.lexsort((of_some, some))
    some, of_some = some[order], of_some[order]
    new = np.ones(len(some), dtype=bool)
    new[1:] = (some[1:] != some[:-1]) | (of_some[1:] != of_some[:-1])
    alone = ~np.repeat(crowd, keys.shape[1])
    return (
        np.concatenate([keys.reshape(-1)[alone], some[new]]),
        np.concatenate([of_key[alone], of_some[new]]),
        lead,
    )


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {name: batch[name] for name in ("doc_id", "content_hash")}


@dataclass(frozen=True)
class Link:
    """Stars of the documents that share a key of one range, by the range of their greater node."""

    bands: Index
    ranges: int
    nodes: int  # ranges of them

    def __call__(self, split: Split, out: PartWriter) -> None:
        found = self.bands.read(split.payload["range"], self.ranges)
        if found is None:
            return
        node = pack(found["part"].to_numpy(), found["row"].to_numpy())
        member, least = linked(found["key"].to_numpy(), node)
        del node, found
        _write_edges(out, member, least, self.nodes)


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
    """The members of components in one part, of each the one that would stay among them, by label.

    Whom it stands for goes to the part where that is: the other members here, and exact copies anywhere.
    """

    labels: Slices
    bands: Bands
    copies: Copies
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        part: int = split.payload["part"]
        members = self._members(part)
        weight, elsewhere = self._copies(part, members["row"].to_numpy(), members["label"].to_numpy())
        best, first = best_first(members.append_column("weight", pa.array(weight)), ("label",))
        total = sizes_of(first, best["weight"].to_numpy())
        best = best.set_column(best.column_names.index("weight"), "weight", pa.array(total))
        # of an earlier dataset nothing becomes
        followers = _attached(best, survivor_of(first), ~first & (part < self.bands.rows.parts), copy=False)
        elsewhere = elsewhere.sort_by([(name, "ascending") for name in ("label", "part", "row")])
        one = _opens(elsewhere, "label", "part")
        gone = _attached(elsewhere, survivor_of(one), ~one, copy=True)
        sent = [best.filter(pa.array(first)), elsewhere.filter(pa.array(one))]
        sent_rows = pa.concat_tables(sent, promote_options="default")
        rows_by_bucket(out, "members", node_range(sent_rows["label"].to_numpy(), self.ranges), sent_rows, str)
        write_verdicts(out, pa.concat_tables([followers, gone]), "attached")

    def _members(self, part: int) -> pa.Table:
        """Rows of the part that are in a component, in their order, with what decides who stays."""
        whose, found, alike = self.bands.rows.of_part(part), self.labels.read(str(part)), self.bands.alike.of_part(part)
        assert whose is not None, "what has a label has keys"
        row = whose["row"].to_numpy().astype(np.int64)
        lead, member = row.copy(), np.zeros(len(row), dtype=bool)
        if alike is not None:
            lead[np.searchsorted(row, alike["row"].to_numpy())] = alike["lead"].to_numpy()
            member |= np.isin(lead, alike["lead"].to_numpy())
        label = pack(np.full(len(row), part), lead)  # of a component that lies in this part alone
        if found is not None:
            labelled, at = _distinct(found["row"].to_numpy())
            place, hit = _found(labelled, lead)
            label[hit] = found["label"].to_numpy()[at][place[hit]]
            member |= hit
        columns = {
            "label": label,
            "part": np.full(len(row), part, np.int32),
            "row": row,
            **{name: whose[name] for name in ("doc_id", "content_hash", "prefer")},
            "old": np.full(len(row), part >= self.bands.rows.parts),
        }
        return pa.table(columns).filter(pa.array(member))

    def _copies(self, part: int, row: NDArray[np.int64], label: Nodes) -> tuple[NDArray[np.int64], pa.Table]:
        """How many rows each of the part's members (ascending) is with its exact copies, and those of other parts."""
        weight = np.ones(len(row), np.int64)
        twins, copies = self.copies.twins.of_part(part), self.copies.elsewhere.read(str(part))
        if twins is not None:
            at, mine = _found(row, twins["lead"].to_numpy())
            np.add.at(weight, at[mine], 1)
        if copies is None:
            return weight, pa.schema([("label", pa.uint64()), ("part", pa.int32()), ("row", pa.int64())]).empty_table()
        at, mine = _found(row, copies["of"].to_numpy())
        np.add.at(weight, at[mine], copies["count"].to_numpy()[mine])
        elsewhere = copies.select(["part", "row"]).add_column(0, "label", pa.array(label[at]))
        return weight, elsewhere.filter(pa.array(mine))


def _found(rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of ``wanted`` is among ascending ``rows``, of which there are some, and whether it is there."""
    at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return at, rows[at] == wanted


def _opens(rows: pa.Table, *columns: str) -> NDArray[np.bool_]:
    """Whether each row is the first with its values of some columns; equal ones follow each other."""
    first = np.zeros(rows.num_rows, dtype=bool)
    first[:1] = True
    for name in columns:
        value = rows[name].to_numpy()
        first[1:] |= value[1:] != value[:-1]
    return first


def _attached(rows: pa.Table, lead: NDArray[np.int64], some: NDArray[np.bool_], *, copy: bool) -> pa.Table:
    """``row`` and ``part`` of some rows, the ``row`` at ``lead`` that stands for each, and whether it is a ``copy``."""
    columns = {
        "part": rows["part"],
        "row": rows["row"],
        "lead": rows["row"].take(pa.array(lead)),
        "copy": pa.repeat(pa.scalar(copy), rows.num_rows),
    }
    return pa.table(columns).filter(pa.array(some))


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
    context: Context, bands: Bands, ranges: int, nodes: int, copies: Copies, stats: dict[str, Any], *, drop: bool
) -> Judged:
    """Verdicts on all documents with a near-duplicate.

    Args:
        bands: band keys in ``ranges`` ranges, and whose they are.
        nodes: ranges of documents for their edges.
        stats: what the pass ``bands`` counted; what is counted here is added.
        drop: whether verdicts drop all but the survivor.
    """
    splits = splits_of({"range": r, "layout": bands.bands.layout} for r in range(ranges))
    edges = context.run("edges", Link(bands.bands, ranges, nodes), splits)
    labels = find_labels(context, edges, nodes, stats)
    tables = (labels, bands.rows, bands.alike, copies.elsewhere, copies.twins)
    layout = hash_json([table.layout for table in tables])
    parts = sorted({*map(int, labels.slices), *bands.alike.parts_with_rows})
    members = ranges_for(stats["edges"] + stats.get("alike", 0), MEMBERS_PER_RANGE)
    splits = splits_of({"part": part, "layout": layout} for part in parts)
    attached = context.run("attach", Attach(labels, bands, copies, members), splits)
    found = Slices.of(context.folder, attached, "members")
    splits = splits_of({"range": r, "layout": found.layout} for r in range(members))
    survived = context.run("survive", Survive(found, drop), splits)
    for receipt in survived:
        add_numbers(stats, {name: receipt.stats[name] for name in ("clusters", "sizes") if name in receipt.stats})
    return Judged(
        Slices.of(context.folder, survived, "verdicts"),
        Slices.of(context.folder, attached, "attached"),
        (digests_of(survived), digests_of(attached, "attached")),
    )
