"""This package's side of benchmarks/loader.py, and bare NumPy's: ``python -m benchmarks.loader_sides MODE …``.

    write     make up the tokens of the domains: files of raw uint16, and the same as this package's sequences
    loader    ``MixtureLoader.batch``, step after step
    stream    ``MixtureLoader.stream``, two batches ahead
    memmap    the same rows out of one ``np.memmap`` a domain, copied row by row into a new array
    views     as memmap, through plain arrays over the mapped memory
    whole     the same number of random rows out of one array in memory by one fancy index
    resume    milliseconds from a state at sequence 10 million, with a change to come, to the next batch

The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.loader_peers import BATCH, mixture, speed
from penstock import schema
from penstock.seeding import stream
from penstock.training.loader import MixtureLoader
from penstock.training.mixture import MixtureLog
from penstock.training.sequences import SequenceStore

LENGTH = 2048
WEIGHTS = {f"d{k}": w for k, w in enumerate((0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05))}
AHEAD = 1 << 16  # sequences whose places bare NumPy knows before the clock starts


def write(out: Path, rows: int) -> None:
    """``rows`` sequences of each domain, of four segments each."""
    (out / "bin").mkdir(parents=True)
    (out / "bin" / "mixture.json").write_text(json.dumps({"weights": WEIGHTS, "length": LENGTH}))
    (out / "arrow").mkdir()
    kind = schema.sequences(LENGTH, pa.uint16())
    for name in WEIGHTS:
        tokens = stream(0, "tokens", name).integers(0, 50_000, (rows, LENGTH)).astype(np.uint16)
        tokens.tofile(out / "bin" / f"{name}.bin")
        columns = [
            pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel()), type=kind.field("tokens").type),
            pa.array([[300, 800, 500, 448]] * rows, pa.list_(pa.int32())),
            pa.array([[f"{name}/{i}.{j}" for j in range(4)] for i in range(rows)], pa.list_(pa.string())),
            pa.array([name] * rows, pa.string()),
            pa.array([None] * rows, pa.list_(pa.int32())),
        ]
        with pa.ipc.new_file(str(out / "arrow" / f"{name}.arrow"), kind) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=kind), max_chunksize=1024)


def loader_of(data: Path) -> MixtureLoader:
    store = SequenceStore.open({name: [data / "arrow" / f"{name}.arrow"] for name in WEIGHTS})
    return MixtureLoader(store, WEIGHTS, seed=0, fingerprint="benchmark", batch_size=BATCH)


def places(data: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Domain and row of sequences 0 to ``AHEAD``, by batch, as the loader has them; no store is opened."""
    rows = (data / "bin" / "d0.bin").stat().st_size // 2 // LENGTH
    quotas = [round(1000 * w) for w in WEIGHTS.values()]
    log = MixtureLog.start(list(WEIGHTS), quotas, seed=0, rows=[rows] * len(WEIGHTS))
    domain, row, _, _ = log.locate(np.arange(AHEAD))
    return domain.reshape(-1, BATCH).tolist(), row.reshape(-1, BATCH).tolist()


def by_loader(data: Path) -> Iterator[np.ndarray]:
    loader = loader_of(data)
    for step in count():
        yield loader.batch(step).tokens


def by_stream(data: Path) -> Iterator[np.ndarray]:
    for batch in loader_of(data).stream(None, prefetch=2):
        yield batch.tokens


def by_rows(data: Path, wrap: Callable[[Any], Any]) -> Iterator[np.ndarray]:
    _, length = mixture(data / "bin")
    maps = [wrap(np.memmap(data / "bin" / f"{name}.bin", np.uint16, "r").reshape(-1, length)) for name in WEIGHTS]
    domains, rows = places(data)
    for i in count():
        out = np.empty((BATCH, length), np.uint16)
        at = i % len(rows)
        for place, (domain, row) in enumerate(zip(domains[at], rows[at], strict=True)):
            out[place] = maps[domain][row]
        yield out


def by_fancy_index(data: Path) -> Iterator[np.ndarray]:
    whole = np.concatenate([np.fromfile(data / "bin" / f"{name}.bin", np.uint16) for name in WEIGHTS])
    whole = whole.reshape(-1, LENGTH)
    rows = stream(0, "rows").permutation(len(whole))
    rows = rows[: len(rows) // BATCH * BATCH].reshape(-1, BATCH)
    for i in count():
        yield whole[rows[i % len(rows)]]


def resume(data: Path, at: int) -> dict[str, Any]:
    saved = loader_of(data)
    saved.batch(0)
    saved.advance(at // BATCH)
    saved.update("uniform", step=at // BATCH)
    state = json.dumps(saved.state_dict())
    loader = loader_of(data)
    began = time.perf_counter()
    loader.load_state_dict(json.loads(state))
    batch = loader.batch(loader.consumed // BATCH)
    spent = time.perf_counter() - began
    return {"seconds": spent, "first": int(batch.numbers[0]), "state_bytes": len(state)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("write", "loader", "stream", "memmap", "views", "whole", "resume"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--at", type=int, default=10_000_000)
    given = parser.parse_args()
    sources: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        "loader": lambda: by_loader(given.data),
        "stream": lambda: by_stream(given.data),
        "memmap": lambda: by_rows(given.data, lambda mapped: mapped),
        "views": lambda: by_rows(given.data, np.asarray),
        "whole": lambda: by_fancy_index(given.data),
    }
    found: dict[str, Any] = {}
    if given.mode == "write":
        write(given.data, given.rows)
    elif given.mode == "resume":
        found = resume(given.data, given.at)
    else:
        found = speed(sources[given.mode](), given.seconds)
    print(json.dumps({**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
