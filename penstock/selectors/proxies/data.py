"""What proxies learn from and are measured on: token ids of the pool and of the target, read once, without text.

A proxy set is copies of pool documents. Its tokens are found by the documents' places in one flat array, so another
selection of the same pool reads nothing and encodes nothing.

Price: 2 bytes a token (4 above 65,536 tokens of vocabulary), held once in every process that measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import DatasetError
from penstock.selectors import artifact

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenDocuments:
    """Documents as token ids, end to end, each in a group.

    Attributes:
        tokens: (t,) uint16 or uint32; a document ends with its end-of-document id.
        offsets: (n + 1,) where each document starts, and the end.
        group: (n,) int32 places in ``names``.
        names: of the groups: domains of a pool, parts of a target.
    """

    tokens: NDArray[Any]
    offsets: Ints
    group: NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, token_ids: pa.ListArray | pa.ChunkedArray, groups: Sequence[str]) -> TokenDocuments:
        """From a column ``token_ids`` (list<uint16> or list<uint32>) and the name of each row's group."""
        column = token_ids.combine_chunks() if isinstance(token_ids, pa.ChunkedArray) else token_ids
        if isinstance(column, pa.ChunkedArray):  # no rows give no chunk
            column = pa.array([], token_ids.type)
        if column.null_count:
            raise DatasetError(f"token_ids: got {column.null_count} null(s), allowed a list a row; encode them again")
        offsets = np.asarray(column.offsets, dtype=np.int64)
        names = tuple(sorted(set(groups)))
        place = {name: i for i, name in enumerate(names)}
        return cls(
            np.asarray(column.flatten()),
            offsets - offsets[0],
            np.array([place[name] for name in groups], dtype=np.int32),
            names,
        )

    def __len__(self) -> int:
        return len(self.group)

    @property
    def sizes(self) -> Ints:
        """Tokens of each document: (n,)."""
        return np.diff(self.offsets)

    def tokens_by_group(self) -> dict[str, int]:
        """Tokens of each group."""
        sums = np.bincount(self.group, weights=self.sizes, minlength=len(self.names))
        return dict(zip(self.names, map(int, sums), strict=True))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        return {f"{name}.tokens": self.tokens, f"{name}.offsets": self.offsets, f"{name}.group": self.group}


@dataclass(frozen=True, eq=False)
class ProxyData:
    """The pool and the target of a search.

    Attributes:
        pool: documents that may be selected; the groups are domains.
        id_hash: (n,) uint64, the coin of each pool document.
        target: held-out documents that losses are taken on.
        vocabulary: token ids there are: 0 to vocabulary - 1.
        pad_id: fills the last training sequence.
    """

    pool: TokenDocuments
    id_hash: NDArray[np.uint64]
    target: TokenDocuments
    vocabulary: int
    pad_id: int

    def __post_init__(self) -> None:
        if not len(self.target) or not len(self.target.tokens):
            raise DatasetError("target: got no token to measure a loss on; name domains or files that hold documents")
        if not len(self.pool) or not len(self.pool.tokens):
            raise DatasetError("pool: got no token to learn from; look at the drop reasons of the steps before")
        top = max(int(self.pool.tokens.max()), int(self.target.tokens.max()), self.pad_id)
        if top >= self.vocabulary:
            raise DatasetError(
                f"token_ids: got {top}, allowed below the vocabulary of {self.vocabulary}; encode with its tokenizer"
            )

    def save(self, folder: str) -> tuple[str, str]:
        """Write it as an artifact: (path, digest). Equal data give equal names and bytes."""
        arrays = self.pool.arrays("pool") | self.target.arrays("target") | {"pool.id_hash": self.id_hash}
        facts = {
            "domains": list(self.pool.names),
            "targets": list(self.target.names),
            "vocabulary": self.vocabulary,
            "pad_id": self.pad_id,
        }
        return artifact.save(folder, "proxy-data", arrays, facts)

    @classmethod
    @cache
    def load(cls, path: str, digest: str) -> ProxyData:
        """What ``save`` wrote, read once a process."""
        found = artifact.load(path, digest)

        def documents(name: str, groups: Sequence[str]) -> TokenDocuments:
            tokens, offsets, group = (found.arrays[f"{name}.{part}"] for part in ("tokens", "offsets", "group"))
            return TokenDocuments(tokens, offsets, group, tuple(groups))

        return cls(
            documents("pool", found.facts["domains"]),
            found.arrays["pool.id_hash"],
            documents("target", found.facts["targets"]),
            found.facts["vocabulary"],
            found.facts["pad_id"],
        )


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a proxy found.

    Attributes:
        loss: nats per token over the whole target; None for a proxy that diverged.
        losses: the same by part of the target.
        passes: how often a selected copy was read.
        flag: why there is no loss.
    """

    loss: float | None
    losses: dict[str, float]
    passes: float = 1.0
    flag: str | None = None


class Proxy(Protocol):
    """A small model, small enough to pickle: it knows its data by path and digest."""

    def identity(self) -> dict[str, Any]:
        """All that decides its losses besides the copies and the seed, as JSON values."""
        ...

    def measure(self, copies: NDArray[np.int32], *, seed: int) -> Losses:
        """Learn from ``copies`` (n,) of the pool's documents and return the losses on the target."""
        ...
