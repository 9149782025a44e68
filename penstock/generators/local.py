"""Completions of a causal language model in this process, run by transformers.

First tokens are predicted for many prompts in one forward pass, texts of about equal length together (see
``penstock.scoring.model``); what follows is decoded for each prompt alone with its key-value cache. So an answer does
not depend on what else was asked, but for the last bits of a batched product. Sampling draws from a stream of (seed,
sample, prompt) and not from torch's generator.

Log-probabilities are the model's own, before any temperature. Generation ends at a token that the tokenizer or the
model's configuration names as an end. A prompt that leaves no room for ``max_tokens`` has an ``error``.

Price: one forward pass over the prompts, and one token at a time for more; the model is held once a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.generators.base import Completion, Request, TokenLogprob, Usage
from penstock.seeding import stream


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
        from penstock.scoring.model import Packed, context_limit

        model, tokenizer = self._loaded()
        texts = [self._prompt(request, tokenizer) for request in requests]
        out: dict[int, Completion] = {}
        ids: list[NDArray[np.int32]] = []
        limit = context_limit(model)
        for row, (request, text) in enumerate(zip(requests, texts, strict=True)):
            # a template writes its own special tokens
            found = tokenizer(text, add_special_tokens=request.messages is None, verbose=False)["input_ids"]
            if not found or (limit is not None and len(found) + request.max_tokens > limit):
                out[row] = Completion(
                    error=f"a prompt of {len(found)} tokens leaves no room for {request.max_tokens} of {limit}"
                    if found
                    else "an empty prompt"
                )
                found = []
            ids.append(np.array(found, dtype=np.int32))
        packed = Packed(tuple(ids), (), np.zeros(len(ids), dtype=bool), 0)
        ends = _end_ids(model, tokenizer)
        for batch in packed.batches(self.batch_tokens):
            logits = _last_logits(model, batch.tokens, batch.lengths)
            for place, row in enumerate(batch.rows.tolist()):
                out[row] = _decoded(model, tokenizer, requests[row], ids[row], logits[place], ends)
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


def _last_logits(model: Any, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits after the last token of each row: (n, V)."""
    import torch

    with torch.inference_mode():
        given = torch.from_numpy(tokens).to(model.device)
        logits = model(input_ids=given, use_cache=False).logits
        last = logits[torch.arange(len(tokens)), torch.from_numpy(lengths - 1).to(logits.device)]
        found: NDArray[np.float64] = last.double().cpu().numpy()
    return found


def _decoded(
    model: Any,
    tokenizer: Any,
    request: Request,
    prompt: NDArray[np.int32],
    logits: NDArray[np.float64],
    ends: frozenset[int],
) -> Completion:
    """Tokens of one request from the logits of its first."""
    import torch

    told = hashlib.blake2b(prompt.tobytes(), digest_size=8).hexdigest()
    rng = stream(request.seed, "complete", told, request.sample) if request.temperature > 0 else None
    chosen: list[int] = []
    tokens: list[TokenLogprob] = []
    cache: Any = None
    while True:
        logprobs = logits - np.logaddexp.reduce(logits)
        if rng is None:
            token = int(np.argmax(logprobs))
        else:
            # the largest of perturbed log-probabilities is a draw from their distribution (Gumbel)
            token = int(np.argmax(logprobs / request.temperature + rng.gumbel(size=len(logprobs))))
        if request.logprobs:
            best = np.argsort(-logprobs, kind="stable")[: request.logprobs]
            names = tokenizer.batch_decode([[int(t)] for t in (token, *best)], clean_up_tokenization_spaces=False)
            top = tuple(zip(names[1:], (float(logprobs[t]) for t in best), strict=True))
            tokens.append(TokenLogprob(names[0], float(logprobs[token]), top))
        if token in ends:
            break
        chosen.append(token)
        if len(chosen) == request.max_tokens:
            break
        given = [token] if cache is not None else [*prompt.tolist(), token]
        with torch.inference_mode():
            answer = model(input_ids=torch.tensor([given], device=model.device), past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        logits = answer.logits[0, -1].double().cpu().numpy()
    return Completion(
        text=tokenizer.decode(chosen, clean_up_tokenization_spaces=False),
        tokens=tuple(tokens),
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(chosen)),
    )
