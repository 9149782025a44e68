"""A web page to text: charset, main content without boilerplate, title and date.

Charset: a byte order mark, the HTTP header, the page's meta element, then detection from the bytes; the first under
which every byte decodes is taken, and where none is, the first with U+FFFD for what does not decode.

Two extractors. ``resiliparse`` (github.com/chatnoir-eu/chatnoir-resiliparse) parses as browsers do and keeps the main
content by rules; DataComp-LM (arXiv 2406.11794, section 4.2) trained on its text and on trafilatura's and found them
alike. ``trafilatura`` (Barbaresi 2021, github.com/adbar/trafilatura) keeps less that is not prose, reads dates from
more places and is eight times slower.

Pages can be made to take hours or all memory: elements nested without end, one with ten thousands of attributes, bold
elements that are never closed and that a parser must open again in every later paragraph. So pages are looked over
before they are parsed, and their depth is read from the parsed tree before anything walks it: ``too_large``,
``html_too_deep``, ``html_too_complex``. What is within the limits takes time in proportion to its length.

Both are functions of the page: trafilatura's memory of passages seen in other pages is off, and its dates end with the
day of the crawl and not with today.

Price a core, all steps from the WARC record on, on pages of 50 kB (documentation of Rust): resiliparse 320 pages/s,
trafilatura 40 pages/s; of resiliparse's share a quarter is looking pages over.
Of pages made to hurt the worst found takes 14 s of the first and about 20 s of the second, and 500 MB.
"""

from __future__ import annotations

import codecs
import functools
import re
from typing import Any, NamedTuple

from penstock.errors import MissingExtraError
from penstock.sources._origin import date_text

EXTRACTORS = ("resiliparse", "trafilatura")
MAX_HTML_BYTES = 10 << 20  # longer pages are lists and dumps; the largest article of Wikipedia has 3 MB
MAX_DEPTH = 250  # libxml2, which trafilatura parses with, stops at 256
MAX_ATTRIBUTES = 256  # of one element: parsers compare each with all before it
# elements, those opened again included; trafilatura takes 0.1 ms for each
MAX_NODES = {"resiliparse": 500_000, "trafilatura": 50_000}

# Tags as the HTML standard cuts them (section 13.2.5), attribute values and text that is no markup skipped. Every
# repetition is possessive or ends at the end of the page at the latest, so that the scan is linear.
_ATTRIBUTE = r"""(?:[\s/]++|[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+)"""
_MARKUP = re.compile(
    rf"""<(?:
        !--(?:-?>|(?s:.*?)(?:--!?>|\Z))
      | [!?][^>]*+>?
      | (?P<raw>script|style|textarea|title|xmp|iframe|noembed|noframes|plaintext)(?=[\s/>]){_ATTRIBUTE}*+>?
        (?s:.*?)(?:</(?P=raw)(?=[\s/>])|\Z)
      | (?P<end>/?)(?P<name>[a-z][^\s/>]*+){_ATTRIBUTE}*+>?
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_ONE_ATTRIBUTE = re.compile(_ATTRIBUTE)
_START = re.compile(rf"<(?P<name>[a-z][^\s/>]*+){_ATTRIBUTE}*+", re.IGNORECASE)
_REOPENED = frozenset(("b", "big", "code", "em", "font", "i", "s", "small", "strike", "strong", "tt", "u"))
_LONG = 2 * MAX_ATTRIBUTES  # shorter markup cannot hold more attributes than allowed

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_TITLES = ("og:title", "twitter:title", "dc.title", "citation_title")
_DATES = (
    "article:published_time",
    "og:article:published_time",
    "datepublished",
    "citation_publication_date",
    "citation_date",
    "dc.date",
    "dc.date.issued",
    "dcterms.date",
    "dcterms.created",
    "dcterms.issued",
    "pubdate",
    "publishdate",
    "publish_date",
    "parsely-pub-date",
    "sailthru.date",
    "date",
)
_A_DATE = re.compile(r"\d{4}-\d{2}")


class Page(NamedTuple):
    """What a page gives: text of its main content, or the reason why there is none."""

    text: str | None
    title: str | None = None
    date: str | None = None
    reason: str | None = None
    detail: str | None = None


def check_extractor(name: str) -> None:
    """Load an extractor.

    Raises:
        MissingExtraError: it is not installed.
    """
    if name == "trafilatura":
        try:
            import trafilatura  # noqa: F401
        except ImportError as error:
            raise MissingExtraError.of("trafilatura", "web") from error


def decode(body: bytes, declared: str | None, *, html: bool) -> str:
    """Text of a page in the first of its likely charsets that fits.

    Args:
        declared: charset of the HTTP header.
        html: whether a meta element may name another.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    first = map_encoding_to_html5(declared, fallback_utf8=False) if declared else None
    likely: list[Any] = [
        lambda: first,
        lambda: detect_encoding(body, from_html_meta=html),
        lambda: detect_encoding(body),
    ]
    tried: dict[str, None] = {}
    for find in likely:
        charset: str | None = find()
        if charset is None or charset in tried:
            continue
        tried[charset] = None
        try:
            return body.decode(charset)
        except UnicodeDecodeError:
            pass
    return body.decode(next(iter(tried), "utf-8"), "replace")


def page_of(html: str, *, extractor: str, url: str | None, crawled: str | None) -> Page:
    """The main content of a page.

    Args:
        crawled: day of the crawl, YYYY-MM-DD, which the page cannot be younger than.
    """
    if len(html) > MAX_HTML_BYTES:
        return Page(None, reason="too_large", detail=f"{len(html)} characters of HTML, allowed {MAX_HTML_BYTES}")
    found = _complexity(html, MAX_NODES[extractor])
    if found is not None:
        return Page(None, reason="html_too_complex", detail=found)
    from resiliparse.parse.html import HTMLTree

    tree: Any = HTMLTree.parse(html)
    if tree.document.query_selector(_deeper()) is not None:
        return Page(None, reason="html_too_deep", detail=f"elements nested more than {MAX_DEPTH} deep")
    page = _trafilatura(html, tree, url, crawled) if extractor == "trafilatura" else _resiliparse(tree)
    if page.text is not None and not page.text.strip():
        return page._replace(text=None, reason="no_text")
    return page


def _complexity(html: str, most: int) -> str | None:
    """What makes a page too much for a parser; None for nearly all pages.

    Where a browser would read markup and this scan does not (style elements inside SVG), more is counted, never less.
    """
    nodes = 0
    open_now: dict[str, int] = {}
    active = 0
    foreign = "<svg" in html or "<math" in html or "<SVG" in html or "<MATH" in html
    for found in _MARKUP.finditer(html):
        name = found["name"]
        if name is None:
            # inside SVG this may be markup after all: what opens counts, what closes does not
            inside = found.group() if foreign else ""
            for start in _START.finditer(inside):
                if len(inside) > _LONG and _many_attributes(start.group()):
                    return f"more than {MAX_ATTRIBUTES} attributes of one element"
                active += start["name"].lower() in _REOPENED
                nodes += 1 + active
        else:
            if len(name) <= 6 and name.lower() in _REOPENED:
                name = name.lower()
                if not found["end"]:
                    open_now[name] = open_now.get(name, 0) + 1
                    active += 1
                elif open_now.get(name):
                    open_now[name] -= 1
                    active -= 1
            if found.end() - found.start() > _LONG and _many_attributes(found.group()):
                return f"more than {MAX_ATTRIBUTES} attributes of one element"
            nodes += 1 + active
        if nodes > most:
            return f"more than {most} elements"
    return None


def _many_attributes(markup: str) -> bool:
    return sum(1 for found in _ONE_ATTRIBUTE.finditer(markup) if not found.group().isspace()) > MAX_ATTRIBUTES


@functools.cache
def _deeper() -> str:
    """A selector of elements more than ``MAX_DEPTH`` deep: found in C, where a walk would take longer than the rest."""
    return " > ".join(["*"] * (MAX_DEPTH + 1))


def _resiliparse(tree: Any) -> Page:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(tree, main_content=True, alt_texts=False, comments=False)
    return Page(text, *_metadata(tree))


def _trafilatura(html: str, tree: Any, url: str | None, crawled: str | None) -> Page:
    import trafilatura

    dates = {"extensive_search": False, "original_date": True} | ({"max_date": crawled} if crawled else {})
    try:
        found: Any = trafilatura.bare_extraction(
            html,
            url=url,
            include_comments=False,
            deduplicate=False,
            with_metadata=True,
            date_extraction_params=dates,
        )
    # it leaves errors of its parts to its caller; the page is counted, the run goes on
    except Exception as error:  # noqa: BLE001
        return Page(None, reason="no_text", detail=f"{type(error).__name__}: {error}"[:200])
    title, date = _metadata(tree)
    if found is None:
        return Page(None, title, date, reason="no_text")
    return Page(found.text or "", _line(found.title) or title, found.date or date)


def _metadata(tree: Any) -> tuple[str | None, str | None]:
    """Title and date of publication by the page's own word; a date only where it is ISO 8601 from the month on."""
    given: dict[str, str] = {}
    head = tree.head
    for meta in head.get_elements_by_tag_name("meta") if head is not None else ():
        name = meta.getattr("property") or meta.getattr("name") or meta.getattr("itemprop")
        content = meta.getattr("content")
        if name and content:
            given.setdefault(name.lower(), content)
    titles = (_line(given.get(name)) for name in _TITLES)
    dates = (date_text(given.get(name)) for name in _DATES)
    date = next((date for date in dates if date and _A_DATE.match(date)), None)
    return next((title for title in titles if title), None) or _line(tree.title), date


def _line(text: str | None) -> str | None:
    return " ".join(text.split()) or None if text else None
