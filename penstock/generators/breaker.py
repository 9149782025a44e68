"""When to give a server up: a circuit breaker, so that a run against a server that refuses all ends in bounded time.

It opens when every request for ``patience`` seconds was one to try again; and after two seconds where no connection
could be made at all and none was ever made, as then nobody is there. One answer closes it. The requests in flight and
the run stop with what to do; what was answered before is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.errors import InputError
from penstock.model_server import HOW_TO_START, TryAgain

_NOBODY = 2.0  # seconds without any connection, before there was one
_LEAST = 3  # refusals; a single slow one says nothing


class Breaker:
    """Counts refusals since the last answer.

    Args:
        where: how messages name the server.
        patience: seconds of nothing but refusals.
        clock: monotonic seconds.
    """

    def __init__(self, where: str, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._where, self._patience, self._clock = where, patience, clock
        self._since: float | None = None
        self._refusals = 0
        self._connected = False

    def answered(self) -> None:
        """A request was answered, or refused for what it holds."""
        self._since, self._refusals, self._connected = None, 0, True

    def refused(self, error: TryAgain) -> None:
        """A request is to be tried again.

        Raises:
            InputError: it is enough.
        """
        now = self._clock()
        if self._since is None:
            self._since = now
        self._refusals += 1
        self._connected |= not error.unreachable
        lasted = now - self._since
        if self._refusals < _LEAST:
            return
        if not self._connected and lasted >= min(_NOBODY, self._patience):
            raise unreachable(self._where, error) from error
        if lasted >= self._patience:
            raise InputError(
                f"{self._where}: got nothing but refusals for {lasted:.0f} s, the last one {error}; is the server "
                f"overloaded or at its quota? Lower concurrency, or {HOW_TO_START}; what is done is kept, so run again "
                "to go on"
            ) from error


def unreachable(where: str, error: Exception) -> InputError:
    """Nobody is at the address."""
    return InputError(
        f"{where}: got {error}, allowed a server that speaks OpenAI's API; {HOW_TO_START}, then check model.url"
    )
