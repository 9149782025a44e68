"""QuaDMix: how many copies of each document, from several quality scores and its domain (arXiv 2504.16511v2).

    q_n   -- sigma -->   sigma_n   token-weighted rank among all documents, 0 best, 1 worst
    merge                qbar = sum_n alpha[d, n] sigma_n
    rank                 r    = share of the domain's tokens whose qbar is as good or better
    sample               S(r) = (2 / (1 + exp(-lam (omega - r)))) ** eta + eps   if r <= omega, else eps
    budget               S'   = min(f g[d] S, copy_cap), f solved so that sum S' tokens = target_tokens;
                         g is the domain's multiplier, 1 unless given
    copies               floor(S') + [coin < frac(S')], the coin a hash of the document's id and the seed

Three passes over small columns, none over text. ``CriterionHistograms`` counts tokens per raw score and
fits ``MergedScore`` (qbar as a column); ``MergedHistograms`` counts tokens per qbar and domain and fits
``QuaDMixSample``. Everything global is an integer histogram, so the outcome does not depend on splits,
workers or order; S and the budget are functions of (domain, bin) and therefore exact on the binned ranks.
Only rows with split "train" are counted and sampled.

Choices the paper leaves open: ``eta_mode``, ``normalizer_scope`` and ``rank_at`` are parameters; sigma is
always the mid-rank (a tie counts half of itself), so its token-weighted mean is 1/2, which is what a
document without a score gets. Raw scores are binned by the high 22 bits of their float32 (steps of 2**-13
of the value, finer than scores rounded to 1e-4 in [0, 1]); qbar in 65,536 equal steps.

Price: 28 bytes per occupied bin; MergedScore + QuaDMixSample run at about 5M rows/s a core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import DatasetError
from penstock.seeding import coins
from penstock.selectors import artifact
from penstock.selectors.histogram import (
    StepTable,
    TokenHistogram,
    criterion_values,
    domain_index,
    domains_of,
    float_codes,
    token_counts,
    train_rows,
    unit_codes,
)
from penstock.selectors.quadmix_theta import (
    Criterion,
    DomainParameters,
    QuaDMixParameters,
    Scope,
    copies_of,
    mid_rank,
    values_of_bins,
)

__all__ = [
    "MERGED",
    "Criterion",
    "CriterionHistograms",
    "DomainParameters",
    "MergedHistograms",
    "MergedScore",
    "QuaDMixParameters",
    "QuaDMixSample",
]

MERGED = "quadmix.merged"
SCORE_BITS = 22
MERGED_BITS = 16
NEUTRAL = 0.5  # the token-weighted mean of a mid-rank


@dataclass(frozen=True, kw_only=True)
class CriterionHistograms:
    """Fitted: tokens per raw value of every criterion -> ``MergedScore``."""

    parameters: QuaDMixParameters

    name: ClassVar[str] = "quadmix_criteria"
    revision: ClassVar[int] = 2
    adds: ClassVar[tuple[str, ...]] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        domain = ("domain",) if self.parameters.normalizer_scope == "domain" else ()
        return (*domain, "split", "tokens", *(c.column for c in self.parameters.criteria))

    def summarise(self, batch: pa.RecordBatch) -> TokenHistogram:
        """Bins of the batch's training rows; a null score is not counted."""
        train = train_rows(batch)
        tokens = token_counts(batch["tokens"])
        domains, domain = _groups(batch, self.parameters.normalizer_scope, train)
        parts = []
        for criterion in self.parameters.criteria:
            values, present = criterion_values(batch[criterion.column], criterion.column)
            rows = train & present
            groups = [(criterion.column, name) for name in domains]
            parts.append(TokenHistogram.of(groups, domain[rows], float_codes(values[rows], SCORE_BITS), tokens[rows]))
        return TokenHistogram.concat(parts)

    def fit(self, summary: TokenHistogram, folder: str) -> MergedScore:
        """Ranks of every bin, saved under ``folder``.

        Raises:
            DatasetError: a criterion has no scored training token.
        """
        bounds, sigma, facts, warnings = self.ranks(summary)
        path, digest = artifact.save(
            folder,
            "quadmix-sigma",
            {"offsets": bounds, "codes": summary.code, "sigma": sigma},
            {"groups": facts, "bits": SCORE_BITS, "warnings": warnings},
        )
        return MergedScore(parameters=self.parameters, path=path, digest=digest)

    def ranks(
        self, summary: TokenHistogram
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], list[dict[str, Any]], list[str]]:
        """(where each group's bins start, sigma of every bin, facts of every group, warnings).

        Raises:
            DatasetError: a criterion has no scored training token.
        """
        bounds = summary.bounds()
        sigma = np.empty(len(summary.code), dtype=np.float32)
        direction = {c.column: c.direction for c in self.parameters.criteria}
        facts: list[dict[str, Any]] = []
        for g, (column, domain) in enumerate(summary.groups):
            tokens = summary.tokens[bounds[g] : bounds[g + 1]]
            sigma[bounds[g] : bounds[g + 1]] = mid_rank(tokens, higher_is_better=direction[column] == "higher")
            facts.append(
                {
                    "criterion": column,
                    "domain": domain,
                    "tokens": int(tokens.sum()),
                    "heaviest_bin": int(tokens.max(initial=0)),
                }
            )
        warnings: list[str] = []
        for column in direction:
            own = [f for f in facts if f["criterion"] == column]
            if not sum(f["tokens"] for f in own):
                raise DatasetError(f"{column}: no training row has a score; score the documents before selecting")
            flat = [f["domain"] for f in own if f["tokens"] == f["heaviest_bin"] > 0]
            if flat:
                where = " in domain " + ", ".join(map(repr, flat)) if any(flat) else ""
                warnings.append(
                    f"{column}: all scored training tokens have one value{where}, so it ranks nothing there; "
                    "leave the criterion out or look at its scorer"
                )
        return bounds, sigma, facts, warnings


def _groups(batch: pa.RecordBatch, scope: Scope, train: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.int32]]:
    """The names the rows are grouped by, and each row's place among them."""
    if scope == "global":
        return [""], np.zeros(batch.num_rows, dtype=np.int32)
    names, place = domains_of(batch)
    if pc.any(batch["domain"].filter(pa.array(train)).is_null()).as_py():
        raise DatasetError("domain: got null in a training row; give every document a domain")
    return names, place


@cache
def _sigma(path: str, digest: str) -> tuple[StepTable, NDArray[np.float32], dict[tuple[str, str], int]]:
    found = artifact.load(path, digest)
    table = StepTable.of(found.arrays["offsets"], found.arrays["codes"], found.facts["bits"])
    place = {(f["criterion"], f["domain"]): i for i, f in enumerate(found.facts["groups"])}
    return table, found.arrays["sigma"], place


@dataclass(frozen=True, kw_only=True)
class MergedScore:
    """Annotator: adds ``quadmix.merged`` (float32 in [0, 1], lower is better).

    A null score, or a score in a domain where training rows have none, counts as 0.5. A value that no
    training row has takes the rank of the next lower one that occurs.
    """

    parameters: QuaDMixParameters
    path: str
    digest: str

    name: ClassVar[str] = "quadmix_merge"
    revision: ClassVar[int] = 2
    adds: ClassVar[tuple[str, ...]] = (MERGED,)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("domain", *(c.column for c in self.parameters.criteria))

    def setup(self) -> None:
        _sigma(self.path, self.digest)

    def facts(self) -> dict[str, Any]:
        """What the fit found: ``groups`` (tokens and heaviest bin of each criterion), ``warnings``."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        table, sigma, place = _sigma(self.path, self.digest)
        domains, domain = domains_of(batch)
        alpha = np.array([self.parameters.of(name).alpha for name in domains])
        scoped = self.parameters.normalizer_scope == "domain"
        merged = np.zeros(batch.num_rows)
        for n, criterion in enumerate(self.parameters.criteria):
            values, present = criterion_values(batch[criterion.column], criterion.column)
            run = [place.get((criterion.column, name if scoped else ""), -1) for name in domains]
            table.add_weighted(
                merged,
                steps=sigma,
                run=np.array(run, dtype=np.int32),
                weight=np.ascontiguousarray(alpha[:, n]),
                domain=domain,
                code=float_codes(values, SCORE_BITS),
                present=present,
                neutral=NEUTRAL,
            )
        return {MERGED: pa.array(np.clip(merged, 0.0, 1.0).astype(np.float32))}


@dataclass(frozen=True, kw_only=True)
class MergedHistograms:
    """Fitted: tokens per merged score of every domain -> ``QuaDMixSample``."""

    parameters: QuaDMixParameters
    seed: int

    name: ClassVar[str] = "quadmix_ranks"
    revision: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("domain", "split", "tokens", MERGED)
    adds: ClassVar[tuple[str, ...]] = ()

    def summarise(self, batch: pa.RecordBatch) -> TokenHistogram:
        """Bins of the batch's training rows."""
        train = train_rows(batch)
        domains, domain = _groups(batch, "domain", train)
        values, present = criterion_values(batch[MERGED], MERGED)
        if not present.all():
            raise DatasetError(f"{MERGED}: got null; it is what MergedScore writes for every row")
        code = unit_codes(values[train], MERGED_BITS)
        return TokenHistogram.of(
            [(MERGED, name) for name in domains], domain[train], code, token_counts(batch["tokens"])[train]
        )

    def fit(self, summary: TokenHistogram, folder: str) -> QuaDMixSample:
        """Rank and S' of every bin, saved under ``folder`` with what they imply per domain and all warnings.

        Raises:
            ConfigError: the budget cannot be reached.
            DatasetError: there is no training token.
        """
        theta = self.parameters
        if not summary.tokens.sum():
            raise DatasetError("quadmix: no training row has tokens; assign splits and count tokens before selecting")
        bounds = summary.bounds()
        domains = [domain for _, domain in summary.groups]
        rank, scaled, factor = values_of_bins(theta, domains, bounds, summary.tokens)
        warnings: list[str] = []
        for g, domain in enumerate(domains):
            own, best = theta.of(domain), rank[bounds[g]]
            if best > own.omega:
                warnings.append(
                    f"domain {domain!r}: best rank {best:.4g}, behind omega {own.omega:g}: the window is "
                    f"empty and only the floor eps {own.eps:g} applies; raise omega for this domain"
                )
        warnings += [
            f"domain {name!r} has parameters but no training row" for name, _ in theta.domains if name not in domains
        ]
        if factor < 1.0:
            warnings.append(f"budget factor {factor:.4g} is below 1: documents inside the window may be left out")
        facts: list[dict[str, Any]] = []
        for g, (_, domain) in enumerate(summary.groups):
            run = slice(bounds[g], bounds[g + 1])
            tokens = summary.tokens[run]
            facts.append(
                {
                    "domain": domain,
                    "documents": int(summary.documents[run].sum()),
                    "tokens": int(tokens.sum()),
                    "expected_tokens": float((scaled[run].astype(np.float64) * tokens).sum()),
                    "heaviest_bin": int(tokens.max(initial=0)),
                }
            )
        path, digest = artifact.save(
            folder,
            "quadmix-ranks",
            {"offsets": bounds, "codes": summary.code, "rank": rank.astype(np.float32), "value": scaled},
            {
                "domains": facts,
                "budget_factor": factor,
                "expected_tokens": sum(f["expected_tokens"] for f in facts),
                "warnings": warnings,
                "bits": MERGED_BITS,
            },
        )
        return QuaDMixSample(seed=self.seed, path=path, digest=digest)


@cache
def _ranks(path: str, digest: str) -> tuple[StepTable, NDArray[np.float32], list[str]]:
    """(bins, rank and S' of each, names of the groups)."""
    found = artifact.load(path, digest)
    table = StepTable.of(found.arrays["offsets"], found.arrays["codes"], found.facts["bits"])
    names = [f["domain"] for f in found.facts["domains"]]
    return table, np.stack((found.arrays["rank"], found.arrays["value"]), axis=1), names


@dataclass(frozen=True, kw_only=True)
class QuaDMixSample:
    """Annotator: adds ``quadmix.rank`` (r), ``quadmix.value`` (S') and ``copies``.

    Copies follow from ``quadmix.value``, ``id_hash`` and ``seed`` alone; equal seeds give nested
    selections for parameters that raise S'. Rows outside train have null rank and value and one copy.
    """

    seed: int
    path: str
    digest: str

    name: ClassVar[str] = "quadmix_sample"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("id_hash", "domain", "split", MERGED)
    adds: ClassVar[tuple[str, ...]] = ("quadmix.rank", "quadmix.value", "copies")

    def setup(self) -> None:
        _ranks(self.path, self.digest)

    def facts(self) -> dict[str, Any]:
        """What the fit found: ``domains``, ``budget_factor``, ``expected_tokens``, ``warnings``."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Raises DatasetError for a training row of a domain that the fit never saw."""
        table, pairs, names = _ranks(self.path, self.digest)
        train = train_rows(batch)
        values, _ = criterion_values(batch[MERGED], MERGED)
        domain = domain_index(batch["domain"], names)
        if (domain[train] < 0).any():
            lost = batch["domain"].filter(pa.array(train & (domain < 0))).unique().to_pylist()
            raise DatasetError(f"quadmix: got training rows of {lost}, fitted on {names}; fit the ranks on this corpus")
        rank, share = table.look_up(domain, unit_codes(values, MERGED_BITS), pairs)
        coin = coins(batch["id_hash"].to_numpy(zero_copy_only=False), self.seed, "quadmix")
        return {
            "quadmix.rank": pa.array(rank, mask=~train),
            "quadmix.value": pa.array(share, mask=~train),
            "copies": pa.array(np.where(train, copies_of(share, coin), np.int32(1)).astype(np.int32)),
        }
