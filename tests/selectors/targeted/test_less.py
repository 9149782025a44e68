"""LESS: rows whose gradients pull where those of a target pull. Run: pytest tests/selectors/targeted/test_less.py"""

import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from penstock.errors import ConfigError, DatasetError, InputError, TrainingError
from penstock.seeding import hash_ids
from penstock.selectors.targeted import less_features, less_warmup
from penstock.selectors.targeted.base import state_fingerprint
from penstock.selectors.targeted.influence import checkpoint_weights, influence, mean_rates
from penstock.selectors.targeted.less import LESS
from penstock.selectors.targeted.less_features import Reader, reader_of
from penstock.work import apply

SETTINGS = {
    "share": 0.25, "epochs": 3, "learning_rate": 5e-3, "batch_size": 8, "rank": 4, "alpha": 16.0, "dimensions": 1024,
    "device": "cpu", "batch_tokens": 256,
}  # fmt: skip


def sentence(draw, kind):
    """Words that follow each other by the kind's own rule, three times in four; both kinds use the same words."""
    step, word, out = {"target": 7, "other": 23}[kind], int(draw.integers(59)), []
    for _ in range(int(draw.integers(16, 40))):
        out.append(f"w{1 + word}")
        word = (word + step) % 59 if draw.random() < 0.75 else int(draw.integers(59))
    return " ".join(out)


def rows(kinds, seed, *, prefix="pool", domain="web", learn=None):
    draw = np.random.default_rng(seed)
    ids = [f"{prefix}#{i}" for i in range(len(kinds))]
    return pa.table(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": [domain] * len(kinds) if isinstance(domain, str) else domain,
            "text": [sentence(draw, kind) if kind in ("target", "other") else kind for kind in kinds],
            "learn": pa.array(learn or [None] * len(kinds), pa.list_(pa.int32())),
        }
    )


@pytest.fixture(scope="module")
def model_folder(small_models, tmp_path_factory):
    """A model that was taught the other kind, as a base model knows common text and not that of a task."""
    folder, draw = tmp_path_factory.mktemp("taught"), np.random.default_rng(5)
    model = small_models.llama(vocabulary=60)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        texts = [f"{sentence(draw, 'other')} {sentence(draw, 'other')} {sentence(draw, 'other')}" for _ in range(32)]
        tokens = torch.tensor([[int(word[1:]) for word in text.split()[:40]] for text in texts])
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    small_models.tokenizer(folder, [f"w{i}" for i in range(1, 60)])
    return str(folder)


@pytest.fixture(scope="module")
def pool():
    return rows(["target"] * 30 + ["other"] * 90, seed=1)


@pytest.fixture(scope="module")
def target():
    return rows(["target"] * 24, seed=2, prefix="target", domain="task")


@pytest.fixture(scope="module")
def fitted(model_folder, pool, target, tmp_path_factory):
    return LESS(model=model_folder, **SETTINGS).fit(target, pool.to_batches(), str(tmp_path_factory.mktemp("less")))


def scores(scorer, table, chunk=10**6):
    return np.concatenate(
        [scorer.annotate(batch)["score.less"].to_numpy(zero_copy_only=False) for batch in table.to_batches(chunk)]
    )


@pytest.fixture(scope="module")
def found(fitted, pool):
    """Scores of the pool, computed together."""
    return scores(fitted, pool)


def area(score, planted):
    """Probability that a planted row stands above another."""
    return float(np.mean(score[planted][:, None] > score[~planted][None]))


def test_planted_rows_of_the_targets_kind_stand_above_the_others(found):
    planted = np.arange(120) < 30
    assert area(found, planted) > 0.9
    assert abs(found).max() <= 1


def test_a_target_row_in_the_pool_ranks_first(model_folder, pool, target, tmp_path):
    scorer = LESS(model=model_folder, **SETTINGS).fit(target.slice(0, 1), pool.to_batches(), str(tmp_path))
    # its own plain gradient is compared with its direction under Adam, so 1 is out of reach
    with_it = pa.concat_tables([pool, target.slice(0, 1)])
    assert scores(scorer, with_it).argmax() == 120


def test_scores_do_not_depend_on_the_order_or_the_cuts_of_rows(fitted, pool, found):
    order = np.random.default_rng(0).permutation(120)
    assert scores(fitted, pool.take(order), 25) == pytest.approx(found[order], abs=2e-4)


def test_the_state_does_not_depend_on_the_order_of_the_pool(fitted, model_folder, pool, target, tmp_path):
    order = np.random.default_rng(0).permutation(120)
    again = LESS(model=model_folder, **SETTINGS).fit(target, pool.take(order).to_batches(17), str(tmp_path))
    assert state_fingerprint(again) == state_fingerprint(fitted)
    other = LESS(model=model_folder, **SETTINGS | {"seed": 1}).fit(target, pool.to_batches(), str(tmp_path))
    assert state_fingerprint(other) != state_fingerprint(fitted)


def test_scores_are_what_the_formula_says_of_the_parts(fitted, pool, target, model_folder):
    few = pool.slice(28, 4)
    reader = reader_of(fitted.gradients.reading)
    of_rows, of_target, rates = [], [], []
    for checkpoint in fitted.gradients.checkpoints:
        moments = checkpoint.load("cpu")
        reader.factors.assign(moments.factors)
        found = []
        for table in (few, target):
            texts = reader.texts(table)
            rows_of = np.empty((table.num_rows, reader.factors.size))
            for batch in texts.packed.batches(10**6):
                rows_of[batch.rows] = reader.gradients.matrix(texts.examples(batch, "cpu")).double().numpy()
            found.append(rows_of)
        first, second = moments.first.double().numpy(), moments.second.double().numpy()
        m, v = 0.9 * first + 0.1 * found[0], 0.999 * second + 0.001 * found[0] ** 2
        step = m / np.sqrt(v + 1e-8)
        projected = []
        for vectors in (step, found[1]):
            out = fitted.gradients.projection.zeros(len(vectors))
            fitted.gradients.projection.add(out, torch.from_numpy(vectors), 0)
            projected.append((out / out.norm(dim=1, keepdim=True)).numpy())
        of_rows.append(projected[0])
        of_target.append(projected[1])
        rates.append(checkpoint.rate)
    want = influence(of_rows, of_target, checkpoint_weights(rates)).mean(axis=1)
    assert scores(fitted, few) == pytest.approx(want, abs=1e-3)
    assert rates == pytest.approx(mean_rates([4] * 3, 5e-3, 0.03).tolist())  # 30 rows in batches of 8


def test_a_row_counts_for_the_task_that_it_serves_best(model_folder, pool, tmp_path):
    both = rows(["target"] * 16 + ["other"] * 16, seed=4, prefix="both", domain=["a"] * 16 + ["b"] * 16)
    one = both.set_column(2, "domain", pa.array(["a"] * 32))
    less = LESS(model=model_folder, **SETTINGS)
    of_tasks, of_one = (less.fit(table, pool.to_batches(), str(tmp_path)) for table in (both, one))
    assert of_tasks.facts()["tasks"] == {"a": 16, "b": 16}
    # the mean of two tasks is never above the larger of them
    assert (scores(of_tasks, pool) >= scores(of_one, pool) - 1e-4).all()
    assert scores(of_tasks, pool).mean() > scores(of_one, pool).mean() + 0.005


def test_the_warm_up_learns_and_says_what_it_did(fitted):
    said = fitted.facts()
    losses = [epoch["loss"] for epoch in said["warmup"]]
    assert losses == sorted(losses, reverse=True)
    assert said["warmup"][0]["examples"] == 30  # a quarter of the pool
    assert sum(said["weights"]) == pytest.approx(1)
    assert said["parameters"] == 1792


def test_a_warm_up_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    fitted, model_folder, pool, target, tmp_path, monkeypatch
):
    whole = less_warmup._epoch
    calls = []

    def killed(*arguments):
        calls.append(arguments[5])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(less_warmup, "_epoch", killed)
    less = LESS(model=model_folder, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        less.fit(target, pool.to_batches(), str(tmp_path))
    again = less.fit(target, pool.to_batches(), str(tmp_path))
    assert calls == [0, 1, 2, 2]
    assert [c.digest for c in again.gradients.checkpoints] == [c.digest for c in fitted.gradients.checkpoints]
    assert state_fingerprint(again) == state_fingerprint(fitted)


def test_a_store_that_was_interrupted_is_gone_on_with_and_scores_are_the_same(
    fitted, model_folder, pool, target, tmp_path, monkeypatch
):
    stored = LESS(model=model_folder, store=str(tmp_path / "store"), **SETTINGS)
    scorer = stored.fit(target, pool.to_batches(), str(tmp_path / "one"))
    assert state_fingerprint(scorer) == state_fingerprint(fitted)
    whole, made = Reader.features, []

    def counted(self, texts, at, projection, *, adam):
        if len(made) == 4:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(len(texts.learned))
        return whole(self, texts, at, projection, adam=adam)

    monkeypatch.setattr(Reader, "features", counted)
    with pytest.raises(KeyboardInterrupt):
        scores(scorer, pool, 40)
    assert made == [40, 40, 40, 40, "killed"]  # three checkpoints of the first part, one of the second
    assert len(list((tmp_path / "store").rglob("*.parquet"))) == 4
    found = scores(scorer, pool, 40)
    assert made[5:] == [40] * 5
    assert (found == scores(fitted, pool, 40)).all()

    # another target: no warm-up, no gradient of the pool
    del made[:]
    monkeypatch.setattr(less_warmup, "_epoch", lambda *_: pytest.fail("trained again"))
    other = rows(["other"] * 24, seed=9, prefix="other", domain="task")
    second = stored.fit(other, pool.to_batches(), str(tmp_path / "two"))
    of_second = scores(second, pool, 40)
    assert made == [24, 24, 24]
    assert area(-of_second, np.arange(120) < 30) > 0.8
    shutil.rmtree(tmp_path / "store")
    assert (tmp_path / "two").is_dir()
    assert all(
        checkpoint.facts() for checkpoint in second.gradients.checkpoints
    )  # what belongs to the scores lies with them


def test_rows_without_a_token_to_learn_have_no_score(fitted):
    table = rows(["", "w5", "w5 w6 w7", "w5 w6 w7", "w5 w6 w7"], seed=0, learn=[None, None, None, [], [0, 5]])
    found = apply([fitted], table.to_batches()[0]).batch["score.less"]
    assert found.is_valid().to_pylist() == [False, False, True, False, True]
    assert found[2] != found[4]
    assert len(fitted.annotate(pa.RecordBatch.from_pylist([], schema=table.schema))["score.less"]) == 0


def test_learned_byte_ranges_are_learned_tokens(fitted):
    reader = reader_of(fitted.gradients.reading)
    table = rows(["w1 é w22 w3 w44"] * 3, seed=0, learn=[[6, 12], [0, 2, 14, 16], [7, 12]])
    # bytes: w1 0-2, é 3-5, w22 6-9, w3 10-12, w44 13-16; a token that a border cuts is not learned
    assert [mask.tolist() for mask in reader.texts(table).learned] == [
        [False, False, True, True, False],
        [True, False, False, False, False],
        [False, False, False, True, False],
    ]
    with pytest.raises(InputError, match="learn of row 0"):
        reader.texts(rows(["w1"], seed=0, learn=[[0, 99]]))


def test_a_scorer_pickles_small_and_says_its_files(fitted):
    assert len(pickle.dumps(fitted)) < 4000
    assert pickle.loads(pickle.dumps(fitted)) == fitted  # noqa: S301 - our own
    assert len(fitted.artifacts()) == 4


def fit(model, pool, target, tmp_path, **changes):
    return LESS(model=str(model), **SETTINGS | changes).fit(target, pool.to_batches(), str(tmp_path / "out"))


def test_targets_and_models_that_do_not_serve_are_refused(model_folder, pool, target, tmp_path):
    with pytest.raises(ConfigError, match="less target: got no rows"):
        fit(model_folder, pool, target.slice(0, 0), tmp_path)
    with pytest.raises(ConfigError, match=r"less target: got 2 row\(s\) without a token to learn"):
        fit(model_folder, pool, rows(["", "w3"], seed=0), tmp_path)
    with pytest.raises(DatasetError, match="learn"):
        fit(model_folder, pool, target.drop_columns(["learn"]), tmp_path)
    with pytest.raises(ConfigError, match=r"no config\.json"):
        fit(tmp_path, pool, target, tmp_path)
    with pytest.raises(ConfigError, match=r"has no linear layer query; it has down_proj, gate_proj, k_proj"):
        fit(model_folder, pool, target, tmp_path, layers=("query",))
    with pytest.raises(ConfigError, match=r"max_tokens: got 129, allowed <= 128"):
        fit(model_folder, pool, target, tmp_path, max_tokens=129)
    with pytest.raises(ConfigError, match="pool: got no rows"):
        fit(model_folder, pool.slice(0, 0), target, tmp_path)
    with pytest.raises(ConfigError, match="warm-up: got 1 row"):
        fit(model_folder, rows(["w1"] * 3, seed=0), target, tmp_path)


def test_a_path_of_another_kind_of_model_is_refused(small_models, pool, target, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    (tmp_path / "bert").mkdir()
    small_models.tokenizer(tmp_path / "bert", ["w1"])
    BertForMaskedLM(
        BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"BertForMaskedLM, no causal LM"):
        fit(tmp_path / "bert", pool, target, tmp_path)


def test_a_model_that_changed_since_is_refused(fitted, model_folder, pool, target, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    scorer = fit(copy, pool, target, tmp_path)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    less_features.reader_of.cache_clear()
    less_features.models.loaded.cache_clear()
    with pytest.raises(DatasetError, match="its files changed since"):
        scores(scorer, pool)


def test_a_warm_up_that_diverges_says_so(model_folder, pool, target, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is no finite number; lower the learning rate"):
        fit(model_folder, pool, target, tmp_path, learning_rate=1e30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share: got 0.0"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"warmup": 1.0}, "warmup: got 1.0"),
        ({"rank": 0}, "rank: got 0"),
        ({"projection": "sparse"}, "projection: got 'sparse'"),
        ({"max_tokens": 1}, "max_tokens: got 1"),
        ({"batch_tokens": 0}, "batch_tokens: got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LESS(model="m", **settings)
