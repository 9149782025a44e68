"""Tiny packed sequences: documents of seeded tokens, written as the sequence files training reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from penstock import schema
from penstock.seeding import stream
from penstock.training.config import ModelConfig, TrainConfig, TrainData

Rows = list[list[tuple[str, list[int]]]]  # sequences of segments (document, tokens)


def write_sequences(
    path: Path,
    rows: Rows,
    *,
    length: int,
    domain: str = "d",
    kind: pa.DataType | None = None,
    batch: int | None = None,
    masks: list[list[int] | None] | None = None,
) -> Path:
    """Write packed rows as one sequence file, padded with 0, in record batches of ``batch`` rows.

    ``masks`` are the learned runs of each row, None is all of it.
    """
    kind = kind or pa.uint16()
    tokens = [[t for _, segment in row for t in segment] for row in rows]
    padded = pa.array([t for row in tokens for t in row + [0] * (length - len(row))], kind)
    table_schema = schema.sequences(length, kind)
    columns = [
        pa.FixedSizeListArray.from_arrays(padded, type=table_schema.field("tokens").type),
        pa.array([[len(segment) for _, segment in row] for row in rows], pa.list_(pa.int32())),
        pa.array([[name for name, _ in row] for row in rows], pa.list_(pa.string())),
        pa.array([domain] * len(rows), pa.string()),
        pa.array(masks or [None] * len(rows), pa.list_(pa.int32())),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_file(str(path), table_schema) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=table_schema), max_chunksize=batch)
    return path


def random_rows(domain: str, count: int, *, length: int, vocabulary: int, seed: int = 0) -> Rows:
    """Rows of one to four segments, some with padding; tokens step by three, so they can be learned."""
    rng = stream(seed, "rows", domain)
    rows: Rows = []
    for i in range(count):
        cuts = sorted(set(rng.integers(2, length + 1, size=rng.integers(1, 5)).tolist()))
        row, at = [], 0
        for j, cut in enumerate(cuts):
            if cut - at >= 1:
                start = int(rng.integers(1, vocabulary))
                row.append((f"{domain}/{i}.{j}", [1 + (start + 3 * k) % (vocabulary - 1) for k in range(cut - at)]))
            at = cut
        rows.append(row)
    return rows


@pytest.fixture
def packed() -> SimpleNamespace:
    """The helpers above: test files cannot import each other."""
    return SimpleNamespace(write=write_sequences, random=random_rows)


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    """A word-level tokenizer of 32 tokens; 0 pads, 1 ends a document."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 32)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def tiny_data(tmp_path: Path, tokenizer_file: Path) -> TrainData:
    """Two training domains and two validation domains of 16-token sequences over 32 token ids."""

    def files(split: str, domain: str, count: int, seed: int) -> list[str]:
        rows = random_rows(domain, count, length=16, vocabulary=32, seed=seed)
        return [str(write_sequences(tmp_path / split / f"{domain}.arrow", rows, length=16, domain=domain))]

    return TrainData(
        train={"code": files("train", "code", 30, 1), "web": files("train", "web", 50, 1)},
        validation={"code": files("validation", "code", 5, 2), "web": files("validation", "web", 7, 2)},
        tokenizer_file=tokenizer_file,
        fingerprint="f00d",
        vocab_size=32,
        pad_id=0,
        eos_id=1,
    )


@pytest.fixture
def tiny_config() -> Callable[..., TrainConfig]:
    """A run of ten steps of a 7 k parameter model; keyword arguments replace its parameters."""

    def make(**changes: Any) -> TrainConfig:
        model = ModelConfig(hidden_size=16, layers=2, heads=2, kv_heads=1, ffn_size=32)
        given: dict[str, Any] = {
            "steps": 10, "model": model, "batch_size": 6, "micro_batch_size": 4, "mixture": {"code": 1.0, "web": 2.0},
            "mixture_block": 12, "warmup_steps": 2, "eval_every": 4, "checkpoint_every": 3, "signals_every": 2,
            "device": "cpu", "threads": 1, "tensorboard": False,
        }  # fmt: skip
        return TrainConfig(**(given | changes))

    return make
