"""The invariant of every criterion: the declared direction ranks good text first.

A sign that is flipped selects the worst documents and fails nothing else, so all shipped scorers are held to it here:
planted good text scores above planted bad text in the declared direction, and from the best to the worst decile of the
rank that the selection uses, the mean raw score moves the declared way.
"""

import numpy as np
import pyarrow as pa
import pytest

from penstock.generators.config import GeneratorConfig
from penstock.pipelines.plan import directions_of, parameters_of
from penstock.recipe import Recipe
from penstock.selectors.language import LanguageId
from penstock.selectors.quadmix import (
    Criterion,
    CriterionHistograms,
    DomainParameters,
    MergedHistograms,
    QuaDMixParameters,
)
from penstock.selectors.quality import QualityClassifier, QualityScore
from penstock.selectors.scorers.base import Scorer, declared
from penstock.selectors.scorers.config import AskLLMConfig, ClassifierConfig, LmConfig, NamedClassifier, Ready
from penstock.selectors.scorers.heuristic import HeuristicScore
from penstock.selectors.scorers.perplexity import PerplexityModel
from penstock.work import apply

SCORERS = ("heuristic", "perplexity of bytes", "perplexity of words", "askllm", "classifier", "lm", "quality")


@pytest.fixture(scope="module")
def scorers(planted, classifier_folder, judge_folder, reader_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    train, good = planted(200, seed=1)
    reference = train.filter(pa.array(good))
    sides = train.set_column(3, "domain", pa.array(np.where(good, "good", "bad")))
    quality = QualityClassifier(positive=("good",), negative=("bad",), seed=0)
    bytewise, words = PerplexityModel(), PerplexityModel(unit="word")
    asking = AskLLMConfig(
        model=GeneratorConfig(path=str(judge_folder)), prompt="{text} ?", characters=120, store=str(folder / "a.sqlite")
    )
    return {
        "heuristic": Ready(of=HeuristicScore()).scorer(),
        "perplexity of bytes": bytewise.fit(bytewise.summarise(reference), str(folder)),
        "perplexity of words": words.fit(words.summarise(reference), str(folder)),
        "askllm": asking.scorer(),
        "classifier": NamedClassifier(
            criterion="edu", of=ClassifierConfig(path=str(classifier_folder), label="good")
        ).scorer(),
        "lm": LmConfig(model=str(reader_folder), max_tokens=64).scorer(),
        "quality": quality.fit(quality.summarise(sides), str(folder)),
    }


def auc(score, good):
    """Share of (good, bad) pairs in which the good text has more; a tie counts half."""
    above, below = score[good][:, None], score[~good][None]
    return (above > below).mean() + 0.5 * (above == below).mean()


def ranks(batch, column, direction, folder):
    """r of every row under a selection by one criterion."""
    parameters = QuaDMixParameters(
        criteria=(Criterion(column=column, direction=direction),),
        default=DomainParameters(alpha=(1.0,), lam=10.0, omega=0.5, eta=1.0, eps=0.0),
        omega_max=1.0,
    )
    criteria = CriterionHistograms(parameters=parameters)
    merge = criteria.fit(criteria.summarise(batch), str(folder))
    merged = apply([merge], batch).batch
    histograms = MergedHistograms(parameters=parameters, seed=0)
    sample = histograms.fit(histograms.summarise(merged), str(folder))
    return np.array(apply([sample], merged).batch["quadmix.rank"].to_pylist())


def deciles(values, rank):
    """Mean value from the best to the worst tenth of the rank."""
    return np.array([part.mean() for part in np.array_split(values[np.argsort(rank, kind="stable")], 10)])


def holds(batch, column, good, direction, folder):
    """Whether a score is read the right way round when ``direction`` is declared for it."""
    score = np.array(batch[column].to_pylist(), dtype=np.float64)
    sign = 1.0 if direction == "higher" else -1.0
    steps = deciles(sign * score, ranks(batch, column, direction, folder))
    falls = bool((np.diff(steps) <= 1e-9).all()) and steps[0] > steps[-1]
    right = deciles(good.astype(float), ranks(batch, column, direction, folder))
    return falls and auc(sign * score, good) > 0.95 and right[0] > 0.9 > 0.1 > right[-1]


@pytest.mark.parametrize("name", SCORERS)
def test_every_shipped_scorer_ranks_good_text_first_and_a_flipped_sign_is_caught(scorers, planted, name, tmp_path):
    scorer = scorers[name]
    batch, good = planted(200, seed=2)
    scored = apply([scorer], batch).batch
    assert isinstance(scorer, Scorer)
    assert len(scorer.directions) > 0
    assert set(scorer.directions) <= set(scorer.adds)
    for column, direction in scorer.directions.items():
        other = {"higher": "lower", "lower": "higher"}[direction]
        assert holds(scored, column, good, direction, tmp_path), f"{column} is declared {direction}"
        assert not holds(scored, column, good, other, tmp_path), f"{column}: a flipped sign passes"


def test_the_rank_itself_falls_with_the_score_whatever_the_score_means(planted, tmp_path):
    """A wrong sign in the ranking would be caught without any scorer."""
    batch, _ = planted(100, seed=3)
    values = np.linspace(-3, 5, 100).astype(np.float32)
    batch = batch.append_column("score.x", pa.array(values))
    for direction, sign in (("higher", -1), ("lower", 1)):
        means = deciles(values, ranks(batch, "score.x", direction, tmp_path / direction))
        assert (sign * np.diff(means) > 0).all()


def test_scores_are_float32_rounded_and_never_nan(scorers, planted):
    batch, _ = planted(40, seed=4)
    texts = pa.array([*batch["text"].to_pylist()[:36], "", None, " \n ", "one"], pa.string())
    batch = batch.set_column(2, "text", texts)
    for scorer in scorers.values():
        for column, values in scorer.annotate(batch).items():
            if column.startswith("score."):
                assert values.type == pa.float32(), column
                assert not np.isnan(values.drop_null().to_numpy()).any(), column
                present = values.drop_null().to_numpy().astype(np.float64)
                assert np.abs(present - np.round(present, 6)).max(initial=0) < 1e-3, column


# ── what a recipe makes of it ────────────────────────────────────────────────────────────────────

RECIPE = """
name: a
source: {files: x.jsonl}
quality: {positive: {domains: [a]}}
scores:
  heuristic: {}
  perplexity: {reference: {domains: [a]}}
  askllm: {model: {url: http://a/v1, model: m}}
  classifier: {toxicity: {path: /models/t, label: toxic, direction: lower}, edu: {path: /models/e}}
  lm: {model: /models/lm}
"""


def criteria_of(text):
    recipe = Recipe.parse(RECIPE + text)
    return {c.column: c.direction for c in parameters_of(recipe.select, directions_of(recipe)).criteria}


def test_a_direction_that_is_left_out_is_the_declared_one():
    named = "quality heuristic perplexity askllm toxicity edu lm_loss language".split()  # noqa: SIM905
    found = criteria_of("select: {criteria: {" + ", ".join(f"{name}: {{}}" for name in named) + "}}")
    assert found == {
        "score.quality": "higher", "score.heuristic": "higher", "score.perplexity": "lower", "score.askllm": "higher",
        "score.toxicity": "lower", "score.edu": "higher", "score.lm_loss": "lower", "score.language": "higher",
    }  # fmt: skip


def test_a_direction_that_is_given_counts():
    assert criteria_of("select: {criteria: {perplexity: {direction: higher}}}") == {"score.perplexity": "higher"}


def test_directions_of_built_in_scores_are_declared_where_they_are_made():
    assert declared([QualityScore, LanguageId]) == {"quality": "higher", "language": "higher"}
