"""Rows of bytes under a language model of tokens: the covers of what was read so far, moved on by one byte at a time.

A *head* is a context of tokens together with a node of the byte trie: all covers that begin with these tokens and end
with one that spells the node's path and more. Its mass is the sum over the range of tokens below the node. A byte moves
every head to a child, and a token that ends there becomes a context of its own, the only kind that the language model
has to be asked about. The byte-token representation lemma (Phan et al. 2025, arXiv:2410.09303) says that the heads'
masses add up to the probability of the bytes.

As a context's tokens are forced by its bytes, there is one new context a byte: none where a token cannot end, two
while it depends on text to come where the pre-tokenizer cuts.

Price: one position of the language model a byte, the softmax over the vocabulary in float64, some 50 us a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InputError
from penstock.tokenization.bytelevel.distributions import STOP, SYMBOLS, Cover, over
from penstock.tokenization.bytelevel.token_tree import Node
from penstock.tokenization.bytelevel.vocabulary import ROOT

if TYPE_CHECKING:
    from penstock.tokenization.bytelevel.model import ByteModel

_Floats = NDArray[np.float64]
ENDED = -1  # trie node of a head that only holds the mass of a text that is over


class Head:
    """A context and a node of the trie.

    Attributes:
        node: the context.
        trie: node that the next token has to pass.
        values: log-masses of the tokens from place ``offset`` on, all tokens of the trie node among them; None before
            the language model was asked.
        stop: log-mass of the end of the text; only at the trie's root.
    """

    __slots__ = ("node", "offset", "stop", "trie", "values")

    def __init__(self, node: Node, trie: int, values: _Floats | None = None, offset: int = 0) -> None:
        self.node = node
        self.trie = trie
        self.values = values
        self.offset = offset
        self.stop = -np.inf


class ByteState:
    """``TokenCovers`` of a ``ByteModel``."""

    def __init__(self, model: ByteModel, rows: list[list[Head] | None], prefix: Sequence[float] | _Floats) -> None:
        from penstock.tokenization.bytelevel import _walk_kernels as kernels

        self._kernels: Any = kernels
        self._model = model
        self._rows = rows  # None: the text is over
        self._prefix = np.array(prefix, dtype=np.float64)
        self._masses: _Floats | None = None

    @property
    def size(self) -> int:
        """Rows, B."""
        return len(self._rows)

    @property
    def prefix_logprob(self) -> _Floats:
        """log P(the bytes so far) of each row, STOP in it where the row is over: (B,)."""
        return self._prefix.copy()

    def log_probs(self) -> _Floats:
        """log P(symbol | the bytes so far): (B, 257)."""
        masses = self._all_masses()
        with np.errstate(invalid="ignore"):
            total = np.logaddexp.reduce(masses, axis=1, keepdims=True)
            return np.where(np.isfinite(total), masses - total, -np.inf)  # type: ignore[no-any-return]

    def advance(self, symbols: Sequence[int]) -> None:
        """Add one symbol to each row, 0 to 256.

        Raises:
            InputError: there are more or fewer symbols than rows, or no text goes on so.
        """
        if len(symbols) != self.size:
            raise InputError(f"symbols: got {len(symbols)}, allowed one for each of {self.size} rows")
        masses = self._all_masses()
        for row, symbol in enumerate(symbols):
            if not 0 <= symbol < SYMBOLS or masses[row, symbol] == -np.inf:
                raise InputError(
                    f"row {row}: got symbol {symbol}, which has probability 0 there; allowed are those above -inf in "
                    "log_probs()"
                )
        self._prefix = masses[np.arange(self.size), list(symbols)]
        self._rows = [
            None if heads is None or symbol == STOP else self._moved(heads, symbol)
            for heads, symbol in zip(self._rows, symbols, strict=True)
        ]
        self._masses = None

    def fork(self, rows: Sequence[int]) -> ByteState:
        """A state of these rows, which may repeat; the two go on apart and share what was computed."""
        out = ByteState(self._model, [self._rows[row] for row in rows], self._prefix[list(rows)])
        out._masses = None if self._masses is None else self._masses[list(rows)]
        return out

    def covers(self, row: int) -> tuple[list[Cover], _Floats]:
        """The row's cover encodings, and log P(cover | the bytes so far): (k,). A row that is over has none."""
        heads = self._rows[row]
        vocabulary = self._model.tokenizer.vocabulary
        out: list[Cover] = []
        weights: list[float] = []
        if heads is None:
            return out, np.array(weights)
        self._all_masses()
        for head in heads:
            ids = head.node.ids()
            if head.trie in (ROOT, ENDED):
                # at the beginning of a text with a space in front both are there, and share what the empty one has
                out.append(Cover(ids, b""))
                weights.append(head.node.weight if head.trie == ROOT else head.stop)
                continue
            assert head.values is not None
            low = int(vocabulary.low[head.trie] + vocabulary.exact[head.trie])
            values = head.values[low - head.offset : int(vocabulary.high[head.trie]) - head.offset]
            depth = vocabulary.depths[head.trie]
            for place in np.flatnonzero(np.isfinite(values)).tolist():
                out.append(Cover([*ids, int(vocabulary.ids[low + place])], vocabulary.tokens[low + place][depth:]))
                weights.append(float(values[place]))
        found = np.array(weights)
        return out, found - np.logaddexp.reduce(found)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    def _all_masses(self) -> _Floats:
        """log P(the bytes so far and the symbol): (B, 257)."""
        if self._masses is not None:
            return self._masses
        waiting = [head for heads in self._rows for head in heads or () if head.values is None]
        self._model.ask(waiting)
        vocabulary = self._model.tokenizer.vocabulary
        out = np.full((self.size, SYMBOLS), -np.inf)
        for row, heads in enumerate(self._rows):
            if heads is None:
                out[row] = over() + self._prefix[row]
                continue
            for head in heads:
                if head.trie != ENDED:
                    first, last = vocabulary.children(head.trie)
                    self._kernels.add_masses(
                        head.values,
                        head.offset,
                        vocabulary.low,
                        vocabulary.high,
                        first,
                        last,
                        vocabulary.label_array,
                        out[row],
                    )
                out[row, STOP] = np.logaddexp(out[row, STOP], head.stop)
        self._masses = out
        return out

    def _moved(self, heads: list[Head], byte: int) -> list[Head]:
        model = self._model
        vocabulary = model.tokenizer.vocabulary
        low, exact, high = vocabulary.bounds
        out = []
        for head in heads:
            if head.trie == ENDED:
                continue
            child = vocabulary.child(head.trie, byte)
            if child < 0:
                continue
            assert head.values is not None
            begin, ends, end = low[child], exact[child], high[child]
            for place in range(begin, begin + ends):
                weight = float(head.values[place - head.offset])
                if weight > -np.inf:
                    context = model.tokenizer.validity.step(head.node.context, place)
                    if context >= 0:
                        node = Node(head.node, int(vocabulary.ids[place]), place=place, context=context)
                        node.weight = weight
                        out.append(Head(node, ROOT))
            if end > begin + ends:
                values = head.values[begin - head.offset : end - head.offset]
                if len(values) < len(head.values) // 2:
                    values = values.copy()  # lets go of the rest
                if (values[ends:] > -np.inf).any():
                    out.append(Head(head.node, child, values, begin))
        return out
