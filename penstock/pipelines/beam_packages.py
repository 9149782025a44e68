"""How workers come by penstock where they start in Beam's own container, which has none: by a wheel that is built here.

Where the launcher runs from its source, the wheel is made of a copy of that source, once a process, and given to Beam
as ``--extra_package``, with the launcher's versions of what penstock asks for as ``--requirements_file``. Beam's stager
sends both with the job. Installed penstock has no source to build from: then a container or a package must be named.

A wheel and not ``--setup_file``: Beam makes that one anew for every job, in the source folder itself, and each worker
would have to build it again.

Price: a few seconds to build; each worker then downloads what penstock needs, gigabytes with torch, every time it
starts. For more than a trial build a container (``containers/Dockerfile``).
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from penstock.doctor_libraries import requirements, version_of
from penstock.errors import ConfigError
from penstock.pipelines.beam_launch import PORTABLE, environment_of, kind_of

IN_WHEEL = ("pyproject.toml", "README.md", "LICENSE")
_CLIENTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


def lacks_penstock(runner: str, options: Any) -> bool:
    """Whether workers start in Beam's own container and nothing that is named brings penstock there.

    Args:
        options: Beam's ``PipelineOptions``.
    """
    from apache_beam.options.pipeline_options import PortableOptions, SetupOptions, WorkerOptions

    kind = kind_of(runner)
    if kind != "dataflow" and (kind not in PORTABLE or environment_of(runner, options) != "DOCKER"):
        return False
    worker, setup = options.view_as(WorkerOptions), options.view_as(SetupOptions)
    if kind == "dataflow":
        image = worker.sdk_container_image or worker.worker_harness_container_image
    else:
        portable = options.view_as(PortableOptions)
        image = portable.environment_config or portable.lookup_environment_option("docker_container_image")
    named = [os.path.basename(package) for package in setup.extra_packages or ()]
    return not image and not setup.setup_file and not any(name.startswith("penstock-") for name in named)


def add_penstock(runner: str, options: Any, protocol: str) -> None:
    """Have penstock sent to workers that would lack it; changes ``options``, and nothing where they will have it.

    Args:
        options: Beam's ``PipelineOptions``.
        protocol: of the run's folder: the client of that store is asked for too.

    Raises:
        ConfigError: there is no source to build from, or it cannot be built.
    """
    from apache_beam.options.pipeline_options import SetupOptions

    if not lacks_penstock(runner, options):
        return
    setup = options.view_as(SetupOptions)
    built = wheel()
    setup.extra_packages = [*(setup.extra_packages or ()), str(built)]
    if setup.requirements_file is None:
        file = built.parent / f"requirements-{protocol}.txt"
        file.write_text("".join(f"{line}\n" for line in pinned(protocol)))
        setup.requirements_file = str(file)
        setup.requirements_cache = "skip"  # else the launcher downloads them all, to send them


def pinned(protocol: str) -> list[str]:
    """What penstock asks for directly, Beam apart, and the client of a store, at the launcher's versions."""
    wanted = {one.name: sorted(one.extras) for one in requirements() if one.name != "apache-beam"}
    if protocol in _CLIENTS:
        wanted[_CLIENTS[protocol]] = []
    lines = []
    for name, extras in wanted.items():
        version = version_of(name)
        if version is not None:
            asked = f"{name}[{','.join(extras)}]" if extras else name
            # "2.9.0+cpu" is a build of this machine
            lines.append(f"{asked}=={version.partition('+')[0]}")
    return sorted(lines)


def source_folder() -> Path | None:
    """The folder with the source and the pyproject.toml that penstock runs from; None where it is installed."""
    folder = Path(__file__).parents[2]
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except OSError:
        return None
    return folder if project.get("name") == "penstock" else None


@functools.cache
def wheel() -> Path:
    """A wheel of the source that this process runs from, in a folder that goes when the process ends.

    Raises:
        ConfigError: penstock is installed and has no source, or the source cannot be built.
    """
    source = source_folder()
    instead = "give --runner-option=--sdk_container_image=IMAGE, or --runner-option=--extra_package=penstock-….whl"
    if source is None:
        raise ConfigError(
            "penstock is installed here without its source, so no package can be built for workers, which start in a "
            f"container of Beam's that has none; {instead}"
        )
    if importlib.util.find_spec("build") is None:
        raise ConfigError(
            "a package for workers has to be built from the source, and the package build is not installed; run: "
            f"pip install build setuptools, or {instead}"
        )
    folder = Path(tempfile.mkdtemp(prefix="penstock-wheel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # this one is: it holds no compiled code
    logging.getLogger("apache_beam.runners.portability.stager").addFilter(
        lambda record: "must be binary-compatible" not in record.getMessage()
    )
    copy = folder / "source"  # a build leaves folders beside the source
    shutil.copytree(source / "penstock", copy / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
    for name in IN_WHEEL:
        shutil.copy(source / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise ConfigError(f"{source}: a package for workers cannot be built ({' '.join(last)}); mend it, or {instead}")
    shutil.rmtree(copy)
    (made,) = folder.glob("*.whl")
    return made
