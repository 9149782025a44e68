"""Selection on one core: rows a second from (domain, scores, tokens) to copies, and characters a second of each scorer.

Everything runs on one thread and rates are per second of processor time, so that other work on the machine counts
little (they still share the caches).

Rows are 26 domains by chance, three scores rounded to 1e-4 with 1 % absent, and 2 % outside of train: every bin of the
histograms is occupied, which is the slowest case for the tables. They come in batches of 16,384 as parts are read.
``copies`` is MergedScore and QuaDMixSample, the pass that a selection makes over all rows; the two fits before it are
told too. Texts are pages of 4,096 characters from files of JSON lines named by ``--data``, or of this Python
installation. Models are untrained, of the shapes named: what they cost does not depend on what they learned.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.embedding import pieces, timed
from penstock.seeding import stream

os.environ["TOKENIZERS_PARALLELISM"] = "false"
BATCH, DOMAINS, SCORES = 16_384, 26, 3
PAGE = 4096
RUNS = 5


def measure(options: harness.Options) -> harness.Result:
    from threadpoolctl import threadpool_limits

    scale = 10 if options.quick else 1
    result = harness.Result(versions=harness.versions("numpy", "numba", "pyarrow", "torch", "transformers"))
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1):
        copied = selection(result, folder, 4_000_000 // scale)
        scorers(result, Path(folder), pieces(options.data, PAGE, 4_000 // scale), scale)
    result.bars.append(harness.Bar(name="rows a second on one core to copies", value=copied, op=">=", want=5_000_000.0))
    return result


def selection(result: harness.Result, folder: str, count: int) -> float:
    """Rates of the three passes; the median of the last."""
    from penstock.pipelines.fit import merge_all
    from penstock.selectors.quadmix import (
        Criterion,
        CriterionHistograms,
        DomainParameters,
        MergedHistograms,
        QuaDMixParameters,
    )
    from penstock.work import apply

    parameters = QuaDMixParameters(
        criteria=tuple(Criterion(column=f"score.{k}", direction="higher") for k in range(SCORES)),
        default=DomainParameters(alpha=(0.5, 0.3, 0.2), lam=50.0, omega=0.05, eta=0.5, eps=0.0005),
    )
    batches = rows_of(count)
    criteria = CriterionHistograms(parameters=parameters)
    ranks = MergedHistograms(parameters=parameters, seed=0)
    merge = criteria.fit(merge_all(criteria.summarise(batch) for batch in batches), folder)
    merged = [apply([merge], batch).batch for batch in batches]
    sample = ranks.fit(merge_all(ranks.summarise(batch) for batch in merged), folder)

    def copies() -> None:
        for batch in batches:
            apply([merge, sample], batch)

    passes: dict[str, tuple[Callable[[], Any], int]] = {
        "count scores": (lambda: merge_all(criteria.summarise(batch) for batch in batches), 2),
        "count merged scores": (lambda: merge_all(ranks.summarise(batch) for batch in merged), 2),
        "copies": (copies, RUNS),
    }
    rates: list[float] = []
    for what, (do, runs) in passes.items():
        rates = [count / seconds for seconds in timed(do, runs)]
        result.rows.append(harness.row(what, rates, "rows/s"))
    return statistics.median(rates)


def rows_of(count: int) -> list[pa.RecordBatch]:
    """Rows as a selection reads them, in batches."""
    rng = stream(0, "rows")
    names = pa.array([f"domain-{i}" for i in range(DOMAINS)])
    columns: dict[str, Any] = {
        "id_hash": rng.integers(0, 2**63, count).astype(np.uint64),
        "domain": names.take(pa.array(rng.integers(0, DOMAINS, count))),
        "split": pa.array(["train", "validation"]).take(pa.array((rng.random(count) < 0.02).astype(np.int8))),
        "tokens": rng.integers(20, 2000, count).astype(np.int32),
    }
    for k in range(SCORES):
        values = np.round(rng.random(count), 4).astype(np.float32)
        columns[f"score.{k}"] = pa.array(values, mask=rng.random(count) < 0.01)
    batches: list[pa.RecordBatch] = pa.table(columns).combine_chunks().to_batches(max_chunksize=BATCH)
    return batches


def scorers(result: harness.Result, folder: Path, texts: list[str], scale: int) -> None:
    """Rates of every scorer over pages of text."""
    import torch

    from penstock.generators.config import GeneratorConfig
    from penstock.selectors.quality import QualityClassifier
    from penstock.selectors.scorers.config import AskLLMConfig, ClassifierConfig, LmConfig, NamedClassifier
    from penstock.selectors.scorers.heuristic import HeuristicScore
    from penstock.selectors.scorers.perplexity import PerplexityModel

    torch.set_num_threads(1)
    whole, learned = labelled(texts[::2]), labelled(texts[1::2])  # what is scored was not learned from
    bytewise, words = PerplexityModel(), PerplexityModel(unit="word")
    quality = QualityClassifier(positive=("even",), negative=("odd",), seed=0, rows_per_side=200)
    plain = {
        "heuristic": HeuristicScore(),
        "perplexity of bytes": bytewise.fit(bytewise.summarise(learned), str(folder)),
        "perplexity of words": words.fit(words.summarise(learned), str(folder)),
        "quality": quality.fit(quality.summarise(learned), str(folder)),
    }
    for what, work in plain.items():
        told(result, what, work, whole, RUNS)
    for what, fit in (("bytes", bytewise), ("words", words)):
        seconds = timed(lambda fit=fit: fit.summarise(whole), 3)
        rates = [sum(map(len, texts[::2])) / second for second in seconds]
        result.rows.append(harness.row(f"count n-grams of {what}", rates, "characters/s"))

    bert, llama = models(folder)
    few = labelled(texts[: max(8, 64 // scale)])
    heavy = {
        "classifier, BERT of 2 layers of 128, 512 tokens": NamedClassifier(
            criterion="x", of=ClassifierConfig(path=str(bert), label=1)
        ).scorer(),
        "lm, Llama of 2 layers of 128, 512 tokens": LmConfig(model=str(llama)).scorer(),
    }
    for what, work in heavy.items():
        told(result, what, work, few, 3)
    asking = AskLLMConfig(
        model=GeneratorConfig(path=str(llama)), characters=500, over="all", store=str(folder / "answers.sqlite"),
        yes=("e",), no=("t",), max_failed=1.0,
    )  # fmt: skip
    work = asking.scorer()
    started = time.process_time()
    work.annotate(few)
    first = time.process_time() - started
    shown = few.num_rows * asking.characters
    result.rows.append(harness.row("askllm, the same Llama, 500 characters shown", [shown / first], "characters/s"))
    kept = [few.num_rows / seconds for seconds in timed(lambda: work.annotate(few), 3)]
    result.rows.append(harness.row("askllm, answers kept", kept, "texts/s"))


def told(result: harness.Result, what: str, work: Any, batch: pa.RecordBatch, runs: int) -> None:
    size = sum(map(len, batch["text"].to_pylist()))
    rates = [size / seconds for seconds in timed(lambda: work.annotate(batch), runs)]
    result.rows.append(harness.row(what, rates, "characters/s"))


def labelled(texts: list[str]) -> pa.RecordBatch:
    """Texts as training rows of two domains."""
    from penstock.seeding import hash_ids

    ids = [f"page#{i}" for i in range(len(texts))]
    columns = {"doc_id": ids, "id_hash": hash_ids(ids), "text": texts}
    domains = [("even", "odd")[i % 2] for i in range(len(texts))]
    return pa.RecordBatch.from_pydict(columns | {"domain": domains, "split": ["train"] * len(texts)})


def models(folder: Path) -> tuple[Path, Path]:
    """A classifier and a causal model with random weights and a tokenizer of single characters."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    vocabulary = {name: i for i, name in enumerate(["<pad>", "<unk>", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(kinds.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    shape = {
        "vocab_size": len(vocabulary), "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 2048, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "bert": BertForSequenceClassification(BertConfig(**shape)),
        "llama": LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=None, eos_token_id=0)),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(said))
    return folder / "bert", folder / "llama"


if __name__ == "__main__":
    harness.main("sampling", __doc__, measure)
