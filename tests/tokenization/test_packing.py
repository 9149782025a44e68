"""pytest tests/tokenization/test_packing.py"""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import schema, seeding
from penstock.errors import ConfigError, DatasetError, StorageError
from penstock.tokenization import packing
from penstock.tokenization.packing import hash_range, pack, pack_table, packing_order, to_batch, write_sequences

PAD = 9


def packed(documents, *, length, dtype=np.uint16, **options):
    """Pack {doc_id: [token, …]} in the order given."""
    offsets = np.cumsum([0, *map(len, documents.values())])
    tokens = np.array([t for d in documents.values() for t in d], dtype=dtype)
    return pack(pa.array(documents, pa.string()), tokens, offsets, length=length, pad_id=PAD, **options)


def segments(result):
    """Every segment as (sequence, document, tokens), in order."""
    out = []
    lengths, docs = result.segment_lengths.to_pylist(), result.segment_docs.to_pylist()
    for row, (sizes, names) in enumerate(zip(lengths, docs, strict=True)):
        ends = np.cumsum(sizes).tolist()
        assert len(sizes) == len(names)
        for name, size, end in zip(names, sizes, ends, strict=True):
            out.append((row, name, result.tokens[row, end - size : end].tolist()))
        assert (result.tokens[row, sum(sizes) :] == PAD).all()
    return out


DOCUMENTS = {"a": [1, 2, 3], "b": [], "c": [4, 5, 6, 7, 8, 10, 11], "d": [12]}


def test_documents_are_laid_end_to_end_and_chopped():
    result = packed(DOCUMENTS, length=5)
    assert result.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 10, 11], [12, PAD, PAD, PAD, PAD]]
    assert result.segment_lengths.to_pylist() == [[3, 2], [5], [1]]
    assert result.segment_docs.to_pylist() == [["a", "c"], ["c"], ["d"]]
    assert (result.tokens_in, result.tokens_packed, result.tokens_cut, result.padding) == (11, 11, 0, 4)


def test_a_cut_tail_is_dropped_and_counted():
    result = packed(DOCUMENTS, length=5, tail="cut")
    assert result.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 10, 11]]
    assert result.segment_docs.to_pylist() == [["a", "c"], ["c"]]
    assert (result.tokens_in, result.tokens_packed, result.tokens_cut, result.padding) == (11, 10, 1, 0)


def test_a_full_last_sequence_is_not_a_tail():
    assert packed({"a": [1, 2], "b": [3, 4]}, length=2, tail="cut").tokens.tolist() == [[1, 2], [3, 4]]


def test_a_head_that_would_be_too_short_waits_for_the_next_sequence():
    result = packed({"a": [1, 2, 3], "b": [4, 5, 6]}, length=4, min_segment=2)
    assert result.tokens.tolist() == [[1, 2, 3, PAD], [4, 5, 6, PAD]]
    assert (result.tokens_cut, result.padding) == (0, 2)


def test_a_rest_that_would_be_too_short_is_cut():
    result = packed({"a": [1, 2, 3, 4, 5], "b": [6, 7]}, length=4, min_segment=2)
    assert result.tokens.tolist() == [[1, 2, 3, 4], [6, 7, PAD, PAD]]
    assert (result.tokens_in, result.tokens_packed, result.tokens_cut, result.padding) == (7, 6, 1, 2)


def test_a_short_document_that_fits_whole_is_kept():
    result = packed({"a": [1, 2, 3], "b": [4], "c": [5]}, length=4, min_segment=3)
    assert result.tokens.tolist() == [[1, 2, 3, 4], [5, PAD, PAD, PAD]]
    assert result.tokens_cut == 0


def test_nothing_packs_into_no_sequences():
    for documents in ({}, {"a": [], "b": []}):
        for tail in ("pad", "cut"):
            result = packed(documents, length=4, tail=tail)
            assert result.tokens.shape == (0, 4)
            assert (result.tokens_in, result.tokens_cut, result.padding) == (0, 0, 0)
            assert to_batch(result, "web").num_rows == 0


def brute(stream, length, tail, minimum):
    """The rules of the module, one token at a time: sequences of (document number, token)."""
    done, row = [], []
    for number, tokens in enumerate(stream):
        place = 0
        while place < len(tokens):
            rest, room = tokens[place:], length - len(row)
            if len(rest) > room and room < minimum:
                done, row = [*done, row], []
            elif place and len(rest) < minimum:
                break
            else:
                for token in rest[:room]:
                    row.append((number, token))
                place += len(rest[:room])
                if len(row) == length:
                    done, row = [*done, row], []
    return [*done, row] if row and tail == "pad" else done


SIZES = st.lists(st.integers(0, 30), max_size=12)


@given(SIZES, st.integers(1, 12), st.data(), st.sampled_from(["pad", "cut"]), st.sampled_from([np.uint16, np.uint32]))
@settings(max_examples=200, deadline=None)
def test_packing_equals_the_rules_applied_token_by_token(sizes, length, data, tail, dtype):
    minimum = data.draw(st.integers(1, length))
    copies = data.draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    bounds = np.cumsum([0, *sizes])
    documents = {f"doc {i}": list(range(100 + bounds[i], 100 + bounds[i + 1])) for i in range(len(sizes))}
    order, _ = packing_order(seeding.hash_ids(documents), np.array(copies, dtype=np.int64), 3)
    names = [f"doc {i}" for i in order]
    result = packed(documents, length=length, order=order, tail=tail, min_segment=minimum, dtype=dtype)

    expected = brute([documents[name] for name in names], length, tail, minimum)
    assert result.tokens.tolist() == [[t for _, t in row] + [PAD] * (length - len(row)) for row in expected]
    assert [t for _, _, tokens in segments(result) for t in tokens] == [t for row in expected for _, t in row]
    for (_, name, tokens), owner in zip(segments(result), owners(expected), strict=True):
        assert name == names[owner]
        assert set(tokens) <= set(documents[name])

    # the identity: copies × tokens = packed + cut, padding apart
    assert result.tokens_in == sum(c * s for c, s in zip(copies, sizes, strict=True))
    assert result.tokens_in == result.tokens_packed + result.tokens_cut
    assert result.tokens_packed + result.padding == result.tokens.size
    assert result.tokens.dtype == dtype


def owners(rows):
    """The document number of each run of equal numbers, sequence by sequence."""
    return [row[i][0] for row in rows for i in range(len(row)) if i == 0 or row[i][0] != row[i - 1][0]]


@given(SIZES, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_segments_put_together_are_every_document_copy_in_order(sizes, length):
    bounds = np.cumsum([0, *sizes])
    documents = {f"doc {i}": list(range(100 + bounds[i], 100 + bounds[i + 1])) for i in range(len(sizes))}
    order, _ = packing_order(seeding.hash_ids(documents), np.full(len(sizes), 2), 1)
    found = [
        (name, token) for _, name, tokens in segments(packed(documents, length=length, order=order)) for token in tokens
    ]
    assert found == [(f"doc {i}", token) for i in order for token in documents[f"doc {i}"]]


@given(SIZES, st.integers(1, 12), st.data())
@settings(max_examples=100, deadline=None)
def test_no_fragment_is_shorter_than_the_minimum(sizes, length, data):
    minimum = data.draw(st.integers(1, length))
    documents = {f"doc {i}": [i] * size for i, size in enumerate(sizes)}
    result = packed(documents, length=length, min_segment=minimum)
    placed = dict.fromkeys(documents, 0)
    for _, name, tokens in segments(result):
        assert len(tokens) >= minimum or tokens == documents[name]
        placed[name] += len(tokens)
    assert all(0 <= len(tokens) - placed[name] < minimum for name, tokens in documents.items())


# ── learned runs ─────────────────────────────────────────────────────────────────────────────────


def runs_of(mask):
    return np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]))).tolist()


@given(SIZES, st.integers(1, 12), st.data(), st.sampled_from(["pad", "cut"]))
@settings(max_examples=100, deadline=None)
def test_learned_runs_go_where_their_tokens_go(sizes, length, data, tail):
    minimum = data.draw(st.integers(1, length))
    copies = data.draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    masks = [
        data.draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size) | st.just([True] * size))
        for size in sizes
    ]
    bounds = np.cumsum([0, *sizes])
    documents = {f"doc {i}": list(range(100 + bounds[i], 100 + bounds[i + 1])) for i in range(len(sizes))}
    order, _ = packing_order(seeding.hash_ids(documents), np.array(copies, dtype=np.int64), 3)
    learn = pa.array([[0, 9], *(None if mask is None else runs_of(mask) for mask in masks)], pa.list_(pa.int32()))
    result = packed(documents, length=length, order=order, tail=tail, min_segment=minimum, learn=learn.slice(1))

    # every token has an id of its own, so the sequences say which are learned
    learned = {
        token
        for tokens, mask in zip(documents.values(), masks, strict=True)
        for token, bit in zip(tokens, mask or [True] * len(tokens), strict=True)
        if bit
    }
    expected, total = [], 0
    for row, lengths in zip(result.tokens.tolist(), result.segment_lengths.to_pylist(), strict=True):
        used = sum(lengths)
        mask = [token in learned for token in row[:used]]
        expected.append(None if all(mask) else runs_of(mask))
        total += sum(mask)
    assert result.tokens_learned == total
    batch = to_batch(result, "web")
    batch.validate(full=True)
    assert batch["loss_mask"].to_pylist() == expected
    assert (result.loss_mask is None) == all(mask is None for mask in expected)
    same = packed(documents, length=length, order=order, tail=tail, min_segment=minimum)
    assert result.tokens.tolist() == same.tokens.tolist()


def test_masks_by_hand():
    learn = pa.array([[1, 3], [], [2, 5], None], pa.list_(pa.int32()))
    result = packed(DOCUMENTS, length=5, learn=learn)
    # a is 1 [2 3], c is 4 5 | [6 7 8] 10 11 over the border, d is all learned
    assert result.loss_mask.to_pylist() == [[1, 3], [0, 3], None]
    assert (result.tokens_learned, result.tokens_packed) == (6, 11)


def test_runs_of_neighbours_that_touch_are_one():
    learn = pa.array([[0, 2], [0, 1]], pa.list_(pa.int32()))
    assert packed({"a": [1, 2], "b": [3, 4]}, length=4, learn=learn).loss_mask.to_pylist() == [[0, 3]]


def test_documents_that_are_learned_whole_leave_no_mask():
    for learn in ([None, None], [[0, 2], None], [[0, 1, 1, 2], [0, 2]]):
        result = packed({"a": [1, 2], "b": [3, 4]}, length=4, learn=pa.array(learn, pa.list_(pa.int32())))
        assert result.loss_mask is None
        assert result.tokens_learned == 4
        assert to_batch(result, "web")["loss_mask"].null_count == 1


@pytest.mark.parametrize("runs", [[0], [1, 0], [0, 3], [-1, 2], [0, 1, 0, 2]])
def test_runs_that_do_not_fit_their_document_are_refused(runs):
    learn = pa.array([None, runs], pa.list_(pa.int32()))
    with pytest.raises(DatasetError, match=r"document b of 2 tokens has the learned runs .* encode it again"):
        packed({"a": [1, 2], "b": [3, 4]}, length=4, learn=learn)


def test_a_table_brings_its_runs_along():
    table = table_of(ROWS)
    learn = [None if i % 4 else [0, len(tokens) // 2] for i, (_, tokens, _) in enumerate(ROWS)]
    table = table.append_column(
        "learn_tokens", pa.chunked_array([pa.array(learn[:9], pa.list_(pa.int32())), learn[9:]])
    )
    learned = {
        t for (_, tokens, _), r in zip(ROWS, learn, strict=True) for t in (tokens if r is None else tokens[: r[1]])
    }
    result = pack_table(table, seed=5, length=8, pad_id=65_535)
    expected = [[int(t in learned) for t in row if t != 65_535] for row in result.tokens.tolist()]
    assert result.loss_mask.to_pylist() == [None if all(mask) else runs_of(mask) for mask in expected]
    assert None in result.loss_mask.to_pylist()


def table_of(rows):
    return pa.table(
        {
            "doc_id": [name for name, _, _ in rows],
            "id_hash": pa.array(seeding.hash_ids(name for name, _, _ in rows)),
            "token_ids": pa.array([tokens for _, tokens, _ in rows], pa.list_(pa.uint16())),
            "copies": pa.array([copies for _, _, copies in rows], pa.int32()),
        }
    )


ROWS = [(f"file#{i}", [10 * i + j for j in range(i % 7)], i % 3) for i in range(40)]


@given(st.permutations(ROWS), st.integers(0, 40), st.sampled_from(["pad", "cut"]))
@settings(max_examples=30, deadline=None)
def test_the_order_and_the_chunks_of_the_rows_do_not_change_the_sequences(rows, cut, tail):
    expected = pack_table(table_of(ROWS), seed=5, length=8, pad_id=PAD, tail=tail, min_segment=2)
    # a slice of a larger batch, and chunks
    table = table_of([("other#1", [1, 2], 1), *rows]).slice(1)
    table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    found = pack_table(table, seed=5, length=8, pad_id=PAD, tail=tail, min_segment=2)
    assert to_batch(found, "web").equals(to_batch(expected, "web"))
    assert (found.tokens_in, found.tokens_cut) == (expected.tokens_in, expected.tokens_cut)
    assert found.tokens_in == sum(len(tokens) * copies for _, tokens, copies in ROWS)


def test_an_empty_table_packs_into_nothing():
    assert pack_table(table_of([]), seed=5, length=8, pad_id=PAD).tokens.shape == (0, 8)
    assert pack_table(table_of(ROWS).slice(40), seed=5, length=8, pad_id=PAD).tokens.shape == (0, 8)


def test_a_table_without_copies_takes_each_document_once():
    result = pack_table(table_of(ROWS).drop_columns("copies"), seed=5, length=8, pad_id=PAD)
    assert result.tokens_in == sum(len(tokens) for _, tokens, _ in ROWS)


def test_null_token_lists_are_refused():
    table = pa.table(
        {"doc_id": ["a"], "id_hash": pa.array([1], pa.uint64()), "token_ids": pa.array([None], pa.list_(pa.uint16()))}
    )
    with pytest.raises(DatasetError, match="got 1 null token lists"):
        pack_table(table, seed=5, length=8, pad_id=PAD)


def test_every_copy_has_a_hash_position_of_its_own():
    hashes = seeding.hash_ids(["a", "b", "c"])
    rows, keys = packing_order(hashes, np.array([1, 0, 3]), seed=7)
    expected = {(0, 0), (2, 0), (2, 1), (2, 2)}
    by_hand = sorted((int(seeding.rehash(hashes[row : row + 1], 7, "pack", copy)[0]), row) for row, copy in expected)
    assert list(zip(keys.tolist(), rows.tolist(), strict=True)) == by_hand
    assert len(set(keys.tolist())) == 4


def test_another_seed_gives_another_order():
    hashes, copies = seeding.hash_ids(map(str, range(50))), np.ones(50, dtype=np.int8)
    assert packing_order(hashes, copies, 1)[0].tolist() != packing_order(hashes, copies, 2)[0].tolist()


def test_equal_keys_are_ordered_by_hash_and_then_by_copy(monkeypatch):
    monkeypatch.setattr(seeding, "rehash", lambda id_hash, *path: np.zeros(len(id_hash), np.uint64))
    hashes = np.array([30, 2**63 + 1, 20], dtype=np.uint64)
    assert packing_order(hashes, np.array([1, 2, 2]), 0)[0].tolist() == [2, 2, 0, 1, 1]


def test_no_documents_have_no_order():
    rows, keys = packing_order(np.empty(0, np.uint64), np.empty(0, np.int64), 0)
    assert (rows.dtype, keys.dtype, len(rows), len(keys)) == (np.int64, np.uint64, 0, 0)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 2**32 - 1))
@example([0, 2**64 - 1, 2**63, 2**63 - 1], 2**32 - 1)
@example([2**64 - 1, 2**64 // 3, 2**64 // 3 + 1], 3)
def test_a_range_is_the_exact_high_word_of_key_times_ranges(keys, ranges):
    assert hash_range(np.array(keys, dtype=np.uint64), ranges).tolist() == [(key * ranges) >> 64 for key in keys]


def test_ranges_joined_in_order_are_the_order_of_the_whole():
    hashes = seeding.hash_ids(map(str, range(500)))
    rows, keys = packing_order(hashes, np.full(500, 2), 0)
    ranges = hash_range(keys, 7)
    assert np.concatenate([rows[ranges == r] for r in range(7)]).tolist() == rows.tolist()
    assert np.bincount(ranges, minlength=7).min() > 100


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_batch_has_the_schema_of_sequences_and_shares_the_tokens(dtype):
    result = packed(DOCUMENTS, length=5, dtype=dtype)
    batch = to_batch(result, "web")
    batch.validate(full=True)
    assert batch.schema.equals(schema.sequences(5, pa.from_numpy_dtype(dtype)), check_metadata=True)
    assert batch["domain"].to_pylist() == ["web"] * 3
    assert batch["tokens"].values.buffers()[1].address == result.tokens.ctypes.data


@pytest.mark.parametrize("length", [1, 5, 64])
@pytest.mark.parametrize("domain", ["web", "a/very-long domain name é"])
def test_a_file_is_mapped_without_a_copy_and_its_tokens_are_aligned(tmp_path, length, domain):
    result = packed(DOCUMENTS, length=length)
    write_sequences(tmp_path / "part.arrow", to_batch(result, domain))
    reader = pa.ipc.open_file(pa.memory_map(str(tmp_path / "part.arrow")))
    before = pa.total_allocated_bytes()
    batch = reader.get_batch(0)
    tokens = batch["tokens"].values.to_numpy(zero_copy_only=True)
    assert pa.total_allocated_bytes() == before
    assert reader.num_record_batches == 1
    assert tokens.ctypes.data % 64 == 0
    assert batch.schema.equals(schema.sequences(length, pa.uint16()), check_metadata=True)
    assert batch.equals(to_batch(result, domain))


@pytest.mark.parametrize("letters", range(0, 72, 8))
def test_tokens_are_aligned_whatever_stands_before_them_in_the_file(letters):
    batch = to_batch(packed(DOCUMENTS, length=5), "web").replace_schema_metadata({"note": "x" * letters})
    sink = pa.BufferOutputStream()
    write_sequences(sink, batch)
    file = sink.getvalue()
    found = pa.ipc.open_file(file).get_batch(0)
    assert (found["tokens"].values.buffers()[1].address - file.address) % 64 == 0
    assert found.equals(batch, check_metadata=True)


def test_a_file_object_gets_the_same_bytes_as_a_path(tmp_path):
    batch = to_batch(packed(DOCUMENTS, length=5), "web")
    write_sequences(str(tmp_path / "part.arrow"), batch)
    sink = io.BytesIO()
    write_sequences(sink, batch)
    assert sink.getvalue() == (tmp_path / "part.arrow").read_bytes()


def test_a_batch_of_no_sequences_can_be_written_and_read(tmp_path):
    write_sequences(tmp_path / "part.arrow", to_batch(packed({}, length=5), "web"))
    assert pa.ipc.open_file(str(tmp_path / "part.arrow")).get_batch(0).num_rows == 0


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere/part.arrow: 3 sequences cannot be written"):
        write_sequences(tmp_path / "nowhere" / "part.arrow", to_batch(packed(DOCUMENTS, length=5), "web"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length: got 0, allowed 1"),
        ({"length": 4, "tail": "drop"}, "tail: got 'drop', allowed 'pad'"),
        ({"length": 4, "min_segment": 0}, "min_segment: got 0, allowed 1"),
        ({"length": 4, "min_segment": 5}, "min_segment: got 5, allowed 1 .* 4"),
        ({"length": 4, "dtype": np.int64}, "tokens: got int64, allowed uint16 or uint32"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        packed(DOCUMENTS, **options)


@pytest.mark.parametrize("pad_id", [-1, 65_536])
def test_a_pad_id_that_does_not_fit_the_tokens_is_refused(pad_id):
    with pytest.raises(ConfigError, match=f"pad_id: got {pad_id}, allowed 0 to 65535"):
        pack(pa.array(["a"]), np.array([1], np.uint16), np.array([0, 1]), length=2, pad_id=pad_id)


@pytest.mark.parametrize("offsets", [[0], [0, 3], [1, 0], [-1, 1], [0, 1, 1]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(DatasetError, match="offsets do not cut 2 tokens into 1 documents"):
        pack(pa.array(["a"]), np.array([1, 2], np.uint16), np.array(offsets), length=2, pad_id=0)


@pytest.mark.parametrize("copies", [np.array([1, -1]), np.array([1.0, 2.0]), np.array([1])])
def test_copies_that_cannot_be_counted_are_refused(copies):
    with pytest.raises(ConfigError, match=r"copies: got .* allowed one integer >= 0"):
        packing_order(np.array([1, 2], dtype=np.uint64), copies, 0)


@pytest.mark.parametrize("ranges", [0, 2**32])
def test_a_number_of_ranges_out_of_bounds_is_refused(ranges):
    with pytest.raises(ConfigError, match=f"ranges: got {ranges}, allowed 1"):
        packing.hash_range(np.array([1], dtype=np.uint64), ranges)
