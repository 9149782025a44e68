"""The verb that makes variants of questions: ``penstock transform``.

Nothing heavy is imported until it is needed.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock import completion


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` this verb."""
    app.command()(transform)


def transform(
    given: Annotated[
        list[str], typer.Argument(help="Files with questions and answers, or a dataset with problems.", metavar="INPUT")
    ],
    out: Annotated[str, typer.Option(help="Folder or URL for what is made.")],
    question: Annotated[str, typer.Option(help="Column of the question in files.")] = "question",
    answer: Annotated[str, typer.Option(help="Column of the answer, alone or after a solution.")] = "answer",
    kinds: Annotated[
        str | None, typer.Option(help="Of paraphrase,rename,format,background,term,subproblem; default: all.")
    ] = None,
    per_problem: Annotated[int, typer.Option(help="Verified variants of a problem at most.")] = 3,
    rules: Annotated[bool, typer.Option(help="Use the forms that need no model.")] = True,
    url: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server, with /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model on that server.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the server's key.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of a model, or a run that trained one.")] = None,
    judge: Annotated[bool, typer.Option("--judge", help="Ask the model twice whether a variant is the same.")] = False,
    solve: Annotated[int, typer.Option(min=0, help="Solutions of each variant that must agree; 0 asks none.")] = 0,
    band: Annotated[str | None, typer.Option(help="LOW,HIGH share of right solutions that pass.")] = None,
    embedding_band: Annotated[str | None, typer.Option(help="LOW,HIGH cosine with the original that pass.")] = None,
    alone: Annotated[str, typer.Option(help="Problems without a variant: drop, or keep apart.")] = "drop",
    max_requests: Annotated[int | None, typer.Option(help="Requests that may be sent.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens that may be read and written.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="What requests may cost; needs prices.")] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="A setting: solve.temperature=1, reference.url=…, prompts=DIR, prices={…}",
            autocompletion=completion.transform_settings,
        ),
    ] = [],  # noqa: B006
    export: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Write rows for a trainer: trl or verl, and a file.", metavar="FORMAT PATH"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    store: Annotated[str | None, typer.Option(help="File of kept answers; default: in the user's cache.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes for the rules; default: one a core.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run or be skipped, and why.")] = False,
) -> None:
    """Make groups of a question and its verified variants.

    Rules need no model; with one, its variants join, and it can judge and solve all of them. A stopped command goes on
    when it is given again.
    """
    from penstock.errors import ConfigError
    from penstock.generators.answers import default_store
    from penstock.generators.exports import FORMATS, export_groups
    from penstock.selection import print_planned
    from penstock.terminal import resumable
    from penstock.transformation import check, plan, print_made, steps_of
    from penstock.transformation import transform as make

    if export is not None and export[0] not in FORMATS:
        raise ConfigError(f"--export: got {export[0]!r}, allowed {', '.join(FORMATS)} and a file; correct it")
    if band is not None and not solve:
        raise ConfigError("--band: got one without solutions, allowed with --solve N; add it or leave --band out")
    settings: dict[str, Any] = {
        "per_problem": per_problem,
        "rules": rules,
        "judge": judge,
        "alone": alone,
        "budget": {"max_requests": max_requests, "max_tokens": max_tokens, "max_cost": max_cost},
    }
    if kinds is not None:
        settings["kinds"] = [kind.strip() for kind in kinds.split(",")]
    named = {"url": url, "model": model, "api_key_env": api_key_env, "path": path}
    if any(value is not None for value in named.values()):
        settings["model"] = {name: value for name, value in named.items() if value is not None}
    if solve:
        settings["solve"] = {"samples": solve} | ({} if band is None else {"band": _band("--band", band)})
    if embedding_band is not None:
        settings["embedding_band"] = _band("--embedding-band", embedding_band)
    config, embed = plan(settings, set_)
    steps = steps_of(given, config, embed, question=question, answer=answer, store=store or default_store())
    if dry_run:
        print_planned(check(steps, out, seed=seed), out)
        return
    with resumable() as terminal:
        made = make(steps, out, seed=seed, workers=workers, reporter=terminal)
    written = [] if export is None else [export_groups(made.dataset, *export)]
    print_made(made, written)


def _band(option: str, given: str) -> tuple[float, float]:
    from penstock.errors import ConfigError

    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        raise ConfigError(f"{option}: got {given!r}, allowed LOW,HIGH such as 0.125,1; correct it") from None
    return low, high
