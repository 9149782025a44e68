"""Start the processes of a run on this machine through ``torchrun``, watch them, and say what became of them.

``TrainConfig.processes`` above 1 ends up here: the job is written beside the run as JSON, torchrun starts
``penstock.training.worker`` once per process on loopback, and the first rank leaves the result. When a process
dies, torchrun ends the others; whichever rank said why first is quoted, else the rank and its exit code are named.
On several machines start torchrun by hand on each: ``torchrun --nnodes … -m penstock.training.worker JOB``, with a
job written by ``write_job``, or call ``train`` in a script of your own.

Price: every process imports torch anew, some seconds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from penstock import errors
from penstock.errors import PenstockError, TrainingError, WorkerError
from penstock.storage import storage_errors
from penstock.training import checkpoint
from penstock.training.config import TrainConfig, TrainData, TrainResult
from penstock.training.metrics import StepProgress

_FOLDER = ".processes"
_WORKER = "penstock.training.worker"
# torchrun's account of its workers
_ENDED = re.compile(r"rank\s*:\s*(\d+) \(local_rank.*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 30.0  # between asking torchrun to end its workers and ending it


def needed(config: TrainConfig) -> bool:
    """Whether this call has to start processes: some are asked for, and none is running yet."""
    if config.processes == 1 or "RANK" in os.environ:
        return False
    import torch.distributed as dist

    return not dist.is_initialized()


def run(config: TrainConfig, data: TrainData, out: Path, *, progress: bool) -> TrainResult:
    """Train with ``config.processes`` processes and return what the first of them returned.

    Raises:
        PenstockError: the error that a process ended with.
        WorkerError: a process ended without a word; the message names it and the checkpoint that stands.
    """
    folder = out / _FOLDER
    with storage_errors(str(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    job = write_job(folder / "job.json", config, data, out, owner=psutil.Process())
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(config.processes), "--max-restarts", "0",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
        "--log-dir", str(folder / "torchrun"),
        "-m", _WORKER, str(job),
    ]  # fmt: skip
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            _watch(process, config, out, progress=progress)
        finally:
            _end(process)
    if process.returncode:
        raise _what_happened(folder, out, process.returncode)
    result = result_from_json(json.loads((folder / "result.json").read_text()))
    shutil.rmtree(folder)
    return result


def write_job(
    path: Path, config: TrainConfig, data: TrainData, out: Path, *, owner: psutil.Process | None = None
) -> Path:
    """What ``penstock.training.worker`` reads.

    Args:
        owner: a process whose end ends the workers too.
    """
    job: dict[str, Any] = {"config": dataclasses.asdict(config), "data": dataclasses.asdict(data), "out": str(out)}
    if owner is not None:
        job["owner"] = [owner.pid, owner.create_time()]
    with storage_errors(str(path)):
        path.write_text(json.dumps(job, default=str))
    return path


def result_to_json(result: TrainResult) -> dict[str, Any]:
    return {
        field.name: str(value) if isinstance(value := getattr(result, field.name), Path) else value
        for field in dataclasses.fields(result)
    }


def result_from_json(values: dict[str, Any]) -> TrainResult:
    paths = {"model", "checkpoint", "metrics", "signals", "policy_log", "tensorboard"}
    made = {name: Path(value) if name in paths and value is not None else value for name, value in values.items()}
    return TrainResult(**made | {"losses": tuple(values["losses"])})


def _watch(process: subprocess.Popen[bytes], config: TrainConfig, out: Path, *, progress: bool) -> None:
    """Wait for the end, drawing the progress that the first rank writes down."""
    metrics = out / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    done = metrics.read_bytes().count(b"\n") if before else 0
    with StepProgress(config.steps, done, shown=progress) as bar:
        read, tokens = before, None
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            size = metrics.stat().st_size if progress and metrics.exists() else read
            # a resumed run writes the file anew, and shorter
            read = min(read, size)
            if size > read:
                with metrics.open("rb") as file:
                    file.seek(read)
                    lines = file.read(size - read)
                whole = lines[: lines.rfind(b"\n") + 1]
                read += len(whole)
                for line in whole.splitlines():
                    record = json.loads(line)
                    trained = 0 if tokens is None else record["tokens"] - tokens
                    tokens = record["tokens"]
                    bar.update(record["step"], float("nan") if record["loss"] is None else record["loss"], trained)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that nothing of it runs on."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def _what_happened(folder: Path, out: Path, code: int) -> PenstockError:
    """The error to raise for processes that failed."""
    found = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    # a rank that lost the others says so as well; the one that had a reason of its own is the cause
    own = sorted((said for said in found if not said["lost"]), key=lambda said: float(said["at"]))
    if own:
        kind = getattr(errors, own[0]["type"], None)
        message = own[0]["message"]
        if isinstance(kind, type) and issubclass(kind, PenstockError):
            return kind(message)
        return WorkerError(
            f"rank {own[0]['rank']} ended with {own[0]['type']}: {message}; {folder / 'log.txt'} has more"
        )
    log = (folder / "log.txt").read_text(errors="replace")
    ended = [(int(rank), int(how)) for rank, how in _ENDED.findall(log)]
    spoke = {said["rank"] for said in found}
    silent = [(rank, how) for rank, how in ended if rank not in spoke and how != -signal.SIGTERM]
    if found and not silent:
        return TrainingError(min(found, key=lambda said: float(said["at"]))["message"])
    who = "rank {} ended with exit code {}".format(*silent[0]) if silent else f"torchrun ended with exit code {code}"
    kept = checkpoint.complete(out / "checkpoints")
    stands = f"the checkpoint {kept[-1].name} stands, start again to go on from it" if kept else "no step was saved yet"
    return WorkerError(f"{who} without a word, and the other processes were stopped; {stands} ({folder / 'log.txt'})")
