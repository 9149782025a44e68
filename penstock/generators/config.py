"""What a recipe says about a language model: ``{path: …}`` or ``{url: …, model: …}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penstock.embedding.config import check_server
from penstock.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A causal language model in a local folder (``path``), or one behind an OpenAI-compatible server (``url``).

    Args:
        path: a Hugging Face folder with safetensors weights, or a run of penstock with a model.
        device: where a folder's model runs; ``auto`` takes a CUDA device where there is one.
        batch_tokens: tokens in one forward pass of a folder's model, filling counted.
        url: address of the API, up to and with ``/v1``.
        model: the model's name on the server.
        revision: free text; change it when the server's model changes under the same name.
        api_key_env: name of the environment variable that holds the API key; the key itself belongs in no recipe.
        concurrency: requests that one worker has in flight.
        timeout: seconds for one attempt.
        deadline: seconds for one request with all its attempts and waits.
        attempts: tries of one request.
    """

    path: str | None = None
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    batch_tokens: int = 8192
    url: str | None = None
    model: str | None = None
    revision: str = ""
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 60.0
    deadline: float = 300.0
    attempts: int = 6

    def __post_init__(self) -> None:
        if (self.path is None) == (self.url is None):
            given = "both path and url" if self.path is not None else "neither path nor url"
            raise ConfigError(f"model: got {given}, allowed one; give path for a folder, url for a server")
        if self.path is not None and (self.model is not None or self.api_key_env is not None):
            raise ConfigError("model: got model or api_key_env beside path, allowed beside url; leave them out")
        if self.url is not None:
            check_server("model", self.url, self.model, self.api_key_env)
        for name in ("batch_tokens", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: got {getattr(self, name)}, allowed >= 1; the default is good")
        for name in ("timeout", "deadline"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"model.{name}: got {getattr(self, name)}, allowed seconds above 0")

    def resolve(self) -> Any:
        """The ``LanguageModel``; a folder's files are read once for their fingerprint.

        Raises:
            ConfigError: the folder holds no model.
        """
        if self.url is not None:
            from penstock.generators.endpoint import ChatEndpoint

            same = ("url", "model", "revision", "api_key_env", "concurrency", "timeout", "deadline", "attempts")
            return ChatEndpoint(**{name: getattr(self, name) for name in same})
        from penstock.generators.local import LocalModel
        from penstock.scoring.model import fingerprint, resolve

        folder = str(resolve(str(self.path)))
        return LocalModel(path=folder, digest=fingerprint(folder), device=self.device, batch_tokens=self.batch_tokens)
