"""Rows of a pool that are like a target set, by several methods beside each other: what ``penstock select`` does.

root/
  run.json                      whose folder this is
  target/ pool/                 what was read
  embedder/ embedded/           where a method reads vectors
  scores-bm25/ … by-bm25/ …     one pair a method: scores of the whole pool, and what was chosen
  comparison/                   overlap of the selections, their domains before and after
  timings.json                  seconds and peak memory of the last build of each step

Random and BM25 are always among the methods: what is not better than BM25 is not worth its price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, cast, get_args

import pydantic

from penstock._recipe_reading import override_in, problem, unknown_keys
from penstock.dataset import Dataset
from penstock.embedding.config import EmbedConfig
from penstock.errors import ConfigError
from penstock.lock import FolderLock
from penstock.ownership import claim
from penstock.pipelines.candidates import POOL, TARGET, Overlap, Pool, pool_dataset
from penstock.pipelines.choice import COMPARISON, Comparison, Selection, selection_of
from penstock.pipelines.documents import Documents
from penstock.pipelines.embed import Embedded, EmbedderStep
from penstock.pipelines.targeted import EMBEDDED, EMBEDDER, EMBEDDING, Scores, scores_of
from penstock.run import Fingerprints, building, read_timings
from penstock.selectors.guard import DEFAULT as MAX_DROPPED
from penstock.selectors.targeted import method
from penstock.selectors.targeted.base import Budget
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Check, Reporter, Settings, Silent, Step, StepResult, check_steps
from penstock.storage import Folder

if TYPE_CHECKING:
    from rich.console import Console

ALWAYS = ("random", "bm25")
_SECTIONS = ("embed", "columns", "max_dropped")
_DOMAINS = 20  # shown in the terminal; the table has all
OWNER = "penstock select"  # no name that a recipe may have


@dataclass(frozen=True)
class Selected:
    """What a selection did: its folder, its methods and its steps in order."""

    root: Folder
    methods: tuple[str, ...]
    steps: tuple[StepResult, ...]


@dataclass(frozen=True)
class Plan:
    """What a selection is made with.

    Attributes:
        methods: selectors by name, random and BM25 before the others.
        embed: the embedder of methods that read vectors.
        columns: of pool and target files, as ``sources.files.FileEntry`` has them.
        max_dropped: share of rows that may be dropped before the selection stops, by name (``selectors.guard``).
    """

    methods: Mapping[str, Any]
    embed: EmbedConfig
    columns: Mapping[str, str]
    max_dropped: Mapping[str, float]


def plan(by: Sequence[str], overrides: Sequence[str] = (), model: str | None = None) -> Plan:
    """The methods and settings of a selection.

    Args:
        by: names of methods (``selectors.targeted.METHODS``), alone or joined by commas.
        overrides: ``METHOD.KEY=VALUE``, the value as YAML; ``embed``, ``columns`` and ``max_dropped`` are set so too.
        model: folder of the model for methods that read one.

    Raises:
        ConfigError: an unknown method or setting, a setting that is not allowed, a model that is missing or not read.
    """
    asked = [name.strip() for entry in by for name in entry.split(",")]
    names = tuple(dict.fromkeys((*ALWAYS, *asked)))
    settings: dict[str, Any] = {name: {} for name in (*names, *_SECTIONS)}
    for override in overrides:
        override_in(settings, override)
    strange = [name for name in settings if name not in (*names, *_SECTIONS)]
    if strange:
        raise ConfigError(
            f"--set {strange[0]}: got nothing of that name here, allowed {', '.join((*names, *_SECTIONS))}; "
            "a method has to be asked for with --by"
        )
    kinds = {name: method(name) for name in names}
    reading = [name for name, kind in kinds.items() if "model" in {f.name for f in fields(kind)}]
    if model is not None and not reading:
        raise ConfigError("--model: got a model that no method reads, allowed with less, mona and loss; leave it out")
    for name in reading:
        if model is not None:
            settings[name].setdefault("model", model)
    columns = settings["columns"]
    if not all(isinstance(value, str) for value in columns.values()):
        raise ConfigError(f"columns: got {columns}, allowed names of columns such as columns.text=body; name them")
    shares = settings["max_dropped"]
    if not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares.values()):
        raise ConfigError(f"max_dropped: got {shares}, allowed shares of rows from 0 to 1, by name; mend it")
    embed: EmbedConfig = _built("embed", EmbedConfig, settings["embed"])
    return Plan({name: _built(name, kinds[name], settings[name]) for name in names}, embed, columns, shares)


def _built(name: str, kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """A dataclass from its settings, each of the type that it declares."""
    if unknown := list(unknown_keys(kind, settings, name)):
        raise ConfigError("; ".join(unknown))
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    absent = [key for key in required if key not in settings]
    if absent:
        how = "--model PATH" if absent[0] == "model" else f"--set {name}.{absent[0]}=…"
        raise ConfigError(f"{name}: got no {absent[0]}, which it cannot do without; add {how}")
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(settings))
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(f"{name}.{problem(e)}" for e in error.errors())) from error


def budget_of(fraction: float | None = None, count: int | None = None, tokens: int | None = None) -> Budget:
    """The budget that one of three options gives; the first two are of documents.

    Raises:
        ConfigError: none or more than one is given, or it is out of its range.
    """
    given = [name for name, value in (("--fraction", fraction), ("--count", count), ("--tokens", tokens)) if value]
    if len(given) != 1:
        raise ConfigError(
            f"how much: got {' and '.join(given) or 'nothing'}, allowed one of --fraction, --count and --tokens, above "
            "0; --fraction 0.05 is 5 % of the documents"
        )
    if tokens:
        return Budget(count=tokens, unit="tokens")
    return Budget(fraction=fraction or None, count=count or None)


def steps_of(
    pool: str,
    target: Sequence[str],
    made: Plan,
    budget: Budget,
    *,
    tokenizer: str | None = None,
    overlap: str = "drop",
) -> list[Step]:
    """The steps of a selection, parents before children.

    Raises:
        ConfigError: no target, or a tokenizer beside a pool that has token counts.
        DatasetError, InputError: the pool or a file is not what it should be.
    """
    if not target:
        raise ConfigError("target: got no files, allowed one or more; name documents like those that you want")
    if overlap not in get_args(Overlap):
        raise ConfigError(f"overlap: got {overlap!r}, allowed {', '.join(get_args(Overlap))}; choose one")
    dataset = pool_dataset(pool)
    sources = () if dataset is not None else (_files("pool", [pool], made.columns),)
    encode = None
    if tokenizer is not None:
        if dataset is not None and "tokens" in dataset.table("documents").columns:
            raise ConfigError(f"tokenizer: got one beside {pool}, which has token counts; leave it out")
        encode = _encode(tokenizer)
    steps: list[Step] = [
        Documents(TARGET, (_files(TARGET, target, made.columns),), ()),
        Pool(dataset=dataset, sources=sources, encode=encode, overlap=cast(Overlap, overlap)),
    ]
    if any(EMBEDDING in selector.reads for selector in made.methods.values()):
        steps += [EmbedderStep(EMBEDDER, made.embed.model), Embedded(EMBEDDED, POOL, EMBEDDER, made.embed)]
    for name, selector in made.methods.items():
        steps += [Scores(name, selector, made.embed), Selection(name, selector, budget)]
    return [*steps, Comparison(list(made.methods))]


def _files(name: str, paths: Sequence[str], columns: Mapping[str, str]) -> FileSource:
    return FileSource(name=name, entries=tuple(FileEntry(path=path, columns=dict(columns)) for path in paths))


def _encode(tokenizer: str) -> Any:
    """Row work that counts tokens with a ``tokenizer.json``, by path or in a folder."""
    import hashlib

    from penstock.tokenization.encode import Encode

    folder = Folder(tokenizer)
    url = folder.join("tokenizer.json") if not tokenizer.endswith(".json") else folder.path
    parent, _, name = url.rpartition("/")
    try:
        data = Folder(parent).read_bytes(name)
    except FileNotFoundError as error:
        raise ConfigError(f"tokenizer: got {tokenizer}, where no tokenizer.json is; give the path of one") from error
    return Encode(tokenizer_file=url, sha256=hashlib.sha256(data).hexdigest())


def check(steps: Sequence[Step], out: str, split_bytes: int = 32 << 20) -> list[Check]:
    """What a selection would do, without doing it."""
    root = Folder(out)
    claim(root, OWNER, write=False)
    return check_steps(steps, root, _settings(root, split_bytes, {}))


def select(
    steps: Sequence[Step],
    out: str,
    *,
    workers: int | None = None,
    reporter: Reporter | None = None,
    split_bytes: int = 32 << 20,
    max_dropped: Mapping[str, float] | None = None,
) -> Selected:
    """Build every step that is not up to date; a rerun after a kill goes on.

    Args:
        steps: of ``steps_of``.
        out: folder or URL of the selection.
        workers: processes; by default one a core.
        split_bytes: input bytes of one split; changes no output.
        max_dropped: of ``Plan``.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    reporter = reporter or Silent()
    root = Folder(out)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(root))
        claim(root, OWNER, write=True)
        settings = _settings(root, split_bytes, max_dropped or {})
        _, build = stack.enter_context(building(steps, root, settings, workers=workers, reporter=reporter))
        results = [build(step) for step in steps]
    comparison = next(step for step in steps if isinstance(step, Comparison))
    return Selected(root, comparison.methods, tuple(results))


def _settings(root: Folder, split_bytes: int, max_dropped: Mapping[str, float]) -> Settings:
    prints = Fingerprints.load(root)
    return Settings(split_bytes=split_bytes, fingerprint=prints, max_dropped={"default": MAX_DROPPED, **max_dropped})


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


def print_selected(result: Selected, console: Console | None = None) -> None:
    """By method what was chosen, what it took and its overlap with the others, on stdout; then domains that moved."""
    from rich.console import Console

    from penstock.report.text import size
    from penstock.terminal import plain, print_table, say, table

    console = console or Console()
    timings = read_timings(result.root)
    comparison = Dataset(result.root / COMPARISON)
    pairs = {(row["a"], row["b"]): row["jaccard"] for row in comparison.read("overlap").to_pylist()}
    known = {m: Dataset(result.root / selection_of(m)).manifest.stats["choice"] for m in result.methods}
    counted = all("tokens" in facts for facts in known.values())
    shown = table(("method",), ("examples", *(["tokens"] if counted else []), "s", "peak", *result.methods))
    for name in result.methods:
        took = [timings.get(step, {}) for step in (scores_of(name), selection_of(name))]
        seconds = sum(entry.get("seconds", 0.0) for entry in took)
        shown.add_row(
            plain(name),
            f"{known[name]['examples']:,}",
            *([f"{known[name]['tokens']:,}"] if counted else []),
            f"{seconds:.1f}",
            size(max(entry.get("peak_memory", 0) for entry in took)),
            *(f"{pairs.get((name, other), pairs.get((other, name))):.3f}" for other in result.methods),
        )
    print_table(
        console, "Selected by method; the last columns are Jaccard indices of the selections", shown, whole=True
    )
    domains = comparison.read("domains").to_pylist()
    rows = {row["domain"]: row["rows"] for row in domains}
    share = {(row["method"], row["domain"]): row["selected_rows"] for row in domains}
    total = {m: max(1, sum(row["selected_rows"] for row in domains if row["method"] == m)) for m in result.methods}
    shown = table(("domain",), ("pool %", *(f"{m} %" for m in result.methods)))
    for domain in sorted(rows, key=lambda d: (-rows[d], d))[:_DOMAINS]:
        part = 100 * rows[domain] / sum(rows.values())
        cells = (f"{100 * share[m, domain] / total[m]:.1f}" for m in result.methods)
        shown.add_row(plain(domain), f"{part:.1f}", *cells)
    more = f", the {_DOMAINS} largest of {len(rows):,}" if len(rows) > _DOMAINS else ""
    print_table(console, f"Domains before and after{more}", shown, whole=True)
    say(console, "selected documents: ", plain(result.root.join("by-METHOD"), 5000))


def print_planned(steps: Sequence[Check], out: str, console: Console | None = None) -> None:
    """What each step would do and why, on stdout."""
    from rich.console import Console

    from penstock.terminal import plain, print_table, table

    shown = table(("step", "would", "why"))
    for found in steps:
        shown.add_row(plain(found.step.name), "skip" if found.skip else "run", plain(found.why))
    print_table(console or Console(), f"Dry run into {out}", shown)
