"""What every scorer promises as row work: small, frozen, the same however a table is cut."""

import dataclasses
import json
import pickle
from functools import reduce

import pyarrow as pa
import pytest

from penstock.generators.config import GeneratorConfig
from penstock.selectors.scorers.config import AskLLMConfig, ClassifierConfig, LmConfig, NamedClassifier
from penstock.selectors.scorers.heuristic import HeuristicScore
from penstock.selectors.scorers.perplexity import NgramCounts, PerplexityModel
from penstock.work import Annotator, Fitted, describe

NAMES = ("heuristic", "perplexity", "words", "askllm", "classifier", "lm")


@pytest.fixture(scope="module")
def rows(planted):
    """Good and bad text, and rows without any; as a slice of a larger batch."""
    batch, _ = planted(60, seed=11)
    texts = batch["text"].to_pylist()
    texts[7:11] = ["", None, " \n", "cafe\u0301 \U0001f600"]
    return batch.set_column(2, "text", pa.array(texts, pa.string())).slice(3)


@pytest.fixture(scope="module")
def works(rows, judge_folder, classifier_folder, reader_folder, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("fitted"))
    models = (PerplexityModel(), PerplexityModel(unit="word", order=2))
    store = f"{folder}/answers.sqlite"
    asking = AskLLMConfig(model=GeneratorConfig(path=str(judge_folder)), prompt="{text} ?", characters=90, store=store)
    classifier = ClassifierConfig(path=str(classifier_folder), label="good", max_tokens=48)
    made = [HeuristicScore(), *(m.fit(m.summarise(rows), folder) for m in models), asking.scorer()]
    made += [NamedClassifier(criterion="edu", of=classifier).scorer(), LmConfig(model=str(reader_folder)).scorer()]
    return dict(zip(NAMES, made, strict=True))


@pytest.fixture(params=NAMES)
def work(request, works):
    if request.param == "lm":
        # its scores are those of a context of 128
        return dataclasses.replace(works["lm"], max_tokens=100)
    return works[request.param]


def output(work, *batches):
    return pa.concat_tables([pa.table(work.annotate(batch)) for batch in batches]).combine_chunks()


def close(one, other):
    """Equal but for the last stored digit, which a batch of another make-up may round otherwise."""
    assert one.schema == other.schema
    for name in one.column_names:
        pairs = zip(one[name].to_pylist(), other[name].to_pylist(), strict=True)
        for a, b in pairs:
            same = a == b if a is None or b is None or isinstance(a, bool) else abs(a - b) <= 2e-4 * max(1, abs(b))
            assert same, (name, a, b)
    return True


def test_a_scorer_is_a_frozen_annotator_that_describes_itself_as_json(work):
    assert isinstance(work, Annotator)
    assert not isinstance(work, Fitted)
    assert all(field.kw_only for field in dataclasses.fields(work))
    with pytest.raises(dataclasses.FrozenInstanceError):
        work.revision = 2
    assert json.loads(json.dumps(describe(work)))["name"] == work.name


def test_it_pickles_small_after_use_and_comes_back_equal(work, rows):
    output(work, rows)
    data = pickle.dumps(work)
    assert len(data) < 4096
    assert pickle.loads(data) == work  # noqa: S301 (made above)


def test_it_reads_what_it_declares_and_adds_what_it_declares(work, rows):
    table = output(work, rows.select(list(work.reads)))
    assert tuple(table.column_names) == work.adds
    assert len(table) == rows.num_rows
    assert close(table, output(work, rows))


@pytest.mark.parametrize("size", [1, 7])
def test_the_result_does_not_depend_on_how_a_table_is_cut(work, rows, size):
    parts = [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
    assert close(output(work, *parts), output(work, rows))


def test_no_rows_give_no_rows_of_the_same_types(work, rows):
    empty = rows.slice(5, 0)
    assert output(work, empty).schema == output(work, rows).schema
    assert close(output(work, empty, rows, empty), output(work, rows))


def test_setup_changes_nothing(work, rows):
    before = output(work, rows)
    work.setup()
    assert close(output(work, rows), before)


@pytest.mark.parametrize("model", [PerplexityModel(), PerplexityModel(unit="word")], ids=["byte", "word"])
def test_the_fitted_scorer_sums_its_parts_whatever_their_number(model, rows):
    whole = model.summarise(rows).to_table()
    for size in (1, 7, 200):
        parts = [model.summarise(rows.slice(start, size)) for start in range(0, rows.num_rows, size)]
        sent = [NgramCounts.from_table(part.to_table()) for part in parts]
        merged = reduce(lambda a, b: b.merge(a), sent)
        assert merged.to_table().equals(whole)
        assert merged.to_table().schema.metadata == whole.schema.metadata
    assert model.summarise(rows.slice(0, 0)).to_table().num_rows == 0
    assert set(model.reads) <= set(rows.schema.names)
