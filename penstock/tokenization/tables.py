"""What the verbs of ``penstock tokenizer`` print: tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from penstock.report.tokenizers import shown
from penstock.terminal import PATH_CHARACTERS, plain, print_table, say, table
from penstock.tokenization.compare import FIGURES

if TYPE_CHECKING:
    from penstock.tokenization.compare import Comparison
    from penstock.tokenization.loading import Loaded
    from penstock.tokenization.mixture_inference import MixtureEstimate
    from penstock.tokenization.prune import Pruned
    from penstock.tokenization.sampling import Sample

_MOST_ROWS = 60
_MEASURED = 1_000_000  # bytes of each part of a sample whose tokens are counted


def print_sample(taken: Sample, loaded: Loaded, written: Sequence[str], console: Console | None = None) -> None:
    """The sample by cell with what the tokenizer makes of it, and the files written."""
    console = console or Console()
    made = table(("sample",), ("share", "asked", "documents", "bytes", "of", "bytes/token", "tokens/word"))
    start = 0
    for cell in taken.cells[:_MOST_ROWS]:
        rows = taken.table.slice(start, cell.documents_taken)
        start += cell.documents_taken
        size, tokens, words = _measured(rows["text"], loaded)
        made.add_row(
            plain(cell.label),
            f"{cell.bytes_taken / taken.bytes:.2%}" if taken.bytes else "",
            f"{cell.share:.2%}",
            f"{cell.documents_taken:,}",
            f"{cell.bytes_taken:,}",
            f"{cell.bytes:,}",
            f"{size / tokens:.3f}" if tokens else "–",
            f"{tokens / words:.3f}" if words else "–",
        )
    print_table(console, f"{loaded.vocabulary:,} tokens, learned from {taken.bytes:,} bytes", made, whole=True)
    _and_more(console, len(taken.cells), "parts")
    if taken.limited_by is not None and taken.asked is not None:
        name = next(cell.label for cell in taken.cells if cell.name == taken.limited_by)
        less = f"The sample is smaller than the {taken.asked:,} bytes asked for: there is no more text"
        say(console, less, *((" of ", plain(name), ", and the shares hold.") if taken.limited_by else (".",)))
    if taken.dropped:
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(taken.dropped.items()))
        say(console, "Records that are no text: ", plain(told))
    print_written(written, console)


def _measured(texts: pa.ChunkedArray, loaded: Loaded) -> tuple[int, int, int]:
    """Bytes, tokens, and words where there are such, of the first ``_MEASURED`` bytes: they are in order of a hash."""
    from penstock.tokenization.measures import spaceless, word_counts

    sizes = np.cumsum(pc.binary_length(texts).to_numpy().astype(np.int64))
    texts = texts.slice(0, int(np.searchsorted(sizes, _MEASURED)) + 1)
    tokens = sum(int(lengths.sum()) for _, lengths in loaded.encode(texts.to_pylist()))
    words = 0 if spaceless(texts) else int(word_counts(texts)[1].sum())
    return int(sizes[: len(texts)].max(initial=0)), tokens, words


def print_pruned(found: Pruned, before: Loaded, written: Sequence[str], console: Console | None = None) -> None:
    """What was kept and why."""
    console = console or Console()
    made = table(("tokens",), ("number",))
    made.add_row("before", f"{before.vocabulary:,}")
    made.add_row("the sample uses", f"{found.used:,}")
    told = {"used": "kept: used", "alphabet": "kept: single symbols", "added": "kept: added", "parts": "kept: parts"}
    for key, label in told.items():
        made.add_row(label, f"{found.kept_for[key]:,}")
    made.add_row("after", f"{len(found.old_ids):,}")
    print_table(console, f"Pruned on {found.tokens:,} tokens", made)
    print_written(written, console)


def print_comparison(found: Comparison, written: Sequence[str], console: Console | None = None) -> None:
    """Tokenizers, then every figure by group."""
    console = console or Console()
    of = table(("tokenizer",), ("vocabulary", "Gini", "MB/s"), ("normaliser", "space before a word", "sha256"))
    for one in found.tokenizers:
        of.add_row(
            plain(one.name),
            f"{one.vocabulary:,}",
            "–" if one.gini is None else f"{one.gini:.4f}",
            f"{one.megabytes_per_second:.1f}",
            plain(one.normalisation),
            one.leading_space,
            one.sha256[:12],
        )
    print_table(console, f"Corpus {found.conventions['corpus']}", of, whole=True)
    measured = found.measured()
    grid = table((str(found.conventions["grouped_by"]), "tokenizer"), [FIGURES[name][0] for name in measured])
    rows = [figure for group in found.groups() for figure in found.figures if figure["group"] == group]
    for figure in rows[:_MOST_ROWS]:
        group = str(figure["group"]) + ("" if figure["spaced"] else " *")
        grid.add_row(plain(group), plain(figure["tokenizer"]), *(shown(name, figure[name]) for name in measured))
    print_table(console, f"Figures, Rényi of order {found.conventions['renyi_alpha']:g}", grid, whole=True)
    _and_more(console, len(rows), "rows")
    if any(not figure["spaced"] for figure in rows):
        say(console, "* scripts without spaces between words: tokens/word and STRR mean nothing there")
    print_written(written, console)


def print_mixture(found: MixtureEstimate, written: Sequence[str], console: Console | None = None) -> None:
    """Shares by category in both units, and how well they explain the merges."""
    console = console or Console()
    made = table(("category",), ("share of pairs", "share of bytes"))
    for name in sorted(found.shares, key=lambda name: (-found.shares[name], name))[:_MOST_ROWS]:
        made.add_row(plain(name), f"{found.in_pairs[name]:.2%}", f"{found.in_bytes[name]:.2%}")
    print_table(console, f"Mixture from {found.explained:,} merges, solved in {found.unit}", made, whole=True)
    _and_more(console, len(found.shares), "categories")
    say(
        console,
        f"slack a merge {found.objective_per_merge:.3g}  merges unseen {found.unseen:,}, redundant {found.redundant:,}"
        f"  constraints {found.rows:,} in {found.rounds:,} rounds",
    )
    if "other" not in found.shares:
        say(
            console,
            "No category is named other: a kind of text that is missing here is spread over those that resemble it.",
        )
    print_written(written, console)


def print_facts(title: str, facts: dict[str, Any], written: Sequence[str], console: Console | None = None) -> None:
    """Plain facts, a line each."""
    console = console or Console()
    made = table(("fact",), ("value",))
    for key, value in facts.items():
        made.add_row(plain(key), f"{value:,}" if isinstance(value, int) else plain(str(value)))
    print_table(console, title, made)
    print_written(written, console)


def print_written(written: Sequence[str], console: Console) -> None:
    for path in written:
        say(console, plain(path, PATH_CHARACTERS))


def _and_more(console: Console, there: int, what: str) -> None:
    if there > _MOST_ROWS:
        say(console, f"and {there - _MOST_ROWS:,} more {what}")
