"""What merging batches saves in fifteen languages, and what it costs a model that was never trained for it.

Base: a byte-level BPE of 65,536 tokens, trained on the message catalogues of two programs and English prose, never on
NTREX. Batches of 128 NTREX sentences of one language, word boundary, pairs that occur twice at least, as many merges
as there are. Chinese and Thai have words by Unicode's Annex 29 with ICU's dictionaries (package ``icu4py``); between
white space whole clauses would be "words".

    reduction  percent of the base tokens saved, without padding; and as a share of what whole words would save
    model      a small Llama taught on other text and four fifths of NTREX's documents (``dynamic_quality_lm``; about
               half an hour on one core, in pieces of ``--minutes``, kept under .bench). It has to beat a Kneser-Ney
               bigram on held-out sentences
    loss       on held-out documents: nats of the first base token after each unit, given the text before it in merged
               tokens, over those given it in base tokens; both are taken at the same places of the text
    FVT        rows of new tokens are means of base rows; ``random`` is the control, a base row drawn for each
    curve      the same with half of the merges

``--quick`` measures reduction alone.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.corpora import SEED
from benchmarks.dynamic_quality_data import LANGUAGES, SPACELESS, VOCABULARY, base_tokenizer, held_out, ntrex, taught
from benchmarks.dynamic_quality_lm import END_ID, Bigram, Training, token_stream, train
from benchmarks.harness import Bar, Options, Result
from benchmarks.small_lm import files_digest, scratch_folder, write_json
from penstock.seeding import derive
from penstock.tokenization.dynamic.batch import DynamicBatch, DynamicTokenizer
from penstock.tokenization.dynamic.embeddings import CompositionRows, RowProvider, source_rows
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary
from penstock.tokenization.dynamic.wrappers import DynamicModel

ROWS, MINIMUM = 128, 2
SHARES = (0.5, 1.0)  # of all merges
ARMS = {"FVT, half of the merges": ("FVT", 0.5), "FVT": ("FVT", 1.0), "random": ("random", 1.0)}


class RandomRows:
    """The control: a row of the model for every new token, drawn by the token's bytes."""

    key = "random"

    def __init__(self, source: torch.Tensor) -> None:
        self._source, self.width = source, int(source.shape[1])

    def rows(self, tokens: Sequence[bytes]) -> torch.Tensor:
        picks = [derive(SEED, "random rows", token.hex()) % len(self._source) for token in tokens]
        return self._source[torch.tensor(picks, dtype=torch.int64)]


def tokenizer_for(base: BaseVocabulary, language: str) -> DynamicTokenizer:
    words: Any = "unicode" if language in SPACELESS else "whitespace"
    return DynamicTokenizer(base, boundary="word", words=words, minimum=MINIMUM)


def reduction(base: BaseVocabulary, language: str, texts: Sequence[str]) -> dict[str, float]:
    """Tokens of all sentences before and after merging, and units."""
    tokenizer = tokenizer_for(base, language)
    made = [tokenizer.encode(texts[i : i + ROWS], None) for i in range(0, len(texts), ROWS)]
    before, after = (sum(len(getattr(b, name)) for b in made) for name in ("base_ids", "ids"))
    least = sum(int(b.units.sum()) for b in made)
    return {
        "base tokens": before,
        "tokens": after,
        "reduction": 100 * (1 - after / before),
        "of possible": 100 * (before - after) / (before - least),
        "merges a batch": statistics.fmean(len(b.merges) for b in made),
    }


def sentences(base: BaseVocabulary, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Base ids of rows that begin with the end token, as the model was taught, and where each row begins."""
    ids, offsets = base.encode(texts)
    at = offsets[:-1]
    return np.insert(ids, at, END_ID), offsets + np.arange(len(offsets))


@torch.no_grad()
def nats_at(reader: DynamicModel, batch: DynamicBatch, wanted: np.ndarray) -> np.ndarray:
    """-ln P of the base token after each merged token of ``wanted`` (places in the batch's tokens)."""
    inputs = reader.inputs(batch)
    read = reader.model.base_model(
        inputs_embeds=inputs.inputs_embeds, attention_mask=inputs.attention_mask, position_ids=inputs.position_ids
    )
    hidden = inputs.gather(read.last_hidden_state)
    head = reader.model.get_output_embeddings().weight
    targets = torch.from_numpy(batch.base_ids[batch.stops[wanted]])
    out = []
    for start in range(0, len(wanted), 512):
        logits = hidden[torch.from_numpy(wanted[start : start + 512])] @ head.T
        some = targets[start : start + 512]
        out.append(torch.nn.functional.cross_entropy(logits, some, reduction="none"))
    return torch.cat(out).numpy().astype(np.float64)


def quality(model: Any, base: BaseVocabulary, bigram: Bigram, language: str, texts: Sequence[str]) -> dict[str, Any]:
    """Losses of one language's held-out batch, with and without merges."""
    tokenizer = tokenizer_for(base, language)
    ids, offsets = sentences(base, texts)
    plain = tokenizer.merge(ids, offsets, 0)
    source = source_rows(model.get_input_embeddings())
    providers: dict[str, RowProvider] = {"FVT": CompositionRows(base, source), "random": RandomRows(source)}
    reader = DynamicModel(model, tokenizer, providers["FVT"])
    ends = np.zeros(len(ids), np.bool_)
    ends[offsets[1:] - 1] = True
    inner = np.flatnonzero(~ends)
    nats = np.zeros(len(ids))
    nats[inner] = nats_at(reader, plain, inner)
    # a unit ends where the next base token begins one; what stands after the end token has the same context in both
    begins = tokenizer.unit_starts_of(ids, offsets)
    closes = np.append(begins[1:], False) & ~ends & (ids != END_ID)
    out: dict[str, Any] = {
        "model": float(nats[inner].mean()),
        "bigram": float(bigram.nats(ids[inner], ids[inner + 1]).mean()),
        "places": int(closes.sum()),
        "base": float(nats[closes].mean()),
        "arms": [],
    }
    whole = len(tokenizer.merge(ids, offsets, None).merges)
    for share in SHARES:
        batch = tokenizer.merge(ids, offsets, round(share * whole))
        last = batch.stops - 1
        wanted = np.flatnonzero(closes[last])
        if len(wanted) != closes.sum():
            raise harness.BenchmarkError(f"{language}: a merged token crosses the end of a unit")
        for name, provider in providers.items():
            if share < 1 and name == "random":
                continue
            merged = nats_at(DynamicModel(model, tokenizer, provider), batch, wanted)
            out["arms"].append(
                {
                    "rows": name,
                    "share": share,
                    "reduction": 100 * (1 - (len(batch.ids) - len(batch)) / (len(ids) - len(batch))),
                    "nats": float(merged.mean()),
                    "increase": 100 * float(merged.mean() / nats[closes].mean() - 1),
                }
            )
    return out


def measure(options: Options) -> Result:
    if options.data is None:
        raise harness.BenchmarkError(
            "--data: got none, allowed a folder with multilingual/ and text_domains/; name one"
        )
    python = harness.peer("dynamic", quick=False)
    packages = next((python.parent.parent / "lib").glob("python*/site-packages")) if python else Path()
    training = Training()
    domains = options.data / "text_domains"
    folder = scratch_folder("dynamic_quality", {"training": training, "data": files_digest(domains)})
    base = BaseVocabulary.load(str(base_tokenizer(options.data, packages, folder)))
    records = ntrex(options.data)
    rows: dict[str, harness.Row] = {}
    saved = {}
    for language in LANGUAGES:
        found = reduction(base, language, [record[language] for record in records])
        saved[language] = found["reduction"]
        rows[language] = {"what": language, **found}
    spaced = [saved[language] for language in LANGUAGES if language not in SPACELESS]
    bars = [
        Bar(name="mean reduction, 15 languages, %", value=statistics.fmean(saved.values()), op=">", want=20.0),
        Bar(name="mean reduction, 13 languages with spaces, %", value=statistics.fmean(spaced), op=">", want=20.0),
    ]
    if options.quick:
        return Result(rows=list(rows.values()), bars=bars, versions=harness.versions("tokenizers", "icu4py"))

    tokens = token_stream(taught(options.data, packages), folder / "tokenizer.json")
    model = train(tokens, VOCABULARY, training, folder, 60 * options.more["minutes"])
    if model is None:
        raise harness.BenchmarkError("the model is not trained yet; run again, it goes on where it was")
    bigram = Bigram(tokens, VOCABULARY)
    outside = held_out(records)
    results = {}
    for language in LANGUAGES:
        path = folder / f"quality-{language}.json"
        if not path.exists():
            some = [record[language] for record, held in zip(records, outside, strict=True) if held][:ROWS]
            write_json(path, quality(model, base, bigram, language, some))
            print(f"{language} done", file=sys.stderr, flush=True)
        results[language] = json.loads(path.read_text())
    for language, one in results.items():
        arms = {(arm["rows"], arm["share"]): arm for arm in one["arms"]}
        rows[language] |= {"model nats": one["model"], "bigram nats": one["bigram"], "places": one["places"]}
        rows[language] |= {f"{name}, %": arms[key]["increase"] for name, key in ARMS.items()}
    mean_row: harness.Row = {"what": "mean of languages"}
    for column in ("reduction", "of possible", "model nats", "bigram nats", *(f"{name}, %" for name in ARMS)):
        mean_row[column] = statistics.fmean(row[column] for row in rows.values())
    half = statistics.fmean(arm["reduction"] for one in results.values() for arm in one["arms"] if arm["share"] < 1)
    rows["mean"] = mean_row
    bars += [
        Bar(
            name="nats a token, bigram less model",
            value=mean_row["bigram nats"] - mean_row["model nats"],
            op=">=",
            want=0.5,
        ),
        Bar(name="loss increase by FVT, mean of languages, %", value=mean_row["FVT, %"], op="<", want=2.0),
        Bar(
            name="loss increase by random rows (control) less FVT's, points",
            value=mean_row["random, %"] - mean_row["FVT, %"],
            op=">",
            want=2.0,
        ),
    ]
    rows["half"] = {"what": "half of the merges", "reduction": half}
    versions = harness.versions("torch", "numpy", "transformers", "tokenizers", "icu4py")
    return Result(rows=list(rows.values()), bars=bars, versions=versions)


if __name__ == "__main__":
    command = harness.parser(__doc__)
    command.add_argument("--minutes", type=float, default=8.0, help="how long to train at most before going on later")
    harness.main("dynamic_quality", __doc__, measure, command=command)
