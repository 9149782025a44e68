"""genlm-bytes' beam over the text and the model of benchmarks/bytelevel.py, as a yardstick for its speed.

Run it with the Python of an environment that holds requirements-bytelevel.txt; it imports nothing of penstock:

    python benchmarks/bytelevel_peers.py --folder FOLDER --beam 5 --bytes 200

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WARM = 32  # bytes before the clock starts


async def stream(folder: Path, size: int, beam: int, timeout: float | None, threshold: float) -> float:
    """Bytes a second."""
    from genlm.backend import load_model_by_name
    from genlm.bytes import BeamParams, ByteBeamState

    model = load_model_by_name(str(folder), backend="hf", llm_opts={} if timeout is None else {"timeout": timeout})
    data = (folder / "text").read_bytes()[: WARM + size]
    end = b"<|endoftext|>"
    state: Any = await ByteBeamState.initial(
        model, BeamParams(K=beam, prune_threshold=threshold, eos_byte_strings=[end], heal=True)
    )
    started = 0.0
    for place, byte in enumerate(data):
        if place == WARM:
            started = time.perf_counter()
        await state.logp_next()
        state = await (state.prune() << byte)
    seconds = time.perf_counter() - started
    await state.cleanup()
    return size / seconds


def main() -> None:
    import torch

    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--folder", type=Path, required=True)
    command.add_argument("--beam", type=int, required=True)
    command.add_argument("--bytes", type=int, default=200)
    command.add_argument(
        "--threshold", type=float, default=0.0, help="pruning threshold; its default is 0, its README has 0.05"
    )
    command.add_argument("--timeout", type=float, help="seconds that a query waits for others; its default without")
    given = command.parse_args()
    torch.set_num_threads(1)
    speed = asyncio.run(stream(given.folder, given.bytes, given.beam, given.timeout, given.threshold))
    names = ("genlm-bytes", "genlm-backend", "torch", "transformers")
    print(json.dumps({"speed": speed, "versions": {name: importlib.metadata.version(name) for name in names}}))


if __name__ == "__main__":
    main()
