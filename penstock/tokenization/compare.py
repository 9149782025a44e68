"""Tokenizers beside each other on one corpus, by domain or language, every figure with its conventions.

    found = compare({"ours": "runs/bpe", "gpt2": "gpt2.json"}, Texts(paths=("texts/*.jsonl",)), parallel="en")

What a figure means is in ``measures``; here it is said what it was measured with. Each figure of a group carries the
tokenizer's sha256 and normaliser, the digest of the corpus, both sizes V of Rényi efficiency, how words and the space
in front of them were taken, and whether the group has words at all (``spaced``). Bytes and characters are those of the
text before normalisation. Tokens are those of the text alone: nothing is put around it, and text that spells a special
token is text.

Parity and the Gini coefficient need texts that say the same in every group (``parallel``): the same number of
documents, in the same order of ids. The Gini coefficient is of the mean tokens a document.

Price: one pass of encoding for each tokenizer, and one more over the distinct words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.loading import Loaded, load
from penstock.tokenization.measures import MATCH, WORDS, Lexicon, gini, renyi_efficiency, spaceless, word_counts
from penstock.tokenization.sampling import Texts, grouped

ALL = "all"  # the row over all groups

# figures by group, what they are called in tables, and which way is better (None: it depends)
FIGURES = {
    "bytes_per_token": ("bytes/token", "higher"),
    "characters_per_token": ("chars/token", "higher"),
    "fertility": ("tokens/word", "lower"),
    "strr": ("STRR", "higher"),
    "parity": ("parity", "lower"),
    "nsl": ("NSL", "lower"),
    "renyi_observed": ("Rényi, observed V", None),
    "renyi_nominal": ("Rényi, nominal V", None),
    "lexicon_share": ("%TR", "higher"),
    "purity": ("%Pure", "higher"),
    "vocabulary_use": ("vocabulary used", "higher"),
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One tokenizer over the whole corpus.

    Attributes:
        vocabulary: rows that an embedding table needs.
        normalisation: its normaliser, by name.
        leading_space: how a word was given for STRR.
        gini: of tokens a document, over groups of parallel texts; None without ``parallel``.
        megabytes_per_second: of text, in one pass with every thread that ``tokenizers`` takes.
    """

    name: str
    path: str
    sha256: str
    vocabulary: int
    normalisation: str
    leading_space: str
    gini: float | None
    megabytes_per_second: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found: tokenizers, figures of each and each group, and the conventions of all of them."""

    tokenizers: tuple[Compared, ...]
    figures: tuple[dict[str, Any], ...]
    conventions: dict[str, Any]

    def groups(self) -> tuple[str, ...]:
        """Groups by name, the row over all of them last."""
        return tuple(dict.fromkeys(str(figure["group"]) for figure in self.figures))

    def value(self, tokenizer: str, group: str, figure: str) -> Any:
        """One figure; None where it was not measured."""
        return next(f[figure] for f in self.figures if f["tokenizer"] == tokenizer and f["group"] == group)

    def measured(self) -> tuple[str, ...]:
        """Figures that some group has."""
        return tuple(name for name in FIGURES if any(figure[name] is not None for figure in self.figures))

    def to_json(self) -> dict[str, Any]:
        return {
            "conventions": self.conventions,
            "tokenizers": [one.__dict__ for one in self.tokenizers],
            "figures": list(self.figures),
        }


def compare(
    tokenizers: Mapping[str, str],
    corpus: Texts,
    *,
    by: str = "domain",
    parallel: str | None = None,
    reference: str | None = None,
    lexicons: Mapping[str, Lexicon] | None = None,
    alpha: float = 2.5,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Measure tokenizers on the same texts.

    Args:
        tokenizers: name to file or folder.
        by: ``domain`` or ``language``: what a group is.
        parallel: the group that parity is measured against; all groups are then translations of each other.
        reference: the tokenizer of ``tokenizers`` that NSL is measured against.
        lexicons: words by group, for %TR and %Pure; that of ``all`` serves groups without one of their own.
        alpha: order of Rényi entropy.
        limit: bytes of each group at most, sampled by hash; None takes all.
        progress: told (tokenizer, groups done, groups) as it goes.

    Raises:
        ConfigError: no tokenizer, a name that there is not, or ``limit`` with ``parallel``.
        DatasetError: no text, or parallel groups of different length.
        InputError: a tokenizer or a text cannot be read.
    """
    if not tokenizers:
        raise ConfigError("compare: got no tokenizer, allowed one or more; name files or folders")
    if reference is not None and reference not in tokenizers:
        raise ConfigError(f"reference: got {reference}, allowed {', '.join(tokenizers)}; name one of them")
    if parallel is not None and limit is not None:
        raise ConfigError("limit: got one for parallel texts, which must stay whole; leave one of the two out")
    loaded = {name: load(path) for name, path in tokenizers.items()}
    tables, digest = grouped(corpus, by, limit=limit, seed=seed)
    if parallel is not None:
        _check_parallel(tables, parallel)
    known = dict(lexicons or {})
    strange = [name for name in known if name not in tables and name != ALL]
    if strange:
        raise ConfigError(f"lexicon {strange[0]}: no such group, allowed {', '.join(tables)}; name one of them")
    texts = {name: _Group.of(name, table, known.get(name, known.get(ALL))) for name, table in tables.items()}
    measured = {
        name: _measure(name, one, texts, progress or (lambda what, done, total: None)) for name, one in loaded.items()
    }
    base = None if reference is None else measured[reference].tokens
    figures = [
        row
        for name, one in measured.items()
        for row in one.rows(texts, loaded[name], digest, parallel=parallel, base=base, alpha=alpha)
    ]
    conventions = {
        "corpus": digest,
        "grouped_by": by,
        "words": WORDS,
        "spaced": "no where 30 % of the letters are of scripts without spaces; words mean nothing there",
        "strr": "share of word occurrences, each word by itself",
        "bytes": "UTF-8 of the text before normalisation",
        "renyi_alpha": alpha,
        "renyi_v": "observed: types that occur; nominal: ids of the vocabulary",
        "parity": None if parallel is None else f"tokens over those of {parallel}, parallel documents",
        "gini": None if parallel is None else "of mean tokens a document, over the groups",
        "nsl_reference": reference,
        "lexicon_match": MATCH if known else None,
        "lexicons": {name: lexicon.name for name, lexicon in known.items()},
        "sampled_bytes": limit,
        "seed": seed,
    }
    done = tuple(measured[name].compared(loaded[name], texts, parallel) for name in tokenizers)
    return Comparison(tokenizers=done, figures=tuple(figures), conventions=conventions)


def _check_parallel(tables: Mapping[str, pa.Table], base: str) -> None:
    if base not in tables:
        raise ConfigError(f"parallel: got {base}, allowed a group: {', '.join(tables)}; name one of them")
    for name, table in tables.items():
        if table.num_rows != tables[base].num_rows:
            raise DatasetError(
                f"parallel: {name} has {table.num_rows} documents and {base} {tables[base].num_rows}, allowed the "
                "same number of each; give translations line by line, or leave --parallel out"
            )


@dataclass(frozen=True)
class _Group:
    """Texts of a group and what no tokenizer changes about them."""

    name: str
    texts: list[str]
    bytes: int
    characters: int
    words: list[str]
    word_counts: NDArray[np.int64]
    spaced: bool
    lexicon: Lexicon | None

    @classmethod
    def of(cls, name: str, table: pa.Table, lexicon: Lexicon | None) -> _Group:
        text = table["text"]
        words, counts = word_counts(text)
        sizes = (pc.sum(pc.binary_length(text)), pc.sum(pc.utf8_length(text)))
        size, characters = (int(one.as_py() or 0) for one in sizes)
        return cls(name, text.to_pylist(), size, characters, words, counts, not spaceless(text), lexicon)

    @property
    def all_words(self) -> int:
        return int(self.word_counts.sum())


@dataclass(frozen=True)
class _Measured:
    """What one tokenizer made of every group."""

    name: str
    counts: dict[str, NDArray[np.int64]]  # uses of each id
    single: dict[str, int]  # word occurrences that are one token
    shares: dict[str, tuple[float | None, float | None]]  # %TR and %Pure
    seconds: float

    @property
    def tokens(self) -> dict[str, int]:
        found = {name: int(counts.sum()) for name, counts in self.counts.items()}
        return found | {ALL: sum(found.values())}

    def rows(
        self,
        groups: Mapping[str, _Group],
        loaded: Loaded,
        corpus: str,
        *,
        parallel: str | None,
        base: Mapping[str, int] | None,
        alpha: float,
    ) -> list[dict[str, Any]]:
        size = loaded.vocabulary
        tokens = self.tokens
        whole = sum(self.counts.values(), np.zeros(size, np.int64))
        out = []
        for name in (*groups, *([ALL] if ALL not in groups and len(groups) > 1 else [])):
            among = list(groups.values()) if name == ALL else [groups[name]]
            counts = whole if name == ALL else self.counts[name]
            words = sum(one.all_words for one in among)
            amount = sum(one.bytes for one in among)
            characters = sum(one.characters for one in among)
            single = sum(self.single[one.name] for one in among)
            words_there, pure = self.shares.get(name, (None, None))
            observed = int(np.count_nonzero(counts))
            out.append(
                {
                    "tokenizer": self.name,
                    "group": name,
                    "documents": sum(len(one.texts) for one in among),
                    "bytes": amount,
                    "characters": characters,
                    "words": words,
                    "tokens": tokens[name],
                    "bytes_per_token": _ratio(amount, tokens[name]),
                    "characters_per_token": _ratio(characters, tokens[name]),
                    "fertility": _ratio(tokens[name], words),
                    "strr": _ratio(single, words),
                    "parity": None if parallel is None or name == ALL else _ratio(tokens[name], tokens[parallel]),
                    "nsl": None if base is None else _ratio(tokens[name], base[name]),
                    "renyi_observed": renyi_efficiency(counts, alpha),
                    "renyi_nominal": renyi_efficiency(counts, alpha, size),
                    "lexicon_share": words_there,
                    "purity": pure,
                    "vocabulary_use": observed / size,
                    "v_observed": observed,
                    "v_nominal": size,
                    "spaced": all(one.spaced for one in among),
                    "word_definition": WORDS,
                    "leading_space": _leading(loaded),
                    "normalisation": loaded.normalisation,
                    "corpus": corpus,
                    "tokenizer_sha256": loaded.sha256,
                }
            )
        return out

    def compared(self, loaded: Loaded, groups: Mapping[str, _Group], parallel: str | None) -> Compared:
        costs = [int(self.counts[name].sum()) / max(1, len(group.texts)) for name, group in groups.items()]
        return Compared(
            name=self.name,
            path=loaded.path,
            sha256=loaded.sha256,
            vocabulary=loaded.vocabulary,
            normalisation=loaded.normalisation,
            leading_space=_leading(loaded),
            gini=None if parallel is None else gini(costs),
            megabytes_per_second=sum(group.bytes for group in groups.values()) / 1e6 / max(self.seconds, 1e-9),
        )


def _ratio(of: int, to: int) -> float | None:
    return of / to if to else None


def _leading(loaded: Loaded) -> str:
    return "the tokenizer's own" if loaded.puts_space else "one space before every word"


def _measure(
    name: str, loaded: Loaded, groups: Mapping[str, _Group], progress: Callable[[str, int, int], None]
) -> _Measured:
    size = loaded.vocabulary
    counts: dict[str, NDArray[np.int64]] = {}
    single: dict[str, int] = {}
    shares: dict[str, tuple[float | None, float | None]] = {}
    seconds = 0.0
    before = "" if loaded.puts_space else " "
    next(loaded.encode(["a"]))  # what is made on first use is not the tokenizer's speed
    for done, group in enumerate(groups.values()):
        progress(name, done, len(groups))
        counts[group.name] = np.zeros(size, np.int64)
        started = time.perf_counter()
        for ids, _ in loaded.encode(group.texts):
            counts[group.name] += np.bincount(ids, minlength=size)
        seconds += time.perf_counter() - started
        lengths = [n for _, n in loaded.encode(before + word for word in group.words)]
        of_word = np.concatenate([np.zeros(0, np.int64), *lengths])
        single[group.name] = int(group.word_counts[of_word == 1].sum())
        if group.lexicon is not None:
            ids = np.flatnonzero(counts[group.name])
            tokens = loaded.tokenizer.decode_batch([[int(i)] for i in ids if int(i) not in loaded.special_ids])
            shares[group.name] = group.lexicon.word_share(tokens), group.lexicon.pure_share(tokens)
    progress(name, len(groups), len(groups))
    return _Measured(name, counts, single, shares, seconds)
