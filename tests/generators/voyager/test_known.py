"""A voyage beside a corpus: gains given its texts, against determinants; copies of them; a kill."""

import asyncio
import math
from itertools import combinations

import numpy as np
import pytest

from penstock.embedding.base import normalised
from penstock.errors import DatasetError
from penstock.generators.voyager import ThresholdSettings, VoyagerSettings, explore, rows
from penstock.generators.voyager.acceptance import fingerprint
from penstock.generators.voyager.known import Known
from penstock.storage import Folder

RIVERS = [f"river river{a} river{a + 1} river{b}" for a in range(0, 12, 2) for b in (20, 40)]


def known(embedder, texts):
    return [
        Known(f"doc{i}", text, vector)
        for i, (text, vector) in enumerate(zip(texts, embedder.embed(texts), strict=True))
    ]


def sail(roots, embedder, texts=(), *, checkpoint=None, on_round=None, **changes):
    chosen = VoyagerSettings(**{"count": 20, "sample": 20, "rounds": 6, "anchors": 6, **changes})
    beside = known(embedder, list(texts))
    return asyncio.run(
        explore(roots, chosen, embedder=embedder, seed=3, known=beside, checkpoint=checkpoint, on_round=on_round)
    )


def kernel(one, other, gamma):
    """By its formula, of (text, vector) pairs."""
    (a, x), (b, y) = one, other
    words = set(a.lower().split()), set(b.lower().split())
    apart = x.astype(float) - y.astype(float)
    return 0.7 * math.exp(-gamma * float(apart @ apart)) + 0.3 * len(words[0] & words[1]) / len(words[0] | words[1])


def log_det(found, gamma):
    return np.linalg.slogdet([[1.0 if a is b else kernel(a, b, gamma) for b in found] for a in found])[1]


def test_gains_are_those_given_the_known_texts_which_no_pruning_takes_away(world, embedder):
    voyage = sail([world(prompt="river glacier")], embedder, RIVERS, anchors=1000)
    beside = [(one.text, one.vector) for one in known(embedder, RIVERS)]
    ids = [f"known:doc{i}" for i in range(len(RIVERS))]
    gamma, anchors, checked = voyage.kernel["gamma"], list(beside), 0
    for one in voyage.decisions:
        if one.gain is None:
            continue
        assert one.anchors == fingerprint(ids)
        expected = math.exp(log_det([*anchors, (one.item.text, one.vector)], gamma) - log_det(anchors, gamma))
        assert one.gain == pytest.approx(expected, abs=1e-9)
        checked += 1
        if one.accepted:
            anchors.append((one.item.text, one.vector))
            ids.append(one.item_id)
    assert checked > 20
    loose = ThresholdSettings(acceptance=0.9)
    pruned = sail([world(prompt="river glacier")], embedder, RIVERS, anchors=2, threshold=loose)
    late = [one for one in pruned.decisions if one.round > 0 and one.gain is not None and one.position == 0]
    beginning, most = ids[: len(RIVERS)], 0
    for one in late:
        before = [two.item_id for two in pruned.accepted if (two.round, two.rank) < (one.round, one.rank)]
        assert one.anchors in {fingerprint([*beginning, *pair]) for pair in combinations(before, min(2, len(before)))}
        most = max(most, len(before))
    assert most > 2


def test_what_the_corpus_has_is_taken_less_often_and_what_it_lacks_more(world, embedder):
    def regions(voyage):
        return [one.item.text.split()[0] for one in voyage.accepted]

    roots = [world(prompt="river glacier", words=2)]
    many = [f"river river{a} river{a + 1}" for a in range(40)]
    free, beside = (regions(sail(roots, embedder, texts, refine="never", count=200)) for texts in ((), many))
    assert free.count("river") > 5
    assert beside.count("river") < 0.6 * free.count("river")
    assert beside.count("glacier") / len(beside) > free.count("glacier") / len(free)


def test_a_copy_of_a_known_text_is_a_duplicate_of_its_document(world, embedder):
    first = sail([world(prompt="river glacier")], embedder)
    text = first.accepted[0].item.text
    again = sail([world(prompt="river glacier")], embedder, [text.upper()])
    (copied,) = [one for one in again.decisions if one.item.text == text][:1]
    assert (copied.stage, copied.reason, copied.nearest) == ("duplicate", "exact_duplicate", "known:doc0")
    table = rows.dropped(again, "generated", "quantile", "full").to_pylist()
    assert {"doc0"} == {row["nearest"] for row in table if row["doc_id"] == f"generated#{copied.item_id}"}


def test_texts_that_the_kernel_cannot_tell_apart_are_one_anchor(world, embedder):
    twins = ["river river1 river2", "river river2 river1", "river river1 river2 river2"]
    vector = normalised(np.array([embedder.embed([twins[0]])[0]] * 3))
    same = [Known(f"doc{i}", text, vector[i]) for i, text in enumerate(twins)]
    chosen = VoyagerSettings(count=10, sample=20, rounds=2)
    voyage = asyncio.run(explore([world(prompt="river")], chosen, embedder=embedder, seed=3, known=same))
    first = next(one for one in voyage.decisions if one.gain is not None)
    assert first.anchors == fingerprint(["known:doc0"])


def test_a_voyage_beside_a_corpus_goes_on_after_a_kill_and_not_beside_another(world, embedder, tmp_path):
    whole = sail([world(prompt="river glacier")], embedder, RIVERS)

    def killed(record):
        if record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sail([world(prompt="river glacier")], embedder, RIVERS, checkpoint=Folder(str(tmp_path / "v")), on_round=killed)
    resumed = sail([world(prompt="river glacier")], embedder, RIVERS, checkpoint=Folder(str(tmp_path / "v")))
    assert resumed.decisions == whole.decisions
    with pytest.raises(DatasetError, match="holds a voyage of other settings"):
        sail([world(prompt="river glacier")], embedder, RIVERS[:3], checkpoint=Folder(str(tmp_path / "v")))
