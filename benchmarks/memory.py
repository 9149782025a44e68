"""Resident memory of a build at home with two workers: 250 MB of text, and eight times as much.

The corpus is made by recombining sentences of real text (``--data``, by default this Python installation), half of it
in one plain file; exact and near duplicates are dropped. It and the build lie in a temporary folder that is deleted
afterwards. The build is a child process; its tree is sampled five times a second. Resident memory is the sum over the
tree, so a page that two processes share counts twice; the proportional sum, where the system tells it, counts it once.
The bars are on the former.

Price: about 5 bytes of free disk a byte of text, and some minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import harness
from benchmarks.corpora import from_environment, large, sentences

WORKERS = 2
FULL_MB = 2000
QUICK_MB = 48  # tokenising, 3 MB/s a core, is most of the time
TIMES = 8  # how much larger the large build is
DISK_PER_BYTE = 5  # corpus and the parts of four steps, zstd
MATERIAL_MB = 24

RECIPE = """
name: memory
seed: 1
source:
  files: [{{path: '{corpus}/*'}}]
filters: {{gopher_quality: {{}}, gopher_repetition: {{}}, language: {{languages: [en], min_confidence: 0.2}}}}
deduplicate: {{near: {{}}}}
tokenizer: {{vocabulary_size: 4096, sample_mb: 8}}
quality:
  positive: {{domains: [plain]}}
  negative: {{domains: ['*']}}
  rows_per_side: 2000
select: {{omega: 0.7, lam: 10, eps: 0.2}}
"""


class Sample(NamedTuple):
    """Bytes of a process tree at one moment: two sums, and the resident ones of its root and of the largest other."""

    resident: int
    proportional: int
    driver: int
    worker: int


@dataclass
class Peaks:
    """Largest sums over a process tree, in bytes, of all samples and by the step that was running."""

    resident: int = 0
    proportional: int = 0  # 0 where the system does not tell
    driver: int = 0
    worker: int = 0  # of one process
    by_step: dict[str, int] = field(default_factory=dict)

    def add(self, step: str, sample: Sample) -> None:
        self.resident = max(self.resident, sample.resident)
        self.proportional = max(self.proportional, sample.proportional)
        self.driver = max(self.driver, sample.driver)
        self.worker = max(self.worker, sample.worker)
        self.by_step[step] = max(self.by_step.get(step, 0), sample.resident)


def tree_memory(root: psutil.Process) -> Sample:
    """Memory of a process and of all below it."""
    resident = proportional = driver = worker = 0
    for process in (root, *root.children(recursive=True)):
        try:
            own = process.memory_info().rss
            proportional += _proportional(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
        resident += own
        if process.pid == root.pid:
            driver = own
        else:
            worker = max(worker, own)
    return Sample(resident, proportional, driver, worker)


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def current_step(out: Path) -> str:
    """The step folder of a run that was changed last; the report is written after the last step and counts to it."""
    folders = [path for path in out.iterdir() if path.is_dir()] if out.exists() else []
    return max(folders, key=lambda path: path.stat().st_ctime_ns).name if folders else "start"


def watch(process: subprocess.Popen[bytes], out: Path, seconds: float = 0.2) -> Peaks:
    """Sample a process tree until its root ends."""
    peaks = Peaks()
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peaks.add(current_step(out), tree_memory(root))
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
        time.sleep(seconds)
    return peaks


def build(folder: Path) -> tuple[Peaks, float]:
    """Run the build below ``folder`` and watch it: its peaks and its seconds."""
    recipe, out = folder / "recipe.yaml", folder / "run"
    recipe.write_text(RECIPE.format(corpus=folder / "corpus"))
    command = [sys.executable, "-m", "penstock", "build", str(recipe), "--out", str(out), "--workers", str(WORKERS)]
    started = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=harness.ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            peaks = watch(process, out)
        finally:
            process.terminate()
            code = process.wait()
    if code != 0:
        said = (folder / "log").read_text(errors="replace").strip().splitlines()
        raise harness.BenchmarkError(f"penstock build: exit code {code}: {said[-1] if said else 'it said nothing'}")
    return peaks, time.perf_counter() - started


def measure(options: harness.Options) -> harness.Result:
    megabytes = QUICK_MB if options.quick else FULL_MB
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        folder = Path(scratch)
        free = shutil.disk_usage(folder).free
        if free < megabytes * 1_000_000 * DISK_PER_BYTE:
            raise harness.BenchmarkError(
                f"{folder}: {free / 1e9:.1f} GB free, {megabytes * DISK_PER_BYTE / 1000:.1f} GB needed; set TMPDIR to "
                "a folder of a larger disk"
            )
        material = options.data
        if material is None:
            material = folder / "material"
            material.mkdir()
            from_environment(material, 6 if options.quick else MATERIAL_MB)
        parts = sentences(material)
        rows: list[harness.Row] = []
        found = {}
        for size in (megabytes // TIMES, megabytes):
            own = folder / f"{size}"
            (own / "corpus").mkdir(parents=True)
            made = large(own / "corpus", parts, size * 1_000_000)
            found[size], seconds = build(own)
            rows += table(made, found[size], seconds)
            shutil.rmtree(own)
    small, large_ = found[megabytes // TIMES], found[megabytes]
    return harness.Result(
        rows=rows,
        bars=[
            harness.Bar(
                name=f"resident MB of a build of {megabytes:,} MB of text, {WORKERS} workers",
                value=large_.resident / 1e6,
                op="<",
                want=2000.0,
            ),
            harness.Bar(
                name=f"resident memory of {TIMES} times the data over that of once",
                value=large_.resident / small.resident,
                op="<=",
                want=1.25,
            ),
        ],
        versions=harness.versions("pyarrow", "numpy", "tokenizers"),
    )


def table(size: int, peaks: Peaks, seconds: float) -> list[harness.Row]:
    """Rows of one build; ``size`` is its text in bytes."""
    text = f"{size / 1e6:,.0f} MB"
    return [
        {"text": text, "what": "build", "MB": size / 1e6, "seconds": seconds, "MB/s": size / 1e6 / seconds},
        {"text": text, "what": "peak, resident, all processes", "MB": peaks.resident / 1e6},
        {
            "text": text,
            "what": "peak, proportional, all processes",
            "MB": peaks.proportional / 1e6 if peaks.proportional else None,
        },
        {"text": text, "what": "peak, resident, driver alone", "MB": peaks.driver / 1e6},
        {"text": text, "what": "peak, resident, largest worker", "MB": peaks.worker / 1e6},
        *({"text": text, "what": f"peak in {step}", "MB": value / 1e6} for step, value in peaks.by_step.items()),
    ]


if __name__ == "__main__":
    harness.main("memory", __doc__, measure)
