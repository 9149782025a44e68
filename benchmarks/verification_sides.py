"""Sides of benchmarks/verification.py: made-up responses, and the ways to decide about them. Prints a line of JSON."""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Sequence

from penstock.generators.verification.workers import AnswerVerifier

Pairs = list[tuple[str, str]]

_TALK = (
    "First we look at what is given. Then we add what belongs together and take away what does not, step by step, and "
    "check the result against the question once more. "
)


def pairs_of(kind: str, count: int, seed: int = 0) -> Pairs:
    """(gold, response); every other response is right, in another form than gold where there is one."""
    rng = random.Random(seed)
    made = number if kind == "numbers" else expression
    out = []
    for place in range(count):
        gold, right, wrong = made(rng)
        answer = right if place % 2 == 0 else wrong
        out.append((gold, _TALK * rng.randint(1, 6) + rf"So the answer is $\boxed{{{answer}}}$."))
    return out


def number(rng: random.Random) -> tuple[str, str, str]:
    n = rng.randint(0, 20_000)
    match rng.randrange(4):
        case 0:
            return str(n), f"{n:,}", str(n + 1)
        case 1:
            return f"{n}.5", rf"\frac{{{2 * n + 1}}}{{2}}", f"{n}.25"
        case 2:
            d = rng.randint(3, 19)
            return rf"\frac{{{n}}}{{{d}}}", f"{n}/{d}", f"{n + 1}/{d}"
        case _:
            return str(n), f"{n}.00", f"-{n + 1}"


def expression(rng: random.Random) -> tuple[str, str, str]:
    a, b, c = (rng.randint(2, 30) for _ in range(3))
    match rng.randrange(4):
        case 0:
            return f"{a}x+{b}", f"{b}+{a}x", f"{a}x-{b}"
        case 1:
            return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b + 1}}}"
        case 2:
            return f"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b})", f"(x+{a})(x-{b})"
        case _:
            return rf"\{{{a},{a + b},{a + b + c}\}}", rf"\{{{a + b + c},{a},{a + b}\}}", rf"\{{{a},{a + b}\}}"


def plain(pairs: Pairs) -> tuple[float, list[bool]]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def decide(gold: str, response: str) -> bool:
        return bool(verify(parse(rf"\boxed{{{gold}}}", config), parse(response, config)))

    for gold, response in pairs_of("expressions", 8, seed=9):
        decide(gold, response)
    started = time.perf_counter()
    found = [decide(gold, response) for gold, response in pairs]
    return time.perf_counter() - started, found


def in_workers(pairs: Pairs, workers: int) -> tuple[float, list[bool]]:
    with AnswerVerifier(workers=workers) as verifier:
        verifier.verify(pairs_of("expressions", 8 * workers, seed=9))
        started = time.perf_counter()
        found = [one.result == "correct" for one in verifier.verify(pairs)]
        return time.perf_counter() - started, found


def hostile(items: int, endless: int, deadline: float) -> dict[str, float]:
    """Endless items spread among others whose verdicts are known."""
    pairs = pairs_of("expressions", items)
    every = items // endless
    bad = set(range(every // 2, items, every))
    given = [
        (r"1", r"\boxed{\sum_{n=1}^{100000000} \frac{1}{n^2}}") if n in bad else pair for n, pair in enumerate(pairs)
    ]
    # as the endless ones are equal, each gets a number of its own
    given = [(str(n), answer) if n in bad else (gold, answer) for n, (gold, answer) in enumerate(given)]
    with AnswerVerifier(workers=2, deadline=deadline) as verifier:
        verifier.verify(pairs_of("expressions", 16, seed=9))
        started = time.perf_counter()
        found = verifier.verify(given)
        seconds = time.perf_counter() - started
    right = [n % 2 == 0 for n in range(items)]
    lost = sum((one.result == "correct") != right[n] or one.reward is None for n, one in enumerate(found))
    return {"seconds": seconds, "timeouts": sum(one.result == "timeout" for one in found), "lost": lost}


def labels(path: str) -> dict[str, float]:
    """Solutions of four models a question, each marked by its publishers."""
    pairs: Pairs = []
    marked: list[bool] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            gold = record["ground_truth"].rpartition("A: ")[2]
            for solved in (value for value in record.values() if isinstance(value, dict)):
                pairs.append((gold, solved["solution"]))
                marked.append(solved["is_correct"])
    started = time.perf_counter()
    with AnswerVerifier(workers=1) as verifier:
        found = verifier.verify(pairs)
    seconds = time.perf_counter() - started
    agree = sum((one.result == "correct") == mark for one, mark in zip(found, marked, strict=True))
    return {"solutions": len(pairs), "agree": agree / len(pairs), "rate": len(pairs) / seconds}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("plain", "workers", "hostile", "labels"))
    parser.add_argument("--kind", choices=("numbers", "expressions"))
    for name in ("count", "workers", "items", "hostile"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--deadline", type=float)
    parser.add_argument("--path")
    given = parser.parse_args(words)
    if given.mode == "hostile":
        print(json.dumps(hostile(given.items, given.hostile, given.deadline)))
    elif given.mode == "labels":
        print(json.dumps(labels(given.path)))
    else:
        pairs = pairs_of(given.kind, given.count)
        seconds, correct = plain(pairs) if given.mode == "plain" else in_workers(pairs, given.workers)
        print(json.dumps({"seconds": seconds, "correct": correct}))


if __name__ == "__main__":
    main()
