"""Every pass through Beam's portable job service, by worker processes that hold only the built wheel.

Workers run in a clean virtual environment: the wheel of penstock, installed by pip, and links to the
distributions that its metadata asks for (and theirs in turn), nothing else. A plain installation of those
would fetch gigabytes from a network that tests do not have; the links also leave out what happens to lie in the
developer's environment, so a dependency that is used but not declared fails here.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from penstock import kernels, selection
from penstock.dataset import Dataset
from penstock.errors import WorkerError
from penstock.generators.config import GeneratorConfig
from penstock.generators.recipe import GenerateConfig, ProceduralConfig
from penstock.generators.transforms.config import TransformConfig
from penstock.generators.voyager import VoyagerSettings
from penstock.pipelines import near
from penstock.pipelines.beam import BeamEngine
from penstock.pipelines.complete import Completed, Completing
from penstock.pipelines.diverse import Diverse, DiverseConfig
from penstock.pipelines.generate import Generated
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.plan import plan
from penstock.pipelines.problems import Problems
from penstock.pipelines.transform import Transformed
from penstock.recipe import Recipe
from penstock.refreshing.config import Coverage
from penstock.refreshing.coverage import CoverageStep
from penstock.run import run
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.scoring.run import score_steps
from penstock.scoring.screen_step import apply_steps, calibrate_steps
from penstock.selectors.targeted.base import Budget
from penstock.selectors.targeted.less import LESS
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

REPOSITORY = Path(__file__).parents[2]
SERVICES = Path(__file__).with_name("beam_services.py")
SPLIT_BYTES = 50_000

pytestmark = [pytest.mark.slow, pytest.mark.server]


# ── an environment, a pool and a job service ─────────────────────────────────────────────────────


def build_wheel(folder):
    """A wheel made of a copy, since a build leaves folders beside the source."""
    source = folder / "source"
    shutil.copytree(REPOSITORY / "penstock", source / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(source)
    return wheel


def needed_by(distribution, extra="", seen=None):
    """The installed distributions that one needs, directly or not."""
    seen = {} if seen is None else seen
    for text in distribution.requires or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *need.extras):
            name = re.sub(r"[-_.]+", "-", need.name).lower()
            if (name, wanted) not in seen:
                seen[name, wanted] = found = importlib.metadata.distribution(need.name)
                needed_by(found, wanted, seen)
    return {name: found for (name, _), found in seen.items()}


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory):
    """Folder of a virtual environment that holds the wheel, links to its dependencies and the witness."""
    folder = tmp_path_factory.mktemp("clean")
    wheel = build_wheel(folder)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (own,) = importlib.metadata.distributions(path=[str(site)])
    dependencies = needed_by(own)
    assert {"apache-beam", "pyarrow"} <= set(dependencies)
    assert "pytest" not in dependencies
    for distribution in dependencies.values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(distribution.locate_file(name))
    return environment


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, log, **options):
    """A process whose whole family is gone afterwards."""
    with open(log, "wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
    try:
        yield started
    finally:
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(started.pid)
            family = [me, *me.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        started.wait(10)
        assert not psutil.wait_procs(family, 10)[1]


def wait_for(what, found, *processes, seconds=240):
    """The first true value of ``found()``; fails when a process ends or time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        for one in processes:
            assert one.poll() is None, f"waiting for {what}: process ended with {one.returncode}"
        time.sleep(0.005)
    raise AssertionError(f"waited {seconds} s for {what}")


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 0.2):
        return True
    return False


def share_machine_code(environment, folder):
    """A folder for ``NUMBA_CACHE_DIR`` in which the environment's kernels have the machine code of ours.

    They are the same files, and compiling them anew would take a minute; numba keeps code by the path of its source.
    """
    ours = Path(kernels.cache_folder())
    theirs = folder / ours.name
    theirs.mkdir(parents=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    for source in {module.parent for module in kernels.kernel_modules()}:
        installed = site / source.relative_to(REPOSITORY)
        names = [f"{source.name}_{hashlib.sha1(str(path).encode()).hexdigest()}" for path in (source, installed)]
        (ours / names[0]).mkdir(exist_ok=True)
        (theirs / names[1]).symlink_to(ours / names[0])
    return folder


@dataclass
class Pool:
    """Where the job service and the worker pool answer, and what a pool's workers write down."""

    job_port: int
    pool_port: int
    folder: Path

    def options(self):
        return (
            f"--job_endpoint=localhost:{self.job_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{self.pool_port}",
        )


@pytest.fixture
def pool(clean_environment, tmp_path):
    """The job service in this environment, the pool in the clean one."""
    made = Pool(free_port(), free_port(), tmp_path / "pool")
    made.folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean |= {"OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(share_machine_code(clean_environment, tmp_path / "numba"))}
    python = str(clean_environment / "bin" / "python")
    job = [sys.executable, "-P", str(SERVICES), "job_service", str(made.job_port), "2"]
    workers = [python, "-P", str(SERVICES), "worker_pool", str(made.pool_port), str(made.folder)]
    with (
        process(job, tmp_path / "job_service.log", cwd=tmp_path / "elsewhere", env=clean) as job_service,
        process(workers, tmp_path / "worker_pool.log", cwd=tmp_path / "elsewhere", env=clean) as worker_pool,
    ):
        for port in (made.job_port, made.pool_port):
            wait_for("the services", lambda port=port: listens(port), job_service, worker_pool)
        yield made


# ── all passes there are ─────────────────────────────────────────────────────────────────────────


def works():
    """Names of every class of penstock whose instances are the work of a pass, and of functions that are."""
    found = set()
    for path in (REPOSITORY / "penstock").rglob("*.py"):
        tree = ast.parse(path.read_text())
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                calls = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__call__"]
                if any([a.arg for a in f.args.args] == ["self", "split", "out"] for f in calls):
                    found.add(f"{module}.{node.name}")
            elif isinstance(node, ast.FunctionDef) and [a.arg for a in node.args.args] == ["split", "out"]:
                found.add(f"{module}.{node.name}")
    return found - {"penstock.pipelines.dataflow._nothing"}  # stands in a graph that is never run


@dataclass
class Noting:
    """An engine that writes down what it runs, and before pass number ``at`` calls ``before`` with it."""

    engine: object
    passes: list = field(default_factory=list)  # name of the work, splits
    at: int = -1
    before: object = None

    def map(self, job, splits, done):
        if len(self.passes) == self.at:
            self.before(job)
        kind = type(job.work)
        self.passes.append((f"{kind.__module__}.{kind.__qualname__}", len(splits)))
        self.engine.map(job, splits, done)


EVERYTHING = """
name: everything
seed: 3
source:
  files: [{{path: '{corpus}/*.jsonl', columns: {{domain: domain}}}}]
filters: {{gopher_quality: null, gopher_repetition: null}}
splits: {{validation: 0.2, test: 0.1}}
deduplicate: {{near: {{}}, lines: {{}}, substrings: {{min_words: 20, window: 4}}, semantic: {{threshold: 0.99}}}}
decontaminate: {{benchmarks: [{{name: quiz, files: '{corpus}/quiz.ndjson', question: q}}]}}
embed: {{model: {{path: '{static}'}}}}
group: {{clusters: 3}}
tokenizer: {{vocabulary_size: 400, sample_mb: 1}}
quality:
  positive: {{domains: ['*']}}
  negative: {{files: [{{path: '{corpus}/letters.jsonl'}}]}}
  rows_per_side: 100
scores: {{perplexity: {{reference: {{domains: [rivers]}}}}}}
select:
  criteria: {{quality: {{}}, perplexity: {{}}}}
  search: {{target: {{domains: [rivers]}}, proxies: 10, draws: 200, top: 2, survivors: 10}}
sequences: {{length: 64}}
train: {{steps: 1, batch_size: 1, warmup_steps: 0}}
max_dropped: {{default: 1.0}}
"""


def plant(corpus):
    """Rows for every judge: near copies, an exact copy of one of them, one with its words in another order, a common
    last line; the question of a benchmark; problems."""
    lines = (corpus / "rivers.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines if line != "{not json"]
    texts = [text for text in texts if len(text) > 200][::3]
    twins = [f"{text} {word} more" for text in texts for word in ("one", "one", "two")]
    order = random.Random(5)
    for text in texts:
        words = text.split()
        order.shuffle(words)
        twins.append(" ".join(words) + "\nHome, contact, and all the other pages of this river")
    rows = [json.dumps({"text": text, "domain": "twins"}) for text in twins]
    (corpus / "twins.jsonl").write_text("\n".join(rows) + "\n")
    (corpus / "quiz.ndjson").write_text(json.dumps({"q": " ".join(texts[0].split()[5:25])}) + "\n")
    asked = [{"question": f"What is {i} and {i + 1} together?", "answer": str(2 * i + 1)} for i in range(9)]
    (corpus / "asked.ndjson").write_text("\n".join(map(json.dumps, asked)) + "\n")
    words = [{"text": " ".join(f"w{(i * j + j) % 32}" for j in range(3 + i % 9))} for i in range(24)]
    (corpus / "words.ndjson").write_text("\n".join(map(json.dumps, words)) + "\n")


def write_model(folder):
    """A Llama of random weights whose words are w0 to w31."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    nothing = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**sizes, **layers, **nothing)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(32)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return str(folder)


def beside(recipe, root, corpus, model):
    """(folder, step) of what verbs without a recipe build, and of a search whose target is files."""
    of_files = recipe.to_yaml(), [f"select.search.target={{files: [{{path: '{corpus}/letters.jsonl'}}]}}"]
    search = next(step for step in plan(Recipe.parse(*of_files)) if step.name == "search")
    search.name = "search-files"
    yield root, search
    yield root, Diverse("diverse", "decontaminated", "embedded", DiverseConfig(count=8, shard_rows=60), 3)
    voyage = VoyagerSettings(count=8, sample=12, batch=4)
    made = GenerateConfig(procedural=ProceduralConfig(families=("gcd",)), voyage=voyage)
    yield root, CoverageStep("coverage", "embedder", Folder(f"{root}/scored"), Coverage(), recipe.embed, 3)
    yield root, Generated("generated", "embedder", made, recipe.embed)
    named = FileEntry(path=f"{corpus}/asked.ndjson", columns={"text": "question", "title": "answer"})
    yield root, Problems("asked", source=FileSource(name="asked", entries=(named,)))
    yield root, Transformed("transformed", "asked", TransformConfig(alone="keep"))

    root = f"{root}/selected"
    chosen = selection.plan(["bm25"], ["columns.domain=domain"])
    for step in selection.steps_of(f"{corpus}/machines.jsonl", [f"{corpus}/letters.jsonl"], chosen, Budget(count=9)):
        yield root, step

    root = f"{Path(root).parent}/by-model"
    scores = LanguageModelScores.of(model, device="cpu", max_tokens=16)
    of_less = {"share": 0.5, "epochs": 1, "batch_size": 4, "rank": 2, "dimensions": 64, "learning_rate": 1e-2}
    words, less = f"{corpus}/words.ndjson", LESS(model=model, device="cpu", **of_less)
    for step in score_steps(words, scores, reference=words, texts_per_split=6, gradients=less):
        yield root, step
    for step in calibrate_steps(f"{root}/scores", scores=("z",), rate=0.2, edges=(6,)):
        yield root, step
    for step in apply_steps(f"{root}/scores", f"{root}/calibration"):
        yield root, step
    asked = {"template": "{text}", "style": "prompt", "max_tokens": 3, "store": f"{root}/answers.sqlite"}
    yield root, Completed("completed", "documents", Completing(model=GeneratorConfig(path=model).resolve(), **asked))


def build(recipe, root, corpus, model, engine):
    """Build what has a pass; manifests by folder."""
    wanted = ["dataset-1", "sequences-1"]
    done = run(recipe, out=root, engine=engine, only=wanted, split_bytes=SPLIT_BYTES, report=False)
    for folder, step in beside(recipe, root, corpus, model):
        settings = Settings(seed=3, split_bytes=SPLIT_BYTES, max_dropped={"default": 1.0})
        run_step(step, Folder(folder), engine, Silent(), settings)
    for result in done.steps:  # whatever drops rows may be given a share of its own
        dropping = {name.removeprefix("source.") for name in result.manifest.counts.dropped}
        assert dropping - {"selection"} <= set(result.step.guarded())
    folders = [path.parent for path in sorted(Path(root).rglob("manifest.json"))]
    return {str(folder.relative_to(root)): Dataset(str(folder)).manifest for folder in folders}


def told(manifests):
    """What must not depend on who makes it."""
    return {name: (made.digest, made.counts, made.stats) for name, made in manifests.items()}


def test_every_pass_by_clean_worker_processes_one_of_which_dies_equals_the_one_at_home(
    pool, clean_environment, corpus, static_folder, tmp_path, monkeypatch, published_bytes
):
    monkeypatch.setattr(near, "EDGES_AT_ONCE", 0)  # clusters by passes, not in the driver
    monkeypatch.setattr(near, "BANDS_PER_RANGE", 5000)
    monkeypatch.setattr(near, "MEMBERS_PER_RANGE", 40)
    plant(corpus)
    model = write_model(tmp_path / "model")
    recipe = Recipe.parse(EVERYTHING.format(corpus=corpus, static=static_folder))
    home = Noting(HomeEngine(0))
    expected = build(recipe, str(tmp_path / "home"), corpus, model, home)

    seed = random.SystemRandom().randrange(1 << 30)
    several = [at for at, (_, splits) in enumerate(home.passes) if splits >= 4]
    at = random.Random(seed).choice(several)
    print(f"seed {seed}: a worker dies in pass {at} of {len(home.passes)}, {home.passes[at][0]}")
    ours = Noting(BeamEngine("PortableRunner", pool.options()), at=at, before=lambda job: killer(job, pool))
    root = str(tmp_path / "run")
    with pytest.raises(WorkerError, match=r"Beam pipeline \w+/[\w-]+ on PortableRunner failed: .+kept: run again"):
        build(recipe, root, corpus, model, ours)
    (pool.folder / "stall").unlink()
    made = build(recipe, root, corpus, model, ours)
    assert told(made) == told(expected)
    # what the other worker had done was not done again
    assert ours.passes[at][0] == ours.passes[at + 1][0] == home.passes[at][0]
    assert 0 < ours.passes[at + 1][1] < ours.passes[at][1]
    assert {name for name, _ in ours.passes} == works()
    folders = [Folder(f"{tmp_path}/{name}/dataset-1") for name in ("run", "home")]
    assert published_bytes(folders[0]) == published_bytes(folders[1])

    # every judge had something to judge
    assert made["deduplicated"].counts.dropped["near_duplicates"]["near_duplicate"] > 20
    assert made["deduplicated"].stats["near"]["rounds"] > 0
    assert made["trimmed"].stats["documents_trimmed"] > 0
    assert made["decontaminated"].counts.dropped_total == 1
    assert made["grouped"].counts.dropped["semantic_duplicates"]["semantic_duplicate"] > 5

    seen = [json.loads(file.read_text()) for file in pool.folder.glob("worker-*.json")]
    assert len(seen) >= 2 * len(home.passes)
    for witness in seen:
        assert witness["penstock"].startswith(f"{clean_environment}/lib/")
        assert not any(folder.startswith(str(REPOSITORY)) for folder in witness["path"])


def killer(job, pool):
    """Kill the worker that stalls in this pass, once another has done a split."""
    (pool.folder / "stall").write_text(job.prefix)
    stalled, read = pool.folder / "stalled", job.folder / job.prefix

    def kill():
        wait_for("a worker that stalls", lambda: stalled.exists() and stalled.read_text())
        wait_for("a split of the other", lambda: any(name.endswith(".json") for name in read.files()))
        os.kill(int(stalled.read_text()), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
