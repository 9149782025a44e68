"""Choosing diverse rows: greedy MAP against the bound of its matrix-vector passes, k-DPP samples against DPPy.

    greedy    N = 100,000, d = 384, k = 200 in float32: every pick has to read all features (154 MB, more than a cache
              holds), as the product ``B @ u`` of every pick does. The share of that bound is the time of ``k`` bare
              products over greedy's, everything included (kernel, gains, choice); both in one process, in turn. Where
              it is above 1, the products themselves are not held up by memory: plain reads of as many bytes are
              measured beside them. Picks are compared with a greedy in float64 that shares no code. Random directions
              and clustered ones, on all cores; the same on one
    memory    what greedy allocates beside the features, a row, from its peaks at N and at N / 2
    forms     the same picks by features and by columns of the kernel, by sweeps and lazily (N = 20,000, k = 100)
    rounds    log det of 40 of 20,000 rows chosen at once, in two rounds over 4 and 16 shards, at random
    k-DPP     the first exact sample of 50 of 2,000 rows (with the decomposition) and those after it against DPPy, on
              one thread each. The first has no bar: DPPy takes LAPACK's syevr, which is faster here on one thread than
              our syevd, whose eigenvectors are orthogonal to 4e-15 and not to 1e-12. How often each row is drawn, by
              both; 3,000 eigenvalues of 5 and k = 400, where numbers overflow

``--quick`` takes fewer rows and repeats, and leaves DPPy out where it is not installed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result

ONE_THREAD = ("env", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1")
SHARE = 0.85
BYTES_A_ROW = 100


def options_of(**values: Any) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def side(mode: str, *, before: Sequence[str] = (), **values: Any) -> dict[str, Any]:
    return harness.run_json([*before, sys.executable, "-m", "benchmarks.diversity_sides", mode, *options_of(**values)])


def peer(python: Path, mode: str, *, before: Sequence[str] = (), **values: Any) -> dict[str, Any]:
    script = str(harness.ROOT / "benchmarks" / "diversity_peers.py")
    return harness.run_json([*before, str(python), script, mode, *options_of(**values)])


def greedy(quick: bool) -> Result:
    found = Result()
    size = {"rows": 20_000 if quick else 100_000, "dimensions": 384, "picks": 50 if quick else 200}
    repeats = 3
    for data, before, threads in (("random", (), "all"), ("clustered", (), "all"), ("random", ONE_THREAD, "one")):
        run = side("greedy", before=before, data=data, repeats=repeats, **size)
        gigabytes = run["bytes"] * size["picks"] / 1e9
        where = f"{data}, {threads} core{'s' * (threads == 'all')}"
        for name, what in (
            ("read", f"plain reads of the matrix, {size['picks']} times"),
            ("passes", f"bare products, {size['picks']} times"),
            ("sweep", "greedy by sweeps"),
            ("lazy", "greedy, lazy"),
            ("torch", "greedy by sweeps, torch"),
        ):
            rate = gigabytes / statistics.median(run[name])
            found.rows.append(harness.row(f"{where}: {what}", run[name], "s", **{"GB/s": round(rate, 2)}))
        share = harness.ratio(run["passes"], run["sweep"])
        found.rows += [
            harness.ratio_row(f"{where}: share of the bound of the bare products", share, repeats),
            harness.ratio_row(f"{where}: share of plain reads", harness.ratio(run["read"], run["sweep"]), repeats),
        ]
        found.bars += [
            Bar(name=f"{where}: share of the bound of the bare products", value=share.median, op=">=", want=SHARE),
            Bar(name=f"{where}: picks equal to float64", value=run["equal"], op=">=", want=size["picks"]),
        ]
    # 64 dimensions: of 384 the blocks of widened rows, 13 MB whatever N is, would be more than what grows with N
    run = side("memory", **(size | {"dimensions": 64, "picks": 50}))
    for rows, peak in run["peak"].items():
        found.rows.append(harness.row(f"memory beside the features, {int(rows):,} rows", [peak / 1e6], "MB"))
    found.bars.append(
        Bar(name="memory beside the features, bytes a row", value=run["bytes_a_row"], op="<=", want=BYTES_A_ROW)
    )
    run = side("forms", rows=5_000 if quick else 20_000, dimensions=384, picks=50 if quick else 100)
    found.rows += [harness.row(f"by {name}", [seconds], "s") for name, seconds in run["seconds"].items()]
    found.bars.append(Bar(name="forms that give the same picks", value=float(run["equal"]), op=">=", want=1))
    return found


def rounds(quick: bool) -> Result:
    found = Result()
    for what, (central, two, random, share) in side("rounds", rows=4_000 if quick else 20_000)["losses"].items():
        found.rows.append(
            harness.row(
                f"two rounds, {what}: lost of what choosing gains",
                [100 * share],
                "%",
                **{"at once": round(central, 2), "two rounds": round(two, 2), "at random": round(random, 2)},
            )
        )
    return found


def kdpp(python: Path | None, quick: bool) -> Result:
    found = Result()
    size = {"rows": 500 if quick else 2_000, "picks": 50}
    names = ("first k-DPP sample over DPPy's, times", "k-DPP samples after it over DPPy's, times")
    repeats = 1 if quick else 3
    if python is None:
        found.bars.append(Bar(name=names[1], value=None, op=">=", want=1.0))
    else:
        sides = {
            "ours": partial(side, "kdpp", before=ONE_THREAD, **size),
            "theirs": partial(peer, python, "kdpp", before=ONE_THREAD, **size),
        }
        runs = harness.alternate(sides, repeats)
        found.versions |= runs["theirs"][0]["versions"]
        for name, key in zip(names, ("first", "draw"), strict=True):
            ours, theirs = ([run[key] for run in runs[who]] for who in ("ours", "theirs"))
            found.rows += [
                harness.row(f"k-DPP, {key}: ours", ours, "s"),
                harness.row(f"k-DPP, {key}: DPPy", theirs, "s"),
            ]
            times = harness.ratio(theirs, ours)
            if key == "draw":
                found.bars.append(Bar(name=name, value=times.median, op=">=", want=1.0))
            else:
                found.rows.append(harness.ratio_row(name, times, repeats))
        found.bars.append(agreement(python, 500 if quick else 2_000))
    large = {"rows": 3_000, "picks": 400}
    ours = side("overflow", **large)["log10"]
    found.bars.append(Bar(name="log10 e_400 of 3,000 eigenvalues of 5", value=ours, op=">=", want=789))
    if python is not None:
        theirs = peer(python, "overflow", **large)["log10"]
        found.rows.append(
            {"what": "DPPy's e_400 is " + ("infinite" if theirs is None else f"10^{theirs:.1f}"), "repeats": 1}
        )
    return found


def agreement(python: Path, draws: int) -> Bar:
    """Of how often both draw each row: the p-value that they draw alike."""
    from scipy.stats import chi2_contingency

    size = {"rows": 60, "picks": 6, "repeats": draws}
    table = [side("inclusion", **size)["counts"], peer(python, "inclusion", **size)["counts"]]
    # rows of one draw are not independent, which makes the true p-value larger: repulsion evens counts out
    value = float(chi2_contingency(table).pvalue)
    return Bar(name="p-value that DPPy draws rows as often", value=value, op=">=", want=0.001)


def measure(options: Options) -> Result:
    python = harness.peer("diversity", quick=options.quick)
    out = Result(versions=harness.versions("numpy", "scipy", "torch"))
    for part in (greedy(options.quick), rounds(options.quick), kdpp(python, options.quick)):
        out.rows += part.rows
        out.bars += part.bars
        out.versions |= part.versions
    return out


if __name__ == "__main__":
    harness.main("diversity", __doc__, measure)
