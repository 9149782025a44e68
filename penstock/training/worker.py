"""One process of a training run that ``torchrun`` starts: ``torchrun … -m penstock.training.worker JOB``.

The job is a JSON file by ``launch.write_job``. The first rank leaves ``result.json`` beside it; a rank that fails
leaves ``error-<rank>.json`` and its traceback on the standard error, and ends with exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

_LOOK_SECONDS = 1.0


def main(path: str) -> int:
    """Run the job; the exit code."""
    from pydantic import TypeAdapter

    from penstock.training.config import TrainConfig, TrainData
    from penstock.training.distributed import lost_ranks
    from penstock.training.launch import result_to_json
    from penstock.training.loop import train

    folder, rank = Path(path).parent, int(os.environ["RANK"])
    try:
        job: dict[str, Any] = json.loads(Path(path).read_text())
        if "owner" in job:
            threading.Thread(target=_end_with, args=tuple(job["owner"]), name="owner", daemon=True).start()
        config = TypeAdapter(TrainConfig).validate_python(job["config"])
        data = TypeAdapter(TrainData).validate_python(job["data"])
        result = train(config, data, job["out"], progress=False)
        if rank == 0:
            (folder / "result.json").write_text(json.dumps(result_to_json(result)))
    except BaseException as error:  # noqa: BLE001 - written down for whoever started this process
        said = {
            "rank": rank, "type": type(error).__name__, "message": str(error), "at": time.time(),
            "lost": lost_ranks(error),
        }  # fmt: skip
        (folder / f"error-{rank}.json").write_text(json.dumps(said))
        traceback.print_exc()
        return 1
    return 0


def _end_with(pid: int, created: float) -> None:
    """End this process when the one that started the run is gone: torchrun would go on without it."""
    while True:
        try:
            alive = psutil.Process(pid).create_time() == created
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            os._exit(1)
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # no teardown: it may wait for ranks that are gone
    os._exit(code)
