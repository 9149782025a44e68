"""What a next-byte model is to everything that stands on it: rows of bytes, 257 log-probabilities each.

    state = model.start(["def f(x):\n    ret", b"\xe2\x82"])
    state.log_probs()          # (2, 257): of each byte, and of STOP, given the bytes so far
    state.advance([117, 172])  # one byte a row
    twice = state.fork([0, 0])

Log-probabilities are natural and float64. Index 256 is STOP, the end of the text: the log-sum-exp of all tokens that
end one. It belongs to the normaliser, so the 257 sum to 1. A row that was advanced by STOP is over: from then on its
log-probabilities are 0 at STOP and -inf elsewhere, and STOP is all that it takes.

``ByteDistributions`` is what sampling, infilling and ensembles need; ``TokenCovers`` is what a model of tokens has
beside it, for continuations at the speed of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

STOP = 256
SYMBOLS = 257  # 256 bytes and STOP

Bytes = bytes | str  # a str is its UTF-8


class ByteDistributions(Protocol):
    """Rows of bytes under a model, each with the distribution of its next symbol."""

    @property
    def size(self) -> int:
        """Rows, B."""

    @property
    def prefix_logprob(self) -> NDArray[np.float64]:
        """log P(the bytes so far) of each row, STOP in it where the row is over: (B,)."""

    def log_probs(self) -> NDArray[np.float64]:
        """log P(symbol | the bytes so far): (B, 257)."""

    def advance(self, symbols: Sequence[int]) -> None:
        """Add one symbol to each row, 0 to 256."""

    def fork(self, rows: Sequence[int]) -> Any:
        """A state of these rows, which may repeat; the two go on apart."""


State = TypeVar("State", bound=ByteDistributions, covariant=True)


class ByteSource(Protocol[State]):
    """Something that reads prompts: a model, an ensemble."""

    def start(self, prompts: Sequence[Bytes], *, special: bool = False) -> State:
        """A state of one row for each prompt, after its bytes.

        Args:
            special: whether text that spells a special token is that token; all before the last one is then given.
        """


class Cover(NamedTuple):
    """An encoding whose last token is the first to reach the end of the bytes.

    Attributes:
        token_ids: what the model would read for it, from the first token on, a beginning-of-text token in them.
        tail: bytes of the last token beyond the end.
    """

    token_ids: Sequence[int]
    tail: bytes


class TokenCovers(ByteDistributions, Protocol):
    """Rows of bytes under a model of tokens."""

    def covers(self, row: int) -> tuple[Sequence[Cover], NDArray[np.float64]]:
        """The row's cover encodings, and log P(cover | the bytes so far), which sum to 1: (k,)."""


class TokenModel(Protocol):
    """A model of tokens that byte-level distributions come from."""

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes of each id; empty for one that has none."""

    def encode(self, text: Bytes) -> list[int]:
        """The ids that the model would read for a text, as in ``Cover``."""

    def start(self, prompts: Sequence[Bytes], *, special: bool = False) -> TokenCovers:
        """As ``ByteSource``."""

    def next_tokens(self, contexts: Sequence[Sequence[int]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """log P(token | context), what may not follow masked and the rest normalised: (n, V); and that of STOP: (n,).

        Tokens that end a text are -inf in the first and counted in the second.
        """


def over() -> NDArray[np.float64]:
    """The log-probabilities of a row that is over: (257,)."""
    out = np.full(SYMBOLS, -np.inf)
    out[STOP] = 0.0
    return out


def read(source: ByteSource[Any], texts: Sequence[Bytes], *, stop: bool = False) -> list[NDArray[np.float64]]:
    """log P of every byte of each text given those before it, and of STOP after the last with ``stop``.

    The texts are read side by side, one byte a step; a model's own ``logprob`` is faster where the sum is all that is
    wanted. Works for ensembles, whose probability of a text is defined byte by byte.
    """
    if not texts:
        return []
    given = [[*bytes_of(text), *([STOP] if stop else [])] for text in texts]
    return read_on(source.start([b""] * len(texts)), given)


def read_on(state: ByteDistributions, symbols: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
    """log P of every symbol of a row given those before it; one list a row of the state, which is used up."""
    out = [np.zeros(len(row)) for row in symbols]
    rows = list(range(len(symbols)))
    step = 0
    while True:
        going = [place for place, row in enumerate(rows) if len(symbols[row]) > step]
        if not going:
            return out
        if len(going) < len(rows):
            state = state.fork(going)
            rows = [rows[place] for place in going]
        given = [symbols[row][step] for row in rows]
        found = state.log_probs()[np.arange(len(rows)), given]
        for row, value in zip(rows, found.tolist(), strict=True):
            out[row][step] = value
        step += 1
        if any(len(symbols[row]) > step for row in rows):
            state.advance(given)


def bytes_of(text: Bytes) -> bytes:
    """The bytes of a prompt."""
    return text.encode() if isinstance(text, str) else bytes(text)
