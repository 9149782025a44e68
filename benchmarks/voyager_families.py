"""Which reasoning-gym families can be drawn from, and which levels of their parameters: writes ``families.json``.

    python -m benchmarks.voyager_families

Every family makes problems with the library's own parameters, every level of every knob some more, and so do draws of
all knobs together. Two processes do it, with other string hashes, in opposite order, and with other states of the
global generators; what they make has to be equal. The levels are those of the library's curricula, as ranges between
neighbours, the choices of a field that is a list of strings or a ``Literal``, and the other value of a truth value.

Left out is a family or a level whose problems are not text or too long, too slow to make, not equal in both processes,
or not all given 1.0 by the family's own scorer. Together, knobs may be refused by the library, or leave no problem
(such a draw is dropped and counted when problems are made), but not be slow or long: else the hardest level of the knob
that is to blame goes.
Price: some minutes of two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from penstock.errors import ConfigError
from penstock.seeding import derive, stream
from penstock.sources.procedural import dataset_of, make

SECONDS = 0.05  # of processor for a problem, the median
SECONDS_AT_MOST = 0.5
CHARACTERS = 2000  # of a question, the median
PROBLEMS, LEVEL_PROBLEMS, DRAWS = 200, 6, 100
MOST_LEVELS = 5
TABLE = harness.ROOT / "penstock" / "generators" / "explorers" / "families.json"

Levels = list[dict[str, Any]]


# --- what may be varied ---------------------------------------------------------------------------------------------


def knobs_of(family: str) -> dict[str, Levels]:
    """Knobs of a family by name, with the levels that are worth a try."""
    from reasoning_gym.factory import CURRICULA, DATASETS

    out: dict[str, Levels] = {}
    if family in CURRICULA:
        for attribute in CURRICULA[family]().attributes.values():
            values = attribute.levels
            if hasattr(attribute, "field_name"):
                out[attribute.name] = [{attribute.field_name: value} for value in spread(values)]
            else:
                low, high = attribute.lower_field_name, attribute.upper_field_name
                steps = spread(list(itertools.pairwise(values)))
                out[attribute.name] = [{low: min(pair), high: max(pair)} for pair in steps]
    configure = DATASETS[family][1]
    taken = {name for levels in out.values() for level in levels for name in level}
    hints = typing.get_type_hints(configure)
    for field in dataclasses.fields(configure):
        if field.name in taken | {"seed", "size"} or field.name.endswith(("names", "weights")):
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        choices = (
            [*typing.get_args(hints[field.name])] if typing.get_origin(hints[field.name]) is typing.Literal else []
        )
        if isinstance(default, bool):
            out[field.name] = [{field.name: not default}]
        elif isinstance(default, (tuple, list)) and len(default) > 1 and all(type(v) is str for v in default):
            # a whole word a style, or one letter an operator
            out[field.name] = [{field.name: [value]} for value in spread(list(default))]
        elif choices:
            out[field.name] = [{field.name: value} for value in choices if value != default]
    return {name: kept for name, levels in out.items() if (kept := [level for level in levels if plain(level)])}


def spread(values: Sequence[Any]) -> list[Any]:
    """At most ``MOST_LEVELS`` of them, evenly, the first and the last too; none twice."""
    unique = [value for i, value in enumerate(values) if value not in values[:i]]
    if len(unique) <= MOST_LEVELS:
        return unique
    return [unique[round(i * (len(unique) - 1) / (MOST_LEVELS - 1))] for i in range(MOST_LEVELS)]


def plain(level: dict[str, Any]) -> bool:
    """Whether JSON gives it back as it is."""
    try:
        return bool(json.loads(json.dumps(level)) == level)
    except TypeError:
        return False


# --- one process's measurement --------------------------------------------------------------------------------------


class Overdue(BaseException):
    """More time than allowed; no Exception, which generators and ``make`` would catch."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise ``Overdue`` after so many seconds of processor, which a busy machine does not shorten."""

    def ring(*_: Any) -> None:
        raise Overdue

    signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def problems(family: str, count: int, config: dict[str, Any] | Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """What ``count`` problems are like: seconds and characters of each, a digest, and the reason against them.

    ``config``: parameters of all, or of each by its number; the library may refuse those, or find no problem.
    """
    seconds: list[float] = []
    characters: list[int] = []
    state = hashlib.blake2b(digest_size=8)
    overall: dict[str, Any] = {"reason": None}
    for number in range(count):
        started = time.process_time()
        try:
            with deadline(4 * SECONDS_AT_MOST):
                chosen = config(number) if callable(config) else config
                made = make(dataset_of(family, derive(7, family, number), chosen))
        except ConfigError as error:
            if not callable(config):
                overall["reason"] = f"refused: {str(error.__cause__)[:80]}"
                break
            continue
        except Overdue:
            overall["reason"] = "slow"
            seconds.append(4 * SECONDS_AT_MOST)
            break
        except Exception as error:  # noqa: BLE001  of the library's constructors, whatever they raise
            overall["reason"] = f"cannot be made: {type(error).__name__}"
            break
        seconds.append(time.process_time() - started)
        characters.append(len(made.question))
        state.update(f"{made.question}\0{made.answer}\0".encode("utf-8", "replace"))
        if made.reason == "not_generated" and callable(config):
            continue
        if made.reason is not None:
            what = "its scorer does not accept every answer" if made.reason == "answer_not_verified" else "not made"
            overall["reason"] = f"{what}: {made.detail}"[:100]
            break
    if overall["reason"] is None and seconds:
        if statistics.median(seconds) > SECONDS or max(seconds[1:], default=0) > SECONDS_AT_MOST:
            overall["reason"] = "slow"
        elif statistics.median(characters) > CHARACTERS:
            overall["reason"] = "long"
    return overall | {
        "digest": state.hexdigest(),
        "ms": round(1000 * statistics.median(seconds), 2) if seconds else None,
        "ms at most": round(1000 * max(seconds), 1) if seconds else None,
        "characters": statistics.median(characters) if characters else None,
    }


def drawn(knobs: dict[str, Levels], family: str, number: int) -> dict[str, int]:
    """A level of every knob, 0 for the library's own."""
    order = stream(11, family, number)
    return {name: int(order.integers(0, len(levels) + 1)) for name, levels in knobs.items()}


def config_of(knobs: dict[str, Levels], chosen: dict[str, int]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, level in chosen.items():
        out |= knobs[name][level - 1] if level else {}
    return out


def measured(family: str) -> dict[str, Any]:
    """Of the library's own parameters, of every level, and of draws of those levels that passed."""
    found: dict[str, Any] = {"own": problems(family, PROBLEMS, {}), "knobs": {}}
    if found["own"]["reason"] is not None:
        return found
    knobs = knobs_of(family)
    for name, levels in knobs.items():
        found["knobs"][name] = [[level, problems(family, LEVEL_PROBLEMS, level)] for level in levels]
    return found


def together(family: str, knobs: dict[str, Levels]) -> dict[str, Any]:
    """Draws of all knobs."""
    return problems(family, DRAWS, lambda number: config_of(knobs, drawn(knobs, family, number)))


def blame(family: str, knobs: dict[str, Levels]) -> str:
    """The knob whose hardest level makes the draws with it the slowest and longest, by mean seconds."""
    worst, found = "", -1.0
    for name, levels in knobs.items():
        seconds = []
        for number in range(DRAWS):
            chosen = drawn(knobs, family, number) | {name: len(levels)}
            started = time.process_time()
            with contextlib.suppress(ConfigError, Overdue), deadline(4 * SECONDS_AT_MOST):
                made = make(dataset_of(family, derive(7, family, number), config_of(knobs, chosen)))
                seconds.append(time.process_time() - started + len(made.question) / CHARACTERS * SECONDS)
                continue
            seconds.append(time.process_time() - started)
            if seconds[-1] > SECONDS_AT_MOST:
                break
        if statistics.fmean(seconds) > found:
            worst, found = name, statistics.fmean(seconds)
    return worst


def side(names: Sequence[str], seed: int, backwards: bool, knobs: dict[str, Any] | None) -> dict[str, Any]:
    """One process's view of every family."""
    import numpy as np
    import reasoning_gym  # noqa: F401  the first problem must not pay for the import

    out = {}
    for name in reversed(names) if backwards else names:
        random.seed(seed)
        np.random.seed(seed)
        out[name] = measured(name) if knobs is None else together(name, knobs[name])
        print(f"{name} {'' if knobs is None else 'together'}", file=sys.stderr, flush=True)
    return out


# --- both ------------------------------------------------------------------------------------------------------------


def sides(names: Sequence[str], knobs: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What two processes found, which differ in all that must not matter."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        asked = Path(folder, "asked.json")
        asked.write_text(json.dumps([list(names), knobs]))
        command = [sys.executable, "-m", "benchmarks.voyager_families", "--side"]
        running = [
            subprocess.Popen(
                [*command, str(seed), "--out", f"{folder}/{seed}.json", str(asked)],
                stdout=subprocess.DEVNULL,  # some generators print
                cwd=harness.ROOT,
                env={**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"},
            )
            for seed in (1, 2)
        ]
        if any([process.wait() for process in running]):
            raise harness.BenchmarkError("a process of the measurement failed; see above")
        return [json.loads(Path(folder, f"{seed}.json").read_text()) for seed in (1, 2)]


def verdict(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The reason against what two processes measured, or None."""
    reason: str | None = one["reason"] or other["reason"]
    if reason is None and one["digest"] != other["digest"]:
        return "not the same in every process"
    return reason


def table(names: Sequence[str]) -> dict[str, Any]:
    first, second = sides(names)
    left_out: dict[str, str] = {}
    kept: dict[str, dict[str, Levels]] = {}
    for name in names:
        reason = verdict(first[name]["own"], second[name]["own"])
        if reason is not None:
            left_out[name] = reason
            continue
        both = {
            knob: [
                level
                for (level, a), (_, b) in zip(levels, second[name]["knobs"][knob], strict=True)
                if verdict(a, b) is None
            ]
            for knob, levels in first[name]["knobs"].items()
        }
        kept[name] = {knob: levels for knob, levels in both.items() if levels}
    todo = sorted(kept)
    while todo:
        first, second = sides(todo, {name: kept[name] for name in todo})
        todo = [name for name in todo if kept[name] and verdict(first[name], second[name]) is not None]
        for name in todo:
            reason = verdict(first[name], second[name])
            knob = blame(name, kept[name])
            print(f"{name}: {reason} with all knobs; {knob} loses {kept[name][knob][-1]}", file=sys.stderr)
            kept[name][knob].pop()
            kept[name] = {one: levels for one, levels in kept[name].items() if levels}
    return {"version": importlib.metadata.version("reasoning-gym"), "families": kept, "left_out": left_out}


def written(found: dict[str, Any]) -> str:
    """One family a line, so that a new measurement shows what it changed."""

    def lines(values: dict[str, Any]) -> str:
        return ",\n".join(f"{json.dumps(name)}: {json.dumps(values[name], sort_keys=True)}" for name in sorted(values))

    return (
        f'{{"reasoning-gym": {json.dumps(found["version"])},\n"families": {{\n{lines(found["families"])}\n}},\n'
        f'"left_out": {{\n{lines(found["left_out"])}\n}}}}\n'
    )


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--side", type=int, help=argparse.SUPPRESS)
    command.add_argument("--out", type=Path, default=TABLE)
    command.add_argument("names", nargs="*", metavar="FAMILY", help="measured anew; default: all of the library")
    arguments = command.parse_args()
    if arguments.side is not None:
        names, knobs = json.loads(Path(arguments.names[0]).read_text())
        arguments.out.write_text(json.dumps(side(names, arguments.side, arguments.side == 2, knobs)))
        return
    import reasoning_gym  # noqa: F401  the import fills the registry
    from reasoning_gym.factory import DATASETS

    found = table(arguments.names or sorted(DATASETS))
    if arguments.names:  # the others stay as they are
        before = json.loads(arguments.out.read_text())
        for part in ("families", "left_out"):
            found[part] |= {name: value for name, value in before[part].items() if name not in arguments.names}
    arguments.out.write_text(written(found), encoding="utf-8")
    print(f"{arguments.out}: {len(found['families'])} families, {len(found['left_out'])} left out")


if __name__ == "__main__":
    main()
