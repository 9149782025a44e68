"""The exact next byte of a causal language model of tokens.

    model = ByteModel.load("models/smol")
    state = model.start(["def f(x):\\n    ret"])
    state.log_probs()                     # (1, 257): every byte, and the end of the text
    model.logprob([b"abc", b"ab\\xe2"])   # of any bytes, cut anywhere

A model that learned from encodings of texts knows a text by its encoding alone. The probability that a text begins with
some bytes is the sum over all beginnings of encodings that spell them, the last token possibly going on beyond them
(*covers*; Phan et al. 2025, "Exact Byte-Level Probabilities from Tokenized Language Models", arXiv:2410.09303). Tokens
that no encoding has at a place are given nothing (``validity``), so that a prompt that ends inside a word goes on as
its text would and not as its tokens.

What a real model gives to sequences that are no encoding has to go somewhere. ``renormalise="local"`` divides by what
is left at each token, the end among it: the next bytes and the end share exactly what the bytes so far have, and
products of next bytes are the probability of a text. ``"global"`` leaves tokens as they are and divides the 257
masses of a next byte by their sum; products are then no probability of a text. ``canonical="off"`` lets
any last token count, as if it were valid, with global division; that is faster, and off by what the model gives to
sequences that are no encoding.

Price: one token position of the language model a byte, and a pass over its tree for a prompt (``token_tree``).
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bytelevel.distributions import Bytes, bytes_of
from penstock.tokenization.bytelevel.state import ENDED, ByteState, Head
from penstock.tokenization.bytelevel.token_tree import CausalTree, FunctionTree, Node, TokenTree
from penstock.tokenization.bytelevel.tokenizer import ByteTokenizer
from penstock.tokenization.bytelevel.vocabulary import ROOT

_Floats = NDArray[np.float64]
_CONTEXTS = 256  # contexts of tokens that ``next_tokens`` keeps
_TOGETHER = 16  # texts that ``logprob`` reads at once


class ByteModel:
    """Next-byte probabilities of a language model.

    Args:
        model: a transformers causal LM, or an object with ``size`` and ``logits(contexts) -> (n, size)`` over ids.
        tokenizer: path of its ``tokenizer.json`` or of the folder, a ``tokenizers.Tokenizer``, or a fast tokenizer of
            transformers.
        canonical: ``strict`` counts encodings alone, ``off`` any last token.
        renormalise: ``local`` or ``global``; ``off`` is always global.
        begin: ids that the model reads before every text; None takes what the tokenizer puts there, else the model's
            token for the beginning or the end of a text.
        stop: ids that end a text; None takes the model's.

    Raises:
        ConfigError: the tokenizer cannot be followed byte by byte, has more ids than the model, or there is nothing to
            read before a text; a setting is not one of those allowed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        canonical: Literal["strict", "off"] = "strict",
        renormalise: Literal["local", "global"] = "local",
        begin: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
    ) -> None:
        if canonical not in ("strict", "off"):
            raise ConfigError(f"canonical: got {canonical!r}, allowed strict (exact) or off (faster)")
        if renormalise not in ("local", "global"):
            raise ConfigError(f"renormalise: got {renormalise!r}, allowed local (a text has one probability) or global")
        self.tokenizer = tokenizer if isinstance(tokenizer, ByteTokenizer) else ByteTokenizer.of(tokenizer)
        self._tree: TokenTree = FunctionTree(model) if hasattr(model, "logits") else CausalTree(model)
        self._strict = canonical == "strict"
        self._everything = not self._strict or renormalise == "global"
        vocabulary = self.tokenizer.vocabulary
        largest = max(int(vocabulary.ids.max()), *self.tokenizer.rules.special.values(), -1)
        if largest >= self._tree.size:
            raise ConfigError(
                f"model: got a tokenizer of {largest + 1} ids and a model of {self._tree.size}; take the tokenizer "
                "that the model was trained with"
            )
        config = getattr(model, "config", None)
        self.begin = self._ids("begin", begin if begin is not None else _begin(self.tokenizer, config))
        self.stop = self._ids("stop", stop if stop is not None else _stop(model))
        if not self.begin:
            raise ConfigError(
                "begin: got nothing, allowed one id and more: the model has no token for the beginning or the end of a "
                "text, so name what it reads before one"
            )
        # an id that ends a text spells none
        self._unused = np.isin(vocabulary.ids, self.stop)
        self._all = ~self._unused
        self._stops = np.array(self.stop, dtype=np.int64)
        self._contexts: OrderedDict[tuple[int, ...], Node] = OrderedDict()

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None, **options: Any) -> ByteModel:
        """From a folder with a causal LM and its tokenizer, or a run of penstock with a model.

        Args:
            device: ``cpu``, ``cuda``…; None takes CUDA where there is one.
            options: those of the class.

        Raises:
            ConfigError: there is no such model, or as the class.
        """
        from penstock.scoring.model import load_causal_lm

        model, tokenizer = load_causal_lm(path, device or "auto")
        return cls(model, tokenizer, **options)

    def _ids(self, name: str, given: Sequence[int]) -> tuple[int, ...]:
        for number in given:
            if not 0 <= number < self._tree.size:
                raise ConfigError(f"{name}: got id {number}, allowed 0 to {self._tree.size - 1}")
        return tuple(int(number) for number in given)

    @property
    def calls(self) -> int:
        """Token positions that the language model computed so far, those of the tokens before texts with them."""
        return self._tree.positions

    @property
    def passes(self) -> int:
        """Forward passes of the language model so far."""
        return self._tree.passes

    # ── bytes ────────────────────────────────────────────────────────────────────────────────────

    def start(self, prompts: Sequence[Bytes], *, special: bool = False) -> ByteState:
        """A state of one row for each prompt, after its bytes; the prompts are read in one pass over their trees.

        Args:
            prompts: any bytes that a text may begin with, cut anywhere; may be empty.
            special: whether text that spells a special token is that token. All before the last one is then given,
                and no part of ``prefix_logprob``.

        Raises:
            InputError: no text begins so: bytes that are not UTF-8, or none of the tokenizer's texts.
        """
        rows, prefix = self._read([self._split(prompt, special) for prompt in prompts])
        for number, (heads, value) in enumerate(zip(rows, prefix, strict=True)):
            if not heads or value == -np.inf:
                raise InputError(
                    f"prompt {number}: got {bytes_of(prompts[number])[-24:]!r} at its end, which no text of the "
                    "tokenizer or the model begins with; allowed is UTF-8, cut anywhere"
                )
        return ByteState(self, cast("list[list[Head] | None]", rows), prefix)

    def logprob(self, texts: Sequence[Bytes], *, stop: bool = False) -> _Floats:
        """log P of the bytes that each text begins with, or with ``stop`` of the whole text and its end: (n,).

        Each text is read in one pass over its tree. Bytes that no text has are -inf. With ``renormalise="local"``
        this is the sum of the log-probabilities of its bytes, each given those before.
        """
        out = np.zeros(len(texts))
        for first in range(0, len(texts), _TOGETHER):
            part = [self._split(text, False) for text in texts[first : first + _TOGETHER]]
            rows, prefix = self._read(part)
            if stop:
                prefix = [functools.reduce(np.logaddexp, (head.stop for head in heads), -np.inf) for heads in rows]
            out[first : first + len(part)] = prefix
        return out

    def _split(self, text: Bytes, special: bool) -> tuple[tuple[int, ...], bytes]:
        """Ids that are given, and the bytes after them."""
        data = bytes_of(text)
        if not special or not self.tokenizer.rules.special:
            return self.begin, data
        end = max(
            (
                at + len(name.encode())
                for name in self.tokenizer.rules.special
                if (at := data.rfind(name.encode())) >= 0
            ),
            default=0,
        )
        if not end:
            return self.begin, data
        ids = tuple(self.tokenizer.encode(data[:end], special=True))
        begin = self.begin if ids[: len(self.begin)] != self.begin else ()
        return (*begin, *ids), data[end:]

    def _read(self, prompts: Sequence[tuple[tuple[int, ...], bytes]]) -> tuple[list[list[Head]], list[float]]:
        """Heads after each prompt, with the language model asked, and log P(prompt)."""
        distinct = {prompt: self._heads(*prompt) for prompt in dict.fromkeys(prompts)}
        self.ask([head for heads in distinct.values() for head in heads])
        rows = [distinct[prompt] for prompt in prompts]
        masses = {prompt: self._mass(heads) for prompt, heads in distinct.items()}
        return rows, [masses[prompt] for prompt in prompts]

    def _mass(self, heads: Sequence[Head]) -> float:
        from penstock.tokenization.bytelevel import _walk_kernels as kernels

        vocabulary = self.tokenizer.vocabulary
        total = -np.inf
        for head in heads:
            if head.trie == ROOT:
                mass = head.node.weight
            elif head.trie == ENDED:
                mass = head.stop
            else:
                low = int(vocabulary.low[head.trie]) + int(vocabulary.exact[head.trie])
                mass = kernels.log_mass(head.values, low - head.offset, int(vocabulary.high[head.trie]) - head.offset)
            total = np.logaddexp(total, mass)
        return float(total)

    def _heads(self, given: tuple[int, ...], data: bytes) -> list[Head]:
        """The heads after a prompt, nothing asked yet: what its tokens may be, by the tokenizer alone."""
        vocabulary, validity = self.tokenizer.vocabulary, self.tokenizer.validity
        child, step = vocabulary.child, validity.step
        low, exact, high = vocabulary.bounds
        ids = vocabulary.ids
        node: Node | None = None
        for token in given:
            node = Node(node, token)
        assert node is not None
        node.context = validity.start
        heads: list[tuple[Node, int]] = [(node, ROOT)]
        front = self.tokenizer.front
        for byte in front + data:
            moved = []
            for context, trie in heads:
                below = child(trie, byte)
                if below < 0:
                    continue
                begin, ends = low[below], exact[below]
                for place in range(begin, begin + ends):
                    if self._unused[place]:
                        continue
                    after = step(context.context, place)
                    if after >= 0:
                        moved.append((Node(context, int(ids[place]), place=place, context=after), ROOT))
                if high[below] > begin + ends:
                    moved.append((context, below))
            heads = moved
        out = [Head(context, trie) for context, trie in heads if trie == ROOT or self._goes_on(context, trie)]
        if front and not data:
            out.append(Head(node, ENDED))
        return out

    def _goes_on(self, context: Node, trie: int) -> bool:
        """Whether a token that may follow lies below a node."""
        low, exact, high = self.tokenizer.vocabulary.bounds
        return bool(self._allowed(context)[low[trie] + exact[trie] : high[trie]].any())

    def _allowed(self, node: Node) -> NDArray[np.bool_]:
        if not self._strict:
            return self._all
        found = self.tokenizer.validity.allowed(node.context)
        return found & self._all if self.stop and self._unused.any() else found

    def ask(self, heads: Sequence[Head]) -> None:
        """Have the language model's masses in these heads; their contexts' weights come from those above."""
        wanted: dict[int, list[Head]] = {}
        order: dict[int, Node] = {}
        below: dict[int, list[Node]] = {}
        for head in heads:
            if head.values is not None:
                continue
            wanted.setdefault(id(head.node), []).append(head)
            node: Node | None = head.node
            while node is not None and node.slot == -1 and id(node) not in order:
                order[id(node)] = node
                if node.parent is not None and node.place >= 0:
                    below.setdefault(id(node.parent), []).append(node)
                node = node.parent
        from penstock.tokenization.bytelevel import _walk_kernels as kernels

        vocabulary, validity = self.tokenizer.vocabulary, self.tokenizer.validity
        low, _, high = vocabulary.bounds

        def receive(node: Node, logits: NDArray[Any]) -> None:
            mine, children = wanted.get(id(node), ()), below.get(id(node), ())
            if not mine and not children:
                return  # of a token before the text
            values = np.empty(vocabulary.size)
            stop = kernels.weigh(
                logits,
                vocabulary.ids,
                self._allowed(node),
                self._stops,
                not self._strict or validity.may_stop(node.context),
                self._everything,
                node.weight,
                values,
            )
            for child in children:
                child.weight = float(values[child.place])
            for head in mine:
                if head.trie in (ROOT, ENDED):
                    head.values, head.offset, head.stop = values, 0, float(stop)
                else:
                    head.offset = low[head.trie]
                    head.values = values[low[head.trie] : high[head.trie]].copy()

        self._tree.evaluate(sorted(order.values(), key=lambda node: node.depth), receive)

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────

    @functools.cached_property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes of each id; empty for one that has none."""
        out = [b""] * self._tree.size
        for number, token in zip(self.tokenizer.vocabulary.ids.tolist(), self.tokenizer.vocabulary.tokens, strict=True):
            out[number] = token
        return out

    def encode(self, text: Bytes) -> list[int]:
        """The ids that the model would read for a text, those before it with them.

        Raises:
            InputError: the bytes are not UTF-8.
        """
        return [*self.begin, *self.tokenizer.encode(text)]

    def next_tokens(self, contexts: Sequence[Sequence[int]]) -> tuple[_Floats, _Floats]:
        """log P(token | context), what may not follow masked and the rest normalised: (n, V); and that of STOP: (n,).

        Args:
            contexts: ids that begin with ``begin``; after it, the beginning of an encoding.

        Raises:
            InputError: a context does not begin so, or is no beginning of an encoding.
        """
        heads = [Head(self._context(tuple(context)), ROOT) for context in contexts]
        self.ask(heads)
        tokens = np.full((len(heads), self._tree.size), -np.inf)
        stops = np.full(len(heads), -np.inf)
        for row, (context, head) in enumerate(zip(contexts, heads, strict=True)):
            assert head.values is not None
            tokens[row, self.tokenizer.vocabulary.ids] = head.values
            stops[row] = head.stop
            self._contexts[tuple(context)] = head.node
        while len(self._contexts) > _CONTEXTS:
            self._contexts.popitem(last=False)
        return tokens, stops

    def _context(self, ids: tuple[int, ...]) -> Node:
        """A new node of these ids, below the longest part of them that was read lately."""
        if len(ids) < len(self.begin) or ids[: len(self.begin)] != self.begin:
            raise InputError(f"context: got {list(ids[:8])}, allowed ids that begin with {list(self.begin)}")
        known = next((n for n in range(len(ids) - 1, 0, -1) if ids[:n] in self._contexts), 0)
        node = self._contexts[ids[:known]] if known else None
        for number in range(known, len(ids)):
            # no place: what a token weighs after those before it is of no interest
            context = self.tokenizer.validity.start
            if node is not None and number >= len(self.begin):
                place = self._places.get(ids[number], -1)
                context = self.tokenizer.validity.step(node.context, place) if place >= 0 else -1
                if context < 0:
                    raise InputError(
                        f"context: got id {ids[number]} at place {number}, allowed the beginning of an encoding; no "
                        "text is encoded so"
                    )
            node = Node(node, ids[number], context=context)
        assert node is not None
        return node

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        return {number: place for place, number in enumerate(self.tokenizer.vocabulary.ids.tolist())}


def _begin(tokenizer: ByteTokenizer, config: Any) -> tuple[int, ...]:
    found = tokenizer.before
    if not found:
        for name in ("bos_token_id", "eos_token_id"):
            given = getattr(config, name, None)
            if given is not None:
                return (int(given[0] if isinstance(given, (list, tuple)) else given),)
    return found


def _stop(model: Any) -> tuple[int, ...]:
    """What the model's configuration says; none is told by an object that has no configuration."""
    out: dict[int, None] = {}
    for name in ("config", "generation_config"):
        given = getattr(getattr(model, name, None), "eos_token_id", None)
        for number in given if isinstance(given, (list, tuple)) else () if given is None else (given,):
            out[int(number)] = None
    return tuple(out)
