"""What a run looks like in a terminal: progress while it works (stderr), tables of results (stdout).

Names and texts come from data; ``plain`` shows what a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from penstock.report.text import duration, one_line, size
from penstock.step import Check, Step, StepResult

if TYPE_CHECKING:
    from penstock.push import Pushed
    from penstock.recipe import Recipe
    from penstock.run import RunResult
    from penstock.selectors.quality import QualityScore
    from penstock.storage import Folder
    from penstock.training.megatron import MegatronFiles

NAME_CHARACTERS = 400
PATH_CHARACTERS = 5000  # a path that was cut leads nowhere


def plain(text: str, limit: int = NAME_CHARACTERS, style: str = "") -> Text:
    """Text from data on one line, cut, with nothing a terminal would obey: ``⟨ESC⟩[31m``."""
    return Text(one_line(text, limit), style)


def say(console: Console, *parts: str | Text | tuple[str, str]) -> None:
    """Print a line as it is: no markup, no colours of its own, wrapped by the terminal only (paths stay whole)."""
    console.print(Text.assemble(*parts), soft_wrap=True)


def table(left: Sequence[str], right: Sequence[str] = (), last: Sequence[str] = ()) -> Table:
    """An empty table: columns of words (they wrap), of numbers (they never do), and of words again."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in left:
        made.add_column(name, overflow="fold")
    for name in right:
        made.add_column(name, justify="right", no_wrap=True)
    for name in last:
        made.add_column(name, overflow="fold")
    return made


def print_table(console: Console, title: str, shown: Table, *, whole: bool = False) -> None:
    """Print a table below its title.

    Args:
        whole: keep the table's own width, for cells that are short: on a narrow terminal its lines wrap and no
            number is cut. Otherwise the columns of words are folded into the terminal's width.
    """
    say(console, plain(title, PATH_CHARACTERS, "italic"))
    if whole:
        wide = console.options.update(max_width=10_000)
        shown.width = Measurement.get(console, wide, shown).maximum
    console.print(shown, crop=False)


class Terminal:
    """A reporter with a live progress bar for each pass; on a pipe it prints lines instead."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: tuple[str, Any] | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._task = None

    def step_started(self, step: Step, why: str) -> None:
        budget = f", budget {step.budget:.0f} s" if step.budget else ""
        say(self.console, plain(step.name, style="bold"), "  ", plain(why), budget)

    def progress(self, step: Step, what: str, done: int, total: int) -> None:
        self.bar(what, done, total)

    def bar(self, what: str, done: int, total: int) -> None:
        """Show how far ``what`` is; nothing on a pipe."""
        if not self.console.is_terminal:
            return
        if self._progress is None or self._task is None or self._task[0] != what:
            self._stop()
            self._progress = Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = (what, self._progress.add_task(what, total=total))
        self._progress.update(self._task[1], completed=done, total=total)
        if done == total:
            self._stop()

    def step_finished(self, result: StepResult) -> None:
        self._stop()
        name = result.step.name
        if result.skipped:
            say(self.console, plain(name, style="dim"), ("  up to date", "dim"))
            return
        counts = result.manifest.counts
        rows = f"  kept {counts.kept:,}, dropped {counts.dropped_total:,}" if counts.rows_in or counts.made else ""
        say(self.console, f"  {duration(result.seconds)}{rows}  digest {result.manifest.digest[:8]}")

    def note(self, message: str) -> None:
        say(self.console, plain(message, style="dim"))

    def warn(self, message: str) -> None:
        say(self.console, ("warning: ", "yellow"), plain(message, 4 * NAME_CHARACTERS))


@contextmanager
def resumable(kept: str = "what is done", goes_on: str = "resume") -> Iterator[Terminal]:
    """The terminal of a verb whose work goes on where it was stopped: Ctrl-C says so and ends with 130.

    Caught here because typer would print its own word for it.
    """
    import typer

    try:
        with Terminal() as terminal:
            yield terminal
    except KeyboardInterrupt:
        typer.echo(f"penstock: interrupted; {kept} is kept, run the same command again to {goes_on}", err=True)
        raise typer.Exit(130) from None


def print_results(result: RunResult, console: Console | None = None) -> None:
    """The step table and the report's path, on stdout."""
    console = console or Console()
    budgets = any(row.step.budget for row in result.steps)
    numbers = ("rows in", "made", "kept", "dropped", "s", *(["budget"] if budgets else []))
    shown = table(("step", "status"), numbers, ("digest",))
    for row in result.steps:
        counts = row.manifest.counts
        shown.add_row(
            plain(row.step.name),
            "skipped" if row.skipped else "built",
            *(f"{n:,}" if n else "" for n in (counts.rows_in, counts.made, counts.kept, counts.dropped_total)),
            "" if row.skipped else f"{row.seconds:.1f}",
            *([_budget(row.step)] if budgets else []),
            row.manifest.digest[:8],
        )
    print_table(console, "Steps", shown, whole=True)
    say(console, f"{duration(result.seconds)} in all")
    if result.report is not None:
        say(console, "report: ", plain(result.report, limit=PATH_CHARACTERS))


def print_checks(
    recipe: Recipe, root: Folder, checks: Sequence[Check], split_bytes: int, console: Console | None = None
) -> None:
    """What a dry run found, on stdout: the inputs, then what each step would do and why."""
    from penstock.pipelines.plan import sources_of

    console = console or Console()
    for source in sources_of(recipe):
        inputs = source.inputs()
        pieces = len(source.plan(split_bytes))
        counted = ", ".join((count(len(inputs), "file"), size(sum(i.size for i in inputs)), count(pieces, "piece")))
        say(console, "source ", plain(source.name), f": {counted}")
    budgets = any(check.step.budget for check in checks)
    shown = table(("step", "would", "why"), ("budget s",) if budgets else ())
    for check in checks:
        would, why = "skip" if check.skip else "run", check.why
        if check.key is None and root.exists(f"{check.step.name}/manifest.json"):
            # it was built before; whether its parents come out as they were is not known before they run
            would, why = "maybe", f"{why}, if changed"
        shown.add_row(plain(check.step.name), would, plain(why), *([_budget(check.step)] if budgets else []))
    print_table(console, f"Dry run of {recipe.name} into {root.url}", shown)


def print_pushed(result: Pushed, console: Console | None = None) -> None:
    """What a push did with the files, or a dry run would, on stdout."""
    console = console or Console()
    if result.dry_run:
        shown = table(("file", ""), ("bytes",))
        for action in result.actions:
            shown.add_row(plain(action.path, PATH_CHARACTERS), action.what, f"{action.bytes:,}" if action.bytes else "")
        print_table(console, "Would do", shown)
    words = {"send": "sent", "copy": "copied there", "there": "there already", "remove": "removed"}
    done = [(what, *result.total(what)) for what in words]
    parts = [f"{what if result.dry_run else words[what]} {number:,} ({size(n)})" for what, number, n in done if number]
    say(console, ", ".join(parts))
    say(console, plain(result.dest, PATH_CHARACTERS), f"  digest {result.digest[:8]}  ", plain(result.done))


def print_exported(written: Sequence[MegatronFiles], console: Console | None = None) -> None:
    """The files that an export made, on stdout: their prefixes are what Megatron's --data-path takes."""
    console = console or Console()
    shown = table(("prefix",), ("documents", "tokens"), ("type",))
    for files in written:
        prefix = plain(files.prefix, PATH_CHARACTERS)
        shown.add_row(prefix, f"{files.documents:,}", f"{files.tokens:,}", files.dtype)
    print_table(console, "Written", shown, whole=True)


def print_trained(score: QualityScore, console: Console | None = None) -> None:
    """What a quality classifier learned from and how it does on what was held out, on stdout."""
    console = console or Console()
    facts = score.facts()
    shown = table(("side",), ("trained on", "held out"), ())
    for side, rows in facts["rows"].items():
        shown.add_row(side, f"{rows['train']:,}", f"{rows['held_out']:,}")
    print_table(console, "Documents", shown, whole=True)
    held_out = facts["held_out"]
    say(console, f"held out: AUC {held_out['auc']:.4f}, accuracy {held_out['accuracy']:.4f}")
    if not facts["converged"]:
        say(console, "the solver stopped before it converged: rank by this score, its value is not settled")
    say(console, "written: ", plain(score.path, PATH_CHARACTERS))


def _budget(step: Step) -> str:
    return f"{step.budget:.0f}" if step.budget else ""


def count(number: int, word: str) -> str:
    """``1 file``, ``2,600 files``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
