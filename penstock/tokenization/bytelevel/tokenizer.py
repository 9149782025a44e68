"""A tokenizer as bytes: its vocabulary in byte order, which tokens may follow which, and its own encoding.

    tokenizer = ByteTokenizer.of("models/qwen/tokenizer.json")
    tokenizer.encode(b"some text")            # ids, special tokens read as text
    tokenizer.validity.allowed(tokenizer.validity.start)

Price: one to three seconds, most of it for the classes of characters; contexts are found as they are met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InputError
from penstock.tokenization.bytelevel.byte_pairs import BytePairs
from penstock.tokenization.bytelevel.characters import CODE_POINTS, Classes, digits, members, punctuation
from penstock.tokenization.bytelevel.longest_prefix import LongestPrefix
from penstock.tokenization.bytelevel.patterns import Program, compile_pattern, compile_set
from penstock.tokenization.bytelevel.pretokens import ADDED, FALLBACK, PLAIN, PretokenStates, Splitter
from penstock.tokenization.bytelevel.reading import SPACE, Stage, TokenizerRules, backend, escaped, read_rules
from penstock.tokenization.bytelevel.validity import Segmentation, Validity
from penstock.tokenization.bytelevel.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class ByteTokenizer:
    """What next-byte probabilities need of a tokenizer.

    Attributes:
        rules: as its file says.
        vocabulary: ordinary and added tokens; special ones spell no text.
        validity: of sequences of them.
        front: bytes that stand before every text and that decoding takes away: a space, or none.
        before: ids that it puts before every text, such as that of a beginning.
    """

    rules: TokenizerRules
    vocabulary: Vocabulary
    validity: Validity
    front: bytes
    before: tuple[int, ...]
    _backend: Any

    @classmethod
    def of(cls, tokenizer: Any) -> ByteTokenizer:
        """From the path of a ``tokenizer.json``, a ``tokenizers.Tokenizer`` or a fast tokenizer of transformers.

        Raises:
            ConfigError: it cannot be followed byte by byte; the message names what in it.
        """
        from tokenizers import Tokenizer

        given = backend(tokenizer)
        rules = read_rules(given)
        tokens = dict(rules.tokens) | {number: text.encode() for text, number in rules.added.items()}
        vocabulary = Vocabulary.of(list(tokens), list(tokens.values()))
        added = np.isin(vocabulary.ids, list(rules.added.values()))
        kinds = np.where(added, ADDED, PLAIN)
        kinds[np.isin(vocabulary.ids, list(rules.fallback))] = FALLBACK
        front = b" " if rules.space_in_front else b""
        validity = Validity(vocabulary, _segmentation(rules, vocabulary, added), _states(rules), kinds, front=front)
        own = Tokenizer.from_str(given.to_str())  # its settings are changed here
        own.no_truncation()
        own.no_padding()
        plain, whole = (own.encode("a", add_special_tokens=added).ids for added in (False, True))
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        return cls(rules, vocabulary, validity, front, tuple(whole[:at]), own)

    def encode(self, text: bytes | str, *, special: bool = False) -> list[int]:
        """The tokenizer's own encoding, without tokens around it.

        Args:
            special: whether text that spells a special token is that token.

        Raises:
            InputError: the bytes are not UTF-8.
        """
        if not isinstance(text, str):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"text: byte {error.start} is not UTF-8, which no tokenizer encodes; give whole characters"
                ) from error
        self._backend.encode_special_tokens = not special
        return list(self._backend.encode(text, add_special_tokens=False).ids)


def _segmentation(rules: TokenizerRules, vocabulary: Vocabulary, added: NDArray[np.bool_]) -> Segmentation:
    if rules.merges is None:
        goes_on = np.isin(vocabulary.ids, list(rules.continuing))
        return LongestPrefix(vocabulary, goes_on if rules.continuing else None, alone=added)
    places = {number: place for place, number in enumerate(vocabulary.ids.tolist())}
    usable = [number in rules.tokens for number in vocabulary.ids.tolist()]
    if rules.characters:
        # an atom is the token of a character; a byte of fallback is one of its own, that no merge names
        atom = {
            token.decode(): places[number]
            for number, token in rules.tokens.items()
            if number not in rules.fallback and len(token.decode()) == 1
        }
        atoms = [
            [place] if number in rules.fallback else [atom.get(c, -1) for c in token.decode()] if use else []
            for place, (number, token, use) in enumerate(
                zip(vocabulary.ids.tolist(), vocabulary.tokens, usable, strict=True)
            )
        ]
        atoms = [[] if -1 in token else token for token in atoms]
    else:
        single = {token[0]: places[number] for number, token in rules.tokens.items() if len(token) == 1}
        atoms = [
            [single[byte] for byte in token] if use and all(byte in single for byte in token) else []
            for token, use in zip(vocabulary.tokens, usable, strict=True)
        ]
    merges = np.array([[places[number] for number in merge] for merge in rules.merges], dtype=np.int64)
    return BytePairs(vocabulary, atoms, merges.reshape(-1, 3), ignore_merges=rules.ignore_merges, alone=added)


def _states(rules: TokenizerRules) -> PretokenStates:
    programs: list[tuple[Program | None, list[NDArray[np.bool_]], str]] = []
    if rules.added:
        # of those that begin at one place the longest is taken
        texts = sorted(rules.added, key=len, reverse=True)
        programs.append(_compiled("|".join(map(escaped, texts)), "isolated"))
    programs += [_program(stage) for stage in rules.stages]
    if not programs:
        programs.append((None, [], "isolated"))
    alphabet = np.zeros(CODE_POINTS, dtype=bool)
    if rules.characters:
        spelled = (token.decode() for number, token in rules.tokens.items() if number not in rules.fallback)
        alphabet[[ord(text) for text in spelled if len(text) == 1]] = True
    sets = [held.copy() for _, held_by, _ in programs for held in held_by]
    if rules.spaces_are_marks:
        # stages see the mark where texts have a space; added tokens are cut out before
        for held in sets[len(programs[0][1]) if rules.added else 0 :]:
            held[ord(" ")] = held[ord(SPACE)]
    classes = Classes.by([*sets, alphabet], absent=[ord(SPACE)] if rules.spaces_are_marks else [])
    splitters, used = [], 0
    for program, held_by, behaviour in programs:
        splitters.append(Splitter(program, classes.sets[used : used + len(held_by)], behaviour))
        used += len(held_by)
    everything = np.ones(CODE_POINTS, dtype=bool)
    plain, fallback = (alphabet, ~alphabet) if rules.characters else (everything, ~everything)
    return PretokenStates(splitters, classes, plain, fallback, added=bool(rules.added))


def _compiled(pattern: str, behaviour: str) -> tuple[Program, list[NDArray[np.bool_]], str]:
    program = compile_pattern(pattern)
    return program, [members(text) for text in program.sets], behaviour


def _program(stage: Stage) -> tuple[Program, list[NDArray[np.bool_]], str]:
    if stage.kind == "pattern":
        return _compiled(stage.text, stage.behaviour)
    held = digits() if stage.kind == "digits" else punctuation()
    return compile_set(stage.kind), [held], stage.behaviour
