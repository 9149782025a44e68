"""What a recipe says about embeddings: ``embed: {model: static | {path: …} | {url: …, model: …}}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from penstock.errors import ConfigError


def check_server(where: str, url: str, model: str | None, api_key_env: str | None) -> None:
    """Refuse what is no address of a server, no name of a model on it, or would put a key into a recipe.

    Args:
        where: how messages name the section.

    Raises:
        ConfigError: with what is allowed.
    """
    if set(url) & set("@?#"):  # before anything of it is shown
        raise ConfigError(
            f"{where}.url: got an address with a user, a password, a query or a fragment, allowed none; give "
            "the key by api_key_env, so that no manifest holds it"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None  # what is no port raises too
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigError(f"{where}.url: got {url!r}, allowed http:// or https:// and a host; end it with /v1")
    if not model:
        raise ConfigError(f"{where}.model: got nothing, allowed the model's name on the server; add it")
    if api_key_env is not None and not api_key_env.isidentifier():
        raise ConfigError(
            f"{where}.api_key_env: got something that is no name of an environment variable, allowed letters, "
            "digits and underscores; put the key into a variable and its name here"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model of your own: a folder on disk (``path``) or an OpenAI-compatible server (``url`` and ``model``).

    Args:
        path: a sentence-transformers or model2vec folder; weights as safetensors.
        device: where a folder's model runs; ``auto`` takes a CUDA device where there is one.
        url: address of the API, up to and with ``/v1``.
        model: the model's name on the server.
        revision: free text; change it when the server's model changes under the same name.
        api_key_env: name of the environment variable that holds the API key; the key itself belongs in no recipe.
        batch_size: texts in one forward pass, or in one request.
        concurrency: requests that one worker has in flight.
        timeout: seconds for one request.
        attempts: tries of one request before the run stops.
    """

    path: str | None = None
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    url: str | None = None
    model: str | None = None
    revision: str = ""
    api_key_env: str | None = None
    batch_size: int = 64
    concurrency: int = 4
    timeout: float = 60.0
    attempts: int = 6

    def __post_init__(self) -> None:
        if (self.path is None) == (self.url is None):
            given = "both path and url" if self.path is not None else "neither path nor url"
            raise ConfigError(f"embed.model: got {given}, allowed one; give path for a folder, url for a server")
        if self.path is not None and (self.model is not None or self.api_key_env is not None):
            raise ConfigError("embed.model: got model or api_key_env beside path, allowed beside url; leave them out")
        if self.url is not None:
            check_server("embed.model", self.url, self.model, self.api_key_env)
        for name in ("batch_size", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"embed.model.{name}: got {getattr(self, name)}, allowed >= 1; the default is good")
        if not 0 < self.timeout < float("inf"):
            raise ConfigError(f"embed.model.timeout: got {self.timeout}, allowed seconds above 0; 60 is the default")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How documents become vectors.

    Args:
        model: ``static`` (word vectors distilled from all-MiniLM-L6-v2, extra ``embed``) or a model of your own.
        characters: so many characters of a text's beginning are embedded.
    """

    model: Literal["static"] | ModelConfig = "static"
    characters: int = 1024

    def __post_init__(self) -> None:
        if self.characters < 1:
            raise ConfigError(f"embed.characters: got {self.characters}, allowed >= 1; 1024 is half a page")
