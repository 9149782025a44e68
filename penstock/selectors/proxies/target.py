"""Held-out documents that proxies are measured on: some domains' validation split, or files, as token ids.

The sample is by hash and prefixes of it are nested, so a smaller ``tokens`` measures on fewer of the same documents.
What the training documents hold word for word is no target: a loss there says what was learned by heart.

Price: one read of the small columns of the corpus, or of the files; memory is a few times the tokens asked for.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import read_part
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.fit import write_summary
from penstock.pipelines.passes import PartWriter, Split
from penstock.selectors.proxies.data import TokenDocuments
from penstock.selectors.sample import BottomK, Sampling
from penstock.sources.files import FileSource
from penstock.storage import Folder

FILES = "files"  # the name of a target that is no domain
_COLUMNS = ("id_hash", "domain", "tokens", "token_ids", "content_hash")
_NAMED = 12  # domains listed in a message
_SHORT = 8  # tokens; documents of files are not thought shorter on the whole


def target_sampling(seed: int, rows: int) -> Sampling:
    """The sample of target documents: up to ``rows`` of each domain."""
    return Sampling(seed=seed, purpose="search target", columns=_COLUMNS, stratum="domain", rows=rows)


@dataclass(frozen=True)
class ReadTarget:
    """Pass work: a sample of one part's validation documents of some domains."""

    parent: Folder
    domains: tuple[str, ...]
    sampling: Sampling

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: BottomK | None = None
        for batch in read_part(self.parent, split.payload.file, ("doc_id", *_COLUMNS, "split")):
            named = pc.is_in(batch["domain"], pa.array(self.domains, pa.string()))
            summary = self.sampling.of(batch.filter(pc.and_(named, pc.equal(batch["split"], "validation"))))
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


@dataclass(frozen=True)
class EncodeTarget:
    """Pass work: a sample of a source's documents, cleaned and encoded by ``works``."""

    source: FileSource
    works: tuple[Any, ...]
    sampling: Sampling

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: BottomK | None = None
        for rows in self.source.read(split.payload, dropped="ids"):
            batch = rowwork.apply(self.works, rows.documents, dropped="ids").batch
            one = {"domain": pa.repeat(pa.scalar(FILES), batch.num_rows)}
            summary = self.sampling.of(rowwork.with_columns(batch, one))
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


def named_domains(wanted: tuple[str, ...], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The domains meant: those named, or all of the corpus for ``*``.

    Args:
        sizes: tokens of every domain of the corpus.

    Raises:
        ConfigError: a domain is not in the corpus; the message has the names that there are.
    """
    names = sorted(sizes)
    for name in wanted:
        if name not in sizes and name != "*":
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            have = ", ".join(map(repr, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
            raise ConfigError(
                f"select.search.target.domains: got {name!r}, which no document has; {hint}the corpus has {have}; '*' "
                "is all of them"
            )
    return tuple(names) if "*" in wanted else wanted


def rows_for(tokens: int, domains: tuple[str, ...], sizes: Mapping[str, int], documents: Mapping[str, int]) -> int:
    """Documents of each domain that surely hold so many tokens, or nearly.

    Args:
        sizes, documents: tokens and documents of these domains and others; without domains not looked at.
    """
    mean = min((sizes[name] / documents[name] for name in domains), default=_SHORT)
    return 16 + math.ceil(2 * tokens / max(mean, 1.0))


def first_documents(sample: BottomK, tokens: int) -> pa.Table:
    """The first ``tokens`` tokens of each domain's documents; the last one is cut there."""
    out = []
    for _, rows in sample.strata():
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(rows["token_ids"]).to_numpy())])
        kept = int(np.searchsorted(offsets[:-1], tokens))
        ids = rows["token_ids"].slice(0, kept).combine_chunks()
        flat = ids.flatten().slice(0, tokens)
        cut = pa.ListArray.from_arrays(pa.array(np.minimum(offsets[: kept + 1], tokens).astype(np.int32)), flat)
        at = rows.schema.get_field_index("token_ids")
        out.append(rows.slice(0, kept).set_column(at, "token_ids", cut))
    return pa.concat_tables(out).combine_chunks()


def disjoint(target: pa.Table, learned: pa.Array) -> tuple[TokenDocuments, int]:
    """The target without documents that are trained on, and how many these were.

    Args:
        target: columns ``domain``, ``token_ids``, ``content_hash``.
        learned: content hashes of training documents.

    Raises:
        DatasetError: nothing is left.
    """
    shared = pc.is_in(target["content_hash"], learned)
    rest = target.filter(pc.invert(shared))
    if not rest.num_rows:
        raise DatasetError(
            f"select.search.target: all {target.num_rows:,} documents stand in the training documents word for word, "
            "and a loss on what was learned by heart says nothing; give documents that the corpus lacks"
        )
    return TokenDocuments.of(rest["token_ids"], rest["domain"].to_pylist()), target.num_rows - rest.num_rows
