"""Data made without a recipe: what ``penstock generate`` does.

root/
  run.json                      whose folder this is
  embedder/                     of the run kernel
  generated/                    problems or documents, dropped, rounds, vectors
  timings.json                  seconds and peak memory of the last build of each step
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._recipe_reading import with_overrides
from penstock.dataset import Dataset
from penstock.embedding.config import EmbedConfig
from penstock.generators.recipe import GenerateConfig
from penstock.generators.voyager.records import RoundRecord
from penstock.lock import FolderLock
from penstock.ownership import claim
from penstock.pipelines.embed import EmbedderStep
from penstock.pipelines.generate import GENERATED, Generated
from penstock.run import Fingerprints, building, in_order
from penstock.step import Check, Reporter, Settings, Silent, Step, StepResult, check_steps
from penstock.storage import Folder

if TYPE_CHECKING:
    from rich.console import Console

OWNER = "penstock generate"  # no name that a recipe may have
EMBEDDER = "embedder"
_ROUNDS = 20  # shown in the terminal; the table has all


@dataclass(frozen=True)
class Made:
    """What was made: the dataset, and its steps in order."""

    dataset: Dataset
    steps: tuple[StepResult, ...]

    @property
    def facts(self) -> Mapping[str, Any]:
        """How the voyage went (``pipelines.generate.facts_of``)."""
        found: Mapping[str, Any] = self.dataset.manifest.stats["voyage"]
        return found

    @property
    def complete(self) -> bool:
        """Whether as many items were accepted as were wanted."""
        return bool(self.facts["accepted"] == self.facts["wanted"])


def plan(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[GenerateConfig, EmbedConfig]:
    """Settings of a voyage and of its embedder.

    Args:
        settings: of ``GenerateConfig``, nested.
        overrides: ``KEY.KEY=VALUE``, the value as YAML, over them; ``embed.KEY=VALUE`` sets the embedder.

    Raises:
        ConfigError: an unknown setting, or one that is not allowed.
    """
    made: tuple[GenerateConfig, EmbedConfig] = with_overrides(GenerateConfig, settings, overrides)
    return made


def steps_of(
    generate: GenerateConfig,
    embed: EmbedConfig,
    *,
    store: str | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> list[Step]:
    """The steps, parents before children; arguments as of ``Generated``."""
    return [
        EmbedderStep(EMBEDDER, embed.model),
        Generated(GENERATED, EMBEDDER, generate, embed, store=store, on_round=on_round),
    ]


def check(steps: Sequence[Step], out: str, seed: int = 0) -> list[Check]:
    """What would be done, without doing it."""
    root = Folder(out)
    claim(root, OWNER, write=False)
    return check_steps(steps, root, _settings(root, seed))


def generate(
    steps: Sequence[Step], out: str, *, seed: int = 0, reporter: Reporter | None = None, flow: bool = False
) -> Made:
    """Build every step that is not up to date; a rerun after a kill goes on from the last whole round.

    Args:
        steps: of ``steps_of``.
        out: folder or URL.
        seed: of all draws, and of what a model is asked with.
        flow: make each step a task of Prefect's (extra ``flows``), when there is something to do.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    root, reporter = Folder(out), reporter or Silent()
    with ExitStack() as stack:
        stack.enter_context(FolderLock(root))
        claim(root, OWNER, write=True)
        # nothing here is worth a second process: what takes time waits for answers, or makes one item after another
        together = building(steps, root, _settings(root, seed), workers=0, reporter=reporter)
        checks, build = stack.enter_context(together)
        results = in_order("generate", checks, build, reporter, flow=flow)
    return Made(Dataset(root / GENERATED), results)


def _settings(root: Folder, seed: int) -> Settings:
    # few may pass by design, and what was dropped is the evidence when too few did
    return Settings(seed=seed, fingerprint=Fingerprints.load(root), max_dropped={"default": 1.0})


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


class Rounds:
    """A line on stderr that says how far a voyage is; a line a round on a pipe."""

    def __init__(self, console: Console, wanted: int) -> None:
        self._console, self._wanted = console, wanted
        self._calls, self._cost = 0, 0.0
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, record: RoundRecord) -> None:
        from penstock.terminal import say

        self._calls += record.calls or 0
        self._cost += record.cost or 0.0
        line = self._line(record)
        if self._status is None:
            say(self._console, line)
            return
        self._status.update(line)
        self._status.start()

    def _line(self, record: RoundRecord) -> str:
        where = "first sample" if record.round < 0 else f"round {record.round}"
        parts = [
            f"{where}: {record.total:,} of {self._wanted:,} accepted",
            f"{record.rate:.0%} of the last {record.proposed:,}",
            f"Vendi {record.vendi:.1f}",
        ]
        if record.calls is not None:
            parts += [f"{self._calls:,} calls", *([f"cost {self._cost:.4g}"] if self._cost else [])]
        return ", ".join(parts)


def print_made(made: Made, console: Console | None = None) -> None:
    """By round what was accepted, by reason what was dropped, and where the rows are, on stdout."""
    from rich.console import Console

    from penstock.terminal import plain, print_table, say, table

    console = console or Console()
    facts, cost = made.facts, made.dataset.manifest.stats["cost"]
    rounds = made.dataset.read("rounds").to_pylist() if "rounds" in made.dataset.manifest.tables else []
    asked = facts["calls"] is not None
    numbers = ("threshold", "proposed", "accepted", "%", "mean gain", "Vendi", *(["calls"] if asked else []))
    shown = table(("round",), numbers)
    every = -(-len(rounds) // _ROUNDS)
    for place, row in enumerate(rounds):
        if place % every and place != len(rounds) - 1:
            continue
        shown.add_row(
            "sample" if row["round"] < 0 else str(row["round"]),
            _number(row["threshold"], 3),
            f"{row['proposed']:,}",
            f"{row['accepted']:,}",
            f"{100 * row['rate']:.0f}",
            _number(row["mean_gain"], 3),
            f"{row['vendi']:.1f}",
            *([f"{row['calls']:,}"] if asked else []),
        )
    title = "By round" if every <= 1 else f"Every {every} rounds of {len(rounds):,}"
    print_table(console, title, shown, whole=True)
    shown = table(("dropped by", "reason"), ("items",))
    for work, reasons in sorted(made.dataset.manifest.counts.dropped.items()):
        for reason, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            shown.add_row(plain(work), plain(reason), f"{number:,}")
    print_table(console, "Not accepted", shown, whole=True)
    calls = f", {facts['calls']:,} calls" + (f", cost {cost:.4g}" if cost else "") if asked else ""
    say(
        console,
        f"{facts['accepted']:,} of {facts['wanted']:,} items, Vendi {facts['vendi']:.1f}, "
        f"{facts['proposed']:,} proposed by {facts['explorers']:,} explorers{calls}",
    )
    say(console, "made: ", plain(made.dataset.folder.path, 5000))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
