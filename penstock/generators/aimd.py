"""How many requests a server bears: additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP does.

The limit begins at what was asked for. A request that the server was too busy for halves it, once for all requests that
were sent before the halving, since they speak of the same moment. Every answered request adds 1 / limit, so one round
of answers adds one. The limit stays between 1 and what was asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque


class AdaptiveLimit:
    """Slots for requests in flight; as many as the server was seen to bear."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.running = 0
        self._halvings = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> int:
        """Wait for a slot; gives a ticket to come back with."""
        while self.running >= int(self.limit):
            free = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            try:
                await free
            except asyncio.CancelledError:
                self._wake()  # the slot may have been this one's
                raise
        self.running += 1
        return self._halvings

    def give(self, ticket: int, *, answered: bool = False, busy: bool = False) -> None:
        """Give a slot back, and say whether the request was answered, or the server was too busy for it."""
        self.running -= 1
        if busy and ticket == self._halvings:
            self.limit = max(1.0, self.limit / 2)
            self._halvings += 1
        elif answered:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
        self._wake()

    def _wake(self) -> None:
        free = int(self.limit) - self.running
        while free > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                free -= 1
