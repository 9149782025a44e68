"""Streams and coins."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.seeding import coins, derive, hash_ids, mix64, rehash, stream


def test_streams_of_neighbouring_seeds_and_indices_differ():
    drawn = {tuple(stream(seed, index).integers(0, 2**32, 4)) for seed in range(8) for index in range(8)}
    assert len(drawn) == 64


def test_a_stream_is_the_same_whenever_it_is_made():
    assert stream(3, "a", 1).integers(0, 2**62) == stream(3, "a", 1).integers(0, 2**62)
    assert derive(3, "a") != derive(3, "b")


def test_id_hashes_are_the_first_eight_bytes_of_blake2b():
    expected = int.from_bytes(hashlib.blake2b(b"books#7", digest_size=8).digest(), "little")
    assert hash_ids(["books#7"]).tolist() == [expected]


def test_mix64_is_the_published_finaliser():
    # first outputs of splitmix64 from state 0 are mix64 of multiples of the golden ratio
    golden = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], dtype=np.uint64)
    assert mix64(golden).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(0, 2**64 - 1))
def test_coins_lie_in_the_unit_interval_and_belong_to_the_row(hashes, seed):
    ids = np.array(hashes, dtype=np.uint64)
    whole = coins(ids, seed, "x")
    assert ((whole >= 0) & (whole < 1)).all()
    assert whole.tolist() == [coins(ids[i : i + 1], seed, "x")[0] for i in range(len(ids))]


def test_the_largest_hash_does_not_round_up_to_one():
    assert (np.array([2**64 - 1], dtype=np.uint64) >> np.uint64(11)).astype(np.float64)[0] * 2.0**-53 < 1.0


def test_coins_are_uniform_and_independent_between_paths():
    ids = hash_ids(str(i) for i in range(20_000))
    one, two = coins(ids, 0, "a"), coins(ids, 0, "b")
    assert abs(one.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert (rehash(ids, 0) != ids).all()
