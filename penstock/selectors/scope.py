"""Apply a filter to some domains and let the others pass.

Published thresholds are made for web prose; code, licences or problems break them by nature. The wrapped
filter sees only the rows it judges.

Price: one membership test and one copy of the judged rows a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
        if isinstance(self.domains, str) or not all(isinstance(name, str) for name in self.domains):
            raise ConfigError(f"exempt: got {self.domains!r}, allowed a list of domain names; write [{self.domains!r}]")

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

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """One reason per row; null for kept and for exempt rows."""
        judged = np.flatnonzero(~np.asarray(pc.is_in(batch["domain"], pa.array(self.domains, pa.string()))))
        if len(judged) == batch.num_rows:
            return self.inner.decide(batch)
        reasons = self.inner.decide(batch.take(pa.array(judged)))
        place = np.full(batch.num_rows, -1, dtype=np.int64)
        place[judged] = np.arange(len(judged))
        return reasons.take(pa.array(place, mask=place < 0))
