"""README.md of a published dataset: the card that the Hub shows and ``datasets.load_dataset`` reads.

Every number in it is read from the manifest, so it cannot differ from the files. The front matter names the files of
each split and their exact row counts, which ``load_dataset`` compares with what it read.

Price: none; it holds one line for each split, domain, step and drop reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from penstock._yaml import load_yaml
from penstock.dataset import Manifest
from penstock.errors import DatasetError

SPLITS = ("train", "validation", "test")
# the Hub's words for the number of rows
SIZES = (
    *(("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7)),
    *(("10M<n<100M", 10**8), ("100M<n<1B", 10**9), ("1B<n<10B", 10**10), ("10B<n<100B", 10**11)),
    *(("100B<n<1T", 10**12), ("n>1T", 10**30)),
)
_FRONT = re.compile(r"---\r?\n(.*?\n)---\r?\n", re.DOTALL)
COLUMNS = {
    "doc_id": "file and row that the document comes from; unique",
    "text": "the document",
    "source": "source of the recipe that it was read from",
    "domain": "part of the corpus that it was counted and selected in",
    "url": "address that the source gives",
    "title": "title that the source gives",
    "date": "date that the source gives (ISO 8601)",
    "license": "licence that the source gives",
    "learn": "byte ranges of the text that training learns from, flat [start, stop, …]; null is all of it",
    "language": "language found in the text",
    "bytes": "UTF-8 bytes of the text",
    "tokens": "tokens of the text",
    "cluster": "doc_id of the document that stands for those nearly the same; null where there are none",
    "cluster_size": "documents that are nearly the same, this one too",
    "quadmix.rank": "share of the domain's tokens in documents of a better merged score",
    "quadmix.value": "expected copies",
    "copies": "how often the selection takes the row: train on it that often",
}


def splits_of(manifest: Manifest) -> list[str]:
    """Published splits, train first."""
    return [name for name in SPLITS if name in manifest.tables]


def title_of(manifest: Manifest) -> str:
    """The name that the recipe gave the dataset."""
    return str(manifest.key_parts.get("settings", {}).get("title", manifest.step))


def card_settings(manifest: Manifest) -> dict[str, Any]:
    """What the recipe's ``card`` section says: license, description, citation, homepage, languages."""
    found: dict[str, Any] = manifest.key_parts.get("settings", {}).get("card", {})
    return found


def text_bytes(manifest: Manifest, split: str) -> int:
    """UTF-8 bytes of text in a published split."""
    return sum(domain["bytes"] for domain in manifest.stats["domains"].get(split, {}).values())


def tokens_of(manifest: Manifest, split: str) -> int:
    """Tokens of a published split."""
    return sum(manifest.stats.get("tokens", {}).get(split, {}).values())


def data_files(manifest: Manifest) -> list[dict[str, str]]:
    """Splits and the glob of their files, as ``configs`` of the front matter names them."""
    out = []
    for name in splits_of(manifest):
        folder = manifest.tables[name].files[0].path.rpartition("/")[0]
        out.append({"split": name, "path": f"{folder}/{name}-*"})
    return out


def configs(manifest: Manifest) -> list[dict[str, Any]]:
    """The one configuration of a published dataset."""
    return [{"config_name": "default", "default": True, "data_files": data_files(manifest)}]


def front_matter(title: str, manifest: Manifest) -> dict[str, Any]:
    """The card's metadata, in the Hub's keys."""
    rows = {name: manifest.tables[name].rows for name in splits_of(manifest)}
    said = card_settings(manifest)
    out: dict[str, Any] = {"pretty_name": title}
    if license_ := said.get("license"):
        if "://" in license_:
            out |= {"license": "other", "license_name": "other", "license_link": license_}
        else:
            out["license"] = license_.lower()  # the Hub knows SPDX identifiers in small letters
    if said.get("languages"):
        out["language"] = list(said["languages"])
    return out | {
        "task_categories": ["text-generation"],
        "size_categories": [next(label for label, bound in SIZES if sum(rows.values()) < bound)],
        "tags": ["penstock"],
        "configs": configs(manifest),
        "dataset_info": {
            "splits": [{"name": n, "num_examples": rows[n], "num_bytes": text_bytes(manifest, n)} for n in rows]
        },
    }


def card(title: str, manifest: Manifest) -> str:
    """The dataset card: every number in it is read from the manifest."""
    present, said = splits_of(manifest), card_settings(manifest)
    tokens = manifest.stats.get("tokens", {})
    lines = [f"# {_plain(title)}", ""]
    if said.get("description"):
        lines += [*(_unseen(line) for line in said["description"].strip().splitlines()), ""]  # Markdown of the recipe
    lines += ["Built by penstock; `manifest.json` names every file with its sha256.", ""]
    lines += _table(
        ("split", "rows", "files", "tokens"),
        [(n, manifest.tables[n].rows, len(manifest.tables[n].files), tokens_of(manifest, n)) for n in present],
    )
    domains = manifest.stats.get("domains", {}).get("train", {})
    in_train = tokens.get("train", {})
    lines += _table(
        ("domain", "rows (train)", "tokens (train)"),
        [(_plain(d), domains[d]["rows"], in_train.get(d, 0)) for d in sorted(domains)],
    )
    columns = manifest.tables[present[0]].columns if present else {}
    if columns:
        lines += ["## Columns", ""]
        lines += _table(
            ("column", "type", "meaning"), [(_plain(c), _plain(k), _meaning(c)) for c, k in columns.items()]
        )
    lines += _origin(manifest.stats.get("built_from", []), manifest)
    if said.get("license"):
        lines += ["## Licence", "", _plain(said["license"]), ""]
    if said.get("homepage"):
        lines += ["## Homepage", "", f"<{said['homepage']}>", ""]
    if said.get("citation"):
        # indented text is shown as it is, whatever it holds
        lines += ["## Citation", "", *(f"    {_unseen(line)}" for line in said["citation"].strip().splitlines()), ""]
    lines += [f"digest `{manifest.digest}` · key `{manifest.key}`", ""]
    front = yaml.safe_dump(front_matter(title, manifest), sort_keys=False, allow_unicode=True)
    return "---\n" + front + "---\n" + "\n".join(lines)


def _origin(steps: Sequence[dict[str, Any]], manifest: Manifest) -> list[str]:
    """What was read, what each step took in and kept, and why rows were dropped."""
    lines: list[str] = []
    read = [(name, of) for step in steps for name, of in step.get("sources", {}).items()]
    if read:
        lines += ["## Sources", ""]
        lines += _table(("source", "rows", "bytes"), [(_plain(n), of["rows"], of["bytes"]) for n, of in sorted(read)])
    counts = manifest.counts
    own = {"rows_in": counts.rows_in, "made": counts.made, "kept": counts.kept, "dropped": counts.dropped}
    chain: list[dict[str, Any]] = [*steps, {"step": manifest.step, "digest": manifest.digest, **own}]
    lines += ["## How it was built", ""]
    lines += _table(
        ("step", "rows in", "made", "kept", "dropped", "digest"),
        [
            (_plain(s["step"]), s["rows_in"], s["made"], s["kept"], _dropped(s["dropped"]), f"`{s['digest'][:8]}`")
            for s in chain
        ],
    )
    drops = [
        (_plain(step["step"]), _plain(work), _plain(reason), rows)
        for step in chain
        for work, reasons in sorted(step["dropped"].items())
        for reason, rows in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]
    if drops:
        lines += ["## Dropped", "", *_table(("step", "by", "reason", "rows"), drops)]
    return lines


def _dropped(reasons: dict[str, dict[str, int]]) -> int:
    return sum(sum(of.values()) for of in reasons.values())


def _meaning(column: str) -> str:
    return "what the selection looked at" if column.startswith("score.") else COLUMNS.get(column, "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> list[str]:
    """A Markdown table and the empty line below it; columns of numbers are set to the right."""
    rows = list(rows)
    numbers = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    cells = (" | ".join(f"{c:,}" if isinstance(c, int) else c for c in row) for row in rows)
    rule = "|".join("---:" if number else "---" for number in numbers)
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {line} |" for line in cells), ""]


def with_configs(readme: str, manifest: Manifest) -> str:
    """A card, perhaps edited by hand, that names the files of ``manifest``; all else in it stays.

    Raises:
        DatasetError: it has no front matter that can be read.
    """
    found = _FRONT.match(readme)
    try:
        front = load_yaml(found[1]) if found else None
    except yaml.YAMLError as error:
        raise DatasetError(f"README.md: its front matter is not YAML ({error}); mend or delete it") from error
    if found is None or not isinstance(front, dict):
        raise DatasetError("README.md: got no front matter between --- lines, which names the splits; delete the file")
    front["configs"] = configs(manifest)
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---\n" + readme[found.end() :]


def _unseen(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _plain(text: str) -> str:
    """Text that cannot start Markdown or HTML of its own."""
    return "".join(f"&#{ord(c)};" if c in "\\`*_[]<>|#&!" else c for c in _unseen(text))
