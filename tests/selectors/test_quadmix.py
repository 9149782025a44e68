"""QuaDMix: the formulas, the two histogram passes and the sample, against oracles that work document by document."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import coins, hash_ids, stream
from penstock.selectors.histogram import TokenHistogram, float_codes, unit_codes
from penstock.selectors.quadmix import (
    MERGED,
    Criterion,
    CriterionHistograms,
    DomainParameters,
    MergedHistograms,
    MergedScore,
    QuaDMixParameters,
    QuaDMixSample,
)
from penstock.selectors.quadmix_theta import budget_factor, copies_of, mid_rank, sampling_value, token_rank
from penstock.work import with_columns


def theta(alpha: tuple[float, ...] = (1.0,), lam: float = 50.0, omega: float = 0.3, **more: float) -> DomainParameters:
    return DomainParameters(alpha=alpha, lam=lam, omega=omega, eta=more.get("eta", 0.8), eps=more.get("eps", 0.001))


def parameters(default: DomainParameters | None = None, direction: Any = "higher", **more: Any) -> QuaDMixParameters:
    default = default or theta()
    names = ["score.a", "score.b", "score.c"][: len(default.alpha)]
    criteria = tuple(Criterion(column=name, direction=direction) for name in names)
    return QuaDMixParameters(**{"criteria": criteria, "default": default, "omega_max": 1.0} | more)


def documents(n: int, seed: int = 0, domains: int = 3) -> pa.RecordBatch:
    rng = stream(seed, "documents")
    ids = [f"f{i % 7}#{i}" for i in range(n)]
    return pa.RecordBatch.from_pydict(
        {
            "doc_id": pa.array(ids, pa.string()),
            "id_hash": hash_ids(ids),
            "domain": pa.array([f"d{i}" for i in rng.integers(0, domains, n)], pa.string()),
            "split": pa.array(np.where(rng.random(n) < 0.1, "validation", "train").tolist(), pa.string()),
            "tokens": pa.array(rng.integers(1, 200, n), pa.int32()),
            "score.a": pa.array(np.round(rng.random(n), 2), pa.float32()),
            "score.b": pa.array(rng.normal(0, 3, n), pa.float32(), mask=rng.random(n) < 0.3),
        }
    )


def fit(
    p: QuaDMixParameters, shards: list[pa.RecordBatch], folder: Path, seed: int = 11
) -> tuple[MergedScore, QuaDMixSample]:
    """Both passes over shards, merged left to right."""
    first = CriterionHistograms(parameters=p)
    summary = first.summarise(shards[0])
    for shard in shards[1:]:
        summary = summary.merge(first.summarise(shard))
    merge = first.fit(summary, str(folder))
    second = MergedHistograms(parameters=p, seed=seed)
    scored = [with_columns(shard, merge.annotate(shard)) for shard in shards]
    ranks = second.summarise(scored[0])
    for shard in scored[1:]:
        ranks = ranks.merge(second.summarise(shard))
    return merge, second.fit(ranks, str(folder))


def selected(p: QuaDMixParameters, batch: pa.RecordBatch, folder: Path, seed: int = 11) -> pa.RecordBatch:
    merge, sample = fit(p, [batch], folder, seed)
    batch = with_columns(batch, merge.annotate(batch))
    return with_columns(batch, sample.annotate(batch))


# The formulas


@pytest.mark.parametrize("mode", ["exponent", "product"])
@pytest.mark.parametrize(("lam", "eta"), [(3.0, 0.7), (50.0, 1.0), (1000.0, 0.2)])
def test_s_falls_inside_the_window_within_its_range_and_is_the_floor_behind_it(
    mode: Any, lam: float, eta: float
) -> None:
    r = np.linspace(0, 1, 2001)
    s = sampling_value(r, lam=lam, omega=0.1, eta=eta, eps=0.001, eta_mode=mode)
    inside = s[r <= 0.1] - 0.001
    assert (np.diff(inside) <= 0).all()
    assert inside[0] > inside[-1] + 1e-3
    low, high = (1.0, 2**eta) if mode == "exponent" else (eta, 2 * eta)
    assert inside.min() >= low - 1e-12
    assert inside.max() <= high + 1e-12
    assert (s[r > 0.1] == 0.001).all()


def test_s_has_hand_worked_values() -> None:
    r = np.array([0.0, 0.05, 0.1, 0.1001, 1.0])
    base = [2 / (1 + math.exp(-2.0)), 2 / (1 + math.exp(-1.0)), 1.0]
    s = sampling_value(r, lam=20.0, omega=0.1, eta=0.5, eps=0.25, eta_mode="exponent")
    assert s == pytest.approx([math.sqrt(base[0]) + 0.25, math.sqrt(base[1]) + 0.25, 1.25, 0.25, 0.25])
    s = sampling_value(r, lam=20.0, omega=0.1, eta=0.5, eps=0.25, eta_mode="product")
    assert s == pytest.approx([base[0] / 2 + 0.25, base[1] / 2 + 0.25, 0.75, 0.25, 0.25])


def test_the_steepest_s_does_not_overflow() -> None:
    with np.errstate(all="raise"):
        s = sampling_value(np.array([0.0, 1.0]), lam=1000.0, omega=0.1, eta=1.0, eps=0.0, eta_mode="exponent")
    assert s == pytest.approx([2.0, 0.0])


def test_rank_counts_tokens_and_moves_when_one_document_grows() -> None:
    assert token_rank(np.array([10, 30, 60]), "inclusive").tolist() == [0.1, 0.4, 1.0]
    assert token_rank(np.array([10, 60, 60]), "inclusive") == pytest.approx([10 / 130, 70 / 130, 1.0])
    assert token_rank(np.array([10, 30, 60]), "midpoint").tolist() == [0.05, 0.25, 0.7]
    assert token_rank(np.array([10, 30, 60]), "exclusive").tolist() == [0.0, 0.1, 0.4]
    assert token_rank(np.array([0]), "inclusive").tolist() == [1.0]


def test_mid_rank_turns_with_the_direction_and_averages_one_half() -> None:
    tokens = np.array([10, 30, 60])  # ascending values
    assert mid_rank(tokens, higher_is_better=False).tolist() == [0.05, 0.25, 0.7]
    assert mid_rank(tokens, higher_is_better=True) == pytest.approx([0.95, 0.75, 0.3])
    assert (mid_rank(tokens, higher_is_better=True) * tokens).sum() == pytest.approx(50.0)


def test_copies_are_the_value_rounded_by_the_coin_and_grow_with_the_value() -> None:
    value = np.array([0.0, 0.25, 1.0, 1.25, 2.5], dtype=np.float32)
    assert copies_of(value, np.full(5, 0.24)).tolist() == [0, 1, 1, 2, 3]
    assert copies_of(value, np.full(5, 0.25)).tolist() == [0, 0, 1, 1, 3]
    coin = stream(3).random(1000)
    steps = [copies_of(np.full(1000, v, dtype=np.float32), coin) for v in np.linspace(0, 3, 31)]
    assert all((a <= b).all() for a, b in itertools.pairwise(steps))


# Histograms


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=20), st.integers(8, 32))
def test_codes_order_as_values_do(values: list[float], bits: int) -> None:
    array = np.sort(np.array(values, dtype=np.float32))
    codes = float_codes(array, bits).astype(np.int64)
    assert (np.diff(codes) >= 0).all()
    if bits == 32:
        assert ((np.diff(codes) > 0) == (np.diff(array.astype(np.float64)) > 0)).all()


def test_zero_has_one_code_and_scores_of_four_digits_have_their_own() -> None:
    assert len(set(float_codes(np.array([0.0, -0.0], dtype=np.float32), 32))) == 1
    scores = np.round(np.arange(10_001) / 10_000, 4).astype(np.float32)
    assert len(set(float_codes(scores, 22))) == 10_001
    assert unit_codes(np.array([0.0, 0.5, 1.0], dtype=np.float32), 16).tolist() == [0, 32768, 65535]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 5), st.integers(0, 9)), max_size=30),
    seed=st.integers(0, 1000),
)
def test_histograms_merge_in_any_order_to_the_same_table(rows: list[tuple[str, int, int]], seed: int) -> None:
    def histogram(part: list[tuple[str, int, int]]) -> TokenHistogram:
        names = sorted({r[0] for r in part}, reverse=True)
        group = np.array([names.index(r[0]) for r in part], dtype=np.int32)
        code = np.array([r[1] for r in part], dtype=np.uint32)
        return TokenHistogram.of([("c", n) for n in names], group, code, np.array([r[2] for r in part], dtype=np.int64))

    expected: dict[tuple[str, int], list[int]] = {}
    for name, code, tokens in rows:
        both = expected.setdefault((name, code), [0, 0])
        both[0] += tokens
        both[1] += 1
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    parts = [histogram([rows[i] for i in chunk]) for chunk in np.array_split(order, 4)]
    while len(parts) > 1:
        a, b = sorted(rng.choice(len(parts), 2, replace=False))
        parts[a] = TokenHistogram.from_table(parts[a].merge(parts.pop(b)).to_table())
    table = parts[0].to_table()
    assert table.equals(histogram(rows).to_table())
    got = {(r["domain"], r["code"]): [r["tokens"], r["documents"]] for r in table.to_pylist()}
    assert got == expected


# The passes against an oracle


def oracle_merged(p: QuaDMixParameters, batch: pa.RecordBatch) -> list[float]:
    """qbar by comparing every document with every other one."""
    rows = batch.to_pylist()
    train = [r for r in rows if r["split"] == "train"]
    out = []
    for row in rows:
        total = 0.0
        for weight, criterion in zip(p.of(row["domain"]).alpha, p.criteria, strict=True):
            sign = -1 if criterion.direction == "higher" else 1
            pool = [
                (sign * r[criterion.column], r["tokens"])
                for r in train
                if r[criterion.column] is not None and (p.normalizer_scope == "global" or r["domain"] == row["domain"])
            ]
            if row[criterion.column] is None or not pool:
                total += weight * 0.5
                continue
            own = sign * row[criterion.column]
            better = sum(t for v, t in pool if v < own)
            equal = sum(t for v, t in pool if v == own)
            total += weight * (better + equal / 2) / sum(t for _, t in pool)
        out.append(total)
    return out


@pytest.mark.parametrize("scope", ["global", "domain"])
def test_merged_scores_equal_the_oracle_with_nulls_neutral(tmp_path: Path, scope: Any) -> None:
    batch = documents(150)
    p = QuaDMixParameters(
        criteria=(Criterion(column="score.a", direction="higher"), Criterion(column="score.b", direction="lower")),
        default=theta((0.5, 0.5)),
        domains=(("d1", theta((0.9, 0.1))),),
        normalizer_scope=scope,
        omega_max=1.0,
    )
    train = batch.filter(pa.array(np.array(batch["split"].to_pylist()) == "train"))
    merge, _ = fit(p, [batch], tmp_path)
    # scores of normal deviates may share a bin; none of these does
    assert len(set(float_codes(train["score.b"].drop_null().to_numpy(), 22))) == len(train["score.b"].drop_null())
    got = merge.annotate(train)[MERGED]
    rows = oracle_merged(p, batch)
    wanted = [v for v, s in zip(rows, batch["split"].to_pylist(), strict=True) if s == "train"]
    assert got.type == pa.float32()
    assert got.to_pylist() == pytest.approx(wanted, abs=1e-6)


def test_a_document_without_any_score_is_in_the_middle(tmp_path: Path) -> None:
    batch = documents(40)
    batch = with_columns(batch, {"score.b": pa.array([None, *batch["score.b"].to_pylist()[1:]], pa.float32())})
    p = parameters(theta((0.0, 1.0)))
    merge, _ = fit(p, [batch], tmp_path)
    assert merge.annotate(batch)[MERGED][0].as_py() == 0.5


def test_ranks_differ_from_the_exact_ones_by_at_most_the_heaviest_bin(tmp_path: Path) -> None:
    batch = selected(parameters(theta((0.6, 0.4))), documents(400), tmp_path)
    rows = [r for r in batch.to_pylist() if r["split"] == "train"]
    for domain in ("d0", "d1", "d2"):
        mine = [r for r in rows if r["domain"] == domain]
        total = sum(r["tokens"] for r in mine)
        codes = unit_codes(np.array([r[MERGED] for r in mine], dtype=np.float32), 16)
        heaviest = np.bincount(codes, [r["tokens"] for r in mine]).max() / total
        for row in mine:
            exact = sum(r["tokens"] for r in mine if r[MERGED] <= row[MERGED]) / total
            assert abs(row["quadmix.rank"] - exact) <= heaviest + 1e-6
            assert row["quadmix.rank"] >= exact - 1e-6
        assert max(r["quadmix.rank"] for r in mine) == 1.0


def test_ties_share_the_largest_rank_and_value(tmp_path: Path) -> None:
    batch = documents(6, domains=1)
    batch = with_columns(
        batch,
        {
            "split": pa.array(["train"] * 6),
            "tokens": pa.array([10, 20, 30, 5, 25, 10], pa.int32()),
            "score.a": pa.array([0.9, 0.5, 0.5, 0.7, 0.1, 0.5], pa.float32()),
        },
    )
    out = selected(parameters(theta(omega=0.6, eps=0.0, lam=10.0, eta=1.0)), batch, tmp_path)
    assert out["quadmix.rank"].to_pylist() == pytest.approx([0.1, 0.75, 0.75, 0.15, 1.0, 0.75])
    inside = [2 / (1 + math.exp(-10 * (0.6 - r))) for r in (0.1, 0.15)]
    assert out["quadmix.value"].to_pylist() == pytest.approx([inside[0], 0, 0, inside[1], 0, 0])
    assert out["copies"].to_pylist()[1:3] == [0, 0]


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_the_best_raw_scores_get_the_smallest_ranks(tmp_path: Path, direction: Any) -> None:
    batch = documents(2000)
    out = selected(parameters(direction=direction), batch, tmp_path)
    rank = out["quadmix.rank"].to_numpy(zero_copy_only=False)
    raw = out["score.a"].to_numpy()
    tenths = [raw[(rank > lo / 10) & (rank <= (lo + 1) / 10)].mean() for lo in range(10)]
    steps = np.diff(tenths)
    assert (steps < 0).all() if direction == "higher" else (steps > 0).all()
    copies = out["copies"].to_numpy()
    train = np.array(out["split"].to_pylist()) == "train"
    kept, left = raw[train & (copies > 0)].mean(), raw[train & (copies == 0)].mean()
    assert kept > left + 0.3 if direction == "higher" else kept < left - 0.3


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_shards_and_order_change_no_copy_and_no_digest(tmp_path: Path, shards: int) -> None:
    batch = documents(500)
    p = parameters(theta((0.5, 0.5)), target_tokens=9_000, copy_cap=2.0)
    whole = selected(p, batch, tmp_path)
    order = stream(shards, "order").permutation(500)
    shuffled = batch.take(pa.array(order))
    size = -(-500 // shards)
    parts = [shuffled.slice(a, size) for a in range(0, 500, size)]
    merge, sample = fit(p, parts, tmp_path / "again")
    reference = fit(p, [batch], tmp_path / "reference")
    assert (merge.digest, sample.digest) == (reference[0].digest, reference[1].digest)
    done: dict[str, tuple[Any, ...]] = {}
    for part in parts[::-1]:
        out = with_columns(part, merge.annotate(part))
        out = with_columns(out, pickle.loads(pickle.dumps(sample)).annotate(out))  # noqa: S301
        done |= {r["doc_id"]: (r["copies"], r["quadmix.rank"], r["quadmix.value"]) for r in out.to_pylist()}
    assert done == {r["doc_id"]: (r["copies"], r["quadmix.rank"], r["quadmix.value"]) for r in whole.to_pylist()}


def test_seeds_draw_different_copies_of_the_same_values(tmp_path: Path) -> None:
    batch = documents(2000)
    a, b = (selected(parameters(theta(lam=5.0)), batch, tmp_path, seed) for seed in (1, 2))
    assert a["quadmix.value"].equals(b["quadmix.value"])
    differ = np.array(a["copies"].to_pylist()) != np.array(b["copies"].to_pylist())
    assert 50 < differ.sum() < 800


def test_copies_follow_from_the_stored_value_and_the_row_coin(tmp_path: Path) -> None:
    out = selected(parameters(), documents(300), tmp_path, seed=5)
    train = np.array(out["split"].to_pylist()) == "train"
    coin = coins(out["id_hash"].to_numpy(), 5, "quadmix")
    value = out["quadmix.value"].to_numpy(zero_copy_only=False)
    assert out["copies"].to_numpy()[train].tolist() == [
        math.floor(v) + (c < v - math.floor(v)) for v, c in zip(value[train].astype(float), coin[train], strict=True)
    ]


def test_mean_copies_are_the_value_within_four_standard_errors(tmp_path: Path) -> None:
    out = selected(parameters(theta(lam=2.0, eps=0.001)), documents(20_000), tmp_path)
    train = np.array(out["split"].to_pylist()) == "train"
    value = out["quadmix.value"].to_numpy(zero_copy_only=False)[train].astype(float)
    copies = out["copies"].to_numpy()[train]
    frac = value - np.floor(value)
    assert abs(copies.sum() - value.sum()) < 4 * math.sqrt((frac * (1 - frac)).sum())


def test_rows_outside_train_keep_one_copy_and_move_no_rank(tmp_path: Path) -> None:
    batch = documents(300)
    out = selected(parameters(), batch, tmp_path)
    outside = out.filter(pa.array(np.array(out["split"].to_pylist()) != "train"))
    assert set(outside["copies"].to_pylist()) == {1}
    assert outside["quadmix.rank"].null_count == outside["quadmix.value"].null_count == outside.num_rows > 0
    train = batch.filter(pa.array(np.array(batch["split"].to_pylist()) == "train"))
    alone = fit(parameters(), [train], tmp_path / "alone")
    both = fit(parameters(), [batch], tmp_path / "both")
    assert [w.digest for w in alone] == [w.digest for w in both]


# Budget


def realised(out: pa.RecordBatch) -> tuple[float, float]:
    """(tokens of the training copies, their standard deviation)."""
    train = np.array(out["split"].to_pylist()) == "train"
    tokens = out["tokens"].to_numpy()[train].astype(float)
    value = out["quadmix.value"].to_numpy(zero_copy_only=False)[train].astype(float)
    frac = value - np.floor(value)
    sd = math.sqrt((tokens**2 * frac * (1 - frac)).sum())
    return float((tokens * out["copies"].to_numpy()[train]).sum()), sd


@pytest.mark.parametrize(("target", "cap"), [(20_000, None), (100_000, None), (300_000, 1.5), (300_000, 3.0)])
def test_realised_tokens_meet_the_target_within_four_standard_deviations(
    tmp_path: Path, target: int, cap: float | None
) -> None:
    p = parameters(theta(omega=0.8), target_tokens=target, copy_cap=cap)
    out = selected(p, documents(3000), tmp_path)
    tokens, sd = realised(out)
    assert abs(tokens - target) <= 4 * sd + 1
    if cap is not None:
        assert max(out["quadmix.value"].drop_null().to_pylist()) <= np.float32(cap)
        assert max(out["copies"].to_pylist()) <= math.ceil(cap)


def test_the_budget_keeps_ratios_and_reports_its_factor_and_expectation(tmp_path: Path) -> None:
    batch = documents(1000)
    free = selected(parameters(), batch, tmp_path)
    merge, sample = fit(parameters(target_tokens=5_000), [batch], tmp_path)
    batch = with_columns(batch, merge.annotate(batch))
    value = sample.annotate(batch)["quadmix.value"]
    facts = sample.facts()
    assert facts["expected_tokens"] == pytest.approx(5_000, rel=1e-6)
    assert facts["budget_factor"] < 1
    assert any("budget factor" in w and "below 1" in w for w in facts["warnings"])
    ratio = value.drop_null().to_numpy() / free["quadmix.value"].drop_null().to_numpy()
    assert ratio == pytest.approx(facts["budget_factor"], rel=1e-5)
    assert sum(d["tokens"] for d in facts["domains"]) == sum(
        r["tokens"] for r in batch.to_pylist() if r["split"] == "train"
    )


def test_a_multiplier_scales_its_domain_against_the_others_within_the_budget_and_the_cap(tmp_path: Path) -> None:
    batch = documents(2000)
    tokens = np.array(batch["tokens"].to_pylist(), dtype=float)
    domain = np.array(batch["domain"].to_pylist())
    train = np.array(batch["split"].to_pylist()) == "train"

    def shares(g: float, **more: Any) -> dict[str, float]:
        raised = DomainParameters(alpha=(1.0,), lam=50.0, omega=0.3, eta=0.8, eps=0.001, multiplier=g)
        out = selected(parameters(domains=(("d1", raised),), **more), batch, tmp_path)
        value = np.nan_to_num(out["quadmix.value"].to_numpy(zero_copy_only=False))
        return {d: float((value * tokens)[train & (domain == d)].sum()) for d in ("d0", "d1", "d2")}

    plain, free, scaled = shares(1.0), shares(2.5), shares(2.5, target_tokens=40_000)
    assert free["d1"] == pytest.approx(2.5 * plain["d1"], rel=1e-5)
    assert (free["d0"], free["d2"]) == (plain["d0"], plain["d2"])
    assert sum(scaled.values()) == pytest.approx(40_000, rel=1e-5)
    assert scaled["d1"] / scaled["d0"] == pytest.approx(2.5 * plain["d1"] / plain["d0"], rel=1e-5)
    assert shares(0.0)["d1"] == 0.0
    # what its cap keeps it from goes to the others, in the ratio that they had
    capped = shares(1000.0, target_tokens=60_000, copy_cap=1.0)
    assert sum(capped.values()) == pytest.approx(60_000, rel=1e-5)
    assert capped["d1"] < 0.5 * 1000 * plain["d1"] / plain["d0"] * capped["d0"]
    assert capped["d2"] / capped["d0"] == pytest.approx(plain["d2"] / plain["d0"], rel=1e-5)


def test_the_factor_under_a_cap_equals_the_hand_worked_one() -> None:
    values, tokens = np.array([2.0, 1.0, 0.5]), np.array([100, 100, 100])
    # the first document is capped at 3 copies, 300 tokens; f (1 + 0.5) 100 tokens are the rest's
    assert budget_factor(values, tokens, target=600, cap=3.0) == pytest.approx(2.0)
    assert budget_factor(values, tokens, target=350, cap=3.0) == pytest.approx(1.0)
    assert budget_factor(values, tokens, target=175, cap=None) == pytest.approx(0.5)
    assert budget_factor(values, tokens, target=None, cap=3.0) == 1.0
    assert budget_factor(values, tokens, target=900, cap=3.0) == pytest.approx(6.0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 500)), min_size=1, max_size=12),
    st.floats(0.1, 4.0),
    st.floats(0.01, 1.0),
)
def test_the_factor_under_a_cap_spends_the_target_and_no_smaller_one_does(
    bins: list[tuple[float, int]], cap: float, part: float
) -> None:
    values, tokens = np.array([v for v, _ in bins]), np.array([t for _, t in bins])
    values[values < 1e-3] = 0.0
    reach = cap * tokens[values > 0].sum()
    target = int(part * reach)
    if target < 1:
        return
    factor = budget_factor(values, tokens, target=target, cap=cap)

    def spent(f: float) -> float:
        return float((np.minimum(f * values, cap) * tokens).sum())

    assert spent(factor) == pytest.approx(target, rel=1e-9)
    assert spent(0.99 * factor) < target


def test_an_impossible_budget_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"got 901, allowed at most 900 = copy_cap 3 x 300 tokens"):
        budget_factor(np.array([1.0, 1.0, 0.1]), np.array([100, 100, 100]), target=901, cap=3.0)
    with pytest.raises(ConfigError, match=r"got 301, allowed at most 200 = copy_cap 1 x 200 tokens that have S > 0"):
        budget_factor(np.array([1.0, 1.0, 0.0]), np.array([100, 100, 100]), target=301, cap=1.0)
    with pytest.raises(ConfigError, match=r"got 5, but S is 0 for every document"):
        budget_factor(np.array([0.0]), np.array([100]), target=5, cap=None)


def test_a_cap_without_a_target_bounds_the_value(tmp_path: Path) -> None:
    out = selected(parameters(copy_cap=0.5), documents(100), tmp_path)
    assert max(out["quadmix.value"].drop_null().to_pylist()) == 0.5


# Edges


def test_a_domain_whose_window_is_empty_is_warned_of_and_keeps_its_floor(tmp_path: Path) -> None:
    batch = documents(200)
    batch = with_columns(batch, {"domain": pa.array(["lonely", *batch["domain"].to_pylist()[1:]])})
    batch = with_columns(batch, {"split": pa.array(["train"] * 200)})
    p = parameters(theta(omega=0.3, eps=0.0005), domains=(("absent", theta()),))
    merge, sample = fit(p, [batch], tmp_path)
    batch = with_columns(batch, merge.annotate(batch))
    out = sample.annotate(batch)
    assert out["quadmix.rank"][0].as_py() == 1.0
    assert out["quadmix.value"][0].as_py() == pytest.approx(0.0005)
    warnings = sample.facts()["warnings"]
    assert len(warnings) == 2
    assert warnings[0].startswith("domain 'lonely': best rank 1, behind omega 0.3: the window is empty")
    assert warnings[1] == "domain 'absent' has parameters but no training row"


def test_without_a_window_only_the_floor_applies_whatever_the_ranks_start_at(tmp_path: Path) -> None:
    for rank_at in ("inclusive", "exclusive"):
        p = parameters(theta(omega=0.0, eta=0.0, eps=0.001), rank_at=rank_at, target_tokens=5_000)
        out = selected(p, documents(300), tmp_path)
        assert len(set(out["quadmix.value"].drop_null().to_pylist())) == 1


def test_a_constant_criterion_is_warned_of_where_it_ranks_nothing(tmp_path: Path) -> None:
    batch = with_columns(documents(60), {"score.a": pa.array([0.25] * 60, pa.float32())})
    merge, _ = fit(parameters(theta((0.5, 0.5))), [batch], tmp_path)
    assert merge.facts()["warnings"] == [
        "score.a: all scored training tokens have one value, so it ranks nothing there; leave the criterion out or "
        "look at its scorer"
    ]
    first = np.array(batch["domain"].to_pylist()) == "d1"
    half = with_columns(documents(60), {"score.a": pa.array(np.where(first, 0.5, np.arange(60) / 60), pa.float32())})
    merge, _ = fit(parameters(normalizer_scope="domain"), [half], tmp_path)
    assert [w[:61] for w in merge.facts()["warnings"]] == [
        "score.a: all scored training tokens have one value in domain 'd1', "[:61]
    ]
    merge, _ = fit(parameters(theta((0.5, 0.5))), [documents(60)], tmp_path)
    assert merge.facts()["warnings"] == []


@pytest.mark.parametrize(("rank_at", "rank"), [("inclusive", 1.0), ("midpoint", 0.5), ("exclusive", 0.0)])
def test_rank_at_decides_whether_a_lonely_document_is_in_its_window(tmp_path: Path, rank_at: Any, rank: float) -> None:
    batch = with_columns(documents(1), {"split": pa.array(["train"])})
    out = selected(parameters(theta(eps=0.0), rank_at=rank_at), batch, tmp_path)
    assert out["quadmix.rank"].to_pylist() == [rank]
    assert (out["quadmix.value"].to_pylist()[0] >= 1.0) == (rank_at == "exclusive")


def test_an_empty_batch_gives_empty_columns_of_the_right_types(tmp_path: Path) -> None:
    batch = documents(50)
    merge, sample = fit(parameters(theta((0.5, 0.5))), [batch.slice(0, 0), batch, batch.slice(0, 0)], tmp_path)
    empty = with_columns(batch.slice(0, 0), merge.annotate(batch.slice(0, 0)))
    out = sample.annotate(empty)
    assert {name: column.type for name, column in out.items()} == {
        "quadmix.rank": pa.float32(),
        "quadmix.value": pa.float32(),
        "copies": pa.int32(),
    }
    assert {len(column) for column in out.values()} == {0}


def test_dictionary_domains_give_what_strings_give(tmp_path: Path) -> None:
    batch = documents(120)
    encoded = with_columns(batch, {"domain": batch["domain"].dictionary_encode()})
    a = selected(parameters(normalizer_scope="domain"), batch, tmp_path)
    b = selected(parameters(normalizer_scope="domain"), encoded, tmp_path)
    assert a["quadmix.value"].equals(b["quadmix.value"])


def test_declared_columns_are_enough(tmp_path: Path) -> None:
    batch = documents(60)
    p = parameters(theta((0.5, 0.5)))
    first, second = CriterionHistograms(parameters=p), MergedHistograms(parameters=p, seed=1)
    merge = first.fit(first.summarise(batch.select(list(first.reads))), str(tmp_path))
    added = merge.annotate(batch.select(list(merge.reads)))
    batch = with_columns(batch, added)
    sample = second.fit(second.summarise(batch.select(list(second.reads))), str(tmp_path))
    assert tuple(added) == merge.adds
    assert tuple(sample.annotate(batch.select(list(sample.reads)))) == sample.adds


def broken(**columns: Any) -> pa.RecordBatch:
    return with_columns(with_columns(documents(3), {"split": pa.array(["train"] * 3)}), columns)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken(**{"score.a": pa.array([1.0, float("nan"), 0.0], pa.float32())}), "score.a: got NaN in 1 row"),
        (broken(**{"score.a": pa.array([None] * 3, pa.float32())}), "score.a: no training row has a score"),
        (broken(tokens=pa.array([1, None, 2], pa.int32())), r"tokens: got 1 null\(s\)"),
        (broken(tokens=pa.array([1, -4, 2], pa.int32())), "tokens: got -4, allowed a count >= 0"),
        (broken(domain=pa.array(["a", None, "b"])), "domain: got null in a training row"),
        (broken(split=pa.array(["test"] * 3)), "no training row has a score"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, batch: pa.RecordBatch, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        fit(parameters(), [batch], tmp_path)


def test_a_training_row_of_a_domain_that_was_not_fitted_is_refused(tmp_path: Path) -> None:
    merge, sample = fit(parameters(), [documents(50)], tmp_path)
    other = broken(domain=pa.array(["d0", "new", "d1"]))
    other = with_columns(other, merge.annotate(other))
    with pytest.raises(DatasetError, match=r"training rows of \['new'\], fitted on \['d0', 'd1', 'd2'\]"):
        sample.annotate(other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parameters(theta((0.5, 0.6))), "got alpha [0.5, 0.6], allowed 2 weights >= 0 that sum to 1"),
        (lambda: parameters(theta((1.5, -0.5))), "got alpha [1.5, -0.5]"),
        (
            lambda: parameters(domains=(("x", theta((0.5, 0.5))),)),
            "domain 'x': got alpha [0.5, 0.5], allowed 1 weights",
        ),
        (lambda: parameters(theta(omega=0.2), omega_max=0.1), "got omega 0.2, allowed 0 to 0.1; raise omega_max"),
        (lambda: parameters(omega_max=1.2), "omega_max: got 1.2, allowed above 0 and at most 1"),
        (lambda: parameters(theta(lam=2000.0)), "got lam 2000.0, allowed 0 to 1000; raise lam_max"),
        (lambda: parameters(theta(eta=1.5)), "got eta 1.5, allowed 0 to 1"),
        (lambda: parameters(theta(eps=0.1)), "got eps 0.1, allowed 0 to 0.001; raise eps_max"),
        (lambda: parameters(theta(eps=float("nan"))), "got eps nan"),
        (
            lambda: parameters(DomainParameters(alpha=(1.0,), lam=1.0, omega=0.1, eta=1.0, eps=0.0, multiplier=-1.0)),
            "got multiplier -1.0, allowed >= 0 and finite",
        ),
        (lambda: parameters(eta_mode="power"), "eta_mode: got 'power', allowed exponent, product"),
        (lambda: parameters(rank_at="middle"), "rank_at: got 'middle', allowed inclusive, midpoint, exclusive"),
        (lambda: parameters(normalizer_scope="all"), "normalizer_scope: got 'all', allowed global, domain"),
        (lambda: parameters(direction="up"), "criterion score.a: got direction 'up', allowed 'higher' or 'lower'"),
        (
            lambda: parameters(domains=(("x", theta()), ("x", theta()))),
            "domains: got ['x', 'x'], allowed each domain once",
        ),
        (lambda: parameters(target_tokens=0), "target_tokens: got 0, allowed above 0"),
        (lambda: parameters(copy_cap=float("inf")), "copy_cap: got inf, allowed above 0"),
        (lambda: parameters(criteria=()), "criteria: got [], allowed one or more different columns"),
    ],
)
def test_parameters_outside_their_box_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
