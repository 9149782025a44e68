"""Documents to vectors: the steps ``embedder`` and ``embedded``. Run: pytest tests/pipelines/test_embed.py"""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from penstock.dataset import Dataset
from penstock.embedding import distil
from penstock.embedding.base import unit_vectors
from penstock.embedding.config import EmbedConfig, ModelConfig
from penstock.errors import DatasetError, InputError
from penstock.pipelines.embed import Embedded, EmbedderStep, aligned, aligned_splits, embedder_of
from penstock.step import Settings, check_step
from penstock.storage import Folder

ALL = 32 << 20
TEXTS = ["gate of the pipe", "model and data", "???", "nothing known", "winter evening garden", "gate gate turbine"]


def corpus(lab, count=24, **settings):
    rows = [(f"{TEXTS[i % 6]} {'wheel ' * (i % 5)}", "web") for i in range(count)]
    return lab.documents(lab.files(one=rows[:9], two=rows[9:]), **settings)


def embedded(lab, model, **changes):
    embed = EmbedConfig(model=model, **changes)
    return lab.run(Embedded("embedded", "documents", "embedder", embed))


@pytest.fixture
def static(static_folder):
    return ModelConfig(path=str(static_folder))


def test_every_document_has_its_vector_in_the_same_part_and_place(lab, static):
    documents = corpus(lab, split_bytes=200)
    model = lab.run(EmbedderStep("embedder", static))
    made = embedded(lab, static)
    parts, own = documents.table("documents").files, made.table("embeddings").files
    assert len(parts) > 4
    assert [p.rows for p in parts] == [p.rows for p in own]
    assert made.table("embeddings").columns == {"doc_id": "string", "embedding": "fixed_size_list<item: halffloat>[16]"}
    rows, vectors = documents.read("documents"), made.read("embeddings")
    assert vectors["doc_id"].equals(rows["doc_id"])
    texts = rows["text"].to_pylist()
    found = unit_vectors(vectors["embedding"])
    assert found == pytest.approx(embedder_of(model, static).embed(texts), abs=1e-3)
    counts = made.manifest.counts
    assert (counts.rows_in, counts.kept, counts.dropped) == (24, 24, {})
    assert made.manifest.stats["dimensions"] == 16
    assert made.manifest.stats["no_vector"] == int((~found.any(axis=1)).sum()) == 2
    assert lab.notes == ["embedded: 2 of 24 documents have no vector"]


def test_only_the_beginning_of_a_text_counts(lab, static):
    lab.documents(lab.files(one=[("gate winter", "d"), ("gate", "d")]))
    lab.run(EmbedderStep("embedder", static))
    whole = unit_vectors(embedded(lab, static).read("embeddings")["embedding"])
    assert whole[0] @ whole[1] < 0.9
    cut = unit_vectors(embedded(lab, static, characters=5).read("embeddings")["embedding"])
    assert cut[0] @ cut[1] == pytest.approx(1, abs=1e-6)


def test_vectors_depend_neither_on_the_splits_nor_on_the_batches(lab, new_lab, static, request):
    found = []
    for place, split_bytes in ((lab, ALL), (new_lab(), 150)):
        if found:
            request.getfixturevalue("tiny_batches")
        corpus(place, split_bytes=split_bytes)
        place.run(EmbedderStep("embedder", static))
        found.append(embedded(place, static))
    one, two = found
    assert (one.digest, one.manifest.stats) == (two.digest, two.manifest.stats)
    assert one.read("embeddings").equals(two.read("embeddings"))


def test_a_part_that_did_not_change_is_not_embedded_again(lab, static):
    lab.documents(lab.files(one=[("gate", "d")], two=[("pipe", "d")]), split_bytes=1)
    lab.run(EmbedderStep("embedder", static))
    before = embedded(lab, static).table("embeddings").files
    lab.documents(lab.files(one=[("gate", "d")], two=[("model", "d"), ("data", "d")]), split_bytes=1)
    after = embedded(lab, static).table("embeddings").files
    assert after[0] == before[0]
    assert before[1] not in after
    assert lab.notes[-1] == "embedded: embed took over 1 of 3 parts"
    # another beginning is another vector
    again = embedded(lab, static, characters=3).table("embeddings").files
    assert not set(again) & {*before, *after}


def test_the_model_is_in_the_key_by_its_bytes(lab, static_folder, tmp_path):
    folder = shutil.copytree(static_folder, tmp_path / "m")
    step = EmbedderStep("embedder", ModelConfig(path=str(folder)))
    first = lab.run(step)
    digest = first.digest
    assert set(first.manifest.key_parts["inputs"]) == {"model.safetensors", "tokenizer.json"}
    assert check_step(step, Folder(str(lab.root)), {}, Settings()).skip
    moved = EmbedderStep("embedder", ModelConfig(path=str(static_folder)))
    assert moved.config() == step.config()
    table = distil.read_table(folder)[0]
    save_file({"embeddings": table * 2}, folder / "model.safetensors")
    check = check_step(step, Folder(str(lab.root)), {}, Settings())
    assert not check.skip
    assert "inputs.model.safetensors" in check.why
    assert lab.run(step).digest != digest


def test_the_packaged_model_is_distilled_through_the_cache_and_said(lab, static_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distil, "distil", lambda folder: distil.read_table(static_folder))
    corpus(lab)
    model = lab.run(EmbedderStep("embedder", "static"))
    assert set(model.manifest.key_parts["inputs"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert model.manifest.key_parts["settings"]["distillation"]["dimensions"] == 256
    assert set(model.manifest.key_parts["settings"]["libraries"]) == set(distil.LIBRARIES)
    assert len(lab.notes) == 1
    assert lab.notes[0].startswith("embedder: distilling a static embedding")
    assert embedded(lab, "static").table("embeddings").rows == 24


def test_a_sentence_transformers_folder_embeds(lab, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Dense

    folder = tmp_path / "bow"
    words = ["gate", "pipe", "model", "data", "winter"]
    SentenceTransformer(modules=[BoW(vocab=words), Dense(5, 3)], device="cpu").save(str(folder))
    model = ModelConfig(path=str(folder), batch_size=2)
    lab.documents(lab.files(one=[("gate pipe", "d"), ("data gate", "d"), ("model data winter", "d")]))
    made = lab.run(EmbedderStep("embedder", model))
    facts = made.manifest.stats["embedder"]
    assert (facts["kind"], facts["dimensions"]) == ("folder", 3)
    assert "modules.json" in made.manifest.key_parts["inputs"]
    found = unit_vectors(embedded(lab, model).read("embeddings")["embedding"])
    reference = SentenceTransformer(str(folder), device="cpu").encode(["gate pipe", "data gate", "model data winter"])
    assert found == pytest.approx(reference / np.linalg.norm(reference, axis=1, keepdims=True), abs=1e-3)


class Api(BaseHTTPRequestHandler):
    factor = 1.0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.headers.get("Authorization"), body))
        rows = [
            {"index": i, "embedding": [len(text), self.server.factor * text.count("a"), 1.0]}
            for i, text in enumerate(body["input"])
        ]
        data = json.dumps({"data": rows}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def api():
    servers = []

    def start(factor=1.0):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        server.daemon_threads, server.seen, server.factor = True, [], factor
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return server, f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.server
def test_a_server_embeds_and_no_file_of_the_run_holds_its_key(lab, api, monkeypatch):
    monkeypatch.setenv("TINY_KEY", "sk-very-secret")
    server, url = api()
    model = ModelConfig(url=url, model="tiny", api_key_env="TINY_KEY", batch_size=5)
    documents = corpus(lab)
    lab.run(EmbedderStep("embedder", model))
    found = unit_vectors(embedded(lab, model).read("embeddings")["embedding"])
    texts = documents.read("documents")["text"].to_pylist()
    for text, vector in zip(texts, found, strict=True):
        wanted = np.array([len(text), text.count("a"), 1.0]) if text.strip() else np.zeros(3)
        assert vector == pytest.approx(wanted / max(np.linalg.norm(wanted), 1), abs=1e-3)
    assert {key for key, _ in server.seen} == {"Bearer sk-very-secret"}
    assert not any(b"secret" in path.read_bytes() for path in lab.root.rglob("*") if path.is_file())


@pytest.mark.server
def test_a_server_that_moved_is_probed_again_and_nothing_after_it_is_rebuilt(lab, api):
    _, first = api()
    corpus(lab)
    model = ModelConfig(url=first, model="tiny")
    before = lab.run(EmbedderStep("embedder", model)).manifest
    embedded(lab, model)
    server, second = api()
    moved = ModelConfig(url=second, model="tiny", batch_size=7, concurrency=1, timeout=9.0, attempts=2)
    after = lab.run(EmbedderStep("embedder", moved)).manifest
    assert after.key != before.key
    assert after.digest == before.digest
    assert len(server.seen) == 1
    embedded(lab, moved)
    assert len(server.seen) == 1, "the vectors were up to date"


@pytest.mark.server
def test_a_server_whose_model_changed_is_another_model(lab, api):
    _, first = api()
    _, second = api(factor=3.0)
    one = lab.run(EmbedderStep("embedder", ModelConfig(url=first, model="tiny"))).digest
    two = lab.run(EmbedderStep("embedder", ModelConfig(url=second, model="tiny"))).digest
    other = lab.run(EmbedderStep("embedder", ModelConfig(url=second, model="tiny", revision="2"))).digest
    assert len({one, two, other}) == 3


@pytest.mark.server
def test_the_same_settings_do_not_ask_the_server_again(lab, api):
    server, url = api()
    for _ in range(2):
        lab.run(EmbedderStep("embedder", ModelConfig(url=url, model="tiny")))
    assert len(server.seen) == 1


def test_a_path_that_leads_nowhere_is_refused_before_anything_runs(lab, tmp_path):
    with pytest.raises(InputError, match=r"no modules\.json there"):
        lab.run(EmbedderStep("embedder", ModelConfig(path=str(tmp_path / "gone"))))
    assert not (lab.root / "embedder").exists()


def test_documents_and_vectors_of_other_parts_are_not_joined(lab, static):
    corpus(lab, split_bytes=200)
    lab.run(EmbedderStep("embedder", static))
    made = embedded(lab, static)
    other = corpus(lab, split_bytes=ALL)
    with pytest.raises(DatasetError, match="the parts of documents and embedded do not hold the same rows"):
        aligned_splits("grouped", other, made)


def test_vectors_of_other_documents_are_not_joined(lab, static):
    def build(ids):
        column = pa.array(ids, pa.string())
        return pa.RecordBatch.from_pydict({"doc_id": column, "text": column})

    documents = lab.given("documents", documents=[build(["a", "b"])])
    other = lab.given("other", documents=[build(["a", "c"])])
    lab.run(EmbedderStep("embedder", static))
    made = lab.run(Embedded("embedded", "other", "embedder", EmbedConfig(model=static)))
    (split,) = aligned_splits("grouped", documents, made)
    with pytest.raises(DatasetError, match="its rows are of other documents"):
        list(aligned(documents.folder, made.folder, split.payload))
    (split,) = aligned_splits("grouped", other, made)
    (batch,) = aligned(other.folder, made.folder, split.payload, ("text",))
    assert batch.schema.names == ["doc_id", "text", "embedding"]


def test_rows_join_their_vectors_across_batches_of_any_size(lab, static, tiny_batches):
    documents = corpus(lab, split_bytes=ALL)
    lab.run(EmbedderStep("embedder", static))
    made = embedded(lab, static)
    wanted = Dataset(made.folder).read("embeddings")
    found = pa.Table.from_batches(
        [b for s in aligned_splits("x", documents, made) for b in aligned(documents.folder, made.folder, s.payload, ())]
    )
    assert found["doc_id"].combine_chunks().equals(wanted["doc_id"].combine_chunks())
    assert found["embedding"].combine_chunks().equals(wanted["embedding"].combine_chunks())
