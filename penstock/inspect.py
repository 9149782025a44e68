"""What is in a dataset, from its manifest: rows, columns, bytes, tokens by domain, drops, lineage, samples."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from penstock.dataset import Dataset, Manifest, read_manifest
from penstock.errors import DatasetError
from penstock.storage import Folder
from penstock.terminal import plain


def inspect_folder(url: str, *, sample: int = 0, verify: bool = False, console: Console | None = None) -> None:
    """Print what a dataset folder, or every dataset of a run folder, holds.

    Raises:
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
            f"{url}: no manifest.json here or one level below, so no dataset; give the folder of a run or of one of its "
            "datasets, or run the build to its end"
        )
    table = Table(title=f"Datasets of {url}")
    for name in ("dataset", "rows in", "kept", "dropped", "bytes", "digest"):
        table.add_column(name, justify="left" if name in ("dataset", "digest") else "right")
    for dataset in found:
        manifest = dataset.manifest
        if verify:
            dataset.verify()
        table.add_row(
            plain(manifest.step),
            f"{manifest.counts.rows_in:,}",
            f"{manifest.counts.kept:,}",
            f"{manifest.counts.dropped_total:,}",
            f"{sum(f.bytes for f in dataset.entries()):,}",
            manifest.digest[:8],
        )
    console.print(table)
    if verify:
        console.print("every file has the sha256 its manifest names")


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
    console.print(f"[bold]{escape(manifest.step)}[/bold]  {escape(dataset.folder.url)}", highlight=False)
    console.print(f"digest {manifest.digest}   key {manifest.key}   revision {manifest.revision}", highlight=False)
    counts = manifest.counts
    console.print(
        f"rows in {counts.rows_in:,} + made {counts.made:,} = kept {counts.kept:,} + dropped {counts.dropped_total:,}",
        highlight=False,
    )
    if manifest.tables:
        console.print(_tables(manifest))
    if manifest.artifacts:
        artifacts = Table(title="Artifacts")
        artifacts.add_column("name")
        artifacts.add_column("bytes", justify="right")
        for name, entry in manifest.artifacts.items():
            artifacts.add_row(plain(name), f"{entry.bytes:,}")
        console.print(artifacts)
    tokens = tokens_by_domain(manifest)
    if tokens:
        domains = Table(title="Tokens by domain")
        domains.add_column("domain")
        domains.add_column("tokens", justify="right")
        for domain, count in sorted(tokens.items(), key=lambda item: (-item[1], item[0])):
            domains.add_row(plain(domain), f"{count:,}")
        console.print(domains)
    if counts.dropped_total:
        drops = Table(title="Dropped")
        for name in ("by", "reason"):
            drops.add_column(name)
        drops.add_column("rows", justify="right")
        for work, reasons in counts.dropped.items():
            for reason, rows in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
                drops.add_row(plain(work), plain(reason), f"{rows:,}")
        console.print(drops)
    console.print(lineage(dataset))
    if sample:
        _sample(dataset, console, sample)
    if verify:
        dataset.verify()
        console.print("every file has the sha256 its manifest names")


def _tables(manifest: Manifest) -> Table:
    table = Table(title="Tables")
    for name in ("table", "columns"):
        table.add_column(name)
    for name in ("rows", "files", "bytes"):
        table.add_column(name, justify="right")
    for name, entry in manifest.tables.items():
        columns = ", ".join(f"{column}: {kind}" for column, kind in entry.columns.items())
        size = sum(f.bytes for f in entry.files)
        table.add_row(plain(name), plain(columns), f"{entry.rows:,}", str(len(entry.files)), f"{size:,}")
    return table


def tokens_by_domain(manifest: Manifest) -> dict[str, int]:
    """Tokens by domain from a manifest's statistics, over all splits; empty where none were counted."""
    out: dict[str, int] = {}

    def add(value: Any) -> None:
        for domain, count in value.items():
            if isinstance(count, dict) and "packed" in count:
                count = count["packed"]
            if isinstance(count, dict):
                add(count)
            else:
                out[domain] = out.get(domain, 0) + count

    tokens = manifest.stats.get("tokens", {})
    if isinstance(tokens, dict):
        add(tokens)
    return out


def lineage(dataset: Dataset) -> Tree:
    """The datasets this one was made from, as far as they lie beside it, with short digests."""
    root = Folder(dataset.folder.url.rstrip("/").rpartition("/")[0] or ".")

    def node(name: str, digest: str) -> str:
        return f"{escape(name)}  [dim]{digest[:8]}[/dim]"

    shown: set[str] = set()

    def grow(tree: Tree, manifest: Manifest) -> None:
        inputs = manifest.key_parts.get("inputs", {})
        if inputs:
            tree.add(f"[dim]{len(inputs):,} input files[/dim]")
        for name, parent in manifest.parents.items():
            again = name in shown
            branch = tree.add(node(name, parent["digest"]) + (" [dim](as above)[/dim]" if again else ""))
            if again:
                continue
            shown.add(name)
            found = read_manifest(root / name)
            if found is None:
                branch.add("[dim]not beside this dataset[/dim]")
            elif found.digest != parent["digest"]:
                branch.add(f"[dim]since rebuilt as {found.digest[:8]}[/dim]")
            else:
                grow(branch, found)

    tree = Tree(node(dataset.manifest.step, dataset.digest))
    grow(tree, dataset.manifest)
    return tree


def _sample(dataset: Dataset, console: Console, rows: int) -> None:
    """The first rows of each table, long values cut."""
    for name in dataset.manifest.tables:
        if name.startswith(("train/", "validation/", "test/")) or not rows:
            continue
        console.print(f"[bold]{escape(name)}[/bold]")
        left = rows
        for batch in dataset.batches(name, rows=rows):
            for row in batch.slice(0, left).to_pylist():
                for column, value in row.items():
                    text = str(value)
                    console.print(plain(f"  {column}: {text if len(text) <= 160 else text[:159] + '…'}"))
                console.print()
            left -= min(left, batch.num_rows)
            if not left:
                break
