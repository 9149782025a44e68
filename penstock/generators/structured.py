"""Answers that obey a JSON Schema: asked for, checked, and asked again with what was wrong: ``ask_structured``.

    schema = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
    found = await ask_structured(session, requests, schema)
    [one.value for one in found if one.error is None]

Every request carries the schema, so a server that can be told to obey it is told. Whether it did or not, each answer is
read leniently (a fence around the JSON, words before or after it, thoughts in ``<think>``) and checked strictly, by
jsonschema. One that does not pass is answered in turn: the model sees its own answer and what was wrong with it, and is
asked again, ``corrections`` times at most. After that the row has an error, and all its completions as evidence; no
other row is touched. Numbers that JSON does not know (NaN, Infinity) do not pass. References to other documents are not
followed.

Price: one request a row, and one more for each correction of a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.errors import ConfigError
from penstock.generators.base import Completion, LanguageModel, Message, Request, canonical

_FENCE = re.compile(r"```[a-zA-Z0-9_-]*\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_LONGEST_REASON = 300
_OPENINGS = 500  # brackets that are tried in one answer

CORRECTION = """\
That answer cannot be used: {error}. Answer again with one JSON value and nothing else, no fence and no words around \
it. It has to obey this JSON Schema:
{schema}"""


@dataclass(frozen=True, kw_only=True)
class Structured:
    """What came of one request: a ``value`` that obeys the schema, or an ``error`` that says why there is none.

    ``completions`` are all answers in their order, the last one the one that ``value`` was read from.
    """

    value: Any = None
    error: str | None = None
    completions: tuple[Completion, ...] = ()


async def ask_structured(
    model: LanguageModel,
    requests: Sequence[Request],
    schema: Mapping[str, Any],
    *,
    corrections: int = 2,
    lenient: Callable[[str], Any] | None = None,
) -> list[Structured]:
    """One checked value a request, in their order.

    Args:
        schema: a JSON Schema (draft 2020-12 where it does not say which).
        corrections: how often a row is asked again.
        lenient: reads what it can of an answer that does not pass; what it returns is the value, None asks again.

    Raises:
        ConfigError: the schema is none, or corrections is negative.
        BudgetError, InputError, StorageError: as the model's ``complete``.
    """
    if corrections < 0:
        raise ConfigError(f"corrections: got {corrections}, allowed >= 0; 0 asks once")
    validator = _validator(schema)
    text = canonical(schema)
    asked = [replace(request, schema=text) for request in requests]
    found = [Structured() for _ in requests]
    open_rows = list(range(len(asked)))
    for turn in range(corrections + 1):
        answers = await model.complete([asked[row] for row in open_rows])
        again = []
        for row, answer in zip(open_rows, answers, strict=True):
            seen = (*found[row].completions, answer)
            if answer.error is not None:
                found[row] = Structured(error=answer.error, completions=seen)
                continue
            value, wrong = _read(answer.text, validator)
            if wrong is not None and lenient is not None and (read := lenient(answer.text)) is not None:
                value, wrong = read, None
            if wrong is None:
                found[row] = Structured(value=value, completions=seen)
                continue
            if answer.finish == "length":
                wrong += "; the answer was cut at max_tokens"
            found[row] = Structured(error=f"no valid JSON ({wrong})", completions=seen)
            if turn < corrections:
                asked[row] = _corrected(asked[row], answer.text, CORRECTION.format(error=wrong, schema=text))
                again.append(row)
        open_rows = again
        if not open_rows:
            break
    return found


def _corrected(request: Request, answer: str, correction: str) -> Request:
    """The request with a turn more."""
    if request.messages is not None:
        # a conversation has no empty turns: some templates and servers refuse them
        turns = (*request.messages, Message("assistant", answer or "(nothing)"), Message("user", correction))
        return replace(request, messages=turns)
    return replace(request, prompt=f"{request.prompt}{answer}\n\n{correction}\n")


def _validator(schema: Mapping[str, Any]) -> Any:
    import jsonschema
    import referencing

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"schema: got what is no JSON Schema ({error.message}), allowed a valid one") from error
    # an empty registry: a reference to another document must not be fetched
    return kind(schema, registry=referencing.Registry())


def _read(text: str, validator: Any) -> tuple[Any, str | None]:
    """(value, None), or (None, what is wrong with the likeliest candidate)."""
    wrong = "no JSON in it"
    for number, value in enumerate(_candidates(text)):
        reason = _reason(value, validator)
        if reason is None:
            return value, None
        if number == 0:
            wrong = reason
    return None, wrong


def _reason(value: Any, validator: Any) -> str | None:
    import jsonschema
    import referencing.exceptions

    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except referencing.exceptions.Unresolvable as reference:
        raise ConfigError(
            f"schema: got a reference that leads nowhere ({reference}), allowed those within it"
        ) from None
    except RecursionError:
        return "nested too deeply"
    if error is None:
        return None
    said = " ".join(f"{error.json_path}: {error.message}".split())
    return said if len(said) <= _LONGEST_REASON else said[:_LONGEST_REASON] + "…"


def _candidates(text: str) -> Iterator[Any]:
    """JSON values in an answer, the likeliest first: all of it, what is fenced, what stands between words."""
    answer = text.rpartition("</think>")[2].strip()
    whole = _decoded(answer)
    if whole:
        yield whole[0]
        return
    for fenced in _FENCE.findall(answer):
        yield from _decoded(fenced.strip())
    decoder = json.JSONDecoder(parse_constant=_refuse)
    place = 0
    for _ in range(_OPENINGS):
        opening = _OPENING.search(answer, place)
        if opening is None:
            return
        try:
            value, place = decoder.raw_decode(answer, opening.start())
        except RecursionError:
            return
        except ValueError:
            place = opening.end()
            continue
        yield value


def _decoded(text: str) -> list[Any]:
    """The value that a text is as a whole, or nothing."""
    try:
        return [json.loads(text, parse_constant=_refuse)]
    except (ValueError, RecursionError):
        return []


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
