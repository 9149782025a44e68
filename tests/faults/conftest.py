"""Children that are killed, for tests of faults.

Children are forked from one process that has imported everything: each is a process group of its own that runs a real
verb, without the five seconds of imports.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import yaml

from penstock.dataset import Dataset
from penstock.inspect import datasets_below
from penstock.reuse import named_files
from penstock.storage import Folder

NURSERY = r"""
import json, os, signal, sys, time, traceback
import filelock, fsspec.implementations.local, math_verify, numba, reasoning_gym, sklearn, torch, transformers
import penstock.cli, penstock.pipelines.plan, penstock.run, penstock.terminal, penstock.training.loop
import penstock.generation, penstock.push, penstock.transformation, penstock.training.group_rl.loop
import penstock.scoring.run, penstock.selection, penstock.tokenization.building
from penstock.errors import PenstockError
from penstock.recipe import Recipe

def verb(job):
    # as the command line runs it
    if job["setup"]:
        exec(job["setup"], {})  # a fault that the test plants
    sys.argv = ["penstock", *job["argv"]]
    try:
        penstock.cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        return int(end.code or 0)
    return 0

def child(job):
    os.setsid()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in (1, 2):
        os.dup2(log, fd)
    inside, changes = f"{job['out']}/{job['step']}/", []

    def watch(event, args):
        if event == "open":
            writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if writes and str(args[0]).startswith(inside):
            name = os.path.basename(str(args[1] if event == "os.rename" else args[0]))
            kept = name in ("manifest.json", "README.md", "samples.parquet")
            changes.append(f"{event} {name if kept else os.path.splitext(name)[1]}")
            if len(changes) == job["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)

    if job["argv"] is None:
        sys.addaudithook(watch)
    try:
        if job["argv"] is not None:
            return verb(job)
        with penstock.terminal.Terminal() as terminal:
            result = penstock.run.run(
                Recipe.load(job["recipe"]), out=job["out"], workers=job["workers"], reporter=terminal,
                split_bytes=20_000, report=False,
            )
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr, flush=True)
        return 1
    except BaseException:
        traceback.print_exc()
        return 3
    seconds = sum(r.seconds for r in result.steps if r.step.name == job["step"])
    with open(job["log"] + ".json", "w") as file:
        json.dump({"changes": changes, "seconds": seconds}, file)
    return 0

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = child(json.loads(line))
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def alive(session):
    """Processes of a session that still run; those that ended and were not collected do not count."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(session):
    found = []
    for process in alive(session):
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def until(condition, *, why, seconds=60.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(why() if callable(why) else why)
        time.sleep(0.002)
    return value


class Nursery:
    """Starts runs and waits for them; ``last`` is the session of the latest."""

    def __init__(self, folder):
        self.log = folder / "log"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )

    def start(self, recipe, out, step, *, workers=0, kill_at=0):
        return self._start(recipe=str(recipe), out=str(out), step=step, workers=workers, kill_at=kill_at, argv=None)

    def start_verb(self, *argv, setup=""):
        """Start ``penstock VERB …``; ``setup`` is code that the child runs first."""
        return self._start(argv=list(map(str, argv)), setup=setup, out="", step="", kill_at=0)

    def verb(self, *argv, setup=""):
        """Run ``penstock VERB …`` to its end: the exit code; ``said()`` is what it printed."""
        self.start_verb(*argv, setup=setup)
        return self.wait()

    def _start(self, **job):
        self.log.unlink(missing_ok=True)
        self._process.stdin.write(json.dumps({**job, "log": str(self.log)}) + "\n")
        self._process.stdin.flush()
        self.last = int(self._process.stdout.readline())
        return self.last

    def wait(self):
        return int(self._process.stdout.readline())

    def run(self, *args, **options):
        self.start(*args, **options)
        return self.wait()

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def processes():
    """What looks at the processes of a session: ``alive``, ``workers_of`` and ``until``."""
    return SimpleNamespace(alive=alive, workers_of=workers_of, until=until)


@pytest.fixture
def draw(request):
    """A generator whose seed is printed; ``--faults-seed`` repeats one."""
    seed = request.config.getoption("--faults-seed") or random.SystemRandom().getrandbits(32)
    print(f"--faults-seed={seed}")
    return random.Random(f"{seed} {request.node.name}")


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────

REWARD = "def odd(text, problem):\n    return float(len(text) % 2)\n"
LEARN = {
    "objective": "grpo", "steps": 4, "groups_per_step": 4, "rollouts": 4, "max_new_tokens": 8, "eval_every": 2,
    "eval_problems": 4, "eval_samples": 2, "eval_ks": [1, 2], "checkpoint_every": 2, "device": "cpu", "threads": 1,
    "reward": "faults_reward:odd", "held_out": 0.2, "instruction": "",
}  # fmt: skip


WORDS = "find the greatest common divisor gcd least multiple lcm of these numbers give final answer as your only and"


def write_embedder(folder):
    """A static table with a vector for each word and number of the generated problems."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["[UNK]", "[PAD]", *WORDS.split(), *map(str, range(1000))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]"])
    folder.mkdir()
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))


@pytest.fixture(scope="session")
def given(finished, tmp_path_factory):
    """What the verbs read: recipes, problems, a published dataset, an embedder."""
    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("given")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    rows = [
        {"q": f"Tom has {n} pencils and buys {n + 3} more pencils. How many pencils does Tom have?", "a": 2 * n + 3}
        for n in range(20, 60)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        {
            "problem_id": f"p{n}", "group_id": f"p{n}", "sub_index": 0, "transform": None, "variant": "original",
            "prompt": f"the river of {n} gates", "answer": str(n),
        }
        for n in range(30)
    ]  # fmt: skip
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    learn = yaml.safe_load(recipe.to_yaml()) | {"name": "learn", "rounds": 1}
    learn["group_rl"] = LEARN | {"model": str(base / "run" / "model-1"), "problems": str(folder / "asked.jsonl")}
    (folder / "learn.yaml").write_text(yaml.safe_dump(learn))
    (folder / "faults_reward.py").write_text(REWARD)
    write_embedder(folder / "embedder")
    wanted = (base / "corpus" / "rivers.jsonl").read_text().splitlines(keepends=True)[:4]
    (folder / "wanted.jsonl").write_text("".join(wanted))
    return SimpleNamespace(
        recipe=folder / "recipe.yaml", learn=folder / "learn.yaml", problems=folder / "problems.jsonl",
        published=base / "run" / "dataset-1", embedder=folder / "embedder", wanted=folder / "wanted.jsonl",
        run=base / "run", corpus=base / "corpus",
        setup=f"import sys; sys.path.insert(0, {str(folder)!r})",
    )  # fmt: skip


VERBS = {
    "build": lambda g, at: ("build", g.recipe, "--out", at / "out", "--workers", 1, "--split-mb", 0.02),
    "run": lambda g, at: ("run", "--plain", g.recipe, "--out", at / "out", "--workers", 0, "--split-mb", 0.02),
    "train": lambda g, at: ("train", g.recipe, "--out", at / "out", "--workers", 0, "--split-mb", 0.02),
    "generate": lambda g, at: (
        *("generate", "--out", at / "out", "--count", 60, "--family", "gcd", "--family", "lcm"),
        *("--set", f"embed.model.path={g.embedder}", "--set", "voyage.sample=40", "--store", at / "store"),
    ),
    "transform": lambda g, at: (
        *("transform", g.problems, "--question", "q", "--answer", "a", "--out", at / "out", "--workers", 1),
        *("--kinds", "rename,background", "--store", at / "store", "--export", "verl", at / "rows.parquet"),
    ),
    "push": lambda g, at: ("push", g.published, at / "out"),
    "select": lambda g, at: (
        *("select", g.run, "--target", g.wanted, "--out", at / "out", "--count", 20),
        *("--workers", 1, "--split-mb", 0.02),
    ),
    "score": lambda g, at: (
        *("score", g.corpus / "letters.jsonl", "--model", g.run, "--out", at / "out"),
        *("--device", "cpu", "--texts-per-split", 20, "--max-tokens", 32),
    ),
    "tokenizer": lambda g, at: (
        *("tokenizer", "train", g.corpus / "rivers.jsonl", g.corpus / "letters.jsonl", "--out", at / "out"),
        *("--vocabulary-size", 600),
    ),
    "learn": lambda g, at: ("train", g.learn, "--objective", "grpo", "--out", at / "out"),
}  # fmt: skip

# facts of a machine or of a moment, and the receipts that are kept for the next build
VOLATILE = re.compile(
    r"timings\.jsonl?$|\.lock$|\.holder\.json$|\.fingerprints\.json$|logs/|report\.html$|\.report\.json$|record\.json$"
    r"|passes\.json\.zst$|^store"
)


# in the name of a part, its split's (which holds the names of the parent's parts) and its attempt's
_ATTEMPT = re.compile(rb"(?<=/\d{5})-[0-9a-f]{10}(\.[0-9a-f]{8})?(?=\.)")


def contents(place):
    """Every file that a verb made by name, without what is volatile; the names of parts say nothing of attempts."""
    found = {}
    for path in sorted(place.rglob("*")):
        name, data = str(path.relative_to(place)), path.read_bytes() if path.is_file() else b""
        if path.is_dir() or VOLATILE.search(name):
            continue
        if path.name == "manifest.json" and b'"passes"' in data:
            manifest = json.loads(data)
            manifest.pop("passes")
            data = _ATTEMPT.sub(b"", json.dumps(manifest).encode())
        found[_ATTEMPT.sub(b"", name.encode()).decode()] = data
    return found


def account(verb, place):
    """Every dataset is whole: its files as the manifest says and no others, its rows all kept or dropped."""
    if verb == "tokenizer":
        return  # a folder of files, whose bytes say all
    for dataset in datasets_below(Folder(str(place / "out"))) or [Dataset(str(place / "out"))]:
        dataset.verify()
        assert dataset.manifest.counts.balances
        named = named_files(dataset.folder, dataset.manifest) | {"manifest.json", "README.md", "croissant.json"}
        strays = {name for name in dataset.folder.files() if name not in named}
        assert not {name for name in strays if not re.search(r"/run/|^\.lock$|^\.holder\.json$", name)}


@pytest.fixture(scope="session")
def verbs(given, nursery, tmp_path_factory):
    """``verbs.run(verb, at)`` and others: commands over the same inputs, and what an undisturbed one makes."""
    known = {}

    def undisturbed(verb):
        """(contents, seconds) of a verb that is left alone."""
        if verb not in known:
            at = tmp_path_factory.mktemp(verb)
            began = time.monotonic()
            assert run(verb, at) == 0, nursery.said()
            seconds = time.monotonic() - began
            account(verb, at)
            known[verb] = contents(at), seconds
        return known[verb]

    def start(verb, at, setup=""):
        return nursery.start_verb(*VERBS[verb](given, at), setup=f"{given.setup}\n{setup}")

    def run(verb, at, setup=""):
        return nursery.verb(*VERBS[verb](given, at), setup=f"{given.setup}\n{setup}")

    def compare(verb, at):
        """What was made is whole, accounted for, and in the bytes of the verb that was left alone."""
        account(verb, at)
        expected, found = undisturbed(verb)[0], contents(at)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []

    return SimpleNamespace(start=start, run=run, undisturbed=undisturbed, compare=compare)
