"""Answers that obey a schema: read leniently, checked strictly, corrected in turns, given up row by row."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.generators.base import Completion, Message, Request, canonical
from penstock.generators.structured import ask_structured

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
GOOD = {"name": "Ada", "age": 36}


class Scripted:
    """Answers each request by its first words: a list of answers, one a turn."""

    identity = {"kind": "scripted"}

    def __init__(self, script):
        self.script, self.seen = {name: list(answers) for name, answers in script.items()}, []

    def setup(self):
        pass

    async def complete(self, requests):
        self.seen.append(requests)
        out = []
        for request in requests:
            name = (request.prompt or request.messages[0].content).split()[0]
            answer = self.script[name].pop(0)
            out.append(answer if isinstance(answer, Completion) else Completion(text=answer))
        return out


def chat(*names):
    return [Request(messages=(Message("user", name),)) for name in names]


def ask(model, requests, schema=SCHEMA, **more):
    return asyncio.run(ask_structured(model, requests, schema, **more))


def read(text, schema=SCHEMA):
    (found,) = ask(Scripted({"a": [text]}), chat("a"), schema, corrections=0)
    return found


GOOD_TEXT = json.dumps(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        GOOD_TEXT,
        f"\n  {GOOD_TEXT}\n",
        f"```json\n{GOOD_TEXT}\n```",
        f"Here you are:\n```\n{GOOD_TEXT}\n```\nAnything else?",
        f"Sure! {GOOD_TEXT} That is all.",
        f'<think>maybe {{"name": "Bob", "age": 1}}?</think>\n{GOOD_TEXT}',
        f'An example {{"name": 3}} of what is wrong, and {GOOD_TEXT}',
        f"{{ is how it begins: {GOOD_TEXT}",
        '[1, 2] and {"name": "Ada", "age": 36}',
        json.dumps(GOOD, indent=4),
    ],
)
def test_json_is_found_whatever_stands_around_it(text):
    found = read(text)
    assert (found.value, found.error) == (GOOD, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no JSON in it"),
        ("I cannot help with that.", "no JSON in it"),
        ('{"name": "Ada", "age":', "no JSON in it"),
        ('{"name": "Ada"}', r"\$: 'age' is a required property"),
        ('{"name": "Ada", "age": -1}', r"\$.age: -1 is less than the minimum of 0"),
        ('{"name": "Ada", "age": "36"}', r"\$.age: '36' is not of type 'integer'"),
        ('{"name": "Ada", "age": NaN}', "no JSON in it"),
        ("[" * 5000, "no JSON in it"),
        ('{"name": "' + "x" * 5000 + '", "age": 0.5}', r"\$.age: 0.5 is not"),
        ('{"name": ["' + "x" * 5000 + '"], "age": 1}', r"\$.name: \['x+…\)$"),
    ],
)
def test_what_does_not_obey_has_an_error_that_says_why(text, error):
    found = read(text)
    assert found.value is None
    assert found.error.startswith("no valid JSON (")
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(found.error)
    assert [one.text for one in found.completions] == [text]
    assert len(found.error) < 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
words = st.text(st.characters(exclude_characters="[]{}`<", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), values, max_size=4) | st.lists(values, max_size=4), words, words, st.booleans())
def test_any_object_or_list_between_words_is_read_back(value, before, after, fenced):
    text = json.dumps(value, ensure_ascii=False)
    text = f"{before}\n```json\n{text}\n```\n{after}" if fenced else before + text + after
    found = read(text, {"type": ["object", "array"]})
    assert (found.value, found.error) == (value, None)


def test_every_request_carries_the_schema_as_canonical_text():
    model = Scripted({"a": [GOOD_TEXT]})
    ask(model, chat("a"))
    assert model.seen[0][0].schema == canonical(SCHEMA)


def test_an_answer_is_corrected_in_its_own_conversation_and_others_are_left_alone():
    model = Scripted({"good": [GOOD_TEXT], "slow": ["{}", '{"name": "Ada"}', GOOD_TEXT]})
    good, slow = ask(model, chat("good", "slow"))
    assert (good.value, slow.value) == (GOOD, GOOD)
    assert [len(turn) for turn in model.seen] == [2, 1, 1]
    assert [len(one.completions) for one in (good, slow)] == [1, 3]
    turns = model.seen[2][0].messages
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert [turns[1].content, turns[3].content] == ["{}", '{"name": "Ada"}']
    assert "'name' is a required property" in turns[2].content
    assert "'age' is a required property" in turns[4].content
    assert canonical(SCHEMA) in turns[4].content


def test_a_plain_prompt_is_corrected_by_going_on():
    model = Scripted({"Who": ["nobody", GOOD_TEXT]})
    (found,) = ask(model, [Request(prompt="Who is it? ")])
    assert found.value == GOOD
    assert model.seen[1][0].prompt.startswith("Who is it? nobody\n\nThat answer cannot be used: no JSON in it. ")


def test_a_row_that_never_obeys_is_given_up_after_the_corrections_with_all_it_said():
    model = Scripted({"bad": ["1", "2", "3", "4"], "good": [GOOD_TEXT]})
    bad, good = ask(model, chat("bad", "good"), corrections=2)
    assert good.value == GOOD
    assert bad.value is None
    assert bad.error.startswith("no valid JSON ($: 3 is not of type 'object')")
    assert [one.text for one in bad.completions] == ["1", "2", "3"]
    assert model.script["bad"] == ["4"]


def test_a_failed_request_is_its_row_s_error_and_is_not_corrected():
    model = Scripted({"down": [Completion(error="status 503 (x)")], "late": ["no", Completion(error="status 500")]})
    down, late = ask(model, chat("down", "late"))
    assert (down.error, len(down.completions)) == ("status 503 (x)", 1)
    assert (late.error, len(late.completions)) == ("status 500", 2)
    assert [len(turn) for turn in model.seen] == [2, 1]


def test_an_answer_that_was_cut_says_so_and_an_empty_one_leaves_no_empty_turn():
    model = Scripted({"a": [Completion(text='{"name": "A', finish="length"), "", GOOD_TEXT]})
    (found,) = ask(model, chat("a"))
    assert found.value == GOOD
    turns = model.seen[2][0].messages
    assert "the answer was cut at max_tokens" in turns[2].content
    assert turns[3].content == "(nothing)"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "what is no JSON Schema"),
        ({"$ref": "#/$defs/nothing"}, "a reference that leads nowhere"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "a reference that leads nowhere"),
    ],
)
def test_a_schema_that_is_none_is_refused(schema, message):
    with pytest.raises(ConfigError, match=message):
        read(GOOD_TEXT, schema)


def test_corrections_below_none_are_refused():
    with pytest.raises(ConfigError, match="corrections: got -1"):
        ask(Scripted({}), [], corrections=-1)
