"""What the answers of an OpenAI-compatible server mean, whatever was asked: try again, refused, or set up wrongly.

408, 409, 425, 429, every 5xx and no connection may pass; 400, 413 and 422 are the request's own fault; any other status
is a setting to mend. What may pass is tried again by ``persist``, or ``persist_async`` in a coroutine, after the time
the server names, else after a growing wait with jitter, so that clients that were refused together do not come back
together.

Servers quote keys when they refuse them; no message here does.

Price: none.
"""

from __future__ import annotations

import email.utils
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from penstock.errors import ConfigError, InputError

T = TypeVar("T")

HOW_TO_START = "start one with `penstock models serve PATH` or `vllm serve PATH`"

_AGAIN = {408, 409, 425, 429}
_BUSY = {429, 503, 529}
_FIRST_WAIT = 0.5
_AT_FAULT = {400, 413, 422}
_MEND = {401: "the API key", 403: "the API key", 404: "url (it ends with /v1) and model"}


class TryAgain(Exception):
    """A request that may work later.

    Attributes:
        wait: what the server asked for, in seconds.
        busy: the server has too much to do, or did not answer in time.
        unreachable: no connection could be made.
    """

    def __init__(self, what: str, wait: float | None = None, *, busy: bool = False, unreachable: bool = False) -> None:
        super().__init__(what)
        self.wait, self.busy, self.unreachable = wait, busy, unreachable


class Refused(Exception):
    """A request that the server refuses for what it holds."""


def check_status(answer: Any, where: str) -> None:
    """Let an answer of status 200 pass.

    Args:
        answer: of httpx.
        where: how messages name the server and its settings.

    Raises:
        TryAgain: it may work later.
        Refused: the request is at fault.
        InputError: the address, the key or the model's name is.
    """
    status = answer.status_code
    if status in _AGAIN or status >= 500:
        raise TryAgain(f"status {status} ({_excerpt(answer)})", _retry_after(answer), busy=status in _BUSY)
    if status in _AT_FAULT:
        raise Refused(f"status {status}: {_excerpt(answer)}")
    if status != 200:
        mend = _MEND.get(status, "url")
        raise InputError(f"{where}: got status {status} ({_excerpt(answer)}), allowed 200; check {mend}")


def persist(ask: Callable[[], T], attempts: int, longest: float) -> T:
    """What ``ask`` returns, asked again after ``TryAgain``: when the server says, else after about 0.5 s, 1 s, 2 s, ….

    Args:
        attempts: calls at most; the last one's ``TryAgain`` is raised.
        longest: seconds between two at most.
    """
    attempt = 1
    while True:
        try:
            return ask()
        except TryAgain as error:
            if attempt >= attempts:
                raise
            pause = _pause(error, attempt, longest)
        time.sleep(pause)
        attempt += 1


async def persist_async(ask: Callable[[], Awaitable[T]], attempts: int, longest: float, deadline: float) -> T:
    """``persist`` for a coroutine, with a bound in time.

    Args:
        deadline: seconds for all calls and waits; no wait begins that would end after it, and a call that lasts beyond
            it is cancelled.

    Raises:
        TryAgain: the last call's.
        TimeoutError: a call was cancelled.
    """
    import asyncio

    end = time.monotonic() + deadline
    async with asyncio.timeout(deadline):
        attempt = 1
        while True:
            try:
                return await ask()
            except TryAgain as error:
                pause = _pause(error, attempt, longest)
                if attempt >= attempts or time.monotonic() + pause >= end:
                    raise
            await asyncio.sleep(pause)
            attempt += 1


def _pause(error: TryAgain, attempt: int, longest: float) -> float:
    """Seconds until the next attempt: what the server says, else half to all of a time that doubles with each."""
    if error.wait is not None:
        return min(error.wait, longest)
    # the jitter decides no result, so it needs no stream of its own
    return random.uniform(0.5, 1.0) * min(_FIRST_WAIT * 2.0 ** min(attempt, 32), longest)


def no_answer(error: Exception) -> TryAgain:
    """What a transport error of httpx is to a caller."""
    import httpx

    return TryAgain(
        f"no answer ({type(error).__name__}: {error})",
        busy=isinstance(error, httpx.TimeoutException),
        unreachable=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)),
    )


def key_headers(where: str, api_key_env: str | None) -> dict[str, str]:
    """The header with the API key, from its environment variable; none where the server wants none.

    Raises:
        ConfigError: the variable is not set.
    """
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env)
    if not key:
        raise ConfigError(
            f"{where}.api_key_env: the environment variable {api_key_env} is not set, allowed one that "
            "holds the API key; export it where penstock and its workers run"
        )
    return {"Authorization": f"Bearer {key}"}


def without_key(text: str, headers: Any, least: int = 1) -> str:
    """A text of a server without the key that was sent to it.

    Args:
        headers: of the request.
        least: characters of a key; a shorter one stays.
    """
    key = headers.get("Authorization", "").removeprefix("Bearer ")
    return text.replace(key, "(the API key)") if len(key) >= least else text


def _excerpt(answer: Any) -> str:
    """The beginning of an error's text, on one line; servers send whole pages."""
    return " ".join(without_key(answer.text, answer.request.headers)[:200].split())


def _retry_after(answer: Any) -> float | None:
    """Seconds that the server asks to be waited, where it says: as a number, or as a date."""
    told = answer.headers.get("Retry-After", "")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass  # a date, or nothing
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
