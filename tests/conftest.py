"""Shared fixtures: a small corpus on disk, an S3-compatible server on loopback, a recipe for both."""

from __future__ import annotations

import gc
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict

import pytest

# as many processes as cores run tests: threads of torch and BLAS in each of them would only wait for one another
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _fsync(file):
    """Of an open file, without the wait: no test cuts the power, and a disk takes some 5 ms a file."""
    os.fstat(file if isinstance(file, int) else file.fileno())


os.fsync = _fsync


def pytest_configure(config):
    # a runner in the background starts with Ctrl-C ignored, and children would inherit that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=2, help="random kills per step in the fault tests")
    parser.addoption("--faults-seed", type=int, default=None, help="repeat the kills of a run that printed this seed")
    parser.addoption("--accept-revisions", action="store_true", help="record the code that revisions stand for")


def pytest_collection_finish():
    # modules and tests stay to the end: a full collection of what a test left must not walk them all
    gc.collect()
    gc.freeze()


WORDS = (  # noqa: SIM905
    "the of and to in that with have be water river gate pipe turbine flow pressure model data token language "
    "learn train select copy merge rank score sample hash split part file table column row batch seed loss step "
    "mountain valley bridge engine wheel copper iron winter summer morning evening garden window letter paper"
).split()


def sentence(rng: random.Random, vocabulary: list[str]) -> str:
    words = rng.choices(vocabulary, k=rng.randint(6, 14))
    return " ".join(words).capitalize() + "."


def write_corpus(folder, *, documents: int = 240, seed: int = 0) -> None:
    """Three domains as JSON lines, with exact duplicates, short rows and one bad line in each file."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index, domain in enumerate(("rivers", "machines", "letters")):
        vocabulary = WORDS[:8] + rng.sample(WORDS[8:], 24)
        lines = []
        for number in range(documents // 3):
            sentences = [sentence(rng, vocabulary) for _ in range(rng.randint(8, 24))]
            text = "\n".join(" ".join(sentences[i : i + 3]) for i in range(0, len(sentences), 3))
            if number % 17 == 3 and lines:
                text = json.loads(lines[-1])["text"]
            if number % 23 == 5:
                text = "too short"
            lines.append(json.dumps({"text": text, "domain": domain}))
        lines.insert(5 + index, "{not json")
        (folder / f"{domain}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    write_corpus(folder)
    return folder


RECIPE = """
name: small
seed: 3
source:
  files: [{{path: '{corpus}/*.jsonl', columns: {{domain: domain}}}}]
splits: {{validation: 0.1, test: 0.05}}
tokenizer: {{vocabulary_size: 512, sample_mb: 1}}
quality:
  positive: {{domains: [rivers]}}
  negative: {{domains: [machines, letters]}}
  rows_per_side: 200
select: {{omega: 0.7, lam: 10, eps: 0.2, eps_max: 1.0}}
sequences: {{length: 64}}
train:
  steps: 12
  batch_size: 4
  eval_every: 6
  checkpoint_every: 4
  signals_every: 4
  warmup_steps: 2
  eval_sequences: 4
  threads: 1
  model: {{hidden_size: 32, layers: 1, heads: 1, kv_heads: 1, ffn_size: 64}}
rounds: 2
"""


@pytest.fixture
def recipe_text(corpus):
    return RECIPE.format(corpus=corpus)


@pytest.fixture
def recipe(recipe_text):
    from penstock.recipe import Recipe

    return Recipe.parse(recipe_text)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(folder with ``corpus`` and ``run``, recipe, result): a finished run that tests read or copy."""
    from penstock.recipe import Recipe
    from penstock.run import run

    base = tmp_path_factory.mktemp("finished")
    write_corpus(base / "corpus")
    recipe = Recipe.parse(RECIPE.format(corpus=base / "corpus"))
    return base, recipe, run(recipe, out=str(base / "run"), workers=0)


@pytest.fixture(scope="session")
def versions(finished, tmp_path_factory):
    """Two published datasets that share some shards: folders of ``dataset-1``, which no test changes."""
    from penstock.dataset import Dataset
    from penstock.recipe import Recipe
    from penstock.run import run

    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("versions")
    out = []
    for name, overrides in (("old", []), ("new", ["select.omega=0.4"])):
        shutil.copytree(base / "run", folder / name)
        changed = Recipe.parse(recipe.to_yaml(), ["shard_mb=0.03", *overrides])
        run(changed, out=str(folder / name), workers=0, only=["dataset-1"], report=False)
        shutil.rmtree(folder / name / "dataset-2")
        out.append(folder / name / "dataset-1")
    shared, new = ({f.sha256 for f in Dataset(str(path)).entries()} for path in out)
    assert shared & new
    assert new - shared
    return out


@pytest.fixture(scope="session")
def published_bytes():
    """``published_bytes(folder)``: files of a published dataset by name, but for the parts and receipts that it keeps
    for the next build, which know how this one was cut."""

    def read(folder):
        names = folder.files()
        found = {name: folder.read_bytes(name) for name in names if not re.match(r"[0-9a-f]{12}/", name)}
        manifest = json.loads(found.pop("manifest.json"))
        assert manifest.pop("passes")["path"] in names
        return found | {"manifest.json": json.dumps(manifest).encode()}

    return read


@pytest.fixture
def penstock(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    from penstock.cli import main

    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB of its own: ``(folder, remount)``, where ``remount("ro")`` makes it read-only; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def s3_server():
    """Address of moto's S3 server, started for the session on a free port of loopback."""
    moto = pytest.importorskip("moto.server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """A new bucket as ``s3://…``; workers find the server through the environment."""
    import fsspec
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{os.urandom(4).hex()}"
    fsspec.filesystem("s3").mkdir(f"s3://{name}")
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def commit_rows():
    """``commit_rows(root, name, tables, stats)`` commits a step whose tables are lists of batches, a part each."""
    import pyarrow as pa

    from penstock.digest import TableDigest
    from penstock.pipelines.home import HomeEngine
    from penstock.pipelines.passes import splits_of
    from penstock.step import Settings, Silent, Step, run_step
    from penstock.storage import Folder

    class Given(Step):
        revision = 1

        def __init__(self, name, tables, stats):
            self.name, self.tables, self.stats = name, tables, stats

        def config(self):
            # the rows and not the parts, as the keys of real steps
            whole = {name: TableDigest.of(pa.Table.from_batches(parts)) for name, parts in self.tables.items()}
            return {name: asdict(digest) for name, digest in whole.items()}

        def build(self, context):
            def write(split, out):
                for name, parts in self.tables.items():
                    out.write(name, parts[split.index])

            parts = max(len(parts) for parts in self.tables.values())
            built = context.collect(context.run("given", write, splits_of(range(parts))), *self.tables)
            built.stats = self.stats
            return built

    def commit(root, name, tables, stats=None):
        step = Given(name, tables, stats or {})
        return run_step(step, Folder(str(root)), HomeEngine(0), Silent(), Settings()).manifest

    return commit


@pytest.fixture(autouse=True)
def _no_thread_left_behind():
    """A test that starts threads of ours stops them."""
    before = {t.name for t in threading.enumerate()}
    yield
    after = [t.name for t in threading.enumerate() if t.name not in before and t.name.startswith("penstock-")]
    assert not after, f"threads left running: {after}"


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory):
    """A model2vec folder: 40 words of four topics, each word near its topic's axis, in 16 dimensions."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    topics = (WORDS[10:20], WORDS[20:30], WORDS[30:40], WORDS[40:50])
    words = [word for topic in topics for word in topic]
    vectors = np.random.default_rng(0).normal(0, 0.15, (len(words) + 2, 16))
    for row, _ in enumerate(words):
        vectors[row + 2, row // 10] += 1.0
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]"])
    folder = tmp_path_factory.mktemp("static")
    save_file({"embeddings": vectors.astype(np.float32)}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder
