"""When a server is given up: by a clock that the test turns."""

import pytest

from penstock.errors import InputError
from penstock.generators.breaker import Breaker
from penstock.model_server import TryAgain

BUSY = TryAgain("status 429 (quota)", busy=True)
GONE = TryAgain("no answer (ConnectError: refused)", unreachable=True)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker("model server http://a/v1, model m", 60.0, clock)


def test_it_opens_after_its_patience_and_three_refusals(breaker, clock):
    breaker.refused(BUSY)
    clock.now += 61
    breaker.refused(BUSY)
    with pytest.raises(InputError, match=r"http://a/v1, model m: got nothing but refusals for 61 s.*429 \(quota\)"):
        breaker.refused(BUSY)


def test_an_answer_closes_it_and_its_patience_begins_anew(breaker, clock):
    for _ in range(10):
        for _ in range(5):
            breaker.refused(BUSY)
            clock.now += 11
        breaker.answered()
    breaker.refused(BUSY)
    clock.now += 59
    breaker.refused(BUSY)
    breaker.refused(BUSY)


def test_where_there_was_never_a_connection_two_seconds_are_enough(breaker, clock):
    breaker.refused(GONE)
    clock.now += 1.9
    breaker.refused(GONE)
    breaker.refused(GONE)
    clock.now += 0.1
    with pytest.raises(InputError, match=r"ConnectError.*allowed a server that speaks OpenAI's API; start one with"):
        breaker.refused(GONE)


@pytest.mark.parametrize("connected", [Breaker.answered, lambda breaker: breaker.refused(BUSY)])
def test_a_server_that_was_there_may_be_away_for_a_while(breaker, clock, connected):
    connected(breaker)
    for _ in range(5):
        breaker.refused(GONE)
        clock.now += 11
    clock.now += 10
    with pytest.raises(InputError, match="nothing but refusals"):
        breaker.refused(GONE)
