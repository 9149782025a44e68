"""Rows kept in bounded memory are the rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.cache import RowCache


class Lengths:
    """A provider whose row is the token's bytes summed, and its length."""

    width = 2

    def __init__(self, key="lengths", scale=1.0, dtype=torch.float32):
        self.key, self._scale, self._dtype = key, scale, dtype
        self.asked = []

    def rows(self, tokens):
        self.asked += tokens
        values = [[sum(token) * self._scale, float(len(token))] for token in tokens]
        return torch.tensor(values, dtype=self._dtype).reshape(-1, 2)


TOKENS = st.lists(st.sampled_from([bytes([97 + i]) * (i + 1) for i in range(6)]), max_size=12)


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(TOKENS, max_size=6), capacity=st.integers(1, 7), overflow=st.sampled_from(["split", "bypass"]))
def test_cached_rows_are_the_computed_ones_whatever_the_capacity(batches, capacity, overflow):
    cache, provider = RowCache(capacity, overflow), Lengths()
    for tokens in batches:
        assert torch.equal(cache.rows(tokens, provider), Lengths().rows(tokens))
        assert len(cache) <= capacity


def test_a_token_is_computed_once():
    cache, provider = RowCache(4), Lengths()
    cache.rows([b"a", b"b", b"a"], provider)
    cache.rows([b"b", b"c"], provider)
    assert provider.asked == [b"a", b"b", b"c"]
    assert (cache.hits, cache.misses) == (1, 3)


def test_the_least_recently_used_goes_first_and_none_of_the_batch_at_hand():
    cache, provider = RowCache(3), Lengths()
    cache.rows([b"a", b"b", b"c"], provider)
    cache.rows([b"a"], provider)
    cache.rows([b"d", b"b"], provider)  # c goes: a was used after it, b is in this batch
    assert [("lengths", token) in cache for token in (b"a", b"b", b"c", b"d")] == [True, True, False, True]


def test_a_batch_that_holds_more_than_the_cache_is_split_bypassed_or_refused():
    tokens = [b"a", b"b", b"c"]
    for overflow in ("split", "bypass"):
        cache, provider = RowCache(2, overflow), Lengths()
        assert torch.equal(cache.rows(tokens, provider), Lengths().rows(tokens))
        assert (("lengths", b"c") in cache) is (overflow == "split")
        assert provider.asked == tokens
    with pytest.raises(InputError, match="got 3 different new tokens in one batch, allowed 2"):
        RowCache(2, "refuse").rows(tokens, Lengths())


def test_providers_share_a_cache_without_mixing_rows():
    cache = RowCache(4)
    one = cache.rows([b"a"], Lengths("one"))
    other = cache.rows([b"a"], Lengths("other", scale=2.0))
    assert torch.equal(other[:, 0], 2 * one[:, 0])
    assert torch.equal(cache.rows([b"a"], Lengths("one")), one)


def test_rows_of_another_type_are_refused():
    cache = RowCache(4)
    cache.rows([b"a"], Lengths())
    with pytest.raises(ConfigError, match="take a cache for each model"):
        cache.rows([b"b"], Lengths("half", dtype=torch.float16))


def test_no_tokens_give_no_rows():
    assert RowCache(4).rows([], Lengths()).shape == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"), [({"capacity": 0}, "capacity: got 0"), ({"overflow": "x"}, "overflow")]
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RowCache(**options)
