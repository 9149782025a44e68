"""The verbs that choose and judge texts, as plain functions: what ``penstock select``, ``score`` and ``screen`` do.

    from penstock.flows import score, select
    select("runs/corpus", ["wanted.jsonl"], "runs/chosen", by=["importance"], fraction=0.05)
    score("corpus/*.jsonl", "models/small", "runs/scores")

Functions called ``..._steps`` give the steps that a verb would build, for a dry run; they read what says how a dataset
was made, and write nothing. A verb that was stopped goes on when it is called again.

Price: that of the verb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError
from penstock.pipelines.engines import split_bytes

if TYPE_CHECKING:
    from penstock.scoring.run import Done
    from penstock.selection import Selected
    from penstock.step import Reporter, Step


def select_steps(
    pool: str,
    target: Sequence[str],
    by: Sequence[str] = (),
    fraction: float | None = None,
    count: int | None = None,
    tokens: int | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    tokenizer: str | None = None,
    overlap: str = "drop",
) -> tuple[list[Step], Mapping[str, float]]:
    """The steps of a selection, and the share of rows that may be dropped, by name. Arguments as of ``select``."""
    from penstock.selection import budget_of, plan, steps_of

    budget = budget_of(fraction, count, tokens)
    made = plan(by, overrides, model)
    return steps_of(pool, target, made, budget, tokenizer=tokenizer, overlap=overlap), made.max_dropped


def select(
    pool: str,
    target: Sequence[str],
    out: str,
    by: Sequence[str] = (),
    fraction: float | None = None,
    count: int | None = None,
    tokens: int | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    tokenizer: str | None = None,
    overlap: str = "drop",
    workers: int | None = None,
    split_mb: float = 32.0,
    *,
    reporter: Reporter | None = None,
) -> Selected:
    """Choose documents that are like a target set, by several methods beside chance and BM25.

    Args:
        pool: a run, a dataset, or files to choose from.
        target: files of texts like those that are wanted.
        out: folder or URL of the selection.
        by: methods: importance, diverse, loss, less, mona.
        fraction, count, tokens: how much, one of them: a share of the documents, documents, tokens.
        model: causal LM of less, mona and loss: a folder or a run.
        overrides: ``METHOD.KEY=VALUE``, ``embed.KEY=VALUE``, ``columns.text=NAME`` or ``max_dropped.NAME=SHARE``.
        tokenizer: ``tokenizer.json``, for a pool without token counts.
        overlap: what becomes of pool rows that are in the target: drop or refuse.
        workers: processes; by default one a core.
        split_mb: input megabytes of a split; changes no output.
        reporter: hears what happens.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    from penstock.selection import select as choose

    steps, max_dropped = select_steps(
        pool, target, by, fraction, count, tokens, model, overrides, tokenizer, overlap
    )  # fmt: skip
    size = split_bytes(split_mb)
    return choose(steps, out, workers=workers, reporter=reporter, split_bytes=size, max_dropped=max_dropped)


def score_steps(
    corpus: str,
    model: str,
    reference: str | None = None,
    max_tokens: int = 512,
    min_k: float = 0.2,
    cap: float = 0.01,
    text_column: str | None = None,
    text_unit: str = "file",
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int | None = None,
    texts_per_split: int = 1000,
    gradients: bool = False,
    overrides: Sequence[str] = (),
) -> list[Step]:
    """The steps of ``score``; arguments as of that."""
    from penstock.scoring.lm_scores import LanguageModelScores
    from penstock.scoring.run import score_steps as steps_of

    features: Any = None
    if gradients:
        from penstock.selection import plan

        runs = [f"less.{name}={value}" for name, value in {"device": device, "dtype": dtype}.items()]
        features = plan(["less"], [*runs, *overrides], model).methods["less"]
    elif overrides:
        raise ConfigError(f"{overrides[0]}: sets how gradient features are made; add --gradients (gradients=True)")
    work = LanguageModelScores.of(
        model, max_tokens=max_tokens, min_k=min_k, cap=cap, device=device, dtype=dtype, batch_tokens=batch_tokens
    )
    return steps_of(
        corpus,
        work,
        reference=reference,
        text_column=text_column,
        text_unit=text_unit,
        texts_per_split=texts_per_split,
        gradients=features,
    )


def score(
    corpus: str,
    model: str,
    out: str,
    reference: str | None = None,
    max_tokens: int = 512,
    min_k: float = 0.2,
    cap: float = 0.01,
    text_column: str | None = None,
    text_unit: str = "file",
    device: str = "auto",
    dtype: str = "float32",
    batch_tokens: int | None = None,
    workers: int = 0,
    texts_per_split: int = 1000,
    gradients: bool = False,
    overrides: Sequence[str] = (),
    *,
    reporter: Reporter | None = None,
) -> Done:
    """Score texts by a causal language model: likelihood, membership and machine-text statistics in one pass.

    Args:
        corpus: a dataset or run of penstock, or files that sources read.
        model: local folder of a causal LM, or a run that trained one.
        out: folder or URL for the datasets of scores.
        reference: corpus of DC-PDD's token counts, or earlier scores that have them.
        max_tokens: tokens of each text that are read.
        min_k: share of the lowest tokens of Min-K and Min-K++.
        cap: the most that one token adds to DC-PDD.
        text_column, text_unit: how files are read.
        device, dtype: of the model: cpu, cuda or auto; float32 or bfloat16.
        batch_tokens: tokens of a forward pass; by default what suits the device.
        workers: processes with a copy each; 0 is this one, with all cores.
        texts_per_split: texts that a stopped run may lose; changes no score.
        gradients: make gradient features of each text too, those of LESS.
        overrides: ``less.KEY=VALUE``, how these are made.
        reporter: hears what happens.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    from penstock.scoring.run import run_steps

    steps = score_steps(
        corpus, model, reference, max_tokens, min_k, cap, text_column, text_unit, device, dtype, batch_tokens,
        texts_per_split, gradients, overrides,
    )  # fmt: skip
    return run_steps(steps, out, workers=workers, reporter=reporter)


def calibrate_steps(
    scores: str,
    rate: float = 0.01,
    score: Sequence[str] = (),
    edge: Sequence[int] = (100, 200, 400),
    machine_tokens: int = 100,
    control: str | None = None,
    positive: str | None = None,
) -> list[Step]:
    """The steps of ``calibrate``; arguments as of that."""
    from penstock.scoring.screen_step import calibrate_steps as steps_of

    return steps_of(
        scores,
        scores=score,
        rate=rate,
        edges=tuple(edge),
        machine_tokens=machine_tokens,
        control=control,
        positive=positive,
    )


def calibrate(
    scores: str,
    out: str,
    rate: float = 0.01,
    score: Sequence[str] = (),
    edge: Sequence[int] = (100, 200, 400),
    machine_tokens: int = 100,
    control: str | None = None,
    positive: str | None = None,
    *,
    reporter: Reporter | None = None,
) -> Done:
    """Find thresholds of scores at a named false-positive rate.

    Args:
        scores: of texts that are known to be innocent.
        out: folder or URL for the calibration.
        rate: of false positives, of each threshold.
        score: names of scores that get thresholds; none stands for all.
        edge: tokens at which a bucket of lengths begins.
        machine_tokens: fewest tokens for machine-text scores.
        control: scores of other innocent texts, of another month.
        positive: scores of texts that should be found.
        reporter: hears what happens.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.scoring.run import run_steps

    steps = calibrate_steps(scores, rate, score, edge, machine_tokens, control, positive)
    return run_steps(steps, out, reporter=reporter)


def screen(
    scores: str,
    calibration: str,
    out: str,
    fdr: float = 0.05,
    workers: int = 0,
    *,
    reporter: Reporter | None = None,
) -> Done:
    """Flag scores beyond their thresholds, as evidence; every row stays.

    Args:
        scores: of the texts to screen.
        calibration: what ``calibrate`` wrote.
        out: folder or URL for the flags.
        fdr: false discovery rate at which a domain is named.
        workers: processes; 0 is this one.
        reporter: hears what happens.

    Raises:
        PenstockError: of the kind that says what to mend.
    """
    from penstock.scoring.run import run_steps
    from penstock.scoring.screen_step import apply_steps

    return run_steps(apply_steps(scores, calibration, fdr=fdr), out, workers=workers, reporter=reporter)
