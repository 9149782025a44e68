"""The page in a real browser: hostile documents are shown and nothing of them runs."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import subprocess

import pytest

from penstock.report.record import KeptSample
from penstock.report.render import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; install Debian's package chromium"),
]

POLICY = re.compile('<meta http-equiv="Content-Security-Policy"[^>]*>')
ATTACK = (
    "</pre></svg></style></title><script>document.title='owned';console.error('owned')</script>"
    "<img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\"></svg>"
    "<a href=\"javascript:document.title='owned'\">link</a> &lt;script&gt; \x1b[31m \u202eexe.txt"
)


def browse(page: str, folder) -> tuple[str, list[str]]:
    """The document after loading, and the lines that the browser wrote to its console."""
    assert CHROMIUM is not None
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    switches = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr "
        "--virtual-time-budget=2000 --dump-dom"
    )
    done = subprocess.run(
        [CHROMIUM, *switches.split(), f"--user-data-dir={folder / 'profile'}", file.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def title(document: str) -> str:
    return html.unescape(re.search("<title>(.*?)</title>", document, re.DOTALL)[1])


@pytest.fixture(scope="module")
def attacked(record):
    """The attack as a document, a domain, a reason, a file name and the recipe's name."""
    sources = (dataclasses.replace(record.sources[0], files=(ATTACK,)), *record.sources[1:])
    kept = (KeptSample(doc_id=ATTACK, domain=ATTACK, source=ATTACK, text=ATTACK),)
    stages = (
        *record.stages[:2],
        dataclasses.replace(record.stages[2], name=ATTACK, reasons={ATTACK: 221}),
        *record.stages[3:],
    )
    tokens = dataclasses.replace(
        record.tokenizer,
        domains=tuple(dataclasses.replace(d, domain=ATTACK + d.domain) for d in record.tokenizer.domains),
    )
    return dataclasses.replace(record, sources=sources, kept=kept, stages=stages, tokenizer=tokens)


@pytest.mark.parametrize("policy", ["with its policy", "without its policy"])
def test_a_hostile_document_is_shown_and_not_run(attacked, tmp_path, policy):
    """Escaping and the policy are two fences: each must hold alone, so the second page has only the first."""
    page = render(attacked)
    if policy == "without its policy":
        page, removed = POLICY.subn("", page)
        assert removed == 1
    document, console = browse(page, tmp_path)
    assert title(document) == "quickstart · penstock run"
    assert console == []
    assert "<script" not in document
    assert not re.search(r"<[^>]*\son\w+=", document)
    shown = html.unescape(re.sub("<[^>]*>", "", document))
    assert shown.count("<script>document.title='owned';console.error('owned')</script>") >= 6
    assert "⟨ESC⟩[31m ⟨U+202E⟩exe.txt" in shown
    assert len(re.findall('<section id="', document)) == 19


def test_the_policy_alone_stops_a_script_that_was_let_through(bare, tmp_path):
    page = render(bare).replace("</main>", "<script>document.title='owned'</script></main>")
    document, console = browse(page, tmp_path)
    assert title(document) == "bare · penstock run"
    assert any("Content Security Policy" in line for line in console)


def test_the_browser_does_run_what_nothing_stops(bare, tmp_path):
    """The control: without both fences the attack succeeds, so the tests above could fail."""
    page = POLICY.sub("", render(bare)).replace("</main>", f"{ATTACK}</main>")
    document, console = browse(page, tmp_path)
    assert title(document) == "owned"
    assert any("owned" in line for line in console)
