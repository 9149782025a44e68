"""Exempting domains from a filter."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.gopher import GopherQuality
from penstock.selectors.normalise import Normalise
from penstock.selectors.scope import EditExceptDomains, ExceptDomains, except_domains
from penstock.work import apply, describe


@dataclass(frozen=True, kw_only=True)
class Shorter:
    """Drops texts below a number of characters and remembers what it was shown."""

    least: int = 3
    seen: list[Any] = field(default_factory=list, compare=False)
    name: ClassVar[str] = "shorter"
    revision: ClassVar[int] = 7
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    def setup(self):
        self.seen.append("setup")

    def decide(self, batch):
        self.seen.append(batch["text"].to_pylist())
        return pc.if_else(pc.less(pc.utf8_length(batch["text"]), self.least), "short", None)


def batch(*rows):
    texts, domains = zip(*rows, strict=True) if rows else ((), ())
    return pa.RecordBatch.from_pydict(
        {
            "text": pa.array(texts, pa.string()),
            "domain": pa.array(domains, pa.string()),
            "doc_id": pa.array(texts, pa.string()),
        }
    )


def test_exempt_rows_pass_and_the_others_are_judged_in_their_place():
    work = ExceptDomains(inner=Shorter(), domains=("code", "tests"))
    rows = batch(("ab", "web"), ("ab", "code"), ("abc", "web"), ("", "tests"), ("", "web"))
    assert work.decide(rows).to_pylist() == ["short", None, None, None, "short"]


def test_the_inner_filter_never_sees_an_exempt_text():
    inner = Shorter()
    ExceptDomains(inner=inner, domains=("code",)).decide(batch(("hidden", "code"), ("seen", "web")))
    assert inner.seen == [["seen"]]


def test_a_row_without_a_domain_is_judged():
    assert ExceptDomains(inner=Shorter(), domains=("code",)).decide(batch(("a", None), ("a", "code"))).to_pylist() == [
        "short",
        None,
    ]


def test_domains_match_whole_and_as_written():
    work = ExceptDomains(inner=Shorter(), domains=("code", ""))
    rows = batch(("a", "codes"), ("a", "cod"), ("a", "Code"), ("a", "code"), ("a", ""))
    assert work.decide(rows).to_pylist() == ["short", "short", "short", None, None]


@pytest.mark.parametrize("domains", [(), ("nowhere",), ("web",), ("web", "code")])
def test_none_or_all_rows_may_be_exempt(domains):
    rows = batch(("a", "web"), ("b", "code"))
    assert ExceptDomains(inner=Shorter(), domains=domains).decide(rows).to_pylist() == [
        None if domain in domains else "short" for domain in ("web", "code")
    ]


@given(
    st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["a", "b", "c", None])), max_size=30),
    st.sets(st.sampled_from(["a", "b", "c"])),
    st.integers(0, 10),
)
def test_it_is_the_inner_decision_wherever_the_domain_is_not_exempt(rows, exempt, start):
    table = batch(*rows).slice(start)
    plain = Shorter().decide(table).to_pylist()
    found = ExceptDomains(inner=Shorter(), domains=tuple(sorted(exempt))).decide(table)
    domains = table["domain"].to_pylist()
    assert found.type == pa.string()
    assert found.to_pylist() == [None if d in exempt else p for d, p in zip(domains, plain, strict=True)]


def test_statistics_and_keys_read_as_those_of_the_inner_filter_with_its_exemptions():
    work = ExceptDomains(inner=GopherQuality(min_words=9), domains=("code",))
    assert (work.name, work.revision, work.adds) == ("gopher_quality", 1, ())
    assert work.reads == ("text", "domain")
    said = describe(work)
    assert said["config"]["inner"]["min_words"] == 9
    assert said["config"]["domains"] == ("code",)
    assert said != describe(ExceptDomains(inner=GopherQuality(min_words=9), domains=("tests",)))
    assert said != describe(ExceptDomains(inner=GopherQuality(min_words=8), domains=("code",)))
    assert said != describe(GopherQuality(min_words=9))


def test_exemptions_nest():
    work = ExceptDomains(inner=ExceptDomains(inner=Shorter(), domains=("a",)), domains=("b",))
    assert work.decide(batch(("x", "a"), ("x", "b"), ("x", "c"))).to_pylist() == [None, None, "short"]
    assert work.reads == ("text", "domain")


def test_a_chain_counts_its_drops_under_the_inner_name():
    out = apply([ExceptDomains(inner=Shorter(), domains=("code",))], batch(("a", "web"), ("b", "code")))
    assert out.reasons == {"shorter": {"short": 1}}
    assert out.rows == {"shorter": (2, 1)}
    assert out.batch["text"].to_pylist() == ["b"]


def test_setup_reaches_the_inner_filter():
    inner = Shorter()
    ExceptDomains(inner=inner, domains=("code",)).setup()
    assert inner.seen == ["setup"]


@pytest.mark.parametrize(
    ("inner", "domains", "message"),
    [
        (Normalise(), ("code",), "exempt: got Normalise, allowed a filter"),
        (Shorter(), "code", r"exempt: got 'code', allowed a list of domain names; write \['code'\]"),
        (Shorter(), (1,), r"exempt: got \(1,\), allowed a list of domain names"),
    ],
)
def test_what_cannot_be_exempt_is_refused(inner, domains, message):
    with pytest.raises(ConfigError, match=message):
        ExceptDomains(inner=inner, domains=domains)


# ── annotators that edit text ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Louder:
    """Writes texts in capitals, says which it changed, and remembers what it was shown."""

    seen: list[Any] = field(default_factory=list, compare=False)
    name: ClassVar[str] = "louder"
    revision: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text", "changed")

    def setup(self):
        self.seen.append("setup")

    def annotate(self, batch):
        return self.edit(batch)[0]

    def edit(self, batch):
        self.seen.append(batch["text"].to_pylist())
        louder = pc.utf8_upper(batch["text"])
        return {"text": louder, "changed": pc.not_equal(louder, batch["text"])}, {"rows": batch.num_rows}


def test_exempt_rows_keep_their_text_and_get_null_in_a_new_column():
    inner = Louder()
    work = EditExceptDomains(inner=inner, domains=("code",))
    rows = batch(("a", "web"), ("b", "code"), ("C", None), ("d", "code"))
    columns, counts = work.edit(rows)
    assert columns["text"].to_pylist() == ["A", "b", "C", "d"]
    assert columns["changed"].to_pylist() == [True, None, False, None]
    assert counts == {"rows": 2}
    assert work.annotate(rows)["text"].equals(columns["text"])
    assert inner.seen == [["a", "C"]] * 2


@pytest.mark.parametrize("domains", [(), ("nowhere",), ("web", "code"), ("code",)])
def test_edits_of_none_or_all_rows_may_be_exempt(domains):
    rows = batch(("a", "web"), ("b", "code"))
    edited = EditExceptDomains(inner=Louder(), domains=domains).annotate(rows)["text"]
    assert edited.to_pylist() == [t if d in domains else t.upper() for t, d in (("a", "web"), ("b", "code"))]
    assert EditExceptDomains(inner=Louder(), domains=domains).annotate(batch())["text"].to_pylist() == []


def test_an_exempt_editor_reads_as_the_inner_one():
    inner = Louder()
    work = EditExceptDomains(inner=inner, domains=("code",))
    assert (work.name, work.revision, work.adds) == ("louder", 3, ("text", "changed"))
    assert work.reads == ("text", "domain")
    assert describe(work)["config"]["domains"] == ("code",)
    work.setup()
    assert inner.seen == ["setup"]
    out = apply([work], batch(("a", "web"), ("b", "code")))
    assert out.batch["text"].to_pylist() == ["A", "b"]
    assert out.edits == {"louder": {"rows": 1}}


def test_the_wrapper_fits_the_work_and_none_is_made_without_domains():
    assert except_domains(Shorter(), ("code",)) == ExceptDomains(inner=Shorter(), domains=("code",))
    assert except_domains(Louder(), ("code",)) == EditExceptDomains(inner=Louder(), domains=("code",))
    inner = Louder()
    assert except_domains(inner, ()) is inner


@dataclass(frozen=True, kw_only=True)
class Listed(Shorter):
    def files(self):
        return ["list"]


def test_files_of_the_inner_filter_are_those_of_the_wrapper():
    assert ExceptDomains(inner=Listed(), domains=("a",)).files() == ["list"]
    assert ExceptDomains(inner=Shorter(), domains=("a",)).files() == []


@pytest.mark.parametrize(
    ("inner", "domains", "message"),
    [
        (Normalise(), ("code",), "exempt: got Normalise, allowed an annotator that edits text"),
        (Louder(), "code", r"exempt: got 'code', allowed a list of domain names"),
    ],
)
def test_what_cannot_be_an_exempt_editor_is_refused(inner, domains, message):
    with pytest.raises(ConfigError, match=message):
        EditExceptDomains(inner=inner, domains=domains)
