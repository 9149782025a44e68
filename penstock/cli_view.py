"""The verbs that look: ``penstock view`` and ``penstock trace``.

Nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` these verbs."""
    app.command()(view)
    app.command()(trace)


def view(
    folder: Annotated[
        str, typer.Argument(help="A published dataset, a step or a run, by path or URL.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address alone.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="Rows to look at; of more a sample is drawn.")] = 20_000,
) -> None:
    """Look at a dataset in the browser until Ctrl-C.

    Search, domains and scores, drops by reason, duplicates side by side, a map of embeddings, what became of a row. The
    pages are for this machine and for who has the address that is printed; nothing is sent anywhere.
    """
    import signal
    import sys

    from penstock.terminal import Terminal
    from penstock.view import serve_view

    # a stop by the system unwinds as Ctrl-C does, and takes the index along
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with Terminal() as terminal:
        serve_view(folder, port=port, browser=not no_browser, sample=sample, say=typer.echo, progress=terminal.bar)


def trace(
    doc_id: Annotated[str, typer.Argument(help="Id of a row, or the beginning of one.", show_default=False)],
    run: Annotated[str, typer.Option(help="A run, or a dataset with those beside it; path or URL.", metavar="FOLDER")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what became of a row.

    Its source, every step that kept, changed or dropped it, its duplicates, scores, copies, shard, the sequences that
    hold it and the training steps that read them.
    """
    import json

    from penstock.tracing import trace as find
    from penstock.tracing_print import print_trace

    found = find(doc_id, run)
    if json_:
        typer.echo(json.dumps(found.to_json(), indent=1, default=str))
    else:
        print_trace(found)
