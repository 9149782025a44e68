"""Where a pre-tokenizer may cut a text whose end is not known yet.

A pre-tokenizer decides by what comes later: in ``a   b`` the last space goes with ``b``, in ``a   `` all three stay
together; ``don'`` may become ``don`` and ``'t``; groups of three digits counted from the right move with every digit.
So at any moment there are a few *hypotheses*. One consists, for each stage of the pre-tokenizer, of the match in
progress (the open ways of its pattern in their order of preference) and of *obligations*: programs that the text to
come has to match, or must not match, for the cuts assumed so far to be right. A cut at a match that is not the
preferred one owes that no way before it ever matches; a look-ahead is assumed to hold or not to, and owes that. A
character moves everything on; a hypothesis whose obligation fails is gone, and so is one that no continuation can
fulfil. This is exact, and looks ahead by as much as the pattern does.

``PretokenStates`` makes a deterministic automaton over bytes of it, one state for a set of hypotheses and an unfinished
character, built as texts and tokens are met.

Price: some 100 us for a transition that is new, a look-up afterwards. Patterns in use have some hundred states.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.tokenization.bytelevel.characters import NOWHERE, Classes, Utf8
from penstock.tokenization.bytelevel.patterns import Program
from penstock.tokenization.bytelevel.vocabulary import Vocabulary

DEAD = -1
_UNKNOWN = -2
PLAIN, FALLBACK, ADDED = 0, 256, 512  # a byte counts from here, by the kind of its token
_WIDTH = 768
_GAP, _MATCH = 0, 1
_KEPT = 256  # states whose walk over the vocabulary is kept
# whether a cut is made between two units, by what they are: gap-gap, gap-match, match-gap, match-match
CUTS = {
    "isolated": (False, True, True, True),
    "contiguous": (False, True, True, False),
    "merged_with_previous": (False, False, True, True),
    "merged_with_next": (False, True, False, True),
}

# (sign, ways): a program whose open ways have to match (True) or must not match (False)
_Obligation = tuple[bool, frozenset[int]]
_Obligations = frozenset[_Obligation]
# ways in order of preference, whether one behind them has matched, obligations
_Closed = tuple[tuple[int, ...], bool, _Obligations]
# kind of the unit in progress, its ways that could still be preferred, whether it may end here, obligations
_Unit = tuple[int, tuple[int, ...], bool, _Obligations]
_NONE: _Obligations = frozenset()


class Splitter:
    """One stage: a pattern, and what is cut at its matches and at the gaps between them.

    Args:
        program: None is a stage that cuts nothing.
        sets: for each set of the program, whether it holds each class: (number of sets, C).
        behaviour: one of ``CUTS``.

    Raises:
        ConfigError: the pattern matches where there is nothing.
    """

    def __init__(self, program: Program | None, sets: NDArray[np.bool_], behaviour: str) -> None:
        self._program = program
        self._sets = sets.tolist()
        self._cuts = CUTS[behaviour]
        # the methods below depend on their arguments alone
        self._close = functools.cache(self._close_ways)
        self._oblige = functools.cache(self._oblige_ways)
        self._follow = functools.cache(self._follow_obligations)
        self.begin = functools.cache(self._begin)
        self.advance = functools.cache(self._advance)
        if program is not None and any(matched for _, matched, _ in self._close((program.start,))):
            raise ConfigError(
                "tokenizer: its pre-tokenizer's pattern matches the empty text, which next-byte probabilities cannot "
                "follow; allowed is a pattern that takes at least one character"
            )

    def _close_ways(self, ways: tuple[int, ...]) -> tuple[_Closed, ...]:
        """What is open at ``ways`` before the next character, for each outcome of the look-aheads on the way."""
        assert self._program is not None
        nodes = self._program.nodes
        out: list[_Closed] = []

        def go(stack: list[int], seen: set[int], leaves: list[int], owed: _Obligations) -> None:
            while stack:
                at = stack.pop()
                if at in seen:
                    continue
                seen.add(at)
                node = nodes[at]
                if node.op == "match":
                    out.append((tuple(leaves), True, owed))
                    return
                if node.op == "take":
                    leaves.append(at)
                elif node.op == "fork":
                    stack.extend(reversed(node.to))
                else:
                    for holds in (True, False):
                        for more in self._oblige(node.sign == holds, (node.what,)):
                            both = _joined(owed, more)
                            if both is not None:
                                go([*stack, *node.to] if holds else [*stack], set(seen), list(leaves), both)
                    return
            out.append((tuple(leaves), False, owed))

        go(list(reversed(ways)), set(), [], _NONE)
        return tuple(dict.fromkeys(out))

    def _oblige_ways(self, sign: bool, ways: tuple[int, ...]) -> tuple[_Obligations, ...]:
        """What is owed when a program at ``ways`` has to match, or must not; nothing at all when that is impossible."""
        out = []
        for leaves, matched, owed in self._close(ways):
            if matched:
                found = owed if sign else None
            elif leaves:
                found = _joined(owed, frozenset([(sign, frozenset(leaves))]))
            else:
                found = None if sign else owed
            if found is not None:
                out.append(found)
        return tuple(dict.fromkeys(out))

    def _taken(self, ways: Iterable[int], kind: int) -> tuple[int, ...]:
        """The ways that take a character of class ``kind``, after it."""
        assert self._program is not None
        nodes = self._program.nodes
        return tuple(nodes[at].to[0] for at in ways if self._sets[nodes[at].what][kind])

    def _follow_obligations(self, owed: _Obligations, kind: int) -> tuple[_Obligations, ...]:
        """What is owed after a character."""
        out: list[_Obligations] = [_NONE]
        for sign, ways in owed:
            after = self._taken(sorted(ways), kind)
            choices = self._oblige(sign, after) if after else (() if sign else (_NONE,))
            out = [both for one in out for other in choices if (both := _joined(one, other)) is not None]
        return tuple(dict.fromkeys(out))

    def _grown(self, ways: tuple[int, ...], owed: _Obligations, kind: int) -> list[_Unit]:
        """A match in progress after a character."""
        after = self._taken(ways, kind)
        if not after:
            return []
        return [
            (_MATCH, leaves, matched, both)
            for one in self._follow(owed, kind)
            for leaves, matched, more in self._close(after)
            if (leaves or matched) and (both := _joined(one, more)) is not None
        ]

    def _begin(self, kind: int) -> tuple[_Unit, ...]:
        """Units that begin with a character."""
        if self._program is None:
            return ((_GAP, (), True, _NONE),)
        out: list[_Unit] = []
        for leaves, _, owed in self._close((self._program.start,)):
            out.extend(self._grown(leaves, owed, kind))
        for owed in self._oblige(False, (self._program.start,)):
            out.extend((_GAP, (), True, after) for after in self._follow(owed, kind))
        return tuple(dict.fromkeys(out))

    def _advance(self, unit: _Unit, kind: int) -> tuple[tuple[bool, _Unit], ...]:
        """(whether there is a cut before it, unit) after one more character."""
        before, ways, matched, owed = unit
        out = [(False, grown) for grown in self._grown(ways, owed, kind)] if ways else []
        if matched:
            # what is preferred to this end must not match
            over = _joined(owed, frozenset([(False, frozenset(ways))])) if ways else owed
            for after in self._follow(over, kind) if over is not None else ():
                for which, leaves, ends, more in self.begin(kind):
                    both = _joined(after, more)
                    if both is not None:
                        out.append((self._cuts[2 * before + which], (which, leaves, ends, both)))
        return tuple(dict.fromkeys(out))

    @staticmethod
    def may_end(unit: _Unit) -> bool:
        """Whether the text may end here."""
        return unit[2] and not any(sign for sign, _ in unit[3])


def _joined(one: _Obligations, other: _Obligations) -> _Obligations | None:
    """Both, or None when they contradict each other."""
    if not one or not other:
        return one or other
    both = one | other
    return None if any((not sign, ways) in both for sign, ways in both) else both


# one unit for each stage, None where it sees nothing; None before the first character
_Hypothesis = tuple[_Unit | None, ...] | None


class PretokenStates:
    """The automaton over bytes. States are numbers; ``start`` is the one before a text.

    A state is between two bytes of a text. Where it is between two characters, it is not decided yet whether there is a
    cut; ``opened(state)`` is the state in which there has to be one, and a step from ``state`` itself makes none.

    Args:
        splitters: at least one.
        classes: of characters.
        plain: characters that tokens of text spell: (0x110000,).
        fallback: characters that tokens of single bytes spell, one token a byte: (0x110000,).
        added: whether the first splitter cuts out added tokens: its matches are spelled by them and by nothing else.
    """

    start = 0

    def __init__(
        self,
        splitters: Sequence[Splitter],
        classes: Classes,
        plain: NDArray[np.bool_],
        fallback: NDArray[np.bool_],
        *,
        added: bool = False,
    ) -> None:
        self._splitters = tuple(splitters)
        everything = np.full_like(plain, added)
        of = [Utf8.of(np.where(held, classes.of, NOWHERE).astype(np.int32)) for held in (plain, fallback, everything)]
        # the automata of the three kinds of token share node 0 and are numbered one after the other
        self._nodes = np.full((sum(len(one.ahead) - 1 for one in of) + 1, _WIDTH), NOWHERE, dtype=np.int32)
        ahead = [0]
        for number, one in enumerate(of):
            shift = len(ahead) - 1
            step = np.where(one.step > 0, one.step + shift, one.step)
            columns = slice(256 * number, 256 * (number + 1))
            self._nodes[0, columns] = step[0]
            self._nodes[shift + 1 : shift + len(one.ahead), columns] = step[1:]
            ahead += one.ahead[1:]
        self._added = added
        self._ahead = tuple(ahead)
        self._kinds = classes.sets.shape[1]
        self._after = functools.cache(self._after_character)
        self._after_kind = functools.cache(self._after_character_of)
        self._lives = functools.cache(self._can_live)
        self._viable = functools.cache(self._viable_kinds)
        self._walked = functools.lru_cache(maxsize=_KEPT)(self._walk)
        # a state: ({(hypothesis, whether there has to be a cut)}, node of the unfinished character)
        self._states: list[tuple[frozenset[tuple[_Hypothesis, bool]], int]] = []
        self._numbers: dict[tuple[frozenset[tuple[_Hypothesis, bool]], int], int] = {}
        self.table = np.full((64, _WIDTH), _UNKNOWN, dtype=np.int32)
        self._ends = np.zeros(64, dtype=bool)
        self._number(frozenset([(None, False)]), 0)

    # ── hypotheses ───────────────────────────────────────────────────────────────────────────────

    def _after_character(self, given: _Hypothesis, kind: int) -> tuple[frozenset[_Hypothesis], frozenset[_Hypothesis]]:
        """Hypotheses after a character of class ``kind``: those without a cut before it, and those with one."""
        kept = [(cut, units) for cut, units in self._moves(given, kind) if self._lives(units)]
        return frozenset(u for cut, u in kept if not cut), frozenset(u for cut, u in kept if cut)

    def _moves(self, given: _Hypothesis, kind: int) -> list[tuple[bool, tuple[_Unit | None, ...]]]:
        found: list[tuple[bool, tuple[_Unit | None, ...]]] = [(False, ())]
        for place, splitter in enumerate(self._splitters):
            unit = None if given is None else given[place]
            following: list[tuple[bool, tuple[_Unit | None, ...]]] = []
            for cut, units in found:
                if not cut and unit is not None:
                    following += [(c, (*units, after)) for c, after in splitter.advance(unit, kind)]
                elif unit is not None and not splitter.may_end(unit):
                    continue  # a cut of an earlier stage ends what this one sees
                elif self._added and units and units[0] is not None and units[0][0] == _MATCH:
                    following.append((cut, (*units, None)))  # later stages do not see added tokens
                else:
                    # a text begins as if there was a cut
                    following += [(True, (*units, after)) for after in splitter.begin(kind)]
            found = following
        return found

    def _ended(self, given: _Hypothesis) -> bool:
        return given is None or all(
            unit is None or splitter.may_end(unit) for splitter, unit in zip(self._splitters, given, strict=True)
        )

    def _can_live(self, given: tuple[_Unit | None, ...]) -> bool:
        """Whether some continuation fulfils what is owed."""
        seen, layer = {given}, [given]
        while layer:
            if any(self._ended(one) for one in layer):
                return True
            following = []
            for one in layer:
                for kind in range(self._kinds):
                    for _, other in self._moves(one, kind):
                        if other not in seen:
                            seen.add(other)
                            following.append(other)
            layer = following
        return False

    def _after_character_of(self, given: _Hypothesis, cut: bool, kind: int, added: bool) -> frozenset[_Hypothesis]:
        """Those of ``_after_character`` in which a token of that kind spells the character."""
        found = self._after(given, kind)[cut]
        if not self._added:
            return found
        return frozenset(one for one in found if one and one[0] and (one[0][0] == _MATCH) == added)

    def _viable_kinds(self, given: _Hypothesis, cut: bool, added: bool) -> int:
        """Classes of the next character, as a bit set, that leave a hypothesis alive."""
        return sum(1 << kind for kind in range(self._kinds) if self._after_kind(given, cut, kind, added))

    # ── states ───────────────────────────────────────────────────────────────────────────────────

    def _number(self, hypotheses: frozenset[tuple[_Hypothesis, bool]], node: int) -> int:
        if not hypotheses:
            return DEAD
        key = (hypotheses, node)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._states)
            self._states.append(key)
            if number == len(self.table):
                self.table = np.concatenate([self.table, np.full_like(self.table, _UNKNOWN)])
                self._ends = np.concatenate([self._ends, np.zeros_like(self._ends)])
            self._ends[number] = node == 0 and any(self._ended(one) for one, cut in hypotheses if not cut)
        return number

    def step(self, state: int, symbol: int) -> int:
        """The state one byte further, without a cut; -1 where no text goes on so.

        A symbol is a byte, counted from ``PLAIN``, ``FALLBACK`` or ``ADDED``.
        """
        if state < 0:
            return DEAD
        known = int(self.table[state, symbol])
        if known != _UNKNOWN:
            return known
        hypotheses, node = self._states[state]
        target = int(self._nodes[node, symbol])
        added = symbol >= ADDED
        if target == NOWHERE:
            found = DEAD
        elif target > 0:
            ahead = self._ahead[target]
            found = self._number(frozenset(one for one in hypotheses if self._viable(*one, added) & ahead), target)
        else:
            kind = -2 - target
            found = self._number(
                frozenset((o, False) for one, cut in hypotheses for o in self._after_kind(one, cut, kind, added)), 0
            )
        self.table[state, symbol] = found
        return found

    def opened(self, state: int) -> int:
        """The state with a cut before the next character; -1 inside a character."""
        hypotheses, node = self._states[state]
        return DEAD if node else self._number(frozenset((one, True) for one, _ in hypotheses), 0)

    def union(self, one: int, other: int) -> int:
        """The state of the hypotheses of both, which have read the same bytes; either may be -1."""
        if one == other or other == DEAD:
            return one
        if one == DEAD:
            return other
        (first, node), (second, _) = self._states[one], self._states[other]
        return self._number(first | second, node)

    def may_end(self, state: int) -> bool:
        """Whether the text may end here."""
        return state >= 0 and bool(self._ends[state])

    def inside(self, state: int) -> bool:
        """Whether a character is unfinished."""
        return self._states[state][1] > 0

    @property
    def ends(self) -> NDArray[np.bool_]:
        """``may_end`` of every state known so far; may be longer than there are states."""
        return self._ends

    def walk(self, state: int, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """The states after each token, without a cut before it or inside; -1 where it cannot stand: (V,).

        All tokens are read as plain ones: the caller knows which are not.
        """
        return self._walked(state, vocabulary)

    def _walk(self, state: int, vocabulary: Vocabulary) -> NDArray[np.int32]:
        from penstock.tokenization.bytelevel._walk_kernels import walk

        labels: Any = np.frombuffer(vocabulary.labels, dtype=np.uint8)
        while True:
            found, missing = walk(self.table, state, vocabulary.parents, labels)
            if not len(missing):
                return found[vocabulary.node_of]  # type: ignore[no-any-return]
            for key in np.unique(missing).tolist():
                self.step(key // _WIDTH, key % _WIDTH)
