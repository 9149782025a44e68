"""Steps: what decides a key, what a check says, and that only a balanced, whole build is committed."""

import hashlib
import json
import socket
from dataclasses import replace

import pyarrow as pa
import pytest

from penstock.dataset import MANIFEST, Counts, Dataset, FileEntry
from penstock.errors import DatasetError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import splits_of
from penstock.step import Built, Settings, Silent, Step, changes, check_step, check_steps, key_parts, run_step
from penstock.storage import Folder


class Numbers(Step):
    """Rows 0 to ``count``, ``each`` a part."""

    revision = 1
    libraries = ("pyarrow",)

    def __init__(self, count=6, each=2, name="numbers"):
        self.name, self.count, self.each, self.builds = name, count, each, 0

    def config(self):
        return {"count": self.count, "shape": ("a", 1)}

    def inputs(self, settings):
        return {"file": "digest"}

    def build(self, context):
        self.builds += 1

        def write(split, out):
            rows = range(split.payload, min(split.payload + self.each, self.count))
            out.write("rows", pa.record_batch({"n": pa.array(rows)}))
            out.count(made=len(rows), kept=len(rows))

        receipts = context.run("write", write, splits_of(range(0, self.count, self.each)))
        return context.collect(receipts, "rows")


class Doubled(Step):
    revision = 1
    name, parents = "doubled", ("numbers",)

    def __init__(self):
        self.builds = 0

    def config(self):
        return {}

    def build(self, context):
        self.builds += 1
        (parent,) = context.parents.values()

        def write(split, out):
            for batch in parent.batches("rows"):
                out.write("rows", batch)
                out.count(rows_in=batch.num_rows, kept=batch.num_rows)

        return context.collect(context.run("double", write, splits_of([0])), "rows")


@pytest.fixture
def root(tmp_path):
    return Folder(str(tmp_path))


def run(step, root, settings=Settings()):  # noqa: B008 (frozen)
    return run_step(step, root, HomeEngine(0), Silent(), settings)


def check(step, root, settings=Settings(), known=None):  # noqa: B008
    return check_step(step, root, known or {}, settings)


def test_an_equal_key_skips_the_build(root):
    step = Numbers()
    first, second = run(step, root), run(step, root)
    assert (first.skipped, first.why, second.skipped, second.why) == (False, "not built yet", True, "up to date")
    assert step.builds == 1
    assert second.manifest == first.manifest


def test_what_is_in_a_key_and_what_is_not():
    parts = key_parts(Numbers(), {}, Settings(seed=3))
    assert parts["step"] == "Numbers"
    assert parts["revision"] == 1
    assert parts["settings"] == {"count": 6, "shape": ["a", 1]}
    assert (parts["seed"], parts["dropped"], parts["inputs"]) == (3, "sample", {"file": "digest"})
    assert parts["libraries"]["pyarrow"] == pa.__version__
    assert key_parts(Numbers(), {}, Settings(seed=3, split_bytes=1)) == parts
    for other in (Settings(seed=4), Settings(seed=3, dropped="ids")):
        assert key_parts(Numbers(), {}, other) != parts
    assert key_parts(Numbers(count=7), {}, Settings(seed=3)) != parts


def test_a_change_is_named_with_old_and_new_value(root):
    run(Numbers(), root)
    found = check(Numbers(count=7), root, Settings(seed=1))
    assert not found.skip
    assert found.why == "changed: seed: 0 -> 1; settings.count: 6 -> 7"
    assert (
        check(Numbers(), root, Settings(seed=1, dropped="full")).why == "changed: dropped: sample -> full; seed: 0 -> 1"
    )


def test_changes_of_nested_values_have_paths_and_short_values():
    old, new = {"a": [1, {"b": 2}], "c": None, "e": 1}, {"a": [1, {"b": 3}], "c": "x" * 30, "d": 1}
    assert changes(old, new) == [
        "a.1.b: 2 -> 3",
        "c: absent -> xxxxxxxxxxxxxxxxxxxx…",
        "d: absent -> 1",
        "e: 1 -> absent",
    ]
    assert changes([1, 2], [1, 2, 3], "list") == ["list: [1, 2] -> [1, 2, 3]"]


def test_a_step_waits_for_a_parent_that_is_to_be_built(root):
    assert [c.why for c in check_steps([Numbers(), Doubled()], root, Settings())] == ["not built yet", "after numbers"]
    with pytest.raises(DatasetError, match=r"numbers: no manifest.json, so no dataset; its build has not finished"):
        run(Doubled(), root)


def test_an_equal_digest_stops_everything_downstream(root):
    child = Doubled()
    run(Numbers(), root), run(child, root)
    again = run(Numbers(each=1), root, Settings(seed=1))
    assert not again.skipped
    assert len(again.manifest.tables["rows"].files) == 6
    assert check_steps([Numbers(each=1), child], root, Settings(seed=1))[1].why == "changed: seed: 0 -> 1"
    # the seed is a setting of every step; what came from the parent is the same
    found = changes(
        Dataset(root / "doubled").manifest.key_parts, key_parts(child, {"numbers": again.manifest}, Settings())
    )
    assert found == []


def test_a_missing_or_cut_file_is_found_and_built_again(root, tmp_path):
    step = Numbers()
    path = run(step, root).manifest.tables["rows"].files[1].path
    (tmp_path / "numbers" / path).write_bytes(b"PAR1")
    assert check(step, root).why == f"1 file(s) missing or cut, first {path}"
    run(step, root)
    Dataset(root / "numbers").verify()
    assert check(step, root).skip


class Unbalanced(Numbers):
    def build(self, context):
        return replace(super().build(context), counts=Counts(rows_in=7, made=1, kept=6, dropped={"f": {"x": 1}}))


def test_rows_that_do_not_add_up_are_never_committed(root):
    with pytest.raises(DatasetError, match=r"rows in 7 \+ made 1 is not kept 6 \+ dropped 1; nothing was published"):
        run(Unbalanced(), root)
    assert not root.exists(f"numbers/{MANIFEST}")
    assert check(Unbalanced(), root).why == "resumes an unfinished build"


class Interrupted(Numbers):
    """Fails after its parts are written, as a kill before the manifest would leave it."""

    def build(self, context):
        super().build(context)
        raise KeyboardInterrupt


def test_an_unfinished_build_is_resumed_and_its_parts_are_kept(root):
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), root)
    parts = {name for name in root.files() if name.endswith(".parquet")}
    step = Numbers()
    # the class's name is in the key
    step.__class__ = type("Interrupted", (Numbers,), {})
    result = run(step, root)
    assert result.why == "resumes an unfinished build"
    assert {f"numbers/{f.path}" for f in result.manifest.tables["rows"].files} == parts


def test_the_commit_clears_what_the_manifest_does_not_name_but_not_what_others_put_there(root):
    others = ("numbers/.git/config", "numbers/notes.txt", "numbers/abcdef.txt")
    stale = (
        "numbers/0123456789ab/write/00000-aa.0.rows.parquet",
        "numbers/0123456789ab/write/00000-aa.json",
        "numbers/.tmp-x",
        "numbers/data/train-00000-of-00001.parquet",
        "numbers/dropped/train-00000-of-00001.parquet",
        "numbers/0123456789ab/.tmp-y",
    )
    for name in (*others, *stale):
        root.write_bytes(name, b"")
    manifest = run(Numbers(), root).manifest
    named = {f"numbers/{file.path}" for file in manifest.tables["rows"].files}
    assert set(root.files()) == {*others, *named, f"numbers/{MANIFEST}"}


def test_leftovers_of_a_kill_between_commit_and_clearing_go_when_the_step_is_skipped(root):
    manifest = run(Numbers(), root).manifest
    before = root.files()
    root.write_bytes(f"numbers/{manifest.key[:12]}/write/00000-aa.json", b"{}")
    assert run(Numbers(), root).skipped
    assert root.files() == before


def test_receipts_left_by_such_a_kill_do_not_stand_for_a_part_that_was_lost_later(root, tmp_path):
    step = Numbers()
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), root)
    receipts = {name: root.read_bytes(name) for name in root.files() if name.endswith(".json")}
    step.__class__ = type("Interrupted", (Numbers,), {})
    manifest = run(step, root).manifest
    for name, data in receipts.items():
        root.write_bytes(name, data)
    (tmp_path / "numbers" / manifest.tables["rows"].files[0].path).unlink()
    assert run(step, root).manifest.digest == manifest.digest
    Dataset(root / "numbers").verify()


def test_an_artifact_is_named_with_its_sha256_and_its_bytes_decide_the_digest(root):
    class Model(Numbers):
        data = b"weights"

        def build(self, context):
            return Built(artifacts={"model": context.write_artifact("model.bin", self.data)})

    first = run(Model(), root).manifest
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert first.artifacts["model"] == FileEntry(f"{first.key[:12]}/model.bin", 7, sha256)
    Dataset(root / "numbers").verify()
    with open(Dataset(root / "numbers").artifact("model"), "rb") as file:
        assert file.read() == b"weights"
    Model.data = b"weightz"
    assert run(Model(count=7), root).manifest.digest != first.digest


def test_a_manifest_holds_no_time_and_no_machine(root, tmp_path):
    text = json.dumps(run(Numbers(), root).manifest.to_json())
    assert str(tmp_path) not in text
    assert socket.gethostname() not in text
    assert '"seconds"' not in text


def test_the_finish_hook_runs_before_the_commit(root):
    seen = []

    class Carded(Numbers):
        def finish(self, folder, manifest):
            seen.append((folder.exists(MANIFEST), manifest.counts.kept))

    run(Carded(), root)
    assert seen == [(False, 6)]
