"""Apply row work to some domains and let the others pass.

Published thresholds are made for web prose; code, licences or problems break them by nature. The wrapped
filter, or annotator that edits text, sees only the rows it judges.

Price: one membership test and one copy of the judged rows a batch; an annotator's columns are copied once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExceptDomains:
    """Filter: the decisions of ``inner``, with null (keep) for rows of the exempt ``domains``."""

    inner: Any
    domains: tuple[str, ...]

    def __post_init__(self) -> None:
        if not hasattr(self.inner, "decide"):
            raise ConfigError(
                f"exempt: got {type(self.inner).__name__}, allowed a filter; other row work drops nothing, so it needs "
                "no exemption"
            )
        _check_domains(self.domains)

    @property
    def name(self) -> str:
        """The inner filter's: statistics and reasons read the same with and without exemptions."""
        return str(self.inner.name)

    @property
    def revision(self) -> int:
        return int(self.inner.revision)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.inner.reads, "domain")))

    @property
    def adds(self) -> tuple[str, ...]:
        return ()

    def setup(self) -> None:
        """Whatever the inner filter needs."""
        if hasattr(self.inner, "setup"):
            self.inner.setup()

    def files(self) -> list[Any]:
        """Files that the inner filter's decisions depend on."""
        return list(self.inner.files()) if hasattr(self.inner, "files") else []

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """One reason per row; null for kept and for exempt rows."""
        judged, place = _judged(batch, self.domains)
        if len(judged) == batch.num_rows:
            return self.inner.decide(batch)
        reasons = self.inner.decide(batch.take(pa.array(judged)))
        return reasons.take(pa.array(place, mask=place < 0))


@dataclass(frozen=True, kw_only=True)
class EditExceptDomains:
    """Annotator: the edits of ``inner``; rows of the exempt ``domains`` keep what they have, null in a new column."""

    inner: Any
    domains: tuple[str, ...]

    def __post_init__(self) -> None:
        if not hasattr(self.inner, "edit"):
            raise ConfigError(
                f"exempt: got {type(self.inner).__name__}, allowed an annotator that edits text; other row work "
                "changes no text, so it needs no exemption"
            )
        _check_domains(self.domains)

    @property
    def name(self) -> str:
        """The inner annotator's: statistics read the same with and without exemptions."""
        return str(self.inner.name)

    @property
    def revision(self) -> int:
        return int(self.inner.revision)

    @property
    def reads(self) -> tuple[str, ...]:
        # exempt rows keep their hash
        kept = ("content_hash",) if "content_hash" in self.inner.adds else ()
        return tuple(dict.fromkeys((*self.inner.reads, "domain", *kept)))

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(self.inner.adds)

    def setup(self) -> None:
        """Whatever the inner annotator needs."""
        if hasattr(self.inner, "setup"):
            self.inner.setup()

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The inner annotator's columns."""
        return self.edit(batch)[0]

    def edit(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """The inner annotator's columns and counts, of the rows that are not exempt."""
        judged, place = _judged(batch, self.domains)
        if len(judged) == batch.num_rows:
            edited: tuple[dict[str, pa.Array], dict[str, int]] = self.inner.edit(batch)
            return edited
        columns, counts = self.inner.edit(batch.take(pa.array(judged)))
        out = {}
        for name, column in columns.items():
            if name in batch.schema.names:
                # row i is in the edited rows, or behind them as it was
                at = np.where(place < 0, len(judged) + np.arange(batch.num_rows), place)
                out[name] = pa.concat_arrays([column, batch[name].cast(column.type)]).take(pa.array(at))
            else:
                out[name] = column.take(pa.array(place, mask=place < 0))
        return out, counts


def except_domains(work: Any, domains: tuple[str, ...]) -> Any:
    """``work`` without effect on rows of ``domains``: a filter, or an annotator that edits text."""
    if not domains:
        return work
    kind: Any = ExceptDomains if hasattr(work, "decide") else EditExceptDomains
    return kind(inner=work, domains=domains)


def _check_domains(domains: Any) -> None:
    if isinstance(domains, str) or not all(isinstance(name, str) for name in domains):
        raise ConfigError(f"exempt: got {domains!r}, allowed a list of domain names; write [{domains!r}]")


def _judged(batch: pa.RecordBatch, domains: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are not exempt, and of every row its place among them or -1."""
    judged = np.flatnonzero(~np.asarray(pc.is_in(batch["domain"], pa.array(domains, pa.string()))))
    place = np.full(batch.num_rows, -1, dtype=np.int64)
    place[judged] = np.arange(len(judged))
    return judged, place
