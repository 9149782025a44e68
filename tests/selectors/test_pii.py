"""Personal data and secrets: planted pieces, look-alikes, policies. Run: pytest tests/selectors/test_pii.py"""

import base64
import json
import pickle
import random
import re
import string

import numpy as np
import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors import pii_checks
from penstock.selectors.normalise import content_hashes
from penstock.selectors.pii import KINDS, PiiFilter, PiiMask, PiiRules, find, masked
from penstock.work import apply

ALL = PiiRules(ssn="mask")


def pieces(*texts, rules=ALL):
    """(kind, text) of what is found in each text."""
    out = [[] for _ in texts]
    for row, _, _, kind, value in find(pa.array(texts, pa.string()), rules):
        out[row].append((kind, value.decode()))
    return out


# ── a corpus of planted pieces ───────────────────────────────────────────────────────────────────


def luhn_digit(digits):
    return next(d for d in string.digits if pii_checks.luhn(digits + d))


def card(rng):
    prefix, length = rng.choice(
        [("4", 16), ("51", 16), ("2345", 16), ("37", 15), ("6011", 16), ("3530", 16), ("36", 14)]
    )
    body = prefix + "".join(rng.choices(string.digits, k=length - len(prefix) - 1))
    digits = body + luhn_digit(body)
    cuts = {16: (4, 8, 12), 15: (4, 10), 14: (4, 10)}[length]
    gap = rng.choice(["", " ", "-"])
    return gap.join(digits[a:b] for a, b in zip((0, *cuts), (*cuts, length), strict=True))


def iban(rng):
    country, length, letters = rng.choice([("DE", 22, 0), ("GB", 22, 4), ("FR", 27, 0), ("NO", 15, 0), ("MT", 31, 4)])
    account = "".join(rng.choices(string.ascii_uppercase, k=letters))
    account += "".join(rng.choices(string.digits, k=length - 4 - letters))
    number = int("".join(str(int(c, 36)) for c in account + country + "00"))
    plain = f"{country}{98 - number % 97:02d}{account}"
    return plain if rng.random() < 0.5 else " ".join(plain[i : i + 4] for i in range(0, length, 4))


def email(rng):
    name = rng.choice(["ann", "o'brien", "j.doe", "x_1", "first.last+tag", "42", "a-b"])
    return f"{name}@{rng.choice(['example.org', 'mail.example.co.uk', 'x-y.museum', 'EXAMPLE.COM', 'a.xn--p1ai'])}"


def phone(rng):
    region = rng.choice(["US", "GB", "DE", "JP", "BR"])
    number = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    if region in ("US", "GB") and rng.random() < 0.5:
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def address(rng):
    if rng.random() < 0.3:
        return (
            "2a02:" + ":".join(f"{rng.randrange(1, 1 << 16):x}" for _ in range(rng.choice([7])))
            if rng.random() < 0.5
            else (f"2001:41d0::{rng.randrange(1, 1 << 16):x}")
        )
    return f"{rng.choice([81, 93, 151, 203])}.{rng.randrange(20, 250)}.{rng.randrange(250)}.{rng.randrange(250)}"


def key(rng):
    def some(alphabet, n):
        return "".join(rng.choices(alphabet, k=n))

    words = string.ascii_letters + string.digits
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).decode().rstrip("=")
    return rng.choice(
        [
            "AKIA" + some(string.ascii_uppercase + "234567", 16),
            "ghp_" + some(words, 35) + "7",
            "github_pat_" + some(words, 82),
            "xoxb-" + some(string.digits, 12) + "-" + some(words, 24),
            "AIza" + some(words, 34) + "5",
            "sk-proj-" + some(words, 47) + "3",
            "sk_live_" + some(words, 23) + "8",
            "glpat-" + some(words, 19) + "1",
            "hf_" + some(words, 33) + "2",
            f"{header}.eyJ{some(words, 30)}.{some(words, 43)}",
            f"-----BEGIN {rng.choice(['RSA ', 'EC ', 'OPENSSH ', ''])}PRIVATE KEY-----\n{some(words, 64)}\n"
            + f"{some(words, 20)}==\n-----END PRIVATE KEY-----",
        ]
    )


def ssn(rng):
    return f"{rng.randrange(1, 666):03d}-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10000):04d}"


MAKERS = {"email": email, "phone": phone, "ip": address, "card": card, "iban": iban, "key": key, "ssn": ssn}
PROSE = "the of a meeting was held on 12 May 2004 and 3,200 people came (see page 14) for 5.5% in 1999"
FILLER = PROSE.split()


@pytest.mark.parametrize("kind", MAKERS)
def test_every_planted_piece_is_found_and_nothing_else(kind):
    rng = random.Random(f"planted {kind}")
    texts, planted = [], []
    for _ in range(120):
        piece = MAKERS[kind](rng)
        opening, closing = rng.choice([("", ""), ("(", ")"), ("", "."), ("", ","), ("<", ">"), (": ", ";"), ("“", "”")])
        if kind == "phone" and opening == "(":
            opening, closing = "", ""  # the brackets of an area code
        words = rng.choices(FILLER, k=12)
        if kind in ("card", "phone", "ssn", "ip"):
            # digits beside digits are another number
            words = [word for word in words if not any(c.isdigit() for c in word)]
        at = rng.randrange(len(words) + 1)
        texts.append(" ".join([*words[:at], opening + piece + closing, *words[at:]]))
        planted.append([(kind, piece)])
    assert pieces(*texts) == planted


LOOK_ALIKES = {
    "email": ["logo@2x.png", "@user", "a@b", "a@b.c1", "x @ y.org", "foo@@bar.org", "pkg@1.2.3", "me@.org", "u@h.js"],
    "ip": [
        "10.0.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "256.1.1.30",
        "version 81.2.69.142",
        "v81.2.69.142",
        "Section 14.22.13.4",
        "§ 14.22.13.4",
        "EC 3.1.1.11",
        "3.4.1.2",
        "81.2.69.142.7",
        "81.2.69.142-beta",
        "81.02.69.142",
        "std::vector",
        "12:34:56",
        "fe80::1",
        "::1",
        "2001:db8::1",
        "00:1B:44:11:3A:B7",
        "deadbeef::1",
        "2024:12:31",
    ],
    "card": [
        "4111 1111 1111 1112",
        "1234 5678 9012 3452",
        "4111 1111-1111 1111",
        "0.4111111111111111",
        "1111 4111 1111 1111 1111",
        "4111 1111 1111 1111 1111",
        "x4111111111111111",
        "4111111111111111y",
    ],
    "iban": ["DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000", "xDE89370400440532013000"],
    "ssn": ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "123-45-67890", "1123-45-6789"],
    "phone": [
        "2004-05-12",
        "1999-2004",
        "100 200 3000",
        "2127365000",
        "+1 23",
        "+999 123 456 789",
        "+9166.01287-109.1192",
        "0-306-40615-2",
        "978-0-306-40615-7",
        "3.1415926535",
        "12 345 678 901",
        "1 000 000 000",
        "x212-736-5000",
    ],
    "key": [
        "AKIAIOSFODNN7EXAMPL",
        "AKIAiosfodnn7example",
        "sk-learn-is-a-library-of-models",
        "ghp_short1",
        "password = 'correcthorse'",
        "token = 'aaaaaaaaaaaaaaaaaaaa1'",
        "see https://x.org/a/b2c3d4e5f6g7h8i9j0",
        "eyJub3QganNvbg.eyJhIjoxfQ.abcdefghij",
        "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
        "sha256 = 'x'",
        "0123456789abcdef0123456789abcdef",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in LOOK_ALIKES.items() for text in texts])
def test_a_look_alike_is_let_be(kind, text):
    assert pieces(f"so {text} it is") == [[]], kind


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mailto:ann@x.org?subject=1", [("email", "ann@x.org")]),
        ("'ann@x.org'", [("email", "ann@x.org")]),
        ("ann@x.org.", [("email", "ann@x.org")]),
        ("a..ann@x.org", [("email", "ann@x.org")]),
        ("a@x.org,b@y.org", [("email", "a@x.org"), ("email", "b@y.org")]),
        ("联系ann@x.org请", [("email", "ann@x.org")]),
        ("tel: 2127365000", [("phone", "2127365000")]),
        ("call me at 212 736 5000", [("phone", "212 736 5000")]),
        ("Fax (020) 7946 0958", [("phone", "(020) 7946 0958")]),
        ("1-800-822-2841", [("phone", "1-800-822-2841")]),
        ("0044 20 7946 0958", [("phone", "0044 20 7946 0958")]),
        ("http://81.2.69.142:8080/x", [("ip", "81.2.69.142")]),
        ("[2001:4860:4860::8888]:53", [("ip", "2001:4860:4860::8888")]),
        ("at 2001:4860:4860::8888: up", [("ip", "2001:4860:4860::8888")]),
        ("4111111111111111 12/25", [("card", "4111111111111111")]),
        ("GB82 WEST 1234 5698 7654 32 BIC", [("iban", "GB82 WEST 1234 5698 7654 32")]),
        ('"api_key": "Zx81kPq02LmNv7RtQw"', [("key", "Zx81kPq02LmNv7RtQw")]),
        ("db_password='hunter2-9fQz81LmPx'", [("key", "hunter2-9fQz81LmPx")]),
        ('AWS_SECRET := "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"', [("key", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY")]),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\nabcd", [("key", "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nabcd")]),
        ("sk_live_abcdefgh12345678@x.org", [("key", "sk_live_abcdefgh12345678")]),
    ],
)
def test_a_piece_ends_where_it_ends(text, found):
    assert pieces(text) == [found]


def test_kinds_not_wanted_are_not_looked_for():
    text = "ann@x.org +44 20 7946 0958 81.2.69.142 4111111111111111 DE89370400440532013000 123-45-6789"
    text += " AKIAIOSFODNN7EXAMPLE"
    assert {kind for kind, _ in pieces(text)[0]} == set(KINDS)
    for kind in KINDS:
        rules = PiiRules(**{other: "mask" if other == kind else "keep" for other in KINDS})
        assert {found for found, _ in pieces(text, rules=rules)[0]} == {kind}
    assert "ssn" not in PiiRules().wanted


def test_private_addresses_and_other_regions_by_option():
    assert pieces("10.0.0.1 fe80::1", rules=PiiRules(private_ips=True)) == [[("ip", "10.0.0.1")]]
    german = "ruf 030 901820 an"
    assert pieces(german) == [[]]
    assert pieces(german, rules=PiiRules(phone_regions=("DE",))) == [[("phone", "030 901820")]]
    assert pieces("(212) 736-5000 or +1 212 736 5000", rules=PiiRules(phone_regions=())) == [
        [("phone", "+1 212 736 5000")]
    ]


# ── checks by themselves ─────────────────────────────────────────────────────────────────────────


@given(st.text(alphabet=string.digits, min_size=1, max_size=20))
def test_luhn_is_the_sum_that_a_plain_reading_says(digits):
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        total += sum(map(int, str(2 * digit))) if place % 2 else digit
    assert pii_checks.luhn(digits) == (total % 10 == 0)


def test_one_wrong_digit_or_two_swapped_are_no_iban():
    good = "DE89370400440532013000"
    assert pii_checks.is_iban(good)
    for at in range(2, len(good)):
        for digit in string.digits:
            if digit != good[at]:
                assert not pii_checks.is_iban(good[:at] + digit + good[at + 1 :])
    for at in range(4, len(good) - 1):
        if good[at] != good[at + 1]:
            assert not pii_checks.is_iban(good[:at] + good[at + 1] + good[at] + good[at + 2 :])


@pytest.mark.parametrize(
    ("digits", "known"),
    [
        ("4", 16),
        ("4", 13),
        ("51", 16),
        ("55", 16),
        ("2221", 16),
        ("2720", 16),
        ("34", 15),
        ("300", 14),
        ("305", 14),
        ("36", 14),
        ("39", 14),
        ("3528", 16),
        ("3589", 16),
        ("6011", 19),
        ("644", 16),
        ("65", 16),
        ("62", 18),
    ],
)
def test_issuers_ranges_reach_to_their_ends(digits, known):
    for length in range(12, 20):
        body = digits.ljust(length - 1, "7")
        lengths = next(ls for first, last, ls in pii_checks._ISSUERS if first <= digits[: len(first)] <= last)
        assert pii_checks.is_card(body + luhn_digit(body)) == (length in lengths)
    assert known in lengths


@pytest.mark.parametrize(
    "prefix", ["50", "56", "2220", "2721", "306", "3527", "3590", "6012", "643", "66", "7", "1", "0"]
)
def test_what_is_beside_an_issuers_range_is_no_card(prefix):
    for length in range(13, 20):
        body = prefix.ljust(length - 1, "0")
        assert not pii_checks.is_card(body + luhn_digit(body))


def test_entropy_is_in_bits_a_byte():
    assert pii_checks.bits(b"aaaa") == 0
    assert pii_checks.bits(b"abab") == 1
    assert pii_checks.bits(bytes(range(16))) == 4


# ── masking ──────────────────────────────────────────────────────────────────────────────────────


def rows(*texts, **columns):
    return pa.record_batch({"text": pa.array(texts, pa.string()), **columns})


def test_masks_are_typed_and_the_kinds_are_listed_in_text_order():
    work = PiiMask(rules=ALL)
    columns, counts = work.edit(rows("call +44 20 7946 0958, mail ann@x.org", "nothing", None, "81.2.69.142"))
    assert columns["text"].to_pylist() == ["call <PHONE>, mail <EMAIL>", "nothing", "", "<IP>"]
    assert columns["pii"].to_pylist() == [["phone", "email"], None, None, ["ip"]]
    assert columns["content_hash"].equals(content_hashes(columns["text"]))
    assert counts == {"phone": 1, "email": 1, "ip": 1}
    assert pickle.loads(pickle.dumps(work)) == work  # noqa: S301


def test_text_without_any_is_left_as_it_is():
    columns, counts = PiiMask().edit(rows("plain", None))
    assert columns["text"].to_pylist() == ["plain", ""]
    assert columns["pii"].type == pa.list_(pa.string())
    assert (columns["pii"].to_pylist(), counts) == ([None, None], {})
    assert PiiMask().annotate(rows())["pii"].to_pylist() == []
    large = pa.record_batch({"text": pa.array(["a@x.org"], pa.large_string())})
    assert PiiMask().annotate(large)["text"].to_pylist() == ["<EMAIL>"]


def test_consistent_masks_number_the_values_of_a_document():
    text = "ann@x.org wrote to bob@y.org; ANN@x.org called 212-736-5000"
    columns = PiiMask(rules=PiiRules(consistent=True)).annotate(rows(text, "bob@y.org"))
    assert columns["text"].to_pylist() == [
        "<EMAIL_1> wrote to <EMAIL_2>; <EMAIL_1> called <PHONE_1>",
        "<EMAIL_1>",
    ]


def test_what_training_learns_from_moves_with_the_text():
    text = "é ann@x.org asks: write to bob@y.org now"
    learned = [len("é ann@x.org asks: ".encode()), len(text.encode())]
    batch = rows(text, learn=pa.array([learned], pa.list_(pa.int32())))
    columns = PiiMask().annotate(batch)
    assert columns["text"].to_pylist() == ["é <EMAIL> asks: write to <EMAIL> now"]
    start, stop = columns["learn"][0].as_py()
    assert columns["text"][0].as_py().encode()[start:stop].decode() == "write to <EMAIL> now"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_mask_hides_all_of_a_piece_and_masking_again_changes_nothing(data):
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    planted = [MAKERS[kind](rng) for kind in rng.choices(list(MAKERS), k=3)]
    text = " | ".join([rng.choice(["é", "words", "“", ""]) + " " + piece for piece in planted])
    once = PiiMask(rules=ALL).annotate(rows(text))["text"]
    assert not any(piece in once[0].as_py() for piece in planted)
    assert PiiMask(rules=ALL).annotate(pa.record_batch({"text": once}))["text"].equals(once)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(alphabet="a1@.+: -/()AKDE2x=\"'é\n", max_size=60), max_size=4))
def test_pieces_lie_in_their_row_apart_and_in_order_whatever_the_text(texts):
    column = pa.array(["12 @ x.org:", *texts], pa.string())[1:]
    last = (-1, 0)
    for row, start, stop, kind, value in find(column, ALL):
        assert texts[row].encode()[start:stop] == value != b""
        assert kind in KINDS
        assert (row, start) >= last
        last = (row, stop)


def test_rows_of_many_pieces_keep_their_places():
    texts = [f"{'x' * k} a{k}@x.org " * 40 for k in range(40)]
    assert pieces(*texts) == [[("email", f"a{k}@x.org")] * 40 for k in range(40)]


# ── dropping ─────────────────────────────────────────────────────────────────────────────────────


def documents(*texts):
    return rows(*texts, doc_id=pa.array([f"f#{k}" for k in range(len(texts))]))


@pytest.mark.parametrize("keep", ["ids", "sample", "full"])
def test_a_kind_to_drop_for_drops_the_document_and_shows_it_nowhere(keep):
    rules = PiiRules(email="drop", key="drop", phone="mask")
    texts = ["ann@x.org or 212-736-5000", "call 212-736-5000", "AKIAIOSFODNN7EXAMPLE ann@x.org", "plain"]
    out = apply(rules.works(), documents(*texts), dropped=keep)
    assert out.batch["text"].to_pylist() == ["call <PHONE>", "plain"]
    assert out.batch["pii"].to_pylist() == [["phone"], None]
    assert out.reasons == {"pii": {"pii_email": 1, "pii_key": 1}}
    assert out.edits == {"pii_mask": {"email": 2, "phone": 2, "key": 1}}
    shown = [row["text"] for batch in out.dropped for row in batch.to_pylist()]
    assert shown == ([None] * 2 if keep == "ids" else ["<EMAIL> or <PHONE>", "<KEY> <EMAIL>"])


def test_without_a_kind_to_drop_for_there_is_no_filter():
    assert [work.name for work in PiiRules().works()] == ["pii_mask"]
    assert [work.name for work in PiiRules(ip="drop").works()] == ["pii_mask", "pii"]
    assert (
        PiiFilter(rules=PiiRules(ip="drop")).decide(pa.record_batch({"pii": pa.array([], pa.list_(pa.string()))})).type
    )


def test_samples_of_any_dropped_row_are_masked_with_every_kind_and_all_long_numbers():
    rng = random.Random(5)
    planted = [make(rng) for make in MAKERS.values()]
    text = " | ".join(planted) + " | 10.0.0.1 | 1234 5678 9012 | 42"
    shown = masked(pa.array([text, None], pa.string())).to_pylist()
    assert shown[1] is None
    assert not any(piece in shown[0] for piece in planted)
    assert shown[0].endswith("| <IP> | <NUMBER> | 42")
    assert not re.search(r"\d{7}", shown[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"email": "hide"}, "email: got 'hide', allowed mask, drop or keep"),
        ({"ssn": None}, "ssn: got None"),
        ({"phone_regions": "US"}, "phone_regions: got 'US', allowed a list of ISO 3166"),
        ({"phone_regions": ("USA",)}, "phone_regions: got"),
        ({"phone_regions": ("us",)}, "phone_regions: got"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PiiRules(**settings)


def test_setup_compiles_and_a_batch_keeps_its_rows():
    work = PiiMask()
    work.setup()
    batch = rows(*(f"row {k}" for k in range(10)))[3:6]
    assert work.annotate(batch)["text"].to_pylist() == ["row 3", "row 4", "row 5"]
    assert np.all(np.diff([KINDS.index(kind) for kind in KINDS]) == 1)
