"""The verb that makes data: ``penstock generate``.

Nothing heavy is imported until it is needed.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock import completion


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` this verb."""
    app.command()(generate)


def generate(
    out: Annotated[str, typer.Option(help="Folder or URL for what is made.")],
    task: Annotated[
        str | None, typer.Argument(help="What a model shall write, in words; none: problems without a model.")
    ] = None,
    count: Annotated[int, typer.Option(help="Items wanted.")] = 500,
    family: Annotated[list[str], typer.Option(help="reasoning-gym family of problems; again for more.")] = [],  # noqa: B006
    shape: Annotated[str, typer.Option(help="What a model writes to a task: texts, or problems.")] = "texts",
    prefix: Annotated[str | None, typer.Option(help="For a plain model: words that texts begin with.")] = None,
    texts: Annotated[list[str], typer.Option(help="Files whose first words are further prefixes.")] = [],  # noqa: B006
    url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server, with /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model on that server.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the server's key.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of a model, or a run that trained one.")] = None,
    baseline: Annotated[str | None, typer.Option(help="A baseline in place of Voyager, such as default.")] = None,
    max_requests: Annotated[int | None, typer.Option(help="Requests that may be sent.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens that may be read and written.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="What requests may cost; needs prices.")] = None,
    prices: Annotated[str | None, typer.Option(help="YAML file: model: {prompt: …, completion: …}.")] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="A setting: voyage.anchors=20, gates.languages=[en], embed.model.path=…",
            autocompletion=completion.generate_settings,
        ),
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    store: Annotated[str | None, typer.Option(help="File of kept answers; default: in the user's cache.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run or be skipped, and why.")] = False,
) -> None:
    """Make diverse problems or texts, each gated and traceable.

    Exactly as many as wanted, or the reason why not and exit code 1. A stopped command goes on when it is given again.
    """
    from penstock.generation import Rounds, check, plan, print_made, steps_of
    from penstock.generation import generate as make
    from penstock.generators.answers import default_store
    from penstock.selection import print_planned
    from penstock.terminal import resumable

    settings = _settings(task, family, shape, prefix, texts) | {
        "voyage": {"count": count},
        "baseline": baseline,
        "budget": {"max_requests": max_requests, "max_tokens": max_tokens, "max_cost": max_cost},
        "prices": _prices(prices),
    }
    if url is not None or path is not None or model is not None or api_key_env is not None:
        given = {"url": url, "model": model, "api_key_env": api_key_env, "path": path}
        settings["model"] = {name: value for name, value in given.items() if value is not None}
    config, embed = plan(settings, set_)
    store = store or default_store()
    if dry_run:
        print_planned(check(steps_of(config, embed, store=store), out, seed), out)
        return
    with resumable() as terminal, Rounds(terminal.console, config.voyage.count) as rounds:
        made = make(steps_of(config, embed, store=store, on_round=rounds), out, seed=seed, reporter=terminal)
    print_made(made)
    if not made.complete:
        if made.steps[-1].skipped:  # a build has said so
            typer.echo(f"penstock: {made.facts['detail']}", err=True)
        raise typer.Exit(1)


def _settings(task: str | None, family: list[str], shape: str, prefix: str | None, texts: list[str]) -> dict[str, Any]:
    """What is made, as settings of ``GenerateConfig``; it says what does not go together."""
    settings: dict[str, Any] = {}
    if family:
        settings["procedural"] = {"families": family}
    if task is not None:
        settings["prompt"] = {"task": task, "shape": shape}
    if prefix is not None or texts:
        settings["prefix"] = {"start": prefix or "", "files": texts}
    return settings


def _prices(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    from penstock.generators.prices import Prices

    return {name: price._asdict() for name, price in Prices.of(file).table.items()}
