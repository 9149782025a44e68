"""Language identification. Run: pytest tests/selectors/test_language.py"""

import pickle

import pyarrow as pa
import pytest

from penstock.errors import ConfigError
from penstock.selectors.language import LanguageFilter, LanguageId

ENGLISH = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree."
SAMPLES = {
    "en": ENGLISH,
    "de": "Der schnelle braune Fuchs springt über den faulen Hund und ruht sich dann im Schatten aus.",
    "fr": "Le renard brun saute par-dessus le chien paresseux, puis il se repose à l'ombre d'un arbre.",
    "es": "El zorro marrón salta sobre el perro perezoso y luego descansa a la sombra de un árbol.",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку и отдыхает в тени старого дерева.",
    "ja": "素早い茶色の狐がのろまな犬を飛び越えて、それから木陰で休みます。",
}


def batch(rows: list[str | None]) -> pa.RecordBatch:
    column = pa.array(["Vorher", *rows], pa.string())
    return pa.record_batch({"text": column})[1:]


def identify(rows: list[str | None], **options: int) -> list[tuple[str, float]]:
    out = LanguageId(**options).annotate(batch(rows))
    assert out["language"].type == pa.string()
    assert out["score.language"].type == pa.float32()
    return list(zip(out["language"].to_pylist(), out["score.language"].to_pylist(), strict=True))


def test_six_languages_are_told_apart_with_confidence():
    found = identify(list(SAMPLES.values()))
    assert [language for language, _ in found] == list(SAMPLES)
    assert all(0.75 < confidence <= 1.0 for _, confidence in found)


def test_blank_rows_are_undetermined_with_confidence_zero():
    assert identify(["", None, " \n\u3000"]) == [("und", 0.0)] * 3


def test_newlines_are_read_as_spaces():
    assert identify([ENGLISH.replace(" ", "\n")]) == identify([ENGLISH])


def test_only_the_first_characters_are_read():
    mixed = ENGLISH + " " + SAMPLES["ru"] * 20
    assert identify([mixed])[0][0] == "ru"
    assert identify([mixed], characters=len(ENGLISH)) == identify([ENGLISH])
    # characters, not bytes
    assert identify([SAMPLES["ru"] + ENGLISH * 9], characters=len(SAMPLES["ru"])) == identify([SAMPLES["ru"]])


def test_a_row_gets_the_same_answer_in_any_batch():
    rows = [*SAMPLES.values(), ""]
    assert identify(rows) == [identify([row])[0] for row in rows]


def test_an_empty_batch_gives_empty_columns():
    assert identify([]) == []


def test_filter_names_the_reason():
    table = pa.record_batch(
        {
            "language": pa.array(["en", "en", "fr", "fr", "und", None, "en", "de"]),
            "score.language": pa.array([0.7, 0.6, 0.99, 0.1, 0.0, 0.9, None, 0.65], pa.float32()),
        }
    )
    work = LanguageFilter(languages=("en", "de"), min_confidence=0.65)
    assert work.decide(table).to_pylist() == [
        None,
        "language_unsure",
        "language_not_allowed",
        "language_not_allowed",
        "language_not_allowed",
        "language_not_allowed",
        "language_unsure",
        None,
    ]
    empty = work.decide(table[:0])
    assert (empty.type, len(empty)) == (pa.string(), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LanguageId(characters=0), "characters: got 0, allowed >= 1"),
        (lambda: LanguageFilter(languages=()), r"languages: got \(\), allowed one or more"),
        (lambda: LanguageFilter(languages="en"), "languages: got 'en'"),
        (lambda: LanguageFilter(languages=("en-US",)), "two or three small letters"),
        (lambda: LanguageFilter(languages=("en",), min_confidence=65), "min_confidence: got 65, allowed 0 to 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_both_are_picklable_values():
    for work in (LanguageId(characters=50), LanguageFilter(languages=("en",))):
        assert pickle.loads(pickle.dumps(work)) == work  # noqa: S301


def test_a_language_may_have_a_threshold_of_its_own():
    work = LanguageFilter(languages=("en", "de", "fr"), min_confidence=0.65, thresholds={"de": 0.5, "fr": 0.9})
    rows = [("en", 0.65), ("en", 0.64), ("de", 0.5), ("de", 0.49), ("fr", 0.9), ("fr", 0.89), ("it", 1.0), (None, 1.0)]
    rows += [("de", None)]
    languages, scores = zip(*rows, strict=True)
    batch = pa.record_batch({"language": pa.array(languages), "score.language": pa.array(scores, pa.float32())})
    unsure, other = "language_unsure", "language_not_allowed"
    assert work.decide(batch).to_pylist() == [None, unsure, None, unsure, None, unsure, other, other, unsure]


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"fr": 0.5}, "thresholds: got 'fr', allowed en, de, which are kept; add it to languages"),
        ({"de": 50}, "thresholds.de: got 50, allowed 0 to 1"),
        ({"de": -0.1}, "thresholds.de: got -0.1"),
    ],
)
def test_bad_thresholds_are_refused(thresholds, message):
    with pytest.raises(ConfigError, match=message):
        LanguageFilter(languages=("en", "de"), thresholds=thresholds)
