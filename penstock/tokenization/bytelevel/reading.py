"""What a ``tokenizer.json`` says about bytes: tokens as bytes, merges, the stages of its pre-tokenizer.

Two alphabets are known. *Byte-level* (GPT-2, Llama 3, Qwen): a token is written in 256 printable characters, one for
each byte. *Characters with byte fallback* (SentencePiece as in Llama 2 and Mistral): a token is text in which U+2581
stands for a space, and 256 tokens ``<0xNN>`` spell characters that no token has.

Tokenizers that give two texts the same tokens cannot be followed and are refused by the name of what does it:
normalisers that lose bytes, pre-tokenizers that drop characters, a space put in front of some texts only. NFC is let
through, since texts are in it but for a few: bytes are taken as they are, and text that is not in NFC is read as
the model would never see it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from penstock.errors import ConfigError

SPACE = "▁"  # U+2581, which SentencePiece writes for a space


@dataclass(frozen=True)
class Stage:
    """One stage of a pre-tokenizer: what it matches, and how pieces are cut at the matches.

    Attributes:
        kind: the pattern ``text``, or a digit, or a punctuation mark.
        behaviour: one of ``pretokens.CUTS``.
    """

    kind: Literal["pattern", "digits", "punctuation"]
    behaviour: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenizerRules:
    """A tokenizer as far as bytes are concerned.

    Attributes:
        tokens: bytes of each ordinary token by id; special and other added tokens are not among them.
        continuing: ids of tokens that only go on with a pretoken (WordPiece's ``##``).
        fallback: ids of tokens that spell one byte of a character that no other token has, with the byte.
        characters: whether tokens consist of characters rather than of bytes.
        merges: (left, right, made) ids in order of rank; None for greedy longest prefixes.
        ignore_merges: whether a pretoken that is a token becomes it before any merge.
        stages: of the pre-tokenizer, the first first.
        added: added tokens that are not special, by content: they are cut out of any text.
        special: ids of special tokens by content.
        space_in_front: whether a space is put in front of every text, which decoding takes away.
        spaces_are_marks: whether U+2581 stands for a space, so that it has no token of its own.
    """

    tokens: Mapping[int, bytes]
    continuing: frozenset[int] = frozenset()
    fallback: Mapping[int, int] = field(default_factory=dict)
    characters: bool = False
    merges: tuple[tuple[int, int, int], ...] | None = None
    ignore_merges: bool = False
    stages: tuple[Stage, ...] = ()
    added: Mapping[str, int] = field(default_factory=dict)
    special: Mapping[str, int] = field(default_factory=dict)
    space_in_front: bool = False
    spaces_are_marks: bool = False


def backend(tokenizer: Any) -> Any:
    """The ``tokenizers.Tokenizer`` of a path, of itself or of a transformers tokenizer.

    Raises:
        ConfigError: there is none.
    """
    from tokenizers import Tokenizer

    if isinstance(tokenizer, (str, Path)):
        path = Path(tokenizer)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise ConfigError(
                f"tokenizer: {path} cannot be read ({error}); give the path of a tokenizer.json, or its folder"
            ) from error
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    found = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(found, Tokenizer):
        return found
    raise ConfigError(
        f"tokenizer: got {type(tokenizer).__name__}, allowed the path of a tokenizer.json, a tokenizers.Tokenizer or a "
        "fast tokenizer of transformers"
    )


def read_rules(tokenizer: Any) -> TokenizerRules:
    """The rules of a ``tokenizers.Tokenizer``.

    Raises:
        ConfigError: something in it cannot be followed byte by byte; its name is given.
    """
    return _Reader(json.loads(tokenizer.to_str())).rules()


def refuse(what: str, why: str) -> NoReturn:
    raise ConfigError(
        f"tokenizer: {what} {why}, so its next-byte probabilities cannot be had; allowed are byte-level BPE, BPE of "
        "characters with byte fallback, and byte-level greedy longest prefixes, without a normaliser that loses bytes"
    )


class _Reader:
    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.model: dict[str, Any] = state["model"]
        self.space_in_front = False
        self.marks = False
        self.byte_level = False
        self.stages: list[Stage] = []

    def rules(self) -> TokenizerRules:
        kind = self.model.get("type") or ("BPE" if "merges" in self.model else "?")
        if kind not in ("BPE", "WordPiece"):
            refuse(f"its model {kind}", _WHY.get(kind, "is none that is known"))
        self._normaliser(self.state.get("normalizer"))
        self._pre_tokenizer(self.state.get("pre_tokenizer"))
        added = {token["content"]: token for token in self.state.get("added_tokens") or ()}
        # a special token that merges make of text is an ordinary one as well
        made = {"".join(_parts(merge)) for merge in self.model.get("merges", ())}
        plain = {text for text in self.model["vocab"] if text not in added or (added[text]["special"] and text in made)}
        vocabulary = {text: int(number) for text, number in self.model["vocab"].items() if text in plain}
        special = {text: int(token["id"]) for text, token in added.items() if token["special"]}
        other = {text: token for text, token in added.items() if not token["special"]}
        for text, token in other.items():
            for name in ("single_word", "lstrip", "rstrip"):
                if token.get(name):
                    refuse(f"its added token {text!r} with {name}", "depends on what is around it")
        common: dict[str, Any] = {
            "stages": tuple(self.stages),
            "added": {text: int(token["id"]) for text, token in other.items()},
            "special": special,
            "space_in_front": self.space_in_front,
            "spaces_are_marks": self.marks,
        }
        if kind == "WordPiece":
            return self._word_piece(vocabulary, common)
        if self.model.get("dropout"):
            refuse("its BPE dropout", "makes encodings random")
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(name):
                refuse(f"its {name}", "is not followed")
        if self.byte_level:
            return self._bytes(vocabulary, common)
        if self.model.get("byte_fallback"):
            if other and self.space_in_front:
                refuse(f"its added token {next(iter(other))!r} beside a space in front", "is not followed")
            return self._characters(vocabulary, common)
        refuse("a BPE without a byte-level pre-tokenizer or byte fallback", "has no byte alphabet")

    # ── models ───────────────────────────────────────────────────────────────────────────────────

    def _bytes(self, vocabulary: dict[str, int], common: dict[str, Any]) -> TokenizerRules:
        tokens = {}
        for text, number in vocabulary.items():
            if text and all(character in BYTE_OF for character in text):
                tokens[number] = bytes(BYTE_OF[character] for character in text)
        present = {token[0] for token in tokens.values() if len(token) == 1}
        # F5 to FF, C0 and C1 never occur in UTF-8
        missing = [byte for byte in range(0xF5) if byte not in present and byte not in (0xC0, 0xC1)]
        if missing:
            refuse(
                f"its vocabulary without the byte{'s' * (len(missing) > 1)} {bytes(missing[:8]).hex(' ')}",
                "cannot spell every text",
            )
        return TokenizerRules(
            tokens=tokens,
            merges=self._merges(vocabulary, tokens),
            ignore_merges=bool(self.model.get("ignore_merges")),
            **common,
        )

    def _characters(self, vocabulary: dict[str, int], common: dict[str, Any]) -> TokenizerRules:
        whole = self.model["vocab"]
        fallback = {}
        for byte in range(256):
            number = whole.get(f"<0x{byte:02X}>")
            if number is None:
                refuse(f"its vocabulary without <0x{byte:02X}>", "cannot spell every text")
            fallback[int(number)] = byte
        tokens = {number: bytes([byte]) for number, byte in fallback.items()}
        for text, number in vocabulary.items():
            # where spaces are written as marks, none is left for a token that holds one
            if number not in fallback and text and not (self.marks and " " in text):
                tokens[number] = (text.replace(SPACE, " ") if self.marks else text).encode()
        return TokenizerRules(
            tokens=tokens,
            fallback=fallback,
            characters=True,
            merges=self._merges(vocabulary, tokens),
            ignore_merges=bool(self.model.get("ignore_merges")),
            **common,
        )

    def _merges(self, vocabulary: dict[str, int], tokens: dict[int, bytes]) -> tuple[tuple[int, int, int], ...]:
        whole = self.model["vocab"]
        out = []
        for merge in self.model["merges"]:
            left, right = _parts(merge)
            numbers = whole.get(left), whole.get(right), whole.get(left + right)
            if None in numbers:
                refuse(f"its merge of {left!r} and {right!r}", "names a token that is not in its vocabulary")
            if all(number in tokens for number in numbers):
                out.append(numbers)
        return tuple(out)

    def _word_piece(self, vocabulary: dict[str, int], common: dict[str, Any]) -> TokenizerRules:
        if not self.byte_level:
            refuse("a WordPiece model without a byte-level pre-tokenizer", "has no byte alphabet")
        prefix = self.model.get("continuing_subword_prefix") or ""
        tokens, continuing = {}, set()
        for text, number in vocabulary.items():
            goes_on = bool(prefix) and text.startswith(prefix)
            spelled = text[len(prefix) :] if goes_on else text
            if spelled and all(character in BYTE_OF for character in spelled):
                tokens[number] = bytes(BYTE_OF[character] for character in spelled)
                continuing.update([number] * goes_on)
        for kind in (False, True) if prefix else (False,):
            present = {t[0] for n, t in tokens.items() if len(t) == 1 and (n in continuing) == kind}
            if any(byte not in present for byte in range(0xF5) if byte not in (0xC0, 0xC1)):
                refuse("its vocabulary without all bytes", "cannot spell every text")
        return TokenizerRules(tokens=tokens, continuing=frozenset(continuing), **common)

    # ── normaliser, pre-tokenizer ────────────────────────────────────────────────────────────────

    def _normaliser(self, given: dict[str, Any] | None) -> None:
        for one in _flat(given, "normalizers"):
            kind = one["type"]
            if kind == "NFC":
                continue
            if kind == "Prepend" and one["prepend"] == SPACE:
                self.space_in_front = True
            elif kind == "Replace" and one["pattern"] == {"String": " "} and one["content"] == SPACE:
                self.marks = True
            else:
                refuse(f"its normaliser {kind}", "loses bytes: it gives different texts the same tokens")
        if self.space_in_front and not self.marks:
            refuse("its normaliser Prepend", "puts a mark in front of texts that is no space")

    def _pre_tokenizer(self, given: dict[str, Any] | None) -> None:
        for one in _flat(given, "pretokenizers"):
            kind = one["type"]
            if self.byte_level:
                refuse(f"its pre-tokenizer {kind} behind ByteLevel", "cuts between the bytes of a character")
            if kind == "ByteLevel":
                self.byte_level = True
                if one.get("add_prefix_space", True):
                    refuse(
                        "its pre-tokenizer ByteLevel with add_prefix_space",
                        "puts a space in front of some texts only, so that texts with and without it are the same",
                    )
                if one.get("use_regex", True):
                    self.stages.append(Stage("pattern", "isolated", GPT2_PATTERN))
            elif kind == "Split":
                self._split(one)
            elif kind == "Digits":
                single = one.get("individual_digits", False)
                self.stages.append(Stage("digits", "isolated" if single else "contiguous"))
            elif kind == "Punctuation":
                self.stages.append(Stage("punctuation", self._behaviour(one.get("behavior", "Isolated"), kind)))
            elif kind == "Metaspace":
                self._metaspace(one)
            else:
                refuse(f"its pre-tokenizer {kind}", _WHY.get(kind, "is not followed"))
        if self.byte_level and self.marks:
            refuse("its byte-level pre-tokenizer behind a normaliser that replaces spaces", "is not followed")

    def _split(self, one: dict[str, Any]) -> None:
        pattern = one["pattern"]
        text = pattern["Regex"] if "Regex" in pattern else escaped(pattern["String"])
        behaviour = self._behaviour(one["behavior"], "Split")
        if one.get("invert", False):
            # what is between the matches is what counts as one
            behaviour = {"merged_with_previous": "merged_with_next", "merged_with_next": "merged_with_previous"}.get(
                behaviour, behaviour
            )
        self.stages.append(Stage("pattern", behaviour, text))

    def _behaviour(self, name: str, kind: str) -> str:
        words = {
            "Isolated": "isolated",
            "Contiguous": "contiguous",
            "MergedWithPrevious": "merged_with_previous",
            "MergedWithNext": "merged_with_next",
        }
        if name not in words:
            refuse(f"its pre-tokenizer {kind} with behavior {name}", "drops characters")
        return words[name]

    def _metaspace(self, one: dict[str, Any]) -> None:
        if one.get("replacement", SPACE) != SPACE:
            refuse("its pre-tokenizer Metaspace with another mark", "is not followed")
        self.marks = True
        if one.get("prepend_scheme", "always") != "never":
            self.space_in_front = True
        if one.get("split", True):
            self.stages.append(Stage("pattern", "merged_with_next", SPACE))


def _parts(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _flat(given: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    if given is None:
        return []
    if given["type"] == "Sequence":
        return [one for part in given[inside] for one in _flat(part, inside)]
    return [given]


def escaped(text: str) -> str:
    """A pattern that matches a text."""
    return "".join("\\" + c if c in "\\.^$*+?{}[]()|" else c for c in text)


_WHY = {
    "Unigram": "chooses among all segmentations of a text at once, so that no token is certain before its end",
    "WordLevel": "has no byte alphabet",
    "Whitespace": "drops spaces",
    "WhitespaceSplit": "drops spaces",
    "BertPreTokenizer": "drops spaces",
    "CharDelimiterSplit": "drops its delimiter",
    "UnicodeScripts": "is not followed",
    "FixedLength": "is not followed",
}

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _byte_characters() -> dict[str, int]:
    """The printable character that GPT-2 writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_characters()
