"""The procedural explorer: it draws from its state alone, and evidence alone moves the state."""

import asyncio
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from penstock.errors import ConfigError, DatasetError
from penstock.generators.explorers import procedural
from penstock.generators.explorers.families import Family, Knob, families
from penstock.generators.explorers.procedural import RAISED, Prior, ProceduralExplorer, State
from penstock.generators.items import Item

QUICK = ("chain_sum", "gcd", "lcm", "products")
PRIOR = Prior("by hand", {"chain_sum": 4.0, "gcd": 2.0, "lcm": 1.0})


def propose(explorer, count, round=0):
    return asyncio.run(explorer.propose(count, round=round))


def refine(explorer, rejected, anchors=(), round=0):
    return asyncio.run(explorer.refine(rejected, anchors, round=round))


def of(family, **levels):
    return Item(text="?", origin={"family": family, "levels": levels})


def shares(state):
    return dict(zip(state.names, state.shares.tolist(), strict=True))


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────


def test_a_root_draws_families_by_its_prior_and_levels_at_eight_to_one_for_the_librarys_own():
    root = ProceduralExplorer.root(PRIOR, seed=1)
    assert shares(root.state) == pytest.approx({"chain_sum": 4 / 7, "gcd": 2 / 7, "lcm": 1 / 7})
    items = [item for round in range(7) for item in propose(root, 100, round)]
    found = Counter(item.origin["family"] for item in items)
    assert chisquare([found[name] for name in ("chain_sum", "gcd", "lcm")], [400, 200, 100]).pvalue > 1e-3
    gcd = families()["gcd"]
    for place, knob in enumerate(gcd.knobs):
        count = len(knob.levels)
        expected = np.array([8.0] + [1.0] * (count - 1)) / (7.0 + count)
        assert root.state.level_shares(gcd, place) == pytest.approx(expected)
        drawn = Counter(item.origin["levels"].get(knob.name, 0) for item in items if item.origin["family"] == "gcd")
        assert chisquare([drawn[level] for level in range(count)], expected * found["gcd"]).pvalue > 1e-3


def test_an_item_is_a_verified_problem_that_its_origin_makes_again():
    import reasoning_gym

    for item in propose(ProceduralExplorer.root(Prior.uniform(QUICK), seed=2), 40):
        origin = json.loads(json.dumps(item.origin))
        again = reasoning_gym.create_dataset(origin["family"], seed=origin["item_seed"], size=1, **origin["config"])
        assert again[0]["question"] == item.text
        assert again.score_answer(item.answer, again[0]) == 1.0
        assert [tuple(verdict) for verdict in item.verdicts] == [("score_answer", True, "1.0")]
        assert origin["config"] == families()[origin["family"]].config(origin["levels"])
        assert item.invalid is None


def test_a_batch_depends_on_explorer_round_and_seed_and_on_no_other_call():
    root = ProceduralExplorer.root(Prior.uniform(QUICK), seed=3)
    later, first = propose(root, 6, 1), propose(root, 6, 0)
    assert propose(ProceduralExplorer.root(Prior.uniform(QUICK), seed=3), 6, 0) == first
    assert propose(root, 6, 1) == later
    texts = {item.text for item in first}
    assert texts.isdisjoint(item.text for item in later)
    assert texts.isdisjoint(item.text for item in propose(ProceduralExplorer.root(Prior.uniform(QUICK), seed=4), 6, 0))
    # another explorer with the same state draws other problems
    other = replace(root, explorer_id="other")
    assert texts.isdisjoint(item.text for item in propose(other, 6, 0))


def test_two_processes_with_other_string_hashes_propose_and_refine_alike():
    code = (
        "import asyncio\n"
        "from penstock.generators.explorers.procedural import Prior, ProceduralExplorer\n"
        "root = ProceduralExplorer.root(Prior.uniform(), seed=5)\n"
        "items = asyncio.run(root.propose(120, round=0))\n"
        "found = asyncio.run(root.refine(items[:30], items[30:], round=0))\n"
        "print(root.explorer_id, [i.digest for i in items], [(e.explorer_id, e.prompt, e.gradient) for e in found])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 3000


def test_parameters_that_do_not_go_together_are_an_invalid_item(monkeypatch):
    bad = Family("gcd", (Knob("value", ({}, {"min_value": 9, "max_value": 5})),))
    monkeypatch.setattr(procedural, "families", lambda: {"gcd": bad})
    state = State(prior=Prior("one", {"gcd": 1.0}), levels={("gcd", "value", 1): 40})
    root = ProceduralExplorer(state=state, seed=0, explorer_id="x")
    (item,) = propose(root, 1)
    assert (item.text, item.answer, item.invalid) == ("", None, "invalid_config")
    assert item.origin["config"] == {"min_value": 9, "max_value": 5}
    assert "max_value" in item.origin["detail"]


def test_a_problem_whose_answer_its_scorer_refuses_is_an_invalid_item(monkeypatch):
    import reasoning_gym.arithmetic.gcd as gcd

    monkeypatch.setattr(gcd.GCDDataset, "score_answer", lambda self, answer, entry: 0.5)
    (item,) = propose(ProceduralExplorer.root(Prior.uniform(["gcd"]), seed=0), 1)
    assert (item.invalid, item.answer, item.origin["detail"]) == ("answer_not_verified", None, "score 0.5")


# ── refining ─────────────────────────────────────────────────────────────────────────────────────


def test_each_rejected_problem_halves_its_family_and_each_anchor_does_in_the_second_successor():
    root = ProceduralExplorer.root(PRIOR, seed=1)
    rejected = [of("chain_sum"), of("chain_sum"), of("gcd")]
    first, second = refine(root, rejected, [of("lcm"), of("gcd")])
    # 4 / 4, 2 / 2 and 1: what was turned away has come down to what was not
    assert shares(first.state) == pytest.approx({"chain_sum": 1 / 3, "gcd": 1 / 3, "lcm": 1 / 3})
    assert shares(second.state) == pytest.approx({"chain_sum": 1 / 2, "gcd": 1 / 4, "lcm": 1 / 4})
    assert first.gradient == (
        "3 rejected problems are of chain_sum (2), gcd (1): halve the weights of family and levels for each"
    )
    assert second.gradient == f"{first.gradient}; 2 anchors are of gcd (1), lcm (1): halve families for each"
    assert [one.parent_id for one in (first, second)] == [root.explorer_id] * 2
    assert len({root.explorer_id, first.explorer_id, second.explorer_id}) == 3


def test_a_rejected_problem_halves_the_levels_it_came_from():
    family = families()["gcd"]
    place = next(i for i, knob in enumerate(family.knobs) if knob.name == "value")
    count = len(family.knobs[place].levels)
    root = ProceduralExplorer.root(Prior.uniform(["gcd", "lcm"]), seed=1)
    child = refine(root, [of("gcd"), of("gcd"), of("gcd", value=1)])[0]
    # the library's own from 8 to 2, the first other level from 1 to 1/2
    expected = np.array([2.0, 0.5] + [1.0] * (count - 2))
    assert child.state.level_shares(family, place) == pytest.approx(expected / expected.sum())
    # a knob that was not named was at the library's own value three times
    other = 1 - place
    expected = np.ones(len(family.knobs[other].levels))
    assert child.state.level_shares(family, other) == pytest.approx(expected / expected.sum())
    # levels of other families stay
    lcm = families()["lcm"]
    assert child.state.level_shares(lcm, 0) == pytest.approx(root.state.level_shares(lcm, 0))


def test_the_third_successor_brings_some_unknown_families_up_to_an_equal_share():
    names = sorted(families())[:20]
    root = ProceduralExplorer.root(Prior.zipf(0, names=names), seed=1)
    head, second = sorted(root.state.prior.weights, key=lambda name: -root.state.prior.weights[name])[:2]
    rejected, covered, unseen = refine(root, [of(head)] * 3, [of(second)])
    raised = {name: move for name, move in unseen.state.moves.items() if move > 0}
    assert 0 < len(raised) <= RAISED
    assert not {head, second} & set(raised)
    assert {name for name, move in covered.state.moves.items() if move} == {head, second}
    assert {**unseen.state.moves, **dict.fromkeys(raised, 0)} == {**rejected.state.moves, **dict.fromkeys(raised, 0)}
    before = shares(rejected.state)
    for name, move in raised.items():
        # nearest power of two, counted from the share after the halvings
        assert 2**-0.5 <= len(names) * before[name] * 2.0**move <= 2**0.5
    assert all(name in unseen.gradient for name in raised)
    # lots of another round fall otherwise
    assert {n for n, m in refine(root, [of(head)] * 3, round=1)[-1].state.moves.items() if m > 0} != set(raised)


def test_a_family_above_an_equal_share_is_not_pushed_further():
    state = State(prior=PRIOR)
    assert state.raised(["chain_sum"]) == state
    assert shares(state.raised(["lcm"]))["lcm"] == pytest.approx(2 / 8)


def test_evidence_sinks_a_collapse_round_after_round():
    root = ProceduralExplorer.root(Prior.zipf(3), seed=3)
    explorer = root
    for round in range(12):
        explorer = refine(explorer, propose(explorer, 10, round), round=round)[0]
    before, after = root.state.shares, explorer.state.shares
    assert before.max() > 0.5
    assert after.max() < 0.15
    assert math.exp(-(after * np.log(after)).sum()) > 4 * math.exp(-(before * np.log(before)).sum())


def test_items_of_another_maker_are_no_evidence():
    root = ProceduralExplorer.root(PRIOR, seed=1)
    assert refine(root, [Item(text="a prompt's text"), of("products")]) == []
    first = refine(root, [of("gcd")], [Item(text="x")])
    assert first[0].gradient.startswith("1 rejected problems are of gcd (1)")
    assert len(first) == 2  # no anchor of a family: no second successor, but a third


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([*QUICK, "other"]), max_size=60),
    st.lists(st.sampled_from(QUICK), max_size=20),
    st.integers(0, 3),
)
def test_successors_keep_a_distribution_and_their_text_stands_for_them(rejected, anchors, round):
    root = ProceduralExplorer.root(Prior.zipf(1, names=QUICK), seed=9)
    for child in refine(root, [of(name) for name in rejected], [of(name) for name in anchors], round):
        assert child.state.shares.sum() == pytest.approx(1)
        assert (child.state.shares > 0).all()
        again = root.restore(child.explorer_id, child.parent_id, child.prompt, child.gradient)
        assert again == child
        assert json.loads(child.prompt)["prior"] == root.state.prior.digest
    for name in set(QUICK) - set(rejected):
        for child in refine(root, [of(one) for one in rejected], round=round)[:1]:
            assert shares(child.state)[name] >= shares(root.state)[name] - 1e-12


def test_weights_stay_finite_however_much_is_rejected():
    state = State(prior=PRIOR).lowered((Counter({"gcd": 5000}), Counter({("gcd", "value", 0): 5000})))
    assert state.moves["gcd"] == state.levels["gcd", "value", 0] == -40
    assert np.isfinite(state.shares).all()
    assert shares(state)["gcd"] < 1e-11


# ── going on, and wrong input ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"families": {}, "levels": {"gcd.value": 1}, "prior": "x"}'])
def test_a_text_that_is_no_state_is_refused(text):
    with pytest.raises(DatasetError, match="state of a procedural explorer: not readable"):
        ProceduralExplorer.root(PRIOR, seed=0).restore("a", None, text, None)


def test_a_state_over_another_prior_is_refused():
    other = ProceduralExplorer.root(Prior("other", {"gcd": 1.0, "lcm": 2.0}), seed=0)
    with pytest.raises(DatasetError, match=r"expected .* \(by hand\)"):
        ProceduralExplorer.root(PRIOR, seed=0).restore("a", None, other.prompt, None)


def test_roots_of_other_seeds_priors_and_kinds_have_other_ids():
    class Other(ProceduralExplorer):
        pass

    roots = [
        ProceduralExplorer.root(PRIOR, seed=0),
        ProceduralExplorer.root(PRIOR, seed=1),
        ProceduralExplorer.root(Prior("by hand", {**PRIOR.weights, "lcm": 3.0}), seed=0),
        Other.root(PRIOR, seed=0),
    ]
    assert len({root.explorer_id for root in roots}) == 4
    assert ProceduralExplorer.root(PRIOR, seed=0) == roots[0]


def test_a_zipf_prior_has_its_weights_over_an_order_of_the_seed():
    first, second = Prior.zipf(0, names=QUICK), Prior.zipf(1, s=1.0, names=QUICK)
    assert sorted(first.weights.values(), reverse=True) == pytest.approx([1, 1 / 4, 1 / 9, 1 / 16])
    assert sorted(second.weights.values(), reverse=True) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    heads = {max(w, key=w.get) for w in (Prior.zipf(seed, names=QUICK).weights for seed in range(30))}
    assert heads == set(QUICK)
    assert first.digest == Prior.zipf(0, names=QUICK[::-1]).digest != second.digest


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "families: got none"),
        ({"gcd": 0.0}, "weight of gcd: got 0.0, allowed above 0"),
        ({"gcd": math.inf}, "weight of gcd: got inf"),
        ({"gcd": math.nan}, "weight of gcd: got nan"),
        ({"propositional_logic": 1.0}, "got 'propositional_logic', which is left out"),
        ({"gdc": 1.0}, "got 'gdc', nearest known gcd"),
    ],
)
def test_a_wrong_prior_says_what_is_allowed(weights, message):
    with pytest.raises(ConfigError) as caught:
        Prior("x", weights)
    assert message in str(caught.value)
