"""pytest tests/test_export.py"""

from __future__ import annotations

import pytest

from penstock.dataset import Dataset
from penstock.errors import ConfigError
from penstock.export import export_sequences
from penstock.training.megatron import documents_of, open_megatron


def test_a_run_is_exported_with_all_its_tokens(finished, tmp_path):
    root = finished[0] / "run"
    written = export_sequences(str(root), tmp_path / "out" / "m")
    counted = Dataset(str(root / "sequences-1")).manifest.stats["tokens"]["train"]
    assert {files.domain: files.tokens for files in written} == {d: of["packed"] for d, of in counted.items()}
    for files in written:
        assert sum(len(document) for document in documents_of(files.prefix)) == files.tokens
    store = open_megatron({files.domain: [files.prefix] for files in written}, length=64)
    assert sum(store.tokens) == sum(files.tokens for files in written)


def test_a_step_and_another_split_can_be_named(finished, tmp_path):
    written = export_sequences(str(finished[0] / "run" / "sequences-2"), tmp_path / "v", split="validation")
    assert {files.domain for files in written} == {"letters", "machines", "rivers"}


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("run", "dev", "split: got 'dev', allowed test, train, validation"),
        ("run/dataset-1", "train", "no packed sequences; give the folder of a step sequences-N"),
        ("corpus", "train", "no packed sequences"),
    ],
)
def test_what_cannot_be_exported_is_said(finished, tmp_path, source, split, message):
    with pytest.raises(ConfigError, match=message):
        export_sequences(str(finished[0] / source), tmp_path / "x", split=split)
