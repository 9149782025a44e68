"""Documents by licence. Run: pytest tests/selectors/test_licenses.py"""

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.licenses import LicenseFilter, alternatives


def decide(work, *rows):
    return work.decide(pa.record_batch({"license": pa.array(rows, pa.string())})).to_pylist()


@pytest.mark.parametrize(
    ("expression", "sets"),
    [
        ("MIT", [{"mit"}]),
        (" CC-BY-4.0 ", [{"cc-by-4.0"}]),
        ("A AND b or C", [{"a", "b"}, {"c"}]),
        ("a and (b OR c)", [{"a", "b"}, {"a", "c"}]),
        ("((a))", [{"a"}]),
        ("GPL-2.0+ WITH Classpath-exception-2.0", [{"gpl-2.0"}]),
        ("LicenseRef-mine", [{"licenseref-mine"}]),
        ("DocumentRef-x:LicenseRef-y", [{"documentref-x:licenseref-y"}]),
        ("", None),
        ("free for all", None),
        ("a OR", None),
        ("AND a", None),
        ("(a", None),
        ("a)", None),
        ("a b", None),
        ("a WITH", None),
        ("a WITH OR", None),
        ("(a OR b) WITH c", None),
        ("()", None),
        ("a/b", None),
        ("© me", None),
        ("a" * 5000, None),
        (" AND ".join(["(a OR b)"] * 9), None),  # 512 choices
        ("(" * 4000 + "a", None),
    ],
)
def test_an_expression_is_the_sets_that_meet_it(expression, sets):
    assert alternatives(expression) == (None if sets is None else [frozenset(names) for names in sets])


@st.composite
def expressions(draw, depth=2):
    """(text, function of the identifiers one may use)."""
    if depth == 0 or draw(st.booleans()):
        name = draw(st.sampled_from("abcd"))
        return name, lambda have: name in have
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    if draw(st.booleans()):
        return f"({left[0]} AND {right[0]})", lambda have: left[1](have) and right[1](have)
    return f"({left[0]} or {right[0]})", lambda have: left[1](have) or right[1](have)


@given(expressions(), st.sets(st.sampled_from("abcd")))
def test_a_choice_of_allowed_identifiers_is_found_if_there_is_one(expression, have):
    text, met = expression
    assert any(names <= have for names in alternatives(text)) == met(have)


ROWS = [
    "MIT",
    "mit",
    "Apache-2.0 OR GPL-3.0-only",
    "MIT AND GPL-3.0-only",
    "GPL-3.0-only",
    "CC-BY-4.0",
    "custom ones",
    None,
]


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        (
            {"allow": ("MIT", "apache-2.0")},
            [None, None, None, "license_not_allowed", "license_not_allowed", "license_not_allowed", None, None],
        ),
        (
            {"deny": ("gpl-3.0-only",)},
            [None, None, None, "license_denied", "license_denied", None, None, None],
        ),
        (
            {"allow": ("MIT",), "deny": ("GPL-3.0-only",), "unknown": "drop"},
            [None, None, "license_not_allowed", "license_denied", "license_denied", "license_not_allowed"]
            + ["license_unknown"] * 2,
        ),
        ({"unknown": "drop"}, [None] * 6 + ["license_unknown"] * 2),
    ],
)
def test_rows_are_judged_by_allow_deny_and_unknown(settings, reasons):
    work = LicenseFilter(**settings)
    assert decide(work, *ROWS) == reasons
    assert decide(pickle.loads(pickle.dumps(work)), *ROWS[::-1]) == reasons[::-1]  # noqa: S301
    assert decide(work) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "got neither allow nor deny"),
        ({"allow": "MIT"}, r"allow: got 'MIT', allowed a list of SPDX identifiers; write \['MIT'\]"),
        (
            {"allow": ("Apache 2",)},
            "allow: got 'Apache 2', allowed SPDX identifiers such as CC-BY-4.0; did you mean Apache-",
        ),
        ({"deny": ("GPL-3",)}, "deny: got 'GPL-3', .*did you mean"),
        ({"deny": ("MIT OR Apache-2.0",)}, "deny: got 'MIT OR Apache-2.0'"),
        ({"deny": ("~~~",)}, r"see spdx\.org/licenses"),
        ({"deny": (1,)}, "deny: got 1"),
        ({"allow": ("MIT",), "deny": ("mit",)}, "allow, deny: got mit in both"),
        ({"unknown": "skip"}, "unknown: got 'skip', allowed keep or drop"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LicenseFilter(**settings)
