"""The processes of one training run: who is which, and the few numbers they exchange.

``torchrun`` (or ``TrainConfig.processes``, which starts it) gives every process its rank through environment variables;
``join`` makes the process group of them. Data travels in three ways, each in a group of its own so that none waits for
another's turn: gradients and parameters over NCCL on GPUs and gloo on CPUs; the step's sums and counts as float64 on
the host; and a checkpoint's commit from its writer thread.

What goes round is tensors and UTF-8 text, never a pickled object.

Price: one host all-reduce of 2 K + 3 numbers a step, one of a single number before the gradient.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, LostRanksError, TrainingError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. The default is a run of one process, where nothing is exchanged."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes of this machine: the device, never a place in the batch
    _host: Any = None  # gloo group for numbers of a step
    _files: Any = None  # gloo group for the checkpoint writer's thread

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    @property
    def host_group(self) -> Any:
        """The process group for numbers on the host; None is the default one."""
        return self._host

    def sum(self, values: Floats) -> Floats:
        """Elementwise sum over all ranks in float64, the same bits on each."""
        return self._reduce(values, "SUM")

    def max(self, values: Floats) -> Floats:
        """Elementwise maximum over all ranks."""
        return self._reduce(values, "MAX")

    def _reduce(self, values: Floats, how: str) -> Floats:
        if self.alone:
            return values
        import torch
        import torch.distributed as dist

        tensor = torch.from_numpy(np.array(values, dtype=np.float64))
        with _named("exchange the numbers of a step"):
            dist.all_reduce(tensor, getattr(dist.ReduceOp, how), group=self._host)
        return tensor.numpy()

    def gather(self, values: Floats) -> list[Floats]:
        """Every rank's vector, in rank order; lengths may differ."""
        if self.alone:
            return [values]
        blocks = self._gather_bytes(np.ascontiguousarray(values, dtype=np.float64).tobytes(), self._host)
        return [np.frombuffer(block, dtype=np.float64) for block in blocks]

    def gather_text(self, text: str, *, files: bool = False) -> list[str]:
        """Every rank's text, in rank order; ``files`` is said by the checkpoint writer, which has its own group."""
        if self.alone:
            return [text]
        return [block.decode() for block in self._gather_bytes(text.encode(), self._files if files else self._host)]

    def _gather_bytes(self, data: bytes, group: Any) -> list[bytes]:
        import torch
        import torch.distributed as dist

        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        with _named("gather what the others have"):
            dist.all_gather(sizes, torch.tensor([len(data)]), group=group)
            longest = max(1, *(int(size) for size in sizes))
            mine = torch.zeros(longest, dtype=torch.uint8)
            mine[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
            blocks = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
            dist.all_gather(blocks, mine, group=group)
        return [block.numpy().tobytes()[: int(size)] for block, size in zip(blocks, sizes, strict=True)]

    def barrier(self) -> None:
        """Return once every rank has called it."""
        self.sum(np.zeros(1))

    def require_equal(self, what: str, value: str) -> None:
        """Raise TrainingError unless every rank holds the same text."""
        found = self.gather_text(value)
        if len(set(found)) > 1:
            told = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(found))
            raise TrainingError(
                f"the processes disagree about {what} ({told}); start them with one configuration on one shared folder"
            )


@contextmanager
def join(*, timeout: float) -> Iterator[Ranks]:
    """The process group of torchrun's environment variables; without them, one process.

    A group that the caller has made already is used and left as it is. A group made here is taken down on leaving, but
    not after an error: the others may hang in a collective, and the process that started them ends them.

    Args:
        timeout: seconds that a rank waits for the others in one exchange.
    """
    import torch.distributed as dist

    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    ours = launched and not dist.is_initialized()
    if not launched and not dist.is_initialized():
        yield Ranks()
        return
    limit = timedelta(seconds=timeout)
    if ours:
        import torch

        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        with _named("find each other"):
            dist.init_process_group(backend, timeout=limit)
    world_size = dist.get_world_size()
    groups = [dist.new_group(backend="gloo", timeout=limit) if world_size > 1 else None for _ in range(2)]
    with _named("go on", only_lost=True):  # DDP and FSDP2 tell of lost ranks in the backend's words
        yield Ranks(dist.get_rank(), world_size, int(os.environ.get("LOCAL_RANK", "0")), *groups)
    if ours:
        dist.destroy_process_group()


def share(batch_size: int, ranks: Ranks) -> int:
    """Sequences of one rank's slice of a step; ConfigError when the batch does not divide."""
    if batch_size % ranks.world_size:
        raise ConfigError(
            f"batch_size: {batch_size} sequences do not divide by {ranks.world_size} processes; change one of them"
        )
    return batch_size // ranks.world_size


def device_of(name: str, ranks: Ranks) -> torch.device:
    """The device of this rank for the configuration's 'auto', 'cpu' or 'cuda'."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: got 'cuda', but PyTorch finds no CUDA device; use 'auto' or 'cpu'")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.alone:
        return torch.device("cuda")
    if ranks.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"processes: rank {ranks.rank} is number {ranks.local_rank + 1} on this machine, which has "
            f"{torch.cuda.device_count()} CUDA devices; start one process per device"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def lost_ranks(error: BaseException) -> bool:
    """Whether an error only says that another process is gone, or that this one was told to end."""
    if isinstance(error, (LostRanksError, KeyboardInterrupt)):
        return True
    # a collective inside DDP or FSDP2 fails with the backend's own words
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(name in words for name in ("gloo", "nccl", "connection closed"))


@contextmanager
def _named(what: str, *, only_lost: bool = False) -> Iterator[None]:
    """Say in penstock's words that the others are gone; the backend's own message follows.

    Args:
        only_lost: other errors may be raised here, and pass.
    """
    try:
        yield
    except RuntimeError as error:
        if only_lost and not lost_ranks(error):
            raise
        rank = os.environ.get("RANK", "0")
        raise LostRanksError(
            f"rank {rank} could not {what}: {str(error).splitlines()[0]}. Another process ended or hangs; its own "
            "message says why. The last checkpoint stands: start the run again to go on from it"
        ) from error
