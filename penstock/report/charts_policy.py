"""Charts of learning from groups as inline SVG: reward and groups without gradient over steps, pass@k before and after.

Drawn as charts.py draws. Price: a curve is at most 300 points, each a mean over equally many values.
"""

from __future__ import annotations

import altair as alt

from penstock.report.charts import MAX_DOMAINS, ROWS, SERIES, WIDTH, Data, convert, palette
from penstock.report.charts_training import smooth, thin
from penstock.report.record import PolicyRecord
from penstock.report.text import labels

SHARES = {"zero_gradient": "all equal", "all_zero": "all 0", "all_one": "all 1"}


def _step() -> alt.X:
    return alt.X(
        "step:Q",
        title="step",
        axis=alt.Axis(format="~s", grid=False, tickCount=5),
        scale=alt.Scale(nice=False),
    )


def reward(policy: PolicyRecord) -> str:
    """Mean reward by step: faint as logged (thinned), strong smoothed."""
    steps, raw = thin(policy.reward)
    values: Data = [
        {"step": s, "reward": r, "smooth": e}
        for s, r, e in zip(steps, raw, smooth(raw, max(2, len(raw) // 30)), strict=True)
    ]
    base = alt.Chart(ROWS, width=400, height=170).encode(x=_step(), color=alt.value(SERIES[0]))
    chart = base.mark_line(opacity=0.35, strokeWidth=1).encode(
        y=alt.Y("reward:Q", title="mean reward", axis=alt.Axis(tickCount=4))
    ) + base.mark_line().encode(y=alt.Y("smooth:Q", title="mean reward"))
    return convert(chart, values, f"Mean reward over {policy.steps} steps")


def zero_gradient(policy: PolicyRecord) -> str:
    """Shares of groups whose rewards are all equal, all 0 and all 1, by step."""
    values: Data = []
    for name, shown in SHARES.items():
        steps, raw = thin(getattr(policy, name))
        even = smooth(raw, max(2, len(raw) // 30))
        values += [{"step": s, "share": e, "what": shown} for s, e in zip(steps, even, strict=True)]
    chart = (
        alt.Chart(ROWS, width=400, height=170)
        .mark_line()
        .encode(
            x=_step(),
            y=alt.Y("share:Q", title="share of groups", axis=alt.Axis(format="%", tickCount=4)),
            color=alt.Color("what:N", scale=palette(list(SHARES.values()), [SERIES[0], SERIES[1], SERIES[2]])),
        )
    )
    return convert(chart, values, "Shares of groups whose rewards are all equal, all 0 and all 1, over steps")


def pass_at_k(policy: PolicyRecord) -> str:
    """pass@k against k, a colour for each held-out set; dashed before, drawn through after."""
    drawn = policy.passes[:MAX_DOMAINS]
    names = labels(found.name for found in drawn)
    values: Data = [
        {"k": k, "pass": value, "set": names[found.name], "when": when}
        for found in drawn
        for when, of in (("before", found.before), ("after", found.after))
        for k, value in zip(found.ks, of, strict=True)
    ]
    ticks = sorted({k for found in drawn for k in found.ks})
    chart = (
        alt.Chart(ROWS, width=WIDTH, height=230)
        .mark_line(point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("k:Q", title="k", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=ticks, grid=False)),
            y=alt.Y("pass:Q", title="pass@k", axis=alt.Axis(format="%")),
            color=alt.Color("set:N", scale=palette(list(names.values()), SERIES)),
            strokeDash=alt.StrokeDash("when:N", scale=alt.Scale(domain=["after", "before"], range=[[1, 0], [5, 4]])),
        )
    )
    return convert(chart, values, f"pass@k before and after on {len(drawn)} held-out sets")
