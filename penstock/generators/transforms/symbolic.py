"""Symbols and words: arithmetic and linear equations said in words, words written as symbols, a story as its equation.

``What is 5 + 3 * 2?`` becomes ``What is the sum of 5 and the product of 3 and 2?``, ``What is 5 plus 3?`` becomes
``What is 5 + 3?``. A word problem becomes arithmetic only where its equation is given (``provenance["equation"]``) and
computes to the answer. Expressions of up to ``operators`` operators; longer ones read badly in words.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import made, pick

_LEAD = re.compile(
    r"^(?:what is|what's|calculate|compute|evaluate|find|work out|determine|find the value of|"
    r"(?:solve|find|state|give|compute|calculate|evaluate)\b[^:\d]{0,80}:)\s*",
    re.IGNORECASE,
)
_SIGNS = {"plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/"}
_SPOKEN = re.compile(r"\b(?:plus|minus|times|multiplied by|divided by)\b")
_ASKED = ("What is {}?", "Compute {}.", "Evaluate {}.", "Calculate the value of {}.")
_NAMES = {ast.Add: "sum of", ast.Sub: "difference between", ast.Mult: "product of", ast.Div: "quotient of"}


@dataclass(frozen=True)
class Symbolic:
    """The transform: see the module.

    Args:
        operators: of an expression that is said in words, at most.
    """

    name: str = "symbolic"
    kind: str = "format"
    operators: int = 4

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        text = problem.prompt
        lead = _LEAD.match(text)
        edits = [] if lead is None else self._in_words(text, lead.end()) or _in_symbols(text, lead.end())
        if edits:
            return made(problem, edits, kind=self.kind, transform=self.name)
        equation = problem.provenance.get("equation")
        if not isinstance(equation, str):
            return NotApplicable(transform=self.name, reason="no arithmetic in it, and no equation is given")
        tree = _parsed(equation)
        if tree is None or (value := _value(tree)) is None or value != _number(problem.answer):
            return NotApplicable(transform=self.name, reason="its equation does not compute to the answer")
        written = _plain(tree)
        edit = Edit(0, len(text), pick(_ASKED, stream).format(written))
        return made(problem, [edit], kind=self.kind, transform=self.name, facts={"equation": written})

    def _in_words(self, text: str, start: int) -> list[Edit]:
        stop = len(text.rstrip().rstrip("?.!").rstrip())
        if text[start:stop].endswith("="):
            stop = start + len(text[start:stop].rstrip("= "))
        left, equals, right = text[start:stop].partition("=")
        tree = _parsed(left)
        if tree is None or not 1 <= _count(tree) <= self.operators:
            return []
        said = _said(tree)
        if equals:
            value = _parsed(right)
            if value is None or _count(value):
                return []
            said = f"{said} equals {_said(value)}"
        rest = text[stop:].replace("=", "").strip()
        return [Edit(start, len(text), said + (rest if rest else ""))]


def _in_symbols(text: str, start: int) -> list[Edit]:
    """Spoken signs between numbers as symbols; the whole rest must be arithmetic afterwards."""
    edits = [Edit(hit.start(), hit.end(), _SIGNS[hit[0]]) for hit in _SPOKEN.finditer(text, start)]
    if not edits:
        return []
    rest = _SPOKEN.sub(lambda hit: _SIGNS[hit[0]], text[start:]).rstrip(" ?.!=")
    return edits if _parsed(rest) is not None else []


def _parsed(text: str) -> ast.expr | None:
    """The expression of numbers, one-letter unknowns, brackets and the four signs; None for other text."""
    clean = text.strip().replace("×", "*").replace("÷", "/").replace("−", "-").replace("[", "(").replace("]", ")")
    clean = re.sub(r"(?<=\d),(?=\d{3})", "", clean)
    clean = re.sub(r"(?<=\d)(?=[a-z]\b)", "*", clean)
    if not re.fullmatch(r"[\d\s.+\-*/()a-z]{1,200}", clean) or "**" in clean or "//" in clean:
        return None
    try:
        tree = ast.parse(clean, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        return None
    return tree if _allowed(tree) else None


def _allowed(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BinOp):
        return type(tree.op) in _NAMES and _allowed(tree.left) and _allowed(tree.right)
    if isinstance(tree, ast.UnaryOp):
        return isinstance(tree.op, ast.USub) and isinstance(tree.operand, ast.Constant) and _allowed(tree.operand)
    if isinstance(tree, ast.Name):
        return len(tree.id) == 1
    return isinstance(tree, ast.Constant) and isinstance(tree.value, (int, float))


def _count(tree: ast.expr) -> int:
    return 1 + _count(tree.left) + _count(tree.right) if isinstance(tree, ast.BinOp) else 0


def _said(tree: ast.expr) -> str:
    if isinstance(tree, ast.BinOp):
        return f"the {_NAMES[type(tree.op)]} {_said(tree.left)} and {_said(tree.right)}"
    if isinstance(tree, ast.UnaryOp):
        return f"negative {_said(tree.operand)}"
    return tree.id if isinstance(tree, ast.Name) else ast.unparse(tree)


def _plain(tree: ast.expr) -> str:
    """As symbols, whole numbers without a decimal point."""
    return re.sub(r"(?<=\d)\.0(?!\d)", "", ast.unparse(tree))


def _value(tree: ast.expr) -> Fraction | None:
    if isinstance(tree, ast.BinOp):
        one, other = _value(tree.left), _value(tree.right)
        if one is None or other is None or (isinstance(tree.op, ast.Div) and not other):
            return None
        if isinstance(tree.op, ast.Add):
            return one + other
        if isinstance(tree.op, ast.Sub):
            return one - other
        return one * other if isinstance(tree.op, ast.Mult) else one / other
    if isinstance(tree, ast.UnaryOp):
        inner = _value(tree.operand)
        return None if inner is None else -inner
    return _number(ast.unparse(tree)) if isinstance(tree, ast.Constant) else None


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip().replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None
