"""A sequence classifier of Hugging Face as a criterion: the FineWeb-Edu head, a domain or toxicity model, your own.

A model with one output is a regression head, and its score is that number. One with several needs a ``label``: the
score is its probability by softmax, or by the logistic function where the model's labels do not exclude each other. Any
folder that transformers loads as ``AutoModelForSequenceClassification`` will do; only safetensors are read, no code of
the folder runs and nothing is fetched.

Texts are cut at ``max_tokens`` (or what the model can read) and batched by length, so little is filled up. A batch of
another make-up rounds differently by about 1e-6, so a few scores in a hundred may differ in their last digit (1e-4).

Price: one forward pass over the tokens; the model is held once a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.scorers.base import PREFIX, Direction, score_array


@dataclass(frozen=True, kw_only=True)
class ClassifierScore:
    """Scorer: ``score.<criterion>``; null for a text without a token.

    Args:
        criterion: names the column.
        path, digest: the folder, and ``penstock.scoring.model.fingerprint`` of it.
        label: name or number of the label whose probability is the score; None for a regression head.
        direction: which end is good.
        max_tokens: of a text, special tokens counted.
        batch_tokens: of one forward pass, filling counted.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
    """

    criterion: str
    path: str
    digest: str
    label: str | int | None = None
    direction: Direction = "higher"
    max_tokens: int = 512
    batch_tokens: int = 8192
    device: str = "cpu"

    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)

    @property
    def name(self) -> str:
        return f"classifier_{self.criterion}"

    @property
    def adds(self) -> tuple[str, ...]:
        return (PREFIX + self.criterion,)

    @property
    def directions(self) -> Mapping[str, Direction]:
        return {PREFIX + self.criterion: self.direction}

    def __post_init__(self) -> None:
        for field, least in (("max_tokens", 4), ("batch_tokens", 1)):
            if getattr(self, field) < least:
                raise ConfigError(
                    f"classifier {self.criterion} {field}: got {getattr(self, field)}, allowed >= {least}"
                )

    def setup(self) -> None:
        """Load the model.

        Raises:
            ConfigError: the folder is no sequence classifier, or has no such label.
            DatasetError: its files changed.
        """
        self._output(_loaded(self.path, self.digest, self.device)[0].config)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        import torch

        from penstock.scoring.model import Packed

        model, tokenizer = _loaded(self.path, self.digest, self.device)
        output = self._output(model.config)
        texts = batch["text"].fill_null("").to_pylist()
        limit = min(self.max_tokens, readable_tokens(model, tokenizer))
        ids = [np.zeros(0, np.int32)] * len(texts)
        some = [row for row, text in enumerate(texts) if text and not text.isspace()]
        if some:
            found = tokenizer([texts[row] for row in some], truncation=True, max_length=limit, verbose=False)
            for row, tokens in zip(some, found["input_ids"], strict=True):
                ids[row] = np.array(tokens, dtype=np.int32)
        filler = tokenizer.pad_token_id
        packed = Packed(tuple(ids), (), np.zeros(len(ids), dtype=bool), 0 if filler is None else int(filler))
        scores = np.full(len(texts), np.nan)
        for part in packed.batches(self.batch_tokens):
            mask = np.arange(part.tokens.shape[1])[None] < part.lengths[:, None]
            with torch.inference_mode():
                logits = model(
                    input_ids=torch.from_numpy(part.tokens).to(model.device),
                    attention_mask=torch.from_numpy(mask.astype(np.int64)).to(model.device),
                ).logits
            scores[part.rows] = output_score(logits.double().cpu().numpy(), output, model.config.problem_type)
        return {self.adds[0]: score_array(scores)}

    def _output(self, config: Any) -> int | None:
        """Place of the label among the outputs; None for a regression head.

        Raises:
            ConfigError: a label is missing, is not one of the model's, or stands beside a regression head.
        """
        names = {int(place): str(name) for place, name in config.id2label.items()}
        where = f"classifier {self.criterion} label"
        if config.num_labels == 1:
            if self.label is not None:
                raise ConfigError(f"{where}: got {self.label!r} for a model of one output, allowed none; leave it out")
            return None
        known = f"allowed {', '.join(map(repr, names.values()))}, or a number from 0 to {config.num_labels - 1}"
        if self.label is None:
            raise ConfigError(
                f"{where}: got none for a model of {config.num_labels} labels, {known}; name the good one"
            )
        for place, name in names.items():
            if self.label in (place, name):
                return place
        raise ConfigError(f"{where}: got {self.label!r}, {known}")


def output_score(logits: NDArray[np.float64], output: int | None, problem: str | None) -> NDArray[np.float64]:
    """Scores of logits (n, labels): the one output, the label's logistic, or its softmax."""
    if output is None:
        return logits[:, 0]
    if problem == "multi_label_classification":
        return 1.0 / (1.0 + np.exp(-np.clip(logits[:, output], -60.0, 60.0)))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    share: NDArray[np.float64] = shifted[:, output] / shifted.sum(axis=1)
    return share


def readable_tokens(model: Any, tokenizer: Any) -> int:
    """Tokens that model and tokenizer can take; RoBERTa's positions begin behind its filler."""
    limit = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= int(model.config.pad_token_id) + 1
    return int(min(limit, tokenizer.model_max_length))


@lru_cache(maxsize=4)
def _loaded(path: str, digest: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer), once a process. Raises ConfigError, DatasetError when the folder is not what it should be."""
    import torch

    from penstock.scoring.model import fingerprint, load_tokenizer
    from penstock.training.model import load_local

    found = fingerprint(path)
    if found != digest:
        raise DatasetError(
            f"{path}: got a model of fingerprint {found[:12]}…, expected {digest[:12]}…; its files changed since the "
            "run began, so run again"
        )
    tokenizer = load_tokenizer(Path(path))
    model = load_local(path, what="classifier path", attention=None, head="sequence")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), tokenizer
