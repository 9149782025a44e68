"""What is asked of a language model, what it answers, and what a model is.

A ``LanguageModel`` is a frozen, picklable configuration with one method. It never raises for a single request: a
request that fails has a ``Completion`` whose ``error`` says why, so one bad text costs its own answer and no other. It
raises where no request can ever work: a wrong key, a wrong name, a folder that holds no model.

    completions = asyncio.run(model.complete([Request(prompt="2 + 2 =", max_tokens=1, logprobs=5)]))

``identity`` is what decides the answers besides the request. Together they are the digest that answers are kept by;
where a server stands, how many requests are in flight and which key opens the door are not part of it.

A model that answers requests one at a time, a server for one, is also ``OneByOne``: whoever asks need not wait for a
whole batch to keep what came.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from penstock.errors import ConfigError

_Result = TypeVar("_Result")

ROLES = ("system", "user", "assistant")
_SCHEME = 2  # of digests, where a request uses what came after the first scheme
_LATER = {"top_p": 1.0, "stop": (), "schema": None}  # fields of the second scheme at their defaults


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # one of ROLES
    content: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One thing to be completed: a ``prompt`` as it stands, or the ``messages`` of a conversation.

    Args:
        max_tokens: so many tokens are generated at most.
        temperature: 0 takes the likeliest token each time.
        seed: of the sampling, where there is any.
        logprobs: likeliest alternatives to be told at each generated token; 0 tells none.
        sample: number of the sample: equal requests with other numbers are other draws, and other entries of a store.
        top_p: sampling is from the likeliest tokens that together reach this probability; 1 takes all.
        stop: generation ends before the first of these texts.
        schema: a JSON Schema that the answer has to obey, as ``canonical`` writes it. A server is told to obey it; a
            model that cannot be told answers freely (``structured.ask_structured`` checks and corrects either).
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    logprobs: int = 0
    sample: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    schema: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (not self.messages):
            raise ConfigError("request: got both or neither of prompt and messages, allowed one of them; leave one out")
        for role, _ in self.messages or ():
            if role not in ROLES:
                raise ConfigError(f"request: got a message of role {role!r}, allowed {', '.join(ROLES)}")
        if self.max_tokens < 1 or self.logprobs < 0 or self.sample < 0:
            raise ConfigError(
                f"request: got max_tokens {self.max_tokens}, logprobs {self.logprobs} and sample {self.sample}, "
                "allowed >= 1, >= 0 and >= 0"
            )
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"request: got temperature {self.temperature}, allowed a finite number >= 0")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"request: got top_p {self.top_p}, allowed above 0 and at most 1; 1 takes all tokens")
        if not isinstance(self.stop, tuple) or not all(self.stop):
            raise ConfigError(f"request: got stop {self.stop!r}, allowed a tuple of texts that are not empty")
        if self.schema is not None and not _is_canonical(self.schema):
            raise ConfigError("request: got a schema that is no canonical JSON, allowed what base.canonical writes")


def canonical(value: Mapping[str, Any]) -> str:
    """JSON without blanks and with sorted keys: equal schemas are equal texts.

    Raises:
        ConfigError: the value is no JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"schema: got a value that is no JSON ({error}), allowed JSON objects") from error


@functools.lru_cache(maxsize=256)
def _is_canonical(schema: str) -> bool:
    try:
        value = json.loads(schema)
    except ValueError:
        return False
    return isinstance(value, dict) and canonical(value) == schema


class TokenLogprob(NamedTuple):
    """A generated token, and the likeliest at its place with their log-probabilities (nats), before any temperature."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens read and written for one request; both are 0 where nobody counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The answer to one request; with ``error`` set there is none.

    ``finish`` says why it ended: ``stop`` by itself or at a stop text, ``length`` at ``max_tokens``, or what a server
    says; empty where nobody said.
    """

    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    usage: Usage = Usage()
    error: str | None = None
    finish: str = ""

    def to_json(self) -> dict[str, Any]:
        # by hand: asdict copies everything, and every answer goes through here
        return {
            "text": self.text,
            "tokens": [list(token) for token in self.tokens],
            "usage": vars(self.usage),
            "error": self.error,
            "finish": self.finish,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        """What ``to_json`` wrote."""
        tokens = tuple(TokenLogprob(t, p, tuple((a, b) for a, b in top)) for t, p, top in value["tokens"])
        return cls(
            text=value["text"],
            tokens=tokens,
            usage=Usage(**value["usage"]),
            error=value["error"],
            finish=value.get("finish", ""),
        )


def failure(error: str) -> str:
    """The kind of a completion's error, for counting: what stands before the first bracket or colon."""
    return error.partition(" (")[0].partition(":")[0][:60]


class LanguageModel(Protocol):
    """A model that completes requests."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers besides the request (JSON values)."""

    def setup(self) -> None:
        """Load what ``complete`` needs, or fail now where it can never work."""

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order."""


Ask = Callable[[Request], Awaitable[Completion]]


@runtime_checkable
class OneByOne(Protocol):
    """A LanguageModel that can also be asked one request at a time."""

    @property
    def width(self) -> int:
        """Requests that are worth having in flight."""

    def connect(self) -> AbstractAsyncContextManager[Ask]:
        """A way to ask, as long as the context is open; it raises where ``complete`` does."""


def digest(model: LanguageModel, request: Request) -> str:
    """sha256 of everything that decides the answer: the key it is kept by.

    Fields that came later count where they are used, together with the number of the scheme; so a request that does
    without them keeps the key it always had.
    """
    asked = dict(vars(request))
    later = [name for name, default in _LATER.items() if asked[name] != default]
    told: dict[str, Any] = {"model": model.identity}
    told["request"] = {name: value for name, value in asked.items() if name not in _LATER or name in later}
    if later:
        told["scheme"] = _SCHEME
    said = json.dumps(told, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def name_of(model: LanguageModel) -> str:
    """How prices, stores and reports name a model: its name on a server, else its kind and 12 digits of its files."""
    identity = model.identity
    digest_ = str(identity.get("digest", ""))[:12]
    return str(identity.get("model") or f"{identity['kind']}{':' if digest_ else ''}{digest_}")


async def together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines at once; the first that raises stops the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def ask_each(
    model: OneByOne,
    coming: Callable[[], Awaitable[tuple[int, Request] | None]],
    answered: Callable[[int, Completion], None],
) -> None:
    """Ask what comes, ``width`` requests at a time, and pass every answer on as soon as it is there.

    Args:
        coming: the next request with its number, or None when there are no more.
        answered: told the number and the answer.
    """
    async with model.connect() as ask:

        async def worker() -> None:
            while (following := await coming()) is not None:
                number, request = following
                answered(number, await ask(request))

        await together(*(worker() for _ in range(model.width)))


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of a coroutine, for callers that are not one; in a thread of its own where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
