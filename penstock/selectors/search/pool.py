"""The scored training rows as small columns without text, and what any theta makes of them.

    rows of split "train", domain by domain, each domain in the order of the table
    sigma      (n, N)  normalised ranks of the criteria, the same numbers as in ``MergedScore``: smaller is better
    expected   (n,)    S' of every row under theta: merge, bin, rank, sample, budget, as in ``QuaDMixSample``
    copies     (n,)    floor(S') + [coin < frac(S')], the coin being the row's hash and the seed

One pool serves all draws of a search. Two draws with one seed share every coin, so their selections differ by what
theta changed and by nothing else (common random numbers), and the difference of their losses has less noise.

Price: 32 + 4 N bytes a row. ``expected`` makes 27M rows/s a core of 100,000 rows with three criteria, a budget and a
cap, and 59M rows/s of ten million: beside the rows it costs some 40 ns for each bin that holds one, of which a domain
has 65,536 at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.seeding import coins
from penstock.selectors.histogram import (
    StepTable,
    criterion_values,
    domains_of,
    float_codes,
    token_counts,
    train_rows,
)
from penstock.selectors.quadmix import MERGED_BITS, NEUTRAL, SCORE_BITS, CriterionHistograms
from penstock.selectors.quadmix_theta import Criterion, QuaDMixParameters, Scope, copies_of, values_of_bins


@dataclass(frozen=True, eq=False)
class Pool:
    """Training rows, grouped by domain; made by ``Pool.of``.

    Attributes:
        criteria: in the order of the columns of ``sigma``.
        scope: sigma ranks among all rows or among those of the domain.
        domains: names, ascending; each has a row.
        domain: position in ``domains``, ascending: (n,) int32.
        sigma: (n, N) float32.
        tokens: (n,) int64.
        id_hash: (n,) uint64.
        row: where each row is in the table the pool was made of: (n,) int64.
        bounds: where the rows of each domain start, and the end: (M + 1,) int64.
        warnings: criteria that rank nothing.
    """

    criteria: tuple[Criterion, ...]
    scope: Scope
    domains: tuple[str, ...]
    domain: NDArray[np.int32]
    sigma: NDArray[np.float32]
    tokens: NDArray[np.int64]
    id_hash: NDArray[np.uint64]
    row: NDArray[np.int64]
    bounds: NDArray[np.int64]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, table: pa.Table, parameters: QuaDMixParameters) -> Pool:
        """The training rows of a scored table; of ``parameters`` the criteria and the scope count.

        Raises:
            DatasetError: a column is absent, a criterion has no score at all or a NaN, no training row has tokens.
        """
        columns = ("domain", "split", "tokens", "id_hash", *(c.column for c in parameters.criteria))
        schema.require(table.column_names, columns, where="search pool")
        chosen = table.select(list(columns)).combine_chunks()
        if chosen.num_rows == 0:
            raise DatasetError("search pool: got an empty table; score documents before searching")
        batch = pa.RecordBatch.from_arrays([c.chunk(0) for c in chosen.columns], names=list(columns))
        work = CriterionHistograms(parameters=parameters)
        summary = work.summarise(batch)
        edges, steps, facts, warnings = work.ranks(summary)
        train = np.flatnonzero(train_rows(batch))
        tokens = token_counts(batch["tokens"])[train]
        if not tokens.sum():
            raise DatasetError("search pool: no training row has tokens; assign splits and count tokens first")
        names, place = domains_of(batch)
        place = place[train]
        if (place == len(names) - 1).any():
            raise DatasetError("search pool: got a training row without a domain; give every document one")
        present = sorted({names[i] for i in np.unique(place)})
        index = {name: i for i, name in enumerate(present)}
        domain = np.array([index.get(name, -1) for name in names], dtype=np.int32)[place]
        order = np.argsort(domain, kind="stable")
        train, domain = train[order], domain[order]

        table_of = StepTable.of(edges, summary.code, SCORE_BITS)
        at = {(f["criterion"], f["domain"]): i for i, f in enumerate(facts)}
        sigma = np.empty((len(train), len(parameters.criteria)), dtype=np.float32)
        scoped = parameters.normalizer_scope == "domain"
        for n, criterion in enumerate(parameters.criteria):
            values, scored = criterion_values(batch[criterion.column], criterion.column)
            runs = np.array([at.get((criterion.column, d if scoped else ""), -1) for d in present], dtype=np.int32)
            found = table_of.find(runs[domain], float_codes(values[train], SCORE_BITS))
            sigma[:, n] = np.where(scored[train] & (found >= 0), steps[found], NEUTRAL)
        return cls(
            criteria=parameters.criteria,
            scope=parameters.normalizer_scope,
            domains=tuple(present),
            domain=domain,
            sigma=sigma,
            tokens=tokens[order],
            id_hash=batch["id_hash"].to_numpy(zero_copy_only=False)[train],
            row=train,
            bounds=np.searchsorted(domain, np.arange(len(present) + 1)).astype(np.int64),
            warnings=tuple(warnings),
        )

    def __len__(self) -> int:
        return len(self.row)

    def domain_tokens(self, weight: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Tokens of each domain, every row taken once or ``weight`` (n,) times (values or copies): (M,)."""
        tokens = self.tokens.astype(np.float64) if weight is None else self.tokens * weight
        total: NDArray[np.float64] = np.add.reduceat(tokens, self.bounds[:-1])
        return total

    def expected(self, parameters: QuaDMixParameters) -> NDArray[np.float64]:
        """S' of every row: (n,), equal to ``quadmix.value`` of a selection of the same rows.

        Raises:
            ConfigError: the parameters are of other criteria or another scope; the budget cannot be reached.
        """
        if (parameters.criteria, parameters.normalizer_scope) != (self.criteria, self.scope):
            raise ConfigError(
                f"search pool: got parameters of {[c.column for c in parameters.criteria]} ranked in "
                f"{parameters.normalizer_scope} scope, the pool has {[c.column for c in self.criteria]} in {self.scope}"
                " scope, with their directions; make the pool of the same parameters"
            )
        alpha = np.array([parameters.of(name).alpha for name in self.domains])
        place, edges, tokens = _kernels().count_bins(self.sigma, self.tokens, self.bounds, alpha, MERGED_BITS)
        _, value, _ = values_of_bins(parameters, self.domains, edges, tokens)
        expected: NDArray[np.float64] = value.astype(np.float64)[place]
        return expected

    def copies(self, expected: NDArray[np.float64], seed: int) -> NDArray[np.int32]:
        """Copies of every row: (n,). A row has the same coin for every theta, and the coin of ``QuaDMixSample``."""
        return copies_of(expected.astype(np.float32), coins(self.id_hash, seed, "quadmix"))


@cache
def _kernels() -> Any:
    from penstock.selectors.search import _pool_kernels

    return _pool_kernels
