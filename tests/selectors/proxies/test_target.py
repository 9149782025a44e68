"""What proxies are measured on: a prefix of a sample by hash, disjoint from what is learned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import hash_ids
from penstock.selectors.proxies.target import disjoint, first_documents, named_domains, rows_for, target_sampling


def rows(domain, sizes):
    ids = [f"{domain}-{i}" for i in range(len(sizes))]
    tokens = [list(range(size)) for size in sizes]
    return pa.RecordBatch.from_pydict(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": [domain] * len(sizes),
            "tokens": pa.array(sizes, pa.int32()),
            "token_ids": pa.array(tokens, pa.list_(pa.uint16())),
            "content_hash": pa.array([f"{domain}{i:15}".encode() for i in range(len(sizes))], pa.binary(16)),
        }
    )


def taken(sample, tokens):
    return {row["doc_id"]: row["token_ids"] for row in first_documents(sample, tokens).to_pylist()}


def test_each_domain_gives_its_first_tokens_and_fewer_tokens_are_a_prefix():
    sampling = target_sampling(3, 50)
    sample = sampling.of(rows("a", [7] * 20)).merge(sampling.of(rows("b", [100, 3, 5])))
    more, fewer = taken(sample, 60), taken(sample, 33)
    for of, most in ((more, 60), (fewer, 33)):
        sizes = {d: sum(len(ids) for name, ids in of.items() if name[0] == d) for d in "ab"}
        assert sizes == {"a": most, "b": most}
        assert all(ids == list(range(len(ids))) for ids in of.values())
    assert set(fewer) <= set(more)
    assert sum(len(ids) < 7 for name, ids in fewer.items() if name[0] == "a") == 1, "only the last document is cut"
    everything = taken(sample, 10_000)
    assert {name: len(ids) for name, ids in everything.items()} == {f"a-{i}": 7 for i in range(20)} | {
        "b-0": 100, "b-1": 3, "b-2": 5,
    }  # fmt: skip


def test_enough_documents_are_sampled_for_the_tokens_asked_for():
    assert rows_for(1000, ("a", "b"), {"a": 1000, "b": 50, "c": 1}, {"a": 10, "b": 10, "c": 1}) >= 200
    assert rows_for(1000, (), {}, {}) >= 125


def test_a_domain_that_no_document_has_is_refused_with_the_names_that_there_are():
    sizes = {"wikipedia": 5, "news": 5}
    with pytest.raises(ConfigError, match=r"got 'wikipdia', which no document has; did you mean 'wikipedia'.*'news'"):
        named_domains(("news", "wikipdia"), sizes)
    assert named_domains(("news",), sizes) == ("news",)
    assert named_domains(("*",), sizes) == ("news", "wikipedia")


def test_content_that_is_trained_on_is_left_out_and_nothing_left_is_an_error():
    target = pa.Table.from_batches([rows("a", [4, 5, 6])])
    learned = pa.array([target["content_hash"][1].as_py(), b"0" * 16], pa.binary(16))
    documents, left_out = disjoint(target, learned)
    assert (documents.sizes.tolist(), left_out, documents.names) == ([4, 6], 1, ("a",))
    assert disjoint(target, learned.slice(0, 0))[1] == 0
    with pytest.raises(DatasetError, match="all 3 documents stand in the training documents word for word"):
        disjoint(target, target["content_hash"].combine_chunks())
    assert np.array_equal(documents.offsets, [0, 4, 10])
