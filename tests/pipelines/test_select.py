"""The selection against QuaDMix computed row by row over the whole table, and what it hands on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import DatasetError
from penstock.pipelines.select import Selection, by_domain, with_feedback
from penstock.schema import SIGNALS
from penstock.seeding import coins, hash_ids, stream
from penstock.selectors.quadmix import Criterion, DomainParameters, QuaDMixParameters

DOMAINS = ("books", "code", "web")


def scored(count=240, seed=0, split=None):
    """Documents with two scores (missing here and there), sizes and splits."""
    rng = stream(seed, "scored")
    ids = [f"f{i % 7}#{i}" for i in range(count)]
    style = pa.array(np.round(rng.random(count), 2).astype(np.float32), mask=rng.random(count) < 0.15)
    splits = np.array(["train", "validation", "test"])[np.searchsorted([0.8, 0.95], rng.random(count))]
    return pa.RecordBatch.from_pydict(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": [DOMAINS[int(k)] for k in rng.integers(0, 3, count)],
            "split": [split] * count if split else splits.tolist(),
            "tokens": pa.array(rng.integers(1, 500, count).astype(np.int32)),
            "bytes": pa.array(rng.integers(1, 3000, count).astype(np.int64)),
            "score.quality": pa.array(np.round(rng.random(count), 4).astype(np.float32)),
            "score.style": style,
        }
    )


BASE = QuaDMixParameters(
    criteria=(
        Criterion(column="score.quality", direction="higher"),
        Criterion(column="score.style", direction="lower"),
    ),
    default=DomainParameters(alpha=(0.7, 0.3), lam=8.0, omega=0.5, eta=1.0, eps=0.3),
    domains=(("code", DomainParameters(alpha=(0.2, 0.8), lam=3.0, omega=0.9, eta=0.6, eps=0.0)),),
    omega_max=1.0,
    eps_max=1.0,
)
VARIANTS = {
    "as in the paper": BASE,
    "product": replace(BASE, eta_mode="product"),
    "ranks inside the domain": replace(BASE, normalizer_scope="domain"),
    "midpoint": replace(BASE, rank_at="midpoint"),
    "exclusive": replace(BASE, rank_at="exclusive"),
    "with a budget": replace(BASE, target_tokens=90_000),
    "with a budget and a cap": replace(BASE, target_tokens=60_000, copy_cap=1.5),
}


def directly(rows, parameters, seed):
    """Copies of every row by the formulas of the paper, one row at a time over all rows."""
    train = [r for r in rows if r["split"] == "train"]

    def rank(row, criterion):
        """Share of tokens with a better score, half of those with the same."""
        column, scope = criterion.column, parameters.normalizer_scope
        among = [r for r in train if r[column] is not None and (scope == "global" or r["domain"] == row["domain"])]
        if row[column] is None or not among:
            return 0.5
        sign = 1 if criterion.direction == "higher" else -1
        better = sum(r["tokens"] for r in among if sign * r[column] > sign * row[column])
        same = sum(r["tokens"] for r in among if r[column] == row[column])
        return np.float32((better + 0.5 * same) / sum(r["tokens"] for r in among))

    def merged(row):
        value = 0.0
        for weight, criterion in zip(parameters.of(row["domain"]).alpha, parameters.criteria, strict=True):
            value += weight * rank(row, criterion)
        return min(int(float(np.float32(value)) * 65536), 65535)

    bins = [merged(r) for r in train]
    values = []
    for row, own in zip(train, bins, strict=True):
        theta = parameters.of(row["domain"])
        here = [(r["tokens"], b) for r, b in zip(train, bins, strict=True) if r["domain"] == row["domain"]]
        tie = sum(t for t, b in here if b == own)
        upto = sum(t for t, b in here if b <= own)
        upto -= {"inclusive": 0.0, "midpoint": 0.5, "exclusive": 1.0}[parameters.rank_at] * tie
        r = upto / sum(t for t, _ in here)
        base = 2.0 / (1.0 + np.exp(-theta.lam * (theta.omega - r)))
        inside = base**theta.eta if parameters.eta_mode == "exponent" else base * theta.eta
        values.append((inside if r <= theta.omega else 0.0) + theta.eps)
    cap = np.inf if parameters.copy_cap is None else parameters.copy_cap
    factor = 1.0
    if parameters.target_tokens is not None:
        low, high = 0.0, 1e6
        for _ in range(200):
            factor = 0.5 * (low + high)
            spent = sum(min(factor * v, cap) * r["tokens"] for v, r in zip(values, train, strict=True))
            low, high = (factor, high) if spent < parameters.target_tokens else (low, factor)
    value_of = {r["doc_id"]: min(factor * v, cap) for r, v in zip(train, values, strict=True)}
    coin = coins(hash_ids([r["doc_id"] for r in rows]), seed, "quadmix")
    out = []
    for row, toss in zip(rows, coin, strict=True):
        share = float(np.float32(value_of.get(row["doc_id"], 1.0)))
        out.append(int(share) + (1 if toss < share - int(share) else 0))
    return out


@pytest.mark.parametrize("sizes", [(), (1, 90, 3, 60)], ids=["one part", "five parts"])
@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS)
def test_copies_are_those_of_the_formulas_over_the_whole_table(lab, cut, parameters, sizes):
    batch = scored()
    lab.given("scored", documents=cut(batch, sizes))
    made = lab.run(Selection("selection", "scored", parameters, 9)).read("selection")
    wanted = directly(batch.to_pylist(), parameters, 9)
    assert made["doc_id"].to_pylist() == batch["doc_id"].to_pylist()
    assert made["copies"].to_pylist() == wanted
    assert {0, 1}.issubset(wanted)


def test_the_digest_depends_neither_on_the_parts_nor_on_the_batches(lab, new_lab, cut, request):
    batch, found = scored(), []
    for place, sizes in ((lab, ()), (new_lab(), (7, 7, 100)), (new_lab(), (1,) * 30)):
        if found:
            request.getfixturevalue("tiny_batches")
        place.given("scored", documents=cut(batch, sizes))
        made = place.run(Selection("selection", "scored", BASE, 9))
        found.append((made.table("selection").digest, made.manifest.stats["domains"], made.manifest.counts))
        assert [f.rows for f in made.table("selection").files] == [p.num_rows for p in cut(batch, sizes)]
    assert found[0] == found[1] == found[2]


def test_rows_outside_train_decide_nothing_and_have_one_copy(lab, new_lab):
    batch = scored()
    rows = batch.to_pylist()
    lab.given("scored", documents=[batch])
    made = lab.run(Selection("selection", "scored", BASE, 9)).read("selection").to_pylist()
    assert {r["copies"] for r in made if r["split"] != "train"} == {1}
    assert all(r["quadmix.rank"] is None for r in made if r["split"] != "train")
    # held-out rows with other scores and sizes leave every training row where it was
    for row in rows:
        if row["split"] != "train":
            row |= {"score.quality": 1.0, "tokens": 10**6}
    other = new_lab()
    other.given("scored", documents=[pa.RecordBatch.from_pylist(rows, batch.schema)])
    again = other.run(Selection("selection", "scored", BASE, 9)).read("selection").to_pylist()
    assert [r["copies"] for r in again] == [r["copies"] for r in made]


def test_another_seed_tosses_other_coins_over_the_same_values(lab, new_lab):
    found = []
    for place, seed in ((lab, 1), (new_lab(), 2)):
        place.given("scored", documents=[scored()])
        found.append(place.run(Selection("selection", "scored", BASE, seed)).read("selection"))
    assert found[0]["quadmix.value"].equals(found[1]["quadmix.value"])
    assert not found[0]["copies"].equals(found[1]["copies"])


def test_statistics_are_sums_over_the_rows(lab, cut, tiny_batches):
    batch = scored()
    parts = cut(batch, (50, 100))
    lab.given("scored", documents=parts)
    made = lab.run(Selection("selection", "scored", BASE, 9))
    rows, stats = made.read("selection").to_pylist(), made.manifest.stats
    for split, domains in stats["domains"].items():
        for domain, told in domains.items():
            here = [r for r in rows if (r["split"], r["domain"]) == (split, domain)]
            assert told == {
                "selected": sum(r["copies"] > 0 for r in here),
                "copies": sum(r["copies"] for r in here),
                "tokens": sum(r["copies"] * r["tokens"] for r in here),
                "bytes": sum(r["copies"] * r["bytes"] for r in here),
            }
    assert {(r["split"], r["domain"]) for r in rows} == {(s, d) for s, of in stats["domains"].items() for d in of}
    assert (made.manifest.counts.rows_in, made.manifest.counts.kept) == (240, 240)


def test_sums_do_not_overflow_32_bits():
    batch = pa.RecordBatch.from_pydict(
        {
            "split": ["train"] * 2,
            "domain": ["d"] * 2,
            "copies": pa.array([3, 0], pa.int32()),
            "tokens": pa.array([2**30, 2**31 - 1], pa.int32()),
            "bytes": pa.array([2**40, 1], pa.int64()),
        }
    )
    assert by_domain(batch)["train"]["d"] == {"selected": 1, "copies": 3, "tokens": 3 * 2**30, "bytes": 3 * 2**40}


def test_a_budget_is_met_in_expectation_and_told(lab):
    lab.given("scored", documents=[scored(2000)])
    made = lab.run(Selection("selection", "scored", replace(BASE, target_tokens=300_000), 9))
    stats = made.manifest.stats
    assert stats["expected_tokens"] == pytest.approx(300_000, rel=1e-6)
    taken = sum(d["tokens"] for d in stats["domains"]["train"].values())
    assert taken == pytest.approx(300_000, rel=0.05)


def test_warnings_reach_the_run_and_the_manifest(lab):
    parameters = replace(BASE, domains=(("poems", BASE.default),))
    lab.given("scored", documents=[scored()])
    made = lab.run(Selection("selection", "scored", parameters, 9))
    assert lab.warnings == ["selection: domain 'poems' has parameters but no training row"]
    assert made.manifest.stats["warnings"] == ["domain 'poems' has parameters but no training row"]


# ── odd corpora ──────────────────────────────────────────────────────────────────────────────────


def test_a_domain_that_only_occurs_in_validation_is_kept_there(lab, cut):
    rows = scored().to_pylist()
    for row in rows:
        if row["domain"] == "web":
            row["split"] = "validation"
    batch = pa.RecordBatch.from_pylist(rows, scored().schema)
    lab.given("scored", documents=cut(batch, (100,)))
    made = lab.run(Selection("selection", "scored", BASE, 9))
    assert made.read("selection")["copies"].to_pylist() == directly(rows, BASE, 9)
    assert set(made.manifest.stats["domains"]["train"]) == {"books", "code"}
    assert "web" in made.manifest.stats["domains"]["validation"]


def test_a_corpus_of_one_document(lab):
    batch = scored(1, split="train")
    lab.given("scored", documents=[batch])
    made = lab.run(Selection("selection", "scored", replace(BASE, rank_at="exclusive"), 9)).read("selection")
    # rank 0, so S = 2 / (1 + exp(-lam omega)) + eps
    own = BASE.of(batch["domain"][0].as_py())
    value = (2 / (1 + np.exp(-own.lam * own.omega))) ** own.eta + own.eps
    assert made["quadmix.value"].to_pylist() == [pytest.approx(value, rel=1e-6)]
    assert made["copies"].to_pylist()[0] in (int(value), int(value) + 1)


def test_a_corpus_without_training_rows_says_so(lab):
    lab.given("scored", documents=[scored(5, split="validation")])
    with pytest.raises(DatasetError, match=r"score.quality: no training row has a score; score the documents"):
        lab.run(Selection("selection", "scored", BASE, 9))


def test_a_missing_score_is_named_before_anything_runs(lab):
    lab.given("scored", documents=[scored().drop_columns(["score.style"])])
    with pytest.raises(DatasetError, match=r"selection: score.style not in .*scored; add the step that scores it"):
        lab.run(Selection("selection", "scored", BASE, 9))
    assert lab.names() == [n for n in lab.names() if n.startswith("scored/")]


def test_any_domain_passes_and_none_reaches_a_file_name(lab, hostile, cut):
    rows = scored(120, split="train").to_pylist()
    for i, row in enumerate(rows):
        row["domain"] = (*hostile, "")[i % (len(hostile) + 1)]
    batch = pa.RecordBatch.from_pylist(rows, scored().schema)
    parameters = replace(BASE, normalizer_scope="domain", domains=((hostile[0], BASE.domains[0][1]),))
    lab.given("scored", documents=cut(batch, (33, 2)))
    made = lab.run(Selection("selection", "scored", parameters, 9))
    assert made.read("selection")["copies"].to_pylist() == directly(rows, parameters, 9)
    assert set(made.manifest.stats["domains"]["train"]) == {*hostile, ""}
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789-./")
    assert all(set(name) <= plain for name in lab.names())


# ── feedback ─────────────────────────────────────────────────────────────────────────────────────


def signals(batch, every=3):
    """Two segments of every third document, the second one twice as long."""
    out = []
    for row in batch.to_pylist()[::every]:
        loss = (row["id_hash"] % 7 - 3) / 4
        for segment, (tokens, excess) in enumerate(((10, loss), (20, loss + 0.3))):
            out.append(
                {
                    "doc_id": row["doc_id"], "domain": row["domain"], "sequence": len(out), "segment": segment,
                    "tokens": tokens, "loss": 2.0 + excess, "excess_loss": excess, "step": 1 + segment,
                    "mixture_version": 0,
                }
            )  # fmt: skip
    return pa.RecordBatch.from_pylist(out, SIGNALS)


def test_what_training_saw_is_a_criterion_like_any_other(lab, cut):
    batch = scored()
    seen = signals(batch)
    lab.given("scored", documents=cut(batch, (40, 100)))
    lab.given("model", signals=cut(seen, (25,)))
    parameters = with_feedback(BASE, 2.0, "higher")
    made = lab.run(Selection("selection", "scored", parameters, 9, signals="model"))
    table = made.read("selection")
    rows = batch.to_pylist()
    by_doc = {}
    for r in seen.to_pylist():
        by_doc.setdefault(r["doc_id"], []).append((r["tokens"], r["excess_loss"]))
    for row, excess in zip(rows, table["score.excess_loss"].to_pylist(), strict=True):
        row["score.excess_loss"] = excess
        if row["doc_id"] in by_doc:
            pairs = by_doc[row["doc_id"]]
            mean = sum(t * e for t, e in pairs) / sum(t for t, _ in pairs)
            assert excess == pytest.approx(mean, abs=1e-4)
        else:
            assert excess is None
    assert table["copies"].to_pylist() == directly(rows, parameters, 9)
    assert "signals-by-document.parquet" in made.manifest.artifacts


def test_feedback_shares_the_weight_and_keeps_the_rest():
    widened = with_feedback(BASE, 1.0, "lower")
    assert widened.criteria[-1] == Criterion(column="score.excess_loss", direction="lower")
    assert widened.default.alpha == pytest.approx((0.35, 0.15, 0.5))
    assert widened.of("code").alpha == pytest.approx((0.1, 0.4, 0.5))
    assert replace(widened.default, alpha=BASE.default.alpha) == BASE.default
    assert with_feedback(BASE, 0.0, "higher").default.alpha == (0.7, 0.3, 0.0)
