"""Embeddings from an HTTP server that speaks OpenAI's ``POST /v1/embeddings`` (vLLM, TEI, llama.cpp, OpenAI, …).

Texts go in requests of ``batch_size``, ``concurrency`` of them in flight a worker. A request that is refused for now
(408, 409, 429, 5xx, a broken connection) is tried again after the time the server names, else after a growing wait. One
that is refused for what it holds (400, 413, 422) is halved until the text at fault stands alone: that text becomes the
zero vector and the run goes on. Everything else (a wrong key, an unknown model, an answer of another shape) stops the
run with what to mend.

The API key is read from the environment variable that the recipe names, when a request is made; it is in no key, no
manifest and no pickle. A server may be replaced behind its address: ``probe`` records what it made of fixed sentences,
so a changed model changes the digest of the step.

Price: the server's; reading an answer takes 50 µs a vector of 384 dimensions.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson

from penstock.embedding.base import Vectors, normalised
from penstock.errors import InputError
from penstock.model_server import Refused, TryAgain, check_status, key_headers, no_answer, persist

PROBE = (
    "The river carries the water to the mill.",
    "def add(a, b): return a + b",
    "The court dismissed the appeal.",
    "Two plus two is four.",
)
_LONGEST_WAIT = 30.0


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Embedder: a model behind an OpenAI-compatible API.

    Attributes:
        url: up to and with ``/v1``.
        model: its name on the server.
        dimensions: of its vectors; 0 takes what comes (for ``probe``).
        api_key_env: name of the environment variable with the key; None sends none.
    """

    url: str
    model: str
    dimensions: int
    api_key_env: str | None = None
    batch_size: int = 64
    concurrency: int = 4
    timeout: float = 60.0
    attempts: int = 6

    revision: ClassVar[int] = 1

    def setup(self) -> None:
        """Fail now, not in the middle of a batch, when the key is not there."""
        self._headers()

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors of texts: float32, shape (n, dimensions).

        Raises:
            ConfigError: the variable with the key is not set.
            InputError: the server cannot be reached, refuses the key or the model, or answers in another shape.
        """
        batches = [texts[start : start + self.batch_size] for start in range(0, len(texts), self.batch_size)]
        if len(batches) < 2 or self.concurrency == 1:
            found = [self._embed(batch) for batch in batches]
        else:
            with ThreadPoolExecutor(min(self.concurrency, len(batches))) as pool:
                found = list(pool.map(self._embed, batches))
        return np.concatenate(found) if found else np.zeros((0, self.dimensions), dtype=np.float32)

    def probe(self) -> Vectors:
        """Vectors of fixed sentences; also the cheapest way to find a wrong address, name or key.

        Raises:
            InputError: as ``embed``, and when the server refuses a plain sentence.
        """
        try:
            return normalised(self._request(list(PROBE)))
        except Refused as error:
            raise InputError(f"{self._where}: a plain sentence was refused ({error}); check embed.model") from error

    def _embed(self, texts: list[str]) -> Vectors:
        try:
            return normalised(self._request(texts))
        except Refused:
            if len(texts) == 1:
                return np.zeros((1, self.dimensions), dtype=np.float32)
            half = len(texts) // 2
            return np.concatenate([self._embed(texts[:half]), self._embed(texts[half:])])

    @property
    def _where(self) -> str:
        return f"embedding server {self.url}, model {self.model}"

    def _headers(self) -> dict[str, str]:
        return key_headers("embed.model", self.api_key_env)

    def _request(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        try:
            return persist(lambda: self._once(texts), self.attempts, _LONGEST_WAIT)
        except TryAgain as error:
            raise InputError(
                f"{self._where}: {error} after {self.attempts} attempts; start the server, or lower concurrency and "
                "batch_size; what is done is kept, so run again to resume"
            ) from error

    def _once(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        import httpx

        body = orjson.dumps({"model": self.model, "input": texts, "encoding_format": "float"})
        headers = self._headers() | {"Content-Type": "application/json"}
        try:
            answer = _client(self.timeout).post(f"{self.url.rstrip('/')}/embeddings", content=body, headers=headers)
        except httpx.InvalidURL as error:
            raise InputError(f"{self._where}: {error}; check embed.model.url") from error
        except httpx.TransportError as error:
            raise no_answer(error) from error
        check_status(answer, self._where)
        return self._vectors(answer.content, len(texts))

    def _vectors(self, content: bytes, expected: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The vectors of an answer in the order of the request, which ``index`` gives."""
        try:
            rows = sorted(orjson.loads(content)["data"], key=lambda row: row["index"])
            places = [row["index"] for row in rows]
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float64)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._where}: got an answer that is no list of embeddings ({error}); is this an embedding model?"
            ) from error
        if places != list(range(expected)) or vectors.ndim != 2:
            raise InputError(f"{self._where}: got {len(rows)} vectors for {expected} texts, allowed one each, numbered")
        if self.dimensions and vectors.shape[1] != self.dimensions:
            raise InputError(
                f"{self._where}: got vectors of {vectors.shape[1]} dimensions, expected {self.dimensions}; the model "
                "behind the address changed, so change embed.model.revision"
            )
        return vectors


@functools.cache
def _client(timeout: float) -> Any:
    """One pool of connections a process."""
    import httpx

    return httpx.Client(timeout=timeout, follow_redirects=False)
