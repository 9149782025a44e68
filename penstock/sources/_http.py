"""An HTTP response as crawlers store it: status, headers, and the body without its encodings.

Crawlers that store a body already decoded often keep its headers, so a body that does not begin as its encoding does
is taken as it is; one that breaks off later gives what it held. Nothing is decoded beyond ``limit`` bytes.

Price: gzip 300 MB/s of decoded text, brotli 400 MB/s. Memory: the body, its decoded form, and 2 MiB (zstd: 8 MiB).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from penstock.sources._streams import BLOCK

MAX_HEADER = 64 << 10
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';]+)", re.IGNORECASE)
_PIECE = 16384
_ZSTD_PIECE = 256  # its decoder has no bound on what it returns; this much gives some 8 MiB

# bytes to decode -> (decoded, bytes not looked at yet, whether to call again)
_Step = Callable[[bytes], tuple[bytes, bytes, bool]]


class BodyTooLargeError(Exception):
    """A body decodes to more than the limit. Never leaves this package."""


class UnknownEncodingError(Exception):
    """A body has an encoding that is not read here; the message names it. Never leaves this package."""


class _BrokenError(Exception):
    """Bytes are not what their encoding allows."""


class Response(NamedTuple):
    status: str
    headers: dict[str, str]  # by lower-case name
    body: bytes  # as stored

    @property
    def charset(self) -> str | None:
        found = _CHARSET.search(self.headers.get("content-type", ""))
        return found[1] if found else None


def parse_response(content: bytes) -> Response | None:
    """Status, headers and body; None where there is no status line or the headers do not end."""
    status = _STATUS.match(content)
    if status is None:
        return None
    end = BLANK_LINE.search(content, 0, MAX_HEADER)
    if end is None:
        return Response(status[1].decode(), parse_fields(content), b"") if len(content) <= MAX_HEADER else None
    return Response(status[1].decode(), parse_fields(content[: end.start()]), content[end.end() :])


def parse_fields(header: bytes) -> dict[str, str]:
    """Header fields by lower-case name, the first of each; the first line is no field."""
    out: dict[str, str] = {}
    last = None
    for line in header.decode("utf-8", "replace").split("\n")[1:]:
        if line[:1] in (" ", "\t") and last is not None:
            out[last] += " " + line.strip()  # folded
            continue
        name, colon, value = line.partition(":")
        last = name.strip().lower() if colon else None
        if last is not None:
            last = None if last in out else last
        if last is not None:
            out[last] = value.strip()
    return out


def media_type(value: str | None) -> str:
    """``text/html`` of ``text/html; charset=utf-8``."""
    return (value or "").split(";", 1)[0].strip().lower()


def decoded_body(response: Response, limit: int) -> bytes:
    """The body without transfer and content encoding.

    Raises:
        BodyTooLargeError: it has more than ``limit`` bytes.
        UnknownEncodingError: it is encoded in a way that browsers do not ask for, or more than three times.
    """
    body, headers = response.body, response.headers
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _unchunked(body)
    encodings = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    encodings = [name for name in encodings if name not in ("", "identity", "none", "utf-8")]
    if len(encodings) > 3:
        raise UnknownEncodingError(f"{len(encodings)} encodings, one in another")
    for name in reversed(encodings):
        body = _inflated(body, name, limit)
    return body


def _unchunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while found := _CHUNK.match(body, at):
        size = int(found[1], 16)
        at = found.end()
        parts.append(body[at : at + size])
        at += size
        if size == 0 or at >= len(body):
            return b"".join(parts)
        at += 2 if body[at : at + 2] == b"\r\n" else 1 if body[at : at + 1] == b"\n" else 0
    # the first line is no length: never chunked. A later one: what came before it
    return b"".join(parts) if parts else body


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    step: _Step
    if name in ("gzip", "x-gzip"):
        step = _zlib_step(zlib.decompressobj(wbits=31))
    elif name == "deflate":
        # RFC 9110 means zlib's form, and some servers send the bare stream
        zlib_form = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
        step = _zlib_step(zlib.decompressobj(wbits=15 if zlib_form else -15))
    elif name == "br":
        step = _brotli_step()
    elif name == "zstd":
        step = _zstd_step()
    else:
        raise UnknownEncodingError(name)
    out: list[bytes] = []
    size = 0
    for at in range(0, len(body), _PIECE):
        piece = body[at : at + _PIECE]
        more = True
        while more:
            try:
                data, piece, more = step(piece)
            except _BrokenError:
                return b"".join(out) if size else body
            size += len(data)
            if size > limit:
                raise BodyTooLargeError
            out.append(data)
    return b"".join(out)


def _zlib_step(decoder: Any) -> _Step:
    def step(piece: bytes) -> tuple[bytes, bytes, bool]:
        try:
            data = b"" if decoder.eof else decoder.decompress(piece, BLOCK)
        except zlib.error as error:
            raise _BrokenError from error
        # a full block may leave output behind with all input taken
        return data, decoder.unconsumed_tail, not decoder.eof and len(data) >= BLOCK

    return step


def _brotli_step() -> _Step:
    import brotli

    decoder = brotli.Decompressor()

    def step(piece: bytes) -> tuple[bytes, bytes, bool]:
        if decoder.is_finished():
            return b"", b"", False
        try:
            data = decoder.process(piece, output_buffer_limit=BLOCK)
        except brotli.error as error:
            raise _BrokenError from error
        # it may hold output with all input taken, so only an empty answer says that there is no more
        return data, b"", bool(data) and not decoder.is_finished()

    return step


def _zstd_step() -> _Step:
    import zstandard

    # RFC 9659: in HTTP a window has at most 8 MiB
    decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()

    def step(piece: bytes) -> tuple[bytes, bytes, bool]:
        if decoder.eof:
            return b"", b"", False
        try:
            return decoder.decompress(piece[:_ZSTD_PIECE]), piece[_ZSTD_PIECE:], len(piece) > _ZSTD_PIECE
        except zstandard.ZstdError as error:
            raise _BrokenError from error

    return step
