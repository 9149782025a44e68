"""What a report shows: one frozen tree of values, written and read as JSON.

The renderer sees nothing else, so a report can be made again, years later, from `record.json` alone,
without the datasets. Every docstring here says where its numbers come from and in which unit they are:
whoever fills the record needs no look at the template. Rows, documents, tokens, bytes and steps are
exact integers; losses are nats per token; seconds are wall time; shares are computed by the renderer.

Any part may be missing (None, or an empty tuple): its section then says so in one line.

Price: linear in what is held. A typical record is 0.1 to 0.5 MB of JSON, bounded by the caller's choice of
samples and logged steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from penstock.errors import ConfigError, DatasetError
from penstock.report.plain import from_plain, to_plain
from penstock.report.record_generation import AskedRecord as AskedRecord
from penstock.report.record_generation import GenerationRecord as GenerationRecord
from penstock.report.record_generation import MadeMap as MadeMap
from penstock.report.record_generation import MadeSample as MadeSample
from penstock.report.record_generation import TransformRow as TransformRow
from penstock.report.record_generation import VariantsRecord as VariantsRecord
from penstock.report.record_generation import VoyageRecord as VoyageRecord
from penstock.report.record_generation import VoyageRound as VoyageRound
from penstock.report.record_policy import AnswerSample as AnswerSample
from penstock.report.record_policy import PassRecord as PassRecord
from penstock.report.record_policy import PolicyRecord as PolicyRecord
from penstock.report.record_policy import TransformReward as TransformReward
from penstock.report.record_refresh import CoverageRow as CoverageRow
from penstock.report.record_refresh import RefreshRecord as RefreshRecord
from penstock.report.record_selection import Candidate as Candidate
from penstock.report.record_selection import CriterionChoice as CriterionChoice
from penstock.report.record_selection import EdgeDocument as EdgeDocument
from penstock.report.record_selection import ProxyPoint as ProxyPoint
from penstock.report.record_selection import SearchRecord as SearchRecord
from penstock.report.record_selection import SelectionRecord as SelectionRecord
from penstock.report.record_selection import ThetaDomain as ThetaDomain
from penstock.report.record_training import Curve as Curve
from penstock.report.record_training import MixtureRecord as MixtureRecord
from penstock.report.record_training import SeenDocument as SeenDocument
from penstock.report.record_training import SeenRecord as SeenRecord
from penstock.report.record_training import TrainingRecord as TrainingRecord

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the run happened: taken once, at its start."""

    system: str  # platform.platform()
    processor: str  # model name of the CPU
    cores: int  # cores this process may use (len(os.sched_getaffinity(0)) where there is one)
    memory_bytes: int  # physical memory, or the limit of the control group when that is lower
    accelerator: str | None = None  # name of the training device when it is not the CPU


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was made in the end; the summary line at the head of the report is written from it.

    ``rows``, ``bytes`` and ``tokens`` are those of the last round's published dataset, from its manifest:
    rows before copies are counted, UTF-8 bytes of text, tokens under the run's tokenizer (None without one).
    ``domains`` is the number of distinct domains in it. ``rounds`` counts selections made, at least 1.
    ``final_loss`` is the last validation loss of the last training round, averaged over domains with their
    predicted tokens as weights, in nats per token; None when nothing was trained.
    """

    rows: int
    bytes: int
    domains: int
    rounds: int = 1
    tokens: int | None = None
    final_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One source of the recipe. ``files`` names the first few files read; ``files_total`` counts all of them.

    ``rows`` and ``bytes`` are what the source yielded: rows before any filter, UTF-8 bytes of their text.
    """

    name: str
    kind: str  # the recipe's word: files, environment, procedural, …
    location: str  # the glob, folder or URL of the recipe
    files: tuple[str, ...]
    files_total: int
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A dataset that a step read: its name and the digest it had when it was read."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step of the run and the dataset it made, in the order of the run.

    The four row counts are ``counts`` of the dataset's manifest and satisfy
    ``rows_in + rows_made == rows_kept + rows_dropped``; the report warns where they do not. A skipped step
    carries the counts of the dataset that was found. ``tokens`` is the manifest's count where the step's table
    has one. ``seconds`` is the wall time of the step's last build, in this run or before, ``budget_seconds`` the
    recipe's budget. ``key`` and ``digest`` are the full hexadecimal strings; the report shortens them.
    ``parameters`` is the step's resolved part of the recipe, as JSON values. ``parents`` may name datasets made by
    other runs.
    """

    name: str
    status: Literal["run", "skipped"]
    rows_in: int
    rows_made: int
    rows_kept: int
    rows_dropped: int
    seconds: float
    key: str
    digest: str
    tokens: int | None = None
    budget_seconds: float | None = None
    parents: tuple[Parent, ...] = ()
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def balance(self) -> int:
        """Rows that are unaccounted for: 0 when the identity holds."""
        return self.rows_in + self.rows_made - self.rows_kept - self.rows_dropped


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One piece of row work on the way of the document rows from the sources to the last dataset.

    Stages stand in the order in which rows meet them. Sources come first, with ``rows_in`` the rows of the
    stages above it and ``rows_made`` its own, so that ``rows_in`` of each stage is ``rows_kept`` of the one
    before. Annotators that drop nothing may be left out. ``reasons`` counts dropped rows by reason, from the
    statistics of the step that ran the work: ``rows_in + rows_made == rows_kept + sum(reasons)``.
    """

    name: str  # name of the row work, or of the source
    step: str  # name of the step that ran it
    rows_in: int
    rows_made: int
    rows_kept: int
    reasons: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rows_dropped(self) -> int:
        return sum(self.reasons.values())

    @property
    def balance(self) -> int:
        """Rows that are unaccounted for: 0 when the identity holds."""
        return self.rows_in + self.rows_made - self.rows_kept - self.rows_dropped


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Rows, UTF-8 bytes of text, and tokens (None before a tokenizer has seen them). Copies count each time."""

    rows: int
    bytes: int
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class DomainPoint:
    """What each domain held at one point of the run.

    The usual points are "sources", "cleaned", "selected, round 1" and "selected, round 2", in this order, each
    from the statistics by domain of the dataset that stands there. A domain without rows may be left out.
    """

    name: str
    domains: Mapping[str, Amount]


@dataclass(frozen=True, kw_only=True)
class DistributionGroup:
    """Rows of one domain in each bin, those the last selection took and those it did not."""

    domain: str
    selected: tuple[int, ...]
    not_selected: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A histogram of one number over the cleaned documents of the train split, by domain.

    Bin i holds values in ``[edges[i], edges[i + 1])``, the last bin its upper edge too. Made from the mergeable
    integer histograms of the run, never from rows. With ``scale`` "log" all edges are positive.
    """

    title: str  # "Length", "Quality score"
    unit: str  # "bytes", "" for a bare score
    scale: Literal["log", "linear"]
    edges: tuple[float, ...]
    groups: tuple[DistributionGroup, ...]

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or any(not a < b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ConfigError(f"edges of {self.title!r}: got {self.edges}, allowed two or more rising numbers")
        if not all(map(math.isfinite, self.edges)) or (self.scale == "log" and self.edges[0] <= 0):
            raise ConfigError(
                f"edges of {self.title!r}: got {self.edges}, allowed finite numbers, above 0 on a log scale"
            )
        for group in self.groups:
            if not len(group.selected) == len(group.not_selected) == len(self.edges) - 1:
                raise ConfigError(
                    f"counts of {self.title!r} for domain {group.domain!r}: got {len(group.selected)} and "
                    f"{len(group.not_selected)}, allowed {len(self.edges) - 1}; give one count a bin"
                )


@dataclass(frozen=True, kw_only=True)
class KeptSample:
    """A row of the last dataset, drawn by the smallest hash of its id. ``text`` may be its beginning only."""

    doc_id: str
    domain: str
    source: str
    text: str
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by name, without "score."
    copies: int = 1


@dataclass(frozen=True, kw_only=True)
class DroppedSample:
    """A row of a ``dropped`` table. ``text`` is what that table kept of it: nothing, a masked sample, or all."""

    doc_id: str
    domain: str | None
    step: str
    reason: str
    detail: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizerDomain:
    """One domain under the tokenizer: exact totals over its cleaned rows.

    ``words`` are runs of non-space characters; None where the script writes no spaces.
    """

    domain: str
    bytes: int
    tokens: int
    words: int | None = None

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else math.nan

    @property
    def tokens_per_word(self) -> float | None:
        return self.tokens / self.words if self.words else None


@dataclass(frozen=True, kw_only=True)
class LongToken:
    """An entry of the vocabulary. ``text`` is its bytes as UTF-8, invalid ones as ``\\xNN``; ``bytes`` counts them."""

    id: int
    text: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer of the run. ``trained_on_bytes`` is the size of the sample it was fitted on, None if not here."""

    kind: str  # "byte-level BPE"
    vocabulary: int  # number of token ids, special ones included
    domains: tuple[TokenizerDomain, ...]
    longest: tuple[LongToken, ...] = ()  # longest first
    trained_on_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class DomainChange:
    """One domain before and after.

    Tokens are those selected, copies counted. ``excess_loss`` is the token-weighted mean of ``excess_loss`` in
    the earlier round's ``signals`` (nats per token; None where training saw none of the domain).
    ``copies_up`` and ``copies_down`` count documents, among all candidates, whose number of copies rose or fell.
    Validation losses are the last of each round, None when not measured.
    """

    domain: str
    tokens_before: int
    tokens_after: int
    copies_up: int
    copies_down: int
    excess_loss: float | None = None
    validation_before: float | None = None
    validation_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class MovedDocument:
    """A document among those whose number of copies changed most, ties by hash of its id.

    ``excess_loss`` is its token-weighted mean in the earlier round's ``signals``, None when it was not seen.
    ``text`` is the beginning of the document.
    """

    doc_id: str
    domain: str
    copies_before: int
    copies_after: int
    text: str
    excess_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class RoundChange:
    """What a later selection, made from training signals, changed against the earlier one."""

    before: int  # number of the earlier round
    after: int
    domains: tuple[DomainChange, ...]
    moved: tuple[MovedDocument, ...] = ()  # largest change first


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """A group that k-means found over embeddings, from the statistics of the step ``grouped``.

    ``similarity`` is the mean cosine of its documents to its centroid. ``terms`` set it apart, most telling first; none
    for documents without a vector.
    """

    name: str
    rows: int
    bytes: int
    similarity: float
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MapRecord:
    """Some documents as points in the plane, by their embeddings; the table ``map`` of the step ``groups``.

    One entry a point in each field: coordinates in [-1, 1], the name of its group, its domain before grouping.
    """

    method: str  # "pca" or "tsne"
    x: tuple[float, ...]
    y: tuple[float, ...]
    groups: tuple[str, ...]
    domains: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = [len(self.x), len(self.y), len(self.groups), len(self.domains)]
        if len(set(sizes)) != 1:
            raise ConfigError(f"map: got {sizes} coordinates, groups and domains, allowed equally many")


@dataclass(frozen=True, kw_only=True)
class ContaminatedSample:
    """A benchmark item found in a document. ``text`` is the match, masked; None where the recipe keeps no text."""

    item: str
    doc_id: str
    field: str  # question, answer or question+answer
    kind: str  # ngram, whole or near
    coverage: float  # share of the field's n-grams; the similarity of a near-duplicate
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class ContaminationRecord:
    """What was found of one benchmark, from the statistics of the step ``decontaminated``.

    ``items`` are all of it, ``checkable`` those long enough to look for, ``found`` those in a document. ``coverage`` is
    the mean over found items of the best match of each. ``documents`` had a match, ``dropped`` went for it.
    """

    benchmark: str
    items: int
    checkable: int
    found: int
    coverage: float
    documents: int
    dropped: int
    samples: tuple[ContaminatedSample, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything the report of one run shows.

    ``started`` is ISO 8601 in UTC. ``seconds`` is the wall time of the whole run, ``peak_memory_bytes`` the
    largest resident set of the run's process and its children together, as sampled. ``versions`` are those of
    Python, penstock and the libraries that decide its output. ``warnings`` are sentences gathered while it ran;
    the renderer adds its own where accounts do not balance.
    """

    recipe: str
    seed: int
    started: str
    seconds: float
    peak_memory_bytes: int
    machine: Machine
    outcome: Outcome
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sources: tuple[SourceRecord, ...] = ()
    made: GenerationRecord | None = None
    asked: tuple[AskedRecord, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    stages: tuple[Stage, ...] = ()
    domains: tuple[DomainPoint, ...] = ()
    groups: tuple[GroupRecord, ...] = ()
    map: MapRecord | None = None
    distributions: tuple[Distribution, ...] = ()
    selections: tuple[SelectionRecord, ...] = ()  # one a round, in order
    search: SearchRecord | None = None
    kept: tuple[KeptSample, ...] = ()
    dropped: tuple[DroppedSample, ...] = ()
    contamination: tuple[ContaminationRecord, ...] = ()
    tokenizer: TokenizerRecord | None = None
    training: tuple[TrainingRecord, ...] = ()  # one a round, in order
    beside: tuple[TrainingRecord, ...] = ()  # trained beside the first round's
    policy: PolicyRecord | None = None
    changes: tuple[RoundChange, ...] = ()  # round 1 to 2, 2 to 3, …
    refresh: RefreshRecord | None = None  # of a folder of rounds; the rest is of its last one
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """ASCII JSON. Floats that are not finite become the strings "nan", "inf" and "-inf"."""
        return json.dumps({"format": FORMAT, **to_plain(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """The record that ``to_json`` wrote.

        Raises:
            DatasetError: not JSON, another format, or a value that has the wrong name or type; the place is named.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise DatasetError(f"run record: not JSON ({error}); run the recipe again to write it anew") from error
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise DatasetError(f"run record: not of format {FORMAT}; run the recipe again to write it anew")
        read: RunRecord = from_plain(cls, value, "record")
        return read
