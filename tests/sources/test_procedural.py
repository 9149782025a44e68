"""Generated problems: each depends on its own number alone and carries a verified answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pyarrow as pa
import pytest

from penstock import schema, seeding
from penstock.errors import ConfigError
from penstock.sources import procedural
from penstock.sources.base import SourceSplit
from penstock.sources.procedural import FAMILIES, ProceduralSource

HUGE = 1 << 40


def read(src: ProceduralSource, target: int = HUGE) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    documents: list[dict[str, Any]] = []
    drops: list[dict[str, Any]] = []
    src = ForkingPickler.loads(ForkingPickler.dumps(src))
    for split in src.plan(target):
        for rows in src.read(SourceSplit.from_json(json.loads(json.dumps(split.to_json()))), dropped="full"):
            assert rows.documents.schema.equals(schema.DOCUMENTS)
            assert rows.dropped.schema.equals(schema.DROPPED)
            documents += rows.documents.to_pylist()
            drops += rows.dropped.to_pylist()
    return documents, drops


def test_every_default_family_gives_verified_problems_in_the_order_of_name_and_number():
    documents, drops = read(ProceduralSource(count=3))
    assert drops == []
    assert [d["doc_id"] for d in documents] == [f"procedural/{f}#{i}" for f in sorted(FAMILIES) for i in range(3)]
    assert {d["domain"] for d in documents} == {"procedural"}
    assert all(d["text"].startswith("Question: ") and "\nAnswer: " in d["text"] for d in documents)
    assert len({d["content_hash"] for d in documents}) > 30


def test_a_problem_depends_on_seed_family_and_number_only():
    src = ProceduralSource(families=("chain_sum", "gcd", "syllogism"), count=12, seed=5)
    expected, _ = read(src)
    for target in (1, 700):
        assert read(src, target)[0] == expected
    longer, _ = read(ProceduralSource(families=("gcd", "syllogism", "chain_sum"), count=15, seed=5))
    texts = {d["doc_id"]: d["text"] for d in longer}
    assert {d["doc_id"]: d["text"] for d in expected}.items() <= texts.items()


def test_seed_and_number_do_not_add_up():
    first, second = (read(ProceduralSource(families=("chain_sum",), count=50, seed=s))[0] for s in (0, 1))
    assert [d["text"] for d in first[1:]] != [d["text"] for d in second[:-1]]
    assert {d["text"] for d in first}.isdisjoint(d["text"] for d in second)


def test_two_processes_with_other_string_hashes_make_the_same_problems():
    code = (
        "from penstock.sources.procedural import ProceduralSource as P\n"
        "s = P(count=4)\n"
        "print([r.documents['content_hash'].to_pylist() for p in s.plan(1 << 30) for r in s.read(p, dropped='ids')])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": path},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 500


def test_parameters_reach_the_family_and_its_domain_may_be_its_own():
    src = ProceduralSource(
        families=("chain_sum",),
        count=5,
        config={"chain_sum": {"min_terms": 7, "max_terms": 7, "min_digits": 1, "max_digits": 1}},
        domain="family",
    )
    documents, _ = read(src)
    assert {d["domain"] for d in documents} == {"chain_sum"}
    for document in documents:
        question, answer = document["text"].split("\nAnswer: ")
        expression = question.rsplit(": ", 1)[1].removesuffix(" =")
        terms = expression.replace(" - ", " + -").split(" + ")
        assert len(terms) == 7
        assert sum(map(int, terms)) == int(answer)


def test_problems_are_rows_of_the_problems_table_and_can_be_made_again():
    src = ProceduralSource(families=("fraction_simplification", "gcd"), count=4, seed=3)
    batches = [batch for split in src.plan(HUGE) for batch in src.problems(split)]
    table = pa.Table.from_batches(batches, schema=schema.PROBLEMS)
    documents, _ = read(src)
    assert table["problem_id"].to_pylist() == [d["doc_id"] for d in documents]
    for row, document in zip(table.to_pylist(), documents, strict=True):
        assert document["text"] == f"Question: {row['prompt']}\nAnswer: {row['answer']}"
        assert (row["group_id"], row["variant"], row["original_prompt"]) == (
            row["problem_id"],
            "original",
            row["prompt"],
        )
        assert row["verdicts"] == [{"check": "score_answer", "passed": True, "detail": "1.0"}]
        origin = json.loads(row["provenance"])
        assert origin["item_seed"] == seeding.derive(3, origin["family"], origin["index"])
        import reasoning_gym

        again = reasoning_gym.create_dataset(origin["family"], seed=origin["item_seed"], size=1, **origin["config"])
        assert again[0]["question"] == row["prompt"]
        assert again.score_answer(row["answer"], again[0]) == 1.0


def test_a_family_that_sets_the_decimal_precision_sets_it_for_no_other():
    parameters = {"min_digits": 9, "max_digits": 9, "min_decimal_places": 8, "max_decimal_places": 8}
    alone = ProceduralSource(families=("decimal_chain_sum",), count=8, config={"decimal_chain_sum": parameters})
    expected = [row["text"] for row in read(alone)[0]]
    both = ProceduralSource(
        families=("decimal_arithmetic", "decimal_chain_sum"),
        count=8,
        config={"decimal_arithmetic": {"precision": 6}, "decimal_chain_sum": parameters},
    )
    assert [row["text"] for row in read(both)[0] if "decimal_chain_sum" in row["doc_id"]] == expected


def test_a_family_without_a_reference_answer_gives_no_problem():
    src = ProceduralSource(families=("propositional_logic",), count=4)
    documents, drops = read(src)
    assert documents == []
    assert [(d["doc_id"], d["reason"]) for d in drops] == [
        (f"procedural/propositional_logic#{i}", "answer_not_verified") for i in range(4)
    ]
    assert [batch for split in src.plan(HUGE) for batch in src.problems(split)] == []


def test_an_answer_scored_below_one_is_dropped_with_its_score(monkeypatch):
    make, configure = procedural._registry()["gcd"]

    class Strict(make):  # type: ignore[misc, valid-type]
        def score_answer(self, answer: Any, entry: Any) -> float:
            return 0.99 if self.seed == seeding.derive(0, "gcd", 1) else super().score_answer(answer, entry)

    monkeypatch.setitem(procedural._registry(), "gcd", (Strict, configure))
    src = ProceduralSource(families=("gcd",), count=3)
    (split,) = src.plan(HUGE)
    (rows,) = src.read(split, dropped="full")
    (batch,) = src.problems(split)
    assert (
        rows.documents["doc_id"].to_pylist()
        == batch["problem_id"].to_pylist()
        == [
            "procedural/gcd#0",
            "procedural/gcd#2",
        ]
    )
    (drop,) = rows.dropped.to_pylist()
    assert (drop["doc_id"], drop["reason"], drop["detail"]) == ("procedural/gcd#1", "answer_not_verified", "score 0.99")
    assert drop["text"].startswith("Question: ")


def test_a_generator_that_fails_costs_its_problem(monkeypatch):
    make, configure = procedural._registry()["gcd"]

    class Failing(make):  # type: ignore[misc, valid-type]
        def __getitem__(self, index: int) -> Any:
            if self.seed == seeding.derive(0, "gcd", 1):
                raise ZeroDivisionError("no such problem")
            return super().__getitem__(index)

    monkeypatch.setitem(procedural._registry(), "gcd", (Failing, configure))
    documents: list[str] = []
    drops: list[tuple[str, str, str]] = []
    src = ProceduralSource(families=("gcd",), count=3)
    for split in src.plan(HUGE):
        for rows in src.read(split, dropped="ids"):
            documents += rows.documents["doc_id"].to_pylist()
            drops += [(d["doc_id"], d["reason"], d["detail"]) for d in rows.dropped.to_pylist()]
    assert documents == ["procedural/gcd#0", "procedural/gcd#2"]
    assert drops == [("procedural/gcd#1", "not_generated", "ZeroDivisionError: no such problem")]


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(ConfigError, match="families: got 'chain_sums', nearest known chain_sum"):
        ProceduralSource(families=("chain_sums",)).plan(HUGE)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"terms": 3}, "allowed parameters min_terms, max_terms"),
        ({"min_terms": 9, "max_terms": 2}, "config of chain_sum:"),
    ],
)
def test_a_parameter_that_the_family_refuses_names_those_it_has(parameters, message):
    with pytest.raises(ConfigError) as caught:
        ProceduralSource(families=("chain_sum",), config={"chain_sum": parameters}).inputs()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count: got 0, allowed >= 1"),
        ({"families": ()}, "families: got none"),
        ({"families": ("gcd", "gcd")}, "families: got gcd more than once"),
        ({"families": ("gcd",), "config": {"lcm": {}}}, "config: got lcm, allowed gcd"),
        ({"families": ("gcd",), "config": {"gcd": {"seed": 1}}}, "config of gcd: got seed, set by the source"),
        ({"domain": "x"}, "domain: got 'x', allowed source, family"),
        ({"name": ""}, "name of a source: got ''"),
    ],
)
def test_a_wrong_configuration_says_what_is_allowed(options, message):
    with pytest.raises(ConfigError) as caught:
        ProceduralSource(**options)
    assert message in str(caught.value)


def test_nothing_is_read_from_files():
    assert ProceduralSource(families=("gcd",)).inputs() == []
