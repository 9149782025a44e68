"""Completions of a causal language model in this process, run by vLLM: for worker images where a server is not wanted.

vLLM needs an environment of its own (extra ``vllm``), which has no Prefect; nothing here needs more than vLLM, numpy
and the light half of penstock. The engine runs in this very process, not in a child of it, so that it ends with it and
schedules alike in every run. Chat templates are applied here and token ids handed over, as a server does it.

vLLM refuses a whole call for one request that it cannot take (a schema that its grammar does not know). Such a call is
halved until the request at fault stands alone; that one has an ``error``.

Answers are the model's to the last bit only on equal hardware, version and batch; who needs them again keeps them
(``session``).

Price: seconds to minutes to load, once a process; most of the memory that the device has, as vLLM does it
(``gpu_memory_utilization``, on a processor ``VLLM_CPU_KVCACHE_SPACE``).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from penstock.errors import ConfigError, MissingExtraError
from penstock.generators.base import Completion, Request, TokenLogprob, Usage
from penstock.seeding import derive

Arguments = tuple[tuple[str, Any], ...]

# arguments that decide where and how fast a model runs, and not what it answers
_RESOURCES = frozenset(
    ("enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_batched_tokens", "max_num_seqs",
     "pipeline_parallel_size", "tensor_parallel_size")
)  # fmt: skip


def vllm_identity(digest: str, arguments: Arguments) -> dict[str, Any]:
    """What a model run by vLLM is, in this process or behind a server that penstock started."""
    deciding = {name: value for name, value in arguments if name not in _RESOURCES}
    return {"kind": "vllm", "digest": digest, "arguments": deciding}


@dataclass(frozen=True, kw_only=True)
class VLLMModel:
    """LanguageModel: a Hugging Face folder with safetensors weights, run by vLLM.

    Args:
        path, digest: the folder, and ``penstock.scoring.model.fingerprint`` of it.
        arguments: of ``vllm.LLM``, as pairs; a mapping is written as JSON, as on vLLM's command line.
    """

    path: str
    digest: str
    arguments: Arguments = ()

    kind: ClassVar[str] = "vllm"
    group: ClassVar[int] = 1024  # vLLM fills its batches best when it is given much at once

    @property
    def identity(self) -> dict[str, Any]:
        return vllm_identity(self.digest, self.arguments)

    def setup(self) -> None:
        """Load the model.

        Raises:
            MissingExtraError: vLLM is not installed here.
            ConfigError: vLLM cannot run the model.
        """
        _engine(self)

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order.

        Raises:
            MissingExtraError, ConfigError: as ``setup``, and where messages are asked of a tokenizer without a chat
                template.
        """
        import jinja2

        engine = _engine(self)
        tokenizer = engine.get_tokenizer()
        limit = int(engine.llm_engine.model_config.max_model_len)
        out: dict[int, Completion] = {}
        fitting: dict[int, list[int]] = {}
        for row, request in enumerate(requests):
            try:
                ids = _prompt_ids(self.path, request, tokenizer)
            except (jinja2.TemplateError, ValueError, TypeError) as error:  # half a surrogate pair, for one
                out[row] = Completion(error=f"a prompt that cannot be encoded ({error})")
                continue
            if not ids or len(ids) + request.max_tokens > limit:
                room = f"a prompt of {len(ids)} tokens leaves no room for {request.max_tokens} of {limit}"
                out[row] = Completion(error=room if ids else "an empty prompt")
            else:
                fitting[row] = ids
        out |= _generate(engine, requests, fitting)
        return [out[row] for row in range(len(requests))]


@functools.lru_cache(maxsize=1)
def _engine(model: VLLMModel) -> Any:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
        from vllm.exceptions import VLLMError
    except ImportError as error:
        raise MissingExtraError.of("vllm", "vllm") from error
    given = {
        name: json.loads(value) if isinstance(value, str) and value.startswith("{") else value
        for name, value in model.arguments
    }
    try:
        return vllm.LLM(model=model.path, disable_log_stats=True, **given)
    except (VLLMError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise ConfigError(f"{model.path}: vLLM cannot run it ({error}); mend model.arguments or the folder") from error


def _prompt_ids(path: str, request: Request, tokenizer: Any) -> list[int]:
    if request.prompt is not None:
        return list(tokenizer(request.prompt)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"{path}: got messages for a tokenizer without a chat template, allowed a prompt; take a model that was "
            "trained on conversations, or ask with prompts"
        )
    turns = [message._asdict() for message in request.messages or ()]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # a template writes its own special tokens
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _generate(engine: Any, requests: Sequence[Request], fitting: Mapping[int, list[int]]) -> dict[int, Completion]:
    from vllm.exceptions import VLLMClientError

    if not fitting:
        return {}
    rows = list(fitting)
    prompts = [{"prompt_token_ids": fitting[row]} for row in rows]
    try:
        outputs = engine.generate(prompts, [_sampling(requests[row]) for row in rows], use_tqdm=False)
    except (VLLMClientError, ValueError) as error:
        if len(rows) == 1:
            return {rows[0]: Completion(error=f"a request that vLLM refuses ({error})")}
        half = len(rows) // 2
        parts = ({row: fitting[row] for row in part} for part in (rows[:half], rows[half:]))
        return {row: one for part in parts for row, one in _generate(engine, requests, part).items()}
    return {row: _completion(output) for row, output in zip(rows, outputs, strict=True)}


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    seed = derive(request.seed, "sample", request.sample) if request.sample else request.seed
    schema = request.schema
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=seed & 0x7FFFFFFF,
        stop=list(request.stop) or None,
        logprobs=request.logprobs or None,
        structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
    )


def _completion(output: Any) -> Completion:
    (made,) = output.outputs
    tokens = []
    for token, told in zip(made.token_ids, made.logprobs or (), strict=False):
        ranked = sorted(told.values(), key=lambda one: -one.logprob)
        top = tuple((one.decoded_token, one.logprob) for one in ranked)
        tokens.append(TokenLogprob(told[token].decoded_token, told[token].logprob, top))
    return Completion(
        text=made.text,
        tokens=tuple(tokens),
        usage=Usage(prompt_tokens=len(output.prompt_token_ids), completion_tokens=len(made.token_ids)),
        finish=made.finish_reason or "",
    )
