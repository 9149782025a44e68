"""Tiny causal language models in folders, as transformers saves them, and texts that they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

VOCABULARY = 32


def write_tokenizer(folder: Path, *, size: int = VOCABULARY, bos: int | None = None, shift: int = 0) -> None:
    """A word-level tokenizer: word ``w5`` is id 5, or 5 + ``shift``; with ``bos`` that id begins every text.

    Every id is a word, so whatever a model writes reads back as it was.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": (i + shift) % size for i in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"w{bos} $A", special_tokens=[(f"w{bos}", bos)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def write_llama(folder: Path, *, seed: int = 0, sharpness: float = 40.0, **changes: Any) -> Path:
    """A Llama of 2 layers with random weights; keyword arguments go to its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    # random weights say next to nothing: their logits lie within 0.1 of each other
    model.lm_head.weight.data.mul_(sharpness)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def words(ids: Any) -> str:
    """The text that the tokenizer above reads as these ids."""
    return " ".join(f"w{int(i)}" for i in ids)


def rows(texts: list[str | None], domain: str = "d") -> pa.RecordBatch:
    names = [f"{domain}#{i}" for i in range(len(texts))]
    return pa.RecordBatch.from_pydict(
        {"doc_id": names, "domain": [domain] * len(texts), "text": pa.array(texts, pa.string())}
    )


def written(folder: Path, count: int, length: int, *, seed: int = 0, greedy: bool = False) -> list[str]:
    """Texts that a model writes, a token at a time, from a random first word: at temperature 1, or greedily."""
    import torch
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(folder).eval()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, 1), generator=generator)
    with torch.inference_mode():
        for _ in range(length - 1):
            logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
            p = torch.softmax(logits.double(), -1)
            following = p.argmax(-1, keepdim=True) if greedy else torch.multinomial(p, 1, generator=generator)
            tokens = torch.cat([tokens, following], 1)
    return [words(row) for row in tokens]


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The helpers above: test files cannot import each other."""
    return SimpleNamespace(
        vocabulary=VOCABULARY,
        tokenizer=write_tokenizer,
        llama=write_llama,
        words=words,
        rows=rows,
        written=written,
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that no test may change."""
    return write_llama(tmp_path_factory.mktemp("models") / "llama")


Write = Callable[..., Path]


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Writes texts as JSON lines below ``tmp_path`` and returns the path."""

    def write(name: str, texts: list[str]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    return write
