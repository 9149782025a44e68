"""Groups as rows of trainers: read by TRL's and verl's own code, and what would spoil a pool refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from penstock.dataset import MANIFEST, Counts, Dataset, Manifest, TableEntry, TableWriter
from penstock.digest import columns_of
from penstock.errors import ConfigError, DatasetError
from penstock.generators.exports import INSTRUCTION, export_groups, group_index, groups_of
from penstock.pipelines.transform import GROUPS
from penstock.storage import Folder
from penstock.training.group_rl.advantages import group_advantages

VERL = Path(penstock.__file__).parent.parent / ".bench/venv-verl/bin/python"


def row(group, place, prompt=None, answer="7", kind="rename"):
    original = f"{group}: 3 + 4 = ?"
    return {
        "problem_id": group if place == 0 else f"{group}~{kind}{place}",
        "group_id": group,
        "variant": "original" if place == 0 else kind,
        "prompt": prompt
        if prompt is not None
        else (original if place == 0 else f"{group}, variant {place}: 3 + 4 = ?"),
        "original_prompt": original,
        "answer": answer,
        "verdicts": [],
        "parents": [] if place == 0 else [group],
        "provenance": "{}",
        "sub_index": place,
        "transform": None if place == 0 else f"{kind}{place}",
    }


def dataset(path, rows, schema=GROUPS):
    folder = Folder(str(path))
    file = folder.open_write("part.parquet")
    writer = TableWriter(file, schema, group_rows=3)  # groups lie across row groups
    writer.write(pa.RecordBatch.from_pylist(rows, schema=schema))
    writer.close()
    kinds = columns_of(schema)
    table = TableEntry((writer.entry("part.parquet"),), len(rows), writer.digest.hex(kinds), kinds)
    manifest = Manifest("transformed", 1, "k" * 32, {}, "d" * 32, {}, Counts(), {"problems": table})
    folder.write_json(MANIFEST, manifest.to_json())
    return Dataset(folder)


@pytest.fixture
def groups(tmp_path):
    """Three groups of 3, 2 and 4 rows; answers of the kinds that occur."""
    rows = [row("a", n) for n in range(3)]
    rows += [row("b", n, answer=r"\frac{1}{2}") for n in range(2)]
    rows += [row("c", n, answer="Monday" if n < 3 else "B") for n in range(4)]
    return dataset(tmp_path / "made", rows)


def test_trl_rows_lie_in_whole_groups_and_hold_what_its_reward_reads(groups, tmp_path):
    from datasets import load_dataset
    from trl.data_utils import is_conversational
    from trl.rewards import accuracy_reward

    written = export_groups(groups, "trl", str(tmp_path / "trl.parquet"))
    assert (written.rows, written.groups) == (9, 3)
    read = load_dataset("parquet", data_files=written.path, split="train", cache_dir=str(tmp_path / "cache"))
    assert read["group_id"] == [*"aaabbcccc"]
    assert read["sub_index"] == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert read["group_size"] == [3, 3, 3, 2, 2, 4, 4, 4, 4]
    assert read["transform"][:2] == [None, "rename1"]
    assert all(is_conversational(example) for example in read)
    assert read[0]["prompt"] == [{"role": "user", "content": f"{INSTRUCTION}\na: 3 + 4 = ?"}]
    assert read["ground_truth"][3] == r"\frac{1}{2}"
    # its own reward takes the column `solution`
    said = [[{"role": "assistant", "content": rf"so \boxed{{{answer}}}"}] for answer in ("7", "8", "7.0", "0.5")]
    assert accuracy_reward(said, solution=read["solution"][:4]) == [1.0, 0.0, 1.0, 1.0]


def test_trl_samples_whole_groups_by_position(groups, tmp_path):
    """Its sampler keeps the order, so rewards of a group of M+1 rows and G completions stand together."""
    from datasets import load_dataset
    from trl.trainer.utils import RepeatSampler

    written = export_groups(groups, "trl", str(tmp_path / "trl.parquet"))
    read = load_dataset("parquet", data_files=written.path, split="train", cache_dir=str(tmp_path / "cache"))
    order = list(RepeatSampler(read, mini_repeat_count=2, batch_size=9, shuffle=False))
    ids = [read[index]["group_id"] for index in order]
    assert ids == [*("a" * 6 + "b" * 4 + "c" * 8)]


def test_verl_rows_have_the_published_layout(groups, tmp_path):
    written = export_groups(
        groups, "verl", str(tmp_path / "verl.parquet"), split="test", data_source="mine", instruction=""
    )
    rows = pq.read_table(written.path).to_pylist()
    assert rows[3] == {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": "b: 3 + 4 = ?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": r"\frac{1}{2}"},
        "extra_info": {"split": "test", "index": group_index("b"), "sub_index": 0, "type": "original", "group_id": "b"},
    }
    assert [one["extra_info"]["index"] for one in rows] == [group_index(name) for name in "aaabbcccc"]
    assert [one["extra_info"]["sub_index"] for one in rows] == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert {one["extra_info"]["type"] for one in rows} == {"original", "rename"}


def indices(made, path):
    """Of each row, by its group and its place in it."""
    rows = pq.read_table(export_groups(made, "verl", str(path)).path)["extra_info"].to_pylist()
    return {(one["group_id"], one["sub_index"]): one["index"] for one in rows}


def test_a_group_keeps_its_index_when_others_come_go_and_change_places(tmp_path):
    whole = [row(name, n) for name in "abcdef" for n in range(3)]
    before = indices(dataset(tmp_path / "before", whole), tmp_path / "before.parquet")
    assert len(before) == 18
    assert len({*before.values()}) == 6
    assert all(index == before[name, 0] for (name, _), index in before.items())
    # others are made in front and behind, some are gone, one lost a variant, and the order is another
    left = [row(name, n) for name in "zecay" for n in range(2 if name == "c" else 3)]
    after = indices(dataset(tmp_path / "after", left), tmp_path / "after.parquet")
    assert {key: index for key, index in after.items() if key in before} == {
        key: before[key] for key in after if key[0] in "eca"
    }
    assert {after["z", 0], after["y", 0]}.isdisjoint(before.values())


def test_an_index_is_the_same_on_every_machine_and_passes_through_float64():
    assert group_index("a") == 1_662_791_411_250_143
    many = [group_index(f"gsm8k-{n}") for n in range(2000)]
    assert len({*many}) == 2000
    assert 2**52 < max(many) < 2**53
    assert [int(float(index)) for index in many] == many


def test_two_groups_of_one_index_are_refused(groups, tmp_path, monkeypatch):
    # a: 0, b and c: 1
    monkeypatch.setattr("penstock.generators.exports.group_index", lambda name: ord(name) // 98)
    with pytest.raises(DatasetError, match="groups b and c have one index, 1"):
        export_groups(groups, "verl", str(tmp_path / "verl.parquet"))
    assert not (tmp_path / "verl.parquet").exists()


def grouped_by_index(rewards, index):
    """Rows with one index share mean and unbiased deviation, in any order of rows: what verl pools by."""
    rewards, index = np.array(rewards), np.array(index)
    out = np.empty(len(rewards))
    for one in np.unique(index):
        pool = index == one
        out[pool] = (rewards[pool] - rewards[pool].mean()) / (rewards[pool].std(ddof=1) + 1e-6)
    return out


def rollouts(rows, draw):
    """Three answers to each row, in any order: (rows, rewards)."""
    order = draw.permutation(np.repeat(np.arange(len(rows)), 3))
    return [rows[n]["extra_info"] for n in order], draw.integers(0, 2, len(order)).astype(float)


def test_what_is_pooled_by_index_is_pooled_by_group(groups, tmp_path):
    written = export_groups(groups, "verl", str(tmp_path / "verl.parquet"))
    asked, rewards = rollouts(pq.read_table(written.path).to_pylist(), np.random.default_rng(0))
    by_index = grouped_by_index(rewards, [one["index"] for one in asked])
    by_group = group_advantages(rewards, [one["group_id"] for one in asked])
    assert np.abs(by_group.values).max() > 0.5
    np.testing.assert_allclose(by_index, by_group.values, atol=1e-12)
    assert sorted({*by_group.size.tolist()}) == [6, 9, 12]


READ = """
import json, sys
import numpy as np, torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
config = OmegaConf.create({"cache_dir": sys.argv[2], "filter_overlong_prompts": False})
read = RLHFDataset([sys.argv[1]], tokenizer=None, config=config)
batch = collate_fn([read[n] for n in range(len(read))])
index = np.repeat(batch["index"], 3)
rewards = torch.tensor(json.loads(sys.argv[3]))[:, None]
pooled, _ = compute_grpo_outcome_advantage(rewards, torch.ones_like(rewards), index)
print(json.dumps({"index": [int(n) for n in batch["index"]], "prompts": [list(p) for p in batch["raw_prompt"]],
                  "truth": [r["ground_truth"] for r in batch["reward_model"]], "pooled": pooled[:, 0].tolist()}))
"""


@pytest.mark.skipif(not VERL.exists(), reason="needs verl in .bench/venv-verl")
def test_verl_reads_its_rows_and_pools_them_by_its_own_code(groups, tmp_path):
    written = export_groups(groups, "verl", str(tmp_path / "verl.parquet"), instruction="")
    rewards = np.random.default_rng(0).integers(0, 2, 27).astype(float)
    command = [str(VERL), "-c", READ, written.path, str(tmp_path / "cache"), json.dumps(rewards.tolist())]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    read = json.loads(found.stdout.splitlines()[-1])
    assert read["index"] == [group_index(name) for name in "aaabbcccc"]
    assert read["prompts"][0] == [{"role": "user", "content": "a: 3 + 4 = ?"}]
    assert read["truth"] == ["7"] * 3 + [r"\frac{1}{2}"] * 2 + ["Monday"] * 3 + ["B"]
    pooled = group_advantages(rewards, np.repeat([*"aaabbcccc"], 3)).values
    np.testing.assert_allclose(read["pooled"], pooled, atol=1e-5)


A = [row("a", n) for n in range(2)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*A, row("b", 0)], "group b has one row"),
        ([row("b", 0), *A], "group b has one row"),
        ([*A, row("b", 0), row("b", 1, prompt=" ")], "problem b~rename1 has no question"),
        ([*A, row("b", 0), row("b", 1, answer="")], "problem b~rename1 has no question or no answer"),
        ([*A, row("b", 0), row("b", 1), *A], "group a is in pieces"),
        ([*A, row("b", 1), row("b", 0)], "group b is in pieces or not numbered"),
        ([*A, row("b", 1), row("b", 2)], "group b is in pieces or not numbered"),
    ],
)
@pytest.mark.parametrize("format", ["trl", "verl"])
def test_what_may_not_be_pooled_is_refused_and_leaves_no_file(rows, message, format, tmp_path):
    made = dataset(tmp_path / "made", rows)
    with pytest.raises(DatasetError, match=message):
        export_groups(made, format, str(tmp_path / "out.parquet"))
    assert not (tmp_path / "out.parquet").exists()


def test_groups_are_whole_wherever_batches_end(groups):
    assert [[one["sub_index"] for one in group] for group in groups_of(groups)] == [[0, 1, 2], [0, 1], [0, 1, 2, 3]]


def test_another_format_and_a_table_of_another_kind_are_refused(groups, tmp_path):
    with pytest.raises(ConfigError, match="got 'jsonl', allowed trl, verl"):
        export_groups(groups, "jsonl", str(tmp_path / "out"))
    plain = pa.schema([field for field in GROUPS if field.name != "sub_index"])
    rows = [{k: v for k, v in one.items() if k != "sub_index"} for one in A]
    with pytest.raises(DatasetError, match="sub_index; found"):
        export_groups(dataset(tmp_path / "other", rows, plain), "trl", str(tmp_path / "out"))
