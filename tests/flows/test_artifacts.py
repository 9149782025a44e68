"""Artifacts of a flow run: what they hold, and that no text of the data becomes markup in Prefect's pages."""

import dataclasses
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from penstock.dataset import Counts
from penstock.flows.artifacts import cell, drop_rows, link_to, recording, step_rows


def html(markdown):
    """As a renderer shows it that lets every scheme of a link pass."""
    renderer = MarkdownIt("commonmark")
    renderer.validateLink = lambda _: True
    return renderer.render(markdown)


@pytest.mark.parametrize("name", ["gopher_short_doc", "source.files", "top_4_gram", "exact-duplicate", "a"])
def test_names_of_reasons_stay_as_they_are(name):
    assert cell(name) == name
    assert html(cell(name)) == f"<p>{name}</p>\n"


@pytest.mark.parametrize(
    "text",
    [
        "<script>document.title='owned'</script>",
        "[click](javascript:alert(1))",
        "![x](http://example.org/p.png)",
        "www.example.org",
        "https://example.org",
        "<http://example.org>",
        "| a | b |",
        "__bold__",
        "# head",
        "1. item",
        "`code` ``` fence",
        "\x1b[31m\u202e\n\nnew",
        "",
        " ",
    ],
)
def test_a_hostile_reason_is_a_code_span(text):
    shown = html(cell(text))
    assert shown.startswith("<p><code>")
    assert shown.endswith("</code></p>\n")
    assert shown.count("<") == 4
    assert not set(shown) & {"\x1b", "\u202e"}


@given(st.text(alphabet=st.sampled_from("a_`*[]()<>!|#~&\\:. -1\n\t") | st.characters(), max_size=40))
def test_no_text_becomes_markup(text):
    shown = html(cell(text))
    inner = shown.removeprefix("<p>").removesuffix("</p>\n").removeprefix("<code>").removesuffix("</code>")
    assert "<" not in inner


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("/tmp/run/report.html", "file:///tmp/run/report.html"),
        ("/tmp/a (b) [c]/ü/report.html", "file:///tmp/a%20%28b%29%20%5Bc%5D/%C3%BC/report.html"),
        ("s3://bucket/run/report.html", "s3://bucket/run/report.html"),
        ("gs://bucket/a run)/100%/report.html", "gs://bucket/a%20run%29/100%25/report.html"),
        ("memory://run/report.html", "memory://run/report.html"),
    ],
)
def test_the_link_to_the_report_is_one_that_markdown_reads_whole(path, link):
    assert link_to(path) == link
    assert html(f"[report.html]({link_to(path)})") == f'<p><a href="{link}">report.html</a></p>\n'


def test_the_tables_hold_counts_and_harmless_reasons(finished):
    first = finished[2].steps[0]
    counts = Counts(9, 1, 7, {"mine": {"<script>": 2, "short": 1}})
    result = dataclasses.replace(first, skipped=True, manifest=dataclasses.replace(first.manifest, counts=counts))
    (row,) = step_rows([result])
    assert [row[n] for n in ("step", "status", "in", "made", "kept", "dropped")] == ["documents", "skipped", 9, 1, 7, 3]
    assert drop_rows([result]) == [
        {"step": "documents", "work": "mine", "reason": "` <script> `", "rows": 2},
        {"step": "documents", "work": "mine", "reason": "short", "rows": 1},
    ]
    assert json.dumps(drop_rows(finished[2].steps))


def test_what_prefect_cannot_record_is_a_warning_and_what_we_did_wrong_is_not():
    told = []
    with recording(told.append):
        raise httpx.ConnectError("refused")
    assert told == ["Prefect could not record an artifact: ConnectError: refused"]
    with pytest.raises(KeyError), recording(told.append):
        raise KeyError("ours")
    assert len(told) == 1
