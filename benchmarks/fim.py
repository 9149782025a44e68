"""Infilling code at cuts inside tokens: exact bytes against prompting by tokens and token healing; and a byte ensemble.

Two small models learn the standard library's sources, some modules held out, with holes cut between tokens (see
``fim_model``). The larger vocabulary's model then fills holes that begin inside identifiers (``fim_data``), greedily,
by three arms from the same prompt: its encoding and then tokens, the same after one token was taken back, and exact
bytes. An answer is right when it begins with the rest of the identifier and the one byte after it. Arms are compared on
the same cuts by McNemar's exact test, two-sided.

At a boundary of tokens the arms by tokens are told more than the bytes: that a token ends at the cut, which no cursor
knows. How likely exact bytes find that is a row of its own, and a control tells it to them.

The ensemble reads held-out text byte by byte: bits a byte of the mean and the product of both models' distributions,
and of each model alone by the same method.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import fim_arms, fim_data, fim_model, harness
from benchmarks.small_lm import scratch_folder, write_json
from penstock.seeding import stream
from penstock.tokenization.bpe import END
from penstock.tokenization.bytelevel.distributions import read
from penstock.tokenization.bytelevel.ensemble import Ensemble
from penstock.tokenization.bytelevel.infilling import InfillLayout

TOKENS, HEALED, BYTES = ARMS = "tokens", "healed tokens", "exact bytes"
TOLD = "exact bytes told that a token ends there"  # a control at boundaries
BOUNDARIES = ("boundary", "before")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    large: fim_model.Schedule
    small: fim_model.Schedule
    inside: int
    boundary: int
    before: int
    deep: int
    excerpts: int
    excerpt_bytes: int

    @property
    def schedules(self) -> dict[str, fim_model.Schedule]:
        return {"large": self.large, "small": self.small}


FULL = Plan(
    large=fim_model.Schedule(vocabulary=4096, steps=1300),
    small=fim_model.Schedule(vocabulary=1536, steps=700),
    inside=1000,
    boundary=500,
    before=500,
    deep=500,
    excerpts=32,
    excerpt_bytes=400,
)
_TINY = {"steps": 12, "rows": 8, "width": 32, "layers": 2, "warmup": 4}
QUICK = Plan(
    large=fim_model.Schedule(vocabulary=1024, **_TINY),
    small=fim_model.Schedule(vocabulary=512, **_TINY),
    inside=24,
    boundary=12,
    before=12,
    deep=12,
    excerpts=4,
    excerpt_bytes=40,
)


def train(folder: Path, plan: Plan, minutes: float | None) -> None:
    """Vocabularies and models that are not there yet."""
    until = float("inf") if minutes is None else time.monotonic() + 60.0 * minutes
    learned, _ = fim_data.sources()
    for name, schedule in plan.schedules.items():
        if (folder / name / "config.json").exists():
            continue
        vocabulary = folder / f"{name}.json"
        if not vocabulary.exists():
            part = vocabulary.with_suffix(".part")
            fim_data.train_vocabulary([source.text for source in learned], schedule.vocabulary, part)
            os.replace(part, vocabulary)
        rows = fim_model.Rows(learned, vocabulary, schedule)
        end_id = fim_data.load_vocabulary(vocabulary).token_to_id(END)
        if not fim_model.train(rows, schedule, end_id, folder / name, until):
            raise harness.BenchmarkError("the minutes are over, training is not; run again, it goes on where it was")


def kept(path: Path, work: Callable[[], Any]) -> Any:
    """What ``work`` gave, from a file where it was done before."""
    if not path.exists():
        write_json(path, work())
    return json.loads(path.read_text())


def prompts_of(cuts: Sequence[fim_data.Cut]) -> list[bytes]:
    layout = InfillLayout(fim_data.LAYOUT)
    return [layout.prompt(cut.prefix, cut.suffix) for cut in cuts]


def answers(arm: str, folder: Path, cuts: Sequence[fim_data.Cut]) -> dict[str, Any]:
    """Whether each hole's beginning was filled right, and the processor time that it took."""
    prompts = prompts_of(cuts)
    started = time.process_time()
    if arm in (BYTES, TOLD):
        found = fim_arms.by_bytes(folder, "large", prompts, told=arm == TOLD)
    else:
        found = fim_arms.ByTokens(folder, "large").fill(prompts, heal=arm == HEALED)
    seconds = time.process_time() - started
    return {"right": [one == cut.wanted for one, cut in zip(found, cuts, strict=True)], "seconds": seconds}


def excerpts(held: Sequence[fim_data.Source], plan: Plan) -> list[bytes]:
    """Held-out text, each from the beginning of a line."""
    rng = stream(fim_data.SEED, "excerpts")
    texts = [source.text.encode() for source in held if len(source.text) > 4 * plan.excerpt_bytes]
    out = []
    for pick in rng.choice(len(texts), plan.excerpts).tolist():
        place = int(rng.integers(0, len(texts[pick]) - 2 * plan.excerpt_bytes))
        begin = texts[pick].find(b"\n", place) + 1
        out.append(texts[pick][begin : begin + plan.excerpt_bytes])
    return out


def bits_a_byte(source: Any, texts: Sequence[bytes]) -> list[float]:
    """Of each text."""
    return [-float(values.mean()) / np.log(2.0) for values in read(source, texts)]


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> tuple[int, int, float]:
    """Cuts that only the one has right, those that only the other has, and the two-sided exact p."""
    from scipy.stats import binomtest

    wins = sum(a and not b for a, b in zip(one, other, strict=True))
    losses = sum(b and not a for a, b in zip(one, other, strict=True))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return wins, losses, p


def points(one: Sequence[bool], other: Sequence[bool]) -> float:
    """By how many of a hundred cuts the one has more right."""
    return 100.0 * (float(np.mean(one)) - float(np.mean(other)))


def measure(options: harness.Options) -> harness.Result:
    torch.set_num_threads(1)
    plan = QUICK if options.quick else FULL
    folder = scratch_folder("fim", {name: asdict(one) for name, one in plan.schedules.items()})
    train(folder, plan, options.more["minutes"])
    _, held = fim_data.sources()
    cuts = fim_data.draw_cuts(
        held,
        folder / "large.json",
        inside=plan.inside,
        boundary=plan.boundary,
        before=plan.before,
        deep=plan.deep,
    )
    right: dict[tuple[str, str], list[bool]] = {}
    seconds = dict.fromkeys((*ARMS, TOLD), 0.0)
    for arm in (*ARMS, TOLD):
        for kind, some in cuts.items():
            if arm == TOLD and kind not in BOUNDARIES:
                continue
            name = f"right-{arm}-{kind}-{fim_data.digest(some)}.json".replace(" ", "_")
            found = kept(folder / name, lambda arm=arm, some=some: answers(arm, folder, some))
            right[arm, kind] = found["right"]
            seconds[arm] += found["seconds"]
    rows = [row for kind in cuts for row in kind_rows(right, kind)]
    for kind in BOUNDARIES:
        path = folder / f"ends-{kind}-{fim_data.digest(cuts[kind])}.json"
        shares = kept(path, lambda kind=kind: fim_arms.token_ends(folder, "large", prompts_of(cuts[kind])))
        what = f"P(a token ends at the cut), by {BYTES}, at {kind} cuts"
        rows.append({"what": what, "value": 100.0 * float(np.mean(shares)), "unit": "%"})
    rows += [{"what": f"processor time of all cuts: {arm}", "value": seconds[arm], "unit": "s"} for arm in ARMS]
    texts = excerpts(held, plan)
    bits = kept(folder / f"bits-{fim_data.digest(texts)}.json", lambda: ensemble_bits(folder, texts))
    for name, values in bits.items():
        rows.append({"what": f"held-out text: {name}", "value": float(np.mean(values)), "unit": "bits a byte"})
    for name in plan.schedules:
        made = json.loads((folder / name / "training.json").read_text())
        what = f"training: {name}, {made['size']:,} parameters"
        rows.append({"what": what, "value": made["loss"], "unit": "nats a token"})
        rows.append({"what": f"training: {name}, processor time", "value": made["seconds"], "unit": "s"})
    found = bars(right, bits)
    if options.quick:  # its models have learned nothing, so the bars are not measured
        found = [dataclasses.replace(bar, value=None) for bar in found]
    return harness.Result(rows=rows, bars=found, versions=harness.versions("torch", "transformers"))


def kind_rows(right: dict[tuple[str, str], list[bool]], kind: str) -> list[harness.Row]:
    """Shares of the arms, and exact bytes against both others."""
    count = f"{len(right[BYTES, kind]):,}"
    rows: list[harness.Row] = [
        {"what": f"right at {count} {kind} cuts: {arm}", "value": 100.0 * float(np.mean(right[arm, kind])), "unit": "%"}
        for arm in (*ARMS, TOLD)
        if (arm, kind) in right
    ]
    for one, other in ((BYTES, TOKENS), (BYTES, HEALED), (TOLD, TOKENS)):
        if (one, kind) not in right:
            continue
        wins, losses, p = mcnemar(right[one, kind], right[other, kind])
        rows.append(
            {
                "what": f"{one} against {other} at {kind} cuts: only right {wins:,}, only wrong {losses:,}",
                "value": points(right[one, kind], right[other, kind]),
                "unit": "points",
                "McNemar p": p,
            }
        )
    return rows


def ensemble_bits(folder: Path, texts: Sequence[bytes]) -> dict[str, list[float]]:
    large, small = (fim_arms.byte_model(folder, name) for name in ("large", "small"))
    sources = {
        "large vocabulary": large,
        "small vocabulary": small,
        "mean": Ensemble.mean([large, small]),
        "product": Ensemble.product([large, small]),
    }
    return {name: bits_a_byte(source, texts) for name, source in sources.items()}


def bars(right: dict[tuple[str, str], list[bool]], bits: dict[str, list[float]]) -> list[harness.Bar]:
    deep = mcnemar(right[BYTES, "deep"], right[HEALED, "deep"])
    best = min(float(np.mean(bits[name])) for name in ("large vocabulary", "small vocabulary"))

    def above(one: str, other: str, kinds: Sequence[str], op: str, want: float, where: str) -> harness.Bar:
        arms = [[hit for kind in kinds for hit in right[arm, kind]] for arm in (one, other)]
        return harness.Bar(name=f"points of {one} above {other}, {where}", value=points(*arms), op=op, want=want)

    return [
        above(BYTES, TOKENS, ["inside"], ">=", 18.0, "cuts inside tokens"),
        above(BYTES, HEALED, ["inside"], ">=", 0.0, "cuts inside tokens"),
        above(BYTES, TOKENS, BOUNDARIES, ">=", -1.0, "cuts at boundaries of tokens"),
        above(TOLD, TOKENS, BOUNDARIES, ">=", -1.0, "cuts at boundaries of tokens"),
        above(BYTES, HEALED, ["deep"], ">", 0.0, "cuts with two and more tokens to take back"),
        harness.Bar(name="McNemar p of that", value=deep[2], op="<", want=0.01),
        *(
            harness.Bar(
                name=f"bits a byte of the {name} over the better member's",
                value=float(np.mean(bits[name])) / best,
                op="<",
                want=1.0,
            )
            for name in ("mean", "product")
        ),
    ]


def command() -> argparse.ArgumentParser:
    out = harness.parser(__doc__)
    out.add_argument("--minutes", type=float, metavar="N", help="stop training after so long; run again to go on")
    return out


if __name__ == "__main__":
    harness.main("fim", __doc__, measure, command=command())
