"""Rename variables: every single letter that stands for an unknown becomes another letter, one to one.

Letters are read inside formulas: between dollar signs, beside an operator, after "for", "of", "find" or "let". A letter
that the question also uses otherwise (a unit, a point, an article) is left alone; new letters stand nowhere in the
question. Letters with a fixed sense (e, i, d of a differential, names of functions) are neither renamed nor given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import made
from penstock.generators.transforms.text import not_prose

# one letter, no letter and no backslash command beside it
_LETTER = re.compile(r"(?<![A-Za-z\\'’])[A-Za-z](?![A-Za-z'’])")
_RUN = re.compile(r"[A-Za-z]{2,}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FORMULA = re.compile(r"\$\$?[^$]+\$\$?|\\\([^$]+?\\\)|\\\[[^$]+?\\\]")
_SIGN = re.compile(r"[+*=<>^]")
_INTRODUCED = re.compile(
    r"\b(?i:for|find|let|variables?|unknowns?|integers?|values? of)\s+(?:the value of\s+)?([a-z])\b(?!')"
)
_FIXED = frozenset("eidfghEIDPNOQRZCaA")
_LOWER = [letter for letter in "abcjkmnpqrstuvwxyz" if letter not in _FIXED]
_UPPER = [letter for letter in "BFGHJKLMSTUVWXY" if letter not in _FIXED]


@dataclass(frozen=True)
class RenameVariables:
    """The transform: see the module."""

    name: str = "rename_variables"
    kind: str = "rename"

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        if why := not_prose(problem.prompt):
            return NotApplicable(transform=self.name, reason=why)
        text = problem.prompt
        commands, formulas = _covered(_COMMAND, text), _covered(_FORMULA, text)
        letters = [hit for hit in _LETTER.finditer(text) if not commands[hit.start()]]
        introduced = {hit[1] for hit in _INTRODUCED.finditer(text)}
        uses: dict[str, list[int]] = {}
        for hit in letters:
            uses.setdefault(hit[0], []).append(hit.start())
        # in "ab" and "angle ABC" letters stand without a sign between them
        together = {
            letter
            for hit in _RUN.finditer(text)
            if not commands[hit.start()] and (formulas[hit.start()] or hit[0].isupper())
            for letter in hit[0]
        }
        symbols: list[str] = []
        for letter, places in uses.items():
            signs = [2 if formulas[at] else _sign(text, at) for at in places]
            told = letter in introduced
            # "3x" is one beside "x + 1", not alone: "a 10K race", "a 5m rope"
            if (
                letter not in _FIXED
                and letter not in together
                and (told or max(signs) == 2)
                and all(sign or (told and letter.islower()) for sign in signs)
            ):
                symbols.append(letter)
        if not symbols:
            return NotApplicable(transform=self.name, reason="no letter that surely stands for an unknown")
        if re.search(rf"(?<![A-Za-z])[{''.join(symbols)}](?![A-Za-z])", problem.answer):
            return NotApplicable(transform=self.name, reason="the answer holds an unknown")
        taken = {letter.lower() for letter in re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", text)}
        mapping: dict[str, str] = {}
        for symbol in symbols:
            pool = [letter for letter in (_LOWER if symbol.islower() else _UPPER) if letter.lower() not in taken]
            if not pool:
                return NotApplicable(transform=self.name, reason="no letter is left")
            mapping[symbol] = pool[int(stream.integers(len(pool)))]
            taken.add(mapping[symbol].lower())
        edits = [Edit(hit.start(), hit.end(), mapping[hit[0]]) for hit in letters if hit[0] in mapping]
        return made(problem, edits, kind=self.kind, transform=self.name, mapping=mapping)


def _covered(pattern: re.Pattern[str], text: str) -> bytearray:
    """A 1 for every character that a match holds."""
    found = bytearray(len(text))
    for hit in pattern.finditer(text):
        found[hit.start() : hit.end()] = b"\1" * (hit.end() - hit.start())
    return found


def _sign(text: str, at: int) -> int:
    """2 where the letter stands beside a sign, 1 where it touches a number, 0 elsewhere."""
    before = text[max(0, at - 2) : at].strip()[-1:]
    after = text[at + 1 : at + 3].strip()[:1]
    if _SIGN.match(before) or _SIGN.match(after):
        return 2
    return int(text[at - 1 : at].isdigit())
