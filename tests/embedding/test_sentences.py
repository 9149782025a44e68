"""sentence-transformers folders. Run: pytest tests/embedding/test_sentences.py"""

import json
import pickle
import shutil

import numpy as np
import pytest

from penstock.embedding import sentences
from penstock.embedding.sentences import SentenceFolder, folder_digest, folder_files
from penstock.errors import ConfigError, DatasetError, InputError, MissingExtraError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of one layer with mean pooling, random weights, saved as sentence-transformers saves."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "gate", "pipe", "water", "model", "data", "the", "of"]
    (base / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(base)
    made = tmp_path_factory.mktemp("sentences")
    first = Transformer(str(base), max_seq_length=32)
    SentenceTransformer(modules=[first, Pooling(16)], device="cpu").save(str(made))
    return made


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def embedder(folder, **changes):
    given = {"path": str(folder), "digest": folder_digest(str(folder)), "dimensions": 16}
    return SentenceFolder(**given | changes)


def test_vectors_are_those_of_the_model_by_hand(folder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["the gate of the pipe", "water", "data model data", "gate " * 100]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    wanted = []
    for text in texts:
        with torch.inference_mode():
            out = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).last_hidden_state[0]
        mean = out.mean(dim=0).numpy()
        wanted.append(mean / np.linalg.norm(mean))
    for size in (1, 3, 64):
        assert embedder(folder, batch_size=size).embed(texts) == pytest.approx(np.array(wanted), abs=1e-5)
    assert embedder(folder).embed([]).shape == (0, 16)


def test_the_device_auto_is_one_that_is_there(folder):
    assert embedder(folder, device="auto").embed(["gate"]).shape == (1, 16)


def test_setup_loads_the_model_and_a_pickle_of_the_embedder_holds_none(folder):
    work = embedder(folder)
    work.setup()
    assert len(pickle.dumps(work)) < 500


def test_dimensions_are_those_of_the_vectors(folder):
    assert sentences.dimensions_of(sentences.load(str(folder), folder_digest(str(folder)), "cpu")) == 16


def test_a_folder_that_changed_since_is_refused(copy):
    work = embedder(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(DatasetError, match="it changed since the run began, so run again"):
        work.embed(["gate"])


def test_the_digest_is_that_of_names_and_bytes_and_leaves_notes_out(copy):
    before = folder_digest(str(copy))
    (copy / "NOTES.md").write_text("a note")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x.json").write_text("1")
    assert folder_digest(str(copy)) == before
    (copy / "more.json").write_text("1")
    with_more = folder_digest(str(copy))
    assert with_more != before
    (copy / "more.json").rename(copy / "other.json")
    assert folder_digest(str(copy)) not in (before, with_more)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl"])
def test_pickled_weights_without_safetensors_are_refused_unread(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(ConfigError, match="allowed safetensors alone, as loading a pickle runs code"):
        folder_files(str(copy))


def test_pickled_weights_beside_safetensors_are_not_part_of_the_model(copy):
    before = folder_digest(str(copy))
    (copy / "pytorch_model.bin").write_bytes(b"evil")
    assert folder_digest(str(copy)) == before
    assert embedder(copy).embed(["gate"]).any()


def test_modules_of_other_packages_are_refused(copy):
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps([*modules, {"idx": 9, "name": "9", "path": "", "type": "os.system"}]))
    with pytest.raises(ConfigError, match=r"got module 'os\.system', allowed those of sentence_transformers"):
        folder_files(str(copy))


@pytest.mark.parametrize("text", ["no json", "{}x", '[{"idx": 0}]', "[1]"])
def test_a_list_of_modules_that_is_none_is_refused(copy, text):
    (copy / "modules.json").write_text(text)
    with pytest.raises(InputError, match="not a list of modules"):
        folder_files(str(copy))


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no modules\.json there, so no sentence-transformers folder"):
        folder_files(str(tmp_path))


def test_a_model_that_the_library_cannot_load_is_named(copy):
    (copy / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="sentence-transformers cannot load it on cpu"):
        embedder(copy).embed(["gate"])


def test_the_library_that_is_not_there_is_named_with_its_extra(copy, monkeypatch):
    monkeypatch.setattr(sentences.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'penstock\[embed\]'"):
        embedder(copy).embed(["gate"])
