"""The policy of ``benchmarks.ta_grpo`` before it learns from groups: a small Llama fitted to worked answers.

It has 0.7M parameters: 3 blocks of width 128, tied embeddings, a byte-level BPE vocabulary whose numbers are single
digits. A row is a question, its worked answer on the next line and the end token; only the answer is learned. Most
questions are originals; a few hundred are phrasings of each transform, so that the policy can read all of them, as a
model of language would, but is right there less often. Training stops early, when some of the answers are right.

Price: 0.2 s of a core a step, four minutes in all; a fit that was stopped begins again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.corpora import SEED
from benchmarks.ta_grpo_problems import FAMILIES, HELD_OUT, TRAINED, Group, made
from penstock.seeding import derive, stream
from penstock.tokenization.bpe import END, PAD, BPEConfig, train_bpe
from penstock.training.losses import chunked_cross_entropy
from penstock.training.model import without_progress_bars

END_ID, PAD_ID = 0, 1


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the policy is made.

    Args:
        questions: originals that it is fitted to.
        phrased: further questions, each told in one other way.
    """

    questions: int = 8_000
    phrased: int = 2_000
    vocabulary: int = 1024
    steps: int = 1_000
    rows: int = 32
    width: int = 128
    layers: int = 3
    heads: int = 4
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """Of update ``step``, counted from 1: up, level, and down over the last third."""
        return self.learning_rate * min(1.0, step / self.warmup, 3.0 * (self.steps - step + 1) / self.steps)


def told(groups: Sequence[Group], phrased: Sequence[Group]) -> list[tuple[str, str]]:
    """(question, worked answer) of originals, and of one phrasing of each of the further groups."""
    rows = [(group.problem.prompt, group.problem.solution or "") for group in groups]
    for place, group in enumerate(phrased):
        # families come in turn, so that every one is told in every way
        one = group.phrasings[place // len(FAMILIES) % len(group.phrasings)]
        rows.append((one.prompt, group.problem.solution or ""))
    return rows


def fit(how: Fit, folder: Path) -> Path:
    """A folder with the policy and its tokenizer that transformers loads; made where it is not there."""
    if (folder / "tokenizer_config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = told(made(how.questions, "fit", ()), made(how.phrased, "fit, phrased", (*TRAINED, *HELD_OUT), least=3))
    tokenizer = _tokenizer(rows, how.vocabulary)
    texts = [(tokenizer.encode(question).ids, tokenizer.encode(f"\n{answer}").ids) for question, answer in rows]
    torch.manual_seed(derive(SEED, "ta-grpo policy"))
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=how.width,
            intermediate_size=how.width * 11 // 4,
            num_hidden_layers=how.layers,
            num_attention_heads=how.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=END_ID,
            eos_token_id=END_ID,
            pad_token_id=PAD_ID,
            initializer_range=0.04,
        )
    )
    _train(model, texts, how)
    with without_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD}
    part = folder / "tokenizer_config.part"
    part.write_text(json.dumps(facts))
    os.replace(part, folder / "tokenizer_config.json")  # last: it says that the folder is whole
    return folder


def _tokenizer(rows: Sequence[tuple[str, str]], vocabulary: int) -> Tokenizer:
    """Digits are left out of what merges are learned from, so each stays a token of its own."""
    bare = [re.sub(r"\d", "", f"{question}\n{answer}") for question, answer in rows]
    return Tokenizer.from_buffer(train_bpe(bare, BPEConfig(vocabulary_size=vocabulary)))


def batch(texts: Sequence[tuple[list[int], list[int]]], step: int, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Tokens (n, L) of update ``step`` and which of them are learned (n, L): the answer and the end token."""
    picked = stream(SEED, "ta-grpo rows", step).choice(len(texts), rows, replace=False).tolist()
    length = max(len(texts[row][0]) + len(texts[row][1]) + 1 for row in picked)
    tokens, learned = np.full((rows, length), PAD_ID), np.zeros((rows, length), bool)
    for place, row in enumerate(picked):
        question, answer = texts[row]
        stop = len(question) + len(answer) + 1
        tokens[place, :stop] = [*question, *answer, END_ID]
        learned[place, len(question) : stop] = True
    return tokens, learned


def _train(model: Any, texts: Sequence[tuple[list[int], list[int]]], how: Fit) -> None:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": how.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=how.learning_rate, betas=(0.9, 0.95), fused=True)
    begun, losses = time.process_time(), []
    for step in range(1, how.steps + 1):
        tokens, learned = (torch.from_numpy(array) for array in batch(texts, step, how.rows))
        # rows end with their filling, so causal attention alone keeps it out
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state[learned[:, 1:]]
        loss = chunked_cross_entropy(hidden, model.lm_head.weight, tokens[:, 1:][learned[:, 1:]]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), how.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate_at(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            spent = (time.process_time() - begun) / step
            print(
                f"policy: step {step} of {how.steps}, {np.mean(losses[-100:]):.3f} nats, {spent:.2f} s a step",
                file=sys.stderr,
                flush=True,
            )
