"""Log-probabilities of answers and their gradient: a prompt read once for its group, against once an answer.

32 answers of 64 tokens, in groups of 4, 8 or 32, after prompts of 64, 256 or 1,024 tokens; a Llama of 4 layers and
width 256 with a vocabulary of 4,096, in float32; forward pass, log-probabilities, backward pass. Peak memory is what
the process held at most above its start. The sides must find the same loss and the same gradient.

The peer is the package prefix-grouper, the published form of the idea, on the same rows. One thread; seconds of
processor time, so that other work on the machine counts little. ``--quick`` takes two shapes, once.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result

PROMPTS, GROUPS = (64, 256, 1024), (4, 8, 32)
QUICK = ((64, 4), (256, 8))


def side(command: list[str], prompt: int, group: int) -> dict[str, Any]:
    return harness.run_json([*command, "--prompt", str(prompt), "--group", str(group)])


def measure(options: Options) -> Result:
    repeats = 1 if options.quick else 2
    ours = [sys.executable, "-m", "benchmarks.shared_prefix_sides"]
    commands = {"repeated": [*ours, "whole"], "shared": [*ours, "shared"]}
    peer = harness.peer("prefix", quick=options.quick)
    if peer is not None:
        commands["prefix-grouper"] = [str(peer), "benchmarks/shared_prefix_peers.py"]

    rows: list[harness.Row] = []
    times: dict[tuple[str, int, int], float] = {}
    memory: dict[tuple[str, int, int], float] = {}
    for prompt, group in QUICK if options.quick else [(prompt, group) for prompt in PROMPTS for group in GROUPS]:
        sides_of = {name: functools.partial(side, command, prompt, group) for name, command in commands.items()}
        found = harness.alternate(sides_of, repeats)
        first = found["repeated"][0]
        for name, sides in found.items():
            for quantity, near in (("loss", 1e-2), ("gradient", 1e-3 * first["gradient"])):
                if abs(sides[0][quantity] - first[quantity]) > near:
                    raise harness.BenchmarkError(
                        f"{name}, prompt {prompt}, groups of {group}: its {quantity} is {sides[0][quantity]}, the "
                        f"repeated form's {first[quantity]}; the figures would mean nothing"
                    )
        what = f"prompt {prompt:,}, groups of {group}"
        seconds = {name: [one["seconds"] for one in sides] for name, sides in found.items()}
        for name, sides in found.items():
            peak = min(one["peak"] for one in sides) / 1e6
            memory[name, prompt, group] = peak
            rows.append(harness.row(f"{what}: {name}", seconds[name], "s", peak_mb=peak))
        for name in [name for name in commands if name != "shared"]:
            ratio = harness.ratio(seconds[name], seconds["shared"])
            times[name, prompt, group] = ratio.median
            rows.append(harness.ratio_row(f"{what}: {name} over shared", ratio, repeats))

    bars = []
    for prompt, group, want in ((256, 8, 2.0),) if options.quick else ((256, 8, 2.0), (1024, 8, 3.0), (1024, 32, 5.0)):
        at = f"prompt {prompt:,}, groups of {group}"
        value = times["repeated", prompt, group]
        bars.append(Bar(name=f"times as fast as the repeated form, {at}", value=value, op=">=", want=want))
        of = memory["shared", prompt, group] / memory["repeated", prompt, group]
        bars.append(Bar(name=f"peak memory over the repeated form's, {at}", value=of, op="<=", want=0.5))
        other = times.get(("prefix-grouper", prompt, group))
        bars.append(Bar(name=f"times as fast as prefix-grouper, {at}", value=other, op=">=", want=0.9))
    least = min(value for (name, _, _), value in times.items() if name == "repeated")
    bars.append(Bar(name="times as fast as the repeated form, at least", value=least, op=">=", want=1.0))
    return Result(rows=rows, bars=bars, versions=harness.versions("torch", "transformers"))


if __name__ == "__main__":
    harness.main("shared_prefix", __doc__, measure)
