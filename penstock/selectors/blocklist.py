"""Drop documents by lists that you bring: of domains, URLs and words of URLs, and of words of the text.

Lists are files: UTF-8, one entry a line, blank lines and lines that begin with "#" left out, ``.gz`` and ``.zst``
read as they are; a path, a folder or a pattern. penstock ships none. Their content belongs to the key of the step.

``UrlBlocklist`` follows the URL filter of FineWeb (Penedo et al., arXiv 2406.17557, section 3.3) and of RefinedWeb
(arXiv 2306.01116, appendix G.1); reasons are the statistics keys of datatrove's URLFilter:

    domain               the host, or a domain it lies below, is listed (``example.com`` stops ``a.example.com``;
                         datatrove gives ``domain`` or ``subdomain``, by the public suffix list)
    url                  the address is listed, whatever its scheme, "www.", fragment and last slash
    hard_blacklisted     one of ``words`` is a word of the URL
    soft_blacklisted     ``soft_word_threshold`` different ``soft_words`` are
    blacklisted_subword  one of ``subwords`` is anywhere in the letters and digits of the URL

Words of a URL are runs of ASCII letters and digits, whatever their case. A document without a URL stays.

``WordBlocklist`` finds whole words, as C4 does with its list of bad words (Raffel et al., arXiv 1910.10683, section
2.2): both sides are cut into folded words (``penstock.selectors.folded``: compatibility form, full case folding,
Unicode letters, marks and digits; one character of a script written without spaces is a word), and an entry of several
words is found where they follow one another, whatever punctuation stands between. Words are compared by 64-bit hashes:
with a million entries a text of 10 million words is taken wrongly once in two million.

Price, with a million entries a list on one core: a list is loaded once a process in 3 to 4 s and costs 24 bytes and its
own bytes an entry (words: 16 to 24 bytes). A URL takes 1 to 4 µs a list, by the words it has; words of the text are
looked up at about 70 MB/s.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import ConfigError, InputError
from penstock.selectors.folded import folded_words

if TYPE_CHECKING:
    from penstock.selectors.blocklist_kernels import UrlLists, WordTable
    from penstock.sources.base import InputFile

URL_REASONS = ("domain", "url", "hard_blacklisted", "soft_blacklisted", "blacklisted_subword")
WORD_REASON = "document_removed_with_badwords"
_KINDS = ("domains", "urls", "words", "soft_words", "subwords")


@dataclass(frozen=True, kw_only=True)
class UrlBlocklist:
    """Filter: drop documents by their URL. Every field but the threshold is a list of paths."""

    name: ClassVar[str] = "urls"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("url",)
    adds: ClassVar[tuple[str, ...]] = ()

    domains: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    soft_words: tuple[str, ...] = ()
    soft_word_threshold: int = 2
    subwords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in _KINDS:
            _check_paths(field, getattr(self, field))
        if not any(getattr(self, field) for field in _KINDS):
            raise ConfigError(
                f"urls: got no list, allowed one or more of {', '.join(_KINDS)}; give paths of text files, or null"
            )
        if not 1 <= self.soft_word_threshold <= 64:
            raise ConfigError(
                f"soft_word_threshold: got {self.soft_word_threshold}, allowed 1 to 64; datatrove's default is 2"
            )

    def files(self) -> list[InputFile]:
        """Every file that the decisions depend on. Raises InputError for one that is not there."""
        return [file for kind in _KINDS for file in _located(getattr(self, kind))]

    def setup(self) -> None:
        """Read the lists, and compile or load what an earlier process compiled."""
        self._decide(pa.array(["https://a.example/b"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The reason or null for each row; a null URL is kept. Shape (rows,)."""
        return self._decide(batch["url"])

    def _decide(self, urls: pa.Array) -> pa.StringArray:
        from penstock.selectors import blocklist_kernels

        lists = _url_lists(tuple(tuple(_located(getattr(self, kind))) for kind in _KINDS))
        codes = blocklist_kernels.judge_urls(_plain_hosts(urls), lists, self.soft_word_threshold)
        return pa.array([None, *URL_REASONS], pa.string()).take(pa.array(codes))


@dataclass(frozen=True, kw_only=True)
class WordBlocklist:
    """Filter: drop documents in which listed words or phrases occur at least ``minimum`` times."""

    name: ClassVar[str] = "words"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    lists: tuple[str, ...]
    minimum: int = 1

    def __post_init__(self) -> None:
        _check_paths("lists", self.lists)
        if not self.lists:
            raise ConfigError("lists: got none, allowed one or more paths of text files; set words to null for none")
        if self.minimum < 1:
            raise ConfigError(f"minimum: got {self.minimum}, allowed >= 1; set words to null to switch the filter off")

    def files(self) -> list[InputFile]:
        """Every file that the decisions depend on. Raises InputError for one that is not there."""
        return _located(self.lists)

    def setup(self) -> None:
        """Read the lists, and compile or load what an earlier process compiled."""
        self._decide(pa.array(["a"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The reason or null for each row. Shape (rows,)."""
        return self._decide(batch["text"])

    def _decide(self, text: pa.Array) -> pa.StringArray:
        from penstock.selectors import blocklist_kernels

        words = folded_words(text)
        table = _word_table(tuple(_located(self.lists)))
        found = blocklist_kernels.count_listed(words.rows, words.hashes, table)
        return pc.if_else(pa.array(found >= self.minimum), pa.scalar(WORD_REASON), pa.scalar(None, pa.string()))


def read_list(file: InputFile) -> pa.LargeStringArray:
    """Entries of one list, without whitespace around them.

    Raises:
        InputError: the file cannot be read or decompressed, is not UTF-8, or holds no entry.
    """
    from penstock.sources._streams import CorruptFileError, blocks, compression_of

    try:
        raw = b"".join(blocks(file.path, compression_of(file.path)))
    except CorruptFileError as error:
        raise InputError(f"{file.path}: cannot be decompressed ({error}); put a whole file there") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file.path}: line {line} is not UTF-8 (byte {raw[error.start]:#04x}); allowed UTF-8 text with one entry "
            "a line; convert the file"
        ) from error
    lines = pc.utf8_trim_whitespace(pc.split_pattern(pa.scalar(text, pa.large_string()), "\n").values)
    entries = lines.filter(pc.invert(pc.or_(pc.equal(lines, ""), pc.starts_with(lines, "#"))))
    if not len(entries):
        raise InputError(
            f"{file.path}: holds no entry; allowed UTF-8 text with one entry a line; fill it or leave it out"
        )
    return entries


def _check_paths(field: str, paths: Any) -> None:
    if isinstance(paths, str) or not all(isinstance(path, str) and path for path in paths):
        raise ConfigError(f"{field}: got {paths!r}, allowed a list of paths of text files; write [{paths!r}]")


def _located(paths: Iterable[str]) -> list[InputFile]:
    from penstock.sources._locate import locate

    return [file for path in paths for file in locate(path, name=None, any_format=True)]


def _plain_hosts(urls: pa.Array) -> pa.Array:
    """``urls`` with names that are not ASCII as Punycode, which is how most lists and crawls write them."""
    odd = pc.fill_null(pc.invert(pc.string_is_ascii(urls)), False)
    if not pc.any(odd).as_py():
        return urls
    plain = pa.array([_plain_host(url) for url in urls.filter(odd).to_pylist()], urls.type)
    return pc.replace_with_mask(urls, odd, plain)


def _plain_host(url: str) -> str:
    before, found, rest = url.partition("://")
    if not found:
        before, rest = "", url
    host, slash, path = rest.partition("/")
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        return url  # no name of a host: compared as it is written
    return f"{before}{found}{host}{slash}{path}"


@functools.lru_cache(maxsize=2)
def _url_lists(files: tuple[tuple[InputFile, ...], ...]) -> UrlLists:
    from penstock.selectors.blocklist_kernels import UrlLists

    def joined(group: tuple[InputFile, ...]) -> pa.Array:
        return pa.concat_arrays([pa.array([], pa.large_string()), *map(read_list, group)])

    domains, urls, words, soft, subwords = files
    return UrlLists.of(
        domains=pc.ascii_lower(_plain_hosts(joined(domains))),
        urls=_plain_hosts(joined(urls)),
        words=_letters_and_digits(joined(words), words),
        soft_words=_letters_and_digits(joined(soft), soft),
        subwords=_letters_and_digits(joined(subwords), subwords),
    )


def _letters_and_digits(entries: pa.Array, files: tuple[InputFile, ...]) -> pa.Array:
    plain = pc.ascii_lower(pc.replace_substring_regex(entries, "[^a-zA-Z0-9]+", ""))
    empty = pc.index(plain, "").as_py()
    if empty >= 0:
        raise InputError(
            f"{', '.join(file.path for file in files)}: entry {entries[empty].as_py()!r} has no ASCII letter or digit; "
            "allowed words of URLs; remove it"
        )
    return plain


@functools.lru_cache(maxsize=2)
def _word_table(files: tuple[InputFile, ...]) -> WordTable:
    from penstock.selectors.blocklist_kernels import WordTable

    entries = pa.concat_arrays([read_list(file) for file in files])
    words = folded_words(entries)
    empty = np.flatnonzero(np.diff(words.rows) == 0)
    if empty.size:
        raise InputError(
            f"{', '.join(file.path for file in files)}: entry {entries[int(empty[0])].as_py()!r} has no letter or "
            "digit; allowed words and phrases; remove it"
        )
    return WordTable.of(words.rows, words.hashes)
