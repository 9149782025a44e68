"""What moved between two rounds' selections, domain by domain and in single documents.

Both selections list the same documents in the same order, so they are compared row by row.

Price: memory of five small columns of each selection; text is read for the few documents that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.dataset import Dataset
from penstock.report import record as rec
from penstock.report.texts import texts_of
from penstock.seeding import hash_ids
from penstock.storage import Folder

MOVED = 20
TEXT_CHARACTERS = 1200


def change_between(root: Folder, before: int, after: int, training: Sequence[rec.TrainingRecord]) -> rec.RoundChange:
    """What moved from the selection of round ``before`` to that of round ``after``, on the train split."""
    old = Dataset(root / f"selection-{before}").read("selection", ["doc_id", "domain", "split", "tokens", "copies"])
    later = Dataset(root / f"selection-{after}")
    wanted = [c for c in ("copies", "score.excess_loss") if c in later.table("selection").columns]
    new = later.read("selection", wanted)
    table = old.append_column("after", new["copies"])
    excess = new["score.excess_loss"] if "score.excess_loss" in new.column_names else pa.nulls(len(old), pa.float32())
    table = table.append_column("excess", excess).filter(pc.equal(old["split"], "train"))
    move = np.asarray(table["after"]).astype(np.int64) - np.asarray(table["copies"])
    tokens = np.asarray(table["tokens"]).astype(np.int64)
    domains = np.asarray(table["domain"])
    loss = table["excess"].to_numpy()
    validation = {t.round: {d: c.last for d, c in t.validation_loss.items()} for t in training}
    changes = []
    for domain in sorted(set(domains.tolist())):
        own = domains == domain
        seen = own & ~np.isnan(loss)
        weight = tokens[seen].sum()
        changes.append(
            rec.DomainChange(
                domain=domain,
                tokens_before=int((np.asarray(table["copies"])[own] * tokens[own]).sum()),
                tokens_after=int((np.asarray(table["after"])[own] * tokens[own]).sum()),
                copies_up=int((move[own] > 0).sum()),
                copies_down=int((move[own] < 0).sum()),
                excess_loss=float((loss[seen] * tokens[seen]).sum() / weight) if weight else None,
                validation_before=validation.get(before, {}).get(domain),
                validation_after=validation.get(after, {}).get(domain),
            )
        )
    hashes = hash_ids(table["doc_id"].to_pylist())
    order = np.lexsort((hashes, -np.abs(move)))[:MOVED]
    chosen = table.take(pa.array(order[move[order] != 0])).to_pylist()
    texts = texts_of(root, {r["doc_id"] for r in chosen})
    moved = tuple(
        rec.MovedDocument(
            doc_id=r["doc_id"],
            domain=r["domain"],
            copies_before=r["copies"],
            copies_after=r["after"],
            text=texts.get(r["doc_id"], "")[:TEXT_CHARACTERS],
            excess_loss=r["excess"],
        )
        for r in chosen
    )
    return rec.RoundChange(before=before, after=after, domains=tuple(changes), moved=moved)
