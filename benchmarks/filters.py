"""C4's and FineWeb's rules against datatrove's: decisions, edited texts and speed on one core.

    c4             C4's rules for lines and documents
    c4_any_line    the same without the rule of terminal punctuation, as FineWeb runs them
    fineweb        FineWeb's rules, beside datatrove's with its own words and with words cut at whitespace as ours are

Both sides judge the same texts, one process each, in memory; seconds are of the processor. A decision is equal when
both keep, or both drop for the same reason; texts are compared where both keep. datatrove has no filter with
RefinedWeb's rules for lines.

Without ``--data`` the corpus is this Python installation's own text. ``--quick`` takes less of either.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.build import agreement, per_core
from benchmarks.corpora import from_environment, sample
from benchmarks.harness import Bar, Options, Result

FULL_MB, QUICK_MB = 16, 1
# ours, datatrove's words, least ratio of speeds
SIDES = (
    ("c4", "default", 10.0),
    ("c4_any_line", "default", 10.0),
    ("fineweb", "default", 10.0),
    ("fineweb", "whitespace", None),
)


def side(name: str, data: Path, decisions: Path) -> dict[str, Any]:
    """One run of this package's side."""
    command = [sys.executable, "-m", "benchmarks.filters_sides", name, "--data", str(data)]
    return harness.run_json([*command, "--decisions", str(decisions)])


def peer(python: Path, name: str, words: str, data: Path, decisions: Path) -> dict[str, Any]:
    script = str(harness.ROOT / "benchmarks" / "build_peer_datatrove.py")
    command = [str(python), script, "--data", str(data), "--workers", "1", "--words", words, "--filters", name]
    return harness.run_json([*command, "--decisions", str(decisions)])


def judged(path: Path) -> tuple[dict[tuple[str, int], str | None], dict[tuple[str, int], str]]:
    """Reason by document, None for kept, and the hash of each kept text."""
    with path.open(encoding="utf-8") as lines:
        found = {(one["file"], one["row"]): one for one in map(json.loads, lines)}
    reasons = {key: one["reason"] for key, one in found.items()}
    return reasons, {key: one["text"] for key, one in found.items() if one["reason"] is None}


def compare(name: str, words: str, least: float | None, python: Path, data: Path, repeats: int) -> Result:
    """One filter of ours beside datatrove's."""
    what = name if words == "default" else f"{name}, {words} words"
    ours, theirs = data / "ours.decisions", data / "theirs.decisions"
    runs = harness.alternate(
        {"ours": partial(side, name, data, ours), "theirs": partial(peer, python, name, words, data, theirs)}, repeats
    )
    ratio = harness.ratio(per_core(runs["ours"]), per_core(runs["theirs"]))
    (our_reasons, our_texts), (their_reasons, their_texts) = judged(ours), judged(theirs)
    same = agreement(our_reasons, their_reasons)
    both = our_texts.keys() & their_texts.keys()
    if not both:
        raise harness.BenchmarkError(f"{name}: no text is kept by both sides; give a folder with more prose")
    texts = sum(our_texts[key] == their_texts[key] for key in both) / len(both)
    bars = [
        Bar(name=f"{what}: reasons equal, share", value=same.reasons, op=">=", want=0.999),
        Bar(name=f"{what}: kept texts equal, share", value=texts, op=">=", want=0.999),
    ]
    if least is not None:
        bars.append(Bar(name=f"{what}: ours over datatrove's, times", value=ratio.median, op=">=", want=least))
    rows = [
        harness.row(f"{what}: ours", per_core(runs["ours"]), "MB/core-s"),
        harness.row(f"{what}: datatrove", per_core(runs["theirs"]), "MB/core-s"),
        harness.ratio_row(f"{what}: ours over datatrove's", ratio, repeats),
        {"what": f"{what}: equal reasons", "median": same.reasons, "unit": f"of {same.documents:,} texts"},
        {"what": f"{what}: other reasons", "median": sum(our_reasons[k] != r for k, r in their_reasons.items())},
        {"what": f"{what}: equal texts", "median": texts, "unit": f"of {len(both):,} kept by both"},
    ]
    versions = {n if n == "datatrove" else f"datatrove's {n}": v for n, v in runs["theirs"][0]["versions"].items()}
    return Result(rows=rows, bars=bars, versions=versions)


def measure(options: Options) -> Result:
    python = harness.peer("datatrove", quick=options.quick)
    result = Result(versions=harness.versions("pyarrow", "numpy", "numba"))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        data, megabytes = Path(folder), QUICK_MB if options.quick else FULL_MB
        if options.data is None:
            from_environment(data, megabytes)
        else:
            sample(options.data, data, megabytes)
        for name, words, least in SIDES if python else ():
            found = compare(name, words, least, python, data, 1 if options.quick else 2)
            result.rows += found.rows
            result.bars += found.bars
            result.versions |= found.versions
    if not result.bars:
        result.bars = [Bar(name="reasons equal to datatrove's, share", value=None, op=">=", want=0.999)]
    return result


if __name__ == "__main__":
    harness.main("filters", __doc__, measure)
