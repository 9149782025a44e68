"""What the answers of an OpenAI-compatible server mean, whatever was asked: try again, refused, or set up wrongly.

408, 409, 425, 429, every 5xx and no connection may pass; 400, 413 and 422 are the request's own fault; any other status
is a setting to mend. Price: none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from penstock.errors import ConfigError, InputError

T = TypeVar("T")

_AGAIN = {408, 409, 425, 429}
_AT_FAULT = {400, 413, 422}
_MEND = {401: "the API key", 403: "the API key", 404: "url (it ends with /v1) and model"}


class TryAgain(Exception):
    """A request that may work later; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


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
        raise TryAgain(f"status {status} ({_excerpt(answer)})", _retry_after(answer))
    if status in _AT_FAULT:
        raise Refused(f"status {status}: {_excerpt(answer)}")
    if status != 200:
        mend = _MEND.get(status, "url")
        raise InputError(f"{where}: got status {status} ({_excerpt(answer)}), allowed 200; check {mend}")


def persist(ask: Callable[[], T], attempts: int, longest: float) -> T:
    """What ``ask`` returns, asked again after ``TryAgain``: when the server says, else after 0.5 s, 1 s, 2 s, ….

    Args:
        attempts: calls at most; the last one's ``TryAgain`` is raised.
        longest: seconds between two at most.
    """
    import tenacity

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        told = getattr(error, "wait", None)
        return min(told if told is not None else 0.5 * 2.0 ** (state.attempt_number - 1), longest)

    trying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=wait,
        retry=tenacity.retry_if_exception_type(TryAgain),
        reraise=True,
    )
    return trying(ask)


def no_answer(error: Exception) -> TryAgain:
    """What a transport error of httpx is to a caller."""
    return TryAgain(f"no answer ({type(error).__name__}: {error})")


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


def _excerpt(answer: Any) -> str:
    """The beginning of an error's text, on one line; servers send whole pages."""
    return " ".join(answer.text[:200].split())


def _retry_after(answer: Any) -> float | None:
    """Seconds that the server asks to be waited, where it says."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):  # none, or a date
        return None
