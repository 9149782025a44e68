"""The mixture as a log: which domain and row a training sequence is, computed from its number alone.

A log holds entries (effective from, quotas q_1..q_K, base cursors b_1..b_K). With Q = sum q_k and
the last entry that is in force at sequence n::

    full, part = divmod(n - effective_from, Q)
    k, j   = order[part]                         # one block: q_k items of domain k, evenly spread
    cursor = b_k + full * q_k + j                # how often domain k was read before
    epoch, position = divmod(cursor, rows of k)
    row    = permutation(seed, domain, epoch)(position)

The block's order sorts the items (k, j) by (2j + 1) / (2 q_k), ties by a seeded order of domains, so
any prefix of a block is within half an item plus K q_k / (2Q) of its exact share. Appending an entry
stores how far every domain has come: each domain's cursors stay 0, 1, 2, … with no gap or repeat.

The permutation is a keyed Feistel network on the smallest even number of bits that holds the rows,
with cycle walking (Black and Rogaway 2002): no table, a new epoch is a new key.

Price: O(Q log Q) once per entry and Q entries of memory; then about 0.3 µs a sequence, whatever n is.
Resume costs O(entries).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import hash_ids, mix64, rehash

Ints = NDArray[np.int64]

# float64 tells (2j + 1) / (2q) of unequal items apart as long as 1 / (4 q q') is far above 2**-53
MAX_BLOCK = 1 << 20
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Entry:
    """One version of the mixture, in force from sequence ``effective_from`` on."""

    effective_from: int
    quotas: tuple[int, ...]  # sequences of each domain in one block
    base: tuple[int, ...]  # sequences of each domain read before ``effective_from``


@dataclass(frozen=True)
class MixtureLog:
    """Append-only versions of a mixture over named domains; all answers are pure functions of it."""

    domains: tuple[str, ...]
    seed: int
    entries: tuple[Entry, ...]

    @classmethod
    def start(cls, domains: Sequence[str], quotas: Sequence[int], *, seed: int) -> MixtureLog:
        """A log with one entry that holds from sequence 0."""
        checked = _checked(quotas, domains)
        return cls(tuple(domains), seed, (Entry(0, checked, (0,) * len(checked)),))

    def append(self, effective_from: int, quotas: Sequence[int]) -> MixtureLog:
        """A new log whose last entry takes effect at sequence ``effective_from``.

        Raises:
            ConfigError: the entry does not begin after the last one, or the quotas are not one whole
                number >= 0 per domain.
        """
        last = self.entries[-1].effective_from
        if effective_from <= last:
            raise ConfigError(
                f"mixture entry from sequence {effective_from}: the last entry begins at {last}; "
                f"a new one must begin later (>= {last + 1})"
            )
        entry = Entry(int(effective_from), _checked(quotas, self.domains), self.cursors(effective_from))
        return MixtureLog(self.domains, self.seed, (*self.entries, entry))

    def cursors(self, n: int) -> tuple[int, ...]:
        """How many sequences of each domain come before sequence ``n``."""
        entry = self.entries[int(self.versions(np.array([n]))[0])]
        full, part = divmod(int(n) - entry.effective_from, sum(entry.quotas))
        begun = np.bincount(self._order(entry)[0][:part], minlength=len(self.domains))
        return tuple(b + full * q + int(c) for b, q, c in zip(entry.base, entry.quotas, begun, strict=True))

    def versions(self, numbers: Ints) -> Ints:
        """Index of the entry in force at each sequence number: shape (n,)."""
        begins = np.array([entry.effective_from for entry in self.entries], dtype=np.int64)
        return np.searchsorted(begins, numbers, side="right").astype(np.int64) - 1

    def assign(self, numbers: Ints) -> tuple[Ints, Ints, Ints]:
        """Domain index, cursor and version of each sequence number: three arrays of shape (n,)."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if numbers.size and int(numbers.min()) < 0:
            raise ValueError(f"sequence numbers start at 0, got {int(numbers.min())}")
        versions = self.versions(numbers)
        domains, cursors = np.empty_like(numbers), np.empty_like(numbers)
        for version in np.unique(versions):
            entry = self.entries[int(version)]
            here = versions == version
            full, part = np.divmod(numbers[here] - entry.effective_from, sum(entry.quotas))
            of_item, item = self._order(entry)
            k = of_item[part]
            domains[here] = k
            cursors[here] = np.array(entry.base)[k] + full * np.array(entry.quotas)[k] + item[part]
        return domains, cursors, versions

    def rows(self, domains: Ints, cursors: Ints, sizes: Sequence[int]) -> Ints:
        """Row inside its domain for every (domain index, cursor); ``sizes`` are the domains' row counts."""
        out = np.empty_like(cursors)
        for k in np.unique(domains):
            here = domains == k
            out[here] = shuffled_rows(cursors[here], sizes[int(k)], seed=self.seed, domain=self.domains[int(k)])
        return out

    def _order(self, entry: Entry) -> tuple[Ints, Ints]:
        return block_order(entry.quotas, tie_ranks(self.domains, self.seed))

    def to_json(self) -> dict[str, Any]:
        entries = [{"effective_from": e.effective_from, "quotas": e.quotas, "base": e.base} for e in self.entries]
        return {"domains": list(self.domains), "seed": self.seed, "entries": entries}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MixtureLog:
        """The log that ``to_json`` wrote; DatasetError when its entries do not follow from each other."""
        first, *later = value["entries"]
        log = cls.start(value["domains"], first["quotas"], seed=int(value["seed"]))
        for entry in later:
            log = log.append(int(entry["effective_from"]), entry["quotas"])
        for made, read in zip(log.entries, value["entries"], strict=True):
            if made != Entry(int(read["effective_from"]), tuple(read["quotas"]), tuple(read["base"])):
                raise DatasetError(f"mixture log: entry {dict(read)} does not follow from the ones before it: {made}")
        return log


def _checked(quotas: Sequence[int], domains: Sequence[str]) -> tuple[int, ...]:
    whole = tuple(int(q) for q in quotas)
    if len(whole) != len(domains) or whole != tuple(quotas) or min(whole, default=-1) < 0:
        raise ConfigError(f"quotas: got {list(quotas)}, allowed {len(domains)} whole numbers >= 0, one per domain")
    if not 1 <= sum(whole) <= MAX_BLOCK:
        raise ConfigError(f"quotas: they sum to {sum(whole)}, allowed 1 to {MAX_BLOCK}; use a smaller block")
    return whole


def quotas(weights: Sequence[float], block: int, *, min_quota: int = 1) -> tuple[int, ...]:
    """Whole numbers that sum to ``block`` in the ratio of ``weights``, by largest remainder.

    A domain of positive weight gets at least ``min_quota``, taken from the domains that are furthest
    above their exact share. Ties go to the earlier domain.

    Args:
        weights: finite numbers >= 0 with a positive sum, shape (K,).
        block: sequences in a block; the granularity of the mixture is 1 / block.
    """
    p = np.asarray(weights, dtype=np.float64)
    if p.ndim != 1 or not p.size or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise ConfigError(f"weights: got {list(weights)}, allowed finite numbers >= 0, at least one above 0")
    present = p > 0
    least = min_quota * int(present.sum())
    if not max(1, least) <= block <= MAX_BLOCK:
        raise ConfigError(
            f"block: got {block}, allowed {max(1, least)} to {MAX_BLOCK} for {int(present.sum())} domains of "
            f"positive weight; enlarge the block"
        )
    exact = p / p.sum() * block
    out = np.floor(exact).astype(np.int64)
    remainder = np.where(present, exact - out, -1.0)
    out[np.argsort(-remainder, kind="stable")[: block - int(out.sum())]] += 1
    out = np.where(present, np.maximum(out, min_quota), 0)
    while int(out.sum()) > block:
        surplus = np.where(out > min_quota, out - exact, -np.inf)
        out[int(np.argmax(surplus))] -= 1
    return tuple(int(q) for q in out)


@lru_cache(maxsize=64)
def tie_ranks(domains: tuple[str, ...], seed: int) -> tuple[int, ...]:
    """A seeded rank per domain, by its name, so that it does not depend on the order of the list."""
    by_hash = np.argsort(rehash(hash_ids(domains), seed, "block order"), kind="stable")
    ranks = np.empty(len(domains), dtype=np.int64)
    ranks[by_hash] = np.arange(len(domains))
    return tuple(int(r) for r in ranks)


@lru_cache(maxsize=16)
def block_order(quotas: tuple[int, ...], ties: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Domain index and item index at each place of a block: two arrays of shape (Q,).

    The keys (2j + 1) / (2 q_k) are compared exactly: equal rationals round to the same float64, and
    unequal ones differ by at least 1 / (4 q q'), far above a rounding error for blocks up to MAX_BLOCK.
    """
    q = np.array(quotas, dtype=np.int64)
    domain = np.repeat(np.arange(len(q)), q)
    item = np.arange(len(domain)) - np.repeat(np.cumsum(q) - q, q)
    key = (2 * item + 1) / (2 * q[domain])
    order = np.lexsort((np.array(ties)[domain], key))
    domain, item = domain[order], item[order]
    # the arrays are shared by the cache
    domain.flags.writeable = item.flags.writeable = False
    return domain, item


def shuffled_rows(cursors: Ints, size: int, *, seed: int, domain: str) -> Ints:
    """The row each cursor of a domain reads: every epoch is a permutation of its own.

    Args:
        cursors: counts from 0, shape (n,); cursor c is position c % size of epoch c // size.
        size: rows of the domain, at least 1.
    """
    if size < 1:
        raise ConfigError(f"domain {domain} has no sequences but a positive weight; give it weight 0")
    epoch, position = np.divmod(np.asarray(cursors, dtype=np.int64), size)
    return permute(position, size, rehash(epoch.astype(np.uint64), seed, "row order", domain))


def permute(positions: Ints, size: int, keys: NDArray[np.uint64]) -> Ints:
    """Image of each position in [0, size) under the permutation of its key: shape (n,)."""
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    out = np.asarray(positions, dtype=np.int64).astype(np.uint64)
    keys = np.broadcast_to(np.asarray(keys, dtype=np.uint64), out.shape)
    walking = np.arange(len(out))
    while len(walking):
        # the network permutes up to 4 * size values; walking its cycle until it re-enters [0, size)
        # is a permutation of [0, size), and ends because it started there
        value, key = out[walking], keys[walking]
        left, right = value >> half, value & mask
        for number in range(1, _ROUNDS + 1):
            with np.errstate(over="ignore"):
                round_key = key + np.uint64(number) * _GOLDEN
            left, right = right, left ^ (mix64(right ^ mix64(round_key)) & mask)
        out[walking] = (left << half) | right
        walking = walking[out[walking] >= np.uint64(size)]
    return out.astype(np.int64)
