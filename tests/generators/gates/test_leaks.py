"""What shows how an item was made is found by its kind; what people write is let pass."""

import pytest

from penstock.errors import ConfigError
from penstock.generators.gates.leaks import Leaks
from penstock.generators.items import Item

TASK = "Write a sentence about sports that mentions a team, a player and the final score of the game."

LEAKS = (
    ("<|im_start|>assistant\nThe team won.", "leak_marker"),
    ("The team won.<|eot_id|>", "leak_marker"),
    ("[INST] The team won.", "leak_marker"),
    ("### Response:\nThe team won.", "leak_marker"),
    ("The team won.</s>", "leak_marker"),
    ("<think>What would they like?</think>The team won.", "leak_marker"),
    ("The team won.\nHuman: another one", "leak_marker"),
    ("Here are 10 sentences about sports:\n1. The team won.", "leak_preamble"),
    ("Sure! Here's a sentence for you:\nThe team won.", "leak_preamble"),
    ("**Here is the next one:**\nThe team won.".replace(":**", ":"), "leak_preamble"),
    ("Certainly! I'll write one. The team won.", "leak_preamble"),
    ("Problem 3: A team has 4 players.", "leak_preamble"),
    ("The team won. Let me know if you'd like more!", "leak_preamble"),
    ("Dear [Your Name], the team won.", "leak_placeholder"),
    ("[Team Name] won by 3.", "leak_placeholder"),
    ("The {{team}} won.", "leak_placeholder"),
    ("Lorem ipsum dolor sit amet.", "leak_placeholder"),
    ('{"text": "The team won."}', "leak_json"),
    ('The team won."}', "leak_json"),
    ('The team won", "answer": "3', "leak_json"),
    ("The team won.\\nThe crowd sang.", "leak_json"),
    ("The team won \\u2014 again.", "leak_json"),
    ("<item>The team won.", "leak_json"),
    (TASK, "leak_prompt"),
    ("Write a sentence about sports that mentions a team: the Hawks won 3 to 1.", "leak_prompt"),
    ("a team, a player", "leak_prompt"),
)
PEOPLE = (
    "The Hawks won 3 to 1 after Lee scored twice in the last minute of the game.",
    "Here is where the river bends. Here are the mills.",
    "He set x = \\nu and took $\\nabla f$, which is \\neq 0.",
    "The array [1, 2] has 2 items; {a, b} is a set.",
    "Sure enough, it rained.",
    'He said: "The question is this."',
    "Team A: 3. Team B: 1.",
    "In a < b the sign is small. [Laughter] I hope this finds you well.",
    "The final score of the game was 3 to 1, and nobody left.",
    "Question time begins at noon.",
    "",
)


@pytest.mark.parametrize(("text", "reason"), LEAKS)
def test_a_leak_has_its_reason(text, reason):
    assert Leaks(prompts=(TASK,)).judge([Item(text=text)]) == [reason]


@pytest.mark.parametrize("text", PEOPLE)
def test_what_people_write_is_let_pass(text):
    assert Leaks(prompts=(TASK,)).judge([Item(text=text)]) == [None]


def test_an_answer_leaks_as_a_text_does():
    item = Item(text="How many?", answer='3"}')
    assert Leaks().judge([item, Item(text="How many?", answer="3")]) == ["leak_json", None]


def test_a_prompt_is_repeated_from_half_of_the_words_or_a_long_run_on():
    words = [f"w{n}" for n in range(40)]
    gate = Leaks(prompts=(" ".join(words),), run=12)

    def judge(*parts):
        return gate.judge([Item(text=" ".join(word for part in parts for word in part))])[0]

    def other(count):
        return [f"x{n}" for n in range(count)]

    assert judge(words[:12], other(100)) == "leak_prompt"
    assert judge(words[:11], other(100)) is None
    assert judge(words[:6], other(6)) == "leak_prompt"
    assert judge(words[:6], other(7)) is None
    assert judge(words[:6], other(1), words[10:16], other(10)) == "leak_prompt"
    assert judge(words[:4], other(4)) is None  # no run of five
    # two runs that overlap cover eight words, not ten
    two = Leaks(prompts=("a b c d e x", "y d e f g h"))
    assert two.judge([Item(text="a b c d e f g h " + " ".join(other(9)))]) == [None]
    assert two.judge([Item(text="a b c d e f g h " + " ".join(other(8)))]) == ["leak_prompt"]
    assert judge(words[5:8]) == "leak_prompt"  # the whole of a short item
    assert judge(words[5:7]) is None
    assert judge(["w5", "w7", "w6"]) is None


def test_runs_shorter_than_any_that_count_are_refused():
    with pytest.raises(ConfigError, match="run: got 4 words, allowed >= 5"):
        Leaks(run=4)
