"""This package's side of benchmarks/diversity.py, each mode in a process of its own:

    python -m benchmarks.diversity_sides greedy --data random --rows 100000 --dimensions 384 --picks 200 --repeats 5
    python -m benchmarks.diversity_sides memory --rows 100000 …
    python -m benchmarks.diversity_sides forms  --rows 20000 …
    python -m benchmarks.diversity_sides rounds
    python -m benchmarks.diversity_sides kdpp   --rows 2000 --picks 50

``greedy`` takes turns in one process: ``picks`` bare products ``B @ u`` with the matrix that greedy reads, then greedy
with everything it does (the kernel, gains, choice). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.diversity_data import eigenvalues_of_5, features, likelihood
from penstock.diversity import KDPP, Cosine, Gram, greedy_map
from penstock.diversity.rounds import measure_loss
from penstock.diversity.sampling import log_elementary
from penstock.diversity.sweeps import threads
from penstock.seeding import stream

Matrix = NDArray[Any]


def seconds_of(do: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = do()
    return time.perf_counter() - started, found


def passes(matrix: Matrix, vector: Matrix, out: Matrix, count: int) -> None:
    for _ in range(count):
        np.matmul(matrix, vector, out=out)


def plain_read(matrix: Matrix, pool: ThreadPoolExecutor, parts: int) -> None:
    """Every byte once: sums of whole numbers, a part of the matrix a thread."""
    list(pool.map(np.sum, np.array_split(matrix.view(np.int64).ravel(), parts)))


def reference(matrix: Matrix, count: int) -> list[int]:
    """Greedy MAP in float64 as it is written down, without anything of this package."""
    wide = matrix.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    gains, basis, picks = np.ones(len(wide)), np.zeros((count, wide.shape[1])), list[int]()
    for step in range(count):
        j = int(np.flatnonzero(gains >= gains.max() - 1e-12)[0])
        rest = wide[j] - basis[:step].T @ (basis[:step] @ wide[j])
        rest -= basis[:step].T @ (basis[:step] @ rest)
        basis[step] = rest / np.linalg.norm(rest)
        gains -= (wide @ basis[step]) ** 2
        gains[j] = -np.inf
        picks.append(j)
    return picks


def greedy(given: argparse.Namespace) -> dict[str, Any]:
    matrix = features(given.data, given.rows, given.dimensions)
    vector = matrix[0].copy()
    out = np.empty(given.rows, np.float32)
    cores = threads()
    found: dict[str, Any] = {name: [] for name in ("passes", "sweep", "lazy", "torch", "read")}
    passes(matrix, vector, out, 5)
    chosen = greedy_map(matrix, given.picks, lazy=False)
    import torch

    tensor = torch.from_numpy(matrix)
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(given.repeats):
            found["passes"].append(seconds_of(lambda: passes(matrix, vector, out, given.picks))[0])
            found["sweep"].append(seconds_of(lambda: greedy_map(matrix, given.picks, lazy=False))[0])
            one = seconds_of(lambda: [plain_read(matrix, pool, cores) for _ in range(10)])[0]
            found["read"].append(one / 10 * given.picks)
    wanted = reference(matrix, given.picks)
    found["lazy"].append(seconds_of(lambda: greedy_map(matrix, given.picks, lazy=True))[0])
    found["torch"].append(seconds_of(lambda: greedy_map(tensor, given.picks, lazy=False))[0])
    equal = [int(a == b) for a, b in zip(chosen.picks.tolist(), wanted, strict=True)]
    return found | {"equal": sum(equal), "bytes": matrix.nbytes}


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Peak of what greedy allocates beside the features, by number of rows."""
    greedy_map(features(given.data, 100, given.dimensions), 2)  # compiles, which allocates too
    found = {}
    for rows in (given.rows // 2, given.rows):
        matrix = features(given.data, rows, given.dimensions)
        tracemalloc.start()
        greedy_map(matrix, given.picks, lazy=False)
        found[str(rows)] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    low, high = found.values()
    return {"peak": found, "bytes_a_row": (high - low) / (given.rows - given.rows // 2)}


def forms(given: argparse.Namespace) -> dict[str, Any]:
    """One kernel by both forms and both ways; picks have to be the same."""
    kernel = Cosine(features(given.data, given.rows, given.dimensions))
    greedy_map(kernel, 2)
    found, picks = {}, []
    for form in ("features", "rows"):
        for lazy in (False, True):
            seconds, chosen = seconds_of(
                lambda form=form, lazy=lazy: greedy_map(kernel, given.picks, form=form, lazy=lazy)  # type: ignore[misc]
            )
            found[f"{form}, {'lazy' if lazy else 'sweeps'}"] = seconds
            picks.append(chosen.picks.tolist())
    return {"seconds": found, "equal": all(p == picks[0] for p in picks)}


def rounds(given: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for data in ("random", "clustered"):
        matrix = features(data, given.rows, 64)
        shard = stream(0, "shards").permutation(given.rows)
        for shards in (4, 16):
            loss = measure_loss(matrix, shard % shards, 40)
            found[f"{data}, {shards} shards"] = [loss.central, loss.two_rounds, loss.random, loss.share]
    return {"losses": found}


def sample(given: argparse.Namespace) -> dict[str, Any]:
    """A k-DPP from a matrix, as the peer gets it: eigendecomposition and one draw; then draws alone."""
    matrix = likelihood(given.rows)
    KDPP(Gram(matrix[:50, :50]), 3).sample(stream(0, "warm"))
    seconds, process = seconds_of(lambda: KDPP(Gram(matrix), given.picks, form="primal"))
    one = seconds_of(lambda: process.sample(stream(0, "draw")))[0]
    more = seconds_of(lambda: [process.sample(stream(1, "draw", i)) for i in range(5)])[0]
    return {"first": seconds + one, "draw": more / 5}


def inclusion(given: argparse.Namespace) -> dict[str, Any]:
    matrix = likelihood(given.rows)
    process, count = KDPP(Gram(matrix), given.picks), np.zeros(given.rows, int)
    for i in range(given.repeats):
        count[process.sample(stream(0, "inclusion", i)).rows] += 1
    return {"counts": count.tolist()}


def overflow(given: argparse.Namespace) -> dict[str, Any]:
    return {"log10": float(log_elementary(np.log(eigenvalues_of_5(given.rows)), given.picks)[-1, -1] / np.log(10))}


MODES = {
    "greedy": greedy,
    "memory": memory,
    "forms": forms,
    "rounds": rounds,
    "kdpp": sample,
    "inclusion": inclusion,
    "overflow": overflow,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=sorted(MODES))
    parser.add_argument("--data", choices=["random", "clustered"], default="random")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--picks", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(MODES[given.mode](given)))


if __name__ == "__main__":
    main()
