"""What a recipe says about a language model: ``{path: …}`` or ``{url: …, model: …}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.embedding.config import check_server
from penstock.errors import ConfigError

Engine = Literal["transformers", "vllm", "serve"]
_OF_SERVERS = ("concurrency", "timeout", "deadline", "attempts", "patience")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A causal language model in a local folder (``path``), or one behind an OpenAI-compatible server (``url``).

    Args:
        path: a Hugging Face folder with safetensors weights, or a run of penstock with a model.
        engine: what runs a folder's model: ``transformers`` or ``vllm`` in the process that asks, or ``serve``: a
            ``vllm serve`` that this process starts and stops.
        device: where transformers run a folder's model; ``auto`` takes a CUDA device where there is one.
        batch_tokens: tokens in one forward pass of transformers, filling counted.
        python: Python of the environment with vLLM, for ``serve``; None looks for it.
        arguments: of vLLM: ``{max_model_len: 4096, gpu_memory_utilization: 0.5}``.
        url: address of the API, up to and with ``/v1``.
        model: the model's name on the server.
        revision: free text; change it when the server's model changes under the same name.
        api_key_env: name of the environment variable that holds the API key; the key itself belongs in no recipe.
        schemas: whether the server is told of JSON Schemas; False for one that refuses them.
        concurrency: requests that one worker has in flight at most.
        timeout: seconds for one attempt.
        deadline: seconds for one request with all its attempts and waits.
        attempts: tries of one request.
        patience: seconds of nothing but refusals before all stops.
    """

    path: str | None = None
    engine: Engine = "transformers"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    batch_tokens: int = 8192
    python: str | None = None
    arguments: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    url: str | None = None
    model: str | None = None
    revision: str = ""
    api_key_env: str | None = None
    schemas: bool = True
    concurrency: int = 16
    timeout: float = 60.0
    deadline: float = 300.0
    attempts: int = 6
    patience: float = 60.0

    def __post_init__(self) -> None:
        if (self.path is None) == (self.url is None):
            given = "both path and url" if self.path is not None else "neither path nor url"
            raise ConfigError(f"model: got {given}, allowed one; give path for a folder, url for a server")
        if self.path is not None and (self.model is not None or self.api_key_env is not None):
            raise ConfigError("model: got model or api_key_env beside path, allowed beside url; leave them out")
        if self.url is not None:
            check_server("model", self.url, self.model, self.api_key_env)
        if self.url is not None and self.engine != "transformers":
            raise ConfigError(f"model: got engine {self.engine} beside url, allowed beside path; leave it out")
        if self.arguments and self.engine == "transformers":
            raise ConfigError("model: got arguments without vLLM, allowed with engine: vllm or serve; add it")
        if self.python is not None and self.engine != "serve":
            raise ConfigError("model: got python without a server to start, allowed with engine: serve; add it")
        for name in ("batch_tokens", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: got {getattr(self, name)}, allowed >= 1; the default is good")
        for name in ("timeout", "deadline", "patience"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"model.{name}: got {getattr(self, name)}, allowed seconds above 0")

    def resolve(self) -> Any:
        """The ``LanguageModel``; a folder's files are read once for their fingerprint.

        Raises:
            ConfigError: the folder holds no model.
        """
        of_server = {name: getattr(self, name) for name in _OF_SERVERS}
        if self.url is not None:
            from penstock.generators.endpoint import ChatEndpoint

            named = {name: getattr(self, name) for name in ("url", "model", "revision", "api_key_env", "schemas")}
            return ChatEndpoint(**named, **of_server)
        from penstock.scoring.model import fingerprint, resolve

        folder = str(resolve(str(self.path)))
        of_folder: dict[str, Any] = {"path": folder, "digest": fingerprint(folder)}
        if self.engine == "transformers":
            from penstock.generators.local import LocalModel

            return LocalModel(**of_folder, device=self.device, batch_tokens=self.batch_tokens)
        of_folder["arguments"] = tuple(sorted(self.arguments.items()))
        if self.engine == "vllm":
            from penstock.generators.vllm import VLLMModel

            return VLLMModel(**of_folder)
        from penstock.generators.served import ServedModel

        return ServedModel(**of_folder, python=self.python, **of_server)
