"""What a voyage with a model is compared with: explorers for the same runner, gates and accounting.

    default         the task, again and again
    temperature     the same at temperature 2
    diverse         the prompt asks for variety
    history         the prompt shows the HISTORY items accepted last
    hierarchical    as many topics as items in one call, then one call an item: 1 + |B| calls a batch
    subset_select   ten times as many items as wanted, of which ``subset`` takes the most diverse

None has a threshold. They are the baselines of Voyager's paper (arXiv 2512.12072, section 4); what its names of
``diverse`` and ``history`` stand for is our reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock.errors import ConfigError
from penstock.generators.base import LanguageModel
from penstock.generators.explorers import asking
from penstock.generators.explorers.prompt import PromptExplorer, PromptSettings, identify
from penstock.generators.explorers.reading import plain
from penstock.generators.items import Explorer, Item
from penstock.generators.voyager.settings import ThresholdSettings, VoyagerSettings

TEMPERATURE = 2.0
HISTORY = 50  # items shown
OVERSHOOT = 10  # times the items wanted, to choose from


class History(PromptExplorer):
    """A prompt that shows what was accepted last; the runner gives it as anchors."""

    async def refine(self, rejected: Sequence[Item], anchors: Sequence[Item], *, round: int) -> list[Explorer]:
        """The prompt over the items that are now the last; asks nothing."""
        items = "\n".join(json.dumps(item.text, ensure_ascii=False) for item in anchors)
        if not items:
            return []
        prompt = self.files["history"].fill(task=self.settings.task.strip(), items=items)
        return [self.restore(identify(self.explorer_id, round, 0, prompt), self.explorer_id, prompt, None)]


class Hierarchical(PromptExplorer):
    """Names topics first, then writes one item for each."""

    async def propose(self, count: int, *, round: int) -> list[Item]:
        """One item for each topic that the model names; where it names none, what came instead is the only item.

        Raises:
            BudgetError: nothing more may be asked.
        """
        task = self.settings.task.strip()
        told = self.files["subtopics"].fill(task=task, count=count)
        answer = await self.asked(told, asking.TOPICS, count, "topics", round)
        if answer.listed is None:
            return asking.items_of(answer, self.settings.shape, count, self.origin(answer, "subtopics"))
        topics = [topic for topic in map(plain, answer.listed.entries[:count]) if topic]
        directions = [self.files["topic"].fill(task=task, topic=topic) for topic in topics]
        batches = await self.write(directions, 1, "topic", round)
        return [
            replace(item, origin={**item.origin, "topic": topic})
            for topic, items in zip(topics, batches, strict=True)
            for item in items
        ]


_Made = Callable[[LanguageModel, PromptSettings, int, VoyagerSettings], tuple[PromptExplorer, VoyagerSettings]]


def _open(settings: VoyagerSettings, times: int = 1) -> VoyagerSettings:
    """Everything that passes the gates is accepted, ``times`` as many items as in the voyage."""
    return replace(
        settings,
        count=times * settings.count,
        rounds=times * settings.rounds,
        threshold=ThresholdSettings(strategy="none"),
        prune="latest",
        refine="never",
        explorer_weight="none",
    )


BASELINES: Mapping[str, _Made] = {
    "default": lambda model, task, seed, settings: (PromptExplorer.root(model, task, seed=seed), _open(settings)),
    "temperature": lambda model, task, seed, settings: (
        PromptExplorer.root(model, replace(task, temperature=TEMPERATURE), seed=seed),
        _open(settings),
    ),
    "diverse": lambda model, task, seed, settings: (
        PromptExplorer.root(model, task, seed=seed, direction="diverse"),
        _open(settings),
    ),
    "history": lambda model, task, seed, settings: (
        History.root(model, task, seed=seed),
        replace(_open(settings), refine="always", anchors=HISTORY),
    ),
    "hierarchical": lambda model, task, seed, settings: (Hierarchical.root(model, task, seed=seed), _open(settings)),
    "subset_select": lambda model, task, seed, settings: (
        PromptExplorer.root(model, task, seed=seed),
        _open(settings, OVERSHOOT),
    ),
}


def baseline(
    name: str, model: LanguageModel, task: PromptSettings, *, seed: int, settings: VoyagerSettings
) -> tuple[PromptExplorer, VoyagerSettings]:
    """Root explorer and settings of a baseline; of ``subset_select`` the items are then for ``subset``.

    Args:
        name: one of ``BASELINES``.
        seed: of the run.
        settings: of the voyage that it is compared with.

    Raises:
        ConfigError: there is no such baseline, or a prompt file is not acceptable.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline: got {name!r}, allowed {', '.join(BASELINES)}; choose one")
    return BASELINES[name](model, task, seed, settings)


def subset(vectors: Any, count: int) -> list[int]:
    """Rows of the ``count`` most diverse of some items, in their order: greedy MAP of a determinantal point process.

    The kernel is an RBF with the median bandwidth, whose rank is the number of different rows; a cosine kernel of d
    dimensions could not tell more than d items apart. Greedy MAP reaches a larger determinant than a draw would, so
    this is the baseline at its best.

    Args:
        vectors: embeddings (n, d), none of them zero; all rows are returned where n is not above count.
    """
    from penstock.diversity.greedy import greedy_map
    from penstock.diversity.kernels import RBF

    if len(vectors) <= count:
        return list(range(len(vectors)))
    return sorted(greedy_map(RBF(vectors), count).picks.tolist())
