"""pytest tests/tokenization/bytelevel/test_pretokens.py"""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from penstock.errors import ConfigError
from penstock.tokenization.bytelevel.characters import CODE_POINTS, Classes, Utf8, digits, members, punctuation
from penstock.tokenization.bytelevel.patterns import compile_pattern
from penstock.tokenization.bytelevel.pretokens import CUTS, DEAD, PretokenStates, Splitter
from penstock.tokenization.bytelevel.reading import GPT2_PATTERN

SETS = ["a", "b", "[ab]", "[^a]", r"\s", " ", r"\p{N}", r"\S", "."]
TIMES = ["", "", "?", "*", "+", "{1,2}", "{2}", "{2,}", "+?", "*?", "?+", "*+", "++"]
LOOKS = ["", "", "(?!a)", "(?=b)", r"(?!\S)", r"(?=(?:\p{N}{2})+(?!\p{N}))", "(?!(?:ab)+ )"]
BEHAVIOURS = sorted(CUTS)

solid = st.builds(str.__add__, st.sampled_from(SETS), st.sampled_from([t for t in TIMES if t[:1] not in ("?", "*")]))
items = st.builds(str.__add__, st.sampled_from(SETS), st.sampled_from(TIMES))
groups = st.builds(
    lambda parts, times: f"(?:{'|'.join(parts)}){times}",
    st.lists(solid, min_size=1, max_size=2),
    st.sampled_from(TIMES[:9]),
)
sequences = st.builds(
    lambda one, parts, at, look: "".join([*parts[:at], one, *parts[at:]]) + look,
    solid,
    st.lists(st.one_of(items, groups), max_size=2),
    st.integers(0, 2),
    st.sampled_from(LOOKS),
)
patterns = st.builds("|".join, st.lists(sequences, min_size=1, max_size=4))
texts = st.text("ab1 \n", max_size=9)


def states_of(*stages):
    programs = [compile_pattern(pattern) for pattern, _ in stages]
    held = [members(text) for program in programs for text in program.sets]
    classes = Classes.by(held)
    splitters, at = [], 0
    for program, (_, behaviour) in zip(programs, stages, strict=True):
        splitters.append(Splitter(program, classes.sets[at : at + len(program.sets)], behaviour))
        at += len(program.sets)
    everything = np.ones(CODE_POINTS, dtype=bool)
    return PretokenStates(splitters, classes, everything, ~everything)


def cuts_of(states, text):
    """All ways to cut a text that may be right when it ends here."""
    found = {(): states.start}
    for number, character in enumerate(text):
        following = {}
        for cuts, state in found.items():
            for cut, after in ((False, state), (True, states.opened(state))):
                for byte in character.encode():
                    after = states.step(after, byte)
                if after != DEAD:
                    following[(*cuts, number) if cut else cuts] = after
        found = following
    return [cuts for cuts, state in found.items() if states.may_end(state)]


def library_cuts(text, *stages):
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), behaviour) for p, behaviour in stages])
    return tuple(begin for _, (begin, _) in splitter.pre_tokenize_str(text))


def same_cuts(text, *stages):
    assert cuts_of(states_of(*stages), text) == [library_cuts(text, *stages)]


@settings(max_examples=50, deadline=None)
@given(patterns, st.sampled_from(BEHAVIOURS), st.lists(texts, min_size=3, max_size=6))
@example(r"\s+(?!\S)|\s+", "isolated", ["a   b", "a   ", "  \n a", " "])
@example("(?:ab){1,2}|a|b+?", "isolated", ["ababab", "abb"])
def test_the_only_way_to_cut_a_whole_text_is_the_librarys(pattern, behaviour, some):
    try:
        states = states_of((pattern, behaviour))
    except ConfigError as error:
        assume("empty" not in str(error))
        raise
    for text in some:
        assert cuts_of(states, text) == [library_cuts(text, (pattern, behaviour))]


@settings(max_examples=20, deadline=None)
@given(patterns, patterns, st.sampled_from(BEHAVIOURS), texts)
def test_a_second_stage_cuts_the_pieces_of_the_first(one, other, behaviour, text):
    try:
        states = states_of((one, "isolated"), (other, behaviour))
    except ConfigError as error:
        assume("empty" not in str(error))
        raise
    assert cuts_of(states, text) == [library_cuts(text, (one, "isolated"), (other, behaviour))]


def after(states, text, *cuts):
    """The state after a text that is cut before these places."""
    state = states.start
    for place, byte in enumerate(text):
        state = states.step(states.opened(state) if place in (0, *cuts) else state, byte)
    return state


class TestOpenEnds:
    """What is not decided before the text goes on."""

    def test_the_last_of_several_spaces_may_belong_to_the_next_word(self):
        states = states_of((GPT2_PATTERN, "isolated"))
        assert cuts_of(states, "a   ") == [(0, 1)]
        assert cuts_of(states, "a   b") == [(0, 1, 3)]
        # before the end is known both are open
        together, apart = after(states, b"a   ", 1), after(states, b"a   ", 1, 3)
        assert states.may_end(together)
        assert not states.may_end(apart)
        assert states.step(apart, ord("b")) != DEAD
        assert states.step(together, ord("b")) == states.step(states.opened(together), ord("b")) == DEAD

    def test_groups_of_digits_from_the_right_move_with_every_digit(self):
        pattern = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
        states = states_of((pattern, "isolated"))
        assert [cuts_of(states, "1234567"[:n]) for n in (3, 4, 5, 7)] == [[(0,)], [(0, 1)], [(0, 2)], [(0, 1, 4)]]

    def test_half_a_character_keeps_what_its_whole_could_mean(self):
        states = states_of((GPT2_PATTERN, "isolated"))
        inside = after(states, b"a\xc3")
        assert states.inside(inside)
        assert not states.may_end(inside)
        assert states.step(inside, 0xA9) != DEAD  # é goes on with the word
        assert states.step(inside, 0x97) == DEAD  # × does not
        assert states.step(after(states, b"a\xc3", 1), 0x97) != DEAD

    def test_bytes_that_are_no_utf8_lead_nowhere(self):
        states = states_of((GPT2_PATTERN, "isolated"))
        for data in (b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"):
            assert after(states, data) == DEAD


class TestRefusals:
    @pytest.mark.parametrize(
        ("pattern", "named"),
        [
            ("(?<=a)b", r"the group \(\?<="),
            ("(?>a+)b", r"the group \(\?>"),
            ("^a", r"the anchor \^"),
            ("a$", r"the anchor \$"),
            (r"\ba", r"the escape \\b"),
            (r"(a)\1", r"the escape \\1"),
            ("(?:ab)++", "a possessive repetition of more than one set"),
            ("(?:a?)*b", "a repetition of what may be empty"),
            ("a{2000}", "more than 1000 times"),
            ("a{2}?b", "a lazy exact repetition"),
            ("(a", "a group that is not closed"),
            ("a)", r"an unmatched \)"),
        ],
    )
    def test_what_cannot_be_followed_is_named(self, pattern, named):
        with pytest.raises(ConfigError, match=named):
            compile_pattern(pattern)

    def test_a_pattern_that_matches_nothing_is_refused(self):
        with pytest.raises(ConfigError, match="matches the empty text"):
            states_of(("a*", "isolated"))


class TestCharacters:
    @given(st.lists(st.characters(codec="utf-8"), min_size=50, max_size=200))
    @settings(deadline=None, max_examples=10)
    def test_utf8_leads_every_character_to_its_class(self, characters):
        classes = Classes.by([members(r"\p{L}"), members(r"\s"), members("(?i:s)")])
        utf8 = Utf8.of(classes.of)
        for character in characters:
            node = 0
            for byte in character.encode():
                assert node >= 0
                ahead = utf8.ahead[node] if node else -1
                node = int(utf8.step[node, byte])
            assert -2 - node == classes.of[ord(character)]
            assert len(character.encode()) == 1 or ahead >> (-2 - node) & 1

    def test_sets_are_those_of_the_librarys_own_expressions(self):
        # the long s folds to s
        assert np.flatnonzero(members("(?i:s)")).tolist() == [ord("S"), ord("s"), ord("ſ")]
        assert members(".").sum() == CODE_POINTS - 2048 - 1  # all but surrogates and the line feed

    @pytest.mark.parametrize(
        ("held", "splitter"), [(digits, pre_tokenizers.Digits), (punctuation, pre_tokenizers.Punctuation)]
    )
    def test_digits_and_punctuation_are_those_of_the_library(self, held, splitter):
        for character in "a1²३½!-«$+。_ \n—¿🯳":
            pieces = splitter().pre_tokenize_str(f"a{character}a")
            assert held()[ord(character)] == (len(pieces) > 1)
