"""Question transforms by rule and their checks: verified variants, planted faults caught, sound edits passed.

    variants     of every problem each transform makes one variant, which the checks that need no model judge. How many
                 problems get verified variants of two kinds and more
    faults       planted by code that knows nothing of transforms and checks (``transform_corruptions``), into some
                 200 originals and their verified variants: the share that is caught
    sound edits  made by that code too: the share that passes
    solved       problems made from forms: verified variants that a solver of its own (``transform_problems``) solves
                 to the answer, from the variant's text alone
    speed        problems a second of one core (CPU time) through one transform and the checks

Problems are those of GSM8K's test file and the odd ones of SVAMP (``--data DIR`` with ``math/gsm8k`` and
``math/svamp``). Transforms and checks were developed on GSM8K's training file and the even problems of SVAMP alone.
``--quick`` takes every tenth problem.
"""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, BenchmarkError, Options, Result, Row
from benchmarks.transform_corruptions import NAMED, SOUND, WIDER, Edit, answer_leaked
from benchmarks.transform_problems import problems, solve
from penstock.generators.transforms.base import NotApplicable, Problem, RuleTransform, Variant
from penstock.generators.transforms.rules import rules_of
from penstock.generators.verification.base import Pair
from penstock.generators.verification.catalogue import checks_of
from penstock.generators.verification.ladder import Judged, Ladder
from penstock.seeding import stream

SEED = 20
IN_PLACE = ("paraphrase", "rename_names", "presentation", "order")  # whose variants hold nothing but the problem
ADDING = ("background", "term", "subproblem", "choices")


@dataclass
class Tally:
    """How many, and how many of them as wanted."""

    all: int = 0
    good: int = 0

    def add(self, good: bool) -> None:
        self.all += 1
        self.good += good

    @property
    def share(self) -> float:
        return self.good / self.all if self.all else 1.0


@dataclass
class Made:
    """What transforms made of some problems.

    Attributes:
        by_transform: made and verified.
        refused: why a transform did not apply, by transform.
        verified: pairs that passed, by problem.
        seconds: of CPU time, of transforms and checks together.
    """

    by_transform: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    refused: Counter[str] = field(default_factory=Counter)
    verified: dict[str, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    failed: list[Judged] = field(default_factory=list)
    seconds: float = 0.0

    def kinds(self, problem: Problem) -> set[str]:
        return {pair.variant.kind for pair in self.verified[problem.problem_id]}

    @property
    def total(self) -> Tally:
        return Tally(sum(t.all for t in self.by_transform.values()), sum(t.good for t in self.by_transform.values()))


def ladder() -> Ladder:
    return Ladder(checks=checks_of())


def make(problems: Sequence[Problem], rules: Sequence[RuleTransform] | None = None) -> Made:
    """Every transform on every problem, and the checks on what it made."""
    out, checks = Made(), ladder()
    begun = time.process_time()
    for rule in rules_of() if rules is None else rules:
        pairs = []
        for problem in problems:
            variant = rule.apply(problem, stream(SEED, rule.name, problem.problem_id))
            if isinstance(variant, NotApplicable):
                out.refused[rule.name] += 1
            else:
                pairs.append(Pair(problem, variant))
        for judged in checks.verify(pairs):
            out.by_transform[rule.name].add(judged.passed)
            if judged.passed:
                out.verified[judged.pair.problem.problem_id].append(judged.pair)
            else:
                out.failed.append(judged)
    out.seconds = time.process_time() - begun
    return out


def plant(problem: Problem, clean: Variant, name: str, edit: Edit) -> Variant | None:
    """``clean`` with a fault in it; None where it offers nothing to spoil."""
    prompt = edit(clean.prompt, stream(SEED, "fault", name, problem.problem_id, clean.transform))
    if prompt is None or prompt == clean.prompt:
        return None
    return Variant(
        prompt=prompt, answer=clean.answer, kind=clean.kind, transform=clean.transform, mapping=clean.mapping
    )


def faults(
    problems: Sequence[Problem], made: Made, table: Mapping[str, Sequence[Edit]]
) -> tuple[dict[str, Tally], list[Judged]]:
    """Faults caught, by their names, and those that were not.

    Each fault is planted into the original, which is then presented as a variant of a kind; into a verified variant
    that says the same in other words; and into the original before a transform adds to it or hides a part.
    """
    found: dict[str, Tally] = {name: Tally() for name in table}
    passed: list[Judged] = []
    checks = ladder()
    adding = [rule for rule in rules_of() if rule.name in ADDING]
    for name, edits in table.items():
        pairs = []
        for at, problem in enumerate(problems):
            hosts = [bare(problem, ("paraphrase", "rename", "format")[at % 3])]
            hosts += _drawn(made, problem, name, IN_PLACE)
            for edit in edits:
                label = f"{name} {edit.__name__}"
                spoilt = [plant(problem, host, label, edit) for host in hosts]
                before = spoilt[0]
                if before is not None:
                    rule = adding[at % len(adding)]
                    wrong = replace(problem, prompt=before.prompt)
                    after = rule.apply(wrong, stream(SEED, rule.name, problem.problem_id))
                    spoilt.append(None if isinstance(after, NotApplicable) else after)
                pairs += [Pair(problem, one) for one in spoilt if one is not None]
        for judged in checks.verify(pairs):
            found[name].add(not judged.passed)
            if judged.passed:
                passed.append(judged)
    return found, passed


def bare(problem: Problem, kind: str) -> Variant:
    """The original as a variant of itself."""
    return Variant(prompt=problem.prompt, answer=problem.answer, kind=kind, transform="original")


def _drawn(made: Made, problem: Problem, name: str, transforms: Sequence[str]) -> list[Variant]:
    """One of the problem's verified variants of these transforms; none where it has none."""
    variants = [pair.variant for pair in made.verified[problem.problem_id] if pair.variant.transform in transforms]
    if not variants:
        return []
    return [variants[int(stream(SEED, "host", name, problem.problem_id).integers(len(variants)))]]


def leaks(problems: Sequence[Problem], made: Made) -> Tally:
    """Answers told behind the question that were caught."""
    found, pairs = Tally(), []
    for problem in problems:
        for pair in made.verified[problem.problem_id][:1]:
            spoilt = plant(problem, pair.variant, "leak", answer_leaked(problem.answer))
            if spoilt is not None:
                pairs.append(Pair(problem, spoilt))
    for judged in ladder().verify(pairs):
        found.add(not judged.passed)
    return found


def sound(problems: Sequence[Problem]) -> tuple[dict[str, Tally], list[Judged]]:
    """Sound edits that passed, by their names, and those that did not."""
    found: dict[str, Tally] = {name: Tally() for name in SOUND}
    failed: list[Judged] = []
    checks = ladder()
    for name, (kind, edit) in SOUND.items():
        pairs = []
        for problem in problems:
            prompt = edit(problem.prompt, stream(SEED, "sound", name, problem.problem_id))
            if prompt is not None and prompt != problem.prompt:
                variant = Variant(prompt=prompt, answer=problem.answer, kind=kind, transform=name)
                pairs.append(Pair(problem, variant))
        for judged in checks.verify(pairs):
            found[name].add(judged.passed)
            if not judged.passed:
                failed.append(judged)
    return found, failed


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise BenchmarkError(f"--data: got {path.parent.parent.parent}, where {'/'.join(path.parts[-3:])} is not")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def gsm8k(data: Path, part: str) -> list[Problem]:
    """Problems of GSM8K's ``train`` or ``test`` file."""
    return [
        Problem(
            problem_id=f"gsm8k-{part}-{i}",
            prompt=row["question"].strip(),
            answer=row["answer"].rpartition("####")[2].strip(),
        )
        for i, row in enumerate(_lines(data / "math" / "gsm8k" / f"{part}.jsonl.gz"))
    ]


def svamp(data: Path) -> list[Problem]:
    """Problems of SVAMP with their equations; a body without a full stop is a condition of its question."""
    found = []
    for i, row in enumerate(_lines(data / "math" / "svamp" / "test.jsonl.gz")):
        body, question, answer = row["Body"].strip(), row["Question"].strip(), float(row["Answer"])
        whole = body[-1:] in (".", "?", "!")
        found.append(
            Problem(
                problem_id=f"svamp-{i}",
                prompt=f"{body} {question}" if whole else f"{body.rstrip(',')}, {question[0].lower()}{question[1:]}",
                answer=str(int(answer)) if answer == int(answer) else str(answer),
                provenance={"equation": row["Equation"]},
            )
        )
    return found


def _share_row(what: str, tally: Tally, **more: Any) -> Row:
    share = tally.share if tally.all else None  # of nothing there is no share
    return {"what": what, "median": share, "unit": "share", "items": tally.all, **more}


def measure_set(name: str, problems: Sequence[Problem]) -> Result:
    """All figures of one set of problems."""
    result = Result()
    made = make(problems)
    for transform, tally in made.by_transform.items():
        result.rows.append(_share_row(f"{name}: {transform} verified", tally, refused=made.refused[transform]))
    for transform in sorted(set(made.refused) - set(made.by_transform)):
        result.rows.append(_share_row(f"{name}: {transform} verified", Tally(), refused=made.refused[transform]))
    two, three = Tally(), Tally()
    for problem in problems:
        two.add(len(made.kinds(problem)) >= 2)
        three.add(len(made.kinds(problem)) >= 3)
    result.rows += [
        _share_row(f"{name}: problems with verified variants of two kinds", two),
        _share_row(f"{name}: problems with verified variants of three kinds", three),
    ]
    edits, _ = sound(problems)
    for edit, tally in edits.items():
        result.rows.append(_share_row(f"{name}: {edit} passed", tally))
    some = problems[:: max(1, len(problems) // 200)]  # enough for a thousand faults of the named kinds
    named, _ = faults(some, made, NAMED)
    wider, _ = faults(some, made, WIDER)
    for fault, tally in (named | wider | {"answer leaked": leaks(problems, made)}).items():
        result.rows.append(_share_row(f"{name}: {fault} caught", tally))
    planted, widely, edited = (_sum(found.values()) for found in (named, wider, edits))
    result.bars += [
        Bar(name=f"{name}: share of problems with two kinds", value=two.share, op=">=", want=0.9),
        Bar(name=f"{name}: share of rule variants that pass", value=made.total.share, op=">=", want=0.95),
        Bar(name=f"{name}: share of sound edits that pass", value=edited.share, op=">=", want=0.95),
        Bar(name=f"{name}: faults of the five named kinds", value=planted.all, op=">=", want=500),
        Bar(name=f"{name}: share of these caught", value=planted.share, op=">=", want=0.99),
        Bar(name=f"{name}: share of the wider kinds caught", value=widely.share, op=">=", want=0.99),
    ]
    return result


def _sum(tallies: Any) -> Tally:
    found = list(tallies)
    return Tally(sum(t.all for t in found), sum(t.good for t in found))


def solved(count: int) -> Result:
    """Variants of problems made from forms, solved from their own texts."""
    result, found = Result(), Tally()
    for pairs in make(problems(count, SEED)).verified.values():
        for pair in pairs:
            found.add(solve(pair.variant.prompt) == pair.variant.answer)
    result.rows.append(_share_row("forms: verified variants that solve to the answer", found))
    result.bars.append(Bar(name="forms: share of verified variants solved", value=found.share, op=">=", want=1.0))
    return result


def speed(problems: Sequence[Problem], repeats: int) -> list[Row]:
    """Problems a second of one core through each transform alone with the checks."""
    rows = []
    for rule in rules_of():
        rates = [len(problems) / make(problems, [rule]).seconds for _ in range(repeats)]
        rows.append(harness.row(f"{rule.name} and checks", rates, "problems/CPU s"))
    return rows


def measure(options: Options) -> Result:
    if options.data is None:
        raise BenchmarkError(
            "--data: got none; give a folder with math/gsm8k/test.jsonl.gz and math/svamp/test.jsonl.gz"
        )
    step = 10 if options.quick else 1
    result = Result(versions=harness.versions())
    sets = {"GSM8K": gsm8k(options.data, "test")[::step], "SVAMP": svamp(options.data)[1::2][::step]}
    for name, chosen in sets.items():
        found = measure_set(name, chosen)
        result.rows += found.rows
        # a tenth of the problems does not hold five hundred faults
        result.bars += [bar for bar in found.bars if not (options.quick and bar.want == 500)]
    made_up = solved(160 if options.quick else 1600)
    result.rows += made_up.rows
    result.bars += made_up.bars
    result.rows += speed(sets["GSM8K"][:400], 1 if options.quick else 3)
    return result


if __name__ == "__main__":
    harness.main("transforms", __doc__, measure)
