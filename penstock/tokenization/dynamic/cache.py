"""Rows of new tokens kept between batches, in bounded memory.

    cache = RowCache(capacity=5000)
    rows = cache.rows([b" tokenization"], provider)     # (1, d); computed once, then kept

The key is the token's bytes and the provider's ``key``, which names the method and the rows it starts from: a model
that trains on is another provider, and its rows are made anew. What is looked up in one call is never put out by the
same call; else the least recently used goes first. A call with more different tokens than the cache holds takes them
in runs of that size (``overflow="split"``), computes the surplus and keeps nothing of it (``"bypass"``), or is refused
(``"refuse"``). The rows are the same in the first two.

Price: capacity × width numbers, and one dictionary look-up for each token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.embeddings import RowProvider

if TYPE_CHECKING:
    import torch

Overflow = Literal["split", "bypass", "refuse"]


class RowCache:
    """Least recently used rows.

    Args:
        capacity: rows to keep.
        overflow: what to do with more different tokens in a call than that.

    Attributes:
        hits, misses: tokens found and tokens computed, distinct ones of every call.

    Raises:
        ConfigError: a capacity below 1, or an unknown overflow.
    """

    def __init__(self, capacity: int = 5000, overflow: Overflow = "split") -> None:
        import torch

        if capacity < 1:
            raise ConfigError(f"capacity: got {capacity}, allowed >= 1; a few thousand hold the new tokens of a batch")
        if overflow not in get_args(Overflow):
            raise ConfigError(f"overflow: got {overflow!r}, allowed {', '.join(get_args(Overflow))}")
        self.capacity, self.overflow = capacity, overflow
        self.hits = self.misses = 0
        self._table = torch.empty(0)
        self._slots: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._free = list(range(capacity - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, entry: tuple[str, bytes]) -> bool:
        """Whether the row of (provider's key, token) is kept."""
        return entry in self._slots

    def rows(self, tokens: Sequence[bytes], provider: RowProvider) -> torch.Tensor:
        """(n, width) rows of the tokens, from the cache where they are there.

        Raises:
            InputError: more different tokens than the cache holds, with ``overflow="refuse"``.
            ConfigError: a provider of another width or type than the rows that are kept.
        """
        import torch

        distinct = list(dict.fromkeys(tokens))
        if len(distinct) > self.capacity and self.overflow == "refuse":
            raise InputError(
                f"row cache: got {len(distinct)} different new tokens in one batch, allowed {self.capacity}; raise the "
                "capacity, take smaller batches or fewer merges, or let the cache split or bypass"
            )
        parts = []
        for start in range(0, len(distinct), self.capacity):
            run = distinct[start : start + self.capacity]
            if start and self.overflow == "bypass":
                self.misses += len(distinct) - start
                parts.append(provider.rows(distinct[start:]))
                break
            parts.append(self._run(run, provider))
        place = {token: i for i, token in enumerate(distinct)}
        if not parts:
            return provider.rows([])
        found = torch.cat(parts)
        return found[torch.tensor([place[token] for token in tokens], device=found.device)]

    def _run(self, tokens: list[bytes], provider: RowProvider) -> torch.Tensor:
        """Rows of distinct tokens, no more than the capacity; all are in the cache then."""
        import torch

        key = provider.key
        missing: list[bytes] = []
        for token in tokens:
            if (key, token) in self._slots:
                self._slots.move_to_end((key, token))
            else:
                missing.append(token)
        self.hits += len(tokens) - len(missing)
        self.misses += len(missing)
        if missing:
            made = provider.rows(missing)
            if not self._table.numel():
                self._table = torch.empty((self.capacity, made.shape[1]), dtype=made.dtype, device=made.device)
            if made.shape[1] != self._table.shape[1] or made.dtype != self._table.dtype:
                raise ConfigError(
                    f"row cache: got rows of width {made.shape[1]} in {made.dtype}, allowed {self._table.shape[1]} in "
                    f"{self._table.dtype}, as those it holds; take a cache for each model"
                )
            for token in missing:
                # tokens of this call are at the end of the order, so what goes first is none of them
                slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
                self._slots[key, token] = slot
            self._table[[self._slots[key, token] for token in missing]] = made
        return self._table[[self._slots[key, token] for token in tokens]]
