"""What tokens cost: a table that the user gives, since no price stays true for long.

    gpt-small: {prompt: 0.15, completion: 0.60}      # per million tokens, in whatever currency; equal for all models
    "*": {prompt: 0, completion: 0}                  # by option: models that are not named

As a mapping in a recipe, or as a YAML or JSON file. Models are named as on their server; those of a folder by their
kind (``local``, ``vllm``) and the first digits of their fingerprint, as reports name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import ConfigError
from penstock.generators.base import Usage

_OTHERS = "*"
_MILLION = 1_000_000


class Price(NamedTuple):
    """Of a million tokens that are read, and that are written."""

    prompt: float
    completion: float

    def cost(self, usage: Usage) -> float:
        """Of one request, in the currency of the table."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / _MILLION


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices by name of model."""

    table: Mapping[str, Price]

    @classmethod
    def of(cls, given: Mapping[str, Any] | str | Path) -> Prices:
        """From a mapping, or from the file that holds one.

        Raises:
            ConfigError: the file cannot be read, or something in it is no price.
        """
        where = "prices"
        if not isinstance(given, Mapping):
            import yaml

            from penstock._yaml import load_yaml

            where = f"prices {given}"
            try:
                given = load_yaml(Path(given).read_text("utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ConfigError(f"{where}: cannot be read ({error}); allowed is a YAML or JSON file") from error
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: got {type(given).__name__}, allowed models with their prices")
        return cls(table={str(name): _price(f"{where}: {name}", value) for name, value in given.items()})

    def price(self, model: str) -> Price | None:
        """That of a model, else that of ``*``, else None."""
        return self.table.get(model, self.table.get(_OTHERS))


def _price(where: str, value: Any) -> Price:
    allowed = "allowed {prompt: …, completion: …}, numbers >= 0 per million tokens"
    if not isinstance(value, Mapping) or set(value) != set(Price._fields):
        raise ConfigError(f"{where}: got {value!r}, {allowed}")
    for part in value.values():
        if isinstance(part, bool) or not isinstance(part, (int, float)) or not 0 <= part < float("inf"):
            raise ConfigError(f"{where}: got {part!r}, {allowed}")
    return Price(float(value["prompt"]), float(value["completion"]))
