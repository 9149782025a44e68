"""Trials of a search measured by proxies: on any engine, in parallel, and never the same one twice.

    trial (point, seed)  --space, pool-->  copies of every document  --proxy-->  losses on the target

Every result is a small JSON file below ``measured/<digest>/``. The digest stands for the proxy, its data and the
versions of its libraries; the file's name stands for the copies and the seed. Together they are all that decides the
losses, so a search that was killed goes on where it stopped, one with other settings takes over the points that both
have, and two points that select the same copies are trained once.

A point whose budget cannot be reached and a proxy that diverges give a result with a flag in place of its loss.

Price: the driver computes the copies of each trial once more than the workers do (60M rows/s a core).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.errors import ConfigError
from penstock.pipelines.passes import Engine, PartWriter, Pass, Receipt, Split, run_pass
from penstock.selectors.proxies.data import Losses, Proxy
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.space import Space
from penstock.selectors.search.trials import Measured, Trial
from penstock.step import library_versions
from penstock.storage import Folder

_DIGITS = 6


@dataclass(frozen=True)
class Selected:
    """The space, the pool and the budget of a search: what makes a trial's copies."""

    space: Space
    pool: Pool
    target_tokens: int
    copy_cap: float | None

    def copies(self, unit: Sequence[float], seed: int) -> NDArray[np.int32]:
        """Copies of every row of the pool: (n,).

        Raises:
            ConfigError: the budget cannot be reached at this point.
        """
        point = np.asarray(unit, dtype=np.float64)
        expected = self.space.expected(self.pool, point, target_tokens=self.target_tokens, copy_cap=self.copy_cap)
        return self.pool.copies(expected, seed)


@dataclass(frozen=True)
class TrainProxy:
    """Pass work: one proxy of one trial; its losses are the statistics of the split."""

    proxy: Proxy
    selected: Selected

    def __call__(self, split: Split, out: PartWriter) -> None:
        started = time.perf_counter()
        unit, seed = split.payload["unit"], split.payload["seed"]
        losses = self.proxy.measure(self.selected.copies(unit, seed), seed=seed)
        out.receipt.stats = asdict(losses)
        out.receipt.seconds["proxy"] = round(time.perf_counter() - started, 3)


@dataclass(frozen=True)
class ProxyMeasure:
    """``Measure`` of a search.

    Args:
        proxy: trained on each trial's copies.
        selected: the pool, whose rows are the documents of the proxy's data in their order, and what is made of it.
        folder: results are kept below it.
        engine: runs the proxies, as many at a time as it has workers.
        progress: called with (purpose, trials done, trials in all).
    """

    proxy: Proxy
    selected: Selected
    folder: Folder
    engine: Engine
    progress: Callable[[str, int, int], None] | None = None

    def prefix(self) -> str:
        """Folder of the results, named by all that decides them but copies and seed."""
        libraries = library_versions(("numpy", *getattr(self.proxy, "libraries", ())))
        return f"measured/{hash_json({'proxy': self.proxy.identity(), 'libraries': libraries})}"

    def __call__(self, trials: Sequence[Trial]) -> Iterator[Measured]:
        """Results in the order of ``trials``; points that are not measured yet are, all together.

        Raises:
            WorkerError: a worker died; what is done is kept.
        """
        copies: list[NDArray[np.int32] | str] = [self._copies(trial) for trial in trials]
        splits = [
            None if isinstance(made, str) or not made.any() else _split(trial, made)
            for trial, made in zip(trials, copies, strict=True)
        ]
        todo = list({split.id: split for split in splits if split is not None}.values())
        purpose = trials[0].purpose if trials else ""

        def progress(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(purpose, done, total)

        work = TrainProxy(self.proxy, self.selected)
        receipts = run_pass(Pass(self.folder, self.prefix(), work), todo, self.engine, progress)
        found = {receipt.split: receipt for receipt in receipts}
        for trial, made, split in zip(trials, copies, splits, strict=True):
            if split is None:
                flag = made if isinstance(made, str) else "the selection is empty"
                yield Measured(trial=trial, loss=None, flag=flag)
            else:
                assert not isinstance(made, str)
                yield self._measured(trial, made, found[split.id])

    def _copies(self, trial: Trial) -> NDArray[np.int32] | str:
        """The trial's copies, or why there are none."""
        try:
            return self.selected.copies(trial.unit, trial.seed)
        except ConfigError as error:
            return f"infeasible: {error}"

    def _measured(self, trial: Trial, copies: NDArray[np.int32], receipt: Receipt) -> Measured:
        found, pool = Losses(**receipt.stats), self.selected.pool
        epochs = found.passes * pool.domain_tokens(copies) / pool.domain_tokens()
        return Measured(
            trial=trial,
            loss=found.loss,
            losses=found.losses,
            tokens=int(copies @ pool.tokens),
            unique_tokens=int(pool.tokens[copies > 0].sum()),
            epochs={name: round(float(e), _DIGITS) for name, e in zip(pool.domains, epochs, strict=True)},
            seconds=receipt.seconds["proxy"],
            flag=found.flag,
        )


def _split(trial: Trial, copies: NDArray[np.int32]) -> Split:
    """The trial as a split whose name is decided by its copies and its seed."""
    digest = hashlib.blake2b(copies.tobytes(), digest_size=16).hexdigest()
    return _ByCopies(0, {"unit": list(trial.unit), "seed": trial.seed}, memo=digest)


class _ByCopies(Split):
    """A split known by its copies (``memo``) and seed alone: two points may select the same."""

    @property
    def id(self) -> str:  # type: ignore[override]
        return f"{self.memo}-{self.payload['seed']}"
