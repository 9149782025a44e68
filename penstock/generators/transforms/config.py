"""What a recipe or ``penstock transform`` says about variants of questions: ``TransformConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.errors import ConfigError
from penstock.generators.budget import Budget
from penstock.generators.config import GeneratorConfig
from penstock.generators.transforms.prompted import KINDS
from penstock.generators.verification.agreement import BAND, check_band
from penstock.generators.verification.catalogue import CHECKS

Alone = Literal["drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class SolveConfig:
    """Solve agreement: every variant is solved by the reference model.

    Args:
        samples: solutions of each question.
        band: lowest and highest share of right solutions that pass; [0.125, 0.625] is SvS's.
        originals: solve the originals too, for the shift of difficulty.
        temperature, max_tokens: of the solutions.
        deadline: seconds for verifying one answer.
    """

    samples: int = 8
    band: tuple[float, float] = BAND
    originals: bool = True
    temperature: float = 0.7
    max_tokens: int = 1024
    deadline: float = 5.0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1:
            raise ConfigError(
                f"solve: got samples {self.samples} and max_tokens {self.max_tokens}, allowed >= 1; 8 and 1024 are good"
            )
        if not 0 < self.deadline < float("inf"):
            raise ConfigError(f"solve.deadline: got {self.deadline}, allowed seconds above 0; 5 is good")
        check_band("solve.band", self.band, 0.0)


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Variants of problems, and what they have to pass.

    Args:
        kinds: of transforms, of ``KINDS``.
        per_problem: verified variants of each problem at most; of different kinds first.
        rules: use the forms that need no model.
        model: that the forms with a prompt ask; None leaves them out.
        prompts: folder with ``KIND.md`` files that replace the prompts of these.
        temperature, max_tokens: of a variant.
        checks: of those that need no model, of ``CHECKS``; fewer let more of a model's variants through, so leave some
            out only where ``solve`` or ``judge`` stands behind.
        judge: ask the reference twice whether a variant is the same problem.
        solve: let the reference solve the variants.
        reference: the model that judges and solves; by default ``model``.
        check_prompts: folder with ``judge.md`` or ``solve.md`` that replace ours.
        embedding_band: lowest and highest cosine of a variant with its original; None does not look.
        alone: what becomes of a problem without a verified variant: ``drop`` it, or ``keep`` it in a table of its own.
        budget: of all requests of a build.
        prices: of the models, for ``budget.max_cost`` and the report.
    """

    kinds: tuple[str, ...] = KINDS
    per_problem: int = 3
    rules: bool = True
    model: GeneratorConfig | None = None
    prompts: str | None = None
    temperature: float = 0.7
    max_tokens: int = 1024
    checks: tuple[str, ...] = CHECKS
    judge: bool = False
    solve: SolveConfig | None = None
    reference: GeneratorConfig | None = None
    check_prompts: str | None = None
    embedding_band: tuple[float, float] | None = None
    alone: Alone = "drop"
    budget: Budget = field(default_factory=Budget)
    prices: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            got = repr(unknown[0]) if unknown else ("one twice" if self.kinds else "none")
            raise ConfigError(f"kinds: got {got}, allowed {', '.join(KINDS)}, each once; correct the list")
        strange = [name for name in self.checks if name not in CHECKS]
        if strange:
            raise ConfigError(f"checks: got {strange[0]!r}, allowed {', '.join(CHECKS)}; correct the list")
        if not self.checks and not self.judge and self.solve is None:
            raise ConfigError("checks: got none, allowed with judge or solve alone; what nothing checks joins no group")
        if self.per_problem < 1:
            raise ConfigError(f"per_problem: got {self.per_problem}, allowed >= 1; a group needs a variant")
        if not self.rules and self.model is None:
            raise ConfigError("rules: got false without a model, allowed with one; name a model or leave rules on")
        if self.max_tokens < 1 or not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"got max_tokens {self.max_tokens} and temperature {self.temperature}, allowed >= 1 and >= 0; the "
                "defaults are good"
            )
        if (self.judge or self.solve is not None) and self.model is None and self.reference is None:
            what = "judge" if self.judge else "solve"
            raise ConfigError(f"{what}: got it without a model to ask, allowed with reference or model; name one")
        if self.embedding_band is not None:
            check_band("embedding_band", self.embedding_band, -1.0)
        if self.alone not in ("drop", "keep"):
            raise ConfigError(f"alone: got {self.alone!r}, allowed drop, keep; choose one")

    @property
    def asks(self) -> bool:
        """Whether any model is asked."""
        return self.model is not None or self.judge or self.solve is not None
