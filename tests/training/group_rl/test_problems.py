"""Tables of problems: groups by id alone, pads counted, what would poison a pool refused; which are asked when."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.dataset import MANIFEST, Counts, Manifest, TableEntry, TableWriter
from penstock.digest import columns_of
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.pipelines.transform import GROUPS
from penstock.storage import Folder
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import ProblemTable, plain_prompt, prompt_tokens
from penstock.training.group_rl.questions import Questions

Rows = Callable[[list[tuple[int, int]]], list[dict[str, Any]]]


def told(table: ProblemTable) -> list[tuple[str, int, str]]:
    return [(problem.group_id, problem.sub_index, problem.transform) for problem in table.problems]


def test_rows_of_a_group_lie_together_with_the_original_first(rows: Rows) -> None:
    made = rows([(2, 1), (4, 0)])
    table = ProblemTable.of(made[::-1])
    assert told(table) == [
        ("4+0", 0, "original"), ("4+0", 1, "order"), ("4+0", 2, "words"),
        ("2+1", 0, "original"), ("2+1", 1, "order"), ("2+1", 2, "words"),
    ]  # fmt: skip
    assert table.groups == ((0, 1, 2), (3, 4, 5))
    assert table.group_ids == ("4+0", "2+1")
    assert table.group_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert table.transforms == ("original", "order", "words")


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_rows_changes_no_group(seed: int) -> None:
    made = [
        {"problem_id": f"{g}.{i}", "group_id": f"g{g}", "sub_index": i, "prompt": f"{g} {i}?", "answer": str(g)}
        for g in range(4)
        for i in range(g + 1)
    ]
    random.Random(seed).shuffle(made)
    table = ProblemTable.of(made)
    found = {table.group_ids[n]: [table.problems[i].problem_id for i in g] for n, g in enumerate(table.groups)}
    assert found == {f"g{g}": [f"{g}.{i}" for i in range(g + 1)] for g in range(4)}


def test_pads_and_rows_without_an_answer_are_dropped_and_counted(rows: Rows) -> None:
    made = rows([(2, 1), (4, 0), (5, 1)])
    made[1]["prompt"] = "  "  # a variant: its group goes on
    made[3]["prompt"] = None  # an original: its variants have nothing to be variants of
    made[8]["answer"] = ""
    table = ProblemTable.of(made)
    assert told(table) == [("2+1", 0, "original"), ("2+1", 2, "words"), ("5+1", 0, "original"), ("5+1", 1, "order")]
    assert table.dropped == {"pad": 2, "no_answer": 1, "no_original": 2}


def test_an_original_that_was_dropped_is_not_replaced_by_a_variant_where_rows_have_no_numbers(rows: Rows) -> None:
    made = [{key: value for key, value in row.items() if key != "sub_index"} for row in rows([(2, 1), (4, 0)])]
    made = [made[1], made[0], *made[2:]]
    assert told(ProblemTable.of(made))[:2] == [("2+1", 0, "original"), ("2+1", 1, "order")]
    made[1]["prompt"] = ""
    table = ProblemTable.of(made)
    assert table.group_ids == ("4+0",)
    assert table.dropped == {"pad": 1, "no_original": 2}


def test_the_letter_of_a_multiple_choice_is_the_same_answer_in_another_form(rows: Rows) -> None:
    made = rows([(2, 1)])
    made[1]["answer"] = "(B)"
    assert [problem.answer for problem in ProblemTable.of(made).problems] == ["3", "(B)", "3"]
    made[0]["answer"] = "A"  # two letters are two answers
    with pytest.raises(DatasetError, match=r"has the answers 'A' and '\(B\)'"):
        ProblemTable.of(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "4"}, r"group 2\+1 has the answers '3' and '4', allowed one"),
        ({"group_id": None}, "row 1 has no group_id"),
        ({"problem_id": ""}, "row 1 has no problem_id"),
        ({"problem_id": "2+1"}, r"problem 2\+1 is there twice"),
        ({"sub_index": 2}, r"group 2\+1 has sub_index 2 twice"),
        ({"sub_index": -1}, r"group 2\+1 has sub_index -1, allowed 0"),
        ({"sub_index": None}, r"group 2\+1 has sub_index None, allowed 0"),
    ],
)
def test_a_table_that_was_put_together_wrongly_is_refused_by_name(
    rows: Rows, change: dict[str, Any], message: str
) -> None:
    made = rows([(2, 1), (4, 0)])
    made[1] |= change
    with pytest.raises(DatasetError, match=message):
        ProblemTable.of(made, where="rows")


def test_one_answer_written_in_two_ways_is_one(rows: Rows) -> None:
    made = rows([(2, 1)])
    made[1]["answer"], made[2]["answer"] = "3.0", 3
    assert len(ProblemTable.of(made)) == 3


def test_a_table_of_pads_alone_is_refused_with_its_counts(rows: Rows) -> None:
    made = [row | {"prompt": ""} for row in rows([(2, 1)])]
    with pytest.raises(DatasetError, match=r"no problem is left \(pad 3\)"):
        ProblemTable.of(made)


def dataset_folder(path: Path, made: list[dict[str, Any]]) -> None:
    folder = Folder(str(path))
    full = [{"original_prompt": "", "verdicts": [], "parents": [], "provenance": "{}"} | row for row in made]
    writer = TableWriter(folder.open_write("part.parquet"), GROUPS)
    writer.write(pa.RecordBatch.from_pylist(full, schema=GROUPS))
    writer.close()
    kinds = columns_of(GROUPS)
    entry = TableEntry((writer.entry("part.parquet"),), len(made), writer.digest.hex(kinds), kinds)
    manifest = Manifest("transformed", 1, "k" * 32, {}, "d" * 32, {}, Counts(), {"problems": entry})
    folder.write_json(MANIFEST, manifest.to_json())


def test_datasets_parquet_and_json_lines_are_read_alike(rows: Rows, tmp_path: Path) -> None:
    made = rows([(2, 1), (4, 0)])
    dataset_folder(tmp_path / "run" / "transformed", made)
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    expected = ProblemTable.of(made)
    for source in ("run", "run/transformed", "p.parquet", "p.jsonl"):
        table = ProblemTable.read(tmp_path / source)
        assert table.problems == expected.problems
        assert table.fingerprint == expected.fingerprint


def test_files_without_the_columns_or_damaged_are_refused_by_path(tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem_id": ["a"], "prompt": ["?"]}), tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match=r"p\.parquet: missing column\(s\) group_id, answer"):
        ProblemTable.read(tmp_path / "p.parquet")
    (tmp_path / "q.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"q\.parquet: cannot be read as problems"):
        ProblemTable.read(tmp_path / "q.parquet")
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        ProblemTable.read(tmp_path)


def test_what_is_asked_and_its_order_are_in_the_fingerprint(rows: Rows) -> None:
    made = rows([(2, 1), (4, 0)])
    plain = ProblemTable.of(made).fingerprint
    assert ProblemTable.of(made[3:] + made[:3]).fingerprint != plain
    for name, value in (("prompt", "other"), ("transform", "other"), ("problem_id", "other")):
        changed = [dict(row) for row in made]
        changed[1][name] = value
        assert ProblemTable.of(changed).fingerprint != plain


def test_dropping_an_original_drops_its_group(sums: ProblemTable) -> None:
    first, second = sums.groups[:2]
    table = sums.without([first[0], second[1]], "too_long")
    assert len(table) == len(sums) - 4
    assert table.dropped == {"too_long": 2, "no_original": 2}
    assert table.group_ids == sums.group_ids[1:]
    # a set of variants alone, as one that is measured on, has none to lose
    variants = ProblemTable(problem for problem in sums.problems if problem.sub_index)
    assert len(variants.without([0], "too_long")) == len(variants) - 1
    fewer = sums.first_phrasings(2)
    assert [problem.sub_index for problem in fewer.problems] == [0, 1] * len(sums.groups)


class Letters:
    """A tokenizer of characters; ``chat_template`` where it is told."""

    def __init__(self, chat: bool = False) -> None:
        self.chat_template = "…" if chat else None

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [*([1] if add_special_tokens else []), *map(ord, text)]}

    def apply_chat_template(self, turns: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"


def test_prompts_are_instruction_and_question_or_one_message_of_a_chat() -> None:
    def text(tokens: Any) -> str:
        return "".join(map(chr, tokens))

    assert text(prompt_tokens(Letters(), "3+4?", "Solve.")) == "\x01Solve.\n3+4?\n"
    assert text(prompt_tokens(Letters(), "3+4=", "")) == "\x013+4="  # as it stands
    assert text(prompt_tokens(Letters(chat=True), "3+4?", "Solve.")) == "<user>Solve.\n3+4?<assistant>"
    assert plain_prompt("3+4?", "Solve.") == "Solve.\n3+4?\n"
    assert prompt_tokens(Letters(), "3", "").dtype == np.int32


def questions(table: ProblemTable, most: int | None = None) -> Questions:
    return Questions.of(table, Letters(), instruction="", most=most)


def test_prompts_that_leave_no_room_are_dropped_and_counted(sums: ProblemTable) -> None:
    found = questions(sums, most=8)  # "add 2 and 0=" has more
    assert found.table.dropped == {"too_long": len(sums.groups)}
    assert found.table.transforms == ("original", "order")
    assert ["".join(map(chr, prompt[1:])) for prompt in found.prompts[:2]] == ["2+0=", "0+2="]
    with pytest.raises(DatasetError, match="all 36 prompts have more than 2 tokens"):
        questions(sums, most=2)


def config(**changes: Any) -> GroupRLConfig:
    return GroupRLConfig(**{"groups_per_step": 5, "rollouts": 4} | changes)


def test_a_group_of_one_answer_is_dropped_where_it_has_no_baseline(rows: Rows) -> None:
    made = questions(ProblemTable.of([*rows([(2, 1)]), *rows([(4, 0)])[:1]]))
    kept = made.for_training(config(objective="ta-grpo", rollouts=1, groups_per_step=1))
    assert kept.table.group_ids == ("2+1",)
    assert kept.table.dropped == {"alone": 1}
    # two answers to its one phrasing are a baseline
    assert len(made.for_training(config(objective="ta-grpo", rollouts=2, groups_per_step=1)).table.groups) == 2
    lonely = questions(ProblemTable.of(rows([(4, 0)])[:1]))
    with pytest.raises(DatasetError, match="every group has one phrasing"):
        lonely.for_training(config(objective="ta-grpo", rollouts=1, groups_per_step=1))
    with pytest.raises(ConfigError, match="groups_per_step: got 5, allowed at most the 2 groups"):
        made.for_training(config())


def test_phrasings_are_the_original_or_the_first_of_each_group(sums: ProblemTable) -> None:
    made = questions(sums)
    original = made.for_training(config(phrasings="original"))
    assert {problem.transform for problem in original.table.problems} == {"original"}
    assert all(np.array_equal(a, b) for a, b in zip(original.prompts, made.prompts[::3], strict=True))
    assert made.for_training(config(max_phrasings=2)).table.transforms == ("original", "order")


def test_an_epoch_asks_no_group_twice_and_each_has_an_order_of_its_own(sums: ProblemTable) -> None:
    made = questions(sums)
    asked = [made.at(step, config()) for step in range(6)]  # 12 groups, 5 a step: two steps an epoch
    groups = [[int(group) for group in made.table.group_of[problems][::3]] for problems in asked]
    for problems, of in zip(asked, groups, strict=True):
        assert problems.tolist() == [3 * g + i for g in of for i in range(3)]
    for first, second in zip(groups[::2], groups[1::2], strict=True):
        assert len({*first, *second}) == 10
    assert len({tuple(of) for of in groups}) == 6
    assert [made.epoch(step, config()) for step in range(6)] == [0, 0, 1, 1, 2, 2]
    assert groups != [made.table.group_of[made.at(step, config(seed=1))][::3].tolist() for step in range(6)]


def test_one_phrasing_is_drawn_evenly(sums: ProblemTable) -> None:
    made = questions(sums)
    found = np.concatenate([made.at(step, config(phrasings="one")) for step in range(240)])
    assert len(found) == 1200
    shares = np.bincount(found % 3) / len(found)
    assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 1200)


def test_draws_follow_a_problems_id_and_not_its_place(sums: ProblemTable) -> None:
    made = questions(sums)
    other = questions(ProblemTable.of([dict(vars_of(problem)) for problem in sums.problems[::-1]]))
    place = {problem.problem_id: n for n, problem in enumerate(other.table.problems)}
    problem, sample = np.repeat(np.arange(36), 4), np.tile(np.arange(4), 36)
    moved = np.array([place[sums.problems[n].problem_id] for n in problem])
    streams = made.streams(problem, sample, 0, "rollouts", 3)
    assert np.array_equal(streams, other.streams(moved, sample, 0, "rollouts", 3))
    every = [made.streams(problem, sample, seed, name, step) for seed in (0, 1) for name in "ab" for step in (0, 1)]
    assert len(np.unique(np.concatenate(every))) == 8 * 36 * 4


def vars_of(problem: Any) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in problem.__slots__}
