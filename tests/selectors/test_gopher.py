"""Gopher's rules against a plain reading of them. Run: pytest tests/selectors/test_gopher.py"""

import itertools
import pickle
import re
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.gopher import QUALITY_REASONS, STOP_WORDS, GopherQuality, GopherRepetition
from penstock.selectors.gopher_quality_kernels import punctuation

PUNCTUATION = {chr(code) for code in punctuation().tolist()}


def quality_by_hand(text: str, rules: GopherQuality) -> str | None:
    words = text.split()
    real = [w for w in words if any(c not in PUNCTUATION for c in w)]
    if len(real) < rules.min_words:
        return "gopher_short_doc"
    if len(real) > rules.max_words:
        return "gopher_long_doc"
    mean = sum(map(len, real)) / len(real)
    if mean < rules.min_mean_word_length:
        return "gopher_below_avg_threshold"
    if mean > rules.max_mean_word_length:
        return "gopher_above_avg_threshold"
    if text.count("#") / len(words) > rules.max_symbols_per_word:
        return "gopher_too_many_hashes"
    if (text.count("...") + text.count("…")) / len(words) > rules.max_symbols_per_word:
        return "gopher_too_many_ellipsis"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > rules.max_bullet_lines:
        return "gopher_too_many_bullets"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > rules.max_ellipsis_lines:
        return "gopher_too_many_end_ellipsis"
    if sum(any(c.isalpha() for c in w) for w in words) / len(words) < rules.min_words_with_letter:
        return "gopher_below_alpha_threshold"
    if len(set(words) & set(rules.stop_words)) < rules.min_stop_words:
        return "gopher_enough_stop_words"
    return None


def repetition_by_hand(text: str, rules: GopherRepetition) -> str | None:
    if not text:
        return "empty"

    def repeats(items: list[str]) -> tuple[float, float]:
        again = [item for i, item in enumerate(items) if item in items[:i]]
        return len(again) / len(items), sum(map(len, again)) / len(text)

    for unit, items, share, char_share in (
        ("para", re.split("\n{2,}", text.strip()), rules.max_duplicate_paragraphs, rules.max_duplicate_paragraph_chars),
        ("line", re.split("\n+", text), rules.max_duplicate_lines, rules.max_duplicate_line_chars),
    ):
        number, characters = repeats(items)
        if number > share:
            return f"dup_{unit}_frac"
        if characters > char_share:
            return f"dup_{unit}_char_frac"
    words = text.split()
    for n, share in rules.max_top_ngrams:
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if grams:
            counts = Counter(grams)
            top = next(gram for gram in grams if counts[gram] == max(counts.values()))
            if len(" ".join(top)) * counts[top] / len(text) > share:
                return f"top_{n}_gram"
    for n, share in rules.max_duplicate_ngrams:
        seen: set[str] = set()
        repeated = i = 0
        while i <= len(words) - n:
            gram = "".join(words[i : i + n])
            if gram in seen:
                repeated += len(gram)
                i += n
            else:
                seen.add(gram)
                i += 1
        if repeated / len(text) > share:
            return f"duplicated_{n}_n_grams"
    return None


VOCABULARY = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "b",
    "ab",
    "ba",
    "abc",
    "é",
    "中文",
    "•",
    "-",
    "...",
    "…",
    "#",
    "x...",
    "22",
]
VOCABULARY += ["e\u0301", "😀", "....", "stretching", "internationalisation", "’", "!", "12#", "…."]
GAPS = [" "] * 12 + ["\n", "\n\n", "\r\n", "\n \n", "\n\n\n", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "  "]


@st.composite
def prose(draw: st.DrawFn) -> str:
    """Words from a small vocabulary with some passages repeated: near the thresholds, where errors show."""
    words = draw(st.lists(st.sampled_from(draw(st.permutations(VOCABULARY))[: draw(st.integers(1, 27))]), max_size=60))
    words += [f"word{k}" for k in range(draw(st.integers(0, 60)))]
    for _ in range(draw(st.integers(0, 4))):
        at, start, length = (draw(st.integers(0, max(len(words), 1))) for _ in range(3))
        words[at:at] = words[start : start + length]
    if draw(st.booleans()):
        # the same letters with other gaps: equal n-grams without their spaces
        words += [a + b for a, b in zip(words[::2], words[1::2], strict=False)]
    gaps = draw(st.lists(st.sampled_from(GAPS), min_size=1, max_size=40))
    text = "".join(w + g for w, g in zip(words, itertools.cycle(gaps), strict=False))
    return draw(st.sampled_from(["", "\n", " ", "\n\n"])) + text


ANY = st.one_of(
    st.text(), st.lists(st.sampled_from(list("ab.#-•… \n\r\x0b\x1c\x85\u2028\u200b😀\u0301é"))).map("".join)
)
ROWS = st.lists(st.one_of(prose(), prose(), ANY), min_size=1, max_size=6)
LOOSE = GopherQuality(min_words=1, min_mean_word_length=0.5, max_symbols_per_word=0.6, min_words_with_letter=0.3)
QUALITIES = [
    GopherQuality(),
    LOOSE,
    GopherQuality(min_words=2, max_words=30, min_stop_words=5, max_bullet_lines=0.1, max_symbols_per_word=1.5),
    GopherQuality(
        min_words=1, min_stop_words=1, stop_words=("internationalisation", "é", "中文"), max_ellipsis_lines=0.0
    ),
]
REPETITIONS = [
    GopherRepetition(),
    GopherRepetition(
        max_duplicate_paragraphs=1.0, max_duplicate_paragraph_chars=0.5, max_duplicate_lines=1.0, max_top_ngrams=()
    ),
    GopherRepetition(
        max_duplicate_lines=1.0,
        max_duplicate_line_chars=1.0,
        max_top_ngrams=((3, 0.1),),
        max_duplicate_ngrams=((2, 0.4),),
    ),
    GopherRepetition(max_top_ngrams=((2, 1.0), (5, 0.3)), max_duplicate_ngrams=((3, 0.9), (4, 0.3), (9, 0.05))),
]


def batch(rows: list[str | None]) -> pa.RecordBatch:
    """The rows as a slice of a longer batch."""
    return pa.record_batch({"text": pa.array(["- the rest …", *rows, "\u2028"], pa.string())})[1 : len(rows) + 1]


@settings(deadline=None, max_examples=250)
@given(ROWS)
@example(["the of " * 30, "- a\n• b\r\n-c\u2028 d...\n e… \x85f", "....… . ... #"])
@example(["\u2026\xa0", "x\xa0\u2026", "à\x85à", "\u0085\u00a0", "…x…", "a\r", "\r\n", "a\n\r\nb"])
def test_quality_is_what_a_plain_reading_of_the_rules_says(rows):
    for rules in QUALITIES:
        assert rules.decide(batch(rows)).to_pylist() == [quality_by_hand(row, rules) for row in rows]


@settings(deadline=None, max_examples=250)
@given(ROWS)
@example(["\n", " ", "\na\n", "a\n\na", "\n\na\n\na\n\n", "a\n \na", "x"])
@example(["ab c d e f a bc d e f", "a b c d e " * 3, "é à \u2028 é à é à"])
def test_repetition_is_what_a_plain_reading_of_the_rules_says(rows):
    for rules in REPETITIONS:
        assert rules.decide(batch(rows)).to_pylist() == [repetition_by_hand(row, rules) for row in rows]


FILL = [f"word{chr(97 + k % 26)}{chr(97 + k // 26)}" for k in range(200)]  # words that no rule minds
PLAIN = "the of " + " ".join(FILL[:58])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PLAIN, None),
        ("the of " + " ".join(FILL[:48]), None),
        ("the of " + " ".join(FILL[:47]), "gopher_short_doc"),
        ("the of " + " ".join(FILL[:47]) + " ! … --", "gopher_short_doc"),  # symbols are no words
        ("the of " + "word " * 99_998, None),
        ("the of " + "word " * 99_999, "gopher_long_doc"),
        ("the " * 25 + "of " * 25 + "a " * 25, "gopher_below_avg_threshold"),
        ("the of " + "a" * 14 + " " + "abcdefghij " * 48, None),  # mean length 499 / 51
        ("the of " + "abcdefghijk " * 100, "gopher_above_avg_threshold"),
        (PLAIN + " #" * 6, None),  # 6 of 66 words
        (PLAIN + " #" * 7, "gopher_too_many_hashes"),
        (PLAIN + " a..." * 6 + " b", None),
        (PLAIN + " a...b…" * 4, "gopher_too_many_ellipsis"),
        (PLAIN + " a......" * 4, "gopher_too_many_ellipsis"),  # six dots are two
        (PLAIN + "\n- a" * 9, None),  # 9 of 10 lines
        (PLAIN + "\n • a" * 10, "gopher_too_many_bullets"),
        (PLAIN + "\nx…" + "\nx... \u3000" * 2 + "\nx" * 6, None),  # 3 of 10 lines
        (PLAIN + "\nx…" + "\nx... \u3000" * 2 + "\nx" * 5, "gopher_too_many_end_ellipsis"),
        (PLAIN + " 1990" * 15, None),  # 60 of 75 words
        (PLAIN + " 1990" * 16, "gopher_below_alpha_threshold"),
        ("the the The OF " + " ".join(FILL[:56]), "gopher_enough_stop_words"),
        ("the, of " + " ".join(FILL[:56]), "gopher_enough_stop_words"),
        ("the of, with " + " ".join(FILL[:56]), None),
        (None, "gopher_short_doc"),
        ("", "gopher_short_doc"),
    ],
)
def test_each_quality_threshold_is_the_published_one(text, reason):
    assert GopherQuality().decide(batch([text])).to_pylist() == [reason]


def passage(number: int, words: int = 10) -> str:
    return " ".join(f"p{number}w{k}" for k in range(words))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PLAIN, None),
        ("", "empty"),
        (None, "empty"),
        # short paragraphs, so that the share of characters stays low
        ("\n\n".join([passage(k) for k in range(7)] + ["z"] * 4), None),  # 3 of 11
        ("\n\n".join([passage(k) for k in range(7)] + ["z"] * 5), "dup_para_frac"),
        ("\n\n".join([passage(k) for k in range(7)] + [passage(0), passage(1)]), "dup_para_char_frac"),
        ("\n".join([passage(k) for k in range(7)] + ["z"] * 4), None),
        ("\n".join([passage(k) for k in range(7)] + ["z"] * 5), "dup_line_frac"),
        ("\n".join([passage(k) for k in range(7)] + [passage(0), passage(1)]), "dup_line_char_frac"),
        (" ".join(f"{w} one two" for w in FILL[:40]), "top_2_gram"),
        (" ".join(f"{w}{w} one two xyz" for w in FILL[:40]), "top_2_gram"),
        (" ".join(f"{w}{w}{w}{w} one two xyz" for w in FILL[:40]), "top_3_gram"),
        (" ".join(f"{w}{w}{w}{w}{w}{w} a b c de" for w in FILL[:40]), "top_4_gram"),
        (passage(0, 60) + " " + " ".join(passage(0, 60).split()[10:35]), "duplicated_5_n_grams"),
        # ten words again, twice: all of them at n = 10 and 5, fewer between
        (passage(0, 125) + f" x {passage(0)} y {passage(0)}", None),
        (passage(0, 105) + f" x {passage(0)} y {passage(0)}", "duplicated_10_n_grams"),
    ],
)
def test_each_repetition_rule_can_be_the_first_broken(text, reason):
    assert GopherRepetition().decide(batch([text])).to_pylist() == [reason]
    assert repetition_by_hand(text or "", GopherRepetition()) == reason


def test_a_long_text_of_few_words_is_counted_exactly():
    # every bucket, prefix and candidate is crowded here
    rows = ["a b " * 3000, " ".join("ab"[bin(k).count("1") % 2] for k in range(4096)), " ".join(map(str, range(4000)))]
    for rules in REPETITIONS:
        assert rules.decide(batch(rows)).to_pylist() == [repetition_by_hand(row, rules) for row in rows]


def test_a_repeated_n_gram_shorter_than_the_compared_prefix_is_found():
    # what follows "a b c d e" differs every time, so do the first bytes from there on
    text = " ".join(f"a b c d e {word}" for word in FILL)
    rules = REPETITIONS[1]
    assert repetition_by_hand(text, rules) == "duplicated_5_n_grams"
    assert rules.decide(batch([text])).to_pylist() == ["duplicated_5_n_grams"]


def test_the_same_letters_cut_into_other_words_are_another_top_n_gram():
    # "ab c" and "a bc" are 17 % of the text each; they are told apart, though they are one 2-gram without spaces
    text = " ".join(f"ab c {one} a bc {other}" for one, other in zip(FILL[:60:2], FILL[1:60:2], strict=True))
    assert repetition_by_hand(text, GopherRepetition()) is None
    assert GopherRepetition().decide(batch([text])).to_pylist() == [None]


def test_a_row_gets_the_same_answer_alone_in_any_order_and_as_large_string():
    rows = [PLAIN, "", "a b c d e " * 40, passage(0, 300), PLAIN + " 1990" * 16, "x\n" * 50]
    for work in (GopherQuality(), GopherRepetition(), LOOSE):
        together = work.decide(batch(rows)).to_pylist()
        assert together == [work.decide(batch([row]))[0].as_py() for row in rows]
        assert together[::-1] == work.decide(batch(rows[::-1])).to_pylist()
        assert together == work.decide(pa.record_batch({"text": pa.array(rows, pa.large_string())})).to_pylist()


def test_an_empty_batch_gives_no_reasons():
    for work in (GopherQuality(), GopherRepetition()):
        work.setup()
        reasons = work.decide(batch([]))
        assert (reasons.type, len(reasons)) == (pa.string(), 0)


def test_every_reason_is_named_once():
    assert len(set(QUALITY_REASONS)) == len(QUALITY_REASONS) == 10
    assert GopherRepetition().reasons[5:] == (
        *(f"top_{n}_gram" for n in (2, 3, 4)),
        *(f"duplicated_{n}_n_grams" for n in range(5, 11)),
    )


def test_punctuation_holds_controls_ascii_marks_and_no_bullet():
    assert {c for c in map(chr, range(128)) if not c.isalnum() and c not in "\t\n "} <= PUNCTUATION
    assert not {"\t", "\n", " ", "•", "a", "1", "中"} & PUNCTUATION
    assert {"…", "—", "。", "؟"} <= PUNCTUATION


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GopherQuality(min_words=0), "got 0, 100000, allowed 1 <= min_words <= max_words"),
        (lambda: GopherQuality(min_words=9, max_words=8), "got 9, 8"),
        (lambda: GopherQuality(max_mean_word_length=2), "got 3.0, 2, allowed 0 <= min_mean_word_length"),
        (lambda: GopherQuality(max_symbols_per_word=-0.1), "max_symbols_per_word: got -0.1"),
        (lambda: GopherQuality(max_symbols_per_word=float("nan")), "max_symbols_per_word: got nan"),
        (lambda: GopherQuality(max_bullet_lines=90), "max_bullet_lines: got 90, allowed 0 to 1"),
        (lambda: GopherQuality(max_ellipsis_lines=-1), "max_ellipsis_lines: got -1"),
        (lambda: GopherQuality(min_words_with_letter=1.1), "min_words_with_letter: got 1.1"),
        (lambda: GopherQuality(min_stop_words=9), "min_stop_words: got 9, allowed 0 to the number"),
        (lambda: GopherQuality(stop_words="the of"), "stop_words: got 'the of'"),
        (lambda: GopherQuality(stop_words=("in the",)), "words without whitespace"),
        (lambda: GopherQuality(stop_words=tuple(map(str, range(65)))), "allowed at most 64"),
        (lambda: GopherRepetition(max_duplicate_lines=2), "max_duplicate_lines: got 2"),
        (lambda: GopherRepetition(max_top_ngrams=((1, 0.2),)), "max_top_ngrams: got n = 1, allowed 2 to 64"),
        (lambda: GopherRepetition(max_duplicate_ngrams=((5, 15),)), "max_duplicate_ngrams, n = 5: got 15"),
        (lambda: GopherRepetition(max_duplicate_ngrams=((6, 0.1), (5, 0.1))), r"got n = \[6, 5\], allowed each n once"),
    ],
)
def test_bad_thresholds_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_both_are_picklable_values():
    for work in (LOOSE, REPETITIONS[3]):
        copy = pickle.loads(pickle.dumps(work))  # noqa: S301
        assert copy == work
        assert copy.decide(batch([PLAIN])).to_pylist() == work.decide(batch([PLAIN])).to_pylist()
    assert set(STOP_WORDS) == {"the", "be", "to", "of", "and", "that", "have", "with"}
