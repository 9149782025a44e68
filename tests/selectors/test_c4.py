"""C4's rules against a plain reading of them. Run: pytest tests/selectors/test_c4.py"""

import pickle
import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.c4 import C4_REASONS, LINE_KINDS, POLICY_PHRASES, C4Lines, C4Quality, C4Rules
from penstock.selectors.line_kernels import ABBREVIATIONS, terminal_marks
from penstock.selectors.normalise import content_hashes

TERMINAL = {chr(code) for code in terminal_marks().tolist()}
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")


def is_punctuation(character):
    return unicodedata.category(character)[0] == "P"


def small(text):
    return re.sub("[A-Z]", lambda m: m[0].lower(), text)


def stop_ends(word, at):
    """Whether the full stop at ``word[at]``, with punctuation alone behind it, ends a sentence."""
    before = word[:at]
    if not before:
        return True
    last = before[-1]
    if last.isalpha():
        if len(before) == 1 or (last.isupper() and not before[-2].isupper()):
            return False
        if len(before) == 2 and is_punctuation(before[0]):
            return False
    elif not (last.isdecimal() or is_punctuation(last)):
        return last in "%²"
    first = 0
    while first < at and (is_punctuation(word[first]) or word[first].isdecimal()):
        first += 1
    return word[first : at + 1] not in ABBREVIATIONS.split()


def sentences_by_hand(text):
    sentences, ended = 1, False
    for word in text.split():
        if any(not is_punctuation(c) for c in word) and ended:
            sentences += 1
            ended = False
        inner = len(re.findall(r"(?<!\.)\.(?!\.)", word)) and sum(
            word[m.start() - 1].isalpha()
            and not word[m.start() - 1].isupper()
            and m.end() < len(word)
            and word[m.end()].isupper()
            for m in re.finditer(r"(?<!\.)\.(?!\.)", word)
            if m.start()
        )
        sentences += inner
        tail = len(word)
        while tail and is_punctuation(word[tail - 1]):
            tail -= 1
        for at in range(tail, len(word)):
            mark = word[at]
            if mark not in TERMINAL:
                continue
            if mark == ".":
                run = (at and word[at - 1] == ".") or word[at + 1 : at + 2] == "."
                ended |= not run and stop_ends(word, at)
            else:
                ended = True
    return sentences


def lines_by_hand(text, rules):
    """The text as C4 leaves it, before its document rules."""
    kept = []
    for line in text.splitlines():
        line = line.strip()
        words = line.split()
        if rules.max_word_length and any(len(word) > rules.max_word_length for word in words):
            continue
        if rules.citations:
            line = CITATION.sub("", line)
        if rules.terminal_punctuation and (not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")):
            continue
        if len(words) < rules.min_words_per_line:
            continue
        if not (rules.lorem_ipsum and "lorem ipsum" in small(line)):
            if rules.javascript and "javascript" in small(line):
                continue
            policy = any(small(phrase) in small(line) for phrase in rules.policy_phrases)
            if policy and not (rules.curly_bracket and "{" in line):
                continue
        kept.append(line)
    return "\n".join(kept).strip()


def document_by_hand(text, rules):
    sentences = 0
    for line in text.splitlines():
        if rules.lorem_ipsum and "lorem ipsum" in small(line):
            return "lorem_ipsum"
        if rules.curly_bracket and "{" in line:
            return "curly_bracket"
        if line.strip():
            sentences += sentences_by_hand(line)
    return "too_few_sentences" if not text.strip() or sentences < rules.min_sentences else None


WORDS = ["the", "The", "word", "Mr.", "J.", "U.S.", "a.m.", "3p.m.", "end.Start", "dot...", "wait…", "no?!", '"Yes."']
WORDS += [
    "[1]",
    "x[12].",
    "[edit]",
    "[citation needed]",
    "[[2]]",
    "[१२]",
    "[x]",
    "(ok.)",
    "。",
    "ends。",
    "é.",
    "5.",
    "%.",
]
WORDS += ["JavaScript", "lorem ipsum", "Lorem", "ipsum", "{", "Terms of Use", "use cookies", "w" * 12, "—", "Ünd.", "$"]
WORDS += [".", "..", "'", '"', "a", "b.", "fine.", "good!", "Ok?", "end..", "java[3]script", "privacy policy", "中文。"]
GAPS = [" "] * 10 + ["\n", "\n\n", "\r\n", "  ", "\u2028", "\x0b", "\xa0", "\t", " \n "]


@st.composite
def prose(draw):
    words = draw(st.lists(st.sampled_from(WORDS), max_size=40))
    return "".join(word + draw(st.sampled_from(GAPS)) for word in words)


RULES = [
    C4Rules(),
    C4Rules(terminal_punctuation=False, min_sentences=2),
    C4Rules(citations=False, min_words_per_line=1, max_word_length=10, min_sentences=3),
    C4Rules(
        terminal_punctuation=False,
        min_words_per_line=0,
        max_word_length=0,
        javascript=False,
        policy_phrases=("The word",),
        min_sentences=0,
    ),
    C4Rules(lorem_ipsum=False, curly_bracket=False, policy_phrases=(), terminal_punctuation=False, min_sentences=1),
]


def batch(rows):
    """The rows as a slice of a longer batch."""
    return pa.record_batch({"text": pa.array(["x [1] y.", *rows, "{\u2028"], pa.string())})[1 : len(rows) + 1]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(prose(), prose(), st.text()), max_size=5), st.sampled_from(RULES))
@example(["[1] ", "a [1]\n[2] \n b", "[1]\n\n[2] x", " \n[3]\n ", "x [1]"], RULES[3])
@example(["It is. Mr. Smith is in the U.S. now.Then he went... away! ”Yes.” $ 5. Six"], RULES[4])
@example(["lorem\u2028ipsum {\nlorem ipsum", "{ lorem ipsum", "x\n{ a\rlorem ipsum"], RULES[3])
def test_both_works_do_what_a_plain_reading_of_the_rules_says(rows, rules):
    lines, quality = rules.works()
    edited, _ = lines.edit(batch(rows))
    assert edited["text"].to_pylist() == [lines_by_hand(row, rules) for row in rows]
    assert edited["content_hash"].equals(content_hashes(edited["text"]))
    # the filter alone, too: it judges any text
    for texts in (rows, edited["text"].to_pylist()):
        assert quality.decide(batch(texts)).to_pylist() == [document_by_hand(text, rules) for text in texts]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One", 1),
        ("One. Two! Three? Four", 4),
        ("Wait... what. No… yes", 2),
        ("He said “No.” Then he left.", 2),
        ("Mr. Smith of St. Louis met J. Doe at 5p.m. today.", 1),
        ("(See Dr. No.) Good.", 2),
        ("It ended.Then it began.", 2),
        ("version 2.0 is out. ok", 2),
        ("Grade A. Next", 1),  # reads as an initial
        ("in NASA. Next", 2),
        ("what?Yes", 1),
        ("好。 很好。", 2),
        ("stop . — ! next", 2),
    ],
)
def test_sentences_are_counted_by_the_documented_rule(text, sentences):
    assert sentences_by_hand(text) == sentences
    for least, reason in ((sentences, None), (sentences + 1, "too_few_sentences")):
        assert C4Quality(rules=C4Rules(min_sentences=least)).decide(batch([text])).to_pylist() == [reason]


GOOD = "This is a good line."


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (GOOD, "kept"),
        ("Ends with 'this'", "kept"),
        ("This has no end", "no_terminal_punc"),
        ("This ends with dots...", "no_terminal_punc"),
        ("Two words.", "too_few_words"),
        ("Just 3 words.", "kept"),
        ("A " + "w" * 1000 + " of letters.", "kept"),
        ("A " + "w" * 1001 + " of letters.", "too_long_word"),
        ("Please enable JAVASCRIPT here.", "javascript"),
        ("Read our Privacy Policy now.", "policy"),
        ("Read our privacy-policy now.", "kept"),
        ("Some words stand here [12] .", "kept"),
    ],
)
def test_each_line_rule_is_the_published_one(line, kind):
    edited, counts = C4Lines().edit(batch([f"{GOOD}\n{line}\n{GOOD}"]))
    wanted = {"kept": 3 if kind == "kept" else 2} | ({} if kind == "kept" else {kind: 1})
    assert {name: n for name, n in counts.items() if name != "citation"} == wanted
    middle = CITATION.sub("", line) + "\n" if kind == "kept" else ""
    assert edited["text"].to_pylist() == [f"{GOOD}\n{middle}{GOOD}"]
    assert set(counts) <= set(LINE_KINDS)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Lorem Ipsum dolor sit amet.", "lorem_ipsum"),
        ("function f() { return it.", "curly_bracket"),
        ("{ and lorem ipsum on a line.", "lorem_ipsum"),
        ("No javascript { here at all.", None),  # the line is gone before it can decide
        ("lorem ipsum without an end", None),
        ("a { without an end", None),
        ("use cookies { and stay.", "curly_bracket"),
    ],
)
def test_a_line_decides_about_the_document_only_if_it_passed_the_rules_before(line, reason):
    text = f"{GOOD} " * 5 + f"\n{line}"
    lines, quality = C4Rules().works()
    assert quality.decide(pa.record_batch({"text": lines.annotate(batch([text]))["text"]})).to_pylist() == [reason]


def test_citations_are_counted_where_their_line_stays():
    _, counts = C4Lines().edit(batch(["One [1] two [edit] three.\nNo [2] end here", "A [] b [citation needed] c."]))
    assert counts == {"kept": 2, "citation": 4, "no_terminal_punc": 1}


def test_what_training_learns_from_moves_with_the_text():
    text = "  Learn this whole line. \nno end\nAnd [1] that one too."
    learned = text.encode().index(b"And"), len(text)
    rows = pa.record_batch({"text": [text], "learn": pa.array([list(learned)], pa.list_(pa.int32()))})
    edited = C4Lines().annotate(rows)
    assert edited["text"].to_pylist() == ["Learn this whole line.\nAnd  that one too."]
    start, stop = edited["learn"][0].as_py()
    assert edited["text"][0].as_py()[start:stop] == "And  that one too."


def test_a_long_row_of_many_spans_and_citations_is_edited_whole():
    text = "\n".join(f"Line {k} has [{k}] a [edit] citation.\nnot this" for k in range(3000))
    text += "\nWords " + "[1]" * 400 + "x" * 900 + " and an end."
    lines, _ = C4Rules().works()
    assert lines.annotate(batch([text, "a b [1] c."]))["text"].to_pylist() == [
        lines_by_hand(text, C4Rules()),
        "a b  c.",
    ]


@pytest.mark.parametrize("rows", [255, 256, 257, 20_000])
def test_any_number_of_rows_of_which_nothing_stays(rows):
    """Each is one cut, up to the end: there is room for all of them, whatever the rows hold inside."""
    lines, _ = C4Rules().works()
    texts = ["no end"] * rows + ["no end\nA line that stays.", "no end"]
    edited, counts = lines.edit(batch(texts))
    assert edited["text"].to_pylist() == [""] * rows + ["A line that stays.", ""]
    assert counts == {"kept": 1, "no_terminal_punc": rows + 2}


def test_large_strings_nulls_and_an_empty_batch():
    lines, quality = C4Rules().works()
    rows = pa.record_batch({"text": pa.array([None, GOOD * 6], pa.large_string())})
    edited = lines.annotate(rows)["text"]
    assert (edited.type, edited.to_pylist()) == (pa.large_string(), ["", GOOD * 6])
    assert quality.decide(rows).to_pylist() == ["too_few_sentences", None]
    for work in (lines, quality):
        work.setup()
    assert lines.annotate(batch([]))["text"].to_pylist() == []
    assert quality.decide(batch([])).type == pa.string()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_words_per_line": -1}, "min_words_per_line: got -1, allowed >= 0"),
        ({"max_word_length": -1}, "max_word_length: got -1"),
        ({"min_sentences": -5}, "min_sentences: got -5"),
        ({"policy_phrases": "use cookies"}, "policy_phrases: got 'use cookies', allowed a list"),
        ({"policy_phrases": ("x",)}, "two characters and more"),
        ({"policy_phrases": (" of",)}, "policy_phrases"),
        ({"policy_phrases": ("a\nb",)}, "on one line"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        C4Rules(**settings)


def test_the_works_are_picklable_values():
    for work in RULES[3].works():
        assert pickle.loads(pickle.dumps(work)) == work  # noqa: S301
    assert len(POLICY_PHRASES) == 6
    assert C4_REASONS == ("lorem_ipsum", "curly_bracket", "too_few_sentences")
