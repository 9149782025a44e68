"""A step that makes data by a voyage: problems or texts, what was dropped and why, and how it went by round.

    explore    explorers -> ``problems``, ``documents``, ``dropped``, ``rounds``, ``vectors``

One process does it: acceptance is in order, and what takes time are a model's answers. A build that is killed goes on
from its last whole round, and pays for no answer twice where they are kept. What a budget or patience cut short is
committed as it is, with the reason in ``stats``; a larger budget is another key, whose build finds the answers kept.

Dropped rows count under their stage: ``item`` (nothing that could be one), the name of a gate, ``embedding``; what the
search itself left out (too much alike, a copy, more than wanted, the first sample) counts under ``selection``, which no
``max_dropped`` guards.

Price: some milliseconds a batch beside proposing and embedding; memory is the items and their vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.embedding.config import EmbedConfig
from penstock.generators.answers import AnswerStore
from penstock.generators.base import LanguageModel, name_of, run
from penstock.generators.meter import Meter
from penstock.generators.prices import Prices
from penstock.generators.recipe import SUBSET, GenerateConfig
from penstock.generators.session import ModelSession
from penstock.generators.spending import remember
from penstock.generators.voyager import acceptance, rows
from penstock.generators.voyager.known import known_in
from penstock.generators.voyager.loop import explore
from penstock.generators.voyager.records import RoundRecord, Spending, Voyage, reasons_of
from penstock.pipelines.embed import embedder_of
from penstock.pipelines.passes import PartWriter, Split, add_numbers, splits_of
from penstock.seeding import derive
from penstock.step import Built, Context, Settings, Step

GENERATED = "generated"
TABLES = ("problems", "documents", "dropped", "rounds", "vectors")
_SELECTION = "selection"
_SEEDS = 500  # of a seed set, on the map
_CHOSEN = (acceptance.DUPLICATE, acceptance.DIVERSITY, acceptance.SURPLUS, acceptance.SAMPLE, SUBSET)


@dataclass(frozen=True)
class WriteVoyage:
    """Tables that the driver holds, as parts."""

    tables: dict[str, pa.Table]

    def __call__(self, split: Split, out: PartWriter) -> None:
        for name, table in self.tables.items():
            for batch in table.combine_chunks().to_batches():
                out.write(name, batch)


class Generated(Step):
    """Items of a voyage."""

    revision = 1
    libraries = ("numpy", "scipy", "reasoning-gym")

    def __init__(
        self,
        name: str,
        embedder: str,
        generate: GenerateConfig,
        embed: EmbedConfig,
        *,
        store: str | None = None,
        on_round: Callable[[RoundRecord], None] | None = None,
        budget: float | None = None,
        beside: str | None = None,
        number: int | None = None,
    ) -> None:
        """
        Args:
            embedder: the step with the embedder of the run kernel.
            embed: says where that embedder is.
            store: file of kept answers; None keeps none.
            on_round: hears of each round, in place of the reporter's progress.
            beside: a step with the table ``anchors`` of a corpus, beside which items have to be new.
            number: of this voyage among several for one corpus: each has draws and ids of its own.
        """
        self.name, self.budget, self.number = name, budget, number
        self.parents = (embedder,) if beside is None else (embedder, beside)
        self.generate, self.embed, self.store, self.on_round = generate, embed, store, on_round
        self._resolved: LanguageModel | None = None

    @property
    def _model(self) -> LanguageModel | None:
        """The model that is asked: resolved late, since a folder's is read for its fingerprint."""
        if self._resolved is None and self.generate.model is not None:
            self._resolved = self.generate.model.resolve()
        return self._resolved

    def config(self) -> dict[str, Any]:
        own = {} if self.number is None else {"number": self.number}
        return self.generate.said(self._model) | {"characters": self.embed.characters} | own

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {file.path: settings.fingerprint(file) for file in self.generate.inputs()}

    def build(self, context: Context) -> Built:
        asked = _Asked(self.store, self.generate)
        voyage = run(self._explore(context, asked))
        name = self.name if self.number is None else f"{self.name}-{self.number}"
        strategy = self.generate.voyage.threshold.strategy if voyage.kernel is not None else "none"
        keep = context.settings.dropped
        tables = {
            "problems": rows.problems(voyage, name, strategy),
            "documents": rows.documents(voyage, name, strategy),
            "dropped": rows.dropped(voyage, name, strategy, keep),
            "rounds": rows.rounds(voyage),
            "vectors": rows.vectors(voyage, name, self._seeds(context)),
        }
        # by what they hold: a build that is cut short here and then finds more answers kept writes other rows
        content = hash_json([[one.item_id, one.stage, one.reason, one.gain] for one in voyage.decisions])
        receipts = context.run("write", WriteVoyage(tables), splits_of([{"of": content}]))
        built = context.collect(receipts, *TABLES)
        dropped: dict[str, dict[str, int]] = {}
        for stage, reasons in reasons_of(voyage.decisions).items():
            work = dropped.setdefault(_SELECTION if stage in _CHOSEN else stage, {})
            for reason, number in reasons.items():
                work[reason] = work.get(reason, 0) + number
        built.counts = replace(built.counts, made=len(voyage.decisions), kept=len(voyage.accepted), dropped=dropped)
        built.stats = facts_of(voyage, self.generate.voyage.count)
        remember(context.folder, asked.meters())
        if len(voyage.accepted) < self.generate.voyage.count:
            context.reporter.warn(f"{self.name}: {voyage.detail}")
        return built

    def _seeds(self, context: Context) -> NDArray[np.float32] | None:
        """Embeddings of some of the seed set, where the gates have one."""
        gates = self.generate.gated
        texts = [] if gates is None else [text for text in gates.seed_texts() if text.strip()][:_SEEDS]
        if not texts:
            return None
        embedder = embedder_of(context.parents[self.parents[0]], self.embed.model)
        return embedder.embed([text[: self.embed.characters] for text in texts])

    async def _explore(self, context: Context, asked: _Asked) -> Voyage:
        seed = context.settings.seed if self.number is None else derive(context.settings.seed, "voyage", self.number)
        embedder = embedder_of(context.parents[self.parents[0]], self.embed.model)
        model = None if self._model is None else asked.session(self._model)
        roots, settings = self.generate.explorers(model, seed=seed, embedder=embedder)
        gates = self.generate.judges(
            embedder=embedder,
            seed=seed,
            folder=context.folder.join(context.prefix),
            session=asked.session,
        )
        asked.setup()

        def told(record: RoundRecord) -> None:
            if self.on_round is not None:
                self.on_round(record)
            else:
                context.reporter.progress(self, "accepted", record.total, settings.count)

        voyage = await explore(
            roots,
            settings,
            embedder=embedder,
            gates=gates,
            seed=seed,
            on_round=told,
            checkpoint=context.folder / context.prefix / "voyage",
            meter=asked.spending if asked.sessions else None,
            characters=self.embed.characters,
            known=known_in(context.parents[self.parents[1]]) if len(self.parents) > 1 else (),
        )
        if self.generate.baseline == SUBSET:
            return subset_of(voyage, self.generate.voyage.count)
        return voyage


class _Asked:
    """The models that a build asks, each with the store, the budget and a meter."""

    def __init__(self, store: str | None, config: GenerateConfig) -> None:
        self.sessions: list[ModelSession] = []
        self._store = None if store is None else AnswerStore(path=store)
        self._prices = Prices.of(config.prices) if config.prices else None
        self._budget = config.budget

    def session(self, model: LanguageModel) -> ModelSession:
        self.sessions.append(ModelSession(model, store=self._store, budget=self._budget, prices=self._prices))
        return self.sessions[-1]

    def setup(self) -> None:
        for session in self.sessions:
            session.setup()

    def spending(self) -> Spending:
        calls = sum(session.meter.requests for session in self.sessions)
        return Spending(calls, sum(session.meter.cost or 0.0 for session in self.sessions))

    def meters(self) -> dict[str, Meter]:
        """By the model's name; what is asked as a writer and as a judge adds up."""
        sums: dict[str, dict[str, Any]] = {}
        for session in self.sessions:
            add_numbers(sums.setdefault(name_of(session.model), {}), session.meter.counts())
        return {name: Meter.of(counts) for name, counts in sums.items()}


def subset_of(voyage: Voyage, count: int) -> Voyage:
    """The voyage with the ``count`` most diverse of its accepted items, the others dropped as ``not_chosen``."""
    from penstock.generators.explorers.baselines_model import subset

    accepted = voyage.accepted
    if not accepted:
        return voyage
    chosen = {accepted[row].item_id for row in subset(np.array([one.vector for one in accepted]), count)}
    decisions = tuple(
        replace(one, stage=SUBSET, reason="not_chosen") if one.accepted and one.item_id not in chosen else one
        for one in voyage.decisions
    )
    return replace(voyage, decisions=decisions)


def facts_of(voyage: Voyage, wanted: int) -> dict[str, Any]:
    """What a manifest says of a voyage."""
    records: Sequence[RoundRecord] = voyage.rounds
    calls = [one.calls for one in records if one.calls is not None]
    return {
        "voyage": {
            "wanted": wanted,
            "accepted": len(voyage.accepted),
            "reason": voyage.reason,
            "detail": voyage.detail,
            "threshold": None if voyage.threshold is None else round(voyage.threshold, 6),
            "kernel": None if voyage.kernel is None else dict(voyage.kernel),
            "vendi": round(records[-1].vendi, 6) if records else 0.0,
            "proposed": sum(one.proposed for one in records),
            "steps": sum(one.steps for one in records),
            "calls": sum(calls) if calls else None,
            "explorers": len(voyage.explorers),
        },
        "cost": sum(one.cost or 0.0 for one in records),
    }
