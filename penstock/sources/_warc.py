"""Web pages from WARC files and texts from WET files, one document a page.

A row is an HTTP response or a conversion; its number is the record's number in the file. Records that describe the
crawl (warcinfo, request, metadata, revisit, resource, continuation, name look-ups) have a number and are no rows. A row
whose status is 200 and whose type is HTML, XHTML or plain text becomes a document with its URL, title and date (the
page's own, else the crawl's); others are dropped as ``http_status``, ``not_html``, ``no_text``, ``too_large``,
``invalid_http``, ``unknown_encoding``, or as ``_html.py`` says. A record that breaks the format is ``invalid_warc``;
where the file is damaged a row ``corrupt_file`` stands for what was lost (``_frames.py``).

Memory: one record, its decoded body and its text, each of at most ``limit`` bytes, beside what ``_html.py`` takes.
Price: that of ``_html.py``, but for WET 10,000 records/s of 4 kB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.sources import _html
from penstock.sources._frames import Framed, framed_records
from penstock.sources._http import (
    MAX_HEADER,
    BodyTooLargeError,
    UnknownEncodingError,
    decoded_body,
    media_type,
    parse_response,
)
from penstock.sources._records import CORRUPT, Record, is_blank, too_large
from penstock.sources.base import Origin

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_LOOKS_LIKE_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE)


def warc_records(url: str, compression: str | None, *, stop: int, extractor: str, limit: int) -> Iterator[Record]:
    """The rows of one file in order.

    Args:
        stop: size of the file as it was listed, checked where it is not compressed.
        extractor: one of ``_html.EXTRACTORS``.
        limit: bytes of a record's content, of its decoded body and of its text.
    """
    for framed in framed_records(url, compression, stop=stop, limit=limit + MAX_HEADER):
        kind, media = framed.fields.get("warc-type", "").lower(), media_type(framed.fields.get("content-type"))
        if framed.wrong is not None:
            yield Record(framed.number, None, None, CORRUPT if framed.corrupt else "invalid_warc", framed.wrong)
        elif kind == "conversion" or (kind == "response" and media in ("application/http", "")):
            if framed.content is None:
                yield too_large(framed.number, framed.size, limit)
            elif kind == "conversion":
                yield _conversion(framed, framed.content, limit)
            else:
                yield _response(framed, framed.content, extractor, limit)


def _conversion(framed: Framed, content: bytes, limit: int) -> Record:
    """Text that a crawler took from a page."""
    number, media = framed.number, media_type(framed.fields.get("content-type"))
    if media not in ("", "text/plain"):
        return Record(number, None, None, "not_html", media)
    if len(content) > limit:
        return too_large(number, len(content), limit)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return Record(number, None, None, "invalid_utf8", f"byte {error.start}", content)
    if is_blank(content):
        return Record(number, None, None, "no_text")
    return Record(number, content, origin=_origin(framed))


def _response(framed: Framed, content: bytes, extractor: str, limit: int) -> Record:
    """The main content of a page, or a plain text."""
    number = framed.number
    response = parse_response(content)
    if response is None:
        return Record(number, None, None, "invalid_http", "no status line, or headers without end", content[:1000])
    if response.status != "200":
        return Record(number, None, None, "http_status", response.status)
    media = media_type(response.headers.get("content-type"))
    if media and media not in (*_HTML_TYPES, "text/plain"):
        return Record(number, None, None, "not_html", media)
    try:
        body = decoded_body(response, limit)
    except BodyTooLargeError:
        return Record(number, None, None, "too_large", f"the body decodes to more than {limit} bytes")
    except UnknownEncodingError as error:
        return Record(number, None, None, "unknown_encoding", str(error))
    if len(body) > limit:
        return too_large(number, len(body), limit)
    if not media and _LOOKS_LIKE_HTML.search(body, 0, 1024) is None:
        return Record(number, None, None, "not_html", "no content type")
    html = media != "text/plain"
    text = _html.decode(body, response.charset, html=html)
    if html:
        crawled = framed.fields.get("warc-date", "")[:10]
        page = _html.page_of(text, extractor=extractor, url=_url(framed), crawled=crawled or None)
    else:
        page = _html.Page(text) if text.strip() else _html.Page(None, reason="no_text")
    if page.text is None:
        return Record(number, None, None, page.reason, page.detail, body)
    raw = page.text.encode("utf-8", "replace")
    # UTF-8 may take three bytes where the page's charset takes one
    if len(raw) > limit:
        return too_large(number, len(raw), limit)
    return Record(number, raw, origin=_origin(framed, page.title, page.date))


def _origin(framed: Framed, title: str | None = None, date: str | None = None) -> Origin:
    return Origin(_url(framed), title, date or framed.fields.get("warc-date") or None)


def _url(framed: Framed) -> str | None:
    return framed.fields.get("warc-target-uri", "").strip("<>") or None
