"""A run record as one HTML page that loads nothing and runs nothing.

Documents are hostile: their text, names and ids come from the web. Three independent fences: every string that
the template prints passes ``visible`` and is then escaped (a finaliser of the environment, so no field can be
forgotten); charts are reduced to plain drawing elements (charts.py); and the page's own content security policy
forbids scripts and every kind of loading.

Price: 1 to 3 s, nearly all of it charts; the page is 0.2 to 1 MB, as tables, samples and texts are bounded here.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from penstock.report import text
from penstock.report.record import Amount, Distribution, DomainPoint, RunRecord, Stage, StepRecord, TrainingRecord
from penstock.report.templates import environment
from penstock.storage import Folder

MAX_DOMAIN_ROWS = 60
# small charts of a run: field of its record, title, format of its values
CURVES = (
    ("learning_rate", "learning rate", "~g"),
    ("tokens_per_second", "tokens per second", "~s"),
    ("target_loss", "loss of the target (nats per token)", "~g"),
    ("effective_samples", "effective share of the samples", ".0%"),
)
MAX_GROUPS = 60  # domains with kept samples, reasons with dropped ones
MAX_SAMPLES = 10  # of each of them
MAX_REASONS = 200
MAX_TEXT = 1200  # characters of one sample
MAX_NAME = 200  # characters of a name, an id, a reason
MAX_PRINTED = 20_000  # characters of any one string, such as a step's parameters


def render(record: RunRecord) -> str:
    """The page as a string. The same record gives the same page where the same fonts are installed."""
    template = _environment().get_template("report.html.j2")
    page = template.render(
        run=record,
        summary=summary(record),
        warnings=[*record.warnings, *checks(record)],
        charts={name: Markup(svg) for name, svg in _charts(record)},
        domain_table=domain_table(record.domains),
        lineage=lineage(record.steps),
        dropped_groups=_groups(record.dropped, lambda s: (s.step, s.reason)),
        made_kinds=Counter(record.made.map.kinds) if record.made and record.made.map else {},
        made_groups=_groups(record.made.samples if record.made else (), lambda s: s.reason),
        kept_groups=_groups(record.kept, lambda s: s.domain),
        trained=(*record.training, *record.beside),
        validation_domains=sorted({d for t in (*record.training, *record.beside) for d in t.validation_loss})[
            :MAX_DOMAIN_ROWS
        ],
    )
    return page.lstrip()


def write(record: RunRecord, path: str | Path) -> None:
    """Render ``record`` into the file ``path``, a local path or the URL of an object, replacing it in one piece.

    Raises:
        StorageError: the place cannot be written.
    """
    folder, _, name = str(path).rpartition("/")
    page = render(record).encode("utf-8")
    Folder(folder or ("/" if str(path).startswith("/") else ".")).write_bytes(name, page)


def summary(record: RunRecord) -> str:
    """What was made, in a sentence or two of plain words."""
    out = record.outcome
    rows_read = sum(source.rows for source in record.sources)
    read = (
        f"From {text.amount(rows_read)} rows of {_plural(len(record.sources), 'source')}, this"
        if record.sources
        else "This"
    )
    tokens = (
        f" ({text.size(out.bytes)}, {text.amount(out.tokens)} tokens)"
        if out.tokens is not None
        else f" ({text.size(out.bytes)})"
    )
    line = f"{read} run made a dataset of {text.amount(out.rows)} rows{tokens} in {_plural(out.domains, 'domain')}"
    line += f", selected in {out.rounds} rounds." if out.rounds > 1 else "."
    if record.training:
        last = record.training[-1]
        loss = (
            f" and ended at a validation loss of {text.number(out.final_loss)} nats per token"
            if out.final_loss is not None
            else ""
        )
        size = f" A model of {text.amount(last.parameters)} parameters"
        line += f"{size} was trained on {text.amount(last.tokens)} tokens of it{loss}."
    return line


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def checks(record: RunRecord) -> list[str]:
    """Sentences about numbers of the record that do not fit together, and about budgets passed."""
    found = []
    for step in record.steps:
        if step.balance:
            found.append(_unbalanced(f"Step {step.name}", step))
        if step.budget_seconds is not None and step.seconds > step.budget_seconds:
            took, budget = text.duration(step.seconds), text.duration(step.budget_seconds)
            found.append(f"Step {step.name} took {took}; its budget is {budget}.")
    for before, stage in zip((None, *record.stages), record.stages, strict=False):
        if stage.balance:
            found.append(_unbalanced(f"Stage {stage.name}", stage))
        if before is not None and stage.rows_in != before.rows_kept:
            kept = f"but {before.name} before it kept {before.rows_kept:,}"
            found.append(f"Stage {stage.name} took in {stage.rows_in:,} rows, {kept}.")
    for training in (*record.training, *record.beside):
        odd = sum(not math.isfinite(v) for v in training.train_loss.values)
        if odd:
            what = _plural(odd, "logged loss value")
            found.append(f"Training round {_run_name(training)}: {what} not finite; the charts leave them out.")
    return found


def _unbalanced(what: str, counts: StepRecord | Stage) -> str:
    return (
        f"{what} does not balance: {counts.rows_in:,} rows in + {counts.rows_made:,} made "
        f"is not {counts.rows_kept:,} kept + {counts.rows_dropped:,} dropped."
    )


@dataclass(frozen=True)
class DomainRow:
    """A line of the domain table: one amount for each point, None where the domain has no rows there."""

    name: str
    amounts: tuple[Amount | None, ...]


def domain_table(points: Iterable[DomainPoint]) -> list[DomainRow]:
    """Domains by their rows at the first point they appear in, largest first, the rest as one line, then the total."""
    points = tuple(points)
    order: dict[str, int] = {}
    for point in points:
        for name, held in point.domains.items():
            order.setdefault(name, held.rows)
    names = sorted(order, key=lambda name: (-order[name], name))
    rows = [DomainRow(name, tuple(p.domains.get(name) for p in points)) for name in names[:MAX_DOMAIN_ROWS]]
    rest = names[MAX_DOMAIN_ROWS:]
    if rest:
        others = tuple(_total(p.domains[n] for n in rest if n in p.domains) for p in points)
        rows.append(DomainRow(f"{_plural(len(rest), 'other domain')}", others))
    if rows:
        rows.append(DomainRow("all", tuple(_total(p.domains.values()) for p in points)))
    return rows


def _total(amounts: Iterable[Amount]) -> Amount:
    held = list(amounts)
    tokens = None if any(a.tokens is None for a in held) else sum(a.tokens or 0 for a in held)
    return Amount(rows=sum(a.rows for a in held), bytes=sum(a.bytes for a in held), tokens=tokens)


def quantile(shown: Distribution, counts: tuple[int, ...], q: float) -> float | None:
    """The ``q`` quantile of a histogram, rows spread evenly over their bin on its scale; None without rows."""
    total = sum(counts)
    if not total:
        return None
    wanted, seen = q * total, 0
    for i, n in enumerate(counts):
        if n and seen + n >= wanted:
            low, high, part = shown.edges[i], shown.edges[i + 1], (wanted - seen) / n
            return low * (high / low) ** part if shown.scale == "log" else low + (high - low) * part
        seen += n
    return shown.edges[-1]


@dataclass(frozen=True)
class LineageNode:
    """A dataset in the tree: ``step`` is None when another run made it; ``again`` when it stands further up in full."""

    name: str
    digest: str
    step: StepRecord | None
    again: bool
    parents: tuple[LineageNode, ...] = ()


def lineage(steps: tuple[StepRecord, ...]) -> list[LineageNode]:
    """Trees from the datasets that nothing else was made from, down to what they were made of; each told once."""
    by_name = {step.name: step for step in steps}
    used = {parent.name for step in steps for parent in step.parents}
    told: set[str] = set()

    def node(name: str, digest: str) -> LineageNode:
        step = by_name.get(name)
        if step is None or name in told:
            return LineageNode(name, digest, step, step is not None)
        told.add(name)
        return LineageNode(name, digest, step, False, tuple(node(p.name, p.digest) for p in step.parents))

    # the newest result first; a second pass would tell steps of a cycle, which no run can make but a record can hold
    ends = [s for s in reversed(steps) if s.name not in used]
    return [node(s.name, s.digest) for s in (*ends, *reversed(steps)) if s.name not in told]


def _groups(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Samples by ``key`` in the order of their first; no group and no page may grow without bound."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        group = groups.setdefault(key(item), []) if len(groups) < MAX_GROUPS else groups.get(key(item), [])
        if len(group) < MAX_SAMPLES:
            group.append(item)
    return groups


def _charts(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Name and SVG of every chart that has something to show."""
    from penstock.report import (
        charts,
        charts_generation,
        charts_policy,
        charts_refresh,
        charts_selection,
        charts_training,
    )

    if record.made is not None:
        if any(voyage.rounds for voyage in record.made.voyages):
            yield "diversity", charts_generation.diversity_over_items(record.made.voyages)
        if record.made.voyages[0].rounds:
            yield "acceptance", charts_generation.accepted_against_rejected(record.made.voyages[0])
        if record.made.map is not None:
            yield "made-map", charts_generation.made_map(record.made.map)
    if record.stages:
        yield "waterfall", charts.waterfall(record.stages)
    if any(point.domains for point in record.domains):
        yield "domains", charts.domain_shares(record.domains)
    if record.map is not None and record.map.x:
        yield "map-group", charts.document_map(record.map, "group")
        if len(set(record.map.domains)) > 1:
            yield "map-domain", charts.document_map(record.map, "domain")
    for i, shown in enumerate(record.distributions):
        if any(sum(g.selected) + sum(g.not_selected) for g in shown.groups):
            yield f"distribution-{i}", charts.distribution(shown)
    search = record.search
    if search is not None and _any_finite([[p.measured + p.predicted for p in search.points]]):
        yield "predicted", charts_selection.predicted_against_measured(search)
    if search is not None and any(share > 0 for share in search.importances.values()):
        yield "importances", charts_selection.importances(search)
    if record.tokenizer is not None and any(d.tokens for d in record.tokenizer.domains):
        yield "tokenizer", charts.bytes_per_token(record.tokenizer)
    trained = (*record.training, *record.beside)
    if _any_finite(t.train_loss.values for t in trained):
        yield "training", charts_training.training_loss(trained)
    for name, draw in (
        ("validation_loss", charts_training.validation_loss),
        ("domain_loss", charts_training.domain_loss),
    ):
        if _any_finite(c.values for t in trained for c in getattr(t, name).values()):
            yield name, draw(trained)
    for name, title, shape in CURVES:
        if _any_finite(getattr(t, name).values for t in trained):
            yield name, charts_training.curve_of(trained, name, title, shape)
    for i, training in enumerate(trained):
        if training.mixture is not None and training.mixture.effective_from:
            yield f"mixture-{i}", charts_training.mixture(training)
    policy = record.policy
    if policy is not None and _any_finite([policy.reward.values]):
        yield "reward", charts_policy.reward(policy)
    if policy is not None and _any_finite([policy.zero_gradient.values]):
        yield "zero-gradient", charts_policy.zero_gradient(policy)
    if policy is not None and policy.passes:
        yield "pass-at-k", charts_policy.pass_at_k(policy)
    refresh = record.refresh
    if refresh is not None and _any_finite([[of.difference for one in refresh.rounds for of in one.losses]]):
        yield "differences", charts_refresh.differences(refresh)
    for i, change in enumerate(record.changes):
        if change.domains:
            yield f"shares-{i}", charts.round_shares(change)
        if _any_finite([[c.excess_loss for c in change.domains if c.excess_loss is not None]]):
            yield f"excess-{i}", charts.excess_loss(change)


def _any_finite(curves: Iterable[Iterable[float]]) -> bool:
    return any(math.isfinite(value) for curve in curves for value in curve)


def _run_name(training: TrainingRecord) -> str:
    return f"{training.round}" + (f", {training.name}" if training.name else "")


def _final_train_loss(training: TrainingRecord) -> float | None:
    """Mean of the last tenth of the logged losses that are finite, at least one: a single step is noise."""
    finite = [v for v in training.train_loss.values if math.isfinite(v)]
    tail = finite[-max(1, len(finite) // 10) :]
    return sum(tail) / len(tail) if tail else None


def _finalise(value: Any) -> Any:
    """Every printed string made visible and bounded; ready-made markup and numbers as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return text.visible(text.shorten(value, MAX_PRINTED))


def _excerpt(value: str, limit: int = MAX_TEXT) -> str:
    """The beginning of a text, saying how much there is when that is not all."""
    return value if len(value) <= limit else f"{value[:limit]}… ({len(value):,} characters)"


def _name(value: Any) -> str:
    return text.one_line(str(value), MAX_NAME)


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _top_reasons(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """Reasons by rows, most first, the many that are left as one line."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[MAX_REASONS:]
    return ranked[:MAX_REASONS] + ([(f"{_plural(len(rest), 'other reason')}", sum(n for _, n in rest))] if rest else [])


@functools.cache
def _environment() -> jinja2.Environment:
    made = environment(resources.files("penstock.report"), _finalise)
    made.filters |= {
        "amount": text.amount,
        "count": text.count,
        "duration": text.duration,
        "excerpt": _excerpt,
        "final_train_loss": _final_train_loss,
        "run_name": _run_name,
        "name": _name,
        "number": text.number,
        "pretty": _pretty,
        "short": lambda digest: digest[:8],
        "signed": text.signed,
        "size": text.size,
        "top_reasons": _top_reasons,
    }
    made.globals |= {"percent": text.percent, "quantile": quantile}
    return made
