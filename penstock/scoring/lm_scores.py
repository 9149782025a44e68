"""Row work: every score that a causal language model gives a text, from one forward pass over its first tokens.

    work = LanguageModelScores.of("models/small", max_tokens=512)
    rows = apply([work], batch).batch              # + score.lm_loss … score.lm_z, lm_tokens, lm_truncated

``formulas`` says what each column is. Scores of texts cut at different lengths are not comparable, so ``max_tokens`` is
part of what a score is. Membership and machine-text columns are evidence, whose thresholds a calibration finds
(``calibration``); nothing here drops a row.

A forward pass rounds differently in batches of another make-up, by about 1e-6; stored scores are rounded to 1e-4 (zlib
and dcpdd, which are small, finer), so a few in a hundred may differ by one last digit between split sizes.

Price: the forward pass; the rest is below a tenth of it. Memory is the model, ``batch_tokens`` hidden states and a
block of logits.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.errors import ConfigError
from penstock.scoring import model as models
from penstock.scoring.formulas import SCORES, column, first_occurrences, scores_of
from penstock.scoring.positions import PositionReader
from penstock.scoring.reference import Reference

BATCH_TOKENS_ON_CPU, _BATCH_TOKENS_ON_GPU = 2048, 32_768


@dataclass(frozen=True, kw_only=True)
class LanguageModelScores:
    """Annotator: adds ``score.lm_*`` (float32, null where undefined), ``lm_tokens`` and ``lm_truncated``.

    Args:
        model: folder of the model, or a run of penstock that trained one.
        digest: ``model.fingerprint`` of it; files that changed since are refused.
        max_tokens: tokens of a text that are read, the tokenizer's own prefix not counted.
        min_k: share of the lowest tokens of Min-K and Min-K++.
        cap: the a of DC-PDD.
        reference: token counts of DC-PDD; without them its column is null.
        device: ``auto`` is CUDA where there is one.
        dtype: of the weights, ``float32`` or ``bfloat16``; logits are reduced in float32.
        batch_tokens: tokens of one forward pass; None is what suits the device.
    """

    model: str
    digest: str
    max_tokens: int = 512
    min_k: float = 0.2
    cap: float = 0.01
    reference: Reference | None = None
    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int | None = None

    name: ClassVar[str] = "lm_scores"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = (*(column(score) for score in SCORES), "lm_tokens", "lm_truncated")
    # which way a text is the better for training; the other columns are evidence of where it comes from
    directions: ClassVar[dict[str, str]] = {column("loss"): "lower", column("entropy"): "lower"}

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise ConfigError(f"max_tokens: got {self.max_tokens}, allowed >= 2, as a first token has no loss")
        if not 0 < self.min_k <= 1:
            raise ConfigError(f"min_k: got {self.min_k}, allowed above 0 to 1; 0.2 is usual")
        if not 0 < self.cap < float("inf"):
            raise ConfigError(f"cap: got {self.cap}, allowed above 0 and finite; 0.01 is usual")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens: got {self.batch_tokens}, allowed >= 1; leave it out for the default")

    @classmethod
    def of(cls, model: str, **settings: Any) -> LanguageModelScores:
        """With the fingerprint of the folder as it is now. Raises ConfigError when there is no model."""
        return cls(model=str(model), digest=models.fingerprint(model), **settings)

    def decides(self) -> dict[str, Any]:
        """What the scores depend on besides the model and the reference: not where or in which batches it runs."""
        return {"max_tokens": self.max_tokens, "min_k": self.min_k, "cap": self.cap, "dtype": self.dtype}

    def setup(self) -> None:
        """Load the model.

        Raises:
            ConfigError: no causal LM, a context shorter than ``max_tokens``, or a reference of another tokenizer.
            DatasetError: its files changed.
        """
        self._reader()

    def _reader(self) -> tuple[PositionReader, Any]:
        reader, tokenizer, fingerprint = _reader(self.model, self.digest, self.device, self.dtype)
        limit, room = models.context_limit(reader.model), len(models.prefix_ids(tokenizer)) + self.max_tokens
        if limit is not None and room > limit:
            raise ConfigError(
                f"max_tokens: got {self.max_tokens}, allowed <= {limit - room + self.max_tokens}, which the context of "
                f"{self.model} holds; lower it"
            )
        if self.reference is not None:
            self.reference.check(fingerprint)
        return reader, tokenizer

    def facts(self) -> dict[str, Any]:
        """Fingerprint of the tokenizer, and parameters and vocabulary of the model."""
        reader, _, fingerprint = _reader(self.model, self.digest, self.device, self.dtype)
        parameters = sum(parameter.numel() for parameter in reader.model.parameters())
        return {
            "tokenizer": fingerprint,
            "parameters": parameters,
            "vocabulary": reader.vocabulary,
            "device": reader.model.device.type,
        }

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        reader, tokenizer = self._reader()
        texts = batch["text"].fill_null("").to_pylist()
        packed = models.pack_texts(texts, tokenizer, self.max_tokens)
        reference = None if self.reference is None else self.reference.log_p()
        found: dict[str, list[float | None]] = {score: [None] * len(texts) for score in SCORES}
        batch_tokens = self.batch_tokens
        if batch_tokens is None:
            batch_tokens = BATCH_TOKENS_ON_CPU if reader.model.device.type == "cpu" else _BATCH_TOKENS_ON_GPU
        for some in packed.batches(batch_tokens):
            positions = reader.read(some)
            ends = np.searchsorted(positions.row, np.arange(len(some.rows) + 1))
            for place, row in enumerate(some.rows):
                here = slice(ends[place], ends[place + 1])
                if here.stop - here.start < 2:
                    continue
                ids = packed.ids[row]
                of_predicted = positions.place[here]
                own = ids[len(packed.prefix) :]
                first = first_occurrences(own)[of_predicted - len(packed.prefix)]
                scores = scores_of(
                    positions.log_p[here],
                    positions.mean[here],
                    positions.variance[here],
                    min_k=self.min_k,
                    compressed_bytes=_compressed(texts[row], packed.truncated[row], own, tokenizer),
                    first=first,
                    reference_log_p=None if reference is None else reference[ids[of_predicted]],
                    cap=self.cap,
                )
                for score, value in scores.items():
                    found[score][row] = None if value is None else round(value, SCORES[score].decimals)
        columns = {column(score): pa.array(values, pa.float32()) for score, values in found.items()}
        columns["lm_tokens"] = pa.array(packed.n_tokens.astype(np.int32))
        columns["lm_truncated"] = pa.array(packed.truncated)
        return columns


def _compressed(whole: str, truncated: bool, ids: Any, tokenizer: Any) -> int:
    """Bytes of zlib of what the model read of a text."""
    if truncated:
        whole = tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    return len(zlib.compress(whole.encode("utf-8", "surrogatepass")))


@functools.lru_cache(maxsize=1)
def _reader(path: str, digest: str, device: str, dtype: str) -> tuple[PositionReader, Any, str]:
    """(reader, tokenizer, its fingerprint), once a process."""
    model, tokenizer = models.loaded(path, digest, device, dtype)
    return PositionReader(model), tokenizer, models.tokenizer_fingerprint(tokenizer)
