"""An explorer without a language model: a state over reasoning-gym families and their parameters, refined by halvings.

    weight of a family         prior * 2^move
    weight of a knob's level   2^move, where one that is not the library's own begins at 1/8

A state is its moves, whole numbers; the root has none, so it draws from its prior, however collapsed that is.
``refine`` takes a weight down by one halving for every rejected problem that came from there: the multiplicative
weights method (Arora, Hazan and Kale 2012, at rate ln 2) whose losses are what the anchors turned away. It does not
know that families should be alike. Each successor follows the rejected problems and a reason of its own:

    rejected    nothing more
    covered     families of the anchors are halved too: more of them would be turned away
    unseen      up to ``RAISED`` families that nothing is known of are brought up to an equal share

Problems are those of ``penstock.sources.procedural``, verified by their family's own scorer. All is a function of the
explorer, the round, the seed and what ``refine`` is given, so the order of calls plays no part.

Price: 0.1 to 50 ms a problem, in this thread: some generators use the process's global random state, so none may run
beside another. The library takes 1.5 s to import.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.errors import ConfigError, DatasetError
from penstock.generators.explorers.families import Family, check_families, families, table_digest
from penstock.generators.items import Explorer, Item, Verdict
from penstock.seeding import derive, stream

OTHER_LEVEL = -3  # halvings of a level that is not the library's own, before any evidence
RAISED = 8
_LOWEST = -40  # moves stop there: 2^-40 of a weight is never drawn, and powers stay finite
_NAMED = 4  # families in a reason

Evidence = tuple[Counter[str], Counter[tuple[str, str, int]]]  # problems by family, and by (family, knob, level)


@dataclass(frozen=True)
class Prior:
    """What is drawn before anything is learnt.

    Attributes:
        name: how it was made, for a reader.
        weights: of families, above 0, of any sum.
    """

    name: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError("families: got none, allowed one or more; leave them out for all that are usable")
        check_families(self.weights)
        for family, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise ConfigError(f"weight of {family}: got {weight}, allowed above 0; leave out what is not wanted")

    @classmethod
    def uniform(cls, names: Iterable[str] | None = None) -> Prior:
        """Every family alike; all usable ones by default."""
        return cls("uniform", dict.fromkeys(sorted(families() if names is None else names), 1.0))

    @classmethod
    def zipf(cls, seed: int, *, s: float = 2.0, names: Iterable[str] | None = None) -> Prior:
        """A collapsed proposer: the r-th family of an order drawn by the seed has weight r^-s (Zipf's law)."""
        known = sorted(families() if names is None else names)
        order = stream(seed, "procedural", "zipf").permutation(len(known))
        return cls(f"zipf, s = {s:g}, seed {seed}", {known[j]: (r + 1.0) ** -s for r, j in enumerate(order)})

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the weights."""
        return hash_json(dict(sorted(self.weights.items())))[:16]


@dataclass(frozen=True, kw_only=True)
class State:
    """Weights of families and of their knobs' levels.

    Attributes:
        prior: what the moves go away from.
        moves: doublings of a family's weight, negative for halvings; families that are not there have none.
        levels: the same of (family, knob, level).
    """

    prior: Prior
    moves: Mapping[str, int] = field(default_factory=dict)
    levels: Mapping[tuple[str, str, int], int] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.prior.weights))

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """Probability of each family, in the order of ``names``: (n,)."""
        logs = np.array([math.log2(self.prior.weights[name]) + self.moves.get(name, 0) for name in self.names])
        weights = np.exp2(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def level_shares(self, family: Family, knob: int) -> NDArray[np.float64]:
        """Probability of each level of a family's knob: (levels,)."""
        name, count = family.knobs[knob].name, len(family.knobs[knob].levels)
        moves = [self.levels.get((family.name, name, level), 0) for level in range(count)]
        logs = np.array(moves, dtype=np.float64) + OTHER_LEVEL * (np.arange(count) > 0)
        weights = np.exp2(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def draw_levels(self, family: Family, draws: np.random.Generator) -> dict[str, int]:
        """A level of every knob; those at the library's own values are not named."""
        chosen = {
            knob.name: int(draws.choice(len(knob.levels), p=self.level_shares(family, i)))
            for i, knob in enumerate(family.knobs)
        }
        return {name: level for name, level in chosen.items() if level}

    def lowered(self, evidence: Evidence) -> State:
        """One halving for every problem of the evidence."""
        by_family, by_level = evidence
        moves, levels = Counter(self.moves), Counter(self.levels)
        moves.subtract(by_family)
        levels.subtract(by_level)
        return replace(
            self,
            moves={name: max(move, _LOWEST) for name, move in moves.items() if move},
            levels={where: max(move, _LOWEST) for where, move in levels.items() if move},
        )

    def raised(self, names: Sequence[str]) -> State:
        """Families whose share is less than an equal one brought up to it, as near as doublings come."""
        shares = dict(zip(self.names, self.shares, strict=True))
        needed = {name: max(0, round(-math.log2(len(self.names) * shares[name]))) for name in names}
        moves = Counter(self.moves)
        moves.update(needed)
        return replace(self, moves={name: move for name, move in moves.items() if move})

    @cached_property
    def text(self) -> str:
        """Canonical JSON."""
        levels = {f"{family}.{knob}.{level}": move for (family, knob, level), move in self.levels.items()}
        value = {"families": dict(self.moves), "levels": levels, "prior": self.prior.digest}
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    def read(self, text: str) -> State:
        """The state over the same prior that ``text`` stands for.

        Raises:
            DatasetError: it is of another prior, or no state.
        """
        try:
            value = json.loads(text)
            parts = {tuple(where.split(".")): int(move) for where, move in value["levels"].items()}
            levels = {(family, knob, int(level)): move for (family, knob, level), move in parts.items()}
            moves = {str(name): int(move) for name, move in value["families"].items()}
            prior = value["prior"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"state of a procedural explorer: not readable ({error}); begin anew") from error
        if prior != self.prior.digest:
            raise DatasetError(
                f"state of a procedural explorer: got prior {prior}, expected {self.prior.digest} ({self.prior.name}); "
                "give the families and weights that the run began with, or begin anew"
            )
        return replace(self, moves=moves, levels=levels)


@dataclass(frozen=True, kw_only=True)
class ProceduralExplorer:
    """A state that proposes verified problems (an ``Explorer``).

    Args:
        state: where it draws from.
        seed: of the run.
        explorer_id, parent_id, gradient: as in ``Explorer``; ``root`` and ``refine`` fill them in.
    """

    state: State
    seed: int
    explorer_id: str
    parent_id: str | None = None
    gradient: str | None = None

    ground: ClassVar[str] = "of"  # what its reasons say between problems and families

    @classmethod
    def root(cls, prior: Prior | None = None, *, seed: int) -> Self:
        """The explorer that a search begins with: all usable families alike, or a prior of the caller's."""
        state = State(prior=prior or Prior.uniform())
        root = cls(state=state, seed=seed, explorer_id="")
        return replace(root, explorer_id=_id(root.identity, seed))

    @property
    def prompt(self) -> str:
        return self.state.text

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the items besides round and seed (JSON values)."""
        return {
            "generator": "reasoning-gym",
            "version": _version(),
            "kind": type(self).__name__,
            "families": table_digest(),
            "prior": self.state.prior.digest,
        }

    async def propose(self, count: int, *, round: int) -> list[Item]:
        """``count`` problems; one whose parameters do not go together, or whose answer fails, is an invalid item."""
        chosen = self._families(count, stream(self.seed, "procedural", self.explorer_id, round))
        return [self._item(family, round, position) for position, family in enumerate(chosen)]

    def _families(self, count: int, draws: np.random.Generator) -> list[str]:
        chosen = draws.choice(len(self.state.names), size=count, p=self.state.shares)
        return [self.state.names[i] for i in chosen]

    def _item(self, name: str, round: int, position: int) -> Item:
        from penstock.sources.procedural import dataset_of, make

        family = families()[name]
        where = ("procedural", self.explorer_id, round, position)
        levels = self.state.draw_levels(family, stream(self.seed, *where))
        item_seed = derive(self.seed, *where, "item")
        origin: dict[str, Any] = {
            "generator": "reasoning-gym",
            "version": _version(),
            "family": name,
            "config": family.config(levels),
            "levels": levels,
            "item_seed": item_seed,
        }
        try:
            made = make(dataset_of(name, item_seed, origin["config"]))
        except ConfigError as error:
            return Item(text="", invalid="invalid_config", origin=origin | {"detail": str(error.__cause__)[:200]})
        if made.reason is not None:
            return Item(text=made.question, invalid=made.reason, origin=origin | {"detail": made.detail})
        verdict = Verdict("score_answer", True, "1.0")
        return Item(text=made.question, answer=made.answer, verdicts=(verdict,), origin=origin)

    async def refine(self, rejected: Sequence[Item], anchors: Sequence[Item], *, round: int) -> list[Explorer]:
        """Three successors, or none where no rejected item is of a family of the state."""
        draws = stream(self.seed, "procedural", self.explorer_id, round, "refine")
        turned_away, covered = self._evidence(rejected, draws), self._evidence(anchors, draws)
        if not turned_away[0]:
            return []
        lowered = self.state.lowered(turned_away)
        away = (
            f"{turned_away[0].total()} rejected problems are {self.ground} {_listed(turned_away[0])}: "
            "halve the weights of family and levels for each"
        )
        found = [("rejected", lowered, away)]
        if covered[0]:
            why = (
                f"{away}; {covered[0].total()} anchors are {self.ground} {_listed(covered[0])}: halve families for each"
            )
            found.append(("covered", lowered.lowered((covered[0], Counter())), why))
        known = set(lowered.moves) | set(covered[0])
        unseen = [name for name in self.state.names if name not in known]
        if unseen:
            chosen = [unseen[i] for i in sorted(draws.permutation(len(unseen))[:RAISED])]
            why = f"{away}; nothing is known of {', '.join(chosen)}: raise each to an equal share"
            found.append(("unseen", lowered.raised(chosen), why))
        return [
            self.restore(_id(self.explorer_id, round, kind, state.text), self.explorer_id, state.text, reason)
            for kind, state, reason in found
        ]

    def restore(self, explorer_id: str, parent_id: str | None, prompt: str, gradient: str | None) -> Self:
        """The explorer with these four and all else as this one has it.

        Raises:
            DatasetError: the prompt is no state over this explorer's prior.
        """
        state = self.state.read(prompt)
        return replace(self, state=state, explorer_id=explorer_id, parent_id=parent_id, gradient=gradient)

    def _evidence(self, items: Sequence[Item], draws: np.random.Generator) -> Evidence:
        """How many of the items came from where. ``draws`` is for kinds of explorers that do not look."""
        by_family: Counter[str] = Counter()
        by_level: Counter[tuple[str, str, int]] = Counter()
        for item in items:
            name = str(item.origin.get("family"))
            if name in self.state.prior.weights:
                by_family[name] += 1
                levels = item.origin.get("levels", {})
                by_level.update((name, knob.name, levels.get(knob.name, 0)) for knob in families()[name].knobs)
        return by_family, by_level


@cache
def _version() -> str:
    return version("reasoning-gym")


def _id(*parts: Any) -> str:
    return hash_json(list(parts))[:16]


def _listed(counts: Counter[str]) -> str:
    """The most frequent ones in words."""
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    words = [f"{name} ({count})" for name, count in most[:_NAMED]]
    return ", ".join(words) + (f" and {len(most) - _NAMED} more" if len(most) > _NAMED else "")
