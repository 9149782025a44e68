"""One question to a model whose answer is a list, and its items: shared by all explorers that prompt.

The answer's JSON Schema goes with the request. What comes back and does not obey it is read as leniently as ``reading``
allows, since a batch of ten is not thrown away for a bracket; only where nothing at all can be read is the model told
what is wrong and asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from penstock.generators.base import Completion, LanguageModel, Message, Request, canonical, digest, name_of
from penstock.generators.explorers.reading import Listed, marked, read_list
from penstock.generators.gates.refusal import is_refusal
from penstock.generators.items import Item
from penstock.generators.structured import Structured, ask_structured

Shape = Literal["texts", "problems"]

EVIDENCE = 2000  # characters kept of an answer that could not be read


@dataclass(frozen=True, kw_only=True)
class Question:
    """A list that is asked for: ``key`` of its JSON object, ``tag`` of its marked form, what an entry is like."""

    key: str
    tag: str
    entry: Mapping[str, Any]

    def schema(self, count: int) -> dict[str, Any]:
        """The JSON Schema of an object with exactly ``count`` entries."""
        return _object({self.key: {"type": "array", "minItems": count, "maxItems": count, "items": self.entry}})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
ITEMS: Mapping[Shape, Question] = {
    "texts": Question(key="items", tag="item", entry=_object({"text": _TEXT})),
    "problems": Question(key="items", tag="item", entry=_object({"question": _TEXT, "answer": _TEXT})),
}
REASONS = Question(key="reasons", tag="reason", entry=_object({"issue": _TEXT, "suggestion": _TEXT}))
PROMPTS = Question(key="prompts", tag="prompt", entry=_object({"draft": _TEXT, "prompt": _TEXT}))
TOPICS = Question(key="topics", tag="topic", entry=_TEXT)


@dataclass(frozen=True)
class Asked:
    """What came of one question: the entries or None, the request, and its last completion (of corrections, if any)."""

    listed: Listed | None
    request: Request
    completion: Completion


async def ask_lists(
    model: LanguageModel, requests: Sequence[Request], question: Question, count: int, *, corrections: int
) -> list[Asked]:
    """``count`` entries, or what came instead of them, for each request, in their order.

    Args:
        corrections: times an answer of which nothing can be read is asked for again.

    Raises:
        BudgetError: nothing more may be asked.
    """

    def lenient(text: str) -> Listed | None:
        return read_list(text, question.key, question.tag)

    schema = question.schema(count)
    found = await ask_structured(model, requests, schema, corrections=corrections, lenient=lenient)
    return [
        Asked(_listed(one, question.key), replace(request, schema=canonical(schema)), one.completions[-1])
        for request, one in zip(requests, found, strict=True)
    ]


def _listed(found: Structured, key: str) -> Listed | None:
    if found.error is not None:
        return None
    return found.value if isinstance(found.value, Listed) else Listed(found.value[key])


def conversation(task: str, text: str) -> tuple[Message, ...]:
    """The task as the system's turn, which keeps every call at it, and ``text`` as the user's."""
    return Message("system", task), Message("user", text)


def origin_of(model: LanguageModel, asked: Asked, prompt_hash: str) -> dict[str, Any]:
    """What makes the items of one answer again (JSON values); ``usage`` is of the whole answer."""
    request, usage = asked.request, asked.completion.usage
    return {
        "model": name_of(model),
        "model_revision": str(model.identity.get("revision", "")),
        "request_key": digest(model, request),
        "prompt_hash": prompt_hash,
        "seed": request.seed,
        "sample_index": request.sample,
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
    }


def items_of(asked: Asked, shape: Shape, count: int, origin: Mapping[str, Any]) -> list[Item]:
    """The items of one answer in its order; what is none is there too, with what it lacks as ``invalid``.

    call_failed        the request failed; ``origin`` has the error
    refused            a refusal in place of a list
    not_parsed         no list was found; the item's text is the beginning of the answer
    cut                an entry that is not whole
    surplus_of_batch   more entries than asked for
    not_an_item        an entry of another shape
    empty, no_answer   a text or an answer without a letter or digit
    """
    text = asked.completion.text
    if asked.completion.error is not None:
        return [Item(text="", invalid="call_failed", origin={**origin, "error": asked.completion.error})]
    if asked.listed is None:
        return [Item(text=text[:EVIDENCE], invalid="refused" if is_refusal(text) else "not_parsed", origin=origin)]
    out = []
    for position, entry in enumerate(asked.listed.entries):
        item = _item(entry, shape)
        if position >= count and item.invalid is None:
            item = replace(item, invalid="surplus_of_batch")
        out.append(replace(item, origin={**origin, "batch_position": position}))
    cut = Item(text="", invalid="cut", origin=origin)
    return [*out, *[cut] * asked.listed.cut]


def _item(entry: Any, shape: Shape) -> Item:
    if shape == "texts":
        text, answer = (entry.get("text") if isinstance(entry, dict) else entry), None
    elif isinstance(entry, dict):
        text, answer = entry.get("question"), entry.get("answer")
    else:
        text, answer = marked(str(entry), "question"), marked(str(entry), "answer")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    if not isinstance(text, str) or not isinstance(answer, (str, type(None))):
        return Item(text=json.dumps(entry, ensure_ascii=False)[:EVIDENCE], invalid="not_an_item")
    text, answer = text.strip(), answer.strip() if answer is not None else None
    if not any(map(str.isalnum, text)):
        return Item(text=text, answer=answer, invalid="empty")
    if shape == "problems" and not any(map(str.isalnum, answer or "")):
        return Item(text=text, answer=answer, invalid="no_answer")
    return Item(text=text, answer=answer)
