"""The published algorithm on rows small enough to merge by hand."""

import pytest

from penstock.errors import ConfigError
from penstock.tokenization.dynamic.recount import recount_merges


def test_the_most_frequent_pair_is_merged_until_none_occurs_often_enough():
    rows, merges = recount_merges([[b"a", b"b", b"c"], [b"a", b"b"], [b"b", b"c"]], None, minimum=2)
    assert [(one.pair, one.occurrences, one.applied) for one in merges] == [((b"a", b"b"), 2, 2)]
    assert rows == [[b"ab", b"c"], [b"ab"], [b"b", b"c"]]


def test_overlapping_occurrences_count_and_the_left_one_is_merged():
    rows, merges = recount_merges([[b"a"] * 5], 1)
    assert (merges[0].occurrences, merges[0].applied) == (4, 2)
    assert rows == [[b"aa", b"aa", b"a"]]


def test_ties_go_to_the_lower_pair_or_to_the_first_met():
    rows = [[b"y", b"z"], [b"a", b"b"]]
    assert recount_merges(rows, 1)[1][0].pair == (b"a", b"b")
    assert recount_merges(rows, 1, tie="first_met")[1][0].pair == (b"y", b"z")
    with pytest.raises(ConfigError, match="tie: got 'last'"):
        recount_merges(rows, 1, tie="last")


def test_tokens_without_bytes_and_pairs_that_are_not_valid_are_left():
    rows = [[b"a", None, b"a", b" b"]]
    assert recount_merges(rows, None, valid=lambda joined: b" " not in joined)[0] == rows
    assert recount_merges(rows, None)[0] == [[b"a", None, b"a b"]]
