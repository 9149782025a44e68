"""What the verbs of scoring print: tables on stdout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from penstock.scoring.calibration import CalibrationSettings, cell_name, least_texts
from penstock.scoring.formulas import SCORES
from penstock.scoring.gradients_step import GRADIENTS
from penstock.scoring.run import Done
from penstock.scoring.step import TABLE
from penstock.step import Check
from penstock.terminal import PATH_CHARACTERS, plain, print_table, say, table

_MOST_ROWS = 40


def print_checks(checks: Sequence[Check], out: str, console: Console | None = None) -> None:
    """What a dry run found: what each step would do, and why."""
    shown = table(("step", "would", "why"))
    for check in checks:
        shown.add_row(plain(check.step.name), "skip" if check.skip else "run", plain(check.why))
    print_table(console or Console(), f"Dry run into {out}", shown)


def print_scores(done: Done, console: Console | None = None) -> None:
    """Texts, tokens, and the mean of every score over the texts that have it, by domain."""
    console = console or Console()
    scored, gradients = done.of(TABLE), done.of(GRADIENTS)
    assert scored is not None
    manifest = scored.manifest
    domains: dict[str, dict[str, Any]] = manifest.stats["domains"]
    scores = [name for name in SCORES if any(of[name]["texts"] for of in domains.values())]
    shown = table(("domain",), ("texts", "tokens", "cut", *scores, "perplexity"))
    largest = sorted(domains, key=lambda name: (-domains[name]["tokens"], name))
    for name in largest[:_MOST_ROWS]:
        of = domains[name]
        means = [of[score]["sum"] / of[score]["texts"] if of[score]["texts"] else None for score in scores]
        loss = means[0] if means else None  # the mean of texts, each counted once
        shown.add_row(
            plain(name),
            f"{of['texts']:,}",
            f"{of['tokens']:,}",
            f"{of['truncated'] / of['texts']:.0%}",
            *("" if mean is None else f"{mean:.4g}" for mean in means),
            "" if loss is None else f"{math.exp(min(loss, 700.0)):,.1f}",
        )
    print_table(console, "Scores, means over texts", shown, whole=True)
    _and_more(console, len(largest), "domains")
    texts = sum(of["texts"] for of in domains.values())
    without = texts - sum(of["loss"]["texts"] for of in domains.values())
    if without:
        say(console, f"{without:,} of {texts:,} texts have fewer than two predicted tokens and no score")
    settings = manifest.stats["scores"]
    reference = settings["reference"] or "none, so no dcpdd"
    say(
        console,
        f"model {settings['model'][:12]}  tokenizer {settings['tokenizer'][:12]}  max_tokens {settings['max_tokens']}  "
        f"reference {reference}",
    )
    if gradients is not None:
        facts = gradients.manifest
        losses = ", ".join(f"{epoch['loss']:.3f}" for epoch in facts.stats["warmup"])
        say(
            console,
            f"gradients of {facts.stats['with_gradient']:,} of {facts.counts.kept:,} texts; "
            f"the warm-up's loss by epoch: {losses}",
        )
    print_where(done, console)


def print_calibration(done: Done, console: Console | None = None) -> None:
    """Thresholds by cell and score, in the score's own sign, and which scores are not usable where."""
    console = console or Console()
    facts = done.dataset.manifest.stats["calibration"]
    settings = CalibrationSettings.from_json(facts["settings"])
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in facts["thresholds"]:
        cell = (entry["domain"], entry["language"], entry["bucket"])
        cells.setdefault(cell_name(cell, settings), {})[entry["score"]] = entry
    unusable = {(control["score"], control["domain"]) for control in facts["controls"] if not control["usable"]}
    shown = table(("cell",), ("texts", *settings.scores))
    for name, entries in list(cells.items())[:_MOST_ROWS]:
        texts = max(entry["texts"] for entry in entries.values())
        shown.add_row(plain(name), f"{texts:,}", *(_threshold(entry, unusable) for entry in entries.values()))
    print_table(console, f"Thresholds at a false-positive rate of {settings.rate:.2%}", shown, whole=True)
    _and_more(console, len(cells), "cells")
    if any(entry["threshold"] is None for entry in facts["thresholds"]):
        few, short = least_texts(settings.rate), settings.machine_tokens
        say(
            console, f"–: no threshold; a cell needs {few:,} texts, and for machine-text scores texts of {short} tokens"
        )
    if not facts["controlled"]:
        say(console, "no negative control: whether these scores read time or topic is not known; name one: --control")
    for control in facts["controls"]:
        if not control["usable"]:
            what = f"{control['score']} in {control['domain']}"
            say(console, plain(f"not usable: {what} tells two innocent sets apart (AUC {control['auc']:.3f})"))
    found = [entry for entry in facts["thresholds"] if entry.get("positive", {}).get("texts")]
    if found:
        shown = table(("score", "cell"), ("texts", "found"))
        for entry in found[:_MOST_ROWS]:
            cell = (entry["domain"], entry["language"], entry["bucket"])
            of = entry["positive"]
            shown.add_row(
                entry["score"], plain(cell_name(cell, settings)), f"{of['texts']:,}", f"{of['found'] / of['texts']:.1%}"
            )
        print_table(console, "Positive control", shown, whole=True)
        _and_more(console, len(found), "rows")
    print_where(done, console)


def _threshold(entry: dict[str, Any], unusable: set[tuple[str, str]]) -> str:
    if (entry["score"], entry["domain"]) in unusable:
        return "not usable"
    if entry["threshold"] is None:
        return "–"
    large = SCORES[entry["score"]].suspicious == "large"
    value = entry["threshold"] if large else -entry["threshold"]
    return f"{'>' if large else '<'} {value:.4g}"


def print_flags(done: Done, console: Console | None = None) -> None:
    """Cells and scores with more flags than their rate explains first, each with its adjusted p value."""
    console = console or Console()
    manifest = done.dataset.manifest
    screened, cells = manifest.stats["screened"], manifest.stats["excess"]
    named = ("more than chance",) if any(entry["named"] for entry in cells) else ()
    shown = table(("cell", "score"), ("texts", "flagged", "expected", "p", "q", *named))
    for entry in cells[:_MOST_ROWS]:
        shown.add_row(
            plain(entry["cell"]),
            entry["score"],
            f"{entry['texts']:,}",
            f"{entry['flagged']:,}",
            f"{entry['expected']:,.1f}",
            f"{entry['p']:.2g}",
            f"{entry['q']:.2g}",
            *(["yes" if entry["named"] else ""] * len(named)),
        )
    print_table(console, f"Flags at a rate of {screened['rate']:.2%}, as evidence only", shown, whole=True)
    _and_more(console, len(cells), "rows")
    rows, with_cell = manifest.counts.kept, sum(max(s["texts"] for s in t.values()) for t in _tested(manifest))
    if rows > with_cell:
        say(console, f"{rows - with_cell:,} of {rows:,} texts have no threshold or are reference texts: not screened")
    if not screened["controlled"]:
        say(console, "the calibration has no negative control: flags may read time or topic")
    print_where(done, console)


def _tested(manifest: Any) -> list[dict[str, Any]]:
    return list(manifest.stats.get("tested", {}).values())


def _and_more(console: Console, count: int, what: str) -> None:
    if count > _MOST_ROWS:
        say(console, f"and {count - _MOST_ROWS:,} more {what}")


def print_where(done: Done, console: Console) -> None:
    """The folder of what was made and its digest."""
    dataset = done.dataset
    seconds = sum(result.seconds for result in done.steps)
    what = "up to date" if all(result.skipped for result in done.steps) else f"{seconds:.1f} s"
    say(console, plain(dataset.folder.url, PATH_CHARACTERS), f"  digest {dataset.digest[:8]}  {what}")
