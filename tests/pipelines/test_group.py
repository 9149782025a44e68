"""Groups, their names and map, and semantic duplicates over a corpus. Run: pytest tests/pipelines/test_group.py"""

import json
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from penstock.dataset import Dataset
from penstock.embedding.base import unit_vectors
from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.errors import ConfigError
from penstock.pipelines import group as module
from penstock.pipelines.embed import Embedded, EmbedderStep
from penstock.pipelines.group import Grouped, Groups
from penstock.pipelines.plan import plan
from penstock.recipe import Recipe
from penstock.run import run
from penstock.seeding import stream
from penstock.selectors import artifact
from penstock.selectors.kmeans import SIMILARITY, AssignGroups, GroupConfig
from penstock.selectors.semantic import SemanticDuplicates
from penstock.step import Settings, check_step
from penstock.storage import Folder

ALL = 32 << 20
# words of the fixture `static_folder`, by topic
TOPICS = (
    ["river", "gate", "pipe", "turbine", "flow", "pressure", "model", "data", "token", "language"],
    ["learn", "train", "select", "copy", "merge", "rank", "score", "sample", "hash", "split"],
    ["part", "file", "table", "column", "row", "batch", "seed", "loss", "step", "mountain"],
    ["valley", "bridge", "engine", "wheel", "copper", "iron", "winter", "summer", "morning", "evening"],
)


def sentences(count, seed=0, domains=("web",)):
    """Texts of one topic each; about one in five is an earlier one with a word changed."""
    rng = stream(seed, "sentences")
    rows = []
    for i in range(count):
        topic = TOPICS[int(rng.integers(0, 4))]
        words = [topic[int(k)] for k in rng.integers(0, 10, 10)]
        if rows and rng.random() < 0.2:
            words = rows[int(rng.integers(0, len(rows)))][0].split()
            words[int(rng.integers(0, len(words)))] = "unheard"
        rows.append((" ".join(words), domains[i % len(domains)]))
    return rows


@pytest.fixture
def build(static_folder):
    """``build(lab, rows)`` runs documents to groups and returns the dataset of ``grouped``."""
    model = ModelConfig(path=str(static_folder))

    def steps(lab, rows, *, split_bytes=ALL, group=None, seed=5, settings=None, **grouped):
        half = len(rows) // 2
        lab.documents(lab.files(one=rows[:half], two=rows[half:]), split_bytes=split_bytes)
        settings = settings or {}
        lab.run(EmbedderStep("embedder", model), **settings)
        lab.run(Embedded("embedded", "documents", "embedder", EmbedConfig(model=model)), **settings)
        lab.run(Groups("groups", "documents", "embedded", group or GroupConfig(clusters=4), seed), **settings)
        return lab.run(Grouped("grouped", "documents", "embedded", "groups", **grouped), **settings)

    return steps


def of(lab, step):
    return Dataset(str(lab.root / step))


def test_documents_of_a_topic_share_a_group_that_is_called_by_its_words(lab, build):
    rows = sentences(200)
    made = build(lab, rows).read("documents")
    assert made["text"].to_pylist() == [text for text, _ in rows]
    groups = {}
    for row in made.to_pylist():
        (topic,) = {i for i, words in enumerate(TOPICS) if set(row["text"].split()) - {"unheard"} <= set(words)}
        groups.setdefault(topic, set()).add(row["group"])
    assert sorted(map(len, groups.values())) == [1, 1, 1, 1]
    for topic, (name,) in groups.items():
        assert set(name.split("-")) <= set(TOPICS[topic])
        assert len(name.split("-")) == 3
    assert len({name for names in groups.values() for name in names}) == 4


def test_similarity_is_the_cosine_to_the_groups_centroid(lab, build):
    made = build(lab, sentences(100)).read("documents")
    facts = of(lab, "groups").manifest.stats["groups"]
    found = artifact.load(str(lab.root / "groups" / facts["path"]), facts["digest"])
    vectors = unit_vectors(of(lab, "embedded").read("embeddings")["embedding"])
    products = vectors @ found.arrays["centroids"].T
    assert made[SIMILARITY].to_pylist() == pytest.approx(products.max(axis=1), abs=1e-4)
    assert made["group"].to_pylist() == [found.facts["names"][i] for i in products.argmax(axis=1)]


def test_without_semantic_duplicates_every_row_stays_and_the_columns_are_as_before(lab, build):
    made = build(lab, sentences(60))
    counts = made.manifest.counts
    assert (counts.rows_in, counts.kept, counts.dropped) == (60, 60, {})
    before = of(lab, "documents").read("documents")
    after = made.read("documents")
    assert after.column_names == [*before.column_names, "group", SIMILARITY]
    assert after.select(before.column_names).equals(before)


def by_hand(lab, threshold, farthest=True):
    """doc_id -> survivor, one group at a time, one row at a time, from the stored vectors."""
    rows = of(lab, "embedded").read("embeddings").to_pydict()
    vectors = dict(
        zip(rows["doc_id"], unit_vectors(pa.array(rows["embedding"], pa.list_(pa.float16(), 16))), strict=True)
    )
    facts = of(lab, "groups").manifest.stats["groups"]
    assign = AssignGroups(path=str(lab.root / "groups" / facts["path"]), digest=facts["digest"])
    index, likeness = assign.assign(np.stack(list(vectors.values())))
    out = {}
    for group in range(4):
        members = [(s if farthest else -s, i) for i, g, s in zip(vectors, index, likeness, strict=True) if g == group]
        kept = []
        for _, doc in sorted(members, key=lambda m: (m[0], m[1].encode())):
            found = max(((float(vectors[k] @ vectors[doc]), -n) for n, k in enumerate(kept)), default=(-2.0, 0))
            if found[0] >= threshold:
                out[doc] = kept[-found[1]]
            else:
                kept.append(doc)
    return out


@pytest.mark.parametrize("keep", ["farthest", "closest"])
def test_semantic_duplicates_are_those_of_brute_force_with_their_survivors(lab, build, keep):
    rows = sentences(240)
    made = build(lab, rows, split_bytes=1500, semantic=SemanticDuplicates(threshold=0.996, keep=keep))
    wanted = by_hand(lab, 0.996, keep == "farthest")
    assert 15 < len(wanted) < 150
    lost = made.read("dropped").to_pylist()
    assert {r["doc_id"]: r["detail"] for r in lost} == wanted
    texts = dict(zip(*of(lab, "documents").read("documents", ["doc_id", "text"]).to_pydict().values(), strict=True))
    assert all(r["text"] == texts[r["doc_id"]][:240] for r in lost)
    assert {(r["step"], r["reason"]) for r in lost} == {("semantic_duplicates", "semantic_duplicate")}
    before = of(lab, "documents").read("documents")["doc_id"].to_pylist()
    assert made.read("documents")["doc_id"].to_pylist() == [d for d in before if d not in wanted]
    counts = made.manifest.counts
    assert counts.dropped == {"semantic_duplicates": {"semantic_duplicate": len(wanted)}}
    assert counts.rows_in == 240


def test_nothing_depends_on_the_splits_the_batches_or_the_workers(new_lab, build, request):
    rows, found = sentences(150), []
    for split_bytes, tiny in ((ALL, False), (3000, False), (3000, True)):
        if tiny:
            request.getfixturevalue("tiny_batches")
        lab = new_lab()
        made = build(lab, rows, split_bytes=split_bytes, semantic=SemanticDuplicates(threshold=0.996))
        found.append((made.digest, of(lab, "groups").digest, made.manifest.stats, made.manifest.counts))
    assert found[0] == found[1] == found[2]


def test_the_same_run_in_processes_gives_the_same_digests(tmp_path, static_folder):
    """The whole chain under two workers and under none."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for part in range(3):
        lines = [json.dumps({"text": text + ".", "domain": d}) for text, d in sentences(60, seed=part)]
        (corpus / f"{part}.jsonl").write_text("\n".join(lines))
    recipe = Recipe.parse(
        f"name: g\nsource: {{files: ['{corpus}/*.jsonl']}}\n"
        "filters: {gopher_quality: null, gopher_repetition: null}\n"
        f"embed: {{model: {{path: '{static_folder}'}}}}\ngroup: {{clusters: 4, map: tsne}}\n"
        "deduplicate: {semantic: {threshold: 0.996}}\nselect: {criteria: {group_similarity: {}}}\n"
    )
    names = ("embedder", "embedded", "groups", "grouped")
    found = []
    for workers in (0, 2):
        root = tmp_path / f"run-{workers}"
        run(recipe, out=str(root), workers=workers, report=False, only=["grouped"], split_bytes=2000)
        found.append([Dataset(str(root / name)).digest for name in names])
    assert found[0] == found[1]


def test_a_group_may_become_the_domain_and_dropped_rows_keep_their_own(lab, build):
    made = build(lab, sentences(120), as_domain=True, semantic=SemanticDuplicates(threshold=0.996))
    rows = made.read("documents")
    assert rows["domain"].equals(rows["group"])
    assert set(made.manifest.stats["domains"]) == set(rows["group"].to_pylist())
    assert set(made.read("dropped")["domain"].to_pylist()) == {"web"}


def test_documents_without_a_vector_are_in_no_group_and_duplicate_nothing(lab, build):
    rows = [*sentences(80), *[(f"nothing known {i}", "web") for i in range(5)]]
    made = build(lab, rows, semantic=SemanticDuplicates(threshold=0.996))
    last = made.read("documents").slice(made.table("documents").rows - 5).to_pylist()
    assert {(r["group"], r[SIMILARITY]) for r in last} == {("none", 0.0)}
    assert made.manifest.stats["groups"]["none"] == {"rows": 5, "bytes": 5 * 15, "similarity": 0}
    assert "none" not in made.manifest.stats["terms"]


def test_statistics_of_groups_are_sums_over_the_rows(lab, build):
    made = build(lab, sentences(90))
    rows = made.read("documents").to_pylist()
    for name, count in made.manifest.stats["groups"].items():
        mine = [r for r in rows if r["group"] == name]
        assert count["rows"] == len(mine)
        assert count["bytes"] == sum(len(r["text"]) for r in mine)
        assert count["similarity"] == round(sum(round(r[SIMILARITY] * 1e4) for r in mine))
        assert made.manifest.stats["terms"][name][:3] == name.split("-")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_has_a_place_for_each_sampled_document(lab, build, method, monkeypatch):
    monkeypatch.setattr(module, "MAP_POINTS", 40)
    rows = sentences(90, domains=("a", "b"))
    made = build(lab, rows, group=GroupConfig(clusters=4, points_per_cluster=15, map=method)).read("documents")
    found = of(lab, "groups").read("map").to_pylist()
    assert len(found) == 40
    group = dict(zip(made["doc_id"].to_pylist(), made["group"].to_pylist(), strict=True))
    domain = dict(zip(made["doc_id"].to_pylist(), made["domain"].to_pylist(), strict=True))
    assert all((p["group"], p["domain"]) == (group[p["doc_id"]], domain[p["doc_id"]]) for p in found)
    assert max(abs(p["x"]) for p in found) == max(abs(p["y"]) for p in found) == 1


def test_learning_from_a_sample_is_said_and_learning_from_few_is_warned_of(lab, new_lab, build):
    build(lab, sentences(90), group=GroupConfig(clusters=2, points_per_cluster=40))
    assert "groups: 2 groups are learned from 80 of 90 documents" in lab.notes
    assert lab.warnings == []
    other = new_lab()
    build(other, sentences(77), group=GroupConfig(clusters=2))
    assert other.warnings == ["groups: 77 documents for 2 groups is fewer than 39 a group; lower group.clusters"]
    assert not any("are learned from" in note for note in other.notes)


def test_more_groups_than_documents_stop_the_run(lab, build):
    with pytest.raises(ConfigError, match=r"group\.clusters: got 20, allowed at most 10"):
        build(lab, sentences(10), group=GroupConfig(clusters=20))


def test_another_seed_gives_other_samples_and_the_same_seed_the_same(new_lab, build):
    rows = sentences(120)
    config = GroupConfig(clusters=3, points_per_cluster=9)
    found = []
    for seed in (5, 5, 6):
        lab = new_lab()
        build(lab, rows, group=config, seed=seed)
        found.append(of(lab, "groups").digest)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("semantic", [None, SemanticDuplicates(threshold=0.996)], ids=["groups", "duplicates"])
def test_a_build_since_another_keeps_its_groups_and_takes_over_what_did_not_change(lab, build, semantic):
    before = build(lab, sentences(80), split_bytes=1500, semantic=semantic).table("documents").files
    earlier = shutil.copytree(lab.root, lab.base / "earlier")
    since = {"since": Folder(str(earlier))}
    source = lab.files(zzz=sentences(12, seed=9))
    lab.documents(source, split_bytes=1500)
    lab.run(Embedded("embedded", "documents", "embedder", EmbedConfig()), **since)
    step = Groups("groups", "documents", "embedded", GroupConfig(clusters=4), 5)
    known = {name: of(lab, name).manifest for name in step.parents}
    assert "kept as fitted" in check_step(step, Folder(str(lab.root)), known, Settings(**since)).why
    lab.run(step, **since)
    lab.notes.clear()
    made = lab.run(Grouped("grouped", "documents", "embedded", "groups", semantic=semantic), **since)
    assert made.manifest.counts.rows_in == 92
    parts = len(of(lab, "documents").table("documents").files)
    assert parts == len(before) + 1
    if semantic is None:
        assert lab.notes == [f"grouped: apply took over {parts - 1} of {parts} parts"]
        assert set(before) < set(made.table("documents").files)
    else:
        assert lab.notes[0] == f"grouped: bucket took over {parts - 1} of {parts} parts"
        assert {r["doc_id"]: r["detail"] for r in made.read("dropped").to_pylist()} == by_hand(lab, 0.996)


def test_hostile_domains_and_texts_reach_neither_names_nor_files(lab, build, hostile):
    rows = [(f"{text} {d[:30]}", d) for (text, _), d in zip(sentences(60), hostile * 5, strict=True)]
    made = build(lab, rows, as_domain=True, semantic=SemanticDuplicates())
    assert all(re.fullmatch("[a-z][a-z0-9-]{0,69}", name) for name in made.manifest.stats["groups"])
    assert Counter(r["domain"] for r in of(lab, "groups").read("map").to_pylist()) == Counter(d for _, d in rows)
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789-./")
    assert all(set(name) <= plain for name in lab.names())


RECIPE = "name: x\nsource: {environment: {}}\nselect: {criteria: {language: {}}}\n"


def test_a_recipe_without_embeddings_has_none_of_the_steps():
    assert not {"embedder", "embedded", "groups", "grouped"} & {step.name for step in plan(Recipe.parse(RECIPE))}


def test_embeddings_alone_change_nothing_after_them():
    steps = {step.name: step for step in plan(Recipe.parse(RECIPE + "embed: {characters: 77}\n"))}
    assert "grouped" not in steps
    assert steps["embedded"].parents[1] == "embedder"
    assert steps["embedded"].config()["work"]["characters"] == 77
    assert steps["scored"].parents[0] == steps["tokenizer"].parents[0] == steps["embedded"].parents[0]


def test_what_comes_after_groups_reads_them():
    text = RECIPE + (
        "embed: {}\ngroup: {clusters: 9, as_domain: true}\ndeduplicate: {semantic: {threshold: 0.9, keep: closest}}\n"
        "quality: {positive: {domains: [a]}}\nbudgets: {embedder: 1, embedded: 2, groups: 3, grouped: 4}\n"
    )
    steps = {step.name: step for step in plan(Recipe.parse(text))}
    order = list(steps)
    assert order.index("embedder") < order.index("embedded") < order.index("groups") < order.index("grouped")
    for name in ("tokenizer", "quality", "scored"):
        assert steps[name].parents[0] == "grouped"
    assert steps["grouped"].parents == (steps["embedded"].parents[0], "embedded", "groups")
    assert steps["groups"].config()["kmeans"]["config"]["clusters"] == 9
    assert steps["grouped"].config()["assign"]["as_domain"] is True
    assert steps["grouped"].config()["semantic"]["config"] == {"threshold": 0.9, "keep": "closest"}
    assert [steps[n].budget for n in ("embedder", "embedded", "groups", "grouped")] == [1, 2, 3, 4]
