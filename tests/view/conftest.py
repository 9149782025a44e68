"""A run to look at: tables of its steps written down, with duplicates, drops, scores, a map and hostile text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock import schema
from penstock.seeding import stream

ATTACK = (
    "</pre></mark></style></title><script>document.title='owned';fetch('http://example.com/owned')</script>"
    "<img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\"></svg>"
    "<a href=\"javascript:document.title='owned'\">link</a> &lt;script&gt; \x1b[31m \u202eexe.txt"
)
WORDS = "river gate pipe turbine flow pressure water copper iron bridge engine wheel garden window letter paper".split()  # noqa: SIM905
DOMAINS = ("rivers", "machines", ATTACK)


def texts(count: int) -> list[str]:
    """Seeded texts; number 7 alone has the word ``zymurgy``, number 3 holds the attack."""
    rng = stream(0, "view texts")
    out = [" ".join(rng.choice(WORDS, 30)) + f" number{i}" for i in range(count)]
    out[7] += " zymurgy"
    out[3] += " " + ATTACK
    return out


@pytest.fixture(scope="session")
def seen(tmp_path_factory: pytest.TempPathFactory, commit_rows: Any) -> SimpleNamespace:
    """``root`` of a run with the steps documents, deduplicated, groups and dataset-1, and what was put into them."""
    root = tmp_path_factory.mktemp("view") / "run"
    made = texts(60)
    ids = [f"file.txt#{i}" for i in range(60)]
    ids[3] = f"{ATTACK}#3"
    made[41] = made[40]
    made[42] = made[40].replace("number40", "number forty")
    domain = [DOMAINS[i % 3] for i in range(60)]
    quality = [i / 59 if i % 5 else None for i in range(60)]

    def documents(rows: list[int], **more: Any) -> pa.RecordBatch:
        columns = {
            "doc_id": [ids[i] for i in rows],
            "text": [made[i] for i in rows],
            "source": ["files"] * len(rows),
            "domain": [domain[i] for i in rows],
            "url": [f"https://example.org/{i}" for i in rows],
            "title": [ATTACK if i == 3 else f"title {i}" for i in rows],
        }
        return pa.RecordBatch.from_pydict(columns | more)

    def dropped(rows: list[tuple[str, str, str, str | None, str]]) -> pa.RecordBatch:
        columns = list(zip(*rows, strict=True))
        names, step, reason, detail, text = (list(c) for c in columns)
        count = len(rows)
        values = [names, step, reason, ["files"] * count, ["rivers"] * count, detail, text]
        return pa.RecordBatch.from_arrays([pa.array(v, pa.string()) for v in values], schema=schema.DROPPED)

    kept = [i for i in range(60) if i not in (41, 42)]
    first = dropped(
        [
            ("file.txt#60", "read", "invalid_json", "byte 7", "{not json"),
            ("file.txt#61", "gopher", ATTACK, None, "short"),
            *((f"file.txt#{n}", "gopher", "too_few_words", None, f"short {n}") for n in range(62, 66)),
        ]
    )
    commit_rows(root, "documents", {"documents": [documents(list(range(60)))], "dropped": [first]})
    members = pa.RecordBatch.from_pydict(
        {
            "doc_id": [ids[40], ids[41], ids[42]],
            "cluster": [ids[40]] * 3,
            "kind": ["survivor", "exact", "near"],
            "cluster_size": pa.array([3] * 3, pa.int64()),
        }
    )
    gone = dropped(
        [
            (ids[41], "exact_duplicates", "exact_duplicate", ids[40], made[41][:40]),
            (ids[42], "near_duplicates", "near_duplicate", ids[40], made[42][:40]),
        ]
    )
    commit_rows(root, "deduplicated", {"documents": [documents(kept)], "dropped": [gone], "clusters": [members]})
    at = stream(0, "view map").normal(size=(len(kept), 2)).astype(np.float32)
    points = pa.RecordBatch.from_pydict(
        {
            "doc_id": [ids[i] for i in kept],
            "domain": [domain[i] for i in kept],
            "group": [ATTACK if i == 3 else "g" for i in kept],
            "x": at[:, 0],
            "y": at[:, 1],
        }
    )
    commit_rows(root, "groups", {"map": [points]})

    def split(rows: list[int]) -> pa.RecordBatch:
        scores = {"score.quality": pa.array([quality[i] for i in rows], pa.float32())}
        return documents(rows, copies=pa.array([1 + i % 2 for i in rows], pa.int32()), **scores)

    splits = {"train": [i for i in kept if i % 4], "validation": [i for i in kept if not i % 4]}
    commit_rows(root, "dataset-1", {name: [split(rows)] for name, rows in splits.items()})
    drops = {
        "documents": {"source.files": {"invalid_json": 1}, "gopher": {ATTACK: 1, "too_few_words": 4}},
        "deduplicated": {"exact_duplicates": {"exact_duplicate": 1}, "near_duplicates": {"near_duplicate": 1}},
    }
    parents: dict[str, str | None] = {
        "documents": None, "deduplicated": "documents", "groups": "deduplicated", "dataset-1": "deduplicated",
    }  # fmt: skip
    digests = {}
    for name, parent in parents.items():  # what the steps of a recipe say of themselves
        file = root / name / "manifest.json"
        manifest = json.loads(file.read_text())
        digests[name] = manifest["digest"]
        manifest["parents"] = {} if parent is None else {parent: {"digest": digests[parent]}}
        counts = {"documents": (66, 60), "deduplicated": (60, 58)}.get(name)
        if counts is not None:
            manifest["counts"] |= {"rows_in": counts[0], "kept": counts[1], "dropped": drops[name]}
        file.write_text(json.dumps(manifest))
    return SimpleNamespace(
        root=str(root), ids=ids, texts=made, domains=domain, quality=quality, kept=kept, splits=splits, drops=drops
    )


@pytest.fixture(scope="session")
def attack() -> str:
    """Text that runs as a script where nothing stops it, and that asks another host."""
    return ATTACK


@pytest.fixture
def indexed(tmp_path: Any) -> Any:
    """``with indexed(corpus, sample) as (taken, index)``."""
    from penstock.view.index import Index

    @contextmanager
    def make(corpus: Any, most: int = 1000) -> Iterator[Any]:
        taken, rows = corpus.sample(most)
        index = Index(tmp_path, rows)
        try:
            yield taken, index
        finally:
            index.close()

    return make
