"""Hugging Face datasets of token ids as stores: what is read in place, what is refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.training.huggingface import store_from_dataset

datasets = pytest.importorskip("datasets")


def rows_of(store, domain=None):
    """(tokens, documents, lengths) of every row of a domain."""
    k = 0 if domain is None else store.domains.index(domain)
    read = store.read(np.full(store.rows[k], k), np.arange(store.rows[k]))
    ends = np.cumsum(read.segment_counts)
    docs, lengths = read.segment_docs.to_pylist(), read.segment_lengths.tolist()
    return [
        (tokens, docs[end - count : end], lengths[end - count : end])
        for tokens, count, end in zip(read.tokens.tolist(), read.segment_counts, ends, strict=True)
    ]


def made(rows, **columns):
    return datasets.Dataset.from_dict({"input_ids": rows} | columns)


def test_rows_of_a_dataset_are_laid_end_to_end_and_cut():
    store = store_from_dataset(made([[1, 2, 3], [], [4, 5]]), length=4)
    assert (store.domains, store.rows, store.tokens) == (("dataset",), (2,), (5,))
    assert rows_of(store) == [([1, 2, 3, 4], ["dataset#0", "dataset#2"], [3, 1]), ([5, 0, 0, 0], ["dataset#2"], [1])]


def test_separate_rows_are_padded():
    store = store_from_dataset(made([[1, 2, 3], [4]]), length=4, layout="separate")
    assert [row[0] for row in rows_of(store)] == [[1, 2, 3, 0], [4, 0, 0, 0]]


def test_rows_of_a_shuffled_and_filtered_dataset_come_in_its_order():
    dataset = made([[i] * (1 + i % 3) for i in range(20)]).shuffle(seed=1).filter(lambda row: row["input_ids"][0] % 2)
    flat = [token for row in dataset["input_ids"] for token in row]
    store = store_from_dataset(dataset.select(range(2, len(dataset))), length=3)
    dropped = len(dataset[0]["input_ids"]) + len(dataset[1]["input_ids"])
    found = [token for row in rows_of(store) for token in row[0]]
    assert found[: len(flat) - dropped] == flat[dropped:]
    assert rows_of(store)[0][1][0] == "dataset#0"


def test_a_saved_dataset_is_mapped_and_not_copied(tmp_path):
    made([[1, 2, 3], [4, 5]]).save_to_disk(str(tmp_path / "tokenised"))
    store = store_from_dataset(tmp_path / "tokenised", length=5)
    assert store.domains == ("tokenised",)
    assert rows_of(store)[0][1] == ["tokenised#0", "tokenised#1"]
    before = pa.total_allocated_bytes()
    (array,) = store._arrays
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert pa.total_allocated_bytes() == before
    # the ids are where Arrow mapped the file
    table = datasets.load_from_disk(str(tmp_path / "tokenised")).data.table
    assert table["input_ids"].chunk(0).flatten().equals(pa.array(array.tolist(), table["input_ids"].type.value_type))


def test_ids_stay_in_the_arrow_buffers_of_the_dataset():
    dataset = made([[1, 2, 3], [4, 5]])
    (array,) = store_from_dataset(dataset, length=5)._arrays
    buffer = dataset.data.table["input_ids"].chunk(0).flatten().buffers()[1]
    assert buffer.address <= array.__array_interface__["data"][0] < buffer.address + buffer.size


def test_keys_of_a_dataset_dict_are_domains_and_may_be_folders(tmp_path):
    made([[7, 8]]).save_to_disk(str(tmp_path / "x"))
    store = store_from_dataset({"web": made([[1, 2]]), "code": tmp_path / "x"}, length=2)
    assert store.domains == ("web", "code")
    assert rows_of(store, "code") == [([7, 8], ["code#0"], [2])]
    both = datasets.DatasetDict({"a": made([[1]]), "b": made([[2]])})
    assert store_from_dataset(both, length=1).domains == ("a", "b")


def test_a_column_of_strings_names_domains_and_another_the_documents():
    dataset = made([[1, 2], [3], [4, 5]], source=["web", "code", "web"], key=["x", "y", "z"])
    store = store_from_dataset(dataset, length=3, domain_column="source", id_column="key")
    assert store.domains == ("code", "web")
    assert rows_of(store, "web") == [([1, 2, 4], ["x", "z"], [2, 1]), ([5, 0, 0], ["z"], [1])]
    shuffled = store_from_dataset(dataset.select([2, 0, 1]), length=3, domain_column="source", id_column="key")
    assert rows_of(shuffled, "web")[0] == ([4, 5, 1], ["z", "x"], [2, 1])


def test_labels_say_what_is_learned():
    dataset = made([[1, 2, 3], [4, 5]], labels=[[-100, 2, 3], [4, -100]])
    read = store_from_dataset(dataset, length=4).read(np.zeros(2, np.int64), np.array([0, 1]))
    assert read.learned.tolist() == [[False, True, True, True], [False, True, True, True]]
    without = store_from_dataset(dataset, length=4, labels=None)
    assert without.read(np.array([0]), np.array([0])).learned is None


@pytest.mark.parametrize("kind", ["int8", "int64", "bool"])
def test_padding_is_cut_away_by_the_mask_on_either_side(kind):
    mask = pa.array([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).cast(pa.list_(pa.type_for_alias(kind)))
    table = pa.table({"input_ids": [[1, 2, 3, 0], [0, 0, 4, 5], [6, 7, 8, 9], [0, 0, 0, 0]], "attention_mask": mask})
    dataset = datasets.Dataset(table)
    store = store_from_dataset(dataset, length=4, layout="separate")
    assert [row[0] for row in rows_of(store)] == [[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 9]]
    assert [row[0] for row in rows_of(store_from_dataset(dataset, length=3))] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert store_from_dataset(dataset, length=4, mask=None).tokens == (16,)


masks = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 2))


@settings(deadline=None, max_examples=80)
@given(st.lists(masks, min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 3), st.randoms())
def test_any_padding_and_chunks_of_a_table_give_the_unpadded_documents(shapes, length, chunk, random):
    rows, ones, documents, token = [], [], [], 1
    for left, size, right in shapes:
        documents.append(list(range(token, token + size)))
        rows.append([0] * left + documents[-1] + [0] * right)
        ones.append([0] * left + [1] * size + [0] * right)
        token += size
    table = pa.table({
        "input_ids": pa.array(rows, pa.list_(pa.int32())), "attention_mask": pa.array(ones, pa.list_(pa.int64())),
    })  # fmt: skip
    parts = [table.slice(i, chunk) for i in range(0, len(rows), chunk)]
    # a column of other chunks than its neighbour, as datasets joined side by side have
    joined = pa.concat_tables(parts).set_column(1, "attention_mask", table["attention_mask"])
    order = list(range(len(rows)))
    random.shuffle(order)
    dataset = datasets.Dataset(joined).select(order)
    flat = [token for i in order for token in documents[i]]
    if not flat:
        with pytest.raises(ConfigError, match="no token at all"):
            store_from_dataset(dataset, length=length)
        return
    found = [token for row in rows_of(store_from_dataset(dataset, length=length)) for token in row[0]]
    assert found == flat + [0] * (-len(flat) % length)


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.uint16(), 2)])
def test_lists_of_every_layout_are_read(kind):
    dataset = datasets.Dataset(pa.table({"input_ids": pa.array([[1, 2], [3, 4], [5, 6]], kind)}))
    assert [row[0] for row in rows_of(store_from_dataset(dataset.select([1, 2]), length=2))] == [[3, 4], [5, 6]]


def table(**columns):
    return datasets.Dataset(pa.table(columns))


LISTS = pa.list_(pa.int64())
BAD = {
    "missing column": (lambda: made([[1]]).rename_column("input_ids", "ids"), {}, "no column 'input_ids'; it has ids"),
    "text": (lambda: table(input_ids=["a b"]), {}, "column input_ids is string, allowed lists of integers"),
    "floats": (lambda: table(input_ids=[[1.5]]), {}, "column input_ids is list<.*double>, allowed lists of integers"),
    "null row": (lambda: table(input_ids=pa.array([[1], None], LISTS)), {}, "1 rows are null"),
    "null id": (lambda: table(input_ids=pa.array([[1, None]], LISTS)), {}, "1 elements are null"),
    "negative": (lambda: made([[1], [2, -3]]), {}, "document dataset#1, token 1: token id -3, allowed 0"),
    "vocabulary": (lambda: made([[1], [2, 9]]), {"vocab_size": 9}, "dataset#1, token 1: token id 9, allowed 0 to 8"),
    "ragged": (lambda: made([[1], [2, 3]]), {"length": None, "layout": "separate"}, "rows of 1 to 2 tokens; give"),
    "too long": (lambda: made([[1], [2, 3, 4]]), {"length": 2, "layout": "separate"}, "dataset#1: 3 tokens do not fit"),
    "labels of other length": (
        lambda: made([[1], [2, 3]], labels=[[1], [2]]), {}, "column labels: a list of 1 beside 2 ids, allowed equal",
    ),
    "shifted labels": (lambda: made([[1, 2]], labels=[[2, -100]]), {}, "label 2 of token 1, allowed the token itself"),
    "mask with a hole": (lambda: made([[1, 2, 3]], attention_mask=[[1, 0, 1]]), {}, "attention_mask has 2 runs of 1"),
    "mask of other numbers": (lambda: made([[1, 2]], attention_mask=[[1, 2]]), {}, "attention_mask holds 1 to 2"),
    "labels named and missing": (lambda: made([[1]]), {"labels": "target"}, "no column 'target'"),
    "domain of numbers": (lambda: made([[1]], d=[3]), {"domain_column": "d"}, "column d is int64 with 0 nulls"),
    "null domain": (lambda: made([[1], [2]], d=["a", None]), {"domain_column": "d"}, "column d is string with 1 nulls"),
    "no domain column": (lambda: made([[1]]), {"domain_column": "d"}, "no column 'd'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_sequences_is_refused(name):
    make, arguments, message = BAD[name]
    with pytest.raises(DatasetError, match=message):
        store_from_dataset(make(), **({"length": 4} | arguments))


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="name a folder that save_to_disk wrote"):
        store_from_dataset(tmp_path / "nothing", length=4)
    with pytest.raises(ConfigError, match=r"got IterableDataset, allowed .* save it first"):
        store_from_dataset(made([[1]]).to_iterable_dataset(), length=4)
    with pytest.raises(ConfigError, match="got a mapping of nothing"):
        store_from_dataset({}, length=4)
    with pytest.raises(ConfigError, match="the dataset's keys are the domains already"):
        store_from_dataset({"a": made([[1]])}, length=4, domain_column="d")
