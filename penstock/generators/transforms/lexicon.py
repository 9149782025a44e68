"""Phrases that may stand for each other in a question, and where.

A line is ``old = new`` with an optional guard: the words one of which must stand right before (``< the a``) or right
behind (``> to``) the old phrase. Neither side holds a number, a unit or a name.
"""

from __future__ import annotations

from typing import NamedTuple

from penstock.generators.transforms.text import word_set

_PHRASES = """
bought = purchased
buys = purchases
purchased = bought
purchases = buys < he she and who
to buy = to purchase
to purchase = to buy
buying = purchasing
purchasing = buying
in total = altogether
altogether = in total
in all = in total > ? . , and
began = started
begins = starts
starts = begins > to with the at
started = began > to with the at
collected = gathered
collects = gathers
gathered = collected
gathers = collects
collecting = gathering
approximately = roughly
roughly = approximately
kids = children
children = kids
mom = mother
mother = mom < his her their my the
dad = father
father = dad < his her their my the
grandma = grandmother
grandpa = grandfather
store = shop < the a grocery pet toy local book clothing
shop = store < the a grocery pet toy local book clothing
large = big < a the
big = large < a the
huge = enormous < a the
delicious = tasty
beautiful = lovely
wants to = would like to
want to = would like to
wanted to = wished to
decides to = chooses to
decided to = chose to
decide to = choose to
tries to = attempts to
tried to = attempted to
trying to = attempting to
because = since
equally = evenly
evenly = equally
entire = whole
whole = entire < the
nearly = almost
almost = nearly
currently = now > has have had there is are
initially = originally
originally = initially
a lot of = plenty of
lots of = plenty of
assuming = supposing
has to = must
is able to = can
are able to = can
in order to = to
such as = like
for example = for instance
types of = kinds of
kinds of = types of
type of = kind of
movie = film
movies = films
garbage = trash
trash = garbage
gift = present < a the
gifts = presents
lives in = resides in
lived in = resided in
live in = reside in
works as = is employed as
additional = extra
extra = additional
each day = every day
every day = each day
each week = every week
every week = each week
each month = every month
every month = each month
each year = every year
every year = each year
each hour = every hour
every hour = each hour
each night = every night
every night = each night
each morning = every morning
every morning = each morning
each person = every person
each student = every student
each child = every child
each box = every box
each bag = every bag
every box = each box
every bag = each bag
calculate = compute > the how
calculate = determine > the how
compute = calculate > the
determine = calculate > the how
how much money = what amount of money
"""
# "how many apples" asks for the number of apples; "how many more", "how many of" and "how many are" do not go over
NO_NOUN = word_set(
    "more fewer less of are is were was do does did can could will would should has have had in times total percent "
    "other different additional extra left"
)
# "how many years old" and "how many feet taller" ask for no number of years and feet
MEASURED = word_set(
    "old older younger ago long longer short shorter tall taller high higher away apart wide deep later earlier more "
    "less fewer from before after faster slower heavier lighter"
)


class Phrase(NamedTuple):
    """A phrase as folded words, what may stand for it, and the words one of which must be its neighbour."""

    words: tuple[str, ...]
    new: str
    before: frozenset[str]
    behind: frozenset[str]


def _read() -> dict[str, list[Phrase]]:
    """Phrases by their first word, longest first."""
    found: dict[str, list[Phrase]] = {}
    for line in _PHRASES.strip().splitlines():
        old, _, rest = line.partition(" = ")
        rest, _, behind = rest.partition(" > ")
        new, _, before = rest.partition(" < ")
        words = tuple(old.split())
        found.setdefault(words[0], []).append(Phrase(words, new, frozenset(before.split()), frozenset(behind.split())))
    for phrases in found.values():
        phrases.sort(key=lambda phrase: -len(phrase.words))
    return found


PHRASES = _read()
