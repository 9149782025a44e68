"""The verb that shows what a language model says about the next byte: ``penstock bytes``.

Nothing heavy is imported until the verb needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` this verb."""
    app.command("bytes")(bytes_)


def bytes_(
    model: Annotated[str, typer.Argument(help="Local folder of a causal LM, or a run.", show_default=False)],
    prompt: Annotated[str, typer.Argument(help="Text so far; - reads bytes from stdin.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 12,
    sample: Annotated[int, typer.Option(min=0, help="Draw so many continuations, byte by byte.")] = 0,
    logprob: Annotated[bool, typer.Option("--logprob", help="Print log P of the prompt too.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Beside it what prompting with tokens says and continues with.")
    ] = False,
    suffix: Annotated[str | None, typer.Option(help="Text after the hole: fill it, with --layout.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Sentinels with {prefix} and {suffix}, as the model was trained.")
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a continuation at most.")] = 80,
    temperature: Annotated[float, typer.Option(help="Of the draws; 0 takes the likeliest.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach this sum.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    stop: Annotated[list[str], typer.Option(help="Text that ends a continuation; again for more.")] = [],  # noqa: B006
    canonical: Annotated[str, typer.Option(help="strict: encodings of the tokenizer alone; off.")] = "strict",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Show the exact next byte under a language model.

    Whatever its tokenizer is and wherever the prompt is cut. With --sample also continuations; with --compare what
    prompting with tokens, and with healed tokens, gives instead.
    """
    import sys

    from penstock.errors import ConfigError
    from penstock.tokenization.bytelevel.distributions import bytes_of
    from penstock.tokenization.bytelevel.infilling import InfillLayout
    from penstock.tokenization.bytelevel.model import ByteModel
    from penstock.tokenization.bytelevel.sampling import Sampling
    from penstock.tokenization.bytelevel.tables import show_bytes

    if (suffix is None) != (layout is None):
        raise ConfigError("got one of --suffix and --layout, allowed both or neither; a hole needs both")
    if suffix is not None and compare:
        raise ConfigError("got --compare and --suffix, allowed one; leave --compare out, or give the prompt alone")
    settings = Sampling(max_bytes=max_bytes, temperature=temperature, top_p=top_p, seed=seed, stop=tuple(stop))
    given = sys.stdin.buffer.read() if prompt == "-" else bytes_of(prompt)
    if suffix is not None and layout is not None:
        given = InfillLayout(layout).prompt(given, suffix)
    show_bytes(
        ByteModel.load(model, device=device, canonical=canonical),
        given,
        settings,
        top=top,
        samples=sample,
        logprob=logprob,
        compare=compare,
        special=suffix is not None,
    )
