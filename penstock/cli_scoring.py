"""The verbs that read texts by a language model: ``penstock score`` and ``penstock screen``.

Nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

screen_app = typer.Typer(
    help="Flag scores that stand out, at a known false-positive rate.", no_args_is_help=True, rich_markup_mode=None
)

_EDGES = [100, 200, 400]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run or be skipped, and why.")]


def add_to(app: typer.Typer) -> None:
    """Give ``penstock`` these verbs."""
    app.command()(score)
    app.add_typer(screen_app, name="screen")


def score(
    corpus: Annotated[
        str, typer.Argument(help="A dataset or run of penstock, or files that sources read.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Local folder of a causal LM, or a run that trained one.")],
    out: Annotated[str, typer.Option(help="Folder or URL for the datasets of scores.")],
    reference: Annotated[
        str | None, typer.Option(help="Corpus of DC-PDD's token counts, or earlier scores that have them.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of each text that are read.")] = 512,
    min_k: Annotated[float, typer.Option(help="Share of the lowest tokens of Min-K and Min-K++.")] = 0.2,
    cap: Annotated[float, typer.Option(help="The most that one token adds to DC-PDD.")] = 0.01,
    text_column: Annotated[str | None, typer.Option(help="Column of the text in files; default: text.")] = None,
    text_unit: Annotated[str, typer.Option(help="What a text of plain files is: file, paragraph, line.")] = "file",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Weights in float32 or bfloat16.")] = "float32",
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of a forward pass; default: by device.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes with a copy each; 0: this one, all cores.")] = 0,
    texts_per_split: Annotated[int, typer.Option(help="Texts that a stopped run may lose; changes no score.")] = 1000,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Make gradient features of each text too, those of LESS.")
    ] = False,
    set_: Annotated[list[str], typer.Option("--set", help="A setting of the features: less.KEY=VALUE.")] = [],  # noqa: B006
    dry_run: DryRun = False,
) -> None:
    """Score texts by a causal language model.

    Loss, entropy, zlib, Min-K, Min-K++, DC-PDD and the machine-text statistics, in one forward pass. They are evidence:
    nothing is dropped. A stopped run resumes.
    """
    from penstock.flows.choosing import score as score_texts
    from penstock.flows.choosing import score_steps
    from penstock.scoring.run import check
    from penstock.scoring.tables import print_checks, print_scores
    from penstock.terminal import resumable

    given: dict[str, Any] = {
        "corpus": corpus,
        "model": model,
        "reference": reference,
        "max_tokens": max_tokens,
        "min_k": min_k,
        "cap": cap,
        "text_column": text_column,
        "text_unit": text_unit,
        "device": device,
        "dtype": dtype,
        "batch_tokens": batch_tokens,
        "texts_per_split": texts_per_split,
        "gradients": gradients,
        "overrides": set_,
    }
    if dry_run:
        print_checks(check(score_steps(**given), out), out)
        return
    with resumable() as terminal:
        done = score_texts(**given, out=out, workers=workers, reporter=terminal)
    print_scores(done)


@screen_app.command("calibrate")
def screen_calibrate(
    scores: Annotated[str, typer.Argument(help="Scores of texts known to be innocent.", show_default=False)],
    out: Annotated[str, typer.Option(help="Folder or URL for the calibration.")],
    rate: Annotated[float, typer.Option(help="False-positive rate of each threshold.")] = 0.01,
    score: Annotated[list[str], typer.Option(help="Score to find thresholds of; again for more; default: all.")] = [],  # noqa: B006
    edge: Annotated[list[int], typer.Option(help="Tokens at which a length bucket begins; again for more.")] = _EDGES,
    machine_tokens: Annotated[int, typer.Option(help="Fewest tokens for machine-text scores.")] = 100,
    control: Annotated[str | None, typer.Option(help="Scores of other innocent texts, of another month.")] = None,
    positive: Annotated[str | None, typer.Option(help="Scores of texts that should be found.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Find thresholds at a named false-positive rate.

    By domain, language and length, from texts known to be innocent, which are kept with the thresholds.
    """
    from penstock.flows.choosing import calibrate, calibrate_steps
    from penstock.scoring.run import check
    from penstock.scoring.tables import print_calibration, print_checks
    from penstock.terminal import resumable

    given: dict[str, Any] = {
        "scores": scores,
        "rate": rate,
        "score": score,
        "edge": edge,
        "machine_tokens": machine_tokens,
        "control": control,
        "positive": positive,
    }
    if dry_run:
        print_checks(check(calibrate_steps(**given), out), out)
        return
    with resumable() as terminal:
        done = calibrate(**given, out=out, reporter=terminal)
    print_calibration(done)


@screen_app.command("apply")
def screen_apply(
    scores: Annotated[str, typer.Argument(help="Scores of the texts to screen.", show_default=False)],
    calibration: Annotated[str, typer.Option(help="What screen calibrate wrote.")],
    out: Annotated[str, typer.Option(help="Folder or URL for the flags.")],
    fdr: Annotated[float, typer.Option(help="False discovery rate at which a domain is named.")] = 0.05,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0: this one.")] = 0,
    dry_run: DryRun = False,
) -> None:
    """Flag scores beyond their thresholds, as evidence.

    Every row stays. The table at the end names the domains with more flags than chance.
    """
    from penstock.flows.choosing import screen
    from penstock.scoring.run import check
    from penstock.scoring.screen_step import apply_steps
    from penstock.scoring.tables import print_checks, print_flags
    from penstock.terminal import resumable

    if dry_run:
        print_checks(check(apply_steps(scores, calibration, fdr=fdr), out), out)
        return
    with resumable() as terminal:
        done = screen(scores, calibration, out, fdr=fdr, workers=workers, reporter=terminal)
    print_flags(done)
