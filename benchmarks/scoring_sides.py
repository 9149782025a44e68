"""The sides of benchmarks/scoring.py, a process of its own each: ``python -m benchmarks.scoring_sides MODE …``.

    make       a model with random weights and a tokenizer of the material in a folder, and its texts
    penstock   every score of ``LanguageModelScores``
    loop       one text at a time through transformers: loss, entropy, Min-K and Min-K++ from whole logits

One thread; seconds of processor time, the model loaded before. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

VOCABULARY, MAX_TOKENS = 32_768, 512
SHORT = "libraries set themselves up before anything is measured"
LENGTHS = {"lines": 150, "pages": 2500}  # characters: some 40 and 512 tokens


def make(folder: Path, data: Path | None, count: int) -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.embedding import pieces
    from penstock.seeding import stream
    from penstock.tokenization.bpe import BPEConfig, train_bpe

    long = pieces(data, LENGTHS["pages"], count)
    rng = stream(0, "scoring", "lengths")
    # as texts come: some short, some long, all in one file
    lines = [text[: int(rng.integers(1, 2 * LENGTHS["lines"]))] for text in long for _ in range(10)][: 5 * count]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(train_bpe(long, BPEConfig(vocabulary_size=8192)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    for name, texts in (("pages", long), ("lines", lines)):
        (folder / f"{name}.json").write_text(json.dumps(texts))
    return {"parameters": sum(p.numel() for p in model.parameters())}


def penstock(folder: Path, texts: list[str]) -> dict[str, Any]:
    from penstock.scoring.lm_scores import BATCH_TOKENS_ON_CPU, LanguageModelScores
    from penstock.scoring.model import load_causal_lm, pack_texts

    work = LanguageModelScores.of(str(folder), device="cpu", max_tokens=MAX_TOKENS)
    work.setup()
    batch = pa.RecordBatch.from_pydict({"text": texts})
    work.annotate(pa.RecordBatch.from_pydict({"text": [SHORT]}))
    before, started = peak(), time.process_time()
    columns = work.annotate(batch)
    seconds = time.process_time() - started
    grown = peak() - before
    filled, total = pack_texts(texts, load_causal_lm(folder, "cpu")[1], MAX_TOKENS).padding(BATCH_TOKENS_ON_CPU)
    names = ("loss", "entropy", "mink", "minkpp")
    return {
        "seconds": seconds,
        "peak": grown,
        "filled": filled / total,
        "scores": [columns[f"score.lm_{name}"].to_pylist() for name in names],
    }


def loop(folder: Path, texts: list[str]) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    of_model: Any = AutoModelForCausalLM
    model = of_model.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    one_text(model, tokenizer, SHORT)
    before, started = peak(), time.process_time()
    found = [one_text(model, tokenizer, text) for text in texts]
    return {
        "seconds": time.process_time() - started,
        "peak": peak() - before,
        "scores": [list(values) for values in zip(*(scores for scores, _ in found), strict=True)],
        "tokens": sum(tokens for _, tokens in found),
    }


@torch.inference_mode()
def one_text(model: Any, tokenizer: Any, text: str) -> tuple[list[float | None], int]:
    """Loss, entropy, Min-20 % and Min-20 %++ of a text, in the plainest way."""
    ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")["input_ids"]
    count = ids.shape[1]
    if count < 3:
        return [None] * 4, count
    log_p = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
    p = log_p.exp()
    of_token = log_p.gather(1, ids[0, 1:, None])[:, 0]
    mean = (p * log_p).sum(-1)
    sd = ((p * log_p**2).sum(-1) - mean**2).clamp(min=1e-8).sqrt()
    kept = max(1, int(0.2 * (count - 1)))
    normal = (of_token - mean) / sd
    scores = (-of_token.mean(), -mean.mean(), of_token.sort()[0][:kept].mean(), normal.sort()[0][:kept].mean())
    return [float(score) for score in scores], count


def peak() -> int:
    """Bytes, the most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("mode", choices=("make", "penstock", "loop"))
    command.add_argument("folder", type=Path)
    command.add_argument("--texts", choices=tuple(LENGTHS), default="pages")
    command.add_argument("--data", type=Path)
    command.add_argument("--count", type=int, default=100)
    given = command.parse_args()
    torch.set_num_threads(1)
    if given.mode == "make":
        torch.manual_seed(0)
        print(json.dumps(make(given.folder, given.data, given.count)))
        return
    texts = json.loads((given.folder / f"{given.texts}.json").read_text())
    found = penstock(given.folder, texts) if given.mode == "penstock" else loop(given.folder, texts)
    found["scores"] = [[None if v is None else float(np.round(v, 4)) for v in of] for of in found["scores"]]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
