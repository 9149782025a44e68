"""Charts of training as inline SVG: losses, rates, the mixture and the sample weights over the steps of a run.

Drawn as charts.py draws. Price: a curve is at most 300 points, each a mean over equally many values.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from penstock.report.charts import MAX_DOMAINS, ROWS, SERIES, WIDTH, Data, convert, in_order, palette
from penstock.report.record import Curve, TrainingRecord
from penstock.report.text import labels, one_line

MAX_POINTS = 300


def thin(curve: Curve, points: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most ``points`` (step, value) pairs: means over runs of equally many finite values, in order."""
    steps, values = np.asarray(curve.steps, dtype=np.float64), np.asarray(curve.values, dtype=np.float64)
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(values) > points:
        starts = np.linspace(0, len(values), points, endpoint=False).astype(np.int64)
        sizes = np.diff(np.append(starts, len(values)))
        steps, values = np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes
    return [float(s) for s in steps], [float(v) for v in values]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Centred moving average over ``reach`` values to each side, fewer near the ends, so that it never leans."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    side = np.minimum(reach, np.minimum(at, len(values) - 1 - at))
    return [float(v) for v in (sums[at + side + 1] - sums[at - side]) / (2 * side + 1)]


def run_name(training: TrainingRecord) -> str:
    """How a trained model is called: by its round, and by its name where it was trained beside another."""
    return f"round {training.round}" + (f", {one_line(training.name, 32)}" if training.name else "")


def _runs(trainings: Sequence[TrainingRecord]) -> alt.Color:
    return alt.Color("run:N", scale=palette([run_name(t) for t in trainings], SERIES))


def training_loss(trainings: Sequence[TrainingRecord]) -> str:
    """Training loss by step: faint as logged (thinned), strong smoothed; one colour a run."""
    values: Data = []
    for training in trainings:
        steps, raw = thin(training.train_loss)
        even = smooth(raw, len(raw) // 60)
        values += [
            {"step": s, "loss": r, "smooth": e, "run": run_name(training)}
            for s, r, e in zip(steps, raw, even, strict=True)
        ]
    base = alt.Chart(ROWS, width=WIDTH, height=230).encode(
        x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(format="~s", grid=False), scale=alt.Scale(nice=False)),
        color=_runs(trainings),
    )
    y = alt.Scale(zero=False)
    chart = base.mark_line(opacity=0.35, strokeWidth=1).encode(
        y=alt.Y("loss:Q", scale=y, title="training loss (nats per token)")
    ) + base.mark_line().encode(y=alt.Y("smooth:Q", scale=y, title="training loss (nats per token)"))
    return convert(chart, values, f"Training loss over optimiser steps, {_count_runs(trainings)}")


def _count_runs(trainings: Sequence[TrainingRecord]) -> str:
    return f"{len(trainings)} run" + ("s overlaid" if len(trainings) != 1 else "")


def curve_of(trainings: Sequence[TrainingRecord], field: str, title: str, format: str) -> str:
    """One small chart of a curve of the records, such as ``learning_rate``, by step; one colour a run."""
    values: Data = []
    for training in trainings:
        for step, value in zip(*thin(getattr(training, field)), strict=True):
            values.append({"step": step, "value": value, "run": run_name(training)})
    chart = (
        alt.Chart(ROWS, width=400, height=150)
        .mark_line()
        .encode(
            x=alt.X(
                "step:Q",
                title="optimiser step",
                axis=alt.Axis(format="~s", grid=False, tickCount=5),
                scale=alt.Scale(nice=False),
            ),
            y=alt.Y(
                "value:Q",
                title=title,
                axis=alt.Axis(labelExpr=f"format(datum.value, {format!r})", tickCount=4),
                scale=alt.Scale(zero=not field.endswith("_loss")),  # runs differ by little of a loss
            ),
            color=_runs(trainings),
            # rounds often follow the same schedule; dashes keep the one below in sight
            strokeDash=alt.StrokeDash(
                "run:N",
                scale=alt.Scale(
                    domain=[run_name(t) for t in trainings],
                    range=[[1, 0] if i % 2 == 0 else [5, 4] for i in range(len(trainings))],
                ),
            ),
        )
    )
    return convert(chart, values, f"{title} over optimiser steps, {_count_runs(trainings)}")


def validation_loss(trainings: Sequence[TrainingRecord]) -> str:
    """Validation loss by step, one small chart a domain, one colour a run; domains in name order."""
    return _by_domain(trainings, "validation_loss", "Validation loss")


def domain_loss(trainings: Sequence[TrainingRecord]) -> str:
    """Training loss of each domain by step, one small chart a domain, one colour a run."""
    return _by_domain(trainings, "domain_loss", "Training loss")


def _by_domain(trainings: Sequence[TrainingRecord], field: str, title: str) -> str:
    names = sorted({domain for t in trainings for domain in getattr(t, field)})
    drawn = labels(names[:MAX_DOMAINS])
    values: Data = []
    for training in trainings:
        for order, (domain, label) in enumerate(drawn.items()):
            if domain not in getattr(training, field):
                continue
            for step, value in zip(*thin(getattr(training, field)[domain], 60), strict=True):
                values.append({"order": order, "domain": label, "step": step, "loss": value, "run": run_name(training)})
    chart = (
        alt.Chart(ROWS, width=(WIDTH - 100) / 3, height=100)
        .mark_line(point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X(
                "step:Q", title=None, axis=alt.Axis(format="~s", grid=False, tickCount=4), scale=alt.Scale(nice=False)
            ),
            y=alt.Y("loss:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
            color=_runs(trainings),
            facet=alt.Facet("domain:N", sort=in_order(), title=None, columns=3, spacing={"row": 60, "column": 48}),
        )
        .resolve_scale(y="independent")
        .resolve_axis(x="independent")
        .properties(bounds="flush")  # plots in line, whatever the width of their labels
    )
    return convert(chart, values, f"{title} of {len(drawn)} domains over optimiser steps, {_count_runs(trainings)}")


def mixture(training: TrainingRecord) -> str:
    """Shares of tokens by domain over the training order, stacked; domains by their largest share, the rest as one.

    A version holds from its first sequence to the next one's: the edges are steps, not slopes.
    """
    found = training.mixture
    assert found is not None, "drawn where there is a mixture"
    peak = {domain: max(shares) for domain, shares in found.weights.items()}
    ranked = sorted(peak, key=lambda domain: (-peak[domain], domain))
    drawn, rest = ranked[:MAX_DOMAINS], ranked[MAX_DOMAINS:]
    names = labels(drawn)
    begins = [at / max(found.sequences_a_step, 1) for at in found.effective_from]
    at = np.unique(np.linspace(0, len(begins) - 1, min(len(begins), MAX_POINTS)).astype(np.int64))
    ends = [*(begins[i] for i in at[1:].tolist()), max(float(training.steps), begins[-1])]
    values: Data = []
    for i, end in zip(at.tolist(), ends, strict=True):
        shares = {names[d]: found.weights[d][i] for d in drawn}
        if rest:
            shares["others"] = sum(found.weights[d][i] for d in rest)
        below = 0.0
        for order, (label, share) in enumerate(shares.items()):
            values.append(
                {"order": order, "domain": label, "step": begins[i], "end": end, "from": below, "to": below + share}
            )
            below += share
    shown = [*names.values(), *(["others"] if rest else [])]
    chart = (
        alt.Chart(ROWS, width=WIDTH, height=230)
        .mark_rect()
        .encode(
            x=alt.X(
                "step:Q",
                title="optimiser step",
                axis=alt.Axis(format="~s", grid=False),
                scale=alt.Scale(domain=[begins[0], ends[-1]], nice=False),
            ),
            x2="end:Q",
            y=alt.Y(
                "from:Q",
                title="share of tokens",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            y2="to:Q",
            color=alt.Color("domain:N", sort=in_order(), scale=palette(shown, SERIES)),
            opacity=alt.Opacity("order:Q", scale=alt.Scale(range=[1.0, 0.45]), legend=None),
        )
    )
    return convert(chart, values, f"Shares of {len(peak)} domains over the steps of {run_name(training)}")
