"""Layouts of prefix and suffix, and middles between them."""

import numpy as np
import pytest

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel.distributions import STOP
from penstock.tokenization.bytelevel.infilling import InfillLayout, infill, middle_logprob
from penstock.tokenization.bytelevel.sampling import Sampling

SPM = InfillLayout("<S>{suffix}<P>{prefix}")


def test_the_prefix_flows_into_the_middle_where_it_ends_the_prompt():
    assert SPM.prompt("def f", "\n") == b"<S>\n<P>def f"
    assert SPM.flows
    assert SPM.sentinels == (b"<S>", b"<P>")
    psm = InfillLayout("<P>{prefix}<S>{suffix}<M>")
    assert psm.prompt(b"\xe2\x82", "b") == b"<P>\xe2\x82<S>b<M>"
    assert not psm.flows
    assert not InfillLayout("<P>{suffix}<S>{prefix}<M>").flows


def test_braces_and_fields_in_the_texts_stay_as_they_are():
    assert SPM.prompt("{suffix}", "{prefix}{}") == b"<S>{prefix}{}<P>{suffix}"


@pytest.mark.parametrize(
    "template", ["{prefix}", "{prefix}{suffix}", "<a>{prefix}<b>{prefix}", "", "{suffix}{prefix}<m>"]
)
def test_a_template_without_both_fields_apart_is_refused(template):
    with pytest.raises(ConfigError, match="layout"):
        InfillLayout(template)


@pytest.mark.parametrize(("prefix", "suffix", "side"), [("a<P>b", "", "prefix"), ("", b"<S>", "suffix")])
def test_a_text_that_spells_a_sentinel_is_refused(prefix, suffix, side):
    with pytest.raises(InputError, match=f"a {side} that spells"):
        SPM.prompt(prefix, suffix)


def test_middles_stand_between_their_sides_and_end_at_stop(markov):
    table = np.full((256, 257), -np.inf)
    table[:, ord("!")] = 0.0
    table[ord("x"), ord("y")] = table[ord("y"), STOP] = 0.0
    table[ord("x"), ord("!")] = table[ord("y"), ord("!")] = -np.inf
    table[0, ord("<")] = 0.0
    found = infill(markov(table), [("ax", "z"), ("bx", b"\xff")], SPM, Sampling(temperature=0.0), samples=2)
    assert [[one.data for one in row] for row in found] == [[b"axyz"] * 2, [b"bxy\xff"] * 2]
    assert {one.middle.end for row in found for one in row} == {"stop"}


def test_the_log_probability_of_a_middle_is_that_of_its_bytes_and_stop(markov):
    model = markov.random(3)
    holes, middles = [("a", "b"), ("b", "a"), ("", "")], [b"ab", b"", "b"]
    found = middle_logprob(model, holes, middles, SPM)
    for (prefix, suffix), middle, value in zip(holes, middles, found, strict=True):
        state = model.start([SPM.prompt(prefix, suffix)])
        total = 0.0
        for symbol in [*(middle.encode() if isinstance(middle, str) else middle), STOP]:
            total += state.log_probs()[0, symbol]
            state.advance([symbol])
        assert value == pytest.approx(total, abs=1e-12)
    assert middle_logprob(model, [], [], SPM).shape == (0,)
    with pytest.raises(ConfigError, match="1 middles for 3 holes"):
        middle_logprob(model, holes, ["a"], SPM)
