"""What is asked of a language model, what it answers, and what a model is.

A ``LanguageModel`` is a frozen, picklable configuration with one method. It never raises for a single request: a
request that fails has a ``Completion`` whose ``error`` says why, so one bad text costs its own answer and no other. It
raises where no request can ever work: a wrong key, a wrong name, a folder that holds no model.

    completions = asyncio.run(model.complete([Request(prompt="2 + 2 =", max_tokens=1, logprobs=5)]))

``identity`` is what decides the answers besides the request. Together they are the digest that answers are kept by;
where a server stands, how many requests are in flight and which key opens the door are not part of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from penstock.errors import ConfigError

_Result = TypeVar("_Result")

ROLES = ("system", "user", "assistant")


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
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    logprobs: int = 0
    sample: int = 0

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


class TokenLogprob(NamedTuple):
    """A generated token, and the likeliest at its place with their log-probabilities (nats), before any temperature."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens read and written for one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The answer to one request; with ``error`` set there is none."""

    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    usage: Usage = Usage()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"tokens": [list(token) for token in self.tokens]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        """What ``to_json`` wrote."""
        tokens = tuple(TokenLogprob(t, p, tuple((a, b) for a, b in top)) for t, p, top in value["tokens"])
        return cls(text=value["text"], tokens=tokens, usage=Usage(**value["usage"]), error=value["error"])


class LanguageModel(Protocol):
    """A model that completes requests."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers besides the request (JSON values)."""

    def setup(self) -> None:
        """Load what ``complete`` needs, or fail now where it can never work."""

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order."""


def digest(model: LanguageModel, request: Request) -> str:
    """sha256 of everything that decides the answer: shape of a key of a store."""
    said = json.dumps({"model": model.identity, "request": asdict(request)}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of a coroutine, for callers that are not one; in a thread of its own where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
