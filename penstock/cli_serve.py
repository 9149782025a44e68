"""The verb that runs other verbs by schedule: ``penstock serve``.

Nothing heavy is imported until it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock.flows.deployments import Deployments

_TIMES = 3


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` this verb."""
    app.command()(serve)


def serve(
    file: Annotated[
        Path | None, typer.Argument(help="Deployments (YAML); penstock serve --example shows some.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the server and its UI; 0: a free one.")] = 4200,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, show the deployments and when they run next.")
    ] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a file with comments.")] = False,
) -> None:
    """Run verbs by schedule until Ctrl-C.

    Or when they are triggered: with a server of Prefect's and its UI on loopback, or with the one that PREFECT_API_URL
    names. A run that is going when it ends goes on at the next start.
    """
    from penstock.errors import ConfigError

    if example:
        from penstock.flows.deployments import EXAMPLE

        typer.echo(EXAMPLE, nl=False)
        return
    if file is None:
        raise ConfigError("serve: got no file of deployments; write one, penstock serve --example shows how")
    from rich.console import Console

    from penstock.flows.environment import prepare_environment, require_prefect
    from penstock.terminal import plain, say

    require_prefect()
    prepare_environment()
    from penstock.flows.deployments import Deployments

    deployments = Deployments.load(file)
    _print(deployments)
    if dry_run:
        return
    from penstock.flows.serving import serve as serve_until_stopped

    console = Console(stderr=True)
    try:
        serve_until_stopped(deployments, port=port, say=lambda line: say(console, plain(line)))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    say(console, "stopped; a run that was going goes on at the next start")


def _print(deployments: Deployments) -> None:
    """What is served and when it runs next, on stdout."""
    from datetime import UTC, datetime

    from rich.console import Console

    from penstock.terminal import plain, print_table, say, table

    console, now = Console(), datetime.now(UTC)
    shown = table(("deployment", "verb", "schedule", "next"), (), ("at once", "occupies", "tags"))
    for one in deployments.deployments:
        entry = one.entry
        times = [] if entry.schedule is None else entry.schedule.next_times(_TIMES, now)
        shown.add_row(
            plain(entry.name),
            entry.verb,
            plain("when triggered" if entry.schedule is None else str(entry.schedule)),
            "\n".join(f"{time:%a %Y-%m-%d %H:%M %z}" for time in times),
            "any number" if entry.concurrency is None else f"{entry.concurrency.limit}, {entry.concurrency.collision}",
            plain(", ".join(entry.occupies)),
            plain(", ".join(entry.tags)),
        )
    print_table(console, f"Deployments of {deployments.file}", shown, whole=True)
    for name, why in deployments.later.items():
        say(console, ("not there yet: ", "yellow"), plain(f"{name}: {why}", 1600))
