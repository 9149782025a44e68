"""Completions from any HTTP server that speaks OpenAI's API (vLLM, llama.cpp, Ollama, OpenAI, …).

    Request(prompt=…)     POST {url}/completions
    Request(messages=…)   POST {url}/chat/completions

At most ``concurrency`` requests are in flight, fewer while the server is too busy for that (``aimd``). What may pass
(408, 409, 425, 429, 5xx, a broken connection, a time-out, a body that is cut) is tried again after the time the server
names, else after a growing wait with jitter, for at most ``attempts`` tries and ``deadline`` seconds in all; after
that, and where a request is refused for what it holds (400, 413, 422), the completion has an ``error``. It raises where
no request would work: a wrong key, address or name (401, 403, 404), nobody at the address, a server that does nothing
but refuse (``breaker``). Calls in one event loop share connections, limit and breaker.

A ``schema`` is sent as ``response_format`` of type ``json_schema`` with either path: OpenAI's form, which vLLM, SGLang
and llama.cpp understand (of OpenAI itself only the chat does). ``schemas=False`` sends none, for servers that refuse
it.

The key is read from the environment in each process and is in no pickle, no manifest and no message, and cut out of
what a server says. Redirects are not followed, as they would carry the key elsewhere.

Price: one HTTP request a completion, over at most ``concurrency`` connections that live as long as any call runs.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from penstock.embedding.config import check_server
from penstock.errors import InputError
from penstock.generators.aimd import AdaptiveLimit
from penstock.generators.base import Ask, Completion, Request, TokenLogprob, Usage, ask_each
from penstock.generators.breaker import Breaker, unreachable
from penstock.model_server import (
    Refused,
    TryAgain,
    check_status,
    key_headers,
    no_answer,
    persist,
    persist_async,
    without_key,
)

_LONGEST_WAIT = 30.0
_CONNECT = 5.0  # seconds to be let in
_SECRET = 12  # characters of a key that is one; "none" and "EMPTY" are words that an answer may hold
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
        patience: seconds of nothing but refusals before all stops.
        schemas: tell the server of a request's schema.
    """

    url: str
    model: str
    revision: str = ""
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 60.0
    deadline: float = 300.0
    attempts: int = 6
    patience: float = 60.0
    schemas: bool = True

    kind: ClassVar[str] = "openai"

    def __post_init__(self) -> None:
        check_server("model", self.url, self.model, self.api_key_env)

    @property
    def identity(self) -> dict[str, Any]:
        """The model's name and revision; one that moves to another address is the same model."""
        told = {"kind": self.kind, "model": self.model, "revision": self.revision}
        return told if self.schemas else told | {"schemas": False}

    @property
    def width(self) -> int:
        return self.concurrency

    def setup(self) -> None:
        """Fail now, not in the middle of a batch, when the key is not there or the server is not.

        Raises:
            ConfigError: the variable with the key is not set.
            InputError: nobody is at the address, or the key is refused.
        """
        headers = key_headers("model", self.api_key_env)
        try:
            persist(lambda: self._probe(headers), 3, 1.0)
        except TryAgain as error:
            raise unreachable(self._where, error) from error

    def _probe(self, headers: dict[str, str]) -> None:
        import httpx

        try:
            answer = httpx.get(self._address("models"), headers=headers, timeout=_CONNECT)
        except httpx.ReadTimeout:
            return  # somebody is there, and busy
        except httpx.InvalidURL as error:
            raise InputError(f"{self._where}: {error}; check model.url") from error
        except httpx.RequestError as error:
            raise no_answer(error) from error
        if answer.status_code in (401, 403):  # any other answer is one; not every server lists its models
            check_status(answer, self._where)

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order.

        Raises:
            ConfigError: the variable with the key is not set.
            InputError: the server refuses the key, knows no such address or model, is not there, or only refuses.
        """
        coming = iter(enumerate(requests))
        found: dict[int, Completion] = {}

        async def following() -> tuple[int, Request] | None:
            return next(coming, None)

        await ask_each(self, following, found.__setitem__)
        return [found[number] for number in range(len(requests))]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask]:
        """A way to ask one request at a time; raises as ``complete``."""
        key_headers("model", self.api_key_env)  # is there
        line = self._line()
        line.users += 1
        try:
            yield lambda request: self._persist(line, request)
        finally:
            line.users -= 1
            if line.users == 0:
                clients, line.clients, line.free = line.clients, [], []
                for client in clients:
                    await client.aclose()

    @property
    def _where(self) -> str:
        return f"model server {self.url}, model {self.model}"

    def _address(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}"

    def _line(self) -> _Line:
        """What all calls of one loop share."""
        lines = _LINES.setdefault(asyncio.get_running_loop(), {})
        if self not in lines:
            lines[self] = _Line(AdaptiveLimit(self.concurrency), Breaker(self._where, self.patience))
        return lines[self]

    def _client(self) -> Any:
        """A client of one connection: a pool of httpx looks through all its connections for each request."""
        import httpx

        headers = key_headers("model", self.api_key_env) | {"Content-Type": "application/json"}
        timeout = httpx.Timeout(self.timeout, connect=min(self.timeout, _CONNECT))
        return httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=1),
            headers=headers,
            follow_redirects=False,
            verify=_certificates() if self.url.startswith("https") else False,
        )

    async def _persist(self, line: _Line, request: Request) -> Completion:
        """Attempts until one answers; the deadline counts from when the first is sent."""
        ticket: int | None = await line.slots.take()
        started = time.monotonic()

        async def attempt() -> Completion:
            nonlocal ticket
            sent = await line.slots.take() if ticket is None else ticket
            ticket = None
            answered = busy = False
            try:
                completion = await self._once(line, request)
                answered = True
                line.breaker.answered()
                return completion
            except TryAgain as error:
                busy = error.busy
                line.breaker.refused(error)
                raise
            finally:
                line.slots.give(sent, answered=answered, busy=busy)

        try:
            return await persist_async(attempt, self.attempts, _LONGEST_WAIT, self.deadline)
        except TryAgain as error:
            return Completion(error=f"{error} after {time.monotonic() - started:.1f} s")
        except TimeoutError:
            return Completion(error=f"no answer within the deadline of {self.deadline:g} s")

    async def _once(self, line: _Line, request: Request) -> Completion:
        import httpx

        path, body = body_of(self.model, request, schemas=self.schemas)
        try:
            content = orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            return Completion(error=f"a request that is no JSON ({error})")  # half a surrogate pair, for one
        if not line.free:
            line.clients.append(self._client())
            line.free.append(line.clients[-1])
        client = line.free.pop()
        try:
            answer = await client.post(_parsed_url(self._address(path)), content=content)
        except httpx.InvalidURL as error:
            raise InputError(f"{self._where}: {error}; check model.url") from error
        except httpx.RequestError as error:
            raise no_answer(error) from error
        finally:
            line.free.append(client)
        try:
            check_status(answer, self._where)
        except Refused as error:
            return Completion(error=str(error))
        try:
            keyed = "Authorization" in client.headers
            told = orjson.loads(without_key(answer.text, client.headers, _SECRET) if keyed else answer.content)
        except orjson.JSONDecodeError as error:
            raise TryAgain(f"an answer that is no JSON ({error})") from error
        try:
            return parsed(told, chat=request.messages is not None)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            return Completion(error=f"an answer of another shape ({type(error).__name__}: {error})")


@dataclass
class _Line:
    """What the calls to one server in one event loop share."""

    slots: AdaptiveLimit
    breaker: Breaker
    users: int = 0
    clients: list[Any] = field(default_factory=list)
    free: list[Any] = field(default_factory=list)  # of the clients, those that no request holds


@functools.lru_cache(maxsize=64)
def _parsed_url(url: str) -> Any:
    import httpx

    return httpx.URL(url)


@functools.cache
def _certificates() -> Any:
    """Of the authorities that are trusted, read once."""
    import httpx

    return httpx.create_ssl_context()


_LINES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ChatEndpoint, _Line]] = weakref.WeakKeyDictionary()


def body_of(model: str, request: Request, *, schemas: bool = True) -> tuple[str, dict[str, Any]]:
    """(path below the address, body) of a request; what a request leaves at its default is not sent."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed if request.sample == 0 else _sample_seed(request),
    }
    if request.top_p < 1.0:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    if request.schema is not None and schemas:
        described = {"name": "answer", "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
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
    choice = min(answer["choices"], key=lambda one: one.get("index") or 0)  # one was asked for
    told = choice.get("logprobs") or {}
    if chat:
        message = choice["message"]
        text = message["content"] or message.get("refusal") or ""
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
    return Completion(text=text, tokens=tokens, usage=_usage(answer), finish=str(choice.get("finish_reason") or ""))


def _usage(answer: Mapping[str, Any]) -> Usage:
    """What a server counted; nothing where its count makes no sense, as the answer is paid for all the same."""
    used = answer.get("usage")
    try:
        counts = [int(used[name]) for name in ("prompt_tokens", "completion_tokens")] if used else [0, 0]
    except (TypeError, KeyError, ValueError):
        return Usage()
    return Usage(prompt_tokens=counts[0], completion_tokens=counts[1]) if min(counts) >= 0 else Usage()
