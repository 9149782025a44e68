"""Log-probabilities of tokens from vLLM's ``POST /v1/completions``: of the likeliest next ones, and of a prompt's own.

Contexts go as token ids, so nothing is encoded on the way; ``return_tokens_as_token_ids`` has tokens come back so. What
is refused for now (408, 409, 425, 429, 5xx, no connection) is tried again after the time that the server names, else
after a growing wait.

Price: one request a context; with ``echo`` the server reads all of it anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from penstock.errors import ConfigError, InputError
from penstock.model_server import Refused, TryAgain, check_status, key_headers, no_answer, persist

_LONGEST_WAIT = 30.0


class Told(NamedTuple):
    """What a server tells of the token after a context.

    Attributes:
        log_probs: of the likeliest, by token id.
        read: of each token of the context, where it was asked for; None for the first.
    """

    log_probs: dict[int, float]
    read: tuple[float | None, ...] = ()

    @property
    def rest(self) -> float:
        """Probability of all tokens that are not told."""
        return max(0.0, 1.0 - math.fsum(math.exp(value) for value in self.log_probs.values()))

    @property
    def most(self) -> float:
        """No token that is not told is likelier."""
        return math.exp(min(self.log_probs.values()))


@dataclass(frozen=True, kw_only=True)
class TokenServer:
    """Token log-probabilities of a model behind vLLM's ``POST {url}/completions``.

    Args:
        url: up to and with ``/v1``.
        model: its name on the server.
        top: likeliest tokens that are asked for.
        api_key_env: name of the environment variable with the key; None sends none.
        concurrency: requests in flight.
        timeout: seconds of one attempt.
        attempts: tries of one request.
    """

    url: str
    model: str
    top: int = 20
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 60.0
    attempts: int = 6

    def __post_init__(self) -> None:
        if self.top < 1 or self.concurrency < 1 or self.attempts < 1:
            raise ConfigError(
                f"server: got top {self.top}, concurrency {self.concurrency} and attempts {self.attempts}, allowed >= 1"
            )

    def ask(self, asked: Sequence[tuple[tuple[int, ...], bool]]) -> list[Told]:
        """What follows each context, and with True beside it how likely its own tokens are.

        Raises:
            ConfigError: the variable with the key is not set.
            InputError: the server cannot be reached, refuses a request, or answers in another shape.
        """
        with ThreadPoolExecutor(min(self.concurrency, max(1, len(asked)))) as pool:
            return list(pool.map(self._persist, asked))

    @property
    def _where(self) -> str:
        return f"model server {self.url}, model {self.model}"

    def _persist(self, asked: tuple[tuple[int, ...], bool]) -> Told:
        try:
            found: Told = persist(lambda: self._once(*asked), self.attempts, _LONGEST_WAIT)
        except TryAgain as error:
            raise InputError(f"{self._where}: {error} after {self.attempts} attempts; start the server") from error
        except Refused as error:
            raise InputError(
                f"{self._where}: a context of {len(asked[0])} tokens was refused ({error}); allowed is what fits the "
                f"model, and top up to the server's --max-logprobs (got {self.top})"
            ) from error
        return found

    def _once(self, ids: tuple[int, ...], read: bool) -> Told:
        import httpx

        body = {
            "model": self.model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": self.top,
            "echo": read,
            "return_tokens_as_token_ids": True,
        }
        headers = key_headers("server", self.api_key_env) | {"Content-Type": "application/json"}
        try:
            answer = _client(self.timeout).post(
                f"{self.url.rstrip('/')}/completions", content=orjson.dumps(body), headers=headers
            )
        except httpx.InvalidURL as error:
            raise InputError(f"{self._where}: {error}; check url") from error
        except httpx.TransportError as error:
            raise no_answer(error) from error
        check_status(answer, self._where)
        try:
            return _told(orjson.loads(answer.content)["choices"][0]["logprobs"], len(ids) if read else 0)
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self._where}: got an answer without log-probabilities by token id ({type(error).__name__}: "
                f"{error}), allowed is that of vLLM to echo, logprobs and return_tokens_as_token_ids"
            ) from error


def _told(logprobs: Any, read: int) -> Told:
    top, values = logprobs["top_logprobs"], logprobs["token_logprobs"]
    if len(top) != read + 1 or len(values) != read + 1 or not top[-1]:
        raise ValueError(f"{len(values)} tokens for {read + 1}")
    found = {int(name.removeprefix("token_id:")): float(value) for name, value in top[-1].items()}
    return Told(found, tuple(None if value is None else float(value) for value in values[:-1]))


@functools.cache
def _client(timeout: float) -> Any:
    """One pool of connections a process."""
    import httpx

    return httpx.Client(timeout=timeout, follow_redirects=False)
