"""Docstrings of Python source, read without importing it.

Price: a whole module about 5 MB/s (``ast``); a module's own docstring only as far as its first statement.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings


def module_docstring(source: str) -> str | None:
    """The docstring of a module, read no further than its first statement; None where there is none.

    Raises:
        SyntaxError: the file is not Python up to there.
    """
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING)
    begun = False
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NEWLINE:
                # the first statement whole: it may be parts "a" "b", or go on as "a".join(...)
                return ast.get_docstring(_parse("".join(io.StringIO(source).readlines()[: token.end[0]])))
            if not begun and token.type not in skipped:
                if token.type != tokenize.STRING and token.string != "(":
                    return None
                begun = True
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from error
    return None


def api_docstrings(source: str, module: str) -> str | None:
    """Names, signatures and docstrings of the public classes and functions of a module; None where there are none."""
    parts: list[str] = []
    _collect(_parse(source), module, parts)
    return "\n\n\n".join(parts) + "\n" if parts else None


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        # other people's invalid escapes are not news here
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _collect(node: ast.Module | ast.ClassDef, prefix: str, parts: list[str]) -> None:
    for child in node.body:
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or child.name.startswith("_"):
            continue
        name = f"{prefix}.{child.name}"
        text = ast.get_docstring(child)
        if isinstance(child, ast.ClassDef):
            if text:
                parts.append(f"class {name}\n\n{text}")
            _collect(child, name, parts)
        elif text:
            parts.append(f"{name}({ast.unparse(child.args)})\n\n{text}")
