"""Completions from any HTTP server that speaks OpenAI's API (vLLM, llama.cpp, Ollama, OpenAI, …).

    Request(prompt=…)     POST {url}/completions
    Request(messages=…)   POST {url}/chat/completions

``concurrency`` requests are in flight at a time. What may pass (408, 409, 425, 429, 5xx, a broken connection, a
time-out) is tried again after the time the server names, else after a growing wait with jitter, for at most
``attempts`` tries and ``deadline`` seconds in all; after that, and where a request is refused for what it holds (400,
413, 422), the completion has an ``error``. A wrong key, address or name (401, 403, 404) raises: no request would work.

The key is read from the environment in each process and is in no pickle, no manifest and no message. Redirects are not
followed, as they would carry the key elsewhere.

Price: one HTTP request a completion; a pool of ``concurrency`` connections for each call of ``complete``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from penstock.errors import InputError
from penstock.generators.base import Completion, Request, TokenLogprob, Usage
from penstock.model_server import Refused, TryAgain, check_status, key_headers, no_answer

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_MOST_LOGPROBS = 20  # OpenAI's bound; a server that allows fewer answers 400


@dataclass(frozen=True, kw_only=True)
class ChatEndpoint:
    """LanguageModel: a model behind an OpenAI-compatible server.

    Args:
        url: up to and with ``/v1``.
        model: its name on the server.
        revision: free text that is part of what the model is.
        api_key_env: name of the environment variable with the key; None sends none.
        concurrency: requests in flight.
        timeout: seconds of one attempt.
        deadline: seconds of one request, all attempts and waits in it.
        attempts: tries of one request.
    """

    url: str
    model: str
    revision: str = ""
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 60.0
    deadline: float = 300.0
    attempts: int = 6

    kind: ClassVar[str] = "openai"

    @property
    def identity(self) -> dict[str, Any]:
        """The model's name and revision; one that moves to another address is the same model."""
        return {"kind": self.kind, "model": self.model, "revision": self.revision}

    def setup(self) -> None:
        """Fail now, not in the middle of a batch, when the key is not there. Raises ConfigError."""
        key_headers("model", self.api_key_env)

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order.

        Raises:
            ConfigError: the variable with the key is not set.
            InputError: the server refuses the key, or knows no such address or model.
        """
        import httpx

        headers = key_headers("model", self.api_key_env) | {"Content-Type": "application/json"}
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        free = asyncio.Semaphore(self.concurrency)
        async with httpx.AsyncClient(
            timeout=self.timeout, limits=limits, headers=headers, follow_redirects=False
        ) as client:

            async def one(request: Request) -> Completion:
                async with free:
                    return await self._persist(client, request)

            try:
                async with asyncio.TaskGroup() as group:  # the first that raises stops the others
                    tasks = [group.create_task(one(request)) for request in requests]
            except* InputError as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    @property
    def _where(self) -> str:
        return f"model server {self.url}, model {self.model}"

    async def _persist(self, client: Any, request: Request) -> Completion:
        """Attempts until one answers; the deadline counts from the first."""
        import tenacity

        started = time.monotonic()

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            asked = getattr(error, "wait", None)
            grown = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)(state)
            return min(grown if asked is None else asked, _LONGEST_WAIT)

        trying = tenacity.AsyncRetrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self.attempts), tenacity.stop_before_delay(self.deadline)
            ),
            wait=wait,
            retry=tenacity.retry_if_exception_type(TryAgain),
            reraise=True,
        )
        try:
            # an attempt that hangs is cut off at the deadline too, whatever its own time-out
            async with asyncio.timeout(self.deadline):
                completion: Completion = await trying(self._once, client, request)
                return completion
        except TryAgain as error:
            return Completion(error=f"{error} after {time.monotonic() - started:.1f} s")
        except TimeoutError:
            return Completion(error=f"no answer within the deadline of {self.deadline:g} s")

    async def _once(self, client: Any, request: Request) -> Completion:
        import httpx

        path, body = body_of(self.model, request)
        try:
            answer = await client.post(f"{self.url.rstrip('/')}/{path}", content=orjson.dumps(body))
        except httpx.InvalidURL as error:
            raise InputError(f"{self._where}: {error}; check model.url") from error
        except httpx.TransportError as error:
            raise no_answer(error) from error
        try:
            check_status(answer, self._where)
        except Refused as error:
            return Completion(error=str(error))
        try:
            return parsed(orjson.loads(answer.content), chat=request.messages is not None)
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            return Completion(error=f"an answer of another shape ({type(error).__name__}: {error})")


def body_of(model: str, request: Request) -> tuple[str, dict[str, Any]]:
    """(path below the address, body) of a request."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed if request.sample == 0 else _sample_seed(request),
    }
    alternatives = min(request.logprobs, _MOST_LOGPROBS)
    if request.messages is not None:
        body["messages"] = [{"role": role, "content": content} for role, content in request.messages]
        if alternatives:
            body |= {"logprobs": True, "top_logprobs": alternatives}
        return "chat/completions", body
    body["prompt"] = request.prompt
    if alternatives:
        body["logprobs"] = alternatives
    return "completions", body


def _sample_seed(request: Request) -> int:
    from penstock.seeding import derive

    return derive(request.seed, "sample", request.sample) & 0x7FFFFFFF  # servers take 32 bits


def parsed(answer: Mapping[str, Any], *, chat: bool) -> Completion:
    """The completion of an answer's first choice.

    Raises:
        KeyError, IndexError, TypeError, ValueError, AttributeError: the answer has another shape.
    """
    choice = answer["choices"][0]
    told = choice.get("logprobs") or {}
    if chat:
        text = choice["message"]["content"] or ""
        tokens = tuple(
            TokenLogprob(
                str(item["token"]),
                float(item["logprob"]),
                tuple((str(other["token"]), float(other["logprob"])) for other in item.get("top_logprobs") or ()),
            )
            for item in told.get("content") or ()
        )
    else:
        text = choice["text"]
        names, values = told.get("tokens") or [], told.get("token_logprobs") or []
        tops = told.get("top_logprobs") or [None] * len(names)
        tokens = tuple(
            TokenLogprob(str(name), float(value), tuple((str(t), float(p)) for t, p in (top or {}).items()))
            for name, value, top in zip(names, values, tops, strict=True)
        )
    if not isinstance(text, str):
        raise TypeError(f"got a text of type {type(text).__name__}")
    used = answer.get("usage") or {}
    usage = Usage(
        prompt_tokens=int(used.get("prompt_tokens") or 0), completion_tokens=int(used.get("completion_tokens") or 0)
    )
    return Completion(text=text, tokens=tokens, usage=usage)
