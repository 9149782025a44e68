"""Benchmark items planted in documents, and look-alikes that must pass."""

import dataclasses
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors import minhash_kernels
from penstock.selectors.benchmark_index import IndexSettings, Item, save_index
from penstock.selectors.decontaminate import Decontaminate, excision
from penstock.selectors.folded import folded_words
from penstock.selectors.minhash import permutations

RNG = random.Random(7)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["".join(RNG.choices(LETTERS, k=RNG.randint(2, 9))) for _ in range(3000)]


def prose(rng: random.Random, words: int, start: int = 0, stop: int = 3000) -> str:
    """Sentences of random words of a part of the vocabulary, in lines of some ten words."""
    out = []
    for i in range(words):
        word = VOCABULARY[int(start + (stop - start) * rng.random() ** 2)]
        out.append(word.capitalize() + "," if rng.random() < 0.1 else word)
        out.append("\n" if i % 10 == 9 else " ")
    return "".join(out).strip()


@pytest.fixture
def made(tmp_path):
    """``made(items, index={...}, **options)`` is Decontaminate over an index of the items."""

    def make(items, index=None, **options):
        chosen = IndexSettings(**(index or {}))
        saved = save_index(str(tmp_path), [i if isinstance(i, Item) else Item(*i) for i in items], chosen)
        return Decontaminate(path=saved.path, digest=saved.digest, index=chosen, **options)

    return make


def batch_of(*texts: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([f"d#{i}" for i in range(len(texts))], pa.string()), pa.array(texts, pa.string())], ["doc_id", "text"]
    )


def rows(screened) -> list[tuple]:
    """(doc, item, field, kind) of what was found."""
    return [(r["doc_id"], r["item"], r["field"], r["kind"]) for r in screened.contamination.to_pylist()]


# ── planted items ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def planted():
    """Twenty items of 40 words, and a long page for each to stand in, of other words."""
    rng = random.Random(1)
    items = [Item("bench", f"b#{i}", prose(rng, 40, 0, 1500).replace("\n", " ")) for i in range(20)]
    pages = [prose(rng, 2000, 1500, 3000) for _ in items]
    return items, pages


def punctuated(text: str, rng: random.Random) -> str:
    return " -- ".join(w.upper() if rng.random() < 0.5 else f"“{w}”" for w in text.split())


def one_in(every: int):
    def edit(text: str, rng: random.Random) -> str:
        return " ".join(
            "zzz" + rng.choice(LETTERS) if i % every == every // 2 else w for i, w in enumerate(text.split())
        )

    return edit


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda text, rng: text, {"ngram"}),
        (punctuated, {"ngram"}),
        (lambda text, rng: text.replace(" ", "\n\n"), {"ngram"}),
        (one_in(20), {"ngram"}),
        (one_in(12), {"near"}),
    ],
    ids=["verbatim", "punctuation and case", "one word a line", "a word in 20 changed", "a word in 12 changed"],
)
def test_every_planted_item_is_found_inside_a_long_page(made, planted, change, kinds):
    items, pages = planted
    work = made(items, policy="report")
    rng = random.Random(2)
    texts = []
    for item, page in zip(items, pages, strict=True):
        middle = page.index("\n", len(page) // 2)
        texts.append(page[:middle] + "\n\n" + change(item.question, rng) + "\n\n" + page[middle:])
    found = rows(work.screen(batch_of(*texts)))
    assert {(doc, item) for doc, item, _, _ in found} == {(f"d#{i}", f"b#{i}") for i in range(20)}
    assert {kind for _, _, _, kind in found} == kinds


def test_a_word_changed_in_every_twelve_escapes_where_near_duplicates_are_switched_off(made, planted):
    items, _ = planted
    rng = random.Random(2)
    texts = [one_in(12)(item.question, rng) for item in items]
    assert rows(made(items, policy="report", near=None).screen(batch_of(*texts))) == []


def test_ten_thousand_clean_documents_give_no_hit(made):
    rng = random.Random(3)
    # the benchmark shares its vocabulary with the corpus, and no run of twelve words
    items = [Item("bench", f"b#{i}", prose(rng, 40)) for i in range(200)]
    texts = [prose(rng, 60) for _ in range(10_000)]
    work = made(items, {"ngram": 12})
    screened = work.screen(batch_of(*texts))
    assert screened.contamination.num_rows == 0
    assert screened.reasons.null_count == 10_000


def test_a_paraphrase_in_other_words_is_not_found(made):
    work = made(
        [("bench", "b#0", "A farmer sells nine baskets of red apples for four dollars each at the market today")]
    )
    other = "At today's market someone who grows fruit gets $4 for every one of 9 baskets; what are his earnings?"
    assert rows(work.screen(batch_of(other))) == []


def test_phrases_that_documents_share_with_an_item_are_no_hit(made):
    question = "Answer the following multiple choice question about history : " + " ".join(f"h{i}" for i in range(30))
    work = made([("bench", "b#0", question)])
    hard = [
        "Answer the following multiple choice question about history : and then something else entirely follows here",
        question.split(" : ")[1].split(" h12 ")[0],  # twelve words of it, one less than an n-gram
        " ".join(f"h{i} and or but so" for i in range(30)),
    ]
    assert rows(work.screen(batch_of(*hard))) == []
    # the same words in another order are alike as sets, and only as sets
    shuffled = batch_of(" ".join(reversed(question.split())))
    assert rows(work.screen(shuffled)) == [("d#0", "b#0", "question", "near")]
    assert rows(dataclasses.replace(work, near=None).screen(shuffled)) == []
    assert rows(work.screen(batch_of(question.replace(" h12 ", " h12, ")))) == [("d#0", "b#0", "question", "ngram")]


# ── short items ──────────────────────────────────────────────────────────────────────────────────


def test_a_short_item_is_matched_whole_and_one_of_three_words_not_at_all(made):
    work = made(
        [("bench", "b#0", "What is the capital city of the old northern kingdom"), ("bench", "b#1", "Who was first")]
    )
    page = "lorem ipsum dolor " * 200
    texts = [
        page + "so: what is the CAPITAL city, of the old northern kingdom? " + page,
        page + "what is the capital city of the old northern " + page,
        page + "who was first " + page,
    ]
    screened = work.screen(batch_of(*texts))
    assert rows(screened) == [("d#0", "b#0", "question", "whole")]
    hit = screened.contamination.to_pylist()[0]
    assert (
        texts[0].encode()[hit["start"] : hit["stop"]].decode()
        == "what is the CAPITAL city, of the old northern kingdom"
    )
    assert hit["coverage"] == 1.0


def test_an_item_one_word_short_of_an_ngram_is_matched_whole(made):
    twelve = " ".join(VOCABULARY[:12])
    work = made([("bench", "b#0", twelve)], near=None)
    assert rows(work.screen(batch_of(f"x {twelve} y"))) == [("d#0", "b#0", "question", "whole")]
    assert rows(work.screen(batch_of(f"x {' '.join(VOCABULARY[:11])} y"))) == []


def test_a_short_item_with_one_word_changed_is_a_near_duplicate_where_it_is_a_line(made):
    item = " ".join(VOCABULARY[:12])
    changed = item.replace(VOCABULARY[5], "other")
    work = made([("bench", "b#0", item)])
    screened = work.screen(batch_of(f"before it\n{changed}\nafter it", f"before it {changed} after it"))
    assert rows(screened) == [("d#0", "b#0", "question", "near")]
    assert screened.contamination["coverage"].to_pylist() == pytest.approx([11 / 13])
    assert rows(dataclasses.replace(work, near=0.85).screen(batch_of(changed))) == []


# ── what is reported ─────────────────────────────────────────────────────────────────────────────

SIX = {"ngram": 6, "min_words": 4}


def test_question_answer_and_both_are_told_apart_with_their_spans_and_coverage(made):
    question, answer = "q1 q2 q3 q4 q5 q6 q7", "a1 a2 a3 a4 a5 a6"
    work = made([("bench", "b#0", question, answer)], SIX, near=None)
    text = "é q1 q2 q3, q4 q5 q6 q7! Then: a1 a2 a3 a4 a5 a6"
    found = work.screen(batch_of(text)).contamination.to_pylist()
    of = {r["field"]: r for r in found if r["field"] != "question+answer"}
    assert text.encode()[of["question"]["start"] : of["question"]["stop"]].decode() == "q1 q2 q3, q4 q5 q6 q7"
    assert text.encode()[of["answer"]["start"] : of["answer"]["stop"]].decode() == "a1 a2 a3 a4 a5 a6"
    assert of["question"]["coverage"] == of["answer"]["coverage"] == 1.0
    # 13 words joined have 8 n-grams, of which the document has 2 of the question's and 1 of the answer's, in two spans
    joined = [r for r in found if r["field"] == "question+answer"]
    assert [r["coverage"] for r in joined] == [0.375, 0.375]
    assert [r["text"] for r in joined] == ["q1 q2 q3, q4 q5 q6 q7", "a1 a2 a3 a4 a5 a6"]
    assert {r["kind"] for r in found} == {"ngram"}


def test_coverage_counts_an_ngram_once_however_often_the_document_has_it(made):
    work = made([("bench", "b#0", " ".join(f"q{i}" for i in range(9)))], SIX, near=None)
    part = "q0 q1 q2 q3 q4 q5"
    found = work.screen(batch_of(f"{part} and {part}")).contamination
    assert found["coverage"].to_pylist() == [0.25, 0.25]
    assert found["start"].to_pylist() == [0, 22]


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ("ids", None),
        ("sample", "write to <EMAIL> now or then please"),
        ("full", "write to ann@example.org now or then please"),
    ],
)
def test_matched_text_is_kept_as_the_recipe_says(made, keep, text):
    item = "write to ann@example.org now or then please"
    screened = made([("bench", "b#0", item)], policy="excise", min_piece=1, window=0).screen(
        batch_of(f"first words {item} last words"), keep=keep
    )
    assert screened.contamination["text"].to_pylist() == [text]
    assert screened.removed["text"].to_pylist() == [None if text is None else f" {text} "]


# ── policies ─────────────────────────────────────────────────────────────────────────────────────

LONG = " ".join(f"q{i}" for i in range(20))


def test_drop_gives_the_benchmark_of_the_highest_coverage_as_reason(made):
    work = made([("one", "o#0", LONG + " extra words"), ("two", "t#0", LONG)])
    assert work.decide(batch_of(f"x {LONG} y", "nothing of it", LONG + " extra")).to_pylist() == [
        "contaminated:two",
        None,
        "contaminated:two",
    ]
    assert work.screen(batch_of(LONG)).columns == {}


def test_report_changes_nothing_and_records_all(made):
    screened = made([("one", "o#0", LONG)], policy="report").screen(batch_of(LONG))
    assert screened.reasons.to_pylist() == [None]
    assert screened.columns == {}
    assert screened.removed.num_rows == 0
    assert screened.contamination.num_rows == 1


def test_hits_below_min_coverage_are_recorded_and_change_nothing(made):
    work = made([("one", "o#0", LONG)], min_coverage=0.5)  # 8 n-grams
    batch = batch_of("q0 q1 q2 q3 q4 q5 q6 q7 q8 q9 q10 q11 q12 q13 q14", "x " + " ".join(f"q{i}" for i in range(16)))
    screened = work.screen(batch)
    assert screened.contamination["coverage"].to_pylist() == [0.375, 0.5]
    assert screened.reasons.to_pylist() == [None, "contaminated:one"]


def test_excise_keeps_the_rest_of_the_document_and_says_what_went(made):
    left, right = " ".join(["before"] * 100), " ".join(["after"] * 100)
    text = f"{left} {LONG} {right}"
    work = made([("one", "o#0", LONG)], policy="excise")
    batch = batch_of(text, "clean é")
    screened = work.screen(batch)
    kept, clean = screened.columns["text"].to_pylist()
    assert clean == "clean é"
    # 200 characters on each side, on to the next space: 28 of "before" (7 with its space), 33 of "after" (6)
    assert kept == " ".join(["before"] * 71) + "\n\n" + " ".join(["after"] * 66)
    assert screened.reasons.to_pylist() == [None, None]
    (removed,) = screened.removed.to_pylist()
    assert (removed["doc_id"], removed["benchmark"]) == ("d#0", "one")
    gone = text[removed["start"] : removed["stop"]]
    assert text.replace(gone, "\n\n") == kept
    assert LONG in gone


def test_excise_drops_a_document_of_which_too_little_stays(made):
    work = made([("one", "o#0", LONG)], policy="excise", window=10, min_piece=50, max_cuts=2)
    filler = " ".join(["filler"] * 20)
    texts = [
        f"short {LONG} short",
        f"{filler} {LONG} {filler} {LONG} {filler}",
        f"{filler} {LONG} {filler} {LONG} {filler} {LONG}",
    ]
    screened = work.screen(batch_of(*texts))
    assert screened.reasons.to_pylist() == ["contaminated:one", None, "contaminated:one"]
    assert screened.removed["doc_id"].to_pylist() == ["d#1", "d#1"]
    assert screened.contamination.num_rows == 6


def test_excise_keeps_learned_ranges_true(made):
    left, right = "l " * 150, " r" * 150
    text = left + LONG + right
    batch = batch_of(text).append_column("learn", pa.array([[0, 10, len(text) - 10, len(text)]], pa.list_(pa.int32())))
    columns = made([("one", "o#0", LONG)], policy="excise", window=0).screen(batch).columns
    size = len(columns["text"][0].as_py())
    assert columns["learn"].to_pylist() == [[0, 10, size - 10, size]]


@pytest.mark.parametrize(
    ("text", "spans", "options", "expected"),
    [
        ("aaaa bbbb cccc", [(5, 9)], (0, 1, 9), [(4, 10, "\n\n")]),
        ("aaaa bbbb cccc", [(5, 9)], (1, 1, 9), [(4, 10, "\n\n")]),
        ("aaaa bbbb cccc", [(5, 9)], (2, 1, 9), None),  # on to the ends of the words beside it
        ("aaaa bbbb cccc dd", [(5, 9)], (2, 1, 9), [(0, 15, "")]),
        ("aaaa bbbb cccc dd", [(5, 9)], (2, 3, 9), None),
        ("aaaa bbbb", [(0, 4)], (0, 1, 9), [(0, 5, "")]),
        ("aaaa bbbb", [(5, 9)], (0, 1, 9), [(4, 9, "")]),
        ("ää bb çç dd ëë", [(5, 7), (13, 15)], (0, 1, 9), [(4, 8, "\n\n"), (12, 16, "\n\n")]),
        ("ää bb çç dd ëë", [(5, 7), (13, 15)], (0, 1, 1), None),
        ("ää bb çç dd ëë", [(5, 7), (13, 15)], (0, 3, 9), None),
        ("a b c d e f", [(2, 3), (2, 7), (6, 7)], (0, 1, 1), [(1, 8, "\n\n")]),
        ("x" * 100 + "yyy" + "x" * 100, [(100, 103)], (0, 1, 9), [(100, 103, "\n\n")]),  # no space near: cut there
    ],
)
def test_excision_by_hand(text, spans, options, expected):
    assert excision(text, spans, *options) == expected


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "é", "中", " ", "\n", "bb", "ccc"]), min_size=1, max_size=80).map("".join),
    st.lists(st.tuples(st.integers(0, 79), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(0, 5),
    st.integers(0, 6),
)
def test_excision_cuts_every_span_leaves_long_pieces_and_keeps_them_as_they_were(text, picks, window, min_piece):
    at = [len(text[:i].encode()) for i in range(len(text) + 1)]
    spans = sorted((at[min(i, len(text) - 1)], at[min(i + n, len(text))]) for i, n in picks)
    found = excision(text, spans, window, min_piece, 99)
    data = text.encode()
    if found is None:
        return
    edges = [0, *(e for a, b, _ in found for e in (a, b)), len(data)]
    assert edges == sorted(edges)
    pieces = [data[a:b].decode() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert all(len(piece) >= max(min_piece, 1) for piece in pieces if piece)
    assert any(pieces)
    for start, stop in spans:
        # the span, and `window` characters on each side, lie in one cut
        low = at[max(0, len(data[:start].decode()) - window)]
        high = at[min(len(text), len(data[:stop].decode()) + window)]
        assert any(a <= low and high <= b for a, b, _ in found)


# ── look-up and similarity against brute force ───────────────────────────────────────────────────

SMALL = st.lists(st.sampled_from("abcdef"), max_size=25)


@settings(deadline=None, max_examples=150)
@given(st.lists(SMALL.filter(lambda w: len(w) >= 2), min_size=1, max_size=4), st.lists(SMALL, min_size=1, max_size=4))
def test_hits_are_those_of_comparing_every_window_with_every_item(tmp_path_factory, items, documents):
    chosen = IndexSettings(ngram=4, min_words=2, max_matches=100)
    given_items = [Item("x", str(i), " ".join(words)) for i, words in enumerate(items)]
    saved = save_index(str(tmp_path_factory.mktemp("index")), given_items, chosen)
    work = Decontaminate(path=saved.path, digest=saved.digest, index=chosen, near=None, policy="report")
    texts = [" ".join(words) for words in documents]
    found = work.screen(batch_of(*texts)).contamination.to_pylist()
    for d, words in enumerate(documents):
        for i, item in enumerate(items):
            size = min(4, len(item))
            grams = [tuple(item[k : k + size]) for k in range(len(item) - size + 1)]
            hits = [k for k in range(len(words) - size + 1) if tuple(words[k : k + size]) in grams]
            covered = {k + j for k in hits for j in range(size)}
            mine = [r for r in found if (r["doc_id"], r["item"]) == (f"d#{d}", str(i))]
            # every word is one letter: word k lies at byte 2k
            assert {k // 2 for r in mine for k in range(r["start"], r["stop"]) if k % 2 == 0} == covered
            matched = {p for p, gram in enumerate(grams) if any(tuple(words[k : k + size]) == gram for k in hits)}
            assert all(r["coverage"] == pytest.approx(len(matched) / len(grams)) for r in mine)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=3, max_size=12), min_size=1, max_size=3),
    st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=14), min_size=1, max_size=5),
)
def test_near_duplicates_are_lines_paragraphs_and_documents_of_that_exact_jaccard(tmp_path_factory, items, lines):
    # 200 bands of one row: a candidate is missed with less than 1e-60 where half the words agree
    chosen = IndexSettings(ngram=30, min_words=30, near_min_words=3, near_bands=200, near_rows=1)
    given_items = [Item("x", str(i), " ".join(words)) for i, words in enumerate(items)]
    saved = save_index(str(tmp_path_factory.mktemp("index")), given_items, chosen)
    work = Decontaminate(path=saved.path, digest=saved.digest, index=chosen, near=0.6, policy="report")
    gaps = ["\n" if len(line) % 2 else "\n\n" for line in lines]
    text = "".join(" ".join(line) + gap for line, gap in zip(lines, gaps, strict=True))
    units = [unit.split() for unit in (*text.split("\n"), *text.split("\n\n"), text)]
    longest = 2 * max(map(len, items)) / 0.6
    sets = [set(unit) for unit in units if 0 < len(unit) <= longest]
    found = work.screen(batch_of(text)).contamination.to_pylist()
    for i, item in enumerate(items):
        best = max((len(u & set(item)) / len(u | set(item)) for u in sets), default=0)
        mine = [r["coverage"] for r in found if r["item"] == str(i)]
        assert mine == ([pytest.approx(best)] if best >= 0.6 else [])


def test_minhash_finds_with_the_probability_of_its_formula():
    """14 × 8 at J = 0.634: 0.31; and the default 16 × 4 at 0.8: 0.9998."""
    a, b = permutations(112, 1)
    rng = np.random.default_rng(5)
    pairs, both, own = 4000, 194, 56  # 194 / (194 + 2 · 56) = 0.634
    values = rng.integers(0, 2**32, (pairs, both + 2 * own), np.uint32)
    sets = np.concatenate([values[:, : both + own], np.concatenate([values[:, :both], values[:, both + own :]], 1)])
    bounds = np.arange(2 * pairs + 1, dtype=np.int64) * (both + own)
    keys = minhash_kernels.band_keys(minhash_kernels.signatures(bounds, sets.reshape(-1), a, b), 14)
    hits = (keys[:pairs] == keys[pairs:]).any(axis=1).mean()
    assert hits == pytest.approx(0.31, abs=0.02)
    for bands, size, found in ((14, 8, 0.92355), (IndexSettings().near_bands, IndexSettings().near_rows, 0.9998)):
        assert abs(1 - (1 - 0.8**size) ** bands - found) < 5e-5


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "delete"}, "policy: got 'delete', allowed drop, excise, report"),
        ({"near": 0.4}, "near: got 0.4, allowed 0.5 to 1"),
        ({"near": 1.1}, "near: got 1.1"),
        ({"min_coverage": 1.5}, "min_coverage: got 1.5, allowed 0 to 1"),
        ({"min_coverage": -0.1}, "min_coverage: got -0.1"),
        ({"window": -1}, "window: got -1, allowed >= 0"),
        ({"min_piece": -1}, "min_piece: got -1"),
        ({"max_cuts": 0}, "max_cuts: got 0, allowed >= 1"),
    ],
)
def test_options_out_of_range_are_refused_in_words(options, message):
    with pytest.raises(ConfigError, match=message):
        Decontaminate(path="x", digest="x", **options)


def test_empty_batches_and_null_text_pass(made):
    work = made([("one", "o#0", LONG)], policy="excise")
    empty = work.screen(batch_of())
    assert (len(empty.reasons), empty.contamination.num_rows, empty.removed.num_rows) == (0, 0, 0)
    nulls = pa.RecordBatch.from_pydict({"doc_id": ["a", "b"], "text": pa.array([None, LONG], pa.string())})
    assert work.decide(nulls).to_pylist() == [None, "contaminated:one"]
    assert len(folded_words(nulls["text"]).starts) == 20
