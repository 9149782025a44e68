"""Problems made by reasoning-gym, each with an answer that its own verifier accepts.

Problem i of a family depends on (seed, family, i, the family's parameters) and on nothing else: each
is generated alone from ``derive(seed, family, i)``, so the split size and the count do not matter.
An answer that its family's ``score_answer`` does not give 1.0 is dropped as ``answer_not_verified``.

Price: 0.03 ms a problem for simple arithmetic to 5 ms for symbolic algebra; the library takes 1.5 s to import.
"""

from __future__ import annotations

import contextlib
import decimal
import difflib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from penstock import schema, seeding
from penstock.errors import ConfigError
from penstock.sources import base
from penstock.sources.base import InputFile, Rows, SourceSplit

# Text only, quick, equal in every process, and every answer verified in a sample of 200
FAMILIES = (
    "basic_arithmetic",
    "calendar_arithmetic",
    "chain_sum",
    "family_relationships",
    "fraction_simplification",
    "gcd",
    "gsm_symbolic",
    "knights_knaves",
    "leg_counting",
    "simple_equations",
    "syllogism",
    "time_intervals",
)
_EXPECTED_BYTES = 256  # of one problem, to size splits


class Made(NamedTuple):
    """A question with its answer, or the reason why there is no problem: ``reason`` is None for a verified one."""

    question: str
    answer: str
    reason: str | None = None
    detail: str | None = None


class _Problem(NamedTuple):
    """What was made under a number of a family."""

    number: int
    item_seed: int
    made: Made


@dataclass(frozen=True, kw_only=True)
class ProceduralSource:
    """Verified problems, as documents or as rows of the problems table.

    Attributes:
        families: names of reasoning-gym datasets.
        count: problems of each family.
        seed: of all problems.
        config: parameters by family, as reasoning-gym's configuration of it takes them.
        domain: ``source`` puts every problem in one domain called as the source is, ``family`` in its family's.
    """

    revision: ClassVar[int] = 2

    name: str = "procedural"
    families: tuple[str, ...] = FAMILIES
    count: int = 1000
    seed: int = 0
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    domain: str = "source"

    def __post_init__(self) -> None:
        base.check_name(self.name)
        if self.count < 1:
            raise ConfigError(f"count: got {self.count}, allowed >= 1; leave the source out to make none")
        if not self.families:
            raise ConfigError("families: got none, allowed one or more; leave it out for the default list")
        if len(set(self.families)) < len(self.families):
            twice = sorted({name for name in self.families if self.families.count(name) > 1})
            raise ConfigError(f"families: got {', '.join(twice)} more than once, allowed once; raise count for more")
        unused = sorted(set(self.config) - set(self.families))
        if unused:
            raise ConfigError(f"config: got {', '.join(unused)}, allowed {', '.join(self.families)}; add to families")
        for family, parameters in self.config.items():
            fixed = sorted({"seed", "size"} & set(parameters))
            if fixed:
                raise ConfigError(f"config of {family}: got {', '.join(fixed)}, set by the source; use seed and count")
        if self.domain not in ("source", "family"):
            raise ConfigError(f"domain: got {self.domain!r}, allowed source, family; choose one")

    def inputs(self) -> list[InputFile]:
        """Nothing is read; the version of reasoning-gym decides what is made."""
        self._check()
        return []

    def plan(self, target_bytes: int) -> list[SourceSplit]:
        base.check_target(target_bytes)
        self._check()
        step = max(1, target_bytes // _EXPECTED_BYTES)
        return [
            SourceSplit(
                self.name,
                "",
                f"{self.name}/{family}",
                start,
                min(start + step, self.count),
                start,
                "procedural",
                self._domain(family),
            )
            for family in sorted(self.families)
            for start in range(0, self.count, step)
        ]

    def _domain(self, family: str) -> str:
        return family if self.domain == "family" else self.name

    def _check(self) -> None:
        """ConfigError for a family or a parameter that reasoning-gym does not know."""
        known = _registry()
        for family in self.families:
            if family not in known:
                near = difflib.get_close_matches(family, known, n=3) or sorted(known)
                raise ConfigError(f"families: got {family!r}, nearest known {', '.join(near)}; correct the name")
            self._dataset(family, 0)

    def _dataset(self, family: str, item_seed: int) -> Any:
        return dataset_of(family, item_seed, self.config.get(family, {}))

    def _problems(self, split: SourceSplit) -> Iterator[_Problem]:
        family = split.name.rpartition("/")[2]
        for index in range(split.start, split.stop):
            item_seed = seeding.derive(self.seed, family, index)
            yield _Problem(index, item_seed, make(self._dataset(family, item_seed)))

    def identity(self, split: SourceSplit) -> Any:
        """All that decides the rows of a split: its problems and how they are made, not how many others there are."""
        config = dict(self.config.get(split.name.rpartition("/")[2], {}))
        return [self.name, self.seed, config, split.name, split.start, split.stop, split.domain]

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        builder = base.RowsBuilder(self.name, dropped)
        for problem in self._problems(split):
            doc_id, domain = f"{split.name}#{problem.number}", split.domain or self.name
            made = problem.made
            text = f"Question: {made.question}\nAnswer: {made.answer}".encode("utf-8", "replace")
            if made.reason is None:
                full = builder.add(doc_id, text, domain)
            else:
                full = builder.drop(doc_id, made.reason, domain, made.detail, text)
            if full and (rows := builder.take()):
                yield rows
        if rows := builder.take():
            yield rows

    def problems(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """The verified problems of a split as batches of schema.PROBLEMS.

        ``problem_id`` is the document's ``doc_id``; ``provenance`` holds what makes the problem again.
        """
        family = split.name.rpartition("/")[2]
        origin = {
            "generator": "reasoning-gym",
            "version": version("reasoning-gym"),
            "family": family,
            "config": dict(self.config.get(family, {})),
            "seed": self.seed,
        }
        rows: list[dict[str, Any]] = []
        for problem in self._problems(split):
            made = problem.made
            if made.reason is not None:
                continue
            problem_id = f"{split.name}#{problem.number}"
            rows.append(
                {
                    "problem_id": problem_id,
                    "group_id": problem_id,
                    "variant": "original",
                    "prompt": made.question,
                    "original_prompt": made.question,
                    "answer": made.answer,
                    "verdicts": [{"check": "score_answer", "passed": True, "detail": "1.0"}],
                    "parents": [],
                    "provenance": json.dumps(
                        {
                            **origin,
                            "index": problem.number,
                            "item_seed": problem.item_seed,
                        },
                        sort_keys=True,
                    ),
                }
            )
            if len(rows) == 4096:
                yield pa.RecordBatch.from_pylist(rows, schema=schema.PROBLEMS)
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=schema.PROBLEMS)


def dataset_of(family: str, item_seed: int, config: Mapping[str, Any]) -> Any:
    """A reasoning-gym dataset of one problem.

    Raises:
        ConfigError: the family does not take the parameters, or not together.
    """
    dataset, configure = _registry()[family]
    try:
        return dataset(config=configure(seed=item_seed, size=1, **config))
    except (TypeError, ValueError, AssertionError) as error:
        allowed = ", ".join(name for name in configure.__dataclass_fields__ if name not in ("seed", "size"))
        raise ConfigError(f"config of {family}: {error}; allowed parameters {allowed}; correct them") from error


def make(dataset: Any) -> Made:
    """The problem of such a dataset, its answer put to the family's own ``score_answer``."""
    try:
        # decimal_arithmetic sets the precision of the context it runs in, which all that come after would inherit; bf
        # prints
        with decimal.localcontext(decimal.DefaultContext), contextlib.redirect_stdout(io.StringIO()):
            entry = dataset[0]
            question, answer = str(entry["question"]), entry["answer"]
            score = dataset.score_answer(answer, entry)
    # generators fail in their own ways on rare seeds; the problem is counted, the run goes on
    except Exception as error:  # noqa: BLE001
        return Made("", "", "not_generated", f"{type(error).__name__}: {error}"[:200])
    if isinstance(answer, str) and score == 1.0:
        return Made(question, answer)
    return Made(question, str(answer), "answer_not_verified", f"score {score}")


@cache
def _registry() -> dict[str, tuple[Any, Any]]:
    """reasoning-gym's datasets by name: (dataset class, configuration class)."""
    import reasoning_gym  # noqa: F401  the import fills the registry
    from reasoning_gym.factory import DATASETS

    return dict(DATASETS)
