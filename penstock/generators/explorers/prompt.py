"""An explorer that is a prompt, and that a language model rewrites from what was turned away.

    propose   task as the system's turn, prompt as the user's            one call for a whole batch
    refine    1. why does this prompt narrow what is written?            one call, m reasons
              2. for each reason a new prompt, held against the task     one call, m prompts

The second call of ``refine`` writes a draft for each reason and then projects it back onto the task, in positive words.
Both are *textual gradients* as in Voyager (arXiv 2512.12072, section 3.3); the wording here is our own and lies in
files (``prompts/*.md``) that can be replaced one by one. The task is the system's turn in every call, which keeps
prompts from drifting away from it.

Nothing is random but the model: an explorer's requests are decided by its id, the round and the seed, so a store of
answers replays a run exactly.

Price: 1 call a batch, 2 a refinement; one more for each answer that cannot be read (``corrections``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from penstock.errors import ConfigError
from penstock.generators.base import LanguageModel, Request
from penstock.generators.explorers import asking
from penstock.generators.explorers.reading import plain
from penstock.generators.items import Explorer, Item
from penstock.generators.prompt_files import PromptFile, read_prompts
from penstock.seeding import derive

Direction = Literal["task", "diverse"]

PROMPTS = Path(__file__).parent / "prompts"
_NONE: frozenset[str] = frozenset()
PLACEHOLDERS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "generate_texts": (frozenset({"direction", "count"}), _NONE),
    "generate_problems": (frozenset({"direction", "count"}), _NONE),
    "gradient": (frozenset({"explorer", "rejected", "count"}), frozenset({"anchors"})),
    "apply": (frozenset({"explorer", "reasons", "count"}), _NONE),
    "diverse": (frozenset({"task"}), _NONE),
    "history": (frozenset({"items"}), frozenset({"task"})),
    "subtopics": (frozenset({"count"}), frozenset({"task"})),
    "topic": (frozenset({"topic"}), frozenset({"task"})),
}
_SHOWN_CHARACTERS = 1000
SEEDS = 2**31  # servers read the seed as a signed integer of 32 or 64 bits


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """What a prompt explorer and its successors have in common.

    Args:
        task: what is to be written, in words.
        shape: ``problems`` have a question and an answer, ``texts`` are one piece.
        prompts: a folder of files that replace ours (``prompts/*.md``); None takes ours.
        refinements: reasons, and so successors, of one refinement.
        temperature, max_tokens: of every call.
        shown: rejected items, and anchors, that a refinement is shown.
        corrections: times an answer that cannot be read is asked for again.

    Raises ConfigError for a blank task or a number out of range.
    """

    task: str
    shape: asking.Shape = "texts"
    prompts: str | None = None
    refinements: int = 3
    temperature: float = 1.0
    max_tokens: int = 2048
    shown: int = 10
    corrections: int = 1

    def __post_init__(self) -> None:
        if not self.task.strip():
            raise ConfigError("task: got no text, allowed what is to be written, in words; describe it")
        if self.shape not in get_args(asking.Shape):
            raise ConfigError(f"shape: got {self.shape!r}, allowed {', '.join(get_args(asking.Shape))}")
        for name, least in (("refinements", 1), ("max_tokens", 1), ("shown", 1), ("corrections", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed >= {least}; the default is tried")
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature: got {self.temperature}, allowed a finite number >= 0; 1 is usual")

    def files(self) -> dict[str, PromptFile]:
        """The prompts by name. Raises ConfigError where one is not acceptable."""
        return read_prompts(PROMPTS, PLACEHOLDERS, self.prompts)

    @property
    def told(self) -> tuple[str, ...]:
        """What a model is told beside the task, which no item may repeat. Raises ConfigError as ``files`` does."""
        return (self.files()[f"generate_{self.shape}"].text,)


@dataclass(frozen=True, kw_only=True)
class PromptExplorer:
    """Explorer: a prompt for a model that follows instructions. Made by ``root``; its ``refine`` makes the others."""

    model: LanguageModel
    settings: PromptSettings
    files: Mapping[str, PromptFile] = field(repr=False)
    seed: int
    explorer_id: str
    prompt: str
    parent_id: str | None = None
    gradient: str | None = None

    @classmethod
    def root(cls, model: LanguageModel, settings: PromptSettings, *, seed: int, direction: Direction = "task") -> Self:
        """The explorer that a run starts from: its prompt is the task, or the task with the wish for variety.

        Raises:
            ConfigError: a prompt file is not acceptable.
        """
        files = settings.files()
        prompt = settings.task.strip()
        if direction == "diverse":
            prompt = files["diverse"].fill(task=prompt)
        return cls(
            model=model,
            settings=settings,
            files=files,
            seed=seed,
            explorer_id=identify("root", prompt),
            prompt=prompt,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the items besides round and seed (JSON values): settings, model, wording of the prompts."""
        wording = {name: file.digest for name, file in self.files.items()}
        return {"model": self.model.identity, "settings": asdict(self.settings) | {"prompts": wording}}

    async def propose(self, count: int, *, round: int) -> list[Item]:
        """``count`` items of one answer; where it has fewer or none, what it has (see ``asking.items_of``).

        Raises:
            BudgetError: nothing more may be asked.
        """
        (items,) = await self.write([self.prompt], count, "generate", round)
        return items

    async def write(self, directions: Sequence[str], count: int, *path: int | str) -> list[list[Item]]:
        """A batch of ``count`` items for each direction, all asked at once; ``path`` tells their seeds apart."""
        shape = self.settings.shape
        file = self.files[f"generate_{shape}"]
        question = asking.ITEMS[shape]
        requests = [
            self.request(file.fill(direction=direction, count=count), *path, place)
            for place, direction in enumerate(directions)
        ]
        answers = await asking.ask_lists(self.model, requests, question, count, corrections=self.settings.corrections)
        return [asking.items_of(one, shape, count, asking.origin_of(self.model, one, file.digest)) for one in answers]

    async def refine(self, rejected: Sequence[Item], anchors: Sequence[Item], *, round: int) -> list[Explorer]:
        """One successor for each reason that the model gives and answers with a prompt; none where it gives none.

        Raises:
            BudgetError: nothing more may be asked.
        """
        wanted = self.settings.refinements
        told = self.files["gradient"].fill(
            explorer=self.prompt,
            rejected=self.shown(rejected),
            anchors=self.shown(anchors) or "(nothing yet)",
            count=wanted,
        )
        found = await self.ask(told, asking.REASONS, wanted, "gradient", round)
        reasons = [text for text in map(_reason, found[:wanted]) if text]
        if not reasons:
            return []
        listed = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
        told = self.files["apply"].fill(explorer=self.prompt, reasons=listed, count=len(reasons))
        prompts = map(_prompt, await self.ask(told, asking.PROMPTS, len(reasons), "apply", round))
        children: dict[str, Explorer] = {}
        for place, (reason, prompt) in enumerate(zip(reasons, prompts, strict=False)):
            if prompt and prompt != self.prompt and prompt not in children:
                made = identify(self.explorer_id, round, place, prompt)
                children[prompt] = self.restore(made, self.explorer_id, prompt, reason)
        return list(children.values())

    def restore(self, explorer_id: str, parent_id: str | None, prompt: str, gradient: str | None) -> Self:
        """The explorer with these four and all else as this one has it."""
        return replace(self, explorer_id=explorer_id, parent_id=parent_id, prompt=prompt, gradient=gradient)

    async def ask(self, text: str, question: asking.Question, count: int, *path: int | str) -> list[Any]:
        """Entries of one answer; none where it failed or could not be read."""
        answer = await self.asked(text, question, count, *path)
        return answer.listed.entries if answer.listed is not None else []

    async def asked(self, text: str, question: asking.Question, count: int, *path: int | str) -> asking.Asked:
        """One answer with ``count`` entries; ``path`` tells its seed apart."""
        requests = [self.request(text, *path)]
        corrections = self.settings.corrections
        return (await asking.ask_lists(self.model, requests, question, count, corrections=corrections))[0]

    def origin(self, answer: asking.Asked, prompt: str) -> dict[str, Any]:
        """Where items of an answer come from; ``prompt`` names the file."""
        return asking.origin_of(self.model, answer, self.files[prompt].digest)

    def request(self, text: str, *path: int | str) -> Request:
        """One call; its seed is decided by the run's, the explorer and ``path``."""
        return Request(
            messages=asking.conversation(self.settings.task.strip(), text),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=derive(self.seed, self.explorer_id, *path) % SEEDS,
        )

    def shown(self, items: Sequence[Item]) -> str:
        """The first items, one a line as JSON strings, so that none reaches out of its place."""
        texts = [json.dumps(item.text[:_SHOWN_CHARACTERS], ensure_ascii=False) for item in items[: self.settings.shown]]
        return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def identify(*parts: int | str | None) -> str:
    """16 hex digits that name an explorer by where it comes from."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _reason(entry: Any) -> str:
    """Issue and suggestion on one line."""
    if isinstance(entry, dict):
        entry = " ".join(plain(entry.get(key)) for key in ("issue", "suggestion"))
    return " ".join(plain(entry).split())


def _prompt(entry: Any) -> str:
    """The final prompt of an entry."""
    return plain(entry.get("prompt") if isinstance(entry, dict) else entry)
