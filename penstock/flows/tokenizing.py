"""The verbs around tokenizers as plain functions: what ``penstock tokenizer VERB`` does, without a terminal.

    from penstock.flows import train_tokenizer
    made = train_tokenizer(["web/*.jsonl", "books.parquet"], "tok", weight={"web": 0.7, "books": 0.3})
    made.tokenizer.vocabulary, made.files

Texts are datasets or runs of penstock, or files that sources read: ``text_column`` renames the column of files, several
are domains named as they are; ``domain_column``, ``text_unit``, ``format`` and ``split`` are those of
``tokenization.sampling.Texts``, where the split ``all`` reads every one.

Price: that of the verb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.tokenization.compare import Comparison
    from penstock.tokenization.loading import Loaded
    from penstock.tokenization.mixture_inference import MixtureEstimate
    from penstock.tokenization.prune import Pruned
    from penstock.tokenization.sampling import Sample, Texts

SPLITS = ("train", "validation", "test", "all")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TokenizerMade:
    """A tokenizer that was written.

    Attributes:
        tokenizer: as it is now.
        sample: the texts it was made from.
        files: paths or URLs that were written.
        pruned: of ``prune_tokenizer``, what was kept and why.
    """

    tokenizer: Loaded
    sample: Sample
    files: tuple[str, ...]
    pruned: Pruned | None = None


def _texts(
    data: Sequence[str],
    text_column: Sequence[str],
    domain_column: str | None,
    text_unit: str,
    format: str | None,
    split: str,
) -> Texts:
    from penstock.tokenization.sampling import Texts

    if split not in SPLITS:
        raise ConfigError(f"split: got {split!r}, allowed {', '.join(SPLITS)}; choose one")
    return Texts(
        paths=tuple(data),
        text_columns=tuple(text_column),
        domain_column=domain_column,
        text_unit=text_unit,
        format=format,
        split=None if split == "all" else split,
    )


def _sample(
    corpus: Texts, weight: Mapping[str, float], language: Mapping[str, float], sample_mb: float, seed: int
) -> Sample:
    from penstock.tokenization.sampling import sample

    budget = max(1, int(sample_mb * 1e6))
    return sample(corpus, budget=budget, domains=dict(weight), languages=dict(language), seed=seed)


def train_tokenizer(
    data: Sequence[str],
    out: str,
    vocabulary_size: int = 32_768,
    min_frequency: int = 2,
    digits: str = "left-to-right",
    special: Sequence[str] = (),
    weight: Mapping[str, float] | None = None,
    language_weight: Mapping[str, float] | None = None,
    sample_mb: float = 256.0,
    seed: int = 0,
    text_column: Sequence[str] = (),
    domain_column: str | None = None,
    text_unit: str = "file",
    format: str | None = None,
    split: str = "train",
) -> TokenizerMade:
    """Train a byte-level BPE tokenizer on a sample with the shares that weights say.

    Args:
        data: texts, see the head of the module.
        out: folder or URL for what is made.
        vocabulary_size: tokens, all bytes and special tokens among them.
        min_frequency: least count of a pair that is merged.
        digits: group digits by three from the left or the right: left-to-right, right-to-left.
        special: texts that become one token each.
        weight, language_weight: shares of domains and of languages; those not named are left out.
        sample_mb: UTF-8 megabytes of text to sample.
        seed: of the sample.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.tokenization.bpe import BPEConfig
    from penstock.tokenization.building import train_to

    config = BPEConfig(
        vocabulary_size=vocabulary_size,
        min_frequency=min_frequency,
        special=tuple(special),
        digits=cast(Any, digits.replace("-", "_")),
    )
    corpus = _texts(data, text_column, domain_column, text_unit, format, split)
    taken = _sample(corpus, weight or {}, language_weight or {}, sample_mb, seed)
    loaded, written = train_to(taken, config, out)
    return TokenizerMade(loaded, taken, tuple(written))


def extend_tokenizer(
    tokenizer: str,
    data: Sequence[str],
    out: str,
    vocabulary_size: int,
    min_frequency: int = 2,
    superbpe: bool = False,
    max_words: int | None = None,
    weight: Mapping[str, float] | None = None,
    language_weight: Mapping[str, float] | None = None,
    sample_mb: float = 256.0,
    seed: int = 0,
    text_column: Sequence[str] = (),
    domain_column: str | None = None,
    text_unit: str = "file",
    format: str | None = None,
    split: str = "train",
) -> TokenizerMade:
    """Add merges learned from new text to a byte-level BPE tokenizer; ids that there are stay.

    Args:
        tokenizer: a ``tokenizer.json``, or a folder with one.
        vocabulary_size: tokens afterwards, those there are among them.
        superbpe: let new merges join words: SuperBPE's second stage.
        max_words: with ``superbpe``, words of a token at most; 4 by default.

    Other arguments as of ``train_tokenizer``.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.tokenization.building import extend_to
    from penstock.tokenization.extend import ExtendConfig
    from penstock.tokenization.loading import load
    from penstock.tokenization.superbpe import SuperBPEConfig

    if max_words is not None and not superbpe:
        raise ConfigError("max_words: bounds tokens that join words; add --superbpe (superbpe=True)")
    config: ExtendConfig | SuperBPEConfig = ExtendConfig(vocabulary_size=vocabulary_size, min_frequency=min_frequency)
    if superbpe:
        words = SuperBPEConfig.max_words if max_words is None else max_words
        config = SuperBPEConfig(vocabulary_size=vocabulary_size, min_frequency=min_frequency, max_words=words)
    loaded = load(tokenizer)
    corpus = _texts(data, text_column, domain_column, text_unit, format, split)
    taken = _sample(corpus, weight or {}, language_weight or {}, sample_mb, seed)
    extended, written = extend_to(loaded, taken, config, out)
    return TokenizerMade(extended, taken, tuple(written))


def prune_tokenizer(
    tokenizer: str,
    data: Sequence[str],
    out: str,
    min_count: int = 1,
    size: int | None = None,
    weight: Mapping[str, float] | None = None,
    language_weight: Mapping[str, float] | None = None,
    sample_mb: float = 256.0,
    seed: int = 0,
    text_column: Sequence[str] = (),
    domain_column: str | None = None,
    text_unit: str = "file",
    format: str | None = None,
    split: str = "train",
) -> TokenizerMade:
    """Take tokens that a sample does not use out of a BPE tokenizer; every text still decodes to itself.

    Args:
        tokenizer: a ``tokenizer.json``, or a folder with one.
        min_count: drop tokens that the sample uses less often.
        size: tokens to keep at most, the most used.

    Other arguments as of ``train_tokenizer``. ``TokenizerMade.tokenizer`` is the one that was pruned.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.tokenization.building import prune_to
    from penstock.tokenization.loading import load

    loaded = load(tokenizer)
    corpus = _texts(data, text_column, domain_column, text_unit, format, split)
    taken = _sample(corpus, weight or {}, language_weight or {}, sample_mb, seed)
    found, written = prune_to(loaded, taken, out, min_count=min_count, size=size)
    return TokenizerMade(loaded, taken, tuple(written), found)


def compare_tokenizers(
    tokenizers: Mapping[str, str],
    data: Sequence[str],
    out: str | None = None,
    by: str = "domain",
    parallel: str | None = None,
    reference: str | None = None,
    lexicon: Mapping[str, str] | None = None,
    alpha: float = 2.5,
    sample_mb: float | None = None,
    seed: int = 0,
    text_column: Sequence[str] = (),
    domain_column: str | None = None,
    text_unit: str = "file",
    format: str | None = None,
    split: str = "all",
    *,
    progress: Progress | None = None,
) -> tuple[Comparison, list[str]]:
    """Measure tokenizers on the same texts: the figures, and the files that were written.

    Args:
        tokenizers: name to ``tokenizer.json`` or folder.
        out: folder or URL for the JSON and the page; None writes nothing.
        by: group by domain or language.
        parallel: the groups are translations: measure parity against this one.
        reference: tokenizer that NSL is measured against.
        lexicon: group, or ``all``, to a file of words for %TR and %Pure.
        alpha: order of Rényi entropy.
        sample_mb: megabytes of each group at most.

    Other arguments as of ``train_tokenizer``.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.report.tokenizers import page
    from penstock.tokenization import building
    from penstock.tokenization.compare import compare
    from penstock.tokenization.measures import Lexicon

    found = compare(
        tokenizers,
        _texts(data, text_column, domain_column, text_unit, format, split),
        by=by,
        parallel=parallel,
        reference=reference,
        lexicons={name: Lexicon.read(path) for name, path in (lexicon or {}).items()},
        alpha=alpha,
        limit=None if sample_mb is None else max(1, int(sample_mb * 1e6)),
        seed=seed,
        progress=progress,
    )
    if out is None:
        return found, []
    files = {building.COMPARISON: building.to_json(found.to_json()), building.PAGE: page(found).encode()}
    return found, building.write_files(out, files)


def infer_tokenizer_mixture(
    tokenizer: str,
    data: Sequence[str],
    out: str | None = None,
    by: str = "domain",
    category: Sequence[str] = (),
    merges: int = 300,
    unit: str = "pairs",
    sample_mb: float = 10.0,
    seed: int = 0,
    text_column: Sequence[str] = (),
    domain_column: str | None = None,
    text_unit: str = "file",
    format: str | None = None,
    split: str = "all",
    *,
    progress: Progress | None = None,
) -> tuple[MixtureEstimate, list[str]]:
    """Estimate what a BPE tokenizer was trained on (arXiv 2407.16607): the shares, and the files that were written.

    Args:
        tokenizer: a ``tokenizer.json``, or a folder with one.
        out: folder or URL for the JSON; None writes nothing.
        by: a category is a domain or a language.
        category: those to tell apart; all others are one, ``other``. None named: each one.
        merges: to explain, from the first.
        unit: what sizes are counted in: pairs or bytes.
        sample_mb: megabytes of each category at most.

    Other arguments as of ``train_tokenizer``.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.tokenization import building
    from penstock.tokenization.loading import load
    from penstock.tokenization.mixture_inference import categories_of, infer_mixture
    from penstock.tokenization.sampling import grouped

    loaded = load(tokenizer)
    corpus = _texts(data, text_column, domain_column, text_unit, format, split)
    tables, digest = grouped(corpus, by, limit=max(1, int(sample_mb * 1e6)), seed=seed)
    texts = {name: table["text"].to_pylist() for name, table in tables.items()}
    found = infer_mixture(
        loaded, categories_of(texts, category), merges=merges, unit=cast(Any, unit), progress=progress
    )  # fmt: skip
    if out is None:
        return found, []
    facts = {"tokenizer": loaded.sha256, "corpus": digest, "by": by, "sample_mb": sample_mb, "seed": seed}
    return found, building.write_files(out, {building.MIXTURE: building.to_json(facts | found.to_json())})
