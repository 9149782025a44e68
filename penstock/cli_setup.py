"""The verbs for a beginning: ``penstock doctor`` and ``penstock init``.

Nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from penstock import completion


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` these verbs."""
    app.command()(init)
    app.command()(doctor)


def init(
    purpose: Annotated[
        str | None,
        typer.Argument(help="What the recipe is for; none: lists what there is.", autocompletion=completion.purposes),
    ] = None,
    path: Annotated[
        str | None, typer.Argument(help="File to write, or a folder for it; default: PURPOSE.yaml.")
    ] = None,
) -> None:
    """Write a recipe to begin with, with comments on every key.

    It runs as it is, on this Python installation as a corpus. A file that is there is never overwritten.
    """
    import shlex

    from penstock.init import PURPOSES, write

    if purpose is None:
        from rich.console import Console

        from penstock.terminal import print_table, table

        shown = table(("purpose", "what for"))
        for name, text in PURPOSES.items():
            shown.add_row(name, text)
        print_table(Console(), "penstock init PURPOSE", shown)
        return
    written = write(purpose, path)
    typer.echo(written)
    typer.echo(f"next: penstock run {shlex.quote(written)} --dry-run")


def doctor(
    out: Annotated[str, typer.Option(help="Folder or URL where runs are written.")] = "runs",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load torch, run a Beam pipeline and start vLLM's Python; a minute.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and say what mends it.

    A table, and a command for each thing that is wrong. Ends with 1 when something is broken; a warning stands in
    nobody's way.
    """
    import json

    from penstock.doctor import Status, examine, print_findings, worst

    findings = examine(out, deep=deep)
    status = worst(findings)
    if json_:
        typer.echo(json.dumps({"status": status, "checks": [finding.to_json() for finding in findings]}, indent=1))
    else:
        print_findings(findings)
    if status is Status.BROKEN:
        raise typer.Exit(1)
