"""MONA: rows whose sparse code is like the target's. Run: pytest tests/selectors/targeted/test_mona.py"""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from penstock.errors import ConfigError, DatasetError
from penstock.scoring import model as models
from penstock.seeding import hash_ids
from penstock.selectors.targeted.base import state_fingerprint
from penstock.selectors.targeted.mona import MONA, jaccard, prototype_of
from penstock.selectors.targeted.mona_codes import HiddenStates, NgramCode, pooled
from penstock.selectors.targeted.sae import load_sae
from penstock.work import apply

SETTINGS = {"device": "cpu", "expansion": 4, "k": 6, "sae_epochs": 3, "sae_texts": 60, "max_tokens": 64}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ── Jaccard and pooling ──────────────────────────────────────────────────────────────────────────


def dense_jaccard(row, prototype):
    return np.minimum(row, prototype).sum() / np.maximum(row, prototype).sum()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 30), density=st.floats(0.05, 1.0))
def test_the_sparse_form_is_the_dense_one_and_lies_in_0_to_1(seed, width, density):
    draw = np.random.default_rng(seed)
    dense = draw.random((6, width)) * (draw.random((6, width)) < density)
    prototype = draw.random(width) * (draw.random(width) < density) + 1e-9
    found = jaccard(sparse.csr_matrix(dense), prototype)
    assert found == pytest.approx([dense_jaccard(row, prototype) for row in dense], abs=1e-6)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    assert jaccard(sparse.csr_matrix(prototype[None]), prototype) == pytest.approx([1.0])


def test_jaccard_by_hand():
    codes = sparse.csr_matrix(np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]))
    # minima 1 + 1, maxima 1 + 2 + 1; then nothing in common
    assert jaccard(codes, np.array([1.0, 0.0, 1.0])).tolist() == pytest.approx([2 / 3, 0.0, 0.0])
    assert np.isnan(jaccard(codes[1], np.zeros(3))).all()


def test_codes_with_a_negative_entry_or_another_width_are_refused():
    good, prototype = sparse.csr_matrix(np.eye(3)), np.ones(3)
    with pytest.raises(DatasetError, match=r"got an entry of -1\.0, allowed >= 0"):
        jaccard(-good, prototype)
    with pytest.raises(DatasetError, match=r"got an entry of -0\.5"):
        jaccard(good, np.array([1.0, -0.5, 0.0]))
    with pytest.raises(DatasetError, match="got an entry of nan"):
        jaccard(sparse.csr_matrix(np.array([[np.nan, 1.0, 1.0]])), prototype)
    with pytest.raises(DatasetError, match="got 3 columns, expected 4"):
        jaccard(good, np.ones(4))


def test_the_prototype_is_the_mean_of_rows_that_have_a_code():
    codes = sparse.csr_matrix(np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
    assert prototype_of(codes).tolist() == [2.0, 2.0]


def test_codes_are_means_over_tokens_so_a_text_twice_is_the_text_once():
    latents, values = np.array([0, 2, 2, 5]), np.array([1.0, 2.0, 4.0, 0.0])  # two tokens of two entries
    once = pooled([np.zeros(4, int)], [latents], [values], k=2, shape=(1, 6))
    assert once.toarray().tolist() == [[0.5, 0.0, 3.0, 0.0, 0.0, 0.0]]
    assert once.nnz == 2  # the zero is not stored
    twice = pooled([np.zeros(8, int)], [np.tile(latents, 2)], [np.tile(values, 2)], k=2, shape=(1, 6))
    assert (twice != once).nnz == 0
    # in sums the second would be twice as long, and no more like the first than this
    assert jaccard(2 * once, once.toarray()[0].astype(float)) == pytest.approx([0.5])
    assert pooled([], [], [], k=2, shape=(3, 6)).nnz == 0


# ── the selector ─────────────────────────────────────────────────────────────────────────────────


def rows(count, words, seed, prefix="pool"):
    """Texts of words of a range, with a fifth from anywhere."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        kinds = np.where(draw.random(24) < 0.8, draw.integers(*words, 24), draw.integers(1, 60, 24))
        texts.append(" ".join(f"w{kind}" for kind in kinds[: draw.integers(8, 24)]))
    ids = [f"{prefix}{words[0]}#{i}" for i in range(count)]
    return pa.table({"doc_id": ids, "id_hash": hash_ids(ids), "text": texts})


@pytest.fixture(scope="module")
def model_folder(small_models, tmp_path_factory):
    """A model of random weights but for its embeddings: words of a range lie near one another, as in a taught one."""
    folder, draw = tmp_path_factory.mktemp("topics"), torch.Generator().manual_seed(0)
    model = small_models.llama(vocabulary=60)
    topics = torch.randn(3, 32, generator=draw)
    words = topics[torch.arange(60) // 20] + 0.7 * torch.randn(60, 32, generator=draw)
    model.model.embed_tokens.weight.data.copy_(words)
    model.save_pretrained(folder)
    small_models.tokenizer(folder, [f"w{i}" for i in range(1, 60)])
    return str(folder)


@pytest.fixture(scope="module")
def pool():
    return pa.concat_tables([rows(20, (1, 20), 0), rows(30, (20, 40), 1), rows(30, (40, 60), 2)]).combine_chunks()


@pytest.fixture(scope="module")
def target():
    return rows(10, (1, 20), 7, prefix="target")


@pytest.fixture(scope="module")
def fitted(model_folder, pool, target, tmp_path_factory):
    return MONA(model=model_folder, **SETTINGS).fit(target, pool.to_batches(), str(tmp_path_factory.mktemp("mona")))


def scores(scorer, table, chunk=10**6):
    columns = [apply([scorer], batch).batch["score.mona"] for batch in table.to_batches(chunk)]
    return np.concatenate([column.to_numpy(zero_copy_only=False) for column in columns])


def area(score, planted):
    return float(np.mean(score[planted][:, None] > score[~planted][None]))


@pytest.mark.parametrize("code", ["sae", "ngrams"])
def test_planted_rows_of_the_targets_kind_stand_above_the_others(code, model_folder, pool, target, fitted, tmp_path):
    scorer = fitted if code == "sae" else MONA(code="ngrams").fit(target, pool.to_batches(), str(tmp_path))
    found = scores(scorer, pool)
    assert area(found, np.arange(80) < 20) > 0.9
    assert ((found >= 0) & (found <= 1)).all()
    assert scores(scorer, pa.concat_tables([pool, target.slice(0, 1)])).argmax() in (*range(20), 80)


def test_scores_do_not_depend_on_the_order_or_the_cuts_of_rows(fitted, pool):
    whole = scores(fitted, pool)
    order = np.random.default_rng(0).permutation(80)
    assert scores(fitted, pool.take(order)) == pytest.approx(whole[order], abs=1e-4)
    assert scores(fitted, pool, 13) == pytest.approx(whole, abs=1e-4)


def test_the_state_does_not_depend_on_the_order_of_the_pool(fitted, model_folder, pool, target, tmp_path):
    order = np.random.default_rng(0).permutation(80)
    mona = MONA(model=model_folder, **SETTINGS)
    again = mona.fit(target, pool.take(order).to_batches(9), str(tmp_path))
    assert state_fingerprint(again) == state_fingerprint(fitted)


def test_scores_are_what_the_formula_says_of_the_parts(fitted, model_folder, pool, target):
    model, tokenizer = models.load_causal_lm(model_folder, "cpu")
    sae = load_sae(fitted.code.sae.path, fitted.code.sae.digest, "cpu")

    def code(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]  # block 1 of 2
        dense = torch.zeros(len(hidden), sae.width).scatter(1, *reversed(sae.encode(hidden)))
        assert ((dense > 0).sum(dim=1) <= 6).all()
        return dense.double().mean(dim=0).numpy()

    prototype = np.mean([code(text) for text in target["text"].to_pylist()], axis=0)
    want = [dense_jaccard(code(text), prototype) for text in pool["text"].to_pylist()[:5]]
    assert scores(fitted, pool.slice(0, 5)) == pytest.approx(want, abs=1e-4)
    assert fitted.facts()["target_rows"] == 10
    assert fitted.facts()["latents_of_target"] == (prototype > 0).sum()
    assert 0 < fitted.facts()["sae_unexplained"] < 1


def test_a_given_autoencoder_is_used_and_belongs_to_its_model(
    fitted, model_folder, pool, target, tmp_path, small_models
):
    path = fitted.code.sae.path
    assert path in fitted.artifacts()
    given = MONA(model=model_folder, sae=path, device="cpu", max_tokens=64)
    assert len(given.files()) == len(MONA(model=model_folder).files()) + 2
    scorer = given.fit(target, pool.to_batches(), str(tmp_path))
    assert (scores(scorer, pool) == scores(fitted, pool)).all()
    assert scorer.artifacts() == (scorer.path,)
    fewer = MONA(model=model_folder, sae=path, k=2, device="cpu", max_tokens=64).fit(target, [], str(tmp_path))
    assert fewer.facts()["latents_of_target"] < scorer.facts()["latents_of_target"]
    small_models.llama(hidden=16, vocabulary=60).save_pretrained(tmp_path / "other")
    small_models.tokenizer(tmp_path / "other", ["w1", "w2"])
    with pytest.raises(ConfigError, match=r"got one for 32 dimensions, allowed 16, the hidden size of"):
        MONA(model=str(tmp_path / "other"), sae=path, device="cpu", max_tokens=64).fit(target, [], str(tmp_path))


def test_what_the_tokenizer_puts_before_a_text_does_not_count(model_folder, monkeypatch):
    hidden = HiddenStates(model=model_folder, digest=models.fingerprint(model_folder), device="cpu", max_tokens=64)
    ((_, plain),) = list(hidden.read(["w1 w2 w3"]))
    assert plain.shape == (3, 32)
    monkeypatch.setattr(models, "prefix_ids", lambda tokenizer: [59])
    ((row, found),) = list(hidden.read(["w1 w2 w3"]))
    assert row.tolist() == [0, 0, 0]
    assert found.shape == (3, 32)
    assert not torch.allclose(found, plain)  # the token before them was read


def test_empty_texts_have_no_score(fitted):
    batch = pa.RecordBatch.from_pydict({"text": ["", "w3 w4", None]})
    assert fitted.annotate(batch)["score.mona"].is_valid().to_pylist() == [False, True, False]
    assert len(fitted.annotate(batch.slice(0, 0))["score.mona"]) == 0
    ngrams = NgramCode().codes(pa.array(["", "a river", None]))
    assert np.diff(ngrams.indptr).tolist() == [0, 3, 0]
    assert ngrams.sum() == pytest.approx(1.0)


def test_targets_models_and_settings_that_do_not_serve_are_refused(model_folder, pool, target, tmp_path):
    def fit(wanted=target, **changes):
        made = {"model": model_folder, **SETTINGS, **changes}
        return MONA(**made).fit(wanted, pool.to_batches(), str(tmp_path))

    with pytest.raises(ConfigError, match="mona target: got no rows"):
        fit(target.slice(0, 0))
    with pytest.raises(ConfigError, match=r"mona target: got 1 row\(s\) without a token"):
        fit(target.slice(0, 1).set_column(2, "text", [[""]]))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        fit(model=str(tmp_path))
    with pytest.raises(ConfigError, match="layer: got 3, allowed 0 to 2"):
        fit(layer=3)
    with pytest.raises(ConfigError, match="max_tokens: got 512, allowed <= 128"):
        fit(max_tokens=512)
    with pytest.raises(ConfigError, match=r"where no cfg\.json"):
        fit(sae=str(tmp_path))
    with pytest.raises(ConfigError, match="sae k: got 129, allowed <= 128"):
        fit(k=129)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": "router"}, "code: got 'router', allowed sae, ngrams"),
        ({}, "got code sae without a model"),
        ({"code": "ngrams", "sae": "s"}, "got code ngrams with an autoencoder"),
        ({"model": "m", "max_tokens": 1}, "max_tokens: got 1"),
        ({"model": "m", "sae_tokens": 9}, "sae_tokens: got 9"),
        ({"model": "m", "expansion": 0}, "expansion: got 0"),
        ({"code": "ngrams", "bits": 30}, "bits: got 30"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        MONA(**changes)
