"""Selection by losses: the weights of training, on the losses of a model."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError
from penstock.seeding import hash_ids

pytest.importorskip("torch")
pytest.importorskip("transformers")

from penstock.scoring.lm_scores import LanguageModelScores
from penstock.selectors.targeted.base import Budget
from penstock.selectors.targeted.loss_based import LOSS, LossBased
from penstock.training.weighting import loss_weights


def texts(count, seed=0, least=3):
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randint(1, 59)}" for _ in range(rng.randint(least, 12))) for _ in range(count)]


def scored(losses, scores=None):
    ids = [f"d{i:03d}" for i in range(len(losses))]
    values = pa.array(losses, pa.float32())
    score = values if scores is None else pa.array(scores, pa.float32())
    return pa.table({"doc_id": ids, "id_hash": hash_ids(ids), "tokens": [1] * len(ids), "score": score, LOSS: values})


def chosen(table):
    return table["doc_id"].filter(table["selected"]).to_pylist()


def test_scores_are_the_strategy_of_the_losses_in_the_targets_range(model_folder, tmp_path):
    target, pool = texts(30, seed=1), texts(40, seed=2)
    reader = LanguageModelScores.of(model_folder, max_tokens=64)
    of = {
        name: reader.annotate(pa.RecordBatch.from_pydict({"text": rows}))["score.lm_loss"].to_numpy().astype(float)
        for name, rows in (("target", target), ("pool", pool))
    }
    selector = LossBased(model=model_folder, max_tokens=64, trim=0.0)
    scorer = pickle.loads(pickle.dumps(selector.fit(pa.table({"text": target}), [], str(tmp_path))))  # noqa: S301
    found = scorer.annotate(pa.RecordBatch.from_pydict({"text": pool}))
    low, high = of["target"].min(), of["target"].max()
    h = np.clip((2 * of["pool"] - low - high) / (high - low), -1, 1)
    assert found[LOSS].to_numpy() == pytest.approx(of["pool"], abs=1e-3)
    assert found["score.loss"].to_numpy() == pytest.approx(1 - h**2, abs=2e-3)
    assert 0 < (found["score.loss"].to_numpy() > 0).mean() < 1
    assert (scorer.facts()["low"], scorer.facts()["high"]) == (pytest.approx(low), pytest.approx(high))


def test_a_text_that_is_too_short_for_a_loss_has_no_score(model_folder, tmp_path):
    scorer = LossBased(model=model_folder, max_tokens=64).fit(pa.table({"text": texts(5)}), [], str(tmp_path))
    found = scorer.annotate(pa.RecordBatch.from_pydict({"text": ["", "w1", "w1 w2 w3"]}))
    assert found["score.loss"].is_valid().to_pylist() == [False, False, True]


def test_the_pools_range_is_found_when_all_losses_are_known():
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, None]
    found = LossBased(model="x", bounds="pool", strategy="linupper", trim=0.0).choose(scored(losses), Budget(count=2))
    by_id = dict(zip(found["doc_id"].to_pylist(), found["score"].to_pylist(), strict=True))
    assert [by_id[f"d{i:03d}"] for i in range(6)] == [0.0, 0.5, 1.0, 1.0, 1.0, None]
    assert chosen(found) == ["d002", "d003"]


def test_sampling_draws_by_the_weights_of_training_and_by_coins_of_ids():
    losses = np.repeat([1.0, 2.0, 3.0], 400)
    selector = LossBased(model="x", bounds="pool", strategy="linear_half", draw="sample", trim=0.0, temperature=0.5)
    rows = scored(losses)
    found = selector.choose(rows, Budget(count=60))
    assert len(chosen(found)) == 60
    # few of many, so the share of each third is close to its share of the weights
    weights = loss_weights(losses, strategy="linear_half", temperature=0.5, bounds="minmax").reshape(3, 400).sum(axis=1)
    counts = np.bincount([int(name[1:]) // 400 for name in chosen(found)], minlength=3)
    assert counts / 60 == pytest.approx(weights, abs=4 * 0.5 / np.sqrt(60))
    assert counts[2] > counts[0]
    order = np.random.default_rng(0).permutation(len(losses))
    assert selector.choose(rows.take(order), Budget(count=60)).equals(found)
    assert chosen(selector.choose(rows, Budget(count=30))) == chosen(found)[:30]


def test_rows_without_a_loss_come_last_when_rows_are_drawn():
    rows = scored([None, 1.0, None, 2.0])
    found = LossBased(model="x", bounds="pool", draw="sample").choose(rows, Budget(count=4))
    assert sorted(chosen(found)) == ["d001", "d003"]
    assert found["rank"].to_pylist()[2:] == [None, None]


def test_scores_are_the_same_in_other_cuts_and_orders(model_folder, tmp_path):
    pool, target = texts(24, seed=3), pa.table({"text": texts(10, seed=4)})
    scorer = LossBased(model=model_folder, max_tokens=64).fit(target, [], str(tmp_path))
    whole = scorer.annotate(pa.RecordBatch.from_pydict({"text": pool}))["score.loss"].to_numpy()
    for parts in (3, 8):
        size = -(-24 // parts)
        cut = [pa.RecordBatch.from_pydict({"text": pool[i : i + size]}) for i in range(0, 24, size)]
        found = np.concatenate([scorer.annotate(batch)["score.loss"].to_numpy() for batch in cut])
        # a forward pass rounds differently in other batches, by a last digit of the stored loss
        assert found == pytest.approx(whole, abs=1e-3)
    assert LossBased(model=model_folder, max_tokens=64).fit(target[::-1], [], str(tmp_path)) == scorer


def test_a_folder_that_is_no_causal_language_model_is_refused(tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ConfigError, match="bert"):
        LossBased(model=str(tmp_path / "bert")).fit(pa.table({"text": ["w1 w2"]}), [], str(tmp_path))
    with pytest.raises(ConfigError, match="nowhere"):
        LossBased(model="nowhere").files()


@pytest.mark.parametrize(("target", "words"), [([], "got no rows"), (["", "w1 w2"], "too short for a loss")])
def test_a_target_without_a_loss_is_refused(target, words, model_folder, tmp_path):
    with pytest.raises(ConfigError, match=words):
        LossBased(model=model_folder, max_tokens=64).fit(
            pa.table({"text": pa.array(target, pa.string())}), [], str(tmp_path)
        )


@pytest.mark.parametrize(
    "settings", [{"strategy": "upper"}, {"bounds": "both"}, {"trim": 0.5}, {"temperature": 0.0}, {"draw": "race"}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f"loss.{next(iter(settings))}"):
        LossBased(model="x", **settings)


def test_the_files_of_the_model_are_named(model_folder):
    names = {file.name for file in LossBased(model=model_folder).files()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
