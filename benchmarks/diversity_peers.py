"""Exact k-DPP samples of DPPy, as a yardstick for penstock's.

Run it with the Python of an environment that holds requirements-diversity.txt; it imports nothing of penstock:

    python benchmarks/diversity_peers.py kdpp      --rows 2000 --picks 50
    python benchmarks/diversity_peers.py inclusion --rows 60 --picks 6 --repeats 1000
    python benchmarks/diversity_peers.py overflow  --rows 3000 --picks 400

``kdpp`` times the first draw, which decomposes the kernel, and draws after it. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the sets are made by one file for both sides
from diversity_data import eigenvalues_of_5, likelihood


def kdpp(given: argparse.Namespace) -> dict[str, Any]:
    from dppy.finite_dpps import FiniteDPP

    matrix = likelihood(given.rows)
    FiniteDPP("likelihood", L=matrix[:50, :50]).sample_exact_k_dpp(size=3)
    process = FiniteDPP("likelihood", L=matrix)
    started = time.perf_counter()
    process.sample_exact_k_dpp(size=given.picks)
    first = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(5):
        process.sample_exact_k_dpp(size=given.picks)
    return {"first": first, "draw": (time.perf_counter() - started) / 5}


def inclusion(given: argparse.Namespace) -> dict[str, Any]:
    from dppy.finite_dpps import FiniteDPP

    process, count = FiniteDPP("likelihood", L=likelihood(given.rows)), np.zeros(given.rows, int)
    generator = np.random.RandomState(0)
    for _ in range(given.repeats):
        count[process.sample_exact_k_dpp(size=given.picks, random_state=generator)] += 1
    return {"counts": count.tolist()}


def overflow(given: argparse.Namespace) -> dict[str, Any]:
    from dppy.exact_sampling import elementary_symmetric_polynomials

    with np.errstate(over="ignore"):
        table = elementary_symmetric_polynomials(eigenvalues_of_5(given.rows), given.picks)
    value = float(table[-1, -1])
    return {"log10": None if not np.isfinite(value) else float(np.log10(value))}


MODES = {"kdpp": kdpp, "inclusion": inclusion, "overflow": overflow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=sorted(MODES))
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--picks", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps(MODES[given.mode](given) | {"versions": {"dppy": importlib.metadata.version("dppy")}}))


if __name__ == "__main__":
    main()
