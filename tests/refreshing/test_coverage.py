"""What the corpus covers: anchors against greedy by brute force, how thin domains are, and a step's own keys."""

import math

import numpy as np
import pyarrow as pa
import pytest

from penstock.dataset import Dataset
from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.generators.voyager.known import known_in
from penstock.pipelines.embed import EmbedderStep
from penstock.pipelines.home import HomeEngine
from penstock.refreshing.config import Coverage
from penstock.refreshing.coverage import CoverageStep
from penstock.seeding import hash_ids
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

FLOWS = ["river gate pipe turbine", "river gate pipe flow", "river pipe turbine flow", "gate pipe turbine flow"]
OTHERS = [
    "copper iron winter summer",
    "morning garden window letter",
    "model data token language",
    "train merge rank score",
]


@pytest.fixture
def covered(tmp_path, commit_rows, static_folder):
    """``covered(documents, anchors, parts)``: the committed step over eight documents in so many parts."""

    def run(documents=100, anchors=4, parts=1):
        texts = [*FLOWS, *OTHERS]
        ids = [f"d{i}" for i in range(len(texts))]
        rows = pa.RecordBatch.from_pydict(
            {
                "doc_id": pa.array(ids),
                "id_hash": pa.array(hash_ids(ids)),
                "domain": pa.array(["flows"] * 4 + ["others"] * 4),
                "text": pa.array(texts),
            }
        )
        root = Folder(str(tmp_path / f"{documents}-{anchors}-{parts}"))
        size = -(-len(texts) // parts)
        commit_rows(root.path, "scored", {"documents": [rows.slice(at, size) for at in range(0, len(texts), size)]})
        embed = EmbedConfig(model=ModelConfig(path=str(static_folder)))
        steps = [
            EmbedderStep("embedder", embed.model),
            CoverageStep(
                "coverage", "embedder", root / "scored", Coverage(documents=documents, anchors=anchors), embed, 5
            ),
        ]
        for step in steps:
            run_step(step, root, HomeEngine(0), Silent(), Settings(seed=1))
        return Dataset(root / "coverage")

    return run


def kernel(rows, gamma):
    sets = [set(row.text.split()) for row in rows]
    vectors = [row.vector.astype(float) for row in rows]
    apart = [[float((a - b) @ (a - b)) for b in vectors] for a in vectors]
    jaccard = [[len(a & b) / len(a | b) for b in sets] for a in sets]
    return 0.7 * np.exp(-gamma * np.array(apart)) + 0.3 * np.array(jaccard)


def test_anchors_are_the_greedy_choice_and_gains_those_of_determinants(covered):
    everything = {one.doc_id: one for one in known_in(covered(anchors=8))}
    rows = [everything[f"d{i}"] for i in range(8)]
    apart = [float(((a.vector - b.vector).astype(float) ** 2).sum()) for i, a in enumerate(rows) for b in rows[:i]]
    matrix = kernel(rows, 1 / (2 * float(np.median(apart))))

    def det(chosen):
        return np.linalg.det(matrix[np.ix_(chosen, chosen)]) if chosen else 1.0

    found = covered(anchors=4)
    picked = [int(one.doc_id[1:]) for one in known_in(found)]
    best = []
    for _ in range(3):
        gains = {i: det([*best, i]) / det(best) for i in range(8) if i not in best}
        best.append(picked[len(best)])
        assert gains[best[-1]] == pytest.approx(max(gains.values()), rel=2e-3)  # vectors are kept as float16
    rest = {name: [i for i in range(lo, lo + 4) if i not in picked] for name, lo in (("flows", 0), ("others", 4))}
    for name, of in found.manifest.stats["coverage"].items():
        assert (of["documents"], of["anchors"]) == (4, 4 - len(rest[name]))
        if rest[name]:
            expected = np.mean([det([*picked, i]) / det(picked) for i in rest[name]])
            assert of["gain"] == pytest.approx(expected, abs=5e-3)
    # four texts of one topic tell each other, the four others have nothing in common
    assert sum(i >= 4 for i in picked) >= 3
    coverage = covered(anchors=5).manifest.stats["coverage"]
    assert coverage["others"]["gain"] is None or coverage["others"]["gain"] > coverage["flows"]["gain"]


def test_the_sample_is_bounded_and_does_not_depend_on_parts(covered):
    one, three = covered(documents=5, anchors=5), covered(documents=5, anchors=5, parts=3)
    assert one.manifest.stats["sampled"] == 5
    assert [a.doc_id for a in known_in(one)] == [a.doc_id for a in known_in(three)]
    assert one.digest == three.digest
    assert math.isclose(float(np.linalg.norm(known_in(one)[0].vector)), 1.0, rel_tol=1e-5)
