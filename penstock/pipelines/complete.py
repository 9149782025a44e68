"""A column of completions: every document is put into a template, and a language model answers.

    completed   part -> one request a row -> its rows with the answer, dead letters in ``dropped``

    ask = Completing(model=GeneratorConfig(url=…, model=…).resolve(), template="Summarise:\n{text}", column="summary")
    run_step(Completed("completed", "documents", ask), root, engine, reporter, settings)

A row is one request, made from its columns alone and the run's seed, so it does not matter how rows are cut into parts;
equal requests are one. A row whose request fails, or whose columns hold no value, goes to ``dropped`` with the kind of
failure as its reason and the whole error as its detail; no other row is touched. Answers are kept by request in the
store (``generators.session``): a step that was killed, or one whose other settings change, pays for none twice, and
asks again for what failed.

The manifest holds what the answers are: requests, failures by kind, tokens. What it took to get them (asked or kept,
cost, latency) is in the run's ``models.json`` (``generators.spending``).

With a budget all parts are asked from this process, since it bounds them together, and so they are where this process
has started the model's server; else each worker asks for its own. When a budget is spent the step stops without a
commit; parts that are done, and all answers, are kept.

Price: that of the model; memory is a batch of rows and their answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from penstock.dataset import read_part
from penstock.errors import ConfigError
from penstock.generators.answers import AnswerStore, default_store
from penstock.generators.base import Completion, Message, Request, failure, name_of, run
from penstock.generators.budget import Budget
from penstock.generators.meter import Meter
from penstock.generators.prices import Prices
from penstock.generators.served import ServedModel
from penstock.generators.session import ModelSession
from penstock.generators.spending import remember
from penstock.pipelines.documents import part_splits
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import PartWriter, Split
from penstock.step import Built, Context, Step
from penstock.storage import Folder
from penstock.work import with_columns

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_NO_VALUE = "no value"


@dataclass(frozen=True, kw_only=True)
class Completing:
    """What is asked about each row, and of whom.

    Args:
        model: a ``LanguageModel``.
        template: the prompt, with ``{column}`` for the values of a row; other braces stand for themselves.
        column: that the answers go to; ``COLUMN_finish`` says why each ended (``stop``, ``length``).
        style: ``prompt`` to be completed as it stands, or ``chat`` for one turn of a conversation.
        system: turn before it; for ``chat``.
        max_tokens, temperature, top_p, stop: as of ``Request``.
        store: SQLite file of kept answers; None is the user's.
    """

    model: Any  # a LanguageModel; a protocol would not survive dataclasses.asdict
    template: str
    column: str = "completion"
    style: Literal["prompt", "chat"] = "chat"
    system: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    store: str | None = None

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("complete template: got no {column}, allowed one or more; every row would ask the same")
        if self.style not in ("prompt", "chat"):
            raise ConfigError(f"complete style: got {self.style!r}, allowed prompt or chat")
        if self.system is not None and self.style != "chat":
            raise ConfigError("complete system: got one beside style prompt, allowed beside chat; leave it out")
        if not self.column or self.column in self.fields:
            raise ConfigError(f"complete column: got {self.column!r}, allowed a name that the template does not read")
        self.request({name: "" for name in self.fields}, 0)  # its checks of the rest

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that the template reads."""
        return tuple(dict.fromkeys(_FIELD.findall(self.template)))

    @property
    def adds(self) -> tuple[str, str]:
        return self.column, f"{self.column}_finish"

    def request(self, row: dict[str, Any], seed: int) -> Request:
        """What is asked about a row."""
        # in one pass: what a value says is never read as a field
        asked = _FIELD.sub(lambda match: str(row[match[1]]), self.template)
        told: dict[str, Any] = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "stop")}
        if self.style == "prompt":
            return Request(prompt=asked, seed=seed, **told)
        before = () if self.system is None else (Message("system", self.system),)
        return Request(messages=(*before, Message("user", asked)), seed=seed, **told)

    def session(self, prices: Prices | None, budget: Budget | None = None) -> ModelSession:
        """The model with the store around it."""
        store = AnswerStore(path=self.store or default_store())
        return ModelSession(self.model, store=store, budget=budget, prices=prices)

    def said(self) -> dict[str, Any]:
        """What decides the answers (JSON values)."""
        apart = ("model", "store")
        own = {name: value for name, value in vars(self).items() if name not in apart}
        return own | {"revision": self.revision, "model": self.model.identity}


@dataclass(frozen=True)
class CompletePart:
    """The answers for one part of documents."""

    parent: Folder
    step: str
    ask: Completing
    seed: int
    dropped: str
    prices: Prices | None
    session: ModelSession | None  # shared by all parts, where they are asked from one process

    def __call__(self, split: Split, out: PartWriter) -> None:
        session = self.session or self.ask.session(self.prices)
        session.meter = Meter()  # of this part
        for batch in read_part(self.parent, split.payload.file):
            self._batch(session, batch, out)
        out.add_stats({"took": session.meter.counts()})

    def _batch(self, session: ModelSession, batch: pa.RecordBatch, out: PartWriter) -> None:
        rows = batch.select(list(self.ask.fields)).to_pylist()
        asked = [place for place, row in enumerate(rows) if all(value is not None for value in row.values())]
        answers: list[Completion] = [Completion(error=_NO_VALUE)] * len(rows)
        requests = [self.ask.request(rows[place], self.seed) for place in asked]
        for place, answer in zip(asked, run(session.complete(requests)), strict=True):
            answers[place] = answer
        good = pa.array([answer.error is None for answer in answers], pa.bool_())
        text, finish = self.ask.adds
        columns = {
            text: pa.array([answer.text for answer in answers], pa.string()),
            finish: pa.array([answer.finish for answer in answers], pa.string()),
        }
        kept = with_columns(batch, columns).filter(good)
        errors = [answer.error for answer in answers if answer.error is not None]
        reasons = pa.array([failure(error) for error in errors], pa.string())
        lost = batch.filter(pc.invert(good))
        out.drop(lost, reasons, step=self.step, keep=self.dropped, detail=pa.array(errors, pa.string()))
        out.count(rows_in=len(rows), kept=kept.num_rows)
        out.add_stats({"completions": _figures(answers)})
        out.write("documents", kept)


def _figures(answers: list[Completion]) -> dict[str, Any]:
    """Sums that are the same however the answers were got."""
    return {
        "answered": sum(answer.error is None for answer in answers),
        "cut": sum(answer.finish == "length" for answer in answers),
        "prompt_tokens": sum(answer.usage.prompt_tokens for answer in answers),
        "completion_tokens": sum(answer.usage.completion_tokens for answer in answers),
    }


class Completed(Step):
    """Documents with a column of completions."""

    revision = 1

    def __init__(
        self,
        name: str,
        documents: str,
        ask: Completing,
        *,
        prices: Prices | None = None,
        limits: Budget | None = None,
        budget: float | None = None,
    ) -> None:
        """
        Args:
            documents: the step whose table ``documents`` is read.
            limits: of all requests of one build; answers from the store cost nothing.
            budget: seconds; shown.
        """
        self.name, self.parents, self.budget = name, (documents,), budget
        self.ask, self.prices, self.limits = ask, prices, limits

    def config(self) -> dict[str, Any]:
        return self.ask.said()

    def build(self, context: Context) -> Built:
        documents = context.parents[self.parents[0]]
        table = documents.table("documents")
        missing = [name for name in self.ask.fields if name not in table.columns]
        there = [name for name in self.ask.adds if name in table.columns]
        if missing or there:
            what = f"a template that reads {', '.join(missing)}" if missing else f"a new column {there[0]}"
            raise ConfigError(
                f"{self.name}: got {what}, the documents have {', '.join(table.columns)}; change the name"
            )
        self.ask.model.setup()
        session = None
        if self.limits is not None or isinstance(self.ask.model, ServedModel):
            session = self.ask.session(self.prices, self.limits)
            context = replace(context, engine=HomeEngine(0))
        settings = context.settings
        work = CompletePart(
            documents.folder, self.name, self.ask, settings.seed, settings.dropped, self.prices, session
        )
        receipts = context.run("complete", work, part_splits(table), reuse=self.config())
        built = context.collect(receipts, "documents", "dropped")
        took = Meter.of(built.stats.pop("took", {}))
        remember(context.folder, {name_of(self.ask.model): took})
        return built
