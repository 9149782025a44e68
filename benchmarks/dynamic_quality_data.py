"""What benchmarks/dynamic_quality.py reads: text in fifteen languages that is not NTREX, NTREX cut by document, the
base.

The base tokenizer's text is the message catalogues of two programs (benchmarks/requirements-dynamic.txt) and English
prose of ``--data``. NTREX never touches it. NTREX's documents are cut in two by the hash of their name: four fifths
teach the language model, which reads the other text also; on the last fifth everything is measured.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.corpora import SEED, texts_of
from benchmarks.harness import BenchmarkError
from penstock.seeding import coins, hash_ids
from penstock.tokenization.bpe import BPEConfig, train_bpe

LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
SPACELESS = ("th", "zh")  # written without spaces: their words are those of Unicode's Annex 29, as ICU cuts them
VOCABULARY = 65_536
HELD_OUT = 0.2  # of NTREX's documents
PROSE_MB = 3.0  # English prose for the base

_CODES = {"zh": "(?:zh_Hans|zh-Hans)", "es": "es(?:[_-](?:ES|419))?"}
_MESSAGE = re.compile(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', re.M)
_NOISE = re.compile(r"\{[^{}]*\}|%\(\w+\)[sd]|%[sd]|<[^<>]*>")


def ntrex(data: Path) -> list[dict[str, str]]:
    """Records of NTREX in the file's order: ``doc`` and one sentence in each language."""
    path = data / "multilingual" / "ntrex_xnli15.jsonl.gz"
    if not path.is_file():
        raise BenchmarkError(f"--data: got {data}, where multilingual/ntrex_xnli15.jsonl.gz is not")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def held_out(records: list[dict[str, str]]) -> np.ndarray:
    """Which records belong to held-out documents: (n,) bool."""
    return coins(hash_ids(r["doc"] for r in records), SEED, "ntrex documents") < HELD_OUT


def catalogue(packages: Path, language: str) -> list[str]:
    """Distinct messages in one language, in a fixed order, without placeholders and what was left untranslated."""
    code = _CODES.get(language, language) + ("" if language in _CODES else "(?:_[A-Z]{2})?")
    english = set() if language == "en" else set(catalogue(packages, "en"))
    found: dict[str, None] = {}
    for text in _messages(packages, code):
        clean = " ".join(_NOISE.sub(" ", text).split())
        if len(clean) > 2 and "{" not in clean and clean not in english:
            found[clean] = None
    if not found:
        raise BenchmarkError(f"{packages}: no messages in {language!r}; run: make bench")
    return list(found)


def _messages(packages: Path, code: str) -> Iterator[str]:
    """Raw messages of the two programs, file by file."""
    frontend = re.compile(rf"translations/(?:[\w-]+/)?{code}-[0-9a-f]{{32}}\.json$")
    kolibri = re.compile(rf"locale/{code}/LC_MESSAGES/[^/]+\.json$")
    django = re.compile(rf"locale/{code}/LC_MESSAGES/[^/]+\.po$")
    patterns = (("hass_frontend", "*.json"), ("kolibri", "*.json"), ("kolibri", "*.po"))
    for path in sorted(path for package, pattern in patterns for path in (packages / package).rglob(pattern)):
        name = path.as_posix()
        if frontend.search(name) or kolibri.search(name):
            yield from _strings(json.loads(path.read_text("utf-8")))
        elif django.search(name):
            for match in _MESSAGE.finditer(path.read_text("utf-8")):
                yield "".join(ast.literal_eval(line) for line in match[1].splitlines())


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)


def prose(data: Path) -> list[str]:
    """English prose of ``text_domains``: equal shares of its files, ``PROSE_MB`` in all."""
    files = sorted((data / "text_domains").glob("*.jsonl.gz"))
    if not files:
        raise BenchmarkError(f"--data: got {data}, where text_domains/*.jsonl.gz are not")
    out = []
    for path in files:
        size = 0
        for text in texts_of(path):
            if size > PROSE_MB * 1e6 / len(files):
                break
            out.append(text[:20_000])
            size += len(out[-1])
    return out


def other_text(data: Path, packages: Path) -> dict[str, list[str]]:
    """Everything that is not NTREX, by language; messages joined to paragraphs of ten."""
    out = {}
    for language in LANGUAGES:
        messages = catalogue(packages, language)
        out[language] = ["\n".join(messages[i : i + 10]) for i in range(0, len(messages), 10)]
    out["en"] += prose(data)
    return out


def taught(data: Path, packages: Path) -> dict[str, list[str]]:
    """What the language model reads, by language: messages, a fifth of the prose, NTREX's documents not held out."""
    out = other_text(data, packages)
    keep = len(out["en"]) - len(prose(data))
    out["en"] = out["en"][:keep] + out["en"][keep::5]
    records = ntrex(data)
    outside = held_out(records)
    for language in LANGUAGES:
        documents: dict[str, list[str]] = {}
        for record, held in zip(records, outside, strict=True):
            if not held:
                documents.setdefault(record["doc"], []).append(record[language])
        out[language] += ["\n".join(sentences) for sentences in documents.values()]
    return out


def base_tokenizer(data: Path, packages: Path, folder: Path) -> Path:
    """``tokenizer.json`` of the base, trained once for a folder."""
    path = folder / "tokenizer.json"
    if not path.exists():
        texts = (text for one in other_text(data, packages).values() for text in one)
        path.write_bytes(train_bpe(texts, BPEConfig(vocabulary_size=VOCABULARY)))
    return path
