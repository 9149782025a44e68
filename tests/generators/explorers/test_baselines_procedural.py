"""Baselines of a procedural voyage, in its own runner."""

import asyncio
import hashlib
from collections import Counter

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.generators.explorers.baselines_procedural import BASELINES, Hierarchical, RandomRefinement, baseline
from penstock.generators.explorers.procedural import Prior, ProceduralExplorer
from penstock.generators.items import Item
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.settings import VoyagerSettings

NAMES = ("chain_sum", "gcd", "lcm", "leg_counting", "products", "simple_equations", "spell_backward", "syllogism")
SETTINGS = VoyagerSettings(count=40, sample=20, rounds=400, patience=400)


class Words:
    """Embedder: words by hash, each in one of 64 places."""

    dimensions = 64

    def setup(self):
        pass

    def embed(self, texts):
        out = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                out[row, hashlib.blake2b(word.encode()).digest()[0] % 64] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def voyage(explorer, settings, seed=0):
    return asyncio.run(explore([explorer], settings, embedder=Words(), seed=seed))


def families_of(found):
    return Counter(one.item.origin["family"] for one in found.accepted)


def test_hierarchical_takes_every_topic_once_before_any_twice():
    root = Hierarchical.root(Prior.zipf(0, names=NAMES), seed=0)
    for round in range(20):
        batch = asyncio.run(root.propose(6, round=round))
        assert len({item.origin["family"] for item in batch}) == 6
    counts = Counter(item.origin["family"] for item in asyncio.run(root.propose(19, round=0)))
    assert set(counts.values()) == {2, 3}
    # topics come from the prior: the head is nearly always among three of eight, the tail seldom
    found = Counter(item.origin["family"] for r in range(60) for item in asyncio.run(root.propose(3, round=r)))
    weights = root.state.prior.weights
    assert found[max(weights, key=weights.get)] >= 50
    assert found[min(weights, key=weights.get)] <= 20


def test_random_refinement_moves_as_far_but_not_where_the_evidence_is():
    prior = Prior.zipf(0)
    head = max(prior.weights, key=prior.weights.get)
    rejected = [Item(text="?", origin={"family": head, "levels": {}})] * 5
    rejected.append(Item(text="?", origin={"family": "gcd", "levels": {}}))
    hits = 0
    for seed in range(30):
        by_lot = asyncio.run(RandomRefinement.root(prior, seed=seed).refine(rejected, [], round=0))[0]
        by_evidence = asyncio.run(ProceduralExplorer.root(prior, seed=seed).refine(rejected, [], round=0))[0]
        assert sorted(by_lot.state.moves.values()) == sorted(by_evidence.state.moves.values()) == [-5, -1]
        assert by_lot.gradient.startswith("6 rejected problems are put down by lot to ")
        hits += by_lot.state.moves.get(head) == -5
    assert hits <= 3


def test_each_baseline_runs_in_the_loop_and_accounts_for_every_item():
    prior = Prior.zipf(1, names=NAMES)
    for name in BASELINES:
        root, settings = baseline(name, prior, seed=1, settings=SETTINGS)
        found = voyage(root, settings, 1)
        assert (found.reason, len(found.accepted)) == ("count", 40), name
        assert sum(record.proposed for record in found.rounds) == len(found.accepted) + len(found.rejected)
        if name in ("default", "uniform", "hierarchical"):
            assert found.threshold is None
            assert {one.stage for one in found.rejected} <= {"duplicate", "surplus", "item"}
        else:
            assert found.threshold is not None
        refined = {facts.parent_id for facts in found.explorers.values()} != {None}
        assert refined == (name == "random_refinement")


def test_refinement_leaves_a_collapsed_prior_that_the_default_keeps():
    prior = Prior.zipf(2, s=4.0, names=NAMES)
    head = max(prior.weights, key=prior.weights.get)
    root, settings = baseline("default", prior, seed=2, settings=SETTINGS)
    default, uniform = voyage(root, settings, 2), voyage(*baseline("uniform", prior, seed=2, settings=SETTINGS), 2)
    voyager = voyage(ProceduralExplorer.root(prior, seed=2), SETTINGS, 2)
    assert families_of(default)[head] > 28
    assert max(families_of(uniform).values()) < 14
    assert families_of(voyager)[head] < 20
    assert len(families_of(voyager)) > len(families_of(default)) + 2


def test_an_unknown_baseline_names_those_there_are():
    with pytest.raises(ConfigError, match="baseline: got 'best', allowed default, uniform, hierarchical"):
        baseline("best", Prior.uniform(NAMES), seed=0, settings=SETTINGS)
