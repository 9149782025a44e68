"""Next-byte distributions from a server that tells the likeliest tokens only, with bounds for what it does not tell.

    server = TokenServer(url="http://localhost:8000/v1", model="qwen")
    model = ServerModel(server, "models/qwen/tokenizer.json", begin=(), stop=(151643,))
    state = model.start(["def f(x):\n    ret"])
    state.log_probs()        # (1, 257): from the tokens that were told
    state.bounds()           # the least and the most that each of them can be

vLLM's completions take token ids and give the log-probabilities of a prompt's own tokens (``echo``) and of the ``top``
likeliest next ones. The probability of every cover's tokens before its last one is therefore exact. Of the last one
only the told tokens are; what the others can add is bounded twice: together they have what is left of 1, and none is
likelier than the least likely that was told. ``bounds`` carries both through to the bytes. The estimate takes what was
told and normalises it, so a byte that no told token begins with gets nothing. Bounds are wide where the prompt ends
deep inside a token that is not among the likeliest.

Only canonical encodings count, and their sum is normalised once for each byte: the ``global`` form, as the mass of the
tokens that may not follow is not told either. For a model that gives these nothing it is the ``local`` form; else
products of next bytes are not the probability of a text. ``prefix_logprob`` counts from the prompt on, and is the
estimate's.

The server must give log-probabilities of the model itself (vLLM's default, ``--logprobs-mode raw_logprobs``) and allow
``top`` of them (``--max-logprobs``). Prompts hold no special tokens but ``begin``.

Price: at the start a request for each encoding of the prompt's end that a cover can begin with, one or two on the
average; one a byte then, each with the whole context. Answers are kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel.distributions import STOP, SYMBOLS, Bytes, bytes_of, over
from penstock.tokenization.bytelevel.token_server import TokenServer, Told
from penstock.tokenization.bytelevel.tokenizer import ByteTokenizer
from penstock.tokenization.bytelevel.vocabulary import ROOT

if TYPE_CHECKING:
    from penstock.tokenization.bytelevel.vocabulary import Vocabulary

_Floats = NDArray[np.float64]
_KEPT = 65_536  # answers


class Bounds(NamedTuple):
    """The least and the most that log P(symbol | the bytes so far) can be: (B, 257) each."""

    low: _Floats
    high: _Floats


class _Head(NamedTuple):
    """A context of tokens, and the bytes after it as a node of the trie that its next token must pass."""

    ids: tuple[int, ...]
    context: int  # of ``Validity``
    node: int
    logprob: float  # of the ids after the trunk that all heads of a row share


@dataclass(frozen=True)
class ServerModel:
    """ByteSource: a model behind a server, and its tokenizer.

    Args:
        server: where it is.
        tokenizer: a ``ByteTokenizer``, or what makes one: the path of a ``tokenizer.json``, a ``tokenizers.Tokenizer``
            or a fast tokenizer of transformers.
        begin: ids that the model reads before every text.
        stop: ids that end a text.

    Raises:
        ConfigError: the tokenizer cannot be followed byte by byte.
    """

    server: TokenServer
    tokenizer: Any = field(repr=False)
    begin: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()

    @functools.cached_property
    def tokens(self) -> TokenizerContexts:
        """The tokenizer as bytes and contexts."""
        given = self.tokenizer
        return TokenizerContexts(given if isinstance(given, ByteTokenizer) else ByteTokenizer.of(given))

    @functools.cached_property
    def _answers(self) -> dict[tuple[int, ...], Told]:
        return {}

    def start(self, prompts: Sequence[Bytes], *, special: bool = False) -> ServerState:
        """A state of one row for each prompt.

        Raises:
            ConfigError: special tokens in prompts are asked for, or a prompt is so short that its text may have begun
                with any token, and ``begin`` is empty.
            InputError: the server has no answer, or the prompt is no beginning of any encoding.
        """
        if special:
            raise ConfigError(
                "server: got special tokens in prompts, allowed text; name what stands before it in begin"
            )
        rows = [self._read(bytes_of(prompt)) for prompt in prompts]
        return ServerState(self, rows, np.zeros(len(rows)), np.zeros(len(rows), np.bool_))

    def _read(self, data: bytes) -> list[_Head]:
        """The heads after a prompt, with their probabilities from where they part."""
        heads = [_Head(self.begin, self.tokens.validity.start, ROOT, 0.0)]
        for byte in self.tokens.front + data:
            heads = [
                _Head(ids, context, node, 0.0)
                for head in heads
                for ids, context, node in self.tokens.moved(head.ids, head.context, head.node, byte)
            ]
        heads = [head for head in heads if self.tokens.open(head.context, head.node)]
        if not heads:
            raise InputError(f"server: got a prompt that ends with {data[-8:]!r}, which no text of its tokenizer does")
        trunk = _shared([head.ids for head in heads])
        if not trunk and len(heads) > 1:
            raise _no_beginning()  # a server does not tell how likely the first token is
        self.fetch([head.ids for head in heads], read=True)
        return [head._replace(logprob=self._since(head.ids, trunk)) for head in heads]

    def _since(self, ids: tuple[int, ...], trunk: int) -> float:
        """log P of the ids from number ``trunk`` on."""
        return math.fsum(value for value in self._answers[ids].read[trunk:] if value is not None)

    def fetch(self, contexts: Sequence[tuple[int, ...]], *, read: bool) -> None:
        """Have the server's answers to these contexts at hand, with ``read`` those for their own tokens too."""
        missing = [
            ids
            for ids in dict.fromkeys(contexts)
            if ids not in self._answers or (read and len(self._answers[ids].read) < len(ids))
        ]
        if any(not ids for ids in missing):
            raise _no_beginning()
        for ids, told in zip(missing, self.server.ask([(ids, read) for ids in missing]), strict=True):
            self._answers[ids] = told
        while len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]

    def told(self, ids: tuple[int, ...]) -> Told:
        """The answer to a context, asked for where it is not at hand."""
        if ids not in self._answers:
            self.fetch([ids], read=False)
        return self._answers[ids]

    def masses(self, head: _Head) -> tuple[_Floats, _Floats, float]:
        """P of the symbols after a head from told tokens, the most that others add to each, and to all: (257,) both."""
        low = np.zeros(SYMBOLS)
        told, tokens = self.told(head.ids), self.tokens
        candidates = tokens.candidates(head.context, head.node)  # (257,) tokens by next byte
        for number, value in told.log_probs.items():
            symbol = tokens.next_symbol(head.context, head.node, number)
            if symbol is not None:
                low[symbol] += math.exp(value)
                candidates[symbol] -= 1
        if head.node == ROOT and tokens.validity.may_stop(head.context):
            ends = [told.log_probs[number] for number in self.stop if number in told.log_probs]
            low[STOP] = math.fsum(map(math.exp, ends))
            candidates[STOP] = len(self.stop) - len(ends)
        high = np.minimum(candidates * told.most, told.rest)
        return low, high, min(told.rest, float(candidates.sum()) * told.most)


class ServerState:
    """ByteDistributions of ``ServerModel``, with ``bounds``."""

    def __init__(
        self, model: ServerModel, rows: list[list[_Head]], prefix_logprob: _Floats, ended: NDArray[np.bool_]
    ) -> None:
        self._model = model
        self._rows = rows
        self._prefix = prefix_logprob
        self._ended = ended
        self._found: tuple[_Floats, Bounds] | None = None

    @property
    def size(self) -> int:
        return len(self._rows)

    @property
    def prefix_logprob(self) -> _Floats:
        """log P(the bytes since the prompt) of each row, by the estimate: (B,)."""
        return self._prefix.copy()

    def log_probs(self) -> _Floats:
        """The estimate: log P(symbol | the bytes so far) from the told tokens, normalised: (B, 257)."""
        return self._all()[0].copy()

    def bounds(self) -> Bounds:
        """What log P(symbol | the bytes so far) lies between, whatever the tokens are that were not told."""
        return self._all()[1]

    def _all(self) -> tuple[_Floats, Bounds]:
        if self._found is None:
            self._model.fetch([head.ids for heads in self._rows for head in heads], read=False)
            rows = [_bounded(self._model, heads) for heads in self._rows]
            estimate, low, high = (np.stack([row[i] for row in rows]) for i in range(3))
            for part in (estimate, low, high):
                part[self._ended] = over()
            self._found = estimate, Bounds(low, high)
        return self._found

    def advance(self, symbols: Sequence[int]) -> None:
        """Add a byte or STOP to each row.

        Raises:
            InputError: no canonical encoding goes on with it.
        """
        given = np.asarray(symbols, dtype=np.int64)
        taken = self.log_probs()[np.arange(self.size), given]
        moved = [
            [] if symbol == STOP else self._moved(heads, symbol)
            for heads, symbol in zip(self._rows, given.tolist(), strict=True)
        ]
        self._ended = self._ended | (given == STOP)
        lost = [row for row, heads in enumerate(moved) if not heads and not self._ended[row]]
        if lost:
            raise InputError(
                f"server: got byte {given[lost[0]]:#04x} for row {lost[0]}, with which no text of its tokenizer goes "
                "on; take one with a probability above 0"
            )
        self._rows, self._prefix, self._found = moved, self._prefix + taken, None

    def _moved(self, heads: list[_Head], byte: int) -> list[_Head]:
        model, out, unknown = self._model, [], []
        for head in heads:
            for ids, context, node in model.tokens.moved(head.ids, head.context, head.node, byte):
                if not model.tokens.open(context, node):
                    continue
                value: float | None = 0.0
                if len(ids) > len(head.ids):
                    value = model.told(head.ids).log_probs.get(ids[-1])
                if value is None:
                    unknown.append((ids, context, node, head.logprob))
                else:
                    out.append(_Head(ids, context, node, head.logprob + value))
        model.fetch([ids for ids, *_ in unknown], read=True)
        for ids, context, node, before in unknown:
            out.append(_Head(ids, context, node, before + model._since(ids, len(ids) - 1)))
        return out

    def fork(self, rows: Sequence[int]) -> ServerState:
        chosen = np.asarray(rows, dtype=np.int64)
        out = ServerState(self._model, [self._rows[row] for row in rows], self._prefix[chosen], self._ended[chosen])
        if self._found is not None:
            estimate, (low, high) = self._found
            out._found = estimate[chosen], Bounds(low[chosen], high[chosen])
        return out


def _bounded(model: ServerModel, heads: list[_Head]) -> tuple[_Floats, _Floats, _Floats]:
    """Estimate and bounds of a row: (257,) each; all of a row without heads is its caller's."""
    told, more, total = np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0
    largest = max((head.logprob for head in heads), default=0.0)
    for head in heads:
        weight = math.exp(head.logprob - largest)
        low, high, rest = model.masses(head)
        told += weight * low
        more += weight * high
        total += weight * rest
    # a byte has least when it gets nothing more and the others as much as they can, and most the other way round
    others = np.minimum(more.sum() - more, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.log(told) - np.log(told.sum() + others)
        most = np.log(told + more) - np.log(told.sum() + more)
        # where no token that was told goes on from here, what they could be is all there is
        estimate = np.log(told / told.sum() if told.any() else more / more.sum())
    return estimate, np.where(told > 0, least, -np.inf), np.where(told + more > 0, most, -np.inf)


def _no_beginning() -> ConfigError:
    return ConfigError(
        "server: got a prompt whose first token may be another, allowed one that settles it; name what the model reads "
        "before a text in begin, or give a prompt of several words"
    )


def _shared(sequences: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all begin with."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


class TokenizerContexts:
    """A tokenizer's vocabulary as a trie, and which tokens may follow which."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self.vocabulary = tokenizer.vocabulary
        self.validity = tokenizer.validity
        self.front = tokenizer.front
        self._places = {int(number): place for place, number in enumerate(self.vocabulary.ids.tolist())}
        self._depths = _depths(self.vocabulary)

    def moved(self, ids: tuple[int, ...], context: int, node: int, byte: int) -> list[tuple[tuple[int, ...], int, int]]:
        """Heads that a head becomes with one more byte: itself further down, and those of the tokens that end there."""
        vocabulary = self.vocabulary
        child = vocabulary.child(node, byte)
        if child < 0:
            return []
        out = [(ids, context, child)]
        low = int(vocabulary.low[child])
        for place in range(low, low + int(vocabulary.exact[child])):
            after = self.validity.step(context, place)
            if after >= 0:
                out.append(((*ids, int(vocabulary.ids[place])), after, ROOT))
        return out

    def open(self, context: int, node: int) -> bool:
        """Whether a token may follow that goes beyond the node, or the text may end there."""
        if node == ROOT and self.validity.may_stop(context):
            return True
        low, high = self._beyond(node)
        return bool(self.validity.allowed(context)[low:high].any())

    def _beyond(self, node: int) -> tuple[int, int]:
        vocabulary = self.vocabulary
        return int(vocabulary.low[node] + vocabulary.exact[node]), int(vocabulary.high[node])

    def candidates(self, context: int, node: int) -> NDArray[np.int64]:
        """How many tokens may follow that go beyond the node with each byte; 0 for STOP: (257,)."""
        vocabulary, out = self.vocabulary, np.zeros(SYMBOLS, np.int64)
        allowed = np.concatenate([[0], np.cumsum(self.validity.allowed(context))])
        children = np.arange(vocabulary.first_child[node], vocabulary.first_child[node + 1])
        labels = np.frombuffer(vocabulary.labels, np.uint8)[children]
        out[labels] = allowed[vocabulary.high[children]] - allowed[vocabulary.low[children]]
        return out

    def next_symbol(self, context: int, node: int, number: int) -> int | None:
        """The byte by which a token goes beyond the node; None where it does not or may not."""
        place = self._places.get(number)
        low, high = self._beyond(node)
        if place is None or not low <= place < high or not self.validity.allowed(context)[place]:
            return None
        return int(self.vocabulary.tokens[place][self._depths[node]])


def _depths(vocabulary: Vocabulary) -> list[int]:
    out = [0] * vocabulary.nodes
    for node, parent in enumerate(vocabulary.parents.tolist()):
        if node:
            out[node] = out[parent] + 1  # parents have smaller numbers
    return out
