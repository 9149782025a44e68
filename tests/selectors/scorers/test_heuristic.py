"""The heuristic composite: each statistic against plain Python, its curves, and what moves the score."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.scorers.heuristic import CURVES, FLOOR, STOP_WORDS, HeuristicScore, composite

WORK = HeuristicScore()
MARKS = set(".!?:;\u2026\u3002\"')]\u201d\u2019")


def score(*texts, work=WORK):
    batch = pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})
    return work.annotate(batch)["score.heuristic"].to_pylist()


def statistics(text, work=WORK):
    return {name: float(values[0]) for name, values in work.statistics(pa.array([text], pa.string())).items()}


def by_hand(text):
    """The statistics by ``str`` methods; stop words count whole words, ASCII capitals apart."""
    words = text.split()
    lines = [line for line in text.splitlines() if line.split()]
    small = ["".join(c.lower() if c.isascii() else c for c in word) for word in words]
    length = [sum(map(len, line.split())) for line in lines]
    characters = sum(map(len, words))
    runs = [tuple(small[i : i + 3]) for i in range(len(words) - 2)]
    seen, repeated = set(), 0
    for line, size in zip(lines, length, strict=True):
        key = tuple("".join(c.lower() if c.isascii() else c for c in w) for w in line.split())
        repeated += size if key in seen else 0
        seen.add(key)
    return {
        "words": len(words),
        "stop_words": sum(w in STOP_WORDS for w in small) / len(words) if words else math.nan,
        "alphabetic": sum(c.isalpha() for w in words for c in w) / characters if words else math.nan,
        "word_length": characters / len(words) if words else math.nan,
        "line_ends": sum(line.split()[-1][-1] in MARKS for line in lines) / len(lines) if words else math.nan,
        "repeated_lines": repeated / characters if words else math.nan,
        "repeated_trigrams": 1 - len(set(runs)) / len(runs) if runs else math.nan,
    }


PIECES = st.sampled_from(
    ["the", "The", "mill", "Wasser", "cafe\u0301", "\u4e2d\u6587", "12.5", "end.", "so?\"", "wait\u2026", "(no)", " ",
     "  ", "\n", "\r\n", "\n\n", "\t", "\u2028", "\u3000", "x" * 30, "\U0001f600", "a", "of"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(PIECES, max_size=60))
def test_statistics_are_those_of_plain_python(pieces):
    text = "".join(piece if piece.isspace() else piece + " " for piece in pieces)
    found = statistics(text)
    for name, wanted in by_hand(text).items():
        assert found[name] == pytest.approx(wanted, nan_ok=True), name


PROSE = (
    "The water of the river turns the wheel, and the miller knows that it will be enough for this year. He has written "
    "to the council about the bridge, but nobody has answered him so far.\nIn the evening his daughter reads the "
    "letters again. She thinks that one of them was never sent, which would explain why there is still no answer.\n"
    "When the winter comes they have to leave the house for some weeks, as the ice makes the path too dangerous to use."
)


def test_prose_is_near_one_and_what_is_not_prose_is_far_below():
    (prose,) = score(PROSE)
    assert prose > 0.85
    for other in (
        "buy cheap pills online free shipping " * 40,  # repeats
        "\n".join(["Home", "About", "Contact", "Login", "Search"] * 12),  # navigation
        " ".join(f"{i:08x}" for i in range(120)),  # codes
        "a1 b2 c3 d4 " * 30,
        "".join(chr(33 + (7 * i * i) % 90) for i in range(900)),  # noise
        "yes",
    ):
        assert score(other)[0] < 0.6 < prose, other[:40]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda t: t.replace("e", "#").replace("a", "3"),
        lambda t: "\n".join([t.splitlines()[0]] * 6),
        lambda t: t.replace(" ", ""),
        lambda t: " ".join(w for w in t.split() if w.lower().strip(".,") not in STOP_WORDS),
        lambda t: " ".join(t.split()[:4]),
        lambda t: t.replace(".", " ").replace("?", " "),
    ],
    ids=["characters", "lines", "no spaces", "no stop words", "short", "no marks"],
)
def test_each_kind_of_damage_costs_score(spoilt):
    assert score(spoilt(PROSE))[0] < score(PROSE)[0] - 0.01


def test_a_text_without_a_word_has_no_score():
    assert score("", " \n\t ", None) == [None, None, None]


def test_curves_rise_and_fall_between_zero_and_one_and_each_reaches_one():
    for name, points in CURVES.items():
        x, y = np.array(points).T
        assert (np.diff(x) > 0).all(), name
        assert y.max() == 1.0 > y.min() >= 0.0, name


def test_the_score_is_the_geometric_mean_of_the_curves():
    found = WORK.statistics(pa.array([PROSE]))
    values = [max(np.interp(found[name][0], *np.array(points).T), FLOOR) for name, points in CURVES.items()]
    assert len(values) == 8
    assert score(PROSE)[0] == pytest.approx(math.prod(values) ** (1 / 8), abs=1e-4)
    assert composite(found)[0] == pytest.approx(math.prod(values) ** (1 / 8))


def test_without_stop_words_the_statistic_is_left_out():
    german = "Das Wasser treibt die Muehle an und der Mueller schreibt einen Brief an den Rat der Stadt. " * 3
    plain = HeuristicScore(stop_words=())
    assert math.isnan(statistics(german, plain)["stop_words"])
    assert score(german, work=plain)[0] > score(german)[0]
    own = HeuristicScore(stop_words=("das", "die", "und", "der", "einen", "an", "den"))
    assert statistics(german, own)["stop_words"] > 0.4


def test_only_the_prefix_counts_and_a_character_is_not_cut():
    short = HeuristicScore(prefix_bytes=100)
    assert score(PROSE[:100] + "$" * 5000, work=short) == score(PROSE[:100], work=short)
    for size in range(1, 20):
        cut = HeuristicScore(prefix_bytes=size)
        text = "\u4e2d\U0001f600" * 9
        assert statistics(text, cut)["words"] == (1 if size >= 3 else 0)


def test_compressibility_tells_repetition_and_noise_from_text():
    assert math.isnan(statistics("too short to tell")["compressed"])
    assert statistics("abc " * 300)["compressed"] < 0.05
    assert 0.4 < statistics(PROSE)["compressed"] < 0.75
    noise = "".join(chr(33 + int(i)) for i in np.random.default_rng(0).integers(0, 90, 2000))
    assert statistics(noise)["compressed"] > 0.8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_words": "the"}, "heuristic stop_words: got 'the'"),
        ({"stop_words": ("The",)}, "allowed words in lower case"),
        ({"stop_words": ("of the",)}, "without whitespace"),
        ({"prefix_bytes": 0}, "heuristic prefix_bytes: got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        HeuristicScore(**given)
