"""What a causal model says at every token of a batch: one forward pass, and the logits of a block of tokens at a time.

    l_t   = log p(x_t | x_<t)
    mu_t  = sum_v p_v log p_v               minus the entropy
    var_t = sum_v p_v (log p_v - mu_t)^2    the same as E[(log p)^2] - mu^2, without its cancellation

The backbone runs once over the batch. Its last hidden states go through the head a block of tokens at a time, and only
the three numbers of each token are kept: no (n, L, V) is ever made. Some families scale or cap their logits behind the
head; which form a model has is tried out on eight tokens. One of an unknown form has its logits made whole, one text at
a time.

Price: the forward pass; logits of a block twice in float32 (8 MB on a processor, 256 MB on a GPU), however long texts
are; for a model of an unknown form 4 V bytes a token of the longest text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.scoring.model import TokenBatch

if TYPE_CHECKING:
    import torch

_LOWEST = -1e4  # log p of a token that cannot come; p log p is 0 then and not NaN
_ROWS_TRIED = 8
# logits of a block unless told: 8 MB in float32 stay in a processor's caches through the passes over them, and products
# of fewer than 64 rows are slow; at V = 32,768 that is 1.3 times as fast as a block of 16 MB
_LOGITS_ON_CPU, _LOGITS_ON_GPU, _FEWEST_TOKENS = 1 << 21, 1 << 26, 64


@dataclass(frozen=True)
class Positions:
    """P predicted tokens of a batch, text after text and from left to right; float64, in nats."""

    row: NDArray[np.int64]  # (P,) row of the batch
    place: NDArray[np.int64]  # (P,) place of the token in its row
    log_p: NDArray[np.float64]  # (P,) l_t
    mean: NDArray[np.float64]  # (P,) mu_t
    variance: NDArray[np.float64]  # (P,) var_t


class PositionReader:
    """Reads batches with one model.

    Args:
        model: of ``load_causal_lm``.
        block: tokens whose logits exist at a time; None is what fits the device.
    """

    def __init__(self, model: Any, block: int | None = None) -> None:
        self.model = model
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        logits = _LOGITS_ON_CPU if model.device.type == "cpu" else _LOGITS_ON_GPU
        self.block = block or max(_FEWEST_TOKENS, logits // self.vocabulary)
        self.logits_of = logits_of_hidden(model)

    def read(self, batch: TokenBatch) -> Positions:
        """The three numbers of every predicted token of a batch."""
        import torch

        row, before = np.nonzero(batch.predicted)
        found = np.empty((3, len(row)))
        with torch.inference_mode():
            for here, logits in self._blocks(batch, row, before):
                targets = torch.from_numpy(batch.tokens[row[here], before[here] + 1]).to(logits.device)
                found[:, here] = statistics_of(logits, targets).cpu().numpy()
        return Positions(row, before + 1, *found)

    def _blocks(
        self, batch: TokenBatch, row: NDArray[np.int64], before: NDArray[np.int64]
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Slices of the predicted tokens, each with the logits at the tokens before: (block, V)."""
        import torch

        if self.logits_of is None:
            for text in range(len(batch.tokens)):
                begin, end = np.searchsorted(row, [text, text + 1])
                if begin < end:
                    tokens = torch.from_numpy(batch.tokens[text : text + 1, : batch.lengths[text]])
                    logits = self.model(input_ids=tokens.to(self.model.device), use_cache=False).logits
                    yield slice(begin, end), logits[0, :-1]
            return
        tokens = torch.from_numpy(batch.tokens).to(self.model.device)
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state.flatten(0, 1)
        places = torch.from_numpy(row * batch.tokens.shape[1] + before).to(hidden.device)
        for begin in range(0, len(row), self.block):
            here = slice(begin, min(begin + self.block, len(row)))
            yield here, self.logits_of(hidden[places[here]])


def statistics_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """l, mu and var of each of B tokens in nats: (3, B), float32 or the logits' type where that is wider.

    Args:
        logits: (B, V), overwritten; a token that cannot come may have minus infinity.
        targets: (B,) int64, the token that came.
    """
    import torch

    # one exponential and everything in place: each pass over a block costs as much as a tenth of its product
    shifted = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shifted = shifted.sub_(shifted.amax(dim=-1, keepdim=True)).clamp_(min=_LOWEST)
    of_target = shifted.gather(1, targets[:, None])[:, 0]
    weight = shifted.exp()
    total = weight.sum(dim=-1)
    centre = torch.linalg.vecdot(weight, shifted) / total
    variance = torch.linalg.vecdot(weight, shifted.sub_(centre[:, None]).square_()) / total
    normaliser = total.log()
    return torch.stack([of_target - normaliser, centre - normaliser, variance])


def logits_of_hidden(model: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """How a model makes logits (B, V) of last hidden states (B, d); None where its form is not known.

    The forms are the head alone, and the head followed by a scale or a soft cap that the configuration names.
    """
    import torch

    head, config = model.get_output_embeddings(), model.config.get_text_config()
    vocabulary = head.weight.shape[0]

    def named(name: str) -> float:
        return float(getattr(config, name, None) or 1.0)

    cap = getattr(config, "final_logit_softcapping", None)
    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda hidden: head(hidden),
        lambda hidden: head(hidden) * named("logit_scale"),
        lambda hidden: head(hidden) / named("logits_scaling"),
    ]
    if cap:
        # first: near 0 the cap does next to nothing, and eight tokens might not show it
        forms.insert(0, lambda hidden: torch.tanh(head(hidden) / cap) * cap)
    tokens = torch.arange(_ROWS_TRIED, device=model.device)[None] % vocabulary
    with torch.inference_mode():
        want = model(input_ids=tokens, use_cache=False).logits[0].float()
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0]
        noise = max(1e-5, 8 * torch.finfo(model.dtype).eps) * max(1.0, float(want.abs().max()))
        for form in forms:
            try:
                got = form(hidden).float()
            except RuntimeError:  # the head reads something of another width
                return None
            if torch.allclose(got, want, rtol=0.0, atol=noise):
                return form
    return None
