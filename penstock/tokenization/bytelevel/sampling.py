"""Bytes drawn from next-byte distributions, and continuations of a cut prompt at the speed of tokens.

    generate(model, ["def f(x):\\n    ret"], Sampling(max_bytes=40, temperature=0.0, stop=("\\n",)))
    generate_tokens(model, ["def f(x):\\n    ret"], Sampling(max_bytes=40, seed=1))

``generate`` draws symbol by symbol: one step a byte. Temperature and top-p work on the 257 symbols; that is another
distribution than the same settings on tokens make, so a result records which was used (``unit``).

``generate_tokens`` draws *one* cover encoding of the prompt with its exact probability given the prompt's bytes,
P(cover) / P(bytes), and then ordinary tokens, a model call each. At temperature 1 and top-p 1 its bytes have the very
distribution of ``generate``'s: the text of a model of tokens is a mixture over covers, and a cover fixes where its last
token ends. Temperature and top-p work on tokens there, after the cover. Greedy is another matter: the likeliest token
of the likeliest cover is not the likeliest byte, so temperature 0 takes the likeliest cover and then tokens, and
says so (``unit``).

Each row draws from a stream of (seed, sample, prompt), so an answer does not depend on what else is asked. A prompt's
samples share the work of reading it. A row that ended leaves the batch.

Price: a byte costs one ``log_probs`` and one ``advance`` of the rows that are left, a token one ``next_tokens``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.tokenization.bytelevel.distributions import (
    STOP,
    ByteDistributions,
    Bytes,
    ByteSource,
    Cover,
    TokenModel,
    bytes_of,
)

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw, and when to end.

    Args:
        max_bytes: a row ends after so many bytes at the latest.
        temperature: 0 takes the likeliest each time, the lower of equals.
        top_p: draw from the likeliest whose probabilities, after the temperature, reach this sum.
        seed: of the draws.
        stop: texts or bytes at whose first appearance a row ends; they are not part of the result.
    """

    max_bytes: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[Bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes: got {self.max_bytes}, allowed >= 1")
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature: got {self.temperature}, allowed a finite number >= 0")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p: got {self.top_p}, allowed above 0 and up to 1")
        if isinstance(self.stop, (str, bytes)) or not all(len(one) for one in self.stop):
            raise ConfigError(f"stop: got {self.stop!r}, allowed a tuple of texts that are not empty")

    def choose(self, log_probs: _Floats, streams: Sequence[np.random.Generator]) -> NDArray[np.int64]:
        """One index of each row of ``log_probs`` (B, n), drawn from the row's own stream: (B,)."""
        if self.temperature == 0.0:
            likeliest: NDArray[np.int64] = np.argmax(log_probs, axis=1)
            return likeliest
        scaled = log_probs / self.temperature
        if self.top_p < 1.0:
            scaled = _nucleus(scaled, self.top_p)
        # the largest of perturbed log-probabilities is a draw from their distribution (Gumbel)
        noise = np.stack([rng.gumbel(size=scaled.shape[1]) for rng in streams])
        drawn: NDArray[np.int64] = np.argmax(scaled + noise, axis=1)
        return drawn


def _nucleus(log_weights: _Floats, share: float) -> _Floats:
    """Log-weights (B, n) with -inf outside the fewest likeliest that reach ``share`` of the sum."""
    order = np.argsort(-log_weights, axis=1, kind="stable")
    ranked = np.take_along_axis(log_weights, order, axis=1)
    probabilities = np.exp(ranked - np.logaddexp.reduce(ranked, axis=1, keepdims=True))
    before = np.cumsum(probabilities, axis=1) - probabilities
    out = np.full_like(log_weights, -np.inf)
    np.put_along_axis(out, order, np.where(before < share, ranked, -np.inf), axis=1)
    return out


class Generated(NamedTuple):
    """A continuation of a prompt.

    Attributes:
        data: its bytes, without the stop text.
        logprob: of what was drawn, given the prompt, under the model at temperature 1: of the bytes with the stop text
            and STOP in them, or of the cover and the tokens. Nats.
        end: why it ended: ``stop`` (the model ended the text), ``text`` (a stop text), ``length``.
        stop: the stop text that ended it; empty where none did.
        unit: what temperature and top-p worked on.
        token_ids: for ``token``: the cover and what was drawn, from the first token of the prompt on.
    """

    data: bytes
    logprob: float
    end: Literal["stop", "text", "length"]
    stop: bytes = b""
    unit: Literal["byte", "token"] = "byte"
    token_ids: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The bytes as UTF-8; what is none is shown as U+FFFD."""
        return self.data.decode("utf-8", "replace")


def generate(
    source: ByteSource[Any], prompts: Sequence[Bytes], settings: Sampling, *, samples: int = 1, special: bool = False
) -> list[list[Generated]]:
    """Continuations of each prompt, drawn byte by byte: ``samples`` of each, in their order.

    Args:
        special: whether text of a prompt that spells a special token is that token.
    """
    if not prompts:
        return []
    begun = source.start(prompts, special=special)
    state = begun if samples == 1 else begun.fork(_repeated(len(prompts), samples))
    return grouped(continue_state(state, settings, streams_of(prompts, settings.seed, samples)), samples)


def continue_state(
    state: ByteDistributions, settings: Sampling, streams: Sequence[np.random.Generator]
) -> list[Generated]:
    """Continuations of the rows of a state, which is used up. ``streams``: one for each row."""
    ending = _Ending(settings)
    rows = list(range(state.size))
    drawn = [bytearray() for _ in rows]
    totals = [0.0 for _ in rows]
    out: dict[int, Generated] = {}
    while rows:
        log_probs = state.log_probs()
        chosen = settings.choose(log_probs, [streams[row] for row in rows]).tolist()
        going = []
        for place, (row, symbol) in enumerate(zip(rows, chosen, strict=True)):
            totals[row] += float(log_probs[place, symbol])
            if symbol == STOP:
                out[row] = Generated(bytes(drawn[row]), totals[row], "stop")
                continue
            drawn[row].append(symbol)
            ended = ending.of(drawn[row], 1)
            if ended is None:
                going.append(place)
            else:
                out[row] = Generated(ended.data, totals[row], ended.end, ended.stop)
        if going and len(going) < len(rows):
            state = state.fork(going)
        if going:
            state.advance([chosen[place] for place in going])
        rows = [rows[place] for place in going]
    return [out[row] for row in range(len(drawn))]


def generate_tokens(
    model: TokenModel, prompts: Sequence[Bytes], settings: Sampling, *, samples: int = 1
) -> list[list[Generated]]:
    """Continuations of each prompt at the speed of tokens: one cover drawn exactly, then ordinary tokens."""
    if not prompts:
        return []
    state = model.start(prompts)
    streams = streams_of(prompts, settings.seed, samples)
    # temperature and top-p are for what comes after the cover: it has the probability that the prompt gives it
    exact = replace(settings, temperature=1.0 if settings.temperature else 0.0, top_p=1.0)
    covers: list[Cover] = []
    begun: list[float] = []
    for row in range(len(prompts)):
        found, log_probs = state.covers(row)
        for rng in streams[row * samples : (row + 1) * samples]:
            pick = int(exact.choose(log_probs[None], [rng])[0])
            covers.append(found[pick])
            begun.append(float(log_probs[pick]))
    return grouped(decode(model, covers, settings, streams, begun=begun), samples)


def decode(
    model: TokenModel,
    covers: Sequence[Cover],
    settings: Sampling,
    streams: Sequence[np.random.Generator],
    *,
    begun: Sequence[float],
) -> list[Generated]:
    """Ordinary tokens after each cover.

    Args:
        streams: one for each cover.
        begun: log-probability of each cover; the result's goes on from it.
    """
    ending = _Ending(settings)
    vocabulary = model.token_bytes
    rows = list(range(len(covers)))
    drawn = [bytearray(cover.tail) for cover in covers]
    ids = [list(cover.token_ids) for cover in covers]
    totals = list(begun)
    out: dict[int, Generated] = {}

    def end(row: int, data: bytes, why: Literal["stop", "text", "length"], stop: bytes = b"") -> None:
        out[row] = Generated(data, totals[row], why, stop, "token", tuple(ids[row]))

    def goes_on(row: int, fresh: int) -> bool:
        ended = ending.of(drawn[row], fresh)
        if ended is not None:
            end(row, *ended)
        return ended is None

    rows = [row for row in rows if goes_on(row, len(drawn[row]))]
    while rows:
        tokens, stops = model.next_tokens([ids[row] for row in rows])
        log_probs = np.concatenate([tokens, stops[:, None]], axis=1)
        chosen = settings.choose(log_probs, [streams[row] for row in rows]).tolist()
        going = []
        for place, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            totals[row] += float(log_probs[place, token])
            if token == tokens.shape[1]:
                end(row, bytes(drawn[row]), "stop")
                continue
            ids[row].append(token)
            drawn[row] += vocabulary[token]
            if goes_on(row, len(vocabulary[token])):
                going.append(row)
        rows = going
    return [out[row] for row in range(len(ids))]


class _Ended(NamedTuple):
    data: bytes
    end: Literal["text", "length"]
    stop: bytes


class _Ending:
    """Whether bytes that grew have reached an end."""

    def __init__(self, settings: Sampling) -> None:
        self._most = settings.max_bytes
        self._stops = tuple(bytes_of(one) for one in settings.stop)
        self._longest = max((len(one) for one in self._stops), default=0)

    def of(self, data: bytearray, fresh: int) -> _Ended | None:
        """``fresh``: how many of the last bytes are new; the others held no stop text."""
        # the earliest to end, as byte by byte the first to be complete; of those that end together the longest
        start = max(0, len(data) - fresh - self._longest + 1)
        found = [
            (data.find(one, start) + len(one), -len(one), one) for one in self._stops if data.find(one, start) >= 0
        ]
        if found:
            stop_at, _, one = min(found)
            if stop_at <= self._most:
                return _Ended(bytes(data[: stop_at - len(one)]), "text", one)
        if len(data) >= self._most:
            return _Ended(bytes(data[: self._most]), "length", b"")
        return None


def streams_of(prompts: Sequence[Bytes], seed: int, samples: int) -> list[np.random.Generator]:
    """The streams of ``samples`` rows of each prompt, those of a prompt together."""
    told = [hashlib.blake2b(bytes_of(prompt), digest_size=8).hexdigest() for prompt in prompts]
    return [stream(seed, "bytes", prompt, sample) for prompt in told for sample in range(samples)]


def _repeated(rows: int, samples: int) -> list[int]:
    return [row for row in range(rows) for _ in range(samples)]


def grouped(found: list[Generated], samples: int) -> list[list[Generated]]:
    """Rows by prompt."""
    return [found[start : start + samples] for start in range(0, len(found), samples)]
