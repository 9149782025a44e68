"""A small world to search: explorers that propose words of regions, and an embedder that hashes words."""

import asyncio
import functools
import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from penstock.embedding.base import normalised
from penstock.generators.items import Item
from penstock.seeding import stream

REGIONS = ("river", "engine", "sonata", "bakery", "glacier", "market", "planet", "orchard")


@functools.cache
def direction(word, dimensions):
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=6).digest(), "little")
    return np.random.default_rng(seed).normal(size=dimensions)


@dataclass(frozen=True)
class HashedWords:
    """Embedder: the sum of a random direction a word; texts of signs alone are zero, ``poison`` is NaN."""

    dimensions: int = 24

    def setup(self):
        pass

    def embed(self, texts):
        rows = np.zeros((len(texts), self.dimensions))
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                if any(c.isalnum() for c in word):
                    row += direction(word, self.dimensions)
            if "poison" in text:
                row[:] = np.nan
        return np.where(np.isnan(rows).any(1)[:, None], np.nan, normalised(rows))


@dataclass(frozen=True)
class Regions:
    """Proposes short texts of the regions that its prompt names; refines to two regions that nothing names yet."""

    seed: int = 0
    prompt: str = "river"
    explorer_id: str = "root"
    parent_id: str | None = None
    gradient: str | None = None
    words: int = 4
    log: list = field(default_factory=list, compare=False, hash=False)
    delay: float = 0.0

    @property
    def identity(self):
        return {"words": self.words}

    async def propose(self, count, *, round):
        draw = stream(self.seed, self.explorer_id, round)
        items = []
        regions = self.prompt.split()
        for number in range(count):
            region = regions[int(draw.integers(len(regions)))]
            text = " ".join([region, *(f"{region}{w}" for w in draw.integers(0, 60, self.words))])
            items.append(Item(text=text, answer=str(number), origin={"number": number, "round": round}))
        await asyncio.sleep(self.delay * float(np.random.default_rng().random()))
        return items

    async def refine(self, rejected, anchors, *, round):
        self.log.append((self.explorer_id, round, [i.text for i in rejected], [i.text for i in anchors]))
        await asyncio.sleep(self.delay * float(np.random.default_rng().random()))
        named = {item.text.split()[0] for item in (*rejected, *anchors)} | set(self.prompt.split())
        fresh = [region for region in REGIONS if region not in named][:2] or list(REGIONS[:2])
        return [
            replace(
                self,
                prompt=f"{self.prompt.split()[0]} {region}",
                explorer_id=f"{self.explorer_id}.{round}-{place}",
                parent_id=self.explorer_id,
                gradient=f"look at {region}",
            )
            for place, region in enumerate(fresh)
        ]

    def restore(self, explorer_id, parent_id, prompt, gradient):
        return replace(self, explorer_id=explorer_id, parent_id=parent_id, prompt=prompt, gradient=gradient)


@pytest.fixture(scope="session")
def world():
    return Regions


@pytest.fixture(scope="session")
def embedder():
    return HashedWords()
