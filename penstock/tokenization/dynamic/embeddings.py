"""Rows for tokens that a model has never seen, made from the rows it has.

    source = source_rows(model.get_input_embeddings())              # (V, d)
    rows = CompositionRows(base, source).rows([b" tokenization"])    # (1, d)

A provider gives rows for byte strings. In this order:

1. **Copy**: a byte string of the base vocabulary has its own row. (Special tokens have no bytes and never come here.)
2. **FVT** (fast vocabulary transfer: Gee, Zugarini, Rigutini and Torroni 2022): the mean of the rows of its canonical
   base tokens, ``e(t) = 1/k Σ E[s_i]``. Canonical means as the base tokenizer cuts its bytes
   (``BaseVocabulary.spell``), never the tokens it happened to be merged from, so that a row depends on the bytes
   alone. ``weighting="bytes"`` takes ``Σ len(s_i) E[s_i] / Σ len(s_i)``, which is the better start for output rows.
3. **Norm matching**: the row scaled to the mean norm of the source rows. A mean of k rows is shorter than they are; in
   an output matrix it would vanish in the softmax.

A byte string without a spelling, or with an id beyond the source rows, gets the row of the unknown token, or the mean
of all rows where there is none.

Price: one encoding of the new strings and one sum; no loop over tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from penstock.errors import ConfigError
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary

if TYPE_CHECKING:
    import torch

Weighting = Literal["uniform", "bytes"]


class RowProvider(Protocol):
    """Gives a row for any byte string; equal bytes have equal rows."""

    @property
    def key(self) -> str:
        """Says all that decides the rows: the method with its settings, and the rows it starts from."""
        ...

    @property
    def width(self) -> int: ...

    def rows(self, tokens: Sequence[bytes]) -> torch.Tensor:
        """(n, width)."""
        ...


class CompositionRows:
    """Copy, else FVT.

    Args:
        base: the base tokenizer.
        source: (V, d) rows of the model, in its type.
        weighting: ``uniform`` for input rows, ``bytes`` (by length) for output rows.
        match_norm: scale composed rows to the mean norm of the source rows.
        revision: names the source rows in ``key``; None takes their hash.

    Raises:
        ConfigError: an unknown weighting or source rows that are no matrix.
    """

    def __init__(
        self,
        base: BaseVocabulary,
        source: torch.Tensor,
        *,
        weighting: Weighting = "uniform",
        match_norm: bool = False,
        revision: str | None = None,
    ) -> None:
        if weighting not in get_args(Weighting):
            raise ConfigError(f"weighting: got {weighting!r}, allowed {', '.join(get_args(Weighting))}")
        if source.ndim != 2:
            raise ConfigError(f"source: got shape {tuple(source.shape)}, allowed (vocabulary, width)")
        self._base, self._source, self._weighting = base, source.detach(), weighting
        known = base.unknown
        unknown = self._source[known] if known is not None and known < len(source) else None
        self._unknown = self._source.float().mean(0).to(source.dtype) if unknown is None else unknown
        self._norm = float(self._source.float().norm(dim=1).mean()) if match_norm else None
        scaled = "norm" if match_norm else "as composed"
        self._key = f"composition:{weighting}:{scaled}:{revision or rows_digest(self._source)}"

    @property
    def key(self) -> str:
        return self._key

    @property
    def width(self) -> int:
        return int(self._source.shape[1])

    def rows(self, tokens: Sequence[bytes]) -> torch.Tensor:
        """(n, d) rows of byte strings."""
        import torch

        known = np.array([self._base.ids.get(token, -1) for token in tokens], np.int64)
        known[known >= len(self._source)] = -1
        out = torch.empty((len(tokens), self.width), dtype=self._source.dtype, device=self._source.device)
        copied = torch.from_numpy(known >= 0).to(out.device)
        out[copied] = self._source[torch.from_numpy(known[known >= 0]).to(out.device)]
        new = [tokens[i] for i in np.flatnonzero(known < 0).tolist()]
        if new:
            out[~copied] = self._composed(new)
        return out

    def _composed(self, tokens: Sequence[bytes]) -> torch.Tensor:
        import torch

        ids, offsets = self._base.spell(tokens)
        counts = np.diff(offsets)
        owner = np.repeat(np.arange(len(tokens)), counts)
        broken = counts == 0
        broken[owner[ids >= len(self._source)]] = True
        weights = np.ones(len(ids)) if self._weighting == "uniform" else self._base.sizes[ids].astype(np.float64)
        total = np.bincount(owner, weights=weights, minlength=len(tokens))
        kept = ~broken[owner]
        device = self._source.device
        share = torch.from_numpy((weights / total[owner])[kept]).to(device, torch.float32)
        parts = self._source[torch.from_numpy(ids[kept]).to(device)].float() * share[:, None]
        sums = torch.zeros((len(tokens), self.width), device=device)
        sums.index_add_(0, torch.from_numpy(owner[kept]).to(device), parts)
        if self._norm is not None:
            sums *= self._norm / sums.norm(dim=1, keepdim=True).clamp_min(1e-12)
        sums[torch.from_numpy(broken).to(device)] = self._unknown.float()
        return sums.to(self._source.dtype)


def source_rows(embedding: Any) -> torch.Tensor:
    """(V, d) what an embedding layer gives for every id, the scaling that some families put on it included."""
    import torch

    with torch.no_grad():
        rows: torch.Tensor = embedding(torch.arange(embedding.weight.shape[0], device=embedding.weight.device))
    return rows


def rows_digest(rows: torch.Tensor) -> str:
    """16 hex digits over the bytes of a matrix."""
    import torch

    data = rows.detach().contiguous().cpu().view(torch.uint8).numpy()
    return hashlib.blake2b(data.tobytes(), digest_size=8).hexdigest()
