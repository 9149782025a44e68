"""Which tokens may follow which, so that the whole is how the tokenizer begins to encode some text.

A sequence of tokens is *valid* when it is the beginning of the encoding of a text. Three things decide that: where the
pre-tokenizer may cut (``pretokens``), what segments a pretoken (``byte_pairs``, ``longest_prefix``), and that what is
begun can be finished: half a character whose other half would always be merged with it can not be followed by anything.

A *context* is what is left of a sequence for that: the pretokenizer's state for each segment it may be in, which are
two when the last token may have begun a pretoken or gone on with one. Contexts are numbers.

Price: some 10 ms for the first context in a state of the pre-tokenizer, then some 100 us a context of 50,000 tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.tokenization.bytelevel.pretokens import DEAD, PLAIN, PretokenStates
from penstock.tokenization.bytelevel.vocabulary import Vocabulary

_STEPS = 1 << 18
_KEPT = 512  # contexts whose allowed tokens are kept; 50 KB each with 50,000 tokens


class Segmentation(Protocol):
    """How a pretoken becomes tokens; tokens are places, segments numbers."""

    first: NDArray[np.bool_]  # may begin a pretoken
    doubtful: NDArray[np.bool_]  # may leave a pretoken that cannot end yet
    forgets: bool  # what may follow depends on the last token alone, but for doubtful ones

    def begin(self, token: int) -> int: ...
    def extend(self, segment: int, token: int) -> int: ...
    def inner(self, segment: int) -> NDArray[np.bool_]: ...
    def may_end(self, segment: int) -> bool: ...
    def may_go_on(self, segment: int) -> bool: ...


# (segment, state of the pre-tokenizer); -1 is the segment before a text
_Context = tuple[tuple[int, int], ...]
_BEFORE = -1


class Validity:
    """Contexts of a tokenizer; ``start`` is the empty one.

    Args:
        vocabulary: the tokens.
        segmentation: of pretokens.
        states: of the pre-tokenizer.
        front: bytes that every text begins with, but for the empty one.
        kinds: how the pre-tokenizer reads each place: PLAIN, FALLBACK or ADDED of ``pretokens``: (V,).
    """

    start = 0

    def __init__(
        self,
        vocabulary: Vocabulary,
        segmentation: Segmentation,
        states: PretokenStates,
        kinds: NDArray[np.int64],
        *,
        front: bytes = b"",
    ) -> None:
        self.vocabulary = vocabulary
        self.segmentation = segmentation
        self._states = states
        self._kinds = kinds.tolist()
        # no encoding cuts what stands in front, which is one byte at most
        self._opening = np.array([token.startswith(front) for token in vocabulary.tokens])
        self._special = np.flatnonzero(kinds != PLAIN).tolist()
        self._front = front
        self._contexts: list[_Context] = []
        self._numbers: dict[tuple[_Context, bool], int] = {}
        self._bare: set[int] = set()  # contexts of what stands in front and nothing else, which is no text
        self.allowed = functools.lru_cache(maxsize=_KEPT)(self._allowed)
        self.step = functools.lru_cache(maxsize=_STEPS)(self._step)
        self._finished = functools.lru_cache(maxsize=_KEPT)(self._finished_from)
        self._alive: dict[int, bool] = {}
        self._number([(_BEFORE, states.start)])
        firsts = np.array([token[0] for token in vocabulary.tokens])
        self._continuations = range(*np.searchsorted(firsts, [0x80, 0xC0]).tolist())

    def _number(self, parts: list[tuple[int, int]], *, bare: bool = False) -> int:
        """The context of these parts; those of one segment are put together."""
        joined: dict[int, int] = {}
        for segment, state in parts:
            joined[segment] = self._states.union(joined.get(segment, DEAD), state)
        key = tuple(sorted(joined.items()))
        number = self._numbers.get((key, bare))
        if number is None:
            number = self._numbers[key, bare] = len(self._contexts)
            self._contexts.append(key)
            if bare:
                self._bare.add(number)
        return number

    # ── one token ────────────────────────────────────────────────────────────────────────────────

    def _step(self, context: int, token: int) -> int:
        """The context after one more token; -1 where it may not follow."""
        parts = self._steps(context, token)
        if not parts:
            return DEAD
        number = self._number(parts, bare=context == self.start and self.vocabulary.tokens[token] == self._front)
        return number if self.alive(number) else DEAD

    def _steps(self, context: int, token: int) -> list[tuple[int, int]]:
        out = []
        segmentation = self.segmentation
        for segment, state in self._contexts[context]:
            before = segment == _BEFORE
            if before and not self._opening[token]:
                continue
            if not before and segmentation.may_go_on(segment):
                after = self._read(state, token)
                if after != DEAD:
                    extended = segmentation.extend(segment, token)
                    if extended >= 0:
                        out.append((extended, after))
            if segmentation.first[token] and (before or segmentation.may_end(segment)):
                after = self._read(self._states.opened(state), token)
                if after != DEAD:
                    out.append((segmentation.begin(token), after))
        return out

    def _read(self, state: int, token: int) -> int:
        kind = self._kinds[token]
        for byte in self.vocabulary.tokens[token]:
            state = self._states.step(state, kind + byte)
            if state == DEAD:
                break
        return state

    def may_stop(self, context: int) -> bool:
        """Whether the text may be over here: the tokens so far are its encoding."""
        return context not in self._bare and any(
            self._states.may_end(state) and (segment == _BEFORE or self.segmentation.may_end(segment))
            for segment, state in self._contexts[context]
        )

    def alive(self, context: int) -> bool:
        """Whether some text is encoded so far like this; only one that ends inside a character, or owes, may not be."""
        found = self._alive.get(context)
        if found is not None:
            return found
        # depth first; what is not known to be alive yet is not looked at twice, as a path to an end needs no circle
        if self.may_stop(context):
            self._alive[context] = True
            return True
        trail, seen = [(context, iter(self._candidates(context)))], {context}
        while trail:
            _, candidates = trail[-1]
            for token in candidates:
                parts = self._steps(trail[-1][0], token)
                if not parts:
                    continue
                number = self._number(parts)
                if self.may_stop(number) or self._alive.get(number, False):
                    for one, _ in trail:
                        self._alive[one] = True
                    return True
                if number not in seen and number not in self._alive:
                    seen.add(number)
                    trail.append((number, iter(self._candidates(number))))
                    break
            else:
                trail.pop()
        for one in seen:
            self._alive[one] = False
        return False

    def _candidates(self, context: int) -> Sequence[int]:
        """Tokens among which all that may follow are."""
        if all(self._states.inside(state) for _, state in self._contexts[context]):
            return self._continuations  # few, so looking at each is cheaper than looking at all
        able = [tokens for tokens, _ in self._able(context)]
        return np.flatnonzero(np.logical_or.reduce(able)).tolist() if able else ()  # type: ignore[no-any-return]

    # ── all tokens ───────────────────────────────────────────────────────────────────────────────

    def _walks(self, state: int) -> NDArray[np.int32]:
        found = self._states.walk(state, self.vocabulary)
        if not self._special:
            return found
        found = found.copy()
        for place in self._special:
            found[place] = self._read(state, place)
        return found

    def _able(self, context: int) -> Iterator[tuple[NDArray[np.bool_], int]]:
        """For each way to read on: tokens that may follow if they can be finished, (V,), and the state before them."""
        segmentation = self.segmentation
        for segment, state in self._contexts[context]:
            before = segment == _BEFORE
            if not before and segmentation.may_go_on(segment):
                yield (self._walks(state) >= 0) & segmentation.inner(segment), state
            opened = self._states.opened(state)
            if opened != DEAD and (before or segmentation.may_end(segment)):
                able = (self._walks(opened) >= 0) & segmentation.first
                yield (able & self._opening if before else able), opened

    def _finished_from(self, state: int) -> NDArray[np.bool_]:
        """Tokens read from a state of which it is sure that the text may end after them or be finished: (V,)."""
        segmentation = self.segmentation
        after = self._walks(state)
        read = (after >= 0) & ~segmentation.doubtful
        out = read & self._states.ends[after]
        if segmentation.forgets:
            for token in np.flatnonzero(read & ~out & segmentation.first).tolist():
                out[token] = self.alive(self._number([(segmentation.begin(token), int(after[token]))]))
        return out

    def _allowed(self, context: int) -> NDArray[np.bool_]:
        """Tokens that may follow: (V,)."""
        allowed = np.zeros(self.vocabulary.size, dtype=bool)
        finished = np.zeros(self.vocabulary.size, dtype=bool)
        for able, state in self._able(context):
            allowed |= able
            finished |= able & self._finished(state)
        # the others depend on more than the token
        asked = allowed & ~finished
        if self.segmentation.forgets:
            asked &= self.segmentation.doubtful
        for token in np.flatnonzero(asked).tolist():
            finished[token] = self.step(context, token) != DEAD
        finished.setflags(write=False)
        return finished
