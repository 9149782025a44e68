"""Problems to groups of a question and its verified variants, as a step.

    transformed  problems -> transforms -> verification ladder -> groups, ``dropped``

Of every problem the original stands first (``sub_index`` 0), its variants follow with the verdicts that let them in.
What a check stopped is in ``dropped`` under its transform, with the check as reason and its evidence as detail. A
problem without a verified variant makes no group: it is dropped, or kept apart in the table ``alone``.

Rules run as a pass over all cores. Where a model is asked, one process does everything: it waits for answers most of
the time, and one budget and one store hold for all of it. A killed build goes on from its last chunk of problems and
pays for no answer twice; its budget begins anew.

Price: the rules some 1 ms a problem on one core; with a model its requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from penstock import schema
from penstock.dataset import FileEntry, TableEntry, read_part
from penstock.embedding.base import Embedder
from penstock.embedding.config import EmbedConfig
from penstock.errors import ConfigError
from penstock.generators.answers import AnswerStore
from penstock.generators.base import LanguageModel, failure, name_of, run
from penstock.generators.items import Verdict
from penstock.generators.meter import Meter
from penstock.generators.prices import Prices
from penstock.generators.session import ModelSession
from penstock.generators.spending import remember
from penstock.generators.transforms.base import ModelTransform, Problem, RuleTransform
from penstock.generators.transforms.config import Alone, TransformConfig
from penstock.generators.transforms.making import BUDGET, Group, Maker
from penstock.generators.transforms.prompted import PromptedTransform, model_transforms
from penstock.generators.transforms.rules import rules_of
from penstock.generators.verification.agreement import SolveAgreement, shifts
from penstock.generators.verification.band import EmbeddingBand
from penstock.generators.verification.base import Check, ModelCheck
from penstock.generators.verification.catalogue import checks_of
from penstock.generators.verification.judge import Judge, prompts_of
from penstock.generators.verification.ladder import Judged, Ladder
from penstock.generators.verification.workers import AnswerVerifier
from penstock.pipelines.embed import embedder_of
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import PartWriter, Receipt, Split
from penstock.pipelines.problems import PROBLEMS, drop_texts, whole_problems
from penstock.step import Built, Context, Step
from penstock.storage import Folder

TRANSFORMED = "transformed"
GROUPS = pa.schema(
    [*schema.PROBLEMS, pa.field("sub_index", pa.int32(), nullable=False), pa.field("transform", pa.string())]
)

_RULE_ROWS = 512  # of one split: small enough to fill all cores with a few thousand problems
_MODEL_ROWS = 64  # of one split: what a killed build repeats, from the store of answers


@dataclass(frozen=True)
class ProblemRows:
    """A split: consecutive rows of a part of ``problems``."""

    file: FileEntry
    start: int
    stop: int


def row_splits(table: TableEntry, rows: int) -> list[Split]:
    """Splits of ``rows`` problems; a memo is the content that a split reads."""
    pieces = [
        ProblemRows(file, start, min(start + rows, file.rows))
        for file in table.files
        for start in range(0, file.rows, rows)
    ]
    return [Split(i, piece, memo=f"{piece.file.sha256}:{piece.start}:{piece.stop}") for i, piece in enumerate(pieces)]


@dataclass(frozen=True)
class MakeGroups:
    """The groups of a split."""

    parent: Folder
    maker: Maker
    alone: Alone
    dropped: str
    sessions: tuple[ModelSession, ...] = ()  # whose meters go into the receipts

    def __call__(self, split: Split, out: PartWriter) -> None:
        given = _slice(self.parent, split.payload)
        rows = whole_problems(given, out, step="originals", keep=self.dropped)
        problems = [Problem(problem_id=row["problem_id"], prompt=row["prompt"], answer=row["answer"]) for row in rows]
        groups, stopped = run(self.maker.make(problems))
        self._write(out, PROBLEMS, [row for pair in zip(rows, groups, strict=True) for row in group_rows(*pair)])
        lonely = [row for row, group in zip(rows, groups, strict=True) if not group.kept]
        if self.alone == "keep":
            self._write(out, "alone", [_row_of(row) for row in lonely])
        else:
            why = [BUDGET if stopped is not None else "no_verified_variant"] * len(lonely)
            drop_texts(out, [(r["problem_id"], r["prompt"]) for r in lonely], why, step="originals", keep=self.dropped)
        self._rejected(out, groups)
        out.add_stats(group_stats(groups))
        for session in self.sessions:
            out.add_stats({"asked": {name_of(session.model): session.meter.counts()}})
            session.meter = Meter()
        if stopped is not None:
            out.add_stats({"stopped": {str(stopped): 1}})

    def _write(self, out: PartWriter, table: str, rows: list[dict[str, Any]]) -> None:
        out.count(kept=len(rows))
        out.write(table, pa.RecordBatch.from_pylist(rows, schema=GROUPS))

    def _rejected(self, out: PartWriter, groups: Sequence[Group]) -> None:
        out.count(made=sum(len(group.kept) + len(group.rejected) for group in groups))
        for transform in self.maker.transforms:
            gone = [(g, one) for g in groups for one in g.rejected if one.variant.transform == transform.name]
            kept = sum(one.pair.variant.transform == transform.name for g in groups for one in g.kept)
            if gone or kept:
                known = out.receipt.rows.setdefault(transform.name, [0, 0])
                known[0] += kept + len(gone)
                known[1] += kept
            texts = [(_variant_id(g.problem.problem_id, transform.name), one.variant.prompt) for g, one in gone]
            reasons, details = [one.reason for _, one in gone], [one.detail for _, one in gone]
            drop_texts(out, texts, reasons, step=transform.name, keep=self.dropped, details=details)


def _slice(folder: Folder, piece: ProblemRows) -> list[dict[str, Any]]:
    at, out = 0, []
    for batch in read_part(folder, piece.file, schema.PROBLEMS.names):
        first, last = max(piece.start - at, 0), min(piece.stop - at, batch.num_rows)
        if first < last:
            out += batch.slice(first, last - first).to_pylist()
        at += batch.num_rows
    return out


def _variant_id(problem_id: str, transform: str) -> str:
    return f"{problem_id}~{transform}"  # a problem tries a transform once


def group_rows(row: dict[str, Any], group: Group) -> Iterator[dict[str, Any]]:
    """Rows of ``GROUPS``: the original and its variants; none where there is no variant."""
    if not group.kept:
        return
    yield _row_of(row)
    for place, judged in enumerate(group.kept, 1):
        yield _row_of(row) | _of_variant(row, judged, place)


def _row_of(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"group_id": row["problem_id"], "variant": "original", "sub_index": 0, "transform": None}


def _of_variant(row: dict[str, Any], judged: Judged, place: int) -> dict[str, Any]:
    variant = judged.pair.variant
    provenance = {
        "transform": variant.transform,
        "edits": [list(edit) for edit in variant.edits],
        "mapping": dict(variant.mapping),
        "facts": dict(variant.facts),
    }
    return {
        "problem_id": _variant_id(row["problem_id"], variant.transform),
        "variant": variant.kind,
        "prompt": variant.prompt,
        "original_prompt": row["prompt"],
        "answer": variant.answer,
        "verdicts": [verdict._asdict() for verdict in judged.verdicts],
        "parents": [row["problem_id"]],
        "provenance": json.dumps(provenance, sort_keys=True),
        "sub_index": place,
        "transform": variant.transform,
    }


def group_stats(groups: Sequence[Group]) -> dict[str, Any]:
    """Counters that add up: by transform what became of it, by kind what was kept, groups by size, shifts summed."""
    stats: dict[str, Any] = {"transforms": {}, "kinds": {}, "sizes": {}, "shift": {}}

    def add(*path: str, n: float = 1) -> None:
        at = stats
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = at.get(path[-1], 0) + n

    verdicts: list[tuple[str, Verdict]] = []
    for group in groups:
        add("sizes", str(len(group.kept) + 1 if group.kept else 0))
        for judged in group.kept:
            add("transforms", judged.pair.variant.transform, "kept")
            add("kinds", judged.pair.variant.kind)
            verdicts += [(judged.pair.variant.kind, verdict) for verdict in judged.verdicts]
        for rejected in group.rejected:
            add("transforms", rejected.variant.transform, "rejected", rejected.reason)
        for one in group.not_applicable:
            add("transforms", one.transform, "not_applicable", failure(one.reason))
    for kind, found in shifts(verdicts).items():
        add("shift", kind, "pairs", n=found["pairs"])
        add("shift", kind, "sum", n=found["pairs"] * found["shift"])
    return stats


class Transformed(Step):
    """Groups of problems and their verified variants."""

    revision = 1
    libraries = ("math-verify", "sympy")

    def __init__(
        self,
        name: str,
        problems: str,
        config: TransformConfig,
        *,
        embedder: str | None = None,
        embed: EmbedConfig | None = None,
        store: str | None = None,
        budget: float | None = None,
    ) -> None:
        """
        Args:
            problems: the step whose table ``problems`` is transformed.
            embedder: the step with the embedder of ``config.embedding_band``.
            embed: the settings of that step.
            store: file of kept answers; None keeps none.

        Raises:
            ConfigError: an embedding band without an embedder's step, or a prompt that is not acceptable.
        """
        if (config.embedding_band is None) != (embedder is None):
            raise ConfigError("embedding_band: got one of the band and the embedder's step, allowed both or neither")
        self.name, self.transform, self.store, self.budget = name, config, store, budget
        self.embed = embed or EmbedConfig()
        self.parents = (problems, *(() if embedder is None else (embedder,)))
        self._models: dict[str, LanguageModel] = {}

    # what is asked, and how: resolved late, since a folder's model is read for its fingerprint

    def _model(self, role: str) -> LanguageModel | None:
        """The model that writes variants, or the reference."""
        config = self.transform
        asked = config.model if role == "model" else config.reference or config.model
        if asked is None:
            return None
        if role not in self._models:
            same = role == "reference" and config.reference is None
            self._models[role] = self._model("model") if same else asked.resolve()  # type: ignore[assignment]
        return self._models[role]

    def config(self) -> dict[str, Any]:
        config = self.transform
        settings = asdict(config)
        for name in ("model", "reference", "prompts", "check_prompts", "prices"):
            settings.pop(name)  # where things lie; what they are follows
        if config.rules:
            settings["rules"] = [rule.name for rule in rules_of(config.kinds)]
        if config.model is not None:
            settings["model"] = _known(self._model("model"))
            settings["prompts"] = {one.kind: one.prompt.digest for one in self._prompted(self._model("model"))}
        if config.judge or config.solve is not None:
            settings["reference"] = _known(self._model("reference"))
            settings["check_prompts"] = {n: p.digest for n, p in prompts_of(config.check_prompts).items()}
        if config.budget.max_cost is not None:
            settings["prices"] = dict(config.prices)  # they decide where the budget ends
        return settings

    def guarded(self) -> tuple[str, ...]:
        return (self.name, "originals", *(one.name for one in self._transforms(self._model("model"))))

    def _prompted(self, model: LanguageModel | None) -> tuple[PromptedTransform, ...]:
        config = self.transform
        if model is None:
            return ()
        return model_transforms(
            model,
            kinds=config.kinds,
            prompts=config.prompts,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
        )

    def _transforms(self, model: LanguageModel | None) -> tuple[RuleTransform | ModelTransform, ...]:
        rules = rules_of(self.transform.kinds) if self.transform.rules else ()
        return (*rules, *self._prompted(model))

    def _checks(
        self, reference: LanguageModel | None, verifier: AnswerVerifier | None, embedder: Embedder | None, seed: int
    ) -> tuple[Check | ModelCheck, ...]:
        config = self.transform
        checks: list[Check | ModelCheck] = [*checks_of(config.checks)]
        if config.judge or config.solve is not None:
            assert reference is not None
            files = prompts_of(config.check_prompts)
            if config.judge:
                checks.append(Judge(model=reference, prompt=files["judge"]))
            if config.solve is not None:
                assert verifier is not None
                checks.append(
                    SolveAgreement(
                        model=reference,
                        verifier=verifier,
                        prompt=files["solve"],
                        samples=config.solve.samples,
                        band=config.solve.band,
                        originals=config.solve.originals,
                        temperature=config.solve.temperature,
                        max_tokens=config.solve.max_tokens,
                        seed=seed,
                    )
                )
        if config.embedding_band is not None:
            assert embedder is not None
            checks.append(EmbeddingBand(embedder=embedder, band=config.embedding_band))
        return tuple(checks)

    def build(self, context: Context) -> Built:
        problems = context.parents[self.parents[0]]
        table = problems.table(PROBLEMS)
        schema.require(table.columns, schema.PROBLEMS.names, where=problems.folder.url)
        embedder = None
        if self.transform.embedding_band is not None:
            embedder = embedder_of(context.parents[self.parents[1]], self.embed.model)
        if self.transform.asks:
            receipts = self._ask(context, problems.folder, table, embedder)
        else:
            work = self._work(context, problems.folder, embedder)
            said = self.config() | {"embedder": [context.parents[name].digest for name in self.parents[1:]]}
            receipts = context.run("variants", work, row_splits(table, _RULE_ROWS), reuse=said)
        built = context.collect(receipts, PROBLEMS, "alone", "dropped")
        for found in built.stats["shift"].values():
            found["shift"] = round(found.pop("sum") / found["pairs"], 6)
        remember(context.folder, {model: Meter.of(counts) for model, counts in built.stats.pop("asked", {}).items()})
        for why in built.stats.get("stopped", ()):
            context.reporter.warn(f"{self.name}: {why}; what was verified before is kept")
        return built

    def _work(
        self,
        context: Context,
        folder: Folder,
        embedder: Embedder | None,
        model: ModelSession | None = None,
        reference: ModelSession | None = None,
        verifier: AnswerVerifier | None = None,
    ) -> MakeGroups:
        seed = context.settings.seed
        maker = Maker(
            transforms=self._transforms(model),
            ladder=Ladder(checks=self._checks(reference, verifier, embedder, seed)),
            per_problem=self.transform.per_problem,
            seed=seed,
        )
        sessions = tuple({id(one): one for one in (model, reference) if one is not None}.values())
        return MakeGroups(folder, maker, self.transform.alone, context.settings.dropped, sessions)

    def _ask(self, context: Context, folder: Folder, table: TableEntry, embedder: Embedder | None) -> list[Receipt]:
        """The groups, made in this process."""
        config = self.transform
        store = None if self.store is None else AnswerStore(path=self.store)
        prices = Prices.of(config.prices) if config.prices else None
        sessions: dict[int, ModelSession] = {}

        def session(role: str) -> ModelSession | None:
            """One for a model, whatever it is asked for, so that its budget is one."""
            model = self._model(role)
            if model is not None and id(model) not in sessions:
                sessions[id(model)] = ModelSession(model, store=store, budget=config.budget, prices=prices)
                sessions[id(model)].setup()
            return None if model is None else sessions[id(model)]

        with ExitStack() as stack:
            verifier = None
            if config.solve is not None:
                verifier = stack.enter_context(AnswerVerifier(deadline=config.solve.deadline))
            reference = session("reference") if config.judge or config.solve is not None else None
            work = self._work(context, folder, embedder, session("model"), reference, verifier)
            here = replace(context, engine=HomeEngine(0))  # one process: budget, store and verifier are one
            return here.run("variants", work, row_splits(table, _MODEL_ROWS))


def _known(model: LanguageModel | None) -> dict[str, Any]:
    assert model is not None
    return model.identity
