"""The order in which a domain's rows are read: a permutation computed position by position, with no table.

Flat: a keyed Feistel network on the smallest even number of bits that holds the rows, with cycle walking (Black and
Rogaway 2002). Every epoch has a key of its own.

Grouped (``group_rows`` = G): rows 0 to G - 1 are group 0, the next G are group 1, and so on; the last may be shorter.
Groups come in permuted order, and rows in permuted order inside their group. G rows of one domain in a row are then
read from one place, so that a store behind a network or a page cache sees reads of G rows, and a cache of one group
of each domain, K * G * (bytes of a row), serves every read. The price is a weaker shuffle: rows of a group meet again
within G reads of their domain in every epoch.

Price: about 0.05 µs a row, grouped four times that, whatever the position; no memory but the answer's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import mix64, rehash

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

# a window of a training order lies in few epochs, whose keys are kept
_FEW = 16


def shuffled_rows(
    cursors: Ints, size: int, *, seed: int, domain: str, generation: int = 0, group_rows: int | None = None
) -> Ints:
    """The row each cursor of a domain reads: every epoch is a permutation of its own.

    Args:
        cursors: counts from 0, shape (n,); cursor c is position c % size of epoch c // size.
        size: rows of the domain, at least 1.
        generation: datasets that the run read before this one; each has orders of its own.
        group_rows: rows of a group, see above; None, or a number from ``size`` on, is the flat order.
    """
    if size < 1:
        raise ConfigError(f"domain {domain} has no sequences but a positive weight; give it weight 0")
    epoch, position = np.divmod(np.asarray(cursors, dtype=np.int64), size)
    first, last = (int(epoch.min()), int(epoch.max())) if len(epoch) else (0, 0)
    if last - first < _FEW:
        few = [_epoch_key(e, seed, domain, generation) for e in range(first, last + 1)]
        keys = np.array(few, dtype=np.uint64)[epoch - first]
    else:
        keys = _epoch_keys(epoch, seed, domain, generation)
    if group_rows is None or group_rows >= size:
        return permute(position, size, keys)
    return permute_groups(position, size, group_rows, keys)


def _epoch_keys(epoch: Ints, seed: int, domain: str, generation: int) -> Keys:
    path = ("row order", domain, generation) if generation else ("row order", domain)
    return rehash(epoch.astype(np.uint64), seed, *path)


@lru_cache(maxsize=1024)
def _epoch_key(epoch: int, seed: int, domain: str, generation: int) -> int:
    return int(_epoch_keys(np.array([epoch]), seed, domain, generation)[0])


def permute(positions: Ints, size: int, keys: Keys) -> Ints:
    """Image of each position in [0, size) under the permutation of its key: shape (n,)."""
    from penstock.training._row_kernels import permuted

    # the network permutes up to 4 * size values; walking its cycle until it re-enters [0, size)
    # is a permutation of [0, size), and ends because it started there
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    positions = np.array(positions, dtype=np.int64)
    out = np.empty_like(positions)
    permuted(positions, np.uint64(size), half, np.array(np.broadcast_to(keys, out.shape), dtype=np.uint64), out)
    return out


def permute_groups(positions: Ints, size: int, group: int, keys: Keys) -> Ints:
    """As ``permute``, by groups of ``group`` rows: positions that follow each other lie in one group.

    Args:
        size: more than ``group``.
    """
    positions = np.asarray(positions, dtype=np.int64)
    keys = np.broadcast_to(np.asarray(keys, dtype=np.uint64), positions.shape)
    whole, short = divmod(size, group)
    # the short group's turn is drawn first; the whole ones share the other turns
    turn = (rehash(keys, 0, "turn of the short group") % np.uint64(whole + 1)).astype(np.int64)
    begin = turn * group
    in_short = (positions >= begin) & (positions < begin + short)
    after = positions - np.where(positions >= begin + short, short, 0)
    of_group = np.full(len(positions), whole, dtype=np.int64)
    inside = positions - begin
    rest = np.flatnonzero(~in_short)
    turns, inside[rest] = np.divmod(after[rest], group)
    of_group[rest] = permute(turns, whole, rehash(keys[rest], 0, "groups"))
    row_keys = rehash(keys ^ mix64(of_group.astype(np.uint64) + np.uint64(1)), 0, "rows of a group")
    for here, rows in ((rest, group), (np.flatnonzero(in_short), short)):
        if len(here):
            inside[here] = permute(inside[here], rows, row_keys[here])
    return of_group * group + inside
