"""Indexed datasets of Megatron-LM: what is read, what is refused, and what an export gives back.

``write`` builds the two files byte by byte from the format's description, so reader and writer are not checked against
each other alone.
"""

import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.training.collate import CausalCollator
from penstock.training.loader import MixtureLoader
from penstock.training.megatron import documents_of, export_megatron, open_megatron
from penstock.training.sequences import SequenceStore

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float32": 7, "uint16": 8}
DOCUMENTS = [[[5, 6, 7]], [[8], [9, 10]], [], [[]], [[11, 12]]]  # documents of sequences of token ids


def write(folder, documents=DOCUMENTS, *, name="data", dtype="int32", modes=None, **changes):
    """The .bin and .idx of documents of sequences; ``changes`` replace parts of the index."""
    width = np.dtype(dtype).itemsize
    sequences = [sequence for document in documents for sequence in document]
    sizes = [len(sequence) for sequence in sequences]
    borders = np.cumsum([0, *(len(document) for document in documents)])
    parts = {
        "magic": b"MMIDIDX\x00\x00",
        "version": struct.pack("<Q", 1),
        "code": struct.pack("<B", CODES[dtype]),
        "n": struct.pack("<Q", len(sequences)),
        "m": struct.pack("<Q", len(borders)),
        "sizes": np.array(sizes, "<i4").tobytes(),
        "pointers": np.array([width * sum(sizes[:i]) for i in range(len(sizes))], "<i8").tobytes(),
        "borders": borders.astype("<i8").tobytes(),
        "modes": b"" if modes is None else np.array(modes, "<i1").tobytes(),
        "end": b"",
    }
    (folder / f"{name}.idx").write_bytes(b"".join((parts | changes).values()))
    flat = [token for sequence in sequences for token in sequence]
    (folder / f"{name}.bin").write_bytes(np.array(flat, dtype).tobytes())
    return folder / name


def plain(documents):
    """Documents as flat lists of ids."""
    return [[token for sequence in document for token in sequence] for document in documents]


def rows_of(store, k=0):
    """(tokens, documents, lengths) of every row of a domain."""
    read = store.read(np.full(store.rows[k], k), np.arange(store.rows[k]))
    ends = np.cumsum(read.segment_counts)
    docs, lengths = read.segment_docs.to_pylist(), read.segment_lengths.tolist()
    return [
        (tokens, docs[end - count : end], lengths[end - count : end])
        for tokens, count, end in zip(read.tokens.tolist(), read.segment_counts, ends, strict=True)
    ]


def test_documents_are_cut_into_rows_and_named_by_file_and_number(tmp_path):
    store = open_megatron({"web": write(tmp_path, name="web_text_document")}, length=5)
    assert (store.domains, store.rows, store.tokens) == (("web",), (2,), (8,))
    assert rows_of(store) == [
        ([5, 6, 7, 8, 9], ["web_text_document#0", "web_text_document#1"], [3, 2]),
        ([10, 11, 12, 0, 0], ["web_text_document#1", "web_text_document#4"], [1, 2]),
    ]


def test_separate_documents_get_a_row_each(tmp_path):
    store = open_megatron({"web": write(tmp_path)}, length=3, layout="separate")
    assert [row[0] for row in rows_of(store)] == [[5, 6, 7], [8, 9, 10], [11, 12, 0]]


def test_files_of_one_length_are_read_sequence_by_sequence(tmp_path):
    documents = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]
    store = open_megatron({"d": write(tmp_path, documents)}, length=3)
    assert [row[0] for row in rows_of(store)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_several_files_of_a_domain_follow_each_other(tmp_path):
    paths = [write(tmp_path, [[[1, 2]], [[3]]], name="one"), write(tmp_path, [[[4, 5, 6]]], name="two", dtype="uint16")]
    store = open_megatron({"d": [str(paths[0]) + ".bin", str(paths[1]) + ".idx"]}, length=4)
    assert rows_of(store) == [([1, 2, 3, 4], ["one#0", "one#1", "two#0"], [2, 1, 1]), ([5, 6, 0, 0], ["two#0"], [2])]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
def test_every_type_of_ids_is_read(tmp_path, dtype):
    assert rows_of(open_megatron({"d": write(tmp_path, [[[1, 100]]], dtype=dtype)}, length=2))[0][0] == [1, 100]


def test_sequences_may_lie_in_any_order_and_share_bytes(tmp_path):
    # two documents of the ids 1 2 3 4: the last two first, then all but the last
    prefix = write(
        tmp_path, [[[1, 2]], [[3, 4]]],
        sizes=np.array([2, 3], "<i4").tobytes(), pointers=np.array([8, 0], "<i8").tobytes(),
    )  # fmt: skip
    assert [document.tolist() for document in documents_of(prefix)] == [[3, 4], [1, 2, 3]]
    assert rows_of(open_megatron({"d": prefix}, length=4))[0][0] == [3, 4, 1, 2]


def test_tokens_are_mapped_and_not_copied(tmp_path):
    store = open_megatron({"d": write(tmp_path)}, length=4)
    (array,) = store._arrays
    (tmp_path / "data.bin").open("r+b").write(np.array([99], "<i4").tobytes())
    assert int(array[0]) == 99


def test_modes_of_text_alone_are_allowed(tmp_path):
    assert open_megatron({"d": write(tmp_path, [[[1, 2]]], modes=[0])}, length=2).rows == (1,)
    with pytest.raises(InputError, match="several modes, allowed text alone"):
        open_megatron({"d": write(tmp_path, [[[1, 2]]], modes=[1])}, length=2)


BAD = {
    "magic": ({"magic": b"MMIDIDX\x00\x01"}, InputError, "begins with b'MMIDIDX.*name the .idx of one"),
    "legacy": ({"magic": b"TNTIDX\x00\x00\x00"}, InputError, "older format without mapping"),
    "version": ({"version": struct.pack("<Q", 2)}, InputError, "version 2, allowed 1"),
    "floats": ({"code": b"\x07"}, InputError, "holds float32, allowed integers"),
    "code": ({"code": b"\x09"}, InputError, "type code 9, allowed 1 uint8, 2 int8"),
    "counts": ({"n": struct.pack("<Q", 6)}, DatasetError, r"data.idx: \d+ bytes, but 6 sequences and 6 document"),
    "huge": ({"n": struct.pack("<Q", 2**63)}, DatasetError, "the file was cut off or is damaged"),
    "longer": ({"end": b"\x00"}, DatasetError, "the file was cut off or is damaged"),
    "negative size": (
        {"sizes": np.array([3, 1, -2, 0, 2], "<i4").tobytes()}, DatasetError, "sequence 2 has -2 tokens",
    ),
    "size over the file": (
        {"sizes": np.array([3, 1, 2, 0, 3], "<i4").tobytes()}, DatasetError, "sequence 4 has 3 tokens of 4 bytes at",
    ),
    "negative place": (
        {"pointers": np.array([-4, 12, 16, 24, 24], "<i8").tobytes()}, DatasetError, "at byte -4, the .bin has 32",
    ),
    "place over the file": (
        {"pointers": np.array([0, 2**62, 16, 24, 24], "<i8").tobytes()}, DatasetError, f"at byte {2**62}, the .bin",
    ),
    "place inside an id": (
        {"pointers": np.array([0, 13, 16, 24, 24], "<i8").tobytes()}, DatasetError, "of 4 bytes at byte 13",
    ),
    "borders do not begin at 0": (
        {"borders": np.array([1, 1, 3, 3, 4, 5], "<i8").tobytes()}, DatasetError, "document borders from 1 to 5",
    ),
    "borders end early": (
        {"borders": np.array([0, 1, 3, 3, 4, 4], "<i8").tobytes()}, DatasetError, "from 0 to 4; allowed from 0 to 5",
    ),
    "borders fall": (
        {"borders": np.array([0, 3, 1, 3, 4, 5], "<i8").tobytes()}, DatasetError, "from 0 to 5, which fall",
    ),
    "no borders": (
        {"m": struct.pack("<Q", 0), "borders": b""}, DatasetError, "document borders none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_index_that_contradicts_itself_is_refused(tmp_path, name):
    changes, error, message = BAD[name]
    with pytest.raises(error, match=message):
        open_megatron({"d": write(tmp_path, **changes)}, length=4)


def test_an_index_cut_off_anywhere_is_refused(tmp_path):
    prefix = write(tmp_path)
    whole = (tmp_path / "data.idx").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "data.idx").write_bytes(whole[:size])
        with pytest.raises((DatasetError, InputError), match=r"data\.idx"):
            open_megatron({"d": prefix}, length=4)


def test_a_bin_that_is_too_short_is_refused(tmp_path):
    prefix = write(tmp_path)
    (tmp_path / "data.bin").write_bytes(b"\x00" * 31)
    with pytest.raises(DatasetError, match=r"sequence 4 has 2 tokens of 4 bytes at byte 24, the \.bin has 31 bytes"):
        open_megatron({"d": prefix}, length=4)


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_missing_file_is_named(tmp_path, ending):
    prefix = write(tmp_path)
    (tmp_path / f"data.{ending}").unlink()
    with pytest.raises(InputError, match=rf"data\.{ending}: no such file"):
        open_megatron({"d": prefix}, length=4)


def test_ids_over_the_vocabulary_are_refused_at_once_or_when_read(tmp_path):
    prefix = write(tmp_path)
    with pytest.raises(DatasetError, match="domain d, document data#4, token 1: token id 12, allowed 0 to 11"):
        open_megatron({"d": prefix}, length=4, vocab_size=12, check_ids=True)
    with pytest.raises(DatasetError, match="token id 12, allowed 0 to 11"):
        rows_of(open_megatron({"d": prefix}, length=4, vocab_size=12))


def test_export_writes_the_format_byte_by_byte(tmp_path, packed):
    rows = [[("a", [5, 6, 7]), ("b", [8])], [("c", [9, 10])]]
    file = packed.write(tmp_path / "x.arrow", rows, length=4)
    (written,) = export_megatron({"web/en": [file]}, tmp_path / "out" / "corpus")
    assert written.prefix == str(tmp_path / "out" / "corpus-web%2Fen")
    assert (written.documents, written.tokens, written.dtype) == (3, 6, "uint16")
    expected = write(tmp_path, [[[5, 6, 7]], [[8]], [[9, 10]]], name="expected", dtype="uint16")
    for ending in ("bin", "idx"):
        assert (tmp_path / "out" / f"corpus-web%2Fen.{ending}").read_bytes() == expected.with_suffix(
            f".{ending}"
        ).read_bytes()
    assert not list((tmp_path / "out").glob("*tmp*"))


def test_pieces_of_a_document_that_was_cut_at_the_end_of_a_row_are_joined(tmp_path, packed):
    rows = [
        [("a", [1, 2]), ("b", [3, 4])], [("b", [5, 6, 7, 8])], [("b", [9]), ("b", [10]), ("c", [11, 12])],
        [("d", [13])], [("d", [14])],
    ]  # fmt: skip
    file = packed.write(tmp_path / "x.arrow", rows, length=4)
    (written,) = export_megatron({"d": [file]}, tmp_path / "out")
    found = [document.tolist() for document in documents_of(written.prefix)]
    # two pieces in one row are two copies; a row with padding ends its document
    assert found == [[1, 2], [3, 4, 5, 6, 7, 8, 9], [10], [11, 12], [13], [14]]


def naive_documents(rows, length):
    """Documents of packed rows, joined where a full row's last goes on in the next row's first."""
    out, open_name = [], None
    for row in rows:
        for i, (name, tokens) in enumerate(row):
            if i == 0 and name == open_name:
                out[-1] = out[-1] + tokens
            else:
                out.append(tokens)
        full = sum(len(tokens) for _, tokens in row) == length
        open_name = row[-1][0] if row and full else None
    return out


ROW = st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 60000), min_size=1, max_size=4)), max_size=3)


# ``packed`` holds functions alone
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW.filter(lambda row: sum(len(t) for _, t in row) <= 5), min_size=1, max_size=9), st.integers(1, 3))
def test_documents_of_an_export_are_those_of_the_rows(tmp_path_factory, packed, rows, at_a_time):
    from penstock.training import megatron

    folder = tmp_path_factory.mktemp("export")
    file = packed.write(folder / "x.arrow", rows, length=5)
    expected = naive_documents(rows, 5)
    before, megatron._ROWS = megatron._ROWS, at_a_time
    try:
        (written,) = export_megatron({"d": [file]}, folder / "out")
    finally:
        megatron._ROWS = before
    assert [document.tolist() for document in documents_of(written.prefix)] == expected
    assert written.documents == len(expected)


def test_an_export_read_again_gives_the_same_rows(tmp_path, packed):
    documents = [(f"d{i}", [1 + (7 * i + j) % 30 for j in range(2 + i % 9)]) for i in range(40)]
    flat = [(name, token) for name, tokens in documents for token in tokens]
    rows = []
    for begin in range(0, len(flat), 8):
        row = []
        for name, token in flat[begin : begin + 8]:
            if row and row[-1][0] == name:
                row[-1][1].append(token)
            else:
                row.append((name, [token]))
        rows.append(row)
    file = packed.write(tmp_path / "x.arrow", rows, length=8)
    (written,) = export_megatron({"d": [file]}, tmp_path / "out")
    assert [d.tolist() for d in documents_of(written.prefix)] == [tokens for _, tokens in documents]
    ours, again = SequenceStore.open({"d": [file]}), open_megatron({"d": written.prefix}, length=8)
    assert [(row[0], row[2]) for row in rows_of(again)] == [(row[0], row[2]) for row in rows_of(ours)]


def test_an_export_of_an_export_is_the_same_bytes(tmp_path):
    prefix = write(tmp_path, [[[5, 6, 7]], [[8], [9, 10]], [[11, 12]]], dtype="uint16")
    (first,) = export_megatron(open_megatron({"d": prefix}, length=3), tmp_path / "one")
    export_megatron(open_megatron({"d": first.prefix}, length=7), tmp_path / "two")
    for ending in ("bin", "idx"):
        one, two = (tmp_path / f"{name}-d.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("kind", "dtype", "expected"), [
    ("uint16", "auto", "uint16"), ("uint32", "auto", "int32"), ("uint16", "int32", "int32"),
    ("uint16", "int64", "int64"),
])  # fmt: skip
def test_the_type_of_ids_can_be_chosen(tmp_path, packed, kind, dtype, expected):
    import pyarrow as pa

    file = packed.write(tmp_path / "x.arrow", [[("a", [1, 2])]], length=2, kind=getattr(pa, kind)())
    (written,) = export_megatron({"d": [file]}, tmp_path / "out", dtype=dtype)
    assert written.dtype == expected
    assert [d.tolist() for d in documents_of(written.prefix)] == [[1, 2]]


def test_an_id_that_the_type_does_not_hold_is_refused_and_leaves_no_index(tmp_path, packed):
    import pyarrow as pa

    good = packed.write(tmp_path / "good.arrow", [[("a", [1])]], length=2, kind=pa.uint32())
    export_megatron({"d": [good]}, tmp_path / "out")
    bad = packed.write(tmp_path / "bad.arrow", [[("a", [70000])]], length=2, kind=pa.uint32())
    with pytest.raises(DatasetError, match="domain d: token id 70000, uint16 holds 65535; choose a wider dtype"):
        export_megatron({"d": [bad]}, tmp_path / "out", dtype="uint16")
    # the older .bin is still there, but nothing says that it belongs to this export
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out-d.bin"]


def test_a_loss_mask_is_refused_or_dropped_on_demand(tmp_path, packed):
    file = packed.write(tmp_path / "x.arrow", [[("a", [1, 2, 3])]], length=4, masks=[[1, 3]])
    with pytest.raises(ConfigError, match="some tokens are not to be learned"):
        export_megatron({"d": [file]}, tmp_path / "out")
    (written,) = export_megatron({"d": [file]}, tmp_path / "out", loss_mask="drop")
    assert [d.tolist() for d in documents_of(written.prefix)] == [[1, 2, 3]]


def test_a_mask_that_leaves_out_padding_alone_is_no_loss(tmp_path, packed):
    file = packed.write(tmp_path / "x.arrow", [[("a", [1, 2, 3])]], length=4, masks=[[0, 3]])
    assert export_megatron({"d": [file]}, tmp_path / "out")[0].tokens == 3


@pytest.mark.parametrize(("arguments", "message"), [
    ({"dtype": "uint8"}, "dtype: got 'uint8', allowed 'auto', 'uint16'"),
    ({"loss_mask": "keep"}, "loss_mask: got 'keep', allowed 'refuse' or 'drop'"),
])  # fmt: skip
def test_bad_arguments_say_what_is_allowed(tmp_path, packed, arguments, message):
    file = packed.write(tmp_path / "x.arrow", [[("a", [1])]], length=4)
    with pytest.raises(ConfigError, match=message):
        export_megatron({"d": [file]}, tmp_path / "out", **arguments)


def test_a_model_trains_on_megatron_files_in_a_plain_torch_loop_with_a_changing_mixture(tmp_path):
    """Real optimiser steps through a DataLoader; the mixture changes at the stated sequence."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def documents(first, count):
        return [[[first + (i + 2 * j) % 8 for j in range(6)]] for i in range(count)]

    prefixes = {"low": write(tmp_path, documents(1, 40), name="l"), "high": write(tmp_path, documents(9, 40), name="h")}
    store = open_megatron(prefixes, length=8, vocab_size=17)
    loader = MixtureLoader(
        store, {"low": 1, "high": 0}, seed=0, fingerprint=store.fingerprint(), batch_size=4, block=4, lag=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=17, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=8,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    collate, losses, domains = CausalCollator(), [], []

    def tagged(batch):
        domains.append([store.domains[k] for k in batch.domain])
        return collate(batch)

    data = torch.utils.data.DataLoader(loader, batch_sampler=loader.sampler(12), collate_fn=tagged)
    for step, inputs in enumerate(data, start=1):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        loader.advance()
        if step == 6:
            assert loader.update({"low": 0, "high": 1}, step=step) == 1
    assert domains[:8] == [["low"] * 4] * 8  # steps 1 to 6 + lag
    assert domains[8:] == [["high"] * 4] * 4
    assert losses[7] < losses[0] - 0.3
    assert losses[8] > losses[7]  # nothing was learned of the new domain yet
