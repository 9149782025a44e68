"""From measured rates to the time and cost of a corpus that was not measured: pure functions and their assumptions.

What is measured (``Rates``) is linear: processor seconds and bytes moved a byte of input, what a receipt and an entry
of a table of places cost the driver, what opening one bucket of a shuffled part costs a worker. What follows from the
code is counted: passes, splits, hash ranges, objects, requests, with the package's own constants. What is neither is
an assumption with a name (``Setup``, ``Prices``).

A shuffle of W writers into B buckets has W × B pieces (or one a row, where there are fewer rows): each is a place that
the driver and every worker hold in memory, and a request of its own. W and B both grow with the corpus, so pieces grow
as its square; splits that grow along take one power off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from penstock.pipelines.deduplicate import KEYS_PER_RANGE
from penstock.pipelines.near import BANDS_PER_RANGE, EDGES_AT_ONCE, EDGES_PER_RANGE, MEMBERS_PER_RANGE
from penstock.pipelines.passes import RECEIPTS_AT_ONCE
from penstock.pipelines.sequences import TOKENS_PER_RANGE
from penstock.pipelines.verdicts import ranges_for

GIB, TB, PB = float(1 << 30), 1e12, 1e15
HOUR = 3600.0
ROW_GROUP_BYTES = 16 << 20  # of a part, before compression


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the benchmark measured."""

    core_seconds: float  # of all passes, a byte of input
    moved: float  # bytes read from and written to the store by all passes, a byte of input
    kept: float  # bytes that stay in the run's folder, a byte of input
    fixed_seconds: float  # of the driver, whatever the size: fits on a sample, planning
    document_bytes: float
    tokens: float  # a byte of input
    alike: float  # share of the documents that are in a cluster of near-duplicates
    part_passes: int  # passes with one split a part
    part_objects: float  # objects that a split of those leaves, its receipt among them
    worker_bytes: float  # peak memory of a worker beside what its split needs
    worker_bytes_per_split_byte: float
    receipt_seconds: float  # of the driver, to read a receipt that lies on a disk
    entry_seconds: float  # of the driver, for an entry of a table of places: parse, gather, hash
    entry_bytes: float  # of the driver's memory: the receipt and the table of places
    place_bytes: float  # of a worker's memory: the table of places
    piece_seconds: float  # of a worker, to write and to read a piece, beside its rows
    piece_bytes: float  # of a piece, beside its rows


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where a build runs. None of it is measured."""

    cores: int
    split_bytes: float
    latency: float = 0.03  # seconds of a request to the store
    bandwidth: float = 100e6  # bytes/s between the store and a core
    listed_at_once: int = 1000
    worker_memory: float = 8 * GIB  # a core
    driver_memory: float = 64 * GIB
    requests_a_second: float = 5500.0  # that a store answers below one prefix: a pass has one folder


@dataclass(frozen=True, kw_only=True)
class Prices:
    """In dollars; see docs/scaling.md for where they are from."""

    core_hour: float = 0.0408
    gb_month: float = 0.023
    thousand_writes: float = 0.005
    thousand_reads: float = 0.0004
    months: float = 1.0  # that the run's folder is kept


@dataclass(frozen=True)
class Line:
    """``fixed + slope × size``, by least squares on relative errors."""

    fixed: float
    slope: float

    def at(self, size: float) -> float:
        return self.fixed + self.slope * size


def fit(sizes: Sequence[float], values: Sequence[float]) -> Line:
    """The line through measured values, no part of it below zero; through one size, and at worst, from the origin.

    Errors are relative to the size: a large build would otherwise decide alone.
    """
    x, y = np.asarray(sizes, float), np.asarray(values, float)
    through_zero = Line(0.0, max(0.0, float(np.mean(y / x))))
    if len(x) < 2:
        return through_zero
    slope, fixed = np.polyfit(x, y, 1, w=1 / x)
    if slope < 0:
        return Line(float(np.mean(y)), 0.0)
    return Line(float(fixed), float(slope)) if fixed >= 0 else through_zero


def growth(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """What a byte costs in the largest build over what it costs in the smallest: 1 is linear, more is worse.

    None where the smallest cost nothing.
    """
    first, last = values[0] / sizes[0], values[-1] / sizes[-1]
    return last / first if first else None


@dataclass(frozen=True)
class Shuffle:
    """Rows that are written by splits of one kind and read by splits of another."""

    name: str
    writers: int
    buckets: int
    rows: float

    @property
    def pieces(self) -> float:
        """What is written and read alone."""
        return min(float(self.writers) * self.buckets, max(self.rows, 1.0))


def parts_of(size: float, split_bytes: float) -> int:
    return max(1, math.ceil(size / split_bytes))


def shuffles(size: float, rates: Rates, split_bytes: float, bands: int = 14) -> list[Shuffle]:
    """Every shuffle of a build of ``size`` bytes with exact and near-duplicates and packed sequences."""
    parts, documents = parts_of(size, split_bytes), size / rates.document_bytes
    alike = documents * rates.alike
    keys = ranges_for(round(documents), KEYS_PER_RANGE)
    ranges = ranges_for(round(documents * bands), BANDS_PER_RANGE)
    nodes = ranges_for(round(documents), EDGES_PER_RANGE)
    members = ranges_for(round(alike), MEMBERS_PER_RANGE)
    sequences = max(1, math.ceil(size * rates.tokens / TOKENS_PER_RANGE))
    out = [
        Shuffle("keys", parts, keys, documents),
        Shuffle("verdicts on equal texts", keys, parts, alike),
        Shuffle("bands", parts, ranges, documents * bands),
        Shuffle("edges", ranges, nodes, alike),
        Shuffle("labels", 1 if alike <= EDGES_AT_ONCE else nodes, parts, alike),
        Shuffle("members", parts, members, alike),
        Shuffle("verdicts on like texts", members, parts, alike),
        Shuffle("sequences", parts, sequences, documents),
    ]
    rounds = 0 if alike <= EDGES_AT_ONCE else star_rounds(alike)
    return out + [Shuffle("stars", nodes, nodes, alike)] * (2 * rounds)


def star_rounds(nodes: float) -> int:
    """Rounds of small and large stars: log2 of the longest chain, which nobody knows; here, of a thousandth of all."""
    return max(1, math.ceil(math.log2(max(2.0, nodes / 1000))))


@dataclass(frozen=True)
class Projection:
    """What a build takes; hours, bytes, requests and dollars."""

    size: float
    parts: int
    core_hours: float
    driver_hours: float
    held_up_hours: float  # by the requests that a store answers a second
    hours: float
    writes: float
    reads: float
    moved: float
    waiting: float  # share of the cores' time
    pieces: float
    widest: str  # shuffle, by pieces
    driver_bytes: float
    worker_bytes: float
    requests_a_second: float
    dollars: Mapping[str, float] = field(default_factory=dict)

    @property
    def dollars_in_all(self) -> float:
        return sum(self.dollars.values())

    @property
    def serial_share(self) -> float:
        """Share of the time in which one core works (Amdahl)."""
        return self.driver_hours / self.hours


def project(size: float, rates: Rates, setup: Setup, prices: Prices | None = None) -> Projection:
    """Time, requests, memory and cost of a build of ``size`` bytes of text."""
    prices = prices or Prices()
    parts = parts_of(size, setup.split_bytes)
    found = shuffles(size, rates, setup.split_bytes)
    pieces = sum(one.pieces for one in found)
    splits = parts * rates.part_passes + sum(one.buckets for one in found)
    objects = parts * rates.part_passes * rates.part_objects + sum(3 * one.buckets for one in found)
    reads_of_a_part = 2 + setup.split_bytes / ROW_GROUP_BYTES
    reads = pieces + reads_of_a_part * parts * rates.part_passes + splits
    moved = size * rates.moved + 2 * pieces * rates.piece_bytes
    waiting = setup.latency * (reads - splits + objects)  # the driver reads the receipts
    core = size * rates.core_seconds + pieces * rates.piece_seconds + moved / setup.bandwidth + waiting
    lists = objects / setup.listed_at_once
    driver = (
        rates.fixed_seconds
        + splits * (rates.receipt_seconds + setup.latency / RECEIPTS_AT_ONCE)
        + pieces * rates.entry_seconds
        + lists * setup.latency
    )
    widest = max(found, key=lambda one: one.pieces)
    a_piece = setup.latency + rates.piece_seconds + rates.piece_bytes / setup.bandwidth
    held_up = max(0.0, pieces / setup.requests_a_second - pieces * a_piece / setup.cores)
    seconds = core / setup.cores + held_up + driver
    dollars = {
        "cores": seconds / HOUR * setup.cores * prices.core_hour,
        "writes": (objects + lists) / 1000 * prices.thousand_writes,
        "reads": reads / 1000 * prices.thousand_reads,
        "storage": size * rates.kept / 1e9 * prices.gb_month * prices.months,
    }
    return Projection(
        size=size,
        parts=parts,
        core_hours=core / HOUR,
        driver_hours=driver / HOUR,
        held_up_hours=held_up / HOUR,
        hours=seconds / HOUR,
        writes=objects + lists,
        reads=reads,
        moved=moved,
        waiting=waiting / core,
        pieces=pieces,
        widest=widest.name,
        driver_bytes=widest.pieces * rates.entry_bytes,
        worker_bytes=rates.worker_bytes
        + rates.worker_bytes_per_split_byte * min(setup.split_bytes, size)
        + widest.pieces * rates.place_bytes,
        requests_a_second=setup.cores / a_piece,
        dollars=dollars,
    )


def in_runs(one: Projection, runs: int, at_once: int) -> Projection:
    """Many runs like one, some of them at the same time; nothing is shared between them."""
    return replace(
        one,
        size=one.size * runs,
        parts=one.parts * runs,
        core_hours=one.core_hours * runs,
        driver_hours=one.driver_hours * runs / at_once,
        held_up_hours=one.held_up_hours * runs / at_once,
        hours=one.hours * runs / at_once,
        writes=one.writes * runs,
        reads=one.reads * runs,
        moved=one.moved * runs,
        pieces=one.pieces * runs,
        requests_a_second=one.requests_a_second * at_once,
        dollars={name: value * runs for name, value in one.dollars.items()},
    )


LIMITS: Mapping[str, Callable[[Projection, Setup], bool]] = {
    "memory of the driver": lambda p, s: p.driver_bytes > s.driver_memory,
    "memory of a worker": lambda p, s: p.worker_bytes > s.worker_memory,
    "cores wait for the store half of their time": lambda p, s: p.waiting > 0.5,
    "the driver alone takes half of the time": lambda p, s: p.serial_share > 0.5,
}


def hits(limit: str, rates: Rates, setup: Setup, *, least: float = 1e9, most: float = 1e16) -> float | None:
    """The size in bytes from which on a limit is met, to 1 %; None if it is not below ``most``."""
    met = LIMITS[limit]

    def at(size: float) -> bool:
        return met(project(size, rates, setup), setup)

    # a step of the ranges may meet and leave a limit once: what counts is from where on it stays met
    grid = np.geomspace(least, most, 400)
    free = [size for size in grid if not at(size)]
    if not free:
        return least
    low = max(free)
    if low >= most:
        return None
    high = float(grid[np.searchsorted(grid, low) + 1])
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if at(middle) else (middle, high)
    return high


def best_split(size: float, rates: Rates, setup: Setup) -> float | None:
    """The power of two of bytes that makes the build cheapest and fits a worker and the driver; None if none does."""
    choices = [replace(setup, split_bytes=float(1 << power)) for power in range(24, 41)]
    fitting = [
        (project(size, rates, one).dollars_in_all, one.split_bytes)
        for one in choices
        if not any(
            LIMITS[name](project(size, rates, one), one) for name in ("memory of the driver", "memory of a worker")
        )
    ]
    return min(fitting)[1] if fitting else None
