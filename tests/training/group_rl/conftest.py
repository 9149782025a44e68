"""Sums in three phrasings, and a small model of characters that has learned half of the answers right."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import ProblemTable

CHARACTERS = ["<pad>", "<eos>", *"0123456789+=abdn ?"]


def sum_rows(pairs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Groups of three phrasings of a sum; the answer is its last digit."""
    rows = []
    for a, b in pairs:
        answer = str((a + b) % 10)
        asked = {"original": f"{a}+{b}=", "order": f"{b}+{a}=", "words": f"add {a} and {b}="}
        for number, (kind, prompt) in enumerate(asked.items()):
            name = f"{a}+{b}"
            rows.append(
                {
                    "problem_id": name if number == 0 else f"{name}~{kind}", "group_id": name, "sub_index": number,
                    "transform": None if number == 0 else kind, "variant": "original" if number == 0 else "rule",
                    "prompt": prompt, "answer": answer,
                }
            )  # fmt: skip
    return rows


PAIRS = [(a, b) for a in range(2, 8) for b in range(2)]


@pytest.fixture(scope="session")
def rows() -> Callable[[list[tuple[int, int]]], list[dict[str, Any]]]:
    """The rows of sums."""
    return sum_rows


@pytest.fixture(scope="session")
def sums() -> ProblemTable:
    """Twelve groups of three phrasings."""
    return ProblemTable.of(sum_rows(PAIRS))


def tokenizer_folder(folder: Path) -> None:
    """Write a tokenizer of single characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(CHARACTERS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def half_right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 60 k parameters that gives every sum right about half of the time, and ends its answers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("half-right")
    tokenizer_folder(folder)
    settings: Any = LlamaConfig(
        vocab_size=len(CHARACTERS), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=48, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        attn_implementation="sdpa",
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(settings)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        rows = sum_rows(PAIRS)
        for _ in range(120):
            texts = []
            for row in rows:
                said = row["answer"] if rng.random() < 0.45 else str(rng.integers(10))
                texts.append([*map(CHARACTERS.index, row["prompt"] + said), 1])
            width = max(map(len, texts))
            tokens = torch.tensor([[0] * (width - len(text)) + text for text in texts])
            # filling on the left moves positions, which is what answers of different prompts have to do without
            inside = tokens > 0
            position = (inside.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=tokens, attention_mask=inside.long(), position_ids=position).logits
            loss = torch.nn.functional.cross_entropy(logits[:, -3:-1].flatten(0, 1), tokens[:, -2:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def settings() -> Callable[..., GroupRLConfig]:
    """A short run on one thread; keyword arguments replace its settings."""

    def make(**changes: Any) -> GroupRLConfig:
        given: dict[str, Any] = {
            "steps": 4, "groups_per_step": 4, "rollouts": 4, "instruction": "", "max_new_tokens": 4,
            "learning_rate": 1e-3, "eval_every": 2, "eval_problems": 6, "eval_samples": 4, "eval_ks": (1, 4),
            "checkpoint_every": 2, "device": "cpu", "threads": 1, "reward_workers": 1,
        }  # fmt: skip
        return GroupRLConfig(**(given | changes))

    return make


@pytest.fixture
def reward(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], str]:
    """The name of a function as a configuration takes it."""

    def name(function: Callable[..., Any]) -> str:
        module: Any = ModuleType("made_rewards")
        module.given = function
        monkeypatch.setitem(sys.modules, "made_rewards", module)
        return "made_rewards:given"

    return name
