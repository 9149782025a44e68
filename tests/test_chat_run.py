"""Conversations from a file to a trained model: what has a loss is what the assistant said."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from penstock.dataset import Dataset
from penstock.pipelines.plan import special_tokens
from penstock.recipe import Recipe
from penstock.run import run
from penstock.storage import Folder

PAGE = (Path(__file__).parents[1] / "docs" / "chat.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.S)[1]


def talk(number):
    turns = [{"role": "system", "content": "Antworte in Zahlen 🙂."}] if number % 3 == 0 else []
    for i in range(1 + number % 3):
        turns.append({"role": "user", "content": f"What is {number} plus {i}?\n"})
        turns.append({"role": "assistant", "content": f"It is {number + i}: e\u0301 漢字 😀."})
    return turns


def answers(turns):
    """What is learned of a conversation, cleaned: the accent is composed."""
    return [m["content"].replace("e\u0301", "é") + "<|im_end|>" for m in turns if m["role"] == "assistant"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(conversations, folder of the run): the recipe of the page on more of its data, and prose beside it."""
    folder = tmp_path_factory.mktemp("chat")
    talks = [talk(number) for number in range(90)]
    bad = [[], talk(4)[:-1][:1], [{"role": "wizard", "content": "x"}]]
    lines = [json.dumps({"messages": turns}) for turns in (*talks, *bad)]
    (folder / "talks.jsonl").write_text("\n".join(lines) + "\n" + block("json"))
    prose = ["The water of the mill <|im_end|> turns the wheel number " + str(i) + "." for i in range(30)]
    (folder / "prose.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in prose))
    text = block("yaml").replace("path: talks.jsonl", f"path: {folder}/talks.jsonl")
    overrides = [
        "train.threads=1",
        "train.steps=6",
        "train.checkpoint_every=6",
        "train.eval_every=6",
        "sequences.length=64",
    ]
    recipe = Recipe.parse(text, overrides)
    both = (
        recipe.source.files
        + Recipe.parse(f"name: x\nselect: null\nsource: {{files: {folder}/prose.jsonl}}").source.files
    )
    recipe = recipe.model_copy(update={"source": recipe.source.model_copy(update={"files": both})})
    run(recipe, out=str(folder / "run"), workers=0)
    return talks, folder / "run"


def rows_of(root, step, table="documents"):
    dataset = Dataset(Folder(str(root / step)))
    return pa.concat_tables(pq.read_table(dataset.folder.join(f.path)) for f in dataset.table(table).files).to_pylist()


def sequences_of(root):
    dataset = Dataset(Folder(str(root / "sequences-1")))
    for entry in dataset.manifest.tables.values():
        for file in entry.files:
            with pa.memory_map(dataset.folder.join(file.path)) as source:
                yield from pa.ipc.open_file(source).read_all().to_pylist()


def tokenizer_of(root):
    dataset = Dataset(Folder(str(root / "tokenizer")))
    return Tokenizer.from_file(dataset.artifact("tokenizer.json"))


def test_the_page_shows_what_the_program_takes():
    recipe = Recipe.parse(block("yaml"))
    assert special_tokens(recipe) == ("<|im_start|>", "<|im_end|>")
    assert special_tokens(Recipe.parse(block("yaml"), ["tokenizer.special=[]"])) == ()
    assert special_tokens(Recipe.parse(block("yaml"), ["source.files=a.jsonl"])) == ()


def test_ranges_of_bytes_are_the_answers(made):
    talks, root = made
    found = {}
    for row in rows_of(root, "documents"):
        if row["learn"] is None:
            assert row["domain"] == "prose"
            continue
        raw, edges = row["text"].encode(), row["learn"]
        found[row["doc_id"]] = [raw[a:b].decode() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert [found[f"talks.jsonl#{i}"] for i in range(90)] == [answers(turns) for turns in talks]
    reasons = [row["reason"] for row in rows_of(root, "documents", "dropped")]
    assert sorted(reasons) == ["no_messages", "nothing_to_learn", "unknown_role"]


def test_runs_of_tokens_are_the_answers(made):
    talks, root = made
    tokenizer = tokenizer_of(root)
    seen = 0
    for row in rows_of(root, "scored"):
        if row["domain"] == "prose":
            assert row["learn_tokens"] is None
            assert {2, 3}.isdisjoint(row["token_ids"])
            continue
        runs = row["learn_tokens"]
        pieces = [
            tokenizer.decode(row["token_ids"][a:b], skip_special_tokens=False)
            for a, b in zip(runs[::2], runs[1::2], strict=True)
        ]
        number = int(row["doc_id"].split("#")[1])
        if number < len(talks):
            assert pieces == answers(talks[number])
            seen += 1
        assert row["token_ids"].count(3) == row["text"].count("<|im_end|>")
    assert seen > 80


def test_masks_of_sequences_hold_the_runs_of_their_documents(made):
    _, root = made
    learned = {row["doc_id"]: (row["token_ids"], row["learn_tokens"]) for row in rows_of(root, "scored")}
    places = dict.fromkeys(learned, 0)
    masked = 0
    for row in sequences_of(root):
        used = sum(row["segment_lengths"])
        runs = [0, used] if row["loss_mask"] is None else row["loss_mask"]
        mask = np.zeros(used, bool)
        for start, stop in zip(runs[::2], runs[1::2], strict=True):
            mask[start:stop] = True
        at = 0
        for doc, length in zip(row["segment_docs"], row["segment_lengths"], strict=True):
            tokens, of_doc = learned[doc]
            whole = np.zeros(len(tokens), bool)
            for start, stop in zip((of_doc or [0, len(tokens)])[::2], (of_doc or [0, len(tokens)])[1::2], strict=True):
                whole[start:stop] = True
            place = places[doc]
            assert row["tokens"][at : at + length] == tokens[place : place + length]
            assert mask[at : at + length].tolist() == whole[place : place + length].tolist()
            places[doc], at = place + length, at + length
        masked += row["loss_mask"] is not None
        assert (row["domain"] == "prose") == (row["loss_mask"] is None)
    assert masked > 20
    assert places == {doc: len(tokens) for doc, (tokens, _) in learned.items()}


def test_training_counts_and_scores_learned_tokens_alone(made):
    _, root = made
    expected = {}
    for row in sequences_of(root):
        used = sum(row["segment_lengths"])
        runs = [0, used] if row["loss_mask"] is None else row["loss_mask"]
        learned = {p for a, b in zip(runs[::2], runs[1::2], strict=True) for p in range(a, b)}
        at = 0
        for doc, length in zip(row["segment_docs"], row["segment_lengths"], strict=True):
            count = sum(p in learned for p in range(at + 1, at + length))
            expected.setdefault(doc, set()).add(count)
            at += length
    signals = rows_of(root, "model-1", "signals")
    assert all(row["tokens"] in expected[row["doc_id"]] and row["tokens"] > 0 for row in signals)
    metrics = [json.loads(line) for line in next((root / "model-1").rglob("metrics.jsonl")).read_text().splitlines()]
    by_step = {}
    for row in signals:
        by_step.setdefault(row["step"], []).append((row["tokens"], row["loss"]))
    total = 0
    for record in metrics:
        tokens, losses = map(np.array, zip(*by_step[record["step"]], strict=True))
        total += int(tokens.sum())
        assert record["loss"] == pytest.approx(float((tokens * losses).sum() / tokens.sum()), rel=1e-5)
        assert record["tokens"] == total


def test_transformers_renders_markers_to_the_same_tokens(made):
    from transformers import AutoTokenizer

    _, root = made
    theirs = AutoTokenizer.from_pretrained(next((root / "model-1").rglob("model")))
    row = next(row for row in rows_of(root, "scored") if row["learn_tokens"])
    assert theirs(row["text"], add_special_tokens=False).input_ids == row["token_ids"][:-1]
