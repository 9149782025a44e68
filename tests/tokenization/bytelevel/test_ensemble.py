"""Ensembles on byte distributions: their arithmetic, states, and ensembles of a model with itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel.distributions import STOP, read
from penstock.tokenization.bytelevel.ensemble import Ensemble


@pytest.fixture(scope="session")
def models(markov):
    return tuple(markov.random(seed) for seed in range(3))


def probabilities(source, prompt=b"ab"):
    return np.exp(source.start([prompt]).log_probs()[0])


def test_the_mean_is_the_weighted_sum_of_probabilities(models):
    a, b, _ = models
    found = probabilities(Ensemble.mean([a, b], [3, 1]))
    np.testing.assert_allclose(found, 0.75 * probabilities(a) + 0.25 * probabilities(b), rtol=1e-12)


def test_the_product_is_the_weighted_geometric_mean_normalised(models):
    a, b, _ = models
    found = probabilities(Ensemble.product([a, b], [3, 1]))
    expected = probabilities(a) ** 0.75 * probabilities(b) ** 0.25
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_proxy_tuning_moves_the_base_by_what_tuning_changed(models):
    a, b, c = models
    found = probabilities(Ensemble.proxy(a, b, c, alpha=0.5))
    pa, pb, pc = (probabilities(one)[[97, 98, STOP]] for one in (a, b, c))
    expected = pa * (pb / pc) ** 0.5
    np.testing.assert_allclose(found[[97, 98, STOP]], expected / expected.sum(), rtol=1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("rule", [Ensemble.mean, Ensemble.product], ids=["mean", "product"])
@pytest.mark.parametrize("copies", [1, 3])
def test_an_ensemble_of_a_model_with_itself_is_the_model(models, rule, copies):
    a, *_ = models
    state, alone = rule([a] * copies).start([b"", b"ba"]), a.start([b"", b"ba"])
    for symbols in ([97, 98], [98, STOP], [STOP, STOP]):
        np.testing.assert_allclose(np.exp(state.log_probs()), np.exp(alone.log_probs()), atol=1e-14)
        state.advance(symbols)
        alone.advance(symbols)
    expected = alone.prefix_logprob - a.start([b"", b"ba"]).prefix_logprob
    np.testing.assert_allclose(state.prefix_logprob, expected, atol=1e-12)


def test_proxy_tuning_with_an_expert_that_was_not_tuned_is_the_base(models):
    a, b, _ = models
    np.testing.assert_allclose(probabilities(Ensemble.proxy(a, b, b, alpha=2.0)), probabilities(a), atol=1e-14)


@given(st.lists(st.sampled_from([97, 98]), max_size=6), st.floats(0.0, 1.0))
def test_probabilities_of_every_step_sum_to_one_and_chain_to_the_text(models, text, share):
    a, b, c = models
    ensemble = Ensemble.mean([a, Ensemble.product([b, c])], [1 - share, share])
    state = ensemble.start([b""])
    total = 0.0
    for symbol in [*text, STOP]:
        found = state.log_probs()[0]
        assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-12)
        total += found[symbol]
        state.advance([symbol])
    assert state.prefix_logprob[0] == pytest.approx(total, abs=1e-12)
    assert read(ensemble, [bytes(text)], stop=True)[0].sum() == pytest.approx(total, abs=1e-12)


def test_rows_that_are_over_stay_over_and_the_others_go_on(models):
    a, b, _ = models
    state = Ensemble.mean([a, b]).start([b"a", b"b"])
    state.advance([STOP, 97])
    found = state.log_probs()
    assert found[0, STOP] == 0.0
    assert np.isneginf(found[0, :STOP]).all()
    np.testing.assert_allclose(np.exp(found[1]), (probabilities(a, b"ba") + probabilities(b, b"ba")) / 2, atol=1e-14)


def test_a_fork_goes_on_apart_from_what_it_was_taken_from(models):
    a, b, _ = models
    state = Ensemble.mean([a, b]).start([b"a", b"b"])
    before = state.log_probs()
    fork = state.fork([1, 1, 0])
    fork.advance([97, 98, 97])
    np.testing.assert_array_equal(state.log_probs(), before)
    assert fork.size == 3
    expected = Ensemble.mean([a, b]).start([b"ba", b"bb", b"aa"]).log_probs()
    np.testing.assert_allclose(fork.log_probs(), expected, atol=1e-12)


def test_a_member_of_weight_0_says_nothing_even_where_it_excludes_a_symbol(models, markov):
    a, *_ = models
    only_a = markov.random(4, alphabet=b"a")
    for rule in (Ensemble.mean, Ensemble.product):
        np.testing.assert_allclose(probabilities(rule([a, only_a], [1, 0])), probabilities(a), atol=1e-14)


def test_members_of_a_product_that_allow_nothing_in_common_are_refused(markov):
    members = [markov.random(0, alphabet=b"a", stop=1e-300), markov.random(0, alphabet=b"b", stop=1e-300)]
    for member in members:
        member.table[:, STOP] = -np.inf
    with pytest.raises(InputError, match="no symbol in common"):
        Ensemble.product(members).start([b""]).log_probs()
    assert np.exp(Ensemble.mean(members).start([b""]).log_probs()).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")]], ids=str)
def test_what_are_no_weights_is_refused(models, weights):
    a, b, _ = models
    with pytest.raises(ConfigError, match="weights"):
        Ensemble.mean([a, b], weights)


def test_no_members_and_no_finite_alpha_are_refused(models):
    a, b, c = models
    with pytest.raises(ConfigError, match="no members"):
        Ensemble.product([])
    with pytest.raises(ConfigError, match="alpha"):
        Ensemble.proxy(a, b, c, alpha=float("inf"))


def test_read_gives_texts_of_any_lengths_their_own_values(models):
    a, *_ = models
    texts = [b"", b"ab", b"a", "ba"]
    found = read(a, texts, stop=True)
    assert [len(one) for one in found] == [1, 3, 2, 3]
    for text, values in zip(texts, found, strict=True):
        np.testing.assert_allclose(values, read(a, [text], stop=True)[0], atol=1e-14)
        state = a.start([text])
        assert values.sum() == pytest.approx(state.prefix_logprob[0] + state.log_probs()[0, STOP])
    assert read(a, []) == []


def test_a_member_that_cannot_have_the_text_is_left_out_of_its_row(models, markov):
    a, *_ = models
    no_b = markov.random(4, alphabet=b"a")
    state = Ensemble.mean([a, no_b]).start([b"a", b"a"])
    both = state.log_probs()
    state.advance([98, 97])
    state.advance([97, 97])
    np.testing.assert_allclose(np.exp(state.log_probs()[0]), probabilities(a, b"aba"), atol=1e-14)
    expected = (probabilities(a, b"aaa") + probabilities(no_b, b"aaa")) / 2
    np.testing.assert_allclose(np.exp(state.log_probs()[1]), expected, atol=1e-14)
    fork = state.fork([1, 0, 0])
    fork.advance([97, 98, 97])
    both_follow = (probabilities(a, b"aaaa") + probabilities(no_b, b"aaaa")) / 2
    expected = [both_follow, probabilities(a, b"abab"), probabilities(a, b"abaa")]
    np.testing.assert_allclose(np.exp(fork.log_probs()), expected, atol=1e-14)
    assert state.prefix_logprob[0] == pytest.approx(both[0, 98] + np.log(probabilities(a, b"ab")[97]))


def test_a_symbol_that_no_member_allows_and_symbols_for_other_rows_are_refused(models):
    a, b, _ = models
    state = Ensemble.mean([a, b]).start([b"a", b"a"])
    with pytest.raises(InputError, match="row 1: got symbol 99, which has probability 0"):
        state.advance([97, 99])
    with pytest.raises(InputError, match="got 1, allowed one for each of 2"):
        state.advance([97])


@pytest.mark.parametrize("rule", [Ensemble.mean, Ensemble.product], ids=["mean", "product"])
def test_a_language_model_with_itself_is_the_model_and_stop_stays_stop(byte_models, rule):
    model, _ = byte_models
    prompts = [b"the rea", b"isn'", b"to"]
    state, alone = rule([model, model]).start(prompts), model.start(prompts)
    for symbols in (b"d t", b"ert", [32, 104, STOP]):
        np.testing.assert_allclose(state.log_probs(), alone.log_probs(), atol=1e-9)
        state.advance(list(symbols))
        alone.advance(list(symbols))
    assert state.log_probs()[2, STOP] == 0.0


def test_models_of_different_vocabularies_add_up_symbol_by_symbol(byte_models):
    one, other = byte_models
    found = probabilities(Ensemble.mean([one, other], [1, 3]), b"the thre")
    np.testing.assert_allclose(
        found, 0.25 * probabilities(one, b"the thre") + 0.75 * probabilities(other, b"the thre"), atol=1e-12
    )
    ((values,), (alone,)) = (
        read(Ensemble.mean(byte_models), [b"the red"], stop=True),
        read(one, [b"the red"], stop=True),
    )
    assert len(values) == 8
    assert alone.sum() == pytest.approx(one.logprob([b"the red"], stop=True)[0], abs=1e-6)
