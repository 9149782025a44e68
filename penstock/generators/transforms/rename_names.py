"""Rename people: every first name becomes another one of the same gender, one to one, everywhere.

A name is renamed where it stands in the list of ``names`` and the text does not use it in another sense: not beside
another capital (a surname, a place), not small as a common word. Possessives stay, "an" and "a" are not affected, and
the new names stand nowhere in the question. A name that the question also writes small (``danny``) stays small there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import made
from penstock.generators.transforms.names import EITHER, FEMALE, GENDERS, MALE
from penstock.generators.transforms.text import Token, base, tokens, word_set
from penstock.generators.verification.relations import FUNCTION, RELATIONS

_POOLS = {"m": MALE, "f": FEMALE, "u": EITHER}
# first names that are words too: renamed only where they are always written with a capital
_WORDS = word_set(
    "will mark grace rose may bill jack frank pat sunny dawn penny grant art carol dean drew faith gene guy hope joy "
    "ivy matt nick rick rob sally skip sue ted ann miles pete bob mike tony olive ray rich kim angel amber crystal "
    "ginger jade pearl ruby violet april june august summer autumn jean eve robin bella max cole trey chase case page"
)


@dataclass(frozen=True)
class RenameNames:
    """The transform: see the module."""

    name: str = "rename_names"
    kind: str = "rename"

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        found = tokens(problem.prompt)
        places = _people(found)
        if not places:
            return NotApplicable(transform=self.name, reason="no first name that is surely one")
        taken = {base(token.low) for token in found}
        mapping: dict[str, str] = {}
        for old in places:
            pool = _POOLS[GENDERS[old]]
            for at in stream.permutation(len(pool)).tolist():
                if pool[at].lower() not in taken:
                    taken.add(pool[at].lower())
                    mapping[old] = pool[at]
                    break
        edits = []
        for old, new in mapping.items():
            for at in places[old]:
                token = found[at]
                written = new if token.text[0].isupper() else new.lower()
                edits.append(Edit(token.start, token.start + len(old), written))
        stated = {old.capitalize(): new for old, new in mapping.items()}
        return made(problem, edits, kind=self.kind, transform=self.name, mapping=stated)


def _people(found: Sequence[Token]) -> dict[str, list[int]]:
    """Names in order of their first place, with all their places."""
    places: dict[str, list[int]] = defaultdict(list)
    unsure: set[str] = set()
    for at, token in enumerate(found):
        if token.kind != "w":
            continue
        low = base(token.low)
        if low not in GENDERS:
            continue
        places[low].append(at)
        if token.text[0].isupper():
            if _beside_capital(found, at) or token.text.isupper():
                unsure.add(low)
        elif low in _WORDS:
            unsure.add(low)
    upper = {low for low, at in places.items() if any(found[i].text[0].isupper() for i in at)}
    return {low: at for low, at in places.items() if low in upper and low not in unsure}


def _beside_capital(found: Sequence[Token], at: int) -> bool:
    """Whether the name is part of a longer one: "Harry Potter", "St. Paul", "Lake Victoria", "Anna-Maria"."""
    before = found[at - 1] if at else None
    after = found[at + 1] if at + 1 < len(found) else None
    if after is not None and after.kind == "w" and after.text[0].isupper() and after.text != "I":
        return True
    if after is not None and after.text in "-&":
        return True
    if before is None:
        return False
    if before.text == "." and at > 1 and found[at - 2].low in ("mr", "mrs", "ms", "dr", "st"):
        return True
    return before.text == "-" or (
        before.kind == "w" and before.text[0].isupper() and before.low not in FUNCTION and before.low not in RELATIONS
    )
