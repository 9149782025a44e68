"""FineWeb's rules against a plain reading of them. Run: pytest tests/selectors/test_fineweb.py"""

import pickle

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.fineweb import FINEWEB_REASONS, FineWebQuality
from penstock.selectors.line_kernels import terminal_marks

TERMINAL = {chr(code) for code in terminal_marks().tolist()}


def by_hand(text, rules):
    marks = tuple(TERMINAL if rules.stop_characters is None else rules.stop_characters)
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "empty"
    share = sum(line.endswith(marks) for line in lines) / len(lines)
    if share < rules.min_line_punctuation and not (share == 0 and rules.allow_no_punctuation):
        return "line_punct_ratio"
    if sum(len(line) <= rules.short_line_length for line in lines) / len(lines) > rules.max_short_lines:
        return "short_line_ratio"
    repeated = sum(len(line) for i, line in enumerate(lines) if line in lines[:i])
    if repeated / len(text.replace("\n", "")) > rules.max_duplicate_chars:
        return "char_dup_ratio"
    if text.count("\n") / len(text.split()) > rules.max_newlines_per_word:
        return "list_ratio"
    return None


LINES = ["", " ", "A line.", "Ends here?", "no end", "trailing. ", "x" * 29 + ".", "x" * 30 + ".", "é" * 30, "中文。"]
LINES += ["\u2028", "\r", "a longer line of words that goes on beyond thirty characters.", "end\u2029.", "...", "𑩂"]
RULES = [
    FineWebQuality(),
    FineWebQuality(max_duplicate_chars=0.3, max_short_lines=1.0, max_newlines_per_word=5),
    FineWebQuality(min_line_punctuation=0.5, allow_no_punctuation=True, short_line_length=5, max_duplicate_chars=1.0),
    FineWebQuality(stop_characters=".d", max_short_lines=0.9, short_line_length=7, max_newlines_per_word=0),
]


def batch(rows):
    """The rows as a slice of a longer batch."""
    return pa.record_batch({"text": pa.array(["x.\n\n", *rows, "\n.\u2028"], pa.string())})[1 : len(rows) + 1]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.one_of(st.lists(st.sampled_from(LINES), max_size=30).map("\n".join), st.text()), max_size=5),
    st.sampled_from(RULES),
)
@example(["\n", "a\n", "\na", "\n\n \n", "a\n\na"], RULES[1])
def test_the_first_broken_rule_is_what_a_plain_reading_says(rows, rules):
    assert rules.decide(batch(rows)).to_pylist() == [by_hand(row, rules) for row in rows]


def line(number, end="."):
    return f"This is line number {number:02d} of a text of prose{end}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(line(k) for k in range(10)), None),
        ("", "empty"),
        (" \n\u3000\n", "empty"),
        # 3 of 25 lines are 12 %
        ("\n".join(line(k, "." if k < 3 else "") for k in range(25)), None),
        ("\n".join(line(k, "." if k < 3 else "") for k in range(26)), "line_punct_ratio"),
        ("\n".join([line(k) for k in range(33)] + [f"short line {k}." for k in range(67)]), None),
        ("\n".join([line(k) for k in range(32)] + [f"short line {k}." for k in range(68)]), "short_line_ratio"),
        # a repeated line of 39 characters in 100 of them is 1 %, in 99 of them more
        ("\n".join([line(k) for k in range(99)] + [line(0)]), None),
        ("\n".join([line(k) for k in range(98)] + [line(0)]), "char_dup_ratio"),
        # 3 newlines and 10 words
        ("a b c d e f g h i " + "w" * 40 + ".\n\n\n", None),
        ("a b c d e f g h i " + "w" * 40 + ".\n\n\n\n", "list_ratio"),
    ],
)
def test_each_threshold_is_the_published_one(text, reason):
    assert by_hand(text, FineWebQuality()) == reason
    assert FineWebQuality().decide(batch([text])).to_pylist() == [reason]


def test_repeated_lines_are_told_by_their_bytes_in_a_row_of_many():
    lines = [f"{k:05d} {'some words ' * 6}." for k in range(5000)]
    rules = FineWebQuality(max_duplicate_chars=0.0)
    assert rules.decide(batch(["\n".join(lines), "\n".join([*lines, lines[4711]])])).to_pylist() == [
        None,
        "char_dup_ratio",
    ]


def test_nulls_large_strings_and_an_empty_batch():
    work = FineWebQuality()
    work.setup()
    text = "\n".join(line(k) for k in range(10))
    assert work.decide(pa.record_batch({"text": pa.array([None, text], pa.large_string())})).to_pylist() == [
        "empty",
        None,
    ]
    assert work.decide(batch([])).type == pa.string()
    assert pickle.loads(pickle.dumps(RULES[3])) == RULES[3]  # noqa: S301
    assert len(FINEWEB_REASONS) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_line_punctuation": 12}, "min_line_punctuation: got 12, allowed 0 to 1"),
        ({"max_short_lines": -0.1}, "max_short_lines: got -0.1"),
        ({"max_duplicate_chars": 1.1}, "max_duplicate_chars: got 1.1"),
        ({"short_line_length": -1}, "short_line_length: got -1, allowed >= 0"),
        ({"max_newlines_per_word": float("nan")}, "max_newlines_per_word: got nan"),
        ({"max_newlines_per_word": -1}, "max_newlines_per_word: got -1"),
        ({"stop_characters": ""}, "stop_characters: got none"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FineWebQuality(**settings)
