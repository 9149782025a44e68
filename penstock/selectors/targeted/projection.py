"""Random projections of long vectors, made piece by piece: count-sketch, and signs in blocks.

A gradient of P parameters becomes D numbers whose inner products are those of the gradients in expectation. The matrix
is never stored: its entry at parameter p is a hash of (seed, p), so a piece of the vector is projected when it arrives
and every seed, block size and device has the same matrix. Blocks come in any order and size.

    count_sketch   every parameter has one bucket and one sign (Charikar, Chen, Farach-Colton 2002; Weinberger et al.
                   2009): out[bucket(p)] += sign(p) g[p]. Variance of <a, b> at most (<a, b>^2 + |a|^2 |b|^2) / D.
    rademacher     every parameter has D signs, scaled by 1 / sqrt(D) (the projector of TRAK and LESS): variance
                   (<a, b>^2 + |a|^2 |b|^2 - 2 sum a_p^2 b_p^2) / D.

Sums are kept in float64, so the order of blocks changes nothing that float32 shows.

Price: count-sketch O(P) a vector whatever D, about 1.5 ns a parameter on a core; signs O(P D): 8,192 dimensions of 134M
parameters are 2.2 TFLOP a vector, so for a GPU. Signs hold one block of ``_SIGNS`` entries at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import ConfigError
from penstock.seeding import derive

if TYPE_CHECKING:
    import torch

Kind = Literal["count_sketch", "rademacher"]

_GOLDEN = 0x9E3779B97F4A7C15
_SIGNS = 1 << 22  # entries of the sign matrix in memory at a time
_SKETCHED = 1 << 20  # entries of a block that are sketched at a time


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A random linear map from any number of parameters to ``dimensions``.

    Args:
        kind: ``count_sketch`` or ``rademacher``.
        dimensions: D, allowed 1 to 2**20.
        seed: of the matrix.
    """

    kind: Kind = "count_sketch"
    dimensions: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("count_sketch", "rademacher"):
            raise ConfigError(f"projection: got {self.kind!r}, allowed count_sketch, rademacher; choose one")
        if not 1 <= self.dimensions <= 2**20:
            raise ConfigError(f"projection dimensions: got {self.dimensions}, allowed 1 to 2**20; 8192 is the paper's")

    def zeros(self, rows: int, device: Any = "cpu") -> torch.Tensor:
        """Where projections of ``rows`` vectors are added up: float64, shape (rows, D)."""
        import torch

        return torch.zeros(rows, self.dimensions, dtype=torch.float64, device=device)

    def add(self, out: torch.Tensor, block: torch.Tensor, offset: int) -> None:
        """Add the projection of parameters ``offset`` to ``offset + m`` of every vector to ``out``.

        Args:
            out: of ``zeros``, shape (n, D); changed in place.
            block: shape (n, m), any floating type.
            offset: place of the block's first entry among all parameters.
        """
        assert out.shape == (len(block), self.dimensions), "out does not belong to the block"
        step = _SKETCHED if self.kind == "count_sketch" else max(1, _SIGNS // self.dimensions)
        for begin in range(0, block.shape[1], step):
            piece = block[:, begin : begin + step]
            if self.kind == "count_sketch":
                self._sketch(out, piece, offset + begin)
            else:
                signs = self.signs(offset + begin, piece.shape[1], out.device)
                out += (piece.double() @ signs.double()) * self.dimensions**-0.5

    def _sketch(self, out: torch.Tensor, piece: torch.Tensor, offset: int) -> None:
        bucket, sign = self.buckets(offset, piece.shape[1], out.device)
        signed = piece.double() * sign
        # along the rows, so that on a CPU every sum is made in the order of the parameters
        out.scatter_add_(1, bucket.expand(len(piece), -1), signed)

    def buckets(self, offset: int, count: int, device: Any = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Bucket (int64 below D) and sign (float64, 1 or -1) of parameters from ``offset``: shapes (count,)."""
        import torch

        place = torch.arange(offset, offset + count, dtype=torch.int64, device=device)
        mixed = _mix64(place * _signed(_GOLDEN) + _signed(derive(self.seed, "count sketch")))
        # the lowest bit is the sign; the bucket is from the high bits, which a remainder of 2**47 spreads evenly
        sign = (1 - 2 * (mixed & 1)).double()
        return _shifted(mixed, 17) % self.dimensions, sign

    def signs(self, offset: int, count: int, device: Any = "cpu") -> torch.Tensor:
        """Rows of the sign matrix for ``count`` parameters from ``offset``: int8, shape (count, D), 1 or -1."""
        import torch

        words = -(-self.dimensions // 64)
        place = torch.arange(offset, offset + count, dtype=torch.int64, device=device)[:, None] * words
        word = torch.arange(words, dtype=torch.int64, device=device)
        mixed = _mix64((place + word) * _signed(_GOLDEN) + _signed(derive(self.seed, "signs")))
        bit = torch.arange(64, dtype=torch.int64, device=device)
        bits = (mixed[:, :, None] >> bit) & 1
        return (1 - 2 * bits).to(torch.int8).flatten(1)[:, : self.dimensions]


def _signed(word: int) -> int:
    """An unsigned 64-bit integer as the signed one of the same bits: torch multiplies these modulo 2**64."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Bits of int64 moved to the right, zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix64(x: torch.Tensor) -> torch.Tensor:
    """``seeding.mix64`` on the bits of int64."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)
