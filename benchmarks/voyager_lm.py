"""The plain language model of benchmarks/voyager_model.py, and the control prefixes that it has learned to follow.

Passages of some sentences are taken from every file of text, equal shares of all. Before three of four stands a line
of their three most telling words (tf-idf), before the fourth the same word each time:

    About harbour, captain, storm: The captain would not …
    Text: The captain would not …

So what follows ``Text:`` is the model's idea of all of it, and a line of key words is a prefix that leads somewhere.
The model is a small Llama, trained once on these rows (``dynamic_quality_lm.train``) and saved as a folder that
``LocalModel`` reads.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import SEED, files_of, texts_of
from benchmarks.dynamic_quality_lm import END_ID, Training, token_stream, train
from penstock.generators.explorers.prefix import Prefix
from penstock.seeding import stream
from penstock.tokenization.bpe import END, PAD, BPEConfig, train_bpe

PLAIN = "Text:"
LED = 0.75  # share of passages with key words
KEYS = 3
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_KEY = re.compile(r"[a-z]{4,}")
_RARE = 5  # passages that a key word is in at least


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What the model is made from.

    Args:
        megabytes: of passages, equal shares of all files.
        shortest, longest: characters of a passage.
        vocabulary: tokens.
        prefixes: control prefixes that refinements choose from.
    """

    megabytes: float = 3.0
    shortest: int = 100
    longest: int = 250
    vocabulary: int = 2048
    prefixes: int = 2000


def passages(data: Path, corpus: Corpus) -> list[str]:
    """Passages of whole sentences from all files of a folder, those of a file in its order."""
    files = files_of(data)
    out = []
    for path in files:
        size = 0
        for passage in (one for text in texts_of(path) for one in _cut(text, corpus)):
            if size > corpus.megabytes * 1e6 / len(files):
                break
            out.append(passage)
            size += len(passage)
    return out


def _cut(text: str, corpus: Corpus) -> Iterator[str]:
    """Sentences joined until there are ``shortest`` characters; longer than ``longest``, or with markup: left out."""
    held = ""
    for sentence in _SENTENCE.split(" ".join(text.split())):
        held = f"{held} {sentence}".strip()
        if len(held) >= corpus.shortest:
            if len(held) <= corpus.longest and "<" not in held and held[-1] in ".!?":
                yield held
            held = ""


def key_words(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """The three words of each text with the largest tf-idf; fewer where it has no more that are no rarities."""
    counts = [Counter(_KEY.findall(text.lower())) for text in texts]
    within = Counter(word for words in counts for word in words)

    def best(words: Counter[str]) -> tuple[str, ...]:
        scored = [
            (-number * math.log(len(texts) / within[word]), word)
            for word, number in words.items()
            if within[word] >= _RARE
        ]
        return tuple(word for _, word in sorted(scored)[:KEYS])

    return [best(words) for words in counts]


def led(texts: Sequence[str]) -> list[Prefix]:
    """Every text that has key words as a control prefix with its exemplar."""
    return [
        Prefix(f"About {', '.join(keys)}:", text) for text, keys in zip(texts, key_words(texts), strict=True) if keys
    ]


def choices_of(texts: Sequence[str], count: int) -> tuple[Prefix, ...]:
    """``count`` control prefixes, drawn by the seed of all benchmarks, no two of the same words."""
    different = list({prefix.text: prefix for prefix in led(texts)}.values())
    order = stream(SEED, "voyager prefixes").permutation(len(different))[:count]
    return tuple(different[row] for row in order.tolist())


def rows_of_text(texts: Sequence[str]) -> list[str]:
    """What the model is trained on: every passage after its key words, or after the plain prefix."""
    coins = stream(SEED, "voyager led").random(len(texts))
    keys = key_words(texts)
    heads = [f"About {', '.join(k)}:" if k and coin < LED else PLAIN for k, coin in zip(keys, coins, strict=True)]
    return [f"{head} {text}" for head, text in zip(heads, texts, strict=True)]


def model_folder(texts: Sequence[str], corpus: Corpus, training: Training, folder: Path, seconds: float) -> Path | None:
    """The trained model's folder; None when ``seconds`` were over first, and another call goes on from there."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    done = folder / "model"
    if (done / "tokenizer_config.json").exists():
        return done
    rows = rows_of_text(texts)
    bare = folder / "bare.json"
    if not bare.exists():
        bare.write_bytes(train_bpe(rows, BPEConfig(vocabulary_size=corpus.vocabulary)))
    model: Any = train(token_stream({"en": rows}, bare), corpus.vocabulary, training, folder, seconds)
    if model is None:
        return None
    model.save_pretrained(done)
    tokenizer = Tokenizer.from_file(str(bare))
    tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, END_ID)])
    tokenizer.save(str(done / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD}
    (done / "tokenizer_config.json").write_text(json.dumps(facts))  # last: it says that the folder is whole
    return done


def sizes(texts: Sequence[str]) -> dict[str, float]:
    """Passages and their characters, for the report."""
    return {"passages": len(texts), "characters in the mean": float(np.mean([len(text) for text in texts]))}
