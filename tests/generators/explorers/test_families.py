"""The measured table of families says what the installed library does."""

from importlib.metadata import version

import pytest

from penstock.errors import ConfigError
from penstock.generators.explorers import families as module
from penstock.generators.explorers.families import Family, Knob, check_families, families, left_out
from penstock.sources.procedural import dataset_of, make


def test_every_family_of_the_measured_version_is_usable_or_left_out_with_a_reason():
    import reasoning_gym  # noqa: F401  the import fills the registry
    from reasoning_gym.factory import DATASETS

    if module._table()["reasoning-gym"] != version("reasoning-gym"):
        pytest.skip("another version of reasoning-gym is installed")
    assert set(families()) | set(left_out()) == set(DATASETS)
    assert not set(families()) & set(left_out())
    assert all(reason.strip() for reason in left_out().values())
    assert len(families()) > 60


def test_every_usable_family_makes_a_verified_problem_by_its_own_parameters_and_by_the_hardest_of_every_knob():
    failed = []
    for name, family in families().items():
        tried = [{}, *({knob.name: len(knob.levels) - 1} for knob in family.knobs)]
        for levels in tried:
            made = make(dataset_of(name, 3, family.config(levels)))
            if made.reason is not None or not made.question.strip():
                failed.append((name, levels, made.reason, made.detail))
    assert failed == []


def test_parameters_are_those_of_the_named_levels_and_level_0_sets_nothing():
    family = Family("gcd", (Knob("terms", ({}, {"low": 2, "high": 3})), Knob("value", ({}, {"x": 1}, {"x": 2}))))
    assert family.config({}) == {}
    assert family.config({"terms": 1, "value": 2}) == {"low": 2, "high": 3, "x": 2}
    assert all(knob.levels[0] == {} and all(knob.levels[1:]) for f in families().values() for knob in f.knobs)


def test_a_family_that_cannot_be_had_says_why():
    with pytest.raises(ConfigError, match="got 'composite', which is left out: refused"):
        check_families(["gcd", "composite"])
    with pytest.raises(ConfigError, match="got 'gdc', nearest known gcd"):
        check_families(["gdc"])
