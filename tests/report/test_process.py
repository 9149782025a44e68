"""The process that writes a run's report: the same report, whatever becomes of the process."""

import json
import shutil
from datetime import UTC, datetime

import psutil
import pytest

from penstock.report.build import write_report
from penstock.report.process import ReportProcess
from penstock.storage import Folder

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def run_folder(finished, tmp_path):
    """(folder of a finished run without its report, recipe)."""
    base, recipe, _ = finished
    root = tmp_path / "run"
    shutil.copytree(base / "run", root)
    for name in ("report.html", "record.json", ".report.json"):
        (root / name).unlink()
    return root, recipe


def children():
    """Live processes that this one started as Python's pools do."""
    found = (p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE)
    return {p for p in found if "spawn_main" in " ".join(p.cmdline())}


def test_the_process_writes_the_report_that_its_caller_would_and_ends_with_the_block(run_folder):
    root, recipe = run_folder
    before = children()
    with ReportProcess() as reports:
        reports.start()
        (mine,) = children() - before
        path = reports.write(recipe, Folder(str(root)), ["model-2"], BEGAN)
    assert path == str(root / "report.html")
    assert psutil.wait_procs([mine], timeout=30) == ([mine], [])
    found = json.loads((root / "record.json").read_text())
    assert (root / "report.html").stat().st_size > 10_000
    write_report(recipe, Folder(str(root)), ["model-2"], BEGAN)
    expected = json.loads((root / "record.json").read_text())
    assert found["started"] == BEGAN.isoformat(timespec="seconds")
    assert 0 < found.pop("seconds") < expected.pop("seconds")
    assert found == expected


def test_a_killed_process_costs_the_time_it_would_have_saved(run_folder):
    root, recipe = run_folder
    before = children()
    with ReportProcess() as reports:
        reports.start()
        (mine,) = children() - before
        mine.kill()
        mine.wait(timeout=30)
        reports.write(recipe, Folder(str(root)), ["model-2"], BEGAN)
    assert (root / "report.html").stat().st_size > 10_000


def test_an_error_of_the_report_is_the_callers_to_see(run_folder, tmp_path):
    from penstock.errors import DatasetError

    _, recipe = run_folder
    with ReportProcess() as reports:
        reports.start()
        with pytest.raises(DatasetError, match="nothing to report"):
            reports.write(recipe, Folder(str(tmp_path / "empty")), [], BEGAN)
