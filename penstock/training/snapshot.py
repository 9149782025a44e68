"""What a checkpoint holds of a model and its optimiser, and how any number of ranks takes it back.

Under FSDP2 every rank saves its own rows of each tensor. Otherwise all ranks hold the same tensors and each saves a
share of about equal bytes. Reading asks for names and rows, so a run may go on with another number of ranks or
another way to share.

Random generators are a rank's own. A rank that the saved run did not have starts a stream of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.seeding import derive
from penstock.training.checkpoint import Piece, Tensors
from penstock.training.distributed import Ranks

if TYPE_CHECKING:
    import torch

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, tied ones once, and persistent buffers by name."""
    saved = model.state_dict().keys()
    weights = dict(model.named_parameters())
    weights.update((name, buffer) for name, buffer in model.named_buffers() if name in saved)
    return weights


def moments_of(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state by ``kind/parameter``; a parameter that was never updated has none."""
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def owned(tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor | Piece]:
    """The tensors, and rows of split ones, that this rank saves: together the ranks save each once."""
    out: dict[str, torch.Tensor | Piece] = {}
    whole: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if hasattr(value, "to_local"):
            local, first, rows = _rows(value, ranks)
            if len(local):
                out[name] = Piece(local, first, rows)
        else:
            whole[name] = value
    load = [0] * ranks.world_size
    for name in sorted(whole, key=lambda name: (-whole[name].nbytes, name)):
        rank = load.index(min(load))
        load[rank] += whole[name].nbytes
        if rank == ranks.rank:
            out[name] = whole[name]
    return {name: out[name] for name in tensors if name in out}


def load_weights(model: Any, saved: Tensors, ranks: Ranks) -> None:
    """Copy weights of a checkpoint into the model, each rank what it holds."""
    import torch

    with torch.no_grad():
        for name, weight in weights_of(model).items():
            _copy(weight, saved, name, ranks)


def load_moments(model: Any, optimizer: torch.optim.Optimizer, saved: Tensors, ranks: Ranks) -> None:
    """Give the optimiser the state of every parameter that the checkpoint has one of."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"step/{name}" not in saved:
                continue
            state: dict[str, Any] = {"step": saved[f"step/{name}"].to(parameter.device)}
            for kind in MOMENTS[1:]:
                state[kind] = torch.empty_like(parameter)
                _copy(state[kind], saved, f"{kind}/{name}", ranks)
            optimizer.state[parameter] = state


def generator_states(device: torch.device, ranks: Ranks) -> dict[str, torch.Tensor]:
    """States of this rank's random generators."""
    import torch

    states = {f"rng/{ranks.rank}/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"rng/{ranks.rank}/cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_generators(saved: Tensors, device: torch.device, ranks: Ranks, *, seed: int, step: int) -> None:
    """Set this rank's generators to the saved states, or to streams of their own where there is none."""
    import torch

    torch.manual_seed(derive(seed, "training", ranks.rank, step))
    if f"rng/{ranks.rank}/cpu" in saved:
        torch.set_rng_state(saved[f"rng/{ranks.rank}/cpu"])
    # a checkpoint of another device has no state for this one
    if device.type == "cuda" and f"rng/{ranks.rank}/cuda" in saved:
        torch.cuda.set_rng_state(saved[f"rng/{ranks.rank}/cuda"], device)


def seed_generators(ranks: Ranks, *, seed: int) -> None:
    """Begin every rank's generators; the first rank's stream is that of a run of one process."""
    import torch

    torch.manual_seed(derive(seed, "training") if ranks.first else derive(seed, "training", ranks.rank))


def _rows(value: Any, ranks: Ranks) -> tuple[torch.Tensor, int, int]:
    """Local rows of a tensor split along its first dimension, the first one's number, and the rows of the whole."""
    rows = int(value.shape[0])
    first = min(ranks.rank * -(-rows // ranks.world_size), rows)
    local = value.to_local()
    assert value.placements[0].is_shard(0), f"split along another dimension than the first: {value.placements}"
    assert len(local) == min(-(-rows // ranks.world_size), rows - first), "rows are dealt out as torch.chunk does"
    return local, first, rows


def _copy(target: Any, saved: Tensors, name: str, ranks: Ranks) -> None:
    if hasattr(target, "to_local"):
        local, first, _ = _rows(target, ranks)
        local.copy_(saved.rows(name, first, first + len(local)))
    else:
        target.copy_(saved[name])
