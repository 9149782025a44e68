"""What each rule does to a text small enough to check by eye."""

import re

import pytest

from penstock.generators.transforms.background import DETAILS, SCENES, Background
from penstock.generators.transforms.base import NotApplicable, Problem, Variant
from penstock.generators.transforms.choices import Choices
from penstock.generators.transforms.lexicon import PHRASES
from penstock.generators.transforms.names import EITHER, FEMALE, GENDERS, MALE
from penstock.generators.transforms.order import Order
from penstock.generators.transforms.paraphrase import Paraphrase
from penstock.generators.transforms.presentation import Presentation, spelled
from penstock.generators.transforms.rename_names import RenameNames
from penstock.generators.transforms.rename_variables import RenameVariables
from penstock.generators.transforms.subproblem import Subproblem
from penstock.generators.transforms.symbolic import Symbolic
from penstock.generators.transforms.term import Term
from penstock.generators.verification.expressions import value_of
from penstock.generators.verification.options import options_of
from penstock.generators.verification.reading import marks, read
from penstock.seeding import stream


def apply(rule, text, answer="7", seed=0, **more):
    return rule.apply(Problem(problem_id="p", prompt=text, answer=answer, **more), stream(seed))


def variants(rule, text, count=30, **more):
    made = [apply(rule, text, seed=seed, **more) for seed in range(count)]
    assert all(isinstance(one, Variant) for one in made)
    return made


def prompts(rule, text, count=30, **more):
    return {one.prompt for one in variants(rule, text, count, **more)}


# paraphrase


def test_a_paraphrase_changes_phrases_of_the_lexicon_and_the_form_of_the_question():
    text = "Ann bought 5 plums. How many plums does Ann have in total?"
    assert prompts(Paraphrase(), text, count=100) == {
        f"Ann {did} 5 plums. {asked} plums does Ann have {total}?"
        for did in ("bought", "purchased")
        for asked in ("How many", "What number of")
        for total in ("in total", "altogether")
        if (did, asked, total) != ("bought", "How many", "in total")
    }


def test_a_paraphrase_leaves_alone_what_a_number_counts():
    assert isinstance(apply(Paraphrase(), "There are 5 kids. Is it a lot?"), NotApplicable)
    assert apply(Paraphrase(), "The kids ran 5 miles.").prompt == "The children ran 5 miles."


def test_how_many_more_and_how_many_of_are_not_asked_another_way():
    for what in ("more plums has Ann", "of them are red", "are left", "times", "years older is Ann"):
        assert isinstance(apply(Paraphrase(), f"How many {what}?"), NotApplicable)


def test_a_question_becomes_an_order_and_back():
    orders = {f"{order} the sum." for order in ("Determine", "Calculate", "Find")}
    assert prompts(Paraphrase(share=0), "What is the sum?") >= orders
    assert "What is the sum?" in prompts(Paraphrase(), "Calculate the sum.")


def test_every_phrase_of_the_lexicon_keeps_the_marks_of_what_it_replaces():
    for phrases in PHRASES.values():
        for phrase in phrases:
            behind = min(phrase.behind, default="plums")
            old, new = (read(f"Ann {text} {behind}") for text in (" ".join(phrase.words), phrase.new))
            kept = [
                [mark for s in text.statements for mark in marks(s, frozenset(), frozenset())] for text in (old, new)
            ]
            assert kept[0] == kept[1], phrase


def test_in_all_is_in_total_only_where_the_clause_ends():
    assert apply(Paraphrase(), "Ann sees 5 in all.").prompt == "Ann sees 5 in total."
    assert isinstance(apply(Paraphrase(), "Ann sees 5 in all the bags."), NotApplicable)


# renaming


def test_names_are_renamed_everywhere_with_their_possessives_and_small_letters():
    made = apply(RenameNames(), "Tom's dog likes Mary. Mary walks tom's dog. Does Tom walk it?")
    tom, mary = made.mapping["Tom"], made.mapping["Mary"]
    assert made.prompt == f"{tom}'s dog likes {mary}. {mary} walks {tom.lower()}'s dog. Does {tom} walk it?"
    assert (GENDERS[tom.lower()], GENDERS[mary.lower()]) == ("m", "f")


def test_new_names_are_new_and_differ():
    for made in variants(RenameNames(), "Tom met Bob, Ron, Jim and Tim.", count=60):
        assert len({*made.mapping.values(), "Tom", "Bob", "Ron", "Jim", "Tim"}) == 10


@pytest.mark.parametrize(
    "text",
    ["Tom Sawyer runs.", "Mr. Tom runs.", "St. Paul has 5 hills.", "Anna-Maria runs.", "Will he run?", "He is frank.",
     "The rose is red. Rose has it. She likes the rose.", "TOM is a company.", "Jordan is a country."],
)  # fmt: skip
def test_what_may_be_no_first_name_is_not_renamed(text):
    assert isinstance(apply(RenameNames(), text), NotApplicable)


def test_every_name_has_one_gender():
    assert len(GENDERS) == len(MALE) + len(FEMALE) + len(EITHER)


def test_variables_are_renamed_one_to_one_and_no_letter_is_captured():
    text = "If $x + y = 5$ and \\frac{x}{2} = y, find x. Let n be 3n."
    for made in variants(RenameVariables(), text, count=40):
        x, y, n = (made.mapping[letter] for letter in "xyn")
        assert made.prompt == f"If ${x} + {y} = 5$ and \\frac{{{x}}}{{2}} = {y}, find {x}. Let {n} be 3{n}."
        assert len({x, y, n, "x", "y", "n"}) == 6


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        ("A 5 m rope and a 10K race at 3 m/s.", "7", "no letter that surely stands for an unknown"),
        ("Solve for x: x + 1 = y", "y - 1", "the answer holds an unknown"),
        ("Is e + i = d?", "7", "no letter that surely"),
        ("Let $M$ be the middle of $AB$ and find $BM$.", "7", "no letter that surely"),
        ("Find $xy$ for $x = 3$ and $y = 4$.", "7", "no letter that surely"),
    ],
)
def test_letters_with_another_sense_are_no_variables(text, answer, reason):
    assert reason in apply(RenameVariables(), text, answer).reason


# format


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("5 cats saw 21 dogs.", "Five cats saw twenty-one dogs."),
        ("He saw twenty-one dogs.", "He saw 21 dogs."),
        ("It costs $5.50 per day.", "It costs 5.50 dollars per day."),
        ("It costs 5 dollars.", "It costs $5."),
        ("Take 20% off.", "Take 20 percent off."),
        ("Take 20 percent off.", "Take 20% off."),
        ("It has 12500 rows.", "It has 12,500 rows."),
        ("Sam ran 1,500 m in May.", "Sam ran 1500 m in May."),
        ("It weighs 5 kg.", "It weighs 5 kilograms."),
        ("It goes 30mph.", "It goes 30 miles per hour."),
    ],
)
def test_a_number_or_unit_is_written_another_way(text, new):
    assert prompts(Presentation(), text, count=6) == {new}


@pytest.mark.parametrize(
    "text",
    ["Room 5 is open.", "In 1995 it rained.", "It is 5:30 now.", "A $5 bill.", "Take 3/4 of it.", "x^2 + 3 = 7",
     "At 5 pm.", "It was one of them.", "two hundred and five men", "3.5 apples", "He has 5 million fans.",
     "Day 2 begins."],
)  # fmt: skip
def test_numbers_that_name_something_or_stand_in_a_formula_stay(text):
    made = apply(Presentation(), text)
    assert isinstance(made, NotApplicable), made


def test_only_numbers_below_a_hundred_are_spelled():
    assert (spelled(0), spelled(40), spelled(99)) == ("zero", "forty", "ninety-nine")
    with pytest.raises(ValueError, match="got 100, allowed 0 to 99"):
        spelled(100)


def test_independent_statements_and_the_condition_of_a_question_change_places():
    text = "A bag holds 5 plums. A crate holds 9 pears. If Ann buys 3 bags, how many plums are there?"
    assert prompts(Order(), text) == {
        "A crate holds 9 pears. A bag holds 5 plums. If Ann buys 3 bags, how many plums are there?",
        "A bag holds 5 plums. A crate holds 9 pears. How many plums are there if Ann buys 3 bags?",
    }
    turned = "If Ann buys 3 bags, how many plums are there?"
    assert prompts(Order(), "How many plums are there if Ann buys 3 bags?") == {turned}


def test_statements_that_lean_on_each_other_stay():
    for text in (
        "Ann has 5 plums. She eats 2 plums. How many plums are there?",
        "A bag holds 5 plums. The bag costs 3 dollars. How many plums are there?",
        "Ann has 5 plums. Sue has 3. How many plums are there?",
        "If Ann has 5 plums, how many plums does she eat?",
    ):
        assert isinstance(apply(Order(), text), NotApplicable)


@pytest.mark.parametrize("answer", ["7", "0", "-3", "2.50", "1,250", "100000"])
def test_options_hold_the_answer_once_at_every_place_and_look_like_it(answer):
    letters = set()
    for made in variants(Choices(), "How many?", count=40, answer=answer):
        found = options_of(made.prompt)
        assert found.stem == "How many?"
        assert found.by_letter[made.answer] == answer
        assert len(set(found.by_letter.values())) == 4
        assert {len(text.partition(".")[2]) for text in found.by_letter.values()} == {len(answer.partition(".")[2])}
        assert answer[0] == "-" or not any(text.startswith("-") for text in found.by_letter.values())
        letters.add(made.answer)
    assert letters == set("ABCD")


def test_options_are_taken_away_and_the_answer_is_what_the_letter_said():
    made = apply(Choices(), "How many? (A) 12 (B) 15", answer="B")
    assert (made.prompt, made.answer) == ("How many?", "15")
    cases = (("Which of the following? (A) 1 (B) 2", "A"), ("How many? (A) 1 (B) 2", "C"), ("Who?", "blue"))
    for text, answer in cases:
        assert isinstance(apply(Choices(), text, answer=answer), NotApplicable)


def test_as_many_options_as_wanted_are_found_for_a_small_answer():
    assert len(options_of(apply(Choices(options=10), "How many?", answer="0").prompt).by_letter) == 10


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("What is 5 + 3 * 2?", "What is the sum of 5 and the product of 3 and 2?"),
        ("Calculate ( 56 + -33 ) - 84.", "Calculate the difference between the sum of 56 and negative 33 and 84."),
        ("Solve for h: 20*h + 65 = 1485", "Solve for h: the sum of the product of 20 and h and 65 equals 1485"),
        ("What is 5 plus 3?", "What is 5 + 3?"),
        ("Compute 12 divided by 3.", "Compute 12 / 3."),
    ],
)
def test_symbols_are_said_in_words_and_words_written_as_symbols(text, new):
    assert apply(Symbolic(), text).prompt == new


def test_a_story_becomes_its_equation_only_where_that_computes_to_the_answer():
    story = "Ann has 3 plums and gets 4."
    made = apply(Symbolic(), story, provenance={"equation": "( 3.0 + 4.0 )"})
    assert "3 + 4" in made.prompt
    assert made.facts == {"equation": "3 + 4"}
    for equation in ("( 3.0 - 4.0 )", "3 / 0", "__import__('os')", "3 ** 4", None):
        assert isinstance(apply(Symbolic(), story, provenance={"equation": equation}), NotApplicable)
    assert isinstance(apply(Symbolic(), "What is 1 + 2 + 3 + 4 + 5 + 6?"), NotApplicable)


# background, term, sub-problem


def test_no_sentence_of_a_story_carries_a_mark():
    for sentence in (*SCENES, *DETAILS):
        text = read(sentence)
        found = [mark for s in text.statements for mark in marks(s, frozenset(), frozenset())]
        assert found == [], sentence
        assert sentence.count(".") == 1


def test_a_story_stands_first_and_shares_no_word_with_the_question():
    text = "The dog saw 5 birds in the market while rain fell on the door."
    for prompt in prompts(Background(), text):
        story = prompt.removesuffix(" " + text)
        assert story != prompt
        assert not any(word in story.lower() for word in ("dog", "bird", "market", "rain", "door"))
    assert isinstance(apply(Background(), "He has 5 plums."), NotApplicable)


def test_a_term_stands_for_a_counted_thing_in_all_its_forms():
    text = "Apples are sold. An apple costs $2. Ann buys 5 apples. How many apples has Ann?"
    made = apply(Term(), text)
    new = made.facts["term"]
    assert made.mapping == {"apple": new}
    assert made.prompt.endswith(
        f" {new.capitalize()}s are sold. A {new} costs $2. Ann buys 5 {new}s. How many {new}s has Ann?"
    )
    assert new in made.prompt.split(".")[0]
    assert "an apple" in made.prompt.split(".")[0]


@pytest.mark.parametrize(
    "text", ["Ann ran 5 miles.", "Ann saw 5 geese.", "He can paint 5 paints.", "5 red", "5 Apples"]
)
def test_units_verbs_and_irregular_plurals_get_no_term(text):
    assert isinstance(apply(Term(), text), NotApplicable)


def test_a_hidden_number_is_what_its_condition_computes_to_and_no_number_of_it_tells_the_answer():
    text = "Ann has 12 plums, $360 and 2 pears."
    hidden = set()
    for made in variants(Subproblem(), text, count=80, answer="5"):
        value, letter, condition = (made.facts[name] for name in ("sub_answer", "symbol", "condition"))
        assert value_of(condition) == value
        words = condition.split()
        assert "5" not in words
        assert str(value) not in words
        assert made.prompt.endswith(re.sub(rf"\b{value}\b", letter, text))
        hidden.add(value)
    assert hidden == {12, 360, 2}


@pytest.mark.parametrize(
    "text", ["Room 5 is open.", "It is 5:30.", "x = 5 + 3", "3.5 plums", "1 plum", "0 plums", "a 5-day trip"]
)
def test_a_number_that_no_letter_can_stand_for_is_not_hidden(text):
    assert isinstance(apply(Subproblem(), text), NotApplicable)
