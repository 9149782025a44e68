"""Text decoded wrongly is mended, what is right stays, and rows that are skipped needed nothing."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ftfy.badness import is_bad
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors import repair
from penstock.selectors.normalise import content_hashes
from penstock.selectors.repair import FIXES, RepairEncoding, repaired
from penstock.sources.base import Origin, documents_batch
from penstock.work import apply

ALL = frozenset(FIXES)


def mended(text: str, *fixes: str) -> str:
    (out,) = repaired(pa.array([text]), frozenset(fixes or ("encoding",))).to_pylist()
    return out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schÃ¶n", "schön"),
        ("schön", "schön"),
        ("â€œquotedâ€\x9d", "“quoted”"),
        ("l’humanitÃ©", "l’humanité"),
        ("Ã\x83Â¶", "ö"),  # two layers
        ("a\x85b", "a…b"),  # a control character that Windows-1252 means otherwise
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("plain", "plain"),
        ("São Paulo, Zürich, naïve", "São Paulo, Zürich, naïve"),
        ("", ""),
        ("a\r\nb\x07 é ﬁ “ Ａ &amp;", "a\r\nb\x07 é ﬁ “ Ａ &amp;"),  # none of the other fixes, and none of Normalise's
    ],
)
def test_mojibake_is_mended_and_good_text_left_alone(text, expected):
    assert mended(text) == expected


@pytest.mark.parametrize(
    ("fix", "text", "expected"),
    [
        ("html", "a &amp; b &lt;c&gt; &eacute;", "a & b <c> é"),
        ("html", "a &amp;\n<b>\n&amp;", "a &\n<b>\n&amp;"),
        ("terminal_escapes", "\x1b[1;31mred\x1b[0m", "red"),
        ("ligatures", "eﬃcient", "efficient"),
        ("width", "Ａｂｃ１", "Abc1"),
        ("quotes", "“it’s”", '"it\'s"'),
        ("encoding", "schÃ¶n", "schön"),
    ],
)
def test_each_fix_does_its_own_and_nothing_else(fix, text, expected):
    assert mended(text, fix) == expected
    others = [other for other in FIXES if other != fix]
    assert mended(text, *others) == text


# characters that mojibake is made of, beside any others
PIECES = st.one_of(
    st.text(max_size=6),
    st.text("ÃÂâ€™œž\x9d\x85 \xa0aZ.°·¶ö²³×ßà", max_size=8),
    st.sampled_from(["é", "“", "’", "привет", "ελ", "文字", "日本"]).map(lambda t: t.encode().decode("latin-1")),
    st.sampled_from(["é", "“x”", "–", "Ã"]).map(lambda t: t.encode().decode("cp1252", "ignore")),
    st.sampled_from(["й", "“"]).map(lambda t: t.encode().decode("cp1251", "ignore")),
    st.sampled_from(
        ["&amp;", "&lt;", "&#233;", "&bogus;", "<", "\n", "\x1b[0m", "ﬁ", "Ａ", "‘", "\u2028", "&amp;amp;"]
    ),
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), fixes=st.sets(st.sampled_from(sorted(FIXES)), min_size=1))
@example(texts=["Ã a", "xÃ ", "Œ"], fixes={"encoding"})
def test_skipping_rows_never_changes_the_result(texts, fixes):
    whole = [ftfy.fix_text(text, repair._config(frozenset(fixes))) for text in texts]
    assert repaired(pa.array(texts), frozenset(fixes)).to_pylist() == whole


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_every_text_that_ftfy_calls_bad_is_looked_at(text):
    found = pc.match_substring_regex(pa.array([text]), repair._suspects(frozenset(["encoding"])))
    assert found.to_pylist()[0] or not is_bad(text)


def test_clean_rows_are_not_looked_at(monkeypatch):
    def refuse(*_):
        pytest.fail("a clean row was given to ftfy")

    clean = ["plain words", "“quoted” — it’s", "Zürich über naïve café", "привет мир", "これは文字です", "مرحبا", "x²"]
    column = pa.array(clean)
    monkeypatch.setattr(ftfy, "fix_text", refuse)
    assert repaired(column, frozenset(["encoding"])) is column


def test_ten_thousand_layers_of_entities_are_undone_at_once():
    layers = "&" + "amp;" * 10_000
    assert mended(f"{layers}lt; a {layers} b", "html") == "< a & b"
    assert mended("&" + "amp;" * 3 + "gt;", "html") == ftfy.fix_text("&amp;amp;amp;gt;") == ">"
    # after "<" entities stay, also in their thousands
    kept = f"<b>\n{layers}lt;\n"
    assert mended(kept, "html") == kept


def batch(text: str, learn: list[int] | None) -> pa.RecordBatch:
    return documents_batch(["a#0"], [text], source="s", domains=["d"], origins=[Origin(learn=learn)])


def test_the_annotator_gives_text_hash_and_learned_ranges():
    out = apply([RepairEncoding()], batch("schÃ¶n", None)).batch
    assert out["text"].to_pylist() == ["schön"]
    assert out["content_hash"].equals(content_hashes(pa.array(["schön"])))
    assert out["learn"].to_pylist() == [None]
    assert out.schema.names == batch("x", None).schema.names


def test_what_is_learned_is_mended_apart_and_its_ranges_move():
    text = "FranÃ§ois: schÃ¶n!"
    start = text.encode().index(b"sch")
    out = RepairEncoding().annotate(batch(text, [start, len(text.encode())]))
    assert out["text"].to_pylist() == ["François: schön!"]
    ((first, last),) = out["learn"].to_pylist()
    assert "François: schön!".encode()[first:last] == "schön!".encode()
    # a border inside mojibake is a border still: neither half means anything by itself
    half = "schÃ¶n".encode().index("¶".encode())
    out = RepairEncoding().annotate(batch("schÃ¶n", [0, half]))
    assert out["text"].to_pylist() == ["schÃ¶n"]
    assert out["learn"].to_pylist() == [[0, half]]


def test_null_reads_as_empty_and_large_strings_stay_large():
    out = repaired(pa.array([None, "schÃ¶n"], pa.large_string()), ALL)
    assert out.type == pa.large_string()
    assert out.to_pylist() == ["", "schön"]
    assert repaired(pa.array([], pa.string()), ALL).to_pylist() == []


def test_a_slice_is_mended_like_a_whole_column():
    column = pa.array(["x", "schÃ¶n", "y", "Ã©"])
    assert repaired(column[1:], ALL).to_pylist() == ["schön", "y", "é"]


def test_it_is_sent_to_workers_and_sets_up():
    work = ForkingPickler.loads(ForkingPickler.dumps(RepairEncoding(fixes=("html", "encoding"))))
    work.setup()
    assert work.annotate(batch("Ã© &amp;", None))["text"].to_pylist() == ["é &"]


@pytest.mark.parametrize(
    ("fixes", "message"),
    [
        ((), r"fixes: got \(\), allowed a list of encoding, html"),
        ("encoding", r"fixes: got 'encoding', allowed a list of encoding, html.*write \['encoding'\]"),
        (("encoding", "spelling"), "fixes: got spelling, allowed encoding, html, terminal_escapes, ligatures, width"),
    ],
)
def test_wrong_fixes_are_refused(fixes, message):
    with pytest.raises(ConfigError, match=message):
        RepairEncoding(fixes=fixes)
