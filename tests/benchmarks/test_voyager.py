"""The benchmark of Voyager measures what it says. Run: pytest tests/benchmarks/test_voyager.py"""

import hashlib
import json
from itertools import combinations

import numpy as np
import pytest

from benchmarks import harness, voyager, voyager_arms, voyager_families
from benchmarks.small_lm import Job
from benchmarks.voyager_arms import ARMS, Settings

SMALL = Settings(count=12, seeds=(0,), sample=10)


class Words:
    """Embedder: words by hash, each in one of 32 places; as much of a text as a voyage looks at."""

    dimensions = 32

    def setup(self):
        pass

    def embed(self, texts):
        out = np.zeros((len(texts), 32), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text[:1024].lower().split():
                out[row, hashlib.blake2b(word.encode()).digest()[0] % 32] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.fixture
def embedders(monkeypatch):
    monkeypatch.setattr(voyager_arms, "static", lambda folder: Words())
    monkeypatch.setattr(voyager_arms, "minilm", Words)


@pytest.mark.usefixtures("embedders")
def test_every_arm_makes_its_rows_and_its_figures_are_those_of_what_it_accepted(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"runs": SMALL}}, default=vars))
    done = {job: voyager_arms.work(tmp_path, job) for job in (Job("procedural", arm, 0) for arm in ARMS)}
    for job, found in done.items():
        assert (found["rows"], found["reason"]) == (12, "count")
        assert found["proposed"] == 12 + sum(found["dropped"].values())
        assert 1 <= found["vendi"] <= 12
        # both embedders are the same one here
        assert found["vendi"] == pytest.approx(found["vendi of the run's embedder"])
        assert (found["threshold"] is None) == (job.arm in ("default", "uniform", "hierarchical"))
        assert json.loads(json.dumps(found)) == found
    voyage, _ = voyager_arms.voyage("uniform", 0, SMALL, Words())
    texts = [one.item.text for one in voyage.accepted]
    vectors = Words().embed(texts).astype(np.float64)
    apart = [1 - float(a @ b) for a, b in combinations(vectors, 2)]
    uniform = done[Job("procedural", "uniform", 0)]
    assert uniform["cosine"] == pytest.approx(np.mean(apart), abs=1e-6)
    assert uniform["cosine, spread"] == pytest.approx(np.std(apart), abs=1e-6)
    values = np.linalg.eigvalsh(vectors @ vectors.T / 12)
    values = values[values > 1e-12]
    assert uniform["vendi"] == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-5)
    result = voyager.result_of(done, {}, quick=False)
    assert len(result.bars) == 3
    told = {row["what"]: row["mean"] for row in result.rows}
    assert told["voyager: proposed"] == done[Job("procedural", "voyager", 0)]["proposed"]


def test_arms_of_a_seed_share_the_prior_and_uniform_has_none(monkeypatch):
    taken = []

    async def caught(roots, settings, **more):
        taken.extend(roots)

    monkeypatch.setattr(voyager_arms, "explore", caught)
    for arm in ARMS:
        voyager_arms.voyage(arm, 3, SMALL, Words())
    priors = {arm: root.state.prior for arm, root in zip(ARMS, taken, strict=True)}
    assert len({prior.digest for arm, prior in priors.items() if arm != "uniform"}) == 1
    assert len(set(priors["uniform"].weights.values())) == 1
    weights = sorted(priors["voyager"].weights.values(), reverse=True)
    assert weights[:3] == pytest.approx([1, 1 / 4, 1 / 9])


def test_lexical_distance_is_the_mean_over_pairs_without_stop_words():
    # {cat, sat}, {cat, ran}, {dog}: 1 - 1/3, 1, 1
    assert voyager_arms.lexical(["The cat sat", "a CAT ran", "the dog"]) == pytest.approx((2 / 3 + 1 + 1) / 3)


def figures(vendi, rows=500):
    return dict.fromkeys(voyager.FIGURES, 1.0) | {"vendi": vendi, "rows": rows, "reason": "count", "dropped": {}}


def planted(**scores):
    return {
        Job("procedural", arm, seed): figures(value)
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    }


BASE = {"default": (5, 6, 4), "uniform": (15, 16, 14), "hierarchical": (10, 10, 10)}


def bars_of(done, quick=False):
    return {bar.name: bar for bar in voyager.result_of(done, {}, quick=quick).bars}


def test_the_share_of_the_gap_is_taken_by_seed_and_its_bar_is_of_the_mean():
    done = planted(**BASE, gate_only=(8, 8, 8), random_refinement=(9, 9, 9), voyager=(14, 11, 12))
    # 9/10, 5/10, 8/10
    assert list(voyager.share_of_gap(done).values()) == pytest.approx([0.9, 0.5, 0.8])
    bar = bars_of(done)["share of the Vendi gap from default to uniform that is closed"]
    assert (bar.value, bar.holds) == (pytest.approx(2.2 / 3), True)
    worse = planted(**BASE, gate_only=(8, 8, 8), random_refinement=(9, 9, 9), voyager=(11, 11, 11))
    assert bars_of(worse)["share of the Vendi gap from default to uniform that is closed"].holds is False


def test_an_ablation_is_beaten_by_paired_errors_and_not_by_the_mean_alone():
    done = planted(**BASE, gate_only=(13, 10, 11), random_refinement=(20, 8, 9), voyager=(14, 11.2, 12.1))
    bars = bars_of(done)
    # differences 1, 1.2, 1.1: mean 1.1, error 0.1 / sqrt 3
    assert bars["Vendi above gate_only, in paired standard errors"].value == pytest.approx(11 * 3**0.5)
    assert bars["Vendi above gate_only, in paired standard errors"].holds
    assert bars["Vendi above random_refinement, in paired standard errors"].holds is False


def test_a_quick_run_claims_nothing_and_a_short_voyage_is_refused():
    done = planted(**BASE, gate_only=(8, 8, 8), random_refinement=(9, 9, 9), voyager=(14, 11, 12))
    assert [bar.holds for bar in bars_of(done, quick=True).values()] == [None] * 3
    done[Job("procedural", "voyager", 0)] |= {"rows": 499, "reason": "patience"}
    with pytest.raises(harness.BenchmarkError, match="voyager, seed 0: 499 rows, patience"):
        voyager.result_of(done, {}, quick=False)


# ── the table of families ────────────────────────────────────────────────────────────────────────


def test_knobs_are_the_curriculums_ranges_the_choices_and_the_truth_values():
    found = voyager_families.knobs_of("gcd")
    assert found == {
        "num_terms": [
            {"min_numbers": 2, "max_numbers": 3},
            {"min_numbers": 3, "max_numbers": 4},
            {"min_numbers": 4, "max_numbers": 5},
        ],
        "value": [
            {"min_value": 100, "max_value": 1000},
            {"min_value": 1000, "max_value": 10000},
            {"min_value": 10000, "max_value": 100000},
        ],
    }
    arithmetic = voyager_families.knobs_of("basic_arithmetic")
    assert arithmetic["format_style"] == [{"format_style": "natural"}]
    assert arithmetic["allow_negation"] == [{"allow_negation": False}]
    assert arithmetic["operators"] == [{"operators": [sign]} for sign in "+-*/"]
    assert voyager_families.spread(list(range(9))) == [0, 2, 4, 6, 8]
    assert voyager_families.spread([1, 1, 2]) == [1, 2]


def test_a_family_is_refused_for_what_either_process_saw():
    good = {"reason": None, "digest": "a"}
    assert voyager_families.verdict(good, good) is None
    assert voyager_families.verdict(good, good | {"digest": "b"}) == "not the same in every process"
    assert voyager_families.verdict(good, {"reason": "slow", "digest": "a"}) == "slow"


def test_problems_that_fail_say_how(monkeypatch):
    problems = voyager_families.problems
    assert problems("gcd", 5, {})["reason"] is None
    assert problems("gcd", 5, {})["digest"] == problems("gcd", 5, {})["digest"] != problems("gcd", 6, {})["digest"]
    assert problems("composite", 5, {})["reason"].startswith("refused: Must specify at least one dataset")
    assert problems("propositional_logic", 5, {})["reason"].startswith("its scorer does not accept every answer")
    bad = {"min_value": 9, "max_value": 5}
    assert problems("gcd", 5, bad)["reason"].startswith("refused")
    # drawn parameters may be refused, as long as others are not
    assert problems("gcd", 5, lambda number: bad if number % 2 else {})["reason"] is None
    monkeypatch.setattr(voyager_families, "CHARACTERS", 10)
    assert problems("gcd", 5, {})["reason"] == "long"
    monkeypatch.setattr(voyager_families, "SECONDS", -1.0)
    assert problems("gcd", 5, {})["reason"] == "slow"
