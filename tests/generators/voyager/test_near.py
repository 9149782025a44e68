"""Exact and near-duplicates against sets of word 5-grams."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.generators.items import Item
from penstock.generators.voyager.near import Seen, prints_of


def grams(text):
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def similarity(one, other):
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_what_is_found_is_as_near_as_asked_and_the_nearest_of_its_candidates(seed):
    draw = random.Random(seed)
    base = [f"w{draw.randrange(500)}" for _ in range(60)]
    texts = []
    for _ in range(12):
        words = list(base)
        for _ in range(draw.randrange(6)):
            words[draw.randrange(60)] = f"x{draw.randrange(500)}"
        texts.append(" ".join(words))
    prints = prints_of([Item(text=text) for text in texts])
    seen = Seen(0.8)
    for place, known in enumerate(prints):
        found = seen.find(known)
        before = [similarity(texts[place], other) for other in texts[:place]]
        if texts[place] in texts[:place]:
            assert found == (str(texts.index(texts[place])), "exact_duplicate")
        elif found is not None:
            assert found.reason == "near_duplicate"
            assert before[int(found.item_id)] >= 0.8
        else:
            assert max(before, default=0.0) < 0.97  # 14 bands of 8 miss such a pair once in 10 million
        seen.add(str(place), known)


def test_of_several_the_most_similar_is_named_then_the_earliest():
    words = [f"w{n}" for n in range(80)]
    near, nearer = " ".join([*words[:-2], "a", "b"]), " ".join([*words[:-1], "c"])
    seen = Seen(0.5)
    for name, known in zip(
        ("near", "nearer", "twin"), prints_of([Item(text=t) for t in (near, nearer, nearer + " ")]), strict=True
    ):
        seen.add(name, known)
    (new,) = prints_of([Item(text=" ".join(words))])
    assert seen.find(new).item_id == "nearer"


@pytest.mark.parametrize("near", [0.8, 1.0])
def test_short_texts_are_compared_as_a_whole(near):
    seen = Seen(near)
    one, other, folded = prints_of([Item(text=t) for t in ("What is 3 + 4 ?", "What is 3 + 5 ?", "what  is 3 +\n4 ?")])
    seen.add("one", one)
    assert seen.find(other) is None
    assert seen.find(folded) == ("one", "exact_duplicate")
