"""The mixture as a log: which domain and row a training sequence is, computed from its number alone.

A log holds entries (effective from, quotas q_1..q_K, base cursors b_1..b_K, limits, dataset). With Q = sum q_k and
the last entry that is in force at sequence n::

    full, part = divmod(n - effective_from, Q)
    k, j   = order[part]                         # one block: q_k items of domain k, evenly spread
    cursor = b_k + full * q_k + j                # how often domain k was read before
    epoch, position = divmod(cursor, rows of k)
    row    = permutation(seed, domain, epoch)(position)        # see ``permutation``

The block's order sorts the items (k, j) by (2j + 1) / (2 q_k), ties by a seeded order of domains, so
any prefix of a block is within half an item plus K q_k / (2Q) of its exact share. Appending an entry
stores how far every domain has come: each domain's cursors stay 0, 1, 2, … with no gap or repeat.

A domain may have a limit, a cursor that is never read. An entry then unfolds into phases: at the first sequence that
would read a domain at its limit, a phase begins with the quotas of the domains that are left ("redistribute": their
ratio stays), or the order ends there ("stop"). A phase is a function of its entry, so all ranks find the same ones.

A replacement entry puts another dataset in force: its cursors begin at 0 and its rows have orders of their own.
A domain keeps its index for as long as the log lives; new ones come after the old, and one that is gone has no rows.

Price: O(K Q log Q) once per entry and Q entries of memory; then about 0.15 µs a sequence, whatever n is.
Resume costs O(entries), and a checkpoint holds only those that are in force or to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.training.blocks import MAX_BLOCK, block_order, tie_ranks
from penstock.training.mixture_entries import Dataset, Entry, OnExhausted, exactly, read_dataset, read_entry, whole
from penstock.training.permutation import shuffled_rows

Ints = NDArray[np.int64]
_T = TypeVar("_T")


class Phase(NamedTuple):
    """A run of sequences with fixed quotas; all of them 0 where the order has ended."""

    begins: int
    version: int
    quotas: tuple[int, ...]
    base: tuple[int, ...]
    generation: int


@dataclass(frozen=True)
class MixtureLog:
    """Append-only versions of a mixture over named domains; all answers are pure functions of it."""

    domains: tuple[str, ...]
    seed: int
    datasets: tuple[Dataset, ...]
    entries: tuple[Entry, ...]
    first_version: int  # number of ``entries[0]``; a trimmed log keeps the numbers
    phases: tuple[Phase, ...]

    @classmethod
    def start(
        cls,
        domains: Sequence[str],
        quotas: Sequence[int],
        *,
        seed: int,
        rows: Sequence[int],
        weights: Sequence[float] | None = None,
        limits: Sequence[int | None] | None = None,
        on_exhausted: OnExhausted = "repeat",
        fingerprint: str = "",
        group_rows: int | None = None,
    ) -> MixtureLog:
        """A log with one entry that holds from sequence 0.

        Args:
            rows: sequences of each domain.
            weights: what the quotas stand for; None is their shares.
            limits: cursors at which domains are exhausted; None, or None for a domain, is never.
        """
        return cls((), seed, (), (), 0, ()).replace(
            0,
            domains,
            quotas,
            rows=rows,
            weights=weights,
            limits=limits,
            on_exhausted=on_exhausted,
            fingerprint=fingerprint,
            group_rows=group_rows,
        )

    def append(self, effective_from: int, quotas: Sequence[int], weights: Sequence[float] | None = None) -> MixtureLog:
        """A new log whose last entry takes effect at sequence ``effective_from``, with the limits of the one before.

        An entry after the end of the order is kept and never comes into force.

        Raises:
            ConfigError: the entry does not begin after the last one, or the quotas are not one whole
                number >= 0 per domain.
        """
        self._must_follow(effective_from)
        checked = _checked(quotas, self.domains)
        entry = replace(
            self.entries[-1],
            effective_from=int(effective_from),
            quotas=checked,
            weights=_shares(checked, weights),
            base=self.cursors(effective_from),
        )
        return self._with(entry)

    def replace(
        self,
        effective_from: int,
        domains: Sequence[str],
        quotas: Sequence[int],
        *,
        rows: Sequence[int],
        weights: Sequence[float] | None = None,
        limits: Sequence[int | None] | None = None,
        on_exhausted: OnExhausted = "repeat",
        fingerprint: str = "",
        group_rows: int | None = None,
    ) -> MixtureLog:
        """A new log that reads another dataset from ``effective_from`` on; arguments are as those of ``start``.

        ``domains`` may lack some of the log's and bring new ones; the other arguments are in its order.
        """
        if self.entries:
            self._must_follow(effective_from)
        if len(set(domains)) < len(domains) or not len(rows) == len(domains) or min(rows, default=0) < 0:
            raise ConfigError(f"domains {list(domains)} with rows {list(rows)}: allowed distinct names, rows >= 0")
        checked = _checked(quotas, domains)
        if on_exhausted not in get_args(OnExhausted):
            raise ConfigError(f"on_exhausted: got {on_exhausted!r}, allowed {', '.join(get_args(OnExhausted))}")
        empty = [name for name, q, n in zip(domains, checked, rows, strict=True) if q and not n]
        if empty:
            raise ConfigError(f"mixture: {', '.join(empty)} has no sequences but a positive weight; write 0")
        union = (*self.domains, *(name for name in domains if name not in self.domains))
        at = {name: k for k, name in enumerate(domains)}

        def spread(values: Sequence[_T], default: _T) -> tuple[_T, ...]:
            return tuple(values[at[name]] if name in at else default for name in union)

        generation = self.entries[-1].generation + 1 if self.entries else 0
        dataset = Dataset(spread(tuple(rows), 0), fingerprint, generation, int(effective_from), group_rows)
        entry = Entry(
            effective_from=int(effective_from),
            quotas=spread(checked, 0),
            base=(0,) * len(union),
            weights=spread(_shares(checked, weights), 0.0),
            limits=spread(tuple(limits or (None,) * len(domains)), None),
            on_exhausted=on_exhausted,
            generation=generation,
        )
        wide = self._over(union)
        return replace(wide, datasets=(*wide.datasets, dataset))._with(entry)

    def _must_follow(self, effective_from: int) -> None:
        last = self.entries[-1].effective_from
        if effective_from <= last:
            raise ConfigError(
                f"mixture entry from sequence {effective_from}: the last entry begins at {last}; "
                f"a new one must begin later (>= {last + 1})"
            )

    def _with(self, entry: Entry) -> MixtureLog:
        """This log with one more entry; phases that would begin at it or later never come into force."""
        version = self.first_version + len(self.entries)
        before = tuple(phase for phase in self.phases[-1 - len(self.domains) :] if phase.begins < entry.effective_from)
        phases = (*self.phases[: -1 - len(self.domains)], *before)
        ended = bool(phases) and not any(phases[-1].quotas)
        later = () if ended else tuple(unfold(entry, version, tie_ranks(self.domains, self.seed)))
        return replace(self, entries=(*self.entries, entry), phases=(*phases, *later))

    def _over(self, union: tuple[str, ...]) -> MixtureLog:
        """This log with vectors over the longer list of domains."""
        new = len(union) - len(self.domains)

        def longer(values: tuple[_T, ...], default: _T) -> tuple[_T, ...]:
            return (*values, *(default for _ in range(new)))

        return replace(
            self,
            domains=union,
            datasets=tuple(replace(d, rows=longer(d.rows, 0)) for d in self.datasets),
            entries=tuple(
                replace(
                    e,
                    quotas=longer(e.quotas, 0),
                    base=longer(e.base, 0),
                    weights=longer(e.weights, 0.0),
                    limits=longer(e.limits, None),
                )
                for e in self.entries
            ),
            phases=tuple(p._replace(quotas=longer(p.quotas, 0), base=longer(p.base, 0)) for p in self.phases),
        )

    @property
    def end(self) -> int | None:
        """Sequences in the order; None where it has no end."""
        last = self.phases[-1]
        return None if any(last.quotas) else last.begins

    @property
    def newest_version(self) -> int:
        """Number of the last entry."""
        return self.first_version + len(self.entries) - 1

    def entry(self, version: int) -> Entry:
        """The entry with this number.

        Raises:
            ConfigError: the log has no such entry, or no longer.
        """
        last = self.newest_version
        if not self.first_version <= version <= last:
            raise ConfigError(f"mixture version {version}: this log holds versions {self.first_version} to {last}")
        return self.entries[version - self.first_version]

    def dataset(self, generation: int) -> Dataset:
        """The dataset with this number."""
        return self.datasets[generation - self.datasets[0].generation]

    def cursors(self, n: int) -> tuple[int, ...]:
        """How many sequences of each domain come before sequence ``n``, counted in the dataset in force there."""
        phase = self.phases[self._phase_at(n)]
        total = sum(phase.quotas)
        if not total:
            return phase.base
        return _advanced(phase.quotas, phase.base, n - phase.begins, tie_ranks(self.domains, self.seed))

    def version_at(self, n: int) -> int:
        """Number of the entry in force at sequence ``n``."""
        return self.phases[self._phase_at(n)].version

    def versions(self, numbers: Ints) -> Ints:
        """Number of the entry in force at each sequence number: shape (n,)."""
        of_phase = np.array([phase.version for phase in self.phases], dtype=np.int64)
        return of_phase[self._phases_of(np.asarray(numbers, dtype=np.int64))]

    def assign(self, numbers: Ints) -> tuple[Ints, Ints, Ints]:
        """Domain index, cursor and version of each sequence number: three arrays of shape (n,).

        Raises:
            DatasetError: a number lies past the end of the order, or before a trimmed log.
        """
        domains, cursors, versions, _ = self._assigned(np.asarray(numbers, dtype=np.int64))
        return domains, cursors, versions

    def locate(self, numbers: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Domain index, row inside it, version and dataset generation of each number: four arrays of shape (n,)."""
        domains, cursors, versions, generations = self._assigned(np.asarray(numbers, dtype=np.int64))
        out = np.empty_like(cursors)
        for generation, of_dataset in _groups(generations):
            dataset = self.dataset(generation)
            for k, of_domain in _groups(domains[of_dataset]):
                here = of_dataset[of_domain]
                out[here] = shuffled_rows(
                    cursors[here],
                    dataset.rows[k],
                    seed=self.seed,
                    domain=self.domains[k],
                    generation=generation,
                    group_rows=dataset.group_rows,
                )
        return domains, out, versions, generations

    def _assigned(self, numbers: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        at = self._phases_of(numbers)
        domains, cursors, versions, generations = (np.empty_like(numbers) for _ in range(4))
        for index, here in _groups(at):
            phase = self.phases[index]
            total = sum(phase.quotas)
            if not total:
                raise DatasetError(self.ended(int(numbers[here].min())))
            full, part = np.divmod(numbers[here] - phase.begins, total)
            of_item, item = block_order(phase.quotas, tie_ranks(self.domains, self.seed))
            k = of_item[part]
            domains[here] = k
            cursors[here] = np.array(phase.base)[k] + full * np.array(phase.quotas)[k] + item[part]
            versions[here] = phase.version
            generations[here] = phase.generation
        return domains, cursors, versions, generations

    def _phases_of(self, numbers: Ints) -> Ints:
        begins = np.array([phase.begins for phase in self.phases], dtype=np.int64)
        at = np.searchsorted(begins, numbers, side="right").astype(np.int64) - 1
        if numbers.size and int(at.min()) < 0:
            number = int(numbers.min())
            if number < 0:
                raise ValueError(f"sequence numbers start at 0, got {number}")
            raise DatasetError(
                f"sequence {number}: the mixture log was trimmed and begins at {int(begins[0])}; ask for later ones"
            )
        return at

    def _phase_at(self, n: int) -> int:
        return int(self._phases_of(np.array([n], dtype=np.int64))[0])

    def ended(self, number: int) -> str:
        """What to tell somebody who asks for a sequence past the end."""
        last = self.phases[-1]
        entry = self.entry(last.version)
        spent = [
            f"{name} ({base} sequences read)"
            for name, q, base, limit in zip(self.domains, entry.quotas, last.base, entry.limits, strict=True)
            if q and limit is not None and base >= limit
        ]
        return (
            f"sequence {number}: the order ends at sequence {last.begins}, where {', '.join(spent)} reached its limit; "
            "raise max_epochs, set on_exhausted to repeat or redistribute, or train fewer steps"
        )

    def trimmed(self, n: int, *, keep: int = 0) -> MixtureLog:
        """This log without the entries that end by sequence ``n``, the last ``keep`` of them apart."""
        first = max(self.version_at(n) - keep, self.first_version)
        entries = self.entries[first - self.first_version :]
        kept = tuple(dataset for dataset in self.datasets if dataset.generation >= entries[0].generation)
        phases = tuple(phase for phase in self.phases if phase.version >= first)
        return replace(self, datasets=kept, entries=entries, first_version=first, phases=phases)

    def until(self, n: int) -> MixtureLog:
        """This log without the entries that begin at sequence ``n`` or later; it may be left with none."""
        entries = tuple(entry for entry in self.entries if entry.effective_from < n)
        kept = tuple(dataset for dataset in self.datasets if dataset.begins < n)
        phases = tuple(phase for phase in self.phases if phase.begins < n)
        return replace(self, datasets=kept, entries=entries, phases=phases)

    def narrowed(self, domains: Sequence[str]) -> MixtureLog:
        """A log of one entry that was just replaced, over ``domains`` alone, in their order.

        For a run whose records begin anew: what is left out has no sequences in the dataset in force.
        """
        assert len(self.entries) == 1, "more entries than that of the replacement"
        at = [self.domains.index(name) for name in domains]
        entry, dataset = self.entries[0], self.datasets[0]

        def some(values: tuple[_T, ...]) -> tuple[_T, ...]:
            return tuple(values[k] for k in at)

        vectors = {name: some(getattr(entry, name)) for name in ("quotas", "base", "weights", "limits")}
        bare = replace(
            self, domains=tuple(domains), datasets=(replace(dataset, rows=some(dataset.rows)),), entries=(), phases=()
        )
        return bare._with(replace(entry, **vectors))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Everything but the phases, which follow from it, as JSON values."""
        return {
            "domains": list(self.domains),
            "seed": self.seed,
            "first_version": self.first_version,
            "datasets": [vars(dataset) | {"rows": list(dataset.rows)} for dataset in self.datasets],
            "entries": [{name: _plain(value) for name, value in vars(entry).items()} for entry in self.entries],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MixtureLog:
        """The log that ``to_json`` wrote; DatasetError when its entries do not follow from each other."""
        try:
            return cls._read(value)
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise DatasetError(f"mixture log: {error!r}; it was damaged or saved by another version") from error

    @classmethod
    def _read(cls, value: Mapping[str, Any]) -> MixtureLog:
        datasets, entries = [read_dataset(d) for d in value["datasets"]], [read_entry(e) for e in value["entries"]]
        domains, first = tuple(exactly(str, name) for name in value["domains"]), entries[0]
        log = cls(domains, exactly(int, value["seed"]), (datasets[0],), (), whole(value["first_version"]), ())
        vectors = [v for e in entries for v in (e.quotas, e.base, e.weights, e.limits)] + [d.rows for d in datasets]
        if any(len(vector) != len(domains) for vector in vectors) or len(set(domains)) < len(domains):
            raise DatasetError(f"mixture log: not all of its vectors have one value for each of {list(domains)}")
        read = first.effective_from - datasets[0].begins
        if sum(first.base) != read or first.generation != datasets[0].generation:
            raise DatasetError(f"mixture log: entry {first} does not follow: {read} sequences come before it")
        log = log._with(replace(first, quotas=_checked(first.quotas, domains)))
        by_generation = {dataset.generation: dataset for dataset in datasets}
        for entry in entries[1:]:
            dataset = by_generation[entry.generation]
            if entry.generation == log.entries[-1].generation:
                made = log.append(entry.effective_from, entry.quotas, entry.weights)
            else:
                made = log.replace(
                    entry.effective_from,
                    domains,
                    entry.quotas,
                    rows=dataset.rows,
                    weights=entry.weights,
                    limits=entry.limits,
                    on_exhausted=entry.on_exhausted,
                    fingerprint=dataset.fingerprint,
                    group_rows=dataset.group_rows,
                )
            if made.entries[-1] != entry or made.datasets[-1] != dataset:
                raise DatasetError(f"mixture log: {entry} does not follow from the ones before it: {made.entries[-1]}")
            log = made
        return log


def unfold(entry: Entry, version: int, ties: tuple[int, ...]) -> Iterator[Phase]:
    """The phases of an entry: a function of it alone. At most K + 1 of them, the last one open or ended."""
    begins, base, quotas = entry.effective_from, entry.base, entry.quotas
    while True:
        if entry.on_exhausted == "redistribute":
            left = (limit is None or b < limit for b, limit in zip(base, entry.limits, strict=True))
            quotas = tuple(q if more else 0 for q, more in zip(quotas, left, strict=True))
        yield Phase(begins, version, quotas, base, entry.generation)
        if not any(quotas):
            return
        domain, _ = block_order(quotas, ties)
        stops = []
        for k, (q, b, limit) in enumerate(zip(quotas, base, entry.limits, strict=True)):
            if q and limit is not None:
                full, item = divmod(max(0, limit - b), q)
                stops.append(full * sum(quotas) + int(np.flatnonzero(domain == k)[item]))
        if not stops:
            return
        base = _advanced(quotas, base, min(stops), ties)
        begins += min(stops)
        if entry.on_exhausted == "stop":
            yield Phase(begins, version, (0,) * len(quotas), base, entry.generation)
            return


def _advanced(quotas: tuple[int, ...], base: tuple[int, ...], count: int, ties: tuple[int, ...]) -> tuple[int, ...]:
    """Cursors after ``count`` sequences of a phase."""
    full, part = divmod(int(count), sum(quotas))
    begun = np.bincount(block_order(quotas, ties)[0][:part], minlength=len(quotas))
    return tuple(b + full * q + int(c) for b, q, c in zip(base, quotas, begun, strict=True))


def _groups(values: Ints) -> Iterator[tuple[int, Ints]]:
    """Every value that occurs, with its places in order."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    borders = np.flatnonzero(np.diff(ordered)) + 1
    for places in np.split(order, borders) if len(order) else ():
        yield int(values[places[0]]), places


def _shares(quotas: tuple[int, ...], weights: Sequence[float] | None) -> tuple[float, ...]:
    if weights is None:
        return tuple(q / sum(quotas) for q in quotas)
    return tuple(float(w) for w in weights)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _checked(quotas: Sequence[int], domains: Sequence[str]) -> tuple[int, ...]:
    counts = tuple(int(q) for q in quotas)
    if len(counts) != len(domains) or counts != tuple(quotas) or min(counts, default=-1) < 0:
        raise ConfigError(f"quotas: got {list(quotas)}, allowed {len(domains)} whole numbers >= 0, one per domain")
    if not 1 <= sum(counts) <= MAX_BLOCK:
        raise ConfigError(f"quotas: they sum to {sum(counts)}, allowed 1 to {MAX_BLOCK}; use a smaller block")
    return counts
