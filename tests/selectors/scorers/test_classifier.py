"""A sequence classifier as a criterion, against transformers' own pipeline of tokenizer and model."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.scorers.classifier import ClassifierScore, output_score
from penstock.selectors.scorers.config import ClassifierConfig, NamedClassifier

TEXTS = [
    "The old miller explains the slow water because it was the last one of the year.",
    "buy cheap pills casino bonus $$$",
    "the river " * 80,
    "a letter from the town",
    "click here",
]


def rows(*texts):
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})


def scorer(folder, **changes):
    return NamedClassifier(criterion="edu", of=ClassifierConfig(path=str(folder), **changes)).scorer()


def score(work, *texts):
    return work.annotate(rows(*texts))["score.edu"].to_pylist()


@pytest.fixture(scope="module")
def reference(classifier_folder):
    """Logits of texts one by one, by transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier_folder)

    def logits(text, limit=64):
        with torch.no_grad():
            ids = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt", return_token_type_ids=False)
            return model(**ids).logits[0].double().numpy()

    return logits


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_scores_are_the_label_s_probability_whatever_shares_a_batch(classifier_folder, reference, batch_tokens):
    wanted = [np.exp(z[1]) / np.exp(z).sum() for z in map(reference, TEXTS)]
    for label in ("good", 1):
        work = scorer(classifier_folder, label=label, batch_tokens=batch_tokens)
        assert score(work, *TEXTS) == pytest.approx(wanted, abs=2e-4)
    assert score(scorer(classifier_folder, label="poor"), *TEXTS) == pytest.approx([1 - p for p in wanted], abs=2e-4)


def test_texts_are_cut_at_max_tokens_and_at_what_the_model_can_read(classifier_folder, reference):
    z = reference(TEXTS[2], 8)
    wanted = np.exp(z[1]) / np.exp(z).sum()
    assert score(scorer(classifier_folder, label="good", max_tokens=8), TEXTS[2]) == [pytest.approx(wanted, abs=2e-4)]
    assert score(scorer(classifier_folder, label="good", max_tokens=512), TEXTS[2])[0] is not None


def test_blank_and_null_texts_have_no_score(classifier_folder):
    assert score(scorer(classifier_folder, label="good"), "", None, " \n", "a letter")[:3] == [None] * 3


def test_a_regression_head_gives_its_number(classifier_folder, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    shutil.copytree(classifier_folder, tmp_path / "one")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(
            classifier_folder, num_labels=1, ignore_mismatched_sizes=True
        )
    model.save_pretrained(tmp_path / "one")
    tokenizer = AutoTokenizer.from_pretrained(classifier_folder)
    with torch.no_grad():
        ids = tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
        wanted = float(model.eval()(**ids).logits[0, 0])
    assert score(scorer(tmp_path / "one"), TEXTS[0]) == [pytest.approx(wanted, abs=2e-4)]
    with pytest.raises(ConfigError, match="label: got 'good' for a model of one output, allowed none"):
        scorer(tmp_path / "one", label="good").setup()


def test_outputs_become_scores_by_the_kind_of_head():
    z = np.array([[1.0, 3.0, -2.0], [0.0, 0.0, 0.0]])
    assert output_score(z, None, None).tolist() == [1.0, 0.0]
    assert output_score(z, 1, None) == pytest.approx(np.exp(z[:, 1]) / np.exp(z).sum(1))
    assert output_score(z, 1, "multi_label_classification") == pytest.approx(1 / (1 + np.exp(-z[:, 1])))
    assert np.isfinite(output_score(z * 1e4, 1, "multi_label_classification")).all()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "got none for a model of 2 labels, allowed 'poor', 'good'"),
        ("great", "got 'great', allowed 'poor', 'good'"),
        (7, "got 7"),
    ],
)
def test_a_label_that_the_model_does_not_have_is_refused_with_those_it_has(classifier_folder, label, message):
    with pytest.raises(ConfigError, match=f"classifier edu label: {message}"):
        scorer(classifier_folder, label=label).setup()


def test_a_path_that_is_no_sequence_classifier_is_refused(tmp_path, judge_folder, classifier_folder):
    with pytest.raises(ConfigError, match=r"no config.json"):
        scorer(tmp_path)
    with pytest.raises(ConfigError, match="is LlamaForCausalLM, no sequence classifier; give a local folder"):
        scorer(judge_folder).setup()
    shutil.copytree(classifier_folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"cannot be loaded.*safetensors"):
        scorer(tmp_path / "pickled", label="good").setup()
    shutil.copytree(classifier_folder, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    (tmp_path / "mute" / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer that can be loaded"):
        scorer(tmp_path / "mute", label="good").setup()


def test_a_folder_that_changed_since_is_refused(tmp_path, classifier_folder):
    shutil.copytree(classifier_folder, tmp_path / "copy")
    work = scorer(tmp_path / "copy", label="good")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"id2label": {"0": "good", "1": "poor"}}))
    with pytest.raises(DatasetError, match="its files changed since the run began"):
        work.setup()


def test_settings_are_checked_when_they_are_written_down():
    with pytest.raises(ConfigError, match="max_tokens: got 1, allowed >= 4"):
        ClassifierConfig(path="x", max_tokens=1)
    with pytest.raises(ConfigError, match="batch_tokens: got 0"):
        ClassifierScore(criterion="a", path="", digest="", batch_tokens=0)


def test_what_is_said_for_the_key_names_no_place_and_not_the_direction():
    one = NamedClassifier(criterion="edu", of=ClassifierConfig(path="/models/a", label=1))
    same = NamedClassifier(criterion="edu", of=ClassifierConfig(path="/b", label=1, direction="lower", batch_tokens=5))
    assert one.said() == same.said()
    assert "/models" not in json.dumps(one.said())
    assert one.said() != NamedClassifier(criterion="edu", of=ClassifierConfig(path="/models/a", label=2)).said()
    assert same.directions == {"score.edu": "lower"}
