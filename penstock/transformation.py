"""Questions and their verified variants without a recipe: what ``penstock transform`` does.

root/
  run.json                      whose folder this is
  problems/                     what was read
  embedder/                     where an embedding band is asked for
  transformed/                  problems (groups), alone, dropped
  timings.json, models.json     what the last build of each step took
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._recipe_reading import with_overrides
from penstock.dataset import Dataset, read_manifest
from penstock.embedding.config import EmbedConfig
from penstock.errors import ConfigError, DatasetError
from penstock.generators.exports import Exported
from penstock.generators.spending import spending
from penstock.generators.transforms.config import TransformConfig
from penstock.inspect import datasets_below
from penstock.lock import FolderLock
from penstock.ownership import claim
from penstock.pipelines.embed import EmbedderStep
from penstock.pipelines.problems import PROBLEMS, Problems, problem_files
from penstock.pipelines.transform import TRANSFORMED, Transformed
from penstock.run import Fingerprints, building, in_order
from penstock.step import Check, Reporter, Settings, Silent, Step, StepResult, check_steps
from penstock.storage import Folder

if TYPE_CHECKING:
    from rich.console import Console

OWNER = "penstock transform"  # no name that a recipe may have
EMBEDDER = "embedder"
_REASONS = 12  # shown in the terminal; the manifest has all


@dataclass(frozen=True)
class Made:
    """What was made: the dataset of groups, and its steps in order."""

    root: Folder
    dataset: Dataset
    steps: tuple[StepResult, ...]


def plan(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[TransformConfig, EmbedConfig]:
    """Settings of the transforms and of the embedder of their band.

    Args:
        settings: of ``TransformConfig``, nested.
        overrides: ``KEY.KEY=VALUE``, the value as YAML, over them; ``embed.KEY=VALUE`` sets the embedder.

    Raises:
        ConfigError: an unknown setting, or one that is not allowed.
    """
    made: tuple[TransformConfig, EmbedConfig] = with_overrides(TransformConfig, settings, overrides)
    return made


def steps_of(
    given: Sequence[str],
    config: TransformConfig,
    embed: EmbedConfig | None = None,
    *,
    question: str = "question",
    answer: str = "answer",
    store: str | None = None,
) -> list[Step]:
    """The steps, parents before children.

    Args:
        given: one folder of a dataset or a run with problems, or files.
        question, answer: columns of the files.
        store: of ``Transformed``.

    Raises:
        ConfigError: no files, or one that is not acceptable.
        DatasetError: a folder of datasets without problems.
    """
    if not given:
        raise ConfigError("transform: got nothing to transform, allowed files or a dataset with problems; name some")
    dataset = problems_below(given[0]) if len(given) == 1 else None
    embed = embed or EmbedConfig()
    source = problem_files(given, question, answer) if dataset is None else None
    steps: list[Step] = [Problems(dataset=dataset, source=source)]
    banded = config.embedding_band is not None
    if banded:
        steps.append(EmbedderStep(EMBEDDER, embed.model))
    embedder = EMBEDDER if banded else None
    return [*steps, Transformed(TRANSFORMED, PROBLEMS, config, embedder=embedder, embed=embed, store=store)]


def problems_below(url: str) -> Dataset | None:
    """The dataset with problems that a path means: itself, or the last of a run; None where the path means files.

    Raises:
        DatasetError: there are datasets, and none of them has problems.
    """
    folder = Folder(url)
    found = [Dataset(folder)] if read_manifest(folder) is not None else datasets_below(folder)
    having = [dataset for dataset in found if PROBLEMS in dataset.manifest.tables]
    if found and not having:
        names = ", ".join(dataset.manifest.step for dataset in found)
        raise DatasetError(f"{url}: no dataset with problems among {names}; give the folder of one, or files")
    return having[-1] if having else None


def check(steps: Sequence[Step], out: str, *, seed: int = 0, split_bytes: int = 32 << 20) -> list[Check]:
    """What would be done, without doing it."""
    root = Folder(out)
    claim(root, OWNER, write=False)
    return check_steps(steps, root, _settings(root, seed, split_bytes))


def transform(
    steps: Sequence[Step],
    out: str,
    *,
    seed: int = 0,
    workers: int | None = None,
    reporter: Reporter | None = None,
    split_bytes: int = 32 << 20,
    flow: bool = False,
) -> Made:
    """Build every step that is not up to date; a rerun after a kill goes on.

    Args:
        steps: of ``steps_of``.
        out: folder or URL.
        seed: of all draws, and of what a model is asked with.
        workers: processes for the rules; by default one a core.
        split_bytes: input bytes of one split; changes no output.
        flow: make each step a task of Prefect's (extra ``flows``), when there is something to do.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    root, reporter = Folder(out), reporter or Silent()
    with ExitStack() as stack:
        stack.enter_context(FolderLock(root))
        claim(root, OWNER, write=True)
        settings = _settings(root, seed, split_bytes)
        together = building(steps, root, settings, workers=workers, reporter=reporter)
        checks, build = stack.enter_context(together)
        results = in_order("transform", checks, build, reporter, flow=flow)
    return Made(root, Dataset(root / TRANSFORMED), results)


def _settings(root: Folder, seed: int, split_bytes: int) -> Settings:
    # a check may stop nearly all, and what was dropped is the evidence when it does
    prints = Fingerprints.load(root)
    return Settings(seed=seed, split_bytes=split_bytes, fingerprint=prints, max_dropped={"default": 1.0})


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


def print_made(made: Made, exported: Sequence[Exported] = (), console: Console | None = None) -> None:
    """By transform what became of it, groups by size, shifts of difficulty, and where the rows are, on stdout."""
    from rich.console import Console

    from penstock.terminal import plain, print_table, say, table

    console = console or Console()
    stats, counts = made.dataset.manifest.stats, made.dataset.manifest.counts
    shown = table(("transform",), ("kept", "stopped", "not applicable"))
    reasons: list[tuple[int, str, str]] = []
    for name, facts in sorted(stats["transforms"].items()):
        stopped, without = facts.get("rejected", {}), facts.get("not_applicable", {})
        numbers = (facts.get("kept", 0), sum(stopped.values()), sum(without.values()))
        shown.add_row(plain(name), *(f"{n:,}" for n in numbers))
        reasons += [(n, name, f"stopped: {reason}") for reason, n in stopped.items()]
        reasons += [(n, name, reason) for reason, n in without.items()]
    print_table(console, "Variants by transform", shown, whole=True)
    shown = table(("transform", "reason"), ("problems",))
    for number, name, reason in sorted(reasons, key=lambda row: (-row[0], *row[1:]))[:_REASONS]:
        shown.add_row(plain(name), plain(reason), f"{number:,}")
    more = f", the {_REASONS} commonest of {len(reasons):,}" if len(reasons) > _REASONS else ""
    print_table(console, f"Why not{more}", shown, whole=True)
    shown = table(("rows in a group",), ("groups",))
    for size, number in sorted(stats["sizes"].items(), key=lambda item: int(item[0])):
        shown.add_row("no variant" if size == "0" else size, f"{number:,}")
    print_table(console, "Groups by size", shown, whole=True)
    if stats["shift"]:
        shown = table(("kind",), ("variants", "shift of accuracy"))
        for kind, facts in sorted(stats["shift"].items()):
            shown.add_row(plain(kind), f"{facts['pairs']:,}", f"{facts['shift']:+.3f}")
        print_table(console, "Difficulty, variant less original", shown, whole=True)
    groups = sum(number for size, number in stats["sizes"].items() if size != "0")
    say(console, f"{groups:,} groups of {counts.rows_in:,} problems, {counts.kept:,} rows")
    for model, took in spending(made.root).get(made.dataset.manifest.step, {}).items():
        cost = "" if took.get("cost") is None else f", cost {took['cost']:.4g}"
        say(console, plain(model), f": {took['asked']:,} requests asked, {took['kept']:,} kept{cost}")
    for why in stats.get("stopped", ()):
        say(console, "stopped: ", plain(why))
    say(console, "made: ", plain(made.dataset.folder.path, 5000))
    for one in exported:
        say(console, "exported: ", plain(one.path, 5000), f"  {one.rows:,} rows in {one.groups:,} groups")
