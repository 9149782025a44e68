"""The sections of a recipe: frozen models, one a key.

Row work that a recipe configures (filters, tokenizer, loop) is its own frozen dataclass; a section nests it, so a
parameter is declared, bounded and documented in one place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from penstock.selectors.blocklist import UrlBlocklist, WordBlocklist
from penstock.selectors.c4 import C4Rules
from penstock.selectors.fineweb import FineWebQuality
from penstock.selectors.gopher import GopherQuality, GopherRepetition
from penstock.selectors.language import LanguageFilter
from penstock.selectors.licenses import LicenseFilter
from penstock.selectors.minhash import MinHash
from penstock.selectors.pii import PiiRules
from penstock.selectors.proxies.config import SearchConfig
from penstock.selectors.refinedweb import RefinedWebRules
from penstock.selectors.repair import RepairEncoding
from penstock.selectors.repeated import RepeatedLines, RepeatedParagraphs
from penstock.selectors.scorers.base import Direction, declared
from penstock.selectors.scorers.config import AskLLMConfig, ClassifierConfig, LmConfig, NamedClassifier, Ready
from penstock.selectors.scorers.heuristic import HeuristicScore
from penstock.selectors.scorers.perplexity import PerplexityModel, PerplexityScore
from penstock.selectors.semantic import SemanticDuplicates
from penstock.selectors.substring import RepeatedSubstrings
from penstock.selectors.survivor import check_rule
from penstock.sources.environment import EnvironmentSource
from penstock.sources.files import FileEntry, entries_of
from penstock.sources.hub import HubEntry
from penstock.sources.procedural import ProceduralSource


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _data_sets(value: Any) -> Any:
    """`hub: org/name`, a list of names and full entries all mean a list of entries."""
    value = [value] if isinstance(value, (str, dict)) else value
    if isinstance(value, (list, tuple)):
        return [{"dataset": v} if isinstance(v, str) else v for v in value]
    return value


class Source(Section):
    """Where documents come from. `environment` stands in only while no `files` and no `hub` are named."""

    files: tuple[FileEntry, ...] = ()
    """Your own files: a path, a list of paths, or entries with options."""
    hub: tuple[HubEntry, ...] = ()
    """Data sets of the Hugging Face Hub, or folders in its layout: a name, a list of names, or entries with options."""
    environment: EnvironmentSource | None = None
    """This Python installation as a corpus; read only while `files` and `hub` are empty."""
    procedural: ProceduralSource | None = None
    """Problems with verified answers, made on the spot."""
    on_bad_file: Literal["drop", "fail"] = "fail"
    """What a truncated or corrupt file does: count a drop and go on, or stop the run."""
    max_document_mb: Annotated[float, Field(gt=0)] = 64.0
    """Longer documents are dropped with the reason `too_large`."""

    _paths = pydantic.field_validator("files", mode="before")(entries_of)
    _names = pydantic.field_validator("hub", mode="before")(_data_sets)

    @pydantic.model_validator(mode="after")
    def _some(self) -> Source:
        if not self.files and not self.hub and self.environment is None and self.procedural is None:
            raise ValueError(
                "got no source, allowed files, hub, environment and procedural; for a start: environment: {}"
            )
        return self


class Filters(Section):
    """Row filters in the order they run; `null` switches one off."""

    repair: RepairEncoding | None = None
    """Mends text that was decoded wrongly, before all else; `{}` for mojibake alone."""
    urls: UrlBlocklist | None = None
    """Documents by their URL: lists of domains, URLs and words, as files."""
    licenses: LicenseFilter | None = None
    """Documents by their licence: SPDX identifiers to allow or to deny."""
    gopher_quality: GopherQuality | None = GopherQuality()
    gopher_repetition: GopherRepetition | None = GopherRepetition()
    language: LanguageFilter | None = None
    refinedweb: RefinedWebRules | None = None
    """RefinedWeb's line-wise corrections, which edit text; `{}` for the published ones."""
    c4: C4Rules | None = None
    """C4's rules for lines, which edit text, and for documents; `{}` for the published ones."""
    fineweb: FineWebQuality | None = None
    """FineWeb's rules for the lines of a document; `{}` for the published ones."""
    words: WordBlocklist | None = None
    """Documents by words of their text: lists as files."""
    pii: PiiRules | None = None
    """Addresses, numbers and secrets to mask or to drop documents for; `{}` masks. No domain is exempt."""
    exempt: tuple[str, ...] = ()
    """Domains that all rules for prose let pass and leave as they are: `gopher_*`, `language`, `refinedweb`, `c4`,
    `fineweb` and `words`. Code and problems break them by nature."""


class Near(Section):
    """Texts that share most of their runs of words are near-duplicates (MinHash over 14 bands of 8 by default)."""

    action: Literal["drop", "tag"] = "drop"
    """`tag` keeps all of them and names their cluster; a cluster still lies in one split."""
    ngram: int = MinHash.ngram
    """Words of a run; every letter of a script without spaces is one."""
    bands: int = MinHash.bands
    """Keys of a document; more find texts less alike."""
    rows: int = MinHash.rows
    """Permutations of a key; more leave out texts less alike."""
    min_shingles: int = MinHash.min_shingles
    """Documents of fewer runs are compared as a whole alone."""
    seed: int = MinHash.seed
    """Of the permutations; runs that name each other in `history` must share it."""

    @property
    def minhash(self) -> MinHash:
        return MinHash(**self.model_dump(exclude={"action"}))

    @pydantic.model_validator(mode="after")
    def _sized(self) -> Near:
        _ = self.minhash
        return self


class Deduplicate(Section):
    """What counts as a duplicate beside equal texts, and which one stays; `null` switches a kind off."""

    near: Near | None = None
    """Near-duplicates; `{}` looks for them with the usual settings."""
    survivor: str = "first"
    """Which of a cluster stays: `first` (smallest id), `longest`, or a score column such as `score.language`."""
    history: tuple[str, ...] = ()
    """Folders or URLs of earlier runs, or of their `deduplicated` datasets: what they had is dropped here."""

    @pydantic.field_validator("history", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("survivor")
    @classmethod
    def _known(cls, value: str) -> str:
        check_rule(value)
        return value

    lines: RepeatedLines | None = None
    """Lines that the corpus repeats; `{}` leaves the first of each."""
    paragraphs: RepeatedParagraphs | None = None
    """Paragraphs that the corpus repeats."""
    substrings: RepeatedSubstrings | None = None
    """Passages that the corpus repeats, wherever they stand in a document."""
    min_characters: Annotated[int, Field(ge=1)] = 100
    """Documents that cutting lines, paragraphs and passages leaves shorter are dropped."""
    semantic: SemanticDuplicates | None = None
    """Documents of one group that mean the same (SemDeDup); needs `embed` and `group`."""


class Benchmark(Section):
    """A benchmark that must not be in the corpus: files whose records have a question, and maybe an answer."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    files: tuple[FileEntry, ...]
    question: str = "question"
    """Column of the question, the prompt or the whole item."""
    answer: str | None = None
    """Column of the answer, if there is one of text."""

    _paths = pydantic.field_validator("files", mode="before")(entries_of)


class Decontamination(Section):
    """Benchmark items found in documents, by n-grams and near-duplicates."""

    benchmarks: Annotated[tuple[Benchmark, ...], Field(min_length=1)]
    policy: Literal["drop", "excise", "report"] = "drop"
    """What a hit does: drop the document, cut it out with what is around it, or nothing but being recorded."""
    ngram: int = 13
    """Words in a row that an item and a document share."""
    min_words: int = 5
    """Shorter questions than `ngram` are matched whole, those shorter than this not at all."""
    common_benchmarks: int = 3
    """N-grams in this many benchmarks are common phrases and count for nothing."""
    max_matches: int = 10
    """N-grams in more different items than this are a template and count for nothing."""
    boilerplate: tuple[str, ...] = ()
    """Texts whose n-grams count for nothing."""
    near: float | None = 0.8
    """Least Jaccard similarity of words of a near-duplicate; `null` looks for none."""
    min_coverage: float = 0.0
    """Share of an item's n-grams that a document must have before anything is done about it."""
    window: int = 200
    """`excise`: characters cut on each side of a hit."""
    min_piece: int = 200
    """`excise`: shorter pieces between cuts go too."""
    max_cuts: int = 10
    """`excise`: documents with more cuts are dropped."""


class Splits(Section):
    """Shares held out, by hash of the content, before anything is fitted."""

    validation: float = 0.02
    test: float = 0.01


class TokenizerSection(Section):
    """A byte-level BPE trained on a sample of the train split, or bytes as they are."""

    kind: Literal["bpe", "bytes"] = "bpe"
    """`bytes` makes every byte a token: nothing is trained, and the next four keys have nothing to say."""
    vocabulary_size: int = 4096
    min_frequency: int = 2
    sample_mb: Annotated[float, Field(gt=0)] = 8.0
    """UTF-8 megabytes of text sampled for training."""
    digits: Literal["left_to_right", "right_to_left"] = "left_to_right"
    """From which end of a number its digits are grouped by three."""
    special: tuple[str, ...] | None = None
    """Texts that become one token each in conversations; `null` takes the markers of the sources' chat templates."""

    @pydantic.model_validator(mode="after")
    def _of_kind(self) -> TokenizerSection:
        trained = {name: getattr(self, name) for name in ("vocabulary_size", "min_frequency", "sample_mb", "digits")}
        given = [name for name, value in trained.items() if value != type(self).model_fields[name].default]
        if self.kind == "bytes" and given:
            raise ValueError(f"got {given[0]} for kind: bytes, which trains nothing; leave it out, or set kind: bpe")
        return self


class QualitySet(Section):
    """One side of the quality classifier's training set: domains of the corpus, or a source of its own."""

    domains: tuple[str, ...] = ()
    """Domains of the corpus; `*` is all of them."""
    files: tuple[FileEntry, ...] = ()
    environment: EnvironmentSource | None = None

    _paths = pydantic.field_validator("files", mode="before")(entries_of)

    @pydantic.model_validator(mode="after")
    def _some(self) -> QualitySet:
        if not self.domains and not self.files and self.environment is None:
            raise ValueError(
                "got an empty set, allowed domains, files or environment; for the whole corpus: domains: ['*']"
            )
        return self


class Quality(Section):
    """A classifier trained from a positive and a negative set, or one that is trained already."""

    positive: QualitySet | None = None
    negative: QualitySet = QualitySet(domains=("*",))
    rows_per_side: Annotated[int, Field(ge=20)] = 5000
    """Documents sampled per side."""
    model: str | None = None
    """Folder that `penstock quality train` wrote, in place of `positive` and `negative`."""

    @pydantic.model_validator(mode="after")
    def _one(self) -> Quality:
        if (self.positive is None) == (self.model is None):
            given = "neither positive nor model" if self.model is None else "both positive and model"
            raise ValueError(f"got {given}, allowed one: a set to learn from, or the folder of a trained model")
        return self


class Perplexity(Section):
    """An n-gram model of a reference set; lower is better."""

    reference: QualitySet
    """Documents of the kind you want; better not the corpus itself, which the model would know."""
    unit: Literal["byte", "word"] = "byte"
    order: int | None = None
    """Symbols of the longest n-gram; by default 6 bytes or 3 words."""
    prefix_bytes: int = 8192
    """Bytes of a text that count."""

    @property
    def model(self) -> PerplexityModel:
        return PerplexityModel(**self.model_dump(exclude={"reference"}))

    @pydantic.model_validator(mode="after")
    def _sized(self) -> Perplexity:
        _ = self.model
        return self


# classifiers share the names of columns with these, whose scorers are other sections or steps
_TAKEN = ("language", "quality", "group_similarity", "excess_loss", "heuristic", "perplexity", "askllm")


class Scores(Section):
    """Scores of every document beside `quality` and `language`; each is a criterion that `select` may name."""

    heuristic: HeuristicScore | None = None
    """How much a text looks like running prose; `{}` for the usual curves."""
    perplexity: Perplexity | None = None
    """How little a text surprises who knows a reference set."""
    askllm: AskLLMConfig | None = None
    """A language model's probability that a text is worth learning from."""
    classifier: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], ClassifierConfig] = {}
    """Sequence classifiers of Hugging Face; the name is the criterion's."""
    lm: LmConfig | None = None
    """Scores of one forward pass of a causal language model: `lm_loss`, `lm_entropy`, ..."""

    @pydantic.model_validator(mode="after")
    def _named(self) -> Scores:
        for name in self.classifier:
            if name in _TAKEN or name.startswith("lm_"):
                raise ValueError(
                    f"classifier.{name}: another scorer makes a criterion of this name, allowed any other; rename it"
                )
        return self

    def settings(self) -> tuple[Any, ...]:
        """Those that need no fit, in the order they run: see ``penstock.selectors.scorers.config``."""
        ready = () if self.heuristic is None else (Ready(of=self.heuristic, libraries=("zstandard",)),)
        models = tuple(one for one in (self.askllm, self.lm) if one is not None)
        return (*ready, *(NamedClassifier(criterion=n, of=c) for n, c in sorted(self.classifier.items())), *models)

    def directions(self) -> dict[str, Direction]:
        """Criterion to the end of it that is good, of all that are made here."""
        return declared((*self.settings(), *(() if self.perplexity is None else (PerplexityScore,))))

    def undirected(self) -> tuple[str, ...]:
        """Criteria made here of which no end is good by itself."""
        known = self.directions()
        columns = () if self.lm is None else self.lm.columns
        return tuple(name for name in columns if name not in known)


class Criterion(Section):
    """One score of the selection and how much it weighs."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    direction: Literal["higher", "lower"] | None = None
    """Which end of the score is wanted; `null` is the one that its scorer declares."""


class Theta(Section):
    """QuaDMix parameters of one domain; what is left out is as in `select`."""

    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Criterion to weight; the criteria not named weigh 0."""
    lam: float | None = None
    omega: float | None = None
    eta: float | None = None
    eps: float | None = None
    multiplier: Annotated[float, Field(gt=0)] | None = None
    """Factor of the expected copies, beside QuaDMix's own parameters; 1 by default. With `target_tokens` it moves the
    domain's share alone."""


class Select(Section):
    """QuaDMix sampling with given parameters (arXiv 2504.16511)."""

    criteria: dict[str, Criterion] = {"quality": Criterion()}
    """Score name (without `score.`) to its weight and direction."""
    lam: float = 20.0
    """Steepness: how sharply copies fall with the rank."""
    omega: float = 0.6
    """Rank (token-weighted share of the domain, best first) up to which documents are taken."""
    eta: float = 1.0
    """Scaling: exponent of the sampling value, or its factor."""
    eps: float = 0.0
    """Expected copies of every document, whatever its rank."""
    eta_mode: Literal["exponent", "product"] = "exponent"
    normalizer_scope: Literal["global", "domain"] = "global"
    rank_at: Literal["inclusive", "midpoint", "exclusive"] = "inclusive"
    lam_max: float = 1000.0
    omega_max: float = 1.0
    """The paper's box ends at 0.1, which suits corpora of hundreds of billions of tokens."""
    eps_max: float = 1.0
    domains: dict[str, Theta] = {}
    """Parameters of single domains."""
    target_tokens: Annotated[int, Field(ge=1)] | None = None
    """Scale the expected copies to this many training tokens."""
    copy_cap: Annotated[float, Field(gt=0)] | None = None
    """Most expected copies of one document."""
    search: SearchConfig | None = None
    """Looks for weights, `lam`, `omega`, `eta` and `eps` of every domain by small models; those given are not used."""

    @pydantic.model_validator(mode="after")
    def _named(self) -> Select:
        for domain, theta in self.domains.items():
            unknown = set(theta.weights or ()) - set(self.criteria)
            if unknown:
                raise ValueError(
                    f"domains.{domain}.weights: got {', '.join(sorted(unknown))}, allowed {', '.join(self.criteria)}"
                )
        return self


class Feedback(Section):
    """From the second round on: what training saw of a document joins the selection as a criterion."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    direction: Literal["higher", "lower"] = "higher"
    """`higher` takes more of what the model has not learned yet (large excess loss), `lower` more of what it has."""


class Sequences(Section):
    """Packing into training sequences."""

    length: Annotated[int, Field(ge=8, le=1 << 20)] = 256
    tail: Literal["pad", "cut"] = "pad"
    """Last, partial sequence of a domain: padded, or cut and counted."""
    min_segment: Annotated[int, Field(ge=1)] = 1
    """Shorter pieces of a document at a sequence border are cut and counted."""


class Card(Section):
    """What the README and croissant.json of the published dataset say beside its numbers."""

    license: Annotated[str, Field(pattern=r"^(https?://\S+|[A-Za-z0-9][A-Za-z0-9.+-]*)$")] | None = None
    """SPDX identifier (`Apache-2.0`, `CC-BY-4.0`) or the address of a licence."""
    description: str | None = None
    """What it is, for whom; Markdown."""
    citation: str | None = None
    """How to cite it, preferably BibTeX."""
    homepage: Annotated[str, Field(pattern=r"^https?://[^\s<>]+$")] | None = None
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] = ()
    """Languages of the texts, by ISO 639 code: `en`, `de`."""

    def said(self) -> dict[str, Any]:
        """What was given, as JSON values."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value}


class Budgets(Section):
    """Seconds a step may take; shown beside what it took, not enforced."""

    generated: float | None = None
    transformed: float | None = None
    documents: float | None = None
    deduplicated: float | None = None
    trimmed: float | None = None
    benchmarks: float | None = None
    decontaminated: float | None = None
    embedder: float | None = None
    embedded: float | None = None
    groups: float | None = None
    grouped: float | None = None
    tokenizer: float | None = None
    quality: float | None = None
    perplexity: float | None = None
    scored: float | None = None
    search: float | None = None
    selection: float | None = None
    dataset: float | None = None
    sequences: float | None = None
    model: float | None = None
    policy: float | None = None
