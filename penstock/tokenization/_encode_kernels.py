"""The loop of ``piece_encoder``: pieces of text, looked up or merged, to token ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel
from penstock.tokenization._merge_kernels import find_pair
from penstock.tokenization._piece_kernels import NONE, hashed, piece_end, slot_of

# places in `scalars`
WORDS = 0
BYTES = 1
IDS = 2
SCALARS = 3

LONGEST = 64 * 4 + 9  # bytes of a piece: a space, 64 characters, 8 newlines


@inlined
def _merged(data: Any, start: Any, stop: Any, byte_ids: Any, slots: Any, keys: Any, results: Any, work: Any) -> Any:
    """Merge a piece by rank, the leftmost of equal ones first. Leaves ids in ``work[0]`` and returns how many.

    ``work`` is (2, LONGEST): ids, and the rank of each with the next. A piece is short, so the lowest is searched anew.
    """
    count = stop - start
    none = np.int32(2**31 - 1)
    for i in range(count):
        work[0, i] = byte_ids[data[start + i]]
    for i in range(count - 1):
        rank = find_pair(slots, keys, (np.int64(work[0, i]) << 32) | np.int64(work[0, i + 1]))
        work[1, i] = none if rank == NONE else rank
    while count > 1:
        best = 0
        for i in range(1, count - 1):
            if work[1, i] < work[1, best]:
                best = i
        if work[1, best] == none:
            break
        work[0, best] = results[work[1, best]]
        count -= 1
        for i in range(best + 1, count):
            work[0, i] = work[0, i + 1]
            work[1, i - 1] = work[1, i]
        for i in range(max(best - 1, 0), min(best + 1, count - 1)):
            rank = find_pair(slots, keys, (np.int64(work[0, i]) << 32) | np.int64(work[0, i + 1]))
            work[1, i] = none if rank == NONE else rank
    return count


@kernel
def encode_texts(
    data: Any,
    offsets: Any,
    classes: Any,
    from_right: Any,
    byte_ids: Any,
    merge_slots: Any,
    merge_keys: Any,
    merge_results: Any,
    scalars: Any,
    slots: Any,
    hashes: Any,
    starts: Any,
    pool: Any,
    id_starts: Any,
    id_pool: Any,
    close: Any,
    out: Any,
    lengths: Any,
) -> Any:
    """Encode texts one after another and return how many ids there are.

    Args:
        data, offsets: UTF-8 of the texts, and (texts + 1,) where each begins in it.
        classes: (0x110000,) class of every character.
        byte_ids: (256,) id of every byte.
        merge_slots, merge_keys, merge_results: hash table of merges; the number of a merge is its rank.
        scalars, slots, hashes, starts, pool, id_starts, id_pool: words met before with their ids, emptied when full.
        close: id put after every text, or NONE.
        out: (bytes + texts,) gets the ids.
        lengths: (texts,) gets how many each text has.
    """
    work = np.empty((2, LONGEST), np.int32)
    used = 0
    for text in range(offsets.size - 1):
        first = used
        place, end = offsets[text], offsets[text + 1]
        digits = 0
        while place < end:
            stop, digits = piece_end(data, place, end, classes, from_right, digits)
            value = hashed(data, place, stop)
            at = slot_of(slots, hashes, starts, pool, data, place, stop, value)
            word = slots[at]
            if word == NONE:
                count = _merged(data, place, stop, byte_ids, merge_slots, merge_keys, merge_results, work)
                full = scalars[WORDS] >= hashes.size
                if full or scalars[BYTES] + stop - place > pool.size or scalars[IDS] + count > id_pool.size:
                    scalars[:] = 0
                    slots[:] = NONE
                    at = value & np.uint64(slots.size - 1)
                word = scalars[WORDS]
                for k in range(stop - place):
                    pool[scalars[BYTES] + k] = data[place + k]
                for k in range(count):
                    id_pool[scalars[IDS] + k] = work[0, k]
                scalars[WORDS] += 1
                scalars[BYTES] += stop - place
                scalars[IDS] += count
                slots[at] = word
                hashes[word] = value
                starts[word + 1] = scalars[BYTES]
                id_starts[word + 1] = scalars[IDS]
            for k in range(id_starts[word], id_starts[word + 1]):
                out[used] = id_pool[k]
                used += 1
            place = stop
        if close != NONE:
            out[used] = close
            used += 1
        lengths[text] = used - first
    return used
