"""The prefix explorer: completions of what stands before a text, and other prefixes away from what is held."""

import asyncio
import itertools
import json

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.generators.base import Completion, digest
from penstock.generators.explorers.prefix import (
    DRAWN,
    Choices,
    Prefix,
    PrefixExplorer,
    PrefixSettings,
    first_words,
)
from penstock.generators.items import Item
from penstock.seeding import stream

TOPICS = ("river water bank", "engine piston oil", "sonata key chord", "bread flour oven", "glacier ice snow")


@pytest.fixture
def choices(words):
    made = [Prefix(f"About {topic.split()[0]} {n}:", f"{topic} {topic} w{n}") for topic in TOPICS for n in range(8)]
    return Choices(prefixes=tuple(made), embedder=words)


def explorer(choices, model=None, seed=0, **settings):
    return PrefixExplorer.root(model, "Text:", choices, PrefixSettings(**settings), seed=seed)


def refine(of, anchors, round=0, rejected=("x",)):
    items = [[Item(text=text) for text in texts] for texts in (rejected, anchors)]
    return asyncio.run(of.refine(*items, round=round))


def test_successors_are_those_of_the_largest_determinant_ratio_one_after_the_other(choices, words):
    held = ["river water bank w1", "bread flour oven"]
    root = explorer(choices, refinements=2)
    found = refine(root, held)
    half = min(2 * DRAWN, len(choices.prefixes) // 2)
    drawn = stream(0, root.explorer_id, "refine", 0).choice(len(choices.prefixes), half, replace=False)
    vectors = np.asarray(words.embed([*held, *(prefix.exemplar for prefix in choices.prefixes)]), np.float64)

    def det(rows):
        return np.linalg.det(vectors[rows] @ vectors[rows].T)

    chosen, rows = [], [0, 1]
    for _ in range(2):
        best = max((int(i) for i in drawn if i + 2 not in rows), key=lambda i: det([*rows, i + 2]) / det(rows))
        chosen.append((choices.prefixes[best].text, det([*rows, best + 2]) / det(rows)))
        rows.append(best + 2)
    assert [child.prompt for child in found] == [text for text, _ in chosen]
    assert [child.gradient.rpartition("adds ")[2] for child in found] == [f"{gain:.3f} to them" for _, gain in chosen]


def test_successors_leave_what_the_anchors_cover(choices):
    for topic in TOPICS:
        covered = [f"{topic} w{n}" for n in range(8)]
        for round in range(5):
            assert not any(topic.split()[0] in child.prompt for child in refine(explorer(choices), covered, round))


def test_a_refinement_is_decided_by_seed_explorer_round_and_anchors_alone(choices, words):
    def prompts(seed=0, round=0, anchors=("bread flour",), start="Text:"):
        root = PrefixExplorer.root(None, start, choices, PrefixSettings(), seed=seed)
        return [(child.explorer_id, child.prompt, child.parent_id) for child in refine(root, anchors, round)]

    assert prompts() == prompts()
    others = [prompts(seed=1), prompts(round=1), prompts(start="Other:")]
    for other in others:
        assert [prompt for _, prompt, _ in other] != [prompt for _, prompt, _ in prompts()]
    names = [name for made in (prompts(), others[1]) for name, _, _ in made]
    assert len(set(names)) == len(names) == 6


def test_equal_and_empty_anchors_and_exemplars_without_a_vector_do_no_harm(words):
    prefixes = [Prefix("a", "river"), Prefix("b", "... !"), Prefix("c", "poison"), Prefix("d", "engine")]
    choices = Choices(prefixes=tuple(prefixes), embedder=words)
    found = refine(explorer(choices), ["river", "river", "—", "poison"])
    assert [child.prompt for child in found] == ["d", "a"]
    assert [child.prompt for child in refine(found[0], [])] == ["a"]
    assert refine(explorer(choices), [], rejected=())[0].gradient.startswith(
        "0 items after 'Text:' were too much like 0"
    )


def test_the_exemplars_are_embedded_once(choices, words):
    root = explorer(choices)
    children = refine(root, ["river"])
    refine(children[0], ["engine"], 1)
    assert len(words.embedded) == len(choices.prefixes) + 2


def test_items_are_completions_of_the_prefix_with_all_that_makes_them_again(queued, choices):
    model = queued([" one. ", None, "three\n"])
    root = explorer(choices, model, seed=4, temperature=0.7, top_p=0.9, max_tokens=50, stop=("\n\n",), keep=False)
    one, failed, three = asyncio.run(root.propose(3, round=2))
    assert [(item.text, item.invalid) for item in (one, failed, three)] == [
        ("one.", None),
        ("", "call_failed"),
        ("three", None),
    ]
    assert [(r.prompt, r.temperature, r.top_p, r.max_tokens, r.stop, r.sample) for r in model.asked] == [
        ("Text:", 0.7, 0.9, 50, ("\n\n",), sample) for sample in range(3)
    ]
    assert len({request.seed for request in model.asked}) == 1
    assert three.origin == {
        "model": "scripted-1",
        "model_revision": "r1",
        "request_key": digest(model, model.asked[2]),
        "seed": model.asked[2].seed,
        "sample_index": 2,
        "usage": {"prompt_tokens": 7, "completion_tokens": 1},
    }
    model.answers = ["a"]
    asyncio.run(root.propose(1, round=3))
    assert model.asked[3].seed != model.asked[0].seed


@pytest.mark.parametrize(
    ("text", "finish", "keep", "item"),
    [
        ("It ran. It fell ov", "length", False, ("It ran.", None)),
        ('He said "no." Then', "length", False, ('He said "no."', None)),
        ("3.5 litres of", "length", False, ("3.5 litres of", "cut")),
        ("It ran. It fell ov", "stop", False, ("It ran. It fell ov", None)),
        (" flows. On", "length", True, ("Text: flows.", None)),
    ],
)
def test_a_text_that_was_cut_ends_with_its_last_whole_sentence(choices, text, finish, keep, item):
    class Ends:
        identity = {"kind": "ends"}

        async def complete(self, requests):
            return [Completion(text=text, finish=finish) for _ in requests]

    (found,) = asyncio.run(explorer(choices, Ends(), keep=keep).propose(1, round=0))
    assert (found.text, found.invalid) == item


def test_prefixes_come_from_the_first_words_of_texts():
    texts = ["The river  is wide", "The river is deep", " A\nlake lies there", "Short text", "", "Alone"]
    assert first_words(texts, 2) == [Prefix("The river", texts[0]), Prefix("A\nlake", texts[2])]
    assert [prefix.text for prefix in first_words(texts, 1)] == ["The", "A", "Short"]
    with pytest.raises(ConfigError, match="words: got 0"):
        first_words(texts, 0)


def test_a_local_model_goes_on_from_the_prefix(folder, words):
    from penstock.generators.config import GeneratorConfig

    model = GeneratorConfig(path=str(folder)).resolve()
    choices = Choices(prefixes=tuple(first_words(["the cat sat", "a dog ran", "my tea is hot"], 1)), embedder=words)
    root = PrefixExplorer.root(model, "the", choices, PrefixSettings(max_tokens=6), seed=5)
    items = asyncio.run(root.propose(4, round=0))
    assert items == asyncio.run(root.propose(4, round=0))
    assert len({item.text for item in items}) > 1
    assert json.loads(json.dumps(root.identity)) == root.identity


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda words: Choices(prefixes=(Prefix("a", "b"), Prefix("a", "c")), embedder=words), "not two different"),
        (lambda words: Prefix("", "b"), "prefix: got one without words"),
        (lambda words: PrefixSettings(refinements=0), "refinements: got 0"),
        (lambda words: PrefixSettings(top_p=0.0), "top_p"),
        (lambda words: explorer_of_nothing(words), "prefix: got none"),
    ],
)
def test_what_leads_nowhere_is_refused(words, make, said):
    with pytest.raises(ConfigError, match=said):
        make(words)


def explorer_of_nothing(words):
    choices = Choices(prefixes=(Prefix("a", "b"), Prefix("c", "d")), embedder=words)
    return PrefixExplorer.root(None, "", choices, PrefixSettings(), seed=0)


def test_no_two_successors_of_one_refinement_are_equal(choices):
    for one, other in itertools.combinations(refine(explorer(choices, refinements=6), ["river"]), 2):
        assert one.prompt != other.prompt
        assert one.explorer_id != other.explorer_id
