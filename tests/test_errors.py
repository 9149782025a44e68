"""One tree of errors: documented, carried whole between processes, and the only errors of the package's own."""

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import penstock
from penstock import errors
from penstock.errors import MissingExtraError, OtherRecipeError, PenstockError

ROOT = Path(penstock.__file__).parent
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_the_tree_in_the_documentation_is_the_tree_of_the_classes():
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^ {4}([│ ├└─]*)(\w+)", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_what_it_stands_for(kind):
    assert issubclass(kind, PenstockError)
    assert kind.__doc__
    assert kind.__name__.endswith("Error")


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_comes_whole_out_of_a_worker(kind):
    error = kind("s3://bucket/x: got 'é\n', allowed y; do z")
    error.add_note("while running pass")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (made above)
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.__notes__ == ["while running pass"]


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    error = MissingExtraError.of("s3fs", "cloud")
    assert type(error) is MissingExtraError
    assert str(error) == "s3fs is not installed; run: pip install 'penstock[cloud]'"


def test_a_folder_of_another_recipe_is_an_error_of_the_dataset():
    with pytest.raises(errors.DatasetError):
        raise OtherRecipeError("x")


def test_an_error_for_users_is_defined_in_one_place():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & {kind.__name__ for kind in CLASSES}, f"{path}: {node.name} belongs into errors.py"


def test_nothing_heavy_is_needed_to_raise_one():
    imports = [n for n in ast.parse(inspect.getsource(errors)).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert [n.module for n in imports if isinstance(n, ast.ImportFrom)] == ["__future__"]
    assert len(imports) == 1
