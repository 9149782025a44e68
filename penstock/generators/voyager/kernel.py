"""The kernel of a voyage: what two items have in common, fitted once to a first sample and then frozen.

    K(x, y) = 0.7 exp(-gamma |x - y|^2) + 0.3 Jaccard(words of x, words of y)

with x and y unit embeddings and ``gamma = 1 / (2 median |x_i - x_j|^2)`` over the pairs of the sample. A bandwidth that
was fitted again while a set collapses would call the set diverse, so it never is; gains and thresholds of two voyages
compare only where ``fingerprint`` is the same.

Embeddings are kept by the hash of their text, so that a text has one vector in a voyage, whatever batch it comes in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.diversity.kernels import RBF, Gram, Mixture, TokenJaccard
from penstock.embedding.base import Embedder, normalised
from penstock.errors import ConfigError

MIX = (0.7, 0.3)  # of the embedding's part and the words'
WORDS = r"\w+"  # of the text in lower case
_EQUAL = 1 - 1e-5  # cosine: summing a text's tokens in another order moves a vector by less
_IDENTITY = ("digest", "model", "dimensions", "revision")  # of an embedder; where it stands is not what it computes

Vector = NDArray[np.float32]


def words(text: str) -> frozenset[str]:
    """The different words of a text, in lower case."""
    return frozenset(re.findall(WORDS, text.lower()))


def embedder_identity(embedder: Embedder) -> dict[str, Any]:
    """What decides an embedder's vectors, as JSON values."""
    known = {name: getattr(embedder, name) for name in _IDENTITY if hasattr(embedder, name)}
    return {"kind": type(embedder).__name__, **known}


@dataclass(frozen=True, kw_only=True)
class RunKernel:
    """The frozen kernel.

    Attributes:
        gamma: of the embedding's part.
        rows: of the sample that it was fitted to.
        embedder: ``embedder_identity`` of the one that made the vectors.
    """

    gamma: float
    rows: int
    embedder: Mapping[str, Any]

    @classmethod
    def fitted(cls, vectors: Sequence[Vector], embedder: Mapping[str, Any], seed: int) -> RunKernel:
        """Fitted to vectors (d,) of length 1, at least one; of those that are equal but for rounding one counts."""
        different: list[NDArray[np.float64]] = []
        for vector in vectors:
            wide = vector.astype(np.float64)
            if not different or float((np.array(different) @ wide).max()) < _EQUAL:
                different.append(wide)
        return cls(gamma=RBF(np.array(different), "median", seed=seed).gamma, rows=len(different), embedder=embedder)

    def over(self, vectors: Sequence[Vector], sets: Sequence[frozenset[str]]) -> Gram:
        """The kernel of some items: their matrix is built, so it is for tens or hundreds of rows.

        Args:
            vectors: of length 1, (d,) each.
            sets: words of each.
        """
        features = np.array(vectors, dtype=np.float64)
        parts = Mixture([(MIX[0], RBF(features, self.gamma)), (MIX[1], TokenJaccard(sets))])
        matrix = parts.dense()
        np.fill_diagonal(matrix, 1.0)
        found = Gram(matrix)
        found.jitter = parts.jitter
        return found

    def describe(self) -> dict[str, Any]:
        """What decides the kernel, as JSON values."""
        return asdict(self) | {"mix": list(MIX), "words": WORDS, "embedder": dict(self.embedder)}

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits."""
        return hash_json(self.describe())[:16]


class Embeddings:
    """Unit vectors by text; each different text is embedded once.

    Args:
        embedder: of the vectors.
        characters: so many of a text's beginning are embedded.

    Raises ConfigError for characters below 1.
    """

    def __init__(self, embedder: Embedder, characters: int) -> None:
        if characters < 1:
            raise ConfigError(f"characters: got {characters}, allowed >= 1; 1024 is half a page")
        self._embedder, self._characters = embedder, characters
        self._known: dict[bytes, Vector] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the vectors, as JSON values."""
        return embedder_identity(self._embedder) | {"characters": self._characters}

    def learn(self, text: str, vector: Vector) -> None:
        """Take a vector that was made before."""
        self._known[self._key(text[: self._characters])] = vector

    def of(self, texts: Sequence[str]) -> list[Vector]:
        """Vectors of texts; zero where nothing can be embedded, or the vector is not finite."""
        heads = [text[: self._characters] for text in texts]
        missing = {self._key(head): head for head in heads if head.strip() and self._key(head) not in self._known}
        if missing:
            made = normalised(self._embedder.embed(list(missing.values())))
            self._known |= dict(zip(missing, made, strict=True))
        nothing = np.zeros(self._embedder.dimensions, np.float32)
        return [self._known.get(self._key(head), nothing) for head in heads]

    @staticmethod
    def _key(head: str) -> bytes:
        return hashlib.blake2b(head.encode("utf-8", "surrogatepass"), digest_size=16).digest()
