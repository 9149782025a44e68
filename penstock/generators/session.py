"""A language model with a store of answers, a meter and a budget around it: ``ModelSession``.

    session = ModelSession(model, store=AnswerStore(path=default_store()), budget=Budget(max_requests=1000))
    completions = await session.complete(requests)
    session.meter.to_json()

It is a LanguageModel itself, so whatever asks a model can ask a session. What the store has is not asked; of equal
requests in one call one is asked. Answers are written as they come, all that came meanwhile in one transaction, so a
run that is killed pays again for nothing that had reached it. Failures are not kept: the next run asks again.

Whether a request is asked is decided in order of the requests and by what those before it spent (``budget``), so it
does not depend on who answers first. When one does not fit, those in flight are waited for and kept, and BudgetError is
raised; answers from the store cost nothing.

Price: some 0.1 ms of the processor a request, and one transaction for the answers that come together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.errors import BudgetError
from penstock.generators.answers import AnswerStore, AnswerWriter
from penstock.generators.base import Completion, LanguageModel, OneByOne, Request, ask_each, digest, name_of, together
from penstock.generators.budget import Budget, Ledger
from penstock.generators.meter import Meter
from penstock.generators.prices import Prices

_GROUP = 64  # requests that a model which cannot be asked one by one is asked together, if it has no ``group``


class ModelSession:
    """LanguageModel: another one, asked once for each request, counted and bounded.

    Args:
        model: that answers.
        store: of answers; None keeps nothing beyond a call.
        budget: of all calls of this session together.
        prices: by name of model; without one ``meter.cost`` is None.

    Attributes:
        meter: sums over all calls.

    Raises:
        ConfigError: the budget bounds a cost, and the model has no price.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        store: AnswerStore | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
    ) -> None:
        self.model, self.store = model, store
        self.meter = Meter()
        self._name = name_of(model)
        self._price = prices.price(self._name) if prices is not None else None
        self._ledger = Ledger(budget or Budget(), self._price)

    @property
    def identity(self) -> dict[str, Any]:
        return self.model.identity

    def setup(self) -> None:
        self.model.setup()

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order.

        Raises:
            BudgetError: a request would pass the budget; answers that came are kept in the store.
            StorageError: the store cannot be read or written.
            ConfigError, InputError: as the model's ``complete``.
        """
        keys = [digest(self.model, request) for request in requests]
        known = self.store.get(list(dict.fromkeys(keys))) if self.store is not None else {}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        self.meter.requests += len(requests)
        self.meter.kept += len(requests) - len(missing)
        if missing:
            call = _Call(self, list(missing.items()))
            if self.store is None:
                await call.run(None)
            else:
                with self.store.writer(self._name) as writer:
                    await call.run(writer)
            known |= call.answers
        return [known[key] for key in keys]


class _Call:
    """The requests of one call that have to be asked."""

    def __init__(self, session: ModelSession, wanted: list[tuple[str, Request]]) -> None:
        self.answers: dict[str, Completion] = {}
        self._session, self._ledger, self._wanted = session, session._ledger, wanted
        self._fresh: dict[str, Completion] = {}  # not written yet
        self._came = asyncio.Event()
        self._flying: dict[int, tuple[int, float]] = {}  # place in wanted -> (number in the ledger, when it was sent)
        self._stopped: BudgetError | None = None
        self._ended = False

    async def run(self, writer: AnswerWriter | None) -> None:
        """Ask all of them. Raises BudgetError when one does not fit, with ``answers`` of those before it."""
        try:
            await together(self._ask(writer), *([] if writer is None else [self._keep_as_they_come(writer)]))
        finally:
            for number, _ in self._flying.values():
                self._ledger.release(number)
            if writer is not None:
                self._keep(writer)
        if self._stopped is not None:
            raise self._stopped

    async def _ask(self, writer: AnswerWriter | None) -> None:
        model = self._session.model
        if isinstance(model, OneByOne):
            await self._one_by_one(model)
        else:
            await self._in_groups(model, writer)
        self._ended = True
        self._came.set()

    async def _keep_as_they_come(self, writer: AnswerWriter) -> None:
        while not self._ended:
            await self._came.wait()
            self._came.clear()
            self._keep(writer)

    def _keep(self, writer: AnswerWriter) -> None:
        fresh, self._fresh = self._fresh, {}
        writer.put(fresh)

    def _answered(self, place: int, answer: Completion) -> None:
        session, (key, _) = self._session, self._wanted[place]
        number, sent = self._flying.pop(place)
        self._ledger.settle(number, answer)
        session.meter.answered(answer, time.perf_counter() - sent, session._price)
        self.answers[key] = self._fresh[key] = answer
        self._came.set()

    async def _one_by_one(self, model: OneByOne) -> None:
        places: Iterator[int] = iter(range(len(self._wanted)))
        in_turn = asyncio.Lock()  # budgets are spent in order of the requests

        async def coming() -> tuple[int, Request] | None:
            async with in_turn:
                place = next(places, None)
                if place is None or self._stopped is not None:
                    return None
                request = self._wanted[place][1]
                try:
                    number = await self._ledger.admit(request)
                except BudgetError as error:
                    self._stopped = error
                    return None
                self._flying[place] = (number, time.perf_counter())
                return place, request

        await ask_each(model, coming, self._answered)

    async def _in_groups(self, model: LanguageModel, writer: AnswerWriter | None) -> None:
        start = 0
        while start < len(self._wanted):
            group = await self._fitting(start, getattr(model, "group", _GROUP))
            if not group:
                return
            answers = await model.complete([self._wanted[place][1] for place in group])
            for place, answer in zip(group, answers, strict=True):
                self._answered(place, answer)
            if writer is not None:
                self._keep(writer)  # a model that computes here leaves no time for the keeper
            start += len(group)

    async def _fitting(self, start: int, size: int) -> list[int]:
        """The next group: as many requests as fit into the budget at once, one at least; none where that is over."""
        group: list[int] = []
        for place in range(start, min(start + size, len(self._wanted))):
            request = self._wanted[place][1]
            number = self._ledger.reserve(request)
            if number is None and not group:
                try:
                    number = await self._ledger.admit(request)
                except BudgetError as error:
                    self._stopped = error
                    return []
            if number is None:
                break
            self._flying[place] = (number, time.perf_counter())
            group.append(place)
        return group
