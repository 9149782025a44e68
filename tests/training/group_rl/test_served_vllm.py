"""Learning from the answers of a real vLLM server, asked by prompts and as a chat."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock.generators.endpoint import ChatEndpoint
from penstock.generators.served import VLLMServer
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.loop import learn
from penstock.training.group_rl.problems import ProblemTable

PYTHON = Path(__file__).parents[3] / ".venv-vllm" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv-vllm is not there; run: make vllm"),
]
ARGUMENTS = (("max_model_len", 64), ("enforce_eager", True), ("dtype", "float32"), ("gpu_memory_utilization", 0.1))


@pytest.fixture
def folder(half_right: Path, tmp_path: Path) -> Path:
    """A model with heads of a width that vLLM takes, and random weights whose distributions are far from even."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path / "small"
    shutil.copytree(half_right, made)
    settings: Any = LlamaConfig(
        vocab_size=20, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(settings)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3.0)
    model.save_pretrained(made)
    (made / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return made


@pytest.mark.filterwarnings("ignore:the policy learns from answers that another one gave:UserWarning")
def test_what_vllm_tells_of_its_tokens_is_what_the_policy_says_of_them(
    folder: Path, sums: ProblemTable, settings: Callable[..., GroupRLConfig], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    module: Any = ModuleType("made_rewards")
    module.odd = lambda text, problem: float(len(text) % 2)
    monkeypatch.setitem(sys.modules, "made_rewards", module)
    without = tmp_path / "without"
    shutil.copytree(folder, without)
    (without / "chat_template.jinja").unlink()
    with VLLMServer(str(folder), arguments=ARGUMENTS) as server:
        model = ChatEndpoint(url=server.url, model=server.name)
        for start in (folder, without):  # asked as a chat, and by prompts
            config = settings(steps=2, objective="grpo", rollouts=6, reward="made_rewards:odd")
            result = learn(config, start, sums, tmp_path / f"{start.name}-run", rollouts_from=model, progress=False)
            first, second = (json.loads(line) for line in result.metrics.read_text().splitlines())
            assert "lost" not in first
            assert first["answers"] == 4 * 3 * 6
            assert first["cut"] < 1  # the token that ends an answer is told as well
            assert first["ratio"] == pytest.approx(1.0, abs=1e-4)
            assert first["approx_kl"] == pytest.approx(0.0, abs=1e-7)
            assert second["behind"] == 1
            assert second["approx_kl"] > 1e-6
