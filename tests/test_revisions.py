"""A class with a revision keeps it only while its code stays the same.

Keys hold the revision of every step, row work and source, not its source code: who changes the code and leaves the
revision alone gives old output a new program's name. ``revisions.json`` records the revisions and, of every
definition they vouch for, a hash of its code. Comments, docstrings, formatting and the words of errors do not count.

What a revision vouches for is found by walking names: the class, every function, class and constant of penstock that
it names, all that these name, and so on. The walk stops at classes with a revision of their own and at the plumbing
below. A step adds in ``modules`` what it reaches through an object that it is handed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path

import pytest

import penstock

ROOT = Path(penstock.__file__).parent
RECORD = Path(__file__).with_name("revisions.json")
ACCEPT = "python -m pytest tests/test_revisions.py --accept-revisions"

# carries rows and files without deciding what is in them
PLUMBING = {
    "penstock.dataset",
    "penstock.digest",
    "penstock.errors",
    "penstock.kernels",
    "penstock.pipelines.passes",
    "penstock.step",
    "penstock.storage",
}


def top_level(tree):
    """Statements of a module, those under ``if`` and ``try`` too."""
    todo = list(tree.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.If, ast.Try)):
            todo = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)] + todo
        else:
            yield node


def targets(node):
    """Names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


@functools.cache
def parsed(text):
    return ast.parse(text)


@functools.cache
def definitions(text):
    """Name to the statements of a module that define it."""
    found = {}
    for node in top_level(parsed(text)):
        for name in targets(node):
            found.setdefault(name, []).append(node)
    return found


def written(node):
    """What of a syntax tree can change its output, as text that is the same in every version of Python that parses it.

    Docstrings and the numbers of revisions go; of an error its kind stays and its words go.
    """
    if isinstance(node, list):
        return "[" + ",".join(map(written, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    inside = dict(ast.iter_fields(node))
    if isinstance(node, ast.Raise):
        inside = {"exc": node.exc.func if isinstance(node.exc, ast.Call) else node.exc}
    if isinstance(node, ast.ClassDef):
        inside["body"] = [item for item in node.body if "revision" not in targets(item)]
    match inside.get("body"):
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            inside["body"] = rest
    kept = [(name, value) for name, value in inside.items() if value is not None and value != []]
    return type(node).__name__ + "(" + ",".join(f"{name}={written(value)}" for name, value in kept) + ")"


@functools.cache
def hash_of(text, name):
    """Of the code that defines a name."""
    code = "".join(map(written, definitions(text)[name]))
    return hashlib.blake2b(code.encode(), digest_size=6).hexdigest()


@functools.cache
def names_in(text, name):
    """(import statements, paths as ``attribute_path`` has them) in what defines a name."""
    imports = [
        n for node in definitions(text)[name] for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    paths, todo = set(), list(definitions(text)[name])
    while todo:
        node = todo.pop()
        path = attribute_path(node)
        if path is None:
            todo += ast.iter_child_nodes(node)
        else:
            paths.add(tuple(path))
    return imports, paths


class Source:
    """The definitions of a package, their hashes and what they name."""

    def __init__(self, root, edited=None):
        """``edited`` gives files another text, by path below ``root``."""
        self.name = root.name
        self.texts = {}
        for path in root.rglob("*.py"):
            dotted = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
            self.texts[dotted] = (edited or {}).get(str(path.relative_to(root))) or path.read_text()
        self.packages = {dotted.rpartition(".")[0] for dotted in self.texts}
        self.imports, self.resolve = functools.cache(self.imports), functools.cache(self.resolve)
        self.named = functools.cache(self.named)

    def definitions(self, module):
        return definitions(self.texts[module])

    def imports(self, module):
        """Local name of what a module imports where it is loaded, to its dotted name."""
        return self.imported(module, [n for n in top_level(parsed(self.texts[module])) if not targets(n)])

    def imported(self, module, nodes):
        out = {}
        package = module if module in self.packages else module.rpartition(".")[0]
        for node in nodes:
            for item in node.names if isinstance(node, ast.Import) else ():
                first = item.name.partition(".")[0]
                out[item.asname or first] = item.name if item.asname else first
            for item in node.names if isinstance(node, ast.ImportFrom) else ():
                up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                out[item.asname or item.name] = ".".join([*up, *([node.module] if node.module else []), item.name])
        return {name: dotted for name, dotted in out.items() if dotted.partition(".")[0] == self.name}

    def resolve(self, dotted):
        """(module, name) of a definition, through re-exports; (module, None) of a whole module; None for neither."""
        if dotted in self.texts:
            return dotted, None
        module, _, name = dotted.rpartition(".")
        if module not in self.texts:
            return None
        if name in self.definitions(module):
            return module, name
        passed_on = self.imports(module).get(name)
        return self.resolve(passed_on) if passed_on and passed_on != dotted else None

    def named(self, module, name):
        """Every (module, name) of the package that a definition names; name None is a whole module."""
        out = set()
        imports, paths = names_in(self.texts[module], name)
        known = self.imports(module) | self.imported(module, imports)
        for path in paths:
            if path[0] in known:
                # the longest of a, a.b, a.b.c that is something of ours
                full = [known[path[0]], *path[1:]]
                found = (self.resolve(".".join(full[:length])) for length in range(len(full), 0, -1))
                out |= {next((target for target in found if target), (module, name))}
            elif path[0] in self.definitions(module):
                out.add((module, path[0]))
        return out - {(module, name)}

    @functools.cached_property
    def entries(self):
        """Classes with a revision: dotted name to its number."""
        found = {}
        for module in self.texts:
            for name, (node, *_) in self.definitions(module).items():
                if isinstance(node, ast.ClassDef) and isinstance(revision := class_value(node, "revision"), int):
                    found[f"{module}.{name}"] = revision
        return found

    def vouched(self, entry):
        """Dotted name to hash of every definition that an entry's revision stands for."""
        module, _, name = entry.rpartition(".")
        todo, seen, out = [(module, name)], set(), {}
        for extra in class_value(self.definitions(module)[name][0], "modules") or ():
            target = self.resolve(extra)
            assert target, f"{entry}.modules: no {extra}"
            todo += self._spread(*target)
        while todo:
            module, name = todo.pop()
            dotted = f"{module}.{name}"
            if dotted in seen or (dotted in self.entries and dotted != entry):
                continue
            seen.add(dotted)
            out[dotted] = hash_of(self.texts[module], name)
            for target in self.named(module, name):
                if target[0] not in PLUMBING:
                    todo += self._spread(*target)
        return out

    def _spread(self, module, name):
        return [(module, name)] if name is not None else [(module, n) for n in self.definitions(module)]


def attribute_path(node):
    """``a.b.c`` as ["a", "b", "c"]; None for anything but a name and attributes of it."""
    rest = []
    while isinstance(node, ast.Attribute):
        rest.append(node.attr)
        node = node.value
    return [node.id, *reversed(rest)] if isinstance(node, ast.Name) else None


def class_value(node, name):
    """The literal that a class body gives to a name, or None."""
    for item in node.body:
        if isinstance(item, (ast.Assign, ast.AnnAssign)) and name in targets(item) and item.value is not None:
            return ast.literal_eval(item.value)
    return None


def state(source):
    """What ``revisions.json`` records."""
    definitions = {}
    for entry in source.entries:
        definitions |= source.vouched(entry)
    return {"revisions": source.entries, "definitions": definitions}


def complaints(source, record):
    """One line for every entry that the record does not cover."""
    out = []
    for entry, revision in source.entries.items():
        was = record["revisions"].get(entry)
        changed = [name for name, now in source.vouched(entry).items() if record["definitions"].get(name) != now]
        if was is None:
            out.append(f"{entry}: new; record it: {ACCEPT}")
        elif revision < was:
            out.append(
                f"{entry}: revision went from {was} back to {revision}; old keys would come back: raise it above {was}"
            )
        elif revision > was:
            out.append(f"{entry}: revision raised from {was} to {revision}; record it: {ACCEPT}")
        elif changed:
            names = ", ".join(sorted(changed))
            out.append(
                f"{entry}: {names} changed and its revision is still {revision}. If its output may differ for any "
                f"input, raise the revision in the class to {revision + 1}; then, or if no output can differ, record "
                f"the code: {ACCEPT}"
            )
    out += [f"{entry}: gone; record it: {ACCEPT}" for entry in record["revisions"] if entry not in source.entries]
    return out


def test_no_code_changed_under_an_unchanged_revision(request):
    source = Source(ROOT)
    if request.config.getoption("--accept-revisions"):
        back = [line for line in complaints(source, json.loads(RECORD.read_text())) if "went from" in line]
        assert not back, "\n".join(back)
        RECORD.write_text(json.dumps(state(source), indent=1, sort_keys=True) + "\n")
    found = complaints(source, json.loads(RECORD.read_text()))
    assert not found, "\n\n" + "\n\n".join(found)


# ── the guard itself ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def record():
    return state(Source(ROOT))


@pytest.fixture
def change(record):
    """``change(module, old, new)`` edits a copy of a module and returns what is complained about, by class name."""

    def edit(module, old, new):
        text = (ROOT / module).read_text()
        assert text.count(old) == 1, f"{module}: {old!r} is there {text.count(old)} times; choose another line"
        source = Source(ROOT, {module: text.replace(old, new)})
        return {line.partition(":")[0].rpartition(".")[2]: line for line in complaints(source, record)}

    return edit


@pytest.mark.parametrize(
    ("module", "old", "new", "classes"),
    [
        # in the class itself
        ("selectors/splits.py", "coin < self.test, 2", "coin <= self.test, 2", {"AssignSplit"}),
        (
            "pipelines/deduplicate.py",
            "keep[at] = np.asarray(pc.is_null",
            "keep[at] = np.asarray(pc.is_valid",
            {"Deduplicated"},
        ),
        # in a function of its module, and in a constant
        ("selectors/quadmix_theta.py", "better + 0.5 * tokens", "better + 0.4 * tokens", {"CriterionHistograms"}),
        (
            "pipelines/sequences.py",
            "TOKENS_PER_RANGE = 16_000_000",
            "TOKENS_PER_RANGE = 8_000_000",
            {"PackedSequences"},
        ),
        # in a kernel that is reached through a function that imports its module
        (
            "selectors/_feature_kernels.py",
            "out[i] = total / count",
            "out[i] = total",
            {"QualityClassifier", "QualityScore"},
        ),
        (
            "text.py",
            "if first < 0xE0:",
            "if first <= 0xE0:",
            {"GopherQuality", "GopherRepetition", "NotEmpty", "LanguageId"},
        ),
        # in what all steps with row work share, and in row work that wraps another
        (
            "work.py",
            'if keep == "full":',
            'if keep != "full":',
            {"Documents", "Deduplicated", "Scored", "Selection"},
        ),
        ("selectors/scope.py", "= np.arange(len(judged))", "= -np.arange(len(judged))", {"Documents"}),
        # deep inside what a step imports when it builds
        ("training/_row_kernels.py", "if value < size:", "if value <= size:", {"TrainStep"}),
        (
            "dataset.py",
            "self._pending_rows >= self._group_rows",
            "self._pending_rows > self._group_rows",
            {"Published"},
        ),
    ],
)
def test_a_changed_operator_is_noticed_in_every_class_that_runs_it(change, module, old, new, classes):
    found = change(module, old, new)
    assert classes <= set(found)
    assert all("raise the revision" in line and ACCEPT in line for line in found.values())


def test_the_complaint_names_the_definition_and_what_to_do(change):
    found = change("selectors/exact.py", "words[:, 0]),\n", "words[:, 1]),\n")
    assert found == {
        "ExactDuplicates": "penstock.selectors.exact.ExactDuplicates: penstock.selectors.exact.ExactDuplicates changed "
        "and its revision is still 3. If its output may differ for any input, raise the revision in the class to 4; "
        f"then, or if no output can differ, record the code: {ACCEPT}"
    }


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("selectors/splits.py", '"""``split``: one of train, validation, test."""', '"""Another docstring."""'),
        ("selectors/splits.py", "NAMES = (", "# a comment\n\n\nNAMES = (  # another\n    "),
        ("selectors/splits.py", "allowed a share from 0 to 1; give it as a fraction", "allowed 0 to 1"),
        ("selectors/exact.py", "Find documents whose text is", "Find all documents whose text is"),
        ("dataset.py", "no row is left, all", "no rows are left, all"),
        ("terminal.py", "from __future__ import annotations", "from __future__ import annotations\n\nNEW = 1"),
        ("text.py", "LINE_BREAK = 4", "UNUSED = 8\nLINE_BREAK = 4"),
    ],
)
def test_comments_docstrings_words_of_errors_and_unused_code_are_free(change, module, old, new):
    assert change(module, old, new) == {}


def test_a_raised_revision_is_recorded_and_a_lowered_one_is_refused(change):
    found = change("selectors/splits.py", "revision: ClassVar[int] = 1", "revision: ClassVar[int] = 2")
    assert found["AssignSplit"].endswith(f"revision raised from 1 to 2; record it: {ACCEPT}")
    found = change("selectors/splits.py", "revision: ClassVar[int] = 1", "revision: ClassVar[int] = 0")
    assert "raise it above 1" in found["AssignSplit"]


def test_every_step_and_every_kind_of_row_work_has_a_revision():
    source = Source(ROOT)
    work = ({"decide"}, {"annotate"}, {"summarise", "fit"}, {"keyed", "judge"}, {"plan", "read", "inputs"})
    for module in source.texts:
        for name, nodes in source.definitions(module).items():
            for node in nodes:
                if not isinstance(node, ast.ClassDef) or f"{module}.{name}" in source.entries:
                    continue
                bases = {n.id for n in node.bases if isinstance(n, ast.Name)}
                inside = {t for item in node.body for t in targets(item)}
                # a wrapper has the revision of what it wraps, and stands in the `modules` of a step
                if not bases & {"Protocol", "ABC"} and "revision" not in inside:
                    assert "Step" not in bases, f"{module}.{name} has no revision"
                    assert not any(shape <= inside for shape in work), f"{module}.{name} has no revision"
