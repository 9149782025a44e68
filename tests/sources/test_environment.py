"""The installed Python as a corpus: the same rows wherever it is installed and however it is split."""

from __future__ import annotations

import json
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from penstock import schema
from penstock.errors import ConfigError, InputError
from penstock.seeding import coins, hash_ids
from penstock.sources._docstrings import api_docstrings, module_docstring
from penstock.sources.base import SourceSplit, fingerprint
from penstock.sources.environment import DOMAINS, EnvironmentSource, _Found, _sample, _share, kind_of

HUGE = 1 << 40

MODULE = '''#!/usr/bin/env python
# -*- coding: utf-8 -*-
"""What the module {i} does.

    Indented."""

import os

class Public:
    """A class."""

    def method(self, x: int = 3, *rest) -> None:
        """A method."""

    def _private(self):
        """Not shown."""

def plain(a, b=None):
    return a

async def coroutine():
    "Waits."

class _Hidden:
    """Not shown."""
'''

METADATA = (
    "Metadata-Version: 2.1\nName: pkg\nVersion: 1\nDescription-Content-Type: text/markdown\n\n# Pkg\n\nRéadme {i}.\n"
)


def installation(root: Path, packages: int = 30) -> Path:
    for i in range(packages):
        folder = root / f"pkg{i}"
        files = {
            folder / "__init__.py": MODULE.format(i=i),
            folder / "core.py": MODULE.format(i=f"{i} core") + "# é\n",
            folder / "core.pyi": "def plain(a, b=...): ...\n",
            folder / "tests" / "test_core.py": f"def test_core():\n    assert {i}\n",
            folder / "guide.rst": f"Guide {i}\n=====\n",
            folder / "data.json": "{}",
            folder / "__pycache__" / "x.py": "hidden = 1\n",
            root / f"pkg{i}-1.dist-info" / "METADATA": METADATA.format(i=i),
            root / f"pkg{i}-1.dist-info" / "RECORD": "x\n",
            root / f"pkg{i}-1.dist-info" / "entry_points.txt": "x\n",
            root / f"pkg{i}-1.dist-info" / "licenses" / "COPYING": f"Do as you like, {i}.\n",
        }
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return root


def source(root: Path, **options: Any) -> EnvironmentSource:
    return EnvironmentSource(roots=(("site-packages", str(root)),), **options)


def read(src: EnvironmentSource, target: int = HUGE) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str]]]:
    documents: dict[str, tuple[str, str]] = {}
    drops: list[tuple[str, str]] = []
    src = ForkingPickler.loads(ForkingPickler.dumps(src))
    for split in src.plan(target):
        sent = SourceSplit.from_json(json.loads(json.dumps(split.to_json())))
        assert sent == split
        for rows in src.read(sent, dropped="sample"):
            assert rows.documents.schema.equals(schema.DOCUMENTS)
            for row in rows.documents.to_pylist():
                assert row["doc_id"] not in documents
                documents[row["doc_id"]] = (row["text"], row["domain"])
            drops += [(row["doc_id"], row["reason"]) for row in rows.dropped.to_pylist()]
    return documents, drops


def test_every_domain_is_found_and_data_and_caches_are_not(tmp_path):
    documents, drops = read(source(installation(tmp_path)))
    by_domain: dict[str, list[str]] = {}
    for doc_id, (_, domain) in documents.items():
        by_domain.setdefault(domain, []).append(doc_id.removeprefix("environment/site-packages/"))
    assert drops == []
    assert set(by_domain) == set(DOMAINS)
    assert by_domain["tests"][:2] == ["pkg0/tests/test_core.py#0", "pkg1/tests/test_core.py#0"]
    assert by_domain["readmes"][0] == "pkg0-1.dist-info/METADATA#0"
    assert by_domain["licences"][0] == "pkg0-1.dist-info/licenses/COPYING#0"
    assert {len(by_domain[domain]) for domain in ("tests", "stubs", "readmes", "licences")} == {30}
    assert documents["environment/site-packages/pkg3-1.dist-info/METADATA#0"][0] == "# Pkg\n\nRéadme 3.\n"


def test_a_module_gives_its_source_or_its_docstrings_and_never_both(tmp_path):
    documents, _ = read(source(installation(tmp_path)))
    source_modules = {i.split("#")[0] for i, (_, domain) in documents.items() if domain == "source"}
    api_modules = {i.split("#")[0] for i, (_, domain) in documents.items() if domain == "api_docstrings"}
    described = {i.split("#")[0] for i, (_, d) in documents.items() if d == "documentation" and ".py#" in i}
    assert source_modules.isdisjoint(api_modules)
    assert api_modules == described
    assert len(source_modules | api_modules) == 60
    assert 15 < len(source_modules) < 45


@pytest.mark.parametrize("seed", [0, 7])
def test_a_module_s_coin_is_its_own_whatever_others_are_drawn_beside_it(tmp_path, seed):
    root = installation(tmp_path)
    found = {f.path: f.domain for f in source(root, seed=seed)._scan(str(root), "site-packages")}
    modules = [path for path in found if path.endswith(("__init__.py", "/core.py"))]
    assert len(modules) == 60
    for path in modules:
        (coin,) = coins(hash_ids([path]), seed, "environment", "view")
        assert (found[path] == "source") == (coin < 0.5)


def test_docstrings_are_extracted_with_names_and_signatures():
    assert api_docstrings(MODULE, "pkg.core") == (
        "class pkg.core.Public\n\nA class.\n\n\n"
        "pkg.core.Public.method(self, x: int=3, *rest)\n\nA method.\n\n\n"
        "pkg.core.coroutine()\n\nWaits.\n"
    )
    assert api_docstrings("x = 1\n", "m") is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (MODULE, "What the module {i} does.\n\nIndented."),
        ("'one'\n", "one"),
        ("'one' # why\nx = 1\n", "one"),
        ("'a' 'b'\n", "ab"),
        ("'one'; x = 1\n", "one"),
        ("('one'\n 'two')\n", "onetwo"),
        ("(1)\n", None),
        ("'one'\r\nx = 1\r\n", "one"),
        ('r"""\\d"""', "\\d"),
        ("\n\n# comment\n'late'\nx = 1", "late"),
        ("'a'.join([])\n", None),
        ("f'x{1}'\n", None),
        ("b'bytes'\n", None),
        ("x = 'a'\n", None),
        ("", None),
        ("# only\n", None),
    ],
)
def test_a_module_docstring_is_what_python_takes_for_it(code, expected):
    import ast

    assert ast.get_docstring(ast.parse(code)) == expected
    assert module_docstring(code) == expected


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("stdlib/asyncio/base_events.py", "module"),
        ("stdlib/test/test_os.py", "tests"),
        ("stdlib/conftest.py", "tests"),
        ("s/pkg/latest.py", "module"),
        ("s/pkg/a_pb2.py", None),
        ("s/pkg/py.typed", None),
        ("s/pkg/LICENSE", "licences"),
        ("s/pkg/Licence.md", "licences"),
        ("s/pkg/license_check.py", "module"),
        ("s/pkg/notice.bin", None),
        ("s/pkg-1.dist-info/METADATA", "readmes"),
        ("s/pkg-1.dist-info/LICENSE.txt", "licences"),
        ("s/pkg-1.dist-info/licenses/a/AUTHORS", "licences"),
        ("s/pkg-1.dist-info/RECORD", None),
        ("s/pkg-1.egg-info/PKG-INFO", "readmes"),
        ("s/pkg/METADATA", None),
        ("s/pkg/README.md", "documentation"),
        ("s/pkg/requirements-dev.txt", None),
        ("s/pkg/tests/data.txt", None),
        ("s/pkg/core.pyi", "stubs"),
        ("s/pkg/image.png", None),
    ],
)
def test_a_path_tells_what_a_file_is(path, kind):
    assert kind_of(path) == kind


def test_ids_and_texts_do_not_depend_on_the_folder_or_the_splits(tmp_path):
    one, two = installation(tmp_path / "one"), installation(tmp_path / "elsewhere" / "two")
    expected = read(source(one))
    assert len(expected[0]) > 200
    assert read(source(two)) == expected
    for target in (1, 700, 5000):
        assert read(source(one), target) == expected
    assert [s.to_json() for s in source(one).plan(500)] == [s.to_json() for s in source(two).plan(500)]
    assert [(f.name, fingerprint(f)) for f in source(one).inputs()] == [
        (f.name, fingerprint(f)) for f in source(two).inputs()
    ]


def test_a_split_holds_its_files_and_no_more_than_asked(tmp_path):
    src = source(installation(tmp_path))
    plan = src.plan(1000)
    names = [(member.file, member.domain) for split in plan for member in split.files]
    assert names == sorted(names)
    assert len(plan) > 10
    added = tmp_path / "pkg0" / "added.rst"
    added.write_text("new")
    # a worker reads what the plan lists, not what it finds
    assert all(
        "added" not in doc_id
        for split in plan
        for rows in src.read(split, dropped="ids")
        for doc_id in rows.documents["doc_id"].to_pylist()
    )


def test_bad_files_cost_themselves(tmp_path):
    installation(tmp_path, 2)
    write = {
        "bad/a.md": b"\xff\xfe\x00",
        "bad/b.md": b"  \n",
        "bad/c.md": b"x" * 5000,
        "bad/d.pyi": b"# -*- coding: nonsense -*-\n",
        "bad/tests/test_e.py": "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"),
    }
    for name, data in write.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for i in range(8):
        (tmp_path / "bad" / f"old{i}.py").write_text("print 'two'\n")
    documents, drops = read(source(tmp_path))
    assert documents["environment/site-packages/bad/tests/test_e.py#0"][0].endswith("x = 'é'\n")
    reasons = {doc_id.removeprefix("environment/site-packages/bad/"): reason for doc_id, reason in drops}
    assert {key: reasons[key] for key in ("a.md#0", "b.md#0", "c.md#0", "d.pyi#0")} == {
        "a.md#0": "invalid_utf8",
        "b.md#0": "empty_text",
        "c.md#0": "minified",
        "d.pyi#0": "not_python",
    }
    old = {key: reason for key, reason in reasons.items() if key.startswith("old")}
    assert old
    assert all(key.endswith("#1") and reason == "not_python" for key, reason in old.items())


def test_what_a_small_domain_leaves_goes_to_the_others():
    assert _share({"a": 10, "b": 100, "c": 1000}, 210, None) == {"a": 10, "b": 100, "c": 100}
    assert _share({"a": 500, "b": 500}, 100, None) == {"a": 50, "b": 50}
    assert _share({"a": 10, "b": 1000}, 1000, 30) == {"a": 10, "b": 30}
    assert _share({"a": 1, "b": 2}, 1000, None) == {"a": 1, "b": 2}


def test_a_sample_fits_its_share_and_a_larger_share_keeps_what_a_smaller_one_took():
    files = [_Found("source", f"s/{i}.py", 10, 10, 0) for i in range(200)]
    small, large = _sample(files, 305, 1), _sample(files, 1000, 1)
    assert (len(small), len(large)) == (30, 100)
    assert {f.path for f in small} < {f.path for f in large}
    assert {f.path for f in small} != {f.path for f in files[:30]}
    assert {f.path for f in small} != {f.path for f in _sample(files, 305, 2)}
    assert _sample(files[::-1], 305, 1) == small


def test_the_budget_and_the_chosen_domains_bound_what_is_read(tmp_path):
    root = installation(tmp_path, 60)
    documents, _ = read(source(root, max_megabytes=0.003, include=("tests", "licences", "source"), exclude=("source",)))
    sizes = {d: sum(len(t.encode()) for t, domain in documents.values() if domain == d) for d in DOMAINS}
    assert {domain for domain, size in sizes.items() if size} == {"tests", "licences"}
    assert 2000 < sum(sizes.values()) <= 3000
    capped, _ = read(source(root, max_domain_megabytes=0.0005, include=("tests",)))
    assert 400 < sum(len(text) for text, _ in capped.values()) <= 500


def test_an_installation_without_such_files_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no file fits 48\.0 MB in stubs under"):
        source(tmp_path, include=("stubs",)).plan(HUGE)
    with pytest.raises(InputError, match="cannot be read"):
        source(tmp_path / "nowhere").plan(HUGE)


def test_this_installation_gives_at_least_six_domains():
    src = EnvironmentSource(max_megabytes=0.5)
    plan = src.plan(100_000)
    documents, _ = read(src, 100_000)
    assert len({domain for _, domain in documents.values()}) >= 6
    assert 200_000 < sum(len(text.encode()) for text, _ in documents.values()) < 1_000_000
    roots = {member.file.split("/")[0] for split in plan for member in split.files}
    assert {"stdlib", "site-packages"} <= roots
    assert all(not member.file.startswith("/") for split in plan for member in split.files)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_megabytes": 0}, "max_megabytes: got 0, allowed > 0"),
        ({"max_domain_megabytes": -1}, "max_domain_megabytes: got -1, allowed > 0"),
        ({"max_file_bytes": 0}, "max_file_bytes: got 0, allowed >= 1"),
        ({"include": ("docs",)}, "include: got docs, allowed api_docstrings, documentation"),
        ({"exclude": DOMAINS}, "include and exclude: got no domain left"),
        ({"name": "a#b"}, "name of a source: got 'a#b'"),
    ],
)
def test_a_wrong_configuration_says_what_is_allowed(options, message):
    with pytest.raises(ConfigError) as caught:
        EnvironmentSource(**options)
    assert message in str(caught.value)
