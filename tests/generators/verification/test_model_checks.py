"""Checks that ask: the two-way judge, solve agreement, the embedding band."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.generators.base import Completion
from penstock.generators.items import Verdict
from penstock.generators.transforms.base import Problem, Variant
from penstock.generators.verification.agreement import SVS_BAND, SolveAgreement, shifts
from penstock.generators.verification.band import EmbeddingBand
from penstock.generators.verification.base import Check, ModelCheck, Pair
from penstock.generators.verification.judge import Judge, prompts_of
from penstock.generators.verification.ladder import Ladder
from penstock.generators.verification.workers import AnswerVerifier

ORIGINAL = "Ann has 3 apples and buys 4 more. How many apples does Ann have?"
SOUND = "Mia has 3 pears and buys 4 more. How many pears does Mia have?"
WRONG = "Mia has 3 pears and sells 1 of them. How many pears does Mia have?"


def pair(variant, answer="7", gold="7", original=ORIGINAL, kind="rename"):
    return Pair(
        Problem(problem_id="p", prompt=original, answer=gold),
        Variant(prompt=variant, answer=answer, kind=kind, transform=kind),
    )


@pytest.fixture(scope="module")
def verifier():
    with AnswerVerifier(workers=1) as made:
        yield made


def judged(rule, scripted, pairs):
    model = scripted(rule)
    verdicts = asyncio.run(Judge(model=model, prompt=prompts_of()["judge"]).check_async(pairs))
    return model, verdicts


def said(same, difference=""):
    return json.dumps({"same": same, "difference": difference})


def test_both_orders_are_asked_and_both_must_agree(scripted):
    def rule(request):
        text = request.messages[0].content
        return said("sells" not in text, "she sells one" if "sells" in text else "")

    model, verdicts = judged(rule, scripted, [pair(SOUND), pair(WRONG)])
    assert [verdict.passed for verdict in verdicts] == [True, False]
    assert json.loads(verdicts[1].detail)["forward"] == {"same": False, "difference": "she sells one"}
    first, second = (request.messages[0].content for request in model.asked[:2])
    assert first.index(ORIGINAL) < first.index(SOUND)
    assert second.index(SOUND) < second.index(ORIGINAL)
    assert {request.temperature for request in model.asked} == {0.0}


@pytest.mark.parametrize("favours", ["first", "second"])
def test_a_judge_that_favours_a_place_passes_nothing(favours, scripted):
    def rule(request):
        text = request.messages[0].content
        original_first = text.index(ORIGINAL) < text.index(SOUND)
        return said(original_first == (favours == "first"))

    _, (verdict,) = judged(rule, scripted, [pair(SOUND)])
    assert not verdict.passed


def test_a_question_without_an_answer_does_not_pass(scripted):
    def rule(request):
        text = request.messages[0].content
        return said(True) if text.index(ORIGINAL) < text.index(SOUND) else Completion(error="status 500")

    _, (verdict,) = judged(rule, scripted, [pair(SOUND)])
    assert not verdict.passed
    assert json.loads(verdict.detail) == {
        "forward": {"same": True, "difference": ""},
        "backward": {"error": "status 500"},
    }


def solver(request):
    """Solves the sums of the tests as they are written, whatever they are said to be."""
    text = request.messages[0].content
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return rf"We get \boxed{{{numbers[0] - numbers[1] if 'sells' in text else sum(numbers)}}}."


def agree(model, verifier, pairs, **options):
    options = {"samples": 4} | options
    check = SolveAgreement(model=model, verifier=verifier, prompt=prompts_of()["solve"], **options)
    return asyncio.run(check.check_async(pairs))


def told(verdict):
    return json.loads(verdict.detail)


def test_a_planted_mistransform_is_stopped_and_a_sound_variant_passes(scripted, verifier):
    model = scripted(solver)
    right, wrong = agree(model, verifier, [pair(SOUND), pair(WRONG)])
    assert right == Verdict("solve_agreement", True, right.detail)
    assert told(right) | {"rival": None} == {
        "accuracy": 1.0, "correct": 4, "wrong": 0, "undecided": 0, "rival": None, "rivals": 0, "original_accuracy": 1.0,
    }  # fmt: skip
    assert not wrong.passed
    assert told(wrong)["accuracy"] == 0.0
    assert told(wrong)["rival"] == "2"
    assert told(wrong)["rivals"] == 4
    # the original is solved once for both, and equal questions are other draws by their sample alone
    assert len(model.asked) == 3 * 4
    assert sorted(request.sample for request in model.asked) == sorted(list(range(4)) * 3)
    assert sum(ORIGINAL in request.messages[0].content for request in model.asked) == 4


def by_sample(*answers):
    """Solutions of the variant in order of samples; the original is always solved."""

    def rule(request):
        if ORIGINAL in request.messages[0].content:
            return r"\boxed{7}"
        found = answers[request.sample]
        return found if isinstance(found, Completion) else rf"\boxed{{{found}}}"

    return rule


NO = Completion(error="gone")


@pytest.mark.parametrize(
    ("answers", "passed", "accuracy"),
    [
        (("7", "7", "7.0", "8"), True, 0.75),
        (("7", "7", "8", "9"), True, 0.5),
        # a tie is no majority, and equal answers count together however they are written
        (("7", "7", "8", "8"), False, 0.5),
        (("7", "8", "8.0", r"\frac{16}{2}"), False, 0.25),
        (("7", "8", "9", "10"), False, 0.25),
        (("7", NO, NO, NO), True, 1.0),
        ((NO, NO, NO, NO), False, None),
        (("8", "8", "8", "8"), False, 0.0),
    ],
)
def test_the_commonest_answer_must_be_gold(answers, passed, accuracy, scripted, verifier):
    (verdict,) = agree(scripted(by_sample(*answers)), verifier, [pair(SOUND)])
    assert (verdict.passed, told(verdict)["accuracy"]) == (passed, accuracy)
    assert told(verdict)["undecided"] == sum(one is NO for one in answers)


def test_accuracy_must_lie_in_the_band(scripted, verifier):
    def passes(band, *answers):
        (verdict,) = agree(scripted(by_sample(*answers)), verifier, [pair(SOUND)], band=band, samples=len(answers))
        return verdict.passed

    always, half = ["7"] * 4, ["7", "7", "8", "9"]
    assert passes((0.125, 1.0), *always)
    assert not passes(SVS_BAND, *always)
    assert passes(SVS_BAND, *half)
    assert not passes((0.75, 1.0), *half)
    assert passes((0.5, 0.5), *half)


def test_a_variant_is_held_against_its_own_answer(scripted, verifier):
    """Multiple choice: the letter is gold there, the number in the original."""
    choice = "3 + 4 = ? (A) 6 (B) 7"
    rule = {ORIGINAL: r"\boxed{7}", choice: r"\boxed{B}"}
    model = scripted(lambda request: next(v for k, v in rule.items() if k in request.messages[0].content))
    (verdict,) = agree(model, verifier, [pair(choice, answer="B")])
    assert verdict.passed
    assert told(verdict)["original_accuracy"] == 1.0


def test_originals_are_left_alone_where_nobody_asks_for_the_shift(scripted, verifier):
    model = scripted(solver)
    (verdict,) = agree(model, verifier, [pair(SOUND)], originals=False)
    assert len(model.asked) == 4
    assert told(verdict)["original_accuracy"] is None


def test_the_shift_of_difficulty_is_the_mean_difference_by_kind():
    def verdict(after, before, check="solve_agreement"):
        return Verdict(check, True, json.dumps({"accuracy": after, "original_accuracy": before}))

    rows = [
        ("rename", verdict(0.5, 1.0)),
        ("rename", verdict(0.75, 0.5)),
        ("format", verdict(0.25, 0.5)),
        ("format", verdict(None, 0.5)),
        ("format", verdict(0.0, None)),
        ("format", Verdict("judge", True, "{}")),
    ]
    assert shifts(rows) == {"format": {"pairs": 1, "shift": -0.25}, "rename": {"pairs": 2, "shift": -0.125}}
    assert shifts([]) == {}


@dataclass(frozen=True)
class Angles:
    """Embeds a text that is a number of degrees; a blank word has no embedding."""

    dimensions: int = 2

    def setup(self):
        pass

    def embed(self, texts):
        assert all(text.strip() for text in texts)
        rows = [(np.cos(np.radians(float(t))), np.sin(np.radians(float(t)))) if t != "none" else (0, 0) for t in texts]
        return np.array(rows, dtype=np.float32)


def test_the_cosine_must_lie_in_the_band():
    pairs = [pair(text, original="0") for text in ("0", "30", "60", "80", "none", " ")]
    verdicts = EmbeddingBand(embedder=Angles(), band=(0.4, 0.95)).check(pairs)
    assert [verdict.passed for verdict in verdicts] == [False, True, True, False, False, False]
    cosines = [told(verdict)["cosine"] for verdict in verdicts]
    assert cosines[:4] == pytest.approx([1.0, 0.866025, 0.5, 0.173648], abs=1e-6)
    assert cosines[4:] == [None, None]
    assert EmbeddingBand(embedder=Angles()).check([]) == []


def test_the_ladder_takes_all_three_and_asks_only_for_what_came_so_far(scripted, verifier):
    model = scripted(solver)
    judge = Judge(
        model=scripted(lambda request: said("80" not in request.messages[0].content)), prompt=prompts_of()["judge"]
    )
    band = EmbeddingBand(embedder=Angles(), band=(0.0, 0.99))
    solve = SolveAgreement(model=model, verifier=verifier, prompt=prompts_of()["solve"], samples=2)
    assert isinstance(judge, ModelCheck)
    assert isinstance(solve, ModelCheck)
    assert not isinstance(band, ModelCheck)
    checks: tuple[Check | ModelCheck, ...] = (band, judge, solve)
    pairs = [pair(text, original="10", gold="10", answer="10") for text in ("10", "80", "10.0", "20")]
    found = asyncio.run(Ladder(checks=checks).verify_async(pairs))
    assert [one.failed and one.failed.check for one in found] == [
        "embedding_band", "judge", "embedding_band", "solve_agreement",
    ]  # fmt: skip
    assert {re.search(r"\d+$", request.messages[0].content)[0] for request in model.asked} == {"20", "10"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: SolveAgreement(model=None, verifier=v, prompt=None, samples=0), "samples: got 0"),
        (lambda v: SolveAgreement(model=None, verifier=v, prompt=None, band=(0.9, 0.1)), "band: got 0.9 to 0.1"),
        (lambda v: SolveAgreement(model=None, verifier=v, prompt=None, band=(-0.1, 1.0)), "band: got -0.1 to 1.0"),
        (lambda v: EmbeddingBand(embedder=Angles(), band=(0.5, 1.5)), "embedding_band: got 0.5 to 1.5"),
    ],
)
def test_bands_that_are_none_are_refused(make, message, verifier):
    with pytest.raises(ConfigError, match=message):
        make(verifier)


def test_prompts_of_the_checks_can_be_replaced(tmp_path, scripted):
    (tmp_path / "judge.md").write_text("{{first}} ~ {{second}}?")
    model = scripted(lambda request: said(True))
    asyncio.run(Judge(model=model, prompt=prompts_of(str(tmp_path))["judge"]).check_async([pair(SOUND)]))
    assert [request.messages[0].content for request in model.asked] == [
        f"{ORIGINAL} ~ {SOUND}?",
        f"{SOUND} ~ {ORIGINAL}?",
    ]
