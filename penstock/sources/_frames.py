"""Records of a WARC file (ISO 28500), cut out without understanding them, in bounded memory and past damage.

A record is "WARC/1.x", header fields, an empty line, Content-Length bytes and two line ends. The framing is ours
because warcio 1.8 and fastwarc 2.0 both stop at the first damaged record, hand out a record that is cut short as a
whole one, and take a wrong length at its word; what they would save beside that is the reading of header lines.

Where every record is a gzip member of its own, as the standard asks and crawlers write, a damaged member costs itself:
reading goes on at the next member that begins with "WARC/". A wrong record costs itself up to the next "WARC/" after an
empty line, in its member or in the file that is not compressed. In one gzip or zstd stream over all records damage
costs the rest.

Price: 39,000 records/s a core of 2 kB each in gzip members, mostly zlib. Memory: the longest record up to the limit,
and 2 MiB.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from penstock.sources._http import BLANK_LINE, MAX_HEADER, parse_fields
from penstock.sources._streams import BLOCK, CorruptFileError, blocks

_PIECE = 16384
_WINDOW = 256 << 10  # bytes of a damaged member that are searched for the one after it
_GZIP = b"\x1f\x8b\x08"
_BEGIN = b"WARC/"
_NEXT = re.compile(rb"\r?\n\r?\n(?=WARC/\d)")
_LONGEST_NEXT = 16
_LINE_ENDS = re.compile(rb"[\r\n]+")


class Framed(NamedTuple):
    """A record, or what is wrong with the file at its place."""

    number: int  # of the record in the file
    fields: dict[str, str]  # by lower-case name
    content: bytes | None  # None where it is longer than the limit or wrong
    size: int = 0
    wrong: str | None = None
    corrupt: bool = False  # the file is damaged, not the record


def framed_records(url: str, compression: str | None, *, stop: int, limit: int) -> Iterator[Framed]:
    """The records of a file in order.

    Args:
        stop: the file's size as it was listed, checked where it is not compressed.
        limit: bytes of content held; a longer one is passed over.
    """
    if compression == "gzip":
        streams: Iterator[Iterator[bytes]] = _GzipMembers(blocks(url, None)).members()
        whole = False
    else:
        streams = iter([blocks(url, compression, 0, stop if compression is None else None)])
        whole = True
    number = 0
    for stream in streams:
        reader = _Reader(stream)
        while True:
            for framed in _records(reader, number, limit, whole):
                number = framed.number + 1
                yield framed
            if reader.lost_from is None:
                break
            # a length that was followed without holding what it covered led beyond the end
            wrong = "Content-Length leads beyond the end"
            if compression is None:
                reader = _Reader(blocks(url, None, reader.lost_from, stop), reader.lost_from)
                found = reader.to_next(0)
            else:
                found = False
                reader.lost_from = None
            yield Framed(number, {}, None, wrong=wrong, corrupt=whole and not found)
            number += 1
            if not found:
                break
        if reader.damage is not None:
            yield Framed(number, {}, None, wrong=reader.damage, corrupt=True)
            number += 1


def _records(reader: _Reader, number: int, limit: int, whole: bool) -> Iterator[Framed]:
    """Records of one stream. ``whole``: it is all of the file, so that its end inside a record is damage to the file.

    Where the stream itself is damaged nothing is yielded for it; ``reader.damage`` says so.
    """
    data = reader.data
    while reader.skip_line_ends():
        reader.need(MAX_HEADER, until=BLANK_LINE)
        end = BLANK_LINE.search(data, 0, MAX_HEADER + 4)
        begins = data.startswith(_BEGIN)
        if not begins or end is None:
            if reader.damage is not None:
                return
            cut = end is None and len(data) < MAX_HEADER and (begins or _BEGIN.startswith(data[: len(_BEGIN)]))
            wrong = "ends inside a header" if cut else "no WARC header"
            yield Framed(number, {}, None, wrong=wrong, corrupt=(whole and cut) or number == 0)
            number += 1
            if not reader.to_next(0):
                return
            continue
        fields = parse_fields(bytes(data[: end.start()]))
        stated, first = fields.get("content-length", ""), end.end()
        if not (stated.isascii() and stated.isdigit()) or len(stated) > 18:
            yield Framed(number, fields, None, wrong=f"Content-Length: got {stated[:40]!r}")
            number += 1
            if not reader.to_next(end.start()):
                return
            continue
        size = int(stated)
        if size > limit:
            if not reader.drop(first + size):
                return
            yield Framed(number, fields, None, size)
            number += 1
            continue
        # with the line ends after it and the beginning of the next record
        reader.need(first + size + 4 + len(_BEGIN))
        if reader.damage is not None:
            return
        after = data[first + size : first + size + 4 + len(_BEGIN)]
        # some writers end records with fewer line ends, or more; then the next record has to follow
        ends = after.startswith(b"\r\n\r\n") or _BEGIN.startswith(after.lstrip(b"\r\n")[: len(_BEGIN)])
        if len(data) >= first + size and ends:
            yield Framed(number, fields, bytes(data[first : first + size]), size)
            number += 1
            reader.drop(first + size)
            continue
        short = len(data) < first + size
        wrong = f"ends after {len(data) - first} of {size} bytes" if short else f"no record ends after {size} bytes"
        found = reader.to_next(end.start())
        yield Framed(number, fields, None, wrong=wrong, corrupt=whole and short and not found)
        number += 1
        if not found:
            return


class _Reader:
    """A stream of bytes with a view of what comes next.

    ``damage`` says why the stream broke off, ``lost_from`` where the content began that led beyond its end.
    """

    def __init__(self, stream: Iterator[bytes], start: int = 0) -> None:
        self.data = bytearray()  # read and not dropped
        self.damage: str | None = None
        self.lost_from: int | None = None
        self._stream = stream
        self._offset = start  # of data[0] in the stream
        self._ended = False

    def _fill(self) -> bool:
        if self._ended:
            return False
        try:
            block = next(self._stream, None)
        except CorruptFileError as error:
            self.damage, block = str(error), None
        if block is None:
            self._ended = True
            return False
        self.data += block
        return True

    def need(self, size: int, until: re.Pattern[bytes] | None = None) -> bool:
        """Whether ``size`` bytes could be read, or up to ``until`` within them."""
        searched = 0
        while len(self.data) < size:
            if until is not None:
                if until.search(self.data, searched):
                    return True
                searched = max(0, len(self.data) - 4)
            if not self._fill():
                return False
        return True

    def skip_line_ends(self) -> bool:
        """Pass over empty lines; False at the end."""
        while self.need(1):
            found = _LINE_ENDS.match(self.data)
            self.drop(found.end() if found else 0)
            if self.data:
                return True
        return False

    def drop(self, size: int) -> bool:
        """Pass over bytes, holding none of those not read yet; False, and ``lost_from``, where there are fewer."""
        start = self._offset
        while len(self.data) < size:
            size -= len(self.data)
            self._offset += len(self.data)
            self.data.clear()
            if not self._fill():
                if self.damage is None:
                    self.lost_from = start
                return False
        del self.data[:size]
        self._offset += size
        return True

    def to_next(self, start: int) -> bool:
        """Pass over bytes up to the next record after an empty line from ``start`` on; False at the end."""
        while True:
            found = _NEXT.search(self.data, start)
            if found:
                self.drop(found.end())
                return True
            passed = max(0, len(self.data) - _LONGEST_NEXT)
            if passed > start:
                self.drop(passed)
                start = 0
            if not self._fill():
                return False


class _GzipMembers:
    """The members of a gzip file one by one; after a damaged one those that can be found behind it."""

    def __init__(self, raw: Iterator[bytes]) -> None:
        self._raw = raw
        self._data = b""
        self._at = 0  # bytes of data already decoded
        self._members = 0

    def _fill(self) -> bool:
        block = next(self._raw, None)
        if block is None:
            return False
        self._data = self._data[self._at :] + block
        self._at = 0
        return True

    def members(self) -> Iterator[Iterator[bytes]]:
        """Each to be read to its end, or to its CorruptFileError, before the next is asked for."""
        while True:
            while self._at < len(self._data) and self._members and self._data[self._at] == 0:
                self._at += 1  # padding
            if self._at < len(self._data) or self._fill():
                if self._members and self._data[self._at] == 0:
                    continue
                member = self._member()
                yield member
                for _ in _quietly(member):
                    pass
            else:
                return

    def _member(self) -> Iterator[bytes]:
        decoder = zlib.decompressobj(wbits=31)
        self._members += 1
        seen = bytearray()
        while not decoder.eof:
            if self._at == len(self._data) and not self._fill():
                self._to_next(seen)
                raise CorruptFileError("the compressed stream ends early")
            piece = self._data[self._at : self._at + _PIECE]
            self._at += len(piece)
            seen += piece
            del seen[: max(0, len(seen) - _WINDOW)]
            try:
                yield decoder.decompress(piece, BLOCK)
                # at the end of a member both this and unused_data hold what comes after it
                while decoder.unconsumed_tail and not decoder.eof:
                    yield decoder.decompress(decoder.unconsumed_tail, BLOCK)
            except zlib.error as error:
                self._to_next(seen)
                raise CorruptFileError(f"a gzip member is damaged: {error}") from error
        self._at -= len(decoder.unused_data)

    def _to_next(self, seen: bytearray) -> None:
        """Go to the next member that holds a record: in what was read of the damaged one, or after it."""
        self._data = bytes(seen[1:]) + self._data[self._at :]
        self._at = 0
        while True:
            found = self._data.find(_GZIP, self._at)
            if found < 0:
                self._at = max(self._at, len(self._data) - len(_GZIP) + 1)
                if not self._fill():
                    self._at = len(self._data)
                    return
                continue
            self._at = found
            if len(self._data) - found < _PIECE and self._fill():
                continue
            if _holds_record(self._data[self._at : self._at + _PIECE]):
                return
            self._at += 1


def _holds_record(piece: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=31).decompress(piece, len(_BEGIN)) == _BEGIN
    except zlib.error:
        return False


def _quietly(member: Iterator[bytes]) -> Iterator[bytes]:
    """What is left of a member whose reader stopped; its damage was told or cost nothing."""
    try:
        yield from member
    except CorruptFileError:
        return
