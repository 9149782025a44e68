"""The loop: what it decides against a naive one, its accounting, its reasons to end, its independence of order."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BudgetError, ConfigError, InputError
from penstock.generators.gates.passing import Finding
from penstock.generators.items import Item, Verdict
from penstock.generators.voyager import Spending, ThresholdSettings, VoyagerSettings, explore
from penstock.generators.voyager.acceptance import fingerprint

OPEN = {"threshold": ThresholdSettings(strategy="none"), "prune": "latest"}


def sail(roots, embedder, seed=1, *, gates=(), checkpoint=None, meter=None, on_round=None, **changes):
    chosen = VoyagerSettings(**{"count": 40, "sample": 30, **changes})
    options = {"gates": gates, "checkpoint": checkpoint, "meter": meter, "on_round": on_round}
    return asyncio.run(explore(roots, chosen, embedder=embedder, seed=seed, **options))


def similarity(one, other, gamma):
    """The kernel by its formula."""
    a, b = (set(d.item.text.lower().split()) for d in (one, other))
    apart = one.vector.astype(float) - other.vector.astype(float)
    return 0.7 * math.exp(-gamma * float(apart @ apart)) + 0.3 * len(a & b) / len(a | b)


def determinant(rows, gamma):
    return np.linalg.slogdet([[similarity(a, b, gamma) if a is not b else 1.0 for b in rows] for a in rows])[1]


@dataclass(frozen=True)
class NoGlacier:
    """Gate: refuses glaciers."""

    name: str = "no_glacier"

    def setup(self):
        pass

    def judge(self, items):
        return ["glacier" if "glacier" in item.text else None for item in items]


@dataclass(frozen=True)
class Script:
    """Proposes what it is given, a list a round, then the last one; it has successors only where ``children`` does."""

    lists: tuple
    explorer_id: str = "script"
    prompt: str = "as written"
    parent_id: str | None = None
    gradient: str | None = None
    identity = {"kind": "script"}

    async def propose(self, count, *, round):
        found = self.lists[min(max(round, 0), len(self.lists) - 1)]
        return [one if isinstance(one, Item) else Item(text=one) for one in found]

    async def refine(self, rejected, anchors, *, round):
        return []

    def restore(self, explorer_id, parent_id, prompt, gradient):
        return replace(self, explorer_id=explorer_id, parent_id=parent_id, prompt=prompt, gradient=gradient)


# ── decisions ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [1000, 4])
def test_every_decision_is_the_one_of_a_naive_loop_over_determinants(world, embedder, limit):
    voyage = sail([world(prompt="river glacier market")], embedder, gates=(NoGlacier(),), anchors=limit)
    gamma, accepted, stages = voyage.kernel["gamma"], [], Counter()
    by_id = {one.item_id: one for one in voyage.decisions}
    anchors, batch = [], None
    for one in voyage.decisions:
        stages[one.stage] += 1
        if one.stage in ("no_glacier", "surplus"):
            assert ("glacier" in one.item.text) == (one.stage == "no_glacier")
            continue
        if (one.round, one.rank) != batch:
            batch = one.round, one.rank
            if len(anchors) > limit:  # which ones are left is the draw's to say: it is found among all subsets
                anchors = subset_named(anchors, limit, one.anchors)
        assert one.anchors == fingerprint([a.item_id for a in anchors])
        if one.item.text in {other.item.text for other in accepted}:
            assert (one.stage, one.reason) == ("duplicate", "exact_duplicate")
            assert by_id[one.nearest].item.text == one.item.text
            continue
        gain = math.exp(determinant([*anchors, one], gamma) - (determinant(anchors, gamma) if anchors else 0.0))
        assert one.gain == pytest.approx(gain, abs=1e-9)
        assert 0.0 <= one.gain <= 1.0
        decay = math.exp(-max(one.round, 0) / 200)
        assert one.threshold == pytest.approx(voyage.threshold * decay, rel=1e-12)
        assert one.accepted == (one.gain >= one.threshold)
        if anchors:
            closest = max(anchors, key=lambda a: similarity(one, a, gamma))
            assert similarity(one, by_id[one.nearest], gamma) == pytest.approx(similarity(one, closest, gamma))
        else:
            assert one.nearest is None
        if one.accepted:
            anchors.append(one)
            accepted.append(one)
    assert stages["no_glacier"] > 5
    assert stages["diversity"] > 5
    assert stages[None] > 20


def subset_named(anchors, limit, name):
    from itertools import combinations

    return next(list(some) for some in combinations(anchors, limit) if fingerprint([a.item_id for a in some]) == name)


def test_the_first_item_always_enters_and_the_order_of_a_batch_is_honoured(embedder):
    def first(batch):
        sample = [["river a b", "engine c d", "sonata e f", "bakery g h", "glacier i j"], batch]
        voyage = sail([Script(tuple(sample))], embedder, anchors=2, reuse_sample=False, sample=10, rounds=2, count=50)
        return [one.item.text for one in voyage.accepted if one.round == 1]

    alike = ["market one two three four five", "market one two three four six"]
    assert first(alike) == alike[:1]
    assert first(alike[::-1]) == alike[:0:-1]


def test_a_copy_of_an_item_that_is_no_anchor_any_more_is_still_found(embedder):
    lists = (*([f"{name} {name}a {name}b"] for name in "abcdefgh"), ["a aa ab", "A  AA\tab"])
    voyage = sail([Script(lists)], embedder, anchors=2, rounds=9, **OPEN)
    *_, copy, folded = voyage.decisions
    assert len(voyage.accepted) == 8
    for one in (copy, folded):
        assert (one.stage, one.reason, one.nearest) == ("duplicate", "exact_duplicate", "0000-0-00")


def test_near_duplicates_are_found_over_the_whole_set(embedder):
    words = [f"w{number}" for number in range(60)]
    text, other = " ".join(words), " ".join([*words[:-1], "end"])
    lists = ([text], *([f"other {n} text {n * 7}"] for n in range(6)), [other, "short text"])
    voyage = sail([Script(lists)], embedder, anchors=1, rounds=8, **OPEN)
    one = voyage.decisions[-2]
    assert (one.stage, one.reason, one.nearest) == ("duplicate", "near_duplicate", "0000-0-00")
    assert voyage.decisions[-1].accepted


@pytest.mark.parametrize(
    ("item", "stage", "reason"),
    [
        (Item(text="fine", invalid="cut_json"), "item", "cut_json"),
        (Item(text=" \n"), "item", "empty"),
        (Item(text="half \ud800 pair"), "item", "not_unicode"),
        (Item(text="fine", answer="\udc00"), "item", "not_unicode"),
        (Item(text="glacier"), "no_glacier", "glacier"),
        (Item(text="!?"), "embedding", "no_embedding"),
        (Item(text="poison ivy"), "embedding", "no_embedding"),
    ],
)
def test_what_cannot_be_an_item_is_dropped_with_its_stage_before_any_gain(embedder, item, stage, reason):
    lists = (["river a", "engine b", "sonata c", "bakery d"], [item])
    voyage = sail([Script(lists)], embedder, gates=(NoGlacier(),), sample=10, rounds=2, count=50)
    one = voyage.decisions[-1]
    assert (one.stage, one.reason, one.gain, one.anchors, one.vector) == (stage, reason, None, "", None)
    assert voyage.rounds[-1].dropped[stage] == {reason: 1}


def test_verdicts_of_a_gate_that_is_awaited_stay_with_the_item(embedder):
    class Jury:
        name = "jury"

        def setup(self):
            pass

        async def examine(self, items):
            await asyncio.sleep(0)
            return [Finding("poor" if "b" in i.text else None, (Verdict("jury", "b" not in i.text),)) for i in items]

    voyage = sail([Script((["a", "b"],))], embedder, gates=(Jury(),), rounds=1, **OPEN)
    assert [(one.stage, one.item.verdicts[0].passed) for one in voyage.decisions] == [(None, True), ("jury", False)]


def test_explorers_hear_of_what_was_too_much_alike_and_of_nothing_else(world, embedder):
    explorer = world()
    voyage = sail([explorer], embedder, gates=(NoGlacier(),), count=60, near=1.0)
    told = {(who, round): rejected for who, round, rejected, _ in explorer.log}
    assert told
    for (who, round), rejected in told.items():
        batch = [d for d in voyage.decisions if (d.explorer_id, d.round) == (who, round)]
        assert rejected == [d.item.text for d in batch if d.stage in ("diversity", "duplicate")]
        assert not any("glacier" in text for text in rejected)
    # the anchors that it is shown are those that its own batch left, which the next batch was decided by
    ids = {d.item.text: d.item_id for d in voyage.accepted}
    followed = 0
    for who, round, _, anchors in explorer.log:
        assert len(anchors) <= 10
        places = [at for at, d in enumerate(voyage.decisions) if (d.explorer_id, d.round) == (who, round)]
        following = next((d for d in voyage.decisions[places[-1] + 1 :] if d.anchors), None)
        if following is not None:
            followed += 1
            assert following.anchors == fingerprint([ids[text] for text in anchors])
    assert followed > 3


# ── accounting and reproduction ──────────────────────────────────────────────────────────────────


@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 60),
    batch=st.integers(1, 12),
    anchors=st.integers(1, 12),
    explorers=st.integers(1, 4),
    strategy=st.sampled_from(["quantile", "geometric", "paper", "none"]),
    prune=st.sampled_from(["kdpp", "greedy", "latest"]),
    refine=st.sampled_from(["rejected", "always", "never"]),
    weight=st.sampled_from(["none", "acceptance"]),
    reuse=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_every_item_is_accounted_for_by_round_and_in_all(
    world, embedder, seed, count, batch, anchors, explorers, strategy, prune, refine, weight, reuse
):
    voyage = sail(
        [world(seed=seed)],
        embedder,
        seed,
        gates=(NoGlacier(),),
        count=count,
        batch=batch,
        anchors=anchors,
        explorers=explorers,
        threshold=ThresholdSettings(strategy=strategy),
        prune="latest" if strategy == "none" else prune,
        refine=refine,
        explorer_weight=weight,
        reuse_sample=reuse,
        rounds=6,
    )
    assert len(voyage.accepted) <= count
    assert (voyage.reason == "count") == (len(voyage.accepted) == count) == voyage.complete
    assert len(voyage.decisions) == len(voyage.accepted) + len(voyage.rejected)
    assert len({one.item_id for one in voyage.decisions}) == len(voyage.decisions)
    total = 0
    for record in voyage.rounds:
        own = [d for d in voyage.decisions if max(d.round, -1) == record.round]
        total += record.accepted
        assert record.proposed == len(own) == record.accepted + record.rejected
        assert record.accepted == sum(d.accepted for d in own)
        assert record.total == total
        assert sum(proposed for *_, proposed, _ in record.explorers) == record.proposed
        assert sum(accepted for *_, accepted in record.explorers) == record.accepted
        assert record.round < 0 or 1 <= len(record.explorers) <= explorers
        assert 0 <= record.vendi <= max(record.total, 1) * (1 + 1e-9)
    assert total == len(voyage.accepted)
    assert len({d.item.digest for d in voyage.accepted}) == len(voyage.accepted)
    assert all(d.gain is None or 0 <= d.gain <= 1 for d in voyage.decisions)


def test_a_replay_is_equal_to_the_last_bit_and_another_seed_is_not(world, embedder):
    first, again, other = (sail([world()], embedder, seed) for seed in (1, 1, 2))
    assert first == again  # ids, gains, thresholds, anchors, records
    assert first.decisions != other.decisions


def test_which_answer_comes_first_changes_nothing(world, embedder):
    calm = sail([world()], embedder)
    for _ in range(3):
        assert sail([world(delay=0.004)], embedder) == calm


def test_explorers_of_a_round_are_asked_at_the_same_time(embedder):
    running, most = 0, 0

    class Slow(Script):
        async def propose(self, count, *, round):
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0.01)
            running -= 1
            return await super().propose(count, round=round)

    sail([Slow((["a"],), explorer_id=name) for name in "xyz"], embedder, rounds=1, **OPEN)
    assert most == 3


# ── explorers ────────────────────────────────────────────────────────────────────────────────────


def test_a_round_without_rejections_leaves_its_explorers_alive(embedder):
    class Never(Script):
        async def refine(self, rejected, anchors, *, round):
            raise AssertionError("nothing was rejected")

    lists = tuple([f"{name}{i} {name}x{i} {name}y{i}" for i in range(3)] for name in "abcdefghijkl")
    low = ThresholdSettings(strategy="paper", alpha=1e-9, lowest=0.0)
    voyage = sail([Never(lists)], embedder, threshold=low, sample=6, batch=3, count=12, reuse_sample=False)
    assert voyage.reason == "count"
    assert {d.explorer_id for d in voyage.decisions} == {"script"}


def test_an_explorer_without_successors_lives_on(embedder):
    lists = (["river a b", "river a c", "river b c", "river a d"],) * 3
    voyage = sail([Script(lists)], embedder, sample=4, batch=4, rounds=3, count=50)
    assert [record.explorers[0][0] for record in voyage.rounds] == ["script"] * 4


def test_refine_never_keeps_the_roots_and_always_asks_them_with_the_latest_anchors(world, embedder):
    still = world()
    voyage = sail([still], embedder, refine="never", **OPEN)
    assert (still.log, set(voyage.explorers)) == ([], {"root"})
    moving = world()
    voyage = sail([moving], embedder, refine="always", anchors=7, **OPEN)
    accepted = [d.item.text for d in voyage.accepted if d.round == 0]
    assert moving.log[0] == ("root", 0, [], accepted[-7:])
    assert len(voyage.explorers) > 1


def test_lineage_names_the_explorer_its_parent_and_the_reason(world, embedder):
    voyage = sail([world()], embedder, count=80)
    for one in voyage.decisions:
        facts = voyage.explorers[one.explorer_id]
        if facts.parent_id is None:
            assert (facts.prompt, facts.gradient) == ("river", None)
        else:
            assert facts.gradient == f"look at {facts.prompt.split()[1]}"
            assert facts.parent_id in voyage.explorers


def test_two_explorers_of_one_id_are_refused(world, embedder):
    with pytest.raises(ConfigError, match="explorer root: got two of this id"):
        sail([world(), world(prompt="engine")], embedder)


def test_no_explorer_is_refused(embedder):
    with pytest.raises(ConfigError, match="explorers: got none"):
        sail([], embedder)


# ── why it ends ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["", "glacier"])
def test_only_refusals_or_empty_texts_end_a_voyage_with_the_evidence(embedder, text):
    junk = Script(([text] * 5,))
    voyage = sail([junk], embedder, gates=(NoGlacier(),))
    assert voyage.reason == "no_items"
    why = "item.empty 15" if text == "" else "no_glacier.glacier 15"
    assert why in voyage.detail
    assert (voyage.accepted, len(voyage.rejected), voyage.kernel) == ((), 15, None)
    voyage = sail([junk], embedder, gates=(NoGlacier(),), patience=3, **OPEN)
    assert (voyage.reason, len(voyage.rounds)) == ("patience", 3)
    assert why in voyage.detail
    assert "0 of 40 items after 3 rounds in a row without one" in voyage.detail


def test_rounds_and_patience_end_a_voyage(embedder):
    few = Script((["river a"], ["engine b"], ["engine b"]))
    assert sail([few], embedder, rounds=2, **OPEN).reason == "rounds"
    voyage = sail([few], embedder, patience=2, **OPEN)
    assert (voyage.reason, len(voyage.rounds), len(voyage.accepted)) == ("patience", 4, 2)


def test_never_more_than_wanted_the_rest_is_surplus(world, embedder):
    voyage = sail([world()], embedder, count=13, batch=10, refine="never", **OPEN)
    assert len(voyage.accepted) == 13
    assert voyage.rounds[-1].dropped["surplus"] == {
        "surplus": 20 - 13 - len([d for d in voyage.rejected if d.stage != "surplus"])
    }
    assert [d.accepted for d in voyage.decisions[-3:]] == [False] * 3


def test_a_budget_spent_in_a_proposal_leaves_the_rounds_before(world, embedder):
    whole = sail([world()], embedder, count=60)

    class Bounded(world):
        async def propose(self, count, *, round):
            if round == 2:
                raise BudgetError("budget: got 5 requests spent")
            return await super().propose(count, round=round)

    voyage = sail([Bounded()], embedder, count=60)
    assert (voyage.reason, voyage.detail) == ("budget", "budget: got 5 requests spent")
    assert voyage.rounds == whole.rounds[: len(voyage.rounds)]
    assert voyage.rounds[-1].round == 1
    assert voyage.decisions == whole.decisions[: len(voyage.decisions)]


def test_a_budget_spent_in_a_refinement_leaves_what_was_accepted(world, embedder):
    class Bounded(world):
        async def refine(self, rejected, anchors, *, round):
            raise BudgetError("spent")

    voyage = sail([Bounded()], embedder, count=60)
    assert voyage.reason == "budget"
    assert voyage.rounds[-1].round == 0
    assert voyage.rounds[-1].total == len(voyage.accepted)


def test_a_budget_spent_by_a_gate_leaves_the_rounds_before(world, embedder):
    class Judge:
        name = "judge"
        calls = 0

        def setup(self):
            pass

        async def examine(self, items):
            self.calls += 1
            if self.calls == 4:
                raise BudgetError("spent by the judge")
            return [Finding(None) for _ in items]

    voyage = sail([world()], embedder, gates=(Judge(),), count=60)
    assert (voyage.reason, voyage.detail) == ("budget", "spent by the judge")
    assert [record.round for record in voyage.rounds] == [-1, 0, 1]
    assert voyage.rounds[-1].total == len(voyage.accepted)


def test_other_failures_are_raised_after_all_calls_have_ended(embedder):
    ended = []

    class Failing(Script):
        async def propose(self, count, *, round):
            if self.explorer_id == "x":
                raise BudgetError("spent")
            if self.explorer_id == "y":
                raise InputError("no such server")
            await asyncio.sleep(0.02)
            ended.append(self.explorer_id)
            return []

    with pytest.raises(InputError, match="no such server"):
        sail([Failing(((),), explorer_id=name) for name in "xyz"], embedder, **OPEN)
    assert ended == ["z"]


# ── the first sample ─────────────────────────────────────────────────────────────────────────────


def test_the_first_sample_is_counted_whether_its_rows_are_used_or_not(world, embedder):
    used, unused = (sail([world()], embedder, reuse_sample=reuse) for reuse in (True, False))
    assert used.threshold == unused.threshold
    assert used.rounds[0].accepted > 0
    assert unused.rounds[0].accepted == 0
    assert unused.rounds[0].dropped == {"sample": {"first_sample": 30}}
    assert used.rounds[0].steps == unused.rounds[0].steps == 3  # batches of 10
    assert unused.rounds[1].explorers == (("root", None, 10, unused.rounds[1].accepted),)


def test_a_sample_is_drawn_from_all_roots_in_turn(world, embedder):
    roots = [world(), world(explorer_id="second", prompt="engine")]
    record = sail(roots, embedder).rounds[0]
    assert [who for who, *_ in record.explorers] == ["root", "second", "root"]


def test_anchors_beyond_the_rank_of_everything_there_is_are_no_reason_to_fail(embedder):
    few = ["a b", "b a", "a c", "c a", "b c"]  # in two dimensions, three different sets of words
    low = ThresholdSettings(acceptance=0.9)
    voyage = sail([Script((few,))], replace(embedder, dimensions=2), threshold=low, sample=10, anchors=50, rounds=3)
    assert voyage.reason == "rounds"
    assert 1 <= len(voyage.accepted) <= 3


# ── what it tells ────────────────────────────────────────────────────────────────────────────────


def test_rounds_are_told_as_they_end_with_what_they_took(world, embedder):
    heard, spent = [], [0]

    def meter():
        spent[0] += 5
        return Spending(spent[0], spent[0] / 10)

    voyage = sail([world()], embedder, meter=meter, on_round=heard.append)
    assert tuple(heard) == voyage.rounds
    assert [(record.calls, record.cost) for record in heard] == [(5, pytest.approx(0.5))] * len(heard)
    for record in voyage.rounds[1:]:
        refined = (
            0
            if record is voyage.rounds[-1]
            else sum(
                any(
                    d.stage in ("diversity", "duplicate")
                    for d in voyage.decisions
                    if d.explorer_id == who and d.round == record.round
                )
                for who, *_ in record.explorers
            )
        )
        assert record.steps == len(record.explorers) + refined
