"""Texts as sparse non-negative codes: mean-pooled latents of a sparse autoencoder, or hashed n-grams.

    z_k = TopK(…)(hidden state of token k)          z_s = (1/n) SUM_k z_k          a CSR row of d' columns

The mean, not the sum: a text put behind itself would else be twice as long a vector. Tokens that the tokenizer puts
before a text do not count, as a BOS fires the same few latents in every text. ``NgramCode`` is the same over a text's
words and pairs of neighbours, one latent each, and needs no model.

Price: one forward pass and 2 d d' operations a token; at most min(n k, d') numbers a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.errors import ConfigError
from penstock.scoring import model as models
from penstock.selectors.targeted.sae import SparseAutoencoder, load_sae

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

Csr = Any  # scipy.sparse.csr_matrix


class SparseCode(Protocol):
    """What MONA compares: ``codes`` gives float32 CSR rows, none negative, one a text; all zero for an empty one."""

    def codes(self, texts: pa.Array) -> Csr: ...


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """One layer of a causal LM.

    Args:
        model, digest: folder, and ``scoring.model.fingerprint`` of it.
        layer: 0 is the embeddings, i what block i gives; None is the last block but one.
        max_tokens: of a text that are read, prefix not counted.
        device, dtype: see ``scoring.model.load_causal_lm``.
        batch_tokens: tokens of one pass.
    """

    model: str
    digest: str
    layer: int | None = None
    max_tokens: int = 512
    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int = 2048

    def setup(self) -> Any:
        """The model and its tokenizer.

        Raises:
            ConfigError: no causal LM, no such layer, or ``max_tokens`` beyond the context.
        """
        model, tokenizer = models.loaded(self.model, self.digest, self.device, self.dtype)
        blocks = int(model.config.get_text_config().num_hidden_layers)
        if self.layer is not None and not 0 <= self.layer <= blocks:
            raise ConfigError(f"layer: got {self.layer}, allowed 0 to {blocks}, the blocks of {self.model}; choose one")
        limit, prefix = models.context_limit(model), len(models.prefix_ids(tokenizer))
        if limit is not None and self.max_tokens + prefix > limit:
            raise ConfigError(
                f"max_tokens: got {self.max_tokens}, allowed <= {limit - prefix}, which the context of {self.model} "
                "holds; lower it"
            )
        return model, tokenizer

    def read(self, texts: list[str]) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """(text of each token (t,), hidden states (t, d)) a batch, prefixes left out; empty texts never come."""
        import torch

        model, tokenizer = self.setup()
        blocks = int(model.config.get_text_config().num_hidden_layers)
        layer = max(blocks - 1, 0) if self.layer is None else self.layer
        packed = models.pack_texts(texts, tokenizer, self.max_tokens)
        for batch in packed.batches(self.batch_tokens):
            with torch.no_grad():
                out = model.base_model(
                    input_ids=torch.from_numpy(batch.tokens).to(model.device),
                    output_hidden_states=True,
                    use_cache=False,
                )
            place = np.arange(batch.tokens.shape[1])
            own = (place >= len(packed.prefix)) & (place < batch.lengths[:, None])
            yield batch.rows[np.nonzero(own)[0]], out.hidden_states[layer][torch.from_numpy(own).to(model.device)]


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Where a sparse autoencoder lies, and ``sae_digest`` of it; ``k`` latents fire, None is as in its training."""

    path: str
    digest: str
    k: int | None = None


@dataclass(frozen=True, kw_only=True)
class SaeCode:
    """Mean-pooled codes of hidden states under a sparse autoencoder."""

    hidden: HiddenStates
    sae: Autoencoder

    def load(self) -> SparseAutoencoder:
        """The autoencoder beside the model.

        Raises:
            ConfigError: it is for hidden states of another width.
        """
        model, _ = self.hidden.setup()
        sae = load_sae(self.sae.path, self.sae.digest, str(model.device), self.sae.k)
        width = int(model.config.get_text_config().hidden_size)
        if sae.encoder.shape[1] != width:
            raise ConfigError(
                f"sae: got one for {sae.encoder.shape[1]} dimensions, allowed {width}, the hidden size of "
                f"{self.hidden.model}; take the autoencoder of this model"
            )
        return sae

    def codes(self, texts: pa.Array) -> Csr:
        sae = self.load()
        rows, latents, values = [], [], []
        for row, hidden in self.hidden.read(texts.fill_null("").to_pylist()):
            fired, which = sae.encode(hidden)
            rows.append(np.repeat(row, sae.k))
            latents.append(which.flatten().cpu().numpy())
            values.append(fired.flatten().cpu().numpy())
        return pooled(rows, latents, values, k=sae.k, shape=(len(texts), sae.width))


@dataclass(frozen=True, kw_only=True)
class NgramCode:
    """Shares of hashed words and pairs of neighbours among those of a text, of its first ``prefix_bytes``."""

    bits: int = 18
    prefix_bytes: int = 65_536

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 24:
            raise ConfigError(f"n-gram bits: got {self.bits}, allowed 8 to 24; 18 is 262,144 columns")

    def codes(self, texts: pa.Array) -> Csr:
        from scipy import sparse

        offsets, data = text.row_views(text.without_nulls(texts))
        indptr, buckets = _kernels().count_features(data, offsets, self.prefix_bytes, self.bits)
        sizes = np.diff(indptr)
        share = np.repeat(1.0 / np.maximum(sizes, 1), sizes)
        out = sparse.csr_matrix((share, buckets, indptr), shape=(len(texts), 1 << self.bits))
        out.sum_duplicates()
        return out.astype(np.float32)


def pooled(
    rows: list[NDArray[Any]], latents: list[NDArray[Any]], values: list[NDArray[Any]], *, k: int, shape: tuple[int, int]
) -> Csr:
    """Mean of the codes of each text's tokens: float32 CSR of ``shape``, without stored zeros.

    Args:
        rows, latents, values: text, latent and value of every entry of the tokens' codes, ``k`` entries a token.
    """
    from scipy import sparse

    row = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    entry = np.concatenate(values).astype(np.float64) if values else np.zeros(0)
    column = np.concatenate(latents) if latents else np.zeros(0, dtype=np.int64)
    tokens = np.bincount(row, minlength=shape[0]) / k
    out = sparse.csr_matrix((entry / tokens[row], (row, column)), shape=shape)
    out.sum_duplicates()
    out.eliminate_zeros()
    return out.astype(np.float32)


@cache
def _kernels() -> Any:
    from penstock.selectors import _feature_kernels

    return _feature_kernels
