"""Is this machine fit to run penstock? Every check looks at one thing and names the command that mends it.

    for finding in examine("runs"):
        print(finding.check, finding.status, finding.found, finding.mend)

Checks are functions: those of ``doctor_libraries`` look at what is installed, those of ``doctor_machine`` at the
machine. A *broken* thing stops a verb that every user has; a *warning* is an extra that is not there, or a bound that a
large run would meet.

Price: a second. Nothing heavy is imported; with ``deep`` torch, Beam and vLLM are, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Status(StrEnum):
    """How grave a finding is; in this order."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: what was looked at.
        found: what is there, on one line.
        mend: the command that mends it; empty where nothing is to be mended.
    """

    check: str
    status: Status
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ok(check: str, found: str) -> Finding:
    return Finding(check, Status.OK, found)


def warning(check: str, found: str, mend: str) -> Finding:
    return Finding(check, Status.WARNING, found, mend)


def broken(check: str, found: str, mend: str) -> Finding:
    return Finding(check, Status.BROKEN, found, mend)


def checks(out: str, *, deep: bool) -> Iterator[Callable[[], Finding | list[Finding]]]:
    """The checks in the order of the table; arguments as of ``examine``."""
    from functools import partial

    from penstock import doctor_libraries as libraries
    from penstock import doctor_machine as machine

    yield libraries.check_python
    yield libraries.check_required
    yield libraries.check_extras
    yield libraries.check_faiss
    yield libraries.check_fastapi
    yield libraries.check_models
    yield partial(libraries.check_gpu, deep=deep)
    yield partial(libraries.check_runner, deep=deep)
    yield partial(libraries.check_vllm, deep=deep)
    yield partial(machine.check_out, out)
    yield machine.check_cache
    yield machine.check_memory
    yield machine.check_cores
    yield machine.check_shared_memory
    yield machine.check_descriptors
    yield machine.check_clock
    yield machine.check_loopback


def examine(out: str = "runs", *, deep: bool = False) -> list[Finding]:
    """Run every check.

    Args:
        out: folder or URL where runs are to be written.
        deep: also use what is installed: multiply on the GPU, run a Beam pipeline, import vLLM.
    """
    found: list[Finding] = []
    for check in checks(out, deep=deep):
        one = check()
        found += one if isinstance(one, list) else [one]
    return found


def worst(findings: Sequence[Finding]) -> Status:
    """The gravest status of all."""
    return max((finding.status for finding in findings), key=list(Status).index, default=Status.OK)


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """The table, and below it the commands, each on a line of its own so that it can be copied, on stdout."""
    from rich.console import Console
    from rich.text import Text

    from penstock.terminal import PATH_CHARACTERS, count, plain, print_table, say, table

    console = console or Console()
    styles = {Status.OK: "green", Status.WARNING: "yellow", Status.BROKEN: "red"}
    shown = table(("check", "status", "found"))
    for finding in findings:
        shown.add_row(finding.check, Text(finding.status, styles[finding.status]), plain(finding.found))
    print_table(console, "This machine", shown)
    for status in (Status.BROKEN, Status.WARNING):
        for finding in findings:
            if finding.status is status:
                say(console, (f"{finding.check}: ", styles[status]), plain(finding.mend, PATH_CHARACTERS))
    numbers = {status: sum(finding.status is status for finding in findings) for status in Status}
    say(console, f"{count(numbers[Status.WARNING], 'warning')}, {numbers[Status.BROKEN]} broken")
