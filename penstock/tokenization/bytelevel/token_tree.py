"""A causal language model read along a tree of contexts, each token position once.

A context is a node: a token, and its parent. Evaluating nodes gives the logits after each, in as few forward passes as
there is room for: nodes that hang on one evaluated ancestor form a line of the batch, whose mask lets each see its own
ancestors. Keys and values of every node are kept in a pool as long as the node lives, so a node whose parent was
evaluated costs one position. What is read of a prompt is thus one pass over its tree, and a byte of streaming one
position a context.

A model that is not attention over keys and values alone (recurrent layers, its own caches) is read without any: each
context whole. That is found out at the beginning by comparing both ways on a small tree.

Price: beside the model's own work the keys and values of all ancestors are copied once for each context, as its own
cache does once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_POSITIONS = 1024  # token positions of one pass, what fills up counted; their logits are there at once
_ROUGH = 1e-3  # logits by cache and without may differ by so much of the largest


class Node:
    """A context: its last token, and where it hangs.

    Attributes:
        token: id.
        place: of the token in the vocabulary; -1 for one that stands before the text.
        context: of ``Validity``.
        weight: log-probability of its tokens since the text began.
        slot: place in the pool; -1 before it is evaluated, -2 where there is no pool.
    """

    __slots__ = ("__weakref__", "context", "depth", "parent", "place", "pool", "slot", "token", "weight")

    def __init__(self, parent: Node | None, token: int, *, place: int = -1, context: int = 0) -> None:
        self.parent = parent
        self.token = token
        self.place = place
        self.context = context
        self.weight = 0.0
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.slot = -1
        self.pool: _Pool | None = None

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool.free.append(self.slot)

    def path(self) -> list[Node]:
        """The node and its ancestors, the first first."""
        out, node = [], self
        while node is not None:
            out.append(node)
            node = node.parent  # type: ignore[assignment]
        out.reverse()
        return out

    def ids(self) -> list[int]:
        """The tokens of the context."""
        return [node.token for node in self.path()]


Receive = Callable[[Node, NDArray[Any]], None]


class TokenTree(Protocol):
    """Something that gives the logits after contexts."""

    size: int  # ids
    positions: int  # token positions computed so far
    passes: int  # forward passes so far

    def evaluate(self, nodes: Sequence[Node], receive: Receive) -> None:
        """Call ``receive(node, logits (size,))`` for each node, for parents before their children.

        Args:
            nodes: not evaluated, parents before their children, with all their ancestors that are not evaluated.
        """


class FunctionTree:
    """Logits from a function of token ids: an object with ``size`` and ``logits(contexts) -> (n, size)``."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.size = int(model.size)
        self.positions = self.passes = 0

    def evaluate(self, nodes: Sequence[Node], receive: Receive) -> None:
        if not nodes:
            return
        found = self._model.logits([tuple(node.ids()) for node in nodes])
        self.positions += len(nodes)
        self.passes += 1
        for node, logits in zip(nodes, found, strict=True):
            node.slot = -2
            receive(node, logits)


class _Pool:
    """Keys and values of nodes by slot, one tensor a layer."""

    def __init__(self) -> None:
        self.free: list[int] = []
        self.size = 0
        self.keys: list[torch.Tensor] = []  # (size, heads, width) each
        self.values: list[torch.Tensor] = []

    def take(self, nodes: Sequence[Node]) -> list[int]:
        slots = []
        for node in nodes:
            if not self.free:
                more = max(256, self.size)
                self.free.extend(range(self.size + more - 1, self.size - 1, -1))
                self.size += more
            node.slot = self.free.pop()
            node.pool = self
            slots.append(node.slot)
        return slots

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep (n, heads, width) at n slots."""
        for kept, given in ((self.keys, keys), (self.values, values)):
            if layer == len(kept):
                kept.append(given.new_zeros((self.size, *given.shape[1:])))
            if len(kept[layer]) < self.size:
                grown = given.new_zeros((self.size, *given.shape[1:]))
                grown[: len(kept[layer])] = kept[layer]
                kept[layer] = grown
            kept[layer][slots] = given


class CausalTree:
    """A transformers causal LM.

    Raises:
        ConfigError: it takes no token ids or gives no logits.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self.positions = self.passes = 0
        config = getattr(model, "config", None)
        if config is None:
            self._refuse("it has no configuration")
        text = config.get_text_config()
        limits = [getattr(text, "max_position_embeddings", None)]
        if getattr(text, "use_sliding_window", True):
            limits.append(getattr(text, "sliding_window", None))
        self._limit = min((int(limit) for limit in limits if limit), default=None)
        self._pool = _Pool()
        self.size = 0
        self._cached = True
        self._cached = self._compare()
        self.positions = self.passes = 0

    def _compare(self) -> bool:
        """Whether reading by the pool gives what reading whole contexts gives."""
        root = Node(None, 0)
        children = [Node(root, token) for token in (1, 2)]
        nodes = [root, *children, Node(children[0], 2), Node(children[1], 0)]
        whole: dict[int, NDArray[Any]] = {}
        pooled: dict[int, NDArray[Any]] = {}
        try:
            self._whole(nodes, lambda node, logits: whole.update({id(node): logits}))
        except Exception as error:  # noqa: BLE001  whatever a model that takes no ids raises
            self._refuse(str(error), error)
        self.size = len(whole[id(root)])
        for node in nodes:
            node.slot = -1
        try:
            for part in (nodes[:2], nodes[2:]):
                self._by_pool(part, lambda node, logits: pooled.update({id(node): logits}))
        except Exception as error:  # noqa: BLE001  whatever a model of another kind makes of the cache
            logger.info("the model cannot be read by keys and values (%s), so every context is read whole", error)
            return False
        one, other = (np.stack([way[id(node)] for node in nodes]) for way in (whole, pooled))
        alike = bool(np.abs(one - other).max() <= _ROUGH * max(1.0, float(np.abs(one).max())))
        if not alike:
            logger.info("the model reads something else by keys and values, so every context is read whole")
        return alike

    def _refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        raise ConfigError(
            f"model: got {type(self._model).__name__}, which gives no logits for token ids ({why}); give a causal "
            "language model of transformers"
        ) from error

    def evaluate(self, nodes: Sequence[Node], receive: Receive) -> None:
        """As ``TokenTree``.

        Raises:
            InputError: a context is longer than the model reads.
        """
        if not nodes:
            return
        deepest = max(node.depth for node in nodes) + 1
        if self._limit is not None and deepest > self._limit:
            raise InputError(f"model: got a context of {deepest} tokens, allowed {self._limit}; give shorter texts")
        (self._by_pool if self._cached else self._whole)(nodes, receive)

    # ── whole contexts ───────────────────────────────────────────────────────────────────────────

    def _whole(self, nodes: Sequence[Node], receive: Receive) -> None:
        import torch

        for begin in range(0, len(nodes), 16):
            part = nodes[begin : begin + 16]
            rows = [node.ids() for node in part]
            width = max(map(len, rows))
            tokens = torch.zeros((len(rows), width), dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for number, row in enumerate(rows):
                tokens[number, : len(row)] = torch.tensor(row)
                mask[number, : len(row)] = 1
            device = self._model.device
            with torch.inference_mode():
                logits = self._model(
                    input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False
                ).logits
            last = [len(row) - 1 for row in rows]
            found = logits[torch.arange(len(rows)), last].float().cpu().numpy()
            self.positions += int(mask.sum())
            self.passes += 1
            for node, one in zip(part, found, strict=True):
                node.slot = -2
                receive(node, one)

    # ── by the pool ──────────────────────────────────────────────────────────────────────────────

    def _by_pool(self, nodes: Sequence[Node], receive: Receive) -> None:
        waiting = list(nodes)
        while waiting:
            lines, rest = _lines(waiting)
            for batch in _batches(lines):
                self._forward(batch, receive)
            waiting = rest

    def _forward(self, lines: list[tuple[list[Node], list[Node]]], receive: Receive) -> None:
        """One pass over lines of (ancestors, new nodes)."""
        import torch
        from transformers import DynamicCache

        model, pool = self._model, self._pool
        device, dtype = model.device, model.dtype
        past = max(len(ancestors) for ancestors, _ in lines)
        width = max(len(new) for _, new in lines)
        tokens = np.zeros((len(lines), width), dtype=np.int64)
        positions = np.zeros((len(lines), width), dtype=np.int64)
        where = np.zeros((len(lines), past), dtype=np.int64)
        seen = np.zeros((len(lines), width, past + width), dtype=bool)
        for row, (ancestors, new) in enumerate(lines):
            where[row, past - len(ancestors) :] = [node.slot for node in ancestors]
            tokens[row, : len(new)] = [node.token for node in new]
            positions[row, : len(new)] = [node.depth for node in new]
            seen[row, : len(new), past - len(ancestors) : past] = True
            _see(new, seen[row, :, past:])
        cache = DynamicCache()
        if past:
            index = torch.from_numpy(where.ravel()).to(device)
            for layer, (keys, values) in enumerate(zip(pool.keys, pool.values, strict=True)):
                shape = (len(lines), past, *keys.shape[1:])
                cache.update(
                    keys.index_select(0, index).view(shape).transpose(1, 2),
                    values.index_select(0, index).view(shape).transpose(1, 2),
                    layer,
                )
        mask = None
        if width > 1 or not seen.all():
            mask = torch.zeros((len(lines), 1, width, past + width), dtype=dtype)
            mask.masked_fill_(torch.from_numpy(~seen[:, None]), torch.finfo(dtype).min)
            mask = mask.to(device)
        with torch.inference_mode():
            logits = model(
                input_ids=torch.from_numpy(tokens).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                cache_position=torch.arange(past, past + width, device=device),
            ).logits
        row_of = np.repeat(np.arange(len(lines)), [len(new) for _, new in lines])
        column_of = np.concatenate([np.arange(len(new)) for _, new in lines])
        flat = [node for _, new in lines for node in new]
        with torch.inference_mode():
            slots = torch.tensor(pool.take(flat), device=device)
            rows, columns = (torch.from_numpy(a).to(device) for a in (row_of, column_of))
            made: Any
            for layer, made in enumerate(cache.layers):
                pool.write(layer, slots, made.keys[rows, :, past + columns], made.values[rows, :, past + columns])
            found = logits[rows, columns].float().cpu().numpy()
        self.positions += len(flat)
        self.passes += 1
        for node, one in zip(flat, found, strict=True):
            receive(node, one)


def _see(new: list[Node], seen: NDArray[np.bool_]) -> None:
    """Mark which of the new nodes each one sees: itself and its ancestors; what fills up sees itself."""
    place = {id(node): number for number, node in enumerate(new)}
    np.fill_diagonal(seen, True)
    for number, node in enumerate(new):
        above = place.get(id(node.parent), -1)
        if above >= 0:
            seen[number] |= seen[above]


def _lines(nodes: Sequence[Node]) -> tuple[list[tuple[list[Node], list[Node]]], list[Node]]:
    """Nodes by the evaluated ancestor they hang on, at most ``_POSITIONS`` a line; and those left for a later pass."""
    anchor: dict[int, Node | None] = {}  # of new nodes, by id
    groups: dict[int, tuple[Node | None, list[Node]]] = {}
    rest = []
    for node in nodes:
        above = node.parent
        if above is not None and above.slot == -1:
            if id(above) not in anchor:  # its parent waits
                rest.append(node)
                continue
            top = anchor[id(above)]
        else:
            top = above
        _, group = groups.setdefault(id(top), (top, []))
        if len(group) >= _POSITIONS:
            rest.append(node)
            continue
        anchor[id(node)] = top
        group.append(node)
    return [(top.path() if top is not None else [], group) for top, group in groups.values()], rest


def _batches(lines: list[tuple[list[Node], list[Node]]]) -> list[list[tuple[list[Node], list[Node]]]]:
    """Lines of about equal width together, at most ``_POSITIONS`` positions each."""
    out: list[list[tuple[list[Node], list[Node]]]] = []
    width = 0
    for line in sorted(lines, key=lambda line: -len(line[1])):
        if out and len(out[-1]) < _POSITIONS // max(width, 1) and 2 * len(line[1]) > width:
            out[-1].append(line)
        else:
            out.append([line])
            width = len(line[1])
    return out
