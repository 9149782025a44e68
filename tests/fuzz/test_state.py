"""Files that a run keeps for its next one, damaged in every way: made again, as good as none, or refused by name.

A cut, turned bits, a value of another kind, lists too deep in one another, numbers that are none. What is read of such
a file is what was written, or nothing.
"""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from penstock.checked import sealed, unsealed
from penstock.dataset import MANIFEST, Dataset
from penstock.errors import DatasetError, FolderInUseError, OtherRecipeError, PenstockError, StorageError
from penstock.generators.answers import AnswerStore
from penstock.generators.base import Completion, Usage
from penstock.generators.spending import FILE as SPENDING
from penstock.generators.spending import spending
from penstock.generators.voyager.checkpoint import Checkpoint, Saved
from penstock.generators.voyager.records import RoundRecord
from penstock.lock import LEASE, FolderLock
from penstock.ownership import claim
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import Pass, run_pass, splits_of
from penstock.reuse import Earlier
from penstock.run import FINGERPRINTS, TIMINGS, Fingerprints, read_timings
from penstock.sources.base import InputFile, fingerprint
from penstock.step import Settings, Silent, Step, run_step
from penstock.storage import Folder
from penstock.training.mixture import MixtureLog

JUNK = (None, True, -1, 1.5, 10**30, "", "x", "../../x", [], {}, {"a": 1}, [1], math.nan, math.inf, "\x1b[31m\0")
TEXTS = (
    b"", b"null", b"[]", b"{}", b"0", b'"x"', b"\xff\xfe{}", b"NaN", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"recipe": ' + b"9" * 5000 + b"}", b'{"check": null}',
)  # fmt: skip


def places(value, at=()):
    """Where in a JSON value something stands."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def with_junk(value, at, junk):
    """The value with another one in one place; ``places`` takes away what stands there."""
    if not at:
        return None if junk is places else junk
    out = dict(value) if isinstance(value, dict) else list(value)
    if junk is places and len(at) == 1:
        del out[at[0]]
    else:
        out[at[0]] = with_junk(out[at[0]], at[1:], junk)
    return out


FRACTION = st.floats(0, 1, exclude_max=True)


@st.composite
def damages(draw):
    """A function that makes other bytes of a file's; where and how depends on the file only by its length."""
    how = draw(st.sampled_from(["cut", "bits", "text", "value", "value", "value"]))
    text, at, junk = draw(st.sampled_from(TEXTS)), draw(FRACTION), draw(st.sampled_from((*JUNK, places)))
    bits = draw(st.lists(st.tuples(FRACTION, st.integers(0, 7)), min_size=1, max_size=3, unique=True))

    def damaged(data):
        out = bytearray(data)
        if how == "cut":
            del out[int(at * len(data)) :]
        elif how == "text":
            out[:] = text
        elif how == "value" and data[:1] in b"{[":
            value = json.loads(data)
            found = list(places(value))
            out[:] = json.dumps(with_junk(value, found[int(at * len(found))], junk)).encode()
        else:
            for place, bit in bits:
                out[int(place * len(data))] ^= 1 << bit
        assume(bytes(out) != data)
        return bytes(out)

    return damaged


def tried(kind, call):
    """What a call returns, and nothing; or nothing, and what its error says."""
    try:
        return call(), None
    except kind as error:
        return None, str(error)


many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def test_a_sealed_object_is_itself_or_refused():
    value = {"a": (1, 2.5), "b": {1: None}}
    assert unsealed(json.loads(json.dumps(sealed(value)))) == {"a": [1, 2.5], "b": {"1": None}}
    for wrong in ({}, [], None, "x", {"a": 1}, sealed(value) | {"a": [1, 2]}, {"check": math.nan}):
        with pytest.raises(ValueError, match=r"expected an object|not what was written|not JSON compliant"):
            unsealed(wrong)


# ── steps and passes ─────────────────────────────────────────────────────────────────────────────


class Doubles(Step):
    """Two parts of three rows each."""

    name, revision = "doubles", 1

    def config(self):
        return {"by": 2}

    def build(self, context):
        return context.collect(context.run("write", write_doubles, SPLITS, reuse={}), "rows")


def write_doubles(split, out):
    numbers = [2 * n for n in range(split.payload, split.payload + 3)]
    out.write("rows", pa.record_batch({"n": pa.array(numbers, pa.int64())}))
    out.count(rows_in=4, kept=3, dropped={"doubles": {"odd": 1}})
    out.add_stats({"seen": {"numbers": 3}})


SPLITS = [type(split)(split.index, split.payload, f"memo-{split.index}") for split in splits_of([0, 3])]


def build_doubles(root):
    return run_step(Doubles(), root, HomeEngine(0), Silent(), Settings()).manifest


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """A committed step: its folder and its manifest."""
    root = Folder(str(tmp_path_factory.mktemp("step")))
    return SimpleNamespace(folder=root / "doubles", manifest=build_doubles(root))


@many
@given(damage=damages())
def test_a_damaged_receipt_is_made_again_in_the_same_bytes(tmp_path_factory, damage):
    folder = Folder(str(tmp_path_factory.mktemp("pass")))
    job = Pass(folder, "0123456789ab/write", write_doubles)
    whole = run_pass(job, SPLITS, HomeEngine(0))
    name = f"0123456789ab/write/{SPLITS[1].id}.json"
    folder.write_bytes(name, damage(folder.read_bytes(name)))
    again = run_pass(job, SPLITS, HomeEngine(0))
    assert again[0] == whole[0]
    assert (again[1].counts, again[1].stats) == (whole[1].counts, whole[1].stats)
    assert again[1].parts["rows"].file.sha256 == whole[1].parts["rows"].file.sha256
    assert again[1].parts["rows"].digest == whole[1].parts["rows"].digest


def test_receipts_that_do_not_come_back_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "write_json", lambda self, name, value: self.write_bytes(name, b"{"))
    with pytest.raises(StorageError, match=r"2 parts are not as they were written a moment ago, first 00000-"):
        run_pass(Pass(Folder(str(tmp_path)), "0123456789ab/write", write_doubles), SPLITS, HomeEngine(0))


@many
@given(damage=damages())
def test_damaged_receipts_of_an_earlier_build_are_warned_of_and_not_used(step, damage):
    path = step.manifest.passes.path
    whole = step.folder.read_bytes(path)
    warnings = []
    try:
        given = damage(whole)
        step.folder.write_bytes(path, given)
        found = Earlier(step.folder, step.manifest, warnings.append).passes
    finally:
        step.folder.write_bytes(path, whole)
    assert found == {}
    assert "nothing is taken over from it, all is built again" in warnings[0]


def test_a_receipt_of_another_names_no_file_outside_of_its_folder(step):
    (kept,) = Earlier(step.folder, step.manifest, print).passes.values()
    value = json.loads(json.dumps(kept.receipts["memo-0"].to_json()))
    value["parts"]["rows"]["file"]["path"] = "../../../etc/passwd"
    with pytest.raises(ValueError, match="expected one inside of the folder"):
        type(kept.receipts["memo-0"]).from_json(value)


@many
@given(damage=damages())
def test_a_damaged_manifest_is_refused_or_built_again_with_the_same_rows(tmp_path_factory, damage):
    root = Folder(str(tmp_path_factory.mktemp("manifest")))
    folder, whole = root / "doubles", build_doubles(root)
    folder.write_bytes(MANIFEST, damage(folder.read_bytes(MANIFEST)))
    made, refused = tried(DatasetError, lambda: build_doubles(root))
    if refused is not None:
        assert f"{folder.path}/{MANIFEST}: " in refused
        return
    assert (made.digest, made.key, made.counts.kept) == (whole.digest, whole.key, 6)
    assert Dataset(folder).read("rows")["n"].to_pylist() == [0, 2, 4, 6, 8, 10]


# ── a run's folder ───────────────────────────────────────────────────────────────────────────────


@many
@given(damage=damages())
def test_damaged_fingerprints_cost_another_look_at_the_file(tmp_path_factory, damage):
    root = Folder(str(tmp_path_factory.mktemp("run")))
    root.write_bytes("a.jsonl", b"{}\n")
    file = InputFile.local(Path(root.path) / "a.jsonl")
    prints = Fingerprints.load(root)
    right = prints(file)
    prints.save()
    root.write_bytes(FINGERPRINTS, damage(root.read_bytes(FINGERPRINTS)))
    assert Fingerprints.load(root)(file) == right == fingerprint(file)


TIMES = {"documents": {"seconds": 1.5, "peak_memory": 1 << 30, "finished": "2026-01-01T00:00:00+00:00"}}
TOOK = {"completed": {"qwen": {"requests": 12, "kept": 3, "asked": 9, "cost": None}}}


@pytest.mark.parametrize(
    ("name", "value", "read"), [(TIMINGS, TIMES, read_timings), (SPENDING, TOOK, spending)], ids=["times", "models"]
)
@many
@given(damage=damages())
def test_what_a_build_took_is_what_was_kept_or_nothing(tmp_path, name, value, read, damage):
    root = Folder(str(tmp_path))
    root.write_json(name, sealed(value))
    assert read(root) == value
    root.write_bytes(name, damage(root.read_bytes(name)))
    assert read(root) in ({}, value)  # blanks may have changed


@many
@given(damage=damages())
def test_a_folder_with_a_damaged_mark_is_taken_for_nobody_s(tmp_path, damage):
    root = Folder(str(tmp_path))
    root.write_json("run.json", {"recipe": "small"})
    given = damage(root.read_bytes("run.json"))
    root.write_bytes("run.json", given)
    _, refused = tried(OtherRecipeError, lambda: claim(root, "small", write=True))
    assert str(tmp_path) in refused if refused is not None else json.loads(given)["recipe"] == "small"
    assert root.read_bytes("run.json") == given


@many
@given(damage=damages())
def test_a_folder_in_use_stays_so_whatever_is_said_of_its_holder(tmp_path, damage):
    folder = Folder(str(tmp_path / "run"))
    with FolderLock(folder):
        folder.write_bytes(".holder.json", damage(folder.read_bytes(".holder.json")))
        with pytest.raises(FolderInUseError, match="another penstock run is writing here"):
            FolderLock(folder).__enter__()


LIVE = {"id": "another", "pid": 7, "host": "elsewhere", "renewed": 0.0}


@many
@given(damage=damages())
def test_a_damaged_lease_is_one_of_another_a_dead_one_or_refused(monkeypatch, damage):
    given = damage(json.dumps(LIVE | {"renewed": time.time()}).encode())
    store = Folder(f"memory://lease-{time.monotonic_ns()}/run")
    store.write_bytes(LEASE, given)
    with monkeypatch.context() as patch:
        patch.setattr("penstock.lock.time.sleep", lambda seconds: None)
        try:
            with FolderLock(store):
                assert abs(json.loads(given)["renewed"] - time.time()) > 120
        except FolderInUseError:
            assert store.read_bytes(LEASE) == given


@pytest.mark.parametrize("renewed", [math.nan, math.inf, -math.inf, None, "x", 10**400])
def test_a_lease_of_no_time_is_refused(renewed):
    store = Folder(f"memory://lease-{time.monotonic_ns()}/run")
    store.write_bytes(LEASE, json.dumps(LIVE | {"renewed": renewed}).encode())
    with pytest.raises(FolderInUseError, match=r"not a lease .*; if no run is writing here, delete it"):
        FolderLock(store).__enter__()


# ── answers and voyages ──────────────────────────────────────────────────────────────────────────

KEYS = [f"{n:064x}" for n in range(12)]
ANSWERS = {
    key: Completion(text=f"answer {n} é", usage=Usage(prompt_tokens=n, completion_tokens=2), finish="stop")
    for n, key in enumerate(KEYS)
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A file of answers."""
    path = tmp_path_factory.mktemp("answers") / "a.sqlite"
    with AnswerStore(path=str(path)).writer("m") as writer:
        writer.put(ANSWERS)
    return path


@settings(many, max_examples=150)
@given(damage=damages())
def test_answers_of_a_damaged_file_are_the_right_ones_or_asked_again(tmp_path_factory, kept, damage):
    path = tmp_path_factory.mktemp("damaged") / "a.sqlite"
    path.write_bytes(damage(kept.read_bytes()))
    found, refused = tried(StorageError, lambda: AnswerStore(path=str(path)).get(KEYS))
    assert str(path) in refused if refused is not None else found.items() <= ANSWERS.items()


def test_an_answer_that_is_not_what_was_kept_is_removed_and_kept_again(tmp_path):
    store = AnswerStore(path=str(tmp_path / "a.sqlite"))
    with store.writer("m") as writer:
        writer.put(ANSWERS)
    with store.open() as connection, connection:
        connection.execute("UPDATE answers SET body = replace(body, ' 3 ', ' 8 ') WHERE digest = ?", KEYS[3:4])
        connection.execute("UPDATE answers SET body = CAST(x'ff' AS TEXT) WHERE digest = ?", KEYS[4:5])
        connection.execute("UPDATE answers SET body_hash = NULL WHERE digest = ?", KEYS[5:6])  # an earlier version's
    assert store.get(KEYS) == {key: of for key, of in ANSWERS.items() if key not in KEYS[3:5]}
    with store.writer("m") as writer:
        writer.put(ANSWERS)
    assert store.get(KEYS) == ANSWERS


ROUND = RoundRecord(
    round=0, threshold=0.5, proposed=2, accepted=0, dropped={"gate": {"long": 2}}, mean_gain=None, vendi=1.0, total=0,
    explorers=(("e", None, 2, 0),), steps=1,
)  # fmt: skip
SAVED = Saved(decisions=[], record=ROUND, proposers=[], anchors=["a"], explorers=[], kernel=None, threshold=0.25)


@pytest.mark.parametrize("name", ["start.json", "round-00000.json"])
@many
@given(damage=damages())
def test_a_voyage_goes_on_from_what_was_saved_or_is_refused(tmp_path_factory, name, damage):
    folder = Folder(str(tmp_path_factory.mktemp("voyage")))
    voyage = Checkpoint(folder, {"seed": 1})
    assert voyage.load(sampled=False) == []
    voyage.save(SAVED)
    folder.write_bytes(name, damage(folder.read_bytes(name)))
    found, refused = tried(DatasetError, lambda: voyage.load(sampled=False))
    assert folder.path in refused if refused is not None else found == [SAVED]


# ── training ─────────────────────────────────────────────────────────────────────────────────────


def log_of():
    """A log with a cap that is reached, a change and a replacement by other data."""
    log = MixtureLog.start(
        ["a", "b"], (2, 1), seed=3, rows=[9, 4], limits=[12, None], on_exhausted="redistribute", fingerprint="x"
    )
    return log.append(10, (1, 1)).replace(40, ["b", "c"], (1, 3), rows=[5, 6], fingerprint="y")


@settings(many, max_examples=200)
@given(damage=damages())
def test_a_damaged_mixture_log_is_refused_or_a_log(damage):
    whole = log_of()
    text = damage(json.dumps(whole.to_json()).encode())
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return  # its checkpoint is refused
    try:
        log = MixtureLog.from_json(value)
        log.assign(np.arange(log.entries[0].effective_from, log.entries[0].effective_from + 60))
    except PenstockError:
        return
    assert MixtureLog.from_json(json.loads(json.dumps(log.to_json()))) == log
    assert log.seed == value["seed"]


def test_a_cap_that_repeats_is_refused_and_does_not_hang():
    value = log_of().to_json()
    value["entries"][0]["on_exhausted"] = "repeat"
    with pytest.raises(DatasetError, match="on_exhausted repeat with limits"):
        MixtureLog.from_json(value)


NUMBERS = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with one checkpoint of two small tensors, and the bytes of its files."""
    import torch

    from penstock.training.checkpoint import CheckpointWriter

    folder = tmp_path_factory.mktemp("checkpoints")
    tensors = {"w": torch.tensor(NUMBERS)}
    CheckpointWriter(folder, keep=1).save(7, model=tensors, training=tensors, state={"tokens": 5, "of": [1, 2.5]})
    path = folder / "step-00000007"
    return folder, path, {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors"])
@many
@given(damage=damages())
def test_a_damaged_checkpoint_is_refused_by_name_or_is_the_one_that_was_saved(checkpoint, name, damage):
    from penstock.training.checkpoint import load_latest

    folder, path, files = checkpoint

    def load():
        found = load_latest(folder)
        return found.step, found.state, found.model["w"].tolist(), found.training["w"].tolist()

    (path / name).write_bytes(damage(files[name]))
    found, refused = tried(DatasetError, load)
    (path / name).write_bytes(files[name])
    if refused is None:
        assert found == (7, {"tokens": 5, "of": [1, 2.5]}, NUMBERS, NUMBERS)
    else:
        assert f"remove {path} to resume from the checkpoint before it" in refused


@many
@given(damage=damages())
def test_lines_of_a_run_are_whole_or_named(tmp_path, damage):
    from penstock.training.metrics import whole_lines

    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0 / step}).encode() + b"\n" for step in range(1, 5)]
    path.write_bytes(lines[0] + damage(lines[1]) + b"".join(lines[2:]))
    found, refused = tried(DatasetError, lambda: whole_lines(path))
    if refused is not None:
        assert f"{path}: line " in refused
    else:
        assert all(type(record["step"]) is int for record in found)
        assert found[-1] == json.loads(lines[-1])
