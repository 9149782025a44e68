"""What `penstock diff` finds between runs and datasets, against plain loops over the same rows."""

import hashlib
import io
import json
import re
import shutil
import sys
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from penstock import diff_rows
from penstock import work as rowwork
from penstock.cli import main
from penstock.dataset import Dataset
from penstock.diff import diff
from penstock.diff_print import print_changes
from penstock.diff_rows import compare_rows, masked, read_samples, texts_of
from penstock.errors import DatasetError
from penstock.recipe import Recipe
from penstock.run import run

HOSTILE = "\x1b[31m[red]\u202eevil\n:x:"


def table(rows, *, hashed=False):
    """Rows (id, text, domain, split, tokens, copies) as a documents table."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    names = (("doc_id", pa.string()), ("text", pa.string()), ("domain", pa.string()), ("split", pa.string()))
    kinds = (*names, ("tokens", pa.int32()), ("copies", pa.int32()))
    data = {name: pa.array(column, kind) for (name, kind), column in zip(kinds, columns, strict=True)}
    if hashed:
        hashes = [hashlib.blake2b(row[1].encode(), digest_size=16).digest() for row in rows]
        data["content_hash"] = pa.array(hashes, pa.binary(16))
    return pa.RecordBatch.from_pydict(data)


def expected(a, b):
    """The same numbers by plain loops."""
    x, y = ({row[0]: row for row in rows} for rows in (a, b))
    both = x.keys() & y.keys()
    texts = [Counter(row[1] for row in rows) for rows in (a, b)]
    return {
        "rows": (len(a), len(b)),
        "same": sum(x[i][1] == y[i][1] for i in both),
        "changed": sum(x[i][1] != y[i][1] for i in both),
        "only": [len(x.keys() - y.keys()), len(y.keys() - x.keys())],
        "moved": sum(x[i][3] != y[i][3] for i in both),
        "texts_only": [(texts[0] - texts[1]).total(), (texts[1] - texts[0]).total()],
        "columns": {
            name: sum(x[i][at] != y[i][at] for i in both) for name, at in (("domain", 2), ("tokens", 4), ("copies", 5))
        },
    }


IDS = st.integers(0, 40).map("f.jsonl#{}".format)
ROW = st.tuples(
    IDS,
    st.sampled_from(["", "a", "b", "aa", "river"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["train", "test"]),
    st.integers(0, 2),
    st.integers(0, 2),
)
ROWS = st.lists(ROW, min_size=1, max_size=40, unique_by=lambda row: row[0])


def commit(commit_rows, root, rows, *, name="documents", cuts=1, hashed=False):
    batch = table(rows, hashed=hashed)
    size = -(-batch.num_rows // cuts)
    parts = [batch.slice(at, size) for at in range(0, batch.num_rows, size)]
    commit_rows(root, name, {"documents": parts})
    return texts_of(Dataset(f"{root}/{name}"))


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS, st.sampled_from([1, 3, 7, 1000]), st.integers(1, 4), st.booleans(), st.booleans())
def test_row_numbers_are_those_of_plain_loops(tmp_path_factory, commit_rows, a, b, bucket_rows, cuts, h1, h2):
    root = tmp_path_factory.mktemp("diff")
    x = commit(commit_rows, root / "a", a, cuts=cuts, hashed=h1)
    y = commit(commit_rows, root / "b", b, cuts=2, hashed=h2)
    found = compare_rows(x, y, bucket_rows=bucket_rows, sample=100)
    for name, value in expected(a, b).items():
        assert getattr(found, name) == value, name
    for side, rows in enumerate((a, b)):
        for groups, at in ((found.domains, 2), (found.splits, 3)):
            for group, sums in groups.items():
                own = [row for row in rows if row[at] == group]
                assert sums.rows[side] == len(own)
                assert sums.tokens[side] == sum(row[4] for row in own)
                if not (h1 and h2):
                    assert sums.bytes[side] == sum(len(row[1]) for row in own)
    # row numbers of samples lead to the rows
    names = {"only_a": ({r[0] for r in a} - {r[0] for r in b}), "only_b": ({r[0] for r in b} - {r[0] for r in a})}
    for kind, texts, at in (("only_a", x, 0), ("only_b", y, 1)):
        rows = read_samples(texts, [pair[at] for pair in found.found[kind]])
        assert {row["doc_id"] for row in rows.values()} == names[kind]
    pairs = found.found["changed"]
    assert len(pairs) == found.changed
    of_a, of_b = (read_samples(texts, [pair[at] for pair in pairs]) for at, texts in ((0, x), (1, y)))
    for i, j in pairs:
        assert of_a[i]["doc_id"] == of_b[j]["doc_id"]
        assert of_a[i]["text"] != of_b[j]["text"]


def test_the_sample_does_not_depend_on_the_buckets(tmp_path, commit_rows):
    a = [(f"a#{i}", "t", "x", "train", 1, 1) for i in range(50)]
    b = [(f"b#{i}", "t", "x", "train", 1, 1) for i in range(50)]
    x, y = commit(commit_rows, tmp_path / "a", a), commit(commit_rows, tmp_path / "b", b, cuts=3)
    whole, cut = (compare_rows(x, y, sample=5, bucket_rows=rows).found for rows in (1000, 4))
    assert whole == cut
    assert [len(of) for of in cut.values()] == [5, 5, 0]


def test_an_id_that_comes_twice_is_matched_as_often_as_both_sides_have_it(tmp_path, commit_rows):
    a = [("f#0", t, "x", "train", 1, 1) for t in ("one", "two", "three")]
    b = [("f#0", t, "x", "train", 1, 1) for t in ("one", "two")]
    x, y = commit(commit_rows, tmp_path / "a", a), commit(commit_rows, tmp_path / "b", b)
    found = compare_rows(x, y)
    assert (found.same + found.changed, found.only) == (2, [1, 0])
    assert found.texts_only == [1, 0]
    assert compare_rows(x, x).same == 3


def test_renumbered_rows_are_other_rows_of_the_same_texts(tmp_path, commit_rows):
    a = [(f"f#{i}", f"text {i}", "x", "train", 1, 1) for i in range(30)]
    b = [("f#0", "a new first line", "x", "train", 1, 1)]
    b += [(f"f#{i + 1}", f"text {i}", "x", "train", 1, 1) for i in range(30)]
    found = compare_rows(commit(commit_rows, tmp_path / "a", a), commit(commit_rows, tmp_path / "b", b), bucket_rows=4)
    assert (found.same, found.changed, found.only) == (0, 30, [0, 1])
    assert found.texts_only == [0, 1]


def test_hashes_stand_for_the_texts_where_both_sides_have_them(tmp_path, commit_rows, monkeypatch):
    rows = [(f"f#{i}", f"text {i}", "x", "train", 1, 1) for i in range(5)]
    hashed = commit(commit_rows, tmp_path / "a", rows, hashed=True)
    bare = commit(commit_rows, tmp_path / "b", rows)
    read = []
    original = diff_rows.read_part
    monkeypatch.setattr(diff_rows, "read_part", lambda f, e, c: (read.append(tuple(c)), original(f, e, c))[1])
    for a, b, text in ((hashed, hashed, False), (hashed, bare, True)):
        read.clear()
        assert compare_rows(a, b).same == 5
        assert all(("text" in columns) == text for columns in read)
        assert len(read) == 2


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def two(finished, tmp_path_factory):
    """(A, B, recipe of B): the finished run, and one of a changed corpus and changed settings, up to its dataset."""
    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(base / "corpus", folder / "corpus")
    lines = (folder / "corpus" / "rivers.jsonl").read_text().splitlines()
    row = json.loads(lines[40])
    lines[40] = json.dumps({**row, "text": row["text"][:200] + "Written by ann@example.org. " + row["text"][200:]})
    lines.append(json.dumps({"text": row["text"] + "\nOne sentence more at the end of it.", "domain": "rivers"}))
    (folder / "corpus" / "rivers.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "corpus" / "more.jsonl").write_text((folder / "corpus" / "letters.jsonl").read_text())
    (folder / "corpus" / "letters.jsonl").unlink()
    overrides = [f"source.files=[{{path: '{folder}/corpus/*.jsonl', columns: {{domain: domain}}}}]", "select.omega=0.5"]
    other = Recipe.parse(recipe.to_yaml(), overrides)
    run(other, out=str(folder / "run"), workers=0, only=["dataset-1"], report=False)
    return base / "run", folder / "run", other


@pytest.fixture(scope="module")
def found(two):
    return diff(str(two[0]), str(two[1]), sample=3)


def rows_of(root, step, *tables):
    return [row for name in tables for row in Dataset(f"{root}/{step}").read(name).to_pylist()]


def test_a_run_is_the_same_as_itself_and_no_row_is_read(two, monkeypatch):
    monkeypatch.setattr(diff_rows, "read_part", lambda *_: pytest.fail("a row was read"))
    result = diff(str(two[0]), str(two[0]))
    assert result.same
    assert (result.settings, result.inputs, result.tables) == ({}, {}, [])
    assert all(a == b for a, b in result.drops.values())
    assert "the same: 13 datasets, equal digests\n" in shown(result)
    one = diff(f"{two[0]}/scored", f"{two[0]}/scored")
    assert f"the same: digest {Dataset(f'{two[0]}/scored').digest}\n" in shown(one)


def test_settings_and_inputs_that_changed_are_named(found):
    assert not found.same
    assert found.settings["selection-1"] == ["settings.parameters.default.omega: 0.7 -> 0.5"]
    assert found.inputs["documents"] == {
        "added": ["files:more.jsonl"],
        "removed": ["files:letters.jsonl"],
        "changed": ["files:rivers.jsonl"],
    }
    text = shown(found)
    assert re.search(r"selection-1 +settings.parameters.default.omega: 0.7 -> 0.5", text)
    assert re.search(r"documents +added +1 +files:more.jsonl", text)
    states = {pair.name: (pair.same, pair.a is not None, pair.b is not None) for pair in found.pairs}
    assert states["documents"] == (False, True, True)
    assert states["model-1"] == (False, True, False)
    assert re.search(r"model-1 +only in A", text)


def test_drops_are_those_of_the_manifests(found, two):
    for side, root in enumerate(two[:2]):
        counts = {}
        for pair in found.pairs:
            manifest = (pair.a, pair.b)[side]
            if manifest is not None:
                assert manifest.counts == Dataset(f"{root}/{pair.name}").manifest.counts
                for work, reasons in manifest.counts.dropped.items():
                    counts |= {(pair.name, work, reason): n for reason, n in reasons.items()}
        assert {key: n[side] for key, n in found.drops.items() if n[side]} == counts
    rows = found.drops["dataset-1", "selection", "not_selected"]
    assert re.search(rf"dataset-1 +selection +not_selected +{rows[0]} +{rows[1]} ", shown(found))


def test_rows_of_two_runs_are_those_of_plain_loops(found, two):
    names = {table.name: table for table in found.tables}
    assert list(names) == ["scored", "dataset-1"]
    a, b = ({r["doc_id"]: r for r in rows_of(root, "scored", "documents")} for root in two[:2])
    both = a.keys() & b.keys()
    rows = names["scored"].rows
    assert rows.rows == (len(a), len(b))
    assert rows.same == sum(a[i]["text"] == b[i]["text"] for i in both) > 100
    assert rows.changed == sum(a[i]["text"] != b[i]["text"] for i in both) == 1
    assert rows.only == [len(a.keys() - b.keys()), len(b.keys() - a.keys())]
    assert min(rows.only) > 60
    texts = [Counter(r["text"] for r in of.values()) for of in (a, b)]
    assert rows.texts_only == [(texts[0] - texts[1]).total(), (texts[1] - texts[0]).total()]
    assert max(rows.texts_only) < 5  # a file got another name, its texts are the same
    for side, of in enumerate((a, b)):
        for domain, group in rows.domains.items():
            own = [r for r in of.values() if r["domain"] == domain]
            sums = (len(own), sum(r["tokens"] for r in own), sum(r["bytes"] for r in own))
            assert (group.rows[side], group.tokens[side], group.bytes[side]) == sums
        for split, group in rows.splits.items():
            assert group.tokens[side] == sum(r["tokens"] for r in of.values() if r["split"] == split)
    a, b = ({r["doc_id"]: r for r in rows_of(root, "dataset-1", "train", "test", "validation")} for root in two[:2])
    rows = names["dataset-1"].rows
    assert (rows.same, rows.changed) == (len(a.keys() & b.keys()), 0)
    assert rows.texts_only is None  # they are those of scored
    assert rows.columns["copies"] == sum(a[i]["copies"] != b[i]["copies"] for i in a.keys() & b.keys()) > 0
    published = Dataset(f"{two[1]}/dataset-1").manifest.stats["tokens"]
    assert {s: g.tokens[1] for s, g in rows.splits.items()} == {s: sum(of.values()) for s, of in published.items()}


def test_a_published_dataset_alone_is_compared_by_its_texts_and_remembers_the_drops_before_it(found, two):
    bare = diff(f"{two[0]}/dataset-1", f"{two[1]}/dataset-1")
    rows = bare.tables[0].rows
    a, b = ({r["doc_id"]: r for r in rows_of(root, "dataset-1", "train", "test", "validation")} for root in two[:2])
    assert rows.same == sum(a[i]["text"] == b[i]["text"] for i in a.keys() & b.keys())
    assert rows.texts_only == [
        len({r["text"] for r in x.values()} - {r["text"] for r in y.values()}) for x, y in ((a, b), (b, a))
    ]
    for key, value in found.drops.items():
        if key[0] in ("documents", "deduplicated", "dataset-1"):
            assert bare.drops[key] == value
    # a run stands for its dataset of that name
    assert diff(f"{two[0]}/dataset-1", str(two[1])).to_json() == bare.to_json() | {"b": str(two[1])}
    assert diff(f"{two[0]}", f"{two[1]}/dataset-1").to_json() == bare.to_json() | {"a": str(two[0])}
    # and the last of its kind where it has none of that name
    assert diff(f"{two[0]}/dataset-2", str(two[1])).pairs[0].b == Dataset(f"{two[1]}/dataset-1").manifest


def test_samples_are_masked_and_begin_a_little_before_the_difference(found, two):
    samples = found.tables[0].samples
    assert Counter(s.kind for s in samples) == {"only_a": 3, "only_b": 3, "changed": 1}
    for s in samples:
        assert (s.a is None, s.b is None) == (s.kind == "only_b", s.kind == "only_a")
    (changed,) = (s for s in samples if s.kind == "changed")
    assert changed.doc_id == "rivers.jsonl#40"
    assert "written by <email>. " in changed.b.lower()
    assert "ann@example.org" not in shown(found)
    prefix = len("…") + 120
    assert changed.a.startswith("…")
    assert changed.a != changed.b
    assert changed.b.index("Written") < prefix
    text = next(r["text"] for r in rows_of(two[1], "scored", "documents") if r["doc_id"] == changed.doc_id)
    assert changed.b[1:30] in text


def test_masking_is_the_one_of_dropped_rows():
    rows = pa.RecordBatch.from_pydict({"doc_id": ["a", "b"], "text": ["mail ann@example.org " + 300 * "or ", ""]})
    dropped = rowwork.drop_rows(rows, pa.array(["x", "x"]), step="any", keep="sample")["text"].to_pylist()
    assert masked(rows["text"].to_pylist()) == dropped
    assert "ann@" not in dropped[0]
    assert len(dropped[0]) == rowwork.SAMPLE_CHARACTERS
    assert masked([]) == []


def shown(changes, width=200):
    console = Console(file=io.StringIO(), width=width)
    print_changes(changes, console)
    return console.file.getvalue()


def test_names_and_texts_from_data_are_shown_and_not_obeyed(tmp_path, commit_rows):
    for side, text in (("a", f"old {HOSTILE}"), ("b", f"new {HOSTILE}")):
        commit(commit_rows, tmp_path / side, [(HOSTILE, text, HOSTILE, HOSTILE, 1, 1)])
    text = shown(diff(f"{tmp_path}/a/documents", f"{tmp_path}/b/documents", sample=1))
    assert not set(text) & {"\x1b", "\u202e"}
    assert "B: new ⟨ESC⟩[31m[red]⟨U+202E⟩evil⟨LF⟩:x:" in text


def test_steps_without_rows_of_their_own_are_compared_by_digest(two):
    result = diff(f"{two[0]}/tokenizer", f"{two[1]}/tokenizer")
    assert (result.same, result.tables) == (False, [])
    assert re.search(r"tokenizer +differs +[0-9a-f]{8} +[0-9a-f]{8}", shown(result))


# ── errors and exit codes ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def penstock(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


def test_the_exit_code_says_same_different_or_trouble(penstock, two):
    code, out, err = penstock("diff", two[0], two[0])
    assert (code, err) == (0, "")
    assert "the same" in out
    code, out, err = penstock("diff", two[0], two[1])
    assert (code, err) == (1, "")
    assert "Rows of scored" in out
    code, out, err = penstock("diff", two[0], two[1] / "nothing")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"penstock: .*nothing: no manifest.json here or one level below.*\n", err)


def test_json_holds_what_was_found(penstock, two, found):
    code, out, _ = penstock("diff", two[0], two[1], "--sample", "3", "--json")
    value = json.loads(out)
    assert code == 1
    assert value == json.loads(json.dumps(found.to_json()))
    assert value["tables"][0]["only"] == found.tables[0].rows.only
    assert value["tables"][0]["samples"][0].keys() == {"kind", "doc_id", "domain", "a", "b"}
    assert value["datasets"][0]["a"]["digest"] == Dataset(f"{two[0]}/documents").digest


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("0/scored", "1/documents", r"step scored \(Scored\).*one of documents \(Documents\); give two of one kind"),
        ("0/model-1", "1", r"a run without a step like model-1; it has documents, deduplicated"),
        ("0/corpus", "1", "no manifest.json here or one level below"),
    ],
)
def test_what_cannot_be_compared_is_refused(two, a, b, message):
    urls = [f"{two[int(side[0])]}{side[1:]}" for side in (a, b)]
    with pytest.raises(DatasetError, match=message):
        diff(*urls)


def test_runs_and_datasets_with_nothing_in_common_are_refused(tmp_path, commit_rows):
    rows = [("f#0", "text", "x", "train", 1, 1)]
    commit(commit_rows, tmp_path / "a", rows, name="one")
    commit(commit_rows, tmp_path / "b", rows, name="two")
    with pytest.raises(DatasetError, match="no step in common; got one and two"):
        diff(f"{tmp_path}/a", f"{tmp_path}/b")
    commit_rows(tmp_path / "c", "one", {"others": [table(rows)]})
    with pytest.raises(DatasetError, match="no table in common; got documents and others"):
        diff(f"{tmp_path}/a/one", f"{tmp_path}/c/one")


def test_a_damaged_part_is_named(tmp_path, commit_rows):
    for side in "ab":
        commit(commit_rows, tmp_path / side, [("f#0", side, "x", "train", 1, 1)])
    entry = Dataset(f"{tmp_path}/b/documents").table("documents").files[0]
    (tmp_path / "b" / "documents" / entry.path).write_bytes(b"PAR1 is not enough")
    with pytest.raises(DatasetError, match=re.escape(entry.path)):
        diff(f"{tmp_path}/a/documents", f"{tmp_path}/b/documents")
