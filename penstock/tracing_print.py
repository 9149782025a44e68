"""The trace of a row in a terminal; names and texts from data are shown, not obeyed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from penstock.report.text import number
from penstock.terminal import PATH_CHARACTERS, count, plain, print_table, say, table
from penstock.tracing import Event, Trace, Trained
from penstock.tracing_order import Piece

STEPS = 200  # characters of a list of steps; --json has them all
_VALUE = 60  # characters of a value


def print_trace(found: Trace, console: Console | None = None) -> None:
    """Print what ``trace`` found, on stdout."""
    console = console or Console()
    say(console, plain(found.doc_id, PATH_CHARACTERS, "bold"))
    for name, value in found.origin.items():
        say(console, f"{name:<9} ", plain(value, PATH_CHARACTERS))
    if found.file is not None:
        say(console, "file      ", plain(found.file, PATH_CHARACTERS), f", row {found.row:,}")
    if found.split is not None:
        say(console, f"{'split':<9} ", plain(found.split))
    _events(found, console)
    _cluster(found, console)
    _scores(found, console)
    _placed(found, console)
    _packed(found, console)
    _trained(found, console)
    for note in found.notes:
        say(console, ("note: ", "yellow"), plain(note, PATH_CHARACTERS))


def told(event: Event) -> str:
    """What an event says beside its step and its kind, on one line."""
    parts = [": ".join(part for part in (event.by, event.reason) if part)]
    if event.detail is not None:
        parts.append(f"see {event.detail}" if event.reason and "duplicate" in event.reason else event.detail)
    if event.bytes is not None:
        parts.append(f"text of {event.bytes[0]:,} bytes, now {event.bytes[1]:,}")
    parts.append(facts(event.facts))
    return "; ".join(part for part in parts if part)


def facts(values: Mapping[str, Any]) -> str:
    """Columns and their values on one line, long values cut."""
    return ", ".join(f"{name} {value(of)}" for name, of in values.items())


def value(of: Any) -> str:
    """A value as people read it."""
    if isinstance(of, float):
        return f"{of:.4g}"
    text = of if isinstance(of, str) else json.dumps(of, ensure_ascii=False, default=str)
    return text if len(text) <= _VALUE else text[: _VALUE - 1] + "…"


def spans(numbers: list[int], limit: int = STEPS) -> str:
    """Rising numbers with runs of them drawn together, ``3, 7–9``; the rest is counted where it gets too long."""
    found: list[list[int]] = []
    for n in numbers:
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    out = ""
    for place, (first, last) in enumerate(found):
        said = f"{first:,}" if first == last else f"{first:,}–{last:,}"
        if len(out) + len(said) + 2 > limit:
            left = sum(b - a + 1 for a, b in found[place:])
            return f"{out} and {left:,} more"
        out += f", {said}" if out else said
    return out


def runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that follow each other from sequence to sequence, together."""
    out: list[list[Piece]] = []
    for piece in pieces:
        last = out[-1][-1] if out else None
        if last and (last.split, last.domain, last.row + 1) == (piece.split, piece.domain, piece.row):
            out[-1].append(piece)
        else:
            out.append([piece])
    return out


def together(run: Sequence[Piece]) -> str:
    """The sequences of a run of pieces."""
    return f"{run[0].row:,}" if len(run) == 1 else f"{run[0].row:,}–{run[-1].row:,}"


def seen(of: Trained) -> str:
    """How often a run read a row, and in which steps, on one line."""
    if of.unknown is not None:
        return of.unknown
    if not of.reads:
        return f"not read in its {count(of.steps, 'step')}"
    learned = [read for read in of.reads if read.skipped is None]
    refused = [read.step for read in of.reads if read.skipped is not None]
    steps = spans(sorted({read.step for read in of.reads}))
    times = "once" if len(of.reads) == 1 else f"{len(of.reads):,} times"
    said = f"read {times} in its {count(of.steps, 'step')}: {steps}"
    losses = [loss for read in learned for loss in read.losses if loss is not None]
    if losses:
        said += f"; loss {number(losses[0])}" + (f", at last {number(losses[-1])}" if len(losses) > 1 else "")
    if refused:
        said += f"; nothing was learned in {spans(sorted(set(refused)))}, whose gradient was refused"
    return said


def _events(found: Trace, console: Console) -> None:
    shown = table(("step", "what", "told"))
    for event in found.events:
        shown.add_row(plain(event.step), event.what, plain(told(event), 1200))
    say(console)
    print_table(console, "Steps", shown)


def _cluster(found: Trace, console: Console) -> None:
    cluster = found.cluster
    if cluster is None:
        return
    shown = table(("row", "kind"))
    for name, kind in cluster.members:
        shown.add_row(plain(name), plain(kind))
    say(console)
    more = "" if len(cluster.members) == cluster.size else f", {len(cluster.members):,} of them below"
    print_table(console, f"Cluster of {count(cluster.size, 'row')}{more}", shown)


def _scores(found: Trace, console: Console) -> None:
    if found.scores:
        shown = table(("score",), ("value",))
        for name, score in found.scores.items():
            shown.add_row(plain(name), "none" if score is None else f"{score:.6g}")
        say(console)
        print_table(console, "Scores", shown)


def _placed(found: Trace, console: Console) -> None:
    if found.placed:
        shown = table(("dataset", "split", "file"), ("row", "copies"))
        for at in found.placed:
            copies = "" if at.copies is None else f"{at.copies:,}"
            shown.add_row(plain(at.dataset), plain(at.split), plain(at.file, PATH_CHARACTERS), f"{at.place:,}", copies)
        say(console)
        print_table(console, "Published", shown)


def _packed(found: Trace, console: Console) -> None:
    if found.packed:
        shown = table(("step", "split"), ("sequences", "segment", "first token", "tokens"), ("domain",))
        for packed in found.packed:
            for run in runs(packed.pieces):
                numbers = (run[0].segment, run[0].begin, sum(piece.tokens for piece in run))
                cells = (together(run), *(f"{n:,}" for n in numbers))
                shown.add_row(plain(packed.sequences), run[0].split, *cells, plain(run[0].domain))
        say(console)
        print_table(console, "Sequences, by their place in split and domain", shown)


def _trained(found: Trace, console: Console) -> None:
    if found.trained:
        shown = table(("model", "seen"))
        for of in found.trained:
            shown.add_row(plain(of.model), plain(seen(of), 1200))
        say(console)
        print_table(console, "Training", shown)
