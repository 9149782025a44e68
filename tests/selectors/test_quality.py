"""The quality classifier: what it learns, what it refuses, and that sampling decides nothing twice."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import hash_ids, stream
from penstock.selectors.quality import QualityClassifier, QualityScore

GOOD = "the theorem follows because every bounded sequence has a convergent subsequence by compactness".split()  # noqa: SIM905
POOR = "click here now best cheap deal free win!!! buy $$$ offer subscribe limited".split()  # noqa: SIM905
SHARED = "and of a to in is it for with as".split()  # noqa: SIM905


def corpus(rows: int = 400, seed: int = 0) -> pa.RecordBatch:
    """Half books, half adverts, a tenth outside train; neither side's words are exclusive."""
    rng = stream(seed, "corpus")
    texts, domains, splits = [], [], []
    for i in range(rows):
        words = (GOOD, POOR)[i % 2] * 2 + SHARED * 3 + (POOR, GOOD)[i % 2]
        texts.append(" ".join(rng.choice(words, 40)))
        domains.append(("books", "adverts")[i % 2])
        splits.append("test" if i % 10 == 9 else "train")
    ids = [f"f#{seed}-{i}" for i in range(rows)]
    return pa.RecordBatch.from_pydict(
        {"doc_id": ids, "id_hash": hash_ids(ids), "text": texts, "domain": domains, "split": splits}
    )


def texts(*values: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": pa.array(values, pa.string())})


def scores(work: QualityScore, batch: pa.RecordBatch) -> list[float]:
    return work.annotate(batch)["score.quality"].to_pylist()


WORK = QualityClassifier(positive=("books",), negative=("adverts",), seed=1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> QualityScore:
    return WORK.fit(WORK.summarise(corpus()), str(tmp_path_factory.mktemp("quality")))


def test_unseen_documents_of_the_positive_side_score_higher(fitted: QualityScore) -> None:
    batch = corpus(rows=200, seed=9)
    out = np.array(scores(fitted, batch))
    assert out[::2].mean() > 0.8 > 0.2 > out[1::2].mean()


def test_swapped_sides_give_the_opposite_score(fitted: QualityScore, tmp_path: Path) -> None:
    swapped = QualityClassifier(positive=("adverts",), negative=("books",), seed=1)
    other = swapped.fit(swapped.summarise(corpus()), str(tmp_path))
    batch = corpus(rows=50, seed=9)
    out = np.array(scores(fitted, batch))
    assert np.corrcoef(out, scores(other, batch))[0, 1] < -0.95


def test_scores_are_float32_in_the_unit_interval_rounded_to_four_digits(fitted: QualityScore) -> None:
    out = fitted.annotate(corpus(rows=60, seed=3))["score.quality"]
    assert out.type == pa.float32()
    values = out.to_numpy().astype(np.float64)
    assert ((values >= 0) & (values <= 1)).all()
    assert np.abs(values - np.round(values, 4)).max() < 1e-7


def test_the_held_out_fifth_is_reported_and_is_not_trained_on(fitted: QualityScore) -> None:
    facts = fitted.facts()
    assert facts["rows"] == {"positive": {"train": 160, "held_out": 40}, "negative": {"train": 128, "held_out": 32}}
    assert facts["converged"]
    assert 0.9 < facts["held_out"]["auc"] <= 1.0
    assert 0.8 < facts["held_out"]["accuracy"] <= 1.0


def test_labels_without_meaning_have_a_held_out_auc_near_one_half(tmp_path: Path) -> None:
    batch = corpus(rows=1000)
    coin = np.array(["books", "adverts"])[stream(5).integers(0, 2, 1000)]
    batch = batch.set_column(3, "domain", pa.array(coin))
    auc = WORK.fit(WORK.summarise(batch), str(tmp_path)).facts()["held_out"]["auc"]
    assert 0.3 < auc < 0.7  # the training rows themselves would score above 0.9


def test_only_training_rows_of_the_named_domains_are_sampled() -> None:
    batch = corpus()
    batch = batch.set_column(3, "domain", pa.array(["elsewhere"] * 20 + batch["domain"].to_pylist()[20:]))
    rows = WORK.summarise(batch).rows
    assert rows.num_rows == 342  # 380 rows, less the tenth that is test
    assert {(r["domain"], r["label"]) for r in rows.to_pylist()} == {("books", 1), ("adverts", 0)}
    wanted = {r["doc_id"] for r in batch.to_pylist() if r["split"] == "train" and r["domain"] != "elsewhere"}
    assert set(rows["doc_id"].to_pylist()) == wanted


@pytest.mark.parametrize("shards", [3, 8])
def test_shards_in_any_order_give_the_same_digest(fitted: QualityScore, tmp_path: Path, shards: int) -> None:
    batch = corpus()
    size = -(-batch.num_rows // shards)
    parts = [WORK.summarise(batch.slice(a, size)) for a in range(0, batch.num_rows, size)][::-1]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert WORK.fit(merged, str(tmp_path)).digest == fitted.digest


def test_a_row_has_one_score_however_batches_are_cut(fitted: QualityScore) -> None:
    batch = corpus(rows=30, seed=4)
    assert scores(fitted, batch.slice(0, 7)) + scores(fitted, batch.slice(7)) == scores(fitted, batch)


def test_nothing_behind_the_prefix_counts(tmp_path: Path) -> None:
    work = QualityClassifier(positive=("books",), negative=("adverts",), seed=1, prefix_bytes=300)
    score = work.fit(work.summarise(corpus()), str(tmp_path))
    head = "and of to in is it a " * 20  # 420 bytes, words of neither side
    a, b = scores(score, texts(head, head + " click here now" * 1000))
    assert a == b
    assert a != scores(score, texts("click " + head))[0]


def test_odd_texts_have_a_score_and_an_empty_batch_has_none(fitted: QualityScore) -> None:
    out = scores(fitted, texts("", "   ", "数学の定理", "👍👍", "é\u2028ü", "a" * 100_000))
    assert len(out) == 6
    assert out[0] == out[1]
    assert all(0 <= x <= 1 for x in out)
    assert fitted.annotate(texts())["score.quality"].equals(pa.array([], pa.float32()))


def test_the_score_pickles_without_its_weights(fitted: QualityScore) -> None:
    assert len(pickle.dumps(fitted)) < 500
    batch = texts("the theorem follows")
    assert scores(pickle.loads(pickle.dumps(fitted)), batch) == scores(fitted, batch)  # noqa: S301


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    score = WORK.fit(WORK.summarise(corpus(seed=77)), str(tmp_path))
    file = Path(score.path.removesuffix(".json") + ".safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatasetError, match="got sha256"):
        score.setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive": ()}, "quality positive: got no domain"),
        ({"negative": ()}, "quality negative: got no domain"),
        ({"negative": ("books",)}, "got ['books'] on both sides"),
        ({"rows_per_side": 3}, "rows_per_side: got 3, allowed >= 20"),
        ({"prefix_bytes": 0}, "prefix_bytes: got 0, allowed >= 1"),
        ({"inverse_penalty": 0.0}, "inverse_penalty: got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        QualityClassifier(**{"positive": ("books",), "negative": ("adverts",), "seed": 0} | settings)
    assert message in str(error.value)


@pytest.mark.parametrize(("rows", "count"), [(0, 0), (38, 19)])
def test_a_side_with_too_few_rows_is_refused_with_its_count(tmp_path: Path, rows: int, count: int) -> None:
    batch = corpus(rows=rows) if rows else corpus(rows=2).slice(0, 0)
    batch = batch.set_column(4, "split", pa.array(["train"] * rows, pa.string()))
    with pytest.raises(ConfigError) as error:
        WORK.fit(WORK.summarise(batch), str(tmp_path))
    assert f"quality positive: got {count} training row(s) of books, allowed >= 20" in str(error.value)
