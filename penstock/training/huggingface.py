"""Hugging Face datasets of token ids as a store: any ``datasets.Dataset`` with a column of integers, read in place.

>>> store = store_from_dataset(load_from_disk("tokenised"), domain_column="source", length=2048)
>>> loader = MixtureLoader(store, "proportional", seed=0, fingerprint=store.fingerprint(), batch_size=32)

Ids stay in the dataset's own Arrow buffers, which are mapped files where ``datasets`` maps them. A dataset that was
shuffled, filtered or selected from is read through its list of row numbers, without being flattened.

Price: 24 bytes a document and 24 a jump in memory (``streams``), one look at every id when the store is opened (about
1 GB/s a core from the cache), a record batch of ``attention_mask`` at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError, InputError, MissingExtraError
from penstock.training.streams import Layout, StreamStore, TokenStream

if TYPE_CHECKING:
    import datasets

Ints = NDArray[np.int64]


def store_from_dataset(
    dataset: datasets.Dataset | Mapping[str, datasets.Dataset | str | Path] | str | Path,
    column: str = "input_ids",
    *,
    length: int | None,
    layout: Layout = "concatenated",
    domain_column: str | None = None,
    id_column: str | None = None,
    labels: str | None = "labels",
    mask: str | None = "attention_mask",
    vocab_size: int | None = None,
) -> StreamStore:
    """A dataset of token ids as a store for ``MixtureLoader``.

    Args:
        dataset: a ``Dataset``; a folder of ``save_to_disk``; or a mapping (a ``DatasetDict`` is one) whose keys are the
            domains.
        column: of lists of integers, one list a document.
        length: tokens of a row; None with ``layout="separate"`` takes that of the lists.
        layout: ``concatenated`` cuts the documents of a domain, one behind the other, every ``length`` tokens;
            ``separate`` gives each a row of its own, padded to ``length``.
        domain_column: of strings: the domain of each document, where ``dataset`` is no mapping. Without it there is one
            domain, named after the folder or the split.
        id_column: of strings: ids that lead signals back to documents; None is ``<name>#<row>``, with the
            key of the mapping, the folder or the split as name.
        labels: of lists with the token where it is learned and -100 where it is not; read where the dataset has it.
            None ignores it.
        mask: of lists with 1 for tokens and 0 for padding around them; read where the dataset has it. None ignores it.
        vocab_size: token ids must be below it.

    Raises:
        InputError: the folder holds no dataset.
        DatasetError: a missing column or one of another type; null rows; lists of one document that differ in length;
            ids that are negative or over the vocabulary; labels that are other tokens; a mask with holes; rows that
            do not fit ``length``.
        ConfigError: a bad argument, or a streaming dataset.
    """
    found = _open(dataset)
    streams: dict[str, TokenStream] = {}
    if domain_column is not None and isinstance(found, Mapping):
        raise ConfigError("domain_column: the dataset's keys are the domains already; give one of the two")
    named = found if isinstance(found, Mapping) else {_name(dataset, found): found}
    for name, rows in named.items():
        columns = _Columns.of(rows, name, column, labels, mask)
        ids = None if id_column is None else _strings(rows, id_column, name)
        if domain_column is None:
            chosen = {name: np.arange(len(rows), dtype=np.int64)}
        else:
            of_row = np.asarray(_strings(rows, domain_column, name).to_numpy(zero_copy_only=False))
            domains, code = np.unique(of_row.astype(str), return_inverse=True)
            chosen = {str(domain): np.flatnonzero(code == k) for k, domain in enumerate(domains)}
        for domain, members in chosen.items():
            streams[domain] = columns.stream(members, _names(name, ids, members))
    store = StreamStore.build(streams, length=length, layout=layout, vocab_size=vocab_size)
    store.check()
    return store


def _open(dataset: Any) -> Any:
    """The dataset or the mapping of datasets that the user means."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("datasets", "hub") from error

    if isinstance(dataset, (str, Path)):
        try:
            return datasets.load_from_disk(str(dataset))
        except FileNotFoundError as error:
            raise InputError(f"{dataset}: {error}; name a folder that save_to_disk wrote") from error
    if isinstance(dataset, Mapping):
        opened = {str(name): _open(value) for name, value in dataset.items()}
        if not opened or any(isinstance(value, Mapping) for value in opened.values()):
            raise ConfigError(
                f"dataset: got a mapping of {', '.join(opened) or 'nothing'}, allowed one Dataset a domain"
            )
        return opened
    if not isinstance(dataset, datasets.Dataset):
        raise ConfigError(
            f"dataset: got {type(dataset).__name__}, allowed a datasets.Dataset, a mapping of them or a folder; rows "
            "of a streaming dataset have no numbers, so save it first"
        )
    return dataset


def _name(given: Any, opened: datasets.Dataset) -> str:
    if isinstance(given, (str, Path)):
        return Path(given).name
    return str(opened.split) if opened.split is not None else "dataset"


def _names(prefix: str, ids: pa.ChunkedArray | None, rows: Ints) -> Callable[[Ints], list[str]]:
    if ids is not None:
        return lambda documents: [str(name) for name in ids.take(pa.array(rows[documents])).to_pylist()]
    return lambda documents: [f"{prefix}#{row}" for row in rows[documents]]


def _strings(dataset: datasets.Dataset, column: str, name: str) -> pa.ChunkedArray:
    """A column of strings in the dataset's order of rows."""
    _require(dataset, column, name)
    values = dataset.with_format("arrow")[column]
    values = values if isinstance(values, pa.ChunkedArray) else dataset.with_format("arrow")[:][column]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)) or values.null_count:
        raise DatasetError(
            f"{name}: column {column} is {values.type} with {values.null_count} nulls, allowed strings without nulls; "
            "map it to strings first"
        )
    return values


def _require(dataset: datasets.Dataset, column: str, name: str) -> None:
    if column not in dataset.column_names:
        raise DatasetError(f"{name}: no column {column!r}; it has {', '.join(dataset.column_names) or 'none'}")


@dataclass(frozen=True, eq=False)
class _Columns:
    """The documents of a dataset in its own order: where the tokens of each stand in flat arrays."""

    arrays: tuple[NDArray[Any], ...]  # ids of each record batch
    labels: tuple[NDArray[Any], ...] | None
    array: Ints  # (D,) record batch of each document
    start: Ints  # (D,) its first place there
    size: Ints  # (D,) its tokens

    @classmethod
    def of(cls, dataset: datasets.Dataset, name: str, column: str, labels: str | None, mask: str | None) -> _Columns:
        """Read where everything stands; ids and labels themselves stay where they are."""
        _require(dataset, column, name)
        for extra, usual in ((labels, "labels"), (mask, "attention_mask")):
            if extra is not None and extra != usual:
                _require(dataset, extra, name)
        labels = labels if labels in dataset.column_names else None
        mask = mask if mask in dataset.column_names else None
        used = [column, *(extra for extra in (labels, mask) if extra is not None)]
        batches = dataset.data.table.select(used).to_batches()
        arrays, of_labels, starts, sizes = [], [], [], []
        for batch in batches:
            offsets, flat = _lists(batch[column], f"{name}: column {column}")
            arrays.append(flat)
            if labels is not None:
                of_labels.append(_beside(batch[labels], offsets, f"{name}: column {labels}"))
            start, size = offsets[:-1], np.diff(offsets)
            if mask is not None:
                of_mask = _beside(_whole_numbers(batch[mask]), offsets, f"{name}: column {mask}")
                start, size = _unmasked(of_mask, offsets, name, mask)
            starts.append(start)
            sizes.append(size)
        array = np.repeat(np.arange(len(batches)), [len(size) for size in sizes])
        start, size = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (starts, sizes))
        # rows of a shuffled or filtered dataset are numbers of rows of the table; there is no public name for the list
        chosen = getattr(dataset, "_indices", None)
        if chosen is not None:
            at = chosen.table.column(0).to_numpy().astype(np.int64)
            array, start, size = array[at], start[at], size[at]
        return cls(tuple(arrays), tuple(of_labels) if labels is not None else None, array, start, size)

    def stream(self, rows: Ints, names: Callable[[Ints], list[str]]) -> TokenStream:
        """The documents of these rows, in this order."""
        return TokenStream.of_spans(
            self.arrays,
            self.array[rows],
            self.start[rows],
            self.size[rows],
            np.arange(len(rows) + 1),
            names,
            self.labels,
        )


def _lists(column: pa.Array, where: str) -> tuple[Ints, NDArray[Any]]:
    """Offsets (n + 1,) from 0 and flat integers of a column of lists, without copying them."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_integer(kind.value_type) or kind.value_type == pa.uint64():
        raise DatasetError(f"{where} is {kind}, allowed lists of integers of up to 64 bits; tokenise the text first")
    if column.null_count:
        raise DatasetError(f"{where}: {column.null_count} rows are null, allowed lists; filter them out")
    flat = column.flatten()
    if flat.null_count:
        raise DatasetError(f"{where}: {flat.null_count} elements are null, allowed integers; tokenise again")
    if pa.types.is_fixed_size_list(kind):
        offsets = np.arange(len(column) + 1, dtype=np.int64) * kind.list_size
    else:
        offsets = np.asarray(column.offsets).astype(np.int64)
        offsets = offsets - offsets[0]
    return offsets, flat.to_numpy(zero_copy_only=True)


def _whole_numbers(column: pa.Array) -> pa.Array:
    """Lists of booleans as lists of 0 and 1; anything else as it is."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return column.cast(pa.large_list(pa.int8())) if is_list and pa.types.is_boolean(kind.value_type) else column


def _beside(column: pa.Array, offsets: Ints, where: str) -> NDArray[Any]:
    """Flat values of a second column whose lists are as long as those of the first."""
    found, flat = _lists(column, where)
    if not np.array_equal(found, offsets):
        row = int(np.argmax(np.diff(found) != np.diff(offsets)))
        raise DatasetError(
            f"{where}: a list of {np.diff(found)[row]} beside {np.diff(offsets)[row]} ids, allowed equal lengths; make "
            "both again"
        )
    return flat


def _unmasked(flat: NDArray[Any], offsets: Ints, name: str, mask: str) -> tuple[Ints, Ints]:
    """First place and number of the tokens of each list: the one run of 1 in its mask."""
    if not flat.size or (flat == 1).all():
        return offsets[:-1], np.diff(offsets)
    if ((flat != 0) & (flat != 1)).any():
        raise DatasetError(f"{name}: column {mask} holds {flat.min()} to {flat.max()}, allowed 0 and 1")
    ones = np.concatenate([[0], np.cumsum(flat, dtype=np.int64)])
    size = ones[offsets[1:]] - ones[offsets[:-1]]
    # a run begins where a 1 follows a 0 or a border
    begins = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8)])) == 1)
    borders = offsets[1:-1]
    borders = borders[(borders < len(flat))]
    begins = np.union1d(begins, borders[(flat[borders] == 1)])
    of = np.searchsorted(offsets, begins, side="right") - 1
    runs = np.bincount(of, minlength=len(size))
    if (runs > 1).any():
        row = int(np.argmax(runs > 1))
        raise DatasetError(
            f"{name}: column {mask} has {runs[row]} runs of 1 in one list, allowed one; padding inside a document "
            "cannot be cut away, write those lists as documents of their own"
        )
    start = offsets[:-1].copy()
    start[of] = begins
    return start, size
