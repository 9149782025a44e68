"""Which successors live on: a k-DPP over their prompts.

The kernel is that of items (``kernel``), its bandwidth fitted to the prompts at hand: here it only has to tell apart
what stands side by side. Where a prompt has no embedding (it is empty, or made of signs alone), words alone compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from penstock.diversity.kernels import Kernel, TokenJaccard, weighted
from penstock.diversity.sampling import kdpp
from penstock.generators.items import Explorer
from penstock.generators.voyager.kernel import Embeddings, RunKernel, words


class Living(NamedTuple):
    """An explorer that is or may become one of those that search."""

    explorer: Explorer
    root: int  # place of the root it descends from
    quality: float = 1.0


def living_on(
    successors: Sequence[Living], count: int, embeddings: Embeddings, stream: np.random.Generator
) -> list[Living]:
    """Up to ``count`` successors, in their order; of equal prompts the first counts."""
    by_prompt: dict[str, Living] = {}
    for one in successors:
        by_prompt.setdefault(one.explorer.prompt, one)
    different = list(by_prompt.values())
    if len(different) <= count:
        return different
    kernel: Kernel = _kernel([one.explorer.prompt for one in different], embeddings)
    quality = np.array([one.quality for one in different])
    if quality.min() < quality.max():
        kernel = weighted(kernel, quality)
    return [different[row] for row in kdpp(kernel, count, stream).rows]


def _kernel(prompts: list[str], embeddings: Embeddings) -> Kernel:
    sets = [words(prompt) for prompt in prompts]
    vectors = embeddings.of(prompts)
    if all(vector.any() for vector in vectors):
        return RunKernel.fitted(vectors, {}, 0).over(vectors, sets)
    return TokenJaccard(sets)
