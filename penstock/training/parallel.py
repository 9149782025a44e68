"""The model as the loop runs it: token losses as one module, spread over the ranks, compiled, checkpointed.

The whole path from tokens to losses is one ``torch.nn.Module``, because the hooks of DDP and FSDP2 act when the
module they wrap is called: a loss taken beside it would find gradients that nobody averages, or weights that
nobody gathered.

``ddp``    every rank holds the model; gradients are averaged while the backward pass runs.
``fsdp``   FSDP2 (``fully_shard``): weights, gradients and moments are split over the ranks along their first
           dimension; each decoder layer is gathered when it is needed.

Both average over ranks, so the loop multiplies each rank's share of the loss by their number; only the last micro-batch
of a step exchanges gradients.

``compile`` compiles the decoder's layers rather than the whole: their shapes are fixed, while the number of predicted
tokens changes with every batch and would compile anew. Activation checkpointing keeps each layer's input and computes
the rest again, with the same dropout, so gradients are the same.

Price: ddp holds 16 bytes a parameter on every rank, fsdp 16 / ranks and two gathers of the weights a step. Every rank
builds the whole model in host memory before it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import ConfigError
from penstock.training.distributed import Ranks
from penstock.training.losses import chunked_cross_entropy
from penstock.training.model import (
    PackedInputs,
    check_isolation,
    has_plain_head,
    hidden_states,
    logits_function,
    model_arguments,
)

if TYPE_CHECKING:
    import torch

Way = Literal["none", "ddp", "fsdp"]


def way_of(parallel: str, ranks: Ranks) -> Way:
    """What ``auto`` means here; ConfigError when several processes would each train a model of their own."""
    if parallel == "auto":
        return "none" if ranks.alone else "ddp"
    if parallel == "none" and not ranks.alone:
        raise ConfigError(f"parallel: got 'none' with {ranks.world_size} processes, allowed 'auto', 'ddp' or 'fsdp'")
    if parallel == "fsdp" and ranks.alone:
        return "none"  # nothing to split; a run may go on with one process
    if parallel == "ddp" and ranks.alone:
        return "none"
    assert parallel in ("none", "ddp", "fsdp")
    return parallel  # type: ignore[return-value]


class Spread:
    """A causal LM on this rank's device and what the loop does with it.

    ``model`` keeps its names: checkpoints, probes and the export see the same parameters in every way.
    """

    def __init__(
        self,
        model: Any,
        *,
        ranks: Ranks,
        device: torch.device,
        way: Way,
        cross_document_attention: bool,
        loss_chunk: int | None,
        compile_layers: bool,
        activation_checkpointing: bool,
    ) -> None:
        """Move ``model``, a transformers causal LM on CPU, to ``device`` and spread it; it is changed in place.

        Raises:
            ConfigError: the model reads across packed documents, has no layers to compile, cannot be checkpointed, or
                its logits are more than a head, which ``loss_chunk`` needs.
        """
        import torch

        self.model, self.ranks, self.device, self.way = model, ranks, device, way
        if way != "fsdp":
            model.to(device)
        logits_of = logits_function(model)
        if not cross_document_attention:
            check_isolation(model, logits_of)
        if loss_chunk is not None and not has_plain_head(model):
            raise ConfigError(
                f"loss_chunk: got {loss_chunk}, but {type(model).__name__} does more to its logits than a head; leave "
                "it out, and bound memory with micro_batch_size"
            )
        head = model.get_output_embeddings()
        if activation_checkpointing:
            _checkpoint_activations(model)
        if compile_layers:
            for layer in decoder_layers(model):
                layer.compile()

        class TokenLosses(torch.nn.Module):
            """(P,) cross-entropy in nats of the predicted tokens of packed sequences."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(
                self,
                tokens: torch.Tensor,
                positions: torch.Tensor,
                segment_ids: torch.Tensor,
                places: torch.Tensor,
                targets: torch.Tensor,
            ) -> torch.Tensor:
                arguments = model_arguments(
                    tokens, positions, segment_ids, cross_document_attention=cross_document_attention
                )
                if loss_chunk is not None:
                    hidden = hidden_states(model, arguments, places)
                    return chunked_cross_entropy(hidden, head.weight, targets, bias=head.bias, chunk=loss_chunk)
                logits = logits_of(arguments, places)
                return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")

        self.module: Any = TokenLosses()
        self._forward: Any = self.module
        if way == "ddp":
            self._forward = torch.nn.parallel.DistributedDataParallel(
                self.module,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        elif way == "fsdp":
            self._shard()

    def _shard(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.ranks.world_size,))
        for layer in decoder_layers(self.model):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        # parameters move with their shards, buffers do not
        for buffers in (module._buffers for module in self.model.modules()):
            for name, buffer in buffers.items():
                if buffer is not None:
                    buffers[name] = buffer.to(self.device)

    def losses(self, inputs: PackedInputs, *, last: bool = True) -> torch.Tensor:
        """Losses of every predicted token (P,), with gradient where that is enabled.

        Args:
            last: whether this micro-batch's backward pass is the step's last, the one that exchanges gradients.
        """
        if self.way == "fsdp":
            self.module.set_requires_gradient_sync(last)
        out: torch.Tensor = self._forward(
            inputs.tokens, inputs.positions, inputs.segment_ids, inputs.places, inputs.targets
        )
        return out

    def bare_losses(self, inputs: PackedInputs) -> torch.Tensor:
        """The same beside training: for evaluation and probes, without what DDP prepares for a backward pass."""
        if self.way == "fsdp":
            self.module.set_requires_gradient_sync(True)
        out: torch.Tensor = self.module(
            inputs.tokens, inputs.positions, inputs.segment_ids, inputs.places, inputs.targets
        )
        return out

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of one micro-batch."""
        if self.way == "ddp" and not last:
            held: AbstractContextManager[Any] = self._forward.no_sync()
            return held
        return nullcontext()

    def gradient_norm(self) -> torch.Tensor:
        """Norm of the whole gradient over all parameters and shards: a plain tensor on the device."""
        import torch

        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        whole: torch.Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return whole

    def clip(self, norm: torch.Tensor, most: float) -> None:
        """Scale the gradient down to norm ``most`` where ``norm``, its own, is above."""
        import torch

        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), most, norm)

    def whole_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter, gathered, on CPU; all ranks walk along together."""
        for name, parameter in self.model.named_parameters():
            value: Any = parameter.detach()
            yield name, (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu()


def decoder_layers(model: Any) -> list[Any]:
    """The repeated blocks of a transformer: the modules of its largest list."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not lists:
        raise ConfigError(f"model: {type(model).__name__} has no list of layers; set compile: false and parallel: ddp")
    size: Callable[[Any], int] = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    return list(max(lists, key=size))


def _checkpoint_activations(model: Any) -> None:
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"activation_checkpointing: {type(model).__name__} does not support it ({error}); set it to false"
        ) from error
