"""Choosing documents unlike each other, as passes. Run: pytest tests/pipelines/test_diverse.py"""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest

from penstock.dataset import Dataset
from penstock.diversity import greedy_map, two_rounds, vendi
from penstock.embedding.base import embedding_array, unit_vectors
from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.beam import BeamEngine
from penstock.pipelines.diverse import Diverse, DiverseConfig, Standard
from penstock.pipelines.embed import Embedded, EmbedderStep
from penstock.pipelines.home import HomeEngine
from penstock.seeding import hash_ids, rehash, stream
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder


def corpus(count=300, d=12, kinds=20, zero=(), unscored=()):
    """Documents near a few directions, most near the first of them, and their vectors."""
    rng = stream(0, "corpus")
    kind = np.minimum(rng.pareto(1, count).astype(int), kinds - 1)
    vectors = rng.normal(size=(kinds, d))[kind] + 0.3 * rng.normal(size=(count, d))
    vectors[list(zero)] = 0
    ids = [f"doc-{i:04d}" for i in range(count)]
    scores = [None if i in unscored else round(5 + float(s), 3) for i, s in enumerate(rng.normal(size=count))]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    documents = {"doc_id": ids, "id_hash": pa.array(hash_ids(ids)), "score.q": pa.array(scores, pa.float32())}
    return pa.RecordBatch.from_pydict(documents), embedding_array(unit.astype(np.float32))


def given(lab, documents, embedding, sizes=()):
    bounds = [0, *np.cumsum(sizes).tolist(), documents.num_rows]
    cuts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    parts = [documents.slice(c.start, c.stop - c.start) for c in cuts]
    beside = [
        pa.RecordBatch.from_arrays([p["doc_id"], embedding.slice(c.start, c.stop - c.start)], ["doc_id", "embedding"])
        for p, c in zip(parts, cuts, strict=True)
    ]
    lab.given("documents", documents=parts)
    lab.given("embedded", embeddings=beside)


def step(seed=3, **config):
    return Diverse("diverse", "documents", "embedded", DiverseConfig(**config), seed)


def shards_of(ids, count, seed=3):
    high = rehash(hash_ids(ids), seed, "diverse shard") >> np.uint64(32)
    return [int(h) * count >> 32 for h in high]


def test_the_selection_is_that_of_two_rounds_over_hash_ranges(lab):
    documents, embedding = corpus()
    given(lab, documents, embedding, sizes=(70, 110))
    made = lab.run(step(count=10, shard_rows=80))
    ids, vectors = documents["doc_id"].to_pylist(), unit_vectors(embedding)
    shards = shards_of(ids, 4)
    wanted = two_rounds(vectors, shards, 10)
    rows = made.read("selection").to_pydict()
    assert rows["doc_id"] == [ids[i] for i in wanted.picks]
    assert rows["rank"] == list(range(10))
    assert rows["log_gain"] == pytest.approx(wanted.log_gains, abs=1e-6)
    assert rows["shard"] == [shards[i] for i in wanted.picks]
    stats = made.manifest.stats
    assert (stats["candidates"], stats["shards"], stats["chosen"]) == (300, 4, 10)
    assert stats["log_determinant"] == pytest.approx(wanted.log_determinant, abs=1e-6)
    for q in (1, 2):
        assert stats["corpus_vendi"][f"q{q}"] == pytest.approx(vendi(vectors, q).value, abs=1e-5)
        assert stats["vendi"][f"q{q}"] == pytest.approx(vendi(vectors[wanted.picks], q).value, abs=1e-5)
    assert stats["vendi"]["q1"] > stats["corpus_vendi"]["q1"]


def test_one_shard_is_greedy_over_all_and_loses_nothing(lab):
    documents, embedding = corpus()
    given(lab, documents, embedding)
    made = lab.run(step(count=8))
    ids = documents["doc_id"].to_pylist()
    picks = greedy_map(unit_vectors(embedding), 8).picks
    assert made.read("selection")["doc_id"].to_pylist() == [ids[i] for i in picks]
    loss = made.manifest.stats["loss"]
    assert (loss["share"], loss["rows"], loss["picks"]) == (0, 300, 8)


def test_what_two_rounds_lose_is_measured_on_a_sample_and_said(lab):
    documents, embedding = corpus(count=1200, d=32)
    given(lab, documents, embedding)
    stats = lab.run(step(count=16, shard_rows=300, sample=600)).manifest.stats
    loss = stats["loss"]
    assert 500 < loss["rows"] < 700
    assert loss["random"] < loss["two_rounds"] <= loss["central"]
    assert 0 <= loss["share"] < 0.5
    assert lab.notes[-1] == (
        f"diverse: choosing 16 of a sample of {loss['rows']} documents in two rounds over 4 shards loses "
        f"{loss['share']:.1%} of what choosing gains over chance"
    )
    # too few rows of each shard: fewer are chosen, as a shard that keeps all it has loses nothing
    small = lab.run(step(count=16, shard_rows=300, sample=100)).manifest.stats["loss"]
    assert small["picks"] == small["rows"] // 16
    assert lab.run(step(count=16, sample=0)).manifest.stats["loss"] == {}


def run_with(engine, root, **config):
    run_step(step(**config), Folder(str(root)), engine, Silent(), Settings())
    return Dataset(Folder(str(root)) / "diverse")


def test_nothing_depends_on_parts_batches_workers_or_the_engine(new_lab, tiny_batches):
    documents, embedding = corpus(zero=(5, 9))
    config = {"count": 9, "shard_rows": 60, "quality": "score.q", "sample": 200}
    made = []
    for engine, sizes in ((HomeEngine(0), ()), (HomeEngine(2), (10, 150)), (BeamEngine(), (99, 99, 60))):
        lab = new_lab()
        given(lab, documents, embedding, sizes)
        made.append(run_with(engine, lab.root, **config))
        if isinstance(engine, HomeEngine):
            engine.close()
    first = made[0]
    assert first.table("selection").rows == 9
    for other in made[1:]:
        assert other.digest == first.digest
        assert other.manifest.stats == first.manifest.stats
        assert other.read("selection").equals(first.read("selection"))


def test_quality_is_standardised_over_all_candidates(lab):
    documents, embedding = corpus(zero=(3,), unscored=(7, 8, 3))
    given(lab, documents, embedding, sizes=(50,))
    here = [i for i in range(300) if i not in (3, 7, 8)]
    score = documents["score.q"].to_numpy(zero_copy_only=False).astype(float)[here]
    ids = [documents["doc_id"][i].as_py() for i in here]
    vectors = unit_vectors(embedding)[here]
    for beta in (0.0, 0.5, 9.0):
        made = lab.run(step(count=6, quality="score.q", beta=beta))
        quality = np.exp(beta * (score - score.mean()) / score.std())
        wanted = greedy_map(vectors, 6, quality=quality).picks
        assert made.read("selection")["doc_id"].to_pylist() == [ids[i] for i in wanted]
        stats = made.manifest.stats
        assert (stats["candidates"], stats["no_vector"], stats["no_score"]) == (297, 1, 2)
    assert sorted(wanted.tolist()) == sorted(np.argsort(-score)[:6].tolist())


def test_equal_scores_weigh_nothing():
    assert Standard(2.0, 0.0).weights(np.full(3, 2.0), 5.0).tolist() == [1, 1, 1]
    assert np.isfinite(Standard(0.0, 1.0).weights(np.array([1e9, -1e9]), 5.0)).all()


def test_more_than_the_rank_is_said_and_the_other_objective_goes_on(lab):
    documents, embedding = corpus(d=5)
    given(lab, documents, embedding)
    made = lab.run(step(count=20))
    assert made.table("selection").rows == 5
    assert lab.warnings == [
        "diverse: 5 documents and not 20: no other is independent of them (numerical rank, at most the dimensions of "
        "the embedding); objective: logdet_plus_identity goes on beyond it"
    ]
    assert lab.run(step(count=20, objective="logdet_plus_identity")).table("selection").rows == 20


def test_a_part_that_did_not_change_is_not_bucketed_again(lab):
    documents, embedding = corpus()
    given(lab, documents, embedding, sizes=(200,))
    before = lab.run(step(count=5))
    changed = pa.array([*documents["doc_id"].to_pylist()[:299], "doc-last"])
    documents = documents.set_column(0, "doc_id", changed)
    given(lab, documents, embedding, sizes=(200,))
    after = lab.run(step(count=5))
    assert "diverse: bucket took over 1 of 2 parts" in lab.notes
    assert after.table("selection").rows == before.table("selection").rows


def test_documents_of_a_run_are_chosen_from(lab, static_folder):
    texts = ["gate of the pipe", "gate of the pipe", "winter evening garden", "model and data", "nothing known"]
    lab.documents(lab.files(one=[(f"{text} wheel", "web") for text in texts]))
    model = ModelConfig(path=str(static_folder))
    lab.run(EmbedderStep("embedder", model))
    lab.run(Embedded("embedded", "documents", "embedder", EmbedConfig(model=model)))
    made = lab.run(step(count=3))
    rows = Dataset(str(lab.root / "documents")).read("documents", ["doc_id", "text"]).to_pylist()
    by_id = {row["doc_id"]: row["text"] for row in rows}
    found = [by_id[i] for i in made.read("selection")["doc_id"].to_pylist()]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"count": 0}, "diverse.count: got 0, allowed >= 1"),
        ({"count": 1, "shard_rows": 0}, "diverse.shard_rows: got 0"),
        ({"count": 1, "sample": -1}, "diverse.sample: got -1, allowed >= 0"),
        ({"count": 1, "objective": "max"}, "diverse.objective: got 'max'"),
        ({"count": 1, "beta": math.inf}, "diverse.beta: got inf, allowed a finite number"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        DiverseConfig(**config)


def test_a_score_that_is_not_there_and_a_corpus_without_vectors_are_refused(lab):
    documents, embedding = corpus(count=4, zero=range(4))
    given(lab, documents, embedding)
    with pytest.raises(ConfigError, match=r"diverse\.quality: got score\.best, allowed score\.q"):
        lab.run(step(count=2, quality="score.best"))
    with pytest.raises(DatasetError, match="diverse: none of 4 documents has a vector and the score asked for"):
        lab.run(step(count=2))
