"""What a recipe says about the mixture while training: ``train.policy``.

policy:
  name: dga
  target: [wikipedia]        # domains whose validation sequences are the target
  every: 20
  options: {eta: 1.5}        # settings of the rule itself, under the names of its class
  max_epochs: 5              # the post-stage
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from typing import Any, Literal, cast

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, MixingPolicy, Signal
from penstock.training.mixing.post import PostStage

Name = Literal["static", "cooldown", "importance", "regmix", "mixing_laws", "doremi", "dga", "rnb", "odm", "ado"]

_RULES: Mapping[str, tuple[str, str]] = {
    "static": ("static", "Static"),
    "cooldown": ("cooldown", "Cooldown"),
    "importance": ("importance", "ImportanceSampling"),
    "regmix": ("regmix", "RegMix"),
    "mixing_laws": ("mixing_laws", "MixingLaws"),
    "doremi": ("doremi", "DoReMi"),
    "dga": ("dga", "DynamicGradientAlignment"),
    "rnb": ("rnb", "RegroupAndBalance"),
    "odm": ("odm", "OnlineDataMixing"),
    "ado": ("ado", "AdaptiveDataOptimization"),
}
# rules that are never asked, or at a step of their own
_NO_CADENCE = ("static", "cooldown", "importance", "regmix", "mixing_laws")
_PROBED = frozenset({Signal.TARGET_DOT, Signal.TARGET_LOSS, Signal.GRADIENT_GRAM})


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A rule that sets the mixture, when it is asked, what it looks at and what its answer goes through.

    ``options`` are the settings of the rule; docs/mixing.md lists them. Everything is checked here, so a misspelt
    option or a number out of range stops before any work is done.
    """

    name: Name
    options: Mapping[str, Any] = field(default_factory=dict)
    every: int | None = None  # steps between updates; None is the rule's own
    warmup: int | None = None  # steps before the first interval; None is the rule's own
    lag: int = 8  # steps between an update and the first sequence drawn under it; at least what is read ahead

    # domains whose validation sequences are the target: half of them are evaluated, with any rule, half probed by dga
    target: tuple[str, ...] = ()
    probe_sequences: int = 8  # dga, rnb: of each domain and of the target in one measurement
    clip_norm: float | None = 1.0  # dga, rnb: of each probe gradient before products are taken; None leaves them

    smoothing: float = 0.0
    ema: float | None = None
    floor: float = 0.0
    max_epochs: float | None = None
    on_infeasible: Literal["error", "redistribute"] = "error"

    def __post_init__(self) -> None:
        if self.name not in _RULES:
            near = difflib.get_close_matches(str(self.name), _RULES, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"policy.name: got {self.name!r}, allowed {', '.join(_RULES)}{hint}")
        for name, least in (("lag", 0), ("probe_sequences", 1), ("every", 1), ("warmup", 0)):
            value = getattr(self, name)
            unset = value is None and name in ("every", "warmup")
            if not unset and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"policy.{name}: got {value!r}, allowed a whole number >= {least}; change it")
        if self.name in _NO_CADENCE and (self.every is not None or self.warmup is not None):
            raise ConfigError(f"policy: {self.name} is not asked at intervals; leave out every and warmup")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise ConfigError(f"policy.clip_norm: got {self.clip_norm!r}, allowed a number > 0, or null for none")
        if isinstance(self.target, str):
            raise ConfigError(f"policy.target: got {self.target!r}, allowed a list of domains: [{self.target}]")
        # built once, so that the options and the post-stage are checked
        rule, post = policy_of(self, steps=2)
        if Signal.TARGET_DOT in rule.needs and not self.target:
            raise ConfigError(
                f"policy.target: got none for {self.name}, allowed at least one domain with validation sequences; name "
                "some"
            )
        if not rule.needs & _PROBED:
            for name in ("probe_sequences", "clip_norm"):
                if getattr(self, name) != getattr(PolicyConfig, name):
                    raise ConfigError(f"policy.{name}: {self.name} looks at no probe; leave it out")
        if rule.name == "doremi" and post.smoothing:
            raise ConfigError(
                "policy.smoothing: doremi smooths inside its own recursion; set options: {smoothing: …} instead"
            )
        if self.ema is not None and getattr(rule, "ema", None) is not None:
            raise ConfigError(f"policy.ema: {self.name} has one of its own in options; set one of the two")

    @property
    def needs_probe(self) -> bool:
        """Whether the rule looks at gradients of probe batches."""
        return bool(policy_of(self, steps=2)[0].needs & _PROBED)


def policy_of(config: PolicyConfig, *, steps: int | None = None) -> tuple[MixingPolicy, PostStage]:
    """The rule and the post-stage that a recipe asks for.

    Args:
        steps: of the whole run, for rules that follow a schedule; an option ``steps`` wins.

    Raises:
        ConfigError: an unknown or a missing option, or a value out of range.
    """
    module, name = _RULES[config.name]
    kind = getattr(import_module(f"penstock.training.mixing.{module}"), name)
    known = {f.name: f for f in fields(kind) if f.init and f.name != "cadence"}
    options = dict(config.options)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known) or 'none'}"
            raise ConfigError(f"policy.options: {config.name} has no option {option!r}; {hint}")
    if "steps" in known and steps is not None:
        options.setdefault("steps", steps)
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    missing = [option for option in needed if option not in options]
    if missing:
        raise ConfigError(f"policy.options: {config.name} needs {', '.join(missing)}; see docs/mixing.md")
    if config.name not in _NO_CADENCE:
        own: Cadence = kind(**options).cadence
        options["cadence"] = Cadence(
            every=own.every if config.every is None else config.every,
            warmup=own.warmup if config.warmup is None else config.warmup,
        )
    post = PostStage(
        smoothing=config.smoothing,
        ema=config.ema,
        floor=config.floor,
        max_epochs=config.max_epochs,
        on_infeasible=config.on_infeasible,
    )
    return cast(MixingPolicy, kind(**options)), post
