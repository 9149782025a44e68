"""The sides of benchmarks/bytelevel.py, a process of its own each: ``python -m benchmarks.bytelevel_sides MODE …``.

    make     a model of random weights, its tokenizer and a text, in a folder
    stream   the text byte by byte
    bare     steps of one token with keys and values kept, at the contexts that the text's tokens give
    batch    16 rows byte by byte; a prompt in one pass

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.corpora import texts_of
from benchmarks.harness import BenchmarkError

WARM = 32  # bytes or steps before the clock starts
TEXT = 4000


def make(folder: Path, data: Path | None) -> dict[str, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if data is None:
        name = "GPT-2's pattern, trained on code"
        texts = [
            path.read_text("utf-8", errors="ignore") for path in sorted(Path(os.__file__).parent.glob("*.py"))[:80]
        ]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        end = "<|endoftext|>"
        trainer = trainers.BpeTrainer(
            vocab_size=16_384, initial_alphabet=alphabet, special_tokens=[end], show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        text = texts[3]
    else:
        name, file = "gpt2", data / "tokenizers" / "gpt2_tokenizer.json"
        books = data / "text_domains" / "books.jsonl.gz"
        for path in (file, books):
            if not path.is_file():
                raise BenchmarkError(
                    f"--data: got {data} without {path.relative_to(data)}; leave it out, or give one with it"
                )
        tokenizer, end = Tokenizer.from_file(str(file)), "<|endoftext|>"
        text = next(texts_of(books))
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
    number = tokenizer.token_to_id(end)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=number,
        eos_token_id=number,
        initializer_range=0.05,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    # whole characters
    (folder / "text").write_bytes(text.encode()[: TEXT + 4].decode(errors="ignore")[:TEXT].encode())
    return {"tokens": tokenizer.get_vocab_size(), "name": name}


def stream(folder: Path, size: int) -> dict[str, Any]:
    from penstock.tokenization.bytelevel.model import ByteModel

    started = time.perf_counter()
    model = ByteModel.load(folder, device="cpu")
    prepare = time.perf_counter() - started
    data = (folder / "text").read_bytes()[: WARM + size]
    # what numba compiles and what contexts of the tokenizer are new is not the price of a byte
    for _ in range(2):
        state = model.start([b""])
        for byte in data[:WARM]:
            state.log_probs()
            state.advance([byte])
        positions, passes, started = model.calls, model.passes, time.perf_counter()
        for byte in data[WARM:]:
            state.log_probs()
            state.advance([byte])
        seconds = time.perf_counter() - started
    return {
        "speed": size / seconds,
        "positions": (model.calls - positions) / size,
        "passes": (model.passes - passes) / size,
        "bytes": len(data) - WARM,
        "prepare": prepare,
    }


def bare(folder: Path, size: int) -> dict[str, Any]:
    from transformers import DynamicCache

    from penstock.scoring.model import load_causal_lm

    model, tokenizer = load_causal_lm(folder, "cpu")
    text = (folder / "text").read_bytes()[: WARM + size].decode(errors="ignore")
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    done, seconds = 0, 0.0
    with torch.inference_mode():
        # as often as it takes to make as many steps as there are bytes, so that contexts are as long as there
        while done < size:
            cache = DynamicCache()
            model(input_ids=ids[:, :8], past_key_values=cache, use_cache=True)
            started = time.perf_counter()
            for place in range(8, ids.shape[1]):
                model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            seconds += time.perf_counter() - started
            done += ids.shape[1] - 8
    return {"speed": done / seconds}


def batch(folder: Path, size: int) -> dict[str, Any]:
    from penstock.tokenization.bytelevel.model import ByteModel

    model = ByteModel.load(folder, device="cpu")
    data = (folder / "text").read_bytes()
    rows = [data[16 * row : 16 * row + WARM + size] for row in range(16)]
    state = model.start([row[:WARM] for row in rows])
    state.log_probs()
    columns = np.array([list(row[WARM:]) for row in rows]).T.tolist()
    started = time.perf_counter()
    for column in columns:
        state.log_probs()
        state.advance(column)
    seconds = time.perf_counter() - started
    model.logprob([data[:1500]])
    started = time.perf_counter()
    model.logprob([data[:2000]])
    return {"speed": 16 * size / seconds, "prompt": 2000 / (time.perf_counter() - started)}


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("mode", choices=("make", "stream", "bare", "batch"))
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--data", type=Path)
    command.add_argument("--bytes", type=int, default=200)
    given = command.parse_args()
    torch.set_num_threads(1)
    if given.mode == "make":
        found = make(given.folder, given.data)
    else:
        found = {"stream": stream, "bare": bare, "batch": batch}[given.mode](given.folder, given.bytes)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
