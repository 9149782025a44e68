"""Time of ``import penstock`` and of ``penstock --help`` in fresh processes.

The import is timed inside the process, so that the interpreter's own start is not charged to it; ``--help`` is timed
from outside, as a user waits for it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import harness

_IMPORT = "import time; t = time.perf_counter(); import penstock; print(time.perf_counter() - t)"


def _import_seconds() -> float:
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True, cwd=harness.ROOT)
    return float(done.stdout)


def _process_seconds(*arguments: str, expect: str = "") -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=harness.ROOT)
    seconds = time.perf_counter() - started
    if expect not in done.stdout:
        raise harness.BenchmarkError(f"{' '.join(arguments)}: does not print {expect!r}")
    return seconds


def measure(options: harness.Options) -> harness.Result:
    sides = {
        "import penstock": _import_seconds,
        "penstock --help": lambda: _process_seconds("-m", "penstock", "--help", expect="Usage"),
        "python with nothing to do": lambda: _process_seconds("-c", "pass"),
    }
    found = harness.alternate(sides, 5 if options.quick else 10)
    return harness.Result(
        rows=[harness.row(name, values, "s") for name, values in found.items()],
        bars=[
            harness.Bar(name=name, value=statistics.median(found[name]), op="<", want=want)
            for name, want in (("import penstock", 0.2), ("penstock --help", 0.5))
        ],
        versions=harness.versions("typer"),
    )


if __name__ == "__main__":
    harness.main("startup", __doc__, measure)
