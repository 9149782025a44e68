"""What a build costs a byte, measured by pass on one core, and what follows from it for 1 TB and 1 PB.

    builds      three whole builds of recombined text (exact and near-duplicates, tokenizer, scores, selection, dataset,
                sequences) by one worker: processor seconds, bytes, objects and peak memory of every pass, and what the
                driver does alone; a line through the sizes, and whether a byte of the largest costs more
    splits      the smallest once more with splits four times as large: what a worker's memory grows by
    shuffles    parts of more and more buckets: what an entry of a table of places costs the driver and a worker
    model       benchmarks/scaling_model.py: time, requests, memory and cost of sizes that were not measured

Rows of the kind ``measured`` are of this machine, those ``computed`` are the model's with its assumptions.
``--page`` measures nothing: it computes again from the stored rates and writes the tables of docs/scaling.md.

The full run takes some ten minutes of one core; ``--mb`` gives other sizes. Processor seconds are counted, which other
work on the machine disturbs less than it does the clock.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.corpora import from_environment
from benchmarks.harness import Bar, Options, Result, Row, figure
from benchmarks.scaling_model import (
    GIB,
    LIMITS,
    PB,
    TB,
    Line,
    Prices,
    Projection,
    Rates,
    Setup,
    best_split,
    fit,
    growth,
    hits,
    in_runs,
    project,
)
from benchmarks.scaling_sides import SPLIT_BYTES

FULL_MB, QUICK_MB = (64, 128, 256), (4, 8)
LEAST_SECONDS = 0.2  # of a pass whose growth is told: less is the clock's grain
SPLIT_TIMES = 4  # how much larger the splits of the build that is done twice are
FULL_BUCKETS, QUICK_BUCKETS = (16, 64, 256), (8, 64)
FULL_PARTS, QUICK_PARTS = 32, 8
MATERIAL_MB = 24
CORES = {TB: 256, PB: 8192}
SPLITS = (32.0 * (1 << 20), GIB)
RATE = "rate: "
PAGE = harness.ROOT / "docs" / "scaling.md"


def measured(options: Options) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Builds (the last is the smallest with larger splits) and shuffles."""
    sizes = options.more.get("mb") or (QUICK_MB if options.quick else FULL_MB)
    buckets = QUICK_BUCKETS if options.quick else FULL_BUCKETS
    split = SPLIT_BYTES // 8 if options.quick else SPLIT_BYTES
    python = [sys.executable, "-m", "benchmarks.scaling_sides"]
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        material = options.data
        if material is None:
            material = Path(scratch)
            from_environment(material, 6 if options.quick else MATERIAL_MB)
        command = [*python, "build", "--material", str(material), "--mb", *map(str, (*sizes, sizes[0]))]
        command += ["--split", *map(str, [split] * len(sizes)), str(split * SPLIT_TIMES)]
        builds = harness.run_json(command)["builds"]
    parts = QUICK_PARTS if options.quick else FULL_PARTS
    command = [*python, "shuffle", "--parts", str(parts), "--buckets", *map(str, buckets)]
    return builds, harness.run_json(command)["shuffles"]


def by_pass(builds: Sequence[Mapping[str, Any]], figure_of: str) -> dict[str, list[float]]:
    """A figure of each pass of every build, by "step pass", in the order in which they ran."""
    found: dict[str, list[float]] = {}
    for build in builds:
        for one in build["passes"]:
            found.setdefault(f"{one['step']} {one['pass']}", []).append(float(one[figure_of]))
    return found


def pass_rows(builds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each pass: the line through its processor seconds, what it moves, and its worker's peak memory."""
    sizes = [build["bytes"] for build in builds]
    found = {name: by_pass(builds, name) for name in ("core_seconds", "read", "written", "peak")}
    rows: list[Row] = []
    for name, seconds in found["core_seconds"].items():
        line = fit(sizes, seconds)
        rows.append(
            {
                "kind": "measured",
                "what": name,
                "core s/GB": line.slope * 1e9,
                "fixed core s": line.fixed,
                "growth": growth(sizes, seconds) if seconds[0] >= LEAST_SECONDS else None,
                "read B/B": found["read"][name][-1] / sizes[-1],
                "written B/B": found["written"][name][-1] / sizes[-1],
                "worker MB": max(found["peak"][name]) / 1e6,
            }
        )
    return rows


def driver_rows(builds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """What the driver does alone, by step: the line through its processor seconds."""
    sizes = [build["bytes"] for build in builds]
    rows: list[Row] = []
    for step in builds[0]["driver"]:
        seconds = [build["driver"][step] for build in builds]
        line = fit(sizes, seconds)
        rows.append(
            {
                "kind": "measured",
                "what": f"driver, {step}",
                "core s/GB": line.slope * 1e9,
                "fixed core s": line.fixed,
                "growth": growth(sizes, seconds) if seconds[0] >= LEAST_SECONDS else None,
            }
        )
    return rows


def shuffle_rows(shuffles: Sequence[Mapping[str, float]]) -> list[Row]:
    units = {
        "write_seconds": ("a worker writes a piece", 1e6, "µs"),
        "read_seconds": ("a worker reads a piece", 1e6, "µs"),
        "bytes": ("a piece", 1, "B"),
        "of_rows": ("of it rows, before compression", 1, "B"),
        "receipt_seconds": ("the driver reads a receipt", 1e3, "ms"),
        "gather_seconds": ("the driver gathers and hashes a place", 1e6, "µs"),
        "held": ("the driver's memory, a place", 1, "B"),
        "places": ("a worker's memory, a place", 1, "B"),
        "pickled": ("sent to workers, a place", 1, "B"),
    }
    return [
        {
            "kind": "measured",
            "what": f"{what}, {one['buckets']:,.0f} buckets",
            "value": one[name] * times,
            "unit": unit,
        }
        for one in shuffles
        for name, (what, times, unit) in units.items()
    ]


def rates_of(builds: Sequence[Mapping[str, Any]], shuffles: Sequence[Mapping[str, float]]) -> Rates:
    """What the model starts from. ``builds`` end with the smallest, done again with larger splits."""
    *sized, again = builds
    sizes = [build["bytes"] for build in sized]
    lines = [fit(sizes, seconds) for seconds in by_pass(sized, "core_seconds").values()]
    drivers = [fit(sizes, [build["driver"][step] for build in sized]) for step in sized[0]["driver"]]
    last = sized[-1]
    parts = max(one["splits"] for one in last["passes"] if one["pass"] == "read")
    over_parts = [one for one in last["passes"] if one["splits"] == parts]
    peaks = [max(one["peak"] for one in build["passes"]) for build in (sized[0], again)]
    by_split = max(0.0, (peaks[1] - peaks[0]) / (again["split_bytes"] - sized[0]["split_bytes"]))
    buckets = [one["buckets"] for one in shuffles]

    def line(name: str) -> Line:
        return fit(buckets, [one[name] for one in shuffles])

    return Rates(
        core_seconds=sum(one.slope for one in lines),
        moved=sum(one["read"] + one["written"] for one in last["passes"]) / last["bytes"],
        kept=last["kept"] / last["bytes"],
        fixed_seconds=sum(one.fixed for one in drivers),
        document_bytes=last["bytes"] / last["rows"],
        tokens=last["tokens"] / last["bytes"],
        alike=sum(2 ** (int(power) + 0.5) * count for power, count in last["near"].get("sizes", {}).items())
        / last["rows"],
        part_passes=len(over_parts),
        part_objects=sum(one["objects"] for one in over_parts) / (parts * len(over_parts)),
        worker_bytes=peaks[0] - by_split * sized[0]["split_bytes"],
        worker_bytes_per_split_byte=by_split,
        receipt_seconds=line("receipt_seconds").fixed,
        entry_seconds=line("receipt_seconds").slope + shuffles[-1]["gather_seconds"],
        entry_bytes=shuffles[-1]["held"],
        place_bytes=shuffles[-1]["places"],
        piece_seconds=max(one["write_seconds"] + one["read_seconds"] for one in shuffles),
        piece_bytes=max(0.0, max(one["bytes"] - one["of_rows"] for one in shuffles)),
    )


def size_name(size: float) -> str:
    """``1 PB``, ``32 MiB``: decimal sizes of corpora, binary ones of splits."""
    for unit, name in ((GIB, "GiB"), (float(1 << 20), "MiB")):
        if size < 1e12 and size % unit == 0:
            return f"{size / unit:,.0f} {name}"
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{figure(float(f'{size / unit:.2g}'))} {name}"
    return f"{size:,.0f} B"


def computed_rows(rates: Rates) -> list[Row]:
    """What the model makes of the rates: each size with given splits and the cheapest that fit, and the limits."""
    rows: list[Row] = []
    for size, cores in CORES.items():
        best = best_split(size, rates, Setup(cores=cores, split_bytes=1.0))
        for split in dict.fromkeys((*SPLITS, *(() if best is None else (best,)))):
            setup = Setup(cores=cores, split_bytes=split)
            chosen = " (cheapest that fits)" if split == best else ""
            named = f"{size_name(size)}, {size_name(split)} splits, {cores:,} cores{chosen}"
            found = project(size, rates, setup)
            rows += [
                *_computed(named, found),
                {"kind": "computed", "what": f"{named}: gives way", "value": unfit(found, setup)},
            ]
    rows += in_runs_rows(rates)
    for split in SPLITS:
        setup = Setup(cores=CORES[TB], split_bytes=split)
        for name in LIMITS:
            size_of_it = hits(name, rates, setup)
            rows.append(
                {
                    "kind": "computed",
                    "what": f"from here on, {size_name(split)} splits, {setup.cores:,} cores: {name}",
                    "value": None if size_of_it is None else size_of_it / 1e12,
                    "unit": "TB",
                }
            )
    return rows


def in_runs_rows(rates: Rates) -> list[Row]:
    """The largest size as runs of the smaller one with its cheapest splits, as many at once as there are cores."""
    best = best_split(TB, rates, Setup(cores=CORES[TB], split_bytes=1.0))
    if best is None:
        return []
    setup = Setup(cores=CORES[TB], split_bytes=best)
    one, runs, at_once = project(TB, rates, setup), round(PB / TB), CORES[PB] // CORES[TB]
    named = f"1 PB, {runs:,} runs of 1 TB, {size_name(best)} splits, {at_once} at a time, {CORES[PB]:,} cores"
    many = in_runs(one, runs, at_once)
    return [*_computed(named, many), {"kind": "computed", "what": f"{named}: gives way", "value": unfit(one, setup)}]


def _computed(named: str, found: Projection) -> list[Row]:
    return [
        {"kind": "computed", "what": f"{named}: {what}", "value": value, "unit": unit}
        for what, value, unit in figures_of(found)
    ]


def figures_of(found: Projection) -> list[tuple[str, float, str]]:
    return [
        ("time", found.hours, "h"),
        ("the driver alone", found.driver_hours, "h"),
        ("held up by the store", found.held_up_hours, "h"),
        ("cores", found.core_hours, "core h"),
        ("cost", found.dollars_in_all, "$"),
        *((f"cost of {name}", value, "$") for name, value in found.dollars.items()),
        ("read and written", found.moved / 1e12, "TB"),
        ("writing requests", found.writes, ""),
        ("reading requests", found.reads, ""),
        ("the same a second, wished for", found.requests_a_second, "/s"),
        ("cores wait for the store", 100 * found.waiting, "%"),
        ("pieces of shuffles", found.pieces, ""),
        ("memory of the driver", found.driver_bytes / 1e9, "GB"),
        ("memory of a worker", found.worker_bytes / 1e9, "GB"),
    ]


def unfit(found: Projection, setup: Setup) -> str:
    return ", ".join(name for name, met in LIMITS.items() if met(found, setup)) or "nothing"


def assumption_rows(rates: Rates) -> list[Row]:
    setup, prices = Setup(cores=1, split_bytes=1.0), Prices()
    assumed = {
        "latency of a request": (setup.latency, "s"),
        "reading requests a second that a store answers to a pass": (setup.requests_a_second, ""),
        "bandwidth of a core to the store": (setup.bandwidth / 1e6, "MB/s"),
        "memory of a worker": (setup.worker_memory / 1e9, "GB"),
        "memory of the driver": (setup.driver_memory / 1e9, "GB"),
        "a core for an hour": (prices.core_hour, "$"),
        "a GB for a month": (prices.gb_month, "$"),
        "1,000 writing requests": (prices.thousand_writes, "$"),
        "1,000 reading requests": (prices.thousand_reads, "$"),
        "months that the run's folder is kept": (prices.months, ""),
    }
    rows: list[Row] = [
        {"kind": "assumed", "what": what, "value": value, "unit": unit} for what, (value, unit) in assumed.items()
    ]
    return rows + [
        {"kind": "measured", "what": f"{RATE}{name}", "value": value, "unit": ""} for name, value in vars(rates).items()
    ]


def rates_in(rows: Sequence[Row]) -> Rates:
    """The rates among stored rows."""
    return Rates(**{row["what"].removeprefix(RATE): row["value"] for row in rows if row["what"].startswith(RATE)})


def measure(options: Options) -> Result:
    builds, shuffles = measured(options)
    *sized, _ = builds
    sizes = [build["bytes"] for build in sized]
    rates = rates_of(builds, shuffles)
    total = [sum(one["core_seconds"] for one in build["passes"]) for build in sized]
    peaks = [max(one["peak"] for one in build["passes"]) for build in sized]
    rows = [*pass_rows(sized), *driver_rows(sized), *shuffle_rows(shuffles)]
    rows += [*assumption_rows(rates), *computed_rows(rates)]
    said = f"{sizes[0] / 1e6:,.0f} to {sizes[-1] / 1e6:,.0f} MB"
    return Result(
        rows=rows,
        bars=[
            Bar(
                name=f"processor seconds a byte, {said}: largest over smallest",
                value=growth(sizes, total),
                op="<=",
                want=1.2,
            ),
            Bar(
                name=f"peak memory of a worker, {said}: largest over smallest",
                value=peaks[-1] / peaks[0],
                op="<=",
                want=1.25,
            ),
        ],
        versions=harness.versions("pyarrow", "numpy", "tokenizers"),
    )


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/scaling.md by name, from stored results."""
    rows: list[Row] = result["rows"]
    passes = [row for row in rows if "core s/GB" in row]
    of_pass = ["what", "core s/GB", "fixed core s", "growth", "read B/B", "written B/B", "worker MB"]
    found = {
        "passes": _table(of_pass, [[_said(row.get(name)) for name in of_pass] for row in passes]),
        "shuffles": _wide(rows, r"^(?P<row>.+), (?P<column>[\d,]+ buckets)$"),
        "assumed": _table(
            ["assumption", "value"],
            [
                [row["what"], f"{figure(row['value'])} {row['unit']}".strip()]
                for row in rows
                if row["kind"] == "assumed"
            ],
        ),
        "limits": _wide(rows, r"^from here on, (?P<column>.+?): (?P<row>.+)$"),
    }
    for size in CORES:
        name = size_name(size)
        found[name] = _wide(rows, rf"^{name}, (?P<column>.+?): (?P<row>.+)$")
    return found


def _wide(rows: Sequence[Row], pattern: str) -> str:
    """Rows whose names have a row and a column, as a table of those."""
    cells: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row in rows:
        match = re.match(pattern, row["what"])
        if match:
            columns[match["column"]] = None
            unit = row.get("unit", "")
            name = f"{match['row']}, {unit}" if unit else match["row"]
            cells.setdefault(name, {})[match["column"]] = _said(row["value"])
    return _table(["", *columns], [[name, *(of.get(column, "") for column in columns)] for name, of in cells.items()])


def _said(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{float(f'{value:.3g}'):,.6g}" if abs(value) < 1e6 else f"{value:.2g}"


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells))


def with_tables(text: str, found: Mapping[str, str]) -> str:
    """A page with its tables, each between ``<!-- table NAME -->`` and ``<!-- end -->``, replaced."""

    def replace(match: re.Match[str]) -> str:
        return f"{match[1]}\n{found[match[2]]}\n{match[3]}"

    return re.sub(r"(<!-- table (.+?) -->)\n.*?\n?(<!-- end -->)", replace, text, flags=re.DOTALL)


def write_page() -> None:
    """Compute again from the stored rates, and write the tables."""
    path = harness.RESULTS / "scaling.json"
    result = json.loads(path.read_text())
    kept = [row for row in result["rows"] if row["kind"] == "measured" and not row["what"].startswith(RATE)]
    rates = rates_in(result["rows"])
    result["rows"] = [*kept, *assumption_rows(rates), *computed_rows(rates)]
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), tables(result)))
    print(PAGE)


if __name__ == "__main__":
    if sys.argv[1:] == ["--page"]:
        write_page()
    else:
        command = harness.parser(__doc__)
        command.add_argument("--mb", type=float, nargs="+", metavar="MB", help="sizes of the builds, least first")
        harness.main("scaling", __doc__, measure, command=command)
