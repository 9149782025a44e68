"""The pages, without a server: what they hold, and who may ask for them."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import httpx
import pytest

from penstock.view.app import POLICY, application
from penstock.view.corpus import Corpus
from penstock.view.map import Map
from penstock.view.pages import Pages, compared
from penstock.view.points import points_of

TOKEN = "s3cret"
HERE = "http://127.0.0.1:8123"


class Client:
    """Asks the application in this process."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def get(self, place: str, **options: Any) -> httpx.Response:
        return self.ask("GET", place, **options)

    def ask(self, method: str, place: str, **options: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            here = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=here, base_url=f"{HERE}/{TOKEN}/") as client:
                return await client.request(method, place, **options)

        return asyncio.run(asked())


@pytest.fixture
def client(seen, indexed):
    """Asks the application as a browser that was given its address would."""
    corpus = Corpus(seen.root)
    with indexed(corpus) as (taken, index):
        guard = application(Pages(corpus, taken, index, Map(points_of(corpus, index))), token=TOKEN, port=8123)
        yield Client(guard)


def plain(page):
    """What a reader sees."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page.partition("<main>")[2])).split())


def count(page):
    return int(re.search(r'id="count"><b>([\d,]+)</b>', page)[1].replace(",", ""))


def test_a_search_finds_a_known_row_and_marks_the_word(client, seen):
    page = client.get("", params={"q": "zymurgy"}).text
    assert count(page) == 1
    assert "<mark>zymurgy</mark>" in page
    assert f'href="row?id={seen.ids[7].replace("#", "%23")}"' in page


def test_domains_splits_and_scores_narrow_what_is_found(client, seen):
    def rows(**at):
        return count(client.get("", params=at).text)

    kept = seen.kept
    assert rows() == len(kept)
    names = re.findall(r'<option value="(\d+)">([^<]*) \((\d+)\)', client.get("").text)
    for number, name, told in names:
        if name.startswith(("rivers", "machines")):
            expected = sum(seen.domains[i] == name for i in kept)
            assert rows(domain=number) == int(told) == expected
    assert rows(table="validation") == len(seen.splits["validation"])
    inside = [i for i in kept if seen.quality[i] is not None and 0.25 <= seen.quality[i] <= 0.5]
    assert rows(score="quality", low="0.25", high="0.5") == len(inside)
    assert rows(score="quality", low="0.25", high="0.5", domain=names[0][0]) < len(inside)
    assert rows(domain="999") == len(kept)


def test_what_is_no_number_is_told(client):
    answer = client.get("", params={"score": "quality", "low": "much"})
    assert answer.status_code == 404
    assert "low: got much, allowed a finite number" in plain(answer.text)


def test_pages_hold_every_row_once(client, seen):
    found, page = [], client.get("").text
    while True:
        found += re.findall(r'<h3><a href="row\?id=([^"]*)"', page)
        after = re.search(r'<a href="([^"]*)" rel="next">', page)
        if after is None:
            break
        page = client.get(html.unescape(after[1])).text
    assert len(found) == len(set(found)) == len(seen.kept)


def test_drops_are_counted_as_the_manifests_have_them_and_shown(client, seen, attack):
    page = client.get("drops").text
    told = plain("<main>" + page.partition('id="reasons">')[2])
    assert "documents gopher too_few_words 4" in told
    assert "deduplicated near_duplicates near_duplicate 1" in told
    links = [html.unescape(link) for link in re.findall(r'href="(drop\?[^"]*)"', page)]
    assert len(links) == sum(len(reasons) for of in seen.drops.values() for reasons in of.values())
    shown = plain(client.get(next(link for link in links if "too_few" in link)).text)
    assert "4 rows dropped by gopher in documents" in shown
    assert all(f"short {n}" in shown for n in range(62, 66))


def test_a_cluster_is_shown_side_by_side_with_what_differs(client, seen):
    page = client.get("clusters").text
    (link,) = re.findall(r'href="(cluster\?[^"]*)"', page)
    page = client.get(html.unescape(link)).text
    assert "Cluster of 3 rows" in page
    sides = page.split('<section class="side">')[1:]
    assert [re.search(r'class="soft">(\w+)<', side)[1] for side in sides] == ["survivor", "exact", "near"]
    assert "<mark>" not in sides[0]
    assert "<mark>" not in sides[1]
    assert "<mark>number forty</mark>" in sides[2]
    assert "which is like no other row" in plain(client.get("cluster", params={"id": seen.ids[7]}).text)


def test_a_row_is_shown_with_what_became_of_it(client, seen):
    page = plain(client.get("row", params={"id": seen.ids[9]}).text)
    assert seen.texts[9] in page
    assert "dataset-1 published" in page
    gone = client.get("row", params={"id": seen.ids[42]}).text
    assert "near_duplicates: near_duplicate; see file.txt#40" in plain(gone)
    assert '<a href="row?id=file.txt%2340">the row that stayed</a>' in gone
    assert client.get("row", params={"id": "file.txt#61"}).status_code == 200
    answer = client.get("row", params={"id": "nothing"})
    assert answer.status_code == 404
    assert "which no row of" in plain(answer.text)


def test_hostile_text_is_escaped_in_every_page(client, seen):
    clean = re.compile(r"<script|<img|<svg|javascript:[^<]*\"|\son\w+=")
    places = ["", "drops", "clusters", "row?id=" + "%3C", "?domain=2"]
    places += [html.unescape(a) for a in re.findall(r'href="(row\?[^"]*)"', client.get("?q=owned").text)]
    places += [html.unescape(a) for a in re.findall(r'href="(drop\?[^"]*)"', client.get("drops").text)]
    shown = 0
    for place in places:
        page = client.get(place).text
        tags = "".join(re.findall(r"<[^>]*>", page))
        assert not clean.search(re.sub(r'(?:href|value)="[^"]*"', "", tags)), place
        shown += "document.title='owned'" in html.unescape(page)
    assert shown >= 5


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost:8123.evil.example", ""])
def test_a_request_for_another_host_is_refused(client, host):
    answer = client.get("", headers={"host": host})
    assert (answer.status_code, answer.text) == (404, "not here\n")
    assert client.get("", headers={"host": "localhost:8123"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/other/", f"/{TOKEN}x/", f"/{TOKEN.upper()}/", "/style.css", f"//{TOKEN}/", "/é/"]
)
def test_a_request_without_the_token_is_refused(client, path):
    answer = client.get(f"{HERE}{path}")
    assert (answer.status_code, answer.text) == (404, "not here\n")


def test_a_socket_is_refused(client):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": f"/{TOKEN}/", "headers": [(b"host", b"127.0.0.1:8123")]}
    asyncio.run(client.app(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_every_answer_forbids_scripts_and_other_places(client):
    for place in ("", "drops", "style.css", "row?id=nothing", "no/such/page"):
        headers = client.get(place).headers
        assert headers["content-security-policy"] == POLICY
        assert "script" not in POLICY
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_only_questions_are_answered(client):
    assert client.ask("POST", "", data={"q": "x"}).status_code == 405


@pytest.mark.parametrize(
    ("base", "other", "pieces"),
    [
        ("a b c", "a x c", [("a ", False), ("x", True), (" c", False)]),
        ("a b", "a b", [("a b", False)]),
        (None, "a b", [("a b", False)]),
        ("a b c", "a b", [("a b", False)]),
        ("", "new", [("new", True)]),
    ],
)
def test_differences_are_told_by_words(base, other, pieces):
    assert compared(base, other) == pieces
