"""Per-example gradients of LoRA factors from one backward pass over a batch.

For a layer y = W x + s B (A x) and delta_t = dLoss/dy_t, the gradients of one example are sums over its tokens t:

    dB = s SUM_t delta_t (A x_t)^T          dA = s SUM_t (B^T delta_t) x_t^T

The loss of a batch is the sum over its examples of each one's mean over predicted tokens. No token of an example enters
the loss of another, so delta_t belongs to the example of t alone, and hooks that see x and delta give every example's
gradient from one pass. Nothing is trained here: neither weights nor factors need a gradient of their own, so the
backward pass has half the products of an ordinary one, and it ends at the first adapted layer.

A layer's gradients are handed on when its delta arrives and need not all be in memory: whoever receives them projects
them at once. Examples may be rows filled up on the right (``scoring.model``) or packed into rows with a block mask
(``training.model``).

Price: a forward pass, half a backward pass, and 4 r (in + out) multiplications a token and adapted layer; in memory the
inputs of the adapted layers (those of q, k and v are one tensor) and n r (in + out) numbers of one layer at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.selectors.targeted.lora import LoraFactors

if TYPE_CHECKING:
    import torch

    from penstock.scoring.model import TokenBatch
    from penstock.training.model import PackedInputs

# (gradients of a run of parameters, one row an example: (n, m); place of the run among all parameters)
Receive = Callable[["torch.Tensor", int], None]

_PLAIN_LOGITS = 1 << 26  # logits held at once, 256 MB in float32; with more the loss is made in chunks


@dataclass(frozen=True)
class Examples:
    """n examples as a model reads them; P is the number of predicted tokens.

    Attributes:
        arguments: of the model's call; ``input_ids`` is (rows, L).
        places: index into the flattened (rows * L) of the token before each predicted one: (P,) int64.
        targets: predicted ids: (P,) int64.
        example: of each predicted token: (P,) int64 below n.
        spans: row, first token and end of every example: (n, 3).
    """

    arguments: dict[str, torch.Tensor]
    places: torch.Tensor
    targets: torch.Tensor
    example: torch.Tensor
    spans: NDArray[np.int64]

    @property
    def one_a_row(self) -> bool:
        """Whether each row is one example from its first token on, so that rows need no cutting."""
        rows = self.arguments["input_ids"].shape[0]
        return bool(len(self.spans) == rows and not self.spans[:, 1].any() and (np.diff(self.spans[:, 0]) == 1).all())

    @classmethod
    def from_batch(
        cls, batch: TokenBatch, *, device: Any = "cpu", learned: NDArray[np.bool_] | None = None
    ) -> Examples:
        """One example a row, in the order of ``batch.rows``.

        Args:
            learned: tokens whose prediction counts, (rows, L); None is all of them.
        """
        import torch

        predicted = batch.predicted if learned is None else batch.predicted & learned[:, 1:]
        row, place = np.nonzero(predicted)
        count, length = batch.tokens.shape

        def move(values: NDArray[np.int64]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)

        return cls(
            arguments={"input_ids": move(batch.tokens)},
            places=move(row * length + place),
            targets=move(batch.tokens[row, place + 1]),
            example=move(row),
            spans=np.stack([np.arange(count), np.zeros(count, np.int64), batch.lengths], axis=1),
        )

    @classmethod
    def from_packed(cls, inputs: PackedInputs) -> Examples:
        """One example a segment of packed rows, numbered through the rows; the model must obey a block mask."""
        from penstock.training.model import model_arguments

        ids = inputs.segment_ids.cpu().numpy()
        spans = []
        for row, of_row in enumerate(ids):
            for segment in range(of_row.max(initial=-1) + 1):
                inside = np.flatnonzero(of_row == segment)
                spans.append((row, inside[0], inside[-1] + 1))
        return cls(
            arguments=model_arguments(
                inputs.tokens, inputs.positions, inputs.segment_ids, cross_document_attention=False
            ),
            places=inputs.places,
            targets=inputs.targets,
            example=inputs.segments,
            spans=np.array(spans, dtype=np.int64).reshape(-1, 3),
        )


def token_losses(model: Any, examples: Examples, *, plain_head: bool) -> torch.Tensor:
    """Cross-entropy in nats of every predicted token: (P,), with its graph.

    Args:
        plain_head: whether the logits are the head on the last hidden states (``training.model.has_plain_head``).
    """
    import torch

    from penstock.training.losses import chunked_cross_entropy

    if plain_head:
        head = model.get_output_embeddings()
        body: Any = model.base_model
        hidden = body(**examples.arguments, use_cache=False).last_hidden_state.flatten(0, 1)[examples.places]
        if len(hidden) * len(head.weight) > _PLAIN_LOGITS:
            return chunked_cross_entropy(hidden, head.weight, examples.targets, bias=head.bias)
        logits = head(hidden)
    else:
        logits = model(**examples.arguments, use_cache=False).logits.flatten(0, 1)[examples.places]
    kind = torch.promote_types(logits.dtype, torch.float32)
    return torch.nn.functional.cross_entropy(logits.to(kind), examples.targets, reduction="none")


def example_means(losses: torch.Tensor, examples: Examples) -> torch.Tensor:
    """Mean of the losses (P,) of each example's predicted tokens: (n,); 0 where nothing is predicted."""
    import torch

    count = len(examples.spans)
    tokens = torch.bincount(examples.example, minlength=count).clamp(min=1).to(losses.dtype)
    return torch.zeros(count, dtype=losses.dtype, device=losses.device).index_add(0, examples.example, losses) / tokens


class PerExampleGradients:
    """Gradients of ``factors`` of ``model`` for every example of a batch; see the module."""

    def __init__(self, model: Any, factors: LoraFactors) -> None:
        """
        Args:
            model: is put into evaluation mode, as with dropout an example would have another gradient each time, and
                its weights are frozen.
        """
        from penstock.training.model import has_plain_head

        model.eval().requires_grad_(False)
        self.model, self.factors = model, factors
        self.plain_head = has_plain_head(model)
        self.spans = {span.name: span for span in factors.layout}

    def run(self, examples: Examples, receive: Receive) -> torch.Tensor:
        """Hand the gradients of every layer's A and B to ``receive``, in any order of layers; gives the losses (n,).

        Args:
            receive: called with gradients (n, m), one row an example, and the place of their first parameter in the
                factors' vector. Over all calls each parameter comes once.

        Raises:
            ConfigError: an adapted layer is not called with one vector for every token of the batch.
        """
        import torch

        waiting: defaultdict[str, int] = defaultdict(int)  # calls of a layer whose delta has not come
        sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        shape = examples.arguments["input_ids"].shape

        def see(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if x.numel() != shape.numel() * x.shape[-1]:
                raise ConfigError(
                    f"lora modules: {name} is called with {tuple(x.shape)} for {tuple(shape)} tokens, allowed layers "
                    "that see every token once a call; leave out layers of experts"
                )
            if not y.requires_grad:  # nothing below this layer is adapted: the backward pass ends here
                y = y.detach().requires_grad_()
            waiting[name] += 1
            x = x.detach()
            y.register_hook(lambda delta: arrive(name, x, delta))
            return y

        def arrive(name: str, x: torch.Tensor, delta: torch.Tensor) -> None:
            found = self._blocks(name, x.view(*shape, -1), delta.view(*shape, -1), examples)
            if name in sums:  # a layer that the model calls more than once
                found = (sums[name][0] + found[0], sums[name][1] + found[1])
            waiting[name] -= 1
            if waiting[name]:
                sums[name] = found
                return
            sums.pop(name, None)
            span = self.spans[name]
            receive(found[0], span.a)
            receive(found[1], span.b)

        with torch.enable_grad(), self.factors.attached(self.model, see=see):
            losses = example_means(token_losses(self.model, examples, plain_head=self.plain_head), examples)
            losses.sum().backward()
        return losses.detach()

    def matrix(self, examples: Examples) -> torch.Tensor:
        """All gradients at once: (n, P), laid out as the factors' vector. For few examples or small models."""
        import torch

        kind = next(iter(self.factors.a.values()))
        out = torch.zeros(len(examples.spans), self.factors.size, dtype=kind.dtype, device=kind.device)

        def keep(block: torch.Tensor, offset: int) -> None:
            out[:, offset : offset + block.shape[1]] = block

        self.run(examples, keep)
        return out

    def _blocks(
        self, name: str, x: torch.Tensor, delta: torch.Tensor, examples: Examples
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """dA and dB of one call of a layer, flattened, one row an example: (n, r * in) and (n, out * r)."""
        a, b, scale = self.factors.a[name], self.factors.b[name], self.factors.scale
        x, delta = x.to(a.dtype), delta.to(a.dtype)
        down, up = (x @ a.T) * scale, (delta @ b) * scale  # A x and B^T delta of every token: (rows, L, r)
        if examples.one_a_row:
            # tokens that fill up have delta 0: nothing that has a loss looks at them
            return (up.transpose(1, 2) @ x).flatten(1), (delta.transpose(1, 2) @ down).flatten(1)
        count = len(examples.spans)
        da, db = x.new_empty(count, a.numel()), x.new_empty(count, b.numel())
        for i, (row, begin, end) in enumerate(examples.spans.tolist()):
            da[i] = (up[row, begin:end].T @ x[row, begin:end]).flatten()
            db[i] = (delta[row, begin:end].T @ down[row, begin:end]).flatten()
        return da, db
