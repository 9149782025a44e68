"""A table from a wanted reduction to a number of merges."""

import numpy as np
import pytest

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.calibration import CalibrationTable, calibrate

BATCHES = [["low lower lowest", "the lowest bridge"], ["newer newest", "newest low"]]


def table(lengths=(10.0, 8.0, 7.0, 5.0), least=4.0):
    return CalibrationTable(lengths=lengths, least=least, rows=8, boundary="word", words="whitespace", minimum=2)


def test_reduction_is_a_share_of_the_base_length_or_of_what_is_possible():
    assert table().reduction(0) == 0.0
    assert table().reduction(3) == 50.0
    assert table().reduction(3, of="possible") == pytest.approx(100 * 5 / 6)
    assert table(lengths=(10.0, 4.0)).reduction(1, of="possible") == 100.0
    assert table().reduction(99) == table().reduction(3)


def test_the_fewest_merges_that_save_enough_are_chosen():
    assert [table().merges_for(percent) for percent in (0, 0.1, 20, 21, 30, 50)] == [0, 1, 1, 2, 2, 3]
    assert table().merges_for(50, of="possible") == 2


@pytest.mark.parametrize(("percent", "of"), [(51, "base"), (84, "possible"), (-1, "base")])
def test_what_cannot_be_reached_is_refused_with_what_can(percent, of):
    with pytest.raises(ConfigError, match=rf"reduction: got {percent} % of {of}, allowed 0 to"):
        table().merges_for(percent, of)


def test_an_unknown_share_is_refused():
    with pytest.raises(ConfigError, match="of: got 'words', allowed base, possible"):
        table().reduction(1, of="words")


def test_the_measured_lengths_are_those_of_batches_with_so_many_merges(base):
    tokenizer = DynamicTokenizer(base, minimum=1)
    found = calibrate(tokenizer, BATCHES)
    for merges, length in enumerate(found.lengths):
        assert length == pytest.approx(np.concatenate([tokenizer.encode(b, merges).lengths for b in BATCHES]).mean())
    assert found.reduction(len(found.lengths), of="possible") == pytest.approx(100.0)
    assert found.least == pytest.approx(np.mean([3, 3, 2, 2]))
    assert found.rows == 2


def test_a_table_survives_its_file():
    assert CalibrationTable.from_json(table().to_json()) == table()
    with pytest.raises(InputError, match="calibration table"):
        CalibrationTable.from_json("{}")


def test_batches_that_it_does_not_describe_are_refused(base):
    with pytest.raises(ConfigError, match="per_sample or tie first_met"):
        calibrate(DynamicTokenizer(base, per_sample=True), BATCHES)
    with pytest.raises(InputError, match="got no rows"):
        calibrate(DynamicTokenizer(base), [[]])
