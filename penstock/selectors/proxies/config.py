"""The recipe's section ``select.search``: what is searched, by which proxies, on which target.

select:
  criteria: {quality: {}, education: {}}
  target_tokens: 500_000_000
  search:
    target: {domains: [wikipedia]}      # their validation split
    proxy: {kind: loop, loop: {steps: 300}}
    proxies: 128
    method: evolution
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator

from penstock.errors import ConfigError
from penstock.selectors.proxies.loop import LoopConfig
from penstock.selectors.proxies.ngram import NgramConfig
from penstock.selectors.search.settings import SearchSettings
from penstock.selectors.search.space import LambdaScale
from penstock.sources.files import FileEntry, entries_of


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """Held-out documents that a selection should be good for.

    Args:
        domains: of the corpus; their validation split is the target, ``*`` is all of them. Test documents stay unseen.
        files: documents of your own instead, cleaned and encoded as the corpus is. Those that the training
            documents hold word for word are left out and counted.
        tokens: so many of each domain, or of all files, are measured on at most.
    """

    domains: tuple[str, ...] = ()
    files: Annotated[tuple[FileEntry, ...], BeforeValidator(entries_of)] = ()
    tokens: int = 50_000

    def __post_init__(self) -> None:
        if bool(self.domains) == bool(self.files):
            got = "both domains and files" if self.domains else "neither domains nor files"
            raise ConfigError(
                f"search.target: got {got}, allowed one; name domains of the corpus, or files with documents like "
                "those that the model is meant for"
            )
        if self.tokens < 1:
            raise ConfigError(f"search.target.tokens: got {self.tokens}, allowed >= 1; 50,000 is the default")


@dataclass(frozen=True, kw_only=True)
class ProxyConfig:
    """The small model that measures a selection.

    Args:
        kind: ``ngram`` takes a fraction of a second each, ``loop`` trains a small transformer.
        ngram, loop: settings of the two; those of the other kind wait until it is chosen.
    """

    kind: Literal["ngram", "loop"] = "ngram"
    ngram: NgramConfig = field(default_factory=NgramConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @property
    def chosen(self) -> NgramConfig | LoopConfig:
        """The settings of the kind."""
        return self.ngram if self.kind == "ngram" else self.loop


@dataclass(frozen=True, kw_only=True)
class SearchConfig(SearchSettings):
    """Looks for the parameters of the selection by small models, in place of those that the recipe gives.

    Args:
        target: what the loss is taken on.
        proxy: what is trained.
        space: ``theta`` looks for all parameters of QuaDMix by domain, ``mixture`` for shares of domains alone.
        domain_multiplier: one more parameter a domain, for its share; the paper has none.
        multiplier_max: the largest factor of a domain's share, and one over the smallest.
        lambda_scale: how the steepness is drawn: evenly over its decades, or over its values.
        share: tokens of the selection as a share of those to select from, where ``select.target_tokens`` is not set.
        pool_tokens: about so many tokens of training documents, by hash, stand for the corpus.
    """

    target: TargetConfig
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    space: Literal["theta", "mixture"] = "theta"
    domain_multiplier: bool = False
    multiplier_max: float = 10.0
    lambda_scale: LambdaScale = "log"
    share: float = 0.3
    pool_tokens: int = 10_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.share > 0:
            raise ConfigError(f"search.share: got {self.share}, allowed above 0; 0.3 takes three tokens of ten")
        if self.pool_tokens < 1:
            raise ConfigError(f"search.pool_tokens: got {self.pool_tokens}, allowed >= 1; 10,000,000 is the default")
        if self.space == "mixture" and self.domain_multiplier:
            raise ConfigError(
                "search.domain_multiplier: a mixture is nothing but shares of domains; leave it out, or set space: "
                "theta"
            )
