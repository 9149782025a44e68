"""The verb of the closed loop: ``penstock refresh``.

Nothing heavy is imported until it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import completion

if TYPE_CHECKING:
    from penstock.refreshing.ledger import Ledger


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` this verb."""
    app.command()(refresh)


def refresh(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe file (YAML).", show_default=False, autocompletion=completion.recipes)
    ],
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="Override a key: a.b=value (YAML). May be given again.",
            autocompletion=completion.recipe_settings,
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        str | None, typer.Option("--out", help="Folder or URL of the rounds; default: the recipe's output.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes at home; default: one a core.")] = None,
    split_mb: Annotated[float, typer.Option(min=0.001, help="Input megabytes a split; changes no output.")] = 32.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say whether there is a round to make, of what, and what it would run.")
    ] = False,
) -> None:
    """Make the next round of a recipe, if something is new.

    New data, chosen by what the accepted model saw; its training goes on; the new model is compared with it on held-out
    sequences and takes its place or not. A stopped round goes on when the command is given again.
    """
    from penstock.pipelines.engines import split_bytes
    from penstock.recipe import Recipe
    from penstock.refreshing.loop import check
    from penstock.refreshing.loop import refresh as make
    from penstock.terminal import plain, print_checks, resumable, say

    loaded = Recipe.load(recipe, set_)
    size = split_bytes(split_mb)
    if dry_run:
        from rich.console import Console

        due, _, folder, checks = check(loaded, out=out, split_bytes=size)
        console = Console()
        say(console, plain(f"round {due.number}: {due.why}" if due.due else due.why, 2000))
        if due.due:
            print_checks(loaded, folder, checks, size, console)
        return
    with resumable() as terminal:
        done = make(loaded, out=out, workers=workers, reporter=terminal, split_bytes=size)
    if done.made is not None:
        _print(done.ledger)
    if done.report is not None:
        typer.echo(f"report: {done.report}")


_ROUNDS = 10  # shown; the report has more


def _print(ledger: Ledger) -> None:
    """The last rounds side by side, on stdout."""
    from rich.console import Console

    from penstock.terminal import print_table, table

    shown = table(("round",), ("from", "files", "rows", "made", "tokens", "steps", "new", "older"), ("verdict",))
    for one in ledger.rounds[-_ROUNDS:]:
        losses = {of.split: f"{of.difference:+.4f}" for of in one.losses}
        shown.add_row(
            str(one.number),
            "" if one.base is None else str(one.base),
            f"+{one.files.new:,} ~{one.files.changed:,} -{one.files.removed:,}",
            f"{one.rows:,}",
            "" if one.made is None else f"{one.made.accepted:,}",
            f"{one.tokens:,}",
            f"{one.last_step:,}",
            losses.get("new", ""),
            losses.get("old", ""),
            "accepted" if one.accepted else "not accepted",
        )
    print_table(Console(), "Rounds; new and older: change of the loss on these held-out sequences", shown, whole=True)
