"""Operations per token by hand, peaks by name, and the MFU that follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.training.config import ModelConfig, TrainConfig, TrainData
from penstock.training.loop import train
from penstock.training.model import build_model
from penstock.training.throughput import flops_per_token, multiplying_parameters, peak_flops


def test_operations_of_a_token_by_hand() -> None:
    """Hidden 32, two layers, four heads of 8, two of keys; feed-forward 64; 50 tokens; length 12."""
    shape = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 64}
    attention, feed_forward, norms = 32 * 32 + 2 * 32 * 16 + 32 * 32, 3 * 32 * 64, 2 * 32
    body = 2 * (attention + feed_forward + norms) + 32
    for tied in (True, False):
        model = build_model(ModelConfig(**shape, tie_embeddings=tied), vocab_size=50, length=12, seed=0)  # type: ignore[arg-type]
        # the head multiplies once, whether or not its table is the embedding's as well
        assert multiplying_parameters(model) == body + 50 * 32
        assert flops_per_token(model, 12) == 6 * (body + 50 * 32) + 12 * 2 * 4 * 8 * 12


@pytest.mark.parametrize(
    ("name", "bfloat16", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989.4),
        ("NVIDIA H100 80GB HBM3", False, 66.9),
        ("NVIDIA H100 PCIe", True, 756.5),
        ("NVIDIA H200", True, 989.4),
        ("NVIDIA A100-SXM4-80GB", True, 312.0),
        ("Tesla T4", True, None),
    ],
)
def test_peaks_go_by_the_name_of_the_device(
    name: str, bfloat16: bool, teraflops: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = peak_flops(torch.device("cuda"), bfloat16=bfloat16, peak_tflops=None)
    assert found == (None if teraflops is None else pytest.approx(teraflops * 1e12))
    assert peak_flops(torch.device("cuda"), bfloat16=bfloat16, peak_tflops=2.5) == 2.5e12


def test_timings_tell_the_mfu_where_the_peak_is_known(
    tiny_config: Callable[..., TrainConfig], tiny_data: TrainData, tmp_path: Path
) -> None:
    found: list[list[dict[str, Any]]] = []
    for peak in (None, 0.001):
        result = train(tiny_config(steps=3, peak_tflops=peak), tiny_data, tmp_path / str(peak), progress=False)
        lines = result.metrics.with_name("timings.jsonl").read_text().splitlines()
        found.append([json.loads(line) for line in lines])
    assert [timing["mfu"] for timing in found[0]] == [None] * 3
    model = build_model(tiny_config().model, vocab_size=32, length=16, seed=0)
    for timing in found[1]:
        # tokens with a loss are fewer than those the model reads, by one a segment
        least = timing["tokens_per_second"] * flops_per_token(model, 16) / 1e9
        assert least < timing["mfu"] < 2 * least
        assert 0 <= timing["loader_share"] <= 1
        assert timing["loader_seconds"] <= timing["seconds"]
