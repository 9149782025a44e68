"""Conversations as text and what is learned of them, against the chat templates of transformers."""

import functools
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.sources import _chat_template as jinja
from penstock.sources._chat import COLUMNS, MARKERS, Chat, Rendering
from penstock.sources.files import FileEntry, FileSource
from penstock.spans import LEARN
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.encode import Encode

# as transformers and TRL write the marks of what is generated
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
LLAMA3 = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Grüße 👩‍💻?"},
    {"role": "assistant", "content": "e\u0301 漢字 😀"},
]


def rendering(columns=None, **chat):
    return Rendering.of(Chat(**chat), columns or {})


def record(value, columns=None, **chat):
    """The record of messages, or of the row they are in."""
    row = value if isinstance(value, dict) else {"messages": value}
    return rendering(columns, **chat).record(7, row, "web", None)


def learned(value, columns=None, **chat):
    """(text, learned pieces of it) of a good record."""
    found = record(value, columns, **chat)
    assert found.reason is None, (found.reason, found.detail)
    edges = found.origin.learn
    return found.text.decode(), [found.text[a:b].decode() for a, b in zip(edges[::2], edges[1::2], strict=True)]


def reason(value, columns=None, **chat):
    found = record(value, columns, **chat)
    assert found.text is None
    return found.reason, found.detail


# ── templates ────────────────────────────────────────────────────────────────────────────────────


def test_chatml_by_hand():
    text, pieces = learned(TALK)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\nGrüße 👩‍💻?<|im_end|>\n<|im_start|>assistant\ne\u0301 漢字 😀<|im_end|>\n"
    )
    assert pieces == ["4<|im_end|>", "e\u0301 漢字 😀<|im_end|>"]


def test_llama3_by_hand():
    text, pieces = learned(
        [{"role": "user", "content": " a \n"}, {"role": "assistant", "content": "\tb "}], template="llama3"
    )
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
    )
    assert pieces == ["b<|eot_id|>"]


def test_plain_is_the_contents_and_a_separator():
    assert learned(TALK[1:4], template="plain") == ("2+2?\n\n4\n\nGrüße 👩‍💻?", ["4"])
    assert learned(TALK[1:4], template="plain", separator="|") == ("2+2?|4|Grüße 👩‍💻?", ["4"])


def test_learning_options():
    assert learned(TALK, learn="last_assistant")[1] == ["e\u0301 漢字 😀<|im_end|>"]
    assert learned(TALK, learn_end=False)[1] == ["4", "e\u0301 漢字 😀"]
    text, pieces = learned(TALK, learn="all")
    assert pieces == [text]


def test_a_message_of_weight_zero_is_written_and_not_learned():
    talk = [TALK[1], TALK[2] | {"weight": 0}, TALK[3], TALK[4] | {"weight": 1}]
    text, pieces = learned(talk)
    assert "\n4<|im_end|>" in text
    assert pieces == ["e\u0301 漢字 😀<|im_end|>"]


def test_an_empty_answer_is_not_learned():
    assert learned([*TALK[:4], {"role": "assistant", "content": " \n"}])[1] == ["4<|im_end|>"]


# ── against transformers ─────────────────────────────────────────────────────────────────────────


@functools.cache
def tokenizers():
    """Our encoder and transformers' tokenizer of the same file."""
    from transformers import PreTrainedTokenizerFast

    special = tuple(marker for markers in MARKERS.values() for marker in markers)
    sample = [json.dumps(TALK, ensure_ascii=False) * 9, "the quick brown fox. user assistant system tool\n\n" * 9]
    data = train_bpe(sample, BPEConfig(vocabulary_size=400, special=special))
    path = Path(tempfile.mkdtemp()) / "tokenizer.json"
    path.write_bytes(data)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<|begin_of_text|>")
    return Encode(tokenizer_file=str(path), sha256=hashlib.sha256(data).hexdigest()), theirs


def tokens_and_mask(found):
    """Token ids of a record without the closing one, and whether each is learned."""
    rows = pa.RecordBatch.from_pydict(
        {"text": pa.array([found.text.decode()]), "learn": pa.array([found.origin.learn], LEARN)}
    )
    out = tokenizers()[0].annotate(rows)
    (ids,), (runs,) = out["token_ids"].to_pylist(), out["learn_tokens"].to_pylist()
    mask = np.zeros(len(ids), int)
    for start, stop in zip(runs[::2], runs[1::2], strict=True):
        mask[start:stop] = 1
    return ids[:-1], mask[:-1].tolist()


def theirs(messages, template, found):
    """Ids and mask of transformers, without the tokens over a border, which it takes in and we leave out."""
    out = tokenizers()[1].apply_chat_template(
        messages,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    borders = [len(found.text[:edge].decode()) for edge in found.origin.learn]
    crosses = [any(start < border < stop for border in borders) for start, stop in out["offset_mapping"]]
    mask = [int(bit and not over) for bit, over in zip(out["assistant_masks"], crosses, strict=True)]
    return list(out["input_ids"]), mask


UNITS = [
    "a",
    "the fox",
    " ",
    "\n",
    "\n\n",
    "é",
    "e\u0301",
    "漢字",
    "😀",
    "👩\u200d💻",
    "|>",
    "<|",
    "<|endoftext|>",
    "12345",
]
CONTENT = st.lists(st.sampled_from(UNITS), min_size=1, max_size=6).map("".join)
TALKS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), CONTENT), min_size=1, max_size=6).map(
    lambda turns: [{"role": role, "content": content} for role, content in turns]
)


@pytest.mark.parametrize("template", ["chatml", "llama3"])
@given(talk=TALKS)
@settings(max_examples=80, deadline=None)
def test_tokens_and_mask_are_those_of_transformers(template, talk):
    # text that spells our end token is text to us; theirs takes it for the token
    talk = [m | {"content": m["content"].replace("<|endoftext|>", "<|end")} for m in talk]
    found = record(talk, template=template)
    answers = [m["content"] for m in talk if m["role"] == "assistant"]
    if not any(answer.strip() for answer in answers):
        assert found.reason == "nothing_to_learn"
        return
    if not all(answer.strip() for answer in answers):
        return  # theirs marks the end of an answer of nothing
    assert tokens_and_mask(found) == theirs(talk, TEMPLATES[template], found)


@pytest.mark.parametrize("template", ["chatml", "llama3"])
@given(talk=TALKS)
@settings(max_examples=60, deadline=None)
def test_a_jinja_template_gives_what_transformers_makes_of_it(template, talk):
    talk = [m | {"content": m["content"].replace("<|endoftext|>", "")} for m in talk]
    variables = {"bos_token": "<|begin_of_text|>"}
    found = record(talk, template=template_file(TEMPLATES[template]), markers=MARKERS[template], variables=variables)
    if not any(m["role"] == "assistant" for m in talk):
        assert found.reason == "nothing_to_learn"
        return
    assert tokens_and_mask(found) == theirs(talk, TEMPLATES[template], found)
    if all(m["content"].strip() for m in talk if m["role"] == "assistant"):
        # the template by name says the same
        named = record(talk, template=template)
        assert (named.text, named.origin.learn) == (found.text, found.origin.learn)


def test_a_token_over_the_border_to_an_answer_is_not_learned_here():
    talk = [{"role": "assistant", "content": "\na"}]
    ids, mask = tokens_and_mask(record(talk))
    tokens = tokenizers()[1].convert_ids_to_tokens(ids)
    assert tokens[-4:] == ["ĊĊ", "a", "<|im_end|>", "Ċ"]
    assert mask[-4:] == [0, 1, 1, 0]


@functools.cache
def template_file(text):
    path = Path(tempfile.mkdtemp()) / "chat.jinja"
    path.write_text(text)
    return str(path)


def test_text_is_that_of_trl_for_prompts_and_completions():
    """TRL puts the two texts side by side and masks the prompt."""
    columns = {"prompt": "prompt", "completion": "completion"}
    row = {"prompt": "The sky is", "completion": " blue."}
    assert learned(row, columns, template="plain") == ("The sky is blue.", [" blue."])
    # conversational ones are one conversation
    row = {"prompt": TALK[:2], "completion": [TALK[2]]}
    assert learned(row, columns) == learned(TALK[:3])


# ── shapes of records ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": TALK[1:3]}, {}),
        ({"chat": TALK[1:3]}, {"messages": "chat"}),
        ({"c": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, {"messages": "c"}),
        ({"messages": json.dumps(TALK[1:3])}, {}),
        ({"messages": json.dumps(TALK[1:3]).encode()}, {}),
        ({"messages": [TALK[1], {"role": "model", "content": ["4"]}]}, {}),
        ({"messages": [TALK[1], {"role": "assistant", "content": [{"type": "text", "text": "4"}], "name": None}]}, {}),
        ({"p": "2+2?", "c": "4"}, {"prompt": "p", "completion": "c"}),
        ({"p": "2+2?", "c": [{"role": "assistant", "content": "4"}]}, {"prompt": "p", "completion": "c"}),
        ({"i": "2+2?", "o": "4"}, {"instruction": "i", "input": "n", "output": "o"}),
        ({"i": "2+2?", "n": "", "o": "4"}, {"instruction": "i", "input": "n", "output": "o"}),
        ({"i": "", "n": "2+2?", "o": "4"}, {"instruction": "i", "input": "n", "output": "o"}),
    ],
)
def test_every_shape_is_the_same_conversation(row, columns):
    assert learned(row, columns) == learned(TALK[1:3])


def test_an_input_stands_on_a_line_after_its_instruction():
    columns = {"instruction": "instruction", "input": "input", "output": "output"}
    row = {"instruction": "Add.", "input": "2, 2", "output": "4"}
    assert learned(row, columns)[0].startswith("<|im_start|>user\nAdd.\n2, 2<|im_end|>")


def test_a_system_column_is_the_first_message():
    columns = {"messages": "messages", "system": "sys"}
    assert learned({"messages": TALK[1:3], "sys": "Be brief."}, columns) == learned(TALK[:3])
    assert learned({"messages": TALK[1:3], "sys": ""}, columns) == learned(TALK[1:3])
    assert learned({"messages": TALK[1:3]}, columns) == learned(TALK[1:3])


def test_more_names_of_roles():
    talk = [{"role": "coach", "content": "Go."}, {"role": "runner", "content": "Gone."}]
    assert reason(talk) == ("unknown_role", "coach")
    assert learned(talk, roles={"coach": "user", "runner": "assistant"})[1] == ["Gone.<|im_end|>"]


def test_a_prompt_of_json_that_is_no_conversation_is_text():
    columns = {"prompt": "prompt", "completion": "completion"}
    row = {"prompt": '[{"a": 1}]', "completion": "[1]"}
    assert learned(row, columns, template="plain", separator=" ") == ('[{"a": 1}] [1]', ["[1]"])


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": None, "c": "é"}}}


def test_tool_calls_as_the_models_know_them():
    written = {**CALL, "function": {"name": "add", "arguments": '{"a": 2, "c": "é"}'}}
    talk = [
        TALK[1],
        {"role": "assistant", "content": None, "tool_calls": [CALL, written]},
        {"role": "tool", "content": "4"},
    ]
    one = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "c": "é"}}\n</tool_call>'
    text, pieces = learned(talk)
    assert pieces == [f"{one}\n{one}<|im_end|>"]
    assert text.endswith("<|im_start|>tool\n4<|im_end|>\n")
    talk[1] = {"role": "assistant", "content": "Let me see.", "tool_calls": json.dumps([CALL])}
    assert learned(talk)[1] == [
        'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "c": "é"}}\n</tool_call><|im_end|>'
    ]
    talk[1] = {"role": "assistant", "tool_calls": [written]}
    text, pieces = learned(talk, template="llama3")
    assert pieces == ['{"name": "add", "parameters": {"a": 2, "c": "é"}}<|eot_id|>']
    assert "<|start_header_id|>ipython<|end_header_id|>\n\n4<|eot_id|>" in text
    talk[1] = {"role": "assistant", "tool_calls": [CALL, CALL]}
    assert reason(talk, template="llama3")[0] == "unsupported_content"
    assert reason(talk, template="plain")[0] == "unsupported_content"


def test_a_jinja_template_sees_tools_and_calls():
    path = template_file(
        "{{ tools | tojson }}{% for m in messages %}{% generation %}"
        "{{ m.tool_calls[0].function.arguments.a }}{% endgeneration %}{% endfor %}"
    )
    row = {"messages": [{"role": "assistant", "tool_calls": [CALL]}], "tools": '[{"name": "<é>"}]'}
    assert learned(row, {"messages": "messages", "tools": "tools"}, template=path) == ('[{"name": "<é>"}]2', ["2"])


# ── records that cannot be used ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (None, ("no_messages", None)),
        ([], ("no_messages", None)),
        ("", ("no_messages", None)),
        ("hello", ("bad_message", "got str, not a list")),
        ({"messages": {"role": "user"}}, ("bad_message", "got dict, not a list")),
        (["hello"], ("bad_message", "got str, not an object")),
        ([{"content": "x"}], ("bad_message", "no role")),
        ([{"role": 3, "content": "x"}], ("bad_message", "role: got int")),
        ([{"role": "user"}], ("bad_message", "no content")),
        ([{"role": "user", "content": 3}], ("bad_message", "content: got int")),
        ([{"role": "user", "content": [{"type": "text"}]}], ("bad_message", "a part of the content: got NoneType")),
        ([{"role": "user", "content": [{"type": "image_url"}]}], ("unsupported_content", "a part of type image_url")),
        ([{"role": "wizard", "content": "x"}], ("unknown_role", "wizard")),
        ([{"role": "assistant", "content": "x", "weight": 2}], ("bad_message", "weight is neither 0 nor 1")),
        ([{"role": "assistant", "tool_calls": [{}]}], ("bad_message", "a tool call without a function's name")),
        (TALK[:2], ("nothing_to_learn", None)),
        ([{"role": "assistant", "content": "  "}], ("nothing_to_learn", None)),
        ([{"role": "assistant", "content": "x", "weight": 0}], ("nothing_to_learn", None)),
        ([TALK[1], {"role": "assistant", "content": "a<|im_end|>b"}], ("spells_marker", "message 1")),
        ([TALK[1], {"role": "assistant", "content": "a<|im_\x00end|>b"}], ("spells_marker", "message 1")),
        ([{"role": "user", "content": "<|eot_id|>"}, TALK[2]], ("spells_marker", "message 0")),
        ([{"role": "assistant", "content": "\ud800"}], ("invalid_utf8", "character 0")),
        ([{"role": "assistant", "content": b"\xff"}], ("bad_message", "content: got bytes")),
        (b"\xff", ("invalid_utf8", "byte 0")),
    ],
)  # fmt: skip
def test_reasons_of_drops(messages, expected):
    assert reason(messages) == expected


def test_a_dropped_record_shows_what_it_held():
    found = record({"messages": [{"role": "wizard", "content": "Zauber 漢"}], "other": 1})
    assert json.loads(found.raw) == {"messages": [{"role": "wizard", "content": "Zauber 漢"}]}
    assert (found.row, found.domain) == (7, "web")


def test_half_a_row_is_no_conversation():
    columns = {"prompt": "p", "completion": "c"}
    assert reason({"p": "a"}, columns) == ("no_messages", "no text of the assistant")
    assert reason({"c": "a"}, columns) == ("no_messages", "no text of the user")
    columns = {"instruction": "i", "output": "o"}
    assert reason({"i": "", "o": "a"}, columns) == ("no_messages", "no text of the user")
    assert reason({"i": 3, "o": "a"}, columns) == ("bad_message", "instruction and input are no text")


def test_two_messages_do_not_spell_a_marker_together():
    columns = {"prompt": "p", "completion": "c"}
    assert reason({"p": "a<|im_", "c": "end|>"}, columns, template="plain") == ("spells_marker", "messages together")
    assert learned({"p": "a<|im_", "c": "end|>"}, columns)[1] == ["end|><|im_end|>"]


def test_a_text_above_the_limit_is_too_large():
    found = rendering().record(3, {"messages": TALK}, None, None, 50)
    assert (found.reason, found.text) == ("too_large", None)
    assert rendering().record(3, {"messages": TALK}, None, None, len(record(TALK).text)).reason is None


def test_nesting_without_end_costs_the_record():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    found = record([{"role": "assistant", "content": "x", "notes": deep}], template=template_file(CHATML))
    assert (found.reason, found.detail) == ("bad_message", "nested too deep")


# ── templates in Jinja ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
        ("{{ messages[0].content.secret.deep }}", "UndefinedError: "),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages.append(1) }}", "SecurityError: "),
        ("{{ messages.__class__.__base__ }}{{ ''.__class__.mro() }}", "SecurityError: "),
        ("{{ strftime_now('%Y') }}", "TemplateError: it asks for the time; give it a date with chat.variables"),
    ],
)
def test_what_a_template_cannot_do_costs_the_record(template, expected):
    path = template_file(template + "{% generation %}{% endgeneration %}")
    found, detail = reason(TALK, template=path)
    assert found == "template_error"
    assert detail.startswith(expected)


def test_variables_reach_the_template():
    path = template_file("{{ date }} {% generation %}{{ messages[-1].content }}{% endgeneration %}")
    assert learned(TALK[:3], template=path, variables={"date": "2024"}) == ("2024 4", ["4"])


def test_generation_blocks_are_found_in_macros_and_variables():
    path = template_file(
        "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% set all %}{% for m in messages %}[{{ say(m) }}]{% endfor %}{% endset %}é{{ all }}"
    )
    assert learned(TALK[1:3], template=path) == ("é[2+2?][4]", ["2+2?", "4"])
    assert learned(TALK[1:3], template=path, learn="last_assistant")[1] == ["4"]
    assert learned(TALK[1:3], template=path, learn="all")[1] == ["é[2+2?][4]"]


def test_a_template_that_cuts_its_blocks_apart_costs_the_record():
    path = template_file("{% set a %}{% generation %}x{% endgeneration %}{% endset %}{{ a[:2] }}")
    assert reason(TALK, template=path) == ("template_error", "it cuts its own generation blocks apart")


def test_blocks_of_nothing_are_nothing_to_learn():
    path = template_file("text{% generation %}{% endgeneration %}")
    assert reason(TALK, template=path) == ("nothing_to_learn", None)


def test_no_message_can_bring_the_marks_of_a_block():
    path = template_file(CHATML)
    talk = [{"role": "user", "content": f"a{jinja.OPEN}b"}, TALK[2]]
    assert reason(talk, template=path) == ("spells_marker", "message 0")
    assert (
        reason([TALK[1], TALK[2] | {"note": [{"x<|mine|>": 1}]}], template=path, markers=("<|mine|>",))[0]
        == "spells_marker"
    )
    assert reason([TALK[1], TALK[2] | {"weight": 0}], template=path)[0] == "bad_message"


def test_templates_that_cannot_be_used_are_refused(tmp_path):
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ConfigError, match=r"plain\.jinja: got no \{% generation %\} block, allowed one around what"):
        Chat(template=str(plain)).check()
    Chat(template=str(plain), learn="all").check()
    broken = tmp_path / "broken.jinja"
    broken.write_text("a\n{% for %}")
    with pytest.raises(ConfigError, match=r"broken\.jinja: line 2: .*; mend it"):
        Chat(template=str(broken), learn="all").check()
    with pytest.raises(InputError, match=r"gone\.jinja: cannot be read"):
        Chat(template=str(tmp_path / "gone.jinja")).check()
    (tmp_path / "latin.jinja").write_bytes(b"\xe9")
    with pytest.raises(InputError, match=r"latin\.jinja: cannot be read"):
        Chat(template=str(tmp_path / "latin.jinja")).check()
    (tmp_path / "big.jinja").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(InputError, match=r"big\.jinja: got more than 1048576 bytes"):
        Chat(template=str(tmp_path / "big.jinja")).check()


# ── options and files ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "alpaca"}, r"chat\.template: got 'alpaca', allowed chatml, llama3, plain or the path of a Jinja"),
        ({"learn": "user"}, r"chat\.learn: got 'user', allowed assistant, last_assistant, all"),
        ({"separator": "x"}, r"chat\.separator: got 'x', allowed only with template: plain"),
        ({"variables": {"a": "b"}}, r"chat\.variables: got a, allowed only with a Jinja template"),
        ({"markers": ("",)}, r"chat\.markers: got an empty text"),
        ({"template": "x.jinja", "learn_end": False}, r"chat\.learn_end: got false, allowed true with a Jinja"),
        ({"roles": {"coach": "trainer"}}, r"chat\.roles: got coach: trainer, allowed one of system, user"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Chat(**options)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"messages": "m", "prompt": "p"}, "got messages, prompt, allowed messages alone, prompt and completion"),
        ({"prompt": "p"}, "got prompt, allowed prompt, completion and maybe system, tools"),
        (
            {"instruction": "i", "output": "o", "tools": "t"},
            "got instruction, output, tools, allowed instruction, output",
        ),
        ({"tools": "t"}, "got tools, which the template chatml does not write; use a Jinja one"),
    ],
)
def test_columns_are_those_of_one_shape(columns, message):
    with pytest.raises(ConfigError, match=f"columns: {message}"):
        rendering(columns)
    with pytest.raises(ConfigError, match=f"columns: {message}"):
        FileEntry(path="x", columns=columns)


def test_an_entry_takes_a_text_or_a_conversation():
    with pytest.raises(ConfigError, match="columns: got text and a conversation"):
        FileEntry(path="x", columns={"text": "text", "messages": "messages"})
    assert FileEntry(path="x").rendering is None
    assert FileEntry(path="x", chat=Chat()).rendering.names == ("messages",)
    assert FileEntry(path="x", columns={"messages": "chat"}).rendering.chat == Chat()
    assert set(COLUMNS) >= {"messages", "prompt", "completion", "instruction", "input", "output"}


ROWS = [
    {"messages": TALK, "domain": "talk", "url": "u"},
    {"messages": [], "domain": "talk"},
    {"messages": TALK[1:3], "domain": "sums"},
]


def write_rows(folder, kind):
    path = folder / f"chat.{kind}"
    table = pa.Table.from_pylist([{"url": None, **row} for row in ROWS])
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


def read(source, target=1 << 20):
    rows = [rows for split in source.plan(target) for rows in source.read(split, dropped="full")]
    documents = pa.Table.from_batches([r.documents for r in rows]).to_pylist()
    return documents, pa.Table.from_batches([r.dropped for r in rows]).to_pylist()


@pytest.mark.parametrize("target", [1, 1 << 20])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_files_of_conversations_become_documents(tmp_path, kind, target):
    source = FileSource(name="chat", entries=(FileEntry(path=str(write_rows(tmp_path, kind)), chat=Chat()),))
    documents, dropped = read(source, target)
    found = [record(row["messages"]) for row in ROWS if row["messages"]]
    assert [d["text"] for d in documents] == [f.text.decode() for f in found]
    assert [d["learn"] for d in documents] == [f.origin.learn for f in found]
    assert [(d["doc_id"], d["domain"], d["url"]) for d in documents] == [
        (f"chat.{kind}#0", "talk", "u"),
        (f"chat.{kind}#2", "sums", None),
    ]
    assert [(d["doc_id"], d["reason"], d["domain"]) for d in dropped] == [(f"chat.{kind}#1", "no_messages", "talk")]


def test_prompts_and_completions_of_csv(tmp_path):
    (tmp_path / "q.csv").write_bytes(
        'ask,say\n2+2?,4\n"a\nb",é\nx,\nbad,\xff\n'.encode("latin-1").replace(b"\xe9", "é".encode())
    )
    entry = FileEntry(
        path=str(tmp_path / "q.csv"), columns={"prompt": "ask", "completion": "say"}, chat=Chat(template="plain")
    )
    documents, dropped = read(FileSource(name="q", entries=(entry,)))
    assert [(d["text"], d["learn"]) for d in documents] == [("2+2?4", [4, 5]), ("a\nbé", [3, 5])]
    assert [d["reason"] for d in dropped] == ["nothing_to_learn", "invalid_utf8"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_file_without_the_columns_is_named(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": ["a"]}), path)
    else:
        path.write_text('{"text": "a"}\n' if kind == "jsonl" else "text\na\n")
    with pytest.raises(InputError, match="no column messages; found text"):
        FileSource(name="s", entries=(FileEntry(path=str(path), chat=Chat()),)).plan(1 << 20)


def test_text_files_hold_no_messages(tmp_path):
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(ConfigError, match="text has no columns of messages"):
        FileSource(name="s", entries=(FileEntry(path=str(tmp_path / "x.txt"), chat=Chat()),)).plan(1 << 20)


def test_the_template_is_an_input_whose_content_decides_the_rows(tmp_path):
    template = tmp_path / "my.jinja"
    template.write_text(CHATML)
    data = write_rows(tmp_path, "jsonl")
    source = FileSource(name="s", entries=(FileEntry(path=str(data), chat=Chat(template=str(template))),))
    assert [file.path for file in source.inputs()] == [str(data), str(template)]
    (split,) = source.plan(1 << 20)
    before, first = source.identity(split), read(source)[0]
    template.write_text(CHATML.replace("im_start", "say"))
    assert [file.size for file in source.inputs()] == [data.stat().st_size, template.stat().st_size]
    assert source.identity(split) != before
    assert read(source)[0][0]["text"] == first[0]["text"].replace("im_start", "say")
    template.write_text("no blocks")
    with pytest.raises(ConfigError, match=r"got no \{% generation %\} block"):
        source.inputs()


def test_recipes_take_the_options():
    from penstock.recipe import Recipe

    text = """
name: chat
select: null
source:
  files:
  - path: a.jsonl
    columns: {messages: turns}
    chat: {template: llama3, learn: last_assistant, roles: {me: user}}
"""
    entry = Recipe.parse(text).source.files[0]
    assert entry.chat == Chat(template="llama3", learn="last_assistant", roles={"me": "user"})
    with pytest.raises(ConfigError, match=r"unknown key source\.files\.0\.chat\.templat; did you mean template"):
        Recipe.parse(text.replace("template:", "templat:"))
    with pytest.raises(ConfigError, match=r"chat\.learn: got 'none'"):
        Recipe.parse(text.replace("last_assistant", "none"))
