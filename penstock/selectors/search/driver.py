"""The whole search: draw points, measure them, fit, propose, measure the best again, decide.

    1  measure ``proxies`` points under one seed, and the baselines for the noise of a measurement
    2  fit the surrogate to those that did not diverge; with R2 <= 0 nothing is proposed
    3  propose one point by the settings' method
    4  measure it, the best measured ones and the baselines again, under fresh seeds
    5  decide by these measurements alone (``guard``)

Search points share one seed, hence coins, start and order of the proxies, and their losses differ by the selection
alone. Fresh seeds move all losses together; the baselines, measured under both, say by how much, and predictions are
moved by as much before they are compared.

QuaDMix (arXiv 2504.16511v2) with Algorithm 1 as space and ``random``; RegMix (arXiv 2407.01492) with mixtures as
space; CLIMB (arXiv 2504.13161) with ``climb``. A trial is a function of the space, the settings, the seed and earlier
results, so a search whose measurements are kept in files goes on where it was interrupted.

Price: proxies + noise_seeds + 1 + remeasure_seeds x (top_measured + 3) measurements; the rest is seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from penstock.errors import ConfigError, TrainingError
from penstock.seeding import derive
from penstock.selectors.search.guard import PROPOSED, Candidate, Verdict, decide
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.propose import Proposal, best_mean, evolve, next_round
from penstock.selectors.search.result import SearchResult
from penstock.selectors.search.settings import Method, SearchSettings
from penstock.selectors.search.space import Floats, Space
from penstock.selectors.search.surrogate import LEAST, Fit, Surrogate, fit_surrogate
from penstock.selectors.search.trials import Measure, Measured, Purpose, Trial

__all__ = [
    "Candidate",
    "Fit",
    "Measure",
    "Measured",
    "Method",
    "Purpose",
    "SearchResult",
    "SearchSettings",
    "Trial",
    "Verdict",
    "search",
]


@dataclass(eq=False)
class _Log:
    """Numbers the trials and keeps what they gave."""

    measure: Measure
    found: list[Measured] = field(default_factory=list)

    def run(self, wanted: Sequence[tuple[Floats, int, Purpose, str]]) -> list[Measured]:
        """Measurements of (point, seed, purpose, label), in this order."""
        start = len(self.found)
        trials = [
            Trial(number=start + i, unit=tuple(float(v) for v in unit), seed=seed, purpose=purpose, label=label)
            for i, (unit, seed, purpose, label) in enumerate(wanted)
        ]
        given = {m.trial.number: m for m in self.measure(trials)}
        missing = [t.number for t in trials if t.number not in given or given[t.number].trial != t]
        if missing:
            raise ConfigError(f"search: the measurement left out trials {missing}; give one result for every trial")
        results = [given[t.number] for t in trials]
        # a loss that is no finite number is a diverged proxy, whoever measured it
        results = [
            m if m.value is not None else replace(m, loss=None, flag=m.flag or f"loss {m.loss}") for m in results
        ]
        self.found += results
        return results

    @property
    def points(self) -> list[Measured]:
        """The search points that did not diverge."""
        return [m for m in self.found if m.trial.purpose == "search" and m.loss is not None]


def search(space: Space, pool: Pool, measure: Measure, settings: SearchSettings, *, seed: int) -> SearchResult:
    """Search a space.

    Args:
        space: what is searched.
        pool: the scored rows; baselines are the pool's.
        measure: from trials to their losses, in any order; one that diverged has loss None and a flag.
        seed: of draws, surrogate and measurements.

    Raises:
        TrainingError: fewer than 10 proxies did not diverge, or all candidates did.
    """
    log = _Log(measure)
    common = derive(seed, "search", "proxies")
    base = space.baselines(pool)
    rounds = _measure_points(log, space, settings, common, seed)
    noise_sd, first = _measure_noise(log, base, settings, common, seed)
    surrogate = _fitted(log, space, seed)
    proposal = None if surrogate.refusal else _propose(space, surrogate, settings, seed)

    candidates, shift = _measure_again(log, base, first, surrogate, proposal, settings, seed)
    verdict = decide(
        candidates,
        residual_sd=surrogate.fit.residual_sd,
        z=settings.z,
        refusal=surrogate.refusal,
        shift=shift,
        evidence=settings.evidence,
    )
    points = log.points
    winner = candidates[verdict.winner]
    diverged = [f"trial {m.trial.number} ({m.trial.label}) diverged: {m.flag}" for m in log.found if m.loss is None]
    return SearchResult(
        unit=winner.unit,
        label=winner.label,
        theta=space.describe(np.array(winner.unit)),
        verdict=verdict,
        candidates=tuple(candidates),
        alternatives={m.trial.label: space.describe(np.array(m.trial.unit)) for m in _best(points, settings)},
        names=space.names,
        fit=surrogate.fit,
        importances=surrogate.importances(),
        targets=_targets(points, space, seed),
        out_of_fold=tuple(
            (m.trial.number, _loss(m), float(p)) for m, p in zip(points, surrogate.out_of_fold, strict=True)
        ),
        averaged=() if proposal is None else tuple(float(v) for v in proposal.averaged),
        noise_sd=noise_sd,
        shift=shift,
        measured=tuple(log.found),
        rounds=rounds,
        warnings=(*pool.warnings, *diverged),
        settings=settings,
        seed=seed,
    )


def _loss(measured: Measured) -> float:
    assert measured.loss is not None
    return measured.loss


def _measure_points(log: _Log, space: Space, settings: SearchSettings, common: int, seed: int) -> tuple[str, ...]:
    """Measure the points to fit; says what proposed each round."""
    counts = settings.climb_rounds() if settings.method == "climb" else (settings.proxies,)
    by: list[str] = []
    for number, count in enumerate(counts):
        surrogate = _fitted(log, space, seed) if number else None
        if surrogate is not None and surrogate.refusal is None:
            units = next_round(space, surrogate, settings, count, seed=seed, number=number)
            by.append(f"{len(units)} points by the surrogate of {surrogate.fit.points}")
        else:
            # nothing was learned yet, so the round goes on looking everywhere
            units = space.draw(count, seed=seed, name="points" if number == 0 else f"points of round {number}")
            by.append(f"{len(units)} random points")
        done = sum(m.trial.purpose == "search" for m in log.found)
        log.run([(unit, common, "search", f"draw {done + i}") for i, unit in enumerate(units)])
    return tuple(by)


def _fitted(log: _Log, space: Space, seed: int) -> Surrogate:
    points = log.points
    if len(points) < LEAST:
        asked = [m for m in log.found if m.trial.purpose == "search"]
        flags = sorted({m.flag or "" for m in asked if m.loss is None})
        raise TrainingError(
            f"search: {len(points)} of {len(asked)} proxies have a finite loss, needed at least {LEAST} ("
            f"{'; '.join(flags[:3])}); lower the proxies' learning rate or measure more"
        )
    units = np.array([m.trial.unit for m in points])
    return fit_surrogate(
        units, np.array([_loss(m) for m in points]), seed=derive(seed, "search", "surrogate"), names=space.names
    )


def _targets(points: Sequence[Measured], space: Space, seed: int) -> dict[str, Fit]:
    """A judgement for each target set, where there are several and each point has them all."""
    names = sorted({name for m in points for name in m.losses})
    if len(names) < 2:
        return {}
    units = np.array([m.trial.unit for m in points])
    found: dict[str, Fit] = {}
    for name in names:
        values = np.array([m.losses.get(name, np.nan) for m in points])
        if np.isfinite(values).all():
            own = derive(seed, "search", "surrogate", name)
            found[name] = fit_surrogate(units, values, seed=own, names=space.names).fit
    return found


def _propose(space: Space, surrogate: Surrogate, settings: SearchSettings, seed: int) -> Proposal:
    if settings.method == "evolution":
        return evolve(space, surrogate, settings, seed=seed)
    return best_mean(space, surrogate, settings, seed=seed)


def _best(points: Sequence[Measured], settings: SearchSettings) -> list[Measured]:
    return sorted(points, key=lambda m: (_loss(m), m.trial.number))[: settings.top_measured]


def _measure_noise(
    log: _Log, base: dict[str, Floats], settings: SearchSettings, common: int, seed: int
) -> tuple[float | None, dict[str, float | None]]:
    """(deviation of ``natural`` over seeds, each baseline's loss under the search's seed)."""
    seeds = [common, *(derive(seed, "search", "noise", k) for k in range(1, settings.noise_seeds))]
    wanted: list[tuple[Floats, int, Purpose, str]] = [(base["natural"], s, "noise", "natural") for s in seeds]
    wanted += [(unit, common, "noise", name) for name, unit in base.items() if name != "natural"]
    found = log.run(wanted)
    natural = [m.loss for m in found[: len(seeds)] if m.loss is not None]
    first = {m.trial.label: m.loss for m in found if m.trial.seed == common}
    return float(np.std(natural, ddof=1)) if len(natural) > 1 else None, first


def _measure_again(
    log: _Log,
    base: dict[str, Floats],
    first: dict[str, float | None],
    surrogate: Surrogate,
    proposal: Proposal | None,
    settings: SearchSettings,
    seed: int,
) -> tuple[list[Candidate], float]:
    """(candidates with their fresh measurements, how much the fresh seeds raise the baselines' losses)."""
    pairs: list[tuple[str, Floats, float | None]] = []
    if proposal is not None:
        pairs.append((PROPOSED, proposal.unit, None))
    pairs += [(m.trial.label, np.array(m.trial.unit), m.loss) for m in _best(log.points, settings)]
    pairs += [(name, unit, first[name]) for name, unit in base.items()]
    seeds = [derive(seed, "search", "re-measure", k) for k in range(settings.remeasure_seeds)]
    found = log.run([(unit, s, "re-measure", label) for label, unit, _ in pairs for s in seeds])
    candidates: list[Candidate] = []
    for i, (label, unit, before) in enumerate(pairs):
        own = found[i * len(seeds) : (i + 1) * len(seeds)]
        predicted = None if proposal is None else float(surrogate.predict(unit[None])[0])
        candidates.append(
            Candidate(
                label=label,
                unit=tuple(float(v) for v in unit),
                predicted=predicted,
                measured=before,
                again=tuple(m.loss for m in own if m.loss is not None),
                diverged=sum(m.loss is None for m in own),
            )
        )
    moved = [c.mean - c.measured for c in candidates if c.label in base and c.measured is not None]
    finite = [v for v in moved if np.isfinite(v)]
    return candidates, float(np.mean(finite)) if finite else 0.0
