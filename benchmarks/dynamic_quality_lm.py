"""The causal language model that benchmarks/dynamic_quality.py measures with, and the bigram model it has to beat.

A small Llama (rotary positions, tied embeddings), trained on text that is not NTREX and on four fifths of NTREX's
documents. The loss of a training step is taken over the batch's own targets and a sample of the other entries, whose
weight makes the sum an unbiased one over the vocabulary; evaluation takes the whole vocabulary. Training goes on where
a checkpoint left it. The bigram is interpolated Kneser-Ney (Kneser and Ney 1995) on the same tokens.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.corpora import SEED
from benchmarks.small_lm import multiplies_bfloat16
from penstock.seeding import derive, stream

END_ID = 0
DISCOUNT = 0.75


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the model is made."""

    width: int = 256
    layers: int = 2
    heads: int = 4
    length: int = 128
    rows: int = 64  # of a batch
    passes: float = 12.0  # over the tokens: a half cosine of the learning rate, if it is not stopped
    stop: int = 1_400  # step whose model is taken; the last 300 let the learning rate fall to nothing
    falling: int = 300
    learning_rate: float = 2e-3
    warmup: int = 60
    dropout: float = 0.3  # of what the layers read, and of what they give
    sampled: int = 1024  # entries besides a batch's targets that its loss is taken over
    checkpoint_every: int = 50


def new_model(training: Training, vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(derive(SEED, "dynamic quality"))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=training.width,
            intermediate_size=3 * training.width,
            num_hidden_layers=training.layers,
            num_attention_heads=training.heads,
            num_key_value_heads=training.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            attn_implementation="eager",
            bos_token_id=END_ID,
            eos_token_id=END_ID,
            pad_token_id=1,
        )
    )


def token_stream(texts: dict[str, list[str]], tokenizer: Path) -> NDArray[np.int64]:
    """Texts of all languages in a seeded order, each after the end token: (tokens,)."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.encode_special_tokens = True
    flat = [text for language in sorted(texts) for text in texts[language]]
    rows = [[END_ID, *one.ids] for one in loaded.encode_batch_fast(flat, add_special_tokens=False)]
    order = stream(SEED, "texts").permutation(len(rows)).tolist()
    return np.fromiter((i for number in order for i in rows[number]), np.int64)


def rows_of(tokens: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """A stream of tokens as rows of ``length`` + 1, of which neighbours share one token: (n, length + 1)."""
    n = (len(tokens) - 1) // length
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[: n * length : length]


def sampled_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, sampled: int) -> torch.Tensor:
    """Mean nats of ``targets`` (N,) from hidden states (N, d); the sum over the vocabulary is estimated."""
    own, place = torch.unique(targets, return_inverse=True)
    others = torch.randint(weight.shape[0], (sampled,))
    others = others[~torch.isin(others, own)]
    logits = (hidden @ weight[torch.cat([own, others])].T).float()
    # every other entry stands for as many as were left out
    logits[:, len(own) :] += math.log((weight.shape[0] - len(own)) / len(others))
    return functional.cross_entropy(logits, place)


def train(tokens: NDArray[np.int64], vocabulary: int, training: Training, folder: Path, seconds: float) -> Any | None:
    """The trained model; None when ``seconds`` were over first, and the checkpoint in ``folder`` goes on from there."""
    final = folder / "model.pt"
    model = new_model(training, vocabulary)
    if final.exists():
        model.load_state_dict(torch.load(final, weights_only=True))
        return model.eval()
    rows = rows_of(tokens, training.length)
    steps = int(training.passes * len(rows) / training.rows)
    last = min(training.stop, steps)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    first, kept = 0, folder / "checkpoint.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    order = np.concatenate([stream(SEED, "rows", p).permutation(len(rows)) for p in range(math.ceil(training.passes))])
    started, mean = time.monotonic(), 0.0
    model.train()
    for step in range(first, last):
        rising = min(1.0, (step + 1) / training.warmup)
        falling = min(1.0, (last - step) / training.falling)
        rate = training.learning_rate * rising * falling * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive(SEED, "sampled", step))
        ids = torch.from_numpy(rows[order[step * training.rows : (step + 1) * training.rows]])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bfloat16()):
            read = functional.dropout(model.model.embed_tokens(ids[:, :-1]), training.dropout)
            hidden = model.model(inputs_embeds=read, use_cache=False).last_hidden_state.flatten(0, 1)
            hidden = functional.dropout(hidden, training.dropout)
            loss = sampled_loss(hidden, model.lm_head.weight, ids[:, 1:].flatten(), training.sampled)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean += (loss.item() - mean) / min(50, step - first + 1)
        over = time.monotonic() - started > seconds
        if (step + 1) % training.checkpoint_every == 0 or over:
            rest = (time.monotonic() - started) / (step + 1 - first) * (last - step - 1)
            print(f"step {step + 1} of {last}, loss {mean:.3f}, {rest / 60:.0f} min left", file=sys.stderr, flush=True)
            _save(kept, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
        if over and step + 1 < last:
            return None
    _save(final, model.state_dict())
    kept.unlink(missing_ok=True)
    return model.eval()


def _save(path: Path, state: Any) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


class Bigram:
    """Interpolated Kneser-Ney over token ids."""

    def __init__(self, tokens: NDArray[np.int64], vocabulary: int) -> None:
        pairs, counts = np.unique(tokens[:-1] * vocabulary + tokens[1:], return_counts=True)
        before, after = pairs // vocabulary, pairs % vocabulary
        self._vocabulary, self._pairs, self._counts = vocabulary, pairs, counts
        self._total = np.bincount(before, weights=counts, minlength=vocabulary)
        self._kinds = np.bincount(before, minlength=vocabulary)
        # how many different tokens stand before each; the discount of this distribution is spread evenly
        preceded = np.bincount(after, minlength=vocabulary)
        n = preceded.sum()
        left = DISCOUNT * np.count_nonzero(preceded) / n
        self._continued = np.maximum(preceded - DISCOUNT, 0) / n + left / vocabulary

    def nats(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.float64]:
        """-ln P(after | before): (n,)."""
        key = before * self._vocabulary + after
        place = np.minimum(np.searchsorted(self._pairs, key), len(self._pairs) - 1)
        count = np.where(self._pairs[place] == key, self._counts[place], 0)
        total = np.maximum(self._total[before], 1)
        seen = np.maximum(count - DISCOUNT, 0) / total
        # a token never seen before another leaves everything to the lower order
        back = np.where(self._total[before] > 0, DISCOUNT * self._kinds[before] / total, 1.0)
        out: NDArray[np.float64] = -np.log(seen + back * self._continued[after])
        return out
