"""How often each token occurs in a reference corpus: what DC-PDD compares a model's certainty with.

    p_ref(v) = (count(v) + 1) / (N' + V)        N' tokens counted, V ids of the tokenizer

Counts are sums, so summaries of parts merge in any order to equal bytes. They are of one tokenizer's ids and carry its
fingerprint: with another tokenizer an id is another piece of text, so they are refused there.

Price: encoding the first ``max_tokens`` tokens of each text; 16 bytes for each id that occurs.

Zhang et al. 2024, Pretraining Data Detection for Large Language Models: A Divergence-based Calibration Method
(arXiv 2409.14781).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.scoring import model as models
from penstock.selectors import artifact


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Summary: occurrences of ids in texts."""

    counts: NDArray[np.int64]  # (V,)
    documents: int
    tokenizer: str  # fingerprint

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())

    def merge(self, other: TokenCounts) -> TokenCounts:
        """Counts of both. Raises ConfigError when they are of different tokenizers."""
        if self.tokenizer != other.tokenizer:
            raise ConfigError(
                f"token counts: got those of tokenizers {self.tokenizer[:12]}… and {other.tokenizer[:12]}…, allowed of "
                "one; count both corpora with the same model"
            )
        return TokenCounts(self.counts + other.counts, self.documents + other.documents, self.tokenizer)

    def to_table(self) -> pa.Table:
        """Ids that occur and how often; what is no row stands in the metadata."""
        ids = np.flatnonzero(self.counts)
        facts = {"vocabulary": str(len(self.counts)), "documents": str(self.documents), "tokenizer": self.tokenizer}
        return pa.table({"id": ids, "count": self.counts[ids]}).replace_schema_metadata(facts)

    @classmethod
    def from_table(cls, table: pa.Table) -> TokenCounts:
        facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        counts = np.zeros(int(facts["vocabulary"]), dtype=np.int64)
        counts[table["id"].to_numpy()] = table["count"].to_numpy()
        return cls(counts, int(facts["documents"]), facts["tokenizer"])


@dataclass(frozen=True, kw_only=True)
class ReferenceTokens:
    """Fitted: token counts of a reference corpus -> ``Reference``.

    Args:
        model: folder of the model whose tokenizer counts.
        digest: ``model.fingerprint`` of it.
        max_tokens: tokens of each text that count.
    """

    model: str
    digest: str
    max_tokens: int = 1024

    name: ClassVar[str] = "reference_tokens"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    def summarise(self, batch: pa.RecordBatch) -> TokenCounts:
        tokenizer, fingerprint, vocabulary = _tokenizer(self.model, self.digest)
        packed = models.pack_texts(batch["text"].fill_null("").to_pylist(), tokenizer, self.max_tokens)
        ids = [of_text[len(packed.prefix) :] for of_text in packed.ids if len(of_text)]
        counts = np.bincount(np.concatenate(ids), minlength=vocabulary) if ids else np.zeros(vocabulary)
        return TokenCounts(counts.astype(np.int64), len(ids), fingerprint)

    def fit(self, summary: TokenCounts, folder: str) -> Reference:
        """Save the counts under ``folder``. Raises ConfigError when no text had a token."""
        if not summary.tokens:
            raise ConfigError("reference: got texts without a token, allowed some with tokens; name another corpus")
        facts = {
            "tokenizer": summary.tokenizer,
            "documents": summary.documents,
            "tokens": summary.tokens,
            "max_tokens": self.max_tokens,
        }
        path, digest = artifact.save(folder, "token-counts", {"counts": summary.counts}, facts)
        return Reference(path=path, digest=digest)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Saved token counts; ``digest`` names their content."""

    path: str
    digest: str

    @property
    def id(self) -> str:
        """What rows scored with it carry."""
        return self.digest[:12]

    def facts(self) -> dict[str, Any]:
        return dict(artifact.load(self.path, self.digest).facts)

    def check(self, tokenizer: str) -> None:
        """Raise ConfigError unless the counts are of the tokenizer with this fingerprint."""
        own = self.facts()["tokenizer"]
        if own != tokenizer:
            raise ConfigError(
                f"reference: {self.path} counts ids of tokenizer {own[:12]}…, the model's is {tokenizer[:12]}…; "
                "count the reference corpus with this model"
            )

    def log_p(self) -> NDArray[np.float64]:
        """log p_ref of every id, in nats: (V,)."""
        return _log_p(self.path, self.digest)


@functools.lru_cache(maxsize=4)
def _log_p(path: str, digest: str) -> NDArray[np.float64]:
    counts = artifact.load(path, digest).arrays["counts"]
    out: NDArray[np.float64] = np.log(counts + 1.0) - np.log(counts.sum() + len(counts))
    out.setflags(write=False)
    return out


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str, digest: str) -> tuple[Any, str, int]:
    """(tokenizer, fingerprint, number of ids) of a model's folder, whose ``digest`` keeps another folder's apart."""
    tokenizer = models.load_tokenizer(models.resolve(path))
    return tokenizer, models.tokenizer_fingerprint(tokenizer), models.largest_id(tokenizer) + 1
