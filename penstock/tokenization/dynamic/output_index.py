"""The largest logits among very many output rows, without a product with all of them.

    index = OutputIndex(rows)                      # (N, d), say a million
    ids, logits = index.search(hidden, k=20)       # (n, k) each, largest first
    index.recall(hidden, k=20)                     # share of the exact best k that it finds

An inverted file over 8-bit rows by inner product (faiss) gives ``overfetch`` times as many candidates as asked; their
logits are then computed from the rows themselves, so what is returned is exact, and only which ids are returned is
approximate. Inner product and not cosine, since the model ranks by it. Recall depends on the rows and on the hidden
states, so measure it on yours. A softmax over the k found is no distribution over all N: good for sampling, not for
perplexity.

Price: N × (d + 12) bytes for the index beside the rows; building reads the rows twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError, MissingExtraError
from penstock.seeding import derive

_BLOCK = 65_536  # rows taken to float32 at once
_FEW = 4096  # as many rows are searched exactly


class OutputIndex:
    """An index of output rows.

    Args:
        rows: (N, d) float32 or float16, an array or a memory map; it is kept, not copied.
        lists: cells of the inverted file; None is twice the root of N.
        probe: cells searched for each hidden state; None is a sixteenth of them.
        overfetch: candidates that are scored exactly, times k.
        seed: of the clustering.

    Raises:
        ConfigError: rows that are no matrix of floats, or a number below 1.
        MissingExtraError: faiss is not installed.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        *,
        lists: int | None = None,
        probe: int | None = None,
        overfetch: int = 10,
        seed: int = 0,
    ) -> None:
        if rows.ndim != 2 or not len(rows) or rows.dtype not in (np.float32, np.float16):
            raise ConfigError(
                f"rows: got {rows.dtype} of shape {rows.shape}, allowed float32 or float16 of shape (N, d)"
            )
        for name, value in (("lists", lists), ("probe", probe), ("overfetch", overfetch)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: got {value}, allowed >= 1")
        self._rows = rows
        self._overfetch = overfetch
        self._index = None if len(rows) <= _FEW else _build(rows, lists, probe, seed)

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, hidden: NDArray[np.float32], k: int = 20) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and exact logits (n, k) for hidden states (n, d), largest first; an id of -1 (logit -inf) where too few
        were found.

        Raises:
            InputError: hidden states of another width.
            ConfigError: ``k`` below 1 or above N.
        """
        self._check(hidden, k)
        if self._index is None:
            return self.exact(hidden, k)
        _, found = self._index.search(np.ascontiguousarray(hidden, np.float32), min(k * self._overfetch, len(self)))
        logits = np.einsum("nd,ncd->nc", hidden, self._rows[np.maximum(found, 0)].astype(np.float32))
        logits[found < 0] = -np.inf
        return _best(found, logits, k)

    def exact(self, hidden: NDArray[np.float32], k: int = 20) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As ``search``, by a product with all rows."""
        self._check(hidden, k)
        ids = np.zeros((len(hidden), 0), np.int64)
        logits = np.zeros((len(hidden), 0), np.float32)
        for start in range(0, len(self), _BLOCK):
            block = hidden @ self._rows[start : start + _BLOCK].astype(np.float32).T
            numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            both = np.concatenate([ids, numbers], axis=1), np.concatenate([logits, block], axis=1)
            ids, logits = _best(*both, min(k, both[0].shape[1]))
        return ids, logits

    def recall(self, hidden: NDArray[np.float32], k: int = 20) -> float:
        """Share of the exact best ``k`` ids that ``search`` finds, over all hidden states."""
        found, _ = self.search(hidden, k)
        best, _ = self.exact(hidden, k)
        return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, best, strict=True)]))

    @property
    def index_bytes(self) -> int:
        """Bytes of the index beside the rows, as it is written to a file."""
        if self._index is None:
            return 0
        import faiss

        return len(faiss.serialize_index(self._index))

    def _check(self, hidden: NDArray[Any], k: int) -> None:
        if hidden.ndim != 2 or hidden.shape[1] != self._rows.shape[1]:
            raise InputError(f"hidden: got shape {hidden.shape}, allowed (n, {self._rows.shape[1]})")
        if not 1 <= k <= len(self):
            raise ConfigError(f"k: got {k}, allowed 1 to {len(self)}, the rows of the index")


def _build(rows: NDArray[Any], lists: int | None, probe: int | None, seed: int) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError.of("faiss", "cpu") from error
    n, width = rows.shape
    cells = min(lists or int(2 * n**0.5), n // 39 or 1)  # faiss warns below 39 rows a cell
    coarse = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFScalarQuantizer(
        coarse, width, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = derive(seed, "output index") % 2**31
    sample = np.random.default_rng(derive(seed, "rows")).permutation(n)[: cells * 64]
    index.train(rows[np.sort(sample)].astype(np.float32))
    for start in range(0, n, _BLOCK):
        index.add(np.ascontiguousarray(rows[start : start + _BLOCK], np.float32))
    index.nprobe = min(probe or max(1, cells // 16), cells)
    return index


def _best(ids: NDArray[np.int64], logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k largest of each row, largest first; of equals the lower id first."""
    kept = np.argpartition(-logits, k - 1, axis=1)[:, :k] if k < logits.shape[1] else np.arange(k)[None]
    kept = np.broadcast_to(kept, (len(ids), k))
    best_ids, best = np.take_along_axis(ids, kept, 1), np.take_along_axis(logits, kept, 1)
    order = np.lexsort((best_ids, -best), axis=1)
    return np.take_along_axis(best_ids, order, 1), np.take_along_axis(best, order, 1)
