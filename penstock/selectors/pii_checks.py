"""What makes an e-mail address, a telephone number, a card or a key: one check a kind, on ASCII bytes.

    email   RFC 5321's common form: a name of 64 characters at most, labels of 63, a top-level domain of letters that is
            no file extension ("logo@2x.png")
    ip      IPv4 and IPv6 by ``ipaddress``; public ones unless asked otherwise; no version or section number
    card    13 to 19 digits in one piece or in the groups that cards print, an issuer's range, Luhn's sum (ISO/IEC 7812)
    iban    the length of the country (ISO 13616 registry) and the remainder 1 modulo 97 (ISO 7064)
    ssn     numbers of the US Social Security Administration that can have been given out
    phone   written with "+" or "00": any country; else grouped as in one of the regions given, or after a word such as
            "tel"; valid by ``phonenumbers`` (Google's libphonenumber)
    key     tokens of known form (AWS, GitHub, GitLab, Slack, Google, OpenAI and the like, Stripe, npm, PyPI, Hugging
            Face), JSON web tokens, private key blocks, and quoted values given to a name such as ``api_key`` or
            ``password``: 16 letters and digits and more, with 3 bits of entropy each

Each check gets the bytes around a place and yields (start, stop, kind); pieces may overlap, the caller decides.

Price: 1 to 5 µs a place, 30 µs a telephone number.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

Found = tuple[int, int, str]

_EMAIL = re.compile(
    rb"[A-Za-z0-9_](?:[A-Za-z0-9_%+'&-]|\.(?=[A-Za-z0-9_%+'&-])){0,63}"
    rb"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])"
)
# top-level domains are no extensions of images, scripts and pages, apart from a few that are both and stay addresses
_EXTENSIONS = """
png jpg jpeg gif svg webp bmp ico tif tiff pdf css js jsx tsx html htm php xml json yaml yml txt csv mp3 mp4 webm exe
dll tar gz jar war
"""


def emails(data: bytes) -> Iterator[Found]:
    """Addresses in the run around an "@"."""
    for match in _EMAIL.finditer(data):
        name, _, host = match[0].partition(b"@")
        last = host.rpartition(b".")[2].decode().lower()
        known = last.isalpha() or last.startswith("xn--")
        if len(name) <= 64 and len(host) <= 253 and known and last not in _EXTENSIONS.split():
            yield match.start(), match.end(), "email"


_IPV4 = re.compile(rb"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)")
_NUMBERED = re.compile(
    rb"(?:\b(?:v|ec|ver|vers|version|release|rev|revision|build|section|sections|sec|sect|chapter|clause|article|"
    rb"paragraph|para|table|figure|fig|appendix|part|rule|item)\.?:?|\xc2\xa7)\s*$",
    re.IGNORECASE,
)


def ipv4(data: bytes, before: bytes, after: bytes, *, private: bool) -> Iterator[Found]:
    """Addresses in a number; ``before`` and ``after`` it stands some more text."""
    for match in _IPV4.finditer(data):
        if (match.end() == len(data) and re.match(rb"[A-Za-z_]|-[A-Za-z0-9]", after)) or (
            match.start() == 0 and (before[-1:] in (b"-", b".") or _NUMBERED.search(before))
        ):
            continue
        parts = [int(part) for part in match[0].split(b".")]
        # four small numbers are a version or a section more often than an address
        if max(parts) < 10 or any(len(p) > 1 and p[:1] == b"0" for p in match[0].split(b".")):
            continue
        if is_address(match[0].decode(), private=private):
            yield match.start(), match.end(), "ip"


def ipv6(data: bytes, *, private: bool) -> Iterator[Found]:
    """The address that a run of hextets is, less what ends a sentence."""
    address = data.rstrip(b":")
    if data.endswith(b"::"):
        address = data
    if is_address(address.decode(), private=private):
        yield 0, len(address), "ip"


def is_address(text: str, *, private: bool) -> bool:
    """Whether ``ipaddress`` reads it, as a public address unless ``private`` ones are meant as well."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return private or address.is_global


_CARDS = (
    re.compile(rb"(?<!\d)\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}(?!\d)"),
    re.compile(rb"(?<!\d)3\d{3}([ -]?)\d{6}\1\d{4,5}(?!\d)"),
)
_MORE_GROUPS_BEFORE = re.compile(rb"(?<!\d)\d{4}[ -]$")
_MORE_GROUPS_AFTER = re.compile(rb"[ -]\d{4}(?!\d)")
# (first digits from, to, lengths): the issuers' ranges
_ISSUERS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14,)),  # Diners Club
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("3528", "3589", (16,)),  # JCB
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "649", (16, 19)),
    ("65", "65", (16, 19)),
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
)


def cards(data: bytes) -> Iterator[Found]:
    """Payment cards in a number."""
    for pattern in _CARDS:
        for match in pattern.finditer(data):
            grouped = bool(match[1])
            if grouped and (
                _MORE_GROUPS_BEFORE.search(data[: match.start()]) or _MORE_GROUPS_AFTER.match(data[match.end() :])
            ):
                continue
            if data[: match.start()].endswith(b".") or re.match(rb"\.\d", data[match.end() :]):
                continue  # digits of a fraction
            if is_card(re.sub(rb"\D", b"", match[0]).decode()):
                yield match.start(), match.end(), "card"


def is_card(digits: str) -> bool:
    """Whether the digits are in an issuer's range, of its length, and pass Luhn's sum."""
    known = any(first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _ISSUERS)
    return known and luhn(digits)


def luhn(digits: str) -> bool:
    """Every second digit from the right doubled, nines cast out, the sum divisible by ten."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    total = sum(doubled[int(d)] if place % 2 else int(d) for place, d in enumerate(reversed(digits)))
    return total % 10 == 0


# length of an IBAN by country
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def ibans(data: bytes) -> Iterator[Found]:
    """The account number that begins here, in one piece or with single spaces."""
    length = _IBAN_LENGTHS.get(data[:2].decode("ascii", "replace"))
    if length is None:
        return
    match = re.match(rb"(?:[A-Z0-9] ?){%d}(?<! )(?![A-Za-z0-9_])" % length, data)
    if match and is_iban(match[0].replace(b" ", b"").decode()):
        yield 0, match.end(), "iban"


def is_iban(account: str) -> bool:
    """Length of its country and remainder 1 modulo 97 after the first four characters went to the end."""
    if _IBAN_LENGTHS.get(account[:2]) != len(account):
        return False
    return int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1


_SSN = re.compile(rb"(?<![\d-])(?!000|666|9)(\d{3})-(?!00)(\d\d)-(?!0000)(\d{4})(?!\d|-\d)")


def ssns(data: bytes) -> Iterator[Found]:
    """US social security numbers, written with hyphens."""
    for match in _SSN.finditer(data):
        yield match.start(), match.end(), "ssn"


_INTERNATIONAL = re.compile(rb"(?<!\d)(?:\+|00)[\s(]{0,2}[1-9](?:[ ().\-/]{0,2}\d){6,14}(?!\d|\.\d)")
_NATIONAL = re.compile(
    rb"(?<![\d.\-/])(?:"
    rb"(?:1[-. ])?\(\d{3}\) ?\d{3}[-. ]\d{4}"  # (212) 736-5000
    rb"|(?:1[-. ])?\d{3}([-. ])\d{3}\1\d{4}"  # 212-736-5000
    rb"|\(0\d{1,5}\) ?\d{2,4}(?:[ -]?\d{2,5}){1,3}"  # (020) 7946 0958
    rb"|0\d{1,5}([ ./-])\d{2,4}(?:[ -]?\d{2,5}){1,4}"  # 020 7946 0958
    rb")(?!\d|[./-]\d)"
)
_AFTER_WORD = re.compile(rb"(?<!\d)\d(?:[ ().\-/]{0,2}\d){6,14}(?!\d)")
_PHONE_WORD = re.compile(
    rb"(?:\b(?:tel|telephone|phone|ph|fon|fone|fax|mobile|mob|cell|cellphone|call|whatsapp|hotline)\b|\xe2\x98\x8e)"
    rb"(?: (?:us|me|no|number|at|on|is))?[.:# ]{0,4}\(?$",
    re.IGNORECASE,
)


def phones(data: bytes, before: bytes, regions: Sequence[str]) -> Iterator[Found]:
    """Telephone numbers in a number; ``before`` it stands some more text."""
    for match in _INTERNATIONAL.finditer(data):
        length = _phone_length(match[0], (None,))
        if length:
            yield match.start(), match.start() + length, "phone"
    for match in _NATIONAL.finditer(data):
        if any(is_phone(match[0].decode(), region) for region in regions):
            yield match.start(), match.end(), "phone"
    if _PHONE_WORD.search(before):
        first = _AFTER_WORD.search(data)
        length = _phone_length(first[0], regions) if first and first.start() <= 1 else 0
        if first and length:
            yield first.start(), first.start() + length, "phone"


_LAST_GROUP = re.compile(rb"[^\d]+\d+$")


def _phone_length(data: bytes, regions: Sequence[str | None]) -> int:
    """Bytes of the number that ``data`` begins with, 0 if it is none: what follows it may be another number."""
    while sum(48 <= byte < 58 for byte in data) >= 7:
        number = data.decode()
        plain = "+" + number[2:] if number.startswith("00") else number
        if any(is_phone(plain if region is None else number, region) for region in regions):
            return len(data)
        shorter = _LAST_GROUP.sub(b"", data)
        if shorter == data:
            return 0
        data = shorter
    return 0


def is_phone(number: str, region: str | None) -> bool:
    """Whether ``phonenumbers`` takes it as a number that can be given out, by its "+" or in the region."""
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False


_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9])(?:"
    rb"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}"  # AWS access key id
    rb"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{82}"
    rb"|glpat-[A-Za-z0-9_-]{20}"
    rb"|xox[abeoprs]-[0-9A-Za-z-]{10,}"  # Slack
    rb"|AIza[0-9A-Za-z_-]{35}"  # Google
    rb"|sk-(?:proj-|ant-|or-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}"  # OpenAI and the like
    rb"|[sr]k_(?:live|test)_[0-9A-Za-z]{16,}"  # Stripe
    rb"|npm_[A-Za-z0-9]{36}|pypi-AgEI[A-Za-z0-9_-]{50,}|hf_[A-Za-z0-9]{34,}"
    rb")(?![A-Za-z0-9])"
)
_JWT = re.compile(
    rb"(?<![A-Za-z0-9_-])(eyJ[A-Za-z0-9_-]{10,})\.eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{8,}(?![A-Za-z0-9_-])"
)
_NAMED = re.compile(
    rb"(?:api[_-]?key|apikey|secret|token|passw(?:or)?d|passwd|pwd|auth|credential|access[_-]?key|private[_-]?key|"
    rb"client[_-]?secret)[A-Za-z0-9_-]{0,20}[\"']?\s{0,3}(?::=?|=>?)\s{0,3}[\"']$",
    re.IGNORECASE,
)
LEAST_BITS = 3.0  # a character: English words have about 2.5 at these lengths, random base64 4 and more


def keys(data: bytes, before: bytes, after: bytes) -> Iterator[Found]:
    """Tokens in a run of letters, digits and ``+/=_.-``; ``before`` and ``after`` it stands some more text."""
    for match in _TOKENS.finditer(data):
        # a prefix of words, "sk-learn-something-or-other", is no key
        if match[0].isupper() or re.search(rb"\d", match[0]):
            yield match.start(), match.end(), "key"
    for match in _JWT.finditer(data):
        if _is_header(match[1]):
            yield match.start(), match.end(), "key"
    if after[:1] in (b'"', b"'") and before[-1:] == after[:1] and _NAMED.search(before) and bits(data) >= LEAST_BITS:
        yield 0, len(data), "key"


def _is_header(part: bytes) -> bool:
    """Whether the first part of a JSON web token names an algorithm."""
    try:
        header = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (binascii.Error, ValueError):
        return False
    return isinstance(header, dict) and "alg" in header


def bits(data: bytes) -> float:
    """Shannon entropy of the bytes, in bits a byte."""
    return -sum(n / len(data) * math.log2(n / len(data)) for n in Counter(data).values())


_BLOCK = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[^-]{0,16384}-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    rb"|[A-Za-z0-9+/=\s]{0,16384}[A-Za-z0-9+/=])?"
)
MOST_BLOCK = 17_000  # bytes of a private key with its lines


def key_blocks(data: bytes) -> Iterator[Found]:
    """The private key that begins here, up to its end or as far as it looks like one."""
    match = _BLOCK.match(data)
    if match:
        yield 0, match.end(), "key"
