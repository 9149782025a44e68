"""RefinedWeb's line-wise corrections against a plain reading of them. Run: pytest tests/selectors/test_refinedweb.py"""

import pickle
import re

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.normalise import content_hashes
from penstock.selectors.refinedweb import COUNTERS, RefinedWebLines, RefinedWebQuality, RefinedWebRules


def small(text):
    return re.sub("[A-Z]", lambda m: m[0].lower(), text)


def pattern_by_hand(line, rules):
    """(what is left of a line whose pattern is cut out, the line itself without whitespace around it)."""
    bare = line.strip()
    low = small(bare)
    at = stop = None
    for phrase in rules.prefixes:
        if at is None and low.startswith(small(phrase)):
            at, stop = 0, len(phrase)
    if at is None:
        places = [(low.find(small(p)), i, p) for i, p in enumerate(rules.anywhere) if small(p) in low]
        if places:
            at, _, phrase = min(places)
            stop = at + len(phrase)
    if at is None:
        for phrase in rules.suffixes:
            if at is None and low.endswith(small(phrase)):
                at, stop = len(bare) - len(phrase), len(bare)
    if at is None:
        return None
    before, after = bare[:at].rstrip(), bare[stop:]
    after = after if before else after.lstrip()
    start = line.index(bare)
    left = before + after
    return (line[:start] + left + line[start + len(bare) :]) if left else ""


def by_hand(text, rules):
    """The lines that stay, the kinds flagged, words and flagged words."""
    kept, kinds, words, flagged = [], [], 0, 0
    counters = "|".join(re.escape(small(c)) for c in rules.counters)
    counter = re.compile(rf"^\W*\d(?:,|\.|\d)*(?:[kmb])?\s+(?:{counters})\W*$") if counters else None
    for line in text.split("\n") if text else []:
        n = len(line.split())
        words += n
        if n == 0:
            kept.append(line)
            continue
        kind = None
        if sum(c.isupper() for c in line) / len(line) > rules.max_uppercase:
            kind = "uppercase"
        elif rules.numeric and all(c.isdecimal() or c.isspace() for c in line):
            kind = "numeric"
        elif counter and counter.search(small(line.strip())):
            kind = "counter"
        elif n < rules.min_words_per_line:
            kind = "one_word"
        elif n <= rules.short_line_words and (left := pattern_by_hand(line, rules)) is not None:
            kind = "pattern"
            if left:
                kept.append(left)
        else:
            kept.append(line)
        if kind:
            flagged += n
            kinds.append(kind)
    return "\n".join(kept), kinds, words, flagged


WORDS = ["a", "the", "Word", "ALL", "CAPS", "12", "3", "1,204", "3.2k", "5M", "likes", "Views", "comments!", "(", "—"]
WORDS += ["sign-in", "Sign-In", "Read", "more...", "read more...", "items in cart", "items", "Items in Cart", "١٢", "É"]
GAPS = [" "] * 8 + ["\n"] * 4 + ["\n\n", "  ", "\t", "\xa0", "\u2028", "\r\n"]


@st.composite
def pages(draw):
    words = draw(st.lists(st.sampled_from(WORDS), max_size=40))
    return draw(st.sampled_from(["", "\n", " "])) + "".join(w + draw(st.sampled_from(GAPS)) for w in words)


RULES = [
    RefinedWebRules(),
    RefinedWebRules(max_flagged_words=1.0, short_line_words=3),
    RefinedWebRules(max_flagged_words=0.4, max_uppercase=1.0, numeric=False, counters=(), min_words_per_line=0),
    RefinedWebRules(max_uppercase=0.2, prefixes=("the", "a word"), suffixes=("12", "word"), anywhere=("caps", "word")),
]


def batch(rows):
    """The rows as a slice of a longer batch."""
    return pa.record_batch({"text": pa.array(["X\n", *rows, "12\n"], pa.string())})[1 : len(rows) + 1]


@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(pages(), pages(), st.text()), max_size=5), st.sampled_from(RULES))
@example(["X", "X\n", "\nX", "ok then\nX\nY", "X\nok then\n", "X\n\nY", "read more...\nX", "  sign-in  \n"], RULES[1])
@example(["see items in cart now\n items in cart ", "sign-in\xa0now\u2028x", "go read more...\n"], RULES[0])
def test_both_works_do_what_a_plain_reading_of_the_rules_says(rows, rules):
    quality, lines = rules.works()
    edited, counts = lines.edit(batch(rows))
    wanted = [by_hand(row, rules) for row in rows]
    assert edited["text"].to_pylist() == [text for text, _, _, _ in wanted]
    assert edited["content_hash"].equals(content_hashes(edited["text"]))
    flagged = [kind for _, kinds, _, _ in wanted for kind in kinds]
    assert {kind: n for kind, n in counts.items() if kind != "kept"} == {k: flagged.count(k) for k in set(flagged)}
    assert quality.decide(batch(rows)).to_pylist() == [
        "word_removal_ratio" if words and (bad / words > rules.max_flagged_words or bad == words) else None
        for _, _, words, bad in wanted
    ]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("MAINLY Caps", None),  # 7 of 11 characters
        ("MAIN caps ok", "MAIN caps ok"),
        ("12 345", None),
        ("12 345.", "12 345."),
        ("3 likes", None),
        ("(1,204 Comments)", None),
        ("3 likes of mine", "3 likes of mine"),
        ("3likes now", "3likes now"),
        ("Home", None),
        ("Sign-in to see more", "to see more"),
        ("Please sign-in here", "Please sign-in here"),
        ("The story Read more...", "The story"),
        ("You have 2 items in cart now", "You have 2 now"),
        ("Read more...", None),
        ("one two three four five six seven eight nine items in cart", None),  # 12 words: see below
    ],
)
def test_each_line_rule_is_the_published_one(line, left):
    rules = RefinedWebRules(max_flagged_words=1.0)
    if len(line.split()) > 10:
        left = line
    text = RefinedWebLines(rules=rules).annotate(batch([f"some words first\n{line}\nsome words last"]))["text"]
    middle = "" if left is None else left + "\n"
    assert text.to_pylist() == [f"some words first\n{middle}some words last"]


def test_a_document_goes_when_more_than_five_percent_of_its_words_are_flagged():
    for plain, reason in ((19, None), (18, "word_removal_ratio")):  # one flagged word of 20, of 19
        text = " ".join(["word"] * plain) + "\nHome"
        assert RefinedWebQuality().decide(batch([text])).to_pylist() == [reason]


def test_what_training_learns_from_moves_with_the_text():
    text = "HOME\nfirst line here\n12\nlearn this line"
    learned = [text.index("learn"), len(text)]
    rows = pa.record_batch({"text": [text], "learn": pa.array([learned], pa.list_(pa.int32()))})
    edited = RefinedWebLines().annotate(rows)
    assert edited["text"].to_pylist() == ["first line here\nlearn this line"]
    start, stop = edited["learn"][0].as_py()
    assert edited["text"][0].as_py()[start:stop] == "learn this line"


def test_a_long_row_of_many_spans_is_edited_whole():
    text = "\n".join(f"line number {k}\nX\nand items in cart here" for k in range(2000))
    wanted = "\n".join(f"line number {k}\nand here" for k in range(2000))
    assert RefinedWebLines().annotate(batch([text, "X\na b"]))["text"].to_pylist() == [wanted, "a b"]


@pytest.mark.parametrize("rows", [253, 254, 255, 256, 257, 20_000])
def test_any_number_of_rows_of_which_nothing_stays(rows):
    """Each is one cut, up to the end: there is room for all of them, whatever the rows hold inside."""
    texts = ["X"] * rows + ["X\na line that stays", "X"]
    edited, counts = RefinedWebLines().edit(batch(texts))
    assert edited["text"].to_pylist() == [""] * rows + ["a line that stays", ""]
    assert sum(counts.values()) == rows + 3


def test_nulls_large_strings_and_an_empty_batch():
    quality, lines = RefinedWebRules().works()
    for work in (quality, lines):
        work.setup()
    rows = pa.record_batch({"text": pa.array([None, "a b\nX"], pa.large_string())})
    assert quality.decide(rows).to_pylist() == [None, "word_removal_ratio"]
    assert lines.annotate(rows)["text"].to_pylist() == ["", "a b"]
    assert quality.decide(batch([])).type == pa.string()
    assert lines.annotate(batch([]))["text"].to_pylist() == []
    assert pickle.loads(pickle.dumps(lines)) == lines  # noqa: S301
    assert len(COUNTERS) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_flagged_words": 5}, "max_flagged_words: got 5, allowed 0 to 1"),
        ({"max_uppercase": -0.5}, "max_uppercase: got -0.5"),
        ({"min_words_per_line": -1}, "min_words_per_line: got -1, allowed >= 0"),
        ({"short_line_words": -1}, "short_line_words: got -1"),
        ({"counters": "likes"}, "counters: got 'likes', allowed a list"),
        ({"prefixes": ("x",)}, "prefixes: got .*two characters"),
        ({"suffixes": (" more",)}, "suffixes"),
        ({"anywhere": ("in\ncart",)}, "anywhere.*on one line"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RefinedWebRules(**settings)
