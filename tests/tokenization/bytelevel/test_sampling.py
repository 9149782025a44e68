"""Drawing bytes: settings, ends, seeds, and continuations that draw one cover and then tokens."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from penstock.errors import ConfigError
from penstock.tokenization.bytelevel.distributions import STOP
from penstock.tokenization.bytelevel.healing import prompt_tokens
from penstock.tokenization.bytelevel.sampling import Generated, Sampling, decode, generate, generate_tokens


def draws(log_probs, settings, count=20_000):
    """Shares of ``count`` draws from one row."""
    streams = [np.random.default_rng([3, i]) for i in range(count)]
    found = settings.choose(np.tile(log_probs, (count, 1)), streams)
    return np.bincount(found, minlength=len(log_probs)) / count


def test_draws_have_the_probabilities_of_the_row():
    expected = np.array([0.5, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        found = draws(np.log(expected), Sampling())
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert found[3] == 0.0


def test_a_temperature_flattens_and_top_p_cuts_after_it():
    p = np.array([0.6, 0.25, 0.1, 0.05])
    flat = p**0.5 / (p**0.5).sum()  # 0.426, 0.275, 0.174, 0.123
    np.testing.assert_allclose(draws(np.log(p), Sampling(temperature=2.0)), flat, atol=0.015)
    cut = np.where(flat > 0.2, flat, 0.0)  # the first two reach 0.7, the first alone does not
    found = draws(np.log(p), Sampling(temperature=2.0, top_p=0.7))
    np.testing.assert_allclose(found, cut / cut.sum(), atol=0.015)
    assert found[2:].tolist() == [0.0, 0.0]


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_likeliest_that_reach_it(weights, share):
    p = np.array(weights) / sum(weights)
    kept = set(np.flatnonzero(draws(np.log(p), Sampling(top_p=share), count=300)).tolist())
    order = np.argsort(-p, kind="stable")
    least = next(n for n in range(1, len(p) + 1) if p[order[:n]].sum() >= share - 1e-9 or n == len(p))
    assert kept <= set(order[:least].tolist())


def test_greedy_takes_the_likeliest_and_the_lower_of_equals():
    assert Sampling(temperature=0.0).choose(np.log([[0.2, 0.4, 0.4]]), []).tolist() == [1]


@pytest.fixture
def cycle(markov):
    """A model that goes a b c d STOP, each for certain."""
    table = np.full((256, 257), -np.inf)
    for last, symbol in zip([0, *b"abcd"], [*b"abcd", STOP], strict=True):
        table[last, symbol] = 0.0
    return markov(table)


def test_greedy_bytes_go_to_the_end_of_the_text(cycle):
    assert generate(cycle, [b"", b"ab"], Sampling(temperature=0.0)) == [
        [Generated(b"abcd", 0.0, "stop")],
        [Generated(b"cd", 0.0, "stop")],
    ]


@pytest.mark.parametrize(
    ("changes", "data", "end", "stop"),
    [
        ({"max_bytes": 2}, b"ab", "length", b""),
        ({"stop": ("c",)}, b"ab", "text", b"c"),
        ({"stop": (b"bc", "d")}, b"a", "text", b"bc"),
        ({"stop": ("abc", "bc")}, b"", "text", b"abc"),  # both end with c: the longer one
        ({"stop": ("xb", "d"), "max_bytes": 4}, b"abc", "text", b"d"),
        ({"stop": ("d",), "max_bytes": 3}, b"abc", "length", b""),
        ({"stop": ("e",)}, b"abcd", "stop", b""),
    ],
)
def test_a_row_ends_at_its_length_or_at_the_first_stop_text(cycle, changes, data, end, stop):
    ((found,),) = generate(cycle, [b""], Sampling(**changes))
    assert (found.data, found.end, found.stop, found.unit) == (data, end, stop, "byte")


def test_what_is_cut_in_a_character_is_shown_as_such():
    assert Generated("ä€".encode()[:-1], 0.0, "length").text == "ä\ufffd"


def test_a_result_does_not_depend_on_what_else_is_asked(markov):
    model = markov.random(0, alphabet=b"abc", stop=0.1)
    settings = Sampling(max_bytes=12, seed=4)
    together = generate(model, [b"a", b"b", b""], settings, samples=3)
    for prompt, found in zip([b"a", b"b", b""], together, strict=True):
        assert generate(model, [prompt], settings, samples=3) == [found]
        assert generate(model, [prompt], settings) == [found[:1]]
    assert len({one.data for one in together[0]}) > 1
    assert generate(model, [b"a"], Sampling(max_bytes=12, seed=5), samples=3) != [together[0]]


def test_samples_of_a_prompt_read_it_once(markov):
    model = markov.random(0)
    generate(model, [b"abba"], Sampling(max_bytes=3), samples=5)
    assert model.started == [b"abba"]


def test_the_log_probability_is_that_of_what_was_drawn_without_the_temperature(markov):
    model = markov.random(1, alphabet=b"abc", stop=0.1)
    for (found,) in generate(model, [b"a", b"b"], Sampling(temperature=0.5, top_p=0.9, max_bytes=6, stop=("cc",))):
        assert found.logprob < 0
    ((found,),) = generate(model, [b"a"], Sampling(temperature=0.5, max_bytes=6))
    state = model.start([b"a"])
    begun = state.prefix_logprob[0]
    for symbol in [*found.data, *([STOP] if found.end == "stop" else [])]:
        state.advance([symbol])
    assert found.logprob == pytest.approx(state.prefix_logprob[0] - begun, abs=1e-12)


def test_drawn_texts_have_the_models_probabilities(markov):
    model = markov.random(2, stop=0.4)
    count = 4000
    (found,) = generate(model, [b""], Sampling(max_bytes=2), samples=count)
    shares = {}
    for one in found:
        shares[one.data, one.end] = shares.get((one.data, one.end), 0) + 1 / count
    for data in map(bytes, itertools.chain.from_iterable(itertools.product(b"ab", repeat=n) for n in range(3))):
        state = model.start([data])
        p = np.exp(state.prefix_logprob[0] + (0.0 if len(data) == 2 else state.log_probs()[0, STOP]))
        assert shares.get((data, "length" if len(data) == 2 else "stop"), 0.0) == pytest.approx(p, abs=0.03)


def test_no_prompts_have_no_continuations(markov):
    assert generate(markov.random(0), [], Sampling()) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"max_bytes": 0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"stop": ("",)},
        {"stop": "abc"},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Sampling(**bad)


def chi_square(found, expected):
    """p-value of counts of texts against their probabilities; what is expected less than 5 times counts together."""
    count = sum(found.values())
    often = {text: p for text, p in expected.items() if p * count >= 5}
    observed = [found.get(text, 0) for text in often]
    wanted = [p * count for p in often.values()]
    rest = count - sum(wanted)
    return chisquare([*observed, count - sum(observed)], [*wanted, rest]).pvalue


def test_a_drawn_cover_and_tokens_have_the_distribution_of_bytes(toy):
    prompt, length, count = b"ca", 2, 3000
    (found,) = generate_tokens(toy, [prompt], Sampling(max_bytes=length, seed=2), samples=count)
    expected = {}
    for n in range(length + 1):
        for data in map(bytes, itertools.product(b"abc", repeat=n)):
            p = toy.probability(prompt + data) if n == length else toy.whole(prompt + data)
            expected[data, "length" if n == length else "stop"] = p / toy.probability(prompt)
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-12)
    counts = collections.Counter((one.data, one.end) for one in found)
    assert set(counts) <= {one for one, p in expected.items() if p > 0}
    assert chi_square(counts, expected) > 1e-3
    # prompting with the encoding of the prompt is another distribution: the same test refuses it
    (naive,) = prompt_tokens(toy, [prompt], Sampling(max_bytes=length, seed=2), samples=count)
    assert chi_square(collections.Counter((one.data, one.end) for one in naive), expected) < 1e-6


def test_tokens_cost_one_call_each_after_the_cover(toy):
    state = toy.start([b"a"])
    covers, _ = state.covers(0)
    before = toy.calls
    (found,) = decode(toy, covers[:1], Sampling(max_bytes=6, seed=3), [np.random.default_rng(0)], begun=[0.0])
    drawn = len(found.token_ids) - len(covers[0].token_ids) + (found.end == "stop")
    assert toy.calls - before == drawn


def test_a_continuation_by_tokens_says_what_it_read_and_its_probability(toy):
    prompts = [b"c", b"ca", b""]
    found = generate_tokens(toy, prompts, Sampling(max_bytes=5, temperature=1.7, top_p=0.9))
    for prompt, (one,) in zip(prompts, found, strict=True):
        assert one.unit == "token"
        assert toy.valid(one.token_ids)
        text = b"".join(toy.token_bytes[i] for i in one.token_ids)
        assert text.startswith(prompt + one.data)
    ((found,),) = generate_tokens(toy, [b"ca"], Sampling(max_bytes=4))
    covers, log_probs = toy.start([b"ca"]).covers(0)
    pick = next(i for i, cover in enumerate(covers) if list(found.token_ids[: len(cover.token_ids)]) == cover.token_ids)
    total = log_probs[pick]
    ids = list(found.token_ids)
    for at in range(len(covers[pick].token_ids), len(ids)):
        total += toy.next_tokens([ids[:at]])[0][0, ids[at]]
    if found.end == "stop":
        total += toy.next_tokens([ids])[1][0]
    assert found.logprob == pytest.approx(total, abs=1e-12)


def test_greedy_tokens_take_the_likeliest_cover(toy):
    ((found,),) = generate_tokens(toy, [b"ca"], Sampling(max_bytes=1, temperature=0.0))
    covers, log_probs = toy.start([b"ca"]).covers(0)
    best = covers[int(np.argmax(log_probs))]
    assert list(found.token_ids[: len(best.token_ids)]) == list(best.token_ids)


def test_a_language_models_drawn_cover_and_tokens_have_the_distribution_of_its_bytes(byte_models):
    model, _ = byte_models
    prompt, count = b"the threa", 1500
    (found,) = generate_tokens(model, [prompt], Sampling(max_bytes=2, seed=4), samples=count)
    counts = collections.Counter(one.data + b"." * (one.end == "stop") for one in found)
    first = np.exp(model.start([prompt]).log_probs()[0])
    expected = {}
    # a likely next byte is followed one further, all others count by themselves
    for byte in np.flatnonzero(first[:STOP] * count >= 20).tolist():
        after = np.exp(model.start([prompt + bytes([byte])]).log_probs()[0])
        expected |= {bytes([byte, second]): first[byte] * after[second] for second in range(STOP)}
    assert chi_square(counts, {text: p for text, p in expected.items() if p > 0}) > 1e-3
    (naive,) = prompt_tokens(model, [prompt], Sampling(max_bytes=2, seed=4), samples=count)
    assert chi_square(collections.Counter(one.data for one in naive), expected) < 1e-6
