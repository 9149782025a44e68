"""What a loader reads: sequences of equal length by domain, wherever their tokens lie.

``sequences.SequenceStore`` reads penstock's own files; ``streams.StreamStore`` cuts the token streams of others
(Megatron files, Hugging Face datasets) by index arithmetic. The loader, the policies and the probes use what stands
here and nothing else, so a store over another format is a class with the five members of ``Store``. One that also
finds many rows at once (``Planned``) spares the loader that work at every batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from penstock.training.sequences import SequenceRows


@runtime_checkable
class Store(Protocol):
    """Sequences of L tokens over K domains, addressed by domain and row."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names, in the order of all arrays over domains: (K,)."""
        ...

    @property
    def length(self) -> int:
        """L, tokens of a sequence with its padding."""
        ...

    @property
    def rows(self) -> tuple[int, ...]:
        """Sequences of each domain: (K,)."""
        ...

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each domain, padding apart: (K,)."""
        ...

    def read(self, domains: NDArray[np.int64], rows: NDArray[np.int64]) -> SequenceRows:
        """The sequences with these domain indices (n,) and rows inside their domains (n,), in this order."""
        ...


class Plan(Protocol):
    """n rows that were found, to be read in slices from ``begin`` to ``stop``."""

    counts: NDArray[np.int64]  # (n,) segments of each row
    may_be_masked: bool  # False: ``learned`` gives None

    def tokens(self, begin: int, stop: int) -> NDArray[Any]:
        """Tokens of these rows: (stop - begin, L), unsigned."""
        ...

    def segment_lengths(self, begin: int, stop: int) -> NDArray[np.int64]:
        """Tokens of each of their segments, in order: (S,)."""
        ...

    def segment_docs(self, begin: int, stop: int) -> pa.StringArray:
        """Document of each of their segments: (S,)."""
        ...

    def learned(self, begin: int, stop: int) -> NDArray[np.bool_] | None:
        """Which of their tokens are learned where they are predicted: (stop - begin, L); None is all of them."""
        ...


@runtime_checkable
class Planned(Protocol):
    """A store that finds rows in advance."""

    def plan(self, domains: NDArray[np.int64], rows: NDArray[np.int64]) -> Plan:
        """Find the rows that ``Store.read`` would read."""
        ...
