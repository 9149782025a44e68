"""The splitting pattern of a pre-tokenizer as a nondeterministic automaton over sets of characters.

Pre-tokenizers split text by a backtracking regular expression (Oniguruma): of all ways to match, the first in order of
preference counts, whatever its length. Such a match can be followed one character at a time by keeping the ways that
are still open in their order (Pike's machine). This module compiles a pattern to that form; ``pretokens`` runs it.

Covered is what pre-tokenizers are written in: literals, escapes, sets with ``\\p{…}``, groups, alternatives, greedy and
lazy repetition, look-ahead, ``(?i:…)``, and possessive repetition of one set. Look-behind, anchors, back-references and
atomic groups are refused. Sets are not interpreted here: their text goes to Oniguruma as it is (``characters``).

Price: microseconds; a bounded repetition {m,n} is n copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NoReturn

from penstock.errors import ConfigError

_MANY = 1000  # the most copies that a bounded repetition is written out to


@dataclass(frozen=True)
class Node:
    """One instruction.

    Attributes:
        op: ``take`` a character of set ``what``; ``fork`` to ``to`` in order of preference; ``look`` ahead with the
            program at ``what``, which has to match (``sign``) or not; ``match``.
    """

    op: Literal["take", "fork", "look", "match"]
    to: tuple[int, ...] = ()
    what: int = -1
    sign: bool = True


@dataclass
class Program:
    """Instructions, and the sets of characters they take, as Oniguruma writes them."""

    nodes: list[Node] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    start: int = 0


def compile_pattern(pattern: str) -> Program:
    """The program of a pattern.

    Raises:
        ConfigError: it uses what is not covered.
    """
    parser = _Parser(pattern)
    tree = parser.alternatives()
    if parser.at < len(pattern):
        parser.refuse("an unmatched )")
    program = Program()
    program.start = _Compiler(program).emit(tree, _add(program, Node("match")))
    return program


def compile_set(characters: str) -> Program:
    """The program that takes one character of a set."""
    program = Program()
    program.start = _Compiler(program).emit(_Set(characters), _add(program, Node("match")))
    return program


# ── the tree ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Set:
    text: str


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Tree, ...]


@dataclass(frozen=True)
class _Choice:
    parts: tuple[_Tree, ...]


@dataclass(frozen=True)
class _Repeat:
    part: _Tree
    least: int
    most: int | None
    lazy: bool
    possessive: bool


@dataclass(frozen=True)
class _Look:
    part: _Tree
    sign: bool


_Tree = _Set | _Sequence | _Choice | _Repeat | _Look


def _nullable(tree: _Tree) -> bool:
    """Whether it matches the empty text."""
    match tree:
        case _Set():
            return False
        case _Sequence(parts):
            return all(map(_nullable, parts))
        case _Choice(parts):
            return any(map(_nullable, parts))
        case _Look():
            return True
        case _Repeat(part, least):
            return least == 0 or _nullable(part)


_LITERAL_ESCAPES = set(".^$*+?{}[]\\|()/-'\"!#%&,:;<=>@_`~ ")
_CONTROL_ESCAPES = set("rntfvae")
_SET_ESCAPES = set("sSdDwWhH")


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.folds = False  # inside (?i:…)

    def refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"tokenizer: its pre-tokenizer's pattern has {what} at character {self.at}, which next-byte probabilities "
            "cannot follow; allowed are literals, sets, groups, alternatives, repetition and look-ahead. The pattern: "
            f"{self.pattern}"
        )

    def _peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def _eat(self, text: str) -> bool:
        if self._peek(text):
            self.at += len(text)
            return True
        return False

    def alternatives(self) -> _Tree:
        parts = [self._sequence()]
        while self._eat("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _sequence(self) -> _Tree:
        parts: list[_Tree] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return _Sequence(tuple(parts))

    def _repeated(self, tree: _Tree) -> _Tree:
        while self.at < len(self.pattern):
            bounds = self._bounds()
            if bounds is None:
                return tree
            least, most = bounds
            if self.pattern[self.at - 1] == "}" and least == most and self._peek("?"):
                self.refuse("a lazy exact repetition, which Oniguruma takes for an optional one")
            lazy = self._eat("?")
            # in Oniguruma's syntax {m,n}+ repeats the repetition, and only ?+ *+ ++ are possessive
            possessive = not lazy and self.pattern[self.at - 1] != "}" and self._eat("+")
            if isinstance(tree, _Look):
                self.refuse("a repeated look-ahead")
            if possessive and not isinstance(tree, _Set):
                self.refuse("a possessive repetition of more than one set")
            if most != 1 and _nullable(tree):
                self.refuse("a repetition of what may be empty")
            if (most or least) > _MANY:
                self.refuse(f"a repetition of more than {_MANY} times")
            tree = _Repeat(tree, least, most, lazy, possessive)
        return tree

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("?", (0, 1)), ("*", (0, None)), ("+", (1, None))):
            if self._eat(sign):
                return bounds
        if not self._peek("{"):
            return None
        end = self.pattern.find("}", self.at)
        least, comma, most = self.pattern[self.at + 1 : end].partition(",")
        if end < 0 or not (least or most) or not (least or "0").isdigit() or not (most or "0").isdigit():
            self.refuse("a brace that is no repetition")
        self.at = end + 1
        low = int(least or 0)
        if not comma:
            return low, low
        return low, int(most) if most else None

    def _atom(self) -> _Tree:
        character = self.pattern[self.at]
        if character == "(":
            return self._group()
        if character == "[":
            return _Set(self._bracket())
        if character == "\\":
            return _Set(self._fold(self._escape()))
        if character in "^$":
            self.refuse(f"the anchor {character}")
        if character in "*+?":
            self.refuse(f"a {character} with nothing to repeat")
        self.at += 1
        if character == ".":
            return _Set(".")
        return _Set(self._fold("\\" + character if character in _LITERAL_ESCAPES - {" "} else character))

    def _fold(self, text: str) -> str:
        return f"(?i:{text})" if self.folds else text

    def _group(self) -> _Tree:
        folds = self.folds
        look: bool | None = None
        if self._eat("(?:"):
            pass
        elif self._eat("(?i:"):
            self.folds = True
        elif self._eat("(?-i:"):
            self.folds = False
        elif self._eat("(?="):
            look = True
        elif self._eat("(?!"):
            look = False
        elif self._peek("(?<") or self._peek("(?>") or self._peek("(?"):
            self.refuse(f"the group {self.pattern[self.at : self.at + 4]}")
        else:
            self.at += 1
        tree = self.alternatives()
        if not self._eat(")"):
            self.refuse("a group that is not closed")
        self.folds = folds
        return tree if look is None else _Look(tree, look)

    def _escape(self) -> str:
        begin = self.at
        self.at += 2
        kind = self.pattern[begin + 1 : begin + 2]
        if kind in "pP" and kind and self._peek("{"):
            self.at = self._close("}") + 1
        elif kind == "x":
            self.at = self._close("}") + 1 if self._peek("{") else self.at + 2
        elif kind == "u":
            self.at += 4
        elif kind == "" or kind not in _LITERAL_ESCAPES | _CONTROL_ESCAPES | _SET_ESCAPES:
            self.at = begin
            self.refuse(f"the escape \\{kind}")
        return self.pattern[begin : self.at]

    def _close(self, sign: str) -> int:
        end = self.pattern.find(sign, self.at)
        if end < 0:
            self.refuse(f"no {sign}")
        return end

    def _bracket(self) -> str:
        begin, depth = self.at, 0
        while self.at < len(self.pattern):
            character = self.pattern[self.at]
            if character == "\\":
                self.at += 2
                continue
            depth += (character == "[") - (character == "]")
            self.at += 1
            # a ] that comes first is a literal
            if character == "[" and self._peek("^"):
                self.at += 1
            if character == "[" and self._peek("]"):
                self.at += 1
            if depth == 0:
                return self._fold(self.pattern[begin : self.at])
        self.at = begin
        self.refuse("a set that is not closed")


# ── the program ──────────────────────────────────────────────────────────────────────────────────


def _add(program: Program, node: Node) -> int:
    program.nodes.append(node)
    return len(program.nodes) - 1


class _Compiler:
    """Emits from the end to the beginning: every part is told what follows it."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def emit(self, tree: _Tree, then: int) -> int:
        match tree:
            case _Set(text):
                return self._take(text, then)
            case _Sequence(parts):
                for part in reversed(parts):
                    then = self.emit(part, then)
                return then
            case _Choice(parts):
                return _add(self.program, Node("fork", tuple(self.emit(part, then) for part in parts)))
            case _Look(part, sign):
                inside = self.emit(part, _add(self.program, Node("match")))
                return _add(self.program, Node("look", (then,), inside, sign))
            case _Repeat():
                return self._repeat(tree, then)

    def _take(self, text: str, then: int) -> int:
        if text not in self.program.sets:
            self.program.sets.append(text)
        return _add(self.program, Node("take", (then,), self.program.sets.index(text)))

    def _repeat(self, tree: _Repeat, then: int) -> int:
        if tree.possessive:
            # of one set: giving nothing back means that the character after it is none of the set, if there was room
            assert isinstance(tree.part, _Set)
            inside = self._take(tree.part.text, _add(self.program, Node("match")))
            refused = _add(self.program, Node("look", (then,), inside, False))
        else:
            refused = then

        def choice(more: int, enough: int) -> tuple[int, ...]:
            return (enough, more) if tree.lazy else (more, enough)

        if tree.most is None:
            loop = _add(self.program, Node("fork"))
            body = self.emit(tree.part, loop)
            self.program.nodes[loop] = Node("fork", choice(body, refused))
            at = loop
            for _ in range(tree.least):
                at = self.emit(tree.part, at)
            return at
        at = then
        for number in range(tree.most, 0, -1):
            at = self.emit(tree.part, at)
            if number > tree.least:
                at = _add(self.program, Node("fork", choice(at, refused)))
        return at
