"""The record of rounds: which one is current, what was tried, and how it is read and written."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import DatasetError
from penstock.refreshing.config import Accept
from penstock.refreshing.ledger import ROUNDS, Files, HeldOut, Ledger, Made, Round
from penstock.refreshing.verdict import verdict
from penstock.storage import Folder


def made(number, base, state, accepted, **more):
    return Round(
        number=number, base=base, state=state, why="files", files=Files(total=3, new=1, changed=0, removed=0), rows=9,
        tokens=99, first_step=0, last_step=12, accepted=accepted, reason="because", **more,
    )  # fmt: skip


def test_the_last_accepted_round_is_current_and_what_was_rejected_since_is_not_made_again():
    ledger = Ledger()
    assert (ledger.current, ledger.last, ledger.tried("a")) == (None, None, False)
    ledger = ledger.with_round(made(1, None, "a", True))
    assert (ledger.current.number, ledger.tried("a"), ledger.tried("b"), ledger.read_by_none()) == (
        1,
        True,
        False,
        True,
    )
    ledger = ledger.with_round(made(2, 1, "b", False))
    assert (ledger.current.number, ledger.last.number, ledger.read_by_none()) == (1, 2, False)
    assert [ledger.tried(state) for state in "abc"] == [True, True, False]
    ledger = ledger.with_round(made(3, 1, "c", True))
    # b was rejected beside another model, and a is older data: both may be better now
    assert (ledger.current.number, ledger.tried("c"), ledger.tried("b"), ledger.tried("a")) == (3, True, False, False)
    assert ledger.read_by_none()


def test_a_ledger_is_read_as_it_was_written_and_a_damaged_one_is_not_begun_anew(tmp_path):
    root = Folder(str(tmp_path))
    assert Ledger.load(root) == Ledger()
    losses = (
        HeldOut(split="new", sequences=4, tokens=60, before=3.0, after=math.inf, difference=math.inf, error=None),
    )
    items = Made(wanted=5, accepted=3, gain=0.5, threshold=None, reason="patience")
    ledger = Ledger((made(1, None, "a", True, push_to="there"), made(2, 1, "b", False, losses=losses, made=items)))
    ledger.save(root)
    assert Ledger.load(root) == ledger
    assert json.loads((tmp_path / ROUNDS).read_text())["current"] == "round-0001"
    sent = ledger.sent()
    assert [one.sent for one in sent.rounds] == [True, False]
    text = (tmp_path / ROUNDS).read_text()
    for damaged in (text[:100], text.replace('"accepted": true', '"accepted": false'), "[]", '{"format": 1}'):
        (tmp_path / ROUNDS).write_text(damaged)
        with pytest.raises(DatasetError, match=r"rounds\.json: damaged .*begin anew with another --out"):
            Ledger.load(root)


def loss(split, difference, error=0.1):
    return HeldOut(
        split=split, sequences=9, tokens=90, before=3.0, after=3.0 + difference, difference=difference, error=error
    )


@pytest.mark.parametrize(
    ("accept", "new", "old", "accepted"),
    [
        ({}, loss("new", -0.1), loss("old", 0.0), True),
        ({}, loss("new", -0.1), loss("old", 1e-9), False),
        ({"held_out": "new"}, loss("new", -0.1), loss("old", 5.0), True),
        ({"held_out": "old"}, loss("new", 5.0), loss("old", -0.1), True),
        ({"held_out": "old"}, loss("new", -5.0), loss("old", 0.1), False),
        ({"tolerance": 0.2}, loss("new", 0.1), loss("old", 0.2), True),
        ({"tolerance": -0.2}, loss("new", -0.1), loss("old", -0.3), False),
        ({"errors": 2.0}, loss("new", -0.19), loss("old", -0.3), False),
        ({"errors": 2.0}, loss("new", -0.21), loss("old", -0.3), True),
        ({"errors": -2.0}, loss("new", 0.19), loss("old", 0.2), True),
        ({"errors": 2.0}, loss("new", -9.0, None), loss("old", -9.0), False),  # one sequence tells no error
        ({"errors": -2.0}, loss("new", -9.0, None), loss("old", -9.0), False),
        ({}, loss("new", math.nan), loss("old", -9.0), False),
    ],
)
def test_a_model_is_taken_where_it_is_no_worse_by_the_rule(accept, new, old, accepted):
    assert verdict((new, old), Accept(**accept))[0] is accepted


def test_the_verdict_tells_what_decided_it():
    _, why = verdict((loss("new", -0.1), loss("old", 0.05)), Accept(errors=1.0))
    assert why == (
        "old sequences: loss 3.0000 to 3.0500, difference +0.0500 ± 0.1000, 1 standard errors added +0.1500; "
        "allowed up to +0.0000"
    )


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_what_both_splits_ask_is_what_each_asks_alone(new, old, tolerance):
    def rule(of):
        return verdict((loss("new", new), loss("old", old)), Accept(held_out=of, tolerance=tolerance))[0]

    assert rule("both") == (rule("new") and rule("old"))
