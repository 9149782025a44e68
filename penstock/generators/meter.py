"""What asking a model took: requests, answers that were kept, failures by kind, tokens, cost, latency.

Every figure is a sum, so meters of several workers add up (``counts``, ``Meter.of``). Latencies are counted in 20 bins
a decade, so a quantile is right to 6 % whatever the number of requests. A request's latency is that of all its attempts
and waits, as whoever asked saw it; requests that a model answers together have that of the group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.generators.base import Completion, Usage, failure
from penstock.generators.prices import Price

_BINS = 20  # a decade
_SHARES = (0.5, 0.9, 0.99)


@dataclass
class Meter:
    """Sums over requests.

    Attributes:
        requests: that were wanted.
        kept: of them, answered without asking: from the store, or by an equal request of the same call.
        asked: of them, sent to the model (``requests`` = ``kept`` + ``asked``, once all are answered).
        failed: of those asked, without an answer, by kind of error.
        uncounted: of those asked, answered without a count of tokens.
        cost: None without a price for the model.
        latency: bin of ``log10(seconds)`` to requests.
    """

    requests: int = 0
    kept: int = 0
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    uncounted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    latency: Counter[int] = field(default_factory=Counter)

    def answered(self, answer: Completion, seconds: float, price: Price | None) -> None:
        """Count a request that was sent, and what came back after ``seconds``."""
        self.asked += 1
        self.latency[math.floor(_BINS * math.log10(max(seconds, 1e-6)))] += 1
        if answer.error is not None:
            self.failed[failure(answer.error)] += 1
        elif answer.usage == Usage():
            self.uncounted += 1
        self.prompt_tokens += answer.usage.prompt_tokens
        self.completion_tokens += answer.usage.completion_tokens
        if price is not None:
            self.cost = (self.cost or 0.0) + price.cost(answer.usage)

    def quantile(self, share: float) -> float | None:
        """Seconds that ``share`` of the requests did not exceed: the middle of its bin; None before any request."""
        wanted = share * self.latency.total()
        so_far = 0
        for bin_, count in sorted(self.latency.items()):
            so_far += count
            if so_far >= wanted:
                return float(10.0 ** ((bin_ + 0.5) / _BINS))
        return None

    def counts(self) -> dict[str, Any]:
        """All sums, as nested numbers that can be added to those of another meter."""
        named = {name: getattr(self, name) for name in _NUMBERS}
        more = {} if self.cost is None else {"cost": self.cost}
        return named | more | {"failed": dict(self.failed), "latency": {str(b): n for b, n in self.latency.items()}}

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Meter:
        """The meter of sums that ``counts`` gave."""
        return cls(
            **{name: counts.get(name, 0) for name in _NUMBERS},
            cost=counts.get("cost"),
            failed=Counter(counts.get("failed", {})),
            latency=Counter({int(b): n for b, n in counts.get("latency", {}).items()}),
        )

    def to_json(self) -> dict[str, Any]:
        """For a report: the sums, and quantiles of the latency in seconds in place of its bins."""
        quantiles = {f"p{round(100 * share)}": self.quantile(share) for share in _SHARES}
        rounded = {name: None if value is None else round(value, 4) for name, value in quantiles.items()}
        return self.counts() | {"cost": self.cost, "latency": rounded}


_NUMBERS = ("requests", "kept", "asked", "uncounted", "prompt_tokens", "completion_tokens")
