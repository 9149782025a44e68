"""How many requests are let go at once: what raises the limit, what lowers it, and that no slot is lost."""

import asyncio
import random

import pytest

from penstock.generators.aimd import AdaptiveLimit


def taken(limit):
    """As many tickets as are free now."""

    async def take():
        tickets = []
        while limit.running < int(limit.limit):
            tickets.append(await limit.take())
        return tickets

    return asyncio.run(take())


def test_busy_answers_of_one_moment_halve_the_limit_once():
    limit = AdaptiveLimit(16)
    first = taken(limit)
    assert len(first) == 16
    for ticket in first[:8]:
        limit.give(ticket, busy=True)
    assert limit.limit == 8.0
    assert taken(limit) == [], "eight are in flight still"
    for ticket in first[8:]:
        limit.give(ticket)
    later = taken(limit)
    assert len(later) == 8
    for ticket in later:
        limit.give(ticket, busy=True)
    assert limit.limit == 4.0


def test_a_round_of_answers_raises_the_limit_by_about_one_and_never_above_the_most():
    limit = AdaptiveLimit(6)
    for halved in (3.0, 1.5, 1.0, 1.0):
        ticket, *others = taken(limit)
        limit.give(ticket, busy=True)
        for other in others:
            limit.give(other)
        assert limit.limit == halved
    seen = []
    for _ in range(8):
        for ticket in taken(limit):
            limit.give(ticket, answered=True)
        seen.append(int(limit.limit))
    assert seen == [2, 2, 3, 4, 5, 6, 6, 6]
    assert limit.limit == 6.0


def test_a_failure_that_is_not_of_load_leaves_the_limit():
    limit = AdaptiveLimit(4)
    (*tickets,) = taken(limit)
    for ticket in tickets:
        limit.give(ticket)
    assert limit.limit == 4.0


@pytest.mark.parametrize("seed", range(20))
def test_under_any_order_of_answers_and_cancellations_the_limit_holds_and_nobody_waits_for_ever(seed):
    rng = random.Random(seed)

    async def scene():
        limit = AdaptiveLimit(5)

        async def one():
            ticket = await limit.take()
            assert limit.running <= 5
            try:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                limit.give(ticket, answered=rng.random() < 0.6, busy=rng.random() < 0.3)

        tasks = [asyncio.create_task(one()) for _ in range(60)]
        for _ in range(30):
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert limit.running == 0

    asyncio.run(scene())
