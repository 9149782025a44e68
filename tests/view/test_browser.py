"""`penstock view` in a real browser: what the pages show, that no text of theirs runs, and that nothing leaves."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; install Debian's package chromium"),
]

SWITCHES = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-default-apps "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --disable-domain-reliability "
    "--enable-logging=stderr --virtual-time-budget=4000 --dump-dom"
)


class Browser:
    """Loads pages, and remembers every address that was asked for and every line of the consoles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: set[str] = set()
        self.console: list[str] = []

    def load(self, address: str) -> str:
        """The document after its scripts have run."""
        assert CHROMIUM is not None
        log = self.folder / "net.json"
        done = subprocess.run(
            [
                CHROMIUM,
                *SWITCHES.split(),
                f"--log-net-log={log}",
                f"--user-data-dir={self.folder / 'profile'}",
                address,
            ],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=True,
        )
        self.console += [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            url, by = re.search(r'"url":"((?:https?|wss?):[^"]*)"', line), re.search('"initiator":"([^"]*)"', line)
            if url and by and by[1] != "not an origin":  # what Chromium asks for itself has none
                self.asked.add(json.loads(f'"{url[1]}"'))
        return done.stdout


@pytest.fixture(scope="module")
def server(seen):
    """The address that `penstock view` prints; it ends by Ctrl-C, without a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "view", seen.root, "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(Path(seen.root).parent)},
    )
    try:
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        yield address
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
        assert not list(Path(seen.root).parent.glob("penstock-view-*"))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    return Browser(tmp_path_factory.mktemp("chromium"))


def shown(document: str) -> str:
    """What a reader of the document sees."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", document.partition("<main>")[2])).split())


def test_a_dataset_is_looked_at_and_nothing_of_it_runs_or_leaves(server, browser, seen, attack):
    pages = {}

    def load(place: str) -> str:
        pages[place] = browser.load(server + place)
        return shown(pages[place])

    assert re.match(r"http://127\.0\.0\.1:\d+/[\w-]{32}/$", server)
    found = load("?q=zymurgy")
    assert found.count("1 of 58 rows") == 1
    assert seen.ids[7] in found
    rivers = [i for i in seen.kept if seen.domains[i] == "rivers"]
    number, told = re.search(r'<option value="(\d+)">rivers \((\d+)\)', pages["?q=zymurgy"]).groups()
    assert f"{told} of 58 rows" in load(f"?domain={number}")
    assert int(told) == len(rivers) < 58
    drops = load("drops")
    for step, of in seen.drops.items():
        for by, reasons in of.items():
            for reason, rows in reasons.items():
                if reason != attack:
                    assert f"{step} {by} {reason} {rows}" in drops
    cluster = load("cluster?id=" + quote(seen.ids[40]))
    assert "Cluster of 3 rows" in cluster
    assert seen.texts[40] in cluster
    assert "number forty" in cluster
    load("map?by=group")
    assert pages["map?by=group"].count('aria-roledescription="circle"') == 58
    hostile = load("row?id=" + quote(seen.ids[3]))
    assert "<script>document.title='owned'" in hostile
    assert "⟨ESC⟩[31m ⟨U+202E⟩exe.txt" in hostile

    for place, document in pages.items():
        title = html.unescape(re.search("<title>(.*?)</title>", document, re.DOTALL)[1])
        assert title.endswith(" · penstock view"), place
        scripts = re.findall("<script[^>]*>", document)
        assert scripts == (['<script type="module" src="map.js">'] if place.startswith("map") else []), place
        assert not re.search(r"<[^>]*\son\w+=", re.sub(r'="[^"]*"', '=""', document)), place
    assert browser.console == []
    assert {urlsplit(url).netloc for url in browser.asked} == {urlsplit(server).netloc}


def test_the_browser_does_run_and_ask_what_nothing_stops(browser, attack, tmp_path):
    """The control: the attack on a page without fences succeeds, so the test above could fail."""
    page = tmp_path / "page.html"
    page.write_text(f"<title>calm</title><main>{attack}</main>", encoding="utf-8")
    document = browser.load(page.as_uri())
    assert "<title>owned</title>" in document or "owned" in re.findall("<title>(.*?)</title>", document, re.DOTALL)
    assert "http://example.com/owned" in browser.asked
