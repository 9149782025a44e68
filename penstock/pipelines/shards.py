"""Where published shards end: at rows that the rows themselves choose, so that a corpus that grew keeps most shards.

Content-defined chunking (Muthitacharoen et al., SOSP 2001, there of bytes): every selected row has a rank, the hash of
its id over its bytes, and a shard ends after the row of least rank between 3/5 and 7/5 of the wanted size. Neither the
rows of the corpus nor the parts of the build are counted from its beginning: after rows that came or went, the borders
fall on the same rows again within a few shards. An equal cut would move every border with every new row.

Only rows whose rank is small enough can be chosen: ``PLACES`` a wanted shard are expected, wherever it begins.

Price: 32 bytes and a line of JSON a place; planning is linear in places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.seeding import coins

PLACES = 32  # expected in a shard: none between least and most is a chance of one in 10^11
LEAST, MOST = 0.6, 1.4  # of the wanted size; nearer ones would take longer to fall on the same rows again
GROUP_BYTES = 8 << 20  # text in a row group, before compression
MOST_GROUP_ROWS = 65_536


@dataclass
class Places:
    """Selected rows of one split in one part, counted in order, and the places among them where a shard may end."""

    shard_bytes: int
    selected: int = 0
    bytes: int = 0

    def add(self, id_hash: Any, size: Any) -> dict[str, Any]:
        """Count more selected rows; returns what is new, as nested counters.

        Args:
            id_hash: (n,) uint64; size: (n,) bytes of text.
        """
        size = np.maximum(np.asarray(size, dtype=np.int64), 1)
        rank = coins(np.asarray(id_hash, dtype=np.uint64), 0, "shards") / size
        after = self.bytes + np.cumsum(size)
        found = np.flatnonzero(rank * self.shard_bytes < PLACES)
        places = {
            str(self.selected + row + 1): {"bytes": int(after[row]), "rank": float(rank[row])} for row in found.tolist()
        }
        self.selected += len(size)
        self.bytes += int(size.sum())
        return {"selected": len(size), "bytes": int(size.sum()), "places": places}


@dataclass(frozen=True)
class Piece:
    """Rows of a part from ``first`` to ``last`` selected ones; without ``last``, to the part's end.

    A row left out stands at the count of selected rows before it.
    """

    part: int
    first: int
    last: int | None


@dataclass(frozen=True)
class Shard:
    """Rows of one split that make one file."""

    split: str
    pieces: tuple[Piece, ...]
    rows: int
    bytes: int

    @property
    def group_rows(self) -> int:
        """Rows of a row group."""
        return max(1, min(MOST_GROUP_ROWS, round(GROUP_BYTES / max(self.bytes / max(self.rows, 1), 1))))


def plan_shards(split: str, parts: Sequence[Mapping[str, Any]], shard_bytes: int) -> list[Shard]:
    """Cut the rows of a split, selected and left out, into shards; none without parts.

    Args:
        parts: by part in order, the sums of what ``Places.add`` returned.
    """
    if not parts:
        return []
    bytes_before = np.cumsum([0, *(part.get("bytes", 0) for part in parts)])
    # (part, selected rows up to it, bytes up to it in all, rank) of every place, in order
    places = [
        (number, int(rows), int(bytes_before[number]) + place["bytes"], place["rank"])
        for number, part in enumerate(parts)
        for rows, place in sorted(part.get("places", {}).items(), key=lambda item: int(item[0]))
    ]
    total = int(bytes_before[-1])
    ends: list[tuple[int, int, int]] = []
    at, start = 0, 0
    while total - start > MOST * shard_bytes:
        while at < len(places) and places[at][2] < start + LEAST * shard_bytes:
            at += 1
        last = at
        while last < len(places) and places[last][2] <= start + MOST * shard_bytes:
            last += 1
        inside = places[at : max(last, at + 1)]  # a row longer than a shard may leave none inside
        if not inside or inside[0][2] >= total:
            break
        best = min(range(len(inside)), key=lambda i: inside[i][3])
        part, rows, start, _ = inside[best]
        at += best + 1
        ends.append((part, rows, start))
    return _shards(split, [part.get("selected", 0) for part in parts], ends, total)


def _shards(split: str, selected: Sequence[int], ends: Sequence[tuple[int, int, int]], total: int) -> list[Shard]:
    """Shards between the ends (part, selected rows of it, bytes in all)."""
    out = []
    part = first = before = 0
    for last_part, last, size in [*ends, (len(selected) - 1, None, total)]:
        pieces = []
        rows = 0
        for number in range(part, last_part + 1):
            begin = first if number == part else 0
            end = last if number == last_part else None
            pieces.append(Piece(number, begin, end))
            rows += (selected[number] if end is None else end) - begin
        out.append(Shard(split, tuple(pieces), rows, size - before))
        part, first, before = last_part, last or 0, size
    return out
