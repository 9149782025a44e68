"""MosaicML Streaming and HF ``interleave_datasets`` reading a mixture of domains, as yardsticks for penstock's loader.

Streaming runs with the Python of an environment that holds requirements-streaming.txt. Nothing of penstock is imported:

    python benchmarks/loader_peers.py write  --library streaming --data DIR --out DIR
    python benchmarks/loader_peers.py speed  --library hf-iterable --data DIR --seconds 3
    python benchmarks/loader_peers.py resume --library streaming --data DIR --at 10000000

``--data`` of ``write`` is a folder of ``NAME.bin``, rows of uint16 tokens; ``mixture.json`` there holds their weights
and the tokens of a row. Everything runs in this process, without workers, and hands out batches as one NumPy array.
Libraries: streaming (shuffled, uncompressed MDS shards on the local disk), hf-iterable (``to_iterable_dataset`` and
``interleave_datasets`` with probabilities), hf-map (the same of datasets that are indexed). HF's are not shuffled,
which is its best case. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import copy
import importlib.machinery
import importlib.metadata
import json
import resource
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 8
SEED = 1


def mixture(folder: Path) -> tuple[dict[str, float], int]:
    """Weights by domain and tokens of a row."""
    facts = json.loads((folder / "mixture.json").read_text())
    return facts["weights"], facts["length"]


def streaming() -> Any:
    """The module. It imports torchvision for its image sets, and PyPI's does not load beside a CPU build of torch."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for name, members in {
            "torchvision": (),
            "torchvision.datasets": ("VisionDataset", "CIFAR10"),
            "torchvision.transforms": (),
            "torchvision.transforms.functional": ("to_tensor",),
        }.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
            vars(sys.modules[name]).update(dict.fromkeys(members, object))
    return importlib.import_module("streaming")


def write_streaming(data: Path, out: Path) -> None:
    weights, length = mixture(data)
    for name in weights:
        rows = np.fromfile(data / f"{name}.bin", np.uint16).reshape(-1, length)
        with streaming().MDSWriter(out=str(out / name), columns={"tokens": f"ndarray:uint16:{length}"}) as writer:
            for row in rows:
                writer.write({"tokens": row})


def write_hf(data: Path, out: Path) -> None:
    import datasets
    import pyarrow as pa

    weights, length = mixture(data)
    for name in weights:
        tokens = pa.array(np.fromfile(data / f"{name}.bin", np.uint16))
        table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(tokens, length)})
        datasets.Dataset(table).save_to_disk(str(out / name))


def open_streaming(data: Path, **options: Any) -> Any:
    peer = streaming()
    weights, _ = mixture(data)
    streams = [peer.Stream(local=str(data / name), proportion=weight) for name, weight in weights.items()]
    return peer.StreamingDataset(streams=streams, batch_size=BATCH, shuffle=True, shuffle_seed=SEED, **options)


def open_hf(data: Path, *, iterable: bool) -> Any:
    import datasets

    weights, _ = mixture(data)
    parts: list[Any] = [datasets.load_from_disk(str(data / name)).with_format("numpy") for name in weights]
    if iterable:
        parts = [part.to_iterable_dataset() for part in parts]
    total = sum(weights.values())
    # begins a source anew where it ends before the others, as ours does
    return datasets.interleave_datasets(
        parts,
        probabilities=[weight / total for weight in weights.values()],
        seed=SEED,
        stopping_strategy="all_exhausted",
    )


def batches(library: str, data: Path) -> Iterator[np.ndarray]:
    """Batches without end."""
    while True:
        if library == "hf-map":
            dataset = open_hf(data, iterable=False)
            for begin in range(0, len(dataset) - BATCH + 1, BATCH):
                yield np.asarray(dataset[begin : begin + BATCH]["tokens"])
            continue
        dataset = open_streaming(data) if library == "streaming" else open_hf(data, iterable=True)
        rows = []
        for sample in dataset:
            rows.append(sample["tokens"])
            if len(rows) == BATCH:
                yield np.stack(rows)
                rows = []
        if library == "streaming":
            return


def anonymous_mb() -> float:
    """Memory of this process that belongs to no file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    return 0.0


def speed(source: Iterator[np.ndarray], seconds: float) -> dict[str, Any]:
    """Tokens that a source of batches without end gives in some seconds, after the first ones."""
    for _ in range(50):
        tokens = next(source).size
    count, began = 0, time.perf_counter()
    for _ in source:
        count += 1
        if time.perf_counter() - began > seconds:
            break
    spent = time.perf_counter() - began
    return {"tokens": count * tokens, "seconds": spent, "anonymous_mb": anonymous_mb()}


def resume(library: str, data: Path, at: int) -> dict[str, Any]:
    """Seconds from a state at sequence ``at`` to the next batch, in a process that has read a batch before."""
    if library == "streaming":
        # an epoch that holds the sequence, by upsampling
        dataset = open_streaming(data, epoch_size=at + at // 5)
        state = {
            "epoch": 0,
            "sample_in_epoch": at,
            "num_canonical_nodes": 1,
            "shuffle_seed": SEED,
            "initial_physical_nodes": 1,
        }
    else:
        dataset = open_hf(data, iterable=True)
        for count, _ in enumerate(dataset, 1):
            if count == at:
                break
        state = copy.deepcopy(dataset.state_dict())
        dataset = open_hf(data, iterable=True)
    began = time.perf_counter()
    dataset.load_state_dict(state)
    rows = iter(dataset)
    np.stack([next(rows)["tokens"] for _ in range(BATCH)])
    return {"seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("write", "speed", "resume"))
    parser.add_argument("--library", choices=("streaming", "hf-iterable", "hf-map"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--at", type=int, default=10_000_000)
    given = parser.parse_args()
    if given.mode == "write":
        given.out.mkdir(parents=True)
        (write_streaming if given.library == "streaming" else write_hf)(given.data, given.out)
        (given.out / "mixture.json").write_text((given.data / "mixture.json").read_text())
        found: dict[str, Any] = {}
    elif given.mode == "speed":
        found = speed(batches(given.library, given.data), given.seconds)
    else:
        found = resume(given.library, given.data, given.at)
    name = "mosaicml-streaming" if given.library == "streaming" else "datasets"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak_mb": peak, "versions": {name: importlib.metadata.version(name)}}))


if __name__ == "__main__":
    main()
