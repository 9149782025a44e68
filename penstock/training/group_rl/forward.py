"""Log-probabilities of answers under a model, with gradient, where a prompt is read once for all its answers.

A group's answers share their prompt. Read row by row, the prompt is computed once an answer; as a *shared prefix* it is
computed once: its causal self-attention fills keys and values, and every answer's tokens then attend to those and to
themselves, at positions that go on from the prompt's length. The prompt's last position predicts each answer's first
token. Outputs are those of the repeated form, and the gradient through a prompt's keys and values is the sum over its
answers (the idea of Prefix Grouper, arXiv 2506.05433, here by two passes of an unchanged model and its cache).

Price: with U prompts and N answers, filled up to P and R tokens, U * P + N * R positions go through the model instead
of N * (P + R); the prompts' keys and values are copied once for each answer in every layer, and where prompts differ in
length there is a mask of N * R * (P + R) bytes. Only positions that predict a token of an answer go through the head:
4 * V bytes each, twice while the gradient is taken. A smaller batch bounds all of it. The other way, one row a group
under a tree-shaped mask, was slower: it computes the attention between answers that the mask then hides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from penstock.errors import ConfigError, InputError
from penstock.training.model import has_plain_head

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# what was tried out of a model: how it was set up then, and whether a prompt can be shared
_tried: WeakKeyDictionary[Any, tuple[Any, bool]] = WeakKeyDictionary()
_plain: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
# tokens of the try-out: two answers to the first prompt, one of a single token, and one answer to the second prompt
_PROBE = (((1, 2, 3, 4, 5), (6, 7, 8)), ((1, 2, 3, 4, 5), (9,)), ((10, 11), (12, 13)))


def token_logprobs(
    model: Any,
    prompts: Sequence[NDArray[Any]],
    responses: Sequence[NDArray[Any]],
    *,
    temperature: float = 1.0,
    shared_prefix: bool = True,
) -> list[torch.Tensor]:
    """The log-probability in nats of every token of every response after its prompt, with gradient.

    Dropout is the model's own business: where it is on, answers to one prompt share the prompt's draw.

    Args:
        model: a causal LM of transformers.
        prompts: N arrays of token ids; rows with equal prompts read it once.
        responses: N arrays of token ids.
        temperature: logits are divided by it.
        shared_prefix: False reads every row whole. True does so too where the model does not allow sharing
            (``can_share_prefix``, said once in the log), where sharing would read no fewer tokens, or where a row
            is longer than a sliding window; the figures are the same.

    Returns:
        N tensors on the model's device, the i-th of shape (len(responses[i]),), in float32 or the model's wider type.

    Raises:
        ConfigError: the temperature is no finite number above 0.
        InputError: not as many responses as prompts, an empty one, a token outside the vocabulary, or a row that is
            longer than the model's context.
    """
    import torch

    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: got {temperature}, allowed a finite number > 0; 1 leaves the logits alone")
    rows = _Rows.of(prompts, responses)
    if not rows.responses:
        return []
    _check(model, rows)
    shared = shared_prefix and rows.saves and not _beyond_window(model, rows) and can_share_prefix(model)
    logits, source = _read_logits(model, rows, _read_shared if shared else _read_whole)
    targets = _move(model, np.concatenate(rows.responses).astype(np.int64))
    found = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)[source, targets]
    return list(found.split(rows.lengths.tolist()))


def can_share_prefix(model: Any) -> bool:
    """Whether ``token_logprobs`` may read a prompt once for all its answers; tried out on a few tokens, once a model.

    It may where the model takes keys and values of its own cache with positions and a mask, and lets the gradient
    through them: most attention models with SDPA do. State-space layers, eager attention, rotary embeddings that change
    with the length of the text and gradient checkpointing do not; a warning in the log says so.
    """
    config = model.config
    setup = (
        getattr(config, "_attn_implementation", None),
        bool(getattr(model, "is_gradient_checkpointing", False)),
        model.dtype,
    )
    known = _tried.get(model)
    if known is None or known[0] != setup:
        why = _why_not(model)
        if why is not None:
            logger.warning("%s: a prompt is read again for each of its answers, since %s", type(model).__name__, why)
        known = _tried[model] = (setup, why is None)
    return known[1]


@dataclass(frozen=True)
class _Rows:
    """N prompts with responses; U prompts are distinct."""

    distinct: list[NDArray[np.int32]]  # U arrays
    owner: NDArray[np.int64]  # (N,) which of them a row has
    responses: list[NDArray[np.int32]]  # N arrays
    lengths: NDArray[np.int64]  # (N,) of the responses

    @staticmethod
    def of(prompts: Sequence[NDArray[Any]], responses: Sequence[NDArray[Any]]) -> _Rows:
        if len(prompts) != len(responses):
            raise InputError(f"got {len(prompts)} prompts and {len(responses)} responses, allowed as many; pair them")
        numbers: dict[bytes, int] = {}
        distinct: list[NDArray[np.int32]] = []
        owner = np.empty(len(prompts), dtype=np.int64)
        for n, prompt in enumerate(prompts):
            tokens = np.asarray(prompt, dtype=np.int32)
            number = numbers.setdefault(tokens.tobytes(), len(distinct))
            if number == len(distinct):
                distinct.append(tokens)
            owner[n] = number
        answers = [np.asarray(response, dtype=np.int32) for response in responses]
        for what, arrays in (("prompt", [distinct[number] for number in owner]), ("response", answers)):
            empty = next((n for n, array in enumerate(arrays) if not len(array)), None)
            if empty is not None:
                raise InputError(f"{what} {empty} is empty, allowed one token or more; leave the row out")
        return _Rows(distinct, owner, answers, _lengths(answers))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its response."""
        return int((_lengths(self.distinct)[self.owner] + self.lengths).max())

    @property
    def saves(self) -> bool:
        """Whether sharing reads fewer positions, filling counted."""
        prompt, rest = int(_lengths(self.distinct).max()), int(self.lengths.max()) - 1
        count = len(self.responses)
        return len(self.distinct) * prompt + count * rest < count * (self.longest - 1)


def _lengths(arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))


def _check(model: Any, rows: _Rows) -> None:
    """Raise InputError for tokens or lengths that the model cannot read: on a GPU they would end the process."""
    size = int(model.config.vocab_size)
    for what, arrays in (("prompts", rows.distinct), ("responses", rows.responses)):
        tokens = np.concatenate(arrays)
        least, most = int(tokens.min()), int(tokens.max())
        if least < 0 or most >= size:
            got = least if least < 0 else most
            raise InputError(f"{what}: got token {got}, allowed 0 to {size - 1}; use the model's own tokenizer")
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and rows.longest > limit:
        raise InputError(
            f"a prompt with its response has {rows.longest} tokens, the model reads {limit}; allow fewer new tokens"
        )


def _beyond_window(model: Any, rows: _Rows) -> bool:
    """Whether a row is longer than some layer's attention reaches: the shared form knows no window."""
    config = model.config
    windows = [getattr(config, "attention_chunk_size", None)]
    if getattr(config, "use_sliding_window", True):
        windows.append(getattr(config, "sliding_window", None))
    return any(window is not None and rows.longest > window for window in windows)


def _fill(arrays: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The arrays as rows filled up on the right, and where their tokens are: two of shape (n, longest)."""
    lengths = _lengths(arrays)
    inside = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros(inside.shape, dtype=np.int64)
    tokens[inside] = np.concatenate(arrays)
    return tokens, inside


def _move(model: Any, values: NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(values).to(model.device)


def _read_whole(model: Any, rows: _Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row: what the head reads before each response token (T, d), and 0, 1, …, T - 1."""
    prompts = [rows.distinct[number] for number in rows.owner]
    pairs = zip(prompts, rows.responses, strict=True)
    tokens, inside = _fill([np.concatenate([prompt, response[:-1]]) for prompt, response in pairs])
    # what follows a token cannot reach it, so the filling on the right needs no mask
    inside &= np.arange(tokens.shape[1]) >= _lengths(prompts)[:, None] - 1
    places = _move(model, np.flatnonzero(inside))
    out = _call(model, input_ids=_move(model, tokens), use_cache=False)
    return _states(model, out)[places], _move(model, np.arange(len(places)))


def _read_shared(model: Any, rows: _Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts once: what the head reads at the U last positions and before later tokens, and which of these each
    response token needs (T,)."""
    import torch
    from transformers import DynamicCache

    prompts, asked = _fill(rows.distinct)
    lengths = _lengths(rows.distinct)
    last = np.arange(len(lengths)) * prompts.shape[1] + lengths - 1
    cache: Any = DynamicCache()
    out = _call(model, input_ids=_move(model, prompts), past_key_values=cache, use_cache=True)
    states = [_states(model, out)[_move(model, last)]]

    first = np.zeros(int(rows.lengths.sum()), dtype=np.bool_)
    first[np.cumsum(rows.lengths) - rows.lengths] = True
    source = np.empty(len(first), dtype=np.int64)
    source[first] = rows.owner
    source[~first] = len(lengths) + np.arange(len(first) - len(rows.lengths))

    if len(first) > len(rows.lengths):
        tokens, inside = _fill([response[:-1] for response in rows.responses])
        width = tokens.shape[1]
        owner = _move(model, rows.owner)
        of_rows: Any = DynamicCache()
        for number, layer in enumerate(cache.layers):
            of_rows.update(layer.keys.index_select(0, owner), layer.values.index_select(0, owner), number)
        # a prompt's own tokens, then what came before in the response; one mask for all rows where that is enough
        own = torch.ones(width, width, dtype=torch.bool, device=model.device).tril()[None, None]
        sees = _move(model, asked[rows.owner] if not asked.all() else asked[:1])[:, None, None]
        count = len(sees)
        mask = torch.cat([sees.expand(-1, -1, width, -1), own.expand(count, -1, -1, -1)], dim=-1)
        positions = lengths[rows.owner][:, None] + np.arange(width)
        out = _call(
            model,
            input_ids=_move(model, tokens),
            attention_mask=mask,
            position_ids=_move(model, positions),
            past_key_values=of_rows,
            use_cache=True,
        )
        states.append(_states(model, out)[_move(model, np.flatnonzero(inside))])
    return torch.cat(states), _move(model, source)


def _read_logits(
    model: Any, rows: _Rows, read: Callable[[Any, _Rows], tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in float32 or wider, and which of them predicts each response token (T,)."""
    import torch

    states, source = read(model, rows)
    logits = model.get_output_embeddings()(states) if _has_plain_head(model) else states
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), source


def _has_plain_head(model: Any) -> bool:
    import torch

    if model not in _plain:
        # the rounding of an autocast is no difference
        with torch.autocast(model.device.type, enabled=False):
            _plain[model] = has_plain_head(model)
    return _plain[model]


def _call(model: Any, **arguments: Any) -> Any:
    return (model.base_model if _has_plain_head(model) else model)(**arguments)


def _states(model: Any, out: Any) -> torch.Tensor:
    """What the head reads at all places (n * L, d), or logits where a family does more than its head."""
    found: torch.Tensor = (out.last_hidden_state if _has_plain_head(model) else out.logits).flatten(0, 1)
    return found


def _why_not(model: Any) -> str | None:
    """Why a prompt cannot be shared, or None: both forms on a few tokens, and their gradient through all of them."""
    import torch

    if getattr(model, "is_gradient_checkpointing", False):
        return "gradient checkpointing keeps no keys and values"
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = {one.get("rope_type") for one in (rope, *rope.values()) if isinstance(one, dict)}
    if kinds & {"dynamic", "longrope"}:
        return f"its rotary embedding ({', '.join(sorted(map(str, kinds - {None})))}) changes with the length of a text"
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(model.device.type, enabled=False):
            values, gradient = _probe(model, _read_whole)
            of_shared, gradient_of_shared = _probe(model, _read_shared)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return f"its cache or its mask is another's ({type(error).__name__}: {error})"
    finally:
        model.train(training)
    allowed = 1e-3 if model.dtype.itemsize >= 4 else 0.1  # half precision rounds the two forms apart
    spread = float(values.max() - values.min())
    if not float((values - of_shared).abs().max()) <= allowed * spread:
        return "it reads something else by keys and values"
    if not float((gradient - gradient_of_shared).norm()) <= allowed * float(gradient.norm()):
        return "its gradient does not go through keys and values"
    return None


def _probe(model: Any, read: Callable[[Any, _Rows], tuple[torch.Tensor, torch.Tensor]]) -> tuple[Any, Any]:
    """Logits before each response token of the try-out, and the gradient of their weighted sum in a factor on every
    embedding: it has a part through each token that was read."""
    import torch

    rows = _Rows.of(*([np.array(row[n]) % model.config.vocab_size for row in _PROBE] for n in (0, 1)))
    embedding = model.get_input_embeddings()
    width, dtype = embedding.weight.shape[1], embedding.weight.dtype
    factor = torch.ones(width, dtype=dtype, device=model.device, requires_grad=True)
    hook = embedding.register_forward_hook(lambda module, inputs, out: out * factor)
    try:
        logits, source = _read_logits(model, rows, read)
    finally:
        hook.remove()
    values = logits[source]
    weights = torch.linspace(-1.0, 1.0, values.numel(), dtype=values.dtype, device=values.device).view_as(values)
    (gradient,) = torch.autograd.grad((values * weights).sum(), factor)
    return values.detach(), gradient
