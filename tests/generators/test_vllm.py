"""A model that the loop trained, run by vLLM from its own environment: behind a server, and in a process."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from penstock.dataset import Dataset
from penstock.generators.answers import AnswerStore
from penstock.generators.base import Message, Request, canonical
from penstock.generators.config import GeneratorConfig
from penstock.generators.served import stop_servers
from penstock.generators.session import ModelSession
from penstock.generators.structured import ask_structured
from penstock.tokenization.bytelevel.model import ByteModel
from penstock.tokenization.bytelevel.server import ServerModel
from penstock.tokenization.bytelevel.token_server import TokenServer

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv-vllm is not there; run: make vllm"),
]

PROMPT = "The river and the gate"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"  # so a conversation reads as a prompt
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 20]}},
    "required": ["a"],
    "additionalProperties": False,
}
ARGUMENTS = {
    "max_model_len": 64, "enforce_eager": True, "dtype": "float32", "max_logprobs": -1,
    # blanks between words of JSON would be endless from a model that learned nothing of it
    "structured_outputs_config": json.dumps({"disable_any_whitespace": True, "backend": "xgrammar"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """The first round's model with a chat template."""
    made = tmp_path_factory.mktemp("vllm") / "small"
    shutil.copytree(Path(Dataset(f"{finished[0]}/run/model-1").artifact("model/config.json")).parent, made)
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture(scope="module")
def model(folder):
    """The model behind a server that it starts itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.chdir(ROOT)
        config = GeneratorConfig(path=str(folder), engine="serve", arguments=ARGUMENTS, timeout=180.0)
        made = config.resolve()
        made.setup()
        yield made
        stop_servers()


def ask(model, *requests):
    return asyncio.run(model.complete(requests))


def chat(text, **more):
    return Request(messages=(Message("user", text),), **more)


def test_the_first_token_has_the_probabilities_that_transformers_give_it(model, folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (found,) = ask(model, Request(prompt=PROMPT, max_tokens=4, logprobs=5))
    assert (found.error, found.finish, found.usage.completion_tokens) == (None, "length", 4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    assert found.usage.prompt_tokens == ids.shape[1]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0, -1].log_softmax(-1)
    best = expected.topk(5)
    assert found.tokens[0].token == tokenizer.decode([int(best.indices[0])])
    assert [value for _, value in found.tokens[0].top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_a_conversation_is_answered_as_its_prompt(model):
    prompt, talk = ask(model, Request(prompt=PROMPT, max_tokens=6, logprobs=2), chat(PROMPT, max_tokens=6, logprobs=2))
    assert (talk.text, talk.error) == (prompt.text, None)
    assert [token.logprob for token in talk.tokens] == pytest.approx([t.logprob for t in prompt.tokens], abs=1e-4)


def test_answers_obey_a_schema_that_the_server_was_told(model):
    requests = [Request(prompt=PROMPT, max_tokens=24), chat(PROMPT, max_tokens=24)]
    for one in asyncio.run(ask_structured(model, requests, SCHEMA, corrections=0)):
        assert one.error is None, one
        assert one.value in ({"a": 1}, {"a": 20})


def test_draws_follow_seed_and_sample_and_a_second_run_asks_nothing(model, tmp_path):
    wanted = [Request(prompt=PROMPT, max_tokens=8, temperature=1.0, top_p=0.9, seed=3, sample=i) for i in range(6)]
    store = AnswerStore(path=str(tmp_path / "a.sqlite"))
    first, second = ModelSession(model, store=store), ModelSession(model, store=store)
    texts = [one.text for one in asyncio.run(first.complete(wanted))]
    assert len(set(texts)) > 1
    assert [one.text for one in asyncio.run(second.complete(wanted))] == texts
    assert (first.meter.asked, second.meter.asked) == (6, 0)


def test_a_request_that_vllm_refuses_is_an_error_of_its_own(model):
    long, good = ask(model, Request(prompt=PROMPT * 20, max_tokens=4), Request(prompt=PROMPT, max_tokens=1))
    assert long.error.startswith("status 400")
    assert good.error is None


def test_next_bytes_from_the_tokens_it_tells_are_those_of_the_model_itself(model, folder):
    reader = ByteModel.load(folder, renormalise="global")
    asked = model._endpoint()
    texts = [PROMPT[:cut] for cut in (1, 5, 9, 12, len(PROMPT))]
    expected = np.exp(reader.start(texts).log_probs())
    everything = int(reader.tokenizer.vocabulary.ids.max()) + 1
    for top in (20, everything):
        server = TokenServer(url=asked.url, model=asked.model, top=top)
        state = ServerModel(server, reader.tokenizer, reader.begin, reader.stop).start(texts)
        low, high = map(np.exp, state.bounds())
        assert (low <= expected + 1e-4).all()
        assert (expected <= high + 1e-4).all()
    assert (high - low).max() < 1e-3
    np.testing.assert_allclose(np.exp(state.log_probs()), expected, atol=1e-3)


# ── in a process of the other environment ────────────────────────────────────────────────────────

INSIDE = """
import asyncio, json, sys
from penstock.generators import Message, ModelSession, Request, VLLMModel
folder, told, asked = sys.argv[1:]
model = VLLMModel(path=folder, digest="d", arguments=tuple(sorted(json.loads(told).items())))
requests = []
for one in json.loads(asked):
    if "messages" in one:
        one["messages"] = tuple(Message(*turn) for turn in one["messages"])
    requests.append(Request(**one))
found = asyncio.run(ModelSession(model).complete(requests))
print(json.dumps([one.to_json() for one in found]))
"""


def test_in_this_process_it_answers_as_behind_its_server(model, folder):
    unknown = canonical({"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b(?<!c)"}}})
    asked = [
        {"prompt": PROMPT, "max_tokens": 6, "logprobs": 3},
        {"messages": [["user", PROMPT]], "max_tokens": 6, "logprobs": 3},
        {"prompt": PROMPT, "max_tokens": 24, "schema": canonical(SCHEMA)},
        {"prompt": PROMPT * 20, "max_tokens": 4},
        {"prompt": PROMPT, "max_tokens": 4, "schema": unknown},
        {"prompt": "", "max_tokens": 4},
    ]
    served = ask(model, Request(**asked[0]), Request(**asked[2]))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [str(PYTHON), "-c", INSIDE, str(folder), json.dumps(ARGUMENTS), json.dumps(asked)],
        capture_output=True, text=True, env=env, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    prompt, talk, told, long, refused, empty = json.loads(done.stdout.splitlines()[-1])
    assert (prompt["text"], prompt["finish"], prompt["error"]) == (served[0].text, "length", None)
    assert prompt["usage"] == {"prompt_tokens": served[0].usage.prompt_tokens, "completion_tokens": 6}
    for (_, mine, top), theirs in zip(prompt["tokens"], served[0].tokens, strict=True):
        assert mine == pytest.approx(theirs.logprob, abs=1e-3)
        assert [value for _, value in top] == pytest.approx([value for _, value in theirs.top], abs=1e-3)
    assert talk["text"] == prompt["text"]
    assert told["text"] == served[1].text
    assert long["error"].startswith("a prompt of ")
    assert refused["error"].startswith("a request that vLLM refuses ("), refused
    assert empty["error"] == "an empty prompt"
