"""The verbs that read texts by a language model: ``penstock score`` and ``penstock screen``.

Nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

screen_app = typer.Typer(
    help="Flag scores that stand out, at a known false-positive rate.", no_args_is_help=True, rich_markup_mode=None
)

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
    from penstock.errors import ConfigError
    from penstock.scoring.lm_scores import LanguageModelScores
    from penstock.scoring.run import check, score_steps
    from penstock.scoring.tables import print_checks, print_scores

    features = None
    if gradients:
        from penstock.selection import plan

        runs = {"device": device, "dtype": dtype}
        of_model = [f"less.{name}={value}" for name, value in runs.items()]
        features = plan(["less"], [*of_model, *set_], model).methods["less"]
    elif set_:
        raise ConfigError(f"--set {set_[0]}: sets how gradient features are made; add --gradients")
    work = LanguageModelScores.of(
        model,
        max_tokens=max_tokens,
        min_k=min_k,
        cap=cap,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
    )
    steps = score_steps(
        corpus,
        work,
        reference=reference,
        text_column=text_column,
        text_unit=text_unit,
        texts_per_split=texts_per_split,
        gradients=features,
    )
    if dry_run:
        print_checks(check(steps, out), out)
    else:
        print_scores(_steps(steps, out, workers))


def _steps(steps: Any, out: str, workers: int) -> Any:
    from penstock.scoring.run import run_steps
    from penstock.terminal import resumable

    with resumable() as terminal:
        return run_steps(steps, out, workers=workers, reporter=terminal)


@screen_app.command("calibrate")
def screen_calibrate(
    scores: Annotated[str, typer.Argument(help="Scores of texts known to be innocent.", show_default=False)],
    out: Annotated[str, typer.Option(help="Folder or URL for the calibration.")],
    rate: Annotated[float, typer.Option(help="False-positive rate of each threshold.")] = 0.01,
    score: Annotated[
        list[str] | None, typer.Option(help="Score to find thresholds of; again for more; default: all.")
    ] = None,
    edge: Annotated[
        list[int] | None, typer.Option(help="Tokens at which a length bucket begins; default: 100, 200, 400.")
    ] = None,
    machine_tokens: Annotated[int, typer.Option(help="Fewest tokens for machine-text scores.")] = 100,
    control: Annotated[str | None, typer.Option(help="Scores of other innocent texts, of another month.")] = None,
    positive: Annotated[str | None, typer.Option(help="Scores of texts that should be found.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Find thresholds at a named false-positive rate.

    By domain, language and length, from texts known to be innocent, which are kept with the thresholds.
    """
    from penstock.scoring.run import check
    from penstock.scoring.screen_step import calibrate_steps
    from penstock.scoring.tables import print_calibration, print_checks

    steps = calibrate_steps(
        scores,
        scores=score or (),
        rate=rate,
        edges=tuple(edge or (100, 200, 400)),
        machine_tokens=machine_tokens,
        control=control,
        positive=positive,
    )
    if dry_run:
        print_checks(check(steps, out), out)
    else:
        print_calibration(_steps(steps, out, 0))


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
    from penstock.scoring.run import check
    from penstock.scoring.screen_step import apply_steps
    from penstock.scoring.tables import print_checks, print_flags

    steps = apply_steps(scores, calibration, fdr=fdr)
    if dry_run:
        print_checks(check(steps, out), out)
    else:
        print_flags(_steps(steps, out, workers))
