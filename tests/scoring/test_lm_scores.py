"""Scores of texts by a tiny model: ``python -m pytest tests/scoring/test_lm_scores.py``."""

import math
import pickle
import shutil
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from penstock import apply
from penstock.errors import ConfigError, DatasetError
from penstock.scoring.formulas import SCORES, column
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.scoring.reference import Reference, ReferenceTokens


@pytest.fixture(scope="module")
def scored(model, tiny):
    """Scores of texts by the shared model: a dictionary of columns without their prefix."""

    def score(texts, **settings):
        work = LanguageModelScores.of(str(model), device="cpu", **settings)
        batch = apply([work], tiny.rows(texts)).batch
        return {name.removeprefix("score.lm_"): batch[name] for name in work.adds}

    return score


@pytest.fixture(scope="module")
def own(model, tiny):
    """Texts of 40 tokens that the model wrote at temperature 1."""
    return tiny.written(model, 200, 40, seed=1)


def shuffled(texts, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(text.split())) for text in texts]


def means(columns):
    return {score: pc.mean(columns[score]).as_py() for score in SCORES}


def test_columns_are_float32_as_declared_and_nothing_is_dropped(model, tiny):
    work = LanguageModelScores.of(str(model), device="cpu")
    batch = apply([work], tiny.rows(["w1 w2 w3", "w4"])).batch
    assert batch.schema.names == ["doc_id", "domain", "text", *work.adds]
    assert {batch[column(score)].type for score in SCORES} == {pa.float32()}
    assert batch["lm_tokens"].to_pylist() == [3, 1]
    assert batch["lm_truncated"].to_pylist() == [False, False]


def test_scores_are_those_of_transformers_own_loss(model, tiny, scored):
    from transformers import AutoModelForCausalLM

    texts = [tiny.words(np.random.default_rng(i).integers(0, 32, n)) for i, n in enumerate((2, 3, 17, 60))]
    reference = AutoModelForCausalLM.from_pretrained(model)
    found = scored(texts)
    for i, text in enumerate(texts):
        ids = torch.tensor([[int(word[1:]) for word in text.split()]])
        with torch.no_grad():
            loss = reference(input_ids=ids, labels=ids).loss.item()
        if len(ids[0]) == 2:
            assert found["loss"][i].as_py() is None  # one predicted token
            continue
        assert found["loss"][i].as_py() == pytest.approx(loss, abs=1e-4)
        assert found["zlib"][i].as_py() == pytest.approx(-loss / len(zlib.compress(text.encode())), abs=1e-6)


def test_texts_of_the_model_are_told_from_shuffled_ones_in_the_direction_of_every_score(scored, own):
    model_s, others = means(scored(own)), means(scored(shuffled(own)))
    assert model_s["loss"] < others["loss"]
    for score in ("mink", "minkpp", "zs_signed", "zs_ratio", "z"):
        assert model_s[score] > others[score], score
    assert model_s["zs"] < others["zs"]
    for score, of in SCORES.items():
        if score not in ("entropy", "dcpdd", "zlib"):
            assert (model_s[score] > others[score]) == (of.suspicious == "large"), score


def test_z_of_the_model_s_own_texts_is_standard_normal(model, tiny, scored):
    z = scored(tiny.written(model, 1000, 30, seed=2))["z"].to_numpy()
    assert abs(z.mean()) < 0.07
    assert abs(z.std() - 1) < 0.05


def test_text_likelier_than_chance_is_large_in_zs_and_in_zs_signed(model, tiny, scored):
    greedy = scored(tiny.written(model, 20, 60, seed=3, greedy=True))
    sampled = scored(tiny.written(model, 60, 60, seed=4))
    for score in ("zs", "zs_signed"):
        assert pc.min(greedy[score]).as_py() > pc.quantile(sampled[score], 0.95)[0].as_py(), score


@pytest.mark.parametrize("text", ["", "   ", "w3", "w3 w4", None])
def test_texts_of_fewer_than_two_predicted_tokens_are_null_in_every_score(scored, text):
    found = scored(["w1 w2 w3 w4", text])
    for score in SCORES:
        assert not found[score][1].is_valid, score
    assert found["loss"][0].is_valid


def test_constant_text_has_finite_scores_and_no_nan(scored):
    found = scored(["w7 " * 50, "zzz zzz zzz", "w7 " * 3])
    for score in SCORES:
        values = found[score].to_pylist()
        assert all(value is None or math.isfinite(value) for value in values), score
        assert (score == "dcpdd") == (values[0] is None), score


def test_one_batch_or_many_and_one_split_or_many_give_the_same_scores(scored, own):
    texts = [text[: 5 * (i + 3)] for i, text in enumerate(own)]
    want = scored(texts, batch_tokens=100_000)
    assert max(want["lm_tokens"].to_pylist()) > 2 * min(want["lm_tokens"].to_pylist())
    parts = [scored(texts[i : i + 7]) for i in range(0, len(texts), 7)]
    together = {name: pa.concat_arrays([part[name] for part in parts]) for name in want}
    for other in (scored(texts, batch_tokens=1), scored(texts, batch_tokens=333), together):
        for score in SCORES:
            assert other[score].is_null().equals(want[score].is_null())
            # stored rounded to 1e-4 (z to 1e-3), so a last digit may differ
            step = 10.0 ** -SCORES[score].decimals
            np.testing.assert_allclose(
                other[score].drop_null().to_numpy(), want[score].drop_null().to_numpy(), rtol=1e-6, atol=1.01 * step
            )


def test_only_the_first_tokens_are_read_and_zlib_is_of_them(scored, tiny):
    text = tiny.words(np.random.default_rng(0).integers(0, 32, 60))
    head = " ".join(text.split()[:20])
    cut, short = scored([text], max_tokens=20), scored([head], max_tokens=20)
    assert (cut["lm_tokens"][0].as_py(), cut["lm_truncated"][0].as_py()) == (20, True)
    for score in SCORES:
        assert cut[score].equals(short[score]), score


def test_a_beginning_of_the_tokenizer_s_own_is_context_for_the_first_token(model, tiny, tmp_path, scored):
    folder = shutil.copytree(model, tmp_path / "bos")
    tiny.tokenizer(folder, bos=1)
    work = LanguageModelScores.of(str(folder), device="cpu", max_tokens=16)
    found = work.annotate(tiny.rows(["w5 w6 w7", "w5"]))
    # as the same tokens without one, where the first of them is read and not predicted
    assert found["score.lm_loss"][0].as_py() == pytest.approx(scored(["w1 w5 w6 w7"])["loss"][0].as_py(), abs=2e-4)
    assert found["lm_tokens"].to_pylist() == [3, 1]
    assert not found["score.lm_loss"][1].is_valid


# ── a reference ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def counted(model, tiny, tmp_path_factory):
    def count(texts, folder=model):
        work = ReferenceTokens(model=str(folder), digest=LanguageModelScores.of(str(folder)).digest)
        return work.fit(work.summarise(tiny.rows(texts)), str(tmp_path_factory.mktemp("reference")))

    return count


def test_dcpdd_is_that_of_the_formula_with_a_smoothed_reference(model, scored, counted):
    from transformers import AutoModelForCausalLM

    reference = counted(["w1 w2 w2", "w3"])  # w2 twice, 4 tokens, 32 ids
    text = "w5 w2 w1 w2 w30"
    ids = torch.tensor([[5, 2, 1, 2, 30]])
    with torch.no_grad():
        p = torch.softmax(AutoModelForCausalLM.from_pretrained(model)(input_ids=ids).logits[0].double(), -1)
    terms = [
        -p[0, 2].item() * math.log(3 / 36),
        -p[1, 1].item() * math.log(2 / 36),
        # the second w2 is no first occurrence; w30 was never counted
        -p[3, 30].item() * math.log(1 / 36),
    ]
    found = scored([text], reference=reference, cap=10.0)["dcpdd"][0].as_py()
    assert found == pytest.approx(sum(terms) / 3, abs=2e-6)
    cap = sorted(terms)[1] * 0.9
    capped = scored([text], reference=reference, cap=cap)["dcpdd"][0].as_py()
    assert capped == pytest.approx(sum(min(term, cap) for term in terms) / 3, abs=2e-6)
    assert not scored([text])["dcpdd"][0].is_valid


def test_a_reference_of_another_tokenizer_is_refused(model, tiny, tmp_path, counted):
    folder = shutil.copytree(model, tmp_path / "other")
    tiny.tokenizer(folder, shift=3)
    work = LanguageModelScores.of(str(model), device="cpu", reference=counted(["w1 w2"], folder))
    with pytest.raises(ConfigError, match=r"counts ids of tokenizer .* the model's is"):
        work.setup()


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 1}, "max_tokens: got 1, allowed >= 2"),
        ({"min_k": 0.0}, "min_k: got 0.0, allowed above 0 to 1"),
        ({"min_k": 1.5}, "min_k: got 1.5"),
        ({"cap": 0.0}, "cap: got 0.0, allowed above 0"),
        ({"cap": math.nan}, "cap: got nan"),
        ({"batch_tokens": 0}, "batch_tokens: got 0, allowed >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LanguageModelScores(model="m", digest="d", **settings)


def test_more_tokens_than_the_context_holds_are_refused_and_how_many_it_holds_is_said(model):
    LanguageModelScores.of(str(model), device="cpu", max_tokens=512).setup()
    with pytest.raises(ConfigError, match="max_tokens: got 513, allowed <= 512"):
        LanguageModelScores.of(str(model), device="cpu", max_tokens=513).setup()


def test_files_that_change_after_the_work_was_described_are_refused(model, tiny, tmp_path):
    folder = shutil.copytree(model, tmp_path / "changing")
    work = LanguageModelScores.of(str(folder), device="cpu")
    tiny.tokenizer(folder, shift=1)
    with pytest.raises(DatasetError, match="its files changed since the run began"):
        work.annotate(tiny.rows(["w1 w2 w3"]))


def test_the_work_travels_to_another_process_as_a_few_bytes(model):
    work = LanguageModelScores.of(str(model), reference=Reference(path="p", digest="d"))
    work.facts()  # the model is loaded by now
    data = pickle.dumps(work)
    assert len(data) < 2000
    assert pickle.loads(data) == work  # noqa: S301
