"""How much may be asked: requests, tokens, money; never passed, and spent alike in every run.

A request is let go when what was spent by those before it, what those in flight may still spend at most, and the most
that it may spend itself stay within the budget. Where only those in flight are in the way it waits for them. So whether
a request is asked depends on the requests before it and not on who answers first, and the budget is used up to the
last request that fits.

The most that a request may spend: ``max_tokens`` written, and read one token a byte of its texts (no byte-level
tokenizer makes more) and 8 for each turn's marks. What it did spend is what the answer's usage says; where it says
nothing, the most. A request that failed costs one request and no tokens: servers do not say.

Price: a few additions a request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields
from typing import NamedTuple

from penstock.errors import BudgetError, ConfigError
from penstock.generators.base import Completion, Request, Usage
from penstock.generators.prices import Price

_MARKS = 8  # tokens of a chat template around one turn


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent at most; None does not bound.

    Args:
        max_requests: requests sent; a request that is tried again counts once.
        max_tokens: read and written together.
        max_cost: in the currency of the prices.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"budget.{field.name}: got {value}, allowed >= 0; leave it out for no bound")


class Used(NamedTuple):
    """Requests and tokens; whole numbers, so that sums do not depend on an order."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, other: Used) -> Used:
        return Used(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Used) -> Used:
        return Used(*(a - b for a, b in zip(self, other, strict=True)))


class Ledger:
    """What was spent under a budget, and what requests in flight may still spend.

    Raises:
        ConfigError: the budget bounds a cost, and there is no price.
    """

    def __init__(self, budget: Budget, price: Price | None) -> None:
        if budget.max_cost is not None and price is None:
            raise ConfigError("budget.max_cost: got no price for the model, allowed with one; give prices")
        self.budget = budget
        self._price = price
        self._spent = self._reserved = Used()
        self._flying: dict[int, Used] = {}
        self._next = 0
        self._waiting: list[asyncio.Future[None]] = []

    def reserve(self, request: Request) -> int | None:
        """Let a request go, if it fits: a number to ``settle`` it by. None where it does not fit (now)."""
        most = _most(request)
        if self._over(self._spent.plus(self._reserved).plus(most)) is not None:
            return None
        self._next += 1
        self._flying[self._next] = most
        self._reserved = self._reserved.plus(most)
        return self._next

    async def admit(self, request: Request) -> int:
        """Let a request go as soon as it fits.

        Raises:
            BudgetError: it does not, with nothing in flight.
        """
        while (number := self.reserve(request)) is None:
            if not self._flying:
                most = _most(request)
                name = self._over(self._spent.plus(most))
                got, more = self._sums(self._spent)[str(name)], self._sums(most)[str(name)]
                allowed = getattr(self.budget, f"max_{name}")
                raise BudgetError(
                    f"budget: got {_figure(got)} {name} spent and a request of {_figure(more)} at most, allowed "
                    f"{_figure(allowed)}; answers that came are kept, so raise max_{name} and run again to go on"
                )
            freed = asyncio.get_running_loop().create_future()
            self._waiting.append(freed)
            await freed
        return number

    def settle(self, number: int, answer: Completion) -> None:
        """Book what an answered request used."""
        most, usage = self._flying[number], answer.usage
        counted = answer.error is not None or usage != Usage()
        self._spent = self._spent.plus(Used(1, usage.prompt_tokens, usage.completion_tokens) if counted else most)
        self.release(number)

    def release(self, number: int) -> None:
        """Forget a request in flight."""
        self._reserved = self._reserved.minus(self._flying.pop(number))
        waiting, self._waiting = self._waiting, []
        for freed in waiting:
            if not freed.done():
                freed.set_result(None)

    def _sums(self, used: Used) -> dict[str, float]:
        """What the budget bounds, by its name there."""
        usage = Usage(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)
        cost = 0.0 if self._price is None else self._price.cost(usage)
        return {"requests": used.requests, "tokens": used.prompt_tokens + used.completion_tokens, "cost": cost}

    def _over(self, used: Used) -> str | None:
        """What is over its bound."""
        for name, value in self._sums(used).items():
            bound = getattr(self.budget, f"max_{name}")
            if bound is not None and value > bound:
                return name
        return None


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _most(request: Request) -> Used:
    """The most that a request may use."""
    texts = [request.prompt or "", *(text for _, text in request.messages or ())]
    read = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + _MARKS * len(texts)
    return Used(1, read, request.max_tokens)
