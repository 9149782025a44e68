"""Drop duplicate documents over the whole corpus, exact ones and near ones, and assign train, validation and test.

    keys    part -> content hashes, by hash range
    judge   hash range -> verdicts, by part
    bands … the passes of ``near``, by option
    apply   part + its verdicts -> part, with cluster and split

Only keys, positions and ids are regrouped; text is read once more where the verdicts apply, and once for near-
duplicates. No key is too common: of what a part has many of, one row goes to the judge and stands for the others
(``twins``), which take its verdict where it applies.

Parts whose content and verdicts are those of an earlier build are taken over; the judges run over all keys every time,
which costs about 1 % of the passes over text.

Every kept row has ``cluster``, the id of its cluster's survivor (its own, if it is like no other), and
``cluster_size``, the rows that the cluster had, exact copies among them. The table ``clusters`` lists every row of a
cluster of two and more. The split is decided by the survivor's text, so no cluster lies on two sides.

Price: 58 bytes and the id of a different text of a part in keys; a range is judged in about 250 MB.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import work as rowwork
from penstock.dataset import read_part
from penstock.errors import ConfigError
from penstock.pipelines import near
from penstock.pipelines.documents import PartSplit, domain_stats, part_splits
from penstock.pipelines.history import WHOLE, History, Index
from penstock.pipelines.passes import PartWriter, Slices, Split, add_numbers, splits_of
from penstock.pipelines.verdicts import (
    count_digests,
    digests_of,
    judged_splits,
    ranges_for,
    rows_by_bucket,
    write_verdicts,
)
from penstock.selectors.exact import REASON, ExactDuplicates
from penstock.selectors.minhash import MinHash
from penstock.selectors.splits import AssignSplit
from penstock.sources.made import SPLIT_KEY
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder
from penstock.tokenization.packing import hash_range

KEYS_PER_RANGE = 2_000_000  # rows judged together: about 250 MB with their ids
CLUSTER_HASH = "cluster_hash"  # content hash of the survivor, while a split is being assigned


@dataclass(frozen=True)
class EmitKeys:
    """Keys of one part's different texts with their positions, one bucket per hash range.

    The table ``twins`` has a row for each document that another of the part stands for: ``row``, ascending, ``lead``.
    """

    parent: Folder
    grouped: ExactDuplicates
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        blocks, row = [], 0
        for batch in read_part(self.parent, piece.file, self.grouped.reads):
            keyed = self.grouped.keyed(batch)
            position = pa.array(np.arange(row, row + batch.num_rows), pa.int64())
            blocks.append(keyed.append_column("row", position))
            row += batch.num_rows
        table, twin, lead = self.grouped.combine(pa.concat_tables(blocks).combine_chunks())
        of_row = hash_range(table["key"].to_numpy(), self.ranges)
        rows_by_bucket(out, "keys", of_row, table, lambda number: f"{number}/{self.ranges}")
        order = np.argsort(twin)
        for one in pa.table({"row": twin[order], "lead": lead[order]}).to_batches():
            out.piece("twins", WHOLE, one)


@dataclass(frozen=True)
class Judge:
    """Verdicts for one hash range by the part they apply to, and the copies of each survivor by its part.

    Verdicts are on rows that stand for their twins; a copy (``part``, ``row``, ``of`` a survivor's row) is ``count``.
    """

    keys: Index
    grouped: ExactDuplicates
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        group = self.keys.read(split.payload["range"], self.ranges)
        if group is None:
            return
        # nothing is held longer than it is needed
        verdicts = self.grouped.judge(group).drop_columns(["doc_id"]).combine_chunks()
        del group
        lost = pc.is_valid(verdicts["reason"])
        # of the rows dropped alone: a copy more of a row that stays makes no other bands
        dropped = verdicts.select(["part", "row"]).filter(lost).sort_by("part")
        count_digests(out, "dropped", dropped["part"].to_numpy(), dropped.select(["row"]))
        del dropped
        self._write_copies(verdicts, lost, out)
        mine = verdicts.select(["part", "row", "reason", "survivor", "copies"]).filter(pc.invert(verdicts["old"]))
        del verdicts
        write_verdicts(out, mine)

    def _write_copies(self, verdicts: pa.Table, lost: pa.ChunkedArray, out: PartWriter) -> None:
        # survivors come first in their group, so a row's is the last one at or before it
        leads = np.flatnonzero(verdicts["leads"].to_numpy())
        leader = pa.array(np.repeat(leads, np.diff(leads, append=verdicts.num_rows)))
        kept = pc.and_(lost, pc.invert(verdicts["old"].take(leader)))
        columns = {
            "of": verdicts["row"].take(leader),
            "part": verdicts["part"],
            "row": verdicts["row"],
            "count": verdicts["count"],
            "to": verdicts["part"].take(leader),
        }
        copies = pa.table(columns).filter(kept)
        rows_by_bucket(out, "copies", copies["to"].to_numpy(), copies.drop_columns(["to"]), str)


def fates(exact: pa.Table | None, similar: pa.Table | None, *, drop: bool) -> pa.Table:
    """What becomes of the rows of a part that have any duplicate, in order of ``row``.

    Args:
        exact: ``row``, ``reason``, ``survivor``, ``copies``; similar: ``row``, ``lost``, ``survivor``, ``hash``,
            ``size``; both in any order, each row once, as far as there are any.
        drop: near-duplicates are dropped, so that the survivor of a cluster is the one that is left.

    Returns:
        ``row``, ``reason`` (null for a row that stays), ``detail`` (the id that stays in its place), ``cluster``,
        ``size``, ``hash`` (of the cluster's survivor; null where it is the row's own) and ``kind``.
    """
    exact = EXACT.empty_table() if exact is None else exact.select(EXACT.names)
    similar = SIMILAR.empty_table() if similar is None else similar.select(SIMILAR.names)
    row = np.sort(np.concatenate([exact["row"].to_numpy(), similar["row"].to_numpy()]))
    row = row[np.diff(row, prepend=-1) != 0]
    exact, similar = _aligned(exact, row), _aligned(similar, row)
    copy, like = pc.is_valid(exact["reason"]), pc.fill_null(similar["lost"], False)
    cluster = pc.coalesce(similar["survivor"], exact["survivor"])
    reason = pc.coalesce(exact["reason"], pc.if_else(like, pa.scalar(near.REASON), pa.scalar(None, pa.string())))
    others = pc.if_else(pc.is_valid(similar["row"]), pa.scalar("near"), pa.scalar("exact"))
    return pa.table(
        {
            "row": row,
            "reason": reason,
            "detail": cluster if drop else exact["survivor"],
            "cluster": cluster,
            "size": pc.coalesce(similar["size"], exact["copies"]),
            "hash": similar["hash"],
            "kind": pc.if_else(copy, pa.scalar("exact"), others),
        }
    ).combine_chunks()


EXACT = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("survivor", pa.string()), ("copies", pa.int64())])
SIMILAR = pa.schema(
    [
        ("row", pa.int64()),
        ("lost", pa.bool_()),
        ("survivor", pa.string()),
        ("hash", pa.binary(16)),
        ("size", pa.int64()),
    ]
)


def passed_on(verdicts: pa.Table | None, twins: pa.Table | None, **columns: Any) -> pa.Table | None:
    """Verdicts, and behind them those of rows that another one stands for.

    Args:
        verdicts: ``row`` and whatever says what becomes of it, each row once.
        twins: ``row``, and ``lead``: the row whose verdict it takes, if that has one.
        columns: what is said of the twins instead of what is said of their leads; values, or arrays by twin.
    """
    if verdicts is None or twins is None:
        return verdicts
    more = _aligned(verdicts, twins["lead"].to_numpy())
    known = pc.is_valid(more["row"])
    more = more.set_column(more.column_names.index("row"), "row", twins["row"])
    for name, value in columns.items():
        one = value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.repeat(pa.scalar(value), more.num_rows)
        more = more.set_column(more.column_names.index(name), name, one)
    return pa.concat_tables([verdicts, more.filter(known)])


def _aligned(table: pa.Table, row: NDArray[np.int64]) -> pa.Table:
    """The rows of ``table`` that stand at ``row``, nulls where there is none."""
    own = table["row"].to_numpy()
    order = np.argsort(own)
    at = np.searchsorted(own, row, sorter=order)
    found = at < len(own)
    found[found] = own[order[at[found]]] == row[found]
    index = np.zeros(len(row), np.int64)
    index[found] = order[at[found]]
    return table.take(pa.array(index, mask=~found))


@dataclass(frozen=True)
class ApplyVerdicts:
    """Drop the rows that verdicts name, give every other its cluster, and annotate."""

    parent: Folder
    exact: Slices
    twins: Index
    similar: near.Judged | None
    drop: bool
    works: tuple[Any, ...]
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        part, twins = str(piece.part), self.twins.of_part(piece.part)
        exact = passed_on(self.exact.read(part), twins, reason=REASON)
        similar = None
        if self.similar is not None:
            similar, attached = self.similar.verdicts.read(part), self.similar.attached.read(part)
            if attached is not None:
                # a lead may stay, those it stands for do not; exact copies are gone already
                similar = passed_on(similar, attached, lost=pc.and_(pc.invert(attached["copy"]), self.drop))
            similar = passed_on(similar, twins, lost=False)
        known = fates(exact, similar, drop=self.drop)
        rows, first = known["row"].to_numpy(), 0
        for batch in read_part(self.parent, piece.file):
            low, high = np.searchsorted(rows, [first, first + batch.num_rows])
            self._apply(batch, known.slice(low, high - low).combine_chunks(), rows[low:high] - first, out)
            first += batch.num_rows

    def _apply(self, batch: pa.RecordBatch, fate: pa.Table, at: NDArray[np.int64], out: PartWriter) -> None:
        out.count(rows_in=batch.num_rows)
        source = np.arange(batch.num_rows)
        size = np.ones(batch.num_rows, np.int64)
        keep = np.ones(batch.num_rows, dtype=bool)
        source[at] = batch.num_rows + np.arange(len(at))
        size[at] = fate["size"].to_numpy()
        keep[at] = np.asarray(pc.is_null(fate["reason"]))
        cluster = _overlaid(batch["doc_id"], fate["cluster"], source)
        hashes = _overlaid(batch["content_hash"], pc.coalesce(fate["hash"], batch["content_hash"].take(at)), source)
        if SPLIT_KEY in batch.schema.names:
            # the variants of a question stay together; members of a cluster that is kept whole do so first
            own = batch[SPLIT_KEY] if self.drop else pc.if_else(pa.array(size == 1), batch[SPLIT_KEY], None)
            hashes = pc.coalesce(own, hashes)
            batch = batch.drop_columns([SPLIT_KEY])
        columns = {"cluster": cluster, "cluster_size": pa.array(size), CLUSTER_HASH: hashes}
        lost = fate.filter(pc.is_valid(fate["reason"]))
        if lost.num_rows:
            gone = batch.filter(pa.array(~keep))
            self._drop(gone, lost["reason"].combine_chunks(), lost["detail"].combine_chunks(), out)
        if fate.num_rows:
            out.write("clusters", _members(batch["doc_id"].take(pa.array(at)), fate))
        stays = rowwork.with_columns(batch, columns).filter(pa.array(keep))
        result = rowwork.apply(self.works, stays, dropped=self.dropped)
        result.batch = result.batch.drop_columns([CLUSTER_HASH])
        out.applied(result)
        out.count(kept=result.batch.num_rows)
        out.add_stats({"domains": domain_stats(result.batch)})
        out.write("documents", result.batch)

    def _drop(self, gone: pa.RecordBatch, reasons: pa.Array, details: pa.Array, out: PartWriter) -> None:
        alike = pc.equal(reasons, near.REASON)
        for step, mask in ((ExactDuplicates.name, pc.invert(alike)), (near.STEP, alike)):
            out.drop(gone.filter(mask), reasons.filter(mask), step=step, keep=self.dropped, detail=details.filter(mask))


def _overlaid(column: pa.Array, other: Any, source: NDArray[np.int64]) -> pa.Array:
    """``column`` with the values of ``other`` where ``source`` points past its end."""
    others = other.combine_chunks() if isinstance(other, pa.ChunkedArray) else other
    return pa.concat_arrays([column, others]).take(pa.array(source))


def _members(doc_id: pa.Array, fate: pa.Table) -> pa.RecordBatch:
    """Rows of the table ``clusters``: ``kind`` says how a member came to it, ``survivor`` for the one that it is."""
    # a dropped row may bear the id of an earlier dataset's survivor
    itself = pc.and_(pc.equal(doc_id, fate["cluster"]), pc.is_null(fate["reason"]))
    kind = pc.if_else(itself, pa.scalar("survivor"), fate["kind"])
    columns = {"doc_id": doc_id, "cluster": fate["cluster"], "kind": kind, "cluster_size": fate["size"]}
    return pa.table(columns).combine_chunks().to_batches()[0]


class Deduplicated(Step):
    """Duplicates dropped over the whole corpus; train, validation and test assigned by cluster."""

    revision = 3

    def __init__(
        self,
        name: str,
        parent: str,
        grouped: ExactDuplicates,
        assign: AssignSplit,
        budget: float | None = None,
        *,
        minhash: MinHash | None = None,
        action: str = "drop",
        history: tuple[str, ...] = (),
    ) -> None:
        """Near-duplicates are looked for with ``minhash``, and dropped or, with the action ``tag``, only named."""
        self.name, self.parents, self.grouped, self.assign, self.budget = name, (parent,), grouped, assign, budget
        self.minhash, self.drop, self.history = minhash, action == "drop", history

    @property
    def index(self) -> dict[str, Any]:
        """What the kept key tables depend on, by index; another run reads them if it would make the same."""
        out: dict[str, Any] = {"exact": {"revision": self.grouped.revision}}
        if self.minhash is not None:
            made = rowwork.describe(self.minhash)
            # lower case and letters are the running Python's
            out["MinHash"] = {"revision": made["revision"], "unicode": unicodedata.unidata_version, **made["config"]}
        return out

    def config(self) -> dict[str, Any]:
        history = len(self.history)  # its keys are inputs
        return {"grouped": rowwork.describe(self.grouped), "index": self.index, "history": history} | self._applied

    @property
    def _applied(self) -> dict[str, Any]:
        """What decides, beside its verdicts, what becomes of a part."""
        return {"works": [rowwork.describe(self.assign)], "drop": self.drop}

    def guarded(self) -> tuple[str, ...]:
        return (self.name, ExactDuplicates.name, *(() if self.minhash is None else (near.STEP,)))

    def inputs(self, settings: Settings) -> dict[str, str]:
        # by number: a key knows no folder
        return {f"history:{n}": self._open(url).manifest.key for n, url in enumerate(self.history)}

    def _open(self, url: str) -> History:
        found = History.open(url, self.name)
        found.require(self.index)
        return found

    def build(self, context: Context) -> Built:
        parent = context.parents[self.parents[0]]
        table = parent.table("documents")
        history = [self._open(url) for url in self.history]
        if any(one.folder.path == context.folder.path for one in history):
            raise ConfigError(
                f"deduplicate.history: got {context.folder.url}, which this build replaces; allowed other runs: build "
                "into another folder, or take it out of the list"
            )

        def index(slices: Slices, name: str) -> Index:
            old = tuple(one.slices(name, context.reporter.warn) for one in history)
            return Index(slices, len(table.files), old)

        rows = table.rows + sum(one.rows for one in history)
        ranges = ranges_for(rows, KEYS_PER_RANGE)
        reuse = {"grouped": rowwork.describe(self.grouped), "ranges": ranges}
        emitted = context.run("keys", EmitKeys(parent.folder, self.grouped, ranges), part_splits(table), reuse=reuse)
        keys = index(Slices.of(context.folder, emitted, "keys"), "keys")
        twins = Index(Slices.of(context.folder, emitted, "twins"), len(table.files))
        splits = splits_of({"range": r, "layout": keys.layout} for r in range(ranges))
        judged = context.run("judge", Judge(keys, self.grouped, ranges), splits)
        exact = Slices.of(context.folder, judged, "verdicts")
        digests, similar = [digests_of(judged)], None
        stats: dict[str, Any] = {}
        if self.minhash is not None:
            ranges = ranges_for(rows * self.minhash.bands, near.BANDS_PER_RANGE)
            rule = self.grouped.survivor
            reuse = {"index": self.index["MinHash"], "prefer": rule, "ranges": ranges}
            emit = near.EmitBands(parent.folder, self.minhash, rule, exact, twins, ranges)
            gone = digests_of(judged, "dropped")
            found = context.run("bands", emit, judged_splits(part_splits(table), gone), reuse=reuse)
            bands = near.Bands(*(index(Slices.of(context.folder, found, name), name) for name in near.Bands._fields))
            copies = near.Copies(Slices.of(context.folder, judged, "copies"), twins)
            for receipt in found:
                add_numbers(stats, receipt.stats)
            nodes = ranges_for(rows, near.EDGES_PER_RANGE)
            similar = near.near_duplicates(context, bands, ranges, nodes, copies, stats, drop=self.drop)
            digests += similar.digests
        assign = replace(self.assign, column=CLUSTER_HASH)
        work = ApplyVerdicts(parent.folder, exact, twins, similar, self.drop, (assign,), context.settings.dropped)
        receipts = context.run("apply", work, judged_splits(part_splits(table), *digests), reuse=self._applied)
        # verdicts speak of parts and rows, which depend on the splits; `dropped.detail` names the survivor
        built = context.collect(receipts, "documents", "dropped", "clusters")
        if self.minhash is not None:
            built.stats["near"] = stats
        return built
