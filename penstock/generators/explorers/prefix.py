"""An explorer for a model without instructions: what stands before the text, exchanged for what is not covered yet.

A plain language model cannot be told what to write, but it goes on from where it is put. The explorer is a *control
prefix*: a heading, a line of key words, the first words of a text. ``propose`` draws completions of it; ``refine``
takes other prefixes from a list, which a user gives or ``first_words`` takes from a corpus:

    drawn    a seeded draw of DRAWN prefixes for each successor wanted, at most half of the list, not the explorer's own
    chosen   one after the other, each the one whose exemplar adds the largest determinant to the anchors' and to those
             chosen before it: det K(A + w) / det K(A), K the cosine of embeddings

A prefix's exemplar is the text that followed it in the corpus, which says more about what it leads to than the few
words themselves. The draw keeps one outlier from being everyone's successor, the determinant takes the rest away from
what the set holds. All is a function of the explorer, the round, the seed and the anchors.

Price: one completion an item; a refinement embeds the anchors and takes some milliseconds. The prefixes are embedded
once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from penstock.dataset import hash_json
from penstock.embedding.base import Embedder, Vectors
from penstock.errors import ConfigError
from penstock.generators.base import Completion, LanguageModel, Request, digest, name_of
from penstock.generators.explorers.prompt import SEEDS, identify
from penstock.generators.gates.relevance import embedded
from penstock.generators.items import Explorer, Item
from penstock.seeding import derive, stream

DRAWN = 16  # prefixes looked at for each successor
_SPANNED = 1e-6  # gain of a row that those before it hold already
_END = re.compile(r".*[.!?…。！？][\"'”’)\]]*(?=\s|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Prefix:
    """Words that may stand before a text, and a text that they stand before."""

    text: str
    exemplar: str

    def __post_init__(self) -> None:
        if not self.text or not self.exemplar.strip():
            raise ConfigError("prefix: got one without words or without a text after it, allowed both; leave it out")


def first_words(texts: Iterable[str], words: int) -> list[Prefix]:
    """The first words of every text as prefixes, each once; texts that have nothing after them are left out.

    Raises:
        ConfigError: words is below 1.
    """
    if words < 1:
        raise ConfigError(f"words: got {words}, allowed >= 1; 3 or 4 are usual")
    found: dict[str, Prefix] = {}
    for text in texts:
        head = re.match(rf"\s*((?:\S+\s+){{{words - 1}}}\S+)(?=\s+\S)", text)
        if head is not None:
            found.setdefault(head[1], Prefix(head[1], text))
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class PrefixSettings:
    """What a prefix explorer and its successors have in common.

    Args:
        refinements: successors of one refinement.
        temperature, top_p, max_tokens, stop: of every completion.
        keep: the prefix is part of the item, as the first words of a text are; a heading is not.

    Raises ConfigError for a number out of range.
    """

    refinements: int = 3
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    keep: bool = True

    def __post_init__(self) -> None:
        if self.refinements < 1:
            raise ConfigError(f"refinements: got {self.refinements}, allowed >= 1; 3 is usual")
        # what a request refuses is refused here, before the first is made
        self.request("a", seed=0, sample=0)

    def request(self, prompt: str, *, seed: int, sample: int) -> Request:
        """One completion."""
        return Request(
            prompt=prompt,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            seed=seed,
            sample=sample,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """The prefixes that refinements choose from, and what compares them."""

    prefixes: tuple[Prefix, ...]
    embedder: Embedder

    def __post_init__(self) -> None:
        if len({prefix.text for prefix in self.prefixes}) < 2:
            raise ConfigError(
                f"prefixes: got {len(self.prefixes)} that are not two different ones, allowed two or more; take them "
                "from a corpus"
            )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The embedder, and a hash of the prefixes with their exemplars."""
        from penstock.generators.voyager.kernel import embedder_identity

        return {
            "embedder": embedder_identity(self.embedder),
            "prefixes": hash_json([[prefix.text, prefix.exemplar] for prefix in self.prefixes]),
        }

    @cached_property
    def vectors(self) -> Vectors:
        """Of the exemplars: (n, d)."""
        self.embedder.setup()
        return embedded(self.embedder, [prefix.exemplar for prefix in self.prefixes])

    def away_from(
        self, anchors: Sequence[str], own: str, count: int, draws: np.random.Generator
    ) -> list[tuple[Prefix, float]]:
        """``count`` prefixes other than ``own``, each with its gain over the anchors and those before it."""
        from penstock.diversity.factor import AnchorFactor
        from penstock.diversity.kernels import Cosine

        usable = [row for row, prefix in enumerate(self.prefixes) if prefix.text != own and self.vectors[row].any()]
        if not usable:
            return []
        size = min(len(usable), max(count, min(DRAWN * count, len(usable) // 2)))
        rows = [usable[place] for place in draws.choice(len(usable), size, replace=False).tolist()]
        held = embedded(self.embedder, anchors)
        held = held[held.any(axis=1)]
        factor = AnchorFactor(Cosine(np.concatenate([held, self.vectors[rows]])))
        for row in range(len(held)):
            if factor.gains([row])[0] > _SPANNED:
                factor.append(row)
        waiting = list(range(len(rows)))
        chosen: list[tuple[Prefix, float]] = []
        while waiting and len(chosen) < count:
            gains = factor.gains([len(held) + place for place in waiting])
            best = int(np.argmax(gains))
            place = waiting.pop(best)
            chosen.append((self.prefixes[rows[place]], float(gains[best])))
            if gains[best] > _SPANNED:
                factor.append(len(held) + place)
        return chosen


@dataclass(frozen=True, kw_only=True)
class PrefixExplorer:
    """Explorer: a control prefix. Made by ``root``; its ``refine`` makes the others."""

    model: LanguageModel
    settings: PrefixSettings
    choices: Choices = field(repr=False)
    seed: int
    explorer_id: str
    prompt: str
    parent_id: str | None = None
    gradient: str | None = None

    @classmethod
    def root(cls, model: LanguageModel, prompt: str, choices: Choices, settings: PrefixSettings, *, seed: int) -> Self:
        """The explorer that a run starts from.

        Raises:
            ConfigError: the prefix is empty.
        """
        if not prompt:
            raise ConfigError("prefix: got none, allowed words that a text may begin with; give the most general ones")
        return cls(
            model=model,
            settings=settings,
            choices=choices,
            seed=seed,
            explorer_id=identify("prefix", prompt),
            prompt=prompt,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the items besides prefix, round and seed (JSON values): model, settings and the list."""
        settings = asdict(self.settings) | {"stop": list(self.settings.stop)}
        return {"model": self.model.identity, "settings": settings, "choices": self.choices.identity}

    async def propose(self, count: int, *, round: int) -> list[Item]:
        """``count`` completions of the prefix.

        One that was cut at ``max_tokens`` is taken back to the end of its last sentence, and is ``cut`` where it has
        none; one that failed is ``call_failed``.

        Raises:
            BudgetError: nothing more may be asked.
        """
        seed = derive(self.seed, self.explorer_id, round) % SEEDS
        requests = [self.settings.request(self.prompt, seed=seed, sample=sample) for sample in range(count)]
        completions = await self.model.complete(requests)
        return [self._item(*pair) for pair in zip(requests, completions, strict=True)]

    def _item(self, request: Request, completion: Completion) -> Item:
        origin: dict[str, Any] = {
            "model": name_of(self.model),
            "model_revision": str(self.model.identity.get("revision", "")),
            "request_key": digest(self.model, request),
            "seed": request.seed,
            "sample_index": request.sample,
            "usage": {
                "prompt_tokens": completion.usage.prompt_tokens,
                "completion_tokens": completion.usage.completion_tokens,
            },
        }
        if completion.error is not None:
            return Item(text="", invalid="call_failed", origin={**origin, "error": completion.error})
        text = self.prompt + completion.text if self.settings.keep else completion.text
        if completion.finish == "length":
            ended = _END.match(text)
            if ended is None:
                return Item(text=text.strip(), invalid="cut", origin=origin)
            text = ended[0]
        return Item(text=text.strip(), origin=origin)

    async def refine(self, rejected: Sequence[Item], anchors: Sequence[Item], *, round: int) -> list[Explorer]:
        """Prefixes of the list that lead away from the anchors, as many as ``refinements`` says where there are."""
        draws = stream(self.seed, self.explorer_id, "refine", round)
        texts = [item.text for item in anchors]
        found = self.choices.away_from(texts, self.prompt, self.settings.refinements, draws)
        return [
            self.restore(
                identify(self.explorer_id, round, place, prefix.text),
                self.explorer_id,
                prefix.text,
                f"{len(rejected)} items after {self.prompt!r} were too much like {len(anchors)} that the set holds; "
                f"what followed {prefix.text!r} adds {gain:.3f} to them",
            )
            for place, (prefix, gain) in enumerate(found)
        ]

    def restore(self, explorer_id: str, parent_id: str | None, prompt: str, gradient: str | None) -> Self:
        """The explorer with these four and all else as this one has it."""
        return replace(self, explorer_id=explorer_id, parent_id=parent_id, prompt=prompt, gradient=gradient)
