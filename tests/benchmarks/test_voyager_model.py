"""The benchmarks of explorers that ask a model, and of gates, measure what they say."""

import gzip
import json
import re
from argparse import Namespace

import numpy as np
import pytest

from benchmarks import gates, voyager_arms, voyager_lm, voyager_model, voyager_prompted
from benchmarks.harness import BenchmarkError, Options
from benchmarks.small_lm import Job
from penstock.generators.base import Completion, Usage
from penstock.generators.explorers.baselines_model import BASELINES
from penstock.generators.explorers.prefix import Prefix


class Words:
    """Embedder: words by hash, each in one of 64 places."""

    dimensions = 64

    def setup(self):
        pass

    def embed(self, texts):
        out = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                out[row, sum(map(ord, word)) % 64] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


class Writer:
    """LanguageModel: new sentences for every prompt; more of the words that a prefix names."""

    identity = {"kind": "writer", "model": "writer"}

    def setup(self):
        pass

    async def complete(self, requests):
        return [
            Completion(text=self._text(request), usage=Usage(prompt_tokens=1, completion_tokens=1))
            for request in requests
        ]

    def _text(self, request):
        draw = np.random.default_rng([request.seed, request.sample])
        if request.messages is None:
            named = re.findall("[a-z]{4,}", request.prompt.partition(":")[0]) or ["water"]
            said = " and the ".join(named + [f"thing{n}" for n in draw.integers(0, 40, 6)])
            return f" The {said} was there all day long, and then it was not."
        count = int(re.search(r"has (\d+) entries", request.messages[1].content)[1])
        key = next(iter(json.loads(request.schema)["properties"]))
        words = [
            f"The thing {n} went on to the other thing {m} and stayed." for n, m in draw.integers(0, 999, (count, 2))
        ]
        if key == "scores":
            return json.dumps({})
        return json.dumps({key: words})


@pytest.fixture
def fakes(monkeypatch):
    for module in (voyager_arms, voyager_model, voyager_prompted):
        monkeypatch.setattr(module, "static", Words)
        monkeypatch.setattr(module, "minilm", Words)


PREFIXES = tuple(
    Prefix(f"About {w}:", f"{w} {w} text") for w in ("river", "engine", "sonata", "bakery", "glacier", "tree")
)


def test_passages_are_whole_sentences_of_every_file(tmp_path):
    for name in ("a", "b"):
        texts = [f"The {name} river number {n} is wide. It runs to the sea! Short." for n in range(40)]
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"text": " ".join(texts[n : n + 4])}) + "\n" for n in range(0, 40, 4))
    corpus = voyager_lm.Corpus(megabytes=0.001, shortest=60, longest=120)
    found = voyager_lm.passages(tmp_path, corpus)
    assert all(60 <= len(text) <= 120 and text[-1] in ".!" for text in found)
    both = [[text for text in found if f" {name} river" in text] for name in ("a", "b")]
    assert min(map(len, both)) > 0
    assert all(500 < sum(map(len, texts)) < 500 + 240 for texts in both)


def test_key_words_are_those_that_tell_texts_apart():
    texts = [f"the water was cold near {place} {place} water" for place in ("harbour", "mountain") for _ in range(5)]
    assert voyager_lm.key_words(texts)[0][0] == "harbour"
    assert voyager_lm.key_words(texts)[9][0] == "mountain"
    assert voyager_lm.key_words(["once only"]) == [()]
    assert [p.text for p in voyager_lm.led(texts[4:6])] == []  # no word is in five texts
    rows = voyager_lm.rows_of_text(texts)
    assert {row.split(":")[0] for row in rows} <= {"Text", "About harbour, cold, near", "About mountain, cold, near"}
    assert all(row.endswith(text) for row, text in zip(rows, texts, strict=True))


@pytest.mark.usefixtures("fakes")
def test_every_arm_writes_its_texts_and_says_what_was_dropped(monkeypatch):
    class Resolves:
        def __init__(self, path):
            self.path = path

        def resolve(self):
            return Writer()

    monkeypatch.setattr(voyager_model, "GeneratorConfig", Resolves)
    settings = voyager_model.Settings(count=30, sample=20, seeds=(0,))
    done = {}
    for arm in voyager_model.ARMS:
        found = voyager_model.figures(voyager_model.voyage(arm, 0, settings, PREFIXES, "model"))
        assert (found["rows"], found["reason"]) == (30, "count")
        assert found["proposed"] == 30 + sum(found["dropped"].values())
        assert found["validity"] == 1.0
        assert (found["prefixes"] == 1) == (arm in ("default", "gate_only"))
        assert ("diversity: low_gain" in found["dropped"]) == (arm != "default")
        done |= {Job("plain", arm, seed): found | {"vendi": found["vendi"] + seed} for seed in (0, 1)}
    made = voyager_model.result_of(done, {}, quick=False)
    assert [bar.name.partition(",")[0] for bar in made.bars] == ["Vendi above default", "validity not below default"]
    assert voyager_model.result_of(done, {}, quick=True).bars[0].value is None
    short = done | {Job("plain", "default", 0): found | {"rows": 29}}
    with pytest.raises(BenchmarkError, match="voyages of different sizes do not compare: default, seed 0: 29 rows"):
        voyager_model.result_of(short, {}, quick=False)


@pytest.mark.usefixtures("fakes")
def test_prompted_arms_stand_beside_the_papers_figures(monkeypatch):
    arms = voyager_prompted.PROMPTED
    ours = {arm: voyager_prompted.arm_figures("sports", arm, 10, Writer(), None, None) for arm in arms}
    assert {arm: found["items"] for arm, found in ours.items()} == dict.fromkeys(arms, 10)
    assert {arm: ours[arm]["calls"] for arm in BASELINES} == {
        "default": 1,
        "temperature": 1,
        "diverse": 1,
        "history": 1,
        "hierarchical": 11,
        "subset_select": 10,
    }
    rows = voyager_prompted.rows_of("sports", ours)
    assert [row["what"] for row in rows] == [f"sports, {arm}{of}" for arm in arms for of in ("", ", paper")]
    mine, paper = rows[-2:]
    assert (paper["vendi"], paper["calls"]) == (24.13, 443)
    assert paper["vendi / default"] == pytest.approx(8.07, abs=0.005)
    assert mine["vendi / default"] == pytest.approx(ours["voyager"]["vendi"] / ours["default"]["vendi"])
    assert (mine["items"], mine["calls"], mine["quality"]) == (10, ours["voyager"]["calls"], None)
    with pytest.raises(BenchmarkError, match="--model: got none beside --url"):
        voyager_prompted.prompted(Options(more=vars(Namespace(url="http://localhost:9/v1", model=None))))


def test_the_papers_table_is_whole_and_gives_its_ratios():
    ratios = {task: round(arms["voyager"][2] / arms["default"][2], 2) for task, arms in voyager_prompted.PAPER.items()}
    assert ratios == {"sports": 8.07, "politics": 3.28, "poem": 2.44, "movie": 2.08, "math": 6.18, "logic": 4.01}
    over = {
        task: round(arms["voyager"][2] / arms["hierarchical"][2], 2) for task, arms in voyager_prompted.PAPER.items()
    }
    assert over == {"sports": 1.60, "politics": 1.78, "poem": 1.29, "movie": 1.08, "math": 2.15, "logic": 1.89}
    assert all(set(arms) == set(voyager_prompted.PROMPTED) for arms in voyager_prompted.PAPER.values())
    assert set(voyager_prompted.TASKS) == set(voyager_prompted.PAPER)


def test_gates_are_measured_on_passages_of_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "static", Words)
    monkeypatch.setattr(gates, "EXAMPLES", 30)
    monkeypatch.setattr(gates, "JUDGED", 40)
    for name in ("river", "engine"):
        rows = [" ".join(f"The {name} of {name} {n} and {m} is old." for m in range(20)) for n in range(80)]
        rows[0] = "I'm sorry, but I can't help with that."
        rows[1] = "Dear [Your Name], here you are."
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"text": row}) + "\n" for row in rows)
    spoken = {"en": "As an AI language model, I say so.", "de": "Der Fluss ist breit.", "id": 3}
    with gzip.open(tmp_path / "spoken.gz", "wt") as file:
        file.write(json.dumps(spoken) + "\n")
    found = gates.measure(Options(data=tmp_path, more={"sentences": tmp_path / "spoken.gz"}))
    table = {row["what"]: row for row in found.rows}
    texts = table["all files: passages"]["texts"]
    assert texts == 2 * (2 + 78 * 2)  # each text of 20 sentences is two passages
    assert table["all files: refusal"]["of 10,000"] == pytest.approx(2e4 / texts)
    assert table["all files: leak_placeholder"]["of 10,000"] == pytest.approx(2e4 / texts)
    assert (table["sentences, en"]["refusal"], table["sentences, de"]["refusal"]) == (1e4, 0)
    assert table["relevance to river"]["own that pass"] > 0.8 > table["relevance to river"]["others that pass"]
    own = [table[f"relevance to {name}"]["own that pass"] for name in ("engine", "river")]
    assert [bar.value for bar in found.bars] == pytest.approx([2 / texts, 2 / texts, sum(own) / 2])


def test_without_data_there_is_nothing_to_measure():
    for module, more in ((gates, {"sentences": None}), (voyager_model, {"url": None})):
        with pytest.raises(BenchmarkError, match="--data: got none"):
            module.measure(Options(more=more))
