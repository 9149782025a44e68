"""The QuaDMix benchmark: what is planted is there, arms keep to the budget, and bars say what the runs say."""

import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import quadmix, quadmix_arms, quadmix_data
from benchmarks.harness import BenchmarkError
from benchmarks.small_lm import Job, Schedule
from penstock.seeding import coins, hash_ids
from penstock.selectors.search.settings import SearchSettings

LENGTH = 16
SMALL = replace(
    quadmix_arms.Settings(),
    seeds=1,
    search=SearchSettings(proxies=16, draws=500),
    schedule=Schedule(steps=6, rows=16, length=LENGTH, evaluate_every=6, warmup=2),
    corpus=quadmix_data.CorpusSettings(length=LENGTH, held_out=20),
)
# vocabulary of each domain's passages: the target's own words, other words, and spoilt passages have any
WORDS = {"wikipedia": (100, 140), "biomedical": (200, 240), "news": (300, 340)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool of three domains: passages of few words, spoilt ones of all, and a score that tells them apart."""
    folder = tmp_path_factory.mktemp("quadmix")
    here = folder / "seed-0"
    here.mkdir()
    rng = np.random.default_rng(0)
    ids = [f"{name}/{i}" for name in WORDS for i in range(300)]
    domain = np.repeat(list(WORDS), 300)
    spoilt = coins(hash_ids(ids), 0, "spoilt") < np.where(domain == "news", 0.1, 0.5)
    words = np.array([WORDS[name] for name in domain])
    tokens = rng.integers(words[:, :1], words[:, 1:], (len(ids), LENGTH))
    tokens[spoilt] = rng.integers(2, 2048, (int(spoilt.sum()), LENGTH))
    good = np.where(spoilt, 0.3, 0.7) + 0.2 * rng.random(len(ids))
    table = pa.table(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": domain.tolist(),
            "split": ["train"] * len(ids),
            "tokens": np.full(len(ids), LENGTH),
            "kind": np.where(spoilt, "noise", "").tolist(),
            "score.quality": good.astype(np.float32),
            "score.density": rng.random(len(ids)).astype(np.float32),
            "score.coin": rng.random(len(ids)).astype(np.float32),
        }
    )
    np.save(here / "tokens.npy", tokens.astype(np.uint16))
    pq.write_table(table, here / "pool.parquet")
    for side in ("proxies", "final"):
        np.save(here / f"{side}.npy", np.array([rng.integers(*WORDS[n], (20, LENGTH)) for n in WORDS][:2], np.uint16))
    (folder / "settings.json").write_text(json.dumps({"settings": {"runs": asdict(SMALL)}}))
    facts = quadmix_data.facts_of(table, ("wikipedia", "biomedical"), dict.fromkeys(WORDS, 0))
    (folder / quadmix_arms.corpus_job(0).file).write_text(json.dumps(facts))
    for arm in quadmix_arms.SEARCHED:
        job = Job("search", arm, 0)
        (folder / job.file).write_text(json.dumps(quadmix_arms.work(folder, job)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(before)


def copies(folder, arm):
    corpus = quadmix_arms.corpus_of(folder, 0, shuffled=arm.endswith("shuffled scores"))
    return corpus, quadmix_arms.copies_of_arm(arm, folder, corpus, SMALL, 0)


@pytest.mark.parametrize("arm", quadmix_arms.ARMS)
def test_every_arm_has_the_budget(folder, arm):
    _, taken = copies(folder, arm)
    # a coin for each passage: three deviations of 900 coins at the most
    allowed = 0 if arm not in quadmix_arms.SEARCHED else 3 * 0.5 * 900**0.5
    assert abs(int(taken.sum()) - SMALL.budget) <= allowed
    assert taken.min() >= 0


def test_the_search_finds_the_planted_domains_and_the_planted_criterion(folder):
    made = {arm: quadmix_arms.made_of(*copies(folder, arm)) for arm in ("random", *quadmix_arms.SEARCHED)}
    ours, random = made["quadmix"], made["random"]
    assert ours["clean and of the target"] > 1.5 * random["clean and of the target"]
    # shares of domains alone cannot tell clean passages from spoilt ones, nor can dealt scores
    assert ours["clean and of the target"] / ours["of the target"] > 0.6
    for arm in ("regmix", "quadmix, shuffled scores"):
        assert made[arm]["clean and of the target"] / made[arm]["of the target"] < 0.6


def test_a_winner_is_the_best_of_what_was_measured_again_and_predictions_vary(folder):
    for arm in quadmix_arms.SEARCHED:
        found = json.loads((folder / Job("search", arm, 0).file).read_text())
        assert found["deviation of predictions"] > 0
        assert found["unit"] == quadmix.winner(found)["unit"]
        assert len([m for m in found["measured"] if m["trial"]["purpose"] == "search"]) == 16
        found["candidates"][found["verdict"]["winner"]]["mean"] += 100.0
        with pytest.raises(AssertionError):
            quadmix.winner(found)


def test_a_final_model_is_trained_on_the_arm_s_copies(folder):
    found = {arm: quadmix_arms.work(folder, Job("final", arm, 0)) for arm in ("random", "quadmix")}
    assert set(found["random"]["losses"]) == {"wikipedia", "biomedical"}
    assert found["random"]["loss"] == pytest.approx(np.mean(list(found["random"]["losses"].values())))
    assert found["random"]["loss"] != found["quadmix"]["loss"]
    assert found["random"] | {"seconds": 0} == quadmix_arms.work(folder, Job("final", "random", 0)) | {"seconds": 0}


def test_dealt_scores_stay_in_their_domain_and_together():
    table = pa.table(
        {"domain": ["a"] * 50 + ["b"] * 50}
        | {name: (np.arange(100) + 1000 * k).astype(np.float32) for k, name in enumerate(quadmix_data.SCORES)}
    )
    found = quadmix_arms.dealt(table, 0)
    first = found[quadmix_data.SCORES[0]].to_numpy()
    assert sorted(first[:50]) == list(range(50))
    assert sorted(first[50:]) == list(range(50, 100))
    assert (first != np.arange(100)).mean() > 0.9
    for k, name in enumerate(quadmix_data.SCORES):
        assert (found[name].to_numpy() == first + 1000 * k).all()


# --- the corpus -----------------------------------------------------------------------------------------------------

SENTENCE = "The quick brown fox jumps over the lazy dog and runs away into the deep dark wood. "


def test_each_way_to_spoil_does_what_it_says():
    text = SENTENCE * 5
    shuffled, noise, boilerplate = (quadmix_data.SPOIL[k](text, np.random.default_rng(0)) for k in quadmix_data.KINDS)
    assert shuffled != " ".join(text.split())
    assert sorted(shuffled.split()) == sorted(text.split())
    same = sum(a == b for a, b in zip(noise[:20], text[:20], strict=True))
    assert same < 20
    assert abs(len(noise) - len(text)) < 0.05 * len(text)
    kept = len(set(noise.split()) & set(text.split())) / len(set(text.split()))
    assert 0.2 < kept < 1.0
    assert set(boilerplate.splitlines()) <= set(quadmix_data.BOILERPLATE)
    assert len(boilerplate) >= len(text) - 40


def test_the_target_is_spoilt_most_and_all_together_make_the_share():
    sizes = {"wikipedia": 500, "biomedical": 300, "a": 1000, "b": 2000, "c": 700}
    found = quadmix_data.spoilt_shares(sizes, ("wikipedia", "biomedical"), 0.3)
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx(0.3 * sum(sizes.values()))
    assert (found["wikipedia"], found["biomedical"]) == (0.5, 0.4)
    assert found["a"] < found["b"] < found["c"]
    with pytest.raises(BenchmarkError, match="too large"):
        quadmix_data.spoilt_shares({"wikipedia": 500, "biomedical": 300, "a": 10}, ("wikipedia", "biomedical"), 0.3)


def test_exchanged_scores_lose_their_passage_in_the_stated_share_of_a_domain():
    domain = np.repeat(["first", "second", "third"], 2000)
    score = np.arange(6000, dtype=np.float32)
    for which in (0, 1):
        found = quadmix_data.exchanged(score, domain, which, 0)
        assert sorted(found) == sorted(score)
        for number, name in enumerate(("first", "second", "third")):
            here = domain == name
            share = quadmix_data.EXCHANGED[number][which]
            assert (found[here] != score[here]).mean() == pytest.approx(share, abs=0.04)
            assert set(found[here]) == set(score[here])


def test_a_corpus_holds_documents_out_and_its_good_score_tells_clean_from_spoilt(tmp_path):
    import gzip

    rng = np.random.default_rng(0)
    names = ("biomedical", "news", "tales", "wikipedia")
    words = {name: [f"{name[:2]}{a}{b}" for a in "bcdfgklmnprst" for b in ("a", "em", "io", "ul")] for name in names}
    data = tmp_path / "data"
    data.mkdir()
    for name in names:
        with gzip.open(data / f"{name}.jsonl.gz", "wt") as file:
            for _ in range(120):
                start = rng.integers(0, 40)  # neighbours in a list follow each other, so order can be learned
                text = " ".join(words[name][(start + i + i // 7) % 52] for i in range(500))
                file.write(json.dumps({"text": text}) + "\n")
    settings = quadmix_data.CorpusSettings(length=32, per_domain=600, held_out=30)
    folder = tmp_path / "runs"
    folder.mkdir()
    quadmix_data.cut(data, folder, settings)
    facts = quadmix_data.draw(folder, settings, 0)
    here = folder / "seed-0"
    tokens, table = np.load(here / "tokens.npy"), pq.read_table(here / "pool.parquet")
    assert facts["targets"] == ["wikipedia", "biomedical"]
    assert tokens.shape == (facts["passages"], 32) == (len(table), 32)
    assert facts["spoilt"] == pytest.approx(0.3, abs=0.06)
    spoilt = {name: of["spoilt"] for name, of in facts["domains"].items()}
    assert min(spoilt, key=spoilt.get) == "news"
    assert max(spoilt, key=spoilt.get) == "wikipedia"
    rows = {
        name: {row.tobytes() for row in np.load(here / f"{name}.npy").reshape(-1, 32)} for name in ("proxies", "final")
    }
    pool = {row.tobytes() for row in tokens}
    assert len(rows["proxies"]) == len(rows["final"]) == 60
    assert not (rows["proxies"] & rows["final"])
    assert not ((rows["proxies"] | rows["final"]) & pool)
    good, coin = (facts["auc"][name] for name in (quadmix_data.SCORES[0], quadmix_data.SCORES[2]))
    assert good > 0.65 > 0.6 > coin > 0.4
    # untouched in the first domain, exchanged in the second
    assert (
        facts["domains"]["wikipedia"]["auc"]["score.quality"] > facts["domains"]["biomedical"]["auc"]["score.quality"]
    )
    again = quadmix_data.draw(folder, settings, 0)
    assert again == facts
    assert (np.load(here / "tokens.npy") == tokens).all()
    assert quadmix_data.draw(folder, settings, 1) != facts


def test_data_without_a_target_is_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="wikipedia and biomedical or documentation and readmes"):
        quadmix_data.targets_of(["wikipedia", "news", "tales"])


# --- the bars -------------------------------------------------------------------------------------------------------


def done(**last):
    """Three seeds of every arm; the losses of an arm are its figure, and in the last seed another."""
    figures = {"random": 5.9, "top_k": 6.0, "quadmix": 5.2, "regmix": 5.3, "shuffled": 5.35} | last
    names = {"quadmix": "quadmix", "regmix": "regmix", "quadmix, shuffled scores": "shuffled", "random": "random"}
    out = {}
    for arm in quadmix_arms.ARMS:
        figure = figures[names.get(arm, "top_k")]
        for seed in range(3):
            # QuaDMix has the same loss in all seeds, so that differences vary with the others
            moved = 0.0 if arm == "quadmix" else 0.03 * seed
            out[Job("final", arm, seed)] = {"loss": figure + moved}
    out |= {Job("search", arm, 0): {"deviation of predictions": 0.1} for arm in quadmix_arms.SEARCHED}
    return out | {quadmix_arms.corpus_job(0): {"passages": 60_000}}


def test_bars_are_paired_differences_in_standard_errors():
    bars = quadmix.bars(done(), quadmix.Settings(), quick=False)
    assert all(bar.holds for bar in bars)
    error = np.std([0.0, 0.03, 0.06], ddof=1) / 3**0.5
    assert bars[0].value == pytest.approx((0.7 + 0.03) / error)


@pytest.mark.parametrize(
    ("worse", "which"),
    [({"random": 5.15}, 0), ({"regmix": 5.1}, 1), ({"top_k": 5.1}, 2), ({"shuffled": 5.15}, 3)],
)
def test_a_bar_fails_where_its_arm_is_better(worse, which):
    held = [bar.holds for bar in quadmix.bars(done(**worse), quadmix.Settings(), quick=False)]
    assert held == [i != which for i in range(len(held))]


def test_the_best_top_k_is_the_one_with_the_lowest_mean():
    found = done()
    for seed in range(3):
        found[Job("final", "top-k of density", seed)] = {"loss": 5.7 + 0.01 * seed}
    assert quadmix.best_top_k(found) == "top-k of density"
    assert quadmix.bars(found, quadmix.Settings(), quick=False)[2].value > 0


def test_a_quick_run_claims_nothing_of_the_arms():
    assert [bar.holds for bar in quadmix.bars(done(), quadmix.QUICK, quick=True)] == [None] * 4 + [True, None]
