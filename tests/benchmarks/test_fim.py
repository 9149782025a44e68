"""Cuts of code, answers and counts of ``benchmarks.fim``."""

import numpy as np
import pytest

from benchmarks import fim, fim_arms, fim_data, fim_model
from benchmarks.fim_data import Source

CODE = """def average(values, weights):
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights)) / total


class Weighted:
    def __init__(self, weights):
        self.weights = weights

    def average_of(self, values):
        return average(values, self.weights)
"""


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("fim") / "vocabulary.json"
    fim_data.train_vocabulary([CODE] * 2, 400, path)
    return path


@pytest.fixture(scope="module")
def text(vocabulary):
    tokenizer, widths = fim_data.load_vocabulary(vocabulary), fim_data.widths_of(vocabulary)
    return fim_data.CodeText(Source("code.py", CODE), tokenizer, widths)


@pytest.fixture(scope="module")
def cuts(text):
    return text.inside_names(np.random.default_rng(0), 100)


def test_cuts_stand_inside_identifiers_and_holes_end_with_their_line(cuts):
    assert len(cuts) > 10
    for cut in cuts:
        prefix, suffix, wanted = cut.prefix.decode(), cut.suffix.decode(), cut.wanted.decode()
        line = prefix + wanted
        assert line in CODE
        assert wanted[:-1].isidentifier() or wanted[:-1].isalnum()
        assert wanted[-1] != "_"
        assert not wanted[-1].isalnum()
        assert prefix[-1].isidentifier()
        hole = CODE[CODE.index(line) + len(prefix) : CODE.index(suffix)]
        assert hole.startswith(wanted.rstrip())
        assert "\n" not in hole.rstrip("\n")  # empty lines after it may be one token with its end
        assert CODE[CODE.index(suffix) - 1] == "\n"


def test_a_cut_knows_whether_it_is_inside_a_token_and_how_many_must_be_taken_back(cuts, vocabulary):
    tokenizer = fim_data.load_vocabulary(vocabulary)
    widths, kinds = fim_data.widths_of(vocabulary), set()
    for cut in cuts:
        whole = tokenizer.encode(CODE[CODE.index(cut.prefix.decode()) :]).ids
        alone = tokenizer.encode(cut.prefix.decode()).ids
        kept = len(alone) - cut.back
        assert alone[:kept] == whole[:kept]
        assert cut.back == 0 or alone[kept] != whole[kept]
        assert cut.inside == (len(cut.prefix) not in np.cumsum(widths[whole]))
        kinds.add(min(cut.back, 2) if cut.inside else "boundary")
    assert {1, 2} <= kinds


def test_cuts_before_identifiers_are_between_tokens_and_want_the_whole_name(text):
    cuts = text.before_names(np.random.default_rng(0), 100)
    assert cuts
    for cut in cuts:
        assert (cut.inside, cut.back) == (False, 0)
        assert cut.wanted[:-1].decode().isidentifier()
        assert not cut.prefix[-1:].isalnum()
        assert not cut.prefix.endswith(b"_")


def test_training_rows_are_cut_between_tokens_and_hold_the_whole_window(vocabulary):
    schedule = fim_model.Schedule(vocabulary=400, steps=1, rows=64, length=112)
    long = Source("long.py", CODE * 6)
    rows = fim_model.Rows([long], vocabulary, schedule)
    tokenizer = fim_data.load_vocabulary(vocabulary)
    suffix, prefix = (tokenizer.token_to_id(name) for name in (fim_data.SUFFIX, fim_data.PREFIX))
    stream = tokenizer.encode(long.text).ids
    text = "," + ",".join(map(str, stream)) + ","
    holed = 0
    for row in rows.batch(1).tolist():
        assert row[0] == 0
        if row[1] != suffix:
            parts = [row[1:]]
        else:
            holed += 1
            middle = row.index(prefix)
            end = row.index(0, 1)
            parts = [row[middle + 1 : end] + row[2:middle], row[end + 1 :]]
        assert all("," + ",".join(map(str, part)) + "," in text for part in parts if part)
    assert 32 < holed < 64
    np.testing.assert_array_equal(rows.batch(3), rows.batch(3))
    assert (rows.batch(3) != rows.batch(4)).any()


@pytest.mark.parametrize(
    ("data", "part"),
    [(b"age(x", b"age("), (b"age", b"age"), (b"(x", b"("), (b"", b""), (b"a_1\n", b"a_1\n"), ("aé".encode(), b"a\xc3")],
)
def test_an_answer_ends_with_the_first_byte_that_is_no_part_of_an_identifier(data, part):
    assert fim_arms._first_part(data) == part


def test_paired_counts_and_points():
    one, other = [True] * 9 + [False], [True] + [False] * 8 + [True]
    assert fim.mcnemar(one, other) == (8, 1, pytest.approx(0.0390625))
    assert fim.mcnemar(one, one) == (0, 0, 1.0)
    assert fim.points(one, other) == pytest.approx(70.0)
