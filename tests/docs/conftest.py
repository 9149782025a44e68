"""What the pages speak of: a finished run, folders of models, files of texts, each in a folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from penstock import kernels

SENTINELS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@pytest.fixture(scope="session")
def models(finished, tmp_path_factory):
    """Folders of models by name: ``small`` is the finished run's, ``code`` has sentinels for the middle too, ``words``
    embeds texts by a table of vectors."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    from penstock.scoring.model import resolve

    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(resolve(finished[0] / "run"), folder / "small")
    config = json.loads((folder / "small" / "config.json").read_text())
    (folder / "small" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    shutil.copytree(folder / "small", folder / "code")
    tokenizer = Tokenizer.from_file(str(folder / "code" / "tokenizer.json"))
    tokenizer.add_special_tokens(list(SENTINELS))
    tokenizer.save(str(folder / "code" / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder / "small")
    model.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
    model.save_pretrained(folder / "code")
    (folder / "words").mkdir()
    shutil.copy(folder / "small" / "tokenizer.json", folder / "words")
    vectors = np.random.default_rng(0).normal(size=(model.config.vocab_size, 16)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "words" / "model.safetensors")
    (folder / "words" / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


@pytest.fixture
def world(finished, models, tmp_path, monkeypatch):
    """A folder to be in, with what pages name: ``runs/quickstart``, ``models/``, ``recipes/``, texts."""
    base, recipe, _ = finished
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    if (kept := kernels.cache_folder()) is not None:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(Path(kept).parent))  # another cache would compile everything again
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(base / "run", folder / "runs" / "quickstart")  # blocks may build in it
    for name in ("monday", "tuesday", "corpus"):
        (folder / "runs" / name).symlink_to(base / "run")
    shutil.copytree(base / "corpus", folder / "corpus")
    (folder / "models").mkdir()
    for path in models.iterdir():
        (folder / "models" / path.name).symlink_to(path)
    (folder / "recipes").mkdir()
    for name in ("quickstart", "files", "corpus", "crawl", "mine"):
        (folder / "recipes" / f"{name}.yaml").write_text(recipe.to_yaml())
    of_groups = "generate: {}\ntransform: {}\ngroup_rl: {max_new_tokens: 8}\n"
    kept = yaml.safe_load(recipe.to_yaml()) | yaml.safe_load(of_groups)
    (folder / "recipes" / "problems.yaml").write_text(yaml.safe_dump(kept))
    (folder / "deployments.yaml").write_text(
        "deployments:\n  - {name: nightly, verb: build, recipe: recipes/quickstart.yaml, out: runs/quickstart}\n"
    )
    texts = [json.loads(line)["text"] for line in Path("corpus/rivers.jsonl").read_text().splitlines()[:5]]
    (folder / "dev.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder
