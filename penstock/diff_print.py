"""Two runs or datasets side by side in a terminal; names and texts from data are shown, not obeyed."""

from __future__ import annotations

from rich.console import Console

from penstock.diff import Changes, TableChanges
from penstock.report.text import signed, size
from penstock.terminal import PATH_CHARACTERS, count, plain, print_table, say, table

NAMES = 5  # of inputs that changed; --json has them all
KINDS = {"only_a": "only in A", "only_b": "only in B", "changed": "other text"}


def print_changes(changes: Changes, console: Console | None = None) -> None:
    """Print what ``diff`` found, on stdout."""
    console = console or Console()
    say(console, "A  ", plain(changes.a, PATH_CHARACTERS))
    say(console, "B  ", plain(changes.b, PATH_CHARACTERS))
    if changes.same:
        digests = f"digest {changes.pairs[0].a.digest}" if len(changes.pairs) == 1 and changes.pairs[0].a else ""
        say(console, f"the same: {digests or count(len(changes.pairs), 'dataset') + ', equal digests'}")
    else:
        _datasets(changes, console)
    _settings(changes, console)
    _drops(changes, console)
    for of in changes.tables:
        _rows(of, console)


def _datasets(changes: Changes, console: Console) -> None:
    shown = table(("dataset", ""), ("kept A", "kept B", "change"), ("digest A", "digest B"))
    for pair in changes.pairs:
        manifests = (pair.a, pair.b)
        state = "same" if pair.same else "only in A" if pair.b is None else "only in B" if pair.a is None else "differs"
        # a tokenizer or a model keeps no rows
        kept = [None if m is None or not (m.counts.rows_in or m.counts.made) else m.counts.kept for m in manifests]
        shown.add_row(
            plain(pair.name),
            state,
            *("" if n is None else f"{n:,}" for n in kept),
            "" if kept[0] is None or kept[1] is None else _change(kept[0], kept[1]),
            *("" if m is None else m.digest[:8] for m in manifests),
        )
    say(console)
    print_table(console, "Datasets", shown, whole=True)


def _settings(changes: Changes, console: Console) -> None:
    if changes.settings:
        shown = table(("step", "changed"))
        for step, found in changes.settings.items():
            for line in found:
                shown.add_row(plain(step), plain(line))
        say(console)
        print_table(console, "Settings", shown)
    if changes.inputs:
        shown = table(("step", "inputs"), ("number",), ("names",))
        for step, kinds in changes.inputs.items():
            for kind, names in kinds.items():
                if names:
                    more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
                    shown.add_row(plain(step), kind, f"{len(names):,}", plain(", ".join(names[:NAMES]) + more))
        say(console)
        print_table(console, "Inputs", shown)


def _drops(changes: Changes, console: Console) -> None:
    other = {key: rows for key, rows in changes.drops.items() if rows[0] != rows[1]}
    if not other:
        return
    shown = table(("step", "by", "reason"), ("A", "B", "change"))
    for (step, work, reason), (a, b) in other.items():
        shown.add_row(plain(step), plain(work), plain(reason), f"{a:,}", f"{b:,}", _change(a, b))
    say(console)
    print_table(console, f"Dropped ({count(len(changes.drops) - len(other), 'other reason')} as before)", shown)


def _rows(of: TableChanges, console: Console) -> None:
    rows = of.rows
    shown = table(("rows",), ("number",))
    lines = [
        ("in A", rows.rows[0]),
        ("in B", rows.rows[1]),
        ("same id, same text" if rows.texts_only is not None else "same id", rows.same),
        *([("same id, other text", rows.changed)] if rows.texts_only is not None else []),
        ("only in A", rows.only[0]),
        ("only in B", rows.only[1]),
        *([("in another split", rows.moved)] if rows.splits else []),
    ]
    if rows.texts_only is not None:
        lines += [("texts only in A", rows.texts_only[0]), ("texts only in B", rows.texts_only[1])]
    for line, number in lines:
        shown.add_row(line, f"{number:,}")
    say(console)
    print_table(console, f"Rows of {of.name}", shown)
    values = [(name, number) for name, number in rows.columns.items() if number]
    if values or of.columns_a or of.columns_b:
        shown = table(("column",), ("rows",), ("",))
        for name, number in values:
            shown.add_row(plain(name), f"{number:,}", "other value, same id")
        for names, where in ((of.columns_a, "only in A"), (of.columns_b, "only in B")):
            for name in names:
                shown.add_row(plain(name), "", where)
        say(console)
        print_table(console, f"Columns of {of.name}", shown)
    for title, groups in (("domain", rows.domains), ("split", rows.splits)):
        if groups:
            shown = table(
                (title,), ("rows A", "rows B", "change", "tokens A", "tokens B", "change", "bytes A", "bytes B")
            )
            for name, group in sorted(groups.items()):
                shown.add_row(
                    plain(name),
                    *(cell for pair in (group.rows, group.tokens) for cell in (*_both(pair), _change(*pair))),
                    *(size(n) if n else "" for n in group.bytes),
                )
            say(console)
            print_table(console, f"{of.name} by {title}", shown, whole=True)
    for sample in of.samples:
        say(console)
        head = f"{KINDS[sample.kind]}  "
        say(console, (head, "bold"), plain(sample.doc_id), "  ", plain(sample.domain or ""))
        for side, text in (("A", sample.a), ("B", sample.b)):
            if text is not None:
                say(console, f"  {side}: ", plain(text))


def _both(pair: list[int]) -> tuple[str, ...]:
    return tuple(f"{n:,}" if any(pair) else "" for n in pair)


def _change(a: int, b: int) -> str:
    return signed(b - a, 0) if a != b else ""
