"""The engine and the splits that a command or a deployment names. Nothing heavy is imported where it names none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.pipelines.beam import BeamEngine


def beam_engine(runner: str | None, options: Sequence[str], *, shared_disk: bool = False) -> BeamEngine | None:
    """The engine of a Beam runner; None without one, for passes at home.

    Args:
        shared_disk: as of ``BeamEngine``.

    Raises:
        ConfigError: options without a runner, or what ``BeamEngine`` refuses.
    """
    if runner is None:
        if options:
            raise ConfigError(
                f"runner_options: got {options[0]} without a runner; name one by --runner, such as PortableRunner"
            )
        if shared_disk:
            raise ConfigError("shared_disk: got it without a runner; name one by --runner, such as PortableRunner")
        return None
    from penstock.pipelines.beam import BeamEngine

    return BeamEngine(runner, tuple(options), shared_disk)


def split_bytes(split_mb: float) -> int:
    """Input bytes of a split from megabytes; ConfigError unless they are above 0."""
    if not split_mb > 0:
        raise ConfigError(f"split_mb: got {split_mb}, allowed above 0; 32 is the default")
    return max(int(split_mb * (1 << 20)), 1)


def describes_a_job(runner: str | None, *, dry_run: bool, job_file: Path | None) -> bool:
    """Whether a command is a dry run on Dataflow, which contacts nothing, not even the run's folder.

    Raises:
        ConfigError: a file for the job is named where there is no such job.
    """
    found = False
    if runner is not None and dry_run:
        from penstock.pipelines.beam_launch import kind_of

        found = kind_of(runner) == "dataflow"
    if job_file is not None and not found:
        raise ConfigError(
            f"--job-file: got {job_file} without a job of Dataflow to write, allowed with --dry-run and --runner "
            "DataflowRunner; add both, or leave it out"
        )
    return found
