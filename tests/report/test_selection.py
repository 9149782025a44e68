"""How documents were chosen: the statistics and the edge of real selections, and their place on the page."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from penstock.dataset import Dataset
from penstock.pipelines.plan import directions_of, parameters_of
from penstock.report.record import RunRecord
from penstock.report.render import render
from penstock.report.selection import EDGE, selection_record
from penstock.storage import Folder


@pytest.fixture(scope="module")
def selected(finished):
    """(record, rows of the selection, recipe) of the second round of the finished run."""
    base, recipe, _ = finished
    root = Folder(str(base / "run"))
    dataset = Dataset(root / "selection-2")
    found = selection_record(root, dataset.manifest, 2)
    return found, dataset.read("selection").to_pylist(), recipe, root


def test_kept_and_lost_are_counted_by_criterion_and_domain(selected):
    found, rows, _, _ = selected
    values = defaultdict(lambda: {"kept": [], "lost": [], "none": 0})
    for row in rows:
        if row["split"] != "train":
            continue
        for name in (n for n in row if n.startswith("score.")):
            of = values[row["domain"], name.removeprefix("score.")]
            if row[name] is None:
                of["none"] += 1
            else:
                of["kept" if row["copies"] else "lost"].append(row[name])
    assert {(c.domain, c.criterion) for c in found.criteria} == set(values)
    assert sum(c.lost for c in found.criteria) > 0
    for choice in found.criteria:
        of = values[choice.domain, choice.criterion]
        assert (choice.kept, choice.lost, choice.unscored) == (len(of["kept"]), len(of["lost"]), of["none"])
        for mean, side in ((choice.mean_kept, "kept"), (choice.mean_lost, "lost")):
            assert mean == (pytest.approx(np.mean(of[side]), abs=1e-4) if of[side] else None)


def test_theta_is_what_the_selection_used_with_the_feedback_criterion(selected):
    found, rows, recipe, _ = selected
    own = parameters_of(recipe.select, directions_of(recipe))
    assert {of.domain for of in found.theta} == {row["domain"] for row in rows if row["split"] == "train"}
    for of in found.theta:
        theta = own.of(of.domain)
        assert (of.lam, of.omega, of.eta, of.eps) == (theta.lam, theta.omega, theta.eta, theta.eps)
        assert sum(of.weights.values()) == pytest.approx(1.0)
        assert "excess_loss" in of.weights


def test_the_edge_holds_the_documents_nearest_to_the_end_of_their_window_on_both_sides(selected):
    found, rows, _, root = selected
    omega = {of.domain: of.omega for of in found.theta}
    texts = {r["doc_id"]: r["text"] for r in Dataset(root / "scored").read("documents", ["doc_id", "text"]).to_pylist()}
    for taken in (True, False):
        own = [row for row in rows if row["split"] == "train" and (row["copies"] > 0) == taken]
        distances = sorted(abs(row["quadmix.rank"] - omega[row["domain"]]) for row in own)[:EDGE]
        shown = [of for of in found.edge if (of.copies > 0) == taken]
        assert [abs(of.rank - of.omega) for of in shown] == pytest.approx(distances)
        assert all(texts[of.doc_id].startswith(of.text) and of.text for of in shown)
    assert {of.copies > 0 for of in found.edge} == {True, False}


def test_without_a_selection_there_is_nothing_to_tell(selected):
    _, _, _, root = selected
    manifest = Dataset(root / "selection-1").manifest
    manifest.stats.pop("theta")
    assert selection_record(root, manifest, 1) is None


def section(page: str) -> str:
    return page.split('<section id="selection">')[1].split("</section>")[0]


def test_the_page_shows_the_search_the_choice_and_the_edge(record):
    shown = section(render(record))
    assert "41 proxies (ngram, order 3, 1 diverged) were measured on library docs, package readmes" in shown
    assert record.search.why in shown
    rows = [row.split("</tr>")[0] for row in shown.split("<tr>")]
    winner = next(row for row in rows if "predicted winner</th>" in row)
    assert [part.split("</td>")[0].rpartition(">")[2] for part in winner.split("<td")[1:]] == [
        "3.500", "–", "3.610", "2", "yes",
    ]  # fmt: skip
    natural = next(row for row in rows if ">natural<" in row)
    assert '>–</td><td class="n">0</td>' in natural
    assert "rank 0.5991, window to 0.6000 · 1 copy" in shown
    assert "perplexity 0.25, quality 0.75" in shown
    assert "<script" not in shown


def test_the_records_of_a_selection_survive_being_written(record):
    again = RunRecord.from_json(record.to_json())
    assert again.selections == record.selections
    assert again.search == record.search
