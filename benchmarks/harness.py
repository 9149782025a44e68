"""What every benchmark shares: bars, results, the machine's facts, alternating runs, peers, the table and the JSON.

A benchmark is a module ``benchmarks/NAME.py`` with ``measure(options) -> Result`` and ``main(NAME, __doc__, measure)``
at its end. It prints a table and writes ``benchmarks/results/NAME.json``:

    {name, about, quick, machine, versions, rows, bars: [{name, value, want, op, holds}]}

A row says what was measured, its median, min and max, and the unit. A bar whose peer is not installed has the value
null and holds null, and reads ``not measured``.

Two sides are compared by running them in turn, A B A B …, each as a process of its own, so that a disturbance of the
machine meets both. A ratio is the ratio of the medians; its min and max are those of the pairs that ran side by side.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import operator
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ROOT / ".bench"

_OPS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Row = dict[str, Any]


class BenchmarkError(Exception):
    """A benchmark cannot be run; the message is one line that says what to do."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A claim with a number: ``value op want``. A ``value`` of None was not measured."""

    name: str
    value: float | None
    op: str
    want: float

    def __post_init__(self) -> None:
        if self.op not in _OPS:
            raise BenchmarkError(f"bar {self.name}: got {self.op!r}, allowed {', '.join(_OPS)}")

    @property
    def holds(self) -> bool | None:
        return None if self.value is None else _OPS[self.op](self.value, self.want)

    @property
    def verdict(self) -> str:
        return {None: "not measured", True: "holds", False: "FAILS"}[self.holds]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "want": self.want, "op": self.op, "holds": self.holds}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times one side's figure is another's; ``least`` and ``most`` are of pairs that ran side by side."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for."""

    quick: bool = False
    data: Path | None = None
    more: Mapping[str, Any] = field(default_factory=dict)  # of a benchmark's own options


@dataclass(kw_only=True)
class Result:
    """What a benchmark found."""

    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Bar]:
        return [bar for bar in self.bars if bar.holds is False]

    def to_json(self, name: str, about: str, *, quick: bool) -> dict[str, Any]:
        return {
            "name": name,
            "about": about,
            "quick": quick,
            "machine": machine(),
            "versions": self.versions,
            "rows": self.rows,
            "bars": [bar.to_json() for bar in self.bars],
        }


def machine() -> dict[str, Any]:
    """Facts that figures depend on; nothing that names the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*distributions: str) -> dict[str, str]:
    """Versions of Python, penstock and the named distributions."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("penstock", *distributions)
    }


def row(what: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """A row of the table: the median of repeated figures with their range."""
    return {
        "what": what,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "unit": unit,
        "repeats": len(values),
        **more,
    }


def ratio_row(what: str, found: Ratio, repeats: int) -> Row:
    return {
        "what": what,
        "median": found.median,
        "min": found.least,
        "max": found.most,
        "unit": "times",
        "repeats": repeats,
    }


def ratio(of: Sequence[float], to: Sequence[float]) -> Ratio:
    """Figures of one side over those of the other; the i-th of both ran side by side."""
    pairs = [a / b for a, b in zip(of, to, strict=True)]
    return Ratio(median=statistics.median(of) / statistics.median(to), least=min(pairs), most=max(pairs))


def alternate(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Run the sides in turn, A B A B …, and give what each returned, by side in order of the repeats."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            found[name].append(run())
    return found


def run_json(command: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Run a process from the project's folder and parse the last line it prints as JSON.

    Raises:
        BenchmarkError: it failed; the message ends with the last line of its stderr.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    what = " ".join(str(part) for part in command)
    if done.returncode != 0:
        raise BenchmarkError(f"{what}: exit code {done.returncode}: {said[-1] if said else 'nothing on stderr'}")
    printed = done.stdout.splitlines()
    try:
        value = json.loads(printed[-1])
    except (IndexError, json.JSONDecodeError) as error:
        raise BenchmarkError(f"{what}: its last line is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BenchmarkError(f"{what}: its last line is JSON but no object")
    return value


def peer(name: str, *, quick: bool) -> Path | None:
    """The Python of a peer's own environment; None where a quick run may go on without it.

    Raises:
        BenchmarkError: the environment is not there and the run is not quick.
    """
    folder = PEERS / f"venv-{name}"
    python = folder / "bin" / "python"
    # the marker is touched last, so an environment whose installation was cut short is not taken
    if python.exists() and (folder / ".installed").exists():
        return python
    if quick:
        return None
    raise BenchmarkError(f"{folder} is not there; run: make bench")


def figure(value: float | None) -> str:
    """A number for a person: four significant digits, thousands apart."""
    if value is None:
        return "not measured"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return figure(value)


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Names of all columns, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def show(name: str, result: Result) -> None:
    """Print rows and bars as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=name)
    columns = columns_of(result.rows)
    for column in columns:
        numeric = all(isinstance(r.get(column), (int, float, type(None))) for r in result.rows)
        table.add_column(column, justify="right" if numeric else "left")
    for one in result.rows:
        table.add_row(*(_cell(one.get(column)) for column in columns))
    console.print(table)
    bars = Table("bar", "value", "wanted", "verdict")
    for bar in result.bars:
        bars.add_row(bar.name, figure(bar.value), f"{bar.op} {figure(bar.want)}", bar.verdict)
    console.print(bars)


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """RESULTS.md: every result as its bars and its rows."""
    out = ["# Benchmark results", "", "Written by `make bench`; the figures are in `results/*.json`.", ""]
    for result in results:
        facts = result["machine"]
        out += [f"## {result['name']}", "", result["about"], ""]
        if result["quick"]:
            out += ["A quick run: small inputs, few repeats.", ""]
        out += [
            f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB, {facts['system']}, load average "
            f"{facts['load_average']} at the end; " + ", ".join(f"{n} {v}" for n, v in result["versions"].items()),
            "",
        ]
        bars = [Bar(name=b["name"], value=b["value"], op=b["op"], want=b["want"]) for b in result["bars"]]
        out += _lines(
            ["bar", "value", "wanted", "verdict"],
            [[b.name, figure(b.value), f"{b.op} {figure(b.want)}", b.verdict] for b in bars],
        )
        columns = columns_of(result["rows"])
        out += _lines(columns, [[_cell(r.get(column)) for column in columns] for r in result["rows"]])
    return "\n".join(out)


def _lines(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, cells), ""]


def write(name: str, about: str, result: Result, *, quick: bool, folder: Path) -> Path:
    """Write ``NAME.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result.to_json(name, about, quick=quick), indent=1, allow_nan=False) + "\n")
    return path


def parser(about: str | None) -> argparse.ArgumentParser:
    """The command line of every benchmark."""
    out = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--quick", action="store_true", help="small inputs and few repeats: ends within 60 s")
    out.add_argument("--data", type=Path, metavar="DIR", help="folder of *.jsonl.gz files with a text field")
    return out


def main(
    name: str,
    about: str | None,
    measure: Callable[[Options], Result],
    *,
    command: argparse.ArgumentParser | None = None,
) -> None:
    """Run a benchmark as a command: table, JSON, exit code 1 when a bar does not hold, 2 when it cannot run.

    ``command`` is ``parser(about)`` with options of the benchmark's own; they come in ``Options.more``.
    """
    arguments = (command or parser(about)).parse_args()
    # unwinds, so that temporary folders and child processes go too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if arguments.data is not None and not arguments.data.is_dir():
            raise BenchmarkError(f"--data: got {arguments.data}, allowed a folder")
        data = None if arguments.data is None else arguments.data.resolve()
        own = {key: value for key, value in vars(arguments).items() if key not in ("quick", "data")}
        result = measure(Options(quick=arguments.quick, data=data, more=own))
    except BenchmarkError as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        sys.exit(2)
    show(name, result)
    first = (about or "").strip().splitlines()[0]
    print(write(name, first, result, quick=arguments.quick, folder=RESULTS))
    sys.exit(1 if result.failed else 0)
