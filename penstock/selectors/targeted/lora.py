"""Low-rank factors beside the linear layers of a language model: LoRA (Hu et al., arXiv 2106.09685) in plain torch.

A chosen layer y = W x becomes y = W x + s B (A x) with A (r, in), B (out, r) and s = alpha / r. W stays as it is, and
so does the model: the second term is added by a forward hook, which goes when the factors are taken off. ``merge``
writes s B A into W for good.

    factors = LoraFactors.new(model, LoraConfig(rank=16, alpha=64), seed=0)
    with factors.attached(model):            # the model computes with the factors
        …
    factors.merge(model)                     # or: the model *is* what it computed with them

A begins uniform in ±1/sqrt(in), as the library peft has it, B at zero, so the model begins as it was. Each layer's A
comes from a stream of its own, named after the layer. All factors as one vector are laid out in the order of the
model's layers, A before B (``layout``).

Price: 4 r (in + out) bytes a layer, and r (in + out) multiplications a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import derive

if TYPE_CHECKING:
    import torch

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

# what a hook hands on: name of the layer, input and output of the call
Seen = Callable[[str, "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which layers get factors, and of what size; the defaults are those of LESS.

    Args:
        rank: r, allowed >= 1.
        alpha: the factors' product is scaled by alpha / rank; allowed > 0.
        dropout: share of a layer's input that the factors do not see while they are trained; allowed 0 to below 1.
        modules: last parts of the names of linear layers.
    """

    rank: int = 128
    alpha: float = 512.0
    dropout: float = 0.1
    modules: tuple[str, ...] = ATTENTION

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora rank: got {self.rank}, allowed >= 1; 128 is the paper's, 8 serves small models")
        if not self.alpha > 0:
            raise ConfigError(f"lora alpha: got {self.alpha}, allowed > 0; four times the rank is usual")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora dropout: got {self.dropout}, allowed 0 to below 1")
        if not self.modules:
            raise ConfigError("lora modules: got none, allowed names of linear layers such as q_proj; name some")


@dataclass(frozen=True)
class Span:
    """Where a layer's factors lie in the vector of all of them."""

    name: str
    a: int  # first entry of A, which is (rank, inputs) in C order
    b: int  # first entry of B, (outputs, rank)
    end: int


def linear_layers(model: Any, modules: tuple[str, ...]) -> dict[str, Any]:
    """The model's linear layers whose name ends with one of ``modules``, in the model's order.

    Raises:
        ConfigError: one of ``modules`` is no linear layer of the model; the message names those that are.
    """
    import torch

    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    ends = {name: name.rpartition(".")[2] for name in linear}
    unknown = [name for name in modules if name not in ends.values()]
    if unknown:
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        there = sorted({end for name, end in ends.items() if linear[name] is not head})
        raise ConfigError(
            f"lora modules: {type(model).__name__} has no linear layer {', '.join(unknown)}; it has "
            f"{', '.join(there) or 'none'}; name of these what plays the part of the attention's projections"
        )
    return {name: module for name, module in linear.items() if ends[name] in modules}


class LoraFactors:
    """The factors of one model: ``a[name]`` (rank, inputs) and ``b[name]`` (outputs, rank) by layer."""

    def __init__(self, config: LoraConfig, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
        self.config = config
        self.a, self.b = dict(a), dict(b)
        self.scale = config.alpha / config.rank

    @classmethod
    def new(cls, model: Any, config: LoraConfig, *, seed: int) -> LoraFactors:
        """Fresh factors on the model's device, in float32 or the type of the weights where that is wider.

        Raises:
            ConfigError: the model lacks one of ``config.modules``.
        """
        import torch

        a, b = {}, {}
        for name, layer in linear_layers(model, config.modules).items():
            kind = torch.promote_types(layer.weight.dtype, torch.float32)
            # drawn on the CPU: a device's generator gives other numbers
            draw = torch.Generator().manual_seed(derive(seed, "lora", name))
            bound = layer.in_features**-0.5
            first = torch.rand(config.rank, layer.in_features, generator=draw, dtype=torch.float64)
            a[name] = ((2 * first - 1) * bound).to(layer.weight.device, kind)
            b[name] = torch.zeros(layer.out_features, config.rank, dtype=kind, device=layer.weight.device)
        return cls(config, a, b)

    @property
    def layout(self) -> list[Span]:
        """Places of the layers in the vector of all factors."""
        spans, at = [], 0
        for name, a in self.a.items():
            b = at + a.numel()
            end = b + self.b[name].numel()
            spans.append(Span(name, at, b, end))
            at = end
        return spans

    @property
    def size(self) -> int:
        """P, the number of trained parameters."""
        return sum(a.numel() + b.numel() for a, b in zip(self.a.values(), self.b.values(), strict=True))

    def tensors(self) -> list[torch.Tensor]:
        """A and B of every layer, in the order of ``layout``."""
        return [tensor for name in self.a for tensor in (self.a[name], self.b[name])]

    def vector(self) -> torch.Tensor:
        """A copy of all factors, shape (P,)."""
        import torch

        return torch.cat([tensor.detach().flatten() for tensor in self.tensors()])

    def assign(self, vector: torch.Tensor) -> None:
        """Take over the values of a vector (P,).

        Raises:
            DatasetError: it has another number of entries.
        """
        import torch

        if vector.shape != (self.size,):
            raise DatasetError(
                f"lora factors: got {tuple(vector.shape)}, expected ({self.size},); they are of another model or rank, "
                "so train them again"
            )
        at = 0
        with torch.no_grad():
            for tensor in self.tensors():
                tensor.copy_(vector[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

    @contextmanager
    def attached(self, model: Any, *, see: Seen | None = None, dropout: bool = False) -> Iterator[None]:
        """The model computes with the factors until the block ends, and is as it was afterwards.

        Args:
            see: called with (layer, its input, its output) at every call of an adapted layer; what it returns is the
                output.
            dropout: apply ``config.dropout`` to what the factors see.
        """
        handles = []
        try:
            for name, layer in linear_layers(model, self.config.modules).items():
                handles.append(layer.register_forward_hook(self._hook(name, see, dropout)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, see: Seen | None, dropout: bool) -> Callable[[Any, Any, Any], torch.Tensor]:
        from torch.nn.functional import dropout as drop
        from torch.nn.functional import linear

        a, b, scale = self.a[name], self.b[name], self.scale
        share = self.config.dropout if dropout else 0.0

        def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x = inputs[0].to(a.dtype)
            read = drop(x, share) if share else x
            output = output + (linear(linear(read, a), b) * scale).to(output.dtype)
            return output if see is None else see(name, inputs[0], output)

        return add

    def merge(self, model: Any) -> None:
        """Write the factors into the model's weights: W += s B A."""
        import torch

        with torch.no_grad():
            for name, layer in linear_layers(model, self.config.modules).items():
                layer.weight += (self.b[name] @ self.a[name] * self.scale).to(layer.weight.dtype)
