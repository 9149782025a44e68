"""croissant.json and the card: what they say is what the manifest and the files hold, and other tools read it."""

import json
import logging
import shutil

import datasets
import pyarrow as pa
import pytest
import yaml

from penstock.card import SIZES, card, front_matter
from penstock.croissant import croissant, to_json
from penstock.dataset import Counts, Dataset, FileEntry, Manifest, TableEntry
from penstock.errors import ConfigError
from penstock.lineage import steps_before
from penstock.push import push
from penstock.recipe import Recipe
from penstock.run import run

SPLITS = ("train", "validation", "test")
CARD = {
    "license": "CC-BY-4.0",
    "description": "Small *things*.\nTwo lines.",
    "citation": "@misc{small, title={<Small>}}",
    "homepage": "https://example.org/small",
    "languages": ["en", "de"],
}


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    """A run whose recipe says something for the card: its ``dataset-1``."""

    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(base / "run", folder / "run")
    changed = Recipe.parse(recipe.to_yaml(), ["shard_mb=0.05", f"card={json.dumps(CARD)}"])
    run(changed, out=str(folder / "run"), workers=0, only=["dataset-1"], report=False)
    return folder / "run" / "dataset-1"


@pytest.fixture(scope="module")
def value(published):
    return json.loads((published / "croissant.json").read_bytes())


def test_every_file_is_named_with_its_bytes_and_sha256(published, value):
    objects = [o for o in value["distribution"] if o["@type"] == "cr:FileObject"]
    named = {(o["contentUrl"], o["contentSize"], o["sha256"]) for o in objects}
    assert named == {(f.path, f"{f.bytes} B", f.sha256) for f in Dataset(str(published)).entries()}
    assert len(named) == len(objects) > 5


def test_fields_and_their_types_are_those_of_the_tables(published, value):
    manifest = Dataset(str(published)).manifest
    assert [r["@id"] for r in value["recordSet"]] == list(SPLITS)
    for record in value["recordSet"]:
        columns = manifest.tables[record["@id"]].columns
        assert [f["name"] for f in record["field"]] == list(columns)
        assert record["description"] == f"{manifest.tables[record['@id']].rows} documents."
        kinds = {f["name"]: f["dataType"] for f in record["field"]}
        assert kinds["text"] == "sc:Text"
        assert kinds["tokens"] == "cr:Int32"
        assert kinds["bytes"] == "cr:Int64"
        assert kinds["score.quality"] == "cr:Float32"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.uint16(), {"dataType": "cr:UInt16"}),
        (pa.int8(), {"dataType": "cr:Int8"}),
        (pa.float64(), {"dataType": "cr:Float64"}),
        (pa.bool_(), {"dataType": "sc:Boolean"}),
        (pa.large_string(), {"dataType": "sc:Text"}),
        (pa.date32(), {"dataType": "sc:Date"}),
        (pa.timestamp("us"), {"dataType": "sc:DateTime"}),
        (pa.list_(pa.int32()), {"dataType": "cr:Int32", "isArray": True, "arrayShape": "-1"}),
        (pa.list_(pa.float32(), 8), {"dataType": "cr:Float32", "isArray": True, "arrayShape": "8"}),
        (
            pa.list_(pa.field("item", pa.large_list(pa.uint64()), nullable=False)),
            {"dataType": "cr:UInt64", "isArray": True, "arrayShape": "-1,-1"},
        ),
    ],
)
def test_arrow_types_have_their_croissant_names(kind, expected):
    entry = TableEntry((FileEntry("data/train-00000-of-00001.parquet", 1, "0", 1),), 1, "0", {"x": str(kind)})
    manifest = Manifest("dataset", 1, "k", {}, "d", {}, Counts(), {"train": entry}, stats={"domains": {}})
    (field,) = croissant(manifest)["recordSet"][0]["field"]
    assert {name: field[name] for name in field if name in ("dataType", "isArray", "arrayShape")} == expected


def test_it_is_valid_and_its_reader_reads_every_row(published, caplog):
    reader = pytest.importorskip("mlcroissant")
    with caplog.at_level(logging.WARNING):
        found = reader.Dataset(jsonld=str(published / "croissant.json"))
    assert not found.metadata.ctx.issues.errors
    # without a clock there is no date of publication, and a digest is no semantic version
    warnings = {w.partition('"')[2].partition('"')[0] for w in found.metadata.ctx.issues.warnings}
    assert warnings <= {"https://schema.org/datePublished", "https://schema.org/version"}
    for split in SPLITS:
        expected = Dataset(str(published)).read(split, ["doc_id", "text", "tokens"]).to_pylist()
        rows = list(found.records(split))
        assert [(r[f"{split}/doc_id"].decode(), r[f"{split}/tokens"]) for r in rows] == [
            (r["doc_id"], r["tokens"]) for r in expected
        ]
        assert [r[f"{split}/text"].decode() for r in rows] == [r["text"] for r in expected]


def test_the_same_holds_under_the_names_of_a_push(published, tmp_path):
    reader = pytest.importorskip("mlcroissant")
    push(str(published), str(tmp_path / "dest"))
    found = reader.Dataset(jsonld=str(tmp_path / "dest" / "croissant.json"))
    assert len(list(found.records("train"))) == Dataset(str(published)).table("train").rows


def test_load_dataset_reads_the_folder_with_croissant_json_in_it(published, tmp_path):
    found = datasets.load_dataset(str(published), cache_dir=str(tmp_path))
    assert list(found) == list(SPLITS)
    for split in SPLITS:
        assert found[split].to_list() == Dataset(str(published)).read(split).to_pylist()


def test_what_the_recipe_says_is_in_both(published, value):
    assert value["license"] == "https://spdx.org/licenses/CC-BY-4.0"
    assert value["description"] == CARD["description"]
    assert value["citeAs"] == CARD["citation"]
    assert value["url"] == CARD["homepage"]
    assert value["inLanguage"] == CARD["languages"]
    assert value["identifier"] == Dataset(str(published)).digest
    front, body = (published / "README.md").read_text().split("---\n", 2)[1:]
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0"
    assert front["language"] == ["en", "de"]
    assert "Small *things*.\nTwo lines." in body
    assert "    @misc{small, title={<Small>}}\n" in body
    assert "<https://example.org/small>" in body


def test_a_recipe_that_says_nothing_leaves_nothing_empty(finished):
    base, _, _ = finished
    value = json.loads((base / "run" / "dataset-1" / "croissant.json").read_bytes())
    assert not {"license", "citeAs", "url", "inLanguage"} & set(value)
    assert value["description"].startswith("Documents for training language models. Rows: train ")
    front, body = (base / "run" / "dataset-1" / "README.md").read_text().split("---\n", 2)[1:]
    assert not {"license", "language"} & set(yaml.safe_load(front))
    assert "## Licence" not in body
    assert "## Citation" not in body
    settings = Dataset(str(base / "run" / "dataset-1")).manifest.key_parts["settings"]
    assert set(settings) == {"title", "shard_bytes"}


def test_a_licence_by_address_is_a_link(finished):
    base, _, _ = finished
    manifest = Dataset(str(base / "run" / "dataset-1")).manifest
    manifest.key_parts["settings"]["card"] = {"license": "https://example.org/licence"}
    assert croissant(manifest)["license"] == "https://example.org/licence"
    front = front_matter("title", manifest)
    assert (front["license"], front["license_link"]) == ("other", "https://example.org/licence")


def test_steps_sources_and_drops_are_those_of_the_run(published):
    root = published.parent
    body = (published / "README.md").read_text()
    rows = [tuple(c.strip() for c in line.strip("|").split("|")) for line in body.splitlines() if line[:1] == "|"]
    built = [s["step"] for s in Dataset(str(published)).manifest.stats["built_from"]]
    assert built.index("documents") < built.index("deduplicated") < built.index("scored") < built.index("selection-1")
    for name in (*built, "dataset-1"):
        manifest = Dataset(str(root / name)).manifest
        counts = manifest.counts
        numbers = (counts.rows_in, counts.made, counts.kept, counts.dropped_total)
        assert (name, *(f"{n:,}" for n in numbers), f"`{manifest.digest[:8]}`") in rows
        for work, reasons in counts.dropped.items():
            for reason, number in reasons.items():
                cells = (name, work, reason, f"{number:,}")
                assert tuple(c.replace("_", "&#95;") for c in cells) in rows
    of = Dataset(str(root / "documents")).manifest.stats["sources"]["files"]
    assert ("files", f"{of['rows']:,}", f"{of['bytes']:,}") in rows
    dataset = Dataset(str(published))
    for domain in ("rivers", "letters"):
        own = [r for r in dataset.read("train").to_pylist() if r["domain"] == domain]
        assert (domain, f"{len(own):,}", f"{sum(r['tokens'] for r in own):,}") in rows


def test_paths_and_settings_of_the_maker_stay_out(published):
    for name in ("README.md", "croissant.json", "manifest.json"):
        assert str(published.parent.parent) not in (published / name).read_text()
        assert ".jsonl" not in (published / name).read_text()


def test_a_step_that_was_rebuilt_since_is_left_out_of_the_origin(finished, tmp_path):

    base, _, _ = finished
    shutil.copytree(base / "run", tmp_path / "run")
    names = [s["step"] for s in steps_before([Dataset(f"{tmp_path}/run/selection-1")])]
    assert names[-1] == "selection-1"
    assert "documents" in names
    path = tmp_path / "run" / "deduplicated" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "f" * 32}))
    names = [s["step"] for s in steps_before([Dataset(f"{tmp_path}/run/selection-1")])]
    assert "deduplicated" not in names


def test_equal_manifests_give_equal_bytes(published):
    manifest = Dataset(str(published)).manifest
    assert to_json(croissant(manifest)) == (published / "croissant.json").read_bytes()
    assert card("small (round 1)", manifest).encode() == (published / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("rows", "label"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M"), (10**9, "1B<n<10B"), (10**12, "n>1T")],
)
def test_sizes_are_the_hub_s_words(rows, label):
    entry = TableEntry((FileEntry("data/train-00000-of-00001.parquet", 1, "0", rows),), rows, "0", {})
    manifest = Manifest("dataset", 1, "k", {}, "d", {}, Counts(), {"train": entry}, stats={"domains": {}})
    assert front_matter("t", manifest)["size_categories"] == [label]
    assert [bound for _, bound in SIZES] == sorted(bound for _, bound in SIZES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("card.license=CC BY", "card.license: String should match pattern"),
        ("card.languages=[english]", r"card.languages.0: String should match pattern"),
        ("card.homepage=example.org", "card.homepage: String should match pattern"),
        ("card.licence=MIT", "unknown key card.licence; did you mean license"),
    ],
)
def test_a_card_that_others_could_not_read_is_refused(recipe_text, override, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(recipe_text, [override])
