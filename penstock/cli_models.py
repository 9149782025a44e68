"""The verbs around language models: ``penstock models serve`` and ``penstock cache``.

Nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer

models_app = typer.Typer(help="Run language models.", no_args_is_help=True, rich_markup_mode=None)
cache_app = typer.Typer(help="Look after kept answers.", no_args_is_help=True, rich_markup_mode=None)

Store = Annotated[str | None, typer.Option(help="SQLite file of answers; default: the user's cache.")]


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` these verbs."""
    app.add_typer(models_app, name="models")
    app.add_typer(cache_app, name="cache")


@models_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="Local folder of a causal LM, or a run that trained one.")],
    name: Annotated[str | None, typer.Option(help="Of the model on the server; default: the folder's.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    python: Annotated[str | None, typer.Option(help="Python with vLLM; default: .venv-vllm, then this one.")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to become ready.")] = 900.0,
) -> None:
    """Serve a model by vLLM until Ctrl-C.

    vLLM runs from its own environment. Options that are not listed go to it as they stand (--max-model-len 4096). When
    the server is ready, the lines that a recipe needs are printed.
    """
    import signal
    import sys

    from penstock.errors import InputError
    from penstock.generators.served import VLLMServer

    # a stop by the system unwinds as Ctrl-C does, and takes the server along
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server = VLLMServer(
        path,
        name=name,
        host=host,
        port=port,
        python=python,
        more=context.args,
        log=lambda line: typer.echo(line, err=True),
        patience=patience,
    )
    try:
        with server:
            typer.echo(f"model:\n  url: {server.url}\n  model: {server.name}")
            code = server.join()
    except KeyboardInterrupt:
        return
    raise InputError(f"vllm serve {path}: ended by itself with exit code {code}; its output says why")


@cache_app.command()
def stats(
    store: Store = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how many answers of which models are kept."""
    import json
    from dataclasses import asdict

    from penstock.generators.answers import AnswerStore, default_store
    from penstock.generators.pruning import store_stats

    path = store or default_store()
    found = store_stats(AnswerStore(path=path))
    if json_:
        typer.echo(json.dumps({"path": path, "answers": found.answers} | asdict(found), indent=1))
        return
    from rich.console import Console

    from penstock.terminal import plain, print_table, table

    console = Console()
    shown = table(("model",), ("answers", "bytes"), ("oldest", "newest"))
    for one in found.models:
        days = (_day(one.oldest), _day(one.newest))
        shown.add_row(plain(one.model), f"{one.answers:,}", f"{one.bytes:,}", *days)
    print_table(console, "Answers", shown)
    typer.echo(f"{path}: {found.answers:,} answers, {found.bytes:,} bytes")


@cache_app.command()
def prune(
    older_than: Annotated[float | None, typer.Option(help="Take answers older than so many days.")] = None,
    model: Annotated[str | None, typer.Option(help="Take answers of this model, as stats names it.")] = None,
    to_mb: Annotated[float | None, typer.Option(help="Then take the oldest until the file is so small.")] = None,
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many would go.")] = False,
) -> None:
    """Take kept answers out of the store.

    By age, by model (with an age: of those), down to a size. They are paid for again when they are wanted again.
    """
    from penstock.errors import ConfigError
    from penstock.generators.answers import AnswerStore, default_store
    from penstock.generators.pruning import prune as take

    for flag, value in (("--older-than", older_than), ("--to-mb", to_mb)):
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"{flag}: got {value}, allowed a number >= 0")
    path = store or default_store()
    found = take(
        AnswerStore(path=path),
        older_than=None if older_than is None else older_than * 86400,
        model=model,
        to_bytes=None if to_mb is None else int(to_mb * (1 << 20)),
        dry_run=dry_run,
    )
    if found.after is None:
        typer.echo(f"{path}: {found.answers:,} answers would go, of {found.before:,} bytes in all")
    else:
        typer.echo(f"{path}: {found.answers:,} answers gone; {found.before:,} bytes before, {found.after:,} now")


def _day(made: int | None) -> str:
    from datetime import UTC, datetime

    return "" if made is None else datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d")
