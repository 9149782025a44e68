"""Blocklists by file. Run: pytest tests/selectors/test_blocklist.py"""

import gzip
import os
import pickle
import re

import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.selectors.blocklist import URL_REASONS, WORD_REASON, UrlBlocklist, WordBlocklist
from penstock.selectors.blocklist_kernels import UrlLists, judge_urls
from penstock.selectors.wordset_kernels import WordSet, find
from penstock.text import row_views


@pytest.fixture
def write(tmp_path):
    def write(name, *lines, encoding="utf-8"):
        data = "".join(line + "\n" for line in lines).encode(encoding)
        if name.endswith(".gz"):
            data = gzip.compress(data)
        elif name.endswith(".zst"):
            data = zstandard.compress(data)
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


def urls(work, *rows):
    return work.decide(pa.record_batch({"url": pa.array(rows, pa.string())})).to_pylist()


def texts(work, *rows):
    return work.decide(pa.record_batch({"text": pa.array(rows, pa.string())})).to_pylist()


# ── URLs ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_listed_domain_stops_its_hosts_and_no_other(write):
    work = UrlBlocklist(
        domains=(write("d.txt", "# bad ones", "", " bad.example ", "WWW.Worse.com", "https://x.org/y"),)
    )
    stopped = [
        "https://bad.example",
        "http://a.b.bad.example/c",
        "BAD.EXAMPLE:8080/x",
        "http://user:pass@bad.example/",
        "//bad.example./x",
        "https://worse.com?q",
        "http://www.worse.com#f",
        "ftp://x.org",
    ]
    stays = [
        "https://notbad.example",
        "https://example",
        "http://bad.example.org",
        "http://c.com/bad.example",
        "",
        None,
    ]
    stays += ["http://c.com?u=http://bad.example", "http://c.com/@bad.example"]
    assert urls(work, *stopped) == ["domain"] * len(stopped)
    assert urls(work, *stays) == [None] * len(stays)


def test_names_that_are_not_ascii_are_compared_as_punycode(write):
    work = UrlBlocklist(domains=(write("d.txt", "bücher.example", "xn--caf-dma.org"),))
    assert urls(
        work, "http://BÜCHER.example/ä", "http://xn--bcher-kva.example", "https://a.café.org", "http://ü/x"
    ) == [
        "domain",
        "domain",
        "domain",
        None,
    ]


def test_a_listed_address_is_found_whatever_its_scheme_fragment_and_last_slash(write):
    work = UrlBlocklist(urls=(write("u.txt", "site.com/Page", "https://www.site.org/x/?q=1#top", "root.net/"),))
    assert urls(
        work,
        "http://SITE.com/Page/",
        "site.org/x/?q=1",
        "https://root.net",
        "http://site.com/page",  # a path has case
        "http://site.com/Page/2",
        "http://site.org/x/?q=2",
    ) == ["url", "url", "url", None, None, None]


def test_words_of_a_url_are_whole_runs_of_letters_and_digits_in_any_case(write):
    hard, soft, sub = (
        write("h.txt", "Casino", "x-rated"),
        write("s.txt", "free", "win", "bonus"),
        write("b.txt", "po-ker"),
    )
    work = UrlBlocklist(words=(hard,), soft_words=(soft,), subwords=(sub,))
    assert urls(
        work,
        "http://x.com/CASINO-royal",
        "http://x.com/casinos",
        "http://xrated.com",  # an entry is its letters and digits
        "http://x.com/free/WIN",
        "http://x.com/free/free?free",
        "http://freewin.com",
        "http://x.com/vipo-KERs",
        "http://x.com/po/k",
    ) == ["hard_blacklisted", None, "hard_blacklisted", "soft_blacklisted", None, None, "blacklisted_subword", None]
    assert urls(UrlBlocklist(soft_words=(soft,), soft_word_threshold=1), "http://x.com/win") == ["soft_blacklisted"]
    assert urls(UrlBlocklist(soft_words=(soft,), soft_word_threshold=3), "a/free-win-bonus", "a/free-win") == [
        "soft_blacklisted",
        None,
    ]


def test_the_first_list_that_stops_a_url_gives_the_reason(write):
    lists = {
        "domains": write("d.txt", "a.com"),
        "urls": write("u.txt", "a.com/x", "b.com/bad"),
        "words": write("h.txt", "bad"),
        "soft_words": write("s.txt", "bad", "luck"),
        "subwords": write("b.txt", "uck"),
    }
    work = UrlBlocklist(**{kind: (path,) for kind, path in lists.items()})
    rows = ["a.com/x", "b.com/bad", "c.com/bad-luck", "c.com/b.ad-luck", "c.com/"]
    assert urls(work, *rows) == ["domain", "url", "hard_blacklisted", "blacklisted_subword", None]
    assert urls(UrlBlocklist(soft_words=(lists["soft_words"],)), "c.com/bad-luck") == ["soft_blacklisted"]
    assert len(URL_REASONS) == 5


def plain_host(url):
    rest = url.split("://", 1)[-1]
    host = re.split(r"[/?#]", rest)[0].rpartition("@")[2].split(":")[0].rstrip(".").lower()
    return host.removeprefix("www.") if len(host) > 4 else host


PARTS = ["a", "b", "www", "bad", "com", "x-y"]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join), max_size=6),
    st.lists(
        st.tuples(
            st.sampled_from(["", "http://", "https://", "http://u@"]),
            st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join),
            st.sampled_from(["", "/", ":80/x", "?q", "#f", "./a.b", "/@a.com"]),
        ).map("".join),
        max_size=12,
    ),
)
@example(["www"], ["www", "www.", "http://www.www"])
def test_hosts_match_as_a_plain_reading_of_their_labels_says(domains, rows):
    listed = {plain_host(domain) for domain in domains}
    none = pa.array([], pa.string())
    lists = UrlLists.of(domains=pa.array(domains, pa.string()), urls=none, words=none, soft_words=none, subwords=none)
    wanted = []
    for url in rows:
        labels = plain_host(url).split(".")
        wanted.append(int(any(".".join(labels[k:]) in listed for k in range(len(labels)))))
    assert judge_urls(pa.array(rows, pa.string()), lists, 2).tolist() == wanted


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_words_are_found_whole_and_folded(write):
    work = WordBlocklist(lists=(write("w.txt.gz", "# words", "Damn", "straße", "s&m", "bad phrase", "グロ", "c3po"),))
    found = [
        "DAMN it",
        "(damn)",
        "STRASSE",
        "S & M",
        "a Bad-Phrase.",
        "bad\nphrase",
        "これはグロい",
        "ｄａｍｎ",
        "C3PO!",
    ]
    clean = ["damnation", "goddamn", "bad old phrase", "phrase bad", "strasse2", "グ・ラ", "", None, "c3 po"]
    assert texts(work, *found) == [WORD_REASON] * len(found)
    assert texts(work, *clean) == [None] * len(clean)


def test_a_phrase_is_found_behind_the_beginning_of_another(write):
    work = WordBlocklist(lists=(write("w.txt", "a b c", "b d", "a b"),))
    assert texts(work, "a b d", "b d", "a c", "a a b", "b c") == [WORD_REASON, WORD_REASON, None, WORD_REASON, None]


def test_a_minimum_counts_occurrences(write):
    path = write("w.txt", "one", "two words")
    rows = ["one", "one one", "one and two words", "two words two words", "two one"]
    assert texts(WordBlocklist(lists=(path,), minimum=2), *rows) == [None, *[WORD_REASON] * 3, None]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=6),
)
def test_phrases_match_as_a_plain_search_says(tmp_path_factory, entries, rows):
    path = tmp_path_factory.mktemp("list") / "words.txt"
    path.write_text("".join(" ".join(entry) + "\n" for entry in entries))
    padded = [f" {' '.join(row)} " for row in rows]
    wanted = [WORD_REASON if any(f" {' '.join(e)} " in row for e in entries) else None for row in padded]
    assert texts(WordBlocklist(lists=(str(path),)), *padded) == wanted


def test_a_million_entries_are_searched(write):
    path = write("many.txt.zst", *(f"entry{k}" for k in range(1_000_000)))
    assert texts(WordBlocklist(lists=(path,)), "some entry999999 here", "entry1000000", "entry") == [
        WORD_REASON,
        None,
        None,
    ]
    work = UrlBlocklist(domains=(path,))
    assert urls(work, "http://a.entry999999", "http://entry1000000") == ["domain", None]


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_those_of_all_lists_and_a_changed_file_is_read_again(write):
    path, other = write("a.txt", "one"), write("b.txt", "two")
    work = UrlBlocklist(words=(path,), subwords=(other,))
    assert [file.path for file in work.files()] == [path, other]
    words = WordBlocklist(lists=(path, other))
    assert [file.name for file in words.files()] == ["a.txt", "b.txt"]
    assert texts(words, "one", "two", "three") == [WORD_REASON, WORD_REASON, None]
    write("a.txt", "three")
    os.utime(path, ns=(1, 1))
    assert texts(words, "one", "two", "three") == [None, WORD_REASON, WORD_REASON]
    assert pickle.loads(pickle.dumps(words)) == words  # noqa: S301


def test_a_file_that_cannot_serve_is_named_with_what_is_wrong(write, tmp_path):
    missing = str(tmp_path / "nothing.txt")
    with pytest.raises(InputError, match=r"nothing\.txt: matches no file"):
        WordBlocklist(lists=(missing,)).files()
    with pytest.raises(InputError, match=r"empty\.txt: holds no entry; allowed UTF-8 text"):
        texts(WordBlocklist(lists=(write("empty.txt", "# nothing", "", "  "),)), "a")
    with pytest.raises(InputError, match=r"latin\.txt: line 2 is not UTF-8 \(byte 0xe9\)"):
        texts(WordBlocklist(lists=(write("latin.txt", "ok", "café", encoding="latin-1"),)), "a")
    with pytest.raises(InputError, match=r"symbols\.txt: entry '\?!' has no letter or digit"):
        texts(WordBlocklist(lists=(write("symbols.txt", "ok", "?!"),)), "a")
    with pytest.raises(InputError, match=r"cyrillic\.txt: entry 'слово' has no ASCII letter or digit"):
        urls(UrlBlocklist(words=(write("cyrillic.txt", "слово"),)), "a")
    with pytest.raises(InputError, match="subwords: got one of 65 letters"):
        urls(UrlBlocklist(subwords=(write("long.txt", "x" * 65),)), "a")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"word\n" * 1000)[:-9])
    with pytest.raises(InputError, match=r"cut\.txt\.gz: cannot be decompressed"):
        texts(WordBlocklist(lists=(str(tmp_path / "cut.txt.gz"),)), "a")


def test_a_byte_order_mark_is_no_part_of_the_first_entry(write):
    assert texts(WordBlocklist(lists=(write("bom.txt", "\ufeffword"),)), "word") == [WORD_REASON]


def test_an_empty_batch_and_large_strings(write):
    path = write("w.txt", "word")
    for work, column in ((WordBlocklist(lists=(path,)), "text"), (UrlBlocklist(words=(path,)), "url")):
        work.setup()
        assert work.decide(pa.record_batch({column: pa.array([], pa.string())})).type == pa.string()
        large = work.decide(pa.record_batch({column: pa.array(["a word", None], pa.large_string())}))
        assert [reason is not None for reason in large.to_pylist()] == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UrlBlocklist(), "urls: got no list, allowed one or more of domains, urls"),
        (lambda: UrlBlocklist(domains="d.txt"), r"domains: got 'd.txt', allowed a list of paths .* write \['d.txt'\]"),
        (lambda: UrlBlocklist(words=("",)), "words: got"),
        (lambda: UrlBlocklist(words=("w",), soft_word_threshold=0), "soft_word_threshold: got 0, allowed 1 to 64"),
        (lambda: WordBlocklist(lists=()), "lists: got none"),
        (lambda: WordBlocklist(lists="w.txt"), "lists: got 'w.txt'"),
        (lambda: WordBlocklist(lists=("w",), minimum=0), "minimum: got 0, allowed >= 1"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# ── the set of byte strings ──────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(alphabet="abé", max_size=4), max_size=40), st.lists(st.text(alphabet="abé", max_size=5)))
def test_a_word_set_has_what_was_put_in_and_nothing_else(entries, asked):
    words = WordSet.of(pa.array([*entries, None], pa.string()))
    assert len(words) == len({entry for entry in entries if entry})
    offsets, data = row_views(pa.array([*asked, "x"], pa.string()))
    for row, text in enumerate(asked):
        item = find(words.slots, words.offsets, words.data, data, offsets[row], offsets[row + 1])
        assert (item >= 0) == (text in entries and text != "")
        if item >= 0:
            assert words.data[words.offsets[item] : words.offsets[item + 1]].tobytes().decode() == text
