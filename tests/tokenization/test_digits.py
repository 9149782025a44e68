"""pytest tests/tokenization/test_digits.py"""

import json

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from penstock.errors import ConfigError
from penstock.tokenization import bpe
from penstock.tokenization.digits import LEFT_TO_RIGHT, RIGHT_TO_LEFT, group_from_the_right

# the pattern of Singh and Strouse, which looks to the end of the run at every group
PUBLISHED = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))"


def pieces(text, pattern=RIGHT_TO_LEFT):
    cutter = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return [text[start:stop] for _, (start, stop) in cutter.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1234567", ["1", "234", "567"]),
        ("1234", ["1", "234"]),
        ("123456", ["123", "456"]),
        ("12345", ["12", "345"]),
        ("7", ["7"]),
        ("42", ["42"]),
        ("3.14159", ["3", ".", "14", "159"]),
        ("x1000y٣٤٥٦", ["x", "1", "000", "y", "٣", "٤٥٦"]),
    ],
)
def test_digits_are_grouped_from_the_right(text, expected):
    assert pieces(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789٣½a. ", max_size=40))
def test_the_groups_are_those_of_the_published_pattern(text):
    published = [match for match in regex.split(f"({PUBLISHED})", text, flags=regex.V1) if match]
    assert pieces(text) == published


def test_a_run_of_a_million_digits_is_cut_in_threes_by_the_library():
    run = "1234567890" * 100_000
    found = pieces(run)
    assert [len(piece) for piece in found] == [1] + [3] * 333_333
    assert "".join(found) == run


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 1_000_000, 1_000_001, 1_000_002])
def test_a_trained_tokenizer_groups_runs_of_any_length(count):
    trained = bpe.train_bpe(["12 345 6789"] * 3, bpe.BPEConfig(vocabulary_size=262, digits="right_to_left"))
    from penstock.tokenization.pieces import count_pieces

    # the compiled loops cut as the expression in the file does
    assert RIGHT_TO_LEFT in json.loads(trained)["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    found = count_pieces(["5" * count + "x"], from_right=True)
    data = found.data.tobytes()
    lengths = {data[a:b]: int(n) for a, b, n in zip(found.offsets[:-1], found.offsets[1:], found.counts, strict=True)}
    expected = {b"x": 1}
    expected |= {b"5" * 3: count // 3} if count >= 3 else {}
    expected |= {b"5" * (count % 3): 1} if count % 3 else {}
    assert lengths == expected


def test_a_tokenizer_with_groups_from_the_left_can_be_turned():
    left = bpe.train_bpe(["12 345 6789"] * 3, bpe.BPEConfig(vocabulary_size=262))
    turned = group_from_the_right(left)
    assert json.loads(turned)["pre_tokenizer"] == bpe.state_of(bpe.pre_tokenizer("right_to_left"))
    assert json.loads(turned)["model"] == json.loads(left)["model"]
    assert Tokenizer.from_buffer(turned).decode(Tokenizer.from_buffer(turned).encode("1234567").ids) == "1234567"
    # one step alone, as some files have it
    lone = Tokenizer(models.BPE())
    lone.pre_tokenizer = pre_tokenizers.Split(Regex(LEFT_TO_RIGHT + r"|\s+"), behavior="isolated")
    state = json.loads(group_from_the_right(lone.to_str().encode()))
    assert state["pre_tokenizer"]["pattern"]["Regex"] == RIGHT_TO_LEFT + r"|\s+"


def test_a_tokenizer_without_such_groups_is_refused():
    single = Tokenizer(models.BPE())
    single.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
    for tokenizer in (single, Tokenizer(models.BPE())):
        with pytest.raises(ConfigError, match=r"got a tokenizer without .* in its pre-tokenizer"):
            group_from_the_right(tokenizer.to_str().encode())


def test_an_unknown_grouping_is_refused():
    with pytest.raises(ConfigError, match="digits: got 'middle', allowed left_to_right, right_to_left"):
        bpe.BPEConfig(digits="middle")
