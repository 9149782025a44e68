"""A step that drops nearly everything stops. Run: pytest tests/selectors/test_guard.py"""

import pytest

from penstock.dataset import Counts
from penstock.errors import DropGuardError
from penstock.selectors.guard import check_drops


def counts(rows_in, made=0, **dropped):
    total = sum(sum(reasons.values()) for reasons in dropped.values())
    return Counts(rows_in, made, rows_in + made - total, dropped)


def check(counts, stats=None, **allowed):
    check_drops("documents", counts, stats or {}, allowed)


def test_the_message_names_work_share_reasons_and_what_allows_it():
    gone = {"short": 900, "long": 60, "odd": 9, "rare": 1}
    with pytest.raises(DropGuardError) as error:
        check(counts(2000, gopher=gone), {"row_work": {"gopher": [1000, 30]}})
    assert str(error.value) == (
        "documents: gopher dropped 97.0% of 1,000 rows (short 900, long 60, odd 9, …), allowed 95.0%; mend it, or "
        "allow it with --set max_dropped.gopher=1 (nothing was committed; the rows read are kept, so such a rerun goes "
        "on from here)"
    )


@pytest.mark.parametrize(
    ("rows", "dropped", "share", "stops"),
    [
        (1000, 950, None, False),
        (1000, 951, None, True),
        (99, 99, None, False),  # too few rows to tell
        (100, 100, None, True),
        (100, 96, None, True),
        (100, 100, 1.0, False),
        (100, 1, 0.0, True),
        (100, 0, 0.0, False),
        (1000, 500, 0.5, False),
        (1000, 501, 0.5, True),
    ],
)
def test_a_larger_share_of_a_hundred_rows_or_more_stops(rows, dropped, share, stops):
    allowed = {} if share is None else {"work": share}
    found = counts(10 * rows, work={"bad": dropped})
    stats = {"row_work": {"work": [rows, rows - dropped]}}
    if stops:
        with pytest.raises(DropGuardError, match="documents: work dropped"):
            check(found, stats, **allowed)
    else:
        check(found, stats, **allowed)


def test_the_default_is_for_all_that_have_no_share_of_their_own():
    found = counts(1000, a={"bad": 300}, b={"bad": 300})
    stats = {"row_work": {"a": [1000, 700], "b": [700, 400]}}
    check(found, stats)
    with pytest.raises(DropGuardError, match=r"documents: a dropped 30\.0%"):
        check(found, stats, default=0.2)
    with pytest.raises(DropGuardError, match=r"documents: b dropped 42\.9%"):
        check(found, stats, default=0.2, a=0.3)
    check(found, stats, default=0.2, a=0.3, b=0.43)


def test_a_source_is_judged_by_its_own_records():
    found = counts(10_000, **{"source.files": {"not_json": 200}})
    stats = {"sources": {"files": {"rows": 200, "bytes": 0}, "other": {"rows": 9800, "bytes": 9}}}
    with pytest.raises(DropGuardError, match=r"documents: files dropped 100.0% of 200 rows \(not_json 200\)"):
        check(found, stats)
    check(found, stats, files=1)


def test_what_no_row_work_counted_is_judged_by_the_rows_of_the_step():
    found = counts(1000, exact_duplicates={"exact_duplicate": 960})
    with pytest.raises(DropGuardError, match=r"exact_duplicates dropped 96.0% of 1,000 rows"):
        check(found)
    check(found, exact_duplicates=1)


def test_a_step_is_judged_as_a_whole_but_for_what_has_a_share_of_its_own():
    found = counts(900, made=100, a={"x": 600}, b={"y": 360})
    stats = {"row_work": {"a": [1000, 400], "b": [400, 40]}}
    with pytest.raises(
        DropGuardError, match=r"^documents dropped 96.0% of 1,000 rows \(a.x 600, b.y 360\), allowed 95"
    ):
        check(found, stats)
    check(found, stats, documents=0.96)
    check(found, stats, b=1)
    with pytest.raises(DropGuardError, match=r"documents dropped 36.0%"):
        check(found, stats, a=1, documents=0.3)


def test_what_a_selection_leaves_out_is_no_drop():
    check(counts(1000, selection={"not_selected": 999}))
    check(counts(0))


def test_a_benchmark_is_judged_by_its_own_records_under_its_own_name():
    found = counts(2000, **{"benchmark.quiz": {"invalid_json": 190}})
    stats = {"benchmarks": {"quiz": {"items": 5}, "exam": {"items": 1805}}}
    with pytest.raises(DropGuardError, match=r"documents: quiz dropped 97.4% of 195 rows .*--set max_dropped.quiz=1 "):
        check(found, stats)
    check(found, stats, quiz=1)
