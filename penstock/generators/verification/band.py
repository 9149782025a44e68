"""Is a variant neither a copy nor another text: the cosine of its embedding with the original's lies in a band.

The band depends on the embedder and on what variants are wanted: a rename moves a static embedding a little, a story
around a problem moves it far. A text that has no embedding (the zero vector) does not pass.

Price: one embedding for each original and variant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.embedding.base import Embedder
from penstock.generators.items import Verdict
from penstock.generators.verification.agreement import check_band
from penstock.generators.verification.base import Pair


@dataclass(frozen=True, kw_only=True)
class EmbeddingBand:
    """Check ``embedding_band``.

    Args:
        embedder: loaded when it is first used.
        band: lowest and highest cosine that pass.

    Raises ConfigError where the band is no range within -1 and 1.
    """

    embedder: Embedder
    band: tuple[float, float] = (0.5, 0.999)

    def __post_init__(self) -> None:
        check_band("embedding_band", self.band, -1.0)

    @property
    def name(self) -> str:
        return "embedding_band"

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair; its detail (JSON) holds the cosine, null where a text has no embedding."""
        texts = list(dict.fromkeys(text for pair in pairs for text in (pair.problem.prompt, pair.variant.prompt)))
        speaking = [text for text in texts if text.strip()]
        vectors = dict(zip(speaking, self.embedder.embed(speaking) if speaking else (), strict=True))
        low, high = self.band
        out = []
        for pair in pairs:
            first, second = vectors.get(pair.problem.prompt), vectors.get(pair.variant.prompt)
            known = first is not None and second is not None and first.any() and second.any()
            cosine = float(first @ second) if known else None  # type: ignore[operator]
            passed = cosine is not None and low <= cosine <= high
            detail = {"cosine": None if cosine is None else round(cosine, 6)}
            out.append(Verdict(self.name, passed, json.dumps(detail)))
        return out
