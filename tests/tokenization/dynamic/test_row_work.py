"""Merged tokens as columns: the batch is named, and nothing else decides."""

import hashlib
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.row_work import DynamicTokens, keyed_batches
from penstock.work import apply

WORDS = ["low", "lower", "lowest", "newer", "bridge", "town", "3.5kg"]


def table(n=11, seed=0):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(n)]
    order = rng.permutation(n).tolist()
    columns = {"doc_id": [f"d{i:03d}" for i in order], "text": [texts[i] for i in order]}
    return pa.table(columns, schema=pa.schema([("doc_id", pa.string()), ("text", pa.string())]))


@pytest.fixture
def work(base, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(base.loaded.content)
    return DynamicTokens(tokenizer_file=str(path), sha256=base.loaded.sha256, merges=6)


def by_id(batches):
    rows = pa.Table.from_batches(batches).sort_by("doc_id")
    return rows.to_pylist()


def annotated(work, batch):
    return apply([work], batch).batch


def test_batches_are_of_a_fixed_size_in_the_order_of_ids_whatever_the_order_of_rows():
    one = list(keyed_batches(table(), rows=4))
    assert [batch.num_rows for batch in one] == [4, 4, 3]
    assert [i for batch in one for i in batch["doc_id"].to_pylist()] == [f"d{i:03d}" for i in range(11)]
    assert [batch["dynamic_batch_rows"].to_pylist() for batch in one] == [[4] * 4, [4] * 4, [3] * 3]
    other = list(keyed_batches(table().take(np.arange(11)[::-1]), rows=4))
    assert [batch["dynamic_batch"][0] for batch in one] == [batch["dynamic_batch"][0] for batch in other]
    assert len({batch["dynamic_batch"][0].as_py() for batch in one}) == 3


def test_rows_hold_the_merged_tokens_of_their_batch_and_what_decided_them(work, base):
    for batch in keyed_batches(table(), rows=4):
        out = annotated(work, batch)
        made = DynamicTokenizer(base).encode(batch["text"].to_pylist(), 6)
        assert out["token_ids"].values.to_pylist() == made.base_ids.tolist()
        assert out["dynamic_spans"].values.to_pylist() == (made.stops - made.starts).tolist()
        assert out["dynamic_tokens"].to_pylist() == made.lengths.tolist()
        assert set(out["dynamic_merge_hash"].to_pylist()) == {made.merge_hash}
        assert out["dynamic_boundary"][0].as_py() == "word:whitespace"
        assert out["dynamic_tie"][0].as_py() == "lexical"
        assert out["dynamic_merges"][0].as_py() == 6


def test_the_same_rows_come_out_of_one_worker_and_of_several_and_of_any_bundles(work):
    batches = list(keyed_batches(table(23), rows=5))
    expected = by_id([annotated(work, batch) for batch in batches])
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert by_id(pool.map(annotated, [work] * len(batches), batches[::-1])) == expected
    whole = pa.Table.from_batches(batches).take(np.random.default_rng(1).permutation(23)).combine_chunks()
    assert by_id([annotated(work, whole.to_batches()[0])]) == expected
    other = by_id([annotated(work, batch) for batch in keyed_batches(table(23), rows=23)])
    assert [row["dynamic_spans"] for row in other] != [row["dynamic_spans"] for row in expected]


def test_part_of_a_batch_is_refused(work):
    (batch,) = keyed_batches(table(4), rows=4)
    with pytest.raises(DatasetError, match=r"got 3 rows of the batch \w+, allowed 4, all of it"):
        work.annotate(batch.slice(1))


def test_no_limit_is_kept_as_minus_one_and_an_empty_batch_gives_empty_columns(work, base):
    free = DynamicTokens(tokenizer_file=work.tokenizer_file, sha256=work.sha256, merges=None)
    (batch,) = keyed_batches(table(4), rows=4)
    assert annotated(free, batch)["dynamic_merges"].to_pylist() == [-1] * 4
    empty = annotated(work, batch.slice(0, 0))
    assert empty.num_rows == 0
    assert empty["dynamic_spans"].type == pa.list_(pa.int32())
    assert list(keyed_batches(table(0), rows=4)) == []


def test_row_work_is_pickled_and_names_its_file(work):
    assert pickle.loads(pickle.dumps(work)) == work  # noqa: S301
    assert [str(one.path) for one in work.files()] == [work.tokenizer_file]
    work.setup()


def test_bad_rows_files_and_settings_are_refused(work, tmp_path):
    (batch,) = keyed_batches(table(2), rows=2)
    nulls = batch.set_column(1, "text", pa.array([None, "a"]))
    with pytest.raises(DatasetError, match="got 1 null texts"):
        work.annotate(nulls)
    wrong = DynamicTokens(tokenizer_file=work.tokenizer_file, sha256=hashlib.sha256(b"").hexdigest(), merges=1)
    with pytest.raises(DatasetError, match="expected e3b0"):
        wrong.annotate(batch)
    with pytest.raises(InputError, match="cannot be read"):
        DynamicTokens(tokenizer_file=str(tmp_path / "none"), sha256="0", merges=1).annotate(batch)
    for options in ({"merges": -1}, {"minimum": 0}, {"boundary": "line"}):
        with pytest.raises(ConfigError, match="got"):
            DynamicTokens(**{"tokenizer_file": "t", "sha256": "0", "merges": 1, **options})
    with pytest.raises(ConfigError, match="rows: got 0"):
        list(keyed_batches(table(), rows=0))
    with pytest.raises(DatasetError, match="stand twice"):
        list(keyed_batches(pa.table({"doc_id": ["a", "a"], "text": ["x", "y"]}), rows=2))
