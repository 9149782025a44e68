"""A column of completions: one request a row, dead letters, nothing paid for twice, the same in any cut into parts."""

import json
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from penstock.dataset import Dataset, read_part
from penstock.errors import BudgetError, ConfigError
from penstock.generators.base import Completion, Usage
from penstock.generators.budget import Budget
from penstock.generators.prices import Prices
from penstock.generators.spending import spending
from penstock.pipelines.complete import Completed, Completing
from penstock.pipelines.home import HomeEngine
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder


@dataclass(frozen=True)
class Capitals:
    """Answers with the last turn in capitals; fails what says "bad", cuts what says "long". Notes each request."""

    log: str
    identity: dict = field(default_factory=lambda: {"kind": "fake", "model": "capitals"})

    def setup(self):
        pass

    def asked(self):
        try:
            with open(self.log) as file:
                return [json.loads(line) for line in file]
        except FileNotFoundError:
            return []

    async def complete(self, requests):
        out = []
        with open(self.log, "a") as file:
            for request in requests:
                text = request.prompt or request.messages[-1].content
                file.write(json.dumps(text) + "\n")
                usage = Usage(prompt_tokens=len(text), completion_tokens=3)
                finish = "length" if "long" in text else "stop"
                failed = Completion(error="status 400: no") if "bad" in text else None
                out.append(failed or Completion(text=text.upper(), usage=usage, finish=finish))
        return out


TEXTS = ["one", "bad two", None, "long three", "one", "{other} four", "five"]


def batch(texts, start=0):
    ids = [f"d#{start + i}" for i in range(len(texts))]
    other = [f"o{start + i}" for i in range(len(texts))]
    return pa.RecordBatch.from_pydict({"doc_id": ids, "text": pa.array(texts, pa.string()), "other": other})


@pytest.fixture
def home(tmp_path, commit_rows):
    """(root with documents, model, function that makes what is asked)."""
    root = tmp_path / "run"
    commit_rows(root, "documents", {"documents": [batch(TEXTS[:3]), batch(TEXTS[3:], 3)]})
    model = Capitals(str(tmp_path / "asked.jsonl"))

    def ask(**changes):
        settings = {"model": model, "template": "Say {text}!", "style": "prompt", "store": str(tmp_path / "a.sqlite")}
        return Completing(**settings | changes)

    return root, model, ask


def build(root, ask, *, workers=0, seed=0, **more):
    with HomeEngine(workers) as engine:
        step = Completed("completed", "documents", ask, **more)
        return run_step(step, Folder(str(root)), engine, Silent(), Settings(seed=seed, dropped="full"))


def rows(root, table, *columns):
    dataset = Dataset(f"{root}/completed")
    parts = dataset.manifest.tables[table].files
    read = [part for file in parts for part in read_part(dataset.folder, file, columns)]
    return [tuple(row.values()) for part in read for row in part.to_pylist()]


def test_rows_get_their_answer_and_failures_are_dead_letters_with_reason_and_error(home):
    root, _, ask = home
    result = build(root, ask())
    assert rows(root, "documents", "doc_id", "text", "completion", "completion_finish") == [
        ("d#0", "one", "SAY ONE!", "stop"),
        ("d#3", "long three", "SAY LONG THREE!", "length"),
        ("d#4", "one", "SAY ONE!", "stop"),
        ("d#5", "{other} four", "SAY {OTHER} FOUR!", "stop"),
        ("d#6", "five", "SAY FIVE!", "stop"),
    ]
    assert rows(root, "dropped", "doc_id", "step", "reason", "detail", "text") == [
        ("d#1", "completed", "status 400", "status 400: no", "bad two"),
        ("d#2", "completed", "no value", "no value", None),
    ]
    manifest = result.manifest
    assert manifest.counts.rows_in == 7
    assert manifest.counts.dropped == {"completed": {"status 400": 1, "no value": 1}}
    lengths = [len(f"Say {text}!") for text in ("one", "long three", "one", "{other} four", "five")]
    assert manifest.stats["completions"] == {
        "answered": 5, "cut": 1, "prompt_tokens": sum(lengths), "completion_tokens": 15,
    }  # fmt: skip


def test_what_it_took_is_in_the_run_and_not_in_the_manifest(home):
    root, _, ask = home
    prices = Prices.of({"capitals": {"prompt": 1e6, "completion": 0}})
    manifest = build(root, ask(), prices=prices).manifest
    assert "took" not in manifest.stats
    ((model, told),) = spending(Folder(str(root)))["completed"].items()
    assert (model, told["requests"], told["kept"], told["failed"]) == ("capitals", 6, 1, {"status 400": 1})
    assert told["asked"] == 5
    assert told["cost"] == pytest.approx(told["prompt_tokens"])
    assert told["latency"]["p50"] is not None


def test_the_same_rows_in_other_parts_and_by_workers_give_the_same_dataset(home, commit_rows, tmp_path):
    root, _, ask = home
    one = build(root, ask()).manifest
    other = tmp_path / "other"
    commit_rows(other, "documents", {"documents": [batch(TEXTS)]})
    two = build(other, ask(store=str(tmp_path / "b.sqlite")), workers=2).manifest
    assert (one.digest, one.stats, one.counts) == (two.digest, two.stats, two.counts)


def test_a_build_with_other_settings_pays_only_for_what_is_new(home):
    root, model, ask = home
    build(root, ask())
    first = model.asked()
    assert build(root, ask()).skipped
    build(root, ask(column="shout"))
    assert [text for text in model.asked()[len(first) :]] == ["Say bad two!"], "failures are asked again"
    build(root, ask(template="Tell {text} {other}"))
    assert "Tell one o4" in model.asked()


def test_a_budget_stops_the_step_without_a_commit_and_a_larger_one_goes_on(home):
    root, model, ask = home
    with pytest.raises(BudgetError, match="allowed 3"):
        build(root, ask(), limits=Budget(max_requests=3), workers=2)
    assert not (root / "completed" / "manifest.json").exists()
    assert model.asked() == ["Say one!", "Say bad two!", "Say long three!"]
    build(root, ask(), limits=Budget(max_requests=3))
    assert sorted(model.asked()[3:]) == ["Say five!", "Say {other} four!"], "the first part is done, one answer kept"


def test_a_conversation_has_its_system_turn_and_its_settings(home):
    _, _, ask = home
    request = ask(style="chat", system="Be short.", max_tokens=9, temperature=0.5, top_p=0.9, stop=("x",)).request(
        {"text": "{text}"}, seed=4
    )
    assert [tuple(turn) for turn in request.messages] == [("system", "Be short."), ("user", "Say {text}!")]
    assert (request.max_tokens, request.temperature, request.top_p, request.stop) == (9, 0.5, 0.9, ("x",))
    assert request.seed == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"template": "Say it"}, r"got no \{column\}"),
        ({"style": "poem"}, "style: got 'poem'"),
        ({"system": "Be."}, "system: got one beside style prompt"),
        ({"column": "text"}, "column: got 'text', allowed a name that the template does not read"),
        ({"max_tokens": 0}, "got max_tokens 0"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(home, given, message):
    with pytest.raises(ConfigError, match=message):
        home[2](**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"template": "{text} {nothing}"}, "a template that reads nothing, the documents have doc_id, text, other"),
        ({"column": "other"}, "a new column other, the documents have"),
    ],
)
def test_columns_that_are_not_there_or_there_already_are_refused(home, given, message):
    root, model, ask = home
    with pytest.raises(ConfigError, match=message):
        build(root, ask(**given))
    assert model.asked() == []
