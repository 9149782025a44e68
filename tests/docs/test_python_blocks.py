"""Every Python block of the pages runs as it is printed, in the order of its page, and names go on to the next.

What a page calls the reader's own (a model, a store, a batch) is given by ``OWN``. Pages with a test of their own that
runs all of their blocks and looks closer at the outcome are named by ``ELSEWHERE``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reference.blocks import ROOT, blocks_of, pages

ELSEWHERE = {
    "docs/adapters.md": "tests/training/test_five_lines.py",
    "docs/language_models.md": "tests/generators/test_language_model_docs.py",
    "docs/loader.md": "tests/training/test_loader_docs.py",
    "docs/mixing.md": "tests/training/mixing/test_mixing_docs.py",
    "docs/weighting.md": "tests/training/test_weighting_docs.py",
}
TEXTS = [
    "the gate of the river lets the water in",
    "the wheel turns the stone and the stone turns the grain",
    "a letter from the mill tells of the gate and of the wheel",
    "the water of the river turns the wheel of the mill",
]
PROBLEMS = [
    {
        "problem_id": f"{a}+{b}" if number == 0 else f"{a}+{b}~order",
        "group_id": f"{a}+{b}",
        "sub_index": number,
        "group_size": 2,
        "transform": None if number == 0 else "order",
        "variant": "original" if number == 0 else "rule",
        "prompt": f"What is {a} plus {b}?" if number == 0 else f"What is {b} plus {a}?",
        "answer": str(a + b),
    }
    for a in range(2, 6)
    for b in range(6, 8)
    for number in range(2)
]
Names = dict[str, Any]
Commit = Callable[..., Any]


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"doc_id": [f"t#{n}" for n in range(len(texts))], "text": texts})


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bytelevel(_: Commit) -> Names:
    import hashlib

    from penstock.tokenization.bytelevel import ByteModel

    small = ByteModel.load("models/small")
    files = {name: f"models/{name}/tokenizer.json" for name in ("small", "code")}
    digests = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items()}
    return {
        "other": small, "base": small, "expert": small, "anti": small, "batch": batch_of(TEXTS),
        "a": files["small"], "of_a": digests["small"], "b": files["code"], "of_b": digests["code"],
    }  # fmt: skip


def diversity(_: Commit) -> Names:
    rows = unit_rows(300)
    return {
        "np": np, "embeddings": rows, "candidates": unit_rows(20, 1), "seed": 0,
        "standardised_score": np.random.default_rng(2).normal(size=300),
    }  # fmt: skip


def dynamic(_: Commit) -> Names:
    import hashlib

    content = Path("models/small/tokenizer.json").read_bytes()
    Path("tokenizer.json").write_bytes(content)
    Path("data").mkdir()
    Path("data/a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 20))
    table = pa.Table.from_batches([batch_of(TEXTS * 3)])
    return {"texts": TEXTS, "sha256": hashlib.sha256(content).hexdigest(), "table": table, "batches": [TEXTS] * 2,
            "extra": [b" of the mill"]}  # fmt: skip


def prompts(_: Commit) -> Names:
    class Embedder:
        identity: dict[str, Any] = {"kind": "none"}

    return {"texts": TEXTS, "embedder": Embedder()}


def group_rl(commit: Commit) -> Names:
    commit("runs/problems", "transformed", {"problems": [pa.RecordBatch.from_pylist(PROBLEMS)]})
    return {}


def quadmix(_: Commit) -> Names:
    from penstock.selectors.quadmix_theta import Criterion

    rng, rows = np.random.default_rng(0), 600
    table = pa.table(
        {
            "domain": [("books", "code", "web")[n % 3] for n in range(rows)],
            "split": ["train"] * rows,
            "tokens": rng.integers(50_000, 200_000, rows),
            "id_hash": rng.integers(0, 2**63, rows).astype(np.uint64),
            "score.quality": rng.random(rows).astype(np.float32),
        }
    )
    return {
        "criteria": (Criterion(column="score.quality", direction="higher"),),
        "table": table,
        "my_small_model": lambda copies, seed: float(abs(np.asarray(copies).mean() - 1.5)),
    }


def selection(_: Commit) -> Names:
    target = pa.table({"doc_id": ["w#0"], "text": ["the gate of the river"]})
    return {"pa": pa, "target": target, "batches": [batch_of(TEXTS * 10)], "batch": batch_of(TEXTS * 10)}


def tokenizers(_: Commit) -> Names:
    import torch
    from transformers import AutoModelForCausalLM

    Path("small").mkdir()
    np.save("small/old_ids.npy", np.arange(100))
    return {"np": np, "torch": torch, "model": AutoModelForCausalLM.from_pretrained("models/small")}


def training(_: Commit) -> Names:
    from penstock import Dataset
    from penstock.pipelines.sequences import files_by_domain
    from penstock.training import ModelConfig, TrainData

    packed = Dataset("runs/quickstart/sequences-1")
    domains = packed.manifest.stats["domains"]
    files = {
        split: {
            domain: [packed.folder.join(path) for path in paths]
            for domain, paths in files_by_domain(packed.manifest.tables, domains, split).items()
        }
        for split in ("train", "validation")
    }
    tiny = ModelConfig(hidden_size=32, layers=1, heads=1, kv_heads=1, ffn_size=64)
    data = TrainData(
        train=files["train"], validation=files["validation"], tokenizer_file="models/small/tokenizer.json",
        fingerprint=packed.digest, vocab_size=512,
    )  # fmt: skip
    return {"data": data, "tiny": tiny}


def verification(commit: Commit) -> Names:
    commit("variants", "transformed", {"problems": [pa.RecordBatch.from_pylist(PROBLEMS)]})
    return {}


OWN: dict[str, Callable[[Commit], Names]] = {
    "docs/bytelevel.md": bytelevel,
    "docs/diversity.md": diversity,
    "docs/dynamic.md": dynamic,
    "docs/group_rl.md": group_rl,
    "docs/prompts.md": prompts,
    "docs/quadmix.md": quadmix,
    "docs/scoring.md": lambda _: {"batch": batch_of(TEXTS)},
    "docs/selection.md": selection,
    "docs/tokenizers.md": tokenizers,
    "docs/training.md": training,
    "docs/verification.md": verification,
}
HERE = [page for page in pages() if page not in ELSEWHERE and any(b.language == "python" for b in blocks_of(page))]


@pytest.mark.parametrize("page", HERE)
def test_the_blocks_of_a_page_run_in_its_order(page, world, commit_rows, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    known = set(sys.modules)
    module = ModuleType("page")  # dataclasses look for the module of a class
    monkeypatch.setitem(sys.modules, "page", module)
    names = module.__dict__
    names |= OWN[page](commit_rows) if page in OWN else {}
    try:
        for block in blocks_of(page):
            if block.language != "python" or "not run" in block.marks:
                continue
            if (file := block.marks.get("saved as")) is not None:
                Path(file).write_text(block.code)
                continue  # later blocks import it
            # blank lines before the code, so that an error names the line of the page
            code = compile("\n" * (block.line - 1) + block.runnable, str(ROOT / page), "exec")
            exec(code, names)  # noqa: S102 - the page's own code
    finally:
        for name in set(sys.modules) - known:  # files of one page are not those of the next
            if _is_of(name, world):
                del sys.modules[name]


def _is_of(module: str, folder: Path) -> bool:
    file = getattr(sys.modules[module], "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_pages_with_a_test_of_their_own_are_run_by_it(page, test):
    text = (ROOT / test).read_text()
    assert re.search(rf'"{Path(page).name}"', text), "it reads the page"
    assert "```python" in text, "it takes the blocks"
    assert re.search(r"\bexec\(|run_path|subprocess\.run", text), "it runs them"
