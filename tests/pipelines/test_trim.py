"""Repeated lines, paragraphs and passages cut over a whole corpus, as a step."""

from __future__ import annotations

import functools

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.dataset import Dataset, read_part
from penstock.errors import ConfigError
from penstock.pipelines import trim
from penstock.pipelines.trim import EmitUnits, Trimmed
from penstock.selectors.normalise import content_hashes
from penstock.selectors.repeated import RepeatedLines, RepeatedParagraphs
from penstock.selectors.substring import RepeatedSubstrings
from penstock.sources.base import documents_batch

MENU = "Home | News | Contact | About us"
LINES = RepeatedLines(min_characters=5)


@pytest.fixture
def small(monkeypatch):
    """Batches of two rows, hash ranges of next to nothing, and keys joined all the time."""
    monkeypatch.setattr(trim, "read_part", functools.partial(read_part, rows=2))
    monkeypatch.setattr(trim, "BYTES_PER_RANGE", 1000)
    monkeypatch.setattr(trim, "PENDING", 1)


def corpus(lab, *texts, sizes=(), cut=None, ids=None):
    ids = ids or [f"c#{i:03d}" for i in range(len(texts))]
    batch = documents_batch(ids, texts, source="files", domains=["web"] * len(texts))
    return lab.given("corpus", documents=cut(batch, sizes) if cut else [batch])


def trimmed(lab, *levels, min_characters=1, **settings):
    return lab.run(Trimmed("trimmed", "corpus", levels, min_characters), **settings)


def texts(made):
    return dict(zip(*(made.read("documents")[name].to_pylist() for name in ("doc_id", "text")), strict=True))


def test_the_first_line_in_the_order_of_ids_stays_wherever_its_part_is(lab, cut, small):
    corpus(
        lab,
        f"{MENU}\nthe last text",
        f"text in the middle\n{MENU}\nmore",
        f"{MENU}\nthe first text\n{MENU}",
        sizes=[1, 1],
        cut=cut,
        ids=["c#3", "c#2", "c#10"],  # "c#10" is first as text
    )
    made = trimmed(lab, LINES)
    assert texts(made) == {
        "c#3": "the last text",
        "c#2": "text in the middle\nmore",
        "c#10": f"{MENU}\nthe first text",
    }
    stats = made.manifest.stats
    assert stats["trimmed"] == {"repeated_lines": {"cuts": 3, "bytes": 3 * len(MENU) + 2}}
    assert stats["documents_trimmed"] == 3
    assert stats["bytes_trimmed"] == 3 * len(MENU) + 3  # and the break before the last one
    assert stats["repeated"] == {"repeated_lines": [{"count": 4, "bytes": len(MENU), "doc_id": "c#10", "text": MENU}]}
    assert (
        made.read("documents")["content_hash"].to_pylist()
        == content_hashes(made.read("documents")["text"].combine_chunks()).to_pylist()
    )


def test_rare_lines_stay_everywhere_and_frequent_ones_go_everywhere(lab, cut, small):
    corpus(lab, *(f"{MENU}\ntext {i}" + "\nsaid twice" * (i < 2) for i in range(4)), sizes=[3], cut=cut)
    made = trimmed(lab, RepeatedLines(keep="rare", max_count=3, min_characters=5))
    assert list(texts(made).values()) == ["text 0\nsaid twice", "text 1\nsaid twice", "text 2", "text 3"]
    made = trimmed(lab, RepeatedLines(keep="rare", max_count=4, min_characters=5))
    assert "trimmed" not in made.manifest.stats
    assert texts(made)["c#003"] == f"{MENU}\ntext 3"


def test_paragraphs_are_cut_whole_and_their_lines_stay_elsewhere(lab):
    footer = "All rights reserved.\nDo not copy this."
    corpus(lab, f"one text\n\n{footer}", f"two texts\n\n{footer}\n\nthree", "All rights reserved.\nBut for this.")
    made = trimmed(lab, RepeatedParagraphs(min_characters=5))
    assert list(texts(made).values()) == [
        f"one text\n\n{footer}",
        "two texts\n\nthree",
        "All rights reserved.\nBut for this.",
    ]


def test_a_passage_inside_two_documents_stays_in_the_first(lab, cut, small):
    passage = " ".join(f"p{i}" for i in range(60))
    corpus(
        lab,
        f"Here begins {passage} and ends.",
        "nothing of it",
        f"Quoted: {passage.upper()}! So it is.",
        sizes=[1],
        cut=cut,
    )
    made = trimmed(lab, RepeatedSubstrings(min_words=50, window=1))
    assert list(texts(made).values()) == [f"Here begins {passage} and ends.", "nothing of it", "Quoted: So it is."]


def test_all_levels_read_the_same_text_and_their_cuts_add_up(lab):
    passage = " ".join(f"p{i}" for i in range(12))
    corpus(lab, f"{MENU}\nx {passage} y", f"{MENU}\na {passage} b")
    made = trimmed(lab, LINES, RepeatedSubstrings(min_words=12, window=1))
    assert list(texts(made).values()) == [f"{MENU}\nx {passage} y", "a b"]
    assert set(made.manifest.stats["trimmed"]) == {"repeated_lines", "repeated_substrings"}


def test_documents_left_too_short_are_dropped_and_short_ones_that_were_not_cut_stay(lab):
    corpus(lab, f"{MENU}\nenough of a text", f"{MENU}\nshort", "tiny", MENU, f"{MENU}\njust 8 é")
    made = trimmed(lab, LINES, min_characters=8)
    assert texts(made) == {"c#000": f"{MENU}\nenough of a text", "c#002": "tiny", "c#004": "just 8 é"}
    assert made.manifest.counts.dropped == {"trimmed": {"too_short_after_trimming": 2}}
    assert [(r["doc_id"], r["step"], r["text"]) for r in made.read("dropped").to_pylist()] == [
        ("c#001", "trimmed", f"{MENU}\nshort"),
        ("c#003", "trimmed", MENU),
    ]


def test_learned_ranges_move_with_the_text(lab):
    batch = documents_batch(["a", "b"], [MENU, f"{MENU}\nlearn this"], source="files", domains=["web"] * 2)
    learn = pa.array([None, [len(MENU) + 1, len(MENU) + 6]], pa.list_(pa.int32()))
    lab.given("corpus", documents=[batch.set_column(batch.schema.names.index("learn"), "learn", learn)])
    made = trimmed(lab, LINES)
    assert made.read("documents").select(["text", "learn"]).to_pylist() == [
        {"text": MENU, "learn": None},
        {"text": "learn this", "learn": [0, 5]},
    ]


@pytest.mark.parametrize(
    ("dropped", "text"), [("ids", None), ("sample", "<EMAIL> wrote it"), ("full", "ann@example.org wrote it")]
)
def test_the_most_repeated_texts_are_shown_as_the_recipe_says(lab, dropped, text):
    corpus(lab, *["ann@example.org wrote it"] * 3, "other line\nother line")
    made = trimmed(lab, LINES, dropped=dropped)
    rows = made.read("repeated").sort_by([("count", "descending")]).to_pylist()
    assert [(r["count"], r["doc_id"]) for r in rows] == [(3, "c#000"), (2, "c#003")]
    assert rows[0]["text"] == text
    shown = made.manifest.stats["repeated"]["repeated_lines"]
    assert shown[0]["text"] == (None if text is None else "<EMAIL> wrote it")


def test_only_the_most_repeated_texts_are_shown(lab, monkeypatch):
    monkeypatch.setattr(trim, "SHOWN", 3)
    monkeypatch.setattr(trim, "TOP", 2)
    corpus(lab, *("\n".join(f"line number {i}" for i in range(n, 6)) for n in range(6)))
    made = trimmed(lab, LINES)
    assert sorted(made.read("repeated")["count"].to_pylist()) == [4, 5, 6]
    assert [r["count"] for r in made.manifest.stats["repeated"]["repeated_lines"]] == [6, 5]


LINE = st.sampled_from([MENU, MENU.upper(), "some line", "another line", "", "x", "a longer line of its own"])


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(LINE, max_size=6).map("\n".join), min_size=1, max_size=7),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(["first", "rare"]),
)
def test_the_outcome_is_that_of_a_dictionary_and_does_not_depend_on_parts(new_lab, cut, small, documents, sizes, keep):
    level = RepeatedLines(keep=keep, max_count=2, min_characters=5)
    counts, expected = {}, []
    for text in documents:
        for line in text.split("\n"):
            counts[line.lower()] = counts.get(line.lower(), 0) + 1
    seen = set()
    for text in documents:
        kept = []
        for line in text.split("\n"):
            known = line.lower() in seen if keep == "first" else counts[line.lower()] > 2
            if len(line) < 5 or not known:
                kept.append(line)
            seen.add(line.lower())
        expected.append([line for line in kept if line])
    lab = new_lab()
    corpus(lab, *documents, sizes=sizes, cut=cut)
    made = trimmed(lab, level, max_dropped={"default": 1.0})
    left = texts(made) if "documents" in made.manifest.tables else {}
    gone = {r["doc_id"] for r in made.read("dropped").to_pylist()} if "dropped" in made.manifest.tables else set()
    for i, lines in enumerate(expected):
        name = f"c#{i:03d}"
        assert (name in left) != (name in gone)
        assert [line for line in left.get(name, "").split("\n") if line] == lines


def test_a_line_repeated_a_million_times_is_one_row_of_keys(lab):
    """The judge of the most common line reads a row a part, however often the line occurs."""
    rows = 200
    corpus(lab, *["\n".join([MENU] * 5000) for _ in range(rows)])
    made = trimmed(lab, LINES, max_dropped={"default": 1.0})
    assert texts(made) == {min(f"c#{i:03d}" for i in range(rows)): MENU}
    assert made.manifest.counts.dropped == {"trimmed": {"too_short_after_trimming": rows - 1}}
    assert made.manifest.stats["repeated"]["repeated_lines"][0]["count"] == 5000 * rows


def test_keys_of_a_part_are_joined_before_they_are_written(lab):
    from penstock.pipelines.documents import part_splits
    from penstock.pipelines.passes import Pass, run_split

    made = corpus(lab, *["\n".join([MENU] * 500) for _ in range(20)])
    split = part_splits(made.table("documents"))[0]
    receipt = run_split(Pass(made.folder, "aaaaaaaaaaaa/units", EmitUnits(made.folder, (LINES,), 1)), split)
    assert receipt.parts["repeated_lines"].file.rows == 1


def test_parts_that_did_not_change_are_taken_over_and_those_whose_lines_did_are_not(lab, cut):
    def files():
        return [file.path.rpartition("/")[2] for file in Dataset(str(lab.root / "trimmed")).table("documents").files]

    start = ["a first text", "a second text", "a third text"]
    corpus(lab, *start, sizes=[1, 1], cut=cut)
    trimmed(lab, LINES)
    before = files()
    # the last document repeats the second: only its own part has to change
    corpus(lab, *start, "a second text\nof another", sizes=[1, 1, 1], cut=cut)
    made = trimmed(lab, LINES)
    assert texts(made)["c#003"] == "of another"
    after = files()
    assert [name in before for name in after] == [True, False, True, False]


@pytest.mark.parametrize(
    ("levels", "least", "message"),
    [((), 1, "levels: got none"), ((LINES,), 0, "min_characters: got 0, allowed >= 1")],
)
def test_a_step_that_cannot_work_is_refused_in_words(levels, least, message):
    with pytest.raises(ConfigError, match=message):
        Trimmed("trimmed", "corpus", levels, least)
