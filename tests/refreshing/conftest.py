"""Three rounds on a tiny corpus, and some that were killed: made once, read by the tests."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from penstock.recipe import Recipe

RECIPE = """
name: fresh
seed: 3
source:
  files: [{{path: '{corpus}/*.jsonl', columns: {{domain: domain}}}}]
filters: {{exempt: [generated]}}
generate:
  procedural: {{families: [gcd, lcm]}}
  voyage: {{count: 12, sample: 12, batch: 6, patience: 2, rounds: 6}}
embed: {{model: {{path: '{embedder}'}}}}
splits: {{validation: 0.15, test: 0.05}}
tokenizer: {{vocabulary_size: 512, sample_mb: 1}}
select: {{criteria: {{language: {{}}}}, omega: 0.7, lam: 10, eps: 0.2}}
sequences: {{length: 64}}
train:
  steps: 12
  batch_size: 4
  eval_every: 12
  checkpoint_every: 4
  warmup_steps: 2
  eval_sequences: 2
  threads: 1
  tensorboard: false
  model: {{hidden_size: 32, layers: 1, heads: 1, kv_heads: 1, ffn_size: 64}}
refresh:
  train: {{steps: 8}}
  coverage: {{documents: 60, anchors: 12}}
  push_to: '{pushed}'
"""

SPLIT_BYTES = 60_000  # about a file

# runs the command, and kills itself at the N-th change below a folder
KILLED = """
import os, signal, sys
inside, at, seen = sys.argv.pop(1), int(sys.argv.pop(1)), []
def watch(event, args):
    if event == "open":
        writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    else:
        writes = event in ("os.rename", "os.remove", "os.link")
    if writes and any(str(path).startswith(inside) for path in args[:2]):
        seen.append(event)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
sys.argv[0] = "penstock"
from penstock.cli import main
main()
"""

WORDS = (  # noqa: SIM905
    "the of and to in that with have river water gate pipe turbine flow pressure model data token language learn train "
    "select copy merge rank score sample hash split part mountain valley bridge engine wheel copper iron winter summer "
    "morning evening garden window letter paper find greatest common divisor gcd least multiple lcm these numbers give "
    "final answer as your only"
).split()


def write_embedder(folder):
    """A static table with a vector for each word and number of the corpus and of the problems."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["[UNK]", "[PAD]", *dict.fromkeys(WORDS), *map(str, range(1000))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]"])
    folder.mkdir()
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))


def write_file(path, domain, documents, seed):
    """Documents of a domain's own words, long enough for the filters."""
    rng = random.Random(f"{domain} {seed}")
    own = WORDS[:8] + rng.sample(WORDS[8:50], 20)
    with path.open("w") as file:
        for _ in range(documents):
            sentences = [" ".join(rng.choices(own, k=rng.randint(6, 14))).capitalize() + "." for _ in range(14)]
            file.write(json.dumps({"text": " ".join(sentences), "domain": domain}) + "\n")


@pytest.fixture(scope="session")
def kill(request):
    """``kill(seed, recipe, out, round)``: start a round in a process and kill it in a step drawn by the seed."""
    given = request.config.getoption("--faults-seed")
    steps = ("documents", "coverage", "generated", "scored", "before-model", "model-1", "comparison", "dataset-1")

    def start(number, recipe, out, round_):
        seed = (random.SystemRandom().getrandbits(32) if given is None else given) + number
        print(f"--faults-seed={seed - number}")
        draw = random.Random(seed)
        step, at = draw.choice(steps), draw.randint(1, 3)
        command = [sys.executable, "-c", KILLED, f"{out}/{round_}/{step}/", str(at)]
        split = str(SPLIT_BYTES / (1 << 20))
        arguments = ["refresh", str(recipe), "--out", str(out), "--workers", "0", "--split-mb", split]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == -signal.SIGKILL, (step, at, done.stderr[-2000:])
        return step, at

    return start


@pytest.fixture(scope="session")
def rounds(request, tmp_path_factory, kill):
    """What three rounds and the calls between them did; ``killed`` are folders that were killed in round 3 and ended.

    Kills at random places, as many as ``--faults`` says.
    """
    from penstock.refreshing import refresh

    base = tmp_path_factory.mktemp("rounds")
    corpus, out, file = base / "corpus", base / "out", base / "recipe.yaml"
    corpus.mkdir()
    for domain in ("rivers", "machines", "letters"):
        write_file(corpus / f"{domain}.jsonl", domain, 40, 0)
    write_embedder(base / "embedder")
    recipe = Recipe.parse(RECIPE.format(corpus=corpus, embedder=base / "embedder", pushed=base / "pushed"))
    file.write_text(recipe.to_yaml())

    def call(*overrides, out=out, report=False):
        given = Recipe.parse(recipe.to_yaml(), overrides)
        return refresh(given, out=str(out), workers=0, split_bytes=SPLIT_BYTES, report=report)

    def sent():
        return json.loads((base / "pushed" / "manifest.json").read_text())["digest"]

    done, pushed = {"first": call(), "nothing new": call()}, [sent()]
    write_file(corpus / "bridges.jsonl", "bridges", 40, 0)
    done["rejected"] = call("refresh.accept.tolerance=-9")
    done["nothing new after it"] = call("refresh.accept.tolerance=-9")
    pushed.append(sent())
    (corpus / "letters.jsonl").unlink()
    killed = []
    for number in range(request.config.getoption("--faults")):
        copy = base / f"killed-{number}"
        shutil.copytree(out, copy, ignore=shutil.ignore_patterns(".lock", ".holder.json"))
        where = kill(number, file, copy, "round-0003")
        killed.append(SimpleNamespace(out=copy, where=where, before=(copy / "rounds.json").read_bytes()))
    done["accepted"] = call(report=True)
    pushed.append(sent())
    record = (out / "rounds.json").read_bytes()
    for one in killed:
        call(out=one.out)
        one.after = (one.out / "rounds.json").read_bytes()
    return SimpleNamespace(
        base=base, out=out, recipe=recipe, file=file, done=done, pushed=pushed, killed=killed, call=call, record=record
    )  # fmt: skip
