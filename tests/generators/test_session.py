"""A session asks once, keeps what comes, counts, and stops at its budget, whoever answers first."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BudgetError, ConfigError, InputError, StorageError
from penstock.generators.answers import AnswerStore
from penstock.generators.base import Completion, Request, Usage
from penstock.generators.budget import Budget
from penstock.generators.prices import Prices
from penstock.generators.session import ModelSession


class Groups:
    """Answers a group at a time; a prompt "7 …" uses 7 tokens to be read and 2 to be written."""

    identity = {"kind": "fake", "model": "tiny"}
    group = 3

    def __init__(self):
        self.asked = []

    def setup(self):
        pass

    def answer(self, request):
        self.asked.append(request.prompt)
        if "bad" in request.prompt:
            return Completion(error="status 400: bad")
        usage = Usage(prompt_tokens=int(request.prompt.split()[0]), completion_tokens=2)
        return Completion(text=request.prompt.upper(), usage=usage)

    async def complete(self, requests):
        return [self.answer(request) for request in requests]


class OneAtATime(Groups):
    """Answers one by one, in an order of its own."""

    width = 4

    def __init__(self, order=0):
        super().__init__()
        self.random = random.Random(order)
        self.flying = self.most = 0

    @asynccontextmanager
    async def connect(self):
        async def ask(request):
            self.flying += 1
            self.most = max(self.most, self.flying)
            answer = self.answer(request)
            for _ in range(self.random.randrange(6)):
                await asyncio.sleep(0)
            self.flying -= 1
            return answer

        yield ask


KINDS = [Groups, OneAtATime]


def requests(*prompts, **settings_):
    return [Request(prompt=prompt, max_tokens=settings_.get("max_tokens", 2)) for prompt in prompts]


def store(folder):
    return AnswerStore(path=str(folder / "a.sqlite"))


def complete(session, wanted):
    return asyncio.run(session.complete(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_come_in_the_order_of_the_requests_and_one_of_equal_ones_is_asked(kind, tmp_path):
    model = kind()
    session = ModelSession(model, store=store(tmp_path))
    found = complete(session, requests("1 a", "2 b", "1 a", "3 bad", "4 d", "5 e"))
    assert [one.text or one.error for one in found] == ["1 A", "2 B", "1 A", "status 400: bad", "4 D", "5 E"]
    assert sorted(model.asked) == ["1 a", "2 b", "3 bad", "4 d", "5 e"]
    counts = session.meter.counts()
    assert counts.pop("latency")
    assert counts == {
        "requests": 6, "kept": 1, "asked": 5, "uncounted": 0, "prompt_tokens": 12, "completion_tokens": 8,
        "failed": {"status 400": 1},
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_session_asks_only_what_is_new_and_what_failed(kind, tmp_path):
    complete(ModelSession(kind(), store=store(tmp_path)), requests("1 a", "2 bad"))
    model = kind()
    session = ModelSession(model, store=store(tmp_path))
    complete(session, requests("1 a", "2 bad", "3 c"))
    assert model.asked == ["2 bad", "3 c"]
    assert (session.meter.requests, session.meter.kept, session.meter.asked) == (3, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_store_every_call_asks_anew(kind):
    model = kind()
    session = ModelSession(model)
    for _ in range(2):
        complete(session, requests("1 a", "1 a"))
    assert model.asked == ["1 a"] * 2


def test_one_at_a_time_as_many_as_wide_are_in_flight():
    model = OneAtATime()
    complete(ModelSession(model), requests(*(f"1 {i}" for i in range(30))))
    assert model.most == 4


def test_an_error_for_all_is_raised_as_it_is_and_what_came_before_is_kept(tmp_path):
    class Failing(OneAtATime):
        width = 1

        def answer(self, request):
            if len(self.asked) == 3:
                raise InputError("no such model")
            return super().answer(request)

    wanted = requests("1 a", "2 b", "3 c", "4 d", "5 e")
    with pytest.raises(InputError, match="no such model"):
        complete(ModelSession(Failing(), store=store(tmp_path)), wanted)
    model = OneAtATime()
    complete(ModelSession(model, store=store(tmp_path)), wanted)
    assert sorted(model.asked) == ["4 d", "5 e"]


def test_a_store_that_breaks_meanwhile_stops_the_call(tmp_path):
    class Breaking(OneAtATime):
        def answer(self, request):
            with store(tmp_path).open() as other:
                other.execute("DROP TABLE answers")
            return super().answer(request)

    with pytest.raises(StorageError, match="answers cannot be kept there"):
        complete(ModelSession(Breaking(), store=store(tmp_path)), requests("1 a"))


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [0, 1, 4, 7])
def test_a_budget_of_requests_is_used_up_exactly_and_the_rest_is_asked_with_a_larger_one(kind, most, tmp_path):
    wanted = requests(*(f"1 {i}" for i in range(8)))
    model = kind()
    session = ModelSession(model, store=store(tmp_path), budget=Budget(max_requests=most))
    with pytest.raises(BudgetError, match=rf"got {most} requests spent .* allowed {most}; .*raise max_requests"):
        complete(session, wanted)
    assert sorted(model.asked) == [f"1 {i}" for i in range(most)]
    assert session.meter.asked == most
    more = kind()
    session = ModelSession(more, store=store(tmp_path), budget=Budget(max_requests=8 - most))
    assert all(one.error is None for one in complete(session, wanted)), "answers of the store cost nothing"
    assert sorted(more.asked) == [f"1 {i}" for i in range(most, 8)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_counts_all_calls_of_a_session(kind):
    session = ModelSession(kind(), budget=Budget(max_requests=3))
    complete(session, requests("1 a", "1 b"))
    complete(session, requests("1 c"))
    with pytest.raises(BudgetError):
        complete(session, requests("1 d"))


def by_hand(prompts, max_tokens, budget, price):
    """Prompts that are asked: each if what those before it used and the most it may use are within the budget."""
    used, asked = [0, 0], []
    for prompt in prompts:
        most = (len(prompt.encode()) + 8, max_tokens)
        over = budget.max_tokens is not None and sum(used) + sum(most) > budget.max_tokens
        sums = [used[0] + most[0], used[1] + most[1]]
        over |= budget.max_cost is not None and (sums[0] * price[0] + sums[1] * price[1]) / 1e6 > budget.max_cost
        if over:
            return asked
        asked.append(prompt)
        used = [used[0] + int(prompt.split()[0]), used[1] + 2]
    return asked


@settings(max_examples=60, deadline=None)
@given(
    used=st.lists(st.integers(1, 9), max_size=14),
    bound=st.integers(0, 150),
    money=st.booleans(),
    kind=st.sampled_from(KINDS),
    order=st.integers(0, 10**6),
)
def test_what_a_budget_lets_go_is_a_matter_of_order_and_not_of_who_answers_first(used, bound, money, kind, order):
    prompts = [f"{tokens} number {place}" for place, tokens in enumerate(used)]
    price = (2.0, 3.0)
    budget = Budget(max_cost=bound * 3e-6) if money else Budget(max_tokens=bound)
    model = kind() if kind is Groups else kind(order)
    prices = Prices.of({"tiny": {"prompt": price[0], "completion": price[1]}})
    session = ModelSession(model, budget=budget, prices=prices)
    wanted = by_hand(prompts, 5, budget, price)
    if len(wanted) == len(prompts):
        complete(session, requests(*prompts, max_tokens=5))
    else:
        with pytest.raises(BudgetError):
            complete(session, requests(*prompts, max_tokens=5))
    assert sorted(model.asked) == sorted(wanted)
    assert session.meter.prompt_tokens + session.meter.completion_tokens <= (bound if not money else 10**9)
    assert session.meter.cost is None or session.meter.cost <= (bound * 3e-6 if money else 1e9)


def test_an_answer_without_a_count_costs_the_most_it_may_have_used():
    class Silent(Groups):
        def answer(self, request):
            return Completion(text=super().answer(request).text)

    session = ModelSession(Silent(), budget=Budget(max_tokens=30))
    with pytest.raises(BudgetError):
        complete(session, requests("1 a", "1 b", "1 c"))  # 3 bytes, 8 marks and 2 tokens each
    assert (session.meter.asked, session.meter.uncounted) == (2, 2)


def test_calls_that_run_at_once_share_a_budget_and_none_waits_for_ever():
    async def both():
        session = ModelSession(OneAtATime(), budget=Budget(max_requests=5))
        calls = [session.complete(requests(*(f"1 {name}{i}" for i in range(4)))) for name in "ab"]
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        return session.meter.asked, found

    asked, found = asyncio.run(both())
    assert asked == 5
    assert any(isinstance(one, BudgetError) for one in found)


def test_a_cancelled_call_gives_back_what_it_had_reserved():
    class Hanging(OneAtATime):
        @asynccontextmanager
        async def connect(self):
            yield lambda request: asyncio.sleep(3600)

    async def cancelled():
        session = ModelSession(Hanging(), budget=Budget(max_requests=4))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.complete(requests(*(f"1 {i}" for i in range(4)))), 0.05)
        session.model = OneAtATime()
        return await session.complete(requests("1 a"))

    assert asyncio.run(cancelled())[0].text == "1 A"


def test_a_bound_on_cost_needs_a_price():
    with pytest.raises(ConfigError, match="no price for the model"):
        ModelSession(Groups(), budget=Budget(max_cost=1.0))
    with pytest.raises(ConfigError, match="no price for the model"):
        ModelSession(Groups(), budget=Budget(max_cost=1.0), prices=Prices.of({"other": {"prompt": 1, "completion": 1}}))


@pytest.mark.parametrize("given_", [{"max_requests": -1}, {"max_cost": float("nan")}, {"max_tokens": float("inf")}])
def test_a_budget_that_is_no_number_is_refused(given_):
    with pytest.raises(ConfigError, match=rf"budget.{next(iter(given_))}: got"):
        Budget(**given_)


# ── a process that is killed ─────────────────────────────────────────────────────────────────────

VICTIM = textwrap.dedent("""
    import asyncio, sys
    from penstock.generators.answers import AnswerStore
    from penstock.generators.base import Request
    from penstock.generators.endpoint import ChatEndpoint
    from penstock.generators.session import ModelSession
    url, path = sys.argv[1:]
    model = ChatEndpoint(url=url, model="m", concurrency=4)
    session = ModelSession(model, store=AnswerStore(path=path))
    asyncio.run(session.complete([Request(prompt=f"prompt {i}", max_tokens=1) for i in range(200)]))
""")


@pytest.mark.server
def test_a_run_that_is_killed_hard_pays_again_for_nothing_that_had_reached_it(server, tmp_path):
    from penstock.generators.endpoint import ChatEndpoint

    server.pause = 0.02
    path = tmp_path / "a.sqlite"
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, server.url, str(path)])
    try:
        end = time.monotonic() + 60
        while len(server.requests) < 90:
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(victim.pid, signal.SIGKILL)
    finally:
        victim.kill()
        victim.wait()
    time.sleep(0.1)
    before = len(server.requests)
    wanted = [Request(prompt=f"prompt {i}", max_tokens=1) for i in range(200)]
    session = ModelSession(ChatEndpoint(url=server.url, model="m"), store=AnswerStore(path=str(path)))
    server.pause = 0.0
    assert all(one.error is None for one in complete(session, wanted))
    # at most the four in flight, and the one whose answer was being written, may be asked for again
    assert 200 <= before + session.meter.asked <= 200 + 5
    assert session.meter.kept >= 85
