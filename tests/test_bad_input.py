"""What a user sees when the input, the recipe or the disk is bad: one line that says what to mend, exit code 1."""

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.dataset import Dataset
from penstock.lock import FolderLock
from penstock.recipe import Recipe
from penstock.run import run
from penstock.storage import Folder

RECIPE = """
name: bad
source:
  files: '{files}'
filters: {{gopher_quality: null, gopher_repetition: null}}
tokenizer: {{vocabulary_size: 300}}
quality: {{positive: {{domains: [good]}}, rows_per_side: 20}}
"""


def refusal(done):
    """The one line a refused command ends with."""
    code, _, err = done
    assert code == 1, err
    assert "Traceback" not in err
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("penstock: ")] == lines[-1:], err
    return lines[-1]


def write_recipe(tmp_path, files, extra=""):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(files=files) + extra)
    return path


def of_build(tmp_path):
    return "build", tmp_path / "recipe.yaml", "--out", tmp_path / "run", "--workers", 0


@pytest.fixture
def build(penstock, tmp_path):
    """``build(…)`` the recipe of the test: (exit code, stdout, stderr)."""
    return lambda *arguments: penstock(*of_build(tmp_path), *arguments)


def in_a_process(arguments, **options):
    """The same of a process of its own."""
    command = [sys.executable, "-m", "penstock", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    return done.returncode, done.stdout, done.stderr


def documents(tmp_path, files, *overrides):
    """The documents step in this process: (texts, [(reason, doc_id)] of what was dropped)."""
    recipe = Recipe.parse(RECIPE.format(files=files), overrides)
    result = run(recipe, out=str(tmp_path / "run"), workers=0, only=["documents"], report=False)
    assert result.steps[0].manifest.counts.balances
    dataset = Dataset(f"{tmp_path}/run/documents")
    dropped = dataset.read("dropped").to_pylist() if "dropped" in dataset.manifest.tables else []
    texts = dataset.read("documents")["text"].to_pylist() if "documents" in dataset.manifest.tables else []
    return texts, [(row["reason"], row["doc_id"]) for row in dropped]


def jsonl(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


GOOD = [f"Document number {number} speaks of rivers, gates and turbines." for number in range(40)]


# ── records: each costs itself alone ─────────────────────────────────────────────────────────────


def test_invalid_utf8_costs_its_own_record(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl("first") + b'{"text": "\xff\xfe"}\n' + jsonl("third"))
    texts, dropped = documents(tmp_path, tmp_path / "a.jsonl")
    assert texts == ["first", "third"]
    assert dropped == [("invalid_utf8", "a.jsonl#1")]


def test_null_and_whitespace_texts_are_dropped_under_their_own_reasons(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl("first", None, "", " \t\u00a0\n", "last"))
    texts, dropped = documents(tmp_path, tmp_path / "a.jsonl")
    assert texts == ["first", "last"]
    assert [doc_id for _, doc_id in dropped] == ["a.jsonl#1", "a.jsonl#2", "a.jsonl#3"]
    assert dropped[0][0] == "missing_text"
    assert {reason for reason, _ in dropped[1:]} <= {"empty_text", "empty"}


@pytest.mark.parametrize(
    ("name", "line"),
    [("a.jsonl", b'{"text": "%s"}\n'), ("a.csv", b'"%s"\n'), ("a.txt", b"%s\n")],
    ids=["jsonl", "csv", "lines of text"],
)
def test_records_of_other_encodings_in_a_file_cost_themselves(tmp_path, name, line):
    """UTF-8 between Latin-1, Windows-1251, Shift JIS and UTF-16, a record each."""
    texts = {"utf-8": "naïve café", "latin-1": "schön und grün", "cp1251": "вода и камень", "shift_jis": "水と石の話"}
    rows = [line % texts["utf-8"].encode(), *(line % text.encode(code) for code, text in texts.items())]
    rows += [line % "water".encode("utf-16"), line % b"the last one"]
    header = b"text\n" if name == "a.csv" else b""
    (tmp_path / name).write_bytes(header + b"".join(rows))
    unit = f"source.files=[{{path: '{tmp_path / name}'{', text_unit: line' if name == 'a.txt' else ''}}}]"
    kept, dropped = documents(tmp_path, tmp_path / name, unit)
    assert kept == [texts["utf-8"], texts["utf-8"], "the last one"]
    assert dropped == [("invalid_utf8", f"{name}#{row}") for row in (2, 3, 4, 5)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.txt.gz", "a.jsonl.zst"])
def test_a_bomb_costs_its_record_and_not_the_memory(tmp_path, name):
    """A record of 256 MB in a file of 300 kB: read up to the limit of a document, then passed over."""
    import tracemalloc

    import zstandard

    before, after = {"csv": (b"text\n", b"\n"), "jsonl": (b'{"text": "', b'"}\n'), "txt": (b"", b"")}[
        name.split(".")[1]
    ]
    data = before + b"a " * (128 << 20) + after
    packed = zstandard.compress(data) if name.endswith("zst") else gzip.compress(data, 6)
    del data
    assert len(packed) < 400_000
    (tmp_path / name).write_bytes(packed)
    (tmp_path / "z.jsonl").write_bytes(jsonl("kept"))
    documents(tmp_path / "first", tmp_path / "z.jsonl")  # what is imported is no memory of the bomb's
    tracemalloc.start()
    try:
        kept, dropped = documents(tmp_path, tmp_path / "*.*", "source.max_document_mb=1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (kept, dropped) == (["kept"], [("too_large", f"{name}#0")])
    assert peak < 128 << 20  # one piece of zstd may hold 90 MB, however large the record is


def test_an_empty_file_beside_a_good_one_changes_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl("first"))
    (tmp_path / "b.jsonl").touch()
    (tmp_path / "c.txt").touch()
    assert documents(tmp_path, tmp_path / "*.*") == (["first"], [])


@pytest.mark.slow
def test_a_document_of_50_mb_on_one_line_stays_under_a_gigabyte(tmp_path):
    words = b"water flows down the river to the turbine and on to the sea beyond the valley "
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "' + words * (50_000_000 // len(words)) + b'"}\n')
        file.write(jsonl(*GOOD))
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    code = (
        "import sys\n"
        "from penstock.recipe import Recipe\n"
        "from penstock.run import run\n"
        "run(Recipe.load(sys.argv[1]), out=sys.argv[2], workers=0, only=['deduplicated'], report=False)\n"
        # not ru_maxrss, which begins at the size of the process that started this one
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "recipe.yaml"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 1 << 20  # kB
    sizes = [len(text) for text in Dataset(f"{tmp_path}/run/deduplicated").read("documents")["text"].to_pylist()]
    assert max(sizes) > 49_000_000
    assert len(sizes) == 41


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def truncated_parquet(folder):
    pq.write_table(pa.table({"text": GOOD * 50}), folder / "bad.parquet")
    data = (folder / "bad.parquet").read_bytes()
    (folder / "bad.parquet").write_bytes(data[: len(data) // 2])
    return folder / "bad.parquet"


def corrupt_gzip(folder):
    """Cut near its end: enough good records come first to have parts open when the damage is met."""
    data = gzip.compress(jsonl(*(f"{number} {GOOD[number % 40]}" for number in range(20_000))), mtime=0)
    (folder / "bad.jsonl.gz").write_bytes(data[: len(data) - 2_000])
    return folder / "bad.jsonl.gz"


@pytest.mark.parametrize("make", [truncated_parquet, corrupt_gzip])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_stops_the_run_and_is_named(build, tmp_path, make, workers):
    path = make(tmp_path)
    (tmp_path / "good.jsonl").write_bytes(jsonl(*GOOD))
    write_recipe(tmp_path, tmp_path / "*.*")
    # the recipe itself matches no known extension, so it is named away
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(files=tmp_path / "[bg]*.*"))
    line = refusal(build("--workers", workers))
    assert str(path) in line
    assert "replace the file, or set on_bad_file: drop to go on without it" in line
    assert not (tmp_path / "run" / "documents" / "manifest.json").exists()


@pytest.mark.parametrize("make", [truncated_parquet, corrupt_gzip])
def test_a_bad_file_may_be_dropped_and_is_counted(tmp_path, make):
    path = make(tmp_path)
    (tmp_path / "good.jsonl").write_bytes(jsonl(*GOOD))
    texts, dropped = documents(tmp_path, tmp_path / "[bg]*.*", "source.on_bad_file=drop")
    corrupt = [doc_id for reason, doc_id in dropped if reason == "corrupt_file"]
    assert len(corrupt) == 1
    assert corrupt[0].startswith(path.name + "#")
    assert set(GOOD) <= set(texts)


def test_only_empty_files_say_that_there_are_no_rows(build, tmp_path):
    (tmp_path / "a.jsonl").touch()
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    line = refusal(build())
    assert "documents: its inputs hold no rows; look at the recipe's source" in line


def test_a_missing_column_names_the_columns_that_were_found(build, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "title": "y"}\n')
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("body,title\nx,y\n")
    for name in ("a.jsonl", "b.parquet", "c.csv"):
        write_recipe(tmp_path, tmp_path / name)
        line = refusal(build())
        assert str(tmp_path / name) in line
        assert "no column text; found body, title; name the column with columns: {text: ...}" in line


def test_no_matching_file_names_the_pattern(build, tmp_path):
    write_recipe(tmp_path, tmp_path / "nothing" / "*.jsonl")
    assert str(tmp_path / "nothing") in refusal(build())


def test_when_every_row_is_dropped_the_reasons_are_named_and_the_drops_can_be_looked_at(build, penstock, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(" ", " ", None))
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    line = refusal(build())
    assert "documents: no row is left, all 3 were dropped (" in line
    assert "missing_text 1" in line
    assert "penstock inspect --sample" in line
    shown = penstock("inspect", tmp_path / "run" / "documents", "--sample", "3")
    assert (shown[0], shown[2]) == (0, "")
    assert "missing_text" in shown[1]


def test_a_selection_that_takes_nothing_says_so(build, finished, tmp_path):
    base, recipe, _ = finished
    shutil.copytree(base / "run", tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    nothing = ("--set", "select.omega=0.000001", "--set", "select.eps=0", "--set", "select.lam=1000")
    line = refusal(build(*nothing))
    assert "dataset-1: the selection takes none of 213 documents for training" in line
    # the dataset of the build before stays whole
    before = Dataset(str(base / "run" / "dataset-1"))
    after = Dataset(str(tmp_path / "run" / "dataset-1"))
    assert after.manifest == before.manifest
    assert after.read("train").equals(before.read("train"))


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("tokeniser: {vocabulary_size: 300}", (), "unknown key tokeniser; did you mean tokenizer?"),
        ("", ("tokenizer.vocab_size=300",), "unknown key tokenizer.vocab_size; did you mean vocabulary_size?"),
        ("", ("source.on_bad_file=skip",), "source.on_bad_file: Input should be 'drop' or 'fail' (got 'skip')"),
        ("rounds: 2", (), "rounds above 1 read what training saw: add a train section, or set rounds to 1"),
        ("a: [", (), "recipe.yaml:8:5: not YAML: while parsing a flow node expected the node content"),
        ("", ("rounds",), "--set rounds: allowed KEY.KEY=VALUE"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_allowed(build, tmp_path, text, overrides, expected):
    write_recipe(tmp_path, tmp_path / "a.jsonl", text)
    arguments = [part for override in overrides for part in ("--set", override)]
    assert expected in refusal(build(*arguments))
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there_is_named(build, tmp_path):
    line = refusal(build())
    assert str(tmp_path / "recipe.yaml") in line
    assert "give the path of a YAML file" in line


# ── output folders ───────────────────────────────────────────────────────────────────────────────


def test_a_folder_of_another_recipe_is_refused_and_both_are_named(penstock, finished, tmp_path):
    base, _, _ = finished
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    line = refusal(penstock("build", tmp_path / "recipe.yaml", "--out", base / "run"))
    assert "holds a run of recipe 'small', got 'bad'; choose another --out" in line


def test_a_folder_that_another_run_writes_is_refused_and_its_process_is_named(tmp_path):
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    with FolderLock(Folder(str(tmp_path / "run"))):
        line = refusal(in_a_process(of_build(tmp_path)))
    assert f"another penstock run is writing here (process {os.getpid()} on " in line


def test_a_file_in_the_place_of_the_output_folder_is_refused(build, penstock, tmp_path):
    (tmp_path / "run").write_text("mine")
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    assert "a file stands where a folder is needed; choose another output folder" in refusal(build())
    line = refusal(penstock("build", tmp_path / "recipe.yaml", "--out", tmp_path / "run" / "below"))
    assert "a file stands where a folder is needed" in line
    assert (tmp_path / "run").read_text() == "mine"


def test_an_unknown_protocol_is_refused(penstock, tmp_path):
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    line = refusal(penstock("build", tmp_path / "recipe.yaml", "--out", "nowhere://bucket/run"))
    assert "protocol nowhere is not known" in line


def test_a_read_only_output_folder_is_refused(penstock, tmp_path, small_disk):
    disk, remount = small_disk
    remount("ro")
    (tmp_path / "a.jsonl").write_bytes(jsonl(*GOOD))
    write_recipe(tmp_path, tmp_path / "a.jsonl")
    line = refusal(penstock("build", tmp_path / "recipe.yaml", "--out", disk / "run"))
    assert f"{disk}/run: the file system is read-only; choose another output folder" in line


def fill(disk, leave):
    """Take all space of a disk but ``leave`` bytes; returns the file that holds it."""
    space = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(b"\0" * (space.f_bavail * space.f_frsize - leave))
    return disk / "filler"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_publishes_nothing_and_the_next_run_resumes(penstock, finished, tmp_path, small_disk, workers):
    base, recipe, _ = finished
    disk, _ = small_disk
    filler = fill(disk, 160_000)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    command = ["build", tmp_path / "recipe.yaml", "--out", disk / "run", "--workers", workers, "--split-mb", 0.02]
    line = refusal(penstock(*command))
    assert "the disk is full; free space or choose another output folder, then run again to resume" in line
    assert not (disk / "run" / "documents" / "manifest.json").exists()
    receipts = list((disk / "run" / "documents").rglob("*.json"))
    assert receipts
    stamps = {path.name: path.stat().st_mtime_ns for path in receipts}
    filler.unlink()
    result = run(
        recipe, out=str(disk / "run"), workers=0, split_bytes=int(0.02 * (1 << 20)), only=["scored"], report=False
    )
    assert result.steps[0].why == "resumes an unfinished build"
    for step in result.steps:
        assert step.manifest.digest == Dataset(f"{base}/run/{step.step.name}").digest
    kept = {Path(file.path).name for file in result.steps[0].manifest.tables["documents"].files}
    assert stamps
    assert all(any(part.startswith(name.removesuffix(".json")) for part in kept) for name in stamps)


def test_a_limit_on_file_size_is_told_apart_from_a_full_disk(finished, tmp_path):
    _, recipe, _ = finished
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # noqa: E731
    line = refusal(in_a_process(of_build(tmp_path), preexec_fn=limit))
    assert "the file would exceed the size limit of this process or file system" in line
    assert not (tmp_path / "run" / "documents" / "manifest.json").exists()


def test_no_process_is_left_after_a_refusal(build, tmp_path):
    path = corrupt_gzip(tmp_path)
    write_recipe(tmp_path, path)
    resource_tracker.ensure_running()  # which stays as long as this process
    before = set(psutil.Process().children(recursive=True))
    refusal(build("--workers", 2))
    left = set(psutil.Process().children(recursive=True)) - before
    assert psutil.wait_procs(left, timeout=30)[1] == []
