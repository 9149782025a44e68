"""The bars: planted faults are caught, sound variants pass, on problems made here."""

from collections import Counter

import pytest

from benchmarks.transform_corruptions import NAMED, SOUND, WIDER, answer_leaked
from benchmarks.transform_problems import problems, solve
from benchmarks.transforms import bare, faults, leaks, make, plant, sound
from penstock.seeding import stream

PROBLEMS = problems(72, seed=11, told=True)


@pytest.fixture(scope="module")
def made():
    return make(PROBLEMS)


def test_every_problem_gets_verified_variants_of_two_kinds_and_more(made):
    kinds = Counter(min(3, len(made.kinds(problem))) for problem in PROBLEMS)
    assert kinds == {3: len(PROBLEMS)}
    assert made.total.share >= 0.95


def test_planted_faults_of_the_named_kinds_are_caught(made):
    found, passed = faults(PROBLEMS, made, NAMED)
    assert sum(tally.all for tally in found.values()) >= 500
    assert all(tally.all >= 50 for tally in found.values()), found
    assert [(judged.pair.problem.prompt, judged.pair.variant.prompt) for judged in passed] == []


def test_planted_faults_of_other_kinds_are_caught(made):
    found, passed = faults(PROBLEMS, made, WIDER)
    assert sum(tally.all for tally in found.values()) >= 500
    # what passes is no fault: the text still solves to the answer
    through = [judged.pair.variant for judged in passed]
    assert [variant.prompt for variant in through if solve(variant.prompt) != variant.answer] == []
    assert len(passed) <= 0.01 * sum(tally.all for tally in found.values())
    told = leaks(PROBLEMS, made)
    assert (told.all, told.good) == (len(PROBLEMS), len(PROBLEMS))


def test_sound_edits_by_other_hands_pass():
    found, failed = sound(PROBLEMS)
    assert sum(tally.all for tally in found.values()) >= 150
    assert [(judged.failed, judged.pair.variant.prompt) for judged in failed] == []


@pytest.mark.parametrize("name", [*NAMED, *WIDER])
def test_a_fault_changes_the_text_and_is_the_same_for_the_same_stream(name):
    for edit in (NAMED | WIDER)[name]:
        planted = [plant(problem, bare(problem, "format"), name, edit) for problem in PROBLEMS]
        assert planted == [plant(problem, bare(problem, "format"), name, edit) for problem in PROBLEMS]
        found = [(p, v) for p, v in zip(PROBLEMS, planted, strict=True) if v is not None]
        assert all(variant.prompt != problem.prompt for problem, variant in found)


def test_a_sound_edit_of_a_made_problem_solves_to_its_answer():
    for name, (_, edit) in SOUND.items():
        for problem in PROBLEMS:
            prompt = edit(problem.prompt, stream(0, name, problem.problem_id))
            assert prompt is None or solve(prompt) == problem.answer, prompt


def test_a_leak_holds_the_answer():
    assert "42" in answer_leaked("42")("How many?", stream(0))
