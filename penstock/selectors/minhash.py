"""Near-duplicate documents: MinHash signatures cut into bands, so that similar texts share a key.

A text is the set of its runs of ``ngram`` words. Of each of ``bands`` × ``rows`` random permutations of all runs the
signature keeps the least; two texts of Jaccard similarity J agree in one with probability J (Broder 1997). Texts that
agree in all rows of a band share that band's key, which happens in one band at least with probability

    1 - (1 - J^rows)^bands

14 × 8 over 5 words is datatrove's default: J 0.8 is found with 0.924, J 0.5 with 0.053. 9 × 13 and 5 × 25 are
RedPajama's for 0.8 and 0.9.

Words are runs of letters, numbers and marks in lower case; all else is space between them. Unlike datatrove, digits
and accents count, so that a problem filled in with other numbers is another one. Every letter of a script without
spaces (Han, kana, Thai, Lao, Khmer, Myanmar, …) is a word of its own. **Texts of fewer than ``min_shingles`` runs get
no keys**: with so few, one word in common would join them; exact duplicates are all that is looked for among them.

The permutations are ``(a·h + b mod 2**64) >> 32`` of 32-bit hashes h, with 64-bit random a and b, which makes any two
values of one permutation independent (Dietzfelbinger 1996). Two runs share a hash with probability 2^-32.

Price on one core and English prose: 120 MB/s from text to keys, half of it finding words; 112 bytes a document leave
it. rensa 0.5 takes half the time of this kernel for the same hashes of long texts and twice for those of short ones,
and gives lists of Python integers, which costs more than it saves; it is the tests' oracle, as is datasketch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import stream

MOST_PERMUTATIONS = 1024


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """Annotator: adds ``bands``, one 64-bit key a band of each text; null where a text is too short.

    Raises ConfigError for a size that makes no signature.
    """

    ngram: int = 5
    """Words of a shingle."""
    bands: int = 14
    """Keys of a document; more find texts less alike."""
    rows: int = 8
    """Permutations of a key; more leave out texts less alike."""
    min_shingles: int = 5
    """Shorter documents are compared as a whole alone."""
    seed: int = 1
    """Of the permutations. It is no recipe's seed: runs that look for each other's documents must share it."""

    name: ClassVar[str] = "minhash"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("bands",)

    def __post_init__(self) -> None:
        for field, most in (("ngram", 64), ("bands", 256), ("rows", 128), ("min_shingles", 1_000_000)):
            if not 1 <= getattr(self, field) <= most:
                raise ConfigError(f"{field}: got {getattr(self, field)}, allowed 1 to {most}; the default is tried")
        if self.bands * self.rows > MOST_PERMUTATIONS:
            raise ConfigError(
                f"bands × rows: got {self.bands * self.rows} permutations, allowed {MOST_PERMUTATIONS}; lower one"
            )

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled, and build the table of characters (60 ms)."""
        self.keys(pa.array(["a"]))

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``bands``: a list of ``bands`` uint64 keys for each row, null for a text of too few shingles."""
        keys, long = self.keys(batch["text"])
        offsets = np.zeros(len(long) + 1, np.int32)
        np.cumsum(long * self.bands, out=offsets[1:])
        values = pa.array(keys[long].reshape(-1))
        return {"bands": pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~long))}

    def keys(self, text: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Band keys (rows, bands) of a text column, and which rows (rows,) are long enough for theirs to count."""
        from penstock.selectors import minhash_kernels

        rows, hashes = minhash_kernels.shingles(text, self.ngram)
        a, b = permutations(self.bands * self.rows, self.seed)
        signatures = minhash_kernels.signatures(rows, hashes, a, b)
        return minhash_kernels.band_keys(signatures, self.bands), np.diff(rows) >= self.min_shingles

    def probability(self, jaccard: float) -> float:
        """That two texts of this similarity share a key."""
        return float(1.0 - (1.0 - jaccard**self.rows) ** self.bands)


def permutations(count: int, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Factors (odd) and addends of ``count`` permutations: two arrays (count,)."""
    a, b = stream(seed, "minhash").integers(0, 2**64, (2, count), np.uint64)
    return a | np.uint64(1), b
