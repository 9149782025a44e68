"""The Python API as Markdown: every public name of every package, read from the source.

The list is that of the packages' ``exports`` tables, which a test pins, and of the functions behind the verbs. Nothing
is imported: a name that needs torch is shown where there is no torch.

A well-known generator reads docstrings too, but wants one argument a line; ours say what belongs together once.

Price: parsing the named modules, about a second.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reference.text import docstring, escaped

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = "commands.md"
_WIDTH = 100

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Package:
    """A package and its public names, each with the module that defines it."""

    name: str
    about: str
    names: Mapping[str, str]


@cache
def packages() -> list[Package]:
    """All packages that have public names, in order of their names."""
    found = []
    for path in sorted((ROOT / "penstock").rglob("__init__.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = next(_exported(tree), None)
        if names:
            dotted = ".".join(path.parent.relative_to(ROOT).parts)
            found.append(Package(dotted, ast.get_docstring(tree) or "", names))
    return found


def _exported(tree: ast.Module) -> Iterator[dict[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "exports":
            yield dict(ast.literal_eval(node.args[1]))


@cache
def _module(name: str) -> ast.Module:
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def find(module: str, name: str) -> tuple[str, Definition, str]:
    """(module, node, docstring) of a top-level name, through modules that pass it on.

    Raises:
        LookupError: the module does not define it.
    """
    tree = _module(module)
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return module, node, ast.get_docstring(node) or ""
        if any(isinstance(target, ast.Name) and target.id == name for target in _targets(node)):
            return module, node, _below(tree.body, place)
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.startswith("penstock"):
                    return find(node.module, alias.name)
    raise LookupError(f"{module} does not define {name}")


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _below(body: list[ast.stmt], place: int) -> str:
    """The string that stands below an assignment."""
    after = body[place + 1] if place + 1 < len(body) else None
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return " ".join(after.value.value.split())
    return ""


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str | None = None, *, method: bool = False) -> str:
    """A function's head as it is called: no ``self``, one argument a line where the line would be long."""
    arguments = ast.parse(ast.unparse(node)).body[0].args  # type: ignore[attr-defined]
    if method and (arguments.posonlyargs or arguments.args):
        (arguments.posonlyargs or arguments.args).pop(0)
    head = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    whole = f"{head}{name or node.name}({ast.unparse(arguments)}){returns}"
    if len(whole) <= _WIDTH:
        return whole
    lines = "".join(f"    {one},\n" for one in _arguments(arguments))
    return f"{head}{name or node.name}(\n{lines}){returns}"


def _arguments(given: ast.arguments) -> Iterator[str]:
    plain = [*given.posonlyargs, *given.args]
    missing = len(plain) - len(given.defaults)
    for place, one in enumerate(plain):
        default = "" if place < missing else f" = {ast.unparse(given.defaults[place - missing])}"
        yield ast.unparse(one) + default
    if given.vararg is not None:
        yield f"*{ast.unparse(given.vararg)}"
    elif given.kwonlyargs:
        yield "*"
    for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield ast.unparse(one) + ("" if value is None else f" = {ast.unparse(value)}")
    if given.kwarg is not None:
        yield f"**{ast.unparse(given.kwarg)}"


def entry(module: str, name: str, level: str = "###") -> list[str]:
    """A public name as Markdown: heading, head, docstring, and of a class its fields and public methods."""
    home, node, text = find(module, name)
    lines = [f"{level} {name} {{#{anchor(home, name)}}}", ""]
    if isinstance(node, ast.ClassDef):
        made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head = signature(made, f"class {name}", method=True).partition(" -> ")[0] if made else f"class {name}({bases})"
        lines += _fence(head.removesuffix("()"), *_fields(node))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines += _fence(f"def {signature(node)}" if isinstance(node, ast.FunctionDef) else signature(node))
    else:
        lines += _fence(ast.unparse(node))
    lines += [*docstring(text), "", f"Of `{home}`.", ""]
    if isinstance(node, ast.ClassDef):
        lines += _methods(node)
    return lines


def _fields(node: ast.ClassDef) -> list[str]:
    """Annotated attributes, as a dataclass or a model lists its settings."""
    return [
        f"    {ast.unparse(one)}"
        for one in node.body
        if isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_")
    ]


def _methods(node: ast.ClassDef) -> list[str]:
    lines: list[str] = []
    for one in node.body:
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) or one.name.startswith("_"):
            continue
        text = ast.get_docstring(one)
        if not text:
            continue
        kinds = {ast.unparse(decorator).rpartition(".")[2] for decorator in one.decorator_list}
        if kinds & {"property", "cached_property"}:
            returns = f" -> {ast.unparse(one.returns)}" if one.returns is not None else ""
            head = f"{node.name}.{one.name}{returns}"
        else:
            head = signature(one, f"{node.name}.{one.name}", method="staticmethod" not in kinds)
        lines += [*_fence(head), *docstring(text), ""]
    return lines


def _fence(*lines: str) -> list[str]:
    return ["```python", *lines, "```", ""]


def anchor(module: str, name: str) -> str:
    """Where on its page a name is."""
    return f"{module}.{name}".replace(".", "-").lower()


def split(dotted: str) -> tuple[str, str, str]:
    """(module, top-level name, member or nothing) of a dotted name, the module where a package's name is defined.

    Raises:
        LookupError: there is no such module, or it does not define the name.
    """
    parts = dotted.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if (ROOT.joinpath(*parts[:end]) / "__init__.py").is_file():
            module = next((p.names[parts[end]] for p in packages() if p.name == module), module)
        elif not ROOT.joinpath(*parts[:end]).with_suffix(".py").is_file():
            continue
        return find(module, parts[end])[0], parts[end], ".".join(parts[end + 1 :])
    raise LookupError(f"{dotted}: there is no such module")


def place(dotted: str) -> str:
    """Where the page of a dotted name is, below ``api/``, with the anchor; of a member that of its class."""
    home, name, _ = split(dotted)
    for package in packages():
        if name in package.names and find(package.names[name], name)[0] == home:
            return f"{_file(package)}#{anchor(home, name)}"
    return f"{COMMANDS}#{anchor(home, name)}"


def _file(package: Package) -> str:
    return f"{package.name.removeprefix('penstock').strip('.') or 'penstock'}.md"


def of_commands(functions: Sequence[str]) -> str:
    """The page of functions behind commands that no package's list has."""
    lines = ["# Functions of commands", "", "Public as well: what commands call, and no list of names above has.", ""]
    named = {split(dotted)[:2] for dotted in functions if place(dotted).startswith(COMMANDS)}
    for module, name in sorted(named):
        lines += entry(module, name, "##")
    return "\n".join(lines)


def pages(functions: Sequence[str]) -> dict[str, str]:
    """Path below the site's root to Markdown: one page a package, one of functions, an index of them.

    Args:
        functions: dotted names of what commands call.
    """
    made: dict[str, str] = {f"api/{COMMANDS}": of_commands(functions)}
    index = [
        "# Python API", "",
        "Everything below is public: [versioning](../versioning.md) says what that promises. Names load on first use,",
        "so `import penstock` costs nothing. The function behind a command is on [its page](../verbs/index.md).", "",
    ]  # fmt: skip
    for package in packages():
        file = _file(package)
        first, _, rest = package.about.partition("\n")
        lines = [f"# {package.name}", "", escaped(first), *docstring(rest), ""]
        for name, module in package.names.items():
            lines += entry(module, name, "##")
        made[f"api/{file}"] = "\n".join(lines)
        names = ", ".join(f"[{name}]({file}#{anchor(find(m, name)[0], name)})" for name, m in package.names.items())
        index += [f"**[{package.name}]({file})** · {escaped(first)}", "", names, ""]
    index += [f"**[Functions of commands]({COMMANDS})**", ""]
    return made | {"api/index.md": "\n".join(index)}
