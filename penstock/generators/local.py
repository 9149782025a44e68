"""Completions of a causal language model in this process, run by transformers.

First tokens are predicted for many prompts in one forward pass, texts of about equal length together (see
``penstock.scoring.model``); what follows is decoded for prompts of one length together (``decoding``). So an answer
does not depend on what else was asked, but for the last bits of a batched product. Sampling draws from a stream of
(seed, sample, prompt) and not from torch's generator.

Log-probabilities are the model's own, before any temperature. Generation ends at a token that the tokenizer or the
model's configuration names as an end, or before a stop text. A prompt that leaves no room for ``max_tokens`` has an
``error``. A ``schema`` cannot be imposed here and is not looked at: ``structured.ask_structured`` checks and corrects.

Price: one forward pass over the prompts, and one for each further token of all prompts of a length; the model is held
once a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.generators.base import Completion, Request
from penstock.generators.decoding import decode


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """LanguageModel: a Hugging Face folder with safetensors weights.

    Args:
        path, digest: the folder, and ``penstock.scoring.model.fingerprint`` of it.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        batch_tokens: tokens in one forward pass, filling counted.
        dtype: of the weights; float32 answers alike on every machine.
    """

    path: str
    digest: str
    device: str = "cpu"
    batch_tokens: int = 8192
    dtype: str = "float32"

    kind: ClassVar[str] = "local"

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "digest": self.digest, "dtype": self.dtype}

    def setup(self) -> None:
        """Load the model. Raises ConfigError, DatasetError when the folder cannot be used or changed."""
        self._loaded()

    def _loaded(self) -> tuple[Any, Any]:
        from penstock.scoring.model import loaded

        model, tokenizer = loaded(self.path, self.digest, self.device, self.dtype)
        return model, tokenizer

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order.

        Raises:
            ConfigError: messages are asked of a tokenizer without a chat template.
        """
        import jinja2

        from penstock.scoring.model import Packed, context_limit

        model, tokenizer = self._loaded()
        out: dict[int, Completion] = {}
        ids: list[NDArray[np.int32]] = []
        limit = context_limit(model)
        for row, request in enumerate(requests):
            try:
                text = self._prompt(request, tokenizer)
                # a template writes its own special tokens
                found = tokenizer(text, add_special_tokens=request.messages is None, verbose=False)["input_ids"]
            except (jinja2.TemplateError, ValueError, TypeError) as error:  # half a surrogate pair, for one
                out[row] = Completion(error=f"a prompt that cannot be encoded ({error})")
                ids.append(np.zeros(0, dtype=np.int32))
                continue
            if not found or (limit is not None and len(found) + request.max_tokens > limit):
                out[row] = Completion(
                    error=f"a prompt of {len(found)} tokens leaves no room for {request.max_tokens} of {limit}"
                    if found
                    else "an empty prompt"
                )
                found = []
            ids.append(np.array(found, dtype=np.int32))
        # a row without tokens is in no batch
        packed = Packed(tuple(ids), (), np.zeros(len(ids), dtype=bool), 0)
        ends = _end_ids(model, tokenizer)
        for batch in packed.batches(self.batch_tokens):
            logits = _last_logits(model, batch.tokens, batch.lengths)
            for places in _groups(batch, requests, self.batch_tokens):
                of = [int(batch.rows[place]) for place in places]
                rows = [(requests[row], ids[row], logits[place]) for row, place in zip(of, places, strict=True)]
                out |= dict(zip(of, decode(model, tokenizer, rows, ends), strict=True))
        return [out[row] for row in range(len(requests))]

    def _prompt(self, request: Request, tokenizer: Any) -> str:
        if request.prompt is not None:
            return request.prompt
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"{self.path}: got messages for a tokenizer without a chat template, allowed a prompt; take a model "
                "that was trained on conversations, or ask with prompts"
            )
        turns = [message._asdict() for message in request.messages or ()]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = named if isinstance(named, list) else [named]
    return frozenset(int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None)


def _groups(batch: Any, requests: Sequence[Request], tokens: int) -> list[list[int]]:
    """Places in a batch of prompts of one length, as many together as ``tokens`` has room for, one at least."""
    out: list[list[int]] = []
    length, most = -1, 0
    for place in np.argsort(batch.lengths, kind="stable").tolist():
        wanted = requests[int(batch.rows[place])].max_tokens
        if batch.lengths[place] != length or (len(out[-1]) + 1) * (length + max(most, wanted)) > tokens:
            length, most = int(batch.lengths[place]), 0
            out.append([])
        out[-1].append(place)
        most = max(most, wanted)
    return out


def _last_logits(model: Any, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits after the last token of each row: (n, V)."""
    import torch

    with torch.inference_mode():
        given = torch.from_numpy(tokens).to(model.device)
        logits = model(input_ids=given, use_cache=False).logits
        last = logits[torch.arange(len(tokens)), torch.from_numpy(lengths - 1).to(logits.device)]
        found: NDArray[np.float64] = last.double().cpu().numpy()
    return found
