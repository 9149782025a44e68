"""What a report shows of the selections: kept and lost, theta, documents at the edge, the search.

Price: one read of the ranks and copies of each selection, a batch at a time; text of the few documents shown.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.dataset import Dataset, Manifest
from penstock.pipelines.search import ARTIFACT
from penstock.pipelines.select import SCORE_STEP
from penstock.report import record as rec
from penstock.report.texts import texts_of
from penstock.seeding import hash_ids
from penstock.storage import Folder

EDGE = 5  # documents on either side of the edge, of all domains together
TEXT_CHARACTERS = 600
IMPORTANCES = 20  # parameters named


def selection_record(root: Folder, manifest: Manifest, round_: int) -> rec.SelectionRecord | None:
    """The record of a round's selection; None where every document was taken once."""
    theta = manifest.stats.get("theta")
    if not theta:
        return None
    return rec.SelectionRecord(
        round=round_,
        budget_factor=manifest.stats["budget_factor"],
        criteria=tuple(_criteria(manifest.stats.get("criteria", {}))),
        theta=tuple(
            rec.ThetaDomain(
                domain=domain,
                weights={name.removeprefix("score."): weight for name, weight in of["weights"].items()},
                **{name: of.get(name) for name in ("lam", "omega", "eta", "eps", "multiplier")},
            )
            for domain, of in sorted(theta.items())
        ),
        edge=_edge(root, manifest.step, {domain: of["omega"] for domain, of in theta.items()}),
    )


def search_record(root: Folder, manifest: Manifest) -> rec.SearchRecord:
    """The record of the search, from its artifact; ``manifest`` is that of the step ``search``."""
    found = json.loads((root / manifest.step).read_bytes(manifest.artifacts[ARTIFACT].path))
    surrogate, verdict = found["surrogate"], found["verdict"]
    fit = surrogate["fit"]
    gains = surrogate["importances"]
    total = sum(gains.values())
    measured = [of for of in found["measured"] if of["trial"]["purpose"] == "search"]
    noise = {} if found["noise_sd"] is None else {"deviation of one point over seeds": found["noise_sd"]}
    return rec.SearchRecord(
        method=found["settings"]["method"],
        proxy=", ".join(found["settings"]["proxy"]),
        proxies=len(measured),
        diverged=sum(of["loss"] is None for of in measured),
        target=tuple(sorted(found["target"])),
        claim=verdict["claim"],
        why=verdict["why"],
        facts={
            "R2, out of fold": fit["r2"],
            "Spearman, out of fold": fit["spearman"],
            "mean absolute error": fit["mae"],
            "deviation of the residuals": fit["residual_sd"],
            **noise,
        },
        candidates=tuple(
            rec.Candidate(
                name=of["label"],
                predicted=of["predicted"],
                first=of["measured"],
                again=tuple(of["again"]),
                chosen=place == verdict["winner"],
            )
            for place, of in enumerate(found["candidates"])
        ),
        points=tuple(
            rec.ProxyPoint(measured=of["measured"], predicted=of["predicted"]) for of in surrogate["out_of_fold"]
        ),
        importances={name: gain / total for name, gain in list(gains.items())[:IMPORTANCES] if total},
    )


def _criteria(found: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[rec.CriterionChoice]:
    for domain, of in sorted(found.items()):
        for column, sums in sorted(of.items()):
            kept, lost = sums.get("kept_rows", 0), sums.get("lost_rows", 0)
            yield rec.CriterionChoice(
                criterion=column.removeprefix("score."),
                domain=domain,
                kept=kept,
                lost=lost,
                unscored=sums.get("none_rows", 0),
                mean_kept=sums["kept_steps"] * SCORE_STEP / kept if kept else None,
                mean_lost=sums["lost_steps"] * SCORE_STEP / lost if lost else None,
            )


def _edge(root: Folder, step: str, omega: Mapping[str, float]) -> tuple[rec.EdgeDocument, ...]:
    """The documents whose ranks are nearest to the end of their window, some with copies and some without."""
    dataset = Dataset(root / step)
    columns = dataset.table("selection").columns
    scores = [name for name in columns if name.startswith("score.")]
    wanted = ["doc_id", "domain", "quadmix.rank", "copies", *scores]
    nearest: dict[bool, list[tuple[float, int, dict[str, Any]]]] = {True: [], False: []}
    for batch in dataset.batches("selection", wanted):
        for taken in (True, False):
            heap = nearest[taken]
            for distance, place, row in _nearest(batch, omega, taken):
                # the heap's smallest is the farthest of those kept; a hash breaks ties, so batches do not matter
                heapq.heappush(heap, (-distance, place, row))
                if len(heap) > EDGE:
                    heapq.heappop(heap)
    rows = [row for heap in nearest.values() for _, _, row in sorted(heap, key=lambda item: (-item[0], -item[1]))]
    texts = texts_of(root, {row["doc_id"] for row in rows})
    return tuple(
        rec.EdgeDocument(
            doc_id=row["doc_id"],
            domain=row["domain"],
            rank=row["quadmix.rank"],
            omega=omega[row["domain"]],
            copies=row["copies"],
            text=texts.get(row["doc_id"], "")[:TEXT_CHARACTERS],
            scores={name.removeprefix("score."): row[name] for name in scores if row[name] is not None},
        )
        for row in rows
    )


def _nearest(
    batch: pa.RecordBatch, omega: Mapping[str, float], taken: bool
) -> Iterator[tuple[float, int, dict[str, Any]]]:
    """The few rows of a batch nearest to the end of their window among those with copies, or those without."""
    rank = batch["quadmix.rank"].to_numpy(zero_copy_only=False)  # NaN outside the train split
    encoded = batch["domain"].dictionary_encode()
    ends = np.array([omega.get(name, np.nan) for name in encoded.dictionary.to_pylist()] or [np.nan])
    distance = np.abs(rank - ends[encoded.indices.to_numpy()])
    copies = batch["copies"].to_numpy()
    rows = np.flatnonzero(np.isfinite(distance) & ((copies > 0) == taken))
    if not len(rows):
        return
    if len(rows) > EDGE:
        limit = np.partition(distance[rows], EDGE - 1)[EDGE - 1]
        rows = rows[distance[rows] <= limit]
    place = hash_ids(batch["doc_id"].take(pa.array(rows)).to_pylist())
    order = np.lexsort((place, distance[rows]))[:EDGE]
    for i in order:
        yield float(distance[rows[i]]), -int(place[i]), batch.slice(int(rows[i]), 1).to_pylist()[0]
