"""Tables of bins against numpy's search, and domains that are encoded once a batch."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.seeding import stream
from penstock.selectors import histogram
from penstock.selectors.histogram import StepTable, domain_index, domains_of


def table_of(runs, bits):
    offsets = np.cumsum([0, *map(len, runs)]).astype(np.int64)
    return StepTable.of(offsets, np.concatenate(runs).astype(np.uint32), bits)


def by_search(runs, group, code):
    """Position of the last bin <= code among its group's, its first one if none is; -1 for group -1."""
    starts = np.cumsum([0, *map(len, runs)])
    out = []
    for g, c in zip(group, code, strict=True):
        found = -1 if g < 0 else starts[g] + max(np.searchsorted(runs[g], c, side="right") - 1, 0)
        out.append(found)
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 22).flatmap(
        lambda bits: st.tuples(
            st.just(bits),
            st.lists(st.sets(st.integers(0, 2**bits - 1), min_size=1, max_size=40), min_size=1, max_size=4),
            st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2**bits - 1)), max_size=40),
        )
    ),
    st.sampled_from([2**24, 2**10, 2**4]),
)
def test_bins_are_found_as_by_search_with_a_fine_and_with_a_coarse_index(given, entries):
    bits, runs, asked = given
    runs = [np.array(sorted(run)) for run in runs]
    group = np.array([min(g, len(runs) - 1) for g, _ in asked], dtype=np.int32)
    code = np.array([c for _, c in asked], dtype=np.uint32)
    before = histogram._INDEX_ENTRIES
    histogram._INDEX_ENTRIES = entries
    try:
        table = table_of(runs, bits)
    finally:
        histogram._INDEX_ENTRIES = before
    wanted = by_search(runs, group, code)
    assert table.find(group, code).tolist() == wanted
    values = np.arange(sum(map(len, runs)), dtype=np.float32)
    one, other = table.look_up(group, code, np.stack((values, values * 2), axis=1))
    known = np.array(wanted, dtype=float)
    known[known < 0] = 0
    np.testing.assert_array_equal(one, known)
    np.testing.assert_array_equal(other, known * 2)


def test_scores_of_four_digits_are_found_without_a_search():
    assert table_of([np.arange(0, 2**22, 500)], 22).shift == 0
    assert table_of([np.array([1])] * 64, 22).shift > 0, "the index of many groups would take too much memory"


def test_domains_are_those_of_the_batch_at_hand_however_memory_is_reused():
    rng = stream(0, "domains")
    for null in [5] * 3 + [-1] * 9:
        # of this size, and without nulls, the allocator gives what was just freed to the next column
        numbers = rng.integers(0, 6, 3000)
        column = pa.array(numbers, mask=numbers == null if null >= 0 else None).cast(pa.string())
        for part in (column, column.slice(7), column.slice(0, 7), column):
            batch = pa.RecordBatch.from_arrays([part], ["domain"])
            wanted = part.to_pylist()
            for _ in range(2):
                found, place = domains_of(batch)
                assert [found[i] or None for i in place] == wanted
                index = domain_index(batch["domain"], ["1", "3"])
                assert [(None, "1", "3")[i + 1] for i in index] == [v if v in ("1", "3") else None for v in wanted]
        del column, batch, part
