"""Refusals in eleven languages are found, and people who regret and decline are let pass."""

import pytest

from penstock.generators.gates.refusal import Refusal, is_refusal
from penstock.generators.items import Item

REFUSALS = (
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I cannot fulfill this request.",
    '"Sorry, I can\'t help with creating that story."',
    "**I apologize, but I cannot provide information on this topic.**",
    "Unfortunately, I am unable to generate such content.",
    "I cannot create explicit content.",
    "I must respectfully decline to write this text.",
    "I'm not comfortable writing this.",
    "I am just an AI model and have no opinions.",
    "Thank you for your question! As an AI language model, I do not have feelings.",
    "As a large language model, my training does not cover this.",
    "This request violates our content policy, so please ask for something else.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Leider kann ich diese Anfrage nicht erfüllen.",
    "Als KI-Sprachmodell kann ich keine Meinung äußern.",
    "Je suis désolé, mais je ne peux pas vous aider à écrire cela.",
    "En tant qu'intelligence artificielle, je n'ai pas d'avis.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Como modelo de lenguaje, no tengo opiniones.",
    "Mi dispiace, ma non posso aiutarti con questa richiesta.",
    "Desculpe, mas não posso ajudar com isso.",
    "Het spijt me, maar ik kan je daar niet mee helpen.",
    "Извините, но я не могу помочь с этим.",
    "Как языковая модель, я не имею мнения.",
    "很抱歉，我无法提供这个内容。",
    "作为一个人工智能，我没有感情。",
    "申し訳ありませんが、そのご要望にはお応えできません。",
    "AIアシスタントとして、意見を述べることはありません。",
    "죄송하지만 그 요청은 도와드릴 수 없습니다.",
)
PEOPLE = (
    "I'm sorry, but I can't come to the wedding, wrote her uncle.",
    "I cannot help it; the sea has always called me.",
    '"I am afraid I cannot write to you again," said the letter.',
    "Sorry, I missed the bus, so the tin of paint is still at the shop.",
    "Unfortunately, the team could not score in the second half.",
    "The waiter said that he was unable to provide a table for five.",
    "I won't answer the door after nine, and my sister won't either.",
    "As an airline pilot, I have seen the sun rise twice in a day.",
    "She said: I'm sorry, but I can't help with that.",
    "Es tut mir leid, dass ich gestern nicht kommen konnte.",
    "Leider war der Zug nicht pünktlich, und wir froren.",
    "Je suis désolée, le pain est brûlé.",
    "Lo siento mucho, dijo el rey, y cerró la puerta.",
    "Извините, где здесь станция?",
    "很抱歉来晚了，路上下雪。",
    "申し訳ありませんでした、と彼は言った。",
    "How many apples does Ana have if she cannot provide 3 of the 12 that she owes?",
    "",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_found(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", PEOPLE)
def test_what_people_write_is_let_pass(text):
    assert not is_refusal(text)


def test_the_gate_looks_at_text_and_answer():
    items = [Item(text="How far is it?", answer=answer) for answer in ("12", "I cannot answer that question.", None)]
    items.append(Item(text=REFUSALS[0]))
    assert Refusal().judge(items) == [None, "refusal", None, "refusal"]


def test_what_stands_after_the_first_characters_is_not_looked_at():
    assert not is_refusal("A quiet day. " * 40 + "As an AI language model, I say so.")
