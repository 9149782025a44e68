"""What is in a dataset, from its manifest: rows, columns, bytes, tokens by domain, drops, lineage, samples.

Price: the manifests alone; a sample reads the first row group of each table, ``verify`` every byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from penstock.dataset import Dataset, Manifest, read_manifest, read_part
from penstock.errors import ConfigError, DatasetError
from penstock.storage import Folder
from penstock.terminal import PATH_CHARACTERS, count, plain, print_table, say, table

VALUE_CHARACTERS = 160
VERIFIED = "every file has the sha256 its manifest names"


def inspect_folder(url: str, *, sample: int = 0, verify: bool = False, console: Console | None = None) -> None:
    """Print what a dataset folder, or every dataset of a run folder, holds.

    Raises:
        ConfigError: a sample was asked of a run folder.
        DatasetError: there is no dataset, or with ``verify`` a file is missing or damaged.
    """
    console = console or Console()
    folder = Folder(url)
    if read_manifest(folder) is not None:
        _show(Dataset(folder), console, sample, verify)
        return
    found = datasets_below(folder)
    if not found:
        raise DatasetError(
            f"{url}: no manifest.json here or one level below, so no dataset; give the folder of a run or of one of "
            "its datasets, or run the build to its end"
        )
    if sample:
        names = ", ".join(dataset.manifest.step for dataset in found)
        raise ConfigError(
            f"--sample: got the folder of a run, allowed one of its datasets; add one of {names} to {url}"
        )
    shown = table(("dataset",), ("rows in", "kept", "dropped", "bytes"), ("digest",))
    for dataset in found:
        manifest = dataset.manifest
        rows = (manifest.counts.rows_in, manifest.counts.kept, manifest.counts.dropped_total)
        shown.add_row(
            plain(manifest.step),
            *(f"{n:,}" if any(rows) else "" for n in rows),
            f"{sum(f.bytes for f in dataset.entries()):,}",
            manifest.digest[:8],
        )
    print_table(console, f"Datasets of {url}", shown, whole=True)
    if verify:
        _verify(found, console)


def _verify(datasets: list[Dataset], console: Console) -> None:
    """Verify all before the first complaint: who looks for damage wants to know of all of it."""
    wrong = []
    for dataset in datasets:
        try:
            dataset.verify()
        except DatasetError as error:
            wrong.append(str(error))
    if wrong:
        raise DatasetError("; ".join(wrong))
    say(console, VERIFIED)


def datasets_below(folder: Folder) -> list[Dataset]:
    """Datasets one level below a run's folder, parents before children."""
    names = sorted({n.split("/")[0] for n in folder.files() if n.count("/") == 1 and n.endswith("/manifest.json")})
    datasets = {name: Dataset(folder / name) for name in names}
    done: list[Dataset] = []
    placed: set[str] = set()
    while len(done) < len(datasets):
        for name, dataset in datasets.items():
            if name not in placed and all(p in placed or p not in datasets for p in dataset.manifest.parents):
                placed.add(name)
                done.append(dataset)
                break
        else:
            raise DatasetError(f"{folder.url}: the datasets' manifests name each other in a circle; build them again")
    return done


def _show(dataset: Dataset, console: Console, sample: int, verify: bool) -> None:
    manifest = dataset.manifest
    say(console, plain(manifest.step, style="bold"), "  ", plain(dataset.folder.url, limit=PATH_CHARACTERS))
    say(console, f"digest    {manifest.digest}")
    say(console, f"key       {manifest.key}")
    say(console, f"revision  {manifest.revision}")
    counts = manifest.counts
    if counts.rows_in or counts.made:
        made = f" + made {counts.made:,}" if counts.made else ""
        say(console, f"rows in {counts.rows_in:,}{made} = kept {counts.kept:,} + dropped {counts.dropped_total:,}")
    _tables(manifest, console)
    if manifest.artifacts:
        artifacts = table(("name",), ("bytes",))
        for name, entry in manifest.artifacts.items():
            artifacts.add_row(plain(name), f"{entry.bytes:,}")
        _section(console, "Artifacts", artifacts)
    tokens = tokens_by_domain(manifest)
    if tokens:
        domains = table(("domain",), ("tokens",))
        for domain, number in sorted(tokens.items(), key=lambda item: (-item[1], item[0])):
            domains.add_row(plain(domain), f"{number:,}")
        _section(console, "Tokens by domain", domains)
    if counts.dropped_total:
        drops = table(("by", "reason"), ("rows",))
        for work, reasons in counts.dropped.items():
            for reason, rows in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
                drops.add_row(plain(work), plain(reason), f"{rows:,}")
        _section(console, "Dropped", drops)
    say(console)
    say(console, ("Made from", "italic"))
    console.print(lineage(dataset))
    if sample:
        _sample(dataset, console, sample)
    if verify:
        say(console)
        _verify([dataset], console)


def _section(console: Console, title: str, shown: Table) -> None:
    say(console)
    print_table(console, title, shown)


def _tables(manifest: Manifest, console: Console) -> None:
    """Tables with their sizes, then the columns once for all tables that share them."""
    if not manifest.tables:
        return
    sizes = table(("table",), ("rows", "files", "bytes"))
    same: dict[str, list[str]] = {}
    for name, entry in manifest.tables.items():
        sizes.add_row(plain(name), f"{entry.rows:,}", f"{len(entry.files):,}", f"{sum(f.bytes for f in entry.files):,}")
        columns = ", ".join(f"{column}: {kind}" for column, kind in entry.columns.items())
        family = f"{name.partition('/')[0]}/…" if "/" in name else name
        if family not in same.setdefault(columns, []):
            same[columns].append(family)
    _section(console, "Tables", sizes)
    shown = table(("of", "columns"))
    for columns, names in same.items():
        shown.add_row(plain(", ".join(names)), plain(columns, limit=4000))
    _section(console, "Columns", shown)


def tokens_by_domain(manifest: Manifest) -> dict[str, int]:
    """Tokens by domain from a manifest's statistics, over all splits; empty where none were counted."""
    out: dict[str, int] = {}

    def add(value: Any) -> None:
        for domain, found in value.items():
            if isinstance(found, dict) and "packed" in found:
                found = found["packed"]
            if isinstance(found, dict):
                add(found)
            elif isinstance(found, int):
                out[domain] = out.get(domain, 0) + found

    tokens = manifest.stats.get("tokens", {})
    if isinstance(tokens, dict):
        add(tokens)
    return out


def lineage(dataset: Dataset) -> Tree:
    """The datasets this one was made from, as far as they lie beside it, with short digests."""
    root = Folder(dataset.folder.url.rstrip("/").rpartition("/")[0] or ".")

    def node(name: str, digest: str) -> Text:
        return Text.assemble(plain(name), "  ", (digest[:8], "dim"))

    shown: set[str] = set()

    def grow(tree: Tree, manifest: Manifest) -> None:
        inputs = manifest.key_parts.get("inputs")
        if isinstance(inputs, dict) and inputs:
            tree.add(Text(count(len(inputs), "input file"), "dim"))
        for name, parent in manifest.parents.items():
            if name in shown:
                tree.add(node(name, parent["digest"]).append(" (as above)", "dim"))
                continue
            shown.add(name)
            branch = tree.add(node(name, parent["digest"]))
            found = read_manifest(root / name)
            if found is None:
                branch.add(Text("not beside this dataset", "dim"))
            elif found.digest != parent["digest"]:
                branch.add(Text(f"since rebuilt as {found.digest[:8]}", "dim"))
            else:
                grow(branch, found)

    tree = Tree(node(dataset.manifest.step, dataset.digest))
    grow(tree, dataset.manifest)
    return tree


def _sample(dataset: Dataset, console: Console, rows: int) -> None:
    """The first rows of each table, long values cut."""
    for name in dataset.manifest.tables:
        say(console)
        say(console, plain(name, style="bold"))
        for number, row in enumerate(islice(_first(dataset, name, rows), rows)):
            if number:
                say(console)
            for column, value in row.items():
                say(console, "  ", plain(column), ": ", plain(_value(value), limit=VALUE_CHARACTERS))


def _first(dataset: Dataset, name: str, rows: int) -> Iterator[dict[str, Any]]:
    """Rows of a table from its beginning, at least ``rows``: its parts are Parquet, or sequences in Arrow files."""
    for entry in dataset.table(name).files:
        if entry.path.endswith(".arrow"):
            with dataset.folder.open_read(entry.path) as file, pa.ipc.open_file(file) as sequences:
                for index in range(sequences.num_record_batches):
                    yield from sequences.get_batch(index).slice(0, rows).to_pylist()
        else:
            for batch in read_part(dataset.folder, entry, rows=rows):
                yield from batch.to_pylist()


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value.hex() if isinstance(value, bytes) else str(value)
